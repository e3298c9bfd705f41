//! Which VIP belongs to which slot: the hash maps that say it of all, the filter before them, and the caches in which the programs
//! find most.

use std::collections::{BTreeMap, HashMap};
use std::hash::Hash;
use std::io;
use std::net::IpAddr;
use std::sync::atomic::{AtomicU64, Ordering};

use aya::Pod;
use aya::maps::{HashMap as BpfHashMap, MapData};
use cluster_common::maps::{
    CachedVip, CachedVip6, VIPS, VIPS6, Vip6Entry, VipEntry, cache_place, filter_place, vip_hash, vip_hash6,
    vlan_tags,
};
use tracing::warn;

use super::error::DataPlaneError;
use super::options::GroupVips;
use super::slots::GroupSlot;
use super::unsafe_membarrier::await_running_programs;
use super::unsafe_shared_words::SharedWords;

/// The maps by which the programs find a VIP's group. Keys and values of the hash maps are bytes.
pub(super) struct VipMaps {
    pub(super) ipv4: BpfHashMap<MapData, [u8; 4], [u8; size_of::<VipEntry>()]>,
    pub(super) ipv6: BpfHashMap<MapData, [u8; 16], [u8; size_of::<Vip6Entry>()]>,
    pub(super) filter: SharedWords,
    pub(super) cache: SharedWords,
    pub(super) cache6: SharedWords,
}

/// Words of one [`CachedVip`], and of one [`CachedVip6`].
const CACHED: usize = size_of::<CachedVip>() / size_of::<u64>();
const CACHED6: usize = size_of::<CachedVip6>() / size_of::<u64>();

/// What is to be in a cache, by place.
type Cached<const WORDS: usize> = BTreeMap<usize, [u64; WORDS]>;

/// Makes the maps say what the groups say. What stays as it is is not touched, and there is no moment in which a VIP is not found
/// that was there before and is afterwards.
pub(super) fn write(
    maps: &mut VipMaps,
    groups: &[GroupVips],
    slots: &[GroupSlot],
) -> Result<(), DataPlaneError> {
    let filter = maps.filter.words();
    let (cache, cache6) = (Cache { words: maps.cache.words() }, Cache { words: maps.cache6.words() });
    let (mut ipv4, mut ipv6) = (HashMap::new(), HashMap::new());
    let (mut cached, mut cached6) = (Cached::<CACHED>::new(), Cached::<CACHED6>::new());
    let mut exact = vec![0_u64; filter.len()];
    for (group, slot) in groups.iter().zip(slots) {
        let tags = group.vlan.map_or(0, |vlan| vlan_tags(vlan.outer(), vlan.inner().unwrap_or(0)));
        for vip in &group.vips {
            let group = slot.index();
            let hash = match vip.address {
                IpAddr::V4(address) => {
                    let address = address.octets();
                    let entry = VipEntry { group, mask: mask(vip.prefix), tags };
                    ipv4.insert(address, bytemuck::cast(entry));
                    let hash = vip_hash(address);
                    let wanted = bytemuck::cast(CachedVip { used: 1, address, entry, unused: 0 });
                    cache.want(&mut cached, hash, wanted);
                    hash
                }
                IpAddr::V6(address) => {
                    let address = address.octets();
                    let entry = Vip6Entry { group, mask: mask(vip.prefix), tags };
                    ipv6.insert(address, bytemuck::cast(entry));
                    let hash = vip_hash6(bytemuck::cast(address));
                    let wanted = bytemuck::cast(CachedVip6 { used: 1, unused: 0, address, entry });
                    cache6.want(&mut cached6, hash, wanted);
                    hash
                }
            };
            let (word, bit) = filter_place(hash);
            exact[word as usize] |= bit;
        }
    }
    // What is to change leaves the caches before it leaves the hash maps, and comes back after it is in them.
    cache.clear_all_but(&cached);
    cache6.clear_all_but(&cached6);
    for (word, bits) in filter.iter().zip(&exact) {
        word.fetch_or(*bits, Ordering::SeqCst);
    }
    write_entries(VIPS, &mut maps.ipv4, &ipv4)?;
    write_entries(VIPS6, &mut maps.ipv6, &ipv6)?;
    for (word, bits) in filter.iter().zip(exact) {
        word.store(bits, Ordering::SeqCst);
    }
    if cache.is_missing(&cached) || cache6.is_missing(&cached6) {
        let filled = fill(
            await_running_programs,
            || (cache.write_behind(&cached), cache6.write_behind(&cached6)),
            || (cache.publish(&cached), cache6.publish(&cached6)),
        );
        if let Err(error) = filled {
            warn!(
                "VIPs are looked up in the hash maps alone, which takes some nanoseconds more for each packet: the kernel cannot \
                 say that no program runs any more (membarrier): {error}"
            );
        }
    }
    Ok(())
}

/// Writes the rest of the places when no program looks at them, and the first words when every program sees the rest.
fn fill<T, U>(
    mut quiet: impl FnMut() -> io::Result<()>,
    write_behind: impl FnOnce() -> T,
    publish: impl FnOnce() -> U,
) -> io::Result<()> {
    quiet()?;
    write_behind();
    quiet()?;
    publish();
    Ok(())
}

/// A cache of VIPs, place after place. A place whose first word is 0 is empty.
struct Cache<'w> {
    words: &'w [AtomicU64],
}

impl Cache<'_> {
    /// Has a VIP in the cache unless another one has its place; the one that is there now before all others.
    fn want<const WORDS: usize>(&self, wanted: &mut Cached<WORDS>, hash: u32, vip: [u64; WORDS]) {
        let place = cache_place(hash) as usize;
        let is_there = self.at::<WORDS>(place) == vip;
        wanted
            .entry(place)
            .and_modify(|one| {
                if is_there {
                    *one = vip
                }
            })
            .or_insert(vip);
    }

    fn place<const WORDS: usize>(&self, place: usize) -> &[AtomicU64] {
        &self.words[place * WORDS..(place + 1) * WORDS]
    }

    fn at<const WORDS: usize>(&self, place: usize) -> [u64; WORDS] {
        let words = self.place::<WORDS>(place);
        std::array::from_fn(|word| words[word].load(Ordering::SeqCst))
    }

    fn clear_all_but<const WORDS: usize>(&self, wanted: &Cached<WORDS>) {
        for place in 0..self.words.len() / WORDS {
            if wanted.get(&place) != Some(&self.at(place)) {
                self.place::<WORDS>(place)[0].store(0, Ordering::SeqCst);
            }
        }
    }

    fn is_missing<const WORDS: usize>(&self, wanted: &Cached<WORDS>) -> bool {
        wanted.iter().any(|(place, vip)| self.at(*place) != *vip)
    }

    /// Writes all words but the first into places that are empty.
    fn write_behind<const WORDS: usize>(&self, wanted: &Cached<WORDS>) {
        for (place, vip) in wanted {
            let words = self.place::<WORDS>(*place);
            if words[0].load(Ordering::SeqCst) == 0 {
                for (word, value) in words.iter().zip(vip).skip(1) {
                    word.store(*value, Ordering::SeqCst);
                }
            }
        }
    }

    fn publish<const WORDS: usize>(&self, wanted: &Cached<WORDS>) {
        for (place, vip) in wanted {
            self.place::<WORDS>(*place)[0].store(vip[0], Ordering::SeqCst);
        }
    }
}

fn write_entries<K: Pod + Eq + Hash, V: Pod + PartialEq>(
    name: &'static str,
    map: &mut BpfHashMap<MapData, K, V>,
    wanted: &HashMap<K, V>,
) -> Result<(), DataPlaneError> {
    let failed = |attempt| move |source| DataPlaneError::Map { attempt, map: name, source };
    let there = map.iter().collect::<Result<HashMap<_, _>, _>>().map_err(failed("read"))?;
    for address in there.keys().filter(|address| !wanted.contains_key(*address)) {
        map.remove(address).map_err(failed("remove a VIP from"))?;
    }
    for (address, entry) in wanted.iter().filter(|(address, entry)| there.get(*address) != Some(*entry)) {
        map.insert(address, entry, 0).map_err(failed("write a VIP into"))?;
    }
    Ok(())
}

/// The mask of a prefix, in network order. A prefix longer than the address is the whole of it.
fn mask<const BYTES: usize>(prefix: u8) -> [u8; BYTES] {
    std::array::from_fn(|byte| {
        let zeroes = 8_usize.saturating_sub(usize::from(prefix).saturating_sub(byte * 8));
        0xff_u8.checked_shl(zeroes as u32).unwrap_or(0)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(count: usize) -> Vec<AtomicU64> {
        (0..count).map(|_| AtomicU64::new(0)).collect()
    }

    /// Of the two that have one place the one stays that is there, and nothing else is in the cache than what is wanted.
    #[test]
    fn a_cache_says_what_is_wanted() {
        let words = words(8 * 3);
        let cache = Cache { words: &words };
        let hash_of = |place: u32| place << (16 - cluster_common::maps::CACHE_PLACES.trailing_zeros());
        let write = |vips: &[(u32, [u64; 3])]| {
            let mut wanted = Cached::new();
            vips.iter().for_each(|(place, vip)| cache.want(&mut wanted, hash_of(*place), *vip));
            cache.clear_all_but(&wanted);
            let filled = fill(|| Ok(()), || cache.write_behind(&wanted), || cache.publish(&wanted));
            filled.expect("nothing to wait for");
            assert!(!cache.is_missing(&wanted));
            (0..8).map(|place| cache.at::<3>(place)).collect::<Vec<_>>()
        };
        assert_eq!(write(&[(3, [1, 2, 3]), (5, [1, 5, 6])])[3..6], [[1, 2, 3], [0; 3], [1, 5, 6]]);
        assert_eq!(write(&[(3, [1, 7, 7]), (3, [1, 2, 3])])[3..6], [[1, 2, 3], [0; 3], [0, 5, 6]]);
        assert_eq!(write(&[(3, [1, 7, 7])])[3], [1, 7, 7]);
        assert!(write(&[]).iter().all(|place| place[0] == 0));
    }

    /// A place is written into when nobody looks at it any more, and seen when all of it is there; where that cannot be known it stays
    /// empty.
    #[test]
    fn a_place_is_filled_behind_its_first_word() {
        let words = words(3);
        let cache = Cache { words: &words };
        let wanted = Cached::from([(0, [1, 2, 3])]);
        let seen = std::cell::RefCell::new(Vec::new());
        let quiet = || {
            seen.borrow_mut().push(cache.at::<3>(0));
            Ok(())
        };
        fill(quiet, || cache.write_behind(&wanted), || cache.publish(&wanted)).expect("nothing fails");
        assert_eq!(*seen.borrow(), [[0, 0, 0], [0, 2, 3]]);
        assert_eq!(cache.at::<3>(0), [1, 2, 3]);

        let wanted = Cached::from([(0, [1, 4, 5])]);
        cache.clear_all_but(&wanted);
        let unknown = || Err(io::Error::from(io::ErrorKind::Unsupported));
        fill(unknown, || cache.write_behind(&wanted), || cache.publish(&wanted)).expect_err("unknown");
        assert_eq!(cache.at::<3>(0), [0, 2, 3]);
    }

    #[test]
    fn masks_of_all_lengths() {
        assert_eq!(mask(0), [0, 0, 0, 0]);
        assert_eq!(mask(1), [128, 0, 0, 0]);
        assert_eq!(mask(20), [255, 255, 240, 0]);
        assert_eq!(mask(32), [255; 4]);
        assert_eq!(mask(33), [255; 4]);
        for prefix in 0..=128 {
            let expected = u128::MAX.checked_shl(128 - u32::from(prefix)).unwrap_or(0);
            assert_eq!(u128::from_be_bytes(mask(prefix)), expected, "{prefix}");
        }
    }
}
