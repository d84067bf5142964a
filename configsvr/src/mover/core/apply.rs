//! What the target is told: copies, and the source's commands, in the order of the source's offsets, over one connection.

use super::asked::{Ready, Sent, shown, words};
use super::mortal::Fate;
use super::table::Meaning;
use super::{Copier, Db, Fault, Key, Phase, limits};
use cluster::resp::reply::integer;
use cluster::resp::request::Args;
use cluster::resp::write;
use std::collections::BTreeSet;
use std::sync::Arc;

impl Copier {
    /// Takes the stream as far as copies that are under way allow, and sends these where their offset is reached.
    pub(super) fn advance(&mut self) {
        let mut journal = std::mem::take(&mut self.journal);
        while self.fault.is_none() && self.target_up && self.sent_bytes < limits::UNACKED_BYTES_MAX {
            let pos = journal.pos();
            self.close(pos);
            match self.ready.front() {
                Some(front) if front.offset <= pos => {
                    if front.offset < pos {
                        self.fail(Fault::failed("a copy is older than the stream: the source broke its own order"));
                    }
                    if let Some(ready) = self.ready.pop_front() {
                        match &ready.piece {
                            Some(piece) => self.send_piece(piece),
                            None => self.send_copies(ready),
                        }
                    }
                    continue;
                }
                None if self.offset_awaited() => break,
                _ => {}
            }
            match journal.pull() {
                Ok(Some(raw)) => self.command(raw),
                Ok(None) => break,
                Err(why) => self.fail(Fault::failed(why)),
            }
        }
        self.journal = journal;
    }

    /// The pass is over for good when the stream is taken up to its end.
    fn close(&mut self, pos: u64) {
        if let Phase::Closing(Some(end)) = self.phase
            && pos >= end
        {
            self.phase = Phase::Following;
        }
    }

    fn send_copies(&mut self, ready: Ready) {
        let bytes = ready.commands.len() / ready.keys.len().max(1);
        self.to_target.extend_from_slice(&ready.commands);
        for (key, mortal) in ready.keys.into_iter().zip(ready.mortal) {
            self.land(&key);
            self.mortal.set(&key, mortal);
            self.note(Sent::Copy { key, bytes });
        }
    }

    pub(super) fn note(&mut self, sent: Sent) {
        self.sent_bytes += sent.bytes();
        self.wide += usize::from(sent.is_wide());
        self.sent.push_back(sent);
    }

    /// Sends something for `drain`.
    pub(super) fn tell_target(&mut self, words: &[&[u8]], sent: Sent) {
        write::request(&mut self.to_target, words);
        self.note(sent);
    }

    pub(super) fn all_answered(&self) -> bool {
        self.sent.is_empty()
    }

    /// One command of the stream.
    fn command(&mut self, raw: &[u8]) {
        let args: Vec<&[u8]> = Args::new(raw).collect();
        match self.plan.table.meaning(&args) {
            Meaning::Nothing => {}
            Meaning::Select => self.db = if args.get(1) == Some(&&b"0"[..]) { Db::Ours } else { Db::Other },
            Meaning::FlushAll => self.fail(Fault::failed("the source was emptied (FLUSHALL): copying begins anew")),
            Meaning::FlushThis if self.db == Db::Other => {}
            Meaning::FlushThis => self.fail(Fault::failed("the source was emptied (FLUSHDB): copying begins anew")),
            Meaning::Swap => self.fail(Fault::failed("the source swapped databases (SWAPDB): copying begins anew")),
            Meaning::Guess => {
                let other = self.db == Db::Other;
                args.iter().skip(1).filter(|_| !other).for_each(|arg| self.touched(arg));
            }
            // PERSIST and its like need not begin a large value anew.
            Meaning::Copy { first, last, .. }
                if first == last && self.db == Db::Ours && self.large_written(raw, &args, args[first]) => {}
            Meaning::Copy { first, last, step } => {
                // In another database, too: MOVE brings keys from there.
                args[first..=last].iter().step_by(step).for_each(|key| self.touched(key));
            }
            Meaning::Same { first, last, step } if self.db != Db::Other => {
                self.same(raw, &args, first, last, step);
            }
            Meaning::Same { .. } => {}
        }
    }

    /// A command that does at the target what it did at the source, if the target has all its keys.
    fn same(&mut self, raw: &[u8], args: &[&[u8]], first: usize, last: usize, step: usize) {
        let keys = || args[first..=last].iter().step_by(step);
        let ours = keys().filter(|key| self.plan.slots.hold(key)).count();
        if ours == 0 || (first == last && self.db == Db::Ours && self.large_written(raw, args, args[first])) {
            return;
        }
        let known = self.phase == Phase::Following && self.db == Db::Ours;
        let free = |key: &&[u8]| !self.flying.contains_key(*key) && !self.dirty.contains(*key);
        let fate = Fate::of(args);
        let unclear = fate == Fate::Unclear && keys().any(|key| self.mortal.has(key));
        if !known || unclear || ours < keys().count() || !keys().all(free) {
            keys().for_each(|key| self.touched(key));
            return;
        }
        let shared: Arc<[Key]> = keys().map(|key| Key::from(*key)).collect();
        let mut asked = Vec::new();
        match fate {
            Fate::Gone => keys().for_each(|key| self.mortal.set(key, false)),
            Fate::New { mortal } => keys().for_each(|key| self.mortal.set(key, mortal)),
            Fate::Ends | Fate::Unclear => keys().for_each(|key| self.mortal.set(key, true)),
            Fate::Kept => asked.extend(keys().filter(|key| self.mortal.has(key))),
        }
        self.ask_lifetimes(&asked, &shared, true);
        let before = self.to_target.len();
        if args[0].eq_ignore_ascii_case(b"DEL") {
            // Freeing a large value must not hold the target up.
            write::array(&mut self.to_target, args.len());
            write::bulk(&mut self.to_target, b"UNLINK");
            args[1..].iter().for_each(|key| write::bulk(&mut self.to_target, key));
        } else {
            self.to_target.extend_from_slice(raw);
        }
        self.counts.applied += 1;
        let bytes = self.to_target.len() - before;
        self.note(Sent::Command { keys: Arc::clone(&shared), bytes, must_hit: fate == Fate::Ends });
        self.ask_lifetimes(&asked, &shared, false);
    }

    fn ask_lifetimes(&mut self, asked: &[&&[u8]], keys: &Arc<[Key]>, before: bool) {
        for key in asked {
            self.tell_target(&[b"PTTL", key], Sent::Lifetime { keys: Arc::clone(keys), before });
        }
    }

    /// The target has something else under one of these keys: they are copied again, with those that commands sent since have
    /// made of them.
    fn spoilt(&mut self, keys: &[Key]) {
        let mut bad: BTreeSet<Key> = keys.iter().cloned().collect();
        if self.wide > 0 {
            for sent in &self.sent {
                if let Sent::Command { keys, .. } = sent
                    && keys.len() > 1
                    && keys.iter().any(|key| bad.contains(key))
                {
                    bad.extend(keys.iter().cloned());
                }
            }
        }
        bad.iter().for_each(|key| self.touched(key));
    }

    /// A key is to be copied again, unless it is on its way.
    fn touched(&mut self, key: &[u8]) {
        self.large_broken(key);
        if self.plan.slots.hold(key) && !self.flying.contains_key(key) && !self.dirty.contains(key) {
            self.dirty.insert(key.into());
        }
    }

    /// One reply of the target.
    pub(super) fn target_reply(&mut self, raw: &[u8]) {
        let Some(sent) = self.sent.pop_front() else {
            return self.fail(Fault::failed("the target answers what nobody asked"));
        };
        self.sent_bytes -= sent.bytes();
        self.wide -= usize::from(sent.is_wide());
        let error = raw.first() == Some(&b'-');
        if error && let Some(fault) = refusal(raw) {
            return self.fail(fault);
        }
        match sent {
            Sent::Copy { key, .. } if error => {
                let why = format!("the target refuses a copy of {}: {}", shown(&key), words(raw));
                self.fail(Fault::hopeless(why));
            }
            // The target had something else, or does not know the command: a copy settles it.
            Sent::Command { keys, must_hit, .. } if error || (must_hit && raw == b":0\r\n") => self.spoilt(&keys),
            Sent::Lifetime { keys, before: true } => {
                let ms = integer(raw);
                self.lived.push_back(ms.is_some_and(|ms| ms >= 0));
                if ms.is_none_or(|ms| ms < -1) {
                    self.spoilt(&keys); // it was not there
                }
            }
            Sent::Lifetime { keys, before: false } => {
                let lived = self.lived.pop_front().unwrap_or(true);
                if lived && integer(raw).is_none_or(|ms| ms < 0) {
                    self.spoilt(&keys); // it ended before it was written, or by that
                }
            }
            Sent::Copy { .. } | Sent::Command { .. } | Sent::Barrier => {}
            Sent::Replication => self.target_replication(raw),
            Sent::Wait => self.waited(raw),
            Sent::Replicas => self.replicas_counted(raw),
            Sent::Caught { online } => self.caught_up(online, raw),
        }
    }

    /// The target's connection is gone. What it did not answer, it may have done or not: those keys are copied again. The
    /// shell sees to it that nothing of the old connection is done later, and calls `target_back`.
    pub fn target_lost(&mut self) {
        self.target_up = false;
        self.from_target = Default::default();
        self.to_target.clear();
        (self.sent_bytes, self.wide) = (0, 0);
        self.lived.clear();
        for sent in std::mem::take(&mut self.sent) {
            match sent {
                Sent::Copy { key, .. } => self.touched(&key),
                Sent::Command { keys, .. } | Sent::Lifetime { keys, .. } => {
                    keys.iter().for_each(|key| self.touched(key))
                }
                Sent::Barrier | Sent::Replication | Sent::Wait | Sent::Replicas | Sent::Caught { .. } => {}
            }
        }
        self.large_lost();
        self.drain_again();
        self.rehearse_again();
    }

    /// There is another connection to the target, and the old one is dead for sure.
    pub fn target_back(&mut self) {
        self.target_up = true;
    }
}

/// Errors of the target that end the job. Others speak of one command.
fn refusal(raw: &[u8]) -> Option<Fault> {
    let words = words(raw);
    let starts = |word: &str| words.starts_with(word);
    if starts("OOM") {
        return Some(Fault::hopeless(format!("the target is out of memory: raise its maxmemory ({words})")));
    }
    if starts("MISCONF") {
        return Some(Fault::hopeless(format!(
            "the target cannot write its disk and takes no writes: repair that ({words})"
        )));
    }
    if ["NOPERM", "NOAUTH", "WRONGPASS"].iter().any(|word| starts(word)) {
        return Some(Fault::hopeless(format!("the target refuses the configured user: {words}")));
    }
    let passing = ["READONLY", "NOREPLICAS", "LOADING", "MASTERDOWN", "BUSY "];
    passing.iter().any(|word| starts(word)).then(|| Fault::failed(format!("the target takes no writes: {words}")))
}
