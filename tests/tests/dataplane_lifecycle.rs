//! The data plane's life on a real wire: attached, adopted, replaced, refused, removed.

mod dataplane_chain;
mod dataplane_support;

use std::net::{IpAddr, Ipv4Addr, UdpSocket};
use std::num::NonZeroU8;
use std::process::Command;

use aya::maps::Array;
use aya::programs::tc::TcAttachType;
use aya::programs::{SchedClassifier, Xdp, XdpMode};
use aya::{Ebpf, EbpfLoader};
use cluster_common::Verdict;
use cluster_common::maps::{ALL, LAYOUT_VERSION};
use cluster_proto::{GroupId, Mac, Time, VirtualMac};
use cluster_tests::lab::{Moment, await_some, await_true};
use cluster_userspace::dataplane::{
    DataPlane, DataPlaneError, EgressHook, GroupVips, LAB_OBJECT, MapsWere, Mode, Options, Tenancy, Vip,
    XdpPreference, cleanup, lock_remains,
};
use cluster_userspace::network::arp;
use cluster_userspace::network::packet_socket::PacketSocket;

use dataplane_support::{
    CLIENT, CLIENT_MAC, CLIENT6, EPOCH, GROUP, NODE_MAC, PATIENCE, Place, VIP, VIP6, ask, ask_in_vain,
    await_count, client_knows_of_vip6, count, group, have_client_ask_for_vip6, names_below, receive,
};

const OTHER_GROUP: GroupId = GroupId(7);
const OTHER_VIP: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 101);

#[test]
fn a_node_answers_while_it_holds_in_both_modes() {
    for (preference, mode) in [
        (XdpPreference::Native, Mode::Native),
        (XdpPreference::Generic, Mode::Generic),
        (XdpPreference::Auto, Mode::Native),
    ] {
        let Some(place) = Place::new() else { return };
        let _pass = let_answers_through(&place);
        let mut plane = place.open(Options { xdp: preference, ..place.options() });
        assert_eq!(*plane.maps_were(), MapsWere::Absent);
        let attached = place.node.run(|| plane.attach()).expect("attach");
        assert_eq!((attached.mode, attached.mac, attached.adopted), (mode, NODE_MAC, false));
        let (table, slot) = (plane.lease_table().expect("map the leases"), plane.slots()[0]);
        let socket = place.client_socket();

        ask_in_vain(&socket, &plane, Verdict::ArpDark);
        table.set(slot, EPOCH, Time::NEVER);
        let answer = ask(&socket);
        assert_eq!((answer.sender_mac, answer.sender_ip), (NODE_MAC, VIP));
        assert_eq!((answer.target_mac, answer.target_ip), (CLIENT_MAC, CLIENT));
        let served = plane.noted(Time::ZERO).expect("read who was served").served;
        assert_eq!(served.iter().map(|served| served.address).collect::<Vec<_>>(), [IpAddr::from(CLIENT)]);
        assert!(served[0].at.as_nanos() <= Moment::now().0);

        plane.set_mac(Mac([2, 0, 0, 0, 0, 0x0f]));
        assert_eq!(ask(&socket).sender_mac, Mac([2, 0, 0, 0, 0, 0x0f]));
        plane.set_mac(NODE_MAC);
        table.clear(slot);
        ask_in_vain(&socket, &plane, Verdict::ArpDark);

        socket.send(&arp::announcement(CLIENT_MAC, VIP)).expect("announce");
        await_count(&plane, Verdict::ArpAnnounced, 1);
    }
}

#[test]
fn a_lease_that_nobody_renews_runs_out() {
    let Some(place) = Place::new() else { return };
    let _pass = let_answers_through(&place);
    let mut plane = place.open(place.options());
    place.node.run(|| plane.attach()).expect("attach");
    let until = Moment::now().0 + 50_000_000;
    plane.lease_table().expect("map the leases").set(plane.slots()[0], EPOCH, Time::from_nanos(until));
    let socket = place.client_socket();
    drop(plane);
    // There is no daemon any more, and its last word still counts.
    Moment(until).sleep();
    let plane = place.open(place.options());
    assert_eq!(count(&plane, Verdict::ArpDark), 0);
    ask_in_vain(&socket, &plane, Verdict::ArpDark);
}

#[test]
fn a_restarted_daemon_adopts_lease_maps_and_programs() {
    let Some(place) = Place::new() else { return };
    let _pass = let_answers_through(&place);
    let mut plane = place.open(place.options());
    place.node.run(|| plane.attach()).expect("attach");
    place.node.run(|| plane.fence_all()).expect("fence");
    let first = plane.slots()[0];
    let until = Time::from_nanos(Moment::now().0 + 3_600_000_000_000);
    plane.lease_table().expect("map the leases").set(first, EPOCH, until);
    let socket = place.client_socket();
    ask(&socket);
    drop(plane);
    assert_eq!(ask(&socket).sender_mac, NODE_MAC, "a dead daemon's programs go on");

    // The order of the groups and a new one among them change no slot.
    let groups = vec![group(OTHER_GROUP, &[OTHER_VIP.into()]), group(GROUP, &[VIP.into()])];
    let mut plane = place.open(Options { groups: groups.clone(), ..place.options() });
    assert_eq!(*plane.maps_were(), MapsWere::Adopted);
    assert_eq!(plane.slots()[1], first);
    let table = plane.lease_table().expect("map the leases");
    assert_eq!(table.read(first), Some(Tenancy { epoch: EPOCH, until }));
    assert_eq!(table.read(plane.slots()[0]), None);
    assert_eq!(ask(&socket).sender_mac, NODE_MAC);
    assert_eq!(plane.fenced().count(), 1, "the fence is adopted, too");
    let attached = place.node.run(|| plane.attach()).expect("attach");
    assert!(attached.adopted);
    assert_eq!(attached.mode, Mode::Native);
    assert_eq!(ask(&socket).sender_mac, NODE_MAC);
    let counts = plane.counters().expect("read the counters");
    assert_eq!(counts[1].group, GROUP);
    assert_eq!(counts[1].verdicts[Verdict::ArpAnswered as usize], 4);

    // A group that is gone is dark, and its slot is another's afterwards.
    plane.set_groups(vec![group(OTHER_GROUP, &[OTHER_VIP.into()])]).expect("reload");
    assert_eq!(table.read(first), None);
    plane.set_groups(groups).expect("reload");
    let again = plane.slots()[1];
    assert_eq!(table.read(again), None);
    let fresh = plane.counters().expect("read the counters");
    assert_eq!(fresh[1].verdicts, [0; Verdict::COUNT], "a slot that changes hands counts from zero");
    table.set(again, EPOCH, until);
    assert_eq!(ask(&socket).sender_mac, NODE_MAC);
}

/// A kernel as the client: it believes the answer only if every field and the checksum are right.
#[test]
fn a_node_answers_neighbours_while_it_holds_in_both_modes() {
    for preference in [XdpPreference::Native, XdpPreference::Generic] {
        let Some(place) = Place::new() else { return };
        let _pass = let_answers_through(&place);
        place.node.ip(&format!("addr add {VIP6}/128 dev lo nodad")).expect("configure the VIP");
        let mut plane = place.open(Options { xdp: preference, ..place.options() });
        place.node.run(|| plane.attach()).expect("attach");
        place.node.run(|| plane.fence_all()).expect("fence");
        let (table, slot) = (plane.lease_table().expect("map the leases"), plane.slots()[0]);
        let listener = place.node.run(|| UdpSocket::bind((VIP6, 4780))).expect("listen");
        listener.set_read_timeout(Some(PATIENCE)).expect("set a limit");

        have_client_ask_for_vip6(&place);
        await_count(&plane, Verdict::NsDark, 1);
        assert!(!client_knows_of_vip6(&place).contains("lladdr"), "{}", client_knows_of_vip6(&place));

        for forwards in [false, true] {
            plane.set_forwarding(forwards);
            table.set(slot, EPOCH, Time::NEVER);
            let before = count(&plane, Verdict::NsAnswered);
            have_client_ask_for_vip6(&place);
            let mut word = [0; 16];
            let (length, from) = listener.recv_from(&mut word).expect("it arrives");
            assert_eq!((&word[..length], from.ip()), (&b"anybody?"[..], CLIENT6.into()));
            assert!(count(&plane, Verdict::NsAnswered) > before);
            let known = client_knows_of_vip6(&place);
            assert!(known.contains(&format!("lladdr {NODE_MAC}")), "{known}");
            assert_eq!(known.contains("router"), forwards, "{known}");
        }
        assert!(
            plane
                .noted(Time::ZERO)
                .expect("read who was served")
                .served
                .iter()
                .any(|served| served.address == CLIENT6)
        );

        // Whoever would like to have the VIP himself is told, and only while it is held, that he cannot.
        place.client.ip(&format!("addr add {VIP6}/64 dev eth0")).expect("it would like to have the VIP");
        let state = || place.client.ip("-6 addr show dev eth0").expect("ask the client");
        await_true("a refusal", PATIENCE, || state().contains("dadfailed")).expect("the client is refused");
        table.clear(slot);
        place.client.ip(&format!("addr del {VIP6}/64 dev eth0")).expect("it gives up");
        place.client.ip(&format!("addr add {VIP6}/64 dev eth0")).expect("it tries again");
        let has_it = || !state().contains("tentative") && !state().contains("dadfailed");
        await_true("an address", PATIENCE, has_it).expect("the client has it");
    }
}

/// Clients learn the virtual address, and what they send there arrives, in the ways of both hooks.
#[test]
fn a_group_appears_under_its_virtual_ethernet_addresses() {
    for (xdp, egress) in [
        (XdpPreference::Native, EgressHook::Tcx),
        (XdpPreference::Native, EgressHook::Clsact),
        (XdpPreference::Generic, EgressHook::Tcx),
    ] {
        let Some(place) = Place::new() else { return };
        let _pass = let_answers_through(&place);
        for vip in [format!("{VIP}/32"), format!("{VIP6}/128 nodad")] {
            place.node.ip(&format!("addr add {vip} dev lo")).expect("configure the VIP");
        }
        let virtually = |id| GroupVips {
            mac: NonZeroU8::new(id).map(VirtualMac),
            ..group(GROUP, &[VIP.into(), VIP6.into()])
        };
        let mut plane = place.open(Options { xdp, egress, groups: vec![virtually(0x33)], ..place.options() });
        place.node.run(|| plane.attach()).expect("attach");
        place.node.run(|| plane.fence_all()).expect("fence");
        let (table, slot) = (plane.lease_table().expect("map the leases"), plane.slots()[0]);
        let [ipv4, ipv6] = [Mac([0, 0, 0x5e, 0, 1, 0x33]), Mac([0, 0, 0x5e, 0, 2, 0x33])];
        let socket = place.client_socket();

        ask_in_vain(&socket, &plane, Verdict::ArpDark);
        table.set(slot, EPOCH, Time::NEVER);
        assert_eq!(ask(&socket).sender_mac, ipv4);

        // The kernels at both ends talk as they do with any other host.
        place.client.ip("neigh flush dev eth0").expect("forget");
        let ends = [(IpAddr::from(VIP), IpAddr::from(CLIENT), ipv4), (VIP6.into(), CLIENT6.into(), ipv6)];
        for (vip, client, mac) in ends {
            let node_end = place.node.run(|| UdpSocket::bind((vip, 4780))).expect("listen");
            let client_end = place.client.run(|| UdpSocket::bind((client, 4780))).expect("listen");
            let mut word = [0; 16];
            for (from, to, address) in [(&client_end, &node_end, vip), (&node_end, &client_end, client)] {
                to.set_read_timeout(Some(PATIENCE)).expect("set a limit");
                from.send_to(b"word", (address, 4780)).expect("the kernel takes it");
                to.recv_from(&mut word).expect("it arrives");
            }
            let known = place.client.ip(&format!("neigh show {vip} dev eth0")).expect("ask the client");
            assert!(known.contains(&format!("lladdr {mac}")), "{xdp:?} {egress:?}: {known}");
        }

        // What the node asks and announces by itself names the virtual address as well.
        while receive(&socket).is_some() {}
        let ifindex = place.node.ifindex("eth0").expect("it is there");
        let announcing = place.node.run(|| PacketSocket::arp(ifindex)).expect("open a socket");
        announcing.send(&arp::announcement(NODE_MAC, VIP)).expect("announce");
        let heard = await_some("an announcement", PATIENCE, || Ok(receive(&socket))).expect("it arrives");
        assert_eq!((heard.sender_mac, heard.sender_ip), (ipv4, VIP));

        table.clear(slot);
        let before = count(&plane, Verdict::VirtualMacDark);
        let client_end = place.client.run(|| UdpSocket::bind((CLIENT, 0))).expect("open a socket");
        client_end.send_to(b"dark", (VIP, 4780)).expect("the kernel takes it");
        await_count(&plane, Verdict::VirtualMacDark, before + 1);

        // Without virtual addresses the network card's is back, and nothing is left on the interface to mend with.
        table.set(slot, EPOCH, Time::NEVER);
        assert_eq!(ingress_programs(&place), 1);
        let real = group(GROUP, &[VIP.into(), VIP6.into()]);
        place.node.run(|| plane.set_groups(vec![real])).expect("reload");
        assert_eq!(ask(&socket).sender_mac, NODE_MAC);
        assert_eq!(ingress_programs(&place), 0);
        place.node.run(|| plane.set_groups(vec![virtually(0x34)])).expect("reload");
        assert_eq!(ask(&socket).sender_mac, Mac([0, 0, 0x5e, 0, 1, 0x34]));
        drop(plane);
        assert_eq!(ingress_programs(&place), 1, "it outlives its daemon");
        assert!(place.cleanup());
        assert_eq!(ingress_programs(&place), 0);
        let disciplines =
            place.node.run(|| Command::new("tc").args(["qdisc", "show", "dev", "eth0"]).output());
        let disciplines =
            String::from_utf8(disciplines.expect("tc is installed").stdout).expect("it is text");
        assert!(!disciplines.contains("clsact"), "{disciplines}");
    }
}

#[test]
fn what_a_dead_daemon_guarded_is_known_whatever_the_layout_of_its_maps() {
    let Some(place) = Place::new() else { return };
    let remains = || place.node.run(|| lock_remains(&place.root, "test", "node.example")).expect("lock");
    assert!(remains().is_none(), "there was no daemon");
    let groups = vec![group(GROUP, &[VIP.into()]), group(OTHER_GROUP, &[OTHER_VIP.into()])];
    drop(place.open(Options { groups, ..place.options() }));
    let vips = || {
        let mut vips = remains().expect("a daemon was there").vips().expect("read the maps");
        vips.sort_unstable();
        vips
    };
    assert_eq!(vips(), [VIP, OTHER_VIP]);
    let directory = place.root.join("test/node%2eexample");
    std::fs::rename(directory.join(format!("v{LAYOUT_VERSION}")), directory.join("v0")).expect("pretend");
    assert_eq!(vips(), [VIP, OTHER_VIP]);
    // Something else of that name guards nothing.
    std::fs::remove_file(directory.join("v0/vips")).expect("remove the pin");
    Array::<_, u64>::create(3, 0).expect("make a map").pin(directory.join("v0/vips")).expect("pin it");
    assert!(!vips().contains(&VIP.into()));
}

#[test]
fn a_mode_that_is_no_longer_wanted_is_replaced() {
    let Some(place) = Place::new() else { return };
    let mut plane = place.open(place.options());
    place.node.run(|| plane.attach()).expect("attach");
    drop(plane);
    let mut plane = place.open(Options { xdp: XdpPreference::Generic, ..place.options() });
    let attached = place.node.run(|| plane.attach()).expect("attach");
    assert_eq!((attached.mode, attached.adopted), (Mode::Generic, false));
    assert!(place.node.ip("link show eth0").expect("show").contains("xdpgeneric"));
}

#[test]
fn maps_that_do_not_fit_go_dark_and_are_replaced() {
    let Some(place) = Place::new() else { return };
    let _pass = let_answers_through(&place);
    let mut plane = place.open(place.options());
    place.node.run(|| plane.attach()).expect("attach");
    let (table, slot) = (plane.lease_table().expect("map the leases"), plane.slots()[0]);
    table.set(slot, EPOCH, Time::NEVER);
    let socket = place.client_socket();
    ask(&socket);
    drop(plane);

    let pin = place.root.join(format!("test/node%2eexample/v{LAYOUT_VERSION}/counters"));
    std::fs::remove_file(&pin).expect("remove the pin");
    let other = Array::<_, u64>::create(3, 0).expect("make a map");
    other.pin(&pin).expect("pin it");
    let mut plane = place.open(place.options());
    let MapsWere::Unfit { reason } = plane.maps_were() else { panic!("{:?}", plane.maps_were()) };
    assert!(reason.contains("counters"), "{reason}");
    assert_eq!(table.read(slot), None, "the old program's leases are gone");
    assert_eq!(plane.lease_table().expect("map the leases").read(plane.slots()[0]), None);
    assert!(place.node.run(|| plane.attach()).expect("attach").adopted);
    ask_in_vain(&socket, &plane, Verdict::ArpDark);
    plane.lease_table().expect("map the leases").set(plane.slots()[0], EPOCH, Time::NEVER);
    ask(&socket);
    drop(plane);

    // Another layout, of which not even the leases are known.
    let directory = place.root.join("test/node%2eexample");
    let ours = directory.join(format!("v{LAYOUT_VERSION}"));
    std::fs::rename(&ours, directory.join("v0")).expect("pretend");
    std::fs::remove_file(directory.join("v0/tenures")).expect("remove the pin");
    let plane = place.open(place.options());
    let MapsWere::Unfit { reason } = plane.maps_were() else { panic!("{:?}", plane.maps_were()) };
    assert!(reason.contains("v0"), "{reason}");
    assert!(!directory.join("v0").exists());
    drop(plane);

    // One map is missing.
    std::fs::remove_file(ours.join("nic")).expect("remove the pin");
    let plane = place.open(place.options());
    let MapsWere::Unfit { reason } = plane.maps_were() else { panic!("{:?}", plane.maps_were()) };
    assert!(reason.contains("nic"), "{reason}");
}

/// A daemon with another layout goes on with the leases of the one before: there is no moment in which nobody answers.
#[test]
fn leases_are_carried_over_from_another_layout() {
    let Some(place) = Place::new() else { return };
    let _pass = let_answers_through(&place);
    let mut plane = place.open(place.options());
    place.node.run(|| plane.attach()).expect("attach");
    place.node.run(|| plane.fence_all()).expect("fence");
    let (former, slot) = (plane.lease_table().expect("map the leases"), plane.slots()[0]);
    let until = Time::from_nanos(Moment::now().0 + 3_600_000_000_000);
    former.set(slot, EPOCH, until);
    let socket = place.client_socket();
    ask(&socket);
    drop(plane);

    let directory = place.root.join("test/node%2eexample");
    let version = format!("v{LAYOUT_VERSION}");
    let (ours, theirs) = (directory.join(&version), directory.join("v0"));
    std::fs::rename(&ours, &theirs).expect("pretend");
    for map in ["vips", "filter", "nic", "counters"] {
        std::fs::remove_file(theirs.join(map)).expect("pretend that these were others");
    }
    // The first start fails in the middle, before it has taken the programs' place.
    drop(place.open(place.options()));
    assert!(ours.exists() && theirs.exists());
    assert_eq!(ask(&socket).sender_mac, NODE_MAC, "the old program goes on");

    let mut plane = place.open(place.options());
    assert_eq!(*plane.maps_were(), MapsWere::CarriedOver { from: "v0".to_owned() });
    let table = plane.lease_table().expect("map the leases");
    assert_eq!(plane.slots()[0], slot);
    assert_eq!(table.read(slot), Some(Tenancy { epoch: EPOCH, until }));
    assert_eq!(ask(&socket).sender_mac, NODE_MAC, "and still does");
    assert_eq!(count(&plane, Verdict::ArpAnswered), 0);
    assert!(place.node.run(|| plane.attach()).expect("attach").adopted);
    place.node.run(|| plane.fence_all()).expect("fence");
    assert_eq!(ask(&socket).sender_mac, NODE_MAC);
    assert_eq!(count(&plane, Verdict::ArpAnswered), 1, "the new program answers by the new maps");
    assert_eq!(
        former.read(slot),
        Some(Tenancy { epoch: EPOCH, until }),
        "the old maps are dark only after that"
    );
    plane.forget_former_layout().expect("forget");
    assert_eq!(former.read(slot), None);
    assert!(!theirs.exists());
    assert_eq!(ask(&socket).sender_mac, NODE_MAC);
    table.clear(slot);
    ask_in_vain(&socket, &plane, Verdict::ArpDark);
}

#[test]
fn a_second_daemon_is_refused() {
    let Some(place) = Place::new() else { return };
    let plane = place.open(place.options());
    let refused = place.node.run(|| DataPlane::open(place.options()));
    assert!(matches!(refused, Err(DataPlaneError::Locked { .. })), "{refused:?}");
    let refused = place.node.run(|| cleanup(&place.root, "test", "node.example"));
    assert!(matches!(refused, Err(DataPlaneError::Locked { .. })), "{refused:?}");
    let other = place.node.run(|| DataPlane::open(Options { node: "other".to_owned(), ..place.options() }));
    let other = other.expect("another node is no matter");
    place.node.run(|| other.detach_and_unpin()).expect("remove");
    drop(plane);
    drop(place.open(place.options()));
}

#[test]
fn somebody_elses_program_is_named_and_left_alone() {
    for (mode, flag, name) in [(XdpMode::Driver, "xdpdrv", "native"), (XdpMode::Skb, "xdpgeneric", "generic")]
    {
        for preference in [XdpPreference::Auto, XdpPreference::Native, XdpPreference::Generic] {
            let Some(place) = Place::new() else { return };
            let mut foreign: Ebpf =
                EbpfLoader::new().btf(None).load(LAB_OBJECT).expect("load the lab's programs");
            let program: &mut Xdp =
                foreign.program_mut("pass").expect("it is there").try_into().expect("it is XDP");
            program.load().expect("the kernel takes it");
            place.node.run(|| program.attach("eth0", mode)).expect("attach it");
            let id = program.info().expect("it is loaded").id();
            let mut plane = place.open(Options { xdp: preference, ..place.options() });
            let refused = place.node.run(|| plane.attach()).expect_err("the place is taken").to_string();
            let tag = format!("tag {:016x}", program.info().expect("it is loaded").tag());
            let holder = format!("held by process {}", std::process::id());
            for part in [
                "eth0",
                &format!("id {id}"),
                "\"pass\"",
                name,
                &tag,
                &holder,
                "xdp = \"chain\"",
                "use another interface",
            ] {
                assert!(refused.contains(part), "{part:?} is not in {refused:?}");
            }
            let by_link =
                refused.contains("attached by BPF link") && refused.contains("bpftool link detach id");
            assert!(by_link || refused.contains(&format!("ip link set dev eth0 {flag} off")), "{refused:?}");
            assert_eq!(plane.attached(), None);
            place.node.run(|| plane.detach_and_unpin()).expect("remove");
            let shown = place.node.ip("-d link show eth0").expect("show");
            assert!(shown.contains(&format!("prog/xdp id {id}")), "{shown}");
        }
    }
}

#[test]
fn an_interface_made_anew_is_attached_to_again() {
    let Some(place) = Place::new() else { return };
    let mut plane = place.open(place.options());
    let before = place.node.run(|| plane.attach()).expect("attach");
    assert_eq!(place.node.run(|| plane.attach()).expect("attach again").ifindex, before.ifindex);
    assert!(plane.attached().expect("it is").adopted, "attaching again changes nothing");
    place.node.ip("link del eth0").expect("take it away");
    let gone = place.node.run(|| plane.attach());
    assert!(matches!(gone, Err(DataPlaneError::NoInterface { .. })), "{gone:?}");
    assert_eq!(plane.attached(), None);
    // An interface in between keeps the number from being used again.
    place.node.ip("link add other type bridge").expect("make another");
    place.wire();
    let _pass = let_answers_through(&place);
    let after = place.node.run(|| plane.attach()).expect("attach");
    assert_ne!(after.ifindex, before.ifindex);
    assert!(!after.adopted);
    plane.lease_table().expect("map the leases").set(plane.slots()[0], EPOCH, Time::NEVER);
    ask(&place.client_socket());
    let bridge = place.node.ifindex("other").expect("it is there");
    assert!(place.node.run(|| plane.fence_interface(bridge)).expect("fence"));
    place.node.run(|| plane.unfence_interface(before.ifindex)).expect("forget the old one");
    assert_eq!(plane.fenced().map(|fenced| fenced.ifindex).collect::<Vec<_>>(), {
        let mut both = [bridge, after.ifindex];
        both.sort_unstable();
        both
    });
}

#[test]
fn a_daemon_that_comes_back_to_another_interface_leaves_the_first() {
    let Some(place) = Place::new() else { return };
    place.node.ip("link add other type veth").expect("make another");
    let mut plane = place.open(place.options());
    place.node.run(|| plane.attach()).expect("attach");
    drop(plane);
    let mut plane = place.open(Options { interface: "other".to_owned(), ..place.options() });
    assert!(!place.node.run(|| plane.attach()).expect("attach").adopted);
    assert!(!place.node.ip("link show eth0").expect("show").contains("xdp"));
    assert!(place.node.ip("link show other").expect("show").contains("xdp"));
}

#[test]
fn only_ethernet_is_attached_to() {
    let Some(place) = Place::new() else { return };
    let mut plane = place.open(Options { interface: "lo".to_owned(), ..place.options() });
    let refused = place.node.run(|| plane.attach());
    assert!(matches!(refused, Err(DataPlaneError::NotEthernet { .. })), "{refused:?}");
}

#[test]
fn nothing_is_left_by_a_clean_stop_or_by_a_cleanup() {
    let Some(place) = Place::new() else { return };
    assert!(!place.cleanup(), "there is nothing yet");
    for crash in [false, true] {
        let mut plane = place.open(place.options());
        place.node.run(|| plane.attach()).expect("attach");
        place.node.run(|| plane.fence_all()).expect("fence");
        assert!(place.node.ip("link show eth0").expect("show").contains("xdp"));
        assert_eq!(names_below(&place.root).len(), 2 + 1 + ALL.len() + 2, "{:?}", names_below(&place.root));
        if crash {
            drop(plane);
            assert!(place.cleanup());
        } else {
            place.node.run(|| plane.detach_and_unpin()).expect("remove");
        }
        assert!(!place.node.ip("link show eth0").expect("show").contains("xdp"));
        assert!(!place.root.exists(), "{:?}", names_below(&place.root));
    }
}

#[test]
fn the_maps_hold_what_is_promised_and_no_more() {
    let Some(place) = Place::new() else { return };
    let many = |groups: u32, each: u32| -> Vec<GroupVips> {
        let vip = |number: u32| Vip { address: Ipv4Addr::from(0x0a00_0000 + number).into(), prefix: 8 };
        (0..groups)
            .map(|id| GroupVips {
                vlan: None,
                keeps_address: false,
                id: GroupId(id),
                vips: (id * each..(id + 1) * each).map(vip).collect(),
                mac: None,
            })
            .collect()
    };
    let mut plane = place.open(Options { groups: many(256, 64), ..place.options() });
    assert_eq!(plane.slots().len(), 256);
    let refused = plane.set_groups(many(257, 1));
    assert!(matches!(refused, Err(DataPlaneError::TooManyGroups { count: 257 })), "{refused:?}");
    let refused = plane.set_groups(many(1, 16_385));
    assert!(matches!(refused, Err(DataPlaneError::TooManyVips { count: 16_385 })), "{refused:?}");
    let refused = plane.set_groups(vec![group(GROUP, &[VIP.into()]), group(OTHER_GROUP, &[VIP.into()])]);
    assert!(matches!(refused, Err(DataPlaneError::Duplicate { group: OTHER_GROUP })), "{refused:?}");
    let with_id_5 = |group| GroupVips { mac: NonZeroU8::new(5).map(VirtualMac), ..group };
    let one = with_id_5(group(GROUP, &[VIP.into()]));
    let refused = plane.set_groups(vec![one, with_id_5(group(OTHER_GROUP, &[OTHER_VIP.into()]))]);
    assert!(matches!(refused, Err(DataPlaneError::Duplicate { group: OTHER_GROUP })), "{refused:?}");
    assert_eq!(plane.slots().len(), 256, "what is refused changes nothing");
    plane.set_groups(many(0, 0)).expect("none at all");
    plane.set_groups(many(256, 64)).expect("all of them again");
}

/// Opens the data plane in a child of its own kind, because a process cannot get its capabilities back.
#[test]
fn a_process_that_may_not_or_has_another_clock_is_told_so() {
    const CHILD: &str = "CLUSTER_TEST_OPENS_AT";
    if let Some(root) = std::env::var_os(CHILD) {
        let options = Options {
            pin_root: root.into(),
            cluster: "test".to_owned(),
            node: "node".to_owned(),
            interface: "eth0".to_owned(),
            xdp: XdpPreference::Auto,
            chain: None,
            egress: EgressHook::Auto,
            groups: Vec::new(),
        };
        match DataPlane::open(options) {
            Ok(plane) => println!("opened {plane:?}"),
            Err(error) => println!("refused: {error}"),
        }
        return;
    }
    let Some(place) = Place::new() else { return };
    let wrappers: [(&[&str], &str); 4] = [
        (&["setpriv", "--bounding-set", "-bpf,-sys_admin"], "needs CAP_BPF and CAP_SYS_ADMIN, which"),
        (&["setpriv", "--bounding-set", "-net_admin"], "needs CAP_NET_ADMIN, which"),
        (
            &["setpriv", "--bounding-set", "-all"],
            "needs CAP_BPF and CAP_NET_ADMIN and CAP_NET_RAW and CAP_PERFMON and CAP_SYS_ADMIN, which",
        ),
        (
            &["unshare", "--time", "--boottime", "100"],
            "time namespace whose boot clock is off by 100.000000000 s",
        ),
    ];
    for (wrapper, expected) in wrappers {
        let output = Command::new(wrapper[0])
            .args(&wrapper[1..])
            .arg("--")
            .arg(std::env::current_exe().expect("this test"))
            .args(["--exact", "--nocapture", "a_process_that_may_not_or_has_another_clock_is_told_so"])
            .env(CHILD, &place.root)
            .output()
            .expect("util-linux is installed");
        let said = String::from_utf8_lossy(&output.stdout);
        let refusal = said.lines().find(|line| line.starts_with("refused: ")).unwrap_or_default();
        assert!(
            refusal.contains(expected),
            "{wrapper:?}: {said} {}",
            String::from_utf8_lossy(&output.stderr)
        );
        assert!(!place.root.exists());
    }
}

/// How many programs of the queueing layer look at what comes in, by TCX and by clsact.
fn ingress_programs(place: &Place) -> usize {
    place.node.run(|| {
        let (_, tcx) = SchedClassifier::query_tcx("eth0", TcAttachType::Ingress).expect("ask");
        let filters = Command::new("tc").args(["filter", "show", "dev", "eth0", "ingress"]).output();
        let filters = String::from_utf8(filters.expect("tc is installed").stdout).expect("it is text");
        tcx.len() + filters.matches("direct-action").count()
    })
}

/// Puts the pass-all program onto the client's end, without which native answers do not get through a veth.
pub(crate) fn let_answers_through(place: &Place) -> Ebpf {
    let mut object = EbpfLoader::new().btf(None).load(LAB_OBJECT).expect("load the lab's programs");
    let program: &mut Xdp = object.program_mut("pass").expect("it is there").try_into().expect("it is XDP");
    program.load().expect("the kernel takes it");
    place.client.run(|| program.attach("eth0", XdpMode::Driver)).expect("attach it");
    object
}
