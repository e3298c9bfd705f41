//! `[[node]]`: the hosts of the cluster.

use std::collections::HashMap;
use std::net::Ipv4Addr;

use cluster_proto::NodeId;

use super::document::{Findings, Item, Section};
use super::{DEFAULT_PORT, MAX_NODES, MAX_VOTERS, values};

/// How the XDP program is attached to a node's interface.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum XdpMode {
    /// In the driver where it can, in the kernel's generic hook where it cannot.
    Auto,
    /// In the driver, or not at all.
    Native,
    /// In the kernel's generic hook.
    Generic,
}

/// One `[[node]]`.
#[derive(Clone, Debug)]
pub(super) struct Node {
    pub(super) name: String,
    pub(super) id: NodeId,
    pub(super) interface: String,
    pub(super) addresses: Vec<Ipv4Addr>,
    pub(super) port: u16,
    pub(super) xdp: XdpMode,
    /// Whether its promises count.
    pub(super) voter: bool,
}

/// The nodes as far as they could be read. Groups are checked against this even if some node is wrong, so that one
/// slip does not hide others, nor produce errors about nodes that do exist.
pub(super) struct Nodes {
    /// `None` for a node with an error.
    nodes: Vec<Option<Node>>,
    /// The name of each node; `None` if it has no valid one.
    names: Vec<Option<String>>,
    /// All valid addresses and whose they are.
    addresses: HashMap<Ipv4Addr, String>,
}

impl Nodes {
    /// All nodes, if all are right.
    pub(super) fn complete(self) -> Option<Vec<Node>> {
        self.nodes.into_iter().collect()
    }

    /// How many there are, right or wrong.
    pub(super) fn count(&self) -> usize {
        self.nodes.len()
    }

    /// The place of the node called `name`.
    pub(super) fn position(&self, name: &str) -> Option<usize> {
        self.names.iter().position(|known| known.as_deref() == Some(name))
    }

    /// Whether some node's name could not be read, so that a name that is not found may be that one's.
    pub(super) fn has_unnamed(&self) -> bool {
        self.names.contains(&None)
    }

    /// The names that could be read.
    pub(super) fn names(&self) -> Vec<&str> {
        self.names.iter().flatten().map(String::as_str).collect()
    }

    /// Whose address this is.
    pub(super) fn owner(&self, address: Ipv4Addr) -> Option<&str> {
        self.addresses.get(&address).map(String::as_str)
    }
}

pub(super) fn read(root: &Section<'_>, findings: &mut Findings) -> Nodes {
    let sections = root.tables("node", findings);
    if sections.is_empty() && root.item("node").is_none() {
        findings.report(
            0,
            "node",
            "missing; a `[[node]]` section for each node, the same in every node's file",
        );
    }
    if let Some(extra) = sections.get(MAX_NODES) {
        let given = sections.len();
        let message = format!("a cluster has at most {MAX_NODES} nodes, not {given}");
        findings.report(extra.at, &extra.key, message);
    }

    let mut seen = Seen::default();
    let mut nodes = Nodes { nodes: Vec::new(), names: Vec::new(), addresses: HashMap::new() };
    for section in &sections {
        let name = section
            .required("name", "a node's name, by default its host name", findings)
            .and_then(|item| values::name(&item, findings).map(|name| (item, name)))
            .filter(|(item, name)| seen.name(item, name, findings));
        let name = name.map(|(_, name)| name);
        let node = read_node(section, name, &mut seen, findings);
        nodes.names.push(name.map(str::to_owned));
        nodes.nodes.push(node);
    }
    refuse_unpaired(&sections, findings);
    refuse_voters(&sections, &nodes, findings);
    nodes.addresses = seen.addresses;
    nodes
}

/// More voters make every lease wait for more answers, and protect from no more faults that occur.
fn refuse_voters(sections: &[Section<'_>], nodes: &Nodes, findings: &mut Findings) {
    // A node with an error counts as it was meant: a voter, unless it says otherwise.
    let votes = |node: &Option<Node>| node.as_ref().is_none_or(|node| node.voter);
    let voters: Vec<usize> = (0..sections.len()).filter(|&place| votes(&nodes.nodes[place])).collect();
    if let Some(&extra) = voters.get(MAX_VOTERS) {
        let (section, given) = (&sections[extra], voters.len());
        let message =
            format!("at most {MAX_VOTERS} nodes vote, not {given}; give the others `voter = false`");
        findings.report(section.at, &section.key_of("voter"), message);
    }
    if !sections.is_empty() && voters.is_empty() {
        let section = &sections[0];
        findings.report(section.at, &section.key_of("voter"), "at least one node must vote");
    }
}

fn read_node(
    section: &Section<'_>,
    name: Option<&str>,
    seen: &mut Seen,
    findings: &mut Findings,
) -> Option<Node> {
    section.refuse_unknown(
        &["name", "id", "interface", "addresses", "port", "xdp", "voter"],
        &[("weight", "weights are"), ("spare", "spare nodes are"), ("max_groups", "limits on groups are")],
        findings,
    );
    let interface = section
        .required("interface", "the interface where clients reach the VIPs, such as \"eth0\"", findings)
        .and_then(|item| interface_name(&item, findings));
    let addresses = section
        .required("addresses", "one address for each heartbeat path, such as [\"10.78.0.1\"]", findings)
        .and_then(|item| node_addresses(&item, name, seen, findings));
    let port = match section.item("port") {
        Some(item) => item.integer(1, u32::from(u16::MAX), findings).map(|port| port as u16),
        None => Some(DEFAULT_PORT),
    };
    let xdp = match section.item("xdp") {
        Some(item) => {
            item.choice(&["auto", "native", "generic"], &["chain"], findings).map(|mode| match mode {
                "native" => XdpMode::Native,
                "generic" => XdpMode::Generic,
                _ => XdpMode::Auto,
            })
        }
        None => Some(XdpMode::Auto),
    };
    let voter = match section.item("voter") {
        Some(item) => item.boolean(findings),
        None => Some(true),
    };
    let id = match section.item("id") {
        Some(item) => {
            let id = item.integer(1, u32::from(u16::MAX), findings).map(|id| NodeId(id as u16));
            id.filter(|id| seen.id(*id, name.unwrap_or(""), item.at, &item.key, findings))
        }
        None => name.and_then(|name| {
            let id = NodeId::from_name(name);
            seen.id(id, name, section.at, &section.key_of("id"), findings).then_some(id)
        }),
    };
    Some(Node {
        name: name?.to_owned(),
        id: id?,
        interface: interface?.to_owned(),
        addresses: addresses?,
        port: port?,
        xdp: xdp?,
        voter: voter?,
    })
}

/// What may be an interface's name: the kernel's own rule (`dev_valid_name`), less the loopback device.
fn interface_name<'d>(item: &Item<'d>, findings: &mut Findings) -> Option<&'d str> {
    let text = item.string(findings)?;
    let valid = (1..=15).contains(&text.len())
        && text != "."
        && text != ".."
        && !text.contains(|c: char| c == '/' || c == ':' || c == '\0' || c.is_whitespace());
    if !valid {
        let text = values::shortened(text);
        item.refuse(
            format!("an interface's name has 1 to 15 bytes without spaces, `/` and `:`, not {text:?}"),
            findings,
        );
        return None;
    }
    if text == "lo" {
        item.refuse("no client reaches a VIP over the loopback interface; name the one they use", findings);
        return None;
    }
    Some(text)
}

fn node_addresses(
    item: &Item<'_>,
    name: Option<&str>,
    seen: &mut Seen,
    findings: &mut Findings,
) -> Option<Vec<Ipv4Addr>> {
    const MOST: usize = 8;
    let elements = item.array(findings)?;
    if elements.is_empty() || elements.len() > MOST {
        item.refuse(format!("must be 1 to {MOST} addresses, not {}", elements.len()), findings);
        return None;
    }
    let mut addresses = Vec::new();
    for element in &elements {
        if let Some(text) = element.string(findings)
            && let Some(address) = values::host_address(element, text, "heartbeat addresses", findings)
            && seen.address(element, address, name, findings)
        {
            addresses.push(address);
        }
    }
    (addresses.len() == elements.len()).then_some(addresses)
}

/// Paths are pairs by position, so all nodes need the same number of addresses.
fn refuse_unpaired(sections: &[Section<'_>], findings: &mut Findings) {
    let lists: Vec<_> = sections
        .iter()
        .filter_map(|section| section.item("addresses"))
        .filter_map(|item| item.length().map(|length| (item, length)))
        .collect();
    let Some((_, first)) = lists.first() else { return };
    for (item, count) in &lists[1..] {
        if count != first {
            item.refuse(
                format!(
                    "must be as many addresses as the first node has ({first}), not {count}: a path is a pair of \
                     addresses at the same position, so list them in the same order of links on every node"
                ),
                findings,
            );
        }
    }
}

/// What may be given only once in the file.
#[derive(Default)]
struct Seen {
    names: HashMap<String, usize>,
    ids: HashMap<NodeId, String>,
    addresses: HashMap<Ipv4Addr, String>,
}

impl Seen {
    fn name(&mut self, item: &Item<'_>, name: &str, findings: &mut Findings) -> bool {
        if let Some(at) = self.names.get(name) {
            let line = findings.line(*at);
            item.refuse(
                format!("another node is called \"{name}\" (line {line}); names must differ"),
                findings,
            );
            return false;
        }
        self.names.insert(name.to_owned(), item.at);
        true
    }

    fn id(&mut self, id: NodeId, name: &str, at: usize, key: &str, findings: &mut Findings) -> bool {
        if let Some(other) = self.ids.get(&id) {
            findings.report(
                at,
                key,
                format!(
                    "node \"{other}\" has the id {} too (where none is given it is made from the name); give one of \
                     them another `id`",
                    id.0
                ),
            );
            return false;
        }
        self.ids.insert(id, name.to_owned());
        true
    }

    fn address(
        &mut self,
        item: &Item<'_>,
        address: Ipv4Addr,
        name: Option<&str>,
        findings: &mut Findings,
    ) -> bool {
        let name = name.unwrap_or("?");
        if let Some(other) = self.addresses.get(&address) {
            item.refuse(
                if other == name {
                    format!("{address} is listed twice; each path needs an address of its own")
                } else {
                    format!("{address} is an address of node \"{other}\" too; each node has its own")
                },
                findings,
            );
            return false;
        }
        self.addresses.insert(address, name.to_owned());
        true
    }
}
