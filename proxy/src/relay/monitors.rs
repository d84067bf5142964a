//! Who wants to see all requests (MONITOR), and how many have been shown.

use super::ClientId;
use super::limits::{SHOWN_BYTES, SHOWN_PER_S};

/// How often it is said that somebody monitors, and how long that counts.
pub(super) const SAY_US: u64 = 1_000_000;
pub(super) const BELIEVED_US: u64 = 3_000_000;

/// What is known of those who monitor.
#[derive(Debug, Default)]
pub(super) struct Monitors {
    /// Clients of this worker that do.
    pub(super) here: Vec<ClientId>,
    /// Others' workers have clients that do, until then.
    pub(super) elsewhere_until_us: u64,
    pub(super) say_again_us: u64,
    /// The second in which `shown` requests have been shown, and how many have been left out.
    pub(super) second: u64,
    shown: u32,
    pub(super) left_out: u64,
    /// Lines for other workers.
    pub(super) lines: String,
}

impl Monitors {
    pub(super) fn any(&self, now_us: u64) -> bool {
        !self.here.is_empty() || self.elsewhere_until_us > now_us
    }

    /// Whether one more may be shown in this second.
    pub(super) fn has_room(&mut self, now_us: u64) -> bool {
        let second = now_us / 1_000_000;
        if self.second != second {
            (self.second, self.shown) = (second, 0);
        }
        self.shown += 1;
        self.shown <= SHOWN_PER_S && self.lines.len() < SHOWN_BYTES
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn so_many_a_second() {
        let mut monitors = Monitors::default();
        let shown = (0..2 * SHOWN_PER_S).filter(|_| monitors.has_room(5_000_000)).count();
        assert_eq!(shown, SHOWN_PER_S as usize);
        assert!(monitors.has_room(6_000_000));
    }
}
