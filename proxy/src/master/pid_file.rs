//! The file that says which process is the master.
#![expect(clippy::disallowed_methods, reason = "a shell: reads and writes a file")]

use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

/// A pid file that is ours; removed when it is dropped, if it still is.
#[derive(Debug)]
pub(super) struct PidFile {
    path: PathBuf,
}

impl PidFile {
    /// Writes our process id. A file of a process that is gone is replaced; one of a living proxy is an error.
    pub(super) fn write(path: &Path) -> io::Result<Self> {
        let path = std::path::absolute(path)?;
        if let Some(pid) = read(&path).filter(|pid| *pid != std::process::id() && is_proxy(*pid)) {
            let why = format!("pid file {}: process {pid} is a proxy that runs; stop it first", path.display());
            return Err(io::Error::new(io::ErrorKind::AlreadyExists, why));
        }
        let named = |e: io::Error| io::Error::new(e.kind(), format!("pid file {}: {e}", path.display()));
        let fresh = path.with_extension(format!("{}.tmp", std::process::id()));
        let mut file = fs::File::create(&fresh).map_err(named)?;
        writeln!(file, "{}", std::process::id()).map_err(named)?;
        fs::rename(&fresh, &path).map_err(named)?;
        Ok(Self { path })
    }
}

impl Drop for PidFile {
    fn drop(&mut self) {
        if read(&self.path) == Some(std::process::id())
            && let Err(e) = fs::remove_file(&self.path)
        {
            tracing::warn!(path = %self.path.display(), error = %e, "the pid file stays");
        }
    }
}

fn read(path: &Path) -> Option<u32> {
    fs::read_to_string(path).ok()?.trim().parse().ok()
}

/// Whether this process lives and is a program of our name: numbers are given again.
fn is_proxy(pid: u32) -> bool {
    let Some((name, state)) = name_and_state(pid) else { return false };
    let ours = name_and_state(std::process::id()).is_some_and(|own| own.0 == name);
    ours && state != 'Z'
}

fn name_and_state(pid: u32) -> Option<(String, char)> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let (head, tail) = stat.rsplit_once(')')?;
    Some((head.split_once('(')?.1.to_owned(), tail.trim_start().chars().next()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_of_the_dead_is_replaced_and_of_the_living_refused() {
        let dir = tempfile::tempdir().expect("dir");
        let path = dir.path().join("proxy.pid");
        fs::write(&path, "4194000\n").expect("write");
        let file = PidFile::write(&path).expect("nobody has that number");
        assert_eq!(read(&path), Some(std::process::id()));
        drop(file);
        assert!(!path.exists());
        fs::write(&path, "1\n").expect("write");
        drop(PidFile::write(&path).expect("number 1 is another program"));
        assert!(is_proxy(std::process::id()), "we are of our own name");
    }

    #[test]
    fn a_file_that_another_took_over_stays() {
        let dir = tempfile::tempdir().expect("dir");
        let path = dir.path().join("proxy.pid");
        let file = PidFile::write(&path).expect("write");
        fs::write(&path, "1\n").expect("write");
        drop(file);
        assert!(path.exists());
        assert!(
            PidFile::write(Path::new("/nowhere/pid")).expect_err("no directory").to_string().contains("/nowhere/pid")
        );
    }
}
