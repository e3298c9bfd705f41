//! Many groups whose holder died: what each of them would say alone is said together.

use std::time::Duration;

use cluster_proto::wire::{Kind, Message};
use cluster_proto::{
    Core, Effect, Effects, Group, GroupId, GroupIndex, Incarnation, Input, Link, NodeId, Path, PathIndex,
    Peer, Quorum, Resumed, Settings, Start,
};

use crate::pair::{self, at, mac};

pub(crate) const GROUPS: usize = 40;
/// How long a datagram takes, in microseconds.
const DELAY: u64 = 100;
/// How much longer one from the first node to the last does: so that the last waits longer for the first.
const LATER: u64 = 1000;
/// Addresses come one after the other, so long apart.
const ADDRESS: u64 = 50;

enum Coming {
    Datagram(PathIndex, Vec<u8>),
    Address(GroupIndex),
    Reserved(u64),
    Remembered,
}

/// Voters on one path each, of which the first, while it is there, is preferred in all groups.
pub(crate) struct World {
    now: u64,
    pub(crate) cores: Vec<Option<Core>>,
    coming: Vec<(u64, u64, usize, Coming)>,
    scheduled: u64,
    /// When the last address of each node will have come.
    addresses: Vec<u64>,
    /// By group who wrote a lease last, and when that began.
    pub(crate) leases: Vec<Option<(usize, u64)>>,
    /// What was sent: when, by whom, to whom, which kind, how many votes were in it.
    sent: Vec<(u64, usize, usize, Kind, usize)>,
    effects: Effects,
}

impl World {
    /// So many that have just been started.
    fn starting(nodes: usize) -> Self {
        Self::starting_with(nodes, |_, _| {})
    }

    /// The same with settings that are a little other.
    pub(crate) fn starting_with(nodes: usize, adjust: impl Fn(usize, &mut Settings)) -> Self {
        let id = |node: usize| NodeId(node as u16 + 1);
        let core = |me: usize| {
            let mut settings = pair::settings(pair::A);
            settings.me = id(me);
            settings.quorum = Quorum::Majority;
            settings.peers = (0..nodes)
                .filter(|&other| other != me)
                .map(|other| Peer { id: id(other), voter: true, paths: vec![Path { service: false }] })
                .collect();
            let template = settings.groups[0].clone();
            settings.groups = (0..GROUPS)
                .map(|number| Group {
                    id: GroupId(number as u32 + 1),
                    prefer: (0..nodes).map(id).collect(),
                    ..template.clone()
                })
                .collect();
            adjust(me, &mut settings);
            let start = Start {
                now: at(1_000_000_000),
                incarnation: Incarnation(me as u64 + 1),
                reserved_epochs: 0,
                memory: None,
                adopted: Vec::new(),
                tables: Vec::new(),
                resumed: Resumed::default(),
                link: Link::Up { mac: mac(me) },
            };
            Some(Core::new(settings, &start))
        };
        let mut world = Self {
            now: 1_000_000_000,
            cores: (0..nodes).map(core).collect(),
            coming: Vec::new(),
            scheduled: 0,
            addresses: vec![0; nodes],
            leases: vec![None; GROUPS],
            sent: Vec::new(),
            effects: Effects::default(),
        };
        for node in 0..nodes {
            world.give(node, Input::Tick);
        }
        world
    }

    /// So many of which the first holds all groups.
    fn serving(nodes: usize) -> Self {
        let mut world = Self::starting(nodes);
        world.run(1_000_000);
        assert!(world.leases.iter().all(|lease| lease.is_some_and(|(node, _)| node == 0)));
        world
    }

    pub(crate) fn run(&mut self, micros: u64) {
        let end = self.now + micros;
        loop {
            self.coming.sort_by_key(|&(at, number, ..)| (at, number));
            let arrives = self.coming.first().map_or(u64::MAX, |&(at, ..)| at);
            let deadline = |core: &Option<Core>| {
                // Ticks come on whole microseconds.
                core.as_ref().map_or(u64::MAX, |core| core.deadline().as_nanos().div_ceil(1000))
            };
            let wakes = self.cores.iter().map(deadline).zip(0..).min().unwrap_or((u64::MAX, 0));
            if arrives.min(wakes.0) > end {
                break;
            }
            if arrives <= wakes.0 {
                let (at, _, node, what) = self.coming.remove(0);
                self.now = at.max(self.now);
                match what {
                    Coming::Datagram(path, bytes) => {
                        self.give(node, Input::Datagram { path, bytes: &bytes });
                    }
                    Coming::Address(group) => self.give(node, Input::AddressReady(group)),
                    Coming::Reserved(below) => self.give(node, Input::EpochsReserved(below)),
                    Coming::Remembered => self.give(node, Input::Remembered),
                }
            } else {
                self.now = wakes.0.max(self.now);
                self.give(wakes.1, Input::Tick);
            }
        }
        self.now = end;
    }

    fn give(&mut self, node: usize, input: Input<'_>) {
        let Some(core) = &mut self.cores[node] else { return };
        let mut effects = std::mem::take(&mut self.effects);
        core.handle(at(self.now), input, &mut effects);
        for effect in effects.list.drain(..) {
            self.carry_out(node, effect, &effects.bytes);
        }
        effects.clear();
        self.effects = effects;
    }

    fn carry_out(&mut self, node: usize, effect: Effect, bytes: &[u8]) {
        match effect {
            Effect::Send { path, bytes: range } => {
                let bytes = bytes[range].to_vec();
                let to = if path.peer < node { path.peer } else { path.peer + 1 };
                let back = if node < to { node } else { node - 1 };
                let message = Message::parse(&bytes).unwrap();
                self.sent.push((self.now, node, to, message.header.kind, message.votes().count()));
                let delay = if (node, to) == (0, self.cores.len() - 1) { DELAY + LATER } else { DELAY };
                let path = PathIndex { peer: back, path: 0 };
                self.schedule(self.now + delay, to, Coming::Datagram(path, bytes));
            }
            Effect::AddAddress { group } => {
                self.addresses[node] = self.addresses[node].max(self.now) + ADDRESS;
                self.schedule(self.addresses[node], node, Coming::Address(group));
            }
            Effect::ReserveEpochs { below } => self.schedule(self.now, node, Coming::Reserved(below)),
            Effect::Remember(_) => self.schedule(self.now, node, Coming::Remembered),
            Effect::Lease { group, .. } => {
                let lease = &mut self.leases[group.0];
                if lease.is_none_or(|(holder, _)| holder != node) {
                    *lease = Some((node, self.now));
                }
            }
            _ => {}
        }
    }

    fn schedule(&mut self, at: u64, node: usize, what: Coming) {
        self.scheduled += 1;
        self.coming.push((at, self.scheduled, node, what));
    }
}

#[test]
fn votes_and_takes_of_many_groups_are_told_together() {
    let mut world = World::serving(3);
    let lost = world.now;
    world.cores[0] = None;
    world.sent.clear();
    world.run(80_000);
    let taken: Vec<u64> = world
        .leases
        .iter()
        .map(|lease| lease.filter(|(node, _)| *node == 1).expect("the second holds all").1)
        .collect();
    let (first, last) = (*taken.iter().min().unwrap(), *taken.iter().max().unwrap());
    assert!(last - lost < 50_000 + 10_000 + LATER + 4 * DELAY + ADDRESS * GROUPS as u64, "{}", last - lost);
    // One after the other, as their addresses came.
    assert!(last - first >= ADDRESS * (GROUPS as u64 - 1), "{}", last - first);

    // The last node had heard the first later than the second had: it was asked for its votes too early.
    let votes: Vec<_> = world
        .sent
        .iter()
        .filter(|(at, from, to, kind, votes)| {
            (*from, *to, *kind) == (2, 1, Kind::Acknowledgement) && *at <= first && *votes > 0
        })
        .collect();
    assert_eq!(votes.len(), 1, "{votes:?}");
    assert_eq!(votes[0].4, GROUPS);

    // To the last node: of the first take at once, of the others every eighth of a heartbeat interval.
    let told = world
        .sent
        .iter()
        .filter(|(at, from, to, kind, _)| {
            (*from, *to, *kind) == (1, 2, Kind::Heartbeat) && (first..=last + 1250).contains(at)
        })
        .count() as u64;
    let window = Duration::from_micros(last - first);
    // Those, and one or two that were due in any case.
    let most = window.as_micros() as u64 / 1250 + 2 + 2;
    assert!((2..=most).contains(&told), "{told} heartbeats in {window:?}, at most {most}");
    let news = world.sent.iter().filter(|(at, from, ..)| *from == 1 && *at > last).map(|(at, ..)| *at).min();
    assert!(news.is_some_and(|at| at <= last + 1250), "of the last one {news:?} after {last}");
}

/// Whoever starts hears of each peer for the first time, and tells it so; not each of them to all.
#[test]
fn a_start_of_many_nodes_is_no_storm() {
    let nodes = 12;
    let mut world = World::starting(nodes);
    let start = world.now;
    world.run(10_000);
    assert!(world.sent.iter().any(|(.., kind, _)| *kind == Kind::Acknowledgement), "they believe each other");
    for node in 0..nodes {
        let to = (node + 1) % nodes;
        let count = |(at, from, receiver, kind, _): &&(u64, usize, usize, Kind, usize)| {
            (*from, *receiver, *kind) == (node, to, Kind::Heartbeat) && *at < start + 10_000
        };
        let heartbeats = world.sent.iter().filter(count).count();
        // In two datagrams each while all claims are named: every eighth of an interval, and what is due in any case.
        assert!(heartbeats <= 2 * (8 + 2), "{heartbeats} datagrams of heartbeats from {node} to {to}");
    }
}
