//! Two namespaces with a wire between them, and a data plane in one of them with pins of its own.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use cluster_common::Verdict;
use cluster_proto::{Epoch, GroupId, Mac, NodeId};
use cluster_tests::lab::{await_some, await_true};
use cluster_tests::netns::{Netns, available};
use cluster_userspace::dataplane::{DataPlane, EgressHook, GroupVips, Options, Vip, XdpPreference, cleanup};
use cluster_userspace::network::arp::{self, Arp, FRAME_LEN};
use cluster_userspace::network::packet_socket::PacketSocket;

pub(crate) const VIP: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 100);
pub(crate) const NODE: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 1);
pub(crate) const CLIENT: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 9);
pub(crate) const VIP6: Ipv6Addr = Ipv6Addr::new(0xfd77, 0, 0, 0, 0, 0, 0, 0x100);
pub(crate) const NODE6: Ipv6Addr = Ipv6Addr::new(0xfd77, 0, 0, 0, 0, 0, 0, 1);
pub(crate) const CLIENT6: Ipv6Addr = Ipv6Addr::new(0xfd77, 0, 0, 0, 0, 0, 0, 9);
pub(crate) const NODE_MAC: Mac = Mac([2, 0, 0, 0, 0, 0x0a]);
pub(crate) const CLIENT_MAC: Mac = Mac([2, 0, 0, 0, 0, 0xcc]);
pub(crate) const GROUP: GroupId = GroupId(0xabcd_0123);
pub(crate) const EPOCH: Epoch = Epoch { counter: 5, node: NodeId(9) };
/// Long enough for a machine that stalls.
pub(crate) const PATIENCE: Duration = Duration::from_secs(5);

/// A node and a client, each in a namespace of its own, with a wire between them: `eth0` at both ends.
pub(crate) struct Place {
    pub(crate) node: Netns,
    pub(crate) client: Netns,
    pub(crate) root: PathBuf,
}

impl Place {
    /// `None` where there are no namespaces to be had.
    pub(crate) fn new() -> Option<Self> {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        available().then(|| {
            let number = NEXT.fetch_add(1, Ordering::Relaxed);
            let root = format!("/sys/fs/bpf/cluster-test-{}-{number}", std::process::id());
            let place = Self {
                node: Netns::new().expect("make a namespace"),
                client: Netns::new().expect("make a namespace"),
                root: root.into(),
            };
            place.wire();
            place
        })
    }

    /// Connects the two, anew if need be.
    pub(crate) fn wire(&self) {
        let (node, client) = (format!("eth0 address {NODE_MAC}"), format!("eth0 address {CLIENT_MAC}"));
        self.node.veth(&node, &self.client, &client).expect("make a wire");
        self.node.ip(&format!("addr add {NODE}/24 dev eth0")).expect("give the node its address");
        self.client.ip(&format!("addr add {CLIENT}/24 dev eth0")).expect("give the client its address");
        self.node.ip(&format!("addr add {NODE6}/64 dev eth0 nodad")).expect("give the node its address");
        self.client
            .ip(&format!("addr add {CLIENT6}/64 dev eth0 nodad"))
            .expect("give the client its address");
    }

    pub(crate) fn options(&self) -> Options {
        Options {
            pin_root: self.root.clone(),
            cluster: "test".to_owned(),
            node: "node.example".to_owned(),
            interface: "eth0".to_owned(),
            xdp: XdpPreference::Auto,
            chain: None,
            egress: EgressHook::Auto,
            groups: vec![group(GROUP, &[VIP.into(), VIP6.into()])],
        }
    }

    pub(crate) fn open(&self, options: Options) -> DataPlane {
        self.node.run(|| DataPlane::open(options)).expect("open the data plane")
    }

    /// Removes what a data plane that is no longer open has left.
    pub(crate) fn cleanup(&self) -> bool {
        self.node.run(|| cleanup(&self.root, "test", "node.example")).expect("clean up")
    }

    pub(crate) fn client_socket(&self) -> PacketSocket {
        let ifindex = self.client.ifindex("eth0").expect("the wire is there");
        self.client.run(|| PacketSocket::arp(ifindex)).expect("open a socket")
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        // What a failed test has left; its own failure is the one to show.
        if let Err(error) = self.node.run(|| cleanup(&self.root, "test", "node.example")) {
            eprintln!("{}: {error}", self.root.display());
        }
    }
}

pub(crate) fn group(id: GroupId, vips: &[IpAddr]) -> GroupVips {
    let vip = |&address: &IpAddr| Vip { address, prefix: if address.is_ipv4() { 24 } else { 64 } };
    GroupVips { id, vips: vips.iter().map(vip).collect(), mac: None, vlan: None, keeps_address: false }
}

/// Asks for the VIP and waits for who answers.
pub(crate) fn ask(socket: &PacketSocket) -> Arp {
    while receive(socket).is_some() {}
    socket.send(&arp::request(CLIENT_MAC, CLIENT, VIP)).expect("send a request");
    await_some("an answer", PATIENCE, || Ok(receive(socket))).expect("somebody answers")
}

/// Asks for the VIP, waits until the node has refused, and makes sure that nobody has answered.
pub(crate) fn ask_in_vain(socket: &PacketSocket, plane: &DataPlane, refusal: Verdict) {
    while receive(socket).is_some() {}
    let before = count(plane, refusal);
    socket.send(&arp::request(CLIENT_MAC, CLIENT, VIP)).expect("send a request");
    await_count(plane, refusal, before + 1);
    assert_eq!(receive(socket), None, "nobody answers");
}

pub(crate) fn receive(socket: &PacketSocket) -> Option<Arp> {
    let mut frame = [0; FRAME_LEN];
    let length = socket.receive(&mut frame).expect("receive")?;
    Arp::parse(&frame[..length]).filter(|arp| arp.sender_mac != CLIENT_MAC)
}

pub(crate) fn count(plane: &DataPlane, verdict: Verdict) -> u64 {
    plane.counters().expect("read the counters")[0].verdicts[verdict as usize]
}

pub(crate) fn await_count(plane: &DataPlane, verdict: Verdict, at_least: u64) {
    let what = format!("{at_least} {}", verdict.name());
    await_true(&what, PATIENCE, || count(plane, verdict) >= at_least).expect("it is counted");
}

/// Has the client's kernel ask, as hosts do, who has the VIP: by wanting to send something there. What it knew before is
/// forgotten.
pub(crate) fn have_client_ask_for_vip6(place: &Place) {
    place.client.ip("-6 neigh flush dev eth0").expect("forget");
    let socket = place.client.run(|| UdpSocket::bind((CLIENT6, 0))).expect("open a socket");
    socket.send_to(b"anybody?", SocketAddr::from((VIP6, 4780))).expect("the kernel takes it");
}

/// What the client's kernel knows about the VIP.
pub(crate) fn client_knows_of_vip6(place: &Place) -> String {
    place.client.ip(&format!("-6 neigh show {VIP6} dev eth0")).expect("ask the client")
}

/// All names below a directory; empty if there is no such directory.
pub(crate) fn names_below(path: &Path) -> Vec<String> {
    let Ok(entries) = std::fs::read_dir(path) else { return Vec::new() };
    let mut names: Vec<_> = entries
        .map(|entry| entry.expect("list the directory").path())
        .flat_map(|path| {
            let name = path.display().to_string();
            std::iter::once(name).chain(names_below(&path))
        })
        .collect();
    names.sort();
    names
}
