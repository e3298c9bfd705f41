//! `clusterd --cleanup`: removes what a daemon that was killed has left behind, without a daemon.

use std::net::IpAddr;
use std::path::Path;

use anyhow::Context as _;

use crate::config::{Config, HostKind};
use crate::dataplane::{self, PIN_ROOT};
use crate::network::addresses::Addresses;
use crate::network::unicast_filter;

/// What was removed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Cleaned {
    /// Of a node.
    Node {
        /// VIPs that were marked as the cluster's.
        addresses: usize,
        /// Whether there were programs, filters, maps or pins.
        programs: bool,
    },
    /// A witness leaves nothing behind.
    Witness,
}

/// Removes VIPs, programs, filters, virtual Ethernet addresses, maps and pins of a node whose daemon is dead, in the network
/// namespace it ran in.
///
/// # Errors
/// The daemon is alive, the process may not, or the kernel refuses.
pub async fn cleanup(config: &Config, node: &str, socket: Option<&Path>) -> anyhow::Result<Cleaned> {
    let (settings, mut local) = config.settings(node)?;
    if let Some(socket) = socket {
        socket.clone_into(&mut local.socket);
    }
    if local.kind() == HostKind::Witness {
        return Ok(Cleaned::Witness);
    }
    dataplane::missing_capabilities()?;
    let mut vips: Vec<IpAddr> = settings.groups.iter().flat_map(|group| group.vips.clone()).collect();
    // Nothing is touched before the lock shows that the daemon is dead; and the addresses go before the programs that
    // keep this host from answering for them.
    let locked = dataplane::lock_remains(PIN_ROOT.as_ref(), &local.cluster, &local.node)?;
    if let Some(remains) = &locked {
        // The file may have changed since.
        vips.extend(remains.vips()?);
    }
    let addresses = Addresses::new(&local.state_dir).context("cannot reach the kernel's address tables")?;
    let removed =
        addresses.remove_all_ours(&vips).await.context("cannot take the VIPs off the interfaces")?;
    let programs = locked.is_some();
    if let Some(service) = &local.service {
        let ifindex = nix::net::if_::if_nametoindex(service.interface.as_str()).ok();
        for (ifindex, mac) in ifindex.into_iter().flat_map(|ifindex| {
            settings
                .groups
                .iter()
                .flat_map(move |group| group.virtual_macs.iter().map(move |mac| (ifindex, *mac)))
        }) {
            unicast_filter::remove(ifindex, mac)
                .await
                .with_context(|| format!("cannot take {mac} out of the filter of {}", service.interface))?;
        }
    }
    if let Some(remains) = locked {
        remains.remove()?;
    }
    if let Ok(metadata) = std::fs::symlink_metadata(&local.socket)
        && std::os::unix::fs::FileTypeExt::is_socket(&metadata.file_type())
        && std::os::unix::net::UnixStream::connect(&local.socket).is_err()
    {
        std::fs::remove_file(&local.socket)
            .with_context(|| format!("cannot remove the stale socket {}", local.socket.display()))?;
    }
    Ok(Cleaned::Node { addresses: removed, programs })
}
