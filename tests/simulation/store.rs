//! The data of one model instance, and the commands on it. Every change is told to the history.

use crate::checkers::history::{History, print_of};
use cluster::resp::write;
use std::collections::{BTreeMap, BTreeSet};

/// What a key holds.
#[derive(Clone)]
pub(crate) enum Value {
    Text(Vec<u8>),
    /// Its elements, and the print of the whole list.
    List(Vec<Vec<u8>>, u64),
}

#[derive(Default)]
pub(crate) struct Store {
    keys: BTreeMap<Vec<u8>, Value>,
    /// Keys among them that another instance has got: whatever happens to them here is nothing that happened to the data.
    pub(crate) ghosts: BTreeSet<Vec<u8>>,
    /// A list has got an element since this was last unset: somebody may wait for it.
    pub(crate) pushed: bool,
}

/// A wish for the first element of the first list that has one.
#[derive(Clone)]
pub(crate) struct Wish {
    pub(crate) keys: Vec<Vec<u8>>,
    /// BLMOVE: the list that gets it.
    target: Option<Vec<u8>>,
    /// The answer names the list.
    named: bool,
    /// How long to wait for it; None: not at all. 0: for ever.
    pub(crate) waits_us: Option<u64>,
}

impl Wish {
    /// What a request wishes for; None: it is none that pops.
    pub(crate) fn of(args: &[&[u8]]) -> Option<Self> {
        let owned = |keys: &[&[u8]]| keys.iter().map(|key| key.to_vec()).collect();
        let time = |text: &[u8]| {
            let seconds: f64 = std::str::from_utf8(text).ok().and_then(|text| text.parse().ok()).unwrap_or(0.0);
            Some((seconds * 1e6) as u64)
        };
        let (name, args) = args.split_first()?;
        let (keys, target, named, waits_us) = match (&name.to_ascii_uppercase()[..], args) {
            (b"LPOP", [key]) => (owned(&[key]), None, false, None),
            (b"LMOVE", [from, to, ..]) => (owned(&[from]), Some(to.to_vec()), false, None),
            (b"BLPOP", [keys @ .., timeout]) => (owned(keys), None, true, time(timeout)),
            (b"BLMOVE", [from, to, _, _, timeout]) => (owned(&[from]), Some(to.to_vec()), false, time(timeout)),
            _ => return None,
        };
        Some(Self { keys, target, named, waits_us })
    }

    /// The answer when there was nothing in time.
    pub(crate) fn nothing(&self) -> &'static [u8] {
        if self.named { b"*-1\r\n" } else { b"$-1\r\n" }
    }
}

const WRONG_TYPE: &str = "WRONGTYPE Operation against a key holding the wrong kind of value";

impl Store {
    /// Runs one command of the data set; None: not one of those.
    pub(crate) fn execute(&mut self, args: &[&[u8]], history: &mut History) -> Option<Vec<u8>> {
        let mut out = Vec::new();
        let name = args[0].to_ascii_uppercase();
        match (&name[..], &args[1..]) {
            (b"GET", [key]) => self.get(key, &mut out),
            (b"MGET", keys) => {
                write::array(&mut out, keys.len());
                keys.iter().for_each(|key| self.get_or_nil(key, &mut out));
            }
            (b"SET", [key, value]) => {
                self.set(key, value, history);
                write::simple(&mut out, "OK");
            }
            (b"MSET", pairs) => {
                pairs.chunks(2).for_each(|pair| self.set(pair[0], pair[1], history));
                write::simple(&mut out, "OK");
            }
            (b"MSETNX", pairs) => {
                let free = pairs.chunks(2).all(|pair| !self.keys.contains_key(pair[0]));
                if free {
                    pairs.chunks(2).for_each(|pair| self.set(pair[0], pair[1], history));
                }
                write::integer(&mut out, i64::from(free));
            }
            (b"INCR", [key]) => self.incr(key, history, &mut out),
            (b"RPUSH", [key, value]) => self.push(key, value, history, &mut out),
            (b"LRANGE", [key, ..]) => self.range(key, &mut out),
            (b"DEL" | b"UNLINK", keys) => {
                let gone = keys.iter().filter(|key| self.delete(key, history)).count();
                write::integer(&mut out, gone as i64);
            }
            (b"EXISTS" | b"TOUCH", keys) => {
                let there = keys.iter().filter(|key| self.keys.contains_key(**key)).count();
                write::integer(&mut out, there as i64);
            }
            (b"EVAL", [_, _, key]) => self.get(key, &mut out),
            (b"RANDOMKEY", []) => match self.keys.keys().next() {
                Some(key) => write::bulk(&mut out, key),
                None => out.extend_from_slice(b"$-1\r\n"),
            },
            (b"KEYS", [_]) => self.names(&mut out),
            (b"SCAN", _) => {
                write::array(&mut out, 2);
                write::bulk(&mut out, b"0");
                self.names(&mut out);
            }
            (b"DBSIZE", []) => write::integer(&mut out, self.keys.len() as i64),
            (b"FLUSHALL" | b"FLUSHDB", _) => {
                self.lose_all(history);
                write::simple(&mut out, "OK");
            }
            _ => return None,
        }
        Some(out)
    }

    fn names(&self, out: &mut Vec<u8>) {
        write::array(out, self.keys.len());
        self.keys.keys().for_each(|key| write::bulk(out, key));
    }

    fn get(&self, key: &[u8], out: &mut Vec<u8>) {
        match self.keys.get(key) {
            Some(Value::List(..)) => write::error(out, WRONG_TYPE),
            _ => self.get_or_nil(key, out),
        }
    }

    fn get_or_nil(&self, key: &[u8], out: &mut Vec<u8>) {
        match self.keys.get(key) {
            Some(Value::Text(text)) => write::bulk(out, text),
            _ => out.extend_from_slice(b"$-1\r\n"),
        }
    }

    fn set(&mut self, key: &[u8], value: &[u8], history: &mut History) {
        self.keys.insert(key.to_vec(), Value::Text(value.to_vec()));
        let step = history.changed(key, Some(print_of(value)));
        history.applied(key, value, step, 0);
    }

    fn incr(&mut self, key: &[u8], history: &mut History, out: &mut Vec<u8>) {
        let old = match self.keys.get(key) {
            None => 0,
            Some(Value::Text(text)) => std::str::from_utf8(text).ok().and_then(|t| t.parse().ok()).unwrap_or(0),
            Some(Value::List(..)) => return write::error(out, WRONG_TYPE),
        };
        let text = (old + 1i64).to_string().into_bytes();
        let step = history.changed(key, Some(print_of(&text)));
        history.counted(key, step, old + 1);
        self.keys.insert(key.to_vec(), Value::Text(text));
        write::integer(out, old + 1);
    }

    fn push(&mut self, key: &[u8], value: &[u8], history: &mut History, out: &mut Vec<u8>) {
        let held = self.keys.entry(key.to_vec()).or_insert(Value::List(Vec::new(), 0));
        let Value::List(items, print) = held else { return write::error(out, WRONG_TYPE) };
        items.push(value.to_vec());
        *print = list_print(*print, value);
        let len = items.len() as i64;
        self.pushed = true;
        let step = history.changed(key, Some(*print));
        history.applied(key, value, step, len);
        write::integer(out, len);
    }

    /// Takes the element out, or gives an error; None: there is none.
    pub(crate) fn pop(&mut self, wish: &Wish, history: &mut History) -> Option<Vec<u8>> {
        let mut out = Vec::new();
        for key in &wish.keys {
            let element = match self.keys.get_mut(key) {
                None => continue,
                Some(Value::Text(_)) => {
                    write::error(&mut out, WRONG_TYPE);
                    return Some(out);
                }
                Some(Value::List(items, print)) => {
                    let element = items.remove(0);
                    *print = items.iter().fold(0, |print, item| list_print(print, item));
                    let left = *print;
                    if items.is_empty() {
                        self.keys.remove(key);
                    }
                    history.changed(key, (left != 0).then_some(left));
                    element
                }
            };
            history.taken(key, &element, wish.target.is_some());
            if let Some(target) = &wish.target {
                self.append(target, &element, history);
            }
            if wish.named {
                write::array(&mut out, 2);
                write::bulk(&mut out, key);
            }
            write::bulk(&mut out, &element);
            return Some(out);
        }
        None
    }

    /// Puts an element that had another place at the end of a list.
    fn append(&mut self, key: &[u8], element: &[u8], history: &mut History) {
        let held = self.keys.entry(key.to_vec()).or_insert(Value::List(Vec::new(), 0));
        let Value::List(items, print) = held else { return };
        items.push(element.to_vec());
        *print = list_print(*print, element);
        let print = *print;
        self.pushed = true;
        history.changed(key, Some(print));
    }

    pub(crate) fn names_of(&self, wanted: impl Fn(&[u8]) -> bool) -> Vec<Vec<u8>> {
        self.keys.keys().filter(|key| wanted(key)).cloned().collect()
    }

    pub(crate) fn has(&self, key: &[u8]) -> bool {
        self.keys.contains_key(key)
    }

    fn range(&self, key: &[u8], out: &mut Vec<u8>) {
        match self.keys.get(key) {
            None => write::array(out, 0),
            Some(Value::Text(_)) => write::error(out, WRONG_TYPE),
            Some(Value::List(items, _)) => {
                write::array(out, items.len());
                items.iter().for_each(|item| write::bulk(out, item));
            }
        }
    }

    fn delete(&mut self, key: &[u8], history: &mut History) -> bool {
        let was = self.keys.remove(key).is_some();
        if was {
            history.changed(key, None);
        }
        was
    }

    /// FLUSHALL, or a restart without persistence.
    pub(crate) fn lose_all(&mut self, history: &mut History) {
        let ghosts = std::mem::take(&mut self.ghosts);
        for key in std::mem::take(&mut self.keys).into_keys().filter(|key| !ghosts.contains(key)) {
            history.changed(&key, None);
        }
    }

    /// Takes out the keys that `leaves` names, for another instance. The cluster's data does not change by it.
    pub(crate) fn take(&mut self, leaves: impl Fn(&[u8]) -> bool) -> Vec<(Vec<u8>, Value)> {
        let names: Vec<Vec<u8>> = self.keys.keys().filter(|key| leaves(key)).cloned().collect();
        names.into_iter().filter_map(|name| self.keys.remove_entry(&name)).collect()
    }

    /// What a key holds; with `stays`, what is left here is a ghost.
    pub(crate) fn send(&mut self, key: &[u8], stays: bool) -> Option<(Vec<u8>, Value)> {
        let value = self.keys.get(key).cloned()?;
        if stays {
            self.ghosts.insert(key.to_vec());
        } else {
            self.keys.remove(key);
            self.ghosts.remove(key);
        }
        Some((key.to_vec(), value))
    }

    pub(crate) fn put(&mut self, keys: Vec<(Vec<u8>, Value)>) {
        self.keys.extend(keys);
    }
}

/// The print of a list with one more element.
pub(crate) fn list_print(before: u64, element: &[u8]) -> u64 {
    (before.rotate_left(5) ^ print_of(element)).wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1
}
