//! Which keys are asked for most, and which are large: a sample of the requests, in memory that does not grow.
//!
//! One request in so many is looked at, and stands for all since the last one. Keys are counted by the space-saving rule
//! (Metwally, Agrawal, El Abbadi 2005): a key that is not among those counted takes the place of the least, and takes
//! over its count as what it may have too much. So whoever gets more than one in `KEYS` of the traffic is listed.

use super::limits::{SAMPLED_BIG_US, SAMPLED_KEY_BYTES, SAMPLED_KEYS, SAMPLED_WINDOW_US};
use super::request::RequestId;
use cluster::slot::crc32;
use serde::{Deserialize, Serialize};

/// Sampled requests of which the size of the reply is still to be seen.
const FOLLOWED: usize = 16;

/// What a worker has seen of its keys.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sampled {
    /// One request in so many was looked at; 0: none is.
    pub every: u64,
    /// How much time `hot` is of.
    pub window_ms: u64,
    /// The most asked for first.
    pub hot: Vec<HotKey>,
    /// The largest first.
    pub big: Vec<BigKey>,
}

/// A key that is asked for often.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HotKey {
    /// As text; other bytes are escaped, and a very long key is cut.
    pub key: String,
    pub slot: u16,
    /// Requests in the window, as far as the sample tells.
    pub requests: u64,
    /// So many of them may be other keys'.
    pub error: u64,
}

/// A key whose value came or went in one large piece.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BigKey {
    pub key: String,
    pub slot: u16,
    /// Of the largest request or reply seen.
    pub bytes: u64,
    pub command: String,
    /// Milliseconds since it was seen last.
    pub age_ms: u64,
}

/// A key as it is kept: its start, and a sum of all of it.
#[derive(Debug, Clone, Copy)]
struct Key {
    sum: u32,
    len: u32,
    start: [u8; SAMPLED_KEY_BYTES],
    slot: u16,
}

impl Key {
    fn new(key: &[u8], slot: u16) -> Self {
        let mut start = [0; SAMPLED_KEY_BYTES];
        let kept = key.len().min(SAMPLED_KEY_BYTES);
        start[..kept].copy_from_slice(&key[..kept]);
        Self { sum: crc32(key), len: key.len() as u32, start, slot }
    }

    fn is(&self, other: &Self) -> bool {
        (self.sum, self.len, &self.start) == (other.sum, other.len, &other.start)
    }

    fn text(&self) -> String {
        let kept = (self.len as usize).min(SAMPLED_KEY_BYTES);
        let bytes = &self.start[..kept];
        let plain = std::str::from_utf8(bytes).ok().filter(|t| !t.chars().any(char::is_control));
        let text = plain.map_or_else(|| bytes.escape_ascii().to_string(), str::to_owned);
        if kept < self.len as usize { format!("{text}... ({} bytes)", self.len) } else { text }
    }
}

#[derive(Debug, Clone, Copy)]
struct Counted {
    key: Key,
    requests: u64,
    error: u64,
}

/// Keys counted since some moment.
#[derive(Debug)]
struct Window {
    since_us: u64,
    keys: Vec<Counted>,
}

impl Window {
    fn new(since_us: u64) -> Self {
        Self { since_us, keys: Vec::with_capacity(SAMPLED_KEYS) }
    }

    fn add(&mut self, key: Key, requests: u64) {
        if let Some(counted) = self.keys.iter_mut().find(|c| c.key.is(&key)) {
            counted.requests += requests;
        } else if self.keys.len() < SAMPLED_KEYS {
            self.keys.push(Counted { key, requests, error: 0 });
        } else if let Some(least) = self.keys.iter_mut().min_by_key(|c| c.requests) {
            *least = Counted { key, requests: least.requests + requests, error: least.requests };
        }
    }
}

#[derive(Debug, Clone, Copy)]
struct Big {
    key: Key,
    bytes: u64,
    command: &'static str,
    seen_us: u64,
}

/// A sampled request that has been sent on.
#[derive(Debug, Clone, Copy)]
struct Followed {
    request: RequestId,
    started_us: u64,
    key: Key,
}

/// The sample of one worker.
#[derive(Debug)]
pub(super) struct Samples {
    every: u64,
    /// Requests until the next one is looked at, and how many they were when that was set.
    left: i64,
    of: i64,
    now: Window,
    before: Window,
    big: Vec<Big>,
    followed: Vec<Followed>,
    next_followed: usize,
}

impl Default for Samples {
    fn default() -> Self {
        Self {
            every: 0,
            left: i64::MAX,
            of: i64::MAX,
            now: Window::new(0),
            before: Window::new(0),
            big: Vec::with_capacity(SAMPLED_KEYS),
            followed: Vec::with_capacity(FOLLOWED),
            next_followed: 0,
        }
    }
}

impl Samples {
    /// Looks at one request in `every` from now on; 0: at none.
    pub(super) fn set_every(&mut self, every: u64, now_us: u64) {
        if every != self.every {
            *self = Self { every, now: Window::new(now_us), before: Window::new(now_us), ..Self::default() };
            self.begin(0);
        }
    }

    /// So many requests came. True: one of them is to be looked at.
    #[inline(always)]
    pub(super) fn is_due(&mut self, requests: u64) -> bool {
        self.left -= requests as i64;
        self.left < 0
    }

    /// Ends the wait for a request to look at: returns for how many it stands. `random` spreads the waits, so that no
    /// rhythm of a client's is in step with them.
    pub(super) fn begin(&mut self, random: u64) -> u64 {
        let stands_for = self.of - self.left;
        self.of = if self.every == 0 { i64::MAX } else { (self.every / 2 + random % self.every).max(1) as i64 };
        self.left = self.of;
        stands_for.unsigned_abs()
    }

    /// Counts a key of a request that stands for so many.
    pub(super) fn note(&mut self, key: &[u8], slot: u16, requests: u64) {
        self.now.add(Key::new(key, slot), requests);
    }

    /// The size of this request's reply is to be seen.
    pub(super) fn follow(&mut self, request: RequestId, started_us: u64, key: &[u8], slot: u16) {
        let followed = Followed { request, started_us, key: Key::new(key, slot) };
        if self.followed.len() < FOLLOWED {
            self.followed.push(followed);
        } else {
            self.followed[self.next_followed] = followed;
        }
        self.next_followed = (self.next_followed + 1) % FOLLOWED;
    }

    /// A large reply has come for a request; if that is one of the sample, its key is large.
    pub(super) fn large_reply(
        &mut self,
        request: RequestId,
        started_us: u64,
        now: u64,
        bytes: u64,
        command: &'static str,
    ) {
        let found = self.followed.iter().find(|f| f.request == request && f.started_us == started_us);
        if let Some(key) = found.map(|f| f.key) {
            self.note_big(Big { key, bytes, command, seen_us: now });
        }
    }

    /// A large request has come.
    pub(super) fn large_request(&mut self, key: &[u8], slot: u16, now: u64, bytes: u64, command: &'static str) {
        self.note_big(Big { key: Key::new(key, slot), bytes, command, seen_us: now });
    }

    fn note_big(&mut self, big: Big) {
        self.big.retain(|b| big.seen_us.saturating_sub(b.seen_us) < SAMPLED_BIG_US);
        if let Some(known) = self.big.iter_mut().find(|b| b.key.is(&big.key)) {
            *known = if big.bytes > known.bytes { big } else { Big { seen_us: big.seen_us, ..*known } };
        } else if self.big.len() < SAMPLED_KEYS {
            self.big.push(big);
        } else if let Some(least) = self.big.iter_mut().min_by_key(|b| b.bytes).filter(|b| b.bytes < big.bytes) {
            *least = big;
        }
    }

    /// Begins another window when it is time.
    pub(super) fn tick(&mut self, now_us: u64) {
        if now_us.saturating_sub(self.now.since_us) >= SAMPLED_WINDOW_US {
            std::mem::swap(&mut self.now, &mut self.before);
            self.now.keys.clear();
            self.now.since_us = now_us;
        }
    }

    /// What has been seen in this window and the last.
    pub(super) fn sampled(&self, now_us: u64) -> Sampled {
        let mut both = self.now.keys.clone();
        for old in &self.before.keys {
            match both.iter_mut().find(|c| c.key.is(&old.key)) {
                Some(known) => (known.requests, known.error) = (known.requests + old.requests, known.error + old.error),
                None => both.push(*old),
            }
        }
        both.sort_by_key(|c| std::cmp::Reverse(c.requests));
        both.truncate(SAMPLED_KEYS);
        let hot = |c: &Counted| HotKey { key: c.key.text(), slot: c.key.slot, requests: c.requests, error: c.error };
        let age_us = |b: &Big| now_us.saturating_sub(b.seen_us);
        let mut big: Vec<&Big> = self.big.iter().filter(|b| age_us(b) < SAMPLED_BIG_US).collect();
        big.sort_by_key(|b| std::cmp::Reverse(b.bytes));
        let as_big = |b: &Big| BigKey {
            key: b.key.text(),
            slot: b.key.slot,
            bytes: b.bytes,
            command: b.command.to_owned(),
            age_ms: age_us(b) / 1000,
        };
        Sampled {
            every: self.every,
            window_ms: now_us.saturating_sub(self.before.since_us) / 1000,
            hot: both.iter().map(hot).collect(),
            big: big.into_iter().map(as_big).collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn samples() -> Samples {
        let mut samples = Samples::default();
        samples.set_every(10, 0);
        samples
    }

    #[test]
    fn a_sample_stands_for_all_since_the_last() {
        let mut samples = samples();
        let (mut seen, mut stood_for) = (0u64, 0u64);
        for n in 0..10_000u64 {
            seen += 1 + n % 3;
            if samples.is_due(1 + n % 3) {
                stood_for += samples.begin(n.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 7);
            }
        }
        assert!(stood_for <= seen && seen - stood_for < 30, "{stood_for} of {seen}");
        samples.set_every(0, 0);
        assert!((0..1000).all(|_| !samples.is_due(1 << 20)), "nothing is looked at");
    }

    #[test]
    fn the_hot_ones_are_found_among_many_and_memory_is_bounded() {
        let mut samples = samples();
        for n in 0..100_000u32 {
            let key = match n % 10 {
                0 => "hot:1".to_owned(),
                1 if n % 20 == 1 => "hot:2".to_owned(),
                _ => format!("cold:{n}"),
            };
            samples.note(key.as_bytes(), 7, 1);
        }
        assert_eq!((samples.now.keys.len(), samples.now.keys.capacity()), (SAMPLED_KEYS, SAMPLED_KEYS));
        let seen = samples.sampled(1_000_000);
        assert_eq!((seen.hot[0].key.as_str(), seen.hot[1].key.as_str()), ("hot:1", "hot:2"));
        let (told, error) = (seen.hot[0].requests, seen.hot[0].error);
        assert!(told >= 10_000 && told - error <= 10_000, "{told} with an error of {error}, and 10000 are true");
    }

    #[test]
    fn what_was_hot_is_forgotten_after_two_windows() {
        let mut samples = samples();
        samples.note(b"old", 1, 5);
        samples.tick(SAMPLED_WINDOW_US);
        samples.note(b"old", 1, 1);
        samples.note(b"new", 2, 3);
        let both: Vec<_> = samples.sampled(SAMPLED_WINDOW_US).hot.into_iter().map(|h| (h.key, h.requests)).collect();
        assert_eq!(both, [("old".to_owned(), 6), ("new".to_owned(), 3)]);
        samples.tick(2 * SAMPLED_WINDOW_US);
        samples.tick(3 * SAMPLED_WINDOW_US);
        assert_eq!(samples.sampled(3 * SAMPLED_WINDOW_US).hot, []);
    }

    #[test]
    fn large_ones_are_kept_by_size_and_forgotten_by_age() {
        let mut samples = samples();
        for n in 0..2 * SAMPLED_KEYS as u64 {
            samples.large_request(format!("k{n}").as_bytes(), 1, 5, 1000 + n, "set");
        }
        samples.follow(3, 77, b"\xff\x00", 2);
        samples.large_reply(3, 78, 6, 1 << 30, "get"); // another request of the same number
        samples.large_reply(3, 77, 6, 1 << 20, "get");
        let big = samples.sampled(1_000_006).big;
        assert_eq!(big.len(), SAMPLED_KEYS);
        assert_eq!((big[0].key.as_str(), big[0].bytes, big[0].age_ms), ("\\xff\\x00", 1 << 20, 1000));
        assert_eq!(big[1].key, format!("k{}", 2 * SAMPLED_KEYS - 1));
        assert_eq!(samples.sampled(SAMPLED_BIG_US + 6).big, []);
    }

    #[test]
    fn long_keys_are_told_apart_and_cut() {
        let mut samples = samples();
        let long = |end: &str| format!("{}{end}", "x".repeat(SAMPLED_KEY_BYTES));
        samples.note(long("a").as_bytes(), 1, 2);
        samples.note(long("b").as_bytes(), 1, 1);
        let hot = samples.sampled(0).hot;
        assert_eq!(hot.len(), 2);
        assert!(hot[0].key.ends_with(&format!("x... ({} bytes)", SAMPLED_KEY_BYTES + 1)), "{}", hot[0].key);
    }
}
