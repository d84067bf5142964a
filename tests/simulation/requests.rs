//! What clients ask: random commands over a few hot keys, so that requests meet.

use crate::checkers::history::{History, SessionId, token, value_of};
use crate::checkers::replies::Ask;
use crate::rng::Rng;
use crate::topology::slot;
use cluster::resp::write;

const SCRIPTS: [&[u8]; 2] = [b"return redis.call('GET', KEYS[1])", b"return redis.call('get', KEYS[1])"];
const TAGS: [&str; 7] = ["a", "b", "c", "d", "e", "f", "g"];
const CHANNELS: [&str; 3] = ["{a}news", "{b}news", "{e}news"];

/// A request and what is known of its reply.
pub(crate) struct Request {
    pub(crate) args: Vec<Vec<u8>>,
    pub(crate) ask: Ask,
}

/// Names the next request of a session; its writes get their tokens from it.
pub(crate) struct Writer<'a> {
    pub(crate) session: SessionId,
    pub(crate) request: u64,
    /// It must be answered soon.
    pub(crate) hasty: bool,
    pub(crate) rng: &'a mut Rng,
    pub(crate) history: &'a mut History,
}

fn args(words: &[&[u8]]) -> Vec<Vec<u8>> {
    words.iter().map(|word| word.to_vec()).collect()
}

fn bulk(bytes: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    write::bulk(&mut out, bytes);
    out
}

impl Writer<'_> {
    /// A request by chance, or a whole transaction. `modest`: none that is large or flushes everything.
    pub(crate) fn any(&mut self, modest: bool) -> Vec<Request> {
        match self.rng.below(100) {
            0..4 => self.transaction(),
            4 => self.publish(),
            _ => vec![self.one(modest)],
        }
    }

    fn one(&mut self, modest: bool) -> Request {
        match self.rng.below(100) {
            0..18 => self.set(modest),
            18..36 => self.get(),
            36..44 => self.incr(),
            44..54 => self.push(),
            54..60 => self.range(),
            60..68 => self.get_many(),
            68..74 => self.set_many(modest),
            74..77 => self.count(["DEL", "UNLINK"]),
            77..80 => self.count(["EXISTS", "touch"]),
            80..84 => self.set_new(),
            84 if !modest && self.rng.one_in(2) => self.whole(),
            85..88 => self.local(modest),
            88..90 => self.feed(),
            90..92 => self.pop(),
            _ => self.refused(),
        }
    }

    fn key(&mut self, family: &str) -> Vec<u8> {
        format!("{{{}}}{family}{}", self.rng.pick(&TAGS), self.rng.below(2)).into_bytes()
    }

    fn some_key(&mut self) -> Vec<u8> {
        let family = *self.rng.pick(&["s", "s", "n", "l"]);
        self.key(family)
    }

    /// Different keys, of any slots.
    fn keys(&mut self, family: Option<&str>) -> Vec<Vec<u8>> {
        let mut keys = Vec::new();
        for _ in 0..1 + self.rng.below(6) {
            let key = match family {
                Some(family) => self.key(family),
                None => self.some_key(),
            };
            if !keys.contains(&key) {
                keys.push(key);
            }
        }
        keys
    }

    fn value(&mut self, part: usize, key: &[u8], modest: bool) -> (u64, Vec<u8>) {
        let token = token(self.session, self.request, part);
        self.history.issued(token, key);
        let len = match self.rng.below(60) {
            0 if !modest => 60_000 + self.rng.below(100_000),
            1..4 => self.rng.below(9000),
            _ => self.rng.below(60),
        };
        (token, value_of(token, len))
    }

    fn set(&mut self, modest: bool) -> Request {
        let key = self.key("s");
        let (token, value) = self.value(0, &key, modest);
        let name = *self.rng.pick(&["SET", "set", "Set"]);
        Request { args: args(&[name.as_bytes(), &key, &value]), ask: Ask::Set(token, key) }
    }

    fn push(&mut self) -> Request {
        let key = self.key("l");
        let (token, value) = self.value(0, &key, true);
        Request { args: args(&[b"RPUSH", &key, &value]), ask: Ask::Push(token, key) }
    }

    /// An element for a list that others pop from.
    fn feed(&mut self) -> Request {
        let key = self.queue(0);
        let (token, value) = self.value(0, &key, true);
        Request { args: args(&[b"RPUSH", &key, &value]), ask: Ask::Push(token, key) }
    }

    /// One of a few lists; elements are moved from those of number 0 to those of number 1.
    fn queue(&mut self, number: usize) -> Vec<u8> {
        format!("{{{}}}q{number}", self.rng.pick(&TAGS[..2])).into_bytes()
    }

    /// Takes an element, or waits for one.
    fn pop(&mut self) -> Request {
        let long = if self.hasty || self.rng.one_in(3) { 200 } else { 3_000 };
        let timeout = match self.rng.below(6) {
            0 if !self.hasty => "0".to_owned(),
            _ => format!("{:.3}", self.rng.range(1, long) as f64 / 1000.0),
        };
        let first = self.queue(0);
        let second = [&first[..first.len() - 1], b"1"].concat();
        let (moves, waits) = (self.rng.one_in(3), self.rng.one_in(2));
        let mut keys = vec![first.clone()];
        let words = match (moves, waits) {
            (true, true) => args(&[b"BLMOVE", &first, &second, b"LEFT", b"RIGHT", timeout.as_bytes()]),
            (true, false) => args(&[b"LMOVE", &first, &second, b"LEFT", b"RIGHT"]),
            (false, true) => {
                keys.push(second.clone());
                args(&[b"BLPOP", &first, &second, timeout.as_bytes()])
            }
            (false, false) => {
                keys = vec![second];
                args(&[b"LPOP", &keys[0]])
            }
        };
        let endless = waits && timeout == "0";
        Request { args: words, ask: Ask::Pop { keys, moves, waits, endless } }
    }

    /// Some messages for one channel.
    fn publish(&mut self) -> Vec<Request> {
        let channel = self.rng.pick(&CHANNELS).as_bytes().to_vec();
        let mut one = |part| {
            let (token, value) = self.value(part, &channel, true);
            Request { args: args(&[b"PUBLISH", &channel, &value]), ask: Ask::Published(token, channel.clone()) }
        };
        (0..4).map(&mut one).collect()
    }

    /// What a client that listens asks: a topic more or less, or a sign of life.
    pub(crate) fn listener(&mut self) -> Request {
        let pattern = self.rng.one_in(4);
        let channel = *self.rng.pick(&CHANNELS);
        let topic = if pattern { format!("{}*", &channel[..3]) } else { channel.to_owned() }.into_bytes();
        let verb: &[u8] = match (self.rng.below(5), pattern) {
            (0 | 1, false) => b"SUBSCRIBE",
            (0 | 1, true) => b"PSUBSCRIBE",
            (2, false) => b"UNSUBSCRIBE",
            (2, true) => b"PUNSUBSCRIBE",
            _ => {
                let (word, _) = self.value_unwritten(true);
                return Request { args: args(&[b"PING", &word]), ask: Ask::Alive(word) };
            }
        };
        let ask = Ask::Notice { verb: verb.to_ascii_lowercase(), topic: (pattern, topic.clone()) };
        Request { args: args(&[verb, &topic]), ask }
    }

    fn set_many(&mut self, modest: bool) -> Request {
        let (mut words, mut parts) = (args(&[b"MSET"]), Vec::new());
        for (part, key) in self.keys(Some("s")).into_iter().enumerate() {
            let (token, value) = self.value(part, &key, modest);
            words.extend([key.clone(), value]);
            parts.push((token, key));
        }
        Request { args: words, ask: Ask::SetMany(parts) }
    }

    fn set_new(&mut self) -> Request {
        let tag = *self.rng.pick(&TAGS);
        let (mut words, mut parts) = (args(&[b"MSETNX"]), Vec::new());
        for part in 0..2 {
            let key = format!("{{{tag}}}s{part}").into_bytes();
            let (token, value) = self.value(part, &key, true);
            words.extend([key.clone(), value]);
            parts.push((token, key));
        }
        Request { args: words, ask: Ask::SetNew(parts) }
    }

    fn get(&mut self) -> Request {
        let family = *self.rng.pick(&["s", "s", "s", "n"]);
        let key = self.key(family);
        if self.rng.one_in(10) {
            // Known scripts are loaded where a link comes up anew.
            let script = *self.rng.pick(&SCRIPTS);
            return Request { args: args(&[b"EVAL", script, b"1", &key]), ask: Ask::Get(key) };
        }
        let name = *self.rng.pick(&["GET", "get", "GeT"]);
        Request { args: args(&[name.as_bytes(), &key]), ask: Ask::Get(key) }
    }

    fn get_many(&mut self) -> Request {
        let keys = self.keys(Some("s"));
        let mut words = args(&[b"MGET"]);
        words.extend(keys.iter().cloned());
        Request { args: words, ask: Ask::GetMany(keys) }
    }

    fn range(&mut self) -> Request {
        let key = self.key("l");
        Request { args: args(&[b"LRANGE", &key, b"0", b"-1"]), ask: Ask::Range(key) }
    }

    fn incr(&mut self) -> Request {
        let key = self.key("n");
        self.history.count_issued(&key);
        Request { args: args(&[b"INCR", &key]), ask: Ask::Incr(key) }
    }

    fn count(&mut self, names: [&str; 2]) -> Request {
        let keys = self.keys(None);
        let mut words = args(&[self.rng.pick(&names).as_bytes()]);
        words.extend(keys.iter().cloned());
        Request { args: words, ask: Ask::Count(keys) }
    }

    /// WATCH perhaps, MULTI, a few commands on keys of one slot, EXEC.
    fn transaction(&mut self) -> Vec<Request> {
        let tag = *self.rng.pick(&TAGS);
        let watched = self.rng.one_in(3);
        // So large that it takes a link of its own: one on which another client may have watched keys before.
        let mut large = !watched && self.rng.one_in(8);
        let say = |words: &[&[u8]], said: &[u8]| Request { args: args(words), ask: Ask::Exact(said.to_vec()) };
        let mut requests = Vec::new();
        if watched {
            let key = format!("{{{tag}}}s0").into_bytes();
            requests.push(Request { args: args(&[b"WATCH", &key]), ask: Ask::Watch(key) });
        }
        requests.push(say(&[b"MULTI"], b"+OK\r\n"));
        let mut asks = Vec::new();
        for part in 0..1 + self.rng.below(4) {
            let (family, name) = *self.rng.pick(&[("s", "SET"), ("l", "RPUSH"), ("n", "INCR"), ("s", "GET")]);
            let key = format!("{{{tag}}}{family}{}", self.rng.below(2)).into_bytes();
            let mut words = args(&[name.as_bytes(), &key]);
            asks.push(match name {
                "GET" => Ask::Get(key),
                "INCR" => {
                    self.history.count_issued(&key);
                    Ask::Incr(key)
                }
                _ => {
                    let (token, mut value) = self.value(part, &key, true);
                    if std::mem::take(&mut large) {
                        value = value_of(token, 66_000 + self.rng.below(10_000));
                    }
                    words.push(value);
                    if name == "SET" { Ask::Set(token, key) } else { Ask::Push(token, key) }
                }
            });
            requests.push(Request { args: words, ask: Ask::Exact(b"+QUEUED\r\n".to_vec()) });
        }
        let exec = Ask::Exec { asks, watched };
        self.history.together(exec.tokens());
        requests.push(Request { args: args(&[b"EXEC"]), ask: exec });
        requests
    }

    /// To all groups.
    fn whole(&mut self) -> Request {
        match self.rng.below(6) {
            0 => Request { args: args(&[b"FLUSHALL"]), ask: Ask::Flush },
            1 => Request { args: args(&[b"FLUSHDB"]), ask: Ask::Flush },
            2 => Request { args: args(&[b"DBSIZE"]), ask: Ask::Kind(b":") },
            3 => Request { args: args(&[b"KEYS", b"*"]), ask: Ask::Kind(b"*") },
            4 => Request { args: args(&[b"RANDOMKEY"]), ask: Ask::Kind(b"$") },
            _ => Request { args: args(&[b"SCAN", b"0", b"COUNT", b"3"]), ask: Ask::Walk },
        }
    }

    /// Answered by the proxy itself.
    fn local(&mut self, modest: bool) -> Request {
        let (own, long) = self.value_unwritten(modest);
        let (words, ask): (&[&[u8]], Ask) = match self.rng.below(9) {
            0 => (&[b"PING"], Ask::Exact(b"+PONG\r\n".to_vec())),
            1 | 2 => (&[b"PING", &own], Ask::Exact(bulk(&own))),
            3 | 4 => (&[b"ECHO", &own], Ask::Exact(bulk(&own))),
            5 => (&[b"ECHO", &long], Ask::Exact(bulk(&long))),
            6 => (&[b"SELECT", b"0"], Ask::Exact(b"+OK\r\n".to_vec())),
            7 => (&[b"TIME"], Ask::Kind(b"*")),
            _ => (&[b"CLIENT", b"ID"], Ask::Kind(b":")),
        };
        Request { args: args(words), ask }
    }

    /// Words that are nobody else's, but no write.
    fn value_unwritten(&mut self, modest: bool) -> (Vec<u8>, Vec<u8>) {
        let token = token(self.session, self.request, 255);
        let len = if modest { 100 } else { 3000 };
        (value_of(token, 0), value_of(token, len))
    }

    /// Refused by the proxy: never seen by an instance.
    fn refused(&mut self) -> Request {
        let (one, other) = (self.key("s"), self.key("s"));
        match self.rng.below(6) {
            0 => Request { args: args(&[b"NOSUCHCOMMAND", &one]), ask: Ask::Fails("ERR unknown command") },
            1 => Request { args: args(&[b"GET"]), ask: Ask::Fails("ERR wrong number of arguments") },
            2 => Request { args: args(&[b"MSET", &one]), ask: Ask::Fails("ERR wrong number of arguments") },
            3 => Request { args: args(&[b"DEBUG", b"OBJECT", &one]), ask: Ask::Fails("ERR ") },
            4 => Request { args: args(&[b"SHUTDOWN"]), ask: Ask::Fails("ERR ") },
            _ if slot(&one) != slot(&other) => {
                Request { args: args(&[b"MSETNX", &one, b"never", &other, b"never"]), ask: Ask::Fails("CROSSSLOT") }
            }
            _ => Request { args: args(&[b"SELECT", b"no"]), ask: Ask::Fails("ERR ") },
        }
    }
}

/// A request as bytes: mostly RESP, now and then as a person types it.
pub(crate) fn as_bytes(args: &[Vec<u8>], rng: &mut Rng) -> Vec<u8> {
    let plain = |arg: &Vec<u8>| arg.len() < 100 && !arg.is_empty() && !arg.contains(&b'\'') && !arg.contains(&b' ');
    if args.iter().all(plain) && rng.one_in(25) {
        let mut line = args.join(&b' ');
        line.extend_from_slice(if rng.one_in(2) { b"\r\n" } else { b"\n" });
        return line;
    }
    let mut out = Vec::new();
    let words: Vec<&[u8]> = args.iter().map(Vec::as_slice).collect();
    write::request(&mut out, &words);
    out
}
