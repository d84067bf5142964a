//! Each fault once, with generous bounds: a busy machine schedules everybody late.

use crate::scene::{LIMIT, SLOTS, Scene, turn};
use anyhow::{Context, Result, ensure};
use configsvr::playground::{ask, until};
use nix::sys::signal::Signal;
use serde_json::Value;
use std::fs;
use std::path::Path;
use std::time::Duration;

/// To and fro, one migration after the other, then a group is emptied and filled again.
#[test]
fn slots_move_while_clients_write() -> Result<()> {
    let _turn = turn();
    let mut scene = Scene::begin(3, 1)?;
    let (mut listener, heard) = scene.listener()?;
    let load = scene.load();
    // Loaded where the slots are, as before another group joined: it goes with them.
    let code = "#!lua name=early\nredis.register_function('early', function() return 'found' end)";
    ask(scene.primary(1)?, &["FUNCTION", "LOAD", code])?;
    scene.operator("migrations start --from 1 --to 2 --count 12 --wait --yes")?;
    let said = ask(scene.primary(2)?, &["FCALL", "early", "0"])?;
    ensure!(said == b"$5\r\nfound\r\n", "a function at its slots' new owner: {}", String::from_utf8_lossy(&said));
    scene.operator("migrations reverse 1 --wait --yes")?;
    scene.operator("groups drain 3 --wait --yes")?;
    ensure!(scene.owned(3)? == 0, "group 3 owns {} slots", scene.owned(3)?);
    scene.operator("rebalance --wait --yes")?;
    let seen = scene.judge(load)?;
    let all = scene.get("/api/v1/migrations")?;
    let pauses: Vec<&Value> = all.as_array().into_iter().flatten().map(|m| &m["tally"]["pause_ms"]).collect();
    eprintln!("    {} acknowledged, longest {} ms, pauses {pauses:?}", seen.acked, seen.longest_ms);
    for one in all.as_array().into_iter().flatten() {
        let found = |what: &str| one["audit"][what].as_u64();
        ensure!(found("compared") > Some(0) && found("missing") == Some(0) && found("different") == Some(0), "{one}");
    }
    seen.found.must_be_none()?;
    listener.kill()?;
    listener.wait()?;
    told(&heard, 1, &["are to move", "gets a copy", "are held", "owns the slots", "is done"])?;
    ensure!(seen.failed == 0, "{} failed", seen.failed);
    for group in 1..=3 {
        let owned = scene.owned(group)?;
        ensure!(owned.abs_diff(usize::from(SLOTS) / 3) <= 1, "group {group} owns {owned} slots");
    }
    scene.nothing_astray()
}

/// What a listener heard of a migration, in its order.
fn told(heard: &Path, id: u64, steps: &[&str]) -> Result<()> {
    let (text, subject) = (fs::read_to_string(heard)?, id.to_string());
    let news = text.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    let its = news.filter(|news| news["kind"] == "migration" && news["subject"] == subject.as_str());
    let messages: Vec<String> = its.map(|news| news["message"].to_string()).collect();
    let fits = messages.len() == steps.len() && messages.iter().zip(steps).all(|(m, step)| m.contains(step));
    ensure!(fits, "of migration {id} there are {steps:?} to tell: {messages:?}");
    Ok(())
}

/// In the copy, at the fence, and when all is committed.
#[test]
fn the_next_leader_goes_on_from_wherever_it_stood() -> Result<()> {
    let _turn = turn();
    let mut scene = Scene::begin(2, 3)?;
    for phases in [["copying", "tailing"], ["fence", "clean"], ["clean", "done"]] {
        let load = scene.load();
        let id = scene.begun("migrations start --from 1 --to 2 --count 8")?[0];
        let leader = scene.leader()?;
        // Too quick for the eye: then it is killed after it.
        scene.until_it(id, &[phases[0], phases[1], "done"])?;
        scene.playground.kill_configsvr(leader)?;
        scene.playground.start_configsvr(leader)?;
        let done = scene.until_it(id, &["done"])?;
        // What clients wrote since is known to whoever compares both sides, also to a leader that saw nothing of the copy.
        ensure!(done["audit"]["told_apart"] == true, "{phases:?}: {done}");
        let seen = scene.judge(load)?;
        seen.found.must_be_none()?;
        ensure!(seen.failed == 0, "{phases:?}: {} failed", seen.failed);
        scene.nothing_astray()?;
        scene.operator(&format!("migrations reverse {id} --wait --yes"))?;
    }
    Ok(())
}

/// The copy begins anew, from and to whoever is primary then.
#[test]
fn a_primary_dies_in_the_middle() -> Result<()> {
    let _turn = turn();
    let mut scene = Scene::begin(2, 1)?;
    for group in [1, 2] {
        let load = scene.load_of(false);
        let (id, old) =
            (scene.begun("migrations start --from 1 --to 2 --count 8 --keys-per-s 200")?[0], scene.primary(group)?);
        scene.until_it(id, &["copying", "tailing"])?;
        scene.playground.kill_instance(old)?;
        until("another primary", LIMIT, || {
            let now = scene.primary(group)?;
            Ok(if now == old { Err(scene.told()) } else { Ok(()) })
        })?;
        scene.playground.start_instance(old)?;
        scene.until_it(id, &["done"])?;
        let seen = scene.judge(load)?;
        seen.found.must_be_only_lost()?;
        scene.nothing_astray()?;
        scene.operator(&format!("migrations reverse {id} --wait --yes"))?;
    }
    Ok(())
}

/// Whoever is only read from, listened to, or told: the copy goes on without it, or begins anew.
#[test]
fn others_die_in_the_middle() -> Result<()> {
    let _turn = turn();
    let mut scene = Scene::begin(2, 1)?;
    for (who, group) in [("the source's replica", 1), ("the target's replica", 2)] {
        let load = scene.load();
        let primary = scene.primary(group)?;
        let replica = scene.playground.group(group).map(|i| i.server.addr()).find(|addr| *addr != primary);
        let replica = replica.context("a replica")?;
        let id = scene.begun("migrations start --from 1 --to 2 --count 8 --keys-per-s 400")?[0];
        scene.until_it(id, &["copying", "tailing"])?;
        scene.playground.kill_instance(replica)?;
        scene.playground.start_instance(replica)?;
        scene.until_it(id, &["done"]).context(who)?;
        let seen = scene.judge(load)?;
        seen.found.must_be_none().context(who)?;
        ensure!(seen.failed == 0, "{who}: {} failed", seen.failed);
        scene.nothing_astray().context(who)?;
        scene.operator(&format!("migrations reverse {id} --wait --yes"))?;
    }
    // A proxy: what was in flight there has no answer; nothing changes hands before it is back, or is given up.
    let load = scene.load();
    let id = scene.begun("migrations start --from 1 --to 2 --count 8 --keys-per-s 400")?[0];
    scene.until_it(id, &["copying", "tailing"])?;
    scene.playground.kill_proxy(1)?;
    scene.playground.start_proxy(1)?;
    scene.until_it(id, &["done"])?;
    let seen = scene.judge(load)?;
    seen.found.must_be_none()?;
    scene.nothing_astray()
}

/// Nothing changes hands before every proxy has said that nothing is in flight.
#[test]
fn a_frozen_proxy_is_waited_for() -> Result<()> {
    let _turn = turn();
    let mut scene = Scene::begin(2, 1)?;
    let load = scene.load();
    let id = scene.begun("migrations start --from 1 --to 2 --count 8 --keys-per-s 200")?[0];
    scene.until_it(id, &["copying", "tailing"])?;
    let pids: Vec<i32> = scene.playground.worker_pids(1)?.into_iter().chain([scene.playground.proxy_pid(1)?]).collect();
    let signal =
        |signal| pids.iter().try_for_each(|pid| nix::sys::signal::kill(nix::unistd::Pid::from_raw(*pid), signal));
    signal(Signal::SIGSTOP)?;
    let opened = until("the fence was opened again", LIMIT, || {
        let now = scene.migration(id)?;
        let note = now["note"].as_str().unwrap_or_default().to_owned();
        ensure!(now["phase"] != "clean" && now["phase"] != "done", "it went on without proxy-2: {now}");
        Ok(if note.contains("proxy-2") { Ok(now) } else { Err(now.to_string()) })
    });
    signal(Signal::SIGCONT)?;
    opened?;
    let done = scene.until_it(id, &["done"])?;
    ensure!(done["fences"].as_u64() > Some(1), "{done}");
    let seen = scene.judge(load)?;
    seen.found.must_be_none()?;
    scene.nothing_astray()
}

#[test]
fn a_cancelled_one_leaves_nothing_behind() -> Result<()> {
    let _turn = turn();
    let mut scene = Scene::begin(2, 1)?;
    let load = scene.load();
    let id = scene.begun("migrations start --from 1 --to 2 --count 8 --keys-per-s 200")?[0];
    scene.until_it(id, &["copying", "tailing"])?;
    scene.operator(&format!("migrations pause {id}"))?;
    std::thread::sleep(Duration::from_millis(500)); // while clients write
    let paused = scene.migration(id)?;
    ensure!(paused["phase"] == "copy", "it goes on although it is paused: {paused}");
    scene.operator(&format!("migrations cancel {id}"))?;
    scene.until_it(id, &["cancelled"])?;
    let seen = scene.judge(load)?;
    seen.found.must_be_none()?;
    ensure!(seen.failed == 0, "{} failed", seen.failed);
    ensure!(scene.owned(1)? == usize::from(SLOTS) / 2, "group 1 owns {} slots", scene.owned(1)?);
    scene.nothing_astray()
}
