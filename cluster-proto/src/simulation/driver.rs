//! The driver of one daemon, as the real one: wakes at the core's deadline or when there is something to read, reads with
//! bounds, ticks, carries out effects in their order. It may be stopped between any two of them.

use std::rc::Rc;
use std::time::Duration;

use crate::identity::{GroupIndex, PathIndex};
use crate::interface::{CommandId, Effect, EventKind, Input, Role, ServiceHealth, Side};
use crate::wire::{self, Kind, Vote};

use super::check::Broken;
use super::clock::{MICROSECOND, MILLISECOND};
use super::host::{Action, MapEntry, Note, Phase, Processed, Processing, node_of_peer};
use super::options::{Planted, Rule};
use super::plan::{mac_of, node_id};
use super::words::{describe, event_in_words};
use super::world::{Happening, World, Written, input_of, tell};

/// Datagrams read from one socket in a turn, as the real driver does.
const DATAGRAMS_A_TURN: usize = 64;
const FRAMES_A_TURN: usize = 32;
/// More ticks than these that are due at once, with nothing read in between, are a spinning loop.
const HURRIED_TICKS: u32 = 4;

/// The numbers of acknowledgements that nobody sent begin here.
const FORGED: u64 = 1 << 62;

fn is_forged(bytes: &[u8]) -> bool {
    wire::Message::parse(bytes).is_ok_and(|message| message.header.sequence >= FORGED)
}

/// What the driver hands the core.
enum Given {
    Overslept(Duration),
    Overflow,
    Datagram(PathIndex, Rc<[u8]>),
    Arp(std::net::IpAddr, crate::Mac),
    Note(super::host::Note),
    Tick,
}

impl World<'_> {
    /// The process goes on until it waits or stalls.
    pub(super) fn go_on(&mut self, node: usize) -> Result<(), Broken> {
        loop {
            if !self.carry_out_pending(node)? {
                return Ok(());
            }
            let waited =
                self.hosts[node].daemon.as_ref().is_some_and(|daemon| daemon.phase == Phase::Waiting);
            if waited && self.options.planted == Some(Planted::LapsedLeasesRenewed) {
                self.renew_lapsed(node)?;
            }
            let Some(given) = self.next_input(node) else { return Ok(()) };
            if let Some(given) = given {
                self.hand_over(node, given)?;
            }
        }
    }

    /// The next thing in the driver's turn. `None`: it waits. `Some(None)`: nothing at this point.
    fn next_input(&mut self, node: usize) -> Option<Option<Given>> {
        let now = self.shown(node);
        let paths = self.network.paths();
        let dead_after = self.plan.files[self.hosts[node].file].timing.dead_after;
        let daemon = self.hosts[node].daemon.as_mut()?;
        match daemon.phase {
            Phase::Starting => {
                daemon.phase = Phase::Arm;
                Some(Some(Given::Tick))
            }
            Phase::Waiting => {
                daemon.phase = Phase::Reading { socket: 0, read: 0 };
                let late = now.since(daemon.armed);
                Some((late >= dead_after / 2).then_some(Given::Overslept(late)))
            }
            Phase::Reading { socket, .. } if socket == daemon.sockets.len() => {
                daemon.phase = Phase::Arp { read: 0 };
                Some(None)
            }
            Phase::Reading { socket, read } => {
                let queue = &mut daemon.sockets[socket];
                if queue.overflowed && !queue.queue.is_empty() {
                    queue.overflowed = false;
                    return Some(Some(Given::Overflow));
                }
                match queue.queue.pop_front() {
                    Some(bytes) if read < DATAGRAMS_A_TURN => {
                        daemon.phase = Phase::Reading { socket, read: read + 1 };
                        let path = PathIndex { peer: socket / paths, path: socket % paths };
                        Some(Some(Given::Datagram(path, bytes)))
                    }
                    other => {
                        if let Some(bytes) = other {
                            queue.queue.push_front(bytes);
                        }
                        daemon.phase = Phase::Reading { socket: socket + 1, read: 0 };
                        Some(None)
                    }
                }
            }
            Phase::Arp { read } => match daemon.arp.pop_front() {
                Some((address, mac)) => {
                    daemon.phase =
                        if read < FRAMES_A_TURN { Phase::Arp { read: read + 1 } } else { Phase::Notes };
                    Some(Some(Given::Arp(address, mac)))
                }
                None => {
                    daemon.phase = Phase::Notes;
                    Some(None)
                }
            },
            Phase::Notes => match daemon.notes.pop_front() {
                Some(note) => Some(Some(Given::Note(note))),
                None => {
                    daemon.phase = Phase::Tick;
                    Some(None)
                }
            },
            Phase::Tick => {
                daemon.phase = Phase::Arm;
                Some(Some(Given::Tick))
            }
            Phase::Arm => {
                daemon.phase = Phase::Waiting;
                daemon.armed = daemon.core.deadline();
                let left_over = daemon.sockets.iter().any(|socket| !socket.queue.is_empty())
                    || !daemon.arp.is_empty()
                    || !daemon.notes.is_empty();
                let due = self.hosts[node].clock.when(self.hosts[node].daemon.as_ref()?.armed);
                let late = self.random.between(0, self.plan.driver.wakes_late);
                let due = due.max(self.now).saturating_add(late);
                self.wake_at(node, if left_over { self.now + MICROSECOND } else { due });
                None
            }
        }
    }

    fn hand_over(&mut self, node: usize, given: Given) -> Result<(), Broken> {
        let given = match given {
            Given::Datagram(path, bytes) if self.options.planted.is_some() => {
                Given::Datagram(path, self.tamper(node, path, bytes))
            }
            given => given,
        };
        let now = self.shown(node);
        let step = self.step;
        let plan = self.plan;
        let file = &plan.files[self.hosts[node].file];
        if let Given::Note(Note::Reconfigure(next, _)) = &given {
            // One may wait behind another: what the core goes over to is what it was given last.
            self.hosts[node].next_file = *next;
        }
        let mut effects = std::mem::take(&mut self.effects);
        effects.clear();
        let Some(daemon) = self.hosts[node].daemon.as_mut() else { return Ok(()) };
        let mut kind = Processed::Other;
        let mut rejected = 0;
        match &given {
            Given::Overslept(late) => {
                self.report.overslept += 1;
                daemon.core.handle(now, Input::Overslept(*late), &mut effects);
            }
            Given::Overflow => daemon.core.handle(now, Input::SocketOverflow, &mut effects),
            Given::Datagram(path, bytes) => {
                // What is left on the path of a peer that is none any more is read by nobody.
                let Some(peer) = file.peer_of_host(node, node_of_peer(node, path.peer)) else {
                    self.effects = effects;
                    return Ok(());
                };
                let before = daemon.snapshot.dropped;
                let at = PathIndex { peer, ..*path };
                daemon.core.handle(now, Input::Datagram { path: at, bytes }, &mut effects);
                daemon.core.show(now, &mut daemon.snapshot);
                if is_forged(bytes) {
                    // What nobody sent is nothing heard.
                } else if daemon.snapshot.dropped == before {
                    kind = Processed::Believed(node_of_peer(node, path.peer));
                } else {
                    rejected = 1;
                }
            }
            Given::Arp(address, mac) => {
                daemon.core.handle(now, Input::ProbeAnswer { address: *address, mac: *mac }, &mut effects);
                if let Some(seen) = (0..self.options.hosts()).find(|&other| mac_of(other) == *mac) {
                    kind = Processed::Seen(seen, *address);
                }
            }
            Given::Note(note) => {
                // What is about a group that the file does not have, nobody asks for any more.
                if let Some(note) = note.by(file) {
                    daemon.core.handle(now, input_of(&note), &mut effects);
                }
            }
            Given::Tick => {
                daemon.core.handle(now, Input::Tick, &mut effects);
                let due_at_once = daemon.core.deadline() <= now && !daemon.has_read;
                daemon.hurried = if due_at_once { daemon.hurried + 1 } else { 0 };
                daemon.has_read = false;
            }
        }
        daemon.has_read |= !matches!(given, Given::Tick);
        let hurried = daemon.hurried;
        daemon.processing = Some(Processing { step, kind });
        for effect in effects.list.drain(..) {
            daemon.pending.push_back(match effect {
                Effect::Send { path, bytes } => Action::Send(path, effects.bytes[bytes].into()),
                other => Action::Other(other),
            });
        }
        let count = daemon.pending.len();
        self.report.believed += u64::from(matches!(kind, Processed::Believed(_)));
        self.report.rejected += rejected;
        if self.is_told() {
            self.tell_given(node, &given, kind, rejected);
        }
        self.effects = effects;
        let most = 60 + 20 * self.plan.groups.len() + 6 * self.network.paths() * self.hosts.len();
        if count > most {
            return Err((Rule::Bounded, format!("one input of node {node} has {count} effects")));
        }
        if hurried > HURRIED_TICKS {
            return Err((Rule::Bounded, format!("node {node} spins: {hurried} ticks that were due at once")));
        }
        Ok(())
    }

    fn tell_given(&mut self, node: usize, given: &Given, kind: Processed, rejected: u64) {
        let shown = self.shown(node);
        match given {
            Given::Overslept(late) => tell!(self, "node {node} [{shown:?}]: overslept {late:?}"),
            Given::Overflow => tell!(self, "node {node} [{shown:?}]: socket overflowed"),
            Given::Datagram(path, bytes) => {
                let verdict = if rejected > 0 { "REJECTS" } else { "believes" };
                tell!(self, "node {node} [{shown:?}]: {verdict} on path {}: {}", path.path, describe(bytes));
            }
            Given::Arp(address, mac) => {
                tell!(self, "node {node} [{shown:?}]: {mac} has {address} ({kind:?})")
            }
            Given::Note(super::host::Note::Served(_)) => {}
            Given::Note(note) => tell!(self, "node {node} [{shown:?}]: {note:?}"),
            Given::Tick => tell!(self, "node {node} [{shown:?}]: tick"),
        }
    }

    /// Carries out what is pending. Returns whether all of it is done.
    fn carry_out_pending(&mut self, node: usize) -> Result<bool, Broken> {
        loop {
            let Some(daemon) = self.hosts[node].daemon.as_mut() else { return Ok(false) };
            if daemon.pending.is_empty() {
                let processing = daemon.processing.take();
                if let Some(processing) = processing {
                    self.worked_off(node, processing)?;
                }
                return Ok(true);
            }
            if self.now < self.plan.heal_at && self.random.per_million(self.plan.driver.stalls) {
                let stall = self.random.skewed(10 * MICROSECOND, self.plan.driver.longest_stall);
                tell!(self, "node {node}: stalls for {:?}", Duration::from_nanos(stall));
                self.checks.stops(node, self.now);
                self.wake_at(node, self.now + stall);
                return Ok(false);
            }
            let daemon = self.hosts[node].daemon.as_mut();
            if let Some(action) = daemon.and_then(|daemon| daemon.pending.pop_front()) {
                self.carry_out(node, action)?;
            }
        }
    }

    fn table_written(&mut self, node: usize, group: GroupIndex) -> Result<(), Broken> {
        let planned = self.planned(node, group);
        let core = self.hosts[node].daemon.as_ref().map(|daemon| &daemon.core);
        let Some(spread) = core.and_then(|core| core.spread_table(group)) else { return Ok(()) };
        let (version, table) = (spread.version, spread.table.clone());
        tell!(self, "node {node}: TABLE of group {} {version:?}", planned.0);
        self.report.tables += 1;
        self.checks.table_written((node, planned.0), version, &table)?;
        self.hosts[node].tables[planned.0] = Some((version, table));
        Ok(())
    }

    fn carry_out(&mut self, node: usize, action: Action) -> Result<(), Broken> {
        let effect = match action {
            Action::Send(path, bytes) => {
                if self.options.planted == Some(Planted::StaleCounted) {
                    self.note_heartbeat(node, &bytes);
                }
                if self.options.planted == Some(Planted::UnacknowledgedRenewal) {
                    self.forge_acknowledgement(node, path, &bytes);
                }
                let bytes = match self.options.planted {
                    Some(Planted::VotesForAll) => self.with_all_votes(node, path, bytes),
                    Some(Planted::VotesWithheld) => self.without_votes(node, bytes),
                    Some(Planted::LongLeaseUntold) => self.with_usual_lease(node, bytes),
                    _ => bytes,
                };
                self.send(node, path, bytes);
                return Ok(());
            }
            Action::Other(effect) => effect,
        };
        match effect {
            Effect::Send { .. } => {}
            Effect::Lease { group, epoch, until } => {
                let group = self.planned(node, group);
                tell!(self, "node {node}: LEASE group {} {epoch} until {until:?}", group.0);
                self.write_lease(node, group.0, MapEntry { epoch: Some(epoch), until })?;
            }
            Effect::Dark { group } => {
                let group = self.planned(node, group);
                tell!(self, "node {node}: DARK group {}", group.0);
                if self.options.planted != Some(Planted::DarkIgnored) {
                    let entry = MapEntry { until: crate::Time::ZERO, ..self.hosts[node].map[group.0] };
                    self.hosts[node].write(group.0, entry);
                }
                self.moved("a dark moment", node, group.0)?;
            }
            Effect::AddAddress { group } => self.address_job(node, self.planned(node, group).0, true),
            Effect::RemoveAddress { group } | Effect::LetGo { group } => {
                self.address_job(node, self.planned(node, group).0, false);
            }
            Effect::Grace { group, side, until, .. } => {
                let group = self.planned(node, group);
                tell!(self, "node {node}: grace of group {}, {side:?} side, until {until:?}", group.0);
                self.begin_grace(node, group, side);
            }
            // Every group is idle at once.
            Effect::WatchConnections { group, .. } => {
                if let Some(daemon) = &mut self.hosts[node].daemon {
                    daemon.notes.push_back(Note::NoConnections(group));
                }
            }
            Effect::EndGrace { group } => {
                tell!(self, "node {node}: end of the grace of group {}", self.planned(node, group).0);
            }
            Effect::Table { group } => self.table_written(node, group)?,
            Effect::Serve { .. } => {}
            Effect::Announce { group } => self.announce(node, self.planned(node, group).0),
            Effect::Probe { address } => {
                tell!(self, "node {node}: probes {address}");
                self.ask(node, address);
            }
            Effect::Kin { .. } => {}
            Effect::ReserveEpochs { below } => self.write_disk(node, Written::Epochs(below)),
            Effect::Remember(memory) => self.write_disk(node, Written::Memory(memory)),
            Effect::Reconfigured => {
                self.report.reloads += 1;
                self.hosts[node].file = self.hosts[node].next_file;
            }
            Effect::Reply(id, outcome) => {
                tell!(self, "node {node}: reply {id:?} {outcome:?}");
                self.replacement_answered(node, id, outcome.is_ok());
                match outcome {
                    Ok(()) => self.report.done += 1,
                    Err(_) => self.report.refused += 1,
                }
            }
            Effect::Event(event) => {
                tell!(self, "node {node}: {}", event_in_words(event.kind));
                self.count_event(node, event.kind);
            }
        }
        Ok(())
    }

    /// Some old holders have no connections, and their daemons find out at once.
    fn begin_grace(&mut self, node: usize, group: GroupIndex, side: Side) {
        if side == Side::Old
            && self.step.is_multiple_of(2)
            && let Some(daemon) = &mut self.hosts[node].daemon
        {
            daemon.notes.push_back(Note::NoConnections(group));
        }
    }

    /// If it was told to get ready to be replaced, that comes a moment later.
    fn replacement_answered(&mut self, node: usize, id: CommandId, ready: bool) {
        let run = self.hosts[node].runs;
        let Some(daemon) = self.hosts[node].daemon.as_mut() else { return };
        if daemon.replacement.is_none_or(|(asked, _)| asked != id) {
            return;
        }
        if ready {
            let takes = self.random.skewed(50 * MICROSECOND, 20 * MILLISECOND);
            self.schedule(self.now + takes, Happening::Replaced { node, run });
        } else {
            daemon.replacement = None;
        }
    }

    fn write_lease(&mut self, node: usize, group: usize, mut entry: MapEntry) -> Result<(), Broken> {
        let now = self.shown(node);
        match self.options.planted {
            Some(Planted::LongLeases) => entry.until = entry.until + self.plan.timing.dead_after,
            Some(Planted::LeaseAsLongAsPromise) => {
                entry.until = entry.until + self.plan.timing.dead_after - self.plan.timing.lease;
            }
            Some(Planted::TimeTakenLate) => entry.until = now + self.plan.timing.lease,
            _ => {}
        }
        let was = self.hosts[node].map[group];
        let lit = self.hosts[node].serves(group, self.now);
        self.hosts[node].write(group, entry);
        self.report.leases += 1;
        let extends = self.hosts[node].daemon.as_ref().is_some_and(|daemon| daemon.replacement.is_some());
        let outcome = self.checks.lease_written(&self.hosts, (node, group), extends, self.now);
        let begins = self.let_pass(outcome)?.unwrap_or(false);
        if begins {
            self.report.tenures += 1;
            if self.last_holder[group].is_some_and(|last| last != node) {
                self.report.failovers += 1;
            }
            self.last_holder[group] = Some(node);
            self.note_survivor(node);
            self.may_move(node, group)?;
            self.has_room(node)?;
            self.moved("a new tenure", node, group)?;
        } else if now >= was.until {
            self.moved("a gap between two leases", node, group)?;
        }
        self.compare(node, group, lit)
    }

    /// At once after a map was written, for the moment may be over before the next step.
    fn compare(&mut self, node: usize, group: usize, lit: bool) -> Result<(), Broken> {
        let outcome = self.checks.holders(&self.hosts, (node, group), lit, self.step, self.now);
        self.report.overlaps += self.let_pass(outcome)?.unwrap_or(0);
        Ok(())
    }

    /// Lets the violations of the rule that is not checked pass.
    pub(super) fn let_pass<T>(&self, outcome: Result<T, Broken>) -> Result<Option<T>, Broken> {
        match outcome {
            Ok(value) => Ok(Some(value)),
            Err((rule, _)) if Some(rule) == self.options.unchecked => Ok(None),
            Err(broken) => Err(broken),
        }
    }

    /// Which group of the plan a daemon means by its file's.
    fn planned(&self, node: usize, group: GroupIndex) -> GroupIndex {
        GroupIndex(self.plan.files[self.hosts[node].file].groups[group.0])
    }

    fn count_event(&mut self, node: usize, kind: EventKind) {
        match kind {
            EventKind::Transition { group, from: Role::Active, .. } => {
                self.checks.tenure_ends(node, self.planned(node, group).0);
            }
            EventKind::Lapse { .. } => self.report.lapses += 1,
            EventKind::Regained { .. } => self.report.regained += 1,
            EventKind::DualHolder { .. } => self.report.dual_holders += 1,
            EventKind::Handover { .. } => self.report.handovers += 1,
            EventKind::Alone => self.report.alone += 1,
            EventKind::ProbeAnswered { .. } => self.report.probes_answered += 1,
            EventKind::Service(ServiceHealth::Cut) => self.report.service_cuts += 1,
            _ => {}
        }
    }

    /// All effects of an input are carried out (I1, I4).
    fn worked_off(&mut self, node: usize, processing: Processing) -> Result<(), Broken> {
        let now = self.shown(node);
        let groups = &self.plan.groups;
        let outranked_in = |other: usize, address: std::net::IpAddr| {
            let rank = |node: usize, group: &crate::Group| {
                group.prefer.iter().position(|&member| member == node_id(node)).unwrap_or(usize::MAX)
            };
            let worse = |(_, group): &(usize, &crate::Group)| {
                group.vips.contains(&address) && rank(other, group) < rank(node, group)
            };
            groups.iter().enumerate().filter(worse).map(|(place, _)| place).collect()
        };
        if let Processed::Believed(from) = processing.kind {
            self.checks.heard(node, from, self.now);
        }
        let outcome = self.checks.worked_off(&self.hosts, node, processing, outranked_in, self.now);
        self.let_pass(outcome)?;
        if self.options.planted.is_some() {
            return Ok(());
        }
        let host = &self.hosts[node];
        let file = &self.plan.files[host.file];
        for group in 0..self.plan.groups.len() {
            let place = file.place_of_group(group).map(GroupIndex);
            let core = host.daemon.as_ref().map(|daemon| &daemon.core);
            let holds = place.zip(core).is_some_and(|(place, core)| core.holds(now, place));
            if holds != host.serves(group, self.now) {
                let what =
                    format!("node {node}, group {group}: the core holds: {holds}, the map says otherwise");
                return Err((Rule::MapFollows, what));
            }
        }
        Ok(())
    }

    // Planted bugs.

    fn renew_lapsed(&mut self, node: usize) -> Result<(), Broken> {
        let now = self.shown(node);
        let until = now + self.plan.timing.lease;
        for group in 0..self.plan.groups.len() {
            let entry = self.hosts[node].map[group];
            if entry.until != crate::Time::ZERO && entry.until <= now {
                self.hosts[node].write(group, MapEntry { until, ..entry });
                self.compare(node, group, false)?;
            }
        }
        Ok(())
    }

    /// An acknowledgement with votes for everything that its receiver has asked for last.
    fn with_all_votes(&self, node: usize, path: PathIndex, bytes: Rc<[u8]>) -> Rc<[u8]> {
        let Ok(message) = wire::Message::parse(&bytes) else { return bytes };
        let asked = self.hosts[node].daemon.as_ref().and_then(|daemon| daemon.asked.get(path.peer));
        let Some(asked) = asked.filter(|_| message.header.kind == Kind::Acknowledgement) else {
            return bytes;
        };
        self.emit(node, &wire::Header { voting: true, ..message.header }, asked)
    }

    /// A message without its votes, between the quiet time before and that after the troubles.
    fn without_votes(&self, node: usize, bytes: Rc<[u8]>) -> Rc<[u8]> {
        let troubled = (self.plan.warm_at..self.plan.heal_at).contains(&self.now);
        let Ok(message) = wire::Message::parse(&bytes) else { return bytes };
        if !troubled {
            return bytes;
        }
        let mut without = Vec::new();
        let key = wire::Authenticator::new(&self.plan.settings(node, 0).keys[0]);
        let claims: Vec<_> = message.claims().collect();
        let header = wire::Header { held: false, ..message.header };
        let content = wire::Content { claims: &claims, ..wire::Content::default() };
        wire::emit(&mut without, &header, content, &key);
        without.into()
    }

    /// A message that tells the usual lease.
    fn with_usual_lease(&self, node: usize, bytes: Rc<[u8]>) -> Rc<[u8]> {
        let Ok(message) = wire::Message::parse(&bytes) else { return bytes };
        let mut told = Vec::new();
        let key = wire::Authenticator::new(&self.plan.settings(node, 0).keys[0]);
        let (claims, votes): (Vec<_>, Vec<_>) = (message.claims().collect(), message.votes().collect());
        let header = wire::Header { lease: self.plan.timing.lease, ..message.header };
        let content = wire::Content { claims: &claims, votes: &votes, ..wire::Content::default() };
        wire::emit(&mut told, &header, content, &key);
        told.into()
    }

    /// Takes note of what a heartbeat asks for, and has an acknowledgement count for the newest heartbeat.
    fn tamper(&mut self, node: usize, path: PathIndex, bytes: Rc<[u8]>) -> Rc<[u8]> {
        let Ok(message) = wire::Message::parse(&bytes) else { return bytes };
        let Some(daemon) = self.hosts[node].daemon.as_mut() else { return Rc::clone(&bytes) };
        match (self.options.planted, message.header.kind) {
            (Some(Planted::VotesForAll), Kind::Heartbeat) => {
                daemon.asked.resize(daemon.asked.len().max(path.peer + 1), Vec::new());
                let asked = &mut daemon.asked[path.peer];
                for claim in message.claims() {
                    asked.retain(|vote| vote.group != claim.group);
                    asked.push(Vote { group: claim.group, epoch: claim.epoch });
                }
                bytes
            }
            (Some(Planted::StaleCounted), Kind::Acknowledgement) => {
                let newest = daemon.heartbeat_sent;
                let header = wire::Header { echo_sent: newest, ..message.header };
                let votes: Vec<Vote> = message.votes().collect();
                self.emit(node, &header, &votes)
            }
            _ => bytes,
        }
    }

    fn note_heartbeat(&mut self, node: usize, bytes: &[u8]) {
        let Ok(message) = wire::Message::parse(bytes) else { return };
        if let Some(daemon) = self.hosts[node].daemon.as_mut()
            && message.header.kind == Kind::Heartbeat
        {
            daemon.heartbeat_sent = message.header.sent;
        }
    }

    fn emit(&self, node: usize, header: &wire::Header, votes: &[Vote]) -> Rc<[u8]> {
        let mut bytes = Vec::new();
        let key = wire::Authenticator::new(&self.plan.settings(node, 0).keys[0]);
        wire::emit(&mut bytes, header, wire::Content { votes, ..wire::Content::default() }, &key);
        bytes.into()
    }

    /// Has the sender of a heartbeat read that its peer votes for all it claims.
    fn forge_acknowledgement(&mut self, node: usize, path: PathIndex, heartbeat: &[u8]) {
        let Ok(message) = wire::Message::parse(heartbeat) else { return };
        let header = message.header;
        let (Kind::Heartbeat, Some(incarnation)) = (header.kind, header.echo) else { return };
        let votes: Vec<_> =
            message.claims().map(|claim| Vote { group: claim.group, epoch: claim.epoch }).collect();
        let forged = wire::Header {
            kind: Kind::Acknowledgement,
            node: node_id(node_of_peer(node, path.peer)),
            incarnation,
            echo: Some(header.incarnation),
            sequence: FORGED + header.sequence,
            echo_sent: header.sent,
            voting: true,
            known: header.state,
            held: true,
            ..header
        };
        let mut bytes = Vec::new();
        let key = wire::Authenticator::new(&self.plan.settings(node, 0).keys[0]);
        let content = wire::Content { votes: &votes, ..wire::Content::default() };
        wire::emit(&mut bytes, &forged, content, &key);
        let socket = path.peer * self.network.paths() + path.path;
        if let Some(daemon) = &mut self.hosts[node].daemon {
            daemon.sockets[socket].queue.push_back(bytes.into());
        }
    }
}
