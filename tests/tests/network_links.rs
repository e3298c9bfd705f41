//! The watch over interfaces and addresses, against a real kernel.

#![expect(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

use std::io::Write;
use std::net::{IpAddr, Ipv4Addr};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use cluster_tests::netns::{Netns, available};
use cluster_userspace::network::addresses::Addresses;
use cluster_userspace::network::gateways::default_gateways;
use cluster_userspace::network::links::{Interface, InterfaceAddress, LinkEvent, LinkMonitor};

const VIP: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 77, 0, 100));

#[test]
fn everything_there_is_told_first() {
    Fixture::run(async |f| {
        f.ns.ip("addr add 10.77.0.1/24 dev eth0").unwrap();
        let mut watch = Watch::new();
        let start = watch.until(|event| *event == LinkEvent::Settled).await;
        let eth0 = start.iter().find_map(|event| match event {
            LinkEvent::Interface(interface) if interface.name == "eth0" => Some(interface),
            _ => None,
        });
        let eth0 = eth0.unwrap();
        assert!(eth0.is_ethernet && eth0.is_up && eth0.has_carrier, "{eth0:?}");
        assert_eq!(eth0.mac.to_string(), "02:00:00:00:00:0a");
        assert!(
            start
                .iter()
                .any(|event| matches!(event, LinkEvent::Interface(lo) if lo.name == "lo" && !lo.is_ethernet))
        );
        let own = InterfaceAddress { ip: Ipv4Addr::new(10, 77, 0, 1).into(), ours: false, ..f.vip() };
        assert!(start.contains(&LinkEvent::Address(own)));
    });
}

#[test]
fn carrier_and_administrative_state_are_followed() {
    Fixture::run(async |f| {
        let mut watch = Watch::settled().await;
        f.peer.ip("link set eth0 down").unwrap();
        watch.until(|event| is_eth0(event, |eth0| eth0.is_up && !eth0.has_carrier)).await;
        f.peer.ip("link set eth0 up").unwrap();
        watch.until(|event| is_eth0(event, |eth0| eth0.is_up && eth0.has_carrier)).await;
        f.ns.ip("link set eth0 down").unwrap();
        watch.until(|event| is_eth0(event, |eth0| !eth0.is_up && !eth0.has_carrier)).await;
        f.ns.ip("link set eth0 address 02:00:00:00:00:0c").unwrap();
        watch.until(|event| is_eth0(event, |eth0| eth0.mac.to_string() == "02:00:00:00:00:0c")).await;
    });
}

#[test]
fn a_re_created_interface_is_gone_and_new() {
    Fixture::run(async |f| {
        let addresses = Addresses::new(Path::new("/nonexistent")).unwrap();
        addresses.add(f.ifindex, VIP, 24).await.unwrap();
        let mut watch = Watch::settled().await;
        f.ns.ip("link delete eth0").unwrap();
        let gone = LinkEvent::InterfaceGone { ifindex: f.ifindex, name: "eth0".into() };
        let events = watch.until(|event| *event == gone).await;
        let vip = f.vip();
        assert!(events.contains(&LinkEvent::AddressGone(vip)), "{events:?}");
        f.ns.veth("eth0", &f.peer, "eth0").unwrap();
        watch.until(|event| is_eth0(event, |eth0| eth0.ifindex != f.ifindex && eth0.has_carrier)).await;
        // The same number again, as a tool may ask for it.
        f.ns.ip("link delete eth0").unwrap();
        f.ns.veth(&format!("eth0 index {}", f.ifindex), &f.peer, "eth0").unwrap();
        watch.until(|event| is_eth0(event, |eth0| eth0.ifindex == f.ifindex && eth0.has_carrier)).await;
    });
}

#[test]
fn an_interface_that_moves_to_another_namespace_is_gone() {
    Fixture::run(async |f| {
        let mut watch = Watch::settled().await;
        f.ns.ip(&format!("link set eth0 netns {}", f.peer.name())).unwrap_err();
        f.ns.ip(&format!("link set eth0 name moved netns {}", f.peer.name())).unwrap();
        watch
            .until(|event| matches!(event, LinkEvent::InterfaceGone { ifindex, .. } if *ifindex == f.ifindex))
            .await;
    });
}

#[test]
fn a_renamed_interface_keeps_its_number() {
    Fixture::run(async |f| {
        let mut watch = Watch::settled().await;
        f.ns.ip("link set eth0 down").unwrap();
        f.ns.ip("link set eth0 name lan0").unwrap();
        let renamed = |event: &LinkEvent| matches!(event, LinkEvent::Interface(i) if i.name == "lan0" && i.ifindex == f.ifindex);
        let events = watch.until(renamed).await;
        assert!(!events.iter().any(|event| matches!(event, LinkEvent::InterfaceGone { .. })));
    });
}

#[test]
fn our_vip_removed_by_somebody_else_is_noticed() {
    Fixture::run(async |f| {
        let addresses = Addresses::new(Path::new("/nonexistent")).unwrap();
        let mut watch = Watch::settled().await;
        addresses.add(f.ifindex, VIP, 24).await.unwrap();
        let vip = f.vip();
        watch.until(|event| *event == LinkEvent::Address(vip)).await;
        f.ns.ip("addr delete 10.77.0.100/24 dev eth0").unwrap();
        watch.until(|event| *event == LinkEvent::AddressGone(vip)).await;
        f.ns.ip("addr add 10.77.0.100/24 dev eth0").unwrap();
        watch.until(|event| *event == LinkEvent::Address(InterfaceAddress { ours: false, ..vip })).await;
    });
}

#[test]
fn an_interface_that_leaves_a_bridge_is_not_gone() {
    Fixture::run(async |f| {
        f.ns.ip("link add br0 type bridge").unwrap();
        let mut watch = Watch::settled().await;
        f.ns.ip("link set eth0 master br0").unwrap();
        f.ns.ip("link set eth0 nomaster").unwrap();
        f.ns.ip("link delete br0").unwrap();
        let events = watch.until(|event| matches!(event, LinkEvent::InterfaceGone { .. })).await;
        assert!(
            matches!(events.last(), Some(LinkEvent::InterfaceGone { name, .. }) if name == "br0"),
            "{events:?}"
        );
    });
}

#[test]
fn after_an_overrun_everything_is_looked_at_again() {
    Fixture::run(async |f| {
        let mut watch = Watch::settled().await;
        // While nobody reads, more changes than the queue holds, the last of them lost for certain.
        let mut batch = String::new();
        for _ in 0..20 {
            for last in 1..=250 {
                batch.push_str(&format!("addr add 10.9.0.{last}/32 dev eth0\n"));
            }
            batch.push_str("addr flush dev eth0\n");
        }
        batch.push_str("addr add 10.77.0.1/24 dev eth0\nlink set eth0 down\n");
        f.batch(&batch);
        let events = watch.until(|event| *event == LinkEvent::Settled).await;
        assert!(events.contains(&LinkEvent::Overrun), "5000 changes did not overrun the queue");
        assert!(
            events.iter().any(|event| is_eth0(event, |eth0| !eth0.is_up)),
            "the state after the loss is told"
        );
        let own = InterfaceAddress { ip: Ipv4Addr::new(10, 77, 0, 1).into(), ours: false, ..f.vip() };
        assert!(events.contains(&LinkEvent::Address(own)));
        let mut there = std::collections::BTreeSet::new();
        for event in &events {
            match event {
                LinkEvent::Address(address) => drop(there.insert((address.ip, address.prefix))),
                LinkEvent::AddressGone(address) => drop(there.remove(&(address.ip, address.prefix))),
                _ => {}
            }
        }
        assert_eq!(there, [(own.ip, own.prefix)].into(), "what was told adds up to what is there");
        f.ns.ip("link set eth0 up").unwrap();
        watch.until(|event| is_eth0(event, |eth0| eth0.has_carrier)).await;
    });
}

#[test]
fn what_is_told_adds_up_while_everything_changes() {
    Fixture::run(async |f| {
        let mut batch = String::new();
        for round in 0..40 {
            batch.push_str(&format!(
                "link add d{round} type bridge\naddr add 10.9.{round}.1/24 dev d{round}\n"
            ));
            if round % 2 == 0 {
                batch.push_str(&format!("link delete d{round}\n"));
            }
        }
        let churn = std::thread::scope(|scope| {
            let churn = scope.spawn(|| f.batch(&batch));
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            let names = scope
                .spawn(move || {
                    f.ns.run(|| {
                        runtime.block_on(async {
                            let mut watch = Watch::new();
                            watch
                                .until(|event| matches!(event, LinkEvent::Interface(i) if i.name == "d39"))
                                .await;
                            watch.until_quiet().await
                        })
                    })
                })
                .join()
                .unwrap();
            churn.join().unwrap();
            names
        });
        let mut expected: Vec<String> =
            (0..40).filter(|round| round % 2 == 1).map(|round| format!("d{round}")).collect();
        expected.extend(["eth0".to_owned(), "lo".to_owned()]);
        expected.sort();
        assert_eq!(churn, expected);
    });
}

#[test]
fn the_gateways_of_an_interface_are_those_of_its_default_routes() {
    Fixture::run(async |f| {
        assert_eq!(default_gateways(f.ifindex).await.unwrap(), [] as [IpAddr; 0]);
        f.ns.veth("eth1", &f.peer, "eth1").unwrap();
        f.ns.ip("addr add 10.77.0.1/24 dev eth0").unwrap();
        f.ns.ip("addr add 10.78.0.1/24 dev eth1").unwrap();
        f.ns.ip("route add default via 10.77.0.254 metric 10").unwrap();
        f.ns.ip("route add default via 10.77.0.253 metric 5 proto dhcp").unwrap();
        f.ns.ip("route add default via 10.78.0.254 metric 20").unwrap();
        f.ns.ip("route add 192.0.2.0/24 via 10.77.0.9").unwrap();
        f.ns.ip("route add default via 10.77.0.9 table 100").unwrap();
        let gateway = |last| IpAddr::from(Ipv4Addr::new(10, 77, 0, last));
        assert_eq!(default_gateways(f.ifindex).await.unwrap(), [gateway(253), gateway(254)]);
        f.ns.ip("route flush root 0/0 exact 0/0").ok();
        f.ns.ip("route add default metric 1 nexthop via 10.77.0.252 nexthop via 10.78.0.252").unwrap();
        assert_eq!(default_gateways(f.ifindex).await.unwrap()[0], gateway(252));
        let eth1 = f.ns.ifindex("eth1").unwrap();
        assert_eq!(default_gateways(eth1).await.unwrap()[0], Ipv4Addr::new(10, 78, 0, 252));
        f.ns.ip("addr add fd77::1/64 dev eth0 nodad").unwrap();
        f.ns.ip("route add default via fe80::fe dev eth0 metric 5").unwrap();
        f.ns.ip("route add default via fd77::fd metric 10").unwrap();
        f.ns.ip("route add default via fe80::aa dev eth1 metric 1").unwrap();
        f.ns.ip("route add fd99::/64 via fd77::9").unwrap();
        assert_eq!(
            default_gateways(f.ifindex).await.unwrap(),
            [gateway(252), address("fe80::fe"), address("fd77::fd")]
        );
    });
}

fn address(text: &str) -> IpAddr {
    text.parse().unwrap()
}

#[test]
fn ipv6_addresses_are_told_as_they_come_are_checked_and_go() {
    Fixture::run(async |f| {
        let addresses = Addresses::new(Path::new("/nonexistent")).unwrap();
        let mut watch = Watch::settled().await;
        let vip = InterfaceAddress { ip: address("fd77::100"), prefix: 64, ..f.vip() };
        addresses.add(f.ifindex, vip.ip, vip.prefix).await.unwrap();
        let told = watch.until(|event| *event == LinkEvent::Address(vip)).await;
        assert!(
            !told.iter().any(
                |event| matches!(event, LinkEvent::Address(other) if other.ip == vip.ip && *other != vip)
            ),
            "{told:?}"
        );
        // One that is checked for duplicates is not the host's own until that is done.
        f.ns.ip("addr add fd77::1/64 dev eth0").unwrap();
        let own = InterfaceAddress { ip: address("fd77::1"), ours: false, ..vip };
        let tentative = LinkEvent::Address(InterfaceAddress { tentative: true, ..own });
        watch.until(|event| *event == tentative).await;
        watch.until(|event| *event == LinkEvent::Address(own)).await;
        // The kernel takes all of them off an interface that goes down.
        f.ns.ip("link set eth0 down").unwrap();
        watch.until(|event| *event == LinkEvent::AddressGone(vip)).await;
    });
}

fn is_eth0(event: &LinkEvent, what: impl Fn(&Interface) -> bool) -> bool {
    matches!(event, LinkEvent::Interface(interface) if interface.name == "eth0" && what(interface))
}

/// Two namespaces with a link between them; the test runs inside `ns`.
struct Fixture {
    ns: Netns,
    peer: Netns,
    ifindex: u32,
}

impl Fixture {
    fn run(test: impl AsyncFnOnce(&Self) + Send) {
        if !available() {
            return;
        }
        let (ns, peer) = (Netns::new().unwrap(), Netns::new().unwrap());
        ns.veth("eth0 address 02:00:00:00:00:0a", &peer, "eth0").unwrap();
        let ifindex = ns.ifindex("eth0").unwrap();
        let fixture = Self { ns, peer, ifindex };
        fixture.ns.run(|| {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(test(&fixture));
        });
    }

    /// The VIP on the interface.
    fn vip(&self) -> InterfaceAddress {
        InterfaceAddress { ifindex: self.ifindex, ip: VIP, prefix: 24, ours: true, tentative: false }
    }

    fn batch(&self, commands: &str) {
        let mut ip = Command::new("ip")
            .args(["-n", self.ns.name(), "-batch", "-"])
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        ip.stdin.take().unwrap().write_all(commands.as_bytes()).unwrap();
        assert!(ip.wait().unwrap().success());
    }
}

/// A watch whose events are kept until one is awaited.
struct Watch {
    monitor: LinkMonitor,
    names: std::collections::BTreeMap<u32, String>,
}

impl Watch {
    fn new() -> Self {
        let addresses = Addresses::new(Path::new("/nonexistent")).unwrap();
        Self { monitor: LinkMonitor::new(addresses.record()).unwrap(), names: Default::default() }
    }

    async fn settled() -> Self {
        let mut watch = Self::new();
        watch.until(|event| *event == LinkEvent::Settled).await;
        watch
    }

    /// All events up to the one that fits.
    async fn until(&mut self, fits: impl Fn(&LinkEvent) -> bool) -> Vec<LinkEvent> {
        let mut events = Vec::new();
        loop {
            let event = tokio::time::timeout(Duration::from_secs(20), self.next()).await;
            let Ok(event) = event else { panic!("the event did not come; these did: {events:?}") };
            events.push(event);
            if events.last().is_some_and(&fits) {
                return events;
            }
        }
    }

    /// The names of all interfaces once nothing more is told.
    async fn until_quiet(&mut self) -> Vec<String> {
        while tokio::time::timeout(Duration::from_secs(1), self.next()).await.is_ok() {}
        let mut names: Vec<String> = self.names.values().cloned().collect();
        names.sort();
        names
    }

    async fn next(&mut self) -> LinkEvent {
        let event = self.monitor.next().await.unwrap();
        match &event {
            LinkEvent::Interface(interface) => {
                drop(self.names.insert(interface.ifindex, interface.name.clone()))
            }
            LinkEvent::InterfaceGone { ifindex, .. } => drop(self.names.remove(ifindex)),
            _ => {}
        }
        event
    }
}
