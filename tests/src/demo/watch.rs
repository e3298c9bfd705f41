//! What the daemons and the client say, gathered into one [`View`].

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::fmt::Write as _;
use std::net::IpAddr;
use std::sync::mpsc::{self, Receiver, Sender};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use cluster_userspace::control::EventRecord;
use cluster_userspace::control::render::{self, Paint};
use serde_json::{Value, json};

use super::stage::{Daemon, Stage, Wiring};
use crate::lab::Moment;
use crate::lab::clock::Window;
use crate::lab::cluster::{GROUP, Timing};
use crate::lab::control::Control;
use crate::lab::probe::requests::Interruption;
use crate::lab::topology::Link;

/// How often each daemon is asked for its status.
const POLL: Duration = Duration::from_millis(100);
/// How long a daemon has to answer; after that its state is unknown.
const PATIENCE: Duration = Duration::from_millis(300);
/// How many events a view has.
const EVENTS: usize = 100;
/// How long the client may go without an answer before that is said.
const UNSERVED: Duration = Duration::from_millis(50);
/// How much of the client's record is kept.
const KEPT: Duration = Duration::from_secs(5);

/// Everything there is to see at one moment.
#[derive(Clone, Debug)]
pub struct View {
    /// How long it has run.
    pub elapsed: Duration,
    /// The election's durations.
    pub timing: Timing,
    /// Who serves the client at each VIP, or for how long nobody has.
    pub served: Vec<(IpAddr, Result<String, Duration>)>,
    /// How many requests were answered in the last second.
    pub per_second: u64,
    /// How many requests were answered in all.
    pub answered: u64,
    /// The last interruption and the longest, and how many there were.
    pub last: Option<Interruption>,
    /// The longest interruption.
    pub worst: Option<Duration>,
    /// How many interruptions there were.
    pub interruptions: usize,
    /// How many requests who has a VIP were asked, and how many of them both nodes answered.
    pub asked: usize,
    /// How many of them both nodes answered.
    pub double_answers: usize,
    /// The nodes.
    pub nodes: Vec<NodeView>,
    /// What happened last, oldest first, each with its number.
    pub events: VecDeque<(u64, String)>,
    /// The numbers of the events so far.
    pub event_count: u64,
}

/// A node at one moment.
#[derive(Clone, Debug)]
pub struct NodeView {
    /// Its name.
    pub name: String,
    /// Its role, or `unknown` when its daemon does not answer.
    pub role: String,
    /// How long its lease is still valid, in milliseconds.
    pub lease_ms: Option<f64>,
    /// Its daemon.
    pub daemon: Daemon,
    /// Its links.
    pub wiring: Wiring,
}

impl View {
    /// How many VIPs there are.
    #[must_use]
    pub fn addresses(&self) -> usize {
        self.served.iter().map(|(vip, _)| vip).collect::<BTreeSet<_>>().len()
    }

    /// What it all came to, in one line.
    #[must_use]
    pub fn summary(&self) -> String {
        let mut text =
            format!("In {:.1} s the client was answered {} times", self.elapsed.as_secs_f64(), self.answered);
        match self.worst {
            None => text.push_str(" without an interruption"),
            Some(worst) => {
                let _ = write!(
                    text,
                    " with {} interruption{}, the longest of {:.1} ms",
                    self.interruptions,
                    if self.interruptions == 1 { "" } else { "s" },
                    worst.as_secs_f64() * 1000.0
                );
            }
        }
        let _ = write!(
            text,
            "; two nodes answered {} of {} requests who has a VIP.",
            self.double_answers, self.asked
        );
        text
    }
}

/// A line of news: when, and what.
type News = (Moment, String);

/// The watchers of all daemons.
#[derive(Debug)]
pub struct Watch {
    start: Moment,
    statuses: BTreeMap<String, Arc<Mutex<Option<Value>>>>,
    news: Receiver<News>,
    told: Sender<News>,
    events: VecDeque<(u64, String)>,
    event_count: u64,
    counts: VecDeque<(Moment, u64)>,
    interruptions: Vec<Interruption>,
    /// How many of them each client had.
    interrupted: Vec<usize>,
    /// Requests who has a VIP that are no longer kept, and how many of them both nodes answered.
    forgotten: (usize, usize),
}

impl Watch {
    /// Starts watching. The threads end with the program.
    #[must_use]
    pub fn start(stage: &Stage<'_>) -> Self {
        let (told, news) = mpsc::channel();
        let mut statuses = BTreeMap::new();
        for node in stage.nodes() {
            let status = Arc::new(Mutex::new(None));
            let (control, seen) = (stage.control(&node), Arc::clone(&status));
            thread::spawn(move || ask(&control, &seen));
            let (control, told, name) = (stage.control(&node), told.clone(), node.clone());
            thread::spawn(move || listen(&control, &name, &told));
            statuses.insert(node, status);
        }
        let events = VecDeque::with_capacity(EVENTS);
        let (counts, interruptions) = (VecDeque::new(), Vec::new());
        Self {
            start: Moment::now(),
            statuses,
            news,
            told,
            events,
            event_count: 0,
            counts,
            interruptions,
            interrupted: vec![0; stage.clients.len()],
            forgotten: (0, 0),
        }
    }

    /// Adds what the audience did to the events.
    pub fn note(&mut self, what: String) {
        // The receiver is ours.
        let _ = self.told.send((Moment::now(), format!("     >> {what}")));
    }

    /// What there is to see now.
    pub fn view(&mut self, stage: &mut Stage<'_>) -> View {
        let now = Moment::now();
        for outcome in stage.outcomes() {
            self.note(outcome);
        }
        for ((vip, client), seen) in stage.clients.iter().zip(&mut self.interrupted) {
            for interruption in client.interruptions(*seen) {
                let length = interruption.to.since(interruption.from).as_secs_f64() * 1000.0;
                let Interruption { before, after, .. } = &interruption;
                let said = format!(
                    "client  no answer from {vip} for {length:.1} ms ({before} before, {after} after)"
                );
                let _ = self.told.send((interruption.to, said));
                self.interruptions.push(interruption);
                *seen += 1;
            }
            client.forget_before(now - KEPT);
        }
        self.interruptions.sort_by_key(|interruption| interruption.to);
        self.take_news();
        let asked = |window| Link::ALL.iter().map(|link| stage.answers.asked(*link, window)).sum::<usize>();
        let old = Window { from: Moment(0), to: now - KEPT };
        self.forgotten.0 += asked(old);
        self.forgotten.1 += stage.answers.double_answers_in(old).len();
        stage.answers.forget_until(old.to);
        let asked = asked(Window::ALWAYS);

        let answered = stage.clients.iter().map(|(_, client)| client.answered()).sum();
        self.counts.push_back((now, answered));
        while self.counts.front().is_some_and(|(at, _)| now.since(*at) > Duration::from_millis(1050)) {
            self.counts.pop_front();
        }
        let (since, before) = self.counts.front().copied().unwrap_or((now, answered));
        let span = now.since(since).as_secs_f64().max(0.001);
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "a small positive number"
        )]
        let per_second = ((answered - before) as f64 / span) as u64;
        let served = stage.clients.iter().map(|(vip, client)| match client.last_answer() {
            Some((at, by)) if now.since(at) < UNSERVED => (*vip, Ok(by)),
            last => (*vip, Err(now.since(last.map_or(self.start, |(at, _)| at)))),
        });
        let served = served.collect();
        let lengths = self.interruptions.iter().map(|interruption| interruption.to.since(interruption.from));
        let nodes = self.statuses.iter().map(|(name, status)| {
            let status = status.lock().unwrap_or_else(PoisonError::into_inner).clone();
            node_view(name, status.as_ref(), stage)
        });
        let nodes = nodes.collect();
        View {
            elapsed: now.since(self.start),
            timing: stage.timing(),
            served,
            per_second,
            answered,
            last: self.interruptions.last().cloned(),
            worst: lengths.max(),
            interruptions: self.interruptions.len(),
            nodes,
            asked: self.forgotten.0 + asked,
            double_answers: self.forgotten.1 + stage.answers.double_answers().len(),
            events: self.events.clone(),
            event_count: self.event_count,
        }
    }

    fn take_news(&mut self) {
        let mut news: Vec<News> = self.news.try_iter().collect();
        news.sort_by_key(|(at, _)| *at);
        for (at, what) in news {
            self.event_count += 1;
            let line = format!("{:9.3} s  {what}", at.since(self.start).as_secs_f64());
            self.events.push_back((self.event_count, line));
            if self.events.len() > EVENTS {
                self.events.pop_front();
            }
        }
    }
}

fn node_view(name: &str, status: Option<&Value>, stage: &mut Stage<'_>) -> NodeView {
    let groups = status.and_then(|status| status.get("groups")).and_then(Value::as_array);
    let group =
        groups.and_then(|groups| groups.iter().find(|group| group.get("name") == Some(&json!(GROUP))));
    let role = group.and_then(|group| group.get("role")).and_then(Value::as_str);
    let share = group.and_then(|group| group["spread"]["members"].as_array()).and_then(|members| {
        let member = members.iter().find(|member| member["name"] == name)?;
        Some(format!(" {:.0} %", member["share"].as_f64()? * 100.0))
    });
    let held = groups.into_iter().flatten().filter(|group| group["role"] == "active");
    let held: Vec<&str> = held.filter_map(|group| group["name"].as_str()).collect();
    let role = match (role, groups) {
        (Some(role), _) => format!("{role}{}", share.unwrap_or_default()),
        // Of several groups.
        (None, Some(_)) if held.is_empty() => "passive".to_owned(),
        (None, Some(_)) => format!("active {}", held.join(" ")),
        (None, None) => "unknown".to_owned(),
    };
    NodeView {
        name: name.to_owned(),
        role,
        lease_ms: group
            .and_then(|group| group.get("lease_ms"))
            .and_then(Value::as_f64)
            .filter(|left| *left > 0.0),
        daemon: stage.daemon(name),
        wiring: stage.wiring(name),
    }
}

/// Asks a daemon for its status again and again.
fn ask(control: &Control, seen: &Mutex<Option<Value>>) {
    loop {
        // A daemon that does not answer is in an unknown state, whatever it said before.
        let status = control.request_within(&json!({ "cmd": "status" }), PATIENCE).ok();
        *seen.lock().unwrap_or_else(PoisonError::into_inner) = status;
        (Moment::now() + POLL).sleep();
    }
}

/// Follows a daemon's events, those of its successors too.
fn listen(control: &Control, node: &str, told: &Sender<News>) {
    loop {
        for event in control.events().into_iter().flatten() {
            let Ok(event) = serde_json::from_value::<EventRecord>(event) else { continue };
            let said = format!("node {node}  {}", render::occurrence(&event, Paint::Plain));
            if told.send((Moment(event.boot_ns), said)).is_err() {
                return;
            }
        }
        (Moment::now() + POLL).sleep();
    }
}
