//! The classifiers on interfaces: the egress program on every one that is Ethernet, so that this host's kernel neither
//! answers for a VIP nor sends from one without a lease, and on the service interface the program that mends what comes in.

use std::collections::BTreeMap;
use std::path::PathBuf;

use aya::programs::links::{FdLink, Link, LinkOrder};
use aya::programs::tc::{
    NlOptions, SchedClassifier, SchedClassifierLink, TcAttachOptions, TcAttachType, TcHandle,
    qdisc_add_clsact,
};

use super::error::{ClassifierFailure, DataPlaneError};
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

/// Which of the two programs.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Direction {
    /// The fence, for what goes out.
    Egress,
    /// The mending, of what comes in.
    Ingress,
}

/// Where in the namespace one of the programs is.
#[derive(Debug)]
pub(super) struct Classifiers {
    direction: Direction,
    wanted: EgressHook,
    /// The handle of our filters, which tells one node's from another's on the same host.
    handle: TcHandle,
    fenced: BTreeMap<u32, Fenced>,
}

/// What is recorded about a filter, by the name of a directory beside the pins.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Filter {
    direction: Direction,
    ifindex: u32,
    priority: u16,
    /// Whether the queueing discipline was made for it.
    made_discipline: bool,
}

impl Direction {
    fn attach_type(self) -> TcAttachType {
        match self {
            Self::Egress => TcAttachType::Egress,
            Self::Ingress => TcAttachType::Ingress,
        }
    }

    /// What the pin of a link is called, before the interface's number.
    const fn link_prefix(self) -> &'static str {
        match self {
            Self::Egress => "egress-",
            Self::Ingress => "ingress-",
        }
    }

    /// What the record of a filter is called, before the interface's number.
    const fn filter_prefix(self) -> &'static str {
        match self {
            Self::Egress => "clsact-",
            Self::Ingress => "clsact-ingress-",
        }
    }

    const fn program(self) -> &'static str {
        match self {
            Self::Egress => "the egress fence",
            Self::Ingress => "the program for virtual Ethernet addresses",
        }
    }
}

impl Classifiers {
    pub(super) fn new(direction: Direction, wanted: EgressHook, cluster: &str, node: &str) -> Self {
        Self { direction, wanted, handle: filter_handle(cluster, node), fenced: BTreeMap::new() }
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
            if let Some(ifindex) = self.ifindex_in(&name) {
                match interface(ifindex)? {
                    Some(interface) => self.put_on(program, directory, &interface)?,
                    None => self.take_off(directory, ifindex)?,
                }
            }
        }
        Ok(())
    }

    /// Makes sure that the program is on the interface.
    pub(super) fn put_on(
        &mut self,
        program: &mut SchedClassifier,
        directory: &PinDirectory,
        interface: &Interface,
    ) -> Result<(), DataPlaneError> {
        let hook = match self.wanted {
            EgressHook::Tcx => {
                self.attach_tcx(program, directory, interface)?;
                Hook::Tcx
            }
            EgressHook::Clsact => {
                self.attach_clsact(program, directory, interface)?;
                Hook::Clsact
            }
            EgressHook::Auto => match self.attach_tcx(program, directory, interface) {
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
            Hook::Clsact => self.remove_tcx(directory, interface.ifindex),
        }
    }

    /// Takes the program off the interface, if the interface is still there, and forgets it.
    pub(super) fn take_off(&mut self, directory: &PinDirectory, ifindex: u32) -> Result<(), DataPlaneError> {
        self.fenced.remove(&ifindex);
        self.remove_tcx(directory, ifindex)?;
        self.remove_filters(directory, ifindex)
    }

    /// Takes the program off all interfaces.
    pub(super) fn take_off_all(&mut self, directory: &PinDirectory) -> Result<(), DataPlaneError> {
        for name in directory.names()? {
            if let Some(ifindex) = self.ifindex_in(&name) {
                self.take_off(directory, ifindex)?;
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
        let failed = |source: ClassifierFailure| self.failure("set up", &interface.name, source);
        for filter in self.filters(directory, interface.ifindex)? {
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
            let filter =
                Filter { direction: self.direction, ifindex: interface.ifindex, priority, made_discipline };
            let options = NlOptions { priority, handle: self.handle, classid: None };
            // The record comes first: without it nobody would find the filter again.
            let record = directory.entry(filter.name());
            std::fs::create_dir(&record).map_err(|error| failed(error.into()))?;
            match program.attach_with_options(
                &interface.name,
                self.direction.attach_type(),
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
        for filter in self.filters(directory, ifindex)? {
            if let Some(interface) = interface(ifindex)? {
                let failed = |source: ClassifierFailure| self.failure("remove", &interface.name, source);
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
        SchedClassifierLink::attached(
            interface,
            self.direction.attach_type(),
            filter.priority,
            self.handle,
            None,
        )
    }

    fn attach_tcx(
        &self,
        program: &mut SchedClassifier,
        directory: &PinDirectory,
        interface: &Interface,
    ) -> Result<(), DataPlaneError> {
        let failed = |source: ClassifierFailure| self.failure("set up", &interface.name, source);
        let pin = self.tcx_pin(directory, interface.ifindex);
        if let Some(link) = pinned(&pin)? {
            let id = program_of(&link, &pin)?;
            let (_, there) = SchedClassifier::query_tcx(&interface.name, self.direction.attach_type())
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
            .attach_with_options(&interface.name, self.direction.attach_type(), options)
            .map_err(|error| failed(error.into()))?;
        let link = program.take_link(id).map_err(|error| failed(error.into()))?;
        let link = FdLink::try_from(link)
            .map_err(|_| DataPlaneError::NotALink { interface: interface.name.clone() })?;
        link.pin(&pin).map_err(|error| failed(std::io::Error::other(error.to_string()).into()))?;
        Ok(())
    }

    fn remove_tcx(&self, directory: &PinDirectory, ifindex: u32) -> Result<(), DataPlaneError> {
        let pin = self.tcx_pin(directory, ifindex);
        match pinned(&pin)? {
            Some(link) => remove(link, &pin),
            None => Ok(()),
        }
    }

    fn tcx_pin(&self, directory: &PinDirectory, ifindex: u32) -> PathBuf {
        directory.entry(format!("{}{ifindex}", self.direction.link_prefix()))
    }

    /// The interface that this entry of the directory is about, if it is one of ours.
    fn ifindex_in(&self, name: &str) -> Option<u32> {
        let link = name.strip_prefix(self.direction.link_prefix()).and_then(|ifindex| ifindex.parse().ok());
        link.or(Filter::parse(self.direction, name).map(|filter| filter.ifindex))
    }

    fn filters(&self, directory: &PinDirectory, ifindex: u32) -> Result<Vec<Filter>, DataPlaneError> {
        let names = directory.names()?;
        Ok(names
            .iter()
            .filter_map(|name| Filter::parse(self.direction, name))
            .filter(|filter| filter.ifindex == ifindex)
            .collect())
    }

    fn failure(&self, attempt: &'static str, interface: &str, source: ClassifierFailure) -> DataPlaneError {
        DataPlaneError::Classifier {
            attempt,
            program: self.direction.program(),
            interface: interface.to_owned(),
            source: Box::new(source),
        }
    }
}

/// The filter stays in the kernel although this process forgets it.
fn leave_in_kernel(link: SchedClassifierLink) {
    std::mem::forget(link);
}

impl Filter {
    fn name(self) -> String {
        let Self { direction, ifindex, priority, made_discipline } = self;
        format!("{}{ifindex}-{priority}-{}", direction.filter_prefix(), u8::from(made_discipline))
    }

    fn parse(direction: Direction, name: &str) -> Option<Self> {
        let mut fields = name.strip_prefix(direction.filter_prefix())?.split('-');
        let filter = Self {
            direction,
            ifindex: fields.next()?.parse().ok()?,
            priority: fields.next()?.parse().ok()?,
            made_discipline: fields.next()? == "1",
        };
        fields.next().is_none().then_some(filter)
    }
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
        use Direction::{Egress, Ingress};
        for (direction, other) in [(Egress, Ingress), (Ingress, Egress)] {
            for filter in [
                Filter { direction, ifindex: 2, priority: 1, made_discipline: true },
                Filter { direction, ifindex: u32::MAX, priority: u16::MAX, made_discipline: false },
            ] {
                assert_eq!(Filter::parse(direction, &filter.name()), Some(filter));
                assert_eq!(Filter::parse(other, &filter.name()), None);
            }
            for rest in ["", "1", "1-2", "1-2-1-1", "x-2-1"] {
                let name = format!("{}{rest}", direction.filter_prefix());
                assert_eq!(Filter::parse(direction, &name), None, "{name}");
            }
            let classifiers = Classifiers::new(direction, EgressHook::Auto, "c", "n");
            assert_eq!(classifiers.ifindex_in(&format!("{}17", direction.link_prefix())), Some(17));
            assert_eq!(classifiers.ifindex_in(&format!("{}17", other.link_prefix())), None);
            assert_eq!(classifiers.ifindex_in(&format!("{}17-1-0", direction.filter_prefix())), Some(17));
            assert_eq!(classifiers.ifindex_in(&format!("{}17-1-0", other.filter_prefix())), None);
            assert_eq!(classifiers.ifindex_in(direction.link_prefix()), None);
        }
    }

    #[test]
    fn nodes_have_handles_of_their_own() {
        assert_ne!(filter_handle("edge", "a"), filter_handle("edge", "b"));
        assert_ne!(filter_handle("edge", "a"), filter_handle("edgea", ""));
    }
}
