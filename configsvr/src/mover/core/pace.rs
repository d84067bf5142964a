//! How fast the copy may go: keys and bytes a second, and slower while the servers answer slowly.

use crate::control::job::JobLimits;

/// The longest pause between two blocks that slow answers bring about.
const BRAKE_MS_MAX: u64 = 200;
/// So much of a second's allowance may be used at once.
const BURST_DIV: u64 = 10;

/// Says when the next block may be asked for.
#[derive(Debug)]
pub(in crate::mover) struct Pace {
    keys: Bucket,
    bytes: Bucket,
    latency_ms: u64,
    brake_ms: u64,
    not_before: u64,
}

/// An allowance that fills with time and may be overdrawn once.
#[derive(Debug)]
struct Bucket {
    per_s: u64,
    /// Thousandths.
    left: i64,
    at: Option<u64>,
}

impl Bucket {
    fn new(per_s: u64) -> Self {
        Self { per_s, left: 0, at: None }
    }

    /// A new limit: what was overdrawn under the old one is forgiven.
    fn limit(&mut self, per_s: u64) {
        if per_s != self.per_s {
            *self = Self::new(per_s);
        }
    }

    fn open(&mut self, now: u64) -> bool {
        if self.per_s == 0 {
            return true;
        }
        let most = (self.per_s / BURST_DIV).max(1) as i64 * 1000;
        match self.at {
            None => self.left = most,
            Some(at) => {
                let came = (self.per_s as i64).saturating_mul(now.saturating_sub(at) as i64);
                self.left = self.left.saturating_add(came).min(most);
            }
        }
        self.at = Some(now);
        self.left > 0
    }

    fn spend(&mut self, n: u64) {
        if self.per_s > 0 {
            self.left = self.left.saturating_sub((n as i64).saturating_mul(1000));
        }
    }
}

impl Pace {
    pub(in crate::mover) fn new(limits: &JobLimits) -> Self {
        Self {
            keys: Bucket::new(limits.keys_per_s),
            bytes: Bucket::new(limits.bytes_per_s),
            latency_ms: limits.latency_ms,
            brake_ms: 0,
            not_before: 0,
        }
    }

    /// Other limits, from now on.
    pub(in crate::mover) fn limit(&mut self, limits: &JobLimits) {
        self.keys.limit(limits.keys_per_s);
        self.bytes.limit(limits.bytes_per_s);
        self.latency_ms = limits.latency_ms;
        if limits.latency_ms == 0 {
            (self.brake_ms, self.not_before) = (0, 0);
        }
    }

    /// Whether a block may be asked for at `now`.
    pub(in crate::mover) fn open(&mut self, now: u64) -> bool {
        // Both, so that both fill.
        let (keys, bytes) = (self.keys.open(now), self.bytes.open(now));
        now >= self.not_before && keys && bytes
    }

    /// How many keys the next block may hold at most: a low limit is kept by small blocks, not by long pauses.
    pub(in crate::mover) fn keys_max(&self, most: usize) -> usize {
        if self.keys.per_s == 0 { most } else { most.min((self.keys.per_s / BURST_DIV).max(1) as usize) }
    }

    /// Keys were asked for.
    pub(in crate::mover) fn asked(&mut self, now: u64, keys: u64) {
        self.keys.spend(keys);
        self.not_before = now + self.brake_ms;
    }

    /// Bytes of payload came.
    pub(in crate::mover) fn came(&mut self, bytes: u64) {
        self.bytes.spend(bytes);
    }

    /// A PING took so long.
    pub(in crate::mover) fn pinged(&mut self, ms: u64) {
        if self.latency_ms > 0 {
            self.brake_ms =
                if ms > self.latency_ms { (self.brake_ms * 2).clamp(2, BRAKE_MS_MAX) } else { self.brake_ms / 2 };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn passed(limits: JobLimits, keys: u64, bytes: u64) -> u64 {
        let mut pace = Pace::new(&limits);
        let mut blocks = 0;
        for now in 1000..11_000 {
            while pace.open(now) && blocks < 1_000_000 {
                pace.asked(now, keys);
                pace.came(bytes);
                blocks += 1;
                if limits == JobLimits::default() {
                    return blocks;
                }
            }
        }
        blocks
    }

    #[test]
    fn ten_seconds_hold_ten_times_the_limit() {
        let keys = passed(JobLimits { keys_per_s: 1000, ..JobLimits::default() }, 10, 0) * 10;
        assert!((10_000..10_300).contains(&keys), "{keys}");
        let bytes = passed(JobLimits { bytes_per_s: 1 << 20, ..JobLimits::default() }, 10, 1 << 16) << 16;
        assert!((10 << 20..(10 << 20) + (1 << 18)).contains(&bytes), "{bytes}");
        assert_eq!(passed(JobLimits::default(), 10, 10), 1, "no limit");
    }

    #[test]
    fn other_limits_hold_from_now_on() {
        let mut pace = Pace::new(&JobLimits { keys_per_s: 1, latency_ms: 5, ..JobLimits::default() });
        assert!(pace.open(0));
        pace.asked(0, 1000);
        assert!(!pace.open(10_000), "a thousand seconds' worth is under way");
        (0..20).for_each(|_| pace.pinged(6));
        pace.limit(&JobLimits { keys_per_s: 1000, latency_ms: 0, ..JobLimits::default() });
        let mut asked = 0;
        for now in 10_000..11_000 {
            while pace.open(now) {
                pace.asked(now, 10);
                asked += 10;
            }
        }
        assert!((1000..1150).contains(&asked), "{asked}");
        pace.limit(&JobLimits::default());
        assert!(pace.open(11_000));
        pace.asked(11_000, 1_000_000);
        assert!(pace.open(11_000), "no limit");
    }

    #[test]
    fn slow_answers_slow_it_down_and_quick_ones_let_it_go() {
        let mut pace = Pace::new(&JobLimits { latency_ms: 5, ..JobLimits::default() });
        (0..20).for_each(|_| pace.pinged(6));
        assert_eq!(pace.brake_ms, BRAKE_MS_MAX);
        pace.asked(1000, 1);
        assert!(!pace.open(1000 + BRAKE_MS_MAX - 1) && pace.open(1000 + BRAKE_MS_MAX));
        (0..20).for_each(|_| pace.pinged(5));
        assert_eq!(pace.brake_ms, 0);
    }
}
