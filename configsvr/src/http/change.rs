//! How a change travels: from a handler over the desk to the loop, and its answer back.

use super::Api;
use super::extract::Terms;
use super::problem::Problem;
use super::words::Answer;
use crate::control::command::{Command, Refusal, Request};
use crate::desk::Call;
use axum::Json;
use tokio::sync::mpsc::error::TrySendError;
use tokio::sync::oneshot;

/// Asks for a change, and waits for what becomes of it.
pub(super) async fn change(api: &Api, terms: Terms, command: Command) -> Result<Json<Answer>, Problem> {
    let Terms { who, dry_run, idempotency_key } = terms;
    let request = Request { who, command, idempotency_key, dry_run };
    ask(api, |answer| Call::Change(request, answer)).await.map(Json)
}

/// Puts a call on the desk.
pub(super) async fn ask<T>(
    api: &Api,
    call: impl FnOnce(oneshot::Sender<Result<T, Refusal>>) -> Call,
) -> Result<T, Problem> {
    let (sender, answer) = oneshot::channel();
    api.desk.calls.try_send(call(sender)).map_err(|e| match e {
        TrySendError::Full(_) => Problem::busy("too many changes wait"),
        TrySendError::Closed(_) => Problem::unavailable("stopping", "this member is stopping", "ask another member"),
    })?;
    let outcome = answer.await.map_err(|_| Problem::unknown("this member stopped before it knew"))?;
    outcome.map_err(Problem::from)
}
