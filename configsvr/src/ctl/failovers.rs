//! The verbs about primaries: what happened to them, another one now, and what failover is to know.
#![expect(clippy::disallowed_methods, reason = "a shell: waits, and runs the command of a rolling restart")]

use super::change::{Change, Terms, change, perform};
use super::client::{Ask, Client, id_of, part, read};
use super::fault::{Fault, Result};
use super::show::{json, or_dash, say, table};
use crate::control::layout::{Failover, Phase};
use crate::http::words::{Answer, Group};
use clap::{Args, Subcommand};
use cluster::group::GroupId;
use cluster::instance::Addr;
use serde_json::{Value, json};
use std::process::ExitCode;
use std::time::{Duration, Instant};

/// A switchover ends by itself within two seconds; a forced failover may wait for an instance.
const END_LIMIT: Duration = Duration::from_secs(20);
const PAUSE: Duration = Duration::from_millis(50);
/// A restarted instance loads its data and takes over what it missed.
const ROLL_LIMIT: Duration = Duration::from_secs(3600);

#[derive(Debug, Subcommand)]
pub enum FailoversVerb {
    /// A line for each, also those under way: which primary, why, by which, how long it took.
    List,
    /// One of them, with all it rests on.
    Show {
        /// As `failovers list` names it.
        id: String,
    },
}

/// Another primary for a group.
#[derive(Debug, Args)]
pub struct Replace {
    /// Its id or its name.
    group: String,
    /// This instance. Otherwise: the best.
    #[arg(long, value_name = "ADDR")]
    to: Option<Addr>,
    #[command(flatten)]
    terms: Terms,
}

#[derive(Debug, Subcommand)]
pub enum AutomationVerb {
    /// Nothing is done by itself: a dead primary stays dead.
    Pause {
        #[command(flatten)]
        terms: Terms,
    },
    /// What Twemslot does by itself is done again.
    Resume {
        #[command(flatten)]
        terms: Terms,
    },
}

#[derive(Debug, Subcommand)]
pub enum GuardVerb {
    /// What failover knows and was told.
    List,
    /// What it is to know of a group; what is not named stays.
    Group {
        /// Its id or its name.
        group: String,
        /// A primary that says nothing for so long hangs; 0: as the configuration says.
        #[arg(long, value_name = "MS")]
        hang_ms: Option<u64>,
        /// true: people work on it, nothing is done by itself.
        #[arg(long, value_name = "true|false")]
        maintenance: Option<bool>,
        #[command(flatten)]
        terms: Terms,
    },
    /// What it is to know of an instance; what is not named stays.
    Instance {
        /// Its id or its name.
        #[arg(long)]
        group: String,
        /// Where it listens.
        addr: Addr,
        /// It goes before others that hold as much.
        #[arg(long, value_name = "true|false")]
        prefer: Option<bool>,
        /// It never becomes primary.
        #[arg(long, value_name = "true|false")]
        never: Option<bool>,
        #[command(flatten)]
        terms: Terms,
    },
}

pub(super) fn failovers(client: &mut Client, as_json: bool, verb: FailoversVerb) -> Result<ExitCode> {
    match verb {
        FailoversVerb::List => {
            let all: Vec<Failover> = client.of_leader("/api/v1/failovers")?;
            if as_json { json(&all)? } else { say(&screen(&all))? }
        }
        FailoversVerb::Show { id } => {
            let one: Failover = client.get(&format!("/api/v1/failovers/{}", part(&id)))?;
            if as_json { json(&one)? } else { say(&story(&one))? }
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn screen(all: &[Failover]) -> String {
    let row = |f: &Failover| {
        vec![
            f.id.trim_start_matches('0').to_owned(),
            f.group_id.to_string(),
            f.kind.word().to_owned(),
            f.phase.word().to_owned(),
            f.old.to_string(),
            or_dash(f.candidate.as_ref().map(Addr::to_string)),
            or_dash(took(f).map(|ms| format!("{ms} ms"))),
            or_dash(f.lost_bytes.map(|n| n.to_string())),
            f.note.clone().unwrap_or_else(|| f.why.clone()),
        ]
    };
    table(&["ID", "GROUP", "KIND", "PHASE", "OLD", "NEW", "TOOK", "LOST BYTES", "WHY"], all.iter().map(row))
}

/// From the doubt to the commit.
fn took(f: &Failover) -> Option<u64> {
    f.times.committed.map(|at| at.saturating_sub(f.times.doubted))
}

fn story(f: &Failover) -> String {
    let mut lines = vec![format!("failover {} of group {}: {} ({})", f.id, f.group_id, f.phase.word(), f.kind.word())];
    lines.push(format!("why        {}", f.why));
    lines.extend(f.evidence.iter().map(|e| format!("           {e}")));
    lines.push(format!("from       {} ({})", f.old, f.old_run_id));
    let to = f.candidate.as_ref().map(Addr::to_string);
    lines.push(format!("to         {}, offset {}", or_dash(to), or_dash(f.offset.map(|o| o.to_string()))));
    lines.extend(f.passed_over.iter().map(|a| format!("           {a} could not be promoted")));
    let after = |at: u64| format!("{} ms", at.saturating_sub(f.times.doubted));
    lines.push(format!("doubted    at {} ms since 1970", f.times.doubted));
    lines.push(format!("decided    after {}", after(f.times.decided)));
    let rest = [("chosen", f.times.chosen), ("committed", f.times.committed), ("ended", f.times.ended)];
    lines.extend(rest.iter().filter_map(|(word, at)| Some(format!("{word:<10} after {}", after((*at)?)))));
    let lost = f.lost_bytes.map_or("unknown until the old primary comes back".to_owned(), |n| format!("{n} bytes"));
    lines.push(format!("lost       {lost}"));
    lines.extend(f.note.iter().map(|note| format!("note       {note}")));
    lines.join("\n")
}

pub(super) fn switchover(client: &mut Client, as_json: bool, what: &Replace) -> Result<ExitCode> {
    let group = id_of(client, &what.group)?;
    replace(client, as_json, group, what, "switchover", None)
}

pub(super) fn failover(client: &mut Client, as_json: bool, what: &Replace) -> Result<ExitCode> {
    let group = id_of(client, &what.group)?;
    let danger = "The primary is taken for dead: what it has and no replica has is lost.";
    replace(client, as_json, group, what, "failover", Some(danger.to_owned()))
}

/// Begins it, and waits for its end.
fn replace(
    client: &mut Client,
    as_json: bool,
    group: GroupId,
    what: &Replace,
    verb: &str,
    danger: Option<String>,
) -> Result<ExitCode> {
    let ask =
        Ask { method: "POST", path: format!("/api/v1/groups/{group}/{verb}"), body: Some(json!({ "to": what.to })) };
    let change = Change { ask, danger, terms: what.terms };
    let text = perform(client, change, |_| Ok(format!("The plan: another primary for group {group}")))?;
    let answer: Answer = read(&text, "a failover")?;
    if what.terms.dry_run {
        json(&answer)?;
        return Ok(ExitCode::SUCCESS);
    }
    let id = answer.result["failover"]["id"].as_str().unwrap_or_default().to_owned();
    let end = Instant::now() + END_LIMIT;
    loop {
        let now: Failover = client.of_leader(&format!("/api/v1/failovers/{id}"))?;
        if matches!(now.phase, Phase::Repair | Phase::Done | Phase::Aborted) || Instant::now() > end {
            if as_json {
                json(&now)?
            } else {
                say(&story(&now))?
            }
            let good = matches!(now.phase, Phase::Repair | Phase::Done);
            return Ok(if good { ExitCode::SUCCESS } else { ExitCode::FAILURE });
        }
        std::thread::sleep(PAUSE);
    }
}

pub(super) fn automation(client: &mut Client, as_json: bool, verb: AutomationVerb) -> Result<ExitCode> {
    let (paused, terms) = match verb {
        AutomationVerb::Pause { terms } => (true, terms),
        AutomationVerb::Resume { terms } => (false, terms),
    };
    let ask = Ask {
        method: "PATCH",
        path: "/api/v1/settings".to_owned(),
        body: Some(json!({ "automation_paused": paused })),
    };
    change(client, as_json, Change { ask, danger: None, terms })
}

pub(super) fn guard(client: &mut Client, as_json: bool, verb: GuardVerb) -> Result<ExitCode> {
    let (path, body, terms) = match verb {
        GuardVerb::List => {
            let all: Value = client.get("/api/v1/guards")?;
            json(&all)?;
            return Ok(ExitCode::SUCCESS);
        }
        GuardVerb::Group { group, hang_ms, maintenance, terms } => {
            let path = format!("/api/v1/groups/{}/guard", id_of(client, &group)?);
            (path, json!({ "hang_ms": hang_ms, "maintenance": maintenance }), terms)
        }
        GuardVerb::Instance { group, addr, prefer, never, terms } => {
            let (id, addr) = (id_of(client, &group)?, part(&addr.to_string()));
            let path = format!("/api/v1/groups/{id}/instances/{addr}/guard");
            (path, json!({ "prefer": prefer, "never": never }), terms)
        }
    };
    change(client, as_json, Change { ask: Ask { method: "PATCH", path, body: Some(body) }, danger: None, terms })
}

/// Restarts every instance of a group by a command, replicas first, the primary after it has handed over.
pub(super) fn roll(client: &mut Client, group: &str, command: &str, terms: Terms) -> Result<ExitCode> {
    let id = id_of(client, group)?;
    let path = format!("/api/v1/groups/{id}");
    let before: Group = client.get(&path)?;
    let plan = format!(
        "Group {id}: {command:?} for {} replicas, a switchover, then for {}.",
        before.replicas.len(),
        before.primary
    );
    if terms.dry_run {
        return say(&plan).map(|()| ExitCode::SUCCESS);
    }
    super::change::confirm(terms.yes, &plan)?;
    if before.replicas.is_empty() {
        return Err(Fault::new(
            format!("group {id} has no replica to take over"),
            "add one: twemslotctl instances add",
        ));
    }
    for replica in &before.replicas {
        restart(client, replica, command)?;
    }
    let now: Group = client.get(&path)?;
    if now.primary != before.primary {
        return Err(Fault::new(
            format!("group {id}: {} has taken over from {} meanwhile", now.primary, before.primary),
            "roll it again: who was restarted already is so once more",
        ));
    }
    // Whoever is preferred or nearest, and none that may never be the primary.
    let what = Replace { group: id.to_string(), to: None, terms: Terms { dry_run: false, yes: true } };
    if replace(client, false, id, &what, "switchover", None)? != ExitCode::SUCCESS {
        return Err(Fault::new(format!("group {id}: the switchover was given up"), "see `twemslotctl failovers list`"));
    }
    restart(client, &before.primary, command)?;
    say(&format!("group {id}: every instance was restarted")).map(|()| ExitCode::SUCCESS)
}

/// Runs the command for one instance, and waits until another process follows there.
fn restart(client: &mut Client, addr: &Addr, command: &str) -> Result<()> {
    let look = |client: &mut Client| -> Result<Option<(String, bool)>> {
        let all: Vec<Value> = client.of_leader("/api/v1/instances")?;
        let found = all.iter().find(|i| i["addr"].as_str() == Some(&addr.to_string()));
        let in_step = |i: &Value| i["verdict"] == "up" && i["link_up"] == true;
        Ok(found.map(|i| (i["run_id"].as_str().unwrap_or_default().to_owned(), in_step(i))))
    };
    let before = wait_for(addr, "is no replica in step", || Ok(look(client)?.filter(|(_, in_step)| *in_step)))?;
    let line = command.replace("{addr}", &addr.to_string());
    say(&format!("{addr}: {line}"))?;
    let status = std::process::Command::new("sh").arg("-c").arg(&line).status();
    if !status.as_ref().is_ok_and(std::process::ExitStatus::success) {
        return Err(Fault::new(format!("{addr}: {line:?} failed: {status:?}"), "nothing more was done"));
    }
    let other = |now: &(String, bool)| now.0 != before.0 && now.1;
    wait_for(addr, "did not come back as another process in step", || Ok(look(client)?.filter(other))).map(drop)
}

fn wait_for<T>(addr: &Addr, what: &str, mut look: impl FnMut() -> Result<Option<T>>) -> Result<T> {
    let end = Instant::now() + ROLL_LIMIT;
    loop {
        if let Some(found) = look()? {
            return Ok(found);
        }
        if Instant::now() > end {
            return Err(Fault::new(format!("{addr} {what}"), "nothing more was done"));
        }
        std::thread::sleep(10 * PAUSE);
    }
}
