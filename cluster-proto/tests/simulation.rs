//! Clusters of the real core in the simulated network: the rules I1 to I5 under loss, cuts, pauses, crashes and commands,
//! and the tests of these tests.
//!
//! `CLUSTER_SIM_SEEDS` sets how many seeds each profile runs, `CLUSTER_SIM_FIRST` the first of them.

#![expect(clippy::panic, reason = "a test fails by panicking")]

use cluster_proto::Quorum;
use cluster_proto::simulation::{self, Options, Planted, Profile, Report, Rule};

/// Seeds that once broke a rule, with what they found.
const REGRESSIONS: &[(u64, Profile)] = &[
    // What a holder had granted itself alone outlived the first message heard, because it had overslept in between.
    (1724, Profile::Cuts),
    // A daemon that restarted with an adopted lease was exempt from voting while the other held, too.
    (266, Profile::Crashes),
    (494, Profile::Crashes),
    // Two that had never heard each other did not know each other's announcements.
    (109, Profile::Cuts),
    (182, Profile::Loss),
    // The peer died just after it was heard and before it voted: U left no room for a late timer.
    (43, Profile::PassiveRestarts),
    // A node without a start-up wait came back, and its first message had no vote.
    (750, Profile::PassiveRestarts),
    // Candidates waited for votes of a peer that had fallen silent.
    (0, Profile::HolderLost),
];

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok()?.parse().ok()
}

/// Runs a profile's seeds, the usual number of them or as many as were asked for.
fn simulate(profile: Profile, usual: u64) -> Report {
    let first = number("CLUSTER_SIM_FIRST").unwrap_or(100_000);
    let seeds = number("CLUSTER_SIM_SEEDS").unwrap_or(usual);
    match simulation::run_many(&[profile], first, seeds, |_, _| {}) {
        Ok(report) => report,
        Err(violation) => panic!("{violation}"),
    }
}

/// Repeats one run: the variables `CLUSTER_SIM_…` as printed by a violation.
#[test]
fn replay() {
    let Some(seed) = number("CLUSTER_SIM_SEED") else { return };
    let name = std::env::var("CLUSTER_SIM_PROFILE").unwrap_or_else(|_| "mixed".to_owned());
    let mut options = Options::new(seed, Profile::named(&name).expect("a profile's name"));
    if let Some(heartbeats) = number("CLUSTER_SIM_HEARTBEATS") {
        options.heartbeats = u32::try_from(heartbeats).expect("not so many");
    }
    if let Some(nodes) = number("CLUSTER_SIM_NODES") {
        options.nodes = usize::try_from(nodes).expect("not so many");
    }
    if let Some(witnesses) = number("CLUSTER_SIM_WITNESSES") {
        options.witnesses = usize::try_from(witnesses).expect("not so many");
    }
    if let Some(non_voters) = number("CLUSTER_SIM_NON_VOTERS") {
        options.non_voters = usize::try_from(non_voters).expect("not so many");
    }
    if let Some(groups) = number("CLUSTER_SIM_GROUPS") {
        options.groups = Some(usize::try_from(groups).expect("not so many"));
    }
    options.quorum = match std::env::var("CLUSTER_SIM_QUORUM").as_deref() {
        Ok("majority") => Some(Quorum::Majority),
        Ok("drawn") => None,
        Ok(_) | Err(_) => Some(Quorum::Off),
    };
    match simulation::run(&options) {
        Ok(report) => println!("{report:#?}"),
        Err(violation) => panic!("{violation}"),
    }
}

#[test]
fn what_was_found_once_stays_mended() {
    for &(seed, profile) in REGRESSIONS {
        if let Err(violation) = simulation::run(&Options::new(seed, profile)) {
            panic!("{violation}");
        }
    }
    // Changes of the voters that never came to their end: a node came from voters of which its disk did not say that they were
    // over, or took a peer that was not through with one change for one that had begun the next.
    for (seed, nodes, witnesses) in
        [(70_001_832, 2, 0), (80_014_080, 2, 0), (90_000_871, 3, 0), (90_001_414, 2, 1)]
    {
        let options = Options::new(seed, Profile::Reloads);
        let options = Options { nodes, witnesses, quorum: None, heartbeats: 120, ..options };
        if let Err(violation) = simulation::run(&options) {
            panic!("{violation}");
        }
    }
}

#[test]
fn equal_options_give_equal_runs() {
    let options = Options::new(7, Profile::Mixed);
    let once = format!("{:?}", simulation::run(&options));
    assert_eq!(once, format!("{:?}", simulation::run(&options)));
}

#[test]
fn calm() {
    let report = simulate(Profile::Calm, 200);
    assert!(report.leases > 0 && report.overlaps == 0 && report.rejected > 0, "{report:?}");
}

#[test]
fn passive_restarts() {
    let report = simulate(Profile::PassiveRestarts, 200);
    assert!(report.alone > 0 && report.overlaps == 0, "{report:?}");
}

#[test]
fn loss() {
    let report = simulate(Profile::Loss, 250);
    assert!(report.lapses > 0 && report.regained > 0 && report.overlaps > 0, "{report:?}");
}

#[test]
fn cuts() {
    let report = simulate(Profile::Cuts, 250);
    assert!(report.dual_holders > 0 && report.probes_answered > 0 && report.service_cuts > 0, "{report:?}");
}

#[test]
fn pauses() {
    let report = simulate(Profile::Pauses, 250);
    assert!(report.overslept > 0 && report.failovers > 0 && report.rejected > 0, "{report:?}");
}

#[test]
fn crashes() {
    let report = simulate(Profile::Crashes, 250);
    assert!(report.adopted > 0 && report.failovers > 0 && report.alone > 0, "{report:?}");
}

#[test]
fn hosts() {
    let report = simulate(Profile::Hosts, 200);
    assert!(report.service_cuts > 0 && report.failovers > 0, "{report:?}");
}

#[test]
fn commands() {
    let report = simulate(Profile::Commands, 250);
    assert!(report.done > 0 && report.refused > 0 && report.handovers > 0, "{report:?}");
}

#[test]
fn holder_lost() {
    let report = simulate(Profile::HolderLost, 300);
    assert!(report.failovers > 0 && report.handovers > 0 && report.outage.is_some(), "{report:?}");
}

#[test]
fn partitions() {
    let report = simulate(Profile::Partitions, 100);
    assert!(report.dual_holders > 0 && report.alone > 0, "{report:?}");
}

#[test]
fn edges() {
    let report = simulate(Profile::Edges, 200);
    assert!(report.failovers > 0 && report.adopted > 0 && report.lapses > 0, "{report:?}");
}

/// Two hold only while both reach the gateway, and somebody serves once all is mended.
#[test]
fn gateway() {
    let report = simulate(Profile::Gateway, 300);
    assert!(report.alone > 0 && report.failovers > 0 && report.overlaps > 0, "{report:?}");
}

/// Spares take no more than they may, and all groups are served as soon as somebody can.
#[test]
fn spares() {
    let mut sum = Report::default();
    for seed in 0..number("CLUSTER_SIM_SEEDS").unwrap_or(60) {
        let seed = number("CLUSTER_SIM_FIRST").unwrap_or(200_000) + seed;
        let nodes = if seed.is_multiple_of(2) { 3 } else { 5 };
        match simulation::run(&Options::majority(seed, Profile::Spares, nodes, 0)) {
            Ok(report) => sum.add(&report),
            Err(violation) => panic!("{violation}"),
        }
    }
    assert!(sum.failovers > 0 && sum.quiet > 0 && sum.overlaps == 0, "{sum:?}");
}

#[test]
fn spares_that_take_too_much_are_caught() {
    let found = (0..400).find_map(|seed| {
        let planted = Some(Planted::CapacityForgotten);
        let options = Options { planted, ..Options::majority(seed, Profile::Spares, 5, 0) };
        Some(simulation::run(&options).err()?.rule)
    });
    assert_eq!(found, Some(Rule::Capacity));
}

#[test]
fn a_gateway_that_is_not_there_is_caught() {
    let found = caught(Planted::GatewayForged, Profile::Gateway, None);
    assert!(matches!(found, Some((Rule::OneHolder, _))), "{found:?}");
}

/// Whoever is replaced in place serves on, or votes on, and nothing moves, no lease has a gap.
#[test]
fn restarts() {
    let report = simulate(Profile::Restarts, 150);
    assert!(report.holders_replaced > 50 && report.replaced > 100, "{report:?}");
    assert_eq!(report.overlaps, 0, "{report:?}");
}

#[test]
fn failed_restarts() {
    let report = simulate(Profile::FailedRestarts, 150);
    assert!(report.holders_replaced > 30 && report.failovers > 0 && report.refused > 0, "{report:?}");
}

#[test]
fn mixed() {
    let report = simulate(Profile::Mixed, 300);
    assert!(report.dual_holders > 0 && report.adopted > 0 && report.handovers > 0, "{report:?}");
}

/// Nodes, witnesses and nodes without a vote of the clusters that decide by majority.
const CLUSTERS: [(usize, usize, usize); 5] = [(3, 0, 0), (5, 0, 0), (2, 1, 0), (4, 0, 1), (2, 0, 0)];

/// Runs some seeds of a profile in clusters that decide by majority.
fn by_majority(profile: Profile, seeds: u64) -> Report {
    let mut sum = Report::default();
    for seed in 0..number("CLUSTER_SIM_SEEDS").unwrap_or(seeds) {
        for (nodes, witnesses, non_voters) in CLUSTERS {
            let seed = number("CLUSTER_SIM_FIRST").unwrap_or(200_000) + seed;
            let options = Options { non_voters, ..Options::majority(seed, profile, nodes, witnesses) };
            match simulation::run(&options) {
                Ok(report) => sum.add(&report),
                Err(violation) => panic!("{violation}"),
            }
        }
    }
    assert!(sum.leases > 0 && sum.overlaps == 0, "{sum:?}");
    sum
}

#[test]
fn majority_calm() {
    by_majority(Profile::Calm, 8);
}

#[test]
fn majority_passive_restarts() {
    by_majority(Profile::PassiveRestarts, 8);
}

#[test]
fn majority_loss() {
    let report = by_majority(Profile::Loss, 12);
    assert!(report.lapses > 0 && report.failovers > 0, "{report:?}");
}

#[test]
fn majority_cuts() {
    let report = by_majority(Profile::Cuts, 12);
    assert!(report.failovers > 0 && report.quiet > 0, "{report:?}");
}

#[test]
fn majority_partitions() {
    let report = by_majority(Profile::Partitions, 20);
    assert!(report.failovers > 0 && report.lapses > 0 && report.quiet > 10, "{report:?}");
}

#[test]
fn majority_pauses() {
    let report = by_majority(Profile::Pauses, 12);
    assert!(report.overslept > 0 && report.failovers > 0, "{report:?}");
}

#[test]
fn majority_crashes() {
    let report = by_majority(Profile::Crashes, 12);
    assert!(report.adopted > 0 && report.failovers > 0, "{report:?}");
}

#[test]
fn majority_hosts() {
    let report = by_majority(Profile::Hosts, 8);
    assert!(report.failovers > 0, "{report:?}");
}

#[test]
fn majority_commands() {
    let report = by_majority(Profile::Commands, 12);
    assert!(report.done > 0 && report.refused > 0 && report.handovers > 0, "{report:?}");
}

#[test]
fn majority_holder_lost() {
    let report = by_majority(Profile::HolderLost, 12);
    assert!(report.failovers > 0 && report.outage.is_some(), "{report:?}");
}

#[test]
fn majority_edges() {
    let report = by_majority(Profile::Edges, 20);
    assert!(report.failovers > 0 && report.lapses > 0, "{report:?}");
}

#[test]
fn majority_restarts() {
    let report = by_majority(Profile::Restarts, 12);
    assert!(report.holders_replaced > 20 && report.replaced > 50, "{report:?}");
}

#[test]
fn majority_failed_restarts() {
    let report = by_majority(Profile::FailedRestarts, 20);
    assert!(report.holders_replaced > 10 && report.failovers > 0 && report.quiet == 0, "{report:?}");
}

#[test]
fn majority_mixed() {
    let report = by_majority(Profile::Mixed, 20);
    assert!(report.failovers > 0 && report.handovers > 0, "{report:?}");
}

/// As many hosts as a cluster may have, nine of them with a vote.
#[test]
fn thirty_two_nodes() {
    for profile in [Profile::Calm, Profile::Partitions] {
        let options = Options { heartbeats: 40, ..Options::majority(1, profile, 32, 0) };
        match simulation::run(&options) {
            Ok(report) => assert!(report.leases > 0 && report.overlaps == 0, "{report:?}"),
            Err(violation) => panic!("{violation}"),
        }
    }
}

/// Voters and timings change, one file after the other, while hosts crash and the network falls apart.
#[test]
fn reloads() {
    let mut sum = Report::default();
    for seed in 0..number("CLUSTER_SIM_SEEDS").unwrap_or(150) {
        let (nodes, witnesses) = [(3, 0), (4, 0), (5, 0), (2, 1), (3, 2), (7, 0)][(seed % 6) as usize];
        match simulation::run(&Options::majority(seed, Profile::Reloads, nodes, witnesses)) {
            Ok(report) => sum.add(&report),
            Err(violation) => panic!("{violation}"),
        }
    }
    assert!(sum.reloads > 500 && sum.tenures > 300, "{sum:?}");
}

/// All timings change by reload, and groups and nodes without a vote come and go, some in clusters of so many groups that
/// heartbeats are split.
#[test]
fn timings() {
    let mut sum = Report::default();
    for seed in 0..number("CLUSTER_SIM_SEEDS").unwrap_or(150) {
        let (nodes, witnesses, non_voters) =
            [(3, 0, 0), (5, 0, 2), (2, 1, 0), (4, 0, 1), (2, 0, 0), (3, 2, 0)][(seed % 6) as usize];
        let options = Options {
            non_voters,
            quorum: None,
            ..Options::majority(seed, Profile::Timings, nodes, witnesses)
        };
        match simulation::run(&options) {
            Ok(report) => sum.add(&report),
            Err(violation) => panic!("{violation}"),
        }
    }
    assert!(sum.reloads > 500 && sum.tenures > 300, "{sum:?}");
}

/// The last words of an earlier run arrive after the first of a later one, and must not take its place for good.
#[test]
fn late_words_of_an_earlier_run() {
    if let Err(violation) = simulation::run(&Options::majority(2244, Profile::Reloads, 3, 0)) {
        panic!("{violation}");
    }
}

/// Without quorum, and with a vote for one of two nodes only, that one waits for nobody's.
#[test]
fn the_only_voter_of_two_takes_the_group() {
    for seed in [20_000_070, 20_000_071, 20_000_072] {
        let options =
            Options { quorum: Some(Quorum::Off), non_voters: 1, ..Options::new(seed, Profile::Calm) };
        match simulation::run(&options) {
            Ok(report) => assert!(report.leases > 0, "{report:?}"),
            Err(violation) => panic!("{violation}"),
        }
    }
    for (seed, heartbeats) in [(20_000_070, 120), (20_013_954, 11), (30_006_222, 120)] {
        let options = Options { quorum: None, heartbeats, ..Options::new(seed, Profile::Reloads) };
        if let Err(violation) = simulation::run(&options) {
            panic!("{violation}");
        }
    }
}

/// Three of five asked for a restart at the same moment, and all of them went.
#[test]
fn no_more_are_replaced_at_once_than_a_holder_can_miss() {
    let options = Options { quorum: None, ..Options::majority(20_003_420, Profile::Restarts, 4, 1) };
    if let Err(violation) = simulation::run(&options) {
        panic!("{violation}");
    }
}

/// Voters that change without regard to those before elect two.
#[test]
fn a_naive_change_of_voters_is_caught() {
    let found = (0..600).find_map(|seed| {
        let options = Options {
            planted: Some(Planted::NaiveReload),
            ..Options::majority(seed, Profile::Reloads, 5, 0)
        };
        simulation::run(&options).err().map(|violation| violation.rule)
    });
    assert_eq!(found, Some(Rule::OneHolder));
}

/// Claims and votes for so many groups fit no datagram: heartbeats are split, parts get lost, and differences suffice.
#[test]
fn many_groups() {
    let mut sum = Report::default();
    for profile in [Profile::Calm, Profile::Loss, Profile::Partitions, Profile::Crashes, Profile::Commands] {
        for (seed, (nodes, groups)) in (0..).zip([(3, 130), (2, 256), (5, 60)]) {
            let options = Options {
                heartbeats: 25,
                groups: Some(groups),
                quorum: (nodes > 2).then_some(Quorum::Majority),
                ..Options::majority(seed, profile, nodes, 0)
            };
            match simulation::run(&options) {
                Ok(report) => {
                    assert!(report.tenures >= groups as u64, "{report:?}");
                    sum.add(&report);
                }
                Err(violation) => panic!("{violation}"),
            }
        }
    }
    assert!(sum.failovers > 100 && sum.lost > 100, "{sum:?}");
}

/// A cluster of one serves, renews alone, and takes the group up again after every stall and crash.
#[test]
fn one_node_alone() {
    for profile in [Profile::Calm, Profile::Pauses, Profile::Crashes, Profile::Hosts, Profile::Commands] {
        for seed in 0..40 {
            let options = Options { nodes: 1, ..Options::new(seed, profile) };
            match simulation::run(&options) {
                Ok(report) => assert!(report.leases > 0, "{report:?}"),
                Err(violation) => panic!("{violation}"),
            }
        }
    }
}

/// While something else is wrong, not only in the end.
#[test]
fn a_majority_that_elects_nobody_is_caught() {
    let found = caught_by_majority(Planted::VotesWithheld, Profile::Partitions, None);
    assert!(
        matches!(&found, Some((Rule::SomebodyServes, what)) if what.contains("have heard one another")),
        "{found:?}"
    );
}

#[test]
fn a_violation_shrinks_and_is_told() {
    let big =
        Options { planted: Some(Planted::LongLeases), ..Options::majority(3, Profile::Partitions, 5, 1) };
    let found = simulation::run(&big).expect_err("the planted bug is in every lease");
    let small = simulation::shrink(found);
    assert_eq!(small.rule, Rule::StalledIsDark);
    assert!(
        small.options.nodes < 5 && small.options.witnesses == 0 && small.options.heartbeats < 20,
        "{small}"
    );
    let (lines, outcome) = simulation::replay(&small.options, usize::MAX);
    assert!(matches!(outcome, Err((Rule::StalledIsDark, _))), "{outcome:?}");
    assert!(lines.iter().any(|line| line.contains("LEASE group 0")), "{lines:#?}");
}

/// The rule that some cluster of three, or of two and a witness, sees broken by the planted bug.
fn caught_by_majority(planted: Planted, profile: Profile, unchecked: Option<Rule>) -> Option<(Rule, String)> {
    (0..400).find_map(|seed| {
        let (nodes, witnesses) = if seed % 2 == 0 { (3, 0) } else { (2, 1) };
        let options = Options {
            planted: Some(planted),
            unchecked,
            ..Options::majority(seed, profile, nodes, witnesses)
        };
        let violation = simulation::run(&options).err()?;
        Some((violation.rule, violation.what))
    })
}

/// The bugs that make two holders of a majority, each with what else would have noticed it first.
#[test]
fn two_holders_by_majority_are_caught() {
    for (planted, profile, unchecked) in [
        (Planted::VotesForAll, Profile::Partitions, None),
        (Planted::StaleCounted, Profile::Mixed, None),
        (Planted::PromisesForgotten, Profile::Crashes, None),
        (Planted::UnacknowledgedRenewal, Profile::Partitions, None),
        (Planted::LapsedLeasesRenewed, Profile::Pauses, None),
        (Planted::DarkIgnored, Profile::Commands, None),
        (Planted::LeaseAsLongAsPromise, Profile::Edges, Some(Rule::StalledIsDark)),
    ] {
        let found = caught_by_majority(planted, profile, unchecked);
        assert!(matches!(found, Some((Rule::OneHolder, _))), "{planted:?}: {found:?}");
    }
    for planted in [Planted::MemoryLies, Planted::LongLeaseUntold] {
        let found = caught_by_majority(planted, Profile::FailedRestarts, None);
        assert!(matches!(found, Some((Rule::OneHolder, _))), "{planted:?}: {found:?}");
    }
    let found = caught_by_majority(Planted::LeaseAsLongAsPromise, Profile::Partitions, None);
    assert!(matches!(found, Some((Rule::StalledIsDark, _))), "{found:?}");
}

/// The rule that some seed of the profile sees broken by the planted bug, and what was seen.
fn caught(planted: Planted, profile: Profile, unchecked: Option<Rule>) -> Option<(Rule, String)> {
    (0..600).find_map(|seed| {
        let options = Options { planted: Some(planted), unchecked, ..Options::new(seed, profile) };
        let violation = simulation::run(&options).err()?;
        assert!(violation.to_string().contains(&format!("CLUSTER_SIM_SEED={seed} ")), "{violation}");
        assert!(!violation.timeline.is_empty());
        Some((violation.rule, violation.what))
    })
}

#[test]
fn a_lease_longer_than_the_dead_time_is_caught() {
    let found = caught(Planted::LongLeases, Profile::Pauses, None);
    assert!(matches!(found, Some((Rule::StalledIsDark, _))), "{found:?}");
    // And by its consequence, if nobody looks at the leases themselves.
    let found = caught(Planted::LongLeases, Profile::Edges, Some(Rule::StalledIsDark));
    assert!(matches!(found, Some((Rule::OneHolder, _))), "{found:?}");
}

#[test]
fn the_renewal_of_a_lapsed_lease_is_caught() {
    let found = caught(Planted::LapsedLeasesRenewed, Profile::Pauses, None);
    assert!(matches!(found, Some((Rule::OneHolder, _))), "{found:?}");
}

#[test]
fn a_renewal_that_nobody_acknowledged_is_caught() {
    let found = caught(Planted::UnacknowledgedRenewal, Profile::Cuts, None);
    assert!(matches!(found, Some((Rule::OneHolder, _))), "{found:?}");
}

#[test]
fn a_lease_counted_from_the_acknowledgement_is_caught() {
    let found = caught(Planted::TimeTakenLate, Profile::Edges, None);
    assert!(matches!(found, Some((Rule::OneHolder, _))), "{found:?}");
}

#[test]
fn a_map_that_stays_lit_is_caught() {
    let found = caught(Planted::DarkIgnored, Profile::Commands, None);
    assert!(matches!(found, Some((Rule::OneHolder, _))), "{found:?}");
}

#[test]
fn a_restart_without_the_wait_is_caught() {
    let found = caught(Planted::PromisesForgotten, Profile::Crashes, None);
    assert!(matches!(found, Some((Rule::OneHolder, _))), "{found:?}");
    let found = caught(Planted::PromisesForgotten, Profile::PassiveRestarts, None);
    assert!(matches!(found, Some((Rule::NoMove, _))), "{found:?}");
}

#[test]
fn epochs_that_are_not_on_disk_are_caught() {
    let found = caught(Planted::DiskLies, Profile::Crashes, None);
    assert!(matches!(found, Some((Rule::MapFollows, _))), "{found:?}");
}
