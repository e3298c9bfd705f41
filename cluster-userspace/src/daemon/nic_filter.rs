//! The virtual Ethernet addresses in the filter of the service interface's card: there from before a group can be held until
//! after it cannot be any more, on every node, so that nothing waits for it at a takeover. The programs drop what comes in for
//! them where the group is not held.

use std::collections::BTreeSet;
use std::os::fd::OwnedFd;

use cluster_proto::Mac;

use super::node::Node;
use crate::dataplane::GroupVips;
use crate::network::unicast_filter;

/// What the card was told.
#[derive(Debug, Default)]
pub(super) struct NicFilter {
    /// What it is to take in besides its own address.
    wanted: BTreeSet<[u8; 6]>,
    /// What it was told to, and by which interface.
    there: BTreeSet<(u32, [u8; 6])>,
    /// It takes in everything instead, since it has no filter that can be told.
    everything: Option<(u32, OwnedFd)>,
    /// Why it was not told, as last said.
    why: Option<String>,
}

impl NicFilter {
    /// The groups' virtual Ethernet addresses are to be taken in.
    pub(super) fn want(&mut self, groups: &[GroupVips]) {
        let macs = groups.iter().flat_map(|group| {
            let virtual_mac = group.mac.into_iter();
            virtual_mac.flat_map(|mac| group.vips.iter().map(move |vip| mac.of(vip.address).0))
        });
        self.wanted = macs.collect();
    }

    /// Looks again whether everything is there, with the next [`Node::fit_nic_filter`].
    pub(super) fn doubt(&mut self) {
        self.there.retain(|(_, mac)| !self.wanted.contains(mac));
    }

    /// Takes everything back.
    pub(super) async fn remove(self) {
        for (ifindex, mac) in self.there {
            if let Err(error) = unicast_filter::remove(ifindex, Mac(mac)).await {
                tracing::warn!(%error, mac = %Mac(mac), "cannot take a virtual MAC out of the card's filter");
            }
        }
    }
}

impl Node {
    /// Makes the card's filter what the groups need.
    pub(super) async fn fit_nic_filter(&mut self) {
        let ifindex = self.watch.ifindex();
        let wanted: BTreeSet<_> =
            ifindex.into_iter().flat_map(|on| self.filter.wanted.iter().map(move |mac| (on, *mac))).collect();
        let gone: Vec<_> = self.filter.there.difference(&wanted).copied().collect();
        for (on, mac) in gone {
            match self.patiently(unicast_filter::remove(on, Mac(mac))).await {
                Ok(()) => drop(self.filter.there.remove(&(on, mac))),
                // It is tried again.
                Err(error) => {
                    return self.filter_failed(&format!("cannot take {} out of it: {error}", Mac(mac)));
                }
            }
        }
        if self.filter.everything.as_ref().is_some_and(|(on, _)| Some(*on) != ifindex || wanted.is_empty()) {
            self.filter.everything = None;
        }
        if self.filter.everything.is_some() {
            return;
        }
        let new: Vec<_> = wanted.difference(&self.filter.there).copied().collect();
        for (on, mac) in new {
            let Err(error) = self.patiently(unicast_filter::add(on, Mac(mac))).await else {
                self.filter.there.insert((on, mac));
                continue;
            };
            match unicast_filter::take_everything(on) {
                Ok(socket) => {
                    self.filter.everything = Some((on, socket));
                    let interface = &self.service.interface;
                    let what = format!(
                        "{interface} cannot be told to take in the virtual MAC {} ({error}): it takes in everything (promiscuous) \
                         for as long as this daemon runs",
                        Mac(mac)
                    );
                    return self.daemon.tell("promiscuous", &what);
                }
                Err(why) => {
                    let what =
                        format!("cannot add {} to it ({error}), nor make it promiscuous: {why}", Mac(mac));
                    return self.filter_failed(&what);
                }
            }
        }
        self.filter.why = None;
    }

    fn filter_failed(&mut self, why: &str) {
        if self.filter.why.as_deref() != Some(why) {
            self.filter.why = Some(why.to_owned());
            let interface = &self.service.interface;
            self.daemon
                .tell("mac_filter", &format!("the filter of {interface}: {why}; tried again every second"));
        }
    }
}
