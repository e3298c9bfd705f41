//! What a packet costs, and what it takes to load the programs, held against their bounds.

use cluster_tests::bench_xdp::{Effort, measure};
use cluster_tests::netns::available;
use cluster_tests::programs::Programs;
use cluster_userspace::dataplane::DATAPLANE_OBJECT;

/// How many instructions the verifier may look at for one program, each as often as it comes by. Kernels give up at a million; and
/// each hundred thousand take some tenths of a second, of the two seconds that a restart in place may take.
const LOOKED_AT: u32 = 150_000;

/// A trial that the machine spoiled says nothing, so the bounds have to be met in one of a few.
#[test]
fn packets_cost_no_more_than_they_may() {
    if !available() {
        return;
    }
    let mut tables = String::new();
    for _ in 0..5 {
        let costs = measure(Effort { rounds: 15, repeat: 50_000 }).expect("measure");
        if costs.over_bound().next().is_none() {
            println!("{}", costs.markdown());
            return;
        }
        tables.push_str(&costs.markdown());
    }
    panic!("over the bounds five times in a row:\n{tables}");
}

#[test]
fn programs_are_verified_quickly() {
    if !available() {
        return;
    }
    let programs = Programs::load(DATAPLANE_OBJECT).expect("the programs");
    let looked_at = programs.looked_at().expect("what the kernel says of them");
    println!("{looked_at:?}");
    assert!(looked_at.iter().any(|(name, count)| name == "cluster_ingress" && *count > 0), "{looked_at:?}");
    assert!(looked_at.iter().all(|(_, count)| *count <= LOOKED_AT), "{looked_at:?}");
}
