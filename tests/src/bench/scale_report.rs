//! The scale benchmark's results as a page and as data.

use std::fmt::Write as _;

use serde_json::json;

use super::core_alone;
use super::cost::{Cost, median};
use super::report::{Machine, Report};
use super::scale::{Cell, Plan};
use super::{median_us, milliseconds_of};

/// The report of these cells, with what the core takes alone and what the simulation of a large cluster showed.
#[must_use]
pub fn report(plan: &Plan, cells: &[Cell], alone: &[core_alone::Cell], simulated: Option<&str>) -> Report {
    let machine = Machine::this();
    let markdown = format!(
        "# Scale: many nodes, many groups\n\n\
         Measured by `cargo xtask bench scale --write` on {machine}, in the lab that [`docs/testing.md`](../testing.md) describes:\n\
         {} nodes, all of them voters and all on this machine, at normal timing (10/50/40 ms), heartbeats on two links. One node holds\n\
         all groups. The cost is that of {} s in which nothing happens. Then the holder is cut off from everything, {} times; the times\n\
         are those from the cut to the events in which another node became active, in the first and in the last of the groups.\n\n{}\n{}\n{}",
        plan.nodes,
        plan.length.as_secs(),
        plan.trials,
        table(cells),
        table_alone(alone),
        simulated.unwrap_or_default()
    );
    Report {
        name: "scale",
        markdown,
        json: json!({ "machine": machine, "cells": cells, "core_alone": alone }),
        svg: None,
    }
}

/// The tables.
#[must_use]
pub fn table(cells: &[Cell]) -> String {
    let mut text = String::from(
        "| groups | node | percent of a processor | packets a second | bytes a second |\n|---:|---|---:|---:|---:|\n",
    );
    for cell in cells {
        let Some((holder, others)) = cell.costs.split_first() else { continue };
        let middle = |value: fn(&Cost) -> f64| median(others.iter().map(value).collect()).unwrap_or(0.0);
        let _ = writeln!(
            text,
            "| {} | holder | {:.1} | {:.0} | {:.0} |\n| | others, median | {:.1} | {:.0} | {:.0} |",
            cell.groups,
            holder.share,
            holder.packets,
            holder.bytes,
            middle(|cost| cost.share),
            middle(|cost| cost.packets),
            middle(|cost| cost.bytes)
        );
    }
    text.push_str("\n| groups | first served elsewhere: median (worst) | last: median (worst) | last, against a single group |\n|---:|---:|---:|---:|\n");
    let single = cells.iter().find(|cell| cell.groups == 1).and_then(|cell| median_us(&cell.last_us));
    for cell in cells {
        let last = median_us(&cell.last_us);
        let times =
            last.zip(single).map(|(last, single)| format!("{:.2} ×", last as f64 / single.max(1) as f64));
        let _ = writeln!(
            text,
            "| {} | {} | {} | {} |",
            cell.groups,
            entry(&cell.first_us),
            entry(&cell.last_us),
            times.unwrap_or_else(|| "–".to_owned())
        );
    }
    text
}

/// What the core takes alone; nothing if that was not measured.
#[must_use]
pub fn table_alone(cells: &[core_alone::Cell]) -> String {
    let Some(first) = cells.first() else { return String::new() };
    let mut text = format!(
        "## {} nodes, the core alone\n\n\
         {} of them vote; two paths, normal timing, one node holds all groups. Network and time are invented: every datagram takes\n\
         0.1 ms, none is lost, addresses and disks answer at once. *Processor*: what the core of one node takes (to make, sign, check\n\
         and judge messages), without the system calls that a daemon makes besides. Bytes are with Ethernet, IP and UDP headers.\n\
         The election is that after the loss of the holder, in the invented time.\n\n\
         | groups | node | percent of a processor | packets a second | bytes a second | first served elsewhere | last |\n\
         |---:|---|---:|---:|---:|---:|---:|\n",
        first.nodes, first.voters
    );
    for cell in cells {
        let _ = writeln!(
            text,
            "| {} | holder | {:.1} | {:.0} | {:.0} | {} | {} |\n| | others, mean | | {:.0} | {:.0} | | |",
            cell.groups,
            cell.share,
            cell.holder_messages,
            cell.holder_bytes,
            milliseconds_of(cell.first_us),
            milliseconds_of(cell.last_us),
            cell.other_messages,
            cell.other_bytes
        );
    }
    text
}

fn entry(values: &[u64]) -> String {
    match (median_us(values), values.iter().max()) {
        (Some(median), Some(worst)) => format!("{} ({})", milliseconds_of(median), milliseconds_of(*worst)),
        _ => "not measured".to_owned(),
    }
}
