//! The lab tests itself, without the product: its probes must see what they are there to see.

use std::net::{Ipv4Addr, UdpSocket};
use std::path::Path;
use std::time::Duration;

use cluster_tests::lab::clock::Window;
use cluster_tests::lab::probe::capture::Kind;
use cluster_tests::lab::probe::echo;
use cluster_tests::lab::probe::{AnswerProbe, Canary, Capture, EchoServer, RequestProbe};
use cluster_tests::lab::topology::{CLIENT, VIP};
use cluster_tests::lab::{Direction, Lab, Link, Moment, await_true, may_run, sweep};

/// Any port, as long as it is not the service's.
const PORT: u16 = 7999;
const SOON: Duration = Duration::from_secs(5);

/// Gives or takes the VIP on a node's public interface, as a careless administrator would.
fn address(lab: &Lab, node: &str, verb: &str) {
    let mut command = lab.node(node).namespace.command("ip");
    let done =
        command.args(["address", verb, &format!("{VIP}/24"), "dev", Link::Public.interface()]).status();
    assert!(done.expect("`ip` starts").success(), "`ip address {verb}` on node {node}");
}

/// A VIP on node a, with its service and a client who is served.
fn serving_lab() -> (Lab, [EchoServer; 2], RequestProbe) {
    let lab = Lab::new().expect("a lab");
    address(&lab, "a", "add");
    let servers = ["a", "b"].map(|node| EchoServer::start(lab.node(node), VIP).expect("a service"));
    let client = RequestProbe::start(&lab).expect("a client");
    client.await_service(Some("a"), SOON).expect("service by node a");
    (lab, servers, client)
}

#[test]
fn a_cut_of_a_known_length_is_seen_as_an_outage_of_that_length() {
    if !may_run("the lab's own tests") {
        return;
    }
    let (lab, _servers, client) = serving_lab();
    let canary = Canary::start().expect("a canary");
    let from = Moment::now();
    lab.cut("a", Link::Public).expect("a cut");
    let cut = Moment::now();
    (cut + Duration::from_millis(100)).sleep();
    let before_mending = Moment::now();
    lab.mend("a", Link::Public).expect("a mended leg");
    let mended = Moment::now();
    client.await_service(Some("a"), SOON).expect("service after the cut");
    let outage = client.outage(Window::since(from - Duration::from_millis(50)));
    let machine = canary.worst(Window::since(from), false) + client.longest_pause(Window::since(from));
    let (least, most) = (before_mending.since(cut), mended.since(from) + machine + Duration::from_millis(20));
    assert!(outage.length >= least, "cut for at least {least:?}, seen: {outage:?}");
    assert!(outage.length <= most, "cut for at most {most:?}, seen: {outage:?}");
    assert!(outage.lost > 0, "{outage:?}");
    assert_eq!((outage.before.as_deref(), outage.after.as_deref()), (Some("a"), Some("a")));
}

#[test]
fn a_move_of_the_vip_is_seen_with_who_served_before_and_after() {
    if !may_run("the lab's own tests") {
        return;
    }
    let (lab, _servers, client) = serving_lab();
    let from = Moment::now();
    address(&lab, "a", "delete");
    address(&lab, "b", "add");
    // The client's kernel asks anew only after its neighbour entry was dropped, for nobody announces here.
    let flushed = lab.client().command("ip").args(["neigh", "flush", "to", &VIP.to_string()]).status();
    assert!(flushed.expect("`ip` starts").success());
    client.await_service(Some("b"), SOON).expect("service by node b");
    let outage = client.outage(Window::since(from));
    assert_eq!(outage.after.as_deref(), Some("b"), "{outage:?}");
    assert_eq!(client.served_by(Window::ALWAYS).len(), 2);
}

#[test]
fn two_nodes_that_answer_are_caught_and_one_is_not_accused() {
    if !may_run("the lab's own tests") {
        return;
    }
    let (lab, _servers, _client) = serving_lab();
    let mut probe = AnswerProbe::start(&lab).expect("a probe");
    let answered = |link, mac| {
        probe.answers(Window::ALWAYS).iter().any(|answer| answer.link == link && answer.mac == mac)
    };
    let a = Link::ALL.map(|link| (link, lab.leg("a", link).mac));
    // The kernel answers for a local address on every interface.
    await_true("answers of node a on both links", SOON, || a.iter().all(|(link, mac)| answered(*link, *mac)))
        .expect("answers");
    assert_eq!(probe.double_answers(), [], "one node has the VIP");
    let from = Moment::now();
    address(&lab, "b", "add");
    let both = |link| probe.double_answers().iter().any(|double| double.link == link && double.asked >= from);
    await_true("double answers on both links", SOON, || both(Link::Public) && both(Link::Private))
        .expect("double answers");
    address(&lab, "b", "delete");
    probe.stop();
    for double in probe.double_answers() {
        let owners =
            double.answers.iter().filter_map(|(mac, _)| lab.owner_of(*mac)).map(|node| node.name.as_str());
        assert_eq!(owners.collect::<Vec<_>>(), ["a", "b"], "{double:?}");
        assert!(double.asked >= from, "{double:?}");
    }
    assert_eq!(probe.lost(), 0);
}

#[test]
fn a_capture_sees_what_leaves_a_node_even_when_its_leg_is_cut() {
    if !may_run("the lab's own tests") {
        return;
    }
    let lab = Lab::new().expect("a lab");
    let mut capture = Capture::start(&lab, "a", Link::Public).expect("a capture");
    let mut other = Capture::start(&lab, "b", Link::Public).expect("a capture");
    address(&lab, "a", "add");
    let _server = EchoServer::start(lab.node("a"), VIP).expect("a service");
    let client = RequestProbe::start(&lab).expect("a client");
    client.await_service(Some("a"), SOON).expect("service");
    let has =
        |kind, from| capture.sightings(Window::since(from)).iter().any(|sighting| sighting.kind == kind);
    await_true("an answer on the wire", SOON, || has(Kind::Ipv4Source, Moment(0))).expect("a sighting");
    await_true("an ARP reply on the wire", SOON, || has(Kind::ArpReply, Moment(0))).expect("a sighting");
    lab.cut("a", Link::Public).expect("a cut");
    let cut = Moment::now();
    let speaker = speaker(&lab, "a", Link::Public, VIP);
    speaker.send_to(b"still here", (Link::Public.address(255), PORT)).expect("a broadcast");
    await_true("a packet on the wire after the cut", SOON, || has(Kind::Ipv4Source, cut))
        .expect("a sighting");
    capture.stop();
    other.stop();
    let now = Moment::now();
    let in_order =
        capture.sightings(Window { from: cut, to: now }).windows(2).all(|pair| pair[0].at <= pair[1].at);
    assert!(in_order, "the kernel's stamps, brought to the lab's clock");
    assert_eq!(other.sightings(Window::ALWAYS), [], "node b has no VIP");
    assert_eq!(capture.lost(), 0);
}

/// A socket of `owner` on `link`, bound to `address`, that may broadcast.
fn speaker(lab: &Lab, owner: &str, link: Link, address: Ipv4Addr) -> UdpSocket {
    let socket = lab.leg(owner, link).namespace.run(|| {
        let socket = UdpSocket::bind((address, 0))?;
        socket.set_broadcast(true)?;
        Ok(socket)
    });
    socket.expect("a socket")
}

/// Whether frames get from `from` to `to` on `link`. They are broadcast, so that nothing has to come back.
fn passes(lab: &Lab, from: &str, to: &str, link: Link) -> bool {
    let heard = lab.leg(to, link).namespace.run(|| {
        let socket = UdpSocket::bind((link.address(255), PORT))?;
        socket.set_read_timeout(Some(Duration::from_millis(50)))?;
        Ok(socket)
    });
    let heard = heard.expect("a socket");
    let speaker = speaker(lab, from, link, lab.leg(from, link).address);
    (0..3).any(|_| {
        // Without a carrier, sending is refused.
        let _ = speaker.send_to(b"anybody there?", (link.address(255), PORT));
        heard.recv(&mut [0; 64]).is_ok()
    })
}

#[test]
fn cuts_are_one_way_where_they_should_be_and_mended_after() {
    if !may_run("the lab's own tests") {
        return;
    }
    let lab = Lab::new().expect("a lab");
    for link in Link::ALL {
        assert!(
            passes(&lab, "a", CLIENT, link) && passes(&lab, CLIENT, "a", link),
            "{link:?} is whole at first"
        );
        lab.lose("a", link, Direction::FromOwner, 1.0).expect("a one-way cut");
        assert!(!passes(&lab, "a", CLIENT, link), "{link:?} is cut from the node");
        assert!(passes(&lab, CLIENT, "a", link), "{link:?} is not cut to the node");
        lab.mend("a", link).expect("a mended leg");
        lab.lose("a", link, Direction::ToOwner, 1.0).expect("a one-way cut");
        assert!(passes(&lab, "a", CLIENT, link), "{link:?} is not cut from the node");
        assert!(!passes(&lab, CLIENT, "a", link), "{link:?} is cut to the node");
        assert!(passes(&lab, CLIENT, "b", link), "{link:?} is whole for the other node");
        lab.mend("a", link).expect("a mended leg");
        lab.carrier("a", link, false).expect("no carrier");
        assert!(!passes(&lab, CLIENT, "a", link), "{link:?} has no carrier");
        lab.mend_all().expect("mended legs");
        lab.remove_interface("a", link).expect("an interface that goes");
        lab.create_interface("a", link).expect("an interface that comes");
        assert!(
            passes(&lab, "a", CLIENT, link) && passes(&lab, CLIENT, "a", link),
            "{link:?} is whole at last"
        );
    }
}

#[test]
fn a_long_leg_takes_its_time_and_loses_and_swaps_nothing() {
    const DELAY: Duration = Duration::from_millis(10);
    /// As many as sockets hold that nobody reads.
    const BURST: u64 = 100;
    if !may_run("the lab's own tests") {
        return;
    }
    let mut lab = Lab::with_witnesses(&["a"], &["w"]).expect("a lab");
    lab.lengthen("w", DELAY).expect("long legs");
    for link in Link::ALL {
        let (node, witness) = (lab.leg("a", link).address, lab.leg("w", link).address);
        let _server = EchoServer::start(lab.host("w"), witness).expect("a service");
        let socket = lab.node("a").namespace.run(|| {
            let socket = UdpSocket::bind((node, 0))?;
            socket.set_read_timeout(Some(SOON))?;
            socket.connect((witness, echo::PORT))?;
            Ok(socket)
        });
        let socket = socket.expect("a socket");
        let ask = |number: u64| socket.send(&[number.to_be_bytes(), [0; 8]].concat()).expect("a datagram");
        let answer = || {
            let mut answer = [0; 64];
            socket.recv(&mut answer).expect("an answer");
            answer.first_chunk().copied().map(u64::from_be_bytes)
        };
        // The first has to find out the other's Ethernet address.
        ask(0);
        assert_eq!(answer(), Some(0));
        let mut round_trips = Vec::new();
        for number in 1..=21 {
            let asked = Moment::now();
            ask(number);
            assert_eq!(answer(), Some(number));
            round_trips.push(Moment::now().since(asked));
        }
        round_trips.sort_unstable();
        assert!(round_trips[0] >= DELAY * 2, "{round_trips:?}");
        assert!(round_trips[10] <= DELAY * 2 + Duration::from_millis(2), "{round_trips:?}");
        for number in 0..BURST {
            ask(number);
        }
        assert!((0..BURST).all(|number| answer() == Some(number)), "{link:?}");
    }
    assert!(lab.lines().iter().all(|line| line.lost() == 0));
}

#[test]
fn random_loss_loses_about_as_much_as_it_should() {
    if !may_run("the lab's own tests") {
        return;
    }
    let (lab, _servers, client) = serving_lab();
    lab.lose("a", Link::Public, Direction::FromOwner, 0.3).expect("loss");
    let from = Moment::now();
    (from + Duration::from_millis(500)).sleep();
    let window = Window { from, to: Moment::now() - Duration::from_millis(20) };
    lab.mend_all().expect("mended legs");
    let requests = client.requests_in(window);
    let lost = requests.iter().filter(|request| request.answer.is_none()).count();
    // Of 1000 requests and more, between a fifth and four tenths: some ten standard deviations on either side.
    assert!(requests.len() > 300, "{} requests", requests.len());
    assert!(lost * 10 > requests.len() * 2 && lost * 10 < requests.len() * 4, "{lost} of {}", requests.len());
}

#[test]
fn nothing_is_left_behind() {
    if !may_run("the lab's own tests") {
        return;
    }
    let (lab, servers, client) = serving_lab();
    let name = lab.name().to_owned();
    let directory = lab.directory().to_owned();
    let mut sleeper = lab.node("a").namespace.command("sleep");
    sleeper.arg("1000");
    let sleeper = cluster_tests::lab::Process::start("sleep", &sleeper, &directory.join("sleep.log"))
        .expect("a process");
    let pid = sleeper.pid();
    drop((servers, client, lab));
    let spaces: Vec<_> = std::fs::read_dir("/run/netns").expect("namespaces").flatten().collect();
    assert!(!spaces.iter().any(|space| space.file_name().to_string_lossy().starts_with(&name)), "{spaces:?}");
    assert!(!directory.exists());
    // Its parent, this process, has not waited for it yet: it is a zombie, or gone.
    let state = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    assert!(state.is_empty() || state.contains(") Z "), "{state}");
    drop(sleeper);
    assert!(!Path::new(&format!("/proc/{pid}")).exists());
}

#[test]
fn a_panic_leaves_nothing_behind_and_the_dead_are_swept() {
    if !may_run("the lab's own tests") {
        return;
    }
    let name = std::thread::spawn(|| {
        let lab = Lab::new().expect("a lab");
        let name = lab.name().to_owned();
        let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(move || {
            let _lab = lab;
            panic!("a test that fails");
        }));
        assert!(outcome.is_err());
        name
    });
    let name = name.join().expect("a name");
    assert!(!Path::new("/run/netns").join(format!("{name}-switch")).exists());
    // A lab whose process was killed: a pid beyond what the kernel hands out.
    let dead = format!("{}4194305-0", sweep::PREFIX);
    let added = std::process::Command::new("ip").args(["netns", "add", &format!("{dead}-switch")]).status();
    assert!(added.expect("`ip` starts").success());
    sweep::everything_of_the_dead();
    assert!(!Path::new("/run/netns").join(format!("{dead}-switch")).exists());
}
