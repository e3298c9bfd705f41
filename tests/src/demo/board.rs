//! A view as a board of some thirty lines for a terminal.

use std::net::IpAddr;
use std::time::Duration;

use super::stage::{Daemon, KEYS, Wiring};
use super::watch::{NodeView, View};

const BOLD: &str = "\x1b[1m";
const DIM: &str = "\x1b[2m";
const GREEN: &str = "\x1b[32m";
const YELLOW: &str = "\x1b[33m";
const RED: &str = "\x1b[31m";
const PLAIN: &str = "\x1b[0m";

/// How many events are shown.
const EVENTS: usize = 12;
/// How many keys are explained in a line.
const KEYS_IN_A_LINE: usize = 3;

/// The board's lines.
#[must_use]
pub fn draw(view: &View) -> Vec<String> {
    let timing = view.timing;
    let mut lines = vec![
        format!(
            "{BOLD}{} nodes, {} addresses{PLAIN}   heartbeat {:?}, dead after {:?}, lease {:?}   {DIM}{:.0} s{PLAIN}",
            view.nodes.len(),
            view.addresses(),
            timing.heartbeat,
            timing.dead_after,
            timing.lease,
            view.elapsed.as_secs_f64()
        ),
        String::new(),
    ];
    lines.extend(view.served.iter().map(|(vip, served)| self::served(vip, served)));
    lines.extend([
        format!("{:>15}   {} requests/s, {} answered in all", "", view.per_second, view.answered),
        format!("{:>15}   {}", "", interruptions(view)),
        double_answers(view),
        String::new(),
        format!("  {DIM}{:<8}{:<24}{:<12}{:<10}{}{PLAIN}", "NODE", "ROLE", "LEASE", "DAEMON", "LINKS"),
    ]);
    lines.extend(view.nodes.iter().map(node));
    lines.push(String::new());
    for keys in KEYS.chunks(KEYS_IN_A_LINE) {
        let keys = keys.iter().map(|(key, _, what)| format!("{BOLD}{}{PLAIN} {what:<26}", char::from(*key)));
        lines.push(format!("  {}", keys.collect::<String>()));
    }
    lines.push(String::new());
    let older = view.events.len().saturating_sub(EVENTS);
    lines.extend(view.events.iter().skip(older).map(|(_, line)| line.clone()));
    lines
}

fn served(vip: &IpAddr, served: &Result<String, Duration>) -> String {
    let vip = vip.to_string();
    match served {
        Ok(node) => format!("{vip:>15}   is served by {GREEN}{BOLD}node {node}{PLAIN}"),
        Err(length) => {
            format!("{vip:>15}   {RED}{BOLD}is not served, for {:.1} s now{PLAIN}", length.as_secs_f64())
        }
    }
}

fn interruptions(view: &View) -> String {
    let (Some(last), Some(worst)) = (&view.last, view.worst) else {
        return "no interruption so far".to_owned();
    };
    let milliseconds = |length: Duration| length.as_secs_f64() * 1000.0;
    format!(
        "last interruption {BOLD}{:.1} ms{PLAIN} ({} → {}), longest of {}: {:.1} ms",
        milliseconds(last.to.since(last.from)),
        last.before,
        last.after,
        view.interruptions,
        milliseconds(worst)
    )
}

fn double_answers(view: &View) -> String {
    let colour = if view.double_answers == 0 { PLAIN } else { RED };
    let (double, asked) = (view.double_answers, view.asked);
    format!("{:>15}   {colour}requests who has it that two nodes answered: {double} of {asked}{PLAIN}", "")
}

fn node(node: &NodeView) -> String {
    let role = match node.role.split(' ').next().unwrap_or_default() {
        "active" => GREEN,
        "passive" => PLAIN,
        "fault" => RED,
        _ => YELLOW,
    };
    let lease = node.lease_ms.map_or_else(|| "–".to_owned(), |left| format!("{left:.1} ms"));
    let (daemon_colour, daemon) = match node.daemon {
        Daemon::Runs => (PLAIN, "runs"),
        Daemon::Stalled => (YELLOW, "stalled"),
        Daemon::Ended => (RED, "killed"),
    };
    let (wiring_colour, wiring) = match node.wiring {
        Wiring::Whole => (PLAIN, "whole"),
        Wiring::ServiceCut => (YELLOW, "service link cut"),
        Wiring::Cut => (RED, "cut"),
    };
    format!(
        "  {BOLD}{:<8}{PLAIN}{role}{:<24}{PLAIN}{lease:<12}{daemon_colour}{daemon:<10}{PLAIN}{wiring_colour}{wiring}{PLAIN}",
        node.name, node.role
    )
}
