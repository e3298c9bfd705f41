//! A model of the protocol by majority, every state of which is visited. It is written from the rules (`docs/quorum.md`),
//! not from the code.
//!
//! `CLUSTER_MODEL=large` visits a larger one, which takes minutes and some gigabytes. With restarts in place even the small one
//! has tens of millions of states: without it only the nearest of them are visited, and mutations of restarts are left to the
//! simulation.

mod leases;
mod recovery;

use leases::{A_LEASE, Leases, MUTATIONS, MUTATIONS_OF_RESTARTS, ONE_LEASE, SOON_A_LEASE};
use recovery::Stubbornness;
use stateright::{Checker, HasDiscoveries, Model};

fn large() -> bool {
    std::env::var("CLUSTER_MODEL").is_ok_and(|size| size == "large")
}

/// States that are visited with restarts in place, unless the large model is.
const NEAREST: usize = 2_000_000;

fn checked(model: Leases, until: HasDiscoveries) -> impl Checker<Leases> {
    let processors = std::thread::available_parallelism().map_or(1, usize::from);
    let nearest = model.long && !large();
    let mut checker = model.checker().threads(processors).finish_when(until);
    if nearest {
        checker = checker.target_state_count(NEAREST);
    }
    let checker = checker.spawn_bfs().join();
    println!("{} states", checker.unique_state_count());
    checker
}

#[test]
fn there_are_never_two_leases() {
    let (term, window) = if large() { (5, 4) } else { (4, 3) };
    println!("leases of {term} ticks, messages of up to {window}");
    let checker = checked(
        Leases { term, window, long: false, mutation: None, recovery: None },
        HasDiscoveries::AnyFailures,
    );
    checker.assert_no_discovery(ONE_LEASE);
    checker.assert_any_discovery(A_LEASE);
    assert!(checker.is_done());
}

#[test]
fn every_mutation_is_found() {
    for mutation in MUTATIONS {
        println!("{mutation:?}");
        let model = Leases { term: 2, window: 2, long: false, mutation: Some(mutation), recovery: None };
        let checker = checked(model, HasDiscoveries::AnyFailures);
        let path = checker.assert_any_discovery(ONE_LEASE);
        println!("{:#?}", path.into_actions());
    }
}

/// Leases become longer for a restart in place, and shorter after it.
#[test]
fn there_are_never_two_leases_with_restarts_in_place() {
    let model = Leases { term: 2, window: 2, long: true, mutation: None, recovery: None };
    let checker = checked(model, HasDiscoveries::AnyFailures);
    checker.assert_no_discovery(ONE_LEASE);
    checker.assert_any_discovery(A_LEASE);
}

#[test]
fn every_mutation_of_restarts_in_place_is_found() {
    if !large() {
        eprintln!("mutations of restarts in place are looked for with CLUSTER_MODEL=large: left out");
        return;
    }
    for mutation in MUTATIONS_OF_RESTARTS {
        println!("{mutation:?}");
        let model = Leases { term: 2, window: 2, long: true, mutation: Some(mutation), recovery: None };
        let checker = checked(model, HasDiscoveries::AnyFailures);
        let path = checker.assert_any_discovery(ONE_LEASE);
        println!("{:#?}", path.into_actions());
    }
}

#[test]
fn from_every_state_a_majority_in_hearing_soon_holds() {
    let model = Leases { term: 3, window: 3, long: false, mutation: None, recovery: Some(None) };
    let checker = checked(model, HasDiscoveries::AnyFailures);
    checker.assert_properties();
}

#[test]
fn a_majority_that_is_stubborn_is_found() {
    for stubborn in [Stubbornness::NeverWithdraws, Stubbornness::NeverForgives] {
        println!("{stubborn:?}");
        let model =
            Leases { term: 2, window: 2, long: false, mutation: None, recovery: Some(Some(stubborn)) };
        let checker = checked(model, HasDiscoveries::AnyFailures);
        checker.assert_any_discovery(SOON_A_LEASE);
    }
}
