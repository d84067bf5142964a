//! Processes die and freeze.

use super::client::{Failure, Incident};
use super::crowd::{Crowd, error_of};
use super::site::{Site, Worker};
use super::{say, turn};
use anyhow::{Context, Result, ensure};
use cluster::group::GroupId;
use configsvr::playground::until;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::collections::BTreeSet;
use std::thread::sleep;
use std::time::{Duration, Instant};

/// A worker that was killed is back; the promise is 100 ms, this is for a machine on which much else runs.
const RESPAWN_LIMIT: Duration = Duration::from_secs(2);
/// A request to an instance that is gone fails at once.
const ERROR_LIMIT: Duration = Duration::from_secs(2);
/// After an instance is back, its group works.
const RECOVERY_LIMIT: Duration = Duration::from_secs(3);
/// `request_timeout_ms`, with what a busy machine adds.
const TIMEOUT_LIMIT: Duration = Duration::from_secs(7);

/// Each worker is killed in turn. Connections of that worker may break. Nothing else: clients of the other workers
/// notice nothing, the worker is back in time, and what was acknowledged is there, once.
#[test]
fn killed_workers() -> Result<()> {
    let _turn = turn();
    let site = Site::start(3, "")?;
    let mut crowd = Crowd::start(&site, 12)?;
    for worker in 0..3 {
        while crowd.at_worker(worker) < 2 {
            crowd.add(&site, 1, site.addr()?, &site.groups());
            crowd.await_progress(1)?; // only then it knows its worker
        }
    }
    crowd.nothing_failed()?;
    for worker in [0, 1, 2, 0, 1, 2] {
        let served = crowd.at_worker(worker);
        crowd.delays(&site.groups());
        let took = kill_worker(&site, worker)?;
        crowd.await_progress(10)?;
        let broken =
            crowd.only("connections of the killed worker", |i| i.worker == worker && i.failure == Failure::Broken)?;
        let who: BTreeSet<usize> = broken.iter().map(|i| i.client).collect();
        ensure!((who.len(), broken.len()) == (served, served), "worker {worker} had {served} clients: {broken:?}");
        let delays = crowd.delays(&site.groups());
        say(&format!("worker {worker} killed: {served} clients broke, back after {took:.0?}; batches: {delays}"));
        ensure!(took <= RESPAWN_LIMIT, "worker {worker} was back only after {took:?}");
    }
    ensure!(site.metric("twemslot_proxy_worker_respawns_total")? == 6.0, "not counted");
    let requests = crowd.finish(site.addr()?)?;
    say(&format!("{requests} requests"));
    Ok(())
}

/// Kills it; gives how long it took until its successor serves.
fn kill_worker(site: &Site, index: u32) -> Result<Duration> {
    let old = site.worker_pid(index)?;
    let start = Instant::now();
    kill(Pid::from_raw(old), Signal::SIGKILL)?;
    let back = |w: &Worker| w.index == index && w.live && w.pid != old && w.serving > 0;
    until("the successor of a killed worker", Duration::from_secs(15), || {
        let workers = site.workers()?;
        Ok(if workers.iter().any(back) { Ok(start.elapsed()) } else { Err(format!("{workers:?}")) })
    })
}

/// Instances are killed and started again. Requests to their group may fail with our errors, which say whether
/// anything was done, and come soon. Nothing else: no connection breaks, the other group's requests never fail, all
/// works soon after the start, and what was acknowledged is there, once.
#[test]
fn killed_instances() -> Result<()> {
    let _turn = turn();
    let mut site = Site::start(2, "")?;
    let crowd = mixed_crowd(&site)?;
    for group in [1, 2, 1] {
        let instance = site.instance(group)?;
        let others: Vec<GroupId> = site.groups().into_iter().filter(|&g| g != group).collect();
        crowd.delays(&others);
        site.playground.kill_instance(instance)?;
        crowd.await_progress_within(30, &others)?;
        site.playground.start_instance(instance)?;
        let (failed, took) = until_well(&crowd, error_of(group, ERROR_LIMIT))?;
        let unknown = failed.iter().filter(|i| i.failure == Failure::Unknown).count();
        let [ours, whole] = [Some(group), None].map(|g| failed.iter().filter(|i| i.group == g).count());
        say(&format!(
            "group {group} killed: {ours} requests failed, {whole} split ones, {unknown} outcomes unknown; all well {took:.1?} after its start; others: {}",
            crowd.delays(&others)
        ));
        ensure!(ours > 0, "the load did not meet the fault");
        ensure!(took <= RECOVERY_LIMIT, "well again only {took:?} after the start");
        crowd.await_progress(10)?;
        crowd.nothing_failed().context("after all was well")?;
    }
    crowd.finish(site.addr()?)?;
    Ok(())
}

/// Waits until nothing fails any more; gives what failed until then, which must be allowed, and how long it took.
fn until_well(crowd: &Crowd, allowed: impl Fn(&Incident) -> bool) -> Result<(Vec<Incident>, Duration)> {
    let start = Instant::now();
    let mut failed = Vec::new();
    loop {
        let since = start.elapsed();
        crowd.await_progress(5)?; // each client meets each of its groups meanwhile
        let more = crowd.only("requests of the group at fault", &allowed)?;
        if more.is_empty() {
            return Ok((failed, since));
        }
        failed.extend(more);
        ensure!(start.elapsed() < RECOVERY_LIMIT * 3, "things still fail: {:?}", failed.last());
    }
}

/// Clients that speak with both groups, and some for each that speak with it alone.
fn mixed_crowd(site: &Site) -> Result<Crowd> {
    let mut crowd = Crowd::start(site, 8)?;
    for group in site.groups() {
        crowd.add(site, 4, site.addr()?, &[group]);
    }
    crowd.await_progress(3)?;
    Ok(crowd)
}

/// An instance freezes for a second. Nothing may fail.
///
/// Then for longer than a request may take. Requests to its group may be answered with our timeout; nothing else: no
/// connection breaks, the other group's requests never fail, and late replies go to nobody.
#[test]
fn frozen_instances() -> Result<()> {
    let _turn = turn();
    let site = Site::start(2, "request_timeout_ms: 5000\n")?;
    let crowd = mixed_crowd(&site)?;
    let (frozen, other) = (1, 2);
    crowd.delays(&[other]);
    freeze(&site, frozen, Duration::from_secs(1))?;
    crowd.await_progress(5)?;
    crowd.nothing_failed().context("after one second")?;
    say(&format!("group {frozen} frozen for 1 s; the other: {}", crowd.delays(&[other])));

    freeze(&site, frozen, Duration::from_secs(7))?;
    let is_timeout = |i: &Incident| i.text.contains("did not answer within 5000 ms");
    let expected = error_of(frozen, TIMEOUT_LIMIT);
    let (failed, _) = until_well(&crowd, |i| is_timeout(i) && expected(i))?;
    let delays = crowd.delays(&[other]);
    say(&format!("group {frozen} frozen for 7 s: {} timeouts; the other: {delays}", failed.len()));
    ensure!(!failed.is_empty(), "the load did not meet the fault");
    ensure!(delays.percentile(99) < Duration::from_millis(500), "the other group was slow");
    crowd.await_progress(10)?;
    crowd.nothing_failed().context("after the thaw")?;
    crowd.finish(site.addr()?)?;
    Ok(())
}

fn freeze(site: &Site, group: GroupId, time: Duration) -> Result<()> {
    let instance = site.instance(group)?;
    site.playground.stop_instance(instance)?;
    sleep(time);
    site.playground.cont_instance(instance)
}
