//! The stage of the trials: a whole cluster, two clients that count, an operator who never rests, and a look at the
//! proxies. At the end nothing may be lost, twice, or out of order.

use crate::operator::{Operator, SLOT};
use crate::watch::{Watch, all_serve};
use crate::writer::{Writer, keys};
use crate::{LIMIT, say};
use anyhow::{Context, Result, ensure};
use cluster::slot::{TagRule, slot_of};
use configsvr::playground::{Options, Playground, StoreKind, http, until};
use std::net::SocketAddr;
use std::time::{Duration, Instant};

/// Three configsvrs and two proxies before two groups.
pub(crate) fn whole(store: StoreKind) -> Options {
    Options { configsvrs: 3, proxies: 2, replicas: 0, workers: Some(1), store, ..Options::default() }
}

pub(crate) fn members(playground: &Playground) -> Vec<SocketAddr> {
    playground.configsvrs().iter().map(|s| s.addr()).collect()
}

/// The member that leads, once one does and answers.
pub(crate) fn leader(playground: &Playground) -> Result<usize> {
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
pub(crate) fn changes_go_on(playground: &Playground, since: Instant) -> Result<Duration> {
    let mut before = None; // members that were started a moment ago do not listen yet
    until("a change is accepted", LIMIT, || {
        let now = playground.ask_control("/api/v1/cluster");
        let epoch = now.ok().and_then(|json| json["epoch"].as_u64());
        before = before.or(epoch);
        Ok(if epoch > before { Ok(since.elapsed()) } else { Err(format!("epoch {epoch:?}, was {before:?}")) })
    })
}

pub(crate) struct Scene {
    pub(crate) playground: Playground,
    operator: Operator,
    writers: [Writer; 2],
    watch: Watch,
}

impl Scene {
    pub(crate) fn begin(options: Options) -> Result<Self> {
        let theirs = |key: String| slot_of(key.as_bytes(), TagRule::Redis, options.slots) == SLOT;
        ensure!(!keys("a").chain(keys("b")).any(theirs), "the operator takes slot {SLOT}, where clients have a key");
        let playground = Playground::start(options)?;
        let operator = Operator::start(members(&playground), "op");
        let proxies = playground.proxies();
        let writers = [Writer::start(proxies[0].addr(), "a")?, Writer::start(proxies[1].addr(), "b")?];
        let watch = Watch::start(&playground);
        let scene = Self { playground, operator, writers, watch };
        changes_go_on(&scene.playground, Instant::now())?;
        Ok(scene)
    }

    pub(crate) fn end(self, what: &str) -> Result<()> {
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

pub(crate) fn ready(playground: &Playground, i: usize) -> Result<()> {
    let server = &playground.configsvrs()[i];
    until(&format!("{}: ready", server.name()), LIMIT, || {
        let limit = Duration::from_secs(1);
        Ok(match http::call("GET", server.addr(), "/readyz", &[], "", limit) {
            Ok(answer) if answer.status == 200 => Ok(()),
            other => Err(format!("{other:?}")),
        })
    })
}

pub(crate) fn healthy(playground: &Playground, i: usize) -> Result<()> {
    let server = &playground.etcds()[i];
    until(&format!("{}: healthy", server.name()), LIMIT, || {
        let limit = Duration::from_secs(1);
        Ok(match http::call("GET", server.addr(), "/health", &[], "", limit) {
            Ok(answer) if answer.status == 200 && answer.body.contains("true") => Ok(()),
            other => Err(format!("{other:?}")),
        })
    })
}
