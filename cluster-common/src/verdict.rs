//! What became of a packet that concerned a VIP.

/// What became of a packet that concerned a VIP; packets that concern none are not counted. The number is the
/// counter's place in [`crate::maps::GroupCounters::verdicts`].
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[repr(u32)]
pub enum Verdict {
    /// An ARP request for the VIP, answered in place.
    ArpAnswered = 0,
    /// An ARP request for the VIP, dropped because there was no valid lease.
    ArpDark = 1,
    /// Somebody announced the VIP by ARP (sender and target are the VIP); passed to the local stack, never answered.
    ArpAnnounced = 2,
    /// An IPv4 packet to the VIP, passed to the local stack.
    Ipv4Passed = 3,
    /// An IPv4 packet to the VIP, dropped because there was no valid lease.
    Ipv4Dark = 4,
    /// An ARP reply of this host's kernel for the VIP, kept from leaving: only the ingress program answers.
    EgressArpReplyFenced = 5,
    /// An ARP request of this host with the VIP as sender, let out.
    EgressArpRequestPassed = 6,
    /// An ARP request of this host with the VIP as sender, kept from leaving because there was no valid lease.
    EgressArpRequestFenced = 7,
    /// An IPv4 packet of this host with the VIP as source, let out.
    EgressIpv4Passed = 8,
    /// An IPv4 packet of this host with the VIP as source, kept from leaving because there was no valid lease.
    EgressIpv4Fenced = 9,
}

impl Verdict {
    /// How many verdicts there are.
    pub const COUNT: usize = 10;

    /// All of them, in the order of their numbers.
    pub const ALL: [Self; Self::COUNT] = [
        Self::ArpAnswered,
        Self::ArpDark,
        Self::ArpAnnounced,
        Self::Ipv4Passed,
        Self::Ipv4Dark,
        Self::EgressArpReplyFenced,
        Self::EgressArpRequestPassed,
        Self::EgressArpRequestFenced,
        Self::EgressIpv4Passed,
        Self::EgressIpv4Fenced,
    ];

    /// The name under which the counter is shown, for example `arp_answered`. Part of the public interface.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::ArpAnswered => "arp_answered",
            Self::ArpDark => "arp_dark",
            Self::ArpAnnounced => "arp_announced",
            Self::Ipv4Passed => "ipv4_passed",
            Self::Ipv4Dark => "ipv4_dark",
            Self::EgressArpReplyFenced => "egress_arp_reply_fenced",
            Self::EgressArpRequestPassed => "egress_arp_request_passed",
            Self::EgressArpRequestFenced => "egress_arp_request_fenced",
            Self::EgressIpv4Passed => "egress_ipv4_passed",
            Self::EgressIpv4Fenced => "egress_ipv4_fenced",
        }
    }
}

const _: () = {
    let mut at = 0;
    while at < Verdict::COUNT {
        assert!(Verdict::ALL[at] as usize == at);
        at += 1;
    }
};
