//! A client of a daemon's control socket: one JSON object a line, as the contract has it.

use std::io::{BufRead as _, BufReader, Write as _};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, bail};
use serde_json::{Value, json};

/// How long an answer may take. A stopped daemon gives none.
const TIMEOUT: Duration = Duration::from_secs(5);

/// A daemon's control socket.
#[derive(Clone, Debug)]
pub struct Control {
    socket: PathBuf,
}

impl Control {
    /// The control socket at this path.
    #[must_use]
    pub fn at(socket: PathBuf) -> Self {
        Self { socket }
    }

    /// Where it is.
    #[must_use]
    pub fn socket(&self) -> &Path {
        &self.socket
    }

    /// Sends `{"cmd":cmd}` and returns the result.
    ///
    /// # Errors
    /// When nobody answers, or with the daemon's code and message when it refuses.
    pub fn command(&self, cmd: &str) -> anyhow::Result<Value> {
        self.request(&json!({ "cmd": cmd }))
    }

    /// Sends `request` and returns the result.
    ///
    /// # Errors
    /// When nobody answers, or with the daemon's code and message when it refuses.
    pub fn request(&self, request: &Value) -> anyhow::Result<Value> {
        self.request_within(request, TIMEOUT)
    }

    /// As [`Control::request`], giving up after `timeout`.
    ///
    /// # Errors
    /// When nobody answers, or with the daemon's code and message when it refuses.
    pub fn request_within(&self, request: &Value, timeout: Duration) -> anyhow::Result<Value> {
        let mut answers = self.open(request, Some(timeout))?;
        let mut line = String::new();
        answers.read_line(&mut line).with_context(|| format!("reading the answer to {request}"))?;
        let answer: Value = serde_json::from_str(&line)
            .with_context(|| format!("the answer to {request} is no JSON: {line:?}"))?;
        if answer.get("ok") == Some(&Value::Bool(true)) {
            return Ok(answer.get("result").cloned().unwrap_or(Value::Null));
        }
        let error = |key| answer.pointer(key).and_then(Value::as_str).unwrap_or("?");
        bail!("{request} was refused, {}: {}", error("/error/code"), error("/error/message"))
    }

    /// The daemon's events since its start, a value for each, and those to come until it ends.
    ///
    /// # Errors
    /// When nobody answers.
    pub fn events(&self) -> anyhow::Result<impl Iterator<Item = Value> + Send + use<>> {
        let answers = self.open(&json!({ "cmd": "events", "follow": true }), None)?;
        let values = answers
            .lines()
            .map_while(Result::ok)
            .filter_map(|line| serde_json::from_str::<Value>(&line).ok());
        Ok(values.filter_map(|mut answer| answer.get_mut("result").map(Value::take)))
    }

    fn open(&self, request: &Value, timeout: Option<Duration>) -> anyhow::Result<BufReader<UnixStream>> {
        let mut stream = UnixStream::connect(&self.socket)
            .with_context(|| format!("connecting to the control socket {}", self.socket.display()))?;
        stream.set_read_timeout(timeout)?;
        stream.set_write_timeout(Some(TIMEOUT))?;
        stream.write_all(format!("{request}\n").as_bytes())?;
        Ok(BufReader::new(stream))
    }
}
