//! Someone who sees our death and takes our processes with us, however we die: a test run that is killed must not
//! leave servers behind.
//!
//! It is a shell that reads lists of pids from a pipe which only we hold. When the pipe ends it kills the last list.
#![expect(clippy::disallowed_methods, reason = "a shell: starts a process")]

use std::io::{self, Write};
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};

const SCRIPT: &str = r#"trap '' HUP INT TERM
while read -r pids; do last=$pids; done
for pid in $last; do kill -s KILL -- "-$pid" || kill -s KILL "$pid"; done 2>/dev/null"#;

/// The one who waits. Dropping it kills what it watches.
#[derive(Debug)]
pub(super) struct Guard {
    shell: Child,
}

impl Guard {
    pub(super) fn new() -> io::Result<Self> {
        let mut command = Command::new("/bin/sh");
        command.args(["-c", SCRIPT]).process_group(0);
        let shell = command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null()).spawn()?;
        Ok(Self { shell })
    }

    /// From now on these are watched, and no others. Each leads a process group.
    pub(super) fn watch(&mut self, pids: impl Iterator<Item = i32>) -> io::Result<()> {
        let mut line = pids.map(|pid| pid.to_string()).collect::<Vec<_>>().join(" ");
        line.push('\n');
        match &mut self.shell.stdin {
            Some(pipe) => pipe.write_all(line.as_bytes()),
            None => Ok(()),
        }
    }

    /// Lets all live on without us.
    pub(super) fn release(mut self) -> io::Result<()> {
        self.watch(std::iter::empty())
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        drop(self.shell.stdin.take());
        let _ = self.shell.wait(); // nothing is left to do about it
    }
}

#[cfg(test)]
mod tests {
    use super::super::process::{Identity, gone};
    use super::*;
    use std::time::Duration;

    fn sleeper() -> (Child, Identity) {
        let child = Command::new("sleep").arg("60").process_group(0).spawn().expect("sleep");
        let identity = Identity::of(child.id() as i32).expect("runs");
        (child, identity)
    }

    #[test]
    fn the_last_list_counts() {
        let ((mut first, kept), (mut second, lost)) = (sleeper(), sleeper());
        let mut guard = Guard::new().expect("sh");
        guard.watch([kept.pid, lost.pid].into_iter()).expect("written");
        guard.watch([lost.pid].into_iter()).expect("written");
        drop(guard);
        assert!(gone(&[lost], Duration::from_secs(5)) && kept.alive());
        let mut guard = Guard::new().expect("sh");
        guard.watch([kept.pid].into_iter()).expect("written");
        guard.release().expect("released");
        assert!(kept.alive(), "released, but killed");
        first.kill().expect("killed");
        first.wait().and(second.wait()).expect("reaped");
    }
}
