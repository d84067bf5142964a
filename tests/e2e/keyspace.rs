//! The whole key space and scripts, against real servers: walks over all keys through any proxy while slots move and
//! primaries are exchanged, and scripts that are there after a failover, or are killed while they run.

use anyhow::{Context, Result, ensure};
use cluster::group::GroupId;
use cluster::instance::Role;
use cluster::slot::{Slot, TagRule, slot_of};
use cluster::wire::{Message, Range, State};
use configsvr::playground::{Options, Playground, http, until};
use redis::{Connection, ConnectionLike, RedisResult, Value, cmd, pipe};
use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::thread;
use std::time::Duration;

const LIMIT: Duration = Duration::from_secs(30);
const KEYS: usize = 3000;

fn connect(addr: SocketAddr) -> Result<Connection> {
    let connection = redis::Client::open(format!("redis://{addr}/"))?.get_connection()?;
    connection.set_read_timeout(Some(LIMIT))?;
    Ok(connection)
}

/// Two groups with a replica each, and two proxies before them; what moves is moved by the test.
struct Site {
    playground: Playground,
    topology: Message,
}

impl Site {
    fn start() -> Result<Self> {
        let options = Options {
            proxies: 2,
            configsvrs: 0,
            workers: Some(2),
            // A script that runs for longer can be killed.
            redis_conf: "lua-time-limit 100\n".to_owned(),
            ..Options::default()
        };
        let playground = Playground::start(options)?;
        let topology = playground.topology().clone();
        Ok(Self { playground, topology })
    }

    fn proxies(&self) -> Result<Vec<Connection>> {
        self.playground.proxies().iter().map(|proxy| connect(proxy.addr())).collect()
    }

    fn instance(&self, group: GroupId, role: Role) -> Result<SocketAddr> {
        let group = self.topology.groups.iter().find(|g| g.id == group).context("a group")?;
        let instance = group.instances.iter().find(|i| i.role == role).context("an instance")?;
        Ok(instance.addr.to_string().parse()?)
    }

    fn slot(&self, key: &str) -> Slot {
        slot_of(key.as_bytes(), TagRule::Redis, self.topology.slot_count)
    }

    /// A tag whose keys belong to this group.
    fn tag(&self, group: GroupId) -> Result<String> {
        let owner = |slot| self.topology.slots.iter().find(|r| (r.from..=r.to).contains(&slot)).map(|r| r.group);
        let mut tags = (0..1000).map(|n| format!("{{{n}}}"));
        tags.find(|tag| owner(self.slot(tag)) == Some(group)).context("a tag")
    }

    /// The next epoch: all proxies serve it, and nothing for a held slot is in flight.
    fn put(&mut self, change: impl FnOnce(&mut Message)) -> Result<()> {
        let mut next = self.topology.clone();
        next.epoch += 1;
        change(&mut next);
        let json = serde_json::to_string(&next)?;
        for proxy in self.playground.proxies() {
            let admin = proxy.admin_addr().context("an admin port")?;
            let answer = http::put(admin, "/api/v1/topology?quiet=true", &json)?;
            ensure!(answer.status == 200, "epoch {} refused: {}", next.epoch, answer.body);
        }
        self.topology = next;
        Ok(())
    }

    /// Moves these slots. The source keeps what it had, as it does until somebody cleans up.
    fn move_slots(&mut self, range: (Slot, Slot), to: GroupId) -> Result<()> {
        let from = 3 - to;
        self.put(|next| set(next, range, from, State::Held))?;
        let mut source = connect(self.instance(from, Role::Primary)?)?;
        let mut target = connect(self.instance(to, Role::Primary)?)?;
        let keys: Vec<String> = cmd("KEYS").arg("*").query(&mut source)?;
        for key in keys.iter().filter(|key| (range.0..=range.1).contains(&self.slot(key))) {
            let dump: Value = cmd("DUMP").arg(key).query(&mut source)?;
            let Value::BulkString(dump) = dump else { continue };
            cmd("RESTORE").arg(key).arg(0).arg(dump).arg("REPLACE").exec(&mut target)?;
        }
        self.put(|next| set(next, range, to, State::Normal))
    }

    /// The replica becomes the primary, once it has everything.
    fn fail_over(&mut self, group: GroupId) -> Result<()> {
        let (old, new) = (self.instance(group, Role::Primary)?, self.instance(group, Role::Replica)?);
        let (mut before, mut after) = (connect(old)?, connect(new)?);
        until("the replica to have all", LIMIT, || {
            let sizes: (u64, u64) = (cmd("DBSIZE").query(&mut before)?, cmd("DBSIZE").query(&mut after)?);
            Ok(if sizes.0 == sizes.1 { Ok(()) } else { Err(format!("{sizes:?}")) })
        })?;
        cmd("REPLICAOF").arg("NO").arg("ONE").exec(&mut after)?;
        self.put(|next| {
            let group = next.groups.iter_mut().find(|g| g.id == group);
            for instance in group.into_iter().flat_map(|g| &mut g.instances) {
                instance.role = if instance.role == Role::Primary { Role::Replica } else { Role::Primary };
            }
        })
    }
}

/// Gives a range of slots to a group, in this state.
fn set(topology: &mut Message, (from, to): (Slot, Slot), group: GroupId, state: State) {
    let mut slots = Vec::new();
    for range in &topology.slots {
        let before = Range { to: range.to.min(from.wrapping_sub(1)), ..range.clone() };
        let behind = Range { from: range.from.max(to + 1), ..range.clone() };
        slots.extend((range.from < from).then_some(before));
        slots.extend((range.to > to).then_some(behind));
    }
    slots.push(Range { from, to, group, state, target: None });
    slots.sort_by_key(|r| r.from);
    topology.slots = slots;
}

/// A walk to its end, a step at each proxy in turn; `between` is called before each step. How many steps.
fn walk(
    proxies: &mut [Connection],
    seen: &mut Vec<String>,
    mut between: impl FnMut(usize) -> Result<()>,
) -> Result<usize> {
    let mut cursor = "0".to_owned();
    for step in 0..100_000 {
        between(step)?;
        let proxy = &mut proxies[step % 2];
        let (next, keys): (String, Vec<String>) =
            cmd("SCAN").arg(&cursor).arg("COUNT").arg(20).query(proxy).with_context(|| format!("step {step}"))?;
        seen.extend(keys);
        if next == "0" {
            return Ok(step + 1);
        }
        cursor = next;
    }
    anyhow::bail!("the walk does not come to an end")
}

/// Nothing that stays is left out, whatever happens between two steps; and when nothing does, each key comes once, though
/// copies lie about.
#[test]
fn walks() -> Result<()> {
    let mut site = Site::start()?;
    let mut proxies = site.proxies()?;
    let all: BTreeSet<String> = (0..KEYS).map(|n| format!("key:{n}")).collect();
    let mut writes = pipe();
    for key in &all {
        writes.cmd("SET").arg(key).arg(key).ignore();
    }
    writes.exec(&mut proxies[0])?;

    let mut seen = Vec::new();
    let steps = walk(&mut proxies, &mut seen, |step| match step {
        7 => site.move_slots((0, 99), 2),
        40 => site.fail_over(1),
        75 => site.move_slots((600, 650), 1),
        110 => site.fail_over(2),
        _ => Ok(()),
    })?;
    ensure!(steps > 150, "the walk was over before everything had happened: {steps} steps");
    let lost: Vec<_> = all.iter().filter(|key| !seen.contains(key)).collect();
    ensure!(lost.is_empty(), "SCAN left out {lost:?}");

    let mut again = Vec::new();
    walk(&mut proxies, &mut again, |_| Ok(()))?;
    again.sort();
    ensure!(again.iter().eq(&all), "a walk in peace gave {} keys of {KEYS}", again.len());
    let proxy = &mut proxies[1];
    let mut keys: Vec<String> = cmd("KEYS").arg("*").query(proxy)?;
    keys.sort();
    ensure!(keys.iter().eq(&all), "KEYS gave {} keys", keys.len());
    let size: usize = cmd("DBSIZE").query(proxy)?;
    ensure!(size > KEYS, "there should be copies, DBSIZE is {size}");
    for _ in 0..100 {
        let key: String = cmd("RANDOMKEY").query(proxy)?;
        ensure!(all.contains(&key), "RANDOMKEY gave {key}");
    }
    let some: Vec<String> = cmd("KEYS").arg("key:12?").query(proxy)?;
    ensure!(some.len() == 10, "{some:?}");
    cmd("FLUSHALL").exec(proxy)?;
    ensure!(cmd("DBSIZE").query::<usize>(proxy)? == 0 && cmd("RANDOMKEY").query::<Value>(proxy)? == Value::Nil);
    site.playground.stop()
}

/// What a client has sent is there after a failover, on a group that never had it, and after an instance has lost it.
#[test]
fn scripts_outlive_failovers() -> Result<()> {
    let mut site = Site::start()?;
    let mut client = site.proxies()?.swap_remove(0);
    let tag = site.tag(1)?;
    let eval = |client: &mut Connection, sha: &str| -> RedisResult<i64> {
        cmd("EVALSHA").arg(sha).arg(1).arg(&tag).query(client)
    };
    let script = "return redis.call('INCR', KEYS[1])";
    let loaded: String = cmd("SCRIPT").arg("LOAD").arg(script).query(&mut client)?;
    let typed: i64 = cmd("EVAL").arg("return #KEYS + 41").arg(1).arg(&tag).query(&mut client)?;
    ensure!(typed == 42 && eval(&mut client, &loaded)? == 1);
    ensure!(cmd("SCRIPT").arg("EXISTS").arg(&loaded).arg("0".repeat(40)).query::<Vec<i64>>(&mut client)? == [1, 0]);

    let mut replica = connect(site.instance(1, Role::Replica)?)?;
    cmd("SCRIPT").arg("FLUSH").exec(&mut replica)?;
    site.fail_over(1)?;
    ensure!(eval(&mut client, &loaded)? == 2, "after the failover");

    cmd("SCRIPT").arg("FLUSH").exec(&mut replica)?;
    let lost = eval(&mut client, &loaded);
    ensure!(lost.as_ref().is_err_and(|e| e.to_string().contains("NoScript")), "{lost:?}");
    until("the script to be there again", LIMIT, || {
        Ok(eval(&mut client, &loaded).map(drop).map_err(|e| e.to_string()))
    })?;

    let library = "#!lua name=l\nredis.register_function('f', function(keys) return redis.call('GET', keys[1]) end)";
    ensure!(cmd("FUNCTION").arg("LOAD").arg(library).query::<String>(&mut client)? == "l");
    for group in [1, 2] {
        let tag = site.tag(group)?;
        cmd("SET").arg(&tag).arg(group).exec(&mut client)?;
        ensure!(cmd("FCALL").arg("f").arg(1).arg(&tag).query::<u32>(&mut client)? == group);
    }
    ensure!(cmd("FUNCTION").arg("DELETE").arg("l").query::<String>(&mut client)? == "OK");
    ensure!(cmd("FCALL").arg("f").arg(0).query::<Value>(&mut client).is_err());
    site.playground.stop()
}

/// A script without an end is in the way of its group alone, and SCRIPT KILL ends it.
#[test]
fn scripts_are_killed() -> Result<()> {
    let site = Site::start()?;
    let mut client = site.proxies()?.swap_remove(0);
    let kill = |client: &mut Connection| cmd("SCRIPT").arg("KILL").query::<String>(client);
    let idle = kill(&mut client);
    ensure!(idle.as_ref().is_err_and(|e| e.to_string().contains("NotBusy")), "{idle:?}");
    let (tag, other) = (site.tag(1)?, site.tag(2)?);
    let mut runner = connect(site.playground.proxy_addr()?)?;
    let endless = thread::spawn(move || {
        let ended: RedisResult<Value> = cmd("EVAL").arg("while true do end").arg(1).arg(tag).query(&mut runner);
        (ended.map_err(|e| e.to_string()), runner.is_open())
    });
    until("the script to be killed", LIMIT, || {
        cmd("SET").arg(&other).arg(1).exec(&mut client)?;
        Ok(kill(&mut client).map(drop).map_err(|e| e.to_string()))
    })?;
    let (ended, open) = endless.join().map_err(|_| anyhow::anyhow!("the client panicked"))?;
    ensure!(open && ended.as_ref().is_err_and(|e| e.to_lowercase().contains("killed")), "{ended:?}");
    site.playground.stop()
}
