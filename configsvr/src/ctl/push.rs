//! What a migration was like, for a pushgateway: a run that was waited for is over before anybody could scrape it.

use super::client::Client;
use super::fault::Result;
use crate::control::task::{TaskPhase, TaskView};

/// Pushes these runs, where a pushgateway was named. A later run between the same groups takes the place of an earlier one:
/// there are never more series than pairs of groups.
pub(super) fn runs(client: &Client, all: &[TaskView]) -> Result<()> {
    let Some(gateway) = client.pushgateway() else { return Ok(()) };
    for run in all {
        let (from, to) = (run.task.from, run.task.to);
        client.put(&format!("{gateway}/metrics/job/twemslotctl/from/{from}/to/{to}"), page(run))?;
    }
    Ok(())
}

fn page(run: &TaskView) -> String {
    let (task, tally) = (&run.task, run.task.tally.unwrap_or_default());
    let ended = task.times.ended.unwrap_or(task.times.created);
    let seconds = |ms: u64| ms as f64 / 1000.0;
    let done = f64::from(u8::from(task.phase == TaskPhase::Done));
    let all = [
        ("id", "The migration's number.", task.id as f64),
        ("succeeded", "1: the target owns the slots; 0: it was cancelled.", done),
        ("ended_time_seconds", "When it was over, since 1970.", seconds(ended)),
        ("duration_seconds", "From the wish to the end.", seconds(ended.saturating_sub(task.times.created))),
        ("pause_seconds", "How long its slots were held.", seconds(tally.pause_ms)),
        ("slots", "Slots that moved.", run.slot_count as f64),
        ("keys", "Keys that were copied.", tally.keys as f64),
        ("bytes", "Bytes that were copied.", tally.bytes as f64),
        ("commands_applied", "Writes of the source that the target was given.", tally.applied as f64),
    ];
    let mut page = String::new();
    for (name, help, value) in all {
        let name = format!("twemslot_migration_run_{name}");
        page.push_str(&format!("# HELP {name} {help}\n# TYPE {name} gauge\n{name} {value}\n"));
    }
    page
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_run_is_told_with_its_outcome() {
        let run = json!({ "id": 3, "from": 1, "to": 2, "slots": [{"from": 0, "to": 9}], "state": 4, "phase": "done",
            "times": {"created": 1000, "ended": 3500}, "slot_count": 10,
            "tally": {"keys": 200, "bytes": 2048, "applied": 7, "pause_ms": 31} });
        let page = page(&serde_json::from_value(run).expect("a migration"));
        for line in ["id 3", "succeeded 1", "duration_seconds 2.5", "pause_seconds 0.031", "slots 10", "keys 200"] {
            assert!(page.contains(&format!("\ntwemslot_migration_run_{line}\n")), "{line}: {page}");
        }
    }
}
