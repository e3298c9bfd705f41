//! The ingress program on the service interface.

use std::fmt;
use std::path::{Path, PathBuf};

use aya::programs::links::{FdLink, LinkError, PinnedLink};
use aya::programs::xdp::{Xdp, XdpLink};
use aya::programs::{ProgramError, XdpMode};
use cluster_proto::Mac;

use super::error::DataPlaneError;
use super::holders::Holders;
use super::interfaces::{self, Interface, Programs};
use super::options::XdpPreference;

/// The ingress program's place.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Attached {
    /// The interface's number.
    pub ifindex: u32,
    /// Its Ethernet address, with which requests are answered.
    pub mac: Mac,
    /// Who runs the program.
    pub mode: Mode,
    /// Whether the program took the place of one that a daemon before this one had left, without a gap.
    pub adopted: bool,
}

/// Who runs the ingress program.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Mode {
    /// The driver.
    Native,
    /// The kernel, behind the driver: slower, and it works everywhere.
    Generic,
    /// A dispatcher of somebody else's, as far as that calls it: it is pinned and not attached.
    Pinned,
}

impl Mode {
    /// `native`, `generic` or `pinned`.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Native => "native",
            Self::Generic => "generic",
            Self::Pinned => "pinned",
        }
    }

    const fn request(self) -> XdpMode {
        match self {
            Self::Native => XdpMode::Driver,
            Self::Generic | Self::Pinned => XdpMode::Skb,
        }
    }
}

impl fmt::Display for Mode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Puts the program onto the interface: into the pinned link if that is on this interface, or else into a new one.
pub(super) fn attach(
    program: &mut Xdp,
    interface: &Interface,
    preference: XdpPreference,
    pin: &Path,
) -> Result<(Mode, bool), DataPlaneError> {
    if let Some(pinned) = pinned(pin)? {
        let ours = program_of(&pinned, pin)?;
        let mode = mode_of(interface.xdp, ours).filter(|mode| allowed(preference).contains(mode));
        if let Some(mode) = mode {
            swap(program, pinned, pin)?;
            return Ok((mode, true));
        }
        // The link's interface is gone or another one, or the mode is no longer wanted.
        remove(pinned, pin)?;
        return attach_anew(program, &interface_again(interface)?, preference, pin).map(|mode| (mode, false));
    }
    attach_anew(program, interface, preference, pin).map(|mode| (mode, false))
}

/// Takes the program off its interface, if it is on one, and removes the pin.
pub(super) fn detach(pin: &Path) -> Result<(), DataPlaneError> {
    match pinned(pin)? {
        Some(link) => remove(link, pin),
        None => Ok(()),
    }
}

fn attach_anew(
    program: &mut Xdp,
    interface: &Interface,
    preference: XdpPreference,
    pin: &Path,
) -> Result<Mode, DataPlaneError> {
    refuse_foreign(interface)?;
    let mut reasons = Vec::new();
    for &mode in allowed(preference) {
        match program.attach_to_if_index(interface.ifindex, mode.request()) {
            Ok(id) => {
                let link = program.take_link(id).map_err(|source| program_error(interface, mode, &source))?;
                let link = FdLink::try_from(link)
                    .map_err(|_| DataPlaneError::NotALink { interface: interface.name.clone() })?;
                link.pin(pin).map_err(|error| DataPlaneError::Attach {
                    interface: interface.name.clone(),
                    reasons: format!("its link cannot be pinned at {}: {error}", pin.display()),
                })?;
                return Ok(mode);
            }
            Err(error) => {
                // Somebody may have been faster.
                refuse_foreign(&interface_again(interface)?)?;
                reasons.push(format!("{mode}: {}", with_causes(&error)));
            }
        }
    }
    Err(DataPlaneError::Attach { interface: interface.name.clone(), reasons: reasons.join("; ") })
}

/// Puts the program into a link that is attached already; the change is atomic.
fn swap(program: &mut Xdp, pinned: FdLink, pin: &Path) -> Result<(), DataPlaneError> {
    let failed = |error: ProgramError| DataPlaneError::Attach {
        interface: pin.display().to_string(),
        reasons: format!("the program in the pinned link cannot be replaced: {}", with_causes(&error)),
    };
    let link = XdpLink::try_from(pinned).map_err(pin_error("use the link", pin))?;
    let id = program.attach_to_link(link).map_err(failed)?;
    // The pin keeps the link; this process need not.
    drop(program.take_link(id).map_err(failed)?);
    Ok(())
}

fn allowed(preference: XdpPreference) -> &'static [Mode] {
    match preference {
        XdpPreference::Auto => &[Mode::Native, Mode::Generic],
        XdpPreference::Native => &[Mode::Native],
        XdpPreference::Generic => &[Mode::Generic],
        XdpPreference::PinOnly => &[],
    }
}

fn mode_of(programs: Programs, id: u32) -> Option<Mode> {
    if programs.native == id {
        Some(Mode::Native)
    } else if programs.generic == id {
        Some(Mode::Generic)
    } else {
        None
    }
}

fn refuse_foreign(interface: &Interface) -> Result<(), DataPlaneError> {
    let Programs { native, generic, offloaded } = interface.xdp;
    let occupied = [
        (native, "native", "xdpdrv"),
        (generic, "generic", "xdpgeneric"),
        (offloaded, "offloaded", "xdpoffload"),
    ];
    match occupied.into_iter().find(|(id, _, _)| *id != 0) {
        None => Ok(()),
        Some((id, mode, off)) => {
            let holders = Holders::of(id);
            Err(DataPlaneError::ForeignProgram {
                interface: interface.name.clone(),
                id,
                name: holders.name.clone(),
                mode,
                holders: holders.to_string(),
                detach: match holders.link {
                    Some(link) => format!("bpftool link detach id {link}"),
                    None => format!("ip link set dev {} {off} off", interface.name),
                },
            })
        }
    }
}

fn interface_again(interface: &Interface) -> Result<Interface, DataPlaneError> {
    interfaces::by_index(interface.ifindex)
        .map_err(|source| DataPlaneError::Netlink {
            attempt: format!("ask for the network interface {}", interface.name),
            source,
        })?
        .ok_or_else(|| DataPlaneError::NoInterface { interface: interface.name.clone() })
}

/// The link pinned there, if there is one.
pub(super) fn pinned(pin: &Path) -> Result<Option<FdLink>, DataPlaneError> {
    if !pin.exists() {
        return Ok(None);
    }
    PinnedLink::from_pin(pin).map(|link| Some(link.into())).map_err(pin_error("read the link at", pin))
}

/// The id of the program in a pinned link.
pub(super) fn program_of(link: &FdLink, pin: &Path) -> Result<u32, DataPlaneError> {
    link.info().map(|info| info.program_id()).map_err(pin_error("ask about the link at", pin))
}

/// Removes the pin, and with it, before this returns, the program from its interface.
pub(super) fn remove(link: FdLink, pin: &Path) -> Result<(), DataPlaneError> {
    std::fs::remove_file(pin).map_err(|source| DataPlaneError::File {
        attempt: "remove the pin",
        path: pin.to_owned(),
        source,
    })?;
    // The kernel detaches in the background if the pin was the last holder, and at once if a descriptor is.
    drop(link);
    Ok(())
}

fn pin_error(attempt: &'static str, pin: &Path) -> impl FnOnce(LinkError) -> DataPlaneError {
    let path: PathBuf = pin.to_owned();
    move |source| DataPlaneError::Pin { attempt, path, source }
}

fn program_error(interface: &Interface, mode: Mode, error: &ProgramError) -> DataPlaneError {
    DataPlaneError::Attach {
        interface: interface.name.clone(),
        reasons: format!("{mode}: {}", with_causes(error)),
    }
}

/// The error and what lies behind it, in one line.
pub(super) fn with_causes(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let next = error.to_string();
        if !text.ends_with(&next) {
            text = format!("{text}: {next}");
        }
        cause = error.source();
    }
    text
}
