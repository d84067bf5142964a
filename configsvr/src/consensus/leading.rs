//! Who leads, as far as this member can vouch for it. openraft's leader never steps down by itself when it loses its
//! majority; here it says so as soon as the others might have elected another.

use super::heard::Heard;
use super::types::{MemberId, Metrics, Raft};
use crate::control::event::Leadership;
use crate::control::layout::Token;
use openraft::ServerState;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep, timeout};

/// Between two looks when much happens.
const PAUSE: Duration = Duration::from_millis(5);
/// Between two looks when nothing happens.
const LOOK: Duration = Duration::from_millis(50);

/// Has the leader send heartbeats. openraft would do it more rarely, since its interval is also an append's time limit.
pub(super) async fn beat(raft: Raft, every: Duration) {
    let mut clock = interval(every);
    clock.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        clock.tick().await;
        let leads = raft.metrics().borrow().state == ServerState::Leader;
        if leads && raft.trigger().heartbeat().await.is_err() {
            return;
        }
    }
}

pub(super) struct Leading {
    pub(super) id: MemberId,
    pub(super) raft: Raft,
    pub(super) heard: Arc<Heard>,
    /// For this long after a majority heard this leader, it elects no other (openraft's leader lease).
    pub(super) lease: Duration,
    pub(super) told: watch::Sender<Leadership>,
}

impl Leading {
    /// Tells until raft has stopped.
    pub(super) async fn run(self) {
        let mut metrics = self.raft.metrics();
        let mut acked: Option<Instant> = None;
        loop {
            let now = metrics.borrow_and_update().clone();
            // Metrics age between two of raft's looks at its own clock: what counts is the moment they speak of.
            let age = now.millis_since_quorum_ack.map(Duration::from_millis);
            acked = age.map(|age| Instant::now() - age).max(acked.filter(|_| now.state == ServerState::Leader));
            if let Err(fatal) = &now.running_state {
                tracing::error!("raft has stopped: {fatal}");
                self.tell(Leadership::Following(None));
                return;
            }
            let leadership = self.leadership(&now, acked).await;
            self.tell(leadership);
            sleep(PAUSE).await;
            // Wakes up in any case: silence is news, too.
            if let Ok(Err(_)) = timeout(LOOK, metrics.changed()).await {
                self.tell(Leadership::Following(None));
                return;
            }
        }
    }

    fn tell(&self, leadership: Leadership) {
        self.told.send_if_modified(|told| {
            let changed = *told != leadership;
            if changed {
                tracing::info!("leadership: {leadership:?}");
                *told = leadership;
            }
            changed
        });
    }

    async fn leadership(&self, now: &Metrics, acked: Option<Instant>) -> Leadership {
        if now.state != ServerState::Leader {
            return Leadership::Following(self.followed(now));
        }
        let followed = acked.is_some_and(|at| at.elapsed() <= self.lease);
        let token = Token { term: now.vote.leader_id.term, member: self.id };
        let leads = now.vote.committed && now.vote.leader_id.node_id == self.id;
        if !(followed && leads) {
            return Leadership::Following(None);
        }
        if *self.told.borrow() == Leadership::Leading(token) {
            return Leadership::Leading(token);
        }
        // After an election (or a silence): a majority says so, and all it ever acknowledged is applied here.
        match timeout(self.lease, self.raft.ensure_linearizable()).await {
            Ok(Ok(_)) => Leadership::Leading(token),
            _ => Leadership::Following(None),
        }
    }

    /// Name and address of whom this member follows.
    fn followed(&self, now: &Metrics) -> Option<(String, String)> {
        let leader = now.current_leader.filter(|id| *id != self.id && self.heard.silence() <= 2 * self.lease)?;
        let place = now.membership_config.membership().get_node(&leader)?;
        Some((place.name.clone(), place.addr.clone()))
    }
}
