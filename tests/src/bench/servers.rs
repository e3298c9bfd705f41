//! `cluster-lab bench servers`: other people's servers and clients on an active/active group. nginx serves on each node, and wrk asks
//! over many connections that last, while nodes come and go; iperf3 sends streams to a node directly and by way of the entry.

use std::time::Duration;

use anyhow::{Context as _, bail, ensure};
use serde::Serialize;
use serde_json::{Value, json};

use super::report::{Machine, Report};
use super::spread::{await_spread, clusterctl, connections_of, entry};
use crate::lab::cluster::{Cluster, ClusterSettings, GROUP};
use crate::lab::nginx::Nginx;
use crate::lab::{Family, Lab, Link, Moment, Process};

const NODES: [&str; 4] = ["a", "b", "c", "d"];
/// wrk's connections, for how many seconds it asks, and when in that time something changes.
const CONNECTIONS: usize = 200;
const ASKED: u64 = 6;
const BEFORE: Duration = Duration::from_millis(1500);
/// How late an answer may be before wrk counts it as missing, in seconds.
const PATIENCE: u64 = 2;
/// iperf3's streams, how many bits a second each has, and for how many seconds they are sent. As fast as they can, they take all
/// processors, and with them the heartbeats' turn: of client, switch and nodes alike, which are one machine here.
const STREAMS: usize = 4;
const BITS: u64 = 100_000_000;
const SENT: u64 = 4;
/// How much longer than that a program may take to end.
const LATE: Duration = Duration::from_secs(20);

/// What was found.
#[derive(Clone, Debug, Serialize)]
pub struct Found {
    /// By what changed meanwhile.
    asked: Vec<Asked>,
    /// By the way that streams took.
    sent: Vec<Sent>,
}

/// What wrk says of a run.
#[derive(Clone, PartialEq, Debug, Default, Serialize)]
struct Asked {
    what: String,
    requests: u64,
    per_second: f64,
    /// Connections that did not come about, that broke while reading, while writing, and answers that came late.
    errors: [u64; 4],
    slowest_ms: f64,
    /// How many of its connections were on a node that was lost.
    were_lost: u64,
}

/// What iperf3 says of a run.
#[derive(Clone, PartialEq, Debug, Serialize)]
struct Sent {
    what: String,
    gigabits_per_second: f64,
    retransmits: u64,
    /// Tenths of a second in which nothing was sent.
    standstills: usize,
}

/// Measures, and says on stderr how it goes.
///
/// # Errors
/// When one of the programs is missing, or the cluster does not come about.
pub fn run() -> anyhow::Result<Found> {
    let (mut asked, mut sent) = (Vec::new(), Vec::new());
    for family in Family::ALL {
        sent.extend(streams(family)?);
        asked.extend(requests(family)?);
    }
    Ok(Found { asked, sent })
}

/// wrk's requests while nodes come and go.
fn requests(family: Family) -> anyhow::Result<Vec<Asked>> {
    let lab = Lab::with_nodes(&NODES)?;
    let _servers =
        lab.nodes().iter().map(|node| Nginx::start(&lab, node)).collect::<anyhow::Result<Vec<_>>>()?;
    let settings =
        ClusterSettings { group_lines: "mode = \"active-active\"".to_owned(), ..ClusterSettings::of(family) };
    let mut cluster = Cluster::new(&lab, &settings)?;
    for node in &NODES[..3] {
        cluster.start(node)?;
    }
    await_spread(&cluster, &NODES[..3])?;
    let mut found = Vec::new();
    let mut ask = |cluster: &mut Cluster<'_>, what: &str, lost: Option<&str>, change: Change<'_>| {
        let asked = watch(&lab, cluster, family, what, lost, change)?;
        eprintln!("{asked:?}");
        found.push(asked);
        anyhow::Ok(())
    };
    ask(&mut cluster, "nothing", None, &|_| Ok(()))?;
    ask(&mut cluster, "a node joins", None, &|cluster| {
        cluster.start("d")?;
        await_spread(cluster, &NODES)
    })?;
    ask(&mut cluster, "a member is drained", None, &|cluster| {
        clusterctl(cluster, "b", &["drain"])?;
        await_spread(cluster, &["a", "c", "d"])
    })?;
    ask(&mut cluster, "it is back (`undrain`)", None, &|cluster| {
        clusterctl(cluster, "b", &["undrain"])?;
        await_spread(cluster, &NODES)
    })?;
    ask(&mut cluster, "a member counts twice (`reload`)", None, &|cluster| {
        let text = std::fs::read_to_string(cluster.config())?;
        cluster.configure(&text.replacen("name = \"c\"\n", "name = \"c\"\nweight = 2\n", 1))?;
        NODES.iter().try_for_each(|node| clusterctl(cluster, node, &["reload"]))
    })?;
    let next = if entry(&cluster)? == "c" { "a" } else { "c" };
    ask(&mut cluster, "the entry moves (`promote`)", None, &|cluster| {
        clusterctl(cluster, next, &["promote", GROUP])
    })?;
    ask(&mut cluster, "the entry is replaced in place (`restart`)", None, &|cluster| {
        clusterctl(cluster, next, &["restart"])
    })?;
    let lost = entry(&cluster)?;
    ask(&mut cluster, "the entry is cut off", Some(&lost), &|cluster| cluster.lab().cut_all(&lost))?;
    Ok(found)
}

/// What is done to a cluster.
type Change<'a> = &'a dyn Fn(&mut Cluster<'_>) -> anyhow::Result<()>;

/// Has wrk ask while something changes.
fn watch(
    lab: &Lab,
    cluster: &mut Cluster<'_>,
    family: Family,
    what: &str,
    lost: Option<&str>,
    change: Change<'_>,
) -> anyhow::Result<Asked> {
    let mut command = lab.client().command("wrk");
    command.args(["-t1", &format!("-c{CONNECTIONS}"), &format!("-d{ASKED}s")]);
    command.args(["--timeout", &format!("{PATIENCE}s"), &url(family)]);
    let log = lab.directory().join("wrk.log");
    // What an earlier run has said is not this one's.
    let _ = std::fs::remove_file(&log);
    let mut wrk = Process::start("wrk", &command, &log)?;
    (Moment::now() + BEFORE).sleep();
    let were_lost = lost.and_then(|node| connections_of(cluster, node)).unwrap_or_default();
    change(cluster)?;
    let ended = wrk.await_end(Duration::from_secs(ASKED) + LATE)?;
    let output = wrk.output();
    ensure!(ended.success(), "wrk failed:\n{output}");
    let asked = said_by_wrk(&output).with_context(|| format!("wrk said something else:\n{output}"))?;
    Ok(Asked { what: format!("{what}, {}", family.label()), were_lost, ..asked })
}

fn url(family: Family) -> String {
    match family {
        Family::Ipv4 => format!("http://{}/", family.vip()),
        Family::Ipv6 => format!("http://[{}]/", family.vip()),
    }
}

/// What wrk prints at its end, in numbers.
fn said_by_wrk(output: &str) -> Option<Asked> {
    let after = |text: &str, word: &str| {
        let mut words = text.split_whitespace().skip_while(|one| *one != word).skip(1);
        words.next().map(|value| value.trim_end_matches(',').to_owned())
    };
    let requests = output.lines().find(|line| line.contains(" requests in "))?;
    let latency = output.lines().find(|line| line.trim_start().starts_with("Latency"))?;
    let errors = output.lines().find(|line| line.contains("Socket errors:"));
    let error = |word: &str| match errors {
        Some(line) => after(line, word)?.parse().ok(),
        None => Some(0),
    };
    Some(Asked {
        requests: requests.split_whitespace().next()?.parse().ok()?,
        per_second: after(output, "Requests/sec:")?.parse().ok()?,
        errors: [error("connect")?, error("read")?, error("write")?, error("timeout")?],
        slowest_ms: milliseconds(latency.split_whitespace().nth(3)?)?,
        ..Asked::default()
    })
}

/// A time as wrk writes it.
fn milliseconds(text: &str) -> Option<f64> {
    let unit = text.find(|letter: char| letter.is_ascii_alphabetic())?;
    let (number, unit) = text.split_at(unit);
    let number: f64 = number.parse().ok()?;
    match unit {
        "us" => Some(number / 1e3),
        "ms" => Some(number),
        "s" => Some(number * 1e3),
        "m" => Some(number * 6e4),
        _ => None,
    }
}

/// iperf3's streams, all of a client's to one node, as they have to be: it asks on one connection for what it sends on others.
fn streams(family: Family) -> anyhow::Result<Vec<Sent>> {
    let nodes = &NODES[..3];
    let lab = Lab::with_nodes(nodes)?;
    let server = |name: &str| {
        let mut command = lab.node(name).namespace.command("iperf3");
        command.arg("-s");
        Process::start(
            &format!("iperf3 on node {name}"),
            &command,
            &lab.directory().join(format!("iperf3-{name}.log")),
        )
    };
    let _servers = nodes.iter().map(|node| server(node)).collect::<anyhow::Result<Vec<_>>>()?;
    let group_lines = "mode = \"active-active\"\nhash = \"source\"".to_owned();
    let settings = ClusterSettings { group_lines, ..ClusterSettings::of(family) };
    let cluster = Cluster::started(&lab, &settings)?;
    await_spread(&cluster, nodes)?;
    // Whoever served most of the first run is the client's.
    send(&lab, family.vip().to_string(), "to find the node", |_| Ok(()))?;
    let passed = |node: &&&str| passed(&cluster, node, family).unwrap_or_default();
    let whose = nodes.iter().max_by_key(passed).context("a node")?;
    let other = |not: &str| nodes.iter().find(|node| **node != not && *node != whose).context("another node");
    if entry(&cluster)? == **whose {
        clusterctl(&cluster, other("")?, &["promote", GROUP])?;
    }
    let own = lab.leg(whose, Link::Public).address_of(family).to_string();
    let vip = || family.vip().to_string();
    let of = family.label();
    let first = entry(&cluster)?;
    let second = *other(&first)?;
    Ok(vec![
        send(&lab, own, &format!("to the node's own address, {of}"), |_| Ok(()))?,
        send(&lab, vip(), &format!("to the VIP, sent on by the entry, {of}"), |_| Ok(()))?,
        send(&lab, vip(), &format!("the same, and the entry moves meanwhile, {of}"), |_| {
            clusterctl(&cluster, second, &["promote", GROUP])
        })?,
        send(&lab, vip(), &format!("the same, and the entry moves to the node itself, {of}"), |_| {
            clusterctl(&cluster, whose, &["promote", GROUP])
        })?,
    ])
}

/// Sends streams to an address while something changes.
fn send(
    lab: &Lab,
    to: String,
    what: &str,
    change: impl FnOnce(&Lab) -> anyhow::Result<()>,
) -> anyhow::Result<Sent> {
    let mut command = lab.client().command("iperf3");
    command.args(["-c", &to, "-P", &STREAMS.to_string(), "-b", &BITS.to_string()]);
    command.args(["-t", &SENT.to_string(), "-i", "0.1", "-J"]);
    let log = lab.directory().join("iperf3.log");
    let _ = std::fs::remove_file(&log);
    let mut iperf3 = Process::start("iperf3", &command, &log)?;
    (Moment::now() + BEFORE).sleep();
    change(lab)?;
    let ended = iperf3.await_end(Duration::from_secs(SENT) + LATE)?;
    let output = iperf3.output();
    ensure!(ended.success(), "iperf3 failed:\n{output}");
    let sent = said_by_iperf3(what, &output)?;
    eprintln!("{sent:?}");
    Ok(sent)
}

/// What iperf3 says at its end, in numbers.
fn said_by_iperf3(what: &str, output: &str) -> anyhow::Result<Sent> {
    let said: Value = serde_json::from_str(output).context("reading what iperf3 says")?;
    let total = &said["end"];
    let (received, sent) = (&total["sum_received"]["bits_per_second"], &total["sum_sent"]["retransmits"]);
    let (Some(bits), Some(retransmits)) = (received.as_f64(), sent.as_u64()) else {
        bail!("iperf3 said something else: {}: {total}", said["error"]);
    };
    let intervals = said["intervals"].as_array().context("iperf3's intervals")?;
    let standstills =
        intervals.iter().filter(|interval| interval["sum"]["bytes"].as_u64() == Some(0)).count();
    Ok(Sent { what: what.to_owned(), gigabits_per_second: bits / 1e9, retransmits, standstills })
}

/// How many packets to the VIP a node has let in.
fn passed(cluster: &Cluster<'_>, node: &str, family: Family) -> Option<u64> {
    let stats = cluster.control(node).command("stats").ok()?;
    let groups = stats["groups"].as_array()?;
    let group = groups.iter().find(|group| group["name"] == GROUP)?;
    let counter = if family == Family::Ipv4 { "ipv4_passed" } else { "ipv6_passed" };
    group["packets"][counter].as_u64()
}

impl Found {
    /// Tables in Markdown.
    #[must_use]
    pub fn markdown(&self) -> String {
        let mut text = String::from(
            "| wrk, while this happens | requests | a second | connect, read, write errors | late | slowest, ms | connections of a lost node |\n\
             |---|---:|---:|---:|---:|---:|---:|\n",
        );
        for Asked {
            what,
            requests,
            per_second,
            errors: [connect, read, write, late],
            slowest_ms,
            were_lost,
        } in &self.asked
        {
            text += &format!(
                "| {what} | {requests} | {per_second:.0} | {connect}, {read}, {write} | {late} | {slowest_ms:.1} | {were_lost} |\n"
            );
        }
        text +=
            "\n| iperf3 | Gbit/s | retransmits | tenths of a second without a byte |\n|---|---:|---:|---:|\n";
        for Sent { what, gigabits_per_second, retransmits, standstills } in &self.sent {
            text += &format!("| {what} | {gigabits_per_second:.2} | {retransmits} | {standstills} |\n");
        }
        text
    }

    /// The page and its data.
    #[must_use]
    pub fn report(&self) -> Report {
        let machine = Machine::this();
        let markdown = format!(
            "# Active/active with other people's servers\n\n\
             Measured by `cargo xtask bench servers --write` on {machine}. nginx on each node, one process; wrk on the client with one thread and \
             {CONNECTIONS} connections\nthat last, for {ASKED} seconds, in which the change begins after {} s. An answer is late after {PATIENCE} s; connections that get no answer at all, wrk does \
             not count. All\nnodes, the client and the switch share this machine's processors, so that requests a second say how much there is to do, not \
             how fast a cluster is. iperf3: {STREAMS} streams of {} Mbit/s for {SENT} s with\n`hash = \"source\"`, to one of three nodes, which is not the entry.\n\n{}",
            BEFORE.as_secs_f64(),
            BITS / 1_000_000,
            self.markdown()
        );
        Report { name: "servers", markdown, json: json!({ "machine": machine, "found": self }), svg: None }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_wrk_says_is_read() {
        const SAID: &str = "Running 6s test @ http://10.77.0.100/\n  1 threads and 200 connections\n  Thread Stats   Avg      Stdev     Max   +/- Stdev\n    \
            Latency     4.34ms    3.16ms 110.76ms   93.11%\n    Req/Sec    47.96k     8.61k   59.01k    73.33%\n  286296 requests in 6.00s, 41.23MB read\n";
        let quiet =
            said_by_wrk(&format!("{SAID}Requests/sec:  47689.94\nTransfer/sec:      6.87MB\n")).unwrap();
        assert_eq!((quiet.requests, quiet.per_second, quiet.errors), (286_296, 47_689.94, [0; 4]));
        assert_eq!(quiet.slowest_ms, 110.76);
        let errors = "  Socket errors: connect 1, read 22, write 3, timeout 4\nRequests/sec:  1.0\n";
        assert_eq!(said_by_wrk(&format!("{SAID}{errors}")).unwrap().errors, [1, 22, 3, 4]);
        assert_eq!(said_by_wrk("unable to connect to 10.77.0.100:http Connection refused\n"), None);
        assert_eq!(
            ["12us", "1.5s", "1m", "x"].map(milliseconds),
            [Some(0.012), Some(1500.0), Some(60_000.0), None]
        );
    }

    #[test]
    fn what_iperf3_says_is_read() {
        let said = json!({
            "intervals": [{ "sum": { "bytes": 5 } }, { "sum": { "bytes": 0 } }],
            "end": { "sum_received": { "bits_per_second": 2e9 }, "sum_sent": { "retransmits": 7 } },
        });
        let sent = said_by_iperf3("x", &said.to_string()).unwrap();
        assert_eq!((sent.gigabits_per_second, sent.retransmits, sent.standstills), (2.0, 7, 1));
        assert!(said_by_iperf3("x", "{\"error\": \"unable to connect\"}").is_err());
    }
}
