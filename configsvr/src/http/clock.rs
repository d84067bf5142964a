//! What time it is.
#![expect(clippy::disallowed_methods, reason = "a shell: reads the clock")]

use std::time::{Duration, Instant, SystemTime};

/// Milliseconds since 1970: for people.
pub(super) fn time_ms() -> u64 {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or(Duration::ZERO).as_millis() as u64
}

/// Never goes back: for what is counted in a window of time.
pub(super) fn now() -> Instant {
    Instant::now()
}
