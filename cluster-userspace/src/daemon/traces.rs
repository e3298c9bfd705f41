//! Frames that a client wants to see: who may, of which group, and what the client is told of them.

use std::net::IpAddr;
use std::time::SystemTime;

use cluster_proto::{GroupId, Time};

use super::Daemon;
use crate::control::trace::{FrameRecord, TraceAnswer};
use crate::control::{Call, ControlError, ErrorCode, Reply, wall_clock};
use crate::dataplane::{TRACED_FOR, Trace};
use crate::driver::clock;

impl Daemon {
    /// Has frames traced and reads those that were, in a task of its own, since the data plane may be busy.
    pub(super) fn trace(&mut self, call: Call, vip: &str, every: u32, trace: u64) {
        let now = clock::now();
        let (plane, (vip, group)) = match (self.plane.clone(), self.group_of_vip(vip)) {
            (None, _) => {
                let why = format!("{} is a witness: no frame passes it", self.local.node);
                return call.answer(Err(ControlError::new(ErrorCode::Witness, why)));
            }
            (_, Err(error)) => return call.answer(Err(error)),
            (Some(plane), Ok(found)) => (plane, found),
        };
        let others = self.traced.filter(|&(other, asked)| other != trace && now.since(asked) < TRACED_FOR);
        if others.is_some() {
            let why = "another client has frames traced; one can at a time, and a trace is over three seconds after it was last asked for";
            return call.answer(Err(ControlError::new(ErrorCode::Busy, why)));
        }
        self.traced = Some((trace, now));
        tokio::spawn(async move {
            let traced = plane.blocking(move |plane| plane.trace(group, every.max(1), clock::now())).await;
            let now = (clock::now(), wall_clock::now());
            call.answer(match traced {
                Ok(Ok(Some(traced))) => Ok(Reply::Trace(Box::new(answer(&traced, vip, now)))),
                Ok(Ok(None)) => {
                    Err(ControlError::new(ErrorCode::UnknownVip, format!("{vip} is no VIP any more")))
                }
                Ok(Err(error)) => Err(ControlError::new(ErrorCode::Internal, error.to_string())),
                Err(error) => Err(ControlError::new(ErrorCode::Internal, error.to_string())),
            });
        });
    }

    /// The VIP and the group that has it.
    fn group_of_vip(&self, text: &str) -> Result<(IpAddr, GroupId), ControlError> {
        let asked: String = text.chars().take(60).collect();
        let vips: Vec<_> = self
            .settings
            .groups
            .iter()
            .flat_map(|group| group.vips.iter().map(|vip| (*vip, group.id)))
            .collect();
        let vip = text.parse::<IpAddr>().ok();
        vips.iter().find(|(other, _)| Some(*other) == vip).copied().ok_or_else(|| {
            let known: Vec<_> = vips.iter().take(16).map(|(vip, _)| vip.to_string()).collect();
            let more = if vips.len() > 16 { ", …" } else { "" };
            let why = format!("no group has the VIP {asked:?}; there are {}{more}", known.join(", "));
            ControlError::new(ErrorCode::UnknownVip, why)
        })
    }
}

/// The frames of a trace in which the VIP occurs: the group may have others. `now` is the same moment by both clocks.
fn answer(trace: &Trace, vip: IpAddr, now: (Time, SystemTime)) -> TraceAnswer {
    let octets = match vip {
        IpAddr::V4(vip) => vip.octets().to_vec(),
        IpAddr::V6(vip) => vip.octets().to_vec(),
    };
    let names_it = |bytes: &[u8]| bytes.windows(octets.len()).any(|window| window == octets);
    let frames = trace.frames.iter().filter(|frame| names_it(&frame.bytes)).map(|frame| {
        let at = (frame.at, now.1 - now.0.since(frame.at));
        FrameRecord::of(frame.verdict, at, frame.length, &frame.bytes)
    });
    TraceAnswer { frames: frames.collect(), lost: trace.lost }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, UNIX_EPOCH};

    use super::*;
    use crate::dataplane::{TracedFrame, Verdict};

    #[test]
    fn frames_of_other_vips_of_the_group_are_left_out() {
        let at = Time::from_nanos(5_000_000_000);
        let bytes = vec![0, 10, 77, 0, 100, 0];
        let frame = TracedFrame { at, verdict: Verdict::Ipv4Dark, length: 60, bytes };
        let trace = Trace { frames: vec![frame], lost: 3 };
        let now = (Time::from_nanos(6_000_000_000), UNIX_EPOCH + Duration::from_secs(1_000_000_001));
        let answered = |vip: &str| answer(&trace, vip.parse().unwrap(), now);
        assert_eq!(answered("10.77.0.100").frames[0].unix_ns, 1_000_000_000_000_000_000);
        assert_eq!(answered("10.77.0.100").lost, 3);
        assert!(answered("10.77.0.101").frames.is_empty() && answered("fd77::1").frames.is_empty());
    }
}
