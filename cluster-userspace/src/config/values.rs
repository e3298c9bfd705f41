//! Single values: names, durations and addresses.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::Duration;

use super::document::{Findings, Item, Section};

/// A name of a cluster, node or group.
///
/// It appears in paths, labels and messages, so it has no characters that mean something there.
pub(super) fn name<'d>(item: &Item<'d>, findings: &mut Findings) -> Option<&'d str> {
    const MOST: usize = 63;
    let text = item.string(findings)?;
    let fine = (1..=MOST).contains(&text.len())
        && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte))
        && text.bytes().next().is_some_and(|byte| byte.is_ascii_alphanumeric());
    if !fine {
        item.refuse(
            format!(
                "must be 1 to {MOST} ASCII letters, digits, `-`, `_` and `.`, beginning with a letter or digit, \
                 not {:?}",
                shortened(text)
            ),
            findings,
        );
    }
    fine.then_some(text)
}

/// A duration with its unit, in a range; the default if the key is not given, `None` if it is wrong.
pub(super) fn duration(
    section: Option<&Section<'_>>,
    key: &str,
    default: Duration,
    least: Duration,
    most: Duration,
    findings: &mut Findings,
) -> Option<Duration> {
    let Some(item) = section.and_then(|section| section.item(key)) else { return Some(default) };
    let text = item.string(findings)?;
    match parse_duration(text) {
        None => {
            let text = shortened(text);
            item.refuse(
                format!("must be a whole number and a unit (us, ms, s or m), such as \"10ms\", not {text:?}"),
                findings,
            );
            None
        }
        Some(value) if value < least || value > most => {
            let (least, most) = (format_duration(least), format_duration(most));
            item.refuse(format!("must be from {least} to {most}, not {text}"), findings);
            None
        }
        value => value,
    }
}

fn parse_duration(text: &str) -> Option<Duration> {
    let unit_at = text.find(|c: char| !c.is_ascii_digit())?;
    let (number, unit) = text.split_at(unit_at);
    let number: u64 = number.parse().ok()?;
    match unit {
        "us" => Some(Duration::from_micros(number)),
        "ms" => Some(Duration::from_millis(number)),
        "s" => Some(Duration::from_secs(number)),
        "m" => number.checked_mul(60).map(Duration::from_secs),
        _ => None,
    }
}

/// A duration as it is written in the file, in the largest unit that divides it: `40ms`, `2s`, `1100us`.
#[must_use]
pub fn format_duration(duration: Duration) -> String {
    let micros = duration.as_micros();
    match micros {
        0 => "0s".to_owned(),
        _ if micros.is_multiple_of(60_000_000) => format!("{}m", micros / 60_000_000),
        _ if micros.is_multiple_of(1_000_000) => format!("{}s", micros / 1_000_000),
        _ if micros.is_multiple_of(1_000) => format!("{}ms", micros / 1_000),
        _ => format!("{micros}us"),
    }
}

/// What an address is for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Use {
    /// One end of a heartbeat path.
    Heartbeats,
    Vip,
    Gateway,
}

/// An address that one host can have.
pub(super) fn host_address(
    item: &Item<'_>,
    text: &str,
    used: Use,
    findings: &mut Findings,
) -> Option<IpAddr> {
    let Ok(address) = text.parse::<IpAddr>() else {
        // `fe80::1%eth0`.
        let scoped = text.split_once('%').is_some_and(|(address, _)| address.parse::<Ipv6Addr>().is_ok());
        let message = if scoped {
            format!("{:?}: no interface is named here; {}", shortened(text), without_scope(used))
        } else {
            let text = shortened(text);
            format!("must be an IPv4 or IPv6 address such as \"10.78.0.1\" or \"fd78::1\", not {text:?}")
        };
        item.refuse(message, findings);
        return None;
    };
    let why = match address {
        IpAddr::V4(address) => unfit_v4(address).map(|why| format!("{why}; use an address of one host")),
        IpAddr::V6(address) => unfit_v6(address, used),
    };
    match why {
        None => Some(address),
        Some(why) => {
            item.refuse(format!("{address} {why}"), findings);
            None
        }
    }
}

fn unfit_v4(address: Ipv4Addr) -> Option<&'static str> {
    // 0.0.0.0/8 is "this network" (RFC 1122 section 3.2.1.3) and cannot be a destination.
    if address.octets()[0] == 0 {
        Some("belongs to no host")
    } else if address.is_multicast() {
        Some("is a multicast address")
    } else if address.is_broadcast() {
        Some("is the broadcast address")
    } else {
        None
    }
}

fn unfit_v6(address: Ipv6Addr, used: Use) -> Option<String> {
    if let Some(v4) = address.to_ipv4_mapped() {
        return Some(format!("is an IPv4 address in IPv6 notation; write \"{v4}\""));
    }
    let why = if address.is_loopback() {
        "is the loopback address"
    } else if address.is_multicast() {
        "is a multicast address"
    } else if address.segments()[..6] == [0; 6] {
        // The unspecified address, and IPv4-compatible ones, which are no more (RFC 4291 section 2.5.5.1).
        "belongs to no host"
    } else if address.is_unicast_link_local() && used != Use::Gateway {
        return Some(format!("is a link-local address; {}", without_scope(used)));
    } else {
        return None;
    };
    Some(format!("{why}; use an address of one host"))
}

/// What to write instead of a link-local address, which means nothing without an interface.
fn without_scope(used: Use) -> &'static str {
    match used {
        Use::Gateway => "a gateway is on the service interface of each node, so write its address alone",
        Use::Heartbeats | Use::Vip => "use a global address or a unique local one (fd00::/8, RFC 4193)",
    }
}

/// `IPv4` or `IPv6`.
pub(super) fn family(address: IpAddr) -> &'static str {
    if address.is_ipv4() { "IPv4" } else { "IPv6" }
}

/// At most so much of what a user typed as makes a message readable.
pub(super) fn shortened(text: &str) -> String {
    const MOST: usize = 60;
    if text.chars().count() <= MOST {
        return text.to_owned();
    }
    text.chars().take(MOST).chain(std::iter::once('…')).collect()
}

/// Whether `address` lies in the network that `of` and the prefix length name. Families have no network in common.
pub(crate) fn same_network(address: IpAddr, of: IpAddr, prefix: u8) -> bool {
    let (differing, bits) = match (address, of) {
        (IpAddr::V4(one), IpAddr::V4(other)) => (u128::from(one.to_bits() ^ other.to_bits()), 32),
        (IpAddr::V6(one), IpAddr::V6(other)) => (one.to_bits() ^ other.to_bits(), 128),
        (IpAddr::V4(_), IpAddr::V6(_)) | (IpAddr::V6(_), IpAddr::V4(_)) => return false,
    };
    let host_bits = u32::saturating_sub(bits, u32::from(prefix));
    differing.checked_shr(host_bits).unwrap_or(0) == 0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_read_with_their_unit() {
        assert_eq!(parse_duration("1500us"), Some(Duration::from_micros(1500)));
        assert_eq!(parse_duration("10ms"), Some(Duration::from_millis(10)));
        assert_eq!(parse_duration("2s"), Some(Duration::from_secs(2)));
        assert_eq!(parse_duration("3m"), Some(Duration::from_secs(180)));
        let wrong =
            ["", "10", "ms", "10 ms", "-1s", "1.5s", "10sec", "10MS", "+1s", "99999999999999999999s", "1h"];
        for wrong in wrong {
            assert_eq!(parse_duration(wrong), None, "{wrong:?}");
        }
        assert_eq!(parse_duration(&format!("{}m", u64::MAX)), None);
    }

    #[test]
    fn durations_are_written_as_they_are_read() {
        for text in ["1us", "1100us", "40ms", "2s", "1m"] {
            assert_eq!(format_duration(parse_duration(text).unwrap()), text);
        }
        assert_eq!(format_duration(Duration::ZERO), "0s");
    }

    #[test]
    fn networks_of_every_length() {
        let same = |address: &str, of: &str, prefix| {
            same_network(address.parse().unwrap(), of.parse().unwrap(), prefix)
        };
        assert!(same("10.77.0.1", "10.77.0.100", 24));
        assert!(!same("10.77.0.1", "10.77.1.100", 24));
        assert!(!same("10.77.0.1", "10.77.0.100", 32));
        assert!(same("10.77.0.1", "10.77.0.1", 32));
        assert!(same("10.77.0.1", "192.0.2.1", 0));
        assert!(same("fd77::1", "fd77::ffff:0:0:100", 64));
        assert!(!same("fd77::1", "fd77:0:0:1::1", 64));
        assert!(!same("fd77::1", "fd77::2", 127));
        assert!(same("fd77::3", "fd77::2", 127));
        assert!(same("fd77::1", "fd77::1", 128));
        assert!(same("fd77::1", "2001:db8::1", 0));
        assert!(!same("10.77.0.1", "::ffff:10.77.0.1", 0));
    }
}
