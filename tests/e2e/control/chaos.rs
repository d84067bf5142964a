//! Every member of the control plane, and of etcd, is killed and frozen in turn.

use crate::operator::Operator;
use crate::watch::{Watch, all_serve};
use crate::writer::Writer;
use crate::{LIMIT, say, turn};
use anyhow::{Context, Result, ensure};
use configsvr::playground::{Options, Playground, StoreKind, http, until};
use nix::sys::signal::Signal;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

/// Longer than an election and the lease of a proxy.
const FROZEN: Duration = Duration::from_secs(3);
/// How long all of etcd is gone; `TWEMSLOT_LONG=1` makes it the minute that production must survive.
const ETCD_GONE: Duration = Duration::from_secs(8);

fn whole(store: StoreKind) -> Result<Playground> {
    Playground::start(Options { configsvrs: 3, proxies: 2, replicas: 0, workers: Some(1), store, ..Options::default() })
}

fn members(playground: &Playground) -> Vec<SocketAddr> {
    playground.configsvrs().iter().map(|s| s.addr()).collect()
}

/// The member that leads, once one does and answers.
fn leader(playground: &Playground) -> Result<usize> {
    until("a leader", LIMIT, || {
        for (i, server) in playground.configsvrs().iter().enumerate().filter(|(_, s)| s.alive()) {
            let limit = Duration::from_secs(1);
            let Ok(answer) = http::call("GET", server.addr(), "/api/v1/cluster", &[], "", limit) else { continue };
            if answer.json().is_ok_and(|json| json["leading"] == true) {
                return Ok(Ok(i));
            }
        }
        Ok(Err("nobody leads".to_owned()))
    })
}

/// The operator's next change is accepted; how long after `since`.
fn changes_go_on(playground: &Playground, since: Instant) -> Result<Duration> {
    let before = playground.ask_control("/api/v1/cluster")?["epoch"].as_u64().context("epoch")?;
    until("a change is accepted", LIMIT, || {
        let now = playground.ask_control("/api/v1/cluster");
        Ok(match now.ok().and_then(|json| json["epoch"].as_u64()) {
            Some(epoch) if epoch > before => Ok(since.elapsed()),
            other => Err(format!("epoch {other:?}, was {before}")),
        })
    })
}

struct Scene {
    playground: Playground,
    operator: Operator,
    writers: [Writer; 2],
    watch: Watch,
}

impl Scene {
    fn begin(store: StoreKind) -> Result<Self> {
        let playground = whole(store)?;
        let operator = Operator::start(members(&playground), "op");
        let proxies = playground.proxies();
        let writers = [Writer::start(proxies[0].addr(), "a")?, Writer::start(proxies[1].addr(), "b")?];
        let watch = Watch::start(&playground);
        let scene = Self { playground, operator, writers, watch };
        changes_go_on(&scene.playground, Instant::now())?;
        Ok(scene)
    }

    fn end(self, what: &str) -> Result<()> {
        let log = self.operator.finish(&self.playground, "op")?;
        let last = log.accepted.last().context("no change was accepted")?.1;
        all_serve(&self.playground, last)?;
        self.watch.finish()?;
        for writer in self.writers {
            let tally = writer.finish()?;
            say(&format!("{what}: {} writes, the slowest {:?}", tally.writes, tally.slowest));
        }
        let (accepted, gap) = (log.accepted.len(), log.longest_gap());
        say(&format!(
            "{what}: {accepted} changes, 0 lost, 0 twice; the longest gap {gap:?}; failed tries {:?}",
            log.failed
        ));
        Ok(())
    }
}

#[test]
fn configsvrs_are_killed_and_frozen() -> Result<()> {
    let _turn = turn();
    let mut scene = Scene::begin(StoreKind::Embedded)?;
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
    for i in 0..3 {
        scene.playground.signal_configsvr(i, Signal::SIGSTOP)?;
        let since = Instant::now();
        std::thread::sleep(FROZEN); // how long a machine hangs, not how long we wait for something
        scene.playground.signal_configsvr(i, Signal::SIGCONT)?;
        let took = changes_go_on(&scene.playground, since)?;
        say(&format!("configsvr-{} was frozen for {FROZEN:?}: changes again {took:?} after its start", i + 1));
        ready(&scene.playground, i)?;
    }
    scene.end("embedded")
}

#[test]
fn etcd_is_killed_and_goes_away() -> Result<()> {
    let _turn = turn();
    let mut scene = Scene::begin(StoreKind::Etcd)?;
    for i in 0..3 {
        let since = Instant::now();
        scene.playground.kill_etcd(i)?;
        let took = changes_go_on(&scene.playground, since)?;
        say(&format!("etcd-{} was killed: the next change after {took:?}", i + 1));
        scene.playground.start_etcd(i)?;
        healthy(&scene.playground, i)?;
    }
    let i = leader(&scene.playground)?;
    scene.playground.kill_configsvr(i)?;
    changes_go_on(&scene.playground, Instant::now())?;
    scene.playground.start_configsvr(i)?;
    ready(&scene.playground, i)?;

    (0..3).try_for_each(|i| scene.playground.kill_etcd(i))?;
    let gone = if std::env::var_os("TWEMSLOT_LONG").is_some() { Duration::from_secs(60) } else { ETCD_GONE };
    std::thread::sleep(gone); // how long it is away
    let refused =
        http::call("PATCH", members(&scene.playground)[0], "/api/v1/groups/2", &[], "{\"name\":\"x\"}", LIMIT)?;
    ensure!(
        matches!(refused.status, 503 | 504),
        "without etcd a change was answered {}: {}",
        refused.status,
        refused.body
    );
    (0..3).try_for_each(|i| scene.playground.start_etcd(i))?;
    let since = Instant::now();
    let took = changes_go_on(&scene.playground, since)?;
    say(&format!("all of etcd was gone for {gone:?}: the next change {took:?} after it was started"));
    scene.end("etcd")
}

fn ready(playground: &Playground, i: usize) -> Result<()> {
    let server = &playground.configsvrs()[i];
    until(&format!("{}: ready", server.name()), LIMIT, || {
        let limit = Duration::from_secs(1);
        Ok(match http::call("GET", server.addr(), "/readyz", &[], "", limit) {
            Ok(answer) if answer.status == 200 => Ok(()),
            other => Err(format!("{other:?}")),
        })
    })
}

fn healthy(playground: &Playground, i: usize) -> Result<()> {
    let server = &playground.etcds()[i];
    until(&format!("{}: healthy", server.name()), LIMIT, || {
        let limit = Duration::from_secs(1);
        Ok(match http::call("GET", server.addr(), "/health", &[], "", limit) {
            Ok(answer) if answer.status == 200 && answer.body.contains("true") => Ok(()),
            other => Err(format!("{other:?}")),
        })
    })
}
