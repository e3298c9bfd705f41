//! The kernel's tables of TCP connections and of UDP sockets, as the ingress program may ask them.

use aya_ebpf::EbpfContext as _;
use aya_ebpf::bindings::{
    BPF_F_CURRENT_NETNS, bpf_sock_tuple, bpf_sock_tuple__bindgen_ty_1,
    bpf_sock_tuple__bindgen_ty_1__bindgen_ty_1, bpf_sock_tuple__bindgen_ty_1__bindgen_ty_2,
};
use aya_ebpf::helpers::generated::{bpf_sk_lookup_udp, bpf_sk_release, bpf_skc_lookup_tcp};
use aya_ebpf::programs::XdpContext;

/// The state of a socket that waits for connections (`TCP_LISTEN`, include/net/tcp_states.h).
const LISTENING: u32 = 10;

/// `BPF_F_CURRENT_NETNS`, as the helpers want it.
const THIS_NAMESPACE: u64 = BPF_F_CURRENT_NETNS as i64 as u64;

/// The ends of a flow, as a packet to this host has them; everything as it lies in memory.
pub(crate) enum Ends {
    /// Of IPv4.
    Ipv4 { source: u32, destination: u32, source_port: u16, destination_port: u16 },
    /// Of IPv6.
    Ipv6 { source: [u32; 4], destination: [u32; 4], source_port: u16, destination_port: u16 },
}

/// Whether this host's network namespace has a connection with these ends, one that is being set up or waits for its last
/// packets included. A socket that only waits for connections is none.
#[inline(always)]
pub(crate) fn has_connection(context: &XdpContext, ends: &Ends) -> bool {
    let (mut tuple, length) = tuple(ends);
    // SAFETY: the context is the one that the kernel called the program with, and the tuple is as long as it is said to be.
    // What is found is released below, and read only before.
    unsafe {
        let socket = bpf_skc_lookup_tcp(context.as_ptr(), &raw mut tuple, length, THIS_NAMESPACE, 0);
        if socket.is_null() {
            return false;
        }
        let state = (*socket).state;
        bpf_sk_release(socket.cast());
        state != LISTENING
    }
}

/// Whether this host's network namespace has a UDP socket that takes datagrams with these ends, one for all senders included.
#[inline(always)]
pub(crate) fn has_datagram_socket(context: &XdpContext, ends: &Ends) -> bool {
    let (mut tuple, length) = tuple(ends);
    // SAFETY: as in `has_connection`.
    unsafe {
        let socket = bpf_sk_lookup_udp(context.as_ptr(), &raw mut tuple, length, THIS_NAMESPACE, 0);
        if socket.is_null() {
            return false;
        }
        bpf_sk_release(socket.cast());
        true
    }
}

/// The ends as the helpers want them, and how long that is.
#[inline(always)]
fn tuple(ends: &Ends) -> (bpf_sock_tuple, u32) {
    let (anonymous, length) = match *ends {
        Ends::Ipv4 { source: saddr, destination: daddr, source_port: sport, destination_port: dport } => {
            let ipv4 = bpf_sock_tuple__bindgen_ty_1__bindgen_ty_1 { saddr, daddr, sport, dport };
            (bpf_sock_tuple__bindgen_ty_1 { ipv4 }, size_of_val(&ipv4))
        }
        Ends::Ipv6 { source: saddr, destination: daddr, source_port: sport, destination_port: dport } => {
            let ipv6 = bpf_sock_tuple__bindgen_ty_1__bindgen_ty_2 { saddr, daddr, sport, dport };
            (bpf_sock_tuple__bindgen_ty_1 { ipv6 }, size_of_val(&ipv6))
        }
    };
    (bpf_sock_tuple { __bindgen_anon_1: anonymous }, length as u32)
}
