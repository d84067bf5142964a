//! What an operator and the control plane change while clients work.

use super::crowd::Crowd;
use super::probe::{Idle, idle_clients, large_values, newcomers};
use super::resp::{Connection, Reply};
use super::site::Site;
use super::{say, turn};
use anyhow::{Context, Result, ensure};
use configsvr::playground::until;
use nix::sys::signal::Signal;
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
    let large = large_values(site.addr()?, &site.tag(1, "large"))?;
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
    let large = large.found().context("large values")?;
    let requests = crowd.finish(site.addr()?)?;
    say(&format!("{requests} requests, {large} large values"));
    Ok(())
}

/// The number of workers and the listen address change by reload, sometimes while slots are held. Nothing may fail:
/// clients of workers that end are handed over, those of an address that is gone stay, and new ones are served at the
/// new address.
#[test]
fn workers_and_addresses() -> Result<()> {
    let _turn = turn();
    let mut site = Site::start(1, "")?;
    let (first, second) = (site.addr()?, site.other_addr()?);
    let mut crowd = Crowd::start(&site, 8)?;
    let mut idle = idle_clients(first, 20)?;
    let large = large_values(first, &site.tag(1, "large"))?;
    let steps = [(3, first), (3, second), (2, second), (4, first), (1, second), (2, first)];
    let mut at = first;
    for (i, (workers, listen)) in std::iter::repeat_n(steps, 4).flatten().enumerate() {
        let held = i % 3 == 1;
        let start = Instant::now();
        if held {
            site.put(Some((0, 700)), false)?;
        }
        site.reload(&format!("workers: {workers}\nlisten: {listen}\n"))?;
        if held {
            site.put(None, false)?;
        }
        site.await_workers(workers)?;
        let took = start.elapsed();
        ask_at(listen)?;
        if listen != at {
            nobody_at(at)?;
            at = listen;
        }
        if i < 12 {
            crowd.add(&site, 1, at, &site.groups());
            idle.append(&mut idle_clients(at, 5)?);
        }
        crowd.await_progress(5)?;
        crowd.nothing_failed().with_context(|| format!("{workers} workers at {listen}"))?;
        let delays = crowd.delays(&site.groups());
        say(&format!("{workers} workers at {listen} (held: {held}): after {took:.1?}; batches: {delays}"));
    }
    idle.iter_mut().try_for_each(Idle::ping).context("an idle client was lost")?;
    say(&format!("{} large values meanwhile", large.found().context("large values")?));
    ensure!(site.metric("twemslot_proxy_clients_handed_over_total")? > 0.0, "no client was handed over");
    crowd.finish(at)?;
    Ok(())
}

/// The number of workers changes while clients come and go all the time, and another address comes and goes. Nothing
/// may fail: a connection that waits to be accepted is never lost.
#[test]
fn newcomers_meet_no_gap() -> Result<()> {
    let _turn = turn();
    let mut site = Site::start(1, "")?;
    let (first, second) = (site.addr()?, site.other_addr()?);
    let crowds: Vec<_> = (0..4).map(|_| newcomers(first)).collect();
    let both = format!("[\"{first}\", \"{second}\"]");
    for (i, workers) in std::iter::repeat_n([4, 1, 3, 2, 1], 12).flatten().enumerate() {
        let listen = if i % 4 < 2 { &both } else { &first.to_string() };
        site.reload(&format!("workers: {workers}\nlisten: {listen}\n"))?;
        site.await_workers(workers)?;
    }
    let found = crowds.into_iter().map(|probe| probe.found()).collect::<Result<Vec<u64>>>()?;
    say(&format!("newcomers: {found:?}"));
    ensure!(found.iter().all(|&n| n > 50), "few came: {found:?}");
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

/// A new binary takes over in place (USR2), again and again, while clients work and newcomers come. Nothing may fail:
/// same process id, all clients handed over, no connection lost that waits to be accepted.
#[test]
fn new_binaries_take_over() -> Result<()> {
    let _turn = turn();
    let mut site = Site::start(2, "")?;
    let crowd = Crowd::start(&site, 8)?;
    let mut idle = idle_clients(site.addr()?, 20)?;
    let newcomers = newcomers(site.addr()?);
    let large = large_values(site.addr()?, &site.tag(1, "large"))?;
    let master = site.playground.proxy_pid(0)?;
    for round in 0..6 {
        let before: Vec<i32> = site.await_workers(2)?.iter().map(|w| w.pid).collect();
        let start = Instant::now();
        site.playground.signal_proxy(0, Signal::SIGUSR2)?;
        until("new workers alone", Duration::from_secs(30), || {
            // A call that the old image was answering is cut off.
            let Ok(workers) = site.workers() else { return Ok(Err("the admin port does not answer".to_owned())) };
            let new = workers.iter().all(|w| w.live && !before.contains(&w.pid));
            Ok(if new { Ok(()) } else { Err(format!("{workers:?}, were {before:?}")) })
        })?;
        let took = start.elapsed();
        ensure!(site.playground.proxy_pid(0)? == master, "the master has another process id");
        if round % 2 == 0 {
            site.put(Some((0, 700)), false)?;
            site.put(None, false)?;
        }
        crowd.await_progress(3)?;
        crowd.nothing_failed().with_context(|| format!("upgrade {round}"))?;
        say(&format!("upgrade {round}: after {took:.1?}"));
    }
    idle.iter_mut().try_for_each(Idle::ping).context("an idle client was lost")?;
    let (large, came) = (large.found().context("large values")?, newcomers.found()?);
    say(&format!("{came} newcomers, {large} large values meanwhile"));
    crowd.finish(site.addr()?)?;
    Ok(())
}
