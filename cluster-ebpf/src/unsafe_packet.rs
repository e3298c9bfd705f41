//! Access to a packet's bytes.
//!
//! Every access stands behind [`Frame::header`], and the kernel's verifier proves it again for each program it loads:
//! a read or write outside the checked bytes cannot be loaded at all.

use aya_ebpf::programs::{TcContext, XdpContext};

/// The bytes of a frame that the programs can reach directly, from the Ethernet header on.
#[derive(Clone, Copy)]
pub struct Frame {
    start: usize,
    end: usize,
}

/// The frame that an XDP program was called for.
#[inline(always)]
#[must_use]
pub fn received(context: &XdpContext) -> Frame {
    Frame { start: context.data(), end: context.data_end() }
}

/// The linear part of the frame that a classifier was called for.
#[inline(always)]
#[must_use]
pub fn linear_part(context: &TcContext) -> Frame {
    Frame { start: context.data(), end: context.data_end() }
}

/// Brings the first `length` bytes of the frame, or all of a shorter one, into its linear part. `None` if the kernel
/// had no memory for it. Invalidates what was read before.
#[inline(always)]
#[must_use]
pub fn pull(context: &TcContext, length: u32) -> Option<Frame> {
    context.pull_data(length.min(context.len())).ok()?;
    Some(linear_part(context))
}

impl Frame {
    /// How many bytes there are.
    #[inline(always)]
    #[must_use]
    pub fn length(self) -> usize {
        self.end - self.start
    }

    /// The first `length` bytes; `None` if the frame is shorter.
    #[inline(always)]
    #[must_use]
    pub fn header(self, length: usize) -> Option<Header> {
        if self.start + length > self.end { None } else { Some(Header { start: self.start }) }
    }
}

/// The first bytes of a frame, as many as [`Frame::header`] was asked for.
///
/// Words are loaded whole. The kernel lets programs do so: it demands alignment, counted from two bytes before the
/// frame (`NET_IP_ALIGN`), only on machines that need it, and the offsets used here keep to that too.
#[derive(Clone, Copy)]
pub struct Header {
    start: usize,
}

impl Header {
    /// Two bytes at an even offset, as they lie in memory.
    #[inline(always)]
    #[must_use]
    pub fn two(self, at: usize) -> u16 {
        // SAFETY: `header` has compared the offset with the packet's end, or the verifier refuses the program.
        unsafe { *((self.start + at) as *const u16) }
    }

    /// Four bytes at an offset that is 2 modulo 4, as they lie in memory.
    #[inline(always)]
    #[must_use]
    pub fn four(self, at: usize) -> u32 {
        // SAFETY: as in `two`.
        unsafe { *((self.start + at) as *const u32) }
    }

    /// Four bytes at any even offset, as they lie in memory.
    #[inline(always)]
    #[must_use]
    pub fn four_in_halves(self, at: usize) -> u32 {
        let [a, b] = self.two(at).to_ne_bytes();
        let [c, d] = self.two(at + 2).to_ne_bytes();
        u32::from_ne_bytes([a, b, c, d])
    }

    /// An Ethernet address at an even offset.
    #[inline(always)]
    #[must_use]
    pub fn mac(self, at: usize) -> [u16; 3] {
        [self.two(at), self.two(at + 2), self.two(at + 4)]
    }

    /// Overwrites two bytes at an even offset.
    #[inline(always)]
    pub fn set_two(self, at: usize, value: u16) {
        // SAFETY: as in `two`; the packet is this program's alone while it runs.
        unsafe { *((self.start + at) as *mut u16) = value }
    }

    /// Overwrites four bytes at an offset that is 2 modulo 4.
    #[inline(always)]
    pub fn set_four(self, at: usize, value: u32) {
        // SAFETY: as in `set_two`.
        unsafe { *((self.start + at) as *mut u32) = value }
    }

    /// Overwrites four bytes at any even offset.
    #[inline(always)]
    pub fn set_four_in_halves(self, at: usize, value: u32) {
        let [a, b, c, d] = value.to_ne_bytes();
        self.set_two(at, u16::from_ne_bytes([a, b]));
        self.set_two(at + 2, u16::from_ne_bytes([c, d]));
    }

    /// Overwrites an Ethernet address at an even offset.
    #[inline(always)]
    pub fn set_mac(self, at: usize, mac: [u16; 3]) {
        self.set_two(at, mac[0]);
        self.set_two(at + 2, mac[1]);
        self.set_two(at + 4, mac[2]);
    }
}
