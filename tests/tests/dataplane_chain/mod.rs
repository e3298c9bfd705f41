//! Other XDP programs: one that is in the way, one that is chained behind ours, and a dispatcher that calls ours.

use std::net::UdpSocket;

use aya::EbpfLoader;
use aya::maps::ProgramArray;
use aya::programs::{Xdp, XdpMode};
use cluster_common::Verdict;
use cluster_proto::Time;
use cluster_userspace::dataplane::{DataPlane, LAB_OBJECT, Mode, Options, XdpPreference};

use crate::dataplane_support::{CLIENT, EPOCH, NODE, NODE_MAC, Place, ask, ask_in_vain, names_below};
use crate::let_answers_through;

#[test]
fn where_somebody_elses_program_is_pinned_is_said() {
    let Some(place) = Place::new() else { return };
    let pin = pinned(&place, "pass", "theirs");
    let mut object = EbpfLoader::new().btf(None).load(LAB_OBJECT).expect("load the lab's programs");
    let theirs: &mut Xdp = object.program_mut("pass").expect("it is there").try_into().expect("it is XDP");
    theirs.load().expect("the kernel takes it");
    std::fs::remove_file(&pin).expect("remove the pin");
    theirs.pin(&pin).expect("pin it");
    place.node.run(|| theirs.attach("eth0", XdpMode::Skb)).expect("attach it");
    let mut plane = place.open(place.options());
    let refused = place.node.run(|| plane.attach()).expect_err("the place is taken").to_string();
    std::fs::remove_file(&pin).expect("remove the pin");
    assert!(refused.contains(&format!("pinned at {}", pin.display())), "{refused}");
}

/// The user's program gets what ours lets pass and nothing else, of whichever kind it is, also after the daemon is gone.
#[test]
fn a_chained_program_gets_what_passes() {
    for (swallow, pass, ours) in
        [("swallow", "pass", "chained_linear"), ("swallow_frags", "pass_frags", "cluster_chained")]
    {
        for preference in [XdpPreference::Native, XdpPreference::Generic] {
            let Some(place) = Place::new() else { return };
            let _pass = let_answers_through(&place);
            let pin = pinned(&place, swallow, "theirs");
            let options = Options { chain: Some(pin.clone()), xdp: preference, ..place.options() };
            let mut plane = place.open(options.clone());
            assert_eq!(plane.ingress_program(), ours);
            assert_eq!(plane.chained().map(|next| next.name.as_str()), Some(swallow));
            place.node.run(|| plane.attach()).expect("attach");
            plane.lease_table().expect("map the leases").set(plane.slots()[0], EPOCH, Time::NEVER);
            let socket = place.client_socket();
            assert_eq!(ask(&socket).sender_mac, NODE_MAC, "answers are not the chained program's matter");
            assert!(!reaches(&place), "what passes is its matter");
            drop(plane);
            assert!(!reaches(&place), "also without a daemon");
            assert_eq!(ask(&socket).sender_mac, NODE_MAC);

            // A daemon that comes back takes the pin as it is then, and a reload takes up another.
            let mut plane = place.open(options);
            assert!(place.node.run(|| plane.attach()).expect("attach").adopted);
            assert!(!reaches(&place));
            replace_pin(&place, pass, &pin);
            let next = plane.read_chain_again().expect("it is as good").cloned().expect("it is chained");
            assert_eq!(next.name, pass);
            assert!(reaches(&place));
            std::fs::remove_file(&pin).expect("remove the pin");
            let refused = plane.read_chain_again().expect_err("nothing is there").to_string();
            assert!(refused.contains("theirs"), "{refused}");
            assert!(reaches(&place), "the one before stays");
            drop(plane);

            let mut plane = place.open(Options { xdp: preference, ..place.options() });
            assert!(place.node.run(|| plane.attach()).expect("attach").adopted);
            assert_eq!(plane.chained(), None);
            assert!(!names_below(&place.root).iter().any(|name| name.contains("chain")));
            assert!(reaches(&place));
        }
    }
}

#[test]
fn what_cannot_be_chained_keeps_the_daemon_from_starting() {
    let Some(place) = Place::new() else { return };
    let nothing = place.root.with_file_name(format!("{}-nothing", std::process::id()));
    let map = place.root.with_file_name(format!("{}-map", std::process::id()));
    // The kernel's numbers for this kind of map and for XDP programs are the same.
    aya::maps::PerCpuArray::<_, u64>::create(1, 0).expect("make a map").pin(&map).expect("pin it");
    let refusal = |chain: &std::path::Path| {
        let options = Options { chain: Some(chain.to_owned()), ..place.options() };
        place.node.run(|| DataPlane::open(options)).expect_err("it cannot be chained").to_string()
    };
    for (path, why) in [(&nothing, "No such file"), (&map, "a map is pinned there")] {
        let refused = refusal(path);
        assert!(refused.contains(why) && refused.contains(&path.display().to_string()), "{refused}");
        assert!(!place.root.exists(), "nothing is changed");
    }
    std::fs::remove_file(map).expect("remove the pin");
    assert!(!place.node.ip("link show eth0").expect("show").contains("xdp"));
}

/// The programs are pinned in both kinds, and a dispatcher gets from them what it would from an attached one.
#[test]
fn a_dispatcher_calls_what_is_pinned() {
    for (dispatcher, map, ours) in [
        ("dispatch", "dispatched", "cluster_linear"),
        ("dispatch_frags", "dispatched_frags", "cluster_ingress"),
    ] {
        let Some(place) = Place::new() else { return };
        let _pass = let_answers_through(&place);
        let options = Options { xdp: XdpPreference::PinOnly, ..place.options() };
        let mut plane = place.open(options.clone());
        let attached = place.node.run(|| plane.attach()).expect("pin");
        assert_eq!((attached.mode, attached.adopted), (Mode::Pinned, false));
        assert!(!place.node.ip("link show eth0").expect("show").contains("xdp"), "nothing is attached");
        let pins = plane.pinned_programs();
        assert_eq!(pins.len(), 2, "{pins:?}");
        let pin = pins.iter().find(|pin| pin.ends_with(ours)).expect("it is pinned");
        plane.lease_table().expect("map the leases").set(plane.slots()[0], EPOCH, Time::NEVER);
        let socket = place.client_socket();

        let mut object = EbpfLoader::new().btf(None).load(LAB_OBJECT).expect("load the lab's programs");
        let theirs: &mut Xdp =
            object.program_mut(dispatcher).expect("it is there").try_into().expect("it is XDP");
        theirs.load().expect("the kernel takes it");
        place.node.run(|| theirs.attach("eth0", XdpMode::Driver)).expect("attach it");
        let called = Xdp::from_pin(pin, aya_obj::programs::XdpAttachType::Interface).expect("open the pin");
        let mut entries: ProgramArray<_> =
            object.map_mut(map).expect("it is there").try_into().expect("it is of programs");
        entries.set(0, called.fd().expect("it is open"), 0).expect("the kinds are the same");
        assert_eq!(ask(&socket).sender_mac, NODE_MAC);

        // What the dispatcher calls goes by the same maps when a daemon comes back, and needs not be put there again.
        drop(plane);
        let mut plane = place.open(options);
        assert!(place.node.run(|| plane.attach()).expect("pin").adopted);
        assert_eq!(ask(&socket).sender_mac, NODE_MAC);
        plane.lease_table().expect("map the leases").clear(plane.slots()[0]);
        ask_in_vain(&socket, &plane, Verdict::ArpDark);
        place.node.run(|| plane.detach_and_unpin()).expect("remove");
        assert!(!place.root.exists());
    }
}

#[test]
fn programs_go_between_the_interface_and_the_pins() {
    let Some(place) = Place::new() else { return };
    let pin_only = Options { xdp: XdpPreference::PinOnly, ..place.options() };
    for _ in 0..2 {
        let mut plane = place.open(place.options());
        place.node.run(|| plane.attach()).expect("attach");
        assert!(place.node.ip("link show eth0").expect("show").contains("xdp"));
        assert!(!names_below(&place.root).iter().any(|name| name.starts_with("cluster_")));
        drop(plane);
        let mut plane = place.open(pin_only.clone());
        place.node.run(|| plane.attach()).expect("pin");
        assert!(!place.node.ip("link show eth0").expect("show").contains("xdp"));
        assert_eq!(plane.pinned_programs().len(), 2);
    }
}

/// Pins one of the lab's programs beside the place's own pins, for the time of the test.
fn pinned(place: &Place, program: &str, name: &str) -> std::path::PathBuf {
    let file_name = place.root.file_name().expect("it has one").to_str().expect("it is text");
    let pin = place.root.with_file_name(format!("{file_name}-{name}"));
    replace_pin(place, program, &pin);
    pin
}

fn replace_pin(_place: &Place, program: &str, pin: &std::path::Path) {
    let mut object = EbpfLoader::new().btf(None).load(LAB_OBJECT).expect("load the lab's programs");
    let program: &mut Xdp = object.program_mut(program).expect("it is there").try_into().expect("it is XDP");
    program.load().expect("the kernel takes it");
    if pin.exists() {
        std::fs::remove_file(pin).expect("remove the pin");
    }
    program.pin(pin).expect("pin it");
}

/// Whether a datagram of the client's comes to the node.
fn reaches(place: &Place) -> bool {
    let there = place.node.run(|| UdpSocket::bind((NODE, 0))).expect("listen");
    there.set_read_timeout(Some(std::time::Duration::from_millis(300))).expect("set a limit");
    place.client.ip(&format!("neigh replace {NODE} lladdr {NODE_MAC} dev eth0")).expect("tell the client");
    let here = place.client.run(|| UdpSocket::bind((CLIENT, 0))).expect("open a socket");
    here.send_to(b"hello", there.local_addr().expect("it is bound")).expect("send");
    there.recv_from(&mut [0; 16]).is_ok()
}
