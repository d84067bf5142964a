//! The last topology, on disk: written before anybody serves it, so that a restart serves what was acknowledged.
#![expect(clippy::disallowed_methods, reason = "a shell: reads and writes the topology's file")]

use cluster::topology::Topology;
use cluster::wire;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

/// Writes the topology so that a crash leaves the old file or the new one, whole.
pub(super) fn save(path: &Path, topology: &Topology) -> io::Result<()> {
    let fresh = path.with_extension("tmp");
    // What users' passwords hash to is in it.
    let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&fresh)?;
    file.write_all(wire::print(topology).as_bytes())?;
    file.sync_all()?;
    fs::rename(&fresh, path)?;
    match path.parent() {
        Some(directory) => File::open(directory)?.sync_all(),
        None => Ok(()),
    }
}

/// A file that is there from a goodbye to the control plane on until it knows this proxy again.
pub(super) fn left_path(path: &Path) -> PathBuf {
    path.with_extension("left")
}

pub(super) fn has_left(path: &Path) -> bool {
    left_path(path).exists()
}

pub(super) fn leave(path: &Path) -> io::Result<()> {
    let file = File::create(left_path(path))?;
    file.sync_all()
}

pub(super) fn come_back(path: &Path) -> io::Result<()> {
    match fs::remove_file(left_path(path)) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => Err(e),
        _ => Ok(()),
    }
}

/// What `save` wrote. None: there is no file. Errors say what is wrong with it.
pub(super) fn load(path: &Path) -> Result<Option<Topology>, String> {
    let bytes = match fs::read(path) {
        Ok(bytes) => bytes,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(e) => return Err(e.to_string()),
    };
    wire::parse(&bytes).map(Some).map_err(|faults| faults.join("; "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_has_left_comes_back() {
        let dir = tempfile::tempdir().expect("dir");
        let path = dir.path().join("topology.json");
        come_back(&path).expect("nothing to do");
        leave(&path).expect("written");
        assert!(has_left(&path));
        come_back(&path).expect("removed");
        assert!(!has_left(&path));
    }

    #[test]
    fn what_is_saved_is_loaded_and_what_is_broken_is_refused() {
        let dir = tempfile::tempdir().expect("dir");
        let path = dir.path().join("topology.json");
        assert_eq!(load(&path), Ok(None));
        let json = br#"{"epoch":7,"groups":[{"id":1,"instances":[{"addr":"127.0.0.1:6401","role":"primary"}]}],
            "slots":[{"from":0,"to":1023,"group":1}]}"#;
        let topology = wire::parse(json).expect("good");
        save(&path, &topology).expect("save");
        save(&path, &topology).expect("again");
        assert_eq!(load(&path), Ok(Some(topology)));
        assert_eq!(fs::read_dir(dir.path()).expect("dir").count(), 1, "nothing is left behind");
        fs::write(&path, "{\"epoch\":").expect("write");
        assert!(load(&path).expect_err("cut").contains("EOF"));
    }
}
