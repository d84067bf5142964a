//! What an instance says of itself in INFO, as far as failover needs it.

use crate::control::health::{Info, Load};
use cluster::instance::{Addr, Role};
use std::collections::BTreeMap;

/// Reads INFO. Servers that leave fields out (Pika, Kvrocks) get the plainest meaning.
pub(super) fn read(text: &str) -> Result<Info, String> {
    let fields: BTreeMap<&str, &str> = text.lines().filter_map(|l| l.trim_end().split_once(':')).collect();
    let field = |name: &str| fields.get(name).copied().unwrap_or_default();
    let number = |name: &str| field(name).parse::<u64>().ok();
    if field("run_id").is_empty() {
        return Err("INFO names no run_id: is this a Redis server?".to_owned());
    }
    let replica = matches!(field("role"), "slave" | "replica");
    let host = match field("master_host") {
        v6 if v6.contains(':') => format!("[{v6}]"),
        host => host.to_owned(),
    };
    let follows = || format!("{host}:{}", field("master_port")).parse::<Addr>().ok();
    let version = ["valkey_version", "redis_version", "pika_version"].iter().map(|name| field(name));
    Ok(Info {
        run_id: field("run_id").to_owned(),
        version: version.into_iter().find(|v| !v.is_empty()).unwrap_or_default().to_owned(),
        role: if replica { Role::Replica } else { Role::Primary },
        follows: replica.then(follows).flatten(),
        link_up: field("master_link_status") == "up",
        last_io_s: number("master_last_io_seconds_ago"),
        link_down_s: number("master_link_down_since_seconds"),
        syncing: field("master_sync_in_progress") == "1",
        loading: field("loading") == "1",
        replid: field("master_replid").to_owned(),
        replid2: field("master_replid2").to_owned(),
        second_offset: number("second_repl_offset"),
        // Of a replica, too: what it has applied, also while it has no link.
        offset: number("master_repl_offset").unwrap_or(0),
        priority: number("slave_priority").map_or(100, |n| n as u32),
        load: Load {
            memory_bytes: number("used_memory"),
            memory_max_bytes: number("maxmemory").filter(|max| *max > 0),
            clients: number("connected_clients"),
            commands: number("total_commands_processed"),
            // There is no such line while there are no keys; a server without the section says nothing of either.
            keys: number("used_memory").map(|_| keys(field("db0"))),
            evicted_keys: number("evicted_keys"),
        },
    })
}

/// Of a line as `keys=12,expires=0,avg_ttl=0`.
fn keys(db: &str) -> u64 {
    db.split(',').find_map(|part| part.strip_prefix("keys=")?.parse().ok()).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_replica_and_a_primary_are_told_apart() {
        let replica = read(
            "redis_version:7.0.15\r\nrun_id:abc\r\nrole:slave\r\nmaster_host:10.0.0.1\r\nmaster_port:6379\r\n\
             master_link_status:up\r\nmaster_last_io_seconds_ago:0\r\nmaster_sync_in_progress:0\r\nslave_priority:7\r\n\
             master_replid:r1\r\nmaster_replid2:r0\r\nmaster_repl_offset:99\r\nsecond_repl_offset:-1\r\n",
        );
        let replica = replica.expect("good");
        assert_eq!((replica.role, replica.link_up, replica.last_io_s), (Role::Replica, true, Some(0)));
        assert_eq!((replica.offset, replica.priority, replica.second_offset), (99, 7, None));
        assert_eq!(replica.follows, "10.0.0.1:6379".parse().ok());
        assert!(replica.continues("r0") && replica.continues("r1") && !replica.continues(""));
        let primary = read("run_id:x\r\nrole:master\r\nmaster_replid:r\r\n").expect("good");
        assert_eq!((primary.role, primary.follows, primary.priority), (Role::Primary, None, 100));
        assert_eq!(primary.load, Load::default());
        let load =
            read("run_id:x\r\nused_memory:99\r\nmaxmemory:0\r\ndb0:keys=7,expires=0,avg_ttl=0\r\n").expect("good").load;
        assert_eq!((load.memory_bytes, load.memory_max_bytes, load.keys), (Some(99), None, Some(7)));
        assert!(read("hello").is_err());
    }
}
