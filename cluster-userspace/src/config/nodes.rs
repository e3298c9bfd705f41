//! `[[node]]` and `[[witness]]`: the hosts of the cluster.

use std::collections::HashMap;
use std::net::IpAddr;
use std::path::PathBuf;

use cluster_proto::placement::Place;

use super::document::{Findings, Item, Section};
use super::hosts::{Common, Host, HostKind, Owner, Seen, Service, XdpMode};
use super::{MAX_GROUPS, MAX_NODES, MAX_VOTERS, values};

/// What a node is that says nothing of how many groups it gets.
const ORDINARY: Place = Place { weight: 1, spare: false, max_groups: None };

/// The nodes and witnesses as far as they could be read. Groups are checked against this even if some node is wrong, so that one
/// slip does not hide others, nor produce errors about nodes that do exist.
pub(super) struct Nodes {
    /// `None` for a node with an error.
    nodes: Vec<Option<Host>>,
    /// Likewise.
    witnesses: Vec<Option<Host>>,
    /// The name of each node; `None` if it has no valid one.
    names: Vec<Option<String>>,
    /// The names of the witnesses that could be read.
    witness_names: Vec<String>,
    /// All valid addresses and whose they are.
    addresses: HashMap<IpAddr, Owner>,
}

impl Nodes {
    /// All nodes and after them the witnesses, if all are right.
    pub(super) fn complete(self) -> Option<Vec<Host>> {
        self.nodes.into_iter().chain(self.witnesses).collect()
    }

    /// How many nodes there are, right or wrong.
    pub(super) fn count(&self) -> usize {
        self.nodes.len()
    }

    /// The place of the node called `name`.
    pub(super) fn position(&self, name: &str) -> Option<usize> {
        self.names.iter().position(|known| known.as_deref() == Some(name))
    }

    /// Whether a witness is called `name`.
    pub(super) fn is_witness(&self, name: &str) -> bool {
        self.witness_names.iter().any(|known| known == name)
    }

    /// Whether some node's name could not be read, so that a name that is not found may be that one's.
    pub(super) fn has_unnamed(&self) -> bool {
        self.names.contains(&None)
    }

    /// The names of the nodes that could be read.
    pub(super) fn names(&self) -> Vec<&str> {
        self.names.iter().flatten().map(String::as_str).collect()
    }

    /// Whose address this is.
    pub(super) fn owner(&self, address: IpAddr) -> Option<&Owner> {
        self.addresses.get(&address)
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
    let mut nodes = Nodes {
        nodes: Vec::new(),
        witnesses: Vec::new(),
        names: Vec::new(),
        witness_names: Vec::new(),
        addresses: HashMap::new(),
    };
    for section in &sections {
        let common = Common::read(section, HostKind::Node, &mut seen, findings);
        nodes.names.push(common.name.map(str::to_owned));
        nodes.nodes.push(read_node(section, common, findings));
    }
    let witnesses = root.tables("witness", findings);
    for section in &witnesses {
        section.refuse_unknown(&["name", "id", "addresses", "port", "cpu"], &[], findings);
        let common = Common::read(section, HostKind::Witness, &mut seen, findings);
        nodes.witness_names.extend(common.name.map(str::to_owned));
        nodes.witnesses.push(common.host(Some(true), None, Some(ORDINARY)));
    }
    refuse_unpaired(&sections, &witnesses, findings);
    refuse_voters(&sections, &witnesses, &nodes, findings);
    nodes.addresses = seen.addresses;
    nodes
}

/// More voters make every lease wait for more answers, and protect from no more faults that occur.
fn refuse_voters(
    sections: &[Section<'_>],
    witnesses: &[Section<'_>],
    nodes: &Nodes,
    findings: &mut Findings,
) {
    // A node with an error counts as it was meant: a voter, unless it says otherwise.
    let votes = |node: &Option<Host>| node.as_ref().is_none_or(|node| node.voter);
    let voters: Vec<usize> = (0..sections.len()).filter(|&place| votes(&nodes.nodes[place])).collect();
    let given = voters.len() + witnesses.len();
    if let Some(&extra) = voters.get(MAX_VOTERS) {
        let section = &sections[extra];
        let who = if witnesses.is_empty() { "nodes vote" } else { "nodes and witnesses vote" };
        let message = format!("at most {MAX_VOTERS} {who}, not {given}; give the others `voter = false`");
        findings.report(section.at, &section.key_of("voter"), message);
    } else if let Some(extra) = witnesses.get(MAX_VOTERS - voters.len()) {
        let message = format!(
            "at most {MAX_VOTERS} nodes and witnesses vote, not {given}; leave out witnesses, or give nodes `voter = false`"
        );
        findings.report(extra.at, &extra.key, message);
    }
    if !sections.is_empty() && voters.is_empty() {
        let section = &sections[0];
        findings.report(section.at, &section.key_of("voter"), "at least one node must vote");
    }
}

fn read_node(section: &Section<'_>, common: Common<'_>, findings: &mut Findings) -> Option<Host> {
    section.refuse_unknown(
        &[
            "name",
            "id",
            "interface",
            "addresses",
            "port",
            "xdp",
            "chain",
            "voter",
            "cpu",
            "weight",
            "spare",
            "max_groups",
        ],
        &[],
        findings,
    );
    let interface = section
        .required("interface", "the interface where clients reach the VIPs, such as \"eth0\"", findings)
        .and_then(|item| interface_name(&item, findings));
    let attachment = attachment(section, findings);
    let place = read_place(section, findings);
    let voter = match section.item("voter") {
        Some(item) => item.boolean(findings),
        None => Some(true),
    };
    let (xdp, chain) = attachment?;
    let service = Service { interface: interface?.to_owned(), xdp, chain };
    common.host(voter, Some(service), place)
}

/// How the program is attached, and what is chained to it: `chain` names it if `xdp` is so, and only then.
fn attachment(section: &Section<'_>, findings: &mut Findings) -> Option<(XdpMode, Option<PathBuf>)> {
    let chosen = match section.item("xdp") {
        Some(item) => (item.choice(&["auto", "native", "generic", "chain"], &[], findings)?, Some(item)),
        None => ("auto", None),
    };
    let mode = match chosen.0 {
        "native" => XdpMode::Native,
        "generic" => XdpMode::Generic,
        _ => XdpMode::Auto,
    };
    match (chosen, section.item("chain")) {
        (("chain", Some(item)), None) => {
            item.refuse(
                "\"chain\" needs the key `chain` beside it: where your XDP program is pinned, such as \
                 \"/sys/fs/bpf/mine\"",
                findings,
            );
            None
        }
        (("chain", _), Some(item)) => {
            let text = item.string(findings)?;
            if !text.starts_with('/') || text.contains('\0') {
                item.refuse(
                    format!(
                        "must be the absolute path of a pinned XDP program, such as \"/sys/fs/bpf/mine\", not {:?}",
                        values::shortened(text)
                    ),
                    findings,
                );
                return None;
            }
            Some((mode, Some(text.into())))
        }
        (_, Some(item)) => {
            item.refuse("only goes with `xdp = \"chain\"`; add that, or leave this out", findings);
            None
        }
        (_, None) => Some((mode, None)),
    }
}

/// How many groups the node gets, and when.
fn read_place(section: &Section<'_>, findings: &mut Findings) -> Option<Place> {
    let weight = match section.item("weight") {
        Some(item) => item.integer(1, 1000, findings),
        None => Some(ORDINARY.weight),
    };
    let spare = match section.item("spare") {
        Some(item) => item.boolean(findings),
        None => Some(ORDINARY.spare),
    };
    let max_groups = match section.item("max_groups") {
        Some(item) => item.integer(1, MAX_GROUPS as u32, findings).map(|most| Some(most as usize)),
        None => Some(None),
    };
    Some(Place { weight: weight?, spare: spare?, max_groups: max_groups? })
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

/// Paths are pairs by position, so all nodes need the same number of addresses, and a witness no more than they.
fn refuse_unpaired(sections: &[Section<'_>], witnesses: &[Section<'_>], findings: &mut Findings) {
    let of_nodes = address_lists(sections);
    let Some((_, first)) = of_nodes.first() else { return };
    for (item, count) in &of_nodes[1..] {
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
    for (item, count) in address_lists(witnesses) {
        if count > *first {
            item.refuse(
                format!(
                    "must be at most as many addresses as the nodes have ({first}), not {count}: a path is a pair of \
                     addresses at the same position"
                ),
                findings,
            );
        }
    }
}

/// Each list of addresses that is one, and its length.
fn address_lists<'d>(sections: &[Section<'d>]) -> Vec<(Item<'d>, usize)> {
    let items = sections.iter().filter_map(|section| section.item("addresses"));
    items.filter_map(|item| item.length().map(|length| (item, length))).collect()
}
