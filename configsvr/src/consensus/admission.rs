//! The first start. A disk without a log means one of three things: the cluster is new; this member is new to it; or the
//! disk was lost. Taking one for another would make a second cluster, or forget a promise.

use super::caller::{Caller, NoAnswer, Report};
use super::log::Log;
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
    pub(super) log: Log,
    pub(super) caller: Caller,
    /// All members of a new cluster, this one among them; without it, somebody adds this member to theirs.
    pub(super) initial: Vec<Peer>,
    /// It is certain that this disk holds all that this member ever promised. Kept on disk.
    pub(super) admitted: Arc<AtomicBool>,
}

/// What the peers' answers mean.
#[derive(Debug, PartialEq, Eq)]
enum Finding {
    /// Nobody has a log.
    New,
    /// There is a cluster that does not know us, or knows that we have nothing.
    Welcome,
    Wait(String),
}

impl Admission {
    /// Ends when this member takes part.
    pub(super) async fn run(self) {
        let mut rounds = 0;
        while let Err(why) = self.round().await {
            if rounds % ROUNDS_QUIET == 0 {
                tracing::warn!("this member waits: {why}");
            }
            rounds += 1;
            sleep(ROUND).await;
        }
    }

    /// One look at the peers; an error says what this member waits for.
    async fn round(&self) -> Result<(), String> {
        let others = self.initial.iter().filter(|peer| peer.id != self.id);
        let answers = join_all(others.map(|peer| self.caller.report((peer.id, &peer.addr), LIMIT))).await;
        let finding = judge(self.id, self.admitted.load(Ordering::Acquire), &answers);
        if let Finding::Wait(why) = finding {
            return Err(why);
        }
        self.log.admit().await.map_err(|e| e.to_string())?;
        self.admitted.store(true, Ordering::Release);
        let first = self.initial.iter().map(|peer| peer.id).min();
        if finding != Finding::New || first != Some(self.id) {
            return Ok(());
        }
        // Who has not looked yet would find a cluster that counts on it, and take its own disk for a lost one.
        match answers.iter().flatten().find(|report| !report.admitted) {
            Some(report) => Err(format!("member {} has not seen all others yet", report.id)),
            None => self.begin().await,
        }
    }

    async fn begin(&self) -> Result<(), String> {
        let members: BTreeMap<MemberId, Place> = self.initial.iter().map(|peer| (peer.id, peer.place())).collect();
        self.raft.initialize(members).await.map_err(|e| e.to_string())?;
        tracing::info!("a new cluster of configsvrs: {} members", self.initial.len());
        Ok(())
    }
}

fn judge(id: MemberId, admitted: bool, answers: &[Result<Report, NoAnswer>]) -> Finding {
    let clusters = || answers.iter().flatten().filter(|report| report.initialized && !report.virgin);
    let knows_us = |report: &&Report| report.matched.is_some() || report.voters.contains(&id);
    if let Some(report) = clusters().find(knows_us).filter(|_| !admitted) {
        return Finding::Wait(format!(
            "member {} knows member {id} well, but the log here is empty: the disk was lost or changed. Let the others \
             remove member {id}, then add this one under a number never used before",
            report.id
        ));
    }
    if clusters().next().is_some() {
        return Finding::Welcome;
    }
    match answers.iter().find_map(|answer| answer.as_ref().err()) {
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
            admitted: true,
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
        assert_eq!(judge(1, false, &[]), Finding::New);
        assert_eq!(judge(1, false, &[fresh(2), fresh(3)]), Finding::New);
        assert_eq!(judge(2, false, &[Ok(report(1, Some(0), &[1, 2, 3], None)), fresh(3)]), Finding::New);
        assert!(
            matches!(judge(1, false, &[fresh(2), silent()]), Finding::Wait(why) if why.contains("member 3 is away"))
        );
        assert_eq!(judge(1, false, &[Ok(report(2, Some(9), &[2, 3], None)), silent()]), Finding::Welcome);
    }

    #[test]
    fn a_lost_disk_is_not_a_new_member() {
        let leader = |voters: &[MemberId], matched| vec![Ok(report(2, Some(9), voters, matched))];
        assert!(
            matches!(judge(1, false, &leader(&[1, 2, 3], None)), Finding::Wait(why) if why.contains("disk was lost"))
        );
        assert!(matches!(judge(4, false, &leader(&[2, 3], Some(5))), Finding::Wait(_)));
        assert_eq!(judge(4, false, &leader(&[2, 3], None)), Finding::Welcome);
        // Admitted once, it may be late.
        assert_eq!(judge(1, true, &leader(&[1, 2, 3], None)), Finding::Welcome);
    }
}
