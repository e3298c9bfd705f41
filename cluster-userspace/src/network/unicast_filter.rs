//! Which unicast Ethernet addresses a network card takes in besides its own: an entry of the card's filter for each
//! (`bridge fdb add … self`), which outlives the process, or else everything (promiscuous), for as long as a socket is open.

use std::io;
use std::os::fd::OwnedFd;

use cluster_proto::Mac;
use futures_util::StreamExt as _;
use netlink_packet_core::{
    NLM_F_ACK, NLM_F_CREATE, NLM_F_EXCL, NLM_F_REQUEST, NetlinkMessage, NetlinkPayload,
};
use netlink_packet_route::neighbour::{NeighbourAttribute, NeighbourFlags, NeighbourMessage, NeighbourState};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};
use nix::sys::socket::{AddressFamily as SocketFamily, SockFlag, SockType, socket};

use super::unsafe_socket_options;

/// Has the card of an interface take in what is for this address, too. That it does already is no error.
///
/// # Errors
/// `EOPNOTSUPP` where the driver has no such filter, `ENODEV` without such an interface.
pub async fn add(ifindex: u32, mac: Mac) -> io::Result<()> {
    let flags = NLM_F_REQUEST | NLM_F_ACK | NLM_F_CREATE | NLM_F_EXCL;
    match ask(RouteNetlinkMessage::NewNeighbour(entry(ifindex, mac)), flags).await {
        Err(error) if error.raw_os_error() == Some(libc::EEXIST) => Ok(()),
        outcome => outcome,
    }
}

/// Takes that back. That there is no such entry, or no such interface any more, is no error.
///
/// # Errors
/// When the kernel refuses.
pub async fn remove(ifindex: u32, mac: Mac) -> io::Result<()> {
    let request = RouteNetlinkMessage::DelNeighbour(entry(ifindex, mac));
    match ask(request, NLM_F_REQUEST | NLM_F_ACK).await {
        Err(error) if matches!(error.raw_os_error(), Some(libc::ENOENT | libc::ENODEV)) => Ok(()),
        outcome => outcome,
    }
}

/// Has the card take in everything until the value is dropped, or the process ends.
///
/// # Errors
/// `EPERM` without `CAP_NET_RAW`, `ENODEV` without such an interface.
pub fn take_everything(ifindex: u32) -> io::Result<OwnedFd> {
    // Without a protocol it receives nothing itself.
    let socket = socket(SocketFamily::Packet, SockType::Raw, SockFlag::SOCK_CLOEXEC, None)?;
    let request = libc::packet_mreq {
        mr_ifindex: i32::try_from(ifindex).map_err(|_| io::Error::from_raw_os_error(libc::ENODEV))?,
        mr_type: libc::PACKET_MR_PROMISC as u16,
        mr_alen: 0,
        mr_address: [0; 8],
    };
    unsafe_socket_options::set(&socket, libc::SOL_PACKET, libc::PACKET_ADD_MEMBERSHIP, &request)?;
    Ok(socket)
}

fn entry(ifindex: u32, mac: Mac) -> NeighbourMessage {
    let mut message = NeighbourMessage::default();
    message.header.family = AddressFamily::Bridge;
    message.header.ifindex = ifindex;
    message.header.state = NeighbourState::Permanent;
    // On the card itself and not on the bridge that it may be a port of.
    message.header.flags = NeighbourFlags::Own;
    message.attributes.push(NeighbourAttribute::LinkLayerAddress(mac.0.to_vec()));
    message
}

async fn ask(message: RouteNetlinkMessage, flags: u16) -> io::Result<()> {
    let (connection, mut handle, _) = rtnetlink::new_connection()?;
    let connection = tokio::spawn(connection);
    let mut request = NetlinkMessage::from(message);
    request.header.flags = flags;
    let mut answers = handle.request(request).map_err(io::Error::other)?;
    let mut outcome = Ok(());
    while let Some(answer) = answers.next().await {
        if let NetlinkPayload::Error(error) = answer.payload
            && error.raw_code() != 0
        {
            outcome = Err(error.to_io());
        }
    }
    connection.abort();
    outcome
}
