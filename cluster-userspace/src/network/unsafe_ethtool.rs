//! What a network card does to frames before the ingress program sees them. Holds `unsafe` for the system call that asks
//! (`SIOCETHTOOL`), for which there is no safe wrapper.

use std::io;
use std::os::fd::AsRawFd as _;

use nix::errno::Errno;
use nix::sys::socket::{AddressFamily, SockFlag, SockType, socket};

/// `ETHTOOL_GFLAGS` and the flag of it that says that tags of received frames are taken out (`linux/ethtool.h`).
const GET_FLAGS: u32 = 0x25;
const STRIPS_TAGS: u32 = 1 << 8;

/// `struct ethtool_value` (`linux/ethtool.h`).
#[repr(C)]
struct Value {
    command: u32,
    data: u32,
}

/// Whether the driver may take VLAN tags out of received frames (`ethtool -k`: `rx-vlan-offload`), where the ingress program
/// cannot see them.
///
/// # Errors
/// `ENODEV` without such an interface, `EOPNOTSUPP` where the driver does not tell.
pub fn strips_vlan_tags(interface: &str) -> io::Result<bool> {
    let mut value = Value { command: GET_FLAGS, data: 0 };
    let mut name = [0; libc::IFNAMSIZ];
    // One byte stays zero.
    if interface.len() >= name.len() {
        return Err(io::Error::from_raw_os_error(libc::ENODEV));
    }
    for (place, byte) in name.iter_mut().zip(interface.bytes()) {
        *place = byte as libc::c_char;
    }
    let data = libc::__c_anonymous_ifr_ifru { ifru_data: (&raw mut value).cast() };
    let mut request = libc::ifreq { ifr_name: name, ifr_ifru: data };
    let socket = socket(AddressFamily::Inet, SockType::Datagram, SockFlag::SOCK_CLOEXEC, None)?;
    // SAFETY: the request is a whole `ifreq` with a name that ends in zero, and names a whole `ethtool_value`; both live
    // over the call, which writes into them alone.
    let result = unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCETHTOOL as _, &raw mut request) };
    Errno::result(result)?;
    Ok(value.data & STRIPS_TAGS != 0)
}
