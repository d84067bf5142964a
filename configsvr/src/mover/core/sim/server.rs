//! A model of a server, as far as the copy needs one: strings, counters, lists and hashes, some of which end by its clock, with
//! a stream of writes.

use cluster::resp::request::{Args, Ceilings, Frame, Step};
use cluster::resp::write;
use cluster::slot::crc32;
use std::collections::{BTreeMap, VecDeque};

/// A value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Value {
    Text(Vec<u8>),
    List(VecDeque<Vec<u8>>),
    Hash(BTreeMap<Vec<u8>, Vec<u8>>),
}

/// One server.
#[derive(Debug, Default)]
pub(super) struct Server {
    pub(super) data: BTreeMap<Vec<u8>, Value>,
    /// When keys end.
    pub(super) ends: BTreeMap<Vec<u8>, i64>,
    pub(super) clock: i64,
    /// So much further is the clock of the replica that answers reads; it hides what has ended, and removes nothing.
    pub(super) ahead: i64,
    /// What its replicas get, and the offset of its first byte less one.
    pub(super) stream: Vec<u8>,
    pub(super) before: u64,
}

/// A connection: requests that are not done, replies that are not read.
#[derive(Debug, Default)]
pub(super) struct Line {
    pub(super) requests: Vec<u8>,
    pub(super) replies: Vec<u8>,
    queued: Option<Vec<Vec<Vec<u8>>>>,
}

impl Line {
    /// The next request is of that name.
    fn asks(&self, name: &[u8]) -> bool {
        let Step::Done { len } = Frame::default().step(&self.requests, &Ceilings::OPEN) else { return false };
        Args::new(&self.requests[..len]).next() == Some(name)
    }
}

type Words = Vec<Vec<u8>>;

impl Server {
    pub(super) fn offset(&self) -> u64 {
        self.before + self.stream.len() as u64
    }

    /// A client writes: what changes something goes into the stream, as it is.
    pub(super) fn write(&mut self, words: &[&[u8]]) {
        // Any of them may be a key.
        self.purge(true);
        let named = |server: &Self| {
            words.iter().map(|w| (server.data.get(*w).cloned(), server.ends.get(*w).copied())).collect::<Vec<_>>()
        };
        let before = named(self);
        let owned: Words = words.iter().map(|w| w.to_vec()).collect();
        self.run(&owned);
        if named(self) != before {
            write::request(&mut self.stream, words);
        }
    }

    /// Removes what has ended. A primary tells its replicas of each.
    pub(super) fn purge(&mut self, tell: bool) {
        for (key, _) in self.ends.extract_if(.., |_, at| *at <= self.clock) {
            self.data.remove(&key);
            if tell {
                write::request(&mut self.stream, &[b"DEL", &key]);
            }
        }
    }

    /// A replica does the next request of a connection, a read; whether there was one.
    pub(super) fn read(&mut self, line: &mut Line) -> bool {
        // The size of a key is told until it is removed.
        let late = if line.asks(b"MEMORY") { i64::MIN } else { self.clock + self.ahead };
        let mut hidden = Vec::new();
        for (key, at) in self.ends.extract_if(.., |_, at| *at <= late) {
            hidden.push((self.data.remove(&key).expect("it has an end"), key, at));
        }
        let served = self.serve(line);
        for (value, key, at) in hidden {
            self.data.insert(key.clone(), value);
            self.ends.insert(key, at);
        }
        served
    }

    /// Does the next request of a connection; whether there was one.
    pub(super) fn serve(&mut self, line: &mut Line) -> bool {
        let Step::Done { len } = Frame::default().step(&line.requests, &Ceilings::OPEN) else { return false };
        let words: Words = Args::new(&line.requests[..len]).map(<[u8]>::to_vec).collect();
        line.requests.drain(..len);
        match (words[0].as_slice(), &mut line.queued) {
            (b"MULTI", _) => {
                line.queued = Some(Vec::new());
                line.replies.extend(b"+OK\r\n");
            }
            (b"EXEC", queued) => {
                let all = queued.take().expect("MULTI came first");
                write::array(&mut line.replies, all.len());
                all.iter().for_each(|words| line.replies.extend(self.run(words)));
            }
            (_, Some(queued)) => {
                queued.push(words);
                line.replies.extend(b"+QUEUED\r\n");
            }
            (_, None) => line.replies.extend(self.run(&words)),
        }
        true
    }

    fn run(&mut self, words: &Words) -> Vec<u8> {
        let mut out = Vec::new();
        let arg = |i: usize| words[i].as_slice();
        let number = |i: usize| String::from_utf8_lossy(&words[i]).parse::<i64>().expect("a number");
        match arg(0) {
            b"SCAN" => {
                let entries: Vec<&Vec<u8>> = self.data.keys().collect();
                page(&mut out, &entries, number(1), 3, |out, key| write::bulk(out, key));
            }
            b"MEMORY" => match self.data.get(arg(2)) {
                Some(value) => write::integer(&mut out, value.size() as i64),
                None => out.extend(b"$-1\r\n"),
            },
            b"TYPE" => write::simple(&mut out, self.data.get(arg(1)).map_or("none", Value::name)),
            b"DUMP" => match self.data.get(arg(1)) {
                Some(value) => write::bulk(&mut out, &value.dump()),
                None => out.extend(b"$-1\r\n"),
            },
            b"PEXPIRETIME" if !self.data.contains_key(arg(1)) => write::integer(&mut out, -2),
            b"PEXPIRETIME" => write::integer(&mut out, self.ends.get(arg(1)).copied().unwrap_or(-1)),
            b"PTTL" if !self.data.contains_key(arg(1)) => write::integer(&mut out, -2),
            b"PTTL" => write::integer(&mut out, self.ends.get(arg(1)).map_or(-1, |at| at - self.clock)),
            b"TIME" => {
                let now = self.clock + self.ahead;
                let (s, us) = (now / 1000, now % 1000 * 1000);
                write::request(&mut out, &[s.to_string().as_bytes(), us.to_string().as_bytes()]);
            }
            b"ROLE" => {
                write::array(&mut out, 3);
                write::bulk(&mut out, b"master");
                write::integer(&mut out, self.offset() as i64);
                write::array(&mut out, 0);
            }
            b"INFO" => write::bulk(
                &mut out,
                b"role:master\r\nslave0:ip=x,port=1,state=online,lag=0\r\nmaster_replid:t\r\nmaster_repl_offset:1\r\n",
            ),
            b"WAIT" => write::integer(&mut out, 1),
            b"PUBLISH" => write::integer(&mut out, 0),
            _ => match self.change(words) {
                Ok(reply) => out.extend(reply),
                Err(why) => write::error(&mut out, why),
            },
        }
        out
    }

    fn remove(&mut self, key: &[u8]) {
        self.data.remove(key);
        self.ends.remove(key);
    }

    /// Commands of one type, and those that change something.
    fn change(&mut self, words: &Words) -> Result<Vec<u8>, &'static str> {
        const WRONG: &str = "WRONGTYPE";
        let key = words[1].clone();
        let arg = |i: usize| words[i].clone();
        let number = |i: usize| String::from_utf8_lossy(&words[i]).parse::<i64>().expect("a number");
        let mut out = Vec::new();
        let empty_list = || Value::List(VecDeque::new());
        let empty_hash = || Value::Hash(BTreeMap::new());
        match words[0].as_slice() {
            b"RESTORE" => {
                self.remove(&key);
                match number(2) {
                    0 => _ = self.data.insert(key, Value::load(&words[3])),
                    until if until <= self.clock => {}
                    until => {
                        self.ends.insert(key.clone(), until);
                        self.data.insert(key, Value::load(&words[3]));
                    }
                }
            }
            b"UNLINK" | b"DEL" => words[1..].iter().for_each(|key| self.remove(key)),
            b"SET" if words.get(3).is_some_and(|w| w == b"XX") && !self.data.contains_key(&key) => {
                return Ok(b"$-1\r\n".to_vec());
            }
            b"SET" => {
                self.remove(&key);
                self.data.insert(key.clone(), Value::Text(arg(2)));
                if words.get(3).is_some_and(|w| w == b"PXAT") {
                    self.ends.insert(key, number(4));
                }
            }
            b"PEXPIREAT" => {
                let there = self.data.contains_key(&key);
                match number(2) {
                    _ if !there => {}
                    until if until <= self.clock => self.remove(&key),
                    until => _ = self.ends.insert(key, until),
                }
                write::integer(&mut out, i64::from(there));
                return Ok(out);
            }
            // One after the other, in this model.
            b"BITOP" => {
                let mut all = Vec::new();
                for source in &words[3..] {
                    match self.data.get(source) {
                        Some(Value::Text(text)) => all.extend_from_slice(text),
                        Some(_) => return Err(WRONG),
                        None => {}
                    }
                }
                self.remove(&words[2]);
                if !all.is_empty() && all.len() < 1000 {
                    self.data.insert(arg(2), Value::Text(all));
                }
            }
            b"PERSIST" => _ = self.ends.remove(&key),
            b"RENAME" => {
                let value = self.data.remove(&key).ok_or("ERR no such key")?;
                let end = self.ends.remove(&key);
                self.remove(&arg(2));
                self.data.insert(arg(2), value);
                self.ends.extend(end.map(|at| (arg(2), at)));
            }
            b"INCR" => {
                let Value::Text(text) = self.data.entry(key).or_insert(Value::Text(b"0".to_vec())) else {
                    return Err(WRONG);
                };
                let now = String::from_utf8_lossy(text).parse::<i64>().map_err(|_| "ERR not an integer")? + 1;
                *text = now.to_string().into_bytes();
            }
            b"APPEND" | b"SETRANGE" => {
                let Value::Text(text) = self.data.entry(key).or_insert(Value::Text(Vec::new())) else {
                    return Err(WRONG);
                };
                let at = if words[0] == b"APPEND" { text.len() } else { number(2) as usize };
                let bytes = words.last().expect("a value");
                text.resize(text.len().max(at + bytes.len()), 0);
                text[at..at + bytes.len()].copy_from_slice(bytes);
            }
            b"STRLEN" | b"GETRANGE" => {
                let none = Value::Text(Vec::new());
                let Value::Text(text) = self.data.get(&key).unwrap_or(&none) else { return Err(WRONG) };
                if words[0] == b"STRLEN" {
                    write::integer(&mut out, text.len() as i64);
                } else {
                    let from = (number(2) as usize).min(text.len());
                    write::bulk(&mut out, &text[from..text.len().min(number(3) as usize + 1)]);
                }
                return Ok(out);
            }
            b"LLEN" | b"LRANGE" => {
                let none = empty_list();
                let Value::List(list) = self.data.get(&key).unwrap_or(&none) else { return Err(WRONG) };
                if words[0] == b"LLEN" {
                    write::integer(&mut out, list.len() as i64);
                } else {
                    let some: Vec<_> = list
                        .range((number(2) as usize).min(list.len())..list.len().min(number(3) as usize + 1))
                        .collect();
                    write::array(&mut out, some.len());
                    some.iter().for_each(|e| write::bulk(&mut out, e));
                }
                return Ok(out);
            }
            b"HLEN" | b"HSCAN" => {
                let none = empty_hash();
                let Value::Hash(hash) = self.data.get(&key).unwrap_or(&none) else { return Err(WRONG) };
                if words[0] == b"HLEN" {
                    write::integer(&mut out, hash.len() as i64);
                } else {
                    let fields: Vec<&Vec<u8>> = hash.keys().collect();
                    page(&mut out, &fields, number(2), 2, |out, field| {
                        write::bulk(out, field);
                        write::bulk(out, &hash[field]);
                    });
                }
                return Ok(out);
            }
            b"RPUSH" | b"LPUSH" => {
                let Value::List(list) = self.data.entry(key).or_insert_with(empty_list) else { return Err(WRONG) };
                for element in &words[2..] {
                    if words[0] == b"RPUSH" {
                        list.push_back(element.clone())
                    } else {
                        list.push_front(element.clone())
                    }
                }
            }
            b"RPOP" | b"LPOP" | b"LTRIM" | b"LSET" => {
                let Some(value) = self.data.get_mut(&key) else { return Ok(b"$-1\r\n".to_vec()) };
                let Value::List(list) = value else { return Err(WRONG) };
                match words[0].as_slice() {
                    b"RPOP" => _ = list.pop_back(),
                    b"LPOP" => _ = list.pop_front(),
                    b"LTRIM" => list.truncate(number(3) as usize + 1),
                    _ => *list.get_mut(number(2) as usize).ok_or("ERR index out of range")? = arg(3),
                }
                if list.is_empty() {
                    self.remove(&key);
                }
            }
            b"HSET" | b"HINCRBY" => {
                let Value::Hash(hash) = self.data.entry(key).or_insert_with(empty_hash) else { return Err(WRONG) };
                for pair in words[2..].chunks(2) {
                    let value = if words[0] == b"HSET" {
                        pair[1].clone()
                    } else {
                        let old = hash
                            .get(&pair[0])
                            .map_or(0, |v| String::from_utf8_lossy(v).parse::<i64>().expect("a number"));
                        (old + 1).to_string().into_bytes()
                    };
                    hash.insert(pair[0].clone(), value);
                }
            }
            b"HDEL" => {
                let Some(value) = self.data.get_mut(&key) else { return Ok(b":0\r\n".to_vec()) };
                let Value::Hash(hash) = value else { return Err(WRONG) };
                words[2..].iter().for_each(|field| _ = hash.remove(field));
                if hash.is_empty() {
                    self.remove(&key);
                }
            }
            other => panic!("the model does not know {}", String::from_utf8_lossy(other)),
        }
        out.extend(b"+OK\r\n");
        Ok(out)
    }
}

/// One page of a walk that meets whoever is there all the time: in the order of hashes.
fn page(out: &mut Vec<u8>, entries: &[&Vec<u8>], cursor: i64, many: usize, tell: impl Fn(&mut Vec<u8>, &Vec<u8>)) {
    let mut left: Vec<(i64, &Vec<u8>)> =
        entries.iter().map(|e| (i64::from(crc32(e)) + 1, *e)).filter(|(hash, _)| *hash > cursor).collect();
    left.sort();
    let some = &left[..left.len().min(many)];
    let next = if some.len() == left.len() { 0 } else { some.last().map_or(0, |(hash, _)| *hash) };
    write::array(out, 2);
    write::bulk(out, next.to_string().as_bytes());
    let mut elements = Vec::new();
    some.iter().for_each(|(_, e)| tell(&mut elements, e));
    let mut one = Vec::new();
    some.first().into_iter().for_each(|(_, e)| tell(&mut one, e));
    let each = if one.is_empty() { 0 } else { one.iter().filter(|b| **b == b'$').count().max(1) };
    write::array(out, some.len() * each);
    out.extend(elements);
}

impl Value {
    fn name(&self) -> &'static str {
        match self {
            Self::Text(_) => "string",
            Self::List(_) => "list",
            Self::Hash(_) => "hash",
        }
    }

    fn size(&self) -> usize {
        self.dump().len()
    }

    fn dump(&self) -> Vec<u8> {
        let mut out = Vec::new();
        match self {
            Self::Text(text) => write::request(&mut out, &[b"T", text]),
            Self::List(list) => {
                let words: Vec<&[u8]> = std::iter::once(&b"L"[..]).chain(list.iter().map(Vec::as_slice)).collect();
                write::request(&mut out, &words);
            }
            Self::Hash(hash) => {
                let pairs = hash.iter().flat_map(|(f, v)| [f.as_slice(), v.as_slice()]);
                let words: Vec<&[u8]> = std::iter::once(&b"H"[..]).chain(pairs).collect();
                write::request(&mut out, &words);
            }
        }
        out
    }

    fn load(raw: &[u8]) -> Self {
        let words: Words = Args::new(raw).map(<[u8]>::to_vec).collect();
        match words[0].as_slice() {
            b"T" => Self::Text(words[1].clone()),
            b"L" => Self::List(words[1..].iter().cloned().collect()),
            _ => Self::Hash(words[1..].chunks(2).map(|pair| (pair[0].clone(), pair[1].clone())).collect()),
        }
    }
}
