//! The VIPs on the interface: put there, taken away, and told apart from what others have configured.
//!
//! For the runtime's threads, never the real-time one: the kernel carries a change out within the system call, under
//! a lock (rtnl) that others may hold for long.

use std::collections::BTreeMap;
use std::io;
use std::net::{IpAddr, Ipv6Addr};
use std::path::Path;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use futures_util::{StreamExt, TryStreamExt, stream};
use netlink_packet_core::{
    NLM_F_ACK, NLM_F_CREATE, NLM_F_ECHO, NLM_F_EXCL, NLM_F_REQUEST, NetlinkMessage, NetlinkPayload,
};
use netlink_packet_route::address::{
    AddressAttribute, AddressFlags, AddressMessage, AddressProtocol, CacheInfo,
};
use netlink_packet_route::route::{RouteAddress, RouteAttribute, RouteMessage, RouteType};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};
use rtnetlink::Handle;

use super::address_record::{AddressKey, AddressRecord};
use super::links::InterfaceAddress;
use super::rtnetlink_message::PROTOCOL_OURS;
use crate::config::same_network;

/// How long, and how often, an IPv6 address that was added is waited for: a second in all.
const LOOKS: u32 = 5000;
const LOOK_PAUSE: Duration = Duration::from_micros(200);
/// Requests whose answers are waited for at the same time; the answers to these, of less than 2 KiB each with what the kernel
/// counts besides, fit the smallest default receive buffer (208 KiB).
const IN_FLIGHT: usize = 32;

/// A connection to the kernel's address tables.
///
/// An address is ours when its `IFA_PROTO` is our number, which Linux keeps since 5.18 and shows as
/// `proto 118`; on older kernels, when it stands in the [`AddressRecord`].
#[derive(Debug)]
pub struct Addresses {
    handle: Handle,
    record: Arc<AddressRecord>,
    /// Whether the kernel keeps marks, once an address was added and it has shown.
    kernel_marks: OnceLock<bool>,
}

/// What [`Addresses::add`] found.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Added {
    /// The address was not there and is now.
    Added,
    /// We had added it earlier.
    AlreadyOurs,
}

/// Why an address could not be added, removed or listed.
#[derive(Debug, thiserror::Error)]
pub enum AddressError {
    /// The VIP was configured by somebody else.
    #[error(
        "{ip}/{prefix} is already on interface {ifindex} and was not put there by the cluster: remove it there (or \
         from the system's network configuration), or take it out of the cluster's"
    )]
    Foreign {
        /// The interface.
        ifindex: u32,
        /// The VIP.
        ip: IpAddr,
        /// The length of its prefix, in bits.
        prefix: u8,
    },
    /// There is no such interface.
    #[error("cannot configure {ip}: there is no interface {ifindex} any more")]
    NoInterface {
        /// The interface.
        ifindex: u32,
        /// The VIP.
        ip: IpAddr,
    },
    /// The interface takes no IPv6 addresses.
    #[error(
        "cannot configure {ip}: IPv6 is switched off on interface {ifindex}; set the sysctl \
         net.ipv6.conf.INTERFACE.disable_ipv6 = 0 there, or take the IPv6 VIPs out of the configuration"
    )]
    Ipv6Off {
        /// The interface.
        ifindex: u32,
        /// The VIP.
        ip: IpAddr,
    },
    /// The kernel refused.
    #[error("the kernel refuses to {attempt}: {source}")]
    Refused {
        /// What was attempted.
        attempt: String,
        /// Its reason.
        source: io::Error,
    },
    /// The connection to the kernel broke.
    #[error("no answer from the kernel on the attempt to {attempt}: {source}")]
    Connection {
        /// What was attempted.
        attempt: String,
        /// The reason.
        source: rtnetlink::Error,
    },
    /// The record of our addresses cannot be written, which an old kernel needs.
    #[error("cannot write which addresses are the cluster's into its state directory: {0}")]
    Record(#[source] io::Error),
}

impl Addresses {
    /// Connects to the kernel, for the network namespace of the calling thread, inside a tokio runtime on which the
    /// connection is then served. The record of our addresses is kept in `state_directory` where the kernel does not
    /// keep it.
    ///
    /// # Errors
    /// When the kernel refuses a netlink socket or the record cannot be read.
    pub fn new(state_directory: &Path) -> io::Result<Self> {
        Self::connect(Arc::new(AddressRecord::open(state_directory)?))
    }

    /// A further connection, from another runtime, that shares the record of our addresses.
    ///
    /// # Errors
    /// When the kernel refuses a netlink socket.
    pub fn connect(record: Arc<AddressRecord>) -> io::Result<Self> {
        let (connection, handle, _) = rtnetlink::new_connection()?;
        tokio::spawn(connection);
        Ok(Self { handle, record, kernel_marks: OnceLock::new() })
    }

    /// The record of our addresses, for the [`super::links::LinkMonitor`].
    #[must_use]
    pub fn record(&self) -> Arc<AddressRecord> {
        Arc::clone(&self.record)
    }

    /// Puts a VIP onto an interface; see [`Self::add_all`].
    ///
    /// # Errors
    /// See [`AddressError`]; of [`AddressError::Foreign`] nothing was changed.
    pub async fn add(&self, ifindex: u32, ip: IpAddr, prefix: u8) -> Result<Added, AddressError> {
        let key = (ifindex, ip, prefix);
        // There is one outcome for each.
        self.add_all(ifindex, &[(ip, prefix)]).await.pop().unwrap_or_else(|| Err(is_there(key)))
    }

    /// Puts VIPs, each with the length of its prefix, onto an interface, marked as ours, in one exchange with the kernel each,
    /// many of them at the same time. What became of each, in their order.
    ///
    /// They are ordinary addresses, as administrators expect. An IPv4 address becomes a secondary one in a subnet in which
    /// the interface has an address already: then the kernel makes no route for it and never picks it as a source by
    /// itself. For an IPv6 address a preferred lifetime of 0 says the latter (RFC 4862 §5.5.4, *deprecated*), and it is
    /// used at once, without duplicate address detection, which the probe before a takeover stands for. In a subnet of
    /// its own a VIP brings the route back to the clients: that is why it is not added `noprefixroute`.
    /// Of the same VIP elsewhere in the namespace, and of an IPv4 one with another prefix length, the kernel takes no
    /// notice; [`Self::foreign`] does.
    pub async fn add_all(&self, ifindex: u32, vips: &[(IpAddr, u8)]) -> Vec<Result<Added, AddressError>> {
        let keys: Vec<AddressKey> = vips.iter().map(|&(ip, prefix)| (ifindex, ip, prefix)).collect();
        let mut left = keys.iter();
        let mut added = Vec::with_capacity(keys.len());
        // Whether the kernel keeps marks may take a list to find out, and a socket can have one list under way.
        while self.kernel_marks.get().is_none()
            && let Some(&key) = left.next()
        {
            added.push(self.add_new(key).await);
        }
        let others = stream::iter(left).map(|&key| self.add_new(key)).buffered(IN_FLIGHT);
        added.extend(others.collect::<Vec<_>>().await);

        let mut outcomes = Vec::with_capacity(keys.len());
        let mut listed = None;
        let mut not_local = Vec::new();
        for (&key, added) in keys.iter().zip(added) {
            let outcome = match added {
                Ok(true) => Ok(Added::Added),
                Ok(false) => self.add_where_one_is(key, &mut listed).await,
                Err(error) => Err(error),
            };
            if let (Ok(Added::Added), IpAddr::V6(ip)) = (&outcome, key.1) {
                not_local.push((outcomes.len(), ip));
            }
            outcomes.push(outcome);
        }
        for (place, error) in self.await_local(not_local).await {
            outcomes[place] = Err(AddressError::of(error, adding(keys[place])));
        }
        outcomes
    }

    /// Adds an address where the kernel says that it has one already. `listed`: what there is, once that was asked for.
    async fn add_where_one_is(
        &self,
        key: AddressKey,
        listed: &mut Option<Vec<(InterfaceAddress, Rank)>>,
    ) -> Result<Added, AddressError> {
        let (ifindex, ip, prefix) = key;
        let listed = match listed {
            Some(listed) => listed,
            None => listed.insert(self.list_with_rank().await?),
        };
        let found = listed.iter().map(|(found, _)| *found).find(|found| match ip {
            IpAddr::V4(_) => found.key() == key,
            // An interface has it once, whatever the prefix.
            IpAddr::V6(_) => (found.ifindex, found.ip) == (ifindex, ip),
        });
        match found {
            Some(found) if found.ours && found.prefix == prefix => Ok(Added::AlreadyOurs),
            Some(found) if found.ours => {
                // Of a daemon before this one, whose file had another prefix.
                self.remove_listed(listed, &[found]).await?;
                if self.add_new(key).await? { Ok(Added::Added) } else { Err(is_there(key)) }
            }
            Some(found) => Err(AddressError::Foreign { ifindex, ip, prefix: found.prefix }),
            // Removed since; the caller, or the watch over addresses, asks again.
            None => Err(is_there(key)),
        }
    }

    /// Adds an address that is not there; whether it was not. The kernel may not use an IPv6 address yet.
    async fn add_new(&self, key: AddressKey) -> Result<bool, AddressError> {
        let (ifindex, ip, _) = key;
        // On an old kernel a watch may hear of the address before we hear that it is there.
        let claimed = self.kernel_marks.get() != Some(&true) && self.record.insert(key);
        let outcome = match self.request_add(key).await {
            Ok(Some(None)) => Ok(Some(self.is_kept_marked(key).await)),
            Ok(Some(Some(marked))) => Ok(Some(marked)),
            Ok(None) => Ok(None),
            Err(error) => Err(error),
        };
        if claimed && !matches!(outcome, Ok(Some(false))) {
            self.record.remove(key);
        }
        match outcome {
            Ok(Some(true)) => {
                let _ = self.kernel_marks.set(true);
                Ok(true)
            }
            Ok(Some(false)) => {
                let _ = self.kernel_marks.set(false);
                if let Err(error) = self.record.save() {
                    // An address of which nothing tells later that it is ours must not stay.
                    self.record.remove(key);
                    let _ = self.delete(key).await;
                    return Err(AddressError::Record(error));
                }
                Ok(true)
            }
            Ok(None) => Ok(false),
            Err(rtnetlink::Error::NetlinkError(error)) => Err(match -error.raw_code() {
                libc::ENODEV => AddressError::NoInterface { ifindex, ip },
                // The sysctl, or a kernel without IPv6.
                libc::EACCES | libc::EOPNOTSUPP | libc::EAFNOSUPPORT if ip.is_ipv6() => {
                    AddressError::Ipv6Off { ifindex, ip }
                }
                _ => AddressError::of(rtnetlink::Error::NetlinkError(error), adding(key)),
            }),
            Err(error) => Err(AddressError::of(error, adding(key))),
        }
    }

    /// Waits until packets to IPv6 addresses that were added are for this host; returns those for which that was in vain, each
    /// by its place. The kernel makes the route that says so from a work queue, a moment after it has said that the address is
    /// there (`addrconf_dad_start`, net/ipv6/addrconf.c). The pauses block the thread, which has nothing more urgent to do, and
    /// leave the processor to that queue.
    #[expect(clippy::disallowed_methods, reason = "the kernel tells nobody when the condition is met")]
    async fn await_local(&self, mut waiting: Vec<(usize, Ipv6Addr)>) -> Vec<(usize, rtnetlink::Error)> {
        let mut failed = Vec::new();
        for _ in 0..LOOKS {
            let looks = stream::iter(&waiting).map(|&(_, ip)| self.is_local(ip)).buffered(IN_FLIGHT);
            let looks: Vec<_> = looks.collect().await;
            let mut still = Vec::new();
            for (address, is_local) in waiting.into_iter().zip(looks) {
                match is_local {
                    Ok(true) => {}
                    Ok(false) => still.push(address),
                    Err(error) => failed.push((address.0, error)),
                }
            }
            waiting = still;
            if waiting.is_empty() {
                return failed;
            }
            std::thread::sleep(LOOK_PAUSE);
        }
        failed.extend(waiting.into_iter().map(|(place, ip)| {
            let why = format!("the kernel does not take packets to {ip} although it has the address");
            (place, rtnetlink::Error::NamespaceError(why))
        }));
        failed
    }

    /// Whether packets to the address are for this host.
    async fn is_local(&self, ip: Ipv6Addr) -> Result<bool, rtnetlink::Error> {
        let mut request = RouteMessage::default();
        request.header.address_family = AddressFamily::Inet6;
        request.header.destination_prefix_length = 128;
        request.attributes.push(RouteAttribute::Destination(RouteAddress::Inet6(ip)));
        match self.handle.route().get(request).execute().try_next().await {
            Ok(route) => Ok(route.is_some_and(|route| route.header.kind == RouteType::Local)),
            // There is no way there at all yet.
            Err(rtnetlink::Error::NetlinkError(error)) if error.raw_code() == -libc::ENETUNREACH => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Takes a VIP off every interface on which it is marked as ours, with whatever prefix; whether there was one.
    /// What others have configured stays, the same address included.
    ///
    /// # Errors
    /// See [`AddressError`].
    pub async fn remove(&self, ip: IpAddr) -> Result<bool, AddressError> {
        self.remove_all_ours(&[ip]).await.map(|removed| removed > 0)
    }

    /// Takes all these VIPs off every interface on which they are marked as ours; how many there were.
    ///
    /// # Errors
    /// See [`AddressError`]; the first, once all were tried.
    pub async fn remove_all_ours(&self, vips: &[IpAddr]) -> Result<usize, AddressError> {
        let listed = self.list_with_rank().await?;
        let ours = |address: &InterfaceAddress| address.ours && vips.contains(&address.ip);
        let leaving: Vec<_> = listed.iter().map(|(address, _)| *address).filter(ours).collect();
        self.remove_listed(&listed, &leaving).await
    }

    /// Takes these of the addresses listed off, many at the same time; how many were still there.
    async fn remove_listed(
        &self,
        listed: &[(InterfaceAddress, Rank)],
        leaving: &[InterfaceAddress],
    ) -> Result<usize, AddressError> {
        // Set until all are gone.
        let mut promoted: BTreeMap<u32, Option<PromotedSecondaries>> = BTreeMap::new();
        let (mut secondaries, mut primaries) = (Vec::new(), Vec::new());
        let mut first_error = None;
        for (address, rank) in listed.iter().filter(|(address, _)| leaving.contains(address)) {
            if *rank == Rank::Secondary {
                secondaries.push(*address);
                continue;
            }
            if would_take_others_along(listed, leaving, *address) && !promoted.contains_key(&address.ifindex)
            {
                match PromotedSecondaries::set(address.ifindex) {
                    Ok(guard) => drop(promoted.insert(address.ifindex, guard)),
                    Err(source) => {
                        let subnet = format!("the subnet of {} when it is removed", address.ip);
                        let attempt = format!("keep the other addresses in {subnet}");
                        first_error.get_or_insert(AddressError::Refused { attempt, source });
                        continue;
                    }
                }
            }
            primaries.push(*address);
        }
        // A subnet's primary address last: while there are secondary ones, its removal has the kernel go through all of them.
        let in_order = secondaries.into_iter().chain(primaries);
        let removals = stream::iter(in_order).map(|address| self.remove_one(address)).buffered(IN_FLIGHT);
        let outcomes: Vec<_> = removals.collect().await;
        drop(promoted);
        let mut removed = 0;
        for outcome in outcomes {
            match outcome {
                Ok(was_there) => removed += usize::from(was_there),
                Err(error) => drop(first_error.get_or_insert(error)),
            }
        }
        first_error.map_or(Ok(removed), Err)
    }

    /// All addresses of the namespace, of both families.
    ///
    /// # Errors
    /// See [`AddressError`].
    pub async fn list(&self) -> Result<Vec<InterfaceAddress>, AddressError> {
        Ok(self.list_with_rank().await?.into_iter().map(|(address, _)| address).collect())
    }

    /// Those of these VIPs that somebody else has configured, anywhere in the namespace. They are an error to report,
    /// and never removed.
    ///
    /// # Errors
    /// See [`AddressError`].
    pub async fn foreign(&self, vips: &[IpAddr]) -> Result<Vec<InterfaceAddress>, AddressError> {
        let mut found = self.list().await?;
        found.retain(|address| !address.ours && vips.contains(&address.ip));
        Ok(found)
    }

    /// Whether it was there.
    async fn remove_one(&self, address: InterfaceAddress) -> Result<bool, AddressError> {
        let outcome = self.delete(address.key()).await;
        if self.record.remove(address.key()) {
            self.record.save().map_err(AddressError::Record)?;
        }
        match outcome {
            Ok(()) => Ok(true),
            // Removed by somebody else, alone or with its interface.
            Err(rtnetlink::Error::NetlinkError(error))
                if [-libc::EADDRNOTAVAIL, -libc::ENODEV, -libc::ENXIO].contains(&error.raw_code()) =>
            {
                Ok(false)
            }
            Err(error) => Err(AddressError::of(
                error,
                format!("remove {}/{} from interface {}", address.ip, address.prefix, address.ifindex),
            )),
        }
    }

    async fn list_with_rank(&self) -> Result<Vec<(InterfaceAddress, Rank)>, AddressError> {
        let messages = self
            .messages()
            .await
            .map_err(|error| AddressError::of(error, "list the addresses".to_owned()))?;
        Ok(messages.iter().filter_map(|message| self.read(message)).collect())
    }

    async fn messages(&self) -> Result<Vec<AddressMessage>, rtnetlink::Error> {
        let mut request = self.handle.address().get();
        request.message_mut().header.family = AddressFamily::Unspec;
        request.execute().try_collect().await
    }

    /// Whether the kernel has kept the mark of an address of which it sent no echo. If that cannot be found out, it
    /// counts as not kept: the record does no harm beside the mark.
    async fn is_kept_marked(&self, key: AddressKey) -> bool {
        if let Some(&marks) = self.kernel_marks.get() {
            return marks;
        }
        let messages = self.messages().await.unwrap_or_default();
        messages.iter().any(|message| {
            is_marked(message) && self.read(message).is_some_and(|(address, _)| address.key() == key)
        })
    }

    fn read(&self, message: &AddressMessage) -> Option<(InterfaceAddress, Rank)> {
        let (mut local, mut address, mut flags) = (None, None, AddressFlags::empty());
        for attribute in &message.attributes {
            match attribute {
                AddressAttribute::Local(ip) => local = Some(*ip),
                // IPv6 tells the other only on a link to a single peer.
                AddressAttribute::Address(ip) => address = Some(*ip),
                AddressAttribute::Flags(told) => flags = *told,
                _ => {}
            }
        }
        let ip = local.or(address)?;
        let (ifindex, prefix) = (message.header.index, message.header.prefix_len);
        let ours = is_marked(message) || self.record.contains((ifindex, ip, prefix));
        let rank = if flags.contains(AddressFlags::Secondary) { Rank::Secondary } else { Rank::Primary };
        let tentative = flags.intersects(AddressFlags::Tentative | AddressFlags::Dadfailed);
        Some((InterfaceAddress { ifindex, ip, prefix, ours, tentative }, rank))
    }

    /// `Some`: added, and whether the kernel keeps our mark, if it has said; `None`: it was there already.
    ///
    /// With `NLM_F_ECHO` the kernel sends back what it has put into its table, before its acknowledgement: that shows
    /// whether it knows `IFA_PROTO` without a second exchange. Of IPv6 addresses it sends none.
    async fn request_add(&self, key: AddressKey) -> Result<Option<Option<bool>>, rtnetlink::Error> {
        let mut message = address_message(key);
        if key.1.is_ipv6() {
            let mut lifetimes = CacheInfo::default();
            (lifetimes.ifa_preferred, lifetimes.ifa_valid) = (0, FOREVER);
            message.attributes.push(AddressAttribute::CacheInfo(lifetimes));
            message.attributes.push(AddressAttribute::Flags(AddressFlags::Nodad));
        }
        message.attributes.push(AddressAttribute::Protocol(AddressProtocol::Other(PROTOCOL_OURS)));
        let mut request = NetlinkMessage::from(RouteNetlinkMessage::NewAddress(message));
        request.header.flags = NLM_F_REQUEST | NLM_F_ACK | NLM_F_ECHO | NLM_F_CREATE | NLM_F_EXCL;
        let mut marked = None;
        let mut answers = self.handle.clone().request(request)?;
        while let Some(answer) = answers.next().await {
            match answer.payload {
                NetlinkPayload::InnerMessage(RouteNetlinkMessage::NewAddress(echo)) => {
                    marked = Some(is_marked(&echo));
                }
                NetlinkPayload::Error(error) if error.raw_code() == -libc::EEXIST => return Ok(None),
                NetlinkPayload::Error(error) if error.code.is_some() => {
                    return Err(rtnetlink::Error::NetlinkError(error));
                }
                _ => {}
            }
        }
        Ok(Some(marked))
    }

    async fn delete(&self, key: AddressKey) -> Result<(), rtnetlink::Error> {
        self.handle.address().del(address_message(key)).execute().await
    }
}

impl AddressError {
    fn of(error: rtnetlink::Error, attempt: String) -> Self {
        match error {
            rtnetlink::Error::NetlinkError(error) => Self::Refused { attempt, source: error.to_io() },
            source => Self::Connection { attempt, source },
        }
    }
}

/// Whether the kernel would delete addresses that are to stay together with this one: an IPv4 VIP that came first in its subnet
/// is that subnet's primary address, and the kernel deletes all secondary ones with their primary, be they other VIPs or the
/// administrator's, unless `promote_secondaries` is set.
fn would_take_others_along(
    listed: &[(InterfaceAddress, Rank)],
    leaving: &[InterfaceAddress],
    primary: InterfaceAddress,
) -> bool {
    primary.ip.is_ipv4()
        && listed.iter().any(|(other, rank)| {
            *rank == Rank::Secondary
                && (other.ifindex, other.prefix) == (primary.ifindex, primary.prefix)
                && same_network(other.ip, primary.ip, primary.prefix)
                && !leaving.contains(other)
        })
}

fn is_there(key: AddressKey) -> AddressError {
    let source = io::Error::from_raw_os_error(libc::EEXIST);
    AddressError::Refused { attempt: adding(key), source }
}

/// What is attempted, for people.
fn adding((ifindex, ip, prefix): AddressKey) -> String {
    format!("add {ip}/{prefix} to interface {ifindex}")
}

impl InterfaceAddress {
    fn key(&self) -> AddressKey {
        (self.ifindex, self.ip, self.prefix)
    }
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Rank {
    Primary,
    Secondary,
}

/// `net.ipv4.conf.INTERFACE.promote_secondaries` set until dropped.
struct PromotedSecondaries {
    file: String,
}

impl PromotedSecondaries {
    /// `None` if it is set anyway.
    fn set(ifindex: u32) -> io::Result<Option<Self>> {
        let name = nix::net::if_::if_indextoname(ifindex)?;
        let file = format!("/proc/sys/net/ipv4/conf/{}/promote_secondaries", name.to_string_lossy());
        if std::fs::read_to_string(&file)?.trim() != "0" {
            return Ok(None);
        }
        std::fs::write(&file, "1")?;
        Ok(Some(Self { file }))
    }
}

impl Drop for PromotedSecondaries {
    fn drop(&mut self) {
        // It fails only when the interface is gone, and the setting with it.
        let _ = std::fs::write(&self.file, "0");
    }
}

/// A lifetime without end (`INFINITY_LIFE_TIME`).
const FOREVER: u32 = u32::MAX;

fn address_message((ifindex, ip, prefix): AddressKey) -> AddressMessage {
    let mut message = AddressMessage::default();
    message.header.family = match ip {
        IpAddr::V4(_) => AddressFamily::Inet,
        IpAddr::V6(_) => AddressFamily::Inet6,
    };
    message.header.index = ifindex;
    message.header.prefix_len = prefix;
    message.attributes = vec![AddressAttribute::Local(ip), AddressAttribute::Address(ip)];
    message
}

fn is_marked(message: &AddressMessage) -> bool {
    message.attributes.iter().any(|attribute| {
        matches!(attribute, AddressAttribute::Protocol(protocol) if u8::from(*protocol) == PROTOCOL_OURS)
    })
}
