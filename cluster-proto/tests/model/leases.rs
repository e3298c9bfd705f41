//! Leases and promises among three voters, each of whom may be a candidate, in one group.
//!
//! Time is cut into ticks. A lease lasts `TERM` ticks at most, a promise `TERM` at least, from the send and from the arrival
//! of the same heartbeat: this is all that L, D = 1.1 L and clocks whose rates differ by 10 % come to (`docs/quorum.md`). All else about time
//! is left open, since nobody in the model has to do anything: a promise that lasts longer is a voter that waits, a daemon
//! that is down is one that does nothing until it crashes.
//!
//! So that all of it can be visited:
//! - A node sends at most one heartbeat a tick, and a message that is `WINDOW` ticks old is lost. Within that it may arrive at any time, in any order,
//!   any number of times, or never.
//! - Of an epoch only matters whether it is the candidate's or holder's present one. So their number is not bounded.
//! - Requests of an epoch that was given up are left out: a promise for them binds the voter and is of no use to anybody.
//!
//! With restarts in place (`Leases::long`) a holder may have a phase in which its heartbeats tell a longer lease, by as much as
//! `LONGER`, and any heartbeat tells how much is left of the lease if that is more than `TERM`.

use std::fmt;

use stateright::{Model, Property};

use super::recovery::{self, Stubbornness};

/// How many voters there are.
pub(crate) const NODES: usize = 3;
/// How much longer a lease for a restart in place lasts.
const LONGER: u8 = 2;

/// What is left out of the protocol or done wrong, to see that the model finds it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Mutation {
    /// A voter that restarted votes at once.
    NoRestartWait,
    /// Any heartbeat of a holder renews its lease, whatever the voter has promised.
    RenewWithoutPromise,
    /// Votes for an earlier tenure count for the present one.
    VoteOfAnotherEpoch,
    /// A voter forgets what it promised.
    PromiseForgotten,
    /// A promise that is renewed may end earlier than it would have.
    PromiseShortened,
    /// The lease lasts as long as the promise by the own clock: a tick more, for a clock that is slow.
    LeaseAsLongAsPromise,
    /// A lease begins when the vote arrives.
    LeaseFromArrival,
    /// A voter lets a candidate preempt the holder it has promised to.
    Preemption,
    /// The old holder votes for the new one before it is dark.
    ReleaseBeforeDark,
    /// A message that says `idle` frees a promise that was given later.
    StaleIdle,
    /// A candidate counts its own vote although it has promised the group.
    OwnVoteWhilePromised,
    /// A candidate counts its own vote before its wait after a restart is over.
    OwnVoteWhileWaiting,
    /// With restarts in place: a heartbeat does not tell that the lease in the map is longer than usual.
    LongLeaseUntold,
    /// A heartbeat that is overtaken makes a promise shorter.
    OldHeartbeatShortens,
    /// In the phase in which heartbeats tell the longer lease, one from before grants it, too.
    LongTermForAnOldHeartbeat,
    /// When the phase is over, heartbeats that told the longer lease still grant it.
    LongTermAfterThePhase,
    /// A voter whose disk does not know of long promises makes one.
    LongPromiseNotKept,
    /// Its disk says the usual again before a long promise is over.
    DiskShrinksEarly,
}

/// All of them.
pub(crate) const MUTATIONS: [Mutation; 12] = [
    Mutation::NoRestartWait,
    Mutation::RenewWithoutPromise,
    Mutation::VoteOfAnotherEpoch,
    Mutation::PromiseForgotten,
    Mutation::PromiseShortened,
    Mutation::LeaseAsLongAsPromise,
    Mutation::LeaseFromArrival,
    Mutation::Preemption,
    Mutation::ReleaseBeforeDark,
    Mutation::StaleIdle,
    Mutation::OwnVoteWhilePromised,
    Mutation::OwnVoteWhileWaiting,
];

/// Those that concern restarts in place.
pub(crate) const MUTATIONS_OF_RESTARTS: [Mutation; 6] = [
    Mutation::LongLeaseUntold,
    Mutation::OldHeartbeatShortens,
    Mutation::LongTermForAnOldHeartbeat,
    Mutation::LongTermAfterThePhase,
    Mutation::LongPromiseNotKept,
    Mutation::DiskShrinksEarly,
];

/// The protocol, or a mutation of it.
pub(crate) struct Leases {
    /// Ticks that a lease lasts at most, and a promise at least.
    pub(crate) term: u8,
    /// Ticks after which a message is lost.
    pub(crate) window: usize,
    /// Whether daemons are restarted in place; with messages of up to three ticks.
    pub(crate) long: bool,
    pub(crate) mutation: Option<Mutation>,
    /// Whether it is checked that a majority soon has a lease, and what is wrong with how its nodes go on.
    pub(crate) recovery: Option<Option<Stubbornness>>,
}

/// At most one node holds.
pub(crate) const ONE_LEASE: &str = "one lease";
/// Some node holds in some state, or the rest says nothing.
pub(crate) const A_LEASE: &str = "a lease";
/// From every state somebody among a majority that hear each other holds in time.
pub(crate) const SOON_A_LEASE: &str = "soon a lease";

#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) enum Stage {
    #[default]
    Passive,
    /// Asks for votes in an epoch of its own: a candidate, or ready to take over.
    Asking,
    /// In a tenure. The lease that is left by its clock, and in the map that outlives its daemon; with none it is suspended.
    Active { lease: u8 },
}

/// A voter's word. The peer is counted on from the voter: 1 or 2.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Promise {
    pub(crate) peer: usize,
    pub(crate) left: u8,
    /// A later message of that peer, that it neither holds nor asks, is on its way.
    pub(crate) freed: bool,
}

/// A heartbeat that holds or asks in the sender's present epoch, and who has voted for it: 1 and 2, counted on from the
/// sender.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) struct Heartbeat {
    votes: [bool; 2],
    told: Told,
}

/// What a heartbeat tells of the lease.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
enum Told {
    /// The usual term.
    #[default]
    Usual,
    /// So much more, since so much is left.
    Left(u8),
    /// The longer term, in the sender's present phase.
    Long,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) struct Node {
    pub(crate) stage: Stage,
    /// How long it still votes for nobody.
    pub(crate) wait: u8,
    pub(crate) promise: Option<Promise>,
    /// An active node's heartbeats tell the longer term.
    phase: bool,
    /// Its disk says that its promises may be long.
    kept: bool,
    /// Its heartbeats by age.
    pub(crate) sent: [Option<Heartbeat>; 4],
}

/// A state in few bytes, of which many are kept.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Packed([u32; NODES]);

/// A state that can be read.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) struct State(pub(crate) [Node; NODES]);

/// Where the heartbeats lie in a packed node, by age.
const PLACES: [u32; 4] = [13, 18, 23, 28];

/// The node that lies `on` places further.
fn counted_on(node: usize, on: usize) -> usize {
    (node + on) % NODES
}

impl Node {
    fn lease(&self) -> u8 {
        match self.stage {
            Stage::Active { lease } => lease,
            Stage::Passive | Stage::Asking => 0,
        }
    }

    fn pack(&self) -> u32 {
        let stage = match self.stage {
            Stage::Passive => 0,
            Stage::Asking => 1,
            Stage::Active { lease } if self.phase => 10 + u32::from(lease),
            Stage::Active { lease } => 2 + u32::from(lease),
        };
        let promise = self.promise.map_or(0, |promise| {
            (u32::from(promise.peer == 2) + 1) | u32::from(promise.left) << 2 | u32::from(promise.freed) << 5
        });
        let mut packed = stage | u32::from(self.wait) << 4 | promise << 7;
        for (place, sent) in PLACES.into_iter().zip(self.sent) {
            let told = |told| match told {
                Told::Usual => 0,
                Told::Left(more) => u32::from(more),
                Told::Long => 3,
            };
            let votes = |sent: Heartbeat| u32::from(sent.votes[0]) << 1 | u32::from(sent.votes[1]) << 2;
            packed |= sent.map_or(0, |sent| 1 | votes(sent) | told(sent.told) << 3) << place;
        }
        packed | u32::from(self.kept) << 31
    }

    fn unpack(packed: u32) -> Self {
        let bits = |at: u32, count: u32| packed >> at & ((1 << count) - 1);
        let byte = |value: u32| u8::try_from(value).unwrap_or(u8::MAX);
        let (stage, phase) = match bits(0, 4) {
            0 => (Stage::Passive, false),
            1 => (Stage::Asking, false),
            lease @ 2..10 => (Stage::Active { lease: byte(lease - 2) }, false),
            lease => (Stage::Active { lease: byte(lease - 10) }, true),
        };
        let peer = bits(7, 2);
        let promise = (peer > 0).then(|| Promise {
            peer: if peer == 2 { 2 } else { 1 },
            left: byte(bits(9, 3)),
            freed: bits(12, 1) == 1,
        });
        let sent = PLACES.map(|place| {
            // The oldest has no room for what it tells, and with restarts in place it is not there.
            let bits = bits(place, if place == PLACES[3] { 3 } else { 5 });
            let told = match bits >> 3 {
                0 => Told::Usual,
                3 => Told::Long,
                more => Told::Left(byte(more)),
            };
            (bits > 0).then_some(Heartbeat { votes: [bits & 2 > 0, bits & 4 > 0], told })
        });
        Self { stage, wait: byte(bits(4, 3)), promise, phase, kept: bits(31, 1) == 1, sent }
    }

    /// The phase is over: what was told in it has no bearing on later leases.
    fn end_phase(&mut self) {
        self.phase = false;
        for sent in self.sent.iter_mut().flatten() {
            if sent.told == Told::Long {
                sent.told = Told::Left(LONGER);
            }
        }
    }

    /// The same seen from the other side, with the two others exchanged.
    fn mirrored(mut self) -> Self {
        if let Some(promise) = &mut self.promise {
            promise.peer = NODES - promise.peer;
        }
        for sent in self.sent.iter_mut().flatten() {
            sent.votes.swap(0, 1);
        }
        self
    }
}

impl Packed {
    pub(crate) fn unpacked(self) -> State {
        State(self.0.map(Node::unpack))
    }
}

impl fmt::Debug for Packed {
    fn fmt(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.unpacked().fmt(to)
    }
}

impl State {
    fn packed(&self) -> Packed {
        Packed(self.0.map(|node| node.pack()))
    }

    /// One for all states that differ in the nodes' names only: no rule of the model goes by a name.
    fn representative(&self) -> Packed {
        let [a, b, c] = self.0;
        let turned = [[a, b, c], [b, c, a], [c, a, b]];
        let mirrored = [[a, c, b], [c, b, a], [b, a, c]].map(|nodes| nodes.map(Node::mirrored));
        let all = turned.into_iter().chain(mirrored).map(|nodes| Self(nodes).packed());
        all.min().unwrap_or(self.packed())
    }

    pub(crate) fn lease(&self, node: usize) -> u8 {
        self.0[node].lease()
    }

    pub(crate) fn holders(&self) -> usize {
        self.0.iter().filter(|node| node.lease() > 0).count()
    }
}

impl Leases {
    fn is(&self, mutation: Mutation) -> bool {
        self.mutation == Some(mutation)
    }

    /// A lease that rests on a heartbeat of this age.
    fn lease_from(&self, node: &Node, age: usize) -> u8 {
        let told = node.sent[age].map_or(Told::Usual, |sent| sent.told);
        let long = match told {
            Told::Long => true,
            Told::Left(LONGER) if self.is(Mutation::LongTermAfterThePhase) => true,
            Told::Usual | Told::Left(_) => node.phase && self.is(Mutation::LongTermForAnOldHeartbeat),
        };
        let term = self.term + if long { LONGER } else { 0 };
        let term = term + u8::from(self.is(Mutation::LeaseAsLongAsPromise));
        if self.is(Mutation::LeaseFromArrival) {
            term
        } else {
            term.saturating_sub(u8::try_from(age).unwrap_or(term))
        }
    }

    /// The node is dark and in no tenure, and says so in its next heartbeat.
    pub(crate) fn leave(&self, state: &mut State, node: usize) {
        state.0[node].stage = Stage::Passive;
        state.0[node].phase = false;
        if !self.is(Mutation::VoteOfAnotherEpoch) {
            state.0[node].sent = [None; 4];
        }
        for on in 1..NODES {
            if let Some(promise) = &mut state.0[counted_on(node, on)].promise
                && promise.peer == NODES - on
            {
                promise.freed = true;
            }
        }
    }

    /// Whether a voter may promise to a peer now.
    fn may_promise(&self, voter: &Node, peer: usize) -> bool {
        let free = voter.promise.is_none_or(|promise| promise.peer == peer) || self.is(Mutation::Preemption);
        let idle = match voter.stage {
            Stage::Passive => true,
            Stage::Active { lease } => lease > 0 && self.is(Mutation::ReleaseBeforeDark),
            Stage::Asking => false,
        };
        voter.wait == 0 && free && idle
    }

    /// A heartbeat of this age reaches a voter, who promises and says so.
    pub(crate) fn promise(&self, state: &mut State, candidate: usize, on: usize, age: usize) -> bool {
        let voter = counted_on(candidate, on);
        let peer = NODES - on;
        let told = state.0[candidate].sent[age].map_or(Told::Usual, |sent| sent.told);
        let left = match told {
            Told::Usual => self.term,
            Told::Left(more) => self.term + more,
            Told::Long => self.term + LONGER,
        };
        let remembers = left <= self.term || state.0[voter].kept || self.is(Mutation::LongPromiseNotKept);
        let newer = state.0[candidate].sent[..age].iter().flatten().any(|sent| sent.votes[on - 1]);
        if self.long && newer && !self.is(Mutation::OldHeartbeatShortens) {
            return false;
        }
        let may = self.may_promise(&state.0[voter], peer) && remembers;
        let holds = state.0[candidate].lease() > 0;
        let Some(heartbeat) = &mut state.0[candidate].sent[age] else { return false };
        if heartbeat.votes[on - 1] || !(may || holds && self.is(Mutation::RenewWithoutPromise)) {
            return false;
        }
        heartbeat.votes[on - 1] = true;
        if may {
            let before = state.0[voter].promise;
            let freed = before.is_some_and(|promise| promise.freed) && self.is(Mutation::StaleIdle);
            state.0[voter].promise = Some(Promise { peer, left, freed });
        }
        true
    }

    /// Votes that have arrived make a lease. `ages` are those of the heartbeats that the two others voted for.
    pub(crate) fn take(&self, state: &mut State, node: usize, ages: [Option<usize>; 2]) -> bool {
        self.take_or_shorten(state, node, ages, false)
    }

    /// The same, or a usual lease in the place of a longer one.
    fn take_or_shorten(
        &self,
        state: &mut State,
        node: usize,
        ages: [Option<usize>; 2],
        shorten: bool,
    ) -> bool {
        let voted = |on: usize| {
            ages[on - 1].is_none_or(|age| state.0[node].sent[age].is_some_and(|sent| sent.votes[on - 1]))
        };
        if !voted(1) || !voted(2) {
            return false;
        }
        let own = match state.0[node].stage {
            Stage::Passive => return false,
            // The word of a candidate is its own again when the one it was given to votes for it.
            Stage::Asking => {
                let given = state.0[node].promise.is_some_and(|promise| ages[promise.peer - 1].is_none());
                (!given || self.is(Mutation::OwnVoteWhilePromised))
                    && (state.0[node].wait == 0 || self.is(Mutation::OwnVoteWhileWaiting))
            }
            Stage::Active { .. } => true,
        };
        let votes = ages.iter().flatten().count() + usize::from(own);
        // With one vote more than are needed, the newer ones decide: that is the step with that vote alone.
        let Some(oldest) = ages.iter().flatten().max().filter(|_| votes == 2) else { return false };
        let lease = self.lease_from(&state.0[node], *oldest);
        let before = state.0[node].lease();
        let shorter = shorten && !state.0[node].phase && before > self.term && (1..before).contains(&lease);
        if lease <= before && !shorter {
            return false;
        }
        state.0[node].stage = Stage::Active { lease };
        state.0[node].promise = None;
        true
    }

    pub(crate) fn tick(&self, state: &mut State) {
        for node in &mut state.0 {
            if let Stage::Active { lease } = &mut node.stage {
                *lease = lease.saturating_sub(1);
            }
            node.wait = node.wait.saturating_sub(1);
            node.promise = node
                .promise
                .map(|promise| Promise { left: promise.left - 1, ..promise })
                .filter(|promise| promise.left > 0);
            node.sent.rotate_right(1);
            node.sent[0] = None;
            for late in &mut node.sent[self.window..] {
                *late = None;
            }
        }
    }

    fn restart_wait(&self, kept: bool) -> u8 {
        let longest = if kept { self.term + LONGER } else { self.term };
        if self.is(Mutation::NoRestartWait) { 0 } else { longest }
    }

    /// What a heartbeat of the node tells now.
    fn told(&self, node: &Node) -> Told {
        let more = node.lease().saturating_sub(self.term);
        match more {
            _ if node.phase => Told::Long,
            0 => Told::Usual,
            _ if self.is(Mutation::LongLeaseUntold) => Told::Usual,
            more => Told::Left(more.min(LONGER)),
        }
    }

    /// What a node does or hears; `None` if it cannot.
    fn step(&self, state: &mut State, node: usize, step: Step) -> Option<()> {
        let before = state.0[node];
        let possible = match step {
            Step::Stands => {
                state.0[node].stage = Stage::Asking;
                before.stage == Stage::Passive
            }
            Step::SendsHeartbeat => {
                let told = if self.long { self.told(&before) } else { Told::Usual };
                state.0[node].sent[0] = Some(Heartbeat { told, ..Heartbeat::default() });
                before.sent[0].is_none() && before.stage != Stage::Passive
            }
            Step::GivesUpOrHandsOver => {
                self.leave(state, node);
                before.stage != Stage::Passive
            }
            Step::LapsesEarlyByAFastClock => {
                state.0[node].stage = Stage::Active { lease: 0 };
                before.lease() > 0
            }
            Step::HearsThatItsCandidateIsIdle => {
                state.0[node].promise = None;
                before.promise.is_some_and(|promise| promise.freed)
            }
            Step::ForgetsItsPromise => {
                state.0[node].promise = None;
                self.is(Mutation::PromiseForgotten)
            }
            Step::PromisesForLess => {
                let promise = state.0[node].promise.as_mut()?;
                promise.left = promise.left.min(1);
                self.is(Mutation::PromiseShortened)
            }
            Step::RestartsAndKeepsItsLease => {
                state.0[node].promise = None;
                state.0[node].wait = self.restart_wait(before.kept);
                state.0[node].end_phase();
                before.lease() > 0
            }
            Step::Restarts => {
                self.leave(state, node);
                state.0[node].promise = None;
                state.0[node].wait = self.restart_wait(before.kept);
                true
            }
            Step::BeginsToTellALongLease => {
                state.0[node].phase = true;
                // What has left in this very tick told the usual one.
                self.long && before.lease() > 0 && !before.phase
            }
            Step::TellsALongLeaseNoMore => {
                state.0[node].end_phase();
                before.phase
            }
            Step::ShortensItsLease { votes } => {
                let [one, other] = votes;
                self.long && self.take_or_shorten(state, node, [one, other], true)
            }
            Step::WillRememberLongPromises => {
                state.0[node].kept = true;
                self.long && !before.kept
            }
            Step::HasNoLongPromiseAnyMore => {
                state.0[node].kept = false;
                let outstanding =
                    before.promise.is_some_and(|promise| promise.left > self.term) || before.wait > self.term;
                before.kept && (!outstanding || self.is(Mutation::DiskShrinksEarly))
            }
            Step::IsHeardBy { voter, age } => self.promise(state, node, on(node, voter), age),
            Step::Holds { votes } => {
                let [one, other] = votes;
                self.take(state, node, [one, other])
            }
        };
        possible.then_some(())
    }
}

/// What can happen: to a node, or the time.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Action {
    /// All clocks go on.
    Tick,
    /// To one of the nodes, which are a, b and c.
    Node(char, Step),
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Step {
    /// It becomes a candidate.
    Stands,
    SendsHeartbeat,
    GivesUpOrHandsOver,
    LapsesEarlyByAFastClock,
    HearsThatItsCandidateIsIdle,
    /// Only as a mutation.
    ForgetsItsPromise,
    /// Only as a mutation.
    PromisesForLess,
    /// A crash of the daemon, whose lease in the map the next one adopts.
    RestartsAndKeepsItsLease,
    /// A crash.
    Restarts,
    /// The phase before a restart in place.
    BeginsToTellALongLease,
    TellsALongLeaseNoMore,
    /// After it: like `Holds`, though the lease becomes shorter.
    ShortensItsLease {
        votes: [Option<usize>; 2],
    },
    /// A write to its disk.
    WillRememberLongPromises,
    /// Another.
    HasNoLongPromiseAnyMore,
    /// The voter gets its heartbeat of so many ticks ago, and promises.
    IsHeardBy {
        voter: char,
        age: usize,
    },
    /// It hears of votes for heartbeats of so many ticks ago: of the next node's, counted on from itself, and the one after.
    Holds {
        votes: [Option<usize>; 2],
    },
}

const NAMES: [char; NODES] = ['a', 'b', 'c'];

fn place(name: char) -> usize {
    NAMES.iter().position(|&other| other == name).unwrap_or_default()
}

/// How many places the voter lies further.
fn on(node: usize, voter: char) -> usize {
    (place(voter) + NODES - node) % NODES
}

impl Model for Leases {
    type State = Packed;
    type Action = Action;

    fn init_states(&self) -> Vec<Packed> {
        // Whatever was before, all have just started.
        let wait = self.restart_wait(false);
        vec![State([Node { wait, ..Node::default() }; NODES]).packed()]
    }

    fn actions(&self, _state: &Packed, actions: &mut Vec<Action>) {
        let ages = || 0..self.window;
        actions.push(Action::Tick);
        for node in 0..NODES {
            let voters = (1..NODES).map(|on| NAMES[counted_on(node, on)]);
            let heard =
                ages().flat_map(|age| voters.clone().map(move |voter| Step::IsHeardBy { voter, age }));
            let one = ages().flat_map(|age| [[Some(age), None], [None, Some(age)]]);
            let both = ages().flat_map(|age| ages().map(move |other| [Some(age), Some(other)]));
            let votes = one.chain(both);
            let holds = votes.clone().map(|votes| Step::Holds { votes });
            let shortens = votes.filter(|_| self.long).map(|votes| Step::ShortensItsLease { votes });
            let alone = [
                Step::Stands,
                Step::SendsHeartbeat,
                Step::GivesUpOrHandsOver,
                Step::LapsesEarlyByAFastClock,
                Step::HearsThatItsCandidateIsIdle,
                Step::ForgetsItsPromise,
                Step::PromisesForLess,
                Step::RestartsAndKeepsItsLease,
                Step::Restarts,
                Step::BeginsToTellALongLease,
                Step::TellsALongLeaseNoMore,
                Step::WillRememberLongPromises,
                Step::HasNoLongPromiseAnyMore,
            ];
            let steps = alone.into_iter().chain(heard).chain(holds).chain(shortens);
            actions.extend(steps.map(|step| Action::Node(NAMES[node], step)));
        }
    }

    fn next_state(&self, last: &Packed, action: Action) -> Option<Packed> {
        let before = last.unpacked();
        let mut state = before;
        match action {
            Action::Tick => self.tick(&mut state),
            Action::Node(name, step) => self.step(&mut state, place(name), step)?,
        }
        if state == before {
            return None;
        }
        // A broken rule is told with the nodes' own names.
        Some(if self.mutation.is_some() { state.packed() } else { state.representative() })
    }

    fn properties(&self) -> Vec<Property<Self>> {
        let mut properties = vec![
            Property::always(ONE_LEASE, |_, state: &Packed| state.unpacked().holders() <= 1),
            Property::sometimes(A_LEASE, |_, state: &Packed| state.unpacked().holders() == 1),
        ];
        if self.recovery.is_some() {
            properties.push(Property::always(SOON_A_LEASE, |model: &Self, state| {
                recovery::a_majority_soon_holds(model, state.unpacked())
            }));
        }
        properties
    }
}
