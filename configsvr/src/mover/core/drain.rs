//! The end of a copy: nobody writes any more, everything up to the source's offset is applied, and the target's replicas
//! have it.

use super::asked::Sent;
use super::{Copier, Fault, Phase, limits};
use crate::control::job::Mark;
use cluster::resp::reply::{integer, text};

/// How far a drain has come.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Drain {
    Idle,
    /// The source's primary is to be asked for its offset.
    Asking {
        fence: u64,
        asked: bool,
    },
    /// The stream is to be taken up to it, and nothing may be left.
    Reading {
        fence: u64,
        offset: u64,
    },
    /// The target is asked for its replicas.
    Counting {
        fence: u64,
        offset: u64,
    },
    /// They are given time.
    Waiting {
        fence: u64,
        offset: u64,
    },
    Done {
        fence: u64,
        offset: u64,
        replicas: usize,
    },
}

impl Copier {
    /// Goes on with a drain when nothing is left to do.
    pub(super) fn drain(&mut self) {
        if let Drain::Reading { fence, offset } = self.drain
            && self.journal.pos() >= offset
            && self.settled()
        {
            self.drain = Drain::Counting { fence, offset };
            // WAIT counts from this connection's last write; a connection that was made anew has none.
            self.tell_target(&[b"PUBLISH", b"twemslot:moved", b""], Sent::Barrier);
            self.tell_target(&[b"INFO", b"replication"], Sent::Replication);
        }
    }

    /// The target is equal to the source at the offset taken.
    fn settled(&self) -> bool {
        self.phase == Phase::Following
            && self.target_up
            && self.dirty.is_empty()
            && self.flying.is_empty()
            && self.ready.is_empty()
            && self.all_answered()
    }

    /// What was sent to the target for a drain is lost.
    pub(super) fn drain_again(&mut self) {
        if let Drain::Counting { fence, offset } | Drain::Waiting { fence, offset } = self.drain {
            self.drain = Drain::Reading { fence, offset };
        }
    }

    pub(super) fn target_replication(&mut self, raw: &[u8]) {
        let Drain::Counting { fence, offset } = self.drain else { return };
        let Some(info) = text(raw) else {
            return self.fail(Fault::failed("the target does not answer INFO"));
        };
        let info = Replication::read(&String::from_utf8_lossy(info));
        if !info.primary {
            return self.fail(Fault::failed("the target is no primary any more"));
        }
        self.mark = Some(Mark { replid: info.replid, offset: info.offset });
        if info.online == 0 {
            self.drain = Drain::Done { fence, offset, replicas: 0 };
            return;
        }
        self.drain = Drain::Waiting { fence, offset };
        let (k, ms) = (info.online.to_string(), limits::WAIT_MS.to_string());
        self.tell_target(&[b"WAIT", k.as_bytes(), ms.as_bytes()], Sent::Wait);
    }

    pub(super) fn waited(&mut self, raw: &[u8]) {
        if let Drain::Waiting { fence, offset } = self.drain {
            let replicas = integer(raw).unwrap_or(0).max(0) as usize;
            self.drain = Drain::Done { fence, offset, replicas };
        }
    }
}

/// What INFO replication says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Replication {
    pub primary: bool,
    pub replid: String,
    pub offset: u64,
    /// Replicas that are in sync and were heard of lately.
    pub online: usize,
    /// Of a replica: its link to the primary is up.
    pub link_up: bool,
}

impl Replication {
    pub fn read(info: &str) -> Self {
        let mut found = Self { primary: false, replid: String::new(), offset: 0, online: 0, link_up: false };
        for (name, value) in info.lines().filter_map(|line| line.trim_end().split_once(':')) {
            match name {
                "role" => found.primary = value == "master",
                "master_replid" => value.clone_into(&mut found.replid),
                "master_repl_offset" => found.offset = value.parse().unwrap_or(0),
                "master_link_status" => found.link_up = value == "up",
                _ if name.strip_prefix("slave").is_some_and(|n| n.parse::<u32>().is_ok()) => {
                    found.online += usize::from(in_step(value));
                }
                _ => {}
            }
        }
        found
    }
}

/// `ip=..,port=..,state=online,offset=..,lag=0`. A lag of two seconds is one that does not answer.
fn in_step(line: &str) -> bool {
    let field = |name: &str| line.split(',').find_map(|part| part.strip_prefix(name)?.strip_prefix('='));
    field("state") == Some("online") && field("lag").and_then(|lag| lag.parse::<i64>().ok()).is_none_or(|lag| lag <= 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn replicas_in_step_are_counted() {
        let info = "# Replication\r\nrole:master\r\nconnected_slaves:3\r\n\
                    slave0:ip=127.0.0.1,port=1,state=online,offset=9,lag=0\r\n\
                    slave1:ip=127.0.0.1,port=2,state=online,offset=9,lag=7\r\n\
                    slave2:ip=127.0.0.1,port=3,state=wait_bgsave,offset=0,lag=0\r\n\
                    master_replid:abc\r\nmaster_repl_offset:9\r\n";
        let found = Replication::read(info);
        assert_eq!((found.primary, found.online, found.offset, found.replid.as_str()), (true, 1, 9, "abc"));
        assert!(!Replication::read("role:slave\r\nmaster_link_status:up\r\n").primary);
    }
}
