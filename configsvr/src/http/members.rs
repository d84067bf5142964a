//! `members`: who makes up the control plane. What is behind it is consensus; here is only how it is asked.

use super::Api;
use super::change::change;
use super::extract::{At, Said, Terms};
use super::limits::NAME_BYTES_MAX;
use super::problem::{ChangeProblems, Problem, ReadProblems};
use super::words::{DryRun, IdempotencyKey, Member, NewMember, Whose};
use crate::control::command::{Command, MemberChange, Refusal};
use axum::Json;
use axum::extract::State;
use futures_util::future::BoxFuture;
use serde_json::json;
use std::net::SocketAddr;
use std::sync::Arc;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

/// Membership, as consensus knows and changes it. Each change answers with the members after it; done twice, the second
/// time changes nothing and says so by succeeding. `who` is for the log. `dry_run`: say whether it could be done.
pub trait Members: Send + Sync + 'static {
    fn list(&self) -> BoxFuture<'_, Result<Vec<Member>, Refusal>>;
    /// As a learner: it gets the log, and does not vote.
    fn add(&self, who: String, new: NewMember, dry_run: bool) -> BoxFuture<'_, Result<Vec<Member>, Refusal>>;
    /// A learner votes from now on.
    fn promote(&self, who: String, name: String, dry_run: bool) -> BoxFuture<'_, Result<Vec<Member>, Refusal>>;
    fn remove(&self, who: String, name: String, dry_run: bool) -> BoxFuture<'_, Result<Vec<Member>, Refusal>>;
}

pub(super) fn routes() -> OpenApiRouter<Arc<Api>> {
    OpenApiRouter::new().routes(routes!(list, add)).routes(routes!(remove)).routes(routes!(promote))
}

/// The members, by id.
#[utoipa::path(get, path = "/api/v1/members", tag = "members", params(Whose),
    responses((status = 200, description = "the members", body = Vec<Member>), ReadProblems))]
async fn list(State(api): State<Arc<Api>>) -> Result<Json<Vec<Member>>, Problem> {
    Ok(Json(api.members.list().await?))
}

/// Adds a member, which learns and does not vote yet.
#[utoipa::path(post, path = "/api/v1/members", tag = "members", params(DryRun, IdempotencyKey), request_body = NewMember,
    responses((status = 200, description = "the members now", body = Vec<Member>), ChangeProblems))]
async fn add(
    State(api): State<Arc<Api>>,
    terms: Terms,
    Said(new): Said<NewMember>,
) -> Result<Json<Vec<Member>>, Problem> {
    check(&new)?;
    api.members.add(terms.who.clone(), new.clone(), true).await?;
    record(&api, &terms, MemberChange::Add, &new.name, Some(&new.addr)).await?;
    Ok(Json(api.members.add(terms.who, new, terms.dry_run).await?))
}

/// What is agreed on stays: a name that nobody can type or an address that is none had better not be.
fn check(new: &NewMember) -> Result<(), Problem> {
    let plain = |c: char| c.is_ascii_alphanumeric() || "._-".contains(c);
    if new.id == 0 || new.name.is_empty() || new.name.len() > NAME_BYTES_MAX || !new.name.chars().all(plain) {
        let message = format!("id {}, name {:?}: not those of a member", new.id, new.name);
        let hint =
            format!("an id from 1, and a name of 1 to {NAME_BYTES_MAX} letters, digits, dots, dashes and underscores");
        return Err(Problem::invalid("bad_member", message, hint));
    }
    match new.addr.parse::<SocketAddr>() {
        Ok(addr) if addr.port() != 0 && !addr.ip().is_unspecified() => Ok(()),
        _ => {
            let message = format!("addr {:?}: others cannot reach a member there", new.addr);
            Err(Problem::invalid("bad_member", message, "IP:PORT or [IPV6]:PORT of its API"))
        }
    }
}

/// Lets a member vote.
#[utoipa::path(post, path = "/api/v1/members/{name}/promote", tag = "members",
    params(("name" = String, Path), DryRun, IdempotencyKey),
    responses((status = 200, description = "the members now", body = Vec<Member>), ChangeProblems))]
async fn promote(
    State(api): State<Arc<Api>>,
    At(name): At<String>,
    terms: Terms,
) -> Result<Json<Vec<Member>>, Problem> {
    api.members.promote(terms.who.clone(), name.clone(), true).await?;
    record(&api, &terms, MemberChange::Promote, &name, None).await?;
    Ok(Json(api.members.promote(terms.who, name, terms.dry_run).await?))
}

/// Removes a member.
#[utoipa::path(delete, path = "/api/v1/members/{name}", tag = "members",
    params(("name" = String, Path), DryRun, IdempotencyKey),
    responses((status = 200, description = "the members now", body = Vec<Member>), ChangeProblems))]
async fn remove(State(api): State<Arc<Api>>, At(name): At<String>, terms: Terms) -> Result<Json<Vec<Member>>, Problem> {
    let there = api.members.list().await?;
    if there.iter().all(|m| m.name != name) && was_removed(&api, &terms, &name) {
        return Ok(Json(there));
    }
    api.members.remove(terms.who.clone(), name.clone(), true).await?;
    record(&api, &terms, MemberChange::Remove, &name, None).await?;
    Ok(Json(api.members.remove(terms.who, name, terms.dry_run).await?))
}

/// By this very call, whose answer was lost.
fn was_removed(api: &Api, terms: &Terms, name: &str) -> bool {
    let Some(key) = &terms.idempotency_key else { return false };
    let command = json!(Command::Member { change: MemberChange::Remove, name: name.to_owned(), addr: None });
    let view = api.desk.view.borrow();
    view.audit.iter().any(|(_, a)| a.idempotency_key.as_ref() == Some(key) && a.command == command)
}

/// On record before it is done, and after it is known that it can be. Where there is no cluster yet, or no store that could be written to, the log has it: to change
/// the members may be what brings the store back.
async fn record(api: &Api, terms: &Terms, what: MemberChange, name: &str, addr: Option<&str>) -> Result<(), Problem> {
    if terms.dry_run || api.desk.view.borrow().topology.is_none() {
        return Ok(());
    }
    let command = Command::Member { change: what, name: name.to_owned(), addr: addr.map(str::to_owned) };
    match change(api, terms.clone(), command).await {
        Ok(_) => Ok(()),
        Err(problem) if problem.error.code == "key_reused" => Err(problem),
        Err(problem) => {
            tracing::warn!(who = terms.who, member = name, ?what, "not in the audit: {}", problem.error.message);
            Ok(())
        }
    }
}
