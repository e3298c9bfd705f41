//! The watch over interfaces and addresses: what is there, then every change, from the kernel's multicast groups.

use std::collections::VecDeque;
use std::future::poll_fn;
use std::io;
use std::net::IpAddr;
use std::sync::Arc;
use std::task::Poll;

use cluster_proto::Mac;
use nix::sys::socket::{setsockopt, sockopt};
use rtnetlink::constants::{RTMGRP_IPV4_IFADDR, RTMGRP_IPV6_IFADDR, RTMGRP_LINK};
use rtnetlink::sys::protocols::NETLINK_ROUTE;
use rtnetlink::sys::{AsyncSocket, SocketAddr, TokioSocket};

use super::address_record::AddressRecord;
use super::link_table::LinkTable;
use super::rtnetlink_message::{Body, Message, list_addresses, list_links, messages};

/// An interface.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Interface {
    /// Its number. An interface that is deleted and made again gets a new one as a rule.
    pub ifindex: u32,
    /// Its name, which may change.
    pub name: String,
    /// Whether frames on it are Ethernet (`ARPHRD_ETHER`): bridges, bonds, VLANs and veths too, the loopback not.
    pub is_ethernet: bool,
    /// Whether the administrator wants it up (`IFF_UP`).
    pub is_up: bool,
    /// Whether it is up and has a carrier (`IFF_LOWER_UP`).
    pub has_carrier: bool,
    /// Its Ethernet address; zeroes if it has none.
    pub mac: Mac,
    /// Which VLAN of which interface it is, if it is a VLAN's.
    pub vlan: Option<VlanOf>,
}

/// The VLAN of which an interface is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct VlanOf {
    /// The number of the interface below.
    pub below: u32,
    /// The VLAN identifier, 0 to 4094.
    pub id: u16,
}

/// An address on an interface.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct InterfaceAddress {
    /// The interface.
    pub ifindex: u32,
    /// The address.
    pub ip: IpAddr,
    /// The length of its prefix, in bits.
    pub prefix: u8,
    /// Whether the daemon added it.
    pub ours: bool,
    /// Whether it is not known to be this host's alone: an IPv6 address whose duplicate address detection is under way or
    /// has failed.
    pub tentative: bool,
}

/// What the watch tells.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum LinkEvent {
    /// An interface is there, or has changed; these are all its properties.
    Interface(Interface),
    /// An interface is gone, and its addresses have been told to be.
    InterfaceGone {
        /// Its number.
        ifindex: u32,
        /// Its last name.
        name: String,
    },
    /// An address is there, or its owner or what is known of it has changed.
    Address(InterfaceAddress),
    /// An address is gone.
    AddressGone(InterfaceAddress),
    /// The kernel's queue was full and changes were lost. What came of them follows, up to [`Self::Settled`]; but an
    /// interface may have been replaced by one with the same number and name, so whatever is attached to interfaces
    /// has to be looked at again.
    Overrun,
    /// Everything there is has been told. Comes once after the start, and after each [`Self::Overrun`].
    Settled,
}

/// The watch. It subscribes before it asks for what is there, so that nothing falls between the two, and tells the
/// events of each interface in the kernel's order.
///
/// The queue of changes not yet read is the socket's and bounded by [`RECEIVE_BUFFER`]; when it overflows, the watch
/// asks for everything again. What it keeps itself is one entry for each interface and address.
pub struct LinkMonitor {
    socket: TokioSocket,
    /// The port of our socket: messages with it answer our requests, all others tell changes.
    port: u32,
    /// Of the newest request.
    sequence: u32,
    stage: Stage,
    /// A list is needed again, since something was lost.
    again: bool,
    record: Arc<AddressRecord>,
    table: LinkTable,
    events: VecDeque<LinkEvent>,
    datagram: Vec<u8>,
}

/// How many bytes of changes the kernel keeps for us while we are busy: some thousand changes.
pub const RECEIVE_BUFFER: usize = 1 << 20;

/// The kernel makes lists in pieces of at most 32 KiB, and no single change is as long.
const LONGEST_DATAGRAM: usize = 1 << 16;

/// Which list is being read. Interfaces come first, so that no address is told before its interface.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Stage {
    Links { interrupted: bool },
    Addresses { interrupted: bool },
    Settled,
}

impl LinkMonitor {
    /// Starts the watch over the network namespace of the calling thread, inside a tokio runtime. The record tells
    /// which addresses are ours where the kernel does not ([`super::addresses::Addresses::record`]).
    ///
    /// # Errors
    /// When the kernel refuses a netlink socket.
    pub fn new(record: Arc<AddressRecord>) -> io::Result<Self> {
        let mut socket = TokioSocket::new(NETLINK_ROUTE)?;
        // Above the administrator's limit where permitted, else up to it; a smaller queue only overflows earlier.
        let _ = setsockopt(socket.socket_ref(), sockopt::RcvBufForce, &RECEIVE_BUFFER)
            .or_else(|_| setsockopt(socket.socket_ref(), sockopt::RcvBuf, &RECEIVE_BUFFER));
        let mut address = SocketAddr::new(0, RTMGRP_LINK | RTMGRP_IPV4_IFADDR | RTMGRP_IPV6_IFADDR);
        socket.socket_mut().bind(&address)?;
        socket.socket_ref().get_address(&mut address)?;
        let mut monitor = Self {
            socket,
            port: address.port_number(),
            sequence: 0,
            stage: Stage::Settled,
            again: false,
            record,
            table: LinkTable::default(),
            events: VecDeque::new(),
            datagram: Vec::with_capacity(LONGEST_DATAGRAM),
        };
        monitor.list(Stage::Links { interrupted: false })?;
        Ok(monitor)
    }

    /// The next event. May be dropped while it waits, without loss.
    ///
    /// # Errors
    /// When the socket fails or the kernel refuses a list. The watch is of no use then; make a new one.
    pub async fn next(&mut self) -> io::Result<LinkEvent> {
        loop {
            if let Some(event) = self.events.pop_front() {
                return Ok(event);
            }
            match self.receive().await {
                Ok(true) => self.read()?,
                Ok(false) => self.list(Stage::Links { interrupted: false })?,
                Err(error) if error.raw_os_error() == Some(libc::ENOBUFS) => {
                    self.again = true;
                    self.events.push_back(LinkEvent::Overrun);
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
    }

    /// Waits for a datagram of the kernel's. `false`: the queue is empty, and the lists are to be read again. They are
    /// not asked for earlier, since a full queue would lose the answer too.
    async fn receive(&mut self) -> io::Result<bool> {
        let list_when_empty = self.again && self.stage == Stage::Settled;
        poll_fn(|context| {
            self.datagram.clear();
            match self.socket.poll_recv_from(context, &mut self.datagram) {
                Poll::Ready(Ok(sender)) => {
                    // Other processes with CAP_NET_ADMIN could send us messages as well.
                    if sender.port_number() != 0 {
                        self.datagram.clear();
                    }
                    Poll::Ready(Ok(true))
                }
                Poll::Ready(Err(error)) => Poll::Ready(Err(error)),
                Poll::Pending if list_when_empty => Poll::Ready(Ok(false)),
                Poll::Pending => Poll::Pending,
            }
        })
        .await
    }

    fn read(&mut self) -> io::Result<()> {
        let datagram = std::mem::take(&mut self.datagram);
        let outcome = messages(&datagram).try_for_each(|message| self.handle(message));
        self.datagram = datagram;
        outcome
    }

    fn handle(&mut self, message: Message) -> io::Result<()> {
        if message.port != self.port {
            self.table.changed(message.body, &self.record, &mut self.events);
            return Ok(());
        }
        if message.sequence != self.sequence {
            return Ok(());
        }
        if message.interrupted {
            self.stage = match self.stage {
                Stage::Links { .. } => Stage::Links { interrupted: true },
                Stage::Addresses { .. } => Stage::Addresses { interrupted: true },
                Stage::Settled => Stage::Settled,
            };
        }
        match message.body {
            Body::Link(_) | Body::Address(_) => self.table.listed(message.body, &self.record),
            Body::Done { errno: 0 } => return self.listed(),
            Body::Done { errno } | Body::Error { errno } if errno != 0 => {
                return Err(io::Error::from_raw_os_error(errno));
            }
            Body::LinkGone { .. }
            | Body::AddressGone(_)
            | Body::Done { .. }
            | Body::Error { .. }
            | Body::Other => {}
        }
        Ok(())
    }

    /// The list under way is complete: take it over and go on to the next.
    fn listed(&mut self) -> io::Result<()> {
        match self.stage {
            // Something was lost while it was made; `receive` starts over.
            Stage::Links { .. } | Stage::Addresses { .. } if self.again => self.stage = Stage::Settled,
            // Entries may be missing from it (`NLM_F_DUMP_INTR`).
            Stage::Links { interrupted: true } => return self.list(Stage::Links { interrupted: false }),
            Stage::Addresses { interrupted: true } => {
                return self.list(Stage::Addresses { interrupted: false });
            }
            Stage::Links { interrupted: false } => {
                self.table.end_links(&mut self.events);
                return self.list(Stage::Addresses { interrupted: false });
            }
            Stage::Addresses { interrupted: false } => {
                self.table.end_addresses(&mut self.events);
                self.stage = Stage::Settled;
                self.events.push_back(LinkEvent::Settled);
            }
            Stage::Settled => {}
        }
        Ok(())
    }

    fn list(&mut self, stage: Stage) -> io::Result<()> {
        self.sequence = self.sequence.wrapping_add(1);
        self.table.begin_list();
        let request = match stage {
            Stage::Links { .. } => {
                self.again = false;
                list_links(self.sequence)
            }
            Stage::Addresses { .. } => list_addresses(self.sequence),
            Stage::Settled => return Ok(()),
        };
        self.stage = stage;
        self.socket.socket_ref().send_to(&request, &SocketAddr::new(0, 0), 0).map(drop)
    }
}
