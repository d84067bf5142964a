//! Where callers of the API arrive: people, proxies, and the other members. So many at once, and each says what it wants in
//! time: a caller that is silent, or whose handshake is slow, keeps nobody out for long.

use crate::tls::{HANDSHAKE_LIMIT, Tls, Wire};
use axum::Router;
use axum::extract::ConnectInfo;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, watch};
use tokio::time::{sleep, timeout};
use tokio_rustls::TlsAcceptor;

/// Connections at once: of members, a heartbeat of each of 500 proxies, people and scrapers; and few enough for 1,024
/// descriptors beside the connections to instances.
const CONNECTIONS_MAX: usize = 640;
/// A caller says what it wants in so long, and so long an idle connection is kept. Who calls often keeps one open; members
/// speak several times a second.
const HEAD_LIMIT: Duration = if cfg!(test) { Duration::from_millis(300) } else { Duration::from_secs(20) };

/// Answers callers until it is told to stop; what is under way then is answered.
pub async fn serve(listener: TcpListener, tls: Tls, app: Router, mut stop: watch::Receiver<bool>) {
    let places = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    loop {
        let Ok(place) = Arc::clone(&places).acquire_owned().await else { return };
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            _ = stop.changed() => return,
        };
        let (stream, caller) = match accepted {
            Ok(accepted) => accepted,
            Err(e) => {
                tracing::warn!(error = %e, "the API cannot accept");
                sleep(Duration::from_millis(100)).await; // out of descriptors: do not spin
                continue;
            }
        };
        // The API counts failed logins by address.
        let app = app.clone().layer(axum::Extension(ConnectInfo(caller)));
        let (tls, stop) = (tls.clone(), stop.clone());
        tokio::spawn(async move {
            if let Some(wire) = meet(stream, caller, &tls).await {
                converse(wire, caller, app, stop).await;
            }
            drop(place);
        });
    }
}

/// None: the handshake failed.
async fn meet(stream: TcpStream, caller: SocketAddr, tls: &Tls) -> Option<Wire> {
    let Some(config) = tls.server() else { return Some(Wire::Tcp(stream)) };
    match timeout(HANDSHAKE_LIMIT, TlsAcceptor::from(config).accept(stream)).await {
        Ok(Ok(stream)) => return Some(Wire::Tls(Box::new(stream.into()))),
        Ok(Err(e)) => tracing::debug!(%caller, error = %e, "no TLS at the API"),
        Err(_) => tracing::debug!(%caller, "a TLS handshake at the API took too long"),
    }
    None
}

/// All calls of one connection.
async fn converse(wire: Wire, caller: SocketAddr, app: Router, mut stop: watch::Receiver<bool>) {
    let mut http = http1::Builder::new();
    http.timer(TokioTimer::new()).header_read_timeout(HEAD_LIMIT);
    let connection = http.serve_connection(TokioIo::new(wire), TowerToHyperService::new(app));
    tokio::pin!(connection);
    let ended = tokio::select! {
        ended = &mut connection => ended,
        () = told(&mut stop) => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(e) = ended {
        tracing::debug!(%caller, error = %e, "a connection at the API ended");
    }
}

async fn told(stop: &mut watch::Receiver<bool>) {
    _ = stop.wait_for(|stop| *stop).await;
}

#[cfg(test)]
mod tests {
    use super::*;
    use axum::routing::get;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    #[tokio::test]
    async fn who_is_silent_is_sent_away_and_who_speaks_is_answered() {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let addr = listener.local_addr().expect("an address");
        let (stop, stopping) = watch::channel(false);
        let app = Router::new().route("/", get(async || "hello"));
        let (_, tls) = Tls::new(crate::tls::Certificates::default());
        let serving = tokio::spawn(serve(listener, tls, app, stopping));
        let mut silent = TcpStream::connect(addr).await.expect("connects");
        let mut speaks = TcpStream::connect(addr).await.expect("connects");
        silent.write_all(b"GET / HTT").await.expect("writes");
        let mut text = [0; 1024];
        speaks.write_all(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n").await.expect("writes");
        let n = speaks.read(&mut text).await.expect("reads");
        assert!(text[..n].ends_with(b"hello"), "{:?}", String::from_utf8_lossy(&text[..n]));
        let end = timeout(100 * HEAD_LIMIT, silent.read(&mut text)).await.expect("it is sent away");
        assert!(matches!(end, Ok(0) | Err(_)), "{end:?}");
        stop.send_replace(true);
        serving.await.expect("it ends");
    }
}
