//! The responder benchmark's results as a page and as data.

use std::fmt::Write as _;

use serde_json::json;

use super::report::{Machine, Report};
use super::responder::{Offer, Plan, Responder, Results, summary};
use crate::lab::Family;

/// The report of these results.
#[must_use]
pub fn report(plan: Plan, results: &Results) -> Report {
    let machine = Machine::this();
    let markdown = format!(
        "# Responder: questions who has a VIP, answered in a second\n\n\
         Measured by `cargo xtask bench responder --write` on {machine}: a veth between two network namespaces, at one end questions as\n\
         fast as a processor can send them (XDP live frames) and a program that counts and drops the answers, at the other end the\n\
         responder: the kernel itself with the address on its interface, `clusterd`'s ingress program, or for comparison a program that answers\n\
         every ARP request and looks nothing up: what XDP can do at all on this machine. Medians of {} rounds of {:.1} s, all\n\
         responders in turn in every round. The asking and the counting are in every figure.\n\n{}",
        plan.rounds,
        plan.length.as_secs_f64(),
        table(results)
    );
    Report { name: "responder", markdown, json: json!({ "machine": machine, "results": results }), svg: None }
}

/// The table.
#[must_use]
pub fn table(results: &Results) -> String {
    let mut table = String::from(
        "| question | asked from | kernel, million/s (lost) | product, million/s (lost) | ratio | at least | bare program (lost) | ratio |\n\
         |---|---|---:|---:|---:|---:|---:|---:|\n",
    );
    for (family, offer) in Family::ALL.into_iter().flat_map(|family| Offer::ALL.map(|offer| (family, offer)))
    {
        let name = match family {
            Family::Ipv4 => "ARP request",
            Family::Ipv6 => "neighbour solicitation",
        };
        let [kernel, product, bare] = Responder::ALL.map(|who| summary(results, who, family, offer));
        let ratio = |to: Option<(f64, f64)>| {
            let ratio = kernel.zip(to).map(|((kernel, _), (to, _))| to / kernel);
            ratio.map_or_else(|| "–".to_owned(), |ratio| format!("{ratio:.2}"))
        };
        let _ = writeln!(
            table,
            "| {name} | {} | {} | {} | {} | {:.1} | {} | {} |",
            offer.label(),
            entry(kernel),
            entry(product),
            ratio(product),
            offer.bound(),
            entry(bare),
            ratio(bare)
        );
    }
    for (family, reason) in &results.refused {
        let _ = writeln!(table, "\nNot measured, {}: {reason}", family.label());
    }
    table
}

fn entry(measured: Option<(f64, f64)>) -> String {
    let shown = measured.map(|(rate, lost)| format!("{:.2} ({:.1} %)", rate / 1e6, lost * 100.0));
    shown.unwrap_or_else(|| "not measured".to_owned())
}
