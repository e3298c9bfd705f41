//! The failover benchmark's results as a page, as data and as a chart.

use std::fmt::Write as _;
use std::time::Duration;

use serde_json::json;

use super::chart::{Bar, Chart, Group};
use super::contestants::Contestant;
use super::failover::{Cell, Fault, Plan};
use super::report::{Machine, Report};

/// The report of these cells.
#[must_use]
pub fn report(plan: &Plan, cells: &[Cell]) -> Report {
    let machine = Machine::this();
    let page = format!(
        "# Failover: the outage a client sees\n\n\
         Measured by `cargo xtask bench failover --trials {} --write` on {machine}, in the lab that\n\
         [`docs/testing.md`](../testing.md) describes. A client asks the virtual IP four times a millisecond; the outage is the\n\
         longest time it got no answer after the node that served was broken. Median and, in brackets, the worst trial.\n\
         *Both answer*: in how many trials an ARP request for the virtual IP was answered by both nodes. A short outage\n\
         beside it is no success: the broken node never stopped serving.\n\n{}\n\
         ![The medians as a chart](failover.svg)\n\n{}\n\
         How they were set up: the product as its configuration reference has it, heartbeats over both links; keepalived with\n\
         VRRPv3 on the public link in real time (`vrrp_rt_priority 51`), without preemption; ucarp with its shortest interval. \
         SIGKILL\nand SIGSTOP go to all processes of a contestant, SIGTERM to the one that an init system would send it to.\n",
        plan.trials,
        table(cells),
        remarks(cells)
    );
    Report {
        name: "failover",
        markdown: page,
        json: json!({ "machine": machine, "trials_wanted": plan.trials, "cells": cells }),
        svg: Some(chart(cells).svg()),
    }
}

/// The table: a row for each fault, a column for each contestant.
#[must_use]
pub fn table(cells: &[Cell]) -> String {
    let columns = contestants(cells);
    let mut table = String::from("| fault |");
    for who in &columns {
        let _ = write!(table, " {who} |");
    }
    table.push_str("\n|---|");
    table.push_str(&"---|".repeat(columns.len()));
    table.push('\n');
    for fault in Fault::ALL.iter().filter(|fault| cells.iter().any(|cell| cell.fault == **fault)) {
        let _ = write!(table, "| {} |", fault.label());
        for who in &columns {
            let cell = cells.iter().find(|cell| cell.fault == *fault && cell.who() == *who);
            let _ = write!(table, " {} |", cell.map_or_else(|| "–".to_owned(), entry));
        }
        table.push('\n');
    }
    table
}

fn entry(cell: &Cell) -> String {
    let (Some(median), Some(worst)) = (cell.median(), cell.worst()) else { return "not measured".to_owned() };
    let mut entry = format!("{} ({})", milliseconds(median), milliseconds(worst));
    let trials = cell.trials.len();
    if cell.with_double_answers() > 0 {
        let _ = write!(entry, ", **both answer** {}/{trials}", cell.with_double_answers());
    }
    if cell.not_taken_over() > 0 {
        let _ = write!(entry, ", **not taken over** {}/{trials}", cell.not_taken_over());
    }
    entry
}

/// What the table does not say: trials that are missing or were thrown away.
fn remarks(cells: &[Cell]) -> String {
    let spoilt: usize = cells.iter().map(|cell| cell.spoilt).sum();
    let good: usize = cells.iter().map(|cell| cell.trials.len()).sum();
    let mut remarks = format!(
        "{good} trials; {spoilt} more were thrown away and repeated because the machine itself stood still in them (a\n\
         real-time thread that only sleeps was not woken, for longer than the contestant's figures allow).\n"
    );
    let doubled = |ours: bool| -> usize {
        cells.iter().filter(|cell| cell.who().is_ours() == ours).map(Cell::with_double_answers).sum()
    };
    let _ = writeln!(
        remarks,
        "Trials in which both nodes answered: {} of the product, {} of the others.",
        doubled(true),
        doubled(false)
    );
    for cell in cells.iter().filter(|cell| cell.failed > 0) {
        let _ = writeln!(
            remarks,
            "{}, {}: {} trials could not be run.",
            cell.contestant,
            cell.fault.label(),
            cell.failed
        );
    }
    remarks
}

fn chart(cells: &[Cell]) -> Chart {
    let columns = contestants(cells);
    let faults = Fault::ALL.iter().filter(|fault| cells.iter().any(|cell| cell.fault == **fault));
    let groups =
        faults.map(|fault| Group { label: fault.label().to_owned(), bars: bars(cells, *fault, &columns) });
    Chart {
        title: "Failover: the outage a client sees".to_owned(),
        axis: "milliseconds, logarithmic: median (bar) and worst trial (line)".to_owned(),
        series: columns.iter().map(ToString::to_string).collect(),
        groups: groups.collect(),
    }
}

fn bars(cells: &[Cell], fault: Fault, columns: &[Contestant]) -> Vec<Bar> {
    let of_fault = cells.iter().filter(|cell| cell.fault == fault);
    let drawn = of_fault.filter_map(|cell| {
        let (median, worst) = (cell.median()?, cell.worst()?);
        let mut label = milliseconds(median);
        if cell.with_double_answers() > 0 {
            label += ", but both nodes answer";
        }
        if cell.not_taken_over() > 0 {
            label += ", not taken over";
        }
        Some(Bar {
            series: columns.iter().position(|who| *who == cell.who())?,
            value: median.as_secs_f64() * 1000.0,
            worst: Some(worst.as_secs_f64() * 1000.0),
            label,
        })
    });
    drawn.collect()
}

fn contestants(cells: &[Cell]) -> Vec<Contestant> {
    Contestant::ALL.into_iter().filter(|who| cells.iter().any(|cell| cell.who() == *who)).collect()
}

/// A duration in milliseconds with as many digits as mean something.
fn milliseconds(duration: Duration) -> String {
    let milliseconds = duration.as_secs_f64() * 1000.0;
    if milliseconds < 100.0 { format!("{milliseconds:.1} ms") } else { format!("{milliseconds:.0} ms") }
}
