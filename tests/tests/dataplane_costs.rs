//! What a packet costs, held against its bounds.

use cluster_tests::bench_xdp::{Effort, measure};
use cluster_tests::netns::available;

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
