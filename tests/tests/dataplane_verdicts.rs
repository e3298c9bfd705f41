//! What the BPF programs do with IPv4 and ARP, row by row.

mod dataplane_rows;

use std::net::Ipv4Addr;

use cluster_common::Verdict;
use cluster_common::maps::Nic;
use cluster_tests::frames::{ArpFrame, BROADCAST, ipv4, tagged};
use cluster_tests::netns::available;
use cluster_tests::programs::{NETWORK_CARD, Programs};
use cluster_userspace::dataplane::DATAPLANE_OBJECT;
use nix::time::{ClockId, clock_gettime};

use dataplane_rows::{
    CLIENT_MAC, DARK, DROP, GROUP, HELD, LAPSED, MAC, NEXT, OTHER_MAC, PASS, PEER_MAC, SHOT, TX, VIP,
    VIRTUAL_MACS, check_egress, check_ingress, row, short, with,
};

const MULTICAST: [u8; 6] = [1, 0, 0x5e, 0, 0, 1];
const CLIENT: [u8; 4] = [10, 77, 0, 9];
const FAR_CLIENT: [u8; 4] = [192, 0, 2, 9];
const STRANGER: [u8; 4] = [10, 77, 0, 101];

fn request() -> ArpFrame {
    ArpFrame::request(CLIENT_MAC, CLIENT, VIP)
}

fn answer() -> ArpFrame {
    ArpFrame {
        destination: CLIENT_MAC,
        source: MAC,
        operation: 2,
        sender_mac: MAC,
        sender: VIP,
        target_mac: CLIENT_MAC,
        target: CLIENT,
    }
}

#[test]
fn ingress() {
    if !available() {
        return;
    }
    let relayed = ArpFrame { source: OTHER_MAC, ..request() };
    let announcement = ArpFrame { sender: VIP, ..request() };
    let peers = ArpFrame { source: PEER_MAC, sender_mac: PEER_MAC, ..announcement };
    let theirs = ArpFrame { destination: MAC, source: CLIENT_MAC, sender_mac: CLIENT_MAC, ..answer() };
    let trailing = |frame: ArpFrame| {
        let mut bytes = frame.bytes();
        bytes.resize(9000, 0xee);
        bytes
    };
    let rows = [
        row("a request for the VIP, held", request().bytes(), HELD, TX)
            .gives(answer().bytes())
            .counts(Verdict::ArpAnswered)
            .serves(CLIENT),
        row("the same where packets are forwarded", request().bytes(), HELD, TX)
            .on(Nic { flags: Nic::FORWARDS, ..NETWORK_CARD })
            .gives(answer().bytes())
            .counts(Verdict::ArpAnswered)
            .serves(CLIENT),
        row("a request for the VIP, dark", request().bytes(), DARK, DROP).counts(Verdict::ArpDark),
        row("a request for the VIP, lapsed", request().bytes(), LAPSED, DROP).counts(Verdict::ArpDark),
        row("a request to our own address", ArpFrame { destination: MAC, ..request() }.bytes(), HELD, TX)
            .gives(answer().bytes())
            .counts(Verdict::ArpAnswered)
            .serves(CLIENT),
        row("the same, dark", ArpFrame { destination: MAC, ..request() }.bytes(), DARK, DROP)
            .counts(Verdict::ArpDark),
        row(
            "a request to a group address",
            ArpFrame { destination: MULTICAST, ..request() }.bytes(),
            HELD,
            TX,
        )
        .gives(answer().bytes())
        .counts(Verdict::ArpAnswered)
        .serves(CLIENT),
        row(
            "a request to another host",
            ArpFrame { destination: OTHER_MAC, ..request() }.bytes(),
            HELD,
            PASS,
        ),
        row("the same, dark", ArpFrame { destination: OTHER_MAC, ..request() }.bytes(), DARK, PASS),
        row("a request that another host passed on", relayed.bytes(), HELD, TX)
            .gives(answer().bytes())
            .counts(Verdict::ArpAnswered)
            .serves(CLIENT),
        row("a probe (RFC 5227)", ArpFrame { sender: [0; 4], ..request() }.bytes(), HELD, TX)
            .gives(ArpFrame { target: [0; 4], ..answer() }.bytes())
            .counts(Verdict::ArpAnswered),
        row("a probe, dark", ArpFrame { sender: [0; 4], ..request() }.bytes(), DARK, DROP)
            .counts(Verdict::ArpDark),
        row("a request from off the link", ArpFrame { sender: FAR_CLIENT, ..request() }.bytes(), HELD, TX)
            .gives(ArpFrame { target: FAR_CLIENT, ..answer() }.bytes())
            .counts(Verdict::ArpAnswered),
        row("a request without padding", short(request().bytes(), 42), HELD, TX)
            .gives(short(answer().bytes(), 42))
            .counts(Verdict::ArpAnswered)
            .serves(CLIENT),
        row("a request in a jumbo frame", trailing(request()), HELD, TX)
            .gives(trailing(answer()))
            .counts(Verdict::ArpAnswered)
            .serves(CLIENT),
        row("a request cut off", short(request().bytes(), 41), HELD, PASS),
        row("a request cut off, dark", short(request().bytes(), 41), DARK, PASS),
        row("an announcement as a request, held", announcement.bytes(), HELD, PASS)
            .counts(Verdict::ArpAnnounced)
            .tells_of(Verdict::ArpRival, CLIENT_MAC),
        row("an announcement as a request, dark", announcement.bytes(), DARK, PASS)
            .counts(Verdict::ArpAnnounced)
            .tells_of(Verdict::ArpRival, CLIENT_MAC),
        row("an announcement as a reply", ArpFrame { operation: 2, ..announcement }.bytes(), HELD, PASS)
            .counts(Verdict::ArpAnnounced)
            .tells_of(Verdict::ArpRival, CLIENT_MAC),
        row("a reply about the VIP to us", ArpFrame { destination: MAC, ..answer() }.bytes(), HELD, PASS),
        row("a stranger's reply about the VIP to us", theirs.bytes(), HELD, PASS)
            .tells_of(Verdict::ArpRival, CLIENT_MAC),
        row("the same, dark", theirs.bytes(), DARK, PASS).tells_of(Verdict::ArpRival, CLIENT_MAC),
        row("the same to another host", ArpFrame { destination: OTHER_MAC, ..theirs }.bytes(), HELD, PASS),
        row("the same in the peer's name", ArpFrame { sender_mac: PEER_MAC, ..theirs }.bytes(), HELD, PASS)
            .tells_of(Verdict::ArpRival, CLIENT_MAC),
        row(
            "a stranger's address in the peer's frame",
            ArpFrame { source: PEER_MAC, ..theirs }.bytes(),
            HELD,
            PASS,
        )
        .tells_of(Verdict::ArpRival, CLIENT_MAC),
        row(
            "a reply of the peer",
            ArpFrame { source: PEER_MAC, sender_mac: PEER_MAC, ..theirs }.bytes(),
            HELD,
            PASS,
        ),
        row("an announcement of the peer", peers.bytes(), DARK, PASS).counts(Verdict::ArpAnnounced),
        row("an operation of 3 by the VIP", ArpFrame { operation: 3, ..theirs }.bytes(), HELD, PASS),
        row("a reply to the VIP", ArpFrame { operation: 2, ..request() }.bytes(), DARK, PASS),
        row("a request for a stranger", ArpFrame { target: STRANGER, ..request() }.bytes(), HELD, PASS),
        row(
            "a request by the VIP for another",
            ArpFrame { sender: VIP, target: CLIENT, ..request() }.bytes(),
            DARK,
            PASS,
        )
        .tells_of(Verdict::ArpRival, CLIENT_MAC),
        row("hardware addresses of 255 bytes", with(request().bytes(), 18, &[255]), HELD, PASS),
        row("hardware addresses of 0 bytes", with(request().bytes(), 18, &[0]), DARK, PASS),
        row("protocol addresses of 16 bytes", with(request().bytes(), 19, &[16]), HELD, PASS),
        row("hardware type IEEE 802", with(request().bytes(), 14, &[0, 6]), HELD, PASS),
        row("protocol type IPv6", with(request().bytes(), 16, &[0x86, 0xdd]), HELD, PASS),
        row("operation 0", with(request().bytes(), 20, &[0, 0]), HELD, PASS),
        row("operation 3 (reverse)", with(request().bytes(), 20, &[0, 3]), DARK, PASS),
        row("operation 257", with(request().bytes(), 20, &[1, 1]), HELD, PASS),
        row("a request with a VLAN tag", tagged(&request().bytes(), &[(0x8100, 5)]), HELD, PASS),
        row("a request with a priority tag", tagged(&request().bytes(), &[(0x8100, 0xe000)]), DARK, DROP)
            .counts(Verdict::ArpDark),
        row("a packet to the VIP, held", ipv4(MAC, CLIENT, VIP, 60), HELD, PASS)
            .counts(Verdict::Ipv4Passed)
            .serves(CLIENT),
        row("a packet to the VIP, dark", ipv4(MAC, CLIENT, VIP, 60), DARK, DROP).counts(Verdict::Ipv4Dark),
        row("a packet to the VIP, lapsed", ipv4(MAC, CLIENT, VIP, 60), LAPSED, DROP)
            .counts(Verdict::Ipv4Dark),
        row("a broadcast to the VIP, dark", ipv4(BROADCAST, CLIENT, VIP, 60), DARK, DROP)
            .counts(Verdict::Ipv4Dark),
        row("a packet to the VIP by way of another host, dark", ipv4(OTHER_MAC, CLIENT, VIP, 60), DARK, PASS),
        row("a packet from off the link", ipv4(MAC, FAR_CLIENT, VIP, 60), HELD, PASS)
            .counts(Verdict::Ipv4Passed),
        row("a packet from the VIP to itself", ipv4(MAC, VIP, VIP, 60), HELD, PASS)
            .counts(Verdict::Ipv4Passed),
        row("a packet from nowhere", ipv4(MAC, [0; 4], VIP, 60), HELD, PASS).counts(Verdict::Ipv4Passed),
        row("a jumbo packet to the VIP, held", ipv4(MAC, CLIENT, VIP, 9000), HELD, PASS)
            .counts(Verdict::Ipv4Passed)
            .serves(CLIENT),
        row("a jumbo packet to the VIP, dark", ipv4(MAC, CLIENT, VIP, 9000), DARK, DROP)
            .counts(Verdict::Ipv4Dark),
        row("a packet of an odd length", ipv4(MAC, CLIENT, VIP, 61), DARK, DROP).counts(Verdict::Ipv4Dark),
        row("the shortest packet", short(ipv4(MAC, CLIENT, VIP, 60), 34), DARK, DROP)
            .counts(Verdict::Ipv4Dark),
        row("a packet cut off", short(ipv4(MAC, CLIENT, VIP, 60), 33), DARK, PASS),
        row("a packet to a stranger", ipv4(MAC, CLIENT, STRANGER, 60), DARK, PASS),
        row("a packet from the VIP", ipv4(MAC, VIP, CLIENT, 60), DARK, PASS),
        row("a packet with a VLAN tag", tagged(&ipv4(MAC, CLIENT, VIP, 60), &[(0x8100, 5)]), DARK, PASS),
        row("an IPv4 packet called IPv6", with(ipv4(MAC, CLIENT, VIP, 60), 12, &[0x86, 0xdd]), DARK, PASS),
        row("a frame with a length for a type", with(ipv4(MAC, CLIENT, VIP, 60), 12, &[0, 46]), DARK, PASS),
        row("an Ethernet header alone", short(request().bytes(), 14), DARK, PASS),
    ];
    check_ingress(&rows);
}

#[test]
fn egress() {
    if !available() {
        return;
    }
    let query = ArpFrame::request(MAC, VIP, CLIENT);
    let announcement = ArpFrame { target: VIP, ..query };
    let packet = ipv4(CLIENT_MAC, VIP, CLIENT, 60);
    let one = [(0x8100, 5)];
    let two = [(0x88a8, 9), (0x8100, 5)];
    let three = [(0x88a8, 9), (0x8100, 5), (0x8100, 6)];
    let rows = [
        row("the kernel's answer, held", answer().bytes(), HELD, SHOT).counts(Verdict::EgressArpReplyFenced),
        row("the kernel's answer, dark", answer().bytes(), DARK, SHOT).counts(Verdict::EgressArpReplyFenced),
        row(
            "the kernel's announcement as a reply",
            ArpFrame { operation: 2, ..announcement }.bytes(),
            HELD,
            SHOT,
        )
        .counts(Verdict::EgressArpReplyFenced),
        row("the kernel's announcement, held", announcement.bytes(), HELD, NEXT)
            .counts(Verdict::EgressArpRequestPassed),
        row("the kernel's announcement, dark", announcement.bytes(), DARK, SHOT)
            .counts(Verdict::EgressArpRequestFenced),
        row("a request by the VIP, held", query.bytes(), HELD, NEXT).counts(Verdict::EgressArpRequestPassed),
        row("a request by the VIP, dark", query.bytes(), DARK, SHOT).counts(Verdict::EgressArpRequestFenced),
        row("a request by the VIP, lapsed", query.bytes(), LAPSED, SHOT)
            .counts(Verdict::EgressArpRequestFenced),
        row("a request for the VIP", request().bytes(), DARK, NEXT),
        row("a reply of a real address", ArpFrame { sender: STRANGER, ..answer() }.bytes(), DARK, NEXT),
        row("operation 3 by the VIP", with(query.bytes(), 20, &[0, 3]), DARK, NEXT),
        row("hardware addresses of 8 bytes", with(query.bytes(), 18, &[8]), DARK, NEXT),
        row("a request without padding", short(query.bytes(), 42), DARK, SHOT)
            .counts(Verdict::EgressArpRequestFenced),
        row("a request cut off", short(query.bytes(), 41), DARK, NEXT),
        row("a packet from the VIP, held", packet.clone(), HELD, NEXT).counts(Verdict::EgressIpv4Passed),
        row("a packet from the VIP, dark", packet.clone(), DARK, SHOT).counts(Verdict::EgressIpv4Fenced),
        row("a packet from the VIP, lapsed", packet.clone(), LAPSED, SHOT).counts(Verdict::EgressIpv4Fenced),
        row("a packet to the VIP", ipv4(CLIENT_MAC, CLIENT, VIP, 60), DARK, NEXT),
        row("a packet of a real address", ipv4(CLIENT_MAC, STRANGER, CLIENT, 60), DARK, NEXT),
        row("a packet with a tag, cut off", short(tagged(&packet, &one), 37), DARK, NEXT),
        row("a packet with a tag, dark", tagged(&packet, &one), DARK, SHOT).counts(Verdict::EgressIpv4Fenced),
        row("a packet with a tag, held", tagged(&packet, &one), HELD, NEXT).counts(Verdict::EgressIpv4Passed),
        row("a packet with two tags", tagged(&packet, &two), DARK, SHOT).counts(Verdict::EgressIpv4Fenced),
        row("a packet with three tags", tagged(&packet, &three), DARK, NEXT),
        row("an answer with a tag", tagged(&answer().bytes(), &one), HELD, SHOT)
            .counts(Verdict::EgressArpReplyFenced),
        row("a request with two tags", tagged(&query.bytes(), &two), DARK, SHOT)
            .counts(Verdict::EgressArpRequestFenced),
        row("a request with two tags, cut off", short(tagged(&query.bytes(), &two), 49), DARK, NEXT),
        row("a tag and nothing in it", short(tagged(&packet, &one), 18), DARK, NEXT),
        row("half a tag", short(tagged(&packet, &one), 16), DARK, NEXT),
        row("an Ethernet header alone", short(query.bytes(), 14), DARK, NEXT),
    ];
    check_egress(&rows);
}

#[test]
fn a_virtual_ethernet_address() {
    if !available() {
        return;
    }
    let [face, other_family] = VIRTUAL_MACS;
    let another = [0, 0, 0x5e, 0, 1, 0x34];
    let to_face = |frame: Vec<u8>| with(frame, 0, &face);
    let virtual_answer = ArpFrame { source: face, sender_mac: face, ..answer() };
    check_ingress(&[
        row("a request, held", request().bytes(), HELD, TX)
            .virtually()
            .gives(virtual_answer.bytes())
            .counts(Verdict::ArpAnswered)
            .serves(CLIENT),
        row("a request, dark", request().bytes(), DARK, DROP).virtually().counts(Verdict::ArpDark),
        row("a request to the virtual address", to_face(request().bytes()), HELD, TX)
            .virtually()
            .gives(virtual_answer.bytes())
            .counts(Verdict::ArpAnswered)
            .serves(CLIENT),
        row("a packet to the VIP, held", ipv4(face, CLIENT, VIP, 60), HELD, PASS)
            .virtually()
            .gives(ipv4(MAC, CLIENT, VIP, 60))
            .counts(Verdict::Ipv4Passed)
            .serves(CLIENT),
        row(
            "a packet to the VIP by the other family's address",
            ipv4(other_family, CLIENT, VIP, 60),
            HELD,
            PASS,
        )
        .virtually()
        .gives(ipv4(MAC, CLIENT, VIP, 60))
        .counts(Verdict::Ipv4Passed)
        .serves(CLIENT),
        row("a packet to the VIP, dark", ipv4(face, CLIENT, VIP, 60), DARK, DROP)
            .virtually()
            .counts(Verdict::VirtualMacDark),
        row("a packet to the VIP, lapsed", ipv4(face, CLIENT, VIP, 60), LAPSED, DROP)
            .virtually()
            .counts(Verdict::VirtualMacDark),
        row("a packet to be forwarded, held", ipv4(face, CLIENT, FAR_CLIENT, 60), HELD, PASS)
            .virtually()
            .gives(ipv4(MAC, CLIENT, FAR_CLIENT, 60)),
        row("a packet to be forwarded, dark", ipv4(face, CLIENT, FAR_CLIENT, 60), DARK, DROP)
            .virtually()
            .counts(Verdict::VirtualMacDark),
        row("a frame of any kind, dark", with(ipv4(face, CLIENT, VIP, 60), 12, &[0x88, 0xb5]), DARK, DROP)
            .virtually()
            .counts(Verdict::VirtualMacDark),
        row("an Ethernet header alone, dark", short(ipv4(face, CLIENT, VIP, 60), 14), DARK, DROP)
            .virtually()
            .counts(Verdict::VirtualMacDark),
        row("a frame to another group's address", ipv4(another, CLIENT, STRANGER, 60), DARK, PASS)
            .virtually(),
        row(
            "a frame to an address that is not virtual any more",
            ipv4(face, CLIENT, STRANGER, 60),
            DARK,
            PASS,
        ),
    ]);

    let query = ArpFrame::request(MAC, VIP, CLIENT);
    let virtual_query = ArpFrame { source: face, sender_mac: face, ..query };
    let announcement = ArpFrame { target: VIP, ..query };
    let from = |mac: [u8; 6], frame: Vec<u8>| with(frame, 6, &mac);
    let packet = from(MAC, ipv4(CLIENT_MAC, VIP, CLIENT, 60));
    let real = from(MAC, ipv4(CLIENT_MAC, STRANGER, CLIENT, 60));
    let tags = [(0x88a8, 9), (0x8100, 5)];
    let elsewhere = Nic { ifindex: 2, ..NETWORK_CARD };
    check_egress(&[
        row("a packet from the VIP, held", packet.clone(), HELD, NEXT)
            .virtually()
            .gives(from(face, packet.clone()))
            .counts(Verdict::EgressIpv4Passed),
        row("a packet with two tags, held", tagged(&packet, &tags), HELD, NEXT)
            .virtually()
            .gives(from(face, tagged(&packet, &tags)))
            .counts(Verdict::EgressIpv4Passed),
        row("a packet that comes by a second time", from(face, packet.clone()), HELD, NEXT)
            .virtually()
            .counts(Verdict::EgressIpv4Passed),
        row("a packet by another interface", packet.clone(), HELD, NEXT)
            .virtually()
            .on(elsewhere)
            .counts(Verdict::EgressIpv4Passed),
        row("a packet from the VIP, dark", packet.clone(), DARK, SHOT)
            .virtually()
            .counts(Verdict::EgressIpv4Fenced),
        row("a packet of a real address, held", real.clone(), HELD, NEXT).virtually(),
        row("one from the virtual address, held", from(face, real.clone()), HELD, NEXT).virtually(),
        row("one from the virtual address, dark", from(face, real.clone()), DARK, SHOT)
            .virtually()
            .counts(Verdict::EgressVirtualMacFenced),
        row("one from the other family's address, lapsed", from(other_family, real.clone()), LAPSED, SHOT)
            .virtually()
            .counts(Verdict::EgressVirtualMacFenced),
        row(
            "a header from the virtual address, dark",
            short(with(from(face, real.clone()), 12, &[0x88, 0xb5]), 14),
            DARK,
            SHOT,
        )
        .virtually()
        .counts(Verdict::EgressVirtualMacFenced),
        row("one from an address that is not virtual any more", from(face, real), DARK, NEXT),
        row("a request by the VIP", query.bytes(), HELD, NEXT)
            .virtually()
            .gives(virtual_query.bytes())
            .counts(Verdict::EgressArpRequestPassed),
        row("an announcement with a tag", tagged(&announcement.bytes(), &tags[..1]), HELD, NEXT)
            .virtually()
            .gives(tagged(&ArpFrame { target: VIP, ..virtual_query }.bytes(), &tags[..1]))
            .counts(Verdict::EgressArpRequestPassed),
        row("an announcement by another interface", announcement.bytes(), HELD, NEXT)
            .virtually()
            .on(elsewhere)
            .counts(Verdict::EgressArpRequestPassed),
        row("an announcement, dark", announcement.bytes(), DARK, SHOT)
            .virtually()
            .counts(Verdict::EgressArpRequestFenced),
        row(
            "an announcement that lied before",
            ArpFrame { source: face, ..announcement }.bytes(),
            HELD,
            NEXT,
        )
        .virtually()
        .gives(ArpFrame { target: VIP, ..virtual_query }.bytes())
        .counts(Verdict::EgressArpRequestPassed),
    ]);
}

#[test]
fn a_lease_ends_at_its_nanosecond() {
    if !available() {
        return;
    }
    let now = || {
        let time = clock_gettime(ClockId::CLOCK_BOOTTIME).expect("every Linux has this clock");
        time.tv_sec() as u64 * 1_000_000_000 + time.tv_nsec() as u64
    };
    let mut programs = Programs::load(DATAPLANE_OBJECT).expect("the kernel takes the programs");
    programs.set_nic(NETWORK_CARD).expect("set the card's address");
    programs.set_vip(Ipv4Addr::from(VIP).into(), 24, GROUP).expect("set the VIP");
    let until = now() + 20_000_000;
    programs.set_lease(GROUP, until).expect("set the lease");
    let (mut held, mut dark) = (0, 0);
    while dark < 100 {
        let before = now();
        let action = programs.run("cluster_ingress", &request().bytes(), 1).expect("the program runs").action;
        let after = now();
        if after < until {
            assert_eq!(action, TX, "{} ns before the end", until - after);
            held += 1;
        } else if before >= until {
            assert_eq!(action, DROP, "{} ns after the end", before - until);
            dark += 1;
        }
    }
    assert!(held > 0, "20 ms did not suffice for a single run");
}
