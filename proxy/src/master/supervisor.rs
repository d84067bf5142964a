//! What the supervisor that started us is told (`Type=notify` of systemd): one datagram a word, to the socket named by
//! NOTIFY_SOCKET. Without that variable nobody is told anything.

use std::ffi::OsStr;
use std::io;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};

/// Clients are served. Said by each image of this process: an upgrade in place is no restart.
pub(super) const READY: &str = "READY=1";
/// No new ones are.
pub(super) const STOPPING: &str = "STOPPING=1";

/// Tells the supervisor. One that cannot be told is no reason to stop.
pub(super) fn tell(word: &str) {
    let Some(socket) = std::env::var_os("NOTIFY_SOCKET") else { return };
    if let Err(e) = send(&socket, word) {
        tracing::warn!(socket = %socket.display(), word, error = %e, "the supervisor cannot be told");
    }
}

/// A name that begins with `@` is one of the kernel's, not of the file system.
fn send(socket: &OsStr, word: &str) -> io::Result<()> {
    let addr = match socket.as_bytes() {
        [b'@', name @ ..] => SocketAddr::from_abstract_name(name)?,
        _ => SocketAddr::from_pathname(socket)?,
    };
    UnixDatagram::unbound()?.send_to_addr(word.as_bytes(), &addr).map(|_| ())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_word_arrives_at_a_path_and_at_a_name() {
        let dir = tempfile::tempdir().expect("dir");
        let path = dir.path().join("notify");
        let name = format!("twemslot-test-{}", std::process::id());
        let by_path = UnixDatagram::bind(&path).expect("bind");
        let by_name =
            UnixDatagram::bind_addr(&SocketAddr::from_abstract_name(&name).expect("name")).expect("bind by name");
        send(path.as_os_str(), READY).expect("sent");
        send(OsStr::new(&format!("@{name}")), STOPPING).expect("sent");
        for (socket, word) in [(by_path, READY), (by_name, STOPPING)] {
            let mut bytes = [0; 64];
            let length = socket.recv(&mut bytes).expect("received");
            assert_eq!(&bytes[..length], word.as_bytes());
        }
        assert!(send(OsStr::new("/nowhere/socket"), READY).is_err());
    }
}
