//! The few fields we need of the kernel's messages about interfaces and addresses, and the requests for both lists.
//!
//! Read by hand because a watch must not miss an interface over an attribute that a newer kernel has added or changed,
//! where a reader of everything gives up the whole message. The layouts are those of `linux/netlink.h`,
//! `linux/if_link.h` and `linux/if_addr.h`, in host byte order; they are the kernel's stable interface.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use cluster_proto::Mac;

use super::links::{Interface, VlanOf};

/// `IFA_PROTO` of the addresses that are ours. The kernel's own values are 0 (unspecified), 1 (loopback), 2 (router
/// announcement) and 3 (link-local) (`linux/if_addr.h`, `IFAPROT_*`), and only it uses those. User space may pick any
/// other; tools that reuse their routing protocol numbers (`linux/rtnetlink.h`: 4, 8 to 18, 42, 84, 99, 186 to 192) do
/// not meet this one, the letter `v`.
pub(super) const PROTOCOL_OURS: u8 = 118;

/// One message with what is needed of its header.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Message {
    /// `nlmsg_seq`: of the request that is answered, or that caused the change.
    pub(super) sequence: u32,
    /// `nlmsg_pid`: the port of the socket whose request is answered or caused the change.
    pub(super) port: u32,
    /// The list from which it comes changed while it was made, and may lack entries (`NLM_F_DUMP_INTR`).
    pub(super) interrupted: bool,
    pub(super) body: Body,
}

/// What a message says.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Body {
    Link(Interface),
    LinkGone {
        ifindex: u32,
    },
    Address(Address),
    AddressGone(Address),
    /// The end of a list; an errno if it ended badly, else 0.
    Done {
        errno: i32,
    },
    /// The answer to a refused request; an errno, or 0 for an acknowledgement.
    Error {
        errno: i32,
    },
    Other,
}

/// An address on an interface.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Address {
    pub(super) ifindex: u32,
    pub(super) ip: IpAddr,
    pub(super) prefix: u8,
    /// `IFA_PROTO` is [`PROTOCOL_OURS`].
    pub(super) marked: bool,
    /// Not known to be this host's alone: duplicate address detection is under way or has failed.
    pub(super) tentative: bool,
}

/// The messages of one datagram, up to the first that is cut off.
pub(super) fn messages(mut datagram: &[u8]) -> impl Iterator<Item = Message> {
    std::iter::from_fn(move || {
        let length = usize::try_from(u32_at(datagram, 0)?).ok()?;
        let message = datagram.get(..length).filter(|message| message.len() >= HEADER)?;
        let parsed = Message {
            sequence: u32_at(message, 8)?,
            port: u32_at(message, 12)?,
            interrupted: u16_at(message, 6)? & NLM_F_DUMP_INTR != 0,
            body: body(u16_at(message, 4)?, &message[HEADER..]).unwrap_or(Body::Other),
        };
        datagram = datagram.get(aligned(length)..).unwrap_or_default();
        Some(parsed)
    })
}

/// The request for the list of all interfaces.
pub(super) fn list_links(sequence: u32) -> Vec<u8> {
    list(RTM_GETLINK, sequence, &[0; IFINFOMSG])
}

/// The request for the list of all addresses, of both families.
pub(super) fn list_addresses(sequence: u32) -> Vec<u8> {
    list(RTM_GETADDR, sequence, &[0; IFADDRMSG])
}

fn list(kind: u16, sequence: u32, body: &[u8]) -> Vec<u8> {
    let mut request = Vec::with_capacity(HEADER + body.len());
    request.extend_from_slice(&((HEADER + body.len()) as u32).to_ne_bytes());
    request.extend_from_slice(&kind.to_ne_bytes());
    request.extend_from_slice(&(NLM_F_REQUEST | NLM_F_DUMP).to_ne_bytes());
    request.extend_from_slice(&sequence.to_ne_bytes());
    request.extend_from_slice(&0_u32.to_ne_bytes());
    request.extend_from_slice(body);
    request
}

fn body(kind: u16, body: &[u8]) -> Option<Body> {
    match kind {
        NLMSG_DONE => Some(Body::Done { errno: errno_at(body).unwrap_or(0) }),
        NLMSG_ERROR => Some(Body::Error { errno: errno_at(body)? }),
        RTM_NEWLINK => link(body).map(Body::Link),
        // A port that leaves a bridge is told as a deletion too, of family AF_BRIDGE; the interface stays.
        RTM_DELLINK if *body.first()? == AF_UNSPEC => Some(Body::LinkGone { ifindex: u32_at(body, 4)? }),
        RTM_NEWADDR => address(body).map(Body::Address),
        RTM_DELADDR => address(body).map(Body::AddressGone),
        _ => None,
    }
}

fn link(body: &[u8]) -> Option<Interface> {
    if *body.first()? != AF_UNSPEC {
        return None;
    }
    let is_ethernet = u16_at(body, 2)? == ARPHRD_ETHER;
    let flags = u32_at(body, 8)?;
    let (mut name, mut mac, mut below, mut vlan) = (None, None, None, None);
    for (kind, value) in attributes(body.get(IFINFOMSG..)?) {
        match kind {
            IFLA_IFNAME => {
                name = Some(String::from_utf8_lossy(value.strip_suffix(&[0]).unwrap_or(value)).into_owned())
            }
            IFLA_ADDRESS => mac = value.try_into().ok().map(Mac),
            IFLA_LINK => below = u32_at(value, 0),
            IFLA_LINKINFO => vlan = vlan_id(value),
            _ => {}
        }
    }
    // Wireless drivers tell their own events in a message that lacks the hardware address; what it lacks has not changed.
    let mac = if is_ethernet { mac? } else { mac.unwrap_or_default() };
    Some(Interface {
        ifindex: u32_at(body, 4)?,
        name: name?,
        is_ethernet,
        is_up: flags & IFF_UP != 0,
        has_carrier: flags & IFF_LOWER_UP != 0,
        mac,
        vlan: below.zip(vlan).map(|(below, id)| VlanOf { below, id }),
    })
}

/// The identifier in the description of an interface, if it is a VLAN's.
fn vlan_id(info: &[u8]) -> Option<u16> {
    let find = |within, wanted| attributes(within).find(|(kind, _)| *kind == wanted).map(|(_, value)| value);
    let kind = find(info, IFLA_INFO_KIND)?;
    if kind.strip_suffix(&[0]).unwrap_or(kind) != b"vlan" {
        return None;
    }
    u16_at(find(find(info, IFLA_INFO_DATA)?, IFLA_VLAN_ID)?, 0)
}

fn address(body: &[u8]) -> Option<Address> {
    let read: fn(&[u8]) -> Option<IpAddr> = match *body.first()? {
        AF_INET => |value| <[u8; 4]>::try_from(value).ok().map(|octets| Ipv4Addr::from(octets).into()),
        AF_INET6 => |value| <[u8; 16]>::try_from(value).ok().map(|octets| Ipv6Addr::from(octets).into()),
        _ => return None,
    };
    // IFA_LOCAL is always our own. IFA_ADDRESS is the other end's on a point-to-point link, and IPv6's only one
    // elsewhere.
    let (mut local, mut address, mut marked) = (None, None, false);
    let mut flags = u32::from(*body.get(2)?);
    for (kind, value) in attributes(body.get(IFADDRMSG..)?) {
        match kind {
            IFA_LOCAL => local = read(value),
            IFA_ADDRESS => address = read(value),
            IFA_PROTO => marked = value == [PROTOCOL_OURS],
            IFA_FLAGS => flags = u32_at(value, 0)?,
            _ => {}
        }
    }
    Some(Address {
        ifindex: u32_at(body, 4)?,
        ip: local.or(address)?,
        prefix: *body.get(1)?,
        marked,
        tentative: flags & (IFA_F_TENTATIVE | IFA_F_DADFAILED) != 0,
    })
}

fn attributes(mut bytes: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    std::iter::from_fn(move || {
        let length = usize::from(u16_at(bytes, 0)?);
        let kind = u16_at(bytes, 2)? & NLA_TYPE_MASK;
        let value = bytes.get(ATTRIBUTE_HEADER..length)?;
        bytes = bytes.get(aligned(length)..).unwrap_or_default();
        Some((kind, value))
    })
}

fn errno_at(body: &[u8]) -> Option<i32> {
    Some(i32::from_ne_bytes(*body.first_chunk()?).saturating_neg())
}

fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_ne_bytes(*bytes.get(at..)?.first_chunk()?))
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_ne_bytes(*bytes.get(at..)?.first_chunk()?))
}

const fn aligned(length: usize) -> usize {
    length.next_multiple_of(4)
}

const HEADER: usize = 16;
const IFINFOMSG: usize = 16;
const IFADDRMSG: usize = 8;
const ATTRIBUTE_HEADER: usize = 4;

const AF_UNSPEC: u8 = libc::AF_UNSPEC as u8;
const AF_INET: u8 = libc::AF_INET as u8;
const AF_INET6: u8 = libc::AF_INET6 as u8;
const ARPHRD_ETHER: u16 = libc::ARPHRD_ETHER;
const IFF_UP: u32 = libc::IFF_UP as u32;
const IFF_LOWER_UP: u32 = 1 << 16;
const IFLA_ADDRESS: u16 = libc::IFLA_ADDRESS;
const IFLA_IFNAME: u16 = libc::IFLA_IFNAME;
const IFLA_LINK: u16 = libc::IFLA_LINK;
const IFLA_LINKINFO: u16 = libc::IFLA_LINKINFO;
const IFLA_INFO_KIND: u16 = libc::IFLA_INFO_KIND;
const IFLA_INFO_DATA: u16 = libc::IFLA_INFO_DATA;
/// linux/if_link.h
const IFLA_VLAN_ID: u16 = 1;
const IFA_ADDRESS: u16 = libc::IFA_ADDRESS;
const IFA_LOCAL: u16 = libc::IFA_LOCAL;
const IFA_FLAGS: u16 = 8;
const IFA_F_DADFAILED: u32 = libc::IFA_F_DADFAILED;
const IFA_F_TENTATIVE: u32 = libc::IFA_F_TENTATIVE;
const IFA_PROTO: u16 = 11;
const NLA_TYPE_MASK: u16 = 0x3fff;
const NLMSG_DONE: u16 = libc::NLMSG_DONE as u16;
const NLMSG_ERROR: u16 = libc::NLMSG_ERROR as u16;
const NLM_F_REQUEST: u16 = libc::NLM_F_REQUEST as u16;
const NLM_F_DUMP: u16 = libc::NLM_F_DUMP as u16;
const NLM_F_DUMP_INTR: u16 = 0x10;
const RTM_NEWLINK: u16 = libc::RTM_NEWLINK;
const RTM_DELLINK: u16 = libc::RTM_DELLINK;
const RTM_GETLINK: u16 = libc::RTM_GETLINK;
const RTM_NEWADDR: u16 = libc::RTM_NEWADDR;
const RTM_DELADDR: u16 = libc::RTM_DELADDR;
const RTM_GETADDR: u16 = libc::RTM_GETADDR;

#[cfg(test)]
mod tests {
    use netlink_packet_core::{NetlinkMessage, NetlinkPayload};
    use netlink_packet_route::address::{AddressAttribute, AddressFlags, AddressMessage, AddressProtocol};
    use netlink_packet_route::link::{LinkAttribute, LinkFlags, LinkLayerType, LinkMessage};
    use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};
    use proptest::prelude::*;

    use super::*;

    /// What the `netlink-packet-route` crate writes.
    fn written(message: RouteNetlinkMessage) -> Vec<u8> {
        let mut message = NetlinkMessage::from(message);
        message.header.sequence_number = 5;
        message.header.port_number = 6;
        message.finalize();
        let mut bytes = vec![0; message.buffer_len()];
        message.serialize(&mut bytes);
        bytes
    }

    fn link_message() -> LinkMessage {
        let mut link = LinkMessage::default();
        link.header.index = 3;
        link.header.link_layer_type = LinkLayerType::Ether;
        link.header.flags = LinkFlags::Up | LinkFlags::LowerUp;
        link.attributes = vec![
            LinkAttribute::IfName("eth0".into()),
            LinkAttribute::Mtu(1500),
            LinkAttribute::Address(vec![2, 0, 0, 0, 0, 10]),
        ];
        link
    }

    fn address_message() -> AddressMessage {
        let mut address = AddressMessage::default();
        address.header.family = AddressFamily::Inet;
        address.header.index = 3;
        address.header.prefix_len = 24;
        address.attributes = vec![
            AddressAttribute::Address(Ipv4Addr::new(10, 77, 0, 9).into()),
            AddressAttribute::Local(Ipv4Addr::new(10, 77, 0, 100).into()),
            AddressAttribute::Label("eth0".into()),
            AddressAttribute::Protocol(AddressProtocol::Other(PROTOCOL_OURS)),
        ];
        address
    }

    fn bodies(bytes: &[u8]) -> Vec<Body> {
        messages(bytes).map(|message| message.body).collect()
    }

    fn eth0() -> Interface {
        Interface {
            ifindex: 3,
            name: "eth0".into(),
            is_ethernet: true,
            is_up: true,
            has_carrier: true,
            mac: Mac([2, 0, 0, 0, 0, 10]),
            vlan: None,
        }
    }

    const VIP: Address = Address {
        ifindex: 3,
        ip: IpAddr::V4(Ipv4Addr::new(10, 77, 0, 100)),
        prefix: 24,
        marked: true,
        tentative: false,
    };
    const IPV6: Address = Address {
        ifindex: 3,
        ip: IpAddr::V6(Ipv6Addr::new(0xfd77, 0, 0, 0, 0, 0, 0, 0x100)),
        prefix: 64,
        marked: true,
        tentative: false,
    };

    fn ipv6_message(flags: AddressFlags) -> AddressMessage {
        let mut address = AddressMessage::default();
        address.header.family = AddressFamily::Inet6;
        address.header.index = 3;
        address.header.prefix_len = 64;
        address.attributes = vec![
            AddressAttribute::Address(IPV6.ip),
            AddressAttribute::Flags(flags),
            AddressAttribute::Protocol(AddressProtocol::Other(PROTOCOL_OURS)),
        ];
        address
    }

    #[test]
    fn a_datagram_of_several_messages_is_read() {
        let mut bytes = written(RouteNetlinkMessage::NewLink(link_message()));
        bytes.extend(written(RouteNetlinkMessage::NewAddress(address_message())));
        bytes.extend(written(RouteNetlinkMessage::DelAddress(address_message())));
        bytes.extend(written(RouteNetlinkMessage::DelLink(link_message())));
        assert_eq!(
            bodies(&bytes),
            [Body::Link(eth0()), Body::Address(VIP), Body::AddressGone(VIP), Body::LinkGone { ifindex: 3 }]
        );
        let first = messages(&bytes).next().unwrap();
        assert_eq!((first.sequence, first.port, first.interrupted), (5, 6, false));
    }

    #[test]
    fn a_port_that_leaves_its_bridge_is_not_gone() {
        let mut link = link_message();
        link.header.interface_family = AddressFamily::Bridge;
        assert_eq!(bodies(&written(RouteNetlinkMessage::DelLink(link.clone()))), [Body::Other]);
        assert_eq!(bodies(&written(RouteNetlinkMessage::NewLink(link))), [Body::Other]);
    }

    #[test]
    fn an_event_of_a_wireless_driver_does_not_take_the_hardware_address_away() {
        let mut link = link_message();
        link.attributes.pop();
        assert_eq!(bodies(&written(RouteNetlinkMessage::NewLink(link))), [Body::Other]);
    }

    #[test]
    fn an_address_without_our_mark_is_not_ours() {
        let mut address = address_message();
        address.attributes.pop();
        let unmarked = Body::Address(Address { marked: false, ..VIP });
        assert_eq!(
            bodies(&written(RouteNetlinkMessage::NewAddress(address.clone()))),
            std::slice::from_ref(&unmarked)
        );
        address.attributes.push(AddressAttribute::Protocol(AddressProtocol::Other(PROTOCOL_OURS + 1)));
        assert_eq!(bodies(&written(RouteNetlinkMessage::NewAddress(address))), [unmarked]);
    }

    #[test]
    fn ipv6_addresses_are_read_and_known_to_be_tentative() {
        for (flags, tentative) in [
            (AddressFlags::Permanent | AddressFlags::Nodad, false),
            (AddressFlags::Permanent | AddressFlags::Tentative, true),
            (AddressFlags::Permanent | AddressFlags::Dadfailed, true),
        ] {
            let body = Body::Address(Address { tentative, ..IPV6 });
            assert_eq!(bodies(&written(RouteNetlinkMessage::NewAddress(ipv6_message(flags)))), [body]);
        }
        // Between two hosts that are told each other's address, the local one counts.
        let mut peer = ipv6_message(AddressFlags::Permanent);
        let other = Ipv6Addr::new(0xfd77, 0, 0, 0, 0, 0, 0, 0x200);
        peer.attributes[0] = AddressAttribute::Address(other.into());
        peer.attributes.push(AddressAttribute::Local(IPV6.ip));
        assert_eq!(bodies(&written(RouteNetlinkMessage::NewAddress(peer))), [Body::Address(IPV6)]);
    }

    #[test]
    fn requests_are_read_by_another_implementation() {
        for (bytes, is_link) in [(list_links(9), true), (list_addresses(9), false)] {
            let message = NetlinkMessage::<RouteNetlinkMessage>::deserialize(&bytes).unwrap();
            assert_eq!(message.header.sequence_number, 9);
            match message.payload {
                NetlinkPayload::InnerMessage(RouteNetlinkMessage::GetLink(_)) => assert!(is_link),
                NetlinkPayload::InnerMessage(RouteNetlinkMessage::GetAddress(address)) => {
                    assert!(!is_link);
                    assert_eq!(address.header.family, AddressFamily::Unspec);
                }
                other => panic!("{other:?}"),
            }
        }
    }

    #[test]
    fn the_end_of_a_list_and_a_refusal_carry_their_errno() {
        let message = |kind: u16, errno: i32| {
            let mut bytes = 20_u32.to_ne_bytes().to_vec();
            bytes.extend(kind.to_ne_bytes());
            bytes.extend([0; 10]);
            bytes.extend((-errno).to_ne_bytes());
            bytes
        };
        assert_eq!(bodies(&message(NLMSG_DONE, 0)), [Body::Done { errno: 0 }]);
        assert_eq!(bodies(&message(NLMSG_ERROR, libc::EBUSY)), [Body::Error { errno: libc::EBUSY }]);
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic_or_loop(bytes in proptest::collection::vec(any::<u8>(), 0..512)) {
            prop_assert!(messages(&bytes).count() <= bytes.len() / HEADER);
        }

        #[test]
        fn damage_never_makes_it_panic(at in 0_usize..200, byte in any::<u8>(), cut in 0_usize..200) {
            let mut bytes = written(RouteNetlinkMessage::NewLink(link_message()));
            bytes.extend(written(RouteNetlinkMessage::NewAddress(address_message())));
            let at = at % bytes.len();
            bytes[at] = byte;
            bytes.truncate(bytes.len().saturating_sub(cut));
            let _ = bodies(&bytes);
        }
    }
}
