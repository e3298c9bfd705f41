//! `trace`: the frames that concern a VIP, what became of each and why; and how they are shown and written to a file.

use std::fmt::Write as _;
use std::io::{self, Write};
use std::net::IpAddr;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use cluster_common::Verdict;
use cluster_proto::Time;
use etherparse::{Icmpv6Type, LaxNetSlice, LaxSlicedPacket, TransportSlice};
use serde::{Deserialize, Serialize};

use super::wall_clock::rfc3339;
use crate::network::arp::{Arp, Operation};

/// The answer to `trace`.
#[derive(Clone, PartialEq, Eq, Default, Debug, Serialize, Deserialize)]
pub struct TraceAnswer {
    /// Oldest first.
    pub frames: Vec<FrameRecord>,
    /// How many more there were for which the kernel had no room, since the daemon's programs were loaded.
    pub lost: u64,
}

/// One frame, as it was after the program had judged it.
#[derive(Clone, PartialEq, Eq, Default, Debug, Serialize, Deserialize)]
pub struct FrameRecord {
    /// The time of day, in nanoseconds since 1970; it jumps when the host's clock is set.
    pub unix_ns: u64,
    /// Nanoseconds of `CLOCK_BOOTTIME`.
    pub boot_ns: u64,
    /// `in` or `out`, as seen from this host.
    pub direction: String,
    /// The counter of `stats` that counted it.
    pub verdict: String,
    /// `passed`, `answered`, `dropped` or `sent over`.
    pub action: String,
    /// Why, for people.
    pub reason: String,
    /// Its length in bytes.
    pub length: u32,
    /// Its first bytes in hexadecimal digits, 128 at most.
    pub bytes: String,
}

impl FrameRecord {
    /// The record of a frame with this verdict that is so long and begins with these bytes. `at` is the same moment by both
    /// clocks.
    #[must_use]
    pub fn of(verdict: Verdict, at: (Time, SystemTime), length: u32, bytes: &[u8]) -> Self {
        let (action, reason) = meaning(verdict);
        let since_1970 = at.1.duration_since(UNIX_EPOCH).unwrap_or_default();
        Self {
            unix_ns: u64::try_from(since_1970.as_nanos()).unwrap_or(u64::MAX),
            boot_ns: at.0.as_nanos(),
            direction: if verdict.is_egress() { "out" } else { "in" }.to_owned(),
            verdict: verdict.name().to_owned(),
            action: action.to_owned(),
            reason: reason.to_owned(),
            length,
            bytes: bytes.iter().map(|byte| format!("{byte:02x}")).collect(),
        }
    }
}

/// What becomes of a frame with this verdict, and why.
fn meaning(verdict: Verdict) -> (&'static str, &'static str) {
    const HELD: &str = "this node holds the group";
    const DARK: &str = "this node has no valid lease of the group";
    match verdict {
        Verdict::ArpAnswered | Verdict::NsAnswered => ("answered", HELD),
        Verdict::ArpDark | Verdict::Ipv4Dark | Verdict::NsDark | Verdict::Ipv6Dark => ("dropped", DARK),
        Verdict::ArpAnnounced | Verdict::NaAnnounced => {
            ("passed", "somebody announces the VIP, which is never answered")
        }
        Verdict::Ipv4Passed | Verdict::Ipv6Passed => {
            ("passed", "this node holds the group, or serves connections of a hand-over")
        }
        Verdict::EgressArpReplyFenced => ("dropped", "only the XDP program answers for a VIP"),
        Verdict::EgressArpRequestPassed | Verdict::EgressNaPassed | Verdict::EgressDadPassed => {
            ("passed", HELD)
        }
        Verdict::EgressIpv4Passed | Verdict::EgressIpv6Passed => {
            ("passed", "this node holds the group, or serves connections of a hand-over")
        }
        Verdict::EgressArpRequestFenced
        | Verdict::EgressIpv4Fenced
        | Verdict::EgressDadFenced
        | Verdict::EgressIpv6Fenced => ("dropped", DARK),
        Verdict::EgressNaFenced => {
            ("dropped", "an answer, which only the XDP program gives, or no valid lease")
        }
        Verdict::VirtualMacDark => ("dropped", "it is for the virtual MAC, which this node may not wear"),
        Verdict::EgressVirtualMacFenced => {
            ("dropped", "it has the virtual MAC as source, which this node may not wear")
        }
        Verdict::NsRefused => ("dropped", "not a valid solicitation (RFC 4861 section 7.1.1)"),
        Verdict::Ipv4SentOver | Verdict::Ipv6SentOver => {
            ("sent over", "it is the other node's, while a hand-over is under way")
        }
        Verdict::Ipv4Spread | Verdict::Ipv6Spread => ("sent on", "its flow's bucket is another node's"),
        Verdict::Ipv4SecondChance | Verdict::Ipv6SecondChance => {
            ("sent on", "its connection is not known here, and the bucket was another node's before")
        }
        Verdict::EgressArpRequestRenamed | Verdict::EgressNsRenamed => {
            ("passed", "asked in the node's own name, as it no longer holds the group")
        }
        Verdict::ArpRival | Verdict::NaRival | Verdict::NsRival => {
            ("passed", "a host outside the cluster claims the VIP")
        }
    }
}

impl FrameRecord {
    /// The frame's bytes, as far as they were captured.
    #[must_use]
    pub fn captured(&self) -> Vec<u8> {
        let digits = self.bytes.as_bytes().chunks_exact(2);
        let byte = |pair: &[u8]| u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok();
        digits.map_while(byte).collect()
    }

    /// The frame in a line, for people.
    #[must_use]
    pub fn line(&self) -> String {
        let time = rfc3339(UNIX_EPOCH + Duration::from_nanos(self.unix_ns));
        let (direction, verdict, action) = (&self.direction, &self.verdict, &self.action);
        let what = summary(&self.captured());
        format!(
            "{time}  {direction:<3}  {action:<9}  {what}, {} bytes  [{verdict}: {}]",
            self.length, self.reason
        )
    }
}

/// What a frame is, in a few words: protocol, ends, flags.
fn summary(frame: &[u8]) -> String {
    let mac = |at: usize| {
        let bytes = frame.get(at..at + 6).unwrap_or_default();
        bytes.iter().map(|byte| format!("{byte:02x}")).collect::<Vec<_>>().join(":")
    };
    if let Some(arp) = Arp::parse(frame) {
        return match arp.operation {
            _ if arp.is_announcement() => format!("ARP {} is at {}", arp.sender_ip, arp.sender_mac),
            Operation::Request => format!("ARP who has {}, tell {}", arp.target_ip, arp.sender_ip),
            Operation::Reply => {
                format!("ARP {} is at {}, to {}", arp.sender_ip, arp.sender_mac, arp.target_ip)
            }
        };
    }
    let other = || format!("frame {} > {}", mac(6), mac(0));
    let Ok(packet) = LaxSlicedPacket::from_ethernet(frame) else { return other() };
    let ends: (IpAddr, IpAddr) = match &packet.net {
        Some(LaxNetSlice::Ipv4(ip)) => {
            (ip.header().source_addr().into(), ip.header().destination_addr().into())
        }
        Some(LaxNetSlice::Ipv6(ip)) => {
            (ip.header().source_addr().into(), ip.header().destination_addr().into())
        }
        _ => return other(),
    };
    let (source, destination) = ends;
    let with_ports = |protocol: &str, from: u16, to: u16| {
        let (from, to) =
            (std::net::SocketAddr::new(source, from), std::net::SocketAddr::new(destination, to));
        format!("{protocol} {from} > {to}")
    };
    match &packet.transport {
        Some(TransportSlice::Tcp(tcp)) => {
            let mut flags = String::new();
            for (set, letter) in
                [(tcp.syn(), 'S'), (tcp.fin(), 'F'), (tcp.rst(), 'R'), (tcp.psh(), 'P'), (tcp.ack(), '.')]
            {
                if set {
                    flags.push(letter);
                }
            }
            let mut text = with_ports("TCP", tcp.source_port(), tcp.destination_port());
            // Writing into a String cannot fail.
            _ = write!(text, " [{flags}]");
            text
        }
        Some(TransportSlice::Udp(udp)) => with_ports("UDP", udp.source_port(), udp.destination_port()),
        Some(TransportSlice::Icmpv6(icmp)) => {
            let kind = match icmp.icmp_type() {
                Icmpv6Type::NeighborSolicitation => "neighbour solicitation".to_owned(),
                Icmpv6Type::NeighborAdvertisement(_) => "neighbour advertisement".to_owned(),
                _ => format!("type {}", icmp.type_u8()),
            };
            format!("ICMPv6 {kind} {source} > {destination}")
        }
        Some(TransportSlice::Icmpv4(icmp)) => {
            format!("ICMP type {} {source} > {destination}", icmp.type_u8())
        }
        _ => format!("IP {source} > {destination}"),
    }
}

/// Writes frames as a capture file that Wireshark and tcpdump read (pcap with times in nanoseconds, of Ethernet).
#[derive(Debug)]
pub struct PcapWriter<W> {
    file: W,
}

impl<W: Write> PcapWriter<W> {
    /// Begins a file.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn new(mut file: W) -> io::Result<Self> {
        // Magic number, version 2.4, no time zone, no accuracy, longest capture, Ethernet
        // (draft-ietf-opsawg-pcap section 4).
        file.write_all(&0xa1b2_3c4d_u32.to_le_bytes())?;
        file.write_all(&[2, 0, 4, 0])?;
        file.write_all(&[0; 8])?;
        file.write_all(&65_535_u32.to_le_bytes())?;
        file.write_all(&1_u32.to_le_bytes())?;
        Ok(Self { file })
    }

    /// Adds a frame, and hands everything to the system, so that the file is whole whenever the program is stopped.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn write(&mut self, frame: &FrameRecord) -> io::Result<()> {
        const SECOND: u64 = 1_000_000_000;
        let bytes = frame.captured();
        let captured = u32::try_from(bytes.len()).unwrap_or(u32::MAX);
        // Until 2106 seconds fit.
        let seconds = u32::try_from(frame.unix_ns / SECOND).unwrap_or(u32::MAX);
        let nanos = (frame.unix_ns % SECOND) as u32;
        for word in [seconds, nanos, captured, frame.length.max(captured)] {
            self.file.write_all(&word.to_le_bytes())?;
        }
        self.file.write_all(&bytes)?;
        self.file.flush()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ARP: [u8; 42] = [
        0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 2, 0, 0, 0, 0, 0xcc, 8, 6, 0, 1, 8, 0, 6, 4, 0, 1, 2, 0, 0, 0, 0,
        0xcc, 10, 77, 0, 9, 0, 0, 0, 0, 0, 0, 10, 77, 0, 100,
    ];

    fn record() -> FrameRecord {
        let at = (Time::from_nanos(5_000_000_000), UNIX_EPOCH + Duration::from_secs(1_000_000_000));
        FrameRecord::of(Verdict::ArpDark, at, 60, &ARP)
    }

    #[test]
    fn a_frame_is_told_with_its_time_its_verdict_and_why() {
        let frame = record();
        assert_eq!(frame.unix_ns, 1_000_000_000_000_000_000);
        assert_eq!(
            (frame.verdict.as_str(), frame.action.as_str(), frame.direction.as_str()),
            ("arp_dark", "dropped", "in")
        );
        assert_eq!(frame.captured(), ARP);
        let line = frame.line();
        assert!(line.starts_with("2001-09-09T01:46:40.000000Z  in   dropped    ARP who has 10.77.0.100, tell 10.77.0.9, 60 bytes"), "{line}");
    }

    #[test]
    fn damaged_digits_and_frames_are_no_reason_to_panic() {
        let with = |bytes: &str| FrameRecord { bytes: bytes.to_owned(), ..FrameRecord::default() };
        assert_eq!(with("0aF").captured(), [10]);
        assert_eq!(with("zz").captured(), b"");
        assert_eq!(with("é").captured(), b"");
        for length in 0..ARP.len() {
            assert!(!summary(&ARP[..length]).is_empty());
        }
        for kind in [[8, 0], [0x86, 0xdd]] {
            let mut frame = ARP.to_vec();
            frame[12..14].copy_from_slice(&kind);
            for first in 0..=255 {
                frame[14] = first;
                assert!(!summary(&frame).is_empty());
            }
        }
    }

    #[test]
    fn a_capture_file_has_a_header_and_whole_records() {
        let mut file = Vec::new();
        let mut pcap = PcapWriter::new(&mut file).unwrap();
        pcap.write(&record()).unwrap();
        assert_eq!(file.len(), 24 + 16 + ARP.len());
        assert_eq!(file[..4], [0x4d, 0x3c, 0xb2, 0xa1]);
        assert_eq!(file[20..24], [1, 0, 0, 0]);
        assert_eq!(file[24..28], 1_000_000_000_u32.to_le_bytes());
        assert_eq!(file[32..40], [42, 0, 0, 0, 60, 0, 0, 0]);
        assert_eq!(file[40..], ARP);
    }

    #[test]
    fn every_verdict_has_a_meaning() {
        for verdict in Verdict::ALL {
            let (action, reason) = meaning(verdict);
            let dropped = ["dark", "fenced", "refused"].iter().any(|end| verdict.name().ends_with(end));
            assert_eq!(action == "dropped", dropped, "{}", verdict.name());
            assert!(!reason.is_empty());
        }
    }
}
