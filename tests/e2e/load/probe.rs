//! Clients that watch: one that measures how long a small GET takes, one that moves large values, idle ones, and
//! one that watches a process's memory.

use super::crowd::Delays;
use super::resp::{Connection, Reply, request};
use super::site::resident;
use anyhow::{Context, Result, ensure};
use std::hash::{DefaultHasher, Hasher};
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{JoinHandle, sleep, spawn};
use std::time::{Duration, Instant};

/// Between two small GETs, and two looks at memory.
const PACE: Duration = Duration::from_millis(2);

/// A thread that does something until it is asked for what it found.
#[derive(Debug)]
pub(crate) struct Probe<T> {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<Result<T>>,
}

impl<T> Probe<T> {
    pub(crate) fn found(self) -> Result<T> {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().map_err(|_| anyhow::anyhow!("a probe panicked"))?
    }
}

/// Measures small GETs, one after another, by one connection to this worker. Any failure is an error.
pub(crate) fn small_gets(addr: SocketAddr, worker: u32, key: &str) -> Result<Probe<Delays>> {
    let mut connection = Connection::open_at(addr, worker)?;
    let key = key.to_owned();
    ensure!(connection.ask(&["SET", &key, &key])? == Reply::ok(), "SET {key}");
    let stop = Arc::new(AtomicBool::new(false));
    let stopped = Arc::clone(&stop);
    let thread = spawn(move || {
        let mut delays = Vec::new();
        while !stopped.load(Ordering::Relaxed) {
            let start = Instant::now();
            let reply = connection.ask(&["GET", &key])?;
            delays.push(start.elapsed());
            ensure!(reply == Reply::bulk(&key), "GET {key} answered with {reply:?}");
            sleep(PACE);
        }
        Ok(Delays::new(delays))
    });
    Ok(Probe { stop, thread })
}

/// Watches the resident memory of a process; finds the most, in bytes.
pub(crate) fn most_memory(pid: i32) -> Probe<u64> {
    let stop = Arc::new(AtomicBool::new(false));
    let stopped = Arc::clone(&stop);
    let thread = spawn(move || {
        let mut most = 0;
        while !stopped.load(Ordering::Relaxed) {
            most = most.max(resident(pid)?);
            sleep(PACE);
        }
        Ok(most)
    });
    Probe { stop, thread }
}

/// Connects, says PING and leaves, again and again; finds how often. Any failure is an error.
pub(crate) fn newcomers(addr: SocketAddr) -> Probe<u64> {
    let stop = Arc::new(AtomicBool::new(false));
    let stopped = Arc::clone(&stop);
    let thread = spawn(move || {
        let mut done = 0;
        while !stopped.load(Ordering::Relaxed) {
            idle_clients(addr, 1).with_context(|| format!("newcomer {done}"))?;
            done += 1;
            // So that the ports of closed connections, which wait for a minute, suffice.
            sleep(PACE);
        }
        Ok(done)
    });
    Probe { stop, thread }
}

/// Writes and reads a value of some MiB by one connection, again and again; finds how often. Any failure is an error.
pub(crate) fn large_values(addr: SocketAddr, key: &str) -> Result<Probe<u64>> {
    let mut connection = Connection::open(addr)?;
    let key = key.to_owned();
    let stop = Arc::new(AtomicBool::new(false));
    let stopped = Arc::clone(&stop);
    let thread = spawn(move || {
        let mut done = 0;
        while !stopped.load(Ordering::Relaxed) {
            round_trip(&mut connection, &key, 4 << 20, PACE)?;
            done += 1;
        }
        Ok(done)
    });
    Ok(Probe { stop, thread })
}

/// Writes a value in pieces and reads it again, resting after each piece that was read.
pub(crate) fn round_trip(connection: &mut Connection, key: &str, len: usize, rest: Duration) -> Result<()> {
    const PIECE: usize = 128 << 10;
    let (mut piece, mut sent, mut read) = (vec![0; PIECE], DefaultHasher::new(), DefaultHasher::new());
    connection.send(format!("*3\r\n$3\r\nSET\r\n${}\r\n{key}\r\n${len}\r\n", key.len()).as_bytes())?;
    let mut noise = 0x2545_F491_4F6C_DD1D_u64 ^ len as u64;
    for _ in 0..len / PIECE {
        for word in piece.chunks_exact_mut(8) {
            noise ^= noise << 13;
            noise ^= noise >> 7;
            noise ^= noise << 17;
            word.copy_from_slice(&noise.to_le_bytes());
        }
        sent.write(&piece);
        connection.send(&piece)?;
    }
    connection.send(b"\r\n")?;
    let reply = connection.reply()?;
    ensure!(reply == Reply::ok(), "SET answered with {reply:?}");
    let mut get = Vec::new();
    request(&mut get, &["GET", key]);
    connection.send(&get)?;
    ensure!(connection.bulk_header()? == len, "another length");
    for _ in 0..len / PIECE {
        connection.body(&mut piece)?;
        read.write(&piece);
        sleep(rest);
    }
    connection.body(&mut piece[..2])?;
    ensure!(sent.finish() == read.finish(), "{len} bytes came back changed");
    ensure!(connection.ask(&["PING"])? == Reply::Status("PONG".to_owned()), "out of step");
    Ok(())
}

/// A client that mostly says nothing; it costs the test little.
#[derive(Debug)]
pub(crate) struct Idle(TcpStream);

impl Idle {
    pub(crate) fn send_ping(&mut self) -> Result<()> {
        Ok(self.0.write_all(b"*1\r\n$4\r\nPING\r\n")?)
    }

    pub(crate) fn take_pong(&mut self) -> Result<()> {
        let mut pong = [0; 7];
        self.0.read_exact(&mut pong)?;
        ensure!(pong == *b"+PONG\r\n", "PING answered with {:?}", String::from_utf8_lossy(&pong));
        Ok(())
    }

    pub(crate) fn ping(&mut self) -> Result<()> {
        self.send_ping()?;
        self.take_pong()
    }
}

/// So many, each of which has said PING once.
pub(crate) fn idle_clients(addr: SocketAddr, count: usize) -> Result<Vec<Idle>> {
    let mut clients = Vec::with_capacity(count);
    for _ in 0..count {
        let stream = TcpStream::connect(addr)?;
        stream.set_read_timeout(Some(super::resp::SILENCE))?;
        let mut client = Idle(stream);
        client.ping()?;
        clients.push(client);
    }
    Ok(clients)
}
