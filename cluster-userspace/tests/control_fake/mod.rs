//! A daemon that is only a control socket: it answers calls as a test says, in a thread of its own.

#![allow(dead_code, clippy::allow_attributes, reason = "each test binary uses its part of this module")]

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use cluster_proto::{
    Cause, Dropped, Epoch, GroupView, Incarnation, NodeId, PathIndex, PathView, PeerView, Role, Snapshot,
    Time,
};
use cluster_userspace::config::{Config, Local};
use cluster_userspace::control::{
    Call, ControlError, ControlSocket, ErrorCode, EventLog, Observation, Plan, Reply, Request, Status,
};
use tokio::sync::{mpsc, oneshot};

/// A directory of the test's own.
pub(crate) struct Directory(pub(crate) PathBuf);

impl Directory {
    pub(crate) fn new() -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let name =
            format!("cluster-control-{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        let path = std::env::temp_dir().join(name);
        std::fs::create_dir_all(&path).unwrap();
        Self(path)
    }

    pub(crate) fn socket(&self) -> PathBuf {
        self.0.join("control.sock")
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        drop(std::fs::remove_dir_all(&self.0));
    }
}

/// A running control socket.
pub(crate) struct Daemon {
    pub(crate) directory: Directory,
    pub(crate) events: EventLog,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Daemon {
    /// Answers each call at once.
    pub(crate) fn answering(
        answer: impl FnMut(&Request) -> Result<Reply, ControlError> + Send + 'static,
    ) -> Self {
        let mut answer = answer;
        Self::taking(16, move |call| {
            let answered = answer(&call.request);
            call.answer(answered);
        })
    }

    /// Hands each call to `take`, from a channel of this capacity.
    pub(crate) fn taking(capacity: usize, take: impl FnMut(Call) + Send + 'static) -> Self {
        Self::with_calls(capacity, |mut calls| {
            let mut take = take;
            tokio::spawn(async move {
                while let Some(call) = calls.recv().await {
                    take(call);
                }
            });
        })
    }

    /// Gives the calls' channel away.
    pub(crate) fn with_calls(
        capacity: usize,
        calls: impl FnOnce(mpsc::Receiver<Call>) + Send + 'static,
    ) -> Self {
        let directory = Directory::new();
        let socket = ControlSocket::bind(&directory.socket()).unwrap();
        let events = EventLog::new();
        let (stop, stopped) = oneshot::channel();
        let log = events.clone();
        let thread = std::thread::spawn(move || {
            let runtime =
                tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
            runtime.block_on(async move {
                let (sender, receiver) = mpsc::channel(capacity);
                calls(receiver);
                let stopped = async { drop(stopped.await) };
                socket.serve(sender, log, stopped).await.unwrap();
            });
            runtime.shutdown_timeout(Duration::from_secs(1));
        });
        Self { directory, events, stop: Some(stop), thread: Some(thread) }
    }

    pub(crate) fn socket(&self) -> PathBuf {
        self.directory.socket()
    }

    /// Stops cleanly and waits for that.
    pub(crate) fn stop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            thread.join().unwrap();
        }
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        self.stop();
    }
}

/// The view of node a, of two.
pub(crate) fn example() -> (cluster_proto::Settings, Local) {
    use std::os::unix::fs::PermissionsExt;
    let directory = Directory::new();
    let key = directory.0.join("key");
    std::fs::write(&key, "0f".repeat(32)).unwrap();
    std::fs::set_permissions(&key, std::fs::Permissions::from_mode(0o600)).unwrap();
    let text = r#"
[cluster]
name = "edge"
key_file = "key"
[[node]]
name = "a"
id = 1
interface = "eth0"
addresses = ["10.78.0.1"]
[[node]]
name = "b"
id = 2
interface = "eth0"
addresses = ["10.78.0.2"]
[[group]]
name = "web"
vips = ["10.77.0.100/24"]
"#;
    Config::parse(text, &directory.0.join("cluster.toml")).unwrap().settings("a").unwrap()
}

pub(crate) const NOW: Time = Time::from_nanos(10_000_000_000);

/// What node a's core shows: it holds the group until `lease_until`.
pub(crate) fn snapshot(lease_until: Time) -> Snapshot {
    Snapshot {
        spreads: Vec::new(),
        groups: vec![GroupView {
            role: Role::Active,
            holder: Some(NodeId(1)),
            epoch: Some(Epoch { counter: 7, node: NodeId(1) }),
            lease_until: Some(lease_until),
            since: NOW - Duration::from_millis(991),
            cause: Cause::Election,
            by_hand: false,
            letting_go: None,
            rival: None,
            lapses: 0,
            transitions: 2,
        }],
        peers: vec![PeerView {
            alive: true,
            last_heard: Some(NOW - Duration::from_micros(3_100)),
            voting: true,
            worst_gap: Duration::from_millis(12),
            recent_gap: Duration::from_millis(11),
            low_margins: 0,
            same_settings: true,
        }],
        paths: vec![PathView {
            path: PathIndex { peer: 0, path: 0 },
            up: true,
            round_trip: Some(Duration::from_micros(210)),
            lost: 0,
        }],
        drained: false,
        alone: false,
        service: None,
        change: None,
        lease: Duration::from_millis(40),
        resumed: None,
        dropped: Dropped::default(),
    }
}

/// The status in the contract's example.
pub(crate) fn status() -> Status {
    status_with_lease(NOW + Duration::from_micros(38_200))
}

pub(crate) fn status_with_lease(lease_until: Time) -> Status {
    let (settings, local) = example();
    let warnings: Vec<_> = local.warnings.iter().map(ToString::to_string).collect();
    Status::of(&Observation {
        settings: &settings,
        local: &local,
        snapshot: &snapshot(lease_until),
        now: NOW,
        run: Incarnation(0x0123_4567_89ab_cdef),
        started: NOW - Duration::from_millis(1234),
        xdp: "native",
        chain: None,
        warnings: &warnings,
    })
}

/// Answers `status` and refuses or does the rest as a two-node cluster's holder would.
pub(crate) fn sensible(request: &Request) -> Result<Reply, ControlError> {
    match request {
        Request::Status => Ok(Reply::Status(Box::new(status()))),
        Request::Stats => Ok(Reply::Stats(Box::default())),
        Request::Plan { without } => {
            Ok(Reply::Plan(Box::new(Plan { without: without.clone(), groups: Vec::new() })))
        }
        Request::Promote { group, .. } | Request::Demote { group, .. } if group != "web" => {
            Err(ControlError::unknown_group(group, ["web"].into_iter()))
        }
        Request::Restart => Err(ControlError::new(ErrorCode::VoteNeeded, "its vote is needed")),
        Request::Demote { force: false, .. } | Request::Drain { force: false } => {
            Err(cluster_proto::Refusal::NobodyElse.into())
        }
        _ => Ok(Reply::Done {}),
    }
}

/// Whether there is something at this path.
pub(crate) fn exists(path: &Path) -> bool {
    path.symlink_metadata().is_ok()
}
