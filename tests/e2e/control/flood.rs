//! Ten thousand changes by hand, faster than anybody could follow one by one: the control plane ends with exactly the last
//! state, keeps nothing of the rest, and answers meanwhile.

use crate::watch::all_serve;
use crate::{LIMIT, say, turn};
use anyhow::{Context, Result, ensure};
use configsvr::playground::{Options, Playground, StoreKind, until};
use configsvr::store::etcd::{self, Etcd};
use configsvr::store::{Op, Store, Txn, Verdict};
use futures_util::future::join_all;
use serde_json::json;
use std::fs;
use std::time::{Duration, Instant};

const TXNS: u32 = 2_500; // of four slots each
const AT_ONCE: usize = 50;
/// What a member may need more than before: its history and its audit trail are bounded, and so is what waits.
const GROWTH_MAX_KIB: u64 = 128 << 10;

/// The slots of the n-th edit and who gets them.
fn edit(n: u32) -> [(u32, u32); 4] {
    std::array::from_fn(|i| ((n * 4 + i as u32) * 7 % 1024, 1 + (n / 256 + i as u32) % 2))
}

fn op((slot, group): (u32, u32)) -> Op {
    let key = format!("slot-to-group-mapping/slot{}", slot + 1);
    Op::Put { key, value: json!({"slot_id": slot + 1, "group_id": group, "action": {}}).to_string(), lease: None }
}

async fn write(store: &Etcd) -> Result<u64> {
    let mut last = 0;
    let all: Vec<u32> = (0..TXNS).collect();
    for some in all.chunks(AT_ONCE) {
        for revision in join_all(some.iter().map(|n| write_one(store, *n))).await {
            last = last.max(revision?);
        }
    }
    Ok(last)
}

/// Until it is done: on a busy machine etcd is away at times.
async fn write_one(store: &Etcd, n: u32) -> Result<u64> {
    let start = Instant::now();
    loop {
        match store.commit(Txn { compares: vec![], ops: edit(n).map(op).to_vec() }).await {
            Ok(Verdict::Done(revision)) => return Ok(revision),
            Err(fault) if start.elapsed() < LIMIT => say(&format!("again, since {fault}")),
            other => anyhow::bail!("edit {n}: {other:?}"),
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// While slots are being written to their own keys, what the epoch's record says goes before those.
fn all_slots_at_their_keys(playground: &Playground) -> Result<()> {
    until("all slots are at their own keys", LIMIT, || {
        let export = playground.ask_control("/api/v1/store/export")?;
        let entries = export["entries"].as_array().context("entries")?;
        let slots = entries.iter().filter(|e| e["key"].as_str().is_some_and(|k| k.contains("/slot"))).count();
        let unfolded = entries.iter().any(|e| e["value"].as_str().is_some_and(|v| v.contains("unfolded")));
        Ok(if slots == 1024 && !unfolded { Ok(()) } else { Err(format!("{slots} are")) })
    })
}

/// Resident memory, in KiB.
fn memory(pid: i32) -> Result<u64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = status.lines().find_map(|l| l.strip_prefix("VmRSS:")).context("VmRSS")?;
    Ok(line.trim().trim_end_matches("kB").trim().parse()?)
}

#[test]
fn ten_thousand_edits_end_with_the_last() -> Result<()> {
    let _turn = turn();
    let options =
        Options { store: StoreKind::Etcd, configsvrs: 1, replicas: 0, workers: Some(1), ..Options::default() };
    let playground = Playground::start(options)?;
    all_slots_at_their_keys(&playground)?;
    let pid = playground.configsvrs()[0].pid();
    let (before, start) = (memory(pid)?, Instant::now());
    let endpoints = playground.etcds().iter().map(|e| e.addr().to_string()).collect();
    let writing = std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        runtime.block_on(async { write(&Etcd::new(etcd::Options::new(endpoints))?).await })
    });
    let (mut asked, mut slowest) = (0, Duration::ZERO);
    while !writing.is_finished() {
        let call = Instant::now();
        playground.ask_control("/api/v1/cluster")?;
        (asked, slowest) = (asked + 1, slowest.max(call.elapsed()));
        std::thread::sleep(Duration::from_millis(20));
    }
    let last = writing.join().map_err(|_| anyhow::anyhow!("the writer panicked"))??;
    let written = start.elapsed();
    // No edit is after the last of each slot: they were written in batches, in this order.
    let mut owners = vec![0; 1024];
    (0..TXNS).flat_map(edit).for_each(|(slot, group)| owners[slot as usize] = group);
    let topology = until("the last state is in force", LIMIT, || {
        let cluster = playground.ask_control("/api/v1/cluster")?;
        let topology = playground.ask_control("/api/v1/topology")?;
        let mut now = vec![0; 1024];
        for range in topology["slots"].as_array().context("slots")? {
            let (from, to) = (range["from"].as_u64().context("from")?, range["to"].as_u64().context("to")?);
            let group = range["group"].as_u64().context("group")?;
            (from..=to).for_each(|slot| now[slot as usize] = group as u32);
        }
        let known = cluster["store"]["revision"].as_u64().context("revision")?;
        let differ = now.iter().zip(&owners).filter(|(now, wanted)| now != wanted).count();
        Ok(if known >= last && differ == 0 {
            Ok(topology)
        } else {
            Err(format!("at {known} of {last}, {differ} differ"))
        })
    })?;
    all_serve(&playground, topology["epoch"].as_u64().context("epoch")?)?;
    let (caught_up, after) = (start.elapsed() - written, memory(pid)?);
    say(&format!(
        "{} changes in {written:?}, followed {caught_up:?} later; {asked} calls meanwhile, the slowest {slowest:?}; memory \
         {before} -> {after} KiB, epoch {}",
        TXNS * 4,
        topology["epoch"]
    ));
    ensure!(after < before + GROWTH_MAX_KIB, "memory grew from {before} to {after} KiB");
    Ok(())
}
