//! Authentic heartbeats of the lab's cluster with one thing wrong. Whoever can make these has the key; what they show is
//! that the other checks hold by themselves.

use anyhow::Context as _;
use cluster_proto::wire::{Authenticator, Content, Header, Message, emit};
use cluster_proto::{Key, NodeId};

/// The lab's key, as `tests/src/lab/cluster.rs` writes it.
const KEY: Key = Key([0x5a; 32]);

/// Signs the header that `change` makes of the one in `template`, with the template's claims and votes.
///
/// # Errors
/// When the template is no message of the lab's cluster.
pub fn resigned(template: &[u8], change: impl FnOnce(&mut Header)) -> anyhow::Result<Vec<u8>> {
    resigned_with(template, &KEY, change)
}

/// As [`resigned`], with a key that is not the cluster's.
///
/// # Errors
/// When the template is no message.
pub fn with_another_key(template: &[u8]) -> anyhow::Result<Vec<u8>> {
    resigned_with(template, &Key([0xa5; 32]), |_| {})
}

/// The message with other versions in it: the newest its sender speaks and the oldest it understands.
///
/// # Errors
/// When the template is no message.
pub fn of_versions(template: &[u8], newest: u8, oldest: u8) -> anyhow::Result<Vec<u8>> {
    header(template)?;
    let mut bytes = template.to_vec();
    bytes[0] = newest;
    bytes[1] = oldest;
    Ok(bytes)
}

/// The header of a recorded message.
///
/// # Errors
/// When it is none.
pub fn header(bytes: &[u8]) -> anyhow::Result<Header> {
    Ok(Message::parse(bytes).context("a recorded datagram is no message")?.header)
}

/// A node id that no node of the lab has.
#[must_use]
pub fn nobody(nodes: &[NodeId]) -> NodeId {
    (1..=u16::MAX).map(NodeId).find(|id| !nodes.contains(id)).unwrap_or(NodeId(0))
}

fn resigned_with(template: &[u8], key: &Key, change: impl FnOnce(&mut Header)) -> anyhow::Result<Vec<u8>> {
    let message = Message::parse(template).context("a recorded datagram is no message")?;
    let mut header = message.header;
    change(&mut header);
    let served: Vec<_> = message.served().collect();
    let (claims, votes): (Vec<_>, Vec<_>) = (message.claims().collect(), message.votes().collect());
    let content = Content { claims: &claims, votes: &votes, served: &served };
    let mut out = Vec::new();
    emit(&mut out, &header, content, &Authenticator::new(key));
    Ok(out)
}
