//! The verbs for what is written down: the audit trail, the news, whole topologies, whole stores.
#![expect(clippy::disallowed_methods, reason = "a shell: reads and writes files, waits")]

use super::change::{Change, Terms, change};
use super::client::{Ask, Client, Miss};
use super::codis::{self, Converted};
use super::fault::{Fault, Result};
use super::show::{brief, json, say, table, time};
use crate::http::words::{EXPORT_FORMAT, Export, Record, StoreServer};
use clap::{Args, Subcommand};
use cluster::wire::Message;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::mpsc::{self, RecvTimeoutError};
use std::time::Duration;

#[derive(Debug, Args)]
pub struct Audit {
    /// At most so many.
    #[arg(long, default_value_t = 20)]
    limit: u32,
    /// Only what came before this revision.
    #[arg(long, value_name = "REVISION")]
    before: Option<u64>,
}

#[derive(Debug, Args)]
pub struct Import {
    /// A topology as proxies read it, or with --codis the output of `codis-admin --config-dump`.
    file: PathBuf,
    /// The file is a Codis config dump.
    #[arg(long)]
    codis: bool,
    /// The cluster's name, where the file has none.
    #[arg(long, default_value = "cluster")]
    name: String,
    /// Over the cluster that is there; slot count and tag rule must be the same.
    #[arg(long)]
    replace: bool,
    /// Take it as it is, without a look at the instances.
    #[arg(long)]
    no_probe: bool,
    #[command(flatten)]
    terms: Terms,
}

#[derive(Debug, Subcommand)]
pub enum StoreVerb {
    /// Save all keys to a file, or to standard output.
    Export {
        /// Otherwise: standard output.
        file: Option<PathBuf>,
    },
    /// Load such a file into the store of a control plane that has no cluster yet.
    Import {
        /// What `store export` saved.
        file: PathBuf,
        #[command(flatten)]
        terms: Terms,
    },
    /// The servers of etcd, each asked by itself. Ends with 1 where one does not answer or complains.
    Servers,
    /// Compare a file with another, or with the store as it is now. Ends with 1 where they differ.
    Diff {
        /// What `store export` saved.
        a: PathBuf,
        /// Another such file. Otherwise: the store as it is now.
        b: Option<PathBuf>,
    },
}

pub(super) fn audit(client: &mut Client, as_json: bool, audit: &Audit) -> Result<ExitCode> {
    let before = audit.before.map(|b| format!("&before={b}")).unwrap_or_default();
    let records: Vec<Record> = client.get(&format!("/api/v1/audit?limit={}{before}", audit.limit))?;
    if as_json {
        json(&records)?;
        return Ok(ExitCode::SUCCESS);
    }
    let row = |r: &Record| {
        let epoch = if r.epoch_before == r.epoch_after { "-".to_owned() } else { r.epoch_after.to_string() };
        let mut command = r.command.clone();
        command.as_object_mut().map(|c| c.remove("command")); // `what` says it
        vec![r.revision.to_string(), time(r.at), r.who.clone(), r.what.clone(), epoch, brief(&command)]
    };
    say(&table(&["REVISION", "TIME (UTC)", "WHO", "WHAT", "EPOCH", "COMMAND"], records.iter().map(row)))?;
    Ok(ExitCode::SUCCESS)
}

/// A member says something at least every 15 s (`http::limits::KEEP_ALIVE`): one that is silent for so long is gone.
const SILENT_MAX: Duration = Duration::from_secs(40);
/// Between two tries to listen again: the first, and the longest.
const PAUSES: (Duration, Duration) = (Duration::from_millis(250), Duration::from_secs(5));

/// Until somebody ends it: when the member that was listened to goes away, another one is asked, or the same one again.
pub(super) fn events(client: &mut Client, as_json: bool) -> Result<ExitCode> {
    listen(client, SILENT_MAX, &mut |kind, data| say(&news(kind, data, as_json)))
}

/// `hear` is given the kind and the data of each; its error ends it.
fn listen(
    client: &mut Client,
    silent_max: Duration,
    hear: &mut dyn FnMut(&str, &str) -> Result<()>,
) -> Result<ExitCode> {
    let mut pause = PAUSES.0;
    let mut heard = false;
    loop {
        match client.listen("/api/v1/events?leader=true") {
            Ok(stream) => {
                if heard {
                    eprintln!("twemslotctl: listening again; first come the alarms of now, then the news");
                }
                (heard, pause) = (true, PAUSES.0);
                let why = follow(stream, silent_max, hear)?;
                eprintln!("twemslotctl: {why}: news may be missed until this listens again");
            }
            // Whoever has listened once is patient; whoever has not learns what is wrong.
            Err(Miss::Later(_)) if heard => pause = (pause * 2).min(PAUSES.1),
            Err(Miss::Later(fault) | Miss::Final(fault)) => return Err(fault),
        }
        std::thread::sleep(pause);
    }
}

/// Reads one stream to its end; why it ended.
fn follow(
    stream: impl Read + Send + 'static,
    silent_max: Duration,
    hear: &mut dyn FnMut(&str, &str) -> Result<()>,
) -> Result<String> {
    // A thread of its own, so that a machine that vanished without a word is noticed. Bounded: a slow reader is told by
    // the API what it missed.
    let (send, lines) = mpsc::sync_channel(64);
    std::thread::spawn(move || BufReader::new(stream).lines().try_for_each(|line| send.send(line)));
    let mut kind = String::new();
    loop {
        match lines.recv_timeout(silent_max) {
            Ok(Ok(line)) => match (line.strip_prefix("event:"), line.strip_prefix("data:")) {
                (Some(named), _) => named.trim().clone_into(&mut kind),
                (_, Some(data)) => hear(&kind, data.trim())?,
                _ => {} // a sign of life, or an empty line
            },
            Ok(Err(e)) => return Ok(format!("the stream broke ({e})")),
            Err(RecvTimeoutError::Disconnected) => return Ok("the member closed the stream".to_owned()),
            Err(RecvTimeoutError::Timeout) => return Ok(format!("the member said nothing for {silent_max:?}")),
        }
    }
}

fn news(kind: &str, data: &str, as_json: bool) -> String {
    let value: Value = serde_json::from_str(data).unwrap_or_else(|_| json!(data));
    if as_json {
        return match value {
            Value::Object(mut map) => {
                map.entry("kind").or_insert_with(|| json!(kind)); // `lagged` has none of its own
                Value::Object(map).to_string()
            }
            other => other.to_string(),
        };
    }
    if let Some(missed) = value["missed"].as_u64() {
        return format!("! {missed} news were missed: this listener was too slow");
    }
    let text = |name: &str| value[name].as_str().unwrap_or_default().to_owned();
    let mark = match (value["alarm"] == true, value["settled"] == true) {
        (true, false) => "! ",
        (_, true) => "ok ",
        _ => "",
    };
    let subject = Some(text("subject")).filter(|s| !s.is_empty()).map(|s| format!(" {s}")).unwrap_or_default();
    format!("{mark}{kind}{subject}: {} (epoch {})", text("message"), value["epoch"])
}

fn text_of(path: &Path) -> Result<String> {
    let hint = "say the path of a file that you can read";
    std::fs::read_to_string(path).map_err(|e| Fault::new(format!("{}: {e}", path.display()), hint))
}

pub(super) fn import(client: &mut Client, as_json: bool, import: Import) -> Result<ExitCode> {
    let Import { file, codis, name, replace, no_probe, terms } = import;
    let text = text_of(&file)?;
    let Converted { message, notes } =
        if codis { codis::convert(&text, &name)? } else { topology(&file, &text, &name)? };
    notes.iter().for_each(|n| eprintln!("note: {n}"));
    let body = json!({ "topology": message, "replace": replace, "probe": !no_probe });
    let ask = Ask { method: "POST", path: "/api/v1/import".to_owned(), body: Some(body) };
    let danger = "The cluster that is there goes: where a slot changes its group, its keys stay behind.";
    change(client, as_json, Change { ask, danger: replace.then(|| danger.to_owned()), terms })
}

/// A topology file. All its faults are told before anybody is asked.
fn topology(file: &Path, text: &str, name: &str) -> Result<Converted> {
    let hint = "it should look as GET /api/v1/topology answers; for a Codis dump say --codis";
    let at = |why: String| Fault::new(format!("{}: {why}", file.display()), hint);
    let mut message: Message = serde_json::from_str(text).map_err(|e| at(e.to_string()))?;
    if message.name.is_empty() {
        name.clone_into(&mut message.name);
    }
    message.epoch = message.epoch.max(1);
    message.clone().check().map_err(|faults| at(faults.join("; ")))?;
    Ok(Converted { message, notes: Vec::new() })
}

pub(super) fn store(client: &mut Client, as_json: bool, verb: StoreVerb) -> Result<ExitCode> {
    match verb {
        StoreVerb::Export { file } => export(client, as_json, file.as_deref()),
        StoreVerb::Import { file, terms } => {
            let body = Some(json!(export_of(&file)?));
            let ask = Ask { method: "POST", path: "/api/v1/store/import".to_owned(), body };
            change(client, as_json, Change { ask, danger: None, terms })
        }
        StoreVerb::Servers => servers(client, as_json),
        StoreVerb::Diff { a, b: Some(b) } => diff_files(&a, &b, as_json),
        StoreVerb::Diff { a, b: None } => {
            let live: Export = client.get("/api/v1/store/export")?;
            diff(&export_of(&a)?, &live, as_json)
        }
    }
}

fn servers(client: &mut Client, as_json: bool) -> Result<ExitCode> {
    let all: Vec<StoreServer> = client.get("/api/v1/store/servers")?;
    let row = |s: &StoreServer| {
        let size = s.bytes.map_or_else(|| "-".to_owned(), |b| format!("{} KiB", b >> 10));
        let state = s.fault.as_ref().map_or_else(|| "well".to_owned(), |fault| format!("! {fault}"));
        let role = if s.leading { "leader" } else { "-" }.to_owned();
        vec![s.addr.clone(), s.version.clone().unwrap_or_else(|| "-".to_owned()), role, size, state]
    };
    match (as_json, all.is_empty()) {
        (true, _) => json(&all)?,
        (false, true) => say("the store is embedded: it has no servers but the members")?,
        (false, false) => say(&table(&["ADDR", "VERSION", "ROLE", "SIZE", "STATE"], all.iter().map(row)))?,
    }
    Ok(if all.iter().any(|s| s.fault.is_some()) { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

fn export(client: &mut Client, as_json: bool, file: Option<&Path>) -> Result<ExitCode> {
    let export: Export = client.get("/api/v1/store/export")?;
    let Some(path) = file else { return json(&export).map(|()| ExitCode::SUCCESS) };
    let text = serde_json::to_string_pretty(&export).unwrap_or_default() + "\n";
    let draft = path.with_extension("draft"); // a full disk leaves the old file as it was
    let written = std::fs::write(&draft, text).and_then(|()| std::fs::rename(&draft, path));
    written.map_err(|e| Fault::new(format!("{}: {e}", path.display()), "say a path that you can write to"))?;
    let (keys, revision) = (export.entries.len(), export.revision);
    if as_json {
        json(&json!({ "file": path, "keys": keys, "revision": revision, "store": export.store }))?;
    } else {
        say(&format!("{keys} keys at revision {revision} of {} are in {}", export.store, path.display()))?;
    }
    Ok(ExitCode::SUCCESS)
}

fn export_of(path: &Path) -> Result<Export> {
    let hint = "it should be what `twemslotctl store export FILE` wrote";
    let at = |why: String| Fault::new(format!("{}: {why}", path.display()), hint);
    let export: Export = serde_json::from_str(&text_of(path)?).map_err(|e| at(e.to_string()))?;
    if export.format != EXPORT_FORMAT {
        return Err(at(format!("its format is {:?}, not {EXPORT_FORMAT:?}", export.format)));
    }
    Ok(export)
}

/// Needs no control plane.
pub(super) fn diff_files(a: &Path, b: &Path, as_json: bool) -> Result<ExitCode> {
    diff(&export_of(a)?, &export_of(b)?, as_json)
}

fn diff(a: &Export, b: &Export, as_json: bool) -> Result<ExitCode> {
    let differences = differences(a, b);
    if as_json {
        let row = |(key, (a, b)): (&String, &(Option<String>, Option<String>))| json!({ "key": key, "a": a, "b": b });
        json(&differences.iter().map(row).collect::<Vec<_>>())?;
    } else {
        for (key, (a, b)) in &differences {
            a.iter().try_for_each(|a| say(&format!("- {key} {a}")))?;
            b.iter().try_for_each(|b| say(&format!("+ {key} {b}")))?;
        }
    }
    Ok(if differences.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// By key: what each of them has. Values that are the same JSON are the same.
fn differences(a: &Export, b: &Export) -> BTreeMap<String, (Option<String>, Option<String>)> {
    let mut all: BTreeMap<String, (Option<String>, Option<String>)> = BTreeMap::new();
    for entry in &a.entries {
        all.entry(entry.key.clone()).or_default().0 = Some(entry.value.clone());
    }
    for entry in &b.entries {
        all.entry(entry.key.clone()).or_default().1 = Some(entry.value.clone());
    }
    let meaning =
        |text: &Option<String>| text.as_ref().map(|t| serde_json::from_str::<Value>(t).unwrap_or_else(|_| json!(t)));
    all.retain(|_, (a, b)| meaning(a) != meaning(b));
    all
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ctl::client::Reach;
    use crate::http::words::Exported;
    use std::io::Write;

    fn export(entries: &[(&str, &str)]) -> Export {
        let entry = |(key, value): &(&str, &str)| Exported { key: (*key).to_owned(), value: (*value).to_owned() };
        let entries = entries.iter().map(entry).collect();
        Export { format: EXPORT_FORMAT.to_owned(), revision: 1, store: "x".to_owned(), entries }
    }

    #[test]
    fn differences_are_those_of_meaning() {
        let a = export(&[("same", r#"{"a":1,"b":2}"#), ("gone", "1"), ("changed", "1"), ("text", "not json")]);
        let b = export(&[("same", r#"{ "b": 2, "a": 1 }"#), ("changed", "2"), ("new", "3"), ("text", "not json")]);
        let found: Vec<String> = differences(&a, &b).into_keys().collect();
        assert_eq!(found, ["changed", "gone", "new"]);
        assert!(differences(&a, &a).is_empty());
    }

    #[test]
    fn a_file_of_another_kind_is_refused() {
        let dir = tempfile::tempdir().expect("a directory");
        let file = dir.path().join("export");
        let refused = |text: &str| {
            std::fs::write(&file, text).expect("written");
            export_of(&file).expect_err(text).what
        };
        assert!(refused(r#"{"format":"other","revision":1,"store":"","entries":[]}"#).contains("format"));
        assert!(refused("[]").contains("export"));
        std::fs::write(&file, json!(export(&[("a", "1")])).to_string()).expect("written");
        assert_eq!(export_of(&file), Ok(export(&[("a", "1")])));
    }

    #[test]
    fn a_topology_file_is_checked_before_it_is_sent() {
        let good = r#"{"epoch":0,"groups":[{"id":1,"instances":[{"addr":"10.0.0.1:1","role":"master"}]}],"slots":[]}"#;
        let converted = topology(Path::new("f"), good, "shop").expect("good");
        assert_eq!((converted.message.epoch, converted.message.name.as_str()), (1, "shop"));
        let fault = topology(Path::new("f"), r#"{"epoch":1,"groups":[{"id":1,"instances":[]}],"slots":[]}"#, "shop");
        assert!(fault.expect_err("no primary").what.contains("f: group 1: 0 primaries"));
    }

    /// A member that serves one listener after another: each hears one piece of news, and the stream closes, falls silent,
    /// or is refused.
    fn member(ends: &'static [&'static str]) -> String {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
        let addr = listener.local_addr().expect("bound");
        std::thread::spawn(move || {
            let mut held = Vec::new();
            for (n, (end, stream)) in ends.iter().zip(listener.incoming()).enumerate() {
                let mut stream = stream.expect("a listener");
                let mut head = BufReader::new(stream.try_clone().expect("ours")).lines();
                while head.next().is_some_and(|line| line.is_ok_and(|line| !line.is_empty())) {}
                let answer = match *end {
                    "refuses" => "HTTP/1.1 401 Unauthorized\r\ncontent-length: 0\r\n\r\n".to_owned(),
                    "is busy" => "HTTP/1.1 503 Unavailable\r\ncontent-length: 0\r\n\r\n".to_owned(),
                    _ => {
                        format!("HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n\r\nevent: e{n}\ndata: {n}\n\n")
                    }
                };
                stream.write_all(answer.as_bytes()).expect("sent");
                if *end == "falls silent" {
                    held.push(stream);
                }
            }
        });
        format!("http://{addr}")
    }

    #[test]
    fn events_are_listened_to_again() {
        let api = member(&["closes", "is busy", "falls silent", "closes", "refuses"]);
        let reach = Reach { api: Some(api), ..Reach::default() };
        let mut client = Client::find(&reach).expect("an address");
        let mut heard = Vec::new();
        let ended = listen(&mut client, Duration::from_millis(300), &mut |kind, data| {
            heard.push(format!("{kind}={data}"));
            Ok(())
        });
        assert!(ended.expect_err("refused").what.contains("401"));
        assert_eq!(heard, ["e0=0", "e2=2", "e3=3"]);
        // Who never listened is told at once.
        let nobody = Reach { api: Some("127.0.0.1:1".to_owned()), ..Reach::default() };
        let mut client = Client::find(&nobody).expect("an address");
        assert!(listen(&mut client, SILENT_MAX, &mut |_, _| Ok(())).is_err());
    }

    #[test]
    fn news_are_one_line() {
        let data =
            r#"{"kind":"proxy_lost","alarm":true,"settled":false,"subject":"p1","message":"no heartbeat","epoch":7}"#;
        assert_eq!(news("proxy_lost", data, false), "! proxy_lost p1: no heartbeat (epoch 7)");
        assert_eq!(news("lagged", r#"{"missed":3}"#, false), "! 3 news were missed: this listener was too slow");
        assert_eq!(news("lagged", r#"{"missed":3}"#, true), r#"{"kind":"lagged","missed":3}"#);
    }
}
