//! Watchers: one task and one connection for each instance. PING every 100 ms (the next one only after the reply), INFO every
//! second, or every 200 ms where there is doubt. They judge nothing: what they saw is read by the loop when it likes.

use super::info;
use super::link::Access;
use crate::control::health::{Info, Look};
use cluster::instance::Addr;
use cluster::resp::reply::{Cursor, Step, text};
use cluster::resp::write;
use std::collections::BTreeMap;
use std::io::ErrorKind;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::sync::{Notify, watch};
use tokio::task::AbortHandle;
use tokio::time::{Instant, sleep, sleep_until, timeout};

const PING_EVERY: Duration = Duration::from_millis(100);
const INFO_EVERY: Duration = Duration::from_secs(1);
const INFO_SOON: Duration = Duration::from_millis(200);
/// A machine that is off does not refuse: then the next attempt begins.
const CONNECT_LIMIT: Duration = Duration::from_secs(1);
/// A connection on which nothing comes for so long may be one to a machine that is off: another one is tried.
const ANSWER_LIMIT: Duration = Duration::from_secs(5);
/// INFO of an instance with many commands and clients is some kilobytes; nothing else is asked for.
const REPLY_BYTES_MAX: usize = 1 << 20;

/// What one watcher knows.
#[derive(Debug, Clone, Default)]
struct State {
    /// When the first question that has no answer was asked.
    owed_since: Option<Instant>,
    refused: u32,
    refused_since: Option<Instant>,
    heard_at: Option<Instant>,
    info: Option<(Arc<Info>, Instant)>,
    fault: Option<String>,
}

impl State {
    fn look(&self, now: Instant) -> Look {
        let ms = |at: Instant| now.saturating_duration_since(at).as_millis() as u64;
        Look {
            owed_ms: self.owed_since.map(ms),
            refused: self.refused_since.map(|since| (self.refused, ms(since))),
            heard_ms: self.heard_at.map(ms),
            info: self.info.as_ref().map(|(info, at)| (info.clone(), ms(*at))),
            fault: self.fault.clone(),
        }
    }
}

struct Watcher {
    task: AbortHandle,
    state: watch::Receiver<State>,
    close: watch::Sender<bool>,
}

impl Drop for Watcher {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// All watchers of this member.
pub struct Watchers {
    name: String,
    access: Arc<Access>,
    all: BTreeMap<Addr, Watcher>,
    /// Something happened that should be looked at soon.
    news: Arc<Notify>,
}

impl Watchers {
    /// `member`: its name; connections are named after it.
    pub fn new(member: &str, access: Arc<Access>) -> Self {
        Self { name: format!("cw:{member}"), access, all: BTreeMap::new(), news: Arc::default() }
    }

    /// Whom to watch from now on, and whom closely.
    pub fn set(&mut self, all: Vec<Addr>, close: &[Addr]) {
        self.all.retain(|addr, _| all.contains(addr));
        for addr in all {
            let near = close.contains(&addr);
            let watcher = self.all.entry(addr.clone()).or_insert_with(|| {
                let (tell, state) = watch::channel(State::default());
                let (closer, closely) = watch::channel(near);
                let (access, name, news) = (self.access.clone(), self.name.clone(), self.news.clone());
                let task = Task { addr, access, name, news, tell, closely, state: State::default() };
                Watcher { task: tokio::spawn(task.run()).abort_handle(), state, close: closer }
            });
            watcher.close.send_if_modified(|now| std::mem::replace(now, near) != near);
        }
    }

    /// How all look now.
    pub fn looks(&self) -> Vec<(Addr, Look)> {
        let now = Instant::now();
        self.all.iter().map(|(addr, watcher)| (addr.clone(), watcher.state.borrow().look(now))).collect()
    }

    /// Tells when something happened that should not wait for the next look.
    pub fn news(&self) -> Arc<Notify> {
        self.news.clone()
    }
}

struct Task {
    addr: Addr,
    access: Arc<Access>,
    name: String,
    news: Arc<Notify>,
    tell: watch::Sender<State>,
    closely: watch::Receiver<bool>,
    state: State,
}

trait Stream: AsyncRead + AsyncWrite + Unpin + Send {}
impl<T: AsyncRead + AsyncWrite + Unpin + Send> Stream for T {}

impl Task {
    async fn run(mut self) {
        loop {
            let begun = Instant::now();
            match self.connect().await {
                Ok(stream) => {
                    let why = self.converse(stream).await;
                    self.owe(begun.max(Instant::now()));
                    self.state.fault = Some(why);
                }
                Err(why) => self.state.fault = Some(why),
            }
            self.publish();
            sleep(PING_EVERY.saturating_sub(begun.elapsed())).await;
        }
    }

    fn publish(&self) {
        self.tell.send_replace(self.state.clone());
    }

    /// An answer is owed since then, at the latest.
    fn owe(&mut self, since: Instant) {
        self.state.owed_since.get_or_insert(since);
    }

    /// Any reply pays all that is owed.
    fn paid(&mut self) {
        let was_gone =
            self.state.refused_since.is_some() || self.state.owed_since.is_some_and(|s| s.elapsed() > INFO_SOON);
        (self.state.owed_since, self.state.refused, self.state.refused_since) = (None, 0, None);
        self.state.heard_at = Some(Instant::now());
        if was_gone {
            self.news.notify_one();
        }
    }

    async fn connect(&mut self) -> Result<Box<dyn Stream>, String> {
        let since = Instant::now();
        let opened = async {
            let wire = self.access.tls.dial(&self.addr).await?;
            Ok::<Box<dyn Stream>, std::io::Error>(Box::new(wire))
        };
        match timeout(CONNECT_LIMIT, opened).await {
            Ok(Ok(stream)) => Ok(stream),
            Ok(Err(e)) if matches!(e.kind(), ErrorKind::ConnectionRefused | ErrorKind::NotFound) => {
                self.state.refused += 1;
                self.state.refused_since.get_or_insert(since);
                // Whoever refuses owes nothing: it is another story than silence.
                self.state.owed_since = None;
                self.news.notify_one();
                Err(format!("refuses connections: {e}"))
            }
            other => {
                self.owe(since);
                (self.state.refused, self.state.refused_since) = (0, None);
                Err(other.map_or("no connection within a second".to_owned(), |r| {
                    r.err().map_or_else(String::new, |e| e.to_string())
                }))
            }
        }
    }

    /// Until the connection ends: why it did.
    async fn converse(&mut self, mut stream: Box<dyn Stream>) -> String {
        (self.state.refused, self.state.refused_since) = (0, None);
        let mut hello: Vec<Vec<&[u8]>> = Vec::new();
        let access = self.access.clone();
        if let Some(password) = &access.password {
            let user = access.user.iter().map(|user| user.as_bytes());
            hello.push([b"AUTH".as_slice()].into_iter().chain(user).chain([password.reveal().as_bytes()]).collect());
        }
        let name = self.name.clone();
        hello.push(vec![b"CLIENT", b"SETNAME", name.as_bytes()]);
        let mut input = Input::default();
        for words in hello {
            if let Err(why) = self.ask(&mut stream, &mut input, &words).await {
                return why;
            }
        }
        let mut closely = self.closely.clone();
        let mut info_at = Instant::now();
        loop {
            let begun = Instant::now();
            let near = *closely.borrow_and_update();
            let outcome = if begun >= info_at {
                info_at = begun + if near { INFO_SOON } else { INFO_EVERY };
                self.ask_info(&mut stream, &mut input).await
            } else {
                self.ask(&mut stream, &mut input, &[b"PING"]).await.map(drop)
            };
            if let Err(why) = outcome {
                return why;
            }
            self.publish();
            tokio::select! {
                _ = sleep_until(begun + PING_EVERY) => {}
                Ok(()) = closely.changed() => info_at = Instant::now(),
            }
            if begun.elapsed() > INFO_EVERY {
                info_at = Instant::now(); // it was away: who is it now?
            }
        }
    }

    async fn ask_info(&mut self, stream: &mut Box<dyn Stream>, input: &mut Input) -> Result<(), String> {
        let asked = Instant::now();
        let reply = self.ask(stream, input, &[b"INFO"]).await?;
        match text(&reply).map(|t| info::read(&String::from_utf8_lossy(t))) {
            Some(Ok(info)) => {
                let other = self.state.info.as_ref().is_none_or(|(old, _)| {
                    old.run_id != info.run_id || old.role != info.role || old.link_up != info.link_up
                });
                self.state.info = Some((Arc::new(info), asked));
                self.state.fault = None;
                if other || *self.closely.borrow() {
                    self.publish();
                    self.news.notify_one();
                }
            }
            Some(Err(why)) => self.state.fault = Some(why),
            None => self.state.fault = Some(String::from_utf8_lossy(&reply).trim().chars().take(120).collect()),
        }
        Ok(())
    }

    /// One question, one reply. How long nothing came is what is watched, over all connections.
    async fn ask(
        &mut self,
        stream: &mut Box<dyn Stream>,
        input: &mut Input,
        words: &[&[u8]],
    ) -> Result<Vec<u8>, String> {
        let mut request = Vec::new();
        write::request(&mut request, words);
        self.owe(Instant::now());
        self.publish();
        stream.write_all(&request).await.map_err(|e| e.to_string())?;
        let reply = timeout(ANSWER_LIMIT, input.reply(stream)).await.map_err(|_| "does not answer".to_owned())??;
        self.paid();
        Ok(reply)
    }
}

/// Bytes that came.
#[derive(Default)]
struct Input {
    bytes: Vec<u8>,
}

impl Input {
    async fn reply(&mut self, stream: &mut Box<dyn Stream>) -> Result<Vec<u8>, String> {
        let (mut cursor, mut shown) = (Cursor::default(), 0);
        let mut chunk = [0; 8 * 1024];
        loop {
            if shown < self.bytes.len() {
                match cursor.step(&self.bytes[shown..]) {
                    Step::Done { len } => {
                        let rest = self.bytes.split_off(shown + len);
                        return Ok(std::mem::replace(&mut self.bytes, rest));
                    }
                    Step::More { used } => shown += used,
                    Step::Wrong => return Err("does not speak Redis's protocol".to_owned()),
                }
            }
            if self.bytes.len() > REPLY_BYTES_MAX {
                return Err("says more than it was asked".to_owned());
            }
            let n = stream.read(&mut chunk).await.map_err(|e| e.to_string())?;
            if n == 0 {
                return Err("closed the connection".to_owned());
            }
            self.bytes.extend_from_slice(&chunk[..n]);
        }
    }
}
