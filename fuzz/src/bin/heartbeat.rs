//! The heartbeat codec: no bytes panic it, and what parses says the same when it is written again and parsed anew.
//!
//! An input is tried as it is, and as the difference to a heartbeat that a core has sent: few bytes that a fuzzer comes upon
//! have the right lengths in them.
#![no_main]

use std::net::IpAddr;
use std::sync::LazyLock;
use std::time::Duration;

use cluster_proto::wire::{self, Authenticator, Content, Message};
use cluster_proto::{
    AnnounceSchedule, ClusterId, Core, Effect, Effects, Failback, Group, GroupId, Incarnation, Input, Key,
    Link, Mac, NodeId, Path, Peer, Quorum, Settings, Start, Time, Timing,
};
use libfuzzer_sys::fuzz_target;

/// What a core sends first.
static HEARTBEAT: LazyLock<Vec<u8>> = LazyLock::new(|| {
    let group = |number: u8| Group {
        id: GroupId(number.into()),
        vips: vec![IpAddr::from([10, 77, 0, number])],
        prefer: vec![NodeId(1), NodeId(2)],
        failback: Failback::Never,
        announce: AnnounceSchedule { count: 1, interval: Duration::from_millis(500) },
        grace: Duration::ZERO,
        gateway: None,
        virtual_macs: Vec::new(),
        apart: Vec::new(),
        spread: None,
    };
    let settings = Settings {
        cluster: ClusterId::from_name("fuzz"),
        me: NodeId(1),
        voter: true,
        quorum: Quorum::Off,
        peers: vec![Peer { id: NodeId(2), voter: true, paths: vec![Path { service: true }] }],
        groups: vec![group(1), group(2)],
        timing: Timing {
            heartbeat: Duration::from_millis(10),
            lease: Duration::from_millis(40),
            dead_after: Duration::from_millis(50),
            startup_wait: Duration::from_millis(100),
        },
        keys: vec![Key([3; 32])],
        max_groups: None,
    };
    let start = Start {
        now: Time::from_nanos(1_000_000_000),
        incarnation: Incarnation(5),
        reserved_epochs: 1 << 20,
        memory: None,
        adopted: Vec::new(),
        tables: Vec::new(),
        resumed: Default::default(),
        link: Link::Up { mac: Mac([2, 0, 0, 0, 0, 1]) },
    };
    let mut core = Core::new(settings, &start);
    let mut effects = Effects::default();
    core.handle(start.now, Input::Tick, &mut effects);
    let sent = effects.list.iter().find_map(|effect| match effect {
        Effect::Send { bytes, .. } => Some(effects.bytes[bytes.clone()].to_vec()),
        _ => None,
    });
    sent.expect("a core sends heartbeats")
});

fn check(bytes: &[u8]) {
    let keys = [Authenticator::new(&Key([3; 32])), Authenticator::new(&Key([4; 32]))];
    let _ = wire::foreign_version(bytes, &keys);
    let Ok(message) = Message::parse(bytes) else { return };
    let _ = message.authenticate(&keys);
    let (claims, votes): (Vec<_>, Vec<_>) = (message.claims().collect(), message.votes().collect());
    let served: Vec<_> = message.served().collect();
    let content = Content { claims: &claims, votes: &votes, served: &served };
    let mut written = Vec::new();
    wire::emit(&mut written, &message.header, content, &keys[0]);
    let again = Message::parse(&written).expect("what a core writes parses");
    assert!(again.authenticate(&keys).is_ok());
    assert_eq!(format!("{:?}", again.header), format!("{:?}", message.header));
    assert!(again.claims().eq(claims) && again.votes().eq(votes) && again.served().eq(served));
}

fuzz_target!(|bytes: &[u8]| {
    check(bytes);
    let mut differing = HEARTBEAT.clone();
    for (byte, change) in differing.iter_mut().zip(bytes) {
        *byte ^= change;
    }
    // More than the heartbeat's own length is added behind it, so that there are other lengths as well.
    differing.extend(bytes.iter().skip(HEARTBEAT.len()));
    check(&differing);
});
