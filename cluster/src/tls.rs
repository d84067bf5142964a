//! Who we are and whom we trust on encrypted connections, out of PEM texts: checked here once, for both programs. TLS 1.2
//! and 1.3, by rustls. Reading files and moving bytes is the shells' business.

use rustls::client::{ClientConfig, WebPkiServerVerifier};
use rustls::crypto::{CryptoProvider, ring};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::server::{ServerConfig, WebPkiClientVerifier};
use rustls::{ConfigBuilder, ConfigSide, RootCertStore, WantsVerifier};
use serde::{Deserialize, Serialize};
use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

/// Bytes of one PEM file. Chains and the few authorities of one's own are a tenth of it, and all of them together go into
/// one letter from a master to a worker.
pub const PEM_BYTES_MAX: usize = 64 << 10;

/// Which of the texts is at fault.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Part {
    Cert,
    Key,
    Ca,
    ServerName,
}

/// What is wrong with a text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fault {
    pub part: Part,
    pub why: String,
}

impl Fault {
    fn new(part: Part, why: impl Into<String>) -> Self {
        Self { part, why: why.into() }
    }
}

/// A certificate, those that vouch for it, and its key.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Identity {
    pub cert: String,
    pub key: String,
}

/// Without the key.
impl fmt::Debug for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Identity(***)")
    }
}

impl Identity {
    fn parse(&self) -> Result<(Vec<CertificateDer<'static>>, PrivateKeyDer<'static>), Fault> {
        let chain = certificates(&self.cert, Part::Cert)?;
        let key = PrivateKeyDer::from_pem_slice(self.key.as_bytes());
        let key =
            key.map_err(|_| Fault::new(Part::Key, "no private key in it that is not encrypted (PEM is expected)"))?;
        Ok((chain, key))
    }
}

/// How a listener meets those who connect.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Server {
    pub identity: Identity,
    /// Who must have signed the certificates of those who connect; None: they need none.
    pub client_ca: Option<String>,
}

impl Server {
    /// The same for rustls. Errors: a text is no certificate or key, or the two do not belong together.
    pub fn config(&self) -> Result<Arc<ServerConfig>, Fault> {
        let builder = versions(ServerConfig::builder_with_provider(provider()))?;
        let builder = match &self.client_ca {
            None => builder.with_no_client_auth(),
            Some(ca) => {
                let verifier = WebPkiClientVerifier::builder_with_provider(authorities(ca)?, provider()).build();
                builder.with_client_cert_verifier(verifier.map_err(|e| Fault::new(Part::Ca, e.to_string()))?)
            }
        };
        let (chain, key) = self.identity.parse()?;
        Ok(Arc::new(builder.with_single_cert(chain, key).map_err(|e| unusable(&e))?))
    }
}

/// How we connect to others.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Client {
    /// Who must have signed their certificates.
    pub ca: String,
    /// What we show where we are asked.
    pub identity: Option<Identity>,
    /// The name their certificates must have; None: the address or name by which we connect.
    pub server_name: Option<String>,
}

impl Client {
    /// The same for rustls. Errors as of `Server::config`.
    pub fn config(&self) -> Result<Caller, Fault> {
        let builder = versions(ClientConfig::builder_with_provider(provider()))?;
        let verifier = WebPkiServerVerifier::builder_with_provider(authorities(&self.ca)?, provider()).build();
        let builder = builder.with_webpki_verifier(verifier.map_err(|e| Fault::new(Part::Ca, e.to_string()))?);
        let config = match &self.identity {
            None => builder.with_no_client_auth(),
            Some(identity) => {
                let (chain, key) = identity.parse()?;
                builder.with_client_auth_cert(chain, key).map_err(|e| unusable(&e))?
            }
        };
        let name = |name: &String| ServerName::try_from(name.clone());
        let server_name = self.server_name.as_ref().map(name).transpose();
        let server_name = server_name.map_err(|e| Fault::new(Part::ServerName, e.to_string()))?;
        Ok(Caller { config: Arc::new(config), server_name })
    }
}

/// What is needed to connect to others.
#[derive(Debug, Clone)]
pub struct Caller {
    pub config: Arc<ClientConfig>,
    server_name: Option<ServerName<'static>>,
}

impl Caller {
    /// The name that the certificate of who is reached at this address must have.
    pub fn name_at(&self, ip: IpAddr) -> ServerName<'static> {
        self.server_name.clone().unwrap_or_else(|| ip.into())
    }

    /// The same for a host's name, or an address as text. Errors: it is neither.
    pub fn name_of(&self, host: &str) -> Result<ServerName<'static>, String> {
        let host = host.trim_start_matches('[').trim_end_matches(']');
        let named = || ServerName::try_from(host.to_owned()).map_err(|_| format!("{host:?} is no host's name"));
        self.server_name.clone().map_or_else(named, Ok)
    }
}

fn provider() -> Arc<CryptoProvider> {
    Arc::new(ring::default_provider())
}

fn versions<S: ConfigSide>(
    builder: ConfigBuilder<S, rustls::WantsVersions>,
) -> Result<ConfigBuilder<S, WantsVerifier>, Fault> {
    builder.with_safe_default_protocol_versions().map_err(|e| Fault::new(Part::Cert, e.to_string()))
}

fn certificates(pem: &str, part: Part) -> Result<Vec<CertificateDer<'static>>, Fault> {
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem.as_bytes()).collect();
    match found {
        Ok(found) if found.is_empty() => Err(Fault::new(part, "no certificate in it (PEM is expected)")),
        Ok(found) => Ok(found),
        Err(e) => Err(Fault::new(part, format!("not PEM: {e}"))),
    }
}

fn authorities(pem: &str) -> Result<Arc<RootCertStore>, Fault> {
    let mut roots = RootCertStore::empty();
    for one in certificates(pem, Part::Ca)? {
        roots.add(one).map_err(|e| Fault::new(Part::Ca, e.to_string()))?;
    }
    Ok(Arc::new(roots))
}

/// Certificate and key are PEM; together they are no identity.
fn unusable(e: &rustls::Error) -> Fault {
    match e {
        rustls::Error::InconsistentKeys(_) => Fault::new(Part::Key, "is not the key of the certificate"),
        rustls::Error::InvalidCertificate(_) => Fault::new(Part::Cert, e.to_string()),
        _ => Fault::new(Part::Key, e.to_string()),
    }
}
