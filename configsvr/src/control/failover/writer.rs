//! One transaction at a time. It compares the leader, the epoch and every record it replaces, so that it may be sent again
//! as it stands when nobody said what became of it; and what is refused is simply decided anew.

use super::scene::Scene;
use crate::control::event::{Action, DeedId};
use crate::control::limits::{AWAIT_MS, RECORD_MS, WRITE_AGAIN_MS};
use crate::control::out::Out;
use crate::store::{Fault, Revision, Txn, Verdict};

#[derive(Debug, Default)]
enum Stage {
    #[default]
    Idle,
    Under(DeedId, u64),
    /// Send it again then.
    Unsure(u64),
    /// The watch must show this; or, where others write to the same etcd, never does. Since when.
    Awaiting(Revision, u64),
    Paused(u64),
}

/// The way to the store.
#[derive(Debug, Default)]
pub(in crate::control) struct Writer {
    stage: Stage,
    txn: Txn,
}

impl Writer {
    pub(in crate::control) fn is_idle(&self) -> bool {
        matches!(self.stage, Stage::Idle)
    }

    /// Only when idle: otherwise what is asked for will be asked for again.
    pub(in crate::control) fn write(&mut self, now: u64, txn: Txn, out: &mut Out) {
        if !self.is_idle() {
            return;
        }
        let deed = out.deed();
        self.txn = txn.clone();
        self.stage = Stage::Under(deed, now);
        out.push(Action::Write { deed, txn });
    }

    pub(in crate::control) fn wrote(&mut self, now: u64, deed: DeedId, outcome: &Result<Verdict, Fault>) -> bool {
        if !matches!(self.stage, Stage::Under(of, _) if of == deed) {
            return false;
        }
        self.stage = match outcome {
            Ok(Verdict::Done(revision) | Verdict::Refused(revision)) => Stage::Awaiting(*revision, now),
            Err(Fault::Unknown(_)) => Stage::Unsure(now + WRITE_AGAIN_MS),
            Err(_) => Stage::Paused(now + WRITE_AGAIN_MS),
        };
        true
    }

    /// What time and the watch bring.
    pub(in crate::control) fn look(&mut self, scene: &Scene, out: &mut Out) {
        match self.stage {
            Stage::Under(_, since) if scene.now >= since + RECORD_MS => self.stage = Stage::Unsure(scene.now),
            // What is decided too early is refused: every transaction compares what it replaces.
            Stage::Awaiting(revision, since) if scene.state.revision >= revision || scene.now >= since + AWAIT_MS => {
                self.stage = Stage::Idle;
            }
            Stage::Paused(until) if scene.now >= until => self.stage = Stage::Idle,
            _ => {}
        }
        let still_ours = self.txn.compares.first() == Some(&scene.fence.compare);
        match self.stage {
            Stage::Unsure(_) if !still_ours => self.stage = Stage::Idle,
            Stage::Unsure(at) if scene.now >= at => {
                let deed = out.deed();
                self.stage = Stage::Under(deed, scene.now);
                out.push(Action::Write { deed, txn: self.txn.clone() });
            }
            _ => {}
        }
    }
}
