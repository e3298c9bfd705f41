//! The start of a node: what is opened in which order. Whatever can be wrong is found out before anything is
//! changed, and what a daemon that died has left is taken over without a gap.

use std::net::{IpAddr, Ipv4Addr};

use anyhow::{Context as _, bail};
use cluster_proto::{GroupIndex, Link, Settings, Start, Time};
use tokio::sync::mpsc;

use super::flows::FlowWatch;
use super::groups::{group_vips, watched_vips};
use super::handed_on::HandedOn;
use super::installed::Installed;
use super::nic_filter::NicFilter;
use super::node::{Node, SharedPlane};
use super::reload::Source;
use super::watch::Watch;
use super::{Front, Prepared, QUEUE, incarnation, paths_of, remembered};
use crate::config::{HostKind, Local, Service, Warning, XdpMode, same_network};
use crate::control::{ControlSocket, EventBody, EventLog};
use crate::dataplane::{self, DataPlane, DataPlaneError, MapsWere, XdpPreference};
use crate::driver::{address_thread, clock, heartbeat_loop, mailbox};
use crate::epoch_file::EpochFile;
use crate::memory_file::MemoryFile;
use crate::network::addresses::Addresses;
use crate::network::links::{InterfaceAddress, LinkMonitor};
use crate::network::packet_socket::LinkSockets;

/// Opens everything and starts the threads.
pub(super) async fn start(
    mut settings: Settings,
    mut local: Local,
    service: Service,
    source: Source,
    (started, installed): (Time, Installed),
) -> anyhow::Result<(Node, Front)> {
    dataplane::missing_capabilities()?;
    let epochs = EpochFile::open(&local.state_dir)?;
    let memory_file = MemoryFile::new(&local.state_dir);
    // Read again under the lock; what is wrong with the files is told before anything is touched.
    epochs.read()?;
    remembered(&memory_file, &settings)?;
    let addresses = Addresses::new(&local.state_dir).context("cannot reach the kernel's address tables")?;
    refuse_foreign_vips(&addresses, &settings).await?;

    // The lock of the pin directory makes sure that no other daemon runs as this node.
    let options = plane_options(&settings, &local, &service);
    release_forgotten(&addresses, &options).await?;
    let mut plane = DataPlane::open(options)?;
    let reserved_epochs = epochs.read()?;
    let memory = remembered(&memory_file, &settings)?;
    let events = EventLog::new();
    tell_maps(&plane, &events);
    // Before anything can hold a VIP, nothing may leave in its name.
    let attached = attach(&mut plane, &local, &service, &addresses).await;
    let ((link, link_sockets, mut watch), control) = match attached {
        Ok(attached) => attached,
        Err(error) => return Err(undone(plane, error)),
    };
    let own = addresses.list().await.context("cannot list the addresses of this host")?;
    let service_address = find_service_paths(&mut settings, &mut local, &own, watch.ifindex());

    let slots = plane.slots().to_vec();
    let leases = plane.lease_table()?;
    let now = clock::now();
    let mut adopted = Vec::new();
    for (index, &slot) in slots.iter().enumerate() {
        match leases.read(slot) {
            Some(tenancy)
                if now < tenancy.until
                    && tenancy.epoch.node == settings.me
                    && matches!(link, Link::Up { .. }) =>
            {
                adopted.push((GroupIndex(index), tenancy.epoch, tenancy.until));
            }
            Some(_) | None => leases.clear(slot),
        }
    }

    let tables = slots.iter().enumerate().filter_map(|(index, &slot)| {
        let (version, table) = leases.published(slot)?;
        Some((GroupIndex(index), version, table))
    });
    let tables = tables.collect();

    // What a daemon that was killed has left on an interface belongs there only with its lease.
    let kept = |index: usize| adopted.iter().any(|&(GroupIndex(kept), ..)| kept == index);
    let groups = settings.groups.iter().enumerate();
    // Those that stay whoever holds the group are on the loopback interface, and may be in use.
    let stays = |index: usize| {
        let group = &local.groups[index];
        let is_whole = |vip: IpAddr, prefix: u8| prefix == if vip.is_ipv4() { 32 } else { 128 };
        let is_misplaced = |found: &InterfaceAddress| {
            found.ours
                && !is_whole(found.ip, found.prefix)
                && group.vips.iter().any(|vip| vip.address == found.ip)
        };
        group.keeps_address && !own.iter().any(is_misplaced)
    };
    let groups = groups.filter(|&(index, _)| !kept(index) && !stays(index));
    let abandoned: Vec<IpAddr> = groups.flat_map(|(_, group)| group.vips.iter().copied()).collect();
    let removed =
        addresses.remove_all_ours(&abandoned).await.context("cannot take old VIPs off the interfaces")?;
    if removed > 0 {
        tracing::info!("{removed} VIPs that the daemon before this one had left were taken off");
    }

    let (thread_end, daemon_end) =
        mailbox::mailbox().context("cannot make the heartbeat thread's mailbox")?;
    let (reports_in, address_reports) = mpsc::channel(QUEUE);
    let (connections_in, connections) = mpsc::channel(QUEUE);
    let (flows_in, found_flows) = mpsc::channel(1);
    let vips = slots.iter().copied().zip(local.groups.iter().map(|group| group.vips.clone())).collect();
    let (address_thread, jobs) =
        address_thread::spawn(addresses.record(), vips, daemon_end.wake_thread(), reports_in)
            .context("cannot start the address thread")?;
    watch.publish(&address_thread.state, &service.interface);
    let handed_on = HandedOn::taken();
    let resumed = handed_on.as_ref().map(|handed_on| handed_on.resumed(&settings)).unwrap_or_default();
    let prepared = Prepared {
        settings,
        local,
        source,
        started,
        installed,
        handed_on,
        mailbox: daemon_end,
        epochs,
        memory: memory_file,
        events,
    };
    let setup = heartbeat_loop::Setup {
        settings: prepared.settings.clone(),
        start: Start {
            now: clock::now(),
            incarnation: incarnation()?,
            reserved_epochs,
            memory,
            adopted,
            tables,
            resumed,
            link,
        },
        paths: paths_of(&prepared.local),
        cpu: prepared.local.cpu,
        serving: Some(heartbeat_loop::Serving { leases, slots: slots.clone(), addresses: jobs }),
        service_address,
        ndp: watch.first_ndp(&service.interface),
        link_sockets,
        mailbox: thread_end,
    };
    let (mut daemon, calls) = match prepared.begin(setup) {
        Ok(begun) => begun,
        Err(error) => {
            address_thread.stop();
            return Err(undone(plane, error));
        }
    };
    daemon.chain = plane.chained().map(|next| next.name.clone());
    if let Some(next) = plane.chained() {
        tracing::info!(
            program = plane.ingress_program(),
            next = next.name,
            id = next.id,
            pin = %next.path.display(),
            "what the XDP program lets pass goes on to the chained one"
        );
    }
    let pinned = plane.pinned_programs();
    let uncalled = (!pinned.is_empty()).then(|| {
        format!(
            "the XDP program is pinned at {} and not attached (--pin-only): where no dispatcher calls it, nobody answers for \
             the VIPs while this node is active, and nothing keeps packets for them out while it is not",
            pinned.join(" and ")
        )
    });
    daemon.lacks(plane.absent_features().into_iter().chain(uncalled).collect());
    let plane = SharedPlane::new(plane);
    daemon.plane = Some(plane.clone());
    daemon.xdp = watch.xdp_mode();
    daemon.slots = slots;
    let front = Front { control, calls, events: daemon.events.clone() };
    let mut filter = NicFilter::default();
    filter.want(&group_vips(&daemon.settings, &daemon.local));
    let mut node = Node {
        daemon,
        service,
        plane,
        addresses: address_thread,
        address_reports,
        connections_in,
        connections,
        flows_in,
        found_flows,
        flow_watch: FlowWatch::default(),
        watch,
        unsettled: false,
        tables: addresses,
        rounds: 0,
        filter,
        claims_read: clock::now(),
    };
    node.tell_vlans();
    Ok((node, front))
}

/// Takes VIPs off the interfaces that a daemon before this one guarded and that this configuration does not have: once the
/// maps have forgotten them, the kernel would answer for them.
async fn release_forgotten(addresses: &Addresses, options: &dataplane::Options) -> anyhow::Result<()> {
    let dataplane::Options { pin_root, cluster, node, groups, .. } = options;
    let Some(remains) = dataplane::lock_remains(pin_root, cluster, node)? else { return Ok(()) };
    let known =
        |address: IpAddr| groups.iter().flat_map(|group| &group.vips).any(|vip| vip.address == address);
    let forgotten: Vec<_> = remains.vips()?.into_iter().filter(|&address| !known(address)).collect();
    let removed = addresses
        .remove_all_ours(&forgotten)
        .await
        .context("cannot take VIPs off the interfaces that the configuration has no more")?;
    if removed > 0 {
        tracing::info!("{removed} VIPs that the configuration has no more were taken off");
    }
    Ok(())
}

type Attachment = (Link, Option<LinkSockets>, Watch);

async fn attach(
    plane: &mut DataPlane,
    local: &Local,
    service: &Service,
    addresses: &Addresses,
) -> anyhow::Result<(Attachment, ControlSocket)> {
    plane.fence_all()?;
    let control = ControlSocket::bind(&local.socket)?;
    let attached = service_interface(plane, service, addresses).await?;
    plane.forget_former_layout()?;
    Ok((attached, control))
}

/// Takes back what a start that failed has changed, unless it was another daemon's before.
fn undone(plane: DataPlane, error: anyhow::Error) -> anyhow::Error {
    if *plane.maps_were() == MapsWere::Absent
        && let Err(left) = plane.detach_and_unpin()
    {
        return error.context(format!("something was left behind ({left}); `clusterd --cleanup` removes it"));
    }
    error
}

async fn refuse_foreign_vips(addresses: &Addresses, settings: &Settings) -> anyhow::Result<()> {
    let vips: Vec<IpAddr> = settings.groups.iter().flat_map(|group| group.vips.clone()).collect();
    let foreign = addresses.foreign(&vips).await.context("cannot list the addresses of this host")?;
    let Some(first) = foreign.first() else { return Ok(()) };
    bail!(
        "the VIP {}/{} is configured on interface {} of this host, and not by the cluster; remove it there (and from \
         the system's network configuration), since the daemon puts it on the interface only where it may",
        first.ip,
        first.prefix,
        first.ifindex
    );
}

fn plane_options(settings: &Settings, local: &Local, service: &Service) -> dataplane::Options {
    dataplane::Options {
        pin_root: dataplane::PIN_ROOT.into(),
        cluster: local.cluster.clone(),
        node: local.node.clone(),
        interface: service.interface.clone(),
        xdp: match service.xdp {
            XdpMode::Auto => XdpPreference::Auto,
            XdpMode::Native => XdpPreference::Native,
            XdpMode::Generic => XdpPreference::Generic,
            XdpMode::PinOnly => XdpPreference::PinOnly,
        },
        chain: service.chain.clone(),
        egress: dataplane::EgressHook::Auto,
        groups: group_vips(settings, local),
    }
}

fn tell_maps(plane: &DataPlane, events: &EventLog) {
    let text = match plane.maps_were() {
        MapsWere::Absent => return,
        MapsWere::Adopted => {
            "the programs and leases of the daemon before this one were taken over".to_owned()
        }
        MapsWere::CarriedOver { from } => {
            format!(
                "the leases of the daemon before this one were taken over from maps of another layout ({from})"
            )
        }
        MapsWere::Unfit { reason } => {
            format!(
                "the maps of the daemon before this one do not fit ({reason}); they were made dark and replaced"
            )
        }
    };
    tracing::info!("{text}");
    events.record(clock::now(), EventBody::told("maps_adopted", text));
}

/// Attaches to the service interface, if it is there. One that is missing is waited for; one that somebody else's
/// program sits on is an error, since waiting would not mend it.
async fn service_interface(
    plane: &mut DataPlane,
    service: &Service,
    addresses: &Addresses,
) -> anyhow::Result<Attachment> {
    let monitor = LinkMonitor::new(addresses.record()).context("cannot watch the network interfaces")?;
    let attached = match plane.attach() {
        Ok(attached) => Some(attached),
        Err(DataPlaneError::NoInterface { interface }) => {
            tracing::warn!("there is no interface {interface} yet; its groups are in fault until there is");
            None
        }
        Err(error) => return Err(error.into()),
    };
    let vips = watched_vips(plane.groups());
    let mut watch = Watch::new(monitor, vips, attached);
    watch.settle().await?;
    // Interfaces that came since are fenced by the watch; those that were there before it by this.
    plane.fence_all()?;
    let sockets = match attached {
        Some(attached) => Some(watch.open_sockets(attached.ifindex).with_context(|| {
            format!("cannot open a raw socket on {} (it needs CAP_NET_RAW)", service.interface)
        })?),
        None => None,
    };
    let link = watch.link();
    Ok((link, sockets.filter(|_| matches!(link, Link::Up { .. })), watch))
}

/// Marks the paths whose local address is on the service interface, which the configuration alone cannot tell. Returns
/// this node's IPv4 address there: a path's if one has one, else another.
pub(super) fn find_service_paths(
    settings: &mut Settings,
    local: &mut Local,
    own: &[InterfaceAddress],
    service: Option<u32>,
) -> Option<Ipv4Addr> {
    let there = |ip: IpAddr| {
        own.iter().find(|address| address.ip == ip && Some(address.ifindex) == service).map(|own| own.prefix)
    };
    let elsewhere =
        |ip: IpAddr| own.iter().any(|address| address.ip == ip && Some(address.ifindex) != service);
    let mut found = None;
    for (peer, ends) in settings.peers.iter_mut().zip(&local.peers) {
        let kind = ends.kind;
        for (path, ends) in peer.paths.iter_mut().zip(&ends.paths) {
            let (ip, remote) = (ends.local.ip(), ends.remote.ip());
            path.service = match there(ip) {
                // A witness may be behind a router: then the path says nothing of the link.
                Some(prefix) => kind == HostKind::Node || same_network(ip, remote, prefix),
                None => path.service && !elsewhere(ip),
            };
            if let IpAddr::V4(ip) = ip
                && path.service
            {
                found = Some(ip);
            }
        }
    }
    // Paths may be IPv6 where VIPs are IPv4.
    let on_service = own.iter().filter(|address| Some(address.ifindex) == service && !address.ours);
    let other = on_service.map(|address| address.ip).find_map(|ip| match ip {
        IpAddr::V4(ip) => Some(ip),
        IpAddr::V6(_) => None,
    });
    // The configuration could only guess; what the host shows is better.
    local.warnings.retain(|warning| !matches!(warning, Warning::NoServicePath { .. }));
    for (peer, ends) in settings.peers.iter().zip(&local.peers) {
        if ends.kind == HostKind::Node && !peer.paths.iter().any(|path| path.service) {
            local.warnings.push(Warning::NoServicePath { peer: ends.name.clone() });
        }
    }
    found.or(other)
}
