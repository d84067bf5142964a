//! Messages that are published while their channels' slots move: each subscriber gets each once.

use crate::scene::{LIMIT, Scene, turn};
use anyhow::{Result, ensure};
use configsvr::playground::until;
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

const CHANNELS: usize = 32;

/// What a subscriber has heard, in its order, by channel: which publisher, and its which message.
type Heard = Arc<Mutex<BTreeMap<String, Vec<(usize, u64)>>>>;

/// Publishes to all channels in turn; how many messages each got.
fn publish(proxy: SocketAddr, me: usize, stop: &AtomicBool) -> Result<u64> {
    let mut link = redis::Client::open(format!("redis://{proxy}"))?.get_connection()?;
    let mut round = 0;
    while !stop.load(Ordering::Relaxed) {
        for channel in 0..CHANNELS {
            let heard: u64 =
                redis::cmd("PUBLISH").arg(format!("news:{channel}")).arg(format!("{me} {round}")).query(&mut link)?;
            ensure!(heard >= 1, "verdict of the checker: news:{channel} was published to nobody in round {round}");
        }
        round += 1;
    }
    Ok(round)
}

/// Listens until told to stop: to each channel, or to their pattern.
fn listen(proxy: SocketAddr, pattern: bool, heard: &Heard, ready: &AtomicUsize, stop: &AtomicBool) -> Result<()> {
    let mut link = redis::Client::open(format!("redis://{proxy}"))?.get_connection()?;
    let mut listener = link.as_pubsub();
    if pattern {
        listener.psubscribe("news:*")?;
    } else {
        let channels: Vec<String> = (0..CHANNELS).map(|n| format!("news:{n}")).collect();
        listener.subscribe(channels)?;
    }
    listener.set_read_timeout(Some(Duration::from_millis(100)))?;
    ready.fetch_add(1, Ordering::Relaxed);
    while !stop.load(Ordering::Relaxed) {
        let message = match listener.get_message() {
            Ok(message) => message,
            Err(e) if e.is_timeout() => continue,
            Err(e) => return Err(e.into()),
        };
        let text: String = message.get_payload()?;
        let (who, which) = text.split_once(' ').unwrap_or_default();
        let entry = (who.parse()?, which.parse()?);
        let mut heard = heard.lock().expect("no listener panics");
        heard.entry(message.get_channel_name().to_owned()).or_default().push(entry);
    }
    Ok(())
}

/// Whether each message was heard once; and how many after one that the same publisher sent later.
fn missing(heard: &Heard, rounds: &[u64]) -> Result<usize, String> {
    let heard = heard.lock().expect("no listener panics");
    let mut overtaken = 0;
    for channel in (0..CHANNELS).map(|n| format!("news:{n}")) {
        for (publisher, rounds) in rounds.iter().enumerate() {
            let all = heard.get(&channel).into_iter().flatten();
            let mut mine: Vec<u64> = all.filter(|(who, _)| *who == publisher).map(|(_, which)| *which).collect();
            overtaken += mine.windows(2).filter(|pair| pair[0] > pair[1]).count();
            mine.sort_unstable();
            if !mine.iter().copied().eq(0..*rounds) {
                let lacks: Vec<u64> = (0..*rounds).filter(|n| !mine.contains(n)).take(5).collect();
                return Err(format!(
                    "verdict of the checker: {channel}: {} of {rounds} messages of publisher {publisher}; not {lacks:?}",
                    mine.len()
                ));
            }
        }
    }
    Ok(overtaken)
}

#[test]
fn messages_come_once_while_their_slots_move() -> Result<()> {
    let _turn = turn();
    let scene = Scene::begin(2, 1)?;
    let proxies: Vec<SocketAddr> = scene.playground.proxies().iter().map(|p| p.addr()).collect();
    let (quiet, deaf) = (Arc::<AtomicBool>::default(), Arc::<AtomicBool>::default());
    let ready = Arc::<AtomicUsize>::default();
    let all_heard: Vec<Heard> = (0..2).map(|_| Heard::default()).collect();
    let listeners: Vec<JoinHandle<Result<()>>> = (0..2)
        .map(|n| {
            let (heard, ready, stop) = (Arc::clone(&all_heard[n]), Arc::clone(&ready), Arc::clone(&deaf));
            let proxy = proxies[n];
            std::thread::spawn(move || listen(proxy, n == 1, &heard, &ready, &stop))
        })
        .collect();
    until("both listen", LIMIT, || {
        Ok(if ready.load(Ordering::Relaxed) == 2 { Ok(()) } else { Err("not yet".to_owned()) })
    })?;
    let publishers: Vec<JoinHandle<Result<u64>>> = (0..2)
        .map(|n| {
            let (proxy, stop) = (proxies[n], Arc::clone(&quiet));
            std::thread::spawn(move || publish(proxy, n, &stop))
        })
        .collect();

    let moved = crate::counts::move_about(&scene);
    quiet.store(true, Ordering::Relaxed);
    let rounds = publishers.into_iter().map(|p| p.join().map_err(|_| anyhow::anyhow!("panicked"))?);
    let rounds = rounds.collect::<Result<Vec<u64>>>()?;
    moved?;
    let mut overtaken = 0;
    for heard in &all_heard {
        overtaken += until("each message was heard once", Duration::from_secs(20), || Ok(missing(heard, &rounds)))?;
    }
    deaf.store(true, Ordering::Relaxed);
    for listener in listeners {
        listener.join().map_err(|_| anyhow::anyhow!("panicked"))??;
    }
    eprintln!("    {rounds:?} rounds of {CHANNELS} messages to two listeners, {overtaken} overtaken");
    ensure!(rounds.iter().all(|rounds| *rounds > 50), "published {rounds:?} rounds");
    scene.nothing_astray()
}
