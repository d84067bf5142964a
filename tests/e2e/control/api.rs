//! The API under whatever its own document allows, and much that it does not.

use crate::turn;
use anyhow::{Result, ensure};
use configsvr::playground::{Options, Playground, http};
use std::path::Path;
use std::process::Command;
use std::time::Duration;

#[test]
fn no_call_finds_a_fault_of_ours() -> Result<()> {
    let _turn = turn();
    let options = Options { configsvrs: 1, groups: 2, replicas: 0, proxies: 0, ..Options::default() };
    let playground = Playground::start(options)?;
    let api = playground.configsvrs()[0].addr();
    let run = Path::new(env!("CARGO_MANIFEST_DIR")).join("api/run");
    let output = Command::new(run).arg(format!("http://{api}")).output()?;
    let text = String::from_utf8_lossy(&output.stdout);
    let end: String = text.chars().rev().take(6000).collect::<Vec<_>>().into_iter().rev().collect();
    ensure!(output.status.success(), "{end}\n{}", String::from_utf8_lossy(&output.stderr));
    // After all of it the member is as well as before.
    let ready = http::call("GET", api, "/readyz", &[], "", Duration::from_secs(2))?;
    ensure!(ready.status == 200, "/readyz says {}: {}", ready.status, ready.body);
    Ok(())
}
