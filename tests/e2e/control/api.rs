//! The API under whatever its own document allows, and much that it does not.

use crate::turn;
use anyhow::{Context, Result, ensure};
use configsvr::playground::{Options, Playground, http};
use std::io::{BufRead, BufReader, Write};
use std::net::TcpStream;
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
    let document = http::get(api, "/openapi.json")?.json()?;
    let paths = document["paths"].as_object().context("paths")?;
    let methods = paths.values().filter_map(|item| item.as_object()).flat_map(|item| item.keys());
    let all = methods.filter(|method| *method != "parameters").count();
    let tested = format!("Tested: {}\n", all - 1);
    ensure!(text.contains(&tested), "{tested:?}, of {all} operations, is not what it says: {end}");
    // The one that it is kept from, since its answer has no end.
    let documented = &document["paths"]["/api/v1/events"]["get"]["responses"];
    let mut listener = TcpStream::connect(api)?;
    listener.set_read_timeout(Some(Duration::from_secs(20)))?;
    listener.write_all(format!("GET /api/v1/events HTTP/1.1\r\nhost: {api}\r\n\r\n").as_bytes())?;
    let head: Vec<String> =
        BufReader::new(listener).lines().map_while(|line| line.ok().filter(|l| !l.is_empty())).collect();
    let said = head.join("\n").to_ascii_lowercase();
    ensure!(said.starts_with("http/1.1 200") && said.contains("content-type: text/event-stream"), "events: {said}");
    ensure!(documented["200"]["content"]["text/event-stream"].is_object(), "{documented}");
    for query in ["leader=perhaps", "what=1", "leader=true&leader=true"] {
        let refused = http::call("GET", api, &format!("/api/v1/events?{query}"), &[], "", Duration::from_secs(20))?;
        ensure!((400..500).contains(&refused.status), "events?{query}: {} {}", refused.status, refused.body);
        ensure!(documented[refused.status.to_string()].is_object(), "events: {} is not documented", refused.status);
    }
    for path in ["/dashboard", "/dashboard/page.js", "/dashboard/page.css"] {
        let page = http::call("GET", api, path, &[], "", Duration::from_secs(20))?;
        ensure!(page.status == 200 && page.body.len() > 500, "{path}: {} {}", page.status, page.body);
    }
    // After all of it the member is as well as before.
    let ready = http::call("GET", api, "/readyz", &[], "", Duration::from_secs(2))?;
    ensure!(ready.status == 200, "/readyz says {}: {}", ready.status, ready.body);
    Ok(())
}
