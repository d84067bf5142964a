//! The API under whatever its own document allows, and much that it does not.

use crate::{LIMIT, turn};
use anyhow::{Context, Result, ensure};
use configsvr::http::Hash;
use configsvr::playground::{Options, Playground, http, until};
use serde_json::{Value, json};
use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::process::Command;
use std::time::Duration;

/// Long for one call.
const CALL_LIMIT: Duration = Duration::from_secs(20);
const TOKEN: &str = "the operator's";

/// With the operator's token.
fn asked(api: SocketAddr, call: &str, body: &str) -> Result<http::Answer> {
    let (method, path) = call.split_once(' ').context("METHOD /path")?;
    let bearer = format!("Bearer {TOKEN}");
    http::call(method, api, path, &[("authorization", &bearer)], body, CALL_LIMIT)
}

/// Each operation of the document, as `METHOD /path`.
fn operations(document: &Value) -> Result<Vec<String>> {
    let paths = document["paths"].as_object().context("paths")?.iter();
    let items = paths.filter_map(|(path, item)| Some((path, item.as_object()?)));
    let all = items.flat_map(|(path, item)| item.keys().map(move |method| (method, path)));
    let all = all.filter(|(method, _)| *method != "parameters");
    Ok(all.map(|(method, path)| format!("{} {path}", method.to_uppercase())).collect())
}

/// Everything that the document names, so many times, and its opposite. Except for the events, which have no end, and what
/// begins with `but`.
fn schemathesis(
    api: SocketAddr,
    examples: u32,
    document: &Value,
    token: Option<&str>,
    but: Option<&str>,
) -> Result<()> {
    let run = Path::new(env!("CARGO_MANIFEST_DIR")).join("api/run");
    let mut command = Command::new(run);
    command.args([format!("http://{api}"), examples.to_string()]).env_remove("TWEMSLOT_TOKEN");
    command.envs(token.map(|token| ("TWEMSLOT_TOKEN", token)));
    command.args(but.into_iter().flat_map(|but| ["--exclude-path-regex".to_owned(), format!("^{but}")]));
    let output = command.output()?;
    let text = String::from_utf8_lossy(&output.stdout);
    let end: String = text.chars().rev().take(6000).collect::<Vec<_>>().into_iter().rev().collect();
    ensure!(output.status.success(), "{end}\n{}", String::from_utf8_lossy(&output.stderr));
    let all = operations(document)?;
    let left_out = |call: &&String| but.is_some_and(|but| call.split(' ').nth(1).is_some_and(|p| p.starts_with(but)));
    let tested = format!("Tested: {}\n", all.len() - 1 - all.iter().filter(left_out).count());
    ensure!(text.contains(&tested), "{tested:?}, of {all:?}, is not what it says: {end}");
    Ok(())
}

/// Three members that ask for tokens, before a cluster. Not even a busy machine brings about an election: a member that
/// knows no leader answers 503, which is right, and could not be told from a fault.
fn guarded() -> Result<Playground> {
    let hash = String::from(Hash::of(TOKEN));
    let configsvr_conf = format!(
        "tokens: [{{name: ops, role: admin, sha256: {hash}}}]\n\
         raft: {{heartbeat_ms: 300, election_min_ms: 4000, election_max_ms: 5000}}\n"
    );
    let options = Options { bare: true, configsvrs: 3, groups: 2, replicas: 0, proxies: 0, ..Options::default() };
    let playground = Playground::start(Options { configsvr_conf, ..options })?;
    let group = |id: u32| -> Result<Value> {
        let primary = playground.group(id).next().context("a primary")?.server.addr().to_string();
        Ok(json!({ "id": id, "name": format!("g{id}"), "instances": [{ "addr": primary, "role": "primary" }] }))
    };
    let slots = [json!({ "from": 0, "to": 511, "group": 1 }), json!({ "from": 512, "to": 1023, "group": 2 })];
    let topology =
        json!({ "epoch": 1, "name": "shop", "slot_count": 1024, "groups": [group(1)?, group(2)?], "slots": slots });
    let body = json!({ "topology": topology }).to_string();
    until("the cluster is made", LIMIT, || {
        let answer = asked(playground.configsvrs()[0].addr(), "POST /api/v1/import", &body)?;
        ensure!(matches!(answer.status, 200 | 503), "{}: {}", answer.status, answer.body);
        Ok(if answer.status == 200 { Ok(()) } else { Err(answer.body) }) // nobody leads yet
    })?;
    Ok(playground)
}

/// A member that does not lead, and knows who does.
fn follower(playground: &Playground) -> Result<SocketAddr> {
    until("a follower", LIMIT, || {
        for server in playground.configsvrs() {
            let said = asked(server.addr(), "GET /api/v1/cluster", "")?.json()?;
            if said["leading"] == false && said["leader"].is_string() && said["created"] == true {
                return Ok(Ok(server.addr()));
            }
        }
        Ok(Err("nobody follows".to_owned()))
    })
}

/// Of the whole process, raft's paths and the pages beside the API's.
#[test]
fn without_a_token_nothing_but_health_and_a_page_without_content_answers() -> Result<()> {
    let _turn = turn();
    let playground = guarded()?;
    let api = playground.configsvrs()[0].addr();
    let document = asked(api, "GET /openapi.json", "")?.json()?;
    let raft = ["append", "vote", "snapshot", "read", "report", "ballot"].map(|word| format!("POST /raft/{word}"));
    let others = ["GET /openapi.json", "GET /nowhere", "POST /raft/nowhere"].map(str::to_owned);
    let all = [operations(&document)?, raft.to_vec(), others.to_vec()].concat();
    ensure!(all.len() > 60, "{} routes", all.len());
    for call in all {
        let (method, path) = call.split_once(' ').context("METHOD /path")?;
        let path = path.replace(['{', '}'], "");
        let health = ["/healthz", "/readyz"].contains(&path.as_str());
        // The API's token opens nothing of raft's, either.
        let wrong: &[(&str, &str)] = &[("authorization", "Bearer nobody's")];
        for headers in [&[][..], wrong] {
            let got = http::call(method, api, &path, headers, "", CALL_LIMIT)?;
            ensure!(got.status == if health { 200 } else { 401 }, "{call} {headers:?}: {} {}", got.status, got.body);
        }
    }
    let ours = asked(api, "POST /raft/report", "")?;
    ensure!(ours.status == 401, "an operator's token opens raft: {}", ours.status);
    for path in ["/", "/dashboard", "/dashboard/page.js", "/dashboard/page.css"] {
        let page = http::call("GET", api, path, &[], "", CALL_LIMIT)?;
        ensure!(page.status == 200 && !page.body.contains("shop"), "{path}: {} {}", page.status, page.body);
    }
    Ok(())
}

/// A follower passes on what is for the leader: nobody can tell it from the leader by its answers.
#[test]
fn no_call_to_a_follower_finds_a_fault_of_ours() -> Result<()> {
    let _turn = turn();
    let playground = guarded()?;
    let api = follower(&playground)?;
    let document = asked(api, "GET /openapi.json", "")?.json()?;
    // It would take members out, and who is left without a majority says 503.
    schemathesis(api, 2, &document, Some(TOKEN), Some("/api/v1/members"))?;
    // It was let in, and passed on: else little was tried.
    let audit = asked(api, "GET /api/v1/audit?limit=1000", "")?.json()?;
    let changes = audit.as_array().context("a list")?.iter().filter(|record| record["who"] == "ops").count();
    ensure!(changes > 5, "{changes} changes were made");
    Ok(())
}

#[test]
fn no_call_finds_a_fault_of_ours() -> Result<()> {
    let _turn = turn();
    let options = Options { configsvrs: 1, groups: 2, replicas: 0, proxies: 0, ..Options::default() };
    let playground = Playground::start(options)?;
    let api = playground.configsvrs()[0].addr();
    let document = http::get(api, "/openapi.json")?.json()?;
    schemathesis(api, 12, &document, None, None)?;
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
