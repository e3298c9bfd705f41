//! What must hold for long: under load, under loss in every direction, and at rest.

use std::time::Duration;

use cluster_tests::lab::clock::Window;
use cluster_tests::lab::{ClusterSettings, Direction, Lab, Link, Moment, Process, may_run};
use cluster_tests::scene::{Scene, trials};

/// A small generator of reproducible choices (splitmix64).
struct Choices(u64);

impl Choices {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (mixed ^ (mixed >> 31)) % bound
    }
}

/// Loses frames in bursts, in some direction of some links, one-way cuts included: whatever that does to the service,
/// no request is ever answered by two nodes as long as the public link carries probes.
#[test]
fn bursts_of_loss_in_any_direction_never_make_two_answers() {
    if !may_run("random loss") {
        return;
    }
    let seed = std::env::var("CLUSTER_LAB_SEED").ok().and_then(|text| text.parse().ok()).unwrap_or(7);
    let lab = Lab::new().expect("a lab");
    let mut scene = Scene::start(&lab, &ClusterSettings::default()).expect("a cluster");
    let mut choices = Choices(seed);
    let schedules = trials(100);
    for schedule in 0..schedules {
        // The private link in any way; the public one less, since a public link that is cut both ways is a partition in
        // which both may serve, as the documentation says.
        let node = if choices.below(2) == 0 { "a" } else { "b" };
        let private = choices.below(4);
        for (place, direction) in Direction::ALL.into_iter().enumerate() {
            if private & (1 << place) != 0 || private == 0 {
                let probability = [1.0, 1.0, 0.7, 0.3][choices.below(4) as usize];
                lab.lose(node, Link::Private, direction, probability).expect("loss");
            }
        }
        if choices.below(2) == 0 {
            let direction = Direction::ALL[choices.below(2) as usize];
            let probability = [1.0, 0.5, 0.2][choices.below(3) as usize];
            lab.lose(node, Link::Public, direction, probability).expect("loss");
        }
        let length = 20 + choices.below(250);
        (Moment::now() + Duration::from_millis(length)).sleep();
        lab.mend_all().expect("mended links");
        if schedule % 3 == 0 {
            scene.settle().unwrap_or_else(|error| panic!("seed {seed}, schedule {schedule}: {error:?}"));
        } else {
            (Moment::now() + Duration::from_millis(choices.below(120))).sleep();
        }
    }
    scene.settle().expect("a settled cluster");
    scene.never_two_answers().unwrap_or_else(|error| panic!("seed {seed}: {error:?}"));
}

/// Two processes per core that do nothing but compute.
fn hogs(lab: &Lab) -> Vec<Process> {
    let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let hog = |number: usize| {
        let mut command = std::process::Command::new("sh");
        command.args(["-c", "while :; do :; done"]);
        let log = lab.directory().join(format!("hog-{number}.log"));
        Process::start("a CPU hog", &command, &log).expect("a hog")
    };
    (0..cores * 2).map(hog).collect()
}

/// How long the load lasts: ten seconds unless `CLUSTER_LOAD_SECONDS` says otherwise.
fn load_time() -> Duration {
    let told = std::env::var("CLUSTER_LOAD_SECONDS").ok().and_then(|text| text.parse().ok());
    Duration::from_secs(told.unwrap_or(10))
}

#[test]
fn two_cpu_hogs_per_core_move_nothing() {
    if !may_run("load") {
        return;
    }
    let lab = Lab::new().expect("a lab");
    let mut scene = Scene::start(&lab, &ClusterSettings::default()).expect("a cluster");
    let active = scene.settle().expect("a settled cluster");
    let before = scene.transitions().expect("counts");
    let _hogs = hogs(&lab);
    let from = Moment::now();
    (from + load_time()).sleep();
    let window = Window::since(from);
    let machine = scene.canary.worst(window, true);
    let moved = scene.transitions().expect("counts") != before;
    let stats = scene.cluster.control(&active).command("stats").expect("stats");
    let outage = scene.outage_since(from);
    println!(
        "{:?} under load: moved or lapsed: {moved}, worst stall of the machine {machine:?}, worst delay of the heartbeat \
         loop {} ms, {} requests lost, longest gap {:?}",
        window.to.since(window.from),
        stats["loop"]["worst_delay_ms"],
        outage.lost,
        outage.length
    );
    // A machine that itself stood still for most of a lease explains anything.
    let explained = machine >= Duration::from_millis(25);
    assert!(!moved || explained, "a transition or lapse that no stall of the machine explains");
    assert!(outage.lost == 0 || explained, "lost requests that no stall of the machine explains: {outage:?}");
    scene.never_two_answers().expect("one answer at most");
}

#[test]
fn an_idle_daemon_costs_little() {
    if !may_run("the cost of idling") {
        return;
    }
    let lab = Lab::new().expect("a lab");
    let mut scene = Scene::start(&lab, &ClusterSettings::default()).expect("a cluster");
    let active = scene.settle().expect("a settled cluster");
    let passive = scene.cluster.other(&active).to_owned();
    // At rest: nobody asks.
    scene.client.stop();
    scene.answers.stop();
    let sent = |scene: &Scene<'_>, node: &str| {
        let stats = scene.cluster.control(node).command("stats").expect("stats");
        stats["heartbeats"]["sent"].as_u64().expect("a count")
    };
    let used = |scene: &mut Scene<'_>, node: &str| {
        scene.cluster.daemon(node).and_then(|daemon| daemon.processor_time()).expect("processor time")
    };
    (Moment::now() + Duration::from_millis(500)).sleep();
    for node in [active, passive] {
        let (from, time, count) = (Moment::now(), used(&mut scene, &node), sent(&scene, &node));
        (from + Duration::from_secs(10)).sleep();
        let (time, count) = (used(&mut scene, &node) - time, sent(&scene, &node) - count);
        let elapsed = Moment::now().since(from);
        let share = time.as_secs_f64() / elapsed.as_secs_f64() * 100.0;
        let heartbeats = elapsed.as_secs_f64() / 0.010;
        let each = count as f64 / heartbeats / 2.0;
        println!("node {node}: {share:.2} % of a core, {each:.2} packets a heartbeat, path and direction");
        assert!(each <= 2.05, "{each} packets a heartbeat, path and direction");
        // What it costs on a quiet machine is printed, and written in docs/testing.md; a busy one shows anything below this.
        assert!(share <= 12.0, "{share} % of a core: far above the one percent that a quiet machine shows");
    }
}
