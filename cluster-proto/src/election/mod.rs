//! The election: leases, promises, hand-overs (design, section 6), by majority or, for two nodes, without quorum.
//!
//! | file | what it decides |
//! |---|---|
//! | `mod.rs` | the order in which one input is worked off, and the next deadline |
//! | `peer.rs` | who is heard and believed |
//! | `messages.rs` | what a message means, and what ours say |
//! | `quorum.rs` | how many votes are enough |
//! | `membership.rs` | whose votes, while voters are being changed; what a restart must not forget |
//! | `reconfigure.rs` | how the state goes over to a new configuration |
//! | `candidacy.rs` | when this node may take a group: vacancy, probe, votes, readiness |
//! | `tenure.rs` | how it keeps and loses one: leases, lapses, hand-over, other holders |
//! | `spread.rs` | over which nodes an active/active group's holder spreads flows |
//! | `grace.rs` | what becomes of connections at a hand-over |
//! | `restart.rs` | leases long enough for another process to take this one's place |
//! | `service.rs` | whose service link is cut |
//! | `rivals.rs` | what to do about strangers that claim a VIP |
//! | `gateway.rs` | whether a node that hears no peer is itself cut off |
//! | `commands.rs` | what operators ask for |
//! | `epochs.rs` | the epochs that may be used |
//! | `view.rs` | what is shown |
//! | `group.rs` | the state these rules work on |
//!
//! Not here: clocks, sockets, maps, addresses. The order of effects is part of the rules: what makes this node dark
//! comes before the message that tells others so, and a lease comes after the message it rests on was sent.

mod candidacy;
mod commands;
mod epochs;
mod gateway;
mod grace;
mod group;
mod invariants;
mod membership;
mod messages;
mod peer;
mod quorum;
mod reconfigure;
mod restart;
mod rivals;
mod service;
mod spread;
mod tenure;
mod view;

use std::time::Duration;

use crate::identity::{GroupId, GroupIndex, Incarnation, Mac, NodeId, PathIndex};
use crate::interface::{
    Cause, Dropped, Effect, Effects, Event, EventKind, Input, Link, Role, ServiceHealth, Start, Timeline,
};
use crate::settings::Settings;
use crate::time::Time;
use crate::wire::Authenticator;

use commands::Retreat;
use epochs::EpochCounter;
use gateway::Gateway;
use group::{Announcing, Fault, GroupState, Probe, Ranks, Stage, Tenure};
use membership::Membership;
use messages::{Answer, Scratch};
use peer::PeerState;
use restart::Restart;
use service::ServiceJudge;

pub use spread::SpreadTable;

/// The election core of one node. It is handed every [`Input`] with its time and puts out [`Effect`]s.
#[derive(Clone, Debug)]
pub struct Core {
    settings: Settings,
    keys: Vec<Authenticator>,
    settings_hash: u64,
    incarnation: Incarnation,
    started: Time,
    /// How long this node's promises did not count after its start.
    restart_wait: Duration,
    /// The time of the latest input.
    latest: Time,
    /// The send time of the newest heartbeat.
    last_sent: Time,
    next_heartbeat: Time,
    /// The number of the claims as they were last sent; grows with each change.
    state: u64,
    /// Who knows only an earlier state is told all claims, since groups may have gone.
    told_anew: u64,
    /// The groups' places by their ids, in the order of these.
    by_id: Vec<(GroupId, usize)>,
    scratch: Scratch,
    link: Link,
    drained: bool,
    stopping: bool,
    retreat: Option<Retreat>,
    restart: Option<Restart>,
    alone: bool,
    epochs: EpochCounter,
    reservation_failed_said: bool,
    membership: Membership,
    /// L, or less while some peer's promises are shorter than this node's file says.
    lease: Duration,
    /// The longest that was.
    longest_lease: Duration,
    peers: Vec<PeerState>,
    /// Peers that a configuration has removed, in case another adds them again: what they have sent stays sent.
    removed: Vec<(NodeId, PeerState)>,
    groups: Vec<GroupState>,
    gateways: Vec<Gateway>,
    service: ServiceJudge,
    service_said: ServiceHealth,
    dropped: Dropped,
    /// Something changed that the peers should hear of before the next heartbeat is due.
    news: bool,
    /// When the peers are told what came after [`Self::told_soon`]: together, if it is much.
    told_together_at: Time,
    /// When they were last told at once of what comes once for each group or peer.
    told_soon: Time,
    /// Votes that were asked for too early and are given with this input; empty between inputs.
    answers: Vec<Answer>,
}

impl Core {
    /// A core that has just started. Its first effects come with the first input; give it a [`Input::Tick`] at once.
    ///
    /// # Panics
    /// If the settings hold no key, which the configuration excludes.
    #[must_use]
    pub fn new(settings: Settings, start: &Start) -> Self {
        let now = start.now;
        assert!(!settings.keys.is_empty(), "the configuration always has a key");
        let ranks = (0..settings.groups.len()).map(|index| Ranks::of(&settings, index));
        let mut groups: Vec<_> = ranks.map(|ranks| GroupState::new(now, ranks)).collect();
        for (group, group_settings) in groups.iter_mut().zip(&settings.groups) {
            group.spread_over(group_settings.spread.as_ref(), settings.me);
        }
        for (GroupIndex(index), version, table) in &start.tables {
            if let Some(spread) = groups.get_mut(*index).and_then(|group| group.spread.as_mut()) {
                spread.adopt(now, *version, table);
            }
        }
        let membership = Membership::start(&settings, start.memory, now);
        let mut epochs = EpochCounter::new(settings.me, start.reserved_epochs);
        for &(GroupIndex(index), epoch, until) in &start.adopted {
            epochs.observe(epoch);
            let group = &mut groups[index];
            group.observe(epoch);
            if now < until && epoch.node == settings.me && matches!(start.link, Link::Up { .. }) {
                let alone = membership.required.iter().any(|set| !set.majority);
                let tenure = Tenure { epoch, until, alone, forced: false, lapse: None, giving: None };
                group.stage = Stage::Active(tenure);
                group.was_held = true;
            }
        }
        let peers = settings
            .peers
            .iter()
            .map(|peer| PeerState::new(now, &peer.paths, settings.groups.len()))
            .collect();
        let lease = whole_micros(settings.timing.lease);
        let mut core = Self {
            keys: settings.keys.iter().map(Authenticator::new).collect(),
            settings_hash: messages::settings_hash(&settings),
            incarnation: start.incarnation,
            started: now,
            restart_wait: membership.restart_wait(),
            latest: now,
            last_sent: now,
            next_heartbeat: now,
            state: 0,
            told_anew: 1,
            by_id: group_places(&settings),
            scratch: Scratch::for_groups(settings.groups.len()),
            link: start.link,
            drained: false,
            stopping: false,
            retreat: None,
            restart: None,
            alone: false,
            epochs,
            reservation_failed_said: false,
            membership,
            lease,
            longest_lease: lease,
            peers,
            removed: Vec::new(),
            groups,
            gateways: Gateway::of(&settings.groups, &[]),
            service: ServiceJudge::new(settings.timing.heartbeat, settings.timing.dead_after),
            service_said: ServiceHealth::Unjudged,
            dropped: Dropped::default(),
            news: true,
            told_together_at: Time::NEVER,
            told_soon: Time::ZERO,
            answers: Vec::with_capacity(settings.groups.len()),
            settings,
        };
        core.resume(&start.resumed);
        core
    }

    /// Works off one input. `now` never goes back from one call to the next.
    pub fn handle(&mut self, now: Time, input: Input<'_>, out: &mut Effects) {
        self.latest = now;
        let concerns_all = self.concerns_all_groups(&input);
        match input {
            Input::Datagram { path, bytes } => self.datagram(now, path, bytes, out),
            Input::Tick => self.tick(now, out),
            Input::Overslept(late) => self.overslept(now, late, out),
            Input::SocketOverflow => self.restart_dead_timers(now),
            Input::Link(link) => self.link_changed(now, link, out),
            Input::AddressReady(GroupIndex(group)) => self.address_ready(now, group, out),
            Input::AddressFailed(GroupIndex(group)) => self.address_failed(now, group, out),
            Input::ProbeAnswer { address, mac } => self.probe_answer(now, address, mac, out),
            Input::Claimed { address, mac } => self.claimed(now, address, mac, out),
            Input::NoConnections(GroupIndex(group)) => self.no_connections(now, group),
            Input::Flows { group: GroupIndex(group), busy, load, since } => {
                self.flows(now, group, busy, load, since, out);
            }
            Input::EpochsReserved(below) => {
                self.epochs.reserved(below);
                self.reservation_failed_said = false;
            }
            Input::ReservationFailed => {
                self.epochs.reservation_failed(now);
                if !self.reservation_failed_said {
                    self.reservation_failed_said = true;
                    event(out, now, EventKind::ReservationFailed);
                }
            }
            Input::Remembered => {
                self.membership.remembered();
                // A restart may wait for it.
                self.news |= self.peers.iter().any(|peer| peer.restarts);
            }
            Input::NotRemembered => self.membership.not_remembered(now),
            Input::Reconfigure(id, settings) => self.reconfigure(now, id, *settings, out),
            Input::Served(addresses) => {
                let vips = &self.settings.groups;
                let foreign =
                    addresses.iter().copied().filter(|ip| !vips.iter().any(|group| group.vips.contains(ip)));
                self.service.served(foreign);
            }
            Input::Command(id, command) => self.command(now, id, command, out),
        }
        self.send_answers(now, out);
        if concerns_all {
            self.advance(now, out);
        } else {
            self.tell_alone(now, out);
        }
        if self.news {
            self.send_heartbeats(now, out);
            // A candidate whose peers are silent, and a holder alone, rest on the heartbeat just sent.
            self.advance(now, out);
            if self.news {
                self.send_heartbeats(now, out);
            }
        }
        self.tell_rights(now, out);
        self.check_invariants(now);
    }

    /// Whether the input can change what any group may rest on. What cannot, and comes once for each of many groups, is worked
    /// off without a look at all the others.
    fn concerns_all_groups(&self, input: &Input<'_>) -> bool {
        match input {
            Input::AddressReady(_)
            | Input::AddressFailed(_)
            | Input::NoConnections(_)
            | Input::Served(_)
            | Input::Flows { .. }
            | Input::Claimed { .. } => false,
            // Unless it may be the answer of a gateway, on which leases rest.
            Input::ProbeAnswer { .. } => !self.gateways.is_empty(),
            Input::Datagram { .. }
            | Input::Tick
            | Input::Overslept(_)
            | Input::SocketOverflow
            | Input::Link(_)
            | Input::EpochsReserved(_)
            | Input::ReservationFailed
            | Input::Remembered
            | Input::NotRemembered
            | Input::Reconfigure(..)
            | Input::Command(..) => true,
        }
    }

    /// When [`Input::Tick`] is due at the latest; never before the latest input, so that what is due at once does not
    /// look like oversleeping.
    #[must_use]
    pub fn deadline(&self) -> Time {
        let service = self.service.deadline().unwrap_or(Time::NEVER);
        let retreat = self.retreat.map_or(Time::NEVER, |retreat| retreat.deadline);
        let others = self.next_heartbeat.min(self.told_together_at).min(service).min(retreat);
        let others = others.min(self.gateway_deadline()).min(self.restart_deadline());
        let groups = 0..self.groups.len();
        let earliest =
            groups.fold(others, |earliest, group| earliest.min(self.group_deadline(group, earliest)));
        earliest.max(self.latest)
    }

    /// When a group has something to do, if that is before `earliest`.
    fn group_deadline(&self, index: usize, earliest: Time) -> Time {
        let group = &self.groups[index];
        let announcing = group.announcing.map_or(Time::NEVER, |announcing| announcing.next);
        let stage = match group.stage {
            Stage::Init => self.started + self.settings.timing.startup_wait,
            // Of many groups hardly one has a turn before the next heartbeat.
            Stage::Passive if self.vacancy_not_before(index) >= earliest => Time::NEVER,
            Stage::Passive => self.vacancy_deadline(index),
            Stage::Standing(_) => self.next_silence(),
            Stage::Ready(_) => group.promise.map_or(Time::NEVER, |promise| promise.until),
            Stage::Active(tenure) => match tenure.lapse {
                Some(lapse) => lapse.give_up,
                None => tenure.until.min(self.going_alone_at()),
            },
            Stage::Fault(Fault::Link) => Time::NEVER,
            Stage::Fault(Fault::Address { retry }) => retry,
        };
        let others = self.pending_deadline(index).min(self.spread_deadline(self.latest, index));
        announcing.min(stage).min(others).min(group.let_go_at())
    }

    /// When the next of the peers that are alive counts as silent, if it is not heard until then. A candidate needs no
    /// vote of it any more.
    fn next_silence(&self) -> Time {
        let alive = self.peers.iter().filter(|peer| peer.alive);
        let silent = alive.map(|peer| peer.silent_since() + self.settings.timing.dead_after);
        silent.min().unwrap_or(Time::NEVER)
    }

    fn tick(&mut self, now: Time, out: &mut Effects) {
        self.judge_peers(now, out);
        self.judge_lease(now);
        self.membership_timers(now, out);
        self.judge_service(now, out);
        self.judge_gateways(now, out);
        for group in 0..self.groups.len() {
            self.tenure_timers(now, group, out);
            self.candidacy_timers(now, group, out);
            // After these: a better-ranked node that may stand now does so.
            self.answer_pending(now, group, out);
            self.command_timers(now, group, out);
            self.grace_timers(now, group, out);
            self.spread_timers(now, group, out);
            self.look_for_rivals(now, group, out);
        }
        self.retreat_timers(now, out);
        if now >= self.next_heartbeat.min(self.told_together_at) || now >= self.going_alone_at() {
            self.news = true;
        }
        if let Some(below) = self.epochs.reservation(now) {
            out.list.push(Effect::ReserveEpochs { below });
        }
    }

    /// Whatever votes, silence and readiness now allow.
    fn advance(&mut self, now: Time, out: &mut Effects) {
        for group in 0..self.groups.len() {
            self.renew(now, group, out);
            self.advance_candidacy(now, group, out);
        }
        self.tell_alone(now, out);
        self.advance_restart(now, out);
    }

    fn tell_alone(&mut self, now: Time, out: &mut Effects) {
        let alone = self.alone(now) && self.groups.iter().any(|group| group.holds(now));
        if alone != self.alone {
            self.alone = alone;
            event(out, now, if alone { EventKind::Alone } else { EventKind::NotAlone });
        }
    }

    fn overslept(&mut self, now: Time, late: Duration, out: &mut Effects) {
        if late >= self.settings.timing.dead_after / 2 {
            self.restart_dead_timers(now);
            event(out, now, EventKind::Overslept(late));
        }
    }

    /// Silence until now proves nothing, because we could not have heard.
    fn restart_dead_timers(&mut self, now: Time) {
        for peer in &mut self.peers {
            peer.was_deaf(now);
        }
        for group in &mut self.groups {
            group.probe = Probe::Unasked;
            if let Some(promise) = &mut group.promise {
                let term = promise_term(self.settings.timing.dead_after, self.peers[promise.peer].lease);
                promise.until = promise.until.max(now + term);
            }
        }
    }

    fn judge_peers(&mut self, now: Time, out: &mut Effects) {
        let dead_after = self.settings.timing.dead_after;
        for (index, peer) in self.peers.iter_mut().enumerate() {
            for (place, path) in peer.paths.iter_mut().enumerate() {
                if path.up && !path.heard_within(now, dead_after) {
                    path.up = false;
                    event(out, now, EventKind::PathDown(PathIndex { peer: index, path: place }));
                }
            }
            if peer.alive && peer.silence(now) >= dead_after {
                peer.alive = false;
                event(out, now, EventKind::PeerDown(self.settings.peers[index].id));
            }
        }
    }

    fn judge_service(&mut self, now: Time, out: &mut Effects) {
        let suspicious = matches!(self.link, Link::Up { .. }) && self.service_path_is_silent(now);
        if self.service.tick(now, suspicious) {
            for &address in self.service.targets() {
                out.list.push(Effect::Probe { address });
            }
        }
        self.tell_service_health(now, out);
        if self.service.health() == ServiceHealth::Cut {
            for group in 0..self.groups.len() {
                self.give_for_service(now, group, out);
            }
        }
    }

    fn tell_service_health(&mut self, now: Time, out: &mut Effects) {
        let health = self.service.health();
        if health != self.service_said {
            self.service_said = health;
            self.news = true;
            event(out, now, EventKind::Service(health));
        }
    }

    /// Whether some peer is heard on another path, but on its service path one of us does not hear the other.
    fn service_path_is_silent(&self, now: Time) -> bool {
        let limit = self.settings.timing.heartbeat * 3;
        self.peers.iter().any(|peer| {
            let elsewhere = peer.paths.iter().any(|path| !path.service && path.heard_within(now, limit));
            elsewhere
                && peer.paths.iter().enumerate().any(|(place, path)| {
                    // A path that never carried anything may simply not be there.
                    let was_proven = path.service && path.round_trip.is_some();
                    let heard_by_peer = peer.heard_paths & (1 << place.min(15)) != 0;
                    was_proven && !(path.heard_within(now, limit) && heard_by_peer)
                })
        })
    }

    fn link_changed(&mut self, now: Time, link: Link, out: &mut Effects) {
        if self.link == link {
            return;
        }
        self.link = link;
        self.news = true;
        for index in 0..self.groups.len() {
            match (link, self.groups[index].stage) {
                (Link::Up { .. }, Stage::Fault(Fault::Link)) => {
                    let stage = if self.listening(now) { Stage::Init } else { Stage::Passive };
                    self.leave(now, index, stage, Cause::Link, out);
                }
                // Its Ethernet address has changed: clients must learn the new one.
                (Link::Up { .. }, Stage::Active(_)) if self.groups[index].holds(now) => {
                    self.groups[index].announcing = None;
                    self.announce(now, index, out);
                }
                (Link::Up { .. }, _) | (Link::Down | Link::Gone, Stage::Fault(Fault::Link)) => {}
                (Link::Down | Link::Gone, _) => {
                    self.leave(now, index, Stage::Fault(Fault::Link), Cause::Link, out);
                }
            }
        }
    }

    /// A lease lasts no longer than what the shortest of the peers' promises allows: they may have other files.
    fn judge_lease(&mut self, now: Time) {
        let heard = self.peers.iter().filter(|peer| peer.alive && peer.dead_after > Duration::ZERO);
        let shortest = heard.map(|peer| peer.dead_after * 10 / 11).min().unwrap_or(Duration::MAX);
        let lease = whole_micros(self.settings.timing.lease.min(shortest.max(Duration::from_micros(1))));
        if lease == self.lease {
            return;
        }
        let longer = lease > self.lease;
        self.lease = lease;
        self.next_heartbeat = self.next_heartbeat.min(now + self.beat());
        self.longest_lease = self.longest_lease.max(lease);
        if longer {
            // What was acknowledged so far was promised for less.
            self.requirements_changed(now);
        }
    }

    /// H, or less while leases are too short for that: three heartbeats have to fit.
    fn beat(&self) -> Duration {
        self.settings.timing.heartbeat.min(self.lease / 3)
    }

    /// Whether this node is still in the listening time after its start.
    fn listening(&self, now: Time) -> bool {
        now < self.started + self.settings.timing.startup_wait && !self.peers.iter().all(|peer| peer.alive)
    }

    /// Whether this node's promises count: D has passed since its start.
    fn voting(&self, now: Time) -> bool {
        now >= self.voting_from()
    }

    fn voting_from(&self) -> Time {
        self.started + self.restart_wait
    }

    /// Before this nothing is taken on silence alone: to a holder that this node, just started, does not believe yet it
    /// may have said that it will not take the group for D (`messages.rs`, introductions).
    fn alone_from(&self) -> Time {
        self.voting_from() + self.settings.timing.dead_after
    }

    fn service_mac(&self) -> Option<Mac> {
        match self.link {
            Link::Up { mac } => Some(mac),
            Link::Down | Link::Gone => None,
        }
    }

    fn announce(&mut self, now: Time, index: usize, out: &mut Effects) {
        let schedule = self.settings.groups[index].announce;
        let group = &mut self.groups[index];
        let left = group.announcing.map_or(schedule.count, |announcing| announcing.left);
        out.list.push(Effect::Announce { group: GroupIndex(index) });
        group.timeline.announced.get_or_insert(now);
        group.announcing = (left > 1).then(|| Announcing { left: left - 1, next: now + schedule.interval });
    }

    /// Shows a role, if it changed.
    fn show_role(&mut self, now: Time, index: usize, role: Role, cause: Cause, out: &mut Effects) {
        let group = &mut self.groups[index];
        let timeline = if role == Role::Active { group.timeline } else { Timeline::default() };
        if group.role != role {
            let kind = EventKind::Transition {
                group: GroupIndex(index),
                from: group.role,
                to: role,
                cause,
                epoch: group.own_epoch().or(group.top),
                timeline,
            };
            event(out, now, kind);
            group.transitions += 1;
            group.role = role;
            group.since = now;
            group.cause = cause;
        }
    }
}

/// How long a promise lasts: D, or what the lease of the one who is promised demands (design, section 6).
fn promise_term(dead_after: Duration, lease: Duration) -> Duration {
    dead_after.max(lease * 11 / 10)
}

/// Messages say leases in microseconds.
fn whole_micros(lease: Duration) -> Duration {
    Duration::from_micros(u64::try_from(lease.as_micros()).unwrap_or(u64::MAX))
}

fn group_places(settings: &Settings) -> Vec<(GroupId, usize)> {
    let mut places: Vec<_> =
        settings.groups.iter().zip(0..).map(|(group, index)| (group.id, index)).collect();
    places.sort_unstable();
    places
}

fn event(out: &mut Effects, at: Time, kind: EventKind) {
    out.list.push(Effect::Event(Event { at, kind }));
}
