//! Reading the configuration again while the daemon runs: what may change, and how the daemon and its heartbeat thread go
//! over to it. A file that cannot be used changes nothing.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use cluster_proto::{Quorum, Settings};

use super::{Daemon, groups, paths_of};
use crate::config::{Config, HostKind, Local};
use crate::control::{Call, ControlError, ErrorCode, EventBody, Reply};
use crate::dataplane::GroupSlot;
use crate::driver::mailbox::{Order, Reconfiguration};
use crate::driver::path_sockets::Replacement;

/// How long the heartbeat thread may take to go over.
const PATIENCE: Duration = Duration::from_secs(5);

/// Where the configuration came from.
#[derive(Clone, Debug)]
pub(super) struct Source {
    pub(super) file: PathBuf,
    pub(super) node: String,
    /// The control socket, if the command line named it.
    pub(super) socket: Option<PathBuf>,
}

/// A configuration that the heartbeat thread is about to go over to.
pub(super) struct Coming {
    pub(super) generation: u32,
    pub(super) settings: Settings,
    pub(super) local: Local,
    pub(super) slots: Vec<GroupSlot>,
}

impl Source {
    /// Reads the file anew.
    fn read(&self) -> Result<(Settings, Local), ControlError> {
        let config = Config::load(&self.file).map_err(|errors| refused(errors.to_string()))?;
        let (settings, mut local) =
            config.settings(&self.node).map_err(|error| refused(error.to_string()))?;
        if let Some(socket) = &self.socket {
            socket.clone_into(&mut local.socket);
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
        self.coming = Some(Coming { generation, settings, local, slots });
        self.order(Order::Reconfigure(Box::new(reconfiguration)));
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
        match outcome {
            Ok(()) => {
                self.switch(generation);
                Ok(changes)
            }
            Err(error) => {
                // One that comes too late is still known by its generation.
                if error.code != ErrorCode::Timeout {
                    self.coming = None;
                }
                Err(error)
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
