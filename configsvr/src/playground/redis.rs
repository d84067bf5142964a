//! One Redis server of the playground: its configuration, and a few questions to it.
#![expect(clippy::disallowed_methods, reason = "a shell: connects, runs `redis-server --version`, writes files")]

use super::process;
use super::state::StateDir;
use anyhow::{Context, Result, bail, ensure};
use cluster::resp::reply::{Cursor, Step, text};
use cluster::resp::write;
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::io::{Read, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

/// An answer on the loopback address takes longer only when the server is stopped.
const ANSWER_LIMIT: Duration = Duration::from_secs(2);

/// The server program that is used.
#[derive(Debug, Clone)]
pub(super) struct Program {
    pub(super) path: PathBuf,
    /// As it says itself: `7.0.15`.
    pub(super) version: String,
}

impl Program {
    /// The given one, or the one on the PATH.
    pub(super) fn find(given: Option<&Path>) -> Result<Self> {
        let path = given.map(Path::to_path_buf).or_else(|| process::on_path("redis-server")).context(
            "redis-server is not on the PATH: install it with `sudo apt-get install redis-server redis-tools`, \
             or name one with --redis-server PATH",
        )?;
        let output = Command::new(&path).arg("--version").output();
        let output = output.with_context(|| format!("cannot run {} --version", path.display()))?;
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        let version = said.split_ascii_whitespace().find_map(|word| word.strip_prefix("v="));
        let version = version.with_context(|| format!("{} is no Redis: it says {said:?}", path.display()))?.to_owned();
        Ok(Self { path, version })
    }

    /// The command that starts the Redis of `addr`; writes its directory and, where there is none yet, its
    /// configuration. An existing one stays: CONFIG REWRITE may have changed it, and a restart must keep that.
    pub(super) fn command(
        &self,
        dir: &StateDir,
        addr: SocketAddr,
        primary: Option<SocketAddr>,
        extra: &str,
    ) -> Result<Command> {
        let home = dir.redis(addr.port());
        let conf = home.join("redis.conf");
        if !conf.exists() {
            let text = self.conf(&home, addr, primary, extra);
            let written = fs::create_dir_all(&home).and_then(|()| fs::write(&conf, text));
            written.with_context(|| format!("cannot write {}", conf.display()))?;
        }
        let mut command = Command::new(&self.path);
        command.arg(conf);
        Ok(command)
    }

    fn conf(&self, home: &Path, addr: SocketAddr, primary: Option<SocketAddr>, extra: &str) -> String {
        let mut conf = String::from("# Written by twemslotctl playground.\n");
        let mut say = |line: &str| conf.extend([line, "\n"]);
        say(&format!("bind {}\nport {}", addr.ip(), addr.port()));
        say(&format!("dir \"{}\"", home.display()));
        say("daemonize no\nlogfile \"\"");
        // A playground's data is gone when it stops; nothing here waits for a disk.
        say("save \"\"\nappendonly no");
        // Replicas are in sync at once, not after the 5 s in which Redis waits for more of them.
        say("repl-diskless-sync yes\nrepl-diskless-sync-delay 0");
        // What `doctor` asks of real ones: a silent primary is noticed by its replicas, a short break costs no full copy.
        // The server of Codis is a Redis 3.2, with the words of then.
        let (ping, follow) = match self.major() {
            ..5 => ("repl-ping-slave-period", "slaveof"),
            _ => ("repl-ping-replica-period", "replicaof"),
        };
        say(&format!("{ping} 1\nrepl-backlog-size 64mb"));
        if self.major() >= 5 {
            say("set-proc-title no"); // the command line keeps naming redis.conf, by which one tells it from other servers
        }
        if self.major() >= 7 {
            say("enable-debug-command local"); // older ones always allow it
        }
        if let Some(primary) = primary {
            say(&format!("{follow} {} {}", primary.ip(), primary.port()));
        }
        let _ = writeln!(conf, "{}", extra.trim_end());
        conf
    }

    /// Valkey counts on from Redis 7.
    fn major(&self) -> u32 {
        self.version.split('.').next().and_then(|n| n.parse().ok()).unwrap_or(7)
    }
}

/// Sends one request on a connection of its own; the reply's raw bytes.
pub fn ask(addr: SocketAddr, args: &[&str]) -> Result<Vec<u8>> {
    let mut stream = TcpStream::connect_timeout(&addr, ANSWER_LIMIT)?;
    stream.set_read_timeout(Some(ANSWER_LIMIT))?;
    let mut request = Vec::new();
    write::request(&mut request, &args.iter().map(|arg| arg.as_bytes()).collect::<Vec<_>>());
    stream.write_all(&request)?;
    let (mut reply, mut cursor, mut shown, mut chunk) = (Vec::new(), Cursor::default(), 0, [0; 16 * 1024]);
    loop {
        let n = stream.read(&mut chunk).with_context(|| format!("{addr}: no reply to {}", args.join(" ")))?;
        ensure!(n > 0, "{addr}: closed the connection instead of a reply to {}", args.join(" "));
        reply.extend_from_slice(&chunk[..n]);
        match cursor.step(&reply[shown..]) {
            Step::Done { .. } => return Ok(reply),
            Step::More { used } => shown += used,
            Step::Wrong => bail!("{addr}: not a Redis server"),
        }
    }
}

/// The fields of `INFO section`.
pub fn info(addr: SocketAddr, section: &str) -> Result<BTreeMap<String, String>> {
    let reply = ask(addr, &["INFO", section])?;
    let Some(lines) = text(&reply) else { bail!("{addr}: INFO says {}", String::from_utf8_lossy(&reply).trim()) };
    let lines = String::from_utf8_lossy(lines);
    Ok(lines.lines().filter_map(|l| l.split_once(':')).map(|(k, v)| (k.to_owned(), v.to_owned())).collect())
}

/// Whether the process `pid` answers at `addr`; if not, why not yet.
pub(super) fn answers(addr: SocketAddr, pid: i32) -> Result<(), String> {
    let fields = info(addr, "server").map_err(|e| format!("{e:#}"))?;
    match fields.get("process_id") {
        Some(id) if *id == pid.to_string() => Ok(()),
        other => Err(format!("{addr} is answered by process {other:?}, not by {pid}")),
    }
}

/// Whether a primary has `replicas` in sync; if not, why not yet.
pub(super) fn in_sync(primary: SocketAddr, replicas: &[SocketAddr]) -> Result<(), String> {
    let fields = info(primary, "replication").map_err(|e| format!("{e:#}"))?;
    for replica in replicas {
        let port = format!("port={},", replica.port());
        let line = fields.iter().find(|(k, v)| k.starts_with("slave") && v.contains(&port)).map(|(_, v)| v.as_str());
        if !line.is_some_and(|l| l.contains("state=online")) {
            return Err(format!("{primary} says of its replica {replica}: {}", line.unwrap_or("nothing")));
        }
        let link = info(*replica, "replication").map_err(|e| format!("{e:#}"))?;
        if link.get("master_link_status").map(String::as_str) != Some("up") {
            return Err(format!("replica {replica} has no link to {primary}"));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn older_servers_are_not_told_what_they_do_not_know() {
        let addr = SocketAddr::from(([127, 0, 0, 1], 6402));
        let conf = |version: &str| {
            let program = Program { path: "redis-server".into(), version: version.to_owned() };
            program.conf(Path::new("/tmp/a b"), addr, Some(SocketAddr::from(([127, 0, 0, 1], 6401))), "maxmemory 1mb\n")
        };
        assert!(!conf("6.2.14").contains("enable-debug-command"));
        let seven = conf("7.0.15");
        for line in ["enable-debug-command local", "dir \"/tmp/a b\"", "replicaof 127.0.0.1 6401", "maxmemory 1mb"] {
            assert!(seven.lines().any(|l| l == line), "{line:?} not in {seven}");
        }
    }

    #[test]
    fn a_missing_program_is_named_with_the_remedy() {
        let error = Program::find(Some(Path::new("/bin/true"))).expect_err("no Redis").to_string();
        assert!(error.contains("/bin/true is no Redis"), "{error}");
    }
}
