//! How fast slots are copied, and what that does to others: one JSON line a kind of value. `MOVER_SOAK=1`.
#![allow(clippy::print_stdout, reason = "it prints what it measured")]

use crate::client::Client;
use crate::scene::{SLOTS, Scene};
use crate::servers::{Pair, Server, cpu};
use anyhow::{Context, Result};
use configsvr::control::job::{Goal, JobLimits};
use serde_json::json;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// Somebody else's requests meanwhile.
struct Probe {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<Result<Vec<Duration>>>,
}

impl Probe {
    fn start(addr: SocketAddr) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let thread = std::thread::spawn(move || {
            let (mut client, mut took) = (Client::open(addr)?, Vec::new());
            while !stopped.load(Ordering::Relaxed) {
                let begun = Instant::now();
                client.say("PING")?;
                took.push(begun.elapsed());
                std::thread::sleep(Duration::from_millis(1));
            }
            took.sort_unstable();
            Ok(took)
        });
        Self { stop, thread }
    }

    /// 99th percentile and maximum, in milliseconds.
    fn end(self) -> Result<(f64, f64)> {
        self.stop.store(true, Ordering::Relaxed);
        let took = self.thread.join().ok().context("the probe panicked")??;
        let at = |n: usize| took.get(n).map_or(0.0, |t| t.as_secs_f64() * 1e3);
        Ok((at(took.len() * 99 / 100), at(took.len().saturating_sub(1))))
    }
}

/// Seconds of CPU: both sides' primary and replica, and ourselves, which is the mover.
fn used(scene: &Scene) -> Result<Vec<f64>> {
    let pairs = [&scene.source, &scene.target].into_iter();
    let servers = pairs.flat_map(|pair| std::iter::once(&pair.primary).chain(&pair.replica));
    servers.map(Server::cpu).chain(std::iter::once(cpu("self"))).collect()
}

fn measure(name: &str, fill: impl Fn(&mut Client) -> Result<()>) -> Result<()> {
    let primary = Server::start(None, &[])?;
    fill(&mut primary.client()?)?;
    let replica = Some(Server::start(Some(primary.addr), &[])?);
    let source = Pair { primary, replica };
    let mut scene = Scene::assemble(source, Pair::start(true, &[])?, SLOTS, JobLimits::default())?;
    let addrs = [Some(&scene.source.primary), scene.source.replica.as_ref(), Some(&scene.target.primary)];
    let probes: Vec<Probe> = addrs.iter().flatten().map(|server| Probe::start(server.addr)).collect();
    let before = used(&scene)?;
    let begun = Instant::now();
    scene.tell(Goal::Copy);
    scene.until_tailing()?;
    let took = begun.elapsed().as_secs_f64();
    let cpu: Vec<f64> = used(&scene)?.iter().zip(before).map(|(now, then)| now - then).collect();
    let ends: Vec<(f64, f64)> = probes.into_iter().map(Probe::end).collect::<Result<_>>()?;
    let status = scene.last.clone().context("a status")?;
    let begun = Instant::now();
    scene.drained(1)?;
    let round = |n: f64| (n * 10.0).round() / 10.0;
    println!(
        "{}",
        json!({
            "values": name, "keys": status.copied, "mb": status.bytes >> 20, "seconds": round(took),
            "keys_per_s": (status.copied as f64 / took) as u64, "mb_per_s": round(status.bytes as f64 / took / 1e6),
            "cpu_s_source_replica_target_replica_mover": cpu.iter().map(|s| round(*s)).collect::<Vec<_>>(),
            "drain_ms": round(begun.elapsed().as_secs_f64() * 1e3),
            "ping_p99_ms": ends.iter().map(|e| round(e.0)).collect::<Vec<_>>(),
            "ping_max_ms": ends.iter().map(|e| round(e.1)).collect::<Vec<_>>(),
        })
    );
    Ok(())
}

#[test]
fn soak() -> Result<()> {
    if std::env::var_os("MOVER_SOAK").is_none() {
        return Ok(());
    }
    measure("1000000 of 100 B", |client| client.say("DEBUG POPULATE 1000000 key 100").map(drop))?;
    // Not to be compressed, as DUMP would.
    measure("20000 of 10 KB", |client| {
        let mut chance = crate::writers::Rng(7);
        for n in 0..20_000u32 {
            let value: Vec<u8> = (0..1250).flat_map(|_| chance.next().to_le_bytes()).collect();
            client.ask(&[b"SET", format!("key:{n}").as_bytes(), &value])?;
        }
        Ok(())
    })?;
    measure("one hash of 1 GB", |client| {
        let value = vec![b'v'; 200];
        for some in 0..4_800u32 {
            let fields: Vec<Vec<u8>> = (0..1000).map(|n| format!("field:{}", some * 1000 + n).into_bytes()).collect();
            let pairs = fields.iter().flat_map(|field| [field.as_slice(), &value]);
            client.ask(&[&b"HSET"[..], b"hash"].into_iter().chain(pairs).collect::<Vec<_>>())?;
        }
        Ok(())
    })
}
