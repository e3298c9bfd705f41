//! What a daemon that is replaced in place hands to the next one, in an environment variable: it dies with the process, and
//! what it says of a lease holds for that lease only.

use cluster_proto::{GroupIndex, Resumed, ResumedGroup, ResumedLease, Settings, Time};
use serde::{Deserialize, Serialize};

/// What is handed on.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(super) struct HandedOn {
    /// The version of the daemon that hands it on.
    pub(super) version: String,
    /// When, in nanoseconds of `CLOCK_BOOTTIME`.
    pub(super) at_ns: u64,
    #[serde(default)]
    drained: bool,
    #[serde(default)]
    groups: Vec<Group>,
}

#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
struct Group {
    /// On the wire.
    id: u32,
    #[serde(default)]
    by_hand: bool,
    #[serde(default)]
    abstains: bool,
    #[serde(default)]
    lease: Option<Lease>,
}

#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
struct Lease {
    until_ns: u64,
    #[serde(default)]
    voted: bool,
    #[serde(default)]
    forced: bool,
}

impl HandedOn {
    /// The environment variable.
    pub(super) const VARIABLE: &str = "CLUSTERD_HANDED_ON";

    /// Of a daemon with these settings.
    pub(super) fn new(resumed: &Resumed, settings: &Settings, now: Time) -> Self {
        let groups = resumed.groups.iter().filter_map(|&(GroupIndex(index), group)| {
            let lease = group.lease.map(|lease| Lease {
                until_ns: lease.until.as_nanos(),
                voted: lease.voted,
                forced: lease.forced,
            });
            let id = settings.groups.get(index)?.id.0;
            Some(Group { id, by_hand: group.by_hand, abstains: group.abstains, lease })
        });
        Self {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            at_ns: now.as_nanos(),
            drained: resumed.drained,
            groups: groups.collect(),
        }
    }

    /// What the daemon before this one has handed on, if it was replaced.
    pub(super) fn taken() -> Option<Self> {
        let text = std::env::var(Self::VARIABLE).ok()?;
        let read = serde_json::from_str(&text);
        if let Err(error) = &read {
            tracing::warn!(%error, "what the daemon before this one has handed on cannot be read");
        }
        read.ok()
    }

    pub(super) fn written(&self) -> serde_json::Result<String> {
        serde_json::to_string(self)
    }

    /// The same in terms of this daemon's settings, which may be others.
    pub(super) fn resumed(&self, settings: &Settings) -> Resumed {
        let groups = self.groups.iter().filter_map(|group| {
            let index = settings.groups.iter().position(|known| known.id.0 == group.id)?;
            let lease = group.lease.as_ref().map(|lease| ResumedLease {
                until: Time::from_nanos(lease.until_ns),
                voted: lease.voted,
                forced: lease.forced,
            });
            let group = ResumedGroup { by_hand: group.by_hand, abstains: group.abstains, lease };
            Some((GroupIndex(index), group))
        });
        Resumed { drained: self.drained, groups: groups.collect() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_later_version_may_say_more_and_an_earlier_one_less() {
        let text = r#"{"version":"9.9.9","at_ns":5,"more":1,"groups":[{"id":7,"lease":{"until_ns":8,"other":true}}]}"#;
        let handed_on: HandedOn = serde_json::from_str(text).unwrap();
        assert!(!handed_on.drained);
        let lease = Some(Lease { until_ns: 8, voted: false, forced: false });
        assert_eq!(handed_on.groups, [Group { id: 7, by_hand: false, abstains: false, lease }]);
        let again: HandedOn = serde_json::from_str(&handed_on.written().unwrap()).unwrap();
        assert_eq!(again, handed_on);
    }
}
