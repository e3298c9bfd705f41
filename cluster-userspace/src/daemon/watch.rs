//! The watch over interfaces and addresses: the service interface's state is what the core is told of it, every other
//! Ethernet interface is fenced, and VIPs that come and go without us are noticed.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use anyhow::Context as _;
use cluster_proto::Link;

use super::node::Node;
use super::vlans::ToldVlans;
use crate::control::EventBody;
use crate::dataplane::{Attached, DataPlane, DataPlaneError, GroupSlot, OwnAddresses, ServedAddress};
use crate::driver::address_thread::{AddressOrder, AddressState};
use crate::driver::mailbox::{Order, SERVED};
use crate::network::gateways::default_gateways;
use crate::network::links::{Interface, InterfaceAddress, LinkEvent, LinkMonitor};
use crate::network::packet_socket::LinkSockets;
use crate::network::solicited_nodes::SolicitedNodes;
use crate::network::vlan::Vlan;
use crate::network::{ipv6_settings, ndp};

/// Where no address is.
const UNUSED: IpAddr = IpAddr::V6(Ipv6Addr::UNSPECIFIED);

/// The host's own IPv4 address on an interface, and what it is there as a neighbour of IPv6.
type Identity = (Option<Ipv4Addr>, ndp::Host);

/// A VIP that is watched over.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct WatchedVip {
    pub(super) group: GroupSlot,
    /// The length of its network's prefix, in bits.
    pub(super) prefix: u8,
    /// The VLAN of the service link that it is on.
    pub(super) vlan: Option<Vlan>,
    /// It is on the loopback interface for as long as the daemon runs.
    pub(super) keeps: bool,
}

/// What is known of interfaces and addresses.
pub(super) struct Watch {
    monitor: LinkMonitor,
    interfaces: BTreeMap<u32, Interface>,
    attached: Option<Attached>,
    /// What the core was last told.
    told: Option<Link>,
    /// What the heartbeat thread was last told of this host as a neighbour.
    told_ndp: ndp::Host,
    /// Whether it has a socket for neighbour discovery.
    with_ndp: bool,
    /// The VIPs.
    vips: BTreeMap<IpAddr, WatchedVip>,
    /// VIPs configured by somebody else, and where.
    foreign: BTreeMap<(u32, IpAddr), GroupSlot>,
    /// IPv6 addresses that are the host's own, and the interfaces they are on.
    own: BTreeSet<(u32, Ipv6Addr)>,
    /// The same of IPv4.
    own_ipv4: BTreeSet<(u32, Ipv4Addr)>,
    /// What the programs were told last.
    told_plane: Option<(Identity, Vec<(Vlan, Identity)>)>,
    /// What was told of VLANs.
    pub(super) told_vlans: ToldVlans,
    /// The memberships in the VIPs' groups.
    solicited_nodes: Option<SolicitedNodes>,
    /// They are to be made anew.
    unjoined: bool,
    /// Why they could not be made, as last said.
    unjoined_why: Option<String>,
    /// The service interface takes no IPv6 addresses, although there are such VIPs.
    ipv6_off: bool,
    /// Where default routes over the service interface lead.
    gateways: Vec<IpAddr>,
    /// Why the program could not be attached, as last said.
    refusal: Option<String>,
    /// Some interface could not be fenced.
    unfenced: bool,
}

impl Watch {
    pub(super) fn new(
        monitor: LinkMonitor,
        vips: BTreeMap<IpAddr, WatchedVip>,
        attached: Option<Attached>,
    ) -> Self {
        Self {
            monitor,
            interfaces: BTreeMap::new(),
            attached,
            told: None,
            told_ndp: ndp::Host::default(),
            with_ndp: false,
            vips,
            foreign: BTreeMap::new(),
            own: BTreeSet::new(),
            own_ipv4: BTreeSet::new(),
            told_plane: None,
            told_vlans: ToldVlans::default(),
            solicited_nodes: None,
            unjoined: true,
            unjoined_why: None,
            ipv6_off: false,
            gateways: Vec::new(),
            refusal: None,
            unfenced: false,
        }
    }

    /// Watches over these VIPs from now on. Those that are new must not be on the host.
    pub(super) fn set_vips(&mut self, vips: BTreeMap<IpAddr, WatchedVip>) {
        self.foreign.retain(|(_, address), _| vips.contains_key(address));
        self.unjoined |= !vips.keys().eq(self.vips.keys());
        self.vips = vips;
    }

    /// The VIPs.
    pub(super) fn vips(&self) -> impl Iterator<Item = (&IpAddr, &WatchedVip)> {
        self.vips.iter()
    }

    /// All interfaces.
    pub(super) fn interfaces(&self) -> impl Iterator<Item = &Interface> {
        self.interfaces.values()
    }

    /// The memberships in the VIPs' groups are to be made anew.
    pub(super) fn join_anew(&mut self) {
        self.unjoined = true;
    }

    /// Whether there are IPv6 VIPs.
    fn has_ipv6(&self) -> bool {
        self.vips.keys().any(IpAddr::is_ipv6)
    }

    /// What neighbour discovery says of this host on the service interface.
    fn ndp(&self, interface: &str) -> ndp::Host {
        match self.ifindex() {
            Some(ifindex) => self.ndp_on(ifindex, interface),
            None => ndp::Host::default(),
        }
    }

    /// What neighbour discovery says of this host on an interface.
    fn ndp_on(&self, ifindex: u32, interface: &str) -> ndp::Host {
        if !self.has_ipv6() {
            return ndp::Host::default();
        }
        let there = self
            .own
            .iter()
            .filter(|(on, address)| *on == ifindex && !self.vips.contains_key(&IpAddr::V6(*address)));
        let address = there.map(|(_, address)| *address).max_by_key(Ipv6Addr::is_unicast_link_local);
        ndp::Host { address, is_router: ipv6_settings::forwards(interface) }
    }

    /// What this host is on an interface: in whose name it asks for neighbours where it may not do so in a VIP's.
    pub(super) fn identity_on(&self, ifindex: u32, interface: &str) -> Identity {
        let there = self
            .own_ipv4
            .iter()
            .filter(|(on, address)| *on == ifindex && !self.vips.contains_key(&IpAddr::V4(*address)));
        (there.map(|(_, address)| *address).next(), self.ndp_on(ifindex, interface))
    }

    /// What this host is on the service link and its VLANs.
    fn identities(&self, interface: &str) -> (Identity, Vec<(Vlan, Identity)>) {
        let service = self
            .ifindex()
            .map_or((None, ndp::Host::default()), |ifindex| self.identity_on(ifindex, interface));
        let of_vlan = |vlan: Vlan| {
            let there = self.vlan_interface(vlan, interface)?;
            Some((vlan, self.identity_on(there.ifindex, &there.name)))
        };
        (service, self.vlans().into_iter().filter_map(of_vlan).collect())
    }

    /// What neighbour discovery says of this host, for the heartbeat thread's start.
    pub(super) fn first_ndp(&mut self, interface: &str) -> ndp::Host {
        self.told_ndp = self.ndp(interface);
        self.told_ndp
    }

    /// The sockets that the heartbeat thread needs on an interface.
    pub(super) fn open_sockets(&mut self, ifindex: u32) -> std::io::Result<LinkSockets> {
        let with_ndp = self.has_ipv6();
        let sockets = LinkSockets::open(ifindex, with_ndp)?;
        self.with_ndp = with_ndp;
        Ok(sockets)
    }

    /// Takes note of an address of the host's own.
    fn note_own(&mut self, address: &InterfaceAddress) {
        // One that may be somebody else's too cannot speak for this host.
        if address.ours || address.tentative {
            self.forget_own(address);
            return;
        }
        match address.ip {
            IpAddr::V4(ip) => self.own_ipv4.insert((address.ifindex, ip)),
            IpAddr::V6(ip) => self.own.insert((address.ifindex, ip)),
        };
    }

    fn forget_own(&mut self, address: &InterfaceAddress) {
        match address.ip {
            IpAddr::V4(ip) => self.own_ipv4.remove(&(address.ifindex, ip)),
            IpAddr::V6(ip) => self.own.remove(&(address.ifindex, ip)),
        };
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
                    self.note_own(&address);
                    if let Some(vip) = self.vips.get(&address.ip).filter(|_| !address.ours) {
                        self.foreign.insert((address.ifindex, address.ip), vip.group);
                    }
                }
                LinkEvent::AddressGone(address) => {
                    self.forget_own(&address);
                    self.foreign.remove(&(address.ifindex, address.ip));
                }
                LinkEvent::Overrun => {}
                LinkEvent::Settled => return Ok(()),
            }
        }
    }

    /// Tells the address thread where addresses go, and where they cannot.
    pub(super) fn publish(&self, state: &AddressState, service: &str) {
        let mut others = self.vlan_interfaces(service);
        let keeping = self.keeping();
        others.extend(keeping.iter().map(|slot| (*slot, self.loopback())));
        state.set_keeping(&keeping);
        state.set_interfaces(self.ifindex().unwrap_or(0), &others);
        state.set_foreign(&self.foreign.values().copied().collect());
    }

    /// The groups whose VIPs are on the loopback interface for as long as the daemon runs.
    pub(super) fn keeping(&self) -> BTreeSet<GroupSlot> {
        self.vips.values().filter(|vip| vip.keeps).map(|vip| vip.group).collect()
    }

    /// The loopback interface, of which each network namespace has one.
    fn loopback(&self) -> u32 {
        self.interfaces.values().find(|interface| interface.name == "lo").map_or(0, |it| it.ifindex)
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
            LinkEvent::Address(address) => {
                self.watch.note_own(&address);
                self.tell_ndp();
                self.address_seen(address);
            }
            LinkEvent::AddressGone(address) => {
                self.watch.forget_own(&address);
                self.tell_ndp();
                self.address_gone(address);
            }
            LinkEvent::Overrun => {
                // An interface may have been replaced unnoticed: look at all of them again.
                tracing::warn!("changes of the network were lost; looking at all interfaces again");
                self.attach().await;
                self.fence_all().await;
            }
            LinkEvent::Settled => self.tell_link(),
        }
        self.tell_vlans();
        self.join_groups().await;
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
            self.watch.publish(&self.addresses.state, &self.service.interface);
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
        self.watch.publish(&self.addresses.state, &self.service.interface);
        self.fit_nic_filter().await;
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
        if self.watch.unjoined_why.is_some() {
            self.watch.unjoined = true;
        }
        if self.watch.told_vlans.is_unfinished() {
            self.tell_vlans();
        }
        self.join_groups().await;
    }

    /// Finds out where the default routes over the service interface lead.
    pub(super) async fn look_up_gateways(&mut self) {
        self.watch.gateways = match self.watch.ifindex() {
            // Without an answer there are only the clients to ask.
            Some(ifindex) => self.patiently(default_gateways(ifindex)).await.unwrap_or_default(),
            None => Vec::new(),
        };
        let has_ipv6 = self.watch.has_ipv6();
        self.watch.gateways.retain(|gateway| gateway.is_ipv4() || has_ipv6);
    }

    /// Reminds the core of groups that cannot be served for as long as that lasts: a VIP is configured by somebody else, or
    /// the interface takes none of its family.
    pub(super) fn tell_unusable(&mut self) {
        let mut groups: BTreeSet<GroupSlot> = self.watch.foreign.values().copied().collect();
        let interface = &self.service.interface;
        let off = self.watch.ifindex().is_some() && self.watch.has_ipv6() && ipv6_settings::is_off(interface);
        if off {
            let ipv6 = self.watch.vips.iter().filter(|(vip, _)| vip.is_ipv6());
            groups.extend(ipv6.map(|(_, vip)| vip.group));
        }
        if std::mem::replace(&mut self.watch.ipv6_off, off) != off {
            let (kind, text) = if off {
                let text = format!(
                    "IPv6 is switched off on {interface}: groups with IPv6 VIPs are in fault here until \
                     net.ipv6.conf.{interface}.disable_ipv6 is 0"
                );
                ("ipv6_off", text)
            } else {
                ("ipv6_on", format!("IPv6 is no longer switched off on {interface}"))
            };
            self.daemon.tell(kind, &text);
        }
        groups.extend(self.watch.groups_without_vlan(&self.service.interface));
        for group in groups {
            self.daemon.order(Order::AddressFailed(group));
        }
    }

    /// Tells the heartbeat thread what this host is as a neighbour, if that is new.
    pub(super) fn tell_ndp(&mut self) {
        let host = self.watch.ndp(&self.service.interface);
        if std::mem::replace(&mut self.watch.told_ndp, host) != host {
            self.daemon.order(Order::Ndp(host));
        }
    }

    /// The same for the programs.
    pub(super) async fn tell_plane(&mut self) {
        let identities = self.watch.identities(&self.service.interface);
        if self.watch.told_plane.as_ref() == Some(&identities) {
            return;
        }
        let own = |(ipv4, ndp::Host { address, .. }): Identity| OwnAddresses { ipv4, ipv6: address };
        let (service, vlans) = identities.clone();
        let work = move |plane: &mut DataPlane| {
            plane.set_forwarding(service.1.is_router);
            plane.set_own(
                own(service),
                vlans.into_iter().map(|(vlan, identity)| (vlan, own(identity))).collect(),
            )
        };
        match self.on_plane(work).await {
            Ok(Ok(())) => self.watch.told_plane = Some(identities),
            Ok(Err(error)) => tracing::warn!(%error, "the programs do not know the host's own addresses"),
            Err(error) => tracing::warn!(%error, "the programs do not know the host's own addresses"),
        }
    }

    /// Opens the sockets of the service interface anew if other ones are needed, and joins the groups of other VIPs.
    pub(super) async fn vips_changed(&mut self) {
        if self.watch.has_ipv6() != self.watch.with_ndp {
            self.watch.told = None;
            self.tell_link();
        }
        self.tell_ndp();
        self.tell_vlans();
        self.join_groups().await;
    }

    /// Makes the memberships in the VIPs' groups anew where that is due.
    async fn join_groups(&mut self) {
        let Some(ifindex) = self.watch.ifindex().filter(|_| self.watch.unjoined) else { return };
        self.watch.unjoined = false;
        let of_vlans = self.watch.vlan_interfaces(&self.service.interface);
        let place = |(address, vip): (&IpAddr, &WatchedVip)| match *address {
            IpAddr::V4(_) => None,
            IpAddr::V6(address) => Some((of_vlans.get(&vip.group).copied().unwrap_or(ifindex), address)),
        };
        // 0 is the interface of a VLAN that is not there.
        let vips: Vec<(u32, Ipv6Addr)> =
            self.watch.vips().filter_map(place).filter(|(on, _)| *on != 0).collect();
        let old = self.watch.solicited_nodes.take();
        if vips.is_empty() && old.is_none() {
            return;
        }
        let work = move || {
            let joined = SolicitedNodes::join(vips.into_iter());
            // Only now, so that no group is left in between.
            drop(old);
            joined
        };
        let joined = self.patiently(tokio::task::spawn_blocking(work)).await;
        let refused = match joined {
            Ok((joined, refused)) => {
                self.watch.solicited_nodes = Some(joined);
                refused
            }
            // The daemon stops.
            Err(error) => Some(std::io::Error::other(error)),
        };
        match refused {
            None => self.watch.unjoined_why = None,
            Some(error) => {
                let why = error.to_string();
                if self.watch.unjoined_why.as_ref() != Some(&why) {
                    tracing::warn!(
                        "cannot join all multicast groups of the IPv6 VIPs on {}: {why}; switches that send multicast to \
                         members alone learn of this node late; tried again every second",
                        self.service.interface
                    );
                }
                self.watch.unjoined_why = Some(why);
            }
        }
    }

    /// Tells the core what has become of the service interface, if that is new.
    fn tell_link(&mut self) {
        let mut link = self.watch.link();
        if self.watch.told == Some(link) {
            return;
        }
        let mut sockets = None;
        if let (Link::Up { .. }, Some(ifindex)) = (link, self.watch.ifindex()) {
            self.watch.unjoined = true;
            match self.watch.open_sockets(ifindex) {
                Ok(opened) => sockets = Some(opened),
                Err(error) => {
                    // It vanished between the event and here; its end is the next event.
                    let why = format!("cannot open a raw socket on {}: {error}", self.service.interface);
                    tracing::warn!("{why}; tried again every second");
                    self.watch.refusal = Some(why);
                    link = Link::Gone;
                }
            }
        }
        self.watch.told = Some(link);
        self.daemon.order(Order::Link(link, sockets));
        self.tell_ndp();
    }

    fn address_seen(&mut self, address: InterfaceAddress) {
        let Some(&WatchedVip { group, .. }) = self.watch.vips.get(&address.ip) else { return };
        if address.ours {
            return;
        }
        let known = self.watch.foreign.insert((address.ifindex, address.ip), group).is_some();
        self.watch.publish(&self.addresses.state, &self.service.interface);
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
        let Some(&WatchedVip { group, .. }) = self.watch.vips.get(&address.ip) else { return };
        if self.watch.foreign.remove(&(address.ifindex, address.ip)).is_some() {
            self.watch.publish(&self.addresses.state, &self.service.interface);
        } else if address.ours
            && self.addresses.state.belongs(group)
            // Off an interface that goes down the kernel takes IPv6 addresses itself, and the group is given up.
            && matches!(self.watch.link(), Link::Up { .. })
        {
            self.addresses.order(AddressOrder::Restore(group));
        }
    }

    /// Passes on who was served lately, so that the service link can be judged: clients first, then the gateways.
    pub(super) fn pass_on_served(&mut self, served: &[ServedAddress]) {
        let ends = self.daemon.local.peers.iter().flat_map(|peer| &peer.paths);
        let nodes: Vec<IpAddr> = ends.flat_map(|path| [path.local.ip(), path.remote.ip()]).collect();
        let gateways = &self.watch.gateways;
        let clients = served.iter().map(|served| served.address).filter(|ip| !nodes.contains(ip));
        let mut addresses = [UNUSED; SERVED];
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
