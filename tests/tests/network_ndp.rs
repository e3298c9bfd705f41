//! Raw neighbour discovery against a real kernel: it answers our questions, believes our announcements, and hears what
//! is sent to the groups that we join.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::io;
use std::net::Ipv6Addr;
use std::os::fd::AsFd;

use cluster_proto::Mac;
use cluster_tests::netns::{Netns, available};
use cluster_userspace::network::ndp::{self, Advertisement, READ_LEN};
use cluster_userspace::network::packet_socket::PacketSocket;
use cluster_userspace::network::solicited_nodes::SolicitedNodes;
use cluster_userspace::network::{arp, ipv6_settings};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

const VIP: Ipv6Addr = Ipv6Addr::new(0xfd77, 0, 0, 0, 0, 0, 0, 0x100);
const OTHER: Ipv6Addr = Ipv6Addr::new(0xfd77, 0, 0, 0, 0, 0, 0, 0x101);
const OWN: Ipv6Addr = Ipv6Addr::new(0xfd77, 0, 0, 0, 0, 0, 0, 1);
const MAC_A: Mac = Mac([2, 0, 0, 0, 0, 0x0a]);
const MAC_B: Mac = Mac([2, 0, 0, 0, 0, 0x0b]);
const MAC_STALE: &str = "02:00:00:00:00:ee";

#[test]
fn a_kernel_answers_probe_and_solicitation() {
    let Some(f) = Fixture::new() else { return };
    f.b.ip("addr add fd77::100/64 dev eth0 nodad").unwrap();
    f.a.run(|| {
        let socket = PacketSocket::ndp(f.ifindex).unwrap();
        socket.send(&ndp::probe(MAC_A, VIP)).unwrap();
        assert_eq!(answer(&socket, VIP), MAC_B);
        socket.send(&ndp::solicitation(MAC_A, OWN, VIP)).unwrap();
        assert_eq!(answer(&socket, VIP), MAC_B);
    });
    assert!(!f.b.ip("-6 neigh show dev eth0").unwrap().contains("::100"), "nobody learns of the VIP");
}

#[test]
fn an_announcement_overrides_an_entry_and_says_whether_this_is_a_router() {
    let Some(f) = Fixture::new() else { return };
    f.b.ip(&format!("neigh add fd77::100 lladdr {MAC_STALE} nud reachable dev eth0")).unwrap();
    let announce = |is_router| {
        f.a.run(|| {
            let socket = PacketSocket::ndp(f.ifindex).unwrap();
            socket.send(&ndp::announcement(MAC_A, VIP, is_router)).unwrap();
        });
    };
    let await_entry = |router: bool| {
        let deadline = Deadline::new();
        loop {
            let neighbours = f.b.ip("-6 neigh show dev eth0").unwrap();
            let entry = neighbours.lines().find(|line| line.starts_with("fd77::100 ")).unwrap_or_default();
            if entry.contains(&MAC_A.to_string()) && entry.contains("router") == router {
                break;
            }
            deadline.check(&neighbours);
        }
    };
    announce(false);
    await_entry(false);
    announce(true);
    await_entry(true);
    announce(false);
    await_entry(false);
}

#[test]
fn the_kernels_setting_says_whether_this_is_a_router() {
    let Some(f) = Fixture::new() else { return };
    f.a.run(|| {
        assert!(!ipv6_settings::forwards("eth0"));
        std::fs::write("/proc/sys/net/ipv6/conf/eth0/forwarding", "1").unwrap();
        assert!(ipv6_settings::forwards("eth0"));
        assert!(!ipv6_settings::forwards("absent"));
    });
}

#[test]
fn only_what_tells_who_has_an_address_wakes_the_thread() {
    let Some(f) = Fixture::new() else { return };
    f.a.run(|| {
        let receiver = PacketSocket::ndp(f.ifindex).unwrap();
        f.b.run(|| {
            let sender = PacketSocket::ndp(nix::net::if_::if_nametoindex("eth0").unwrap()).unwrap();
            let announcement = ndp::announcement(MAC_B, VIP, false);
            let changed = |at: usize, value: u8| {
                let mut frame = announcement;
                frame[at] = value;
                frame
            };
            let mut to_another = announcement;
            to_another[..6].copy_from_slice(&[2, 0, 0, 0, 0, 0x0f]);
            let mut tagged = announcement.to_vec();
            tagged.splice(12..12, [0x81, 0, 0, 100]);
            // None of these is to arrive: not for us, of another network, passed on by a router, another protocol, other
            // messages, another code, cut off.
            sender.send(&ndp::probe(MAC_B, VIP)).unwrap();
            sender.send(&ndp::solicitation(MAC_B, OWN, VIP)).unwrap();
            sender.send(&to_another).unwrap();
            sender.send(&tagged).unwrap();
            sender.send(&changed(21, 254)).unwrap();
            sender.send(&changed(20, 17)).unwrap();
            sender.send(&changed(54, 128)).unwrap();
            sender.send(&changed(54, 134)).unwrap();
            sender.send(&changed(55, 1)).unwrap();
            sender.send(&announcement[..77]).unwrap();
            sender.send(&arp::probe(MAC_B, std::net::Ipv4Addr::new(10, 77, 0, 100))).unwrap();
            // These are: an announcement, and the same told to this host alone.
            sender.send(&announcement).unwrap();
            let mut to_us = ndp::announcement(MAC_B, OTHER, false);
            to_us[..6].copy_from_slice(&MAC_A.0);
            sender.send(&to_us).unwrap();
        });
        assert_eq!(next(&receiver), Advertisement { target: VIP, mac: MAC_B });
        assert_eq!(next(&receiver), Advertisement { target: OTHER, mac: MAC_B });
        assert!(receiver.receive(&mut [0; READ_LEN]).unwrap().is_none());
    });
}

#[test]
fn the_groups_of_all_vips_are_joined_while_it_lasts() {
    let Some(f) = Fixture::new() else { return };
    let groups = || f.a.ip("maddr show dev eth0").unwrap();
    let vips = || (1..2000_u16).map(|last| Ipv6Addr::new(0xfd77, 0, 0, 0, 0, 0, 1, last));
    f.a.run(|| {
        let (joined, refused) = SolicitedNodes::join([(f.ifindex, VIP)].into_iter());
        assert!(refused.is_none(), "{refused:?}");
        assert!(groups().contains("ff02::1:ff00:100"), "{}", groups());
        // Others take their place without a moment in which none is a member, however many there are.
        // What cannot be had on one interface takes nothing from another.
        let nowhere = (f.ifindex + 1000, VIP);
        let (more, refused) =
            SolicitedNodes::join(vips().chain([VIP]).map(|vip| (f.ifindex, vip)).chain([nowhere]));
        assert_eq!(refused.and_then(|error| error.raw_os_error()), Some(libc::ENODEV));
        drop(joined);
        let now = groups();
        assert!(now.contains("ff02::1:ff00:100") && now.contains("ff02::1:ff01:7cf"), "{now}");
        f.a.ip("link set eth0 down").unwrap();
        f.a.ip("link set eth0 up").unwrap();
        assert!(groups().contains("ff02::1:ff00:100"), "an interface that goes down keeps them");
        drop(more);
        assert!(!groups().contains("ff02::1:ff00:100"));
        f.a.ip("link delete eth0").unwrap();
        let (_none, refused) = SolicitedNodes::join([(f.ifindex, VIP)].into_iter());
        assert_eq!(refused.and_then(|error| error.raw_os_error()), Some(libc::ENODEV));
    });
}

/// Who has the address, by the next advertisement of it; those of other addresses are the kernel's own.
fn answer(socket: &PacketSocket, address: Ipv6Addr) -> Mac {
    loop {
        let Advertisement { target, mac } = next(socket);
        if target == address {
            return mac;
        }
    }
}

/// The next frame, which must come within some seconds.
fn next(socket: &PacketSocket) -> Advertisement {
    let mut frame = [0; READ_LEN];
    let mut ready = [PollFd::new(socket.as_fd(), PollFlags::POLLIN)];
    assert_eq!(poll(&mut ready, PollTimeout::from(5000_u16)).unwrap(), 1, "no frame came");
    let length =
        socket.receive(&mut frame).and_then(|length| length.ok_or(io::ErrorKind::WouldBlock.into())).unwrap();
    Advertisement::parse(&frame[..length]).unwrap()
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
            let (a, b) = (Netns::new().unwrap(), Netns::new().unwrap());
            a.veth(&format!("eth0 address {MAC_A}"), &b, &format!("eth0 address {MAC_B}")).unwrap();
            let ifindex = a.ifindex("eth0").unwrap();
            a.ip("addr add fd77::1/64 dev eth0 nodad").unwrap();
            b.ip("addr add fd77::2/64 dev eth0 nodad").unwrap();
            Self { a, b, ifindex }
        })
    }
}
