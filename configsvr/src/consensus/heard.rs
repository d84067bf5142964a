//! When a leader was last heard.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tokio::time::Instant;

/// Begins as if a leader had just been heard: who starts knows of no silence.
#[derive(Debug)]
pub(super) struct Heard {
    began: Instant,
    /// Milliseconds after `began`.
    last: AtomicU64,
}

impl Heard {
    pub(super) fn now() -> Self {
        Self { began: Instant::now(), last: AtomicU64::new(0) }
    }

    pub(super) fn again(&self) {
        self.last.fetch_max(self.began.elapsed().as_millis() as u64, Ordering::Relaxed);
    }

    /// For how long no leader has been heard.
    pub(super) fn silence(&self) -> Duration {
        self.began.elapsed().saturating_sub(Duration::from_millis(self.last.load(Ordering::Relaxed)))
    }
}
