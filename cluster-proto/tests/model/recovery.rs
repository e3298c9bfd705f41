//! What follows when all goes well from some state on: somebody among those that hear each other holds soon.
//!
//! Here nodes do what `docs/election.md` says they do, not merely what they may: each tick every heartbeat and vote
//! arrives at once.

use super::leases::{Heartbeat, Leases, NODES, Stage, State};

/// What is wrong with how nodes go on, to see that it is found.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Stubbornness {
    /// A candidate does not withdraw for a better-ranked one.
    NeverWithdraws,
    /// A voter whose candidate is idle waits for the end of its promise, and then votes for nobody for as long.
    NeverForgives,
}

/// The nodes that hear each other and nobody else, the better-ranked first.
const MAJORITIES: [&[usize]; 9] =
    [&[0, 1, 2], &[2, 1, 0], &[1, 2, 0], &[0, 1], &[1, 0], &[1, 2], &[2, 1], &[0, 2], &[2, 0]];

/// Whether each majority has a lease in time: when a voter's wait after a restart, or its promise to one that is not
/// heard, is over.
pub(crate) fn a_majority_soon_holds(model: &Leases, state: State) -> bool {
    let limit = u32::from(model.term);
    MAJORITIES.iter().all(|nodes| ticks_until_held(model, state, nodes, limit).is_some())
}

/// Ticks until one of these nodes has a lease.
fn ticks_until_held(model: &Leases, mut state: State, nodes: &[usize], limit: u32) -> Option<u32> {
    let held = |state: &State| nodes.iter().any(|&node| state.lease(node) > 0);
    for ticks in 0..=limit {
        if !held(&state) {
            go_on(model, &mut state, nodes);
        }
        if held(&state) {
            return Some(ticks);
        }
        model.tick(&mut state);
    }
    None
}

/// One round of heartbeats and votes, the better-ranked first.
fn go_on(model: &Leases, state: &mut State, nodes: &[usize]) {
    let stubborn = |how| model.recovery == Some(Some(how));
    for &node in nodes {
        let voter = &mut state.0[node];
        let heard = |peer: usize| nodes.contains(&((node + peer) % NODES));
        if voter.promise.is_some_and(|promise| promise.freed && heard(promise.peer)) {
            voter.promise = None;
            if stubborn(Stubbornness::NeverForgives) {
                voter.wait = model.term;
            }
        }
    }
    let lapsed = nodes.iter().copied().find(|&node| matches!(state.0[node].stage, Stage::Active { .. }));
    let candidate = nodes.iter().copied().find(|&node| {
        let free = state.0[node].promise.is_none() && state.0[node].wait == 0;
        state.0[node].stage == Stage::Asking || state.0[node].stage == Stage::Passive && free
    });
    let Some(speaker) = lapsed.or(candidate) else { return };
    for &other in nodes {
        let withdraws = match state.0[other].stage {
            Stage::Passive => false,
            Stage::Asking => !stubborn(Stubbornness::NeverWithdraws),
            // Two that have lapsed: one yields to the other's higher epoch.
            Stage::Active { .. } => true,
        };
        if other != speaker && withdraws {
            model.leave(state, other);
        }
    }
    if state.0[speaker].stage == Stage::Passive {
        state.0[speaker].stage = Stage::Asking;
    }
    state.0[speaker].sent[0] = Some(Heartbeat::default());
    for on in 1..NODES {
        if nodes.contains(&((speaker + on) % NODES)) {
            model.promise(state, speaker, on, 0);
        }
    }
    for ages in [[Some(0), None], [None, Some(0)], [Some(0), Some(0)]] {
        model.take(state, speaker, ages);
    }
}
