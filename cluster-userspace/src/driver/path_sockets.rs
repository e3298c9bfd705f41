//! All sockets that the heartbeat thread waits for: those of the paths, which are made from the settings and replaced as
//! a whole with them, the mailbox, ARP and neighbour discovery, on the service link and its VLANs.

use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, BorrowedFd};
use std::time::Duration;

use cluster_proto::{ClusterId, NodeId, PathIndex, Settings};
use nix::sys::resource::{Resource, getrlimit, setrlimit};

use super::unsafe_poll::{Poll, Waited};
use crate::network::heartbeat_socket::{PathSocket, RECEIVE_BUFFER, Received, Sender, Sent, StrangerSocket};

/// Timers that are due wait for so many turns while there is something to read, of which each takes one datagram from
/// every socket that has one.
const TURNS_BEFORE_TIMERS: usize = 64;
/// And for no more than so many datagrams and one turn, however many sockets there are: some milliseconds.
const DATAGRAMS_BEFORE_TIMERS: usize = 512;

/// Files that the rest of the daemon may need: maps, links, the control socket and its clients.
const OTHER_FILES: usize = 256;

/// Places in the list that is waited for; the paths come after these.
const MAILBOX: usize = 0;
const ARP: usize = 1;
const NDP: usize = 2;
const VLANS: usize = 3;
const PATHS: usize = 4;

/// The sockets of all paths.
#[derive(Debug)]
pub(super) struct PathSockets {
    /// Peer by peer.
    sockets: Vec<(PathIndex, PathSocket)>,
    /// Where each peer's begin.
    begins: Vec<usize>,
    strangers: Vec<(SocketAddr, StrangerSocket)>,
    poll: Poll,
}

/// The two ends of each path, peer by peer: local and remote.
pub type PathEnds = Vec<Vec<(SocketAddr, SocketAddr)>>;

/// Sockets for other settings, opened where the present ones cannot be kept.
#[derive(Debug)]
pub struct Replacement {
    /// Each path with a new socket, or the place of the present one.
    sockets: Vec<(PathIndex, Result<PathSocket, usize>)>,
    begins: Vec<usize>,
    strangers: Vec<(SocketAddr, Result<StrangerSocket, usize>)>,
    poll: Poll,
}

/// What a path's socket is made for: one that is the same can be kept.
type Purpose = (SocketAddr, SocketAddr, bool, ClusterId, NodeId, u8);

fn purposes(settings: &Settings, paths: &PathEnds) -> io::Result<Vec<(PathIndex, Purpose)>> {
    let mut purposes = Vec::new();
    for (peer, (ends, of)) in paths.iter().zip(&settings.peers).enumerate() {
        for (path, &(local, remote)) in ends.iter().enumerate() {
            let number = u8::try_from(path).map_err(io::Error::other)?;
            let purpose = (local, remote, of.paths[path].service, settings.cluster, of.id, number);
            purposes.push((PathIndex { peer, path }, purpose));
        }
    }
    Ok(purposes)
}

fn locals(paths: &PathEnds) -> Vec<SocketAddr> {
    let mut locals: Vec<SocketAddr> = paths.iter().flatten().map(|&(local, _)| local).collect();
    locals.sort_unstable();
    locals.dedup();
    locals
}

impl Replacement {
    /// Opens the sockets for the paths of `settings`, but those that the present settings' paths have as well.
    ///
    /// # Errors
    /// As [`PathSocket::open`].
    pub fn open(
        settings: &Settings,
        paths: &PathEnds,
        present: Option<(&Settings, &PathEnds)>,
    ) -> io::Result<Self> {
        let (before, locals_before) = match present {
            Some((settings, paths)) => (purposes(settings, paths)?, locals(paths)),
            None => (Vec::new(), Vec::new()),
        };
        let wanted = purposes(settings, paths)?;
        let locals = locals(paths);
        allow_files(wanted.len() + before.len() + locals.len() + locals_before.len() + OTHER_FILES);
        let poll = Poll::with_places(PATHS + wanted.len());
        let mut begins = Vec::with_capacity(paths.len());
        let mut sockets = Vec::with_capacity(wanted.len());
        for (path, purpose) in wanted {
            if path.path == 0 {
                begins.push(sockets.len());
            }
            let kept = before.iter().position(|(_, before)| *before == purpose);
            let socket = match kept {
                Some(place) => Err(place),
                None => {
                    let (local, remote, service, cluster, node, number) = purpose;
                    let sender = Sender { cluster, node, path: number };
                    Ok(PathSocket::open(local, remote, service, sender)?)
                }
            };
            sockets.push((path, socket));
        }
        let opened = sockets.iter().filter_map(|(_, socket)| socket.as_ref().ok());
        if let Some(room) = opened.filter_map(PathSocket::short_of_room).min() {
            tracing::warn!(
                "the kernel gives a heartbeat socket {room} bytes where {RECEIVE_BUFFER} were asked for, so that fewer \
                 heartbeats can wait; allow more with the sysctl net.core.rmem_max = {} or CAP_NET_ADMIN",
                RECEIVE_BUFFER / 2
            );
        }
        let strangers = locals.into_iter().map(|local| {
            let kept = locals_before.iter().position(|&before| before == local);
            Ok((local, kept.map_or_else(|| StrangerSocket::open(local).map(Ok), |place| Ok(Err(place)))?))
        });
        let strangers = strangers.collect::<io::Result<Vec<_>>>()?;
        Ok(Self { sockets, begins, strangers, poll })
    }
}

impl PathSockets {
    /// Opens the sockets for the paths of `settings`.
    ///
    /// # Errors
    /// As [`PathSocket::open`].
    pub(super) fn open(settings: &Settings, paths: &PathEnds) -> io::Result<Self> {
        let mut sockets = Self {
            sockets: Vec::new(),
            begins: Vec::new(),
            strangers: Vec::new(),
            poll: Poll::with_places(PATHS),
        };
        drop(sockets.replace(Replacement::open(settings, paths, None)?));
        Ok(sockets)
    }

    /// Takes over other sockets; gives back those that are no longer needed.
    pub(super) fn replace(&mut self, replacement: Replacement) -> Leftover {
        let mut sockets: Vec<_> =
            std::mem::take(&mut self.sockets).into_iter().map(|(_, socket)| Some(socket)).collect();
        let mut strangers: Vec<_> =
            std::mem::take(&mut self.strangers).into_iter().map(|(_, socket)| Some(socket)).collect();
        let Replacement { sockets: wanted, begins, strangers: wanted_strangers, poll } = replacement;
        self.begins = begins;
        self.poll = poll;
        for (path, socket) in wanted {
            // No place is named twice: no two paths have one purpose.
            if let Some(socket) = socket.map_or_else(|place| sockets.get_mut(place)?.take(), Some) {
                self.poll.set(PATHS + self.sockets.len(), Some(socket.as_fd()));
                self.sockets.push((path, socket));
            }
        }
        for (local, socket) in wanted_strangers {
            if let Some(socket) = socket.map_or_else(|place| strangers.get_mut(place)?.take(), Some) {
                self.strangers.push((local, socket));
            }
        }
        Leftover { _sockets: sockets, _strangers: strangers }
    }

    /// How many paths there are.
    pub(super) fn len(&self) -> usize {
        self.sockets.len()
    }

    /// Waits until a path, the mailbox, ARP, neighbour discovery or a VLAN has something, or the time is over; whether any has. What has nothing then
    /// was empty when the wait ended, so that the others alone have to be read.
    pub(super) fn wait(
        &mut self,
        mailbox: BorrowedFd<'_>,
        arp: Option<BorrowedFd<'_>>,
        ndp: Option<BorrowedFd<'_>>,
        vlans: Option<BorrowedFd<'_>>,
        time: Duration,
    ) -> bool {
        self.poll.set(MAILBOX, Some(mailbox));
        self.poll.set(ARP, arp);
        self.poll.set(NDP, ndp);
        self.poll.set(VLANS, vlans);
        self.poll.wait(time) == Waited::Some
    }

    /// Whether the mailbox was written.
    pub(super) fn mailbox_is_ready(&self) -> bool {
        self.poll.is_ready(MAILBOX)
    }

    /// Whether there are ARP frames.
    pub(super) fn arp_is_ready(&self) -> bool {
        self.poll.is_ready(ARP)
    }

    /// Whether there are frames of neighbour discovery.
    pub(super) fn ndp_is_ready(&self) -> bool {
        self.poll.is_ready(NDP)
    }

    /// Whether there are frames of VLANs.
    pub(super) fn vlans_are_ready(&self) -> bool {
        self.poll.is_ready(VLANS)
    }

    /// Reads one datagram of the path at `place` if the last wait found one there.
    pub(super) fn receive(&mut self, place: usize, buffer: &mut [u8]) -> Option<(PathIndex, Received)> {
        if !self.poll.is_ready(PATHS + place) {
            return None;
        }
        let (path, socket) = &mut self.sockets[place];
        Some((*path, socket.receive(buffer)))
    }

    /// Sends on a path.
    pub(super) fn send(&mut self, path: PathIndex, bytes: &[u8]) -> Sent {
        self.sockets[self.begins[path.peer] + path.path].1.send(bytes)
    }

    /// What the kernel has dropped since the last call because it could not be the peer's, and because it came from
    /// nobody's address. A system call for each socket.
    pub(super) fn dropped(&mut self) -> (u64, u64) {
        let filtered = self.sockets.iter_mut().map(|(_, socket)| socket.filtered()).sum();
        let strangers = self.strangers.iter_mut().map(|(_, socket)| socket.dropped()).sum();
        (filtered, strangers)
    }
}

/// Sockets to be closed, which the heartbeat thread leaves to others.
#[derive(Debug)]
pub struct Leftover {
    _sockets: Vec<Option<PathSocket>>,
    _strangers: Vec<Option<StrangerSocket>>,
}

/// Raises the number of files that the process may have open, where it is less than `wanted` and as far as it is
/// permitted. What is still missing is told when a file cannot be opened.
fn allow_files(wanted: usize) {
    let wanted = wanted as u64;
    if let Ok((now, most)) = getrlimit(Resource::RLIMIT_NOFILE)
        && now < wanted
    {
        let _ = setrlimit(Resource::RLIMIT_NOFILE, wanted.min(most), most);
    }
}

/// How much has been read while timers waited. With it a flood, on however many paths, holds them up only so long.
#[derive(Clone, Copy, Default, Debug)]
pub(super) struct Drain {
    turns: usize,
    datagrams: usize,
}

impl Drain {
    /// Counts a turn: whether any socket was ready, and how many datagrams and frames were read. Whether timers run after it.
    pub(super) fn turn(&mut self, ready: bool, datagrams: usize) -> bool {
        self.turns += 1;
        self.datagrams += datagrams;
        let over = !ready || self.turns >= TURNS_BEFORE_TIMERS || self.datagrams >= DATAGRAMS_BEFORE_TIMERS;
        if over {
            *self = Self::default();
        }
        over
    }
}

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, UdpSocket};
    use std::os::fd::OwnedFd;

    use cluster_proto::{Key, Path, Peer, Quorum, Timing, wire};
    use nix::sys::eventfd::EventFd;

    use super::*;

    const PEERS: u8 = 31;
    const PATHS_EACH: u8 = 8;
    const ALL: usize = PEERS as usize * PATHS_EACH as usize;
    const CLUSTER: ClusterId = ClusterId(0x1112_1314_1516_1718);

    fn settings() -> Settings {
        let peer = |peer| Peer {
            id: NodeId(2 + u16::from(peer)),
            voter: false,
            paths: (0..PATHS_EACH).map(|_| Path { service: false }).collect(),
        };
        Settings {
            cluster: CLUSTER,
            me: NodeId(1),
            voter: true,
            quorum: Quorum::Majority,
            peers: (0..PEERS).map(peer).collect(),
            groups: Vec::new(),
            timing: Timing {
                heartbeat: Duration::from_millis(10),
                lease: Duration::from_millis(40),
                dead_after: Duration::from_millis(50),
                startup_wait: Duration::from_secs(1),
            },
            keys: vec![Key([1; 32])],
            max_groups: None,
        }
    }

    /// This node's sockets, and each peer's end of each path.
    fn cluster() -> (PathSockets, Vec<UdpSocket>) {
        // Any port that is free now, on addresses that nothing else uses.
        let local = |path| Ipv4Addr::new(127, 47, 0, 1 + path);
        let port = UdpSocket::bind((local(0), 0)).unwrap().local_addr().unwrap().port();
        let ends = |peer, path| {
            let remote = Ipv4Addr::new(127, 47, 1 + peer, 1 + path);
            (SocketAddr::new(local(path).into(), port), SocketAddr::new(remote.into(), port))
        };
        let paths: Vec<Vec<_>> =
            (0..PEERS).map(|peer| (0..PATHS_EACH).map(|path| ends(peer, path)).collect()).collect();
        let mut sockets = PathSockets::open(&settings(), &paths).unwrap();
        // The peers' ends are this process's as well, and other tests run beside this one.
        allow_files(4 * ALL);
        let remote = |&(local, remote): &(SocketAddr, SocketAddr)| {
            let socket = UdpSocket::bind(remote).unwrap();
            socket.connect(local).unwrap();
            socket
        };
        let remotes = paths.iter().flatten().map(remote).collect();
        assert!(sockets.sockets.iter_mut().all(|(_, socket)| socket.try_connect()));
        (sockets, remotes)
    }

    /// What passes the filter of a path.
    fn message(path: PathIndex) -> Vec<u8> {
        let mut bytes = vec![0; wire::HEADER_LEN + wire::TAG_LEN];
        let length = u16::try_from(bytes.len()).unwrap();
        bytes[wire::offset::VERSION] = wire::VERSION;
        bytes[wire::offset::KIND] = *wire::KINDS.start();
        bytes[wire::offset::LENGTH..][..2].copy_from_slice(&length.to_be_bytes());
        let node = u16::try_from(2 + path.peer).unwrap();
        bytes[wire::offset::NODE..][..2].copy_from_slice(&node.to_be_bytes());
        bytes[wire::offset::CLUSTER..][..8].copy_from_slice(&CLUSTER.0.to_be_bytes());
        bytes[wire::offset::PATH] = u8::try_from(path.path).unwrap();
        bytes
    }

    fn index(place: usize) -> PathIndex {
        let each = usize::from(PATHS_EACH);
        PathIndex { peer: place / each, path: place % each }
    }

    /// One turn: the paths that something was read from.
    fn turn(sockets: &mut PathSockets) -> Vec<PathIndex> {
        let mut read = Vec::new();
        for place in 0..sockets.len() {
            match sockets.receive(place, &mut [0; wire::MAX_LEN]) {
                Some((path, Received::Datagram { .. })) => read.push(path),
                None => {}
                Some(other) => panic!("{other:?}"),
            }
        }
        read
    }

    #[test]
    fn with_32_nodes_of_8_paths_a_flood_starves_no_path_and_no_timer() {
        let mailbox: OwnedFd = EventFd::new().unwrap().into();
        let (mut sockets, remotes) = cluster();
        assert!(!sockets.wait(mailbox.as_fd(), None, None, None, Duration::ZERO), "nothing was sent yet");
        let flooded = [0, 100, ALL - 1];
        for (place, remote) in remotes.iter().enumerate() {
            let bytes = message(index(place));
            for _ in 0..if flooded.contains(&place) { 300 } else { 1 } {
                remote.send(&bytes).unwrap();
            }
        }
        let everyone: Vec<PathIndex> = (0..ALL).map(index).collect();
        let mut drain = Drain::default();
        let (mut turns, mut read) = (0, 0);
        loop {
            assert!(sockets.wait(mailbox.as_fd(), None, None, None, Duration::from_secs(5)), "nothing came");
            let of = turn(&mut sockets);
            turns += 1;
            read += of.len();
            if turns == 1 {
                assert_eq!(of, everyone, "every path is read in each turn");
            } else {
                assert_eq!(of, flooded.map(index), "turn {turns}");
            }
            if drain.turn(true, of.len()) {
                break;
            }
        }
        assert_eq!((turns, read), (TURNS_BEFORE_TIMERS, ALL + 63 * flooded.len()));

        // With all of them flooded it is the number of datagrams that ends it.
        for (place, remote) in remotes.iter().enumerate() {
            for _ in 0..5 {
                remote.send(&message(index(place))).unwrap();
            }
        }
        read = 0;
        loop {
            assert!(sockets.wait(mailbox.as_fd(), None, None, None, Duration::from_secs(5)), "nothing came");
            let of = turn(&mut sockets).len();
            read += of;
            if drain.turn(true, of) {
                break;
            }
        }
        assert_eq!(read, 3 * ALL);
    }

    #[test]
    fn timers_run_when_nothing_is_left() {
        let mut drain = Drain::default();
        assert!(drain.turn(false, 0));
        assert!(!drain.turn(true, 1));
        assert!(drain.turn(false, 0));
        // A turn is never cut short, and the next drain begins anew.
        assert!(drain.turn(true, DATAGRAMS_BEFORE_TIMERS + ALL));
        assert!(!drain.turn(true, DATAGRAMS_BEFORE_TIMERS - 1));
    }

    #[test]
    fn mailbox_and_frames_are_waited_for_too() {
        let [mailbox, arp, ndp] = [(); 3].map(|()| EventFd::new().unwrap());
        let (mut sockets, remotes) = cluster();
        let ready = |sockets: &PathSockets| {
            (sockets.mailbox_is_ready(), sockets.arp_is_ready(), sockets.ndp_is_ready())
        };
        arp.write(1).unwrap();
        assert!(!sockets.wait(mailbox.as_fd(), None, None, None, Duration::ZERO));
        assert!(sockets.wait(mailbox.as_fd(), Some(arp.as_fd()), Some(ndp.as_fd()), None, Duration::ZERO));
        assert_eq!(ready(&sockets), (false, true, false));
        ndp.write(1).unwrap();
        assert!(sockets.wait(mailbox.as_fd(), None, Some(ndp.as_fd()), None, Duration::ZERO));
        assert_eq!(ready(&sockets), (false, false, true));
        mailbox.write(1).unwrap();
        assert!(sockets.wait(mailbox.as_fd(), None, None, None, Duration::ZERO));
        assert_eq!(ready(&sockets), (true, false, false));
        assert!(turn(&mut sockets).is_empty());
        remotes[9].send(&message(index(9))).unwrap();
        assert!(sockets.wait(mailbox.as_fd(), Some(arp.as_fd()), Some(ndp.as_fd()), None, Duration::ZERO));
        assert_eq!(ready(&sockets), (true, true, true));
        assert_eq!(turn(&mut sockets), [index(9)]);
        assert!(matches!(sockets.send(index(9), b"answer"), Sent::Sent));
        let mut answer = [0; 16];
        assert_eq!(remotes[9].recv(&mut answer).unwrap(), 6);
    }
}
