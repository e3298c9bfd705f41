//! The table of a group that several nodes serve at once: who is a member, when the entry makes a new table, how it gets to
//! the others, and until when a member may serve (`docs/active-active.md`).
//!
//! Who the entry is, is the election's business alone: it is the holder. Nothing here gives or takes a lease.

use std::time::Duration;

use crate::identity::{ClusterId, Epoch, GroupId, GroupIndex, NodeId, PathIndex};
use crate::interface::{Effect, Effects, SpreadView};
use crate::settings::{SpreadMember, SpreadOver};
use crate::spread::message::{self, ALL_PARTS, Content, HALVES, PARTS};
use crate::spread::{Buckets, Load, MAX_MEMBERS, Member, NOBODY, Table, Version};
use crate::time::Time;
use crate::wire::{self, Header, Kind, Stand};

use super::Core;
use super::group::Stage;

/// What a node's kernel knows of flows counts for a table that the node has had for so long, and the entry before this one sends on what
/// still comes to it: by then nothing is on its way any more that was sent by the one before.
const SETTLING: Duration = Duration::from_secs(1);
/// For how long a member that has fallen silent keeps its flows, as the second of its buckets: it may only be busy. New flows go elsewhere
/// at once. Whoever has its connections is told that they are over when this is.
const REMEMBERED: Duration = Duration::from_secs(1);
/// How long the entry waits from one table to the next where only flows have ended.
const PAUSE: Duration = Duration::from_secs(1);
/// Numbers of tables go up by one for each of these, in nanoseconds of the boot clock, or for each table.
const A_NUMBER: u64 = 100_000_000;
/// Parts of a table that a member is sent at a time, and all members together: each takes the heartbeat thread some microseconds.
const PARTS_AT_ONCE: usize = 8;
const PARTS_IN_ALL: usize = 64;

/// A group's table, with all that the data plane has to know.
#[derive(Clone, Copy, Debug)]
pub struct SpreadTable<'a> {
    /// Which nodes have which bucket.
    pub table: &'a Table,
    /// Which table it is.
    pub version: Version,
    /// How flows are told apart.
    pub over: &'a SpreadOver,
    /// The cluster.
    pub cluster: ClusterId,
    /// The group.
    pub group: GroupId,
    /// This node.
    pub me: NodeId,
}

/// A group's table and what belongs to it, on one node.
#[derive(Clone, Debug)]
pub(super) struct Spread {
    me: NodeId,
    table: Table,
    /// Of how many of its buckets each place is first, and second.
    counts: [[usize; MAX_MEMBERS]; 2],
    version: Option<Version>,
    /// Since when this node goes by it.
    adopted: Time,
    /// What has come of a newer one; for the entry, the table before.
    other: Table,
    arriving: Option<Version>,
    have: u32,
    /// The daemon that made the table was started anew since: what it numbers lower may be newer.
    entry_is_new: bool,
    /// Everybody who may be a member, this node too.
    members: Vec<MemberState>,
    /// As the entry: which of them is sent parts first.
    turn: usize,
    /// When the table was last looked over, and whether flows may have ended since.
    balanced: Time,
    flows_ended: bool,
    /// Until when this node may serve, and what the data plane was told of that and of the next.
    serves_until: Time,
    told: (Time, bool),
    /// This node handed the group over lately: until then senders, and the switches between, may not have heard of the new entry.
    sends_on_until: Time,
}

/// What is known of a node that may be a member.
#[derive(Clone, Debug)]
struct MemberState {
    node: NodeId,
    /// With which weight the table counts it, if it counts it at all.
    counted: Option<u32>,
    /// Since when it serves nobody any more, if the table still has it.
    gone_since: Option<Time>,
    /// It has had a whole table since it is a member: only then does it know what to do with flows.
    joined: bool,
    /// Which parts of the table it has.
    has: u32,
    /// The part that it is sent next, and when.
    next: usize,
    again: Time,
    /// Where it has flows.
    busy: Buckets,
    /// Which halves of that are known.
    halves: u8,
    /// From which of the entry's tables on its reports count.
    reports_from: u32,
    load: Load,
}

impl MemberState {
    fn new(node: NodeId) -> Self {
        Self {
            node,
            counted: None,
            gone_since: None,
            joined: false,
            has: 0,
            next: 0,
            again: Time::ZERO,
            busy: Buckets::default(),
            halves: 0,
            reports_from: 0,
            load: Load::default(),
        }
    }

    fn is_known(&self) -> bool {
        self.halves == (1 << HALVES) - 1
    }
}

impl Spread {
    /// Of a group whose settings say so.
    pub(super) fn new(over: &SpreadOver, me: NodeId) -> Self {
        Self {
            me,
            table: Table::default(),
            counts: [[0; MAX_MEMBERS]; 2],
            version: None,
            adopted: Time::ZERO,
            other: Table::default(),
            arriving: None,
            have: 0,
            entry_is_new: false,
            members: over.members.iter().map(|member| MemberState::new(member.node)).collect(),
            turn: 0,
            balanced: Time::ZERO,
            flows_ended: false,
            serves_until: Time::ZERO,
            told: (Time::ZERO, false),
            sends_on_until: Time::ZERO,
        }
    }

    /// Goes on by the table that the daemon before this one went by.
    pub(super) fn adopt(&mut self, now: Time, version: Version, table: &Table) {
        self.table.clone_from(table);
        self.go_by(now, version);
    }

    /// The table is the one of this version from now on.
    fn go_by(&mut self, now: Time, version: Version) {
        self.counts = [self.table.counts(), self.table.seconds()];
        self.version = Some(version);
        self.arriving = None;
        self.entry_is_new = false;
        self.adopted = now;
    }

    /// Whether this node has this table, or one that came after it.
    fn is_beyond(&self, version: Version) -> bool {
        let newer = |own: Version| own.is_at_least(version) && !self.entry_is_new;
        self.version.is_some_and(|own| own == version || newer(own))
    }

    /// Goes over to other settings.
    pub(super) fn reconfigure(&mut self, over: &SpreadOver) {
        let mut known = std::mem::take(&mut self.members);
        self.members = over
            .members
            .iter()
            .map(|member| match known.iter().position(|state| state.node == member.node) {
                Some(place) => known.swap_remove(place),
                None => MemberState::new(member.node),
            })
            .collect();
    }

    fn member(&mut self, node: NodeId) -> Option<&mut MemberState> {
        self.members.iter_mut().find(|member| member.node == node)
    }

    /// When the entry has something to send, or to look over.
    fn deadline(&self) -> Time {
        let behind = self.members.iter().filter(|member| member.has != ALL_PARTS);
        let sends = behind.map(|member| member.again).min().unwrap_or(Time::NEVER);
        if self.flows_ended { sends.min(self.balanced + PAUSE) } else { sends }
    }

    /// Makes the table right for the members as they are counted; whether it changed.
    fn rebalance(&mut self) -> bool {
        self.other.clone_from(&self.table);
        let nobody = Member { node: NodeId(0), weight: 0, busy: None };
        let mut members = [nobody; MAX_MEMBERS];
        let counted = self.members.iter().filter(|member| member.counted.is_some());
        let mut count = 0;
        for (place, state) in members.iter_mut().zip(counted) {
            let busy = state.is_known().then_some(&state.busy);
            *place = Member { node: state.node, weight: state.counted.unwrap_or(0), busy };
            count += 1;
        }
        self.table.rebalance(&members[..count])
    }

    /// The table that follows; whoever is the second of a bucket that it was not in has to look again.
    fn number(&mut self, now: Time, epoch: Epoch) {
        // Where the last run's table is lost but not its lease, this one's numbers are higher by the clock.
        let by_clock = u32::try_from(now.as_nanos() / A_NUMBER).unwrap_or(u32::MAX).max(1);
        let (number, is_first) = match self.version {
            Some(version) if version.epoch == epoch => {
                (by_clock.max(version.number.saturating_add(1)), false)
            }
            Some(_) | None => (by_clock, true),
        };
        let mut has_new = [false; MAX_MEMBERS];
        for (new, old) in self.table.buckets().iter().zip(self.other.buckets()) {
            let node = self.table.member(new.second);
            if new.second != NOBODY && self.other.member(old.second) != node {
                has_new[usize::from(new.second)] = true;
            }
        }
        for member in &mut self.members {
            let place = self.table.place(member.node);
            if is_first || place.is_some_and(|place| has_new[usize::from(place)]) {
                member.halves = 0;
                member.reports_from = number;
            }
            member.has = if member.node == self.me { ALL_PARTS } else { 0 };
            member.next = 0;
            member.again = now;
        }
        self.go_by(now, Version { epoch, number });
    }
}

impl Core {
    /// The table of a group that several nodes serve; `None` until there is one.
    #[must_use]
    pub fn spread_table(&self, group: GroupIndex) -> Option<SpreadTable<'_>> {
        let spread = self.groups.get(group.0)?.spread.as_deref()?;
        let settings = &self.settings.groups[group.0];
        Some(SpreadTable {
            table: &spread.table,
            version: spread.version?,
            over: settings.spread.as_ref()?,
            cluster: self.settings.cluster,
            group: settings.id,
            me: self.settings.me,
        })
    }

    /// The Ethernet address on the service link of a node, as far as it is known.
    #[must_use]
    pub fn mac_of(&self, node: NodeId) -> Option<crate::identity::Mac> {
        if node == self.settings.me {
            return self.service_mac();
        }
        self.peers[self.peer_of(node)?].mac
    }

    /// This node becomes the entry: the table is there before the lease.
    pub(super) fn take_spread(&mut self, now: Time, index: usize, epoch: Epoch, out: &mut Effects) {
        let Some(mut spread) = self.groups[index].spread.take() else { return };
        // What was noted in an earlier tenure is long ago.
        spread.members.iter_mut().for_each(|member| member.gone_since = None);
        self.count_members(index, &mut spread);
        spread.rebalance();
        spread.number(now, epoch);
        spread.balanced = now;
        out.list.push(Effect::Table { group: GroupIndex(index) });
        self.groups[index].spread = Some(spread);
    }

    /// What the entry of a group does from time to time.
    pub(super) fn spread_timers(&mut self, now: Time, index: usize, out: &mut Effects) {
        let Stage::Active(tenure) = self.groups[index].stage else { return };
        if now >= tenure.until {
            return;
        }
        let Some(mut spread) = self.groups[index].spread.take() else { return };
        let adopted = spread.version.is_none_or(|version| version.epoch != tenure.epoch);
        // The table of the run before: who is not heard yet may be there.
        let keeps = !adopted && self.is_getting_known(now);
        let others = !keeps && self.count_members(index, &mut spread);
        if others || adopted || spread.flows_ended && now >= spread.balanced + PAUSE {
            spread.balanced = now;
            if !keeps {
                spread.flows_ended = false;
                if spread.rebalance() || adopted {
                    spread.number(now, tenure.epoch);
                    out.list.push(Effect::Table { group: GroupIndex(index) });
                }
            }
        }
        self.send_tables(now, index, &mut spread, out);
        self.groups[index].spread = Some(spread);
    }

    /// The group's lease had run out and is back: somebody else may have held it, and published tables of his own.
    pub(super) fn publish_anew(&mut self, now: Time, index: usize) {
        let Some(spread) = &mut self.groups[index].spread else { return };
        let me = spread.me;
        for member in spread.members.iter_mut().filter(|member| member.node != me) {
            member.has = 0;
            member.again = now;
        }
    }

    /// A peer is heard again, or its daemon has started again: what it had need not be there any more.
    pub(super) fn member_starts_anew(&mut self, now: Time, peer: usize) {
        let node = self.settings.peers[peer].id;
        for spread in self.groups.iter_mut().filter_map(|group| group.spread.as_mut()) {
            if let Some(member) = spread.member(node) {
                member.has = 0;
                member.joined = false;
                member.again = now;
            }
        }
    }

    /// A peer's daemon has started again, and may be the one that made tables.
    pub(super) fn entry_starts_anew(&mut self, peer: usize) {
        let node = self.settings.peers[peer].id;
        for spread in self.groups.iter_mut().filter_map(|group| group.spread.as_mut()) {
            spread.entry_is_new |= spread.version.is_some_and(|version| version.epoch.node == node);
        }
    }

    pub(super) fn spread_deadline(&self, now: Time, index: usize) -> Time {
        let group = &self.groups[index];
        match &group.spread {
            Some(spread) if group.holds(now) => spread.deadline(),
            Some(_) | None => Time::NEVER,
        }
    }

    /// Counts who is a member, and with which weight; whether that is other than before.
    fn count_members(&self, index: usize, spread: &mut Spread) -> bool {
        let Some(over) = &self.settings.groups[index].spread else { return false };
        let mut weights = [None; MAX_MEMBERS];
        for (weight, member) in weights.iter_mut().zip(&over.members) {
            *weight = self.weight_of(index, member);
        }
        for (weight, state) in weights.iter_mut().zip(&mut spread.members) {
            let has_place = spread.table.place(state.node).map(usize::from);
            let is_there =
                has_place.is_some_and(|place| spread.counts.iter().any(|counts| counts[place] > 0));
            state.gone_since =
                (weight.is_none() && is_there).then(|| state.gone_since.unwrap_or(self.latest));
            if state.gone_since.is_some_and(|since| self.latest < since + REMEMBERED) {
                *weight = Some(0);
            }
        }
        over.hold_spares_back(&mut weights);
        // Who has no table yet is sent one before it is sent flows, which it would drop.
        for (weight, state) in weights.iter_mut().zip(&mut spread.members) {
            let place = spread.table.place(state.node);
            let has_buckets = place.is_some_and(|place| spread.counts[0][usize::from(place)] > 0);
            state.joined &= weight.is_some();
            state.joined |= has_buckets || state.node == spread.me;
            if !state.joined {
                *weight = weight.map(|_| 0);
            }
        }
        let is_own = |at: &usize| over.members.get(*at).is_some_and(|member| member.node == spread.me);
        if weights.iter().all(|weight| weight.unwrap_or(0) == 0)
            && let Some(own) = (0..MAX_MEMBERS).find(is_own)
        {
            // Nobody else takes anything new, and the entry is there.
            weights[own] = Some(1);
        }
        let mut changed = false;
        for (state, weight) in spread.members.iter_mut().zip(weights) {
            if state.counted != weight {
                state.counted = weight;
                changed = true;
            }
        }
        changed
    }

    /// The weight of a node; 0 while it takes nothing new, `None` if it serves nobody.
    fn weight_of(&self, index: usize, member: &SpreadMember) -> Option<u32> {
        if member.node == self.settings.me {
            let takes = self.link_is_up() && !self.drained && !self.stopping;
            return Some(if takes { member.weight } else { 0 });
        }
        let peer = &self.peers[self.peer_of(member.node)?];
        // One that is replaced in place goes on serving what it has, and is soon back.
        let is_replaced = !peer.alive && peer.restarts && peer.silence(self.latest) < wire::RESTART_LEASE;
        let claim = peer.claims[index].filter(|_| (peer.is_mutual() || is_replaced) && peer.mac.is_some())?;
        Some(if claim.stand == Stand::Unwilling { 0 } else { member.weight })
    }

    /// Whether this run is so young that it need not have heard of everybody.
    fn is_getting_known(&self, now: Time) -> bool {
        now < self.started + self.settings.timing.dead_after * 2
    }

    fn peer_of(&self, node: NodeId) -> Option<usize> {
        self.settings.peers.iter().position(|peer| peer.id == node)
    }

    /// Sends members what they do not have of the table, a few parts at a time.
    fn send_tables(&mut self, now: Time, index: usize, spread: &mut Spread, out: &mut Effects) {
        let Some(version) = spread.version else { return };
        let pause = (self.settings.timing.heartbeat / 2).max(Duration::from_millis(1));
        let (count, first) = (spread.members.len(), spread.turn);
        let mut in_all = PARTS_IN_ALL;
        for place in (first..first + count).map(|place| place % count) {
            let member = &mut spread.members[place];
            if member.has == ALL_PARTS || now < member.again {
                continue;
            }
            let Some(peer) = self.peer_of(member.node).filter(|&peer| self.peers[peer].alive) else {
                // Until it is heard again (`member_starts_anew`).
                member.again = Time::NEVER;
                continue;
            };
            member.again = now + pause;
            if in_all == 0 {
                continue;
            }
            let mut left = PARTS_AT_ONCE.min(in_all);
            for _ in 0..PARTS {
                let part = member.next;
                member.next = (part + 1) % PARTS;
                if member.has & 1 << part != 0 {
                    continue;
                }
                let group = self.settings.groups[index].id;
                self.send_spread(now, peer, out, |body| {
                    message::emit_part(body, group, version, &spread.table, part);
                });
                in_all -= 1;
                left -= 1;
                if left == 0 {
                    break;
                }
            }
            spread.turn = place + 1;
        }
    }

    /// Sends a message on the first path that carries anything.
    fn send_spread(&mut self, now: Time, peer: usize, out: &mut Effects, body: impl FnOnce(&mut Vec<u8>)) {
        let path = self.peers[peer].paths.iter().position(|path| path.up).unwrap_or(0);
        let path = PathIndex { peer, path };
        let sequence = self.peers[peer].number_acknowledgement();
        let header = Header { sequence, ..self.header(now, path, Kind::Spread, 0) };
        let bytes = wire::emit_spread(&mut out.bytes, &header, &self.keys[0], body);
        out.list.push(Effect::Send { path, bytes });
    }

    /// A peer says something of a table.
    pub(super) fn spread_message(&mut self, now: Time, peer: usize, body: &[u8], out: &mut Effects) {
        let Some(message) = message::Message::parse(body) else { return };
        let Some(index) = self.group_index(message.group) else { return };
        let Some(mut spread) = self.groups[index].spread.take() else { return };
        let node = self.settings.peers[peer].id;
        let is_entry = self.groups[index].holds(now) && spread.version == Some(message.version);
        match message.content {
            Content::Part(part) => {
                if self.is_table_of(now, index, peer, message.version) {
                    self.take_part(now, index, &mut spread, message.version, part, out);
                    self.send_status(now, index, peer, &spread, message.version, out);
                }
            }
            Content::Status { have, load } => {
                if let Some(member) = spread.member(node) {
                    member.load = load;
                    if is_entry {
                        member.has |= have;
                        member.joined |= member.has == ALL_PARTS;
                    }
                }
            }
            Content::Busy(half) => {
                let same_tenure = spread.version.is_some_and(|own| own.epoch == message.version.epoch);
                if self.groups[index].holds(now)
                    && same_tenure
                    && let Some(member) = spread.member(node)
                    && message.version.number >= member.reports_from
                {
                    half.take_into(&mut member.busy);
                    member.halves |= 1 << half.index;
                    let known = member.is_known();
                    spread.flows_ended |= known;
                }
            }
        }
        self.groups[index].spread = Some(spread);
    }

    /// Whether a peer is the holder that this node follows, in this tenure. A tenure that lapsed may come back after another one has come
    /// and gone, so that epochs alone do not tell which table is newer.
    fn is_table_of(&self, now: Time, index: usize, peer: usize, version: Version) -> bool {
        let followed = self.groups[index].binding_promise(now).filter(|promise| promise.holds);
        followed.is_some_and(|promise| promise.peer == peer && promise.epoch == version.epoch)
            && version.epoch.node == self.settings.peers[peer].id
            && !self.groups[index].holds(now)
    }

    fn take_part(
        &self,
        now: Time,
        index: usize,
        spread: &mut Spread,
        version: Version,
        part: message::Part<'_>,
        out: &mut Effects,
    ) {
        if spread.is_beyond(version)
            || spread.arriving.is_some_and(|other| other != version && other.is_at_least(version))
        {
            return;
        }
        if spread.arriving != Some(version) {
            spread.arriving = Some(version);
            spread.have = 0;
        }
        part.take_into(&mut spread.other);
        spread.have |= 1 << part.index;
        if spread.have == ALL_PARTS {
            std::mem::swap(&mut spread.table, &mut spread.other);
            spread.go_by(now, version);
            out.list.push(Effect::Table { group: GroupIndex(index) });
        }
    }

    fn send_status(
        &mut self,
        now: Time,
        index: usize,
        peer: usize,
        spread: &Spread,
        version: Version,
        out: &mut Effects,
    ) {
        let have = if spread.is_beyond(version) { ALL_PARTS } else { spread.have };
        let own = spread.members.iter().find(|member| member.node == self.settings.me);
        let load = own.map_or_else(Load::default, |own| own.load);
        let group = self.settings.groups[index].id;
        self.send_spread(now, peer, out, |body| message::emit_status(body, group, version, have, load));
    }

    /// What the kernel said of the connections of the group's VIPs, and of packets; asked for at `since`.
    pub(super) fn flows(
        &mut self,
        now: Time,
        index: usize,
        busy: &Buckets,
        load: Load,
        since: Time,
        out: &mut Effects,
    ) {
        let Some(mut spread) = self.groups.get_mut(index).and_then(|group| group.spread.take()) else {
            return;
        };
        let settled = since >= spread.adopted + SETTLING;
        let version = spread.version;
        let holds = self.groups[index].holds(now);
        if let Some(own) = spread.member(self.settings.me) {
            own.load = load;
            if settled && version.is_some_and(|version| holds && version.number >= own.reports_from) {
                own.busy.clone_from(busy);
                own.halves = (1 << HALVES) - 1;
                spread.flows_ended = true;
            }
        }
        if let Some(version) = version.filter(|_| !holds)
            && let Some(entry) = self.peer_of(version.epoch.node)
            && self.peers[entry].alive
        {
            let group = self.settings.groups[index].id;
            for half in (0..HALVES).filter(|_| settled) {
                self.send_spread(now, entry, out, |body| {
                    message::emit_half(body, group, version, busy, half);
                });
            }
            self.send_status(now, index, entry, &spread, version, out);
        }
        self.groups[index].spread = Some(spread);
    }

    /// A peer holds the group: members may serve for as long as it can hold by what it has just said, and until its
    /// successor can be there.
    pub(super) fn follow_entry(&mut self, now: Time, index: usize, peer: usize) {
        let term = self.term_for(peer) + self.settings.timing.dead_after;
        if let Some(spread) = &mut self.groups[index].spread {
            spread.serves_until = now + term;
        }
    }

    /// About to go dark for the next entry: as a member this node serves on, and sends on what comes to where the entry was.
    pub(super) fn hand_over_entry(&mut self, now: Time, index: usize, out: &mut Effects) {
        if let Some(spread) = &mut self.groups[index].spread {
            spread.sends_on_until = now + SETTLING;
            let (until, _) = spread.told;
            if now < until {
                spread.told = (until, true);
                out.list.push(Effect::Serve { group: GroupIndex(index), until, gave_up: true });
            }
        }
    }

    /// Tells the data plane until when this node may serve.
    pub(super) fn tell_rights(&mut self, now: Time, out: &mut Effects) {
        let leaves = self.stopping || !self.link_is_up();
        let replaced = self.asks_for_long_promises();
        for index in 0..self.groups.len() {
            let group = &mut self.groups[index];
            let Some(spread) = &mut group.spread else { continue };
            if let Stage::Active(tenure) = group.stage
                && now < tenure.until
            {
                spread.serves_until = spread.serves_until.max(tenure.until);
            }
            if replaced && now < spread.serves_until {
                spread.serves_until = spread.serves_until.max(now + wire::RESTART_LEASE);
            }
            let until = if leaves { Time::ZERO } else { spread.serves_until };
            let gave_up = now < spread.sends_on_until;
            if (until, gave_up) != spread.told {
                spread.told = (until, gave_up);
                out.list.push(Effect::Serve { group: GroupIndex(index), until, gave_up });
            }
        }
    }

    /// A node's Ethernet address has changed: tables name nodes by it.
    pub(super) fn tell_tables(&self, out: &mut Effects) {
        for (index, group) in self.groups.iter().enumerate() {
            if group.spread.as_ref().is_some_and(|spread| spread.version.is_some()) {
                out.list.push(Effect::Table { group: GroupIndex(index) });
            }
        }
    }

    /// What is shown of the tables.
    pub(super) fn show_spreads(&self, views: &mut Vec<SpreadView>) {
        views.resize_with(self.groups.len(), SpreadView::default);
        for (group, view) in self.groups.iter().zip(views) {
            view.members.clear();
            let Some(spread) = group.spread.as_deref() else { continue };
            view.version = spread.version;
            view.serves_until = spread.serves_until;
            let [firsts, seconds] = &spread.counts;
            for member in &spread.members {
                let place = spread.table.place(member.node).map(usize::from);
                view.members.push(crate::interface::SpreadMemberView {
                    node: member.node,
                    buckets: place.map_or(0, |place| firsts[place]),
                    seconds: place.map_or(0, |place| seconds[place]),
                    load: member.load,
                    weight: member.counted,
                });
            }
        }
    }
}
