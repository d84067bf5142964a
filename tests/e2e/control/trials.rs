//! Rarer trials: the membership changes, a disk takes no more, a clock jumps.

use crate::scene::{Scene, changes_go_on, leader, ready, whole};
use crate::{LIMIT, say, turn};
use anyhow::{Context, Result, ensure};
use configsvr::playground::{Options, StoreKind, find_binary, http, until};
use serde_json::json;
use std::fs;
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;
use std::process::Command;
use std::time::{Duration, Instant};

/// Calls any member until one does it.
fn call(scene: &Scene, method: &str, path: &str, body: &str) -> Result<()> {
    until(&format!("{method} {path}"), LIMIT, || {
        let mut said = String::new();
        for server in scene.playground.configsvrs().iter().filter(|s| s.alive()) {
            match http::call(method, server.addr(), path, &[], body, Duration::from_secs(40)) {
                Ok(answer) if answer.status == 200 => return Ok(Ok(())),
                Ok(answer) => said = format!("{} {}", answer.status, answer.body.trim()),
                Err(e) => said = format!("{e:#}"),
            }
        }
        Ok(Err(said))
    })
}

/// Three members become five and three again, the first two gone, while all work.
#[test]
fn members_come_and_go() -> Result<()> {
    let _turn = turn();
    let mut scene = Scene::begin(whole(StoreKind::Embedded))?;
    let first = scene.playground.configsvrs()[0].addr();
    for number in [4u16, 5] {
        let addr = SocketAddr::new(first.ip(), first.port() + number - 1);
        let start = Instant::now();
        let i = scene.playground.add_configsvr(addr)?;
        let name = scene.playground.configsvrs()[i].name().to_owned();
        let new = json!({"id": number, "name": name, "addr": addr.to_string()}).to_string();
        call(&scene, "POST", "/api/v1/members", &new)?;
        call(&scene, "POST", &format!("/api/v1/members/{name}/promote"), "")?;
        ready(&scene.playground, i)?;
        say(&format!("{name} was started, added and given a vote in {:?}", start.elapsed()));
        changes_go_on(&scene.playground, Instant::now())?;
    }
    for i in [0, 1] {
        let name = scene.playground.configsvrs()[i].name().to_owned();
        let led = leader(&scene.playground)? == i;
        let start = Instant::now();
        call(&scene, "DELETE", &format!("/api/v1/members/{name}"), "")?;
        let removed = start.elapsed(); // from now on it knows nothing new
        let start = Instant::now();
        scene.playground.kill_configsvr(i)?;
        let took = changes_go_on(&scene.playground, start)?;
        say(&format!("{name} (leading: {led}) was taken out in {removed:?}; killed: the next change after {took:?}"));
    }
    let members = scene.playground.ask_control("/api/v1/members")?;
    let voters = members.as_array().context("a list")?.iter().filter(|m| m["voter"] == true).count();
    ensure!(voters == 3, "{voters} voters: {members}");
    scene.end("3 -> 5 -> 3 members")
}

/// The leader's disk takes no byte more: another leads, and it is well again once there is room.
#[test]
fn a_full_disk_costs_one_member() -> Result<()> {
    let _turn = turn();
    let mut scene = Scene::begin(whole(StoreKind::Embedded))?;
    let i = leader(&scene.playground)?;
    let pid = scene.playground.configsvrs()[i].pid();
    let since = Instant::now();
    let limited = Command::new("prlimit").args(["--pid", &pid.to_string(), "--fsize=1"]).status()?;
    ensure!(limited.success(), "prlimit failed");
    let took = changes_go_on(&scene.playground, since)?;
    say(&format!("the leader's disk was full: the next change after {took:?}"));
    until("the member has ended", LIMIT, || {
        Ok(if scene.playground.configsvrs()[i].alive() { Err("it runs".to_owned()) } else { Ok(()) })
    })?;
    let log = fs::read_to_string(scene.playground.log(scene.playground.configsvrs()[i].name()))?;
    ensure!(!log.contains("panicked"), "it panicked: {log}");
    scene.playground.start_configsvr(i)?;
    ready(&scene.playground, i)?;
    scene.end("a full disk")
}

/// The clock of every member jumps an hour ahead, and back: nothing depends on it.
#[test]
fn clocks_jump() -> Result<()> {
    let _turn = turn();
    let dir = tempfile::tempdir()?;
    let (clock, program) = (dir.path().join("clock"), dir.path().join("configsvr"));
    let set = |offset: &str| fs::write(&clock, format!("{offset}\n"));
    set("+0")?;
    let library = [
        "/usr/lib/x86_64-linux-gnu/faketime/libfaketimeMT.so.1",
        "/usr/lib/aarch64-linux-gnu/faketime/libfaketimeMT.so.1",
    ];
    let library =
        library.into_iter().find(|path| fs::exists(path).unwrap_or(false)).context("libfaketime is missing")?;
    let script = format!(
        "#!/bin/sh\nLD_PRELOAD={library} DONT_FAKE_MONOTONIC=1 FAKETIME_DONT_FAKE_MONOTONIC=1 FAKETIME_NO_CACHE=1 \
         FAKETIME_TIMESTAMP_FILE={} exec {} \"$@\"\n",
        clock.display(),
        find_binary("twemslot-configsvr")?.display()
    );
    fs::write(&program, script)?;
    fs::set_permissions(&program, fs::Permissions::from_mode(0o755))?;
    let scene = Scene::begin(Options { configsvr: Some(program), ..whole(StoreKind::Embedded) })?;
    let led = leader(&scene.playground)?;
    for offset in ["+3600", "-3600", "+0"] {
        let since = Instant::now();
        set(offset)?;
        let took = changes_go_on(&scene.playground, since)?;
        say(&format!("all clocks jumped to {offset} s: the next change after {took:?}"));
        ensure!(leader(&scene.playground)? == led, "another member leads because of the clock");
        let audit = scene.playground.ask_control("/api/v1/audit?limit=1")?;
        say(&format!("the audit's clock: {}", audit[0]["at"]));
    }
    let alive = scene.playground.ask_control("/api/v1/proxies?alive=true")?;
    ensure!(alive.as_array().is_some_and(|l| l.len() == 2), "proxies were lost: {alive}");
    scene.end("clocks that jump")
}
