//! The layouts of the pinned maps. Whoever changes one of them raises [`LAYOUT_VERSION`].

use crate::Verdict;
use crate::flow::BUCKETS;

/// The version of the layouts; maps are pinned in a directory named for it, so that no program meets another's maps.
pub const LAYOUT_VERSION: u32 = 6;

/// Groups a node can have.
pub const MAX_GROUPS: u32 = 256;
/// VIPs a node can have, over all groups and both families.
pub const MAX_VIPS: u32 = 16_384;
/// Ethernet addresses that the cluster's nodes can have on the service link.
pub const MAX_KIN: u32 = 1024;
/// Bytes of a key of [`KIN`]: an Ethernet address and two zeros.
pub const KIN_KEY: usize = 8;
/// Tables of active/active groups: two for each, of which one is gone by while the other is written.
pub const MAX_TABLES: u32 = 2 * MAX_SPREAD;
/// Active/active groups a node can have.
pub const MAX_SPREAD: u32 = 32;
/// Nodes that a table has places for.
pub const MAX_MEMBERS: usize = 32;
/// The place of nobody.
pub const NOBODY: u8 = u8::MAX;
/// Datagrams in pieces that are remembered.
pub const MAX_FRAGMENTED: u32 = 4096;
/// Bytes of the ring buffer: some 1 500 frames.
pub const TRACE_BYTES: u32 = 1 << 18;
/// Bytes of a frame that a trace has at most.
pub const TRACED_BYTES: usize = 128;
/// Places for recently served addresses, per group, family and CPU; a power of two.
pub const SERVED_PLACES: usize = 8;

/// Hash map: IPv4 VIP (4 bytes, network order) to [`VipEntry`].
pub const VIPS: &str = "vips";
/// Hash map: IPv6 VIP (16 bytes, network order) to [`Vip6Entry`].
pub const VIPS6: &str = "vips6";
/// Array of [`FILTER_WORDS`] u64, memory-mapped by user space: a bit for each hash that a VIP of either family may have. Most packets concern
/// no VIP, and a bit is found faster than an absence from a hash map. Every VIP in the map has its bit, at any moment.
pub const FILTER: &str = "filter";
/// Array of [`CACHE_PLACES`] [`CachedVip`], memory-mapped by user space: IPv4 VIPs where they are found faster than in the hash map, by
/// [`cache_place`]. Of several with one place one is there; the others are in the hash map, like all.
pub const CACHE: &str = "vip_cache";
/// Array of [`CACHE_PLACES`] [`CachedVip6`], likewise.
pub const CACHE6: &str = "vip_cache6";
/// Array by group slot of [`Lease`], memory-mapped by user space.
pub const LEASES: &str = "leases";
/// Array by group slot of [`Tenure`], memory-mapped by user space and not read by the programs.
pub const TENURES: &str = "tenures";
/// Array by group slot of [`Grace`], memory-mapped by user space.
pub const GRACES: &str = "graces";
/// Array of [`MAX_TABLES`] [`SpreadTable`], memory-mapped by user space.
pub const TABLES: &str = "tables";
/// Hash map of the datagrams that came in pieces lately to their bucket.
pub const FRAGMENTS: &str = "fragments";
/// Array of one [`Nic`], memory-mapped by user space.
pub const NIC: &str = "nic";
/// Array by group slot of [`Own`].
pub const OWN: &str = "own";
/// Hash map of the Ethernet addresses that the cluster's nodes have on the service link, padded to [`KIN_KEY`] bytes, to
/// a 1: who may say that a VIP is his.
pub const KIN: &str = "kin";
/// Array by group slot of [`Faces`], memory-mapped by user space.
pub const FACES: &str = "faces";
/// Array of [`VIRTUAL_MACS`] u64, memory-mapped by user space: of each virtual Ethernet address the slot of its group plus
/// one, or 0 if it is none of ours. See [`virtual_mac_place`].
pub const VIRTUAL_MAC_OWNERS: &str = "virtual_macs";
/// Array of one [`Tracing`], memory-mapped by user space.
pub const TRACING: &str = "tracing";
/// Per-CPU array of two [`Judged`], of the ingress program and of the egress program.
pub const JUDGED: &str = "judged";
/// Ring buffer of [`TRACE_BYTES`] bytes with [`Traced`] frames.
pub const TRACE: &str = "trace";
/// Per-CPU array by group slot of [`GroupCounters`].
pub const COUNTERS: &str = "counters";
/// All maps of the data plane.
pub const ALL: [&str; 19] = [
    VIPS,
    VIPS6,
    FILTER,
    CACHE,
    CACHE6,
    LEASES,
    TENURES,
    GRACES,
    TABLES,
    FRAGMENTS,
    NIC,
    OWN,
    KIN,
    FACES,
    VIRTUAL_MAC_OWNERS,
    TRACING,
    JUDGED,
    TRACE,
    COUNTERS,
];

/// Until when this node holds the group, in nanoseconds of `CLOCK_BOOTTIME`, as `bpf_ktime_get_boot_ns` gives it. The
/// lease is valid while the clock shows less; 0 is no lease. One aligned u64, so that it is read and written whole.
pub type Lease = u64;

/// Words of the filter, a power of two: 8 KiB, of which 16 384 VIPs fill less than a quarter.
pub const FILTER_WORDS: u32 = 1024;

/// Bits of the filter, as a power of two.
const FILTER_BITS: u32 = FILTER_WORDS.trailing_zeros() + u64::BITS.trailing_zeros();

/// Places of each cache of VIPs, a power of two, and no more than the filter has bits.
pub const CACHE_PLACES: u32 = 8192;

/// The hash of an IPv4 address, by which it has its bit in the filter and its place in the cache.
#[inline(always)]
#[must_use]
pub const fn vip_hash(address: [u8; 4]) -> u32 {
    // Multiplicative hashing: the product's top bits depend on every bit of the address.
    u32::from_ne_bytes(address).wrapping_mul(0x9e37_79b1) >> (u32::BITS - FILTER_BITS)
}

/// The hash of an IPv6 address, given as four words that lie in memory as on the wire.
#[inline(always)]
#[must_use]
pub const fn vip_hash6(address: [u32; 4]) -> u32 {
    // The halves are laid over each other crosswise, so that what varies most (the last word) meets what varies least.
    let [a, b, c, d] = address;
    let folded = ((a as u64) << 32 | b as u64) ^ ((d as u64) << 32 | c as u64);
    (folded.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> (u64::BITS - FILTER_BITS)) as u32
}

/// Where addresses of this hash have their bit in the filter: the number of the word, and the bit in it.
#[inline(always)]
#[must_use]
pub const fn filter_place(hash: u32) -> (u32, u64) {
    (hash >> 6, 1 << (hash & 63))
}

/// The place in the cache of addresses with this hash.
#[inline(always)]
#[must_use]
pub const fn cache_place(hash: u32) -> u32 {
    hash >> (FILTER_BITS - CACHE_PLACES.trailing_zeros())
}

/// The VLAN of a frame with these tags, as one number: the outer VLAN identifier (12 bits, IEEE 802.1Q) above the inner one
/// (IEEE 802.1ad). 0 stands for no tag, and for one that gives a priority alone.
#[inline(always)]
#[must_use]
pub const fn vlan_tags(outer: u16, inner: u16) -> u32 {
    ((outer & 0x0fff) as u32) << 16 | (inner & 0x0fff) as u32
}

/// How many virtual Ethernet addresses there are: one for each family and number (RFC 9568 section 7.3).
pub const VIRTUAL_MACS: u32 = 512;

/// Where a virtual Ethernet address has its owner; `None` if the address is not virtual. It is given as it lies in
/// memory.
#[inline(always)]
#[must_use]
pub const fn virtual_mac_place(mac: [u16; 3]) -> Option<u32> {
    const PREFIX: [u16; 2] = [0, 0x5e00_u16.to_be()];
    if mac[0] != PREFIX[0] || mac[1] != PREFIX[1] {
        return None;
    }
    // 1 is the family IPv4, 2 is IPv6.
    match mac[2].to_ne_bytes() {
        [family @ (1 | 2), number] => Some((family as u32 - 1) * 256 + number as u32),
        _ => None,
    }
}

/// Whose an IPv4 VIP is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(C)]
#[cfg_attr(feature = "userspace", derive(bytemuck::Pod, bytemuck::Zeroable))]
pub struct VipEntry {
    /// The slot of its group, below [`MAX_GROUPS`].
    pub group: u32,
    /// The mask of its prefix, which tells who is on the link.
    pub mask: [u8; 4],
    /// On which VLAN it is: [`vlan_tags`].
    pub tags: u32,
}

/// Whose an IPv6 VIP is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(C)]
#[cfg_attr(feature = "userspace", derive(bytemuck::Pod, bytemuck::Zeroable))]
pub struct Vip6Entry {
    /// The slot of its group, below [`MAX_GROUPS`].
    pub group: u32,
    /// The mask of its prefix, which tells who is on the link.
    pub mask: [u8; 16],
    /// On which VLAN it is: [`vlan_tags`].
    pub tags: u32,
}

/// A place of the cache of IPv4 VIPs. The first word is written whole, first as 0 and last as it is to be, with a grace
/// period of the kernel's (RCU) on either side of what is written between: a program that finds an address there finds its entry.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(C, align(8))]
#[cfg_attr(feature = "userspace", derive(bytemuck::Pod, bytemuck::Zeroable))]
pub struct CachedVip {
    /// 1 if there is a VIP.
    pub used: u32,
    /// The VIP, in network order.
    pub address: [u8; 4],
    /// Whose it is.
    pub entry: VipEntry,
    /// Zero.
    pub unused: u32,
}

/// A place of the cache of IPv6 VIPs, written like one of IPv4.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(C, align(8))]
#[cfg_attr(feature = "userspace", derive(bytemuck::Pod, bytemuck::Zeroable))]
pub struct CachedVip6 {
    /// 1 if there is a VIP.
    pub used: u32,
    /// Zero.
    pub unused: u32,
    /// The VIP, in network order.
    pub address: [u8; 16],
    /// Whose it is.
    pub entry: Vip6Entry,
}

/// Who a slot belongs to and the epoch of its lease, for the daemon that adopts the maps after this one died. Written
/// before the lease, and only while there is none.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(C)]
#[cfg_attr(feature = "userspace", derive(bytemuck::Pod, bytemuck::Zeroable))]
pub struct Tenure {
    /// The epoch's counter.
    pub counter: u64,
    /// The group's id on the wire.
    pub group: u32,
    /// The epoch's node.
    pub node: u16,
    /// 1 if the slot belongs to the group, 0 if it is free.
    pub used: u16,
}

/// A hand-over under way: until when this node and the other send each other what is the other's. Two words, each read and
/// written whole: the time is 0 while the rest is written.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(C)]
#[cfg_attr(feature = "userspace", derive(bytemuck::Pod, bytemuck::Zeroable))]
pub struct Grace {
    /// In nanoseconds of `CLOCK_BOOTTIME`; 0 if there is none.
    pub until: u64,
    /// The Ethernet address of the node at the other end.
    pub other: [u8; 6],
    /// Which end this node is: [`Grace::NEW`] or [`Grace::OLD`].
    pub side: u16,
}

impl Grace {
    /// The node takes the group, or has taken it.
    pub const NEW: u16 = 1;
    /// The node gave the group up.
    pub const OLD: u16 = 2;
    /// The node is one of several that serve an active/active group: until then, by the table whose number is in the first four
    /// bytes of `other`, in the host's order. The fifth is 1 if the node gave the group up just now and still takes what is sent to
    /// its virtual Ethernet address.
    pub const MEMBER: u16 = 3;
}

/// The table of an active/active group.
#[derive(Clone, Copy)]
#[repr(C)]
pub struct SpreadTable {
    /// The slot of its group, counted from 1; 0 if it is free.
    pub group: u32,
    /// This node's place; [`NOBODY`] if it is no member.
    pub me: u8,
    /// 1 if flows go by their source alone ([`crate::flow::By::Source`]).
    pub by_source: u8,
    /// The node of the epoch in which it was made; for the daemon that adopts it, like what follows.
    pub node: u16,
    /// That epoch's counter.
    pub counter: u64,
    /// Which table of that epoch it is.
    pub number: u32,
    /// Zero.
    pub unused: u32,
    /// What the hash is begun with.
    pub seed: u64,
    /// The Ethernet addresses that this node puts into frames that it sends on, for the first time and for the second, each padded to a
    /// word. All nodes' have the third and fourth byte in common, and the first two tell how often.
    pub marks: [[u8; 8]; 2],
    /// By place: the node's Ethernet address, zeros if it is not known, and its id; all zeros for none.
    pub members: [[u8; 8]; MAX_MEMBERS],
    /// By bucket: the places of first and second.
    pub buckets: [[u8; 2]; BUCKETS],
}

/// The network card that the ingress program answers for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(C, align(8))]
#[cfg_attr(feature = "userspace", derive(bytemuck::Pod, bytemuck::Zeroable))]
pub struct Nic {
    /// Its Ethernet address.
    pub mac: [u8; 6],
    /// [`Nic::FORWARDS`], or 0.
    pub flags: u8,
    /// Zero; it makes this one u64, which is written whole.
    pub unused: u8,
    /// The interface's number.
    pub ifindex: u32,
    /// Zero, as above.
    pub unused2: u32,
}

impl Nic {
    /// Flag: this host forwards IPv6 packets that come in here, so it advertises itself as a router.
    pub const FORWARDS: u8 = 1;
}

/// The node's own addresses on the link of a group's VIPs, in whose name it asks for neighbours where it may not do so in a VIP's.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(C)]
#[cfg_attr(feature = "userspace", derive(bytemuck::Pod, bytemuck::Zeroable))]
pub struct Own {
    /// Of IPv4, in network order; zeros for none.
    pub ipv4: [u8; 4],
    /// Of IPv6, in network order; zeros for none.
    pub ipv6: [u8; 16],
}

/// Under which Ethernet addresses a group's VIPs appear.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
#[repr(C)]
#[cfg_attr(feature = "userspace", derive(bytemuck::Pod, bytemuck::Zeroable))]
pub struct Faces {
    /// Those of IPv4.
    pub ipv4: Face,
    /// Those of IPv6.
    pub ipv6: Face,
}

/// A virtual Ethernet address; all zeroes stand for the network card's own.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
#[repr(C, align(8))]
#[cfg_attr(feature = "userspace", derive(bytemuck::Pod, bytemuck::Zeroable))]
pub struct Face {
    /// The address.
    pub mac: [u8; 6],
    /// Zero; it makes the entry one u64, which is written whole.
    pub unused: [u8; 2],
}

/// What a group's packets came to on one CPU.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(C)]
#[cfg_attr(feature = "userspace", derive(bytemuck::Pod, bytemuck::Zeroable))]
pub struct GroupCounters {
    /// Packets, by [`Verdict`].
    pub verdicts: [u64; Verdict::COUNT],
    /// Addresses on the link that were served lately. An address goes to the place its hash names, so that a packet
    /// costs one store and a busy client leaves room for others.
    pub served: [Served; SERVED_PLACES],
    /// The same for IPv6.
    pub served6: [Served6; SERVED_PLACES],
    /// The latest of the claims that are counted as a rival's.
    pub claim: Claim,
}

/// Which of the frames that concern a VIP are traced. User space writes the last word first as 0 and then as it is to be.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(C)]
#[cfg_attr(feature = "userspace", derive(bytemuck::Pod, bytemuck::Zeroable))]
pub struct Tracing {
    /// Those of this group slot.
    pub group: u32,
    /// Each how many'th of them on a CPU; 0 counts as 1.
    pub every: u32,
    /// Until when, in nanoseconds of `CLOCK_BOOTTIME`; 0 if none is. It runs out by itself if nobody asks any more.
    pub until: u64,
}

/// What a program last judged on a CPU, while frames are traced.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(C)]
#[cfg_attr(feature = "userspace", derive(bytemuck::Pod, bytemuck::Zeroable))]
pub struct Judged {
    /// The group slot.
    pub group: u32,
    /// The [`Verdict`], counted from 1; 0 if there is none that was not looked at yet.
    pub verdict: u32,
    /// Frames of the traced group.
    pub seen: u32,
    /// Frames that were to be traced and for which the ring had no room.
    pub lost: u32,
}

/// A frame as a program let it go on, sent it back or dropped it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(C)]
#[cfg_attr(feature = "userspace", derive(bytemuck::Pod, bytemuck::Zeroable))]
pub struct Traced {
    /// When, in nanoseconds of `CLOCK_BOOTTIME`.
    pub at: u64,
    /// The group slot.
    pub group: u32,
    /// The [`Verdict`].
    pub verdict: u32,
    /// The frame's length in bytes.
    pub length: u32,
    /// How many of `bytes` are the frame's.
    pub captured: u32,
    /// Its first bytes.
    pub bytes: [u8; TRACED_BYTES],
}

/// Somebody outside the cluster says that a VIP is his. Written with the time as 0 before and as it is afterwards; who
/// reads it meanwhile, and sees 0, reads it again later.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(C)]
#[cfg_attr(feature = "userspace", derive(bytemuck::Pod, bytemuck::Zeroable))]
pub struct Claim {
    /// When, in nanoseconds of `CLOCK_BOOTTIME`; 0 if there was none.
    pub at: u64,
    /// The VIP, in network order; one of IPv4 has the first four bytes.
    pub address: [u8; 16],
    /// The Ethernet address that is not the cluster's.
    pub mac: [u8; 6],
    /// Which family the VIP is of: 4 or 6.
    pub family: u16,
}

/// An IPv4 address that was served.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(C)]
#[cfg_attr(feature = "userspace", derive(bytemuck::Pod, bytemuck::Zeroable))]
pub struct Served {
    /// When, in nanoseconds of `CLOCK_BOOTTIME`; 0 if the place is free.
    pub at: u64,
    /// The address, in network order.
    pub address: [u8; 4],
    /// Zero.
    pub unused: [u8; 4],
}

/// An IPv6 address that was served. Who reads it while it is written may see half of the one and half of another.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(C)]
#[cfg_attr(feature = "userspace", derive(bytemuck::Pod, bytemuck::Zeroable))]
pub struct Served6 {
    /// When, in nanoseconds of `CLOCK_BOOTTIME`; 0 if the place is free.
    pub at: u64,
    /// The address, in network order.
    pub address: [u8; 16],
}

const _: () = {
    assert!(size_of::<Lease>() == 8 && align_of::<Lease>() == 8);
    assert!(size_of::<VipEntry>() == 12 && align_of::<VipEntry>() == 4);
    assert!(size_of::<Vip6Entry>() == 24 && align_of::<Vip6Entry>() == 4);
    assert!(size_of::<CachedVip>() == 24 && align_of::<CachedVip>() == 8);
    assert!(size_of::<CachedVip6>() == 48 && align_of::<CachedVip6>() == 8);
    assert!(CACHE_PLACES.is_power_of_two() && CACHE_PLACES.trailing_zeros() <= FILTER_BITS);
    assert!(size_of::<Tenure>() == 16 && align_of::<Tenure>() == 8);
    assert!(size_of::<SpreadTable>() == 32 + 16 + MAX_MEMBERS * 8 + BUCKETS * 2);
    assert!(align_of::<SpreadTable>() == 8);
    assert!(size_of::<Grace>() == 16 && align_of::<Grace>() == 8);
    assert!(size_of::<Nic>() == 16 && align_of::<Nic>() == 8);
    assert!(size_of::<Own>() == 20 && align_of::<Own>() == 1);
    assert!(size_of::<Faces>() == 16 && align_of::<Faces>() == 8);
    assert!(size_of::<Served>() == 16 && align_of::<Served>() == 8);
    assert!(size_of::<Served6>() == 24 && align_of::<Served6>() == 8);
    assert!(size_of::<Tracing>() == 16 && align_of::<Tracing>() == 8);
    assert!(size_of::<Judged>() == 16 && align_of::<Judged>() == 4);
    assert!(size_of::<Traced>() == 24 + TRACED_BYTES && align_of::<Traced>() == 8);
    assert!(size_of::<Claim>() == 32 && align_of::<Claim>() == 8);
    assert!(size_of::<GroupCounters>() == Verdict::COUNT * 8 + SERVED_PLACES * (16 + 24) + 32);
    assert!(SERVED_PLACES.is_power_of_two() && FILTER_WORDS.is_power_of_two());
};
