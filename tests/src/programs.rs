//! BPF programs without a data plane around them: loaded with maps of their own, and run on one frame at a time by
//! `BPF_PROG_TEST_RUN`.

use std::net::Ipv4Addr;
use std::time::Duration;

use anyhow::{Context as _, Result, anyhow};
use aya::maps::{Array, HashMap, MapData, PerCpuArray};
use aya::programs::{Program, TestRun, TestRunOptions};
use aya::{Ebpf, EbpfLoader};
use cluster_common::Verdict;
use cluster_common::maps::{COUNTERS, FILTER, GroupCounters, LEASES, NIC, Nic, VIPS, VipEntry, filter_place};

/// Words of one [`GroupCounters`].
const COUNTER_WORDS: usize = size_of::<GroupCounters>() / size_of::<u64>();

/// The programs of one object, with maps that no other object shares.
#[derive(Debug)]
pub struct Programs {
    object: Ebpf,
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
        Ok(Self { object })
    }

    /// Makes an address the VIP of a group.
    ///
    /// # Errors
    /// If the kernel refuses.
    pub fn set_vip(&mut self, address: Ipv4Addr, prefix: u32, group: u32) -> Result<()> {
        let mask = u32::MAX.checked_shl(32 - prefix).unwrap_or(0).to_be_bytes();
        let map = self.object.map_mut(FILTER).ok_or_else(|| anyhow!("no map {FILTER}"))?;
        let mut filter: Array<&mut MapData, u64> = map.try_into()?;
        let (word, bit) = filter_place(address.octets());
        filter.set(word, filter.get(&word, 0)? | bit, 0)?;
        let map = self.object.map_mut(VIPS).ok_or_else(|| anyhow!("no map {VIPS}"))?;
        let mut vips: HashMap<&mut MapData, [u8; 4], [u8; 8]> = map.try_into()?;
        Ok(vips.insert(address.octets(), bytemuck::cast::<_, [u8; 8]>(VipEntry { group, mask }), 0)?)
    }

    /// Says until when a group is held, in nanoseconds of the boot clock; 0 is not at all.
    ///
    /// # Errors
    /// If the kernel refuses.
    pub fn set_lease(&mut self, group: u32, until: u64) -> Result<()> {
        let map = self.object.map_mut(LEASES).ok_or_else(|| anyhow!("no map {LEASES}"))?;
        let mut leases: Array<&mut MapData, u64> = map.try_into()?;
        Ok(leases.set(group, until, 0)?)
    }

    /// Says which Ethernet address the network card has.
    ///
    /// # Errors
    /// If the kernel refuses.
    pub fn set_mac(&mut self, mac: [u8; 6]) -> Result<()> {
        let map = self.object.map_mut(NIC).ok_or_else(|| anyhow!("no map {NIC}"))?;
        let mut nic: Array<&mut MapData, u64> = map.try_into()?;
        Ok(nic.set(0, bytemuck::cast::<_, u64>(Nic { mac, unused: [0; 2] }), 0)?)
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
            Some(Program::SchedClassifier(program)) => program.test_run(options),
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
    pub fn served(&self, group: u32) -> Result<Vec<[u8; 4]>> {
        let counters = self.counters(group)?;
        let places = counters.iter().flat_map(|cpu| cpu.served);
        Ok(places.filter(|served| served.at != 0).map(|served| served.address).collect())
    }

    fn counters(&self, group: u32) -> Result<Vec<GroupCounters>> {
        let map = self.object.map(COUNTERS).ok_or_else(|| anyhow!("no map {COUNTERS}"))?;
        let counters: PerCpuArray<&MapData, [u64; COUNTER_WORDS]> = map.try_into()?;
        Ok(counters.get(&group, 0)?.iter().map(|words| bytemuck::cast(*words)).collect())
    }
}
