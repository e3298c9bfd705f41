//! Programs that only the benchmark runs. `BPF_PROG_TEST_RUN` keeps a program's edits between repeats, so an answered
//! request is no request the second time; `answer_arp_again` and `answer_neighbour_again` make it one again, and
//! `ask_arp_again` and `ask_neighbour_again` are what that alone costs.
#![cfg_attr(target_arch = "bpf", no_std, no_main)]

mod object;
mod question;

use aya_ebpf::bindings::xdp_action;
use aya_ebpf::macros::{map, xdp};
use aya_ebpf::maps::PerCpuArray;
use aya_ebpf::programs::XdpContext;
use cluster_common::frame::{ETHERNET_DESTINATION, ETHERNET_LENGTH, ETHERNET_SOURCE, ipv4};
use cluster_ebpf::ingress::ingress;
use cluster_ebpf::{Fate, received};

use question::{ARP_WORDS, NEIGHBOUR_WORDS, ask};

/// What every other program is measured against.
#[xdp]
#[inline(always)]
fn empty(_context: XdpContext) -> u32 {
    xdp_action::XDP_PASS
}

#[xdp]
#[inline(always)]
fn answer_arp_again(context: XdpContext) -> u32 {
    answer_and_ask::<ARP_WORDS>(&context)
}

#[xdp]
#[inline(always)]
fn answer_neighbour_again(context: XdpContext) -> u32 {
    answer_and_ask::<NEIGHBOUR_WORDS>(&context)
}

#[xdp]
#[inline(always)]
fn ask_arp_again(context: XdpContext) -> u32 {
    asked::<ARP_WORDS>(&context)
}

#[xdp]
#[inline(always)]
fn ask_neighbour_again(context: XdpContext) -> u32 {
    asked::<NEIGHBOUR_WORDS>(&context)
}

/// Sends on what is an active/active group's, and makes it again what came in; the same flow again, or another one.
#[xdp]
#[inline(always)]
fn spread_again(context: XdpContext) -> u32 {
    sent_on(&context, Next::SameFlow)
}

#[xdp]
#[inline(always)]
fn spread_another(context: XdpContext) -> u32 {
    sent_on(&context, Next::AnotherFlow)
}

/// What that alone costs.
#[xdp]
#[inline(always)]
fn again(context: XdpContext) -> u32 {
    make_next(&context, Next::SameFlow)
}

#[xdp]
#[inline(always)]
fn another(context: XdpContext) -> u32 {
    make_next(&context, Next::AnotherFlow)
}

/// Which flow the next frame is of.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Next {
    SameFlow,
    /// One of a million (2 to the 20th), all over them.
    AnotherFlow,
}

/// How many frames were made of other flows.
#[map(name = "flows")]
static FLOWS: PerCpuArray<u64> = PerCpuArray::with_max_entries(1, 0);

#[inline(always)]
fn sent_on(context: &XdpContext, next: Next) -> u32 {
    match ingress(context) {
        Fate::Answer => make_next(context, next),
        Fate::Pass | Fate::Admit | Fate::Drop => xdp_action::XDP_ABORTED,
    }
}

/// Addresses an IPv4 frame as the benchmark's client does, and changes its source address and port.
#[inline(always)]
fn make_next(context: &XdpContext, next: Next) -> u32 {
    const SOURCE: usize = ETHERNET_LENGTH + ipv4::SOURCE;
    const PORT: usize = ETHERNET_LENGTH + ipv4::LENGTH;
    const CARD: [u16; 3] = [u16::from_ne_bytes([2, 0]), 0, u16::from_ne_bytes([0, 0x0a])];
    const CLIENT: [u16; 3] = [u16::from_ne_bytes([2, 0]), 0, u16::from_ne_bytes([0, 0xcc])];
    let Some(header) = received(context).header(PORT + 4) else { return xdp_action::XDP_ABORTED };
    header.set_mac(ETHERNET_DESTINATION, CARD);
    header.set_mac(ETHERNET_SOURCE, CLIENT);
    if next == Next::AnotherFlow
        && let Some(flows) = FLOWS.get_ptr_mut(0)
    {
        // SAFETY: the entry is this CPU's own while the program runs.
        let number = unsafe {
            *flows = (*flows).wrapping_add(1);
            *flows
        };
        // An odd multiplier walks through all of them, far from one to the next.
        let flow = (number.wrapping_mul(0x9e37_79b1) & 0xf_ffff) as u32;
        header.set_four(SOURCE, 0x0a00_0000_u32.to_be() | (flow & 0x3ff).to_be());
        header.set_two(PORT, ((flow >> 10) as u16 + 1024).to_be());
    }
    xdp_action::XDP_TX
}

#[inline(always)]
fn answer_and_ask<const WORDS: usize>(context: &XdpContext) -> u32 {
    match ingress(context) {
        Fate::Answer => asked::<WORDS>(context),
        Fate::Pass | Fate::Admit | Fate::Drop => xdp_action::XDP_ABORTED,
    }
}

#[inline(always)]
fn asked<const WORDS: usize>(context: &XdpContext) -> u32 {
    if ask::<WORDS>(context) { xdp_action::XDP_TX } else { xdp_action::XDP_ABORTED }
}

#[cfg(not(target_arch = "bpf"))]
fn main() {}
