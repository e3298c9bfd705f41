//! A view as text: a line for every second and one for every event.

use std::io::Write as _;

use super::stage::{Daemon, Wiring};
use super::watch::{NodeView, View};

/// What was printed already.
#[derive(Debug, Default)]
pub struct Lines {
    events: u64,
    seconds: Option<u64>,
}

impl Lines {
    /// Prints what is new.
    pub fn print(&mut self, view: &View) {
        let mut out = std::io::stdout().lock();
        // Whoever reads may have stopped reading; the demonstration's exit code is still worth having.
        for (_, event) in view.events.iter().filter(|(number, _)| *number > self.events) {
            let _ = writeln!(out, "{event}");
        }
        self.events = view.event_count;
        let second = view.elapsed.as_secs();
        if self.seconds != Some(second) {
            self.seconds = Some(second);
            let _ = writeln!(out, "{}", line(view));
        }
        let _ = out.flush();
    }
}

fn line(view: &View) -> String {
    let served = view.served.iter().map(|(vip, served)| match served {
        Ok(node) => format!("{vip} served by {node}"),
        Err(length) => format!("{vip} not served for {:.1} s", length.as_secs_f64()),
    });
    let served = served.collect::<Vec<_>>().join(", ");
    let last = match &view.last {
        None => "no interruption".to_owned(),
        Some(last) => format!("last interruption {:.1} ms", last.to.since(last.from).as_secs_f64() * 1000.0),
    };
    let nodes: Vec<String> = view.nodes.iter().map(node).collect();
    format!(
        "{:9.3} s  {served}, {} requests/s, {last}, two answered {} | {}",
        view.elapsed.as_secs_f64(),
        view.per_second,
        view.double_answers,
        nodes.join(" | ")
    )
}

fn node(node: &NodeView) -> String {
    let mut text = format!("{} {}", node.name, node.role);
    if let Some(left) = node.lease_ms {
        text += &format!(", lease {left:.1} ms");
    }
    match node.daemon {
        Daemon::Runs => {}
        Daemon::Stalled => text += ", daemon stalled",
        Daemon::Ended => text += ", daemon killed",
    }
    match node.wiring {
        Wiring::Whole => {}
        Wiring::ServiceCut => text += ", service link cut",
        Wiring::Cut => text += ", links cut",
    }
    text
}
