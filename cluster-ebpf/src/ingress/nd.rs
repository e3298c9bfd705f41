//! Neighbour solicitations for a VIP, and who else claims one.

use aya_ebpf::programs::XdpContext;
use cluster_common::Verdict;
use cluster_common::frame::{ETHERNET_DESTINATION, ETHERNET_SOURCE, ipv6, nd};
use cluster_common::maps::Vip6Entry;

use super::is_for_us;
use crate::checksum::Checksum;
use crate::unsafe_maps::{
    NicEntry, count, count_served6, ipv6_face, is_kin, nic, note_claim, valid_lease, vip6_on,
};
use crate::unsafe_packet::{Header, lengthen};
use crate::{Fate, Frame};

/// The unspecified address, from which an address is asked for that the asker would like to have (RFC 4862).
const UNSPECIFIED: [u32; 4] = [0; 4];

/// Who asks.
struct Asker {
    /// Where the answer goes.
    mac: [u16; 3],
    /// The asker's address, or [`UNSPECIFIED`].
    address: [u32; 4],
    /// The address that is asked for.
    target: [u32; 4],
    /// The sums over both, for the answer's checksum.
    sums: [u64; 2],
}

/// Whoever advertises a VIP, asks with it as his address, or asks whether it is free, says that it is his or will be
/// (RFC 4861 section 7.2, RFC 4862 section 5.4). A message that has come by a router is none.
#[inline(always)]
pub(super) fn note_rival<const AT: usize>(header: Header, tags: u32) -> bool {
    let kind = header.one(AT + nd::TYPE);
    if header.one(AT + ipv6::HOP_LIMIT) != nd::HOP_LIMIT
        || !(kind == nd::SOLICITATION || kind == nd::ADVERTISEMENT)
    {
        return false;
    }
    let source = header.sixteen(AT + ipv6::SOURCE);
    let (claimed, verdict) = if kind == nd::ADVERTISEMENT {
        (header.sixteen(AT + nd::TARGET), Verdict::NaRival)
    } else if source == UNSPECIFIED {
        (header.sixteen(AT + nd::TARGET), Verdict::NsRival)
    } else {
        (source, Verdict::NsRival)
    };
    let stranger = header.mac(ETHERNET_SOURCE);
    if let Some(entry) = vip6_on(tags, claimed)
        && is_for_us(header)
        && !is_kin(stranger)
    {
        note_claim(entry.group, verdict, 6, claimed, stranger);
        return true;
    }
    false
}

/// Judges a solicitation, whose IPv6 header begins at `AT`, for the VIP of this entry.
#[inline(always)]
pub(super) fn solicitation<const AT: usize>(
    context: &XdpContext,
    frame: Frame,
    entry: &'static Vip6Entry,
) -> Fate {
    let (Some(now), Some(nic)) = (valid_lease(entry.group), nic()) else {
        count(entry.group, Verdict::NsDark);
        return Fate::Drop;
    };
    if let Some(asker) = validated::<AT>(frame)
        && let Some(header) = with_room::<AT>(context, frame)
    {
        let mac = ipv6_face(entry.group).unwrap_or(nic.mac);
        answer::<AT>(header, NicEntry { mac, ..nic }, &asker);
        count_served6(entry, Verdict::NsAnswered, now, asker.address, asker.target);
        Fate::Answer
    } else {
        count(entry.group, Verdict::NsRefused);
        Fate::Drop
    }
}

/// The asker, if the solicitation is valid (RFC 4861 section 7.1.1). The checksum is verified like everything else: not
/// every path from the asker to here has done so.
#[inline(always)]
fn validated<const AT: usize>(frame: Frame) -> Option<Asker> {
    let header = frame.header(AT + nd::OPTIONS)?;
    let payload = header.two(AT + ipv6::PAYLOAD_LENGTH);
    let options = usize::from(u16::from_be(payload)).checked_sub(nd::OPTIONS - ipv6::LENGTH)?;
    let units = options / nd::OPTION_UNIT;
    if header.one(AT + ipv6::VERSION) >> 4 != 6
        || header.one(AT + ipv6::HOP_LIMIT) != nd::HOP_LIMIT
        || header.one(AT + nd::CODE) != 0
        || options % nd::OPTION_UNIT != 0
        || units > nd::MAX_OPTION_UNITS
    {
        return None;
    }
    let address = header.sixteen(AT + ipv6::SOURCE);
    let destination = header.sixteen(AT + ipv6::DESTINATION);
    let target = header.sixteen(AT + nd::TARGET);
    // A group is no source (RFC 4291 section 2.7), and nobody asks for what is his.
    if header.one(AT + ipv6::SOURCE) == 0xff || address == target {
        return None;
    }
    let sums = [Checksum::of_sixteen(address), Checksum::of_sixteen(target)];
    let mut checksum = Checksum::of_icmpv6(sums[0], Checksum::of_sixteen(destination), payload);
    checksum.add_four(header.four(AT + nd::TYPE));
    checksum.add_four(header.four(AT + nd::FLAGS));
    checksum.add_sum(sums[1]);
    let source_mac = options_of::<AT>(frame, units, &mut checksum)?;
    if !checksum.is_right() {
        return None;
    }
    if address == UNSPECIFIED {
        let [a, b, c, d] = ipv6::SOLICITED_NODE.map(u32::to_be);
        let solicited_node = destination[0] == a
            && destination[1] == b
            && destination[2] == c
            && destination[3] & 0xff00_0000_u32.to_be() == d;
        let [a, b, c, d, e, f] = nd::ALL_NODES_MAC;
        let everybody = [u16::from_ne_bytes([a, b]), u16::from_ne_bytes([c, d]), u16::from_ne_bytes([e, f])];
        let everybody = Asker { mac: everybody, address, target, sums };
        return (solicited_node && source_mac.is_none()).then_some(everybody);
    }
    Some(Asker { mac: source_mac.unwrap_or(header.mac(ETHERNET_SOURCE)), address, target, sums })
}

/// Walks through the options, a unit at a time, and adds them to the checksum. The asker's hardware address among them,
/// if there is one; `None` if they are malformed.
#[inline(always)]
fn options_of<const AT: usize>(
    frame: Frame,
    units: usize,
    checksum: &mut Checksum,
) -> Option<Option<[u16; 3]>> {
    let mut source_mac = None;
    // The unit with which the next option begins.
    let mut next = 0;
    for unit in 0..nd::MAX_OPTION_UNITS {
        if unit == units {
            break;
        }
        let at = AT + nd::OPTIONS + unit * nd::OPTION_UNIT;
        let header = frame.header(at + nd::OPTION_UNIT)?;
        checksum.add_four(header.four(at));
        checksum.add_four(header.four(at + 4));
        if unit == next {
            let [kind, length] = header.two(at).to_ne_bytes();
            if length == 0 {
                return None;
            }
            if kind == nd::SOURCE_MAC && length == 1 && source_mac.is_none() {
                source_mac = Some(header.mac(at + 2));
            }
            next += usize::from(length);
        }
    }
    (next == units).then_some(source_mac)
}

/// The frame's header with room for an answer, which is longer than a solicitation without options.
#[inline(always)]
fn with_room<const AT: usize>(context: &XdpContext, frame: Frame) -> Option<Header> {
    let needed = AT + nd::ANSWER_LENGTH;
    match frame.header(needed) {
        Some(header) => Some(header),
        None => lengthen(context, needed - frame.length())?.header(needed),
    }
}

/// Makes a solicitation its own answer (RFC 4861 section 7.2.4). What was behind the first option is no longer part of the
/// packet.
#[inline(always)]
fn answer<const AT: usize>(header: Header, nic: NicEntry, asker: &Asker) {
    const LENGTH: u16 = (nd::ANSWER_LENGTH - ipv6::LENGTH) as u16;
    let nobody = asker.address == UNSPECIFIED;
    let destination = if nobody { ipv6::ALL_NODES.map(u32::to_be) } else { asker.address };
    let router = if nic.forwards { nd::ROUTER } else { 0 };
    let solicited = if nobody { 0 } else { nd::SOLICITED };
    let flags = u32::from_ne_bytes([router | solicited | nd::OVERRIDE, 0, 0, 0]);
    let kind = u32::from_ne_bytes([nd::ADVERTISEMENT, 0, 0, 0]);
    let option = u16::from_ne_bytes([nd::TARGET_MAC, 1]);
    let target = asker.target;
    let [of_asker, of_target] = asker.sums;
    let of_destination = if nobody { Checksum::of_sixteen(destination) } else { of_asker };
    let mut checksum = Checksum::of_icmpv6(of_target, of_destination, LENGTH.to_be());
    checksum.add_four(kind);
    checksum.add_four(flags);
    checksum.add_sum(of_target);
    checksum.add_two(option);
    checksum.add_mac(nic.mac);

    header.set_mac(ETHERNET_DESTINATION, asker.mac);
    header.set_mac(ETHERNET_SOURCE, nic.mac);
    header.set_four(AT + ipv6::VERSION, 0x6000_0000_u32.to_be());
    header.set_two(AT + ipv6::PAYLOAD_LENGTH, LENGTH.to_be());
    header.set_sixteen(AT + ipv6::SOURCE, target);
    header.set_sixteen(AT + ipv6::DESTINATION, destination);
    header.set_four(AT + nd::TYPE, kind);
    header.set_two(AT + nd::CHECKSUM, checksum.value());
    header.set_four(AT + nd::FLAGS, flags);
    header.set_two(AT + nd::OPTIONS, option);
    header.set_mac(AT + nd::OPTIONS + 2, nic.mac);
}
