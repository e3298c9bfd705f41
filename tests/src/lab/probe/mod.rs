//! What the lab sees from outside: as a client, on the wire, and of the machine itself.
//!
//! - [`requests`]: a client asking the VIP all the time: outages, lost requests, who served; [`echo`] answers it.
//! - [`answers`]: ARP requests for the VIP, each of which must be answered by at most one node.
//! - [`capture`]: what leaves a node with the VIP as its source.
//! - [`beats`]: when a node's heartbeats, or a rival's advertisements, reach its switch port.
//! - [`canary`]: whether the machine itself stood still, which spoils a measurement.
//!
//! Every probe runs on threads of its own from `start` until it is finished or dropped, and may be asked meanwhile.

pub mod answers;
pub mod beats;
pub mod canary;
pub mod capture;
mod ear;
pub mod echo;
pub mod requests;
pub(super) mod worker;

pub use answers::AnswerProbe;
pub use beats::Beats;
pub use canary::Canary;
pub use capture::Capture;
pub use echo::EchoServer;
pub use requests::RequestProbe;
