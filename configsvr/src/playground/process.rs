//! Processes: starting one that outlives us if need be, knowing it again without being fooled by a reused pid, and
//! stopping it for certain.
#![expect(clippy::disallowed_methods, reason = "a shell: starts and watches processes, reads /proc, waits")]

use anyhow::{Context, Result};
use nix::sys::signal::{Signal, kill, killpg};
use nix::unistd::Pid;
use serde::{Deserialize, Serialize};
use std::fs::{self, File, OpenOptions};
use std::io::{Read, Seek, SeekFrom};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

/// How often a condition is looked at again.
const LOOK: Duration = Duration::from_millis(10);
/// KILL cannot be refused; a process that is still there after this sits in the kernel.
const KILL_GRACE: Duration = Duration::from_secs(5);
/// What of a log is shown when its process has died.
const TAIL_LINES: usize = 15;
const TAIL_BYTES: u64 = 16 * 1024;

/// A pid and the moment its process started, in clock ticks since boot: together they never come again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Identity {
    pub(super) pid: i32,
    pub(super) started: u64,
}

impl Identity {
    /// Of the process that has this pid now; None where there is none, or only its zombie.
    pub(super) fn of(pid: i32) -> Option<Self> {
        let stat = Stat::read(pid)?;
        (!stat.dead).then_some(Self { pid, started: stat.started })
    }

    /// Whether that very process still runs. A zombie does not.
    pub(super) fn alive(self) -> bool {
        Self::of(self.pid) == Some(self)
    }

    /// Sends `signal` if that very process still runs; false where it does not.
    pub(super) fn signal(self, signal: Signal) -> bool {
        self.alive() && kill(Pid::from_raw(self.pid), signal).is_ok()
    }

    /// KILL for the process and whatever of its process group is left.
    fn kill_group(self) {
        if self.alive() && killpg(Pid::from_raw(self.pid), Signal::SIGKILL).is_err() {
            self.signal(Signal::SIGKILL);
        }
    }
}

/// The part of `/proc/PID/stat` that we need.
struct Stat {
    dead: bool,
    parent: i32,
    started: u64,
}

impl Stat {
    fn read(pid: i32) -> Option<Self> {
        Self::parse(&fs::read_to_string(format!("/proc/{pid}/stat")).ok()?)
    }

    /// The name in brackets may hold anything, brackets too: fields are counted behind the last one.
    fn parse(text: &str) -> Option<Self> {
        let fields: Vec<&str> = text.get(text.rfind(')')? + 1..)?.split_ascii_whitespace().collect();
        Some(Self {
            dead: matches!(*fields.first()?, "Z" | "X" | "x"),
            parent: fields.get(1)?.parse().ok()?,
            started: fields.get(19)?.parse().ok()?,
        })
    }
}

/// The living children of a process.
pub fn children(parent: i32) -> Vec<i32> {
    let Ok(entries) = fs::read_dir("/proc") else { return Vec::new() };
    let pids = entries.flatten().filter_map(|e| e.file_name().to_str()?.parse::<i32>().ok());
    let mut children: Vec<i32> =
        pids.filter(|&pid| Stat::read(pid).is_some_and(|s| !s.dead && s.parent == parent)).collect();
    children.sort_unstable();
    children
}

/// The words a process was started with.
pub(super) fn command_line(pid: i32) -> Option<String> {
    let raw = fs::read(format!("/proc/{pid}/cmdline")).ok()?;
    Some(String::from_utf8_lossy(&raw).replace('\0', " ").trim().to_owned())
}

/// Changes with every boot: a pid and its start mean nothing after one.
pub(super) fn boot_id() -> String {
    fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default().trim().to_owned()
}

/// Starts `command` with its output appended to `log`, in a process group of its own: the Ctrl-C and the hang-up of
/// our terminal are not for it.
pub(super) fn spawn(mut command: Command, log: &Path) -> Result<Child> {
    let program = PathBuf::from(command.get_program());
    let output = OpenOptions::new().create(true).append(true).open(log);
    let output = output.with_context(|| format!("cannot write the log {}", log.display()))?;
    command.stdin(Stdio::null()).stdout(output.try_clone()?).stderr(output).process_group(0);
    command.spawn().with_context(|| format!("cannot start {}", program.display()))
}

/// Stops processes: `first` for all, and KILL for those that are still there after `grace`. Those that even then
/// remain are returned.
pub(super) fn stop(processes: &[Identity], first: Signal, grace: Duration) -> Vec<Identity> {
    for process in processes {
        process.signal(first);
        process.signal(Signal::SIGCONT); // a stopped process takes no other signal
    }
    if !gone(processes, grace) {
        processes.iter().for_each(|p| p.kill_group());
        gone(processes, KILL_GRACE);
    }
    processes.iter().copied().filter(|p| p.alive()).collect()
}

/// Whether all have ended within `limit`.
pub(super) fn gone(processes: &[Identity], limit: Duration) -> bool {
    let end = Instant::now() + limit;
    loop {
        if processes.iter().all(|p| !p.alive()) {
            return true;
        }
        if Instant::now() >= end {
            return false;
        }
        thread::sleep(LOOK);
    }
}

/// Looks at `probe` until it gives a value. It says "not yet, because" with the inner error, which is shown when time
/// is up, and gives up with the outer one.
pub fn until<T>(what: &str, limit: Duration, mut probe: impl FnMut() -> Result<Result<T, String>>) -> Result<T> {
    let end = Instant::now() + limit;
    loop {
        match probe()? {
            Ok(value) => return Ok(value),
            Err(why) if Instant::now() >= end => {
                anyhow::bail!("{what}: not within {} s: {why}", limit.as_secs_f32())
            }
            Err(_) => thread::sleep(LOOK),
        }
    }
}

/// The last lines of a log, indented; a note where there is nothing.
pub(super) fn tail(log: &Path) -> String {
    let read = || -> std::io::Result<String> {
        let mut file = File::open(log)?;
        let skip = file.metadata()?.len().saturating_sub(TAIL_BYTES);
        file.seek(SeekFrom::Start(skip))?;
        let mut raw = Vec::new();
        file.read_to_end(&mut raw)?;
        Ok(String::from_utf8_lossy(&raw).into_owned())
    };
    let text = match read() {
        Ok(text) if text.trim().is_empty() => "(the log is empty)".to_owned(),
        Ok(text) => text,
        Err(e) => format!("(the log cannot be read: {e})"),
    };
    let lines: Vec<&str> = text.lines().filter(|l| !l.trim().is_empty()).collect();
    let last = &lines[lines.len().saturating_sub(TAIL_LINES)..];
    last.iter().map(|l| format!("    {l}\n")).collect()
}

/// Finds one of our programs: in the environment (`twemslot-proxy` as `TWEMSLOT_PROXY`), beside the running
/// executable, in the directory above it (a test runs in `target/debug/deps`), on the PATH.
///
/// `cargo test` alone does not build programs: build them first, or an old one may be found.
pub fn find_binary(name: &str) -> Result<PathBuf> {
    let variable = name.to_uppercase().replace('-', "_");
    if let Some(path) = std::env::var_os(&variable).map(PathBuf::from) {
        anyhow::ensure!(path.is_file(), "{variable} names {}, which is not a file", path.display());
        return Ok(path);
    }
    let own = std::env::current_exe().unwrap_or_default();
    let near = own.ancestors().skip(1).take(2).map(|dir| dir.join(name)).find(|path| path.is_file());
    near.or_else(|| on_path(name)).with_context(|| {
        format!(
            "{name} is neither beside {} nor on the PATH: build it with `cargo build --workspace`, \
             or name it with {variable}=/path/to/{name}",
            own.display()
        )
    })
}

/// The first file of that name on the PATH.
pub(super) fn on_path(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path).map(|dir| dir.join(name)).find(|path| path.is_file())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sleeper() -> Child {
        Command::new("sleep").arg("60").process_group(0).spawn().expect("sleep")
    }

    #[test]
    fn a_name_in_brackets_may_hold_brackets() {
        let stat = "7 (a) R (b) S 3 7 7 0 -1 4 1 0 0 0 0 0 0 0 20 0 1 0 4242 9 9";
        let stat = Stat::parse(stat).expect("parses");
        assert_eq!((stat.dead, stat.parent, stat.started), (false, 3, 4242));
        assert!(Stat::parse("7 (a) Z 3").is_none());
    }

    #[test]
    fn a_reused_pid_is_somebody_else() {
        let mut child = sleeper();
        let identity = Identity::of(child.id() as i32).expect("runs");
        let earlier = Identity { started: identity.started - 1, ..identity };
        assert!(!earlier.signal(Signal::SIGKILL) && !earlier.alive());
        assert_eq!(stop(&[earlier], Signal::SIGKILL, Duration::ZERO), []);
        assert!(identity.alive(), "a stranger was killed");
        assert_eq!(stop(&[identity], Signal::SIGTERM, Duration::from_secs(5)), []);
        assert!(!identity.alive(), "a zombie counts as gone");
        child.wait().expect("reaped");
    }

    #[test]
    fn who_does_not_listen_is_killed() {
        let mut shell = Command::new("sh");
        shell.args(["-c", "trap '' TERM; echo; while :; do sleep 1; done"]);
        let mut child = shell.stdout(Stdio::piped()).process_group(0).spawn().expect("sh");
        let mut ready = [0];
        child.stdout.take().expect("piped").read_exact(&mut ready).expect("the trap is set");
        let identity = Identity::of(child.id() as i32).expect("runs");
        assert_eq!(stop(&[identity], Signal::SIGTERM, Duration::from_millis(50)), []);
        child.wait().expect("reaped");
    }

    #[test]
    fn a_frozen_process_is_stopped() {
        let mut child = sleeper();
        let identity = Identity::of(child.id() as i32).expect("runs");
        assert!(identity.signal(Signal::SIGSTOP));
        assert_eq!(stop(&[identity], Signal::SIGTERM, Duration::from_secs(5)), []);
        child.wait().expect("reaped");
    }

    #[test]
    fn time_runs_out_with_the_reason() {
        let never = until("the moon", Duration::ZERO, || Ok(Err::<(), _>("it is day".to_owned())));
        assert_eq!(never.expect_err("never").to_string(), "the moon: not within 0 s: it is day");
    }
}
