//! The heartbeat and its acknowledgement on the wire, version 1. `docs/wire-format.md` says it byte by byte.
//!
//! All integers are big-endian. The last 32 bytes are HMAC-SHA256 (RFC 2104, FIPS 180-4) over everything before them.
//! Parsing never panics and never allocates: a message is a view of the bytes it came in.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::ops::RangeInclusive;
use std::time::Duration;

use hmac::{Hmac, KeyInit, Mac as _};
use sha2::Sha256;

use crate::identity::{ClusterId, Epoch, GroupId, Incarnation, Mac, NodeId};
use crate::interface::ServiceHealth;
use crate::settings::Key;

/// The version this code speaks.
pub const VERSION: u8 = 1;
/// The lowest version that understands what this code sends.
pub const MINIMUM_VERSION: u8 = 1;
/// The lease that a holder asks for before its daemon is replaced in place: time enough for a busy host to start another. A
/// longer ordinary lease is as good.
pub const RESTART_LEASE: Duration = Duration::from_secs(2);
/// How long a voter's promise lasts that such a lease can rest on.
pub const RESTART_PROMISE: Duration = Duration::from_millis(2200);
/// No message is longer, so that none is fragmented on an Ethernet of 1500 bytes.
pub const MAX_LEN: usize = 1400;
/// Groups of one cluster, at most.
pub const MAX_GROUPS: usize = 256;
/// Datagrams that one heartbeat is split into, at most: enough for a claim and a vote for each of [`MAX_GROUPS`].
pub const MAX_PARTS: u8 = 32;
/// Voters of one cluster, at most.
pub const MAX_VOTERS: usize = 9;
/// Served addresses in one message.
pub const MAX_SERVED: usize = 8;
/// Epoch counters stay below this; a larger one is a malformed claim.
pub const MAX_COUNTER: u64 = 1 << 48;
/// No node has used so many counters: a file that reserves this one is damaged.
pub const DAMAGED_COUNTER: u64 = MAX_COUNTER / 2;
/// A node whose counter is as high as a peer's is takes the next one, but for one from here on, which comes from a file that
/// is damaged or mistyped. That peer has as many left before it as no cluster uses, and the others keep theirs.
pub const FOLLOWED_COUNTER: u64 = MAX_COUNTER / 4;

/// Length of the fixed part of a message.
pub const HEADER_LEN: usize = 144;
const CLAIM_LEN: usize = 24;
const VOTE_LEN: usize = 16;
const SERVED_LEN: usize = 16;
/// Length of the authentication code that ends a message.
pub const TAG_LEN: usize = 32;

/// Where those fields lie that tell before the authentication whether a message can be meant for a path.
pub mod offset {
    /// The version the sender speaks: one byte.
    pub const VERSION: usize = 0;
    /// The lowest version that understands the message: one byte.
    pub const MINIMUM_VERSION: usize = 1;
    /// What it is, one of [`super::KINDS`]: one byte.
    pub const KIND: usize = 2;
    /// The message's length: two bytes.
    pub const LENGTH: usize = 4;
    /// The sender's node id: two bytes.
    pub const NODE: usize = 6;
    /// The cluster's id: eight bytes.
    pub const CLUSTER: usize = 8;
    /// The index of the path: one byte.
    pub const PATH: usize = 87;
}

/// The kinds of messages there are.
pub const KINDS: RangeInclusive<u8> = 1..=4;
/// The kind whose content is of groups that several nodes serve at once.
const SPREAD: u8 = 4;

const FLAG_VOTING: u8 = 1 << 0;
const FLAG_HELD: u8 = 1 << 1;
const PHASE_SHIFT: u8 = 2;
const PHASE_MASK: u8 = 0b11;
const SERVICE_SHIFT: u8 = 4;
const SERVICE_MASK: u8 = 0b11;
const FLAG_RESTARTS: u8 = 1 << 6;
const FLAG_KEEPS_LONG: u8 = 1 << 7;

/// Whether a message asks for an acknowledgement or is one.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    /// Answered at once.
    Heartbeat,
    /// Never answered.
    Acknowledgement,
    /// The answer to a sender that is not believed yet: what to echo, what this node is and has promised.
    Introduction,
    /// Of the table of a group that several nodes serve at once ([`crate::spread::message`]). Never answered at once.
    Spread,
}

/// The fixed part of a message.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Header {
    /// Heartbeat or acknowledgement.
    pub kind: Kind,
    /// Who sends.
    pub node: NodeId,
    /// Of which cluster.
    pub cluster: ClusterId,
    /// The sender's run.
    pub incarnation: Incarnation,
    /// The receiver's run as the sender knows it; `None` if it does not.
    pub echo: Option<Incarnation>,
    /// Heartbeats: the datagram's number, the same on every path, one for each part. Others: counted for each peer.
    pub sequence: u64,
    /// The sender's `CLOCK_BOOTTIME` in ns, taken before the send; only ever echoed.
    pub sent: u64,
    /// `sent` of the receiver's newest heartbeat that this message acknowledges; 0 if none.
    pub echo_sent: u64,
    /// FNV-1a over the voters and the timings.
    pub settings: u64,
    /// The sender's H, in µs on the wire.
    pub heartbeat: Duration,
    /// The longest of the sender's leases: none that it has ends later than so long after `sent`, nor will one that it is
    /// granted by an answer to this. L, but for a restart in place. In µs on the wire, rounded up.
    pub lease: Duration,
    /// The sender's D, in µs on the wire.
    pub dead_after: Duration,
    /// The Ethernet address of the sender's service interface; zero if it has none now.
    pub service_mac: Mac,
    /// Bit i: the sender has lately heard the receiver on path i.
    pub heard_paths: u16,
    /// The path it was sent on, so that it counts on no other: both nodes number their paths alike.
    pub path: u8,
    /// Whether the sender's promises count: it has waited D since its start.
    pub voting: bool,
    /// The sender is about to be replaced in place and wants promises of [`RESTART_PROMISE`].
    pub restarts: bool,
    /// The sender would remember such a promise over a restart of its own.
    pub keeps_long: bool,
    /// What the sender knows of its service link.
    pub service: ServiceHealth,
    /// Heartbeats: the number of the sender's claims as they are with this heartbeat; it grows with each change.
    pub state: u64,
    /// Heartbeats: the parts of this heartbeat hold the claims that changed after this state; 0: all that there are.
    pub base: u64,
    /// The newest state of the receiver's that the sender has in full, or 0. In introductions the state that consents
    /// are about.
    pub known: u64,
    /// Heartbeats: which part this datagram is, from 0; the heartbeat's number is `sequence - part`.
    pub part: u8,
    /// Heartbeats: into how many parts it is split, 1 to [`MAX_PARTS`].
    pub parts: u8,
    /// The sender votes for every claim of the receiver's state `known` that holds a lease.
    pub held: bool,
    /// Whose votes the sender's leases take.
    pub membership: Membership,
}

/// Whose votes a lease of the sender takes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Membership {
    /// FNV-1a over the voters of the sender's file and its quorum.
    pub voters: u64,
    /// The voters before a change that is not through yet, whose votes it takes as well.
    pub former: Option<Former>,
}

/// The voters before a change.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Former {
    /// Who.
    pub voters: VoterList,
    /// Whether a majority of them was needed.
    pub majority: bool,
    /// Whether the sender votes no more for a candidate that takes only their votes.
    pub closed: bool,
}

/// Up to nine voters, in ascending order.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct VoterList {
    ids: [u16; MAX_VOTERS],
    count: u8,
}

impl VoterList {
    /// These, sorted; more than [`MAX_VOTERS`] are the caller's error, which the configuration excludes.
    #[must_use]
    pub fn new(voters: impl IntoIterator<Item = NodeId>) -> Self {
        let mut list = Self::default();
        for voter in voters.into_iter().take(MAX_VOTERS) {
            list.ids[usize::from(list.count)] = voter.0;
            list.count += 1;
        }
        list.ids[..usize::from(list.count)].sort_unstable();
        list
    }

    /// Who they are, in ascending order.
    pub fn iter(&self) -> impl Iterator<Item = NodeId> + '_ {
        self.ids[..usize::from(self.count)].iter().map(|&id| NodeId(id))
    }

    /// How many they are.
    #[must_use]
    pub fn count(&self) -> usize {
        usize::from(self.count)
    }

    /// Whether a node is one of them.
    #[must_use]
    pub fn contains(&self, node: NodeId) -> bool {
        self.iter().any(|voter| voter == node)
    }
}

/// What a node says of itself for a group.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Stand {
    /// It holds no lease and could take the group.
    Idle,
    /// It holds no lease and cannot take the group now.
    Unwilling,
    /// It could take the group and asks the holder for it.
    Wants(Reason),
    /// It asks for votes in the claim's epoch.
    Requests,
    /// It held a lease in the claim's epoch that ran out, is dark, and asks for it again.
    Suspended,
    /// It is ready to take over in the claim's epoch, as soon as the holder votes for it.
    Ready,
    /// It holds a valid lease.
    Holds {
        /// The node it is handing over to, if any.
        offered_to: Option<NodeId>,
        /// Why.
        reason: Reason,
    },
}

impl Stand {
    /// Whether it asks for votes, or for the group.
    #[must_use]
    pub fn concerns_votes(self) -> bool {
        match self {
            Self::Idle | Self::Unwilling => false,
            Self::Wants(_) | Self::Requests | Self::Suspended | Self::Ready | Self::Holds { .. } => true,
        }
    }
}

/// Why a group is handed over.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Reason {
    /// For none: there is no hand-over.
    None,
    /// An operator's promote.
    Promote,
    /// An operator's demote.
    Demote,
    /// An operator's drain.
    Drain,
    /// A clean stop.
    Resign,
    /// The better-ranked node is back.
    Failback,
    /// The better-ranked node is back from a drain: also overrides a placement by hand.
    Undrain,
    /// The holder's service link is cut.
    ServiceCut,
}

/// One group in a heartbeat.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Claim {
    /// Which group.
    pub group: GroupId,
    /// What the sender says of itself.
    pub stand: Stand,
    /// The placement was made by hand and stays until the next failover.
    pub by_hand: bool,
    /// With [`Stand::Ready`]: the sender accepts what the holder sends over once it has let go.
    pub receives: bool,
    /// The tenure the stand is about; for the others the highest epoch the sender has seen.
    pub epoch: Epoch,
}

/// A promise in a message: to nobody but `epoch.node`, for D from the arrival of the heartbeat named by `echo_sent`.
/// In introductions [`Vote::CONSENT`] stands for whatever tenure the receiver holds in its state `known`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Vote {
    /// Which group.
    pub group: GroupId,
    /// To whom, and for which tenure.
    pub epoch: Epoch,
}

impl Vote {
    /// The epoch of a vote for whatever is held.
    pub const CONSENT: Epoch = Epoch { counter: 0, node: NodeId(0) };
}

/// Why a datagram is not a message.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum WireError {
    /// Lengths or fields that no sender writes.
    #[error("malformed")]
    Malformed,
    /// A version range without ours.
    #[error("wire version not spoken")]
    Version,
    /// The authentication code is wrong under every key.
    #[error("authentication failed")]
    Forged,
}

/// A parsed message, its authentication not yet checked.
#[derive(Clone, Copy, Debug)]
pub struct Message<'a> {
    /// The fixed part.
    pub header: Header,
    bytes: &'a [u8],
    claims: usize,
    votes: usize,
    served: usize,
}

impl<'a> Message<'a> {
    /// Parses a datagram.
    ///
    /// # Errors
    /// [`WireError::Version`] and [`WireError::Malformed`].
    pub fn parse(bytes: &'a [u8]) -> Result<Self, WireError> {
        if bytes.len() < HEADER_LEN + TAG_LEN || bytes.len() > MAX_LEN {
            return Err(WireError::Malformed);
        }
        if bytes[0] != VERSION && !(bytes[1] <= VERSION && VERSION <= bytes[0]) {
            return Err(WireError::Version);
        }
        let claims = usize::from(bytes[84]);
        let votes = usize::from(bytes[85]);
        let served = usize::from(bytes[86]);
        let length = HEADER_LEN + claims * CLAIM_LEN + votes * VOTE_LEN + served * SERVED_LEN + TAG_LEN;
        // The content of that kind says itself how long it is.
        let fits = length == bytes.len() || bytes[2] == SPREAD && (claims, votes, served) == (0, 0, 0);
        if !fits || usize::from(u16_at(bytes, 4)) != bytes.len() {
            return Err(WireError::Malformed);
        }
        let kind = match bytes[2] {
            1 => Kind::Heartbeat,
            2 => Kind::Acknowledgement,
            3 => Kind::Introduction,
            SPREAD => Kind::Spread,
            _ => return Err(WireError::Malformed),
        };
        let membership = parse_membership(bytes)?;
        let (part, parts) = (bytes[112], bytes[113]);
        let (state, base) = (u64_at(bytes, 88), u64_at(bytes, 96));
        if part >= parts || parts > MAX_PARTS || base > state {
            return Err(WireError::Malformed);
        }
        let service = match (bytes[3] >> SERVICE_SHIFT) & SERVICE_MASK {
            0 => ServiceHealth::Unjudged,
            1 => ServiceHealth::Answered,
            2 => ServiceHealth::Cut,
            _ => return Err(WireError::Malformed),
        };
        let incarnation = u64_at(bytes, 16);
        if incarnation == 0 {
            return Err(WireError::Malformed);
        }
        let mut service_mac = Mac::default();
        service_mac.0.copy_from_slice(&bytes[76..82]);
        let micros = |at| Duration::from_micros(u64::from(u32_at(bytes, at)));
        let header = Header {
            kind,
            node: NodeId(u16_at(bytes, 6)),
            cluster: ClusterId(u64_at(bytes, 8)),
            incarnation: Incarnation(incarnation),
            echo: Some(u64_at(bytes, 24)).filter(|&echo| echo != 0).map(Incarnation),
            sequence: u64_at(bytes, 32),
            sent: u64_at(bytes, 40),
            echo_sent: u64_at(bytes, 48),
            settings: u64_at(bytes, 56),
            heartbeat: micros(64),
            lease: micros(68),
            dead_after: micros(72),
            service_mac,
            heard_paths: u16_at(bytes, 82),
            path: bytes[87],
            voting: bytes[3] & FLAG_VOTING != 0,
            restarts: bytes[3] & FLAG_RESTARTS != 0,
            keeps_long: bytes[3] & FLAG_KEEPS_LONG != 0,
            service,
            state,
            base,
            known: u64_at(bytes, 104),
            part,
            parts,
            held: bytes[3] & FLAG_HELD != 0,
            membership,
        };
        Ok(Self { header, bytes, claims, votes, served })
    }

    /// Checks the authentication code, in constant time, under each of the keys.
    ///
    /// # Errors
    /// [`WireError::Forged`] if it fits none.
    pub fn authenticate(&self, keys: &[Authenticator]) -> Result<(), WireError> {
        let (signed, tag) = self.bytes.split_at(self.bytes.len() - TAG_LEN);
        let known = keys.iter().any(|key| key.verifies(signed, tag));
        if known { Ok(()) } else { Err(WireError::Forged) }
    }

    /// The claims; those that no sender writes are left out.
    pub fn claims(&self) -> impl Iterator<Item = Claim> + 'a {
        self.section(HEADER_LEN, self.claims, CLAIM_LEN).filter_map(parse_claim)
    }

    /// The votes for the receiver.
    pub fn votes(&self) -> impl Iterator<Item = Vote> + 'a {
        self.section(HEADER_LEN + self.claims * CLAIM_LEN, self.votes, VOTE_LEN).filter_map(|bytes| {
            let epoch = Epoch { counter: u64_at(bytes, 8), node: NodeId(u16_at(bytes, 4)) };
            (epoch.counter < MAX_COUNTER).then(|| Vote { group: GroupId(u32_at(bytes, 0)), epoch })
        })
    }

    /// Addresses on the service link that the sender, a holder, has served lately.
    pub fn served(&self) -> impl Iterator<Item = IpAddr> + 'a {
        let start = HEADER_LEN + self.claims * CLAIM_LEN + self.votes * VOTE_LEN;
        self.section(start, self.served, SERVED_LEN).filter_map(|bytes| {
            let mut octets = [0; 16];
            octets.copy_from_slice(bytes);
            let address = Ipv6Addr::from(octets).to_canonical();
            is_of_one_host(address).then_some(address)
        })
    }

    /// What follows the header in a message of the kind [`Kind::Spread`].
    #[must_use]
    pub fn body(&self) -> &'a [u8] {
        &self.bytes[HEADER_LEN..self.bytes.len() - TAG_LEN]
    }

    fn section(&self, start: usize, count: usize, size: usize) -> impl Iterator<Item = &'a [u8]> + 'a {
        self.bytes[start..start + count * size].chunks_exact(size)
    }
}

/// Whether a neighbour can be asked for the address.
fn is_of_one_host(address: IpAddr) -> bool {
    !(address.is_unspecified() || address.is_loopback() || address.is_multicast())
        && address != IpAddr::V4(Ipv4Addr::BROADCAST)
}

fn parse_membership(bytes: &[u8]) -> Result<Membership, WireError> {
    let closed = match (bytes[3] >> PHASE_SHIFT) & PHASE_MASK {
        0 => return Ok(Membership { voters: u64_at(bytes, 116), former: None }),
        1 => false,
        2 => true,
        _ => return Err(WireError::Malformed),
    };
    let count = usize::from(bytes[114]);
    if count > MAX_VOTERS {
        return Err(WireError::Malformed);
    }
    let voters = VoterList::new((0..count).map(|at| NodeId(u16_at(bytes, 124 + 2 * at))));
    let former = Former { voters, majority: bytes[115] != 0, closed };
    Ok(Membership { voters: u64_at(bytes, 116), former: Some(former) })
}

fn parse_claim(bytes: &[u8]) -> Option<Claim> {
    let reason = match bytes[6] {
        0 => Reason::None,
        1 => Reason::Promote,
        2 => Reason::Demote,
        3 => Reason::Drain,
        4 => Reason::Resign,
        5 => Reason::Failback,
        6 => Reason::Undrain,
        7 => Reason::ServiceCut,
        _ => return None,
    };
    let offered_to = Some(u16_at(bytes, 18)).filter(|&id| id != 0).map(NodeId);
    let stand = match bytes[4] {
        0 => Stand::Idle,
        1 => Stand::Unwilling,
        2 => Stand::Wants(reason),
        3 => Stand::Requests,
        4 => Stand::Suspended,
        5 => Stand::Ready,
        6 => Stand::Holds { offered_to, reason },
        _ => return None,
    };
    let epoch = Epoch { counter: u64_at(bytes, 8), node: NodeId(u16_at(bytes, 16)) };
    let claim = Claim {
        group: GroupId(u32_at(bytes, 0)),
        stand,
        by_hand: bytes[5] & 1 != 0,
        receives: bytes[5] & 2 != 0,
        epoch,
    };
    (epoch.counter < MAX_COUNTER).then_some(claim)
}

/// The version of a message that cannot be read and the lowest that could, if it comes from somebody who has a key: in every
/// version these come first, and the authentication code last.
#[must_use]
pub fn foreign_version(bytes: &[u8], keys: &[Authenticator]) -> Option<(u8, u8)> {
    let (signed, tag) = bytes.split_at_checked(bytes.len().checked_sub(TAG_LEN)?)?;
    let (version, minimum) = (*signed.get(offset::VERSION)?, *signed.get(offset::MINIMUM_VERSION)?);
    let known = keys.iter().any(|key| key.verifies(signed, tag));
    known.then_some((version, minimum))
}

/// A key made ready to sign and to verify.
#[derive(Clone)]
pub struct Authenticator(Hmac<Sha256>);

impl Authenticator {
    /// Prepares a key.
    #[must_use]
    pub fn new(key: &Key) -> Self {
        // A key shorter than the hash's block is filled with zeros (RFC 2104, section 2).
        let mut block = [0; 64];
        block[..key.0.len()].copy_from_slice(&key.0);
        Self(Hmac::new(&block.into()))
    }
}

impl Authenticator {
    /// Whether the tag is that of these bytes, in constant time.
    fn verifies(&self, signed: &[u8], tag: &[u8]) -> bool {
        let mut hmac = self.0.clone();
        hmac.update(signed);
        hmac.verify_slice(tag).is_ok()
    }
}

impl std::fmt::Debug for Authenticator {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Authenticator(…)")
    }
}

/// What one message carries beside its header.
#[derive(Clone, Copy, Default, Debug)]
pub struct Content<'a> {
    /// Claims of the sender.
    pub claims: &'a [Claim],
    /// Votes for the receiver.
    pub votes: &'a [Vote],
    /// Addresses on the service link, at most [`MAX_SERVED`].
    pub served: &'a [IpAddr],
}

impl<'a> Content<'a> {
    /// As much from the front as fits one datagram, and the rest.
    fn split(self) -> (Self, Self) {
        let mut room = MAX_LEN - HEADER_LEN - TAG_LEN;
        let mut fitting = |count: usize, size: usize| {
            let fits = count.min(room / size);
            room -= fits * size;
            fits
        };
        let (claims, more_claims) = self.claims.split_at(fitting(self.claims.len(), CLAIM_LEN));
        let (votes, more_votes) = self.votes.split_at(fitting(self.votes.len(), VOTE_LEN));
        let (served, more_served) = self.served.split_at(fitting(self.served.len(), SERVED_LEN));
        let rest = Self { claims: more_claims, votes: more_votes, served: more_served };
        (Self { claims, votes, served }, rest)
    }

    fn is_empty(&self) -> bool {
        self.claims.is_empty() && self.votes.is_empty() && self.served.is_empty()
    }

    /// The datagrams it takes, at least one.
    pub fn parts(self) -> impl Iterator<Item = Self> + Clone + use<'a> {
        let mut rest = Some(self);
        std::iter::from_fn(move || {
            let (part, more) = rest.take()?.split();
            rest = (!more.is_empty()).then_some(more);
            Some(part)
        })
    }
}

/// Appends one signed message to `out` and returns where it lies. The content has to fit ([`Content::parts`]).
pub fn emit(
    out: &mut Vec<u8>,
    header: &Header,
    content: Content<'_>,
    key: &Authenticator,
) -> std::ops::Range<usize> {
    let start = out.len();
    out.resize(start + HEADER_LEN, 0);
    let (Content { claims, votes, served }, _) = content.split();
    for claim in claims {
        emit_claim(out, claim);
    }
    for vote in votes {
        out.extend_from_slice(&vote.group.0.to_be_bytes());
        out.extend_from_slice(&vote.epoch.node.0.to_be_bytes());
        out.extend_from_slice(&[0; 2]);
        out.extend_from_slice(&vote.epoch.counter.to_be_bytes());
    }
    for address in served {
        let mapped = match address {
            IpAddr::V4(address) => address.to_ipv6_mapped(),
            IpAddr::V6(address) => *address,
        };
        out.extend_from_slice(&mapped.octets());
    }
    // What fits MAX_LEN is fewer than 256 of each.
    let counts =
        [claims.len(), votes.len(), served.len()].map(|count| u8::try_from(count).unwrap_or(u8::MAX));
    sign(out, start, header, counts, key)
}

/// Appends one signed message of the kind [`Kind::Spread`] with the body that is given, and returns where it lies.
pub fn emit_spread(
    out: &mut Vec<u8>,
    header: &Header,
    key: &Authenticator,
    body: impl FnOnce(&mut Vec<u8>),
) -> std::ops::Range<usize> {
    let start = out.len();
    out.resize(start + HEADER_LEN, 0);
    body(out);
    sign(out, start, header, [0; 3], key)
}

/// Writes the header of the message that begins there, and appends its authentication code.
fn sign(
    out: &mut Vec<u8>,
    start: usize,
    header: &Header,
    counts: [u8; 3],
    key: &Authenticator,
) -> std::ops::Range<usize> {
    let length = out.len() - start + TAG_LEN;
    emit_header(&mut out[start..start + HEADER_LEN], header, counts, length);
    let mut hmac = key.0.clone();
    hmac.update(&out[start..]);
    let tag = hmac.finalize().into_bytes();
    out.extend_from_slice(&tag);
    start..out.len()
}

fn emit_header(out: &mut [u8], header: &Header, counts: [u8; 3], length: usize) {
    out[0] = VERSION;
    out[1] = MINIMUM_VERSION;
    out[2] = match header.kind {
        Kind::Heartbeat => 1,
        Kind::Acknowledgement => 2,
        Kind::Introduction => 3,
        Kind::Spread => SPREAD,
    };
    let service = match header.service {
        ServiceHealth::Unjudged => 0,
        ServiceHealth::Answered => 1,
        ServiceHealth::Cut => 2,
    };
    let phase = match header.membership.former {
        None => 0,
        Some(former) if former.closed => 2,
        Some(_) => 1,
    };
    let voting = if header.voting { FLAG_VOTING } else { 0 };
    let held = if header.held { FLAG_HELD } else { 0 };
    let restarts = if header.restarts { FLAG_RESTARTS } else { 0 };
    let keeps_long = if header.keeps_long { FLAG_KEEPS_LONG } else { 0 };
    out[3] = voting | held | (phase << PHASE_SHIFT) | (service << SERVICE_SHIFT) | restarts | keeps_long;
    out[4..6].copy_from_slice(&u16::try_from(length).unwrap_or(u16::MAX).to_be_bytes());
    out[6..8].copy_from_slice(&header.node.0.to_be_bytes());
    out[8..16].copy_from_slice(&header.cluster.0.to_be_bytes());
    out[16..24].copy_from_slice(&header.incarnation.0.to_be_bytes());
    out[24..32].copy_from_slice(&header.echo.map_or(0, |echo| echo.0).to_be_bytes());
    out[32..40].copy_from_slice(&header.sequence.to_be_bytes());
    out[40..48].copy_from_slice(&header.sent.to_be_bytes());
    out[48..56].copy_from_slice(&header.echo_sent.to_be_bytes());
    out[56..64].copy_from_slice(&header.settings.to_be_bytes());
    let whole = |micros: u128| u32::try_from(micros).unwrap_or(u32::MAX).to_be_bytes();
    let micros = |duration: Duration| whole(duration.as_micros());
    out[64..68].copy_from_slice(&micros(header.heartbeat));
    // No lease lasts longer than is said, and no promise less long.
    out[68..72].copy_from_slice(&whole(header.lease.as_nanos().div_ceil(1000)));
    out[72..76].copy_from_slice(&micros(header.dead_after));
    out[76..82].copy_from_slice(&header.service_mac.0);
    out[82..84].copy_from_slice(&header.heard_paths.to_be_bytes());
    out[84..87].copy_from_slice(&counts);
    out[87] = header.path;
    out[88..96].copy_from_slice(&header.state.to_be_bytes());
    out[96..104].copy_from_slice(&header.base.to_be_bytes());
    out[104..112].copy_from_slice(&header.known.to_be_bytes());
    out[112] = header.part;
    out[113] = header.parts;
    out[116..124].copy_from_slice(&header.membership.voters.to_be_bytes());
    if let Some(former) = header.membership.former {
        out[114] = former.voters.count;
        out[115] = u8::from(former.majority);
        for (place, id) in former.voters.ids.iter().enumerate() {
            out[124 + 2 * place..126 + 2 * place].copy_from_slice(&id.to_be_bytes());
        }
    }
}

fn emit_claim(out: &mut Vec<u8>, claim: &Claim) {
    let (stand, reason, offered_to) = match claim.stand {
        Stand::Idle => (0, Reason::None, None),
        Stand::Unwilling => (1, Reason::None, None),
        Stand::Wants(reason) => (2, reason, None),
        Stand::Requests => (3, Reason::None, None),
        Stand::Suspended => (4, Reason::None, None),
        Stand::Ready => (5, Reason::None, None),
        Stand::Holds { offered_to, reason } => (6, reason, offered_to),
    };
    let reason = match reason {
        Reason::None => 0,
        Reason::Promote => 1,
        Reason::Demote => 2,
        Reason::Drain => 3,
        Reason::Resign => 4,
        Reason::Failback => 5,
        Reason::Undrain => 6,
        Reason::ServiceCut => 7,
    };
    out.extend_from_slice(&claim.group.0.to_be_bytes());
    let flags = u8::from(claim.by_hand) | u8::from(claim.receives) << 1;
    out.extend_from_slice(&[stand, flags, reason, 0]);
    out.extend_from_slice(&claim.epoch.counter.to_be_bytes());
    out.extend_from_slice(&claim.epoch.node.0.to_be_bytes());
    out.extend_from_slice(&offered_to.map_or(0, |node| node.0).to_be_bytes());
    out.extend_from_slice(&[0; 4]);
}

// The callers of these three have checked the length; a slice of the wrong size cannot reach them.
fn u16_at(bytes: &[u8], at: usize) -> u16 {
    u16::from_be_bytes([bytes[at], bytes[at + 1]])
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_be_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    (u64::from(u32_at(bytes, at)) << 32) | u64::from(u32_at(bytes, at + 4))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn header() -> Header {
        Header {
            kind: Kind::Heartbeat,
            node: NodeId(0x0102),
            cluster: ClusterId(0x1112_1314_1516_1718),
            incarnation: Incarnation(0x2122_2324_2526_2728),
            echo: Some(Incarnation(0x3132_3334_3536_3738)),
            sequence: 0x41,
            sent: 0x51,
            echo_sent: 0x61,
            settings: 0x71,
            heartbeat: Duration::from_millis(10),
            lease: Duration::from_millis(40),
            dead_after: Duration::from_millis(50),
            service_mac: Mac([2, 0, 0, 0, 0, 9]),
            heard_paths: 0b11,
            path: 1,
            voting: true,
            restarts: true,
            keeps_long: true,
            service: ServiceHealth::Cut,
            state: 0x81,
            base: 0x71,
            known: 0x91,
            part: 1,
            parts: 3,
            held: true,
            membership: Membership {
                voters: 0xa1a2_a3a4_a5a6_a7a8,
                former: Some(Former {
                    voters: VoterList::new([3, 1, 2].map(NodeId)),
                    majority: true,
                    closed: true,
                }),
            },
        }
    }

    fn claim() -> Claim {
        Claim {
            group: GroupId(7),
            stand: Stand::Holds { offered_to: Some(NodeId(3)), reason: Reason::Demote },
            by_hand: true,
            receives: true,
            epoch: Epoch { counter: 9, node: NodeId(2) },
        }
    }

    fn vote() -> Vote {
        Vote { group: GroupId(8), epoch: Epoch { counter: 10, node: NodeId(1) } }
    }

    fn message() -> Vec<u8> {
        let mut bytes = Vec::new();
        let served = [Ipv4Addr::new(10, 77, 0, 50).into()];
        let content = Content { claims: &[claim()], votes: &[vote()], served: &served };
        emit(&mut bytes, &header(), content, &Authenticator::new(&Key([0x0b; 32])));
        bytes
    }

    #[test]
    fn what_is_emitted_is_parsed_into_a_dirty_buffer_too() {
        let mut bytes = vec![0xff; 13];
        let key = Authenticator::new(&Key([0x0b; 32]));
        let served =
            [IpAddr::from(Ipv4Addr::new(10, 77, 0, 50)), Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 9).into()];
        let content = Content { claims: &[claim()], votes: &[vote()], served: &served };
        let range = emit(&mut bytes, &header(), content, &key);
        let message = Message::parse(&bytes[range]).unwrap();
        message.authenticate(&[Authenticator::new(&Key([1; 32])), key]).unwrap();
        assert_eq!(message.header, header());
        assert_eq!(message.claims().collect::<Vec<_>>(), [claim()]);
        assert_eq!(message.votes().collect::<Vec<_>>(), [vote()]);
        assert_eq!(message.served().collect::<Vec<_>>(), served);
    }

    #[test]
    fn served_addresses_that_no_neighbour_has_are_left_out() {
        let nobody: [IpAddr; 7] = [
            Ipv4Addr::UNSPECIFIED.into(),
            Ipv4Addr::LOCALHOST.into(),
            Ipv4Addr::BROADCAST.into(),
            Ipv4Addr::new(224, 0, 0, 1).into(),
            Ipv6Addr::UNSPECIFIED.into(),
            Ipv6Addr::LOCALHOST.into(),
            Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1).into(),
        ];
        let mut bytes = Vec::new();
        let content = Content { served: &nobody, ..Content::default() };
        emit(&mut bytes, &header(), content, &Authenticator::new(&Key([0x0b; 32])));
        assert_eq!(Message::parse(&bytes).unwrap().served().count(), 0);
    }

    /// The tag under a key of twenty 0x0b bytes is test case 1 of RFC 4231; ours is 32 bytes, so the vector there is
    /// checked against the library directly.
    #[test]
    fn the_hmac_is_that_of_rfc_4231() {
        let mut hmac = Hmac::<Sha256>::new_from_slice(&[0x0b; 20]).unwrap();
        hmac.update(b"Hi There");
        let expected = [
            0xb0, 0x34, 0x4c, 0x61, 0xd8, 0xdb, 0x38, 0x53, 0x5c, 0xa8, 0xaf, 0xce, 0xaf, 0x0b, 0xf1, 0x2b,
            0x88, 0x1d, 0xc2, 0x00, 0xc9, 0x83, 0x3d, 0xa7, 0x26, 0xe9, 0x37, 0x6c, 0x2e, 0x32, 0xcf, 0xf7,
        ];
        hmac.verify_slice(&expected).unwrap();
    }

    #[test]
    fn what_does_not_fit_is_split_and_nothing_is_lost() {
        let claims: Vec<Claim> =
            (0..MAX_GROUPS as u32).map(|group| Claim { group: GroupId(group), ..claim() }).collect();
        let votes: Vec<Vote> =
            (0..MAX_GROUPS as u32).map(|group| Vote { group: GroupId(group), ..vote() }).collect();
        let served = [IpAddr::V4(Ipv4Addr::new(10, 77, 0, 50)); MAX_SERVED];
        let content = Content { claims: &claims, votes: &votes, served: &served };
        let parts = content.parts();
        assert!((2..=usize::from(MAX_PARTS)).contains(&parts.clone().count()));
        let key = Authenticator::new(&Key([0x0b; 32]));
        let (mut got_claims, mut got_votes, mut got_served) = (Vec::new(), Vec::new(), Vec::new());
        for part in parts {
            let mut bytes = Vec::new();
            emit(&mut bytes, &header(), part, &key);
            assert!(bytes.len() <= MAX_LEN);
            let message = Message::parse(&bytes).unwrap();
            got_claims.extend(message.claims());
            got_votes.extend(message.votes());
            got_served.extend(message.served());
        }
        assert_eq!((got_claims, got_votes), (claims, votes));
        assert_eq!(got_served, served);
        assert_eq!(Content::default().parts().count(), 1, "an empty heartbeat is a heartbeat");
    }

    #[test]
    fn every_flipped_bit_is_noticed() {
        let good = message();
        let key = [Authenticator::new(&Key([0x0b; 32]))];
        for bit in 0..good.len() * 8 {
            let mut bad = good.clone();
            bad[bit / 8] ^= 1 << (bit % 8);
            let accepted = Message::parse(&bad).and_then(|message| message.authenticate(&key)).is_ok();
            assert!(!accepted, "bit {bit}");
        }
    }

    #[test]
    fn every_truncation_and_extension_is_malformed() {
        let good = message();
        for length in 0..good.len() {
            assert_eq!(Message::parse(&good[..length]).err(), Some(WireError::Malformed), "{length}");
        }
        let mut long = good;
        long.push(0);
        assert_eq!(Message::parse(&long).err(), Some(WireError::Malformed));
    }

    #[test]
    fn a_version_range_without_ours_is_refused_and_one_with_it_is_not() {
        let mut bytes = message();
        (bytes[0], bytes[1]) = (3, 2);
        assert_eq!(Message::parse(&bytes).err(), Some(WireError::Version));
        (bytes[0], bytes[1]) = (3, 1);
        assert!(Message::parse(&bytes).is_ok());
        (bytes[0], bytes[1]) = (VERSION + 1, VERSION);
        assert!(Message::parse(&bytes).is_ok());
    }

    #[test]
    fn a_version_that_cannot_be_read_is_told_if_its_sender_has_a_key() {
        let key = [Authenticator::new(&Key([0x0b; 32]))];
        let signed = |version, minimum| {
            let mut bytes = message();
            (bytes[0], bytes[1]) = (version, minimum);
            let end = bytes.len() - TAG_LEN;
            let mut hmac = key[0].0.clone();
            hmac.update(&bytes[..end]);
            bytes[end..].copy_from_slice(&hmac.finalize().into_bytes());
            bytes
        };
        assert_eq!(foreign_version(&signed(9, 7), &key), Some((9, 7)));
        assert_eq!(foreign_version(&signed(9, 7), &[Authenticator::new(&Key([1; 32]))]), None);
        for length in 0..TAG_LEN + 2 {
            assert_eq!(foreign_version(&signed(9, 7)[..length], &key), None);
        }
    }

    proptest! {
        #[test]
        fn no_bytes_panic(bytes in proptest::collection::vec(any::<u8>(), 0..1600)) {
            if let Ok(message) = Message::parse(&bytes) {
                let _ = message.claims().count() + message.votes().count() + message.served().count();
            }
        }

        #[test]
        fn no_mutation_panics(at in 0..200_usize, value: u8, cut in 0..300_usize) {
            let mut bytes = message();
            let length = bytes.len();
            bytes[at % length] = value;
            bytes.truncate(cut.max(1));
            if let Ok(message) = Message::parse(&bytes) {
                let _ = message.claims().count() + message.votes().count() + message.served().count();
            }
        }
    }
}
