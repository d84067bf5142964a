//! One configsvr of the playground: its configuration.

use super::etcd;
use super::state::StateDir;
use std::fmt::Write;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::Command;

/// No secret: everything is on this machine, and goes with the playground.
const PEER_TOKEN: &str = "playground-of-one-machine";

pub(super) fn name(i: usize) -> String {
    format!("configsvr-{}", i + 1)
}

/// The configuration of member `i`. `members`: all that found the control plane together, by number; a later one is
/// not among them, and waits to be added.
pub(super) fn conf(dir: &StateDir, members: &[SocketAddr], own: SocketAddr, etcds: &etcd::Members, i: usize) -> String {
    let name = name(i);
    let data = dir.configsvr(&name).join("data");
    let mut text =
        format!("# Written by twemslotctl playground.\nname: {name}\nlisten: {own}\npeer_token: {PEER_TOKEN}\n");
    _ = writeln!(text, "data_dir: \"{}\"\nmembers:", data.display());
    for (n, addr) in members.iter().enumerate() {
        _ = writeln!(text, "  - {{id: {}, name: {}, addr: {addr}}}", n + 1, self::name(n));
    }
    if !members.contains(&own) {
        _ = writeln!(text, "  - {{id: {}, name: {name}, addr: {own}}}\njoin: true", i + 1);
    }
    if !etcds.is_empty() {
        let endpoints: Vec<String> = etcds.iter().map(|e| e.0.to_string()).collect();
        _ = writeln!(text, "store:\n  etcd:\n    endpoints: [{}]", endpoints.join(", "));
    }
    text
}

pub(super) fn command(program: &PathBuf, dir: &StateDir, i: usize) -> Command {
    let mut command = Command::new(program);
    command.arg("--config").arg(dir.configsvr_conf(&name(i)));
    command
}
