//! A look at an instance: what it is, whom it follows, whether it holds keys.

use super::link::{self, Access};
use crate::control::command::Seen;
use cluster::instance::{Addr, Role};
use futures_util::future::join_all;
use std::collections::BTreeMap;

/// Looks at all of them at once. An error says why an instance could not be looked at.
pub async fn probe_all(addrs: Vec<Addr>, access: &Access) -> Vec<(Addr, Result<Seen, String>)> {
    join_all(addrs.into_iter().map(|addr| async move {
        let seen = probe(&addr, access).await;
        (addr, seen)
    }))
    .await
}

async fn probe(addr: &Addr, access: &Access) -> Result<Seen, String> {
    let mut link = link::connect(addr, access).await?;
    let text: String = redis::cmd("INFO").query_async(&mut link).await.map_err(link::said)?;
    let mut seen = read(addr, &text)?;
    // Codis built its own on a Redis 3.2, and calls it that.
    if seen.server == "redis" && seen.version.starts_with("3.") {
        let asked: Result<(), _> = redis::cmd("SLOTSMGRTONE").query_async(&mut link).await;
        if asked.is_err_and(|e| e.to_string().contains("wrong number of arguments")) {
            "codis".clone_into(&mut seen.server);
        }
    }
    Ok(seen)
}

/// Reads what INFO says. Pika, Kvrocks and others leave sections out: then the plainest is assumed.
fn read(addr: &Addr, info: &str) -> Result<Seen, String> {
    let fields: BTreeMap<&str, &str> = info.lines().filter_map(|l| l.trim_end().split_once(':')).collect();
    let field = |name: &str| fields.get(name).copied().unwrap_or_default();
    let run_id = field("run_id");
    if run_id.is_empty() {
        return Err("INFO names no run_id: is this a Redis server?".into());
    }
    let follows = match field("role") {
        "slave" | "replica" => Some(format!("{}:{}", field("master_host"), field("master_port"))),
        _ => None,
    };
    let (server, version) = server_of(&fields);
    let mut keys = 0;
    let mut other_databases = 0;
    for (name, value) in &fields {
        let Some(number) = name.strip_prefix("db").and_then(|n| n.parse::<u32>().ok()) else { continue };
        let held = value.split(',').find_map(|part| part.trim().strip_prefix("keys=")?.parse::<u64>().ok());
        keys += held.unwrap_or(0);
        other_databases += u64::from(number != 0 && held.unwrap_or(0) > 0);
    }
    Ok(Seen {
        addr: addr.clone(),
        run_id: run_id.to_owned(),
        version: version.to_owned(),
        server: server.to_owned(),
        cluster_mode: field("cluster_enabled") == "1",
        role: if follows.is_some() { Role::Replica } else { Role::Primary },
        follows,
        keys,
        other_databases,
        loading: field("loading") == "1",
    })
}

fn server_of<'a>(fields: &BTreeMap<&str, &'a str>) -> (&'a str, &'a str) {
    for (key, name) in [("valkey_version", "valkey"), ("pika_version", "pika"), ("kvrocks_version", "kvrocks")] {
        if let Some(version) = fields.get(key) {
            return (name, version);
        }
    }
    ("redis", fields.get("redis_version").copied().unwrap_or("0"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn info_is_read() {
        let addr: Addr = "127.0.0.1:6401".parse().expect("addr");
        let info = "# Server\r\nredis_version:7.0.15\r\nrun_id:abc\r\n# Replication\r\nrole:slave\r\nmaster_host:10.0.0.1\r\n\
                    master_port:6379\r\nloading:0\r\ncluster_enabled:0\r\n# Keyspace\r\ndb0:keys=7,expires=0\r\ndb3:keys=2,expires=1\r\n";
        let seen = read(&addr, info).expect("read");
        assert_eq!((seen.keys, seen.other_databases, seen.follows.as_deref()), (9, 1, Some("10.0.0.1:6379")));
        assert_eq!((seen.server.as_str(), seen.version.as_str(), seen.role), ("redis", "7.0.15", Role::Replica));
        assert!(read(&addr, "hello").is_err());
        let pika = read(&addr, "pika_version:3.5.4\r\nrun_id:x\r\nrole:master\r\n").expect("pika");
        assert_eq!((pika.server.as_str(), pika.cluster_mode), ("pika", false));
    }
}
