//! What people say to failover at the command line, and that it is obeyed: hands off, wait longer, not this one, now.

use crate::scene::{LIMIT, Scene, turn};
use anyhow::{Context, Result, ensure};
use configsvr::playground::{ask, find_binary, info, until};
use serde_json::Value;
use std::io::Write;
use std::net::{SocketAddr, TcpStream};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant, SystemTime};

/// By then any failover would have begun: a dead primary is replaced within a second.
const WATCHED: Duration = Duration::from_secs(4);
/// A group is not replaced twice in so long, unless somebody says so.
const PAUSE_MS: u64 = 10_000;

fn failovers(scene: &Scene) -> Result<Vec<Value>> {
    let all = scene.playground.ask_control("/api/v1/failovers")?;
    Ok(all.as_array().cloned().unwrap_or_default())
}

fn now_ms() -> u64 {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_millis() as u64
}

/// Two groups at rest, whose replicas hold something: who holds nothing is not promoted.
fn begin() -> Result<Scene> {
    let scene = Scene::begin()?;
    let primary = scene.primary()?;
    ask(primary, &["SET", "{kept}", "1"])?;
    until("all have it", LIMIT, || {
        let f = info(primary, "replication")?;
        let offset = format!("offset={},", f["master_repl_offset"]);
        let lags = (0..2).any(|n| !f.get(&format!("slave{n}")).is_some_and(|slave| slave.contains(&offset)));
        Ok(if lags { Err(format!("{f:?}")) } else { Ok(()) })
    })?;
    Ok(scene)
}

/// Nothing happens for so long.
fn nothing_happens(scene: &Scene, what: &str) -> Result<()> {
    let (before, end) = (failovers(scene)?, Instant::now() + WATCHED);
    while Instant::now() < end {
        let now = failovers(scene)?;
        ensure!(now.len() == before.len(), "{what}: {:?}", now.last());
        std::thread::sleep(Duration::from_millis(100));
    }
    Ok(())
}

/// The record of the failover that ends with another primary.
fn replaced(scene: &Scene, old: SocketAddr) -> Result<Value> {
    until("another primary", LIMIT, || {
        let last = failovers(scene)?.last().cloned().unwrap_or_default();
        let other = scene.primary()? != old && last["old"] == old.to_string();
        let over = last["phase"] == "repair" || last["phase"] == "done";
        Ok(if other && over { Ok(last) } else { Err(last.to_string()) })
    })
}

fn alarms(scene: &Scene) -> Result<String> {
    Ok(scene.playground.ask_control("/api/v1/cluster")?["alarms"].to_string())
}

fn replicas(scene: &Scene) -> Result<Vec<SocketAddr>> {
    let primary = scene.primary()?;
    Ok(scene.playground.group(1).map(|i| i.server.addr()).filter(|addr| *addr != primary).collect())
}

#[test]
fn hands_off_while_people_work_on_it() -> Result<()> {
    let _turn = turn();
    let mut scene = begin()?;
    let maintenance = |on: &'static str| vec!["guard", "group", "1", "--maintenance", on];
    for (begin, end) in [
        (maintenance("true"), maintenance("false")),
        (vec!["automation", "pause", "--yes"], vec!["automation", "resume", "--yes"]),
    ] {
        let old = scene.primary()?;
        scene.operator(&begin)?;
        scene.playground.kill_instance(old)?;
        nothing_happens(&scene, "hands off")?;
        ensure!(alarms(&scene)?.contains("failover_off"), "{}", alarms(&scene)?);
        scene.operator(&end)?;
        replaced(&scene, old)?;
        scene.playground.start_instance(old)?;
        scene.in_step()?;
        // Or it would be left alone for another reason.
        until("the last failover was long ago", LIMIT, || {
            let last = failovers(&scene)?.last().and_then(|f| f["times"]["decided"].as_u64()).unwrap_or(0);
            let ago = now_ms().saturating_sub(last);
            Ok(if ago > PAUSE_MS { Ok(()) } else { Err(format!("{ago} ms ago")) })
        })?;
    }
    Ok(())
}

#[test]
fn a_group_is_given_more_time() -> Result<()> {
    let _turn = turn();
    let scene = begin()?;
    let said = scene.operator(&["guard", "group", "1", "--hang-ms", "20000"])?;
    let old = scene.primary()?;
    scene.playground.stop_instance(old)?;
    nothing_happens(&scene, &said)?;
    scene.playground.cont_instance(old)?;
    Ok(())
}

#[test]
fn who_is_wanted_takes_over_and_who_is_not_never_does() -> Result<()> {
    let _turn = turn();
    let mut scene = begin()?;
    let old = scene.primary()?;
    // By address the first would be chosen; it never may.
    let mut others = replicas(&scene)?;
    others.sort_unstable();
    let (never, heir) = (others[0].to_string(), others[1]);
    let said = scene.operator(&["guard", "instance", "--group", "1", &never, "--never", "true"])?;
    for how in ["switchover", "failover"] {
        let told = scene.operator(&[how, "1", "--to", &never, "--yes"])?;
        let hint = format!("guard instance --group 1 {never} --never false");
        ensure!(told.contains("is never to be the primary") && told.contains(&hint), "{how}: {told}");
    }
    scene.playground.kill_instance(old)?;
    let record = replaced(&scene, old)?;
    ensure!(record["candidate"] == heir.to_string(), "{said}{record}");
    scene.playground.start_instance(old)?;
    scene.in_step()?;
    // Preferred is the other one, and a switchover asks for nobody.
    let said =
        scene.operator(&["guard", "instance", "--group", "1", &never, "--never", "false", "--prefer", "true"])?;
    let told = scene.operator(&["switchover", "1", "--yes"])?;
    ensure!(scene.primary()?.to_string() == never, "{said}{told}");
    scene.in_step()?;
    // Now, and that one: nothing is wrong with the primary.
    let told = scene.operator(&["failover", "1", "--to", &old.to_string(), "--yes"])?;
    ensure!(scene.primary()? == old, "{told}");
    let id = failovers(&scene)?.last().map(|f| f["id"].as_str().unwrap_or_default().to_owned()).unwrap_or_default();
    let story = scene.operator(&["failovers", "show", &id])?;
    ensure!(story.contains("forced") && story.contains("somebody said so"), "{story}");
    scene.in_step()
}

/// What the old primary took and gave to nobody is counted when it comes back, to the byte.
#[test]
fn lost_bytes_are_reported() -> Result<()> {
    const VALUE: usize = 10_000;
    let _turn = turn();
    let scene = begin()?;
    let old = scene.primary()?;
    // In one transaction the replicas are cut off and something is written; then the server is busy until it is frozen, so
    // that no replica comes back in between.
    let busy = "redis.call('SET', KEYS[1], ARGV[1]) local n = 0 for i = 1, 2e8 do n = n + i end return 'OK'";
    let mut stream = TcpStream::connect(old)?;
    let value = "x".repeat(VALUE);
    for words in
        [&["MULTI"][..], &["CLIENT", "KILL", "TYPE", "replica"], &["EVAL", busy, "1", "gone", &value], &["EXEC"]]
    {
        let mut text = format!("*{}\r\n", words.len());
        words.iter().for_each(|word| text.push_str(&format!("${}\r\n{word}\r\n", word.len())));
        stream.write_all(text.as_bytes())?;
    }
    std::thread::sleep(Duration::from_millis(150)); // into the script
    scene.playground.stop_instance(old)?;
    replaced(&scene, old)?;
    scene.playground.cont_instance(old)?;
    let lost = until("lost bytes are reported", LIMIT, || {
        let last = failovers(&scene)?.last().cloned().unwrap_or_default();
        Ok(last["lost_bytes"].as_u64().ok_or_else(|| last.to_string()))
    })?;
    ensure!((VALUE as u64..VALUE as u64 + 2_000).contains(&lost), "{lost} bytes, of a value of {VALUE}");
    let member = scene.playground.configsvrs()[0].addr();
    until("a metric tells it", LIMIT, || {
        let all = configsvr::playground::http::get(member, "/metrics")?.body;
        let line = format!("twemslot_configsvr_failover_lost_bytes{{group=\"1\"}} {lost}");
        Ok(if all.contains(&line) { Ok(()) } else { Err(all.lines().filter(|l| l.contains("lost_b")).collect()) })
    })
}

/// A group is restarted, one instance after the other, while it serves.
#[test]
fn a_group_is_rolled() -> Result<()> {
    let _turn = turn();
    let mut scene = begin()?;
    let addrs: Vec<SocketAddr> = scene.playground.group(1).map(|i| i.server.addr()).collect();
    let run_id = |addr: &SocketAddr| Ok::<_, anyhow::Error>(info(*addr, "server")?["run_id"].clone());
    let before = addrs.iter().map(run_id).collect::<Result<Vec<_>>>()?;
    let asked = scene.playground.dir().join("restart");
    // Whoever is asked for is restarted here, since here is whose child it is.
    let exec =
        format!("echo {{addr}} > {0}.new; mv {0}.new {0}; while [ -e {0} ]; do sleep 0.05; done", asked.display());
    let dir = scene.playground.dir().display().to_string();
    let words = ["--state-dir", &dir, "groups", "roll", "1", "--exec", &exec, "--yes"];
    let mut roll = Command::new(find_binary("twemslotctl")?).args(words).stdout(Stdio::null()).spawn()?;
    let status = until("the group is rolled", 2 * LIMIT, || {
        if let Ok(addr) = std::fs::read_to_string(&asked) {
            let addr: SocketAddr = addr.trim().parse().with_context(|| addr.clone())?;
            scene.playground.kill_instance(addr)?;
            scene.playground.start_instance(addr)?;
            std::fs::remove_file(&asked)?;
        }
        Ok(roll.try_wait()?.ok_or_else(|| "it goes on".to_owned()))
    })?;
    ensure!(status.success(), "{status}: {:?}", failovers(&scene)?);
    let after = addrs.iter().map(run_id).collect::<Result<Vec<_>>>()?;
    ensure!(before.iter().zip(&after).all(|(before, after)| before != after), "{before:?}, then {after:?}");
    let kept = ask(scene.primary()?, &["GET", "{kept}"])?;
    ensure!(kept.ends_with(b"1\r\n"), "{}", String::from_utf8_lossy(&kept));
    let all = failovers(&scene)?;
    ensure!(all.iter().all(|f| f["kind"] == "switchover"), "{all:?}");
    scene.in_step()
}
