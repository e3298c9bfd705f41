//! What a packet costs in the ingress program, beside an empty program in the same run.
//!
//! `BPF_PROG_TEST_RUN` runs a program many times over and tells the mean. Every round measures every case once, so that
//! whatever else the machine does falls on all of them alike; the figures are the medians over the rounds.
//!
//! A program's edits stay in the frame from one time to the next, so that a request which was answered is no request
//! any more. The answer is therefore measured with a program that runs the same code and makes the frame a request again
//! (`answer_arp_again`), less what the making-again takes by itself (`ask_arp_again` less the empty program); neighbour
//! solicitations likewise.

use std::fmt::Write as _;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use anyhow::{Context as _, Result, ensure};
use cluster_common::maps::vip_hash;
use cluster_userspace::dataplane::{BENCH_OBJECT, DATAPLANE_OBJECT};
use serde::Serialize;

use crate::frames::{ArpFrame, NdFrame, ipv4, ipv6};
use crate::programs::{NETWORK_CARD, Programs};

/// The most that a foreign packet may cost, as a multiple of the empty program.
pub const FOREIGN_BOUND: f64 = 3.0;
/// The most that a packet to a VIP may cost, as a multiple of the empty program.
pub const VIP_BOUND: f64 = 10.0;
/// The most that an answered neighbour solicitation may cost, as a multiple of the empty program.
pub const NEIGHBOUR_BOUND: f64 = 12.0;
/// The most that a packet to one of [`MANY`] VIPs may cost, as a multiple of one to the only VIP.
pub const MANY_BOUND: f64 = 1.2;
/// By how much a test lets a bound be missed.
const SLACK: f64 = 1.25;
/// VIPs of each family where there are many.
pub const MANY: u32 = 5_000;

const MAC: [u8; 6] = NETWORK_CARD.mac;
const CLIENT_MAC: [u8; 6] = [2, 0, 0, 0, 0, 0xcc];
const CLIENT: [u8; 4] = [10, 77, 0, 9];
const STRANGER: [u8; 4] = [10, 77, 0, 200];
const ACTIVE_VIP: [u8; 4] = [10, 77, 0, 100];
const PASSIVE_VIP: [u8; 4] = [10, 77, 0, 101];
const XDP_DROP: u32 = 1;
const XDP_PASS: u32 = 2;
const XDP_TX: u32 = 3;

/// How much is measured.
#[derive(Clone, Copy, Debug)]
pub struct Effort {
    /// How often each case is measured.
    pub rounds: usize,
    /// How often the program runs in one measurement.
    pub repeat: u32,
}

impl Default for Effort {
    /// A few seconds.
    fn default() -> Self {
        Self { rounds: 101, repeat: 200_000 }
    }
}

/// The cost of a packet of each kind.
#[derive(Clone, Debug, Serialize)]
pub struct XdpCosts {
    /// The empty program, in nanoseconds; the measurement's own cost is in it.
    pub empty_ns: f64,
    /// Each kind of packet.
    pub packets: Vec<PacketCost>,
    /// Measurements per kind.
    pub rounds: usize,
    /// Runs per measurement.
    pub repeat: u32,
}

/// The cost of one kind of packet.
#[derive(Clone, Debug, Serialize)]
pub struct PacketCost {
    /// Which kind.
    pub name: &'static str,
    /// Nanoseconds, the median over the rounds.
    pub ns: f64,
    /// The same as a multiple of the empty program.
    pub ratio: f64,
    /// The most that the multiple may be.
    pub bound: f64,
    /// The same packet where the node has [`MANY`] VIPs of each family, in nanoseconds, if that was measured.
    pub among_many_ns: Option<f64>,
}

impl PacketCost {
    /// How much more it costs among many VIPs.
    #[must_use]
    pub fn among_many(&self) -> Option<f64> {
        self.among_many_ns.map(|ns| ns / self.ns)
    }

    fn is_over_bound(&self) -> bool {
        self.ratio > self.bound * SLACK || self.among_many().is_some_and(|ratio| ratio > MANY_BOUND * SLACK)
    }
}

impl XdpCosts {
    /// Those that cost more than they may, by more than a machine with other work to do accounts for.
    pub fn over_bound(&self) -> impl Iterator<Item = &PacketCost> {
        self.packets.iter().filter(|packet| packet.is_over_bound())
    }

    /// A table in Markdown.
    #[must_use]
    pub fn markdown(&self) -> String {
        let mut table = String::from(
            "| packet | ns | × empty | bound | among 10 000 VIPs | × one VIP |\n|---|---:|---:|---:|---:|---:|\n",
        );
        let _ = writeln!(table, "| (empty program) | {:.1} | 1.0 | | | |", self.empty_ns);
        for packet in &self.packets {
            let PacketCost { name, ns, ratio, bound, among_many_ns } = packet;
            let shown = |number: Option<f64>, unit| {
                number.map_or_else(String::new, |number| format!("{number:.unit$}"))
            };
            let many = (shown(*among_many_ns, 1), shown(packet.among_many(), 2));
            let _ =
                writeln!(table, "| {name} | {ns:.1} | {ratio:.1} | {bound:.0} | {} | {} |", many.0, many.1);
        }
        table
    }
}

/// What is measured of a kind of packet.
struct Kind {
    name: &'static str,
    bound: f64,
    /// A frame to this VIP, or one that looks like it.
    frame: fn(Vips) -> Vec<u8>,
    does: Does,
    /// Whether it is measured among many VIPs, too.
    among_many: bool,
}

/// What the ingress program does with it.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Does {
    Pass,
    Drop,
    AnswerArp,
    AnswerNeighbour,
}

/// Which VIPs the frames are for.
#[derive(Clone, Copy)]
struct Vips {
    ipv4: [u8; 4],
    ipv6: Ipv6Addr,
}

const fn active() -> Vips {
    Vips { ipv4: ACTIVE_VIP, ipv6: address6(0x100) }
}

const fn address6(last: u16) -> Ipv6Addr {
    Ipv6Addr::new(0xfd77, 0, 0, 0, 0, 0, 0, last)
}

const PASSIVE_VIP6: Ipv6Addr = address6(0x101);
const CLIENT6: Ipv6Addr = address6(9);
const STRANGER6: Ipv6Addr = address6(0x200);

fn datagram6(destination: Ipv6Addr) -> Vec<u8> {
    ipv6(MAC, CLIENT6, destination, 17, 64, &[0x30, 0x39, 0, 53, 0, 8, 0, 0])
}

fn arp_request(target: [u8; 4]) -> Vec<u8> {
    ArpFrame::request(CLIENT_MAC, CLIENT, target).bytes()
}

fn solicitation(target: Ipv6Addr) -> Vec<u8> {
    NdFrame::solicitation(CLIENT_MAC, CLIENT6, target).bytes()
}

#[rustfmt::skip]
const KINDS: [Kind; 13] = [
    Kind { name: "foreign IPv4", bound: FOREIGN_BOUND, does: Does::Pass, among_many: true,
        frame: |_| ipv4(MAC, CLIENT, STRANGER, 60) },
    Kind { name: "foreign IPv4, with the hash of a VIP", bound: FOREIGN_BOUND, does: Does::Pass, among_many: false,
        frame: |_| ipv4(MAC, CLIENT, lookalike(ACTIVE_VIP), 60) },
    Kind { name: "foreign IPv6", bound: FOREIGN_BOUND, does: Does::Pass, among_many: true,
        frame: |_| datagram6(STRANGER6) },
    Kind { name: "foreign ARP request", bound: FOREIGN_BOUND, does: Does::Pass, among_many: true,
        frame: |_| arp_request(STRANGER) },
    Kind { name: "foreign neighbour solicitation", bound: FOREIGN_BOUND, does: Does::Pass, among_many: true,
        frame: |_| solicitation(STRANGER6) },
    Kind { name: "IPv4 to a VIP, active", bound: VIP_BOUND, does: Does::Pass, among_many: true,
        frame: |vips| ipv4(MAC, CLIENT, vips.ipv4, 60) },
    Kind { name: "IPv4 to a VIP, passive", bound: VIP_BOUND, does: Does::Drop, among_many: false,
        frame: |_| ipv4(MAC, CLIENT, PASSIVE_VIP, 60) },
    Kind { name: "IPv6 to a VIP, active", bound: VIP_BOUND, does: Does::Pass, among_many: true,
        frame: |vips| datagram6(vips.ipv6) },
    Kind { name: "IPv6 to a VIP, passive", bound: VIP_BOUND, does: Does::Drop, among_many: false,
        frame: |_| datagram6(PASSIVE_VIP6) },
    Kind { name: "ARP request for a VIP, active (answered)", bound: VIP_BOUND, does: Does::AnswerArp, among_many: true,
        frame: |vips| arp_request(vips.ipv4) },
    Kind { name: "ARP request for a VIP, passive (dropped)", bound: VIP_BOUND, does: Does::Drop, among_many: false,
        frame: |_| arp_request(PASSIVE_VIP) },
    Kind { name: "neighbour solicitation for a VIP, active (answered)", bound: NEIGHBOUR_BOUND,
        does: Does::AnswerNeighbour, among_many: true, frame: |vips| solicitation(vips.ipv6) },
    Kind { name: "neighbour solicitation for a VIP, passive (dropped)", bound: VIP_BOUND, does: Does::Drop,
        among_many: false, frame: |_| solicitation(PASSIVE_VIP6) },
];

/// The objects, with one VIP of each family that is held and one that is not; or with many that are held.
struct Objects {
    product: Programs,
    bench: Programs,
}

impl Objects {
    fn prepared(many: bool) -> Result<Self> {
        Ok(Self { product: prepared(DATAPLANE_OBJECT, many)?, bench: prepared(BENCH_OBJECT, many)? })
    }

    /// What the frame costs, in nanoseconds, where an empty program costs this much.
    fn cost(&mut self, does: Does, frame: &[u8], empty: f64, repeat: u32) -> Result<f64> {
        let (again, ask) = match does {
            Does::Pass => return run(&self.product, "cluster_ingress", frame, XDP_PASS, repeat),
            Does::Drop => return run(&self.product, "cluster_ingress", frame, XDP_DROP, repeat),
            Does::AnswerArp => ("answer_arp_again", "ask_arp_again"),
            Does::AnswerNeighbour => ("answer_neighbour_again", "ask_neighbour_again"),
        };
        self.bench.set_question(frame)?;
        let answered = run(&self.bench, again, frame, XDP_TX, repeat)?;
        Ok(answered - (run(&self.bench, ask, frame, XDP_TX, repeat)? - empty))
    }
}

fn run(programs: &Programs, program: &str, frame: &[u8], action: u32, repeat: u32) -> Result<f64> {
    let ran = programs.run(program, frame, repeat)?;
    ensure!(ran.action == action, "{program} gives {} instead of {action}", ran.action);
    Ok(ran.duration.as_nanos() as f64)
}

/// Measures what a packet of each kind costs.
///
/// # Errors
/// If the kernel refuses the programs, or one of them does not do what is to be measured.
pub fn measure(effort: Effort) -> Result<XdpCosts> {
    let mut few = Objects::prepared(false)?;
    let mut many = Objects::prepared(true)?;
    let mut empties = Vec::new();
    let mut measured: Vec<(Vec<f64>, Vec<f64>)> = KINDS.iter().map(|_| (Vec::new(), Vec::new())).collect();
    for round in 0..effort.rounds {
        let nothing = ipv4(MAC, CLIENT, STRANGER, 60);
        let empty = run(&few.bench, "empty", &nothing, XDP_PASS, effort.repeat)?;
        empties.push(empty);
        // Each round asks for others of the many.
        let of_many = nth_vips(round as u32 * 37 % MANY);
        for (kind, (alone, among_many)) in KINDS.iter().zip(&mut measured) {
            let cost = few.cost(kind.does, &(kind.frame)(active()), empty, effort.repeat);
            alone.push(cost.with_context(|| kind.name)?);
            if kind.among_many {
                let cost = many.cost(kind.does, &(kind.frame)(of_many), empty, effort.repeat);
                among_many.push(cost.with_context(|| format!("{}, among many VIPs", kind.name))?);
            }
        }
    }
    let empty_ns = median(empties);
    let costs = KINDS.iter().zip(measured).map(|(kind, (alone, among_many))| {
        let ns = median(alone);
        let among_many_ns = kind.among_many.then(|| median(among_many));
        PacketCost { name: kind.name, ns, ratio: ns / empty_ns, bound: kind.bound, among_many_ns }
    });
    Ok(XdpCosts { empty_ns, packets: costs.collect(), rounds: effort.rounds, repeat: effort.repeat })
}

fn prepared(object: &[u8], many: bool) -> Result<Programs> {
    let mut programs = Programs::load(object)?;
    programs.set_nic(NETWORK_CARD)?;
    programs.set_lease(0, u64::MAX)?;
    if many {
        for vips in (0..MANY).map(nth_vips) {
            programs.set_vip(IpAddr::from(vips.ipv4), 16, 0)?;
            programs.set_vip(vips.ipv6.into(), 64, 0)?;
        }
    } else {
        let held: [IpAddr; 2] = [ACTIVE_VIP.into(), active().ipv6.into()];
        let not_held: [IpAddr; 2] = [PASSIVE_VIP.into(), PASSIVE_VIP6.into()];
        for (vips, group) in [(held, 0), (not_held, 1)] {
            for vip in vips {
                programs.set_vip(vip, 24, group)?;
            }
        }
    }
    Ok(programs)
}

/// One of many VIPs of each family.
fn nth_vips(number: u32) -> Vips {
    let [_, _, high, low] = number.to_be_bytes();
    Vips {
        ipv4: Ipv4Addr::new(10, 78, high, low).octets(),
        ipv6: Ipv6Addr::new(0xfd78, 0, 0, 0, 0, 0, 0, number as u16),
    }
}

/// Another address with the same bit in the filter, so that only the hash map tells that it is no VIP.
fn lookalike(vip: [u8; 4]) -> [u8; 4] {
    let hash = vip_hash(vip);
    let mut others = (0xc633_6400_u32..).map(u32::to_be_bytes);
    others.find(|other| vip_hash(*other) == hash).unwrap_or(STRANGER)
}

/// The kernel gives whole nanoseconds, so the median of many rounds is that of the middle third, averaged: finer than
/// one nanosecond, and as little moved by outliers.
fn median(mut measured: Vec<f64>) -> f64 {
    measured.sort_by(f64::total_cmp);
    let third = measured.len() / 3;
    let middle = &measured[third..measured.len() - third];
    middle.iter().sum::<f64>() / middle.len() as f64
}
