//! The election core: whatever comes in whatever order, it neither panics nor puts out without bound, and what it sends parses.
//!
//! Datagrams are authentic ones of a peer whose contents are drawn, since foreign ones go no further than the codec.
#![no_main]

use std::time::Duration;

use arbitrary::Arbitrary;
use cluster_proto::wire::{self, Authenticator, Claim, Content, Kind, Message, Reason, Stand, Vote};
use cluster_proto::{
    AnnounceSchedule, ClusterId, Command, CommandId, Core, Effect, Effects, Epoch, Failback, Group, GroupId,
    GroupIndex, Incarnation, Input, Key, Link, Mac, NodeId, Path, PathIndex, Peer, Quorum, Settings, Start,
    Time, Timing,
};
use libfuzzer_sys::fuzz_target;

const GROUPS: usize = 2;
const PEERS: usize = 2;
/// More than this an input has no reason to cause.
const MOST_EFFECTS: usize = 2000;

#[derive(Arbitrary, Debug)]
enum Happens {
    Later(u16),
    Tick,
    Heard(Heard),
    Bytes(u8, Vec<u8>),
    Overslept(u16),
    Overflow,
    Link(u8),
    Address(u8, bool),
    NoConnections(u8),
    Answer(u8, u8),
    Claimed(u8),
    Reserved(bool),
    Remembered(bool),
    Served,
    Command(u8, u8, bool),
}

#[derive(Arbitrary, Debug)]
struct Heard {
    peer: u8,
    path: u8,
    kind: u8,
    echoes: bool,
    voting: bool,
    restarts: bool,
    later: u16,
    claims: Vec<(u8, u8, u8, u8)>,
    votes: Vec<(u8, u8, u8)>,
}

fn settings(majority: bool) -> Settings {
    let id = |node: usize| NodeId(node as u16 + 1);
    let group = |index: usize| Group {
        id: GroupId(index as u32 + 1),
        vips: vec![[10, 77, 0, 100 + index as u8].into()],
        prefer: (0..=PEERS).map(id).collect(),
        failback: [Failback::Idle(Duration::from_millis(5)), Failback::After(Duration::from_millis(30))]
            [index % 2],
        announce: AnnounceSchedule { count: 3, interval: Duration::from_millis(20) },
        grace: Duration::from_millis(200),
        gateway: (!majority).then_some([10, 77, 0, 254].into()),
        virtual_macs: Vec::new(),
        apart: Vec::new(),
        spread: None,
    };
    Settings {
        cluster: ClusterId::from_name("fuzz"),
        me: id(0),
        voter: true,
        quorum: if majority { Quorum::Majority } else { Quorum::Off },
        peers: (1..=if majority { PEERS } else { 1 })
            .map(|peer| Peer {
                id: id(peer),
                voter: true,
                paths: vec![Path { service: false }, Path { service: true }],
            })
            .collect(),
        groups: (0..GROUPS).map(group).collect(),
        timing: Timing {
            heartbeat: Duration::from_millis(10),
            lease: Duration::from_millis(40),
            dead_after: Duration::from_millis(50),
            startup_wait: Duration::from_millis(100),
        },
        keys: vec![Key([3; 32])],
        max_groups: None,
    }
}

struct World {
    core: Core,
    now: u64,
    effects: Effects,
    settings: Settings,
    /// The newest message of the core's own, after which peers' are made.
    own: Option<Vec<u8>>,
    sequences: [u64; PEERS],
}

impl World {
    fn give(&mut self, input: Input<'_>) {
        self.core.handle(Time::from_nanos(self.now), input, &mut self.effects);
        assert!(self.effects.list.len() <= MOST_EFFECTS, "{} effects", self.effects.list.len());
        let effects = std::mem::take(&mut self.effects);
        for effect in &effects.list {
            if let Effect::Send { bytes, .. } = effect {
                let bytes = &effects.bytes[bytes.clone()];
                Message::parse(bytes).expect("a core sends what parses");
                self.own = Some(bytes.to_vec());
            }
        }
        self.effects = effects;
        self.effects.clear();
    }

    /// What a peer would send: the core's own newest message with other contents.
    fn heard(&mut self, heard: &Heard) {
        let Some(own) = &self.own else { return };
        let peer = usize::from(heard.peer) % self.settings.peers.len();
        let Ok(message) = Message::parse(own) else { return };
        let mut header = message.header;
        self.sequences[peer] += u64::from(heard.later) + 1;
        header.kind =
            [Kind::Heartbeat, Kind::Acknowledgement, Kind::Introduction][usize::from(heard.kind) % 3];
        header.echo = heard.echoes.then_some(header.incarnation);
        header.echo_sent = header.sent;
        header.node = self.settings.peers[peer].id;
        header.incarnation = Incarnation(u64::from(heard.peer) + 7);
        header.sequence = self.sequences[peer];
        header.path = heard.path % 2;
        header.voting = heard.voting;
        header.restarts = heard.restarts;
        (header.state, header.base, header.part, header.parts) = (0, 0, 0, 1);
        header.service_mac = Mac([2, 0, 0, 0, 0, heard.peer]);
        let epoch = |counter: u8, node: u8| Epoch {
            counter: u64::from(counter),
            node: NodeId(u16::from(node) % (PEERS as u16 + 1) + 1),
        };
        let group = |group: u8| GroupId(u32::from(group) % GROUPS as u32 + 1);
        let claim = |&(of, stand, counter, node): &(u8, u8, u8, u8)| {
            let stand = match stand % 8 {
                0 => Stand::Idle,
                1 => Stand::Unwilling,
                2 => Stand::Wants(Reason::Promote),
                3 => Stand::Requests,
                4 => Stand::Suspended,
                5 => Stand::Ready,
                6 => Stand::Wants(Reason::Failback),
                _ => Stand::Holds {
                    offered_to: (node & 128 != 0).then_some(self.settings.me),
                    reason: if node & 128 != 0 { Reason::Demote } else { Reason::None },
                },
            };
            let template = message.claims().next()?;
            Some(Claim { group: group(of), epoch: epoch(counter, node), stand, ..template })
        };
        let claims: Vec<Claim> = heard.claims.iter().take(GROUPS).filter_map(claim).collect();
        let vote =
            |&(of, counter, node): &(u8, u8, u8)| Vote { group: group(of), epoch: epoch(counter, node) };
        let votes: Vec<Vote> = heard.votes.iter().take(GROUPS).map(vote).collect();
        let mut bytes = Vec::new();
        let content = Content { claims: &claims, votes: &votes, served: &[] };
        wire::emit(&mut bytes, &header, content, &Authenticator::new(&Key([3; 32])));
        let path = PathIndex { peer, path: usize::from(heard.path) % 2 };
        self.give(Input::Datagram { path, bytes: &bytes });
    }

    fn happens(&mut self, what: &Happens) {
        let group = |group: u8| GroupIndex(usize::from(group) % GROUPS);
        match what {
            Happens::Later(micros) => self.now += u64::from(*micros) * 1000,
            Happens::Tick => {
                let due = self.core.deadline().as_nanos();
                // For ever does not come.
                self.now = self.now.max(due.min(self.now + 10_000_000_000));
                self.give(Input::Tick);
            }
            Happens::Heard(heard) => self.heard(heard),
            Happens::Bytes(path, bytes) => {
                let path = PathIndex { peer: usize::from(*path) % self.settings.peers.len(), path: 0 };
                self.give(Input::Datagram { path, bytes });
            }
            Happens::Overslept(millis) => {
                self.give(Input::Overslept(Duration::from_millis((*millis).into())))
            }
            Happens::Overflow => self.give(Input::SocketOverflow),
            Happens::Link(0) => self.give(Input::Link(Link::Gone)),
            Happens::Link(1) => self.give(Input::Link(Link::Down)),
            Happens::Link(last) => self.give(Input::Link(Link::Up { mac: Mac([2, 0, 0, 0, 0, *last]) })),
            Happens::Address(of, true) => self.give(Input::AddressReady(group(*of))),
            Happens::Address(of, false) => self.give(Input::AddressFailed(group(*of))),
            Happens::NoConnections(of) => self.give(Input::NoConnections(group(*of))),
            Happens::Answer(last, mac) => self.give(Input::ProbeAnswer {
                address: [10, 77, 0, *last].into(),
                mac: Mac([2, 0, 0, 0, 0, *mac]),
            }),
            Happens::Claimed(mac) => {
                self.give(Input::Claimed {
                    address: [10, 77, 0, 100].into(),
                    mac: Mac([2, 0, 0, 0, 1, *mac]),
                });
            }
            Happens::Reserved(true) => self.give(Input::EpochsReserved(1 << 40)),
            Happens::Reserved(false) => self.give(Input::ReservationFailed),
            Happens::Remembered(true) => self.give(Input::Remembered),
            Happens::Remembered(false) => self.give(Input::NotRemembered),
            Happens::Served => self.give(Input::Served(&[[10, 77, 0, 9].into()])),
            Happens::Command(kind, of, force) => {
                let (group, force) = (group(*of), *force);
                let command = match kind % 5 {
                    0 => Command::Promote { group, force },
                    1 => Command::Demote { group, force },
                    2 => Command::Drain { force },
                    3 => Command::Undrain,
                    _ => Command::PrepareRestart,
                };
                self.give(Input::Command(CommandId(1), command));
            }
        }
    }
}

fuzz_target!(|input: (bool, Vec<Happens>)| {
    let (majority, script) = input;
    let settings = settings(majority);
    let now = 1_000_000_000;
    let start = Start {
        now: Time::from_nanos(now),
        incarnation: Incarnation(5),
        reserved_epochs: 1 << 20,
        memory: None,
        adopted: Vec::new(),
        tables: Vec::new(),
        resumed: Default::default(),
        link: Link::Up { mac: Mac([2, 0, 0, 0, 0, 1]) },
    };
    let core = Core::new(settings.clone(), &start);
    let mut world =
        World { core, now, effects: Effects::default(), settings, own: None, sequences: [0; PEERS] };
    world.give(Input::Tick);
    for what in script.iter().take(200) {
        world.happens(what);
    }
});
