//! Both ends of a benchmark of responders: `ask_arp` and `ask_neighbour` make the frame they are run on a question, whatever it was
//! before, and send it; `count_answers` counts and drops what comes back.
#![cfg_attr(target_arch = "bpf", no_std, no_main)]

mod object;

use aya_ebpf::bindings::xdp_action;
use aya_ebpf::macros::{map, xdp};
use aya_ebpf::maps::{Array, PerCpuArray};
use aya_ebpf::programs::XdpContext;
use cluster_common::frame::{ETHERNET_LENGTH, ETHERNET_TYPE, TYPE_ARP, arp};
use cluster_ebpf::received;

/// An ARP request in words; the frame begins with the third byte, which puts all its words where they may be written whole.
const ARP_WORDS: usize = (2 + ETHERNET_LENGTH + arp::LENGTH) / 4;
/// A neighbour solicitation with a link-layer address (RFC 4861 section 4.3), likewise.
const NEIGHBOUR_WORDS: usize = (2 + ETHERNET_LENGTH + 40 + 24 + 8) / 4;

/// The question to send.
#[map(name = "question")]
static QUESTION: Array<[u32; NEIGHBOUR_WORDS]> = Array::with_max_entries(1, 0);
/// How many answers came back.
#[map(name = "answers")]
static ANSWERS: PerCpuArray<u64> = PerCpuArray::with_max_entries(1, 0);

#[xdp]
fn ask_arp(context: XdpContext) -> u32 {
    ask::<ARP_WORDS>(&context)
}

#[xdp]
fn ask_neighbour(context: XdpContext) -> u32 {
    ask::<NEIGHBOUR_WORDS>(&context)
}

/// A frame that was answered in place comes back as the answer it was made.
#[inline(always)]
fn ask<const WORDS: usize>(context: &XdpContext) -> u32 {
    let Some(frame) = received(context).header(WORDS * 4 - 2) else { return xdp_action::XDP_ABORTED };
    let Some(question) = QUESTION.get(0) else { return xdp_action::XDP_ABORTED };
    let [_, _, first, second] = question[0].to_ne_bytes();
    frame.set_two(0, u16::from_ne_bytes([first, second]));
    let mut word = 1;
    while word < WORDS {
        frame.set_four(word * 4 - 2, question[word]);
        word += 1;
    }
    xdp_action::XDP_TX
}

#[xdp]
fn count_answers(context: XdpContext) -> u32 {
    const IPV6: u16 = 0x86dd;
    const NEXT_HEADER: usize = ETHERNET_LENGTH + 6;
    const ICMPV6: u8 = 58;
    const MESSAGE: usize = ETHERNET_LENGTH + 40;
    const ADVERTISEMENT: u8 = 136;
    let frame = received(&context);
    let Some(header) = frame.header(ETHERNET_LENGTH + arp::LENGTH) else { return xdp_action::XDP_PASS };
    let is_answer = match u16::from_be(header.two(ETHERNET_TYPE)) {
        TYPE_ARP => header.two(ETHERNET_LENGTH + arp::OPERATION) == arp::REPLY.to_be(),
        IPV6 => match frame.header(MESSAGE + 2) {
            Some(header) => {
                header.two(NEXT_HEADER).to_ne_bytes()[0] == ICMPV6
                    && header.two(MESSAGE).to_ne_bytes()[0] == ADVERTISEMENT
            }
            None => false,
        },
        _ => false,
    };
    if !is_answer {
        return xdp_action::XDP_PASS;
    }
    if let Some(answers) = ANSWERS.get_ptr_mut(0) {
        // SAFETY: the entry is this CPU's own while the program runs.
        unsafe { *answers += 1 };
    }
    xdp_action::XDP_DROP
}

#[cfg(not(target_arch = "bpf"))]
fn main() {}
