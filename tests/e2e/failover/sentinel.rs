//! What many run today, for comparison: a primary, two replicas, three Sentinels, and haproxy that looks for the primary.

use crate::scene::{Fault, Pace, Seen, acked, gap, rate};
use anyhow::{Context, Result, bail, ensure};
use configsvr::playground::{Options, Playground, ask, info, until};
use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};
use tests::history::{Load, Plan};

const SENTINELS: usize = 3;
/// Sentinel looks at roles every ten seconds, and waits longer before it tries again.
const LIMIT: Duration = Duration::from_secs(90);
const DOWN_AFTER_MS: u64 = 1_000;

pub(crate) struct Scene {
    playground: Playground,
    sentinels: Vec<Ended>,
    proxy: Ended,
    loads: usize,
}

/// A process that ends with us.
struct Ended {
    addr: SocketAddr,
    process: Child,
}

impl Drop for Ended {
    fn drop(&mut self) {
        _ = self.process.kill();
        _ = self.process.wait();
    }
}

impl Ended {
    fn start(addr: SocketAddr, program: &str, words: &[&str]) -> Result<Self> {
        let mut command = Command::new(program);
        command.args(words).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let process = command.spawn().with_context(|| format!("cannot start {program}"))?;
        Ok(Self { addr, process })
    }
}

/// Where the system gives us a port.
fn free() -> Result<SocketAddr> {
    Ok(TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?)
}

impl Scene {
    pub(crate) fn begin() -> Result<Self> {
        let options = Options { groups: 1, replicas: 2, proxies: 0, ..Options::default() };
        let playground = Playground::start(options)?;
        let redises: Vec<SocketAddr> = playground.group(1).map(|i| i.server.addr()).collect();
        let sentinels = (0..SENTINELS).map(|n| sentinel(playground.dir(), n, redises[0]));
        let sentinels = sentinels.collect::<Result<Vec<Ended>>>()?;
        let proxy = haproxy(playground.dir(), &redises)?;
        let scene = Self { playground, sentinels, proxy, loads: 0 };
        scene.settle()?;
        Ok(scene)
    }

    pub(crate) fn suffer(&mut self, fault: Fault) -> Result<Seen> {
        self.loads += 1;
        let Pace { clients, pause } = Pace::FULL;
        let (name, proxies) = (format!("load{}", self.loads), vec![self.proxy.addr]);
        let load = Load::start(&Plan { name, proxies, clients, keys: 32, pause, all_types: false });
        std::thread::sleep(Duration::from_millis(800)); // some load, before
        let (old, at) = (self.primary()?, load.now());
        let mut demoted = None;
        match fault {
            Fault::Kill => self.playground.kill_instance(old)?,
            Fault::Empty => {
                self.playground.kill_instance(old)?;
                self.playground.start_instance(old)?;
            }
            Fault::Freeze(ms) => {
                self.playground.stop_instance(old)?;
                std::thread::sleep(Duration::from_millis(ms)); // frozen
                self.playground.cont_instance(old)?;
            }
            Fault::Switchover => {
                let said = ask(self.sentinels[0].addr, &["SENTINEL", "FAILOVER", "shop"])?;
                ensure!(said.starts_with(b"+OK"), "SENTINEL FAILOVER: {}", String::from_utf8_lossy(&said));
            }
            Fault::Misconf(_)
            | Fault::Busy(_)
            | Fault::Loading(_)
            | Fault::Hog(_)
            | Fault::WithLeader(_)
            | Fault::FrozenLeader(_)
            | Fault::Host => {
                bail!("{fault:?} is none here")
            }
        }
        let woke = Instant::now();
        // An empty primary may stay the primary: Sentinel sees no more of it than a short pause.
        if fault.replaces() && fault != Fault::Empty {
            until("another primary", LIMIT, || {
                let now = self.primary()?;
                Ok(if now == old { Err(format!("{now} still")) } else { Ok(()) })
            })?;
        }
        if fault == Fault::Freeze(5_000) {
            until("the old primary follows", LIMIT, || {
                Ok(replication(old).and_then(|f| if f["role"] == "slave" { Ok(()) } else { Err(format!("{f:?}")) }))
            })?;
            demoted = Some(woke.elapsed());
        }
        std::thread::sleep(Duration::from_millis(3_000)); // some load, after
        if fault == Fault::Kill {
            self.playground.start_instance(old)?;
        }
        self.settle()?;
        let ended = load.now();
        let (history, found) = load.finish()?;
        Ok(Seen {
            failovers: usize::from(self.primary()? != old),
            acked: acked(&history),
            rate: rate(&history, at),
            found,
            gap: gap(&history, at..ended, |_| true),
            demoted,
            records: Vec::new(),
        })
    }

    /// Who Sentinel says it is.
    fn primary(&self) -> Result<SocketAddr> {
        let said = ask(self.sentinels[0].addr, &["SENTINEL", "GET-MASTER-ADDR-BY-NAME", "shop"])?;
        let said = String::from_utf8_lossy(&said).into_owned();
        let port = said.lines().nth(4).and_then(|port| port.parse::<u16>().ok());
        Ok(SocketAddr::from((Ipv4Addr::LOCALHOST, port.with_context(|| format!("Sentinel says {said:?}"))?)))
    }

    /// One primary, whom all follow, and every Sentinel knows everybody.
    fn settle(&self) -> Result<()> {
        until("one primary, and all follow it", LIMIT, || Ok(self.settled()))
    }

    fn settled(&self) -> Result<(), String> {
        let primary = self.primary().map_err(|e| format!("{e:#}"))?;
        for instance in self.playground.group(1) {
            let fields = replication(instance.server.addr())?;
            let leads = instance.server.addr() == primary && fields["role"] == "master";
            let follows = fields["role"] == "slave"
                && fields["master_link_status"] == "up"
                && fields["master_port"] == primary.port().to_string();
            if !leads && !follows {
                return Err(format!("{}: {fields:?}", instance.server.addr()));
            }
        }
        for sentinel in &self.sentinels {
            let fields = info(sentinel.addr, "sentinel").map_err(|e| format!("{e:#}"))?;
            let knows = format!("status=ok,address={primary},slaves=2,sentinels={SENTINELS}");
            if !fields["master0"].ends_with(&knows) {
                return Err(format!("{}: {fields:?}", sentinel.addr));
            }
        }
        Ok(())
    }
}

fn replication(addr: SocketAddr) -> Result<BTreeMap<String, String>, String> {
    info(addr, "replication").map_err(|e| format!("{e:#}"))
}

fn sentinel(dir: &Path, n: usize, primary: SocketAddr) -> Result<Ended> {
    let (addr, conf) = (free()?, dir.join(format!("sentinel-{n}.conf")));
    let (ip, port) = (primary.ip(), primary.port());
    let text = format!(
        "port {}\nbind 127.0.0.1\nsentinel monitor shop {ip} {port} 2\n\
         sentinel down-after-milliseconds shop {DOWN_AFTER_MS}\nsentinel failover-timeout shop 10000\n",
        addr.port()
    );
    std::fs::write(&conf, text)?;
    Ended::start(addr, "redis-server", &[&conf.display().to_string(), "--sentinel"])
}

fn haproxy(dir: &Path, redises: &[SocketAddr]) -> Result<Ended> {
    let (addr, conf) = (free()?, dir.join("haproxy.cfg"));
    let servers: String = redises
        .iter()
        .map(|r| format!("  server r{} {r} check inter 100 fall 1 rise 1 on-marked-down shutdown-sessions\n", r.port()))
        .collect();
    let text = format!(
        "global\n  maxconn 4000\ndefaults\n  mode tcp\n  timeout connect 1s\n  timeout client 60s\n  timeout server 60s\n  \
         timeout check 1s\nlisten redis\n  bind {addr}\n  option tcp-check\n  tcp-check send INFO\\ replication\\r\\n\n  \
         tcp-check expect string role:master\n{servers}"
    );
    std::fs::write(&conf, text)?;
    Ended::start(addr, "/usr/sbin/haproxy", &["-db", "-f", &conf.display().to_string()])
}
