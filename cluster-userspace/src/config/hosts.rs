//! What `[[node]]` and `[[witness]]` have in common: a name, an id, addresses and a port, none of them used twice.

use std::collections::HashMap;
use std::fmt;
use std::net::IpAddr;
use std::path::PathBuf;

use cluster_proto::NodeId;
use cluster_proto::placement::Place;

use super::DEFAULT_PORT;
use super::document::{Findings, Item, Section};
use super::values::{self, Use};

/// What a host of the cluster is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum HostKind {
    /// It may serve.
    Node,
    /// It votes and never serves.
    Witness,
}

impl HostKind {
    /// As it is written everywhere: `node` or `witness`.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Node => "node",
            Self::Witness => "witness",
        }
    }
}

impl fmt::Display for HostKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// How the XDP program is attached to a node's interface.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum XdpMode {
    /// In the driver where it can, in the kernel's generic hook where it cannot.
    Auto,
    /// In the driver, or not at all.
    Native,
    /// In the kernel's generic hook.
    Generic,
    /// Not at all, but pinned for somebody else's dispatcher: the command line's `--pin-only`.
    PinOnly,
}

/// Where and how a node serves.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Service {
    /// The interface where clients reach the VIPs.
    pub interface: String,
    /// How the XDP program is attached to it.
    pub xdp: XdpMode,
    /// Where the user's XDP program is pinned that gets what ours lets pass (`xdp = "chain"`).
    pub chain: Option<PathBuf>,
}

/// One `[[node]]` or `[[witness]]`.
#[derive(Clone, Debug)]
pub(super) struct Host {
    pub(super) name: String,
    pub(super) id: NodeId,
    pub(super) addresses: Vec<IpAddr>,
    pub(super) port: u16,
    /// The processor its heartbeat thread is bound to.
    pub(super) cpu: Option<usize>,
    /// Whether its promises count.
    pub(super) voter: bool,
    /// `None` for a witness.
    pub(super) service: Option<Service>,
    /// How many groups it gets, and when. Of no meaning for a witness.
    pub(super) place: Place,
}

impl Host {
    pub(super) fn kind(&self) -> HostKind {
        if self.service.is_some() { HostKind::Node } else { HostKind::Witness }
    }
}

/// The keys that both kinds of section have, as far as they could be read.
pub(super) struct Common<'d> {
    pub(super) name: Option<&'d str>,
    id: Option<NodeId>,
    addresses: Option<Vec<IpAddr>>,
    port: Option<u16>,
    /// The outer `None` is an error.
    cpu: Option<Option<usize>>,
}

impl<'d> Common<'d> {
    pub(super) fn read(
        section: &Section<'d>,
        kind: HostKind,
        seen: &mut Seen,
        findings: &mut Findings,
    ) -> Self {
        let name = section
            .required("name", &format!("a {kind}'s name, by default its host name"), findings)
            .and_then(|item| values::name(&item, findings).map(|name| (item, name)))
            .filter(|(item, name)| seen.name(item, name, kind, findings))
            .map(|(_, name)| name);
        let owner = Owner { kind, name: name.unwrap_or("?").to_owned() };
        let addresses = section
            .required("addresses", "one address for each heartbeat path, such as [\"10.78.0.1\"]", findings)
            .and_then(|item| host_addresses(&item, &owner, seen, findings));
        let port = match section.item("port") {
            Some(item) => item.integer(1, u32::from(u16::MAX), findings).map(|port| port as u16),
            None => Some(DEFAULT_PORT),
        };
        let id = match section.item("id") {
            Some(item) => {
                let id = item.integer(1, u32::from(u16::MAX), findings).map(|id| NodeId(id as u16));
                id.filter(|id| seen.id(*id, &owner, item.at, &item.key, findings))
            }
            None => name.and_then(|name| {
                let id = NodeId::from_name(name);
                seen.id(id, &owner, section.at, &section.key_of("id"), findings).then_some(id)
            }),
        };
        let cpu = match section.item("cpu") {
            // As many as the kernel's set of processors has (`CPU_SETSIZE`); whether the host has it, only it can tell.
            Some(item) => item.integer(0, 1023, findings).map(|cpu| Some(cpu as usize)),
            None => Some(None),
        };
        Self { name, id, addresses, port, cpu }
    }

    /// The host, if all of it is right.
    pub(super) fn host(
        self,
        voter: Option<bool>,
        service: Option<Service>,
        place: Option<Place>,
    ) -> Option<Host> {
        Some(Host {
            name: self.name?.to_owned(),
            id: self.id?,
            addresses: self.addresses?,
            port: self.port?,
            cpu: self.cpu?,
            voter: voter?,
            service,
            place: place?,
        })
    }
}

fn host_addresses(
    item: &Item<'_>,
    owner: &Owner,
    seen: &mut Seen,
    findings: &mut Findings,
) -> Option<Vec<IpAddr>> {
    const MOST: usize = 8;
    let elements = item.array(findings)?;
    if elements.is_empty() || elements.len() > MOST {
        item.refuse(format!("must be 1 to {MOST} addresses, not {}", elements.len()), findings);
        return None;
    }
    let mut addresses = Vec::new();
    for (position, element) in elements.iter().enumerate() {
        if let Some(text) = element.string(findings)
            && let Some(address) = values::host_address(element, text, Use::Heartbeats, findings)
            && seen.address(element, address, owner, findings)
            && seen.family(element, position, address, owner, findings)
        {
            addresses.push(address);
        }
    }
    (addresses.len() == elements.len()).then_some(addresses)
}

/// Whose something is; shown as `node "a"`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Owner {
    kind: HostKind,
    name: String,
}

impl fmt::Display for Owner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} \"{}\"", self.kind, self.name)
    }
}

/// What may be given only once in the file.
#[derive(Default)]
pub(super) struct Seen {
    names: HashMap<String, (usize, HostKind)>,
    ids: HashMap<NodeId, Owner>,
    pub(super) addresses: HashMap<IpAddr, Owner>,
    /// The first address at each position, and whose it is.
    positions: HashMap<usize, (IpAddr, Owner)>,
}

impl Seen {
    fn name(&mut self, item: &Item<'_>, name: &str, kind: HostKind, findings: &mut Findings) -> bool {
        if let Some((at, other)) = self.names.get(name) {
            let line = findings.line(*at);
            let other = if *other == kind { format!("another {kind}") } else { format!("a {other}") };
            item.refuse(format!("{other} is called \"{name}\" (line {line}); names must differ"), findings);
            return false;
        }
        self.names.insert(name.to_owned(), (item.at, kind));
        true
    }

    fn id(&mut self, id: NodeId, owner: &Owner, at: usize, key: &str, findings: &mut Findings) -> bool {
        if let Some(other) = self.ids.get(&id) {
            findings.report(
                at,
                key,
                format!(
                    "{other} has the id {} too (where none is given it is made from the name); give one of \
                     them another `id`",
                    id.0
                ),
            );
            return false;
        }
        self.ids.insert(id, owner.clone());
        true
    }

    fn address(&mut self, item: &Item<'_>, address: IpAddr, owner: &Owner, findings: &mut Findings) -> bool {
        if let Some(other) = self.addresses.get(&address) {
            item.refuse(
                if other == owner {
                    format!("{address} is listed twice; each path needs an address of its own")
                } else {
                    format!("{address} is an address of {other} too; each host has its own")
                },
                findings,
            );
            return false;
        }
        self.addresses.insert(address, owner.clone());
        true
    }

    /// Paths are pairs by position, and both ends of a path are of one family.
    fn family(
        &mut self,
        item: &Item<'_>,
        position: usize,
        address: IpAddr,
        owner: &Owner,
        findings: &mut Findings,
    ) -> bool {
        let (first, of) = self.positions.entry(position).or_insert_with(|| (address, owner.clone()));
        let same = first.is_ipv4() == address.is_ipv4();
        if !same {
            item.refuse(
                format!(
                    "{address} is {}, and {first}, the address of {of} at the same position, is {}: a path is a pair of \
                     addresses at the same position, so both are IPv4 or both IPv6",
                    values::family(address),
                    values::family(*first)
                ),
                findings,
            );
        }
        same
    }
}
