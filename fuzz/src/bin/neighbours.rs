//! What others say of neighbours, as the heartbeat thread reads it: frames of ARP and of neighbour discovery.
#![no_main]

use cluster_userspace::network::arp::Arp;
use cluster_userspace::network::ndp::Advertisement;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|frame: &[u8]| {
    if let Some(arp) = Arp::parse(frame) {
        let _ = arp.is_announcement();
    }
    if let Some(found) = Advertisement::parse(frame) {
        assert!(!found.target.is_multicast());
    }
});
