//! Real clients against a playground of two groups. Each pipelines mixed commands and checks every reply against a
//! model, round-trips binary and 50 MB values, meets errors, and loses its connection. The scripts: tests/clients.

mod redis_rs;
mod redis_rs_cluster;
mod script;

use anyhow::Result;
use configsvr::playground::{Options, Playground};
use script::{ours, run};
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

/// Several times what the slowest takes on two busy cores.
const LIMIT: Duration = Duration::from_secs(120);

fn playground() -> Result<Playground> {
    Playground::start(Options { replicas: 0, ..Options::default() })
}

/// Where the clients from PyPI and npm are; installs them if they are missing.
fn installed() -> Result<PathBuf> {
    let home = run(&mut Command::new(ours("tests/clients/install")), Duration::from_secs(600))?;
    Ok(home.trim_end().into())
}

/// Runs `program SCRIPT HOST PORT slots MORE` against a playground of its own.
fn client(mut program: Command, script: &str, more: &[&str]) -> Result<()> {
    let playground = playground()?;
    let addr = playground.proxy_addr()?;
    program.arg(ours("tests/clients").join(script));
    program.args([&addr.ip().to_string(), &addr.port().to_string(), "slots"]).args(more);
    println!("{}", run(&mut program, LIMIT)?);
    playground.stop()
}

fn redis_py(version: &str) -> Result<()> {
    let mut python = Command::new("python3");
    python.env("PYTHONPATH", installed()?.join(version)).env("PYTHONDONTWRITEBYTECODE", "1");
    client(python, "redis_py.py", &[])
}

fn node(package: &str) -> Result<()> {
    let mut node = Command::new("node");
    node.env("CLIENTS_NODE", installed()?.join("node"));
    client(node, "node.mjs", &[package])
}

#[test]
fn redis_py_8() -> Result<()> {
    redis_py("redis-py-8.1.0")
}

#[test]
fn redis_py_7() -> Result<()> {
    redis_py("redis-py-7.4.1")
}

/// What applications do, by redis-py; and two queues that many of them use, each with its own client library.
#[test]
fn applications() -> Result<()> {
    let mut python = Command::new("python3");
    python.env("PYTHONPATH", installed()?.join("redis-py-8.1.0")).env("PYTHONDONTWRITEBYTECODE", "1");
    client(python, "applications.py", &[])
}

#[test]
fn celery() -> Result<()> {
    let mut python = Command::new("python3");
    python.env("PYTHONPATH", installed()?.join("celery")).env("PYTHONDONTWRITEBYTECODE", "1");
    client(python, "celery_app.py", &[])
}

#[test]
fn bullmq() -> Result<()> {
    let mut node = Command::new("node");
    node.env("CLIENTS_NODE", installed()?.join("node"));
    client(node, "bullmq.mjs", &[])
}

#[test]
fn ioredis_6() -> Result<()> {
    node("ioredis")
}

#[test]
fn ioredis_5() -> Result<()> {
    node("ioredis-5")
}

#[test]
fn node_redis_6() -> Result<()> {
    node("redis")
}

#[test]
fn node_redis_5() -> Result<()> {
    node("redis-5")
}

#[test]
fn redis_rb() -> Result<()> {
    client(Command::new("ruby"), "redis_rb.rb", &[])
}

#[test]
fn phpredis() -> Result<()> {
    client(Command::new("php"), "phpredis.php", &[])
}

/// Two proxies that say that they are a Redis Cluster of two, and the addresses they say.
fn two_emulate() -> Result<(Playground, Vec<String>)> {
    let mut playground = Playground::start(Options { replicas: 0, proxies: 2, ..Options::default() })?;
    let addrs: Vec<String> = playground.proxies().iter().map(|p| p.addr().to_string()).collect();
    redis_rs_cluster::emulate(&mut playground, &[0, 1], &addrs)?;
    Ok((playground, addrs))
}

/// A client that believes them.
fn cluster_client(mut program: Command, script: &str, more: &[&str]) -> Result<()> {
    let (playground, _) = two_emulate()?;
    let addr = playground.proxy_addr()?;
    program.arg(ours("tests/clients").join(script));
    program.args([&addr.ip().to_string(), &addr.port().to_string()]).args(more);
    println!("{}", run(&mut program, LIMIT)?);
    playground.stop()
}

#[test]
fn redis_py_cluster() -> Result<()> {
    for version in ["redis-py-8.1.0", "redis-py-7.4.1"] {
        let mut python = Command::new("python3");
        python.env("PYTHONPATH", installed()?.join(version)).env("PYTHONDONTWRITEBYTECODE", "1");
        cluster_client(python, "redis_py_cluster.py", &[])?;
    }
    Ok(())
}

#[test]
fn ioredis_cluster() -> Result<()> {
    for package in ["ioredis", "ioredis-5"] {
        let mut node = Command::new("node");
        node.env("CLIENTS_NODE", installed()?.join("node"));
        cluster_client(node, "cluster.mjs", &[package])?;
    }
    Ok(())
}

#[test]
fn redis_rs() -> Result<()> {
    let playground = playground()?;
    redis_rs::check(playground.proxy_addr()?)?;
    playground.stop()
}

#[test]
fn redis_rs_cluster() -> Result<()> {
    let (mut playground, addrs) = two_emulate()?;
    redis_rs_cluster::check(&mut playground, &addrs)?;
    playground.stop()
}
