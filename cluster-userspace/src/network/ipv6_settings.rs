//! How the kernel is set to treat IPv6 on an interface, as its sysctls say. Reading them takes no lock, but is not for the
//! real-time thread.

use std::io;

/// Whether the host forwards packets that come in by this interface, so that its advertisements call it a router. Without
/// IPv6 it does not.
#[must_use]
pub fn forwards(interface: &str) -> bool {
    read(interface, "forwarding").is_ok_and(|value| value != "0")
}

/// Whether the interface, which must be there, takes no IPv6 addresses: by `disable_ipv6`, or because the kernel has no
/// IPv6.
#[must_use]
pub fn is_off(interface: &str) -> bool {
    read(interface, "disable_ipv6")
        .map_or_else(|error| error.kind() == io::ErrorKind::NotFound, |value| value != "0")
}

fn read(interface: &str, name: &str) -> io::Result<String> {
    // A name has no slash in it, and a dot is nothing else here.
    let text = std::fs::read_to_string(format!("/proc/sys/net/ipv6/conf/{interface}/{name}"))?;
    Ok(text.trim().to_owned())
}
