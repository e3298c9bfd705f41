//! What the ingress program has let in under a virtual Ethernet address, and the driver has taken for another host's before.
//!
//! A virtual Ethernet device looks at the address before its XDP program can rewrite it; a network card's driver does so
//! afterwards, and there is nothing to mend.

use aya_ebpf::programs::TcContext;
use cluster_common::frame::{ETHERNET_DESTINATION, ETHERNET_LENGTH};

use crate::unsafe_maps::nic;
use crate::unsafe_packet::Buffered;

/// Makes a frame to our own Ethernet address ours.
#[inline(always)]
pub fn mend(context: &TcContext) {
    let mut frame = Buffered::new(context);
    if frame.is_for_another_host()
        && let Ok(header) = frame.reach(ETHERNET_LENGTH)
        && nic().is_some_and(|nic| nic.mac == header.mac(ETHERNET_DESTINATION))
    {
        frame.make_ours();
    }
}
