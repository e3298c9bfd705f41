//! A client that asks the VIP all the time: what it was served, by whom, and for how long it was not.

use std::collections::{BTreeMap, VecDeque};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::Context as _;

use super::echo::{PORT, PRIORITY, REQUEST_LENGTH};
use super::worker::{Stop, Workers};
use crate::lab::clock::{Moment, Window, await_some};
use crate::lab::topology::{Lab, VIP};
use crate::lab::unsafe_calls::run_in_real_time;

/// How often the client asks unless told otherwise.
pub const INTERVAL: Duration = Duration::from_micros(250);

/// One request of the client.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Request {
    /// When it was sent.
    pub sent: Moment,
    /// When its answer came and from which node; of several answers the first.
    pub answer: Option<(Moment, NodeIndex)>,
}

/// A node's place in [`Lab::nodes`].
pub type NodeIndex = u8;

/// The longest time within a window in which the client was not served.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outage {
    /// From the last answer before it to the first one after it, the client's own interval included; the whole window
    /// where there was no answer at all.
    pub length: Duration,
    /// When the last answer before it came, or the window's beginning.
    pub from: Moment,
    /// When the first answer after it came, or the window's end.
    pub to: Moment,
    /// Who served last before it.
    pub before: Option<String>,
    /// Who served first after it.
    pub after: Option<String>,
    /// How many requests sent within the window were never answered.
    pub lost: usize,
}

/// What became of each request of a window.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Losses {
    /// How many were sent.
    pub asked: usize,
    /// How many were not answered in time, or not at all.
    pub lost: usize,
    /// The longest that one of the others waited for its answer.
    pub slowest: Duration,
}

/// A time without an answer that was noticed when it ended: a long one, or one at whose end another node serves.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Interruption {
    /// When the last answer before it came.
    pub from: Moment,
    /// When the first answer after it came.
    pub to: Moment,
    /// Who served last before it.
    pub before: String,
    /// Who served first after it.
    pub after: String,
}

/// From how long on a time without an answer is an [`Interruption`] although the same node serves after it.
const LONG: Duration = Duration::from_millis(10);

#[derive(Debug, Default)]
struct Record {
    /// The number of the oldest request that is kept.
    first: u64,
    requests: VecDeque<Request>,
    last: Option<(Moment, NodeIndex)>,
    answered: u64,
    interruptions: Vec<(Moment, Moment, NodeIndex, NodeIndex)>,
    /// Requests the client's own kernel refused to send, for want of a neighbour.
    refused: u64,
}

/// The client. It asks from `start` until it is dropped.
#[derive(Debug)]
pub struct RequestProbe {
    record: Arc<Mutex<Record>>,
    names: Vec<String>,
    workers: Workers,
}

impl RequestProbe {
    /// Starts asking the lab's VIP every [`INTERVAL`].
    ///
    /// # Errors
    /// When the client's socket cannot be opened.
    pub fn start(lab: &Lab) -> anyhow::Result<Self> {
        Self::start_with(lab, VIP, INTERVAL)
    }

    /// Starts asking `address` every `interval`.
    ///
    /// # Errors
    /// When the client's socket cannot be opened.
    pub fn start_with(lab: &Lab, address: impl Into<IpAddr>, interval: Duration) -> anyhow::Result<Self> {
        let address = address.into();
        let any: IpAddr =
            if address.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
        let asking = lab.client().run(|| {
            let socket = UdpSocket::bind(SocketAddr::new(any, 0))?;
            nix::sys::socket::setsockopt(&socket, nix::sys::socket::sockopt::RcvBufForce, &(4 << 20))?;
            socket.set_read_timeout(Some(Duration::from_millis(50)))?;
            Ok(socket)
        });
        let asking = asking.context("opening the client's socket")?;
        let hearing = asking.try_clone()?;
        let record = Arc::new(Mutex::new(Record::default()));
        let names: Vec<String> = lab.nodes().iter().map(|node| node.name.clone()).collect();
        let mut workers = Workers::default();
        let (asked, heard, known) = (Arc::clone(&record), Arc::clone(&record), names.clone());
        workers.start("client-hears", move |stop| hear(stop, &hearing, &heard, &known))?;
        let to = SocketAddr::new(address, PORT);
        workers.start("client-asks", move |stop| ask(stop, &asking, to, interval, &asked))?;
        Ok(Self { record, names, workers })
    }

    /// Waits until the client is served by `node`, or by anyone, and returns when that answer came.
    ///
    /// # Errors
    /// When that has not happened within `timeout`.
    pub fn await_service(&self, node: Option<&str>, timeout: Duration) -> anyhow::Result<Moment> {
        let from = Moment::now();
        let what = format!("the client to be served by {}", node.unwrap_or("any node"));
        await_some(&what, timeout, || {
            let last =
                self.last_answer().filter(|(at, by)| *at >= from && node.is_none_or(|node| by == node));
            Ok(last.map(|(at, _)| at))
        })
    }

    /// When the client was last served, and by whom.
    #[must_use]
    pub fn last_answer(&self) -> Option<(Moment, String)> {
        let last = self.record().last;
        last.map(|(at, by)| (at, self.name(by).to_owned()))
    }

    /// How many requests were answered so far.
    #[must_use]
    pub fn answered(&self) -> u64 {
        self.record().answered
    }

    /// The interruptions so far, without the first so many.
    #[must_use]
    pub fn interruptions(&self, but: usize) -> Vec<Interruption> {
        let found: Vec<_> = self.record().interruptions.iter().skip(but).copied().collect();
        let named = found.into_iter().map(|(from, to, before, after)| {
            let (before, after) = (self.name(before).to_owned(), self.name(after).to_owned());
            Interruption { from, to, before, after }
        });
        named.collect()
    }

    /// Forgets the requests sent before `moment`, for a client that goes on for hours.
    pub fn forget_before(&self, moment: Moment) {
        let mut record = self.record();
        let old = record.requests.partition_point(|request| request.sent < moment);
        record.requests.drain(..old);
        record.first += old as u64;
    }

    /// Stops asking, waits for answers that are still on their way, and leaves the record to be read.
    pub fn stop(&mut self) {
        self.workers.end();
    }

    /// All requests so far.
    #[must_use]
    pub fn requests(&self) -> Vec<Request> {
        self.record().requests.iter().copied().collect()
    }

    /// The requests sent within `window`.
    #[must_use]
    pub fn requests_in(&self, window: Window) -> Vec<Request> {
        let record = self.record();
        let first = record.requests.partition_point(|request| request.sent < window.from);
        let inside = record.requests.range(first..).take_while(|request| request.sent <= window.to);
        inside.copied().collect()
    }

    /// How many requests the client's own kernel refused to send, for want of a neighbour.
    #[must_use]
    pub fn refused(&self) -> u64 {
        self.record().refused
    }

    /// The longest time within `window` without an answer. Requests of the last moments of a window that ends now may
    /// count as lost because their answers are still on their way.
    #[must_use]
    pub fn outage(&self, window: Window) -> Outage {
        let requests = self.requests_in(window);
        let mut answers: Vec<(Moment, NodeIndex)> =
            requests.iter().filter_map(|request| request.answer).collect();
        answers.sort_unstable();
        let ends = (Moment(window.from.0), Moment(window.to.0.min(Moment::now().0)));
        let before = std::iter::once((ends.0, None)).chain(answers.iter().map(|(at, by)| (*at, Some(*by))));
        let after = answers.iter().map(|(at, by)| (*at, Some(*by))).chain([(ends.1, None)]);
        let lost = requests.iter().filter(|request| request.answer.is_none()).count();
        let named = |by: Option<NodeIndex>| by.map(|by| self.name(by).to_owned());
        let longest = before.zip(after).max_by_key(|((left, _), (right, _))| right.since(*left));
        let ((from, last), (to, next)) = longest.unwrap_or(((ends.0, None), (ends.1, None)));
        Outage { length: to.since(from), from, to, before: named(last), after: named(next), lost }
    }

    /// What became of the requests sent within `window`, where one that is not answered within `patience` is lost. The window must
    /// have ended that long ago.
    #[must_use]
    pub fn losses(&self, window: Window, patience: Duration) -> Losses {
        let requests = self.requests_in(window);
        let waits = requests.iter().filter_map(|request| Some(request.answer?.0.since(request.sent)));
        let in_time: Vec<Duration> = waits.filter(|wait| *wait <= patience).collect();
        let (asked, lost) = (requests.len(), requests.len() - in_time.len());
        Losses { asked, lost, slowest: in_time.into_iter().max().unwrap_or_default() }
    }

    /// The longest time within `window` between two requests: how long the client itself stalled.
    #[must_use]
    pub fn longest_pause(&self, window: Window) -> Duration {
        let requests = self.requests_in(window);
        let pauses = requests.windows(2).map(|pair| pair[1].sent.since(pair[0].sent));
        pauses.max().unwrap_or_default()
    }

    /// How many answers within `window` came from each node.
    #[must_use]
    pub fn served_by(&self, window: Window) -> BTreeMap<String, usize> {
        let mut served = BTreeMap::new();
        for (_, by) in self.requests_in(window).iter().filter_map(|request| request.answer) {
            *served.entry(self.name(by).to_owned()).or_insert(0) += 1;
        }
        served
    }

    /// The name of the node with this index.
    #[must_use]
    pub fn name(&self, node: NodeIndex) -> &str {
        self.names.get(usize::from(node)).map_or("a stranger", String::as_str)
    }

    fn record(&self) -> MutexGuard<'_, Record> {
        self.record.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn ask(stop: &Stop, socket: &UdpSocket, to: SocketAddr, interval: Duration, record: &Mutex<Record>) {
    // Where real time is refused, the client's own stalls show as pauses between requests.
    let _ = run_in_real_time(PRIORITY);
    let mut due = Moment::now();
    let mut number: u64 = 0;
    while !stop.asked() {
        due.sleep();
        let mut request = [0; REQUEST_LENGTH];
        request[..8].copy_from_slice(&number.to_be_bytes());
        {
            // The record comes before the request, so that no answer is faster than it.
            let mut record = record.lock().unwrap_or_else(PoisonError::into_inner);
            record.requests.push_back(Request { sent: Moment::now(), answer: None });
        }
        if socket.send_to(&request, to).is_err() {
            record.lock().unwrap_or_else(PoisonError::into_inner).refused += 1;
        }
        number += 1;
        // After a stall it goes on from now: a burst of late requests would be no client's behaviour.
        due = (due + interval).max(Moment::now() - interval);
    }
}

fn hear(stop: &Stop, socket: &UdpSocket, record: &Mutex<Record>, names: &[String]) {
    let _ = run_in_real_time(PRIORITY);
    let mut buffer = [0; REQUEST_LENGTH + 64];
    loop {
        let Ok(length) = socket.recv(&mut buffer) else {
            // What was still on its way when the client was told to stop has arrived within the read's time-out.
            if stop.asked() {
                return;
            }
            continue;
        };
        let at = Moment::now();
        let (Some(number), Some(name)) = (buffer.first_chunk::<8>(), buffer.get(REQUEST_LENGTH..length))
        else {
            continue;
        };
        let number = u64::from_be_bytes(*number);
        let by = names.iter().position(|known| known.as_bytes() == name);
        let by = by.and_then(|index| NodeIndex::try_from(index).ok()).unwrap_or(NodeIndex::MAX);
        let mut record = record.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((before, who)) = record.last
            && (who != by || at.since(before) > LONG)
        {
            record.interruptions.push((before, at, who, by));
        }
        record.last = Some((at, by));
        record.answered += 1;
        let place = number.checked_sub(record.first).and_then(|place| usize::try_from(place).ok());
        let request = place.and_then(|place| record.requests.get_mut(place));
        if let Some(request) = request.filter(|request| request.answer.is_none()) {
            request.answer = Some((at, by));
        }
    }
}
