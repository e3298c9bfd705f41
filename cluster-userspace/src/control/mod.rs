//! The control socket: how operators and scripts see and steer a running daemon (docs/control-socket.md).
//!
//! `request` has what is asked and refused, `status`, `stats`, `trace` and `event` what is answered; all of it reads and writes
//! JSON, so that the daemon, `clusterctl` and the tests share one definition. `server` answers on the socket,
//! `event_log` keeps the newest events for it, `client` is the other end, and `render` shows answers to people.
//!
//! What is not here: carrying out a request. The daemon takes each [`Call`] from a channel and answers it; the server
//! knows neither the election core nor the data plane.

mod client;
mod event;
mod event_log;
mod plan;
pub mod render;
mod request;
mod server;
mod stats;
pub(crate) mod status;
pub mod trace;
pub(crate) mod wall_clock;

pub use client::{Client, ClientError, Follow};
pub use event::{EventBody, EventPath, EventRecord, TimelineMicros, cause_name, role_name};
pub use event_log::{EventBatch, EventLog, KEPT_EVENTS};
pub use plan::{Plan, PlannedGroup, Share};
pub use request::{Answer, ControlError, ErrorCode, MAX_LINE_BYTES, Request};
pub use server::{Answered, BindError, Call, ControlSocket, MAX_CLIENTS, Reply};
pub use stats::{GroupStats, LoopStats, PeerStats, Stats};
pub use status::{
    DatagramsDropped, GroupStatus, Observation, PathStatus, PeerStatus, QuorumStatus, Status, VotersChange,
};
