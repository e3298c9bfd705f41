//! The watch over interfaces and addresses: the service interface's state is what the core is told of it, every other
//! Ethernet interface is fenced, and VIPs that come and go without us are noticed.

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;
use std::sync::atomic::Ordering;

use anyhow::Context as _;
use cluster_proto::Link;

use super::groups::ipv4;
use super::node::Node;
use crate::control::EventBody;
use crate::dataplane::{Attached, DataPlaneError, GroupSlot, ServedAddress};
use crate::driver::address_thread::{AddressOrder, AddressState};
use crate::driver::mailbox::{Order, SERVED};
use crate::network::gateways::default_gateways;
use crate::network::links::{Interface, InterfaceAddress, LinkEvent, LinkMonitor};
use crate::network::packet_socket::ArpSocket;

/// What is known of interfaces and addresses.
pub(super) struct Watch {
    monitor: LinkMonitor,
    interfaces: BTreeMap<u32, Interface>,
    attached: Option<Attached>,
    /// What the core was last told.
    told: Option<Link>,
    /// Each VIP's group.
    vips: BTreeMap<Ipv4Addr, GroupSlot>,
    /// VIPs configured by somebody else, and where.
    foreign: BTreeMap<(u32, Ipv4Addr), GroupSlot>,
    /// Where default routes over the service interface lead.
    gateways: Vec<Ipv4Addr>,
    /// Why the program could not be attached, as last said.
    refusal: Option<String>,
    /// Some interface could not be fenced.
    unfenced: bool,
}

impl Watch {
    pub(super) fn new(
        monitor: LinkMonitor,
        vips: BTreeMap<Ipv4Addr, GroupSlot>,
        attached: Option<Attached>,
    ) -> Self {
        Self {
            monitor,
            interfaces: BTreeMap::new(),
            attached,
            told: None,
            vips,
            foreign: BTreeMap::new(),
            gateways: Vec::new(),
            refusal: None,
            unfenced: false,
        }
    }

    /// Watches over these VIPs from now on. Those that are new must not be on the host.
    pub(super) fn set_vips(&mut self, vips: BTreeMap<Ipv4Addr, GroupSlot>) {
        self.foreign.retain(|(_, address), _| vips.contains_key(address));
        self.vips = vips;
    }

    /// The next event; an error is the end of the watch.
    pub(super) async fn next(&mut self) -> anyhow::Result<LinkEvent> {
        self.monitor.next().await.context("cannot watch the network interfaces any more")
    }

    /// The service interface's number, if the program is on it.
    pub(super) fn ifindex(&self) -> Option<u32> {
        self.attached.map(|attached| attached.ifindex)
    }

    /// Takes in everything that is there at the start.
    pub(super) async fn settle(&mut self) -> anyhow::Result<()> {
        loop {
            match self.next().await? {
                LinkEvent::Interface(interface) => {
                    self.interfaces.insert(interface.ifindex, interface);
                }
                LinkEvent::InterfaceGone { ifindex, .. } => {
                    self.interfaces.remove(&ifindex);
                }
                LinkEvent::Address(address) => {
                    if let Some(&group) = self.vips.get(&address.ip).filter(|_| !address.ours) {
                        self.foreign.insert((address.ifindex, address.ip), group);
                    }
                }
                LinkEvent::AddressGone(address) => {
                    self.foreign.remove(&(address.ifindex, address.ip));
                }
                LinkEvent::Overrun => {}
                LinkEvent::Settled => return Ok(()),
            }
        }
    }

    /// Tells the address thread where addresses go, and where they cannot.
    pub(super) fn publish(&self, state: &AddressState) {
        state.ifindex.store(self.ifindex().unwrap_or(0), Ordering::SeqCst);
        state.set_foreign(&self.foreign.values().copied().collect());
    }

    /// What becomes of the service interface, as the core is told it.
    pub(super) fn link(&self) -> Link {
        let Some(attached) = self.attached else { return Link::Gone };
        match self.interfaces.get(&attached.ifindex) {
            Some(interface) if interface.has_carrier => Link::Up { mac: interface.mac },
            Some(_) => Link::Down,
            None => Link::Gone,
        }
    }

    /// How the ingress program is attached, for people.
    pub(super) fn xdp_mode(&self) -> &'static str {
        self.attached.map_or("none", |attached| attached.mode.name())
    }
}

impl Node {
    pub(super) async fn link_event(&mut self, event: LinkEvent) {
        match event {
            LinkEvent::Interface(interface) => self.interface_changed(interface).await,
            LinkEvent::InterfaceGone { ifindex, name } => self.interface_gone(ifindex, &name).await,
            LinkEvent::Address(address) => self.address_seen(address),
            LinkEvent::AddressGone(address) => self.address_gone(address),
            LinkEvent::Overrun => {
                // An interface may have been replaced unnoticed: look at all of them again.
                tracing::warn!("changes of the network were lost; looking at all interfaces again");
                self.attach().await;
                self.fence_all().await;
            }
            LinkEvent::Settled => self.tell_link(),
        }
    }

    async fn interface_changed(&mut self, interface: Interface) {
        let ifindex = interface.ifindex;
        let is_new = !self.watch.interfaces.contains_key(&ifindex);
        let is_service = interface.name == self.service.interface;
        let mac = interface.mac;
        let is_ethernet = interface.is_ethernet;
        self.watch.interfaces.insert(ifindex, interface);
        if is_new && is_ethernet {
            self.fence(ifindex).await;
        }
        if !is_service {
            return;
        }
        match self.watch.attached {
            Some(attached) if attached.ifindex == ifindex => {
                if attached.mac != mac {
                    self.watch.attached = Some(Attached { mac, ..attached });
                    if let Err(error) = self.on_plane(move |plane| plane.set_mac(mac)).await {
                        tracing::error!(%error, "the interface's new Ethernet address could not be taken over");
                    }
                }
            }
            Some(_) | None => self.attach().await,
        }
        self.tell_link();
    }

    async fn interface_gone(&mut self, ifindex: u32, name: &str) {
        self.watch.interfaces.remove(&ifindex);
        if self.watch.ifindex() == Some(ifindex) {
            tracing::warn!("the service interface {name} is gone");
            self.watch.attached = None;
            self.daemon.xdp = self.watch.xdp_mode();
            self.watch.publish(&self.addresses.state);
            self.tell_link();
        }
        match self.on_plane(move |plane| plane.unfence_interface(ifindex)).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::warn!(%error, "what was attached to {name} could not be tidied away"),
            Err(error) => tracing::warn!(%error, "what was attached to {name} could not be tidied away"),
        }
    }

    async fn fence(&mut self, ifindex: u32) {
        match self.on_plane(move |plane| plane.fence_interface(ifindex)).await {
            Ok(Ok(_)) => {}
            Ok(Err(error)) => self.fence_failed(&error.to_string()),
            Err(error) => self.fence_failed(&error.to_string()),
        }
    }

    fn fence_failed(&mut self, why: &str) {
        if !std::mem::replace(&mut self.watch.unfenced, true) {
            self.daemon.tell("fence_failed", &format!("{why}; tried again every second"));
        }
    }

    async fn fence_all(&mut self) {
        match self.on_plane(|plane| plane.fence_all()).await {
            Ok(Ok(())) => self.watch.unfenced = false,
            Ok(Err(error)) => self.fence_failed(&error.to_string()),
            Err(error) => self.fence_failed(&error.to_string()),
        }
    }

    /// Puts the ingress program onto the service interface, which may be a new one of the same name.
    async fn attach(&mut self) {
        let outcome = self.on_plane(|plane| plane.attach()).await;
        match outcome {
            Ok(Ok(attached)) => {
                if self.watch.ifindex().is_some_and(|before| before != attached.ifindex) {
                    // Another interface has taken the name: what was on the old one is given up first.
                    self.watch.told = Some(Link::Gone);
                    self.daemon.order(Order::Link(Link::Gone, None));
                }
                if self.watch.attached != Some(attached) {
                    tracing::info!(
                        interface = self.service.interface,
                        mode = attached.mode.name(),
                        "attached"
                    );
                }
                self.watch.attached = Some(attached);
                self.watch.refusal = None;
            }
            Ok(Err(DataPlaneError::NoInterface { .. })) => self.watch.attached = None,
            Ok(Err(error)) => self.attach_failed(&error.to_string()),
            Err(error) => self.attach_failed(&error.to_string()),
        }
        self.daemon.xdp = self.watch.xdp_mode();
        self.watch.publish(&self.addresses.state);
    }

    fn attach_failed(&mut self, why: &str) {
        self.watch.attached = None;
        if self.watch.refusal.as_deref() != Some(why) {
            self.watch.refusal = Some(why.to_owned());
            self.daemon.tell("attach_failed", &format!("{why}; tried again every second"));
        }
    }

    /// Tries again what failed, while the interface is there.
    pub(super) async fn retry_attach(&mut self) {
        if self.watch.unfenced {
            self.fence_all().await;
        }
        if self.watch.refusal.is_some() {
            self.attach().await;
            self.tell_link();
        }
    }

    /// Finds out where the default routes over the service interface lead.
    pub(super) async fn look_up_gateways(&mut self) {
        self.watch.gateways = match self.watch.ifindex() {
            // Without an answer there are only the clients to ask.
            Some(ifindex) => self.patiently(default_gateways(ifindex)).await.unwrap_or_default(),
            None => Vec::new(),
        };
    }

    /// Reminds the core of VIPs that somebody else has configured, for as long as that lasts.
    pub(super) fn tell_foreign(&mut self) {
        let groups: BTreeSet<GroupSlot> = self.watch.foreign.values().copied().collect();
        for group in groups {
            self.daemon.order(Order::AddressFailed(group));
        }
    }

    /// Tells the core what has become of the service interface, if that is new.
    fn tell_link(&mut self) {
        let mut link = self.watch.link();
        if self.watch.told == Some(link) {
            return;
        }
        let mut arp = None;
        if let (Link::Up { .. }, Some(ifindex)) = (link, self.watch.ifindex()) {
            match ArpSocket::open(ifindex) {
                Ok(socket) => arp = Some(socket),
                Err(error) => {
                    // It vanished between the event and here; its end is the next event.
                    let why = format!("cannot open a raw ARP socket on {}: {error}", self.service.interface);
                    tracing::warn!("{why}; tried again every second");
                    self.watch.refusal = Some(why);
                    link = Link::Gone;
                }
            }
        }
        self.watch.told = Some(link);
        self.daemon.order(Order::Link(link, arp));
    }

    fn address_seen(&mut self, address: InterfaceAddress) {
        let Some(&group) = self.watch.vips.get(&address.ip) else { return };
        if address.ours {
            return;
        }
        let known = self.watch.foreign.insert((address.ifindex, address.ip), group).is_some();
        self.watch.publish(&self.addresses.state);
        if !known {
            let text = format!(
                "the VIP {} was configured on interface {} by somebody else; the group is in fault here until it is \
                 removed",
                address.ip, address.ifindex
            );
            let group_name = self.daemon.group_name(group);
            self.daemon.record(EventBody { group: group_name, ..EventBody::told("foreign_address", text) });
            self.daemon.order(Order::AddressFailed(group));
        }
    }

    fn address_gone(&mut self, address: InterfaceAddress) {
        let Some(&group) = self.watch.vips.get(&address.ip) else { return };
        if self.watch.foreign.remove(&(address.ifindex, address.ip)).is_some() {
            self.watch.publish(&self.addresses.state);
        } else if address.ours && self.addresses.state.is_wanted(group) {
            self.addresses.order(AddressOrder::Restore(group));
        }
    }

    /// Passes on who was served lately, so that the service link can be judged: clients first, then the gateways.
    pub(super) fn pass_on_served(&mut self, served: &[ServedAddress]) {
        let ends = self.daemon.local.peers.iter().flat_map(|peer| &peer.paths);
        let nodes: Vec<Ipv4Addr> = ends.flat_map(|path| [*path.local.ip(), *path.remote.ip()]).collect();
        let gateways = &self.watch.gateways;
        let clients =
            served.iter().filter_map(|served| ipv4(served.address)).filter(|ip| !nodes.contains(ip));
        let mut addresses = [Ipv4Addr::UNSPECIFIED; SERVED];
        let mut count = 0;
        for address in clients.take(SERVED - gateways.len().min(2)).chain(gateways.iter().copied().take(2)) {
            addresses[count] = address;
            count += 1;
        }
        if count > 0 {
            self.daemon.order(Order::Served(addresses, count));
        }
    }
}
