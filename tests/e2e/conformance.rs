//! Redis's own test suite through the proxy. What runs, what is skipped and why: tests/conformance.

mod script;

use anyhow::Result;
use configsvr::playground::{Options, Playground};
use script::{ours, run};
use std::process::Command;
use std::time::Duration;

/// The suite changes settings of the server it tests, and looks at counters it has reset.
const CONF: &str = "operator_commands: true
declared_commands:
  - {name: CONFIG SET, all_groups: true, write: true}
  - {name: CONFIG RESETSTAT, all_groups: true, write: true}
";
/// More than the three attempts of a unit that fails take, each at its own limit.
const LIMIT: Duration = Duration::from_secs(1900);

fn conformance(mode: &str, groups: u16, slots: u16) -> Result<()> {
    let options = Options { groups, slots, replicas: 0, proxy_conf: CONF.into(), ..Options::default() };
    let playground = Playground::start(options)?;
    let addr = playground.proxy_addr()?;
    let log = playground.dir().join("suite.txt"); // kept with the playground's other logs if this fails
    let mut command = Command::new(ours("tests/conformance/run"));
    command.args(["--host", &addr.ip().to_string(), "--port", &addr.port().to_string(), "--mode", mode]);
    command.arg("--log").arg(log);
    println!("{}", run(&mut command, LIMIT)?);
    playground.stop()
}

/// All keys share one slot, so every command that Redis has for many keys is served.
#[test]
fn one_group() -> Result<()> {
    conformance("one-group", 1, 1)
}

/// Keys spread over 1024 slots and two groups: what can be split is, and the suite's own hash tags do the rest.
#[test]
fn two_groups() -> Result<()> {
    conformance("two-groups", 2, 1024)
}

/// The same with connections that speak RESP3.
#[test]
fn resp3() -> Result<()> {
    conformance("resp3", 1, 1)
}
