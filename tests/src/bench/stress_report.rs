//! The stress ladder's results as a page and as data.

use std::fmt::Write as _;

use serde_json::json;

use super::load::Rung;
use super::report::{Machine, Report};
use super::stress::{Cell, Who};
use super::{capital, milliseconds_of};

/// The report of these cells.
#[must_use]
pub fn report(cells: &[Cell]) -> Report {
    let machine = Machine::this();
    let seconds = cells.iter().map(|cell| cell.seconds).min().unwrap_or(0);
    let markdown = format!(
        "# Stress: heartbeats on a busy machine\n\n\
         Measured by `cargo xtask bench stress --seconds {seconds} --write` on {machine}, in the lab that\n\
         [`docs/testing.md`](../testing.md) describes: all nodes, the client and the load share the machine. The product at normal\n\
         timing (10/50/40 ms), keepalived with an advertisement every 10 ms in real time (`vrrp_rt_priority 51`), each in a lab of its\n\
         own, {seconds} s under each load. Nothing is broken, so nothing may move.\n\n\
         *Gap*: the longest time between two heartbeats (advertisements) of a node at its switch port; 10 ms is the interval.\n\
         *Upsets*: changes of role and lapses of a lease. *Machine*: the longest time a real-time thread that only sleeps\n\
         (SCHED_FIFO 45) was not woken in the same time; from half a lease (20 ms) on it explains an upset.\n\n{}\n{}",
        table(cells),
        remarks(cells)
    );
    Report { name: "stress", markdown, json: json!({ "machine": machine, "cells": cells }), svg: None }
}

/// The table: a row for each load, a column for each cluster.
#[must_use]
pub fn table(cells: &[Cell]) -> String {
    let shown = |who: &Who| *who != Who::PatientNodes && cells.iter().any(|cell| cell.who == *who);
    let columns: Vec<Who> = Who::ALL.into_iter().filter(shown).collect();
    let mut table = String::from("| load |");
    for who in &columns {
        let _ = write!(table, " {}: gap | upsets | machine |", who.label());
    }
    table.push_str("\n|---|");
    table.push_str(&"---:|---:|---:|".repeat(columns.len()));
    table.push('\n');
    for rung in Rung::ALL.into_iter().filter(|rung| cells.iter().any(|cell| cell.rung == *rung)) {
        let _ = write!(table, "| {} |", rung.label());
        for who in &columns {
            let cell = cells.iter().find(|cell| (cell.rung, cell.who) == (rung, *who));
            table.push_str(&cell.map_or_else(|| " – | – | – |".to_owned(), entry));
        }
        table.push('\n');
    }
    table
}

fn entry(cell: &Cell) -> String {
    let upsets = match (cell.upsets, cell.explained()) {
        (0, _) => "0".to_owned(),
        (upsets, true) => format!("{upsets}, explained"),
        (upsets, false) => format!("**{upsets}**"),
    };
    format!(
        " {} | {upsets} | {} |",
        milliseconds_of(cell.worst_gap_us),
        milliseconds_of(cell.machine_stall_us)
    )
}

fn remarks(cells: &[Cell]) -> String {
    let ours = || cells.iter().filter(|cell| cell.who != Who::Keepalived);
    let mut text = format!(
        "ARP requests that two nodes answered: {} of {} with the product, {} of {} with keepalived. The product's upsets that no stall of\n\
         the machine explains: {}.\n",
        ours().map(|cell| cell.double_answers).sum::<usize>(),
        ours().map(|cell| cell.asked).sum::<usize>(),
        cells
            .iter()
            .filter(|cell| cell.who == Who::Keepalived)
            .map(|cell| cell.double_answers)
            .sum::<usize>(),
        cells.iter().filter(|cell| cell.who == Who::Keepalived).map(|cell| cell.asked).sum::<usize>(),
        ours().filter(|cell| !cell.explained()).map(|cell| cell.upsets).sum::<u64>(),
    );
    let worst = ours().filter_map(|cell| Some((cell.loop_delay_us?, cell))).max_by_key(|(delay, _)| *delay);
    if let Some((delay, cell)) = worst {
        let _ = writeln!(
            text,
            "The latest that a heartbeat loop has woken: {} ({}, {}).",
            milliseconds_of(delay),
            cell.rung.label(),
            cell.who.label()
        );
    }
    for cell in cells.iter().filter(|cell| cell.rung == Rung::RealTimeHogs && cell.who == Who::PatientNodes) {
        let _ = write!(
            text,
            "\n**Real-time hogs.** Where real-time threads leave nothing of a processor, the kernel keeps them all, whatever their\n\
             priority, from it for up to 50 ms of each second, so that ordinary threads get on (`sched_rt_runtime_us`, since Linux 6.12\n\
             the fair server). If that happens on all processors at once, nobody's heartbeat gets out, and no lease of 40 ms lasts.\n\
             {}, under the same load for {} s: worst gap {}, {} upsets, the machine stood still for {}.\n",
            capital(cell.who.label()),
            cell.seconds,
            milliseconds_of(cell.worst_gap_us),
            cell.upsets,
            milliseconds_of(cell.machine_stall_us)
        );
    }
    text + "\nThe disk writer shares the disk with the daemon's state; memory is taken by processes of their own, and there is enough of it.\n"
}
