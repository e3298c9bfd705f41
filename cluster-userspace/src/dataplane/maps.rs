//! The maps: adopted from their pins, or made and pinned.

use std::collections::HashMap;

use aya::maps::{Array, Map, MapData, MapError, MapInfo, PerCpuArray, PerCpuValues};
use aya::util::nr_cpus;
use aya::{Ebpf, EbpfError, EbpfLoader};
use aya_obj::Object;
use cluster_common::maps::{
    ALL, COUNTERS, FACES, FILTER, FILTER_WORDS, Faces, GroupCounters, LAYOUT_VERSION, LEASES, MAX_GROUPS,
    NIC, Nic, TENURES, VIPS, VIPS6, VIRTUAL_MAC_OWNERS, VIRTUAL_MACS,
};

use super::error::DataPlaneError;
use super::lease_table::LeaseTable;
use super::objects::DATAPLANE_OBJECT;
use super::pins::PinDirectory;
use super::slots::{GroupSlot, VipMaps};
use super::unsafe_shared_words::SharedWords;

/// Words of one [`GroupCounters`].
pub(super) const COUNTER_WORDS: usize = size_of::<GroupCounters>() / size_of::<u64>();

/// Words of one [`Nic`].
pub(super) const NIC_WORDS: usize = size_of::<Nic>() / size_of::<u64>();

/// The counters' map with its values as words.
pub(super) type CounterMap = PerCpuArray<MapData, [u64; COUNTER_WORDS]>;

/// The maps that user space uses.
pub(super) struct Maps {
    pub(super) vips: VipMaps,
    pub(super) counters: CounterMap,
    pub(super) filter: SharedWords,
    pub(super) nic: SharedWords,
    pub(super) faces: SharedWords,
    pub(super) virtual_mac_owners: SharedWords,
    leases: MapData,
    tenures: MapData,
}

/// What was found where the maps are pinned.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum MapsWere {
    /// Nothing; the maps are new.
    Absent,
    /// The maps of a daemon that died or was replaced; they go on being used, leases included.
    Adopted,
    /// Maps that do not fit. They were made dark and replaced, and no lease was adopted.
    Unfit {
        /// What did not fit.
        reason: String,
    },
}

/// Loads the object with the pinned maps, or with new ones that are pinned.
pub(super) fn load(directory: &PinDirectory) -> Result<(Ebpf, MapsWere), DataPlaneError> {
    let version = format!("v{LAYOUT_VERSION}");
    let mut found = fitness(directory, &version)?;
    for other in directory.names()?.iter().filter(|name| is_version(name) && **name != version) {
        found = MapsWere::Unfit { reason: format!("layout {other} is not {version}") };
        discard(directory, other)?;
    }
    if let MapsWere::Unfit { .. } = found {
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
    Ok((loader.load(DATAPLANE_OBJECT)?, found))
}

impl Maps {
    pub(super) fn take(object: &mut Ebpf) -> Result<Self, DataPlaneError> {
        Ok(Self {
            vips: VipMaps {
                ipv4: take(object, VIPS)?.try_into().map_err(unusable(VIPS))?,
                ipv6: take(object, VIPS6)?.try_into().map_err(unusable(VIPS6))?,
            },
            counters: take(object, COUNTERS)?.try_into().map_err(unusable(COUNTERS))?,
            filter: shared(object, FILTER, FILTER_WORDS as usize)?,
            nic: shared(object, NIC, NIC_WORDS)?,
            faces: shared(object, FACES, MAX_GROUPS as usize * size_of::<Faces>() / size_of::<u64>())?,
            virtual_mac_owners: shared(object, VIRTUAL_MAC_OWNERS, VIRTUAL_MACS as usize)?,
            leases: array_data(take(object, LEASES)?, LEASES)?,
            tenures: array_data(take(object, TENURES)?, TENURES)?,
        })
    }

    /// Makes a slot's counters zero and forgets whom it has served.
    pub(super) fn reset_counters(&mut self, slot: GroupSlot) -> Result<(), DataPlaneError> {
        let zeroes =
            vec![[0; COUNTER_WORDS]; nr_cpus().map_err(|(_, source)| unusable(COUNTERS)(source.into()))?];
        let zeroes = PerCpuValues::try_from(zeroes).map_err(|source| unusable(COUNTERS)(source.into()))?;
        self.counters.set(slot.index(), zeroes, 0).map_err(unusable(COUNTERS))
    }

    pub(super) fn lease_table(&self) -> Result<LeaseTable, DataPlaneError> {
        LeaseTable::map(&self.leases, &self.tenures)
    }
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
        let asked = object.maps.get(name).map(|map| {
            [map.map_type(), map.key_size(), map.value_size(), map.max_entries(), map.map_flags()]
        });
        let there = [
            pinned.map_type().map_err(unusable(name))? as u32,
            pinned.key_size(),
            pinned.value_size(),
            pinned.max_entries(),
            pinned.map_flags(),
        ];
        if asked != Some(there) {
            return Ok(MapsWere::Unfit {
                reason: format!(
                    "the map {name} has type, key size, value size, entries and flags {there:?} instead of {asked:?}"
                ),
            });
        }
    }
    Ok(MapsWere::Adopted)
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
