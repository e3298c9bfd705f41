//! A simulated host: what outlives its daemon (map, disk, addresses, interface), and the daemon with its sockets.

use std::collections::VecDeque;
use std::net::IpAddr;
use std::rc::Rc;

use crate::Core;
use crate::identity::{Epoch, GroupIndex, Mac, PathIndex};
use crate::interface::{Command, CommandId, Effect, Link, Memory, Resumed, Snapshot};
use crate::settings::Settings;
use crate::spread::{Table, Version};
use crate::time::Time;

use super::clock::{BootClock, TrueTime};
use super::plan::{File, mac_of};

/// One host.
#[derive(Debug)]
pub(super) struct Host {
    pub(super) clock: BootClock,
    pub(super) powered: bool,
    /// The BPF map: one lease for each group. It is gone only with the host.
    pub(super) map: Vec<MapEntry>,
    /// The BPF map of tables: one for each active/active group. It is gone only with the host.
    pub(super) tables: Vec<Option<(Version, Table)>>,
    /// Until which true time each group's lease in the map is valid.
    lit_until: Vec<TrueTime>,
    /// Whether each group's VIPs are on the interface.
    pub(super) addresses: Vec<bool>,
    /// Epoch counters below this are reserved on disk.
    pub(super) disk: u64,
    /// What its core must not forget.
    pub(super) memory: Option<Memory>,
    /// Which of the plan's files it has.
    pub(super) file: usize,
    /// The one its daemon has been told to read.
    pub(super) next_file: usize,
    /// When, by its clock, it asked the newest question that the gateway answered.
    pub(super) gateway_answered: Option<Time>,
    pub(super) link: Link,
    pub(super) daemon: Option<Daemon>,
    /// How many daemons have run.
    pub(super) runs: u64,
    // Troubles under way.
    pub(super) paused: u32,
    pub(super) crashed: u32,
    pub(super) off: u32,
    pub(super) link_down: u32,
    pub(super) link_gone: u32,
    pub(super) address_fails: u32,
    pub(super) disk_fails: u32,
    /// Whether an operator may have told its daemon not to serve, or an address has failed, which it tries again late.
    pub(super) spoilt: bool,
    /// A witness has no service link.
    pub(super) witness: bool,
    /// What its last daemon handed on when it was replaced.
    pub(super) resumed: Option<Resumed>,
    /// Its last daemon was replaced, and the next one never came.
    pub(super) gone: bool,
}

/// What the data plane is told of a group.
#[derive(Clone, Copy, Debug)]
pub(super) struct MapEntry {
    pub(super) epoch: Option<Epoch>,
    pub(super) until: Time,
}

/// A running daemon.
#[derive(Debug)]
pub(super) struct Daemon {
    pub(super) run: u64,
    pub(super) core: Core,
    /// One for each path, peer by peer.
    pub(super) sockets: Vec<Socket>,
    pub(super) arp: VecDeque<(IpAddr, Mac)>,
    pub(super) notes: VecDeque<Note>,
    /// Effects that are still to be carried out.
    pub(super) pending: VecDeque<Action>,
    /// The input that these effects come from.
    pub(super) processing: Option<Processing>,
    pub(super) phase: Phase,
    /// The deadline that the core gave.
    pub(super) armed: Time,
    /// When the process goes on; other wakes are out of date.
    pub(super) wakes_at: TrueTime,
    pub(super) snapshot: Snapshot,
    /// What the worker that configures addresses has to do: the group, and whether to add or to remove.
    pub(super) jobs: VecDeque<(usize, bool)>,
    /// Ticks one after the other that were due at once.
    pub(super) hurried: u32,
    /// Whether anything was read since the last tick.
    pub(super) has_read: bool,
    /// By peer: what it asked for last. Kept for a planted bug.
    pub(super) asked: Vec<Vec<crate::wire::Vote>>,
    /// When the newest heartbeat was sent. Kept for a planted bug.
    pub(super) heartbeat_sent: u64,
    /// It has been told to get ready to be replaced, by this command, and how long the next one takes.
    pub(super) replacement: Option<(CommandId, Option<TrueTime>)>,
}

/// A socket's queue: when it is full, what arrives is lost.
#[derive(Clone, Default, Debug)]
pub(super) struct Socket {
    pub(super) queue: VecDeque<Rc<[u8]>>,
    pub(super) overflowed: bool,
}

/// An input that does not come from a socket.
#[derive(Clone, Debug)]
pub(super) enum Note {
    Link(Link),
    /// The plan's group of this index; the daemon knows by which place its file has it.
    AddressReady(GroupIndex),
    AddressFailed(GroupIndex),
    NoConnections(GroupIndex),
    EpochsReserved(u64),
    ReservationFailed,
    Remembered,
    NotRemembered,
    /// To the plan's file of that number.
    Reconfigure(usize, Box<Settings>),
    Served(Vec<IpAddr>),
    Command(CommandId, Command),
}

impl Note {
    /// In terms of a file; `None` if it is about a group that the file does not have.
    pub(super) fn by(&self, file: &File) -> Option<Self> {
        let place = |group: GroupIndex| file.place_of_group(group.0).map(GroupIndex);
        Some(match self {
            Self::AddressReady(group) => Self::AddressReady(place(*group)?),
            Self::AddressFailed(group) => Self::AddressFailed(place(*group)?),
            Self::NoConnections(group) => Self::NoConnections(place(*group)?),
            Self::Command(id, Command::Promote { group, force }) => {
                Self::Command(*id, Command::Promote { group: place(*group)?, force: *force })
            }
            Self::Command(id, Command::Demote { group, force }) => {
                Self::Command(*id, Command::Demote { group: place(*group)?, force: *force })
            }
            other => other.clone(),
        })
    }
}

/// An effect with what it needs.
#[derive(Clone, Debug)]
pub(super) enum Action {
    Send(PathIndex, Rc<[u8]>),
    Other(Effect),
}

/// What is being worked off.
#[derive(Clone, Copy, Debug)]
pub(super) struct Processing {
    pub(super) step: u64,
    pub(super) kind: Processed,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Processed {
    /// A message of that node was believed.
    Believed(usize),
    /// That node was seen to answer for a VIP on the service link.
    Seen(usize, IpAddr),
    Other,
}

/// Where the driver is in its turn.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Phase {
    Starting,
    Waiting,
    Reading { socket: usize, read: usize },
    Arp { read: usize },
    Notes,
    Tick,
    Arm,
}

impl Host {
    pub(super) fn new(clock: BootClock, node: usize, groups: usize, witness: bool) -> Self {
        Self {
            clock,
            powered: true,
            map: vec![MapEntry::EMPTY; groups],
            tables: vec![None; groups],
            lit_until: vec![0; groups],
            addresses: vec![false; groups],
            disk: 0,
            memory: None,
            file: 0,
            next_file: 0,
            gateway_answered: None,
            link: if witness { Link::Gone } else { Link::Up { mac: mac_of(node) } },
            daemon: None,
            runs: 0,
            paused: 0,
            crashed: 0,
            off: 0,
            link_down: 0,
            link_gone: 0,
            address_fails: 0,
            disk_fails: 0,
            spoilt: false,
            witness,
            resumed: None,
            gone: false,
        }
    }

    /// What the XDP program decides: whether the node may serve the group at this moment.
    pub(super) fn serves(&self, group: usize, at: TrueTime) -> bool {
        at < self.lit_until[group]
    }

    /// Writes the map. The true time is kept beside it, since every host is looked at again and again.
    pub(super) fn write(&mut self, group: usize, entry: MapEntry) {
        self.map[group] = entry;
        self.lit_until[group] = if self.powered { self.clock.when(entry.until) } else { 0 };
    }

    /// The host loses its map with its power.
    pub(super) fn forget_map(&mut self) {
        self.map.fill(MapEntry::EMPTY);
        self.lit_until.fill(0);
        self.tables.fill(None);
    }
}

impl MapEntry {
    pub(super) const EMPTY: Self = Self { epoch: None, until: Time::ZERO };
}

/// The node behind a peer's place in `me`'s settings.
pub(super) fn node_of_peer(me: usize, peer: usize) -> usize {
    if peer < me { peer } else { peer + 1 }
}

/// A node's place among `me`'s peers.
pub(super) fn peer_of_node(me: usize, node: usize) -> usize {
    if node < me { node } else { node - 1 }
}
