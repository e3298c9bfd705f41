//! VIPs on an interface, against a real kernel: what is put there, marked, taken away, and left alone.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::fs;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};

use cluster_tests::netns::{Netns, available};
use cluster_userspace::network::addresses::{Added, AddressError, Addresses};
use cluster_userspace::network::links::InterfaceAddress;

const VIP: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 100);
const OTHER_VIP: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 101);

#[test]
fn a_vip_is_added_once_and_removed() {
    Fixture::run("once", async |f, addresses| {
        f.ns.ip("addr add 10.77.0.1/24 dev eth0").unwrap();
        let routes = f.ns.ip("route show").unwrap();
        assert_eq!(addresses.add(f.ifindex, VIP, 24).await.unwrap(), Added::Added);
        assert_eq!(addresses.add(f.ifindex, VIP, 24).await.unwrap(), Added::AlreadyOurs);
        assert!(addresses.list().await.unwrap().contains(&f.address(VIP, true)));
        assert!(addresses.list().await.unwrap().contains(&f.address(Ipv4Addr::new(10, 77, 0, 1), false)));
        let shown = f.ns.ip("addr show dev eth0").unwrap();
        assert!(shown.contains("inet 10.77.0.100/24 scope global secondary"), "{shown}");
        assert_eq!(f.ns.ip("route show").unwrap(), routes, "a secondary address makes no route");
        assert!(!f.state.join("addresses").exists(), "this kernel keeps the mark itself");
        assert!(addresses.remove(VIP).await.unwrap());
        assert!(!addresses.remove(VIP).await.unwrap());
        assert!(!f.ns.ip("addr show dev eth0").unwrap().contains("10.77.0.100"));
    });
}

#[test]
fn a_vip_alone_in_its_subnet_brings_the_route_to_its_clients() {
    Fixture::run("alone", async |f, addresses| {
        addresses.add(f.ifindex, VIP, 24).await.unwrap();
        let routes = f.ns.ip("route show").unwrap();
        assert!(routes.contains("10.77.0.0/24 dev eth0"), "{routes}");
        addresses.add(f.ifindex, Ipv4Addr::new(192, 0, 2, 1), 32).await.unwrap();
        assert!(f.ns.ip("addr show dev eth0").unwrap().contains("inet 192.0.2.1/32"));
    });
}

#[test]
fn a_vip_of_somebody_else_is_an_error_and_stays() {
    Fixture::run("foreign", async |f, addresses| {
        f.ns.ip("addr add 10.77.0.100/24 dev eth0").unwrap();
        let refusal = addresses.add(f.ifindex, VIP, 24).await.unwrap_err();
        assert!(matches!(refusal, AddressError::Foreign { ip: VIP, .. }), "{refusal}");
        f.ns.ip("addr add 10.77.0.101/32 dev lo").unwrap();
        let foreign = addresses.foreign(&[VIP, OTHER_VIP]).await.unwrap();
        assert_eq!(
            foreign,
            [
                InterfaceAddress { ifindex: 1, prefix: 32, ..f.address(OTHER_VIP, false) },
                f.address(VIP, false)
            ]
        );
        assert!(!addresses.remove(VIP).await.unwrap());
        assert_eq!(addresses.remove_all_ours(&[VIP, OTHER_VIP]).await.unwrap(), 0);
        assert_eq!(addresses.foreign(&[VIP, OTHER_VIP]).await.unwrap(), foreign);
    });
}

#[test]
fn another_run_of_the_daemon_knows_what_is_ours() {
    Fixture::run("restart", async |f, addresses| {
        addresses.add(f.ifindex, VIP, 24).await.unwrap();
        addresses.add(f.ifindex, OTHER_VIP, 24).await.unwrap();
        f.ns.ip("addr add 10.77.0.102/24 dev eth0").unwrap();
        let restarted = Addresses::new(&f.state).unwrap();
        assert_eq!(restarted.add(f.ifindex, VIP, 24).await.unwrap(), Added::AlreadyOurs);
        let configured = [VIP, OTHER_VIP, Ipv4Addr::new(10, 77, 0, 102)];
        assert_eq!(restarted.remove_all_ours(&configured).await.unwrap(), 2);
        assert_eq!(restarted.list().await.unwrap().iter().filter(|a| a.ifindex == f.ifindex).count(), 1);
    });
}

#[test]
fn removing_the_first_address_of_a_subnet_leaves_the_others() {
    Fixture::run("primary", async |f, addresses| {
        let promote = || {
            f.ns.run(|| {
                fs::read_to_string("/proc/sys/net/ipv4/conf/eth0/promote_secondaries")
                    .unwrap()
                    .trim()
                    .to_owned()
            })
        };
        f.ns.run(|| fs::write("/proc/sys/net/ipv4/conf/eth0/promote_secondaries", "0").unwrap());
        addresses.add(f.ifindex, VIP, 24).await.unwrap();
        f.ns.ip("addr add 10.77.0.1/24 dev eth0").unwrap();
        addresses.add(f.ifindex, OTHER_VIP, 24).await.unwrap();
        assert!(addresses.remove(VIP).await.unwrap());
        let left = addresses.list().await.unwrap();
        assert!(
            left.contains(&f.address(Ipv4Addr::new(10, 77, 0, 1), false)),
            "the administrator's is gone: {left:?}"
        );
        assert!(left.contains(&f.address(OTHER_VIP, true)), "the other VIP is gone: {left:?}");
        assert!(f.ns.ip("route show").unwrap().contains("10.77.0.0/24 dev eth0"));
        assert_eq!(promote(), "0", "the setting is as it was");
    });
}

#[test]
fn an_interface_that_is_gone_is_said_to_be() {
    Fixture::run("gone", async |f, addresses| {
        addresses.add(f.ifindex, VIP, 24).await.unwrap();
        f.ns.ip("link delete eth0").unwrap();
        let refusal = addresses.add(f.ifindex, VIP, 24).await.unwrap_err();
        assert!(matches!(refusal, AddressError::NoInterface { .. }), "{refusal}");
        assert!(!addresses.remove(VIP).await.unwrap());
    });
}

#[test]
fn a_record_of_an_older_kernel_counts() {
    Fixture::run("record", async |f, _| {
        let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap();
        fs::write(f.state.join("addresses"), format!("{boot}{} {VIP} 24\n", f.ifindex)).unwrap();
        f.ns.ip("addr add 10.77.0.100/24 dev eth0").unwrap();
        let addresses = Addresses::new(&f.state).unwrap();
        assert!(addresses.list().await.unwrap().contains(&f.address(VIP, true)));
        assert_eq!(addresses.add(f.ifindex, VIP, 24).await.unwrap(), Added::AlreadyOurs);
        assert!(addresses.remove(VIP).await.unwrap());
        assert_eq!(fs::read_to_string(f.state.join("addresses")).unwrap(), boot);
    });
}

/// A namespace with an interface `eth0` that is up, and a state directory.
struct Fixture {
    ns: Netns,
    _peer: Netns,
    state: PathBuf,
    ifindex: u32,
}

impl Fixture {
    fn run(name: &str, test: impl AsyncFnOnce(&Self, Addresses) + Send) {
        if !available() {
            return;
        }
        let (ns, peer) = (Netns::new().unwrap(), Netns::new().unwrap());
        ns.veth("eth0", &peer, "eth0").unwrap();
        let state = std::env::temp_dir().join(format!("{}-{name}", ns.name()));
        fs::create_dir(&state).unwrap();
        let ifindex = ns.ifindex("eth0").unwrap();
        let fixture = Self { ns, _peer: peer, state, ifindex };
        fixture.ns.run(|| {
            tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(async {
                let addresses = Addresses::new(Path::new(&fixture.state)).unwrap();
                test(&fixture, addresses).await;
            });
        });
    }

    fn address(&self, ip: Ipv4Addr, ours: bool) -> InterfaceAddress {
        InterfaceAddress { ifindex: self.ifindex, ip, prefix: 24, ours }
    }
}

impl Drop for Fixture {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.state);
    }
}
