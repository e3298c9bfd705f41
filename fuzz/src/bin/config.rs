//! The configuration: no text panics it, and what is accepted makes settings for every host that is in it.
#![no_main]

use std::fs;
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::LazyLock;

use cluster_userspace::config::Config;
use libfuzzer_sys::fuzz_target;

/// A file beside which there is a `cluster.key`, as the seeds name it.
static FILE: LazyLock<PathBuf> = LazyLock::new(|| {
    // One for all runs, so that none leaves another behind.
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/fuzz-config");
    fs::create_dir_all(&directory).expect("a directory");
    let key = directory.join("cluster.key");
    let file = fs::File::options().create(true).truncate(true).write(true).mode(0o600).open(key);
    writeln!(file.expect("a key file"), "{}", "5a".repeat(32)).expect("a key");
    directory.join("cluster.toml")
});

fuzz_target!(|text: &str| {
    let Ok(config) = Config::parse(text, &FILE) else { return };
    for host in config.host_names() {
        config.settings(host).expect("a host of the file");
    }
});
