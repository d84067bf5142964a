//! Whoever counts keys while slots move counts each once: copies that are made, or left, are nobody's business.

use crate::scene::{STILL, Scene, turn};
use anyhow::{Context, Result, ensure};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;

/// Asks a proxy again and again; how often.
fn count(proxy: SocketAddr, protocol: &str, stop: &AtomicBool) -> Result<u64> {
    let mut link = redis::Client::open(format!("redis://{proxy}/?protocol={protocol}"))?.get_connection()?;
    let mut times = 0;
    while !stop.load(Ordering::Relaxed) {
        let counted: usize = redis::cmd("DBSIZE").query(&mut link)?;
        ensure!(counted == STILL, "verdict of the checker: DBSIZE {counted}, and there are {STILL} keys");
        let keys: Vec<String> = redis::cmd("KEYS").arg("still:*").query(&mut link)?;
        ensure!(keys.len() == STILL, "verdict of the checker: {} KEYS, and there are {STILL}", keys.len());
        times += 1;
    }
    Ok(times)
}

/// How many keys the instances count themselves, at most.
fn all_there_are(primaries: &[SocketAddr], stop: &AtomicBool) -> Result<usize> {
    let clients = primaries.iter().map(|addr| redis::Client::open(format!("redis://{addr}"))?.get_connection());
    let mut links = clients.collect::<redis::RedisResult<Vec<_>>>()?;
    let mut most = 0;
    while !stop.load(Ordering::Relaxed) {
        let mut all = 0;
        for link in &mut links {
            all += redis::cmd("DBSIZE").query::<usize>(link)?;
        }
        most = most.max(all);
    }
    Ok(most)
}

#[test]
fn keys_are_counted_once_while_slots_move() -> Result<()> {
    let _turn = turn();
    let scene = Scene::begin(2, 1)?;
    let stop = Arc::new(AtomicBool::new(false));
    let proxies = scene.playground.proxies().iter().map(|p| p.addr());
    let counters: Vec<JoinHandle<Result<u64>>> = proxies
        .zip(["resp2", "resp3"])
        .map(|(proxy, protocol)| {
            let stop = Arc::clone(&stop);
            std::thread::spawn(move || count(proxy, protocol, &stop))
        })
        .collect();
    let primaries = [scene.primary(1)?, scene.primary(2)?];
    let seen = Arc::clone(&stop);
    let instances = std::thread::spawn(move || all_there_are(&primaries, &seen));

    let moved = move_about(&scene);
    stop.store(true, Ordering::Relaxed);
    let counted = counters.into_iter().map(|c| c.join().map_err(|_| anyhow::anyhow!("panicked"))?);
    let counted = counted.collect::<Result<Vec<u64>>>()?;
    let most = instances.join().map_err(|_| anyhow::anyhow!("panicked"))??;
    moved?;
    eprintln!("    counted {counted:?} times; the instances held up to {most} keys, {STILL} of them not copies");
    ensure!(most > STILL, "no copy was ever there");
    ensure!(counted.iter().all(|times| *times > 10), "counted {counted:?} times");
    scene.nothing_astray()
}

/// There, back, and there again but for the end.
pub(crate) fn move_about(scene: &Scene) -> Result<()> {
    scene.operator("migrations start --from 1 --to 2 --count 16 --keys-per-s 1000 --wait --yes")?;
    scene.operator("migrations reverse 1 --wait --yes")?;
    let id = *scene.begun("migrations start --from 2 --to 1 --count 16 --keys-per-s 1000")?.first().context("an id")?;
    scene.until_it(id, &["copying", "tailing"])?;
    scene.operator(&format!("migrations cancel {id}"))?;
    scene.until_it(id, &["cancelled"])?;
    Ok(())
}
