//! What master and worker say to each other: one JSON text a packet over a SOCK_SEQPACKET pair, with at most one
//! descriptor beside it. The worker starts with nothing but its end of the pair.

use crate::os;
use crate::relay::limits::Settings;
use crate::relay::{ClientState, LinkStatus, Question};
use cluster::tls;
use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::sys::socket::{
    AddressFamily, ControlMessage, MsgFlags, SockFlag, SockType, recv, sendmsg, setsockopt, socketpair, sockopt,
};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use std::io::{self, IoSlice};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

/// From the master.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ToWorker {
    /// Said first, with the shared stats page as descriptor (`os::SharedPage::map`). `log` is a `log::LogSettings` as
    /// JSON, for `log::start`.
    Hello {
        worker: u32,
        log: String,
    },
    Settings(Box<Settings>),
    /// How encrypted connections are made from now on.
    Tls(Box<WorkerTls>),
    /// Serve this listener too (descriptor); `name` is its address.
    Listen {
        name: String,
    },
    /// Accept what waits on listeners of this name, then drop them.
    Unlisten {
        name: String,
    },
    /// A topology of this epoch is on the disk: load it at the loop's boundary.
    Topology {
        epoch: u64,
        path: String,
    },
    /// A client that another worker hands over (descriptor).
    Client(ClientState),
    /// Stop accepting; at each client's boundary hand it to the master, or close it; say `Drained` at the end.
    Drain {
        hand_over: bool,
    },
    LogLevel {
        level: String,
    },
    ReopenLog,
    /// Tell how links stand (`Status`).
    Status {
        ticket: u64,
    },
    /// Another worker asks; say `Answer`.
    Question {
        ticket: u64,
        question: Question,
    },
    /// Part of the answers to this worker's own question; `last`: nobody will say more.
    Answered {
        ticket: u32,
        text: String,
        last: bool,
    },
    /// Requests of another worker's clients, for clients of this one that monitor.
    Show {
        lines: String,
    },
}

/// What a worker is told of TLS. The texts themselves, so that all workers have what the master has checked, whatever
/// becomes of the files.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct WorkerTls {
    /// Listeners, by their address, whose clients speak it.
    pub listen: Vec<String>,
    pub server: Option<tls::Server>,
    /// None: instances are met without.
    pub instances: Option<tls::Client>,
}

/// From a worker.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ToMaster {
    /// Settings, stats page and all listeners said so far are in use.
    Ready,
    Listening {
        name: String,
    },
    Unlistened {
        name: String,
    },
    Serving {
        epoch: u64,
    },
    /// Nothing for a slot that this epoch holds is in flight.
    Quiet {
        epoch: u64,
    },
    /// Not yet, because of what an instance may still hold of a lost connection; `Quiet` may follow.
    NotQuiet {
        epoch: u64,
        why: String,
    },
    /// The file could not be loaded; the old topology stays.
    Refused {
        epoch: u64,
        why: String,
    },
    /// (descriptor)
    Client(ClientState),
    Drained,
    Status {
        ticket: u64,
        links: Vec<LinkStatus>,
    },
    /// Ask the other workers; say `Answered` as they answer.
    Ask {
        ticket: u32,
        question: Question,
    },
    /// Part of an answer to a `Question`; `last`: the end of it.
    Answer {
        ticket: u64,
        text: String,
        last: bool,
    },
    /// Requests of this worker's clients, for the other workers.
    Show {
        lines: String,
    },
}

/// One end of the pair. Many threads may send and one may receive.
///
/// A message that should bring a descriptor may come without it, when the receiver has no descriptor number left.
#[derive(Debug)]
pub struct Mailbox {
    fd: OwnedFd,
}

/// Room for messages that the peer has not read yet. The kernel may give less (net.core.wmem_max); one message must
/// fit into it as a whole.
const ROOM: usize = 1 << 20;

impl Mailbox {
    /// Two ends that speak to each other, closed on exec. Give each to `new`.
    pub fn pair() -> io::Result<(OwnedFd, OwnedFd)> {
        Ok(socketpair(AddressFamily::Unix, SockType::SeqPacket, None, SockFlag::SOCK_CLOEXEC)?)
    }

    /// With `nonblocking`, `recv` gives `WouldBlock` when there is nothing; otherwise it waits. `send` never waits.
    pub fn new(fd: OwnedFd, nonblocking: bool) -> io::Result<Self> {
        let mut flags = OFlag::from_bits_retain(fcntl(&fd, FcntlArg::F_GETFL)?);
        flags.set(OFlag::O_NONBLOCK, nonblocking);
        fcntl(&fd, FcntlArg::F_SETFL(flags))?;
        // Beyond the limit only with CAP_NET_ADMIN.
        setsockopt(&fd, sockopt::SndBufForce, &ROOM).or_else(|_| setsockopt(&fd, sockopt::SndBuf, &ROOM))?;
        Ok(Self { fd })
    }

    /// Sends a message and a copy of the descriptor, whole or not at all.
    ///
    /// Errors: `WouldBlock` when the peer has not read what was sent before: keep the message and try again;
    /// `BrokenPipe` or `ConnectionReset` when the peer is gone; EMSGSIZE when the message never fits.
    pub fn send<T: Serialize>(&self, message: &T, descriptor: Option<BorrowedFd<'_>>) -> io::Result<()> {
        self.send_bytes(&serde_json::to_vec(message)?, descriptor)
    }

    /// Sends a message that is JSON already.
    pub fn send_bytes(&self, json: &[u8], descriptor: Option<BorrowedFd<'_>>) -> io::Result<()> {
        let fds = descriptor.map(|d| [d.as_raw_fd()]);
        let rights = fds.as_ref().map(|f| [ControlMessage::ScmRights(f)]);
        let rights = rights.as_ref().map_or(&[][..], |r| &r[..]);
        let flags = MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_NOSIGNAL;
        sendmsg::<()>(self.fd.as_raw_fd(), &[IoSlice::new(json)], rights, flags, None)?;
        Ok(())
    }

    /// The next message with its descriptor, if it has one. None: the peer has closed its end, or died.
    ///
    /// Errors: `WouldBlock` (see `new`); `InvalidData` for a message of another version: it is taken out, and the
    /// mailbox goes on.
    pub fn recv<T: DeserializeOwned>(&self) -> io::Result<Option<(T, Option<OwnedFd>)>> {
        let Some((json, descriptor)) = self.receive()? else { return Ok(None) };
        let message = serde_json::from_slice(&json).map_err(|e| io::Error::new(io::ErrorKind::InvalidData, e))?;
        Ok(Some((message, descriptor)))
    }

    fn receive(&self) -> io::Result<Option<(Vec<u8>, Option<OwnedFd>)>> {
        let length = match recv(self.fd.as_raw_fd(), &mut [], MsgFlags::MSG_PEEK | MsgFlags::MSG_TRUNC) {
            Ok(0) => return Ok(None),
            Ok(length) => length,
            // Said once, of a peer that is gone with mail it has not read: what it sent before is still here.
            Err(Errno::ECONNRESET) => return self.receive(),
            Err(e) => return Err(e.into()),
        };
        let mut json = vec![0; length];
        let (got, descriptor) = match os::receive(self.fd.as_fd(), &mut json) {
            Err(e) if e.kind() == io::ErrorKind::ConnectionReset => os::receive(self.fd.as_fd(), &mut json)?,
            other => other?,
        };
        json.truncate(got);
        Ok(Some((json, descriptor)))
    }
}

impl AsFd for Mailbox {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl From<Mailbox> for OwnedFd {
    fn from(mailbox: Mailbox) -> Self {
        mailbox.fd
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read, Write};

    fn pair(nonblocking: bool) -> (Mailbox, Mailbox) {
        let (a, b) = Mailbox::pair().expect("socketpair");
        (Mailbox::new(a, nonblocking).expect("new"), Mailbox::new(b, nonblocking).expect("new"))
    }

    #[test]
    fn messages_come_whole_and_in_order() {
        let (master, worker) = pair(true);
        let long = "x".repeat(100_000);
        master.send(&ToWorker::LogLevel { level: long.clone() }, None).expect("send");
        master.send(&ToWorker::ReopenLog, None).expect("send");
        let (first, fd) = worker.recv::<ToWorker>().expect("recv").expect("open");
        assert_eq!((first, fd.is_none()), (ToWorker::LogLevel { level: long }, true));
        assert_eq!(worker.recv::<ToWorker>().expect("recv").expect("open").0, ToWorker::ReopenLog);
        assert_eq!(worker.recv::<ToWorker>().expect_err("nothing").kind(), io::ErrorKind::WouldBlock);
    }

    #[test]
    fn a_descriptor_travels_and_is_closed_on_exec() {
        let (master, worker) = pair(false);
        let (reader, writer) = nix::unistd::pipe().expect("pipe");
        worker.send(&ToMaster::Ready, Some(writer.as_fd())).expect("send");
        drop(writer);
        let (message, fd) = master.recv::<ToMaster>().expect("recv").expect("open");
        let fd = fd.expect("a descriptor");
        assert_eq!(message, ToMaster::Ready);
        assert_eq!(fcntl(&fd, FcntlArg::F_GETFD).expect("flags"), nix::libc::FD_CLOEXEC);
        std::fs::File::from(fd).write_all(b"hi").expect("write");
        let mut text = String::new();
        std::fs::File::from(reader).read_to_string(&mut text).expect("read to the end: no copy is left open");
        assert_eq!(text, "hi");
    }

    #[test]
    fn an_unread_mailbox_fills_and_a_closed_one_says_so() {
        let (master, worker) = pair(true);
        let full = (0..100_000).find_map(|_| master.send(&ToWorker::ReopenLog, None).err()).expect("bounded");
        assert_eq!(full.kind(), io::ErrorKind::WouldBlock);
        drop(master);
        let mut left = 0;
        while worker.recv::<ToWorker>().expect("what was sent").is_some() {
            left += 1;
        }
        assert!(left > 100, "{left}");
        assert_eq!(worker.send(&ToMaster::Ready, None).expect_err("gone").kind(), io::ErrorKind::BrokenPipe);
    }

    #[test]
    fn the_last_words_of_one_who_leaves_mail_unread_are_heard() {
        let (master, worker) = pair(false);
        let (reader, writer) = nix::unistd::pipe().expect("pipe");
        worker.send(&ToMaster::Ready, Some(writer.as_fd())).expect("send");
        worker.send(&ToMaster::Drained, None).expect("send");
        master.send(&ToWorker::ReopenLog, None).expect("send");
        drop((worker, reader));
        let (message, fd) = master.recv::<ToMaster>().expect("recv").expect("open");
        assert_eq!((message, fd.is_some()), (ToMaster::Ready, true));
        assert_eq!(master.recv::<ToMaster>().expect("recv").expect("open").0, ToMaster::Drained);
        assert!(master.recv::<ToMaster>().expect("the end").is_none());
    }

    #[test]
    fn a_message_of_another_version_does_not_stop_the_mail() {
        let (master, worker) = pair(true);
        master.send(&"what is this", None).expect("send");
        master.send(&ToWorker::ReopenLog, None).expect("send");
        assert_eq!(worker.recv::<ToWorker>().expect_err("unknown").kind(), io::ErrorKind::InvalidData);
        assert!(worker.recv::<ToWorker>().expect("recv").is_some());
    }
}
