//! The VLANs on which groups are: which interface is each one's now, and who has to know of it.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use cluster_proto::Link;

use super::node::Node;
use super::watch::Watch;
use crate::dataplane::GroupSlot;
use crate::driver::mailbox::Order;
use crate::driver::vlan_links::{VlanLinks, VlanNetwork, VlanPlace};
use crate::network::links::Interface;
use crate::network::unsafe_ethtool::strips_vlan_tags;
use crate::network::vlan::Vlan;

/// What was last told of VLANs.
#[derive(Default)]
pub(super) struct ToldVlans {
    /// To the heartbeat thread.
    thread: Option<(Vec<VlanPlace>, Vec<VlanNetwork>)>,
    /// To people: those without an interface.
    absent: BTreeSet<Vlan>,
    /// To people: why their sockets cannot be opened.
    refusal: Option<String>,
    /// To people: that their tags may be hidden.
    stripped: bool,
}

impl ToldVlans {
    /// Whether the heartbeat thread lacks what it should have been given.
    pub(super) fn is_unfinished(&self) -> bool {
        self.refusal.is_some()
    }
}

impl Watch {
    /// The VLAN's interface, whatever its state: one that says it is that VLAN's, or else that is called so.
    pub(super) fn vlan_interface(&self, vlan: Vlan, service: &str) -> Option<&Interface> {
        let above = |below: u32, id: u16| {
            let is_it = |interface: &&Interface| {
                interface.vlan.is_some_and(|there| there.below == below && there.id == id)
            };
            self.interfaces().find(is_it)
        };
        let outer = || above(self.ifindex()?, vlan.outer());
        let by_kind = match vlan.inner() {
            None => outer(),
            Some(inner) => outer().and_then(|outer| above(outer.ifindex, inner)),
        };
        let name = vlan.interface_name(service);
        by_kind.or_else(|| self.interfaces().find(|interface| interface.name == name))
    }

    /// The VLAN's interface, if VIPs can be served there. The ingress program answers with the address of the interface below, and
    /// the peers know this node by that, so it has to have the same.
    fn usable_vlan(&self, vlan: Vlan, service: &str) -> Option<&Interface> {
        let Link::Up { mac } = self.link() else { return None };
        let usable =
            |interface: &&Interface| interface.has_carrier && interface.is_ethernet && interface.mac == mac;
        self.vlan_interface(vlan, service).filter(usable)
    }

    /// All VLANs that groups are on.
    pub(super) fn vlans(&self) -> BTreeSet<Vlan> {
        self.vips().filter_map(|(_, vip)| vip.vlan).collect()
    }

    /// The interface of each group that is on a VLAN; 0 if that is not there.
    pub(super) fn vlan_interfaces(&self, service: &str) -> BTreeMap<GroupSlot, u32> {
        let on_vlans = self.vips().filter_map(|(_, vip)| Some((vip.group, vip.vlan?)));
        on_vlans
            .map(|(group, vlan)| {
                let interface = self.usable_vlan(vlan, service);
                (group, interface.map_or(0, |interface| interface.ifindex))
            })
            .collect()
    }

    /// What the heartbeat thread has to know.
    fn vlan_places(&self, service: &str) -> (Vec<VlanPlace>, Vec<VlanNetwork>) {
        let place = |vlan| {
            let interface = self.usable_vlan(vlan, service)?;
            let (own, ndp) = self.identity_on(interface.ifindex, &interface.name);
            let with_ndp = self.vips().any(|(address, vip)| address.is_ipv6() && vip.vlan == Some(vlan));
            Some(VlanPlace { vlan, ifindex: interface.ifindex, mac: interface.mac, own, ndp, with_ndp })
        };
        let network = |(address, vip): (&IpAddr, &super::watch::WatchedVip)| {
            Some(VlanNetwork { vip: *address, prefix: vip.prefix, vlan: vip.vlan? })
        };
        (self.vlans().into_iter().filter_map(place).collect(), self.vips().filter_map(network).collect())
    }

    /// Groups whose VLAN has no interface where they could be served.
    pub(super) fn groups_without_vlan(&self, service: &str) -> BTreeSet<GroupSlot> {
        let interfaces = self.vlan_interfaces(service);
        interfaces.into_iter().filter(|(_, ifindex)| *ifindex == 0).map(|(group, _)| group).collect()
    }
}

impl Node {
    /// Something about interfaces, addresses or VIPs is other: tells whoever has to know what that means for VLANs.
    pub(super) fn tell_vlans(&mut self) {
        let service = &self.service.interface;
        let wanted = self.watch.vlan_places(service);
        if wanted.1.is_empty() && self.watch.told_vlans.thread.is_none() {
            return;
        }
        self.tell_absent_vlans();
        self.tell_stripped();
        if self.watch.told_vlans.thread.as_ref() == Some(&wanted) {
            return;
        }
        // Memberships go by interface.
        self.watch.join_anew();
        self.watch.publish(&self.addresses.state, &self.service.interface);
        match VlanLinks::open(&wanted.0, wanted.1.clone()) {
            Ok(links) => {
                self.daemon.order(Order::Vlans(Box::new(links)));
                self.watch.told_vlans.thread = Some(wanted);
                self.watch.told_vlans.refusal = None;
            }
            Err(error) => {
                // It vanished between the event and here; its end is the next event.
                let why = format!("cannot open raw sockets on the VLANs' interfaces: {error}");
                if self.watch.told_vlans.refusal.as_ref() != Some(&why) {
                    tracing::warn!("{why}; tried again every second");
                }
                self.watch.told_vlans.refusal = Some(why);
            }
        }
        for group in self.watch.groups_without_vlan(&self.service.interface) {
            self.daemon.order(Order::AddressFailed(group));
        }
    }

    fn tell_absent_vlans(&mut self) {
        let service = self.service.interface.clone();
        let there = matches!(self.watch.link(), Link::Up { .. });
        let is_absent = |vlan: &Vlan| there && self.watch.usable_vlan(*vlan, &service).is_none();
        let absent: BTreeSet<Vlan> = self.watch.vlans().into_iter().filter(is_absent).collect();
        let before = std::mem::replace(&mut self.watch.told_vlans.absent, absent.clone());
        for vlan in absent.difference(&before) {
            let text = format!(
                "VLAN {vlan} of {service} has no interface that is up and has the Ethernet address of {service}: its groups are \
                 in fault here until there is one, such as by `ip link add link {service} name {} type vlan id {}`",
                vlan.interface_name(&service),
                vlan.inner().unwrap_or(vlan.outer())
            );
            self.daemon.tell("vlan_absent", &text);
        }
        for vlan in before.difference(&absent) {
            self.daemon
                .tell("vlan_present", &format!("VLAN {vlan} of {service} has an interface that is up"));
        }
    }

    fn tell_stripped(&mut self) {
        let service = &self.service.interface;
        let stripped = !self.watch.vlans().is_empty() && strips_vlan_tags(service).unwrap_or(false);
        if std::mem::replace(&mut self.watch.told_vlans.stripped, stripped) != stripped && stripped {
            let text = format!(
                "the card of {service} may take VLAN tags out before the XDP program sees them, which then finds the VIPs of \
                 VLANs in no frame; switch that off with `ethtool -K {service} rxvlan off`"
            );
            self.daemon.tell("vlan_tags_stripped", &text);
        }
    }
}
