//! Samples of the frames that concern a VIP, for whoever asks what becomes of them; while nobody does, a look at one word.

use aya_ebpf::EbpfContext as _;
use aya_ebpf::programs::{TcContext, XdpContext};

use crate::unsafe_apart::{sample_received, sample_sent};
use crate::unsafe_maps::{Hook, is_traced, trace, wanted};
use crate::unsafe_packet::{leaving, received as bytes};

/// Takes a sample of a frame that came in and was judged, if one is wanted: of the frame as it is now.
#[inline(always)]
pub fn received(context: &XdpContext) {
    if is_traced() {
        sample_received(context.as_ptr().cast());
    }
}

/// The same of a frame that was about to leave.
#[inline(always)]
pub fn sent(context: &TcContext) {
    if is_traced() {
        sample_sent(context.as_ptr().cast());
    }
}

/// What is behind [`received`].
#[inline(always)]
pub(crate) fn take_received(context: &XdpContext) {
    if let Some(sample) = wanted(Hook::Ingress) {
        let frame = bytes(context);
        trace(Hook::Ingress, sample, frame, frame.length() as u32);
    }
}

/// What is behind [`sent`].
#[inline(always)]
pub(crate) fn take_sent(context: &TcContext) {
    if let Some(sample) = wanted(Hook::Egress) {
        trace(Hook::Egress, sample, leaving(context), context.len());
    }
}
