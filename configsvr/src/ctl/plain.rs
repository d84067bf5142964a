//! The verbs for what machines read: the topology, the metrics, and whether members are alive and ready.

use super::client::{Ask, Client};
use super::fault::Result;
use super::show::{json, say, table};
use serde_json::{Value, json};
use std::process::ExitCode;

pub(super) fn topology(client: &mut Client) -> Result<ExitCode> {
    let topology: Value = client.get("/api/v1/topology")?;
    json(&topology).map(|()| ExitCode::SUCCESS)
}

pub(super) fn metrics(client: &mut Client) -> Result<ExitCode> {
    say(client.ask(&Ask::get("/metrics"))?.trim_end()).map(|()| ExitCode::SUCCESS)
}

pub(super) fn health(client: &mut Client, as_json: bool) -> Result<ExitCode> {
    let (alive, ready) = (client.of_each("/healthz"), client.of_each("/readyz"));
    let said = |outcome: &Result<String>| outcome.as_ref().err().map(|fault| fault.what.clone());
    let all: Vec<(String, Option<String>, Option<String>)> =
        alive.iter().zip(&ready).map(|((url, alive), (_, ready))| (url.clone(), said(alive), said(ready))).collect();
    if as_json {
        let row = |(url, dead, unready): &(String, Option<String>, Option<String>)| json!({ "url": url, "alive": dead.is_none(), "ready": unready.is_none(), "fault": unready.as_ref().or(dead.as_ref()) });
        json(&all.iter().map(row).collect::<Vec<_>>())?;
    } else {
        say(&health_table(&all))?;
    }
    let well = all.iter().all(|(_, dead, unready)| dead.is_none() && unready.is_none());
    Ok(if well { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn health_table(all: &[(String, Option<String>, Option<String>)]) -> String {
    let row = |(url, dead, unready): &(String, Option<String>, Option<String>)| {
        let state = match (dead, unready) {
            (Some(why), _) => format!("! not alive: {why}"),
            (None, Some(why)) => format!("! alive, not ready: {why}"),
            (None, None) => "alive, ready".to_owned(),
        };
        vec![url.clone(), state]
    };
    table(&["CONFIGSVR", "STATE"], all.iter().map(row))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn health_says_why_not() {
        let why = |text: &str| Some(text.to_owned());
        let all = [
            ("a".to_owned(), None, None),
            ("b".to_owned(), None, why("no leader is known")),
            ("c".to_owned(), why("refused"), why("refused")),
        ];
        let text = "CONFIGSVR  STATE\na          alive, ready\nb          ! alive, not ready: no leader is known\n\
                    c          ! not alive: refused";
        assert_eq!(health_table(&all), text);
    }
}
