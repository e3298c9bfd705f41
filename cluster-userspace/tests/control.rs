//! The control socket against clients that misbehave, and the answers' exact shape.

#![expect(clippy::unwrap_used, clippy::panic, reason = "a test ends where something unexpected happens")]

mod control_fake;

use std::io::{BufRead, BufReader, Read, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::time::Duration;

use cluster_proto::{
    Cause, Epoch, EventKind, GroupIndex, Mac, NodeId, PathIndex, Role, ServiceHealth, Time, Timeline,
};
use cluster_userspace::control::{
    BindError, Call, Client, ClientError, ControlError, ControlSocket, ErrorCode, EventBody, EventPath,
    EventRecord, KEPT_EVENTS, MAX_CLIENTS, MAX_LINE_BYTES, Observation, Reply, Request, Status,
    TimelineMicros,
};
use control_fake::{Daemon, Directory, NOW, example, exists, sensible, snapshot, status, status_with_lease};
use nix::poll::{PollFd, PollFlags, poll};
use proptest::prelude::*;
use serde_json::{Value, json};
use tokio::sync::mpsc;

const SOON: Duration = Duration::from_secs(5);

/// A client that may send anything.
struct Raw(BufReader<UnixStream>);

impl Raw {
    fn connect(socket: &Path) -> Self {
        let stream = UnixStream::connect(socket).unwrap();
        stream.set_read_timeout(Some(SOON)).unwrap();
        stream.set_write_timeout(Some(SOON)).unwrap();
        Self(BufReader::new(stream))
    }

    fn send(&mut self, bytes: &[u8]) {
        self.0.get_mut().write_all(bytes).unwrap();
    }

    /// The next line as JSON; null at the end.
    fn answer(&mut self) -> Value {
        let mut line = String::new();
        match self.0.read_line(&mut line) {
            Ok(0) => Value::Null,
            Ok(_) => serde_json::from_str(&line).unwrap(),
            Err(error) if error.kind() == std::io::ErrorKind::ConnectionReset => Value::Null,
            Err(error) => panic!("no answer: {error}"),
        }
    }

    fn ask(&mut self, bytes: &[u8]) -> Value {
        self.send(bytes);
        self.answer()
    }

    fn code(&mut self, bytes: &[u8]) -> String {
        let answer = self.ask(bytes);
        assert_eq!(answer["ok"], false, "{answer}");
        answer["error"]["code"].as_str().unwrap().to_owned()
    }
}

/// A good request with spaces after it, this long without its newline.
fn padded(length: usize) -> String {
    let request = "{\"cmd\":\"undrain\"}";
    format!("{request}{}\n", " ".repeat(length - request.len()))
}

fn operator(daemon: &Daemon) -> Client {
    Client::connect(&daemon.socket(), SOON).unwrap()
}

/// Every field of the documented example is in the status, with its value; more may be.
#[test]
fn the_status_is_the_documented_one() {
    let documented = json!({"node":"a","version":"0.1.0","uptime_ms":1234,"xdp":"native","drained":false,
     "groups":[{"name":"web","mode":"active-passive","protocol":"native","role":"active","holder":"a","epoch":"7.1",
                "lease_ms":38.2,"members":["a","b"],"priority":200,"vips":["10.77.0.100"],"since_ms":991,"cause":"election"}],
     "peers":[{"name":"b","kind":"node","state":"alive","last_heard_ms":3.1,
               "paths":[{"local":"10.78.0.1","remote":"10.78.0.2","state":"up","rtt_us":210,"lost":0}]}],
     "quorum":{"mode":"off","voters":2,"reachable":2}});
    let mut daemon = Daemon::answering(sensible);
    let answer = Raw::connect(&daemon.socket()).ask(b"{\"cmd\":\"status\"}\n");
    assert_eq!(answer["ok"], true);
    contains(&answer["result"], &documented, "result");
    // What is added is there, too.
    assert_eq!(answer["result"]["interface"], "eth0");
    assert_eq!(answer["result"]["datagrams_dropped"]["forged"], 0);
    assert!(!answer["result"]["protection"]["protects"].as_array().unwrap().is_empty());
    assert!(!answer["result"]["protection"]["not"].as_array().unwrap().is_empty());
    assert_eq!(answer["result"]["warnings"].as_array().unwrap().len(), 2);
    // And it reads back as it was.
    assert_eq!(operator(&daemon).status().unwrap(), status());
    daemon.stop();
}

/// How close heartbeats have come to the limit, and a peer that is too far away for the lease.
#[test]
fn margins_and_round_trips_are_shown_by_peer() {
    let peer = &status().peers[0];
    assert_eq!((peer.worst_gap_ms, peer.recent_gap_ms, peer.margin_ms), (12.0, 11.0, Some(38.0)));
    assert_eq!((peer.low_margins, peer.rtt_us), (0, Some(210)));
    assert_eq!(status().warnings.len(), 2);

    let with_round_trip = |micros: u64, up: bool| {
        let (settings, local) = example();
        let mut seen = snapshot(NOW);
        seen.paths[0].round_trip = Some(Duration::from_micros(micros));
        seen.paths[0].up = up;
        let (now, started) = (NOW, NOW);
        let observation = Observation {
            settings: &settings,
            local: &local,
            snapshot: &seen,
            now,
            run: cluster_proto::Incarnation(1),
            started,
            xdp: "native",
            chain: None,
            warnings: &[],
        };
        Status::of(&observation)
    };
    // 40 ms are three heartbeats of 10 ms, and 10 ms.
    assert_eq!(with_round_trip(10_000, true).warnings, <[&str; 0]>::default());
    let far = with_round_trip(20_000, true);
    let said = "lease = 40ms is too short for three heartbeats and the round trip to b, 20.0 ms: lapses are to be expected \
                when its vote is needed; lease = \"70ms\" and dead_after = \"77ms\" would do";
    assert_eq!(far.warnings, [said]);
    let text =
        cluster_userspace::control::render::status(&far, cluster_userspace::control::render::Paint::Plain);
    assert!(text.contains(said) && text.contains("38.0 ms"), "{text}");
    assert_eq!(
        with_round_trip(20_000, false).warnings,
        <[&str; 0]>::default(),
        "what is down is not measured"
    );
}

fn contains(found: &Value, wanted: &Value, at: &str) {
    match (found, wanted) {
        (Value::Object(found), Value::Object(wanted)) => {
            for (key, wanted) in wanted {
                contains(found.get(key).unwrap_or(&Value::Null), wanted, &format!("{at}.{key}"));
            }
        }
        (Value::Array(found), Value::Array(wanted)) => {
            assert_eq!(found.len(), wanted.len(), "{at}");
            for (index, (found, wanted)) in found.iter().zip(wanted).enumerate() {
                contains(found, wanted, &format!("{at}[{index}]"));
            }
        }
        _ => assert_eq!(found, wanted, "{at}"),
    }
}

#[test]
fn a_role_is_active_only_while_the_lease_is_valid() {
    for until in [NOW, NOW - Duration::from_nanos(1), Time::ZERO] {
        let status = status_with_lease(until);
        let group = &status.groups[0];
        assert_eq!((group.role.as_str(), &group.holder, group.lease_ms), ("passive", &None, None));
    }
    assert_eq!(status_with_lease(NOW + Duration::from_nanos(1)).groups[0].role, "active");
}

#[test]
fn a_status_of_an_older_or_newer_daemon_is_read() {
    let older = r#"{"node":"a","version":"0","uptime_ms":1,"xdp":"native","drained":false,"groups":[],"peers":[],
        "quorum":{"mode":"off","voters":1,"reachable":1},"brand_new":{"x":1}}"#;
    let status: Status = serde_json::from_str(older).unwrap();
    assert_eq!((status.node.as_str(), status.interface.as_str()), ("a", ""));
}

#[test]
fn each_command_reaches_the_daemon_and_its_answer_the_client() {
    let (seen, mut requests) = mpsc::unbounded_channel();
    let daemon = Daemon::answering(move |request| {
        seen.send(request.clone()).unwrap();
        sensible(request)
    });
    let mut client = operator(&daemon);
    let group = || "web".to_owned();
    let done = [
        Request::Promote { group: group(), force: false },
        Request::Promote { group: group(), force: true },
        Request::Demote { group: group(), force: true },
        Request::Drain { force: true },
        Request::Undrain,
    ];
    for request in done {
        assert_eq!(client.call::<Value>(&request, SOON).unwrap(), json!({}));
        assert_eq!(requests.try_recv().unwrap(), request);
    }
    assert_eq!(client.stats().unwrap(), cluster_userspace::control::Stats::default());

    let refused = [
        (Request::Demote { group: group(), force: false }, ErrorCode::NobodyElse),
        (Request::Promote { group: "db".to_owned(), force: false }, ErrorCode::UnknownGroup),
    ];
    for (request, code) in refused {
        let Err(ClientError::Refused(error)) = client.call::<Value>(&request, SOON) else {
            panic!("{request:?}")
        };
        assert_eq!(error.code, code);
    }
}

/// A restart is answered before it is done, since nobody is there to answer after it; if it is not done after all, a second
/// line says so.
#[test]
fn a_restart_is_answered_first_and_then_the_connection_ends_or_a_second_line_says_why_not() {
    for fails in [false, true] {
        let (gone_in, gone) = std::sync::mpsc::channel();
        let daemon = Daemon::with_calls(4, move |mut calls| {
            tokio::spawn(async move {
                let call: Call = calls.recv().await.unwrap();
                assert_eq!(call.request, Request::Restart);
                let answered = call.answer_before_it_is_done(Reply::Done {}).await;
                gone_in.send(()).unwrap();
                if fails {
                    answered.failed(ControlError::new(ErrorCode::BadBinary, "no such file"));
                }
            });
        });
        let mut client = Raw::connect(&daemon.socket());
        assert_eq!(client.ask(b"{\"cmd\":\"restart\"}\n"), json!({"ok": true, "result": {}}));
        gone.recv_timeout(SOON).unwrap();
        if fails {
            assert_eq!(client.answer()["error"]["code"], "bad_binary");
        }
        // What is asked on the same connection later is answered as ever.
        assert_eq!(client.ask(b"{\"cmd\":\"nonsense\"}\n")["error"]["code"], "unknown_command");
    }
    let refusing = Daemon::answering(|_| Err(ControlError::new(ErrorCode::VoteNeeded, "its vote is needed")));
    let Err(ClientError::Refused(error)) = operator(&refusing).restart(SOON) else { panic!("restart") };
    assert_eq!(error.code, ErrorCode::VoteNeeded);
}

#[test]
fn half_lines_wait_and_several_lines_are_answered_in_order() {
    let daemon = Daemon::answering(sensible);
    let mut half = Raw::connect(&daemon.socket());
    half.send(b"{\"cmd\":");
    assert!(operator(&daemon).status().is_ok(), "others are served meanwhile");
    assert_eq!(half.ask(b"\"undrain\"}\n")["ok"], true);

    half.send(b"{\"cmd\":\"undrain\"}\r\n\n{\"cmd\":\"nonsense\"}\n{\"cmd\":\"undr");
    assert_eq!(half.answer()["ok"], true);
    assert_eq!(half.answer()["error"]["code"], "unknown_command");
    half.send(b"ain\"}");
    half.0.get_ref().shutdown(std::net::Shutdown::Write).unwrap();
    assert_eq!(half.answer()["ok"], true, "the last line needs no newline");
    assert_eq!(half.answer(), Value::Null);

    let mut cut = Raw::connect(&daemon.socket());
    cut.send(b"{\"cmd\":\"undr");
    cut.0.get_ref().shutdown(std::net::Shutdown::Write).unwrap();
    assert_eq!(cut.answer()["error"]["code"], "bad_request");
}

#[test]
fn what_is_not_a_request_is_refused_and_the_next_line_served() {
    let daemon = Daemon::answering(sensible);
    let mut client = Raw::connect(&daemon.socket());
    let cases: &[(&[u8], &str)] = &[
        (b"\xff\xfe\xfd\n", "bad_request"),
        (b"\0\0\0\n", "bad_request"),
        (b"GET / HTTP/1.1\n", "bad_request"),
        (b"{\"cmd\":\"status\",\"cmd\":\"status\",\"x\":1}\n", "bad_request"),
        (b"{\"cmd\":\"self-destruct\"}\n", "unknown_command"),
        (b"{\"cmd\":\"promote\"}\n", "bad_request"),
        (b"{\"cmd\":\"promote\",\"group\":\"web\",\"force\":\"yes\"}\n", "bad_request"),
        (b"{\"cmd\":\"promote\",\"group\":\"nope\"}\n", "unknown_group"),
        (b"[[[[[[[[\n", "bad_request"),
    ];
    for (line, code) in cases {
        assert_eq!(client.code(line), *code, "{:?}", String::from_utf8_lossy(line));
    }
    let longest = padded(MAX_LINE_BYTES);
    assert_eq!(longest.len(), MAX_LINE_BYTES + 1);
    assert_eq!(client.ask(longest.as_bytes())["ok"], true, "64 KiB are allowed");
    assert_eq!(client.ask(b"{\"cmd\":\"status\"}\n")["ok"], true);
}

#[test]
fn a_line_that_is_too_long_ends_the_connection_after_saying_so() {
    let daemon = Daemon::answering(sensible);
    let over = padded(MAX_LINE_BYTES + 1);
    let mut client = Raw::connect(&daemon.socket());
    assert_eq!(client.code(over.as_bytes()), "line_too_long");
    assert_eq!(client.answer(), Value::Null);

    // 10 MB at once, and without an end: the reader must not keep them.
    let mut client = Raw::connect(&daemon.socket());
    let flood = vec![b'x'; 10_000_000];
    client.0.get_mut().write_all(&flood).unwrap();
    assert_eq!(client.answer()["error"]["code"], "line_too_long");
    assert_eq!(client.answer(), Value::Null);
    assert!(operator(&daemon).status().is_ok());
}

#[test]
fn a_thousand_idle_clients_lock_nobody_out() {
    use nix::sys::resource::{Resource, getrlimit, setrlimit};
    let (_, most) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
    setrlimit(Resource::RLIMIT_NOFILE, most.min(8192), most).unwrap();

    let daemon = Daemon::answering(sensible);
    let mut first = Raw::connect(&daemon.socket());
    assert_eq!(first.ask(b"{\"cmd\":\"undrain\"}\n")["ok"], true);
    let mut idle = Vec::new();
    for index in 0..1000 {
        let mut client = Raw::connect(&daemon.socket());
        if index % 2 == 0 {
            client.send(b"{\"cmd\":");
        }
        idle.push(client);
    }
    assert!(operator(&daemon).status().is_ok());
    assert_eq!(first.answer(), Value::Null, "the longest idle ones were closed");
    let open = idle.iter_mut().map(|client| {
        client.0.get_ref().set_nonblocking(true).unwrap();
        let mut byte = [0];
        client.0.read(&mut byte).is_err_and(|error| error.kind() == std::io::ErrorKind::WouldBlock)
    });
    assert!(open.filter(|open| *open).count() <= MAX_CLIENTS);
}

#[test]
fn who_waits_for_an_answer_is_not_closed_for_others() {
    let (taken, mut calls) = mpsc::unbounded_channel();
    let daemon = Daemon::taking(MAX_CLIENTS, move |call| taken.send(call).unwrap());
    let mut waiting: Vec<_> = (0..MAX_CLIENTS).map(|_| Raw::connect(&daemon.socket())).collect();
    let mut held = Vec::new();
    for client in &mut waiting {
        client.send(b"{\"cmd\":\"undrain\"}\n");
        held.push(calls.blocking_recv().unwrap());
    }
    // Everybody waits, so the next one is told to come again, and nobody loses their answer.
    assert_eq!(Raw::connect(&daemon.socket()).answer()["error"]["code"], "too_many_clients");
    let late = Client::connect(&daemon.socket(), SOON).unwrap().status();
    assert!(
        matches!(&late, Err(ClientError::Refused(error)) if error.code == ErrorCode::TooManyClients),
        "{late:?}"
    );
    held.into_iter().for_each(|call| call.answer(Ok(Reply::Done {})));
    for mut client in waiting {
        assert_eq!(client.answer()["ok"], true);
    }
}

#[test]
fn a_daemon_that_cannot_take_a_call_says_so() {
    // One call fits into the channel, and nobody takes it out.
    let (keep, kept) = std::sync::mpsc::channel();
    let daemon = Daemon::with_calls(1, move |calls| keep.send(calls).unwrap());
    let mut first = Raw::connect(&daemon.socket());
    first.send(b"{\"cmd\":\"undrain\"}\n");
    let mut calls = kept.recv().unwrap();
    while calls.is_empty() {
        std::thread::yield_now();
    }
    assert_eq!(Raw::connect(&daemon.socket()).code(b"{\"cmd\":\"undrain\"}\n"), "busy");
    // A call that is dropped unanswered, and a daemon that takes no more.
    drop(calls.blocking_recv());
    assert_eq!(first.answer()["error"]["code"], "unavailable");
    drop(calls);
    assert_eq!(first.code(b"{\"cmd\":\"undrain\"}\n"), "unavailable");
}

#[test]
fn events_are_listed_and_followed() {
    let mut daemon = Daemon::answering(sensible);
    let log = daemon.events.clone();
    log.record(NOW, EventBody::told("started", "clusterd started"));
    log.record(NOW, EventBody::told("notice", "second"));

    let list = Raw::connect(&daemon.socket()).ask(b"{\"cmd\":\"events\"}\n");
    assert_eq!(list["result"]["missed"], 0);
    let listed = list["result"]["events"].as_array().unwrap();
    assert_eq!(listed.len(), 2);
    assert_eq!(listed[0]["seq"], 1);
    assert_eq!(listed[0]["kind"], "started");
    assert_eq!(listed[0]["message"], "clusterd started");
    assert_eq!(listed[0]["boot_ns"], NOW.as_nanos());
    assert_eq!(listed[0]["time"].as_str().unwrap().len(), "2026-01-31T08:05:09.000123Z".len());

    let mut follow = operator(&daemon).follow(1).unwrap();
    let mut next = || follow.next_event(Some(SOON)).unwrap();
    assert_eq!(next().unwrap().seq, 2, "what is kept after the number given comes first");
    let recorded = log.record(NOW, EventBody::told("notice", "third"));
    assert_eq!(next().unwrap(), *recorded);
    // What happens up to the stop still arrives, then the end.
    log.record(NOW, EventBody::told("stopping", "clusterd is stopping"));
    daemon.stop();
    assert_eq!(next().unwrap().body.kind, "stopping");
    assert_eq!(next(), None);
}

#[test]
fn a_slow_follower_misses_events_and_hears_how_many() {
    let daemon = Daemon::answering(sensible);
    let mut slow = operator(&daemon).follow(0).unwrap();
    daemon.events.record(NOW, EventBody::told("notice", "first"));
    assert_eq!(slow.next_event(Some(SOON)).unwrap().unwrap().seq, 1);
    // Far more than the socket's buffers and the log hold.
    let count = 50_000;
    for _ in 0..count {
        daemon.events.record(NOW, EventBody::told("notice", "x".repeat(200)));
    }
    assert!(operator(&daemon).status().is_ok(), "others do not wait for it");
    let (mut seen, mut missed, mut last) = (0, 0, 1);
    while last < count + 1 {
        let event = slow.next_event(Some(SOON)).unwrap().unwrap();
        match event.body.count {
            Some(forgotten) => {
                missed += forgotten;
                assert_eq!(event.seq, last + forgotten);
            }
            None => {
                seen += 1;
                assert_eq!(event.seq, last + 1);
            }
        }
        last = event.seq;
    }
    assert!(missed > 0 && seen >= KEPT_EVENTS as u64, "seen {seen}, missed {missed}");
    assert_eq!(seen + missed, count);
}

#[test]
fn a_follower_that_never_reads_is_cut_off() {
    let daemon = Daemon::answering(sensible);
    // More than fits into the socket's buffers, so that the write is stuck.
    for _ in 0..KEPT_EVENTS {
        daemon.events.record(NOW, EventBody::told("notice", "x".repeat(2000)));
    }
    let mut stuck = Raw::connect(&daemon.socket());
    stuck.send(b"{\"cmd\":\"events\",\"follow\":true}\n");
    let mut fds = [PollFd::new(stuck.0.get_ref().as_fd(), PollFlags::empty())];
    poll(&mut fds, 10_000_u16).unwrap();
    assert!(fds[0].revents().unwrap().contains(PollFlags::POLLHUP), "closed by the daemon after 5 s");
    let mut sent = String::new();
    stuck.0.read_to_string(&mut sent).unwrap();
    assert!((1..KEPT_EVENTS).contains(&sent.lines().count()), "what was in the buffers is all there is");
}

#[test]
fn the_socket_is_made_as_documented_and_removed_at_the_end() {
    let directory = Directory::new();
    let path = directory.0.join("run/cluster/control.sock");
    let socket = ControlSocket::bind(&path).unwrap();
    let mode = |path: &Path| path.metadata().unwrap().permissions().mode() & 0o7777;
    assert_eq!(mode(&path), 0o660);
    assert_eq!(mode(path.parent().unwrap()) & 0o022, 0, "nobody else may put a socket there");
    drop(socket);
    assert!(!exists(&path));

    let mut daemon = Daemon::answering(sensible);
    assert!(exists(&daemon.socket()));
    daemon.stop();
    assert!(!exists(&daemon.socket()));
}

#[test]
fn a_stale_socket_is_replaced_and_a_living_one_is_not() {
    let directory = Directory::new();
    let path = directory.socket();
    drop(UnixListener::bind(&path).unwrap());
    assert!(exists(&path), "as a killed daemon leaves it");
    let first = ControlSocket::bind(&path).unwrap();
    let second = ControlSocket::bind(&path).unwrap_err();
    assert!(matches!(second, BindError::InUse(_)), "{second}");
    assert!(second.to_string().contains("another clusterd is listening"));
    assert!(exists(&path), "the refused one removed nothing");
    drop(first);

    std::fs::write(&path, "precious").unwrap();
    assert!(matches!(ControlSocket::bind(&path).unwrap_err(), BindError::NotASocket(_)));
    assert_eq!(std::fs::read_to_string(&path).unwrap(), "precious");

    let long = directory.0.join("x".repeat(120));
    assert!(ControlSocket::bind(&long).unwrap_err().to_string().contains("cannot use as the socket's path"));
}

/// A stopped daemon accepts nobody, and its queue fills up; it is still there.
#[test]
fn a_daemon_that_is_stopped_counts_as_living_and_as_not_answering() {
    let directory = Directory::new();
    let path = directory.socket();
    let socket = ControlSocket::bind(&path).unwrap();
    let quick = Duration::from_millis(100);
    let mut queued = Vec::new();
    let full = loop {
        match Client::connect(&path, quick) {
            Ok(client) => queued.push(client),
            Err(error) => break error,
        }
        assert!(queued.len() < 10_000);
    };
    assert!(matches!(full, ClientError::Timeout { .. }), "{full}");
    assert!(matches!(ControlSocket::bind(&path).unwrap_err(), BindError::InUse(_)));
    let silent = queued[0].call::<Value>(&Request::Status, quick).unwrap_err();
    assert!(
        matches!(silent, ClientError::Timeout { .. }) && silent.to_string().contains("unknown"),
        "{silent}"
    );
    drop(socket);
}

#[test]
fn of_daemons_that_start_at_once_one_gets_the_socket() {
    let directory = Directory::new();
    let path = directory.socket();
    for _ in 0..20 {
        drop(UnixListener::bind(&path).unwrap());
        let start = std::sync::Barrier::new(8);
        let bound: Vec<_> = std::thread::scope(|scope| {
            let bind = || {
                start.wait();
                ControlSocket::bind(&path)
            };
            let threads: Vec<_> = (0..8).map(|_| scope.spawn(bind)).collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).collect()
        });
        let winners = bound.iter().filter(|bound| bound.is_ok()).count();
        assert_eq!(winners, 1);
        assert!(bound.iter().all(|bound| matches!(bound, Ok(_) | Err(BindError::InUse(_)))));
        drop(bound);
        assert!(!exists(&path));
    }
}

#[test]
fn a_successors_socket_is_left_alone() {
    let directory = Directory::new();
    let path = directory.socket();
    let old = ControlSocket::bind(&path).unwrap();
    std::fs::remove_file(&path).unwrap();
    let new = ControlSocket::bind(&path).unwrap();
    drop(old);
    assert!(exists(&path));
    drop(new);
    assert!(!exists(&path));
}

#[test]
fn who_is_not_there_is_unknown() {
    let directory = Directory::new();
    let connect = || Client::connect(&directory.socket(), SOON).unwrap_err();
    let absent = connect();
    assert!(
        matches!(absent, ClientError::NoDaemon { .. }) && absent.to_string().contains("unknown"),
        "{absent}"
    );
    drop(UnixListener::bind(directory.socket()).unwrap());
    assert!(matches!(connect(), ClientError::NoDaemon { .. }), "a killed daemon's socket");
}

/// Every kind of event of the core, as it is told.
#[test]
fn events_of_the_core_are_told_with_names() {
    let (_, local) = example();
    let at = |micros: u64| Some(Time::from_nanos(1_000_000_000 + micros * 1_000));
    let group = GroupIndex(0);
    let epoch = Epoch { counter: 8, node: NodeId(2) };
    let path = PathIndex { peer: 0, path: 0 };
    let mac = Mac([2, 0, 0, 0, 0, 7]);
    let long = Duration::from_micros(1500);
    let timeline = Timeline {
        last_heard: at(0),
        probe: at(39_000),
        declared: at(50_010),
        address: at(50_400),
        lease: at(50_450),
        announced: at(50_500),
    };
    let cases = [
        (
            EventKind::Transition {
                group,
                from: Role::Passive,
                to: Role::Active,
                cause: Cause::HolderSilent,
                epoch: Some(epoch),
                timeline,
            },
            json!({"kind":"transition","group":"web","from":"passive","to":"active","cause":"holder_silent","epoch":"8.2",
                "timeline_us":{"last_heard":0,"probe":39_000,"declared":50_010,"address":50_400,"lease":50_450,"announced":50_500}}),
        ),
        (
            EventKind::Transition {
                group,
                from: Role::Init,
                to: Role::Passive,
                cause: Cause::Startup,
                epoch: None,
                timeline: Timeline::default(),
            },
            json!({"kind":"transition","group":"web","from":"init","to":"passive","cause":"startup"}),
        ),
        (EventKind::Lapse { group }, json!({"kind":"lapse","group":"web"})),
        (
            EventKind::Regained { group, dark: long },
            json!({"kind":"regained","group":"web","duration_us":1500}),
        ),
        (EventKind::Alone, json!({"kind":"alone"})),
        (EventKind::NotAlone, json!({"kind":"not_alone"})),
        (EventKind::PeerUp(NodeId(2)), json!({"kind":"peer_up","peer":"b"})),
        (EventKind::PeerDown(NodeId(9)), json!({"kind":"peer_down","peer":"#9"})),
        (
            EventKind::PathUp(path),
            json!({"kind":"path_up","peer":"b","path":{"local":"10.78.0.1","remote":"10.78.0.2"}}),
        ),
        (
            EventKind::PathDown(path),
            json!({"kind":"path_down","peer":"b","path":{"local":"10.78.0.1","remote":"10.78.0.2"}}),
        ),
        (
            EventKind::ProbeAnswered { group, mac },
            json!({"kind":"probe_answered","group":"web","mac":"02:00:00:00:00:07"}),
        ),
        (
            EventKind::Rival { group, address: "10.77.0.100".parse().unwrap(), mac },
            json!({"kind":"rival","group":"web","address":"10.77.0.100","mac":"02:00:00:00:00:07","interface":"eth0"}),
        ),
        (
            EventKind::DualHolder { group, other: epoch },
            json!({"kind":"dual_holder","group":"web","peer":"b","epoch":"8.2"}),
        ),
        (
            EventKind::Handover { group, to: NodeId(2), cause: Cause::Demote },
            json!({"kind":"handover","group":"web","peer":"b","cause":"demote"}),
        ),
        (
            EventKind::HandoverFailed { group, to: NodeId(2) },
            json!({"kind":"handover_failed","group":"web","peer":"b"}),
        ),
        (EventKind::Service(ServiceHealth::Cut), json!({"kind":"service","service":"cut"})),
        (EventKind::Overslept(long), json!({"kind":"overslept","duration_us":1500})),
        (EventKind::ReservationFailed, json!({"kind":"reservation_failed"})),
        (
            EventKind::LeaseTooShort { peer: NodeId(2), round_trip: long },
            json!({"kind":"lease_too_short","peer":"b","duration_us":1500,
                   "message":"lease = \"40ms\" and dead_after = \"50ms\" would do"}),
        ),
        (
            EventKind::MarginLow { peer: NodeId(2), gap: Duration::from_millis(30) },
            json!({"kind":"margin_low","peer":"b","duration_us":30000}),
        ),
        (EventKind::SettingsDiffer(NodeId(2)), json!({"kind":"settings_differ","peer":"b"})),
    ];
    for (kind, told) in cases {
        let body = EventBody::of(&kind, &local);
        assert_eq!(serde_json::to_value(&body).unwrap(), told);
        let record = EventRecord { seq: 1, time: "2026-01-31T08:05:09.000123Z".to_owned(), boot_ns: 5, body };
        let written = serde_json::to_string(&record).unwrap();
        assert_eq!(serde_json::from_str::<EventRecord>(&written).unwrap(), record);
        let line = cluster_userspace::control::render::event(
            &record,
            cluster_userspace::control::render::Paint::Plain,
        );
        assert!(!line.contains('?') && !line.contains('\n') && line.len() > 36, "{line}");
    }
    // Groups and paths that a later configuration has.
    let body = EventBody::of(&EventKind::Lapse { group: GroupIndex(7) }, &local);
    assert_eq!(body.group.as_deref(), Some("#7"));
    let body = EventBody::of(&EventKind::PathUp(PathIndex { peer: 3, path: 3 }), &local);
    assert_eq!((body.peer, body.path), (None, None::<EventPath>));
    assert_eq!(TimelineMicros::default().steps().count(), 0);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    /// Whatever is sent, each line gets at most one answer, and the next client is served.
    #[test]
    fn no_bytes_hurt(bytes in prop::collection::vec(any::<u8>(), 0..2000)) {
        static DAEMON: std::sync::OnceLock<Daemon> = std::sync::OnceLock::new();
        let daemon = DAEMON.get_or_init(|| Daemon::answering(sensible));
        let mut client = Raw::connect(&daemon.socket());
        client.send(&bytes);
        client.0.get_ref().shutdown(std::net::Shutdown::Write).unwrap();
        let lines = bytes.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()).count();
        let mut answers = 0;
        while client.answer() != Value::Null {
            answers += 1;
        }
        prop_assert_eq!(answers, lines);
        prop_assert!(operator(daemon).status().is_ok());
    }
}
