//! Plans that go by what was measured, and groups that come and go, each with one command.

use crate::scene::{LIMIT, SLOTS, Scene, turn};
use anyhow::{Context, Result, ensure};
use cluster::slot::{TagRule, slot_of};
use configsvr::playground::{ask, find_binary, http, until};
use serde_json::Value;
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, SystemTime};

/// Keys that lie in few slots of one group.
const SKEWED: usize = 9_000;
/// Slots that nearly all requests are for.
const HOT: usize = 9;

#[test]
fn what_was_measured_is_spread() -> Result<()> {
    let _turn = turn();
    let scene = Scene::begin(3, 1)?;
    skew(&scene)?;
    let plan: Value = serde_json::from_str(&scene.operator("rebalance --by keys --dry-run --json")?)?;
    let samples = plan["measured"]["samples"].as_array().context("no samples")?;
    ensure!(
        samples.len() == 3
            && samples.iter().all(|s| s["primary"] == false && s["scanned"].as_u64() >= s["keys"].as_u64()),
        "{plan}"
    );
    ensure!(plan["estimate"]["keys"].as_u64() > Some(3_000) && plan["estimate"]["bytes"].as_u64() > Some(0), "{plan}");
    let room = plan["room"].as_array().context("no room")?;
    ensure!(
        room.len() >= 2 && room.iter().all(|r| r["enough"] == true && r["used_bytes"].as_u64() > Some(0)),
        "{plan}"
    );
    scene.operator("rebalance --by keys --wait --yes")?;
    even(&keys(&scene)?)?;
    scene.nothing_astray()?;

    let hot = Hot::begin(&scene)?;
    // What is counted in two seconds of a busy machine may be uncommon: an operator looks again.
    until("requests are even", LIMIT, || {
        let plan = scene.operator("rebalance --by ops --seconds 2 --dry-run")?;
        scene.operator("rebalance --by ops --seconds 2 --wait --yes")?;
        let seen = even(&ops(&scene)?);
        Ok(seen.map_err(|why| format!("{why} after\n{plan}")))
    })?;
    hot.end()?;
    scene.nothing_astray()?;

    // A copy that would take minutes is told in its middle that it need not.
    let words =
        format!("migrations start --from 1 --to 2 --count 4 --keys-per-s 1 --no-audit --window {}", hours(23, 2));
    let id = scene.begun(&words)?[0];
    scene.until_it(id, &["copying"])?;
    scene.operator(&format!("migrations limit {id} --keys-per-s 0"))?;
    let done = scene.until_it(id, &["done"])?;
    ensure!(done["skip_audit"] == true && done["audit"].is_null(), "{done}");
    no_room(&scene)?;
    // It is not its time.
    let id = scene.begun(&format!("migrations start --from 1 --to 2 --count 1 --window {}", hours(2, 3)))?[0];
    std::thread::sleep(Duration::from_millis(500)); // nothing is to happen
    let waiting = scene.migration(id)?;
    ensure!(waiting["phase"] == "waiting", "{waiting}");
    scene.operator(&format!("migrations cancel {id}"))?;
    // A plan is for the topology that it was made for.
    let dry = |epoch: &Value| format!(r#"{{"moves":[{{"from":2,"to":1,"count":1}}],"epoch":{epoch}}}"#);
    let member = scene.playground.configsvrs()[0].addr();
    let old = http::post(member, "/api/v1/migrations?dry_run=true", &dry(&plan["epoch"]))?;
    ensure!(old.status == 409 && old.body.contains("plan_outdated"), "{}", old.body);
    begun_once(&scene, member)
}

/// Whoever lost the answer asks again: nothing is begun twice, and what was begun is told.
fn begun_once(scene: &Scene, member: SocketAddr) -> Result<()> {
    let window = hours(2, 3); // once: an hour may end here
    let apply = |key: &str, weights: &str| {
        let body = format!(r#"{{"weights":{weights},"apply":true,"window":"{window}"}}"#);
        http::call("POST", member, "/api/v1/rebalance", &[("idempotency-key", key)], &body, LIMIT)
    };
    let first = apply("lost", r#"{"1":0}"#)?;
    let again = apply("lost", r#"{"1":0}"#)?;
    ensure!((first.status, again.status) == (200, 200), "{} {}", first.body, again.body);
    let (first, again) = (first.json()?, again.json()?);
    let begun = first["begun"].as_array().context("begun")?;
    ensure!(!begun.is_empty() && first["repeated"] == false && again["repeated"] == true, "{first}, then {again}");
    ensure!(
        first["begun"] == again["begun"] && first["balance"]["moves"] == again["balance"]["moves"],
        "{first}, then {again}"
    );
    let other = apply("lost", r#"{"2":0}"#)?;
    ensure!(other.status == 409 && other.body.contains("key_reused"), "{}", other.body);
    for id in begun {
        scene.operator(&format!("migrations cancel {id}"))?;
    }
    Ok(())
}

/// Where there is no room nothing is begun, or it stops before anything is copied.
fn no_room(scene: &Scene) -> Result<()> {
    let target = scene.primary(3)?;
    ask(target, &["CONFIG", "SET", "maxmemory", "1mb"])?;
    let body = r#"{"weights":{"1":0},"givers":[1],"takers":[3],"apply":true}"#;
    let refused = http::post(scene.playground.configsvrs()[0].addr(), "/api/v1/rebalance", body)?;
    ensure!(refused.status == 422 && refused.body.contains("no_room"), "{}", refused.body);
    let id = scene.begun("migrations start --from 1 --to 3 --count 1")?[0];
    until("it says what is missing", LIMIT, || {
        let now = scene.migration(id)?;
        let told = now["paused"] == true && now["note"].as_str().is_some_and(|note| note.contains("its maxmemory"));
        Ok(if told { Ok(()) } else { Err(now.to_string()) })
    })?;
    ask(target, &["CONFIG", "SET", "maxmemory", "0"])?;
    scene.operator(&format!("migrations resume {id} --force"))?;
    scene.until_it(id, &["done"])?;
    Ok(())
}

/// From so many hours from now to so many hours from now, of the day.
fn hours(from: u64, to: u64) -> String {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(0, |d| d.as_secs()) / 3600;
    format!("{:02}:00-{:02}:00", (now + from) % 24, (now + to) % 24)
}

/// A group goes and comes again while clients write; whoever asked for it is killed in the middle, and asks again.
#[test]
fn a_group_goes_and_comes_with_one_command_each() -> Result<()> {
    let _turn = turn();
    let mut scene = Scene::begin(3, 1)?;
    let load = scene.load();
    let instances: Vec<String> = scene.playground.group(3).map(|i| i.server.addr().to_string()).collect();
    let [primary, replica] = &instances[..] else { anyhow::bail!("{instances:?}") };
    let slowly = "groups drain 3 --remove --yes --keys-per-s 500";
    broken_off(&scene, slowly, |scene| Ok(scene.owned(3)? < usize::from(SLOTS) / 3))?;
    if groups(&scene)? == 3 {
        scene.operator("groups drain 3 --remove --yes")?; // else it was quicker than who looked on
    }
    ensure!(groups(&scene)? == 2, "{} groups", groups(&scene)?);
    let add = format!("groups add --primary {primary} --replica {replica} --rebalance --wait --yes");
    let dry: Value = serde_json::from_str(&scene.operator(&format!("{add} --dry-run --json"))?)?;
    ensure!(dry["balance"]["shares"][2]["slots_after"].as_u64() >= Some(u64::from(SLOTS) / 3 - 1), "{dry}");
    // Its slots are on their way, or have come already.
    broken_off(&scene, &add, |scene| Ok(groups(scene)? == 3 && to(scene, 3)? > 0))?;
    // What the dead one still sent may be taken after the second one's plan was made: then that one is refused.
    until("the second operator gets through", LIMIT, || {
        let said = scene.operator(&add);
        Ok(said.map_err(|e| format!("{e:#}")))
    })?;
    let seen = scene.judge(load)?;
    seen.found.must_be_none()?;
    ensure!(seen.failed == 0, "{} failed", seen.failed);
    for group in 1..=3 {
        let owned = scene.owned(group)?;
        ensure!(owned.abs_diff(usize::from(SLOTS) / 3) <= 1, "group {group} owns {owned} slots");
    }
    audits_found_nothing(&scene)?;
    scene.nothing_astray()
}

fn audits_found_nothing(scene: &Scene) -> Result<()> {
    for one in scene.get("/api/v1/migrations")?.as_array().into_iter().flatten() {
        let found = |what: &str| one["audit"][what].as_u64();
        let nothing = [found("missing"), found("different"), found("extra")] == [Some(0); 3];
        ensure!(one["phase"] == "done" && found("compared") > Some(0) && nothing, "{one}");
    }
    Ok(())
}

/// Two groups become four and two again, under load.
#[test]
fn a_loaded_cluster_is_doubled_and_halved_again() -> Result<()> {
    let _turn = turn();
    let mut scene = Scene::begin(4, 1)?;
    let spares: Vec<Vec<SocketAddr>> =
        [3, 4].map(|group| scene.playground.group(group).map(|i| i.server.addr()).collect()).to_vec();
    let halve = |scene: &Scene| -> Result<()> {
        for group in [4, 3] {
            scene.operator(&format!("groups drain {group} --remove --yes"))?;
        }
        ensure!(groups(scene)? == 2, "{} groups", groups(scene)?);
        for group in [1, 2] {
            ensure!(scene.owned(group)? == usize::from(SLOTS) / 2, "group {group} owns {}", scene.owned(group)?);
        }
        for addr in spares.iter().flatten() {
            let left = ask(*addr, &["DBSIZE"])?;
            ensure!(left == b":0\r\n", "{addr} has still {} keys", String::from_utf8_lossy(&left));
        }
        scene.nothing_astray()
    };
    halve(&scene)?;
    let load = scene.load();
    for spare in &spares {
        let [primary, replica] = spare[..] else { anyhow::bail!("{spare:?}") };
        scene.operator(&format!("groups add --primary {primary} --replica {replica} --rebalance --wait --yes"))?;
    }
    for group in 1..=4 {
        ensure!(scene.owned(group)? == usize::from(SLOTS) / 4, "group {group} owns {}", scene.owned(group)?);
    }
    halve(&scene)?;
    let seen = scene.judge(load)?;
    seen.found.must_be_none()?;
    ensure!(seen.failed == 0 && seen.acked > 200, "{} failed of {}", seen.failed, seen.acked);
    eprintln!("    {} acknowledged, longest {} ms", seen.acked, seen.longest_ms);
    audits_found_nothing(&scene)
}

/// Migrations to a group, since it was emptied.
fn to(scene: &Scene, group: u32) -> Result<usize> {
    let all = scene.get("/api/v1/migrations")?;
    Ok(all.as_array().into_iter().flatten().filter(|m| m["to"] == group).count())
}

fn groups(scene: &Scene) -> Result<usize> {
    Ok(scene.get("/api/v1/groups")?.as_array().map_or(0, Vec::len))
}

/// An operator who is killed as soon as `until_then`.
fn broken_off(scene: &Scene, words: &str, until_then: impl Fn(&Scene) -> Result<bool>) -> Result<()> {
    let dir = scene.playground.dir().display().to_string();
    let mut operator = Command::new(find_binary("twemslotctl")?)
        .args(["--state-dir", &dir])
        .args(words.split(' '))
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()?;
    let seen = until(words, LIMIT, || Ok(if until_then(scene)? { Ok(()) } else { Err("not yet".to_owned()) }));
    operator.kill()?;
    operator.wait()?;
    seen
}

/// None is further than 15 % from the mean.
fn even(all: &[u64]) -> Result<()> {
    let mean = all.iter().sum::<u64>() / all.len().max(1) as u64;
    ensure!(mean > 0 && all.iter().all(|n| n.abs_diff(mean) * 100 <= mean * 15), "{all:?} are not even");
    Ok(())
}

fn keys(scene: &Scene) -> Result<Vec<u64>> {
    let of = |group: u32| -> Result<u64> {
        let said = ask(scene.primary(group)?, &["DBSIZE"])?;
        Ok(String::from_utf8_lossy(&said).trim_start_matches(':').trim_end().parse()?)
    };
    (1..=3).map(of).collect()
}

/// Requests for each group's slots within two seconds.
fn ops(scene: &Scene) -> Result<Vec<u64>> {
    let first = counted(scene)?;
    std::thread::sleep(Duration::from_secs(2)); // what is measured is a rate
    let second = counted(scene)?;
    let mut ops: BTreeMap<u32, u64> = BTreeMap::new();
    for (slot, owner) in scene.owners()?.into_iter().enumerate() {
        *ops.entry(owner.context("a slot without an owner")?).or_default() += second[slot] - first[slot];
    }
    Ok(ops.into_values().collect())
}

fn link(scene: &Scene) -> Result<redis::Connection> {
    Ok(redis::Client::open(format!("redis://{}", scene.playground.proxy_addr()?))?.get_connection()?)
}

/// Many keys in a third of what group 1 owns.
fn skew(scene: &Scene) -> Result<()> {
    let owners = scene.owners()?;
    let tags = tags(|slot| owners[slot] == Some(1), usize::from(SLOTS) / 9);
    let mut pipe = redis::pipe();
    for n in 0..SKEWED {
        pipe.cmd("SET").arg(format!("{{{}}}:{n}", tags[n % tags.len()])).arg("value").ignore();
    }
    pipe.query::<()>(&mut link(scene)?)?;
    until("the replica has it", LIMIT, || {
        let sizes: Vec<_> =
            scene.playground.group(1).map(|i| ask(i.server.addr(), &["DBSIZE"])).collect::<Result<_>>()?;
        Ok(if sizes.iter().all(|size| *size == sizes[0]) { Ok(()) } else { Err(format!("{sizes:?}")) })
    })
}

/// Tags of so many slots.
fn tags(wanted: impl Fn(usize) -> bool, count: usize) -> Vec<String> {
    let mut tags = BTreeMap::new();
    for n in 0..10_000 {
        let tag = format!("tag{n}");
        let slot = usize::from(slot_of(tag.as_bytes(), TagRule::Redis, SLOTS));
        if wanted(slot) && tags.len() < count {
            tags.entry(slot).or_insert(tag);
        }
    }
    tags.into_values().collect()
}

fn counted(scene: &Scene) -> Result<Vec<u64>> {
    let said = scene.get("/api/v1/slots/traffic")?;
    Ok(said["requests"].as_array().into_iter().flatten().filter_map(Value::as_u64).collect())
}

/// A client that asks for keys of a few slots of one group, over and over.
struct Hot {
    stop: Arc<AtomicBool>,
    client: JoinHandle<Result<()>>,
}

impl Hot {
    fn begin(scene: &Scene) -> Result<Self> {
        let owners = scene.owners()?;
        let owned = |group: u32| owners.iter().filter(|owner| **owner == Some(group)).count();
        let group = (1..=3).max_by_key(|group| owned(*group)).unwrap_or(1);
        let tags = tags(|slot| owners[slot] == Some(group), HOT);
        ensure!(tags.len() == HOT, "group {group} owns {} slots", owned(group));
        let (mut link, stop) = (link(scene)?, Arc::new(AtomicBool::new(false)));
        let stopped = Arc::clone(&stop);
        let client = std::thread::spawn(move || {
            while !stopped.load(Ordering::Relaxed) {
                let mut pipe = redis::pipe();
                for tag in &tags {
                    pipe.cmd("GET").arg(tag).ignore();
                }
                pipe.query::<()>(&mut link)?;
                std::thread::sleep(Duration::from_millis(2));
            }
            Ok(())
        });
        Ok(Self { stop, client })
    }

    fn end(self) -> Result<()> {
        self.stop.store(true, Ordering::Relaxed);
        self.client.join().map_err(|_| anyhow::anyhow!("the client broke"))?
    }
}
