//! `clusterd` on the lab's nodes and witnesses, driven only through its public interface.

use std::collections::BTreeMap;
use std::fs;
use std::io::Write as _;
use std::net::IpAddr;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Output};
use std::time::Duration;

use anyhow::{Context as _, bail, ensure};
use nix::sys::signal::Signal;
use serde_json::{Value, json};

use super::clock::{Moment, await_some};
use super::control::Control;
use super::family::Family;
use super::process::Process;
use super::topology::{Lab, Link, Node};
use super::witness::Home;

/// The lab's only group.
pub const GROUP: &str = "web";
/// How long a daemon may take until its control socket answers.
const START: Duration = Duration::from_secs(10);
/// How long a daemon may take to stop after SIGTERM.
const STOP: Duration = Duration::from_secs(10);

/// The durations of the election.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Timing {
    /// H: the time between two heartbeats.
    pub heartbeat: Duration,
    /// D: the silence after which a node counts as dead.
    pub dead_after: Duration,
    /// L: the term of a lease.
    pub lease: Duration,
}

impl Timing {
    /// The defaults: 10, 50 and 40 ms.
    pub const NORMAL: Self = Self::millis(10, 50, 40);
    /// The shortest that is allowed: 1, 5 and 4 ms.
    pub const FAST: Self = Self::millis(1, 5, 4);

    /// Heartbeat, `dead_after` and lease in milliseconds.
    #[must_use]
    pub const fn millis(heartbeat: u64, dead_after: u64, lease: u64) -> Self {
        Self {
            heartbeat: Duration::from_millis(heartbeat),
            dead_after: Duration::from_millis(dead_after),
            lease: Duration::from_millis(lease),
        }
    }
}

/// What of a cluster's configuration the lab's users choose.
#[derive(Clone, Debug)]
pub struct ClusterSettings {
    /// The election's durations.
    pub timing: Timing,
    /// How long a starting node listens.
    pub startup_wait: Duration,
    /// The families whose VIP the lab's group has.
    pub vips: Vec<Family>,
    /// The families of addresses that heartbeats travel between, a path each on both links.
    pub paths: Vec<Family>,
    /// Lines for every `[[node]]`, such as `xdp = "generic"`.
    pub node_lines: String,
    /// Lines for the `[[group]]`, such as `failback = "now"`.
    pub group_lines: String,
    /// Further tables.
    pub tables: String,
}

impl Default for ClusterSettings {
    fn default() -> Self {
        Self {
            timing: Timing::NORMAL,
            startup_wait: Duration::from_millis(300),
            vips: vec![Family::Ipv4],
            paths: vec![Family::Ipv4],
            node_lines: String::new(),
            group_lines: String::new(),
            tables: String::new(),
        }
    }
}

impl ClusterSettings {
    /// The defaults with this timing.
    #[must_use]
    pub fn with(timing: Timing) -> Self {
        Self { timing, ..Self::default() }
    }

    /// The defaults with a VIP and heartbeat paths of this family alone.
    #[must_use]
    pub fn of(family: Family) -> Self {
        Self::default().in_family(family)
    }

    /// These with a VIP and heartbeat paths of this family alone.
    #[must_use]
    pub fn in_family(self, family: Family) -> Self {
        Self { vips: vec![family], paths: vec![family], ..self }
    }

    /// The group's VIPs.
    #[must_use]
    pub fn addresses(&self) -> Vec<IpAddr> {
        self.vips.iter().map(|family| family.vip()).collect()
    }

    /// The configuration file's text, for the nodes and witnesses of `lab` in their order and with its VIPs.
    #[must_use]
    pub fn toml(&self, lab: &Lab) -> String {
        let Timing { heartbeat, dead_after, lease } = self.timing;
        let mut text = format!(
            "[cluster]\nname = \"{}\"\nkey_file = \"{}\"\nstate_dir = \"{}\"\n\n[timing]\nheartbeat = \"{}\"\ndead_after = \"{}\"\n\
             lease = \"{}\"\nstartup_wait = \"{}\"\n",
            lab.name(),
            key_file(lab).display(),
            lab.directory().join("state").display(),
            toml_duration(heartbeat),
            toml_duration(dead_after),
            toml_duration(lease),
            toml_duration(self.startup_wait),
        );
        for node in lab.nodes() {
            let legs = Link::ALL.map(|link| node.leg(link));
            let addresses =
                legs.iter().flat_map(|leg| self.paths.iter().map(|family| leg.address_of(*family)));
            text += &format!(
                "\n[[node]]\nname = \"{}\"\ninterface = \"{}\"\naddresses = [{}]\n",
                node.name,
                Link::Public.interface(),
                quoted(addresses)
            );
            text += &own_lines(&self.node_lines);
        }
        for witness in lab.witnesses() {
            let legs = Link::ALL.map(|link| witness.leg(link));
            let addresses =
                legs.iter().flat_map(|leg| self.paths.iter().map(|family| leg.address_of(*family)));
            text +=
                &format!("\n[[witness]]\nname = \"{}\"\naddresses = [{}]\n", witness.name, quoted(addresses));
        }
        text += &format!(
            "\n[[group]]\nname = \"{GROUP}\"\nvips = [{}]\nprefer = [{}]\n",
            quoted(self.vips.iter().map(|family| family.vip_with_prefix())),
            quoted(lab.nodes().iter().map(|node| &node.name))
        );
        text += &own_lines(&self.group_lines);
        text + &own_lines(&self.tables)
    }
}

/// A cluster in the lab: a configuration and the daemons that run by it, each called by the name of its node or witness.
/// Dropping it kills them.
#[derive(Debug)]
pub struct Cluster<'lab> {
    lab: &'lab Lab,
    config: PathBuf,
    program: PathBuf,
    daemons: BTreeMap<String, Process>,
}

impl<'lab> Cluster<'lab> {
    /// Writes the configuration and the key, and starts no daemon yet.
    ///
    /// # Errors
    /// When the files cannot be written, or the programs were not built.
    pub fn new(lab: &'lab Lab, settings: &ClusterSettings) -> anyhow::Result<Self> {
        Self::with_configuration(lab, &settings.toml(lab))
    }

    /// As [`Cluster::new`], with a configuration of one's own; the key is in the file that [`key_file`] names.
    ///
    /// # Errors
    /// When the files cannot be written, or the programs were not built.
    pub fn with_configuration(lab: &'lab Lab, text: &str) -> anyhow::Result<Self> {
        for program in ["clusterd", "clusterctl"] {
            let path = binary(program);
            ensure!(path.exists(), "there is no {}; build it with `cargo xtask build`", path.display());
        }
        let config = lab.directory().join("cluster.toml");
        let key = key_file(lab);
        if !key.exists() {
            // The lab's traffic goes nowhere else: any key will do, and a fixed one can be looked at in a capture.
            let mut file = fs::File::options().create_new(true).write(true).mode(0o600).open(&key)?;
            file.write_all(format!("{}\n", "5a".repeat(32)).as_bytes())?;
        }
        for witness in lab.witnesses() {
            Home::of(lab, &witness.name).furnish(lab)?;
        }
        let cluster = Self { lab, config, program: binary("clusterd"), daemons: BTreeMap::new() };
        cluster.configure(text)?;
        Ok(cluster)
    }

    /// Daemons started from now on are run from a copy of `clusterd` of the lab's own, which can be replaced like one that is
    /// installed. Returns where it is.
    ///
    /// # Errors
    /// When it cannot be copied.
    pub fn install(&mut self) -> anyhow::Result<PathBuf> {
        self.program = self.lab.directory().join("clusterd");
        self.upgrade()?;
        Ok(self.program.clone())
    }

    /// Puts a new file in the place of the installed program, as a package manager does: those that run it keep the old one.
    ///
    /// # Errors
    /// When it cannot be replaced.
    pub fn upgrade(&self) -> anyhow::Result<()> {
        let new = self.program.with_extension("new");
        fs::copy(binary("clusterd"), &new).with_context(|| format!("copying to {}", new.display()))?;
        fs::rename(&new, &self.program).with_context(|| format!("replacing {}", self.program.display()))
    }

    /// As [`Cluster::upgrade`], with a shell script.
    ///
    /// # Errors
    /// When it cannot be replaced.
    pub fn upgrade_to_script(&self, script: &str) -> anyhow::Result<()> {
        let new = self.program.with_extension("new");
        let mut file = fs::File::options().create(true).truncate(true).write(true).mode(0o755).open(&new)?;
        file.write_all(format!("#!/bin/sh\n{script}\n").as_bytes())?;
        drop(file);
        fs::rename(&new, &self.program).with_context(|| format!("replacing {}", self.program.display()))
    }

    /// Gives all hosts this configuration. Daemons that run read it when they are told to.
    ///
    /// # Errors
    /// When a file cannot be written.
    pub fn configure(&self, text: &str) -> anyhow::Result<()> {
        fs::write(&self.config, text).with_context(|| format!("writing {}", self.config.display()))?;
        self.lab
            .witnesses()
            .iter()
            .try_for_each(|witness| Home::of(self.lab, &witness.name).configure(self.lab, text))
    }

    /// As [`Cluster::new`], and starts every daemon and waits until one node serves and the others stand by.
    ///
    /// # Errors
    /// When a daemon does not start or they do not agree.
    pub fn started(lab: &'lab Lab, settings: &ClusterSettings) -> anyhow::Result<Self> {
        let mut cluster = Self::new(lab, settings)?;
        cluster.start_all()?;
        cluster.await_settled(Duration::from_secs(10))?;
        Ok(cluster)
    }

    /// What `clusterd --check` has against the configuration, if anything.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn refusal(&self) -> anyhow::Result<Option<String>> {
        let mut command = Command::new(binary("clusterd"));
        command.arg("--check").arg("--config").arg(&self.config);
        command.args(self.lab.nodes().first().into_iter().flat_map(|node| ["--node", &node.name]));
        let checked = command.output().context("starting clusterd")?;
        let said = String::from_utf8_lossy(&checked.stderr).trim().to_owned();
        Ok((!checked.status.success()).then_some(said))
    }

    /// The nodes' configuration file.
    #[must_use]
    pub fn config(&self) -> &Path {
        &self.config
    }

    /// The lab it is in.
    #[must_use]
    pub fn lab(&self) -> &'lab Lab {
        self.lab
    }

    /// Starts the daemon of `node` and waits until its control socket answers.
    ///
    /// # Errors
    /// When it does not start; the message ends with what it printed.
    pub fn start(&mut self, node: &str) -> anyhow::Result<()> {
        self.spawn(node)?;
        let control = self.control(node);
        let answers = await_some(&format!("clusterd of node {node} to answer"), START, || {
            if !self.daemons.get_mut(node).is_some_and(Process::runs) {
                return Ok(Some(false));
            }
            control.command("status").map(|_| Some(true))
        });
        match answers {
            Ok(true) => Ok(()),
            Ok(false) => bail!("clusterd of node {node} ended at once; it printed:\n{}", self.output(node)),
            Err(error) => Err(error.context(format!("it printed:\n{}", self.output(node)))),
        }
    }

    /// Starts the daemon of `node` and does not wait.
    ///
    /// # Errors
    /// When it cannot be started or runs already.
    pub fn spawn(&mut self, node: &str) -> anyhow::Result<()> {
        ensure!(
            !self.daemons.get_mut(node).is_some_and(Process::runs),
            "clusterd of node {node} runs already"
        );
        let command = self.command(node);
        let log = self.lab.directory().join(format!("{node}.log"));
        let daemon = Process::start(&format!("clusterd of node {node}"), &command, &log)?;
        self.daemons.insert(node.to_owned(), daemon);
        Ok(())
    }

    /// What starts the daemon of `node`.
    #[must_use]
    pub fn command(&self, node: &str) -> Command {
        let mut command = match self.home(node) {
            Some(home) => home.daemon(self.lab),
            None => {
                let mut command = self.lab.node(node).namespace.command(&self.program);
                command.arg("--config").arg(&self.config);
                command
            }
        };
        command.args(["--node", node]).arg("--socket").arg(self.control(node).socket());
        command
    }

    /// Starts all daemons, at once, and waits until all control sockets answer.
    ///
    /// # Errors
    /// When one does not start.
    pub fn start_all(&mut self) -> anyhow::Result<()> {
        for host in self.lab.hosts() {
            self.spawn(&host.name)?;
        }
        for node in self.lab.hosts() {
            let control = self.control(&node.name);
            let answer = await_some(&format!("clusterd of node {} to answer", node.name), START, || {
                control.command("status").map(Some)
            });
            answer.with_context(|| format!("it printed:\n{}", self.output(&node.name)))?;
        }
        Ok(())
    }

    /// The daemon of `node`, to be sent signals.
    ///
    /// # Errors
    /// When it was never started.
    pub fn daemon(&mut self, node: &str) -> anyhow::Result<&mut Process> {
        self.daemons.get_mut(node).with_context(|| format!("clusterd of node {node} was never started"))
    }

    /// Whether the daemon of `node` runs (a stopped one does).
    pub fn runs(&mut self, node: &str) -> bool {
        self.daemons.get_mut(node).is_some_and(Process::runs)
    }

    /// Kills the daemon of `node` with SIGKILL and waits for its end. Returns the moment just before.
    ///
    /// # Errors
    /// When it was never started.
    pub fn kill(&mut self, node: &str) -> anyhow::Result<Moment> {
        Ok(self.daemon(node)?.kill())
    }

    /// Stops the daemon of `node` with SIGTERM and waits for its end. Returns the moment just before and its exit status.
    ///
    /// # Errors
    /// When it was never started, has ended already, or does not end.
    pub fn stop(&mut self, node: &str) -> anyhow::Result<(Moment, ExitStatus)> {
        let daemon = self.daemon(node)?;
        let at = daemon.signal(Signal::SIGTERM)?;
        Ok((at, daemon.await_end(STOP)?))
    }

    /// All that the daemon of `node` has printed.
    #[must_use]
    pub fn output(&self, node: &str) -> String {
        self.daemons.get(node).map(Process::output).unwrap_or_default()
    }

    /// The control socket of the daemon of `node`.
    #[must_use]
    pub fn control(&self, node: &str) -> Control {
        let of_node = || self.lab.directory().join(format!("{node}.sock"));
        Control::at(self.home(node).map_or_else(of_node, |home| home.socket()))
    }

    /// Runs `clusterctl` against the daemon of `node`.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn clusterctl(&self, node: &str, arguments: &[&str]) -> anyhow::Result<Output> {
        let mut command = Command::new(binary("clusterctl"));
        command.arg("--socket").arg(self.control(node).socket()).args(arguments);
        command.output().context("starting clusterctl")
    }

    /// What the daemon of `node` says of the lab's group: one of the `groups` of its status.
    ///
    /// # Errors
    /// When it does not answer or does not know the group.
    pub fn group(&self, node: &str) -> anyhow::Result<Value> {
        let status =
            self.control(node).request_within(&json!({ "cmd": "status" }), Duration::from_secs(1))?;
        let groups = status.get("groups").and_then(Value::as_array);
        let group =
            groups.and_then(|groups| groups.iter().find(|group| group.get("name") == Some(&json!(GROUP))));
        group.cloned().with_context(|| format!("the status of node {node} names no group {GROUP}: {status}"))
    }

    /// How many transitions and lapses the daemon of `node` has gone through since its start, together.
    ///
    /// # Errors
    /// When it does not answer.
    pub fn upsets(&self, node: &str) -> anyhow::Result<u64> {
        let group = self.group(node)?;
        let count = |key: &str| group.get(key).and_then(Value::as_u64);
        let counts = count("transitions").zip(count("lapses"));
        counts.map(|(transitions, lapses)| transitions + lapses).context("the status has no counts")
    }

    /// The role of `node` as its daemon says it.
    ///
    /// # Errors
    /// When the daemon does not answer.
    pub fn role(&self, node: &str) -> anyhow::Result<String> {
        let group = self.group(node)?;
        let role = group.get("role").and_then(Value::as_str);
        role.map(str::to_owned).with_context(|| format!("the status of node {node} has no role: {group}"))
    }

    /// Waits until the daemon of `node` says it has this role.
    ///
    /// # Errors
    /// When it has not within `timeout`.
    pub fn await_role(&self, node: &str, role: &str, timeout: Duration) -> anyhow::Result<()> {
        await_some(&format!("node {node} to be {role}"), timeout, || {
            let now = self.role(node)?;
            if now == role { Ok(Some(())) } else { bail!("it is {now}") }
        })
    }

    /// Waits until all daemons that run hear each other, and the votes of all of them count.
    ///
    /// # Errors
    /// When that is not so within `timeout`.
    pub fn await_votes(&mut self, timeout: Duration) -> anyhow::Result<()> {
        let running = self.running(self.lab.hosts());
        await_some("all voters to be heard", timeout, || {
            for host in &running {
                let status = self.control(host).command("status")?;
                let peers =
                    status.get("peers").and_then(Value::as_array).context("a status without peers")?;
                let counts = |peer: &&Value| {
                    peer.get("state") == Some(&json!("alive")) && peer.get("voting") == Some(&json!(true))
                };
                let heard = peers.iter().filter(counts).count();
                ensure!(heard + 1 == running.len(), "{host} hears {heard} whose votes count");
            }
            Ok(Some(()))
        })
    }

    /// Waits until one node is active and every other one whose daemon runs is passive; returns the active one's name.
    ///
    /// # Errors
    /// When that is not so within `timeout`.
    pub fn await_settled(&mut self, timeout: Duration) -> anyhow::Result<String> {
        let running = self.running(self.lab.nodes().iter());
        await_some("one node to be active and the others passive", timeout, || {
            let mut active = None;
            let mut roles = Vec::new();
            for node in &running {
                let role = self.role(node)?;
                if role == "active" && active.is_none() {
                    active = Some(node.clone());
                } else if role != "passive" {
                    active = None;
                    roles.push(format!("{node} is {role}"));
                    break;
                }
                roles.push(format!("{node} is {role}"));
            }
            match active {
                Some(active) => Ok(Some(active)),
                None => bail!("{}", roles.join(", ")),
            }
        })
    }

    /// The node that is not `node`, in a lab of two.
    ///
    /// # Panics
    /// When the lab has not exactly two nodes, which is a mistake in the test.
    #[must_use]
    #[expect(clippy::panic, reason = "asking for the other of three is a mistake in the test")]
    pub fn other(&self, node: &str) -> &'lab str {
        match self.lab.nodes() {
            [first, second] => {
                if first.name == node {
                    &second.name
                } else {
                    &first.name
                }
            }
            nodes => panic!("there is no single other node among {}", nodes.len()),
        }
    }

    /// The directory of a witness, if it is one.
    fn home(&self, host: &str) -> Option<Home> {
        let is_witness = self.lab.witnesses().iter().any(|witness| witness.name == host);
        is_witness.then(|| Home::of(self.lab, host))
    }

    /// The names of those hosts whose daemons run.
    fn running<'host>(&mut self, hosts: impl Iterator<Item = &'host Node>) -> Vec<String> {
        hosts.map(|host| &host.name).filter(|name| self.runs(name)).cloned().collect()
    }
}

/// Where the lab's key is.
#[must_use]
pub fn key_file(lab: &Lab) -> PathBuf {
    lab.directory().join("cluster.key")
}

/// The path of one of the product's programs: in `CLUSTER_BIN_DIR` if that is set, else where a release build leaves it.
#[must_use]
pub fn binary(program: &str) -> PathBuf {
    let built = || Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/release");
    std::env::var_os("CLUSTER_BIN_DIR").map_or_else(built, PathBuf::from).join(program)
}

/// The elements of an array of strings.
fn quoted(words: impl Iterator<Item = impl std::fmt::Display>) -> String {
    words.map(|word| format!("\"{word}\"")).collect::<Vec<_>>().join(", ")
}

/// Lines that end as lines do, if there are any.
fn own_lines(lines: &str) -> String {
    if lines.is_empty() || lines.ends_with('\n') { lines.to_owned() } else { format!("{lines}\n") }
}

/// A duration as the configuration writes it.
fn toml_duration(duration: Duration) -> String {
    let micros = duration.as_micros();
    if micros.is_multiple_of(1000) { format!("{}ms", micros / 1000) } else { format!("{micros}us") }
}
