//! Two groups of a primary and a replica each, and nothing else.

use crate::client::Client;
use anyhow::{Context, Result, bail};
use cluster::instance::Addr;
use configsvr::control::job::Side;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};
use tempfile::TempDir;

/// A busy machine starts a server in a second.
const START_LIMIT: Duration = Duration::from_secs(30);

pub(crate) struct Server {
    pub(crate) addr: SocketAddr,
    program: String,
    words: Vec<String>,
    process: Child,
    _dir: TempDir,
}

impl Drop for Server {
    fn drop(&mut self) {
        _ = self.process.kill();
        _ = self.process.wait();
    }
}

impl Server {
    /// `MOVER_SERVER` names another program than redis-server; `extra` are words of its command line.
    pub(crate) fn start(primary: Option<SocketAddr>, extra: &[&str]) -> Result<Self> {
        let program = std::env::var("MOVER_SERVER").unwrap_or_else(|_| "redis-server".to_owned());
        Self::start_program(&program, primary, extra)
    }

    pub(crate) fn start_program(program: &str, primary: Option<SocketAddr>, extra: &[&str]) -> Result<Self> {
        let dir = tempfile::tempdir()?;
        let addr = free()?;
        let (port, home) = (addr.port().to_string(), dir.path().display().to_string());
        let mut words = vec!["--bind", "127.0.0.1", "--port", &port, "--save", "", "--appendonly", "no"];
        words.extend([
            "--repl-diskless-sync-delay",
            "0",
            "--repl-diskless-sync",
            "yes",
            "--repl-ping-replica-period",
            "1",
        ]);
        words.extend(["--enable-debug-command", "local", "--dir", &home]);
        let of = primary.map(|primary| primary.port().to_string());
        words.extend(of.iter().flat_map(|port| ["--replicaof", "127.0.0.1", port]));
        words.extend(extra);
        let words: Vec<String> = words.into_iter().map(str::to_owned).collect();
        let process = run(program, &words)?;
        let server = Self { addr, program: program.to_owned(), words, process, _dir: dir };
        server.ready()?;
        Ok(server)
    }

    /// It answers; a replica follows.
    fn ready(&self) -> Result<()> {
        until("the server answers", || {
            let mut client = Client::open(self.addr)?;
            let primary = client.info("replication", "role")? == "master";
            let linked = primary || client.info("replication", "master_link_status")? == "up";
            Ok(linked && client.say("PING")? == b"+PONG\r\n")
        })
    }

    /// As an administrator restarts it: it saves what it has, with the history that it is of, and goes on with that.
    pub(crate) fn restart(&mut self) -> Result<()> {
        _ = self.client()?.say("SHUTDOWN SAVE"); // there is no answer
        self.process.wait()?;
        self.process = run(&self.program, &self.words)?;
        self.ready()
    }

    pub(crate) fn client(&self) -> Result<Client> {
        Client::open(self.addr)
    }

    /// Seconds of CPU it has used.
    pub(crate) fn cpu(&self) -> Result<f64> {
        cpu(&self.process.id().to_string())
    }
}

fn run(program: &str, words: &[String]) -> Result<Child> {
    let mut command = Command::new(program);
    command.args(words).stdout(Stdio::null()).stderr(Stdio::null());
    command.spawn().with_context(|| format!("cannot start {program}"))
}

/// Seconds of CPU that a process (`self`, or its pid) has used: utime and stime of proc(5), in ticks of 10 ms.
pub(crate) fn cpu(pid: &str) -> Result<f64> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat"))?;
    let after = stat.rsplit_once(')').context("stat names the program in brackets")?.1;
    let ticks: u64 = after.split_whitespace().skip(11).take(2).filter_map(|n| n.parse::<u64>().ok()).sum();
    Ok(ticks as f64 / 100.0)
}

/// Where the system gives us a port. Nobody else is given it while the server starts.
fn free() -> Result<SocketAddr> {
    let (from, to) = match std::env::var("TWEMSLOT_PORTS") {
        Ok(range) => {
            let (from, to) = range.split_once('-').context("TWEMSLOT_PORTS=FROM-TO")?;
            (from.parse::<u16>()?, to.parse::<u16>()?)
        }
        Err(_) => return Ok(TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?),
    };
    use std::sync::atomic::{AtomicU16, Ordering};
    static NEXT: AtomicU16 = AtomicU16::new(0);
    for _ in from..to {
        let port = from + NEXT.fetch_add(1, Ordering::Relaxed) % (to - from);
        if TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok() {
            return Ok(SocketAddr::from((Ipv4Addr::LOCALHOST, port)));
        }
    }
    bail!("no free port in {from}-{to}")
}

/// A primary and perhaps a replica.
pub(crate) struct Pair {
    pub(crate) primary: Server,
    pub(crate) replica: Option<Server>,
}

impl Pair {
    pub(crate) fn start(replica: bool, extra: &[&str]) -> Result<Self> {
        let primary = Server::start(None, extra)?;
        let replica = replica.then(|| Server::start(Some(primary.addr), extra)).transpose()?;
        Ok(Self { primary, replica })
    }

    pub(crate) fn side(&self, group: u32) -> Side {
        let replicas = self.replica.iter().map(|r| Addr::Tcp(r.addr)).collect();
        Side { group, primary: Addr::Tcp(self.primary.addr), replicas }
    }
}

/// Waits for something that takes milliseconds, on a busy machine seconds.
pub(crate) fn until(what: &str, mut done: impl FnMut() -> Result<bool>) -> Result<()> {
    let end = Instant::now() + START_LIMIT;
    loop {
        match done() {
            Ok(true) => return Ok(()),
            outcome if Instant::now() > end => bail!("{what}: not within {START_LIMIT:?}: {outcome:?}"),
            _ => std::thread::sleep(Duration::from_millis(5)),
        }
    }
}
