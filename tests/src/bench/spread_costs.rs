//! What an active/active group's entry costs: a packet that it sends on, measured as in [`crate::bench_xdp`], and a new table, made in
//! memory.

use std::net::IpAddr;
use std::time::{Duration, Instant};

use anyhow::ensure;
use cluster_common::maps::MAX_MEMBERS;
use cluster_common::reference::Spread;
use cluster_proto::NodeId;
use cluster_proto::spread::{Buckets, Member, Table};
use cluster_userspace::dataplane::BENCH_OBJECT;
use serde::Serialize;

use crate::frames::ipv4;
use crate::programs::{NETWORK_CARD, Programs};
use crate::scene::median;

/// Rounds, and runs in each, of the measurements of packets.
pub(super) const ROUNDS: usize = 101;
pub(super) const REPEAT: u32 = 200_000;
const XDP_PASS: u32 = 2;
const XDP_TX: u32 = 3;

/// What a packet costs that is sent on.
#[derive(Clone, Copy, Debug, Serialize)]
pub(super) struct Packet {
    pub(super) name: &'static str,
    pub(super) ns: f64,
    /// The most that the multiple of the empty program may be.
    pub(super) bound: f64,
}

/// The empty program, and what one flow and a million of them cost the entry of a group of as many members as there can be.
pub(super) fn packets() -> anyhow::Result<(f64, Vec<Packet>)> {
    const VIP: [u8; 4] = [10, 77, 0, 100];
    let mut programs = Programs::load(BENCH_OBJECT)?;
    programs.set_nic(NETWORK_CARD)?;
    programs.set_lease(0, u64::MAX)?;
    programs.set_vip(IpAddr::from(VIP), 24, 0)?;
    // This node is a member that has no bucket, so that everything is sent on.
    let table = table_of(&members(MAX_MEMBERS as u16, None));
    let mac = |place: u8| Some([2, 0, 0, 0, 1, place]);
    let spread = Spread {
        gave_up: false,
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
pub(super) fn tables() -> Vec<(String, f64)> {
    let mut found = Vec::new();
    for count in [3_u16, 32] {
        let all = members(count, None);
        let nothing = Buckets::default();
        let idle = members(count, Some(&nothing));
        let full = table_of(&all);
        let mut without = full.clone();
        without.rebalance(&all[1..]);
        let differ = |(member, weight)| Member { weight, ..member };
        let weighted: Vec<Member<'_>> = all.iter().copied().zip(1..).map(differ).collect();
        let changes: [(&str, &Table, &[Member<'_>]); 5] = [
            ("the first table", &Table::default(), &all),
            ("the first table, all weights different", &Table::default(), &weighted),
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
