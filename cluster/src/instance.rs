//! An instance: one Redis server process, known by its address.

use serde::{Deserialize, Serialize};
use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::str::FromStr;

/// Where an instance listens: `10.0.0.1:6379`, `[::1]:6379`, `localhost:6379` or `unix:/run/redis.sock`.
///
/// Other host names are refused: a worker must never wait for a name server.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum Addr {
    Tcp(SocketAddr),
    Unix(PathBuf),
}

impl FromStr for Addr {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if let Some(path) = text.strip_prefix("unix:") {
            return if path.starts_with('/') {
                Ok(Self::Unix(path.into()))
            } else {
                Err(format!("{text:?}: a unix socket needs an absolute path, as unix:/run/redis.sock"))
            };
        }
        let numeric = text.strip_prefix("localhost:").map(|port| format!("127.0.0.1:{port}"));
        match numeric.as_deref().unwrap_or(text).parse::<SocketAddr>() {
            Ok(addr) if addr.port() != 0 => Ok(Self::Tcp(addr)),
            Ok(_) => Err(format!("{text:?}: port 0 is not an address to connect to")),
            Err(_) => Err(format!("{text:?} is not an address: write IP:PORT, [IPV6]:PORT or unix:/PATH")),
        }
    }
}

impl fmt::Display for Addr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(addr) => addr.fmt(f),
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

impl TryFrom<String> for Addr {
    type Error = String;
    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

impl From<Addr> for String {
    fn from(addr: Addr) -> Self {
        addr.to_string()
    }
}

/// What an instance is to its group.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// Takes the group's writes. `master` is accepted when reading.
    #[serde(alias = "master")]
    Primary,
    /// Follows the primary. `slave` is accepted when reading.
    #[serde(alias = "slave")]
    Replica,
}

/// One Redis server process of a group.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Instance {
    pub addr: Addr,
    pub role: Role,
    /// Redis's `run_id`, where it is known: a link to a process with another one is not used.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub run_id: Option<String>,
    /// Where it stands, for people and for the choice of a replica.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub zone: Option<String>,
}
