//! How to reach etcd: what stands in configsvr.yml under `store: etcd`.

#![expect(clippy::disallowed_methods, reason = "a shell: reads certificates and the password's file")]

use anyhow::{Context, Result, ensure};
use etcd_client::{Certificate, ConnectOptions, Identity, TlsOptions};
use serde::Deserialize;
use std::fmt;
use std::path::{Path, PathBuf};
use std::time::Duration;

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Options {
    /// `host:port`, or with `http://` or `https://`. Those of all members, so that any of them may die.
    pub endpoints: Vec<String>,
    /// Before all keys, so that several clusters share one etcd.
    #[serde(default = "prefix_default")]
    pub prefix: String,
    #[serde(default)]
    pub user: Option<String>,
    #[serde(default)]
    pub password: Option<Secret>,
    /// Holds the password and nothing else. Read at each connection, so that it may change.
    #[serde(default)]
    pub password_file: Option<PathBuf>,
    #[serde(default)]
    pub tls: Option<Tls>,
    /// How long one endpoint may take for one call. etcd answers in milliseconds, and takes as long as its disk: a second
    /// is a disk in trouble, or a machine that is frozen or gone. Whole calls take up to three seconds, and one such time.
    #[serde(default = "timeout_default")]
    pub timeout_ms: u64,
}

/// PEM files. All may be left out: then the endpoint's certificate must be signed by `ca`, or nothing can be reached.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Tls {
    /// Who signed the certificates of etcd.
    pub ca: PathBuf,
    /// Our own, where etcd wants one (`--client-cert-auth`).
    #[serde(default)]
    pub cert: Option<PathBuf>,
    #[serde(default)]
    pub key: Option<PathBuf>,
    /// The name in etcd's certificates, where it is not the endpoint's.
    #[serde(default)]
    pub domain: Option<String>,
}

/// Not to be seen in logs.
#[derive(Clone, PartialEq, Eq, Deserialize)]
#[serde(transparent)]
pub struct Secret(pub String);

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("(secret)")
    }
}

fn prefix_default() -> String {
    "/redis-cluster".to_owned()
}

fn timeout_default() -> u64 {
    1000
}

impl Options {
    /// With defaults.
    pub fn new(endpoints: Vec<String>) -> Self {
        let (prefix, timeout_ms) = (prefix_default(), timeout_default());
        Self { endpoints, prefix, user: None, password: None, password_file: None, tls: None, timeout_ms }
    }

    pub fn check(&self) -> Result<()> {
        ensure!(!self.endpoints.is_empty(), "etcd: no endpoints: name those of all its members");
        ensure!(!self.prefix.trim_matches('/').is_empty(), "etcd: the prefix is empty: choose one, as /redis-cluster");
        ensure!(self.timeout_ms >= 10, "etcd: timeout_ms is {}: at least 10", self.timeout_ms);
        let (inline, file) = (self.password.is_some(), self.password_file.is_some());
        ensure!(!(inline && file), "etcd: password and password_file: one of them is enough");
        ensure!(
            self.user.is_some() == (inline || file),
            "etcd: a user needs a password (or password_file), and it a user"
        );
        if let Some(tls) = &self.tls {
            ensure!(tls.cert.is_some() == tls.key.is_some(), "etcd: tls: cert and key go together");
            let plain = self.endpoints.iter().find(|endpoint| endpoint.starts_with("http://"));
            ensure!(plain.is_none(), "etcd: tls is on, but endpoint {} begins with http://", plain.map_or("", |e| e));
        }
        let bare = self.endpoints.iter().find(|endpoint| self.tls.is_none() && endpoint.starts_with("https://"));
        ensure!(bare.is_none(), "etcd: endpoint {} needs tls: name at least its ca", bare.map_or("", |e| e));
        Ok(())
    }

    pub(super) fn timeout(&self) -> Duration {
        Duration::from_millis(self.timeout_ms)
    }

    /// Without a slash at the end.
    pub(super) fn prefix(&self) -> &str {
        self.prefix.trim_end_matches('/')
    }

    /// For one connection. Reads files: blocks.
    pub(super) fn connect(&self) -> Result<ConnectOptions> {
        let timeout = self.timeout();
        // Pings find an endpoint that is frozen or gone under a watch, which may be silent for hours.
        let mut options = ConnectOptions::new()
            .with_timeout(timeout)
            .with_connect_timeout(timeout)
            .with_keep_alive(2 * timeout, timeout)
            .with_keep_alive_while_idle(true)
            .with_require_leader(true)
            .with_auto_token_refresh(true);
        if let Some((user, password)) = self.user.as_ref().zip(self.password()?) {
            options = options.with_user(user, password);
        }
        if let Some(tls) = &self.tls {
            options = options.with_tls(tls.options()?);
        }
        Ok(options)
    }

    fn password(&self) -> Result<Option<String>> {
        match (&self.password, &self.password_file) {
            (Some(secret), _) => Ok(Some(secret.0.clone())),
            (None, Some(file)) => Ok(Some(String::from_utf8(read(file)?)?.trim_end_matches(['\r', '\n']).to_owned())),
            (None, None) => Ok(None),
        }
    }
}

impl Tls {
    fn options(&self) -> Result<TlsOptions> {
        let mut tls = TlsOptions::new().ca_certificate(Certificate::from_pem(read(&self.ca)?));
        if let Some((cert, key)) = self.cert.as_ref().zip(self.key.as_ref()) {
            tls = tls.identity(Identity::from_pem(read(cert)?, read(key)?));
        }
        if let Some(domain) = &self.domain {
            tls = tls.domain_name(domain);
        }
        Ok(tls)
    }
}

fn read(path: &Path) -> Result<Vec<u8>> {
    std::fs::read(path).with_context(|| format!("etcd: {} cannot be read", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options(change: impl FnOnce(&mut Options)) -> Result<()> {
        let mut options = Options::new(vec!["127.0.0.1:2379".to_owned()]);
        change(&mut options);
        options.check()
    }

    #[test]
    fn what_cannot_work_is_refused_at_once() {
        assert!(options(|_| ()).is_ok());
        type Change = fn(&mut Options);
        let wrong: [(&str, Change); 7] = [
            ("no endpoints", |o| o.endpoints.clear()),
            ("prefix", |o| o.prefix = "/".to_owned()),
            ("a user needs", |o| o.user = Some("me".to_owned())),
            ("a user needs", |o| o.password = Some(Secret("x".to_owned()))),
            ("needs tls", |o| o.endpoints.push("https://a:1".to_owned())),
            ("http://", |o| {
                o.tls = Some(Tls::default());
                o.endpoints.push("http://a:1".to_owned());
            }),
            ("cert and key", |o| o.tls = Some(Tls { cert: Some("a".into()), ..Tls::default() })),
        ];
        for (word, change) in wrong {
            let fault = options(change).expect_err(word);
            assert!(fault.to_string().contains(word), "{fault}");
        }
    }

    #[test]
    fn yaml_has_defaults_and_no_strangers_and_hides_the_password() {
        let parse = |text| serde_saphyr::from_str::<Options>(text);
        let options = parse("endpoints: [a:1]\nuser: u\npassword: geheim\n").unwrap();
        assert_eq!((options.prefix(), options.timeout_ms), ("/redis-cluster", 1000));
        assert!(!format!("{options:?}").contains("geheim"));
        assert!(parse("endpoints: [a:1]\nendpoint: b\n").is_err());
    }
}
