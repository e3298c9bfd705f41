//! The sockets of the heartbeat paths against a real kernel: which socket gets what, and what they outlast.

#![expect(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

use std::net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket};
use std::os::fd::{AsFd, AsRawFd};
use std::time::Duration;

use cluster_proto::{ClusterId, NodeId, wire};
use cluster_tests::netns::{Netns, available};
use cluster_userspace::network::heartbeat_socket::{PathSocket, Received, Sender, Sent, StrangerSocket};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{
    AddressFamily, ControlMessageOwned, MsgFlags, SockFlag, SockProtocol, SockType, SockaddrStorage, recvmsg,
    sendto, setsockopt, socket, sockopt,
};

/// Who sends on every path here.
const PEER: Sender = Sender { cluster: ClusterId(0x1112_1314_1516_1718), node: NodeId(0x0203), path: 5 };

#[test]
fn the_path_gets_the_peers_datagrams_and_the_other_socket_the_strangers() {
    for order in [["path", "strangers"], ["strangers", "path"]] {
        for_each_family(|f| {
            f.address_a();
            f.address_b();
            f.a.run(|| {
                let (mut path, mut strangers) = (None, None);
                for socket in order {
                    match socket {
                        "path" => path = Some(PathSocket::open(f.ends.a, f.ends.b, false, PEER).unwrap()),
                        _ => strangers = Some(StrangerSocket::open(f.ends.a).unwrap()),
                    }
                }
                let (mut path, mut strangers) = (path.unwrap(), strangers.unwrap());
                assert!(path.try_connect());
                f.check(&mut path, &mut strangers);
            });
        });
    }
}

#[test]
fn a_path_whose_address_comes_later_connects_then() {
    for order in [["path", "strangers"], ["strangers", "path"]] {
        for_each_family(|f| {
            f.a.run(|| {
                let (mut path, mut strangers) = (None, None);
                for socket in order {
                    match socket {
                        "path" => path = Some(PathSocket::open(f.ends.a, f.ends.b, true, PEER).unwrap()),
                        _ => strangers = Some(StrangerSocket::open(f.ends.a).unwrap()),
                    }
                }
                let (mut path, mut strangers) = (path.unwrap(), strangers.unwrap());
                assert!(!path.try_connect());
                assert_eq!(path.send(b"early"), Sent::NotConnected);
                assert_eq!(path.receive(&mut [0; 64]), Received::Empty);
                f.address_a();
                f.address_b();
                assert_eq!(path.send(b"now"), Sent::Sent);
                f.check(&mut path, &mut strangers);
            });
        });
    }
}

#[test]
fn what_others_send_before_the_connection_is_dropped() {
    for_each_family(|f| {
        f.address_b();
        f.a.run(|| {
            let mut path = PathSocket::open(f.ends.a, f.ends.b, false, PEER).unwrap();
            // The address is there, but no route to the peer, so that the socket takes what anybody sends.
            f.address(&f.a, f.ends.a, if f.is_ipv6() { 128 } else { 32 });
            assert!(!path.try_connect());
            f.send_from_b(f.ends.b_other_port, &message(b"stranger"));
            f.send_from_b(f.ends.b_other_address, &message(b"stranger"));
            f.send_from_b(f.ends.b, &message(b"peer"));
            readable(&path);
            assert_eq!(datagram(&mut path), b"peer");
            assert_eq!(path.receive(&mut [0; 64]), Received::Empty);
            assert_eq!(path.filtered(), 2);
        });
    });
}

#[test]
fn a_path_outlasts_its_interface() {
    for_each_family(|f| {
        f.address_a();
        f.address_b();
        f.a.run(|| {
            let mut path = PathSocket::open(f.ends.a, f.ends.b, true, PEER).unwrap();
            let mut strangers = StrangerSocket::open(f.ends.a).unwrap();
            f.check(&mut path, &mut strangers);
            f.a.ip("link delete eth0").unwrap();
            assert_eq!(path.send(b"nowhere"), Sent::NotConnected);
            assert!(matches!(path.receive(&mut [0; 64]), Received::Empty | Received::Unreachable));
            f.link();
            f.address_a();
            f.address_b();
            assert_eq!(path.send(b"again"), Sent::Sent);
            f.check(&mut path, &mut strangers);
        });
    });
}

#[test]
fn a_path_outlasts_its_address_and_link_going_down_and_up() {
    for_each_family(|f| {
        f.address_a();
        f.address_b();
        f.a.run(|| {
            let mut path = PathSocket::open(f.ends.a, f.ends.b, true, PEER).unwrap();
            let mut strangers = StrangerSocket::open(f.ends.a).unwrap();
            f.a.ip("link set eth0 down").unwrap();
            assert_eq!(path.send(b"nowhere"), Sent::NotConnected);
            f.a.ip("link set eth0 up").unwrap();
            if f.is_ipv6() {
                // The kernel has taken them off.
                f.address_a();
            }
            f.check(&mut path, &mut strangers);
            f.a.ip("addr flush dev eth0").unwrap();
            assert_eq!(path.send(b"nowhere"), Sent::NotConnected);
            f.address_a();
            f.check(&mut path, &mut strangers);
            // A cable that is pulled at the other end: sending goes on into nothing, and works when it is back.
            f.b.ip("link set eth0 down").unwrap();
            assert!(matches!(path.send(b"nothing"), Sent::Sent | Sent::NotConnected));
            f.b.ip("link set eth0 up").unwrap();
            if f.is_ipv6() {
                f.address_b();
            }
            f.check(&mut path, &mut strangers);
        });
    });
}

#[test]
fn an_on_link_path_is_never_routed() {
    for_each_family(|f| {
        f.address_a();
        f.address_b();
        let far = Netns::new().unwrap();
        f.b.veth("eth1", &far, "eth0").unwrap();
        let (network, forwarding) = if f.is_ipv6() {
            (Ends::of("fd99::", 64), "/proc/sys/net/ipv6/conf/all/forwarding")
        } else {
            (Ends::of("10.99.0.", 24), "/proc/sys/net/ipv4/ip_forward")
        };
        let (router, end, prefix) = (network.a.ip(), network.b, network.prefix);
        let detection = if f.is_ipv6() { "nodad" } else { "" };
        f.b.ip(&format!("addr add {router}/{prefix} dev eth1 {detection}")).unwrap();
        f.address(&far, end, prefix);
        f.b.run(|| std::fs::write(forwarding, "1").unwrap());
        far.ip(&format!("route add {} via {router}", f.ends.a.ip())).unwrap();
        f.a.ip(&format!("route add {} via {}", end.ip(), f.ends.b.ip())).unwrap();
        far.run(|| {
            let receiver = bind(end);
            receiver.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
            f.a.run(|| {
                let on_link = PathSocket::open(f.ends.a, end, true, PEER).unwrap().send(b"on link");
                // Over IPv6 it is the router that drops it.
                assert_eq!(on_link, if f.is_ipv6() { Sent::Sent } else { Sent::NotConnected });
                assert_eq!(PathSocket::open(f.ends.a, end, false, PEER).unwrap().send(b"routed"), Sent::Sent);
            });
            let mut buffer = [0; 16];
            let (length, _) = receiver.recv_from(&mut buffer).unwrap();
            assert_eq!(&buffer[..length], b"routed", "the one before it was to stay on the link");
        });
    });
}

#[test]
fn time_to_live_and_precedence_are_on_the_wire() {
    for_each_family(|f| {
        f.address_a();
        f.address_b();
        for (on_link, expected_ttl) in [(true, 1), (false, 64)] {
            f.b.run(|| {
                let receiver = bind(f.ends.b);
                if f.is_ipv6() {
                    setsockopt(&receiver, sockopt::Ipv6RecvHopLimit, &true).unwrap();
                    setsockopt(&receiver, sockopt::Ipv6RecvTClass, &true).unwrap();
                } else {
                    setsockopt(&receiver, sockopt::Ipv4RecvTtl, &true).unwrap();
                    setsockopt(&receiver, sockopt::IpRecvTos, &true).unwrap();
                }
                f.a.run(|| {
                    assert_eq!(
                        PathSocket::open(f.ends.a, f.ends.b, on_link, PEER).unwrap().send(b"x"),
                        Sent::Sent
                    )
                });
                readable(&receiver);
                let mut control = nix::cmsg_space!(i32, i32);
                let message = recvmsg::<SockaddrStorage>(
                    receiver.as_raw_fd(),
                    &mut [],
                    Some(&mut control),
                    MsgFlags::empty(),
                )
                .unwrap();
                let (mut ttl, mut tos) = (None, None);
                for control in message.cmsgs().unwrap() {
                    match control {
                        ControlMessageOwned::Ipv4Ttl(value) | ControlMessageOwned::Ipv6HopLimit(value) => {
                            ttl = Some(value)
                        }
                        ControlMessageOwned::Ipv4Tos(value) => tos = Some(i32::from(value)),
                        ControlMessageOwned::Ipv6TClass(value) => tos = Some(value),
                        _ => {}
                    }
                }
                assert_eq!((ttl, tos), (Some(expected_ttl), Some(48 << 2)));
            });
        }
    });
}

#[test]
fn what_a_peer_could_have_sent_comes_in_and_nothing_else() {
    for_each_family(|f| {
        f.address_a();
        f.address_b();
        f.a.run(|| {
            let mut path = PathSocket::open(f.ends.a, f.ends.b, false, PEER).unwrap();
            let good = signed_message();
            let mut sent: Vec<Vec<u8>> = vec![good.clone()];
            for bit in 0..good.len() * 8 {
                let mut bytes = good.clone();
                bytes[bit / 8] ^= 1 << (bit % 8);
                sent.push(bytes);
            }
            sent.extend((0..good.len()).map(|length| good[..length].to_vec()));
            for length in [0, 1, 119, 120, 121, 1399, wire::MAX_LEN, wire::MAX_LEN + 1, 1472, 9000] {
                let mut bytes = good.clone();
                bytes.resize(length, 0);
                sent.push(bytes.clone());
                if let Some(field) = bytes.get_mut(wire::offset::LENGTH..wire::offset::LENGTH + 2) {
                    field.copy_from_slice(&u16::try_from(length).unwrap().to_be_bytes());
                }
                sent.push(bytes);
            }
            for (newest, oldest) in [(0, 0), (0, 1), (1, 0), (1, 7), (2, 2), (2, 1), (9, 0), (255, 255)] {
                let mut bytes = good.clone();
                (bytes[wire::offset::VERSION], bytes[wire::offset::MINIMUM_VERSION]) = (newest, oldest);
                sent.push(bytes);
            }
            let mut let_in = 0;
            for bytes in &sent {
                f.send_from_b(f.ends.b, bytes);
                // Behind each goes a message that comes in, so that it is known when the first has been judged.
                f.send_from_b(f.ends.b, &message(b"next"));
                let mut buffer = [0; 2048];
                readable(&path);
                let Received::Datagram { len, overflow: false } = path.receive(&mut buffer) else { panic!() };
                let came = buffer[..len] == bytes[..];
                if came {
                    let_in += 1;
                    readable(&path);
                    assert!(matches!(path.receive(&mut buffer), Received::Datagram { .. }));
                }
                let believable = wire::Message::parse(bytes).is_ok_and(|message| {
                    let wire::Header { node, cluster, path, .. } = message.header;
                    (node, cluster, path) == (PEER.node, PEER.cluster, PEER.path)
                });
                assert!(came || !believable, "this was dropped: {bytes:x?}");
                assert!(!came || looks_right(bytes), "this came in: {bytes:x?}");
            }
            assert_eq!(path.filtered(), (sent.len() - let_in) as u64);
        });
    });
}

/// What the filter looks at, said once more.
fn looks_right(bytes: &[u8]) -> bool {
    if !(wire::HEADER_LEN + wire::TAG_LEN..=wire::MAX_LEN).contains(&bytes.len()) {
        return false;
    }
    let length = [bytes[4], bytes[5]] == u16::try_from(bytes.len()).unwrap().to_be_bytes();
    let node = bytes[6..8] == PEER.node.0.to_be_bytes();
    let cluster = bytes[8..16] == PEER.cluster.0.to_be_bytes();
    // Of every version: one that cannot be read is told.
    length && node && cluster && [1, 2, 3].contains(&bytes[2]) && bytes[87] == PEER.path
}

#[test]
fn what_is_dropped_for_its_contents_is_no_overflow() {
    for_each_family(|f| {
        f.address_a();
        f.address_b();
        f.a.run(|| {
            let mut path = PathSocket::open(f.ends.a, f.ends.b, false, PEER).unwrap();
            let mut other_cluster = message(b"");
            other_cluster[wire::offset::CLUSTER] ^= 1;
            for round in 1..=64 {
                f.send_from_b(f.ends.b, &other_cluster);
                f.send_with_a_wrong_checksum(&message(b"corrupt"));
                f.send_from_b(f.ends.b, &message(b"peer"));
                readable(&path);
                assert_eq!(datagram(&mut path), b"peer", "round {round}");
            }
            assert_eq!(path.filtered(), 2 * 64);
            assert_eq!(path.filtered(), 0);
        });
    });
}

#[test]
fn an_overflow_is_noticed_at_once_and_no_longer_than_it_lasts() {
    for_each_family(|f| {
        f.address_a();
        f.address_b();
        f.a.run(|| {
            let mut path = PathSocket::open(f.ends.a, f.ends.b, false, PEER).unwrap();
            assert_eq!(path.short_of_room(), None, "root has what it asks for");
            for (length, least) in [(0, 500), (1200, 200)] {
                let message = message(&vec![1; length]);
                f.b.run(|| {
                    let sender = bind(f.ends.b);
                    for _ in 0..5000 {
                        sender.send_to(&message, f.ends.a).unwrap();
                    }
                });
                readable(&path);
                let (mut kept, mut overflows) = (0, Vec::new());
                while let Received::Datagram { overflow, .. } = path.receive(&mut [0; 2048]) {
                    kept += 1;
                    if overflow {
                        overflows.push(kept);
                    }
                }
                assert!((least..5000).contains(&kept), "{kept} of 5000 datagrams were kept");
                assert!(matches!(overflows[..], [1..=8]), "told with the datagrams {overflows:?} of {kept}");
                for _ in 0..20 {
                    f.send_from_b(f.ends.b, &message);
                    readable(&path);
                    let Received::Datagram { overflow, .. } = path.receive(&mut [0; 2048]) else { panic!() };
                    assert!(!overflow);
                }
            }
        });
    });
}

#[test]
fn a_peer_whose_daemon_is_down_costs_no_heartbeat() {
    for_each_family(|f| {
        f.address_a();
        f.address_b();
        f.a.run(|| {
            let mut path = PathSocket::open(f.ends.a, f.ends.b, false, PEER).unwrap();
            assert_eq!(path.send(b"1"), Sent::Sent);
            // The answer "port unreachable" is pending now; it must not eat the next heartbeat.
            readable(&path);
            f.b.run(|| {
                let peer = bind(f.ends.b);
                peer.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
                assert_eq!(path.send(b"2"), Sent::Sent);
                let mut buffer = [0; 8];
                assert_eq!(peer.recv_from(&mut buffer).unwrap(), (1, f.ends.a));
                assert_eq!(&buffer[..1], b"2");
            });
            assert_eq!(path.send(b"3"), Sent::Sent);
            readable(&path);
            assert_eq!(path.receive(&mut [0; 64]), Received::Unreachable);
            assert_eq!(path.receive(&mut [0; 64]), Received::Empty);
        });
    });
}

#[test]
fn paths_to_several_peers_share_one_address() {
    for_each_family(|f| {
        f.address_a();
        f.address_b();
        f.a.run(|| {
            let mut strangers = StrangerSocket::open(f.ends.a).unwrap();
            let mut first = PathSocket::open(f.ends.a, f.ends.b, false, PEER).unwrap();
            let mut second = PathSocket::open(f.ends.a, f.ends.b_other_address, false, PEER).unwrap();
            f.send_from_b(f.ends.b_other_address, &message(b"second"));
            f.send_from_b(f.ends.b, &message(b"first"));
            readable(&first);
            readable(&second);
            assert_eq!(datagram(&mut first), b"first");
            assert_eq!(datagram(&mut second), b"second");
            f.send_from_b(f.ends.b_other_port, &message(b"stranger"));
            await_count(1, || strangers.dropped());
        });
    });
}

#[test]
fn strangers_are_all_counted() {
    for_each_family(|f| {
        f.address_a();
        f.address_b();
        f.a.run(|| {
            let mut strangers = StrangerSocket::open(f.ends.a).unwrap();
            assert_eq!(strangers.dropped(), 0);
            f.b.run(|| {
                let sender = bind(f.ends.b);
                for _ in 0..5000 {
                    sender.send_to(&message(b"stranger"), f.ends.a).unwrap();
                }
            });
            await_count(5000, || strangers.dropped());
        });
    });
}

/// A message with the given contents that the peer could have sent, but for its authentication.
fn message(contents: &[u8]) -> Vec<u8> {
    let mut bytes = vec![0; wire::HEADER_LEN];
    bytes.extend_from_slice(contents);
    bytes.extend_from_slice(&[0; wire::TAG_LEN]);
    let length = u16::try_from(bytes.len()).unwrap();
    bytes[..3].copy_from_slice(&[wire::VERSION, wire::VERSION, 1]);
    bytes[4..6].copy_from_slice(&length.to_be_bytes());
    bytes[6..8].copy_from_slice(&PEER.node.0.to_be_bytes());
    bytes[8..16].copy_from_slice(&PEER.cluster.0.to_be_bytes());
    bytes[87] = PEER.path;
    bytes
}

/// Such a message as the daemon writes it, with a served address in it.
fn signed_message() -> Vec<u8> {
    let Ok(wire::Message { header, .. }) = wire::Message::parse(&{
        let mut bytes = message(b"");
        bytes[16] = 1;
        // One part of one.
        bytes[113] = 1;
        bytes
    }) else {
        panic!("an empty message")
    };
    let mut bytes = Vec::new();
    let key = wire::Authenticator::new(&cluster_proto::Key([7; 32]));
    let content = wire::Content { served: &[IpAddr::V4(Ipv4Addr::LOCALHOST)], ..wire::Content::default() };
    wire::emit(&mut bytes, &header, content, &key);
    bytes
}

/// Waits until as many have been counted as were sent, and fails if there are more.
fn await_count(sent: u64, mut more: impl FnMut() -> u64) {
    let mut counted = 0;
    for _ in 0..1_000_000 {
        counted += more();
        if counted >= sent {
            break;
        }
        std::thread::yield_now();
    }
    assert_eq!(counted, sent);
}

/// Waits until there is something to read, or an error.
fn readable(socket: &impl AsFd) {
    let mut ready = [PollFd::new(socket.as_fd(), PollFlags::POLLIN)];
    assert_eq!(poll(&mut ready, PollTimeout::from(5000_u16)).unwrap(), 1, "nothing came");
}

/// A socket of the peer's. Where another test's thread is just starting a program, a socket closed a moment ago may
/// live on in that program's process until it is executed, so that the address is free only soon.
fn bind(address: SocketAddr) -> UdpSocket {
    for _ in 0..1_000_000 {
        match UdpSocket::bind(address) {
            Err(error) if error.kind() == std::io::ErrorKind::AddrInUse => std::thread::yield_now(),
            socket => return socket.unwrap(),
        }
    }
    panic!("{address} stays in use");
}

fn datagram(path: &mut PathSocket) -> Vec<u8> {
    let mut buffer = [0; 512];
    match path.receive(&mut buffer) {
        Received::Datagram { len, overflow: false } => buffer[wire::HEADER_LEN..len - wire::TAG_LEN].to_vec(),
        other => panic!("{other:?}"),
    }
}

/// The addresses of both sides, of one family.
#[derive(Clone, Copy)]
struct Ends {
    a: SocketAddr,
    b: SocketAddr,
    b_other_port: SocketAddr,
    b_other_address: SocketAddr,
    /// How long their network's prefix is.
    prefix: u8,
}

impl Ends {
    fn of(network: &str, prefix: u8) -> Self {
        let end = |last: u8, port| {
            let address: IpAddr = format!("{network}{last}").parse().unwrap();
            SocketAddr::new(address, port)
        };
        Self {
            a: end(1, 4780),
            b: end(2, 4780),
            b_other_port: end(2, 4781),
            b_other_address: end(3, 4780),
            prefix,
        }
    }
}

/// Runs a test over IPv4, and over IPv6, each in namespaces of its own.
fn for_each_family(test: impl Fn(&Fixture)) {
    for ends in [Ends::of("10.77.0.", 24), Ends::of("fd77::", 64)] {
        if let Some(fixture) = Fixture::new(ends) {
            test(&fixture);
        }
    }
}

/// Two namespaces with a link between them; the sockets that are tested are in `a`.
struct Fixture {
    a: Netns,
    b: Netns,
    ends: Ends,
}

impl Fixture {
    fn new(ends: Ends) -> Option<Self> {
        available().then(|| {
            let fixture = Self { a: Netns::new().unwrap(), b: Netns::new().unwrap(), ends };
            fixture.link();
            fixture
        })
    }

    fn link(&self) {
        self.a.veth("eth0", &self.b, "eth0").unwrap();
    }

    fn is_ipv6(&self) -> bool {
        self.ends.a.is_ipv6()
    }

    /// Puts an address on the interface, ready for use at once.
    fn address(&self, namespace: &Netns, end: SocketAddr, prefix: u8) {
        let detection = if self.is_ipv6() { "nodad" } else { "" };
        namespace.ip(&format!("addr add {}/{prefix} dev eth0 {detection}", end.ip())).unwrap();
    }

    fn address_a(&self) {
        self.address(&self.a, self.ends.a, self.ends.prefix);
    }

    fn address_b(&self) {
        self.address(&self.b, self.ends.b, self.ends.prefix);
        self.address(&self.b, self.ends.b_other_address, self.ends.prefix);
        self.b.ip(&format!("route replace {} dev eth0", self.ends.a.ip())).unwrap();
    }

    fn send_from_b(&self, from: SocketAddr, bytes: &[u8]) {
        self.b.run(|| bind(from).send_to(bytes, self.ends.a).unwrap());
    }

    /// As if from the peer, by a raw socket, for which the kernel makes no checksum of UDP.
    fn send_with_a_wrong_checksum(&self, bytes: &[u8]) {
        let [udp, total] = [8, 28].map(|headers| u16::try_from(headers + bytes.len()).unwrap().to_be_bytes());
        let mut packet = Vec::new();
        for end in [self.ends.b, self.ends.a] {
            match end.ip() {
                IpAddr::V4(address) => packet.extend_from_slice(&address.octets()),
                IpAddr::V6(address) => packet.extend_from_slice(&address.octets()),
            }
        }
        let header = if self.is_ipv6() {
            vec![0x60, 0, 0, 0, udp[0], udp[1], 17, 64]
        } else {
            vec![0x45, 0, total[0], total[1], 0, 0, 0, 0, 64, 17, 0, 0]
        };
        packet.splice(0..0, header);
        packet.extend_from_slice(&self.ends.b.port().to_be_bytes());
        packet.extend_from_slice(&self.ends.a.port().to_be_bytes());
        packet.extend_from_slice(&udp);
        packet.extend_from_slice(&[0xde, 0xad]);
        packet.extend_from_slice(bytes);
        let family = if self.is_ipv6() { AddressFamily::Inet6 } else { AddressFamily::Inet };
        self.b.run(|| {
            let raw = socket(family, SockType::Raw, SockFlag::SOCK_CLOEXEC, SockProtocol::Raw);
            // What is a port elsewhere has to be 0 here.
            let to = SockaddrStorage::from(SocketAddr::new(self.ends.a.ip(), 0));
            sendto(raw.unwrap().as_raw_fd(), &packet, &to, MsgFlags::empty()).unwrap();
        });
    }

    /// The peer's datagram reaches the path and only it, those of others the other socket and only it.
    fn check(&self, path: &mut PathSocket, strangers: &mut StrangerSocket) {
        while !matches!(path.receive(&mut [0; 64]), Received::Empty) {}
        strangers.dropped();
        self.send_from_b(self.ends.b_other_port, &message(b"port"));
        self.send_from_b(self.ends.b_other_address, &message(b"address"));
        self.send_from_b(self.ends.b, &message(b"peer"));
        readable(path);
        assert_eq!(datagram(path), b"peer");
        assert_eq!(path.receive(&mut [0; 64]), Received::Empty);
        await_count(2, || strangers.dropped());
        self.b.run(|| {
            let peer = bind(self.ends.b);
            peer.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
            assert_eq!(path.send(b"heartbeat"), Sent::Sent);
            let mut buffer = [0; 64];
            assert_eq!(peer.recv_from(&mut buffer).unwrap(), (9, self.ends.a));
        });
    }
}
