//! `clusterd` as whoever starts it sees it: what it accepts, what it refuses, in which words and with which exit code.

#![expect(clippy::unwrap_used, reason = "a test ends where something unexpected happens")]

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
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
    let later = format!("{GOOD}mac = \"virtual\"\n");
    assert_one(&directory.refused(&later), ":23: group[0].mac: ", "not supported yet");
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
        + "colour = \"red\"\n\n[[witness]]\nname = \"w\"\n";
    let errors = directory.refused(&text);
    let begins = [
        ":3: cluster.key_file: ",
        ":3: cluster.key_file: ",
        ":7: timing.lease: ",
        ":22: group[0].vips[1]: ",
        ":22: group[0].vips[2]: ",
        ":23: group[0].colour: ",
        ":25: witness: ",
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
