//! Once, order, acknowledged: every write carries a token nobody else uses, so an instance that applies it tells
//! which request it was; and every key's values are kept with the step at which each came.

use crate::checkers::pops::Pops;
use std::collections::BTreeMap;

/// A count of everything that happened in the run: issues, changes and replies. Finer than time.
pub(crate) type Step = u64;

/// A session is one client connection; its requests are ordered, those of two sessions are not.
pub(crate) type SessionId = u32;

/// Names one written value: session, request, and part of the request.
pub(crate) type Token = u64;

/// What became of a write, as far as its client was told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Verdict {
    Open,
    Done,
    /// It was said that it has not been done.
    Refused,
    /// An error that leaves it open, or a connection lost.
    Unknown,
}

#[derive(Debug)]
struct Write {
    key: Vec<u8>,
    verdict: Verdict,
    /// When, and what the instance answered (the length of the list, for a push).
    applied: Option<(Step, i64)>,
}

/// One value of a key: since when, and its print; None: no such key.
type Version = (Step, Option<u64>);

#[derive(Default)]
pub(crate) struct History {
    step: Step,
    writes: BTreeMap<Token, Write>,
    /// The last request of a session applied to a key.
    last: BTreeMap<(SessionId, Vec<u8>), u64>,
    versions: BTreeMap<Vec<u8>, Vec<Version>>,
    /// Increments: when, to what, and whether a client was told of it.
    counts: BTreeMap<Vec<u8>, Vec<(Step, i64, bool)>>,
    counts_issued: BTreeMap<Vec<u8>, usize>,
    /// The writes of each transaction.
    transactions: Vec<Vec<Token>>,
    /// Elements that were popped, and moved from list to list.
    pub(crate) pops: Pops,
    /// Messages, by the order in which instances published them.
    pub(crate) published: Vec<Published>,
    /// The first thing that went wrong.
    pub(crate) fault: Option<String>,
}

/// A message that an instance has published.
pub(crate) struct Published {
    pub(crate) step: Step,
    pub(crate) token: Token,
    pub(crate) channel: Vec<u8>,
    pub(crate) instance: usize,
}

/// Makes a token.
pub(crate) fn token(session: SessionId, request: u64, part: usize) -> Token {
    u64::from(session) << 40 | request << 8 | part as u64
}

/// The bytes of a written value: its token, and filling that depends on it up to `len` bytes.
pub(crate) fn value_of(token: Token, len: usize) -> Vec<u8> {
    let mut value = format!("t{token:x}").into_bytes();
    if len > value.len() {
        value.push(b':');
        let fill = format!("{token:x}.").into_bytes();
        let missing = len.saturating_sub(value.len());
        value.extend(fill.iter().cycle().take(missing));
    }
    value
}

pub(crate) fn token_of(value: &[u8]) -> Option<Token> {
    let text = value.strip_prefix(b"t")?.split(|&b| b == b':').next()?;
    u64::from_str_radix(std::str::from_utf8(text).ok()?, 16).ok()
}

/// A short name of some bytes; never 0.
pub(crate) fn print_of(bytes: &[u8]) -> u64 {
    let mut hash = bytes.len() as u64 ^ 0x243F_6A88_85A3_08D3;
    let (words, tail) = bytes.as_chunks::<8>();
    for word in words {
        hash = (hash ^ u64::from_le_bytes(*word)).wrapping_mul(0x9E37_79B9_7F4A_7C15).rotate_left(29);
    }
    for &byte in tail {
        hash = (hash ^ u64::from(byte)).wrapping_mul(0x9E37_79B9_7F4A_7C15).rotate_left(29);
    }
    hash | 1
}

pub(crate) fn show(bytes: &[u8]) -> String {
    let short = &bytes[..bytes.len().min(80)];
    format!("{}{}", short.escape_ascii(), if short.len() < bytes.len() { "..." } else { "" })
}

impl History {
    pub(crate) fn next_step(&mut self) -> Step {
        self.step += 1;
        self.step
    }

    pub(crate) fn now(&self) -> Step {
        self.step
    }

    pub(crate) fn fail(&mut self, what: String) {
        self.fault.get_or_insert(what);
    }

    /// A client is about to send a write.
    pub(crate) fn issued(&mut self, token: Token, key: &[u8]) {
        self.writes.insert(token, Write { key: key.to_vec(), verdict: Verdict::Open, applied: None });
    }

    /// A client is about to send these writes in one transaction.
    pub(crate) fn together(&mut self, tokens: Vec<Token>) {
        self.transactions.push(tokens);
    }

    /// When nothing more can come: transactions were done as a whole or not at all, whatever their clients were told.
    pub(crate) fn settle(&mut self) -> Result<(), String> {
        for tokens in &self.transactions {
            let (done, left): (Vec<Token>, _) = tokens.iter().partition(|&&token| self.applied_at(token).is_some());
            if let (Some(done), Some(left)) = (done.first(), left.first()) {
                return Err(format!("whole: t{done:x} of a transaction was applied, and t{left:x} was not"));
            }
        }
        self.pops.settle()
    }

    pub(crate) fn count_issued(&mut self, key: &[u8]) {
        *self.counts_issued.entry(key.to_vec()).or_default() += 1;
    }

    /// A key has another value now.
    pub(crate) fn changed(&mut self, key: &[u8], print: Option<u64>) -> Step {
        let step = self.next_step();
        self.versions.entry(key.to_vec()).or_insert_with(|| vec![(0, None)]).push((step, print));
        step
    }

    /// An instance has applied the write of `value` to `key`, and answers `reply`.
    pub(crate) fn applied(&mut self, key: &[u8], value: &[u8], step: Step, reply: i64) {
        let Some(token) = token_of(value) else {
            return self.fail(format!("once: {} got {}, which nobody wrote", show(key), show(value)));
        };
        let Some(write) = self.writes.get_mut(&token) else {
            return self.fail(format!("once: {} got {}, which nobody wrote", show(key), show(value)));
        };
        let named = format!("write t{token:x} to {}", show(&write.key));
        if write.key != key {
            return self.fail(format!("once: {named} went to {}", show(key)));
        }
        if write.applied.is_some() {
            return self.fail(format!("once: {named} was applied twice"));
        }
        write.applied = Some((step, reply));
        if write.verdict == Verdict::Refused {
            return self.fail(format!("acknowledged: {named} was refused, and applied afterwards"));
        }
        let (session, request) = ((token >> 40) as SessionId, token >> 8 & 0xFFFF_FFFF);
        let last = self.last.insert((session, key.to_vec()), request);
        if let Some(last) = last.filter(|&last| last > request) {
            self.fail(format!("order: {named} was applied after request {last} of the same client"));
        }
    }

    pub(crate) fn counted(&mut self, key: &[u8], step: Step, value: i64) {
        let counts = self.counts.entry(key.to_vec()).or_default();
        counts.push((step, value, false));
        if counts.len() > self.counts_issued.get(key).copied().unwrap_or(0) {
            self.fail(format!("once: more increments of {} were applied than sent", show(key)));
        }
    }

    /// A client was told what became of its write. Gives the step and the instance's answer where it is done.
    pub(crate) fn told(&mut self, token: Token, verdict: Verdict) -> Option<(Step, i64)> {
        let write = self.writes.get_mut(&token)?;
        write.verdict = verdict;
        let applied = write.applied;
        let named = format!("write t{token:x} to {}", show(&write.key));
        match (verdict, applied) {
            (Verdict::Done, None) => self.fail(format!("acknowledged: {named} was answered, but not applied")),
            (Verdict::Refused, Some(_)) => {
                self.fail(format!("acknowledged: {named} was refused, but had been applied"))
            }
            _ => {}
        }
        applied
    }

    /// A client was told that its increment made `value`, some time after `since`: when that was, at the earliest.
    /// A value made again after a deletion may be told as often as it was made.
    pub(crate) fn told_count(&mut self, key: &[u8], since: Step, value: i64) -> Option<Step> {
        let counts = self.counts.get_mut(key)?;
        counts.iter_mut().find(|(_, made, told)| *made == value && !told)?.2 = true;
        counts.iter().find(|(step, made, _)| *step > since && *made == value).map(|(step, ..)| *step)
    }

    /// An instance has taken an element out of a list; `moved`: for another list.
    pub(crate) fn taken(&mut self, key: &[u8], element: &[u8], moved: bool) {
        let step = self.next_step();
        let Some(token) = token_of(element) else { return self.fail(format!("once: {} was popped", show(element))) };
        if let Err(what) = self.pops.taken(token, key, moved, step) {
            self.fail(what);
        }
    }

    /// An instance has published a message to so many.
    pub(crate) fn published(&mut self, channel: &[u8], payload: &[u8], instance: usize, receivers: usize) {
        let step = self.next_step();
        self.applied(channel, payload, step, receivers as i64);
        if let Some(token) = token_of(payload) {
            self.published.push(Published { step, token, channel: channel.to_vec(), instance });
        }
    }

    pub(crate) fn message(&self, token: Token) -> Option<&Published> {
        self.published.iter().rev().find(|message| message.token == token)
    }

    /// How often a key has changed: WATCH's measure.
    pub(crate) fn changes(&self, key: &[u8]) -> usize {
        self.versions.get(key).map_or(0, Vec::len)
    }

    /// Whether a key changed between two steps, both left out.
    pub(crate) fn changed_between(&self, key: &[u8], after: Step, before: Step) -> bool {
        self.versions.get(key).is_some_and(|all| all.iter().any(|(step, _)| *step > after && *step < before))
    }

    /// When a write was applied, if it was.
    pub(crate) fn applied_at(&self, token: Token) -> Option<Step> {
        self.writes.get(&token)?.applied.map(|(step, _)| step)
    }

    /// Since when `key` had a value with this print, if it had it at any time since `since`.
    pub(crate) fn had(&self, key: &[u8], since: Step, print: Option<u64>) -> Option<Step> {
        self.versions_since(key, since).into_iter().find(|(_, had)| *had == print).map(|(step, _)| step)
    }

    /// Whether `key` may have been absent, and may have been there, since `since`.
    pub(crate) fn presence(&self, key: &[u8], since: Step) -> (bool, bool) {
        let versions = self.versions_since(key, since);
        (versions.iter().any(|(_, print)| print.is_none()), versions.iter().any(|(_, print)| print.is_some()))
    }

    fn versions_since(&self, key: &[u8], since: Step) -> Vec<Version> {
        let Some(versions) = self.versions.get(key) else { return vec![(0, None)] };
        let first = versions.partition_point(|(step, _)| *step <= since).saturating_sub(1);
        versions[first..].to_vec()
    }

    /// Writes applied, for the summary.
    pub(crate) fn writes_applied(&self) -> usize {
        self.writes.values().filter(|write| write.applied.is_some()).count()
    }
}

#[test]
fn half_a_transaction_is_found() {
    let mut history = History::default();
    for token in [1, 2, 3] {
        history.issued(token, b"k");
    }
    history.together(vec![1, 2]);
    history.applied(b"k", &value_of(3, 0), 1, 0);
    assert_eq!(history.settle(), Ok(()));
    history.applied(b"k", &value_of(1, 0), 2, 0);
    assert!(history.settle().is_err_and(|what| what.starts_with("whole: ")), "t2 is missing");
    history.applied(b"k", &value_of(2, 0), 3, 0);
    assert_eq!(history.settle(), Ok(()));
}
