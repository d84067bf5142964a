//! Writers of everything that servers know, some at once, over few keys, so that they meet.

use crate::client::Client;
use anyhow::{Context, Result};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;

const SCRIPT: &str = "redis.call('INCR',KEYS[1]) redis.call('RPUSH',KEYS[2],ARGV[1]) \
    if redis.call('LLEN',KEYS[2])>50 then redis.call('LTRIM',KEYS[2],-20,-1) end return redis.call('INCRBY',KEYS[1],2)";

/// Chance with a seed (xorshift).
pub(crate) struct Rng(pub(crate) u64);

impl Rng {
    pub(crate) fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    pub(crate) fn below(&mut self, n: u64) -> u64 {
        self.next() % n
    }
}

/// Threads that write until they are told to stop.
pub(crate) struct Writers {
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<Result<()>>>,
    written: Arc<AtomicU64>,
}

impl Writers {
    pub(crate) fn start(addr: SocketAddr, writers: u64, tags: u64) -> Self {
        let (stop, written) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let threads = (0..writers).map(|n| {
            let (stop, written) = (Arc::clone(&stop), Arc::clone(&written));
            std::thread::spawn(move || write(addr, n, tags, &stop, &written))
        });
        Self { threads: threads.collect(), stop: Arc::clone(&stop), written }
    }

    pub(crate) fn stop(self) -> Result<()> {
        self.stop.store(true, Ordering::Relaxed);
        for thread in self.threads {
            thread.join().ok().context("a writer panicked")??;
        }
        eprintln!("{} writes", self.written.load(Ordering::Relaxed));
        Ok(())
    }
}

fn write(addr: SocketAddr, seed: u64, tags: u64, stop: &AtomicBool, written: &AtomicU64) -> Result<()> {
    let mut client = Client::open(addr)?;
    let mut rng = Rng(0x9E37_79B9_7F4A_7C15 ^ (seed + 1) << 32);
    (0..50).for_each(|_| _ = rng.next());
    while !stop.load(Ordering::Relaxed) {
        // Some at once, as busy clients do: replies are read, errors are part of it.
        let requests: Vec<Vec<Vec<u8>>> = (0..8).flat_map(|_| commands(&mut rng, tags)).collect();
        written.fetch_add(requests.len() as u64, Ordering::Relaxed);
        client.ask_all(&requests)?;
    }
    Ok(())
}

/// One write, or a transaction.
fn commands(rng: &mut Rng, tags: u64) -> Vec<Vec<Vec<u8>>> {
    let t = format!("{{t{}}}", rng.below(tags));
    let (a, b) = (format!("{t}{}", rng.below(6)), format!("{t}{}", rng.below(6)));
    let (z, n) = (rng.below(100), rng.next() % 100_000);
    let big = format!("{{big{}}}", rng.below(8));
    let line = match rng.below(64) {
        0..5 => format!("INCR {a}cnt"),
        5..8 => format!("RPUSH {a}log e{n}"),
        8 => format!("HINCRBY {a}h f{z} 1"),
        9 => format!("ZINCRBY {a}z 1 m{z}"),
        10 => format!("SADD {a}s m{z}"),
        11 => format!("SPOP {a}s"),
        12 => format!("SETEX {a}e {} v{z}", [1, 2, 100][z as usize % 3]),
        13 => format!("PEXPIRE {a}h {}", [50, 5000, 100_000][z as usize % 3]),
        14 => format!("DEL {a}h"),
        15 => format!("RENAME {a}s {b}s"),
        16 => format!("SINTERSTORE {a}s2 {a}s {b}s"),
        17 => format!("APPEND {a}str x{z}"),
        18 => return vec![words(&[b"EVAL", SCRIPT.as_bytes(), b"2", s(&a, "lc").as_slice(), &s(&a, "ll"), b"e"])],
        19 => format!("LMOVE {a}ll {b}ll LEFT RIGHT"),
        20..23 => format!("XADD {a}x MAXLEN ~ 50 * f {z}"),
        23 => format!("XGROUP CREATE {a}x g{} 0", z % 3),
        24 => format!("XREADGROUP GROUP g{} c{} COUNT 3 STREAMS {a}x >", z % 3, z % 2),
        25 => format!("XACK {a}x g{} 0-1", z % 3),
        26 => format!("XAUTOCLAIM {a}x g{} c9 0 0 COUNT 2", z % 3),
        27 => format!("GETDEL {a}str"),
        28 => format!("MSET {a}m 1 {b}m2 {z}"),
        29 => format!("PERSIST {a}h"),
        30 => format!("INCRBYFLOAT {a}fl 0.1"),
        31 => format!("BLPOP {a}ll 0.001"),
        32 => format!("COPY {a}h {b}h9 REPLACE"),
        33 => format!("PFADD {a}hll e{n}"),
        34 => format!("PFMERGE {a}hll {b}hll"),
        35 => format!("GEOADD {a}geo {}.5 {}.25 p{z}", z, z % 80),
        36 => format!("GEOSEARCHSTORE {a}geo2 {a}geo FROMLONLAT 15 37 BYRADIUS 2000 km"),
        37 => format!("BITFIELD {a}bits INCRBY u8 {} 1", z * 8),
        38 => format!("SETBIT {a}bits {n} 1"),
        39 => format!("BITOP OR {a}bits2 {a}bits {b}bits"),
        40 => format!("ZUNIONSTORE {a}z2 2 {a}z {b}z"),
        41 => format!("ZPOPMIN {a}z"),
        42 => format!("SORT {a}s ALPHA STORE {a}sorted"),
        43 => format!("SETRANGE {a}str {z} yy"),
        44 => format!("GETEX {a}str PX {}", 20 + z * 20),
        45 => format!("SET {a}str v{z} PX {}", 10 + z * 100),
        46 => format!("SET {a}str v{z} KEEPTTL"),
        47 => format!("LTRIM {a}log -30 -1"),
        48 => format!("SMOVE {a}s {b}s m{z}"),
        49 => format!("HSET {big}h f{n} {z}"),
        50 => format!("HDEL {big}h f{n}"),
        51 => format!("SADD {big}s m{n}"),
        52 => format!("SREM {big}s m{n}"),
        53 => format!("ZADD {big}z {z} m{n}"),
        54 => format!("ZREM {big}z m{n}"),
        55 => format!("RPUSH {big}l e{n}"),
        56 => format!("LPOP {big}l"),
        57 => format!("LPUSH {big}l e{n}"),
        58 => format!("RPOP {big}l"),
        59 => format!("SETRANGE {big}str {} zz", n * 10),
        60 => format!("HINCRBY {big}h f{n} 3"),
        61 => format!("ZINCRBY {big}z 2 m{n}"),
        62 => format!("LSET {big}l {} x{z}", z * 50),
        _ => {
            let lines =
                ["MULTI", &format!("INCR {a}mc"), &format!("SADD {b}s q{z}"), &format!("SET {a}me 1 PX 300"), "EXEC"];
            return lines.iter().map(|line| split(line)).collect();
        }
    };
    vec![split(&line)]
}

fn s(key: &str, suffix: &str) -> Vec<u8> {
    format!("{key}{suffix}").into_bytes()
}

fn words(words: &[&[u8]]) -> Vec<Vec<u8>> {
    words.iter().map(|w| w.to_vec()).collect()
}

fn split(line: &str) -> Vec<Vec<u8>> {
    line.split(' ').map(|w| w.as_bytes().to_vec()).collect()
}
