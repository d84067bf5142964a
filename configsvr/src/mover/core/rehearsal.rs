//! Before slots are held: the target's replicas take what was copied, so that clients need not wait for it later. A drain
//! ends with the same question, when only the last writes are left.

use super::asked::Sent;
use super::drain::Replication;
use super::{Copier, Fault, Phase, limits};
use crate::control::job::Goal;
use cluster::resp::reply::{integer, text};

/// How far it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Rehearsal {
    /// To be asked, after so many answers in vain.
    Due {
        tries: u32,
    },
    Asked {
        tries: u32,
    },
    Over,
}

impl Copier {
    /// Asks the target for its replicas when little is left to copy.
    pub(super) fn rehearse(&mut self) {
        let Rehearsal::Due { tries } = self.rehearsal else { return };
        let little = self.dirty.len() + self.flying.len() <= limits::REHEARSAL_KEYS_MAX;
        if self.goal == Goal::Copy
            && self.phase == Phase::Following
            && self.large.is_empty()
            && self.target_up
            && little
        {
            self.rehearsal = Rehearsal::Asked { tries };
            self.tell_target(&[b"INFO", b"replication"], Sent::Replicas);
        }
    }

    pub(super) fn replicas_counted(&mut self, raw: &[u8]) {
        let Some(info) = text(raw) else {
            return self.fail(Fault::failed("the target does not answer INFO"));
        };
        let online = Replication::read(&String::from_utf8_lossy(info)).online;
        if online == 0 {
            self.rehearsal = Rehearsal::Over;
            return;
        }
        let (k, ms) = (online.to_string(), limits::REHEARSAL_MS.to_string());
        self.tell_target(&[b"WAIT", k.as_bytes(), ms.as_bytes()], Sent::Caught { online });
    }

    /// `online` replicas were waited for. One that is never in step is the drain's matter.
    pub(super) fn caught_up(&mut self, online: usize, raw: &[u8]) {
        if let Rehearsal::Asked { tries } = self.rehearsal {
            let all = integer(raw).is_some_and(|n| usize::try_from(n).is_ok_and(|n| n >= online));
            let over = all || tries >= limits::REHEARSALS_MAX;
            self.rehearsal = if over { Rehearsal::Over } else { Rehearsal::Due { tries: tries + 1 } };
        }
    }

    /// The target's connection is gone.
    pub(super) fn rehearse_again(&mut self) {
        self.rehearsal = Rehearsal::Due { tries: 0 };
    }
}
