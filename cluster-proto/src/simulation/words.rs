//! What the timeline says: messages, events and troubles in words.

use std::fmt;
use std::time::Duration;

use crate::interface::EventKind;
use crate::wire::{Kind, Message};

use super::plan::What;

/// A message in a few words.
pub(super) fn describe(bytes: &[u8]) -> String {
    let Ok(message) = Message::parse(bytes) else { return format!("{} broken bytes", bytes.len()) };
    let header = message.header;
    let kind = match header.kind {
        Kind::Heartbeat => "heartbeat",
        Kind::Acknowledgement => "ack",
        Kind::Introduction => "introduction",
        Kind::Spread => "table",
    };
    let mut words = format!("{kind} #{} of {}", header.sequence, header.node.0);
    if !header.voting {
        words += " (not voting)";
    }
    if header.restarts {
        words += &format!(" (restarts, leases of up to {:?})", header.lease);
    }
    if header.keeps_long {
        words += " (keeps long promises)";
    }
    for claim in message.claims() {
        words += &format!(", {:?} {}", claim.stand, claim.epoch);
    }
    if header.parts > 1 {
        words += &format!(" part {} of {}", header.part + 1, header.parts);
    }
    if header.held {
        words += &format!(", votes for all held in state {}", header.known);
    }
    for vote in message.votes() {
        words += &format!(", votes for {}", vote.epoch);
    }
    words
}

/// An event, role changes in the words of the design.
pub(super) fn event_in_words(kind: EventKind) -> String {
    match kind {
        EventKind::Transition { group, from, to, cause, epoch, .. } => {
            let epoch = epoch.map(|epoch| format!(", epoch {epoch}")).unwrap_or_default();
            format!("ROLE group {}: {from:?} to {to:?}, because of {cause:?}{epoch}", group.0)
        }
        other => format!("event {other:?}"),
    }
}

fn members(bits: u32) -> Vec<u32> {
    (0..32).filter(|host| bits >> host & 1 == 1).collect()
}

impl fmt::Display for What {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let disk = |lost: bool| if lost { ", with its disk" } else { "" };
        match *self {
            Self::PathCut { from, to, path } => write!(f, "path {path} from node {from} to {to} is cut"),
            Self::DirectionCut { from, to } => write!(f, "no heartbeat passes from node {from} to {to}"),
            Self::HeartbeatsCut { one, other } => {
                write!(f, "no heartbeat passes between nodes {one} and {other}")
            }
            Self::Split { first, second } => {
                write!(f, "nodes {:?}", members(first))?;
                let second = members(second & !first);
                if !second.is_empty() {
                    write!(f, ", nodes {second:?}")?;
                }
                f.write_str(" and the rest do not reach each other")
            }
            Self::DirectedCuts { seed, chance } => {
                write!(f, "{} % of all directions carry no heartbeat (seed {seed})", chance / 10_000)
            }
            Self::Deaf { node } => write!(f, "node {node} hears nobody"),
            Self::Mute { node } => write!(f, "nobody hears node {node}"),
            Self::Partition { one, other } => write!(f, "nothing passes between nodes {one} and {other}"),
            Self::ServicePort { node, inward, outward } => {
                write!(f, "node {node}'s service port is cut (inward {inward}, outward {outward})")
            }
            Self::PrivatePort { node } => write!(f, "node {node}'s private port is cut"),
            Self::Slow { from, to, by } => {
                write!(f, "the way from node {from} to {to} is slower by {:?}", Duration::from_nanos(by))
            }
            Self::Pause { node } => write!(f, "node {node}'s daemon is stopped"),
            Self::Crash { node, disk_lost } => write!(f, "node {node}'s daemon is killed{}", disk(disk_lost)),
            Self::PowerOff { node, disk_lost } => write!(f, "node {node} loses power{}", disk(disk_lost)),
            Self::Link { node, gone } => {
                write!(
                    f,
                    "node {node}'s service interface {}",
                    if gone { "is gone" } else { "loses its carrier" }
                )
            }
            Self::AddressFails { node } => write!(f, "node {node} cannot configure addresses"),
            Self::DiskFails { node } => write!(f, "node {node} cannot write its disk"),
            Self::Command { node, command } => write!(f, "node {node} is told: {command:?}"),
            Self::Garbage { node } => write!(f, "node {node} gets forged and recorded datagrams"),
            Self::Torn { node, other, crash } => write!(
                f,
                "node {node} is {} and cut off (from node {other} of a pair)",
                if crash { "killed" } else { "stopped" }
            ),
            Self::PassiveCrash => f.write_str("a node that holds nothing loses its daemon"),
            Self::HolderLost { how } => write!(f, "the holder is lost: {how:?}"),
            Self::Restart { node, away } => match away {
                Some(away) => {
                    write!(f, "node {node}'s daemon is replaced within {:?}", Duration::from_nanos(away))
                }
                None => write!(f, "node {node}'s daemon is to be replaced, and the next one never comes"),
            },
            Self::Reload { node, back } => {
                write!(f, "node {node} reads {}", if back { "the file before" } else { "its next file" })
            }
        }
    }
}
