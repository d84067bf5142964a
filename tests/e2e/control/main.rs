//! The control plane, with real servers: members and etcd are killed and frozen while clients write through the proxies
//! and an operator changes the topology. Nothing that was accepted is lost, nothing happens twice, no client notices.

mod chaos;
mod trials;
mod fleet;
mod flood;
mod taken;
mod life;
mod api;

mod scene;
mod operator;
mod watch;
mod writer;

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// Times are measured, so the tests take turns.
static TURN: Mutex<()> = Mutex::new(());
/// For what takes a second or two on a machine with nothing else to do.
const LIMIT: Duration = Duration::from_secs(60);

fn turn() -> MutexGuard<'static, ()> {
    TURN.lock().unwrap_or_else(PoisonError::into_inner)
}

/// For the log of a run: what was measured.
fn say(text: &str) {
    eprintln!("    {text}");
}
