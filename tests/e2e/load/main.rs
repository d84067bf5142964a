//! The proxy under load, with real servers: while clients work, workers and instances are killed and frozen, the
//! configuration and the topology change, and some clients behave badly. Each test says what may fail, and asserts
//! that nothing else does.
//!
//! `client` knows for every reply what it must be, and `appends` at the end whether anything acknowledged was lost, or
//! done twice, or out of order.

mod changes;
mod endings;
mod faults;
mod volume;

mod probe;
mod crowd;
mod site;
mod client;
mod appends;
mod resp;

use std::sync::{Mutex, MutexGuard, PoisonError};

/// Delays are measured, so the tests take turns.
static TURN: Mutex<()> = Mutex::new(());

fn turn() -> MutexGuard<'static, ()> {
    TURN.lock().unwrap_or_else(PoisonError::into_inner)
}

/// For the log of a run: what was measured.
fn say(text: &str) {
    eprintln!("    {text}");
}
