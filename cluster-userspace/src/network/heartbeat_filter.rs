//! What a path's socket lets in: what its peer could have sent on this path. The rest is dropped where it arrives, which
//! costs the heartbeat thread nothing: no wake-up, no place in the queue, no authentication.
//!
//! The filter looks at nothing that [`cluster_proto::wire`] or the election would not drop as well. What it lets in is
//! checked in full, so that it need not be complete. It lets in every version of the wire format: of a peer whose version
//! cannot be read an operator has to be told.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::OwnedFd;

use cluster_proto::wire::{self, offset};
use cluster_proto::{ClusterId, NodeId};

use super::socket_filter::{
    self, DROP, Instruction, Size, drop_if_greater, drop_if_less, keep_if_equal, keep_if_equal_to_index,
    load, load_length, load_special, statement,
};

/// A packet begins with its UDP header for a filter: the source port first.
const SOURCE_PORT: usize = 0;
const UDP_LEN: usize = 8;
/// In the IPv4 header, whatever options it has.
const IPV4_SOURCE: i32 = 12;
/// In the IPv6 header, whatever headers follow it.
const IPV6_SOURCE: i32 = 8;

/// What every message on a path says of its sender.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Sender {
    /// Its cluster.
    pub cluster: ClusterId,
    /// Its id.
    pub node: NodeId,
    /// The path's index, the same on both nodes.
    pub path: u8,
}

/// Attaches the filter for messages of `sender` from `remote`.
pub(super) fn attach(socket: &OwnedFd, remote: SocketAddr, sender: Sender) -> io::Result<()> {
    let at = |field: usize| UDP_LEN + field;
    let cluster = sender.cluster.0;
    let mut filter = from(remote.ip());
    filter.extend([
        load(Size::Half, SOURCE_PORT),
        keep_if_equal(u32::from(remote.port())),
        load_length(),
        statement(libc::BPF_ALU | libc::BPF_SUB | libc::BPF_K, UDP_LEN as u32),
        drop_if_less((wire::HEADER_LEN + wire::TAG_LEN) as u32),
        drop_if_greater(wire::MAX_LEN as u32),
        statement(libc::BPF_MISC | libc::BPF_TAX, 0),
        load(Size::Half, at(offset::LENGTH)),
        keep_if_equal_to_index(),
        load(Size::Byte, at(offset::KIND)),
        drop_if_less(u32::from(*wire::KINDS.start())),
        drop_if_greater(u32::from(*wire::KINDS.end())),
        load(Size::Half, at(offset::NODE)),
        keep_if_equal(u32::from(sender.node.0)),
        load(Size::Word, at(offset::CLUSTER)),
        keep_if_equal((cluster >> 32) as u32),
        load(Size::Word, at(offset::CLUSTER) + 4),
        keep_if_equal(cluster as u32),
        load(Size::Byte, at(offset::PATH)),
        keep_if_equal(u32::from(sender.path)),
    ]);
    socket_filter::attach(socket, &filter)
}

/// Keeps what comes from this address.
fn from(address: IpAddr) -> Vec<Instruction> {
    let word = |at: i32, value: u32| [load_special(Size::Word, libc::SKF_NET_OFF, at), keep_if_equal(value)];
    match address {
        IpAddr::V4(address) => word(IPV4_SOURCE, address.to_bits()).to_vec(),
        IpAddr::V6(address) => {
            let octets = address.octets();
            let (words, _) = octets.as_chunks::<4>();
            let places = (IPV6_SOURCE..).step_by(4);
            places.zip(words).flat_map(|(at, &bytes)| word(at, u32::from_be_bytes(bytes))).collect()
        }
    }
}

const _: () = assert!(DROP > 32, "jumps within the program are shorter than the mark of those that drop");
const _: () =
    assert!(offset::PATH < wire::HEADER_LEN, "the shortest message has all fields that are looked at");
