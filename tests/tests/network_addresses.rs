//! VIPs on an interface, against a real kernel: what is put there, marked, taken away, and left alone.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::fs;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::{Path, PathBuf};

use cluster_tests::netns::{Netns, available};
use cluster_userspace::network::addresses::{Added, AddressError, Addresses};
use cluster_userspace::network::ipv6_settings;
use cluster_userspace::network::links::InterfaceAddress;

const VIP: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 77, 0, 100));
const OTHER_VIP: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 77, 0, 101));
const VIP6: IpAddr = IpAddr::V6(Ipv6Addr::new(0xfd77, 0, 0, 0, 0, 0, 0, 0x100));

#[test]
fn a_vip_is_added_once_and_removed() {
    Fixture::run("once", async |f, addresses| {
        f.ns.ip("addr add 10.77.0.1/24 dev eth0").unwrap();
        let routes = f.ns.ip("route show").unwrap();
        assert_eq!(addresses.add(f.ifindex, VIP, 24).await.unwrap(), Added::Added);
        assert_eq!(addresses.add(f.ifindex, VIP, 24).await.unwrap(), Added::AlreadyOurs);
        assert!(addresses.list().await.unwrap().contains(&f.address(VIP, true)));
        assert!(addresses.list().await.unwrap().contains(&f.address(address("10.77.0.1"), false)));
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
        addresses.add(f.ifindex, address("192.0.2.1"), 32).await.unwrap();
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
        let configured = [VIP, OTHER_VIP, address("10.77.0.102")];
        assert_eq!(restarted.remove_all_ours(&configured).await.unwrap(), 2);
        assert_eq!(f.on_eth0(&restarted).await, [f.address(address("10.77.0.102"), false)]);
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
            left.contains(&f.address(address("10.77.0.1"), false)),
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

#[test]
fn an_ipv6_vip_is_used_at_once_and_never_the_source() {
    Fixture::run("ipv6", async |f, addresses| {
        f.ns.ip("addr add fd77::1/64 dev eth0 nodad").unwrap();
        // Nothing of what the administrator has set for other addresses concerns it.
        f.ns.run(|| {
            for (setting, value) in [("accept_dad", "2"), ("optimistic_dad", "1"), ("dad_transmits", "9")] {
                fs::write(format!("/proc/sys/net/ipv6/conf/eth0/{setting}"), value).unwrap();
            }
        });
        let routes = f.ns.ip("-6 route show").unwrap();
        assert_eq!(addresses.add(f.ifindex, VIP6, 64).await.unwrap(), Added::Added);
        assert_eq!(addresses.add(f.ifindex, VIP6, 64).await.unwrap(), Added::AlreadyOurs);
        let both = [f.address(address("fd77::1"), false), f.address(VIP6, true)];
        let there = f.on_eth0(&addresses).await;
        assert!(both.iter().all(|expected| there.contains(expected)), "{there:?}");
        let shown = f.ns.ip("-o addr show dev eth0 to fd77::100").unwrap();
        let flags = ["deprecated", "nodad"].map(|flag| shown.contains(flag));
        assert!(flags == [true, true] && !shown.contains("tentative"), "{shown}");
        assert!(shown.contains("valid_lft forever preferred_lft 0sec"), "{shown}");
        assert!(f.is_source("fd77::1"));
        assert_eq!(f.ns.ip("-6 route show").unwrap(), routes, "the subnet's route is there already");
        assert!(!f.state.join("addresses").exists(), "this kernel keeps the mark itself");
        assert!(addresses.remove(VIP6).await.unwrap());
        assert!(!addresses.remove(VIP6).await.unwrap());
        assert_eq!(f.ns.ip("-6 route show").unwrap(), routes, "and stays");
        assert_eq!(f.on_eth0(&addresses).await, both[..1]);
    });
}

#[test]
fn an_ipv6_vip_alone_in_its_subnet_brings_the_route_and_takes_it_along() {
    Fixture::run("alone6", async |f, addresses| {
        let has_route = || f.ns.ip("-6 route show").unwrap().contains("fd77::/64 dev eth0");
        addresses.add(f.ifindex, VIP6, 64).await.unwrap();
        assert!(has_route());
        assert!(f.is_source("fd77::100"), "there is no other of its scope");
        addresses.remove(VIP6).await.unwrap();
        assert!(!has_route());
    });
}

#[test]
fn an_ipv6_vip_of_somebody_else_is_an_error_whatever_its_prefix() {
    Fixture::run("foreign6", async |f, addresses| {
        f.ns.ip("addr add fd77::100/128 dev eth0 nodad").unwrap();
        let refusal = addresses.add(f.ifindex, VIP6, 64).await.unwrap_err();
        assert!(matches!(refusal, AddressError::Foreign { ip: VIP6, prefix: 128, .. }), "{refusal}");
        let foreign = InterfaceAddress { prefix: 128, ..f.address(VIP6, false) };
        assert_eq!(addresses.foreign(&[VIP, VIP6]).await.unwrap(), [foreign]);
        assert!(!addresses.remove(VIP6).await.unwrap());
    });
}

#[test]
fn an_ipv6_vip_whose_prefix_is_other_now_is_put_there_anew() {
    Fixture::run("prefix6", async |f, addresses| {
        addresses.add(f.ifindex, VIP6, 48).await.unwrap();
        let restarted = Addresses::new(&f.state).unwrap();
        assert_eq!(restarted.add(f.ifindex, VIP6, 64).await.unwrap(), Added::Added);
        assert_eq!(f.on_eth0(&restarted).await, [f.address(VIP6, true)]);
        assert_eq!(restarted.remove_all_ours(&[VIP, VIP6]).await.unwrap(), 1);
    });
}

#[test]
fn an_interface_without_ipv6_is_said_to_be() {
    Fixture::run("off6", async |f, addresses| {
        let set_off = |value| {
            f.ns.run(|| fs::write("/proc/sys/net/ipv6/conf/eth0/disable_ipv6", value).unwrap());
        };
        let is_off = || f.ns.run(|| ipv6_settings::is_off("eth0"));
        assert!(!is_off());
        set_off("1");
        assert!(is_off());
        let refusal = addresses.add(f.ifindex, VIP6, 64).await.unwrap_err();
        assert!(matches!(refusal, AddressError::Ipv6Off { ip: VIP6, .. }), "{refusal}");
        assert!(refusal.to_string().contains("disable_ipv6"), "{refusal}");
        addresses.add(f.ifindex, VIP, 24).await.unwrap();
        set_off("0");
        assert_eq!(addresses.add(f.ifindex, VIP6, 64).await.unwrap(), Added::Added);
    });
}

#[test]
fn an_ipv6_vip_can_be_put_back_while_its_interface_is_down() {
    Fixture::run("down6", async |f, addresses| {
        addresses.add(f.ifindex, VIP6, 64).await.unwrap();
        f.ns.ip("link set eth0 down").unwrap();
        assert_eq!(f.on_eth0(&addresses).await, []);
        assert_eq!(addresses.add(f.ifindex, VIP6, 64).await.unwrap(), Added::Added);
        f.ns.ip("link set eth0 up").unwrap();
        assert_eq!(f.on_eth0(&addresses).await, [f.address(VIP6, true)], "not tentative either");
        f.ns.ip("link delete eth0").unwrap();
        let refusal = addresses.add(f.ifindex, VIP6, 64).await.unwrap_err();
        assert!(matches!(refusal, AddressError::NoInterface { .. }), "{refusal}");
    });
}

#[test]
fn a_record_of_an_older_kernel_counts_for_ipv6_too() {
    Fixture::run("record6", async |f, _| {
        let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap();
        fs::write(f.state.join("addresses"), format!("{boot}{} {VIP6} 64\n", f.ifindex)).unwrap();
        f.ns.ip("addr add fd77::100/64 dev eth0 nodad").unwrap();
        let addresses = Addresses::new(&f.state).unwrap();
        assert_eq!(f.on_eth0(&addresses).await, [f.address(VIP6, true)]);
        assert_eq!(addresses.add(f.ifindex, VIP6, 64).await.unwrap(), Added::AlreadyOurs);
        assert!(addresses.remove(VIP6).await.unwrap());
        assert_eq!(fs::read_to_string(f.state.join("addresses")).unwrap(), boot);
    });
}

#[test]
fn many_vips_are_added_and_removed_together() {
    Fixture::run("many", async |f, addresses| {
        f.ns.ip("addr add 10.77.0.254/16 dev eth0").unwrap();
        let ipv4 = |number: usize| address(&format!("10.77.{}.{}", 1 + number / 200, 1 + number % 200));
        let ipv6 = |number: usize| address(&format!("fd77::{number:x}"));
        let mut vips: Vec<(IpAddr, u8)> = (0..256).map(|number| (ipv4(number), 16)).collect();
        vips.extend((1..=100).map(|number| (ipv6(number), 64)));
        // One is somebody else's, one is there already, and one has the prefix of an earlier file.
        f.ns.ip("addr add 10.77.1.8/16 dev eth0").unwrap();
        addresses.add(f.ifindex, ipv4(9), 16).await.unwrap();
        addresses.add(f.ifindex, ipv6(5), 48).await.unwrap();

        let outcomes = addresses.add_all(f.ifindex, &vips).await;
        assert_eq!(outcomes.len(), vips.len());
        for ((ip, _), outcome) in vips.iter().zip(&outcomes) {
            match outcome {
                Err(AddressError::Foreign { ip: found, .. }) => assert_eq!((*found, *ip), (ipv4(7), ipv4(7))),
                Ok(Added::AlreadyOurs) => assert_eq!(*ip, ipv4(9)),
                Ok(Added::Added) => assert!(![ipv4(7), ipv4(9)].contains(ip)),
                Err(error) => panic!("{ip}: {error}"),
            }
        }
        let route = f.ns.ip("-6 route get fd77::64").unwrap();
        assert!(route.starts_with("local"), "packets to the last are for this host: {route}");
        let on_eth0 = f.on_eth0(&addresses).await;
        assert_eq!(on_eth0.len(), 256 + 100 + 1, "and the host's own");
        assert!(on_eth0.iter().filter(|found| found.ip.is_ipv6()).all(|found| found.prefix == 64));

        let all: Vec<IpAddr> = vips.iter().map(|(ip, _)| *ip).collect();
        assert_eq!(addresses.remove_all_ours(&all).await.unwrap(), 255 + 100);
        let left: Vec<IpAddr> = f.on_eth0(&addresses).await.iter().map(|found| found.ip).collect();
        assert_eq!(left, [address("10.77.0.254"), ipv4(7)]);
    });
}

#[test]
fn vips_that_leave_together_take_no_other_address_along() {
    Fixture::run("along", async |f, addresses| {
        // The first VIP is the primary address of its subnet, the administrator's a secondary one, as are the other VIPs.
        let vips: Vec<(IpAddr, u8)> =
            (1..=40).map(|number| (address(&format!("10.77.0.{number}")), 24)).collect();
        assert!(addresses.add_all(f.ifindex, &vips[..20]).await.iter().all(Result::is_ok));
        f.ns.ip("addr add 10.77.0.200/24 dev eth0").unwrap();
        assert!(addresses.add_all(f.ifindex, &vips[20..]).await.iter().all(Result::is_ok));
        let leaving: Vec<IpAddr> = vips[..30].iter().map(|(ip, _)| *ip).collect();
        assert_eq!(addresses.remove_all_ours(&leaving).await.unwrap(), 30);
        let mut left: Vec<IpAddr> = f.on_eth0(&addresses).await.iter().map(|found| found.ip).collect();
        left.sort();
        let mut stay: Vec<IpAddr> = vips[30..].iter().map(|(ip, _)| *ip).collect();
        stay.push(address("10.77.0.200"));
        assert_eq!(left, stay);
        let setting = f.ns.run(|| fs::read_to_string("/proc/sys/net/ipv4/conf/eth0/promote_secondaries"));
        assert_eq!(setting.unwrap().trim(), "0", "as it was");
    });
}

fn address(text: &str) -> IpAddr {
    text.parse().unwrap()
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

    fn address(&self, ip: IpAddr, ours: bool) -> InterfaceAddress {
        let prefix = if ip.is_ipv4() { 24 } else { 64 };
        InterfaceAddress { ifindex: self.ifindex, ip, prefix, ours, tentative: false }
    }

    /// What is on the interface, but for the link-local address that the kernel puts there.
    async fn on_eth0(&self, addresses: &Addresses) -> Vec<InterfaceAddress> {
        let mut all = addresses.list().await.unwrap();
        all.retain(|found| {
            let link_local = matches!(found.ip, IpAddr::V6(ip) if ip.is_unicast_link_local());
            found.ifindex == self.ifindex && !link_local
        });
        all
    }

    /// Whether the kernel would send from an address to another host in its subnet.
    fn is_source(&self, address: &str) -> bool {
        self.ns.ip("route get fd77::9").unwrap().contains(&format!("src {address} "))
    }
}

impl Drop for Fixture {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.state);
    }
}
