//! Samples of the frames that concern a VIP, for whoever asks what becomes of them; while nobody does, a look at one word.

use aya_ebpf::programs::{TcContext, XdpContext};

use crate::unsafe_maps::{Hook, trace, wanted};
use crate::unsafe_packet::{leaving, received as bytes};

/// Takes a sample of a frame that came in and was judged, if one is wanted: of the frame as it is now.
#[inline(always)]
pub fn received(context: &XdpContext) {
    if let Some(sample) = wanted(Hook::Ingress) {
        let frame = bytes(context);
        trace(Hook::Ingress, sample, frame, frame.length() as u32);
    }
}

/// The same of a frame that was about to leave.
#[inline(always)]
pub fn sent(context: &TcContext) {
    if let Some(sample) = wanted(Hook::Egress) {
        trace(Hook::Egress, sample, leaving(context), context.len());
    }
}
