//! The shared secret: a file of 64 hexadecimal digits that nobody but its owner can read.

use std::fs::{File, Metadata, OpenOptions};
use std::io::Read;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::Path;

use cluster_proto::Key;

/// Reads a key, or says everything that is wrong with its file.
pub(super) fn read(path: &Path) -> Result<Key, Vec<String>> {
    // Without O_NONBLOCK a FIFO at this path would stop the daemon until somebody writes to it.
    let opened = OpenOptions::new()
        .read(true)
        .custom_flags(libc::O_NONBLOCK | libc::O_NOCTTY)
        .open(path)
        .and_then(|file| file.metadata().map(|metadata| (file, metadata)));
    let (file, metadata) = opened.map_err(|error| vec![format!("cannot be read: {error}")])?;
    if !metadata.is_file() {
        return Err(vec!["is not a regular file".to_owned()]);
    }
    let mut reasons = wrong_permissions(&metadata, nix::unistd::geteuid().as_raw());
    match read_digits(file) {
        Ok(key) if reasons.is_empty() => return Ok(key),
        Ok(_) => {}
        Err(reason) => reasons.push(reason),
    }
    Err(reasons)
}

fn wrong_permissions(metadata: &Metadata, me: u32) -> Vec<String> {
    let mut reasons = Vec::new();
    let mode = metadata.mode() & 0o7777;
    if mode != 0o600 && mode != 0o400 {
        reasons.push(format!("has mode {mode:04o}; a key must have mode 0600 or 0400 (chmod 0600)"));
    }
    let owner = metadata.uid();
    if owner != 0 && owner != me {
        reasons.push(format!(
            "belongs to user {owner}; a key must belong to root or to user {me}, who reads it"
        ));
    }
    reasons
}

fn read_digits(file: File) -> Result<Key, String> {
    const WANTED: &str = "a key is 64 hexadecimal digits and a newline, as `clusterctl keygen` prints it";
    let mut bytes = Vec::new();
    file.take(1024).read_to_end(&mut bytes).map_err(|error| format!("cannot be read: {error}"))?;
    let digits = bytes.strip_suffix(b"\n").unwrap_or(&bytes);
    let digits = digits.strip_suffix(b"\r").unwrap_or(digits);
    if digits.len() != 64 {
        let found = if bytes.len() == 1024 { "more".to_owned() } else { digits.len().to_string() };
        return Err(format!("{WANTED}; this file has {found}"));
    }
    let mut key = [0; 32];
    for (byte, pair) in key.iter_mut().zip(digits.chunks_exact(2)) {
        let digit = |ascii: u8| char::from(ascii).to_digit(16);
        // The offending character is not shown: it may be part of the secret.
        let (Some(high), Some(low)) = (digit(pair[0]), digit(pair[1])) else { return Err(WANTED.to_owned()) };
        *byte = (high << 4 | low) as u8;
    }
    Ok(Key(key))
}
