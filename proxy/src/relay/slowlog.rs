//! The slow log: requests that took long, newest first. A request is looked at only where its time is anyway, so a fast
//! one costs nothing.

use serde::{Deserialize, Serialize};
use std::collections::VecDeque;

/// A request that took long.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Entry {
    /// Grows in each worker; unique among the workers of a proxy, as a client's id is.
    pub(super) id: u64,
    pub(super) unix_s: u64,
    /// From the request read to its reply written to the client's buffer.
    pub(super) us: u64,
    /// From the request put on its link to its reply read; None: it was not on one link.
    pub(super) instance_us: Option<u64>,
    pub(super) command: String,
    pub(super) slot: Option<u16>,
    pub(super) group: Option<u32>,
    /// Others of this command that were answered in the same moment after the same time.
    pub(super) more: u64,
    pub(super) peer: String,
    pub(super) name: String,
}

/// The log of one worker.
#[derive(Debug, Default)]
pub(super) struct Slowlog {
    entries: VecDeque<Entry>,
    next: u64,
    /// The newest entry is of the run of replies that is being counted.
    current: bool,
}

impl Slowlog {
    /// A request that took long begins another run of replies.
    pub(super) fn begin_run(&mut self) {
        self.current = false;
    }

    /// Adds an entry, whose id is given here, and drops the oldest beyond `max`.
    pub(super) fn note(&mut self, worker: u32, max: usize, entry: Entry) {
        let id = self.next << 10 | u64::from(worker & 1023);
        self.next += 1;
        self.current = true;
        self.entries.push_front(Entry { id, ..entry });
        self.entries.truncate(max);
    }

    /// The run of the newest entry has so many more.
    pub(super) fn and_more(&mut self, more: u64) {
        if self.current
            && let Some(entry) = self.entries.front_mut()
        {
            entry.more = more;
        }
    }

    pub(super) fn len(&self) -> usize {
        self.entries.len()
    }

    pub(super) fn clear(&mut self) {
        self.entries.clear();
    }

    /// The newest `count` entries, one a line as JSON.
    pub(super) fn lines(&self, count: usize) -> String {
        let line = |entry: &Entry| serde_json::to_string(entry).map(|json| json + "\n").unwrap_or_default();
        self.entries.iter().take(count).map(line).collect()
    }
}

/// What `lines` of several workers made, newest first.
pub(super) fn entries(lines: &str, count: usize) -> Vec<Entry> {
    let mut all: Vec<Entry> = lines.lines().filter_map(|line| serde_json::from_str(line).ok()).collect();
    all.sort_by_key(|entry| std::cmp::Reverse((entry.unix_s, entry.id >> 10)));
    all.truncate(count);
    all
}
