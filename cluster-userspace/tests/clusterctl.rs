//! `clusterctl` as its users meet it: output, exit codes, and what it says when there is nobody to ask.

#![expect(clippy::unwrap_used, reason = "a test ends where something unexpected happens")]

mod control_fake;

use std::io::{BufRead, BufReader, Read};
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::time::Duration;

use cluster_proto::Time;
use cluster_userspace::control::{
    EventBody, GroupStats, LoopStats, PeerStats, Reply, Request, Stats, TimelineMicros,
};
use control_fake::{Daemon, Directory, NOW, sensible, status};
use serde_json::{Value, json};

fn clusterctl(socket: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_clusterctl"));
    command.env_remove("CLUSTER_SOCKET").env_remove("NO_COLOR").arg("--socket").arg(socket);
    command
}

/// Exit code, standard output and standard error.
fn run(socket: &Path, arguments: &[&str]) -> (i32, String, String) {
    result(&clusterctl(socket).args(arguments).output().unwrap())
}

fn result(output: &Output) -> (i32, String, String) {
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
    (output.status.code().unwrap(), text(&output.stdout), text(&output.stderr))
}

#[test]
fn status_for_people() {
    let daemon = Daemon::answering(|_| {
        let mut status = status();
        status.datagrams_dropped.forged = 3;
        Ok(Reply::Status(Box::new(status)))
    });
    let (code, out, error) = run(&daemon.socket(), &["status"]);
    assert_eq!((code, error.as_str()), (0, ""));
    let expected = "\
node a, clusterd 0.1.0, up 1 s
interface eth0, XDP native
quorum off, 2 of 2 voters reachable

GROUP  ROLE    HOLDER  EPOCH  LEASE    LAPSES  SINCE   CAUSE     VIPS
web    active  a       7.1    38.2 ms  0       991 ms  election  10.77.0.100

PEER  STATE  LAST HEARD  WORST GAP  MARGIN   PATH                    LINK     STATE  RTT      LOST
b     alive  3.1 ms      12.0 ms    38.0 ms  10.78.0.1 -> 10.78.0.2  private  up     0.21 ms  0

datagrams dropped: 3 forged

warnings
  ! no heartbeat path to b runs over the service interface: a cut of the clients' link alone will not be noticed; \
list an address of that link in `addresses` of both nodes
  ! there is only one heartbeat path to b: when it is cut while both nodes live, both may serve; list a second link in \
`addresses` of both nodes

protects from
  + a daemon that is killed or stalls: its node goes dark by itself within 40ms
  + the loss of a node: the other one serves after 50ms

does not protect from
  - a cut of the service link that leaves its carrier up: no heartbeat path runs there
  - a cut of the only heartbeat path: both nodes may serve until it is mended
  - a hypervisor pause that stops the guest's clock: the resumed node may serve for up to 40ms
";
    assert_eq!(out, expected);
}

#[test]
fn status_of_a_node_in_trouble() {
    let daemon = Daemon::answering(|_| {
        let mut status = status();
        status.drained = true;
        status.service = Some("cut".to_owned());
        let group = &mut status.groups[0];
        (group.role, group.holder, group.lease_ms) = ("init".to_owned(), None, None);
        group.by_hand = true;
        status.peers[0].state = "unknown".to_owned();
        status.peers[0].last_heard_ms = None;
        status.peers[0].paths[0].rtt_us = None;
        Ok(Reply::Status(Box::new(status)))
    });
    let (code, out, _) = run(&daemon.socket(), &["status"]);
    assert_eq!(code, 0);
    for words in ["drained", "service link cut", "nobody known", "election (by hand)", "unknown", "never"] {
        assert!(out.contains(words), "{words}: {out}");
    }
    assert!(!out.contains('\x1b'), "no colours into a pipe");
}

#[test]
fn status_as_json_is_what_the_daemon_said() {
    let daemon = Daemon::answering(sensible);
    let (code, out, _) = run(&daemon.socket(), &["--json", "status"]);
    assert_eq!((code, out.lines().count()), (0, 1));
    let shown: Value = serde_json::from_str(&out).unwrap();
    assert_eq!(shown, serde_json::to_value(status()).unwrap());
    let (_, after, _) = run(&daemon.socket(), &["status", "--json"]);
    assert_eq!(after, out, "global options may follow the command");
}

#[test]
fn commands_say_what_was_done_or_why_not() {
    let daemon = Daemon::answering(sensible);
    let socket = daemon.socket();
    let done: [(&[&str], &str); 7] = [
        (&["promote", "web"], "web: this node serves it\n"),
        (&["promote", "web", "--force"], "web: this node serves it\n"),
        (&["demote", "web", "--force"], "web: given up\n"),
        (&["drain", "--force"], "drained: this node serves nothing until `clusterctl undrain`\n"),
        (&["undrain"], "undrained: this node may serve again\n"),
        (&["--json", "undrain"], "{}\n"),
        (&["reload"], "reloaded\n"),
    ];
    for (arguments, said) in done {
        let (code, out, error) = run(&socket, arguments);
        assert_eq!((code, out.as_str()), (0, said), "{arguments:?}");
        // Force is loud: it is the one that may make two nodes serve.
        assert_eq!(!error.is_empty(), arguments == ["promote", "web", "--force"], "{error}");
    }
    let refused: [(&[&str], &str); 4] = [
        (&["promote", "db"], "there is no group \"db\"; there are: web"),
        (&["demote", "web"], "no other node could serve it; --force gives it up all the same"),
        (&["drain"], "no other node could serve it"),
        (&["restart"], "its vote is needed"),
    ];
    for (arguments, reason) in refused {
        let (code, out, error) = run(&socket, arguments);
        assert_eq!((code, out.as_str()), (1, ""), "{arguments:?}");
        assert!(error.starts_with("clusterctl: ") && error.contains(reason), "{error}");
    }
    let (code, out, error) = run(&socket, &["--json", "promote", "db"]);
    let shown: Value = serde_json::from_str(&out).unwrap();
    assert_eq!((code, &shown["error"]["code"]), (1, &json!("unknown_group")));
    assert!(error.contains("no group"));
}

#[test]
fn without_a_daemon_the_state_is_unknown() {
    let directory = Directory::new();
    let absent = directory.0.join("absent.sock");
    let stale = directory.0.join("stale.sock");
    drop(UnixListener::bind(&stale).unwrap());
    let file = directory.0.join("file");
    std::fs::write(&file, "x").unwrap();
    for socket in [&absent, &stale, &file] {
        for arguments in
            [&["status"][..], &["promote", "web"], &["events", "--follow"], &["stats"], &["drain"]]
        {
            let (code, out, error) = run(socket, arguments);
            assert_eq!((code, out.as_str()), (3, ""), "{arguments:?} {error}");
            assert!(error.contains("no clusterd at") && error.contains("unknown"), "{error}");
        }
    }
    let (code, out, _) = run(&absent, &["--json", "status"]);
    let shown: Value = serde_json::from_str(&out).unwrap();
    assert_eq!((code, &shown["error"]["code"]), (3, &json!("no_daemon")));
}

#[test]
fn a_daemon_that_does_not_answer_is_unknown_too() {
    let directory = Directory::new();
    let socket = directory.socket();
    let listener = UnixListener::bind(&socket).unwrap();
    let (code, out, error) = run(&socket, &["status"]);
    assert_eq!((code, out.as_str()), (1, ""));
    assert!(error.contains("did not answer within 2 s") && error.contains("unknown"), "{error}");

    // One that closes, and one that is no clusterd.
    for reply in [
        &b""[..],
        b"HTTP/1.1 400 Bad Request\r\n",
        b"{\"ok\":true",
        b"{\"ok\":true,\"result\":7}\n",
        b"{\"ok\":false}\n",
    ] {
        let (code, out, error) = std::thread::scope(|scope| {
            let server = scope.spawn(|| {
                // The first in the queue are those that gave up above.
                loop {
                    let (stream, _) = listener.accept().unwrap();
                    let mut line = String::new();
                    BufReader::new(&stream).read_line(&mut line).unwrap();
                    if std::io::Write::write_all(&mut &stream, reply).is_ok() {
                        return;
                    }
                }
            });
            let result = run(&socket, &["status"]);
            server.join().unwrap();
            result
        });
        assert_eq!((code, out.as_str()), (1, ""), "{reply:?}");
        assert!(error.contains("unknown"), "{reply:?}: {error}");
    }
}

#[test]
fn wrong_usage_is_exit_code_2() {
    let directory = Directory::new();
    for arguments in [
        &[][..],
        &["nonsense"],
        &["promote"],
        &["promote", "a", "b"],
        &["status", "--force"],
        &["completions", "x"],
    ] {
        let (code, out, error) = run(&directory.socket(), arguments);
        assert_eq!((code, out.as_str()), (2, ""), "{arguments:?}");
        assert!(error.contains("--help") || error.contains("Usage: clusterctl"), "{error}");
    }
    let (code, out, _) = run(&directory.socket(), &["--help"]);
    assert!(code == 0 && out.contains("Exit codes") && out.contains("CLUSTER_SOCKET"), "{out}");
}

#[test]
fn the_socket_may_come_from_the_environment() {
    let daemon = Daemon::answering(sensible);
    let mut command = Command::new(env!("CARGO_BIN_EXE_clusterctl"));
    let output = command.env("CLUSTER_SOCKET", daemon.socket()).arg("undrain").output().unwrap();
    assert_eq!(result(&output).0, 0);
}

#[test]
fn keys_are_random_and_need_no_daemon() {
    let directory = Directory::new();
    let keygen = || run(&directory.socket(), &["keygen"]);
    let (code, first, _) = keygen();
    assert_eq!((code, first.len()), (0, 65));
    assert!(first.ends_with('\n') && first.trim_end().bytes().all(|byte| byte.is_ascii_hexdigit()));
    assert_ne!(first, keygen().1);
}

#[test]
fn completions_need_no_daemon() {
    let directory = Directory::new();
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        let (code, out, _) = run(&directory.socket(), &["completions", shell]);
        assert!(code == 0 && out.contains("clusterctl") && out.contains("undrain"), "{shell}");
    }
}

#[test]
fn stats_for_people() {
    let daemon = Daemon::answering(|request| {
        assert_eq!(*request, Request::Stats);
        let counters =
            |counters: &[(&str, u64)]| counters.iter().map(|(name, n)| ((*name).to_owned(), *n)).collect();
        Ok(Reply::Stats(Box::new(Stats {
            groups: vec![GroupStats {
                name: "web".to_owned(),
                packets: counters(&[("arp_answered", 12), ("ipv4_passed", 123_456)]),
                announcements: 5,
                lapses: 1,
            }],
            peers: vec![PeerStats {
                name: "b".to_owned(),
                worst_gap_ms: 12.0,
                recent_gap_ms: 11.0,
                margin_ms: Some(38.0),
                low_margins: 0,
                rtt_us: Some(210),
                lost: 3,
            }],
            heartbeats: counters(&[("received", 1000), ("sent", 1001)]),
            heartbeat_loop: LoopStats {
                realtime: true,
                wakeups: 7,
                worst_delay_ms: 0.25,
                socket_overflows: 0,
            },
        })))
    });
    let expected = "\
GROUP  PACKETS             COUNT
web    arp_answered        12
       ipv4_passed         123456
       announcements_sent  5
       lease_lapses        1

HEARTBEATS  COUNT
received    1000
sent        1001

PEER  WORST GAP  LATELY   MARGIN   LOW MARGINS  RTT      LOST
b     12.0 ms    11.0 ms  38.0 ms  0            0.21 ms  3

heartbeat loop: real-time, 7 wakeups, at worst 0.25 ms late, 0 socket overflows
";
    assert_eq!(run(&daemon.socket(), &["stats"]), (0, expected.to_owned(), String::new()));
    let (_, out, _) = run(&daemon.socket(), &["stats", "--json"]);
    let shown: Value = serde_json::from_str(&out).unwrap();
    assert_eq!(shown["groups"][0]["packets"]["ipv4_passed"], 123_456);
    assert_eq!(shown["loop"]["realtime"], true);
}

fn takeover() -> EventBody {
    let text = |text: &str| Some(text.to_owned());
    EventBody {
        kind: "transition".to_owned(),
        group: text("web"),
        from: text("passive"),
        to: text("active"),
        cause: text("holder_silent"),
        epoch: text("8.2"),
        timeline_us: Some(TimelineMicros {
            last_heard: Some(0),
            declared: Some(50_010),
            lease: Some(50_450),
            ..TimelineMicros::default()
        }),
        ..EventBody::default()
    }
}

#[test]
fn events_in_lines() {
    let daemon = Daemon::answering(sensible);
    assert_eq!(run(&daemon.socket(), &["events"]), (0, String::new(), String::new()));
    daemon.events.record(Time::ZERO, EventBody::told("started", "clusterd 0.1.0 started"));
    daemon.events.record(Time::ZERO, takeover());
    let (code, out, _) = run(&daemon.socket(), &["events"]);
    let what: Vec<_> = out.lines().map(|line| line.split_once("Z  ").unwrap().1).collect();
    let expected = [
        "clusterd 0.1.0 started",
        "web: passive -> active (holder_silent), epoch 8.2; last heard +0.000, declared +50.010, lease +50.450 ms",
    ];
    assert_eq!((code, &what[..]), (0, &expected[..]));

    let (_, out, _) = run(&daemon.socket(), &["--json", "events"]);
    let events: Vec<Value> = out.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(events[1]["timeline_us"], json!({"last_heard": 0, "declared": 50_010, "lease": 50_450}));
    assert_eq!(events[1]["boot_ns"], 0);
}

#[test]
fn events_are_followed_until_the_daemon_stops() {
    let mut daemon = Daemon::answering(sensible);
    daemon.events.record(NOW, EventBody::told("started", "before"));
    let mut child = clusterctl(&daemon.socket())
        .args(["events", "--follow"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let mut next = || lines.next().unwrap().unwrap();
    assert!(next().ends_with("before"));
    daemon.events.record(NOW, takeover());
    assert!(next().contains("passive -> active"), "each line comes when it happens");
    daemon.stop();
    let status = child.wait().unwrap();
    let mut error = String::new();
    child.stderr.take().unwrap().read_to_string(&mut error).unwrap();
    assert_eq!(status.code(), Some(3));
    assert!(error.contains("has stopped") && error.contains("unknown"), "{error}");
}

#[test]
fn a_reader_that_leaves_is_no_error() {
    let daemon = Daemon::answering(sensible);
    daemon.events.record(NOW, EventBody::told("notice", "first"));
    let mut child = clusterctl(&daemon.socket())
        .args(["events", "--follow"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut out = BufReader::new(child.stdout.take().unwrap());
    let mut line = String::new();
    out.read_line(&mut line).unwrap();
    drop(out);
    // The next event meets a closed pipe.
    daemon.events.record(NOW, EventBody::told("notice", "second"));
    let output = child.wait_with_output().unwrap();
    assert_eq!(result(&output), (0, String::new(), String::new()));
}

/// A takeover may have to wait for silence, so a command has more time than a query.
#[test]
fn commands_have_more_time_than_queries() {
    let daemon = Daemon::with_calls(4, |mut calls| {
        tokio::spawn(async move {
            while let Some(call) = calls.recv().await {
                tokio::time::sleep(Duration::from_millis(2500)).await;
                call.answer(Ok(Reply::Done {}));
            }
        });
    });
    let (code, _, error) = run(&daemon.socket(), &["promote", "web"]);
    assert_eq!((code, error.as_str()), (0, ""));
    let (code, _, error) = run(&daemon.socket(), &["status"]);
    assert_eq!(code, 1, "{error}");
}
