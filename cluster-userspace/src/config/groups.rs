//! `[[group]]`: the VIPs that move together.

use std::collections::HashMap;
use std::net::IpAddr;
use std::num::NonZeroU8;
use std::time::Duration;

use cluster_proto::{AnnounceSchedule, Failback, GroupId, VirtualMac};

use super::MAX_GROUPS;
use super::document::{Findings, Item, Section, list, nearest};
use super::nodes::Nodes;
use super::values::{self, Use};
use crate::network::vlan::Vlan;

/// For how long the connections of before a hand-over go on where they were, unless the file says otherwise.
const GRACE: Duration = Duration::from_secs(5);
/// Groups of a cluster whose flows are spread.
const MAX_SPREAD: u32 = cluster_common::maps::MAX_SPREAD;
const LONGEST_GRACE: Duration = Duration::from_secs(3600);

/// A virtual address and the length of its network's prefix.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Vip {
    /// The address.
    pub address: IpAddr,
    /// The prefix length, 1 to 32, or 1 to 128 for IPv6.
    pub prefix: u8,
}

/// One `[[group]]`.
#[derive(Clone, Debug)]
pub(super) struct Group {
    pub(super) name: String,
    pub(super) id: GroupId,
    pub(super) vips: Vec<Vip>,
    /// The nodes that it names, best first, as places in the list of nodes.
    pub(super) prefer: Vec<usize>,
    /// All nodes that may hold it, in the order of the nodes.
    pub(super) members: Vec<usize>,
    /// Groups that should be on other nodes, as places in the list of groups; they have this one in theirs.
    pub(super) apart: Vec<usize>,
    pub(super) failback: Failback,
    pub(super) announce: AnnounceSchedule,
    /// For how long connections go on where they were after a hand-over.
    pub(super) grace: Duration,
    /// A router on the VIPs' network.
    pub(super) gateway: Option<IpAddr>,
    /// Its virtual Ethernet addresses, if it has such.
    pub(super) virtual_mac: Option<VirtualMac>,
    /// The VLAN that its VIPs are on.
    pub(super) vlan: Option<Vlan>,
    /// Its flows are spread over all its members.
    pub(super) spread: Option<Spreading>,
    /// Its VIPs are on the loopback interface for as long as the daemon runs, whoever holds it.
    pub(super) keeps_address: bool,
}

/// How an active/active group's flows are spread.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Spreading {
    /// By all that tells one flow from another.
    ByFlow,
    /// By the client's address.
    BySource,
}

pub(super) fn read(root: &Section<'_>, nodes: &Nodes, findings: &mut Findings) -> Option<Vec<Group>> {
    let sections = root.tables("group", findings);
    if sections.is_empty() && root.item("group").is_none() {
        findings.report(0, "group", "missing; a `[[group]]` section for the VIPs that move together");
    }
    if let Some(extra) = sections.get(MAX_GROUPS) {
        let given = sections.len();
        let message = format!("there are {given} groups; at most {MAX_GROUPS} are allowed");
        findings.report(extra.at, &extra.key, message);
    }
    let mut seen = Seen::default();
    let groups: Vec<_> =
        sections.iter().map(|section| read_group(section, nodes, &mut seen, findings)).collect();
    let apart = read_apart(&sections, findings);
    let mut groups: Vec<Group> = groups.into_iter().collect::<Option<_>>()?;
    for (group, others) in apart?.into_iter().enumerate() {
        for other in others {
            for (group, other) in [(group, other), (other, group)] {
                if !groups[group].apart.contains(&other) {
                    groups[group].apart.push(other);
                }
            }
        }
    }
    Some(groups)
}

/// For each group those that it names in `apart`.
fn read_apart(sections: &[Section<'_>], findings: &mut Findings) -> Option<Vec<Vec<usize>>> {
    // What is wrong with a name is said where it is given.
    let mut silent = Findings::new("", std::path::Path::new(""));
    let mut name = |section: &Section<'_>| {
        section.item("name").and_then(|item| item.string(&mut silent).map(str::to_owned))
    };
    let names: Vec<Option<String>> = sections.iter().map(&mut name).collect();
    let mut all = Vec::new();
    let mut right = true;
    for (place, section) in sections.iter().enumerate() {
        let mut others = Vec::new();
        let named = section.item("apart").map(|item| item.strings(findings));
        right &= !matches!(named, Some(None));
        for (item, name) in named.flatten().unwrap_or_default() {
            match names.iter().position(|known| known.as_deref() == Some(name)) {
                Some(other) if other == place => {
                    item.refuse("a group cannot be apart from itself", findings);
                    right = false;
                }
                Some(other) => others.push(other),
                None => {
                    let hint = match nearest(name, names.iter().flatten().map(String::as_str)) {
                        Some(meant) => format!("; did you mean \"{meant}\"?"),
                        None => String::new(),
                    };
                    item.refuse(format!("no group is called {:?}{hint}", values::shortened(name)), findings);
                    right = false;
                }
            }
        }
        all.push(others);
    }
    right.then_some(all)
}

fn read_group(
    section: &Section<'_>,
    nodes: &Nodes,
    seen: &mut Seen,
    findings: &mut Findings,
) -> Option<Group> {
    section.refuse_unknown(
        &[
            "name",
            "vips",
            "mode",
            "prefer",
            "members",
            "failback",
            "failback_after",
            "mac",
            "address",
            "protocol",
            "announce",
            "gateway",
            "grace",
            "virtual_id",
            "vlan",
            "apart",
            "hash",
        ],
        &[],
        findings,
    );
    let name = section
        .required("name", "a group's name, such as \"web\"", findings)
        .and_then(|item| values::name(&item, findings).map(|name| (item, name)))
        .and_then(|(item, name)| seen.name(&item, name, findings));
    let vips = section
        .required(
            "vips",
            "the virtual addresses with their prefix, such as [\"10.77.0.100/24\", \"fd77::100/64\"]",
            findings,
        )
        .and_then(|item| read_vips(&item, name.as_ref().map(|(name, _)| *name), nodes, seen, findings));
    if let Some(item) = section.item("protocol") {
        item.choice(&["native"], &["vrrp3", "vrrp2", "carp"], findings);
    }
    let spread = read_spread(section, seen, findings);
    let keeps_address = read_address(section, matches!(spread, Some(Some(_))), findings);
    let virtual_mac = read_virtual_mac(section, seen, name.as_ref().map(|(name, _)| *name), findings);
    let vlan = match section.item("vlan") {
        Some(item) => read_vlan(&item, findings).map(Some),
        None => Some(None),
    };
    let prefer = read_rank(section, nodes, findings);
    let failback = read_failback(section, findings);
    let announce = read_announce(section, findings);
    let grace = values::duration(Some(section), "grace", GRACE, Duration::ZERO, LONGEST_GRACE, findings);
    let gateway = match section.item("gateway") {
        Some(item) => read_gateway(&item, vips.as_deref(), nodes, findings).map(Some),
        None => Some(None),
    };
    let (name, id) = name?;
    let (prefer, members) = prefer?;
    Some(Group {
        name: name.to_owned(),
        id,
        vips: vips?,
        prefer,
        members,
        apart: Vec::new(),
        failback: failback?,
        announce: announce?,
        grace: grace?,
        gateway: gateway?,
        virtual_mac: virtual_mac?,
        vlan: vlan?,
        spread: spread?,
        keeps_address: keeps_address?,
    })
}

/// Whether the group's flows are spread over its members, and how.
fn read_spread(section: &Section<'_>, seen: &mut Seen, findings: &mut Findings) -> Option<Option<Spreading>> {
    let mode = match section.item("mode") {
        Some(item) => {
            let mode = item.choice(&["active-passive", "active-active"], &[], findings)?;
            (mode == "active-active").then_some(item)
        }
        None => None,
    };
    let hash = section.item("hash");
    match (mode, hash) {
        (None, None) => Some(None),
        (None, Some(hash)) => {
            hash.refuse("is of use with `mode = \"active-active\"` only; add that, or remove it", findings);
            None
        }
        (Some(mode), hash) => {
            seen.spread += 1;
            if seen.spread > MAX_SPREAD {
                let message = format!("at most {MAX_SPREAD} groups of a cluster can be active/active");
                mode.refuse(message, findings);
                return None;
            }
            if let Some(grace) = section.item("grace") {
                grace.refuse(
                    "is of no use with `mode = \"active-active\"`: there every connection ends on its node; remove it",
                    findings,
                );
                return None;
            }
            match hash {
                Some(item) => match item.choice(&["flow", "source"], &[], findings)? {
                    "source" => Some(Some(Spreading::BySource)),
                    _ => Some(Some(Spreading::ByFlow)),
                },
                None => Some(Some(Spreading::ByFlow)),
            }
        }
    }
}

/// Whether the VIPs are on the loopback interface whoever holds the group.
fn read_address(section: &Section<'_>, is_spread: bool, findings: &mut Findings) -> Option<bool> {
    let Some(item) = section.item("address") else { return Some(is_spread) };
    let keeps = item.choice(&["active", "always"], &[], findings)? == "always";
    if is_spread && !keeps {
        item.refuse(
            "must be \"always\" with `mode = \"active-active\"`: all members serve the VIPs",
            findings,
        );
        return None;
    }
    Some(keeps)
}

/// The group's virtual Ethernet addresses, if it has such.
fn read_virtual_mac(
    section: &Section<'_>,
    seen: &mut Seen,
    group: Option<&str>,
    findings: &mut Findings,
) -> Option<Option<VirtualMac>> {
    let is_virtual = match section.item("mac") {
        Some(item) => item.choice(&["interface", "virtual"], &[], findings)? == "virtual",
        None => false,
    };
    match (is_virtual, section.item("virtual_id")) {
        (false, None) => Some(None),
        (false, Some(item)) => {
            item.refuse("is of use with `mac = \"virtual\"` only; add that, or remove it", findings);
            None
        }
        (true, None) => {
            let what = "a number from 1 to 255 that no other group and no VRRP router on that network has";
            section.required("virtual_id", what, findings);
            None
        }
        (true, Some(item)) => {
            let id = item.integer(1, 255, findings).and_then(|id| NonZeroU8::new(id as u8))?;
            seen.virtual_id(&item, id, group, findings).then_some(Some(VirtualMac(id)))
        }
    }
}

/// A VLAN: one identifier, or an outer and an inner one.
fn read_vlan(item: &Item<'_>, findings: &mut Findings) -> Option<Vlan> {
    let (least, most) = Vlan::IDENTIFIERS;
    let identifier = |item: &Item<'_>, findings: &mut Findings| {
        let id = item.integer(least.into(), most.into(), findings)?;
        u16::try_from(id).ok()
    };
    match item.length() {
        None => Vlan::new(identifier(item, findings)?, None),
        Some(2) => {
            let tags = item.array(findings)?;
            let [outer, inner] = tags.as_slice() else { return None };
            let (outer, inner) = (identifier(outer, findings), identifier(inner, findings));
            Vlan::new(outer?, Some(inner?))
        }
        Some(count) => {
            item.refuse(
                format!("has {count} tags; name one, such as 100, or an outer and an inner one, such as [200, 100]"),
                findings,
            );
            None
        }
    }
}

/// A router's address, in the network of one of the VIPs or link-local: it is asked for by ARP or NS.
fn read_gateway(
    item: &Item<'_>,
    vips: Option<&[Vip]>,
    nodes: &Nodes,
    findings: &mut Findings,
) -> Option<IpAddr> {
    let text = item.string(findings)?;
    let gateway = values::host_address(item, text, Use::Gateway, findings)?;
    if let Some(owner) = nodes.owner(gateway) {
        item.refuse(
            format!("{gateway} is an address of {owner}; a gateway tells a node that it is not cut off, so it must be neither"),
            findings,
        );
        return None;
    }
    let vips = vips?;
    if vips.iter().any(|vip| vip.address == gateway) {
        item.refuse(format!("{gateway} is a VIP of this group; name a router"), findings);
        return None;
    }
    let on_link = |vip: &Vip| match gateway {
        // It is on the VIP's link by what it is, and in no VIP's network.
        IpAddr::V6(gateway) if gateway.is_unicast_link_local() => vip.address.is_ipv6(),
        _ => values::same_network(gateway, vip.address, vip.prefix),
    };
    if !vips.iter().any(on_link) {
        item.refuse(
            format!(
                "{gateway} is in no VIP's network; a gateway is asked for on the VIPs' link, by ARP or NS"
            ),
            findings,
        );
        return None;
    }
    Some(gateway)
}

fn read_vips(
    item: &Item<'_>,
    group: Option<&str>,
    nodes: &Nodes,
    seen: &mut Seen,
    findings: &mut Findings,
) -> Option<Vec<Vip>> {
    const MOST: usize = 32;
    let elements = item.array(findings)?;
    if elements.is_empty() || elements.len() > MOST {
        item.refuse(format!("must be 1 to {MOST} addresses, not {}", elements.len()), findings);
        return None;
    }
    let mut vips = Vec::new();
    for element in &elements {
        if let Some(text) = element.string(findings)
            && let Some(vip) = parse_vip(element, text, findings)
            && unowned(element, vip.address, nodes, findings)
            && seen.vip(element, vip.address, group, findings)
        {
            vips.push(vip);
        }
    }
    (vips.len() == elements.len()).then_some(vips)
}

fn parse_vip(item: &Item<'_>, text: &str, findings: &mut Findings) -> Option<Vip> {
    let (address, prefix) = match text.split_once('/') {
        Some((address, prefix)) => (address, Some(prefix)),
        None => (text, None),
    };
    // A malformed address is the first thing to mend, so nothing is said of its prefix.
    if address.parse::<IpAddr>().is_err() && !address.contains('%') {
        let text = values::shortened(text);
        item.refuse(
            format!(
                "must be an address and its prefix such as \"10.77.0.100/24\" or \"fd77::100/64\", not {text:?}"
            ),
            findings,
        );
        return None;
    }
    let address = values::host_address(item, address, Use::Vip, findings)?;
    if address.is_loopback() {
        item.refuse(format!("{address} is a loopback address, which no client can reach"), findings);
        return None;
    }
    let Some(prefix) = prefix else {
        let usual = if address.is_ipv4() { 24 } else { 64 };
        item.refuse(
            format!(
                "the prefix length is missing; write \"{address}/{usual}\" if its network has {usual} bits"
            ),
            findings,
        );
        return None;
    };
    // The digits alone: `parse` would let a sign pass.
    let valid = prefix.bytes().all(|byte| byte.is_ascii_digit()).then(|| prefix.parse::<u8>().ok()).flatten();
    let longest = if address.is_ipv4() { 32 } else { 128 };
    let Some(prefix) = valid.filter(|prefix| (1..=longest).contains(prefix)) else {
        let prefix = values::shortened(prefix);
        item.refuse(format!("the prefix length must be from 1 to {longest}, not {prefix:?}"), findings);
        return None;
    };
    if let Some(why) = not_a_hosts(address, prefix) {
        item.refuse(
            format!("{address} is the {why} address of its /{prefix}; use a host's address"),
            findings,
        );
        return None;
    }
    Some(Vip { address, prefix })
}

/// What an address is in its network, if not a host's.
fn not_a_hosts(address: IpAddr, prefix: u8) -> Option<&'static str> {
    match address {
        // Networks of 31 and 32 bits have no network and broadcast address (RFC 3021).
        IpAddr::V4(address) if prefix < 31 => {
            let hosts = u32::MAX >> prefix;
            match address.to_bits() & hosts {
                0 => Some("network's own"),
                host if host == hosts => Some("broadcast"),
                _ => None,
            }
        }
        // RFC 4291 section 2.6.1; links of two routers do without (RFC 6164).
        IpAddr::V6(address) if prefix < 127 => {
            (address.to_bits() & (u128::MAX >> prefix) == 0).then_some("subnet-router anycast")
        }
        IpAddr::V4(_) | IpAddr::V6(_) => None,
    }
}

fn unowned(item: &Item<'_>, vip: IpAddr, nodes: &Nodes, findings: &mut Findings) -> bool {
    let Some(owner) = nodes.owner(vip) else { return true };
    item.refuse(
        format!("{vip} is an address of {owner}; a VIP belongs to no node, take a free address"),
        findings,
    );
    false
}

/// The nodes of `prefer`, and all members in the order of the nodes.
fn read_rank(
    section: &Section<'_>,
    nodes: &Nodes,
    findings: &mut Findings,
) -> Option<(Vec<usize>, Vec<usize>)> {
    let members = match section.item("members") {
        Some(item) => Some(read_nodes(&item, nodes, findings)?),
        None => None,
    };
    if let (Some(members), Some(item)) = (&members, section.item("members"))
        && members.is_empty()
    {
        item.refuse("must name at least one node", findings);
        return None;
    }
    let is_member = |node: &usize| members.as_ref().is_none_or(|members| members.contains(node));
    let mut rank = Vec::new();
    if let Some(item) = section.item("prefer") {
        rank = read_nodes(&item, nodes, findings)?;
        let names = nodes.names();
        let mut strangers = rank.iter().filter(|node| !is_member(node)).peekable();
        if strangers.peek().is_some() {
            let strangers: Vec<_> = strangers.filter_map(|node| names.get(*node).copied()).collect();
            item.refuse(format!("names {}, which `members` does not name", list(&strangers)), findings);
            return None;
        }
    }
    let all = (0..nodes.count()).filter(is_member).collect();
    Some((rank, all))
}

/// A list of nodes by name, each once, as places in the list of nodes.
fn read_nodes(item: &Item<'_>, nodes: &Nodes, findings: &mut Findings) -> Option<Vec<usize>> {
    let given = item.length();
    let mut places = Vec::new();
    for (element, name) in item.strings(findings)? {
        match nodes.position(name) {
            Some(place) if places.contains(&place) => {
                element.refuse(format!("\"{name}\" is listed twice"), findings);
            }
            Some(place) => places.push(place),
            None if nodes.is_witness(name) => {
                element.refuse(format!("\"{name}\" is a witness: it votes and never serves"), findings);
            }
            // It may well be the node whose name is wrong, and that has been said.
            None if nodes.has_unnamed() => return None,
            None => {
                let names = nodes.names();
                let hint = match nearest(name, names.iter().copied()) {
                    Some(meant) => format!("did you mean \"{meant}\"?"),
                    None => format!("there are {}", list(&names)),
                };
                element.refuse(format!("no node is called {:?}; {hint}", values::shortened(name)), findings);
            }
        }
    }
    (given == Some(places.len())).then_some(places)
}

fn read_failback(section: &Section<'_>, findings: &mut Findings) -> Option<Failback> {
    let policy = match section.item("failback") {
        Some(item) => item.choice(&["never", "now", "idle"], &[], findings)?,
        None => "never",
    };
    let most = Duration::from_secs(3600);
    let after =
        values::duration(Some(section), "failback_after", Duration::ZERO, Duration::ZERO, most, findings);
    match policy {
        "now" => return Some(Failback::After(after?)),
        "idle" => return Some(Failback::Idle(after?)),
        _ => {}
    }
    if let Some(item) = section.item("failback_after") {
        item.refuse(
            "has no meaning with failback = \"never\"; leave it out or write failback = \"now\" or \"idle\"",
            findings,
        );
        return None;
    }
    Some(Failback::Never)
}

fn read_announce(section: &Section<'_>, findings: &mut Findings) -> Option<AnnounceSchedule> {
    let announce = match section.item("announce") {
        Some(item) => Some(item.section(findings)?),
        None => None,
    };
    if let Some(announce) = &announce {
        announce.refuse_unknown(&["count", "interval"], &[], findings);
    }
    let count = match announce.as_ref().and_then(|announce| announce.item("count")) {
        Some(item) => item.integer(1, 100, findings),
        None => Some(5),
    };
    let interval = values::duration(
        announce.as_ref(),
        "interval",
        Duration::from_millis(500),
        Duration::from_millis(1),
        Duration::from_secs(60),
        findings,
    );
    Some(AnnounceSchedule { count: count?, interval: interval? })
}

/// What may be given only once in the file.
#[derive(Default)]
struct Seen {
    names: HashMap<GroupId, (String, usize)>,
    vips: HashMap<IpAddr, String>,
    virtual_ids: HashMap<NonZeroU8, String>,
    /// How many groups are active/active.
    spread: u32,
}

impl Seen {
    fn name<'d>(
        &mut self,
        item: &Item<'_>,
        name: &'d str,
        findings: &mut Findings,
    ) -> Option<(&'d str, GroupId)> {
        let id = GroupId::from_name(name);
        if let Some((other, at)) = self.names.get(&id) {
            let line = findings.line(*at);
            item.refuse(
                if other == name {
                    format!("another group is called \"{name}\" (line {line}); names must differ")
                } else {
                    format!(
                        "\"{name}\" and \"{other}\" (line {line}) have the same id on the wire; rename one"
                    )
                },
                findings,
            );
            return None;
        }
        self.names.insert(id, (name.to_owned(), item.at));
        Some((name, id))
    }

    fn virtual_id(
        &mut self,
        item: &Item<'_>,
        id: NonZeroU8,
        group: Option<&str>,
        findings: &mut Findings,
    ) -> bool {
        if let Some(other) = self.virtual_ids.get(&id) {
            item.refuse(
                format!("group \"{other}\" has {id} already; two groups cannot share an Ethernet address"),
                findings,
            );
            return false;
        }
        self.virtual_ids.insert(id, group.unwrap_or("?").to_owned());
        true
    }

    fn vip(&mut self, item: &Item<'_>, vip: IpAddr, group: Option<&str>, findings: &mut Findings) -> bool {
        let group = group.unwrap_or("?");
        if let Some(other) = self.vips.get(&vip) {
            item.refuse(
                if other == group {
                    format!("{vip} is listed twice")
                } else {
                    format!("{vip} belongs to group \"{other}\" already; a VIP is in one group")
                },
                findings,
            );
            return false;
        }
        self.vips.insert(vip, group.to_owned());
        true
    }
}
