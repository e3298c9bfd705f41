//! BPF programs without a data plane around them: loaded with maps of their own, and run on one frame at a time by
//! `BPF_PROG_TEST_RUN`.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::Duration;

use anyhow::{Context as _, Result, anyhow};
use aya::maps::{Array, HashMap, Map, MapData, PerCpuArray, PerCpuValues, RingBuf};
use aya::programs::{Program, TestRun, TestRunOptions};
use aya::util::nr_cpus;
use aya::{Ebpf, EbpfLoader};
use cluster_common::maps::{
    CACHE, CACHE6, COUNTERS, CachedVip, CachedVip6, Claim, FACES, FILTER, Face, Faces, GRACES, Grace,
    GroupCounters, KIN, KIN_KEY, LEASES, MAX_GROUPS, MAX_MEMBERS, NIC, Nic, OWN, Own, SpreadTable, TABLES,
    TRACE, TRACING, Traced, Tracing, VIPS, VIPS6, VIRTUAL_MAC_OWNERS, Vip6Entry, VipEntry, cache_place,
    filter_place, vip_hash, vip_hash6, virtual_mac_place, vlan_tags,
};
use cluster_common::{Verdict, reference};

/// The network card of most tests: interface 1, which does not forward.
pub const NETWORK_CARD: Nic = Nic { mac: [2, 0, 0, 0, 0, 0x0a], flags: 0, unused: 0, ifindex: 1, unused2: 0 };

/// Words of one [`GroupCounters`].
const COUNTER_WORDS: usize = size_of::<GroupCounters>() / size_of::<u64>();

/// Words of a question as the benchmark's programs want it; the frame begins with the third byte of the first.
const QUESTION_WORDS: usize = 22;

/// A question as the benchmark's programs want it.
pub type Question = [u32; QUESTION_WORDS];

/// The frame as such a question.
#[must_use]
pub fn question_words(frame: &[u8]) -> Question {
    let mut words = [0; QUESTION_WORDS];
    let mut bytes = [0; 2].iter().chain(frame);
    for word in &mut words {
        *word = u32::from_ne_bytes(std::array::from_fn(|_| bytes.next().copied().unwrap_or(0)));
    }
    words
}

/// The programs of one object, with maps that no other object shares.
#[derive(Debug)]
pub struct Programs {
    object: Ebpf,
    came_in_by: u32,
}

/// What a program made of a frame.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Ran {
    /// What the program returned.
    pub action: u32,
    /// The frame afterwards.
    pub frame: Vec<u8>,
    /// How long one run took, as the kernel measured it: the mean over all repeats, in whole nanoseconds.
    pub duration: Duration,
}

impl Programs {
    /// Loads all programs of the object.
    ///
    /// # Errors
    /// If the kernel refuses one of them.
    pub fn load(object: &[u8]) -> Result<Self> {
        let mut object = EbpfLoader::new().btf(None).load(object).context("loading the object")?;
        for (name, program) in object.programs_mut() {
            match program {
                Program::Xdp(program) => program.load(),
                Program::SchedClassifier(program) => program.load(),
                _ => continue,
            }
            .with_context(|| format!("loading the program {name}"))?;
        }
        Ok(Self { object, came_in_by: 0 })
    }

    /// How many instructions the kernel's verifier looked at for each program, each as often as it came by.
    ///
    /// # Errors
    /// If the kernel does not say.
    pub fn looked_at(&self) -> Result<Vec<(String, u32)>> {
        let mut counts = Vec::new();
        for (name, program) in self.object.programs() {
            let info = program.info().with_context(|| format!("asking about the program {name}"))?;
            let count =
                info.verified_instruction_count().context("this kernel does not count (before 5.16)")?;
            counts.push((name.to_owned(), count));
        }
        Ok(counts)
    }

    /// Makes an address the VIP of a group, on no VLAN.
    ///
    /// # Errors
    /// If the kernel refuses.
    pub fn set_vip(&mut self, address: IpAddr, prefix: u32, group: u32) -> Result<()> {
        self.set_vip_on((0, 0), address, prefix, group)
    }

    /// Makes an address the VIP of a group, on the VLAN of this outer identifier and this inner one.
    ///
    /// # Errors
    /// If the kernel refuses.
    pub fn set_vip_on(
        &mut self,
        (outer, inner): (u16, u16),
        address: IpAddr,
        prefix: u32,
        group: u32,
    ) -> Result<()> {
        let tags = vlan_tags(outer, inner);
        let hash = match address {
            IpAddr::V4(address) => vip_hash(address.octets()),
            IpAddr::V6(address) => vip_hash6(bytemuck::cast(address.octets())),
        };
        let (word, bit) = filter_place(hash);
        let mut filter: Array<&mut MapData, u64> = self.map_mut(FILTER)?.try_into()?;
        filter.set(word, filter.get(&word, 0)? | bit, 0)?;
        match address {
            IpAddr::V4(address) => {
                let mask = u32::MAX.checked_shl(32 - prefix).unwrap_or(0).to_be_bytes();
                let entry = VipEntry { group, mask, tags };
                let mut cache: Array<&mut MapData, [u64; 3]> = self.map_mut(CACHE)?.try_into()?;
                let cached = CachedVip { used: 1, address: address.octets(), entry, unused: 0 };
                cache.set(cache_place(hash), bytemuck::cast::<_, [u64; 3]>(cached), 0)?;
                let entry: [u8; 12] = bytemuck::cast(entry);
                let mut vips: HashMap<&mut MapData, [u8; 4], [u8; 12]> = self.map_mut(VIPS)?.try_into()?;
                vips.insert(address.octets(), entry, 0)?;
            }
            IpAddr::V6(address) => {
                let mask = u128::MAX.checked_shl(128 - prefix).unwrap_or(0).to_be_bytes();
                let entry = Vip6Entry { group, mask, tags };
                let mut cache: Array<&mut MapData, [u64; 6]> = self.map_mut(CACHE6)?.try_into()?;
                let cached = CachedVip6 { used: 1, unused: 0, address: address.octets(), entry };
                cache.set(cache_place(hash), bytemuck::cast::<_, [u64; 6]>(cached), 0)?;
                let entry: [u8; 24] = bytemuck::cast(entry);
                let mut vips: HashMap<&mut MapData, [u8; 16], [u8; 24]> = self.map_mut(VIPS6)?.try_into()?;
                vips.insert(address.octets(), entry, 0)?;
            }
        }
        Ok(())
    }

    /// Says until when a group is held, in nanoseconds of the boot clock; 0 is not at all.
    ///
    /// # Errors
    /// If the kernel refuses.
    pub fn set_lease(&mut self, group: u32, until: u64) -> Result<()> {
        let mut leases: Array<&mut MapData, u64> = self.map_mut(LEASES)?.try_into()?;
        Ok(leases.set(group, until, 0)?)
    }

    /// Says that a group is being handed over until then, in nanoseconds of the boot clock.
    ///
    /// # Errors
    /// If the kernel refuses.
    pub fn set_grace(&mut self, group: u32, until: u64, grace: reference::Grace) -> Result<()> {
        let side = match grace.side {
            reference::Side::New => Grace::NEW,
            reference::Side::Old => Grace::OLD,
        };
        let words: [u64; 2] = bytemuck::cast(Grace { until, other: grace.other, side });
        let mut graces: Array<&mut MapData, [u64; 2]> = self.map_mut(GRACES)?.try_into()?;
        Ok(graces.set(group, words, 0)?)
    }

    /// Has a group's flows go by a table until then, in nanoseconds of the boot clock.
    ///
    /// # Errors
    /// If the kernel refuses.
    pub fn set_spread(
        &mut self,
        group: u32,
        until: u64,
        number: u32,
        spread: &reference::Spread,
    ) -> Result<()> {
        let mut words = vec![0_u8; size_of::<SpreadTable>()];
        let padded = |mac: [u8; 6]| [mac[0], mac[1], mac[2], mac[3], mac[4], mac[5], 0, 0];
        words[..4].copy_from_slice(&(group + 1).to_ne_bytes());
        words[4] = u8::try_from(spread.me)?;
        words[5] = spread.by_source.into();
        words[24..32].copy_from_slice(&spread.seed.to_ne_bytes());
        words[32..40].copy_from_slice(&padded(spread.marks[0]));
        words[40..48].copy_from_slice(&padded(spread.marks[1]));
        for (place, mac) in spread.members.iter().enumerate() {
            words[48 + 8 * place..56 + 8 * place].copy_from_slice(&padded(mac.unwrap_or_default()));
        }
        let buckets = &mut words[48 + 8 * MAX_MEMBERS..];
        for (bucket, (first, second)) in buckets.as_chunks_mut::<2>().0.iter_mut().zip(&spread.buckets) {
            *bucket = [u8::try_from(*first)?, u8::try_from(*second)?];
        }
        let table: [u8; size_of::<SpreadTable>()] =
            words.try_into().map_err(|_| anyhow!("a table of another length"))?;
        let mut tables: Array<&mut MapData, [u8; size_of::<SpreadTable>()]> =
            self.map_mut(TABLES)?.try_into()?;
        tables.set(number, table, 0)?;
        let [a, b, c, d] = number.to_ne_bytes();
        let words: [u64; 2] = bytemuck::cast(Grace {
            until,
            other: [a, b, c, d, spread.gave_up.into(), 0],
            side: Grace::MEMBER,
        });
        let mut graces: Array<&mut MapData, [u64; 2]> = self.map_mut(GRACES)?.try_into()?;
        Ok(graces.set(group, words, 0)?)
    }

    /// Says which addresses are the node's own.
    ///
    /// # Errors
    /// If the kernel refuses.
    pub fn set_own(&mut self, ipv4: Ipv4Addr, ipv6: Ipv6Addr) -> Result<()> {
        let bytes: [u8; 20] = bytemuck::cast(Own { ipv4: ipv4.octets(), ipv6: ipv6.octets() });
        let mut own: Array<&mut MapData, [u8; 20]> = self.map_mut(OWN)?.try_into()?;
        (0..MAX_GROUPS).try_for_each(|group| Ok(own.set(group, bytes, 0)?))
    }

    /// Says which network card the programs answer for. Programs run here see frames leave by interface 1.
    ///
    /// # Errors
    /// If the kernel refuses.
    pub fn set_nic(&mut self, nic: Nic) -> Result<()> {
        let mut map: Array<&mut MapData, [u64; 2]> = self.map_mut(NIC)?.try_into()?;
        Ok(map.set(0, bytemuck::cast::<_, [u64; 2]>(nic), 0)?)
    }

    /// Gives a group virtual Ethernet addresses, or takes them away.
    ///
    /// # Errors
    /// If the kernel refuses.
    pub fn set_virtual_mac(&mut self, group: u32, number: u8, is_owned: bool) -> Result<()> {
        let macs = [[0, 0, 0x5e, 0, 1, number], [0, 0, 0x5e, 0, 2, number]];
        let face = |mac| if is_owned { Face { mac, unused: [0; 2] } } else { Face::default() };
        let faces: [u64; 2] = bytemuck::cast(Faces { ipv4: face(macs[0]), ipv6: face(macs[1]) });
        let mut map: Array<&mut MapData, [u64; 2]> = self.map_mut(FACES)?.try_into()?;
        map.set(group, faces, 0)?;
        let mut map: Array<&mut MapData, u64> = self.map_mut(VIRTUAL_MAC_OWNERS)?.try_into()?;
        for place in macs.into_iter().filter_map(|mac| virtual_mac_place(bytemuck::cast(mac))) {
            map.set(place, if is_owned { u64::from(group) + 1 } else { 0 }, 0)?;
        }
        Ok(())
    }

    /// Says which Ethernet addresses the cluster's other nodes have.
    ///
    /// # Errors
    /// If the kernel refuses.
    pub fn set_kin(&mut self, macs: &[[u8; 6]]) -> Result<()> {
        let mut kin: HashMap<&mut MapData, [u8; KIN_KEY], u8> = self.map_mut(KIN)?.try_into()?;
        for [a, b, c, d, e, f] in macs {
            kin.insert([*a, *b, *c, *d, *e, *f, 0, 0], 1, 0)?;
        }
        Ok(())
    }

    /// Says by which interface frames that leave from now on came into this host; 0 if they were made here.
    pub fn set_came_in_by(&mut self, ifindex: u32) {
        self.came_in_by = ifindex;
    }

    /// Has frames of a group traced until then, in nanoseconds of the boot clock, each `every`'th; 0 ends it.
    ///
    /// # Errors
    /// If the kernel refuses.
    pub fn set_tracing(&mut self, group: u32, every: u32, until: u64) -> Result<()> {
        let words: [u64; 2] = bytemuck::cast(Tracing { group, every, until });
        let mut tracing: Array<&mut MapData, [u64; 2]> = self.map_mut(TRACING)?.try_into()?;
        Ok(tracing.set(0, words, 0)?)
    }

    /// Says which question a benchmark's programs make of frames.
    ///
    /// # Errors
    /// If the kernel refuses, or the object has no such programs.
    pub fn set_question(&mut self, frame: &[u8]) -> Result<()> {
        let mut questions: Array<&mut MapData, Question> = self.map_mut("question")?.try_into()?;
        Ok(questions.set(0, question_words(frame), 0)?)
    }

    /// The frames that were traced since this was last asked.
    ///
    /// # Errors
    /// If the kernel refuses, or a record has another length than it should.
    pub fn traced(&mut self) -> Result<Vec<Traced>> {
        let mut ring: RingBuf<&mut MapData> = self.map_mut(TRACE)?.try_into()?;
        let mut traced = Vec::new();
        while let Some(record) = ring.next() {
            traced.push(
                bytemuck::try_pod_read_unaligned(&record).map_err(|error| anyhow!("a record: {error}"))?,
            );
        }
        Ok(traced)
    }

    /// Runs a program on a frame, `repeat` times over; edits stay from one time to the next.
    ///
    /// # Errors
    /// If there is no such program, or the kernel refuses the frame.
    pub fn run(&self, program: &str, frame: &[u8], repeat: u32) -> Result<Ran> {
        let mut after = vec![0; frame.len() + 64];
        let options = TestRunOptions {
            data_in: Some(frame),
            data_out: Some(&mut after),
            repeat,
            ..TestRunOptions::default()
        };
        let ran = match self.object.program(program) {
            Some(Program::Xdp(program)) => program.test_run(options),
            Some(Program::SchedClassifier(program)) => {
                // struct __sk_buff (linux/bpf.h): its tenth word is `ingress_ifindex`.
                let mut context = [0_u8; 40];
                context[36..].copy_from_slice(&self.came_in_by.to_ne_bytes());
                program.test_run(TestRunOptions { ctx_in: Some(&context), ..options })
            }
            _ => return Err(anyhow!("the object has no program {program}")),
        }
        .with_context(|| format!("running {program} on {} bytes", frame.len()))?;
        after.truncate(ran.data_size_out as usize);
        Ok(Ran { action: ran.return_value, frame: after, duration: ran.duration })
    }

    /// What a group's packets came to, over all CPUs.
    ///
    /// # Errors
    /// If the kernel refuses.
    pub fn verdicts(&self, group: u32) -> Result<[u64; Verdict::COUNT]> {
        let mut sums = [0; Verdict::COUNT];
        for cpu in self.counters(group)? {
            for (sum, count) in sums.iter_mut().zip(cpu.verdicts) {
                *sum += count;
            }
        }
        Ok(sums)
    }

    /// The addresses noted as served for a group, on all CPUs.
    ///
    /// # Errors
    /// If the kernel refuses.
    pub fn served(&self, group: u32) -> Result<Vec<IpAddr>> {
        let counters = self.counters(group)?;
        let ipv4 = counters.iter().flat_map(|cpu| cpu.served).filter(|served| served.at != 0);
        let ipv6 = counters.iter().flat_map(|cpu| cpu.served6).filter(|served| served.at != 0);
        let ipv4 = ipv4.map(|served| IpAddr::from(Ipv4Addr::from(served.address)));
        Ok(ipv4.chain(ipv6.map(|served| Ipv6Addr::from(served.address).into())).collect())
    }

    /// The claims of strangers noted for a group, on each CPU the latest: of which VIP, from which Ethernet address.
    ///
    /// # Errors
    /// If the kernel refuses.
    pub fn claims(&self, group: u32) -> Result<Vec<(IpAddr, [u8; 6])>> {
        let claims = self.counters(group)?.into_iter().map(|cpu| cpu.claim).filter(|claim| claim.at != 0);
        let address = |claim: &Claim| match (claim.family, claim.address) {
            (4, [a, b, c, d, ..]) => IpAddr::from([a, b, c, d]),
            (_, address) => IpAddr::from(address),
        };
        Ok(claims.map(|claim| (address(&claim), claim.mac)).collect())
    }

    /// Makes a group's counters zero and forgets whom it has served and who has claimed what.
    ///
    /// # Errors
    /// If the kernel refuses.
    pub fn reset_counters(&mut self, group: u32) -> Result<()> {
        let zeroes = vec![[0; COUNTER_WORDS]; nr_cpus().map_err(|(_, error)| error)?];
        let mut counters: PerCpuArray<&mut MapData, [u64; COUNTER_WORDS]> =
            self.map_mut(COUNTERS)?.try_into()?;
        Ok(counters.set(group, PerCpuValues::try_from(zeroes)?, 0)?)
    }

    fn map_mut(&mut self, name: &str) -> Result<&mut Map> {
        self.object.map_mut(name).ok_or_else(|| anyhow!("no map {name}"))
    }

    fn counters(&self, group: u32) -> Result<Vec<GroupCounters>> {
        let map = self.object.map(COUNTERS).ok_or_else(|| anyhow!("no map {COUNTERS}"))?;
        let counters: PerCpuArray<&MapData, [u64; COUNTER_WORDS]> = map.try_into()?;
        Ok(counters.get(&group, 0)?.iter().map(|words| bytemuck::cast(*words)).collect())
    }
}
