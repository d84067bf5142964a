//! The first start. A disk without a log means one of three things: the cluster is new; this member is new to it; or the
//! disk was lost. Taking one for another would make a second cluster, or forget a promise.

use super::caller::{Caller, NoAnswer, Report};
use super::types::{MemberId, Peer, Place, Raft};
use futures_util::future::join_all;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use tokio::time::sleep;

/// Between two looks at the peers.
const ROUND: Duration = Duration::from_millis(100);
const LIMIT: Duration = Duration::from_secs(1);
/// Rounds between two lines in the log that say why this member waits.
const ROUNDS_QUIET: u32 = 100;

pub(super) struct Admission {
    pub(super) id: MemberId,
    pub(super) raft: Raft,
    pub(super) caller: Caller,
    /// All members of a new cluster, this one among them; without it, somebody adds this member to theirs.
    pub(super) initial: Vec<Peer>,
    pub(super) admitted: Arc<AtomicBool>,
}

/// What the peers' answers mean.
#[derive(Debug, PartialEq, Eq)]
enum Finding {
    /// Nobody has a log: the member with the least number begins the cluster.
    New,
    /// There is a cluster that does not know us, or knows that we have nothing.
    Welcome,
    Wait(String),
}

impl Admission {
    /// Ends when this member may take part.
    pub(super) async fn run(self) {
        let mut rounds = 0;
        loop {
            let finding = self.look().await;
            match finding {
                Finding::Wait(why) if rounds % ROUNDS_QUIET == 0 => tracing::warn!("this member waits: {why}"),
                Finding::Wait(_) => {}
                Finding::New | Finding::Welcome => {
                    self.admitted.store(true, Ordering::Release);
                    if finding == Finding::New {
                        self.begin().await;
                    }
                    return;
                }
            }
            rounds += 1;
            sleep(ROUND).await;
        }
    }

    async fn begin(&self) {
        if self.initial.iter().map(|peer| peer.id).min() != Some(self.id) {
            return; // that one begins
        }
        let members: BTreeMap<MemberId, Place> = self.initial.iter().map(|peer| (peer.id, peer.place())).collect();
        match self.raft.initialize(members).await {
            Ok(()) => tracing::info!("a new cluster of configsvrs: {} members", self.initial.len()),
            Err(e) => tracing::warn!("no new cluster of configsvrs was begun: {e}"),
        }
    }

    async fn look(&self) -> Finding {
        let others = self.initial.iter().filter(|peer| peer.id != self.id);
        let asked = others.map(|peer| self.caller.report((peer.id, &peer.addr), LIMIT));
        judge(self.id, join_all(asked).await)
    }
}

fn judge(id: MemberId, answers: Vec<Result<Report, NoAnswer>>) -> Finding {
    let reports: Vec<&Report> = answers.iter().flatten().collect();
    let knows = |report: &&&Report| report.initialized && !report.virgin;
    if let Some(report) = reports.iter().find(|r| knows(r) && (r.matched.is_some() || r.voters.contains(&id))) {
        return Finding::Wait(format!(
            "member {} knows member {id} well, but the log here is empty: the disk was lost or changed. Let the others \
             remove member {id}, then add this one under a number never used before",
            report.id
        ));
    }
    if reports.iter().any(|report| knows(&report)) {
        return Finding::Welcome;
    }
    match answers.into_iter().find_map(Result::err) {
        Some(missing) => Finding::Wait(format!(
            "{missing}. A new cluster begins when all its initial members are up, so that none can begin a second one"
        )),
        None => Finding::New,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report(id: MemberId, last_log: Option<u64>, voters: &[MemberId], matched: Option<u64>) -> Report {
        Report {
            id,
            initialized: last_log.is_some(),
            virgin: last_log.is_none_or(|index| index == 0),
            leading: matched.is_some(),
            silence_ms: 0,
            last_log,
            voters: voters.to_vec(),
            matched,
        }
    }

    #[test]
    fn a_new_cluster_needs_all_and_a_log_nowhere() {
        let silent = || Err(NoAnswer("member 3 is away".to_owned()));
        let fresh = |id| Ok(report(id, None, &[], None));
        assert_eq!(judge(1, vec![]), Finding::New);
        assert_eq!(judge(1, vec![fresh(2), fresh(3)]), Finding::New);
        assert_eq!(judge(2, vec![Ok(report(1, Some(0), &[1, 2, 3], None)), fresh(3)]), Finding::New);
        assert!(matches!(judge(1, vec![fresh(2), silent()]), Finding::Wait(why) if why.contains("member 3 is away")));
        assert_eq!(judge(1, vec![Ok(report(2, Some(9), &[2, 3], None)), silent()]), Finding::Welcome);
    }

    #[test]
    fn a_lost_disk_is_not_a_new_member() {
        let leader = |voters: &[MemberId], matched| vec![Ok(report(2, Some(9), voters, matched))];
        assert!(matches!(judge(1, leader(&[1, 2, 3], None)), Finding::Wait(why) if why.contains("disk was lost")));
        assert!(matches!(judge(4, leader(&[2, 3], Some(5))), Finding::Wait(_)));
        assert_eq!(judge(4, leader(&[2, 3], None)), Finding::Welcome);
    }
}
