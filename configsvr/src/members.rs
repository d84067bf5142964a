//! What the API can do with the members of the control plane.

use crate::consensus::{Consensus, MemberView, Need, Rank};
use crate::control::command::{Kind, Refusal};
use crate::http::Members;
use crate::http::words::{Member, NewMember};
use crate::store::Fault;
use futures_util::future::BoxFuture;

/// The members as raft knows them.
pub struct Quorum(pub Consensus);

impl Members for Quorum {
    fn list(&self) -> BoxFuture<'_, Result<Vec<Member>, Refusal>> {
        Box::pin(async { Ok(self.look().await) })
    }

    fn add(&self, who: String, new: NewMember, dry_run: bool) -> BoxFuture<'_, Result<Vec<Member>, Refusal>> {
        Box::pin(async move {
            if dry_run {
                self.0.may_add(new.id, &new.name, &new.addr).map_err(refuse)?;
            } else {
                tracing::info!(who, member = new.name, addr = new.addr, "a member is added, as a learner");
                self.0.add_learner(new.id, &new.name, &new.addr).await.map_err(refuse)?;
            }
            Ok(self.look().await)
        })
    }

    fn promote(&self, who: String, name: String, dry_run: bool) -> BoxFuture<'_, Result<Vec<Member>, Refusal>> {
        Box::pin(async move {
            let id = self.named(&name).await?;
            let need = self.0.may_promote(id).await.map_err(refuse)?;
            if !dry_run && need == Need::Change {
                tracing::info!(who, member = name, "a member is given a vote");
                self.0.promote(id).await.map_err(refuse)?;
            }
            Ok(self.look().await)
        })
    }

    fn remove(&self, who: String, name: String, dry_run: bool) -> BoxFuture<'_, Result<Vec<Member>, Refusal>> {
        Box::pin(async move {
            let id = self.named(&name).await?;
            if dry_run {
                self.0.may_remove(id).await.map_err(refuse)?;
            } else {
                tracing::info!(who, member = name, "a member is taken out");
                self.0.remove(id).await.map_err(refuse)?;
            }
            Ok(self.look().await)
        })
    }
}

impl Quorum {
    async fn look(&self) -> Vec<Member> {
        let views = self.0.members().await;
        let last = views.iter().filter_map(|v| v.last_log).max();
        views.into_iter().map(|view| show(view, last)).collect()
    }

    async fn named(&self, name: &str) -> Result<u64, Refusal> {
        let views = self.0.members().await;
        views.iter().find(|v| v.name == name).map(|v| v.id).ok_or_else(|| {
            let names: Vec<&str> = views.iter().map(|v| v.name.as_str()).collect();
            refusal(Kind::Absent, "no_such_member", format!("no member is called {name:?}"), &names.join(", "))
        })
    }
}

fn show(view: MemberView, last: Option<u64>) -> Member {
    let behind = last.zip(view.last_log).map(|(last, own)| last.saturating_sub(own));
    Member {
        id: view.id,
        name: view.name,
        addr: view.addr,
        voter: view.rank == Rank::Voter,
        leader: view.leading,
        reachable: Some(view.reachable),
        behind,
    }
}

fn refuse(fault: Fault) -> Refusal {
    let message = fault.to_string();
    match fault {
        Fault::Invalid(_) | Fault::NoLease(_) => {
            refusal(Kind::Conflict, "bad_membership", message, "look at `twemslotctl members list`")
        }
        Fault::Unavailable(_) => refusal(Kind::Unavailable, "unavailable", message, "try again in a moment"),
        Fault::Unknown(_) => refusal(Kind::Unknown, "unknown", message, "look at `twemslotctl members list`"),
    }
}

fn refusal(kind: Kind, code: &str, message: String, hint: &str) -> Refusal {
    Refusal { kind, code: code.to_owned(), message, hint: hint.to_owned() }
}
