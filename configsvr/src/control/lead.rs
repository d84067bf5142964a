//! Leadership: whether this member may write, and with which fence.
//!
//! Raft says who leads; the store must agree. A leader writes its token to the key `leader`, which only a greater token
//! may replace, and acts once the watch shows that record: by then it has seen all that its predecessors did, and nothing
//! that they still send can pass the comparison.

use super::event::{Action, DeedId, Leadership};
use super::layout::{LEADER, Leader, Token};
use super::limits::{RECORD_MS, SUPERSEDED_MS, WRITE_AGAIN_MS};
use super::out::Out;
use super::state::{Standing, State};
use crate::store::{Compare, Op, Txn};

/// This member, as others may call it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Member {
    pub name: String,
    /// Where its API is.
    pub addr: String,
}

/// What every write of an acting leader carries.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Fence {
    pub(super) token: Token,
    /// Our own record in the store, as it is.
    pub(super) compare: Compare,
}

/// What we know of the leadership.
#[derive(Debug)]
pub(super) struct Lead {
    pub(super) member: Member,
    pub(super) leadership: Leadership,
    /// Writing our token: the deed, and since when.
    claim: Option<(DeedId, u64)>,
    again_at: u64,
    /// Since when raft has had this member lead while the store names a later leader.
    superseded_since: Option<u64>,
    /// What a person types to delete the store's record.
    pub(super) deletes_record: String,
}

impl Lead {
    pub(super) fn new(member: Member) -> Self {
        let deletes_record = "etcdctl del /redis-cluster/leader (with your prefix)".to_owned();
        let (leadership, superseded_since) = (Leadership::Following(None), None);
        Self { member, leadership, claim: None, again_at: 0, superseded_since, deletes_record }
    }

    /// Some as long as this member leads and the store says so too.
    pub(super) fn fence(&self, state: &State) -> Option<Fence> {
        let Leadership::Leading(token) = self.leadership else { return None };
        let record = state.leader.as_ref().filter(|l| l.value.token == token)?;
        Some(Fence { token, compare: Compare::ModifiedAt { key: LEADER.to_owned(), revision: record.modified } })
    }

    /// Whether somebody was elected after us, whatever raft told us.
    pub(super) fn superseded(&self, state: &State) -> bool {
        match (&self.leadership, &state.leader) {
            (Leadership::Leading(token), Some(leader)) => leader.value.token > *token,
            _ => false,
        }
    }

    /// What is to be done where raft and the store disagree for longer than any election takes; None: they do not.
    ///
    /// It is not mended here: a raft log that was lost and a second control plane on the same keys look alike, and two that
    /// took the record from each other by turns would both change the cluster.
    pub(super) fn disputed(&mut self, now: u64, state: &State) -> Option<String> {
        let since = if self.superseded(state) { Some(*self.superseded_since.get_or_insert(now)) } else { None };
        self.superseded_since = since;
        let record = &state.leader.as_ref().filter(|_| since.is_some_and(|s| now >= s + SUPERSEDED_MS))?.value;
        Some(format!(
            "raft has {} lead, but the store's key `leader` names a later leader, {} at {}, so nothing is changed. If \
             another control plane uses the same keys, give each a prefix of its own (store.etcd.prefix). If the members' \
             data_dirs were lost while etcd was kept, see that none of the old members runs, then delete the key: \
             {}",
            self.member.name, record.member, record.addr, self.deletes_record
        ))
    }

    /// Whether this member leads, or is about to: then it is worth waiting.
    pub(super) fn leading(&self, state: &State) -> bool {
        matches!(self.leadership, Leadership::Leading(_)) && !self.superseded(state)
    }

    /// Who leads, as far as is known: name and address.
    pub(super) fn leader(&self, state: &State) -> Option<(String, String)> {
        match &self.leadership {
            Leadership::Leading(_) if !self.superseded(state) => {
                Some((self.member.name.clone(), self.member.addr.clone()))
            }
            Leadership::Following(Some(leader)) => Some(leader.clone()),
            Leadership::Leading(_) => state.leader.as_ref().map(|l| (l.value.member.clone(), l.value.addr.clone())),
            Leadership::Following(None) => None,
        }
    }

    /// Takes what raft says. True: something is different.
    pub(super) fn hear(&mut self, leadership: Leadership) -> bool {
        let other = leadership != self.leadership;
        if other {
            self.leadership = leadership;
            (self.claim, self.again_at) = (None, 0);
        }
        other
    }

    /// Whether that was the claim: the watch tells whether it holds.
    pub(super) fn wrote(&mut self, deed: DeedId, now: u64) -> bool {
        let ours = self.claim.is_some_and(|(claim, _)| claim == deed);
        if ours {
            self.claim = None;
            self.again_at = now + WRITE_AGAIN_MS;
        }
        ours
    }

    /// Claims what raft gave us, if the store does not say so yet.
    pub(super) fn advance(&mut self, now: u64, state: &State, out: &mut Out) {
        let Leadership::Leading(token) = self.leadership else { return };
        let known = state.standing != Standing::Unheard && state.store_fault.is_none();
        if !known || self.fence(state).is_some() || self.superseded(state) || now < self.again_at {
            return;
        }
        if self.claim.is_some_and(|(_, since)| now < since + RECORD_MS) {
            return;
        }
        let record = Leader { token, member: self.member.name.clone(), addr: self.member.addr.clone() };
        let value = serde_json::to_string(&record).unwrap_or_default();
        let put = Op::Put { key: LEADER.to_owned(), value, lease: None };
        let deed = out.deed();
        self.claim = Some((deed, now));
        out.push(Action::Write { deed, txn: Txn { compares: vec![state.as_it_is(LEADER)], ops: vec![put] } });
    }

    pub(super) fn deadline(&self, state: &State) -> Option<u64> {
        if let Some(since) = self.superseded_since {
            return Some(since + SUPERSEDED_MS);
        }
        let waits = matches!(self.leadership, Leadership::Leading(_)) && self.fence(state).is_none();
        waits.then(|| self.claim.map_or(self.again_at, |(_, since)| since + RECORD_MS))
    }
}
