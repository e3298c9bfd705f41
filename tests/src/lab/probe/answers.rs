//! Who answers ARP requests for the VIP, on both links: each request may be answered by one node at most.
//!
//! Every request carries its own number in its sender's hardware address, which an answer repeats as its target, so that every
//! answer names the request it belongs to, however late it is. The sender's IP address is always the same one, which the
//! client owns besides its ordinary one: nodes that learn from requests, or ask back, learn nothing about the
//! client's own address and get a true answer.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::Ipv4Addr;
use std::os::fd::{AsFd as _, AsRawFd as _, OwnedFd};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::Context as _;
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{MsgFlags, recv, send};

use super::echo::PRIORITY;
use super::worker::{Stop, Workers};
use crate::lab::clock::{Moment, Window};
use crate::lab::topology::{CLIENT, Lab, Leg, Link, Mac, VIP};
use crate::lab::unsafe_calls::{frames_lost, packet_socket, run_in_real_time};

/// How often it asks on each link.
pub const INTERVAL: Duration = Duration::from_millis(1);

/// How long it goes on listening after it has stopped asking.
const LINGER: Duration = Duration::from_millis(30);

/// The length of an ARP packet for Ethernet and IPv4 with its Ethernet header.
const FRAME: usize = 42;
/// ARP for Ethernet and IPv4, up to the operation (RFC 826): EtherType, hardware and protocol type, and their lengths.
const ARP_FOR_IPV4: [u8; 8] = [0x08, 0x06, 0, 1, 0x08, 0, 6, 4];
/// The two operations.
const REQUEST: [u8; 2] = [0, 1];
const REPLY: [u8; 2] = [0, 2];
/// What the sender's hardware address of a request begins with: locally administered, and nobody's in the lab.
const NUMBERED: [u8; 2] = [0x06, 0xa5];

/// One ARP answer.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Answer {
    /// The link it was heard on.
    pub link: Link,
    /// The number of the request on that link.
    pub request: u32,
    /// When it was heard.
    pub at: Moment,
    /// The VIP's Ethernet address according to it.
    pub mac: Mac,
    /// The Ethernet address it was sent from.
    pub source: Mac,
}

/// A request that more than one node answered.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct DoubleAnswer {
    /// The link it was asked on.
    pub link: Link,
    /// When it was asked.
    pub asked: Moment,
    /// The different answers it got: the address each gave for the VIP and the one it was sent from.
    pub answers: BTreeSet<(Mac, Mac)>,
}

/// When the requests of one link were asked, beginning with the one with this number.
#[derive(Debug, Default)]
struct Asked {
    first: u32,
    at: VecDeque<Moment>,
}

#[derive(Debug, Default)]
struct Record {
    asked: BTreeMap<u8, Asked>,
    answers: Vec<Answer>,
    lost: u64,
}

/// The probe. It asks from `start` until it is dropped.
#[derive(Debug)]
pub struct AnswerProbe {
    record: Arc<Mutex<Record>>,
    workers: Workers,
}

impl AnswerProbe {
    /// Starts asking for the lab's VIP on both links every [`INTERVAL`].
    ///
    /// # Errors
    /// When a packet socket cannot be opened.
    pub fn start(lab: &Lab) -> anyhow::Result<Self> {
        Self::start_with(lab, VIP, INTERVAL)
    }

    /// Starts asking for `address` on both links every `interval`.
    ///
    /// # Errors
    /// When a packet socket cannot be opened.
    pub fn start_with(lab: &Lab, address: Ipv4Addr, interval: Duration) -> anyhow::Result<Self> {
        let record = Arc::new(Mutex::new(Record::default()));
        let mut workers = Workers::default();
        for link in Link::ALL {
            let leg = lab.leg(CLIENT, link);
            let socket = lab.client().run(|| Ok(packet_socket(leg.interface)?));
            let hearing = socket
                .with_context(|| format!("opening a packet socket on the client's {}", leg.interface))?;
            let asking = hearing.try_clone()?;
            let (asked, heard) = (Arc::clone(&record), Arc::clone(&record));
            workers.start("arp-hears", move |stop| hear(stop, &hearing, link, address, &heard))?;
            workers.start("arp-asks", move |stop| ask(stop, &asking, &leg, address, interval, &asked))?;
        }
        Ok(Self { record, workers })
    }

    /// Stops asking and leaves the record to be read. Answers that are still on their way are heard.
    pub fn stop(&mut self) {
        self.workers.end();
    }

    /// The requests that were answered by more than one node. There must be none, ever.
    #[must_use]
    pub fn double_answers(&self) -> Vec<DoubleAnswer> {
        self.double_answers_in(Window::ALWAYS)
    }

    /// Those among them that were asked within `window`.
    #[must_use]
    pub fn double_answers_in(&self, window: Window) -> Vec<DoubleAnswer> {
        let record = self.record();
        let mut given: BTreeMap<(u8, u32), BTreeSet<(Mac, Mac)>> = BTreeMap::new();
        for answer in &record.answers {
            given
                .entry((place(answer.link), answer.request))
                .or_default()
                .insert((answer.mac, answer.source));
        }
        let doubled = given.into_iter().filter(|(_, answers)| answers.len() > 1);
        let described = doubled.filter_map(|((place, request), answers)| {
            let link = Link::ALL.into_iter().find(|link| self::place(*link) == place)?;
            let asked = record.asked.get(&place)?;
            let asked = *asked.at.get(request.checked_sub(asked.first)? as usize)?;
            window.contains(asked).then_some(DoubleAnswer { link, asked, answers })
        });
        described.collect()
    }

    /// How many requests were asked on `link` within `window`.
    #[must_use]
    pub fn asked(&self, link: Link, window: Window) -> usize {
        let record = self.record();
        record
            .asked
            .get(&place(link))
            .map_or(0, |asked| asked.at.iter().filter(|at| window.contains(**at)).count())
    }

    /// The answers heard within `window`.
    #[must_use]
    pub fn answers(&self, window: Window) -> Vec<Answer> {
        self.record().answers.iter().filter(|answer| window.contains(answer.at)).copied().collect()
    }

    /// Forgets the requests asked until `moment` and the answers to them, for a probe that goes on for hours.
    pub fn forget_until(&self, moment: Moment) {
        let mut record = self.record();
        let Record { asked, answers, .. } = &mut *record;
        for asked in asked.values_mut() {
            let old = asked.at.partition_point(|at| *at <= moment);
            asked.at.drain(..old);
            asked.first += u32::try_from(old).unwrap_or(u32::MAX);
        }
        answers.retain(|answer| {
            asked.get(&place(answer.link)).is_some_and(|asked| answer.request >= asked.first)
        });
    }

    /// How many frames the probe itself lost; unless it is zero, it may have missed a double answer.
    #[must_use]
    pub fn lost(&self) -> u64 {
        self.record().lost
    }

    fn record(&self) -> MutexGuard<'_, Record> {
        self.record.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn place(link: Link) -> u8 {
    match link {
        Link::Private => 0,
        Link::Public => 1,
    }
}

fn ask(
    stop: &Stop,
    socket: &OwnedFd,
    leg: &Leg,
    address: Ipv4Addr,
    interval: Duration,
    record: &Mutex<Record>,
) {
    // Where real time is refused, it asks less regularly, and the count of requests tells.
    let _ = run_in_real_time(PRIORITY);
    let mut due = Moment::now();
    let mut number: u32 = 0;
    while !stop.asked() {
        due.sleep();
        let frame = request(leg, address, number);
        {
            let mut record = record.lock().unwrap_or_else(PoisonError::into_inner);
            record.asked.entry(place(leg.link)).or_default().at.push_back(Moment::now());
        }
        // A request that cannot be sent (the client's own link is down) is one that nobody answers.
        let _ = send(socket.as_raw_fd(), &frame, MsgFlags::MSG_DONTWAIT);
        number = number.wrapping_add(1);
        due = (due + interval).max(Moment::now() - interval);
    }
}

/// The ARP request with this number.
fn request(leg: &Leg, address: Ipv4Addr, number: u32) -> [u8; FRAME] {
    let mut frame = [0; FRAME];
    frame[0..6].copy_from_slice(&[0xff; 6]);
    frame[6..12].copy_from_slice(&leg.mac.0);
    frame[12..20].copy_from_slice(&ARP_FOR_IPV4);
    frame[20..22].copy_from_slice(&REQUEST);
    frame[22..24].copy_from_slice(&NUMBERED);
    frame[24..28].copy_from_slice(&number.to_be_bytes());
    frame[28..32].copy_from_slice(&leg.link.asking_address().octets());
    frame[38..42].copy_from_slice(&address.octets());
    frame
}

fn hear(stop: &Stop, socket: &OwnedFd, link: Link, address: Ipv4Addr, record: &Mutex<Record>) {
    let _ = run_in_real_time(PRIORITY);
    let mut buffer = [0; 128];
    let mut end = None;
    // What is still on its way when the asking ends is heard too.
    while end.is_none_or(|end| Moment::now() < end) {
        if end.is_none() && stop.asked() {
            end = Some(Moment::now() + LINGER);
        }
        match recv(socket.as_raw_fd(), &mut buffer, MsgFlags::MSG_DONTWAIT) {
            Ok(length) => {
                let answer = buffer.get(..length).and_then(|frame| parse(frame, link, address));
                if let Some(answer) = answer {
                    record.lock().unwrap_or_else(PoisonError::into_inner).answers.push(answer);
                }
            }
            Err(Errno::EAGAIN | Errno::ENETDOWN) => {
                let mut waiting = [PollFd::new(socket.as_fd(), PollFlags::POLLIN)];
                // A failure only shows as a wait that was too short.
                let _ = poll(&mut waiting, PollTimeout::from(10u8));
                let lost = frames_lost(socket.as_fd()).unwrap_or(0);
                record.lock().unwrap_or_else(PoisonError::into_inner).lost += u64::from(lost);
            }
            Err(_) => return,
        }
    }
}

/// The answer that `frame` is, if it says where `address` is.
fn parse(frame: &[u8], link: Link, address: Ipv4Addr) -> Option<Answer> {
    let frame: &[u8; FRAME] = frame.first_chunk()?;
    let field = |from: usize| -> Option<[u8; 6]> { frame.get(from..from + 6)?.try_into().ok() };
    let is_answer = frame[12..20] == ARP_FOR_IPV4
        && frame[20..22] == REPLY
        && frame[28..32] == address.octets()
        && frame[32..34] == NUMBERED;
    let number = u32::from_be_bytes(frame.get(34..38)?.try_into().ok()?);
    let answer =
        Answer { link, request: number, at: Moment::now(), mac: Mac(field(22)?), source: Mac(field(6)?) };
    is_answer.then_some(answer)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lab::namespace::Namespace;

    /// An answer as the kernel gives it: addresses swapped, its own in the sender's place.
    #[test]
    fn an_answer_names_its_request() {
        let leg = Leg {
            owner: CLIENT.to_owned(),
            namespace: Namespace::named("none".to_owned()),
            link: Link::Public,
            interface: "eth0",
            port: "pub-client".to_owned(),
            address: Link::Public.address(50),
            mac: Mac([2, 0, 0, 77, 0, 50]),
        };
        let asked = request(&leg, VIP, 0x0102_0304);
        assert_eq!(parse(&asked, Link::Public, VIP), None, "a request is not an answer");
        let node = [2, 0, 0, 77, 0, 1];
        let mut answer = asked;
        answer[0..6].copy_from_slice(&asked[22..28]);
        answer[6..12].copy_from_slice(&node);
        answer[20..22].copy_from_slice(&REPLY);
        answer[22..28].copy_from_slice(&node);
        answer[28..32].copy_from_slice(&VIP.octets());
        answer[32..38].copy_from_slice(&asked[22..28]);
        answer[38..42].copy_from_slice(&asked[28..32]);
        let parsed =
            parse(&answer, Link::Public, VIP).map(|answer| (answer.request, answer.mac, answer.source));
        assert_eq!(parsed, Some((0x0102_0304, Mac(node), Mac(node))));
    }
}
