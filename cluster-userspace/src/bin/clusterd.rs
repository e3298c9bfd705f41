//! `clusterd`: the cluster's daemon. See `clusterd --help` and docs/operation.md.

use std::io::IsTerminal as _;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, ValueEnum};
use cluster_userspace::config::Config;
use cluster_userspace::daemon::{self, Cleaned, Installed, Source};
use cluster_userspace::driver::realtime;
use tracing_subscriber::EnvFilter;

/// Runs this host as a node or a witness of a virtual-IP cluster.
///
/// The same configuration file serves every node and witness. SIGTERM and SIGINT hand the groups over, remove everything that was
/// added and end the daemon with code 0. Other codes: 1 a failure while running, 2 bad usage or configuration.
#[derive(Parser, Debug)]
#[command(version, about)]
struct Arguments {
    /// The configuration file.
    #[arg(long, value_name = "FILE")]
    config: PathBuf,
    /// Which node or witness of the file this host is [default: the host name].
    #[arg(long, value_name = "NAME")]
    node: Option<String>,
    /// The control socket, instead of the file's.
    #[arg(long, value_name = "PATH")]
    socket: Option<PathBuf>,
    /// Check the configuration, say all that is wrong with it, and end.
    #[arg(long, conflicts_with = "cleanup")]
    check: bool,
    /// Remove what a daemon that was killed has left: addresses, programs, filters, pins. Refused while it lives.
    #[arg(long)]
    cleanup: bool,
    /// Pin the XDP program for a dispatcher of yours and attach none: see "Somebody else's dispatcher" in docs/operation.md.
    #[arg(long, conflicts_with = "cleanup")]
    pin_only: bool,
    /// How the log is written to stderr. RUST_LOG chooses what is logged, such as `info` or `cluster_userspace=debug`.
    #[arg(long, value_enum, default_value_t = LogFormat::Text)]
    log: LogFormat,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum LogFormat {
    /// Lines for people and journald.
    Text,
    /// One JSON object a line.
    Json,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    start_log(arguments.log);
    let config = match Config::load(&arguments.config) {
        Ok(config) => config,
        Err(errors) => {
            eprintln!("{errors}");
            return ExitCode::from(2);
        }
    };
    let node = match arguments.node.clone().map_or_else(host_name, Ok) {
        Ok(node) => node,
        Err(error) => {
            eprintln!("clusterd: cannot read the host name ({error}); name the node with --node");
            return ExitCode::from(2);
        }
    };
    // Whatever is wrong with the node's name is a matter of usage, not of running.
    let source = Source {
        file: arguments.config.clone(),
        node: node.clone(),
        socket: arguments.socket.clone(),
        pin_only: arguments.pin_only,
    };
    let local = match source.settings(&config) {
        Ok((_, local)) => local,
        Err(error) => {
            eprintln!("{}: {error}", arguments.config.display());
            return ExitCode::from(2);
        }
    };
    if let Some(cpu) = local.cpu.filter(|_| !arguments.cleanup)
        && let Err(why) = realtime::check_cpu(cpu)
    {
        eprintln!("{}: cpu = {cpu} of {} \"{node}\": {why}", arguments.config.display(), local.kind());
        return ExitCode::from(2);
    }
    if arguments.check {
        // A daemon that ran with this file's voters has to be able to run with them again.
        if let Err(error) = daemon::check_memory(&config, &node) {
            eprintln!("{}: {error:#}", arguments.config.display());
            return ExitCode::from(2);
        }
        for warning in &local.warnings {
            eprintln!("warning: {warning}");
        }
        println!("{}: the configuration of {} {node} is good", arguments.config.display(), local.kind());
        return ExitCode::SUCCESS;
    }
    match run(&arguments, &config, source) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // One line, causes included.
            eprintln!("clusterd: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: &Arguments, config: &Config, source: Source) -> anyhow::Result<()> {
    // One thread: nothing here is heavy, and what must not wait has threads of its own.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        if arguments.cleanup {
            let node = &source.node;
            match daemon::cleanup(config, node, arguments.socket.as_deref()).await? {
                Cleaned::Node { addresses, programs } => {
                    let programs =
                        if programs { "programs and pins removed" } else { "no programs were there" };
                    println!("{addresses} addresses removed, {programs}");
                }
                Cleaned::Witness => {
                    println!(
                        "{node} is a witness: it adds nothing to this host, so that nothing is to be removed"
                    );
                }
            }
            return Ok(());
        }
        let installed = Installed::of_this_process();
        daemon::run(config, source, installed).await
    })
}

fn start_log(format: LogFormat) {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info"));
    let log = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    match format {
        LogFormat::Text => log.with_ansi(std::io::stderr().is_terminal()).with_target(false).init(),
        LogFormat::Json => log.json().init(),
    }
}

fn host_name() -> Result<String, String> {
    let name = nix::unistd::gethostname().map_err(|errno| errno.to_string())?;
    name.into_string().map_err(|name| format!("{name:?} is not UTF-8"))
}
