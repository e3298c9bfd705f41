//! What is asked of the daemon, and the shape of its answers.

use std::fmt;

use cluster_proto::Refusal;
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// The longest line either side may send, its newline not counted. Requests are below 1 KiB.
pub const MAX_LINE_BYTES: usize = 64 * 1024;

/// One request; on the wire an object such as `{"cmd":"promote","group":"web"}`.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(tag = "cmd", rename_all = "snake_case")]
pub enum Request {
    /// Roles, leases, peers and paths.
    Status,
    /// Take a group.
    Promote {
        /// Its name.
        group: String,
        /// Without waiting until that is proven to be safe.
        #[serde(default)]
        force: bool,
    },
    /// Give up a group.
    Demote {
        /// Its name.
        group: String,
        /// Even if nobody else can serve it.
        #[serde(default)]
        force: bool,
    },
    /// Give up everything and take nothing.
    Drain {
        /// Even if nobody else can serve.
        #[serde(default)]
        force: bool,
    },
    /// End the drain.
    Undrain,
    /// What happened lately, oldest first.
    Events {
        /// Go on with what happens from now on, one answer for each event.
        #[serde(default)]
        follow: bool,
        /// Only events with a greater sequence number.
        #[serde(default)]
        since: u64,
    },
    /// Data-plane counters.
    Stats,
    /// Who would serve what.
    Plan {
        /// Nodes that are taken to be gone.
        #[serde(default)]
        without: Vec<String>,
    },
    /// The frames that concern a VIP and what became of them, since this client last asked. Asking has them traced for the next
    /// three seconds.
    Trace {
        /// The VIP.
        vip: String,
        /// Each how many'th frame of a CPU, 1 and up.
        #[serde(default = "each")]
        every: u32,
        /// A number that the client has chosen at random for its trace: two cannot have one at the same time.
        trace: u64,
    },
    /// Read the configuration again.
    Reload,
    /// Replace the daemon by the installed binary.
    Restart,
}

/// Every command and the fields it may have. A field that is not understood could change what the command means, so it
/// is refused and not ignored.
const COMMANDS: &[(&str, &[&str])] = &[
    ("status", &[]),
    ("promote", &["group", "force"]),
    ("demote", &["group", "force"]),
    ("drain", &["force"]),
    ("undrain", &[]),
    ("events", &["follow", "since"]),
    ("stats", &[]),
    ("plan", &["without"]),
    ("trace", &["vip", "every", "trace"]),
    ("reload", &[]),
    ("restart", &[]),
];

fn each() -> u32 {
    1
}

impl Request {
    /// Reads one line.
    ///
    /// # Errors
    /// The answer to give: `bad_request` or `unknown_command`.
    pub fn parse(line: &[u8]) -> Result<Self, ControlError> {
        let bad = |message: String| ControlError::new(ErrorCode::BadRequest, message);
        let text = std::str::from_utf8(line).map_err(|_| bad("the request is not UTF-8".to_owned()))?;
        let value: Value =
            serde_json::from_str(text).map_err(|error| bad(format!("the request is not JSON: {error}")))?;
        let Value::Object(fields) = &value else {
            return Err(bad("the request is not a JSON object such as {\"cmd\":\"status\"}".to_owned()));
        };
        let Some(command) = fields.get("cmd").and_then(Value::as_str) else {
            return Err(bad("the request has no string \"cmd\"".to_owned()));
        };
        let Some((_, allowed)) = COMMANDS.iter().find(|(name, _)| *name == command) else {
            let known: Vec<_> = COMMANDS.iter().map(|(name, _)| *name).collect();
            let command: String = command.chars().take(60).collect();
            return Err(ControlError::new(
                ErrorCode::UnknownCommand,
                format!("there is no command {command:?}; there are {}", known.join(", ")),
            ));
        };
        if let Some(field) = fields.keys().find(|field| *field != "cmd" && !allowed.contains(&field.as_str()))
        {
            let field: String = field.chars().take(60).collect();
            return Err(bad(format!("\"{command}\" has no field {field:?}")));
        }
        let command = command.to_owned();
        serde_json::from_value(value).map_err(|error| bad(format!("\"{command}\": {error}")))
    }
}

/// One answer; on the wire `{"ok":true,"result":…}` or `{"ok":false,"error":{…}}`.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Answer {
    /// Whether it was done.
    pub ok: bool,
    /// What was asked for, if it was done.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub result: Option<Value>,
    /// Why not, if it was not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<ControlError>,
}

/// Why a request was not carried out.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, thiserror::Error)]
#[error("{message}")]
pub struct ControlError {
    /// For scripts.
    pub code: ErrorCode,
    /// For people: what was attempted, why it was refused, and what to do.
    pub message: String,
}

impl ControlError {
    /// An error with these words.
    #[must_use]
    pub fn new(code: ErrorCode, message: impl Into<String>) -> Self {
        Self { code, message: message.into() }
    }

    /// There is no such group; names those that there are.
    #[must_use]
    pub fn unknown_group<'n>(asked: &str, known: impl Iterator<Item = &'n str>) -> Self {
        let asked: String = asked.chars().take(60).collect();
        let known: Vec<_> = known.collect();
        Self::new(
            ErrorCode::UnknownGroup,
            format!("there is no group {asked:?}; there are: {}", known.join(", ")),
        )
    }
}

impl From<Refusal> for ControlError {
    fn from(refusal: Refusal) -> Self {
        let code = match refusal {
            Refusal::NotHolder => ErrorCode::NotHolder,
            Refusal::NotMember => ErrorCode::NotMember,
            Refusal::NobodyElse => ErrorCode::NobodyElse,
            Refusal::PeerNotReady => ErrorCode::PeerNotReady,
            Refusal::HolderKept => ErrorCode::HolderKept,
            Refusal::NoVote => ErrorCode::NoVote,
            Refusal::Drained => ErrorCode::Drained,
            Refusal::Fault => ErrorCode::Fault,
            Refusal::Full => ErrorCode::Full,
            Refusal::Answered => ErrorCode::Answered,
            Refusal::Busy => ErrorCode::Busy,
            Refusal::Superseded => ErrorCode::Superseded,
            Refusal::NotPromised => ErrorCode::NotPromised,
            Refusal::PeerRestarts => ErrorCode::PeerRestarts,
            Refusal::VoteNeeded => ErrorCode::VoteNeeded,
            Refusal::Membership(_) => ErrorCode::BadConfiguration,
        };
        Self::new(code, refusal.to_string())
    }
}

/// The kinds of refusal, for scripts.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ErrorCode {
    /// The line is not a request.
    BadRequest,
    /// There is no such command.
    UnknownCommand,
    /// There is no such group.
    UnknownGroup,
    /// No group has such a VIP.
    UnknownVip,
    /// There is no such node.
    UnknownNode,
    /// The line is longer than [`MAX_LINE_BYTES`]; the connection is closed.
    LineTooLong,
    /// Documented, but not built yet.
    NotSupported,
    /// All clients the daemon serves at once are in the middle of a command.
    TooManyClients,
    /// This node does not hold the group.
    NotHolder,
    /// This node is not a member of the group.
    NotMember,
    /// Nobody else could serve.
    NobodyElse,
    /// The other node did not get ready in time.
    PeerNotReady,
    /// The holder did not hand over in time.
    HolderKept,
    /// Neither the peer's vote nor its silence.
    NoVote,
    /// This is a witness, which never serves.
    Witness,
    /// This node is drained.
    Drained,
    /// This node cannot serve now.
    Fault,
    /// This node has as many groups as it may.
    Full,
    /// Another node answers for the VIP on the service link.
    Answered,
    /// Another command is under way.
    Busy,
    /// A newer command or a stop took its place.
    Superseded,
    /// The configuration cannot be gone over to; the one in use is unchanged.
    BadConfiguration,
    /// The installed daemon does not run, or not with this configuration; the one that runs goes on.
    BadBinary,
    /// Too few voters have promised to wait for a restart.
    NotPromised,
    /// Another node is being restarted.
    PeerRestarts,
    /// A holder would have too few votes without this node's.
    VoteNeeded,
    /// The daemon did not carry it out in time; whether it still will is unknown.
    Timeout,
    /// The daemon is starting or stopping.
    Unavailable,
    /// A fault of the daemon itself.
    Internal,
    /// One that this version does not know.
    #[serde(other)]
    Other,
}

impl fmt::Display for ErrorCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match serde_json::to_value(self) {
            Ok(Value::String(name)) => f.write_str(&name),
            _ => f.write_str("other"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_command_is_read_as_it_is_written() {
        let group = || "web".to_owned();
        let requests = [
            Request::Status,
            Request::Promote { group: group(), force: true },
            Request::Demote { group: group(), force: false },
            Request::Drain { force: false },
            Request::Undrain,
            Request::Events { follow: true, since: 7 },
            Request::Stats,
            Request::Plan { without: vec!["b".to_owned()] },
            Request::Trace { vip: "10.77.0.100".to_owned(), every: 7, trace: 9 },
            Request::Reload,
            Request::Restart,
        ];
        assert_eq!(requests.len(), COMMANDS.len());
        for request in requests {
            let line = serde_json::to_vec(&request).unwrap();
            assert_eq!(Request::parse(&line).unwrap(), request);
        }
    }

    #[test]
    fn fields_have_defaults() {
        let parsed = Request::parse(br#"{"cmd":"promote","group":"web"}"#).unwrap();
        assert_eq!(parsed, Request::Promote { group: "web".to_owned(), force: false });
        let parsed = Request::parse(br#"{"cmd":"events"}"#).unwrap();
        assert_eq!(parsed, Request::Events { follow: false, since: 0 });
    }

    #[test]
    fn what_is_not_a_request_is_refused_with_a_code() {
        let cases: &[(&[u8], ErrorCode)] = &[
            (b"", ErrorCode::BadRequest),
            (b"{", ErrorCode::BadRequest),
            (b"\xff\xfe", ErrorCode::BadRequest),
            (b"[]", ErrorCode::BadRequest),
            (b"{}", ErrorCode::BadRequest),
            (br#"{"cmd":7}"#, ErrorCode::BadRequest),
            (br#"{"cmd":"explode"}"#, ErrorCode::UnknownCommand),
            (br#"{"cmd":"promote"}"#, ErrorCode::BadRequest),
            (br#"{"cmd":"promote","group":7}"#, ErrorCode::BadRequest),
            (br#"{"cmd":"promote","group":"web","forse":true}"#, ErrorCode::BadRequest),
            (br#"{"cmd":"status","group":"web"}"#, ErrorCode::BadRequest),
            (br#"{"cmd":"status"} trailing"#, ErrorCode::BadRequest),
        ];
        for (line, code) in cases {
            let error = Request::parse(line).unwrap_err();
            assert_eq!(error.code, *code, "{:?}: {error}", String::from_utf8_lossy(line));
            assert!(error.message.len() < 300);
        }
        let deep = "[".repeat(60_000);
        assert_eq!(Request::parse(deep.as_bytes()).unwrap_err().code, ErrorCode::BadRequest);
    }

    #[test]
    fn unknown_codes_of_a_newer_daemon_are_read() {
        let error: ControlError = serde_json::from_str(r#"{"code":"brand_new","message":"m"}"#).unwrap();
        assert_eq!(error.code, ErrorCode::Other);
        assert_eq!(ErrorCode::UnknownGroup.to_string(), "unknown_group");
    }
}
