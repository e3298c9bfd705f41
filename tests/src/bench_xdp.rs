//! What a packet costs in the ingress program, beside an empty program in the same run.
//!
//! `BPF_PROG_TEST_RUN` runs a program many times over and tells the mean. Every round measures every case once, so that
//! whatever else the machine does falls on all of them alike; the figures are the medians over the rounds.
//!
//! A program's edits stay in the frame from one time to the next, so that a request which was answered is no request
//! any more. The answer is therefore measured with a program that runs the same code and makes the request one again
//! (`answer_and_undo`), less what the making-again takes by itself (`undo` less the empty program).

use std::net::Ipv4Addr;

use anyhow::{Result, ensure};
use cluster_common::maps::filter_place;
use cluster_userspace::dataplane::{BENCH_OBJECT, DATAPLANE_OBJECT};
use serde::Serialize;

use crate::frames::{ArpFrame, ipv4};
use crate::programs::{NETWORK_CARD, Programs};

/// The most that a foreign packet may cost, as a multiple of the empty program.
pub const FOREIGN_BOUND: f64 = 3.0;
/// The most that a packet to a VIP may cost, as a multiple of the empty program.
pub const VIP_BOUND: f64 = 10.0;

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
}

impl XdpCosts {
    /// Those that cost more than they may.
    pub fn over_bound(&self) -> impl Iterator<Item = &PacketCost> {
        self.packets.iter().filter(|packet| packet.ratio > packet.bound)
    }

    /// A table in Markdown.
    #[must_use]
    pub fn markdown(&self) -> String {
        let mut table = String::from("| packet | ns | × empty | bound |\n|---|---:|---:|---:|\n");
        table.push_str(&format!("| (empty program) | {:.1} | 1.0 | |\n", self.empty_ns));
        for PacketCost { name, ns, ratio, bound } in &self.packets {
            table.push_str(&format!("| {name} | {ns:.1} | {ratio:.1} | {bound:.0} |\n"));
        }
        table
    }
}

/// One program on one frame.
struct Case<'p> {
    programs: &'p Programs,
    program: &'static str,
    frame: Vec<u8>,
    action: u32,
    measured: Vec<f64>,
}

/// Measures what a packet of each kind costs.
///
/// # Errors
/// If the kernel refuses the programs, or one of them does not do what is to be measured.
pub fn measure(effort: Effort) -> Result<XdpCosts> {
    let product = prepared(DATAPLANE_OBJECT)?;
    let bench = prepared(BENCH_OBJECT)?;
    let request = |target| ArpFrame::request(CLIENT_MAC, CLIENT, target).bytes();
    let case =
        |programs, program, frame, action| Case { programs, program, frame, action, measured: Vec::new() };
    let ingress = |frame, action| case(&product, "cluster_ingress", frame, action);
    let mut cases = [
        case(&bench, "empty", ipv4(MAC, CLIENT, STRANGER, 60), XDP_PASS),
        ingress(ipv4(MAC, CLIENT, STRANGER, 60), XDP_PASS),
        ingress(ipv4(MAC, CLIENT, lookalike(ACTIVE_VIP), 60), XDP_PASS),
        ingress(request(STRANGER), XDP_PASS),
        ingress(ipv4(MAC, CLIENT, ACTIVE_VIP, 60), XDP_PASS),
        ingress(ipv4(MAC, CLIENT, PASSIVE_VIP, 60), XDP_DROP),
        ingress(request(PASSIVE_VIP), XDP_DROP),
        case(&bench, "answer_and_undo", request(ACTIVE_VIP), XDP_TX),
        case(&bench, "undo", request(ACTIVE_VIP), XDP_TX),
    ];
    for _ in 0..effort.rounds {
        for case in &mut cases {
            let ran = case.programs.run(case.program, &case.frame, effort.repeat)?;
            ensure!(
                ran.action == case.action,
                "{} gives {} instead of {}",
                case.program,
                ran.action,
                case.action
            );
            case.measured.push(ran.duration.as_nanos() as f64);
        }
    }
    let [empty, foreign_ipv4, lookalike_ipv4, foreign_arp, active, passive, arp_dark, answer_and_undo, undo] =
        cases.map(median);
    let cost = |name, ns, bound| PacketCost { name, ns, ratio: ns / empty, bound };
    Ok(XdpCosts {
        empty_ns: empty,
        packets: vec![
            cost("foreign IPv4", foreign_ipv4, FOREIGN_BOUND),
            cost("foreign IPv4, with the hash of a VIP", lookalike_ipv4, FOREIGN_BOUND),
            cost("foreign ARP request", foreign_arp, FOREIGN_BOUND),
            cost("IPv4 to a VIP, active", active, VIP_BOUND),
            cost("IPv4 to a VIP, passive", passive, VIP_BOUND),
            cost("ARP request for a VIP, active (answered)", answer_and_undo - (undo - empty), VIP_BOUND),
            cost("ARP request for a VIP, passive (dropped)", arp_dark, VIP_BOUND),
        ],
        rounds: effort.rounds,
        repeat: effort.repeat,
    })
}

fn prepared(object: &[u8]) -> Result<Programs> {
    let mut programs = Programs::load(object)?;
    programs.set_nic(NETWORK_CARD)?;
    programs.set_vip(Ipv4Addr::from(ACTIVE_VIP).into(), 24, 0)?;
    programs.set_vip(Ipv4Addr::from(PASSIVE_VIP).into(), 24, 1)?;
    programs.set_lease(0, u64::MAX)?;
    Ok(programs)
}

/// Another address with the same bit in the filter, so that only the hash map tells that it is no VIP.
fn lookalike(vip: [u8; 4]) -> [u8; 4] {
    let place = filter_place(vip);
    let mut others = (0xc633_6400_u32..).map(u32::to_be_bytes);
    others.find(|other| filter_place(*other) == place).unwrap_or(STRANGER)
}

/// The kernel gives whole nanoseconds, so the median of many rounds is that of the middle third, averaged: finer than
/// one nanosecond, and as little moved by outliers.
fn median(case: Case<'_>) -> f64 {
    let mut measured = case.measured;
    measured.sort_by(f64::total_cmp);
    let third = measured.len() / 3;
    let middle = &measured[third..measured.len() - third];
    middle.iter().sum::<f64>() / middle.len() as f64
}
