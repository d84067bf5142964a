//! Every member of the control plane, and of etcd, is killed and frozen in turn.

use crate::scene::{Scene, changes_go_on, healthy, leader, members, ready, whole};
use crate::{LIMIT, say, turn};
use anyhow::{Result, ensure};
use configsvr::playground::{StoreKind, ask, http};
use nix::sys::signal::Signal;
use std::time::{Duration, Instant};

/// Longer than an election and the lease of a proxy.
const FROZEN: Duration = Duration::from_secs(3);
/// How long all of etcd hangs.
const ETCD_FROZEN: Duration = Duration::from_secs(10);
/// How long all of etcd is gone: what production must survive.
const ETCD_GONE: Duration = Duration::from_secs(60);

#[test]
fn configsvrs_are_killed_and_frozen() -> Result<()> {
    let _turn = turn();
    let mut scene = Scene::begin(whole(StoreKind::Embedded))?;
    for _ in 0..3 {
        let i = leader(&scene.playground)?;
        let since = Instant::now();
        scene.playground.kill_configsvr(i)?;
        let took = changes_go_on(&scene.playground, since)?;
        say(&format!("the leader was killed: the next change after {took:?}"));
        ensure!(took < Duration::from_secs(20), "{took:?} until a change was accepted after the leader's death");
        scene.playground.start_configsvr(i)?;
        ready(&scene.playground, i)?;
    }
    each_configsvr_is_killed(&mut scene)?;
    each_configsvr_is_frozen(&mut scene)?;
    scene.end("embedded")
}

/// Whoever leads: where leaders alone are killed, one that never leads lives on.
fn each_configsvr_is_killed(scene: &mut Scene) -> Result<()> {
    for i in 0..3 {
        let led = leader(&scene.playground)? == i;
        let since = Instant::now();
        scene.playground.kill_configsvr(i)?;
        let took = changes_go_on(&scene.playground, since)?;
        say(&format!("configsvr-{} (leading: {led}) was killed: the next change after {took:?}", i + 1));
        scene.playground.start_configsvr(i)?;
        ready(&scene.playground, i)?;
    }
    Ok(())
}

fn each_configsvr_is_frozen(scene: &mut Scene) -> Result<()> {
    for i in 0..3 {
        scene.playground.signal_configsvr(i, Signal::SIGSTOP)?;
        let since = Instant::now();
        let took = changes_go_on(&scene.playground, since)?;
        say(&format!("configsvr-{} is frozen: the next change after {took:?}", i + 1));
        std::thread::sleep(FROZEN.saturating_sub(since.elapsed())); // how long a machine hangs
        scene.playground.signal_configsvr(i, Signal::SIGCONT)?;
        ready(&scene.playground, i)?;
        changes_go_on(&scene.playground, Instant::now())?;
    }
    Ok(())
}

#[test]
fn etcd_is_killed_and_goes_away() -> Result<()> {
    let _turn = turn(); // also for the minute: what is killed leaves ports that another cluster would take
    let mut scene = Scene::begin(whole(StoreKind::Etcd))?;
    for i in 0..3 {
        let since = Instant::now();
        scene.playground.kill_etcd(i)?;
        let took = changes_go_on(&scene.playground, since)?;
        say(&format!("etcd-{} was killed: the next change after {took:?}", i + 1));
        scene.playground.start_etcd(i)?;
        healthy(&scene.playground, i)?;
    }
    for i in 0..3 {
        scene.playground.signal_etcd(i, Signal::SIGSTOP)?;
        let since = Instant::now();
        let took = changes_go_on(&scene.playground, since)?;
        say(&format!("etcd-{} is frozen: the next change after {took:?}", i + 1));
        std::thread::sleep(FROZEN.saturating_sub(since.elapsed())); // how long a machine hangs
        scene.playground.signal_etcd(i, Signal::SIGCONT)?;
        healthy(&scene.playground, i)?;
    }
    each_configsvr_is_killed(&mut scene)?;
    each_configsvr_is_frozen(&mut scene)?;

    // Connections that hang; and what was written into them is done when it wakes.
    (0..3).try_for_each(|i| scene.playground.signal_etcd(i, Signal::SIGSTOP))?;
    std::thread::sleep(ETCD_FROZEN);
    (0..3).try_for_each(|i| scene.playground.signal_etcd(i, Signal::SIGCONT))?;
    let since = Instant::now();
    let took = changes_go_on(&scene.playground, since)?;
    say(&format!("all of etcd was frozen for {ETCD_FROZEN:?}: the next change {took:?} after it woke"));

    (0..3).try_for_each(|i| scene.playground.kill_etcd(i))?;
    std::thread::sleep(ETCD_GONE);
    let refused =
        http::call("PATCH", members(&scene.playground)[0], "/api/v1/groups/2", &[], "{\"name\":\"x\"}", LIMIT)?;
    ensure!(
        matches!(refused.status, 503 | 504),
        "without etcd a change was answered {}: {}",
        refused.status,
        refused.body
    );
    // Now the whole control plane: clients that were there are served (the writers fail otherwise), and new ones.
    (0..3).try_for_each(|i| scene.playground.kill_configsvr(i))?;
    for (n, proxy) in scene.playground.proxies().iter().enumerate() {
        let (key, value) = (format!("dark-{n}"), format!("{n}"));
        ask(proxy.addr(), &["SET", &key, &value])?;
        let reply = ask(proxy.addr(), &["GET", &key])?;
        ensure!(reply.ends_with(format!("{value}\r\n").as_bytes()), "{}", String::from_utf8_lossy(&reply));
    }
    std::thread::sleep(FROZEN);
    (0..3).try_for_each(|i| scene.playground.start_etcd(i))?;
    (0..3).try_for_each(|i| healthy(&scene.playground, i))?;
    (0..3).try_for_each(|i| scene.playground.start_configsvr(i))?;
    let since = Instant::now();
    let took = changes_go_on(&scene.playground, since)?;
    say(&format!("all of etcd was gone for {ETCD_GONE:?}: the next change {took:?} after it was started"));
    scene.end("etcd")
}
