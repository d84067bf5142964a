//! When there is an election. openraft's own elections are off: they begin whenever one member has heard nothing for a
//! while, and a member that was frozen, or cut off, comes back convinced that the leader is gone; standing for election,
//! its higher term deposes a leader that everybody else hears well. Here a member asks around first (Raft's pre-vote,
//! which openraft 0.9 lacks), and stands when a majority hears no leader. Members stand one after another, in turns that
//! change with the term, so that they do not take votes from each other.

use super::caller::{Caller, Report};
use super::heard::Heard;
use super::types::{MemberId, Metrics, Raft};
use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use openraft::ServerState;
use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::sleep;

/// Between two looks.
const ROUND: Duration = Duration::from_millis(20);

pub(super) struct Canvass {
    pub(super) id: MemberId,
    pub(super) raft: Raft,
    pub(super) caller: Caller,
    pub(super) heard: Arc<Heard>,
    /// Shorter silence is nothing unusual. As long as voters keep to a leader they heard (openraft's leader lease).
    pub(super) silence_min: Duration,
    /// By then everybody has had their turn.
    pub(super) silence_max: Duration,
}

impl Canvass {
    /// Ends when raft has stopped.
    pub(super) async fn run(self) {
        loop {
            sleep(ROUND).await;
            let metrics = self.raft.metrics().borrow().clone();
            let stands = metrics.state != ServerState::Leader && self.stands(&metrics).await;
            if !stands {
                continue;
            }
            tracing::info!("no leader heard for {:?}: standing for election", self.heard.silence());
            if self.raft.trigger().elect().await.is_err() {
                return;
            }
            // The vote, and another's turn if it comes to nothing.
            sleep(self.silence_max - self.silence_min).await;
        }
    }

    /// Whether it is this member's turn, and a majority, with this member, hears no leader.
    async fn stands(&self, metrics: &Metrics) -> bool {
        let membership = metrics.membership_config.membership();
        let voters: BTreeSet<MemberId> = membership.voter_ids().collect();
        let Some(place) = voters.iter().position(|id| *id == self.id) else { return false };
        if voters.len() == 1 {
            return true; // who else
        }
        let turn = (place as u64 + metrics.current_term) % voters.len() as u64;
        let span = self.silence_max - self.silence_min;
        if self.heard.silence() < self.silence_min + span.mul_f64(turn as f64 / voters.len() as f64) {
            return false;
        }
        let asked = voters.iter().filter(|id| **id != self.id).filter_map(|id| Some((*id, membership.get_node(id)?)));
        let mut answers: FuturesUnordered<_> =
            asked.map(|(id, place)| async move { self.caller.report((id, &place.addr), span).await }).collect();
        let mut silent = BTreeSet::from([self.id]);
        // While members change there are two sets of voters, and both must agree.
        let agree = |silent: &BTreeSet<MemberId>| {
            membership.get_joint_config().iter().all(|set| set.intersection(silent).count() > set.len() / 2)
        };
        while let Some(answer) = answers.next().await {
            // Whose log is longer will be asked by us in vain, while its own turn comes. The index is not all that counts
            // (the term is), so not for ever.
            let longer = answer.as_ref().is_ok_and(|report| report.last_log > metrics.last_log_index);
            if longer && self.heard.silence() < 2 * self.silence_max {
                return false;
            }
            silent.extend(answer.ok().filter(|report| self.hears_nobody(report)).map(|report| report.id));
            if agree(&silent) {
                // Somebody may have been heard while we asked.
                return self.heard.silence() >= self.silence_min;
            }
        }
        false
    }

    fn hears_nobody(&self, report: &Report) -> bool {
        report.silence_ms >= self.silence_min.as_millis() as u64
    }
}
