//! The question that a benchmark's programs make of the frame they are run on, whatever it was before.

use aya_ebpf::macros::map;
use aya_ebpf::maps::Array;
use aya_ebpf::programs::XdpContext;
use cluster_common::frame::{ETHERNET_LENGTH, arp};
use cluster_ebpf::received;

/// An ARP request in words; the frame begins with the third byte, which puts all its words where they may be written whole.
pub(crate) const ARP_WORDS: usize = (2 + ETHERNET_LENGTH + arp::LENGTH) / 4;
/// A neighbour solicitation with a link-layer address (RFC 4861 section 4.3), likewise.
pub(crate) const NEIGHBOUR_WORDS: usize = (2 + ETHERNET_LENGTH + 40 + 24 + 8) / 4;

#[map(name = "question")]
static QUESTION: Array<[u32; NEIGHBOUR_WORDS]> = Array::with_max_entries(1, 0);

/// Makes the frame the question, if it is long enough.
#[inline(always)]
pub(crate) fn ask<const WORDS: usize>(context: &XdpContext) -> bool {
    let Some(frame) = received(context).header(WORDS * 4 - 2) else { return false };
    let Some(question) = QUESTION.get(0) else { return false };
    let [_, _, first, second] = question[0].to_ne_bytes();
    frame.set_two(0, u16::from_ne_bytes([first, second]));
    let mut word = 1;
    while word < WORDS {
        frame.set_four(word * 4 - 2, question[word]);
        word += 1;
    }
    true
}
