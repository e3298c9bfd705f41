//! A sliding window of sequence numbers (as in RFC 4303, section 3.4.3): each number is accepted once, and none that
//! is older than the window.

/// The numbers seen of one sender on one path.
#[derive(Clone, Copy, Default, Debug)]
pub(crate) struct ReplayWindow {
    highest: u64,
    seen: u128,
}

impl ReplayWindow {
    /// Takes note of a number. Returns how many numbers were skipped to reach it, or `None` if it was seen before or is
    /// too old to tell.
    pub(crate) fn accept(&mut self, sequence: u64) -> Option<u64> {
        if sequence > self.highest || self.seen == 0 {
            let ahead = sequence.saturating_sub(self.highest);
            let first = self.seen == 0;
            self.seen = if ahead >= 128 { 0 } else { self.seen << ahead };
            self.seen |= 1;
            self.highest = sequence;
            return Some(if first { 0 } else { ahead.saturating_sub(1) });
        }
        let behind = self.highest - sequence;
        if behind >= 128 || self.seen & (1 << behind) != 0 {
            return None;
        }
        self.seen |= 1 << behind;
        Some(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::HashSet;

    #[test]
    fn each_number_counts_once() {
        let mut window = ReplayWindow::default();
        assert_eq!(window.accept(5), Some(0), "the first is no loss, whatever its number");
        assert_eq!(window.accept(5), None);
        assert_eq!(window.accept(8), Some(2));
        assert_eq!(window.accept(6), Some(0), "late, but not seen");
        assert_eq!(window.accept(6), None);
        assert_eq!(window.accept(200), Some(191));
        assert_eq!(window.accept(8), None, "older than the window");
        assert_eq!(window.accept(u64::MAX), Some(u64::MAX - 201));
    }

    proptest! {
        #[test]
        fn nothing_is_accepted_twice(numbers in proptest::collection::vec(0..400_u64, 1..600)) {
            let mut window = ReplayWindow::default();
            let mut accepted = HashSet::new();
            for number in numbers {
                if window.accept(number).is_some() {
                    prop_assert!(accepted.insert(number));
                }
            }
        }
    }
}
