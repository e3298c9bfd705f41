//! The product's programs: `cluster_ingress` (XDP), `cluster_linear` (the same for kernels before 5.18, which do not
//! know frames in several buffers), `cluster_mend` and `cluster_egress` (TCX or clsact). `cluster_chained` and
//! `chained_linear` are the first two with a program of the user's behind them.
#![cfg_attr(target_arch = "bpf", no_std, no_main)]

mod object;
mod unsafe_chain;

use aya_ebpf::bindings::{TC_ACT_SHOT, TC_ACT_UNSPEC, xdp_action};
use aya_ebpf::macros::{classifier, xdp};
use aya_ebpf::maps::ProgramArray;
use aya_ebpf::programs::{TcContext, XdpContext};
use cluster_ebpf::Fate;
use cluster_ebpf::egress::egress;
use cluster_ebpf::ingress::ingress;
use cluster_ebpf::mend::mend;
use cluster_ebpf::trace;

use unsafe_chain::{CHAIN, CHAIN_LINEAR, ask_next};

/// Frames in several buffers (jumbo frames) are let in: all headers are in the first.
#[xdp(frags)]
#[inline(always)]
fn cluster_ingress(context: XdpContext) -> u32 {
    judge_received(&context)
}

#[xdp]
#[inline(always)]
fn cluster_linear(context: XdpContext) -> u32 {
    judge_received(&context)
}

#[inline(always)]
fn judge_received(context: &XdpContext) -> u32 {
    let fate = ingress(context);
    if fate != Fate::Pass {
        trace::received(context);
    }
    match fate {
        Fate::Pass | Fate::Admit => xdp_action::XDP_PASS,
        Fate::Answer => xdp_action::XDP_TX,
        Fate::Drop => xdp_action::XDP_DROP,
    }
}

#[xdp(frags)]
#[inline(always)]
fn cluster_chained(context: XdpContext) -> u32 {
    judge_and_chain(&context, &CHAIN)
}

#[xdp]
#[inline(always)]
fn chained_linear(context: XdpContext) -> u32 {
    judge_and_chain(&context, &CHAIN_LINEAR)
}

#[inline(always)]
fn judge_and_chain(context: &XdpContext, chain: &ProgramArray) -> u32 {
    match judge_received(context) {
        xdp_action::XDP_PASS => ask_next(context, chain),
        verdict => verdict,
    }
}

/// `TC_ACT_UNSPEC`, which is `TCX_NEXT`, lets the programs after this one have their say.
#[classifier]
#[inline(always)]
fn cluster_egress(context: TcContext) -> i32 {
    let fate = egress(&context);
    if fate != Fate::Pass {
        trace::sent(&context);
    }
    match fate {
        Fate::Pass | Fate::Admit | Fate::Answer => TC_ACT_UNSPEC,
        Fate::Drop => TC_ACT_SHOT,
    }
}

/// On the service interface only, and only where a group has a virtual Ethernet address.
#[classifier]
#[inline(always)]
fn cluster_mend(context: TcContext) -> i32 {
    mend(&context);
    TC_ACT_UNSPEC
}

#[cfg(not(target_arch = "bpf"))]
fn main() {}
