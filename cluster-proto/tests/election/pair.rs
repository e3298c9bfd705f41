//! Two cores side by side, with a network, hosts and clocks so simple that every effect can be foretold: both clocks show
//! the same, a datagram takes 0.1 ms, an address 0.2 ms, a reservation 0.3 ms, and an ARP answer 0.1 ms.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::Duration;

use cluster_proto::wire::{Claim, Kind, Message, Stand, Vote};
use cluster_proto::{
    AnnounceSchedule, ClusterId, Command, CommandId, Core, Effect, Effects, Epoch, EventKind, Failback,
    Group, GroupId, GroupIndex, Incarnation, Input, Key, Link, Mac, Memory, NodeId, Path, PathIndex, Peer,
    Quorum, Resumed, Settings, Side, Snapshot, Start, Time, Timing,
};

/// The node that is preferred, with id 1.
pub(crate) const A: usize = 0;
/// The other, with id 2.
pub(crate) const B: usize = 1;
/// The path over the link that clients use; path 0 is private.
pub(crate) const SERVICE: usize = 1;
/// The VIP of the only group.
pub(crate) const VIP: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 77, 0, 100));
/// A client.
pub(crate) const CLIENT: IpAddr = IpAddr::V6(Ipv6Addr::new(0xfd77, 0, 0, 0, 0, 0, 0, 0x50));
/// A router on the service link.
pub(crate) const GATEWAY: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 77, 0, 254));

const GROUP: GroupIndex = GroupIndex(0);

/// Both nodes and everything between them. Times are in microseconds.
pub(crate) struct Pair {
    pub(crate) now: u64,
    pub(crate) nodes: [Option<Node>; 2],
    pub(crate) settings: [Settings; 2],
    /// Whether a path is cut, by sender and path.
    pub(crate) cut: [[bool; 2]; 2],
    /// Whether a node's service port carries no ARP.
    pub(crate) arp_cut: [bool; 2],
    /// What happens to a node's host when an address is to be added.
    pub(crate) addresses_fail: [bool; 2],
    /// Whether the holder's driver tells which clients it serves.
    pub(crate) serves_clients: bool,
    /// All that nodes did, in order: when, who, what.
    pub(crate) log: Vec<(u64, usize, String)>,
    /// Datagrams sent: from, path, bytes.
    pub(crate) sent: Vec<(usize, usize, Vec<u8>)>,
    /// Leases in the maps, which outlive the daemons.
    pub(crate) maps: [Option<(Epoch, Time)>; 2],
    /// Which ends of hand-overs the data planes were told of: node, side, the other, until when.
    pub(crate) graces: Vec<(usize, Side, Mac, Time)>,
    pub(crate) disks: [u64; 2],
    /// What their cores must not forget.
    pub(crate) memories: [Option<Memory>; 2],
    /// What a daemon that was replaced has handed on to the next.
    resumed: [Option<Resumed>; 2],
    /// What a node last said of the group.
    told: [Option<Claim>; 2],
    coming: Vec<(u64, u64, usize, Coming)>,
    scheduled: u64,
    runs: u64,
}

pub(crate) struct Node {
    pub(crate) core: Core,
    pub(crate) link: Link,
    pub(crate) effects: Effects,
}

#[derive(Clone, Debug)]
enum Coming {
    Datagram(usize, Vec<u8>),
    Arp(IpAddr, Mac),
    AddressDone(bool),
    Reserved(u64),
    Remembered(Memory),
}

pub(crate) fn mac(node: usize) -> Mac {
    Mac([2, 0, 0, 0, 0, node as u8 + 1])
}

pub(crate) fn at(micros: u64) -> Time {
    Time::from_nanos(micros * 1000)
}

/// The settings of one of two nodes, with the normal timing and both paths.
pub(crate) fn settings(me: usize) -> Settings {
    let id = |node: usize| NodeId(node as u16 + 1);
    Settings {
        cluster: ClusterId::from_name("pair"),
        me: id(me),
        voter: true,
        quorum: Quorum::Off,
        peers: vec![Peer {
            id: id(1 - me),
            voter: true,
            paths: vec![Path { service: false }, Path { service: true }],
        }],
        groups: vec![Group {
            id: GroupId::from_name("web"),
            vips: vec![VIP],
            prefer: vec![id(A), id(B)],
            failback: Failback::Never,
            announce: AnnounceSchedule { count: 1, interval: Duration::from_millis(500) },
            grace: Duration::ZERO,
            gateway: None,
            virtual_macs: Vec::new(),
            apart: Vec::new(),
            spread: None,
        }],
        timing: Timing {
            heartbeat: Duration::from_millis(10),
            lease: Duration::from_millis(40),
            dead_after: Duration::from_millis(50),
            startup_wait: Duration::from_millis(200),
        },
        keys: vec![Key([3; 32])],
        max_groups: None,
    }
}

impl Pair {
    /// Two nodes that have not been started. The clocks show a thousand seconds.
    pub(crate) fn new() -> Self {
        Self {
            now: 1_000_000_000,
            nodes: [None, None],
            settings: [settings(A), settings(B)],
            cut: [[false; 2]; 2],
            arp_cut: [false; 2],
            addresses_fail: [false; 2],
            serves_clients: false,
            log: Vec::new(),
            sent: Vec::new(),
            maps: [None, None],
            graces: Vec::new(),
            disks: [0; 2],
            memories: [None; 2],
            resumed: [None, None],
            told: [None; 2],
            coming: Vec::new(),
            scheduled: 0,
            runs: 0,
        }
    }

    /// Two nodes that have been up for a second, so that the better-ranked serves.
    pub(crate) fn serving() -> Self {
        let mut pair = Self::new();
        pair.settle();
        pair
    }

    /// Starts both and lets a second pass.
    pub(crate) fn settle(&mut self) {
        self.start(A);
        self.start(B);
        self.run(1_000_000);
        assert!(self.holds(A) && !self.holds(B), "{:?}", self.log);
        self.log.clear();
        self.sent.clear();
    }

    /// Starts a daemon, which adopts what the map still holds.
    pub(crate) fn start(&mut self, node: usize) {
        self.runs += 1;
        let link = Link::Up { mac: mac(node) };
        let now = at(self.now);
        let valid = self.maps[node].filter(|&(_, until)| now < until);
        let adopted: Vec<_> = valid.map(|(epoch, until)| (GROUP, epoch, until)).into_iter().collect();
        if valid.is_none() {
            self.maps[node] = None;
        }
        let start = Start {
            now,
            incarnation: Incarnation(self.runs * 100 + node as u64 + 1),
            reserved_epochs: self.disks[node],
            memory: self.memories[node],
            adopted,
            tables: Vec::new(),
            resumed: self.resumed[node].take().unwrap_or_default(),
            link,
        };
        let core = Core::new(self.settings[node].clone(), &start);
        self.nodes[node] = Some(Node { core, link, effects: Effects::default() });
        self.give(node, Input::Tick);
    }

    /// Kills a daemon; its lease stays in the map.
    pub(crate) fn kill(&mut self, node: usize) {
        self.nodes[node] = None;
        self.coming.retain(|(_, _, to, what)| *to != node || matches!(what, Coming::Datagram(..)));
    }

    /// Has a daemon get ready to be replaced, and takes it away; the next is to be started.
    pub(crate) fn replace(&mut self, node: usize) {
        let seen = self.log.len();
        self.command(node, Command::PrepareRestart);
        let ready =
            |pair: &Self| pair.log[seen..].iter().any(|(_, by, line)| *by == node && line == "reply 7 done");
        for _ in 0..60_000 {
            if ready(self) {
                break;
            }
            self.run(100);
        }
        let mut snapshot = Snapshot::default();
        if let Some(state) = &self.nodes[node] {
            state.core.show(at(self.now), &mut snapshot);
        }
        assert!(snapshot.resumed.is_some(), "{:?}", self.log);
        self.kill(node);
        self.resumed[node] = snapshot.resumed;
    }

    /// The Ethernet address under which the VIP appears on a node.
    fn face(&self, node: usize) -> Mac {
        self.settings[node].groups[0].virtual_macs.first().copied().unwrap_or(mac(node))
    }

    /// Whether the map lets the node serve.
    pub(crate) fn holds(&self, node: usize) -> bool {
        self.maps[node].is_some_and(|(_, until)| at(self.now) < until)
    }

    /// Cuts or mends all heartbeats in one direction.
    pub(crate) fn cut_from(&mut self, node: usize, cut: bool) {
        self.cut[node] = [cut; 2];
    }

    /// Cuts or mends everything between the two.
    pub(crate) fn partition(&mut self, cut: bool) {
        self.cut = [[cut; 2]; 2];
        self.arp_cut = [cut; 2];
    }

    /// Cuts or mends a node's service link: heartbeats and ARP, peers and clients.
    pub(crate) fn cut_service(&mut self, node: usize, cut: bool) {
        self.cut[A][SERVICE] = cut;
        self.cut[B][SERVICE] = cut;
        self.arp_cut[node] = cut;
    }

    /// Lets time pass.
    pub(crate) fn run(&mut self, micros: u64) {
        let end = self.now + micros;
        loop {
            let due = |node: &Option<Node>| {
                node.as_ref().map_or(u64::MAX, |node| node.core.deadline().as_nanos().div_ceil(1000))
            };
            let ticks = [due(&self.nodes[A]), due(&self.nodes[B])];
            let next = self.coming.iter().map(|&(when, order, ..)| (when, order)).min();
            let arrival = next.map_or(u64::MAX, |(when, _)| when);
            let soonest = arrival.min(ticks[A]).min(ticks[B]).max(self.now);
            if soonest > end {
                self.now = end;
                return;
            }
            self.now = soonest;
            if arrival <= soonest {
                let place = self.coming.iter().position(|&(when, order, ..)| Some((when, order)) == next);
                let (_, _, to, what) = self.coming.remove(place.expect("it was found"));
                self.comes(to, what);
            } else {
                self.give(if ticks[A] <= soonest { A } else { B }, Input::Tick);
            }
        }
    }

    /// Lets time pass until a line appears in a node's log; at most a minute. Returns when, since the start of the wait.
    pub(crate) fn run_until(&mut self, node: usize, line: &str) -> u64 {
        let (start, seen) = (self.now, self.log.len());
        while self.now < start + 60_000_000 {
            if let Some((when, ..)) =
                self.log[seen..].iter().find(|(_, by, what)| *by == node && what == line)
            {
                return when - start;
            }
            self.run(100);
        }
        panic!("node {node} never says {line:?}; it says {:#?}", self.said(node));
    }

    /// Hands a node an input.
    pub(crate) fn give(&mut self, node: usize, input: Input<'_>) {
        let Some(state) = &mut self.nodes[node] else { return };
        let mut effects = std::mem::take(&mut state.effects);
        effects.clear();
        state.core.handle(at(self.now), input, &mut effects);
        for effect in effects.list.drain(..) {
            let line = self.describe(node, &effect, &effects.bytes);
            // What is remembered matters only to a restart.
            if !matches!(effect, Effect::Remember(_)) {
                self.log.push((self.now, node, line));
            }
            self.carry_out(node, effect, &effects.bytes);
        }
        if let Some(state) = &mut self.nodes[node] {
            state.effects = effects;
        }
    }

    /// Gives a command; its number is always 7.
    pub(crate) fn command(&mut self, node: usize, command: Command) {
        self.give(node, Input::Command(CommandId(7), command));
    }

    /// Changes a node's service interface.
    pub(crate) fn link(&mut self, node: usize, link: Link) {
        if let Some(state) = &mut self.nodes[node] {
            state.link = link;
        }
        let up = matches!(link, Link::Up { .. });
        self.cut_service(node, !up);
        self.give(node, Input::Link(link));
    }

    fn comes(&mut self, to: usize, what: Coming) {
        match what {
            Coming::Datagram(path, bytes) => {
                let path = PathIndex { peer: 0, path };
                self.give(to, Input::Datagram { path, bytes: &bytes });
                // As the driver does: what is there is read, then the timers run.
                self.give(to, Input::Tick);
            }
            Coming::Arp(address, mac) => {
                self.give(to, Input::ProbeAnswer { address, mac });
                self.give(to, Input::Tick);
            }
            Coming::AddressDone(true) => self.give(to, Input::AddressReady(GROUP)),
            Coming::AddressDone(false) => self.give(to, Input::AddressFailed(GROUP)),
            Coming::Remembered(memory) => {
                self.memories[to] = Some(memory);
                self.give(to, Input::Remembered);
            }
            Coming::Reserved(below) => {
                self.disks[to] = below;
                self.give(to, Input::EpochsReserved(below));
            }
        }
    }

    fn schedule(&mut self, after: u64, to: usize, what: Coming) {
        self.scheduled += 1;
        self.coming.push((self.now + after, self.scheduled, to, what));
    }

    fn carry_out(&mut self, node: usize, effect: Effect, bytes: &[u8]) {
        let other = 1 - node;
        match effect {
            Effect::Send { path, bytes: range } => {
                let bytes = bytes[range].to_vec();
                self.sent.push((node, path.path, bytes.clone()));
                if !self.cut[node][path.path] && self.nodes[other].is_some() {
                    self.schedule(100, other, Coming::Datagram(path.path, bytes));
                }
            }
            Effect::Lease { epoch, until, .. } => {
                self.maps[node] = Some((epoch, until));
                if self.serves_clients && !self.arp_cut[node] {
                    self.give(node, Input::Served(&[CLIENT]));
                }
            }
            Effect::Dark { .. } => self.maps[node] = None,
            Effect::Grace { side, other, until, .. } => self.graces.push((node, side, other, until)),
            Effect::AddAddress { .. } => {
                self.schedule(200, node, Coming::AddressDone(!self.addresses_fail[node]));
            }
            Effect::Announce { .. } if !self.arp_cut[A] && !self.arp_cut[B] => {
                self.schedule(100, other, Coming::Arp(VIP, self.face(node)));
            }
            Effect::Probe { address } if !self.arp_cut[node] => {
                if address == CLIENT || address == GATEWAY {
                    self.schedule(100, node, Coming::Arp(address, Mac([2, 0, 0, 0, 1, 1])));
                } else if self.holds(other) && !self.arp_cut[other] {
                    self.schedule(100, node, Coming::Arp(address, self.face(other)));
                }
            }
            Effect::ReserveEpochs { below } => self.schedule(300, node, Coming::Reserved(below)),
            Effect::Remember(memory) => self.schedule(300, node, Coming::Remembered(memory)),
            Effect::Announce { .. }
            | Effect::Probe { .. }
            | Effect::Kin { .. }
            | Effect::RemoveAddress { .. }
            | Effect::EndGrace { .. }
            | Effect::Table { .. }
            | Effect::Serve { .. }
            | Effect::WatchConnections { .. }
            | Effect::LetGo { .. }
            | Effect::Reconfigured
            | Effect::Reply(..)
            | Effect::Event(_) => {}
        }
    }

    /// What a node did, but for the heartbeats and acknowledgements in which it says nothing new, and the renewals of
    /// its lease.
    pub(crate) fn said(&self, node: usize) -> Vec<&str> {
        let mut said = Vec::new();
        let mut last = [""; 2];
        let mut lease = "";
        for (_, by, what) in &self.log {
            if *by != node || what.starts_with("ack") || what.starts_with("kin") {
                continue;
            }
            if let Some(words) = what.strip_prefix("heartbeat ") {
                let path = usize::from(words.starts_with('1'));
                if last[path] == &words[1..] {
                    continue;
                }
                last[path] = &words[1..];
            }
            if what.starts_with("lease ") {
                if lease == what {
                    continue;
                }
                lease = what;
            } else if what.starts_with("dark") {
                lease = "";
            }
            said.push(what.as_str());
        }
        said
    }

    /// All that a node did, acknowledgements and renewals included.
    pub(crate) fn did(&self, node: usize) -> Vec<&str> {
        self.log.iter().filter(|(_, by, _)| *by == node).map(|(_, _, what)| what.as_str()).collect()
    }

    fn describe(&mut self, node: usize, effect: &Effect, bytes: &[u8]) -> String {
        match effect {
            Effect::Send { path, bytes: range } => {
                let message = Message::parse(&bytes[range.clone()]).expect("a core sends only what parses");
                self.told[node] = message.claims().last().or(self.told[node]);
                describe_message(path.path, &message, self.told[node], self.told[1 - node])
            }
            Effect::Lease { epoch, .. } => format!("lease {epoch}"),
            Effect::Dark { .. } => "dark".into(),
            Effect::AddAddress { .. } => "add address".into(),
            Effect::RemoveAddress { .. } => "remove address".into(),
            Effect::Grace { side, .. } => format!("grace {side:?}"),
            Effect::EndGrace { .. } => "end grace".into(),
            Effect::Table { .. } => "table".into(),
            Effect::Serve { gave_up: false, .. } => "serve".into(),
            Effect::Serve { gave_up: true, .. } => "serve, having given up".into(),
            Effect::WatchConnections { .. } => "watch connections".into(),
            Effect::LetGo { .. } => "let go".into(),
            Effect::Announce { .. } => "announce".into(),
            Effect::Probe { address } => format!("probe {address}"),
            Effect::Kin { is, .. } => format!("kin {is}"),
            Effect::ReserveEpochs { below } => format!("reserve {below}"),
            Effect::Remember(memory) => format!("remember {} voters", memory.current.voters.count()),
            Effect::Reconfigured => "reconfigured".into(),
            Effect::Reply(CommandId(id), Ok(())) => format!("reply {id} done"),
            Effect::Reply(CommandId(id), Err(refusal)) => format!("reply {id} {refusal:?}"),
            Effect::Event(event) => match event.kind {
                EventKind::Transition { from, to, cause, .. } => {
                    format!("event {from:?} -> {to:?}: {cause:?}")
                }
                EventKind::Regained { .. } => "event Regained".into(),
                EventKind::Lapse { .. } => "event Lapse".into(),
                EventKind::DualHolder { other, .. } => format!("event DualHolder {other}"),
                EventKind::Handover { to, cause, .. } => format!("event Handover to {}: {cause:?}", to.0),
                EventKind::HandoverFailed { to, .. } => format!("event HandoverFailed to {}", to.0),
                EventKind::ProbeAnswered { .. } => "event ProbeAnswered".into(),
                EventKind::Rival { mac, .. } => format!("event Rival {mac}"),
                EventKind::PathUp(path) => format!("event PathUp {}", path.path),
                EventKind::PathDown(path) => format!("event PathDown {}", path.path),
                EventKind::PeerUp(id) => format!("event PeerUp {}", id.0),
                EventKind::PeerDown(id) => format!("event PeerDown {}", id.0),
                other => format!("event {other:?}"),
            },
        }
    }
}

/// A message in a few words: kind and path, claim, vote. The claim of a heartbeat that names none is that of the last
/// that did.
fn describe_message(path: usize, message: &Message<'_>, own: Option<Claim>, other: Option<Claim>) -> String {
    let kind = match message.header.kind {
        Kind::Heartbeat => "heartbeat",
        Kind::Acknowledgement | Kind::Introduction | Kind::Spread => "ack",
    };
    let mut words = format!("{kind} {path}");
    if let Some(claim) = own.filter(|_| message.header.kind != Kind::Acknowledgement) {
        match claim.stand {
            Stand::Holds { offered_to: Some(to), reason } => {
                words += &format!(" Holds {} offered to {}: {reason:?}", claim.epoch, to.0);
            }
            Stand::Holds { offered_to: None, .. } => words += &format!(" Holds {}", claim.epoch),
            Stand::Idle | Stand::Unwilling => words += &format!(" {:?}", claim.stand),
            stand => words += &format!(" {stand:?} {}", claim.epoch),
        }
        if claim.by_hand {
            words += " by hand";
        }
    }
    let held = other.filter(|_| message.header.held).map(|claim| claim.epoch);
    for epoch in message.votes().map(|vote| vote.epoch).chain(held) {
        words +=
            &if epoch == Vote::CONSENT { " vote for what is held".into() } else { format!(" vote {epoch}") };
    }
    words
}
