//! Members of configSvr in this process: each on a thread of its own with a runtime of its own, so that it can be killed
//! (everything it did is dropped where it stood, its sockets close) or frozen (its thread sleeps) while the others go on.

use crate::site::{eventually, port};
use configsvr::consensus::embedded::Embedded;
use configsvr::consensus::{Consensus, MemberId, Options, Peer};
use configsvr::control::event::Leadership;
use std::path::PathBuf;
use std::sync::mpsc;
use std::thread::JoinHandle;
use std::time::Duration;
use tempfile::TempDir;
use tokio::sync::oneshot;
use tracing_subscriber::EnvFilter;
use tracing_subscriber::filter::LevelFilter;

pub const PATIENCE: Duration = Duration::from_secs(30);
const TOKEN: &str = "peers of the test";

pub struct Member {
    pub peer: Peer,
    pub consensus: Consensus,
    pub store: Embedded,
    runtime: tokio::runtime::Handle,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

/// Members and their disks.
pub struct Site {
    pub dir: TempDir,
    pub members: Vec<Member>,
    pub initial: Vec<Peer>,
    /// Leaders that are slow, as on a machine that has much else to do, keep their office.
    calm: bool,
}

pub fn peer(id: MemberId) -> Peer {
    Peer { id, name: format!("config{id}"), addr: format!("127.0.0.1:{}", port()) }
}

impl Member {
    fn start(options: Options) -> Self {
        let (started, wait) = mpsc::channel();
        let (stop, stopped) = oneshot::channel();
        let peer = Peer { id: options.id, name: options.name.clone(), addr: options.addr.clone() };
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
            runtime.block_on(async {
                let consensus = serve(options).await;
                let store = Embedded::new(consensus.clone());
                started.send((consensus, store, tokio::runtime::Handle::current())).expect("somebody waits");
                let _ = stopped.await;
            });
            runtime.shutdown_background();
        });
        let (consensus, store, runtime) = wait.recv().expect("started");
        Self { peer, consensus, store, runtime, stop: Some(stop), thread: Some(thread) }
    }

    /// As kill -9.
    pub fn kill(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            thread.join().expect("no panic");
        }
    }

    /// As SIGSTOP, and SIGCONT later.
    pub fn freeze(&self, pause: Duration) {
        self.runtime.spawn(async move { std::thread::sleep(pause) });
    }

    pub fn leads(&self) -> bool {
        self.thread.is_some() && matches!(*self.consensus.leadership().borrow(), Leadership::Leading(_))
    }
}

impl Drop for Member {
    fn drop(&mut self) {
        self.kill();
    }
}

/// Starts, again if the process before it is not quite gone: its disk may still be busy for a moment.
async fn serve(options: Options) -> Consensus {
    let began = std::time::Instant::now();
    let consensus = loop {
        match Consensus::start(options.clone()).await {
            Ok(consensus) => break consensus,
            Err(e) => assert!(began.elapsed() < PATIENCE, "{e:#}"),
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    };
    let listener = tokio::net::TcpListener::bind(&options.addr).await.expect("a port");
    let router = consensus.router();
    tokio::spawn(async move { axum::serve(listener, router).await });
    consensus
}

impl Site {
    /// With the timings that come with configSvr.
    pub fn start(count: MemberId) -> Self {
        Self::begin(count, false)
    }

    /// For tests that are not about elections.
    pub fn calm(count: MemberId) -> Self {
        Self::begin(count, true)
    }

    fn begin(count: MemberId, calm: bool) -> Self {
        // What the members say, where RUST_LOG asks for it.
        let filter = EnvFilter::builder().with_default_directive(LevelFilter::OFF.into()).from_env_lossy();
        let _ = tracing_subscriber::fmt().with_env_filter(filter).with_test_writer().try_init();
        let initial: Vec<Peer> = (1..=count).map(peer).collect();
        let dir = TempDir::new().expect("a directory");
        let mut site = Self { dir, members: vec![], initial: initial.clone(), calm };
        initial.into_iter().for_each(|peer| site.join(peer));
        site
    }

    fn dir(&self, id: MemberId) -> PathBuf {
        self.dir.path().join(id.to_string())
    }

    /// Starts one more, or one again.
    pub fn join(&mut self, peer: Peer) {
        self.members.retain(|member| member.peer.id != peer.id);
        let dir = self.dir(peer.id);
        let mut options = Options::new(peer, dir, self.initial.clone(), TOKEN.to_owned());
        if self.calm {
            (options.election_min_ms, options.election_max_ms) = (3000, 4000);
        }
        self.members.push(Member::start(options));
    }

    pub fn restart(&mut self, id: MemberId) {
        let peer = self.member(id).peer.clone();
        self.join(peer);
    }

    pub fn member(&mut self, id: MemberId) -> &mut Member {
        self.members.iter_mut().find(|member| member.peer.id == id).expect("such a member")
    }

    /// Waits for one.
    pub async fn leader(&self) -> &Member {
        eventually(PATIENCE, "a leader", async || self.members.iter().any(Member::leads)).await;
        self.members.iter().find(|member| member.leads()).expect("just seen")
    }
}
