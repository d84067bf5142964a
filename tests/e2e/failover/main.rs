//! Failover with real servers under load: primaries are killed, frozen and restarted empty while clients write through two
//! proxies and note what they are told. Then their histories are compared with what is there.
//!
//! ```text
//! cargo test -p tests --test failover                 each fault once
//! make soak RUNS=20                                   each fault so often at full load, one JSON line a fault
//! make soak-sentinel RUNS=20                          the same for three Sentinels and haproxy
//! ```
#![allow(clippy::print_stdout, reason = "the soak prints what it measured")]

mod trials;
mod manual;
mod soak;
mod sentinel;
mod scene;
