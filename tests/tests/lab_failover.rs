//! What a client sees when a node fails: outages in the median, safety in every single trial.

use std::time::Duration;

use cluster_tests::lab::clock::{Window, await_true};
use cluster_tests::lab::probe::Announcements;
use cluster_tests::lab::{ClusterSettings, Family, Lab, Link, Moment, Timing, may_run};
use cluster_tests::scene::{SOON, Scene, Trial, median, trials};
use nix::sys::signal::Signal;

/// Prints the trials and checks their median outage, less what the machine stood still for in each.
fn check(what: &str, bound: Duration, trials: &[Trial]) {
    let seen = |of: &dyn Fn(&Trial) -> Duration| median(trials.iter().map(of).collect());
    let (outage, stall, own) =
        (seen(&|trial| trial.outage.length), seen(&|trial| trial.stall), seen(&Trial::own));
    let worst = trials.iter().map(|trial| trial.outage.length).max().unwrap_or_default();
    println!(
        "{what}: {} trials, median outage {outage:?}, worst {worst:?}; median stall of the machine {stall:?}, median \
         without stalls {own:?}",
        trials.len()
    );
    assert!(
        own <= bound,
        "{what}: the median outage is {own:?} without stalls, more than {bound:?}: {trials:#?}"
    );
}

fn silent_cuts(family: Family, timing: Timing, bound: Duration) {
    if !may_run("failover by a silent cut") {
        return;
    }
    let lab = Lab::new().expect("a lab");
    let settings = ClusterSettings::with(timing).in_family(family);
    let mut scene = Scene::start(&lab, &settings).expect("a cluster");
    let mut seen = Vec::new();
    for _ in 0..trials(9) {
        let active = scene.settle().expect("a settled cluster");
        let other = scene.cluster.other(&active);
        seen.push(scene.trial(other, |scene| scene.lab.cut_all(&active)).expect("a takeover"));
        lab.mend_all().expect("mended links");
    }
    check("silent cut", bound, &seen);
}

#[test]
fn a_silent_cut_at_normal_timing_costs_at_most_60_ms() {
    silent_cuts(Family::Ipv4, Timing::NORMAL, Duration::from_millis(60));
}

#[test]
fn a_silent_cut_at_fast_timing_costs_at_most_8_ms() {
    silent_cuts(Family::Ipv4, Timing::FAST, Duration::from_millis(8));
}

#[test]
fn a_cut_of_the_service_link_alone_moves_the_group_within_150_ms() {
    service_link_cuts(Family::Ipv4);
}

fn service_link_cuts(family: Family) {
    if !may_run("failover by a cut of the service link") {
        return;
    }
    let lab = Lab::new().expect("a lab");
    let mut scene = Scene::start(&lab, &ClusterSettings::of(family)).expect("a cluster");
    let mut seen = Vec::new();
    for _ in 0..trials(7) {
        let active = scene.settle().expect("a settled cluster");
        // Whom to ask is passed on five times a second.
        (Moment::now() + Duration::from_millis(400)).sleep();
        let other = scene.cluster.other(&active);
        seen.push(scene.trial(other, |scene| scene.lab.cut(&active, Link::Public)).expect("a takeover"));
        lab.mend_all().expect("mended links");
    }
    check("service link cut", Duration::from_millis(150), &seen);
    scene.never_two_answers().expect("one answer at most");
}

#[test]
fn lost_carrier_moves_the_group() {
    carrier_losses(Family::Ipv4);
}

fn carrier_losses(family: Family) {
    if !may_run("failover by carrier loss") {
        return;
    }
    let lab = Lab::new().expect("a lab");
    let mut scene = Scene::start(&lab, &ClusterSettings::of(family)).expect("a cluster");
    let mut seen = Vec::new();
    for _ in 0..trials(5) {
        let active = scene.settle().expect("a settled cluster");
        let other = scene.cluster.other(&active);
        seen.push(
            scene.trial(other, |scene| scene.lab.carrier(&active, Link::Public, false)).expect("a takeover"),
        );
        scene.cluster.await_role(&active, "fault", SOON).expect("the node without carrier in fault");
        lab.mend_all().expect("mended links");
    }
    check("carrier lost", Duration::from_millis(60), &seen);
    scene.never_two_answers().expect("one answer at most");
}

/// Kills or stops the active daemon again and again: never two answers, nothing from the old node after its lease.
fn killed_or_stopped(family: Family, signal: Signal, count: usize) {
    if !may_run("failover of a daemon that is killed or stopped") {
        return;
    }
    let timing = Timing::NORMAL;
    let lab = Lab::new().expect("a lab");
    let settings = ClusterSettings::with(timing).in_family(family);
    let mut scene = Scene::start(&lab, &settings).expect("a cluster");
    let mut seen = Vec::new();
    for _ in 0..trials(count) {
        let active = scene.settle().expect("a settled cluster");
        let other = scene.cluster.other(&active);
        let mut at = Moment::now();
        let trial = scene.trial(other, |scene| {
            at = scene.cluster.daemon(&active)?.signal(signal)?;
            Ok(())
        });
        let trial = trial.expect("a takeover");
        // Its last lease was written before the signal; the signal itself arrives within the call. What has left may take as
        // long to the switch port as the machine stands still.
        let dark = Window::since(at + timing.lease + Duration::from_millis(1) + trial.stall);
        seen.push(trial);
        scene.silent(&active, dark).expect("a dark node");
        if signal == Signal::SIGKILL {
            scene.cluster.daemon(&active).and_then(|daemon| daemon.await_end(SOON)).expect("a dead daemon");
            scene.cluster.start(&active).expect("a restarted daemon");
        } else {
            let woken = Moment::now();
            scene
                .cluster
                .daemon(&active)
                .and_then(|daemon| daemon.signal(Signal::SIGCONT))
                .expect("a woken daemon");
            scene.cluster.await_role(&active, "passive", SOON).expect("the woken node passive");
            (Moment::now() + timing.dead_after * 2).sleep();
            scene.silent(&active, Window::since(woken)).expect("a woken node that stays dark");
        }
    }
    scene.never_two_answers().expect("one answer at most");
    check(signal.as_str(), Duration::from_millis(60), &seen);
}

#[test]
fn a_killed_daemon_goes_dark_and_the_other_serves_within_60_ms() {
    killed_or_stopped(Family::Ipv4, Signal::SIGKILL, 20);
}

#[test]
fn a_stopped_daemon_goes_dark_and_stays_so_when_it_is_woken() {
    killed_or_stopped(Family::Ipv4, Signal::SIGSTOP, 20);
}

#[test]
fn planned_moves_cost_at_most_3_ms() {
    planned_moves(Family::Ipv4, 9);
}

fn planned_moves(family: Family, count: usize) {
    if !may_run("planned moves") {
        return;
    }
    let lab = Lab::new().expect("a lab");
    let mut scene = Scene::start(&lab, &ClusterSettings::of(family)).expect("a cluster");
    let bound = Duration::from_millis(3);
    for (what, own) in [("demote", true), ("promote", false)] {
        let mut seen = Vec::new();
        for _ in 0..trials(count) {
            let active = scene.settle().expect("a settled cluster");
            let other = scene.cluster.other(&active);
            let asked = if own { active.as_str() } else { other };
            let trial = scene.trial(other, |scene| {
                let output = scene.cluster.clusterctl(asked, &[what, "web"])?;
                anyhow::ensure!(output.status.success(), "{output:?}");
                Ok(())
            });
            seen.push(trial.expect("a move"));
        }
        check(what, bound, &seen);
    }
    let mut seen = Vec::new();
    for _ in 0..trials(count) {
        let active = scene.settle().expect("a settled cluster");
        let other = scene.cluster.other(&active);
        let trial = scene.trial(other, |scene| {
            let (_, status) = scene.cluster.stop(&active)?;
            anyhow::ensure!(status.success(), "{status}: {}", scene.cluster.output(&active));
            Ok(())
        });
        seen.push(trial.expect("a move"));
        scene.cluster.start(&active).expect("a restarted daemon");
    }
    check("SIGTERM", bound, &seen);
    scene.never_two_answers().expect("one answer at most");
}

/// Moves of every kind, each of which the node that takes over announces, and nobody else.
fn announced_moves(family: Family) {
    if !may_run("announcements of moves") {
        return;
    }
    let lab = Lab::new().expect("a lab");
    let mut scene = Scene::start(&lab, &ClusterSettings::of(family)).expect("a cluster");
    let announcements = Announcements::start(&lab).expect("a listener");
    for fault in ["promote", "demote", "kill"] {
        let active = scene.settle().expect("a settled cluster");
        let other = scene.cluster.other(&active);
        let from = Moment::now();
        let moved = scene.trial(other, |scene| match fault {
            "kill" => scene.cluster.kill(&active).map(drop),
            command => {
                let asked = if command == "promote" { other } else { &active };
                let output = scene.cluster.clusterctl(asked, &[command, "web"])?;
                anyhow::ensure!(output.status.success(), "{output:?}");
                Ok(())
            }
        });
        moved.expect("a takeover");
        let announcers = || announcements.announcers(Window::since(from));
        await_true("an announcement", SOON, || announcers().contains(other)).expect("an announcement");
        // It is repeated for some seconds; whoever else would announce has had his time.
        (Moment::now() + Duration::from_secs(1)).sleep();
        let heard = announcements.heard_since_first_of(other, Window::since(from));
        let right = |told: &cluster_tests::lab::probe::announcements::Announcement| {
            told.node == other && told.address == family.vip() && told.mac == told.source
        };
        assert!(heard.iter().all(right), "{fault}: {heard:?}");
        let first = heard.first().map(|told| told.at.since(from));
        println!("{fault}: {} announcements by {other}, the first after {first:?}", heard.len());
        if fault == "kill" {
            scene.cluster.start(&active).expect("a restarted daemon");
        }
    }
    assert_eq!(announcements.lost(), 0);
    scene.never_two_answers().expect("one answer at most");
}

#[test]
fn a_move_is_announced_by_the_new_holder_alone() {
    announced_moves(Family::Ipv4);
}

#[test]
fn restarts_of_the_passive_daemon_lose_no_request() {
    passive_restarts(Family::Ipv4);
}

fn passive_restarts(family: Family) {
    if !may_run("restarts of the passive daemon") {
        return;
    }
    let lab = Lab::new().expect("a lab");
    let mut scene = Scene::start(&lab, &ClusterSettings::of(family)).expect("a cluster");
    let active = scene.settle().expect("a settled cluster");
    let passive = scene.cluster.other(&active);
    let from = Moment::now();
    for _ in 0..trials(5) {
        scene.cluster.kill(passive).expect("a killed daemon");
        (Moment::now() + Duration::from_millis(300)).sleep();
        scene.cluster.start(passive).expect("a restarted daemon");
        scene.cluster.await_role(passive, "passive", SOON).expect("the restarted node passive");
    }
    (Moment::now() + Duration::from_millis(300)).sleep();
    let outage = scene.outage_since(from);
    println!(
        "restarts of the passive daemon: {} requests lost, longest gap {:?}",
        outage.lost, outage.length
    );
    assert_eq!(outage.lost, 0, "{outage:?}");
    assert_eq!(scene.cluster.role(&active).expect("a role"), "active");
}

#[test]
fn a_crashed_active_daemon_is_back_within_its_lease_and_loses_no_request() {
    active_crashes(Family::Ipv4, 2);
}

fn active_crashes(family: Family, count: usize) {
    if !may_run("a crash and restart of the active daemon") {
        return;
    }
    let lab = Lab::new().expect("a lab");
    let settings = ClusterSettings::with(Timing::millis(100, 2500, 2000)).in_family(family);
    let mut scene = Scene::start(&lab, &settings).expect("a cluster");
    let active = scene.settle().expect("a settled cluster");
    let epoch = scene.cluster.group(&active).expect("a group")["epoch"].clone();
    let from = Moment::now();
    for _ in 0..trials(count) {
        scene.cluster.kill(&active).expect("a killed daemon");
        scene.cluster.start(&active).expect("a restarted daemon");
        scene.cluster.await_role(&active, "active", SOON).expect("the lease adopted");
        // Whoever would take over does so within the dead time.
        (Moment::now() + Duration::from_millis(3500)).sleep();
    }
    let outage = scene.outage_since(from);
    println!("crashes of the active daemon: {} requests lost, longest gap {:?}", outage.lost, outage.length);
    assert_eq!(outage.lost, 0, "{outage:?}");
    assert_eq!(scene.cluster.group(&active).expect("a group")["epoch"], epoch, "the tenure goes on");
    scene.never_two_answers().expect("one answer at most");
}

/// The same with a VIP and heartbeats of the other family.
mod ipv6 {
    use super::*;

    #[test]
    fn a_silent_cut_at_normal_timing_costs_at_most_60_ms() {
        silent_cuts(Family::Ipv6, Timing::NORMAL, Duration::from_millis(60));
    }

    #[test]
    fn a_silent_cut_at_fast_timing_costs_at_most_8_ms() {
        silent_cuts(Family::Ipv6, Timing::FAST, Duration::from_millis(8));
    }

    #[test]
    fn a_cut_of_the_service_link_alone_moves_the_group_within_150_ms() {
        service_link_cuts(Family::Ipv6);
    }

    #[test]
    fn lost_carrier_moves_the_group() {
        carrier_losses(Family::Ipv6);
    }

    #[test]
    fn a_killed_daemon_goes_dark_and_the_other_serves_within_60_ms() {
        killed_or_stopped(Family::Ipv6, Signal::SIGKILL, 7);
    }

    #[test]
    fn a_stopped_daemon_goes_dark_and_stays_so_when_it_is_woken() {
        killed_or_stopped(Family::Ipv6, Signal::SIGSTOP, 7);
    }

    #[test]
    fn planned_moves_cost_at_most_3_ms() {
        planned_moves(Family::Ipv6, 5);
    }

    #[test]
    fn a_move_is_announced_by_the_new_holder_alone() {
        announced_moves(Family::Ipv6);
    }

    #[test]
    fn restarts_of_the_passive_daemon_lose_no_request() {
        passive_restarts(Family::Ipv6);
    }

    #[test]
    fn a_crashed_active_daemon_is_back_within_its_lease_and_loses_no_request() {
        active_crashes(Family::Ipv6, 1);
    }
}
