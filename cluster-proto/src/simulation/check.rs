//! The rules I1 to I5 of the design, checked at every step against the true state of all hosts.

use std::collections::{HashMap, HashSet};
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::time::Duration;

use crate::identity::Epoch;
use crate::spread::{Table, Version};
use crate::wire::RESTART_LEASE;

use super::clock::TrueTime;
use super::host::{Host, Processed, Processing};
use super::options::Rule;
use super::plan::node_id;

/// A broken rule.
pub(super) type Broken = (Rule, String);

/// What has to be remembered to judge.
#[derive(Clone, Debug)]
pub(super) struct Checks {
    nodes: usize,
    /// By receiver and sender: when it last worked off a message that it believed.
    heard: Vec<Option<TrueTime>>,
    /// By node: since when it does nothing (stopped, stalled, killed).
    stopped: Vec<Option<TrueTime>>,
    /// By group and pair of nodes: since which step both hold.
    overlaps: Vec<Option<u64>>,
    /// By node and group: the tenure under way.
    tenures: Vec<Option<Epoch>>,
    /// By node and group: the highest counter that began a tenure since the disk was new.
    highest: Vec<u64>,
    /// By node: all counters that began a tenure since the disk was new.
    used: Vec<HashSet<u64>>,
    shortest_silence: TrueTime,
    lease: Duration,
    /// Two holders are never allowed.
    by_majority: bool,
    /// By group and version: what is in a table, in short.
    tables: HashMap<(usize, Version), u64>,
    /// By node, group and tenure: the number of the newest table that the node went by.
    versions: HashMap<(usize, usize, Epoch), u32>,
    /// Whoever holds alone must have been answered by the gateway; by so much later a late answer may count.
    gateway: Option<Duration>,
}

impl Checks {
    /// `heartbeat`: the shortest of any file; `lease`: the longest.
    pub(super) fn new(
        nodes: usize,
        groups: usize,
        heartbeat: Duration,
        lease: Duration,
        by_majority: bool,
        gateway: Option<Duration>,
    ) -> Self {
        Self {
            nodes,
            heard: vec![None; nodes * nodes],
            stopped: vec![None; nodes],
            overlaps: vec![None; groups * nodes * nodes],
            tenures: vec![None; nodes * groups],
            highest: vec![0; nodes * groups],
            used: vec![HashSet::new(); nodes],
            // U is never shorter than one and a quarter intervals, of a clock up to ten percent fast.
            shortest_silence: u64::try_from(heartbeat.as_nanos()).unwrap_or(0) * 11 / 10,
            lease,
            by_majority,
            tables: HashMap::new(),
            versions: HashMap::new(),
            gateway,
        }
    }

    /// A daemon goes by a table: one that nobody knows otherwise, and none from before.
    pub(super) fn table_written(
        &mut self,
        (node, group): (usize, usize),
        version: Version,
        table: &Table,
    ) -> Result<(), Broken> {
        let mut hasher = DefaultHasher::new();
        for bucket in table.buckets() {
            (table.member(bucket.first), table.member(bucket.second)).hash(&mut hasher);
        }
        let contents = hasher.finish();
        let known = *self.tables.entry((group, version)).or_insert(contents);
        if known != contents {
            return Err((
                Rule::OneTable,
                format!("node {node} has another table {version:?} of group {group} than others"),
            ));
        }
        let newest = self.versions.entry((node, group, version.epoch)).or_insert(version.number);
        if *newest > version.number {
            let what = format!("node {node} goes back from table {newest} of group {group} to {version:?}");
            return Err((Rule::OneTable, what));
        }
        *newest = version.number;
        Ok(())
    }

    /// The host ends, and with it what it knew of tables.
    pub(super) fn forgets_tables(&mut self, node: usize) {
        self.versions.retain(|(other, ..), _| *other != node);
    }

    pub(super) fn stops(&mut self, node: usize, at: TrueTime) {
        self.stopped[node].get_or_insert(at);
    }

    pub(super) fn goes_on(&mut self, node: usize) {
        self.stopped[node] = None;
    }

    pub(super) fn heard(&mut self, by: usize, from: usize, at: TrueTime) {
        self.heard[by * self.nodes + from] = Some(at);
    }

    pub(super) fn loses_disk(&mut self, node: usize) {
        self.highest.iter_mut().skip(node).step_by(self.nodes).for_each(|highest| *highest = 0);
        self.used[node].clear();
        // Its epochs may come again.
        self.versions.retain(|(_, _, epoch), _| epoch.node != node_id(node));
        self.tables.retain(|(_, version), _| version.epoch.node != node_id(node));
    }

    /// The daemon's tenure of a group is over.
    pub(super) fn tenure_ends(&mut self, node: usize, group: usize) {
        let place = self.tenure(node, group);
        self.tenures[place] = None;
    }

    fn tenure(&self, node: usize, group: usize) -> usize {
        group * self.nodes + node
    }

    fn pair(&self, group: usize, one: usize, other: usize) -> usize {
        (group * self.nodes + one.min(other)) * self.nodes + one.max(other)
    }

    /// A lease was written (I2, I4). Returns whether it begins a tenure. `extends`: it may be one for a restart in place.
    pub(super) fn lease_written(
        &mut self,
        hosts: &[Host],
        (node, group): (usize, usize),
        extends: bool,
        at: TrueTime,
    ) -> Result<bool, Broken> {
        let host = &hosts[node];
        let entry = host.map[group];
        let now = host.clock.shows(at);
        let term = if extends { self.lease.max(RESTART_LEASE) } else { self.lease };
        if entry.until > now + term {
            let left = entry.until.since(now);
            return Err((
                Rule::StalledIsDark,
                format!("node {node} writes a lease of {left:?}, longer than L"),
            ));
        }
        let Some(epoch) = entry.epoch else {
            return Err((Rule::MapFollows, "a lease without an epoch".into()));
        };
        let place = self.tenure(node, group);
        if self.tenures[place] == Some(epoch) {
            return Ok(false);
        }
        let highest = self.highest[place];
        let new = self.used[node].insert(epoch.counter);
        if epoch.node != node_id(node) || epoch.counter <= highest || !new {
            return Err((
                Rule::MapFollows,
                format!("node {node} begins a tenure as {epoch}, but used {highest}"),
            ));
        }
        if epoch.counter >= host.disk {
            let disk = host.disk;
            return Err((
                Rule::MapFollows,
                format!("node {node} uses {epoch}, but its disk reserves only below {disk}"),
            ));
        }
        // An interface that has vanished takes its addresses along, and the daemon learns of it a moment later.
        if !host.addresses[group] && host.link != crate::Link::Gone {
            return Err((Rule::MapFollows, format!("node {node} takes group {group} without its address")));
        }
        self.highest[place] = epoch.counter;
        self.tenures[place] = Some(epoch);
        Ok(true)
    }

    /// Compares maps (I1) after that of `node` was written; a second holder can begin only with that. `lit`: it held
    /// before. Returns how many overlaps began.
    pub(super) fn holders(
        &mut self,
        hosts: &[Host],
        (node, group): (usize, usize),
        lit: bool,
        step: u64,
        at: TrueTime,
    ) -> Result<u64, Broken> {
        if lit || !hosts[node].serves(group, at) {
            return Ok(0);
        }
        let mut began = 0;
        for other in (0..self.nodes).filter(|&other| other != node && hosts[other].serves(group, at)) {
            let what = format!("nodes {node} and {other} both hold group {group}");
            if self.by_majority {
                return Err((Rule::OneHolder, format!("{what}, and a majority decides")));
            }
            self.may_overlap(group, node, other, at)?;
            self.both_reach_the_gateway(hosts, group, [node, other])?;
            let place = self.pair(group, node, other);
            self.overlaps[place] = Some(step);
            began += 1;
        }
        Ok(began)
    }

    /// Two holders are allowed only where neither has heard the other for a while.
    fn may_overlap(&self, group: usize, one: usize, other: usize, at: TrueTime) -> Result<(), Broken> {
        for (by, from) in [(one, other), (other, one)] {
            let Some(heard) = self.heard[by * self.nodes + from] else { continue };
            let awake_until = self.stopped[by].unwrap_or(at);
            let silence = awake_until.saturating_sub(heard);
            if silence < self.shortest_silence {
                let stopped = if self.stopped[by].is_some() { " before it stopped" } else { "" };
                let silence = Duration::from_nanos(silence);
                return Err((
                    Rule::OneHolder,
                    format!(
                        "nodes {one} and {other} both hold group {group}, and node {by} had heard the other \
                         {silence:?}{stopped}"
                    ),
                ));
            }
        }
        Ok(())
    }

    /// With a gateway, two may hold only as long as both have its answers: neither's lease lasts longer than L from the newest
    /// question that was answered, or, since an answer does not say which it answers, from one that was asked while that answer
    /// was under way.
    fn both_reach_the_gateway(&self, hosts: &[Host], group: usize, both: [usize; 2]) -> Result<(), Broken> {
        let Some(late) = self.gateway else { return Ok(()) };
        for node in both {
            let Host { map, gateway_answered, .. } = &hosts[node];
            let until = map[group].until;
            if gateway_answered.is_none_or(|asked| until > asked + self.lease + late) {
                return Err((
                    Rule::OneHolder,
                    format!(
                        "nodes {both:?} both hold group {group}, and node {node}, until {until:?}, was answered by the \
                         gateway on a question of {gateway_answered:?}"
                    ),
                ));
            }
        }
        Ok(())
    }

    /// An input was worked off and its effects carried out (I1: two holders end with the first heartbeat, and when the
    /// worse-ranked sees the other answer).
    pub(super) fn worked_off(
        &self,
        hosts: &[Host],
        node: usize,
        processing: Processing,
        outranked_in: impl Fn(usize, std::net::IpAddr) -> Vec<usize>,
        at: TrueTime,
    ) -> Result<(), Broken> {
        let (from, groups, how): (usize, Vec<usize>, &str) = match processing.kind {
            Processed::Believed(from) => (from, (0..hosts[0].map.len()).collect(), "a message was believed"),
            Processed::Seen(from, address) => {
                (from, outranked_in(from, address), "it saw the better-ranked answer")
            }
            Processed::Other => return Ok(()),
        };
        for group in groups {
            let since = self.overlaps[self.pair(group, node, from)];
            let both = hosts[node].serves(group, at) && hosts[from].serves(group, at);
            if both && since.is_some_and(|since| since < processing.step) {
                return Err((
                    Rule::OneHolder,
                    format!("{how} by node {node}, and it and node {from} still both hold group {group}"),
                ));
            }
        }
        Ok(())
    }
}
