//! Neighbour discovery messages that claim a VIP: advertisements of it, and duplicate address detection for it; and the
//! Ethernet addresses in them.

use cluster_common::Verdict;
use cluster_common::frame::{ipv6, nd};

use super::{face, is_ingress_programs};
use crate::Fate;
use crate::checksum::Checksum;
use crate::unsafe_maps::{count, ipv6_face, own_ipv6, valid_lease, vip6};
use crate::unsafe_packet::{Buffered, Unreachable};

/// The unspecified address.
const UNSPECIFIED: [u32; 4] = [0; 4];

/// How many extension headers are looked through: one more than RFC 8200 section 4.1 knows before an upper layer.
const MAX_EXTENSIONS: usize = 6;

/// How a message claims its target.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Claim {
    /// It says that the sender has it.
    Advertisement,
    /// It says that the sender is about to take it, unless somebody has it (RFC 4862 section 5.4).
    Detection,
}

/// Judges the ICMPv6 message behind the IPv6 header at `AT` by the VIP that it claims; `None` if it claims none.
#[inline(always)]
pub(super) fn message<const AT: usize>(
    frame: &mut Buffered<'_>,
    source: [u32; 4],
) -> Result<Option<Fate>, Unreachable> {
    let header = match frame.reach(AT + nd::OPTIONS) {
        Ok(header) => header,
        // It is too short to name a target.
        Err(Unreachable::TooShort) => return Ok(None),
        Err(Unreachable::NoMemory) => return Err(Unreachable::NoMemory),
    };
    let target = header.sixteen(AT + nd::TARGET);
    let Some(claim) = Claim::of(header.one(AT + nd::TYPE), source) else { return Ok(None) };
    let Some(entry) = vip6(target) else { return Ok(None) };
    // An advertisement that answers nobody is an announcement, and so are the kernel's when an address is added. An
    // answer is the ingress program's alone to give.
    let answers = claim == Claim::Advertisement
        && (header.one(AT + nd::FLAGS) & (nd::SOLICITED | nd::OVERRIDE) != nd::OVERRIDE
            || header.sixteen(AT + ipv6::DESTINATION) != ipv6::ALL_NODES.map(u32::to_be));
    if answers && is_ingress_programs(frame, entry.group) {
        return Ok(Some(Fate::Admit));
    }
    if answers || valid_lease(entry.group).is_none() {
        count(entry.group, claim.fenced());
        return Ok(Some(Fate::Drop));
    }
    // It may speak for one VIP with the address of another.
    if source != target
        && let Some(other) = vip6(source)
        && valid_lease(other.group).is_none()
    {
        count(other.group, Verdict::EgressIpv6Fenced);
        return Ok(Some(Fate::Drop));
    }
    let mac = face::worn(frame, ipv6_face(entry.group));
    face::put_on(frame, mac)?;
    if let Some(mac) = mac
        && claim == Claim::Advertisement
    {
        set_options::<AT>(frame, nd::OPTIONS, nd::TARGET_MAC, mac)?;
    }
    count(entry.group, claim.passed());
    Ok(Some(Fate::Admit))
}

/// Whether the ICMPv6 message behind the IPv6 header at `AT` is a solicitation.
#[inline(always)]
pub(super) fn is_solicitation<const AT: usize>(frame: &mut Buffered<'_>) -> Result<bool, Unreachable> {
    match frame.reach(AT + nd::OPTIONS) {
        Ok(header) => Ok(header.one(AT + nd::TYPE) == nd::SOLICITATION),
        Err(Unreachable::TooShort) => Ok(false),
        Err(Unreachable::NoMemory) => Err(Unreachable::NoMemory),
    }
}

/// Makes the node's own address the source of a solicitation; whether it has one.
#[inline(always)]
pub(super) fn rename<const AT: usize>(
    frame: &mut Buffered<'_>,
    source: [u32; 4],
    group: u32,
) -> Result<bool, Unreachable> {
    let Some(own) = own_ipv6(group) else { return Ok(false) };
    let header = frame.reach(AT + nd::OPTIONS)?;
    let checksum = Checksum::changed(header.two(AT + nd::CHECKSUM), source, own);
    header.set_sixteen(AT + ipv6::SOURCE, own);
    header.set_two(AT + nd::CHECKSUM, checksum);
    Ok(true)
}

/// Where the ICMPv6 message behind the IPv6 header at `AT` names its source's Ethernet address, makes it this one.
#[inline(always)]
pub(super) fn name_source<const AT: usize>(
    frame: &mut Buffered<'_>,
    mac: [u16; 3],
) -> Result<(), Unreachable> {
    let kind = match frame.reach(AT + nd::FLAGS) {
        Ok(header) => header.one(AT + nd::TYPE),
        // It is too short to name anything.
        Err(Unreachable::TooShort) => return Ok(()),
        Err(Unreachable::NoMemory) => return Err(Unreachable::NoMemory),
    };
    match kind {
        nd::SOLICITATION => set_options::<AT>(frame, nd::OPTIONS, nd::SOURCE_MAC, mac),
        nd::ROUTER_SOLICITATION => {
            set_options::<AT>(frame, nd::ROUTER_SOLICITATION_OPTIONS, nd::SOURCE_MAC, mac)
        }
        _ => Ok(()),
    }
}

/// Makes the Ethernet address in all options of this kind the given one, and the message's checksum right again. The
/// options begin at `first`; more than [`nd::MAX_OPTION_UNITS`] of them no stack sends.
#[inline(always)]
fn set_options<const AT: usize>(
    frame: &mut Buffered<'_>,
    first: usize,
    kind: u8,
    mac: [u16; 3],
) -> Result<(), Unreachable> {
    let header = frame.reach(AT + nd::FLAGS)?;
    let end = AT + ipv6::LENGTH + usize::from(u16::from_be(header.two(AT + ipv6::PAYLOAD_LENGTH)));
    let before = header.two(AT + nd::CHECKSUM);
    let mut checksum = Checksum::of_message_with(before);
    let mut at = AT + first;
    for _ in 0..nd::MAX_OPTION_UNITS {
        if at + nd::OPTION_UNIT > end {
            break;
        }
        let Some([head, a, b, c]) = frame.load::<[u16; 4]>(at) else { break };
        let [found, units] = head.to_ne_bytes();
        if units == 0 {
            break;
        }
        if found == kind && units == 1 {
            checksum.replace_mac([a, b, c], mac);
            frame.store(at + 2, &mac)?;
        }
        at += usize::from(units) * nd::OPTION_UNIT;
    }
    let after = checksum.value();
    if after != before { frame.store(AT + nd::CHECKSUM, &after) } else { Ok(()) }
}

/// Whether behind extension headers, the first of which begins at `at`, stands a message that claims a VIP. No stack
/// needs to send such a one, so the lease does not matter.
#[inline(always)]
pub(super) fn is_hidden_claim(frame: &mut Buffered<'_>, at: usize, first: u8, source: [u32; 4]) -> bool {
    let (mut at, mut kind) = (at, first);
    for _ in 0..MAX_EXTENSIONS {
        if kind == ipv6::ICMPV6 {
            break;
        }
        let Some([next, length, fragment_high, fragment_low]) = frame.load::<[u8; 4]>(at) else {
            return false;
        };
        at += match kind {
            ipv6::HOP_BY_HOP | ipv6::ROUTING | ipv6::DESTINATION_OPTIONS => (usize::from(length) + 1) * 8,
            ipv6::AUTHENTICATION => (usize::from(length) + 2) * 4,
            // The lowest three bits are no part of the offset (RFC 8200 section 4.5).
            ipv6::FRAGMENT if fragment_high == 0 && fragment_low & 0xf8 == 0 => 8,
            _ => return false,
        };
        kind = next;
    }
    if kind != ipv6::ICMPV6 {
        return false;
    }
    let Some([head, _, a, b, c, d]) = frame.load::<[u32; 6]>(at) else { return false };
    let Some(claim) = Claim::of(head.to_ne_bytes()[0], source) else { return false };
    let Some(entry) = vip6([a, b, c, d]) else { return false };
    count(entry.group, claim.fenced());
    true
}

impl Claim {
    /// The claim of a message of this type and from this source; `None` if it makes none.
    #[inline(always)]
    fn of(kind: u8, source: [u32; 4]) -> Option<Self> {
        match kind {
            nd::ADVERTISEMENT => Some(Self::Advertisement),
            nd::SOLICITATION if source == UNSPECIFIED => Some(Self::Detection),
            _ => None,
        }
    }

    #[inline(always)]
    fn passed(self) -> Verdict {
        match self {
            Self::Advertisement => Verdict::EgressNaPassed,
            Self::Detection => Verdict::EgressDadPassed,
        }
    }

    #[inline(always)]
    fn fenced(self) -> Verdict {
        match self {
            Self::Advertisement => Verdict::EgressNaFenced,
            Self::Detection => Verdict::EgressDadFenced,
        }
    }
}
