//! The lab tests itself, without the product: its probes must see what they are there to see.

use std::collections::BTreeSet;
use std::net::{IpAddr, UdpSocket};
use std::path::Path;
use std::time::Duration;

use cluster_tests::lab::clock::Window;
use cluster_tests::lab::probe::capture::Kind;
use cluster_tests::lab::probe::echo;
use cluster_tests::lab::probe::{
    Announcements, AnswerProbe, Canary, Capture, Connections, EchoServer, RequestProbe, StreamServer,
    answers, requests,
};
use cluster_tests::lab::topology::CLIENT;
use cluster_tests::lab::{Direction, Family, Lab, Link, Moment, await_true, may_run, sweep};

/// Any port, as long as it is not the service's.
const PORT: u16 = 7999;
const SOON: Duration = Duration::from_secs(5);

/// Runs `ip` on a node, as a careless administrator would.
fn ip(lab: &Lab, node: &str, arguments: &str) {
    let mut command = lab.node(node).namespace.command("ip");
    let done = command.args(arguments.split(' ')).status();
    assert!(done.expect("`ip` starts").success(), "`ip {arguments}` on node {node}");
}

/// Gives or takes the VIP on a node's public interface.
fn address(lab: &Lab, node: &str, verb: &str, family: Family) {
    let at_once = if (family, verb) == (Family::Ipv6, "add") { " nodad" } else { "" };
    let (vip, interface) = (family.vip_with_prefix(), Link::Public.interface());
    ip(lab, node, &format!("address {verb} {vip} dev {interface}{at_once}"));
}

/// Makes the client's kernel ask anew where the VIP is, for nobody announces here.
fn forget_neighbour(lab: &Lab, family: Family) {
    let vip = family.vip().to_string();
    let flushed = lab.client().command("ip").args(["neigh", "flush", "to", &vip]).status();
    assert!(flushed.expect("`ip` starts").success());
}

/// A VIP on node a, with its service and a client who is served.
fn serving_lab(family: Family) -> (Lab, [EchoServer; 2], RequestProbe) {
    let lab = Lab::new().expect("a lab");
    address(&lab, "a", "add", family);
    let servers = ["a", "b"].map(|node| EchoServer::start(lab.node(node), family.vip()).expect("a service"));
    let client = RequestProbe::start_with(&lab, family.vip(), requests::INTERVAL).expect("a client");
    client.await_service(Some("a"), SOON).expect("service by node a");
    (lab, servers, client)
}

/// Cuts node a's public leg for about so long. Returns the time it was cut at least, and the time it was cut at most.
fn cut(lab: &Lab, length: Duration) -> (Window, Window) {
    let from = Moment::now();
    lab.cut("a", Link::Public).expect("a cut");
    let cut = Moment::now();
    (cut + length).sleep();
    let before_mending = Moment::now();
    lab.mend("a", Link::Public).expect("a mended leg");
    (Window { from: cut, to: before_mending }, Window { from, to: Moment::now() })
}

#[test]
fn every_address_can_be_used_at_once() {
    if !may_run("the lab's own tests") {
        return;
    }
    let lab = Lab::new().expect("a lab");
    for (link, family) in Link::ALL.into_iter().flat_map(|link| Family::ALL.map(|family| (link, family))) {
        let open = |owner: &str| {
            let leg = lab.leg(owner, link);
            let socket = leg.namespace.run(|| Ok(UdpSocket::bind((leg.address_of(family), PORT))?));
            socket.expect("an address that may be bound to")
        };
        let (node, client) = (open("a"), open(CLIENT));
        node.set_read_timeout(Some(SOON)).expect("a time-out");
        client.send_to(b"hello", (lab.leg("a", link).address_of(family), PORT)).expect("a datagram");
        let (_, from) = node.recv_from(&mut [0; 16]).expect("a datagram");
        assert_eq!(from.ip(), lab.leg(CLIENT, link).address_of(family));
    }
    // What nobody chose is sent from the client's ordinary address: the probe's is for answers alone.
    let chosen = lab.client().run(|| {
        let socket = UdpSocket::bind(("::", 0))?;
        socket.connect((Family::Ipv6.vip(), PORT))?;
        Ok(socket.local_addr()?.ip())
    });
    assert_eq!(chosen.expect("a way"), IpAddr::from(lab.leg(CLIENT, Link::Public).address6));
}

#[test]
fn a_cut_of_a_known_length_is_seen_as_an_outage_of_that_length() {
    if !may_run("the lab's own tests") {
        return;
    }
    for family in Family::ALL {
        let (lab, _servers, client) = serving_lab(family);
        let canary = Canary::start().expect("a canary");
        let (least, most) = cut(&lab, Duration::from_millis(100));
        client.await_service(Some("a"), SOON).expect("service after the cut");
        let outage = client.outage(Window::since(most.from - Duration::from_millis(50)));
        let since = Window::since(most.from);
        let machine = canary.worst(since, false) + client.longest_pause(since);
        let (least, most) = (least.to.since(least.from), most.to.since(most.from));
        let most = most + machine + Duration::from_millis(20);
        assert!(outage.length >= least, "{family:?}: cut for at least {least:?}, seen: {outage:?}");
        assert!(outage.length <= most, "{family:?}: cut for at most {most:?}, seen: {outage:?}");
        assert!(outage.lost > 0, "{outage:?}");
        assert_eq!((outage.before.as_deref(), outage.after.as_deref()), (Some("a"), Some("a")));
    }
}

#[test]
fn each_of_five_thousand_requests_a_second_is_accounted_for() {
    if !may_run("the lab's own tests") {
        return;
    }
    for family in Family::ALL {
        let (lab, _servers, _client) = serving_lab(family);
        let interval = Duration::from_micros(200);
        let client = RequestProbe::start_with(&lab, family.vip(), interval).expect("a client");
        client.await_service(Some("a"), SOON).expect("service by node a");
        let patience = Duration::from_millis(200);
        let window = |window: Window| Window { to: window.to.min(Moment::now() - patience), ..window };
        let whole = Moment::now();
        (whole + Duration::from_millis(700)).sleep();
        let losses = client.losses(window(Window::since(whole)), patience);
        assert_eq!(losses.lost, 0, "nothing is cut: {losses:?}");
        assert!(losses.asked > 1500, "{losses:?} in half a second");

        let (least, most) = cut(&lab, Duration::from_millis(100));
        (Moment::now() + patience + Duration::from_millis(50)).sleep();
        let (inside, around) = (client.losses(least, patience), client.losses(most, patience));
        let paused = client.longest_pause(most);
        assert!(inside.lost == inside.asked && inside.asked > 100, "all of them: {inside:?}, {paused:?}");
        assert!(around.lost >= inside.lost && around.lost <= around.asked, "{around:?}");
        let after = client.losses(
            Window { from: most.to + Duration::from_millis(20), to: Moment::now() - patience },
            patience,
        );
        assert_eq!(after.lost, 0, "it is mended: {after:?}");
    }
}

#[test]
fn a_move_of_the_vip_is_seen_with_who_served_before_and_after() {
    if !may_run("the lab's own tests") {
        return;
    }
    for family in Family::ALL {
        let (lab, _servers, client) = serving_lab(family);
        let from = Moment::now();
        address(&lab, "a", "delete", family);
        address(&lab, "b", "add", family);
        forget_neighbour(&lab, family);
        client.await_service(Some("b"), SOON).expect("service by node b");
        let outage = client.outage(Window::since(from));
        assert_eq!(outage.after.as_deref(), Some("b"), "{family:?}: {outage:?}");
        assert_eq!(client.served_by(Window::ALWAYS).len(), 2);
    }
}

#[test]
fn connections_stand_still_while_they_are_cut_and_break_when_the_vip_moves() {
    if !may_run("the lab's own tests") {
        return;
    }
    for family in Family::ALL {
        let (lab, _servers, _client) = serving_lab(family);
        let _streams = ["a", "b"].map(|node| StreamServer::start(lab.node(node)).expect("a service"));
        let connections = Connections::open(&lab, family.vip()).expect("connections");
        await_true("answers on all of them", SOON, || connections.answered() > 1000).expect("answers");

        let (least, most) = cut(&lab, Duration::from_millis(100));
        // What was lost is sent again after a time-out of at least 200 ms.
        (most.to + Duration::from_secs(1)).sleep();
        let fates = connections.fates(Window { from: most.from, to: Moment::now() });
        let least = least.to.since(least.from);
        assert!(
            fates.iter().all(|fate| fate.broke.is_none() && fate.stall >= least),
            "{family:?}: {fates:?}"
        );
        let rest = connections.fates(Window::since(Moment::now() - Duration::from_millis(300)));
        assert!(rest.iter().all(|fate| fate.stall < Duration::from_millis(250)), "{family:?}: {rest:?}");

        address(&lab, "a", "delete", family);
        address(&lab, "b", "add", family);
        forget_neighbour(&lab, family);
        await_true("all of them to break", SOON, || connections.broken() == fates.len()).expect("broken");
        let fates = connections.fates(Window::ALWAYS);
        let how =
            |fate: &cluster_tests::lab::probe::connections::Fate| fate.broke.clone().map(|(_, how)| how);
        println!("{family:?}: {:?}", fates.iter().filter_map(how).collect::<BTreeSet<_>>());
    }
}

#[test]
fn two_nodes_that_answer_are_caught_and_one_is_not_accused() {
    if !may_run("the lab's own tests") {
        return;
    }
    for family in Family::ALL {
        let (lab, _servers, _client) = serving_lab(family);
        let mut probe = AnswerProbe::start_with(&lab, family.vip(), answers::INTERVAL).expect("a probe");
        let answered = |link, mac| {
            probe.answers(Window::ALWAYS).iter().any(|answer| answer.link == link && answer.mac == mac)
        };
        // By ARP the kernel answers for a local address on every interface, by neighbour discovery on its own alone.
        let links = match family {
            Family::Ipv4 => Link::ALL.to_vec(),
            Family::Ipv6 => vec![Link::Public],
        };
        await_true("answers of node a", SOON, || {
            links.iter().all(|&link| answered(link, lab.leg("a", link).mac))
        })
        .expect("answers");
        assert_eq!(probe.double_answers(), [], "one node has the VIP");
        let from = Moment::now();
        address(&lab, "b", "add", family);
        let both =
            |link| probe.double_answers().iter().any(|double| double.link == link && double.asked >= from);
        await_true("double answers", SOON, || links.iter().all(|&link| both(link))).expect("double answers");
        address(&lab, "b", "delete", family);
        probe.stop();
        for double in probe.double_answers() {
            let macs = double.answers.iter().filter_map(|(mac, _)| lab.owner_of(*mac));
            assert_eq!(macs.map(|node| node.name.as_str()).collect::<Vec<_>>(), ["a", "b"], "{double:?}");
            assert!(double.asked >= from, "{double:?}");
        }
        assert_eq!(probe.lost(), 0);
    }
}

#[test]
fn the_node_that_announces_is_known_and_so_is_what_it_says() {
    if !may_run("the lab's own tests") {
        return;
    }
    let lab = Lab::new().expect("a lab");
    let mut announcements = Announcements::start(&lab).expect("a listener");
    // The kernel announces its addresses when its Ethernet address changes, if it is told to.
    let b = lab.leg("b", Link::Public);
    let told = b.namespace.run(|| {
        std::fs::write("/proc/sys/net/ipv4/conf/eth0/arp_notify", "1")?;
        Ok(std::fs::write("/proc/sys/net/ipv6/conf/eth0/ndisc_notify", "1")?)
    });
    told.expect("settings");
    for family in Family::ALL {
        address(&lab, "a", "add", family);
        address(&lab, "b", "add", family);
    }
    assert_eq!(announcements.heard(Window::ALWAYS), [], "nobody has announced anything yet");
    let from = Moment::now();
    ip(&lab, "b", "link set eth0 address 02:00:00:77:00:99");
    for family in Family::ALL {
        let heard =
            || announcements.heard(Window::since(from)).iter().any(|told| told.address == family.vip());
        await_true(&format!("an announcement by {}", family.label()), SOON, heard).expect("an announcement");
    }
    announcements.stop();
    let heard = announcements.heard(Window::ALWAYS);
    assert_eq!(announcements.announcers(Window::ALWAYS), BTreeSet::from(["b".to_owned()]));
    assert!(heard.iter().all(|told| told.link == Link::Public && told.mac == told.source), "{heard:?}");
    assert!(heard.iter().all(|told| told.mac.to_string() == "02:00:00:77:00:99"), "{heard:?}");
    assert!(heard.windows(2).all(|pair| pair[0].at <= pair[1].at));
    assert_eq!(announcements.lost(), 0);
}

#[test]
fn a_capture_sees_what_leaves_a_node_even_when_its_leg_is_cut() {
    if !may_run("the lab's own tests") {
        return;
    }
    let kinds = [
        (Family::Ipv4, Kind::Ipv4Source, Kind::ArpReply),
        (Family::Ipv6, Kind::Ipv6Source, Kind::NeighbourAdvertisement),
    ];
    for (family, packet, answer) in kinds {
        let lab = Lab::new().expect("a lab");
        let mut capture = Capture::start(&lab, "a", Link::Public).expect("a capture");
        let mut other = Capture::start(&lab, "b", Link::Public).expect("a capture");
        address(&lab, "a", "add", family);
        let _server = EchoServer::start(lab.node("a"), family.vip()).expect("a service");
        let client = RequestProbe::start_with(&lab, family.vip(), requests::INTERVAL).expect("a client");
        client.await_service(Some("a"), SOON).expect("service");
        let has =
            |kind, from| capture.sightings(Window::since(from)).iter().any(|sighting| sighting.kind == kind);
        await_true("a packet on the wire", SOON, || has(packet, Moment(0))).expect("a sighting");
        await_true("an answer on the wire", SOON, || has(answer, Moment(0))).expect("a sighting");
        lab.cut("a", Link::Public).expect("a cut");
        let cut = Moment::now();
        let speaker = speaker(&lab, "a", Link::Public, family.vip());
        let to = lab.leg(CLIENT, Link::Public).address_of(family);
        // The client was served just now, so that its Ethernet address is known.
        speaker.send_to(b"still here", (to, PORT)).expect("a datagram");
        await_true("a packet on the wire after the cut", SOON, || has(packet, cut)).expect("a sighting");
        capture.stop();
        other.stop();
        let now = Moment::now();
        let in_order =
            capture.sightings(Window { from: cut, to: now }).windows(2).all(|pair| pair[0].at <= pair[1].at);
        assert!(in_order, "the kernel's stamps, brought to the lab's clock");
        assert_eq!(other.sightings(Window::ALWAYS), [], "node b has no VIP");
        assert_eq!(capture.lost(), 0);
    }
}

/// A socket of `owner` on `link`, bound to `address`, that may broadcast.
fn speaker(lab: &Lab, owner: &str, link: Link, address: impl Into<IpAddr>) -> UdpSocket {
    let address = address.into();
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
    let (lab, _servers, client) = serving_lab(Family::Ipv4);
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
    let (lab, servers, client) = serving_lab(Family::Ipv4);
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
