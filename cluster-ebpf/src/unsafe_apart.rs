//! Functions that the kernel's verifier checks by themselves (global functions, kernel 5.6): once, whatever is known where they are
//! called. What is in line is checked again for each way that leads to it, and programs take the longer to load.

use aya_ebpf::bindings::{__sk_buff, xdp_md};
use aya_ebpf::programs::{TcContext, XdpContext};

use crate::{spread, trace};

/// Where a packet can begin in a frame, for the verifier: behind an Ethernet header and two tags at most.
const BEGINNINGS: u32 = 31;

/// [`trace::take_received`], apart.
// SAFETY: no other symbol has this name.
#[inline(never)]
#[unsafe(no_mangle)]
pub(crate) extern "C" fn sample_received(context: *mut xdp_md) -> i32 {
    trace::take_received(&XdpContext::new(context));
    0
}

/// [`trace::take_sent`], apart.
// SAFETY: no other symbol has this name.
#[inline(never)]
#[unsafe(no_mangle)]
pub(crate) extern "C" fn sample_sent(context: *mut __sk_buff) -> i32 {
    trace::take_sent(&TcContext::new(context));
    0
}

/// [`spread::way_of_ipv4`], apart: the number of the way.
// SAFETY: no other symbol has this name.
#[inline(never)]
#[unsafe(no_mangle)]
pub(crate) extern "C" fn spread_ipv4(context: *mut xdp_md, at: u32, table: u32) -> u32 {
    spread::way_of_ipv4(&XdpContext::new(context), (at & BEGINNINGS) as usize, table).number()
}

/// [`spread::way_of_ipv6`], apart: the number of the way.
// SAFETY: no other symbol has this name.
#[inline(never)]
#[unsafe(no_mangle)]
pub(crate) extern "C" fn spread_ipv6(context: *mut xdp_md, at: u32, table: u32) -> u32 {
    spread::way_of_ipv6(&XdpContext::new(context), (at & BEGINNINGS) as usize, table).number()
}
