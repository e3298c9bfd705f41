//! The partition benchmark's results as a page and as data.

use std::fmt::Write as _;

use serde_json::json;

use super::partition::{Found, Left, Pattern};
use super::report::{Machine, Report};
use super::{capital, median_us, milliseconds_of};

/// How many of the slowest sets of cuts are named.
const NAMED: usize = 5;

/// The report of what was found.
#[must_use]
pub fn report(found: &[Found]) -> Report {
    let machine = Machine::this();
    let markdown = format!(
        "# Partitions: who serves when some do not hear others\n\n\
         Measured by `cargo xtask bench partition --write` on {machine}, in the lab that [`docs/testing.md`](../testing.md)\n\
         describes, at normal timing (10/50/40 ms) unless another is named. Between three voters there are six ways, each of\n\
         which is cut or not: 64 sets of cuts, each tried with every node as the holder in turn. A witness is on\n\
         both links, as the nodes are. A cut takes everything, heartbeats and ARP, on both links, lasts 300 ms, and is mended at once.\n\
         The client reaches all nodes all the time and asks four times a millisecond; on both links somebody asks by ARP for the virtual IP every millisecond, and hears whoever answers.\n\n{}",
        table(found)
    );
    Report { name: "partition", markdown, json: json!({ "machine": machine, "found": found }), svg: None }
}

/// The tables, one for each topology.
#[must_use]
pub fn table(found: &[Found]) -> String {
    let mut text = String::new();
    for found in found {
        let _ = writeln!(text, "{}", topology(found));
    }
    text
}

fn topology(found: &Found) -> String {
    let of = |left: Left| found.patterns.iter().filter(move |pattern| pattern.left == left);
    let sum = |count: fn(&Pattern) -> usize| found.patterns.iter().map(count).sum::<usize>();
    let mut text = format!(
        "## {}\n\n| left | sets of cuts | trials | outage: median (worst) |\n|---|---:|---:|---:|\n",
        capital(found.topology.label())
    );
    for (left, words) in [
        (Left::HolderWithMajority, "the holder and another hear each other"),
        (Left::OthersOnly, "only the two others hear each other"),
    ] {
        let outages: Vec<u64> = of(left).flat_map(|pattern| pattern.outages_us.iter().copied()).collect();
        let _ =
            writeln!(text, "| {words} | {} | {} | {} |", of(left).count(), outages.len(), entry(&outages));
    }
    let back: Vec<u64> = of(Left::Nobody).flat_map(|pattern| pattern.back_us.iter().copied()).collect();
    let _ = writeln!(
        text,
        "| no two hear each other | {} | {} | until mended, and then {} |",
        of(Left::Nobody).count(),
        back.len(),
        entry(&back)
    );
    for silent in &found.silent_cuts {
        let outages = &silent.outages_us;
        let _ = writeln!(
            text,
            "| silent cut of the holder from everything, {} | | {} | {} |",
            silent.timing,
            outages.len(),
            entry(outages)
        );
    }
    let _ = write!(
        text,
        "\n* ARP requests: {}; answered by two nodes: **{}**.\n\
         * Two voters heard each other and nobody served at the end of the cut: **{}**.\n\
         * No two heard each other and somebody served: **{}**.\n\
         * The group left a holder that had kept a majority: **{}**.\n\
         * Mending moved the group: **{}**.\n\
         * Trials left out, and repeated, because the machine itself stood still: {}.\n",
        found.asked,
        found.double_answers,
        sum(|pattern| pattern.unserved),
        sum(|pattern| pattern.served_alone),
        sum(|pattern| pattern.moved_in_vain),
        sum(|pattern| pattern.moved_by_mending),
        sum(|pattern| pattern.spoilt) + found.silent_cuts.iter().map(|silent| silent.spoilt).sum::<usize>(),
    );
    let mut slowest: Vec<(u64, &Pattern)> = found
        .patterns
        .iter()
        .filter(|pattern| pattern.left != Left::Nobody)
        .filter_map(|pattern| Some((median_us(&pattern.outages_us)?, pattern)))
        .collect();
    slowest.sort_by_key(|(median, _)| std::cmp::Reverse(*median));
    let _ = write!(
        text,
        "\nThe sets of cuts with the longest outages, where x ↛ y means that y hears nothing of x, and the voters are\n{}:\n\n| cut | outage: median (worst) |\n|---|---:|\n",
        found.topology.places_in_words()
    );
    for (_, pattern) in slowest.into_iter().take(NAMED) {
        let _ = writeln!(text, "| {} | {} |", pattern.cuts, entry(&pattern.outages_us));
    }
    text
}

fn entry(values: &[u64]) -> String {
    match (median_us(values), values.iter().max()) {
        (Some(median), Some(worst)) => format!("{} ({})", milliseconds_of(median), milliseconds_of(*worst)),
        _ => "not measured".to_owned(),
    }
}
