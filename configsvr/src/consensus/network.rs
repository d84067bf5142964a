//! openraft's calls to other members.

use super::caller::{APPEND, BODY_MAX, Caller, NoAnswer, Parcel, SNAPSHOT, VOTE};
use super::types::{MemberId, Place, Types, Vote};
use openraft::error::{
    Fatal, InstallSnapshotError, NetworkError, PayloadTooLarge, RPCError, RaftError, ReplicationClosed, StreamingError,
    Unreachable,
};
use openraft::network::{Backoff, RPCOption};
use openraft::raft::{
    AppendEntriesRequest, AppendEntriesResponse, InstallSnapshotRequest, InstallSnapshotResponse, SnapshotResponse,
    VoteRequest, VoteResponse,
};
use openraft::storage::Snapshot;
use openraft::{OptionalSend, RaftNetwork, RaftNetworkFactory};
use std::future::Future;
use std::time::Duration;

/// How long openraft leaves a member alone that could not be reached. Its own 500 ms would let a member that is back
/// wait so long for its first heartbeat that it might want an election.
const BACKOFF: Duration = Duration::from_millis(150);

type Refused<E = RaftError<MemberId>> = RPCError<MemberId, Place, E>;

/// Makes links.
#[derive(Debug, Clone)]
pub(super) struct Network {
    pub(super) caller: Caller,
}

/// To one member.
#[derive(Debug)]
pub(super) struct Link {
    caller: Caller,
    to: MemberId,
    addr: String,
}

impl RaftNetworkFactory<Types> for Network {
    type Network = Link;

    async fn new_client(&mut self, to: MemberId, place: &Place) -> Link {
        Link { caller: self.caller.clone(), to, addr: place.addr.clone() }
    }
}

fn unreachable<E: std::error::Error>(why: NoAnswer) -> Refused<E> {
    Unreachable::new(&why).into()
}

impl RaftNetwork<Types> for Link {
    async fn append_entries(
        &mut self,
        request: AppendEntriesRequest<Types>,
        option: RPCOption,
    ) -> Result<AppendEntriesResponse<MemberId>, Refused> {
        let body = serde_json::to_vec(&request).map_err(|e| Refused::Network(NetworkError::new(&e)))?;
        let entries = request.entries.len() as u64;
        if body.len() > BODY_MAX && entries > 1 {
            return Err(PayloadTooLarge::new_entries_hint(entries / 2).into());
        }
        self.caller.send((self.to, &self.addr), APPEND, body, option.hard_ttl()).await.map_err(unreachable)
    }

    /// Never called: snapshots go in one piece (`full_snapshot`).
    async fn install_snapshot(
        &mut self,
        _: InstallSnapshotRequest<Types>,
        _: RPCOption,
    ) -> Result<InstallSnapshotResponse<MemberId>, Refused<RaftError<MemberId, InstallSnapshotError>>> {
        Err(unreachable(NoAnswer("snapshots are sent in one piece".to_owned())))
    }

    async fn vote(
        &mut self,
        request: VoteRequest<MemberId>,
        option: RPCOption,
    ) -> Result<VoteResponse<MemberId>, Refused> {
        self.caller.call((self.to, &self.addr), VOTE, &request, option.hard_ttl()).await.map_err(unreachable)
    }

    async fn full_snapshot(
        &mut self,
        vote: Vote,
        snapshot: Snapshot<Types>,
        cancelled: impl Future<Output = ReplicationClosed> + OptionalSend + 'static,
        option: RPCOption,
    ) -> Result<SnapshotResponse<MemberId>, StreamingError<Types, Fatal<MemberId>>> {
        let failed = |e: &(dyn std::fmt::Display + Send)| Unreachable::new(&NoAnswer(e.to_string()));
        let tree = String::from_utf8(snapshot.snapshot.into_inner()).map_err(|e| failed(&e))?;
        let parcel = Parcel { vote, meta: snapshot.meta, tree };
        let sent = self.caller.call((self.to, &self.addr), SNAPSHOT, &parcel, option.hard_ttl());
        tokio::select! {
            sent = sent => Ok(sent.map_err(|e| Unreachable::new(&e))?),
            closed = cancelled => Err(closed.into()),
        }
    }

    fn backoff(&self) -> Backoff {
        Backoff::new(std::iter::repeat(BACKOFF))
    }
}
