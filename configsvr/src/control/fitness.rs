//! Whether an instance may join a group: judged by what a probe saw.

use super::command::{Kind, Refusal, Seen};
use super::out::refusal;
use cluster::change::home_of;
use cluster::instance::{Addr, Role};
use cluster::topology::Topology;

/// What probes saw, by address.
pub(super) type Sightings = [(Addr, Result<Seen, String>)];

/// What an instance is wanted for.
#[derive(Debug, Clone, Copy)]
pub(super) enum Wanted<'a> {
    Primary {
        take_data: bool,
    },
    /// It will lose what it holds.
    Replica {
        of: &'a Addr,
        take_data: bool,
    },
}

/// A fit instance.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Fit {
    pub(super) run_id: String,
    /// It is to be told whom to follow.
    pub(super) follow: bool,
    pub(super) notes: Vec<String>,
}

/// The oldest server that has all that the proxy and the mover use.
const VERSION_MIN: u32 = 5;

/// Judges one instance. `there`: the cluster it must not be part of yet; None where all of it is being replaced.
pub(super) fn judge(seen: &Sightings, addr: &Addr, wanted: Wanted, there: Option<&Topology>) -> Result<Fit, Refusal> {
    let found = match seen.iter().find(|(at, _)| at == addr) {
        Some((_, Ok(found))) => found,
        Some((_, Err(why))) => {
            return Err(unfit("unreachable", addr, why, "start it, or correct its address or password"));
        }
        None => return Err(unfit("unreachable", addr, "was not probed", "try again")),
    };
    is_alone(seen, addr, found)?;
    is_serviceable(addr, found)?;
    if let Some(there) = there {
        is_new(addr, found, there)?;
    }
    let mut fit = Fit { run_id: found.run_id.clone(), follow: false, notes: Vec::new() };
    match wanted {
        Wanted::Primary { take_data } => may_be_primary(addr, found, take_data)?,
        Wanted::Replica { of, take_data } => fit.follow = must_follow(addr, found, of, take_data)?,
    }
    if found.keys > 0 && fit.follow {
        fit.notes.push(format!("{addr} loses its {} keys by following", found.keys));
    }
    Ok(fit)
}

fn unfit(code: &str, addr: &Addr, why: &str, hint: &str) -> Refusal {
    refusal(Kind::Unfit, code, format!("instance {addr}: {why}"), hint)
}

/// No other address of this request leads to the same process.
fn is_alone(seen: &Sightings, addr: &Addr, found: &Seen) -> Result<(), Refusal> {
    let twin = seen.iter().find(|(at, other)| at != addr && other.as_ref().is_ok_and(|o| o.run_id == found.run_id));
    let Some((at, _)) = twin else { return Ok(()) };
    let why = format!("is the same process as {at} (run_id {})", found.run_id);
    Err(unfit("same_process", addr, &why, "name each instance once, by one address"))
}

fn is_serviceable(addr: &Addr, found: &Seen) -> Result<(), Refusal> {
    if found.cluster_mode {
        let hint = "start it with cluster-enabled no: twemslot keeps the slots itself";
        return Err(unfit("cluster_mode", addr, "runs in cluster mode", hint));
    }
    if found.loading {
        return Err(unfit("loading", addr, "is loading its data", "try again when it is done"));
    }
    let major = found.version.split('.').next().and_then(|major| major.parse::<u32>().ok());
    let is_redis = ["redis", "valkey"].contains(&found.server.as_str());
    if is_redis && major.is_none_or(|major| major < VERSION_MIN) {
        let why = format!("is {} {}, older than {VERSION_MIN}.0", found.server, found.version);
        return Err(unfit("version", addr, &why, "upgrade it first"));
    }
    Ok(())
}

fn is_new(addr: &Addr, found: &Seen, there: &Topology) -> Result<(), Refusal> {
    let taken = |why: String| Err(refusal(Kind::Conflict, "instance_taken", why, "remove it there first"));
    if let Some(home) = home_of(there, addr) {
        return taken(format!("instance {addr} is in group {} already", home.id));
    }
    for group in there.groups() {
        if let Some(same) = group.instances.iter().find(|i| i.run_id.as_ref() == Some(&found.run_id)) {
            let run_id = &found.run_id;
            return taken(format!(
                "instance {addr} is in group {} already, as {} (run_id {run_id})",
                group.id, same.addr
            ));
        }
    }
    Ok(())
}

fn may_be_primary(addr: &Addr, found: &Seen, take_data: bool) -> Result<(), Refusal> {
    if found.role == Role::Replica {
        let why = format!("follows {}", found.follows.as_deref().unwrap_or("another instance"));
        return Err(unfit("follows_another", addr, &why, "name its primary, or say REPLICAOF NO ONE to it first"));
    }
    if found.other_databases > 0 {
        let why = format!("has keys in {} databases other than 0", found.other_databases);
        return Err(unfit("other_databases", addr, &why, "only database 0 is served: move or flush the others"));
    }
    if found.keys > 0 && !take_data {
        let why = format!("holds {} keys", found.keys);
        return Err(unfit("not_empty", addr, &why, "flush it, or say that its data is to be taken over"));
    }
    Ok(())
}

/// Whether it must be told to follow `of`; false: it does.
fn must_follow(addr: &Addr, found: &Seen, of: &Addr, take_data: bool) -> Result<bool, Refusal> {
    if found.role == Role::Replica {
        let follows = found.follows.as_deref().unwrap_or_default();
        if follows.parse::<Addr>().is_ok_and(|follows| follows == *of) {
            return Ok(false);
        }
        let why = format!("follows {follows}, not {of}");
        return Err(unfit("follows_another", addr, &why, "say REPLICAOF NO ONE to it first, if it is free"));
    }
    if found.keys > 0 && !take_data {
        let why = format!("holds {} keys, which it would lose by following {of}", found.keys);
        return Err(unfit("not_empty", addr, &why, "flush it, or say that its data may go"));
    }
    Ok(true)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn addr(port: u16) -> Addr {
        format!("127.0.0.1:{port}").parse().expect("an address")
    }

    fn seen(port: u16) -> Seen {
        Seen {
            addr: addr(port),
            run_id: format!("run{port}"),
            version: "7.0.15".into(),
            server: "redis".into(),
            cluster_mode: false,
            role: Role::Primary,
            follows: None,
            keys: 0,
            other_databases: 0,
            loading: false,
        }
    }

    fn there() -> Topology {
        let json = br#"{"epoch":1,"slot_count":4,"groups":[{"id":1,"instances":[
            {"addr":"127.0.0.1:1","role":"primary","run_id":"run1"}]}],"slots":[]}"#;
        cluster::wire::parse(json).expect("good")
    }

    fn code(found: Seen, wanted: Wanted) -> String {
        let at = found.addr.clone();
        judge(&[(at.clone(), Ok(found))], &at, wanted, Some(&there()))
            .map_or_else(|r| r.code, |fit| format!("{}", fit.follow))
    }

    #[test]
    fn a_primary_is_empty_alone_and_fit() {
        let fresh = Wanted::Primary { take_data: false };
        let full = Wanted::Primary { take_data: true };
        assert_eq!(code(seen(2), fresh), "false");
        assert_eq!(code(Seen { keys: 7, ..seen(2) }, full), "false");
        for (found, wanted) in [
            (Seen { cluster_mode: true, ..seen(2) }, "cluster_mode"),
            (Seen { loading: true, ..seen(2) }, "loading"),
            (Seen { version: "4.0.14".into(), ..seen(2) }, "version"),
            (Seen { role: Role::Replica, follows: Some("127.0.0.1:9".into()), ..seen(2) }, "follows_another"),
            (Seen { other_databases: 1, ..seen(2) }, "other_databases"),
            (Seen { keys: 7, ..seen(2) }, "not_empty"),
            (seen(1), "instance_taken"),
            (Seen { run_id: "run1".into(), ..seen(2) }, "instance_taken"),
        ] {
            assert_eq!(code(found, fresh), wanted);
        }
        assert_eq!(code(Seen { version: "3.5.0".into(), server: "pika".into(), ..seen(2) }, fresh), "false");
    }

    #[test]
    fn a_replica_is_told_to_follow_unless_it_does() {
        let primary = addr(1);
        let wanted = |take_data| Wanted::Replica { of: &primary, take_data };
        let follower = |of: &str| Seen { role: Role::Replica, follows: Some(of.into()), keys: 9, ..seen(2) };
        assert_eq!(code(seen(2), wanted(false)), "true");
        assert_eq!(code(Seen { keys: 9, ..seen(2) }, wanted(false)), "not_empty");
        assert_eq!(code(Seen { keys: 9, ..seen(2) }, wanted(true)), "true");
        assert_eq!(code(follower("localhost:1"), wanted(false)), "false");
        assert_eq!(code(follower("127.0.0.1:8"), wanted(true)), "follows_another");
    }

    #[test]
    fn two_addresses_of_one_process_and_none_at_all() {
        let twins = [(addr(2), Ok(seen(2))), (addr(3), Ok(Seen { run_id: "run2".into(), ..seen(3) }))];
        let fresh = Wanted::Primary { take_data: false };
        assert_eq!(judge(&twins, &addr(2), fresh, None).expect_err("twins").code, "same_process");
        let dead = [(addr(2), Err("connection refused".to_owned()))];
        let refusal = judge(&dead, &addr(2), fresh, None).expect_err("dead");
        assert_eq!(refusal.message, "instance 127.0.0.1:2: connection refused");
    }
}
