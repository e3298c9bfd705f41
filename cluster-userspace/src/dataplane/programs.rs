//! The programs in the object: which of them are loaded, and the pins of those that a dispatcher of somebody else's calls.
//!
//! Not here: where they are attached ([`super::ingress`], [`super::classifiers`]).

use std::fs;

use aya::Ebpf;
use aya::programs::{ProgramError, SchedClassifier, Xdp};

use super::chain::{Chain, Opened, VARIANTS};
use super::error::DataPlaneError;
use super::ingress;
use super::options::XdpPreference;
use super::pins::PinDirectory;

/// The names of the programs in the object.
const INGRESS: &str = "cluster_ingress";
const INGRESS_LINEAR: &str = "cluster_linear";
pub(super) const EGRESS: &str = "cluster_egress";
pub(super) const MEND: &str = "cluster_mend";

/// What was loaded.
pub(super) struct Loaded {
    /// The name of the ingress program that was chosen.
    pub(super) ingress_program: &'static str,
    /// The user's program behind it.
    pub(super) chain: Option<Chain>,
    /// Why there are no frames in several buffers, if there are none.
    pub(super) frags_refused: Option<String>,
}

/// Loads the programs; of the ingress programs the first that the kernel takes, or both for a dispatcher.
pub(super) fn load(
    object: &mut Ebpf,
    next: Option<&Opened>,
    preference: XdpPreference,
) -> Result<Loaded, DataPlaneError> {
    for name in [EGRESS, MEND] {
        classifier(object, name)?.load().map_err(refused(name))?;
    }
    if let Some(next) = next {
        return load_chained(object, next);
    }
    if preference == XdpPreference::PinOnly {
        ingress_program(object, INGRESS_LINEAR)?.load().map_err(refused(INGRESS_LINEAR))?;
    }
    // Kernels before 5.18 do not know the flag for frames in several buffers.
    let frags_refused = match ingress_program(object, INGRESS)?.load() {
        Ok(()) => return Ok(Loaded { ingress_program: INGRESS, chain: None, frags_refused: None }),
        Err(error) => {
            Some(format!("the kernel refuses one that does, as those before 5.18 do: {}", brief(&error)))
        }
    };
    if preference != XdpPreference::PinOnly {
        ingress_program(object, INGRESS_LINEAR)?.load().map_err(refused(INGRESS_LINEAR))?;
    }
    Ok(Loaded { ingress_program: INGRESS_LINEAR, chain: None, frags_refused })
}

fn load_chained(object: &mut Ebpf, next: &Opened) -> Result<Loaded, DataPlaneError> {
    let mut reasons = Vec::new();
    for variant in VARIANTS {
        let loaded = ingress_program(object, variant.program)?.load().map_err(|error| brief(&error));
        match loaded.and_then(|()| Chain::make(object, variant, next)) {
            Ok(chain) => {
                let frags_refused = (!reasons.is_empty()).then(|| {
                    format!("the kernel or the program chained to it has none: {}", reasons.join("; "))
                });
                return Ok(Loaded { ingress_program: variant.program, chain: Some(chain), frags_refused });
            }
            Err(reason) => reasons.push(format!("{}: {reason}", variant.program)),
        }
    }
    Err(DataPlaneError::Chain { path: next.named.path.clone(), reason: reasons.join("; ") })
}

/// Pins the ingress programs, those that are loaded, in the place of those that are pinned there. Says whether there were any.
pub(super) fn pin(object: &mut Ebpf, directory: &PinDirectory) -> Result<bool, DataPlaneError> {
    let mut adopted = false;
    for name in [INGRESS, INGRESS_LINEAR] {
        let program = ingress_program(object, name)?;
        if program.fd().is_err() {
            directory.remove(name)?;
            continue;
        }
        let path = directory.entry(name);
        adopted |= path.exists();
        // A pin cannot be overwritten, but renamed over another one.
        let next = format!("{name}-next");
        directory.remove(&next)?;
        let next = directory.entry(&next);
        program.pin(&next).map_err(|error| DataPlaneError::Attach {
            interface: path.display().to_string(),
            reasons: format!("the program cannot be pinned: {}", ingress::with_causes(&error)),
        })?;
        fs::rename(&next, &path).map_err(|source| DataPlaneError::File {
            attempt: "rename the pin",
            path: next,
            source,
        })?;
    }
    Ok(adopted)
}

/// The paths at which the ingress programs are pinned.
pub(super) fn pins(directory: &PinDirectory) -> Vec<String> {
    let paths = [INGRESS, INGRESS_LINEAR].map(|name| directory.entry(name));
    paths.into_iter().filter(|path| path.exists()).map(|path| path.display().to_string()).collect()
}

/// Removes the pins of the ingress programs, if there are any.
pub(super) fn unpin(directory: &PinDirectory) -> Result<(), DataPlaneError> {
    directory.remove(INGRESS).and(directory.remove(INGRESS_LINEAR))
}

/// The error without the verifier's log.
fn brief(error: &ProgramError) -> String {
    match error {
        ProgramError::LoadError { io_error, .. } => io_error.to_string(),
        other => ingress::with_causes(other),
    }
}

/// An ingress program of the object.
pub(super) fn ingress_program<'o>(
    object: &'o mut Ebpf,
    name: &'static str,
) -> Result<&'o mut Xdp, DataPlaneError> {
    let program =
        object.program_mut(name).ok_or_else(|| refused(name)(ProgramError::UnexpectedProgramType))?;
    program.try_into().map_err(refused(name))
}

/// A program of the queueing layer of the object.
pub(super) fn classifier<'o>(
    object: &'o mut Ebpf,
    name: &'static str,
) -> Result<&'o mut SchedClassifier, DataPlaneError> {
    let program =
        object.program_mut(name).ok_or_else(|| refused(name)(ProgramError::UnexpectedProgramType))?;
    program.try_into().map_err(refused(name))
}

fn refused(program: &'static str) -> impl FnOnce(ProgramError) -> DataPlaneError {
    move |source| DataPlaneError::Program { program, source }
}
