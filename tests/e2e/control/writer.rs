//! A client that counts: INCR over many keys through a proxy. Each reply must be the count it knows; no request may fail.

use anyhow::{Context, Result, ensure};
use redis::{Client, Connection};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

const KEYS: usize = 64;

/// The keys of the client of this name.
pub(crate) fn keys(name: &str) -> impl Iterator<Item = String> {
    (0..KEYS).map(move |i| format!("{name}-{i}"))
}

/// A client at work.
pub(crate) struct Writer {
    stop: Arc<AtomicBool>,
    work: JoinHandle<Result<Tally>>,
}

/// What it saw.
#[derive(Debug, Default)]
pub(crate) struct Tally {
    pub(crate) writes: u64,
    pub(crate) slowest: Duration,
}

impl Writer {
    pub(crate) fn start(proxy: SocketAddr, name: &'static str) -> Result<Self> {
        let mut connection = Client::open(format!("redis://{proxy}"))?.get_connection()?;
        connection.set_read_timeout(Some(crate::LIMIT))?;
        let stop = Arc::new(AtomicBool::new(false));
        let seen = Arc::clone(&stop);
        Ok(Self { stop, work: std::thread::spawn(move || work(&mut connection, name, &seen)) })
    }

    pub(crate) fn finish(self) -> Result<Tally> {
        self.stop.store(true, Ordering::Relaxed);
        self.work.join().map_err(|_| anyhow::anyhow!("the writer panicked"))?
    }
}

fn work(connection: &mut Connection, name: &str, stop: &AtomicBool) -> Result<Tally> {
    let mut tally = Tally::default();
    let mut counts: Vec<(String, u64)> = keys(name).map(|key| (key, 0)).collect();
    while !stop.load(Ordering::Relaxed) {
        for (key, count) in &mut counts {
            let start = Instant::now();
            let reply: u64 = redis::cmd("INCR").arg(&*key).query(connection).with_context(|| format!("INCR {key}"))?;
            *count += 1;
            ensure!(reply == *count, "verdict of the checker: {key}: {reply}, must be {count}");
            tally.writes += 1;
            tally.slowest = tally.slowest.max(start.elapsed());
        }
        std::thread::sleep(Duration::from_millis(5)); // the cores are for the control plane
    }
    Ok(tally)
}
