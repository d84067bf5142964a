//! Migration with real servers under load: slots move to and fro while clients write through two proxies and note what they
//! are told; leaders, primaries and proxies are killed or frozen in between. Then the histories are compared with what is
//! there, and every instance is searched for keys that are not its group's.
//!
//! ```text
//! cargo test -p tests --test migration                each fault once
//! make soak-migration RUNS=20                         slots move so often, one JSON line a run
//! ```
#![allow(clippy::print_stdout, reason = "the soak prints what it measured")]

mod planning;
mod trials;
mod on_access;
mod sessions;
mod counts;
mod messages;
mod soak;
mod scene;
