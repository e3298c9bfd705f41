//! `cluster-lab bench spread`: what an active/active group's entry costs per packet, how long a new table takes, how evenly flows are
//! spread, and for how long the flows of a lost node go nowhere.
//!
//! Packets are measured as in [`crate::bench_xdp`]. Tables are made in memory. The rest is a cluster of three nodes in the lab, and what
//! its client sees of it.

use std::net::{IpAddr, SocketAddr, TcpStream, UdpSocket};
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use cluster_common::flow::BUCKETS;
use cluster_common::maps::MAX_MEMBERS;
use cluster_common::reference::Spread;
use cluster_proto::NodeId;
use cluster_proto::spread::{Buckets, Member, Table};
use cluster_userspace::dataplane::BENCH_OBJECT;
use serde::Serialize;
use serde_json::{Value, json};

use super::report::{Machine, Report};
use crate::frames::ipv4;
use crate::lab::cluster::{Cluster, ClusterSettings, GROUP};
use crate::lab::probe::connections::{PORT, StreamServer};
use crate::lab::{Family, Lab, Moment, Timing, await_some};
use crate::programs::{NETWORK_CARD, Programs};
use crate::scene::{SOON, median};

const NODES: [&str; 3] = ["a", "b", "c"];
/// Rounds, and runs in each, of the measurements of packets.
const ROUNDS: usize = 101;
const REPEAT: u32 = 200_000;
/// Flows whose shares are counted.
const FLOWS: u16 = 30_000;
const FIRST_PORT: u16 = 30_000;
/// How long one attempt to connect may take.
const ATTEMPT: Duration = Duration::from_millis(4);
/// For how long connections are tried after a cut, and how long a cut one is left alone afterwards.
const TRIED: Duration = Duration::from_millis(500);
const XDP_PASS: u32 = 2;
const XDP_TX: u32 = 3;

/// What was found.
#[derive(Clone, Debug, Serialize)]
pub struct Found {
    /// The empty program, in nanoseconds.
    empty_ns: f64,
    /// What a packet costs that is sent on.
    packets: Vec<Packet>,
    /// What a table takes: what for, and microseconds.
    tables: Vec<(String, f64)>,
    /// How many of the flows each node got.
    flows: Vec<(String, u64)>,
    /// After a cut, until the last attempt to connect that came to nothing: whose cut, and milliseconds.
    outages: Vec<(&'static str, Vec<f64>)>,
}

/// What a packet costs that is sent on.
#[derive(Clone, Copy, Debug, Serialize)]
struct Packet {
    name: &'static str,
    ns: f64,
    /// The most that the multiple of the empty program may be.
    bound: f64,
}

/// Measures, and says on stderr how it goes.
///
/// # Errors
/// When the kernel refuses the programs, or the cluster does not come about.
pub fn run(trials: usize) -> anyhow::Result<Found> {
    let (empty_ns, packets) = packets()?;
    eprintln!("packets are measured; tables");
    let tables = tables();
    eprintln!("tables are measured; {FLOWS} flows over {} nodes", NODES.len());
    let lab = Lab::with_nodes(&NODES)?;
    let _servers = lab.nodes().iter().map(StreamServer::start).collect::<anyhow::Result<Vec<_>>>()?;
    let group_lines = "mode = \"active-active\"".to_owned();
    let settings = ClusterSettings { group_lines, ..ClusterSettings::of(Family::Ipv4) };
    let cluster = Cluster::started(&lab, &settings)?;
    await_spread(&cluster, &NODES)?;
    let flows = flows(&lab, &cluster)?;
    let mut outages = vec![("the entry", Vec::new()), ("another member", Vec::new())];
    for trial in 1..=trials {
        for (of_entry, (whose, outages)) in [true, false].into_iter().zip(&mut outages) {
            let outage = outage(&lab, &cluster, of_entry)?;
            eprintln!("trial {trial}: {whose} is cut: {outage:?}");
            outages.push(outage.as_secs_f64() * 1e3);
        }
    }
    Ok(Found { empty_ns, packets, tables, flows, outages })
}

/// The empty program, and what one flow and a million of them cost the entry of a group of as many members as there can be.
fn packets() -> anyhow::Result<(f64, Vec<Packet>)> {
    const VIP: [u8; 4] = [10, 77, 0, 100];
    let mut programs = Programs::load(BENCH_OBJECT)?;
    programs.set_nic(NETWORK_CARD)?;
    programs.set_lease(0, u64::MAX)?;
    programs.set_vip(IpAddr::from(VIP), 24, 0)?;
    // This node is a member that has no bucket, so that everything is sent on.
    let table = table_of(&members(MAX_MEMBERS as u16, None));
    let mac = |place: u8| Some([2, 0, 0, 0, 1, place]);
    let spread = Spread {
        me: 0,
        members: (0..MAX_MEMBERS as u8).map(mac).collect(),
        buckets: table.buckets().iter().map(|bucket| (usize::from(bucket.first.max(1)), 255)).collect(),
        marks: [[2, 0xa1, 0, 0, 0, 1], [2, 0xa2, 0, 0, 0, 1]],
        by_source: false,
        seed: 7,
    };
    programs.set_spread(0, u64::MAX, 0, &spread)?;
    let mut frame = ipv4(NETWORK_CARD.mac, [10, 77, 0, 9], VIP, 60);
    // TCP, from the middle of a connection.
    frame[23] = 6;
    frame[34..38].copy_from_slice(&[0x30, 0x39, 0, 80]);
    frame[47] = 0x10;
    let run = |programs: &Programs, name: &str, action: u32| {
        let ran = programs.run(name, &frame, REPEAT)?;
        ensure!(ran.action == action, "{name} gives {} instead of {action}", ran.action);
        Ok(ran.duration.as_nanos() as f64)
    };
    let mut measured = [Vec::new(), Vec::new(), Vec::new()];
    for _ in 0..ROUNDS {
        let empty = run(&programs, "empty", XDP_PASS)?;
        measured[0].push(empty);
        for (place, (all, again)) in
            [("spread_again", "again"), ("spread_another", "another")].iter().enumerate()
        {
            let cost = run(&programs, all, XDP_TX)? - (run(&programs, again, XDP_TX)? - empty);
            measured[1 + place].push(cost);
        }
    }
    let [empty, one, million] = measured.map(middle);
    Ok((
        empty,
        vec![
            Packet { name: "one flow", ns: one, bound: 10.0 },
            Packet { name: "a million flows", ns: million, bound: 12.0 },
        ],
    ))
}

/// The mean of the middle third, since the kernel gives whole nanoseconds.
fn middle(mut measured: Vec<f64>) -> f64 {
    measured.sort_by(f64::total_cmp);
    let third = measured.len() / 3;
    let middle = &measured[third..measured.len() - third];
    middle.iter().sum::<f64>() / middle.len() as f64
}

fn members(count: u16, busy: Option<&Buckets>) -> Vec<Member<'_>> {
    (1..=count).map(|node| Member { node: NodeId(node), weight: 1, busy }).collect()
}

fn table_of(members: &[Member<'_>]) -> Table {
    let mut table = Table::default();
    table.rebalance(members);
    table
}

/// What the entry takes for the next table, in microseconds.
#[expect(clippy::disallowed_methods, reason = "it is this process' own work that is timed")]
fn tables() -> Vec<(String, f64)> {
    let mut found = Vec::new();
    for count in [3_u16, 32] {
        let all = members(count, None);
        let nothing = Buckets::default();
        let idle = members(count, Some(&nothing));
        let full = table_of(&all);
        let mut without = full.clone();
        without.rebalance(&all[1..]);
        let changes: [(&str, &Table, &[Member<'_>]); 4] = [
            ("the first table", &Table::default(), &all),
            ("a member is lost", &full, &all[1..]),
            ("a member joins", &without, &all),
            ("flows have ended", &full, &idle),
        ];
        for (what, before, members) in changes {
            let mut times: Vec<Duration> = Vec::new();
            for _ in 0..ROUNDS {
                let mut table = before.clone();
                let from = Instant::now();
                table.rebalance(members);
                times.push(from.elapsed());
                std::hint::black_box(&table);
            }
            found.push((format!("{count} members, {what}"), median(times).as_secs_f64() * 1e6));
        }
    }
    found
}

fn group(cluster: &Cluster<'_>, node: &str) -> anyhow::Result<Value> {
    let status = cluster.control(node).command("status")?;
    let groups = status["groups"].as_array().cloned().unwrap_or_default();
    groups.into_iter().find(|group| group["name"] == GROUP).context("the group")
}

/// Waits until these nodes go by one table, by which all of them and no others have buckets.
fn await_spread(cluster: &Cluster<'_>, nodes: &[&str]) -> anyhow::Result<()> {
    await_some("one table", SOON, || {
        let mut versions = Vec::new();
        for node in nodes {
            let spread = group(cluster, node)?["spread"].clone();
            for member in spread["members"].as_array().into_iter().flatten() {
                let has = member["buckets"].as_u64().unwrap_or_default() > 0;
                ensure!(has == nodes.iter().any(|node| member["name"] == *node), "{spread}");
            }
            versions.push(spread["version"].clone());
        }
        Ok((versions.windows(2).all(|pair| pair[0] == pair[1])).then_some(()))
    })
}

/// How many of many flows, one datagram each, come to each node's stack.
fn flows(lab: &Lab, cluster: &Cluster<'_>) -> anyhow::Result<Vec<(String, u64)>> {
    let passed = |node: &str| -> anyhow::Result<u64> {
        let stats = cluster.control(node).command("stats")?;
        let groups = stats["groups"].as_array().cloned().unwrap_or_default();
        let group =
            groups.into_iter().find(|group| group["name"] == GROUP).context("the group's counters")?;
        Ok(group["packets"]["ipv4_passed"].as_u64().unwrap_or_default())
    };
    let before = NODES.map(passed);
    let vip = Family::Ipv4.vip();
    lab.client().run(|| {
        for port in FIRST_PORT..FIRST_PORT + FLOWS {
            let socket = UdpSocket::bind(("0.0.0.0", port))?;
            // Nobody listens, and the node's kernel says so; that is no matter.
            let _ = socket.send_to(b"flow", SocketAddr::new(vip, 7999));
        }
        Ok(())
    })?;
    (Moment::now() + Duration::from_millis(200)).sleep();
    NODES
        .into_iter()
        .zip(before)
        .map(|(node, before)| Ok((node.to_owned(), passed(node)?.saturating_sub(before?))))
        .collect()
}

/// Cuts a node off and tries to connect again and again: when the last attempt began that came to nothing.
fn outage(lab: &Lab, cluster: &Cluster<'_>, of_entry: bool) -> anyhow::Result<Duration> {
    let entry = await_some("an entry", SOON, || {
        for node in NODES {
            if group(cluster, node)?["role"] == "active" {
                return Ok(Some(node));
            }
        }
        Ok(None)
    })?;
    let cut = NODES.into_iter().find(|node| (*node == entry) == of_entry).context("a node to cut")?;
    let address = SocketAddr::new(Family::Ipv4.vip(), PORT);
    let from = Moment::now();
    lab.cut_all(cut)?;
    let last = lab.client().run(|| {
        let mut last = from;
        while Moment::now() < from + TRIED {
            let began = Moment::now();
            if TcpStream::connect_timeout(&address, ATTEMPT).is_err() {
                last = began;
            }
        }
        Ok(last)
    })?;
    lab.mend_all()?;
    await_spread(cluster, &NODES)?;
    Ok(last.since(from))
}

impl Found {
    /// Tables in Markdown.
    #[must_use]
    pub fn markdown(&self) -> String {
        let mut text = String::from(
            "| packet that is sent on, 32 members | ns | × empty | bound |\n|---|---:|---:|---:|\n",
        );
        text += &format!("| (empty program) | {:.1} | 1.0 | |\n", self.empty_ns);
        for Packet { name, ns, bound } in &self.packets {
            text += &format!("| {name} | {ns:.1} | {:.1} | {bound:.0} |\n", ns / self.empty_ns);
        }
        text += "\n| next table | µs | bound |\n|---|---:|---:|\n";
        for (what, micros) in &self.tables {
            text += &format!("| {what} | {micros:.0} | 1000 |\n");
        }
        let total: u64 = self.flows.iter().map(|(_, flows)| flows).sum();
        let fair = total as f64 / self.flows.len() as f64;
        text += &format!("\n| node | flows of {total} | of its fair share |\n|---|---:|---:|\n");
        for (node, flows) in &self.flows {
            text += &format!("| {node} | {flows} | {:.3} |\n", *flows as f64 / fair);
        }
        let bound = Timing::NORMAL.dead_after + Duration::from_millis(15);
        text += "\n| cut off | last attempt that failed, median ms | worst ms | bound for the median |\n|---|---:|---:|---:|\n";
        for (whose, outages) in &self.outages {
            let mut sorted = outages.clone();
            sorted.sort_by(f64::total_cmp);
            let (median, worst) = (sorted[sorted.len() / 2], sorted[sorted.len() - 1]);
            text += &format!("| {whose} | {median:.1} | {worst:.1} | {} |\n", bound.as_millis());
        }
        text
    }

    /// The page and its data.
    #[must_use]
    pub fn report(&self) -> Report {
        let machine = Machine::this();
        let markdown = format!(
            "# Active/active: what spreading flows costs\n\n\
             Measured by `cargo xtask bench spread --write` on {machine}. Packets as in [xdp.md](xdp.md): medians of {ROUNDS} rounds of \
             {REPEAT} runs; everything is sent on\nto one of 31 other nodes. Tables of {BUCKETS} buckets, medians of {ROUNDS}. Flows: one \
             UDP datagram each, from {FLOWS} ports, over three nodes in the lab, counted\nby the nodes' own counters. Cuts: the client \
             tries to connect to the VIP again and again, {} ms each time; normal timing.\n\n{}",
            ATTEMPT.as_millis(),
            self.markdown()
        );
        Report { name: "spread", markdown, json: json!({ "machine": machine, "found": self }), svg: None }
    }
}
