//! Which troubles a seed draws.

use crate::GroupIndex;
use crate::interface::Command;

use super::clock::{MILLISECOND, TrueTime};
use super::options::{Options, Profile};
use super::plan::{Loss, Trouble, What};
use super::random::Random;

pub(super) fn draw_troubles(
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
        // Few and long, so that there is time to see who serves meanwhile.
        Profile::Partitions => random.between(1, 5),
        _ => random.between(1, 10),
    };
    let count = if options.profile.reloads() { count + 3 } else { count };
    let mut troubles: Vec<Trouble> = (0..count)
        .map(|_| {
            let what = draw_what(random, options, paths, dead, beat);
            let short = random.per_million(500_000);
            let lasts =
                if short { random.skewed(beat / 8, 3 * dead) } else { random.between(beat, 8 * dead) };
            let lasts = match options.profile {
                Profile::Partitions => random.between(beat, (until - from) / 2),
                _ => lasts,
            };
            let at = random.between(from, until.saturating_sub(beat).max(from));
            let at =
                if options.profile == Profile::HolderLost { from + random.between(0, 5 * beat) } else { at };
            let lasts = lasts.min(until.saturating_sub(at));
            let lasts = if options.profile == Profile::HolderLost { TrueTime::MAX / 4 } else { lasts };
            Trouble { at, lasts, what }
        })
        .collect();
    if options.hosts() > 2 && troubles.len() > 1 && options.profile != Profile::PassiveRestarts {
        // Two at once: what each alone leaves possible, both together may not.
        for place in 1..troubles.len() {
            if random.per_million(250_000) {
                let at = troubles[place - 1].at;
                let lasts = troubles[place].lasts.min(until.saturating_sub(at));
                troubles[place] = Trouble { at, lasts, ..troubles[place] };
            }
        }
    }
    if options.hosts() > 2 && matches!(options.profile, Profile::Crashes | Profile::Edges | Profile::Mixed) {
        troubles.extend(draw_torn_between(random, options, (from, until), dead, beat).into_iter().flatten());
    }
    if options.profile.reloads() {
        troubles.extend(draw_reloads(random, options, (from, until)));
    }
    troubles.sort_by_key(|trouble| trouble.at);
    troubles
}

fn draw_what(random: &mut Random, options: &Options, paths: &[bool], dead: u64, beat: u64) -> What {
    // In the order of `What`, up to `Garbage`.
    let weights: [u32; 15] = match options.profile {
        Profile::PassiveRestarts => return What::PassiveCrash,
        Profile::Restarts => return draw_restart(random, options, true),
        Profile::FailedRestarts if random.per_million(500_000) => {
            return draw_restart(random, options, false);
        }
        Profile::HolderLost => {
            let how =
                [Loss::Crash, Loss::Pause, Loss::PowerOff, Loss::Partition, Loss::Carrier, Loss::ServiceCut];
            return What::HolderLost { how: random.one_of(&how) };
        }
        Profile::Edges => {
            let node = random.between(0, options.hosts().clamp(2, 32) as u64 - 1) as usize % options.hosts();
            let other = (node + 1) % options.hosts();
            return if random.per_million(500_000) {
                What::Slow { from: node, to: other, by: random.skewed(beat / 4, 2 * beat) }
            } else {
                What::Torn { node, other, crash: random.per_million(500_000) }
            };
        }
        Profile::Calm | Profile::Loss => [1, 1, 1, 1, 1, 1, 1, 0, 0, 0, 0, 0, 0, 0, 0],
        Profile::Gateway => [3, 3, 2, 4, 4, 6, 2, 3, 3, 3, 2, 1, 1, 0, 0],
        Profile::Cuts => [2, 5, 3, 4, 3, 2, 2, 0, 0, 0, 0, 0, 0, 0, 0],
        Profile::Partitions => return draw_partition(random, options),
        Profile::Pauses => [0, 2, 1, 2, 0, 0, 1, 12, 0, 0, 0, 0, 0, 0, 1],
        Profile::Crashes => [0, 2, 1, 2, 0, 0, 1, 1, 8, 5, 0, 0, 0, 0, 1],
        Profile::Spares => [0, 1, 0, 1, 1, 0, 0, 2, 6, 6, 2, 1, 0, 2, 0],
        Profile::Hosts => [0, 1, 1, 1, 2, 1, 0, 0, 2, 1, 7, 3, 3, 1, 0],
        Profile::Commands => [0, 2, 1, 2, 1, 0, 0, 1, 1, 0, 0, 0, 0, 16, 0],
        Profile::Mixed => [2, 3, 2, 3, 2, 1, 2, 4, 3, 2, 3, 1, 1, 5, 1],
        Profile::FailedRestarts => [1, 2, 2, 3, 1, 1, 2, 3, 6, 2, 1, 0, 1, 3, 1],
        Profile::Reloads | Profile::Timings => [2, 3, 2, 3, 1, 1, 2, 4, 5, 3, 1, 0, 1, 2, 1],
    };
    let hosts = options.hosts() as u64;
    if hosts > 2
        && !matches!(options.profile, Profile::Calm | Profile::Loss | Profile::Hosts)
        && random.per_million(250_000)
    {
        return draw_partition(random, options);
    }
    let node = random.between(0, hosts - 1) as usize;
    let other =
        if hosts == 1 { node } else { (node + random.between(1, hosts - 1) as usize) % options.hosts() };
    let path = random.between(0, paths.len() as u64 - 1) as usize;
    // Who forgets in the middle of a change who voted before is not safe, nor who forgets what was promised for a restart,
    // and the documentation says so.
    let remembers = options.profile.reloads() || options.profile == Profile::FailedRestarts;
    let disk_lost = random.per_million(250_000) && !remembers;
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

/// A daemon is replaced. One that comes back in time for the leases it has left takes less than a second and a half.
fn draw_restart(random: &mut Random, options: &Options, returns_in_time: bool) -> What {
    let node = random.between(0, options.hosts() as u64 - 1) as usize;
    let away = if returns_in_time || random.per_million(500_000) {
        Some(random.skewed(20 * MILLISECOND, 1400 * MILLISECOND))
    } else if random.per_million(300_000) {
        Some(random.between(1400 * MILLISECOND, 2500 * MILLISECOND))
    } else {
        None
    };
    What::Restart { node, away }
}

/// Every node reads new files at some time, or tries to.
fn draw_reloads(random: &mut Random, options: &Options, (from, until): (TrueTime, TrueTime)) -> Vec<Trouble> {
    let mut reloads = Vec::new();
    let mut begin = from;
    for _ in 0..4 {
        for node in 0..options.hosts() {
            let at = begin + random.between(0, (until - from) / 2);
            let back = random.per_million(150_000);
            reloads.push(Trouble { at: at.min(until), lasts: 1, what: What::Reload { node, back } });
        }
        begin += (until - from) / 4;
    }
    reloads
}

/// A voter is killed and comes back at once, while two that do not hear each other both want its vote.
fn draw_torn_between(
    random: &mut Random,
    options: &Options,
    (from, until): (TrueTime, TrueTime),
    dead: u64,
    beat: u64,
) -> Option<[Trouble; 2]> {
    let hosts = options.hosts();
    let lasts = 8 * dead;
    let at = from + random.between(0, until.saturating_sub(from + lasts));
    if at + lasts > until || random.per_million(400_000) {
        return None;
    }
    let one = random.between(0, hosts as u64 - 1) as usize;
    let (other, voter) = ((one + 1) % hosts, (one + 2) % hosts);
    let crash = What::Crash { node: voter, disk_lost: random.per_million(250_000) };
    Some([
        Trouble { at, lasts, what: What::Partition { one, other } },
        Trouble { at: at + random.between(dead, 6 * dead), lasts: random.skewed(100_000, beat), what: crash },
    ])
}

/// The cluster falls apart in one way or another.
fn draw_partition(random: &mut Random, options: &Options) -> What {
    let hosts = options.hosts() as u64;
    let everybody = u32::MAX >> (32 - hosts.clamp(1, 32));
    let node = random.between(0, hosts - 1) as usize;
    match random.weighted(&[4, 2, 3, 1, 1, 1]) {
        0 => What::Split { first: random.next() as u32 & everybody, second: 0 },
        1 => {
            What::Split { first: random.next() as u32 & everybody, second: random.next() as u32 & everybody }
        }
        2 => What::DirectedCuts {
            seed: random.next(),
            chance: random.one_of(&[100_000, 200_000, 300_000, 500_000]),
        },
        3 => What::Deaf { node },
        4 => What::Mute { node },
        _ => What::Split { first: 1 << node, second: 0 },
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
