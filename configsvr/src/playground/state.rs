//! What a playground leaves on the disk, so that another process finds it again:
//!
//! ```text
//! DIR/playground.json   every process, for people and scripts
//! DIR/run.json          the same, with what is needed to know each process again (see `process::Identity`)
//! DIR/lock              held while a playground is started or stopped
//! DIR/topology.json     what the proxies were started with
//! DIR/redis/PORT/       redis.conf and the directory of one Redis
//! DIR/proxy/N/          proxy.yml, topology and pid file of one proxy
//! DIR/configsvr/N/      configsvr.yml and the data of one configsvr
//! DIR/etcd/N/           the data of one member of etcd
//! DIR/log/NAME.log      kept when the playground is stopped
//! ```
//! Nothing else in DIR is ever touched.
#![expect(clippy::disallowed_methods, reason = "a shell: reads and writes files")]

use super::process::{Identity, boot_id};
use anyhow::{Context, Result, bail, ensure};
use nix::fcntl::{Flock, FlockArg};
use serde::{Deserialize, Serialize};
use std::fs::{self, File};
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

/// The directories of each kind of process.
const KINDS: [&str; 4] = ["redis", "proxy", "configsvr", "etcd"];

/// What a process is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    Redis,
    Proxy,
    Configsvr,
    Etcd,
}

/// One line of `playground.json`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Process {
    pub kind: Kind,
    pub name: String,
    /// Of a proxy: its master's.
    pub pid: i32,
    pub addr: String,
    pub admin_addr: Option<String>,
}

#[derive(Debug, Serialize, Deserialize)]
struct Listing {
    processes: Vec<Process>,
}

/// One process of `run.json`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Owned {
    #[serde(flatten)]
    pub(super) process: Process,
    pub(super) started: u64,
}

impl Owned {
    pub(super) fn identity(&self) -> Identity {
        Identity { pid: self.process.pid, started: self.started }
    }
}

/// `run.json`.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Run {
    boot_id: String,
    /// Who must be asked to stop all: a playground in the foreground.
    pub(super) supervisor: Option<Identity>,
    pub(super) processes: Vec<Owned>,
}

impl Run {
    pub(super) fn new(supervisor: Option<Identity>, processes: Vec<Owned>) -> Self {
        Self { boot_id: boot_id(), supervisor, processes }
    }

    /// Forgets what a reboot has ended.
    fn since_boot(self) -> Self {
        if self.boot_id == boot_id() { self } else { Self::new(None, Vec::new()) }
    }
}

/// A state directory, by its absolute path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct StateDir {
    root: PathBuf,
}

impl StateDir {
    /// Need not exist.
    pub(super) fn new(path: &Path) -> Result<Self> {
        let root = std::path::absolute(path).with_context(|| format!("state directory {}", path.display()))?;
        let text = root.to_str().with_context(|| format!("state directory {}: must be UTF-8", root.display()))?;
        ensure!(!text.contains(['\n', '"', '\\']), "state directory {text:?}: no quotes, backslashes or line ends");
        Ok(Self { root })
    }

    pub(super) fn root(&self) -> &Path {
        &self.root
    }

    pub(super) fn redis(&self, port: u16) -> PathBuf {
        self.root.join("redis").join(port.to_string())
    }

    pub(super) fn proxy(&self, name: &str) -> PathBuf {
        self.root.join("proxy").join(name)
    }

    pub(super) fn configsvr(&self, name: &str) -> PathBuf {
        self.root.join("configsvr").join(name)
    }

    pub(super) fn configsvr_conf(&self, name: &str) -> PathBuf {
        self.configsvr(name).join("configsvr.yml")
    }

    pub(super) fn etcd(&self, name: &str) -> PathBuf {
        self.root.join("etcd").join(name)
    }

    pub(super) fn proxy_conf(&self, name: &str) -> PathBuf {
        self.proxy(name).join("proxy.yml")
    }

    pub(super) fn pid_file(&self, name: &str) -> PathBuf {
        self.proxy(name).join("proxy.pid")
    }

    pub(super) fn log(&self, name: &str) -> PathBuf {
        self.root.join("log").join(format!("{name}.log"))
    }

    pub(super) fn topology(&self) -> PathBuf {
        self.root.join("topology.json")
    }

    fn listing(&self) -> PathBuf {
        self.root.join("playground.json")
    }

    fn run(&self) -> PathBuf {
        self.root.join("run.json")
    }

    /// Makes the directory ready for a new playground.
    pub(super) fn create(&self) -> Result<()> {
        for name in KINDS {
            let path = self.root.join(name);
            ensure!(
                !path.exists(),
                "{} exists, but no playground made it: choose another --state-dir, or move it away",
                path.display()
            );
        }
        let log = self.root.join("log");
        fs::create_dir_all(&log).with_context(|| format!("cannot create {}", log.display()))
    }

    /// An earlier playground's log of the same name goes when a new one starts.
    pub(super) fn forget_log(&self, name: &str) -> Result<()> {
        ignore_missing(fs::remove_file(self.log(name)), "an old log")
    }

    /// None where another process is starting or stopping a playground here.
    pub(super) fn lock(&self) -> Result<Option<Flock<File>>> {
        let path = self.root.join("lock");
        let file = fs::create_dir_all(&self.root).and_then(|()| File::create(&path));
        let file = file.with_context(|| format!("cannot create {}", path.display()))?;
        Ok(Flock::lock(file, FlockArg::LockExclusiveNonblock).ok())
    }

    /// The playground that was started here and not stopped; its processes may be gone.
    pub(super) fn read(&self) -> Result<Option<Run>> {
        let path = self.run();
        let text = match fs::read_to_string(&path) {
            Err(e) if matches!(e.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => return Ok(None),
            text => text.with_context(|| format!("cannot read {}", path.display()))?,
        };
        match serde_json::from_str::<Run>(&text) {
            Ok(run) => Ok(Some(run.since_boot())),
            Err(e) => bail!(
                "{} is damaged ({e}): if no redis-server or twemslot-proxy of it runs, remove {}",
                path.display(),
                self.root.display()
            ),
        }
    }

    /// Writes `run.json`, and `playground.json` too once all is up.
    pub(super) fn write(&self, run: &Run, up: bool) -> Result<()> {
        write_atomically(&self.run(), &serde_json::to_string_pretty(run)?)?;
        if !up {
            return Ok(());
        }
        let processes = run.processes.iter().map(|owned| owned.process.clone()).collect();
        write_atomically(&self.listing(), &(serde_json::to_string_pretty(&Listing { processes })? + "\n"))
    }

    /// Removes all but the logs. `run.json` goes last: it says whose the rest is.
    pub(super) fn clean(&self) -> Result<()> {
        for path in KINDS {
            ignore_missing(fs::remove_dir_all(self.root.join(path)), path)?;
        }
        for path in ["playground.json", "topology.json", "run.json"] {
            ignore_missing(fs::remove_file(self.root.join(path)), path)?;
        }
        Ok(())
    }

    /// Removes the directory with everything in it: for one of our own among the temporary files.
    pub(super) fn remove(&self) -> Result<()> {
        ignore_missing(fs::remove_dir_all(&self.root), "the state directory")
    }
}

fn ignore_missing(result: std::io::Result<()>, what: &str) -> Result<()> {
    match result {
        Err(e) if e.kind() == ErrorKind::NotFound => Ok(()),
        other => other.with_context(|| format!("cannot remove {what}")),
    }
}

/// A reader sees the old text or the new one, never a half.
pub(super) fn write_atomically(path: &Path, text: &str) -> Result<()> {
    let draft = path.with_extension("draft");
    fs::write(&draft, text)
        .and_then(|()| fs::rename(&draft, path))
        .with_context(|| format!("cannot write {}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn dir(test: &str) -> StateDir {
        let path = std::env::temp_dir().join(format!("twemslot-state-{test}-{}", std::process::id()));
        StateDir::new(&path).expect("good path")
    }

    fn owned() -> Owned {
        let (name, addr) = ("redis-6401".to_owned(), "127.0.0.1:6401".to_owned());
        Owned { process: Process { kind: Kind::Redis, name, pid: 7, addr, admin_addr: None }, started: 9 }
    }

    #[test]
    fn the_listing_is_what_scripts_rely_on() {
        let dir = dir("listing");
        dir.create().expect("created");
        dir.write(&Run::new(None, vec![owned()]), true).expect("written");
        let text = fs::read_to_string(dir.listing()).expect("there");
        let json: serde_json::Value = serde_json::from_str(&text).expect("JSON");
        let expected = serde_json::json!({"processes": [
            {"kind": "redis", "name": "redis-6401", "pid": 7, "addr": "127.0.0.1:6401", "admin_addr": null}]});
        assert_eq!(json, expected);
        assert_eq!(dir.read().expect("read").expect("there").processes, [owned()]);
        dir.clean().expect("cleaned");
        assert!(dir.read().expect("read").is_none() && dir.root().join("log").exists());
        dir.remove().expect("removed");
    }

    #[test]
    fn nothing_of_before_a_reboot_runs() {
        let run = Run { boot_id: "another".to_owned(), ..Run::new(None, vec![owned()]) };
        assert!(run.since_boot().processes.is_empty());
    }

    #[test]
    fn what_is_not_ours_is_left_alone() {
        let dir = dir("foreign");
        fs::create_dir_all(dir.root().join("redis")).expect("created");
        let error = dir.create().expect_err("refused").to_string();
        assert!(error.contains("no playground made it"), "{error}");
        dir.remove().expect("removed");
    }
}
