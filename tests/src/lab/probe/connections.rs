//! Long-lived TCP connections from the client to the VIP, each with a small message every few milliseconds that comes back: which of
//! them broke, and for how long each stood still.

use std::collections::BTreeMap;
use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{IpAddr, Ipv6Addr, SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::Context as _;
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags};

use super::echo::PRIORITY;
use super::worker::{Stop, Workers};
use crate::lab::clock::{Moment, Window};
use crate::lab::topology::{Lab, Node};
use crate::lab::unsafe_calls::run_in_real_time;

/// The port of the service.
pub const PORT: u16 = 7001;
/// How many connections unless told otherwise.
pub const COUNT: usize = 50;
/// How often each says something unless told otherwise.
pub const INTERVAL: Duration = Duration::from_millis(5);
/// The length of a message.
const MESSAGE: usize = 16;
/// How long a connection may take to come about.
const CONNECTED: Duration = Duration::from_secs(2);
/// For how many milliseconds a thread waits for something to read before it looks whether it shall end.
const WAIT_MS: u8 = 20;

/// A node's service: it sends back whatever it gets, on all of the node's addresses, whether or not the VIPs are among them.
#[derive(Debug)]
pub struct StreamServer {
    _workers: Workers,
}

impl StreamServer {
    /// Starts the service on `node`.
    ///
    /// # Errors
    /// When the socket cannot be opened.
    pub fn start(node: &Node) -> anyhow::Result<Self> {
        let open = || {
            let listener = TcpListener::bind((Ipv6Addr::UNSPECIFIED, PORT))?;
            listener.set_nonblocking(true)?;
            let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?;
            epoll.add(&listener, EpollEvent::new(EpollFlags::EPOLLIN, LISTENER))?;
            Ok((listener, epoll))
        };
        let opened = node.namespace.run(open);
        let (listener, epoll) =
            opened.with_context(|| format!("opening the stream service's socket on node {}", node.name))?;
        let mut workers = Workers::default();
        workers.start("streams", move |stop| serve(stop, &listener, &epoll))?;
        Ok(Self { _workers: workers })
    }
}

/// The listener's mark among those of the connections, which count from 0.
const LISTENER: u64 = u64::MAX;

fn serve(stop: &Stop, listener: &TcpListener, epoll: &Epoll) {
    // Where real time is refused, it serves as an ordinary thread.
    let _ = run_in_real_time(PRIORITY);
    let mut streams: BTreeMap<u64, (TcpStream, Vec<u8>)> = BTreeMap::new();
    let mut next = 0;
    let mut ready = [EpollEvent::empty(); 64];
    while !stop.asked() {
        let count = epoll.wait(&mut ready, WAIT_MS).unwrap_or(0);
        for mark in ready.iter().take(count).map(EpollEvent::data) {
            if mark == LISTENER {
                while let Ok((stream, _)) = listener.accept() {
                    let ready = stream.set_nonblocking(true).and_then(|()| stream.set_nodelay(true));
                    let watched = epoll.add(&stream, EpollEvent::new(EpollFlags::EPOLLIN, next));
                    // One that cannot be watched is closed, which the client will note.
                    if ready.is_ok() && watched.is_ok() {
                        streams.insert(next, (stream, Vec::new()));
                        next += 1;
                    }
                }
            } else if let Some((stream, unsent)) = streams.get_mut(&mark)
                && !send_back(stream, unsent)
            {
                // Closing it takes it out of the set that is watched.
                streams.remove(&mark);
            }
        }
    }
}

/// Sends back what has come, as far as there is room for it; what there is no room for goes with what comes next. False when the
/// connection has ended.
fn send_back(stream: &mut TcpStream, unsent: &mut Vec<u8>) -> bool {
    let mut buffer = [0; 4096];
    loop {
        match stream.read(&mut buffer) {
            Ok(0) => return false,
            Ok(length) => unsent.extend_from_slice(&buffer[..length]),
            Err(error) if error.kind() == ErrorKind::WouldBlock => break,
            Err(_) => return false,
        }
    }
    match stream.write(unsent) {
        Ok(sent) => {
            unsent.drain(..sent);
            true
        }
        Err(error) => error.kind() == ErrorKind::WouldBlock,
    }
}

/// What became of a connection.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Fate {
    /// The longest time without anything coming back, until the connection broke or the window ended.
    pub stall: Duration,
    /// When and how it broke, if it did.
    pub broke: Option<(Moment, String)>,
}

#[derive(Clone, Debug, Default)]
struct Connection {
    /// When messages came back.
    heard: Vec<Moment>,
    /// How many bytes of the next one have.
    part: usize,
    broke: Option<(Moment, String)>,
}

/// The client's connections. They are closed when this is dropped.
#[derive(Debug)]
pub struct Connections {
    record: Arc<Mutex<Vec<Connection>>>,
    _workers: Workers,
}

impl Connections {
    /// Opens [`COUNT`] connections to `address` on which something is said every [`INTERVAL`].
    ///
    /// # Errors
    /// When one does not come about.
    pub fn open(lab: &Lab, address: IpAddr) -> anyhow::Result<Self> {
        Self::open_some(lab, address, COUNT, INTERVAL)
    }

    /// Opens so many connections to `address` on which something is said every `interval`.
    ///
    /// # Errors
    /// When one does not come about.
    pub fn open_some(lab: &Lab, address: IpAddr, count: usize, interval: Duration) -> anyhow::Result<Self> {
        let connect = || {
            let stream = TcpStream::connect_timeout(&SocketAddr::new(address, PORT), CONNECTED)?;
            stream.set_nodelay(true)?;
            stream.set_nonblocking(true)?;
            Ok(stream)
        };
        let streams = lab.client().run(|| (0..count).map(|_| connect()).collect::<anyhow::Result<Vec<_>>>());
        let streams = Arc::new(streams.with_context(|| format!("opening {count} connections to {address}"))?);
        let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?;
        for (mark, stream) in (0..).zip(streams.iter()) {
            epoll.add(stream, EpollEvent::new(EpollFlags::EPOLLIN, mark))?;
        }
        let record = Arc::new(Mutex::new(vec![Connection::default(); count]));
        let mut workers = Workers::default();
        let (hearing, heard) = (Arc::clone(&streams), Arc::clone(&record));
        workers.start("streams-hear", move |stop| hear(stop, &epoll, &hearing, &heard))?;
        let said = Arc::clone(&record);
        workers.start("streams-say", move |stop| say(stop, &streams, interval, &said))?;
        Ok(Self { record, _workers: workers })
    }

    /// What became of each within `window`.
    #[must_use]
    pub fn fates(&self, window: Window) -> Vec<Fate> {
        self.record().iter().map(|connection| connection.fate(window)).collect()
    }

    /// How many have broken.
    #[must_use]
    pub fn broken(&self) -> usize {
        self.record().iter().filter(|connection| connection.broke.is_some()).count()
    }

    /// How many messages have come back on all of them together.
    #[must_use]
    pub fn answered(&self) -> usize {
        self.record().iter().map(|connection| connection.heard.len()).sum()
    }

    fn record(&self) -> MutexGuard<'_, Vec<Connection>> {
        self.record.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Connection {
    fn fate(&self, window: Window) -> Fate {
        let broke = self.broke.clone().filter(|(at, _)| *at <= window.to);
        let end = broke.as_ref().map_or(window.to, |(at, _)| *at).max(window.from);
        let inside = self.heard.iter().copied().filter(|at| window.from < *at && *at < end);
        let before = std::iter::once(window.from).chain(inside.clone());
        let stall = before.zip(inside.chain([end])).map(|(from, to)| to.since(from)).max();
        Fate { stall: stall.unwrap_or_default(), broke }
    }

    fn break_off(&mut self, how: String) {
        self.broke.get_or_insert_with(|| (Moment::now(), how));
    }
}

fn hear(stop: &Stop, epoll: &Epoll, streams: &[TcpStream], record: &Mutex<Vec<Connection>>) {
    let _ = run_in_real_time(PRIORITY);
    let mut ready = [EpollEvent::empty(); 64];
    let mut buffer = [0; 4096];
    while !stop.asked() {
        let count = epoll.wait(&mut ready, WAIT_MS).unwrap_or(0);
        for mark in ready.iter().take(count).filter_map(|event| usize::try_from(event.data()).ok()) {
            let Some(mut stream) = streams.get(mark) else { continue };
            let outcome = stream.read(&mut buffer);
            let mut record = record.lock().unwrap_or_else(PoisonError::into_inner);
            let Some(connection) = record.get_mut(mark) else { continue };
            let how = match outcome {
                Ok(length) if length > 0 => {
                    let bytes = connection.part + length;
                    connection.part = bytes % MESSAGE;
                    connection.heard.extend(std::iter::repeat_n(Moment::now(), bytes / MESSAGE));
                    continue;
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => continue,
                Ok(_) => "closed by the other side".to_owned(),
                Err(error) => error.to_string(),
            };
            connection.break_off(how);
            // It would be ready for ever; it was added, so that it can be taken out.
            let _ = epoll.delete(stream);
        }
    }
}

fn say(stop: &Stop, streams: &[TcpStream], interval: Duration, record: &Mutex<Vec<Connection>>) {
    let _ = run_in_real_time(PRIORITY);
    let step = interval / u32::try_from(streams.len().max(1)).unwrap_or(u32::MAX);
    let mut due = Moment::now();
    // One after the other, so that they do not all speak at once.
    for (mark, mut stream) in streams.iter().enumerate().cycle() {
        if stop.asked() {
            return;
        }
        due.sleep();
        due = (due + step).max(Moment::now() - interval);
        match stream.write(&[0x5a; MESSAGE]) {
            // Without room, the connection stands still, and shall; so does one whose message is cut short.
            Ok(_) => {}
            Err(error) if error.kind() == ErrorKind::WouldBlock => {}
            Err(error) => {
                let mut record = record.lock().unwrap_or_else(PoisonError::into_inner);
                if let Some(connection) = record.get_mut(mark) {
                    connection.break_off(error.to_string());
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stall_reaches_from_what_came_last_to_what_came_next() {
        let heard = [10, 20, 50, 60].map(Moment).to_vec();
        let mut connection = Connection { heard, ..Connection::default() };
        let nanos = Duration::from_nanos;
        let window = |from, to| Window { from: Moment(from), to: Moment(to) };
        assert_eq!(connection.fate(window(0, 65)), Fate { stall: nanos(30), broke: None });
        assert_eq!(connection.fate(window(30, 65)).stall, nanos(20), "within the window");
        assert_eq!(connection.fate(window(0, 100)).stall, nanos(40), "until the window's end");
        assert_eq!(connection.fate(window(70, 90)).stall, nanos(20), "nothing came at all");
        connection.broke = Some((Moment(64), "reset".to_owned()));
        let fate = connection.fate(window(0, 100));
        assert_eq!((fate.stall, fate.broke.is_some()), (nanos(30), true), "until it broke");
        assert_eq!(connection.fate(window(0, 62)).broke, None, "it broke later");
    }
}
