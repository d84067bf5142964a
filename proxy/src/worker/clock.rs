//! The clocks, read once a loop.
#![expect(clippy::disallowed_methods, reason = "a shell: the one place of a worker that reads clocks")]

use crate::relay::Now;
use std::time::{Duration, Instant, SystemTime};

/// Wall time is read again this often; between two readings it goes on by the monotonic clock.
const WALL_EVERY_US: u64 = 100_000;

/// A monotonic clock that starts at 1, and the wall clock beside it.
#[derive(Debug)]
pub(super) struct Clock {
    start: Instant,
    wall_read_us: u64,
    /// Wall time minus monotonic time.
    wall_ahead_us: u64,
}

impl Clock {
    pub(super) fn new() -> Self {
        Self { start: Instant::now(), wall_read_us: 0, wall_ahead_us: 0 }
    }

    pub(super) fn now(&mut self) -> Now {
        let us = self.us();
        if self.wall_ahead_us == 0 || us >= self.wall_read_us + WALL_EVERY_US {
            let wall = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or(Duration::ZERO);
            self.wall_read_us = us;
            self.wall_ahead_us = (wall.as_micros() as u64).saturating_sub(us).max(1);
        }
        Now { us, unix_us: us + self.wall_ahead_us }
    }

    /// Monotonic microseconds; never 0.
    pub(super) fn us(&self) -> u64 {
        self.start.elapsed().as_micros() as u64 + 1
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_clocks_go_forward_together() {
        let mut clock = Clock::new();
        let first = clock.now();
        let wall = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).expect("after 1970").as_micros() as u64;
        assert!(first.us > 0 && wall.abs_diff(first.unix_us) < 1_000_000);
        let second = clock.now();
        assert!(second.us >= first.us && second.unix_us >= first.unix_us);
    }
}
