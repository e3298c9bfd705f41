//! Single values: names, durations and addresses.

use std::net::{IpAddr, Ipv4Addr};
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

/// An IPv4 address that one host can have; `what` names its use in messages.
pub(super) fn host_address(
    item: &Item<'_>,
    text: &str,
    what: &str,
    findings: &mut Findings,
) -> Option<Ipv4Addr> {
    match text.parse::<IpAddr>() {
        Ok(IpAddr::V6(_)) => {
            item.refuse(format!("IPv6 {what} are not supported yet; use an IPv4 address"), findings);
            None
        }
        Ok(IpAddr::V4(address)) => {
            // 0.0.0.0/8 is "this network" (RFC 1122 section 3.2.1.3) and cannot be a destination.
            let why = if address.octets()[0] == 0 {
                "belongs to no host"
            } else if address.is_multicast() {
                "is a multicast address"
            } else if address.is_broadcast() {
                "is the broadcast address"
            } else {
                return Some(address);
            };
            item.refuse(format!("{address} {why}; use an address of one host"), findings);
            None
        }
        Err(_) => {
            item.refuse(
                format!("must be an IPv4 address such as \"10.78.0.1\", not {:?}", shortened(text)),
                findings,
            );
            None
        }
    }
}

/// At most so much of what a user typed as makes a message readable.
pub(super) fn shortened(text: &str) -> String {
    const MOST: usize = 60;
    if text.chars().count() <= MOST {
        return text.to_owned();
    }
    text.chars().take(MOST).chain(std::iter::once('…')).collect()
}

/// Whether `address` lies in the network that `of` and the prefix length name.
pub(crate) fn same_network(address: Ipv4Addr, of: Ipv4Addr, prefix: u8) -> bool {
    let mask = u32::MAX.checked_shl(32 - u32::from(prefix)).unwrap_or(0);
    u32::from(address) & mask == u32::from(of) & mask
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
        let address = Ipv4Addr::new(10, 77, 0, 1);
        assert!(same_network(address, Ipv4Addr::new(10, 77, 0, 100), 24));
        assert!(!same_network(address, Ipv4Addr::new(10, 77, 1, 100), 24));
        assert!(!same_network(address, Ipv4Addr::new(10, 77, 0, 100), 32));
        assert!(same_network(address, address, 32));
        assert!(same_network(address, Ipv4Addr::new(192, 0, 2, 1), 0));
    }
}
