//! The sockets of the heartbeat paths against a real kernel: which socket gets what, and what they outlast.

#![expect(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4, UdpSocket};
use std::os::fd::{AsFd, AsRawFd};
use std::time::Duration;

use cluster_proto::{ClusterId, NodeId, wire};
use cluster_tests::netns::{Netns, available};
use cluster_userspace::network::heartbeat_socket::{PathSocket, Received, Sender, Sent, StrangerSocket};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{
    AddressFamily, ControlMessageOwned, MsgFlags, SockFlag, SockProtocol, SockType, SockaddrIn, recvmsg,
    sendto, setsockopt, socket, sockopt,
};

const A: SocketAddrV4 = SocketAddrV4::new(Ipv4Addr::new(10, 77, 0, 1), 4780);
const B: SocketAddrV4 = SocketAddrV4::new(Ipv4Addr::new(10, 77, 0, 2), 4780);
/// Who sends on every path here.
const PEER: Sender = Sender { cluster: ClusterId(0x1112_1314_1516_1718), node: NodeId(0x0203), path: 5 };
const B_OTHER_PORT: SocketAddrV4 = SocketAddrV4::new(Ipv4Addr::new(10, 77, 0, 2), 4781);
const B_OTHER_ADDRESS: SocketAddrV4 = SocketAddrV4::new(Ipv4Addr::new(10, 77, 0, 3), 4780);

#[test]
fn the_path_gets_the_peers_datagrams_and_the_other_socket_the_strangers() {
    for order in [["path", "strangers"], ["strangers", "path"]] {
        let Some(f) = Fixture::new() else { return };
        f.address_a();
        f.address_b();
        f.a.run(|| {
            let (mut path, mut strangers) = (None, None);
            for socket in order {
                match socket {
                    "path" => path = Some(PathSocket::open(A, B, false, PEER).unwrap()),
                    _ => strangers = Some(StrangerSocket::open(A).unwrap()),
                }
            }
            let (mut path, mut strangers) = (path.unwrap(), strangers.unwrap());
            assert!(path.try_connect());
            f.check(&mut path, &mut strangers);
        });
    }
}

#[test]
fn a_path_whose_address_comes_later_connects_then() {
    for order in [["path", "strangers"], ["strangers", "path"]] {
        let Some(f) = Fixture::new() else { return };
        f.a.run(|| {
            let (mut path, mut strangers) = (None, None);
            for socket in order {
                match socket {
                    "path" => path = Some(PathSocket::open(A, B, true, PEER).unwrap()),
                    _ => strangers = Some(StrangerSocket::open(A).unwrap()),
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
    }
}

#[test]
fn what_others_send_before_the_connection_is_dropped() {
    let Some(f) = Fixture::new() else { return };
    f.address_b();
    f.a.run(|| {
        let mut path = PathSocket::open(A, B, false, PEER).unwrap();
        // The address is there, but no route to the peer, so that the socket takes what anybody sends.
        f.a.ip("addr add 10.77.0.1/32 dev eth0").unwrap();
        assert!(!path.try_connect());
        f.send_from_b(B_OTHER_PORT, &message(b"stranger"));
        f.send_from_b(B_OTHER_ADDRESS, &message(b"stranger"));
        f.send_from_b(B, &message(b"peer"));
        readable(&path);
        assert_eq!(datagram(&mut path), b"peer");
        assert_eq!(path.receive(&mut [0; 64]), Received::Empty);
        assert_eq!(path.filtered(), 2);
    });
}

#[test]
fn a_path_outlasts_its_interface() {
    let Some(f) = Fixture::new() else { return };
    f.address_a();
    f.address_b();
    f.a.run(|| {
        let mut path = PathSocket::open(A, B, true, PEER).unwrap();
        let mut strangers = StrangerSocket::open(A).unwrap();
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
}

#[test]
fn a_path_outlasts_its_address_and_link_going_down_and_up() {
    let Some(f) = Fixture::new() else { return };
    f.address_a();
    f.address_b();
    f.a.run(|| {
        let mut path = PathSocket::open(A, B, true, PEER).unwrap();
        let mut strangers = StrangerSocket::open(A).unwrap();
        f.a.ip("link set eth0 down").unwrap();
        assert_eq!(path.send(b"nowhere"), Sent::NotConnected);
        f.a.ip("link set eth0 up").unwrap();
        f.check(&mut path, &mut strangers);
        f.a.ip("addr flush dev eth0").unwrap();
        assert_eq!(path.send(b"nowhere"), Sent::NotConnected);
        f.address_a();
        f.check(&mut path, &mut strangers);
        // A cable that is pulled at the other end: sending goes on into nothing, and works when it is back.
        f.b.ip("link set eth0 down").unwrap();
        assert!(matches!(path.send(b"nothing"), Sent::Sent | Sent::NotConnected));
        f.b.ip("link set eth0 up").unwrap();
        f.check(&mut path, &mut strangers);
    });
}

#[test]
fn an_on_link_path_is_never_routed() {
    let Some(f) = Fixture::new() else { return };
    f.address_a();
    f.a.ip("route add 10.99.0.0/24 via 10.77.0.2").unwrap();
    let far = SocketAddrV4::new(Ipv4Addr::new(10, 99, 0, 2), 4780);
    f.a.run(|| {
        assert_eq!(PathSocket::open(A, far, true, PEER).unwrap().send(b"x"), Sent::NotConnected);
        assert_eq!(PathSocket::open(A, far, false, PEER).unwrap().send(b"x"), Sent::Sent);
    });
}

#[test]
fn time_to_live_and_precedence_are_on_the_wire() {
    let Some(f) = Fixture::new() else { return };
    f.address_a();
    f.address_b();
    for (on_link, expected_ttl) in [(true, 1), (false, 64)] {
        f.b.run(|| {
            let receiver = bind(B);
            setsockopt(&receiver, sockopt::Ipv4RecvTtl, &true).unwrap();
            setsockopt(&receiver, sockopt::IpRecvTos, &true).unwrap();
            f.a.run(|| assert_eq!(PathSocket::open(A, B, on_link, PEER).unwrap().send(b"x"), Sent::Sent));
            readable(&receiver);
            let mut control = nix::cmsg_space!(i32, i32);
            let message =
                recvmsg::<SockaddrIn>(receiver.as_raw_fd(), &mut [], Some(&mut control), MsgFlags::empty())
                    .unwrap();
            let (mut ttl, mut tos) = (None, None);
            for control in message.cmsgs().unwrap() {
                match control {
                    ControlMessageOwned::Ipv4Ttl(value) => ttl = Some(value),
                    ControlMessageOwned::Ipv4Tos(value) => tos = Some(value),
                    _ => {}
                }
            }
            assert_eq!((ttl, tos), (Some(expected_ttl), Some(48 << 2)));
        });
    }
}

#[test]
fn what_a_peer_could_have_sent_comes_in_and_nothing_else() {
    let Some(f) = Fixture::new() else { return };
    f.address_a();
    f.address_b();
    f.a.run(|| {
        let mut path = PathSocket::open(A, B, false, PEER).unwrap();
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
            f.send_from_b(B, bytes);
            // Behind each goes a message that comes in, so that it is known when the first has been judged.
            f.send_from_b(B, &message(b"next"));
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
    let Some(f) = Fixture::new() else { return };
    f.address_a();
    f.address_b();
    f.a.run(|| {
        let mut path = PathSocket::open(A, B, false, PEER).unwrap();
        let mut other_cluster = message(b"");
        other_cluster[wire::offset::CLUSTER] ^= 1;
        for round in 1..=64 {
            f.send_from_b(B, &other_cluster);
            f.send_with_a_wrong_checksum(&message(b"corrupt"));
            f.send_from_b(B, &message(b"peer"));
            readable(&path);
            assert_eq!(datagram(&mut path), b"peer", "round {round}");
        }
        assert_eq!(path.filtered(), 2 * 64);
        assert_eq!(path.filtered(), 0);
    });
}

#[test]
fn an_overflow_is_noticed_at_once_and_no_longer_than_it_lasts() {
    let Some(f) = Fixture::new() else { return };
    f.address_a();
    f.address_b();
    f.a.run(|| {
        let mut path = PathSocket::open(A, B, false, PEER).unwrap();
        assert_eq!(path.short_of_room(), None, "root has what it asks for");
        for (length, least) in [(0, 500), (1200, 200)] {
            let message = message(&vec![1; length]);
            f.b.run(|| {
                let sender = bind(B);
                for _ in 0..5000 {
                    sender.send_to(&message, A).unwrap();
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
                f.send_from_b(B, &message);
                readable(&path);
                let Received::Datagram { overflow, .. } = path.receive(&mut [0; 2048]) else { panic!() };
                assert!(!overflow);
            }
        }
    });
}

#[test]
fn a_peer_whose_daemon_is_down_costs_no_heartbeat() {
    let Some(f) = Fixture::new() else { return };
    f.address_a();
    f.address_b();
    f.a.run(|| {
        let mut path = PathSocket::open(A, B, false, PEER).unwrap();
        assert_eq!(path.send(b"1"), Sent::Sent);
        // The answer "port unreachable" is pending now; it must not eat the next heartbeat.
        readable(&path);
        f.b.run(|| {
            let peer = bind(B);
            peer.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
            assert_eq!(path.send(b"2"), Sent::Sent);
            let mut buffer = [0; 8];
            assert_eq!(peer.recv_from(&mut buffer).unwrap(), (1, SocketAddr::V4(A)));
            assert_eq!(&buffer[..1], b"2");
        });
        assert_eq!(path.send(b"3"), Sent::Sent);
        readable(&path);
        assert_eq!(path.receive(&mut [0; 64]), Received::Unreachable);
        assert_eq!(path.receive(&mut [0; 64]), Received::Empty);
    });
}

#[test]
fn paths_to_several_peers_share_one_address() {
    let Some(f) = Fixture::new() else { return };
    f.address_a();
    f.address_b();
    f.a.run(|| {
        let mut strangers = StrangerSocket::open(A).unwrap();
        let mut first = PathSocket::open(A, B, false, PEER).unwrap();
        let mut second = PathSocket::open(A, B_OTHER_ADDRESS, false, PEER).unwrap();
        f.send_from_b(B_OTHER_ADDRESS, &message(b"second"));
        f.send_from_b(B, &message(b"first"));
        readable(&first);
        readable(&second);
        assert_eq!(datagram(&mut first), b"first");
        assert_eq!(datagram(&mut second), b"second");
        f.send_from_b(B_OTHER_PORT, &message(b"stranger"));
        await_count(1, || strangers.dropped());
    });
}

#[test]
fn strangers_are_all_counted() {
    let Some(f) = Fixture::new() else { return };
    f.address_a();
    f.address_b();
    f.a.run(|| {
        let mut strangers = StrangerSocket::open(A).unwrap();
        assert_eq!(strangers.dropped(), 0);
        f.b.run(|| {
            let sender = bind(B);
            for _ in 0..5000 {
                sender.send_to(&message(b"stranger"), A).unwrap();
            }
        });
        await_count(5000, || strangers.dropped());
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
    let content = wire::Content { served: &[Ipv4Addr::LOCALHOST], ..wire::Content::default() };
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
fn bind(address: SocketAddrV4) -> UdpSocket {
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

/// Two namespaces with a link between them; the sockets that are tested are in `a`.
struct Fixture {
    a: Netns,
    b: Netns,
}

impl Fixture {
    fn new() -> Option<Self> {
        available().then(|| {
            let fixture = Self { a: Netns::new().unwrap(), b: Netns::new().unwrap() };
            fixture.link();
            fixture
        })
    }

    fn link(&self) {
        self.a.veth("eth0", &self.b, "eth0").unwrap();
    }

    fn address_a(&self) {
        self.a.ip("addr add 10.77.0.1/24 dev eth0").unwrap();
    }

    fn address_b(&self) {
        self.b.ip("addr add 10.77.0.2/24 dev eth0").unwrap();
        self.b.ip("addr add 10.77.0.3/24 dev eth0").unwrap();
        self.b.ip("route replace 10.77.0.1/32 dev eth0").unwrap();
    }

    fn send_from_b(&self, from: SocketAddrV4, bytes: &[u8]) {
        self.b.run(|| bind(from).send_to(bytes, A).unwrap());
    }

    /// As if from the peer, by a raw socket, for which the kernel makes no checksum of UDP.
    fn send_with_a_wrong_checksum(&self, bytes: &[u8]) {
        let [udp, total] = [8, 28].map(|headers| u16::try_from(headers + bytes.len()).unwrap().to_be_bytes());
        let mut packet = vec![0x45, 0, total[0], total[1], 0, 0, 0, 0, 64, 17, 0, 0];
        packet.extend_from_slice(&B.ip().octets());
        packet.extend_from_slice(&A.ip().octets());
        packet.extend_from_slice(&B.port().to_be_bytes());
        packet.extend_from_slice(&A.port().to_be_bytes());
        packet.extend_from_slice(&udp);
        packet.extend_from_slice(&[0xde, 0xad]);
        packet.extend_from_slice(bytes);
        self.b.run(|| {
            let raw = socket(AddressFamily::Inet, SockType::Raw, SockFlag::SOCK_CLOEXEC, SockProtocol::Raw);
            sendto(raw.unwrap().as_raw_fd(), &packet, &SockaddrIn::from(A), MsgFlags::empty()).unwrap();
        });
    }

    /// The peer's datagram reaches the path and only it, those of others the other socket and only it.
    fn check(&self, path: &mut PathSocket, strangers: &mut StrangerSocket) {
        while !matches!(path.receive(&mut [0; 64]), Received::Empty) {}
        strangers.dropped();
        self.send_from_b(B_OTHER_PORT, &message(b"port"));
        self.send_from_b(B_OTHER_ADDRESS, &message(b"address"));
        self.send_from_b(B, &message(b"peer"));
        readable(path);
        assert_eq!(datagram(path), b"peer");
        assert_eq!(path.receive(&mut [0; 64]), Received::Empty);
        await_count(2, || strangers.dropped());
        self.b.run(|| {
            let peer = bind(B);
            peer.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
            assert_eq!(path.send(b"heartbeat"), Sent::Sent);
            let mut buffer = [0; 64];
            assert_eq!(peer.recv_from(&mut buffer).unwrap(), (9, SocketAddr::V4(A)));
        });
    }
}
