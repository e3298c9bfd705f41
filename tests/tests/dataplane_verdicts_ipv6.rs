//! What the BPF programs do with IPv6 and neighbour discovery, row by row.

mod dataplane_rows;

use std::net::Ipv6Addr;

use cluster_common::Verdict;
use cluster_common::maps::Nic;
use cluster_tests::frames::{NdFrame, ipv6, set_icmpv6_checksum, solicited_node, tagged};
use cluster_tests::netns::available;
use cluster_tests::programs::NETWORK_CARD;

use dataplane_rows::{
    CLIENT_MAC, DARK, DROP, HELD, LAPSED, MAC, NEXT, OTHER_MAC, PASS, PEER_MAC, Row, SHOT, TX, VIP6,
    VIRTUAL_MACS, check_egress, check_ingress, row, short, with,
};

const CLIENT: Ipv6Addr = Ipv6Addr::new(0xfd77, 0, 0, 0, 0, 0, 0, 9);
const LINK_LOCAL_CLIENT: Ipv6Addr = Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 0xcc);
const FAR_CLIENT: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 9);
const STRANGER: Ipv6Addr = Ipv6Addr::new(0xfd77, 0, 0, 0, 0, 0, 0, 0x101);
const LINK_LOCAL_NODE: Ipv6Addr = Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 0x0a);
const ALL_NODES: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);
const ALL_ROUTERS: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 2);
const ALL_NODES_MAC: [u8; 6] = [0x33, 0x33, 0, 0, 0, 1];
const SOLICITED: u8 = 0x40;
const OVERRIDE: u8 = 0x20;
const ROUTER: u8 = 0x80;

/// A nonce (RFC 3971 section 5.3.2), as Linux puts it into its duplicate address detection (RFC 7527).
const NONCE: [u8; 8] = [14, 1, 1, 2, 3, 4, 5, 6];

fn solicitation() -> NdFrame {
    NdFrame::solicitation(CLIENT_MAC, CLIENT, VIP6)
}

fn detection() -> NdFrame {
    NdFrame::detection(CLIENT_MAC, VIP6)
}

fn answer() -> NdFrame {
    NdFrame {
        destination_mac: CLIENT_MAC,
        destination: CLIENT,
        flags: SOLICITED | OVERRIDE,
        ..NdFrame::announcement(MAC, VIP6)
    }
}

/// The answer to a duplicate address detection, which has no address to go to.
fn defence() -> NdFrame {
    NdFrame::announcement(MAC, VIP6)
}

fn answered(what: &'static str, frame: Vec<u8>, output: Vec<u8>) -> Row {
    row(what, frame, HELD, TX).gives(output).counts(Verdict::NsAnswered)
}

fn refused(what: &'static str, frame: Vec<u8>) -> Row {
    row(what, frame, HELD, DROP).counts(Verdict::NsRefused)
}

fn with_options(options: &[u8]) -> Vec<u8> {
    NdFrame { options: options.to_vec(), ..solicitation() }.bytes()
}

fn source_mac(mac: [u8; 6]) -> Vec<u8> {
    [&[1, 1][..], &mac].concat()
}

/// What the answer leaves of a longer solicitation: bytes behind the packet.
fn followed_by(answer: NdFrame, rest: &[u8]) -> Vec<u8> {
    let mut bytes = answer.bytes();
    bytes.extend(rest);
    bytes
}

/// The frame with its checksum set right again.
fn summed(mut frame: Vec<u8>) -> Vec<u8> {
    set_icmpv6_checksum(&mut frame);
    frame
}

/// The message behind extension headers: of each, the type and the bytes, in which the next one's type is set.
fn behind(frame: &NdFrame, extensions: &[(u8, &[u8])]) -> Vec<u8> {
    let bytes = frame.bytes();
    let mut payload = Vec::new();
    for (place, (_, extension)) in extensions.iter().enumerate() {
        let start = payload.len();
        payload.extend(*extension);
        payload[start] = extensions.get(place + 1).map_or(58, |(kind, _)| *kind);
    }
    payload.extend(&bytes[54..]);
    ipv6(frame.destination_mac, frame.source, frame.destination, extensions[0].0, 255, &payload)
}

fn udp(destination_mac: [u8; 6], source: Ipv6Addr, destination: Ipv6Addr, length: usize) -> Vec<u8> {
    ipv6(destination_mac, source, destination, 17, 64, &vec![0x5a; length])
}

#[test]
fn solicitations() {
    if !available() {
        return;
    }
    let unicast = NdFrame { destination_mac: MAC, destination: VIP6, ..solicitation() };
    let link_local = NdFrame { source: LINK_LOCAL_CLIENT, ..solicitation() };
    let elsewhere = NdFrame { destination_mac: OTHER_MAC, ..solicitation() };
    let rows = [
        answered("a solicitation, held", solicitation().bytes(), answer().bytes()).serves(CLIENT),
        row("a solicitation, dark", solicitation().bytes(), DARK, DROP).counts(Verdict::NsDark),
        row("a solicitation, lapsed", solicitation().bytes(), LAPSED, DROP).counts(Verdict::NsDark),
        answered("a unicast solicitation", unicast.bytes(), answer().bytes()).serves(CLIENT),
        row("a unicast solicitation, dark", unicast.bytes(), DARK, DROP).counts(Verdict::NsDark),
        answered(
            "one from an address of the link only",
            link_local.bytes(),
            NdFrame { destination: LINK_LOCAL_CLIENT, ..answer() }.bytes(),
        )
        .serves(LINK_LOCAL_CLIENT),
        answered(
            "one from off the link",
            NdFrame { source: FAR_CLIENT, ..solicitation() }.bytes(),
            NdFrame { destination: FAR_CLIENT, ..answer() }.bytes(),
        ),
        answered(
            "one that another host passed on",
            NdFrame { source_mac: OTHER_MAC, ..solicitation() }.bytes(),
            answer().bytes(),
        )
        .serves(CLIENT),
        answered("one without options grows", with_options(&[]), answer().bytes()).serves(CLIENT),
        answered("one without options, padded", short(with_options(&[]), 80), answer().bytes())
            .serves(CLIENT),
        answered("one with a nonce alone", with_options(&NONCE), answer().bytes()).serves(CLIENT),
        answered(
            "the asker's address behind a nonce",
            with_options(&[&NONCE[..], &source_mac(OTHER_MAC)].concat()),
            followed_by(NdFrame { destination_mac: OTHER_MAC, ..answer() }, &source_mac(OTHER_MAC)),
        )
        .serves(CLIENT),
        answered(
            "the asker's address twice",
            with_options(&[source_mac(OTHER_MAC), source_mac(MAC)].concat()),
            followed_by(NdFrame { destination_mac: OTHER_MAC, ..answer() }, &source_mac(MAC)),
        )
        .serves(CLIENT),
        answered(
            "an asker's address that is too long for Ethernet",
            with_options(&[&[1, 2][..], &[7; 14]].concat()),
            followed_by(answer(), &[7; 8]),
        )
        .serves(CLIENT),
        answered(
            "options of 64 bytes",
            with_options(&[&[200, 7][..], &[7; 54], &source_mac(OTHER_MAC)].concat()),
            followed_by(
                NdFrame { destination_mac: OTHER_MAC, ..answer() },
                &[&[7; 48][..], &source_mac(OTHER_MAC)].concat(),
            ),
        )
        .serves(CLIENT),
        refused("options of 72 bytes", with_options(&[&[200, 9][..], &[7; 70]].concat())),
        answered("one with padding", short(solicitation().bytes(), 1500), short(answer().bytes(), 1500))
            .serves(CLIENT),
        answered(
            "traffic class and flow label are not taken over",
            with(solicitation().bytes(), 14, &[0x6f, 0xff, 0xff, 0xff]),
            answer().bytes(),
        )
        .serves(CLIENT),
        answered(
            "reserved bytes are ignored",
            summed(with(solicitation().bytes(), 58, &[0xff; 4])),
            answer().bytes(),
        )
        .serves(CLIENT),
        answered(
            "a router says that it is one",
            solicitation().bytes(),
            NdFrame { flags: ROUTER | SOLICITED | OVERRIDE, ..answer() }.bytes(),
        )
        .serves(CLIENT)
        .on(Nic { flags: Nic::FORWARDS, ..NETWORK_CARD }),
        answered("a duplicate address detection", detection().bytes(), defence().bytes())
            .tells_of(Verdict::NsRival, CLIENT_MAC),
        row("a duplicate address detection, dark", detection().bytes(), DARK, DROP)
            .counts(Verdict::NsDark)
            .tells_of(Verdict::NsRival, CLIENT_MAC),
        answered(
            "a duplicate address detection with a nonce",
            NdFrame { options: NONCE.to_vec(), ..detection() }.bytes(),
            defence().bytes(),
        )
        .tells_of(Verdict::NsRival, CLIENT_MAC),
        refused(
            "a duplicate address detection with an address to answer to",
            NdFrame { options: source_mac(CLIENT_MAC), ..detection() }.bytes(),
        )
        .tells_of(Verdict::NsRival, CLIENT_MAC),
        refused(
            "a duplicate address detection to all nodes",
            NdFrame { destination: ALL_NODES, ..detection() }.bytes(),
        )
        .tells_of(Verdict::NsRival, CLIENT_MAC),
        refused(
            "a duplicate address detection to the VIP",
            NdFrame { destination: VIP6, ..detection() }.bytes(),
        )
        .tells_of(Verdict::NsRival, CLIENT_MAC),
        answered(
            "a duplicate address detection to another solicited-node address",
            NdFrame { destination: solicited_node(CLIENT), ..detection() }.bytes(),
            defence().bytes(),
        )
        .tells_of(Verdict::NsRival, CLIENT_MAC),
        answered(
            "a duplicate address detection of the peer",
            NdFrame { source_mac: PEER_MAC, ..detection() }.bytes(),
            defence().bytes(),
        ),
        refused("a hop limit of 254", NdFrame { hop_limit: 254, ..solicitation() }.bytes()),
        refused("code 1", NdFrame { code: 1, ..solicitation() }.bytes()),
        refused("a wrong checksum", with(solicitation().bytes(), 57, &[0])),
        refused("no checksum", with(solicitation().bytes(), 56, &[0, 0])),
        refused("a damaged option", with(solicitation().bytes(), 85, &[0])),
        refused("version 5", with(solicitation().bytes(), 14, &[0x50])),
        refused("an option of length 0", with_options(&[1, 0, 0, 0, 0, 0, 0, 0])),
        refused("an option that is longer than the rest", with_options(&[1, 2, 0, 0, 0, 0, 0, 0])),
        refused("options of 7 bytes", with_options(&[1, 1, 2, 0, 0, 0, 0])),
        refused("a length that is too short", with(solicitation().bytes(), 18, &[0, 16])),
        refused("a length beyond the frame", with(solicitation().bytes(), 18, &[0, 40])),
        refused("no length", with(solicitation().bytes(), 18, &[0, 0])),
        refused("one from a group", NdFrame { source: ALL_NODES, ..solicitation() }.bytes()),
        refused("one from the VIP itself", NdFrame { source: VIP6, ..solicitation() }.bytes())
            .tells_of(Verdict::NsRival, CLIENT_MAC),
        row("one for a stranger", NdFrame { target: STRANGER, ..solicitation() }.bytes(), DARK, PASS),
        row("one to another host", elsewhere.bytes(), HELD, PASS),
        row("the same, dark", elsewhere.bytes(), DARK, PASS),
        row(
            "one by the VIP for another",
            NdFrame { source: VIP6, target: CLIENT, ..solicitation() }.bytes(),
            DARK,
            PASS,
        )
        .tells_of(Verdict::NsRival, CLIENT_MAC),
        row(
            "the same by the peer",
            NdFrame { source_mac: PEER_MAC, source: VIP6, target: CLIENT, ..solicitation() }.bytes(),
            DARK,
            PASS,
        ),
        row("one that is cut off", short(solicitation().bytes(), 77), DARK, PASS),
        row("one with a VLAN tag", tagged(&solicitation().bytes(), &[(0x8100, 5)]), DARK, PASS),
        row(
            "one behind options for every hop",
            behind(&solicitation(), &[(0, &[0, 0, 1, 4, 0, 0, 0, 0])]),
            HELD,
            PASS,
        ),
        row("one in a fragment", behind(&solicitation(), &[(44, &[0; 8])]), HELD, PASS),
        row("one in a fragment to the VIP, dark", behind(&unicast, &[(44, &[0; 8])]), DARK, DROP)
            .counts(Verdict::Ipv6Dark),
    ];
    check_ingress(&rows);
}

#[test]
fn packets_and_advertisements() {
    if !available() {
        return;
    }
    let advertisement = NdFrame::announcement(OTHER_MAC, VIP6);
    let to_us =
        NdFrame { destination_mac: MAC, destination: STRANGER, flags: SOLICITED, ..advertisement.clone() };
    let report =
        ipv6([0x33, 0x33, 0, 0, 0, 0x16], CLIENT, ALL_NODES, 0, 1, &[58, 0, 5, 2, 0, 0, 1, 0, 143, 0]);
    let rows = [
        row("a packet to the VIP, held", udp(MAC, CLIENT, VIP6, 20), HELD, PASS)
            .counts(Verdict::Ipv6Passed)
            .serves(CLIENT),
        row("a packet to the VIP, dark", udp(MAC, CLIENT, VIP6, 20), DARK, DROP).counts(Verdict::Ipv6Dark),
        row("a packet to the VIP, lapsed", udp(MAC, CLIENT, VIP6, 20), LAPSED, DROP)
            .counts(Verdict::Ipv6Dark),
        row("a multicast frame to the VIP, dark", udp(ALL_NODES_MAC, CLIENT, VIP6, 20), DARK, DROP)
            .counts(Verdict::Ipv6Dark),
        row("a packet by way of another host, held", udp(OTHER_MAC, CLIENT, VIP6, 20), HELD, PASS)
            .counts(Verdict::Ipv6Passed)
            .serves(CLIENT),
        row("a packet by way of another host, dark", udp(OTHER_MAC, CLIENT, VIP6, 20), DARK, PASS),
        row("a packet from off the link", udp(MAC, FAR_CLIENT, VIP6, 20), HELD, PASS)
            .counts(Verdict::Ipv6Passed),
        row("a packet from the VIP to itself", udp(MAC, VIP6, VIP6, 20), HELD, PASS)
            .counts(Verdict::Ipv6Passed),
        row("a packet from nowhere", udp(MAC, Ipv6Addr::UNSPECIFIED, VIP6, 20), HELD, PASS)
            .counts(Verdict::Ipv6Passed),
        row("a jumbo packet, held", udp(MAC, CLIENT, VIP6, 8900), HELD, PASS)
            .counts(Verdict::Ipv6Passed)
            .serves(CLIENT),
        row("a jumbo packet, dark", udp(MAC, CLIENT, VIP6, 8900), DARK, DROP).counts(Verdict::Ipv6Dark),
        row("a header and nothing more", udp(MAC, CLIENT, VIP6, 0), DARK, DROP).counts(Verdict::Ipv6Dark),
        row("a header that is cut off", short(udp(MAC, CLIENT, VIP6, 0), 53), DARK, PASS),
        row("a packet to a stranger", udp(MAC, CLIENT, STRANGER, 20), DARK, PASS),
        row("a packet from the VIP", udp(MAC, VIP6, CLIENT, 20), DARK, PASS),
        row("a packet with a VLAN tag", tagged(&udp(MAC, CLIENT, VIP6, 20), &[(0x8100, 5)]), DARK, PASS),
        row(
            "an echo request, held",
            ipv6(MAC, CLIENT, VIP6, 58, 64, &[128, 0, 0, 0, 0, 1, 0, 1]),
            HELD,
            PASS,
        )
        .counts(Verdict::Ipv6Passed)
        .serves(CLIENT),
        row("an echo request, dark", ipv6(MAC, CLIENT, VIP6, 58, 64, &[128; 64]), DARK, DROP)
            .counts(Verdict::Ipv6Dark),
        row("a fragment, dark", ipv6(MAC, CLIENT, VIP6, 44, 64, &[17; 64]), DARK, DROP)
            .counts(Verdict::Ipv6Dark),
        row("a multicast listener report", report, DARK, PASS),
        row(
            "a router advertisement",
            ipv6(ALL_NODES_MAC, CLIENT, ALL_NODES, 58, 255, &[134; 56]),
            DARK,
            PASS,
        ),
        row("somebody advertises the VIP, held", advertisement.bytes(), HELD, PASS)
            .counts(Verdict::NaAnnounced)
            .tells_of(Verdict::NaRival, OTHER_MAC),
        row("somebody advertises the VIP, dark", advertisement.bytes(), DARK, PASS)
            .counts(Verdict::NaAnnounced)
            .tells_of(Verdict::NaRival, OTHER_MAC),
        row(
            "the peer advertises the VIP",
            NdFrame { source_mac: PEER_MAC, ..advertisement.clone() }.bytes(),
            DARK,
            PASS,
        )
        .counts(Verdict::NaAnnounced),
        row(
            "one that came by a router",
            NdFrame { hop_limit: 254, ..advertisement.clone() }.bytes(),
            DARK,
            PASS,
        )
        .counts(Verdict::NaAnnounced),
        row("somebody answers us for the VIP", to_us.bytes(), DARK, PASS)
            .counts(Verdict::NaAnnounced)
            .tells_of(Verdict::NaRival, OTHER_MAC),
        row(
            "the same to another host",
            NdFrame { destination_mac: OTHER_MAC, ..to_us.clone() }.bytes(),
            HELD,
            PASS,
        ),
        row(
            "somebody answers the VIP for the VIP, dark",
            NdFrame { destination: VIP6, ..to_us.clone() }.bytes(),
            DARK,
            DROP,
        )
        .counts(Verdict::Ipv6Dark)
        .tells_of(Verdict::NaRival, OTHER_MAC),
        row(
            "somebody answers the VIP for another",
            NdFrame { destination: VIP6, target: CLIENT, ..to_us }.bytes(),
            HELD,
            PASS,
        )
        .counts(Verdict::Ipv6Passed),
        row(
            "somebody advertises another address",
            NdFrame { target: CLIENT, ..advertisement }.bytes(),
            DARK,
            PASS,
        ),
    ];
    check_ingress(&rows);
}

#[test]
fn egress() {
    if !available() {
        return;
    }
    let announcement = NdFrame::announcement(MAC, VIP6);
    let from_link_local = NdFrame { source: LINK_LOCAL_NODE, ..announcement.clone() };
    let detection = NdFrame::detection(MAC, VIP6);
    let query = NdFrame::solicitation(MAC, VIP6, CLIENT);
    let probe = NdFrame::solicitation(MAC, LINK_LOCAL_NODE, VIP6);
    let packet = udp(CLIENT_MAC, VIP6, CLIENT, 20);
    let one = [(0x8100, 5)];
    let two = [(0x88a8, 9), (0x8100, 5)];
    let three = [(0x88a8, 9), (0x8100, 5), (0x8100, 6)];
    let hop: (u8, &[u8]) = (0, &[0, 0, 1, 4, 0, 0, 0, 0]);
    let destination: (u8, &[u8]) = (60, &[0, 1, 1, 12, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
    let routing: (u8, &[u8]) = (43, &[0; 8]);
    let authentication: (u8, &[u8]) =
        (51, &[0, 4, 0, 0, 0, 0, 0, 1, 0, 0, 0, 1, 9, 9, 9, 9, 9, 9, 9, 9, 9, 9, 9, 9]);
    let fragment: (u8, &[u8]) = (44, &[0; 8]);
    let later_fragment: (u8, &[u8]) = (44, &[0, 0, 0, 8, 0, 0, 0, 0]);
    let fenced = |what, frame, lease| row(what, frame, lease, SHOT).counts(Verdict::EgressNaFenced);
    let rows = [
        fenced("the kernel's answer, held", answer().bytes(), HELD),
        fenced("the kernel's answer, dark", answer().bytes(), DARK),
        fenced(
            "an answer from another address",
            NdFrame { source: LINK_LOCAL_NODE, ..answer() }.bytes(),
            HELD,
        ),
        fenced(
            "an answer to all nodes",
            NdFrame { flags: SOLICITED | OVERRIDE, ..announcement.clone() }.bytes(),
            HELD,
        ),
        fenced(
            "an announcement to one",
            NdFrame { destination: CLIENT, ..announcement.clone() }.bytes(),
            HELD,
        ),
        fenced(
            "an announcement that overrides nothing",
            NdFrame { flags: 0, ..announcement.clone() }.bytes(),
            HELD,
        ),
        row("an announcement, held", announcement.bytes(), HELD, NEXT).counts(Verdict::EgressNaPassed),
        fenced("an announcement, dark", announcement.bytes(), DARK),
        fenced("an announcement, lapsed", announcement.bytes(), LAPSED),
        row("an announcement from another address, held", from_link_local.bytes(), HELD, NEXT)
            .counts(Verdict::EgressNaPassed),
        fenced("an announcement from another address, dark", from_link_local.bytes(), DARK),
        row(
            "a router's announcement",
            NdFrame { flags: ROUTER | OVERRIDE, ..announcement.clone() }.bytes(),
            HELD,
            NEXT,
        )
        .counts(Verdict::EgressNaPassed),
        row(
            "an advertisement of a real address",
            NdFrame { target: STRANGER, source: STRANGER, ..answer() }.bytes(),
            DARK,
            NEXT,
        ),
        row(
            "an advertisement of a real address by the VIP, dark",
            NdFrame { target: STRANGER, ..answer() }.bytes(),
            DARK,
            SHOT,
        )
        .counts(Verdict::EgressIpv6Fenced),
        row("a duplicate address detection, held", detection.bytes(), HELD, NEXT)
            .counts(Verdict::EgressDadPassed),
        row("a duplicate address detection, dark", detection.bytes(), DARK, SHOT)
            .counts(Verdict::EgressDadFenced),
        row(
            "a duplicate address detection of another address",
            NdFrame { target: STRANGER, ..detection.clone() }.bytes(),
            DARK,
            NEXT,
        ),
        row("a question by the VIP, held", query.bytes(), HELD, NEXT).counts(Verdict::EgressIpv6Passed),
        row("a question by the VIP, dark", query.bytes(), DARK, SHOT).counts(Verdict::EgressIpv6Fenced),
        row("a question about the VIP", probe.bytes(), DARK, NEXT),
        row("a packet from the VIP, held", packet.clone(), HELD, NEXT).counts(Verdict::EgressIpv6Passed),
        row("a packet from the VIP, dark", packet.clone(), DARK, SHOT).counts(Verdict::EgressIpv6Fenced),
        row("a packet from the VIP, lapsed", packet.clone(), LAPSED, SHOT).counts(Verdict::EgressIpv6Fenced),
        row("a header from the VIP", udp(CLIENT_MAC, VIP6, CLIENT, 0), DARK, SHOT)
            .counts(Verdict::EgressIpv6Fenced),
        row(
            "a short ICMPv6 message from the VIP",
            ipv6(CLIENT_MAC, VIP6, CLIENT, 58, 64, &[136; 8]),
            DARK,
            SHOT,
        )
        .counts(Verdict::EgressIpv6Fenced),
        row("a packet to the VIP", udp(CLIENT_MAC, CLIENT, VIP6, 20), DARK, NEXT),
        row("a packet of a real address", udp(CLIENT_MAC, STRANGER, CLIENT, 20), DARK, NEXT),
        row("a packet with a tag, dark", tagged(&packet, &one), DARK, SHOT).counts(Verdict::EgressIpv6Fenced),
        row("a packet with a tag, held", tagged(&packet, &one), HELD, NEXT).counts(Verdict::EgressIpv6Passed),
        row("a packet with two tags", tagged(&packet, &two), DARK, SHOT).counts(Verdict::EgressIpv6Fenced),
        row("a packet with three tags", tagged(&packet, &three), DARK, NEXT),
        row("a packet with a tag, cut off", short(tagged(&packet, &one), 57), DARK, NEXT),
        fenced("an answer with a tag", tagged(&answer().bytes(), &one), HELD),
        fenced("an announcement with two tags", tagged(&announcement.bytes(), &two), DARK),
        fenced("an announcement behind options for every hop", behind(&from_link_local, &[hop]), HELD),
        fenced("one behind options for the destination", behind(&from_link_local, &[destination]), DARK),
        fenced("one behind a routing header", behind(&from_link_local, &[routing]), DARK),
        fenced("one behind an authentication header", behind(&from_link_local, &[authentication]), DARK),
        fenced("one in a fragment", behind(&from_link_local, &[fragment]), DARK),
        fenced(
            "one behind six headers",
            behind(&from_link_local, &[hop, destination, routing, fragment, authentication, destination]),
            DARK,
        ),
        row(
            "one behind seven headers",
            behind(
                &from_link_local,
                &[hop, destination, routing, fragment, authentication, destination, destination],
            ),
            DARK,
            NEXT,
        ),
        row(
            "one behind seven headers, from the VIP",
            behind(
                &announcement,
                &[hop, destination, routing, fragment, authentication, destination, destination],
            ),
            DARK,
            SHOT,
        )
        .counts(Verdict::EgressIpv6Fenced),
        row("the rest of a fragmented packet", behind(&from_link_local, &[later_fragment]), DARK, NEXT),
        fenced(
            "one behind two tags and an extension header",
            tagged(&behind(&from_link_local, &[hop]), &two),
            DARK,
        ),
        row("a hidden duplicate address detection", behind(&detection, &[hop]), HELD, SHOT)
            .counts(Verdict::EgressDadFenced),
        row("a hidden question about the VIP", behind(&probe, &[hop]), DARK, NEXT),
        row(
            "a hidden message that is cut off",
            short(behind(&from_link_local, &[hop]), 14 + 40 + 8 + 23),
            DARK,
            NEXT,
        ),
    ];
    check_egress(&rows);
}

#[test]
fn a_virtual_ethernet_address() {
    if !available() {
        return;
    }
    let [other_family, face] = VIRTUAL_MACS;
    let elsewhere = Nic { ifindex: 2, ..NETWORK_CARD };
    let wearing = |message: NdFrame, kind: u8| {
        let options = [&[kind, 1][..], &face].concat();
        NdFrame { source_mac: face, options, ..message }
    };
    let unicast = NdFrame { destination_mac: face, destination: VIP6, ..solicitation() };
    check_ingress(&[
        row("a solicitation, held", solicitation().bytes(), HELD, TX)
            .virtually()
            .gives(wearing(answer(), 2).bytes())
            .counts(Verdict::NsAnswered)
            .serves(CLIENT),
        row("a solicitation to the virtual address", unicast.bytes(), HELD, TX)
            .virtually()
            .gives(wearing(answer(), 2).bytes())
            .counts(Verdict::NsAnswered)
            .serves(CLIENT),
        row("the same, dark", unicast.bytes(), DARK, DROP).virtually().counts(Verdict::VirtualMacDark),
        row("a duplicate address detection", detection().bytes(), HELD, TX)
            .virtually()
            .gives(wearing(defence(), 2).bytes())
            .counts(Verdict::NsAnswered)
            .tells_of(Verdict::NsRival, CLIENT_MAC),
        row("a packet to the VIP, held", udp(face, CLIENT, VIP6, 20), HELD, PASS)
            .virtually()
            .gives(udp(MAC, CLIENT, VIP6, 20))
            .counts(Verdict::Ipv6Passed)
            .serves(CLIENT),
        row(
            "a packet to the VIP by the other family's address",
            udp(other_family, CLIENT, VIP6, 20),
            HELD,
            PASS,
        )
        .virtually()
        .gives(udp(MAC, CLIENT, VIP6, 20))
        .counts(Verdict::Ipv6Passed)
        .serves(CLIENT),
        row("a packet to the VIP, dark", udp(face, CLIENT, VIP6, 20), DARK, DROP)
            .virtually()
            .counts(Verdict::VirtualMacDark),
    ]);

    let announcement = NdFrame::announcement(MAC, VIP6);
    let query = NdFrame::solicitation(MAC, VIP6, CLIENT);
    let for_routers = NdFrame { kind: 133, destination: ALL_ROUTERS, ..query.clone() };
    let tags = [(0x8100, 5)];
    check_egress(&[
        row("an announcement, held", announcement.bytes(), HELD, NEXT)
            .virtually()
            .gives(wearing(announcement.clone(), 2).bytes())
            .counts(Verdict::EgressNaPassed),
        row(
            "an announcement from another address",
            NdFrame { source: LINK_LOCAL_NODE, ..announcement.clone() }.bytes(),
            HELD,
            NEXT,
        )
        .virtually()
        .gives(wearing(NdFrame { source: LINK_LOCAL_NODE, ..announcement.clone() }, 2).bytes())
        .counts(Verdict::EgressNaPassed),
        row("an announcement with a tag", tagged(&announcement.bytes(), &tags), HELD, NEXT)
            .virtually()
            .gives(tagged(&wearing(announcement.clone(), 2).bytes(), &tags))
            .counts(Verdict::EgressNaPassed),
        row(
            "an announcement without options",
            NdFrame { options: Vec::new(), ..announcement.clone() }.bytes(),
            HELD,
            NEXT,
        )
        .virtually()
        .gives(NdFrame { source_mac: face, options: Vec::new(), ..announcement.clone() }.bytes())
        .counts(Verdict::EgressNaPassed),
        row("an announcement by another interface", announcement.bytes(), HELD, NEXT)
            .virtually()
            .on(elsewhere)
            .counts(Verdict::EgressNaPassed),
        row("an announcement, dark", announcement.bytes(), DARK, SHOT)
            .virtually()
            .counts(Verdict::EgressNaFenced),
        row("the kernel's answer, held", answer().bytes(), HELD, SHOT)
            .virtually()
            .counts(Verdict::EgressNaFenced),
        row("a question by the VIP", query.bytes(), HELD, NEXT)
            .virtually()
            .gives(wearing(query.clone(), 1).bytes())
            .counts(Verdict::EgressIpv6Passed),
        row(
            "a question by the VIP with a nonce before and behind",
            NdFrame { options: [&NONCE[..], &source_mac(MAC), &NONCE].concat(), ..query.clone() }.bytes(),
            HELD,
            NEXT,
        )
        .virtually()
        .gives(
            NdFrame {
                source_mac: face,
                options: [&NONCE[..], &source_mac(face), &NONCE].concat(),
                ..query.clone()
            }
            .bytes(),
        )
        .counts(Verdict::EgressIpv6Passed),
        row(
            "a question about the VIP",
            NdFrame::solicitation(MAC, LINK_LOCAL_NODE, VIP6).bytes(),
            HELD,
            NEXT,
        )
        .virtually(),
        row("a duplicate address detection", NdFrame::detection(MAC, VIP6).bytes(), HELD, NEXT)
            .virtually()
            .gives(NdFrame { source_mac: face, ..NdFrame::detection(MAC, VIP6) }.bytes())
            .counts(Verdict::EgressDadPassed),
        row("a router solicitation by the VIP", without_target(&for_routers), HELD, NEXT)
            .virtually()
            .gives(without_target(&wearing(for_routers, 1)))
            .counts(Verdict::EgressIpv6Passed),
        row("a packet from the VIP", with(udp(CLIENT_MAC, VIP6, CLIENT, 20), 6, &MAC), HELD, NEXT)
            .virtually()
            .gives(with(udp(CLIENT_MAC, VIP6, CLIENT, 20), 6, &face))
            .counts(Verdict::EgressIpv6Passed),
        row("an echo reply from the VIP", ipv6(CLIENT_MAC, VIP6, CLIENT, 58, 64, &[129; 40]), HELD, NEXT)
            .virtually()
            .gives(with(ipv6(CLIENT_MAC, VIP6, CLIENT, 58, 64, &[129; 40]), 6, &face))
            .counts(Verdict::EgressIpv6Passed),
        row(
            "a short ICMPv6 message from the VIP",
            ipv6(CLIENT_MAC, VIP6, CLIENT, 58, 64, &[135; 3]),
            HELD,
            NEXT,
        )
        .virtually()
        .gives(with(ipv6(CLIENT_MAC, VIP6, CLIENT, 58, 64, &[135; 3]), 6, &face))
        .counts(Verdict::EgressIpv6Passed),
    ]);
}

/// A router solicitation: like one for neighbours, but its options come in the place of the target.
fn without_target(message: &NdFrame) -> Vec<u8> {
    let mut bytes = message.bytes();
    bytes.drain(62..78);
    bytes[18..20].copy_from_slice(&16_u16.to_be_bytes());
    summed(bytes)
}
