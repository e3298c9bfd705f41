//! A busy machine moves nothing: short rungs of the ladder that `cargo xtask bench stress` climbs in full.

use std::time::Duration;

use cluster_tests::bench::load::Rung;
use cluster_tests::bench::stress::{Who, measure};
use cluster_tests::lab::may_run;

const EACH: Duration = Duration::from_secs(3);

#[test]
fn no_load_moves_a_role_or_takes_a_lease() {
    if !may_run("the stress ladder") {
        return;
    }
    let mut failures = Vec::new();
    for (who, rung) in [
        (Who::TwoNodes, Rung::ForkStorm),
        (Who::TwoNodes, Rung::Flood),
        (Who::ThreeNodes, Rung::CpuHogs),
        (Who::ThreeNodes, Rung::DiskWriter),
    ] {
        let cell = measure(who, rung, EACH).unwrap_or_else(|error| panic!("{who:?}, {rung:?}: {error:?}"));
        println!("{cell:?}");
        assert_eq!(cell.double_answers, 0, "{cell:?}");
        assert!(cell.asked > 1000, "the ARP probe hardly asked: {cell:?}");
        if cell.upset() && !cell.explained() {
            failures.push(cell);
        }
    }
    assert!(failures.is_empty(), "upsets that no stall of the machine explains: {failures:#?}");
}
