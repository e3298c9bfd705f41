//! The user's program behind ours (`xdp = "chain"`): ours calls it where it would let a frame pass.
//!
//! The kernel empties a map of programs when nobody has it open or pinned any more, so ours is pinned for as long as the
//! program that uses it is attached: the chain outlives the daemon as the leases do.

use std::fs;
use std::os::fd::{AsFd as _, AsRawFd as _};
use std::path::{Path, PathBuf};

use aya::Ebpf;
use aya::maps::{Map, ProgramArray};
use aya::programs::Xdp;
use aya_obj::generated::bpf_prog_type;
use aya_obj::programs::XdpAttachType;

use super::error::DataPlaneError;
use super::pins::PinDirectory;

/// The pin of the map of programs in use, and of the one that is to take its place.
const PIN: &str = "chain";
const NEXT_PIN: &str = "chain-next";

/// The user's program at the end of the chain.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ChainedProgram {
    /// Where it is pinned.
    pub path: PathBuf,
    /// Its name, as far as the kernel keeps it (15 bytes).
    pub name: String,
    /// Its number.
    pub id: u32,
}

/// A variant of our program that calls another, and the map in which it looks that up.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Variant {
    pub(super) program: &'static str,
    map: &'static str,
}

/// For programs that take frames in several buffers, and for those that do not. The kernel does not tell of which kind a
/// program is, but refuses one of the wrong kind.
pub(super) const VARIANTS: [Variant; 2] = [
    Variant { program: "cluster_chained", map: "chain" },
    Variant { program: "chained_linear", map: "chain_linear" },
];

/// The chain, in force once its map is pinned and our program attached.
pub(super) struct Chain {
    map: Map,
    next: ChainedProgram,
    pinned: bool,
}

/// A program of the user's, opened.
pub(super) struct Opened {
    program: Xdp,
    pub(super) named: ChainedProgram,
}

impl Opened {
    /// Opens what is pinned there, if it is an XDP program.
    pub(super) fn at(path: &Path) -> Result<Self, DataPlaneError> {
        let failed = |reason: String| DataPlaneError::Chain { path: path.to_owned(), reason };
        if let Err(error) = fs::symlink_metadata(path) {
            return Err(failed(error.to_string()));
        }
        let program = Xdp::from_pin(path, XdpAttachType::Interface)
            .map_err(|error| failed(format!("it cannot be opened: {error}")))?;
        let descriptor = program.fd().map_err(|error| failed(error.to_string()))?.as_fd().as_raw_fd();
        // Maps and links can be pinned as well, and the kernel's answers about them look alike.
        let kind = fs::read_link(format!("/proc/self/fd/{descriptor}"))
            .map_err(|error| failed(format!("/proc does not tell what it is: {error}")))?;
        let info = match kind.to_str() {
            Some("anon_inode:bpf-prog") => program.info().map_err(|error| failed(error.to_string()))?,
            Some("anon_inode:bpf-map") => return Err(failed("a map is pinned there".to_owned())),
            Some("anon_inode:bpf_link" | "anon_inode:bpf-link") => {
                return Err(failed("a link is pinned there".to_owned()));
            }
            _ => return Err(failed(format!("it is {}", kind.display()))),
        };
        if info.program_type() != bpf_prog_type::BPF_PROG_TYPE_XDP {
            return Err(failed("a program of another type than XDP is pinned there".to_owned()));
        }
        let name = info.name_as_str().unwrap_or_default().to_owned();
        let named = ChainedProgram { path: path.to_owned(), name, id: info.id() };
        Ok(Self { program, named })
    }

    fn put_into(&self, map: &mut Map) -> Result<(), String> {
        let mut map = ProgramArray::try_from(map).map_err(|error| error.to_string())?;
        let descriptor = self.program.fd().map_err(|error| error.to_string())?;
        map.set(0, descriptor, 0).map_err(|error| super::ingress::with_causes(&error))
    }
}

impl Chain {
    /// Puts the user's program where this variant, which is loaded, looks for it; says why if the kernel refuses.
    pub(super) fn make(object: &mut Ebpf, variant: Variant, next: &Opened) -> Result<Self, String> {
        let mut map = object.take_map(variant.map).ok_or("the object lacks the map")?;
        next.put_into(&mut map)?;
        Ok(Self { map, next: next.named.clone(), pinned: false })
    }

    /// The program at the end.
    pub(super) fn next(&self) -> &ChainedProgram {
        &self.next
    }

    /// Takes up what is pinned at the user's path now.
    pub(super) fn read_again(&mut self) -> Result<&ChainedProgram, DataPlaneError> {
        let next = Opened::at(&self.next.path)?;
        next.put_into(&mut self.map).map_err(|reason| DataPlaneError::Chain {
            path: self.next.path.clone(),
            reason: format!(
                "the kernel refuses it behind the variant that is attached ({reason}); if it is of another kind than the \
                 program before it (with or without `xdp.frags`), `clusterctl restart` takes it up"
            ),
        })?;
        self.next = next.named;
        Ok(&self.next)
    }

    /// Keeps the map in being. To be called before our program is attached.
    pub(super) fn pin(&self, directory: &PinDirectory) -> Result<(), DataPlaneError> {
        if self.pinned {
            return Ok(());
        }
        directory.remove(NEXT_PIN)?;
        let path = directory.entry(NEXT_PIN);
        self.map.pin(&path).map_err(|error| DataPlaneError::Chain {
            path: self.next.path.clone(),
            reason: format!("the map cannot be pinned at {}: {error}", path.display()),
        })
    }

    /// Our program is attached, and the one before it, with its map, is not any more.
    fn settle(&mut self, directory: &PinDirectory) -> Result<(), DataPlaneError> {
        if !self.pinned {
            let path = directory.entry(NEXT_PIN);
            fs::rename(&path, directory.entry(PIN)).map_err(|source| DataPlaneError::File {
                attempt: "rename the pin",
                path,
                source,
            })?;
            self.pinned = true;
        }
        Ok(())
    }
}

/// Our program is attached: maps of programs that an earlier one used are not needed any more.
pub(super) fn settle(chain: Option<&mut Chain>, directory: &PinDirectory) -> Result<(), DataPlaneError> {
    match chain {
        Some(chain) => chain.settle(directory),
        None => directory.remove(PIN).and(directory.remove(NEXT_PIN)),
    }
}
