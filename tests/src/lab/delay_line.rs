//! A long wire: what enters at one end leaves at the other a fixed time later, in its order.
//!
//! The kernel of a bare test machine has no netem. Here threads move the frames between two interfaces of the switches'
//! namespace by packet sockets, one thread for each way. Frames pass with what the kernel still has to do about
//! them (a checksum that is not computed yet), so that the line changes nothing but their time.

use std::collections::VecDeque;
use std::os::fd::{AsFd as _, AsRawFd as _, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anyhow::Context as _;
use nix::poll::{PollFd, PollFlags, ppoll};
use nix::sys::socket::{MsgFlags, recv, send};
use nix::sys::time::TimeSpec;

use super::clock::Moment;
use super::namespace::Namespace;
use super::probe::worker::{Stop, Workers};
use super::unsafe_calls::{end_of_a_wire, frames_lost, run_in_real_time};

/// Above the daemon's heartbeat thread: nobody can keep a wire from carrying.
const PRIORITY: i32 = 62;
/// How many frames are on their way at the same time, each way; a hundred heartbeats and a thousand ARP requests a second are
/// far fewer. What is more is lost.
const ROOM: usize = 4096;
/// How many frames are taken before those that are due leave.
const FRAMES_A_TURN: usize = 64;
/// A frame, however many segments the kernel has put into it.
const LONGEST: usize = 1 << 17;
/// How long a thread waits without looking whether it shall end.
const PATIENCE: Duration = Duration::from_millis(20);

/// The line. It carries from `lay` until it is dropped.
#[derive(Debug)]
pub struct DelayLine {
    lost: Arc<AtomicU64>,
    _workers: Workers,
}

impl DelayLine {
    /// Connects these two interfaces of a namespace.
    pub(super) fn lay(namespace: &Namespace, ends: &[String; 2], delay: Duration) -> anyhow::Result<Self> {
        let open = |end: &String| {
            let socket = namespace.run(|| Ok(end_of_a_wire(end)?));
            socket.with_context(|| format!("opening a packet socket on {end}"))
        };
        let [near, far] = ends;
        let (near, far) = (open(near)?, open(far)?);
        let lost = Arc::new(AtomicU64::new(0));
        let mut workers = Workers::default();
        for (from, to) in [(near.try_clone()?, far.try_clone()?), (far, near)] {
            let lost = Arc::clone(&lost);
            workers.start("delay-line", move |stop| carry(stop, &from, &to, delay, &lost))?;
        }
        Ok(Self { lost, _workers: workers })
    }

    /// How many frames were lost for want of room.
    #[must_use]
    pub fn lost(&self) -> u64 {
        self.lost.load(Ordering::Relaxed)
    }
}

fn carry(stop: &Stop, from: &OwnedFd, to: &OwnedFd, delay: Duration, lost: &AtomicU64) {
    // Where real time is refused, the line is longer than it should be when the machine is busy.
    let _ = run_in_real_time(PRIORITY);
    let mut buffer = vec![0; LONGEST];
    let mut under_way: VecDeque<(Moment, Vec<u8>)> = VecDeque::new();
    while !stop.asked() {
        for _ in 0..FRAMES_A_TURN {
            // An interface that is down or gone has nothing to read; it may come up.
            let Ok(length) = recv(from.as_raw_fd(), &mut buffer, MsgFlags::MSG_DONTWAIT) else { break };
            if under_way.len() < ROOM {
                let frame = buffer.get(..length).unwrap_or_default().to_vec();
                under_way.push_back((Moment::now() + delay, frame));
            } else {
                lost.fetch_add(1, Ordering::Relaxed);
            }
        }
        let now = Moment::now();
        while let Some((_, frame)) = under_way.pop_front_if(|(due, _)| *due <= now) {
            // What a wire cannot deliver is lost, as on any other.
            let _ = send(to.as_raw_fd(), &frame, MsgFlags::MSG_DONTWAIT);
        }
        let next = under_way.front().map_or(PATIENCE, |(due, _)| due.since(Moment::now()));
        let mut waiting = [PollFd::new(from.as_fd(), PollFlags::POLLIN)];
        // A failure only shows as a wait that was too short.
        let _ = ppoll(&mut waiting, Some(TimeSpec::from_duration(next.min(PATIENCE))), None);
        lost.fetch_add(u64::from(frames_lost(from.as_fd()).unwrap_or(0)), Ordering::Relaxed);
    }
}
