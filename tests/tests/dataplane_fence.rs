//! The egress fence on real wires, by TCX and by clsact: a host whose address is a VIP is silent without the lease.

mod dataplane_support;

use std::net::UdpSocket;
use std::os::fd::AsRawFd;
use std::process::Command;

use aya::EbpfLoader;
use aya::programs::tc::{NlOptions, SchedClassifier, TcAttachOptions, TcAttachType};
use cluster_common::Verdict;
use cluster_proto::Time;
use cluster_tests::frames::{ipv4, ipv6, tagged};
use cluster_tests::lab::await_true;
use cluster_tests::netns::Netns;
use cluster_userspace::dataplane::{DataPlane, EgressHook, Fenced, Hook, LAB_OBJECT, Options};
use nix::ifaddrs::getifaddrs;
use nix::sys::socket::{AddressFamily, MsgFlags, SockFlag, SockType, sendto, socket};

use dataplane_support::{
    CLIENT, CLIENT_MAC, CLIENT6, EPOCH, NODE_MAC, NODE6, PATIENCE, Place, VIP, VIP6, ask, ask_in_vain,
    await_count, client_knows_of_vip6, count, have_client_ask_for_vip6, names_below,
};

const HOOKS: [(EgressHook, Hook); 2] = [(EgressHook::Tcx, Hook::Tcx), (EgressHook::Clsact, Hook::Clsact)];

/// The worst of cases: the address is configured, and the ingress program is not there.
#[test]
fn a_kernel_with_the_address_is_silent_without_the_lease() {
    for (egress, hook) in HOOKS {
        let Some(place) = Place::new() else { return };
        place.node.ip(&format!("addr add {VIP}/24 dev eth0")).expect("configure the VIP");
        let mut plane = place.open(Options { egress, ..place.options() });
        place.node.run(|| plane.fence_all()).expect("fence");
        assert!(plane.fenced().all(|fenced| fenced.hook == hook));
        let (table, slot) = (plane.lease_table().expect("map the leases"), plane.slots()[0]);
        let asking = place.client_socket();

        // Held or not, the kernel does not answer for the VIP, and answers for its own address.
        for until in [Time::ZERO, Time::NEVER] {
            table.set(slot, EPOCH, until);
            ask_in_vain(&asking, &plane, Verdict::EgressArpReplyFenced);
        }
        table.clear(slot);

        let listener = place.client.run(|| UdpSocket::bind((CLIENT, 4780))).expect("listen");
        listener.set_read_timeout(Some(PATIENCE)).expect("set a limit");
        let speaker = place.node.run(|| UdpSocket::bind((VIP, 0))).expect("speak from the VIP");
        let speak = |word: &[u8]| speaker.send_to(word, (CLIENT, 4780));

        // The kernel, which has forgotten the client, asks for it with the VIP as sender.
        place.node.ip("neigh flush dev eth0").expect("forget");
        speak(b"first").expect("the kernel takes it");
        await_count(&plane, Verdict::EgressArpRequestFenced, 1);

        // The kernel knows the client.
        place.node.ip(&format!("neigh replace {CLIENT} lladdr {CLIENT_MAC} dev eth0")).expect("tell it");
        let before = count(&plane, Verdict::EgressIpv4Fenced);
        // The kernel may tell of the drop; that is no failure of this test.
        let _told = speak(b"dark");
        await_count(&plane, Verdict::EgressIpv4Fenced, before + 1);
        table.set(slot, EPOCH, Time::NEVER);
        speak(b"held").expect("it is let out");
        let mut word = [0; 16];
        let (length, from) = listener.recv_from(&mut word).expect("it arrives");
        assert_eq!((&word[..length], from.ip()), (&b"held"[..], VIP.into()), "and nothing has before it");
        assert_eq!(count(&plane, Verdict::EgressIpv4Passed), 1);

        place.node.ip(&format!("neigh del {CLIENT} dev eth0")).expect("forget");
        speak(b"again").expect("the kernel takes it");
        await_count(&plane, Verdict::EgressArpRequestPassed, 1);

        // Without the fence the kernel answers: it is the fence that has kept it.
        place.node.run(|| plane.detach_and_unpin()).expect("remove");
        ask(&asking);
    }
}

/// The same by IPv6.
#[test]
fn a_kernel_with_the_ipv6_address_is_silent_without_the_lease() {
    for (egress, _) in HOOKS {
        let Some(place) = Place::new() else { return };
        place.node.ip(&format!("addr add {VIP6}/64 dev eth0 nodad")).expect("configure the VIP");
        let mut plane = place.open(Options { egress, ..place.options() });
        place.node.run(|| plane.fence_all()).expect("fence");
        let (table, slot) = (plane.lease_table().expect("map the leases"), plane.slots()[0]);

        // Held or not, the kernel does not answer for the VIP.
        for until in [Time::ZERO, Time::NEVER] {
            table.set(slot, EPOCH, until);
            let before = count(&plane, Verdict::EgressNaFenced);
            have_client_ask_for_vip6(&place);
            await_count(&plane, Verdict::EgressNaFenced, before + 1);
            assert!(!client_knows_of_vip6(&place).contains("lladdr"), "{}", client_knows_of_vip6(&place));
        }
        table.clear(slot);

        let listener = place.client.run(|| UdpSocket::bind((CLIENT6, 4780))).expect("listen");
        listener.set_read_timeout(Some(PATIENCE)).expect("set a limit");
        let speaker = place.node.run(|| UdpSocket::bind((VIP6, 0))).expect("speak from the VIP");
        let speak = |word: &[u8]| speaker.send_to(word, (CLIENT6, 4780));

        // The kernel, which has forgotten the client, asks for it from the VIP.
        place.node.ip("-6 neigh flush dev eth0").expect("forget");
        speak(b"first").expect("the kernel takes it");
        await_count(&plane, Verdict::EgressIpv6Fenced, 1);

        // The kernel knows the client.
        place.node.ip(&format!("-6 neigh replace {CLIENT6} lladdr {CLIENT_MAC} dev eth0")).expect("tell it");
        let before = count(&plane, Verdict::EgressIpv6Fenced);
        // The kernel may tell of the drop; that is no failure of this test.
        let _told = speak(b"dark");
        await_count(&plane, Verdict::EgressIpv6Fenced, before + 1);
        table.set(slot, EPOCH, Time::NEVER);
        speak(b"held").expect("it is let out");
        let mut word = [0; 16];
        let (length, from) = listener.recv_from(&mut word).expect("it arrives");
        assert_eq!((&word[..length], from.ip()), (&b"held"[..], VIP6.into()), "and nothing has before it");
        assert!(count(&plane, Verdict::EgressIpv6Passed) > 0);

        // An address that is added without `nodad` is asked for first, which says that somebody wants it.
        table.clear(slot);
        place.node.ip(&format!("addr del {VIP6}/64 dev eth0")).expect("take it away");
        place.node.ip(&format!("addr add {VIP6}/64 dev eth0")).expect("configure it again");
        await_count(&plane, Verdict::EgressDadFenced, 1);

        // Without the fence the kernel answers: it is the fence that has kept it.
        place.node.ip(&format!("addr del {VIP6}/64 dev eth0")).expect("take it away");
        place.node.ip(&format!("addr add {VIP6}/64 dev eth0 nodad")).expect("configure it without asking");
        place.node.run(|| plane.detach_and_unpin()).expect("remove");
        have_client_ask_for_vip6(&place);
        let answered = || client_knows_of_vip6(&place).contains(&format!("lladdr {NODE_MAC}"));
        await_true("an answer", PATIENCE, answered).expect("the kernel answers");
    }
}

/// The kernel keeps the headers of a long raw frame outside the part of the buffer that programs see without asking.
#[test]
fn a_frame_in_pieces_is_fenced_too() {
    for (egress, _) in HOOKS {
        let Some(place) = Place::new() else { return };
        for end in [&place.node, &place.client] {
            end.ip("link set eth0 mtu 9000").expect("allow jumbo frames");
        }
        let mut plane = place.open(Options { egress, ..place.options() });
        place.node.run(|| plane.fence_all()).expect("fence");
        let frame = ipv4(CLIENT_MAC.0, VIP.octets(), CLIENT.octets(), 6000);
        send_raw(&place.node, &frame);
        await_count(&plane, Verdict::EgressIpv4Fenced, 1);
        // The address that it advertises stands behind an extension header of 2048 bytes.
        let mut hidden = ipv6(CLIENT_MAC.0, NODE6, CLIENT6, 60, 255, &[0; 6000]);
        hidden[54..56].copy_from_slice(&[58, 255]);
        hidden[54 + 2048] = 136;
        hidden[54 + 2048 + 8..][..16].copy_from_slice(&VIP6.octets());
        send_raw(&place.node, &hidden);
        await_count(&plane, Verdict::EgressNaFenced, 1);
        plane.lease_table().expect("map the leases").set(plane.slots()[0], EPOCH, Time::NEVER);
        send_raw(&place.node, &tagged(&frame, &[(0x88a8, 9), (0x8100, 5)]));
        await_count(&plane, Verdict::EgressIpv4Passed, 1);
    }
}

#[test]
fn every_ethernet_interface_is_fenced_and_no_other() {
    for (egress, hook) in HOOKS {
        let Some(place) = Place::new() else { return };
        place.node.ip("link add private type veth peer name cable").expect("make more interfaces");
        place.node.ip("tuntap add dev routed mode tun").expect("make one that is not Ethernet");
        let mut plane = place.open(Options { egress, ..place.options() });
        place.node.run(|| plane.fence_all()).expect("fence");
        let names = |plane: &DataPlane| {
            let mut names: Vec<_> = plane.fenced().map(|fenced| fenced.name.clone()).collect();
            names.sort();
            names
        };
        assert_eq!(names(&plane), ["cable", "eth0", "private"]);
        let tun = place.node.ifindex("routed").expect("it is there");
        assert!(!place.node.run(|| plane.fence_interface(tun)).expect("it is passed over"));

        place.node.ip("link add late type bridge").expect("make one more");
        let late = place.node.ifindex("late").expect("it is there");
        for _ in 0..2 {
            assert!(place.node.run(|| plane.fence_interface(late)).expect("fence"));
        }
        assert!(
            plane.fenced().any(|fenced| *fenced == Fenced { ifindex: late, name: "late".to_owned(), hook })
        );
        assert_eq!(programs_on(&place.node, "late"), 1, "fencing twice fences once");

        place.node.ip("link del late").expect("take it away");
        assert!(!place.node.run(|| plane.fence_interface(late)).expect("it is passed over"));
        place.node.run(|| plane.unfence_interface(late)).expect("forget it");
        assert_eq!(names(&plane), ["cable", "eth0", "private"]);
        place.node.run(|| plane.detach_and_unpin()).expect("remove");
        for interface in ["eth0", "private", "cable"] {
            assert_eq!(programs_on(&place.node, interface), 0, "{interface}");
            assert!(!has_clsact(&place.node, interface), "{interface}");
        }
        assert!(!place.root.exists(), "{:?}", names_below(&place.root));
    }
}

#[test]
fn a_fence_outlives_its_daemon_and_is_adopted_by_the_next() {
    for (egress, _) in HOOKS {
        for (next, hook) in HOOKS {
            let Some(place) = Place::new() else { return };
            place.node.ip(&format!("addr add {VIP}/24 dev eth0")).expect("configure the VIP");
            let options = Options { egress, ..place.options() };
            let mut plane = place.open(options.clone());
            place.node.run(|| plane.fence_all()).expect("fence");
            let before = count(&plane, Verdict::EgressArpReplyFenced);
            drop(plane);
            let asking = place.client_socket();
            let plane = place.open(Options { egress: next, ..options });
            assert_eq!(count(&plane, Verdict::EgressArpReplyFenced), before);
            assert!(
                plane.fenced().all(|fenced| fenced.hook == hook),
                "{:?}",
                plane.fenced().collect::<Vec<_>>()
            );
            assert_eq!(plane.fenced().count(), 1);
            assert_eq!(programs_on(&place.node, "eth0"), 1, "{egress:?} then {next:?}");
            assert_eq!(has_clsact(&place.node, "eth0"), hook == Hook::Clsact);
            ask_in_vain(&asking, &plane, Verdict::EgressArpReplyFenced);
            drop(plane);
            assert!(place.cleanup());
            assert_eq!(programs_on(&place.node, "eth0"), 0);
            assert!(!has_clsact(&place.node, "eth0"));
        }
    }
}

#[test]
fn pins_of_interfaces_that_are_gone_are_forgotten() {
    for (egress, _) in HOOKS {
        let Some(place) = Place::new() else { return };
        let options = Options { egress, ..place.options() };
        let mut plane = place.open(options.clone());
        place.node.run(|| plane.fence_all()).expect("fence");
        drop(plane);
        // The new interface may get the old one's number, and has no program all the same.
        place.node.ip("link del eth0").expect("take it away");
        place.wire();
        let mut plane = place.open(options);
        place.node.run(|| plane.fence_all()).expect("fence");
        assert_eq!(plane.fenced().count(), 1);
        assert_eq!(programs_on(&place.node, "eth0"), 1);
        assert_eq!(
            names_below(&place.root)
                .iter()
                .filter(|name| name.contains("egress-") || name.contains("clsact-"))
                .count(),
            1
        );
    }
}

#[test]
fn somebody_elses_discipline_and_filters_stay() {
    let Some(place) = Place::new() else { return };
    let options = Options { egress: EgressHook::Clsact, ..place.options() };

    // The discipline was there before.
    place.node.run(|| aya::programs::tc::qdisc_add_clsact("eth0")).expect("add a clsact");
    let mut plane = place.open(options.clone());
    place.node.run(|| plane.fence_all()).expect("fence");
    place.node.run(|| plane.detach_and_unpin()).expect("remove");
    assert!(has_clsact(&place.node, "eth0"));
    place.node.run(|| run("tc", &["qdisc", "del", "dev", "eth0", "clsact"]));

    // The discipline was ours, and somebody has put a filter into it since.
    let mut plane = place.open(options);
    place.node.run(|| plane.fence_all()).expect("fence");
    let mut foreign = EbpfLoader::new().btf(None).load(LAB_OBJECT).expect("load the lab's programs");
    let program: &mut SchedClassifier =
        foreign.program_mut("loss_out").expect("it is there").try_into().expect("it is a classifier");
    program.load().expect("the kernel takes it");
    let attach = TcAttachOptions::Netlink(NlOptions::default());
    place.node.run(|| program.attach_with_options("eth0", TcAttachType::Egress, attach)).expect("attach it");
    assert_eq!(programs_on(&place.node, "eth0"), 2);
    place.node.run(|| plane.detach_and_unpin()).expect("remove");
    assert_eq!(programs_on(&place.node, "eth0"), 1);
    assert!(has_clsact(&place.node, "eth0"));
    drop(place);
}

#[test]
fn two_nodes_on_one_host_have_fences_of_their_own() {
    for (egress, _) in HOOKS {
        let Some(place) = Place::new() else { return };
        let mut one = place.open(Options { egress, ..place.options() });
        let mut two = place.open(Options { egress, node: "two".to_owned(), ..place.options() });
        place.node.run(|| one.fence_all()).expect("fence");
        place.node.run(|| two.fence_all()).expect("fence");
        assert_eq!(programs_on(&place.node, "eth0"), 2, "{egress:?}");
        place.node.run(|| one.detach_and_unpin()).expect("remove");
        assert_eq!(programs_on(&place.node, "eth0"), 1);
        place.node.run(|| two.detach_and_unpin()).expect("remove");
        assert_eq!(programs_on(&place.node, "eth0"), 0);
    }
}

/// How many egress programs are on the interface, by TCX and by clsact.
fn programs_on(namespace: &Netns, interface: &str) -> usize {
    namespace.run(|| {
        let (_, tcx) = SchedClassifier::query_tcx(interface, TcAttachType::Egress).expect("ask");
        let filters = run("tc", &["filter", "show", "dev", interface, "egress"]);
        tcx.len() + filters.matches("direct-action").count()
    })
}

/// Sends a frame by `eth0` as it is, by way of the queueing layer.
fn send_raw(namespace: &Netns, frame: &[u8]) {
    namespace.run(|| {
        let socket = socket(AddressFamily::Packet, SockType::Raw, SockFlag::SOCK_CLOEXEC, None)
            .expect("open a socket");
        let eth0 = getifaddrs()
            .expect("list the addresses")
            .filter(|entry| entry.interface_name == "eth0")
            .find_map(|entry| entry.address?.as_link_addr().copied())
            .expect("it is there");
        // The fence drops the frame without telling the sender, or with ENOBUFS.
        let _told = sendto(socket.as_raw_fd(), frame, &eth0, MsgFlags::empty());
    });
}

fn has_clsact(namespace: &Netns, interface: &str) -> bool {
    namespace.run(|| run("tc", &["qdisc", "show", "dev", interface]).contains("clsact"))
}

fn run(program: &str, arguments: &[&str]) -> String {
    let output = Command::new(program).args(arguments).output().expect("it is installed");
    assert!(output.status.success(), "{program} {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).into_owned()
}
