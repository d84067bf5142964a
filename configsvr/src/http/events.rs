//! `events`: the news as they happen, for dashboards and scripts. A listener that is too slow is told what it missed.

use super::Api;
use super::extract::Asked;
use super::limits::{KEEP_ALIVE, LISTENERS_MAX};
use super::problem::{Problem, ReadProblems};
use super::words::Whose;
use crate::control::event::News;
use axum::extract::State;
use axum::response::sse::{Event, KeepAlive, Sse};
use futures_util::{Stream, StreamExt};
use std::convert::Infallible;
use std::sync::Arc;
use tokio_stream::wrappers::BroadcastStream;
use tokio_stream::wrappers::errors::BroadcastStreamRecvError;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

pub(super) fn routes() -> OpenApiRouter<Arc<Api>> {
    OpenApiRouter::new().routes(routes!(listen))
}

/// The news, as server-sent events named after their kind. First come the alarms of now, last a `lagged` with how many were
/// missed whenever the listener was too slow.
#[utoipa::path(get, path = "/api/v1/events", tag = "events", params(Whose),
    responses((status = 200, description = "a stream without end", body = String, content_type = "text/event-stream"),
        ReadProblems))]
async fn listen(
    State(api): State<Arc<Api>>,
    _: Asked<Whose>,
) -> Result<Sse<impl Stream<Item = Result<Event, Infallible>>>, Problem> {
    let Ok(place) = Arc::clone(&api.listeners).try_acquire_owned() else {
        return Err(Problem::busy(&format!("{LISTENERS_MAX} listeners are served already")));
    };
    let news = BroadcastStream::new(api.desk.news.subscribe());
    let now = futures_util::stream::iter(api.desk.view.borrow().alarms.clone()).map(Ok);
    let events = now.chain(news).map(move |news| {
        let _held_as_long_as_the_stream = &place;
        Ok(news.map_or_else(lagged, |news| event(&news)))
    });
    Ok(Sse::new(events).keep_alive(KeepAlive::new().interval(KEEP_ALIVE)))
}

fn event(news: &News) -> Event {
    Event::default().event(&news.kind).data(serde_json::json!(news).to_string())
}

fn lagged(BroadcastStreamRecvError::Lagged(missed): BroadcastStreamRecvError) -> Event {
    Event::default().event("lagged").data(serde_json::json!({ "missed": missed }).to_string())
}
