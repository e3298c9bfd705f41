//! A result in its three forms: a Markdown table, JSON with every single trial, and an SVG chart.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use serde::Serialize;
use serde::de::DeserializeOwned;

/// A benchmark's result, ready to be written.
#[derive(Clone, Debug)]
pub struct Report {
    /// The name of its files, without the ending.
    pub name: &'static str,
    /// The page, with the table; it refers to the chart by its file's name.
    pub markdown: String,
    /// Everything that was measured.
    pub json: serde_json::Value,
    /// The chart, where there is one.
    pub svg: Option<String>,
}

impl Report {
    /// Writes its files under `docs/benchmarks/` of the source tree and returns the folder.
    ///
    /// # Errors
    /// When a file cannot be written.
    pub fn write(&self) -> anyhow::Result<PathBuf> {
        let folder = folder();
        fs::create_dir_all(&folder).with_context(|| format!("making {}", folder.display()))?;
        let json = format!("{}\n", serde_json::to_string_pretty(&self.json)?);
        let files = [("md", Some(&self.markdown)), ("json", Some(&json)), ("svg", self.svg.as_ref())];
        for (ending, text) in files {
            let Some(text) = text else { continue };
            let path = folder.join(format!("{}.{ending}", self.name));
            fs::write(&path, text).with_context(|| format!("writing {}", path.display()))?;
        }
        Ok(folder)
    }
}

/// What an earlier run wrote under `key` of the benchmark called `name`; the default if there was none.
///
/// # Errors
/// When the file is there and is not what this version writes.
pub fn earlier<T: DeserializeOwned + Default>(name: &str, key: &str) -> anyhow::Result<T> {
    let path = folder().join(format!("{name}.json"));
    let text = match fs::read_to_string(&path) {
        Ok(text) => text,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(T::default()),
        Err(error) => return Err(error).with_context(|| format!("reading {}", path.display())),
    };
    let mut all: serde_json::Value = serde_json::from_str(&text)?;
    let part = all.get_mut(key).map(serde_json::Value::take).unwrap_or_default();
    serde_json::from_value(part).with_context(|| format!("adding to {}", path.display()))
}

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/benchmarks")
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
