//! Asks around before an election (Raft's pre-vote, which openraft 0.9 lacks). A member that was frozen, or cut off, comes
//! back convinced that the leader is gone; were it to stand for election, its higher term would depose a leader that
//! everybody else hears well. So openraft may hold elections only while a majority hears no leader.

use super::caller::Caller;
use super::heard::Heard;
use super::types::{MemberId, Metrics, Raft};
use futures_util::future::join_all;
use openraft::ServerState;
use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::sleep;

/// Between two rounds. openraft waits twice as long as the silence that begins them, so they delay nothing.
const ROUND: Duration = Duration::from_millis(50);

pub(super) struct Canvass {
    pub(super) id: MemberId,
    pub(super) raft: Raft,
    pub(super) caller: Caller,
    pub(super) heard: Arc<Heard>,
    /// Shorter silence is nothing unusual.
    pub(super) silence_min: Duration,
}

impl Canvass {
    pub(super) async fn run(self) {
        loop {
            let metrics = self.raft.metrics().borrow().clone();
            let wanted = metrics.state != ServerState::Leader && self.is_wanted(&metrics).await;
            self.raft.runtime_config().elect(wanted);
            sleep(ROUND).await;
        }
    }

    /// Whether a majority, with this member, hears no leader.
    async fn is_wanted(&self, metrics: &Metrics) -> bool {
        if self.heard.silence() < self.silence_min {
            return false;
        }
        let membership = metrics.membership_config.membership();
        let others: Vec<(MemberId, &str)> = membership
            .voter_ids()
            .filter(|id| *id != self.id)
            .filter_map(|id| Some((id, membership.get_node(&id)?.addr.as_str())))
            .collect();
        let answers = join_all(others.iter().map(|to| self.caller.report(*to, self.silence_min))).await;
        let silent = answers.into_iter().flatten().filter(|r| r.silence_ms >= self.silence_min.as_millis() as u64);
        let silent: BTreeSet<MemberId> = silent.map(|report| report.id).chain([self.id]).collect();
        // While members change there are two sets of voters, and both must agree.
        let agree = |voters: &BTreeSet<MemberId>| voters.intersection(&silent).count() > voters.len() / 2;
        // Somebody may have been heard while we asked.
        self.heard.silence() >= self.silence_min && membership.get_joint_config().iter().all(agree)
    }
}
