//! What of this host's own settings may keep packets from where the cluster sends them: looked at, never changed.

use std::collections::HashSet;
use std::fmt;
use std::fs::File;
use std::io::Read as _;
use std::net::IpAddr;
use std::path::Path;

/// The most that is read of the table of tracked connections.
const MOST: u64 = 1 << 20;

/// Something that should be looked into.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Concern {
    /// The interface drops packets whose way back leads elsewhere (strict reverse path filtering, RFC 3704), and the
    /// default route does.
    StrictFilter {
        /// The interface that clients reach.
        interface: String,
        /// Where the default route leads.
        default: String,
    },
    /// Connections to the VIP are another address' behind this host's NAT, so that no socket of the host has them.
    Translated {
        /// The VIP.
        vip: IpAddr,
        /// Who has them.
        to: IpAddr,
    },
}

impl fmt::Display for Concern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::StrictFilter { interface, default } => write!(
                f,
                "reverse path filtering is strict on {interface} and the default route leads to {default}: what clients from beyond \
                 the link send to a VIP is dropped here; set net.ipv4.conf.{interface}.rp_filter and net.ipv4.conf.all.rp_filter \
                 to 0 or 2"
            ),
            Self::Translated { vip, to } => write!(
                f,
                "connections to {vip} are handed to {to} by NAT: this host's kernel has no sockets for them, so that they break when \
                 their bucket moves; have the service listen on the host itself (docs/active-active.md)"
            ),
        }
    }
}

/// Looks at the settings for the interface that clients reach, and at what becomes of connections to these VIPs of active/active
/// groups. What this kernel does not show is no concern.
#[must_use]
pub fn look(interface: &str, spread: &HashSet<IpAddr>) -> Vec<Concern> {
    let setting = |of: &str| {
        let path = Path::new("/proc/sys/net/ipv4/conf").join(of).join("rp_filter");
        std::fs::read_to_string(path).ok()?.trim().parse().ok()
    };
    let routes = std::fs::read_to_string("/proc/net/route").unwrap_or_default();
    let filters = [setting("all"), setting(interface)];
    let mut found: Vec<Concern> = strict_filter(interface, filters, &routes).into_iter().collect();
    if !spread.is_empty()
        && let Ok(table) = File::open("/proc/net/nf_conntrack")
    {
        let mut bytes = Vec::new();
        // What was read before an error is as good.
        let _ = table.take(MOST).read_to_end(&mut bytes);
        found.extend(translated(&String::from_utf8_lossy(&bytes), spread));
    }
    found
}

/// Of `all` and the interface's own setting the higher counts (Linux, ip-sysctl): 1 is strict, 2 is loose.
fn strict_filter(interface: &str, filters: [Option<u8>; 2], routes: &str) -> Option<Concern> {
    if filters.into_iter().flatten().max() != Some(1) {
        return None;
    }
    // Interface, destination, gateway, flags, three counts, mask.
    let default = |line: &str| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        let is_default = fields.get(1) == Some(&"00000000") && fields.get(7) == Some(&"00000000");
        fields.first().filter(|_| is_default).map(|name| (*name).to_owned())
    };
    let defaults: Vec<String> = routes.lines().skip(1).filter_map(default).collect();
    if defaults.iter().any(|name| name == interface) {
        return None;
    }
    let default = defaults.into_iter().next()?;
    Some(Concern::StrictFilter { interface: interface.to_owned(), default })
}

/// Of each tracked connection the table gives source and destination as they came, and then as answers have them.
fn translated(table: &str, vips: &HashSet<IpAddr>) -> Vec<Concern> {
    let mut found = Vec::new();
    for line in table.lines() {
        let nth = |name: &str, place: usize| {
            let values = line.split_whitespace().filter_map(|word| word.strip_prefix(name));
            values.clone().nth(place).and_then(|value| value.parse::<IpAddr>().ok())
        };
        if let (Some(vip), Some(to)) = (nth("dst=", 0), nth("src=", 1))
            && vips.contains(&vip)
            && to != vip
            && !found
                .iter()
                .any(|known| matches!(known, Concern::Translated { vip: other, .. } if *other == vip))
        {
            found.push(Concern::Translated { vip, to });
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEAD: &str =
        "Iface\tDestination\tGateway \tFlags\tRefCnt\tUse\tMetric\tMask\t\tMTU\tWindow\tIRTT\n";

    #[test]
    fn a_strict_filter_matters_where_the_way_back_leads_elsewhere() {
        let by = |name: &str| format!("{HEAD}{name}\t00000000\t010200C0\t0003\t0\t0\t0\t00000000\t0\t0\t0\n");
        let link = format!("{HEAD}eth0\t000200C0\t00000000\t0001\t0\t0\t0\t00FFFFFF\t0\t0\t0\n");
        let elsewhere =
            Some(Concern::StrictFilter { interface: "eth0".to_owned(), default: "eth1".to_owned() });
        assert_eq!(strict_filter("eth0", [Some(0), Some(1)], &by("eth1")), elsewhere);
        assert_eq!(strict_filter("eth0", [Some(1), Some(0)], &by("eth1")), elsewhere);
        assert_eq!(strict_filter("eth0", [Some(2), Some(1)], &by("eth1")), None, "loose");
        assert_eq!(strict_filter("eth0", [Some(0), Some(0)], &by("eth1")), None, "off");
        assert_eq!(strict_filter("eth0", [None, None], &by("eth1")), None, "not known");
        assert_eq!(strict_filter("eth0", [Some(0), Some(1)], &by("eth0")), None, "the way back");
        assert_eq!(strict_filter("eth0", [Some(0), Some(1)], &link), None, "no clients beyond the link");
        assert_eq!(strict_filter("eth0", [Some(1), Some(1)], "garbage\n\n\tx"), None);
    }

    #[test]
    fn translated_connections_are_told_from_others() {
        const TABLE: &str = "\
            ipv4     2 tcp      6 431999 ESTABLISHED src=10.77.0.50 dst=10.77.0.100 sport=40000 dport=80 \
            src=172.17.0.2 dst=10.77.0.50 sport=80 dport=40000 [ASSURED] mark=0 use=1\n\
            ipv4     2 tcp      6 431999 ESTABLISHED src=10.77.0.50 dst=10.77.0.101 sport=40000 dport=80 \
            src=10.77.0.101 dst=10.77.0.50 sport=80 dport=40000 [ASSURED] mark=0 use=1\n\
            ipv4     2 udp      17 29 src=10.77.0.50 dst=10.77.0.100 sport=1 dport=53 src=172.17.0.3 dst=10.77.0.50\n\
            ipv6     10 udp      17 29 src=fd77::50 dst=fd77::100 sport=1 dport=53 [UNREPLIED] src=fd00::2 dst=fd77::50\n\
            ipv4     2 icmp     1 29 src=10.77.0.50 dst=\n";
        let vips = ["10.77.0.100", "10.77.0.101", "fd77::100"].map(|vip| vip.parse().unwrap()).into();
        let to =
            |vip: &str, to: &str| Concern::Translated { vip: vip.parse().unwrap(), to: to.parse().unwrap() };
        assert_eq!(translated(TABLE, &vips), [to("10.77.0.100", "172.17.0.2"), to("fd77::100", "fd00::2")]);
        assert_eq!(translated(TABLE, &HashSet::new()), []);
        assert_eq!(translated("\u{fffd}dst= src=", &vips), []);
    }
}
