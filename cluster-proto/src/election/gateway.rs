//! Two nodes without a witness: a router on the service link tells a node that hears no peer whether it is itself cut
//! off. It is asked (by ARP or NS) only while no peer is heard, and a lease that rests on no peer's vote rests on its answers.

use std::net::IpAddr;

use crate::interface::{Effect, Effects, EventKind};
use crate::time::Time;

use super::quorum::Basis;
use super::{Core, PeerState, event};

/// What is known of one gateway.
#[derive(Clone, Debug)]
pub(super) struct Gateway {
    address: IpAddr,
    /// When it was first asked since its last answer.
    asked: Option<Time>,
    /// When the newest question that it answered was asked.
    proven: Option<Time>,
    next: Time,
    /// What was last told of it.
    said: Option<bool>,
}

impl Gateway {
    /// All gateways of these groups, those with what is known of them that were there before.
    pub(super) fn of(groups: &[crate::settings::Group], known: &[Self]) -> Vec<Self> {
        let mut gateways: Vec<IpAddr> = groups.iter().filter_map(|group| group.gateway).collect();
        gateways.sort_unstable();
        gateways.dedup();
        let new = |address| Self { address, asked: None, proven: None, next: Time::ZERO, said: None };
        let gateway = |address| {
            let known = known.iter().find(|known| known.address == address);
            known.cloned().unwrap_or_else(|| new(address))
        };
        gateways.into_iter().map(gateway).collect()
    }
}

impl Core {
    /// Asks the gateways, while no peer is heard.
    pub(super) fn judge_gateways(&mut self, now: Time, out: &mut Effects) {
        if self.gateways.is_empty() {
            return;
        }
        let silent = self.gateways_asked_from().is_some_and(|from| now >= from);
        let interval = self.settings.timing.heartbeat;
        let patience = self.settings.timing.dead_after;
        for gateway in &mut self.gateways {
            if !silent {
                *gateway = Gateway { asked: None, proven: None, next: Time::ZERO, ..gateway.clone() };
                continue;
            }
            if gateway.asked.is_some_and(|asked| now.since(asked) >= patience) && gateway.said != Some(false)
            {
                gateway.said = Some(false);
                event(out, now, EventKind::Gateway { address: gateway.address, answers: false });
            }
            if now >= gateway.next {
                gateway.asked.get_or_insert(now);
                gateway.next = now + interval;
                out.list.push(Effect::Probe { address: gateway.address });
            }
        }
    }

    /// When to ask next; never while a peer is heard.
    pub(super) fn gateway_deadline(&self) -> Time {
        let Some(from) = self.gateways_asked_from() else { return Time::NEVER };
        self.gateways.iter().map(|gateway| gateway.next.max(from)).fold(Time::NEVER, Time::min)
    }

    /// From when on the present silence of all voters is reason to ask: later than the next heartbeat should have come,
    /// and early enough for an answer before a holder goes alone.
    fn gateways_asked_from(&self) -> Option<Time> {
        if self.by_majority() {
            return None;
        }
        let since = self.partners().map(PeerState::silent_since).max()?;
        Some(since + self.settings.timing.heartbeat * 5 / 4)
    }

    /// An address answered.
    pub(super) fn gateway_answered(&mut self, now: Time, address: IpAddr, out: &mut Effects) {
        let Some(gateway) = self.gateways.iter_mut().find(|gateway| gateway.address == address) else {
            return;
        };
        // Unasked it proves nothing about now; asked several times, it may have answered the first.
        let Some(asked) = gateway.asked.take() else { return };
        gateway.proven = Some(asked);
        if gateway.said == Some(false) {
            gateway.said = Some(true);
            event(out, now, EventKind::Gateway { address, answers: true });
        }
    }

    /// What silence of all peers is worth in a group with a gateway: no more than the gateway's newest answer.
    pub(super) fn proven_by_gateway(&self, index: usize, basis: Basis) -> Basis {
        let Basis::Alone(sent) = basis else { return basis };
        let Some(gateway) = self.gateway(index) else { return basis };
        match gateway.proven {
            Some(proven) => Basis::Alone(sent.min(proven)),
            None => Basis::Nothing,
        }
    }

    /// Whether this node hears neither a peer nor the group's gateway, so that it could take the group on nothing. It must not
    /// stand meanwhile: by the time either is heard, what its probe has shown is long past.
    pub(super) fn is_cut_off(&self, index: usize) -> bool {
        let Some(gateway) = self.gateway(index) else { return false };
        let silent = !self.by_majority() && !self.partners().any(|peer| peer.alive);
        silent && gateway.proven.is_none_or(|proven| self.latest >= proven + self.lease)
    }

    /// The group's gateway, if it has one and there is a peer whose silence means anything.
    fn gateway(&self, index: usize) -> Option<&Gateway> {
        let address = self.settings.groups[index].gateway?;
        self.partners().next()?;
        self.gateways.iter().find(|gateway| gateway.address == address)
    }
}
