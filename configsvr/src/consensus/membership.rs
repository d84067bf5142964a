//! Who belongs to configSvr: seen, and changed.

use super::Consensus;
use super::types::{LogId, MemberId, Place};
use crate::control::event::Leadership;
use crate::store::Fault;
use futures_util::future::join_all;
use openraft::ChangeMembers;
use openraft::error::{ChangeMembershipError, ClientWriteError, RaftError};
use serde::Serialize;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;
use tokio::time::{Instant, sleep, timeout, timeout_at};

/// How long a member may take to catch up before it is promoted. With the change itself less than a call of the API may take.
const CATCH_UP_LIMIT: Duration = Duration::from_secs(10);
/// A member this many entries behind is as good as up to date: they are there a moment later.
const BEHIND_MAX: u64 = 64;
/// One change of the membership, over two rounds of the log.
const CHANGE_LIMIT: Duration = Duration::from_secs(8);
/// A member that takes longer counts as unreachable.
const REPORT_LIMIT: Duration = Duration::from_millis(800);
const LOOK: Duration = Duration::from_millis(20);

/// What a member may do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Rank {
    Voter,
    /// It is told everything and has no vote.
    Learner,
}

/// A member, as people see it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct MemberView {
    pub id: MemberId,
    pub name: String,
    pub addr: String,
    pub rank: Rank,
    pub leading: bool,
    /// Its last log entry, as it says itself.
    pub last_log: Option<u64>,
    /// Up to where its log equals the leader's, as the leader knows; None at members that do not lead.
    pub matched: Option<u64>,
    /// It answers the member that was asked.
    pub reachable: bool,
}

/// Whether what was asked for is so already.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Need {
    Change,
    Nothing,
}

type Changed = Result<(), RaftError<MemberId, ClientWriteError<MemberId, Place>>>;

impl Consensus {
    /// All members, by number. On any member; takes at most a second.
    pub async fn members(&self) -> Vec<MemberView> {
        let metrics = self.metrics();
        let membership = metrics.membership_config.membership();
        let voters: BTreeSet<MemberId> = membership.voter_ids().collect();
        let leads = matches!(&*self.inner.leadership.borrow(), Leadership::Leading(_));
        let view = async |id: MemberId, place: &Place| {
            let report = match id == self.id() {
                true => Some(self.inner.door.report(None)),
                false => self.inner.caller.report((id, &place.addr), REPORT_LIMIT).await.ok(),
            };
            let matched = metrics.replication.as_ref().filter(|_| leads).and_then(|known| known.get(&id).copied()?);
            MemberView {
                id,
                name: place.name.clone(),
                addr: place.addr.clone(),
                rank: if voters.contains(&id) { Rank::Voter } else { Rank::Learner },
                leading: report.as_ref().is_some_and(|report| report.leading),
                last_log: report.as_ref().and_then(|report| report.last_log),
                matched: matched.map(|id: LogId| id.index),
                reachable: report.is_some(),
            }
        };
        join_all(membership.nodes().map(|(id, place)| view(*id, place))).await
    }

    /// Lets a member learn. It need not run yet. Welcome also when it does so already.
    pub async fn add_learner(&self, id: MemberId, name: &str, addr: &str) -> Result<(), Fault> {
        if self.may_add(id, name, addr)? == Need::Nothing {
            return Ok(());
        }
        let place = Place { name: name.to_owned(), addr: addr.to_owned() };
        self.change(ChangeMembers::AddNodes(BTreeMap::from([(id, place)]))).await
    }

    /// Whether `add_learner` could be done, as far as is known before; and whether there is anything to do.
    pub fn may_add(&self, id: MemberId, name: &str, addr: &str) -> Result<Need, Fault> {
        self.may_change()?;
        let place = Place { name: name.to_owned(), addr: addr.to_owned() };
        let metrics = self.metrics();
        for (known, known_place) in metrics.membership_config.nodes() {
            match *known == id {
                true if *known_place == place => return Ok(Need::Nothing),
                true => {
                    let (name, addr) = (&known_place.name, &known_place.addr);
                    let why =
                        format!("member {id} is {name} at {addr} already: remove it first, or choose another number");
                    return Err(Fault::Invalid(why));
                }
                false if known_place.name == place.name || known_place.addr == place.addr => {
                    let why = format!("member {known} is {} at {} already", known_place.name, known_place.addr);
                    return Err(Fault::Invalid(why));
                }
                false => {}
            }
        }
        Ok(Need::Change)
    }

    /// Gives a learner a vote, once it has caught up (within 10 s). Welcome also when it has one.
    pub async fn promote(&self, id: MemberId) -> Result<(), Fault> {
        self.check_leading()?;
        let end = Instant::now() + CATCH_UP_LIMIT;
        loop {
            let metrics = self.metrics();
            let membership = metrics.membership_config.membership();
            if membership.get_node(&id).is_none() {
                return Err(Fault::Invalid(format!("there is no member {id}: add it first")));
            }
            if membership.voter_ids().any(|voter| voter == id) {
                return Ok(());
            }
            let matched = metrics.replication.as_ref().and_then(|known| known.get(&id).copied()?);
            let behind = metrics.last_log_index.unwrap_or(0).saturating_sub(matched.map_or(0, |id| id.index));
            if matched.is_some() && behind <= BEHIND_MAX {
                break;
            }
            if Instant::now() >= end {
                return Err(Fault::Unavailable(format!(
                    "member {id} is {behind} entries behind after {CATCH_UP_LIMIT:?}: does it run, and is it reached?"
                )));
            }
            self.check_leading()?;
            sleep(LOOK).await;
        }
        self.change(ChangeMembers::AddVoterIds(BTreeSet::from([id]))).await
    }

    /// Whether `promote` could be done, as far as is known before: it is a member, and can be reached. How far it is behind
    /// is not judged: `promote` waits for it.
    pub async fn may_promote(&self, id: MemberId) -> Result<Need, Fault> {
        self.may_change()?;
        let members = self.members().await;
        match members.iter().find(|member| member.id == id) {
            None => Err(Fault::Invalid(format!("there is no member {id}: add it first"))),
            Some(member) if member.rank == Rank::Voter => Ok(Need::Nothing),
            Some(member) if !member.reachable => Err(Fault::Invalid(format!(
                "{} does not answer at {}: start it with `join: true`, then promote it",
                member.name, member.addr
            ))),
            Some(_) => Ok(Need::Change),
        }
    }

    /// Takes a member out. Refused where the rest could not decide anything. Welcome also when there is no such member.
    pub async fn remove(&self, id: MemberId) -> Result<(), Fault> {
        match self.may_remove(id).await? {
            None => Ok(()),
            Some(Rank::Learner) => self.change(ChangeMembers::RemoveNodes(BTreeSet::from([id]))).await,
            Some(Rank::Voter) => self.change(ChangeMembers::RemoveVoters(BTreeSet::from([id]))).await,
        }
    }

    /// Whether `remove` could be done, as far as is known before; what the member is, None: there is none.
    pub async fn may_remove(&self, id: MemberId) -> Result<Option<Rank>, Fault> {
        self.may_change()?;
        let members = self.members().await;
        let Some(member) = members.iter().find(|member| member.id == id) else { return Ok(None) };
        if member.rank == Rank::Learner {
            return Ok(Some(Rank::Learner));
        }
        let rest: Vec<_> = members.iter().filter(|m| m.rank == Rank::Voter && m.id != id).collect();
        let reachable = rest.iter().filter(|m| m.reachable).count();
        if reachable <= rest.len() / 2 {
            let why = format!(
                "without member {id}, {} voters are left, of which {reachable} can be reached: no majority. Bring others \
                 back, or add some, first",
                rest.len()
            );
            return Err(Fault::Invalid(why));
        }
        Ok(Some(Rank::Voter))
    }

    /// Whether this member may ask raft for a change of members.
    fn may_change(&self) -> Result<(), Fault> {
        self.check_leading()?;
        // A leader that was taken out leads for a moment longer; openraft panics if it is asked for another change then.
        if !self.metrics().membership_config.membership().voter_ids().any(|id| id == self.id()) {
            return Err(Fault::Unavailable("this member was taken out: ask another".to_owned()));
        }
        Ok(())
    }

    /// openraft takes the second of its two steps in its caller: one that goes away must not leave the first alone.
    async fn change(&self, change: ChangeMembers<MemberId, Place>) -> Result<(), Fault> {
        let consensus = self.clone();
        let done = tokio::spawn(async move { consensus.change_to_the_end(change).await });
        match timeout(CHANGE_LIMIT, done).await {
            Ok(Ok(outcome)) => outcome,
            Ok(Err(e)) => Err(Fault::Unknown(format!("the change was broken off: {e}"))),
            Err(_) => Err(Fault::Unknown(format!("no majority agreed within {CHANGE_LIMIT:?}"))),
        }
    }

    async fn change_to_the_end(&self, change: ChangeMembers<MemberId, Place>) -> Result<(), Fault> {
        let end = Instant::now() + CHANGE_LIMIT;
        let Ok(_turn) = timeout_at(end, self.inner.changing.lock()).await else {
            return Err(Fault::Unavailable("another change of members is under way".to_owned()));
        };
        self.may_change()?;
        loop {
            let done = self.inner.raft.change_membership(change.clone(), false).await;
            match outcome(done.map(drop)) {
                Err(Fault::Unavailable(_)) if Instant::now() + LOOK < end => sleep(LOOK).await,
                outcome => return outcome,
            }
        }
    }
}

fn outcome(done: Changed) -> Result<(), Fault> {
    done.map_err(|e| match e {
        RaftError::APIError(ClientWriteError::ChangeMembershipError(ChangeMembershipError::InProgress(e))) => {
            Fault::Unavailable(format!("another change of members is under way: {e}"))
        }
        RaftError::APIError(ClientWriteError::ChangeMembershipError(e)) => Fault::Invalid(e.to_string()),
        e => Fault::Unknown(e.to_string()),
    })
}
