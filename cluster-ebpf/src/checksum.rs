//! The internet checksum (RFC 1071), of words as they lie in memory: it does not depend on the order of bytes.

use cluster_common::frame::ipv6;

/// A sum that is not folded yet. It has room for billions of words.
pub(crate) struct Checksum(u64);

impl Checksum {
    /// The sum over the pseudo-header (RFC 8200 section 8.1) of an ICMPv6 message, from the sums over its addresses. The
    /// length is as it lies in memory.
    #[inline(always)]
    pub(crate) fn of_icmpv6(source: u64, destination: u64, length: u16) -> Self {
        let mut sum = Self(source + destination);
        sum.add_two(length);
        sum.add_two(u16::from(ipv6::ICMPV6).to_be());
        sum
    }

    /// The sum over sixteen bytes.
    #[inline(always)]
    pub(crate) fn of_sixteen(words: [u32; 4]) -> u64 {
        u64::from(words[0]) + u64::from(words[1]) + u64::from(words[2]) + u64::from(words[3])
    }

    /// Adds such a sum.
    #[inline(always)]
    pub(crate) fn add_sum(&mut self, sum: u64) {
        self.0 += sum;
    }

    /// What becomes of a message's checksum when one address of its pseudo-header changes (RFC 1624).
    #[inline(always)]
    pub(crate) fn changed(checksum: u16, from: [u32; 4], to: [u32; 4]) -> u16 {
        let mut sum = Self(0);
        sum.add_two(!checksum);
        sum.add_sixteen(from.map(|word| !word));
        sum.add_sixteen(to);
        sum.value()
    }

    /// The sum over a message that has this checksum in it (RFC 1624), itself left out.
    #[inline(always)]
    pub(crate) fn of_message_with(checksum: u16) -> Self {
        Self(u64::from(!checksum))
    }

    #[inline(always)]
    pub(crate) fn add_two(&mut self, two: u16) {
        self.0 += u64::from(two);
    }

    #[inline(always)]
    pub(crate) fn add_four(&mut self, four: u32) {
        self.0 += u64::from(four);
    }

    #[inline(always)]
    pub(crate) fn add_sixteen(&mut self, words: [u32; 4]) {
        for word in words {
            self.add_four(word);
        }
    }

    #[inline(always)]
    pub(crate) fn add_mac(&mut self, mac: [u16; 3]) {
        for two in mac {
            self.add_two(two);
        }
    }

    /// Has one Ethernet address in the sum replaced by another (RFC 1624 equation 3).
    #[inline(always)]
    pub(crate) fn replace_mac(&mut self, old: [u16; 3], new: [u16; 3]) {
        self.add_mac(old.map(|two| !two));
        self.add_mac(new);
    }

    /// Whether the sum, with the message's own checksum in it, is that of an undamaged message.
    #[inline(always)]
    pub(crate) fn is_right(&self) -> bool {
        self.folded() == 0xffff
    }

    /// What goes into the message whose checksum was left out of the sum.
    #[inline(always)]
    pub(crate) fn value(&self) -> u16 {
        !self.folded()
    }

    #[inline(always)]
    fn folded(&self) -> u16 {
        let sum = (self.0 >> 32) + (self.0 & 0xffff_ffff);
        let sum = (sum >> 32) + (sum & 0xffff_ffff);
        let sum = (sum >> 16) + (sum & 0xffff);
        let sum = (sum >> 16) + (sum & 0xffff);
        ((sum >> 16) + (sum & 0xffff)) as u16
    }
}
