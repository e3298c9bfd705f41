//! The data plane as a whole.

use std::collections::HashMap;
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::Path;
use std::sync::atomic::Ordering;

use aya::Ebpf;
use cluster_common::Verdict;
use cluster_common::maps::{COUNTERS, GroupCounters, Nic, Own};
use cluster_proto::{GroupId, Mac, Time};

use super::capabilities::check_process;
use super::chain::{self, Chain, ChainedProgram, Opened};
use super::classifiers::{Classifiers, Direction, Fenced, Hook};
use super::error::DataPlaneError;
use super::ingress::{self, Attached, Mode};
use super::interfaces::{self, Interface};
use super::lease_table::LeaseTable;
pub use super::maps::MapsWere;
use super::maps::{self, Former, Maps, NIC_WORDS};
use super::options::{EgressHook, GroupVips, Options, OwnAddresses, XdpPreference};
use super::pins::PinDirectory;
use super::programs::{self, EGRESS, Loaded, MEND, classifier, ingress_program};
use super::slots::{self, GroupSlot};
use super::trace::Trace;
use super::vips;
use crate::network::vlan::Vlan;

/// The pin of the ingress program's link.
const INGRESS_PIN: &str = "xdp";

/// The loaded programs, their maps, pins and links. Everything is pinned: when this value is dropped, or its process
/// killed, the programs stay in place and the leases in the maps run out by themselves.
pub struct DataPlane {
    options: Options,
    directory: PinDirectory,
    object: Ebpf,
    ingress_program: &'static str,
    chain: Option<Chain>,
    frags_refused: Option<String>,
    maps: Maps,
    maps_were: MapsWere,
    former: Option<Former>,
    table: LeaseTable,
    slots: Vec<GroupSlot>,
    fences: Classifiers,
    mends: Classifiers,
    attached: Option<Attached>,
    own: (OwnAddresses, HashMap<Vlan, OwnAddresses>),
}

/// What a group's packets came to, over all CPUs.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct GroupCount {
    /// The group.
    pub group: GroupId,
    /// Packets, by [`Verdict`].
    pub verdicts: [u64; Verdict::COUNT],
}

/// What the ingress program has noted besides its counters.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct Noted {
    /// Addresses on the service link that were served lately, newest first.
    pub served: Vec<ServedAddress>,
    /// VIPs that somebody outside the cluster says are his: on each CPU the latest, oldest first.
    pub claims: Vec<Claimed>,
    /// By group: packets to its VIPs that were let into the local stack since its slot was made.
    pub passed: Vec<(GroupId, u64)>,
}

/// Somebody outside the cluster says that a VIP is his.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Claimed {
    /// The VIP.
    pub address: IpAddr,
    /// Whose Ethernet address it was.
    pub mac: Mac,
    /// When.
    pub at: Time,
}

/// An address on the service link that was served.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ServedAddress {
    /// The address.
    pub address: IpAddr,
    /// When last.
    pub at: Time,
}

impl fmt::Debug for DataPlane {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DataPlane")
            .field("options", &self.options)
            .field("maps_were", &self.maps_were)
            .field("slots", &self.slots)
            .field("attached", &self.attached)
            .finish_non_exhaustive()
    }
}

impl DataPlane {
    /// Loads the programs, with the maps and leases of a daemon that died if there are any, and puts them where that
    /// daemon's egress programs are. The service interface need not be there yet: [`DataPlane::attach`] goes there. Leases of
    /// another layout are copied, and stay in force there until [`DataPlane::forget_former_layout`].
    ///
    /// # Errors
    /// If the process may not, if its clock is not the kernel's, if another daemon is at work, or if the kernel refuses.
    pub fn open(options: Options) -> Result<Self, DataPlaneError> {
        check_process()?;
        slots::check(&options.groups)?;
        // What is wrong with it is told before anything is changed.
        let next = options.chain.as_deref().map(Opened::at).transpose()?;
        let directory = PinDirectory::open(&options.pin_root, &options.cluster, &options.node)?;
        let (mut object, maps_were, former) = maps::load(&directory)?;
        // The programs name the maps by their descriptors, so these must be open until the programs are loaded.
        let Loaded { ingress_program, chain, frags_refused } =
            programs::load(&mut object, next.as_ref(), options.xdp)?;
        let mut maps = Maps::take(&mut object)?;
        maps.forget_kin()?;
        let table = maps.lease_table()?;
        if let Some(former) = &former {
            // Before the new programs take the old ones' place, so that there is no packet in between that finds no lease.
            former.carry_over(&table);
        }
        let classifiers =
            |direction| Classifiers::new(direction, options.egress, &options.cluster, &options.node);
        let (fences, mends) = (classifiers(Direction::Egress), classifiers(Direction::Ingress));
        let mut plane = Self {
            options,
            directory,
            object,
            ingress_program,
            chain,
            frags_refused,
            maps,
            maps_were,
            former,
            table,
            slots: Vec::new(),
            fences,
            mends,
            attached: None,
            own: Default::default(),
        };
        plane.set_groups(plane.options.groups.clone())?;
        plane.fences.adopt(classifier(&mut plane.object, EGRESS)?, &plane.directory)?;
        plane.mends.adopt(classifier(&mut plane.object, MEND)?, &plane.directory)?;
        Ok(plane)
    }

    /// Whether the maps, and with them the leases, are those of a daemon before this one.
    #[must_use]
    pub fn maps_were(&self) -> &MapsWere {
        &self.maps_were
    }

    /// Makes the maps of another layout dark and removes them, once the programs are where those that used them were, and
    /// before anybody says that this node holds nothing.
    ///
    /// # Errors
    /// If the pins cannot be removed.
    pub fn forget_former_layout(&mut self) -> Result<(), DataPlaneError> {
        match self.former.take() {
            Some(former) => former.discard(&self.directory),
            None => Ok(()),
        }
    }

    /// The groups' slots, in the order of the groups given.
    #[must_use]
    pub fn slots(&self) -> &[GroupSlot] {
        &self.slots
    }

    /// The groups and their slots.
    pub fn groups(&self) -> impl Iterator<Item = (&GroupVips, GroupSlot)> {
        self.options.groups.iter().zip(self.slots.iter().copied())
    }

    /// All VIPs.
    #[must_use]
    pub fn vips(&self) -> Vec<IpAddr> {
        self.options.groups.iter().flat_map(|group| &group.vips).map(|vip| vip.address).collect()
    }

    /// The leases, for the thread that writes them. Several tables show the same leases; one thread at a time writes.
    ///
    /// # Errors
    /// If the kernel has no memory for the mapping.
    pub fn lease_table(&self) -> Result<LeaseTable, DataPlaneError> {
        self.maps.lease_table()
    }

    /// Takes other groups or VIPs into the maps. Groups that stay keep slot and lease; those that go are dark at once,
    /// and their addresses must be off the interfaces before, because the programs let pass what is no VIP any more.
    ///
    /// # Errors
    /// If they do not fit, in which case nothing has changed, or if the kernel refuses.
    pub fn set_groups(&mut self, groups: Vec<GroupVips>) -> Result<(), DataPlaneError> {
        slots::check(&groups)?;
        let assigned = slots::assign(&groups, &self.table);
        for slot in &assigned.fresh {
            self.maps.reset_counters(*slot)?;
        }
        self.slots = assigned.slots;
        let (faces, owners) = (self.maps.faces.words(), self.maps.virtual_mac_owners.words());
        slots::write_virtual_macs(faces, owners, &groups, &self.slots);
        vips::write(&mut self.maps.vips, &groups, &self.slots)?;
        self.options.groups = groups;
        self.write_own()?;
        match self.attached {
            Some(attached) => self.mend(attached.ifindex),
            None => Ok(()),
        }
    }

    /// Puts the ingress program onto the service interface, or onto its successor of the same name if it was made anew,
    /// and learns its Ethernet address. If the program is there already, this changes nothing.
    ///
    /// # Errors
    /// If there is no such interface, if somebody else's program is on it, or if the kernel refuses.
    pub fn attach(&mut self) -> Result<Attached, DataPlaneError> {
        self.attached = None;
        let name = self.options.interface.clone();
        let interface = interfaces::by_name(&name)
            .map_err(|source| DataPlaneError::Netlink {
                attempt: format!("ask for the network interface {name}"),
                source,
            })?
            .ok_or_else(|| DataPlaneError::NoInterface { interface: name.clone() })?;
        if !interface.is_ethernet {
            return Err(DataPlaneError::NotEthernet { interface: name });
        }
        self.fence(&interface)?;
        self.set_nic(Nic { mac: interface.mac.0, ifindex: interface.ifindex, ..self.nic() });
        self.mend(interface.ifindex)?;
        let (mode, adopted) = if self.options.xdp == XdpPreference::PinOnly {
            self.pin_programs()?
        } else {
            self.attach_program(&interface)?
        };
        let attached = Attached { ifindex: interface.ifindex, mac: interface.mac, mode, adopted };
        self.attached = Some(attached);
        Ok(attached)
    }

    fn attach_program(&mut self, interface: &Interface) -> Result<(Mode, bool), DataPlaneError> {
        if let Some(chain) = &self.chain {
            chain.pin(&self.directory)?;
        }
        let program = ingress_program(&mut self.object, self.ingress_program)?;
        let pin = self.directory.entry(INGRESS_PIN);
        let attached = ingress::attach(program, interface, self.options.xdp, &pin)?;
        chain::settle(self.chain.as_mut(), &self.directory)?;
        programs::unpin(&self.directory)?;
        Ok(attached)
    }

    /// For a dispatcher of somebody else's, which calls one of them where it likes.
    fn pin_programs(&mut self) -> Result<(Mode, bool), DataPlaneError> {
        let adopted = programs::pin(&mut self.object, &self.directory)?;
        ingress::detach(&self.directory.entry(INGRESS_PIN))?;
        chain::settle(None, &self.directory)?;
        Ok((Mode::Pinned, adopted))
    }

    /// Where the ingress program is, as of the last [`DataPlane::attach`].
    #[must_use]
    pub fn attached(&self) -> Option<Attached> {
        self.attached
    }

    /// The name of the ingress program that was chosen.
    #[must_use]
    pub fn ingress_program(&self) -> &'static str {
        self.ingress_program
    }

    /// Where the ingress programs are pinned for somebody else's dispatcher.
    #[must_use]
    pub fn pinned_programs(&self) -> Vec<String> {
        match self.attached {
            Some(Attached { mode: Mode::Pinned, .. }) => programs::pins(&self.directory),
            _ => Vec::new(),
        }
    }

    /// The user's program that gets what ours lets pass.
    #[must_use]
    pub fn chained(&self) -> Option<&ChainedProgram> {
        self.chain.as_ref().map(Chain::next)
    }

    /// Takes up what is pinned at the path of the user's program now; `None` if nothing is chained.
    ///
    /// # Errors
    /// If there is no program, or none that the kernel takes; then the one before stays.
    pub fn read_chain_again(&mut self) -> Result<Option<&ChainedProgram>, DataPlaneError> {
        self.chain.as_mut().map(Chain::read_again).transpose()
    }

    /// What the kernel lacks of what the data plane can use, as found by trying, in a sentence each.
    #[must_use]
    pub fn absent_features(&self) -> Vec<String> {
        let frags = self.frags_refused.as_ref().map(|why| {
            format!(
                "the XDP program does not take frames in several buffers ({why}), so native XDP may refuse jumbo frames"
            )
        });
        let clsact = self.options.egress == EgressHook::Auto
            && self.fences.list().any(|fenced| fenced.hook == Hook::Clsact);
        let clsact = clsact.then(|| {
            "the kernel has no TCX (Linux 6.6), so the egress fence is a clsact filter, which a filter of somebody else's \
             that runs earlier can bypass"
                .to_owned()
        });
        frags.into_iter().chain(clsact).collect()
    }

    /// Answers with this Ethernet address from now on, because the interface has changed its own.
    pub fn set_mac(&mut self, mac: Mac) {
        self.set_nic(Nic { mac: mac.0, ..self.nic() });
        if let Some(attached) = &mut self.attached {
            attached.mac = mac;
        }
    }

    /// Says whether this host forwards IPv6 packets that come in by the service interface, as its sysctl `forwarding` has
    /// it. Answers then call it a router: hosts that hear otherwise from one that is would drop it as their
    /// default router (RFC 4861 section 7.2.5).
    pub fn set_forwarding(&mut self, forwards: bool) {
        let flags = if forwards { Nic::FORWARDS } else { 0 };
        self.set_nic(Nic { flags, ..self.nic() });
    }

    /// Asks for neighbours in the name of these addresses of the service link, and of its VLANs, from now on, where the lease
    /// does not allow it to do so in a VIP's; where there is none, it does not ask.
    ///
    /// # Errors
    /// If the kernel refuses.
    pub fn set_own(
        &mut self,
        service: OwnAddresses,
        vlans: HashMap<Vlan, OwnAddresses>,
    ) -> Result<(), DataPlaneError> {
        self.own = (service, vlans);
        self.write_own()
    }

    fn write_own(&mut self) -> Result<(), DataPlaneError> {
        for (group, slot) in self.options.groups.iter().zip(&self.slots) {
            let own = match group.vlan {
                None => self.own.0,
                Some(vlan) => self.own.1.get(&vlan).copied().unwrap_or_default(),
            };
            let ipv4 = own.ipv4.map_or([0; 4], |address| address.octets());
            let ipv6 = own.ipv6.map_or([0; 16], |address| address.octets());
            self.maps.set_own(slot.index(), Own { ipv4, ipv6 })?;
        }
        Ok(())
    }

    /// Puts the egress program onto every Ethernet interface of the namespace.
    ///
    /// # Errors
    /// If the kernel refuses on one of them; the others are fenced all the same.
    pub fn fence_all(&mut self) -> Result<(), DataPlaneError> {
        let interfaces = interfaces::all().map_err(|source| DataPlaneError::Netlink {
            attempt: "list the network interfaces".to_owned(),
            source,
        })?;
        let mut result = Ok(());
        for interface in interfaces.iter().filter(|interface| interface.is_ethernet) {
            match self.fence(interface) {
                // It went away between the list and here.
                Err(_) if interfaces::by_index(interface.ifindex).is_ok_and(|there| there.is_none()) => {}
                fenced => result = result.and(fenced),
            }
        }
        result
    }

    /// Puts the egress program onto an interface, if it is Ethernet and still there; says whether. Doing so again
    /// changes nothing.
    ///
    /// # Errors
    /// If the kernel refuses.
    pub fn fence_interface(&mut self, ifindex: u32) -> Result<bool, DataPlaneError> {
        let interface = interfaces::by_index(ifindex).map_err(|source| DataPlaneError::Netlink {
            attempt: format!("ask for the network interface {ifindex}"),
            source,
        })?;
        match interface {
            Some(interface) if interface.is_ethernet => self.fence(&interface).map(|()| true),
            _ => Ok(false),
        }
    }

    /// Takes the egress program off an interface, or forgets one that is gone.
    ///
    /// # Errors
    /// If the kernel refuses.
    pub fn unfence_interface(&mut self, ifindex: u32) -> Result<(), DataPlaneError> {
        self.fences.take_off(&self.directory, ifindex)
    }

    /// The interfaces that the egress program is on.
    pub fn fenced(&self) -> impl Iterator<Item = &Fenced> {
        self.fences.list()
    }

    /// What each group's packets came to since its slot was made.
    ///
    /// # Errors
    /// If the map cannot be read.
    pub fn counters(&self) -> Result<Vec<GroupCount>, DataPlaneError> {
        self.per_group(|group, counters| {
            let mut verdicts = [0_u64; Verdict::COUNT];
            for cpu in counters {
                for (sum, count) in verdicts.iter_mut().zip(cpu.verdicts) {
                    *sum = sum.wrapping_add(count);
                }
            }
            GroupCount { group, verdicts }
        })
    }

    /// Has each `every`'th frame of the group that concerns a VIP traced for the next [`super::TRACED_FOR`], and gives those
    /// that were since this was last called; `None` if there is no such group. One group is traced at a time.
    ///
    /// # Errors
    /// If a map cannot be read.
    pub fn trace(&mut self, group: GroupId, every: u32, now: Time) -> Result<Option<Trace>, DataPlaneError> {
        let slot = self.groups().find(|(vips, _)| vips.id == group).map(|(_, slot)| slot);
        slot.map(|slot| self.maps.trace.trace(slot, every, now)).transpose()
    }

    /// A peer has this Ethernet address on the service link, and no longer the one before: who says with it that a VIP is
    /// his is no rival.
    ///
    /// # Errors
    /// If the kernel refuses.
    pub fn set_kin(&mut self, was: Option<Mac>, is: Mac) -> Result<(), DataPlaneError> {
        self.maps.set_kin(was, is)
    }

    /// Who was served lately, and who has claimed a VIP after that time.
    ///
    /// # Errors
    /// If the map cannot be read.
    pub fn noted(&self, since: Time) -> Result<Noted, DataPlaneError> {
        let mut newest: HashMap<IpAddr, u64> = HashMap::new();
        let mut claims = Vec::new();
        let passed = self.per_group(|group, counters| {
            let claimed = counters.iter().map(|cpu| cpu.claim).filter(|claim| claim.at > since.as_nanos());
            claims.extend(claimed.map(|claim| Claimed {
                address: match (claim.family, claim.address) {
                    (4, [a, b, c, d, ..]) => IpAddr::from([a, b, c, d]),
                    (_, address) => IpAddr::from(address),
                },
                mac: Mac(claim.mac),
                at: Time::from_nanos(claim.at),
            }));
            let ipv4 = counters.iter().flat_map(|cpu| cpu.served);
            let ipv4 = ipv4.map(|served| (Ipv4Addr::from(served.address).into(), served.at));
            let ipv6 = counters.iter().flat_map(|cpu| cpu.served6);
            let ipv6 = ipv6.map(|served| (Ipv6Addr::from(served.address).into(), served.at));
            for (address, at) in ipv4.chain(ipv6).filter(|(_, at)| *at != 0) {
                let newest = newest.entry(address).or_default();
                *newest = at.max(*newest);
            }
            let of = |verdict: Verdict| counters.iter().map(move |cpu| cpu.verdicts[verdict as usize]);
            (group, of(Verdict::Ipv4Passed).chain(of(Verdict::Ipv6Passed)).fold(0, u64::wrapping_add))
        })?;
        let mut served: Vec<_> = newest
            .into_iter()
            .map(|(address, at)| ServedAddress { address, at: Time::from_nanos(at) })
            .collect();
        served.sort_by_key(|served| (std::cmp::Reverse(served.at), served.address));
        claims.sort_by_key(|claim| claim.at);
        Ok(Noted { served, claims, passed })
    }

    /// Goes dark and removes everything: the ingress program, the maps, then the fences. The VIPs must be off the
    /// interfaces before, because nothing keeps the kernel from answering for them afterwards.
    ///
    /// # Errors
    /// If the kernel refuses; what could be removed is.
    pub fn detach_and_unpin(mut self) -> Result<(), DataPlaneError> {
        for slot in &self.slots {
            self.table.clear(*slot);
        }
        remove_everything(&mut self.mends, &mut self.fences, self.directory)
    }

    fn nic(&self) -> Nic {
        let mut words = [0; NIC_WORDS];
        for (word, shared) in words.iter_mut().zip(self.maps.nic.words()) {
            *word = shared.load(Ordering::SeqCst);
        }
        bytemuck::cast(words)
    }

    fn set_nic(&mut self, nic: Nic) {
        let words: [u64; NIC_WORDS] = bytemuck::cast(nic);
        for (shared, word) in self.maps.nic.words().iter().zip(words) {
            shared.store(word, Ordering::SeqCst);
        }
    }

    fn fence(&mut self, interface: &Interface) -> Result<(), DataPlaneError> {
        let program = classifier(&mut self.object, EGRESS)?;
        self.fences.put_on(program, &self.directory, interface)
    }

    /// Has the program that mends what comes in to virtual Ethernet addresses on the service interface, if there are such
    /// addresses, and nowhere else.
    fn mend(&mut self, service: u32) -> Result<(), DataPlaneError> {
        let is_wanted = self.options.groups.iter().any(|group| group.mac.is_some());
        let there: Vec<u32> = self.mends.list().map(|mended| mended.ifindex).collect();
        for ifindex in there.into_iter().filter(|ifindex| !is_wanted || *ifindex != service) {
            self.mends.take_off(&self.directory, ifindex)?;
        }
        let interface = interfaces::by_index(service).map_err(|source| DataPlaneError::Netlink {
            attempt: format!("ask for the network interface {service}"),
            source,
        })?;
        match interface {
            Some(interface) if is_wanted => {
                let program = classifier(&mut self.object, MEND)?;
                self.mends.put_on(program, &self.directory, &interface)
            }
            _ => Ok(()),
        }
    }

    fn per_group<T>(
        &self,
        mut each: impl FnMut(GroupId, &[GroupCounters]) -> T,
    ) -> Result<Vec<T>, DataPlaneError> {
        self.options
            .groups
            .iter()
            .zip(&self.slots)
            .map(|(group, slot)| {
                let values = self
                    .maps
                    .counters
                    .get(&slot.index(), 0)
                    .map_err(|source| DataPlaneError::Map { attempt: "read", map: COUNTERS, source })?;
                let counters: Vec<GroupCounters> =
                    values.iter().map(|words| bytemuck::cast(*words)).collect();
                Ok(each(group.id, &counters))
            })
            .collect()
    }
}

/// What a daemon that died has left, under its lock, so that no daemon starts meanwhile.
#[derive(Debug)]
pub struct Remains {
    directory: PinDirectory,
    fences: Classifiers,
    mends: Classifiers,
}

/// Locks what a daemon that died has left; `None` if there is nothing.
///
/// # Errors
/// If the daemon is alive, or the process may not.
pub fn lock_remains(pin_root: &Path, cluster: &str, node: &str) -> Result<Option<Remains>, DataPlaneError> {
    check_process()?;
    let directory = PinDirectory::open_existing(pin_root, cluster, node)?;
    let classifiers = |direction| Classifiers::new(direction, EgressHook::Auto, cluster, node);
    Ok(directory.map(|directory| Remains {
        directory,
        fences: classifiers(Direction::Egress),
        mends: classifiers(Direction::Ingress),
    }))
}

impl Remains {
    /// The VIPs that its programs guard.
    ///
    /// # Errors
    /// If the maps cannot be read.
    pub fn vips(&self) -> Result<Vec<IpAddr>, DataPlaneError> {
        maps::pinned_vips(&self.directory)
    }

    /// Removes programs, filters, maps and pins. To be called in the network namespace that the daemon ran in, with the
    /// VIPs off the interfaces.
    ///
    /// # Errors
    /// If the kernel refuses; what could be removed is.
    pub fn remove(mut self) -> Result<(), DataPlaneError> {
        remove_everything(&mut self.mends, &mut self.fences, self.directory)
    }
}

/// Removes what a daemon that died has left. Says whether there was anything. See [`Remains::remove`].
///
/// # Errors
/// If the daemon is alive, or if the kernel refuses.
pub fn cleanup(pin_root: &Path, cluster: &str, node: &str) -> Result<bool, DataPlaneError> {
    let Some(remains) = lock_remains(pin_root, cluster, node)? else { return Ok(false) };
    remains.remove()?;
    Ok(true)
}

fn remove_everything(
    mends: &mut Classifiers,
    fences: &mut Classifiers,
    directory: PinDirectory,
) -> Result<(), DataPlaneError> {
    let detached = ingress::detach(&directory.entry(INGRESS_PIN));
    // The queueing discipline was made for the fence, as a rule, so the fence is the last to leave it.
    let unmended = mends.take_off_all(&directory);
    let unfenced = fences.take_off_all(&directory);
    // The directory says where the filters are, so it stays until they are gone.
    detached.and(unmended).and(unfenced)?;
    directory.remove_all()
}
