//! Reading the configuration again while the daemon runs: what may change, and how the daemon and its heartbeat thread go
//! over to it. A file that cannot be used changes nothing.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use cluster_proto::{CommandId, Quorum, Refusal, Settings};

use super::{Daemon, QUEUE, groups, paths_of};
use crate::config::{Config, HostKind, Local, XdpMode};
use crate::control::{Call, ControlError, ErrorCode, EventBody, Reply};
use crate::dataplane::GroupSlot;
use crate::driver::mailbox::{Order, Reconfiguration};
use crate::driver::path_sockets::Replacement;

/// How long the heartbeat thread may take to go over.
const PATIENCE: Duration = Duration::from_secs(5);

/// Where the configuration came from, and what the command line has to say beside it.
#[derive(Clone, Debug)]
pub struct Source {
    /// The file.
    pub file: PathBuf,
    /// Which node or witness of it this host is.
    pub node: String,
    /// The control socket, if the command line named it.
    pub socket: Option<PathBuf>,
    /// Whether the XDP program is pinned for somebody else's dispatcher and not attached.
    pub pin_only: bool,
}

/// A configuration that the heartbeat thread is about to go over to.
pub(super) struct Coming {
    /// What the heartbeat thread's answer names.
    id: CommandId,
    generation: u32,
    settings: Settings,
    local: Local,
    slots: Vec<GroupSlot>,
    /// Nobody waits for the answer any more: what is other in it, to be told when it comes after all.
    overdue: Option<String>,
}

impl Source {
    /// Reads the file anew.
    fn read(&self) -> Result<(Settings, Local), ControlError> {
        let config = Config::load(&self.file).map_err(|errors| refused(errors.to_string()))?;
        self.settings(&config).map_err(refused)
    }

    /// What a configuration says to this host, with what the command line has to say beside it.
    ///
    /// # Errors
    /// Why not, if that does not go together.
    pub fn settings(&self, config: &Config) -> Result<(Settings, Local), String> {
        let (settings, mut local) = config.settings(&self.node).map_err(|error| error.to_string())?;
        if let Some(socket) = &self.socket {
            socket.clone_into(&mut local.socket);
        }
        if self.pin_only {
            match &mut local.service {
                None => return Err("--pin-only is for nodes: a witness has no XDP program".to_owned()),
                Some(service) if service.chain.is_some() => {
                    return Err(format!(
                        "--pin-only does not go with xdp = \"chain\" of node \"{}\": a dispatcher calls what comes after \
                         it by itself",
                        self.node
                    ));
                }
                Some(service) => service.xdp = XdpMode::PinOnly,
            }
        }
        Ok((settings, local))
    }
}

pub(super) fn refused(why: String) -> ControlError {
    ControlError::new(ErrorCode::BadConfiguration, format!("{why}\nthe configuration in use is unchanged"))
}

impl Daemon {
    /// Reads the file anew and makes sure that the daemon can go over to it.
    pub(super) fn read_anew(&self) -> Result<(Settings, Local), ControlError> {
        if self.coming.is_some() {
            return Err(refused(
                "the heartbeat thread has not yet taken up the file before this one".to_owned(),
            ));
        }
        let (settings, local) = self.source.read()?;
        let mut fixed = Vec::new();
        let mut keep = |key: &str, same: bool| {
            if !same {
                fixed.push(format!("`{key}` of a running daemon cannot be changed; restart it for that"));
            }
        };
        keep("cluster.name", local.cluster == self.local.cluster);
        keep("id", settings.me == self.settings.me);
        keep("port", local.port == self.local.port);
        keep("cluster.state_dir", local.state_dir == self.local.state_dir);
        keep("control.socket", local.socket == self.local.socket);
        keep("interface` or `xdp", local.service == self.local.service);
        keep("cpu", local.cpu == self.local.cpu);
        if local.kind() == HostKind::Node {
            fixed.extend(groups::moved(&self.local, &local));
        }
        if fixed.is_empty() { Ok((settings, local)) } else { Err(refused(fixed.join("\n"))) }
    }

    /// Has the heartbeat thread go over to a configuration, and says in a few words what is other in it.
    pub(super) async fn go_over(
        &mut self,
        settings: Settings,
        local: Local,
        slots: Vec<GroupSlot>,
        service_address: Option<std::net::Ipv4Addr>,
    ) -> Result<String, ControlError> {
        let present = paths_of(&self.local);
        let sockets = Replacement::open(&settings, &paths_of(&local), Some((&self.settings, &present)))
            .map_err(|error| refused(format!("cannot open the heartbeat sockets: {error}")))?;
        let changes = changes(&self.settings, &settings, &local, &self.local);
        let generation = self.generation + 1;
        let id = self.answers.own_command();
        let reconfiguration = Reconfiguration {
            id,
            generation,
            settings: Box::new(settings.clone()),
            sockets,
            slots: slots.clone(),
            service_address,
        };
        if !self.mailbox.order(Order::Reconfigure(Box::new(reconfiguration))) {
            return Err(refused("the heartbeat thread takes no orders".to_owned()));
        }
        self.coming = Some(Coming { id, generation, settings, local, slots, overdue: None });
        let answered = async {
            loop {
                if let Some(outcome) = self.answers.own_outcome(id) {
                    return outcome.map_err(ControlError::from);
                }
                if let Err(error) = self.attend().await {
                    return Err(ControlError::new(ErrorCode::Internal, error.to_string()));
                }
            }
        };
        let outcome = tokio::time::timeout(PATIENCE, answered).await.unwrap_or_else(|_| {
            let message = "the heartbeat thread did not go over to the configuration in time; whether it will is unknown";
            Err(ControlError::new(ErrorCode::Timeout, message))
        });
        if let Err(ControlError { code: ErrorCode::Timeout, .. }) = outcome {
            self.wait_no_longer(changes.clone());
        }
        outcome.map(|()| changes)
    }

    /// The answer has not come in time. One that still comes is told, and until then no command can be said to mean a group.
    fn wait_no_longer(&mut self, changes: String) {
        if let Some(coming) = &mut self.coming {
            coming.overdue = Some(changes);
        }
        for call in std::mem::take(&mut self.held) {
            self.hold(call);
        }
    }

    /// Keeps a command that names a group while the heartbeat thread goes over to another configuration: there the group may
    /// have another place, or none.
    pub(super) fn hold(&mut self, call: Call) {
        let overdue = self.coming.as_ref().is_some_and(|coming| coming.overdue.is_some());
        if overdue || self.held.len() >= QUEUE {
            let message = "the daemon is going over to another configuration; nothing was done, try again";
            return call.answer(Err(ControlError::new(ErrorCode::Busy, message)));
        }
        self.held.push(call);
    }

    /// The heartbeat thread has answered a command, gone over to a configuration, or refused to.
    pub(super) fn replied(&mut self, id: CommandId, outcome: Result<(), Refusal>) {
        self.answers.reply(id, outcome);
        let coming = self.coming.as_ref().filter(|coming| coming.id == id);
        let Some((generation, overdue)) = coming.map(|coming| (coming.generation, coming.overdue.is_some()))
        else {
            return;
        };
        if overdue {
            // Nobody else asks for it.
            let _ = self.answers.own_outcome(id);
        }
        match outcome {
            Ok(()) => self.switch(generation),
            Err(refusal) => {
                self.coming = None;
                if overdue {
                    self.reloaded(Err(refusal.into()), None);
                }
                self.let_go();
            }
        }
    }

    /// The heartbeat thread speaks in terms of that configuration.
    pub(super) fn switch(&mut self, generation: u32) {
        if let Some(coming) = self.coming.take_if(|coming| coming.generation == generation) {
            self.generation = generation;
            self.settings = coming.settings;
            self.local = coming.local;
            self.slots = coming.slots;
            self.answers.warn(self.local.warnings.iter().map(ToString::to_string));
            if let Some(changes) = coming.overdue {
                self.reloaded(Ok(changes), None);
            }
            self.let_go();
        }
    }

    /// It is known by which configuration groups are named.
    fn let_go(&mut self) {
        for call in std::mem::take(&mut self.held) {
            self.call(call);
        }
    }

    /// Tells everybody what came of a reload, and the client that asked for it, if one did.
    pub(super) fn reloaded(&self, outcome: Result<String, ControlError>, asked: Option<Call>) {
        let (kind, text) = match &outcome {
            Ok(changes) => ("reloaded", format!("the configuration was read again: {changes}")),
            Err(error) => ("reload_refused", error.message.clone()),
        };
        self.record(EventBody::told(kind, text));
        if let Some(call) = asked {
            call.answer(outcome.map(|_| Reply::Done {}));
        }
    }
}

/// What is other in the new settings, for people.
fn changes(old: &Settings, new: &Settings, local: &Local, before: &Local) -> String {
    let mut changes = groups::changes(before, local);
    let name = |id| local.node_name(id).map_or_else(|| id.0.to_string(), str::to_owned);
    let ids = |settings: &Settings| settings.peers.iter().map(|peer| peer.id).collect::<Vec<_>>();
    let (before, after) = (ids(old), ids(new));
    let listed = |ids: Vec<String>| ids.join(", ");
    let added = listed(after.iter().filter(|id| !before.contains(id)).map(|&id| name(id)).collect());
    if !added.is_empty() {
        changes.push(format!("added {added}"));
    }
    let removed: Vec<_> = before.iter().filter(|id| !after.contains(id)).map(|id| id.0.to_string()).collect();
    if !removed.is_empty() {
        changes.push(format!("removed the nodes with the ids {}", listed(removed)));
    }
    let voters = |settings: &Settings| cluster_proto::VoterSet::of(settings).voters;
    if voters(old) != voters(new) {
        changes.push(format!("voters {}", listed(voters(new).iter().map(name).collect())));
    }
    if old.quorum != new.quorum {
        changes.push(format!(
            "quorum {}",
            match new.quorum {
                Quorum::Off => "off",
                Quorum::Majority => "majority",
            }
        ));
    }
    let timing = |settings: &Settings| {
        let timing = settings.timing;
        (timing.heartbeat, timing.lease, timing.dead_after)
    };
    if timing(old) != timing(new) {
        let (heartbeat, lease, dead_after) = timing(new);
        changes.push(format!("heartbeat {heartbeat:?}, lease {lease:?}, dead_after {dead_after:?}"));
    }
    let keys = |settings: &Settings| settings.keys.iter().map(|key| key.0).collect::<Vec<_>>();
    if keys(old) != keys(new) {
        changes.push(format!("{} keys", new.keys.len()));
    }
    let order = |settings: &Settings| {
        let groups = settings.groups.iter();
        groups
            .map(|group| (group.id, (group.prefer.clone(), group.failback, group.gateway)))
            .collect::<BTreeMap<_, _>>()
    };
    let (placed, before) = (order(new), order(old));
    if placed.iter().any(|(id, placing)| before.get(id).is_some_and(|before| before != placing)) {
        changes.push("how groups are placed".to_owned());
    }
    if changes.is_empty() {
        "nothing that concerns the election is other".to_owned()
    } else {
        changes.join("; ")
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::future::poll_fn;
    use std::os::unix::fs::PermissionsExt as _;
    use std::pin::pin;
    use std::task::Poll;

    use cluster_proto::{Command, GroupIndex, MembershipRefusal};
    use tokio::sync::{mpsc, oneshot};

    use super::super::Inbox;
    use super::super::answers::Answers;
    use super::super::installed::Installed;
    use super::*;
    use crate::control::{EventLog, Request};
    use crate::driver::clock;
    use crate::driver::mailbox::{Shown, Task, ThreadEnd, mailbox};
    use crate::driver::wake::Wake;
    use crate::epoch_file::EpochFile;
    use crate::memory_file::MemoryFile;
    use cluster_proto::Incarnation;

    /// A daemon whose heartbeat thread and clients are the test.
    struct Place {
        directory: PathBuf,
        daemon: Daemon,
        thread: ThreadEnd,
        calls: mpsc::Sender<Call>,
    }

    impl Place {
        fn new(name: &str) -> Self {
            let directory =
                std::env::temp_dir().join(format!("cluster-reload-{}-{name}", std::process::id()));
            fs::create_dir_all(&directory).unwrap();
            let key = directory.join("key");
            fs::write(&key, "5a".repeat(32)).unwrap();
            fs::set_permissions(&key, fs::Permissions::from_mode(0o600)).unwrap();
            let (settings, local) = configuration(&directory, &["web"]);
            let (thread, daemon_end) = mailbox().unwrap();
            let wake = Wake::new(daemon_end.wake_daemon()).unwrap();
            let (calls_in, calls) = mpsc::channel(QUEUE);
            let (written_in, written) = mpsc::channel(QUEUE);
            let (counts_in, counts) = mpsc::channel(QUEUE);
            let (checks, checked) = mpsc::channel(1);
            let source =
                Source { file: directory.join("file"), node: "a".to_owned(), socket: None, pin_only: false };
            let daemon = Daemon {
                settings,
                local,
                source,
                generation: 0,
                coming: None,
                reloads: Vec::new(),
                held: Vec::new(),
                handed_over: Vec::new(),
                kin: Vec::new(),
                traced: None,
                replacing: None,
                installed: Installed::of_this_process(),
                run: Incarnation(1),
                checks,
                started: clock::now(),
                mailbox: daemon_end,
                thread: std::thread::spawn(|| {}),
                epochs: EpochFile::open(&directory).unwrap(),
                events: EventLog::new(),
                answers: Answers::new(Vec::new(), true, Shown::default()),
                plane: None,
                slots: Vec::new(),
                chain: None,
                xdp: "none",
                inbox: Inbox { wake, calls, counts, written, checked },
                memory: MemoryFile::new(&directory),
                written: written_in,
                counts: counts_in,
            };
            Self { directory, daemon, thread, calls: calls_in }
        }

        /// Has the daemon go over to a file with these groups, as far as it comes without an answer. Gives what the answer is
        /// to name.
        async fn go_over(&mut self, groups: &[&str]) -> CommandId {
            let (settings, local) = configuration(&self.directory, groups);
            {
                let mut going = pin!(self.daemon.go_over(settings, local, Vec::new(), None));
                let first = poll_fn(|context| Poll::Ready(going.as_mut().poll(context))).await;
                assert!(first.is_pending(), "the thread has not answered");
            }
            match self.thread.order() {
                Some(Order::Reconfigure(reconfiguration)) => reconfiguration.id,
                other => panic!("{other:?}"),
            }
        }

        async fn ask(&self, request: Request) -> oneshot::Receiver<Result<Reply, ControlError>> {
            let (call, caller) = Call::new(request);
            self.calls.send(call).await.unwrap();
            caller.answer
        }

        /// The heartbeat thread answers.
        async fn answer(&mut self, id: CommandId, outcome: Result<(), Refusal>) {
            self.thread.task(Task::Reply(id, outcome)).unwrap();
            self.thread.flush();
            self.daemon.attend().await.unwrap();
        }

        fn told(&self) -> Vec<String> {
            self.daemon.events.after(0, 100).events.iter().map(|event| event.body.kind.clone()).collect()
        }
    }

    impl Drop for Place {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.directory);
        }
    }

    fn configuration(directory: &std::path::Path, groups: &[&str]) -> (Settings, Local) {
        let place = directory.display();
        let mut text =
            format!("[cluster]\nname = \"c\"\nkey_file = \"{place}/key\"\nstate_dir = \"{place}\"\n");
        for (node, number) in [("a", 1), ("b", 2)] {
            let addresses = format!("[\"10.78.0.{number}\", \"10.77.0.{number}\"]");
            text += &format!("[[node]]\nname = \"{node}\"\ninterface = \"eth0\"\naddresses = {addresses}\n");
        }
        for (group, number) in groups.iter().zip(100..) {
            text += &format!("[[group]]\nname = \"{group}\"\nvips = [\"10.77.0.{number}/24\"]\n");
        }
        let config = Config::parse(&text, &directory.join("file")).unwrap();
        config.settings("a").unwrap()
    }

    fn demote(group: &str) -> Request {
        Request::Demote { group: group.to_owned(), force: false }
    }

    #[tokio::test]
    async fn a_command_waits_until_it_is_known_which_group_it_means() {
        let mut place = Place::new("held");
        let answers = [place.ask(demote("web")).await, place.ask(demote("mail")).await];
        let id = place.go_over(&["mail", "web"]).await;
        assert!(place.thread.order().is_none(), "in the new file another group has that place");
        place.answer(id, Ok(())).await;
        for (group, mut answer) in [1, 0].into_iter().zip(answers) {
            let group = GroupIndex(group);
            let Some(Order::Command(id, command)) = place.thread.order() else { panic!("no command") };
            assert_eq!(command, Command::Demote { group, force: false });
            place.answer(id, Ok(())).await;
            assert!(answer.try_recv().unwrap().is_ok());
        }
    }

    #[tokio::test]
    async fn a_command_means_the_present_groups_when_the_new_file_is_refused() {
        let mut place = Place::new("refused");
        let _answer = place.ask(demote("web")).await;
        let id = place.go_over(&["mail", "web"]).await;
        place.answer(id, Err(Refusal::Membership(MembershipRefusal::Unsettled))).await;
        let Some(Order::Command(_, command)) = place.thread.order() else { panic!("no command") };
        assert_eq!(command, Command::Demote { group: GroupIndex(0), force: false });
    }

    #[tokio::test]
    async fn a_refusal_that_comes_late_leaves_room_for_the_next_file() {
        let mut place = Place::new("late-refusal");
        let id = place.go_over(&["mail", "web"]).await;
        place.daemon.wait_no_longer("group mail added".to_owned());
        place.answer(id, Err(Refusal::Membership(MembershipRefusal::Unsettled))).await;
        assert_eq!(place.told(), ["reload_refused"]);
        let id = place.go_over(&["mail"]).await;
        place.answer(id, Ok(())).await;
        assert_eq!(place.daemon.local.groups[0].name, "mail");
    }

    #[tokio::test]
    async fn a_file_that_is_taken_up_late_is_told_and_no_command_waits_for_it() {
        let mut place = Place::new("late");
        let mut early = place.ask(demote("web")).await;
        let id = place.go_over(&["mail", "web"]).await;
        place.daemon.wait_no_longer("group mail added".to_owned());
        let mut late = place.ask(demote("web")).await;
        place.daemon.attend().await.unwrap();
        for answer in [&mut early, &mut late] {
            assert_eq!(answer.try_recv().unwrap().unwrap_err().code, ErrorCode::Busy);
        }
        place.answer(id, Ok(())).await;
        assert_eq!(place.told(), ["reloaded"]);
        assert_eq!(place.daemon.local.groups.len(), 2);
        assert!(place.thread.order().is_none());
    }
}
