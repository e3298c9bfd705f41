//! Who answers when it is asked who has the VIP (ARP requests, neighbour solicitations), on both links: each request may be
//! answered by one node at most.
//!
//! Every request carries a number of its own which an answer repeats (`question.rs`), so that every answer names the request
//! it belongs to, however late it is. The sender's IP address is always the same one, which the client owns besides its
//! ordinary one: nodes that learn from requests, or ask back, learn nothing about the client's own address and get a true
//! answer.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::IpAddr;
use std::os::fd::{AsFd as _, AsRawFd as _, OwnedFd};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::Context as _;
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{MsgFlags, recv, send};

use super::echo::PRIORITY;
use super::question::{self, question};
use super::worker::{Stop, Workers};
use crate::lab::clock::{Moment, Window};
use crate::lab::topology::{CLIENT, Lab, Leg, Link, Mac, VIP};
use crate::lab::unsafe_calls::{frames_lost, packet_socket, run_in_real_time};

/// How often it asks on each link.
pub const INTERVAL: Duration = Duration::from_millis(1);

/// How long it goes on listening after it has stopped asking.
const LINGER: Duration = Duration::from_millis(30);

/// One answer.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Answer {
    /// The link it was heard on.
    pub link: Link,
    /// The address it is about.
    pub address: IpAddr,
    /// The number of the request for that address on that link.
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
    /// The address it was about.
    pub address: IpAddr,
    /// When it was asked.
    pub asked: Moment,
    /// The different answers it got: the address each gave for the VIP and the one it was sent from.
    pub answers: BTreeSet<(Mac, Mac)>,
}

/// Where and about what is asked; the requests of each are numbered on their own.
type Place = (Link, IpAddr);

/// When the requests of one place were asked, beginning with the one with this number.
#[derive(Debug, Default)]
struct Asked {
    first: u32,
    at: VecDeque<Moment>,
}

#[derive(Debug, Default)]
struct Record {
    asked: BTreeMap<Place, Asked>,
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
    pub fn start_with(lab: &Lab, address: impl Into<IpAddr>, interval: Duration) -> anyhow::Result<Self> {
        Self::start_with_all(lab, &[address.into()], interval)
    }

    /// Starts asking for each of these addresses on both links every `interval`.
    ///
    /// # Errors
    /// When a packet socket cannot be opened.
    pub fn start_with_all(lab: &Lab, addresses: &[IpAddr], interval: Duration) -> anyhow::Result<Self> {
        let record = Arc::new(Mutex::new(Record::default()));
        let mut workers = Workers::default();
        for (link, &address) in Link::ALL.iter().flat_map(|&link| addresses.iter().map(move |to| (link, to)))
        {
            let leg = lab.leg(CLIENT, link);
            let socket = lab.client().run(|| Ok(packet_socket(leg.interface)?));
            let hearing = socket
                .with_context(|| format!("opening a packet socket on the client's {}", leg.interface))?;
            let asking = hearing.try_clone()?;
            let (asked, heard) = (Arc::clone(&record), Arc::clone(&record));
            workers.start("who-has-hears", move |stop| hear(stop, &hearing, (link, address), &heard))?;
            workers.start("who-has-asks", move |stop| ask(stop, &asking, &leg, address, interval, &asked))?;
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
        let mut given: BTreeMap<(Place, u32), BTreeSet<(Mac, Mac)>> = BTreeMap::new();
        for answer in &record.answers {
            let place = (answer.link, answer.address);
            given.entry((place, answer.request)).or_default().insert((answer.mac, answer.source));
        }
        let doubled = given.into_iter().filter(|(_, answers)| answers.len() > 1);
        let described = doubled.filter_map(|((place, request), answers)| {
            let asked = record.asked.get(&place)?;
            let asked = *asked.at.get(request.checked_sub(asked.first)? as usize)?;
            let (link, address) = place;
            window.contains(asked).then_some(DoubleAnswer { link, address, asked, answers })
        });
        described.collect()
    }

    /// How many requests were asked on `link` within `window`.
    #[must_use]
    pub fn asked(&self, link: Link, window: Window) -> usize {
        let record = self.record();
        let there = record.asked.iter().filter(|((on, _), _)| *on == link);
        there.flat_map(|(_, asked)| &asked.at).filter(|at| window.contains(**at)).count()
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
            let place = (answer.link, answer.address);
            asked.get(&place).is_some_and(|asked| answer.request >= asked.first)
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

fn ask(
    stop: &Stop,
    socket: &OwnedFd,
    leg: &Leg,
    address: IpAddr,
    interval: Duration,
    record: &Mutex<Record>,
) {
    // Where real time is refused, it asks less regularly, and the count of requests tells.
    let _ = run_in_real_time(PRIORITY);
    let mut due = Moment::now();
    let mut number: u32 = 0;
    while !stop.asked() {
        due.sleep();
        let frame = question(leg, address, number);
        {
            let mut record = record.lock().unwrap_or_else(PoisonError::into_inner);
            record.asked.entry((leg.link, address)).or_default().at.push_back(Moment::now());
        }
        // A request that cannot be sent (the client's own link is down) is one that nobody answers.
        let _ = send(socket.as_raw_fd(), &frame, MsgFlags::MSG_DONTWAIT);
        number = number.wrapping_add(1);
        due = (due + interval).max(Moment::now() - interval);
    }
}

fn hear(stop: &Stop, socket: &OwnedFd, (link, address): Place, record: &Mutex<Record>) {
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
                let reply = buffer.get(..length).and_then(|frame| question::answer(frame, address));
                if let Some(question::Reply { number: request, mac, source }) = reply {
                    let answer = Answer { link, address, request, at: Moment::now(), mac, source };
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
