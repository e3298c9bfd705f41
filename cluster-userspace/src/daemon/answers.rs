//! The control socket's requests: passed to the heartbeat thread, and answered when that answers.

use std::collections::HashMap;

use cluster_proto::{Command, CommandId, GroupIndex, Refusal};

use super::Daemon;
use crate::config::HostKind;
use crate::control::{
    Call, ControlError, ErrorCode, GroupStats, LoopStats, Observation, PeerStats, Plan, Reply, Request,
    Stats, Status, status,
};
use crate::dataplane::{GroupCount, Verdict};
use crate::driver::clock;
use crate::driver::mailbox::{Order, Shown};

/// Requests that wait for their answers.
pub(super) struct Answers {
    warnings: Vec<String>,
    /// Those of them that the configuration is not to blame for.
    of_start: Vec<String>,
    around: Vec<String>,
    realtime: bool,
    next: u64,
    commands: HashMap<u64, Option<Call>>,
    /// How commands of the daemon's own ended.
    outcomes: HashMap<u64, Result<(), Refusal>>,
    /// Asked for the state, which is on its way.
    waiting: Vec<Waiting>,
    /// The memory that is lent to the heartbeat thread, when it is here.
    spare: Option<Box<Shown>>,
}

/// A client and the counters it has asked for.
pub(super) type Counted = (Call, Result<Vec<GroupCount>, String>);

enum Waiting {
    Status(Call),
    Stats(Call, Vec<GroupCount>),
    /// With these nodes gone.
    Plan(Call, Vec<String>),
    /// This daemon itself, for what it has to hand on to the next.
    HandingOn,
}

impl Answers {
    pub(super) fn new(of_start: Vec<String>, realtime: bool, room: Shown) -> Self {
        let (warnings, around) = (Vec::new(), Vec::new());
        let spare = Some(Box::new(room));
        Self {
            warnings,
            of_start,
            around,
            realtime,
            next: 1,
            commands: HashMap::new(),
            outcomes: HashMap::new(),
            waiting: Vec::new(),
            spare,
        }
    }

    /// An id for a command of the daemon's own.
    pub(super) fn own_command(&mut self) -> CommandId {
        self.register(None)
    }

    fn register(&mut self, call: Option<Call>) -> CommandId {
        let id = self.next;
        self.next += 1;
        self.commands.insert(id, call);
        CommandId(id)
    }

    /// Whether a command of the daemon's own was answered.
    pub(super) fn own_is_done(&self, id: CommandId) -> bool {
        !self.commands.contains_key(&id.0)
    }

    /// The heartbeat thread has answered a command.
    pub(super) fn reply(&mut self, id: CommandId, outcome: Result<(), Refusal>) {
        match self.commands.remove(&id.0) {
            Some(Some(call)) => call.answer(outcome.map(|()| Reply::Done {}).map_err(ControlError::from)),
            Some(None) => drop(self.outcomes.insert(id.0, outcome)),
            None => {}
        }
    }

    /// How a command of the daemon's own ended, once.
    pub(super) fn own_outcome(&mut self, id: CommandId) -> Option<Result<(), Refusal>> {
        self.outcomes.remove(&id.0)
    }

    /// The configuration's warnings are these now; what the start had to say stays, and what was last seen around.
    pub(super) fn warn(&mut self, configured: impl Iterator<Item = String>) {
        let warnings: Vec<String> =
            configured.chain(self.of_start.iter().chain(&self.around).cloned()).collect();
        for warning in warnings.iter().filter(|warning| !self.warnings.contains(warning)) {
            tracing::warn!("{warning}");
        }
        self.warnings = warnings;
    }
}

impl Daemon {
    pub(super) fn call(&mut self, call: Call) {
        if let Some(refusal) = self.refused_by_witness(&call.request) {
            return call.answer(Err(refusal));
        }
        let command = match &call.request {
            Request::Status => return self.ask_state(Waiting::Status(call)),
            Request::Stats => return self.stats(call),
            Request::Plan { without } => {
                let without = without.clone();
                return self.ask_state(Waiting::Plan(call, without));
            }
            Request::Trace { vip, every, trace } => {
                let (vip, every, trace) = (vip.clone(), *every, *trace);
                return self.trace(call, &vip, every, trace);
            }
            Request::Promote { .. } | Request::Demote { .. } if self.coming.is_some() => {
                return self.hold(call);
            }
            Request::Promote { group, force } => {
                let force = *force;
                self.group(group).map(|group| Command::Promote { group, force })
            }
            Request::Demote { group, force } => {
                let force = *force;
                self.group(group).map(|group| Command::Demote { group, force })
            }
            Request::Drain { force } => Ok(Command::Drain { force: *force }),
            Request::Undrain => Ok(Command::Undrain),
            // What serves has to take part in it, and takes it up next.
            Request::Reload => return self.reloads.push(call),
            Request::Restart => return self.begin_restart(call),
            Request::Events { .. } => {
                Err(ControlError::new(ErrorCode::NotSupported, "the control socket answers this itself"))
            }
        };
        match command {
            Ok(command) => {
                let id = self.answers.register(Some(call));
                self.order(Order::Command(id, command));
            }
            Err(error) => call.answer(Err(error)),
        }
    }

    /// What only a node can do.
    fn refused_by_witness(&self, request: &Request) -> Option<ControlError> {
        match request {
            Request::Promote { .. } | Request::Demote { .. } | Request::Drain { .. } | Request::Undrain
                if self.local.kind() == HostKind::Witness =>
            {
                let name = &self.local.node;
                let message = format!(
                    "{name} is a witness: it votes and never serves, so that there is nothing to take or give up; ask a node"
                );
                Some(ControlError::new(ErrorCode::Witness, message))
            }
            _ => None,
        }
    }

    fn group(&self, name: &str) -> Result<GroupIndex, ControlError> {
        let known = || self.local.groups.iter().map(|group| group.name.as_str());
        self.local.group_index(name).ok_or_else(|| ControlError::unknown_group(name, known()))
    }

    /// Reads the counters in a task of its own, since the data plane may be busy.
    fn stats(&mut self, call: Call) {
        let Some(plane) = self.plane.clone() else {
            return self.ask_state(Waiting::Stats(call, Vec::new()));
        };
        let counts = self.counts.clone();
        tokio::spawn(async move {
            let counted = match plane.blocking(|plane| plane.counters()).await {
                Ok(Ok(counts)) => Ok(counts),
                Ok(Err(error)) => Err(error.to_string()),
                Err(error) => Err(error.to_string()),
            };
            // The loop is gone only when the daemon stops.
            let _ = counts.send((call, counted)).await;
        });
    }

    /// The counters that a client has asked for are there; the rest comes from the heartbeat thread.
    pub(super) fn counted(&mut self, (call, counted): Counted) {
        match counted {
            Ok(counts) => self.ask_state(Waiting::Stats(call, counts)),
            Err(why) => call.answer(Err(ControlError::new(ErrorCode::Internal, why))),
        }
    }

    /// Asks the core what the next run must know; nothing unless it stands still for that.
    pub(super) fn ask_what_to_hand_on(&mut self) {
        self.ask_state(Waiting::HandingOn);
    }

    fn ask_state(&mut self, waiting: Waiting) {
        self.answers.waiting.push(waiting);
        if let Some(spare) = self.answers.spare.take() {
            self.order(Order::Show(spare));
        }
    }

    /// The state has come: everyone who waits for it is answered from it.
    pub(super) fn shown(&mut self, shown: Box<Shown>) {
        self.switch(shown.generation);
        if shown.generation != self.generation {
            // In terms of the configuration before this one.
            return self.order(Order::Show(shown));
        }
        for waiting in std::mem::take(&mut self.answers.waiting) {
            match waiting {
                Waiting::Status(call) => call.answer(Ok(Reply::Status(Box::new(self.status(&shown))))),
                Waiting::Stats(call, counts) => {
                    call.answer(Ok(Reply::Stats(Box::new(self.stats_of(&shown, &counts)))));
                }
                Waiting::Plan(call, without) => {
                    let plan = Plan::of(&self.settings, &self.local, &shown.snapshot, &without);
                    call.answer(plan.map(|plan| Reply::Plan(Box::new(plan))));
                }
                Waiting::HandingOn => self.hand_on(shown.snapshot.resumed.clone()),
            }
        }
        self.answers.spare = Some(shown);
    }

    /// What the kernel lacks is said as what the start had to say is.
    pub(super) fn lacks(&mut self, features: Vec<String>) {
        self.answers.of_start.extend(features);
        self.answers.warn(self.local.warnings.iter().map(ToString::to_string));
    }

    /// What of this host's settings should be looked into, as last seen.
    pub(super) fn seen_around(&mut self, concerns: Vec<String>) {
        self.answers.around = concerns;
        self.answers.warn(self.local.warnings.iter().map(ToString::to_string));
    }

    fn status(&self, shown: &Shown) -> Status {
        Status::of(&Observation {
            settings: &self.settings,
            local: &self.local,
            snapshot: &shown.snapshot,
            now: clock::now(),
            run: self.run,
            started: self.started,
            xdp: self.xdp,
            chain: self.chain.as_deref(),
            warnings: &self.answers.warnings,
        })
    }

    fn stats_of(&self, shown: &Shown, counts: &[GroupCount]) -> Stats {
        let counters = &shown.counters;
        // A witness counts nothing of groups.
        let groups = self.settings.groups.iter().zip(&self.local.groups).enumerate();
        let groups = groups.filter_map(|(index, (settings, group))| {
            let count = counts.iter().find(|count| count.group == settings.id)?;
            let of = |verdict: Verdict| count.verdicts[verdict as usize];
            Some(GroupStats {
                name: group.name.clone(),
                packets: Verdict::ALL
                    .into_iter()
                    .map(|verdict| (verdict.name().to_owned(), of(verdict)))
                    .collect(),
                announcements: shown.announcements.get(index).copied().unwrap_or(0),
                lapses: shown.snapshot.groups.get(index).map_or(0, |view| view.lapses),
            })
        });
        let heartbeats = [
            ("sent", counters.sent),
            ("received", counters.received),
            ("not_connected", counters.not_connected),
            ("send_failed", counters.send_failed),
            ("filtered", counters.filtered),
            ("strangers", counters.strangers),
            ("arp_failed", counters.arp_failed),
            ("ndp_failed", counters.ndp_failed),
            ("events_lost", counters.events_lost),
            ("tasks_lost", counters.tasks_lost),
        ];
        let dropped = shown.snapshot.dropped;
        let dropped = [
            ("dropped_malformed", dropped.malformed),
            ("dropped_version", dropped.version),
            ("dropped_forged", dropped.forged),
            ("dropped_other_cluster", dropped.other_cluster),
            ("dropped_unknown_node", dropped.unknown_node),
            ("dropped_own_id", dropped.own_id),
            ("dropped_replayed", dropped.replayed),
            ("dropped_old_incarnation", dropped.old_incarnation),
            ("dropped_unproven", dropped.unproven),
        ];
        let snapshot = &shown.snapshot;
        let peers = self.local.peers.iter().zip(&snapshot.peers).enumerate().map(|(index, (peer, view))| {
            let paths = snapshot.paths.iter().filter(|path| path.path.peer == index);
            PeerStats {
                name: peer.name.clone(),
                worst_gap_ms: status::millis(view.worst_gap),
                recent_gap_ms: status::millis(view.recent_gap),
                margin_ms: status::margin(view, &self.local),
                low_margins: view.low_margins,
                rtt_us: status::round_trip(snapshot, index).map(status::whole_micros),
                lost: paths.map(|path| path.lost).sum(),
            }
        });
        Stats {
            groups: groups.collect(),
            peers: peers.collect(),
            heartbeats: heartbeats.into_iter().chain(dropped).map(|(name, n)| (name.to_owned(), n)).collect(),
            heartbeat_loop: LoopStats {
                realtime: self.answers.realtime,
                wakeups: counters.wakeups,
                worst_delay_ms: counters.worst_delay.as_secs_f64() * 1000.0,
                socket_overflows: counters.overflows,
            },
        }
    }
}
