//! A result in its three forms: a Markdown table, JSON with every single trial, and an SVG chart.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use serde::Serialize;

/// A benchmark's result, ready to be written.
#[derive(Clone, Debug)]
pub struct Report {
    /// The name of its files, without the ending.
    pub name: &'static str,
    /// The page, with the table; it refers to the chart by its file's name.
    pub markdown: String,
    /// Everything that was measured.
    pub json: serde_json::Value,
    /// The chart.
    pub svg: String,
}

impl Report {
    /// Writes the three files under `docs/benchmarks/` of the source tree and returns the folder.
    ///
    /// # Errors
    /// When a file cannot be written.
    pub fn write(&self) -> anyhow::Result<PathBuf> {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/benchmarks");
        fs::create_dir_all(&folder).with_context(|| format!("making {}", folder.display()))?;
        let json = serde_json::to_string_pretty(&self.json)?;
        for (ending, text) in [("md", &self.markdown), ("json", &format!("{json}\n")), ("svg", &self.svg)] {
            let path = folder.join(format!("{}.{ending}", self.name));
            fs::write(&path, text).with_context(|| format!("writing {}", path.display()))?;
        }
        Ok(folder)
    }
}

/// What a figure depends on besides the programs.
#[derive(Clone, Debug, Serialize)]
pub struct Machine {
    /// The kernel's release.
    pub kernel: String,
    /// How many processors there are.
    pub processors: usize,
}

impl Machine {
    /// This one.
    #[must_use]
    pub fn this() -> Self {
        let kernel = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
        // Only the release: what a distributor or a hypervisor adds says nothing to a reader.
        let kernel = kernel.trim().split(['-', '+']).next().unwrap_or_default().to_owned();
        Self { kernel, processors: std::thread::available_parallelism().map_or(1, std::num::NonZero::get) }
    }
}

impl std::fmt::Display for Machine {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Linux {}, {} processors", self.kernel, self.processors)
    }
}
