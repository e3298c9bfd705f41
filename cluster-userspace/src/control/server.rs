//! The daemon's end of the socket: who may connect, how much they may send, and what becomes of those who stall.
//!
//! Nothing a client does costs unbounded memory or locks another out: lines are bounded, clients are counted and the
//! longest idle one makes room, answers are written with a deadline, followers read from the event log's ring.

use std::fs::{DirBuilder, File, Permissions};
use std::future::Future;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::{DirBuilderExt, FileTypeExt, MetadataExt, PermissionsExt};
use std::os::unix::net::UnixListener as StdListener;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};
use nix::sys::socket::{AddressFamily, Backlog, SockFlag, SockType, UnixAddr, bind, connect, listen, socket};
use serde::Serialize;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::{Instant, timeout};

use super::event::{EventBody, EventRecord};
use super::event_log::EventLog;
use super::plan::Plan;
use super::request::{ControlError, ErrorCode, MAX_LINE_BYTES, Request};
use super::stats::Stats;
use super::status::Status;
use super::trace::TraceAnswer;

/// How many clients are served at once.
pub const MAX_CLIENTS: usize = 64;
/// A client that does not take its answer for this long is cut off.
const WRITE_DEADLINE: Duration = Duration::from_secs(5);
/// The daemon answers everything sooner; past this a client should hear that something is wrong with it.
const REPLY_DEADLINE: Duration = Duration::from_secs(30);
/// How long a daemon that is about to be replaced lets the client take that answer.
const TELL_DEADLINE: Duration = Duration::from_millis(200);
/// How long a stopping daemon lets clients take the answers they wait for.
const STOP_DEADLINE: Duration = Duration::from_secs(1);

/// A request for the daemon, to be answered once.
#[derive(Debug)]
pub struct Call {
    /// What is asked: never `events`, which the server answers itself.
    pub request: Request,
    reply: oneshot::Sender<Result<Reply, ControlError>>,
    /// Closed once the client has been told the answer.
    told: oneshot::Receiver<()>,
    /// What a restart was good for that was answered with success.
    afterwards: oneshot::Sender<ControlError>,
}

/// A client's end of its call.
#[derive(Debug)]
pub struct Caller {
    /// Where the answer arrives.
    pub answer: oneshot::Receiver<Result<Reply, ControlError>>,
    /// Dropped once the client has been told it.
    teller: oneshot::Sender<()>,
    /// What a restart was good for that was answered with success.
    after: oneshot::Receiver<ControlError>,
}

impl Call {
    /// A call, and its client's end of it.
    #[must_use]
    pub fn new(request: Request) -> (Self, Caller) {
        let (reply, answer) = oneshot::channel();
        let (teller, told) = oneshot::channel();
        let (afterwards, after) = oneshot::channel();
        (Self { request, reply, told, afterwards }, Caller { answer, teller, after })
    }

    /// Answers. A client that has gone away is no error.
    pub fn answer(self, answer: Result<Reply, ControlError>) {
        drop(self.reply.send(answer));
    }

    /// Answers that it is being done, and waits until the client has been told, for what is done takes this process and its
    /// connections away. If it is not done after all, the client can be told that, too.
    pub async fn answer_before_it_is_done(self, reply: Reply) -> Answered {
        let Self { reply: sender, told, afterwards, .. } = self;
        drop(sender.send(Ok(reply)));
        // A client that does not read its answer is no reason not to do it.
        drop(timeout(TELL_DEADLINE, told).await);
        Answered { afterwards }
    }
}

/// A call that was answered before it was done.
#[derive(Debug)]
pub struct Answered {
    afterwards: oneshot::Sender<ControlError>,
}

impl Answered {
    /// Tells the client in a second line that it could not be done.
    pub fn failed(self, error: ControlError) {
        drop(self.afterwards.send(error));
    }
}

/// What the daemon answers.
#[derive(Clone, Debug, Serialize)]
#[serde(untagged)]
pub enum Reply {
    /// It was done; written as an empty object.
    Done {},
    /// To `status`.
    Status(Box<Status>),
    /// To `stats`.
    Stats(Box<Stats>),
    /// To `plan`.
    Plan(Box<Plan>),
    /// To `trace`.
    Trace(Box<TraceAnswer>),
}

/// Why there is no socket.
#[derive(Debug, thiserror::Error)]
pub enum BindError {
    /// A daemon answers there.
    #[error(
        "another clusterd is listening on {0}; stop it first, or give this one its own socket (--socket, or \
         `[control] socket`)"
    )]
    InUse(PathBuf),
    /// There is something else.
    #[error(
        "{0} exists and is not a socket; move it away, or choose another path (--socket, or `[control] socket`)"
    )]
    NotASocket(PathBuf),
    /// The system refused.
    #[error("cannot {what} {path}: {source}")]
    Io {
        /// What was attempted.
        what: &'static str,
        /// With what.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
}

/// The bound socket. It is removed when this is dropped, unless somebody else's has taken its place.
#[derive(Debug)]
pub struct ControlSocket {
    listener: Option<StdListener>,
    path: PathBuf,
    /// Device and inode, by which to tell it from a successor's.
    identity: (u64, u64),
}

impl ControlSocket {
    /// Makes the socket, mode 0660, and its directory, mode 0755, if that does not exist. The socket of a dead daemon
    /// is replaced; clients may connect from now on and are answered once [`ControlSocket::serve`] runs.
    ///
    /// # Errors
    /// A living daemon has it, something else lies there, or the system refused.
    pub fn bind(path: &Path) -> Result<Self, BindError> {
        let failed =
            |what, path: &Path, source: io::Error| BindError::Io { what, path: path.to_owned(), source };
        let directory = match path.parent() {
            Some(parent) if parent != Path::new("") => parent,
            _ => Path::new("."),
        };
        if !directory.exists() {
            let made = DirBuilder::new().recursive(true).mode(0o755).create(directory);
            made.map_err(|error| failed("create the socket's directory", directory, error))?;
        }
        // Of two daemons that start at once only one may find the path free; the lock leaves no file behind.
        let lock = File::open(directory).map_err(|error| failed("open", directory, error))?;
        let _lock = Flock::lock(lock, FlockArg::LockExclusive)
            .map_err(|(_, errno)| failed("lock", directory, errno.into()))?;

        let address =
            UnixAddr::new(path).map_err(|errno| failed("use as the socket's path", path, errno.into()))?;
        match path.symlink_metadata() {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(failed("look at", path, error)),
            Ok(metadata) if !metadata.file_type().is_socket() => {
                return Err(BindError::NotASocket(path.to_owned()));
            }
            Ok(_) if answers(&address).map_err(|error| failed("ask who listens on", path, error))? => {
                return Err(BindError::InUse(path.to_owned()));
            }
            Ok(_) => {
                std::fs::remove_file(path).map_err(|error| failed("remove the stale socket", path, error))?;
            }
        }

        let listener = new_socket().map_err(|error| failed("create a socket for", path, error))?;
        bind(listener.as_raw_fd(), &address).map_err(|errno| failed("bind", path, errno.into()))?;
        // Until `listen` nobody can connect, so nobody gets in before the mode is right.
        let ready = std::fs::set_permissions(path, Permissions::from_mode(0o660))
            .and_then(|()| Ok(listen(&listener, Backlog::new(128)?)?))
            .and_then(|()| path.symlink_metadata());
        let metadata = ready.map_err(|error| failed("listen on", path, error))?;
        Ok(Self {
            listener: Some(StdListener::from(listener)),
            path: path.to_owned(),
            identity: (metadata.dev(), metadata.ino()),
        })
    }

    /// Answers clients until `stop` completes; then those in the middle of a command get their answer, if it comes
    /// within a second, and the socket is removed. Must be called inside a tokio runtime.
    ///
    /// # Errors
    /// The listener cannot be used with the runtime.
    pub async fn serve(
        mut self,
        calls: mpsc::Sender<Call>,
        events: EventLog,
        stop: impl Future<Output = ()>,
    ) -> io::Result<()> {
        let Some(listener) = self.listener.take() else { return Ok(()) };
        let listener = UnixListener::from_std(listener)?;
        let (stopping, _) = watch::channel(false);
        let mut clients = Clients::default();
        let mut tasks = JoinSet::new();
        tokio::pin!(stop);
        loop {
            tokio::select! {
                () = &mut stop => break,
                Some(_) = tasks.join_next(), if !tasks.is_empty() => {}
                accepted = listener.accept() => match accepted {
                    Ok((stream, _)) => clients.admit(stream, &mut tasks, &calls, &events, &stopping),
                    // Out of file descriptors, most likely: one idle client less may mend it.
                    Err(error) => {
                        tracing::warn!(%error, "cannot accept a client of the control socket");
                        clients.close_longest_idle();
                        tokio::time::sleep(Duration::from_millis(100)).await;
                    }
                },
            }
        }
        drop(listener);
        stopping.send_replace(true);
        let finish = async { while tasks.join_next().await.is_some() {} };
        if timeout(STOP_DEADLINE, finish).await.is_err() {
            tasks.shutdown().await;
        }
        Ok(())
    }
}

impl Drop for ControlSocket {
    fn drop(&mut self) {
        let still_ours =
            self.path.symlink_metadata().is_ok_and(|found| (found.dev(), found.ino()) == self.identity);
        if still_ours && let Err(error) = std::fs::remove_file(&self.path) {
            tracing::warn!(%error, path = %self.path.display(), "cannot remove the control socket");
        }
    }
}

fn new_socket() -> io::Result<OwnedFd> {
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    Ok(socket(AddressFamily::Unix, SockType::Stream, flags, None)?)
}

/// Whether somebody listens there. A stopped daemon with a full queue does, too.
fn answers(address: &UnixAddr) -> io::Result<bool> {
    match connect(new_socket()?.as_raw_fd(), address) {
        Ok(()) | Err(Errno::EAGAIN) => Ok(true),
        Err(Errno::ECONNREFUSED | Errno::ENOENT) => Ok(false),
        Err(errno) => Err(errno.into()),
    }
}

/// The clients there are.
#[derive(Default)]
struct Clients {
    all: Vec<(AbortHandle, Arc<Activity>)>,
}

impl Clients {
    fn admit(
        &mut self,
        stream: UnixStream,
        tasks: &mut JoinSet<()>,
        calls: &mpsc::Sender<Call>,
        events: &EventLog,
        stopping: &watch::Sender<bool>,
    ) {
        self.all.retain(|(task, _)| !task.is_finished());
        if self.all.len() >= MAX_CLIENTS && !self.close_longest_idle() {
            let error = ControlError::new(
                ErrorCode::TooManyClients,
                format!("{MAX_CLIENTS} clients are in the middle of a command; try again"),
            );
            // An empty socket buffer takes one line without waiting; who does not get it sees the end.
            drop(stream.try_write(&failure(error)));
            return;
        }
        let activity = Arc::new(Activity::default());
        let (reader, writer) = stream.into_split();
        let client = Client {
            reader: LineReader::new(reader),
            writer,
            activity: Arc::clone(&activity),
            calls: calls.clone(),
            events: events.clone(),
            stopping: stopping.subscribe(),
        };
        let task = tasks.spawn(async move {
            // Why a client went away concerns nobody but the client.
            drop(client.converse().await);
        });
        self.all.push((task, activity));
    }

    /// Makes room: whoever has been idle longest, or else whoever has followed events longest, but never a client
    /// that waits for the answer to a command.
    fn close_longest_idle(&mut self) -> bool {
        let idle = |index: &usize| self.all[*index].1.rank();
        let oldest = (0..self.all.len()).filter(|index| idle(index).is_some()).min_by_key(idle);
        let Some(oldest) = oldest else { return false };
        let (task, activity) = self.all.swap_remove(oldest);
        let closed = activity.close();
        if closed {
            task.abort();
        }
        closed
    }
}

/// What a client is doing, as the one who has to make room sees it.
#[derive(Debug)]
struct Activity(Mutex<Doing>);

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
enum Doing {
    /// Has asked for nothing since; a half line is nothing.
    Idle(Instant),
    /// Follows the events since.
    Following(Instant),
    /// Waits for an answer.
    Calling,
    /// Has been told to go.
    Closed,
}

impl Default for Activity {
    fn default() -> Self {
        Self(Mutex::new(Doing::Idle(Instant::now())))
    }
}

impl Activity {
    /// Orders clients by how little they would miss; none for those that may not be closed.
    fn rank(&self) -> Option<Doing> {
        let doing = *self.0.lock().unwrap_or_else(PoisonError::into_inner);
        matches!(doing, Doing::Idle(_) | Doing::Following(_)).then_some(doing)
    }

    /// Closes it, unless it has begun a command since it was chosen.
    fn close(&self) -> bool {
        let mut doing = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let may_close = matches!(*doing, Doing::Idle(_) | Doing::Following(_));
        if may_close {
            *doing = Doing::Closed;
        }
        may_close
    }

    /// Goes over to something else, unless it has been told to go.
    fn turn_to(&self, next: Doing) -> io::Result<()> {
        let mut doing = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if *doing == Doing::Closed {
            return Err(io::ErrorKind::ConnectionAborted.into());
        }
        *doing = next;
        Ok(())
    }
}

/// A reply, what is dropped once the client has been told, and what may have to be said after it.
type Outcome = (Reply, oneshot::Sender<()>, oneshot::Receiver<ControlError>);

/// One connection.
struct Client {
    reader: LineReader,
    writer: OwnedWriteHalf,
    activity: Arc<Activity>,
    calls: mpsc::Sender<Call>,
    events: EventLog,
    stopping: watch::Receiver<bool>,
}

impl Client {
    async fn converse(mut self) -> io::Result<()> {
        loop {
            let line = tokio::select! {
                line = self.reader.line() => line?,
                _ = self.stopping.wait_for(|stopping| *stopping) => return Ok(()),
            };
            self.activity.turn_to(Doing::Calling)?;
            match line {
                Line::End => return Ok(()),
                Line::TooLong => {
                    let message =
                        format!("the line is longer than {MAX_LINE_BYTES} bytes; the connection is closed");
                    self.write(failure(ControlError::new(ErrorCode::LineTooLong, message))).await?;
                    self.writer.shutdown().await?;
                    self.activity.turn_to(Doing::Idle(Instant::now()))?;
                    return self.reader.discard().await;
                }
                Line::Text(text) if text.is_empty() => {}
                Line::Text(text) => match Request::parse(&text) {
                    Ok(Request::Events { follow: true, since }) => return self.follow(since).await,
                    Ok(request) => self.answer(request).await?,
                    Err(error) => self.write(failure(error)).await?,
                },
            }
            self.activity.turn_to(Doing::Idle(Instant::now()))?;
        }
    }

    async fn answer(&mut self, request: Request) -> io::Result<()> {
        match request {
            Request::Events { since, .. } => {
                let batch = self.events.after(since, usize::MAX);
                let events = batch.events.iter().map(AsRef::as_ref).collect();
                self.write(success(&EventList { events, missed: batch.missed })).await
            }
            request => match self.call(request).await {
                Ok((reply, told, afterwards)) => {
                    self.write(success(&reply)).await?;
                    drop(told);
                    // Nothing comes after the answer but to a restart that was not possible after all.
                    match afterwards.await {
                        Ok(error) => self.write(failure(error)).await,
                        Err(_) => Ok(()),
                    }
                }
                Err(error) => self.write(failure(error)).await,
            },
        }
    }

    async fn call(&self, request: Request) -> Result<Outcome, ControlError> {
        let unavailable = || {
            ControlError::new(
                ErrorCode::Unavailable,
                "the daemon is stopping; whether this was done is unknown",
            )
        };
        let (call, Caller { answer, teller, after }) = Call::new(request);
        self.calls.try_send(call).map_err(|error| match error {
            mpsc::error::TrySendError::Full(_) => ControlError::new(
                ErrorCode::Busy,
                "too many commands are under way; nothing was done, try again",
            ),
            mpsc::error::TrySendError::Closed(_) => unavailable(),
        })?;
        match timeout(REPLY_DEADLINE, answer).await {
            Ok(Ok(answer)) => answer.map(|reply| (reply, teller, after)),
            Ok(Err(_)) => Err(unavailable()),
            Err(_) => Err(ControlError::new(
                ErrorCode::Timeout,
                format!("no answer within {} s; whether this was done is unknown", REPLY_DEADLINE.as_secs()),
            )),
        }
    }

    /// Writes events until the client goes away, does not read, or the daemon stops.
    async fn follow(mut self, since: u64) -> io::Result<()> {
        const AT_ONCE: usize = 64;
        self.activity.turn_to(Doing::Following(Instant::now()))?;
        let mut news = self.events.watch();
        let mut since = since;
        loop {
            news.borrow_and_update();
            let stopping = *self.stopping.borrow();
            let batch = self.events.after(since, AT_ONCE);
            if let Some(first) = batch.events.first()
                && batch.missed > 0
            {
                let missed = EventBody { count: Some(batch.missed), ..EventBody::kind("missed") };
                let (seq, time, boot_ns) = (first.seq - 1, first.time.clone(), first.boot_ns);
                self.write(success(&EventRecord { seq, time, boot_ns, body: missed })).await?;
            }
            for event in &batch.events {
                self.write(success(event.as_ref())).await?;
                since = event.seq;
            }
            if batch.events.len() == AT_ONCE {
                continue;
            }
            // What happened up to the stop has been written by now.
            if stopping {
                return Ok(());
            }
            tokio::select! {
                changed = news.changed() => if changed.is_err() { return Ok(()) },
                gone = self.reader.gone() => return gone,
                _ = self.stopping.wait_for(|stopping| *stopping) => {}
            }
        }
    }

    async fn write(&mut self, line: Vec<u8>) -> io::Result<()> {
        timeout(WRITE_DEADLINE, self.writer.write_all(&line)).await?
    }
}

/// The answer to `events` without `follow`.
#[derive(Serialize)]
struct EventList<'a> {
    events: Vec<&'a EventRecord>,
    missed: u64,
}

#[derive(Serialize)]
struct Success<'a, T> {
    ok: bool,
    result: &'a T,
}

#[derive(Serialize)]
struct Failure {
    ok: bool,
    error: ControlError,
}

fn success<T: Serialize>(result: &T) -> Vec<u8> {
    line(&Success { ok: true, result })
}

fn failure(error: ControlError) -> Vec<u8> {
    line(&Failure { ok: false, error })
}

fn line<T: Serialize>(answer: &T) -> Vec<u8> {
    // The types have string keys and finite numbers only, so this cannot fail; a client would still rather hear of it.
    let mut line = serde_json::to_vec(answer).unwrap_or_else(|_| {
        br#"{"ok":false,"error":{"code":"internal","message":"the answer cannot be written as JSON"}}"#
            .to_vec()
    });
    line.push(b'\n');
    line
}

/// What a client sent.
enum Line {
    /// A line without its newline; the last one may lack it.
    Text(Vec<u8>),
    /// More than a line may have.
    TooLong,
    /// Nothing more.
    End,
}

/// Takes lines of bounded length from a client.
struct LineReader {
    stream: OwnedReadHalf,
    /// What has been read and not yet taken; never more than a line and one read.
    buffer: Vec<u8>,
    /// Up to where it has been searched for a newline.
    searched: usize,
}

impl LineReader {
    fn new(stream: OwnedReadHalf) -> Self {
        Self { stream, buffer: Vec::new(), searched: 0 }
    }

    /// The next line. May be dropped and called again: what was read stays.
    async fn line(&mut self) -> io::Result<Line> {
        loop {
            if let Some(at) = self.buffer[self.searched..].iter().position(|byte| *byte == b'\n') {
                let end = self.searched + at;
                self.searched = 0;
                if end > MAX_LINE_BYTES {
                    return Ok(Line::TooLong);
                }
                let rest = self.buffer.split_off(end + 1);
                let mut line = std::mem::replace(&mut self.buffer, rest);
                line.pop();
                return Ok(Line::Text(line));
            }
            self.searched = self.buffer.len();
            if self.buffer.len() > MAX_LINE_BYTES {
                return Ok(Line::TooLong);
            }
            let mut chunk = [0; 4096];
            let read = self.stream.read(&mut chunk).await?;
            if read == 0 {
                self.searched = 0;
                let last = std::mem::take(&mut self.buffer);
                return Ok(if last.is_empty() { Line::End } else { Line::Text(last) });
            }
            self.buffer.extend_from_slice(&chunk[..read]);
        }
    }

    /// Completes when the client has gone away; what it sends meanwhile is discarded.
    async fn gone(&mut self) -> io::Result<()> {
        let mut chunk = [0; 4096];
        while self.stream.read(&mut chunk).await? > 0 {}
        Ok(())
    }

    /// Reads on for a while after the last answer: a Unix socket closed with unread data resets the connection, and
    /// the client would see that and not the answer.
    async fn discard(&mut self) -> io::Result<()> {
        timeout(Duration::from_secs(1), self.gone()).await.unwrap_or(Ok(()))
    }
}
