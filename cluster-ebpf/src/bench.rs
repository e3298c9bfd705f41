//! Programs that only the benchmark runs. `BPF_PROG_TEST_RUN` keeps a program's edits between repeats, so an answered
//! request is no request the second time; `answer_arp_again` and `answer_neighbour_again` make it one again, and
//! `ask_arp_again` and `ask_neighbour_again` are what that alone costs.
#![cfg_attr(target_arch = "bpf", no_std, no_main)]

mod object;
mod question;

use aya_ebpf::bindings::xdp_action;
use aya_ebpf::macros::xdp;
use aya_ebpf::programs::XdpContext;
use cluster_ebpf::Fate;
use cluster_ebpf::ingress::ingress;

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
