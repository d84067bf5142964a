//! Programs that tests run: with a limit of time, and with all they said when they fail.

use anyhow::{Context, Result, bail, ensure};
use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;
use std::fs;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// How often a running program is looked at.
const LOOK: Duration = Duration::from_millis(20);

/// A path below the repository.
pub fn ours(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(path)
}

/// Runs it to its end; gives what it printed. It must exit with 0 within `limit`; otherwise it and its children are
/// ended, and the error has what they printed.
pub fn run(command: &mut Command, limit: Duration) -> Result<String> {
    let what = format!("{command:?}");
    // Both streams append to one file, so that their lines stand in the order they were said.
    let output = tempfile::NamedTempFile::new()?;
    let stream = || fs::OpenOptions::new().append(true).open(output.path());
    let said = || String::from_utf8_lossy(&fs::read(output.path()).unwrap_or_default()).into_owned();
    let mut child = command
        .process_group(0) // so that all of it can be ended
        .stdin(Stdio::null())
        .stdout(stream()?)
        .stderr(stream()?)
        .spawn()
        .with_context(|| format!("cannot start {what}: run .ci/install-tests once"))?;
    let end = Instant::now() + limit;
    let status = loop {
        if let Some(status) = child.try_wait()? {
            break status;
        }
        if Instant::now() > end {
            killpg(Pid::from_raw(i32::try_from(child.id())?), Signal::SIGKILL)?;
            child.wait()?;
            bail!("{what}\ndid not end within {} s. It said:\n{}", limit.as_secs(), said());
        }
        std::thread::sleep(LOOK);
    };
    ensure!(status.success(), "{what}\nended with {status}. It said:\n{}", said());
    Ok(said())
}
