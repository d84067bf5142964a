//! `audit` and `store`: what was done by whom, and all there is.

use super::Api;
use super::extract::Asked;
use super::limits::{AUDIT_DEFAULT, AUDIT_MAX};
use super::problem::{Problem, ReadProblems};
use super::words::{EXPORT_FORMAT, Export, Exported, Record, StoreServer};
use crate::control::layout::{AUDIT, Audit};
use crate::control::view::View;
use crate::store::{Revision, Server, ServerStatus};
use axum::Json;
use axum::extract::State;
use serde::Deserialize;
use std::sync::Arc;
use utoipa::IntoParams;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

pub(super) fn routes() -> OpenApiRouter<Arc<Api>> {
    OpenApiRouter::new().routes(routes!(audit)).routes(routes!(export)).routes(routes!(servers))
}

/// Which part of the trail.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
struct Part {
    /// At most so many entries: 50 unless said otherwise.
    #[serde(default = "audit_default")]
    #[param(value_type = Option<u32>, minimum = 1, maximum = 1000)]
    limit: usize,
    /// Only entries of revisions before this one.
    before: Option<Revision>,
}

fn audit_default() -> usize {
    AUDIT_DEFAULT
}

/// Who changed what, the latest first. For more, ask again with the last entry's revision as `before`.
#[utoipa::path(get, path = "/api/v1/audit", tag = "records", params(Part),
    responses((status = 200, description = "a part of the trail", body = Vec<Record>), ReadProblems))]
async fn audit(State(api): State<Arc<Api>>, Asked(part): Asked<Part>) -> Result<Json<Vec<Record>>, Problem> {
    if !(1..=AUDIT_MAX).contains(&part.limit) {
        let message = format!("limit {}: from 1 to {AUDIT_MAX}", part.limit);
        return Err(Problem::invalid("bad_query", message, "ask for less, then go on with `before`"));
    }
    let view = api.desk.view.borrow().clone();
    let before = part.before.unwrap_or(Revision::MAX);
    let found = at_hand(&view, before, part.limit); // the newest
    let all = if found.len() < part.limit { stored(&api, before, part.limit).await? } else { found };
    Ok(Json(all))
}

fn at_hand(view: &View, before: Revision, count: usize) -> Vec<Record> {
    view.audit.iter().rev().filter(|(at, _)| *at < before).take(count).map(|(at, a)| record(*at, a.clone())).collect()
}

async fn stored(api: &Api, before: Revision, count: usize) -> Result<Vec<Record>, Problem> {
    let all = api.store.range(AUDIT).await?.entries.into_iter().rev();
    let known =
        all.filter_map(|e| Some((e.key.strip_prefix(AUDIT)?.parse().ok()?, serde_json::from_str(&e.value).ok()?)));
    Ok(known.filter(|(at, _)| *at < before).take(count).map(|(at, audit)| record(at, audit)).collect())
}

fn record(revision: Revision, audit: Audit) -> Record {
    let Audit { at, who, what, command, epoch_before, epoch_after, before, after, idempotency_key, .. } = audit;
    Record { revision, at, who, what, command, epoch_before, epoch_after, before, after, idempotency_key }
}

/// All keys of the store, as of one revision.
#[utoipa::path(get, path = "/api/v1/store/export", tag = "records",
    responses((status = 200, description = "all there is", body = Export), ReadProblems))]
async fn export(State(api): State<Arc<Api>>) -> Result<Json<Export>, Problem> {
    let snapshot = api.store.range("").await?;
    let entries = snapshot.entries.into_iter().map(|e| Exported { key: e.key, value: e.value }).collect();
    let (format, store) = (EXPORT_FORMAT.to_owned(), api.store.describe());
    Ok(Json(Export { format, revision: snapshot.revision, store, entries }))
}

/// The servers of etcd, each asked by itself. None where the store is embedded: then it is the members.
#[utoipa::path(get, path = "/api/v1/store/servers", tag = "records",
    responses((status = 200, description = "the servers", body = Vec<StoreServer>), ReadProblems))]
async fn servers(State(api): State<Arc<Api>>) -> Result<Json<Vec<StoreServer>>, Problem> {
    let shown = |Server { addr, status, fault }| match status {
        Some(ServerStatus { version, leading, bytes }) => {
            StoreServer { addr, version: Some(version), leading, bytes: Some(bytes), fault }
        }
        None => StoreServer { addr, version: None, leading: false, bytes: None, fault },
    };
    Ok(Json(api.store.servers().await.into_iter().map(shown).collect()))
}
