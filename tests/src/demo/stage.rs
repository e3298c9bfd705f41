//! The stage: the lab with its daemons, the service behind the VIP and the client; and what the keys do to it.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::path::Path;
use std::sync::mpsc::{self, Receiver, Sender};
use std::thread;
use std::time::Duration;

use anyhow::Context as _;
use nix::sys::signal::Signal;
use serde_json::json;

use super::Cast;
use crate::lab::cluster::GROUP;
use crate::lab::control::Control;
use crate::lab::probe::{AnswerProbe, EchoServer, RequestProbe};
use crate::lab::{Cluster, ClusterSettings, Family, Lab, Link, Timing};

/// How often the client asks: often enough to show milliseconds, seldom enough to leave the machine to the cluster.
const REQUESTS: Duration = Duration::from_micros(500);
/// How often it is asked by ARP who has the VIP.
const QUESTIONS: Duration = Duration::from_millis(5);

/// Clients of a VIP that several nodes serve.
const FLOWS: usize = 4;

/// The configuration's text, and its VIPs: one of each family; or with spares one for each node that serves, on as many groups.
fn configuration(lab: &Lab, settings: &ClusterSettings, cast: &Cast) -> (String, Vec<IpAddr>) {
    let text = settings.toml(lab);
    if cast.spares == 0 {
        return (text, settings.addresses());
    }
    let mut text = text.split("\n[[group]]").next().unwrap_or_default().to_owned();
    for spare in 1..=cast.spares {
        let name = format!("name = \"s{spare}\"\n");
        text = text.replace(&name, &format!("{name}spare = true\n"));
    }
    let mut vips = Vec::new();
    for group in 0..cast.nodes {
        let octet = 101 + group as u8;
        let address = |family: &Family| match family {
            Family::Ipv4 => (IpAddr::from(Link::Public.address(octet)), 24),
            Family::Ipv6 => (Link::Public.address6(octet).into(), 64),
        };
        let of_group: Vec<(IpAddr, u8)> = cast.families.iter().map(address).collect();
        let quoted: Vec<String> = of_group.iter().map(|(ip, prefix)| format!("\"{ip}/{prefix}\"")).collect();
        text += &format!("\n[[group]]\nname = \"web{}\"\nvips = [{}]\n", group + 1, quoted.join(", "));
        vips.extend(of_group.iter().map(|(ip, _)| *ip));
    }
    (text, vips)
}

/// What a key asks for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Order {
    /// Kill the active node's daemon.
    Kill,
    /// Start the daemons that were killed.
    Respawn,
    /// Stop the active node's daemon, or let those that are stopped go on.
    Stall,
    /// Cut all links of the active node.
    Cut,
    /// Cut the link of the active node that clients use.
    CutService,
    /// Mend all links.
    Mend,
    /// Make the node that is not active take the VIP.
    Promote,
    /// Make the active node give it up.
    Demote,
    /// End.
    Quit,
}

/// The keys, and what is written beside them.
pub const KEYS: [(u8, Order, &str); 9] = [
    (b'k', Order::Kill, "kill the active daemon"),
    (b'r', Order::Respawn, "respawn"),
    (b's', Order::Stall, "stall it / continue"),
    (b'c', Order::Cut, "cut its links"),
    (b'v', Order::CutService, "cut only its service link"),
    (b'm', Order::Mend, "mend all"),
    (b'p', Order::Promote, "promote the other"),
    (b'd', Order::Demote, "demote"),
    (b'q', Order::Quit, "quit"),
];

impl Order {
    /// What this key asks for, if anything.
    #[must_use]
    pub fn of_key(key: u8) -> Option<Self> {
        KEYS.iter().find(|(known, ..)| *known == key.to_ascii_lowercase()).map(|(_, order, _)| *order)
    }
}

/// How a node's links are.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Wiring {
    /// Whole.
    Whole,
    /// The link that clients use is cut.
    ServiceCut,
    /// All are cut.
    Cut,
}

/// How a node's daemon is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Daemon {
    /// It runs.
    Runs,
    /// It is stopped by a signal.
    Stalled,
    /// It has ended.
    Ended,
}

/// The lab at work.
#[derive(Debug)]
pub struct Stage<'lab> {
    lab: &'lab Lab,
    cluster: Cluster<'lab>,
    settings: ClusterSettings,
    configuration: String,
    stalled: BTreeSet<String>,
    wiring: BTreeMap<String, Wiring>,
    /// What came of requests that a thread of their own waits for.
    outcomes: (Sender<String>, Receiver<String>),
    /// The client, once for each VIP.
    pub clients: Vec<(IpAddr, RequestProbe)>,
    /// Who answers for the VIPs.
    pub answers: AnswerProbe,
    _services: Vec<EchoServer>,
}

impl<'lab> Stage<'lab> {
    /// Starts everything, and waits until the client is served at each VIP.
    ///
    /// # Errors
    /// When something does not start.
    pub fn set(lab: &'lab Lab, cast: &Cast) -> anyhow::Result<Self> {
        let group_lines = if cast.spreads { "mode = \"active-active\"" } else { "" };
        let settings = ClusterSettings {
            startup_wait: Duration::from_secs(2),
            vips: cast.families.clone(),
            group_lines: group_lines.to_owned(),
            ..ClusterSettings::with(Timing::NORMAL)
        };
        let (configuration, vips) = configuration(lab, &settings, cast);
        let served = lab.nodes().iter().flat_map(|node| vips.iter().map(move |vip| (node, *vip)));
        let services: anyhow::Result<Vec<EchoServer>> =
            served.map(|(node, vip)| EchoServer::start(node, vip)).collect();
        let mut cluster = Cluster::with_configuration(lab, &configuration)?;
        cluster.start_all()?;
        let answers = AnswerProbe::start_with_all(lab, &vips, QUESTIONS)?;
        let mut clients = Vec::new();
        // Each client is a flow of its own.
        let flows = if cast.spreads { FLOWS } else { 1 };
        for vip in vips.iter().copied().flat_map(|vip| std::iter::repeat_n(vip, flows)) {
            let client = RequestProbe::start_with(lab, vip, REQUESTS)?;
            client.await_service(None, Duration::from_secs(10))?;
            clients.push((vip, client));
        }
        let (stalled, wiring) = (BTreeSet::new(), BTreeMap::new());
        let outcomes = mpsc::channel();
        Ok(Self {
            lab,
            cluster,
            settings,
            configuration,
            stalled,
            wiring,
            outcomes,
            clients,
            answers,
            _services: services?,
        })
    }

    /// The configuration file.
    #[must_use]
    pub fn config(&self) -> &Path {
        self.cluster.config()
    }

    /// What is in it.
    #[must_use]
    pub fn configuration(&self) -> &str {
        &self.configuration
    }

    /// The election's durations.
    #[must_use]
    pub fn timing(&self) -> Timing {
        self.settings.timing
    }

    /// The names of the nodes.
    #[must_use]
    pub fn nodes(&self) -> Vec<String> {
        self.lab.nodes().iter().map(|node| node.name.clone()).collect()
    }

    /// The control socket of a node's daemon.
    #[must_use]
    pub fn control(&self, node: &str) -> Control {
        self.cluster.control(node)
    }

    /// How a node's daemon is.
    pub fn daemon(&mut self, node: &str) -> Daemon {
        if !self.cluster.runs(node) {
            self.stalled.remove(node);
            return Daemon::Ended;
        }
        if self.stalled.contains(node) { Daemon::Stalled } else { Daemon::Runs }
    }

    /// How a node's links are.
    #[must_use]
    pub fn wiring(&self, node: &str) -> Wiring {
        self.wiring.get(node).copied().unwrap_or(Wiring::Whole)
    }

    /// What has come of earlier orders meanwhile.
    pub fn outcomes(&self) -> Vec<String> {
        self.outcomes.1.try_iter().collect()
    }

    /// Does what is ordered and says what was done, or why not.
    pub fn carry_out(&mut self, order: Order) -> String {
        let Some((active, other)) = self.active() else { return "nobody has served yet".to_owned() };
        let done = match order {
            Order::Kill => self.cluster.kill(&active).map(|_| format!("killed the daemon of node {active}")),
            Order::Respawn => self.respawn(),
            Order::Stall => self.stall_or_continue(&active),
            Order::Cut => self.lab.cut_all(&active).map(|()| {
                self.wiring.insert(active.clone(), Wiring::Cut);
                format!("cut all links of node {active}")
            }),
            Order::CutService => self.lab.cut(&active, Link::Public).map(|()| {
                self.wiring.insert(active.clone(), Wiring::ServiceCut);
                format!("cut the service link of node {active}")
            }),
            Order::Mend => self.lab.mend_all().map(|()| {
                self.wiring.clear();
                "mended all links".to_owned()
            }),
            Order::Promote => Ok(self.ask("promote", &other)),
            Order::Demote => Ok(self.ask("demote", &active)),
            Order::Quit => Ok("ending".to_owned()),
        };
        done.unwrap_or_else(|error| format!("that failed: {error:#}"))
    }

    /// Who served last, and who did not.
    fn active(&self) -> Option<(String, String)> {
        let (_, active) = self.clients.iter().filter_map(|(_, client)| client.last_answer()).max()?;
        let other = self.cluster.other(&active).to_owned();
        Some((active, other))
    }

    fn respawn(&mut self) -> anyhow::Result<String> {
        let mut started = Vec::new();
        for node in self.nodes() {
            if !self.cluster.runs(&node) {
                self.cluster.spawn(&node)?;
                started.push(node);
            }
        }
        Ok(if started.is_empty() {
            "all daemons run already".to_owned()
        } else {
            format!("started the daemon of node {}", started.join(" and of node "))
        })
    }

    fn stall_or_continue(&mut self, active: &str) -> anyhow::Result<String> {
        let stalled: Vec<String> = std::mem::take(&mut self.stalled).into_iter().collect();
        for node in &stalled {
            self.cluster
                .daemon(node)?
                .signal(Signal::SIGCONT)
                .with_context(|| format!("continuing node {node}"))?;
        }
        if let Some(node) = stalled.first() {
            return Ok(format!("let the daemon of node {node} go on (SIGCONT)"));
        }
        self.cluster.daemon(active)?.signal(Signal::SIGSTOP)?;
        self.stalled.insert(active.to_owned());
        Ok(format!("stopped the daemon of node {active} (SIGSTOP)"))
    }

    /// Asks a daemon for something it answers when it is done; its answer is among the outcomes later.
    fn ask(&self, cmd: &'static str, node: &str) -> String {
        let (control, outcomes, name) = (self.control(node), self.outcomes.0.clone(), node.to_owned());
        let group = if self.configuration.contains(&format!("name = \"{GROUP}\"")) { GROUP } else { "web1" };
        thread::spawn(move || {
            let outcome = match control.request(&json!({ "cmd": cmd, "group": group })) {
                Ok(_) => format!("{cmd} on node {name}: done"),
                Err(error) => format!("{cmd} on node {name}: {error:#}"),
            };
            // Nobody listens any more when the demonstration is over.
            let _ = outcomes.send(outcome);
        });
        format!("{cmd} asked of node {node}")
    }
}
