//! The server: one loop that tells control what happened and has done what control wants.
//!
//! ```text
//!   raft ─ leadership ─┐                              ┌─> store.commit, grant, keep_alive ─┐
//!   store ─ notices ───┤                              ├─> agent: probe, follow, push ──────┤
//!   HTTP ─ calls ──────┼─> Event ─> control.step ─────┼─> answers to HTTP                  │
//!   clock ─ ticks ─────┤               (pure)         └─> news, the view                   │
//!   deeds' outcomes ───┘<──────────────────────────────────────────────────────────────────┘
//! ```
#![expect(clippy::disallowed_methods, reason = "a shell: reads the clock")]

use crate::agent::link::Access;
use crate::agent::push::Pusher;
use crate::agent::watch::Watchers;
use crate::agent::{follow, order, probe};
use crate::consensus::Consensus;
use crate::control::Control;
use crate::control::command::{Answer, BeatAnswer, Kind, Refusal};
use crate::control::event::{Action, CallId, Event, Leadership, News};
use crate::control::layout::Token;
use crate::control::view::View;
use crate::desk::Call;
use crate::metrics::Metrics;
use crate::mover::{Confirm, Movers};
use crate::store::Store;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};
use tokio::sync::{broadcast, mpsc, oneshot, watch};
use tokio::time::{MissedTickBehavior, interval};

/// Control hears of the time at least so often.
const TICK: Duration = Duration::from_millis(50);
/// Outcomes that wait for the loop. Control bounds the deeds under way; this many only fit a stall.
const OUTCOMES_MAX: usize = 4096;

/// Where a call's answer goes.
enum Waiting {
    Change(oneshot::Sender<Result<Answer, Refusal>>),
    Beat(oneshot::Sender<Result<BeatAnswer, Refusal>>),
}

/// What the loop owns and uses.
pub struct Server {
    pub control: Control,
    pub store: Arc<dyn Store>,
    pub consensus: Consensus,
    pub pusher: Pusher,
    pub access: Arc<Access>,
    pub watchers: Watchers,
    pub metrics: Metrics,
    pub calls: mpsc::Receiver<Call>,
    pub view: watch::Sender<Arc<View>>,
    pub news: broadcast::Sender<News>,
}

/// The loop's own state.
struct Loop {
    server: Server,
    started: Instant,
    waiting: BTreeMap<CallId, Waiting>,
    last_call: CallId,
    outcomes: mpsc::Sender<Event>,
    movers: Movers,
}

/// Why the loop has ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Stopped {
    Asked,
    /// Something under it has failed for good: start the process again.
    Failed(String),
}

/// Runs until `stop` says so.
pub async fn run(server: Server, mut stop: watch::Receiver<bool>) -> Stopped {
    let (outcomes, mut done) = mpsc::channel(OUTCOMES_MAX);
    let mut leadership = server.consensus.leadership();
    let mut notices = server.store.watch();
    let seen = server.watchers.news();
    let mut ticks = interval(TICK);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Skip);
    let movers = Movers::new(Arc::clone(&server.access), confirming(&server.consensus), outcomes.clone());
    let started = Instant::now();
    let mut own = Loop { server, started, waiting: BTreeMap::new(), last_call: 0, outcomes, movers };
    let first = leadership.borrow_and_update().clone();
    own.step(Event::Leadership(first));
    loop {
        let event = tokio::select! {
            biased;
            _ = stop.changed() => return Stopped::Asked,
            changed = leadership.changed() => match changed {
                Ok(()) => Event::Leadership(leadership.borrow_and_update().clone()),
                Err(_) => return failed(&own, "raft has ended"),
            },
            notice = notices.recv() => match notice {
                Some(notice) => Event::Committed(notice),
                None => return failed(&own, "the store has ended"),
            },
            Some(outcome) = done.recv() => outcome,
            call = own.server.calls.recv() => match call {
                Some(call) => own.take(call),
                None => return failed(&own, "the API has ended"),
            },
            () = seen.notified() => Event::Observed(own.server.watchers.looks()),
            _ = ticks.tick() => {
                own.step(Event::Observed(own.server.watchers.looks()));
                Event::Tick
            }
        };
        let tick = matches!(event, Event::Tick);
        own.step(event);
        if tick && let Some(why) = own.server.consensus.stopped() {
            return Stopped::Failed(why);
        }
    }
}

fn failed(own: &Loop, what: &str) -> Stopped {
    Stopped::Failed(own.server.consensus.stopped().unwrap_or_else(|| what.to_owned()))
}

impl Loop {
    fn now_ms(&self) -> u64 {
        self.started.elapsed().as_millis() as u64
    }

    /// A call becomes an event; its way back is kept.
    fn take(&mut self, call: Call) -> Event {
        // Whoever has gone needs no answer.
        self.waiting.retain(|_, w| match w {
            Waiting::Change(reply) => !reply.is_closed(),
            Waiting::Beat(reply) => !reply.is_closed(),
        });
        self.last_call += 1;
        let id = self.last_call;
        match call {
            Call::Change(request, reply) => {
                self.waiting.insert(id, Waiting::Change(reply));
                Event::Asked { call: id, request }
            }
            Call::Beat(beat, reply) => {
                self.waiting.insert(id, Waiting::Beat(reply));
                Event::Beat { call: id, beat }
            }
        }
    }

    fn step(&mut self, event: Event) {
        if let Event::Leadership(leadership) = &event {
            log_leadership(leadership, &self.server.metrics);
        }
        let shown = matches!(event, Event::Leadership(_) | Event::Committed(_) | Event::Tick);
        let looked = matches!(event, Event::Observed(_));
        let now_ms = self.now_ms();
        let wall_ms = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_millis() as u64;
        let actions = self.server.control.step(now_ms, wall_ms, event);
        if looked {
            self.server.consensus.publish_ballot(self.server.control.ballot(now_ms));
        }
        if shown || !actions.is_empty() {
            // Before the answers: whoever reads after its answer sees its change.
            self.server.view.send_replace(Arc::new(self.server.control.view(now_ms)));
        }
        for action in actions {
            self.perform(action);
        }
    }

    fn perform(&mut self, action: Action) {
        let store = Arc::clone(&self.server.store);
        match action {
            Action::Answer { call, outcome } => self.answer(call, outcome),
            Action::AnswerBeat { call, outcome } => {
                if let Some(Waiting::Beat(reply)) = self.waiting.remove(&call) {
                    _ = reply.send(outcome); // an error: the caller has gone
                }
            }
            Action::Write { deed, txn } => self.begin("write", async move {
                let outcome = store.commit(txn).await;
                (outcome.is_ok(), Event::Wrote { deed, outcome })
            }),
            Action::Grant { deed, ttl } => self.begin("grant", async move {
                let outcome = store.grant(ttl).await;
                (outcome.is_ok(), Event::Granted { deed, outcome })
            }),
            Action::KeepAlive { deed, lease } => self.begin("keep_alive", async move {
                let outcome = store.keep_alive(lease).await;
                (outcome.is_ok(), Event::KeptAlive { deed, outcome })
            }),
            Action::Probe { deed, addrs } => {
                let access = Arc::clone(&self.server.access);
                self.begin("probe", async move {
                    let seen = probe::probe_all(addrs, &access).await;
                    (seen.iter().all(|s| s.1.is_ok()), Event::Probed { deed, seen })
                });
            }
            Action::Follow { deed, token, instance, primary } => {
                let access = Arc::clone(&self.server.access);
                let consensus = self.server.consensus.clone();
                self.begin("follow", async move {
                    let confirm = confirm(&consensus, token);
                    let outcome = follow::follow(&instance, &primary, token, &access, confirm).await;
                    (outcome.is_ok(), Event::Followed { deed, outcome })
                });
            }
            Action::Watch { all, close } => self.server.watchers.set(all, &close),
            Action::Poll => self.poll(),
            Action::Order { deed, token, instance, order } => {
                let access = Arc::clone(&self.server.access);
                let consensus = self.server.consensus.clone();
                self.begin("order", async move {
                    let confirm = confirm(&consensus, token);
                    let outcome = order::give(&instance, &order, token, &access, confirm).await;
                    match &outcome {
                        Ok(report) => tracing::info!(%instance, ?order, offset = report.after.offset, "order"),
                        Err(why) => tracing::debug!(%instance, ?order, why, "an order failed"),
                    }
                    (outcome.is_ok(), Event::Ordered { deed, outcome })
                });
            }
            Action::Push { deed, proxy: _, admin_addr, epoch, message, quiet } => {
                let pusher = self.server.pusher.clone();
                self.begin("push", async move {
                    let outcome = pusher.push(&admin_addr, epoch, &message, quiet).await;
                    (outcome.is_ok(), Event::Pushed { deed, outcome })
                });
            }
            Action::Move { job, goal } => self.movers.tell(job, goal),
            Action::Drop { task } => self.movers.drop_task(&task),
            Action::Sweep { deed, sweep } => self.begin("sweep", self.movers.sweep(deed, sweep)),
            Action::Audit { deed, audit } => self.begin("audit", self.movers.audit(deed, audit)),
            Action::Tell(news) => self.tell(news),
        }
    }

    /// Asks the other members; each answer is an event of its own.
    fn poll(&self) {
        let asked = self.now_ms();
        let peers = self.server.consensus.peers();
        let voters = self.server.consensus.voters();
        if peers.is_empty() {
            let (member, outcomes) = (self.server.consensus.id(), self.outcomes.clone());
            let alone = Event::Polled { asked, voters, member, ballot: None };
            tokio::spawn(async move { _ = outcomes.send(alone).await });
        }
        for peer in peers {
            let (consensus, outcomes) = (self.server.consensus.clone(), self.outcomes.clone());
            tokio::spawn(async move {
                let answer = consensus.ballot_of(&peer).await.ok();
                let age = answer.as_ref().map_or(0, |(_, age)| *age);
                let (ballot, asked) = (answer.map(|(ballot, _)| ballot), asked.saturating_sub(age));
                // An error: the loop has ended.
                _ = outcomes.send(Event::Polled { asked, voters, member: peer.id, ballot }).await;
            });
        }
    }

    fn answer(&mut self, call: CallId, outcome: Result<Answer, Refusal>) {
        let word = match &outcome {
            Ok(_) => "done",
            Err(Refusal { kind: Kind::Busy | Kind::Unavailable, .. }) => "unavailable",
            Err(Refusal { kind: Kind::Unknown, .. }) => "unknown",
            Err(_) => "refused",
        };
        self.server.metrics.calls.with_label_values(&[word]).inc();
        if let Some(Waiting::Change(reply)) = self.waiting.remove(&call) {
            _ = reply.send(outcome); // an error: the caller has gone; its idempotency key tells
        }
    }

    /// Does it beside the loop; the outcome comes back as an event.
    fn begin(&self, name: &'static str, deed: impl Future<Output = (bool, Event)> + Send + 'static) {
        let outcomes = self.outcomes.clone();
        let deeds = self.server.metrics.deeds.clone();
        tokio::spawn(async move {
            let (good, event) = deed.await;
            deeds.with_label_values(&[name, if good { "ok" } else { "failed" }]).inc();
            _ = outcomes.send(event).await; // an error: the loop has ended
        });
    }

    fn tell(&self, news: News) {
        let News { kind, subject, message, epoch, .. } = &news;
        match news.alarm && !news.settled {
            true => tracing::warn!(kind, subject, epoch, "{message}"),
            false => tracing::info!(kind, subject, epoch, "{message}"),
        }
        _ = self.server.news.send(news); // an error: nobody listens
    }
}

/// Asks a majority whether a token still leads.
pub fn confirming(consensus: &Consensus) -> Confirm {
    let consensus = consensus.clone();
    Arc::new(move |token| {
        let consensus = consensus.clone();
        Box::pin(async move { confirm(&consensus, token).await })
    })
}

/// Whether the token still leads, as a majority sees it.
async fn confirm(consensus: &Consensus, token: Token) -> Result<(), String> {
    consensus.ensure_linearizable().await.map_err(|e| e.to_string())?;
    match &*consensus.leadership().borrow() {
        Leadership::Leading(now) if *now == token => Ok(()),
        _ => Err("this member no longer leads".to_owned()),
    }
}

fn log_leadership(leadership: &Leadership, metrics: &Metrics) {
    match leadership {
        Leadership::Leading(token) => {
            metrics.elections.inc();
            tracing::info!(%token, "leading");
        }
        Leadership::Following(Some((leader, addr))) => tracing::info!(leader, addr, "following"),
        Leadership::Following(None) => tracing::info!("no leader is known"),
    }
}
