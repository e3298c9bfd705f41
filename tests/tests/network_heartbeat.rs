//! The sockets of the heartbeat paths against a real kernel: which socket gets what, and what they outlast.

#![expect(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4, UdpSocket};
use std::os::fd::{AsFd, AsRawFd};
use std::time::Duration;

use cluster_tests::netns::{Netns, available};
use cluster_userspace::network::heartbeat_socket::{PathSocket, Received, Sent, StrangerSocket};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{ControlMessageOwned, MsgFlags, SockaddrIn, recvmsg, setsockopt, sockopt};

const A: SocketAddrV4 = SocketAddrV4::new(Ipv4Addr::new(10, 77, 0, 1), 4780);
const B: SocketAddrV4 = SocketAddrV4::new(Ipv4Addr::new(10, 77, 0, 2), 4780);
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
                    "path" => path = Some(PathSocket::open(A, B, false).unwrap()),
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
                    "path" => path = Some(PathSocket::open(A, B, true).unwrap()),
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
fn what_came_before_the_connection_is_told_apart() {
    let Some(f) = Fixture::new() else { return };
    f.address_b();
    f.a.run(|| {
        let mut path = PathSocket::open(A, B, false).unwrap();
        // The address is there, but no route to the peer, so that the socket takes what anybody sends.
        f.a.ip("addr add 10.77.0.1/32 dev eth0").unwrap();
        assert!(!path.try_connect());
        f.send_from_b(B_OTHER_PORT, b"stranger");
        f.send_from_b(B, b"peer");
        readable(&path);
        assert_eq!(path.receive(&mut [0; 64]), Received::Stranger);
        readable(&path);
        assert_eq!(datagram(&mut path), b"peer");
        assert_eq!(path.receive(&mut [0; 64]), Received::Empty);
    });
}

#[test]
fn a_path_outlasts_its_interface() {
    let Some(f) = Fixture::new() else { return };
    f.address_a();
    f.address_b();
    f.a.run(|| {
        let mut path = PathSocket::open(A, B, true).unwrap();
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
        let mut path = PathSocket::open(A, B, true).unwrap();
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
        assert_eq!(PathSocket::open(A, far, true).unwrap().send(b"x"), Sent::NotConnected);
        assert_eq!(PathSocket::open(A, far, false).unwrap().send(b"x"), Sent::Sent);
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
            f.a.run(|| assert_eq!(PathSocket::open(A, B, on_link).unwrap().send(b"x"), Sent::Sent));
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
fn a_datagram_longer_than_the_buffer_is_noticed() {
    let Some(f) = Fixture::new() else { return };
    f.address_a();
    f.address_b();
    f.a.run(|| {
        let mut path = PathSocket::open(A, B, false).unwrap();
        for (sent, truncated) in [(64, false), (65, true), (0, false), (1400, true)] {
            f.send_from_b(B, &vec![7; sent]);
            readable(&path);
            let expected = Received::Datagram { len: sent.min(64), truncated, overflow: false };
            assert_eq!(path.receive(&mut [0; 64]), expected);
        }
    });
}

#[test]
fn dropped_datagrams_are_noticed_once() {
    let Some(f) = Fixture::new() else { return };
    f.address_a();
    f.address_b();
    f.a.run(|| {
        let mut path = PathSocket::open(A, B, false).unwrap();
        f.b.run(|| {
            let sender = bind(B);
            for _ in 0..5000 {
                sender.send_to(&[1; 200], A).unwrap();
            }
        });
        // What was dropped is told with the first datagram that is queued after it.
        let mut kept = 0;
        readable(&path);
        while let Received::Datagram { overflow, .. } = path.receive(&mut [0; 512]) {
            assert!(!overflow);
            kept += 1;
        }
        assert!((50..2000).contains(&kept), "{kept} of 5000 datagrams were kept");
        for overflow in [true, false] {
            f.send_from_b(B, b"after");
            readable(&path);
            assert_eq!(
                path.receive(&mut [0; 512]),
                Received::Datagram { len: 5, truncated: false, overflow }
            );
        }
    });
}

#[test]
fn a_peer_whose_daemon_is_down_costs_no_heartbeat() {
    let Some(f) = Fixture::new() else { return };
    f.address_a();
    f.address_b();
    f.a.run(|| {
        let mut path = PathSocket::open(A, B, false).unwrap();
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
        let mut first = PathSocket::open(A, B, false).unwrap();
        let mut second = PathSocket::open(A, B_OTHER_ADDRESS, false).unwrap();
        f.send_from_b(B_OTHER_ADDRESS, b"second");
        f.send_from_b(B, b"first");
        readable(&first);
        readable(&second);
        assert_eq!(datagram(&mut first), b"first");
        assert_eq!(datagram(&mut second), b"second");
        f.send_from_b(B_OTHER_PORT, b"stranger");
        readable(&strangers);
        assert_eq!(strangers.drain(10), 1);
    });
}

#[test]
fn draining_strangers_is_bounded() {
    let Some(f) = Fixture::new() else { return };
    f.address_a();
    f.address_b();
    f.a.run(|| {
        let mut strangers = StrangerSocket::open(A).unwrap();
        for _ in 0..5 {
            f.send_from_b(B, &[0; 1000]);
        }
        readable(&strangers);
        assert_eq!(strangers.drain(3), 3);
        assert_eq!(strangers.drain(3), 2);
        assert_eq!(strangers.drain(3), 0);
    });
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
        Received::Datagram { len, truncated: false, overflow: false } => buffer[..len].to_vec(),
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

    /// The peer's datagram reaches the path and only it, those of others the other socket and only it.
    fn check(&self, path: &mut PathSocket, strangers: &mut StrangerSocket) {
        while !matches!(path.receive(&mut [0; 64]), Received::Empty) {}
        strangers.drain(usize::MAX);
        self.send_from_b(B_OTHER_PORT, b"port");
        self.send_from_b(B_OTHER_ADDRESS, b"address");
        self.send_from_b(B, b"peer");
        readable(path);
        assert_eq!(datagram(path), b"peer");
        assert_eq!(path.receive(&mut [0; 64]), Received::Empty);
        readable(strangers);
        assert_eq!(strangers.drain(10), 2);
        self.b.run(|| {
            let peer = bind(B);
            peer.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
            assert_eq!(path.send(b"heartbeat"), Sent::Sent);
            let mut buffer = [0; 64];
            assert_eq!(peer.recv_from(&mut buffer).unwrap(), (9, SocketAddr::V4(A)));
        });
    }
}
