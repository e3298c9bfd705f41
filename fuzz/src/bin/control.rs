//! The control socket: no line panics the daemon that reads it, or the client that reads what comes back.
#![no_main]

use cluster_userspace::control::render::{self, Paint};
use cluster_userspace::control::{EventRecord, Request, Stats, Status};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|line: &[u8]| {
    if let Ok(request) = Request::parse(line) {
        let again = serde_json::to_vec(&request).expect("a request can be written");
        assert!(Request::parse(&again).is_ok_and(|again| again == request));
    }
    if let Ok(status) = serde_json::from_slice::<Status>(line) {
        let _ = render::status(&status, Paint::Plain);
    }
    if let Ok(stats) = serde_json::from_slice::<Stats>(line) {
        let _ = render::stats(&stats, Paint::Plain);
    }
    if let Ok(event) = serde_json::from_slice::<EventRecord>(line) {
        let _ = render::event(&event, Paint::Plain);
    }
});
