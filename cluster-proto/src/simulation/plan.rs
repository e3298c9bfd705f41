//! What a seed means: the cluster, its clocks and timings, and what goes wrong when. Drawn before the run, so that a
//! run can be repeated with less going wrong.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::Duration;

use crate::identity::{ClusterId, GroupId, Mac, NodeId};
use crate::interface::Command;
use crate::placement::{self, Place, Placed};
use crate::settings::{
    AnnounceSchedule, Failback, Group, Key, Path, Peer, Quorum, Settings, SpreadMember, SpreadOver, Timing,
};
use crate::wire::MAX_GROUPS;

use super::clock::{MICROSECOND, MILLISECOND, SECOND, TrueTime};
use super::drawing::draw_troubles;
use super::options::{Options, Planted, Profile};
use super::random::Random;

/// Everything that is drawn beforehand.
#[derive(Clone, Debug)]
pub(super) struct Plan {
    pub(super) timing: Timing,
    pub(super) quorum: Quorum,
    /// The files that nodes read one after the other; there is only one if they never reload.
    pub(super) files: Vec<File>,
    /// Some nodes go back to earlier files when others have gone on: nobody can say then when somebody serves.
    pub(super) turns_round: bool,
    pub(super) options: Options,
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

/// What differs between one configuration file and the next.
#[derive(Clone, Debug)]
pub(super) struct File {
    /// By host.
    pub(super) votes: Vec<bool>,
    /// By host: whether it is in the file.
    pub(super) hosts: Vec<bool>,
    /// The plan's groups that are in it, in its order.
    pub(super) groups: Vec<usize>,
    /// No longer than the plan's.
    pub(super) timing: Timing,
}

impl File {
    /// Where the file has one of the plan's groups, if it has it.
    pub(super) fn place_of_group(&self, group: usize) -> Option<usize> {
        self.groups.iter().position(|&there| there == group)
    }

    /// The peers of a host by this file, in its order.
    fn peers(&self, me: usize) -> impl Iterator<Item = usize> {
        let hosts = self.hosts.iter().enumerate();
        hosts.filter(move |&(host, there)| *there && host != me).map(|(host, _)| host)
    }

    /// The host that is this peer of another.
    pub(super) fn host_of_peer(&self, me: usize, peer: usize) -> Option<usize> {
        self.peers(me).nth(peer)
    }

    /// Which peer of another a host is, if it is one.
    pub(super) fn peer_of_host(&self, me: usize, host: usize) -> Option<usize> {
        self.peers(me).position(|peer| peer == host)
    }
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
    /// No heartbeat passes in one direction; a firewall may do that. The service link carries ARP and NS.
    DirectionCut {
        from: usize,
        to: usize,
    },
    /// No heartbeat passes in either direction. The service link carries ARP and NS.
    HeartbeatsCut {
        one: usize,
        other: usize,
    },
    /// The hosts fall into up to three sets (bits of the first, of the second, and the rest) that do not reach each other.
    Split {
        first: u32,
        second: u32,
    },
    /// Each ordered pair loses its heartbeats in that direction with this chance in a million.
    DirectedCuts {
        seed: u64,
        chance: u32,
    },
    /// A host hears nobody's heartbeats.
    Deaf {
        node: usize,
    },
    /// Nobody hears a host's heartbeats.
    Mute {
        node: usize,
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
    /// A node's next file (or the one before) is put there and read, if the node allows it.
    Reload {
        node: usize,
        back: bool,
    },
    /// A node's daemon is replaced in place, if the node allows it.
    Restart {
        node: usize,
        /// How long it takes until the next one runs; `None`: it never does.
        away: Option<TrueTime>,
    },
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

/// The VIP of a group; of every other one it is an IPv6 address.
pub(super) fn address_of_group(group: usize) -> IpAddr {
    let number = u16::try_from(group).unwrap_or(0);
    let [high, low] = number.to_be_bytes();
    if group.is_multiple_of(2) {
        Ipv4Addr::new(10, 78, high, low).into()
    } else {
        Ipv6Addr::new(0xfd78, 0, 0, 0, 0, 0, 0, number).into()
    }
}

/// Clients on the service link that answer when they are asked for.
pub(super) const CLIENTS: [IpAddr; 2] =
    [IpAddr::V4(Ipv4Addr::new(10, 77, 0, 50)), IpAddr::V6(Ipv6Addr::new(0xfd77, 0, 0, 0, 0, 0, 0, 0x51))];

/// The router on the service link, in [`Profile::Gateway`].
pub(super) const GATEWAY: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 77, 0, 254));

/// The Ethernet address of the router.
pub(super) const GATEWAY_MAC: Mac = Mac([2, 0, 0, 0, 2, 254]);

/// The Ethernet address of one of them.
pub(super) fn mac_of_client(client: usize) -> Mac {
    Mac([2, 0, 0, 0, 1, u8::try_from(50 + client).unwrap_or(u8::MAX)])
}

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
        let hosts = draw_hosts(&mut random, profile, options.hosts(), beat);
        let groups = draw_groups(&mut random, options);
        let paths = match profile {
            Profile::HolderLost | Profile::Calm => vec![false, true],
            _ => random
                .one_of::<&[bool]>(&[&[false, true], &[false, true], &[false, true], &[false], &[true]])
                .to_vec(),
        };
        // Witnesses are reached on the private path alone.
        let paths = if options.witnesses > 0 && paths == [true] { vec![false, true] } else { paths };
        let quorum = draw_quorum(options);
        let files = draw_files(options, timing, groups.len());
        let quality = draw_quality(&mut random, profile, beat, dead);
        let mut driver = draw_driver(&mut random, profile, dead);
        if profile == Profile::Timings {
            // One after the other, the addresses of all groups still come in time.
            driver.address = (driver.address * 3 / groups.len().max(3) as u64).max(1);
        }
        let startup = nanos(timing.startup_wait);
        let warm_at = startup + 4 * dead + 20 * beat + driver.address * 4 + random.between(0, 10 * beat);
        let warm_at = if options.is_pair() { warm_at } else { warm_at + 30 * beat + 2 * dead };
        let longer = if profile == Profile::Partitions && !options.is_pair() { 3 } else { 1 };
        let chaos = u64::from(options.heartbeats) * beat * longer;
        let heal_at = warm_at + chaos;
        let troubles = draw_troubles(&mut random, options, &paths, (warm_at, heal_at), dead, beat);
        let any = |such: fn(&What) -> bool| troubles.iter().any(|trouble| such(&trouble.what));
        // What failed is tried again after five seconds, and after one, by a clock that may be slow.
        let retry = if any(|what| matches!(what, What::AddressFails { .. })) {
            5500 * MILLISECOND
        } else if any(|what| matches!(what, What::DiskFails { .. })) {
            1100 * MILLISECOND
        } else {
            0
        };
        let patience = (20 * dead).clamp(500 * MILLISECOND, 2 * SECOND);
        let longest_way = quality.latest + quality.delay + quality.jitter + 2 * dead;
        let settled_at = match profile {
            Profile::Calm | Profile::PassiveRestarts | Profile::Restarts => warm_at,
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
        // Whoever never came back had promises that last longer, and so may those be that were made just before.
        let settled_at =
            if profile == Profile::FailedRestarts { settled_at + 3 * SECOND } else { settled_at };
        // Candidates of lower rank wait D for each better one.
        let settled_at = if options.is_pair() || settled_at == warm_at {
            settled_at
        } else {
            settled_at + dead * (2 + options.hosts() as u64)
        };
        let end = settled_at.max(heal_at) + 20 * beat + 2 * dead;
        let end = if profile == Profile::HolderLost { heal_at } else { end };
        let options = options.clone();
        Self {
            timing,
            quorum,
            files,
            turns_round: options.profile == Profile::Reloads && options.seed % 3 == 2,
            options,
            groups,
            hosts,
            paths,
            quality,
            driver,
            troubles,
            warm_at,
            heal_at,
            settled_at,
            end,
        }
    }

    /// How many of the paths connect two hosts; the private ones come first.
    pub(super) fn paths_between(&self, one: usize, other: usize) -> usize {
        let private_only = self.options.is_witness(one) || self.options.is_witness(other);
        self.paths.iter().filter(|&&service| !(private_only && service)).count()
    }

    /// H of the file that has the shortest.
    pub(super) fn shortest_heartbeat(&self) -> Duration {
        let beats = self.files.iter().map(|file| file.timing.heartbeat);
        beats.min().unwrap_or(self.timing.heartbeat)
    }

    /// If groups have a gateway: how long its answers take at the most, until they are read.
    pub(super) fn late_gateway(&self) -> Option<Duration> {
        let Quality { delay, jitter, .. } = self.quality;
        let DriverPlan { longest_stall, wakes_late, .. } = self.driver;
        let longest = 2 * (delay + jitter) + longest_stall + wakes_late + MILLISECOND;
        self.groups.iter().any(|group| group.gateway.is_some()).then(|| Duration::from_nanos(longest))
    }

    /// Whether the network and the hosts do well but for the troubles.
    pub(super) fn is_undisturbed(&self) -> bool {
        let Quality { doubled, late, turns_bad, loss_good, .. } = self.quality;
        let beat = nanos(self.timing.heartbeat);
        doubled == 0
            && late == 0
            && turns_bad == 0
            && loss_good == 0
            && self.quality.delay + self.quality.jitter <= beat / 2
            && self.driver.stalls == 0
            && self.driver.queue == 256
            && self.driver.wakes_late <= beat / 8
    }

    /// How many groups a node may take.
    pub(super) fn max_groups(&self, node: usize) -> Option<usize> {
        place(&self.options, node).max_groups
    }

    /// Whether a majority of voters decides, so that there never are two holders.
    pub(super) fn by_majority(&self) -> bool {
        self.quorum == Quorum::Majority
    }

    /// The settings of one node with that file.
    pub(super) fn settings(&self, me: usize, file: usize) -> Settings {
        let file = &self.files[file];
        let File { votes, timing, .. } = file;
        Settings {
            cluster: ClusterId::from_name("simulated"),
            me: node_id(me),
            voter: votes[me],
            quorum: self.quorum,
            peers: file
                .peers(me)
                .map(|node| Peer {
                    id: node_id(node),
                    voter: votes[node],
                    paths: self.paths[..self.paths_between(me, node)]
                        .iter()
                        .map(|&service| Path { service })
                        .collect(),
                })
                .collect(),
            groups: file.groups.iter().map(|&group| self.groups[group].clone()).collect(),
            timing: *timing,
            keys: vec![Key([7; 32])],
            max_groups: self
                .max_groups(me)
                .filter(|_| self.options.planted != Some(Planted::CapacityForgotten)),
        }
    }
}

/// Files whose voters can follow one another: those that are new are no majority. All hosts stay in them but those without a
/// vote in some of [`Profile::Timings`].
fn draw_files(options: &Options, timing: Timing, groups: usize) -> Vec<File> {
    let votes: Vec<bool> = (0..options.hosts()).map(|host| options.votes(host)).collect();
    let file = |votes, timing| File {
        votes,
        hosts: vec![true; options.hosts()],
        groups: (0..groups).collect(),
        timing,
    };
    let mut files = vec![file(votes, timing)];
    match options.profile {
        Profile::Reloads => {}
        Profile::Timings => return draw_other_timings(options, &files[0]),
        _ => return files,
    }
    // Its own chances, so that a seed's other troubles do not depend on it.
    let mut random = Random::new(options.seed ^ 0xf11e5);
    files[0] = file(some_voters(&mut random, options), shorter(&mut random, timing));
    while files.len() < 3 {
        let next = some_voters(&mut random, options);
        let before = &files[files.len() - 1].votes;
        let new = before.iter().zip(&next).filter(|(before, next)| **next && !**before).count();
        // The way back is through all other files: whoever has voted by one of them alone cannot forget it.
        let known = files.iter().any(|file| file.votes == next) && options.hosts() > 2;
        if new <= next.iter().filter(|&&votes| votes).count() / 2 && !known {
            files.push(file(next, shorter(&mut random, timing)));
        }
    }
    files
}

/// Files of the same voters in which the rest changes. The last one has all groups and hosts, and timings that suit the
/// network.
fn draw_other_timings(options: &Options, whole: &File) -> Vec<File> {
    // Its own chances, as above.
    let mut random = Random::new(options.seed ^ 0x71_135);
    let last = 3;
    (0..=last)
        .map(|number| {
            let percents: &[u32] = if number < last { &[100, 70, 50, 25] } else { &[100, 70] };
            let percent = random.one_of(percents);
            let mut groups = whole.groups.clone();
            let first = random.between(0, groups.len() as u64 - 1) as usize;
            groups.rotate_left(first);
            let mut hosts = whole.hosts.clone();
            if number < last {
                let first = groups[0];
                groups.retain(|&group| group == first || random.per_million(700_000));
            }
            if (1..last).contains(&number) {
                for (host, there) in hosts.iter_mut().enumerate() {
                    *there = whole.votes[host] || random.per_million(500_000);
                }
            }
            File { groups, hosts, timing: scaled(whole.timing, percent), votes: whole.votes.clone() }
        })
        .collect()
}

/// All of it so much shorter, as far as the rules allow.
fn scaled(timing: Timing, percent: u32) -> Timing {
    let heartbeat = (timing.heartbeat * percent / 100).max(Duration::from_millis(1));
    let lease = (timing.lease * percent / 100).max(heartbeat * 3);
    let dead_after = (timing.dead_after * percent / 100).max(lease * 11 / 10 + Duration::from_nanos(1));
    Timing { heartbeat, lease, dead_after, ..timing }
}

fn some_voters(random: &mut Random, options: &Options) -> Vec<bool> {
    loop {
        let votes: Vec<bool> = (0..options.hosts()).map(|_| random.per_million(600_000)).collect();
        if (1..=9).contains(&votes.iter().filter(|&&votes| votes).count()) {
            return votes;
        }
    }
}

/// The same timing, or one with shorter leases and promises.
fn shorter(random: &mut Random, timing: Timing) -> Timing {
    let percent = random.one_of(&[100, 100, 70, 50]);
    let lease = (timing.lease * percent / 100).max(timing.heartbeat * 3);
    let dead_after = (timing.dead_after * percent / 100).max(lease * 11 / 10 + Duration::from_nanos(1));
    Timing { lease, dead_after: dead_after.min(timing.dead_after), ..timing }
}

fn draw_quorum(options: &Options) -> Quorum {
    let drawn = || {
        // Its own chance, so that a seed's troubles do not depend on it.
        let heads = Random::new(options.seed ^ 0x90_0f).per_million(500_000);
        if options.is_pair() && heads { Quorum::Off } else { Quorum::Majority }
    };
    options.quorum.unwrap_or_else(drawn)
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
    let restarts = matches!(profile, Profile::Restarts | Profile::FailedRestarts);
    let slow_only =
        restarts || matches!(profile, Profile::Hosts | Profile::Mixed | Profile::Timings | Profile::Gateway);
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

/// What a node is to placement.
fn place(options: &Options, node: usize) -> Place {
    let spares = if options.profile == Profile::Spares { options.nodes / 3 } else { 0 };
    let spare = node + spares >= options.nodes;
    Place { weight: 1, spare, max_groups: spare.then_some(2) }
}

/// The ranks of so many groups that are placed over the nodes.
fn ranks(options: &Options, count: usize) -> Vec<Vec<NodeId>> {
    let places: Vec<Place> = (0..options.nodes).map(|node| place(options, node)).collect();
    let anywhere = Placed { prefer: Vec::new(), members: (0..options.nodes).collect(), apart: Vec::new() };
    let ranks = placement::ranks(&places, &vec![anywhere; count]);
    ranks.into_iter().map(|rank| rank.into_iter().map(node_id).collect()).collect()
}

/// Over which nodes a group is spread: the first one of some seeds is active/active. Not drawn, so that what a seed draws stays what it
/// was; weights differ, and with more than two nodes the last one is a spare.
fn spread_over(options: &Options, group: usize) -> Option<SpreadOver> {
    let is_spread = group == 0 && options.seed % 8 == 7 && options.profile != Profile::Spares;
    let member = |node: usize| SpreadMember {
        node: node_id(node),
        weight: 1 + u32::from(node % 3 == 1),
        spare: options.nodes > 2 && node + 1 == options.nodes,
    };
    is_spread.then(|| SpreadOver { members: (0..options.nodes).map(member).collect(), by_source: false })
}

fn draw_groups(random: &mut Random, options: &Options) -> Vec<Group> {
    let count = match (options.groups, options.profile) {
        (Some(count), _) => count.clamp(1, MAX_GROUPS),
        (None, Profile::HolderLost) => 1,
        (None, Profile::Spares) => (options.nodes - options.nodes / 3) * 2,
        // So many need two datagrams where all are named.
        (None, Profile::Timings) => random.one_of(&[1, 2, 3, 3, 60]),
        (None, _) => random.one_of(&[1, 1, 1, 2, 3]),
    };
    let failback_allowed = !matches!(
        options.profile,
        Profile::Calm | Profile::PassiveRestarts | Profile::Restarts | Profile::HolderLost
    );
    let placed = if options.profile == Profile::Spares { ranks(options, count) } else { Vec::new() };
    (0..count)
        .map(|group| {
            let mut prefer: Vec<NodeId> = (0..options.nodes).map(node_id).collect();
            let turn = random.between(0, options.nodes.max(1) as u64 - 1) as usize;
            prefer.rotate_left(turn);
            if let Some(rank) = placed.get(group) {
                prefer.clone_from(rank);
            }
            let failback = if failback_allowed && random.per_million(300_000) {
                let wait = Duration::from_millis(random.between(0, 100));
                // Not drawn, so that what a seed draws stays what it was.
                if group % 2 == 0 { Failback::After(wait) } else { Failback::Idle(wait) }
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
                gateway: (options.profile == Profile::Gateway).then_some(GATEWAY),
                virtual_macs: Vec::new(),
                apart: Vec::new(),
                spread: spread_over(options, group),
                // Not drawn, so that what a seed draws stays what it was.
                grace: Duration::from_millis([60, 0, 3000][group % 3]),
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
        Profile::Calm
        | Profile::PassiveRestarts
        | Profile::Restarts
        | Profile::HolderLost
        | Profile::Edges => good,
        Profile::Loss => disturbed(random),
        Profile::Cuts
        | Profile::Pauses
        | Profile::Crashes
        | Profile::Hosts
        | Profile::Commands
        | Profile::Partitions
        | Profile::Mixed
        | Profile::Reloads
        | Profile::Timings
        | Profile::Gateway
        | Profile::Spares
        | Profile::FailedRestarts => {
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
