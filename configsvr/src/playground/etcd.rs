//! The playground's etcd: how its members are started, and whether one is well.

use super::http;
use super::process::on_path;
use super::state::StateDir;
use anyhow::{Context, Result};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::Command;

/// The members, by number from 0: clients' and peers' address of each.
pub(super) type Members = [(SocketAddr, SocketAddr)];

/// Where the server is.
pub(super) fn find() -> Result<PathBuf> {
    on_path("etcd").context("etcd is missing: apt-get install etcd-server, or use --store embedded")
}

pub(super) fn name(i: usize) -> String {
    format!("etcd-{}", i + 1)
}

/// Starts member `i`, or starts it again: what it needs to know then is on its disk.
pub(super) fn command(program: &PathBuf, dir: &StateDir, members: &Members, i: usize) -> Command {
    let (clients, peers) = members[i];
    let all: Vec<String> = (0..).zip(members).map(|(n, m)| format!("{}=http://{}", name(n), m.1)).collect();
    let mut command = Command::new(program);
    command.args(["--name", &name(i), "--data-dir"]).arg(dir.etcd(&name(i)));
    for (flag, addr) in [
        ("--listen-client-urls", clients),
        ("--advertise-client-urls", clients),
        ("--listen-peer-urls", peers),
        ("--initial-advertise-peer-urls", peers),
    ] {
        command.args([flag, &format!("http://{addr}")]);
    }
    command.args(["--initial-cluster", &all.join(","), "--initial-cluster-state", "new", "--log-level", "warn"]);
    // Half of the defaults: a dead leader is replaced within about a second (see conf/configsvr.yml).
    command.args(["--heartbeat-interval", "50", "--election-timeout", "500"]);
    command
}

/// Whether the member answers and knows a leader.
pub(super) fn healthy(clients: SocketAddr) -> Result<(), String> {
    match http::get(clients, "/health") {
        Ok(answer) if answer.status == 200 && answer.body.contains("true") => Ok(()),
        Ok(answer) => Err(format!("not healthy ({}): {}", answer.status, answer.body.trim())),
        Err(e) => Err(format!("{e:#}")),
    }
}
