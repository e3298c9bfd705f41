//! The election, effect by effect: two cores side by side, and what they put out, in its order.

#![expect(clippy::panic, clippy::unwrap_used, reason = "a test fails by panicking")]

mod bad_input;
mod cold_start;
mod commands;
mod cost;
mod faults;
mod forced;
mod gateway;
mod grace;
mod holders_meet;
mod leases;
mod many;
mod mixed_files;
mod pair;
mod placed;
mod promises;
mod reloads;
mod replaced;
mod restarts;
mod rivals;
mod silence;
mod together;
