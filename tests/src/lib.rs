//! The lab and the tests that need it: everything that is tried on real namespaces, with real daemons.

pub mod bench;
pub mod bench_xdp;
pub mod demo;
pub mod frames;
pub mod hostile;
pub mod lab;
pub mod netns;
pub mod programs;
pub mod scene;
pub mod simulate;
