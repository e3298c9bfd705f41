//! Access to a packet's bytes.
//!
//! Every access stands behind [`Frame::header`], and the kernel's verifier proves it again for each program it loads:
//! a read or write outside the checked bytes cannot be loaded at all.

use core::ptr::read_volatile;

use aya_ebpf::helpers::generated::bpf_xdp_adjust_tail;
use aya_ebpf::programs::{TcContext, XdpContext};

/// Types of received packets (linux/if_packet.h): to us, and to somebody else.
const PACKET_HOST: u32 = 0;
const PACKET_OTHERHOST: u32 = 3;

/// The bytes of a frame that the programs can reach directly, from the Ethernet header on.
#[derive(Clone, Copy)]
pub struct Frame {
    start: usize,
    end: usize,
}

/// Why bytes of a frame cannot be read or written.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Unreachable {
    /// It has not so many.
    TooShort,
    /// They are in another part of the buffer, and the kernel had no memory to bring them together or to copy them.
    NoMemory,
}

/// The frame that an XDP program was called for.
#[inline(always)]
#[must_use]
pub fn received(context: &XdpContext) -> Frame {
    // SAFETY: the context is the one that the kernel called the program with. The reads are volatile so that each gives
    // the verifier a packet pointer of its own; the compiler would join them as the 32-bit numbers that they seem to be.
    let (start, end) = unsafe {
        (read_volatile(&raw const (*context.ctx).data), read_volatile(&raw const (*context.ctx).data_end))
    };
    Frame { start: start as usize, end: end as usize }
}

/// Makes the frame longer. `None` if there is no room behind it. Invalidates what was read before.
#[inline(always)]
pub(crate) fn lengthen(context: &XdpContext, by: usize) -> Option<Frame> {
    // SAFETY: the context is the one that the kernel called the program with.
    let result = unsafe { bpf_xdp_adjust_tail(context.ctx, by as i32) };
    if result == 0 { Some(received(context)) } else { None }
}

/// A frame as a classifier sees it.
pub(crate) struct Buffered<'c> {
    context: &'c TcContext,
    /// What is in the linear part of its buffer.
    linear: Frame,
}

impl<'c> Buffered<'c> {
    #[inline(always)]
    pub(crate) fn new(context: &'c TcContext) -> Self {
        Self { context, linear: linear_part(context) }
    }

    /// The first `length` bytes, brought into the linear part of the buffer if need be. Invalidates what was read before.
    #[inline(always)]
    pub(crate) fn reach(&mut self, length: usize) -> Result<Header, Unreachable> {
        if let Some(header) = self.linear.header(length) {
            return Ok(header);
        }
        if (self.context.len() as usize) < length {
            return Err(Unreachable::TooShort);
        }
        self.context.pull_data(length as u32).map_err(|_| Unreachable::NoMemory)?;
        self.linear = linear_part(self.context);
        self.linear.header(length).ok_or(Unreachable::NoMemory)
    }

    /// Some bytes, wherever they are; `None` if there are not so many.
    #[inline(always)]
    pub(crate) fn load<T>(&self, at: usize) -> Option<T> {
        self.context.load(at).ok()
    }

    /// Overwrites some bytes, which must be there. Invalidates what was read before.
    #[inline(always)]
    pub(crate) fn store<T>(&mut self, at: usize, value: &T) -> Result<(), Unreachable> {
        // Direct writes would make the kernel copy shared headers of every frame before the program runs; the helper
        // does so for those that are written to.
        self.context.store(at, value, 0).map_err(|_| Unreachable::NoMemory)?;
        self.linear = linear_part(self.context);
        Ok(())
    }

    /// The number of the interface that it leaves by, or has come in by.
    #[inline(always)]
    pub(crate) fn interface(&self) -> u32 {
        // SAFETY: the context is the one that the kernel called the program with.
        unsafe { (*self.context.skb.skb).ifindex }
    }

    /// The number of the interface by which it came into this host; 0 if it was made here.
    #[inline(always)]
    pub(crate) fn came_in_by(&self) -> u32 {
        // SAFETY: as in `interface`.
        unsafe { (*self.context.skb.skb).ingress_ifindex }
    }

    /// Whether it came in for another host's Ethernet address.
    #[inline(always)]
    pub(crate) fn is_for_another_host(&self) -> bool {
        // SAFETY: as in `interface`.
        unsafe { (*self.context.skb.skb).pkt_type == PACKET_OTHERHOST }
    }

    /// Has the local stack take it in.
    #[inline(always)]
    pub(crate) fn make_ours(&self) {
        // It fails for no frame that came in.
        let _changed = self.context.change_type(PACKET_HOST);
    }
}

/// What is in the linear part of the buffer of a frame that leaves.
#[inline(always)]
pub(crate) fn leaving(context: &TcContext) -> Frame {
    linear_part(context)
}

#[inline(always)]
fn linear_part(context: &TcContext) -> Frame {
    let skb = context.skb.skb;
    // SAFETY: as in `received`.
    let (start, end) =
        unsafe { (read_volatile(&raw const (*skb).data), read_volatile(&raw const (*skb).data_end)) };
    Frame { start: start as usize, end: end as usize }
}

impl Frame {
    /// How many bytes there are.
    #[inline(always)]
    pub(crate) fn length(self) -> usize {
        self.end - self.start
    }

    /// The `length` bytes that are that far behind the frame's start, where the frame itself says how far; `None` if it is
    /// shorter.
    #[inline(always)]
    pub(crate) fn behind(self, distance: usize, length: usize) -> Option<Header> {
        let start = self.start + distance;
        if start + length > self.end { None } else { Some(Header { start }) }
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
    /// One byte.
    #[inline(always)]
    #[must_use]
    pub fn one(self, at: usize) -> u8 {
        // SAFETY: `header` has compared the offset with the packet's end, or the verifier refuses the program.
        unsafe { *((self.start + at) as *const u8) }
    }

    /// Two bytes at an even offset, as they lie in memory.
    #[inline(always)]
    #[must_use]
    pub fn two(self, at: usize) -> u16 {
        // SAFETY: as in `one`.
        unsafe { *((self.start + at) as *const u16) }
    }

    /// Four bytes at an offset that is 2 modulo 4, as they lie in memory.
    #[inline(always)]
    #[must_use]
    pub fn four(self, at: usize) -> u32 {
        // SAFETY: as in `one`.
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

    /// Sixteen bytes at an offset that is 2 modulo 4, as they lie in memory.
    #[inline(always)]
    #[must_use]
    pub fn sixteen(self, at: usize) -> [u32; 4] {
        [self.four(at), self.four(at + 4), self.four(at + 8), self.four(at + 12)]
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
        // SAFETY: as in `one`; the packet is this program's alone while it runs.
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

    /// Overwrites sixteen bytes at an offset that is 2 modulo 4.
    #[inline(always)]
    pub fn set_sixteen(self, at: usize, value: [u32; 4]) {
        self.set_four(at, value[0]);
        self.set_four(at + 4, value[1]);
        self.set_four(at + 8, value[2]);
        self.set_four(at + 12, value[3]);
    }

    /// Overwrites an Ethernet address at an even offset.
    #[inline(always)]
    pub fn set_mac(self, at: usize, mac: [u16; 3]) {
        self.set_two(at, mac[0]);
        self.set_two(at + 2, mac[1]);
        self.set_two(at + 4, mac[2]);
    }
}
