//! A large value, copied piece by piece: what has been copied of it, and what a write of it means meanwhile.
//!
//! From the first piece on, writes are applied to the unfinished copy wherever their effect on an element depends on that
//! element alone (HSET, SADD, ZINCRBY ...): a piece that comes later holds the element as it is at its own offset and
//! replaces what a write made of nothing. Lists and strings are copied from their head, so a write behind the end of the copy
//! is skipped (a piece brings it), and one before it is applied. Anything else begins the value anew.

use super::Key;
use super::asked::words;
use cluster::resp::reply::{Elements, integer, text};
use cluster::resp::write;

/// Elements of the first piece; what follows is as large as that one allows.
const COUNT_FIRST: u64 = 64;
const COUNT_MAX: u64 = 4096;
/// A list may lose so many elements at its head between a question and its answer, and the answer is still of use.
const LOST_MAX: u64 = 64;

/// Types that can be copied in pieces.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Text,
    List,
    Hash,
    /// Its fields may have lifetimes of their own: they are asked for by name, after HSCAN.
    Fields,
    Set,
    Sorted,
}

/// What a write of the value means to its unfinished copy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Effect {
    /// A piece that is still to come holds it.
    Skip,
    /// It does to the copy what it did to the value.
    Apply,
    /// This does it to the copy.
    Instead(Vec<Vec<u8>>),
    /// The copy is of no use any more.
    Restart,
}

/// What a piece did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Came {
    More,
    /// The copy is whole.
    Whole,
}

/// A value under way.
#[derive(Debug)]
pub(super) struct Value {
    pub(super) key: Key,
    pub(super) size: u64,
    pub(super) kind: Kind,
    /// The target has the first piece; before, every write is skipped.
    begun: bool,
    cursor: Vec<u8>,
    /// Elements (bytes) from the head that the copy has.
    copied: u64,
    /// Elements (bytes) that the value has, at the offset taken.
    len: u64,
    /// Elements (bytes) of the next piece.
    count: u64,
    /// Bytes of a piece, about.
    bytes: usize,
}

impl Value {
    /// `bytes`: of one piece, about.
    pub(super) fn new(key: Key, size: u64, kind: Kind, bytes: usize) -> Self {
        let count = if kind == Kind::Text { bytes as u64 } else { COUNT_FIRST.min(bytes as u64 / 4).max(1) };
        Self { key, size, kind, begun: false, cursor: b"0".to_vec(), copied: 0, len: 0, count, bytes }
    }

    /// Where the next piece starts, for lists and strings.
    pub(super) fn from(&self) -> u64 {
        if self.kind == Kind::List { self.copied.saturating_sub(LOST_MAX) } else { self.copied }
    }

    /// The question for the next piece, and for its length. `fields`: those to be read, of `Kind::Fields`.
    pub(super) fn question(&self, fields: &[Vec<u8>], out: &mut Vec<u8>) {
        let key = &self.key;
        let (from, count) = (self.from(), self.count.to_string());
        let last = (self.copied + self.count - 1).to_string();
        let from = from.to_string();
        let scan = |out: &mut Vec<u8>, name: &[u8]| {
            write::request(out, &[name, key, &self.cursor, b"COUNT", count.as_bytes()]);
        };
        match self.kind {
            Kind::Text => write::request(out, &[b"GETRANGE", key, from.as_bytes(), last.as_bytes()]),
            Kind::List => write::request(out, &[b"LRANGE", key, from.as_bytes(), last.as_bytes()]),
            Kind::Hash => scan(out, b"HSCAN"),
            Kind::Set => scan(out, b"SSCAN"),
            Kind::Sorted => scan(out, b"ZSCAN"),
            Kind::Fields => {
                let fields: Vec<&[u8]> = fields.iter().map(Vec::as_slice).collect();
                write::request(out, &[&[b"HMGET", &key[..]], &fields[..]].concat());
                let n = fields.len().to_string();
                write::request(out, &[&[b"HPEXPIRETIME", &key[..], b"FIELDS", n.as_bytes()], &fields[..]].concat());
            }
        }
        let length: &[u8] = match self.kind {
            Kind::Text => b"STRLEN",
            Kind::List => b"LLEN",
            Kind::Hash | Kind::Fields => b"HLEN",
            Kind::Set => b"SCARD",
            Kind::Sorted => b"ZCARD",
        };
        write::request(out, &[length, key]);
    }

    /// The question for names of fields, of `Kind::Fields`.
    pub(super) fn question_names(&self, out: &mut Vec<u8>) {
        write::request(out, &[b"HSCAN", &self.key, &self.cursor, b"COUNT", self.count.to_string().as_bytes()]);
    }

    /// How many replies `question` brings.
    pub(super) fn answers(&self) -> usize {
        if self.kind == Kind::Fields { 3 } else { 2 }
    }

    /// Names of fields came: the cursor goes on with the piece that they are for.
    pub(super) fn names(raw: &[u8]) -> Result<(Vec<u8>, Vec<Vec<u8>>), String> {
        let (cursor, found) = scanned(raw)?;
        Ok((cursor, found.chunks(2).map(|pair| pair[0].to_vec()).collect()))
    }

    /// A piece came, and the stream is taken up to where it was read. `from`: where it was asked to start. `fields` and
    /// `cursor`: of the names it is for.
    pub(super) fn piece(
        &mut self,
        answers: &[&[u8]],
        from: u64,
        named: &(Vec<u8>, Vec<Vec<u8>>),
        out: &mut Vec<Vec<u8>>,
    ) -> Result<Came, String> {
        let [data, .., len] = answers else { return Err("no answer".to_owned()) };
        if let Some(error) = answers.iter().find(|raw| raw.first() == Some(&b'-')) {
            return Err(words(error));
        }
        self.len = integer(len).ok_or_else(|| words(len))?.max(0) as u64;
        let first = !self.begun;
        self.begun = true;
        if first {
            push(out, &[b"UNLINK", &self.key]);
        }
        self.adapt(answers.iter().map(|raw| raw.len()).sum());
        match self.kind {
            Kind::Text => self.text_came(data, from, out),
            Kind::List => self.list_came(data, from, out),
            Kind::Fields => {
                self.cursor.clone_from(&named.0);
                self.fields_came(&named.1, answers, out)
            }
            Kind::Hash | Kind::Set | Kind::Sorted => self.elements_came(data, out),
        }
    }

    /// The next piece is as large as wanted, as far as this one tells.
    fn adapt(&mut self, bytes: usize) {
        if self.kind == Kind::Text {
            return;
        }
        if bytes > self.bytes {
            self.count = (self.count / 2).max(1);
        } else if bytes < self.bytes / 2 {
            self.count = (self.count * 2).min(COUNT_MAX);
        }
    }

    fn text_came(&mut self, data: &[u8], from: u64, out: &mut Vec<Vec<u8>>) -> Result<Came, String> {
        let bytes = text(data).ok_or_else(|| words(data))?;
        if from != self.copied {
            return Ok(Came::More); // the copy has these already
        }
        if !bytes.is_empty() {
            push(out, &[b"SETRANGE", &self.key, self.copied.to_string().as_bytes(), bytes]);
        }
        self.copied += bytes.len() as u64;
        Ok(if bytes.is_empty() || self.copied >= self.len { Came::Whole } else { Came::More })
    }

    fn list_came(&mut self, data: &[u8], from: u64, out: &mut Vec<Vec<u8>>) -> Result<Came, String> {
        let elements: Vec<&[u8]> = Elements::new(data).ok_or_else(|| words(data))?.filter_map(text).collect();
        // Pushes and pops at the head since it was asked for have moved the end of the copy.
        if from <= self.copied {
            let have = (self.copied - from) as usize;
            let fresh = elements.get(have..).unwrap_or_default();
            if !fresh.is_empty() {
                push(out, &[&[b"RPUSH", &self.key[..]], fresh].concat());
            }
            self.copied += fresh.len() as u64;
        }
        Ok(if self.copied >= self.len { Came::Whole } else { Came::More })
    }

    fn elements_came(&mut self, data: &[u8], out: &mut Vec<Vec<u8>>) -> Result<Came, String> {
        let (cursor, mut found) = scanned(data)?;
        let command: &[u8] = match self.kind {
            Kind::Set => b"SADD",
            Kind::Sorted => b"ZADD",
            _ => b"HSET",
        };
        if self.kind == Kind::Sorted {
            found.chunks_exact_mut(2).for_each(|pair| pair.swap(0, 1));
        }
        if !found.is_empty() {
            push(out, &[&[command, &self.key[..]], &found[..]].concat());
        }
        self.cursor = cursor;
        Ok(self.at_end())
    }

    fn fields_came(&mut self, names: &[Vec<u8>], answers: &[&[u8]], out: &mut Vec<Vec<u8>>) -> Result<Came, String> {
        let odd = || "the reply to HMGET makes no sense".to_owned();
        let values = Elements::new(answers[0]).ok_or_else(odd)?;
        // Of a key that is gone, there is no list of times.
        let times = Elements::new(answers[1]).into_iter().flatten().map(|raw| integer(raw).unwrap_or(-1));
        let found: Vec<(&[u8], &[u8], i64)> = (names.iter().zip(values).zip(times.chain(std::iter::repeat(-1))))
            .filter_map(|((name, value), until)| Some((&name[..], text(value)?, until)))
            .collect();
        let mut set: Vec<&[u8]> = vec![b"HSET", &self.key];
        found.iter().for_each(|(name, value, _)| set.extend([name, value]));
        if found.is_empty() {
            return Ok(self.at_end());
        }
        push(out, &set);
        for (name, _, until) in found.iter().filter(|found| found.2 >= 0) {
            push(out, &[b"HPEXPIREAT", &self.key, until.to_string().as_bytes(), b"FIELDS", b"1", name]);
        }
        Ok(self.at_end())
    }

    fn at_end(&self) -> Came {
        if self.cursor == b"0" { Came::Whole } else { Came::More }
    }

    /// What a write of this value alone means to the copy, and what it changes about it.
    pub(super) fn effect(&mut self, args: &[&[u8]]) -> Effect {
        if !self.begun {
            return Effect::Skip; // the first piece holds it
        }
        let name = args[0].to_ascii_uppercase();
        let any = |names: &[&[u8]]| names.contains(&name.as_slice());
        // The last piece brings the time to live.
        if any(&[b"PEXPIREAT", b"EXPIREAT", b"PEXPIRE", b"EXPIRE", b"PERSIST"]) {
            return Effect::Skip;
        }
        let local: &[&[u8]] = match self.kind {
            Kind::Hash => &[b"HSET", b"HMSET", b"HSETNX", b"HDEL", b"HINCRBY", b"HINCRBYFLOAT"],
            Kind::Fields => {
                &[b"HSET", b"HMSET", b"HSETNX", b"HDEL", b"HINCRBY", b"HINCRBYFLOAT", b"HPEXPIREAT", b"HPERSIST"]
            }
            Kind::Set => &[b"SADD", b"SREM"],
            Kind::Sorted => &[b"ZADD", b"ZREM", b"ZINCRBY"],
            Kind::Text => &[b"SETRANGE", b"SETBIT", b"BITFIELD"],
            Kind::List => return self.list_effect(&name, args),
        };
        match () {
            () if any(local) => Effect::Apply,
            () if self.kind == Kind::Text && name == b"APPEND" => Effect::Skip,
            () => Effect::Restart,
        }
    }

    fn list_effect(&mut self, name: &[u8], args: &[&[u8]]) -> Effect {
        let pushed = args.len().saturating_sub(2) as u64;
        let number = |i: usize| args.get(i).and_then(|arg| std::str::from_utf8(arg).ok()?.parse::<i64>().ok());
        match name {
            b"RPUSH" | b"RPUSHX" => {
                self.len += pushed;
                Effect::Skip
            }
            b"LPUSH" | b"LPUSHX" => {
                self.len += pushed;
                self.copied += pushed;
                Effect::Apply
            }
            b"LPOP" => {
                let n = number(2).map_or(1, |n| n.max(0) as u64).min(self.len);
                self.len -= n;
                match self.copied {
                    0 => Effect::Skip,
                    copied if copied > n => {
                        self.copied -= n;
                        Effect::Apply
                    }
                    _ => Effect::Restart,
                }
            }
            b"RPOP" => {
                let n = number(2).map_or(1, |n| n.max(0) as u64).min(self.len);
                self.cut_tail(self.len - n)
            }
            b"LSET" => match number(2).map(|at| if at < 0 { at + self.len as i64 } else { at }) {
                Some(at) if at >= 0 && (at as u64) < self.copied => {
                    let at = at.to_string();
                    let words = [b"LSET", &self.key[..], at.as_bytes(), args.get(3).copied().unwrap_or_default()];
                    Effect::Instead(words.map(<[u8]>::to_vec).to_vec())
                }
                Some(_) => Effect::Skip,
                None => Effect::Restart,
            },
            // What a list that is kept short is cut with.
            b"LTRIM" if number(2) == Some(0) => {
                match number(3).map(|to| if to < 0 { to + self.len as i64 } else { to }) {
                    Some(to) if to >= 0 => self.cut_tail(self.len.min(to as u64 + 1)),
                    _ => Effect::Restart,
                }
            }
            _ => Effect::Restart,
        }
    }

    /// The list has `len` elements from here on.
    fn cut_tail(&mut self, len: u64) -> Effect {
        self.len = len;
        match len {
            _ if len >= self.copied => Effect::Skip,
            0 => Effect::Restart,
            _ => {
                self.copied = len;
                let last = (len - 1).to_string();
                let words = [b"LTRIM", &self.key[..], b"0", last.as_bytes()].map(<[u8]>::to_vec);
                Effect::Instead(words.to_vec())
            }
        }
    }
}

/// The cursor and the elements of a reply to HSCAN and its like.
fn scanned(raw: &[u8]) -> Result<(Vec<u8>, Vec<&[u8]>), String> {
    let mut parts = Elements::new(raw).ok_or_else(|| words(raw))?;
    let cursor = parts.next().and_then(text).ok_or_else(|| words(raw))?;
    let found = parts.next().and_then(Elements::new).ok_or_else(|| words(raw))?;
    Ok((cursor.to_vec(), found.filter_map(text).collect()))
}

/// One command for the target.
fn push(out: &mut Vec<Vec<u8>>, words: &[&[u8]]) {
    let mut command = Vec::new();
    write::request(&mut command, words);
    out.push(command);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn list(copied: u64, len: u64) -> Value {
        let mut value = Value::new(Key::from(&b"k"[..]), 1 << 20, Kind::List, 1 << 18);
        (value.begun, value.copied, value.len) = (true, copied, len);
        value
    }

    fn effect(value: &mut Value, line: &str) -> (Effect, u64, u64) {
        let effect = value.effect(&line.split(' ').map(str::as_bytes).collect::<Vec<_>>());
        (effect, value.copied, value.len)
    }

    fn instead(line: &str) -> Effect {
        Effect::Instead(line.split(' ').map(|w| w.as_bytes().to_vec()).collect())
    }

    #[test]
    fn writes_of_a_list_move_the_end_of_its_copy() {
        let value = &mut list(10, 100);
        assert_eq!(effect(value, "RPUSH k a b"), (Effect::Skip, 10, 102));
        assert_eq!(effect(value, "LPUSH k a b"), (Effect::Apply, 12, 104));
        assert_eq!(effect(value, "LPOP k"), (Effect::Apply, 11, 103));
        assert_eq!(effect(value, "RPOP k 3"), (Effect::Skip, 11, 100));
        assert_eq!(effect(value, "LSET k -1 x"), (Effect::Skip, 11, 100));
        assert_eq!(effect(value, "LSET k -90 x"), (instead("LSET k 10 x"), 11, 100));
        assert_eq!(effect(value, "LTRIM k 0 49"), (Effect::Skip, 11, 50));
        assert_eq!(effect(value, "LTRIM k 0 -42"), (instead("LTRIM k 0 8"), 9, 9));
        assert_eq!(effect(value, "EXPIRE k 9"), (Effect::Skip, 9, 9));
        assert_eq!(effect(value, "LREM k 0 x").0, Effect::Restart);
        assert_eq!(effect(&mut list(1, 100), "LPOP k").0, Effect::Restart);
        assert_eq!(effect(&mut list(0, 100), "LPOP k"), (Effect::Skip, 0, 99));
    }

    #[test]
    fn elements_stand_for_themselves() {
        for (kind, line, wanted) in [
            (Kind::Hash, "hincrby k f 1", Effect::Apply),
            (Kind::Hash, "DEL k", Effect::Restart),
            (Kind::Sorted, "ZREMRANGEBYRANK k 0 1", Effect::Restart),
            (Kind::Set, "SREM k a", Effect::Apply),
            (Kind::Text, "APPEND k a", Effect::Skip),
            (Kind::Text, "SETBIT k 8 1", Effect::Apply),
            (Kind::Text, "SET k a", Effect::Restart),
        ] {
            let mut value = Value::new(Key::from(&b"k"[..]), 1 << 20, kind, 1 << 18);
            assert_eq!(effect(&mut value, line).0, Effect::Skip, "{line} before the first piece");
            value.begun = true;
            assert_eq!(effect(&mut value, line).0, wanted, "{line}");
        }
    }
}
