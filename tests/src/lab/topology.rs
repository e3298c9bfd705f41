//! The lab's wiring: two switches in one namespace, and the legs of every node, of every witness and of the client.
//!
//! ```text
//!            private switch 10.78.0.0/24 ── prv-a ── eth1 ┐                           (fd78::/64 likewise)
//!   switch                              ── prv-b ── eth1 ┤ nodes a, b, …  .1, .2, …
//!   namespace                           ── prv-client ── eth1 of the client (the observer) .50
//!            public  switch 10.77.0.0/24 ── pub-a ── eth0 ┐
//!                                       ── pub-b ── eth0 ┤ nodes a, b, …  .1, .2, …      VIP 10.77.0.100/24, fd77::100/64
//!                                       ── pub-client ── eth0 of the client .50
//! ```
//! A witness has a leg on both switches as well, in a namespace of its own, .41 and up.
//!
//! The IPv6 addresses end in the same digits as the IPv4 addresses and are usable at once: there is no duplicate address detection
//! and there are no routers. The switches are bridges without spanning tree and multicast snooping. Every switch port carries a native XDP program that
//! passes all, because a frame a node sends with `XDP_TX` is lost silently where the other end of its veth has none.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::{Context as _, bail, ensure};

use super::batch::Batch;
use super::delay_line::DelayLine;
use super::family::Family;
use super::namespace::Namespace;
use super::sweep;
use super::switch_ports::SwitchPorts;

/// The lab's virtual address.
pub const VIP: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 100);
/// The lab's virtual address as the configurations write it.
pub const VIP_WITH_PREFIX: &str = "10.77.0.100/24";
/// The lab's virtual address of the other family.
pub const VIP6: Ipv6Addr = Ipv6Addr::new(0xfd77, 0, 0, 0, 0, 0, 0, 0x100);
/// The same as the configurations write it.
pub const VIP6_WITH_PREFIX: &str = "fd77::100/64";
/// The name of the client, where a leg's owner is asked for.
pub const CLIENT: &str = "client";
/// The most nodes in a lab; the last octets of their addresses are 1 and up.
const MOST_NODES: usize = 40;
/// The most witnesses.
const MOST_WITNESSES: usize = 9;
/// The last octet of the first witness's addresses.
const FIRST_WITNESS_OCTET: u8 = 41;
/// The last octet of the client's addresses.
const CLIENT_OCTET: u8 = 50;
/// The last octet of the address in whose name the double-answer probe asks. The client's kernel owns it too, so that
/// whoever asks back for it gets a true answer.
const ASKING_OCTET: u8 = 51;

/// One of the two switches.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Link {
    /// Where the nodes talk among themselves; the client only observes.
    Private,
    /// Where clients reach the VIP.
    Public,
}

impl Link {
    /// Both.
    pub const ALL: [Self; 2] = [Self::Private, Self::Public];

    /// The interface that a leg on this switch has.
    #[must_use]
    pub fn interface(self) -> &'static str {
        match self {
            Self::Private => "eth1",
            Self::Public => "eth0",
        }
    }

    /// The address with this last octet.
    #[must_use]
    pub fn address(self, octet: u8) -> Ipv4Addr {
        Ipv4Addr::new(10, self.second_octet(), 0, octet)
    }

    /// The IPv6 address that ends in the digits of this octet.
    #[must_use]
    pub fn address6(self, octet: u8) -> Ipv6Addr {
        let (octet, network) = (u16::from(octet), if self == Self::Public { 0xfd77 } else { 0xfd78 });
        let digits = ((octet / 100) << 8) | ((octet / 10 % 10) << 4) | (octet % 10);
        Ipv6Addr::new(network, 0, 0, 0, 0, 0, 0, digits)
    }

    /// The address in whose name the double-answer probe asks on this switch.
    #[must_use]
    pub fn asking_address(self, family: Family) -> IpAddr {
        match family {
            Family::Ipv4 => self.address(ASKING_OCTET).into(),
            Family::Ipv6 => self.address6(ASKING_OCTET).into(),
        }
    }

    fn second_octet(self) -> u8 {
        match self {
            Self::Private => 78,
            Self::Public => 77,
        }
    }

    fn short(self) -> &'static str {
        match self {
            Self::Private => "prv",
            Self::Public => "pub",
        }
    }
}

/// An Ethernet address.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Mac(pub [u8; 6]);

impl std::fmt::Display for Mac {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

impl std::fmt::Debug for Mac {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        std::fmt::Display::fmt(self, f)
    }
}

/// A connection between a node, a witness or the client and a switch.
#[derive(Clone, Debug)]
pub struct Leg {
    /// Who owns it: a node's or witness's name or [`CLIENT`].
    pub owner: String,
    /// The owner's namespace.
    pub namespace: Namespace,
    /// The switch at its other end.
    pub link: Link,
    /// The owner's interface.
    pub interface: &'static str,
    /// The switch's port.
    pub port: String,
    /// The owner's address.
    pub address: Ipv4Addr,
    /// The owner's IPv6 address.
    pub address6: Ipv6Addr,
    /// The owner's Ethernet address.
    pub mac: Mac,
}

impl Leg {
    /// The owner's address of this family.
    #[must_use]
    pub fn address_of(&self, family: Family) -> IpAddr {
        match family {
            Family::Ipv4 => self.address.into(),
            Family::Ipv6 => self.address6.into(),
        }
    }
}

/// The place of a node, or of a witness, in the lab.
#[derive(Clone, Debug)]
pub struct Node {
    /// Its name, as in the cluster's configuration.
    pub name: String,
    /// Its namespace.
    pub namespace: Namespace,
    octet: u8,
}

/// A cluster's worth of namespaces. Dropping it removes everything it made.
#[derive(Debug)]
pub struct Lab {
    name: String,
    directory: PathBuf,
    switch: Namespace,
    client: Namespace,
    nodes: Vec<Node>,
    witnesses: Vec<Node>,
    tools: Mutex<Tools>,
    lines: Vec<DelayLine>,
}

/// What works on the switches: programs that stay open in their namespace, and the program on their ports.
#[derive(Debug)]
pub(super) struct Tools {
    pub(super) ip: Batch,
    pub(super) bridge: Batch,
    pub(super) tc: Batch,
    ports: SwitchPorts,
}

impl Lab {
    /// A lab with nodes `a` and `b`.
    ///
    /// # Errors
    /// Without root, or when the kernel lacks bridges, veth or clsact.
    pub fn new() -> anyhow::Result<Self> {
        Self::with_nodes(&["a", "b"])
    }

    /// A lab with these nodes, at most 40; names have at most 8 letters.
    ///
    /// # Errors
    /// Without root, or when the kernel lacks bridges, veth or clsact.
    pub fn with_nodes(names: &[&str]) -> anyhow::Result<Self> {
        Self::with_witnesses(names, &[])
    }

    /// A lab with these nodes, at most 40, and witnesses, at most 9; names have at most 8 letters.
    ///
    /// # Errors
    /// Without root, or when the kernel lacks bridges, veth or clsact.
    pub fn with_witnesses(nodes: &[&str], witnesses: &[&str]) -> anyhow::Result<Self> {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        ensure!(nodes.len() <= MOST_NODES, "a lab has at most {MOST_NODES} nodes");
        ensure!(witnesses.len() <= MOST_WITNESSES, "a lab has at most {MOST_WITNESSES} witnesses");
        let mut names = nodes.iter().chain(witnesses);
        ensure!(names.all(|name| name.len() <= 8), "a name in the lab has at most 8 letters");
        sweep::leftovers_of_the_dead();
        let name =
            format!("{}{}-{}", sweep::PREFIX, std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        let directory = std::env::temp_dir().join(&name);
        let namespace = |role: &str| Namespace::named(format!("{name}-{role}"));
        let (switch, client) = (namespace("switch"), namespace(CLIENT));
        let placed = |names: &[&str], kind: &str, first: u8| -> Vec<Node> {
            let place = |(octet, node): (u8, &&str)| Node {
                name: (*node).to_owned(),
                namespace: namespace(&format!("{kind}-{node}")),
                octet,
            };
            (first..).zip(names).map(place).collect()
        };
        let nodes = placed(nodes, "node", 1);
        let witnesses = placed(witnesses, "witness", FIRST_WITNESS_OCTET);
        let hosts: Vec<&Node> = nodes.iter().chain(&witnesses).collect();
        match Self::build(&name, &directory, &switch, &client, &hosts) {
            Ok(tools) => {
                let (tools, lines) = (Mutex::new(tools), Vec::new());
                Ok(Self { directory, switch, client, nodes, witnesses, tools, lines, name })
            }
            Err(error) => {
                sweep::lab(&name);
                Err(error.context("building the lab's namespaces"))
            }
        }
    }

    fn build(
        name: &str,
        directory: &Path,
        switch: &Namespace,
        client: &Namespace,
        hosts: &[&Node],
    ) -> anyhow::Result<Tools> {
        std::fs::create_dir(directory).with_context(|| format!("making {}", directory.display()))?;
        let namespaces = [switch, client].into_iter().chain(hosts.iter().map(|host| &host.namespace));
        let commands: Vec<String> =
            namespaces.map(|namespace| format!("netns add {}", namespace.name())).collect();
        batch("ip", None, &commands).with_context(|| format!("adding the namespaces {name}-*"))?;
        for owner in [client].into_iter().chain(hosts.iter().map(|host| &host.namespace)) {
            owner.run(settle_ipv6).context("settling IPv6, which the lab's kernel must have")?;
        }

        let mut tools = Tools::start(switch)?;
        tools.ip.run_all(&[
            "link set lo up",
            "link add prv type bridge stp_state 0 mcast_snooping 0",
            "link add pub type bridge stp_state 0 mcast_snooping 0",
            "link set prv up",
            "link set pub up",
        ])?;
        for host in hosts {
            batch("ip", Some(&host.namespace), &["link set lo up"])?;
            for link in Link::ALL {
                connect(&mut tools, switch, &host.leg(link))?;
            }
        }
        batch("ip", Some(client), &["link set lo up"])?;
        for link in Link::ALL {
            let leg = client_leg(client, link);
            connect(&mut tools, switch, &leg)?;
            let [asking, asking6] = Family::ALL.map(|family| link.asking_address(family));
            let interface = leg.interface;
            // The address is there to be answered at. Nothing is to be sent from it, although its prefix is the longest.
            let commands = [
                format!("address add {asking}/32 dev {interface}"),
                format!("address add {asking6}/128 dev {interface} nodad preferred_lft 0"),
            ];
            batch("ip", Some(client), &commands)?;
        }
        // A veth leaves checksums to the other end; a frame that a native XDP program sends back out would keep the
        // unfinished one.
        let turned = client.command("ethtool").args(["-K", Link::Public.interface(), "tx", "off"]).output();
        let turned = turned.context("starting `ethtool`; is it installed?")?;
        ensure!(turned.status.success(), "ethtool: {}", String::from_utf8_lossy(&turned.stderr));
        Ok(tools)
    }

    /// The name that everything of this lab begins with, unique on this machine.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// A directory for configurations, keys, state and logs; removed with the lab.
    #[must_use]
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// The client's namespace.
    #[must_use]
    pub fn client(&self) -> &Namespace {
        &self.client
    }

    /// The switches' namespace.
    #[must_use]
    pub fn switch(&self) -> &Namespace {
        &self.switch
    }

    /// The nodes, in the order they were asked for.
    #[must_use]
    pub fn nodes(&self) -> &[Node] {
        &self.nodes
    }

    /// The witnesses, in the order they were asked for.
    #[must_use]
    pub fn witnesses(&self) -> &[Node] {
        &self.witnesses
    }

    /// The nodes, then the witnesses.
    pub fn hosts(&self) -> impl Iterator<Item = &Node> {
        self.nodes.iter().chain(&self.witnesses)
    }

    /// The node called `name`.
    ///
    /// # Panics
    /// When there is none, which is a mistake in the test.
    #[must_use]
    #[expect(clippy::panic, reason = "a wrong name is a mistake in the test that names it")]
    pub fn node(&self, name: &str) -> &Node {
        let found = self.nodes.iter().find(|node| node.name == name);
        found.unwrap_or_else(|| panic!("the lab has no node called {name}"))
    }

    /// The node or witness called `name`.
    ///
    /// # Panics
    /// When there is none, which is a mistake in the test.
    #[must_use]
    #[expect(clippy::panic, reason = "a wrong name is a mistake in the test that names it")]
    pub fn host(&self, name: &str) -> &Node {
        let found = self.hosts().find(|host| host.name == name);
        found.unwrap_or_else(|| panic!("the lab has no node or witness called {name}"))
    }

    /// The leg of `owner` (a node's or witness's name, or [`CLIENT`]) on `link`.
    ///
    /// # Panics
    /// When nobody is called so, which is a mistake in the test.
    #[must_use]
    pub fn leg(&self, owner: &str, link: Link) -> Leg {
        if owner == CLIENT { client_leg(&self.client, link) } else { self.host(owner).leg(link) }
    }

    /// The node that owns `mac`.
    #[must_use]
    pub fn owner_of(&self, mac: Mac) -> Option<&Node> {
        self.nodes.iter().find(|node| Link::ALL.into_iter().any(|link| node.leg(link).mac == mac))
    }

    /// Removes the interface of `owner` on `link`, as a hot-unplugged NIC goes.
    ///
    /// # Errors
    /// When it is not there.
    pub fn remove_interface(&self, owner: &str, link: Link) -> anyhow::Result<()> {
        self.tools().ip.run(&format!("link delete {}", self.leg(owner, link).port))
    }

    /// Creates the interface of `owner` on `link` anew, with the same name, Ethernet address and address.
    ///
    /// # Errors
    /// When it is still there.
    pub fn create_interface(&self, owner: &str, link: Link) -> anyhow::Result<()> {
        let mut tools = self.tools();
        tools.forget_interfaces(&self.switch)?;
        connect(&mut tools, &self.switch, &self.leg(owner, link))
    }

    /// Makes the legs of a node or witness long: from now on each frame takes `delay` more, each way. Its interfaces are
    /// created anew, and do not lose their carriers with the switch's ports any more.
    ///
    /// # Errors
    /// When a leg is not there, or is long already.
    pub fn lengthen(&mut self, owner: &str, delay: Duration) -> anyhow::Result<()> {
        for link in Link::ALL {
            let leg = self.host(owner).leg(link);
            let ends = ["n", "f"].map(|end| format!("{}.{end}", leg.port));
            {
                let mut tools = self.tools();
                tools.ip.run(&format!("link delete {}", leg.port))?;
                tools.forget_interfaces(&self.switch)?;
                connect_by_line(&mut tools, &self.switch, &leg, &ends)?;
            }
            self.lines.push(DelayLine::lay(&self.switch, &ends, delay)?);
        }
        Ok(())
    }

    /// The lines that make legs long.
    #[must_use]
    pub fn lines(&self) -> &[DelayLine] {
        &self.lines
    }

    pub(super) fn tools(&self) -> MutexGuard<'_, Tools> {
        self.tools.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Tools {
    fn start(switch: &Namespace) -> anyhow::Result<Self> {
        Ok(Self {
            ip: Batch::start("ip", switch)?,
            bridge: Batch::start("bridge", switch)?,
            tc: Batch::start("tc", switch)?,
            ports: SwitchPorts::load()?,
        })
    }

    /// Starts the programs anew: they keep the index of every interface they have once looked up.
    fn forget_interfaces(&mut self, switch: &Namespace) -> anyhow::Result<()> {
        self.ip = Batch::start("ip", switch)?;
        self.bridge = Batch::start("bridge", switch)?;
        self.tc = Batch::start("tc", switch)?;
        Ok(())
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        sweep::lab(&self.name);
    }
}

impl Node {
    /// Its leg on `link`.
    #[must_use]
    pub fn leg(&self, link: Link) -> Leg {
        leg(&self.name, &self.namespace, link, self.octet)
    }
}

fn client_leg(client: &Namespace, link: Link) -> Leg {
    leg(CLIENT, client, link, CLIENT_OCTET)
}

fn leg(owner: &str, namespace: &Namespace, link: Link, octet: u8) -> Leg {
    Leg {
        owner: owner.to_owned(),
        namespace: namespace.clone(),
        link,
        interface: link.interface(),
        port: format!("{}-{owner}", link.short()),
        address: link.address(octet),
        address6: link.address6(octet),
        mac: Mac([0x02, 0, 0, link.second_octet(), 0, octet]),
    }
}

/// Makes a leg and plugs it into its switch.
fn connect(tools: &mut Tools, switch: &Namespace, leg: &Leg) -> anyhow::Result<()> {
    tools.ip.run(&veth_to_owner(&leg.port, leg))?;
    plug_in(tools, switch, leg)
}

/// Makes a leg in two parts and plugs it into its switch. The two ends between them are to be connected by a line.
fn connect_by_line(
    tools: &mut Tools,
    switch: &Namespace,
    leg: &Leg,
    ends: &[String; 2],
) -> anyhow::Result<()> {
    let [near, far] = ends;
    tools
        .ip
        .run_all(&[format!("link add {} type veth peer name {near}", leg.port), veth_to_owner(far, leg)])?;
    for end in ends {
        // The switches' namespace itself has nothing to say on the wire.
        tools.ip.run(&format!("link set {end} addrgenmode none"))?;
        tools.ports.attach(switch, end)?;
        tools.ip.run(&format!("link set {end} up"))?;
    }
    plug_in(tools, switch, leg)
}

/// What makes an interface of the switches' namespace with the interface of the leg's owner as its other end.
fn veth_to_owner(end: &str, leg: &Leg) -> String {
    let Leg { interface, mac, namespace, .. } = leg;
    format!("link add {end} type veth peer name {interface} address {mac} netns {}", namespace.name())
}

fn plug_in(tools: &mut Tools, switch: &Namespace, leg: &Leg) -> anyhow::Result<()> {
    let Leg { port, interface, address, address6, .. } = leg;
    tools.ip.run(&format!("link set {port} master {}", leg.link.short()))?;
    tools.tc.run(&format!("qdisc add dev {port} clsact"))?;
    tools.ports.attach(switch, port)?;
    tools.ip.run(&format!("link set {port} up"))?;
    let commands = [
        format!("link set {interface} up"),
        format!("address add {address}/24 dev {interface}"),
        format!("address add {address6}/64 dev {interface} nodad"),
    ];
    batch("ip", Some(&leg.namespace), &commands)
}

/// Makes IPv6 in the calling thread's namespace do without duplicate address detection, which would leave interfaces that are
/// made from now on without addresses for a second or two, and without routers.
fn settle_ipv6() -> anyhow::Result<()> {
    for setting in ["accept_dad", "accept_ra", "router_solicitations"] {
        let path = format!("/proc/sys/net/ipv6/conf/default/{setting}");
        std::fs::write(&path, "0").with_context(|| format!("writing {path}"))?;
    }
    Ok(())
}

/// Runs one of iproute2's programs once over several commands, all of which must succeed.
fn batch<S: AsRef<str>>(tool: &str, namespace: Option<&Namespace>, commands: &[S]) -> anyhow::Result<()> {
    use std::io::Write as _;
    let mut command = Command::new(tool);
    if let Some(namespace) = namespace {
        command.args(["-netns", namespace.name()]);
    }
    let text: Vec<&str> = commands.iter().map(AsRef::as_ref).collect();
    let mut child = command
        .args(["-batch", "-"])
        .stdin(std::process::Stdio::piped())
        .stderr(std::process::Stdio::piped())
        .spawn()
        .with_context(|| format!("starting `{tool}`; is iproute2 installed?"))?;
    if let Some(mut input) = child.stdin.take() {
        input.write_all(text.join("\n").as_bytes())?;
        input.write_all(b"\n")?;
    }
    let done = child.wait_with_output()?;
    if !done.status.success() {
        bail!(
            "`{tool}` refused: {}; it was asked: {}",
            String::from_utf8_lossy(&done.stderr).trim(),
            text.join("; ")
        );
    }
    Ok(())
}
