//! Both ends of a benchmark of responders: `ask_arp` and `ask_neighbour` make the frame they are run on a question, whatever it was
//! before, and send it; `count_answers` counts and drops what comes back, answers and packets that were sent on. `answer_all` answers every ARP request and looks
//! nothing up: what is left is what answering by XDP costs anybody.
#![cfg_attr(target_arch = "bpf", no_std, no_main)]

mod object;
mod question;

use aya_ebpf::bindings::xdp_action;
use aya_ebpf::macros::{map, xdp};
use aya_ebpf::maps::PerCpuArray;
use aya_ebpf::programs::XdpContext;
use cluster_common::frame::{
    ETHERNET_DESTINATION, ETHERNET_LENGTH, ETHERNET_SOURCE, ETHERNET_TYPE, TYPE_ARP, arp,
};
use cluster_ebpf::received;

use question::{ARP_WORDS, NEIGHBOUR_WORDS, ask};

/// How many answers, and packets that were sent on, came back.
#[map(name = "answers")]
static ANSWERS: PerCpuArray<u64> = PerCpuArray::with_max_entries(1, 0);

#[xdp]
fn ask_arp(context: XdpContext) -> u32 {
    send(ask::<ARP_WORDS>(&context))
}

#[xdp]
fn ask_neighbour(context: XdpContext) -> u32 {
    send(ask::<NEIGHBOUR_WORDS>(&context))
}

fn send(asked: bool) -> u32 {
    if asked { xdp_action::XDP_TX } else { xdp_action::XDP_ABORTED }
}

#[xdp]
fn answer_all(context: XdpContext) -> u32 {
    const AT: usize = ETHERNET_LENGTH;
    const MAC: [u16; 3] = [u16::from_ne_bytes([2, 0]), 0, u16::from_ne_bytes([0, 1])];
    let Some(header) = received(&context).header(AT + arp::LENGTH) else { return xdp_action::XDP_PASS };
    if header.two(ETHERNET_TYPE) != TYPE_ARP.to_be()
        || header.two(AT + arp::OPERATION) != arp::REQUEST.to_be()
    {
        return xdp_action::XDP_PASS;
    }
    let (asker, sender) = (header.mac(AT + arp::SENDER_MAC), header.four_in_halves(AT + arp::SENDER_IP));
    let target = header.four(AT + arp::TARGET_IP);
    header.set_mac(ETHERNET_DESTINATION, asker);
    header.set_mac(ETHERNET_SOURCE, MAC);
    header.set_two(AT + arp::OPERATION, arp::REPLY.to_be());
    header.set_mac(AT + arp::SENDER_MAC, MAC);
    header.set_four_in_halves(AT + arp::SENDER_IP, target);
    header.set_mac(AT + arp::TARGET_MAC, asker);
    header.set_four(AT + arp::TARGET_IP, sender);
    xdp_action::XDP_TX
}

#[xdp]
fn count_answers(context: XdpContext) -> u32 {
    const IPV6: u16 = 0x86dd;
    const NEXT_HEADER: usize = ETHERNET_LENGTH + 6;
    const ICMPV6: u8 = 58;
    const MESSAGE: usize = ETHERNET_LENGTH + 40;
    const ADVERTISEMENT: u8 = 136;
    // What an active/active group's entry puts into frames that it sends on.
    const MARK: u16 = u16::from_ne_bytes([0x02, 0xa1]);
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
        _ => header.two(ETHERNET_SOURCE) == MARK,
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
