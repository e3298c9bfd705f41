//! What can go wrong on a leg: silent cuts, lost carrier, random loss, each way on its own.
//!
//! Loss and one-way cuts are classic BPF filters on the switch's port (clsact): what enters the port comes from the owner, what
//! leaves it goes to the owner. They see every frame, those a node sends by `XDP_TX` too, and change in some tens of
//! microseconds. The kernel of a bare test machine has no netem, nor is the action needed that `tc` usually drops with:
//! the filter's own verdict does it.

use std::time::Duration;

use super::clock::await_some;
use super::topology::{Lab, Link, Mac};

/// How long the kernel may take to notice that a port has its carrier back.
const CARRIER_NOTICED: Duration = Duration::from_secs(3);

/// One way through a leg.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Direction {
    /// From the leg's owner to the switch.
    FromOwner,
    /// From the switch to the leg's owner.
    ToOwner,
}

impl Direction {
    /// Both.
    pub const ALL: [Self; 2] = [Self::FromOwner, Self::ToOwner];

    fn hook(self) -> &'static str {
        match self {
            Self::FromOwner => "ingress",
            Self::ToOwner => "egress",
        }
    }
}

impl Lab {
    /// Cuts the leg of `owner` on `link` silently: the carrier stays, no frame passes either way.
    ///
    /// # Errors
    /// When the leg is not there.
    pub fn cut(&self, owner: &str, link: Link) -> anyhow::Result<()> {
        self.tools().bridge.run(&format!("link set dev {} state 0", self.leg(owner, link).port))
    }

    /// Cuts all legs of `owner` silently, with one command each and nothing in between.
    ///
    /// # Errors
    /// When a leg is not there.
    pub fn cut_all(&self, owner: &str) -> anyhow::Result<()> {
        let commands = Link::ALL.map(|link| format!("link set dev {} state 0", self.leg(owner, link).port));
        self.tools().bridge.run_all(&commands)
    }

    /// Takes (`up` false) or gives back the carrier of the leg of `owner` on `link`.
    ///
    /// # Errors
    /// When the leg is not there.
    pub fn carrier(&self, owner: &str, link: Link, up: bool) -> anyhow::Result<()> {
        let state = if up { "up" } else { "down" };
        self.tools().ip.run(&format!("link set dev {} {state}", self.leg(owner, link).port))
    }

    /// Takes the carrier of all legs of `owner`.
    ///
    /// # Errors
    /// When a leg is not there.
    pub fn carrier_all(&self, owner: &str, up: bool) -> anyhow::Result<()> {
        let state = if up { "up" } else { "down" };
        let commands = Link::ALL.map(|link| format!("link set dev {} {state}", self.leg(owner, link).port));
        self.tools().ip.run_all(&commands)
    }

    /// Loses each frame on the leg of `owner` on `link` that goes in `direction` with this probability: 1 is a
    /// one-way cut, 0 mends it.
    ///
    /// # Errors
    /// When the leg is not there.
    pub fn lose(
        &self,
        owner: &str,
        link: Link,
        direction: Direction,
        probability: f64,
    ) -> anyhow::Result<()> {
        let (port, hook) = (self.leg(owner, link).port, direction.hook());
        let program = loss_program(probability);
        self.tools().tc.run(&format!(
            "filter replace dev {port} {hook} protocol all prio 1 handle 1 bpf direct-action bytecode '{program}'"
        ))
    }

    /// Keeps from `to`, on both links, all that these others send; in place of what was lost on the way to it before.
    ///
    /// # Errors
    /// When a leg is not there.
    pub fn deafen(&self, to: &str, from: &[&str]) -> anyhow::Result<()> {
        let commands = Link::ALL.map(|link| {
            let sources: Vec<Mac> = from.iter().map(|owner| self.leg(owner, link).mac).collect();
            let (port, hook) = (self.leg(to, link).port, Direction::ToOwner.hook());
            let program = sources_program(&sources);
            format!(
                "filter replace dev {port} {hook} protocol all prio 1 handle 1 bpf direct-action bytecode '{program}'"
            )
        });
        self.tools().tc.run_all(&commands)
    }

    /// Mends everything about the leg of `owner` on `link`: carrier, cut and loss.
    ///
    /// # Errors
    /// When the leg is not there.
    pub fn mend(&self, owner: &str, link: Link) -> anyhow::Result<()> {
        for direction in Direction::ALL {
            self.lose(owner, link, direction, 0.0)?;
        }
        self.carrier(owner, link, true)?;
        // A port may forward only once the kernel has noticed its carrier, which takes it some time.
        let port = self.leg(owner, link).port;
        await_some(&format!("the port {port} to forward"), CARRIER_NOTICED, || {
            self.tools().bridge.run(&format!("link set dev {port} state 3")).map(Some)
        })
    }

    /// Mends all legs of all nodes and witnesses.
    ///
    /// # Errors
    /// When a leg is not there.
    pub fn mend_all(&self) -> anyhow::Result<()> {
        for host in self.hosts() {
            for link in Link::ALL {
                self.mend(&host.name, link)?;
            }
        }
        Ok(())
    }
}

/// TC_ACT_UNSPEC and TC_ACT_SHOT, linux/pkt_cls.h.
const GO_ON: u32 = u32::MAX;
const DROP: u32 = 2;

/// A classic BPF program, as `tc` reads it, that drops the frames of these senders. The lab's Ethernet addresses differ
/// in their last four bytes.
fn sources_program(sources: &[Mac]) -> String {
    let count = sources.len();
    // ld [8]; for each: jeq #source, drop; ret go on; drop: ret drop
    let mut program = format!("{},32 0 0 8,", count + 3);
    for (place, Mac(mac)) in sources.iter().enumerate() {
        let [_, _, last @ ..] = *mac;
        program += &format!("21 {} 0 {},", count - place, u32::from_be_bytes(last));
    }
    program + &format!("6 0 0 {GO_ON},6 0 0 {DROP},")
}

/// A classic BPF program, as `tc` reads it, whose verdict is *drop* with this probability and else *go on*.
fn loss_program(probability: f64) -> String {
    /// The offset at which a load gives the kernel's random number (SKF_AD_OFF + SKF_AD_RANDOM, linux/filter.h).
    const RANDOM: u32 = (-0x1000_i32 + 56).cast_unsigned();
    if probability >= 1.0 {
        return format!("1,6 0 0 {DROP},");
    }
    if probability <= 0.0 {
        return format!("1,6 0 0 {GO_ON},");
    }
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "between 0 and 2^32 by the two checks above"
    )]
    let threshold = (probability * f64::from(u32::MAX)) as u32;
    // ld rand; jge #threshold, 0, 1; ret go on; ret drop
    format!("4,32 0 0 {RANDOM},53 0 1 {threshold},6 0 0 {GO_ON},6 0 0 {DROP},")
}
