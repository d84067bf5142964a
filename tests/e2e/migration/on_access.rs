//! Slots that move on access, with `MIGRATE` of a stock server: nothing is lost, done twice or out of order while keys are at
//! both sides; also when a proxy or the leader is killed in between. `CODIS_SERVER=path`: the same between two servers of Codis.

use crate::scene::{LIMIT, SLOTS, Scene, turn};
use anyhow::{Context, Result, ensure};
use configsvr::playground::until;
use std::time::Duration;

const START: &str = "migrations start --mode on-access --from 1 --to 2";

/// To and fro under load; what nobody uses comes by itself.
#[test]
fn slots_move_on_access_while_clients_write() -> Result<()> {
    let _turn = turn();
    let mut scene = Scene::begin(2, 1)?;
    let load = scene.load();
    scene.operator(&format!("{START} --count 12 --wait --yes"))?;
    ensure!(scene.owned(2)? == usize::from(SLOTS) / 2 + 12, "group 2 owns {} slots", scene.owned(2)?);
    scene.operator("migrations reverse 1 --wait --yes")?;
    // Slowly: most keys move because somebody uses them.
    let id = scene.begun(&format!("{START} --count 8 --keys-per-s 100"))?[0];
    scene.until_it(id, &["fetch"])?;
    let refused = scene.operator(&format!("migrations cancel {id}")).err().context("it was cancelled")?.to_string();
    ensure!(refused.contains("let it end"), "{refused}");
    scene.operator(&format!("migrations pause {id}"))?;
    std::thread::sleep(Duration::from_millis(500)); // while clients write
    let shown = scene.operator("slots list")?;
    ensure!(shown.contains("moving -> 2"), "{shown}");
    scene.operator(&format!("migrations resume {id}"))?;
    scene.operator(&format!("migrations limit {id} --keys-per-s 0"))?;
    let done = scene.until_it(id, &["done"])?;
    let seen = scene.judge(load)?;
    eprintln!("    {} acknowledged, longest {} ms, {}", seen.acked, seen.longest_ms, done["tally"]);
    seen.found.must_be_none()?;
    ensure!(seen.failed == 0, "{} failed", seen.failed);
    ensure!(done["audit"].is_null(), "something was left: {done}");
    // A plan's moves go the same way.
    let said = scene.operator("rebalance --mode on-access --wait --yes --json")?;
    let moved: serde_json::Value = serde_json::from_str(&said)?;
    let right = |m: &serde_json::Value| m["mode"] == "on_access" && m["phase"] == "done";
    ensure!(moved.as_array().is_some_and(|all| !all.is_empty() && all.iter().all(right)), "{moved}");
    scene.nothing_astray()
}

/// The servers' own way: SLOTSMGRTTAGONE. `make codis-test CODIS_SERVER=PATH`.
#[test]
fn slots_of_codis_servers_move_on_access() -> Result<()> {
    let Some(server) = std::env::var_os("CODIS_SERVER") else { return Ok(()) };
    let _turn = turn();
    let mut scene = Scene::of_servers(server.into())?;
    let load = scene.load_of(false);
    for words in ["", " --keys-per-s 300"] {
        let id = scene.begun(&format!("{START} --count 8{words}"))?[0];
        let done = scene.until_it(id, &["done"])?;
        eprintln!("    {}", done["tally"]);
        scene.operator(&format!("migrations reverse {id} --wait --yes"))?;
    }
    let seen = scene.judge(load)?;
    eprintln!("    {} acknowledged, longest {} ms, {} failed", seen.acked, seen.longest_ms, seen.failed);
    seen.found.must_be_none()?;
    scene.nothing_astray()
}

/// The next leader knows from the record where it stands.
#[test]
fn the_leader_is_killed_while_keys_move() -> Result<()> {
    let _turn = turn();
    let mut scene = Scene::begin(2, 3)?;
    for phase in ["copy", "fence", "fetch"] {
        let load = scene.load();
        let id = scene.begun(&format!("{START} --count 8 --keys-per-s 300"))?[0];
        let leader = scene.leader()?;
        scene.until_it(id, &[phase, "fetch", "done"])?;
        scene.playground.kill_configsvr(leader)?;
        scene.playground.start_configsvr(leader)?;
        scene.until_it(id, &["done"]).context(phase)?;
        let seen = scene.judge(load)?;
        seen.found.must_be_none().context(phase)?;
        ensure!(seen.failed == 0, "{phase}: {} failed", seen.failed);
        scene.nothing_astray().context(phase)?;
        scene.operator(&format!("migrations reverse {id} --wait --yes"))?;
    }
    Ok(())
}

/// What it had asked for is done or not; the key is at one side, or the target's is the one that counts.
#[test]
fn a_proxy_is_killed_while_keys_move() -> Result<()> {
    let _turn = turn();
    let mut scene = Scene::begin(2, 1)?;
    let load = scene.load();
    let id = scene.begun(&format!("{START} --count 8 --keys-per-s 300"))?[0];
    scene.until_it(id, &["fetch"])?;
    for _ in 0..2 {
        scene.playground.kill_proxy(1)?;
        scene.playground.start_proxy(1)?;
        std::thread::sleep(Duration::from_millis(300)); // some of its clients are back
    }
    scene.until_it(id, &["done"])?;
    scene.judge(load)?.found.must_be_none()?;
    scene.nothing_astray()
}

/// The slots are held meanwhile; then it goes on from and to whoever is primary. What no replica had heard of may be gone, or
/// back: nothing else, and the migration ends.
#[test]
fn a_primary_dies_while_keys_move() -> Result<()> {
    let _turn = turn();
    let mut scene = Scene::begin(2, 1)?;
    for group in [1, 2] {
        let load = scene.load_of(false);
        let id = scene.begun(&format!("{START} --count 8 --keys-per-s 200"))?[0];
        let old = scene.primary(group)?;
        scene.until_it(id, &["fetch"])?;
        scene.playground.kill_instance(old)?;
        until("another primary", LIMIT, || {
            let now = scene.primary(group)?;
            Ok(if now == old { Err(scene.told()) } else { Ok(()) })
        })?;
        scene.playground.start_instance(old)?;
        scene.until_it(id, &["done"]).with_context(|| format!("group {group}"))?;
        scene.judge(load)?.found.must_be_only_lost().with_context(|| format!("group {group}"))?;
        scene.operator(&format!("migrations reverse {id} --wait --yes"))?;
    }
    Ok(())
}
