//! Frames of a group that somebody wants to see: asked for from time to time, and over by itself when nobody asks.

use std::sync::atomic::Ordering;
use std::time::Duration;

use aya::maps::{MapData, PerCpuArray, RingBuf};
use cluster_common::Verdict;
use cluster_common::maps::{JUDGED, Traced, Tracing};
use cluster_proto::Time;

use super::error::DataPlaneError;
use super::slots::GroupSlot;
use super::unsafe_shared_words::SharedWords;

/// For how long frames are traced after each time they were asked for.
pub const TRACED_FOR: Duration = Duration::from_secs(3);
/// So many frames are handed over at a time; what is left waits in the ring.
const AT_ONCE: usize = 512;

/// A frame that concerned a VIP, as a program let it go on, sent it back or dropped it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct TracedFrame {
    /// When.
    pub at: Time,
    /// What became of it.
    pub verdict: Verdict,
    /// Its length in bytes.
    pub length: u32,
    /// Its first bytes.
    pub bytes: Vec<u8>,
}

/// The frames since they were last asked for.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct Trace {
    /// Oldest first.
    pub frames: Vec<TracedFrame>,
    /// How many more there were for which there was no room, since the programs were loaded.
    pub lost: u64,
}

/// The maps that traces are made of.
pub(super) struct TraceMaps {
    /// The two words of [`Tracing`].
    pub(super) tracing: SharedWords,
    pub(super) judged: PerCpuArray<MapData, [u32; 4]>,
    pub(super) ring: RingBuf<MapData>,
}

impl TraceMaps {
    /// Has each `every`'th frame of the group traced for [`TRACED_FOR`] from `now` on, and hands over those that were.
    pub(super) fn trace(&mut self, slot: GroupSlot, every: u32, now: Time) -> Result<Trace, DataPlaneError> {
        let until = (now + TRACED_FOR).as_nanos();
        let [selection, _]: [u64; 2] = bytemuck::cast(Tracing { group: slot.index(), every, until });
        if let [selected, ends] = self.tracing.words() {
            if selected.load(Ordering::SeqCst) != selection || ends.load(Ordering::SeqCst) <= now.as_nanos() {
                ends.store(0, Ordering::SeqCst);
                selected.store(selection, Ordering::SeqCst);
                // What a trace before this one has left.
                while self.ring.next().is_some() {}
            }
            ends.store(until, Ordering::SeqCst);
        }
        let mut frames = Vec::new();
        while frames.len() < AT_ONCE
            && let Some(record) = self.ring.next()
        {
            frames.extend(frame(&record, slot));
        }
        let mut lost = 0;
        for hook in 0..2 {
            let judged = self.judged.get(&hook, 0).map_err(|source| DataPlaneError::Map {
                attempt: "read",
                map: JUDGED,
                source,
            })?;
            lost += judged.iter().map(|[.., lost]| u64::from(*lost)).sum::<u64>();
        }
        // Each program's frames are in order, and both write into one ring.
        frames.sort_by_key(|frame| frame.at);
        Ok(Trace { frames, lost })
    }
}

/// What a record of the ring says, if it is of this group.
fn frame(record: &[u8], slot: GroupSlot) -> Option<TracedFrame> {
    let traced: Traced = bytemuck::try_pod_read_unaligned(record).ok()?;
    let verdict = *Verdict::ALL.get(traced.verdict as usize)?;
    let bytes = traced.bytes.get(..traced.captured as usize)?.to_vec();
    let of_group = traced.group == slot.index();
    of_group.then_some(TracedFrame { at: Time::from_nanos(traced.at), verdict, length: traced.length, bytes })
}
