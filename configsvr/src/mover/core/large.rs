//! Values that are too large for a block: one after another, when the pass is over, in pieces.

use super::asked::{Ask, Named, Piece, PieceAsk, Ready, Sent, offset, said, shown, too_large, until, words};
use super::pieces::{Came, Effect, Kind, Value};
use super::{Copier, Fault, Key, Phase, limits};
use crate::control::job::Goal;
use cluster::resp::reply::{Elements, integer, text};
use cluster::resp::write;
use std::collections::BTreeMap;
use std::sync::Arc;

/// Large values that wait, and the one under way. All of them are flying.
#[derive(Debug, Default)]
pub(super) struct Large {
    waiting: BTreeMap<Key, u64>,
    /// Its type is being asked for.
    choosing: Option<Key>,
    active: Option<Value>,
    /// Of the active value; what was asked for an earlier one is not listened to.
    generation: u64,
    asked: bool,
    restarts: BTreeMap<Key, u32>,
}

impl Large {
    pub(super) fn is_empty(&self) -> bool {
        self.waiting.is_empty() && self.active.is_none() && self.choosing.is_none()
    }

    /// Another value waits, or again.
    pub(super) fn wait(&mut self, key: Key, size: u64) {
        self.waiting.insert(key, size);
    }

    /// Whether it waits or is under way.
    pub(super) fn knows(&self, key: &Key) -> bool {
        self.waiting.contains_key(key) || self.choosing.as_ref() == Some(key) || self.is_active(key)
    }

    fn is_active(&self, key: &[u8]) -> bool {
        self.active.as_ref().is_some_and(|value| *value.key == *key)
    }

    /// The active value begins anew, later.
    fn restart(&mut self) {
        if let Some(value) = self.active.take() {
            self.generation += 1;
            self.asked = false;
            *self.restarts.entry(Key::clone(&value.key)).or_default() += 1;
            self.waiting.insert(value.key, value.size);
        }
    }

    /// The source's connection is gone, with what was asked. A piece that came, and waits for the stream, is asked for again
    /// like one that did not: only one of the two may count.
    pub(super) fn source_lost(&mut self) {
        self.generation += u64::from(self.asked);
        self.asked = false;
        self.choosing = None;
    }
}

impl Copier {
    /// Asks for the next piece, or chooses the next value.
    pub(super) fn fetch_large(&mut self, now: u64) {
        let urgent = matches!(self.goal, Goal::Drain { .. });
        let room = self.sent_bytes < limits::UNACKED_BYTES_COPY;
        if self.phase != Phase::Following || self.large.asked || self.large.choosing.is_some() || !room {
            return;
        }
        if !urgent && !self.pace.open(now) {
            return;
        }
        self.pace.asked(now, u64::from(self.large.active.is_none())); // a slow side slows pieces, too
        match &self.large.active {
            Some(value) if value.kind == Kind::Fields => {
                value.question_names(&mut self.to_source);
                self.asks.push_back(Ask::Names { generation: self.large.generation });
                self.large.asked = true;
            }
            Some(_) => self.ask_piece(Named::default()),
            None => self.choose(),
        }
    }

    fn choose(&mut self) {
        if let Some((key, size)) = self.large.waiting.pop_first() {
            write::request(&mut self.to_source, &[b"TYPE", &key]);
            self.large.choosing = Some(Key::clone(&key));
            self.asks.push_back(Ask::Kind { key, size });
        }
    }

    /// The type of a large value came.
    pub(super) fn kind_came(&mut self, key: Key, size: u64, raw: &[u8]) -> Result<(), Fault> {
        self.large.choosing = None;
        let often = self.large.restarts.get(&key).is_some_and(|n| *n >= limits::RESTARTS_MAX);
        let kind = match text(raw).ok_or_else(|| said("TYPE", &words(raw)))? {
            b"string" => Some(Kind::Text),
            b"list" => Some(Kind::List),
            b"hash" if self.plan.table.has("HPEXPIRETIME") => Some(Kind::Fields),
            b"hash" => Some(Kind::Hash),
            b"set" => Some(Kind::Set),
            b"zset" => Some(Kind::Sorted),
            b"none" => {
                self.sized.push_back((key, 1)); // it has a size: perhaps only the clock has ended it
                return Ok(());
            }
            _ => None,
        };
        let most = self.plan.limits.value_bytes;
        match kind {
            Some(kind) if !often => {
                self.large.active = Some(Value::new(key, size, kind, self.plan.piece_bytes));
                self.large.generation += 1;
            }
            // In one piece, as it cannot be had otherwise.
            _ if most == 0 || size <= most => self.sized.push_back((key, size)),
            Some(_) => {
                return Err(Fault::failed(format!(
                    "{} has {size} bytes and is written in ways that begin its copy anew each time: raise value_bytes (both \
                     sides stall meanwhile), or move it when it is written less",
                    shown(&key)
                )));
            }
            None => return Err(too_large(&key, size, most)),
        }
        Ok(())
    }

    fn ask_piece(&mut self, named: Named) {
        let Some(value) = &self.large.active else { return };
        let out = &mut self.to_source;
        write::request(out, &[b"MULTI"]);
        value.question(&named.1, out);
        let lifetime: &[u8] = if self.plan.table.has("PEXPIRETIME") { b"PEXPIRETIME" } else { b"PTTL" };
        write::request(out, &[lifetime, &value.key]);
        write::request(out, &[b"TIME"]);
        write::request(out, &[b"ROLE"]);
        write::request(out, &[b"EXEC"]);
        let left = 1 + value.answers() + 3;
        let (generation, from) = (self.large.generation, value.from());
        self.asks.push_back(Ask::Piece(PieceAsk { generation, from, named, left }));
        self.large.asked = true;
    }

    /// Names of fields came: now for their values, with an offset.
    pub(super) fn names_came(&mut self, generation: u64, raw: &[u8]) -> Result<(), Fault> {
        if generation != self.large.generation || self.large.active.is_none() {
            return Ok(());
        }
        self.large.asked = false;
        match Value::names(raw) {
            Ok(named) => {
                // HMGET of nothing is an error: ask for a field that is not there.
                let named = if named.1.is_empty() { (named.0, vec![Vec::new()]) } else { named };
                self.ask_piece(named);
            }
            Err(_) => self.large.restart(), // of another type by now
        }
        Ok(())
    }

    /// A piece came; it is used when the stream is taken up to its offset.
    pub(super) fn piece_came(&mut self, ask: &mut PieceAsk, raw: &[u8]) -> Result<(), Fault> {
        let role = Elements::new(raw).ok_or_else(|| said("a piece", &words(raw)))?.last().unwrap_or_default();
        let offset = offset(role)?;
        let named = std::mem::take(&mut ask.named);
        let piece = Piece { generation: ask.generation, from: ask.from, named, raw: raw.to_vec() };
        self.ready.push_back(Ready {
            offset,
            keys: Vec::new(),
            mortal: Vec::new(),
            commands: Vec::new(),
            piece: Some(piece),
        });
        Ok(())
    }

    /// The stream is taken up to a piece's offset.
    pub(super) fn send_piece(&mut self, piece: &Piece) {
        if piece.generation != self.large.generation {
            return;
        }
        let Some(mut value) = self.large.active.take() else { return };
        self.large.asked = false;
        let parts: Vec<&[u8]> = Elements::new(&piece.raw).map(Iterator::collect).unwrap_or_default();
        let Some((answers, [lifetime, time, _role])) = parts.split_last_chunk::<3>() else {
            return self.fail(Fault::failed("the source's reply to a piece makes no sense"));
        };
        if lifetime.first() == Some(&b'-') {
            return self.fail(said("a time to live", &words(lifetime)));
        }
        let mut commands = Vec::new();
        let came = value.piece(answers, piece.from, &piece.named, &mut commands);
        self.pace.came(piece.raw.len() as u64);
        self.counts.bytes += piece.raw.len() as u64;
        let key = Key::clone(&value.key);
        match came {
            Err(_) => {
                // It is of another type now.
                self.large.active = Some(value);
                return self.large.restart();
            }
            Ok(Came::More) => self.large.active = Some(value),
            Ok(Came::Whole) => {
                let absolute = self.plan.table.has("PEXPIRETIME");
                let until = until(lifetime, time, absolute);
                let gone = value_gone(lifetime);
                self.mortal.set(&key, until.is_some() || gone);
                if gone {
                    // It may have ended half-way: then what was copied is not the value.
                    let mut command = Vec::new();
                    write::request(&mut command, &[b"UNLINK", &key]);
                    commands.push(command);
                }
                if let Some(until) = until {
                    let mut command = Vec::new();
                    write::request(&mut command, &[b"PEXPIREAT", &key, until.to_string().as_bytes()]);
                    commands.push(command);
                }
                self.counts.copied += 1;
                self.large.restarts.remove(&key);
                self.land(&key);
            }
        }
        for command in commands {
            self.to_target.extend_from_slice(&command);
            self.note(Sent::Command { keys: Arc::from([Key::clone(&key)]), bytes: command.len(), must_hit: false });
        }
    }

    /// A write of `key` alone. Whether it was the active value's, and so is done with.
    pub(super) fn large_written(&mut self, raw: &[u8], args: &[&[u8]], key: &[u8]) -> bool {
        let Some(value) = self.large.active.as_mut().filter(|value| *value.key == *key) else { return false };
        match value.effect(args) {
            Effect::Skip => {}
            Effect::Apply => self.tell_command(raw, key),
            Effect::Instead(words) => {
                let mut command = Vec::new();
                write::request(&mut command, &words.iter().map(Vec::as_slice).collect::<Vec<_>>());
                self.tell_command(&command, key);
            }
            Effect::Restart => self.large.restart(),
        }
        true
    }

    fn tell_command(&mut self, command: &[u8], key: &[u8]) {
        self.to_target.extend_from_slice(command);
        self.counts.applied += 1;
        self.note(Sent::Command { keys: Arc::from([Key::from(key)]), bytes: command.len(), must_hit: false });
    }

    /// What the target has of `key` is wrong, if it is the active value.
    pub(super) fn large_broken(&mut self, key: &[u8]) {
        if self.large.is_active(key) {
            self.large.restart();
        }
    }

    /// What the target has of the active value is not known any more.
    pub(super) fn large_lost(&mut self) {
        self.large.restart();
    }
}

/// PTTL and PEXPIRETIME say -2 of a key that is not there: the replica's clock may have ended it.
fn value_gone(lifetime: &[u8]) -> bool {
    integer(lifetime) == Some(-2)
}
