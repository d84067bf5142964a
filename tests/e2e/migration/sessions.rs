//! Sessions that live 20 ms and are used when about that has passed: each either is as it was left, or gone as a whole.

use crate::scene::{LIMIT, Scene, turn};
use anyhow::{Context, Result, ensure};
use configsvr::playground::{ask, until};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

const TTL: Duration = Duration::from_millis(20);
/// Of each application.
const SESSIONS: usize = 8;
/// In one transaction, as a script is: what is there is used, what is not is made.
const USE: &str = "if redis.call('EXISTS', KEYS[1]) == 1 then redis.call('HINCRBY', KEYS[1], 'used', 1)
    else redis.call('HSET', KEYS[1], 'born', ARGV[1], 'used', 1) end
    redis.call('PEXPIRE', KEYS[1], ARGV[2])
    return redis.call('HMGET', KEYS[1], 'born', 'used')";

/// Uses its sessions one after the other, each about when it ends. How many uses, and how many of them found it there.
fn work(proxy: SocketAddr, name: &str, stop: &AtomicBool) -> Result<(u64, u64)> {
    let mut link = redis::Client::open(format!("redis://{proxy}"))?.get_connection()?;
    let mut known: Vec<(u64, u64)> = vec![(0, 0); SESSIONS];
    let mut due: Vec<Instant> = vec![Instant::now(); SESSIONS];
    let (mut uses, mut found) = (0, 0);
    for n in (0..SESSIONS).cycle() {
        if stop.load(Ordering::Relaxed) {
            break;
        }
        std::thread::sleep(due[n].saturating_duration_since(Instant::now()));
        uses += 1;
        let key = format!("session:{name}:{n}");
        let ask = |link: &mut redis::Connection| {
            redis::cmd("EVAL").arg(USE).arg(1).arg(&key).arg(uses).arg(TTL.as_millis() as u64).query(link)
        };
        let (born, used): (Option<u64>, Option<u64>) = ask(&mut link).with_context(|| key.clone())?;
        // From 1.5 ms before its end to 1 ms after it.
        due[n] = Instant::now() + TTL - Duration::from_micros(1500) + Duration::from_micros(uses * 7919 % 2500);
        let (was, last) = known[n];
        let same = born == Some(was) && used == Some(last + 1);
        let new = born == Some(uses) && used == Some(1);
        ensure!(
            same || new,
            "verdict of the checker: {key} was born {was} and used {last} times, now: {born:?}, {used:?}"
        );
        found += u64::from(same);
        known[n] = (born.unwrap_or(0), used.unwrap_or(0));
    }
    Ok((uses, found))
}

#[test]
fn sessions_at_their_last_moment_move_whole_or_not_at_all() -> Result<()> {
    let _turn = turn();
    let scene = Scene::begin(2, 1)?;
    let stop = Arc::new(AtomicBool::new(false));
    let start = |(i, proxy): (usize, SocketAddr)| {
        let stop = Arc::clone(&stop);
        std::thread::spawn(move || work(proxy, &i.to_string(), &stop))
    };
    let proxies = scene.playground.proxies().iter().map(|p| p.addr());
    let apps: Vec<JoinHandle<_>> = proxies.cycle().take(4).enumerate().map(start).collect();
    for _ in 0..4 {
        scene.operator("migrations start --from 1 --to 2 --count 24 --wait --yes")?;
        scene.operator("migrations start --from 2 --to 1 --count 24 --wait --yes")?;
    }
    stop.store(true, Ordering::Relaxed);
    for app in apps {
        let (uses, found) = app.join().map_err(|_| anyhow::anyhow!("an application panicked"))??;
        eprintln!("    {uses} uses, {found} of them of a session that was there");
        ensure!(found > uses / 20 && found < uses, "{found} of {uses}: no last moments");
    }
    until("all sessions have ended", LIMIT, || {
        for group in [1, 2] {
            let left = ask(scene.primary(group)?, &["KEYS", "session:*"])?;
            if left != b"*0\r\n" {
                return Ok(Err(format!("group {group} has {}", String::from_utf8_lossy(&left))));
            }
        }
        Ok(Ok(()))
    })?;
    scene.nothing_astray()
}
