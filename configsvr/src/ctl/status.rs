//! The whole cluster on one screen.

use super::client::Client;
use super::fault::Result;
use super::show::{json, or_dash, say, table, time};
use crate::http::words::{Cluster, Group, Member, Proxy};
use cluster::beat::Sight;
use serde_json::Value;
use std::process::ExitCode;

pub(super) fn show(client: &mut Client, as_json: bool) -> Result<ExitCode> {
    let cluster: Cluster = client.of_leader("/api/v1/cluster")?;
    if as_json {
        json(&cluster)?;
    } else {
        say(&screen(&cluster))?;
    }
    Ok(if cluster.problems.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// The screen: head, members, groups, proxies, and what is wrong, last, where the eye rests.
pub(super) fn screen(c: &Cluster) -> String {
    let mut parts = vec![head(c), members(&c.members)];
    if !c.groups.is_empty() {
        parts.push(groups(&c.groups));
    }
    if !c.proxies.is_empty() {
        parts.push(proxies(&c.proxies, c.epoch));
    }
    parts.push(match c.problems.as_slice() {
        [] => "All is well.".to_owned(),
        problems => problems.iter().map(|p| format!("! {p}")).collect::<Vec<_>>().join("\n"),
    });
    parts.retain(|p| !p.is_empty());
    parts.join("\n\n")
}

fn head(c: &Cluster) -> String {
    let cluster = match (&c.name, c.slot_count) {
        (Some(name), Some(slots)) => format!("{name}: epoch {}, {slots} slots", c.epoch),
        _ => "no cluster yet".to_owned(),
    };
    let store = format!("store {} at revision {}", c.store.kind, c.store.revision);
    let leader = c.leader.as_ref().map_or_else(|| "no leader".to_owned(), |leader| format!("leader {leader}"));
    format!("{cluster}; {store}; {leader}; {} (as {} sees it)", time(c.time_ms), c.member)
}

pub(super) fn members(members: &[Member]) -> String {
    if members.is_empty() {
        return String::new();
    }
    let row = |m: &Member| {
        let role = match (m.leader, m.voter) {
            (true, _) => "leader",
            (_, true) => "voter",
            _ => "learner",
        };
        let state = match (m.reachable, m.behind) {
            (Some(false), _) => "! silent".to_owned(),
            (_, Some(0)) => "in step".to_owned(),
            (_, Some(behind)) => format!("{behind} behind"),
            (Some(true), None) => "reachable".to_owned(),
            (None, None) => "-".to_owned(),
        };
        vec![m.name.clone(), m.id.to_string(), m.addr.clone(), role.to_owned(), state]
    };
    table(&["MEMBER", "ID", "ADDR", "ROLE", "STATE"], members.iter().map(row))
}

pub(super) fn groups(groups: &[Group]) -> String {
    let row = |g: &Group| {
        let replicas: Vec<String> = g.replicas.iter().map(ToString::to_string).collect();
        let replicas = Some(replicas.join(" ")).filter(|r| !r.is_empty());
        vec![g.id.to_string(), g.name.clone(), g.slots.to_string(), g.primary.to_string(), or_dash(replicas)]
    };
    table(&["GROUP", "NAME", "SLOTS", "PRIMARY", "REPLICAS"], groups.iter().map(row))
}

/// `epoch`: the one in force.
pub(super) fn proxies(proxies: &[Proxy], epoch: u64) -> String {
    let row = |p: &Proxy| {
        let state = match (p.problem(epoch), p.draining) {
            (None, _) if p.left => "stopped",
            (Some(_), _) if !p.alive => "! dead",
            (Some(_), _) => "! behind",
            (None, true) => "draining",
            (None, false) => "alive",
        };
        let beat = or_dash(p.last_beat_ms.map(|ms| format!("{:.1} s", ms as f64 / 1000.0)));
        let zone = or_dash(Some(&p.zone).filter(|z| !z.is_empty()));
        let (addr, admin, epoch) = (p.addr.clone(), p.admin_addr.clone(), p.epoch.to_string());
        vec![p.id.clone(), addr, admin, epoch, state.to_owned(), beat, zone, p.version.clone()]
    };
    table(&["PROXY", "ADDR", "ADMIN", "EPOCH", "STATE", "BEAT", "ZONE", "VERSION"], proxies.iter().map(row))
}

/// One proxy, and how it sees the primaries.
pub(super) fn proxy(proxy: &Proxy, epoch: u64) -> String {
    let row = |sight: &Sight| {
        let down = if sight.links_up < sight.links { "! " } else { "" };
        let links = format!("{down}{} of {}", sight.links_up, sight.links);
        let reply = or_dash(sight.last_reply_ms.map(|ms| format!("{:.1} s", ms as f64 / 1000.0)));
        vec![sight.addr.to_string(), links, reply]
    };
    let mut parts = vec![proxies(std::slice::from_ref(proxy), epoch)];
    parts.extend(proxy.push_fault.as_ref().map(|why| format!("the last push to it failed: {why}")));
    parts.push(table(&["PRIMARY", "LINKS UP", "LAST REPLY"], proxy.instances.iter().map(row)));
    parts.join("\n\n")
}

/// Instances as the API tells of them.
pub(super) fn instances(instances: &[Value]) -> String {
    let row = |i: &Value| {
        let text = |name: &str| match &i[name] {
            Value::Null => "-".to_owned(),
            Value::String(text) => text.clone(),
            other => other.to_string(),
        };
        let link = i["link_up"].as_bool().map_or("-", |up| if up { "up" } else { "! down" }).to_owned();
        let heard = or_dash(i["heard_ms"].as_u64().map(|ms| format!("{:.1} s", ms as f64 / 1000.0)));
        let verdict = if i["verdict"] == "up" { "up".to_owned() } else { format!("! {}", text("verdict")) };
        let own = ["group", "addr", "role"].map(text).to_vec();
        [own, vec![verdict, link, text("offset"), heard, text("version"), text("fault")]].concat()
    };
    let header = ["GROUP", "ADDR", "ROLE", "VERDICT", "LINK", "OFFSET", "HEARD", "VERSION", "FAULT"];
    table(&header, instances.iter().map(row))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn cluster(problems: &[&str]) -> Cluster {
        let proxy = |id: &str, epoch: u64, alive: bool| {
            json!({"id": id, "version": "0.1.0", "addr": "10.0.0.9:6380",
            "admin_addr": "10.0.0.9:6381", "zone": "", "epoch": epoch, "draining": false, "started_at": 1, "alive": alive,
            "last_beat_ms": 1234, "push_fault": null, "instances": []})
        };
        let json = json!({"created": true, "name": "shop", "slot_count": 1024, "tag_rule": "redis", "epoch": 7,
            "member": "m1", "version": "0.1.0", "time_ms": 0, "leading": true, "leader": "m1", "leader_addr": "10.0.0.1:6390",
            "store": {"kind": "embedded", "revision": 99, "fault": null},
            "members": [{"id": 1, "name": "m1", "addr": "10.0.0.1:6390", "voter": true, "leader": true, "reachable": true,
                         "behind": 0},
                        {"id": 2, "name": "m2", "addr": "10.0.0.2:6390", "voter": false, "leader": false,
                         "reachable": false, "behind": null}],
            "groups": [{"id": 1, "name": "g1", "primary": "10.0.0.1:6379", "replicas": ["10.0.0.2:6379"], "slots": 1024}],
            "slots_unassigned": 0, "proxies": [proxy("p1", 7, true), proxy("p2", 6, true), proxy("p3", 7, false)],
            "alarms": [], "invalid": [], "problems": problems});
        serde_json::from_value(json).expect("a cluster")
    }

    #[test]
    fn all_on_one_screen() {
        let expected = "\
shop: epoch 7, 1024 slots; store embedded at revision 99; leader m1; 1970-01-01 00:00:00 (as m1 sees it)

MEMBER  ID  ADDR           ROLE     STATE
m1      1   10.0.0.1:6390  leader   in step
m2      2   10.0.0.2:6390  learner  ! silent

GROUP  NAME  SLOTS  PRIMARY        REPLICAS
1      g1    1024   10.0.0.1:6379  10.0.0.2:6379

PROXY  ADDR           ADMIN          EPOCH  STATE     BEAT   ZONE  VERSION
p1     10.0.0.9:6380  10.0.0.9:6381  7      alive     1.2 s  -     0.1.0
p2     10.0.0.9:6380  10.0.0.9:6381  6      ! behind  1.2 s  -     0.1.0
p3     10.0.0.9:6380  10.0.0.9:6381  7      ! dead    1.2 s  -     0.1.0

! proxy p3 (10.0.0.9:6381): no heartbeat";
        assert_eq!(screen(&cluster(&["proxy p3 (10.0.0.9:6381): no heartbeat"])), expected);
        assert!(screen(&cluster(&[])).ends_with("All is well."));
    }

    #[test]
    fn one_proxy_and_what_it_sees() {
        let addr = |port: u16| format!("10.0.0.1:{port}").parse().expect("an address");
        let sight = |port, links_up, last_reply_ms| Sight { addr: addr(port), links_up, links: 2, last_reply_ms };
        let instances = vec![sight(6379, 2, Some(1234)), sight(6380, 0, None)];
        let seen = Proxy { instances, push_fault: Some("refused".to_owned()), ..cluster(&[]).proxies.remove(0) };
        let expected = "\
PROXY  ADDR           ADMIN          EPOCH  STATE     BEAT   ZONE  VERSION
p1     10.0.0.9:6380  10.0.0.9:6381  7      ! behind  1.2 s  -     0.1.0

the last push to it failed: refused

PRIMARY        LINKS UP  LAST REPLY
10.0.0.1:6379  2 of 2    1.2 s
10.0.0.1:6380  ! 0 of 2  -";
        assert_eq!(proxy(&seen, 7), expected);
    }
}
