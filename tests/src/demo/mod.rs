//! The demonstration: some nodes, a switch and a client that keeps asking the VIPs, and whoever watches breaks things.
//!
//! - [`stage`]: the lab with its daemons, and what the keys do to it.
//! - [`watch`]: what the daemons and the client say, gathered into a [`watch::View`] several times a second.
//! - [`board`] shows a view in a terminal ([`terminal`]), [`lines`] as text where there is none.
//!
//! It knows the product only by its public interface. Not here: anything that must be true; the tests say that.

pub mod board;
pub mod lines;
pub mod stage;
pub mod terminal;
pub mod watch;

use std::io::IsTerminal as _;
use std::io::Read as _;
use std::sync::atomic::Ordering;
use std::sync::mpsc::{self, Receiver};
use std::thread;
use std::time::Duration;

use anyhow::ensure;

use crate::lab::{Family, Moment, sweep};
use stage::{Order, Stage};
use watch::Watch;

/// How often the board is drawn.
const REFRESH: Duration = Duration::from_millis(100);

/// Who plays.
#[derive(Clone, Debug)]
pub struct Cast {
    /// The families of the VIPs.
    pub families: Vec<Family>,
    /// Nodes that serve.
    pub nodes: usize,
    /// Nodes that stand by; then each of the others has a VIP of its own.
    pub spares: usize,
    /// All nodes serve the VIP at once.
    pub spreads: bool,
}

/// Runs the demonstration until `length` has passed, or without one until it is ended by
/// key or signal.
///
/// # Errors
/// When the lab or the daemons do not start, or the client was never served.
pub fn run(length: Option<Duration>, cast: &Cast) -> anyhow::Result<()> {
    // The handler only notes the signal, so that everything is taken down in order.
    let interrupted = sweep::interrupted()?;
    let names = cast.names();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let lab = crate::lab::Lab::with_nodes(&names)?;
    let mut stage = Stage::set(&lab, cast)?;
    println!(
        "The configuration, the same on all nodes ({}):\n\n{}",
        stage.config().display(),
        stage.configuration()
    );
    let mut watch = Watch::start(&stage);
    let end = length.map(|length| Moment::now() + length);
    let in_terminal = std::io::stdin().is_terminal() && std::io::stdout().is_terminal();
    let mut screen = in_terminal.then(terminal::Screen::enter).transpose()?;
    let mut lines = lines::Lines::default();
    let keys = keys();

    let mut due = Moment::now();
    let mut view = watch.view(&mut stage);
    while interrupted.load(Ordering::Relaxed) == 0 && end.is_none_or(|end| Moment::now() < end) {
        let order = keys.recv_timeout(REFRESH.min(due.since(Moment::now()))).ok().and_then(Order::of_key);
        match order {
            Some(Order::Quit) => break,
            Some(order) => watch.note(stage.carry_out(order)),
            None => due.sleep(),
        }
        if Moment::now() >= due {
            due = due.max(Moment::now() - REFRESH) + REFRESH;
            view = watch.view(&mut stage);
            match &mut screen {
                Some(screen) => screen.show(&board::draw(&view))?,
                None => lines.print(&view),
            }
        }
    }
    drop(screen);
    println!("{}", view.summary());
    ensure!(view.answered > 0, "the client was never served");
    Ok(())
}

impl Cast {
    /// The nodes' names: letters, and `s1`, `s2` for spares.
    fn names(&self) -> Vec<String> {
        let nodes = ('a'..='z').take(self.nodes).map(String::from);
        nodes.chain((1..=self.spares).map(|spare| format!("s{spare}"))).collect()
    }
}

/// The keys that are pressed, or sent on standard input where that is no terminal.
fn keys() -> Receiver<u8> {
    let (pressed, keys) = mpsc::sync_channel(16);
    // It waits for a key for as long as the program runs.
    thread::spawn(move || {
        for key in std::io::stdin().lock().bytes() {
            let Ok(key) = key else { return };
            if pressed.send(key).is_err() {
                return;
            }
        }
    });
    keys
}
