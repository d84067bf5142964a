//! Slots are copied between real servers while clients write all there is, and the copy is equal in the end.
//!
//! ```text
//! cargo test -p tests --test mover
//! MOVER_SERVER=/path/to/valkey-server cargo test -p tests --test mover       another server
//! make bench-migration                                                       how fast, one JSON line a kind of value
//! ```

mod client;
mod compare;
mod scene;
mod servers;
mod soak;
mod writers;

use anyhow::{Context, Result, ensure};
use client::Client;
use configsvr::control::job::{Goal, JobLimits, Stage};
use scene::Scene;
use std::time::{Duration, Instant};

#[test]
fn all_types_while_clients_write() -> Result<()> {
    let mut scene = Scene::begin(true, true, JobLimits { value_bytes: 64 << 20, ..JobLimits::default() })?;
    scene.fill(20_000)?;
    scene.fill_big()?;
    let full = scene.full_copies()?;
    let writers = scene.write(2);
    scene.tell(Goal::Copy);
    scene.until_tailing()?;
    scene.run_for(Duration::from_millis(1500))?;
    scene.tell(Goal::Pause);
    scene.run_for(Duration::from_millis(200))?;
    writers.stop()?;
    scene.drained(1)?;
    scene.compare()?;
    assert_eq!(scene.full_copies()?, full, "full copies at the source");
    scene.audited()
}

#[test]
fn connections_break_while_clients_write() -> Result<()> {
    let mut scene = Scene::begin(true, true, JobLimits::default())?;
    scene.fill(20_000)?;
    let full = scene.full_copies()?;
    let writers = scene.write(2);
    scene.tell(Goal::Copy);
    scene.until("the copy's begin", |stage| (*stage != Stage::Purging).then_some(()))?;
    for _ in 0..8 {
        scene.run_for(Duration::from_millis(150))?;
        scene.break_connections()?;
    }
    scene.until_tailing()?;
    // A fence that is given up.
    scene.tell(Goal::Drain { fence: 1 });
    scene.run_for(Duration::from_millis(100))?;
    scene.tell(Goal::Copy);
    scene.run_for(Duration::from_millis(300))?;
    writers.stop()?;
    scene.drained(2)?;
    scene.compare()?;
    assert_eq!(scene.full_copies()?, full, "full copies at the source");
    Ok(())
}

/// A replica that is restarted goes on with the same stream, but its table of keys is another: a cursor of the old one would
/// skip some. The attempt ends, and the next one begins anew.
#[test]
fn the_source_replica_is_restarted() -> Result<()> {
    let mut scene = Scene::begin(true, true, JobLimits { keys_per_s: 500, ..JobLimits::default() })?;
    scene.fill(20_000)?;
    scene.tell(Goal::Copy);
    scene.until("the copy's middle", |stage| (*stage == Stage::Copying).then_some(()))?;
    scene.run_for(Duration::from_millis(500))?;
    scene.source.replica.as_mut().context("a replica")?.restart()?;
    let why = scene.until("the end of the attempt", |stage| match stage {
        Stage::Failed { why } => Some(why.clone()),
        _ => None,
    })?;
    assert!(why.contains("started again"), "{why}");
    scene.again()?;
    scene.until_tailing()?;
    scene.drained(1)?;
    scene.compare()
}

/// No replica and no backlog: the stream comes from the primary, which forks no copy for it.
#[test]
fn a_primary_alone() -> Result<()> {
    let mut scene = Scene::begin(false, false, JobLimits::default())?;
    scene.fill(2_000)?;
    let full = scene.full_copies()?;
    let writers = scene.write(1);
    scene.tell(Goal::Copy);
    scene.until_tailing()?;
    writers.stop()?;
    let replicas = scene.drained(1)?;
    assert_eq!(replicas, 0);
    scene.compare()?;
    assert_eq!(scene.full_copies()?, full, "full copies at the source");
    Ok(())
}

#[test]
fn what_cannot_work_is_refused() -> Result<()> {
    let mut scene = Scene::begin(false, false, JobLimits { value_bytes: 100_000, ..JobLimits::default() })?;
    scene.fill(100)?;
    let key = scene.moving_key("large");
    scene.source.primary.client()?.ask(&[b"PFADD", key.as_bytes(), b"x"])?;
    scene.target.primary.client()?.say("CONFIG SET maxmemory 1mb")?;
    scene.tell(Goal::Copy);
    let why = scene.until("a refusal", |stage| match stage {
        Stage::Hopeless { why } => Some(why.clone()),
        _ => None,
    })?;
    assert!(why.contains("maxmemory"), "{why}");
    Ok(())
}

/// The target's own clients must not suffer for long: what was copied is taken away again.
#[test]
fn a_target_that_fills_up_is_emptied_again() -> Result<()> {
    let mut scene = Scene::begin(false, false, JobLimits { keys_per_s: 100, ..JobLimits::default() })?;
    scene.fill(4_000)?;
    scene.tell(Goal::Copy);
    scene.until("the copy", |stage| (*stage == Stage::Copying).then_some(()))?; // what it had of these slots is gone
    let mut target = scene.target.primary.client()?;
    let copied =
        |target: &mut Client| anyhow::Ok(target.keys()?.iter().filter(|key| !key.starts_with(b"own:")).count());
    let end = Instant::now() + Duration::from_secs(30);
    while copied(&mut target)? < 50 {
        ensure!(Instant::now() < end, "nothing is copied");
    }
    target.say("CONFIG SET maxmemory 1mb")?;
    let why = scene.until("a refusal", |stage| match stage {
        Stage::Hopeless { why } => Some(why.clone()),
        _ => None,
    })?;
    assert!(why.contains("raise its maxmemory"), "{why}");
    assert_eq!(copied(&mut target)?, 0, "copies at the target");
    Ok(())
}
