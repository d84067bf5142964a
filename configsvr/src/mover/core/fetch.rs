//! What the source is asked for: keys (SCAN), how large they are, and their values, a block of them at a time, read together
//! with the offset at which they are true.

use super::asked::{Ask, Ready, offset, said, shown, until, words};
use super::{Copier, Fault, Key, Phase, limits};
use crate::control::job::Goal;
use cluster::resp::reply::{Elements, integer, text};
use cluster::resp::write;

impl Copier {
    /// Asks for more, as far as bounds and pace allow.
    pub(super) fn fetch(&mut self, now: u64) {
        if self.goal == Goal::Pause || !self.target_up {
            return;
        }
        self.scan();
        if self.phase == Phase::Following {
            self.take_dirty();
        }
        self.ask_sizes();
        let urgent = matches!(self.goal, Goal::Drain { .. });
        while self.may_ask_block() && (urgent || self.pace.open(now)) {
            self.ask_block(now);
        }
        self.fetch_large(now);
    }

    fn scan(&mut self) {
        let waiting = self.unsized_keys.len() + self.sized.len();
        if self.phase == Phase::Scanning
            && waiting < limits::QUEUE_MAX
            && !self.asks.iter().any(|a| matches!(a, Ask::Scan))
        {
            write::request(&mut self.to_source, &[b"SCAN", &self.cursor, b"COUNT", limits::SCAN_COUNT]);
            self.asks.push_back(Ask::Scan);
        }
    }

    /// Dirty keys are on their way from here on: writes of them are skipped until their copy comes.
    fn take_dirty(&mut self) {
        while self.unsized_keys.len() < limits::SIZES_KEYS
            && let Some(key) = self.dirty.pop_first()
        {
            self.fly(key);
        }
    }

    fn fly(&mut self, key: Key) {
        *self.flying.entry(Key::clone(&key)).or_default() += 1;
        self.unsized_keys.push_back(key);
    }

    /// It is not on its way any more.
    pub(super) fn land(&mut self, key: &Key) {
        if let Some(n) = self.flying.get_mut(key) {
            *n -= 1;
            if *n == 0 {
                self.flying.remove(key);
            }
        }
    }

    /// More keys will come by themselves, so a small request may wait for them.
    fn more_to_come(&self) -> bool {
        self.phase == Phase::Scanning
    }

    fn ask_sizes(&mut self) {
        let mut under_way = self.asks.iter().filter(|a| matches!(a, Ask::Sizes { .. })).count();
        while under_way < limits::SIZES_MAX
            && self.sized.len() < limits::QUEUE_MAX
            && (self.unsized_keys.len() >= limits::BLOCK_KEYS || !self.more_to_come() && !self.unsized_keys.is_empty())
        {
            let n = self.unsized_keys.len().min(limits::SIZES_KEYS);
            let keys: Vec<Key> = self.unsized_keys.drain(..n).collect();
            for key in &keys {
                write::request(&mut self.to_source, &[b"MEMORY", b"USAGE", key]);
            }
            self.asks.push_back(Ask::Sizes { keys, answered: 0 });
            under_way += 1;
        }
    }

    fn may_ask_block(&self) -> bool {
        let enough = self.sized.len() >= limits::BLOCK_KEYS || !self.more_to_come() && !self.sized.is_empty();
        enough && self.blocks_under_way() < limits::BLOCKS_MAX && self.sent_bytes < limits::UNACKED_BYTES_COPY
    }

    /// Blocks that are asked for and not sent on.
    fn blocks_under_way(&self) -> usize {
        self.asks.iter().filter(|a| matches!(a, Ask::Block { .. })).count() + self.ready.len()
    }

    /// Whether something is asked for whose offset is not known: the stream must not be taken past it.
    pub(super) fn offset_awaited(&self) -> bool {
        self.asks.iter().any(|a| matches!(a, Ask::Block { .. } | Ask::Piece(_)))
    }

    fn ask_block(&mut self, now: u64) {
        let (mut keys, mut there, mut bytes) = (Vec::new(), Vec::new(), 0);
        let most = self.pace.keys_max(limits::BLOCK_KEYS);
        while let Some((_, size)) = self.sized.front()
            && keys.len() < most
            && (keys.is_empty() || bytes + size <= limits::BLOCK_BYTES)
        {
            bytes += size;
            there.push(*size > 0);
            keys.extend(self.sized.pop_front().map(|(key, _)| key));
        }
        let out = &mut self.to_source;
        write::request(out, &[b"MULTI"]);
        let lifetime: &[u8] = if self.plan.table.has("PEXPIRETIME") { b"PEXPIRETIME" } else { b"PTTL" };
        for key in &keys {
            write::request(out, &[lifetime, key]);
            write::request(out, &[b"DUMP", key]);
        }
        write::request(out, &[b"TIME"]);
        write::request(out, &[b"ROLE"]);
        write::request(out, &[b"EXEC"]);
        self.pace.asked(now, keys.len() as u64);
        let left = 1 + 2 * keys.len() + 2;
        self.asks.push_back(Ask::Block { keys, there, left, refused: None });
    }

    /// One reply of the source: it belongs to what was asked first.
    pub(super) fn source_reply(&mut self, raw: &[u8]) {
        let Some(mut ask) = self.asks.pop_front() else {
            return self.fail(Fault::failed("the source answers what nobody asked"));
        };
        let done = match &mut ask {
            Ask::Scan => self.scanned(raw),
            Ask::Sizes { keys, answered } => {
                let key = Key::clone(&keys[*answered]);
                *answered += 1;
                let all = *answered == keys.len();
                self.sized_one(key, raw).map(|()| all)
            }
            Ask::Block { left, refused, .. } if *left > 0 => {
                *left -= 1;
                if raw.first() == Some(&b'-') {
                    refused.get_or_insert_with(|| words(raw));
                }
                Ok(false)
            }
            Ask::Block { keys, there, refused, .. } => match refused.take() {
                Some(why) => Err(said("copies", &why)),
                None => self.block_came(std::mem::take(keys), there, raw).map(|()| true),
            },
            Ask::End => self.ended(raw),
            Ask::Kind { key, size } => self.kind_came(Key::clone(key), *size, raw).map(|()| true),
            Ask::Names { generation } => self.names_came(*generation, raw).map(|()| true),
            Ask::Piece(piece) if piece.left > 0 => {
                piece.left -= 1;
                if raw.first() == Some(&b'-') { Err(said("a piece", &words(raw))) } else { Ok(false) }
            }
            Ask::Piece(piece) => self.piece_came(piece, raw).map(|()| true),
        };
        match done {
            Ok(true) => {}
            Ok(false) => self.asks.push_front(ask),
            Err(fault) => self.fail(fault),
        }
    }

    fn scanned(&mut self, raw: &[u8]) -> Result<bool, Fault> {
        let mut parts = Elements::new(raw).ok_or_else(|| said("SCAN", &words(raw)))?;
        let odd = || Fault::failed("the source's reply to SCAN makes no sense");
        let cursor = parts.next().and_then(text).ok_or_else(odd)?;
        for key in Elements::new(parts.next().ok_or_else(odd)?).ok_or_else(odd)? {
            let key = text(key).ok_or_else(odd)?;
            self.counts.scanned += 1;
            if self.plan.slots.hold(key) {
                self.dirty.remove(key);
                self.fly(key.into());
            }
        }
        self.cursor = cursor.to_vec();
        if cursor == b"0" {
            self.phase = Phase::Closing(None);
            write::request(&mut self.to_source, &[b"ROLE"]);
            self.asks.push_back(Ask::End);
        }
        Ok(true)
    }

    fn ended(&mut self, raw: &[u8]) -> Result<bool, Fault> {
        self.phase = Phase::Closing(Some(offset(raw)?));
        Ok(true)
    }

    fn sized_one(&mut self, key: Key, raw: &[u8]) -> Result<(), Fault> {
        let size = match (raw.first(), integer(raw)) {
            (Some(b'-'), _) => return Err(said("MEMORY USAGE", &words(raw))),
            (_, size) => size.unwrap_or(0).max(0) as u64,
        };
        if size <= self.plan.piece_from {
            self.sized.push_back((key, size));
        } else if self.large.knows(&key) {
            self.land(&key); // it is on its way already
        } else {
            self.large.wait(key, size);
        }
        Ok(())
    }

    fn block_came(&mut self, keys: Vec<Key>, there: &[bool], raw: &[u8]) -> Result<(), Fault> {
        let odd = || Fault::failed("the source's reply to a block makes no sense");
        let parts: Vec<&[u8]> = Elements::new(raw).ok_or_else(|| said("copies", &words(raw)))?.collect();
        let [values @ .., time, role] = parts.as_slice() else { return Err(odd()) };
        if values.len() != 2 * keys.len() {
            return Err(odd());
        }
        let absolute = self.plan.table.has("PEXPIRETIME");
        let mut commands = Vec::with_capacity(raw.len() + 32 * keys.len());
        let mut bytes = 0;
        let mut mortal = Vec::with_capacity(keys.len());
        for ((key, there), value) in keys.iter().zip(there).zip(values.chunks_exact(2)) {
            if let Some(error) = value.iter().find(|raw| raw.first() == Some(&b'-')) {
                return Err(said(&format!("a copy of {}", shown(key)), &words(error)));
            }
            match text(value[1]) {
                None => {
                    mortal.push(*there); // the replica's clock may have ended it, and not its primary's
                    write::request(&mut commands, &[b"UNLINK", key]);
                }
                Some(payload) => {
                    bytes += payload.len() as u64;
                    let until = until(value[0], time, absolute);
                    mortal.push(until.is_some());
                    let until = until.unwrap_or(0).to_string();
                    write::request(&mut commands, &[b"RESTORE", key, until.as_bytes(), payload, b"REPLACE", b"ABSTTL"]);
                }
            }
        }
        self.pace.came(bytes);
        self.counts.copied += keys.len() as u64;
        self.counts.bytes += bytes;
        let offset = offset(role)?;
        if offset < self.journal.pos() {
            return Err(Fault::failed("the source's offset went back: it has lost its history"));
        }
        self.ready.push_back(Ready { offset, keys, mortal, commands, piece: None });
        Ok(())
    }

    /// The connection on which the source was asked is gone: what it was asked for is asked again. `Copier::step` goes on
    /// when the shell has another.
    pub fn source_lost(&mut self) {
        self.from_source = Default::default();
        self.to_source.clear();
        for ask in std::mem::take(&mut self.asks) {
            match ask {
                Ask::Scan => {}
                Ask::Sizes { keys, answered } => self.unsized_keys.extend(keys.into_iter().skip(answered)),
                // Writes of them were skipped: that is as it was.
                Ask::Block { keys, .. } => self.unsized_keys.extend(keys),
                Ask::End => {
                    write::request(&mut self.to_source, &[b"ROLE"]);
                    self.asks.push_back(Ask::End);
                }
                Ask::Kind { key, size } => self.large.wait(key, size),
                Ask::Names { .. } | Ask::Piece(_) => {}
            }
        }
        self.large.source_lost();
    }
}
