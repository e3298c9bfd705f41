//! Which connections the VIPs of active/active groups have on this node: looked at again and again, so that a bucket's second is let
//! go once its last flow is done, and so that `status` can show how many are left.

use std::collections::{HashMap, HashSet};
use std::io;
use std::net::IpAddr;
use std::time::Duration;

use cluster_common::flow::{By, Flow};
use cluster_proto::spread::{Buckets, Load};
use cluster_proto::{GroupId, Time};

use super::node::Node;
use crate::dataplane::GroupSlot;
use crate::driver::clock;
use crate::driver::mailbox::Order;
use crate::network::connections::{self, KnownFlow};

/// How often connections are looked at, at the most. Where that takes the kernel long, it is done less often.
const PAUSE: Duration = Duration::from_secs(1);

/// A group whose connections are looked at.
#[derive(Clone, Debug)]
struct Spread {
    group: GroupId,
    slot: GroupSlot,
    vips: HashSet<IpAddr>,
    by: By,
    seed: u64,
}

/// What was found.
#[derive(Debug)]
pub(super) struct Flows {
    group: GroupId,
    slot: GroupSlot,
    busy: Box<Buckets>,
    count: u32,
    since: Time,
}

/// When the next round of looking at them is due, and what was counted until the last.
#[derive(Debug, Default)]
pub(super) struct FlowWatch {
    next: Time,
    failed: bool,
    /// By group: packets let in, as last read.
    passed: HashMap<GroupId, u64>,
    /// The same at the last round, and when that was.
    before: HashMap<GroupId, (Time, u64)>,
}

impl FlowWatch {
    /// Takes note of packets that were let in, as the maps count them.
    pub(super) fn note_passed(&mut self, passed: Vec<(GroupId, u64)>) {
        self.passed = passed.into_iter().collect();
        self.before.retain(|group, _| self.passed.contains_key(group));
    }

    /// What the node has to do for a group with so many connections.
    fn load(&mut self, now: Time, group: GroupId, flows: u32) -> Load {
        let packets = self.passed.get(&group).copied().unwrap_or(0);
        let (then, before) = self.before.insert(group, (now, packets)).unwrap_or((now, packets));
        let seconds = now.since(then).as_secs_f64();
        // A counter that was made anew has gone back.
        let rate = if seconds > 0.0 { packets.saturating_sub(before) as f64 / seconds } else { 0.0 };
        Load { flows, packets, rate: rate as u32 }
    }
}

impl Node {
    /// Starts to look at connections, if it is time for that and there are such groups.
    pub(super) fn look_at_flows(&mut self) {
        let now = clock::now();
        if now < self.flow_watch.next {
            return;
        }
        let groups = self.spread_groups();
        // Until the answer comes; it says when the next is due.
        self.flow_watch.next = now + PAUSE * 60;
        if groups.is_empty() {
            self.flow_watch.next = now + PAUSE;
            return;
        }
        let report = self.flows_in.clone();
        drop(tokio::task::spawn_blocking(move || {
            // The loop is gone only when the daemon stops.
            drop(report.blocking_send(look(&groups)));
        }));
    }

    pub(super) fn flows(&mut self, found: io::Result<Vec<Flows>>) {
        let now = clock::now();
        match found {
            Ok(found) => {
                let took = found.first().map_or(Duration::ZERO, |first| now.since(first.since));
                self.flow_watch.next = now + PAUSE.max(took * 20);
                self.flow_watch.failed = false;
                for Flows { group, slot, busy, count, since } in found {
                    let load = self.flow_watch.load(now, group, count);
                    self.daemon.order(Order::Flows(slot, busy, load, since));
                }
            }
            Err(error) => {
                if !std::mem::replace(&mut self.flow_watch.failed, true) {
                    let text = format!(
                        "cannot look at the connections of active/active groups: {error}; nodes that had a bucket before \
                         stay its second"
                    );
                    self.daemon.tell("flows_unknown", &text);
                }
                self.flow_watch.next = now + PAUSE;
            }
        }
    }

    fn spread_groups(&self) -> Vec<Spread> {
        let settings = &self.daemon.settings;
        let groups = self.daemon.slots.iter().zip(&settings.groups);
        let spread = groups.filter_map(|(&slot, group)| {
            let over = group.spread.as_ref()?;
            let by = if over.by_source { By::Source } else { By::Flow };
            let seed = over.seed(settings.cluster, group.id);
            Some(Spread { group: group.id, slot, vips: group.vips.iter().copied().collect(), by, seed })
        });
        spread.collect()
    }
}

/// Goes through the kernel's connections once for all groups.
fn look(groups: &[Spread]) -> io::Result<Vec<Flows>> {
    let since = clock::now();
    let flows = |group: &Spread| Flows {
        group: group.group,
        slot: group.slot,
        busy: Box::default(),
        count: 0,
        since,
    };
    let mut found: Vec<Flows> = groups.iter().map(flows).collect();
    let vips = groups.iter().flat_map(|group| group.vips.iter().copied()).collect();
    connections::each(&vips, |flow| {
        let groups = groups.iter().zip(&mut found);
        for (group, flows) in groups.filter(|(group, _)| group.vips.contains(&flow.local.ip())) {
            flows.busy.insert(bucket(flow, group.by, group.seed));
            flows.count += 1;
        }
    })?;
    Ok(found)
}

/// The bucket of a flow, as the programs find it from what the client sends.
fn bucket(KnownFlow { protocol, local, remote }: KnownFlow, by: By, seed: u64) -> usize {
    let words = |address: IpAddr| match address {
        IpAddr::V4(address) => [u32::from_ne_bytes(address.octets()), 0, 0, 0],
        IpAddr::V6(address) => bytemuck::cast(address.octets()),
    };
    let ([a, b], [c, d]) = (remote.port().to_be_bytes(), local.port().to_be_bytes());
    let flow = Flow {
        source: words(remote.ip()),
        destination: words(local.ip()),
        ports: u32::from_ne_bytes([a, b, c, d]),
        protocol,
    };
    flow.bucket(by, seed)
}
