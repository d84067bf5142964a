//! The master's clocks: one that only runs forward, for deadlines, and the wall's, for people.
#![expect(clippy::disallowed_methods, reason = "a shell: reads the clocks, so that nobody else does")]

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// Runs forward from when it was made.
#[derive(Debug)]
pub(super) struct Clock {
    start: Instant,
}

impl Clock {
    pub(super) fn start() -> Self {
        Self { start: Instant::now() }
    }

    /// Microseconds since the start.
    pub(super) fn now_us(&self) -> u64 {
        self.start.elapsed().as_micros() as u64
    }
}

/// The wall's time.
pub(super) fn wall() -> SystemTime {
    SystemTime::now()
}

/// How long ago that was, by the wall; nothing if the wall's clock was put back.
pub(super) fn since(then: SystemTime) -> Duration {
    then.elapsed().unwrap_or_default()
}

pub(super) fn unix_ms(time: SystemTime) -> u64 {
    time.duration_since(UNIX_EPOCH).map_or(0, |d| d.as_millis() as u64)
}
