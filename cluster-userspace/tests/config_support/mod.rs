//! A good configuration, and a directory with the key that it names.

#![allow(dead_code, clippy::allow_attributes, reason = "each test binary uses its part of this module")]

use std::fs;
use std::net::IpAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, Ordering};

use cluster_userspace::config::{Config, ConfigErrors};

/// A directory of the test's own with a good key in it.
pub(crate) struct Directory(pub(crate) PathBuf);

impl Directory {
    pub(crate) fn new() -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let name = format!("cluster-config-{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        let path = std::env::temp_dir().join(name);
        fs::create_dir_all(&path).unwrap();
        let directory = Self(path);
        directory.write("cluster.key", &format!("{}\n", "0f".repeat(32)), 0o600);
        directory
    }

    pub(crate) fn write(&self, name: &str, text: &str, mode: u32) -> PathBuf {
        let path = self.0.join(name);
        drop(fs::remove_file(&path));
        fs::write(&path, text).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
        path
    }

    pub(crate) fn parse(&self, text: &str) -> Result<Config, ConfigErrors> {
        Config::parse(text, &self.0.join("cluster.toml"))
    }

    /// The findings of a text: line, key and message.
    pub(crate) fn errors(&self, text: &str) -> Vec<(usize, String, String)> {
        let Err(errors) = self.parse(text) else { return Vec::new() };
        errors.iter().map(|error| (error.line.unwrap(), error.key.clone(), error.message.clone())).collect()
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        drop(fs::remove_dir_all(&self.0));
    }
}

/// Line 1 is `[cluster]`; the tests count from here.
pub(crate) const GOOD: &str = r#"[cluster]
name = "edge"
key_file = "cluster.key"

[[node]]
name = "a"
interface = "eth0"
addresses = ["10.78.0.1", "10.77.0.1"]

[[node]]
name = "b"
interface = "eth1"
addresses = ["10.78.0.2", "10.77.0.2"]

[[group]]
name = "web"
vips = ["10.77.0.100/24"]
"#;

pub(crate) fn address(text: &str) -> IpAddr {
    text.parse().unwrap()
}
