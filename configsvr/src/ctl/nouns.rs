//! The verbs that change or list one noun: a file's worth of arguments, and what each asks of the API.

use super::change::{Change, Terms, change, perform};
use super::client::{Ask, Client, id_of, part, read};
use super::failovers;
use super::fault::{Fault, Result};
use super::ranges::{Ranges, ranges};
use super::rebalance;
use super::show::{bytes, json, or_dash, say, table};
use super::status;
use super::traffic;
use crate::http::words::{Cluster, Group, InstanceMemory, Member, Proxy, Settings, Slots, SlotsOf};
use clap::Subcommand;
use cluster::group::GroupId;
use cluster::instance::{Addr, Role};
use cluster::slot::{SLOT_COUNT_DEFAULT, Slot};
use serde_json::{Value, json};
use std::process::ExitCode;

#[derive(Debug, Subcommand)]
pub enum ClusterVerb {
    /// Begin a cluster in an empty store.
    Create {
        /// What `status` and the dashboard call it.
        #[arg(long)]
        name: String,
        /// Fixed for ever.
        #[arg(long, value_name = "N", default_value_t = SLOT_COUNT_DEFAULT)]
        slots: u16,
        /// Fixed for ever. codis: a key with an empty tag, as {}a, hashes the empty string, as Codis does.
        #[arg(long, value_name = "redis|codis", default_value = "redis", value_parser = ["redis", "codis"])]
        tag_rule: String,
        #[command(flatten)]
        terms: Terms,
    },
    /// All that `status` shows. Ends with 0 whatever it shows.
    Show,
}

#[derive(Debug, Subcommand)]
pub enum GroupsVerb {
    /// A line for each: how many slots it owns, its primary, its replicas.
    List,
    /// One of them, with the slots it owns.
    Show {
        /// Its id or its name.
        group: String,
    },
    /// Add a group, without slots unless --rebalance is said. Its instances are probed first.
    Add {
        /// Where the primary listens; @ZONE says where it stands.
        #[arg(long, value_name = "ADDR[@ZONE]", value_parser = placed)]
        primary: Placed,
        /// May be given more than once.
        #[arg(long, value_name = "ADDR[@ZONE]", value_parser = placed)]
        replica: Vec<Placed>,
        /// Otherwise: the least number that is free.
        #[arg(long)]
        id: Option<GroupId>,
        /// Otherwise: g and its id.
        #[arg(long)]
        name: Option<String>,
        /// The primary may hold keys; replicas lose theirs by following it.
        #[arg(long)]
        take_data: bool,
        #[command(flatten)]
        part: rebalance::Part,
        #[command(flatten)]
        terms: Terms,
    },
    /// Remove a group that owns no slot. Its instances are left as they are.
    Remove {
        /// Its id or its name.
        group: String,
        #[command(flatten)]
        terms: Terms,
    },
    /// Another name for a group. Its id stays.
    Rename {
        /// Its id or its name.
        group: String,
        /// The new name.
        name: String,
        #[command(flatten)]
        terms: Terms,
    },
    /// What its instances use and may use; or, with a size, how much each may use from now on.
    Maxmemory {
        /// Its id or its name.
        group: String,
        /// As Redis says it: 4gb, 512mb, or bytes; 0: as much as there is.
        #[arg(value_parser = size)]
        size: Option<u64>,
        /// Also where an instance uses more now: it refuses writes, or gives up keys.
        #[arg(long)]
        force: bool,
        #[command(flatten)]
        terms: Terms,
    },
    /// Move all its slots to the other groups, so that it can be removed; with --remove it is.
    Drain(rebalance::Drain),
    /// Restart all its instances, one after another, without an end to its service: replicas, a switchover, the old primary.
    Roll {
        /// Its id or its name.
        group: String,
        /// What restarts one of them; {addr} stands for its address. It is in step again before the next one's turn.
        #[arg(long, value_name = "COMMAND")]
        exec: String,
        #[command(flatten)]
        terms: Terms,
    },
}

#[derive(Debug, Subcommand)]
pub enum InstancesVerb {
    /// How each is seen: what it is, how far it is, what speaks against it.
    List,
    /// Add a replica: it is probed, told to follow the primary, then put into the topology.
    Add {
        /// Its id or its name.
        #[arg(long)]
        group: String,
        /// Where it listens; @ZONE says where it stands.
        #[arg(value_name = "ADDR[@ZONE]", value_parser = placed)]
        instance: Placed,
        /// It may hold keys, which it loses by following.
        #[arg(long)]
        take_data: bool,
        #[command(flatten)]
        terms: Terms,
    },
    /// Remove a replica from the topology. It is left as it is.
    Remove {
        /// Its id or its name.
        #[arg(long)]
        group: String,
        /// Where it listens.
        addr: Addr,
        #[command(flatten)]
        terms: Terms,
    },
    /// Tell an instance once more to follow its group's primary.
    Follow {
        /// Its id or its name.
        #[arg(long)]
        group: String,
        /// Where it listens.
        addr: Addr,
        #[command(flatten)]
        terms: Terms,
    },
}

#[derive(Debug, Subcommand)]
pub enum SlotsVerb {
    /// Who owns them, and what state they are in.
    List {
        /// A line for each slot.
        #[arg(long)]
        per_slot: bool,
    },
    /// Give slots to a group. Those that another one owns need --force: their keys stay behind there.
    Assign {
        /// Its id or its name; `none` takes them from whoever owns them.
        #[arg(long)]
        group: String,
        /// `0-511,600`, numbered from 0.
        #[arg(long, value_name = "RANGES", value_parser = ranges)]
        slots: Ranges,
        /// Also slots that another group owns: what was written there is not found any more.
        #[arg(long)]
        force: bool,
        #[command(flatten)]
        terms: Terms,
    },
    /// The slots that were asked for most, since the proxies started.
    Traffic(traffic::Top),
    /// Give the slots that nobody owns to groups, so that they own equally many as far as possible.
    Spread {
        /// Otherwise: all groups.
        #[arg(long, value_name = "GROUP")]
        group: Vec<String>,
        #[command(flatten)]
        terms: Terms,
    },
}

#[derive(Debug, Subcommand)]
pub enum ProxiesVerb {
    /// A line for each: where it listens, which epoch it serves, when it was heard of.
    List {
        /// Only where a client may connect: alive, and not draining.
        #[arg(long)]
        alive: bool,
    },
    /// All that is known of one: what it serves, and how it sees the instances.
    Show {
        /// As `proxies list` names it.
        id: String,
    },
    /// No new clients for this proxy.
    Drain {
        /// As `proxies list` names it.
        id: String,
        #[command(flatten)]
        terms: Terms,
    },
    /// Back in service.
    Undrain {
        /// As `proxies list` names it.
        id: String,
        #[command(flatten)]
        terms: Terms,
    },
    /// Forget a proxy now. One that lives comes back with its next heartbeat.
    Remove {
        /// As `proxies list` names it.
        id: String,
        #[command(flatten)]
        terms: Terms,
    },
}

#[derive(Debug, Subcommand)]
pub enum MembersVerb {
    /// A line for each: who leads, who votes, who is in step.
    List,
    /// Add a member; it learns, and does not vote yet.
    Add {
        /// As in its own configuration.
        #[arg(long)]
        id: u64,
        /// What it is called in lists; as in its own configuration.
        #[arg(long)]
        name: String,
        /// Where its API is.
        #[arg(long, value_name = "HOST:PORT")]
        addr: String,
        #[command(flatten)]
        terms: Terms,
    },
    /// Let a member vote.
    Promote {
        /// As `members list` names it.
        name: String,
        #[command(flatten)]
        terms: Terms,
    },
    /// A member that does not vote any more, nor learn. End it afterwards.
    Remove {
        /// As `members list` names it.
        name: String,
        #[command(flatten)]
        terms: Terms,
    },
}

#[derive(Debug, Subcommand)]
pub enum SettingsVerb {
    /// All of them.
    Show,
    /// What is not named stays.
    Set {
        /// How long a proxy that says nothing stays registered.
        #[arg(long, value_name = "SECONDS")]
        proxy_ttl: Option<u64>,
        #[command(flatten)]
        terms: Terms,
    },
}

/// An address, and where it stands.
#[derive(Debug, Clone)]
pub struct Placed {
    addr: Addr,
    zone: Option<String>,
}

impl Placed {
    fn json(&self) -> Value {
        json!({ "addr": self.addr, "zone": self.zone })
    }
}

fn placed(text: &str) -> std::result::Result<Placed, String> {
    let (addr, zone) = text.split_once('@').map_or((text, None), |(addr, zone)| (addr, Some(zone.to_owned())));
    Ok(Placed { addr: addr.parse()?, zone })
}

pub(super) fn ask(method: &'static str, path: String, body: Option<Value>) -> Ask<'static> {
    Ask { method, path, body }
}

pub(super) fn plain(ask: Ask<'static>, terms: Terms) -> Change<'static> {
    Change { ask, danger: None, terms }
}

fn dangerous(ask: Ask<'static>, terms: Terms, danger: &str) -> Change<'static> {
    Change { ask, danger: Some(danger.to_owned()), terms }
}

/// A list: the API's own JSON, or a table.
/// As Redis says sizes: `kb` is 1024, `k` 1000.
fn size(text: &str) -> std::result::Result<u64, String> {
    let text = text.to_ascii_lowercase();
    let at = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (digits, unit) = text.split_at(at);
    let times: u64 = match unit {
        "" | "b" => 1,
        "k" => 1000,
        "kb" => 1 << 10,
        "m" => 1_000_000,
        "mb" => 1 << 20,
        "g" => 1_000_000_000,
        "gb" => 1 << 30,
        _ => return Err(format!("{unit:?} is no unit: b, kb, mb, gb (of 1024), or k, m, g (of 1000)")),
    };
    let number: u64 = digits.parse().map_err(|_| "a number, as in 4gb".to_owned())?;
    number.checked_mul(times).ok_or_else(|| "more than there is anywhere".to_owned())
}

fn memory(all: &[InstanceMemory]) -> String {
    let row = |i: &InstanceMemory| {
        let most = match i.max_bytes {
            Some(0) => "no limit".to_owned(),
            most => or_dash(most.map(bytes)),
        };
        let role = if i.role == Role::Primary { "primary" } else { "replica" };
        vec![i.addr.to_string(), role.to_owned(), or_dash(i.used_bytes.map(bytes)), most, or_dash(i.error.as_ref())]
    };
    table(&["INSTANCE", "ROLE", "USES", "MAY USE", "FAULT"], all.iter().map(row))
}

pub(super) fn list<T: serde::Serialize>(
    as_json: bool,
    items: &T,
    table: impl FnOnce(&T) -> String,
) -> Result<ExitCode> {
    if as_json {
        json(items)?;
    } else {
        say(&table(items))?;
    }
    Ok(ExitCode::SUCCESS)
}

pub(super) fn cluster(client: &mut Client, as_json: bool, verb: ClusterVerb) -> Result<ExitCode> {
    match verb {
        ClusterVerb::Create { name, slots, tag_rule, terms } => {
            let body = json!({ "name": name, "slot_count": slots, "tag_rule": tag_rule });
            change(client, as_json, plain(ask("POST", "/api/v1/cluster".to_owned(), Some(body)), terms))
        }
        ClusterVerb::Show => {
            let cluster: Cluster = client.of_leader("/api/v1/cluster")?;
            list(as_json, &cluster, status::screen)
        }
    }
}

pub(super) fn groups(client: &mut Client, as_json: bool, verb: GroupsVerb) -> Result<ExitCode> {
    match verb {
        GroupsVerb::List => {
            let groups: Vec<Group> = client.get("/api/v1/groups")?;
            list(as_json, &groups, |g| status::groups(g))
        }
        GroupsVerb::Show { group } => {
            let id = id_of(client, &group)?;
            let group: Group = client.get(&format!("/api/v1/groups/{id}"))?;
            list(as_json, &group, |g| status::groups(std::slice::from_ref(g)))
        }
        GroupsVerb::Add { primary, replica, id, name, take_data, part, terms } => {
            if part.is_idle() {
                return Err(Fault::new("this is about the slots it is to get", "say --rebalance as well"));
            }
            let replicas: Vec<Value> = replica.iter().map(Placed::json).collect();
            let body = json!({ "id": id, "name": name, "primary": primary.json(), "replicas": replicas, "take_data": take_data });
            if part.rebalance {
                return rebalance::add(client, as_json, body, &part, terms);
            }
            let ask = ask("POST", "/api/v1/groups".to_owned(), Some(body));
            let danger = "Instances that are to follow lose the keys they hold.";
            let change_ = if take_data { dangerous(ask, terms, danger) } else { plain(ask, terms) };
            change(client, as_json, change_)
        }
        GroupsVerb::Remove { group, terms } => {
            let ask = ask("DELETE", format!("/api/v1/groups/{}", id_of(client, &group)?), None);
            change(client, as_json, dangerous(ask, terms, "The group goes; its instances are left as they are."))
        }
        GroupsVerb::Drain(what) => rebalance::drain(client, as_json, &what),
        GroupsVerb::Roll { group, exec, terms } => failovers::roll(client, &group, &exec, terms),
        GroupsVerb::Maxmemory { group, size, force, terms } => {
            let path = format!("/api/v1/groups/{}/maxmemory", id_of(client, &group)?);
            let dry = terms.dry_run;
            if let Some(bytes) = size {
                let body = json!({ "bytes": bytes, "force": force });
                perform(client, plain(ask("PUT", path.clone(), Some(body)), terms), |plan| Ok(plan.to_owned()))?;
            }
            let all: Vec<InstanceMemory> = client.of_leader(&path)?;
            list(as_json, &all, |all| memory(all))?;
            let amiss = |i: &InstanceMemory| i.error.is_some() || size.is_some_and(|n| !dry && i.max_bytes != Some(n));
            Ok(ExitCode::from(u8::from(all.iter().any(amiss))))
        }
        GroupsVerb::Rename { group, name, terms } => {
            let path = format!("/api/v1/groups/{}", id_of(client, &group)?);
            change(client, as_json, plain(ask("PATCH", path, Some(json!({ "name": name }))), terms))
        }
    }
}

pub(super) fn instances(client: &mut Client, as_json: bool, verb: InstancesVerb) -> Result<ExitCode> {
    match verb {
        InstancesVerb::List => {
            let instances: Vec<Value> = client.of_leader("/api/v1/instances")?;
            list(as_json, &instances, |i| status::instances(i))
        }
        InstancesVerb::Add { group, instance, take_data, terms } => {
            let path = format!("/api/v1/groups/{}/instances", id_of(client, &group)?);
            let mut body = instance.json();
            body["take_data"] = take_data.into();
            let ask = ask("POST", path, Some(body));
            let danger = format!("{} loses the keys it holds by following.", instance.addr);
            let change_ = if take_data { dangerous(ask, terms, &danger) } else { plain(ask, terms) };
            change(client, as_json, change_)
        }
        InstancesVerb::Remove { group, addr, terms } => {
            let path = format!("/api/v1/groups/{}/instances/{}", id_of(client, &group)?, part(&addr.to_string()));
            let danger = "The group has one replica less; the instance is left as it is.";
            change(client, as_json, dangerous(ask("DELETE", path, None), terms, danger))
        }
        InstancesVerb::Follow { group, addr, terms } => {
            let path =
                format!("/api/v1/groups/{}/instances/{}/follow", id_of(client, &group)?, part(&addr.to_string()));
            change(client, as_json, plain(ask("POST", path, None), terms))
        }
    }
}

pub(super) fn slots(client: &mut Client, as_json: bool, verb: SlotsVerb) -> Result<ExitCode> {
    match verb {
        SlotsVerb::List { per_slot } => {
            let slots: Slots = client.get(&format!("/api/v1/slots?per_slot={per_slot}"))?;
            list(as_json, &slots.ranges, |ranges| slot_table(ranges))
        }
        SlotsVerb::Traffic(top) => traffic::slots(client, as_json, &top),
        SlotsVerb::Assign { group, slots, force, terms } => {
            let group = if group == "none" { None } else { Some(id_of(client, &group)?) };
            let range = |(from, to): &(Slot, Slot)| json!({ "from": from, "to": to, "group": group });
            let body = json!({ "ranges": slots.0.iter().map(range).collect::<Vec<_>>(), "force": force });
            let ask = ask("POST", "/api/v1/slots/assign".to_owned(), Some(body));
            let danger = "Keys of slots that another group owns stay behind there: clients will not see them any more.";
            let change_ = if force { dangerous(ask, terms, danger) } else { plain(ask, terms) };
            change(client, as_json, change_)
        }
        SlotsVerb::Spread { group, terms } => {
            let ids = group.iter().map(|g| id_of(client, g)).collect::<Result<Vec<_>>>()?;
            let body = json!({ "groups": ids });
            change(client, as_json, plain(ask("POST", "/api/v1/slots/spread".to_owned(), Some(body)), terms))
        }
    }
}

fn slot_table(ranges: &[SlotsOf]) -> String {
    let row = |r: &SlotsOf| {
        let state = match r.target {
            Some(target) => format!("moving -> {target}"),
            None => format!("{:?}", r.state).to_lowercase(),
        };
        let slots = if r.from == r.to { r.from.to_string() } else { format!("{}-{}", r.from, r.to) };
        vec![slots, (u32::from(r.to - r.from) + 1).to_string(), or_dash(r.group), state]
    };
    table(&["SLOTS", "COUNT", "GROUP", "STATE"], ranges.iter().map(row))
}

pub(super) fn proxies(client: &mut Client, as_json: bool, verb: ProxiesVerb) -> Result<ExitCode> {
    let path = |id: &str, more: &str| format!("/api/v1/proxies/{}{more}", part(id));
    match verb {
        ProxiesVerb::List { alive } => {
            let mut proxies: Vec<Proxy> = client.of_leader("/api/v1/proxies")?;
            proxies.retain(|p| !alive || (p.alive && !p.draining));
            if as_json {
                return json(&proxies).map(|()| ExitCode::SUCCESS);
            }
            let cluster: Cluster = client.get("/api/v1/cluster")?;
            list(as_json, &proxies, |p| status::proxies(p, cluster.epoch))
        }
        ProxiesVerb::Show { id } => {
            let proxy: Proxy = client.of_leader(&path(&id, ""))?;
            if as_json {
                return json(&proxy).map(|()| ExitCode::SUCCESS);
            }
            let cluster: Cluster = client.get("/api/v1/cluster")?;
            list(as_json, &proxy, |p| status::proxy(p, cluster.epoch))
        }
        ProxiesVerb::Drain { id, terms } => {
            let ask = ask("POST", path(&id, "/drain"), Some(json!({ "draining": true })));
            change(client, as_json, plain(ask, terms))
        }
        ProxiesVerb::Undrain { id, terms } => {
            let ask = ask("POST", path(&id, "/drain"), Some(json!({ "draining": false })));
            change(client, as_json, plain(ask, terms))
        }
        ProxiesVerb::Remove { id, terms } => {
            let danger = "It gets no more topologies until its next heartbeat.";
            change(client, as_json, dangerous(ask("DELETE", path(&id, ""), None), terms, danger))
        }
    }
}

pub(super) fn members(client: &mut Client, as_json: bool, verb: MembersVerb) -> Result<ExitCode> {
    let path = |name: &str, more: &str| format!("/api/v1/members/{}{more}", part(name));
    let change = match verb {
        MembersVerb::List => {
            let members: Vec<Member> = client.of_leader("/api/v1/members")?;
            return list(as_json, &members, |m| status::members(m));
        }
        MembersVerb::Add { id, name, addr, terms } => {
            let body = json!({ "id": id, "name": name, "addr": addr });
            plain(ask("POST", "/api/v1/members".to_owned(), Some(body)), terms)
        }
        MembersVerb::Promote { name, terms } => plain(ask("POST", path(&name, "/promote"), None), terms),
        MembersVerb::Remove { name, terms } => {
            let danger = format!("{name} votes no more, and its id is never used again.");
            dangerous(ask("DELETE", path(&name, ""), None), terms, &danger)
        }
    };
    let members_of = |text: &str| read::<Vec<Member>>(text, "members");
    let text = perform(client, change, |plan| Ok(format!("Members then:\n{}", status::members(&members_of(plan)?))))?;
    list(as_json, &members_of(&text)?, |m| status::members(m))
}

pub(super) fn settings(client: &mut Client, as_json: bool, verb: SettingsVerb) -> Result<ExitCode> {
    match verb {
        SettingsVerb::Show => {
            let settings: Settings = client.get("/api/v1/settings")?;
            let rows = |s: &Settings| {
                let tag_rule = json!(s.tag_rule).as_str().unwrap_or_default().to_owned();
                let rows = [
                    ("name", s.name.clone()),
                    ("slot count", s.slot_count.to_string()),
                    ("tag rule", tag_rule),
                    ("proxy ttl", format!("{} s", s.proxy_ttl_s)),
                    ("automation", if s.automation_paused { "paused" } else { "on" }.to_owned()),
                ];
                table(&["SETTING", "VALUE"], rows.map(|(name, value)| vec![name.to_owned(), value]))
            };
            list(as_json, &settings, rows)
        }
        SettingsVerb::Set { proxy_ttl: None, .. } => Err(Fault::new("no setting was named", "as --proxy-ttl 10")),
        SettingsVerb::Set { proxy_ttl, terms } => {
            let body = json!({ "proxy_ttl_s": proxy_ttl });
            change(client, as_json, plain(ask("PATCH", "/api/v1/settings".to_owned(), Some(body)), terms))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_instance_may_say_where_it_stands() {
        let zoned = placed("10.0.0.1:6379@a").expect("good");
        assert_eq!(zoned.json(), json!({"addr": "10.0.0.1:6379", "zone": "a"}));
        assert_eq!(placed("[::1]:6379").expect("good").json(), json!({"addr": "[::1]:6379", "zone": null}));
        assert!(placed("example.com:1").is_err());
    }

    #[test]
    fn sizes_are_those_of_redis() {
        assert_eq!((size("4GB"), size("3k"), size("0"), size("17b")), (Ok(4 << 30), Ok(3000), Ok(0), Ok(17)));
        for bad in ["", "gb", "4tb", "-1", "99999999999gb"] {
            assert!(size(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn parts_of_a_path_stay_parts() {
        assert_eq!(part("unix:/run/a b"), "unix:%2Frun%2Fa%20b");
        assert_eq!(part("[::1]:6379"), "[::1]:6379");
        assert_eq!(part("p?1#ü"), "p%3F1%23%C3%BC");
    }
}
