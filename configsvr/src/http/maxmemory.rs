//! `groups/{id}/maxmemory`: how much memory the instances of a group may use. Their own setting, at all of them at once: a
//! replica with less than its primary is one that fails when it is needed.

use super::Api;
use super::change::change;
use super::extract::{At, Said, Terms};
use super::problem::{ChangeProblems, Problem, ReadProblems};
use super::words::{Answer, DryRun, IdempotencyKey, InstanceMemory, Maxmemory};
use crate::agent::link::Access;
use crate::agent::order::give_memory;
use crate::control::command::Command;
use crate::control::layout::Audit;
use crate::mover::survey;
use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use cluster::group::GroupId;
use cluster::instance::{Addr, Role};
use futures_util::future::join_all;
use std::sync::Arc;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

pub(super) fn routes() -> OpenApiRouter<Arc<Api>> {
    OpenApiRouter::new().routes(routes!(show, set))
}

/// What the instances of a group use, and may use.
#[utoipa::path(get, path = "/api/v1/groups/{id}/maxmemory", tag = "groups", params(("id" = u32, Path)),
    responses((status = 200, description = "one record an instance", body = Vec<InstanceMemory>), ReadProblems))]
async fn show(State(api): State<Arc<Api>>, At(id): At<GroupId>) -> Result<Json<Vec<InstanceMemory>>, Problem> {
    let (instances, access) = (members(&api, id)?, access(&api)?);
    Ok(Json(look(instances, access).await))
}

/// Sets `maxmemory` at all instances of a group, and in their files where they have one. Less than one of them uses now is
/// refused unless `force`: it would refuse writes at once, or give up keys. The answer's `result` is one record an instance;
/// what became of one that could not be told is in its `error`.
#[utoipa::path(put, path = "/api/v1/groups/{id}/maxmemory", tag = "groups",
    params(("id" = u32, Path), DryRun, IdempotencyKey), request_body = Maxmemory,
    responses((status = 200, description = "told", body = super::documented::AnswerWord), ChangeProblems))]
async fn set(
    State(api): State<Arc<Api>>,
    At(id): At<GroupId>,
    terms: Terms,
    Said(new): Said<Maxmemory>,
) -> Result<Json<Answer>, Problem> {
    let (instances, access) = (members(&api, id)?, access(&api)?);
    let before = look(instances.clone(), access).await;
    let full = before.iter().find(|i| new.bytes > 0 && i.used_bytes.is_some_and(|used| used > new.bytes));
    if let Some(InstanceMemory { addr, used_bytes: Some(used), .. }) = full.filter(|_| !new.force) {
        let message = format!("{addr} uses {used} bytes, more than the {} it would be given", new.bytes);
        let hint = "it would refuse writes at once, or give up keys; or say force";
        return Err(Problem::new(StatusCode::UNPROCESSABLE_ENTITY, "no_room", message, hint));
    }
    // One after another, so that the last on record is the last that was told.
    let _turn = api.orders.lock().await;
    let (dry, key) = (terms.dry_run, terms.idempotency_key.clone());
    let Json(mut answer) = change(&api, terms, Command::Maxmemory { group: id, bytes: new.bytes }).await?;
    let mut after = before;
    if answer.repeated && !is_latest(&api, id, key.as_deref()) {
        answer.notes.push("another size was set after this one was: nothing was told".to_owned());
    } else if !dry {
        let told = join_all(instances.iter().map(|(addr, _)| tell(&api, addr, new.bytes, access))).await;
        after = look(instances, access).await;
        for (instance, told) in after.iter_mut().zip(told) {
            match told {
                Ok(None) => {}
                Ok(Some(note)) => answer.notes.push(note),
                Err(why) => instance.error = Some(why),
            }
        }
    }
    answer.result = serde_json::json!(after);
    Ok(Json(answer))
}

fn access(api: &Api) -> Result<&Access, Problem> {
    let hint = "ask another member";
    api.instances.as_deref().ok_or_else(|| Problem::unavailable("no_instances", "this member sees no instances", hint))
}

fn members(api: &Api, id: GroupId) -> Result<Vec<(Addr, Role)>, Problem> {
    let topology = api.desk.view.borrow().topology.clone().ok_or_else(Problem::no_cluster)?;
    let group = topology.groups().iter().find(|g| g.id == id);
    let group = group
        .ok_or_else(|| Problem::absent("no_such_group", format!("there is no group {id}"), "see GET /api/v1/groups"))?;
    Ok(group.instances.iter().map(|i| (i.addr.clone(), i.role)).collect())
}

async fn look(instances: Vec<(Addr, Role)>, access: &Access) -> Vec<InstanceMemory> {
    let asked = join_all(instances.iter().map(|(addr, _)| survey::memory(addr, access))).await;
    let each = instances.into_iter().zip(asked).map(|((addr, role), said)| {
        let (memory, error) = match said {
            Ok(memory) => (Some(memory), None),
            Err(why) => (None, Some(why)),
        };
        let used_bytes = memory.as_ref().map(|m| m.used_bytes);
        InstanceMemory { addr, role, used_bytes, max_bytes: memory.map(|m| m.max_bytes), error }
    });
    each.collect()
}

/// Nothing was put on record for this group after what has this key.
fn is_latest(api: &Api, id: GroupId, key: Option<&str>) -> bool {
    let view = api.desk.view.borrow();
    let of = |audit: &&Audit| audit.what == "groups.maxmemory" && audit.after["group"] == id;
    let last = view.audit.iter().rev().map(|(_, audit)| audit).find(of);
    last.is_none_or(|audit| audit.idempotency_key.as_deref() == key)
}

/// A note where it counts until the next start only. Whoever leads no more tells nothing.
async fn tell(api: &Api, addr: &Addr, bytes: u64, access: &Access) -> Result<Option<String>, String> {
    let token = api.desk.view.borrow().token;
    let (Some(token), Some(confirm)) = (token, &api.confirm) else {
        return Err("this member does not lead".to_owned());
    };
    give_memory(addr, bytes, token, access, confirm(token)).await
}
