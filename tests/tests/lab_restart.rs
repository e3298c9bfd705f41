//! The installed program takes the place of a running daemon: no request is lost, no connection breaks, nothing moves. If it
//! does not come back, the other node serves as after a crash.

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddrV4, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use cluster_tests::lab::clock::{Window, await_true};
use cluster_tests::lab::topology::VIP;
use cluster_tests::lab::{Cluster, ClusterSettings, Lab, Moment, may_run};
use cluster_tests::scene::{SOON, Scene, trials};
use serde_json::Value;

const PORT: u16 = 7100;
/// How often the client says something on its connection.
const PACE: Duration = Duration::from_millis(1);

/// A TCP connection to the VIP that says something all the time and wants it back.
struct Talk {
    stop: Arc<AtomicBool>,
    exchanged: Arc<AtomicU64>,
    client: Option<JoinHandle<std::io::Result<Duration>>>,
}

impl Talk {
    /// Connects to whichever node has the VIP.
    fn begin(lab: &Lab) -> Self {
        for node in lab.nodes() {
            let listening = node.namespace.run(|| Ok(TcpListener::bind((Ipv4Addr::UNSPECIFIED, PORT))?));
            let listener = listening.expect("the node can listen");
            thread::spawn(move || {
                for stream in listener.incoming().flatten() {
                    thread::spawn(move || echo(stream));
                }
            });
        }
        let address = SocketAddrV4::new(VIP, PORT);
        let connected = lab.client().run(|| Ok(TcpStream::connect_timeout(&address.into(), SOON)?));
        let stream = connected.expect("the client reaches the VIP");
        let (stop, exchanged) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let (asked, counted) = (Arc::clone(&stop), Arc::clone(&exchanged));
        let client = Some(thread::spawn(move || talk(stream, &asked, &counted)));
        Self { stop, exchanged, client }
    }

    /// Ends it; how many words were said, and how long the longest took.
    fn end(mut self) -> std::io::Result<(u64, Duration)> {
        self.stop.store(true, Ordering::Relaxed);
        let longest = match self.client.take().map(JoinHandle::join) {
            Some(Ok(outcome)) => outcome?,
            Some(Err(_)) | None => return Err(std::io::Error::other("the client panicked")),
        };
        Ok((self.exchanged.load(Ordering::Relaxed), longest))
    }
}

fn echo(mut stream: TcpStream) {
    let mut word = [0; 8];
    while stream.read_exact(&mut word).is_ok() && stream.write_all(&word).is_ok() {}
}

fn talk(mut stream: TcpStream, stop: &AtomicBool, exchanged: &AtomicU64) -> std::io::Result<Duration> {
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(SOON))?;
    let mut longest = Duration::ZERO;
    for number in 0_u64.. {
        if stop.load(Ordering::Relaxed) {
            break;
        }
        let said = Moment::now();
        stream.write_all(&number.to_be_bytes())?;
        let mut word = [0; 8];
        stream.read_exact(&mut word)?;
        assert_eq!(word, number.to_be_bytes(), "what comes back is what was said");
        longest = longest.max(Moment::now().since(said));
        exchanged.fetch_add(1, Ordering::Relaxed);
        (said + PACE).sleep();
    }
    Ok(longest)
}

fn status(scene: &Scene<'_>, node: &str) -> Value {
    let output = scene.cluster.clusterctl(node, &["--json", "status"]).expect("clusterctl runs");
    serde_json::from_slice(&output.stdout).expect("a status in JSON")
}

/// Has a node's daemon replaced; how long that one did not answer, in milliseconds, and how long it took to get ready.
fn restart(scene: &Scene<'_>, node: &str) -> (u64, u64) {
    let output = scene.cluster.clusterctl(node, &["--json", "restart"]).expect("clusterctl runs");
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{node}: {said}\n{}", scene.cluster.output(node));
    let done: Value = serde_json::from_slice(&output.stdout).expect("an answer in JSON");
    let millis = |key: &str| done[key].as_u64().expect("milliseconds");
    (millis("took_ms"), millis("prepared_ms"))
}

fn descriptors(scene: &mut Scene<'_>, node: &str) -> usize {
    let pid = scene.cluster.daemon(node).expect("a daemon").pid();
    fs::read_dir(format!("/proc/{pid}/fd")).expect("its descriptors").count()
}

/// Every node's daemon is replaced, several times, by a file that has taken the place of the one it runs; nothing comes of it.
fn restarts_cost_nothing(nodes: &[&str], settings: &ClusterSettings) {
    if !may_run("restarts in place") {
        return;
    }
    let lab = Lab::with_nodes(nodes).expect("a lab");
    let mut cluster = Cluster::new(&lab, settings).expect("a cluster");
    cluster.install().expect("a copy");
    let mut scene = Scene::start_cluster(cluster, settings).expect("a cluster");
    let active = scene.settle().expect("a settled cluster");
    let epoch = scene.cluster.group(&active).expect("a group")["epoch"].clone();
    let pids: Vec<_> = nodes.iter().map(|node| scene.cluster.daemon(node).expect("a daemon").pid()).collect();
    let opened: Vec<_> = nodes.iter().map(|node| descriptors(&mut scene, node)).collect();
    let talk = Talk::begin(&lab);
    let from = Moment::now();
    let mut figures = Vec::new();
    for _ in 0..trials(3) {
        for &node in nodes {
            let others: Vec<_> = nodes.iter().filter(|other| **other != node).collect();
            let upsets = |scene: &Scene<'_>| -> Vec<u64> {
                others.iter().map(|other| scene.cluster.upsets(other).expect("counts")).collect()
            };
            let (before, run) = (upsets(&scene), status(&scene, node)["run"].clone());
            scene.cluster.upgrade().expect("another file");
            let (took, prepared) = restart(&scene, node);
            figures.push((node.to_owned(), took, prepared));
            let after = status(&scene, node);
            assert_ne!(after["run"], run);
            let group = &after["groups"][0];
            let (role, cause) = if node == active { ("active", "adopted") } else { ("passive", "startup") };
            if node == active {
                assert_eq!((&group["role"], &group["cause"]), (&role.into(), &cause.into()), "{after}");
                assert_eq!((&group["lapses"], &group["transitions"]), (&0.into(), &1.into()), "{after}");
            } else {
                scene.cluster.await_role(node, role, SOON).expect("the node stands by again");
            }
            assert_eq!(upsets(&scene), before, "nothing moves on the others while {node} is restarted");
            assert_eq!(group["epoch"], epoch);
        }
    }
    let outage = scene.outage_since(from);
    let stall = scene.canary.worst(Window::since(from), false);
    let (words, longest) = talk.end().expect("the connection holds");
    println!("{nodes:?}: node, did not answer for (ms), prepared for (ms): {figures:?}");
    println!(
        "{} requests lost, longest gap {:?}; one connection, {words} words, the longest took {longest:?}; the machine \
         stood still for {stall:?}",
        outage.lost, outage.length
    );
    assert_eq!(outage.lost, 0, "{outage:?}");
    assert!(words > 100, "{words}");
    for (place, node) in nodes.iter().enumerate() {
        assert_eq!(
            scene.cluster.daemon(node).expect("a daemon").pid(),
            pids[place],
            "the process stays the same"
        );
        // What is open for a moment only may be counted or not.
        let now = descriptors(&mut scene, node);
        assert!(now <= opened[place] + 2, "{node} had {} files open and has {now}", opened[place]);
    }
    scene.never_two_answers().expect("one answer at most");
}

#[test]
fn restarts_of_two_nodes_lose_no_request_and_break_no_connection() {
    restarts_cost_nothing(&["a", "b"], &ClusterSettings::default());
}

#[test]
fn restarts_of_three_nodes_lose_no_request_and_break_no_connection() {
    restarts_cost_nothing(&["a", "b", "c"], &ClusterSettings::default());
}

/// An operator's script restarts all nodes at once: they go one after the other.
#[test]
fn all_nodes_restarted_at_once_lose_no_request() {
    if !may_run("restarts in place") {
        return;
    }
    for nodes in [&["a", "b"][..], &["a", "b", "c"]] {
        let lab = Lab::with_nodes(nodes).expect("a lab");
        let mut scene = Scene::start(&lab, &ClusterSettings::default()).expect("a cluster");
        let active = scene.settle().expect("a settled cluster");
        let epoch = scene.cluster.group(&active).expect("a group")["epoch"].clone();
        let from = Moment::now();
        let seen = thread::scope(|scope| {
            let scene = &scene;
            let all: Vec<_> = nodes.iter().map(|node| scope.spawn(move || restart(scene, node))).collect();
            all.into_iter().map(|one| one.join().expect("a restart")).collect::<Vec<_>>()
        });
        let outage = scene.outage_since(from);
        println!(
            "{nodes:?} at once: {seen:?} ms, {} requests lost, longest gap {:?}",
            outage.lost, outage.length
        );
        assert_eq!(outage.lost, 0, "{outage:?}");
        assert_eq!(scene.cluster.group(&active).expect("a group")["epoch"], epoch);
        scene.never_two_answers().expect("one answer at most");
    }
}

/// The next program passes the check and then ends: the other node serves once the longer lease is over, and never both do.
#[test]
fn a_daemon_that_does_not_come_back_is_followed() {
    if !may_run("restarts in place") {
        return;
    }
    let lab = Lab::new().expect("a lab");
    let settings = ClusterSettings::default();
    let mut cluster = Cluster::new(&lab, &settings).expect("a cluster");
    cluster.install().expect("a copy");
    let mut scene = Scene::start_cluster(cluster, &settings).expect("a cluster");
    let active = scene.settle().expect("a settled cluster");
    let other = scene.cluster.other(&active).to_owned();
    scene
        .cluster
        .upgrade_to_script(
            "case \"$*\" in *--check*) exit 0;; esac\necho the new one does not start >&2\nexit 7",
        )
        .expect("a program that does not start");
    let from = Moment::now();
    let trial = scene
        .trial(&other, |scene| {
            let control = scene.cluster.control(&active);
            control.command("restart").map(drop)
        })
        .expect("a takeover");
    println!("the new one never came: served again after {:?}", trial.outage);
    let ended = scene.cluster.daemon(&active).and_then(|daemon| daemon.await_end(SOON)).expect("its end");
    assert_eq!(ended.code(), Some(7));
    assert!(scene.cluster.output(&active).contains("the new one does not start"));
    // It serves on under its lease, and the promise ends a tenth later.
    assert!(trial.outage.length < Duration::from_millis(600), "{:?}", trial.outage);
    assert!(trial.outage.from.since(from) > Duration::from_millis(1500), "{:?}", trial.outage);
    scene.cluster.await_role(&other, "active", SOON).expect("the other serves");
    scene.never_two_answers().expect("one answer at most");
}

/// What can be known to go wrong is found out before anything is changed.
#[test]
fn a_program_or_file_that_is_no_good_changes_nothing() {
    if !may_run("restarts in place") {
        return;
    }
    let lab = Lab::new().expect("a lab");
    let settings = ClusterSettings::default();
    let mut cluster = Cluster::new(&lab, &settings).expect("a cluster");
    let program = cluster.install().expect("a copy");
    let mut scene = Scene::start_cluster(cluster, &settings).expect("a cluster");
    let active = scene.settle().expect("a settled cluster");
    let run = status(&scene, &active)["run"].clone();
    let group = scene.cluster.group(&active).expect("a group");
    let transitions = scene.transitions().expect("counts");
    let from = Moment::now();
    let refused = |scene: &Scene<'_>, words: &str| {
        let output = scene.cluster.clusterctl(&active, &["restart"]).expect("clusterctl runs");
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(1), "{said}");
        assert!(said.contains(words) && said.contains("goes on"), "{words}: {said}");
    };
    scene
        .cluster
        .upgrade_to_script("echo no such library >&2; exit 127")
        .expect("a program that does not run");
    refused(&scene, "no such library");
    fs::write(&program, b"\x7fELF and nothing more").expect("a file");
    refused(&scene, "cannot take this daemon's place");
    fs::remove_file(&program).expect("no file");
    refused(&scene, "cannot be run");
    scene.cluster.upgrade().expect("the right one");
    let text = fs::read_to_string(scene.cluster.config()).expect("the cluster's file");
    fs::write(scene.cluster.config(), text.replace("lease = \"40ms\"", "lease = \"4ms\"")).expect("a file");
    refused(&scene, "timing.lease");
    fs::write(scene.cluster.config(), &text).expect("a file");

    let now = scene.cluster.group(&active).expect("a group");
    assert_eq!(status(&scene, &active)["run"], run);
    assert_eq!((&now["epoch"], &now["role"]), (&group["epoch"], &group["role"]));
    assert_eq!(scene.transitions().expect("counts"), transitions);
    assert_eq!(scene.outage_since(from).lost, 0);
    // And with everything right it is done.
    restart(&scene, &active);
    let back = await_true("the passive node to hear it", SOON, || {
        status(&scene, scene.cluster.other(&active))["peers"][0]["state"] == "alive"
    });
    assert!(back.is_ok() && scene.outage_since(from).lost == 0);
    scene.never_two_answers().expect("one answer at most");
}
