//! Every set of one-way cuts between three members of a cluster.
//!
//! Who the three are is said when the cuts are made, so that the same set can be tried with each node as the holder.

use std::fmt::Write as _;

use super::topology::Lab;

/// The three pairs.
const PAIRS: [(usize, usize); 3] = [(0, 1), (0, 2), (1, 2)];
/// The six ways between them, from and to.
const WAYS: [(usize, usize); 6] = [(0, 1), (1, 0), (0, 2), (2, 0), (1, 2), (2, 1)];

/// Who does not reach whom, by place: bit *i* is set if the way `WAYS[i]` is cut.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Cuts(u8);

impl Cuts {
    /// Nothing is cut.
    pub const NONE: Self = Self(0);

    /// Every set, [`Cuts::NONE`] first: 64.
    pub fn all() -> impl Iterator<Item = Self> {
        (0..1 << WAYS.len()).map(Self)
    }

    /// Whether nothing of the member in place `from` reaches the one in place `to`.
    #[must_use]
    pub fn cuts(self, from: usize, to: usize) -> bool {
        WAYS.iter().position(|&way| way == (from, to)).is_some_and(|bit| self.0 & (1 << bit) != 0)
    }

    /// Whether two of the three, a majority, hear each other.
    #[must_use]
    pub fn leave_a_majority(self) -> bool {
        PAIRS.iter().any(|&(one, other)| self.leave_a_pair(one, other))
    }

    /// Whether the member in this place and another one hear each other.
    #[must_use]
    pub fn leave_a_majority_with(self, place: usize) -> bool {
        (0..3).any(|other| other != place && self.leave_a_pair(place, other))
    }

    /// Makes these cuts, in place of any that were made before, between the lab's nodes and witnesses of these names.
    ///
    /// # Errors
    /// When the switch refuses.
    pub fn apply(self, lab: &Lab, members: [&str; 3]) -> anyhow::Result<()> {
        for (to, name) in members.iter().enumerate() {
            let unheard: Vec<&str> = members
                .iter()
                .enumerate()
                .filter(|&(from, _)| self.cuts(from, to))
                .map(|(_, name)| *name)
                .collect();
            lab.deafen(name, &unheard)?;
        }
        Ok(())
    }

    /// The cuts in words, with these names for the places.
    #[must_use]
    pub fn words(self, places: [&str; 3]) -> String {
        let mut words = String::new();
        for (from, to) in WAYS.into_iter().filter(|&(from, to)| self.cuts(from, to)) {
            let comma = if words.is_empty() { "" } else { ", " };
            let _ = write!(words, "{comma}{} ↛ {}", places[from], places[to]);
        }
        if words.is_empty() { "nothing".to_owned() } else { words }
    }

    fn leave_a_pair(self, one: usize, other: usize) -> bool {
        !self.cuts(one, other) && !self.cuts(other, one)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_set_is_there_once_and_half_a_connection_is_none() {
        let all: Vec<Cuts> = Cuts::all().collect();
        assert_eq!(all.len(), 64);
        // A pair hears each other in one of four cases; 3 × 3 × 3 sets leave no pair.
        assert_eq!(all.iter().filter(|cuts| !cuts.leave_a_majority()).count(), 27);
        assert_eq!(all.iter().filter(|cuts| cuts.leave_a_majority_with(0)).count(), 4 * (16 - 9));
        let words: std::collections::BTreeSet<String> =
            all.iter().map(|cuts| cuts.words(["a", "b", "c"])).collect();
        assert_eq!(words.len(), 64);
        assert_eq!(Cuts(0b10_0001).words(["a", "b", "c"]), "a ↛ b, c ↛ b");
    }
}
