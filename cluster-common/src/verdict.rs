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
    /// A neighbour solicitation for the VIP, answered in place.
    NsAnswered = 10,
    /// A neighbour solicitation for the VIP, dropped because there was no valid lease.
    NsDark = 11,
    /// A neighbour solicitation for the VIP that is not valid (RFC 4861 section 7.1.1) or cannot be answered, dropped.
    NsRefused = 12,
    /// Somebody advertised the VIP as a neighbour; passed to the local stack, never answered.
    NaAnnounced = 13,
    /// An IPv6 packet to the VIP, passed to the local stack.
    Ipv6Passed = 14,
    /// An IPv6 packet to the VIP, dropped because there was no valid lease.
    Ipv6Dark = 15,
    /// A neighbour advertisement of this host for the VIP that answers nobody, let out.
    EgressNaPassed = 16,
    /// A neighbour advertisement of this host for the VIP, kept from leaving: it was an answer, which only the ingress
    /// program gives, or there was no valid lease.
    EgressNaFenced = 17,
    /// A duplicate address detection of this host for the VIP, let out.
    EgressDadPassed = 18,
    /// A duplicate address detection of this host for the VIP, kept from leaving because there was no valid lease.
    EgressDadFenced = 19,
    /// An IPv6 packet of this host with the VIP as source, let out.
    EgressIpv6Passed = 20,
    /// An IPv6 packet of this host with the VIP as source, kept from leaving because there was no valid lease.
    EgressIpv6Fenced = 21,
    /// An IPv4 packet to the VIP, sent over to the node at the other end of a hand-over.
    Ipv4SentOver = 22,
    /// An IPv6 packet to the VIP, sent over to the node at the other end of a hand-over.
    Ipv6SentOver = 23,
    /// An ARP request of this host with the VIP as sender, let out in the name of the node's own address.
    EgressArpRequestRenamed = 24,
    /// A neighbour solicitation of this host with the VIP as source, let out in the name of the node's own address.
    EgressNsRenamed = 25,
    /// Somebody outside the cluster said by ARP that he has the VIP. Counted besides what became of the frame.
    ArpRival = 26,
    /// Somebody outside the cluster advertised the VIP as a neighbour. Counted besides what became of the frame.
    NaRival = 27,
    /// Somebody outside the cluster solicited with the VIP as source, or would like to have the VIP (duplicate address
    /// detection). Counted besides what became of the frame.
    NsRival = 28,
    /// A frame to the group's virtual Ethernet address, dropped because there was no valid lease.
    VirtualMacDark = 29,
    /// A frame of this host from the group's virtual Ethernet address, kept from leaving because there was no valid lease.
    EgressVirtualMacFenced = 30,
    /// An IPv4 packet to the VIP of an active/active group, sent to the node that its flow's bucket names.
    Ipv4Spread = 31,
    /// An IPv6 packet to the VIP of an active/active group, sent to the node that its flow's bucket names.
    Ipv6Spread = 32,
    /// An IPv4 packet of a connection that is not known here, sent to the node that had its bucket before.
    Ipv4SecondChance = 33,
    /// An IPv6 packet of a connection that is not known here, sent to the node that had its bucket before.
    Ipv6SecondChance = 34,
}

impl Verdict {
    /// How many verdicts there are.
    pub const COUNT: usize = 35;

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
        Self::NsAnswered,
        Self::NsDark,
        Self::NsRefused,
        Self::NaAnnounced,
        Self::Ipv6Passed,
        Self::Ipv6Dark,
        Self::EgressNaPassed,
        Self::EgressNaFenced,
        Self::EgressDadPassed,
        Self::EgressDadFenced,
        Self::EgressIpv6Passed,
        Self::EgressIpv6Fenced,
        Self::Ipv4SentOver,
        Self::Ipv6SentOver,
        Self::EgressArpRequestRenamed,
        Self::EgressNsRenamed,
        Self::ArpRival,
        Self::NaRival,
        Self::NsRival,
        Self::VirtualMacDark,
        Self::EgressVirtualMacFenced,
        Self::Ipv4Spread,
        Self::Ipv6Spread,
        Self::Ipv4SecondChance,
        Self::Ipv6SecondChance,
    ];

    /// Whether it is about a frame of this host that was to leave.
    #[must_use]
    pub const fn is_egress(self) -> bool {
        matches!(
            self,
            Self::EgressArpReplyFenced
                | Self::EgressArpRequestPassed
                | Self::EgressArpRequestFenced
                | Self::EgressIpv4Passed
                | Self::EgressIpv4Fenced
                | Self::EgressNaPassed
                | Self::EgressNaFenced
                | Self::EgressDadPassed
                | Self::EgressDadFenced
                | Self::EgressIpv6Passed
                | Self::EgressIpv6Fenced
                | Self::EgressArpRequestRenamed
                | Self::EgressNsRenamed
                | Self::EgressVirtualMacFenced
        )
    }

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
            Self::NsAnswered => "ns_answered",
            Self::NsDark => "ns_dark",
            Self::NsRefused => "ns_refused",
            Self::NaAnnounced => "na_announced",
            Self::Ipv6Passed => "ipv6_passed",
            Self::Ipv6Dark => "ipv6_dark",
            Self::EgressNaPassed => "egress_na_passed",
            Self::EgressNaFenced => "egress_na_fenced",
            Self::EgressDadPassed => "egress_dad_passed",
            Self::EgressDadFenced => "egress_dad_fenced",
            Self::EgressIpv6Passed => "egress_ipv6_passed",
            Self::EgressIpv6Fenced => "egress_ipv6_fenced",
            Self::Ipv4SentOver => "ipv4_sent_over",
            Self::Ipv6SentOver => "ipv6_sent_over",
            Self::EgressArpRequestRenamed => "egress_arp_request_renamed",
            Self::EgressNsRenamed => "egress_ns_renamed",
            Self::ArpRival => "arp_rival",
            Self::NaRival => "na_rival",
            Self::NsRival => "ns_rival",
            Self::VirtualMacDark => "virtual_mac_dark",
            Self::EgressVirtualMacFenced => "egress_virtual_mac_fenced",
            Self::Ipv4Spread => "ipv4_spread",
            Self::Ipv6Spread => "ipv6_spread",
            Self::Ipv4SecondChance => "ipv4_second_chance",
            Self::Ipv6SecondChance => "ipv6_second_chance",
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
