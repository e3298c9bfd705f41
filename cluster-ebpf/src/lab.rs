//! Programs for the switch ports of the lab: `pass` lets everything through, `loss_in` and `loss_out` drop by chance what
//! a port receives and what it sends.
#![cfg_attr(target_arch = "bpf", no_std, no_main)]

mod object;

use aya_ebpf::bindings::{TC_ACT_SHOT, TC_ACT_UNSPEC, xdp_action};
use aya_ebpf::helpers::generated::bpf_get_prandom_u32;
use aya_ebpf::macros::{classifier, map, xdp};
use aya_ebpf::maps::Array;
use aya_ebpf::programs::{TcContext, XdpContext};

/// How many of 65 536 frames are lost: entry 0 of those received, entry 1 of those sent. From 65 536 on, all.
#[map(name = "loss")]
static LOSS: Array<u32> = Array::with_max_entries(2, 0);

/// A veth whose peer sends by `XDP_TX` must have a native program of its own, or those frames are lost silently.
#[xdp]
fn pass(_context: XdpContext) -> u32 {
    xdp_action::XDP_PASS
}

/// The same as a program that knows frames in several buffers.
#[xdp(frags)]
fn pass_frags(_context: XdpContext) -> u32 {
    xdp_action::XDP_PASS
}

/// For the end of a chain: what comes here is seen not to arrive.
#[xdp]
fn swallow(_context: XdpContext) -> u32 {
    xdp_action::XDP_DROP
}

/// The same as a program that knows frames in several buffers.
#[xdp(frags)]
fn swallow_frags(_context: XdpContext) -> u32 {
    xdp_action::XDP_DROP
}

#[xdp]
fn loss_in(_context: XdpContext) -> u32 {
    if is_lost(0) { xdp_action::XDP_DROP } else { xdp_action::XDP_PASS }
}

#[classifier]
fn loss_out(_context: TcContext) -> i32 {
    if is_lost(1) { TC_ACT_SHOT } else { TC_ACT_UNSPEC }
}

#[inline(always)]
fn is_lost(entry: u32) -> bool {
    let Some(&loss) = LOSS.get(entry) else { return false };
    // SAFETY: the helper has no preconditions.
    loss != 0 && unsafe { bpf_get_prandom_u32() } & 0xffff < loss
}

#[cfg(not(target_arch = "bpf"))]
fn main() {}
