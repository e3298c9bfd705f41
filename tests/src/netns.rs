//! A network namespace that goes when it is dropped, for tests of one part at a time; whole clusters are the lab's.

use std::fs::File;
use std::net::IpAddr;
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use nix::sched::{CloneFlags, setns};

use crate::lab::await_some;

/// A namespace of a name of its own, with its loopback up.
#[derive(Debug)]
pub struct Netns {
    name: String,
}

/// Whether namespaces can be made here. If not, says that the test is skipped; under `CI=true` that is an error.
///
/// # Panics
/// Without root under `CI=true`.
#[must_use]
pub fn available() -> bool {
    let root = nix::unistd::geteuid().is_root();
    assert!(root || std::env::var("CI").as_deref() != Ok("true"), "tests in namespaces need root");
    if !root {
        eprintln!("skipped: network namespaces need root");
    }
    root
}

impl Netns {
    /// Makes the namespace.
    ///
    /// # Errors
    /// When `ip netns add` fails.
    pub fn new() -> Result<Self> {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let name = format!("clt-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        execute(&["netns", "add", &name])?;
        let namespace = Self { name };
        namespace.ip("link set lo up")?;
        Ok(namespace)
    }

    /// Makes one that has these addresses on `lo`, usable at once.
    ///
    /// # Errors
    /// When `ip` fails.
    pub fn with_addresses(addresses: &[IpAddr]) -> Result<Self> {
        let namespace = Self::new()?;
        for address in addresses {
            let (length, at_once) = if address.is_ipv4() { (32, "") } else { (128, " nodad") };
            namespace.ip(&format!("addr add {address}/{length} dev lo{at_once}"))?;
        }
        Ok(namespace)
    }

    /// Its name, as under `/run/netns`.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Runs `ip` with these arguments, separated by spaces, in the namespace; what it printed. An IPv6 address that was added
    /// `nodad`, to an interface that is up, can be used when this returns.
    ///
    /// # Errors
    /// When it fails; the error carries what it said.
    pub fn ip(&self, arguments: &str) -> Result<String> {
        let mut words = vec!["-n", &self.name];
        words.extend(arguments.split_whitespace());
        let printed = execute(&words)?;
        if let ["addr", "add", address, .., "nodad"] = words[2..] {
            self.await_local(address.split('/').next().unwrap_or_default())?;
        }
        Ok(printed)
    }

    /// Waits until the kernel takes in what is sent to the IPv6 address: it makes the route to a new one later, on a
    /// thread of its own (`addrconf_dad_work`).
    fn await_local(&self, address: &str) -> Result<()> {
        await_some(&format!("a route to {address}"), Duration::from_secs(10), || {
            let route = execute(&["-n", &self.name, "-6", "route", "show", "table", "local", address])?;
            Ok((!route.is_empty()).then_some(()))
        })
    }

    /// Connects this namespace with another by a pair of virtual Ethernet interfaces, both up. Hardware addresses may
    /// be given after the names: `eth0 address 02:00:00:00:00:0a`.
    ///
    /// # Errors
    /// When `ip` fails.
    pub fn veth(&self, ours: &str, other: &Self, theirs: &str) -> Result<()> {
        let pair = format!("link add {ours} type veth peer {theirs} netns {}", other.name);
        self.ip(&pair)?;
        self.ip(&format!("link set {} up", first_word(ours)))?;
        other.ip(&format!("link set {} up", first_word(theirs)))?;
        Ok(())
    }

    /// The number of one of its interfaces.
    ///
    /// # Errors
    /// When there is none of that name.
    pub fn ifindex(&self, interface: &str) -> Result<u32> {
        Ok(self.run(|| nix::net::if_::if_nametoindex(interface))?)
    }

    /// Runs a closure on a thread of its own inside the namespace. A panic in it goes on in the caller.
    ///
    /// # Panics
    /// When the namespace cannot be entered.
    #[expect(
        clippy::expect_used,
        reason = "a lab that cannot enter its own namespace has nothing to go on with"
    )]
    pub fn run<T: Send>(&self, closure: impl FnOnce() -> T + Send) -> T {
        let path = format!("/run/netns/{}", self.name);
        std::thread::scope(|scope| {
            let inside = scope.spawn(move || {
                let namespace = File::open(&path).expect("open the namespace");
                setns(namespace, CloneFlags::CLONE_NEWNET).expect("enter the namespace");
                closure()
            });
            inside.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
    }
}

impl Drop for Netns {
    fn drop(&mut self) {
        if let Err(error) = execute(&["netns", "delete", &self.name]) {
            eprintln!("{error:#}");
        }
    }
}

fn execute(arguments: &[&str]) -> Result<String> {
    let what = || format!("ip {}", arguments.join(" "));
    let output = Command::new("ip").args(arguments).output().with_context(what)?;
    if !output.status.success() {
        bail!("{}: {}", what(), String::from_utf8_lossy(&output.stderr).trim());
    }
    String::from_utf8(output.stdout).with_context(what)
}

fn first_word(words: &str) -> &str {
    words.split_whitespace().next().unwrap_or_default()
}
