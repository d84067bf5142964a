//! What a Redis Cluster client is told (`cluster_mode: emulate`): 16,384 slots of crc16, spread evenly over the proxies
//! that are advertised. It may ask any of them for any key, so it never meets a redirection.

use super::super::ClientId;
use super::super::command::Local;
use super::super::state::Relay;
use super::map;
use cluster::resp::write;
use sha2::{Digest, Sha256};
use std::fmt::Write;

/// Slots of a Redis Cluster.
const SLOTS: usize = 16_384;
const OFF: &str = "ERR This instance has cluster support disabled";
const OK: &[u8] = b"+OK\r\n";

/// An advertised proxy, and the slots it is said to have.
struct Node<'a> {
    host: &'a str,
    port: u16,
    id: String,
    from: usize,
    to: usize,
    myself: bool,
}

impl Relay {
    pub(super) fn emulate(&self, id: ClientId, local: Local, args: &[&[u8]], out: &mut Vec<u8>) {
        if self.settings.cluster_nodes.is_empty() {
            return write::error(out, OFF);
        }
        let nodes = self.nodes();
        match local {
            Local::ClusterMode => out.extend_from_slice(OK),
            Local::ClusterKeyslot => write::integer(out, cluster_slot(args.get(2).copied().unwrap_or_default()) as i64),
            Local::ClusterMyid => write::bulk(out, self.node_id(self.myself()).as_bytes()),
            Local::ClusterMyshardid => write::bulk(out, shard_id(self.myself()).as_bytes()),
            Local::ClusterLinks => write::array(out, 0),
            Local::ClusterInfo => write::bulk(out, self.cluster_info(nodes.len()).as_bytes()),
            Local::ClusterNodes => write::bulk(out, self.node_lines(&nodes).as_bytes()),
            Local::ClusterShards => shards(&nodes, self.clients[id as usize].resp3, out),
            _ => slots(&nodes, out),
        }
    }

    /// The advertised address that is this proxy's: its own, or the first where that is not among them.
    fn myself(&self) -> &str {
        let all = &self.settings.cluster_nodes;
        let own = all.iter().find(|node| **node == self.settings.advertise).or(all.first());
        own.map_or(self.settings.advertise.as_str(), String::as_str)
    }

    fn nodes(&self) -> Vec<Node<'_>> {
        let all = &self.settings.cluster_nodes;
        let myself = self.myself();
        let mut nodes = Vec::new();
        for (i, addr) in all.iter().enumerate() {
            let Some((host, Ok(port))) = addr.rsplit_once(':').map(|(host, port)| (host, port.parse())) else {
                continue;
            };
            nodes.push(Node {
                host: host.trim_start_matches('[').trim_end_matches(']'),
                port,
                id: self.node_id(addr),
                from: SLOTS * i / all.len(),
                to: SLOTS * (i + 1) / all.len() - 1,
                myself: addr == myself,
            });
        }
        nodes
    }

    /// 40 hex digits that are the same in every proxy and after every restart.
    pub(super) fn node_id(&self, addr: &str) -> String {
        hex_of("node ", addr)
    }

    fn cluster_info(&self, nodes: usize) -> String {
        let epoch = self.routes.epoch();
        let mut text = "cluster_state:ok\r\n".to_owned();
        for (field, value) in [
            ("cluster_enabled", 1),
            ("cluster_slots_assigned", SLOTS as u64),
            ("cluster_slots_ok", SLOTS as u64),
            ("cluster_slots_pfail", 0),
            ("cluster_slots_fail", 0),
            ("cluster_known_nodes", nodes as u64),
            ("cluster_size", nodes as u64),
            ("cluster_current_epoch", epoch),
            ("cluster_my_epoch", epoch),
        ] {
            _ = write!(text, "{field}:{value}\r\n");
        }
        text
    }

    fn node_lines(&self, nodes: &[Node<'_>]) -> String {
        let mut text = String::new();
        for node in nodes {
            let flags = if node.myself { "myself,master" } else { "master" };
            let port = u32::from(node.port);
            _ = writeln!(
                text,
                "{} {}:{port}@{} {flags} - 0 0 {} connected {}-{}",
                node.id,
                node.host,
                port + 10_000,
                self.routes.epoch(),
                node.from,
                node.to
            );
        }
        text
    }
}

fn hex_of(what: &str, addr: &str) -> String {
    let hash = Sha256::digest(format!("{what}{addr}").as_bytes());
    let mut text = String::new();
    for byte in &hash[..20] {
        _ = write!(text, "{byte:02x}");
    }
    text
}

fn shard_id(addr: &str) -> String {
    hex_of("shard ", addr)
}

/// CLUSTER SLOTS.
fn slots(nodes: &[Node<'_>], out: &mut Vec<u8>) {
    write::array(out, nodes.len());
    for node in nodes {
        write::array(out, 3);
        write::integer(out, node.from as i64);
        write::integer(out, node.to as i64);
        write::array(out, 4);
        write::bulk(out, node.host.as_bytes());
        write::integer(out, i64::from(node.port));
        write::bulk(out, node.id.as_bytes());
        write::array(out, 0);
    }
}

/// CLUSTER SHARDS.
fn shards(nodes: &[Node<'_>], resp3: bool, out: &mut Vec<u8>) {
    write::array(out, nodes.len());
    for node in nodes {
        map(resp3, 2, out);
        write::bulk(out, b"slots");
        write::array(out, 2);
        write::integer(out, node.from as i64);
        write::integer(out, node.to as i64);
        write::bulk(out, b"nodes");
        write::array(out, 1);
        map(resp3, 7, out);
        for (field, value) in [
            ("id", node.id.as_str()),
            ("ip", node.host),
            ("endpoint", node.host),
            ("role", "master"),
            ("health", "online"),
        ] {
            write::bulk(out, field.as_bytes());
            write::bulk(out, value.as_bytes());
        }
        for (field, value) in [("port", i64::from(node.port)), ("replication-offset", 0)] {
            write::bulk(out, field.as_bytes());
            write::integer(out, value);
        }
    }
}

/// The slot of a key in a Redis Cluster: crc16 of the key, or of what is between its first `{` and the next `}` if that
/// is anything.
fn cluster_slot(key: &[u8]) -> usize {
    let tag = key.iter().position(|&b| b == b'{').and_then(|open| {
        let len = key[open + 1..].iter().position(|&b| b == b'}')?;
        (len > 0).then(|| &key[open + 1..open + 1 + len])
    });
    usize::from(crc16(tag.unwrap_or(key))) % SLOTS
}

/// CRC-16/XMODEM.
fn crc16(bytes: &[u8]) -> u16 {
    bytes.iter().fold(0, |crc, &byte| {
        (0..8).fold(crc ^ u16::from(byte) << 8, |crc, _| if crc & 0x8000 == 0 { crc << 1 } else { crc << 1 ^ 0x1021 })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slots_are_those_of_redis_cluster() {
        assert_eq!(crc16(b"123456789"), 0x31c3);
        for (key, slot) in [("foo", 12182), ("bar", 5061), ("{foo}x", 12182), ("x{foo}{bar}", 12182), ("", 0)] {
            assert_eq!(cluster_slot(key.as_bytes()), slot, "{key}");
        }
        assert_eq!(cluster_slot(b"{}x"), usize::from(crc16(b"{}x")) % SLOTS);
    }
}
