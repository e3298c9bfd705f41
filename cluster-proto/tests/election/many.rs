//! More than two cores, under a quorum: one group, one private path between any two. All clocks show the same, a datagram
//! takes 0.1 ms, an address 0.2 ms, and what goes to disk 0.3 ms.

use std::time::Duration;

use cluster_proto::{
    Command, CommandId, Core, Effect, Effects, Epoch, GroupIndex, Incarnation, Input, Link, Memory, NodeId,
    Path, PathIndex, Peer, Quorum, Refusal, Resumed, Settings, Snapshot, Start, Time,
};

use crate::pair::{self, at, mac};

/// The only group.
pub(crate) const GROUP: GroupIndex = GroupIndex(0);

/// Nodes and everything between them. Times are in microseconds.
pub(crate) struct Many {
    pub(crate) now: u64,
    pub(crate) settings: Vec<Settings>,
    /// What their cores must not forget, as it is on disk.
    pub(crate) memories: Vec<Option<Memory>>,
    /// Whether a disk refuses what is to be remembered: it may be there all the same.
    pub(crate) disk_fails: Vec<bool>,
    /// What commands and changes of the configuration were answered.
    pub(crate) replies: Vec<(usize, Result<(), Refusal>)>,
    /// Whether an operator has seen to it that two may hold at once.
    pub(crate) may_be_two: bool,
    /// How long a datagram takes.
    pub(crate) delay: u64,
    /// How much later each further datagram of one input to the same node arrives.
    pub(crate) spread: u64,
    cores: Vec<Option<Core>>,
    cut: Vec<Vec<bool>>,
    maps: Vec<Option<(Epoch, Time)>>,
    pub(crate) disks: Vec<u64>,
    coming: Vec<(u64, u64, usize, Coming)>,
    scheduled: u64,
    runs: u64,
    effects: Effects,
}

#[derive(Debug)]
enum Coming {
    Datagram(usize, usize, Vec<u8>),
    AddressDone(GroupIndex),
    Reserved(u64),
    Remembered(Memory),
}

impl Many {
    /// So many nodes that have not been started, each a voter, the first preferred. The clocks show a thousand seconds.
    pub(crate) fn new(count: usize, lease: u64, dead_after: u64) -> Self {
        let id = |node: usize| NodeId(node as u16 + 1);
        let settings = |me: usize| {
            let mut settings = pair::settings(pair::A);
            settings.me = id(me);
            settings.quorum = Quorum::Majority;
            let others = (0..count).filter(|&other| other != me);
            settings.peers = others
                .map(|other| Peer { id: id(other), voter: true, paths: vec![Path { service: false }] })
                .collect();
            settings.groups[0].prefer = (0..count).map(id).collect();
            settings.timing.lease = Duration::from_millis(lease);
            settings.timing.dead_after = Duration::from_millis(dead_after);
            settings
        };
        Self {
            now: 1_000_000_000,
            settings: (0..count).map(settings).collect(),
            memories: vec![None; count],
            disk_fails: vec![false; count],
            replies: Vec::new(),
            may_be_two: false,
            delay: 100,
            spread: 0,
            cores: (0..count).map(|_| None).collect(),
            cut: vec![vec![false; count]; count],
            maps: vec![None; count],
            disks: vec![0; count],
            coming: Vec::new(),
            scheduled: 0,
            runs: 0,
            effects: Effects::default(),
        }
    }

    /// So many nodes that have been up for one and a half seconds, so that the first serves.
    pub(crate) fn serving(count: usize, lease: u64, dead_after: u64) -> Self {
        let mut many = Self::new(count, lease, dead_after);
        for node in 0..count {
            many.start(node);
        }
        many.run(1_500_000);
        assert_eq!(many.holders(), [0]);
        many
    }

    /// Replaces a daemon that has said that it is ready for it; the next one comes later.
    pub(crate) fn leave_for_the_next(&mut self, node: usize) -> Resumed {
        let mut snapshot = Snapshot::default();
        if let Some(core) = &self.cores[node] {
            core.show(at(self.now), &mut snapshot);
        }
        self.kill(node);
        snapshot.resumed.expect("it is ready to be replaced")
    }

    /// Starts the next daemon, which adopts the lease in the map and what the last one handed on.
    pub(crate) fn start_next(&mut self, node: usize, resumed: Resumed) {
        self.runs += 1;
        let valid = self.maps[node].filter(|&(_, until)| at(self.now) < until);
        self.maps[node] = valid;
        let start = Start {
            now: at(self.now),
            incarnation: Incarnation(self.runs * 100 + node as u64 + 1),
            reserved_epochs: self.disks[node],
            memory: self.memories[node],
            adopted: valid.map(|(epoch, until)| (GROUP, epoch, until)).into_iter().collect(),
            tables: Vec::new(),
            resumed,
            link: Link::Up { mac: mac(node) },
        };
        self.cores[node] = Some(Core::new(self.settings[node].clone(), &start));
        self.give(node, Input::Tick);
    }

    /// Starts a daemon, which adopts nothing.
    pub(crate) fn start(&mut self, node: usize) {
        self.runs += 1;
        let start = Start {
            now: at(self.now),
            incarnation: Incarnation(self.runs * 100 + node as u64 + 1),
            reserved_epochs: self.disks[node],
            memory: self.memories[node],
            adopted: Vec::new(),
            tables: Vec::new(),
            resumed: Resumed::default(),
            link: Link::Up { mac: mac(node) },
        };
        self.maps[node] = None;
        self.cores[node] = Some(Core::new(self.settings[node].clone(), &start));
        self.give(node, Input::Tick);
    }

    /// Kills a daemon; what was on its way to the disk is lost.
    pub(crate) fn kill(&mut self, node: usize) {
        self.cores[node] = None;
        self.coming.retain(|(_, _, to, what)| *to != node || matches!(what, Coming::Datagram(..)));
    }

    /// Cuts one direction.
    pub(crate) fn cut_one_way(&mut self, from: usize, to: usize, cut: bool) {
        self.cut[from][to] = cut;
    }

    /// Cuts both directions.
    pub(crate) fn cut(&mut self, one: usize, other: usize, cut: bool) {
        self.cut_one_way(one, other, cut);
        self.cut_one_way(other, one, cut);
    }

    /// Hands a node another configuration.
    pub(crate) fn reload(&mut self, node: usize, change: impl FnOnce(&mut Settings)) {
        change(&mut self.settings[node]);
        let settings = Box::new(self.settings[node].clone());
        self.give(node, Input::Reconfigure(CommandId(9), settings));
    }

    /// Gives a command; its number is always 7.
    pub(crate) fn command(&mut self, node: usize, command: Command) {
        self.give(node, Input::Command(CommandId(7), command));
    }

    /// Who has a valid lease in its map.
    pub(crate) fn holders(&self) -> Vec<usize> {
        (0..self.maps.len()).filter(|&node| self.lease(node) > at(self.now)).collect()
    }

    /// Until when a node's map lets it serve.
    pub(crate) fn lease(&self, node: usize) -> Time {
        self.maps[node].map_or(Time::ZERO, |(_, until)| until)
    }

    /// Lets time pass, in steps of 50 us, after each of which at most one node holds, if that is the rule.
    pub(crate) fn run(&mut self, micros: u64) {
        let end = self.now + micros;
        while self.now < end {
            self.now += 50;
            while let Some(next) = self.next_arrival() {
                let (_, _, to, what) = self.coming.remove(next);
                self.comes(to, what);
            }
            for node in 0..self.cores.len() {
                let due = |core: &Core| core.deadline() <= at(self.now);
                if self.cores[node].as_ref().is_some_and(due) {
                    self.give(node, Input::Tick);
                }
            }
            let holders = self.holders();
            assert!(
                self.may_be_two || holders.len() <= 1,
                "{holders:?} hold at once, at {} us",
                self.now - 1_000_000_000
            );
        }
    }

    /// Lets time pass until something is so; at most a second.
    pub(crate) fn run_until(&mut self, so: impl Fn(&Self) -> bool) {
        for _ in 0..20_000 {
            if so(self) {
                return;
            }
            self.run(50);
        }
        panic!("it is not so within a second");
    }

    fn next_arrival(&self) -> Option<usize> {
        let arrived = self.coming.iter().enumerate().filter(|(_, (when, ..))| *when <= self.now);
        arrived.min_by_key(|(_, (when, order, ..))| (*when, *order)).map(|(place, _)| place)
    }

    fn comes(&mut self, to: usize, what: Coming) {
        match what {
            Coming::Datagram(from, path, bytes) => {
                let peer = if from < to { from } else { from - 1 };
                if path >= self.settings[to].peers[peer].paths.len() {
                    return;
                }
                self.give(to, Input::Datagram { path: PathIndex { peer, path }, bytes: &bytes });
                // As the driver does: what is there is read, then the timers run.
                self.give(to, Input::Tick);
            }
            Coming::AddressDone(group) => self.give(to, Input::AddressReady(group)),
            Coming::Reserved(below) => {
                self.disks[to] = below;
                self.give(to, Input::EpochsReserved(below));
            }
            Coming::Remembered(memory) => {
                self.memories[to] = Some(memory);
                let failed = self.disk_fails[to];
                self.give(to, if failed { Input::NotRemembered } else { Input::Remembered });
            }
        }
    }

    fn give(&mut self, node: usize, input: Input<'_>) {
        let Some(core) = &mut self.cores[node] else { return };
        let mut effects = std::mem::take(&mut self.effects);
        effects.clear();
        core.handle(at(self.now), input, &mut effects);
        let mut sent = vec![0; self.maps.len() * 8];
        for effect in effects.list.drain(..) {
            let mut later = 0;
            if let Effect::Send { path, .. } = &effect {
                assert!(
                    path.path < self.settings[node].peers[path.peer].paths.len(),
                    "sends on a path that there is not: {path:?}"
                );
                later = sent[path.peer * 8 + path.path] * self.spread;
                sent[path.peer * 8 + path.path] += 1;
            }
            self.carry_out(node, effect, &effects.bytes, later);
        }
        self.effects = effects;
    }

    fn carry_out(&mut self, node: usize, effect: Effect, bytes: &[u8], later: u64) {
        match effect {
            Effect::Send { path, bytes: range } => {
                let to = if path.peer < node { path.peer } else { path.peer + 1 };
                if !self.cut[node][to] {
                    // The first of two paths is the slower one.
                    let slower =
                        if self.settings[node].peers[path.peer].paths.len() > path.path + 1 { 50 } else { 0 };
                    let after = self.delay + later + slower;
                    self.schedule(after, to, Coming::Datagram(node, path.path, bytes[range].to_vec()));
                }
            }
            Effect::Lease { group, epoch, until } if group == GROUP => self.maps[node] = Some((epoch, until)),
            Effect::Dark { group } if group == GROUP => self.maps[node] = None,
            Effect::Lease { .. } | Effect::Dark { .. } => {}
            Effect::AddAddress { group } => self.schedule(200, node, Coming::AddressDone(group)),
            Effect::ReserveEpochs { below } => self.schedule(300, node, Coming::Reserved(below)),
            Effect::Remember(memory) => self.schedule(300, node, Coming::Remembered(memory)),
            Effect::Reply(_, outcome) => self.replies.push((node, outcome)),
            Effect::Announce { .. }
            | Effect::Probe { .. }
            | Effect::Kin { .. }
            | Effect::RemoveAddress { .. }
            | Effect::Grace { .. }
            | Effect::EndGrace { .. }
            | Effect::Table { .. }
            | Effect::Serve { .. }
            | Effect::WatchConnections { .. }
            | Effect::LetGo { .. }
            | Effect::Reconfigured
            | Effect::Event(_) => {}
        }
    }

    fn schedule(&mut self, after: u64, to: usize, what: Coming) {
        self.scheduled += 1;
        self.coming.push((self.now + after, self.scheduled, to, what));
    }
}
