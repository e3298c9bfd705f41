//! The virtual Ethernet address of frames that leave in a VIP's name.

use cluster_common::frame::{ETHERNET_LENGTH, ETHERNET_SOURCE};

use crate::unsafe_maps::service_interface;
use crate::unsafe_packet::{Buffered, Unreachable};

/// The address that the frame is to wear: the group's, if it has one and the frame leaves by the service interface.
/// Elsewhere nobody would take in what is sent to it.
#[inline(always)]
pub(super) fn worn(frame: &Buffered<'_>, face: Option<[u16; 3]>) -> Option<[u16; 3]> {
    face.filter(|_| service_interface() == Some(frame.interface()))
}

/// Makes the address, if there is one to wear, the frame's source.
#[inline(always)]
pub(super) fn put_on(frame: &mut Buffered<'_>, mac: Option<[u16; 3]>) -> Result<(), Unreachable> {
    match mac {
        // A frame of an interface above this one wears it already.
        Some(mac) if frame.reach(ETHERNET_LENGTH)?.mac(ETHERNET_SOURCE) != mac => {
            frame.store(ETHERNET_SOURCE, &mac)
        }
        _ => Ok(()),
    }
}
