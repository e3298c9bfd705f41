//! The operator's end of the socket: blocking, with deadlines, for `clusterctl` and the tests.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::errno::Errno;
use nix::sys::socket::{AddressFamily, SockFlag, SockType, UnixAddr, connect, setsockopt, socket, sockopt};
use nix::sys::time::{TimeVal, TimeValLike};
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::event::EventRecord;
use super::request::{Answer, ControlError, Request};
use super::stats::Stats;
use super::status::Status;

/// More than any answer of a sound daemon: a thousand events are below 1 MiB.
const MAX_ANSWER_BYTES: u64 = 8 << 20;

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// Nobody listens there. What this node does is not known: it may even still serve under its lease.
    #[error("no clusterd at {path}: {source}; the state of this node is unknown")]
    NoDaemon {
        /// The socket.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// Only root and the socket's group may.
    #[error("not allowed to use {path}; run this as root or as a member of the socket's group")]
    NotAllowed {
        /// The socket.
        path: PathBuf,
    },
    /// The daemon is there but did not answer in time.
    #[error("clusterd at {path} did not answer within {} s; the state of this node is unknown", .after.as_secs_f32())]
    Timeout {
        /// The socket.
        path: PathBuf,
        /// How long was waited.
        after: Duration,
    },
    /// The daemon went away, or whatever is at the socket is none.
    #[error("talking to clusterd at {path} failed: {reason}; the state of this node is unknown")]
    Broken {
        /// The socket.
        path: PathBuf,
        /// What happened.
        reason: String,
    },
    /// The daemon answered that it did not do it.
    #[error(transparent)]
    Refused(#[from] ControlError),
}

/// A connection to a daemon.
#[derive(Debug)]
pub struct Client {
    stream: BufReader<UnixStream>,
    path: PathBuf,
}

impl Client {
    /// Connects, within `deadline` even if a stopped daemon's queue is full.
    ///
    /// # Errors
    /// All but [`ClientError::Refused`].
    pub fn connect(path: &Path, deadline: Duration) -> Result<Self, ClientError> {
        let owned = path.to_owned();
        let connected = UnixAddr::new(path).and_then(|address| {
            let socket = socket(AddressFamily::Unix, SockType::Stream, SockFlag::SOCK_CLOEXEC, None)?;
            // On Linux this bounds `connect` too (unix_stream_connect, net/unix/af_unix.c).
            let millis = i64::try_from(deadline.as_millis()).unwrap_or(i64::MAX);
            setsockopt(&socket, sockopt::SendTimeout, &TimeVal::milliseconds(millis))?;
            connect(socket.as_raw_fd(), &address)?;
            Ok(socket)
        });
        match connected {
            Ok(socket) => Ok(Self { stream: BufReader::new(UnixStream::from(socket)), path: owned }),
            Err(Errno::EACCES | Errno::EPERM) => Err(ClientError::NotAllowed { path: owned }),
            Err(Errno::EAGAIN) => Err(ClientError::Timeout { path: owned, after: deadline }),
            Err(errno) => Err(ClientError::NoDaemon { path: owned, source: errno.into() }),
        }
    }

    /// Asks, and waits at most `deadline` for the answer's next part.
    ///
    /// # Errors
    /// The daemon refused, or there was no answer that could be understood.
    pub fn call<T: DeserializeOwned>(
        &mut self,
        request: &Request,
        deadline: Duration,
    ) -> Result<T, ClientError> {
        self.send(request, Some(deadline))?;
        let result = self.receive(Some(deadline))?.ok_or_else(|| self.broken("it closed the connection"))?;
        serde_json::from_value(result).map_err(|error| self.broken(&format!("unexpected answer: {error}")))
    }

    /// Asks for the status.
    ///
    /// # Errors
    /// As [`Client::call`].
    pub fn status(&mut self) -> Result<Status, ClientError> {
        self.call(&Request::Status, Duration::from_secs(2))
    }

    /// Asks for a restart in place, and waits until the daemon's process has been replaced or has said that it is not. Whether
    /// the next daemon does well is another question.
    ///
    /// # Errors
    /// As [`Client::call`].
    pub fn restart(mut self, deadline: Duration) -> Result<(), ClientError> {
        self.call::<Value>(&Request::Restart, deadline)?;
        match self.receive(Some(deadline)) {
            // Only a refusal follows the answer, or the connection's end with the process.
            Ok(_) | Err(ClientError::Broken { .. }) => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// Asks for the counters.
    ///
    /// # Errors
    /// As [`Client::call`].
    pub fn stats(&mut self) -> Result<Stats, ClientError> {
        self.call(&Request::Stats, Duration::from_secs(2))
    }

    /// Follows the events after the sequence number `since`; 0 begins with the oldest that is kept.
    ///
    /// # Errors
    /// As [`Client::call`].
    pub fn follow(mut self, since: u64) -> Result<Follow, ClientError> {
        self.send(&Request::Events { follow: true, since }, Some(Duration::from_secs(2)))?;
        Ok(Follow { client: self })
    }

    fn send(&mut self, request: &Request, deadline: Option<Duration>) -> Result<(), ClientError> {
        let mut line = serde_json::to_vec(request).map_err(|error| self.broken(&error.to_string()))?;
        line.push(b'\n');
        let stream = self.stream.get_mut();
        let sent = stream.set_write_timeout(deadline).and_then(|()| stream.write_all(&line));
        // A daemon that is full says so and closes before it has read anything; its word is worth more than EPIPE.
        match sent {
            Err(error) if error.kind() != io::ErrorKind::BrokenPipe => Err(self.failed(&error, deadline)),
            _ => Ok(()),
        }
    }

    /// The next answer's result; none at the end.
    fn receive(&mut self, deadline: Option<Duration>) -> Result<Option<Value>, ClientError> {
        let mut line = Vec::new();
        let read = self
            .stream
            .get_ref()
            .set_read_timeout(deadline)
            .and_then(|()| (&mut self.stream).take(MAX_ANSWER_BYTES).read_until(b'\n', &mut line));
        read.map_err(|error| self.failed(&error, deadline))?;
        if line.is_empty() {
            return Ok(None);
        }
        if !line.ends_with(b"\n") {
            return Err(self.broken("the answer is cut off"));
        }
        let answer: Answer = serde_json::from_slice(&line)
            .map_err(|error| self.broken(&format!("unexpected answer: {error}")))?;
        match answer {
            Answer { ok: true, result, .. } => Ok(Some(result.unwrap_or(Value::Null))),
            Answer { error: Some(error), .. } => Err(error.into()),
            Answer { error: None, .. } => Err(self.broken("it refused without a reason")),
        }
    }

    fn failed(&self, error: &io::Error, deadline: Option<Duration>) -> ClientError {
        match (error.kind(), deadline) {
            (io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut, Some(after)) => {
                ClientError::Timeout { path: self.path.clone(), after }
            }
            _ => self.broken(&error.to_string()),
        }
    }

    fn broken(&self, reason: &str) -> ClientError {
        ClientError::Broken { path: self.path.clone(), reason: reason.to_owned() }
    }
}

/// Events as they happen.
#[derive(Debug)]
pub struct Follow {
    client: Client,
}

impl Follow {
    /// The next event, as it was sent; none when the daemon has stopped.
    ///
    /// # Errors
    /// As [`Client::call`]; a `deadline` that passes is [`ClientError::Timeout`], after which one may ask again only
    /// if the daemon had sent no part of an answer.
    pub fn next_value(&mut self, deadline: Option<Duration>) -> Result<Option<Value>, ClientError> {
        self.client.receive(deadline)
    }

    /// The next event; none when the daemon has stopped.
    ///
    /// # Errors
    /// As [`Follow::next_value`].
    pub fn next_event(&mut self, deadline: Option<Duration>) -> Result<Option<EventRecord>, ClientError> {
        let Some(value) = self.next_value(deadline)? else { return Ok(None) };
        let event = serde_json::from_value(value);
        event.map(Some).map_err(|error| self.client.broken(&format!("unexpected event: {error}")))
    }
}
