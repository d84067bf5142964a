//! The HTTP API: the whole of it is listed in `router`; then a file per noun.
//!
//! A call goes through `sign` (whose answer it is), `broken` (a fault of ours), `door` (how many, how long), `auth` (who),
//! `forward` (to the leader, if it is for the leader), and reaches its noun. A change then goes over the desk to the loop.
//! Any member answers reads from what it knows; `?leader=true` asks for what the leader knows.

#![allow(unused_qualifications, reason = "utoipa's macro writes them")]

mod cluster;
mod groups;
mod failovers;
mod migrations;
mod rebalance;
mod maxmemory;
mod users;
mod slots;
mod traffic;
mod proxies;
mod members;
mod events;
mod records;
mod restore;
mod health;
mod change;
mod forward;
mod auth;
mod door;
mod extract;
pub mod words;
mod moving;
mod documented;
pub mod problem;
pub mod limits;
mod clock;

#[cfg(test)]
mod tests;

pub use crate::config::Role;
pub use auth::{Hash, Token};
pub use forward::{LEADER, MEMBER, Peers};
pub use members::Members;

use crate::agent::link::Access;
use crate::agent::push::Pusher;
use crate::desk::Desk;
use crate::mover::Confirm;
use crate::store::Store;
use crate::tls::Tls;
use axum::http::{Method, header};
use axum::middleware::from_fn_with_state;
use axum::response::IntoResponse;
use axum::routing::get;
use axum::{Extension, Router};
use std::sync::Arc;
use tokio::sync::{Mutex, Semaphore};
use tower_http::catch_panic::CatchPanicLayer;
use utoipa::openapi::security::{HttpAuthScheme, HttpBuilder, SecurityScheme};
use utoipa::{Modify, OpenApi};
use utoipa_axum::router::OpenApiRouter;

/// What handlers hold.
pub struct Api {
    desk: Desk,
    /// Of this member.
    member: String,
    /// Empty: everything is open.
    tokens: Vec<Token>,
    members: Arc<dyn Members>,
    store: Arc<dyn Store>,
    metrics: Metrics,
    peers: Peers,
    /// The way to proxies, which know what is asked for.
    proxies: Option<Pusher>,
    /// The way to instances, which know what they hold.
    instances: Option<Arc<Access>>,
    /// Asks a majority whether this member still leads.
    confirm: Option<Confirm>,
    /// Orders to instances, one at a time.
    orders: Mutex<()>,
    /// One at a time.
    surveys: Semaphore,
    failures: auth::SharedFailures,
    places: Semaphore,
    listeners: Arc<Semaphore>,
}

/// Prometheus text, made when it is asked for.
pub type Metrics = Box<dyn Fn() -> String + Send + Sync>;

impl Api {
    /// `member`: this member's name. `tokens`: none means that everything is open.
    pub fn new(
        desk: Desk,
        member: String,
        tokens: Vec<Token>,
        members: Arc<dyn Members>,
        store: Arc<dyn Store>,
        metrics: Metrics,
    ) -> Self {
        Self {
            desk,
            member,
            tokens,
            members,
            store,
            metrics,
            peers: Peers::new(Tls::default()),
            proxies: None,
            instances: None,
            confirm: None,
            orders: Mutex::new(()),
            surveys: Semaphore::new(1),
            failures: auth::SharedFailures::default(),
            places: Semaphore::new(limits::CALLS_MAX),
            listeners: Arc::new(Semaphore::new(limits::LISTENERS_MAX)),
        }
    }
}

impl Api {
    /// Reaches the other members so.
    pub fn with_tls(self, tls: Tls) -> Self {
        Self { peers: Peers::new(tls), ..self }
    }

    /// Asks proxies, too, by this way.
    pub fn with_proxies(self, proxies: Pusher) -> Self {
        Self { proxies: Some(proxies), ..self }
    }

    /// Looks at instances, too, and gives them orders while `confirm` says that this member leads.
    pub fn with_instances(self, access: Arc<Access>, confirm: Confirm) -> Self {
        Self { instances: Some(access), confirm: Some(confirm), ..self }
    }
}

/// The API. Serve it with `into_make_service_with_connect_info::<SocketAddr>()`: failed logins are counted by address.
/// Routers merged with it afterwards are not guarded by it.
pub fn router(api: Api) -> Router {
    let api = Arc::new(api);
    let (router, document) = nouns().split_for_parts();
    router
        .route("/openapi.json", get(openapi).layer(Extension(Arc::<str>::from(text(&document)))))
        .fallback(door::no_such_path)
        .method_not_allowed_fallback(door::no_such_method)
        .layer(from_fn_with_state(Arc::clone(&api), forward::to_leader))
        .layer(from_fn_with_state(Arc::clone(&api), auth::gate))
        .layer(from_fn_with_state(Arc::clone(&api), door::bound))
        .layer(CatchPanicLayer::custom(door::broken))
        .layer(from_fn_with_state(Arc::clone(&api), forward::sign))
        .with_state(api)
}

fn nouns() -> OpenApiRouter<Arc<Api>> {
    OpenApiRouter::with_openapi(Document::openapi())
        .merge(cluster::routes())
        .merge(groups::routes())
        .merge(maxmemory::routes())
        .merge(users::routes())
        .merge(failovers::routes())
        .merge(migrations::routes())
        .merge(rebalance::routes())
        .merge(slots::routes())
        .merge(traffic::routes())
        .merge(proxies::routes())
        .merge(members::routes())
        .merge(events::routes())
        .merge(records::routes())
        .merge(restore::routes())
        .merge(health::routes())
}

/// The head of the OpenAPI document; the rest comes from the handlers.
#[derive(OpenApi)]
#[openapi(
    info(title = "Twemslot configSvr", description = "One truth about a Redis cluster, for people, scripts and proxies.",
        license(name = "Apache-2.0", identifier = "Apache-2.0")),
    components(schemas(problem::Problem)),
    modifiers(&Bearer),
    security(("bearer" = []))
)]
struct Document;

struct Bearer;

impl Modify for Bearer {
    fn modify(&self, document: &mut utoipa::openapi::OpenApi) {
        let scheme = SecurityScheme::Http(HttpBuilder::new().scheme(HttpAuthScheme::Bearer).build());
        document.components.get_or_insert_default().add_security_scheme("bearer", scheme);
    }
}

fn text(document: &utoipa::openapi::OpenApi) -> String {
    serde_json::to_string(document).unwrap_or_else(|e| {
        tracing::error!("the OpenAPI document cannot be written: {e}"); // none of its maps has a key that is not text
        "{}".to_owned()
    })
}

async fn openapi(Extension(document): Extension<Arc<str>>) -> impl IntoResponse {
    ([(header::CONTENT_TYPE, "application/json")], document.to_string())
}

/// The document of the whole API, as JSON.
pub fn document() -> String {
    text(&nouns().into_openapi())
}

/// Whether a call changes nothing.
fn reads(method: &Method) -> bool {
    matches!(*method, Method::GET | Method::HEAD | Method::OPTIONS)
}

fn is_health(path: &str) -> bool {
    matches!(path, "/healthz" | "/readyz")
}

/// Calls that bring much, and take long.
fn is_import(path: &str) -> bool {
    matches!(path, "/api/v1/import" | "/api/v1/store/import")
}
