//! What an operator and the control plane change while clients work.

use super::crowd::Crowd;
use super::probe::{Idle, idle_clients};
use super::resp::{Connection, Reply};
use super::site::Site;
use super::{say, turn};
use anyhow::{Context, Result, ensure};
use configsvr::playground::until;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

const ROUNDS: u16 = 200;

/// The configuration is reloaded 200 times, with settings that differ, and 200 topologies are put, in which slots are
/// held and released. Nothing may fail: no error, no broken connection, nothing lost or reordered, and every call
/// returns 200 with all workers.
#[test]
fn reloads_and_topologies() -> Result<()> {
    let _turn = turn();
    let mut site = Site::start(3, "")?;
    let crowd = Crowd::start(&site, 12)?;
    let (start, mut held_longest) = (Instant::now(), Duration::ZERO);
    for round in 0..ROUNDS {
        site.reload(&format!("workers: 3\nclient_in_flight_max: {}\nlink_ping_ms: {}\n", 512 + round, 500 + round))?;
        let held = round % 2 == 0;
        let from = round * 5 % 960;
        // Most of the clients' slots are held at some time; all are now and then.
        let range = if round % 20 == 0 { (0, 1023) } else { (from, from + 63) };
        let took = site.put(held.then_some(range), round % 4 == 0)?;
        held_longest = held_longest.max(took);
        crowd.nothing_failed().with_context(|| format!("round {round}"))?;
    }
    crowd.await_progress(5)?;
    crowd.nothing_failed()?;
    let delays = crowd.delays(&site.groups());
    say(&format!("{ROUNDS} rounds in {:.1?}, longest PUT {held_longest:.1?}; batches: {delays}", start.elapsed()));
    ensure!(site.metric("twemslot_proxy_requests_held_total")? > 0.0, "the load did not meet a held slot");
    let requests = crowd.finish(site.addr()?)?;
    say(&format!("{requests} requests"));
    Ok(())
}

/// The number of workers and the listen address change by reload. Nothing may fail: clients of workers that end are
/// handed over, those of an address that is gone stay, and new ones are served at the new address.
#[test]
fn workers_and_addresses() -> Result<()> {
    let _turn = turn();
    let mut site = Site::start(1, "")?;
    let (first, second) = (site.addr()?, site.other_addr()?);
    let mut crowd = Crowd::start(&site, 8)?;
    let mut idle = idle_clients(first, 20)?;
    let mut at = first;
    let steps = [(3, first), (3, second), (2, second), (4, first), (1, second), (2, first)];
    for (workers, listen) in steps.into_iter().chain(steps) {
        let start = Instant::now();
        site.reload(&format!("workers: {workers}\nlisten: {listen}\n"))?;
        site.await_workers(workers)?;
        let took = start.elapsed();
        ask_at(listen)?;
        if listen != at {
            nobody_at(at)?;
            at = listen;
        }
        crowd.add(&site, 1, at, &site.groups());
        idle.append(&mut idle_clients(at, 5)?);
        crowd.await_progress(5)?;
        crowd.nothing_failed().with_context(|| format!("{workers} workers at {listen}"))?;
        say(&format!("{workers} workers at {listen}: after {took:.1?}; batches: {}", crowd.delays(&site.groups())));
        ensure!(site.workers()?.len() == workers, "another number of workers");
    }
    idle.iter_mut().try_for_each(Idle::ping).context("an idle client was lost")?;
    ensure!(site.metric("twemslot_proxy_clients_handed_over_total")? > 0.0, "no client was handed over");
    crowd.finish(at)?;
    Ok(())
}

fn ask_at(addr: SocketAddr) -> Result<()> {
    let reply = Connection::open(addr)?.ask(&["PING"])?;
    ensure!(reply == Reply::Status("PONG".to_owned()), "{addr} answered {reply:?}");
    Ok(())
}

fn nobody_at(addr: SocketAddr) -> Result<()> {
    until(&format!("the end of {addr}"), Duration::from_secs(5), || {
        Ok(if Connection::open(addr).is_err() { Ok(()) } else { Err("it accepts".to_owned()) })
    })
}
