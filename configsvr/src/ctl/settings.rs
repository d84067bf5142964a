//! Settings of an instance that failover rests on: what they should be, why, and how they get there. None of them changes
//! what the instance holds or answers.

use crate::agent::link::{Access, connect};
use cluster::instance::Addr;
use redis::aio::MultiplexedConnection;
use redis::{Cmd, FromRedisValue, RedisResult};
use std::collections::BTreeMap;
use tokio::runtime::{Builder, Runtime};

/// One of them.
struct Rule {
    /// Its name, and an older one for the same.
    names: &'static [&'static str],
    /// What it is set to.
    wanted: u64,
    fits: fn(u64) -> bool,
    why: &'static str,
    /// Only where the group has replicas.
    replicated: bool,
}

/// A replica that was away for a moment goes on where it stopped if the backlog still holds what it missed.
const BACKLOG_BYTES: u64 = 64 << 20;
/// Below `failover.hang_ms`, so that a long script says BUSY before its instance looks hung.
const BUSY_MS: u64 = 500;

const RULES: [Rule; 3] = [
    Rule {
        names: &["repl-backlog-size"],
        wanted: BACKLOG_BYTES,
        fits: |bytes| bytes >= BACKLOG_BYTES,
        why: "a short break costs a full copy",
        replicated: true,
    },
    Rule {
        names: &["repl-ping-replica-period", "repl-ping-slave-period"],
        wanted: 1,
        fits: |seconds| seconds <= 1,
        why: "its replicas notice late that it is gone",
        replicated: true,
    },
    Rule {
        names: &["busy-reply-threshold", "lua-time-limit"],
        wanted: BUSY_MS,
        fits: |ms| (1..=1000).contains(&ms),
        why: "a script that runs longer looks like a hang, and its primary is replaced",
        replicated: true,
    },
];

/// A connection to an instance, for somebody who waits for each answer.
#[derive(Debug)]
pub(super) struct Visit {
    runtime: Runtime,
    connection: MultiplexedConnection,
}

impl Visit {
    /// Connects as the control plane does. Errors: why not.
    pub(super) fn open(addr: &Addr, access: &Access) -> Result<Self, String> {
        let runtime = Builder::new_current_thread().enable_all().build().map_err(|e| e.to_string())?;
        let connection = runtime.block_on(connect(addr, access))?;
        Ok(Self { runtime, connection })
    }

    pub(super) fn ask<T: FromRedisValue>(&mut self, command: &Cmd) -> RedisResult<T> {
        self.runtime.block_on(command.query_async(&mut self.connection))
    }
}

/// What is to be asked for with CONFIG GET.
pub(super) fn names() -> impl Iterator<Item = &'static str> {
    RULES.iter().flat_map(|rule| rule.names.iter().copied())
}

/// A setting that should be another.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Amiss {
    pub(super) name: &'static str,
    pub(super) wanted: u64,
    pub(super) what: String,
}

/// Which of them are not as they should be. `facts`: names to values; what an instance does not know is left alone.
pub(super) fn amiss(facts: &BTreeMap<String, String>, replicated: bool) -> Vec<Amiss> {
    let known = |rule: &Rule| {
        let name = rule.names.iter().find(|name| facts.contains_key(**name))?;
        Some((*name, facts.get(*name)?.parse::<u64>().ok()?))
    };
    let rules = RULES.iter().filter(|rule| replicated || !rule.replicated);
    let wrong = rules.filter_map(|rule| Some((rule, known(rule)?))).filter(|(rule, (_, value))| !(rule.fits)(*value));
    wrong
        .map(|(rule, (name, value))| Amiss { name, wanted: rule.wanted, what: format!("{name} {value}: {}", rule.why) })
        .collect()
}

/// Sets it, for now and for the next start where the instance has a file for that. What was done, or why not.
pub(super) fn set(visit: &mut Visit, amiss: &Amiss) -> Result<String, String> {
    let said = |e: redis::RedisError| e.to_string();
    let (name, wanted) = (amiss.name, amiss.wanted);
    visit.ask::<()>(redis::cmd("CONFIG").arg("SET").arg(name).arg(wanted)).map_err(said)?;
    let kept = visit.ask::<()>(redis::cmd("CONFIG").arg("REWRITE"));
    let until = kept.err().map(|e| format!(" until its next start, since its file was not written: {e}"));
    Ok(format!("{name} is {wanted} now{}", until.unwrap_or_default()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_amiss_is_named_by_the_name_the_instance_knows() {
        let facts = |some: &[(&str, &str)]| some.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
        let found = amiss(&facts(&[("lua-time-limit", "5000"), ("repl-backlog-size", "1048576")]), true);
        let found: Vec<_> = found.iter().map(|a| (a.name, a.wanted)).collect();
        assert_eq!(found, [("repl-backlog-size", 64 << 20), ("lua-time-limit", 500)]);
        let good = facts(&[("busy-reply-threshold", "500"), ("repl-backlog-size", "67108864")]);
        assert!(amiss(&good, true).is_empty() && amiss(&facts(&[("repl-backlog-size", "1")]), false).is_empty());
    }
}
