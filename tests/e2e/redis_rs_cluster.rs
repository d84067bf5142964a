//! redis-rs's cluster client, to which two proxies look like a Redis Cluster of two; and what it sees when one of them
//! is gone, taken from the list, and back again.

use anyhow::{Context, Result, ensure};
use configsvr::playground::Playground;
use redis::cluster::{ClusterClient, ClusterConnection, cluster_pipe};
use redis::{Commands, Connection, cmd};
use std::time::{Duration, Instant};

const KEYS: usize = 1000;
/// Until a reload has been noticed, on a busy machine.
const LIMIT: Duration = Duration::from_secs(30);

/// Tells these proxies that the cluster is those at `addrs`; returns when all of them say so.
pub fn emulate(playground: &mut Playground, proxies: &[usize], addrs: &[String]) -> Result<()> {
    for &i in proxies {
        playground.reload(i, &format!("cluster_mode: emulate\ncluster_nodes: [{}]\n", addrs.join(", ")))?;
    }
    for &i in proxies {
        let mut connection = plain(&playground.proxies()[i].addr().to_string())?;
        let deadline = Instant::now() + LIMIT;
        while cmd("CLUSTER").arg("SLOTS").query::<Vec<redis::Value>>(&mut connection).map_or(0, |s| s.len())
            != addrs.len()
        {
            ensure!(Instant::now() < deadline, "proxy {i} does not emulate a cluster of {}", addrs.len());
        }
    }
    Ok(())
}

/// Against a playground of two proxies that emulate the cluster of `addrs`.
pub fn check(playground: &mut Playground, addrs: &[String]) -> Result<()> {
    let mut cluster = client(addrs)?;
    cmd("FLUSHALL").exec(&mut cluster)?;
    everything(&mut cluster, addrs).context("both proxies")?;
    let first = keys_of_first(&addrs[0])?;
    ensure!(!first.is_empty() && first.len() < KEYS, "{} of {KEYS} keys are the first proxy's", first.len());

    playground.kill_proxy(1)?;
    for &n in &first {
        ensure!(cluster.get::<_, usize>(key(n))? == n, "GET of a proxy that lives, beside one that is gone");
    }
    emulate(playground, &[0], &addrs[..1])?;
    // A client that starts now may be told of the one that is gone first.
    let all_then: Vec<String> = addrs.iter().rev().cloned().collect();
    let mut second = client(&all_then).context("a new client, one proxy gone")?;
    whole(&mut second).context("one proxy gone")?;
    writes(&mut second).context("one proxy gone")?;

    playground.start_proxy(1)?;
    emulate(playground, &[0], addrs)?;
    whole(&mut cluster).context("the first client, both proxies back")?;
    everything(&mut client(addrs)?, addrs).context("a new client, both proxies back")
}

fn plain(addr: &str) -> Result<Connection> {
    Ok(redis::Client::open(format!("redis://{addr}/"))?.get_connection()?)
}

fn client(addrs: &[String]) -> Result<ClusterConnection> {
    Ok(ClusterClient::new(addrs.iter().map(|addr| format!("redis://{addr}/")))?.get_connection()?)
}

fn key(n: usize) -> String {
    format!("key:{n}")
}

/// The keys whose slots the first of two is said to have.
fn keys_of_first(addr: &str) -> Result<Vec<usize>> {
    let mut connection = plain(addr)?;
    let mut pipeline = redis::pipe();
    for n in 0..KEYS {
        pipeline.cmd("CLUSTER").arg("KEYSLOT").arg(key(n));
    }
    let slots: Vec<usize> = pipeline.query(&mut connection)?;
    Ok((0..KEYS).filter(|&n| slots[n] < 8192).collect())
}

/// Requests that a proxy has served.
fn served(addr: &str) -> Result<usize> {
    let stats: redis::InfoDict = cmd("INFO").arg("stats").query(&mut plain(addr)?)?;
    stats.get("total_commands_processed").context("INFO stats has no total_commands_processed")
}

fn everything(cluster: &mut ClusterConnection, addrs: &[String]) -> Result<()> {
    let before: Vec<usize> = addrs.iter().map(|addr| served(addr)).collect::<Result<_>>()?;
    writes(cluster)?;
    whole(cluster)?;
    let deadline = Instant::now() + LIMIT;
    for (addr, was) in addrs.iter().zip(before) {
        // Workers tell what they have done several times a second.
        while served(addr)?.saturating_sub(was) <= KEYS / 2 {
            ensure!(Instant::now() < deadline, "{addr} has served few of more than {} requests", 2 * KEYS);
        }
    }
    Ok(())
}

fn writes(cluster: &mut ClusterConnection) -> Result<()> {
    for n in 0..KEYS {
        cluster.set::<_, _, ()>(key(n), n)?;
    }
    let mut pipeline = cluster_pipe();
    for n in 0..50 {
        pipeline.del(format!("count:{n}")).ignore();
    }
    for n in 0..200 {
        pipeline.incr(format!("count:{}", n % 50), 1);
    }
    let counts: Vec<usize> = pipeline.query(cluster)?;
    ensure!(counts.iter().enumerate().all(|(n, &count)| count == 1 + n / 50), "a pipeline: {counts:?}");
    // In one slot, and in many: the client splits it.
    cluster.mset::<_, _, ()>(&[("{tag}:1", "a"), ("{tag}:2", "b")])?;
    ensure!(cluster.mget::<_, Vec<String>>(&["{tag}:1", "{tag}:2"])? == ["a", "b"], "MGET in one slot");
    let pairs: Vec<(String, usize)> = (0..100).map(|n| (format!("many:{n}"), n)).collect();
    cluster.mset::<_, _, ()>(&pairs)?;
    let names: Vec<&String> = pairs.iter().map(|(name, _)| name).collect();
    ensure!(cluster.mget::<_, Vec<usize>>(&names)?.into_iter().eq(0..100), "MGET in many slots");
    ensure!(cluster.del::<_, usize>(&names)? == 100, "DEL in many slots");
    Ok(())
}

fn whole(cluster: &mut ClusterConnection) -> Result<()> {
    for n in 0..KEYS {
        let got: usize = cluster.get(key(n))?;
        ensure!(got == n, "GET {} gives {got}", key(n));
    }
    Ok(())
}
