//! The TCP connections of this network namespace: which of an address' are left, and their end by reset; and its UDP sockets that
//! take one client's datagrams alone.
//!
//! All calls wait for the kernel, which goes through every socket there is; never from the heartbeat thread.

use std::collections::HashSet;
use std::io;
use std::net::IpAddr;

use netlink_packet_core::{
    NLM_F_ACK, NLM_F_DUMP, NLM_F_REQUEST, NetlinkHeader, NetlinkMessage, NetlinkPayload, NetlinkSerializable,
};
use netlink_packet_sock_diag::constants::{AF_INET, AF_INET6, IPPROTO_TCP, IPPROTO_UDP};
use netlink_packet_sock_diag::inet::{ExtensionFlags, InetRequest, SocketId, StateFlags};
use netlink_packet_sock_diag::{SockDiagDestroy, SockDiagMessage};
use netlink_sys::protocols::NETLINK_SOCK_DIAG;
use netlink_sys::{Socket, SocketAddr};

/// Room for a datagram of the kernel's; it fills up to 32 KiB for who takes so much.
const BUFFER: usize = 1 << 16;

/// A connection as the kernel names it.
#[derive(Clone, Debug)]
struct Connection {
    family: u8,
    id: SocketId,
}

/// A flow that the kernel knows.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct KnownFlow {
    /// The protocol's number: 6 (TCP) or 17 (UDP).
    pub protocol: u8,
    /// The end on this host.
    pub local: std::net::SocketAddr,
    /// The other.
    pub remote: std::net::SocketAddr,
}

/// How many connections have one of these as their local address. Those that wait for nothing but the end of the
/// connection's last packets (`TIME_WAIT`) do not count.
///
/// # Errors
/// If the kernel does not answer.
pub fn count(locals: &HashSet<IpAddr>) -> io::Result<usize> {
    Ok(connections(&connect()?, IPPROTO_TCP, locals)?.len())
}

/// Calls back for each connection that has one of these as its local address, and each UDP socket bound to one that takes one client's
/// datagrams alone (`connect`).
///
/// # Errors
/// If the kernel does not answer.
pub fn each(locals: &HashSet<IpAddr>, mut found: impl FnMut(KnownFlow)) -> io::Result<()> {
    let socket = connect()?;
    for protocol in [IPPROTO_TCP, IPPROTO_UDP] {
        for Connection { id, .. } in connections(&socket, protocol, locals)? {
            let local = std::net::SocketAddr::new(id.source_address.to_canonical(), id.source_port);
            let remote =
                std::net::SocketAddr::new(id.destination_address.to_canonical(), id.destination_port);
            found(KnownFlow { protocol, local, remote });
        }
    }
    Ok(())
}

/// Resets the connections that have one of these as their local address; how many there were. Their peers are told by
/// a reset, as when a process ends without reading all it was sent.
///
/// # Errors
/// If the kernel does not answer, or cannot reset connections (`CONFIG_INET_DIAG_DESTROY`).
pub fn reset(locals: &HashSet<IpAddr>) -> io::Result<usize> {
    let socket = connect()?;
    let connections = connections(&socket, IPPROTO_TCP, locals)?;
    for Connection { family, id } in &connections {
        let destroy = SockDiagDestroy::new(request(*family, IPPROTO_TCP, id.clone()));
        send(&socket, destroy, NLM_F_REQUEST | NLM_F_ACK)?;
        let outcome = receive(&socket, |_| {});
        match outcome {
            // It has ended by itself meanwhile.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            outcome => outcome?,
        }
    }
    Ok(connections.len())
}

fn connect() -> io::Result<Socket> {
    let mut socket = Socket::new(NETLINK_SOCK_DIAG)?;
    socket.bind_auto()?;
    socket.connect(&SocketAddr::new(0, 0))?;
    Ok(socket)
}

/// A server that accepts both families on one socket has its IPv4 connections as mapped IPv6 ones.
fn connections(socket: &Socket, protocol: u8, locals: &HashSet<IpAddr>) -> io::Result<Vec<Connection>> {
    let mut found = Vec::new();
    for (family, all) in [(AF_INET, SocketId::new_v4()), (AF_INET6, SocketId::new_v6())] {
        send(socket, request(family, protocol, all), NLM_F_REQUEST | NLM_F_DUMP)?;
        receive(socket, |id| {
            if locals.contains(&id.source_address.to_canonical()) {
                found.push(Connection { family, id });
            }
        })?;
    }
    Ok(found)
}

/// A UDP socket is in the state of a closed connection until it is connected.
fn request(family: u8, protocol: u8, socket_id: SocketId) -> SockDiagMessage {
    let states = StateFlags::all() - StateFlags::LISTEN - StateFlags::CLOSE - StateFlags::TIME_WAIT;
    SockDiagMessage::InetRequest(InetRequest {
        family,
        protocol,
        extensions: ExtensionFlags::empty(),
        states,
        socket_id,
    })
}

fn send<M: NetlinkSerializable>(socket: &Socket, message: M, flags: u16) -> io::Result<()> {
    let mut header = NetlinkHeader::default();
    header.flags = flags;
    let mut packet = NetlinkMessage::new(header, NetlinkPayload::InnerMessage(message));
    packet.finalize();
    let mut bytes = vec![0; packet.buffer_len()];
    packet.serialize(&mut bytes);
    socket.send(&bytes, 0).map(|_| ())
}

/// Reads the kernel's answer to its end.
fn receive(socket: &Socket, mut each: impl FnMut(SocketId)) -> io::Result<()> {
    let mut buffer = vec![0; BUFFER];
    loop {
        let length = socket.recv(&mut &mut buffer[..], 0)?;
        let mut rest = buffer.get(..length).unwrap_or_default();
        while !rest.is_empty() {
            let message = NetlinkMessage::<SockDiagMessage>::deserialize(rest)
                .map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error.to_string()))?;
            match message.payload {
                NetlinkPayload::Done(_) => return Ok(()),
                NetlinkPayload::Error(error) if error.code.is_some() => return Err(error.to_io()),
                NetlinkPayload::Error(_) => return Ok(()),
                NetlinkPayload::InnerMessage(SockDiagMessage::InetResponse(response)) => {
                    each(response.header.socket_id);
                }
                _ => {}
            }
            // Messages begin at multiples of four bytes (NLMSG_ALIGN).
            let next = (message.header.length as usize).next_multiple_of(4).max(16);
            rest = rest.get(next..).unwrap_or_default();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read;
    use std::net::{Ipv4Addr, TcpListener, TcpStream, UdpSocket};

    use super::*;

    /// Nothing else in this process, or on this host, uses an address of 127/8 like this.
    const OURS: Ipv4Addr = Ipv4Addr::new(127, 77, 0, 100);

    #[test]
    fn connections_of_an_address_are_counted_and_reset_and_no_others() {
        let ours = HashSet::from([IpAddr::V4(OURS)]);
        let listener = TcpListener::bind((OURS, 0)).expect("a listener");
        assert_eq!(count(&ours).expect("a count"), 0, "a listener is no connection");
        let port = listener.local_addr().expect("an address").port();
        let mut clients: Vec<_> =
            (0..3).map(|_| TcpStream::connect((OURS, port)).expect("a connection")).collect();
        let _served: Vec<_> = (0..3).map(|_| listener.accept().expect("a connection")).collect();
        assert_eq!(count(&ours).expect("a count"), 3, "the clients' ends have another address");
        match reset(&ours) {
            Ok(resets) => assert_eq!(resets, 3),
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
                eprintln!("connections cannot be reset without CAP_NET_ADMIN: not tested");
                return;
            }
            Err(error) => panic!("{error}"),
        }
        for client in &mut clients {
            let read = client.read(&mut [0; 1]).map_err(|error| error.kind());
            assert_eq!(read, Err(io::ErrorKind::ConnectionReset));
        }
        assert_eq!(count(&ours).expect("a count"), 0);
    }

    /// What is bound for everybody is nobody's flow.
    #[test]
    fn a_socket_for_one_client_is_a_flow() {
        let address = Ipv4Addr::new(127, 77, 0, 101);
        let _for_all = UdpSocket::bind((address, 0)).expect("a socket");
        let for_one = UdpSocket::bind((address, 0)).expect("a socket");
        let (local, remote) = (for_one.local_addr().expect("an address"), "127.77.0.9:4000".parse());
        let remote = remote.expect("an address");
        for_one.connect(remote).expect("one client");
        let mut found = Vec::new();
        each(&HashSet::from([address.into()]), |flow| found.push(flow)).expect("an answer");
        assert_eq!(found, [KnownFlow { protocol: 17, local, remote }]);
    }
}
