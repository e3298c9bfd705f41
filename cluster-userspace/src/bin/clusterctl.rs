//! `clusterctl`: shows and steers the running daemon of this node over its control socket.

use std::fs::File;
use std::io::{self, IsTerminal, Write};
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use clap::{CommandFactory, Parser, Subcommand};
use clap_complete::Shell;
use cluster_userspace::config::DEFAULT_SOCKET;
use cluster_userspace::control::render::{self, Paint};
use cluster_userspace::control::trace::{PcapWriter, TraceAnswer};
use cluster_userspace::control::{Client, ClientError, EventRecord, Request, Status};
use cluster_userspace::driver::clock;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

/// Reading what the daemon knows takes it microseconds.
const QUERY: Duration = Duration::from_secs(2);
/// The installed program is run to check the configuration, and other nodes' restarts are waited for.
const RESTART: Duration = Duration::from_secs(20);
/// How long the next daemon may take to answer: longer than the leases last that the one before has left, so that it is known
/// whether it kept them.
const NEXT_DAEMON: Duration = Duration::from_secs(10);
/// A switchover takes milliseconds, but a promote may have to wait for silence and for the start-up wait.
const COMMAND: Duration = Duration::from_secs(15);

/// Show and steer the cluster node running on this host.
#[derive(Parser)]
#[command(name = "clusterctl", version, after_help = EXIT_CODES)]
struct Arguments {
    /// The daemon's control socket
    #[arg(long, global = true, value_name = "PATH", env = "CLUSTER_SOCKET", default_value = DEFAULT_SOCKET)]
    socket: PathBuf,
    /// Print JSON: one object, or one a line for events
    #[arg(long, global = true)]
    json: bool,
    #[command(subcommand)]
    command: Command,
}

const EXIT_CODES: &str =
    "Exit codes: 0 done, 1 refused or failed, 2 usage, 3 no daemon at the socket (state unknown)";

#[derive(Subcommand)]
enum Command {
    /// Show roles, leases, peers and paths, and what the set-up protects from
    Status,
    /// Make this node take a group, and wait until it serves
    Promote {
        /// The group's name
        group: String,
        /// Do not wait until it is proven to be safe: if another node is alive but unheard, both may serve
        #[arg(long)]
        force: bool,
    },
    /// Make this node give up a group, and wait until another serves it
    Demote {
        /// The group's name
        group: String,
        /// Even if no other node can serve it
        #[arg(long)]
        force: bool,
    },
    /// Give up everything and take nothing, for maintenance
    Drain {
        /// Even if no other node can serve
        #[arg(long)]
        force: bool,
    },
    /// End a drain
    Undrain,
    /// Read the configuration again
    Reload,
    /// Replace the daemon by the installed binary without moving a VIP, and wait until that one serves
    Restart,
    /// Show what happened, each transition with its cause and timings
    Events {
        /// Go on with what happens from now on
        #[arg(long, short)]
        follow: bool,
    },
    /// Show the data plane's counters
    Stats,
    /// Show who would serve which group if nodes were gone, and in what order nodes take it
    Plan {
        /// A node that is taken to be gone, besides those that this one does not hear; may be given several times
        #[arg(long, value_name = "NODE")]
        without: Vec<String>,
    },
    /// Show the frames that concern a VIP as they come and go, what became of each and why, until interrupted
    ///
    /// Frames are shown as they are after the program has judged them: an answered request as the answer. While nobody
    /// traces, it costs nothing. One client at a time can.
    Trace {
        /// The virtual address
        vip: IpAddr,
        /// Show each N'th frame of a processor only
        #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..))]
        every: u32,
        /// End after so many frames
        #[arg(long, value_name = "N")]
        count: Option<u64>,
        /// End after so many seconds
        #[arg(long, value_name = "S")]
        seconds: Option<u64>,
        /// Write a capture file for Wireshark or tcpdump instead; `-` for the standard output
        #[arg(long, value_name = "FILE")]
        write: Option<PathBuf>,
    },
    /// Print a new cluster key; needs no daemon
    Keygen,
    /// Print the completions of a shell; needs no daemon
    Completions {
        /// The shell
        shell: Shell,
    },
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let (code, message) = match run(&arguments) {
        Ok(()) => return ExitCode::SUCCESS,
        // Whoever reads the output has had enough of it, as with `clusterctl events | head`.
        Err(Failure::Output(error)) if error.kind() == io::ErrorKind::BrokenPipe => return ExitCode::SUCCESS,
        Err(Failure::Output(error)) => (1, format!("cannot write the output: {error}")),
        Err(Failure::Random(error)) => (1, format!("cannot get random bytes from the kernel: {error}")),
        Err(Failure::Ended) => (
            3,
            format!(
                "clusterd at {} has stopped; the state of this node is unknown",
                arguments.socket.display()
            ),
        ),
        Err(Failure::NotReplaced(why)) => {
            if arguments.json {
                let error = json!({"error": {"code": "not_replaced", "message": why}});
                drop(writeln!(io::stdout(), "{error}"));
            }
            (1, why)
        }
        Err(Failure::Client(error)) => {
            if arguments.json {
                let error = json!({"error": {"code": code_of(&error), "message": error.to_string()}});
                // The exit code and stderr say it too.
                drop(writeln!(io::stdout(), "{error}"));
            }
            let code = if matches!(error, ClientError::NoDaemon { .. }) { 3 } else { 1 };
            (code, error.to_string())
        }
    };
    drop(writeln!(io::stderr(), "clusterctl: {message}"));
    ExitCode::from(code)
}

/// Why nothing, or not everything, was shown or done.
enum Failure {
    Client(ClientError),
    Output(io::Error),
    Random(getrandom::Error),
    /// The daemon ended while its events were followed.
    Ended,
    /// No other daemon came, or it did not keep what the one before had.
    NotReplaced(String),
}

impl From<ClientError> for Failure {
    fn from(error: ClientError) -> Self {
        Self::Client(error)
    }
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        Self::Output(error)
    }
}

fn code_of(error: &ClientError) -> String {
    match error {
        ClientError::NoDaemon { .. } => "no_daemon".to_owned(),
        ClientError::NotAllowed { .. } => "not_allowed".to_owned(),
        ClientError::Timeout { .. } => "no_answer".to_owned(),
        ClientError::Broken { .. } => "broken".to_owned(),
        ClientError::Refused(error) => error.code.to_string(),
    }
}

fn run(arguments: &Arguments) -> Result<(), Failure> {
    let group = |group: &String| group.clone();
    match &arguments.command {
        Command::Keygen => keygen(),
        Command::Completions { shell } => completions(*shell),
        Command::Status => query(arguments, &Request::Status, render::status),
        Command::Stats => query(arguments, &Request::Stats, render::stats),
        Command::Plan { without } => {
            query(arguments, &Request::Plan { without: without.clone() }, render::plan)
        }
        Command::Trace { vip, every, count, seconds, write } => trace(
            arguments,
            &Traced { vip: *vip, every: *every, count: *count, seconds: *seconds, write: write.as_deref() },
        ),
        Command::Events { follow: false } => events(arguments),
        Command::Events { follow: true } => follow(arguments),
        Command::Promote { group: name, force } => {
            if *force {
                let warning =
                    "clusterctl: --force: if another node is alive but unheard, both may serve the VIP";
                drop(writeln!(io::stderr(), "{warning}"));
            }
            let request = Request::Promote { group: group(name), force: *force };
            command(arguments, &request, &format!("{name}: this node serves it"))
        }
        Command::Demote { group: name, force } => {
            let request = Request::Demote { group: group(name), force: *force };
            command(arguments, &request, &format!("{name}: given up"))
        }
        Command::Drain { force } => {
            let done = "drained: this node serves nothing until `clusterctl undrain`";
            command(arguments, &Request::Drain { force: *force }, done)
        }
        Command::Undrain => command(arguments, &Request::Undrain, "undrained: this node may serve again"),
        Command::Reload => command(arguments, &Request::Reload, "reloaded"),
        Command::Restart => restart(arguments),
    }
}

/// Asks for something and shows it.
fn query<T: DeserializeOwned>(
    arguments: &Arguments,
    request: &Request,
    render: impl FnOnce(&T, Paint) -> String,
) -> Result<(), Failure> {
    let mut client = Client::connect(&arguments.socket, QUERY)?;
    if arguments.json {
        let value: Value = client.call(request, QUERY)?;
        return print(&format!("{value}\n"));
    }
    let answer: T = client.call(request, QUERY)?;
    print(&render(&answer, paint()))
}

/// Has the daemon replaced, and waits until the next one answers and holds what this one held.
fn restart(arguments: &Arguments) -> Result<(), Failure> {
    let mut client = Client::connect(&arguments.socket, QUERY)?;
    let before = client.status()?;
    let asked = clock::now();
    client.restart(RESTART)?;
    let left = clock::now();
    let after = loop {
        // A daemon that is not there yet, or is still starting, is nothing to be told of before the time is up.
        let found = Client::connect(&arguments.socket, QUERY).and_then(|mut client| client.status());
        match found {
            Ok(after) if after.run != before.run => break after,
            _ if clock::now().since(left) < NEXT_DAEMON => await_a_moment(10),
            Ok(_) => {
                return Err(Failure::NotReplaced("the daemon that was to be replaced still runs".to_owned()));
            }
            Err(error) => {
                return Err(Failure::NotReplaced(format!(
                    "the daemon was replaced, and the next one does not answer ({error}); see its log. Its groups go to \
                     other nodes when its leases are over"
                )));
            }
        }
    };
    let took = clock::now().since(left);
    let holds = |status: &Status, name: &str| {
        let group = status.groups.iter().find(|group| group.name == name && group.role == "active");
        group.and_then(|group| group.epoch.clone())
    };
    let held = before.groups.iter().filter(|group| group.role == "active");
    let lost: Vec<_> = held
        .filter(|group| holds(&after, &group.name) != group.epoch)
        .map(|group| group.name.as_str())
        .collect();
    if !lost.is_empty() {
        let lost = lost.join(", ");
        let why = format!("the daemon was replaced, but did not keep {lost}: see `clusterctl events`");
        return Err(Failure::NotReplaced(why));
    }
    let millis = |duration: Duration| u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
    if arguments.json {
        let done = json!({
            "version_before": before.version,
            "version": after.version,
            "run": after.run,
            "prepared_ms": millis(left.since(asked)),
            "took_ms": millis(took),
        });
        return print(&format!("{done}\n"));
    }
    let versions = if before.version == after.version {
        format!("clusterd {}", after.version)
    } else {
        format!("clusterd {} instead of {}", after.version, before.version)
    };
    print(&format!(
        "restarted: {versions} answers {} ms after the old process, which took {} ms to get ready\n",
        millis(took),
        millis(left.since(asked))
    ))
}

/// Lets time pass where nothing tells when there is more: when a socket is there again, or when a frame comes by.
fn await_a_moment(millis: u16) {
    // With nothing to wait for it returns when the time is up, or earlier for a signal, which does no harm.
    let _ = nix::poll::poll(&mut [], millis);
}

/// Has something done and says so.
fn command(arguments: &Arguments, request: &Request, done: &str) -> Result<(), Failure> {
    let mut client = Client::connect(&arguments.socket, QUERY)?;
    let value: Value = client.call(request, COMMAND)?;
    if arguments.json { print(&format!("{value}\n")) } else { print(&format!("{done}\n")) }
}

fn events(arguments: &Arguments) -> Result<(), Failure> {
    let mut client = Client::connect(&arguments.socket, QUERY)?;
    let value: Value = client.call(&Request::Events { follow: false, since: 0 }, QUERY)?;
    let events = value.get("events").and_then(Value::as_array).map_or(&[][..], Vec::as_slice);
    let mut text = String::new();
    for event in events {
        text.push_str(&event_line(event, arguments.json));
    }
    print(&text)
}

fn follow(arguments: &Arguments) -> Result<(), Failure> {
    let mut follow = Client::connect(&arguments.socket, QUERY)?.follow(0)?;
    while let Some(event) = follow.next_value(None)? {
        print(&event_line(&event, arguments.json))?;
    }
    Err(Failure::Ended)
}

/// An event in a line. One that this version cannot read is shown as it was sent.
fn event_line(event: &Value, json: bool) -> String {
    match serde_json::from_value::<EventRecord>(event.clone()) {
        Ok(event) if !json => format!("{}\n", render::event(&event, paint())),
        _ => format!("{event}\n"),
    }
}

/// Which frames to show, and where.
struct Traced<'a> {
    vip: IpAddr,
    every: u32,
    count: Option<u64>,
    seconds: Option<u64>,
    write: Option<&'a Path>,
}

fn trace(arguments: &Arguments, wanted: &Traced<'_>) -> Result<(), Failure> {
    let mut pcap = match wanted.write {
        Some(path) => {
            let file: Box<dyn Write> =
                if path == Path::new("-") { Box::new(io::stdout()) } else { Box::new(File::create(path)?) };
            Some(PcapWriter::new(file)?)
        }
        None => None,
    };
    let number = getrandom::u64().map_err(Failure::Random)?;
    let request = Request::Trace { vip: wanted.vip.to_string(), every: wanted.every, trace: number };
    let mut client = Client::connect(&arguments.socket, QUERY)?;
    let began = clock::now();
    let (mut shown, mut lost_before) = (0, None);
    loop {
        let value: Value = client.call(&request, QUERY)?;
        let answer: TraceAnswer = serde_json::from_value(value).map_err(io::Error::from)?;
        for frame in &answer.frames {
            match &mut pcap {
                Some(pcap) => pcap.write(frame)?,
                None if arguments.json => print(&format!("{}\n", json!(frame)))?,
                None => print(&format!("{}\n", frame.line()))?,
            }
            shown += 1;
            if wanted.count == Some(shown) {
                return Ok(());
            }
        }
        let more = answer.lost - *lost_before.get_or_insert(answer.lost);
        if more > 0 {
            let message = format!("clusterctl: {more} frames more than could be taken; try --every");
            drop(writeln!(io::stderr(), "{message}"));
            lost_before = Some(answer.lost);
        }
        if wanted.seconds.is_some_and(|seconds| clock::now().since(began) >= Duration::from_secs(seconds)) {
            return Ok(());
        }
        if answer.frames.is_empty() {
            await_a_moment(100);
        }
    }
}

fn keygen() -> Result<(), Failure> {
    let mut key = [0_u8; 32];
    getrandom::fill(&mut key).map_err(Failure::Random)?;
    let digits: String = key.iter().map(|byte| format!("{byte:02x}")).collect();
    print(&format!("{digits}\n"))
}

fn completions(shell: Shell) -> Result<(), Failure> {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Arguments::command(), "clusterctl", &mut script);
    Ok(io::stdout().write_all(&script)?)
}

fn print(text: &str) -> Result<(), Failure> {
    let mut out = io::stdout().lock();
    out.write_all(text.as_bytes())?;
    Ok(out.flush()?)
}

/// Colours for people at a terminal who have not asked for none (no-color.org).
fn paint() -> Paint {
    let unwanted = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
    if io::stdout().is_terminal() && !unwanted { Paint::Colours } else { Paint::Plain }
}
