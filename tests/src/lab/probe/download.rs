//! Downloads from the VIP by TCP: a service that sends without end, a client that reads, and how soon a new connection is
//! accepted.

use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{IpAddr, Ipv6Addr, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anyhow::{Context as _, bail};

use super::echo::PRIORITY;
use super::worker::{Stop, Workers};
use crate::lab::clock::{Moment, await_some};
use crate::lab::topology::{Lab, Node};
use crate::lab::unsafe_calls::run_in_real_time;

/// The port of the service.
pub const PORT: u16 = 7002;
/// How much the service sends on each connection in each [`PACE`], if it is taken: 16 MB a second.
const PORTION: usize = 32 << 10;
const PACE: Duration = Duration::from_millis(2);
/// How long one attempt to connect may take. The kernel would ask again only after a second.
const ATTEMPT: Duration = Duration::from_millis(4);

/// A node's service.
#[derive(Debug)]
pub struct DownloadServer {
    open: Arc<AtomicU64>,
    _workers: Workers,
}

impl DownloadServer {
    /// Starts the service on all addresses of `node`, whether or not the VIPs are among them.
    ///
    /// # Errors
    /// When the socket cannot be opened.
    pub fn start(node: &Node) -> anyhow::Result<Self> {
        let open = || {
            let listener = TcpListener::bind((Ipv6Addr::UNSPECIFIED, PORT))?;
            listener.set_nonblocking(true)?;
            Ok(listener)
        };
        let listener = node
            .namespace
            .run(open)
            .with_context(|| format!("opening the download service's socket on node {}", node.name))?;
        let open = Arc::new(AtomicU64::new(0));
        let mut workers = Workers::default();
        let count = open.clone();
        workers.start("downloads", move |stop| serve(stop, &listener, &count))?;
        Ok(Self { open, _workers: workers })
    }

    /// On how many connections it is sending.
    #[must_use]
    pub fn open(&self) -> u64 {
        self.open.load(Ordering::Relaxed)
    }
}

fn serve(stop: &Stop, listener: &TcpListener, open: &AtomicU64) {
    let portion = vec![0x5a; PORTION];
    let mut streams: Vec<TcpStream> = Vec::new();
    while !stop.asked() {
        while let Ok((stream, _)) = listener.accept() {
            // One that would block is closed, which the client will note.
            if stream.set_nonblocking(true).is_ok() {
                streams.push(stream);
            }
        }
        streams.retain_mut(|stream| match stream.write(&portion) {
            Ok(_) => true,
            Err(error) => error.kind() == ErrorKind::WouldBlock,
        });
        open.store(streams.len() as u64, Ordering::Relaxed);
        (Moment::now() + PACE).sleep();
    }
}

/// A download that goes on until it breaks or is dropped.
#[derive(Debug)]
pub struct Download {
    read: Arc<AtomicU64>,
    _workers: Workers,
}

impl Download {
    /// Connects from the client to `vip` and reads.
    ///
    /// # Errors
    /// When it does not connect.
    pub fn start(lab: &Lab, vip: IpAddr) -> anyhow::Result<Self> {
        let connect = || {
            let stream = TcpStream::connect_timeout(&SocketAddr::new(vip, PORT), Duration::from_secs(2))?;
            stream.set_read_timeout(Some(Duration::from_millis(50)))?;
            Ok(stream)
        };
        let mut stream = lab.client().run(connect).context("connecting to the download service")?;
        let read = Arc::new(AtomicU64::new(0));
        let count = read.clone();
        let mut workers = Workers::default();
        workers.start("download", move |stop| {
            let mut buffer = vec![0; 256 << 10];
            while !stop.asked() {
                match stream.read(&mut buffer) {
                    Ok(0) => break,
                    Ok(length) => _ = count.fetch_add(length as u64, Ordering::Relaxed),
                    Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {}
                    Err(_) => break,
                }
            }
        })?;
        Ok(Self { read, _workers: workers })
    }

    /// Waits until this many bytes more have come.
    ///
    /// # Errors
    /// When they do not come within `patience`.
    pub fn await_bytes(&self, count: u64, patience: Duration) -> anyhow::Result<()> {
        let from = self.read.load(Ordering::Relaxed);
        await_some("more of the download", patience, || {
            Ok((self.read.load(Ordering::Relaxed) >= from + count).then_some(()))
        })
    }
}

/// Tries to connect from the client to `vip` until it is accepted; returns when that was.
///
/// # Errors
/// When it is not within `patience`.
pub fn await_accepted(lab: &Lab, vip: IpAddr, patience: Duration) -> anyhow::Result<Moment> {
    let until = Moment::now() + patience;
    lab.client().run(|| {
        // Where real time is refused, it asks as an ordinary thread.
        let _ = run_in_real_time(PRIORITY);
        while Moment::now() < until {
            if TcpStream::connect_timeout(&SocketAddr::new(vip, PORT), ATTEMPT).is_ok() {
                return Ok(Moment::now());
            }
        }
        bail!("no connection to {vip} was accepted within {patience:?}")
    })
}
