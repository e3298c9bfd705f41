//! What a seed means: the cluster, its clocks and timings, and what goes wrong when. Drawn before the run, so that a
//! run can be repeated with less going wrong.

use std::net::Ipv4Addr;
use std::time::Duration;

use crate::GroupIndex;
use crate::identity::{ClusterId, GroupId, Mac, NodeId};
use crate::interface::Command;
use crate::settings::{AnnounceSchedule, Failback, Group, Key, Path, Peer, Quorum, Settings, Timing};

use super::clock::{MICROSECOND, MILLISECOND, SECOND, TrueTime};
use super::options::{Options, Profile};
use super::random::Random;

/// Everything that is drawn beforehand.
#[derive(Clone, Debug)]
pub(super) struct Plan {
    pub(super) timing: Timing,
    pub(super) groups: Vec<Group>,
    pub(super) hosts: Vec<HostPlan>,
    /// For each path whether it runs over the service link.
    pub(super) paths: Vec<bool>,
    pub(super) quality: Quality,
    pub(super) driver: DriverPlan,
    pub(super) troubles: Vec<Trouble>,
    /// From here on somebody must have served.
    pub(super) warm_at: TrueTime,
    /// From here on everything is as it should be.
    pub(super) heal_at: TrueTime,
    /// From here on exactly one node serves, and nothing moves.
    pub(super) settled_at: TrueTime,
    pub(super) end: TrueTime,
}

#[derive(Clone, Copy, Debug)]
pub(super) struct HostPlan {
    pub(super) drift: i64,
    pub(super) clock_at_boot: u64,
    pub(super) starts_at: TrueTime,
}

/// How the network treats datagrams while things go wrong.
#[derive(Clone, Copy, Debug)]
pub(super) struct Quality {
    pub(super) delay: TrueTime,
    pub(super) jitter: TrueTime,
    /// Chances in a million, for each datagram.
    pub(super) doubled: u32,
    pub(super) late: u32,
    pub(super) latest: TrueTime,
    /// Gilbert and Elliott's channel: the chances to turn bad, to turn good again, and of loss while it is good or bad.
    pub(super) turns_bad: u32,
    pub(super) turns_good: u32,
    pub(super) loss_good: u32,
    pub(super) loss_bad: u32,
}

/// How well the hosts run.
#[derive(Clone, Copy, Debug)]
pub(super) struct DriverPlan {
    /// The chance in a million that a process stalls before it carries out an effect.
    pub(super) stalls: u32,
    pub(super) longest_stall: TrueTime,
    /// How late it usually wakes.
    pub(super) wakes_late: TrueTime,
    /// Datagrams that fit a socket.
    pub(super) queue: usize,
    /// How long it takes to configure an address.
    pub(super) address: TrueTime,
    pub(super) disk: TrueTime,
}

/// Something that goes wrong for a while.
#[derive(Clone, Debug)]
pub(super) struct Trouble {
    pub(super) at: TrueTime,
    pub(super) lasts: TrueTime,
    pub(super) what: What,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum What {
    /// One path carries nothing in one direction.
    PathCut {
        from: usize,
        to: usize,
        path: usize,
    },
    /// No heartbeat passes in one direction; a firewall may do that. The service link carries ARP.
    DirectionCut {
        from: usize,
        to: usize,
    },
    /// No heartbeat passes in either direction. The service link carries ARP.
    HeartbeatsCut {
        one: usize,
        other: usize,
    },
    /// Nothing passes between two nodes.
    Partition {
        one: usize,
        other: usize,
    },
    /// A node's service port carries nothing in some direction.
    ServicePort {
        node: usize,
        inward: bool,
        outward: bool,
    },
    /// A node's private port carries nothing.
    PrivatePort {
        node: usize,
    },
    /// What is sent in one direction takes much longer.
    Slow {
        from: usize,
        to: usize,
        by: TrueTime,
    },
    Pause {
        node: usize,
    },
    Crash {
        node: usize,
        disk_lost: bool,
    },
    PowerOff {
        node: usize,
        disk_lost: bool,
    },
    Link {
        node: usize,
        gone: bool,
    },
    AddressFails {
        node: usize,
    },
    DiskFails {
        node: usize,
    },
    Command {
        node: usize,
        command: Command,
    },
    /// Forged, broken and recorded datagrams arrive at a node.
    Garbage {
        node: usize,
    },
    /// A node is stopped or killed and cut off from another in the same moment.
    Torn {
        node: usize,
        other: usize,
        crash: bool,
    },
    /// A node that holds nothing loses its daemon.
    PassiveCrash,
    /// The holder of the first group is lost.
    HolderLost {
        how: Loss,
    },
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Loss {
    Crash,
    Pause,
    PowerOff,
    Partition,
    Carrier,
    ServiceCut,
}

pub(super) fn address_of_group(group: usize) -> Ipv4Addr {
    Ipv4Addr::new(10, 77, 0, 100 + u8::try_from(group).unwrap_or(0))
}

/// Clients on the service link that answer ARP.
pub(super) const CLIENTS: [Ipv4Addr; 2] = [Ipv4Addr::new(10, 77, 0, 50), Ipv4Addr::new(10, 77, 0, 51)];

pub(super) fn mac_of(node: usize) -> Mac {
    Mac([2, 0, 0, 0, 0, u8::try_from(node + 1).unwrap_or(u8::MAX)])
}

pub(super) fn node_id(node: usize) -> NodeId {
    NodeId(u16::try_from(node + 1).unwrap_or(u16::MAX))
}

fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

impl Plan {
    pub(super) fn draw(options: &Options) -> Self {
        let mut random = Random::new(options.seed);
        let profile = options.profile;
        let timing = draw_timing(&mut random, profile);
        let beat = nanos(timing.heartbeat);
        let dead = nanos(timing.dead_after);
        let hosts = draw_hosts(&mut random, profile, options.nodes, beat);
        let groups = draw_groups(&mut random, options);
        let paths = match profile {
            Profile::HolderLost | Profile::Calm => vec![false, true],
            _ => random
                .one_of::<&[bool]>(&[&[false, true], &[false, true], &[false, true], &[false], &[true]])
                .to_vec(),
        };
        let quality = draw_quality(&mut random, profile, beat, dead);
        let driver = draw_driver(&mut random, profile, dead);
        let startup = nanos(timing.startup_wait);
        let warm_at = startup + 4 * dead + 20 * beat + driver.address * 4 + random.between(0, 10 * beat);
        let chaos = u64::from(options.heartbeats) * beat;
        let heal_at = warm_at + chaos;
        let troubles = draw_troubles(&mut random, options, &paths, (warm_at, heal_at), dead, beat);
        let address_fails = troubles.iter().any(|trouble| matches!(trouble.what, What::AddressFails { .. }));
        let retry = if address_fails { 5500 * MILLISECOND } else { 0 };
        let patience = (20 * dead).clamp(500 * MILLISECOND, 2 * SECOND);
        let longest_way = quality.latest + quality.delay + quality.jitter + 2 * dead;
        let settled_at = match profile {
            Profile::Calm | Profile::PassiveRestarts => warm_at,
            _ => {
                heal_at
                    + startup
                    + patience
                    + 6 * dead
                    + 10 * beat
                    + retry
                    + longest_way
                    + driver.longest_stall
            }
        };
        let end = settled_at.max(heal_at) + 20 * beat + 2 * dead;
        let end = if profile == Profile::HolderLost { heal_at } else { end };
        Self { timing, groups, hosts, paths, quality, driver, troubles, warm_at, heal_at, settled_at, end }
    }

    /// The settings of one node.
    pub(super) fn settings(&self, me: usize) -> Settings {
        let paths: Vec<Path> = self.paths.iter().map(|&service| Path { service }).collect();
        let others = (0..self.hosts.len()).filter(|&node| node != me);
        Settings {
            cluster: ClusterId::from_name("simulated"),
            me: node_id(me),
            voter: true,
            quorum: Quorum::Off,
            peers: others.map(|node| Peer { id: node_id(node), voter: true, paths: paths.clone() }).collect(),
            groups: self.groups.clone(),
            timing: self.timing,
            keys: vec![Key([7; 32])],
        }
    }
}

fn draw_timing(random: &mut Random, profile: Profile) -> Timing {
    if profile == Profile::Edges {
        let lease = random.between(30, 60);
        return Timing {
            heartbeat: Duration::from_millis(10),
            lease: Duration::from_millis(lease),
            dead_after: Duration::from_micros(lease * 1100),
            startup_wait: Duration::from_millis(lease * 3),
        };
    }
    let slow_only = matches!(profile, Profile::Hosts | Profile::Mixed);
    let choices: &[u64] =
        if slow_only { &[10_000, 10_000, 20_000] } else { &[10_000, 10_000, 10_000, 1_000, 5_000, 20_000] };
    let beat = random.one_of(choices);
    // The usual proportions half of the time, else the narrowest and the widest that the rules allow.
    let lease = if random.per_million(500_000) { beat * 4 } else { beat * random.between(30, 60) / 10 };
    let dead_after =
        if random.per_million(500_000) { lease * 5 / 4 } else { lease * random.between(110, 200) / 100 };
    let startup = if random.per_million(200_000) {
        random.between(0, dead_after)
    } else {
        dead_after * random.between(2, 4)
    };
    Timing {
        heartbeat: Duration::from_micros(beat),
        lease: Duration::from_micros(lease),
        dead_after: Duration::from_micros(dead_after.max(lease * 11 / 10 + 1)),
        startup_wait: Duration::from_micros(startup),
    }
}

fn draw_hosts(random: &mut Random, profile: Profile, nodes: usize, beat: u64) -> Vec<HostPlan> {
    // Rates at most ten percent apart.
    let apart = [(-47_000, 47_000), (0, 100_000), (0, 0), (-90_000, 0)];
    let apart = if profile == Profile::Edges { &apart[..2] } else { &apart[..] };
    // A lease that lasts longer than the probe expects is found out by its answer, which takes time.
    let (slowest, fastest) =
        if profile == Profile::HolderLost { (-10_000, 10_000) } else { random.one_of(apart) };
    let together = random.per_million(600_000);
    (0..nodes)
        .map(|_| HostPlan {
            drift: if slowest == fastest {
                0
            } else {
                match random.between(0, if profile == Profile::Edges { 1 } else { 3 }) {
                    0 => slowest,
                    1 => fastest,
                    _ => slowest + i64::try_from(random.between(0, 20_000)).unwrap_or(0),
                }
            },
            clock_at_boot: random.between(SECOND, 1_000_000 * SECOND),
            starts_at: if together { random.between(0, beat * 3) } else { random.between(0, beat * 30) },
        })
        .collect()
}

fn draw_groups(random: &mut Random, options: &Options) -> Vec<Group> {
    let count = match options.profile {
        Profile::HolderLost => 1,
        _ => random.one_of(&[1, 1, 1, 2, 3]),
    };
    let failback_allowed =
        !matches!(options.profile, Profile::Calm | Profile::PassiveRestarts | Profile::HolderLost);
    (0..count)
        .map(|group| {
            let mut prefer: Vec<NodeId> = (0..options.nodes).map(node_id).collect();
            let turn = random.between(0, options.nodes.max(1) as u64 - 1) as usize;
            prefer.rotate_left(turn);
            let failback = if failback_allowed && random.per_million(300_000) {
                Failback::After(Duration::from_millis(random.between(0, 100)))
            } else {
                Failback::Never
            };
            Group {
                id: GroupId::from_name(&format!("group-{group}")),
                vips: vec![address_of_group(group)],
                prefer,
                failback,
                announce: AnnounceSchedule {
                    count: u32::try_from(random.between(1, 5)).unwrap_or(1),
                    interval: Duration::from_millis(random.between(10, 100)),
                },
                gateway: None,
            }
        })
        .collect()
}

fn draw_quality(random: &mut Random, profile: Profile, beat: u64, dead: u64) -> Quality {
    let good = Quality {
        delay: random.skewed(20 * MICROSECOND, (beat / 8).max(30 * MICROSECOND)),
        jitter: random.skewed(5 * MICROSECOND, (beat / 8).max(10 * MICROSECOND)),
        doubled: 0,
        late: 0,
        latest: 0,
        turns_bad: 0,
        turns_good: 1_000_000,
        loss_good: 0,
        loss_bad: 0,
    };
    let disturbed = |random: &mut Random| Quality {
        delay: random.skewed(20 * MICROSECOND, beat),
        jitter: random.skewed(5 * MICROSECOND, beat),
        doubled: random.one_of(&[0, 10_000, 300_000]),
        late: random.one_of(&[0, 1_000, 50_000, 300_000]),
        latest: random.skewed(beat / 2, dead * 4),
        turns_bad: random.one_of(&[1_000, 10_000, 50_000, 200_000]),
        turns_good: random.one_of(&[20_000, 100_000, 300_000]),
        loss_good: random.one_of(&[0, 1_000, 10_000, 100_000]),
        loss_bad: random.one_of(&[300_000, 900_000, 1_000_000]),
    };
    match profile {
        Profile::Calm | Profile::PassiveRestarts | Profile::HolderLost | Profile::Edges => good,
        Profile::Loss => disturbed(random),
        Profile::Cuts
        | Profile::Pauses
        | Profile::Crashes
        | Profile::Hosts
        | Profile::Commands
        | Profile::Mixed => {
            if random.per_million(400_000) {
                disturbed(random)
            } else {
                good
            }
        }
    }
}

fn draw_driver(random: &mut Random, profile: Profile, dead: u64) -> DriverPlan {
    let well = DriverPlan {
        stalls: 0,
        longest_stall: 0,
        wakes_late: random.skewed(5 * MICROSECOND, 200 * MICROSECOND),
        queue: 256,
        address: random.skewed(50 * MICROSECOND, dead / 8),
        disk: random.skewed(50 * MICROSECOND, dead),
    };
    let badly =
        matches!(profile, Profile::Pauses) || (profile == Profile::Mixed && random.per_million(500_000));
    if !badly {
        return well;
    }
    DriverPlan {
        stalls: random.one_of(&[0, 500, 2_000, 10_000]),
        longest_stall: random.skewed(MILLISECOND, dead * 2),
        wakes_late: random.skewed(5 * MICROSECOND, dead / 10),
        queue: random.one_of(&[4, 16, 256]),
        ..well
    }
}

fn draw_troubles(
    random: &mut Random,
    options: &Options,
    paths: &[bool],
    (from, until): (TrueTime, TrueTime),
    dead: u64,
    beat: u64,
) -> Vec<Trouble> {
    let count = match options.profile {
        Profile::Calm | Profile::Loss => random.between(0, 0),
        Profile::HolderLost => 1,
        _ => random.between(1, 10),
    };
    let mut troubles: Vec<Trouble> = (0..count)
        .map(|_| {
            let what = draw_what(random, options, paths, dead, beat);
            let short = random.per_million(500_000);
            let lasts =
                if short { random.skewed(beat / 8, 3 * dead) } else { random.between(beat, 8 * dead) };
            let at = random.between(from, until.saturating_sub(beat).max(from));
            let at =
                if options.profile == Profile::HolderLost { from + random.between(0, 5 * beat) } else { at };
            let lasts = lasts.min(until.saturating_sub(at));
            let lasts = if options.profile == Profile::HolderLost { TrueTime::MAX / 4 } else { lasts };
            Trouble { at, lasts, what }
        })
        .collect();
    troubles.sort_by_key(|trouble| trouble.at);
    troubles
}

fn draw_what(random: &mut Random, options: &Options, paths: &[bool], dead: u64, beat: u64) -> What {
    // In the order of `What`, up to `Garbage`.
    let weights: [u32; 15] = match options.profile {
        Profile::PassiveRestarts => return What::PassiveCrash,
        Profile::HolderLost => {
            let how =
                [Loss::Crash, Loss::Pause, Loss::PowerOff, Loss::Partition, Loss::Carrier, Loss::ServiceCut];
            return What::HolderLost { how: random.one_of(&how) };
        }
        Profile::Edges => {
            let node = random.between(0, 1) as usize % options.nodes;
            let other = (node + 1) % options.nodes;
            return if random.per_million(500_000) {
                What::Slow { from: node, to: other, by: random.skewed(beat / 4, 2 * beat) }
            } else {
                What::Torn { node, other, crash: random.per_million(500_000) }
            };
        }
        Profile::Calm | Profile::Loss => [1, 1, 1, 1, 1, 1, 1, 0, 0, 0, 0, 0, 0, 0, 0],
        Profile::Cuts => [2, 5, 3, 4, 3, 2, 2, 0, 0, 0, 0, 0, 0, 0, 0],
        Profile::Pauses => [0, 2, 1, 2, 0, 0, 1, 12, 0, 0, 0, 0, 0, 0, 1],
        Profile::Crashes => [0, 2, 1, 2, 0, 0, 1, 1, 8, 5, 0, 0, 0, 0, 1],
        Profile::Hosts => [0, 1, 1, 1, 2, 1, 0, 0, 2, 1, 7, 3, 3, 1, 0],
        Profile::Commands => [0, 2, 1, 2, 1, 0, 0, 1, 1, 0, 0, 0, 0, 16, 0],
        Profile::Mixed => [2, 3, 2, 3, 2, 1, 2, 4, 3, 2, 3, 1, 1, 5, 1],
    };
    let nodes = options.nodes as u64;
    let node = random.between(0, nodes - 1) as usize;
    let other =
        if nodes == 1 { node } else { (node + random.between(1, nodes - 1) as usize) % options.nodes };
    let path = random.between(0, paths.len() as u64 - 1) as usize;
    let disk_lost = random.per_million(250_000);
    match random.weighted(&weights) {
        0 => What::PathCut { from: node, to: other, path },
        1 => What::DirectionCut { from: node, to: other },
        2 => What::HeartbeatsCut { one: node, other },
        3 => What::Partition { one: node, other },
        4 => {
            let (inward, outward) =
                random.one_of(&[(true, true), (true, true), (true, false), (false, true)]);
            What::ServicePort { node, inward, outward }
        }
        5 => What::PrivatePort { node },
        6 => What::Slow { from: node, to: other, by: random.skewed(beat, 4 * dead) },
        7 => What::Pause { node },
        8 => What::Crash { node, disk_lost },
        9 => What::PowerOff { node, disk_lost },
        10 => What::Link { node, gone: random.per_million(500_000) },
        11 => What::AddressFails { node },
        12 => What::DiskFails { node },
        13 => What::Command { node, command: draw_command(random) },
        _ => What::Garbage { node },
    }
}

fn draw_command(random: &mut Random) -> Command {
    let group = GroupIndex(0);
    let force = random.per_million(150_000);
    match random.weighted(&[6, 6, 2, 3, 1]) {
        // A forced promote vouches for what cannot be checked here, so that it is left to tests of its own.
        0 => Command::Promote { group, force: false },
        1 => Command::Demote { group, force },
        2 => Command::Drain { force },
        3 => Command::Undrain,
        _ => Command::Resign,
    }
}
