//! How many tests passed, failed and were skipped, read from what a test runner prints.

use std::fmt;
use std::ops::AddAssign;

/// Counts of tests.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub(crate) struct Counts {
    /// Those that passed.
    pub(crate) passed: u64,
    /// Those that failed, timed out or could not be started.
    pub(crate) failed: u64,
    /// Those that were not run.
    pub(crate) skipped: u64,
}

impl fmt::Display for Counts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} passed, {} failed, {} skipped", self.passed, self.failed, self.skipped)
    }
}

impl AddAssign for Counts {
    fn add_assign(&mut self, other: Self) {
        self.passed += other.passed;
        self.failed += other.failed;
        self.skipped += other.skipped;
    }
}

impl Counts {
    /// Reads a line such as `Summary [ 1.2s] 9 tests run: 7 passed (1 slow), 1 failed, 1 timed out, 3 skipped` of
    /// cargo-nextest. None on any other line, such as those that it passes on from a test program.
    pub(crate) fn of_nextest(line: &str) -> Option<Self> {
        let line = without_colors(line);
        let (_, counts) = line.trim_start().strip_prefix("Summary [")?.split_once(" run: ")?;
        Some(Self::of_list(counts.split(',')))
    }

    /// Reads a line such as `test result: ok. 7 passed; 0 failed; 1 ignored; …` of cargo test. None on any other line.
    pub(crate) fn of_cargo_test(line: &str) -> Option<Self> {
        let line = without_colors(line);
        let (_, counts) = line.strip_prefix("test result: ")?.split_once(". ")?;
        Some(Self::of_list(counts.split(';')))
    }

    fn of_list<'a>(items: impl Iterator<Item = &'a str>) -> Self {
        let mut counts = Self::default();
        for item in items {
            let Some((number, what)) = item.trim().split_once(' ') else { continue };
            let Ok(number) = number.parse::<u64>() else { continue };
            // cargo-nextest adds details in parentheses, such as `(1 slow)`.
            match what.split(" (").next().unwrap_or_default() {
                "passed" => counts.passed += number,
                "failed" | "timed out" | "exec failed" => counts.failed += number,
                "skipped" | "ignored" => counts.skipped += number,
                _ => {}
            }
        }
        counts
    }
}

/// The line without terminal colours: escape, bracket, parameters, letter.
fn without_colors(line: &str) -> String {
    let mut plain = String::with_capacity(line.len());
    let mut characters = line.chars();
    while let Some(character) = characters.next() {
        if character == '\u{1b}' {
            let _parameters = characters.find(char::is_ascii_alphabetic);
        } else {
            plain.push(character);
        }
    }
    plain
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counts(passed: u64, failed: u64, skipped: u64) -> Option<Counts> {
        Some(Counts { passed, failed, skipped })
    }

    #[test]
    fn nextests_summary_is_read() {
        let line = "     Summary [   1.234s] 12 tests run: 9 passed (1 slow, 1 leaky), 2 failed, 1 timed out, 4 skipped";
        assert_eq!(Counts::of_nextest(line), counts(9, 3, 4));
        let line = "     Summary [   0.012s] 1 test run: 1 passed, 0 skipped";
        assert_eq!(Counts::of_nextest(line), counts(1, 0, 0));
        let line = "     Summary [   0.012s] 3/9 tests run: 2 passed, 1 failed, 0 skipped";
        assert_eq!(Counts::of_nextest(line), counts(2, 1, 0));
    }

    #[test]
    fn colours_do_not_matter() {
        let line = "\u{1b}[32;1m     Summary\u{1b}[0m [   0.004s] \u{1b}[1m2\u{1b}[0m tests run: \
                    \u{1b}[1m2\u{1b}[0m \u{1b}[32;1mpassed\u{1b}[0m, \u{1b}[1m0\u{1b}[0m \u{1b}[33;1mskipped\u{1b}[0m";
        assert_eq!(Counts::of_nextest(line), counts(2, 0, 0));
        let line =
            "test result: \u{1b}[32mok\u{1b}[0m. 2 passed; 0 failed; 0 ignored; 0 measured; 0 filtered out";
        assert_eq!(Counts::of_cargo_test(line), counts(2, 0, 0));
    }

    #[test]
    fn cargo_tests_result_is_read() {
        let line = "test result: FAILED. 3 passed; 1 failed; 2 ignored; 0 measured; 5 filtered out; finished in 0.00s";
        assert_eq!(Counts::of_cargo_test(line), counts(3, 1, 2));
    }

    #[test]
    fn what_nextest_passes_on_of_a_failed_program_is_not_counted_again() {
        let line = "    test result: FAILED. 0 passed; 1 failed; 0 ignored; 0 measured; 8 filtered out";
        assert_eq!(Counts::of_nextest(line), None);
        assert_eq!(Counts::of_cargo_test(line), None, "it is indented");
    }

    #[test]
    fn other_lines_are_not_counted() {
        for line in
            ["", "Summary", "Summary [", "test result", "test result: ok", "\u{1b}", "\u{1b}[", "1 passed"]
        {
            assert_eq!(Counts::of_nextest(line), None, "{line:?}");
            assert_eq!(Counts::of_cargo_test(line), None, "{line:?}");
        }
    }
}
