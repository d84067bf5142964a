//! The configuration of a configsvr: `conf/configsvr.yml`, where every key is explained.
#![expect(clippy::disallowed_methods, reason = "a shell: reads files")]

use crate::consensus::{ELECTION_MAX_MS, ELECTION_MIN_MS, HEARTBEAT_MS, HEARTBEATS_MIN};
use crate::control::limits::{HANG_MS, HANG_RANGE_MS};
use crate::log::LogSettings;
use crate::store::etcd;
use crate::tls::{Certificates, Files, InstanceFiles};
use serde::Deserialize;
use std::collections::BTreeSet;
use std::fmt;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

/// What the file says, with defaults for what it does not. Checked as a whole.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// This member's name; one of `members`.
    pub name: String,
    #[serde(default = "listen_default")]
    pub listen: SocketAddr,
    pub data_dir: PathBuf,
    pub members: Vec<Member>,
    /// Do not found a control plane: wait to be added to one through its API.
    #[serde(default)]
    pub join: bool,
    #[serde(default)]
    pub peer_token: Option<Secret>,
    #[serde(default)]
    pub peer_token_file: Option<PathBuf>,
    #[serde(default)]
    pub tokens: Vec<ApiToken>,
    #[serde(default)]
    pub proxy_token: Option<Secret>,
    #[serde(default)]
    pub proxy_token_file: Option<PathBuf>,
    #[serde(default)]
    pub instance_user: Option<String>,
    #[serde(default)]
    pub instance_password: Option<Secret>,
    #[serde(default)]
    pub instance_password_file: Option<PathBuf>,
    #[serde(default)]
    pub tls: Files,
    #[serde(default)]
    pub instance_tls: InstanceFiles,
    #[serde(default)]
    pub raft: Raft,
    #[serde(default)]
    pub failover: Failover,
    #[serde(default)]
    pub store: Store,
    #[serde(default)]
    pub log: LogSettings,
}

/// One member of the control plane, the same list in every member's file.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Member {
    /// From 1; never used again for another machine.
    pub id: u64,
    pub name: String,
    /// Where others reach its API.
    pub addr: SocketAddr,
}

/// Who may use the API. The token itself is not in the file.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ApiToken {
    /// Written into the audit.
    pub name: String,
    pub role: Role,
    /// Of the token's bytes, 64 hex digits.
    pub sha256: String,
}

/// What a token allows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// Look at everything.
    Read,
    /// Fetch the topology and send heartbeats.
    Proxy,
    /// Everything.
    Admin,
}

/// Timings of the election, in milliseconds.
#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Raft {
    pub heartbeat_ms: u64,
    pub election_min_ms: u64,
    pub election_max_ms: u64,
}

impl Default for Raft {
    fn default() -> Self {
        Self { heartbeat_ms: HEARTBEAT_MS, election_min_ms: ELECTION_MIN_MS, election_max_ms: ELECTION_MAX_MS }
    }
}

/// When an instance is taken for dead.
#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Failover {
    /// Owing an answer for so long, in milliseconds; a group may have its own.
    pub hang_ms: u64,
}

impl Default for Failover {
    fn default() -> Self {
        Self { hang_ms: HANG_MS }
    }
}

/// Where the truth lives.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "lowercase")]
pub enum Store {
    /// In the members themselves.
    #[default]
    Embedded,
    Etcd(Box<etcd::Options>),
}

/// Text that is never shown.
#[derive(Clone, PartialEq, Eq, Deserialize)]
#[serde(transparent)]
pub struct Secret(String);

impl Secret {
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    pub fn reveal(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

fn listen_default() -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], 6390))
}

/// More members make every write slower and no cluster safer: 7 survive three deaths.
const MEMBERS_MAX: usize = 7;
const TOKENS_MAX: usize = 64;
/// A shorter one can be guessed.
const SECRET_BYTES_MIN: usize = 16;

/// Reads and checks the file; the faults are ready to be shown, all at once.
pub fn load(path: &Path) -> Result<Config, Vec<String>> {
    let text = std::fs::read_to_string(path).map_err(|e| vec![format!("cannot read: {e}")])?;
    parse(&text)
}

/// As `load`, of a text.
pub fn parse(text: &str) -> Result<Config, Vec<String>> {
    let mut config: Config = serde_saphyr::from_str(text).map_err(|e| vec![e.to_string()])?;
    let mut faults = Vec::new();
    config.read_secrets(&mut faults);
    config.check(&mut faults);
    if faults.is_empty() { Ok(config) } else { Err(faults) }
}

impl Config {
    /// This member, as the others see it.
    pub fn me(&self) -> Option<&Member> {
        self.members.iter().find(|m| m.name == self.name)
    }

    /// What the files of `tls` and `instance_tls` hold now.
    pub fn certificates(&self) -> Result<Certificates, Vec<String>> {
        Certificates::load(&self.tls, &self.instance_tls)
    }

    fn read_secrets(&mut self, faults: &mut Vec<String>) {
        let pairs = [
            ("peer_token", &mut self.peer_token, &self.peer_token_file),
            ("proxy_token", &mut self.proxy_token, &self.proxy_token_file),
            ("instance_password", &mut self.instance_password, &self.instance_password_file),
        ];
        for (name, secret, file) in pairs {
            let Some(file) = file else { continue };
            if secret.is_some() {
                faults.push(format!("{name}: given twice, here and by {name}_file"));
                continue;
            }
            match std::fs::read_to_string(file) {
                Ok(text) => *secret = text.lines().next().filter(|l| !l.is_empty()).map(Secret::new),
                Err(e) => faults.push(format!("{name}_file: {}: {e}", file.display())),
            }
        }
    }

    fn check(&self, faults: &mut Vec<String>) {
        self.check_members(faults);
        self.check_doors(faults);
        faults.extend(self.certificates().err().unwrap_or_default());
        for token in &self.tokens {
            if token.sha256.len() != 64 || !token.sha256.bytes().all(|b| b.is_ascii_hexdigit()) {
                let name = &token.name;
                faults.push(format!("tokens: {name}: sha256 must be 64 hex digits: printf %s TOKEN | sha256sum"));
            }
        }
        if self.tokens.len() > TOKENS_MAX {
            faults.push(format!("tokens: {}: at most {TOKENS_MAX}", self.tokens.len()));
        }
        let raft = self.raft;
        if raft.heartbeat_ms < 20 || raft.election_min_ms / HEARTBEATS_MIN < raft.heartbeat_ms {
            faults
                .push(format!("raft: heartbeat_ms at least 20, election_min_ms at least {HEARTBEATS_MIN} times that"));
        }
        if raft.election_max_ms <= raft.election_min_ms {
            faults.push("raft: election_max_ms must be more than election_min_ms, so that members do not tie".into());
        }
        if !HANG_RANGE_MS.contains(&self.failover.hang_ms) {
            let (least, most) = HANG_RANGE_MS.into_inner();
            faults.push(format!("failover: hang_ms {}: from {least} to {most}", self.failover.hang_ms));
        }
        if self.instance_user.is_some() && self.instance_password.is_none() {
            faults.push("instance_user: a user without instance_password or instance_password_file".into());
        }
    }

    fn check_members(&self, faults: &mut Vec<String>) {
        if self.me().is_none() {
            let names: Vec<_> = self.members.iter().map(|m| m.name.as_str()).collect();
            faults.push(format!("name: {:?} is not one of the members: {}", self.name, names.join(", ")));
        }
        if self.members.len() > MEMBERS_MAX {
            faults.push(format!("members: {}: at most {MEMBERS_MAX}", self.members.len()));
        }
        let (mut ids, mut names, mut addrs) = (BTreeSet::new(), BTreeSet::new(), BTreeSet::new());
        for member in &self.members {
            if member.id == 0 {
                faults.push(format!("members: {}: ids start at 1", member.name));
            }
            let new = (ids.insert(member.id), names.insert(&member.name), addrs.insert(member.addr));
            if new != (true, true, true) {
                faults.push(format!("members: {}: id, name and addr must be this member's alone", member.name));
            }
        }
    }

    /// What other machines reach needs a token.
    fn check_doors(&self, faults: &mut Vec<String>) {
        let open = !self.listen.ip().is_loopback();
        if open && self.tokens.is_empty() {
            faults.push(format!("listen: other machines reach {}: name who may use it in `tokens`", self.listen));
        }
        if (self.members.len() > 1 || self.join) && self.peer_token.is_none() {
            faults.push(
                "peer_token: members know each other by it: give all of them the same, or peer_token_file".into(),
            );
        }
        if self.peer_token.as_ref().is_some_and(|t| t.reveal().len() < SECRET_BYTES_MIN) {
            faults.push(format!("peer_token: at least {SECRET_BYTES_MIN} characters: openssl rand -hex 32"));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = "
name: a
data_dir: /tmp/a
members:
  - {id: 1, name: a, addr: 127.0.0.1:6390}
";

    #[test]
    fn little_is_enough() {
        let config = parse(GOOD).expect("good");
        assert_eq!((config.listen, config.raft.heartbeat_ms), (listen_default(), 100));
        assert!(matches!(config.store, Store::Embedded));
        assert_eq!(config.me().map(|m| m.id), Some(1));
        let hasty = format!("{GOOD}raft: {{heartbeat_ms: 100, election_min_ms: 300, election_max_ms: 301}}\n");
        assert!(parse(&hasty).is_ok());
    }

    #[test]
    fn every_fault_is_said() {
        for (text, word) in [
            ("nme: a\n", "nme"),
            ("data_dir: x\nmembers: []\n", "name"),
            ("name: b\ndata_dir: x\nmembers: [{id: 1, name: a, addr: 127.0.0.1:1}]\n", "not one of the members: a"),
            (&format!("{GOOD}listen: 0.0.0.0:6390\n"), "tokens"),
            (&format!("{GOOD}  - {{id: 2, name: c, addr: 127.0.0.1:6391}}\n"), "peer_token"),
            (&format!("{GOOD}tokens: [{{name: x, role: admin, sha256: abc}}]\n"), "sha256sum"),
            (&format!("{GOOD}raft: {{heartbeat_ms: 100, election_min_ms: 150, election_max_ms: 300}}\n"), "3 times"),
            (&format!("{GOOD}raft: {{heartbeat_ms: 100, election_min_ms: 299, election_max_ms: 400}}\n"), "3 times"),
            (&format!("{GOOD}  - {{id: 1, name: c, addr: 127.0.0.1:6391}}\n"), "alone"),
            (&format!("{GOOD}proxy_token_file: /nowhere/token\n"), "/nowhere/token"),
            (&format!("{GOOD}failover: {{hang_ms: 100}}\n"), "from 500 to 60000"),
        ] {
            let faults = parse(text).expect_err(text).join("\n");
            assert!(faults.contains(word), "{word:?} not in {faults}");
        }
    }

    /// Tells which keys a struct takes: it is asked for them, and gives no value.
    struct Asked<'a>(&'a mut &'static [&'static str]);

    impl<'de> serde::Deserializer<'de> for Asked<'_> {
        type Error = serde::de::value::Error;

        fn deserialize_any<V: serde::de::Visitor<'de>>(self, _: V) -> Result<V::Value, Self::Error> {
            Err(serde::de::Error::custom("no struct"))
        }

        fn deserialize_struct<V: serde::de::Visitor<'de>>(
            self,
            _: &'static str,
            fields: &'static [&'static str],
            _: V,
        ) -> Result<V::Value, Self::Error> {
            *self.0 = fields;
            Err(serde::de::Error::custom("that is all"))
        }

        serde::forward_to_deserialize_any! {
            bool i8 i16 i32 i64 u8 u16 u32 u64 f32 f64 char str string bytes byte_buf option unit unit_struct
            newtype_struct seq tuple tuple_struct map enum identifier ignored_any
        }
    }

    fn keys<T: serde::de::DeserializeOwned>() -> &'static [&'static str] {
        let mut keys: &[&str] = &[];
        T::deserialize(Asked(&mut keys)).err().expect("no value was given");
        assert!(!keys.is_empty(), "no struct");
        keys
    }

    #[test]
    fn the_file_we_ship_explains_every_key() {
        const SHIPPED: &str = include_str!("../../conf/configsvr.yml");
        let between = |from: &str, to: &str| {
            let text = SHIPPED.split_once(from).unwrap_or_else(|| panic!("no {from:?}")).1;
            text.split_once(to).map_or(text, |(section, _)| section)
        };
        let etcd = between("\n#  etcd:\n", "\nlog:\n");
        let sections = [
            (SHIPPED, keys::<Config>()),
            (between("\nmembers:\n", "\n#"), keys::<Member>()),
            (between("\ntokens: []\n", "\n\n"), keys::<ApiToken>()),
            (between("\nraft:\n", "\n\n"), keys::<Raft>()),
            (between("\nlog:\n", "\n\n"), keys::<LogSettings>()),
            (between("\ntls:\n", "\n\n"), keys::<Files>()),
            (between("\ninstance_tls:\n", "\n\n"), keys::<InstanceFiles>()),
            (etcd, keys::<etcd::Options>()),
            (between("\n#    tls:\n", "\n#    #"), keys::<etcd::Tls>()),
        ];
        for (section, keys) in sections {
            for key in keys {
                let here = |line: &str| {
                    let words = line.trim_start_matches(['#', ' ', '-', '{']).split([',', '{', ' ']);
                    !line.trim_start_matches(['#', ' ']).is_empty() && words.into_iter().any(|w| w == format!("{key}:"))
                };
                assert!(section.lines().any(here), "conf/configsvr.yml says nothing of `{key}`");
            }
        }
        // What stands there as an example works, and what stands as a default is the default.
        let example: String = etcd.lines().map(|l| l.trim_start_matches('#').to_owned() + "\n").collect();
        let example = example.replace("    password: secret\n", "");
        let options: etcd::Options = serde_saphyr::from_str(&example).expect("the example");
        let usual = etcd::Options::new(vec![]);
        assert_eq!((&options.prefix, options.timeout_ms), (&usual.prefix, usual.timeout_ms));
        options.check().expect("the example");
        parse(SHIPPED).expect("the file");
    }

    #[test]
    fn secrets_are_never_shown() {
        let config = parse(&format!("{GOOD}peer_token: abcdefghijklmnopqrst\n")).expect("good");
        assert!(!format!("{config:?}").contains("abcdefghijkl"));
    }
}
