//! `twemslot-configsvr`: reads its arguments, puts the parts together, and serves until it is told to stop.
#![expect(clippy::disallowed_methods, reason = "a shell: listens, and reads chance for a seed")]

use anyhow::{Context, Result};
use clap::Parser;
use configsvr::agent::link::Access;
use configsvr::agent::push::Pusher;
use configsvr::agent::watch::Watchers;
use configsvr::config::{self, Config, Store as StoreKind};
use configsvr::consensus::embedded::Embedded;
use configsvr::consensus::{Consensus, Options, Peer};
use configsvr::control::layout::LEADER;
use configsvr::control::{self, Control};
use configsvr::desk::{CALLS_MAX, Desk, NEWS_MAX};
use configsvr::http::{self, Api, Token};
use configsvr::members::Quorum;
use configsvr::metrics::Metrics;
use configsvr::server::{self, Server};
use configsvr::store::Store;
use configsvr::store::etcd::Etcd;
use configsvr::tls::{self, Tls};
use configsvr::{dashboard, door, log, server::Stopped, supervisor};
use std::io::{Read, Write};
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{broadcast, mpsc, watch};

/// One member of Twemslot's control plane.
///
/// Signals: TERM and INT stop it; HUP reads the certificates of `tls` and `instance_tls` again.
#[derive(Debug, Parser)]
#[command(name = "twemslot-configsvr", version)]
struct Args {
    /// The configuration.
    #[arg(short, long, value_name = "FILE", default_value = "conf/configsvr.yml")]
    config: PathBuf,
    /// Say what is wrong with the configuration, and exit: 0 if nothing is.
    #[arg(short = 't', long)]
    check_config: bool,
}

/// Calls that are under way when it stops are given so long.
const DRAIN_LIMIT: Duration = Duration::from_secs(3);

fn main() -> ExitCode {
    let args = Args::parse();
    let name = args.config.display();
    let config = match config::load(&args.config) {
        Ok(config) => config,
        Err(faults) => {
            faults.iter().for_each(|fault| say(&format!("{name}: {fault}\n"), &mut std::io::stderr()));
            return ExitCode::FAILURE;
        }
    };
    if args.check_config {
        say(&format!("{name}: ok\n"), &mut std::io::stdout());
        return ExitCode::SUCCESS;
    }
    match run(config) {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            say(&format!("twemslot-configsvr: {e:#}\n"), &mut std::io::stderr());
            ExitCode::FAILURE
        }
    }
}

/// A closed standard stream is no reason to end.
fn say(text: &str, to: &mut dyn Write) {
    _ = to.write_all(text.as_bytes());
}

fn run(config: Config) -> Result<()> {
    log::start(config.log)?;
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    let done = runtime.block_on(serve(config));
    runtime.shutdown_timeout(DRAIN_LIMIT);
    done
}

async fn serve(config: Config) -> Result<()> {
    // A file that may not grow is an error of that write, as a full disk is, and not the end of the process.
    let _file_too_large = signal(SignalKind::from_raw(nix::libc::SIGXFSZ))?;
    let me = config.me().context("the configuration was checked")?.clone();
    let listener = TcpListener::bind(config.listen).await;
    let listener = listener.with_context(|| format!("cannot listen at {}", config.listen))?;
    let certificates = config.certificates().map_err(|faults| anyhow::anyhow!(faults.join("; ")))?;
    let (renew, certificates) = Tls::new(certificates);
    let files = (config.tls.clone(), config.instance_tls.clone());
    let metrics = Metrics::new()?;
    let reloads = metrics.reloads.clone();
    tokio::spawn(tls::renew_on_hup(renew, files, move |result| reloads.with_label_values(&[result]).inc()));
    let consensus = Consensus::start(Options { tls: certificates.clone(), ..raft(&config, &me)? }).await?;
    let store: Arc<dyn Store> = match config.store.clone() {
        StoreKind::Embedded => Arc::new(Embedded::new(consensus.clone())),
        StoreKind::Etcd(options) => Arc::new(Etcd::new(*options)?),
    };
    tracing::info!(name = me.name, listen = %config.listen, store = store.describe(), "configsvr");

    let (call, calls) = mpsc::channel(CALLS_MAX);
    let (publish, view) = watch::channel(Arc::default());
    let (news, _) = broadcast::channel(NEWS_MAX);
    let (stop, stopping) = watch::channel(false);
    let desk = Desk { calls: call, view: view.clone(), news: news.clone() };
    let rendered = metrics.clone();
    let render = Box::new(move || rendered.render(&view.borrow()).unwrap_or_default());
    let quorum = Arc::new(Quorum(consensus.clone()));
    let tokens: Result<Vec<Token>, String> = config.tokens.iter().map(Token::try_from).collect();
    let tokens = tokens.map_err(anyhow::Error::msg)?;
    let pusher = Pusher::new(config.proxy_token.clone(), certificates.clone());
    let (user, password) = (config.instance_user, config.instance_password);
    let access = Arc::new(Access { user, password, tls: certificates.clone() });
    let api = Api::new(desk, me.name.clone(), tokens, quorum, Arc::clone(&store), render);
    let api = api.with_tls(certificates.clone()).with_proxies(pusher.clone());
    let api = api.with_instances(Arc::clone(&access), server::confirming(&consensus));
    let app = http::router(api).merge(consensus.router()).merge(dashboard::router());
    let serving = tokio::spawn(door::serve(listener, certificates, app, stopping.clone()));
    supervisor::tell(supervisor::READY);

    let watchers = Watchers::new(&me.name, Arc::clone(&access));
    let member = control::Member { name: me.name, addr: me.addr.to_string() };
    let mut control = Control::new(member, seed()?).with_hang_ms(config.failover.hang_ms);
    if let StoreKind::Etcd(etcd) = &config.store {
        let (endpoints, prefix) = (etcd.endpoints.join(","), &etcd.prefix);
        control = control.with_record_deleted_by(format!("etcdctl --endpoints={endpoints} del {prefix}/{LEADER}"));
    }
    let server = Server {
        control,
        store,
        consensus: consensus.clone(),
        pusher,
        access,
        watchers,
        metrics,
        calls,
        view: publish,
        news,
    };
    tokio::spawn(async move {
        signalled().await;
        stop.send_replace(true);
    });
    let ended = server::run(server, stopping).await;
    consensus.shutdown().await;
    serving.abort();
    match ended {
        Stopped::Asked => Ok(()),
        Stopped::Failed(why) => anyhow::bail!("{why}"),
    }
}

async fn signalled() {
    let (Ok(mut term), Ok(mut int)) = (signal(SignalKind::terminate()), signal(SignalKind::interrupt())) else {
        return std::future::pending().await; // then KILL is left, which is safe too
    };
    tokio::select! { _ = term.recv() => {}, _ = int.recv() => {} }
    supervisor::tell(supervisor::STOPPING);
    tracing::info!("stopping");
}

fn raft(config: &Config, me: &config::Member) -> Result<Options> {
    let peer = |m: &config::Member| Peer { id: m.id, name: m.name.clone(), addr: m.addr.to_string() };
    // One that joins knows the others and is not among them: it waits until they add it.
    let initial = config.members.iter().filter(|m| !config.join || m.id != me.id).map(peer).collect();
    // A member without others hears from nobody, and guards the door with a token that nobody knows.
    let token = match &config.peer_token {
        Some(token) => token.reveal().to_owned(),
        None => format!("{:016x}{:016x}", seed()?, seed()?),
    };
    let mut options = Options::new(peer(me), config.data_dir.clone(), initial, token);
    options.heartbeat_ms = config.raft.heartbeat_ms;
    options.election_min_ms = config.raft.election_min_ms;
    options.election_max_ms = config.raft.election_max_ms;
    Ok(options)
}

fn seed() -> Result<u64> {
    let mut bytes = [0; 8];
    std::fs::File::open("/dev/urandom")?.read_exact(&mut bytes)?;
    Ok(u64::from_le_bytes(bytes))
}
