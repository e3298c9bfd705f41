//! Where the default routes of an interface point: the first addresses to ask when a node doubts its service link.

use std::io;
use std::net::IpAddr;

use futures_util::TryStreamExt;
use netlink_packet_route::AddressFamily;
use netlink_packet_route::route::{RouteAddress, RouteAttribute, RouteHeader, RouteMessage};
use rtnetlink::Handle;

/// At most so many gateways of a family are returned.
const MOST: usize = 8;

/// The gateways of the default routes in the main table that leave by this interface, each once, of each family at most
/// eight: the best of IPv4, the best of IPv6, the next of IPv4, and so on. A default route without a gateway has none to
/// ask.
///
/// # Errors
/// When the kernel does not give the list of routes.
pub async fn default_gateways(ifindex: u32) -> io::Result<Vec<IpAddr>> {
    // With strict checking the kernel leaves out the routes of other tables and interfaces itself.
    let (connection, handle, _) = rtnetlink::new_connection_with_strict_check()?;
    let connection = tokio::spawn(connection);
    let ipv4 = of_family(&handle, AddressFamily::Inet, ifindex).await;
    let ipv6 = of_family(&handle, AddressFamily::Inet6, ifindex).await;
    connection.abort();
    Ok(interleaved(ipv4?, ipv6?))
}

fn interleaved(ipv4: Vec<IpAddr>, ipv6: Vec<IpAddr>) -> Vec<IpAddr> {
    let (mut ipv4, mut ipv6) = (ipv4.into_iter(), ipv6.into_iter());
    let mut all = Vec::with_capacity(ipv4.len() + ipv6.len());
    loop {
        let pair = [ipv4.next(), ipv6.next()];
        if pair == [None, None] {
            return all;
        }
        all.extend(pair.into_iter().flatten());
    }
}

async fn of_family(handle: &Handle, family: AddressFamily, ifindex: u32) -> io::Result<Vec<IpAddr>> {
    let mut request = RouteMessage::default();
    request.header.address_family = family;
    request.header.table = RouteHeader::RT_TABLE_MAIN;
    request.attributes.push(RouteAttribute::Oif(ifindex));

    let mut routes = handle.route().get(request).execute();
    let mut gateways = Vec::new();
    loop {
        match routes.try_next().await {
            Ok(Some(route)) if gateways.len() < MOST => collect(&route, ifindex, &mut gateways),
            Ok(Some(_)) => {}
            Ok(None) => return Ok(gateways),
            Err(rtnetlink::Error::NetlinkError(error))
                if [-libc::ENOENT, -libc::EOPNOTSUPP].contains(&error.raw_code()) =>
            {
                // A namespace in which no route was ever made has no main table, a kernel without IPv6 no routes at all.
                return Ok(gateways);
            }
            Err(rtnetlink::Error::NetlinkError(error)) => return Err(error.to_io()),
            Err(error) => return Err(io::Error::other(error)),
        }
    }
}

fn collect(route: &RouteMessage, ifindex: u32, gateways: &mut Vec<IpAddr>) {
    if route.header.destination_prefix_length != 0 {
        return;
    }
    let mut add = |gateway: Option<IpAddr>| {
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

fn gateway(attributes: &[RouteAttribute]) -> Option<IpAddr> {
    attributes.iter().find_map(|attribute| match attribute {
        RouteAttribute::Gateway(RouteAddress::Inet(gateway)) => Some((*gateway).into()),
        RouteAttribute::Gateway(RouteAddress::Inet6(gateway)) => Some((*gateway).into()),
        _ => None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_best_of_each_family_come_first() {
        let all = |texts: &[&str]| texts.iter().map(|text| text.parse().unwrap()).collect::<Vec<IpAddr>>();
        let (one, other) = (all(&["10.0.0.1", "10.0.0.2", "10.0.0.3"]), all(&["fe80::1"]));
        assert_eq!(interleaved(one, other), all(&["10.0.0.1", "fe80::1", "10.0.0.2", "10.0.0.3"]));
        assert!(interleaved(Vec::new(), Vec::new()).is_empty());
    }
}
