//! The verbs about slots that move: start, watch, steer.
#![expect(clippy::disallowed_methods, reason = "a shell: waits")]

use super::change::{Change, Terms, change, perform};
use super::client::{Ask, Client, id_of, read};
use super::fault::{Fault, Result};
use super::push;
use super::ranges::{Ranges, ranges};
use super::show::{bytes, json, lasting, or_dash, say, table};
use crate::control::task::TaskView;
use crate::control::task::{Mode, Task, TaskPhase, Window};
use crate::http::words::{Answer, MigrationLimits};
use clap::{Args, Subcommand};
use serde_json::{Value, json};
use std::io::{IsTerminal, Write};
use std::process::ExitCode;
use std::time::Duration;

const PAUSE: Duration = Duration::from_millis(250);

#[derive(Debug, Subcommand)]
pub enum MigrationsVerb {
    /// A line for each, also those that are over.
    List,
    /// One of them, with all that is known of it.
    Show {
        /// As `migrations list` names it.
        id: u64,
    },
    /// Slots from one group to another, with their keys, while clients write.
    Start {
        /// Whose slots they are: its id or its name.
        #[arg(long, value_name = "GROUP")]
        from: String,
        /// Who is to own them: its id or its name.
        #[arg(long, value_name = "GROUP")]
        to: String,
        /// `0-511,600`, numbered from 0.
        #[arg(long, value_name = "RANGES", value_parser = ranges, conflicts_with = "count")]
        slots: Option<Ranges>,
        /// So many of the source's last slots.
        #[arg(long, value_name = "N")]
        count: Option<u16>,
        #[command(flatten)]
        how: How,
        #[command(flatten)]
        terms: Terms,
    },
    /// Until they are over, with progress. Without a number: all that are under way.
    Watch {
        /// As `migrations list` names them.
        id: Vec<u64>,
    },
    /// Nothing goes on until it is resumed; what was copied is kept up to date.
    Pause {
        /// As `migrations list` names it.
        id: u64,
        #[command(flatten)]
        terms: Terms,
    },
    /// One that was paused, or that waits for somebody, goes on.
    Resume {
        /// As `migrations list` names it.
        id: u64,
        /// Also where the target seems to have too little memory.
        #[arg(long)]
        force: bool,
        #[command(flatten)]
        terms: Terms,
    },
    /// The source keeps its slots, the copy is removed.
    Cancel {
        /// As `migrations list` names it.
        id: u64,
        #[command(flatten)]
        terms: Terms,
    },
    /// The same slots, back to where they came from.
    Reverse {
        /// As `migrations list` names it.
        id: u64,
        /// Until it is over.
        #[arg(long)]
        wait: bool,
        #[command(flatten)]
        terms: Terms,
    },
    /// How hard it may push, at once, also in the middle of a copy; what is not named stays.
    Limit {
        /// As `migrations list` names it.
        id: u64,
        #[command(flatten)]
        limits: LimitArgs,
        #[command(flatten)]
        terms: Terms,
    },
}

/// How migrations go.
#[derive(Debug, Clone, Default, PartialEq, Args)]
pub struct How {
    /// `copy`: the target follows the source until all slots change hands at once. `on-access`: it serves them from the
    /// beginning, and keys come when they are used.
    #[arg(long, value_name = "copy|on-access", default_value = "copy", hide_default_value = true)]
    pub(super) mode: Mode,
    /// Until they are over.
    #[arg(long)]
    pub(super) wait: bool,
    /// Only within these hours, in UTC.
    #[arg(long, value_name = "22:00-06:00")]
    window: Option<Window>,
    /// Do not compare both sides before the source's keys are removed.
    #[arg(long)]
    no_audit: bool,
    /// Also where the target seems to have too little memory.
    #[arg(long)]
    pub(super) force: bool,
    #[command(flatten)]
    limits: LimitArgs,
}

impl How {
    /// The body of a call that begins these moves.
    pub(super) fn body(&self, moves: &Value, epoch: Option<u64>) -> Value {
        let mut body = json!({ "moves": moves, "limits": self.limits(), "window": self.window });
        (body["skip_audit"], body["force"], body["epoch"]) = (self.no_audit.into(), self.force.into(), epoch.into());
        body["mode"] = json!(self.mode);
        body
    }

    /// What people should know of the mode before they say yes.
    pub(super) fn warning(&self) -> String {
        if self.mode == Mode::OnAccess { WEAKER.to_owned() } else { String::new() }
    }

    pub(super) fn waiting(&self) -> Self {
        Self { wait: true, ..self.clone() }
    }

    pub(super) fn limits(&self) -> MigrationLimits {
        self.limits.into()
    }
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Args)]
pub struct LimitArgs {
    /// 0: no limit.
    #[arg(long, value_name = "N")]
    keys_per_s: Option<u64>,
    /// 0: no limit.
    #[arg(long, value_name = "BYTES")]
    bytes_per_s: Option<u64>,
    /// A PING to either side that takes longer slows the copy down; 0: never.
    #[arg(long, value_name = "MS")]
    latency_ms: Option<u64>,
    /// The largest value that is copied in one piece.
    #[arg(long, value_name = "BYTES")]
    value_bytes: Option<u64>,
}

impl From<LimitArgs> for MigrationLimits {
    fn from(args: LimitArgs) -> Self {
        let LimitArgs { keys_per_s, bytes_per_s, latency_ms, value_bytes } = args;
        Self { keys_per_s, bytes_per_s, latency_ms, value_bytes }
    }
}

pub(super) fn migrations(client: &mut Client, as_json: bool, verb: MigrationsVerb) -> Result<ExitCode> {
    let post = |path: String, body: Option<Value>| Ask { method: "POST", path, body };
    let steer = |id: u64, verb: &str| post(format!("/api/v1/migrations/{id}/{verb}"), None);
    match verb {
        MigrationsVerb::List => {
            let all: Vec<TaskView> = client.of_leader("/api/v1/migrations")?;
            if as_json {
                json(&all)?
            } else {
                say(&screen(&all))?
            }
            Ok(ExitCode::SUCCESS)
        }
        MigrationsVerb::Show { id } => {
            let one: TaskView = client.of_leader(&format!("/api/v1/migrations/{id}"))?;
            if as_json {
                json(&one)?
            } else {
                say(&story(&one))?
            }
            Ok(ExitCode::SUCCESS)
        }
        MigrationsVerb::Start { from, to, slots, count, how, terms } => {
            let (from, to) = (id_of(client, &from)?, id_of(client, &to)?);
            let spans: Option<Vec<Value>> =
                slots.map(|s| s.0.iter().map(|(from, to)| json!({ "from": from, "to": to })).collect());
            let one = json!({ "from": from, "to": to, "slots": spans.unwrap_or_default(), "count": count });
            let body = how.body(&json!([one]), None);
            let ask = post("/api/v1/migrations".to_owned(), Some(body));
            let danger = danger_of(how.mode);
            let plan = |text: &str| Ok(format!("The plan: {}", begun_in_words(text)?));
            let text = perform(client, Change { ask, danger: Some(danger.to_owned()), terms }, plan)?;
            if terms.dry_run {
                return say(&begun_in_words(&text)?).map(|()| ExitCode::SUCCESS);
            }
            follow(client, as_json, &begun(&text)?, how.wait)
        }
        MigrationsVerb::Watch { id } => watch(client, &id).map(code),
        MigrationsVerb::Pause { id, terms } => {
            change(client, as_json, Change { ask: steer(id, "pause"), danger: None, terms })
        }
        MigrationsVerb::Resume { id, force, terms } => {
            if force && !terms.dry_run {
                let (path, body) = (format!("/api/v1/migrations/{id}"), Some(json!({ "force": true })));
                client.ask(&Ask { method: "PATCH", path, body })?;
            }
            change(client, as_json, Change { ask: steer(id, "resume"), danger: None, terms })
        }
        MigrationsVerb::Cancel { id, terms } => {
            change(client, as_json, Change { ask: steer(id, "cancel"), danger: None, terms })
        }
        MigrationsVerb::Reverse { id, wait, terms } => {
            let text =
                perform(client, Change { ask: steer(id, "reverse"), danger: None, terms }, |_| Ok(String::new()))?;
            if terms.dry_run {
                return say(&begun_in_words(&text)?).map(|()| ExitCode::SUCCESS);
            }
            follow(client, as_json, &begun(&text)?, wait)
        }
        MigrationsVerb::Limit { id, limits, terms } => {
            let limits: MigrationLimits = limits.into();
            let ask = Ask { method: "PATCH", path: format!("/api/v1/migrations/{id}"), body: Some(json!(limits)) };
            change(client, as_json, Change { ask, danger: None, terms })
        }
    }
}

/// What is not as safe on access.
const WEAKER: &str = "On access: until all keys have come, the failover of either group may lose writes to these slots, or \
                      bring back what was removed, as far as its replica had not heard of them.";

fn danger_of(mode: Mode) -> String {
    match mode {
        Mode::Copy => {
            "While it copies, clients notice nothing; when the slots change hands, they wait for some milliseconds. \
                       It can be cancelled until then, and reversed afterwards."
                .to_owned()
        }
        Mode::OnAccess => format!(
            "Clients wait for some milliseconds, then the target serves the slots; each key comes when it is used. It can be \
             cancelled until then, and reversed when all have come.\n{WEAKER}"
        ),
    }
}

fn tasks(text: &str) -> Result<Vec<Task>> {
    let answer: Answer = read(text, "a migration")?;
    serde_json::from_value(answer.result["migrations"].clone())
        .map_err(|e| Fault::new(format!("the answer is not understood: {e}"), "is this program as new as the members?"))
}

pub(super) fn begun(text: &str) -> Result<Vec<u64>> {
    Ok(tasks(text)?.iter().map(|task| task.id).collect())
}

fn begun_in_words(text: &str) -> Result<String> {
    let line = |t: &Task| format!("{} slots ({}) from group {} to group {}", t.slots().count(), list(t), t.from, t.to);
    Ok(tasks(text)?.iter().map(line).collect::<Vec<_>>().join("\n"))
}

fn list(task: &Task) -> String {
    let span = |s: &crate::control::task::Span| {
        if s.from == s.to { s.from.to_string() } else { format!("{}-{}", s.from, s.to) }
    };
    let mut spans: Vec<String> = task.slots.iter().take(6).map(span).collect();
    if task.slots.len() > 6 {
        spans.push("...".to_owned());
    }
    spans.join(",")
}

/// What was begun; and with `wait`, until it is over.
pub(super) fn follow(client: &mut Client, as_json: bool, ids: &[u64], wait: bool) -> Result<ExitCode> {
    let well = !wait || watch_quietly(client, ids, !as_json)?;
    let mut all: Vec<TaskView> = client.of_leader("/api/v1/migrations")?;
    all.retain(|m| ids.contains(&m.task.id));
    if as_json {
        json(&all)?
    } else {
        say(&screen(&all))?
    }
    Ok(code(well))
}

pub(super) fn code(well: bool) -> ExitCode {
    if well { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// Those that are not over, and have to do with a group.
pub(super) fn open_of(client: &mut Client, group: u32) -> Result<Vec<u64>> {
    let all: Vec<TaskView> = client.of_leader("/api/v1/migrations")?;
    let open = all.iter().map(|m| &m.task).filter(|t| !t.phase.is_over());
    Ok(open.filter(|t| t.from == group || t.to == group).map(|t| t.id).collect())
}

fn watch(client: &mut Client, ids: &[u64]) -> Result<bool> {
    let mut ids = ids.to_vec();
    if ids.is_empty() {
        let all: Vec<TaskView> = client.of_leader("/api/v1/migrations")?;
        ids.extend(all.iter().filter(|m| !m.task.phase.is_over()).map(|m| m.task.id));
    }
    if ids.is_empty() {
        return say("no migration is under way").map(|()| true);
    }
    watch_quietly(client, &ids, true)
}

/// Until all are over: whether all are done. On a terminal the bars are drawn over each other; elsewhere a line for each change.
pub(super) fn watch_quietly(client: &mut Client, ids: &[u64], shown: bool) -> Result<bool> {
    let terminal = std::io::stderr().is_terminal();
    let (mut drawn, mut last) = (0, String::new());
    loop {
        let mut all: Vec<TaskView> = client.of_leader("/api/v1/migrations")?;
        all.retain(|m| ids.contains(&m.task.id));
        let over = all.iter().all(|m| m.task.phase.is_over());
        let lines: Vec<String> = all.iter().map(|m| if terminal { bar(m) } else { line(m) }).collect();
        if shown && (terminal || lines.join("\n") != last) {
            let up = if terminal && drawn > 0 { format!("\x1b[{drawn}A") } else { String::new() };
            let text: String = lines.iter().map(|l| format!("{l}{}\n", if terminal { "\x1b[K" } else { "" })).collect();
            _ = std::io::stderr().write_all(format!("{up}{text}").as_bytes()); // nobody reads it: nobody needs it
            (drawn, last) = (lines.len(), lines.join("\n"));
        }
        if over {
            if let Err(fault) = push::runs(client, &all) {
                eprintln!("how it went could not be told: {fault}"); // it went as it went all the same
            }
            return Ok(all.iter().all(|m| m.task.phase == TaskPhase::Done));
        }
        if let Some(stuck) = all.iter().find(|m| m.task.paused && m.task.note.is_some()) {
            let why = stuck.task.note.clone().unwrap_or_default();
            let hint = format!("then: twemslotctl migrations resume {0}, or cancel {0}", stuck.task.id);
            return Err(Fault::new(format!("migration {}: {why}", stuck.task.id), hint));
        }
        std::thread::sleep(PAUSE);
    }
}

/// In percent of what is to be scanned; the rest of it is short.
fn percent(m: &TaskView) -> u64 {
    match (m.task.phase, &m.progress) {
        (TaskPhase::Done | TaskPhase::Clean, _) => 100,
        (TaskPhase::Waiting, _) | (_, None) => 0,
        (_, Some(p)) if matches!(m.stage.as_deref(), Some("copying" | "fetching")) => {
            (p.scanned * 95 / p.to_scan.max(1)).min(95)
        }
        (_, Some(_)) if m.stage.as_deref() == Some("purging") => 0,
        (_, Some(_)) => 97,
    }
}

fn stage(m: &TaskView) -> String {
    let told = matches!(m.task.phase, TaskPhase::Copy | TaskPhase::Fetch);
    let stage = m.stage.as_deref().filter(|_| told).unwrap_or(m.task.phase.word());
    let paused = if m.task.paused { ", paused" } else { "" };
    format!("migration {}: group {} -> {}: {stage}{paused}", m.task.id, m.task.from, m.task.to)
}

/// Where there is no terminal: only what does not change all the time.
fn line(m: &TaskView) -> String {
    let ended = m.task.tally.map(|t| format!(" ({} keys, pause {} ms)", t.keys, t.pause_ms));
    format!("{}{}", stage(m), ended.unwrap_or_default())
}

fn bar(m: &TaskView) -> String {
    let percent = percent(m);
    let full = (percent / 5) as usize;
    let bar = format!("{} [{}{}] {percent:>3} %", stage(m), "#".repeat(full), ".".repeat(20 - full));
    format!("{bar}  {}", numbers(m).join(", "))
}

/// How far it is.
fn numbers(m: &TaskView) -> Vec<String> {
    let mut all = Vec::new();
    match (&m.task.tally, &m.progress) {
        (Some(_), Some(p)) if m.task.phase == TaskPhase::Fetch => {
            all.push(format!("{} keys", p.copied));
            all.extend(p.eta_ms.map(|ms| format!("{} to go", lasting(ms))));
        }
        (Some(t), _) if m.task.mode == Mode::OnAccess => all.push(format!("{} keys", t.keys)),
        (Some(t), _) => all.extend([format!("{} keys", t.keys), bytes(t.bytes)]),
        (None, Some(p)) => {
            all.extend([format!("{} keys", p.copied), bytes(p.bytes), format!("dirty {}", p.dirty)]);
            all.push(format!("lag {}", bytes(p.lag_bytes)));
            all.extend(p.eta_ms.map(|ms| format!("{} to go", lasting(ms))));
        }
        (None, None) => {}
    }
    let pause = m.task.tally.map(|t| t.pause_ms).or(m.progress.and_then(|p| p.held_ms));
    all.extend(pause.map(|ms| format!("pause {ms} ms")));
    all
}

/// Keys that were copied or moved.
fn keys_of(m: &TaskView) -> Option<u64> {
    let tally = m.task.tally.filter(|_| m.task.phase != TaskPhase::Fetch).map(|t| t.keys);
    tally.or(m.progress.map(|p| p.copied))
}

fn screen(all: &[TaskView]) -> String {
    let row = |m: &TaskView| {
        let paused = if m.task.paused { " (paused)" } else { "" };
        vec![
            m.task.id.to_string(),
            m.task.from.to_string(),
            m.task.to.to_string(),
            format!("{} ({})", m.slot_count, list(&m.task)),
            m.task.mode.word().to_owned(),
            format!("{}{paused}", m.task.phase.word()),
            format!("{} %", percent(m)),
            or_dash(keys_of(m)),
            or_dash(m.task.tally.map(|t| format!("{} ms", t.pause_ms))),
            m.trouble.clone().or_else(|| m.task.note.clone()).unwrap_or_default(),
        ]
    };
    table(&["ID", "FROM", "TO", "SLOTS", "MODE", "PHASE", "DONE", "KEYS", "PAUSE", "NOTE"], all.iter().map(row))
}

fn story(m: &TaskView) -> String {
    let t = &m.task;
    let mut lines = vec![format!("migration {}: {} slots from group {} to group {}", t.id, m.slot_count, t.from, t.to)];
    lines.push(format!("slots      {}", list(t)));
    lines.push(format!("mode       {}", t.mode.word()));
    lines.push(format!("phase      {}{}", t.phase.word(), if t.paused { ", paused" } else { "" }));
    lines.extend(m.stage.iter().map(|stage| format!("stage      {stage}")));
    if let (Some(p), TaskPhase::Fetch) = (&m.progress, t.phase) {
        let far = format!("{} of {} keys met, {} moved", p.scanned, p.to_scan, p.copied);
        lines.push(format!("progress   {far}; proxies move what is used beside that"));
    } else if let Some(p) = &m.progress {
        let far = format!("{} of {} keys met, {} copied ({} bytes)", p.scanned, p.to_scan, p.copied, p.bytes);
        lines.push(format!("progress   {far}, {} commands applied", p.applied));
        lines.push(format!("left       {} keys to be copied again, {} bytes of the stream", p.dirty, p.lag_bytes));
        lines.extend(p.eta_ms.map(|ms| format!("to go      {} until all keys were met once", lasting(ms))));
        lines.extend(p.held_ms.map(|ms| format!("held       for {ms} ms by now")));
    }
    lines.push(format!("fences     {}", t.fences));
    if let Some(tally) = &t.tally {
        lines.push(format!("pause      {} ms", tally.pause_ms));
        if t.mode == Mode::OnAccess {
            lines.push(format!("moved      {} keys by itself, beside those that proxies moved", tally.keys));
        } else {
            let copied = format!("{} keys, {} bytes; {} commands applied", tally.keys, tally.bytes, tally.applied);
            lines.push(format!("copied     {copied}"));
        }
        lines.push(format!("removed    {} keys at the source", tally.removed));
    }
    if t.skip_audit {
        lines.push("audit      nobody wanted one".to_owned());
    }
    if let Some(found) = t.audit.as_ref().filter(|_| t.mode == Mode::OnAccess) {
        lines.push(format!("left       {} keys at the source when all had come", found.compared));
    } else if let Some(found) = &t.audit {
        let wrong = format!("{} missing, {} different, {} extra", found.missing, found.different, found.extra);
        let all = format!("{} keys compared, {} equal, {} written since", found.compared, found.equal, found.changed);
        let apart = if found.told_apart { "" } else { " (or not: another leader ran the copy)" };
        lines.push(format!("audit      {all}{apart}; {wrong}"));
        lines.extend(found.examples.iter().map(|example| format!("           {example}")));
    }
    let after = |at: u64| format!("{} ms after it was asked for", at.saturating_sub(t.times.created));
    let times = [("begun", t.times.begun), ("committed", t.times.committed), ("ended", t.times.ended)];
    lines.extend(times.iter().filter_map(|(word, at)| Some(format!("{word:<10} {}", after((*at)?)))));
    lines.extend(m.trouble.iter().map(|why| format!("trouble    {why}")));
    lines.extend(t.note.iter().map(|note| format!("note       {note}")));
    lines.join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn view(task: &Value, progress: Option<&Value>) -> TaskView {
        let mut all = json!({ "id": 3, "from": 1, "to": 2, "slots": [{"from": 0, "to": 9}], "state": 3, "phase": "copy",
            "times": {"created": 0}, "slot_count": 10, "stage": "copying" });
        for (name, value) in task.as_object().into_iter().flatten() {
            all[name] = value.clone();
        }
        all["progress"] = progress.cloned().unwrap_or_default();
        serde_json::from_value(all).expect("a migration")
    }

    #[test]
    fn a_bar_says_how_far_it_is_and_what_is_left() {
        let progress = json!({ "attempt": 1, "scanned": 500, "to_scan": 1000, "copied": 200, "bytes": 2048, "applied": 7,
            "dirty": 3, "lag_bytes": 12, "age_ms": 1, "eta_ms": 61_000 });
        let text = "migration 3: group 1 -> 2: copying [#########...........]  47 %  200 keys, 2.0 KiB, dirty 3, lag 12 B, \
                    1 min 1 s to go";
        assert_eq!(bar(&view(&json!({}), Some(&progress))), text);
        let tally = json!({ "keys": 200, "bytes": 2048, "applied": 7, "pause_ms": 31 });
        let done = view(&json!({ "phase": "done", "tally": tally }), None);
        assert_eq!(line(&done), "migration 3: group 1 -> 2: done (200 keys, pause 31 ms)");
        assert!(bar(&done).ends_with("100 %  200 keys, 2.0 KiB, pause 31 ms"), "{}", bar(&done));
    }
}
