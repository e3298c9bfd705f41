//! What must be true of the state after every input; checked in debug builds.

use crate::interface::{Role, Side};
use crate::time::Time;

use super::Core;
use super::group::{Fault, Stage};

impl Core {
    /// # Panics
    /// In debug builds, if the state contradicts itself.
    pub(super) fn check_invariants(&self, now: Time) {
        if !cfg!(debug_assertions) {
            return;
        }
        for (index, group) in self.groups.iter().enumerate() {
            let term = self.longest_lease;
            if let Stage::Active(tenure) = group.stage {
                debug_assert_eq!(tenure.epoch.node, self.settings.me, "holds only its own epochs");
                debug_assert!(
                    tenure.lapse.is_none() || tenure.until == Time::ZERO,
                    "a lapsed lease is no lease"
                );
                let adopted = group.cause == crate::Cause::Adopted || group.role == Role::Init;
                debug_assert!(adopted || tenure.until <= now + term, "no lease outlasts L from now");
                debug_assert!(self.link_is_up(), "no lease without the service interface");
                debug_assert!(
                    group.binding_promise(now).is_none(),
                    "whoever holds has promised the group to nobody else"
                );
            }
            if let Stage::Standing(candidacy) | Stage::Ready(candidacy) = group.stage {
                debug_assert_eq!(candidacy.epoch.node, self.settings.me, "asks only for its own epochs");
                debug_assert!(group.top >= Some(candidacy.epoch), "no epoch above the highest seen");
            }
            let receives = group.side() == Some(Side::New);
            debug_assert!(
                !receives || matches!(group.stage, Stage::Ready(_) | Stage::Active(_)),
                "only who takes a group accepts what its old holder sends over"
            );
            debug_assert!(
                !group.serves_connections() || !matches!(group.stage, Stage::Active(_)),
                "a holder lets nothing go"
            );
            let matches = match group.stage {
                Stage::Init => group.role == Role::Init,
                Stage::Passive | Stage::Standing(_) | Stage::Ready(_) => group.role == Role::Passive,
                // An adopted lease is shown with the first tick.
                Stage::Active(_) => group.role == Role::Active || group.role == Role::Init,
                Stage::Fault(Fault::Link | Fault::Address { .. }) => group.role == Role::Fault,
            };
            debug_assert!(matches, "group {index} shows {:?} in {:?}", group.role, group.stage);
            debug_assert!(
                matches!(group.stage, Stage::Active(_)) || group.announcing.is_none(),
                "only a holder announces"
            );
        }
    }
}
