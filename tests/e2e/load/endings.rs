//! The proxy is told to end.

use super::client::Failure;
use super::crowd::Crowd;
use super::resp::{Connection, Reply, request};
use super::site::Site;
use super::{say, turn};
use anyhow::{Context, Result, ensure};
use configsvr::playground::{http, until};
use nix::sys::signal::Signal;
use std::time::{Duration, Instant};

const DRAIN: &str = "drain_timeout_ms: 3000\n";
const DRAIN_LIMIT: Duration = Duration::from_millis(3000);
/// What a busy machine adds.
const SLACK: Duration = Duration::from_millis(1500);

/// TERM: connections may be closed and new ones refused. What was in flight before is answered first, and nothing that
/// was acknowledged is lost, or done twice. The proxy ends when the last one is answered.
#[test]
fn term_answers_what_is_in_flight() -> Result<()> {
    let _turn = turn();
    let mut site = Site::start(2, DRAIN)?;
    let mut crowd = Crowd::default();
    crowd.add(&site, 8, site.addr()?, &[2]);
    crowd.await_progress(3)?;
    let instance = site.instance(1)?;
    let mut waiting = waiting_clients(&site, 6)?;
    let start = end_begins(&mut site, Signal::SIGTERM)?;
    ensure!(site.playground.proxies()[0].alive(), "it has ended although requests are in flight");
    site.playground.cont_instance(instance)?;
    for (i, connection) in waiting.iter_mut().enumerate() {
        let reply = connection.reply().with_context(|| format!("client {i} was in flight"))?;
        ensure!(reply == Reply::ok(), "client {i} was in flight, and got {reply:?}");
        ensure!(connection.is_over()?, "client {i} got more than it asked for");
    }
    let took = ended(&site, start, DRAIN_LIMIT + SLACK)?;
    say(&format!("TERM: all answered and ended after {took:.1?}"));
    crowd.only("connections", |i| i.failure == Failure::Broken)?;
    site.playground.start_proxy(0)?;
    crowd.await_progress(3)?;
    crowd.only("connections", |i| i.failure == Failure::Broken)?;
    crowd.finish(site.addr()?)?;
    Ok(())
}

/// TERM while an instance is frozen: requests to it may stay without an answer, but the proxy ends in time. QUIT: at
/// once.
#[test]
fn term_is_bounded_and_quit_is_at_once() -> Result<()> {
    let _turn = turn();
    let mut site = Site::start(2, DRAIN)?;
    let instance = site.instance(1)?;
    for (signal, least, most) in [
        (Signal::SIGTERM, DRAIN_LIMIT / 2, DRAIN_LIMIT + SLACK),
        (Signal::SIGQUIT, Duration::ZERO, Duration::from_secs(1)),
    ] {
        let mut waiting = waiting_clients(&site, 4)?;
        let start = end_begins(&mut site, signal)?;
        let took = ended(&site, start, most)?;
        say(&format!("{signal} with requests in flight for ever: ended after {took:.1?}"));
        ensure!(took >= least, "{signal} has not waited for what is in flight");
        for connection in &mut waiting {
            let reply = connection.reply();
            ensure!(!matches!(reply, Ok(Reply::Status(_))), "an answer of nobody: {reply:?}");
        }
        site.playground.cont_instance(instance)?;
        site.playground.start_proxy(0)?;
        let reply = Connection::open(site.addr()?)?.ask(&["PING"])?;
        ensure!(reply == Reply::Status("PONG".to_owned()), "after a new start: {reply:?}");
    }
    Ok(())
}

/// Freezes group 1, which nobody else may use, and sends it a SET from each of some new clients.
fn waiting_clients(site: &Site, count: usize) -> Result<Vec<Connection>> {
    let mut clients = Vec::new();
    for _ in 0..count {
        let mut connection = Connection::open(site.addr()?)?;
        connection.worker()?; // accepted, not only queued
        clients.push(connection);
    }
    site.playground.stop_instance(site.instance(1)?)?;
    for (i, connection) in clients.iter_mut().enumerate() {
        let mut bytes = Vec::new();
        request(&mut bytes, &["SET", &site.tag(1, &format!("waiting{i}")), "value"]);
        connection.send(&bytes)?;
    }
    until("the requests in flight", Duration::from_secs(5), || {
        let n = site.in_flight(1)?;
        Ok(if n >= count as u64 { Ok(()) } else { Err(format!("{n} of {count}")) })
    })?;
    Ok(clients)
}

/// Sends the signal, and waits until the proxy has taken notice of it.
fn end_begins(site: &mut Site, signal: Signal) -> Result<Instant> {
    let (admin, start) = (site.playground.admin_addr()?, Instant::now());
    site.playground.signal_proxy(0, signal)?;
    until("the beginning of the end", Duration::from_secs(5), || {
        let ready = http::get(admin, "/readyz").is_ok_and(|answer| answer.status == 200);
        Ok(if ready { Err("it is ready".to_owned()) } else { Ok(()) })
    })?;
    Ok(start)
}

fn ended(site: &Site, start: Instant, limit: Duration) -> Result<Duration> {
    let proxy = &site.playground.proxies()[0];
    until("the end of the proxy", limit.saturating_sub(start.elapsed()), || {
        Ok(if proxy.alive() { Err("it runs".to_owned()) } else { Ok(start.elapsed()) })
    })
}
