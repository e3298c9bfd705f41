//! What a simulation is asked to do, and what it reports.

use std::fmt;
use std::time::Duration;

use crate::settings::Quorum;

/// Voters in a cluster, at most.
const MAX_VOTERS: usize = 9;

/// What to simulate. Equal options give equal runs.
#[derive(Clone, Debug)]
pub struct Options {
    /// Everything that is left to chance follows from it.
    pub seed: u64,
    /// What goes wrong.
    pub profile: Profile,
    /// How many nodes, 1 to 32.
    pub nodes: usize,
    /// How many witnesses: voters without a service link, which no group prefers.
    pub witnesses: usize,
    /// How many of the nodes, the last ones, have no vote. There are never more than nine voters.
    pub non_voters: usize,
    /// How many groups there are, at most [`crate::wire::MAX_GROUPS`]. `None`: the seed decides, from one to three.
    pub groups: Option<usize>,
    /// How many votes a lease takes. `None`: the seed decides for a pair, and it is the majority for more.
    pub quorum: Option<Quorum>,
    /// How long things go wrong, in heartbeat intervals; the quiet time after it is added.
    pub heartbeats: u32,
    /// A bug planted between the core and its host, for the tests of the tests.
    pub planted: Option<Planted>,
    /// A rule whose violations are let pass, to see whether another catches the same bug.
    pub unchecked: Option<Rule>,
}

impl Options {
    /// A short run of two nodes with everything right about the driver.
    #[must_use]
    pub fn new(seed: u64, profile: Profile) -> Self {
        Self {
            seed,
            profile,
            nodes: 2,
            witnesses: 0,
            non_voters: 0,
            groups: None,
            quorum: Some(Quorum::Off),
            heartbeats: 120,
            planted: None,
            unchecked: None,
        }
    }

    /// A short run of so many nodes and witnesses that decide by majority.
    #[must_use]
    pub fn majority(seed: u64, profile: Profile, nodes: usize, witnesses: usize) -> Self {
        Self { nodes, witnesses, quorum: Some(Quorum::Majority), ..Self::new(seed, profile) }
    }

    /// Nodes and witnesses; the witnesses come last.
    pub(super) fn hosts(&self) -> usize {
        self.nodes + self.witnesses
    }

    pub(super) fn is_witness(&self, host: usize) -> bool {
        host >= self.nodes
    }

    /// Whether a host's promises count.
    pub(super) fn votes(&self, host: usize) -> bool {
        let among_nodes =
            MAX_VOTERS.saturating_sub(self.witnesses).min(self.nodes.saturating_sub(self.non_voters));
        self.is_witness(host) || host < among_nodes
    }

    /// How many voters there are.
    pub(super) fn voters(&self) -> usize {
        (0..self.hosts()).filter(|&host| self.votes(host)).count()
    }

    /// How many voters are more than half.
    pub(super) fn enough(&self) -> usize {
        self.voters() / 2 + 1
    }

    /// The arguments of `cargo xtask sim` that repeat the run.
    #[must_use]
    pub fn arguments(&self) -> String {
        let Self { seed, profile, nodes, witnesses, non_voters, heartbeats, .. } = self;
        let quorum = match self.quorum {
            Some(Quorum::Off) => "off",
            Some(Quorum::Majority) => "majority",
            None => "drawn",
        };
        let groups = self.groups.map(|groups| format!(" --groups {groups}")).unwrap_or_default();
        format!(
            "--replay {seed} --profile {profile} --nodes {nodes} --witnesses {witnesses} --non-voters {non_voters} \
             --quorum {quorum} --heartbeats {heartbeats}{groups}"
        )
    }

    /// What the environment has to say of witnesses, votes and quorum where they are not the usual ones.
    fn variables(&self) -> String {
        let mut words = String::new();
        if self.witnesses > 0 {
            words += &format!(" CLUSTER_SIM_WITNESSES={}", self.witnesses);
        }
        if self.non_voters > 0 {
            words += &format!(" CLUSTER_SIM_NON_VOTERS={}", self.non_voters);
        }
        if let Some(groups) = self.groups {
            words += &format!(" CLUSTER_SIM_GROUPS={groups}");
        }
        match self.quorum {
            Some(Quorum::Off) => {}
            Some(Quorum::Majority) => words += " CLUSTER_SIM_QUORUM=majority",
            None => words += " CLUSTER_SIM_QUORUM=drawn",
        }
        words
    }

    pub(super) fn is_pair(&self) -> bool {
        self.hosts() <= 2
    }
}

/// What goes wrong.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Profile {
    /// Nothing, and nobody commands anything: no role may change once somebody serves.
    Calm,
    /// A passive node's daemon is killed and started again: nothing may come of it.
    PassiveRestarts,
    /// Datagrams are lost in bursts, delayed, doubled and reordered.
    Loss,
    /// Paths are cut, one way or both, for heartbeats alone or with the service link.
    Cuts,
    /// The cluster falls into sets that do not reach each other; random pairs lose one direction; a node hears nobody, or
    /// nobody hears it.
    Partitions,
    /// Processes are stopped and stalled.
    Pauses,
    /// Daemons are killed and hosts lose power, with or without their disks.
    Crashes,
    /// Links lose their carrier or vanish; addresses and disks fail.
    Hosts,
    /// Operators are busy.
    Commands,
    /// The holder is lost once, after a quiet time: the other must serve in time.
    HolderLost,
    /// The tightest timings that the rules allow, clocks as far apart, slow ways; a holder is stopped or killed and cut
    /// off in the same moment.
    Edges,
    /// All of it.
    Mixed,
    /// Nodes read new files one after the other, with other voters and timings in them, while things go wrong.
    Reloads,
    /// Daemons are replaced in place, the holder's as well as others', and come back in time: nothing may come of it.
    Restarts,
    /// Daemons are replaced in place while other things go wrong, and some never come back.
    FailedRestarts,
    /// Nodes read new files in which all timings are others, and in which groups and nodes without a vote come and go.
    Timings,
    /// Two nodes whose groups have a gateway, which each of them reaches or does not, while the other is lost or cut off.
    Gateway,
    /// A third of the nodes are spares that take two groups each, and the groups are placed over the others: hosts are lost.
    Spares,
}

impl Profile {
    /// All profiles.
    pub const ALL: [Self; 18] = [
        Self::Calm,
        Self::PassiveRestarts,
        Self::Loss,
        Self::Cuts,
        Self::Partitions,
        Self::Pauses,
        Self::Crashes,
        Self::Hosts,
        Self::Commands,
        Self::HolderLost,
        Self::Edges,
        Self::Mixed,
        Self::Reloads,
        Self::Restarts,
        Self::FailedRestarts,
        Self::Timings,
        Self::Gateway,
        Self::Spares,
    ];

    /// Whether nodes read new files.
    pub(super) fn reloads(self) -> bool {
        matches!(self, Self::Reloads | Self::Timings)
    }

    /// The profile of that name, as [`fmt::Display`] writes it.
    #[must_use]
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|profile| profile.to_string() == name)
    }
}

impl fmt::Display for Profile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Calm => "calm",
            Self::PassiveRestarts => "passive-restarts",
            Self::Loss => "loss",
            Self::Cuts => "cuts",
            Self::Partitions => "partitions",
            Self::Pauses => "pauses",
            Self::Crashes => "crashes",
            Self::Hosts => "hosts",
            Self::Commands => "commands",
            Self::HolderLost => "holder-lost",
            Self::Edges => "edges",
            Self::Mixed => "mixed",
            Self::Reloads => "reloads",
            Self::Restarts => "restarts",
            Self::FailedRestarts => "failed-restarts",
            Self::Timings => "timings",
            Self::Gateway => "gateway",
            Self::Spares => "spares",
        })
    }
}

/// A bug in the simulated driver. The core is the shipped one.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Planted {
    /// Leases written into the map last D longer than the core says.
    LongLeases,
    /// A lease that has run out in the map is written again by the driver when it wakes.
    LapsedLeasesRenewed,
    /// Each heartbeat counts as acknowledged, with the votes it asks for.
    UnacknowledgedRenewal,
    /// Leases count from when they are written, not from when the acknowledged heartbeat was sent.
    TimeTakenLate,
    /// The map is not cleared when the core says so.
    DarkIgnored,
    /// A restarted daemon tells its core that it has been running for long.
    PromisesForgotten,
    /// Reservations of epochs are confirmed but not written.
    DiskLies,
    /// Acknowledgements carry votes for everything that their receiver asked for, whatever the core has promised.
    VotesForAll,
    /// No message carries votes, whatever the core has promised, while something is wrong.
    VotesWithheld,
    /// Leases written into the map last as long as the promises they rest on: D.
    LeaseAsLongAsPromise,
    /// Acknowledgements count for the newest heartbeat, whichever they answer.
    StaleCounted,
    /// A node that reads a new file forgets that there were other voters before.
    NaiveReload,
    /// What must not be forgotten is confirmed but not written.
    MemoryLies,
    /// Messages tell the usual lease while the one in the map is longer.
    LongLeaseUntold,
    /// Cores are not told how many groups they may take.
    CapacityForgotten,
    /// The gateway's answers arrive although it cannot be reached.
    GatewayForged,
}

/// One of the rules that are checked after every step.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Rule {
    /// At most one holder.
    OneHolder,
    /// A stalled node is a dark node.
    StalledIsDark,
    /// Somebody serves.
    SomebodyServes,
    /// The map follows the core; epochs are unique.
    MapFollows,
    /// No move without a cause.
    NoMove,
    /// No node takes more groups than it may.
    Capacity,
    /// Members of an active/active group go by one table.
    OneTable,
    /// Bounded effects, no spinning.
    Bounded,
}

/// What happened in a run, so that tests can see that it exercised what it claims.
#[derive(Clone, Debug, Default)]
pub struct Report {
    /// Events of the simulation.
    pub steps: u64,
    /// Simulated time.
    pub simulated: Duration,
    /// Datagrams sent.
    pub sent: u64,
    /// Datagrams lost on the way or for want of room.
    pub lost: u64,
    /// Datagrams that a core took at their word.
    pub believed: u64,
    /// Tables of active/active groups that nodes went over to.
    pub tables: u64,
    /// Leases written.
    pub leases: u64,
    /// Tenures begun.
    pub tenures: u64,
    /// Tenures begun on another node than the one before.
    pub failovers: u64,
    /// Times that two maps held a valid lease where the rules allow it: no heartbeat passed.
    pub overlaps: u64,
    /// Leases that ran out while their holder was there.
    pub lapses: u64,
    /// Lapsed leases renewed in the same epoch.
    pub regained: u64,
    /// Two holders met.
    pub dual_holders: u64,
    /// Planned hand-overs begun.
    pub handovers: u64,
    /// Holders that went on without their peers.
    pub alone: u64,
    /// Takes that were given up since somebody answered for the VIP.
    pub probes_answered: u64,
    /// Leases adopted by a restarted daemon.
    pub adopted: u64,
    /// Times that a core was told that it had overslept.
    pub overslept: u64,
    /// Datagrams that were dropped as replayed, forged or old.
    pub rejected: u64,
    /// New files gone over to.
    pub reloads: u64,
    /// Daemons replaced in place.
    pub replaced: u64,
    /// Of these, holders.
    pub holders_replaced: u64,
    /// Verdicts on a cut service link.
    pub service_cuts: u64,
    /// Times that nothing had changed for so long, while something was wrong, that somebody had to serve.
    pub quiet: u64,
    /// Commands carried out.
    pub done: u64,
    /// Commands refused.
    pub refused: u64,
    /// With [`Profile::HolderLost`]: from the loss until the other's lease was written.
    pub outage: Option<Duration>,
}

impl Report {
    /// Adds the counts of another run.
    pub fn add(&mut self, other: &Self) {
        self.steps += other.steps;
        self.simulated += other.simulated;
        self.sent += other.sent;
        self.lost += other.lost;
        self.believed += other.believed;
        self.tables += other.tables;
        self.leases += other.leases;
        self.tenures += other.tenures;
        self.failovers += other.failovers;
        self.overlaps += other.overlaps;
        self.lapses += other.lapses;
        self.regained += other.regained;
        self.dual_holders += other.dual_holders;
        self.handovers += other.handovers;
        self.alone += other.alone;
        self.probes_answered += other.probes_answered;
        self.adopted += other.adopted;
        self.overslept += other.overslept;
        self.rejected += other.rejected;
        self.reloads += other.reloads;
        self.replaced += other.replaced;
        self.holders_replaced += other.holders_replaced;
        self.service_cuts += other.service_cuts;
        self.quiet += other.quiet;
        self.done += other.done;
        self.refused += other.refused;
        self.outage = self.outage.max(other.outage);
    }
}

/// A rule that was broken, and how to see it again.
#[derive(Clone, Debug)]
pub struct Violation {
    /// The run.
    pub options: Options,
    /// Which rule.
    pub rule: Rule,
    /// The step at which it was noticed.
    pub step: u64,
    /// True time since the start of the simulation.
    pub at: Duration,
    /// What is wrong.
    pub what: String,
    /// What is left of the faults once those that are not needed for the violation are dropped.
    pub faults: Vec<String>,
    /// The last steps before it.
    pub timeline: Vec<String>,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { options, rule, step, at, what, faults, timeline } = self;
        for line in timeline {
            writeln!(f, "  {line}")?;
        }
        writeln!(f, "faults that are needed:")?;
        for fault in faults {
            writeln!(f, "  {fault}")?;
        }
        let (seed, profile) = (options.seed, options.profile);
        writeln!(f, "{rule:?} broken by seed {seed}, profile {profile}, step {step}, at {at:?}: {what}")?;
        write!(
            f,
            "replay: CLUSTER_SIM_SEED={seed} CLUSTER_SIM_PROFILE={profile} CLUSTER_SIM_HEARTBEATS={} CLUSTER_SIM_NODES={}{} cargo test -p \
             cluster-proto --test simulation replay -- --nocapture",
            options.heartbeats,
            options.nodes,
            options.variables()
        )?;
        write!(f, "\n    or: cargo xtask sim {}", options.arguments())
    }
}

impl std::error::Error for Violation {}
