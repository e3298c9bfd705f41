//! What the core of a node costs in a cluster larger than the lab can hold: real cores, with time and network invented. Nothing
//! is lost, every datagram takes the same time, addresses and disks answer at once.
//!
//! The simulation (`cargo xtask sim`) asks whether the rules hold; this asks only what messages and computing they take.

use std::collections::VecDeque;
use std::net::Ipv4Addr;
use std::time::Duration;

use anyhow::{Context as _, ensure};
use cluster_proto::{
    AnnounceSchedule, ClusterId, Core, Effect, Effects, EventKind, Failback, Group, GroupId, GroupIndex,
    Incarnation, Input, Key, Link, Mac, NodeId, Path, PathIndex, Peer, Quorum, Role, Settings, Start, Time,
    Timing,
};
use nix::time::{ClockId, clock_gettime};
use serde::{Deserialize, Serialize};

use super::micros;

/// As many hosts as a configuration admits.
const NODES: usize = 32;
/// As many of them as may vote.
const VOTERS: usize = 9;
/// Paths between two nodes.
const PATHS: usize = 2;
const TIMING: Timing = Timing {
    heartbeat: Duration::from_millis(10),
    lease: Duration::from_millis(40),
    dead_after: Duration::from_millis(50),
    startup_wait: Duration::from_secs(2),
};
/// How long a datagram is under way.
const DELAY: Duration = Duration::from_micros(100);
/// Ethernet, IPv4 and UDP headers, so that bytes compare with those of a real link.
const HEADERS: u64 = 14 + 20 + 8;
/// How long the cluster is left alone before it is measured.
const STEADY: Duration = Duration::from_secs(4);
/// How long an election may take.
const PATIENCE: Duration = Duration::from_secs(1);

/// What was measured with so many groups.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Cell {
    /// How many nodes.
    pub nodes: usize,
    /// How many of them vote.
    pub voters: usize,
    /// How many groups.
    pub groups: usize,
    /// Messages that the holder sends in a second.
    pub holder_messages: f64,
    /// Bytes that it sends in a second, headers included.
    pub holder_bytes: f64,
    /// Messages that another node sends in a second, the mean of all.
    pub other_messages: f64,
    /// Bytes that it sends in a second.
    pub other_bytes: f64,
    /// Percent of one processor that the core of a node takes, the mean of all; the invented network is in it.
    pub share: f64,
    /// From the loss of the holder to the first lease of another node, in microseconds of the invented time.
    pub first_us: u64,
    /// And to the last.
    pub last_us: u64,
}

/// Runs a cluster with so many groups for so long, then takes its holder away.
///
/// # Errors
/// When not one node comes to hold all groups.
pub fn measure(groups: usize, length: Duration) -> anyhow::Result<Cell> {
    let mut world = World::new(groups);
    world.run_until(Time::ZERO + STEADY);
    let holder = world.holder().context("no node holds all groups")?;
    let before = world.sent.clone();
    let (from, used) = (world.now, processor_time()?);
    world.run_until(from + length);
    let used = processor_time()?.saturating_sub(used);
    ensure!(world.holder() == Some(holder), "the groups moved although nothing happened");
    let seconds = length.as_secs_f64();
    let sent = |node: usize| {
        let (now, before) = (world.sent[node], before[node]);
        let messages = now.messages - before.messages;
        (messages as f64 / seconds, (now.bytes - before.bytes + messages * HEADERS) as f64 / seconds)
    };
    let others = || (0..NODES).filter(|&node| node != holder).map(sent);
    let mean = |sum: f64| sum / (NODES - 1) as f64;
    let (holder_messages, holder_bytes) = sent(holder);
    let other_messages = mean(others().map(|(messages, _)| messages).sum());
    let other_bytes = mean(others().map(|(_, bytes)| bytes).sum());
    let (first, last) = world.lose(holder)?;
    Ok(Cell {
        nodes: NODES,
        voters: VOTERS,
        groups,
        holder_messages,
        holder_bytes,
        other_messages,
        other_bytes,
        share: used.as_secs_f64() / seconds / NODES as f64 * 100.0,
        first_us: micros(first),
        last_us: micros(last),
    })
}

/// A node: its core, and when that has to be woken.
struct Host {
    core: Core,
    wakes: Time,
    lost: bool,
}

/// What has come on a path of a node, or will.
struct Datagram {
    arrives: Time,
    to: usize,
    path: PathIndex,
    bytes: Vec<u8>,
}

/// What an effect is answered with.
enum Answer {
    AddressReady(GroupIndex),
    EpochsReserved(u64),
    Remembered,
}

#[derive(Clone, Copy, Default)]
struct Sent {
    messages: u64,
    bytes: u64,
}

struct World {
    now: Time,
    hosts: Vec<Host>,
    /// In the order in which they were sent, which is that of their arrival.
    under_way: VecDeque<Datagram>,
    /// What each node has sent.
    sent: Vec<Sent>,
    /// For each group who is active in it, and since when.
    active: Vec<Option<(usize, Time)>>,
    effects: Effects,
}

impl World {
    fn new(groups: usize) -> Self {
        let host = |node: usize| {
            // Their heartbeats are spread over the interval.
            let now = Time::ZERO + TIMING.heartbeat * number(node) / number(NODES);
            let start = Start {
                now,
                incarnation: Incarnation(1 + node as u64),
                reserved_epochs: 0,
                memory: None,
                adopted: Vec::new(),
                tables: Vec::new(),
                resumed: Default::default(),
                link: Link::Up { mac: Mac([2, 0, 0, 0, 0, number(node) as u8]) },
            };
            Host { core: Core::new(settings(node, groups), &start), wakes: now, lost: false }
        };
        Self {
            now: Time::ZERO,
            hosts: (0..NODES).map(host).collect(),
            under_way: VecDeque::new(),
            sent: vec![Sent::default(); NODES],
            active: vec![None; groups],
            effects: Effects::default(),
        }
    }

    fn run_until(&mut self, end: Time) {
        loop {
            let live = self.hosts.iter().enumerate().filter(|(_, host)| !host.lost);
            let Some((node, wakes)) = live.map(|(node, host)| (node, host.wakes)).min_by_key(|&(_, at)| at)
            else {
                break;
            };
            if let Some(datagram) = self.under_way.pop_front_if(|datagram| datagram.arrives <= wakes.min(end))
            {
                self.now = datagram.arrives;
                if !self.hosts[datagram.to].lost {
                    let Datagram { to, path, bytes, .. } = datagram;
                    self.handle(to, Input::Datagram { path, bytes: &bytes });
                }
            } else if wakes <= end {
                self.now = wakes;
                self.handle(node, Input::Tick);
            } else {
                break;
            }
        }
        self.now = end;
    }

    /// Hands a core an input, and what its host has to answer to the effects.
    fn handle(&mut self, node: usize, input: Input<'_>) {
        let mut effects = std::mem::take(&mut self.effects);
        let mut answers = VecDeque::new();
        let mut next = Some(input);
        while let Some(input) = next {
            self.hosts[node].core.handle(self.now, input, &mut effects);
            for effect in effects.list.drain(..) {
                answers.extend(self.carry_out(node, &effect, &effects.bytes));
            }
            effects.clear();
            next = answers.pop_front().map(|answer| match answer {
                Answer::AddressReady(group) => Input::AddressReady(group),
                Answer::EpochsReserved(below) => Input::EpochsReserved(below),
                Answer::Remembered => Input::Remembered,
            });
        }
        self.hosts[node].wakes = self.hosts[node].core.deadline();
        self.effects = effects;
    }

    fn carry_out(&mut self, node: usize, effect: &Effect, bytes: &[u8]) -> Option<Answer> {
        match effect {
            Effect::Send { path, bytes: range } => {
                let bytes = bytes.get(range.clone()).unwrap_or_default().to_vec();
                self.sent[node].messages += 1;
                self.sent[node].bytes += bytes.len() as u64;
                let to = node_of_peer(node, path.peer);
                let path = PathIndex { peer: peer_of_node(to, node), path: path.path };
                self.under_way.push_back(Datagram { arrives: self.now + DELAY, to, path, bytes });
                None
            }
            Effect::AddAddress { group } => Some(Answer::AddressReady(*group)),
            Effect::ReserveEpochs { below } => Some(Answer::EpochsReserved(*below)),
            Effect::Remember(_) => Some(Answer::Remembered),
            Effect::Event(event) => {
                if let EventKind::Transition { group, from, to, .. } = event.kind {
                    let active = &mut self.active[group.0];
                    if to == Role::Active {
                        *active = Some((node, event.at));
                    } else if from == Role::Active && active.is_some_and(|(by, _)| by == node) {
                        *active = None;
                    }
                }
                None
            }
            // Nobody asks for the addresses, and nobody answers to a probe: nobody else has them.
            Effect::Lease { .. }
            | Effect::Dark { .. }
            | Effect::RemoveAddress { .. }
            | Effect::Grace { .. }
            | Effect::EndGrace { .. }
            | Effect::Table { .. }
            | Effect::Serve { .. }
            | Effect::WatchConnections { .. }
            | Effect::LetGo { .. }
            | Effect::Announce { .. }
            | Effect::Probe { .. }
            | Effect::Kin { .. }
            | Effect::Reconfigured
            | Effect::Reply(..) => None,
        }
    }

    /// The node that is active in all groups.
    fn holder(&self) -> Option<usize> {
        let (holder, _) = (*self.active.first()?)?;
        self.active.iter().all(|active| active.is_some_and(|(node, _)| node == holder)).then_some(holder)
    }

    /// Takes the holder away; how long it is until the first group is active elsewhere, and until the last.
    fn lose(&mut self, holder: usize) -> anyhow::Result<(Duration, Duration)> {
        let lost = self.now;
        self.hosts[holder].lost = true;
        self.run_until(lost + PATIENCE);
        let times = self.active.iter().map(|active| {
            let (_, at) = active.filter(|(node, _)| *node != holder)?;
            Some(at.since(lost))
        });
        let times: Vec<Duration> =
            times.collect::<Option<_>>().context("not all groups are served elsewhere")?;
        times.iter().min().copied().zip(times.iter().max().copied()).context("there are no groups")
    }
}

fn settings(node: usize, groups: usize) -> Settings {
    let peer = |node: usize| Peer {
        id: id(node),
        voter: node < VOTERS,
        paths: (0..PATHS).map(|path| Path { service: path == 1 }).collect(),
    };
    let group = |index: usize| Group {
        id: GroupId(1 + number(index)),
        vips: vec![Ipv4Addr::from(0x0a4d_0100 + number(index)).into()],
        prefer: (0..NODES).map(id).collect(),
        failback: Failback::Never,
        announce: AnnounceSchedule { count: 5, interval: Duration::from_millis(500) },
        gateway: None,
        virtual_macs: Vec::new(),
        apart: Vec::new(),
        spread: None,
        grace: Duration::ZERO,
    };
    Settings {
        cluster: ClusterId::from_name("alone"),
        me: id(node),
        voter: node < VOTERS,
        quorum: Quorum::Majority,
        peers: (0..NODES).filter(|&other| other != node).map(peer).collect(),
        groups: (0..groups).map(group).collect(),
        timing: TIMING,
        keys: vec![Key([7; 32])],
        max_groups: None,
    }
}

fn id(node: usize) -> NodeId {
    NodeId(1 + number(node) as u16)
}

/// A count as the wire and durations have it; all of them are small here.
fn number(count: usize) -> u32 {
    u32::try_from(count).unwrap_or(u32::MAX)
}

/// The node at this place among the peers of `node`.
fn node_of_peer(node: usize, peer: usize) -> usize {
    if peer < node { peer } else { peer + 1 }
}

/// The place of `other` among the peers of `node`.
fn peer_of_node(node: usize, other: usize) -> usize {
    if other < node { other } else { other - 1 }
}

/// The processor time of the calling thread.
fn processor_time() -> anyhow::Result<Duration> {
    Ok(Duration::from(clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID).context("reading the thread's clock")?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cluster_of_32_is_quiet_and_elects_all_groups_together() {
        let cell = measure(3, Duration::from_millis(200)).expect("a cluster");
        // A heartbeat to each peer on each path in each interval, and an acknowledgement of each of theirs.
        let messages = 2.0 * ((NODES - 1) * PATHS * 100) as f64;
        assert!((cell.holder_messages / messages - 1.0).abs() < 0.1, "{cell:?}");
        assert!((cell.other_messages / messages - 1.0).abs() < 0.1, "{cell:?}");
        assert!(cell.first_us >= 40_000 && cell.last_us <= 70_000, "{cell:?}");
    }
}
