//! How a change is made from the command line: first what it would do, then a yes where it is dangerous, then the deed.

use super::client::{Ask, Client, read};
use super::fault::{Fault, Result};
use super::show::{brief, json, say};
use crate::http::words::Answer;
use clap::Args;
use serde_json::Value;
use std::io::{BufRead, IsTerminal};
use std::process::ExitCode;

/// What goes with each change.
#[derive(Debug, Clone, Copy, Args)]
pub struct Terms {
    /// Say what it would do, and do nothing.
    #[arg(long)]
    pub dry_run: bool,
    /// Do not ask.
    #[arg(long, short)]
    pub yes: bool,
}

/// One change. `danger`: what there is to lose, if there is.
pub(super) struct Change<'a> {
    pub(super) ask: Ask<'a>,
    pub(super) danger: Option<String>,
    pub(super) terms: Terms,
}

/// Does it, and shows what came of it.
pub(super) fn change(client: &mut Client, as_json: bool, change: Change<'_>) -> Result<ExitCode> {
    let text = perform(client, change, |plan| Ok(format!("The plan: {}", done(&answer(plan)?))))?;
    let answer = answer(&text)?;
    if as_json {
        json(&answer)?;
    } else {
        say(&done(&answer))?;
    }
    Ok(ExitCode::SUCCESS)
}

/// The answer's text. A dry run's, too: it is the plan.
pub(super) fn perform(
    client: &mut Client,
    Change { ask, danger, terms }: Change<'_>,
    plan: impl Fn(&str) -> Result<String>,
) -> Result<String> {
    let dry = || Ask { path: format!("{}?dry_run=true", ask.path), ..ask.clone() };
    if terms.dry_run {
        let text = client.ask(&dry())?;
        eprintln!("a dry run, nothing was changed");
        return Ok(text);
    }
    if let Some(danger) = danger {
        let planned = plan(&client.ask(&dry())?)?;
        confirm(terms.yes, &format!("{planned}\n{danger}"))?;
    }
    client.ask(&ask)
}

fn answer(text: &str) -> Result<Answer> {
    read(text, "a change")
}

/// What came of it, in lines.
fn done(answer: &Answer) -> String {
    let mut lines = vec![format!("epoch {}{}", answer.epoch, if answer.repeated { ", done before" } else { "" })];
    lines.extend(now(&answer.result));
    lines.extend(answer.notes.iter().map(|n| format!("note: {n}")));
    lines.join("\n")
}

/// What is now, as far as it changed: groups and slots in words, the rest as it came.
fn now(result: &Value) -> Vec<String> {
    let list = |name: &str| result[name].as_array().cloned().unwrap_or_default();
    let mut lines: Vec<String> = list("groups").iter().map(group).collect();
    lines.extend(list("slots").iter().map(slots));
    let says_nothing = result.as_object().is_some_and(serde_json::Map::is_empty);
    if lines.is_empty() && !says_nothing {
        lines.extend(Some(brief(result)).filter(|r| !r.is_empty()));
    }
    lines
}

fn group(group: &Value) -> String {
    let text = |value: &Value| value.as_str().unwrap_or("?").to_owned();
    let replicas: Vec<String> = group["replicas"].as_array().into_iter().flatten().map(text).collect();
    let replicas = if replicas.is_empty() { "none".to_owned() } else { replicas.join(" ") };
    let (id, name, primary) = (&group["group_id"], text(&group["group_name"]), text(&group["primary"]));
    format!("group {id} ({name}): primary {primary}, replicas {replicas}")
}

fn slots(range: &Value) -> String {
    let owner = if range["group"].is_null() { "nobody".to_owned() } else { format!("group {}", range["group"]) };
    format!("slots {}-{}: {owner}", range["from"], range["to"])
}

/// Before something that cannot be taken back. It is said on standard error: standard output is for results.
pub(super) fn confirm(yes: bool, plan: &str) -> Result<()> {
    eprintln!("{plan}");
    if yes {
        return Ok(());
    }
    if !std::io::stdin().is_terminal() {
        return Err(Fault::new("this needs a yes, and nobody is there to give it", "--yes goes without asking"));
    }
    eprint!("Go on? [y/N] ");
    let mut said = String::new();
    _ = std::io::stdin().lock().read_line(&mut said); // whoever cannot be heard has not said yes
    if ["y", "yes"].iter().any(|yes| said.trim().eq_ignore_ascii_case(yes)) {
        return Ok(());
    }
    Err(Fault::new("nothing was changed", ""))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn what_came_of_it_is_said_in_words() {
        let answer = |result: Value| done(&Answer { epoch: 7, result, notes: vec!["mind".to_owned()], repeated: true });
        let group = json!({"group_id": 1, "group_name": "g1", "primary": "a:1", "replicas": ["b:1", "c:1"]});
        let alone = json!({"group_id": 2, "group_name": "g2", "primary": "d:1", "replicas": []});
        let slots = json!([{"from": 0, "to": 9, "group": 2}, {"from": 10, "to": 10, "group": null}]);
        let expected = "\
epoch 7, done before
group 1 (g1): primary a:1, replicas b:1 c:1
group 2 (g2): primary d:1, replicas none
slots 0-9: group 2
slots 10-10: nobody
note: mind";
        assert_eq!(answer(json!({"groups": [group, alone], "slots": slots})), expected);
        assert_eq!(answer(json!({"keys": 3})), "epoch 7, done before\n{\"keys\":3}\nnote: mind");
        for nothing in [Value::Null, json!({})] {
            assert_eq!(answer(nothing), "epoch 7, done before\nnote: mind");
        }
    }
}
