//! What does not come from the peer's present run: counted by kind, without effect.

use cluster_proto::wire::{self, Authenticator, Content, Header, Kind, Message};
use cluster_proto::{ClusterId, Dropped, Input, Key, NodeId, PathIndex, Snapshot};

use hmac::{Hmac, KeyInit as _, Mac as _};
use sha2::Sha256;

use crate::pair::{A, B, Pair, at};

type Counter = fn(&mut Dropped) -> &mut u64;

fn dropped(pair: &Pair, node: usize) -> Dropped {
    let mut snapshot = Snapshot::default();
    pair.nodes[node].as_ref().unwrap().core.show(at(pair.now), &mut snapshot);
    snapshot.dropped
}

/// Hands a node a datagram and makes sure that nothing comes of it but the counts.
fn give(pair: &mut Pair, node: usize, path: usize, bytes: &[u8]) {
    let before = pair.log.len();
    pair.give(node, Input::Datagram { path: PathIndex { peer: 0, path }, bytes });
    assert_eq!(pair.log.len(), before, "{:?}", &pair.log[before..]);
}

/// A heartbeat of B as A would believe it, but for what `change` does to it.
fn heartbeat(pair: &Pair, change: impl FnOnce(&mut Header), key: Key) -> Vec<u8> {
    let (_, _, newest) = pair.sent.iter().rev().find(|(from, path, _)| (*from, *path) == (B, 0)).unwrap();
    let message = Message::parse(newest).unwrap();
    let mut header = Header { kind: Kind::Heartbeat, sequence: 1 << 30, ..message.header };
    change(&mut header);
    let mut bytes = Vec::new();
    let (claims, votes): (Vec<_>, Vec<_>) = (message.claims().collect(), message.votes().collect());
    let content = Content { claims: &claims, votes: &votes, served: &[] };
    wire::emit(&mut bytes, &header, content, &Authenticator::new(&key));
    bytes
}

#[test]
fn each_kind_is_counted_and_changes_nothing() {
    let mut pair = Pair::serving();
    pair.run(20_000);
    let key = || Key([3; 32]);
    let good = heartbeat(&pair, |_| {}, key());
    let cases: [(Vec<u8>, Counter); 9] = [
        (good[..good.len() - 1].to_vec(), |dropped| &mut dropped.malformed),
        (vec![0; 2000], |dropped| &mut dropped.malformed),
        (Vec::new(), |dropped| &mut dropped.malformed),
        (heartbeat(&pair, |_| {}, Key([4; 32])), |dropped| &mut dropped.forged),
        (heartbeat(&pair, |header| header.cluster = ClusterId(9), key()), |dropped| {
            &mut dropped.other_cluster
        }),
        (heartbeat(&pair, |header| header.node = NodeId(9), key()), |dropped| &mut dropped.unknown_node),
        (heartbeat(&pair, |header| header.node = NodeId(1), key()), |dropped| &mut dropped.own_id),
        (heartbeat(&pair, |header| header.sequence = 90, key()), |dropped| &mut dropped.replayed),
        (heartbeat(&pair, |header| header.path = 1, key()), |dropped| &mut dropped.replayed),
    ];
    for (bytes, counter) in cases {
        let mut expected = dropped(&pair, A);
        *counter(&mut expected) += 1;
        give(&mut pair, A, 0, &bytes);
        assert_eq!(dropped(&pair, A), expected);
    }
    let mut unspoken = good;
    (unspoken[0], unspoken[1]) = (9, 8);
    give(&mut pair, A, 0, &unspoken);
    assert_eq!(dropped(&pair, A).version, 1);
}

/// The same message as another version sends it.
fn of_version(mut bytes: Vec<u8>, version: u8, minimum: u8) -> Vec<u8> {
    (bytes[0], bytes[1]) = (version, minimum);
    let end = bytes.len() - wire::TAG_LEN;
    let mut hmac = Hmac::<Sha256>::new_from_slice(&[3; 32]).unwrap();
    hmac.update(&bytes[..end]);
    bytes[end..].copy_from_slice(&hmac.finalize().into_bytes());
    bytes
}

/// A later version that says that ours understands it is understood. One that does not is counted, and told once a minute:
/// without that it would look like a peer that is gone.
#[test]
fn later_versions_are_understood_or_told() {
    let mut pair = Pair::serving();
    pair.run(20_000);
    let key = Key([3; 32]);
    let unspoken = heartbeat(&pair, |_| {}, key.clone());
    let unspoken = of_version(unspoken, wire::VERSION + 2, wire::VERSION + 1);
    let told = |pair: &Pair| pair.said(A).iter().filter(|line| line.contains("WireVersion")).count();
    for (wait, told_by_then) in [(0, 1), (59_000_000, 1), (1_100_000, 2)] {
        pair.run(wait);
        let seen = dropped(&pair, A).version;
        pair.give(A, Input::Datagram { path: PathIndex { peer: 0, path: 0 }, bytes: &unspoken });
        assert_eq!((dropped(&pair, A).version, told(&pair)), (seen + 1, told_by_then));
    }
    let said = format!(
        "event WireVersion {{ peer: NodeId(2), version: {}, minimum: {} }}",
        wire::VERSION + 2,
        wire::VERSION + 1
    );
    assert!(pair.said(A).contains(&said.as_str()), "{:?}", pair.said(A));
    // Whoever has no key can have nothing told.
    let mut forged = unspoken;
    let last = forged.len() - 1;
    forged[last] ^= 1;
    pair.run(61_000_000);
    give(&mut pair, A, 0, &forged);

    let later = heartbeat(&pair, |header| header.sequence = 1 << 60, key);
    let later = of_version(later, wire::VERSION + 1, wire::VERSION);
    let before = (dropped(&pair, A), pair.log.len());
    pair.give(A, Input::Datagram { path: PathIndex { peer: 0, path: 0 }, bytes: &later });
    assert_eq!(dropped(&pair, A), before.0);
    assert!(pair.log[before.1].2.starts_with("ack 0"), "it is answered: {:?}", &pair.log[before.1..]);
}

#[test]
fn a_whole_recorded_session_convinces_nobody() {
    let mut pair = Pair::serving();
    pair.run(305_000);
    let recorded: Vec<_> = pair.sent.drain(..).filter(|(from, ..)| *from == A).collect();
    // Into the same run.
    for (_, path, bytes) in &recorded {
        give(&mut pair, B, *path, bytes);
    }
    let before = dropped(&pair, B);
    assert_eq!(before.replayed, recorded.len() as u64);
    // A is dead, and B has restarted: nobody who can be heard has echoed its run.
    pair.kill(A);
    pair.kill(B);
    pair.start(B);
    pair.log.clear();
    let mut answers = 0;
    for (_, path, bytes) in &recorded {
        pair.run(200);
        let from = pair.log.len();
        pair.give(B, Input::Datagram { path: PathIndex { peer: 0, path: *path }, bytes });
        answers += pair.log[from..].len();
        assert!(pair.log[from..].iter().all(|(_, _, line)| line.starts_with("ack")), "only introductions");
    }
    assert!(!pair.said(B).contains(&"event PeerUp 1"));
    assert_eq!(
        dropped(&pair, B).unproven,
        recorded.iter().filter(|(_, _, bytes)| bytes[2] <= 2).count() as u64
    );
    let most = 2 * (recorded.len() as u64 * 200 / 5_000 + 1);
    assert!(answers as u64 <= most, "{answers} answers to {} messages", recorded.len());
    let took = pair.run_until(B, "event Passive -> Active: Election");
    assert!(took < 300_000, "the takeover is not held up");
}

#[test]
fn an_old_run_is_not_believed_after_a_new_one() {
    let mut pair = Pair::serving();
    pair.run(100_000);
    let recorded: Vec<_> = pair.sent.drain(..).filter(|(from, ..)| *from == A).collect();
    pair.kill(A);
    pair.start(A);
    pair.run(100_000);
    let before = dropped(&pair, B).old_incarnation;
    for (_, path, bytes) in &recorded {
        give(&mut pair, B, *path, bytes);
    }
    assert_eq!(dropped(&pair, B).old_incarnation - before, recorded.len() as u64);
}

#[test]
fn own_messages_from_elsewhere_are_counted() {
    let mut pair = Pair::serving();
    pair.run(20_000);
    let own: Vec<_> = pair.sent.iter().filter(|(from, ..)| *from == A).cloned().collect();
    for (_, path, bytes) in &own {
        give(&mut pair, A, *path, bytes);
    }
    assert_eq!(dropped(&pair, A).own_id, own.len() as u64);
}

#[test]
fn a_flood_of_forged_messages_moves_nothing() {
    let mut pair = Pair::serving();
    pair.run(15_000);
    let forged = heartbeat(&pair, |_| {}, Key([9; 32]));
    for _ in 0..1_000 {
        for _ in 0..100 {
            give(&mut pair, A, 0, &forged);
        }
        pair.run(1_000);
        assert!(pair.holds(A));
    }
    assert!(!pair.said(A).iter().any(|line| line.contains("Lapse") || line.contains("->")));
}
