//! What an attacker on the switches can do to a cluster: bad heartbeats of every kind, replayed sessions, floods, and
//! abuse of the control socket. All of it is counted by kind, and none of it has an effect.

use std::collections::BTreeMap;
use std::io::{Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use anyhow::{Context as _, ensure};
use cluster_proto::{ClusterId, Incarnation, NodeId, wire};
use cluster_tests::hostile::envelope::Envelope;
use cluster_tests::hostile::flood::{Flooded, Flooder};
use cluster_tests::hostile::foot::Foot;
use cluster_tests::hostile::forgery;
use cluster_tests::hostile::recording::{Recorder, Recording};
use cluster_tests::lab::clock::Window;
use cluster_tests::lab::{ClusterSettings, Lab, Link, Moment, await_some, may_run};
use cluster_tests::scene::{SOON, Scene};
use serde_json::Value;

/// A stall of the machine from which on a lapse or a lost request is its own doing: the lease, less a heartbeat and
/// what the other node may have overslept.
const STALLED: Duration = Duration::from_millis(20);

/// The counters of a node's `stats`.
type Counters = BTreeMap<String, u64>;

fn counters(scene: &Scene<'_>, node: &str) -> anyhow::Result<Counters> {
    let stats = scene.cluster.control(node).command("stats")?;
    let mut counters: Counters = serde_json::from_value(stats["heartbeats"].clone())?;
    counters.insert("overflows".to_owned(), stats["loop"]["socket_overflows"].as_u64().unwrap_or(0));
    Ok(counters)
}

/// By how much each kind of bad datagram has grown, leaving out those that have not.
fn bad(before: &Counters, now: &Counters) -> Counters {
    let kinds = now.iter().filter(|(kind, _)| {
        kind.starts_with("dropped_") || matches!(kind.as_str(), "filtered" | "strangers" | "overflows")
    });
    let grown = kinds.map(|(kind, count)| (kind.clone(), count - before.get(kind).copied().unwrap_or(0)));
    grown.filter(|(_, count)| *count > 0).collect()
}

/// What must not change: for each node its role, epoch, transitions and lapses.
#[derive(Debug)]
struct Calm {
    since: Moment,
    groups: Vec<[Value; 4]>,
}

impl Calm {
    fn begin(scene: &Scene<'_>) -> anyhow::Result<Self> {
        Ok(Self { since: Moment::now(), groups: Self::look(scene)? })
    }

    fn look(scene: &Scene<'_>) -> anyhow::Result<Vec<[Value; 4]>> {
        let nodes = scene.lab.nodes().iter();
        let look = |name: &str| {
            let group = scene.cluster.group(name)?;
            Ok(["role", "epoch", "transitions", "lapses"].map(|key| group[key].clone()))
        };
        nodes.map(|node| look(&node.name)).collect()
    }

    /// How long the machine itself stood still since.
    fn stall(&self, scene: &Scene<'_>) -> Duration {
        scene.canary.worst(Window::since(self.since), true)
    }

    /// Fails if anything has changed that the machine has not caused by standing still.
    fn holds(&self, scene: &Scene<'_>, what: &str) -> anyhow::Result<()> {
        let now = Self::look(scene)?;
        let stall = self.stall(scene);
        if now != self.groups && stall >= STALLED {
            println!("{what}: the machine stood still for {stall:?}, so this says nothing: {now:?}");
            return Ok(());
        }
        ensure!(
            now == self.groups,
            "{what}: role, epoch, transitions and lapses were {:?} and are {now:?}; the machine stood still for \
             {stall:?}",
            self.groups
        );
        Ok(())
    }

    /// As [`Calm::holds`], and fails if the client has lost anything or had to wait.
    fn holds_for_clients(&self, scene: &Scene<'_>, what: &str) -> anyhow::Result<()> {
        self.holds(scene, what)?;
        // Requests of the last moments have their answers still on their way.
        let window = Window { from: self.since, to: Moment::now() - Duration::from_millis(20) };
        let outage = scene.client.outage(window);
        let stall = scene.canary.worst(window, false).max(scene.client.longest_pause(window));
        println!("{what}: {} requests lost, longest gap {:?}, stall {stall:?}", outage.lost, outage.length);
        ensure!(
            outage.lost == 0 || stall >= STALLED,
            "{what}: the client lost {} requests, the worst time {outage:?}; the machine stood still for {stall:?}",
            outage.lost
        );
        Ok(())
    }
}

/// A foot on each link, and what the passive node would send to the active one and the other way round.
struct Attack {
    feet: [Foot; 2],
    active: String,
    passive: String,
}

impl Attack {
    fn on(scene: &mut Scene<'_>) -> anyhow::Result<Self> {
        let active = scene.settle()?;
        let passive = scene.cluster.other(&active).to_owned();
        let [private, public] = Link::ALL.map(|link| Foot::on(scene.lab, link));
        Ok(Self { feet: [private?, public?], active, passive })
    }

    fn foot(&self, link: Link) -> &Foot {
        match link {
            Link::Private => &self.feet[0],
            Link::Public => &self.feet[1],
        }
    }

    /// Sends all of `payloads` to `victim` as if from the other node and checks what they are counted as.
    fn strike(
        &self,
        scene: &Scene<'_>,
        victim: &str,
        link: Link,
        what: &str,
        payloads: &[Vec<u8>],
        expected: &[(&str, u64)],
    ) -> anyhow::Result<()> {
        let envelope = Envelope::spoofed(scene.lab, scene.cluster.other(victim), victim, link);
        self.strike_from(scene, victim, link, &envelope, what, payloads, expected)
    }

    #[expect(clippy::too_many_arguments, reason = "one line of a table of attacks")]
    fn strike_from(
        &self,
        scene: &Scene<'_>,
        victim: &str,
        link: Link,
        envelope: &Envelope,
        what: &str,
        payloads: &[Vec<u8>],
        expected: &[(&str, u64)],
    ) -> anyhow::Result<()> {
        let what = format!("{what}, to {victim} on the {link:?} link");
        let expected: Counters = expected.iter().map(|(kind, n)| ((*kind).to_owned(), *n)).collect();
        let calm = Calm::begin(scene)?;
        let before = counters(scene, victim)?;
        for (number, payload) in payloads.iter().enumerate() {
            self.foot(link).send(envelope, payload)?;
            // The socket's queue is no part of this test: slowly enough for it, and for the strangers' small one.
            if number % 4 == 3 {
                (Moment::now() + Duration::from_micros(500)).sleep();
            }
        }
        let counted = await_some(&what, Duration::from_secs(2), || {
            let counted = bad(&before, &counters(scene, victim)?);
            ensure!(
                counted == expected,
                "{} were counted as {counted:?}, not as {expected:?}",
                payloads.len()
            );
            Ok(Some(counted))
        })?;
        println!("{what}: {counted:?}");
        calm.holds(scene, &what)
    }
}

/// A heartbeat that `node` has really sent on `link`.
fn specimen(scene: &Scene<'_>, node: &str, link: Link) -> anyhow::Result<Vec<u8>> {
    let recording = Recording::of(scene.lab, node, link, Duration::from_millis(100))?;
    let mut datagrams = recording.0.into_iter().map(|recorded| recorded.bytes);
    datagrams
        .rfind(|bytes| forgery::header(bytes).is_ok_and(|header| header.kind == wire::Kind::Heartbeat))
        .context("no heartbeat was recorded")
}

#[test]
fn bad_heartbeats_are_counted_by_kind_and_have_no_effect() {
    if !may_run("bad heartbeats") {
        return;
    }
    let lab = Lab::new().expect("a lab");
    let mut scene = Scene::start(&lab, &ClusterSettings::default()).expect("a cluster");
    let attack = Attack::on(&mut scene).expect("feet on the switches");
    let calm = Calm::begin(&scene).expect("a settled cluster");
    for link in Link::ALL {
        for victim in [&attack.active, &attack.passive] {
            strike_with_everything(&scene, &attack, victim, link).expect("counted and without effect");
        }
    }
    calm.holds_for_clients(&scene, "bad heartbeats of all kinds").expect("nothing lost");
    scene.never_two_answers().expect("one answer at most");
}

fn strike_with_everything(
    scene: &Scene<'_>,
    attack: &Attack,
    victim: &str,
    link: Link,
) -> anyhow::Result<()> {
    let strike = |what: &str, payloads: &[Vec<u8>], expected: &[(&str, u64)]| {
        attack.strike(scene, victim, link, what, payloads, expected)
    };
    let peer = scene.cluster.other(victim);
    let good = specimen(scene, peer, link)?;
    let resigned = |change: fn(&mut wire::Header)| forgery::resigned(&good, change);

    // Most of it the kernel drops, which counts it in one: what is too short or long, of another length than it says,
    // of a kind, cluster, node or path that the peer's messages on this path do not have.
    let truncated: Vec<_> = (0..good.len()).map(|length| good[..length].to_vec()).collect();
    strike("truncated", &truncated, &[("filtered", truncated.len() as u64)])?;

    let padded =
        |length: usize| good.iter().copied().chain(std::iter::repeat(0)).take(length).collect::<Vec<_>>();
    let lengths = [good.len() + 1, good.len() + 24, 1000, wire::MAX_LEN];
    strike("longer than it says", &lengths.map(padded), &[("filtered", 4)])?;
    let saying_so = lengths.map(|length| {
        let mut bytes = padded(length);
        bytes[wire::offset::LENGTH..][..2].copy_from_slice(&(length as u16).to_be_bytes());
        bytes
    });
    strike("longer than its contents", &saying_so, &[("dropped_malformed", 4)])?;
    let oversized: Vec<_> = [wire::MAX_LEN + 1, 1472, 1473, 4000, 9000].map(padded).into();
    strike("oversized", &oversized, &[("filtered", 5)])?;

    let flipped = |places: std::ops::Range<usize>| -> Vec<Vec<u8>> {
        let bits = places.flat_map(|place| (0..8).map(move |bit| (place, 1_u8 << bit)));
        let flip = |(place, bit): (usize, u8)| {
            let mut bytes = good.clone();
            bytes[place] ^= bit;
            bytes
        };
        bits.map(flip).collect()
    };
    // Byte 0 is the newest version: 0 is too old, and all others reach down to ours.
    strike("bits flipped in the version", &flipped(0..2), &[("dropped_forged", 15), ("dropped_version", 1)])?;
    // A heartbeat with one of its bits flipped is an introduction.
    strike("bits flipped in the kind", &flipped(2..3), &[("dropped_forged", 1), ("filtered", 7)])?;
    for places in [4..6, 6..8, 8..16, 87..88] {
        let bytes = flipped(places);
        strike("bits flipped in what is filtered", &bytes, &[("filtered", bytes.len() as u64)])?;
    }
    let bytes = flipped(84..87);
    strike("bits flipped in the counts", &bytes, &[("dropped_malformed", bytes.len() as u64)])?;
    // One part of one: no other part is possible, and not every number of parts.
    let bytes = flipped(112..114);
    strike("bits flipped in the parts", &bytes, &[("dropped_forged", 4), ("dropped_malformed", 12)])?;
    // The states between them may end up in an impossible order.
    for places in [3..4, 16..84, 104..112, 114..good.len()] {
        let bytes = flipped(places);
        strike("bits flipped", &bytes, &[("dropped_forged", bytes.len() as u64)])?;
    }
    strike("signed with another key", &[forgery::with_another_key(&good)?], &[("dropped_forged", 1)])?;

    let other = resigned(|header| header.cluster = ClusterId::from_name("another"))?;
    strike("another cluster's", &[other], &[("filtered", 1)])?;
    let nodes: Vec<NodeId> = scene.lab.nodes().iter().map(|node| NodeId::from_name(&node.name)).collect();
    let nobody = forgery::resigned(&good, |header| header.node = forgery::nobody(&nodes))?;
    strike("an unknown node's", &[nobody], &[("filtered", 1)])?;
    let own = forgery::resigned(&good, |header| header.node = NodeId::from_name(victim))?;
    let reflected = specimen(scene, victim, link)?;
    strike("our own id", &[own, reflected], &[("filtered", 2)])?;
    let unproven = forgery::resigned(&good, |header| {
        header.incarnation = Incarnation(header.incarnation.0.wrapping_add(1).max(1));
        header.echo = Some(Incarnation(7));
    })?;
    strike("a run that has not echoed ours", &vec![unproven; 20], &[("dropped_unproven", 20)])?;

    let versions = [(0, 0), (2, 2), (255, 2)];
    let wrong = versions.map(|(newest, oldest)| forgery::of_versions(&good, newest, oldest));
    let wrong = wrong.into_iter().collect::<anyhow::Result<Vec<_>>>()?;
    strike("wrong versions", &wrong, &[("dropped_version", 3)])?;

    strike("random bytes", &random_datagrams(200), &[("filtered", 200)])?;

    // Both the one of this link, and those of the other link, which carries the same heartbeats on another path.
    for from in Link::ALL {
        let counter = if from == link { "dropped_replayed" } else { "filtered" };
        let session = Recording::of(scene.lab, peer, from, Duration::from_millis(300))?;
        (Moment::now() + Duration::from_millis(20)).sleep();
        let heartbeats = session.0.iter().filter(|recorded| {
            forgery::header(&recorded.bytes).is_ok_and(|header| header.kind == wire::Kind::Heartbeat)
        });
        let heartbeats: Vec<_> = heartbeats.map(|recorded| recorded.bytes.clone()).collect();
        strike("replayed", &heartbeats, &[(counter, heartbeats.len() as u64)])?;
    }

    let spoofed = Envelope::spoofed(scene.lab, peer, victim, link);
    let mut other_port = spoofed;
    other_port.from.set_port(4781);
    for (what, envelope) in [("from a stranger", spoofed.strangers(link)), ("from another port", other_port)]
    {
        attack.strike_from(
            scene,
            victim,
            link,
            &envelope,
            what,
            &vec![good.clone(); 40],
            &[("strangers", 40)],
        )?;
    }
    Ok(())
}

/// Random datagrams of all lengths.
fn random_datagrams(count: usize) -> Vec<Vec<u8>> {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut random = move || {
        // xorshift64
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state
    };
    let datagram = |_| {
        let length = (random() % 1400) as usize;
        std::iter::repeat_with(|| random() as u8).take(length).collect()
    };
    (0..count).map(datagram).collect()
}

#[test]
fn a_recorded_session_convinces_nobody() {
    if !may_run("replayed sessions") {
        return;
    }
    let lab = Lab::new().expect("a lab");
    let mut scene = Scene::start(&lab, &ClusterSettings::default()).expect("a cluster");
    let attack = Attack::on(&mut scene).expect("feet on the switches");
    let (active, passive) = (attack.active.clone(), attack.passive.clone());

    // Both nodes' sessions on both links, of the same three seconds.
    let record = |node: &str| Link::ALL.map(|link| Recorder::start(&lab, node, link).expect("a recorder"));
    let recorders = [record(&active), record(&passive)];
    (Moment::now() + Duration::from_secs(3)).sleep();
    let [of_active, of_passive] =
        recorders.map(|both| both.map(|recorder| recorder.stop().expect("a recorded session")));
    // What a node sends in three quiet seconds, and more for whatever else is going on: if it answered what is replayed, it
    // would be twice as much.
    let usual = |sessions: &[Recording; 2]| {
        let datagrams: usize = sessions.iter().map(|session| session.0.len()).sum();
        datagrams as u64 * 3 / 2
    };

    // While both live: of no effect, and answered by nothing.
    for (sessions, victim, quiet) in
        [(&of_passive, &active, usual(&of_active)), (&of_active, &passive, usual(&of_passive))]
    {
        let what = format!("a session replayed at {victim}");
        let calm = Calm::begin(&scene).expect("a settled cluster");
        let before = counters(&scene, victim).expect("counters");
        let replayed = replay(&lab, &attack, sessions, scene.cluster.other(victim), victim);
        let now = counters(&scene, victim).expect("counters");
        let counted = bad(&before, &now);
        let sent = now["sent"] - before["sent"];
        println!("{what}: {replayed} datagrams counted as {counted:?}; {sent} sent, {quiet} are usual");
        assert_eq!(counted, Counters::from([("dropped_replayed".to_owned(), replayed)]), "{what}");
        assert!(sent <= quiet, "{what}: {sent} datagrams sent where {quiet} are usual");
        calm.holds_for_clients(&scene, &what).expect("no effect");
    }

    // The active node dies, and its session is replayed from that moment on: the other takes over as if it were silent.
    let outage = std::thread::scope(|scope| {
        let killed = scene.cluster.kill(&active).expect("a killed daemon");
        let replaying = scope.spawn(|| replay(&lab, &attack, &of_active, &active, &passive));
        scene.client.await_service(Some(&passive), SOON).expect("a takeover");
        let window = Window::since(killed - Duration::from_millis(20));
        let stall = scene.canary.worst(window, false).max(scene.client.longest_pause(window));
        let outage = scene.client.outage(window);
        let mut looks = 0;
        while !replaying.is_finished() {
            let status = scene.cluster.control(&passive).command("status").expect("a status");
            assert_eq!(status["peers"][0]["state"], "dead", "the dead node is believed to live: {status}");
            looks += 1;
            (Moment::now() + Duration::from_millis(50)).sleep();
        }
        println!(
            "takeover while the dead node's session is replayed: {outage:?}, stall {stall:?}; {looks} looks"
        );
        (outage, stall)
    });
    assert!(
        outage.0.length <= Duration::from_millis(90) + outage.1,
        "the replayed session kept the survivor waiting: {outage:?}"
    );
    scene.cluster.await_role(&passive, "active", SOON).expect("the survivor active");

    // The dead node is back with a new run: its old one is known for what it is.
    scene.cluster.start(&active).expect("a restarted daemon");
    scene.cluster.await_role(&active, "passive", SOON).expect("the restarted node passive");
    let calm = Calm::begin(&scene).expect("a settled cluster");
    let before = counters(&scene, &passive).expect("counters");
    let replayed = replay(&lab, &attack, &of_active, &active, &passive);
    let counted = bad(&before, &counters(&scene, &passive).expect("counters"));
    println!("an old run's session: {replayed} datagrams counted as {counted:?}");
    assert_eq!(counted, Counters::from([("dropped_old_incarnation".to_owned(), replayed)]));
    calm.holds_for_clients(&scene, "an old run's session").expect("no effect");

    // The other's session, replayed at the node that has forgotten it with its restart: it answers now and then, so
    // that an honest sender could prove itself, and believes nothing.
    let calm = Calm::begin(&scene).expect("a settled cluster");
    let before = counters(&scene, &active).expect("counters");
    let from = Moment::now();
    let replayed = replay(&lab, &attack, &of_passive, &passive, &active);
    let seconds = Moment::now().since(from).as_secs_f64();
    let now = counters(&scene, &active).expect("counters");
    let (counted, sent) = (bad(&before, &now), now["sent"] - before["sent"]);
    println!(
        "a session from before our restart: {replayed} counted as {counted:?}; {sent} sent in {seconds:.2} s"
    );
    assert_eq!(counted, Counters::from([("dropped_unproven".to_owned(), replayed)]));
    // Two paths, on each at H = 10 ms a heartbeat, an acknowledgement, and at most two introductions.
    let most = (seconds * 2.0 * 400.0 * 1.1) as u64 + 50;
    assert!(sent <= most, "{sent} datagrams sent in {seconds} s, more than {most}");
    calm.holds_for_clients(&scene, "a session from before our restart").expect("no effect");

    // Alone, restarted, and with the dead one's whole session in its ears: it must take the group all the same, and
    // must not take the dead one for alive.
    scene.cluster.kill(&active).expect("a killed daemon");
    scene.cluster.kill(&passive).expect("a killed daemon");
    std::thread::scope(|scope| {
        let replaying = scope.spawn(|| replay(&lab, &attack, &of_active, &active, &passive));
        scene.cluster.start(&passive).expect("a restarted daemon");
        scene.cluster.await_role(&passive, "active", Duration::from_millis(2000)).expect("a lone start");
        let mut looks = 0;
        while !replaying.is_finished() {
            let status = scene.cluster.control(&passive).command("status").expect("a status");
            assert_eq!(status["peers"][0]["state"], "unknown", "the dead node is believed to live: {status}");
            looks += 1;
            (Moment::now() + Duration::from_millis(50)).sleep();
        }
        let counted = counters(&scene, &passive).expect("counters");
        println!(
            "a lone start amid a replayed session: {looks} looks, {} unproven",
            counted["dropped_unproven"]
        );
        assert!(looks > 5 && counted["dropped_unproven"] > 100, "{looks} looks, {counted:?}");
    });
    scene.never_two_answers().expect("one answer at most");
}

/// Replays what `from` has sent on both links at `victim`; how many datagrams that was.
fn replay(lab: &Lab, attack: &Attack, sessions: &[Recording; 2], from: &str, victim: &str) -> u64 {
    std::thread::scope(|scope| {
        let replays = Link::ALL.map(|link| {
            let envelope = Envelope::spoofed(lab, from, victim, link);
            let session = &sessions[usize::from(link == Link::Public)];
            scope.spawn(move || session.replay(attack.foot(link), &envelope).expect("a replay"))
        });
        replays.into_iter().map(|replay| replay.join().expect("a replay")).sum()
    })
}

/// Datagrams a second in each flood, all links together, and for how long.
const FLOOD_RATE: u64 = 100_000;
const FLOOD_LENGTH: Duration = Duration::from_secs(3);

/// Who seems to have sent a flood's datagrams.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Flood {
    /// An address that no node has: they never reach a peer's socket.
    Strangers,
    /// The peer, but in another cluster: the socket's filter drops them.
    Garbage,
    /// The peer: they reach its socket, and only the authentication code tells that they are not its.
    Forged,
}

#[test]
fn floods_take_neither_the_role_nor_the_lease() {
    if !may_run("floods") {
        return;
    }
    let lab = Lab::new().expect("a lab");
    let mut scene = Scene::start(&lab, &ClusterSettings::default()).expect("a cluster");
    let active = scene.settle().expect("a settled cluster");
    let (active, passive) = (active.as_str(), scene.cluster.other(&active));
    let mut failures = Vec::new();
    for (kind, victim, links) in [
        (Flood::Strangers, active, &[Link::Private][..]),
        (Flood::Strangers, active, &[Link::Public]),
        (Flood::Garbage, active, &[Link::Private]),
        (Flood::Garbage, active, &Link::ALL),
        (Flood::Forged, active, &[Link::Private]),
        (Flood::Forged, active, &[Link::Public]),
        (Flood::Forged, active, &Link::ALL),
        // The holder's leases rest on what this one acknowledges.
        (Flood::Forged, passive, &Link::ALL),
    ] {
        let outcome = flood(&mut scene, kind, victim, links);
        failures.extend(outcome.err().map(|error| format!("{error:#}")));
        if scene.settle().expect("a settled cluster") != active {
            failures.push("the group has moved, so the other floods were left out".to_owned());
            break;
        }
    }
    assert!(failures.is_empty(), "{}", failures.join("\n"));
    scene.never_two_answers().expect("one answer at most");
}

fn flood(scene: &mut Scene<'_>, kind: Flood, victim: &str, links: &[Link]) -> anyhow::Result<()> {
    let what = format!("a flood of {kind:?} at {victim} on {links:?}");
    let streams = links.iter().map(|&link| stream(scene, kind, victim, link));
    let streams = streams.collect::<anyhow::Result<Vec<_>>>()?;
    let calm = Calm::begin(scene)?;
    let before = counters(scene, victim)?;
    let used = scene.cluster.daemon(victim)?.processor_time()?;
    let rate = FLOOD_RATE / links.len() as u64;
    let floods: Vec<Flooded> = std::thread::scope(|scope| {
        let threads: Vec<_> = streams
            .iter()
            .map(|(flooder, envelope, payloads)| {
                scope.spawn(move || flooder.flood(envelope, payloads, rate, FLOOD_LENGTH))
            })
            .collect();
        threads.into_iter().map(|thread| thread.join().expect("a flood")).collect::<anyhow::Result<_>>()
    })?;
    let used = scene.cluster.daemon(victim)?.processor_time()?.saturating_sub(used);
    let now = counters(scene, victim)?;
    let (counted, read) = (bad(&before, &now), now["received"] - before["received"]);
    let window = Window { from: calm.since, to: Moment::now() - Duration::from_millis(20) };
    let outage = scene.client.outage(window);
    let worst = scene.cluster.control(victim).command("stats")?["loop"]["worst_delay_ms"].clone();
    let (sent, rate): (u64, u64) =
        floods.iter().fold((0, 0), |(sent, rate), flood| (sent + flood.datagrams, rate + flood.rate()));
    println!(
        "{what}: {sent} datagrams, {rate} a second, counted as {counted:?}; the daemon used {used:?} of a processor, \
         worst wake-up since its start {worst} ms; the client lost {} requests, longest gap {:?}; the machine stood \
         still for {:?}",
        outage.lost,
        outage.length,
        calm.stall(scene)
    );
    let (name, costs_nothing) = match kind {
        Flood::Strangers => ("strangers", true),
        Flood::Garbage => ("filtered", true),
        Flood::Forged => ("dropped_forged", false),
    };
    let reached = counted.get(name).copied().unwrap_or(0);
    ensure!(reached > sent / 10, "{what}: of {sent} datagrams {reached} were counted as {name}");
    if costs_nothing {
        ensure!(counted.len() == 1, "{what}: some came further than to the filter: {counted:?}");
        ensure!(read < sent / 10, "{what}: the daemon read {read} datagrams where {sent} were to be dropped");
    }
    // The flooders share the machine with whom they flood, and get what is left of it.
    ensure!(rate >= FLOOD_RATE / 4, "{what}: only {rate} datagrams a second");
    calm.holds(scene, &what)
}

/// One link's share of a flood.
fn stream(
    scene: &Scene<'_>,
    kind: Flood,
    victim: &str,
    link: Link,
) -> anyhow::Result<(Flooder, Envelope, Vec<Vec<u8>>)> {
    let peer = scene.cluster.other(victim);
    let spoofed = Envelope::spoofed(scene.lab, peer, victim, link);
    let envelope = match kind {
        Flood::Garbage | Flood::Forged => spoofed,
        Flood::Strangers => spoofed.strangers(link),
    };
    let good = specimen(scene, peer, link)?;
    let forged = |number: u8| {
        let mut bytes = good.clone();
        match kind {
            Flood::Garbage => bytes[wire::offset::CLUSTER] ^= number | 0x40,
            // In the message's number, so that only the code can tell.
            Flood::Strangers | Flood::Forged => bytes[39] ^= number | 0x40,
        }
        bytes
    };
    Ok((Flooder::before(scene.lab, victim, link)?, envelope, (0..64).map(forged).collect()))
}

#[test]
fn a_flood_does_not_keep_the_survivor_from_taking_over() {
    if !may_run("a takeover under a flood") {
        return;
    }
    let lab = Lab::new().expect("a lab");
    let mut scene = Scene::start(&lab, &ClusterSettings::default()).expect("a cluster");
    let active = scene.settle().expect("a settled cluster");
    let passive = scene.cluster.other(&active);
    for kind in [Flood::Strangers, Flood::Garbage, Flood::Forged] {
        let streams = Link::ALL.map(|link| stream(&scene, kind, passive, link).expect("a stream"));
        let before = counters(&scene, passive).expect("counters");
        let from = Moment::now() - Duration::from_millis(20);
        std::thread::scope(|scope| {
            let floods: Vec<_> = streams
                .iter()
                .map(|(flooder, envelope, payloads)| {
                    let rate = FLOOD_RATE / Link::ALL.len() as u64;
                    scope.spawn(move || {
                        flooder.flood(envelope, payloads, rate, FLOOD_LENGTH).expect("a flood")
                    })
                })
                .collect();
            (Moment::now() + FLOOD_LENGTH / 5).sleep();
            scene.cluster.kill(&active).expect("a killed daemon");
            let served = scene.client.await_service(Some(passive), SOON).expect("a takeover");
            let flooding = !floods.iter().all(std::thread::ScopedJoinHandle::is_finished);
            let outage = scene.client.outage(Window { from, to: served });
            let rates: Vec<u64> =
                floods.into_iter().map(|flood| flood.join().expect("a flood").rate()).collect();
            let counted = bad(&before, &counters(&scene, passive).expect("counters"));
            println!(
                "takeover under a flood of {kind:?}: {:?}, datagrams a second on each link {rates:?}, {counted:?}, \
                 the machine stood still for {:?}",
                outage.length,
                scene.canary.worst(Window { from, to: served }, true)
            );
            assert!(flooding, "the survivor took over only when the flood was over");
        });
        scene.cluster.start(&active).expect("a restarted daemon");
        scene.cluster.await_role(&active, "passive", SOON).expect("the restarted node passive");
        let output = scene.cluster.clusterctl(&active, &["promote", "web"]).expect("clusterctl");
        assert!(output.status.success(), "{output:?}");
        assert_eq!(scene.settle().expect("a settled cluster"), active);
    }
    scene.never_two_answers().expect("one answer at most");
}

#[test]
fn the_control_socket_can_be_abused_without_a_lapse() {
    if !may_run("abuse of the control socket") {
        return;
    }
    let lab = Lab::new().expect("a lab");
    let mut scene = Scene::start(&lab, &ClusterSettings::default()).expect("a cluster");
    let active = scene.settle().expect("a settled cluster");
    let calm = Calm::begin(&scene).expect("a settled cluster");
    let control = scene.cluster.control(&active);
    let connect = || {
        let stream = UnixStream::connect(control.socket()).expect("a connection");
        stream.set_read_timeout(Some(Duration::from_secs(5))).expect("a time-out");
        stream.set_write_timeout(Some(Duration::from_secs(5))).expect("a time-out");
        stream
    };

    let memory_before = memory(&mut scene, &active);

    // A thousand who say nothing, some of them after half a line; and the socket answers all the while.
    let mut idle = Vec::new();
    for number in 0..1000 {
        let mut stream = connect();
        if number % 3 == 0 {
            // It may have been closed for a newcomer already.
            let _ = stream.write_all(br#"{"cmd":"sta"#);
        }
        idle.push(stream);
        if number % 100 == 99 {
            control.command("status").expect("a status among a thousand idle clients");
        }
    }

    // Ten megabytes without an end, some of them in many small pieces: refused, and not kept.
    for piece in [64 << 10, 1000] {
        let mut stream = connect();
        let text = vec![b'x'; piece];
        let mut written = 0;
        while written < 10 << 20 {
            match stream.write(&text) {
                Ok(some) => written += some,
                Err(_) => break,
            }
        }
        let mut answer = String::new();
        // A reset after the answer is as good as an end.
        let _ = stream.read_to_string(&mut answer);
        println!("a line of ten megabytes: {written} bytes taken, answered {answer:?}");
        assert!(answer.contains("\"ok\":false") && answer.contains("longer than"), "{answer:?}");
    }
    let grown = memory(&mut scene, &active).saturating_sub(memory_before);
    println!("the daemon's memory has grown by {grown} KiB");
    assert!(grown < 4096, "the daemon's memory has grown by {grown} KiB");

    // What is no request at all.
    let lines: [&[u8]; 6] = [
        b"\xff\xfe\xfd\n",
        b"\0\0\0\n",
        b"{}\n",
        b"[1,2\n",
        br#"{"cmd":"selfdestruct"}
"#,
        b"\n",
    ];
    for line in lines {
        let mut stream = connect();
        stream.write_all(line).expect("a written line");
        stream.shutdown(std::net::Shutdown::Write).expect("half a connection");
        let mut answer = String::new();
        stream.read_to_string(&mut answer).expect("an answer or an end");
        assert!(!answer.contains("\"ok\":true"), "{line:?} was answered {answer:?}");
    }

    let status = control.command("status").expect("a status after all that");
    assert_eq!(status["groups"][0]["role"], "active");
    calm.holds_for_clients(&scene, "abuse of the control socket").expect("no effect");
    drop(idle);
    scene.never_two_answers().expect("one answer at most");
}

/// The memory of the daemon of `node` that is in use, in KiB.
fn memory(scene: &mut Scene<'_>, node: &str) -> u64 {
    let pid = scene.cluster.daemon(node).expect("a daemon").pid();
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).expect("the daemon's state");
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("its memory");
    line.trim().trim_end_matches(" kB").trim().parse().expect("a number")
}
