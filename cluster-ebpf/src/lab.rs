//! Programs for the switch ports of the lab: `pass` lets everything through, `loss_in` and `loss_out` drop by chance what
//! a port receives and what it sends; `vlan_out` and `vlan_in` make a pair of veths a VLAN's interface, where the kernel has none. And what stands for programs of other people's beside ours: `swallow`, `dispatch`.
#![cfg_attr(target_arch = "bpf", no_std, no_main)]

mod object;

use aya_ebpf::bindings::{TC_ACT_SHOT, TC_ACT_UNSPEC, xdp_action};
use aya_ebpf::helpers::generated::{bpf_get_prandom_u32, bpf_redirect, bpf_skb_vlan_pop, bpf_skb_vlan_push};
use aya_ebpf::macros::{classifier, map, xdp};
use aya_ebpf::maps::{Array, ProgramArray};
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

#[map(name = "dispatched")]
static DISPATCHED: ProgramArray = ProgramArray::with_max_entries(1, 0);
#[map(name = "dispatched_frags")]
static DISPATCHED_FRAGS: ProgramArray = ProgramArray::with_max_entries(1, 0);

/// A dispatcher: it calls what is in its map, if there is anything.
#[xdp]
fn dispatch(context: XdpContext) -> u32 {
    call(&context, &DISPATCHED)
}

/// The same as a program that knows frames in several buffers.
#[xdp(frags)]
fn dispatch_frags(context: XdpContext) -> u32 {
    call(&context, &DISPATCHED_FRAGS)
}

#[inline(always)]
fn call(context: &XdpContext, programs: &ProgramArray) -> u32 {
    // SAFETY: the context is the kernel's for this program, and the map outlives it.
    unsafe { programs.tail_call(context, 0) };
    xdp_action::XDP_PASS
}

#[xdp]
fn loss_in(_context: XdpContext) -> u32 {
    if is_lost(0) { xdp_action::XDP_DROP } else { xdp_action::XDP_PASS }
}

#[classifier]
fn loss_out(_context: TcContext) -> i32 {
    if is_lost(1) { TC_ACT_SHOT } else { TC_ACT_UNSPEC }
}

/// The VLAN identifier, and the number of the interface to which frames go: entry 0 of those sent, entry 1 of those received.
#[map(name = "vlan")]
static VLAN: Array<[u32; 2]> = Array::with_max_entries(2, 0);

/// What comes out of a VLAN's interface gets the tag and goes to the interface below.
#[classifier]
fn vlan_out(context: TcContext) -> i32 {
    let Some(&[id, below]) = VLAN.get(0) else { return TC_ACT_UNSPEC };
    // SAFETY: the context is the kernel's for this program.
    if unsafe { bpf_skb_vlan_push(context.skb.skb, u16::to_be(0x8100), id as u16) } != 0 {
        return TC_ACT_SHOT;
    }
    send_to(below)
}

/// What comes in with the tag goes to the VLAN's interface without it.
#[classifier]
fn vlan_in(context: TcContext) -> i32 {
    let Some(&[id, above]) = VLAN.get(1) else { return TC_ACT_UNSPEC };
    // SAFETY: the context is the kernel's for this program.
    let (is_tagged, tag) = unsafe { ((*context.skb.skb).vlan_present != 0, (*context.skb.skb).vlan_tci) };
    if !is_tagged || tag & 0x0fff != id {
        return TC_ACT_UNSPEC;
    }
    // SAFETY: as above.
    if unsafe { bpf_skb_vlan_pop(context.skb.skb) } != 0 {
        return TC_ACT_SHOT;
    }
    send_to(above)
}

#[inline(always)]
fn send_to(ifindex: u32) -> i32 {
    // SAFETY: the helper has no preconditions.
    unsafe { bpf_redirect(ifindex, 0) as i32 }
}

#[inline(always)]
fn is_lost(entry: u32) -> bool {
    let Some(&loss) = LOSS.get(entry) else { return false };
    // SAFETY: the helper has no preconditions.
    loss != 0 && unsafe { bpf_get_prandom_u32() } & 0xffff < loss
}

#[cfg(not(target_arch = "bpf"))]
fn main() {}
