//! Whose somebody else's XDP program is, as far as the kernel tells.

use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};

use aya::programs::{ProgramInfo, loaded_links, loaded_programs};

/// How many files of the BPF file system are looked at.
const MOST_PINS: usize = 1024;

/// What is known of a program.
#[derive(Default)]
pub(super) struct Holders {
    /// Its name, empty if the kernel does not tell.
    pub(super) name: String,
    /// The hash of its instructions.
    tag: Option<u64>,
    /// The link by which it is attached; without one it was attached by netlink.
    pub(super) link: Option<u32>,
    /// The processes that have the program or its link open: number and name.
    processes: Vec<String>,
    /// Where the program is pinned.
    pins: Vec<PathBuf>,
}

impl Holders {
    pub(super) fn of(id: u32) -> Self {
        let program = loaded_programs().filter_map(Result::ok).find(|program| program.id() == id);
        let Some(program) = program else { return Self::default() };
        let name = program.name_as_str().unwrap_or_default().to_owned();
        let link = loaded_links().filter_map(Result::ok).find(|link| link.program_id() == id);
        let link = link.map(|link| link.id());
        let mut pins = Vec::new();
        find_pins(Path::new("/sys/fs/bpf"), &program, &mut MOST_PINS.clone(), &mut pins);
        Self { name, tag: Some(program.tag()), link, processes: processes(id), pins }
    }
}

impl fmt::Display for Holders {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(tag) = self.tag {
            write!(f, ", tag {tag:016x}")?;
        }
        match self.link {
            Some(link) => write!(f, ", attached by BPF link {link}")?,
            None => f.write_str(", attached without a BPF link that can be seen")?,
        }
        if self.name == "xdp_dispatcher" {
            f.write_str(", the dispatcher of libxdp (`xdp-loader status` lists its programs)")?;
        }
        if !self.processes.is_empty() {
            write!(f, ", held by {}", self.processes.join(", "))?;
        }
        for pin in &self.pins {
            write!(f, ", pinned at {}", pin.display())?;
        }
        Ok(())
    }
}

/// The processes with a descriptor of the program, or of a link with it. `/proc` tells of each.
fn processes(id: u32) -> Vec<String> {
    let Ok(entries) = fs::read_dir("/proc") else { return Vec::new() };
    let mut found = Vec::new();
    for entry in entries.flatten() {
        let process = entry.file_name();
        let Some(number) = process.to_str().and_then(|name| name.parse::<u32>().ok()) else { continue };
        let Ok(descriptors) = fs::read_dir(entry.path().join("fdinfo")) else { continue };
        let holds = |text: String| {
            text.lines()
                .filter_map(|line| line.strip_prefix("prog_id:"))
                .any(|value| value.trim().parse() == Ok(id))
        };
        if descriptors.flatten().any(|file| fs::read_to_string(file.path()).is_ok_and(holds)) {
            let name = fs::read_to_string(entry.path().join("comm")).unwrap_or_default();
            found.push(format!("process {number} ({})", name.trim()));
        }
    }
    found
}

/// Where the program is pinned below a directory. Opening a pin changes nothing.
fn find_pins(directory: &Path, program: &ProgramInfo, left: &mut usize, found: &mut Vec<PathBuf>) {
    let Ok(entries) = fs::read_dir(directory) else { return };
    for entry in entries.flatten() {
        if *left == 0 {
            return;
        }
        *left -= 1;
        let path = entry.path();
        match entry.file_type() {
            Ok(kind) if kind.is_dir() => find_pins(&path, program, left, found),
            Ok(kind) if kind.is_file() => {
                // What a map or a link answers is not a program's, and then the tag is another.
                let same = |pinned: ProgramInfo| pinned.id() == program.id() && pinned.tag() == program.tag();
                if ProgramInfo::from_pin(&path).is_ok_and(same) {
                    found.push(path);
                }
            }
            _ => {}
        }
    }
}
