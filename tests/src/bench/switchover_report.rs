//! The switchover benchmark's results as a page and as data.

use std::fmt::Write as _;

use serde_json::json;

use super::report::{Machine, Report};
use super::switchover::{Cell, Plan, Trial};
use super::{median_us, milliseconds_of};

/// The report of these cells.
#[must_use]
pub fn report(plan: &Plan, cells: &[Cell]) -> Report {
    let machine = Machine::this();
    let markdown = format!(
        "# Switchover: what a planned move costs\n\n\
         Measured by `cargo xtask bench switchover --trials {} --write` on {machine}, in the lab that\n\
         [`docs/testing.md`](../testing.md) describes: two nodes at normal timing (10/50/40 ms), `clusterctl promote` on the one that\n\
         does not serve. A client asks the VIP 5000 times a second; a request that is not answered within a second is lost. 50 TCP\n\
         connections to the VIP, opened before the move, carry a message and its echo every 5 ms each. Announcements are heard at the\n\
         switch ports. Medians and, in brackets, the worst of the trials.\n\n{}",
        plan.trials,
        table(cells)
    );
    Report { name: "switchover", markdown, json: json!({ "machine": machine, "cells": cells }), svg: None }
}

/// The table, and what it does not say.
#[must_use]
pub fn table(cells: &[Cell]) -> String {
    let mut text = String::from(
        "| VIP | MAC | moves | requests lost | longest gap | slowest answer | announced by the new holder alone | connections broken | \
         longest stall of one |\n|---|---|---:|---:|---:|---:|---:|---:|---:|\n",
    );
    for cell in cells {
        let _ = write!(text, "| {} | {} | {} |", cell.family.label(), cell.mac.label(), cell.trials.len());
        if cell.trials.is_empty() {
            text.push_str(" not measured | – | – | – | – | – |\n");
            continue;
        }
        let time = |of: fn(&Trial) -> u64| {
            let values: Vec<u64> = cell.trials.iter().map(of).collect();
            let worst = values.iter().copied().max().unwrap_or(0);
            format!("{} ({})", milliseconds_of(median_us(&values).unwrap_or(0)), milliseconds_of(worst))
        };
        let lost: Vec<u64> = cell.trials.iter().map(|trial| trial.lost as u64).collect();
        let alone = cell.trials.iter().filter(|trial| trial.new_holder_alone).count();
        let (broken, connections) = cell
            .trials
            .iter()
            .fold((0, 0), |(broken, all), trial| (broken + trial.broken, all + trial.connections));
        let _ = writeln!(
            text,
            " {} ({}) | {} | {} | {alone} | {broken} of {connections} | {} |",
            median_us(&lost).unwrap_or(0),
            lost.iter().max().unwrap_or(&0),
            time(|trial| trial.outage_us),
            time(|trial| trial.slowest_us),
            time(|trial| trial.stall_us),
        );
    }
    let all = || cells.iter().flat_map(|cell| &cell.trials);
    let spoilt: usize = cells.iter().map(|cell| cell.spoilt).sum();
    let _ = writeln!(
        text,
        "\nRequests who has the VIP that two nodes answered: {}. {spoilt} moves more were thrown away because the machine itself stood\n\
         still for more than 5 ms. `promote` returned after {} (median).",
        all().map(|trial| trial.double_answers).sum::<usize>(),
        milliseconds_of(median_us(&all().map(|trial| trial.command_us).collect::<Vec<_>>()).unwrap_or(0))
    );
    for cell in cells {
        if let Some(reason) = &cell.refused {
            let _ =
                writeln!(text, "\nNot measured, {}, {} MAC: {reason}", cell.family.label(), cell.mac.label());
        }
    }
    text
}
