//! The maps: adopted from their pins, or made and pinned.

use std::collections::HashMap;
use std::net::IpAddr;
use std::path::Path;

use aya::maps::{Array, Map, MapData, MapError, MapInfo, PerCpuArray, PerCpuValues};
use aya::util::nr_cpus;
use aya::{Ebpf, EbpfError, EbpfLoader, Pod};
use aya_obj::Object;
use cluster_common::maps::{
    ALL, CACHE, CACHE_PLACES, CACHE6, COUNTERS, CachedVip, CachedVip6, FACES, FILTER, FILTER_WORDS, Faces,
    GRACES, GroupCounters, JUDGED, KIN, KIN_KEY, LAYOUT_VERSION, LEASES, MAX_GROUPS, NIC, Nic, OWN, Own,
    TABLES, TENURES, TRACE, TRACING, VIPS, VIPS6, VIRTUAL_MAC_OWNERS, VIRTUAL_MACS, Vip6Entry, VipEntry,
};

use cluster_proto::Mac;

use super::error::DataPlaneError;
use super::lease_table::LeaseTable;
use super::objects::DATAPLANE_OBJECT;
use super::pins::PinDirectory;
use super::slots::GroupSlot;
use super::trace::TraceMaps;
use super::unsafe_shared_words::SharedWords;
use super::vips::VipMaps;

/// Words of one [`GroupCounters`].
pub(super) const COUNTER_WORDS: usize = size_of::<GroupCounters>() / size_of::<u64>();

/// Words of one [`Nic`].
pub(super) const NIC_WORDS: usize = size_of::<Nic>() / size_of::<u64>();

/// The counters' map with its values as words.
pub(super) type CounterMap = PerCpuArray<MapData, [u64; COUNTER_WORDS]>;

/// The map of the node's own addresses with its value as bytes.
type OwnMap = Array<MapData, [u8; size_of::<Own>()]>;

/// The map of the Ethernet addresses that the cluster's nodes have.
type KinMap = aya::maps::HashMap<MapData, [u8; KIN_KEY], u8>;

/// The maps that user space uses.
pub(super) struct Maps {
    pub(super) vips: VipMaps,
    pub(super) counters: CounterMap,
    pub(super) nic: SharedWords,
    own: OwnMap,
    kin: KinMap,
    pub(super) trace: TraceMaps,
    pub(super) faces: SharedWords,
    pub(super) virtual_mac_owners: SharedWords,
    leases: MapData,
    tenures: MapData,
    graces: MapData,
    tables: MapData,
}

/// What was found where the maps are pinned.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum MapsWere {
    /// Nothing; the maps are new.
    Absent,
    /// The maps of a daemon that died or was replaced; they go on being used, leases included.
    Adopted,
    /// The maps of a daemon with another layout. Leases and tenures were copied from them; the programs that use them go on
    /// until others take their place ([`super::DataPlane::forget_former_layout`]).
    CarriedOver {
        /// The directory of that layout.
        from: String,
    },
    /// Maps that do not fit. They were made dark and replaced, and no lease was adopted.
    Unfit {
        /// What did not fit.
        reason: String,
    },
}

/// Maps of another layout, whose leases are still in force.
#[derive(Debug)]
pub(super) struct Former {
    name: String,
    table: LeaseTable,
}

/// Loads the object with the pinned maps, or with new ones that are pinned. What there is of another layout has to stay until
/// its programs are replaced.
pub(super) fn load(directory: &PinDirectory) -> Result<(Ebpf, MapsWere, Option<Former>), DataPlaneError> {
    let version = format!("v{LAYOUT_VERSION}");
    let mut found = fitness(directory, &version)?;
    let mut others: Vec<String> = directory.names()?;
    others.retain(|name| is_version(name) && *name != version);
    // The newest first, should a change of the layout have been interrupted.
    others.sort_by_key(|name| std::cmp::Reverse((name.len(), name.clone())));
    let mut former = None;
    for other in others {
        match Former::open(directory, &other)?.filter(|_| former.is_none()) {
            Some(usable) => former = Some(usable),
            None => {
                found = MapsWere::Unfit { reason: format!("layout {other} is not {version}") };
                discard(directory, &other)?;
            }
        }
    }
    if let Some(Former { name, .. }) = &former {
        // As long as they are there, no core has gone by ours: they were made in a start that did not get so far.
        found = MapsWere::CarriedOver { from: name.clone() };
    }
    if let MapsWere::Unfit { .. } | MapsWere::CarriedOver { .. } = found {
        discard(directory, &version)?;
    }
    let pins = directory.entry(&version);
    std::fs::create_dir_all(&pins).map_err(|source| DataPlaneError::File {
        attempt: "make the directory",
        path: pins.clone(),
        source,
    })?;
    let mut loader = EbpfLoader::new();
    // The programs use no kernel types, so the kernel's own type information, megabytes of it, need not be read.
    loader.btf(None);
    for map in ALL {
        loader.map_pin_path(map, pins.join(map));
    }
    Ok((loader.load(DATAPLANE_OBJECT)?, found, former))
}

impl Former {
    /// Those of this layout, if leases and tenures are what they are in ours.
    fn open(directory: &PinDirectory, version: &str) -> Result<Option<Self>, DataPlaneError> {
        let pins = directory.entry(version);
        let object = Object::parse(DATAPLANE_OBJECT).map_err(EbpfError::from)?;
        for name in [LEASES, TENURES] {
            let pin = pins.join(name);
            if !pin.exists()
                || misfit(&object, name, &MapInfo::from_pin(pin).map_err(unusable(name))?)?.is_some()
            {
                return Ok(None);
            }
        }
        let map = |name: &'static str| MapData::from_pin(pins.join(name)).map_err(unusable(name));
        let table = LeaseTable::map(&map(LEASES)?, &map(TENURES)?, None, None)?;
        Ok(Some(Self { name: version.to_owned(), table }))
    }

    /// Makes slots, epochs and leases of a table what they are in this one.
    pub(super) fn carry_over(&self, table: &LeaseTable) {
        table.copy(&self.table);
    }

    /// Goes dark, and removes the pins.
    pub(super) fn discard(self, directory: &PinDirectory) -> Result<(), DataPlaneError> {
        self.table.clear_all();
        directory.remove(&self.name)
    }
}

/// The VIPs in the maps that are pinned, those of other layouts included. Maps that are no VIP maps have none.
pub(super) fn pinned_vips(directory: &PinDirectory) -> Result<Vec<IpAddr>, DataPlaneError> {
    let mut vips = Vec::new();
    for version in directory.names()?.iter().filter(|name| is_version(name)) {
        let pins = directory.entry(version);
        vips.extend(pinned_keys::<[u8; 4], [u8; size_of::<VipEntry>()]>(&pins, VIPS)?.map(IpAddr::from));
        vips.extend(pinned_keys::<[u8; 16], [u8; size_of::<Vip6Entry>()]>(&pins, VIPS6)?.map(IpAddr::from));
    }
    Ok(vips)
}

/// The keys of a hash with such keys and values that is pinned under this name.
fn pinned_keys<K: Pod, V: Pod>(
    pins: &Path,
    name: &'static str,
) -> Result<impl Iterator<Item = K> + use<K, V>, DataPlaneError> {
    let pin = pins.join(name);
    let mut keys = Vec::new();
    if pin.exists() {
        let data = MapData::from_pin(pin).map_err(unusable(name))?;
        if let Ok(map) = aya::maps::HashMap::<_, K, V>::try_from(Map::HashMap(data)) {
            keys = map.keys().collect::<Result<_, _>>().map_err(unusable(name))?;
        }
    }
    Ok(keys.into_iter())
}

impl Maps {
    pub(super) fn take(object: &mut Ebpf) -> Result<Self, DataPlaneError> {
        Ok(Self {
            vips: VipMaps {
                ipv4: take(object, VIPS)?.try_into().map_err(unusable(VIPS))?,
                ipv6: take(object, VIPS6)?.try_into().map_err(unusable(VIPS6))?,
                filter: shared(object, FILTER, FILTER_WORDS as usize)?,
                cache: shared(object, CACHE, words_of::<CachedVip>(CACHE_PLACES))?,
                cache6: shared(object, CACHE6, words_of::<CachedVip6>(CACHE_PLACES))?,
            },
            counters: take(object, COUNTERS)?.try_into().map_err(unusable(COUNTERS))?,
            nic: shared(object, NIC, NIC_WORDS)?,
            faces: shared(object, FACES, words_of::<Faces>(MAX_GROUPS))?,
            virtual_mac_owners: shared(object, VIRTUAL_MAC_OWNERS, VIRTUAL_MACS as usize)?,
            own: take(object, OWN)?.try_into().map_err(unusable(OWN))?,
            kin: take(object, KIN)?.try_into().map_err(unusable(KIN))?,
            trace: TraceMaps {
                tracing: shared(object, TRACING, 2)?,
                judged: take(object, JUDGED)?.try_into().map_err(unusable(JUDGED))?,
                ring: take(object, TRACE)?.try_into().map_err(unusable(TRACE))?,
            },
            leases: array_data(take(object, LEASES)?, LEASES)?,
            tenures: array_data(take(object, TENURES)?, TENURES)?,
            graces: array_data(take(object, GRACES)?, GRACES)?,
            tables: array_data(take(object, TABLES)?, TABLES)?,
        })
    }

    /// Makes a slot's counters zero and forgets whom it has served.
    pub(super) fn reset_counters(&mut self, slot: GroupSlot) -> Result<(), DataPlaneError> {
        let zeroes =
            vec![[0; COUNTER_WORDS]; nr_cpus().map_err(|(_, source)| unusable(COUNTERS)(source.into()))?];
        let zeroes = PerCpuValues::try_from(zeroes).map_err(|source| unusable(COUNTERS)(source.into()))?;
        self.counters.set(slot.index(), zeroes, 0).map_err(unusable(COUNTERS))
    }

    /// In whose name the node asks for neighbours where it may not do so in a VIP's.
    pub(super) fn set_own(&mut self, slot: u32, own: Own) -> Result<(), DataPlaneError> {
        self.own.set(slot, bytemuck::cast::<_, [u8; size_of::<Own>()]>(own), 0).map_err(unusable(OWN))
    }

    /// A node of the cluster has this Ethernet address, and no longer the one before.
    pub(super) fn set_kin(&mut self, was: Option<Mac>, is: Mac) -> Result<(), DataPlaneError> {
        if let Some(was) = was {
            match self.kin.remove(&kin_key(was)) {
                Ok(()) | Err(MapError::KeyNotFound) => {}
                Err(error) => return Err(unusable(KIN)(error)),
            }
        }
        self.kin.insert(kin_key(is), 1, 0).map_err(unusable(KIN))
    }

    /// No Ethernet address is known to be the cluster's; those that are, the peers say again.
    pub(super) fn forget_kin(&mut self) -> Result<(), DataPlaneError> {
        let known: Vec<_> = self.kin.keys().collect::<Result<_, _>>().map_err(unusable(KIN))?;
        known.iter().try_for_each(|key| self.kin.remove(key)).map_err(unusable(KIN))
    }

    pub(super) fn lease_table(&self) -> Result<LeaseTable, DataPlaneError> {
        LeaseTable::map(&self.leases, &self.tenures, Some(&self.graces), Some(&self.tables))
    }
}

fn kin_key(Mac([a, b, c, d, e, f]): Mac) -> [u8; KIN_KEY] {
    [a, b, c, d, e, f, 0, 0]
}

/// Compares what is pinned with what the object asks for.
fn fitness(directory: &PinDirectory, version: &str) -> Result<MapsWere, DataPlaneError> {
    let pins = directory.entry(version);
    let object = Object::parse(DATAPLANE_OBJECT).map_err(EbpfError::from)?;
    let mut found = HashMap::new();
    for name in ALL {
        let pin = pins.join(name);
        if pin.exists() {
            found.insert(name, MapInfo::from_pin(pin).map_err(unusable(name))?);
        }
    }
    if found.is_empty() {
        return Ok(MapsWere::Absent);
    }
    for name in ALL {
        let Some(pinned) = found.get(name) else {
            return Ok(MapsWere::Unfit { reason: format!("the map {name} is missing") });
        };
        if let Some(reason) = misfit(&object, name, pinned)? {
            return Ok(MapsWere::Unfit { reason });
        }
    }
    Ok(MapsWere::Adopted)
}

/// What is other in a pinned map than the object asks for.
fn misfit(object: &Object, name: &'static str, pinned: &MapInfo) -> Result<Option<String>, DataPlaneError> {
    let asked = object
        .maps
        .get(name)
        .map(|map| [map.map_type(), map.key_size(), map.value_size(), map.max_entries(), map.map_flags()]);
    let there = [
        pinned.map_type().map_err(unusable(name))? as u32,
        pinned.key_size(),
        pinned.value_size(),
        pinned.max_entries(),
        pinned.map_flags(),
    ];
    Ok((asked != Some(there)).then(|| {
        format!(
            "the map {name} has type, key size, value size, entries and flags {there:?} instead of {asked:?}"
        )
    }))
}

/// Removes the pins of maps that do not fit. Programs that still use them go dark where the leases can be recognised.
fn discard(directory: &PinDirectory, version: &str) -> Result<(), DataPlaneError> {
    if let Ok(data) = MapData::from_pin(directory.entry(version).join(LEASES))
        && let Ok(mut leases) = Array::<_, u64>::try_from(Map::Array(data))
    {
        for slot in 0..leases.len().min(MAX_GROUPS) {
            leases.set(slot, 0, 0).map_err(unusable(LEASES))?;
        }
    }
    directory.remove(version)
}

fn is_version(name: &str) -> bool {
    name.strip_prefix('v')
        .is_some_and(|digits| !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit()))
}

fn take(object: &mut Ebpf, name: &'static str) -> Result<Map, DataPlaneError> {
    object.take_map(name).ok_or_else(|| unusable(name)(MapError::InvalidName { name: name.to_owned() }))
}

/// How many words so many values are.
const fn words_of<T>(values: u32) -> usize {
    values as usize * (size_of::<T>() / size_of::<u64>())
}

/// The first words of an array, mapped into memory.
fn shared(object: &mut Ebpf, name: &'static str, words: usize) -> Result<SharedWords, DataPlaneError> {
    let data = array_data(take(object, name)?, name)?;
    SharedWords::map(data.fd(), words).map_err(|source| DataPlaneError::SharedMemory { map: name, source })
}

fn array_data(map: Map, name: &'static str) -> Result<MapData, DataPlaneError> {
    match map {
        Map::Array(data) => Ok(data),
        _ => Err(unusable(name)(MapError::InvalidName { name: name.to_owned() })),
    }
}

fn unusable(map: &'static str) -> impl FnOnce(MapError) -> DataPlaneError {
    move |source| DataPlaneError::Map { attempt: "use", map, source }
}
