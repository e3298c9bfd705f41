//! The interfaces and addresses as far as the kernel has told us, and what is new in what it tells now.
//!
//! Pure: messages in, events out. Single changes and whole lists may mix: while a list is being read, changes are told
//! too, and the list may show an entry as it was before a change that was told earlier. So an entry whose change was
//! told while the list was under way is taken from that change, and any still later change is yet to be told.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use super::address_record::{AddressKey, AddressRecord};
use super::links::{Interface, InterfaceAddress, LinkEvent};
use super::rtnetlink_message::{Address, Body};

/// What is known, and the list that is being read.
#[derive(Debug, Default)]
pub(super) struct LinkTable {
    interfaces: BTreeMap<u32, Interface>,
    addresses: BTreeMap<AddressKey, Kept>,
    list: List,
}

/// What is known of an address.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Kept {
    ours: bool,
    tentative: bool,
}

/// Entries of the list that is under way, and which of them changed since it was asked for.
#[derive(Debug, Default)]
struct List {
    interfaces: BTreeMap<u32, Interface>,
    addresses: BTreeMap<AddressKey, Kept>,
    changed_interfaces: BTreeSet<u32>,
    changed_addresses: BTreeSet<AddressKey>,
}

impl LinkTable {
    /// A list was asked for; what an earlier one had brought is forgotten.
    pub(super) fn begin_list(&mut self) {
        self.list = List::default();
    }

    /// An entry of the list.
    pub(super) fn listed(&mut self, body: Body, record: &AddressRecord) {
        match body {
            Body::Link(interface) => {
                self.list.interfaces.insert(interface.ifindex, interface);
            }
            Body::Address(address) => {
                self.list.addresses.insert(key(&address), kept(&address, record));
            }
            Body::LinkGone { .. }
            | Body::AddressGone(_)
            | Body::Done { .. }
            | Body::Error { .. }
            | Body::Other => {}
        }
    }

    /// The list of interfaces is complete. What is gone is told before what is new, so that a name never seems to
    /// belong to two interfaces.
    pub(super) fn end_links(&mut self, events: &mut VecDeque<LinkEvent>) {
        let list = std::mem::take(&mut self.list);
        let changed = |ifindex: &u32| list.changed_interfaces.contains(ifindex);
        let gone: Vec<u32> =
            self.interfaces.keys().copied().filter(|i| !list.interfaces.contains_key(i)).collect();
        for ifindex in gone.into_iter().filter(|i| !changed(i)) {
            self.remove_interface(ifindex, events);
        }
        for interface in list.interfaces.into_values() {
            if !list.changed_interfaces.contains(&interface.ifindex) {
                self.put_interface(interface, events);
            }
        }
    }

    /// The list of addresses is complete.
    pub(super) fn end_addresses(&mut self, events: &mut VecDeque<LinkEvent>) {
        let list = std::mem::take(&mut self.list);
        let gone: Vec<AddressKey> =
            self.addresses.keys().copied().filter(|key| !list.addresses.contains_key(key)).collect();
        for key in gone.into_iter().filter(|key| !list.changed_addresses.contains(key)) {
            self.remove_address(key, events);
        }
        for (key, kept) in list.addresses {
            if !list.changed_addresses.contains(&key) {
                self.put_address(key, kept, events);
            }
        }
    }

    /// A change was told.
    pub(super) fn changed(&mut self, body: Body, record: &AddressRecord, events: &mut VecDeque<LinkEvent>) {
        match body {
            Body::Link(interface) => {
                self.list.changed_interfaces.insert(interface.ifindex);
                self.put_interface(interface, events);
            }
            Body::LinkGone { ifindex } => {
                self.list.changed_interfaces.insert(ifindex);
                self.remove_interface(ifindex, events);
            }
            Body::Address(address) => {
                self.list.changed_addresses.insert(key(&address));
                self.put_address(key(&address), kept(&address, record), events);
            }
            Body::AddressGone(address) => {
                self.list.changed_addresses.insert(key(&address));
                self.remove_address(key(&address), events);
            }
            Body::Done { .. } | Body::Error { .. } | Body::Other => {}
        }
    }

    fn put_interface(&mut self, interface: Interface, events: &mut VecDeque<LinkEvent>) {
        if self.interfaces.get(&interface.ifindex) != Some(&interface) {
            self.interfaces.insert(interface.ifindex, interface.clone());
            events.push_back(LinkEvent::Interface(interface));
        }
    }

    fn remove_interface(&mut self, ifindex: u32, events: &mut VecDeque<LinkEvent>) {
        // The kernel tells the end of the addresses first; those whose message was lost go here.
        let addresses: Vec<AddressKey> =
            self.addresses.keys().copied().filter(|key| key.0 == ifindex).collect();
        for key in addresses {
            self.remove_address(key, events);
        }
        if let Some(interface) = self.interfaces.remove(&ifindex) {
            events.push_back(LinkEvent::InterfaceGone { ifindex, name: interface.name });
        }
    }

    fn put_address(&mut self, key: AddressKey, kept: Kept, events: &mut VecDeque<LinkEvent>) {
        if self.addresses.insert(key, kept) != Some(kept) {
            events.push_back(LinkEvent::Address(interface_address(key, kept)));
        }
    }

    fn remove_address(&mut self, key: AddressKey, events: &mut VecDeque<LinkEvent>) {
        if let Some(kept) = self.addresses.remove(&key) {
            events.push_back(LinkEvent::AddressGone(interface_address(key, kept)));
        }
    }
}

fn key(address: &Address) -> AddressKey {
    (address.ifindex, address.ip, address.prefix)
}

fn kept(address: &Address, record: &AddressRecord) -> Kept {
    Kept { ours: address.marked || record.contains(key(address)), tentative: address.tentative }
}

fn interface_address((ifindex, ip, prefix): AddressKey, kept: Kept) -> InterfaceAddress {
    InterfaceAddress { ifindex, ip, prefix, ours: kept.ours, tentative: kept.tentative }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use cluster_proto::Mac;
    use proptest::prelude::*;

    use super::*;

    fn record() -> AddressRecord {
        AddressRecord::open(std::path::Path::new("/nonexistent")).unwrap()
    }

    fn interface(ifindex: u32, name: &str, has_carrier: bool) -> Interface {
        Interface {
            ifindex,
            name: name.into(),
            is_ethernet: true,
            is_up: true,
            has_carrier,
            mac: Mac([2; 6]),
            vlan: None,
        }
    }

    fn address(ifindex: u32, last: u8, marked: bool) -> Address {
        let ip = Ipv4Addr::new(10, 77, 0, last).into();
        Address { ifindex, ip, prefix: 24, marked, tentative: false }
    }

    fn told(address: Address) -> InterfaceAddress {
        interface_address(key(&address), Kept { ours: address.marked, tentative: address.tentative })
    }

    struct Fixture {
        table: LinkTable,
        events: VecDeque<LinkEvent>,
        record: AddressRecord,
    }

    impl Fixture {
        fn new() -> Self {
            Self { table: LinkTable::default(), events: VecDeque::new(), record: record() }
        }

        fn changed(&mut self, body: Body) -> Vec<LinkEvent> {
            self.table.changed(body, &self.record, &mut self.events);
            self.events.drain(..).collect()
        }

        fn listed(&mut self, body: Body) {
            self.table.listed(body, &self.record);
        }

        fn end_links(&mut self) -> Vec<LinkEvent> {
            self.table.end_links(&mut self.events);
            self.events.drain(..).collect()
        }

        fn end_addresses(&mut self) -> Vec<LinkEvent> {
            self.table.end_addresses(&mut self.events);
            self.events.drain(..).collect()
        }
    }

    #[test]
    fn only_what_changed_is_told() {
        let mut f = Fixture::new();
        let up = interface(3, "eth0", true);
        assert_eq!(f.changed(Body::Link(up.clone())), [LinkEvent::Interface(up.clone())]);
        assert_eq!(f.changed(Body::Link(up)), []);
        let down = interface(3, "eth0", false);
        assert_eq!(f.changed(Body::Link(down.clone())), [LinkEvent::Interface(down)]);
        let vip = address(3, 100, true);
        assert_eq!(f.changed(Body::Address(vip)), [LinkEvent::Address(told(vip))]);
        assert_eq!(f.changed(Body::Address(vip)), []);
        let tentative = Address { tentative: true, ..vip };
        assert_eq!(f.changed(Body::Address(tentative)), [LinkEvent::Address(told(tentative))]);
    }

    #[test]
    fn an_interface_takes_its_addresses_along() {
        let mut f = Fixture::new();
        f.changed(Body::Link(interface(3, "eth0", true)));
        f.changed(Body::Address(address(3, 100, true)));
        f.changed(Body::Address(address(4, 100, true)));
        assert_eq!(
            f.changed(Body::LinkGone { ifindex: 3 }),
            [
                LinkEvent::AddressGone(told(address(3, 100, true))),
                LinkEvent::InterfaceGone { ifindex: 3, name: "eth0".into() }
            ]
        );
        assert_eq!(f.changed(Body::LinkGone { ifindex: 3 }), []);
    }

    #[test]
    fn a_re_created_interface_is_gone_before_it_is_new() {
        let mut f = Fixture::new();
        f.changed(Body::Link(interface(9, "eth0", true)));
        f.table.begin_list();
        f.listed(Body::Link(interface(4, "eth0", true)));
        assert_eq!(
            f.end_links(),
            [
                LinkEvent::InterfaceGone { ifindex: 9, name: "eth0".into() },
                LinkEvent::Interface(interface(4, "eth0", true))
            ]
        );
    }

    #[test]
    fn a_list_older_than_a_change_told_meanwhile_does_not_undo_it() {
        let mut f = Fixture::new();
        f.changed(Body::Link(interface(3, "eth0", true)));
        f.table.begin_list();
        f.listed(Body::Link(interface(3, "eth0", true)));
        assert_eq!(f.changed(Body::Link(interface(3, "eth0", false))).len(), 1);
        assert_eq!(f.changed(Body::Link(interface(5, "new", true))).len(), 1);
        assert_eq!(f.end_links(), []);

        f.table.begin_list();
        let (removed, added) = (address(3, 1, false), address(3, 2, false));
        f.listed(Body::Address(removed));
        assert_eq!(f.changed(Body::AddressGone(removed)), []);
        assert_eq!(f.changed(Body::Address(added)), [LinkEvent::Address(told(added))]);
        assert_eq!(f.end_addresses(), []);
    }

    #[test]
    fn a_list_finds_what_was_missed() {
        let mut f = Fixture::new();
        f.changed(Body::Link(interface(3, "eth0", true)));
        f.changed(Body::Address(address(3, 1, false)));
        f.table.begin_list();
        f.listed(Body::Link(interface(3, "eth0", true)));
        assert_eq!(f.end_links(), []);
        f.table.begin_list();
        f.listed(Body::Address(address(3, 2, true)));
        assert_eq!(
            f.end_addresses(),
            [
                LinkEvent::AddressGone(told(address(3, 1, false))),
                LinkEvent::Address(told(address(3, 2, true)))
            ]
        );
    }

    #[test]
    fn the_record_makes_an_unmarked_address_ours() {
        let mut f = Fixture::new();
        f.record.insert(key(&address(3, 100, false)));
        assert_eq!(
            f.changed(Body::Address(address(3, 100, false))),
            [LinkEvent::Address(told(address(3, 100, true)))]
        );
    }

    proptest! {
        /// A kernel whose interfaces change all the time, and lists that are read while they do: each entry is read at
        /// some moment and arrives at some later one.
        #[test]
        fn what_is_known_in_the_end_is_what_is_there(
            steps in proptest::collection::vec((0_u32..4, 0_u8..3, any::<bool>()), 0..60),
            list_at in 0_usize..60, lag in 0_usize..6,
        ) {
            let mut f = Fixture::new();
            let mut kernel: BTreeMap<u32, Interface> = BTreeMap::new();
            let mut in_flight: Vec<(usize, Interface)> = Vec::new();
            let mut last_read = None;
            for (step, (ifindex, what, carrier)) in steps.iter().copied().enumerate() {
                if step == list_at {
                    f.table.begin_list();
                }
                if step >= list_at && step < list_at + 4 {
                    // The list passes one index at each step.
                    if let Some(found) = kernel.get(&((step - list_at) as u32)) {
                        in_flight.push((step + lag, found.clone()));
                    }
                    last_read = Some(step + lag);
                }
                let body = match what {
                    0 => kernel.remove(&ifindex).map(|_| Body::LinkGone { ifindex }),
                    _ => {
                        let new = interface(ifindex, "eth", carrier);
                        kernel.insert(ifindex, new.clone());
                        Some(Body::Link(new))
                    }
                };
                if let Some(body) = body {
                    f.changed(body);
                }
                for (_, found) in in_flight.extract_if(.., |(at, _)| *at <= step).collect::<Vec<_>>() {
                    f.listed(Body::Link(found));
                }
                if last_read == Some(step) && step >= list_at + 3 + lag {
                    f.end_links();
                    last_read = None;
                }
            }
            prop_assert_eq!(&f.table.interfaces, &kernel);
        }
    }
}
