//! Programs that only the benchmark runs. `BPF_PROG_TEST_RUN` keeps a program's edits between repeats, so an answered
//! request is no request the second time; `answer_and_undo` makes it one again, and `undo` alone is what that costs.
#![cfg_attr(target_arch = "bpf", no_std, no_main)]

mod object;

use aya_ebpf::bindings::xdp_action;
use aya_ebpf::macros::xdp;
use aya_ebpf::programs::XdpContext;
use cluster_common::frame::{ETHERNET_DESTINATION, ETHERNET_LENGTH, arp};
use cluster_ebpf::ingress::ingress;
use cluster_ebpf::{Fate, received};

/// What every other program is measured against.
#[xdp]
fn empty(_context: XdpContext) -> u32 {
    xdp_action::XDP_PASS
}

#[xdp]
fn answer_and_undo(context: XdpContext) -> u32 {
    match ingress(&context) {
        Fate::Answer => make_request(&context),
        Fate::Pass | Fate::Admit | Fate::Drop => xdp_action::XDP_ABORTED,
    }
}

#[xdp]
fn undo(context: XdpContext) -> u32 {
    make_request(&context)
}

/// Makes an answer a request for the address it was about, asked by the one it was for. Of a request it makes one, too.
#[inline(always)]
fn make_request(context: &XdpContext) -> u32 {
    const AT: usize = ETHERNET_LENGTH;
    let Some(header) = received(context).header(AT + arp::LENGTH) else { return xdp_action::XDP_ABORTED };
    let sender = header.four_in_halves(AT + arp::SENDER_IP);
    let target = header.four(AT + arp::TARGET_IP);
    header.set_mac(ETHERNET_DESTINATION, [0xffff; 3]);
    header.set_two(AT + arp::OPERATION, arp::REQUEST.to_be());
    header.set_four_in_halves(AT + arp::SENDER_IP, target);
    header.set_four(AT + arp::TARGET_IP, sender);
    xdp_action::XDP_TX
}

#[cfg(not(target_arch = "bpf"))]
fn main() {}
