//! Calls to members of configsvr: one HTTP request on a connection of its own, bounded in time and size. They are few,
//! one a second.

use crate::config::HTTPS;
use cluster::tls::Client;
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Bytes;
use hyper::client::conn::http1;
use hyper::header::{AUTHORIZATION, CONTENT_TYPE, HOST};
use hyper::{Method, Request, StatusCode};
use hyper_util::rt::TokioIo;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;

/// A topology of 1024 groups and 16384 slots takes less than 2 MiB.
const BODY_BYTES_MAX: usize = 4 << 20;

/// What a member is asked.
#[derive(Clone, Copy)]
pub(super) struct Call<'a> {
    pub(super) method: &'a Method,
    pub(super) path: &'a str,
    pub(super) token: Option<&'a str>,
    /// How a member is met whose address begins with `https://`.
    pub(super) tls: Option<&'a Client>,
    pub(super) body: &'a str,
}

/// Asks one member. Errors say why there is no answer; a status that is no success is an answer.
pub(super) async fn ask(member: &str, call: Call<'_>, patience: Duration) -> Result<(StatusCode, Bytes), String> {
    match timeout(patience, exchange(member, call)).await {
        Ok(answer) => answer,
        Err(_) => Err(format!("no answer within {} ms", patience.as_millis())),
    }
}

async fn exchange(member: &str, call: Call<'_>) -> Result<(StatusCode, Bytes), String> {
    let Some(host) = member.strip_prefix(HTTPS) else {
        let stream = TcpStream::connect(member).await.map_err(|e| e.to_string())?;
        return converse(stream, member, call).await;
    };
    let tls = call.tls.ok_or("https, and no `control.ca_file` says whom to trust")?;
    let caller = tls.config().map_err(|fault| fault.why)?;
    let name = caller.name_of(host.rsplit_once(':').map_or(host, |(name, _)| name))?;
    let stream = TcpStream::connect(host).await.map_err(|e| e.to_string())?;
    let stream = TlsConnector::from(caller.config).connect(name, stream).await.map_err(|e| format!("TLS: {e}"))?;
    converse(stream, host, call).await
}

async fn converse(
    stream: impl AsyncRead + AsyncWrite + Unpin,
    host: &str,
    call: Call<'_>,
) -> Result<(StatusCode, Bytes), String> {
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(|e| e.to_string())?;
    let mut request = Request::builder().method(call.method).uri(call.path).header(HOST, host);
    if let Some(token) = call.token {
        request = request.header(AUTHORIZATION, format!("Bearer {token}"));
    }
    if !call.body.is_empty() {
        request = request.header(CONTENT_TYPE, "application/json");
    }
    let body = Full::new(Bytes::from(call.body.to_owned()));
    // Not the error's own words: they could hold the token.
    let request = request.body(body).map_err(|_| "the token or the address cannot be sent in a header".to_owned())?;
    let answer = async {
        let response = sender.send_request(request).await.map_err(|e| e.to_string())?;
        let status = response.status();
        let body = Limited::new(response.into_body(), BODY_BYTES_MAX).collect().await.map_err(|e| e.to_string())?;
        Ok((status, body.to_bytes()))
    };
    tokio::pin!(answer, connection);
    tokio::select! {
        biased;
        answer = &mut answer => return answer,
        ended = &mut connection => ended.map_err(|e| e.to_string())?,
    }
    // The connection has ended well: the answer is there.
    answer.await
}
