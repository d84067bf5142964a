//! Clients that work through proxies and write down what they were told.

use super::{Anomalies, Last, Op, Outcome, What, check};
use anyhow::{Context, Result};
use redis::{Client, Connection, FromRedisValue, RedisError};
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// How much work, and where.
#[derive(Debug, Clone)]
pub struct Plan {
    /// Each client keeps to one of them.
    pub proxies: Vec<SocketAddr>,
    pub clients: usize,
    /// Lists and counters, each; every client also has a register of its own.
    pub keys: usize,
    /// After each operation.
    pub pause: Duration,
}

/// A client that hears nothing for so long asks on another connection.
const PATIENCE: Duration = Duration::from_millis(800);
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
    pub fn finish(self) -> Result<(Vec<Op>, Anomalies)> {
        self.stop.store(true, Ordering::Relaxed);
        let mut history = Vec::new();
        for client in self.clients {
            history.extend(client.join().map_err(|_| anyhow::anyhow!("a client panicked"))?);
        }
        let mut link = connect(self.proxy).context("to look at the end")?;
        let mut last = BTreeMap::new();
        for op in &history {
            if !last.contains_key(&op.key) {
                last.insert(op.key.clone(), look(&mut link, op).with_context(|| op.key.clone())?);
            }
        }
        let found = check(&history, &last);
        Ok((history, found))
    }
}

fn look(link: &mut Connection, op: &Op) -> Result<Last> {
    Ok(match op.what {
        What::Append(_) | What::List(_) => Last::List(redis::cmd("LRANGE").arg(&op.key).arg(0).arg(-1).query(link)?),
        What::Increment(_) => Last::Count(redis::cmd("GET").arg(&op.key).query::<Option<u64>>(link)?.unwrap_or(0)),
        What::Set(_) | What::Delete | What::Get(_) => Last::Register(redis::cmd("GET").arg(&op.key).query(link)?),
    })
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
            match turn % 7 {
                0 | 1 => {
                    let list = self.list(place);
                    self.ask(&list, What::Append(unique), &["RPUSH", &list, &unique.to_string()]);
                }
                2 | 3 => {
                    let key = format!("count-{place}");
                    self.ask(&key, What::Increment(None), &["INCR", &key]);
                }
                4 => {
                    let list = self.list(place);
                    self.ask(&list, What::List(Vec::new()), &["LRANGE", &list, "0", "-1"]);
                }
                5 => {
                    let key = format!("own-{}", self.n);
                    match self.held.take() {
                        Some(_) => self.ask(&key, What::Delete, &["DEL", &key]),
                        None => {
                            self.held = Some(unique);
                            self.ask(&key, What::Set(unique), &["SET", &key, &unique.to_string()]);
                        }
                    }
                }
                _ => {
                    let key = format!("own-{}", self.n);
                    self.ask(&key, What::Get(None), &["GET", &key]);
                }
            }
            std::thread::sleep(self.plan.pause);
        }
        self.ops
    }

    fn list(&self, place: u64) -> String {
        format!("list-{place}-{}", self.serial / LIST_MAX)
    }

    fn ask(&mut self, key: &str, what: What, words: &[&str]) {
        let invoked = self.began.elapsed().as_micros() as u64;
        let (what, outcome) = self.outcome(what, words);
        let completed = self.began.elapsed().as_micros() as u64;
        self.ops.push(Op { key: key.to_owned(), what, invoked, completed, outcome });
        if outcome != Outcome::Done {
            std::thread::sleep(Duration::from_millis(3)); // it would ask thousands of times a second
        }
    }

    fn outcome(&mut self, what: What, words: &[&str]) -> (What, Outcome) {
        if self.link.is_none() {
            self.link = connect(self.proxy).ok();
        }
        let Some(link) = &mut self.link else { return (what, Outcome::Refused) };
        let mut command = redis::cmd(words[0]);
        command.arg(&words[1..]);
        let answered = match what {
            What::List(_) => read(command.query(link), What::List),
            What::Increment(_) => read(command.query(link), |n| What::Increment(Some(n))),
            What::Get(_) => read(command.query(link), What::Get),
            ref other => read(command.query::<redis::Value>(link), |_| other.clone()),
        };
        match answered {
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

fn read<T: FromRedisValue>(answer: Result<T, RedisError>, what: impl FnOnce(T) -> What) -> Result<What, RedisError> {
    answer.map(what)
}
