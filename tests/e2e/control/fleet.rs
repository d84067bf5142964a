//! Two hundred proxies: small fakes that speak the real protocol. Each change must reach all of them at once.

use crate::{LIMIT, say, turn};
use anyhow::{Context, Result, ensure};
use configsvr::playground::{Options, Playground, http, until};
use serde_json::json;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

const PROXIES: usize = 200;
/// What a push to all may take at most, on a machine that does much else.
const PUSH_LIMIT: Duration = Duration::from_secs(10);
/// What the best of some rounds takes at most.
const PUSH_GOAL: Duration = Duration::from_secs(1);

/// One proxy that serves nobody.
struct Fake {
    id: String,
    admin: SocketAddr,
    epoch: Arc<AtomicU64>,
}

impl Fake {
    fn start(number: usize) -> Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0")?;
        let admin = listener.local_addr()?;
        let epoch = Arc::new(AtomicU64::new(0));
        let shared = Arc::clone(&epoch);
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let shared = Arc::clone(&shared);
                std::thread::spawn(move || serve(&stream, &shared));
            }
        });
        Ok(Self { id: format!("fake-{number}"), admin, epoch })
    }

    fn beat(&self, member: SocketAddr) -> Result<()> {
        let path = format!("/api/v1/proxies/{}/beat", self.id);
        let beat = json!({"id": self.id, "version": "0", "addr": format!("127.0.0.1:{}", self.admin.port() ^ 1),
            "admin_addr": self.admin.to_string(), "zone": "", "epoch": self.epoch.load(Ordering::Relaxed),
            "started_at": 1, "from_disk": false, "instances": []});
        let answer = http::call("POST", member, &path, &[], &beat.to_string(), Duration::from_secs(2))?;
        ensure!(answer.status == 200, "{}: {} {}", self.id, answer.status, answer.body);
        Ok(())
    }
}

/// Answers calls on one connection: a PUT with an epoch is served at once, an older one refused.
fn serve(stream: &TcpStream, epoch: &AtomicU64) -> Option<()> {
    let mut reader = BufReader::new(stream.try_clone().ok()?);
    let mut writer = stream;
    loop {
        let (mut length, mut first) = (0, String::new());
        reader.read_line(&mut first).ok().filter(|&n| n > 0)?;
        loop {
            let mut line = String::new();
            reader.read_line(&mut line).ok()?;
            if line.trim().is_empty() {
                break;
            }
            if let Some(value) = line.to_ascii_lowercase().strip_prefix("content-length:") {
                length = value.trim().parse().ok()?;
            }
        }
        let mut body = vec![0; length];
        reader.read_exact(&mut body).ok()?;
        let offered = serde_json::from_slice::<serde_json::Value>(&body).ok().and_then(|json| json["epoch"].as_u64());
        let serving = match offered {
            Some(offered) => epoch.fetch_max(offered, Ordering::Relaxed).max(offered),
            None => epoch.load(Ordering::Relaxed),
        };
        let older = offered.is_some_and(|offered| offered < serving);
        let status = if older { "409 Conflict" } else { "200 OK" };
        let answer = match older {
            true => json!({"error": {"code": "conflict", "message": "older", "hint": ""}}),
            false => json!({"epoch": serving, "workers_applied": 1, "quiet": true}),
        };
        let text = answer.to_string();
        let head =
            format!("HTTP/1.1 {status}\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n", text.len());
        writer.write_all((head + &text).as_bytes()).ok()?;
    }
}

/// Lets all of them send heartbeats, to any member that answers, as long as this lives: the ports are somebody else's
/// afterwards.
struct Beats {
    stop: Arc<AtomicBool>,
    work: Option<JoinHandle<()>>,
}

impl Beats {
    fn start(fakes: Arc<Vec<Fake>>, members: Vec<SocketAddr>) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let seen = Arc::clone(&stop);
        let work = std::thread::spawn(move || {
            let mut member = 0;
            while !seen.load(Ordering::Relaxed) {
                let start = Instant::now();
                for fake in fakes.iter().take_while(|_| !seen.load(Ordering::Relaxed)) {
                    if fake.beat(members[member % members.len()]).is_err() {
                        member += 1;
                    }
                }
                std::thread::sleep(Duration::from_secs(1).saturating_sub(start.elapsed()));
            }
        });
        Self { stop, work: Some(work) }
    }
}

impl Drop for Beats {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(work) = self.work.take() {
            let _ = work.join();
        }
    }
}

/// Makes a change; how long until all serve it.
fn change_reaches_all(playground: &Playground, fakes: &[Fake], name: &str) -> Result<Duration> {
    let body = json!({ "name": name }).to_string();
    let epoch = until("the change is accepted", LIMIT, || {
        for server in playground.configsvrs().iter().filter(|s| s.alive()) {
            let headers = [("idempotency-key", name)];
            let limit = Duration::from_secs(2);
            let answer = http::call("PATCH", server.addr(), "/api/v1/groups/1", &headers, &body, limit);
            if let Some(answer) = answer.ok().filter(|a| a.status == 200) {
                return Ok(Ok(answer.json()?["epoch"].as_u64().context("epoch")?));
            }
        }
        Ok(Err("not yet".to_owned()))
    })?;
    let accepted = Instant::now();
    until(&format!("epoch {epoch} at all"), PUSH_LIMIT, || {
        let behind = fakes.iter().filter(|f| f.epoch.load(Ordering::Relaxed) < epoch).count();
        Ok(if behind == 0 { Ok(()) } else { Err(format!("{behind} are behind")) })
    })?;
    Ok(accepted.elapsed())
}

#[test]
fn two_hundred_proxies_are_kept_in_step() -> Result<()> {
    let _turn = turn();
    let options = Options { configsvrs: 3, groups: 1, replicas: 0, proxies: 0, ..Options::default() };
    let mut playground = Playground::start(options)?;
    let fakes = Arc::new((0..PROXIES).map(Fake::start).collect::<Result<Vec<_>>>()?);
    let members: Vec<SocketAddr> = playground.configsvrs().iter().map(|s| s.addr()).collect();
    let _beats = Beats::start(Arc::clone(&fakes), members); // ends before the playground does
    let registered = |playground: &Playground| {
        until("all are registered", LIMIT, || {
            let alive = playground.ask_control("/api/v1/proxies?alive=true")?.as_array().map_or(0, Vec::len);
            Ok(if alive == PROXIES { Ok(()) } else { Err(format!("{alive} are")) })
        })
    };
    registered(&playground)?;
    let mut best = PUSH_LIMIT;
    for round in 0..5 {
        let took = change_reaches_all(&playground, &fakes, &format!("round-{round}"))?;
        say(&format!("a change was at {PROXIES} proxies after {took:?}"));
        best = best.min(took);
    }
    ensure!(best <= PUSH_GOAL, "{best:?} until a change was at {PROXIES} proxies, at best; the goal is {PUSH_GOAL:?}");
    playground.kill_configsvr(0)?;
    let took = change_reaches_all(&playground, &fakes, "after")?;
    say(&format!("with a member killed: {took:?}"));
    registered(&playground)
}
