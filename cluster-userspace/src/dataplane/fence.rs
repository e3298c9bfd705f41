//! The egress program on every Ethernet interface, so that this host's kernel neither answers for a VIP nor sends from
//! one without a lease.

use std::collections::BTreeMap;
use std::path::PathBuf;

use aya::programs::links::{FdLink, Link, LinkOrder};
use aya::programs::tc::{
    NlOptions, SchedClassifier, SchedClassifierLink, TcAttachOptions, TcAttachType, TcHandle,
    qdisc_add_clsact,
};

use super::error::{DataPlaneError, FenceFailure};
use super::ingress::{pinned, program_of, remove};
use super::interfaces::{self, Interface};
use super::options::EgressHook;
use super::pins::PinDirectory;

/// Filters of the same priority as ours may be of another kind, which the kernel does not mix; then the next is tried.
const PRIORITIES: std::ops::RangeInclusive<u16> = 1..=16;

/// A fenced interface.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Fenced {
    /// Its number.
    pub ifindex: u32,
    /// Its name when it was fenced.
    pub name: String,
    /// How the program is attached.
    pub hook: Hook,
}

/// How the egress program is attached.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Hook {
    /// By a TCX link, before all other programs.
    Tcx,
    /// By a filter of the clsact queueing discipline.
    Clsact,
}

/// All fences of the namespace.
#[derive(Debug)]
pub(super) struct Fences {
    wanted: EgressHook,
    /// The handle of our filters, which tells one node's from another's on the same host.
    handle: TcHandle,
    fenced: BTreeMap<u32, Fenced>,
}

/// What is recorded about a filter, by the name of a directory beside the pins.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Filter {
    ifindex: u32,
    priority: u16,
    /// Whether the queueing discipline was made for it.
    made_discipline: bool,
}

impl Fences {
    pub(super) fn new(wanted: EgressHook, cluster: &str, node: &str) -> Self {
        Self { wanted, handle: filter_handle(cluster, node), fenced: BTreeMap::new() }
    }

    pub(super) fn list(&self) -> impl Iterator<Item = &Fenced> {
        self.fenced.values()
    }

    /// Puts the program where a daemon before this one had put its own, and forgets interfaces that are gone.
    pub(super) fn adopt(
        &mut self,
        program: &mut SchedClassifier,
        directory: &PinDirectory,
    ) -> Result<(), DataPlaneError> {
        for name in directory.names()? {
            let ifindex = tcx_ifindex(&name).or(Filter::parse(&name).map(|filter| filter.ifindex));
            if let Some(ifindex) = ifindex {
                match interface(ifindex)? {
                    Some(interface) => self.fence(program, directory, &interface)?,
                    None => self.unfence(directory, ifindex)?,
                }
            }
        }
        Ok(())
    }

    /// Makes sure that the program is on the interface.
    pub(super) fn fence(
        &mut self,
        program: &mut SchedClassifier,
        directory: &PinDirectory,
        interface: &Interface,
    ) -> Result<(), DataPlaneError> {
        let hook = match self.wanted {
            EgressHook::Tcx => {
                attach_tcx(program, directory, interface)?;
                Hook::Tcx
            }
            EgressHook::Clsact => {
                self.attach_clsact(program, directory, interface)?;
                Hook::Clsact
            }
            EgressHook::Auto => match attach_tcx(program, directory, interface) {
                Ok(()) => Hook::Tcx,
                // Kernels before 6.6 do not know the attach type.
                Err(error) if errno(&error) == Some(libc::EINVAL) => {
                    self.attach_clsact(program, directory, interface)?;
                    Hook::Clsact
                }
                Err(error) => return Err(error),
            },
        };
        let fenced = Fenced { ifindex: interface.ifindex, name: interface.name.clone(), hook };
        self.fenced.insert(interface.ifindex, fenced);
        // The other hook may be left from a daemon that was told otherwise; it goes once this one is in place.
        match hook {
            Hook::Tcx => self.remove_filters(directory, interface.ifindex),
            Hook::Clsact => remove_tcx(directory, interface.ifindex),
        }
    }

    /// Takes the program off the interface, if the interface is still there, and forgets it.
    pub(super) fn unfence(&mut self, directory: &PinDirectory, ifindex: u32) -> Result<(), DataPlaneError> {
        self.fenced.remove(&ifindex);
        remove_tcx(directory, ifindex)?;
        self.remove_filters(directory, ifindex)
    }

    /// Takes the program off all interfaces.
    pub(super) fn unfence_all(&mut self, directory: &PinDirectory) -> Result<(), DataPlaneError> {
        for name in directory.names()? {
            if let Some(ifindex) = tcx_ifindex(&name).or(Filter::parse(&name).map(|filter| filter.ifindex)) {
                self.unfence(directory, ifindex)?;
            }
        }
        Ok(())
    }

    fn attach_clsact(
        &self,
        program: &mut SchedClassifier,
        directory: &PinDirectory,
        interface: &Interface,
    ) -> Result<(), DataPlaneError> {
        let failed = |source: FenceFailure| failure("set up", &interface.name, source);
        for filter in filters(directory, interface.ifindex)? {
            let there = self.link(&interface.name, filter).map_err(|error| failed(error.into()))?;
            match program.attach_to_link(there) {
                Ok(id) => {
                    leave_in_kernel(program.take_link(id).map_err(|error| failed(error.into()))?);
                    return Ok(());
                }
                // The record outlived its filter: the interface is a new one, or somebody removed the filter.
                Err(_) => directory.remove(&filter.name())?,
            }
        }
        let made_discipline = match qdisc_add_clsact(&interface.name) {
            Ok(()) => true,
            Err(error) if errno(&error) == Some(libc::EEXIST) => false,
            Err(error) => return Err(failed(error.into())),
        };
        let mut refusal = None;
        for priority in PRIORITIES {
            let filter = Filter { ifindex: interface.ifindex, priority, made_discipline };
            let options = NlOptions { priority, handle: self.handle, classid: None };
            // The record comes first: without it nobody would find the filter again.
            let record = directory.entry(filter.name());
            std::fs::create_dir(&record).map_err(|error| failed(error.into()))?;
            match program.attach_with_options(
                &interface.name,
                TcAttachType::Egress,
                TcAttachOptions::Netlink(options),
            ) {
                Ok(id) => {
                    leave_in_kernel(program.take_link(id).map_err(|error| failed(error.into()))?);
                    return Ok(());
                }
                Err(error) => {
                    directory.remove(&filter.name())?;
                    refusal = Some(error);
                }
            }
        }
        if made_discipline {
            interfaces::remove_clsact(interface.ifindex).map_err(|error| failed(error.into()))?;
        }
        match refusal {
            Some(error) => Err(failed(error.into())),
            None => Ok(()),
        }
    }

    /// Removes our filters from the interface, and the queueing discipline if it was made for them and nobody else has
    /// put a filter there.
    fn remove_filters(&self, directory: &PinDirectory, ifindex: u32) -> Result<(), DataPlaneError> {
        for filter in filters(directory, ifindex)? {
            if let Some(interface) = interface(ifindex)? {
                let failed = |source: FenceFailure| failure("remove", &interface.name, source);
                let link = self.link(&interface.name, filter).map_err(|error| failed(error.into()))?;
                // Of a filter that somebody else has removed there is nothing left to remove.
                let _gone = link.detach();
                let others = interfaces::clsact_filters(ifindex).map_err(|error| failed(error.into()))?;
                if filter.made_discipline && others == 0 {
                    match interfaces::remove_clsact(ifindex) {
                        Err(error)
                            if !interfaces::is_absence(&error)
                                && error.raw_os_error() != Some(libc::EINVAL) =>
                        {
                            return Err(failed(error.into()));
                        }
                        _ => {}
                    }
                }
            }
            directory.remove(&filter.name())?;
        }
        Ok(())
    }

    fn link(&self, interface: &str, filter: Filter) -> std::io::Result<SchedClassifierLink> {
        SchedClassifierLink::attached(interface, TcAttachType::Egress, filter.priority, self.handle, None)
    }
}

fn attach_tcx(
    program: &mut SchedClassifier,
    directory: &PinDirectory,
    interface: &Interface,
) -> Result<(), DataPlaneError> {
    let failed = |source: FenceFailure| failure("set up", &interface.name, source);
    let pin = tcx_pin(directory, interface.ifindex);
    if let Some(link) = pinned(&pin)? {
        let id = program_of(&link, &pin)?;
        let (_, there) = SchedClassifier::query_tcx(&interface.name, TcAttachType::Egress)
            .map_err(|error| failed(error.into()))?;
        if there.iter().any(|program| program.id() == id) {
            let link = SchedClassifierLink::try_from(link).map_err(|error| failed(error.into()))?;
            let id = program.attach_to_link(link).map_err(|error| failed(error.into()))?;
            drop(program.take_link(id).map_err(|error| failed(error.into()))?);
            return Ok(());
        }
        // The number belongs to another interface now.
        remove(link, &pin)?;
    }
    let options = TcAttachOptions::TcxOrder(LinkOrder::first());
    let id = program
        .attach_with_options(&interface.name, TcAttachType::Egress, options)
        .map_err(|error| failed(error.into()))?;
    let link = program.take_link(id).map_err(|error| failed(error.into()))?;
    let link =
        FdLink::try_from(link).map_err(|_| DataPlaneError::NotALink { interface: interface.name.clone() })?;
    link.pin(&pin).map_err(|error| failed(std::io::Error::other(error.to_string()).into()))?;
    Ok(())
}

fn remove_tcx(directory: &PinDirectory, ifindex: u32) -> Result<(), DataPlaneError> {
    let pin = tcx_pin(directory, ifindex);
    match pinned(&pin)? {
        Some(link) => remove(link, &pin),
        None => Ok(()),
    }
}

/// The filter stays in the kernel although this process forgets it.
fn leave_in_kernel(link: SchedClassifierLink) {
    std::mem::forget(link);
}

fn tcx_pin(directory: &PinDirectory, ifindex: u32) -> PathBuf {
    directory.entry(format!("egress-{ifindex}"))
}

fn tcx_ifindex(name: &str) -> Option<u32> {
    name.strip_prefix("egress-")?.parse().ok()
}

impl Filter {
    fn name(self) -> String {
        format!("clsact-{}-{}-{}", self.ifindex, self.priority, u8::from(self.made_discipline))
    }

    fn parse(name: &str) -> Option<Self> {
        let mut fields = name.strip_prefix("clsact-")?.split('-');
        let filter = Self {
            ifindex: fields.next()?.parse().ok()?,
            priority: fields.next()?.parse().ok()?,
            made_discipline: fields.next()? == "1",
        };
        fields.next().is_none().then_some(filter)
    }
}

fn filters(directory: &PinDirectory, ifindex: u32) -> Result<Vec<Filter>, DataPlaneError> {
    let names = directory.names()?;
    Ok(names
        .iter()
        .filter_map(|name| Filter::parse(name))
        .filter(|filter| filter.ifindex == ifindex)
        .collect())
}

/// FNV-1a over both names, which keeps the filters of two nodes on one host apart; never 0, which means any.
fn filter_handle(cluster: &str, node: &str) -> TcHandle {
    let names = cluster.bytes().chain([0]).chain(node.bytes());
    let hash = names.fold(0x811c_9dc5_u32, |hash, byte| (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193));
    TcHandle::from(hash.max(1))
}

fn interface(ifindex: u32) -> Result<Option<Interface>, DataPlaneError> {
    interfaces::by_index(ifindex).map_err(|source| DataPlaneError::Netlink {
        attempt: format!("ask for the network interface {ifindex}"),
        source,
    })
}

fn failure(attempt: &'static str, interface: &str, source: FenceFailure) -> DataPlaneError {
    DataPlaneError::Fence { attempt, interface: interface.to_owned(), source }
}

/// The number of the system's error that lies behind this one.
fn errno(error: &(dyn std::error::Error + 'static)) -> Option<i32> {
    let mut cause = Some(error);
    while let Some(error) = cause {
        if let Some(io) = error.downcast_ref::<std::io::Error>() {
            return io.raw_os_error();
        }
        cause = error.source();
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_are_read_back() {
        for filter in [
            Filter { ifindex: 2, priority: 1, made_discipline: true },
            Filter { ifindex: u32::MAX, priority: u16::MAX, made_discipline: false },
        ] {
            assert_eq!(Filter::parse(&filter.name()), Some(filter));
        }
        for name in ["clsact-", "clsact-1", "clsact-1-2", "clsact-1-2-1-1", "clsact-x-2-1", "egress-1", ""] {
            assert_eq!(Filter::parse(name), None, "{name}");
        }
        assert_eq!(tcx_ifindex("egress-17"), Some(17));
        assert_eq!(tcx_ifindex("egress-"), None);
    }

    #[test]
    fn nodes_have_handles_of_their_own() {
        assert_ne!(filter_handle("edge", "a"), filter_handle("edge", "b"));
        assert_ne!(filter_handle("edge", "a"), filter_handle("edgea", ""));
    }
}
