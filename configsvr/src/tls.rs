//! Encryption, of the API and of every connection that we make: which certificates are in force, and the sockets that use
//! them. They are read at the start and again on HUP; connections that are open go on as they are.
#![expect(clippy::disallowed_methods, reason = "a shell: reads certificates, connects")]

use cluster::instance::Addr;
use cluster::tls::{Caller, Client, Fault, Identity, PEM_BYTES_MAX, Part, Server};
use hyper::Uri;
use hyper_util::client::legacy::connect::{Connected, Connection, HttpConnector};
use hyper_util::rt::TokioIo;
use rustls::{ClientConfig, ServerConfig};
use serde::Deserialize;
use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpStream, UnixStream};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;
use tokio::time::timeout;
use tokio_rustls::rustls::pki_types::ServerName;
use tokio_rustls::{TlsConnector, TlsStream};
use tower_service::Service;

/// An idle connection to another member is used again for so long: less than the other side keeps it (`door`).
pub const IDLE_LIMIT: Duration = Duration::from_secs(10);
/// A handshake takes a few round trips.
pub const HANDSHAKE_LIMIT: Duration = Duration::from_secs(5);

/// The section `tls:`, for the API and for the calls to other members and proxies.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Files {
    pub cert_file: Option<PathBuf>,
    pub key_file: Option<PathBuf>,
    pub client_ca_file: Option<PathBuf>,
    pub ca_file: Option<PathBuf>,
    pub server_name: Option<String>,
}

/// The section `instance_tls:`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct InstanceFiles {
    pub enabled: bool,
    pub ca_file: Option<PathBuf>,
    pub cert_file: Option<PathBuf>,
    pub key_file: Option<PathBuf>,
    pub server_name: Option<String>,
}

/// What the files come to.
#[derive(Debug, Clone, Default)]
pub struct Certificates {
    /// How the API meets callers; None: unencrypted, and so do the other members.
    server: Option<Arc<ServerConfig>>,
    /// How members and proxies are met that speak TLS.
    peers: Option<Caller>,
    /// How instances are met; None: unencrypted.
    instances: Option<Caller>,
}

impl Certificates {
    /// Reads and checks all files; the faults are ready to be shown.
    pub fn load(api: &Files, instances: &InstanceFiles) -> Result<Self, Vec<String>> {
        let mut faults = Vec::new();
        let mut desk = Desk { section: "tls", faults: &mut faults };
        let identity = desk.identity(api.cert_file.as_ref(), api.key_file.as_ref());
        let client_ca = desk.read("client_ca_file", api.client_ca_file.as_ref());
        let ca = desk.read("ca_file", api.ca_file.as_ref());
        if identity.is_some() && ca.is_none() && api.ca_file.is_none() {
            desk.fault("ca_file: say who signed the other members' certificates (and this one's)");
        }
        let server = identity.clone().map(|identity| Server { identity, client_ca });
        let server = server.and_then(|s| desk.good(s.config(), "client_ca_file"));
        let peers = ca.map(|ca| Client { ca, identity, server_name: api.server_name.clone() });
        let peers = peers.and_then(|c| desk.good(c.config(), "ca_file"));

        let mut desk = Desk { section: "instance_tls", faults: &mut faults };
        let identity = desk.identity(instances.cert_file.as_ref(), instances.key_file.as_ref());
        let ca = desk.read("ca_file", instances.ca_file.as_ref());
        if instances.enabled && instances.ca_file.is_none() {
            desk.fault("ca_file: say who signed the instances' certificates: nothing can be trusted without");
        }
        let caller = ca.map(|ca| Client { ca, identity, server_name: instances.server_name.clone() });
        let caller = caller.and_then(|c| desk.good(c.config(), "ca_file"));
        let all = Self { server, peers, instances: caller.filter(|_| instances.enabled) };
        if faults.is_empty() { Ok(all) } else { Err(faults) }
    }
}

/// Reads the files of one section.
struct Desk<'a> {
    section: &'static str,
    faults: &'a mut Vec<String>,
}

impl Desk<'_> {
    fn fault(&mut self, what: impl std::fmt::Display) {
        self.faults.push(format!("{}.{what}", self.section));
    }

    fn read(&mut self, key: &str, path: Option<&PathBuf>) -> Option<String> {
        let path = path?;
        match read_file(path) {
            Ok(text) => Some(text),
            Err(why) => {
                self.fault(format!("{key}: {}: {why}", path.display()));
                None
            }
        }
    }

    fn identity(&mut self, cert: Option<&PathBuf>, key: Option<&PathBuf>) -> Option<Identity> {
        if cert.is_some() != key.is_some() {
            self.fault("cert_file: certificate and key_file are of use only together");
        }
        let (cert, key) = (self.read("cert_file", cert), self.read("key_file", key));
        Some(Identity { cert: cert?, key: key? })
    }

    fn good<T>(&mut self, made: Result<T, Fault>, ca_key: &str) -> Option<T> {
        made.map_err(|fault| {
            let key = match fault.part {
                Part::Cert => "cert_file",
                Part::Key => "key_file",
                Part::Ca => ca_key,
                Part::ServerName => "server_name",
            };
            self.fault(format!("{key}: {}", fault.why));
        })
        .ok()
    }
}

fn read_file(path: &Path) -> Result<String, String> {
    let about = std::fs::metadata(path).map_err(|e| e.to_string())?;
    if !about.is_file() {
        return Err("is not a file".into());
    }
    if about.len() > PEM_BYTES_MAX as u64 {
        return Err(format!("{} bytes: at most {PEM_BYTES_MAX}; name only those that you need", about.len()));
    }
    std::fs::read_to_string(path).map_err(|e| e.to_string())
}

/// The certificates in force, for everybody who uses them; cheap to clone.
#[derive(Debug, Clone)]
pub struct Tls(watch::Receiver<Certificates>);

impl Default for Tls {
    /// Nothing is encrypted.
    fn default() -> Self {
        Self(watch::channel(Certificates::default()).1)
    }
}

impl Tls {
    /// These, until others are sent.
    pub fn new(first: Certificates) -> (watch::Sender<Certificates>, Self) {
        let (sender, receiver) = watch::channel(first);
        (sender, Self(receiver))
    }

    /// How members' addresses begin: they are all like this one.
    pub fn scheme(&self) -> &'static str {
        if self.0.borrow().server.is_some() { "https" } else { "http" }
    }

    pub fn server(&self) -> Option<Arc<ServerConfig>> {
        self.0.borrow().server.clone()
    }

    fn peer(&self, host: &str) -> io::Result<(Arc<ClientConfig>, ServerName<'static>)> {
        let peers = self.0.borrow().peers.clone();
        let peers = peers.ok_or_else(|| io::Error::other("https, and no `tls.ca_file` says whom to trust"))?;
        let name = peers.name_of(host).map_err(io::Error::other)?;
        Ok((peers.config, name))
    }

    /// How an instance is met; None: unencrypted.
    pub fn instance(&self, addr: SocketAddr) -> Option<(Arc<ClientConfig>, ServerName<'static>)> {
        let instances = self.0.borrow().instances.clone()?;
        let name = instances.name_at(addr.ip());
        Some((instances.config, name))
    }

    /// Connects to an instance; a unix socket is never encrypted. The caller bounds the time.
    pub async fn dial(&self, addr: &Addr) -> io::Result<Wire> {
        match addr {
            Addr::Unix(path) => Ok(Wire::Unix(UnixStream::connect(path).await?)),
            Addr::Tcp(tcp) => {
                let stream = TcpStream::connect(tcp).await?;
                stream.set_nodelay(true)?;
                match self.instance(*tcp) {
                    None => Ok(Wire::Tcp(stream)),
                    Some((config, name)) => Wire::encrypt(stream, config, name).await,
                }
            }
        }
    }
}

/// Reads the files again on each HUP, and tells the result. Where one will not do, the old certificates stay.
pub async fn renew_on_hup(
    renew: watch::Sender<Certificates>,
    (api, instances): (Files, InstanceFiles),
    tell: impl Fn(&'static str),
) {
    let Ok(mut hup) = signal(SignalKind::hangup()) else { return };
    while hup.recv().await.is_some() {
        match Certificates::load(&api, &instances) {
            Ok(new) => {
                renew.send_replace(new);
                tell("ok");
                tracing::info!("certificates read again");
            }
            Err(faults) => {
                tell("failed");
                tracing::error!(faults = faults.join("; "), "the old certificates stay");
            }
        }
    }
}

/// A connection of any kind.
#[derive(Debug)]
pub enum Wire {
    Tcp(TcpStream),
    Unix(UnixStream),
    Tls(Box<TlsStream<TcpStream>>),
}

impl Wire {
    async fn encrypt(stream: TcpStream, config: Arc<ClientConfig>, name: ServerName<'static>) -> io::Result<Self> {
        let stream = TlsConnector::from(config).connect(name, stream).await?;
        Ok(Self::Tls(Box::new(stream.into())))
    }
}

impl AsyncRead for Wire {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Tcp(stream) => Pin::new(stream).poll_read(cx, buf),
            Self::Unix(stream) => Pin::new(stream).poll_read(cx, buf),
            Self::Tls(stream) => Pin::new(stream.as_mut()).poll_read(cx, buf),
        }
    }
}

impl AsyncWrite for Wire {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Tcp(stream) => Pin::new(stream).poll_write(cx, buf),
            Self::Unix(stream) => Pin::new(stream).poll_write(cx, buf),
            Self::Tls(stream) => Pin::new(stream.as_mut()).poll_write(cx, buf),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Tcp(stream) => Pin::new(stream).poll_flush(cx),
            Self::Unix(stream) => Pin::new(stream).poll_flush(cx),
            Self::Tls(stream) => Pin::new(stream.as_mut()).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Tcp(stream) => Pin::new(stream).poll_shutdown(cx),
            Self::Unix(stream) => Pin::new(stream).poll_shutdown(cx),
            Self::Tls(stream) => Pin::new(stream.as_mut()).poll_shutdown(cx),
        }
    }
}

/// A `Wire` as hyper's client wants it.
#[derive(Debug)]
pub struct Line(TokioIo<Wire>);

impl Connection for Line {
    fn connected(&self) -> Connected {
        Connected::new()
    }
}

impl hyper::rt::Read for Line {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: hyper::rt::ReadBufCursor<'_>,
    ) -> Poll<io::Result<()>> {
        hyper::rt::Read::poll_read(Pin::new(&mut self.get_mut().0), cx, buf)
    }
}

impl hyper::rt::Write for Line {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        hyper::rt::Write::poll_write(Pin::new(&mut self.get_mut().0), cx, buf)
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        hyper::rt::Write::poll_flush(Pin::new(&mut self.get_mut().0), cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        hyper::rt::Write::poll_shutdown(Pin::new(&mut self.get_mut().0), cx)
    }
}

/// Connects to members and proxies, encrypted where the address says https.
#[derive(Debug, Clone)]
pub struct Dialer {
    http: HttpConnector,
    tls: Tls,
}

impl Dialer {
    /// Whoever takes longer to accept is not there.
    pub fn new(limit: Duration, tls: Tls) -> Self {
        let mut http = HttpConnector::new();
        http.enforce_http(false);
        http.set_connect_timeout(Some(limit));
        http.set_nodelay(true);
        Self { http, tls }
    }
}

impl Service<Uri> for Dialer {
    type Response = Line;
    type Error = io::Error;
    type Future = Pin<Box<dyn Future<Output = io::Result<Line>> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.http.poll_ready(cx).map_err(io::Error::other)
    }

    fn call(&mut self, uri: Uri) -> Self::Future {
        let https = uri.scheme_str() == Some("https");
        let host = uri.host().unwrap_or_default().to_owned();
        let (connecting, tls) = (self.http.call(uri), self.tls.clone());
        Box::pin(async move {
            let stream = connecting.await.map_err(io::Error::other)?.into_inner();
            if !https {
                return Ok(Line(TokioIo::new(Wire::Tcp(stream))));
            }
            let (config, name) = tls.peer(&host)?;
            let wire = timeout(HANDSHAKE_LIMIT, Wire::encrypt(stream, config, name)).await;
            Ok(Line(TokioIo::new(wire.map_err(|_| io::Error::from(io::ErrorKind::TimedOut))??)))
        })
    }
}
