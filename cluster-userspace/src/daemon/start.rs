//! The start of the daemon: what is opened in which order. Whatever can be wrong is found out before anything is
//! changed, and what a daemon that died has left is taken over without a gap.

use std::net::Ipv4Addr;
use std::path::Path;
use std::sync::{Arc, Mutex};

use anyhow::{Context as _, bail};
use cluster_proto::{GroupIndex, Incarnation, Link, Settings, Start};
use tokio::sync::mpsc;

use super::answers::Answers;
use super::watch::Watch;
use super::{Daemon, Reports, SharedPlane};
use crate::config::{Config, Local, Warning, XdpMode};
use crate::control::{Call, ControlSocket, EventBody, EventLog};
use crate::dataplane::{self, DataPlane, DataPlaneError, GroupVips, MapsWere, XdpPreference};
use crate::driver::mailbox::Shown;
use crate::driver::wake::Wake;
use crate::driver::{address_thread, clock, heartbeat_loop, mailbox};
use crate::epoch_file::EpochFile;
use crate::network::addresses::Addresses;
use crate::network::links::{InterfaceAddress, LinkMonitor};
use crate::network::packet_socket::ArpSocket;

/// Calls of the control socket and reports that wait at the same time.
const QUEUE: usize = 64;

/// Opens everything and starts the threads.
pub(super) async fn start(
    config: &Config,
    node: &str,
    socket: Option<&Path>,
) -> anyhow::Result<(Daemon, ControlSocket, Reports, mpsc::Sender<Call>)> {
    let started = clock::now();
    let (mut settings, mut local) = config.settings(node)?;
    if let Some(socket) = socket {
        socket.clone_into(&mut local.socket);
    }
    dataplane::missing_capabilities()?;
    let epochs = EpochFile::open(&local.state_dir)?;
    let reserved_epochs = epochs.read()?;
    let addresses = Addresses::new(&local.state_dir).context("cannot reach the kernel's address tables")?;
    refuse_foreign_vips(&addresses, &settings).await?;

    // The lock of the pin directory makes sure that no other daemon runs as this node.
    let options = plane_options(&settings, &local);
    let mut plane = DataPlane::open(options)?;
    let events = EventLog::new();
    tell_maps(&plane, &events);
    // Before anything can hold a VIP, nothing may leave in its name.
    let attached = attach(&mut plane, &local, &addresses).await;
    let ((link, arp, watch), control) = match attached {
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

    // What a daemon that was killed has left on an interface belongs there only with its lease.
    let kept = |index: usize| adopted.iter().any(|&(GroupIndex(kept), ..)| kept == index);
    let groups = settings.groups.iter().enumerate().filter(|&(index, _)| !kept(index));
    let abandoned: Vec<Ipv4Addr> = groups.flat_map(|(_, group)| group.vips.iter().copied()).collect();
    let removed =
        addresses.remove_all_ours(&abandoned).await.context("cannot take old VIPs off the interfaces")?;
    if removed > 0 {
        tracing::info!("{removed} VIPs that the daemon before this one had left were taken off");
    }

    let (thread_end, daemon_end) =
        mailbox::mailbox().context("cannot make the heartbeat thread's mailbox")?;
    let (address_reports, reports_of_addresses) = mpsc::channel(QUEUE);
    let vips = local.groups.iter().map(|group| group.vips.clone()).collect();
    let (address_thread, jobs) =
        address_thread::spawn(addresses.record(), vips, daemon_end.wake_thread(), address_reports)
            .context("cannot start the address thread")?;
    watch.publish(&address_thread.state);
    let wake = Wake::new(daemon_end.wake_daemon()).context("cannot wait for the heartbeat thread")?;
    let paths =
        local.peers.iter().map(|peer| peer.paths.iter().map(|path| (path.local, path.remote)).collect());
    let setup = heartbeat_loop::Setup {
        settings: settings.clone(),
        start: Start { now: clock::now(), incarnation: incarnation()?, reserved_epochs, adopted, link },
        paths: paths.collect(),
        service_address,
        leases,
        slots,
        arp,
        mailbox: thread_end,
        addresses: jobs,
    };
    let spawned = heartbeat_loop::spawn(setup).with_context(|| {
        format!("cannot open the heartbeat sockets on UDP port {} (is it in use?)", local.port)
    });
    let (thread, granted) = match spawned {
        Ok(spawned) => spawned,
        Err(error) => {
            address_thread.stop();
            return Err(undone(plane, error));
        }
    };

    let mut warnings: Vec<String> = local.warnings.iter().map(ToString::to_string).collect();
    warnings.extend(granted.warning());
    for warning in &warnings {
        tracing::warn!("{warning}");
    }
    let paths_in_all = settings.peers.iter().map(|peer| peer.paths.len()).sum();
    let room = Shown::with_room(settings.groups.len(), settings.peers.len(), paths_in_all);
    let answers = Answers::new(warnings, granted.whole(), room);
    let (calls, calls_out) = mpsc::channel(QUEUE);
    let (reservations_in, reservations) = mpsc::channel(QUEUE);
    let (counts_in, counts) = mpsc::channel(QUEUE);
    let daemon = Daemon {
        settings,
        local,
        started,
        mailbox: daemon_end,
        thread,
        addresses: address_thread,
        plane: SharedPlane(Arc::new(Mutex::new(Some(plane)))),
        epochs,
        events,
        watch,
        answers,
        tables: addresses,
        rounds: 0,
        reservations: reservations_in,
        counts: counts_in,
    };
    tracing::info!(node, socket = %daemon.local.socket.display(), "started");
    let reports = Reports { wake, addresses: reports_of_addresses, calls: calls_out, counts, reservations };
    Ok((daemon, control, reports, calls))
}

type Service = (Link, Option<ArpSocket>, Watch);

async fn attach(
    plane: &mut DataPlane,
    local: &Local,
    addresses: &Addresses,
) -> anyhow::Result<(Service, ControlSocket)> {
    plane.fence_all()?;
    let control = ControlSocket::bind(&local.socket)?;
    Ok((service_interface(plane, local, addresses).await?, control))
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
    let vips: Vec<Ipv4Addr> = settings.groups.iter().flat_map(|group| group.vips.clone()).collect();
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

fn plane_options(settings: &Settings, local: &Local) -> dataplane::Options {
    let groups = settings.groups.iter().zip(&local.groups).map(|(group, named)| GroupVips {
        id: group.id,
        vips: named
            .vips
            .iter()
            .map(|vip| dataplane::Vip { address: vip.address, prefix: vip.prefix })
            .collect(),
    });
    dataplane::Options {
        pin_root: dataplane::PIN_ROOT.into(),
        cluster: local.cluster.clone(),
        node: local.node.clone(),
        interface: local.interface.clone(),
        xdp: match local.xdp {
            XdpMode::Auto => XdpPreference::Auto,
            XdpMode::Native => XdpPreference::Native,
            XdpMode::Generic => XdpPreference::Generic,
        },
        egress: dataplane::EgressHook::Auto,
        groups: groups.collect(),
    }
}

fn tell_maps(plane: &DataPlane, events: &EventLog) {
    let text = match plane.maps_were() {
        MapsWere::Absent => return,
        MapsWere::Adopted => {
            "the programs and leases of the daemon before this one were taken over".to_owned()
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
    local: &Local,
    addresses: &Addresses,
) -> anyhow::Result<Service> {
    let monitor = LinkMonitor::new(addresses.record()).context("cannot watch the network interfaces")?;
    let attached = match plane.attach() {
        Ok(attached) => Some(attached),
        Err(DataPlaneError::NoInterface { interface }) => {
            tracing::warn!("there is no interface {interface} yet; its groups are in fault until there is");
            None
        }
        Err(error) => return Err(error.into()),
    };
    let mut watch = Watch::new(monitor, local, attached);
    watch.settle().await?;
    // Interfaces that came since are fenced by the watch; those that were there before it by this.
    plane.fence_all()?;
    let arp = match attached {
        Some(attached) => Some(ArpSocket::open(attached.ifindex).with_context(|| {
            format!("cannot open a raw ARP socket on {} (it needs CAP_NET_RAW)", local.interface)
        })?),
        None => None,
    };
    let link = watch.link();
    Ok((link, arp.filter(|_| matches!(link, Link::Up { .. })), watch))
}

/// Marks the paths whose local address is on the service interface, which the configuration alone cannot tell. Returns
/// this node's address there.
fn find_service_paths(
    settings: &mut Settings,
    local: &mut Local,
    own: &[InterfaceAddress],
    service: Option<u32>,
) -> Option<Ipv4Addr> {
    let on_service =
        |ip: Ipv4Addr| own.iter().any(|address| address.ip == ip && Some(address.ifindex) == service);
    let elsewhere =
        |ip: Ipv4Addr| own.iter().any(|address| address.ip == ip && Some(address.ifindex) != service);
    let mut found = None;
    for (peer, ends) in settings.peers.iter_mut().zip(&local.peers) {
        for (path, ends) in peer.paths.iter_mut().zip(&ends.paths) {
            let ip = *ends.local.ip();
            path.service = on_service(ip) || (path.service && !elsewhere(ip));
            if path.service {
                found = Some(ip);
            }
        }
    }
    // The configuration could only guess; what the host shows is better.
    local.warnings.retain(|warning| !matches!(warning, Warning::NoServicePath { .. }));
    for (peer, ends) in settings.peers.iter().zip(&local.peers) {
        if !peer.paths.iter().any(|path| path.service) {
            local.warnings.push(Warning::NoServicePath { peer: ends.name.clone() });
        }
    }
    found
}

fn incarnation() -> anyhow::Result<Incarnation> {
    let random = getrandom::u64().context("the kernel gives no random number")?;
    // Zero stands for "unknown" on the wire.
    Ok(Incarnation(random.max(1)))
}
