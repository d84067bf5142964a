//! Clusters that were somebody else's: the dump of a Codis, and a static topology file, as an operator takes them over.

use crate::life::{good, refused, small};
use crate::watch::all_serve;
use crate::{LIMIT, turn};
use anyhow::{Context, Result, ensure};
use configsvr::playground::{Options, Playground, ask, until};
use nix::sys::signal::Signal;
use serde_json::{Value, json};
use std::fs;
use std::net::SocketAddr;

/// Two groups that belong to no cluster, and a proxy that has nothing to serve.
fn strangers() -> Result<(Playground, [Vec<String>; 2])> {
    let playground = Playground::start(Options { bare: true, groups: 2, replicas: 1, ..small() })?;
    let addrs = |group| playground.group(group).map(|i| i.server.addr().to_string()).collect();
    let groups = [addrs(1), addrs(2)];
    Ok((playground, groups))
}

/// Asks through the proxy; an error is what the test ends with.
fn served(playground: &Playground, words: &[&str]) -> Result<String> {
    let said = String::from_utf8_lossy(&ask(playground.proxy_addr()?, words)?).into_owned();
    ensure!(!said.starts_with('-'), "{words:?}: {said}");
    Ok(said)
}

fn taken(playground: &Playground, words: &[&str]) -> Result<()> {
    let answer = good(playground.configsvrs()[0].addr(), words)?;
    all_serve(playground, answer["epoch"].as_u64().context("epoch")?)
}

#[test]
fn a_codis_is_taken_over() -> Result<()> {
    let _turn = turn();
    let (playground, groups) = strangers()?;
    let api = playground.configsvrs()[0].addr();
    // As codis-admin prints it; keys are there already.
    let slots: Vec<Value> = (0..1024).map(|id| json!({ "id": id, "group_id": 1 + id / 512, "action": {} })).collect();
    let server = |addr: &String| json!({ "server": addr, "datacenter": "", "action": {}, "replica_group": false });
    let group = |(id, all): (u32, &Vec<String>)| json!({ "id": id, "servers": all.iter().map(server).collect::<Vec<_>>(), "promoting": {}, "out_of_sync": false });
    let dump = json!({ "slots": slots, "group": (1..).zip(&groups).map(group).collect::<Vec<_>>(), "proxy": [] });
    let dir = tempfile::tempdir()?;
    let file = dir.path().join("dump.json").display().to_string();
    fs::write(&file, dump.to_string())?;
    let first: SocketAddr = groups[0][0].parse()?;
    ask(first, &["SET", "{}old", "before"])?;

    refused(api, &["import", &file, "--yes"], &["hint"])?; // it is no topology file
    taken(&playground, &["import", &file, "--codis", "--name", "shop", "--yes"])?;
    let topology = playground.ask_control("/api/v1/topology")?;
    ensure!(topology["name"] == "shop" && topology["tag_rule"] == "codis", "{topology}");
    // There an empty tag counts: all such keys are in slot 0.
    ensure!(served(&playground, &["GET", "{}old"])?.contains("before"));
    for key in ["{}a", "{}b", "{}c", "{}d"] {
        served(&playground, &["SET", key, "v"])?;
        ensure!(ask(first, &["GET", key])? == b"$1\r\nv\r\n", "{key} is not in the first group");
    }
    refused(api, &["import", &file, "--codis", "--yes"], &["hint"])
}

#[test]
fn a_topology_file_is_taken_over() -> Result<()> {
    let _turn = turn();
    let (mut playground, groups) = strangers()?;
    let api = playground.configsvrs()[0].addr();
    let instance = |(at, addr): (usize, &String)| {
        let role = if at == 0 { "primary" } else { "replica" };
        json!({ "addr": addr, "role": role })
    };
    let group = |(id, all): (u32, &Vec<String>)| json!({ "id": id, "name": format!("g{id}"), "instances": all.iter().enumerate().map(instance).collect::<Vec<_>>() });
    let groups_of: Vec<Value> = (1..).zip(&groups).map(group).collect();
    // The key "k" changes its group with the second file.
    let text = |[low, high]: [u32; 2]| {
        json!({ "epoch": 1, "slot_count": 1024, "groups": groups_of, "slots": [{ "from": 0, "to": 511, "group": low },
            { "from": 512, "to": 1023, "group": high }] })
        .to_string()
    };
    let dir = tempfile::tempdir()?;
    let file = dir.path().join("topology.json").display().to_string();
    fs::write(&file, text([1, 2]))?;
    taken(&playground, &["import", &file, "--name", "shop", "--yes"])?;
    ensure!(playground.ask_control("/api/v1/topology")?["name"] == "shop");
    served(&playground, &["SET", "k", "v"])?;
    ensure!(served(&playground, &["GET", "k"])? == "$1\r\nv\r\n");
    fs::write(&file, text([2, 1]))?;
    refused(api, &["import", &file, "--yes"], &["hint"])?;
    taken(&playground, &["import", &file, "--name", "shop", "--replace", "--yes"])?;
    ensure!(served(&playground, &["GET", "k"])? == "$-1\r\n", "its keys stay behind, as was said");
    served(&playground, &["SET", "k", "v"])?;
    waits_after_a_goodbye(&mut playground)
}

/// A proxy that said goodbye may have missed that slots moved: it serves what is on its disk only once a configsvr has
/// registered it again. (One that was killed said nothing, and serves at once: `life`.)
fn waits_after_a_goodbye(playground: &mut Playground) -> Result<()> {
    playground.signal_proxy(0, Signal::SIGTERM)?;
    until("the proxy has ended", LIMIT, || {
        Ok(if playground.proxies()[0].alive() { Err("it runs".to_owned()) } else { Ok(()) })
    })?;
    playground.kill_configsvr(0)?;
    playground.start_proxy(0)?;
    let said = served(playground, &["GET", "k"]);
    ensure!(said.is_err(), "it serves though it said goodbye: {said:?}");
    let log = fs::read_to_string(playground.log(playground.proxies()[0].name()))?;
    ensure!(log.contains("said goodbye when it ended"), "{log}");
    playground.start_configsvr(0)?;
    until("it is registered, and serves", LIMIT, || {
        Ok(match served(playground, &["GET", "k"]) {
            Ok(said) if said == "$1\r\nv\r\n" => Ok(()),
            other => Err(format!("{other:?}")),
        })
    })
}
