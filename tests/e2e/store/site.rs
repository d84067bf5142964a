//! Where the tests run: ports, directories, and patience.

use std::future::Future;
use std::net::{Ipv4Addr, TcpListener};
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::{Duration, Instant};
use tokio::net::{TcpListener as Listener, TcpStream};
use tokio::sync::watch;

/// Above what playgrounds take, below what Linux gives to outgoing connections.
const PORTS: (u16, u16) = (32_000, 32_760);

/// A port nobody listens at, and nobody else here is given. It can be bound again and again.
pub fn port() -> u16 {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    let named = std::env::var("TWEMSLOT_PORTS").ok();
    let named = named.as_deref().and_then(|text| text.split_once('-')).map(|(a, b)| (a.parse(), b.parse()));
    let (from, to) = if let Some((Ok(from), Ok(to))) = named { (from, to) } else { PORTS };
    // Each test is a process of its own with some runners, and they run side by side.
    let start = (std::process::id() * 13 % u32::from(to - from)) as u16;
    for _ in from..to {
        let port = from + (start + NEXT.fetch_add(1, Ordering::Relaxed)) % (to - from);
        if TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok() {
            return port;
        }
    }
    panic!("no free port from {from} to {to}");
}

pub async fn within<T>(limit: Duration, what: &str, future: impl Future<Output = T>) -> T {
    tokio::time::timeout(limit, future).await.unwrap_or_else(|_| panic!("{what}: not within {limit:?}"))
}

/// Asks again and again.
pub async fn eventually(limit: Duration, what: &str, mut holds: impl AsyncFnMut() -> bool) -> Duration {
    let began = Instant::now();
    while !holds().await {
        assert!(began.elapsed() < limit, "{what}: not within {limit:?}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    began.elapsed()
}

/// A wire to a server, which can be cut.
pub struct Wire {
    pub addr: String,
    whole: watch::Sender<bool>,
}

impl Wire {
    pub async fn to(server: String) -> Self {
        let addr = format!("127.0.0.1:{}", port());
        let listener = Listener::bind(&addr).await.expect("a free port");
        let whole = watch::Sender::new(true);
        let state = whole.subscribe();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(carry(stream, server.clone(), state.clone()));
            }
        });
        Self { addr, whole }
    }

    /// Connections break, and new ones are closed at once.
    pub fn cut(&self, cut: bool) {
        self.whole.send_replace(!cut);
    }
}

async fn carry(mut client: TcpStream, server: String, mut whole: watch::Receiver<bool>) {
    if !*whole.borrow_and_update() {
        return;
    }
    let Ok(mut server) = TcpStream::connect(server).await else { return };
    tokio::select! {
        _ = tokio::io::copy_bidirectional(&mut client, &mut server) => {}
        _ = whole.wait_for(|whole| !whole) => {}
    }
}
