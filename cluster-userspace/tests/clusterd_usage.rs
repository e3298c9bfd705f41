//! `clusterd` as whoever starts it sees it: what it accepts, what it refuses, in which words and with which exit code.

#![expect(clippy::unwrap_used, reason = "a test ends where something unexpected happens")]

use std::fs;
use std::io::{BufRead as _, BufReader, Write as _};
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::atomic::{AtomicU32, Ordering};

const CLUSTERD: &str = env!("CARGO_BIN_EXE_clusterd");

/// Line 1 is `[cluster]`; the tests count from here.
const GOOD: &str = r#"[cluster]
name = "usage"
key_file = "cluster.key"

[timing]
heartbeat = "10ms"
lease = "40ms"
dead_after = "50ms"

[[node]]
name = "a"
interface = "eth0"
addresses = ["10.78.0.1", "10.77.0.1"]

[[node]]
name = "b"
interface = "eth0"
addresses = ["10.78.0.2", "10.77.0.2"]

[[group]]
name = "web"
vips = ["10.77.0.100/24"]
"#;

/// A directory with a good key, which goes with the test.
struct Directory(PathBuf);

impl Directory {
    fn new() -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let name = format!("cluster-usage-{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        let directory = Self(std::env::temp_dir().join(name));
        fs::create_dir_all(&directory.0).unwrap();
        directory.key(&format!("{}\n", "0f".repeat(32)), 0o600);
        directory
    }

    fn key(&self, text: &str, mode: u32) {
        let path = self.0.join("cluster.key");
        fs::write(&path, text).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
    }

    fn config(&self, text: &str) -> PathBuf {
        let path = self.0.join("cluster.toml");
        fs::write(&path, text).unwrap();
        path
    }

    /// Exit code and standard error of `clusterd --check` for node `a`.
    fn check(&self, text: &str) -> (i32, String) {
        told(&check(&self.config(text), "a"))
    }

    /// The errors of a refused text, one a line, without the file's name.
    fn refused(&self, text: &str) -> Vec<String> {
        let (code, said) = self.check(text);
        assert_eq!(code, 2, "{said}");
        let file = self.0.join("cluster.toml").display().to_string();
        said.lines().map(|line| line.strip_prefix(&file).unwrap_or(line).to_owned()).collect()
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        drop(fs::remove_dir_all(&self.0));
    }
}

fn check(config: &Path, node: &str) -> Output {
    Command::new(CLUSTERD).arg("--config").arg(config).args(["--node", node, "--check"]).output().unwrap()
}

fn told(output: &Output) -> (i32, String) {
    (output.status.code().unwrap(), String::from_utf8(output.stderr.clone()).unwrap())
}

/// That there is one error, and that it begins and goes on as it should.
fn assert_one(errors: &[String], begin: &str, contained: &str) {
    assert!(
        errors.len() == 1 && errors[0].starts_with(begin) && errors[0].contains(contained),
        "{errors:#?}"
    );
}

#[test]
fn a_good_configuration_is_called_so() {
    let directory = Directory::new();
    let output = check(&directory.config(GOOD), "b");
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    let said = String::from_utf8(output.stdout).unwrap();
    assert!(said.contains("the configuration of node b is good"), "{said}");
}

#[test]
fn a_file_that_is_not_there_is_named() {
    let directory = Directory::new();
    let (code, said) = told(&check(&directory.0.join("missing.toml"), "a"));
    assert_eq!(code, 2);
    assert!(said.contains("missing.toml: cannot read the configuration: No such file"), "{said}");
    assert_eq!(said.lines().count(), 1, "{said}");
}

#[test]
fn broken_toml_is_refused_with_its_line() {
    let directory = Directory::new();
    let errors = directory.refused("[cluster]\nname = \"a\nkey");
    assert!(
        errors.len() == 2 && errors[0].starts_with(":2: ") && errors[1].starts_with(":3: "),
        "{errors:#?}"
    );
    let (code, said) = told(&check(&directory.0, "a"));
    assert_eq!(code, 2, "a directory is no file: {said}");
}

#[test]
fn a_bad_key_is_refused_and_not_shown() {
    let directory = Directory::new();
    let key = ":3: cluster.key_file: ";
    directory.key("abc\n", 0o600);
    assert_one(&directory.refused(GOOD), key, "64 hexadecimal digits");
    directory.key(&format!("{}zz\n", "0f".repeat(31)), 0o600);
    let errors = directory.refused(GOOD);
    assert_one(&errors, key, "64 hexadecimal digits");
    assert!(!errors[0].contains("0f0f"), "part of a key was shown: {errors:?}");
    directory.key(&format!("{}\n", "0f".repeat(32)), 0o644);
    assert_one(&directory.refused(GOOD), key, "mode 0644; a key must have mode 0600");
    fs::remove_file(directory.0.join("cluster.key")).unwrap();
    assert_one(&directory.refused(GOOD), key, "cannot be read: No such file");
}

#[test]
fn vips_timings_and_keys_are_held_to_the_rules() {
    let directory = Directory::new();
    let twice = format!("{GOOD}\n[[group]]\nname = \"db\"\nvips = [\"10.77.0.100/24\"]\n");
    assert_one(&directory.refused(&twice), ":26: group[1].vips[0]: ", "belongs to group \"web\" already");
    let short = GOOD.replace("lease = \"40ms\"", "lease = \"20ms\"");
    assert_one(&directory.refused(&short), ":7: timing.lease: ", "at least 3 heartbeats, 30ms");
    let close = GOOD.replace("dead_after = \"50ms\"", "dead_after = \"43ms\"");
    assert_one(&directory.refused(&close), ":8: timing.dead_after: ", "at least 1.1 leases, 44ms");
    let later = format!("{GOOD}protocol = \"carp\"\n");
    assert_one(&directory.refused(&later), ":23: group[0].protocol: ", "not supported yet");
    let unknown = format!("{GOOD}colour = \"red\"\n");
    assert_one(&directory.refused(&unknown), ":23: group[0].colour: ", "unknown key");
}

#[test]
fn an_unknown_node_is_told_the_names_there_are() {
    let directory = Directory::new();
    let (code, said) = told(&check(&directory.config(GOOD), "c"));
    assert_eq!(code, 2);
    assert!(said.contains("called \"c\"") && said.contains("`a` and `b`"), "{said}");
    assert_eq!(said.lines().count(), 1, "{said}");
}

#[test]
fn everything_that_is_wrong_is_said_at_once() {
    let directory = Directory::new();
    directory.key("abc\n", 0o640);
    let text = GOOD
        .replace("lease = \"40ms\"", "lease = \"20ms\"")
        .replace("\"10.77.0.100/24\"", "\"10.77.0.100/24\", \"10.77.0.100/24\", \"10.77.0.300/24\"")
        + "colour = \"red\"\n\n[[witness]]\nname = \"w\"\ninterface = \"eth0\"\naddresses = [\"10.77.0.2\"]\n";
    let errors = directory.refused(&text);
    let begins = [
        ":3: cluster.key_file: ",
        ":3: cluster.key_file: ",
        ":7: timing.lease: ",
        ":22: group[0].vips[1]: ",
        ":22: group[0].vips[2]: ",
        ":23: group[0].colour: ",
        ":27: witness[0].interface: ",
        ":28: witness[0].addresses[0]: ",
    ];
    assert_eq!(errors.len(), begins.len(), "{errors:#?}");
    for (error, begin) in errors.iter().zip(begins) {
        assert!(error.starts_with(begin), "not {begin:?}: {error:?}");
    }
    assert!(errors[0].contains("has mode 0640") && errors[1].contains("this file has 3"), "{errors:#?}");
}

#[test]
fn bad_usage_is_code_2() {
    let directory = Directory::new();
    let config = directory.config(GOOD).display().to_string();
    let lines: [&[&str]; 5] = [
        &[],
        &["--config"],
        &["--config", &config, "--nonsense"],
        &["--config", &config, "--check", "--cleanup"],
        &["--config", &config, "--log", "xml"],
    ];
    for arguments in lines {
        let (code, said) = told(&Command::new(CLUSTERD).args(arguments).output().unwrap());
        assert_eq!(code, 2, "{arguments:?}: {said}");
        assert!(said.contains("--help"), "{arguments:?}: {said}");
    }
}

#[test]
fn missing_capabilities_are_named_in_one_line() {
    let root = nix::unistd::geteuid().is_root();
    assert!(
        root || std::env::var("CI").as_deref() != Ok("true"),
        "this needs root, and CI=true allows no skipping"
    );
    if !root {
        eprintln!("SKIPPED missing capabilities: only root has some to give up");
        return;
    }
    let directory = Directory::new();
    let state =
        format!("key_file = \"cluster.key\"\nstate_dir = \"{}\"", directory.0.join("state").display());
    let config = directory.config(&GOOD.replace("key_file = \"cluster.key\"", &state));
    for (without, named) in [
        ("-bpf,-sys_admin", "CAP_BPF and CAP_SYS_ADMIN,"),
        ("-net_admin", "CAP_NET_ADMIN,"),
        ("-net_raw", "CAP_NET_RAW,"),
        ("-perfmon,-sys_admin", "CAP_PERFMON and CAP_SYS_ADMIN,"),
        ("-sys_admin", "CAP_SYS_ADMIN,"),
        ("-all", "CAP_BPF and CAP_NET_ADMIN and CAP_NET_RAW and CAP_PERFMON and CAP_SYS_ADMIN,"),
    ] {
        for cleanup in [false, true] {
            // In a network namespace of its own, and not for long: a daemon that does start must not come near this host.
            let mut command = Command::new("unshare");
            command
                .args(["--net", "timeout", "10", "setpriv", "--inh-caps=-all", "--bounding-set"])
                .arg(without);
            command.args([CLUSTERD, "--node", "a", "--config"]).arg(&config);
            command.arg("--socket").arg(directory.0.join("control.sock"));
            command.args(cleanup.then_some("--cleanup"));
            let (code, said) = told(&command.output().unwrap());
            assert_eq!(code, 1, "without {without}: {said}");
            assert_eq!(said.lines().count(), 1, "without {without}: {said}");
            assert!(said.contains(&format!("needs {named}")), "without {without}: {said}");
        }
    }
    assert!(!directory.0.join("state").exists(), "a daemon that may not run has changed nothing");
}

/// A witness that runs as an ordinary user without any capability, in a network namespace of its own.
struct Witness<'d> {
    directory: &'d Directory,
    process: std::process::Child,
    /// Kept open, so that it can go on writing.
    _log: BufReader<std::process::ChildStderr>,
}

const WITNESS: &str = "\n[[witness]]\nname = \"w\"\naddresses = [\"10.78.0.9\"]\n";
/// `nobody`, as every distribution has it.
const NOBODY: u32 = 65_534;

impl<'d> Witness<'d> {
    /// Starts `clusterd` as the witness, in a network namespace of its own: no interface is up, and none is needed.
    fn command(directory: &Directory, socket: &str) -> Command {
        let state = directory.0.join("state");
        fs::create_dir_all(&state).unwrap();
        for path in [directory.0.clone(), state.clone(), directory.0.join("cluster.key")] {
            std::os::unix::fs::chown(path, Some(NOBODY), Some(NOBODY)).unwrap();
        }
        let keys = format!("key_file = \"cluster.key\"\nstate_dir = \"{}\"", state.display());
        let cpu = format!("cpu = {}\n", own_cpus().last().unwrap());
        let text = GOOD.replace("key_file = \"cluster.key\"", &keys) + WITNESS + &cpu;
        let config = directory.config(&text);
        let mut command = Command::new("unshare");
        let user = format!("--reuid={NOBODY}");
        command.args(["--net", "setpriv", &user, "--regid=65534", "--clear-groups", "--inh-caps=-all"]);
        command
            .args(["--bounding-set=-all", "--no-new-privs", CLUSTERD, "--node", "w", "--config"])
            .arg(config);
        command.arg("--socket").arg(directory.0.join(socket));
        command
    }

    fn start(directory: &'d Directory) -> Self {
        let mut process =
            Self::command(directory, "w.sock").stderr(std::process::Stdio::piped()).spawn().unwrap();
        let mut log = BufReader::new(process.stderr.take().unwrap());
        let mut said = String::new();
        while !said.contains("started") {
            assert!(log.read_line(&mut said).unwrap() > 0, "the witness has ended: {said}");
        }
        Self { directory, process, _log: log }
    }

    /// An answer of its control socket.
    fn ask(&self, request: &str) -> serde_json::Value {
        self.try_to_ask(request).unwrap()
    }

    fn try_to_ask(&self, request: &str) -> std::io::Result<serde_json::Value> {
        let mut stream = UnixStream::connect(self.directory.0.join("w.sock"))?;
        stream.write_all(format!("{request}\n").as_bytes())?;
        let mut line = String::new();
        BufReader::new(stream).read_line(&mut line)?;
        Ok(serde_json::from_str(&line)?)
    }

    /// An answer of the process that takes this one's place.
    fn ask_when_it_is_back(&self, request: &str) -> serde_json::Value {
        for _ in 0..500 {
            // A connection that the old process still took ends with it.
            if let Ok(answer) = self.try_to_ask(request) {
                return answer;
            }
            // Nothing tells when a socket is there again.
            nix::poll::poll(&mut [], 10_u16).unwrap();
        }
        self.ask(request)
    }

    /// The processors on which its heartbeat thread may run, as the kernel writes them.
    fn heartbeat_cpus(&self) -> String {
        let tasks = fs::read_dir(format!("/proc/{}/task", self.process.id())).unwrap();
        let read = |task: &fs::DirEntry, file: &str| fs::read_to_string(task.path().join(file)).unwrap();
        let mut tasks = tasks.map(Result::unwrap);
        let heartbeat = tasks.find(|task| read(task, "comm").trim() == "heartbeat").unwrap();
        let status = read(&heartbeat, "status");
        let list = status.lines().find_map(|line| line.strip_prefix("Cpus_allowed_list:")).unwrap();
        list.trim().to_owned()
    }

    fn stop(&mut self) -> std::process::ExitStatus {
        let id = nix::unistd::Pid::from_raw(i32::try_from(self.process.id()).unwrap());
        nix::sys::signal::kill(id, nix::sys::signal::Signal::SIGTERM).unwrap();
        self.process.wait().unwrap()
    }
}

impl Drop for Witness<'_> {
    fn drop(&mut self) {
        drop(self.process.kill());
        drop(self.process.wait());
    }
}

#[test]
fn a_witness_runs_without_any_privilege() {
    let root = nix::unistd::geteuid().is_root();
    assert!(
        root || std::env::var("CI").as_deref() != Ok("true"),
        "this needs root, and CI=true allows no skipping"
    );
    if !root {
        eprintln!("SKIPPED a witness without privileges: only root can become another user");
        return;
    }
    let directory = Directory::new();
    let mut witness = Witness::start(&directory);
    let status = witness.ask(r#"{"cmd":"status"}"#);
    let result = &status["result"];
    assert_eq!(
        (&result["node"], &result["kind"], &result["xdp"]),
        (&"w".into(), &"witness".into(), &"none".into())
    );
    let quorum = &result["quorum"];
    assert_eq!(quorum["mode"], "majority");
    assert_eq!(
        (&quorum["voters"], &quorum["needed"], &quorum["reachable"]),
        (&3.into(), &2.into(), &1.into())
    );
    assert_eq!(
        (&result["groups"][0]["role"], &result["groups"][0]["holder"]),
        (&"witness".into(), &().into())
    );
    assert_eq!(result["peers"][0]["kind"], "node");

    let cpu = *own_cpus().last().unwrap();
    assert_eq!(result["cpu"], cpu);
    assert_eq!(witness.heartbeat_cpus(), cpu.to_string());

    for request in [
        r#"{"cmd":"promote","group":"web"}"#,
        r#"{"cmd":"demote","group":"web","force":true}"#,
        r#"{"cmd":"drain"}"#,
        r#"{"cmd":"undrain"}"#,
    ] {
        let answer = witness.ask(request);
        assert_eq!(answer["error"]["code"], "witness", "{request}: {answer}");
    }
    // Another process takes its place, under the same id, and votes on.
    let run = result["run"].clone();
    assert_eq!(witness.ask(r#"{"cmd":"restart"}"#), serde_json::json!({"ok": true, "result": {}}));
    let again = witness.ask_when_it_is_back(r#"{"cmd":"status"}"#);
    assert_ne!(again["result"]["run"], run, "{again}");
    let events = witness.ask(r#"{"cmd":"events"}"#);
    let kinds = events["result"]["events"].as_array().unwrap().iter().map(|event| event["kind"].clone());
    assert!(kinds.collect::<Vec<_>>().contains(&"restarted".into()), "{events}");

    // A file that a start would refuse changes nothing.
    let good = fs::read_to_string(directory.0.join("cluster.toml")).unwrap();
    directory.config(&good.replace("heartbeat = \"10ms\"", "heartbeat = \"10parsec\""));
    let refused = witness.ask(r#"{"cmd":"restart"}"#);
    assert_eq!(refused["error"]["code"], "bad_binary", "{refused}");
    assert!(refused["error"]["message"].as_str().unwrap().contains("timing.heartbeat"), "{refused}");
    directory.config(&good);
    assert_eq!(witness.ask(r#"{"cmd":"status"}"#)["result"]["run"], again["result"]["run"]);

    let stats = witness.ask(r#"{"cmd":"stats"}"#);
    assert_eq!(stats["result"]["groups"], serde_json::json!([]), "a witness has no data plane");
    assert_eq!(stats["result"]["loop"]["realtime"], false);
    assert_eq!(witness.ask(r#"{"cmd":"events"}"#)["ok"], true);

    // Another one of this name would vote twice, whatever socket it is given.
    let (code, said) = told(&Witness::command(&directory, "other.sock").output().unwrap());
    assert_eq!(code, 1, "{said}");
    assert!(said.contains("another clusterd runs with the state directory"), "{said}");

    assert_eq!(witness.stop().code(), Some(0), "SIGTERM is a clean stop");
    assert!(!directory.0.join("w.sock").exists());
    // Its epochs are kept like a node's.
    let epochs = fs::read_to_string(directory.0.join("state/usage/w/epochs")).unwrap();
    assert!(epochs.trim().parse::<u64>().unwrap() > 0, "{epochs}");
}

/// The processors this test may run on.
fn own_cpus() -> Vec<usize> {
    let set = nix::sched::sched_getaffinity(nix::unistd::Pid::from_raw(0)).unwrap();
    (0..nix::sched::CpuSet::count()).filter(|&cpu| set.is_set(cpu).unwrap()).collect()
}

#[test]
fn a_processor_that_is_not_there_is_refused_on_the_host_that_lacks_it() {
    let directory = Directory::new();
    let absent = (0..nix::sched::CpuSet::count())
        .rev()
        .find(|cpu| !Path::new(&format!("/sys/devices/system/cpu/cpu{cpu}")).exists())
        .unwrap();
    let config = directory.config(&GOOD.replace("name = \"b\"", &format!("name = \"b\"\ncpu = {absent}")));
    let (code, said) = told(&check(&config, "b"));
    assert_eq!(code, 2, "{said}");
    assert!(said.contains(&format!("cpu = {absent} of node \"b\": this host has no CPU {absent}")), "{said}");
    assert_eq!(said.lines().count(), 1, "{said}");
    assert_eq!(told(&check(&config, "a")).0, 0, "it is another node's");

    let (allowed, withheld) = match own_cpus()[..] {
        [.., other, last] => (other, last),
        _ => return eprintln!("SKIPPED a processor that is withheld: this process may use only one"),
    };
    let config = directory.config(&GOOD.replace("name = \"b\"", &format!("name = \"b\"\ncpu = {withheld}")));
    let mut command = Command::new("taskset");
    command.args(["--cpu-list", &allowed.to_string(), CLUSTERD, "--node", "b", "--check", "--config"]);
    let (code, said) = told(&command.arg(&config).output().unwrap());
    assert_eq!(code, 2, "{said}");
    assert!(said.contains(&format!("may not use CPU {withheld} of this host, only {allowed}")), "{said}");
}

#[test]
fn there_is_nothing_to_clean_up_after_a_witness() {
    let directory = Directory::new();
    let config = directory.config(&format!("{GOOD}{WITNESS}"));
    let cleanup = Command::new(CLUSTERD)
        .arg("--config")
        .arg(&config)
        .args(["--node", "w", "--cleanup"])
        .output()
        .unwrap();
    assert_eq!(cleanup.status.code(), Some(0), "{cleanup:?}");
    let said = String::from_utf8(cleanup.stdout).unwrap();
    assert!(said.contains("w is a witness") && said.contains("nothing is to be removed"), "{said}");
    let said = String::from_utf8(check(&config, "w").stdout).unwrap();
    assert!(said.contains("the configuration of witness w is good"), "{said}");
}
