//! Slots move many times; one JSON line a run. `SOAK=20`: so often.

use crate::scene::{Scene, turn};
use anyhow::Result;
use serde_json::json;

#[test]
fn soak() -> Result<()> {
    let Some(runs) = std::env::var("SOAK").ok().and_then(|runs| runs.parse::<usize>().ok()) else { return Ok(()) };
    let _turn = turn();
    let mut scene = Scene::begin(3, 3)?;
    for run in 0..runs {
        let load = scene.load();
        let (from, to) = (1 + run % 3, 1 + (run + 1) % 3);
        let words = format!("migrations start --from {from} --to {to} --count {} --wait", 4 + run % 12);
        let id = scene.begun(&words)?[0];
        let seen = scene.judge(load)?;
        let done = scene.migration(id)?;
        println!(
            "{}",
            json!({
                "run": run, "acked": seen.acked, "failed": seen.failed, "lost": seen.found.lost,
                "duplicated": seen.found.duplicated + seen.found.phantom + seen.found.revived, "order_or_stale": seen.found.order + seen.found.stale,
                "longest_ms": seen.longest_ms, "fences": done["fences"], "tally": done["tally"],
            })
        );
        seen.found.must_be_none()?;
        scene.nothing_astray()?;
    }
    Ok(())
}
