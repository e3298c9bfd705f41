//! Where the default routes of an interface point: the first addresses to ask when a node doubts its service link.

use std::io;
use std::net::Ipv4Addr;

use futures_util::TryStreamExt;
use netlink_packet_route::AddressFamily;
use netlink_packet_route::route::{RouteAddress, RouteAttribute, RouteHeader, RouteMessage};

/// At most so many gateways are returned.
const MOST: usize = 8;

/// The IPv4 gateways of the default routes in the main table that leave by this interface, best first, each once, at
/// most eight. A default route without a gateway has none to ask.
///
/// # Errors
/// When the kernel does not give the list of routes.
pub async fn default_gateways(ifindex: u32) -> io::Result<Vec<Ipv4Addr>> {
    // With strict checking the kernel leaves out the routes of other tables and interfaces itself.
    let (connection, handle, _) = rtnetlink::new_connection_with_strict_check()?;
    let connection = tokio::spawn(connection);
    let mut request = RouteMessage::default();
    request.header.address_family = AddressFamily::Inet;
    request.header.table = RouteHeader::RT_TABLE_MAIN;
    request.attributes.push(RouteAttribute::Oif(ifindex));

    let mut routes = handle.route().get(request).execute();
    let mut gateways = Vec::new();
    let outcome = loop {
        match routes.try_next().await {
            Ok(Some(route)) if gateways.len() < MOST => collect(&route, ifindex, &mut gateways),
            Ok(Some(_)) => {}
            Ok(None) => break Ok(gateways),
            Err(rtnetlink::Error::NetlinkError(error)) if error.raw_code() == -libc::ENOENT => {
                // A namespace in which no route was ever made has no main table.
                break Ok(gateways);
            }
            Err(rtnetlink::Error::NetlinkError(error)) => break Err(error.to_io()),
            Err(error) => break Err(io::Error::other(error)),
        }
    };
    connection.abort();
    outcome
}

fn collect(route: &RouteMessage, ifindex: u32, gateways: &mut Vec<Ipv4Addr>) {
    if route.header.destination_prefix_length != 0 {
        return;
    }
    let mut add = |gateway: Option<Ipv4Addr>| {
        if let Some(gateway) = gateway.filter(|gateway| !gateways.contains(gateway)) {
            gateways.push(gateway);
        }
    };
    if leaves_by(route, ifindex) {
        add(gateway(&route.attributes));
    }
    for attribute in &route.attributes {
        if let RouteAttribute::MultiPath(hops) = attribute {
            hops.iter()
                .filter(|hop| hop.interface_index == ifindex)
                .for_each(|hop| add(gateway(&hop.attributes)));
        }
    }
}

fn leaves_by(route: &RouteMessage, ifindex: u32) -> bool {
    route
        .attributes
        .iter()
        .any(|attribute| matches!(attribute, RouteAttribute::Oif(index) if *index == ifindex))
}

fn gateway(attributes: &[RouteAttribute]) -> Option<Ipv4Addr> {
    attributes.iter().find_map(|attribute| match attribute {
        RouteAttribute::Gateway(RouteAddress::Inet(gateway)) => Some(*gateway),
        _ => None,
    })
}
