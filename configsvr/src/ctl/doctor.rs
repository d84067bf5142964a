//! `doctor`: looks at everything there is, from here, and says what to do about it.
#![expect(clippy::disallowed_methods, reason = "a shell: connects and reads the clock")]

use super::client::{Client, Reached, now_ms};
use super::fault::{Fault, Result};
use super::settings::{self, Visit};
use super::show::{json, say};
use crate::agent::link::Access;
use crate::config::Secret;
use crate::http::words::{Cluster, Member, StoreServer};
use crate::tls::{Certificates, Files, InstanceFiles, Tls};
use clap::Args;
use cluster::instance::{Addr, Role};
use serde::Serialize;
use std::collections::{BTreeMap, BTreeSet};
use std::net::{SocketAddr, TcpStream};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, Instant};

/// What is here answers at once; what is frozen never does.
const LIMIT: Duration = Duration::from_secs(2);
/// Clocks this far apart make times in logs and the audit trail mislead, and keys with a time to live go early or late at
/// another instance; nothing else decides by them.
const CLOCK_APART_MS: u64 = 500;
const NTP: &str = "let NTP keep the clocks of all machines";
/// Half of what etcd takes by default.
const ETCD_BYTES: u64 = 1 << 30;
/// Where an instance must be able to remember a failover's changes: the oldest that is tested.
const VERSION_MIN: (u32, u32) = (5, 0);

#[derive(Debug, Args)]
pub struct Doctor {
    /// The user that instances know, where they ask for one.
    #[arg(long, env = "TWEMSLOT_INSTANCE_USER")]
    instance_user: Option<String>,
    /// The password of instances.
    #[arg(long, env = "TWEMSLOT_INSTANCE_PASSWORD", hide_env_values = true)]
    instance_password: Option<String>,
    /// Instances speak TLS: who signed their certificates, in PEM.
    #[arg(long, value_name = "FILE", env = "TWEMSLOT_INSTANCE_CA")]
    instance_ca: Option<PathBuf>,
    /// What they see of us, where they ask.
    #[arg(long, value_name = "FILE", env = "TWEMSLOT_INSTANCE_CERT")]
    instance_cert: Option<PathBuf>,
    /// The key of `--instance-cert`.
    #[arg(long, value_name = "FILE", env = "TWEMSLOT_INSTANCE_KEY")]
    instance_key: Option<PathBuf>,
    /// The name in their certificates, where it is not their address.
    #[arg(long, value_name = "NAME")]
    instance_server_name: Option<String>,
    /// Set what failover rests on at each instance (CONFIG SET, CONFIG REWRITE) where it is not as it should be.
    #[arg(long)]
    fix: bool,
}

/// How bad it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Level {
    Good,
    Advice,
    Bad,
}

/// One thing that was looked at.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(super) struct Finding {
    level: Level,
    /// `instance 10.0.0.1:6379`
    subject: String,
    what: String,
    /// What to do; empty where all is well.
    hint: String,
}

/// What was found about one subject.
struct Findings<'a> {
    subject: String,
    all: &'a mut Vec<Finding>,
}

impl Findings<'_> {
    fn add(&mut self, level: Level, what: impl Into<String>, hint: &str) {
        let (subject, what, hint) = (self.subject.clone(), what.into(), hint.to_owned());
        self.all.push(Finding { level, subject, what, hint });
    }
    fn good(&mut self, what: impl Into<String>) {
        self.add(Level::Good, what, "");
    }
    fn advise(&mut self, what: impl Into<String>, hint: &str) {
        self.add(Level::Advice, what, hint);
    }
    fn bad(&mut self, what: impl Into<String>, hint: &str) {
        self.add(Level::Bad, what, hint);
    }
}

pub(super) fn run(client: &mut Client, as_json: bool, doctor: &Doctor) -> Result<ExitCode> {
    let access = access(doctor)?;
    let mut all = Vec::new();
    let seen = client.each();
    members(&seen, Level::Bad, &mut all);
    let cluster: Option<Cluster> = match client.of_leader("/api/v1/cluster") {
        Ok(cluster) => Some(cluster),
        Err(Fault { what, hint }) => {
            Findings { subject: "control plane".to_owned(), all: &mut all }.bad(what, &hint);
            None
        }
    };
    if let Some(cluster) = &cluster {
        let others: Vec<Reached> = unseen(&cluster.members, &seen).map(|m| client.look_at(&m.addr)).collect();
        // It may be that only we do not reach them: whether the leader does is among the problems.
        members(&others, Level::Advice, &mut all);
        control(cluster, &mut all);
        match client.get::<Vec<StoreServer>>("/api/v1/store/servers") {
            Ok(servers) => store_servers(&servers, &mut all),
            Err(Fault { what, hint }) => Findings { subject: "store".to_owned(), all: &mut all }.bad(what, &hint),
        }
        instances(cluster, &access, doctor.fix, &mut all);
        versions(cluster, &mut all);
        proxies(cluster, &mut all);
    }
    show(&all, as_json)?;
    Ok(if all.iter().any(|f| f.level == Level::Bad) { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

fn show(all: &[Finding], as_json: bool) -> Result<()> {
    if as_json {
        return json(&all);
    }
    for Finding { level, subject, what, hint } in gathered(all) {
        let mark = match level {
            Level::Good => "ok    ",
            Level::Advice => "advice",
            Level::Bad => "BAD   ",
        };
        say(&format!("{mark}  {subject}: {what}"))?;
        if !hint.is_empty() {
            say(&format!("        {hint}"))?;
        }
    }
    let count = |level| all.iter().filter(|f| f.level == level).count();
    say(&format!("\n{} bad, {} advice, {} well", count(Level::Bad), count(Level::Advice), count(Level::Good)))
}

/// The same about many is said once; the worst comes last, where the eye rests.
fn gathered(all: &[Finding]) -> Vec<Finding> {
    let mut gathered: Vec<Finding> = Vec::new();
    for finding in all {
        let same = |f: &&mut Finding| (f.level, &f.what, &f.hint) == (finding.level, &finding.what, &finding.hint);
        match gathered.iter_mut().find(same) {
            Some(first) => {
                first.subject.push_str(", ");
                first.subject.push_str(&finding.subject);
            }
            None => gathered.push(finding.clone()),
        }
    }
    gathered.sort_by_key(|f| f.level);
    gathered
}

/// Members of the cluster that nobody has asked yet, under whatever address.
fn unseen<'a>(members: &'a [Member], seen: &[Reached]) -> impl Iterator<Item = &'a Member> {
    let names: BTreeSet<String> = seen.iter().filter_map(|r| Some(r.said.as_ref().ok()?.member.clone())).collect();
    let addrs: BTreeSet<String> = seen.iter().filter_map(|r| Some(r.url.split_once("://")?.1.to_owned())).collect();
    members.iter().filter(move |m| !names.contains(&m.name) && !addrs.contains(&m.addr))
}

/// Each of these members: there, in step with our clock, of our version. `silent`: how bad it is where one is not there.
fn members(seen: &[Reached], silent: Level, all: &mut Vec<Finding>) {
    for Reached { url, heard_ms, took_ms, said } in seen {
        let mut member = Findings { subject: format!("configsvr {url}"), all };
        let cluster = match said {
            Ok(cluster) => cluster,
            Err(Fault { what, .. }) => {
                member.add(silent, what.clone(), "start it, or look at its log; or does a firewall keep us out?");
                continue;
            }
        };
        match apart_ms(cluster.time_ms, *heard_ms, *took_ms) {
            0..=CLOCK_APART_MS => member.good(format!("{} answers, its clock is ours", cluster.member)),
            apart => member.advise(format!("its clock is {apart} ms from ours"), NTP),
        }
        if cluster.version != env!("CARGO_PKG_VERSION") {
            let what = format!("its version is {}, twemslotctl's {}", cluster.version, env!("CARGO_PKG_VERSION"));
            member.advise(what, "bring all to one version");
        }
    }
}

/// How far a clock is from ours at least: it was read somewhere within the call, which ended at `heard_ms` of ours.
fn apart_ms(its_ms: u64, heard_ms: u64, took_ms: u64) -> u64 {
    its_ms.abs_diff(heard_ms).saturating_sub(took_ms)
}

/// Proxies of one version, which is configsvr's. One that is dead is told of elsewhere, and its version is of the past.
fn versions(c: &Cluster, all: &mut Vec<Finding>) {
    let mut by_version: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for proxy in c.proxies.iter().filter(|p| p.alive) {
        by_version.entry(&proxy.version).or_default().push(&proxy.id);
    }
    if by_version.len() > 1 {
        let each: Vec<String> =
            by_version.iter().map(|(version, ids)| format!("{version} ({})", ids.join(", "))).collect();
        let mut fleet = Findings { subject: "proxies".to_owned(), all };
        fleet.advise(format!("they are of {} versions: {}", each.len(), each.join("; ")), "finish the upgrade");
    }
    for (version, ids) in by_version.iter().filter(|(version, _)| **version != c.version) {
        let mut proxies = Findings { subject: format!("proxy {}", ids.join(", ")), all };
        proxies.advise(format!("version {version}, configsvr's is {}", c.version), "bring all to one version");
    }
}

/// What the control plane says of itself.
fn control(c: &Cluster, all: &mut Vec<Finding>) {
    let mut store = Findings { subject: format!("store {}", c.store.kind), all };
    match &c.store.fault {
        None => store.good(format!("reached, at revision {}", c.store.revision)),
        Some(fault) => {
            store.bad(fault.clone(), "bring the store back; until then nothing can be changed, and serving goes on")
        }
    }
    let voters = c.members.iter().filter(|m| m.voter).count();
    let mut quorum = Findings { subject: "control plane".to_owned(), all };
    match voters {
        0 => {}
        1 => {
            quorum.advise("one member votes: while it is away nothing can be changed", "three survive the loss of one")
        }
        n if n % 2 == 0 => {
            quorum.advise(format!("{n} members vote: no better than {}", n - 1), "make it an odd number")
        }
        n => quorum.good(format!("{n} members vote, {} may be lost", (n - 1) / 2)),
    }
    for problem in &c.problems {
        quorum.bad(problem.clone(), "see `twemslotctl status`");
    }
}

/// Each server of etcd; none where the store is embedded.
fn store_servers(servers: &[StoreServer], all: &mut Vec<Finding>) {
    for server in servers {
        let mut to = Findings { subject: format!("etcd {}", server.addr), all };
        match (&server.fault, &server.version) {
            (Some(fault), None) => to.bad(fault.clone(), "start it: until then another loss may end all changes"),
            (Some(fault), Some(_)) => to.bad(fault.clone(), "look at `etcdctl alarm list` and its log"),
            (None, version) => {
                let role = if server.leading { "the leader" } else { "a follower" };
                to.good(format!("{role}, version {}", version.as_deref().unwrap_or("?")));
            }
        }
        if let Some(bytes) = server.bytes.filter(|bytes| *bytes > ETCD_BYTES) {
            let hint = "let it compact (--auto-compaction-retention) and defragment it (etcdctl defrag): at \
                        --quota-backend-bytes, 2 GiB by default, it takes no more writes";
            to.advise(format!("its database has {} MiB", bytes >> 20), hint);
        }
    }
    if servers.len() == 1 {
        let mut to = Findings { subject: "etcd".to_owned(), all };
        let hint = "name all its servers in store.etcd.endpoints; three survive the loss of one";
        to.advise("one server is known: while it is away nothing can be changed", hint);
    }
}

fn proxies(c: &Cluster, all: &mut Vec<Finding>) {
    // Who said goodbye is not there, and need not be.
    for proxy in c.proxies.iter().filter(|p| !p.left) {
        let mut proxy_findings = Findings { subject: format!("proxy {}", proxy.id), all };
        for (what, addr) in [("clients", &proxy.addr), ("admin", &proxy.admin_addr)] {
            match reach(addr) {
                Ok(()) => proxy_findings.good(format!("its port for {what} ({addr}) can be reached")),
                Err(why) => {
                    let hint = "is it up, and does a firewall or its listen address keep us out?";
                    proxy_findings.bad(format!("its port for {what} ({addr}) cannot be reached: {why}"), hint);
                }
            }
        }
    }
}

fn reach(addr: &str) -> std::result::Result<(), String> {
    let addr = addr.strip_prefix("https://").unwrap_or(addr);
    let addr: SocketAddr = addr.parse().map_err(|_| "not an address".to_owned())?;
    TcpStream::connect_timeout(&addr, LIMIT).map(drop).map_err(|e| e.to_string())
}

fn instances(c: &Cluster, access: &Access, fix: bool, all: &mut Vec<Finding>) {
    for group in &c.groups {
        let replicas = group.replicas.iter().map(|addr| (addr, Role::Replica));
        for (addr, role) in std::iter::once((&group.primary, Role::Primary)).chain(replicas) {
            let mut instance = Findings { subject: format!("instance {addr} (group {})", group.id), all };
            match facts(addr, access) {
                Ok((facts, mut visit)) => {
                    let replicated = !group.replicas.is_empty();
                    judge(&facts, role, &group.primary, &mut instance);
                    for amiss in settings::amiss(&facts, replicated) {
                        if !fix {
                            let hint = format!("CONFIG SET {} {}: `doctor --fix` does it", amiss.name, amiss.wanted);
                            instance.advise(amiss.what, &hint);
                            continue;
                        }
                        match settings::set(&mut visit, &amiss) {
                            Ok(done) => instance.good(done),
                            Err(why) => {
                                instance.advise(format!("{}; it refuses another: {why}", amiss.what), "set it by hand")
                            }
                        }
                    }
                }
                Err(why) if why.contains("NOAUTH") || why.contains("WRONGPASS") => {
                    instance
                        .advise(why, "say --instance-user and TWEMSLOT_INSTANCE_PASSWORD, so that it can be looked at");
                }
                Err(why) => instance.bad(why, "is it up, and can this machine reach it?"),
            }
        }
        if group.replicas.is_empty() {
            let hint = "add one: twemslotctl instances add --group ID ADDR";
            let mut alone = Findings { subject: format!("group {}", group.id), all };
            alone.advise("no replica: when its primary dies, its keys are gone", hint);
        }
    }
}

/// What an instance says of itself: INFO, CONFIG GET and TIME, names to values. A server without CONFIG just says less.
type Facts = BTreeMap<String, String>;
/// Among them, and not the instance's own word: how far its clock is from ours.
const CLOCK: &str = "clock_apart_ms";

fn facts(addr: &Addr, access: &Access) -> std::result::Result<(Facts, Visit), String> {
    let mut visit = Visit::open(addr, access)?;
    let text: String = visit.ask(&redis::cmd("INFO")).map_err(|e| e.to_string())?;
    let pair = |line: &str| line.trim_end().split_once(':').map(|(name, value)| (name.to_owned(), value.to_owned()));
    let mut facts: Facts = text.lines().filter_map(pair).collect();
    for name in ["maxmemory", "maxmemory-policy", "cluster-enabled"].into_iter().chain(settings::names()) {
        let found: redis::RedisResult<BTreeMap<String, String>> = visit.ask(redis::cmd("CONFIG").arg("GET").arg(name));
        facts.extend(found.unwrap_or_default());
    }
    let start = Instant::now();
    let time: redis::RedisResult<(u64, u64)> = visit.ask(&redis::cmd("TIME"));
    if let Ok((seconds, micros)) = time {
        let apart = apart_ms(seconds * 1000 + micros / 1000, now_ms(), start.elapsed().as_millis() as u64);
        facts.insert(CLOCK.to_owned(), apart.to_string());
    }
    Ok((facts, visit))
}

/// How to speak to instances.
fn access(doctor: &Doctor) -> Result<Access> {
    let files = InstanceFiles {
        enabled: doctor.instance_ca.is_some(),
        ca_file: doctor.instance_ca.clone(),
        cert_file: doctor.instance_cert.clone(),
        key_file: doctor.instance_key.clone(),
        server_name: doctor.instance_server_name.clone(),
    };
    let certificates = Certificates::load(&Files::default(), &files)
        .map_err(|faults| Fault::new(faults.join("; "), "--instance-ca and its like name files in PEM"))?;
    let password = doctor.instance_password.clone().map(Secret::new);
    Ok(Access { user: doctor.instance_user.clone(), password, tls: Tls::new(certificates).1 })
}

/// What is right and what is not. Pure.
fn judge(facts: &Facts, role: Role, primary: &Addr, to: &mut Findings<'_>) {
    let fact = |name: &str| facts.get(name).map(String::as_str);
    let number = |name: &str| fact(name).and_then(|v| v.parse::<u64>().ok());
    judge_role(facts, role, primary, to);
    if let Some(version) = fact("redis_version") {
        let mut parts = version.split('.').map(|p| p.parse().unwrap_or(0));
        let found = (parts.next().unwrap_or(0), parts.next().unwrap_or(0));
        if found < VERSION_MIN {
            let hint = format!("{}.{} is the oldest that is tested: upgrade it", VERSION_MIN.0, VERSION_MIN.1);
            to.advise(format!("its version is {version}"), &hint);
        }
    }
    if fact("cluster_enabled") == Some("1") || fact("cluster-enabled") == Some("yes") {
        to.bad(
            "it runs in cluster mode: it refuses keys of slots that it does not own",
            "set cluster-enabled no, start it again",
        );
    }
    if let Some(apart) = number(CLOCK).filter(|apart| *apart > CLOCK_APART_MS) {
        to.advise(format!("its clock is {apart} ms from ours"), NTP);
    }
    match number("maxmemory") {
        Some(0) => {
            to.advise("no maxmemory: it grows until the machine kills it", "CONFIG SET maxmemory, below the machine's")
        }
        Some(_) if fact("maxmemory-policy").is_some_and(|p| p != "noeviction") => {
            let what =
                format!("maxmemory-policy {}: keys go when memory is short", fact("maxmemory-policy").unwrap_or("?"));
            to.advise(what, "good for a cache; for a store CONFIG SET maxmemory-policy noeviction");
        }
        _ => {}
    }
}

fn judge_role(facts: &Facts, role: Role, primary: &Addr, to: &mut Findings<'_>) {
    let fact = |name: &str| facts.get(name).map_or("?", String::as_str);
    if fact("loading") == "1" {
        to.bad("it is loading its data", "wait until it is done");
    }
    match (role, fact("role")) {
        (Role::Primary, "master") => to.good(format!("a primary, version {}", fact("redis_version"))),
        (Role::Primary, found) => {
            to.bad(format!("should be the primary, is {found}"), "look who else writes to it; then REPLICAOF NO ONE");
        }
        (Role::Replica, "slave") => {
            let follows = format!("{}:{}", fact("master_host"), fact("master_port")).parse::<Addr>();
            if follows.as_ref() != Ok(primary) {
                let what = format!("follows {}:{}, not {primary}", fact("master_host"), fact("master_port"));
                to.bad(what, "twemslotctl instances follow --group ID ADDR");
            } else if fact("master_link_status") == "up" {
                to.good(format!("a replica in step, version {}", fact("redis_version")));
            } else {
                to.bad(
                    "its link to the primary is down",
                    "look at its log; does it know the primary's password (masterauth)?",
                );
            }
        }
        (Role::Replica, found) => {
            to.bad(format!("should be a replica, is {found}"), "twemslotctl instances follow --group ID ADDR");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    const PRIMARY: &str = "10.0.0.1:6379";

    fn found(role: Role, facts: &[(&str, &str)]) -> Vec<(Level, String)> {
        let facts = facts.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
        let mut all = Vec::new();
        let mut to = Findings { subject: "it".to_owned(), all: &mut all };
        judge(&facts, role, &PRIMARY.parse().expect("an address"), &mut to);
        assert!(all.iter().all(|f| (f.level == Level::Good) == f.hint.is_empty()), "{all:?}");
        all.into_iter().map(|f| (f.level, f.what)).collect()
    }

    const GOOD: [(&str, &str); 4] =
        [("role", "master"), ("redis_version", "7.0.15"), ("maxmemory", "1000000"), ("maxmemory-policy", "noeviction")];

    #[test]
    fn a_good_instance_gets_no_advice() {
        let in_step = [&GOOD[..], &[(CLOCK, "500")]].concat();
        assert_eq!(found(Role::Primary, &in_step), [(Level::Good, "a primary, version 7.0.15".to_owned())]);
    }

    #[test]
    fn each_fault_is_named() {
        for (name, value, level, word) in [
            ("role", "slave", Level::Bad, "should be the primary"),
            ("loading", "1", Level::Bad, "loading"),
            ("cluster_enabled", "1", Level::Bad, "cluster mode"),
            ("redis_version", "3.2.1", Level::Advice, "3.2.1"),
            (CLOCK, "501", Level::Advice, "its clock is 501 ms from ours"),
            ("maxmemory", "0", Level::Advice, "no maxmemory"),
            ("maxmemory-policy", "allkeys-lru", Level::Advice, "allkeys-lru"),
        ] {
            let mut facts = GOOD.to_vec();
            facts.retain(|(n, _)| *n != name);
            facts.push((name, value));
            let found = found(Role::Primary, &facts);
            assert!(found.iter().any(|(l, what)| *l == level && what.contains(word)), "{name} {value}: {found:?}");
        }
    }

    #[test]
    fn a_replica_follows_its_own_primary() {
        let follows = |host: &'static str, link: &'static str| {
            let role =
                [("role", "slave"), ("master_host", host), ("master_port", "6379"), ("master_link_status", link)];
            found(Role::Replica, &[&GOOD[1..], &role].concat())[0].clone()
        };
        assert_eq!(follows("10.0.0.1", "up").0, Level::Good);
        assert!(follows("10.0.0.9", "up").1.contains("follows 10.0.0.9:6379, not 10.0.0.1:6379"));
        assert!(follows("10.0.0.1", "down").1.contains("link to the primary is down"));
        assert!(found(Role::Replica, &GOOD)[0].1.contains("should be a replica"));
    }

    /// As a member tells it: of members `m1` and `m2`, and of these proxies: id, version, alive.
    fn cluster(member: &str, time_ms: u64, proxies: &[(&str, &str, bool)]) -> Cluster {
        let proxy = |(id, version, alive): &(&str, &str, bool)| {
            json!({"id": id, "version": version, "addr": "", "admin_addr": "", "zone": "", "epoch": 1, "draining": false,
                   "started_at": 1, "alive": alive, "last_beat_ms": 1, "push_fault": null, "instances": []})
        };
        let named = |id: u64| {
            json!({"id": id, "name": format!("m{id}"), "addr": format!("10.0.0.{id}:6390"), "voter": true,
                   "leader": false, "reachable": true, "behind": 0})
        };
        let json = json!({"created": true, "name": "shop", "slot_count": 1024, "tag_rule": "redis", "epoch": 7,
            "member": member, "version": env!("CARGO_PKG_VERSION"), "time_ms": time_ms, "leading": true, "leader": "m1",
            "leader_addr": "10.0.0.1:6390", "store": {"kind": "embedded", "revision": 99, "fault": null},
            "members": [named(1), named(2)], "groups": [], "slots_unassigned": 0,
            "proxies": proxies.iter().map(proxy).collect::<Vec<_>>(), "alarms": [], "invalid": [], "problems": []});
        serde_json::from_value(json).expect("a cluster")
    }

    fn reached(url: &str, said: Result<Cluster>) -> Reached {
        Reached { url: url.to_owned(), heard_ms: 10_000, took_ms: 100, said }
    }

    #[test]
    fn clocks_of_members_are_compared_as_of_their_answers() {
        let level = |time_ms| {
            let mut all = Vec::new();
            members(&[reached("http://a:1", Ok(cluster("m1", time_ms, &[])))], Level::Bad, &mut all);
            (all[0].level, all.len())
        };
        assert_eq!([9_400, 10_600].map(level), [(Level::Good, 1); 2]);
        assert_eq!([9_399, 10_601].map(level), [(Level::Advice, 1); 2]);
        let mut all = Vec::new();
        members(&[reached("http://a:1", Err(Fault::new("gone", "")))], Level::Advice, &mut all);
        assert_eq!((all[0].level, all[0].what.as_str()), (Level::Advice, "gone"));
    }

    #[test]
    fn each_member_is_looked_at_once() {
        let known = cluster("m1", 0, &[]).members;
        let names = |seen: &[Reached]| unseen(&known, seen).map(|m| m.name.clone()).collect::<Vec<_>>();
        let gone = || Err(Fault::new("gone", ""));
        assert_eq!(names(&[reached("http://vip:6390", Ok(cluster("m2", 0, &[])))]), ["m1"]);
        assert_eq!(names(&[reached("https://10.0.0.1:6390", gone())]), ["m2"]);
        assert_eq!(names(&[reached("http://vip:6390", gone())]), ["m1", "m2"]);
    }

    #[test]
    fn versions_of_proxies_are_compared() {
        let ours = env!("CARGO_PKG_VERSION");
        let found = |proxies: &[(&str, &str, bool)]| {
            let mut all = Vec::new();
            versions(&cluster("m1", 0, proxies), &mut all);
            assert!(all.iter().all(|f| f.level == Level::Advice && !f.hint.is_empty()), "{all:?}");
            all.into_iter().map(|f| format!("{}: {}", f.subject, f.what)).collect::<Vec<_>>()
        };
        assert!(found(&[]).is_empty());
        assert!(found(&[("p1", ours, true), ("p2", ours, true), ("p3", "0.0.1", false)]).is_empty());
        let old = format!("proxy p1, p2: version 0.0.1, configsvr's is {ours}");
        assert_eq!(found(&[("p1", "0.0.1", true), ("p2", "0.0.1", true)]), [old.as_str()]);
        let mixed = format!("proxies: they are of 2 versions: 0.0.1 (p1, p2); {ours} (p3)");
        assert_eq!(found(&[("p1", "0.0.1", true), ("p2", "0.0.1", true), ("p3", ours, true)]), [mixed, old]);
    }

    #[test]
    fn each_server_of_etcd_is_judged() {
        let server = |addr: &str, version: Option<&str>, bytes, fault: Option<&str>| StoreServer {
            addr: addr.to_owned(),
            version: version.map(str::to_owned),
            leading: false,
            bytes,
            fault: fault.map(str::to_owned),
        };
        let mut all = Vec::new();
        let servers = [
            server("a", Some("3.4.23"), Some(1), None),
            server("b", None, None, Some("refused")),
            server("c", Some("3.4.23"), Some(2 << 30), Some("NOSPACE")),
        ];
        store_servers(&servers, &mut all);
        let found: Vec<_> = all.iter().map(|f| (f.level, f.subject.as_str())).collect();
        let bad = Level::Bad;
        assert_eq!(found, [(Level::Good, "etcd a"), (bad, "etcd b"), (bad, "etcd c"), (Level::Advice, "etcd c")]);
        store_servers(&[], &mut all);
        store_servers(&servers[..1], &mut all);
        assert_eq!(all.len(), 6, "{all:?}");
        assert!(all[5].what.contains("one server"), "{all:?}");
    }

    #[test]
    fn the_same_about_many_is_said_once() {
        let finding = |level, subject: &str, what: &str| Finding {
            level,
            subject: subject.to_owned(),
            what: what.to_owned(),
            hint: String::new(),
        };
        let all = [finding(Level::Bad, "a", "x"), finding(Level::Advice, "a", "y"), finding(Level::Advice, "b", "y")];
        let expected = [finding(Level::Advice, "a, b", "y"), finding(Level::Bad, "a", "x")];
        assert_eq!(gathered(&all), expected);
    }

    #[test]
    fn a_servers_facts_may_be_few() {
        assert_eq!(found(Role::Primary, &[("role", "master")]).len(), 1);
    }
}
