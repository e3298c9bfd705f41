//! The parsed TOML with its lines: sections, their keys, and a list of findings that grows while they are read.

use std::path::{Path, PathBuf};

use toml::de::{DeTable, DeValue};

use super::errors::{ConfigError, ConfigErrors};

/// Everything found wrong so far. Reading goes on after a finding, so that one run shows them all.
pub(super) struct Findings {
    file: PathBuf,
    line_starts: Vec<usize>,
    errors: Vec<ConfigError>,
}

impl Findings {
    pub(super) fn new(text: &str, file: &Path) -> Self {
        let after_newlines =
            text.bytes().enumerate().filter(|(_, byte)| *byte == b'\n').map(|(at, _)| at + 1);
        Self {
            file: file.to_owned(),
            line_starts: std::iter::once(0).chain(after_newlines).collect(),
            errors: Vec::new(),
        }
    }

    /// Notes that `key`, at this byte of the text, is wrong.
    pub(super) fn report(&mut self, at: usize, key: &str, message: impl Into<String>) {
        let line = self.line(at);
        self.errors.push(ConfigError {
            file: self.file.clone(),
            line: Some(line),
            key: key.to_owned(),
            message: message.into(),
        });
    }

    /// The line, from 1, of a byte of the text.
    pub(super) fn line(&self, at: usize) -> usize {
        self.line_starts.partition_point(|start| *start <= at)
    }

    /// All findings, or none if there are none.
    pub(super) fn finish(mut self) -> Option<ConfigErrors> {
        if self.errors.is_empty() {
            return None;
        }
        self.errors.sort_by_key(|error| error.line);
        Some(ConfigErrors::new(self.errors))
    }
}

/// A table and where it stands.
pub(super) struct Section<'d> {
    /// Its key, such as `cluster` or `group[0]`; empty for the whole document.
    pub(super) key: String,
    /// The byte at which it begins.
    pub(super) at: usize,
    table: &'d DeTable<'d>,
}

impl<'d> Section<'d> {
    pub(super) fn root(table: &'d DeTable<'d>) -> Self {
        Self { key: String::new(), at: 0, table }
    }

    /// The full key of `name` in this section.
    pub(super) fn key_of(&self, name: &str) -> String {
        if self.key.is_empty() { name.to_owned() } else { format!("{}.{name}", self.key) }
    }

    /// The value of a key, if it is given.
    pub(super) fn item(&self, name: &str) -> Option<Item<'d>> {
        let value = self.table.get(name)?;
        Some(Item { key: self.key_of(name), at: value.span().start, value: value.get_ref() })
    }

    /// The value of a key that must be given; `what` says what it is for.
    pub(super) fn required(&self, name: &str, what: &str, findings: &mut Findings) -> Option<Item<'d>> {
        let item = self.item(name);
        if item.is_none() {
            findings.report(self.at, &self.key_of(name), format!("missing; {what}"));
        }
        item
    }

    /// Reports keys that do not exist, or exist in the documentation only: (key, what of it "not supported yet").
    pub(super) fn refuse_unknown(&self, known: &[&str], not_yet: &[(&str, &str)], findings: &mut Findings) {
        for (name, value) in self.table.iter() {
            let at = name.span().start;
            let name: &str = name.get_ref();
            if known.contains(&name) {
                continue;
            }
            let key = self.key_of(name);
            // For an array of tables the key's own place is not kept for every element; the first value's will do.
            let at = if at == 0 { value.span().start } else { at };
            if let Some((_, what)) = not_yet.iter().find(|(key, _)| *key == name) {
                findings.report(at, &key, format!("{what} not supported yet"));
                continue;
            }
            let candidates = known.iter().chain(not_yet.iter().map(|(key, _)| key));
            let message = match nearest(name, candidates.copied()) {
                Some(meant) => format!("unknown key; did you mean `{meant}`?"),
                None if self.key.is_empty() => format!("unknown key; the file has {}", list(known)),
                None => format!("unknown key; this section has {}", list(known)),
            };
            findings.report(at, &key, message);
        }
    }

    /// The tables of an array of tables, such as all `[[node]]`.
    pub(super) fn tables(&self, name: &str, findings: &mut Findings) -> Vec<Section<'d>> {
        let Some(item) = self.item(name) else { return Vec::new() };
        if let DeValue::Table(_) = item.value {
            findings.report(
                item.at,
                &item.key,
                format!("write `[[{name}]]` with two brackets, once for each"),
            );
            return item.section(findings).into_iter().collect();
        }
        item.array(findings)
            .unwrap_or_default()
            .into_iter()
            .filter_map(|item| item.section(findings))
            .collect()
    }
}

/// A value and where it stands.
pub(super) struct Item<'d> {
    /// Its key as a path.
    pub(super) key: String,
    /// The byte at which it begins.
    pub(super) at: usize,
    value: &'d DeValue<'d>,
}

impl<'d> Item<'d> {
    /// Reports this value.
    pub(super) fn refuse(&self, message: impl Into<String>, findings: &mut Findings) {
        findings.report(self.at, &self.key, message);
    }

    fn wrong_type<T>(&self, wanted: &str, findings: &mut Findings) -> Option<T> {
        let found = self.value.type_str();
        let article = if found.starts_with(['a', 'i']) { "an" } else { "a" };
        self.refuse(format!("must be {wanted}, not {article} {found}"), findings);
        None
    }

    pub(super) fn string(&self, findings: &mut Findings) -> Option<&'d str> {
        match self.value {
            DeValue::String(text) => Some(text),
            _ => self.wrong_type("a string in quotes", findings),
        }
    }

    /// A whole number from `least` to `most`.
    pub(super) fn integer(&self, least: u32, most: u32, findings: &mut Findings) -> Option<u32> {
        let DeValue::Integer(number) = self.value else {
            return self.wrong_type("a whole number", findings);
        };
        let parsed =
            i64::from_str_radix(number.as_str(), number.radix()).ok().and_then(|n| u32::try_from(n).ok());
        let in_range = parsed.filter(|n| (least..=most).contains(n));
        if in_range.is_none() {
            self.refuse(format!("must be from {least} to {most}, not {number}"), findings);
        }
        in_range
    }

    /// `true` or `false`.
    pub(super) fn boolean(&self, findings: &mut Findings) -> Option<bool> {
        match self.value {
            DeValue::Boolean(value) => Some(*value),
            _ => self.wrong_type("true or false", findings),
        }
    }

    /// The elements of an array.
    pub(super) fn array(&self, findings: &mut Findings) -> Option<Vec<Item<'d>>> {
        let DeValue::Array(elements) = self.value else { return self.wrong_type("an array", findings) };
        let item = |(index, element): (usize, &'d toml::Spanned<DeValue<'d>>)| Item {
            key: format!("{}[{index}]", self.key),
            at: element.span().start,
            value: element.get_ref(),
        };
        Some(elements.iter().enumerate().map(item).collect())
    }

    /// How many elements it has, if it is an array at all.
    pub(super) fn length(&self) -> Option<usize> {
        self.value.as_array().map(|elements| elements.len())
    }

    /// The strings of an array; those of its elements that are not strings are reported and left out.
    pub(super) fn strings(&self, findings: &mut Findings) -> Option<Vec<(Item<'d>, &'d str)>> {
        let elements = self.array(findings)?;
        Some(elements.into_iter().filter_map(|item| item.string(findings).map(|text| (item, text))).collect())
    }

    pub(super) fn section(&self, findings: &mut Findings) -> Option<Section<'d>> {
        match self.value {
            DeValue::Table(table) => Some(Section { key: self.key.clone(), at: self.at, table }),
            _ => self.wrong_type("a table", findings),
        }
    }

    /// One of `built`; those of `not_yet` are refused as such.
    pub(super) fn choice<'c>(
        &self,
        built: &[&'c str],
        not_yet: &[&str],
        findings: &mut Findings,
    ) -> Option<&'c str> {
        let text = self.string(findings)?;
        let chosen = built.iter().find(|choice| **choice == text).copied();
        if chosen.is_none() {
            let allowed = list_quoted(built);
            let message = if not_yet.contains(&text) {
                format!("\"{text}\" is not supported yet; use {allowed}")
            } else {
                format!("\"{text}\" is not allowed here; use {allowed}")
            };
            self.refuse(message, findings);
        }
        chosen
    }
}

/// The name of `candidates` that was probably meant: at most two typing errors away, fewer for short
/// names, of which little would be left.
pub(super) fn nearest<'c>(typed: &str, candidates: impl Iterator<Item = &'c str>) -> Option<&'c str> {
    // A key of this length is nobody's typing error, and the distance would take its square in time.
    if typed.len() > 64 {
        return None;
    }
    candidates
        .map(|candidate| (distance(&typed.to_lowercase(), &candidate.to_lowercase()), candidate))
        .filter(|(distance, candidate)| *distance <= (candidate.len() / 2).min(2))
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, candidate)| candidate)
}

/// Optimal string alignment: insertions, deletions, replacements and swaps of neighbours.
fn distance(a: &str, b: &str) -> usize {
    let (a, b): (Vec<char>, Vec<char>) = (a.chars().collect(), b.chars().collect());
    let mut rows = vec![(0..=b.len()).collect::<Vec<_>>()];
    for i in 1..=a.len() {
        let mut row = vec![i];
        for j in 1..=b.len() {
            let replaced = rows[i - 1][j - 1] + usize::from(a[i - 1] != b[j - 1]);
            let mut best = replaced.min(rows[i - 1][j] + 1).min(row[j - 1] + 1);
            if i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] {
                best = best.min(rows[i - 2][j - 2] + 1);
            }
            row.push(best);
        }
        rows.push(row);
    }
    rows[a.len()][b.len()]
}

/// "`a`, `b` and `c`".
pub(super) fn list(names: &[&str]) -> String {
    join(names.iter().map(|name| format!("`{name}`")).collect(), "and")
}

fn list_quoted(names: &[&str]) -> String {
    join(names.iter().map(|name| format!("\"{name}\"")).collect(), "or")
}

fn join(mut names: Vec<String>, last: &str) -> String {
    match names.pop() {
        None => "nothing".to_owned(),
        Some(only) if names.is_empty() => only,
        Some(end) => format!("{} {last} {end}", names.join(", ")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn typing_errors_find_what_was_meant() {
        let keys = ["heartbeat", "lease", "dead_after", "vips", "id"];
        let meant = |typed| nearest(typed, keys.into_iter());
        assert_eq!(meant("heartbaet"), Some("heartbeat"));
        assert_eq!(meant("Lease"), Some("lease"));
        assert_eq!(meant("vip"), Some("vips"));
        assert_eq!(meant("dead-after"), Some("dead_after"));
        assert_eq!(meant("colour"), None);
        assert_eq!(nearest("c", ["a", "b"].into_iter()), None);
        assert_eq!(meant(&"x".repeat(1 << 20)), None);
    }

    #[test]
    fn lines_count_from_one() {
        let findings = Findings::new("a\nb\n\nc", Path::new("f"));
        assert_eq!([0, 1, 2, 4, 5, 99].map(|at| findings.line(at)), [1, 1, 2, 3, 4, 4]);
    }
}
