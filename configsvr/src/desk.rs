//! The desk between HTTP and the server's loop: calls go in, answers come back, the latest view and the news are there
//! for everyone.

use crate::control::command::{Answer, Beat, BeatAnswer, Refusal, Request};
use crate::control::event::News;
use crate::control::view::View;
use std::sync::Arc;
use tokio::sync::{broadcast, mpsc, oneshot, watch};

/// Calls that wait for the loop; more are turned away (429). The loop takes them in microseconds: a full desk means trouble.
pub const CALLS_MAX: usize = 1024;
/// News that a slow listener may be behind before it misses some (and is told so).
pub const NEWS_MAX: usize = 1024;

/// One call that needs the loop.
#[derive(Debug)]
pub enum Call {
    /// A change; for the leader.
    Change(Request, oneshot::Sender<Result<Answer, Refusal>>),
    /// A proxy's heartbeat; for the leader.
    Beat(Beat, oneshot::Sender<Result<BeatAnswer, Refusal>>),
}

/// What each HTTP handler holds.
#[derive(Debug, Clone)]
pub struct Desk {
    pub calls: mpsc::Sender<Call>,
    pub view: watch::Receiver<Arc<View>>,
    pub news: broadcast::Sender<News>,
}
