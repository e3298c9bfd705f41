//! `cluster-lab bench spread`: what an active/active group's entry costs per packet and how many it sends on in a second, how long a new
//! table takes, how evenly flows are spread, which connections break when nodes come and go, and for how long the flows of a lost node
//! go nowhere.

use std::net::{SocketAddr, TcpStream, UdpSocket};
use std::time::Duration;

use anyhow::{Context as _, ensure};
use cluster_common::flow::BUCKETS;
use serde::Serialize;
use serde_json::{Value, json};

use super::report::{Machine, Report};
use super::spread_changes::{self, Change};
use super::spread_costs::{self, Packet, REPEAT, ROUNDS};
use super::spread_rate::{self, Rate};
use crate::lab::cluster::{Cluster, ClusterSettings, GROUP};
use crate::lab::probe::EchoServer;
use crate::lab::probe::connections::{PORT, StreamServer};
use crate::lab::probe::echo::PORT as ECHO_PORT;
use crate::lab::{Family, Lab, Moment, Timing, await_some};
use crate::scene::SOON;

const NODES: [&str; 3] = ["a", "b", "c"];
/// Flows whose shares are counted.
const FLOWS: u16 = 30_000;
const FIRST_PORT: u16 = 30_000;
/// How long one attempt to connect may take.
const ATTEMPT: Duration = Duration::from_millis(4);
/// For how long connections are tried after a cut, and how long a cut one is left alone afterwards.
const TRIED: Duration = Duration::from_millis(500);

/// What was found.
#[derive(Clone, Debug, Serialize)]
pub struct Found {
    /// The empty program, in nanoseconds.
    empty_ns: f64,
    /// What a packet costs that is sent on.
    packets: Vec<Packet>,
    /// What the entry sends on in a second.
    rate: Rate,
    /// What a table takes: what for, and microseconds.
    tables: Vec<(String, f64)>,
    /// What became of connections when nodes came and went.
    changes: Vec<Change>,
    /// How many of the flows each node got.
    flows: Vec<(String, u64)>,
    /// After a cut, until the last attempt to connect that came to nothing: whose cut, and milliseconds.
    outages: Vec<(&'static str, Vec<f64>)>,
}

/// Measures, and says on stderr how it goes.
///
/// # Errors
/// When the kernel refuses the programs, or the cluster does not come about.
pub fn run(trials: usize) -> anyhow::Result<Found> {
    let (empty_ns, packets) = spread_costs::packets()?;
    eprintln!("packets are measured; tables");
    let tables = spread_costs::tables();
    eprintln!("tables are measured; packets in a second");
    let rate = spread_rate::run()?;
    eprintln!("they are counted; connections while nodes come and go");
    let changes = spread_changes::run()?;
    eprintln!("they are watched; {FLOWS} flows over {} nodes", NODES.len());
    let lab = Lab::with_nodes(&NODES)?;
    let _servers = lab.nodes().iter().map(StreamServer::start).collect::<anyhow::Result<Vec<_>>>()?;
    let vip = Family::Ipv4.vip();
    // A datagram for which a node has no socket would go to its bucket's second.
    let echo = |node| EchoServer::start(node, vip);
    let _echoes = lab.nodes().iter().map(echo).collect::<anyhow::Result<Vec<_>>>()?;
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
    Ok(Found { empty_ns, packets, rate, tables, changes, flows, outages })
}

pub(super) fn group(cluster: &Cluster<'_>, node: &str) -> anyhow::Result<Value> {
    let status = cluster.control(node).command("status")?;
    let groups = status["groups"].as_array().cloned().unwrap_or_default();
    groups.into_iter().find(|group| group["name"] == GROUP).context("the group")
}

/// Waits until these nodes go by one table, by which all of them and no others have buckets.
pub(super) fn await_spread(cluster: &Cluster<'_>, nodes: &[&str]) -> anyhow::Result<()> {
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

/// Has a node's `clusterctl` do something.
pub(super) fn clusterctl(cluster: &Cluster<'_>, node: &str, arguments: &[&str]) -> anyhow::Result<()> {
    let output = cluster.clusterctl(node, arguments)?;
    ensure!(output.status.success(), "{arguments:?} on {node}: {output:?}");
    Ok(())
}

/// Who is the entry, of those that run.
pub(super) fn entry(cluster: &Cluster<'_>) -> anyhow::Result<String> {
    await_some("an entry", SOON, || {
        let names = cluster.lab().nodes().iter().map(|node| &node.name);
        let mut entries =
            names.filter(|name| group(cluster, name).is_ok_and(|group| group["role"] == "active"));
        Ok(entries.next().cloned())
    })
}

/// How many connections a node has, by its own word; `None` if it does not run.
pub(super) fn connections_of(cluster: &Cluster<'_>, node: &str) -> Option<u64> {
    let spread = group(cluster, node).ok()?["spread"].clone();
    let members = spread["members"].as_array()?;
    members.iter().find(|member| member["name"] == node)?["flows"].as_u64()
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
            // What is lost is counted nowhere.
            let _ = socket.send_to(b"flow", SocketAddr::new(vip, ECHO_PORT));
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
    let entry = entry(cluster)?;
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
        let Rate { asked, back, seconds } = self.rate;
        text += &format!(
            "\n| from one processor | million/s | lost |\n|---|---:|---:|\n| sent on by the entry | {:.2} | {:.1} % |\n",
            back as f64 / seconds / 1e6,
            100.0 - back as f64 / asked as f64 * 100.0
        );
        text += "\n| next table | µs | bound |\n|---|---:|---:|\n";
        for (what, micros) in &self.tables {
            text += &format!("| {what} | {micros:.0} | 1000 |\n");
        }
        text += "\n| what happens | connections | broken | of those on a lost node | longest stall of the others, ms |\n\
                 |---|---:|---:|---:|---:|\n";
        for Change { what, of, broken, were_lost, stall_ms } in &self.changes {
            text += &format!("| {what} | {of} | {broken} | {were_lost} | {stall_ms:.0} |\n");
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
             {REPEAT} runs; everything is sent on\nto one of 31 other nodes. In a second: UDP datagrams of one flow over a veth, as in \
             [responder.md](responder.md), to a member of three; asking and counting are in it. Tables of {BUCKETS} buckets, medians of {ROUNDS}. Flows: one \
             UDP datagram each, from {FLOWS} ports, over three nodes in the lab, counted\nby the nodes' own counters. Connections: TCP, a message every 50 ms on each, watched for three seconds; what stands still for longer counts as \
             broken. Cuts: the client \
             tries to connect to the VIP again and again, {} ms each time; normal timing.\n\n{}",
            ATTEMPT.as_millis(),
            self.markdown()
        );
        Report { name: "spread", markdown, json: json!({ "machine": machine, "found": self }), svg: None }
    }
}
