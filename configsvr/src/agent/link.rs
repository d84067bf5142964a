//! A connection to an instance, for a few commands.

use crate::config::Secret;
use crate::tls::Tls;
use cluster::instance::Addr;
use redis::aio::MultiplexedConnection;
use redis::{AsyncConnectionConfig, Client, ConnectionAddr, IntoConnectionInfo, RedisConnectionInfo};
use std::time::Duration;

/// One call takes no longer; a healthy instance needs less than a millisecond, a stalled one is not worth waiting for.
const CALL_TIMEOUT: Duration = Duration::from_secs(2);

/// How to speak to instances.
#[derive(Debug, Clone, Default)]
pub struct Access {
    pub user: Option<String>,
    pub password: Option<Secret>,
    pub tls: Tls,
}

/// Connects; the error says where and why.
pub async fn connect(addr: &Addr, access: &Access) -> Result<MultiplexedConnection, String> {
    let place = match addr {
        Addr::Tcp(addr) => ConnectionAddr::Tcp(addr.ip().to_string(), addr.port()),
        Addr::Unix(path) => ConnectionAddr::Unix(path.clone()),
    };
    let mut login = RedisConnectionInfo::default();
    if let Some(user) = &access.user {
        login = login.set_username(user);
    }
    if let Some(password) = &access.password {
        login = login.set_password(password.reveal());
    }
    let limits = AsyncConnectionConfig::new()
        .set_connection_timeout(Some(CALL_TIMEOUT))
        .set_response_timeout(Some(CALL_TIMEOUT));
    if let Addr::Tcp(tcp) = addr
        && access.tls.instance(*tcp).is_some()
    {
        return encrypted(addr, access, &login, limits).await;
    }
    let info = place.into_connection_info().map_err(said)?.set_redis_settings(login);
    let client = Client::open(info).map_err(said)?;
    client.get_multiplexed_async_connection_with_config(&limits).await.map_err(said)
}

/// As `connect`, over TLS of ours.
async fn encrypted(
    addr: &Addr,
    access: &Access,
    login: &RedisConnectionInfo,
    limits: AsyncConnectionConfig,
) -> Result<MultiplexedConnection, String> {
    let connecting = async {
        let wire = access.tls.dial(addr).await.map_err(|e| e.to_string())?;
        MultiplexedConnection::new_with_config(login, wire, limits).await.map_err(said)
    };
    let connected = tokio::time::timeout(CALL_TIMEOUT, connecting).await;
    let (connection, driver) = connected.map_err(|_| "no connection in time".to_owned())??;
    tokio::spawn(driver); // ends with the connection
    Ok(connection)
}

/// The library's words on one line.
#[expect(clippy::needless_pass_by_value, reason = "for map_err")]
pub(super) fn said(error: redis::RedisError) -> String {
    error.to_string().replace(['\r', '\n'], " ")
}
