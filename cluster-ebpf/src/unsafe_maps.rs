//! The maps, and the few ways in which the programs read and write them.

use core::ptr::{read_volatile, write_volatile};

use aya_ebpf::bindings::{BPF_F_MMAPABLE, BPF_F_NO_PREALLOC};
use aya_ebpf::helpers::generated::bpf_ktime_get_boot_ns;
use aya_ebpf::macros::map;
use aya_ebpf::maps::{Array, HashMap, PerCpuArray};
use cluster_common::Verdict;
use cluster_common::maps::{
    FILTER_WORDS, GroupCounters, Lease, MAX_GROUPS, MAX_VIPS, Nic, SERVED_PLACES, Served, Tenure, VipEntry,
    filter_place,
};

/// Allocated as VIPs come, so that a removed entry is freed after a grace period instead of being used again under a
/// program that still reads it.
#[map(name = "vips")]
static VIPS: HashMap<u32, VipEntry> = HashMap::with_max_entries(MAX_VIPS, BPF_F_NO_PREALLOC);
#[map(name = "filter")]
static FILTER: Array<u64> = Array::with_max_entries(FILTER_WORDS, BPF_F_MMAPABLE);
#[map(name = "leases")]
static LEASES: Array<Lease> = Array::with_max_entries(MAX_GROUPS, BPF_F_MMAPABLE);
#[map(name = "tenures")]
static TENURES: Array<Tenure> = Array::with_max_entries(MAX_GROUPS, BPF_F_MMAPABLE);
#[map(name = "nic")]
static NIC: Array<Nic> = Array::with_max_entries(1, BPF_F_MMAPABLE);
#[map(name = "counters")]
static COUNTERS: PerCpuArray<GroupCounters> = PerCpuArray::with_max_entries(MAX_GROUPS, 0);

/// Whose VIP the address is, if it is one. The address is four bytes of a packet as they lie in memory.
#[inline(always)]
pub(crate) fn vip(address: u32) -> Option<&'static VipEntry> {
    let (word, bit) = filter_place(address.to_ne_bytes());
    let filter = FILTER.get_ptr(word)?;
    // SAFETY: the pointer is the map's own, aligned, and user space writes the word whole.
    if unsafe { read_volatile(filter) } & bit == 0 {
        return None;
    }
    // SAFETY: entries are freed only after an RCU grace period, which no running program outlives (see VIPS).
    unsafe { VIPS.get(address) }
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

/// The network card's Ethernet address.
#[inline(always)]
pub(crate) fn nic() -> Option<[u16; 3]> {
    let nic = NIC.get_ptr(0)?;
    // SAFETY: as in `valid_lease`; `Nic` is one aligned u64.
    let bytes = unsafe { read_volatile(nic.cast::<u64>()) }.to_ne_bytes();
    Some([
        u16::from_ne_bytes([bytes[0], bytes[1]]),
        u16::from_ne_bytes([bytes[2], bytes[3]]),
        u16::from_ne_bytes([bytes[4], bytes[5]]),
    ])
}

/// Counts a packet of the group.
#[inline(always)]
pub(crate) fn count(group: u32, verdict: Verdict) {
    if let Some(counters) = COUNTERS.get_ptr_mut(group) {
        add_one(counters, verdict);
    }
}

/// Counts a packet that was served, and notes its sender if it is on the VIP's link.
#[inline(always)]
pub(crate) fn count_served(vip: &VipEntry, verdict: Verdict, now: u64, sender: u32, address: u32) {
    let Some(counters) = COUNTERS.get_ptr_mut(vip.group) else { return };
    add_one(counters, verdict);
    let on_link = (sender ^ address) & u32::from_ne_bytes(vip.mask) == 0;
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

#[inline(always)]
fn add_one(counters: *mut GroupCounters, verdict: Verdict) {
    // SAFETY: verdicts are dense and below COUNT, and the entry is this CPU's own while the program runs.
    unsafe {
        let counter: *mut u64 = (&raw mut (*counters).verdicts).cast::<u64>().add(verdict as usize);
        *counter += 1;
    }
}
