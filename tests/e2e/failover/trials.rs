//! Each fault once, with generous bounds: a busy machine schedules observers late.

use crate::scene::{Fault, Scene, turn};
use anyhow::{Result, ensure};
use configsvr::playground::{Options, Playground, ask, find_binary};
use std::process::Command;
use std::time::Duration;

const SOON: Duration = Duration::from_secs(4);

fn say(fault: Fault, seen: &crate::scene::Seen) {
    let phases: Vec<String> = seen.records.iter().map(|r| r["times"].to_string()).collect();
    eprintln!(
        "    {}: gap {:?}, {} acknowledged, {:?}, demoted {:?}, {phases:?}",
        fault.name(),
        seen.gap,
        seen.acked,
        seen.found,
        seen.demoted
    );
}

/// Lost is at most what had not reached a replica yet: milliseconds of seconds.
fn is_only_the_tail(seen: &crate::scene::Seen) -> Result<()> {
    seen.found.must_be_only_lost()?;
    ensure!(seen.found.lost * 20 <= seen.acked, "verdict of the checker: of {} {:?}", seen.acked, seen.found);
    Ok(())
}

fn is_replaced(fault: Fault, limit: Duration) -> Result<()> {
    let _turn = turn();
    let seen = Scene::begin()?.suffer(fault)?;
    say(fault, &seen);
    ensure!(seen.failovers == 1, "{fault:?}: {:?}", seen.records);
    is_only_the_tail(&seen)?;
    ensure!(seen.gap < limit, "{fault:?}: {:?} without a write; {:?}", seen.gap, seen.records);
    Ok(())
}

#[test]
fn a_dead_primary_is_replaced() -> Result<()> {
    is_replaced(Fault::Kill, SOON)
}

/// The next leader goes on where the dead one stood.
#[test]
fn a_dead_primary_is_replaced_although_the_leader_dies() -> Result<()> {
    is_replaced(Fault::WithLeader(250), 2 * SOON)
}

#[test]
fn a_frozen_primary_is_replaced_and_demoted_when_it_wakes() -> Result<()> {
    let _turn = turn();
    let mut scene = Scene::begin()?;
    let seen = scene.suffer(Fault::Freeze(1_000))?;
    say(Fault::Freeze(1_000), &seen);
    seen.found.must_be_only_lost()?;
    ensure!(seen.failovers == 0 && seen.found.none(), "a pause of a second: {:?}, {:?}", seen.records, seen.found);
    for unwell in [Fault::Misconf(3_000), Fault::Busy(2_000), Fault::Loading(2_000), Fault::Hog(2_000)] {
        let seen = scene.suffer(unwell)?;
        say(unwell, &seen);
        seen.found.must_be_none()?;
        ensure!(seen.failovers == 0, "{}: it is unwell, but lives: {:?}", unwell.name(), seen.records);
    }
    let seen = scene.suffer(Fault::Freeze(5_000))?;
    say(Fault::Freeze(5_000), &seen);
    is_only_the_tail(&seen)?;
    ensure!(seen.failovers == 1, "{:?}, {:?}", seen.records, seen.found);
    ensure!(seen.gap < SOON, "{:?} without a write; {:?}", seen.gap, seen.records);
    ensure!(seen.demoted.is_some_and(|took| took < Duration::from_secs(2)), "demoted after {:?}", seen.demoted);
    Ok(())
}

#[test]
fn a_primary_that_restarts_empty_wipes_nobody() -> Result<()> {
    let _turn = turn();
    let mut scene = Scene::begin()?;
    scene.suffer(Fault::Switchover)?; // some keys are there
    let before = scene.keys_of(scene.primary()?)?;
    let seen = scene.suffer(Fault::Empty)?;
    say(Fault::Empty, &seen);
    let after = scene.keys_of(scene.primary()?)?;
    ensure!(seen.failovers == 1, "{:?}, {:?}", seen.records, seen.found);
    // Its successor lacks at most what was on its way at the end; the empty one was given nothing, and asked for nothing.
    seen.found.must_be_only_lost()?;
    ensure!(seen.found.lost <= 8, "{:?}", seen.found);
    ensure!(before > 0 && after >= before, "{before} keys, then {after}");
    Ok(())
}

/// Settings that failover rests on, at every instance, by one command.
#[test]
fn the_doctor_sets_what_is_amiss() -> Result<()> {
    let _turn = turn();
    let scene = Scene::begin()?;
    let said = scene.operator(&["doctor", "--fix"])?;
    ensure!(said.contains("busy-reply-threshold is 500 now"), "{said}");
    for instance in scene.playground.group(1) {
        let found = ask(instance.server.addr(), &["CONFIG", "GET", "busy-reply-threshold"])?;
        ensure!(String::from_utf8_lossy(&found).contains("\r\n500\r\n"), "{found:?}");
    }
    let again = scene.operator(&["doctor"])?;
    ensure!(!again.contains("busy-reply-threshold"), "{again}");
    Ok(())
}

/// The settings that are recommended are ones that a server takes, and all that the doctor asks for.
#[test]
fn recommended_settings_leave_the_doctor_nothing_to_say() -> Result<()> {
    let _turn = turn();
    let recommended = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/../conf/redis.conf"))?;
    let playground =
        Playground::start(Options { configsvrs: 1, redis_conf: recommended.clone(), ..Options::default() })?;
    let dir = playground.dir().display().to_string();
    let said = Command::new(find_binary("twemslotctl")?).args(["--state-dir", &dir, "doctor", "--fix"]).output()?;
    let said = String::from_utf8_lossy(&said.stdout).into_owned();
    for (name, value) in recommended.lines().filter(|line| !line.starts_with('#')).filter_map(|l| l.split_once(' ')) {
        ensure!(!said.contains(name), "{name} {value} is recommended, but the doctor says: {said}");
    }
    ensure!(!said.contains(" is 500 now"), "{said}");
    Ok(())
}

#[test]
fn a_switchover_loses_nothing() -> Result<()> {
    let _turn = turn();
    let mut scene = Scene::begin()?;
    for _ in 0..3 {
        let seen = scene.suffer(Fault::Switchover)?;
        say(Fault::Switchover, &seen);
        ensure!(seen.failovers == 1 && seen.records[0]["kind"] == "switchover", "{:?}", seen.records);
        seen.found.must_be_none()?;
        ensure!(seen.gap < SOON, "{:?} without a write; {:?}", seen.gap, seen.records);
    }
    Ok(())
}
