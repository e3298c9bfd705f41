//! The maps, and the few ways in which the programs read and write them.

use core::ptr::{read_volatile, write_volatile};

use aya_ebpf::bindings::{BPF_F_MMAPABLE, BPF_F_NO_PREALLOC};
use aya_ebpf::helpers::generated::bpf_ktime_get_boot_ns;
use aya_ebpf::macros::map;
use aya_ebpf::maps::{Array, HashMap, LruHashMap, PerCpuArray, RingBuf};
use cluster_common::Verdict;
use cluster_common::flow::BUCKETS;
use cluster_common::frame::ipv6;
use cluster_common::maps::{
    CACHE_PLACES, CachedVip, CachedVip6, Claim, FILTER_WORDS, Face, Faces, GroupCounters, Judged, Lease,
    MAX_FRAGMENTED, MAX_GROUPS, MAX_KIN, MAX_MEMBERS, MAX_TABLES, MAX_VIPS, Nic, SERVED_PLACES, Served,
    Served6, SpreadTable, TRACE_BYTES, TRACED_BYTES, Tenure, Traced, Tracing, VIRTUAL_MACS, Vip6Entry,
    VipEntry, cache_place, filter_place, vip_hash, vip_hash6, virtual_mac_place,
};

use crate::unsafe_packet::Frame;

/// Allocated as VIPs come, so that a removed entry is freed after a grace period instead of being used again under a
/// program that still reads it.
#[map(name = "vips")]
static VIPS: HashMap<u32, VipEntry> = HashMap::with_max_entries(MAX_VIPS, BPF_F_NO_PREALLOC);
#[map(name = "vips6")]
static VIPS6: HashMap<[u32; 4], Vip6Entry> = HashMap::with_max_entries(MAX_VIPS, BPF_F_NO_PREALLOC);
#[map(name = "filter")]
static FILTER: Array<u64> = Array::with_max_entries(FILTER_WORDS, BPF_F_MMAPABLE);
#[map(name = "vip_cache")]
static CACHE: Array<CachedVip> = Array::with_max_entries(CACHE_PLACES, BPF_F_MMAPABLE);
#[map(name = "vip_cache6")]
static CACHE6: Array<CachedVip6> = Array::with_max_entries(CACHE_PLACES, BPF_F_MMAPABLE);
#[map(name = "leases")]
static LEASES: Array<Lease> = Array::with_max_entries(MAX_GROUPS, BPF_F_MMAPABLE);
#[map(name = "tenures")]
static TENURES: Array<Tenure> = Array::with_max_entries(MAX_GROUPS, BPF_F_MMAPABLE);
#[map(name = "graces")]
static GRACES: Array<GraceWords> = Array::with_max_entries(MAX_GROUPS, BPF_F_MMAPABLE);
#[map(name = "tables")]
static TABLES: Array<SpreadTable> = Array::with_max_entries(MAX_TABLES, BPF_F_MMAPABLE);
#[map(name = "fragments")]
static FRAGMENTS: LruHashMap<FragmentKey, u32> = LruHashMap::with_max_entries(MAX_FRAGMENTED, 0);
#[map(name = "own")]
static OWN: Array<OwnWords> = Array::with_max_entries(MAX_GROUPS, 0);
#[map(name = "nic")]
static NIC: Array<Nic> = Array::with_max_entries(1, BPF_F_MMAPABLE);
#[map(name = "kin")]
static KIN: HashMap<KinKey, u8> = HashMap::with_max_entries(MAX_KIN, 0);
#[map(name = "tracing")]
static TRACING: Array<Tracing> = Array::with_max_entries(1, BPF_F_MMAPABLE);
#[map(name = "judged")]
static JUDGED: PerCpuArray<Judged> = PerCpuArray::with_max_entries(2, 0);
#[map(name = "trace")]
static TRACE: RingBuf = RingBuf::with_byte_size(TRACE_BYTES, 0);
#[map(name = "faces")]
static FACES: Array<Faces> = Array::with_max_entries(MAX_GROUPS, BPF_F_MMAPABLE);
#[map(name = "virtual_macs")]
static VIRTUAL_MAC_OWNERS: Array<u64> = Array::with_max_entries(VIRTUAL_MACS, BPF_F_MMAPABLE);
#[map(name = "counters")]
static COUNTERS: PerCpuArray<GroupCounters> = PerCpuArray::with_max_entries(MAX_GROUPS, 0);

/// The addresses, the datagram's number and the protocol.
type FragmentKey = [u32; 10];
/// An Ethernet address as the key of a map: two bytes at a time, and zeros.
type KinKey = [u16; 4];
/// [`cluster_common::maps::Grace`], as it is read.
type GraceWords = [u64; 2];
/// [`Own`], as it is read.
type OwnWords = [u32; 5];

/// What a node may do for a group at a moment in which it may do anything.
#[derive(Clone, Copy)]
pub(crate) struct Standing {
    /// The time, in nanoseconds of the boot clock.
    pub(crate) now: u64,
    /// Whether the lease is valid.
    pub(crate) holds: bool,
    /// With whom this node shares the group's packets.
    pub(crate) sharing: Option<Sharing>,
}

/// How a node shares a group's packets with others.
#[derive(Clone, Copy)]
pub(crate) enum Sharing {
    /// For a while, with the node at the other end of a hand-over.
    Handover(Grace),
    /// With all that are in a table.
    Spread(Membership),
}

/// A share in a group that several nodes serve.
#[derive(Clone, Copy)]
pub(crate) struct Membership {
    /// The number of the table.
    pub(crate) table: u32,
    /// Whether this node was the entry until just now.
    pub(crate) gave_up: bool,
}

impl Standing {
    /// Whether this node gave the group up just now.
    #[inline(always)]
    pub(crate) fn gave_up(self) -> bool {
        matches!(
            self.sharing,
            Some(
                Sharing::Handover(Grace { side: Side::Old, .. })
                    | Sharing::Spread(Membership { gave_up: true, .. })
            )
        )
    }
}

/// A hand-over under way.
#[derive(Clone, Copy)]
pub(crate) struct Grace {
    /// Which end this node is.
    pub(crate) side: Side,
    /// The Ethernet address of the node at the other.
    pub(crate) other: [u16; 3],
}

/// An end of a hand-over.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Side {
    /// Who takes the group, or has taken it.
    New,
    /// Who gave it up.
    Old,
}

/// The network card that the programs answer for.
#[derive(Clone, Copy)]
pub(crate) struct NicEntry {
    /// Its Ethernet address.
    pub(crate) mac: [u16; 3],
    /// Whether this host forwards IPv6 packets that come in there.
    pub(crate) forwards: bool,
}

/// Whose VIP the IPv4 address is, if it is one. The address is four bytes of a packet as they lie in memory.
#[inline(always)]
pub(crate) fn vip(address: u32) -> Option<&'static VipEntry> {
    let hash = vip_hash(address.to_ne_bytes());
    if !is_in_filter(filter_place(hash)) {
        return None;
    }
    let cached = CACHE.get_ptr(cache_place(hash))?;
    // SAFETY: the pointer is the map's own, aligned, and user space writes the first word whole; what it says is used stays
    // as it is for as long as a program runs (see `CachedVip`).
    unsafe {
        if read_volatile(&raw const (*cached).used) != 0 && u32::from_ne_bytes((*cached).address) == address {
            return Some(&(*cached).entry);
        }
    }
    // SAFETY: entries are freed only after an RCU grace period, which no running program outlives (see VIPS).
    unsafe { VIPS.get(address) }
}

/// Whose VIP the IPv6 address is, if it is one. The address is sixteen bytes of a packet as they lie in memory.
#[inline(always)]
pub(crate) fn vip6(address: [u32; 4]) -> Option<&'static Vip6Entry> {
    let hash = vip_hash6(address);
    if !is_in_filter(filter_place(hash)) {
        return None;
    }
    let cached = CACHE6.get_ptr(cache_place(hash))?;
    // SAFETY: as in `vip`; the address is aligned like the words it is read in.
    unsafe {
        let [a, b, c, d]: [u32; 4] = *(&raw const (*cached).address).cast();
        if read_volatile(&raw const (*cached).used) != 0
            && a == address[0]
            && b == address[1]
            && c == address[2]
            && d == address[3]
        {
            return Some(&(*cached).entry);
        }
    }
    // SAFETY: as in `vip`.
    unsafe { VIPS6.get(address) }
}

/// Whose VIP on the VLAN of these tags the IPv4 address is, if it is one there.
#[inline(always)]
pub(crate) fn vip_on(tags: u32, address: u32) -> Option<&'static VipEntry> {
    vip(address).filter(|entry| entry.tags == tags)
}

/// Whose VIP on the VLAN of these tags the IPv6 address is, if it is one there.
#[inline(always)]
pub(crate) fn vip6_on(tags: u32, address: [u32; 4]) -> Option<&'static Vip6Entry> {
    vip6(address).filter(|entry| entry.tags == tags)
}

#[inline(always)]
fn is_in_filter((word, bit): (u32, u64)) -> bool {
    let Some(filter) = FILTER.get_ptr(word) else { return false };
    // SAFETY: the pointer is the map's own, aligned, and user space writes the word whole.
    unsafe { read_volatile(filter) & bit != 0 }
}

/// The time, in nanoseconds of the boot clock, if the group's lease is valid now. A group without a lease costs no
/// clock.
#[inline(always)]
pub(crate) fn valid_lease(group: u32) -> Option<u64> {
    let lease = LEASES.get_ptr(group)?;
    // SAFETY: the pointer is the map's own, aligned, and user space writes the word whole.
    let until = unsafe { read_volatile(lease) };
    if until == 0 {
        return None;
    }
    // SAFETY: the helper has no preconditions.
    let now = unsafe { bpf_ktime_get_boot_ns() };
    if now < until { Some(now) } else { None }
}

/// What this node may do for the group now; `None` if nothing. A group without lease and hand-over costs no clock.
#[inline(always)]
pub(crate) fn standing(group: u32) -> Option<Standing> {
    let (lease, grace) = (LEASES.get_ptr(group)?, GRACES.get_ptr(group)?.cast::<u64>());
    // SAFETY: as in `valid_lease`; the second word was written before the first says that it counts.
    let (held_until, shared_until) = unsafe { (read_volatile(lease), read_volatile(grace)) };
    if held_until == 0 && shared_until == 0 {
        return None;
    }
    // SAFETY: the helper has no preconditions.
    let now = unsafe { bpf_ktime_get_boot_ns() };
    let holds = now < held_until;
    if now >= shared_until {
        return if holds { Some(Standing { now, holds, sharing: None }) } else { None };
    }
    // SAFETY: as above.
    let [a, b, c, d, e, f, g, h] = unsafe { read_volatile(grace.add(1)) }.to_ne_bytes();
    let other = [u16::from_ne_bytes([a, b]), u16::from_ne_bytes([c, d]), u16::from_ne_bytes([e, f])];
    let sharing = match u16::from_ne_bytes([g, h]) {
        cluster_common::maps::Grace::NEW => Sharing::Handover(Grace { side: Side::New, other }),
        cluster_common::maps::Grace::MEMBER => {
            Sharing::Spread(Membership { table: u32::from_ne_bytes([a, b, c, d]), gave_up: e != 0 })
        }
        _ => Sharing::Handover(Grace { side: Side::Old, other }),
    };
    Some(Standing { now, holds, sharing: Some(sharing) })
}

/// A table of buckets.
#[derive(Clone, Copy)]
pub(crate) struct Table(*const SpreadTable);

/// The table of this number, if there is such a one.
#[inline(always)]
pub(crate) fn spread_table(number: u32) -> Option<Table> {
    TABLES.get_ptr(number).map(Table)
}

impl Table {
    /// This node's place.
    #[inline(always)]
    pub(crate) fn me(&self) -> u8 {
        // SAFETY: the pointer is the map's own; a table is complete before anybody is told of its number.
        unsafe { (*self.0).me }
    }

    /// Whether all flows of a client are one.
    #[inline(always)]
    pub(crate) fn is_by_source(&self) -> bool {
        // SAFETY: as in `me`.
        unsafe { (*self.0).by_source != 0 }
    }

    /// What the hash is begun with.
    #[inline(always)]
    pub(crate) fn seed(&self) -> u64 {
        // SAFETY: as in `me`.
        unsafe { (*self.0).seed }
    }

    /// First and second of a bucket.
    #[inline(always)]
    pub(crate) fn bucket(&self, number: usize) -> (u8, u8) {
        // SAFETY: as in `me`; the number is kept below BUCKETS, so that the verifier sees it too. Both are one aligned u16,
        // which is written whole.
        let both = unsafe {
            let buckets = (&raw const (*self.0).buckets).cast::<u16>();
            read_volatile(buckets.add(number & (BUCKETS - 1)))
        };
        let [first, second] = both.to_ne_bytes();
        (first, second)
    }

    /// The Ethernet address of the node at a place.
    #[inline(always)]
    pub(crate) fn member(&self, place: u8) -> Option<[u16; 3]> {
        let place = usize::from(place);
        if place >= MAX_MEMBERS {
            return None;
        }
        // SAFETY: as in `me`, below the number of members.
        let word = unsafe { read_volatile((&raw const (*self.0).members).cast::<u64>().add(place)) };
        let mac = mac_in(word);
        if mac == [0; 3] { None } else { Some(mac) }
    }

    /// The address that this node puts into frames that it sends on: 0 for the first time, 1 for the second.
    #[inline(always)]
    pub(crate) fn mark(&self, time: usize) -> [u16; 3] {
        // SAFETY: as in `me`, and there are two.
        mac_in(unsafe { read_volatile((&raw const (*self.0).marks).cast::<u64>().add(time & 1)) })
    }

    /// How often a frame from this address was sent on.
    #[inline(always)]
    pub(crate) fn hops(&self, source: [u16; 3]) -> u32 {
        // SAFETY: as in `me`; an address begins with three aligned u16.
        let common = unsafe { read_volatile((&raw const (*self.0).marks).cast::<u16>().add(1)) };
        if source[1] != common {
            return 0;
        }
        let (first, second) = (self.mark(0), self.mark(1));
        if source[0] == first[0] {
            1
        } else if source[0] == second[0] {
            2
        } else {
            0
        }
    }
}

/// Takes note of the bucket of a datagram that comes in pieces.
#[inline(always)]
pub(crate) fn note_fragments(
    source: [u32; 4],
    destination: [u32; 4],
    datagram: u32,
    protocol: u8,
    bucket: u32,
) {
    let key = fragment_key(source, destination, datagram, protocol);
    // Without room its other pieces go by their addresses.
    let _full = FRAGMENTS.insert(key, bucket, 0);
}

/// The bucket of a datagram whose first piece was seen.
#[inline(always)]
pub(crate) fn bucket_of_fragments(
    source: [u32; 4],
    destination: [u32; 4],
    datagram: u32,
    protocol: u8,
) -> Option<u32> {
    // SAFETY: of an entry that is used again meanwhile another datagram's bucket is read, which is a bucket too.
    unsafe { FRAGMENTS.get(fragment_key(source, destination, datagram, protocol)) }.copied()
}

#[inline(always)]
fn fragment_key(source: [u32; 4], destination: [u32; 4], datagram: u32, protocol: u8) -> FragmentKey {
    let ([a, b, c, d], [e, f, g, h]) = (source, destination);
    [a, b, c, d, e, f, g, h, datagram, protocol as u32]
}

/// This node's own IPv4 address on the link of the group's VIPs, if it has one; four bytes as they lie in memory.
#[inline(always)]
pub(crate) fn own_ipv4(group: u32) -> Option<u32> {
    OWN.get(group).map(|own| own[0]).filter(|address| *address != 0)
}

/// This node's own IPv6 address there, if it has one; sixteen bytes as they lie in memory.
#[inline(always)]
pub(crate) fn own_ipv6(group: u32) -> Option<[u32; 4]> {
    OWN.get(group).map(|own| [own[1], own[2], own[3], own[4]]).filter(|address| *address != [0; 4])
}

/// The network card.
#[inline(always)]
pub(crate) fn nic() -> Option<NicEntry> {
    let nic = NIC.get_ptr(0)?;
    // SAFETY: as in `valid_lease`; the address and the flags are one aligned u64.
    let word = unsafe { read_volatile(nic.cast::<u64>()) };
    let [.., flags, _] = word.to_ne_bytes();
    Some(NicEntry { mac: mac_in(word), forwards: flags & Nic::FORWARDS != 0 })
}

/// The number of the network card's interface.
#[inline(always)]
pub(crate) fn service_interface() -> Option<u32> {
    let nic = NIC.get_ptr(0)?;
    // SAFETY: as in `valid_lease`.
    Some(unsafe { read_volatile(&raw const (*nic).ifindex) })
}

/// The virtual Ethernet address of the group's IPv4 VIPs, if they have one.
#[inline(always)]
pub(crate) fn ipv4_face(group: u32) -> Option<[u16; 3]> {
    let faces = FACES.get_ptr(group)?;
    // SAFETY: the pointer is the map's own.
    virtual_mac_in(unsafe { &raw const (*faces).ipv4 })
}

/// The virtual Ethernet address of the group's IPv6 VIPs, if they have one.
#[inline(always)]
pub(crate) fn ipv6_face(group: u32) -> Option<[u16; 3]> {
    let faces = FACES.get_ptr(group)?;
    // SAFETY: the pointer is the map's own.
    virtual_mac_in(unsafe { &raw const (*faces).ipv6 })
}

#[inline(always)]
fn virtual_mac_in(face: *const Face) -> Option<[u16; 3]> {
    // SAFETY: as in `valid_lease`; `Face` is one aligned u64.
    let word = unsafe { read_volatile(face.cast::<u64>()) };
    if word == 0 { None } else { Some(mac_in(word)) }
}

/// The group whose virtual Ethernet address this is, if it is one.
#[inline(always)]
pub(crate) fn virtual_mac_owner(mac: [u16; 3]) -> Option<u32> {
    let owner = VIRTUAL_MAC_OWNERS.get_ptr(virtual_mac_place(mac)?)?;
    // SAFETY: as in `valid_lease`.
    let slot_plus_one = unsafe { read_volatile(owner) } as u32;
    slot_plus_one.checked_sub(1)
}

#[inline(always)]
fn mac_in(word: u64) -> [u16; 3] {
    let [a, b, c, d, e, f, ..] = word.to_ne_bytes();
    [u16::from_ne_bytes([a, b]), u16::from_ne_bytes([c, d]), u16::from_ne_bytes([e, f])]
}

/// Whether the Ethernet address is one of the cluster's on the service link. A virtual one is, unless this node wears it
/// itself.
#[inline(always)]
pub(crate) fn is_kin(mac: [u16; 3]) -> bool {
    if let Some(group) = virtual_mac_owner(mac) {
        return valid_lease(group).is_none();
    }
    let [a, b, c] = mac;
    // SAFETY: nothing of the entry is read.
    nic().is_some_and(|nic| nic.mac == mac) || unsafe { KIN.get([a, b, c, 0]) }.is_some()
}

/// Counts and notes that somebody outside the cluster says that a VIP of the group is his.
#[inline(always)]
pub(crate) fn note_claim(group: u32, verdict: Verdict, family: u16, address: [u32; 4], mac: [u16; 3]) {
    let Some(counters) = COUNTERS.get_ptr_mut(group) else { return };
    add_one(group, counters, verdict);
    // SAFETY: the helper has no preconditions, and the entry is this CPU's own while the program runs.
    unsafe {
        let now = bpf_ktime_get_boot_ns();
        let claim: *mut Claim = &raw mut (*counters).claim;
        write_volatile(&raw mut (*claim).at, 0);
        let words = (&raw mut (*claim).address).cast::<u32>();
        write_volatile(words, address[0]);
        write_volatile(words.add(1), address[1]);
        write_volatile(words.add(2), address[2]);
        write_volatile(words.add(3), address[3]);
        let halves = (&raw mut (*claim).mac).cast::<u16>();
        write_volatile(halves, mac[0]);
        write_volatile(halves.add(1), mac[1]);
        write_volatile(halves.add(2), mac[2]);
        write_volatile(&raw mut (*claim).family, family);
        write_volatile(&raw mut (*claim).at, now);
    }
}

/// Counts a packet of the group.
#[inline(always)]
pub(crate) fn count(group: u32, verdict: Verdict) {
    if let Some(counters) = COUNTERS.get_ptr_mut(group) {
        add_one(group, counters, verdict);
    }
}

/// Counts a packet that was served, and notes its sender if it is on the VIP's link.
#[inline(always)]
pub(crate) fn count_served(vip: &'static VipEntry, verdict: Verdict, now: u64, sender: u32, address: u32) {
    let Some(counters) = COUNTERS.get_ptr_mut(vip.group) else { return };
    add_one(vip.group, counters, verdict);
    let [mask] = mask_words(&vip.mask);
    let on_link = (sender ^ address) & mask == 0;
    if on_link && sender != address && sender != 0 {
        // Multiplicative hashing spreads neighbours; the product's top bits depend on every bit of the address.
        let place = (sender.wrapping_mul(0x9e37_79b1) >> (32 - SERVED_PLACES.trailing_zeros())) as usize;
        // SAFETY: the shift leaves a number below SERVED_PLACES, and the entry is this CPU's own while the program runs.
        unsafe {
            let served: *mut Served = (&raw mut (*counters).served).cast::<Served>().add(place);
            write_volatile(&raw mut (*served).at, now);
            write_volatile((&raw mut (*served).address).cast::<u32>(), sender);
        }
    }
}

/// The same for IPv6, where an address of this link only is on the VIP's link as well.
#[inline(always)]
pub(crate) fn count_served6(
    vip: &'static Vip6Entry,
    verdict: Verdict,
    now: u64,
    sender: [u32; 4],
    address: [u32; 4],
) {
    let Some(counters) = COUNTERS.get_ptr_mut(vip.group) else { return };
    add_one(vip.group, counters, verdict);
    let (link_local, of_bits) = ipv6::LINK_LOCAL;
    let on_link = off_prefix(vip, sender, address) == 0 || sender[0] & of_bits.to_be() == link_local.to_be();
    if on_link && sender != address && sender != [0; 4] {
        let folded = sender[0] ^ sender[1] ^ sender[2] ^ sender[3];
        let place = (folded.wrapping_mul(0x9e37_79b1) >> (32 - SERVED_PLACES.trailing_zeros())) as usize;
        // SAFETY: as in `count_served`.
        unsafe {
            let served: *mut Served6 = (&raw mut (*counters).served6).cast::<Served6>().add(place);
            write_volatile(&raw mut (*served).at, now);
            let words = (&raw mut (*served).address).cast::<u32>();
            write_volatile(words, sender[0]);
            write_volatile(words.add(1), sender[1]);
            write_volatile(words.add(2), sender[2]);
            write_volatile(words.add(3), sender[3]);
        }
    }
}

/// In which bits of the prefix the addresses differ.
#[inline(always)]
fn off_prefix(vip: &'static Vip6Entry, sender: [u32; 4], address: [u32; 4]) -> u32 {
    let mask: [u32; 4] = mask_words(&vip.mask);
    (sender[0] ^ address[0]) & mask[0]
        | (sender[1] ^ address[1]) & mask[1]
        | (sender[2] ^ address[2]) & mask[2]
        | (sender[3] ^ address[3]) & mask[3]
}

/// An entry's mask in words as they lie in memory. The compiler would load and join the bytes one by one.
#[inline(always)]
fn mask_words<const BYTES: usize, const WORDS: usize>(mask: &'static [u8; BYTES]) -> [u32; WORDS] {
    const { assert!(BYTES == WORDS * 4) };
    // SAFETY: it is as long, and aligned like the entry that it is in, whose first word is before it.
    unsafe { *mask.as_ptr().cast::<[u32; WORDS]>() }
}

/// Where a program is.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Hook {
    /// At the driver, or where frames come in.
    Ingress,
    /// Where frames are about to leave.
    Egress,
}

/// A frame that is to be traced: its group and the verdict on it.
#[derive(Clone, Copy)]
pub(crate) struct Sample {
    now: u64,
    group: u32,
    verdict: u32,
}

/// Whether anybody traces, or has lately.
#[inline(always)]
pub(crate) fn is_traced() -> bool {
    let Some(tracing) = TRACING.get_ptr(0) else { return false };
    // SAFETY: as in `valid_lease`.
    unsafe { read_volatile(&raw const (*tracing).until) != 0 }
}

/// Whether the frame that was judged last at this hook of this CPU is to be traced.
#[inline(always)]
pub(crate) fn wanted(hook: Hook) -> Option<Sample> {
    let tracing = TRACING.get_ptr(0)?;
    // SAFETY: as in `valid_lease`; user space writes this word whole, and last.
    let until = unsafe { read_volatile(&raw const (*tracing).until) };
    if until == 0 {
        return None;
    }
    let judged = JUDGED.get_ptr_mut(hook as u32)?;
    // SAFETY: both pointers are the maps' own, and the second entry is this CPU's own while a program is at this hook: of
    // those that let frames out, and of those that let them in, none interrupts another of its kind. The helper has no
    // preconditions.
    unsafe {
        let (group, verdict) = ((*judged).group, (*judged).verdict);
        (*judged).verdict = 0;
        let now = bpf_ktime_get_boot_ns();
        if now >= until || verdict == 0 || group != read_volatile(&raw const (*tracing).group) {
            return None;
        }
        (*judged).seen = (*judged).seen.wrapping_add(1);
        let every = read_volatile(&raw const (*tracing).every);
        if every > 1 && (*judged).seen % every != 0 {
            return None;
        }
        Some(Sample { now, group, verdict: verdict - 1 })
    }
}

/// Puts the frame into the ring, or counts it if there is no room.
#[inline(always)]
pub(crate) fn trace(hook: Hook, sample: Sample, frame: Frame, length: u32) {
    let Some(mut entry) = TRACE.reserve::<Traced>(0) else {
        if let Some(judged) = JUDGED.get_ptr_mut(hook as u32) {
            // SAFETY: as in `wanted`.
            unsafe { (*judged).lost = (*judged).lost.wrapping_add(1) };
        }
        return;
    };
    let traced = entry.as_mut_ptr();
    // SAFETY: the entry is the program's own until it is submitted, and every byte of it is written.
    unsafe {
        (&raw mut (*traced).at).write(sample.now);
        (&raw mut (*traced).group).write(sample.group);
        (&raw mut (*traced).verdict).write(sample.verdict);
        (&raw mut (*traced).length).write(length);
        // Zeros first: a loop that went on behind the frame's end would give the verifier twice as many ways with each step.
        let words = (&raw mut (*traced).bytes).cast::<u64>();
        for place in 0..TRACED_BYTES / 8 {
            write_volatile(words.add(place), 0);
        }
        let halves = words.cast::<u16>();
        let mut captured = 0;
        for place in 0..TRACED_BYTES / 2 {
            let Some(header) = frame.header(place * 2 + 2) else { break };
            write_volatile(halves.add(place), header.two(place * 2));
            captured = place as u32 * 2 + 2;
        }
        (&raw mut (*traced).captured).write(captured);
    }
    entry.submit(0);
}

/// Notes the verdict for whoever traces.
#[inline(always)]
fn note_judged(group: u32, verdict: Verdict) {
    if !is_traced() {
        return;
    }
    let hook = if verdict.is_egress() { Hook::Egress } else { Hook::Ingress };
    if let Some(judged) = JUDGED.get_ptr_mut(hook as u32) {
        // SAFETY: as in `wanted`.
        unsafe {
            (*judged).group = group;
            (*judged).verdict = verdict as u32 + 1;
        }
    }
}

#[inline(always)]
fn add_one(group: u32, counters: *mut GroupCounters, verdict: Verdict) {
    note_judged(group, verdict);
    // SAFETY: verdicts are dense and below COUNT, and the entry is this CPU's own while the program runs.
    unsafe {
        let counter: *mut u64 = (&raw mut (*counters).verdicts).cast::<u64>().add(verdict as usize);
        *counter += 1;
    }
}
