//! What the lab sees from outside: as a client, on the wire, and of the machine itself.
//!
//! - [`requests`]: a client asking the VIP all the time: outages, lost requests, who served; [`echo`] answers it.
//! - [`connections`]: TCP connections to the VIP that are never at rest: which broke, how long each stood still.
//! - [`answers`]: questions who has the VIP, in the form of a `question`, each of which must be answered by at most one node.
//! - [`announcements`]: who announces a VIP.
//! - [`capture`]: what leaves a node with a VIP as its source.
//! - [`journeys`]: how often the nodes of an active/active group send a packet on.
//! - [`beats`]: when a node's heartbeats, or a rival's advertisements, reach its switch port.
//! - [`canary`]: whether the machine itself stood still, which spoils a measurement.
//!
//! Every probe runs on threads of its own from `start` until it is finished or dropped, and may be asked meanwhile.

pub mod announcements;
pub mod answers;
pub mod beats;
pub mod canary;
pub mod capture;
pub mod connections;
pub mod download;
mod ear;
pub mod echo;
pub mod journeys;
pub(crate) mod question;
pub mod requests;
pub(super) mod worker;

pub use announcements::Announcements;
pub use answers::AnswerProbe;
pub use beats::Beats;
pub use canary::Canary;
pub use capture::Capture;
pub use connections::{Connections, StreamServer};
pub use echo::EchoServer;
pub use journeys::Journeys;
pub use requests::RequestProbe;
