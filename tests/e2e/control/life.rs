//! The life of a cluster, as an operator types it: twemslotctl against real configsvrs, proxies and Redis.

use crate::scene::{leader, members, ready};
use crate::watch::all_serve;
use crate::{LIMIT, say, turn};
use anyhow::{Context, Result, ensure};
use configsvr::playground::{Options, Playground, StoreKind, ask, find_binary, http, until};
use nix::sys::signal::Signal;
use serde_json::{Value, json};
use std::io::{BufRead, BufReader, Read};
use std::net::SocketAddr;
use std::process::{Child, Command, Output, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

/// What twemslotctl said.
struct Said {
    code: i32,
    out: String,
    err: String,
}

fn ctl(api: SocketAddr, words: &[&str]) -> Result<Said> {
    let mut command = Command::new(find_binary("twemslotctl")?);
    let Output { status, stdout, stderr } =
        command.args(["--api", &format!("http://{api}")]).args(words).env_remove("TWEMSLOT_TOKEN").output()?;
    let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
    Ok(Said { code: status.code().unwrap_or(-1), out: text(stdout), err: text(stderr) })
}

/// It went well; its JSON.
pub(crate) fn good(api: SocketAddr, words: &[&str]) -> Result<Value> {
    let mut all = words.to_vec();
    all.push("--json");
    let said = ctl(api, &all)?;
    ensure!(said.code == 0, "{words:?} ended with {}: {}{}", said.code, said.out, said.err);
    serde_json::from_str(&said.out).with_context(|| format!("{words:?}: {}", said.out))
}

/// It was refused, and these words say why.
pub(crate) fn refused(api: SocketAddr, words: &[&str], why: &[&str]) -> Result<()> {
    let said = ctl(api, words)?;
    ensure!(said.code != 0, "{words:?} went well: {}", said.out);
    for word in why {
        ensure!(said.err.contains(word), "{words:?}: {word:?} is not in {:?}", said.err);
    }
    Ok(())
}

pub(crate) fn small() -> Options {
    Options { groups: 1, replicas: 0, configsvrs: 1, workers: Some(1), ..Options::default() }
}

fn spares(groups: u16, redis_conf: &str) -> Result<Playground> {
    Playground::start(Options {
        groups,
        replicas: 0,
        proxies: 0,
        redis_conf: redis_conf.to_owned(),
        ..Options::default()
    })
}

fn addrs(playground: &Playground) -> Vec<String> {
    playground.instances().iter().map(|i| i.server.addr().to_string()).collect()
}

#[test]
fn a_cluster_grows_and_shrinks() -> Result<()> {
    let _turn = turn();
    let playground = Playground::start(small())?;
    let api = playground.configsvrs()[0].addr();
    let spare = spares(3, "")?;
    let spare_addrs = addrs(&spare);
    let [a, b, c] = [&spare_addrs[0], &spare_addrs[1], &spare_addrs[2]].map(String::as_str);

    good(api, &["groups", "add", "--primary", a, "--replica", b, "--name", "second"])?;
    let groups = good(api, &["groups", "list"])?;
    let second = groups.as_array().and_then(|g| g.iter().find(|g| g["name"] == "second")).context("second")?;
    ensure!(second["primary"] == a && second["replicas"][0] == b, "{second}");
    until("the replica follows", LIMIT, || {
        let says = String::from_utf8_lossy(&ask(b.parse()?, &["ROLE"])?).into_owned();
        Ok(if says.contains("slave") { Ok(()) } else { Err(says) })
    })?;

    // Known already, in use by another group, of another kind, not empty: each is refused with the reason.
    refused(api, &["groups", "add", "--primary", a, "--yes"], &[a])?;
    let cluster_mode = spares(1, "cluster-enabled yes\n")?;
    refused(api, &["groups", "add", "--primary", &addrs(&cluster_mode)[0], "--yes"], &["cluster"])?;
    ask(c.parse()?, &["SET", "k", "v"])?;
    refused(api, &["groups", "add", "--primary", c, "--yes"], &[c, "hint"])?;
    refused(api, &["groups", "add", "--primary", "127.0.0.1:1", "--yes"], &["127.0.0.1:1"])?;
    ensure!(good(api, &["groups", "list"])?.as_array().is_some_and(|g| g.len() == 2), "a refused group is there");

    // Memory of all its instances at once; not less than they use now, unless that is meant.
    let memory = good(api, &["groups", "maxmemory", "second", "300mb"])?;
    ensure!(memory.as_array().is_some_and(|all| all.len() == 2 && all[1]["max_bytes"] == 300 << 20), "{memory}");
    let said = ask(b.parse()?, &["CONFIG", "GET", "maxmemory"])?;
    ensure!(String::from_utf8_lossy(&said).contains("314572800"), "{said:?}");
    refused(api, &["groups", "maxmemory", "second", "1"], &["uses", "force"])?;
    good(api, &["groups", "maxmemory", "second", "0", "--yes"])?;

    // Slots that somebody owns are not given away by mistake.
    let id = second["id"].as_u64().context("id")?.to_string();
    refused(api, &["slots", "assign", "--group", &id, "--slots", "0-99", "--yes"], &["slot"])?;
    let answer = good(api, &["slots", "assign", "--group", &id, "--slots", "0-99", "--force", "--yes"])?;
    let epoch = answer["epoch"].as_u64().context("epoch")?;
    all_serve(&playground, epoch)?;
    refused(api, &["groups", "remove", &id, "--yes"], &["slot"])?;
    good(api, &["slots", "assign", "--group", "1", "--slots", "0-99", "--force", "--yes"])?;
    good(api, &["instances", "remove", "--group", &id, b, "--yes"])?;
    let last = good(api, &["groups", "remove", &id, "--yes"])?;
    all_serve(&playground, last["epoch"].as_u64().context("epoch")?)?;

    let status = ctl(api, &["status"])?;
    ensure!(status.code == 0, "status ended with {}: {}{}", status.code, status.out, status.err);
    Ok(())
}

/// SHA-256 of "secret".
const HASH: &str = "2bb80d537b1da3e38bd30361aa855686bde0eacd7162fef6a25fe97bf527a25b";

#[test]
fn users_are_those_of_every_proxy() -> Result<()> {
    let _turn = turn();
    let playground = Playground::start(Options { proxies: 2, ..small() })?;
    let api = playground.configsvrs()[0].addr();
    let says = |proxy: usize, who: &[&str], words: &[&str]| -> Result<String> {
        let mut link =
            redis::Client::open(format!("redis://{}", playground.proxies()[proxy].addr()))?.get_connection()?;
        if let [name, password] = who {
            let said = redis::cmd("AUTH").arg(name).arg(password).query::<String>(&mut link);
            if let Err(e) = said {
                return Ok(e.to_string());
            }
        }
        let said = redis::cmd(words[0]).arg(&words[1..]).query::<String>(&mut link);
        Ok(said.unwrap_or_else(|e| e.to_string()))
    };
    ensure!(says(0, &[], &["SET", "k", "v"])? == "OK");
    let set = [
        "users",
        "set",
        "app",
        "--password-sha256",
        HASH,
        "--categories",
        "all,-dangerous",
        "--keys",
        "app:*",
        "--yes",
    ];
    let answer = good(api, &set)?;
    all_serve(&playground, answer["epoch"].as_u64().context("epoch")?)?;
    for proxy in [0, 1] {
        for (who, words, wanted) in [
            (&["app", "secret"][..], &["SET", "app:1", "v"][..], "OK"),
            (&["app", "secret"], &["SET", "other", "v"], "No permissions to access a key"),
            (&["app", "wrong"], &["PING"], "invalid username-password pair"),
            (&[], &["GET", "app:1"], "Authentication required"),
        ] {
            let said = says(proxy, who, words)?;
            ensure!(said.contains(wanted), "{who:?} {words:?}: {said}");
        }
    }
    // What the password hashes to is kept from people, in answers and in the audit; a proxy keeps it on its disk.
    for words in
        [&["users", "list"][..], &["audit"], &["users", "set", "app", "--categories", "all", "--yes", "--dry-run"]]
    {
        let said = ctl(api, &[words, &["--json"]].concat())?;
        ensure!(!said.out.contains(&HASH[..16]), "{words:?}: {}", said.out);
    }
    let answer = good(api, &["users", "remove", "app", "--yes"])?;
    all_serve(&playground, answer["epoch"].as_u64().context("epoch")?)?;
    ensure!(says(1, &[], &["GET", "app:1"])? == "v");
    Ok(())
}

#[test]
fn a_proxy_that_dies_is_missed_and_comes_back() -> Result<()> {
    let _turn = turn();
    let mut playground = Playground::start(Options { proxies: 2, ..small() })?;
    let api = playground.configsvrs()[0].addr();
    let alive = || -> Result<usize> {
        let list = good(api, &["proxies", "list"])?;
        Ok(list.as_array().map_or(0, |l| l.iter().filter(|p| p["alive"] == true).count()))
    };
    let count = |wanted: usize| {
        until(&format!("{wanted} proxies alive"), LIMIT, || {
            let alive = alive()?;
            Ok(if alive == wanted { Ok(()) } else { Err(format!("{alive} are")) })
        })
    };
    count(2)?;
    good(api, &["settings", "set", "--proxy-ttl", "3"])?;
    playground.kill_proxy(1)?;
    count(1)?;
    // While it is away the topology changes; it starts with the latest.
    let epoch = good(api, &["groups", "rename", "1", "renamed"])?["epoch"].as_u64().context("epoch")?;
    playground.start_proxy(1)?;
    all_serve(&playground, epoch)?;
    count(2)
}

#[test]
fn hand_edits_are_seen() -> Result<()> {
    let _turn = turn();
    let mut playground = Playground::start(Options { store: StoreKind::Etcd, groups: 2, ..small() })?;
    let api = playground.configsvrs()[0].addr();
    let endpoint = playground.etcds()[0].addr().to_string();
    let put = |key: &str, value: &str| -> Result<()> {
        let key = format!("/redis-cluster/{key}");
        let mut command = Command::new("etcdctl");
        let done = command.env("ETCDCTL_API", "3").args(["--endpoints", &endpoint, "put", &key, value]).output()?;
        ensure!(done.status.success(), "etcdctl: {}", String::from_utf8_lossy(&done.stderr));
        Ok(())
    };
    let cluster = || playground.ask_control("/api/v1/cluster");
    let epoch = cluster()?["epoch"].as_u64().context("epoch")?;

    put("slot-to-group-mapping/slot1", "{\"slot_id\":1,\"group_id\":99,\"action\":{}}")?;
    until("the invalid edit is reported", LIMIT, || {
        let status = ctl(api, &["status"])?;
        let seen = status.code != 0 && status.out.contains("99");
        Ok(if seen { Ok(()) } else { Err(format!("status {}: {}", status.code, status.out)) })
    })?;
    ensure!(playground.ask_control("/api/v1/topology")?["epoch"] == epoch, "an invalid edit made a topology");

    put("slot-to-group-mapping/slot1", "{\"slot_id\":1,\"group_id\":2,\"action\":{}}")?;
    until("the valid edit is served", LIMIT, || {
        let topology = playground.ask_control("/api/v1/topology")?;
        let first = &topology["slots"][0];
        let served = first["group"] == 2 && topology["epoch"].as_u64() > Some(epoch);
        Ok(if served { Ok(()) } else { Err(format!("epoch {}, {first}", topology["epoch"])) })
    })?;
    all_serve(&playground, epoch + 1)?;
    until("nothing is wrong any more", LIMIT, || {
        let status = ctl(api, &["status"])?;
        Ok(if status.code == 0 { Ok(()) } else { Err(status.out + &status.err) })
    })?;

    // Each server of etcd is looked at, also where the others do without it.
    until("three servers, one of which leads", LIMIT, || {
        let said = ctl(api, &["store", "servers", "--json"])?;
        let servers: Vec<Value> = serde_json::from_str(&said.out).unwrap_or_default();
        let leaders = servers.iter().filter(|s| s["leading"] == true).count();
        Ok(if (said.code, servers.len(), leaders) == (0, 3, 1) { Ok(()) } else { Err(said.out + &said.err) })
    })?;
    playground.kill_etcd(2)?;
    let dead = playground.etcds()[2].addr().to_string();
    until("the doctor misses the dead one", LIMIT, || {
        let said = ctl(api, &["doctor"])?;
        let line = said.out.lines().find(|l| l.starts_with("BAD") && l.contains(&dead));
        Ok(if said.code == 1 && line.is_some() { Ok(()) } else { Err(said.out + &said.err) })
    })
}

#[test]
fn a_control_plane_that_is_gone_does_not_matter_to_clients() -> Result<()> {
    let _turn = turn();
    let mut playground = Playground::start(small())?;
    playground.kill_configsvr(0)?;
    let proxy = playground.proxy_addr()?;
    ensure!(ask(proxy, &["SET", "k", "v"])? == b"+OK\r\n", "SET without a control plane");
    // Not even a restart needs it: the topology is on the proxy's disk.
    playground.kill_proxy(0)?;
    let start = Instant::now();
    playground.start_proxy(0)?;
    say(&format!("a proxy without a control plane is ready after {:?}", start.elapsed()));
    ensure!(ask(proxy, &["GET", "k"])? == b"$1\r\nv\r\n", "GET without a control plane");
    playground.start_configsvr(0)?;
    let admin = playground.configsvrs()[0].addr();
    until("the proxy is registered again", LIMIT, || {
        let Ok(answer) = http::call("GET", admin, "/api/v1/proxies?alive=true", &[], "", Duration::from_secs(1)) else {
            return Ok(Err("no answer".to_owned()));
        };
        let alive = answer.json().ok().and_then(|list| list.as_array().map(Vec::len)).unwrap_or(0);
        Ok(if alive == 1 { Ok(()) } else { Err(format!("{alive} are: {}", answer.body)) })
    })
}

/// From the embedded store into etcd, and back into an embedded one: the same topology under the same epoch.
#[test]
fn a_cluster_moves_from_store_to_store() -> Result<()> {
    let _turn = turn();
    let first = Playground::start(Options { groups: 2, ..small() })?;
    good(first.configsvrs()[0].addr(), &["groups", "rename", "2", "moved"])?;
    let dir = tempfile::tempdir()?;
    let bare = |store| Options { bare: true, store, ..small() };
    let mut from = first.configsvrs()[0].addr();
    let mut held = Vec::new(); // each is the next one's source
    let topology = |api: SocketAddr| http::get(api, "/api/v1/topology")?.json();
    let original = topology(from)?;
    for (i, store) in [StoreKind::Etcd, StoreKind::Embedded].into_iter().enumerate() {
        let next = Playground::start(bare(store))?;
        let to = next.configsvrs()[0].addr();
        let file = dir.path().join(i.to_string()).display().to_string();
        good(from, &["store", "export", &file])?;
        good(to, &["store", "import", &file, "--yes"])?;
        until("the topology is in force", LIMIT, || {
            let now = topology(to)?;
            Ok(if now == original { Ok(()) } else { Err(format!("{now} is not {original}")) })
        })?;
        all_serve(&next, original["epoch"].as_u64().context("epoch")?)?; // the proxy that had nothing to serve
        refused(to, &["store", "import", &file, "--yes"], &["hint"])?;
        from = to;
        held.push(next);
    }
    Ok(())
}

/// The members' disks were lost and etcd was not: nothing is changed, and the alarm says what to type; typed, it heals.
#[test]
fn a_lost_raft_log_is_told_of() -> Result<()> {
    let _turn = turn();
    let mut playground = Playground::start(Options { store: StoreKind::Etcd, ..small() })?;
    let api = playground.configsvrs()[0].addr();
    playground.kill_configsvr(0)?;
    std::fs::remove_dir_all(playground.dir().join("configsvr/configsvr-1/data")).context("the raft log")?;
    // As after many elections: what begins anew is behind.
    let leader = json!({ "token": "0000000000000009-0000000000000001", "member": "old", "addr": "127.0.0.1:1" });
    let endpoint = playground.etcds()[0].addr().to_string();
    let mut put = Command::new("etcdctl");
    put.env("ETCDCTL_API", "3").args(["--endpoints", &endpoint, "put", "/redis-cluster/leader", &leader.to_string()]);
    ensure!(put.status()?.success(), "etcdctl put");
    playground.start_configsvr(0)?;
    let command = until("the alarm", LIMIT, || {
        let Ok(cluster) = playground.ask_control("/api/v1/cluster") else { return Ok(Err("no answer".to_owned())) };
        let alarms = cluster["alarms"].as_array().context("alarms")?;
        let told = alarms.iter().find(|a| a["kind"] == "leader_disputed").and_then(|a| a["message"].as_str());
        let command = told.and_then(|t| t.find("etcdctl --endpoints=").map(|at| t[at..].to_owned()));
        Ok(command.ok_or_else(|| cluster["alarms"].to_string()))
    })?;
    let typed = Command::new("sh").env("ETCDCTL_API", "3").args(["-ec", &command]).output()?;
    ensure!(typed.status.success() && typed.stdout.starts_with(b"1"), "{command}: {typed:?}");
    let epoch = until("changes go on", LIMIT, || {
        let said = ctl(api, &["groups", "rename", "1", "after", "--json"])?;
        Ok(if said.code == 0 { Ok(serde_json::from_str::<Value>(&said.out)?) } else { Err(said.err) })
    })?;
    all_serve(&playground, epoch["epoch"].as_u64().context("epoch")?)
}

/// A load of a store that is too large for one transaction, and the member is killed in the midst of it: there is no
/// cluster, or the whole one, and nothing is wrong either way.
#[test]
fn a_load_that_is_cut_short_leaves_nothing() -> Result<()> {
    const GROUPS: usize = 400;
    let _turn = turn();
    let mut playground = Playground::start(Options { bare: true, proxies: 0, ..small() })?;
    let api = playground.configsvrs()[0].addr();
    let entry = |key: String, value: Value| json!({ "key": key, "value": value.to_string() });
    let group = |n: usize| json!({ "group_id": n, "primary": format!("127.0.0.1:{}", 20_000 + n) });
    let slot = |n: usize| json!({ "slot_id": n, "group_id": n % GROUPS + 1, "action": {} });
    let mut entries = vec![
        entry("epoch".to_owned(), json!({ "epoch": 5 })),
        entry("settings".to_owned(), json!({ "name": "shop", "slot_count": 1024 })),
    ];
    entries.extend((1..=GROUPS).map(|n| entry(format!("group-instances/{n}"), group(n))));
    entries.extend((1..=1024).map(|n| entry(format!("slot-to-group-mapping/slot{n}"), slot(n))));
    let export = json!({ "format": "twemslot-store-1", "revision": 1, "store": "x", "entries": entries }).to_string();
    let mut cut = 0;
    for delay_ms in [8, 15, 30] {
        let load = export.clone();
        let loading = std::thread::spawn(move || http::call("POST", api, "/api/v1/store/import", &[], &load, LIMIT));
        std::thread::sleep(Duration::from_millis(delay_ms)); // when it is killed: somewhere within
        playground.kill_configsvr(0)?;
        let done = loading.join().is_ok_and(|answer| answer.is_ok_and(|a| a.status == 200));
        playground.start_configsvr(0)?;
        // A member that leads again under its old token knows that it was begun by its predecessor.
        let groups = until("no part of it", LIMIT, || {
            let Ok(cluster) = playground.ask_control("/api/v1/cluster") else { return Ok(Err("no answer".to_owned())) };
            ensure!(cluster["invalid"].as_array().is_some_and(Vec::is_empty), "{}", cluster["invalid"]);
            let groups = cluster["groups"].as_array().map_or(0, Vec::len);
            ensure!(groups == 0 || groups == GROUPS, "{groups} groups are seen");
            let export = playground.ask_control("/api/v1/store/export")?;
            let left = export["entries"].as_array().context("entries")?;
            let left =
                left.iter().filter(|e| e["key"].as_str().is_some_and(|k| k.starts_with("group") || k == "restoring"));
            let left = left.count();
            Ok(if left == groups && cluster["leading"] == true {
                Ok(groups)
            } else {
                Err(format!("{left} of it are left"))
            })
        })?;
        ensure!(!done || groups == GROUPS, "it was answered as done, and {groups} groups are there");
        if groups == GROUPS {
            break; // the next import would be refused
        }
        cut += 1;
    }
    say(&format!("a load was cut short {cut} times"));
    Ok(())
}

/// A twemslotctl that may hang: it does not outlive the test.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill(); // it may have ended by itself
        let _ = self.0.wait();
    }
}

impl Running {
    fn start(api: &str, words: &[&str]) -> Result<Self> {
        let mut command = Command::new(find_binary("twemslotctl")?);
        command.args(["--api", api]).args(words).env_remove("TWEMSLOT_TOKEN");
        Ok(Self(command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?))
    }

    /// It has ended in time; how long it took, and what it said, which is little.
    fn ends(mut self, what: &str, limit: Duration) -> Result<(Duration, Said)> {
        let start = Instant::now();
        let status = until(what, limit, || Ok(self.0.try_wait()?.ok_or_else(|| "it hangs".to_owned())))?;
        let took = start.elapsed();
        let (mut out, mut err) = (String::new(), String::new());
        self.0.stdout.take().context("stdout")?.read_to_string(&mut out)?;
        self.0.stderr.take().context("stderr")?.read_to_string(&mut err)?;
        Ok((took, Said { code: status.code().unwrap_or(-1), out, err }))
    }

    /// Its lines, as they come.
    fn lines(&mut self) -> Result<Receiver<String>> {
        let (send, lines) = channel();
        let out = BufReader::new(self.0.stdout.take().context("stdout")?);
        std::thread::spawn(move || out.lines().map_while(|l| l.ok()).try_for_each(|line| send.send(line)));
        Ok(lines)
    }
}

/// The configsvr that is asked first lets everybody connect and answers nobody, be it a follower or the leader.
#[test]
fn a_frozen_configsvr_holds_no_operator_up() -> Result<()> {
    let _turn = turn();
    let mut playground = Playground::start(Options { configsvrs: 3, ..small() })?;
    for leads in [false, true] {
        let first = (leader(&playground)? + if leads { 0 } else { 1 }) % 3;
        let mut all = members(&playground);
        all.rotate_left(first);
        let api = all.iter().map(|m| format!("http://{m}")).collect::<Vec<_>>().join(",");
        playground.signal_configsvr(first, Signal::SIGSTOP)?;
        let since = Instant::now();
        let mut events = Running::start(&api, &["events", "--json"])?;
        let lines = events.lines()?;
        let (status, said) = Running::start(&api, &["status"])?.ends("status", Duration::from_secs(10))?;
        ensure!(said.out.contains("MEMBER"), "status ended with {}: {}{}", said.code, said.out, said.err);
        // Whoever listens too late missed a change: the next one is seen.
        let mut renames = Vec::new();
        let heard = loop {
            let name = format!("renamed-{leads}-{}", renames.len());
            let rename = Running::start(&api, &["groups", "rename", "1", &name, "--json"])?;
            let (took, said) = rename.ends("rename", Duration::from_secs(15))?;
            ensure!(said.code == 0, "rename ended with {}: {}{}", said.code, said.out, said.err);
            let epoch = serde_json::from_str::<Value>(&said.out)?["epoch"].as_u64().context("epoch")?;
            renames.push(took);
            let seen = lines.recv_timeout(Duration::from_secs(1)).into_iter().chain(lines.try_iter());
            let events = seen.filter_map(|line| serde_json::from_str::<Value>(&line).ok());
            if events.into_iter().any(|e| e["kind"] == "topology" && e["epoch"] == epoch) {
                break since.elapsed();
            }
            ensure!(since.elapsed() < status + Duration::from_secs(15), "no news of {renames:?}");
        };
        let (doctor, said) = Running::start(&api, &["doctor"])?.ends("doctor", Duration::from_secs(30))?;
        ensure!(said.code == 1 && said.out.contains(&all[0].to_string()), "doctor: {}{}", said.out, said.err);
        say(&format!("the first is frozen, leads: {leads}: status {status:?}, renames {renames:?}, doctor {doctor:?}"));
        say(&format!("... and the news of a rename {heard:?} after the freeze"));
        playground.signal_configsvr(first, Signal::SIGCONT)?;
        ready(&playground, first)?;
    }
    Ok(())
}
