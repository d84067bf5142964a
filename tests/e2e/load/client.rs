//! One client under load. It pipelines writes of unique tokens and reads of them, on keys that are its own, and knows
//! for each reply what it must be. Whatever fails is either an *incident*, which a test may allow, or a *fault*: a
//! wrong reply, which none does.

use super::appends::Appends;
use super::resp::{Connection, Reply, SILENCE, request};
use cluster::group::GroupId;
use std::io::{self, ErrorKind};
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

/// Values of each client in each group.
const CELLS: usize = 4;
/// The most requests of one batch.
const BATCH_MAX: u64 = 24;
/// How long a client rests after each batch at most: all together load the machine, but do not choke it.
const REST_MAX_US: u64 = 6_000;
/// Between two attempts to connect.
const RETRY: Duration = Duration::from_millis(10);

/// How a request failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Failure {
    /// An error that says nothing was done.
    Refused,
    /// An error that says the outcome is unknown, or that only a part was done.
    Unknown,
    /// The connection ended before the reply.
    Broken,
}

/// Something that failed.
#[derive(Debug, Clone)]
pub(crate) struct Incident {
    pub(crate) client: usize,
    /// None: several, or any.
    pub(crate) group: Option<GroupId>,
    /// Which worker accepted the connection.
    pub(crate) worker: u32,
    pub(crate) failure: Failure,
    pub(crate) text: String,
    /// From the sending to the failure.
    pub(crate) took: Duration,
}

/// What a client shows while it runs.
#[derive(Debug, Default)]
pub(crate) struct Board {
    pub(crate) stop: AtomicBool,
    pub(crate) requests: AtomicU64,
    /// Batches of which nothing failed.
    pub(crate) clean: AtomicU64,
    /// The worker that accepted its connection.
    pub(crate) worker: AtomicU64,
    pub(crate) incidents: Mutex<Vec<Incident>>,
    pub(crate) faults: Mutex<Vec<String>>,
    /// Of whole batches.
    pub(crate) delays: Mutex<Vec<Duration>>,
}

pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A value. One whose last write has an unknown outcome is left, and another key goes on in its place: what was sent
/// may still be done at any time.
#[derive(Debug, Default)]
struct Cell {
    generation: u32,
    token: Option<u64>,
}

#[derive(Debug, Default)]
struct Counter {
    done: u64,
    unknown: u64,
    last: u64,
}

/// The client's keys in one group.
#[derive(Debug)]
struct Home {
    group: GroupId,
    /// With braces.
    tag: String,
    cells: Vec<Cell>,
    counter: Counter,
    list: Appends,
}

/// A cell as it was when something was sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Place {
    home: usize,
    cell: usize,
    generation: u32,
}

#[derive(Debug)]
enum Op {
    Set { place: Place, token: u64 },
    Get { place: Place },
    Increment { home: usize },
    Append { home: usize, token: usize },
    SetMany { places: Vec<Place>, token: u64 },
    GetMany { places: Vec<Place> },
}

/// One client; `run` is its thread.
#[derive(Debug)]
pub(crate) struct Client {
    index: usize,
    addr: SocketAddr,
    homes: Vec<Home>,
    connection: Option<Connection>,
    connections: u32,
    worker: u32,
    random: u64,
    tokens: u64,
    /// Whether it has been said that nobody can be connected to.
    alone: bool,
    board: Arc<Board>,
}

impl Client {
    /// `tags`: a tag for each group it is to speak with. The index must be unique in the cluster.
    pub(crate) fn new(index: usize, addr: SocketAddr, tags: &[(GroupId, String)], board: Arc<Board>) -> Self {
        let home = |(group, tag): &(GroupId, String)| Home {
            group: *group,
            tag: tag.clone(),
            cells: (0..CELLS).map(|_| Cell::default()).collect(),
            counter: Counter::default(),
            list: Appends::default(),
        };
        Self {
            index,
            addr,
            homes: tags.iter().map(home).collect(),
            connection: None,
            connections: 0,
            worker: u32::MAX,
            random: (index as u64 + 1).wrapping_mul(0x9E37_79B9_7F4A_7C15),
            tokens: 0,
            alone: false,
            board,
        }
    }

    /// Works until told to stop.
    pub(crate) fn run(mut self) -> Self {
        while !self.board.stop.load(Ordering::Relaxed) {
            if self.connection.is_none() && !self.connect() {
                thread::sleep(RETRY);
                continue;
            }
            self.batch();
            let rest = self.below(REST_MAX_US);
            thread::sleep(Duration::from_micros(rest));
        }
        self
    }

    fn connect(&mut self) -> bool {
        let opened = Connection::open(self.addr).and_then(|mut c| Ok((c.worker()?, c)));
        match opened {
            Ok((worker, connection)) => {
                self.connection = Some(connection);
                (self.worker, self.alone) = (worker, false);
                self.connections += 1;
                self.board.worker.store(u64::from(worker), Ordering::Relaxed);
                true
            }
            Err(e) => {
                if !std::mem::replace(&mut self.alone, true) {
                    self.worker = u32::MAX;
                    self.note(None, Failure::Broken, format!("connecting to {}: {e}", self.addr), Duration::ZERO);
                }
                false
            }
        }
    }

    /// Sends some requests at once and takes their replies.
    fn batch(&mut self) {
        let Some(mut connection) = self.connection.take() else { return };
        let ops: Vec<Op> = (0..=self.below(BATCH_MAX)).map(|_| self.choose()).collect();
        let mut bytes = Vec::new();
        ops.iter().for_each(|op| self.write(op, &mut bytes));
        let start = Instant::now();
        let mut sent = connection.send(&bytes);
        let mut clean = true;
        for (i, op) in ops.iter().enumerate() {
            let reply = std::mem::replace(&mut sent, Ok(())).and_then(|()| connection.reply());
            match reply {
                Ok(Reply::Error(text)) => {
                    clean = false;
                    self.failed(op, &text, start.elapsed());
                }
                Ok(reply) => {
                    if let Err(why) = self.done(op, &reply) {
                        self.fault(format!("{op:?} answered with {reply:?}: {why}"));
                    }
                }
                Err(e) => return self.broken(&ops[i..], &e, start.elapsed()),
            }
        }
        self.connection = Some(connection);
        self.board.requests.fetch_add(ops.len() as u64, Ordering::Relaxed);
        self.board.clean.fetch_add(u64::from(clean), Ordering::Relaxed);
        lock(&self.board.delays).push(start.elapsed());
    }

    /// The connection has ended: what was sent and not answered has an unknown outcome.
    fn broken(&mut self, unanswered: &[Op], error: &io::Error, took: Duration) {
        for op in unanswered {
            self.lose(op);
        }
        if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) {
            self.fault(format!("no reply within {SILENCE:?} to {:?}", unanswered.first()));
        } else if error.kind() == ErrorKind::InvalidData {
            self.fault(error.to_string());
        }
        self.note(None, Failure::Broken, error.to_string(), took);
    }

    fn choose(&mut self) -> Op {
        let home = self.below(self.homes.len() as u64) as usize;
        let cell = self.below(CELLS as u64) as usize;
        let place = self.place(home, cell);
        self.tokens += 1;
        let token = self.tokens;
        match self.below(16) {
            0..4 => Op::Set { place, token },
            4..8 => Op::Get { place },
            8..10 => Op::Increment { home },
            10..14 => Op::Append { home, token: self.homes[home].list.send(self.connections) },
            14 => Op::SetMany { places: (0..self.homes.len()).map(|h| self.place(h, cell)).collect(), token },
            _ => {
                let cells = (0..self.homes.len()).flat_map(|h| (0..CELLS).map(move |c| (h, c)));
                Op::GetMany { places: cells.map(|(h, c)| self.place(h, c)).collect() }
            }
        }
    }

    fn place(&self, home: usize, cell: usize) -> Place {
        Place { home, cell, generation: self.homes[home].cells[cell].generation }
    }

    fn write(&mut self, op: &Op, out: &mut Vec<u8>) {
        match op {
            Op::Set { place, token } => request(out, &["SET", &self.key(*place), &self.value(*place, *token)]),
            Op::Get { place } => request(out, &["GET", &self.key(*place)]),
            Op::Increment { home } => {
                let key = self.counter_key(*home);
                self.homes[*home].counter.unknown += 1;
                request(out, &["INCR", &key]);
            }
            Op::Append { home, token } => request(out, &["RPUSH", &self.list_key(*home), &token.to_string()]),
            Op::SetMany { places, token } => {
                let pairs = places.iter().flat_map(|&p| [self.key(p), self.value(p, *token)]);
                request(out, &[vec!["MSET".to_owned()], pairs.collect()].concat());
            }
            Op::GetMany { places } => {
                let keys = places.iter().map(|&p| self.key(p));
                request(out, &[vec!["MGET".to_owned()], keys.collect()].concat());
            }
        }
    }

    fn key(&self, place: Place) -> String {
        format!("{}v{}.{}", self.homes[place.home].tag, place.cell, place.generation)
    }

    fn value(&self, place: Place, token: u64) -> String {
        format!("{}={token}", self.key(place))
    }

    fn counter_key(&self, home: usize) -> String {
        format!("{}n", self.homes[home].tag)
    }

    fn list_key(&self, home: usize) -> String {
        format!("{}l", self.homes[home].tag)
    }
}

/// What comes back.
impl Client {
    /// A reply that is not an error; says what is wrong with it.
    fn done(&mut self, op: &Op, reply: &Reply) -> Result<(), String> {
        match op {
            Op::Set { place, token } => self.set(&[*place], *token, reply),
            Op::SetMany { places, token } => self.set(places, *token, reply),
            Op::Get { place } => self.got(*place, reply),
            Op::GetMany { places } => match reply {
                Reply::Array(values) if values.len() == places.len() => {
                    places.iter().zip(values).try_for_each(|(&place, value)| self.got(place, value))
                }
                _ => Err(format!("not an array of {}", places.len())),
            },
            Op::Increment { home } => {
                let Counter { done, unknown, last } = &mut self.homes[*home].counter;
                (*done, *unknown) = (*done + 1, *unknown - 1);
                let range = (*last).max(*done - 1) + 1..=*done + *unknown;
                *last = integer(reply)?;
                if range.contains(last) { Ok(()) } else { Err(format!("not within {range:?}")) }
            }
            Op::Append { home, token } => self.homes[*home].list.acknowledged(*token, integer(reply)?),
        }
    }

    fn set(&mut self, places: &[Place], token: u64, reply: &Reply) -> Result<(), String> {
        for place in places {
            let cell = &mut self.homes[place.home].cells[place.cell];
            if cell.generation == place.generation {
                cell.token = Some(token);
            }
        }
        if *reply == Reply::ok() { Ok(()) } else { Err("not OK".to_owned()) }
    }

    fn got(&self, place: Place, value: &Reply) -> Result<(), String> {
        let cell = &self.homes[place.home].cells[place.cell];
        if cell.generation != place.generation {
            // A write before it has an unknown outcome; but nobody else's value can be here.
            let own = format!("{}=", self.key(place));
            let right = matches!(value, Reply::Bulk(v) if v.as_ref().is_none_or(|v| v.starts_with(own.as_bytes())));
            return if right { Ok(()) } else { Err(format!("not {own}...")) };
        }
        let wanted = cell.token.map_or(Reply::Bulk(None), |token| Reply::bulk(&self.value(place, token)));
        if *value == wanted { Ok(()) } else { Err(format!("not {wanted:?}")) }
    }

    fn failed(&mut self, op: &Op, text: &str, took: Duration) {
        let failure = match text {
            _ if text.ends_with("whether this was done is unknown") => Failure::Unknown,
            _ if text.ends_with("other groups have done their part") => Failure::Unknown,
            _ if text.ends_with("nothing was sent") => Failure::Refused,
            // An instance speaks for its own part only.
            _ if text.starts_with("LOADING ") && matches!(op, Op::SetMany { .. }) => Failure::Unknown,
            _ if text.starts_with("LOADING ") => Failure::Refused,
            _ => {
                self.lose(op);
                return self.fault(format!("{op:?} failed with an error that nobody expects: {text}"));
            }
        };
        match (failure, op) {
            (Failure::Refused, Op::Set { .. } | Op::SetMany { .. }) => {}
            (Failure::Refused, Op::Increment { home }) => self.homes[*home].counter.unknown -= 1,
            (Failure::Refused, Op::Append { home, token }) => self.homes[*home].list.refused(*token),
            _ => self.lose(op),
        }
        let group = self.group_of(op);
        self.note(group, failure, text.to_owned(), took);
    }

    /// The outcome will never be known. Counters and lists count it so from the start.
    fn lose(&mut self, op: &Op) {
        let places = match op {
            Op::Set { place, .. } => std::slice::from_ref(place),
            Op::SetMany { places, .. } => places,
            _ => return,
        };
        for place in places {
            let cell = &mut self.homes[place.home].cells[place.cell];
            if cell.generation == place.generation {
                *cell = Cell { generation: place.generation + 1, token: None };
            }
        }
    }

    fn group_of(&self, op: &Op) -> Option<GroupId> {
        let home = match op {
            Op::Set { place, .. } | Op::Get { place } => place.home,
            Op::Increment { home } | Op::Append { home, .. } => *home,
            Op::SetMany { .. } | Op::GetMany { .. } if self.homes.len() == 1 => 0,
            Op::SetMany { .. } | Op::GetMany { .. } => return None,
        };
        Some(self.homes[home].group)
    }

    fn note(&self, group: Option<GroupId>, failure: Failure, text: String, took: Duration) {
        let incident = Incident { client: self.index, group, worker: self.worker, failure, text, took };
        lock(&self.board.incidents).push(incident);
    }

    fn fault(&self, text: String) {
        lock(&self.board.faults).push(format!("client {}: {text}", self.index));
    }

    fn below(&mut self, n: u64) -> u64 {
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        self.random % n
    }
}

/// The end.
impl Client {
    /// Every fault of what is stored, read by a new connection.
    pub(crate) fn verify(&self, addr: SocketAddr) -> io::Result<Vec<String>> {
        let mut connection = Connection::open(addr)?;
        let mut faults = Vec::new();
        for (h, home) in self.homes.iter().enumerate() {
            let list = connection.ask(&["LRANGE", &self.list_key(h), "0", "-1"])?;
            let tokens = tokens(&list).ok_or_else(|| io::Error::other(format!("LRANGE answered {list:?}")))?;
            faults.extend(home.list.check(&tokens).into_iter().map(|f| format!("{}: {f}", self.list_key(h))));
            let Counter { done, unknown, .. } = home.counter;
            let count = connection.ask(&["INCRBY", &self.counter_key(h), "0"])?;
            if !integer(&count).is_ok_and(|n| (done..=done + unknown).contains(&n)) {
                faults.push(format!("{}: {count:?} after {done} increments", self.counter_key(h)));
            }
            for cell in 0..CELLS {
                let place = self.place(h, cell);
                let value = connection.ask(&["GET", &self.key(place)])?;
                faults.extend(self.got(place, &value).err().map(|f| format!("{}: {value:?}: {f}", self.key(place))));
            }
        }
        Ok(faults.into_iter().map(|f| format!("client {}: {f}", self.index)).collect())
    }
}

fn integer(reply: &Reply) -> Result<u64, String> {
    match reply {
        Reply::Integer(n) if *n >= 0 => Ok(*n as u64),
        _ => Err("not a count".to_owned()),
    }
}

fn tokens(list: &Reply) -> Option<Vec<usize>> {
    let Reply::Array(items) = list else { return None };
    let token = |item: &Reply| match item {
        Reply::Bulk(Some(text)) => std::str::from_utf8(text).ok()?.parse().ok(),
        _ => None,
    };
    items.iter().map(token).collect()
}
