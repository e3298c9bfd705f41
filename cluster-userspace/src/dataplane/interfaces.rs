//! What the kernel tells about the namespace's interfaces, asked for synchronously.
//!
//! Read by hand, field by field, so that an attribute which a newer kernel adds is passed over. The layouts are those
//! of `linux/netlink.h`, `linux/rtnetlink.h` and `linux/if_link.h`, in host byte order.

use std::io;

use cluster_proto::Mac;
use libc::{RTM_DELQDISC, RTM_GETLINK, RTM_GETTFILTER, RTM_NEWLINK, RTM_NEWTFILTER};
use rtnetlink::sys::protocols::NETLINK_ROUTE;
use rtnetlink::sys::{Socket, SocketAddr};

/// Length of `nlmsghdr`.
const HEADER: usize = 16;
/// Length of `ifinfomsg`.
const LINK_HEADER: usize = 16;
/// Length of an attribute's header.
const ATTRIBUTE_HEADER: usize = 4;
const ARPHRD_ETHER: u16 = 1;
const IFLA_ADDRESS: u16 = 1;
const IFLA_IFNAME: u16 = 3;
const IFLA_XDP: u16 = 43;
const IFLA_XDP_PROG_ID: u16 = 4;
const IFLA_XDP_DRV_PROG_ID: u16 = 5;
const IFLA_XDP_SKB_PROG_ID: u16 = 6;
const IFLA_XDP_HW_PROG_ID: u16 = 7;
const TCA_KIND: u16 = 1;
/// The two bits that mark an attribute nested or in network order.
const ATTRIBUTE_FLAGS: u16 = 0xc000;
/// `TC_H_CLSACT`, and its two hooks for filters.
const CLSACT: u32 = 0xffff_fff1;
const CLSACT_HANDLE: u32 = 0xffff_0000;
const CLSACT_INGRESS: u32 = 0xffff_fff2;
const CLSACT_EGRESS: u32 = 0xffff_fff3;

/// An interface.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub(super) struct Interface {
    pub(super) ifindex: u32,
    pub(super) name: String,
    pub(super) is_ethernet: bool,
    pub(super) mac: Mac,
    /// The XDP programs on it.
    pub(super) xdp: Programs,
}

/// Ids of the XDP programs on an interface; 0 where there is none.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub(super) struct Programs {
    pub(super) native: u32,
    pub(super) generic: u32,
    pub(super) offloaded: u32,
}

/// All interfaces of the namespace.
pub(super) fn all() -> io::Result<Vec<Interface>> {
    let request = message(RTM_GETLINK, (libc::NLM_F_REQUEST | libc::NLM_F_DUMP) as u16, &link_header(0));
    let mut interfaces = Vec::new();
    exchange(&request, |kind, body| {
        if kind == RTM_NEWLINK {
            interfaces.extend(interface(body));
        }
    })?;
    Ok(interfaces)
}

/// The interface with this number; `None` if there is none.
pub(super) fn by_index(ifindex: u32) -> io::Result<Option<Interface>> {
    one(&message(RTM_GETLINK, libc::NLM_F_REQUEST as u16, &link_header(ifindex)))
}

/// The interface of this name; `None` if there is none.
pub(super) fn by_name(name: &str) -> io::Result<Option<Interface>> {
    // The kernel refuses longer names instead of finding none.
    if name.is_empty() || name.len() >= libc::IFNAMSIZ || name.contains('\0') {
        return Ok(None);
    }
    let mut body = link_header(0).to_vec();
    append_attribute(&mut body, IFLA_IFNAME, &[name.as_bytes(), &[0]].concat());
    one(&message(RTM_GETLINK, libc::NLM_F_REQUEST as u16, &body))
}

/// How many filters the interface's clsact has, of anybody's; 0 if there is no clsact.
pub(super) fn clsact_filters(ifindex: u32) -> io::Result<usize> {
    let mut filters = 0;
    for parent in [CLSACT_INGRESS, CLSACT_EGRESS] {
        let flags = (libc::NLM_F_REQUEST | libc::NLM_F_DUMP) as u16;
        let listed =
            exchange(&message(RTM_GETTFILTER, flags, &tc_header(ifindex, 0, parent)), |kind, body| {
                // The list has an entry for each priority, without a handle, besides one for each filter.
                let handle = body.get(8..12).and_then(|bytes| bytes.try_into().ok()).map(u32::from_ne_bytes);
                filters += usize::from(kind == RTM_NEWTFILTER && handle.is_some_and(|handle| handle != 0));
            });
        match listed {
            Err(error) if !is_absence(&error) && error.raw_os_error() != Some(libc::EINVAL) => {
                return Err(error);
            }
            _ => {}
        }
    }
    Ok(filters)
}

/// Removes the interface's clsact, with all filters in it.
pub(super) fn remove_clsact(ifindex: u32) -> io::Result<()> {
    let mut body = tc_header(ifindex, CLSACT_HANDLE, CLSACT).to_vec();
    append_attribute(&mut body, TCA_KIND, b"clsact\0");
    exchange(&message(RTM_DELQDISC, (libc::NLM_F_REQUEST | libc::NLM_F_ACK) as u16, &body), |_, _| {})
}

/// Whether the error says that the interface, or what was asked for on it, is not there.
pub(super) fn is_absence(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::ENODEV | libc::ENOENT | libc::ENXIO))
}

fn one(request: &[u8]) -> io::Result<Option<Interface>> {
    let mut found = None;
    match exchange(request, |kind, body| {
        if kind == RTM_NEWLINK {
            found = interface(body);
        }
    }) {
        Ok(()) => Ok(found),
        Err(error) if is_absence(&error) => Ok(None),
        Err(error) => Err(error),
    }
}

/// Sends a request and hands out each message of the answer: its type and what follows its header.
fn exchange(request: &[u8], mut take: impl FnMut(u16, &[u8])) -> io::Result<()> {
    let mut socket = Socket::new(NETLINK_ROUTE)?;
    socket.bind_auto()?;
    socket.send_to(request, &SocketAddr::new(0, 0), 0)?;
    let is_dump =
        u16_at(request, 6).is_some_and(|flags| i32::from(flags) & libc::NLM_F_DUMP == libc::NLM_F_DUMP);
    loop {
        let (datagram, _) = socket.recv_from_full()?;
        let mut rest = datagram.as_slice();
        while let Some((kind, body, next)) = split(rest) {
            match i32::from(kind) {
                libc::NLMSG_ERROR | libc::NLMSG_DONE => {
                    let errno =
                        body.get(..4).and_then(|bytes| bytes.try_into().ok()).map_or(0, i32::from_ne_bytes);
                    return if errno == 0 { Ok(()) } else { Err(io::Error::from_raw_os_error(-errno)) };
                }
                _ => take(kind, body),
            }
            rest = next;
        }
        // A single answer without an acknowledgement ends with itself.
        let acknowledged = u16_at(request, 6).is_some_and(|flags| i32::from(flags) & libc::NLM_F_ACK != 0);
        if !is_dump && !acknowledged {
            return Ok(());
        }
    }
}

/// The first message: its type, its body, and the messages after it.
fn split(bytes: &[u8]) -> Option<(u16, &[u8], &[u8])> {
    let length = u32_at(bytes, 0)? as usize;
    let body = bytes.get(HEADER..length)?;
    Some((u16_at(bytes, 4)?, body, bytes.get(length.next_multiple_of(4)..).unwrap_or_default()))
}

fn interface(body: &[u8]) -> Option<Interface> {
    let mut interface = Interface {
        ifindex: u32_at(body, 4)?,
        is_ethernet: u16_at(body, 2)? == ARPHRD_ETHER,
        ..Interface::default()
    };
    for (kind, value) in attributes(body.get(LINK_HEADER..)?) {
        match kind {
            IFLA_IFNAME => {
                interface.name =
                    String::from_utf8_lossy(value.strip_suffix(&[0]).unwrap_or(value)).into_owned();
            }
            IFLA_ADDRESS => interface.mac = value.try_into().map(Mac).unwrap_or_default(),
            IFLA_XDP => interface.xdp = programs(value),
            _ => {}
        }
    }
    Some(interface)
}

fn programs(nested: &[u8]) -> Programs {
    let mut programs = Programs::default();
    let mut only = 0;
    for (kind, value) in attributes(nested) {
        let id = u32_at(value, 0).unwrap_or_default();
        match kind {
            IFLA_XDP_DRV_PROG_ID => programs.native = id,
            IFLA_XDP_SKB_PROG_ID => programs.generic = id,
            IFLA_XDP_HW_PROG_ID => programs.offloaded = id,
            IFLA_XDP_PROG_ID => only = id,
            _ => {}
        }
    }
    if only != 0 && programs == Programs::default() {
        programs.native = only;
    }
    programs
}

fn attributes(mut bytes: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    std::iter::from_fn(move || {
        let length = usize::from(u16_at(bytes, 0)?);
        let kind = u16_at(bytes, 2)? & !ATTRIBUTE_FLAGS;
        let value = bytes.get(ATTRIBUTE_HEADER..length)?;
        bytes = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some((kind, value))
    })
}

fn link_header(ifindex: u32) -> [u8; LINK_HEADER] {
    let mut header = [0; LINK_HEADER];
    header[4..8].copy_from_slice(&ifindex.to_ne_bytes());
    header
}

/// `tcmsg`: family, interface, handle, parent, info.
fn tc_header(ifindex: u32, handle: u32, parent: u32) -> [u8; 20] {
    let mut header = [0; 20];
    header[4..8].copy_from_slice(&ifindex.to_ne_bytes());
    header[8..12].copy_from_slice(&handle.to_ne_bytes());
    header[12..16].copy_from_slice(&parent.to_ne_bytes());
    header
}

fn message(kind: u16, flags: u16, body: &[u8]) -> Vec<u8> {
    let mut message = Vec::with_capacity(HEADER + body.len());
    message.extend(((HEADER + body.len()) as u32).to_ne_bytes());
    message.extend(kind.to_ne_bytes());
    message.extend(flags.to_ne_bytes());
    message.extend(1_u32.to_ne_bytes());
    message.extend(0_u32.to_ne_bytes());
    message.extend(body);
    message
}

fn append_attribute(body: &mut Vec<u8>, kind: u16, value: &[u8]) {
    body.extend(((ATTRIBUTE_HEADER + value.len()) as u16).to_ne_bytes());
    body.extend(kind.to_ne_bytes());
    body.extend(value);
    body.resize(body.len().next_multiple_of(4), 0);
}

fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    bytes.get(at..at + 2)?.try_into().ok().map(u16::from_ne_bytes)
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    bytes.get(at..at + 4)?.try_into().ok().map(u32::from_ne_bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_loopback_is_found_by_name_and_by_number() {
        let loopback = by_name("lo").expect("the kernel answers").expect("every namespace has one");
        assert!(!loopback.is_ethernet);
        assert_eq!(by_index(loopback.ifindex).expect("the kernel answers"), Some(loopback.clone()));
        assert!(all().expect("the kernel answers").contains(&loopback));
    }

    #[test]
    fn an_absent_interface_is_none() {
        assert_eq!(by_name("no-such-nic0").expect("the kernel answers"), None);
        assert_eq!(by_name("a-name-longer-than-the-kernel-allows").expect("not asked"), None);
        assert_eq!(by_index(0x7fff_fff0).expect("the kernel answers"), None);
    }

    #[test]
    fn cut_off_messages_end_the_list() {
        assert_eq!(split(&[]), None);
        assert_eq!(split(&message(RTM_NEWLINK, 0, &[1, 2, 3])[..17]), None);
        assert_eq!(attributes(&[3, 0, 1, 0]).count(), 0);
        assert_eq!(attributes(&[0; 64]).count(), 0);
        assert_eq!(interface(&[0; 8]), None);
    }
}
