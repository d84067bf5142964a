//! Clients that work through proxies and write down what they were told.

use super::shape::{Read, Shape};
use super::{Anomalies, Last, Op, Outcome, What, check};
use anyhow::{Context, Result};
use redis::{Client, Connection, RedisError, Value};
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// How much work, and where.
#[derive(Debug, Clone)]
pub struct Plan {
    /// Its keys begin with it: two loads on one cluster have two names.
    pub name: String,
    /// Each client keeps to one of them.
    pub proxies: Vec<SocketAddr>,
    pub clients: usize,
    /// Lists and counters, each; every client also has a register of its own.
    pub keys: usize,
    /// After each operation.
    pub pause: Duration,
    /// Work on every type, in transactions, by scripts and with blocking pops; else on lists, counters and registers.
    pub all_types: bool,
}

/// A client that hears nothing for so long asks on another connection.
const PATIENCE: Duration = Duration::from_millis(800);
/// Lists from which values are popped.
const QUEUES: u64 = 4;
/// A list is left for the next one after so many values, so that reading it stays cheap.
const LIST_MAX: u64 = 100;

/// Clients at work.
pub struct Load {
    began: Instant,
    stop: Arc<AtomicBool>,
    clients: Vec<JoinHandle<Vec<Op>>>,
    proxy: SocketAddr,
}

impl Load {
    pub fn start(plan: &Plan) -> Self {
        let (began, stop) = (Instant::now(), Arc::new(AtomicBool::new(false)));
        let clients = (0..plan.clients).map(|n| {
            let (plan, stop) = (plan.clone(), Arc::clone(&stop));
            let proxy = plan.proxies[n % plan.proxies.len()];
            let worker = Worker { n, plan, proxy, began, link: None, ops: Vec::new(), serial: 0, held: None };
            std::thread::spawn(move || worker.work(&stop))
        });
        Self { began, clients: clients.collect(), stop, proxy: plan.proxies[0] }
    }

    /// Microseconds since it began.
    pub fn now(&self) -> u64 {
        self.began.elapsed().as_micros() as u64
    }

    /// Ends the work, looks at what is there, and says what cannot be.
    pub fn finish(mut self) -> Result<(Vec<Op>, Anomalies)> {
        self.stop.store(true, Ordering::Relaxed);
        let mut history = Vec::new();
        for client in std::mem::take(&mut self.clients) {
            history.extend(client.join().map_err(|_| anyhow::anyhow!("a client panicked"))?);
        }
        let mut link = connect(self.proxy).context("to look at the end")?;
        let mut last = BTreeMap::new();
        for op in &history {
            if !last.contains_key(&op.key) {
                let there = match Shape::of(&op.key) {
                    Shape::Hll => counted(&mut link, &op.key, &history),
                    _ => look(&mut link, op),
                };
                last.insert(op.key.clone(), there.with_context(|| op.key.clone())?);
            }
        }
        let found = check(&history, &last);
        Ok((history, found))
    }
}

/// Clients that go on would work on the next test's cluster.
impl Drop for Load {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        self.clients.drain(..).for_each(|client| _ = client.join());
    }
}

fn look(link: &mut Connection, op: &Op) -> Result<Last> {
    let shape = Shape::of(&op.key);
    let words = shape.look(&op.key);
    Ok(match shape.read(redis::cmd(&words[0]).arg(&words[1..]).query(link)?)? {
        Read::Values(values) if shape.is_ordered() => Last::List(values),
        Read::Values(values) => Last::Set(values),
        Read::Number(number) if shape.counts() => Last::Count(number.unwrap_or(0)),
        Read::Number(number) => Last::Register(number),
    })
}

/// What a HyperLogLog counts already: to add it again changes nothing.
fn counted(link: &mut Connection, key: &str, history: &[Op]) -> Result<Last> {
    let added = history.iter().filter(|op| op.key == key && op.outcome != Outcome::Refused);
    let added = added.filter_map(|op| if let What::Add(value) = op.what { Some(value) } else { None });
    let mut there = Vec::new();
    for value in added {
        if !redis::cmd("PFADD").arg(key).arg(value).query::<bool>(link)? {
            there.push(value);
        }
    }
    Ok(Last::Set(there))
}

fn connect(proxy: SocketAddr) -> Result<Connection, RedisError> {
    let link = Client::open(format!("redis://{proxy}"))?.get_connection_with_timeout(PATIENCE)?;
    link.set_read_timeout(Some(PATIENCE))?;
    link.set_write_timeout(Some(PATIENCE))?;
    Ok(link)
}

struct Worker {
    n: usize,
    plan: Plan,
    proxy: SocketAddr,
    began: Instant,
    link: Option<Connection>,
    ops: Vec<Op>,
    serial: u64,
    /// What its register holds, as far as it knows.
    held: Option<u64>,
}

impl Worker {
    fn work(mut self, stop: &AtomicBool) -> Vec<Op> {
        let mut turn = self.n as u64;
        while !stop.load(Ordering::Relaxed) {
            turn += 1;
            self.serial += 1;
            let unique = ((self.n as u64) << 40) | self.serial;
            let place = turn % self.plan.keys as u64;
            match turn % if self.plan.all_types { 19 } else { 7 } {
                0 | 1 => self.write(Shape::List, place, What::Append(unique)),
                2 | 3 => self.write(Shape::Count, place, What::Increment(None)),
                4 => self.look_at(Shape::List, place),
                5 => {
                    let what = if self.held.take().is_some() { What::Delete } else { What::Set(unique) };
                    self.held = (what == What::Set(unique)).then_some(unique);
                    self.write(Shape::Own, self.n as u64, what);
                }
                6 => self.look_at(Shape::Own, self.n as u64),
                7 => self.write(Shape::Pair, place, What::Append(unique)),
                8 => self.write(Shape::Stream, place, What::Append(unique)),
                9 => self.write(Shape::Scripted, place, What::Append(unique)),
                10 => self.write(Shape::SETS[place as usize % Shape::SETS.len()], place, What::Add(unique)),
                11 => self.look_at(Shape::SETS[place as usize % Shape::SETS.len()], place),
                12 => self.write(Shape::Bits, place, What::Increment(None)),
                13 => self.write(Shape::Brief, self.n as u64, What::Brief { value: unique, ms: 20 + unique % 400 }),
                14 => {
                    self.look_at(Shape::Brief, self.n as u64);
                    self.write(Shape::Queue, place % QUEUES, What::Append(unique));
                }
                15 => self.write(Shape::Queue, place % QUEUES, What::Pop(None)),
                16 => self.write(Shape::Group, place, What::Append(unique)),
                17 => self.write(Shape::Group, place, What::Pop(None)),
                _ => self.write(Shape::Hll, place, What::Add(unique)),
            }
            std::thread::sleep(self.plan.pause);
        }
        self.ops
    }

    fn key(&self, shape: Shape, place: u64) -> String {
        shape.key(&self.plan.name, place, self.serial / LIST_MAX)
    }

    fn write(&mut self, shape: Shape, place: u64, what: What) {
        let key = self.key(shape, place);
        let commands = shape.commands(&key, &what, self.serial);
        self.ask(shape, &key, what, &commands);
    }

    fn look_at(&mut self, shape: Shape, place: u64) {
        let key = self.key(shape, place);
        let what = match shape {
            Shape::Own | Shape::Brief => What::Get(None),
            _ => What::List(Vec::new()),
        };
        self.ask(shape, &key, what, &[shape.look(&key)]);
    }

    fn ask(&mut self, shape: Shape, key: &str, what: What, commands: &[Vec<String>]) {
        let invoked = self.began.elapsed().as_micros() as u64;
        let (what, outcome) = self.outcome(shape, what, commands);
        let completed = self.began.elapsed().as_micros() as u64;
        for key in shape.touched(key) {
            self.ops.push(Op { key, what: what.clone(), invoked, completed, outcome });
        }
        if outcome != Outcome::Done {
            std::thread::sleep(Duration::from_millis(3)); // it would ask thousands of times a second
        }
    }

    fn outcome(&mut self, shape: Shape, what: What, commands: &[Vec<String>]) -> (What, Outcome) {
        if self.link.is_none() {
            self.link = connect(self.proxy).ok();
        }
        let Some(link) = &mut self.link else { return (what, Outcome::Refused) };
        match asked(link, shape, commands).and_then(|reply| answered(&what, shape, reply)) {
            Ok(what) => (what, Outcome::Done),
            Err(e) if e.is_io_error() || e.is_connection_dropped() => {
                self.link = None;
                (what, Outcome::Unknown)
            }
            Err(e) if e.to_string().contains("nothing was sent") => (what, Outcome::Refused),
            Err(_) => (what, Outcome::Unknown),
        }
    }
}

/// The last reply; for a transaction that of EXEC.
fn asked(link: &mut Connection, shape: Shape, commands: &[Vec<String>]) -> Result<Value, RedisError> {
    if let [words] = commands {
        return redis::cmd(&words[0]).arg(&words[1..]).query(link);
    }
    let mut pipe = redis::pipe();
    if shape == Shape::Pair {
        pipe.atomic();
    }
    commands.iter().for_each(|words| _ = pipe.cmd(&words[0]).arg(&words[1..]));
    Ok(pipe.query::<Vec<Value>>(link)?.pop().unwrap_or(Value::Nil))
}

/// What was asked, with what was answered.
fn answered(what: &What, shape: Shape, reply: Value) -> Result<What, RedisError> {
    Ok(match what {
        What::Increment(_) | What::Get(_) | What::List(_) | What::Pop(_) => match (what, shape.read(reply)?) {
            (What::Increment(_), Read::Number(number)) => What::Increment(number),
            (What::Get(_), Read::Number(number)) => What::Get(number),
            (What::Pop(_), Read::Values(values)) => What::Pop(values.last().copied()),
            (_, Read::Values(values)) => What::List(values),
            (other, Read::Number(_)) => other.clone(),
        },
        other => other.clone(),
    })
}
