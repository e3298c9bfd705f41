//! Raw ARP against a real kernel: it answers our probes, and believes our announcements at once.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::io;
use std::net::Ipv4Addr;
use std::os::fd::AsFd;
use std::process::Command;

use cluster_proto::Mac;
use cluster_tests::netns::{Netns, available};
use cluster_userspace::network::arp::{self, Arp, FRAME_LEN, Operation};
use cluster_userspace::network::packet_socket::PacketSocket;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

const OTHER: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 101);
const VIP: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 100);
const MAC_A: Mac = Mac([2, 0, 0, 0, 0, 0x0a]);
const MAC_B: Mac = Mac([2, 0, 0, 0, 0, 0x0b]);
const MAC_STALE: &str = "02:00:00:00:00:ee";

#[test]
fn a_kernel_answers_probe_and_request() {
    let Some(f) = Fixture::new() else { return };
    f.b.ip("addr add 10.77.0.100/24 dev eth0").unwrap();
    f.a.run(|| {
        let socket = PacketSocket::arp(f.ifindex).unwrap();
        assert!(socket.receive(&mut [0; FRAME_LEN]).unwrap().is_none());
        socket.send(&arp::probe(MAC_A, VIP)).unwrap();
        let answer = Arp {
            operation: Operation::Reply,
            sender_mac: MAC_B,
            sender_ip: VIP,
            target_mac: MAC_A,
            target_ip: Ipv4Addr::UNSPECIFIED,
        };
        assert_eq!(next(&socket), answer);
        let own = Ipv4Addr::new(10, 77, 0, 1);
        socket.send(&arp::request(MAC_A, own, VIP)).unwrap();
        assert_eq!(next(&socket), Arp { target_ip: own, ..answer });
        assert!(socket.receive(&mut [0; FRAME_LEN]).unwrap().is_none(), "our own frames do not come back");
    });
}

#[test]
fn an_announcement_overrides_a_fresh_neighbour_entry() {
    let Some(f) = Fixture::new() else { return };
    f.b.ip("addr add 10.77.0.2/24 dev eth0").unwrap();
    // Confirmed this very moment: within the lock time an ordinary reply would not override it.
    f.b.ip(&format!("neigh add 10.77.0.100 lladdr {MAC_STALE} nud reachable dev eth0")).unwrap();
    f.a.run(|| PacketSocket::arp(f.ifindex).unwrap().send(&arp::announcement(MAC_A, VIP)).unwrap());
    // On a veth pair the peer has handled the frame by the time the next request reaches its kernel, or soon after.
    let deadline = Deadline::new();
    loop {
        let neighbours = f.b.ip("neigh show dev eth0").unwrap();
        if neighbours.contains(&format!("10.77.0.100 lladdr {MAC_A}")) {
            break;
        }
        deadline.check(&neighbours);
    }
}

#[test]
fn a_probe_leaves_no_trace_in_the_peer() {
    let Some(f) = Fixture::new() else { return };
    f.b.ip("addr add 10.77.0.100/24 dev eth0").unwrap();
    f.a.run(|| {
        let socket = PacketSocket::arp(f.ifindex).unwrap();
        socket.send(&arp::probe(MAC_A, VIP)).unwrap();
        next(&socket);
    });
    assert_eq!(f.b.ip("neigh show dev eth0").unwrap(), "");
}

#[test]
fn only_what_tells_who_has_an_address_wakes_the_thread() {
    let Some(f) = Fixture::new() else { return };
    f.a.run(|| {
        let receiver = PacketSocket::arp(f.ifindex).unwrap();
        f.b.run(|| {
            let sender = PacketSocket::arp(nix::net::if_::if_nametoindex("eth0").unwrap()).unwrap();
            let reply = |target_mac, to| {
                Arp {
                    operation: Operation::Reply,
                    sender_mac: MAC_B,
                    sender_ip: VIP,
                    target_mac,
                    target_ip: Ipv4Addr::new(10, 77, 0, 1),
                }
                .emit(MAC_B, to)
            };
            let tagged = |frame: [u8; FRAME_LEN]| {
                let mut tagged = frame.to_vec();
                tagged.splice(12..12, [0x81, 0, 0, 100]);
                tagged
            };
            let other = Mac([2, 0, 0, 0, 0, 0x0f]);
            let mut wrong_length = reply(MAC_A, MAC_A);
            wrong_length[18] = 8;
            // None of these is to arrive.
            sender.send(&arp::request(MAC_B, Ipv4Addr::new(10, 77, 0, 2), VIP)).unwrap();
            sender.send(&arp::probe(MAC_B, VIP)).unwrap();
            sender.send(&reply(other, other)).unwrap();
            sender.send(&tagged(reply(MAC_A, MAC_A))).unwrap();
            sender.send(&tagged(arp::announcement(MAC_B, VIP))).unwrap();
            sender.send(&wrong_length).unwrap();
            sender.send(&reply(MAC_A, MAC_A)[..40]).unwrap();
            // These are.
            sender.send(&arp::announcement(MAC_B, VIP)).unwrap();
            sender.send(&reply(MAC_A, MAC_A)).unwrap();
            sender.send(&reply(other, Mac([0xff; 6]))).unwrap();
        });
        assert!(next(&receiver).is_announcement());
        assert_eq!(next(&receiver).target_mac, MAC_A);
        assert_eq!(next(&receiver).target_mac, Mac([2, 0, 0, 0, 0, 0x0f]));
        assert!(receiver.receive(&mut [0; FRAME_LEN]).unwrap().is_none());
    });
}

#[test]
fn announcements_go_through_the_egress_hooks_and_do_not_come_back() {
    let Some(f) = Fixture::new() else { return };
    let tc = |arguments: &str| {
        let output = Command::new("tc").args(["-n", f.a.name()]).args(arguments.split(' ')).output();
        assert!(output.unwrap().status.success(), "tc {arguments}");
    };
    tc("qdisc add dev eth0 clsact");
    f.b.run(|| {
        let receiver = PacketSocket::arp(nix::net::if_::if_nametoindex("eth0").unwrap()).unwrap();
        f.a.run(|| {
            let sender = PacketSocket::arp(f.ifindex).unwrap();
            // A filter at the hook, as the fence is, decides about an announcement too: one instruction of classic
            // BPF that returns 2, the verdict *drop*.
            let add = "filter add dev eth0 egress protocol all prio 1 handle 1 bpf direct-action bytecode";
            let added =
                Command::new("tc").args(["-n", f.a.name()]).args(add.split(' ')).arg("1,6 0 0 2").status();
            assert!(added.unwrap().success(), "a filter that drops everything");
            // Dropped at the hook, the send itself may say so.
            let _ = sender.send(&arp::announcement(MAC_A, VIP));
            tc("filter del dev eth0 egress");
            sender.send(&arp::announcement(MAC_A, OTHER)).unwrap();
            assert!(sender.receive(&mut [0; FRAME_LEN]).unwrap().is_none(), "our own announcement came back");
        });
        assert_eq!(next(&receiver).sender_ip, OTHER, "the first one was stopped at the hook");
    });
}

#[test]
fn a_socket_outlasts_its_interface_going_down_but_not_its_deletion() {
    let Some(f) = Fixture::new() else { return };
    f.b.ip("addr add 10.77.0.100/24 dev eth0").unwrap();
    f.a.run(|| {
        let socket = PacketSocket::arp(f.ifindex).unwrap();
        f.a.ip("link set eth0 down").unwrap();
        assert_eq!(socket.receive(&mut [0; FRAME_LEN]).unwrap_err().raw_os_error(), Some(libc::ENETDOWN));
        assert_eq!(socket.send(&arp::probe(MAC_A, VIP)).unwrap_err().raw_os_error(), Some(libc::ENETDOWN));
        assert!(socket.receive(&mut [0; FRAME_LEN]).unwrap().is_none(), "the error is told once");
        f.a.ip("link set eth0 up").unwrap();
        socket.send(&arp::probe(MAC_A, VIP)).unwrap();
        assert_eq!(next(&socket).sender_mac, MAC_B);

        f.a.ip("link delete eth0").unwrap();
        assert_eq!(socket.receive(&mut [0; FRAME_LEN]).unwrap_err().raw_os_error(), Some(libc::ENETDOWN));
        assert_eq!(socket.send(&arp::probe(MAC_A, VIP)).unwrap_err().raw_os_error(), Some(libc::ENXIO));
        assert_eq!(PacketSocket::arp(f.ifindex).unwrap_err().raw_os_error(), Some(libc::ENODEV));
        f.link();
        let socket = PacketSocket::arp(f.a.ifindex("eth0").unwrap()).unwrap();
        f.b.ip("addr add 10.77.0.100/24 dev eth0").unwrap();
        socket.send(&arp::probe(MAC_A, VIP)).unwrap();
        assert_eq!(next(&socket).sender_mac, MAC_B);
    });
}

#[test]
fn the_queue_of_frames_is_bounded() {
    let Some(f) = Fixture::new() else { return };
    f.a.run(|| {
        let receiver = PacketSocket::arp(f.ifindex).unwrap();
        f.b.run(|| {
            let sender = PacketSocket::arp(nix::net::if_::if_nametoindex("eth0").unwrap()).unwrap();
            for _ in 0..10_000 {
                if let Err(error) = sender.send(&arp::announcement(MAC_B, VIP)) {
                    assert_eq!(error.raw_os_error(), Some(libc::ENOBUFS));
                }
            }
        });
        next(&receiver);
        let mut kept = 1;
        while receiver.receive(&mut [0; FRAME_LEN]).unwrap().is_some() {
            kept += 1;
        }
        assert!((10..1000).contains(&kept), "{kept} of 10000 frames were kept");
    });
}

/// The next frame, which must come within some seconds.
fn next(socket: &PacketSocket) -> Arp {
    let mut frame = [0; 64];
    let mut ready = [PollFd::new(socket.as_fd(), PollFlags::POLLIN)];
    assert_eq!(poll(&mut ready, PollTimeout::from(5000_u16)).unwrap(), 1, "no frame came");
    let length =
        socket.receive(&mut frame).and_then(|length| length.ok_or(io::ErrorKind::WouldBlock.into())).unwrap();
    Arp::parse(&frame[..length]).unwrap()
}

struct Deadline(std::time::Instant);

impl Deadline {
    #[expect(clippy::disallowed_methods, reason = "a test's deadline")]
    fn new() -> Self {
        Self(std::time::Instant::now() + std::time::Duration::from_secs(5))
    }

    #[expect(clippy::disallowed_methods, reason = "a test's deadline")]
    fn check(&self, seen: &str) {
        assert!(std::time::Instant::now() < self.0, "the condition did not come about; last seen: {seen}");
    }
}

/// Two namespaces with a link between them and known hardware addresses.
struct Fixture {
    a: Netns,
    b: Netns,
    ifindex: u32,
}

impl Fixture {
    fn new() -> Option<Self> {
        available().then(|| {
            let mut fixture = Self { a: Netns::new().unwrap(), b: Netns::new().unwrap(), ifindex: 0 };
            fixture.link();
            fixture.ifindex = fixture.a.ifindex("eth0").unwrap();
            fixture
        })
    }

    fn link(&self) {
        self.a.veth(&format!("eth0 address {MAC_A}"), &self.b, &format!("eth0 address {MAC_B}")).unwrap();
    }
}
