//! The links of the documentation lead somewhere: to a file, and to a heading in it.

#![expect(clippy::panic, reason = "a test fails by panicking")]

use std::fs;
use std::path::{Path, PathBuf};

fn pages() -> Vec<PathBuf> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let mut pages = vec![root.join("README.md"), root.join("ARCHITECTURE.md"), root.join("CHANGELOG.md")];
    for directory in ["docs", "docs/adr", "docs/benchmarks"] {
        let entries = fs::read_dir(root.join(directory)).expect("the directory can be listed");
        let files = entries.map(|entry| entry.expect("the directory can be listed").path());
        pages.extend(files.filter(|file| file.extension().is_some_and(|extension| extension == "md")));
    }
    pages
}

fn read(page: &Path) -> String {
    fs::read_to_string(page).unwrap_or_else(|error| panic!("{}: {error}", page.display()))
}

/// The part of a link's text that is not in code.
fn targets(text: &str) -> impl Iterator<Item = &str> {
    let blocks = text.split("```").step_by(2);
    blocks
        .flat_map(|text| text.split("](").skip(1))
        .filter_map(|rest| rest.split_once(')'))
        .map(|(target, _)| target)
}

/// What a heading is called in links: small letters, digits, `-` and `_`, with a `-` for each space.
fn anchor(heading: &str) -> String {
    let kept = |c: &char| c.is_alphanumeric() || matches!(c, ' ' | '-' | '_');
    heading.trim().to_lowercase().chars().filter(kept).map(|c| if c == ' ' { '-' } else { c }).collect()
}

fn has_heading(page: &Path, wanted: &str) -> bool {
    let text = read(page);
    let mut lines = text.split("```").step_by(2).flat_map(str::lines);
    lines.any(|line| {
        let heading = line.trim_start_matches('#');
        heading.starts_with(' ') && heading.len() < line.len() && anchor(heading) == wanted
    })
}

#[test]
fn every_link_leads_to_a_file_and_a_heading() {
    let mut dead = Vec::new();
    for page in pages() {
        let text = read(&page);
        let here = page.parent().unwrap_or(Path::new(""));
        for target in targets(&text).filter(|target| !target.contains("://")) {
            let (file, heading) = target.split_once('#').unwrap_or((target, ""));
            let file = if file.is_empty() { page.clone() } else { here.join(file) };
            if !file.exists() || !heading.is_empty() && !has_heading(&file, heading) {
                dead.push(format!("{}: {target}", page.display()));
            }
        }
    }
    assert!(dead.is_empty(), "dead links:\n{}", dead.join("\n"));
}
