//! The verbs that plan: everybody's part, a group that comes, a group that goes. Each can be broken off at any moment: the
//! same words again go on with what is there.

use super::change::{Terms, confirm};
use super::client::{Ask, Client, id_of, read};
use super::fault::{Fault, Result};
use super::migrations::{How, begun, code, follow, open_of, watch_quietly};
use super::plans;
use super::show::{json, say};
use crate::control::limits::MOVES_AT_ONCE;
use crate::control::measure::By;
use crate::control::task::TaskView;
use crate::http::words::{Answer, Group, Imagined, Rebalanced};
use clap::Args;
use cluster::group::GroupId;
use cluster::instance::Addr;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::process::ExitCode;

/// What is spread.
#[derive(Debug, Clone, Default, PartialEq, Args)]
pub(super) struct Spread {
    /// What is to be even: slots, or what is measured of them now: their keys, their memory, or the requests for them.
    #[arg(long, value_name = "slots|keys|memory|ops", default_value = "slots")]
    by: By,
    /// For ops: count requests for so many seconds (1 to 15; 5 unless it is said).
    #[arg(long, value_name = "N")]
    seconds: Option<u64>,
}

/// A part by weight for everybody.
#[derive(Debug, Args)]
pub struct Rebalance {
    /// Groups that are to own more or less than the others: `2=3` for three times as much, `2=0` for nothing.
    #[arg(long, value_name = "GROUP=WEIGHT", value_delimiter = ',')]
    weight: Vec<String>,
    /// Only these give slots away. Otherwise: whoever has too much.
    #[arg(long, value_name = "GROUP", value_delimiter = ',')]
    from: Vec<String>,
    /// Only these get slots. Otherwise: whoever has too little.
    #[arg(long, value_name = "GROUP", value_delimiter = ',')]
    to: Vec<String>,
    #[command(flatten)]
    spread: Spread,
    #[command(flatten)]
    how: How,
    #[command(flatten)]
    terms: Terms,
}

/// A group that is to own nothing.
#[derive(Debug, Args)]
pub struct Drain {
    /// Its id or its name.
    group: String,
    /// And remove the group then; its instances are left as they are.
    #[arg(long)]
    remove: bool,
    #[command(flatten)]
    spread: Spread,
    #[command(flatten)]
    how: How,
    #[command(flatten)]
    terms: Terms,
}

/// What a group that comes is to get.
#[derive(Debug, Clone, Default, PartialEq, Args)]
pub struct Part {
    /// Move its part of the slots to it, too.
    #[arg(long)]
    pub(super) rebalance: bool,
    #[command(flatten)]
    spread: Spread,
    #[command(flatten)]
    how: How,
}

impl Part {
    /// Something is said that means nothing without `--rebalance`.
    pub(super) fn is_idle(&self) -> bool {
        !self.rebalance && *self != Self::default()
    }
}

/// Who takes part, and how.
#[derive(Default)]
struct Wish {
    weights: BTreeMap<GroupId, u32>,
    givers: Vec<GroupId>,
    takers: Vec<GroupId>,
    imagined: Option<Imagined>,
}

pub(super) fn rebalance(client: &mut Client, as_json: bool, what: &Rebalance) -> Result<ExitCode> {
    let mut wish = Wish::default();
    for pair in &what.weight {
        let wrong = || Fault::new(format!("{pair:?} is not GROUP=WEIGHT"), "as --weight 2=3");
        let (group, weight) = pair.split_once('=').ok_or_else(wrong)?;
        wish.weights.insert(id_of(client, group)?, weight.parse().map_err(|_| wrong())?);
    }
    wish.givers = what.from.iter().map(|group| id_of(client, group)).collect::<Result<_>>()?;
    wish.takers = what.to.iter().map(|group| id_of(client, group)).collect::<Result<_>>()?;
    let plan = plan(client, &wish, &what.spread, &what.how)?;
    if what.terms.dry_run {
        return shown(as_json, &plan, "");
    }
    if plan.balance.moves.is_empty() {
        let nothing = || json(&Vec::<TaskView>::new());
        return if as_json { nothing() } else { say(&plans::words(&plan)) }.map(|()| ExitCode::SUCCESS);
    }
    has_room(&plan, &what.how)?;
    confirm(what.terms.yes, &lines([plans::words(&plan), what.how.warning()]))?;
    let ids = begin(client, &plan, plan.epoch, &what.how)?;
    follow(client, as_json, &ids, what.how.wait)
}

pub(super) fn drain(client: &mut Client, as_json: bool, what: &Drain) -> Result<ExitCode> {
    let id = id_of(client, &what.group)?;
    let wish = Wish { weights: [(id, 0)].into(), givers: vec![id], ..Wish::default() };
    let plan = plan(client, &wish, &what.spread, &what.how)?;
    let then = if what.remove {
        format!("then group {id} is removed; its instances are left as they are")
    } else {
        String::new()
    };
    if what.terms.dry_run {
        return shown(as_json, &plan, &then);
    }
    let open = open_of(client, id)?;
    has_room(&plan, &what.how)?;
    if !plan.balance.moves.is_empty() || what.remove {
        confirm(what.terms.yes, &lines([plans::words(&plan), what.how.warning(), under_way(&open), then]))?;
    } else if open.is_empty() && !as_json {
        return say(&plans::words(&plan)).map(|()| ExitCode::SUCCESS);
    }
    let how = if what.remove { what.how.waiting() } else { what.how.clone() };
    let (ids, well) = carry(
        client,
        !as_json,
        Carried { group: id, epoch: plan.epoch, plan, until_empty: true },
        &wish,
        &what.spread,
        &how,
    )?;
    if !what.remove || !well {
        follow(client, as_json, &ids, false)?;
        return Ok(code(well));
    }
    client.ask(&Ask { method: "DELETE", path: format!("/api/v1/groups/{id}"), body: None })?;
    ended(client, as_json, &ids, "removed", &json!(id), &format!("group {id} is removed"))
}

/// Adds a group, and moves its part of the slots to it. `body`: of the call that adds it.
pub(super) fn add(client: &mut Client, as_json: bool, mut body: Value, part: &Part, terms: Terms) -> Result<ExitCode> {
    let instances = instances(&body)?;
    let groups: Vec<Group> = client.get("/api/v1/groups")?;
    let there = groups.iter().find(|g| Some(&g.primary) == instances.first()).map(|g| g.id);
    let id = match there {
        Some(id) => id,
        None => would_be(client, &body)?,
    };
    let imagined = there.is_none().then(|| Imagined { id, instances: instances.clone() });
    let mut wish = Wish { takers: vec![id], imagined, ..Wish::default() };
    let plan = plan(client, &wish, &part.spread, &part.how)?;
    let what = match there {
        Some(id) => format!("group {id} is there already: this goes on with its slots"),
        None => format!(
            "group {id} is added, with {}",
            instances.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
        ),
    };
    if terms.dry_run {
        return shown(as_json, &plan, &what);
    }
    has_room(&plan, &part.how)?;
    let open = open_of(client, id)?;
    if there.is_none() || !plan.balance.moves.is_empty() {
        let loses = body["take_data"] == true && there.is_none();
        let loses = if loses { "instances that are to follow lose the keys they hold" } else { "" };
        confirm(
            terms.yes,
            &lines([what, loses.to_owned(), plans::words(&plan), part.how.warning(), under_way(&open)]),
        )?;
    }
    let mut epoch = plan.epoch;
    if there.is_none() {
        body["id"] = id.into();
        let ask = Ask { method: "POST", path: "/api/v1/groups".to_owned(), body: Some(body) };
        let added: Answer = read(&client.ask(&ask)?, "a change")?;
        if added.epoch != plan.epoch + 1 {
            let what = format!("group {id} is added, but something else changed as well since its part was planned");
            return Err(Fault::new(what, "the same command again goes on with its slots"));
        }
        epoch = added.epoch;
        wish.imagined = None;
    }
    let (ids, well) = carry(
        client,
        !as_json,
        Carried { group: id, epoch, plan, until_empty: false },
        &wish,
        &part.spread,
        &part.how,
    )?;
    let group: Group = client.get(&format!("/api/v1/groups/{id}"))?;
    let said = format!("group {id} ({}): primary {}, {} slots by now", group.name, group.primary, group.slots);
    ended(client, as_json, &ids, "group", &json!(group), &said)?;
    Ok(code(well))
}

/// The id that the group would get.
fn would_be(client: &mut Client, body: &Value) -> Result<GroupId> {
    let path = "/api/v1/groups?dry_run=true".to_owned();
    let answer: Answer = read(&client.ask(&Ask { method: "POST", path, body: Some(body.clone()) })?, "a change")?;
    answer.notes.iter().for_each(|note| eprintln!("note: {note}"));
    let id = answer.result["groups"][0]["group_id"].as_u64().and_then(|id| id.try_into().ok());
    id.ok_or_else(|| Fault::new("the answer names no group", "twemslotctl and configsvr should be of one version"))
}

/// The primary first.
fn instances(body: &Value) -> Result<Vec<Addr>> {
    let all = std::iter::once(&body["primary"]).chain(body["replicas"].as_array().into_iter().flatten());
    let addr = |of: &Value| of["addr"].as_str().unwrap_or_default().parse();
    all.map(addr).collect::<std::result::Result<_, _>>().map_err(|why: String| Fault::new(why, "IP:PORT"))
}

fn plan(client: &mut Client, wish: &Wish, spread: &Spread, how: &How) -> Result<Rebalanced> {
    let Wish { weights, givers, takers, imagined } = wish;
    let body = json!({ "weights": weights, "givers": givers, "takers": takers, "imagined": imagined, "by": spread.by,
        "seconds": spread.seconds, "limits": how.limits() });
    let ask = Ask { method: "POST", path: "/api/v1/rebalance".to_owned(), body: Some(body) };
    read(&client.ask(&ask)?, "a plan")
}

fn shown(as_json: bool, plan: &Rebalanced, beside: &str) -> Result<ExitCode> {
    eprintln!("a dry run, nothing was changed");
    let words = || say(&lines([plans::words(plan), beside.to_owned()]));
    if as_json { json(plan) } else { words() }.map(|()| ExitCode::SUCCESS)
}

fn lines(all: impl IntoIterator<Item = String>) -> String {
    all.into_iter().filter(|line| !line.is_empty()).collect::<Vec<_>>().join("\n")
}

fn under_way(open: &[u64]) -> String {
    let ids: Vec<String> = open.iter().map(ToString::to_string).collect();
    if ids.is_empty() { String::new() } else { format!("under way already: migration {}", ids.join(", ")) }
}

/// Whether what would come fits, or nobody minds.
fn has_room(plan: &Rebalanced, how: &How) -> Result<()> {
    let Some(lacks) = plan.room.iter().find(|room| !room.enough && !how.force) else { return Ok(()) };
    eprintln!("{}", plans::words(plan));
    Err(Fault::new(plans::room(lacks), "raise its maxmemory, or move less (--weight); --force goes without looking"))
}

/// Begins exactly what was planned; refused where the topology is not at this epoch any more.
fn begin(client: &mut Client, plan: &Rebalanced, epoch: u64, how: &How) -> Result<Vec<u64>> {
    if plan.balance.moves.is_empty() {
        return Ok(Vec::new());
    }
    let body = how.body(&json!(plan.balance.moves), Some(epoch));
    begun(&client.ask(&Ask { method: "POST", path: "/api/v1/migrations".to_owned(), body: Some(body) })?)
}

/// A plan on its way.
struct Carried {
    group: GroupId,
    plan: Rebalanced,
    epoch: u64,
    /// The group is to own nothing in the end.
    until_empty: bool,
}

/// Rounds of migrations until the group has what it is to have: those under way (from an earlier try, perhaps), and what a
/// plan wants beside. Without waiting: the first round. Which they were, and whether all are done.
fn carry(
    client: &mut Client,
    shown: bool,
    what: Carried,
    wish: &Wish,
    spread: &Spread,
    how: &How,
) -> Result<(Vec<u64>, bool)> {
    let Carried { group, plan: mut now, mut epoch, until_empty } = what;
    let mut all = Vec::new();
    loop {
        has_room(&now, how)?;
        let began = match begin(client, &now, epoch, how) {
            Ok(began) => began,
            Err(fault) => {
                // Perhaps an earlier try was heard only now: then all of it is under way. Or others' migrations began or
                // ended since it was planned, which changes nothing of it.
                let again = plan(client, wish, spread, how)?;
                let same = again.balance.moves == now.balance.moves && again.epoch != epoch;
                now = again;
                match now.balance.moves.is_empty() {
                    true => Vec::new(),
                    false if same => begin(client, &now, now.epoch, how)?,
                    false => return Err(fault),
                }
            }
        };
        let mut ids = open_of(client, group)?;
        ids.extend(began.into_iter().filter(|id| !ids.contains(id)).collect::<Vec<_>>());
        all.extend(&ids);
        if ids.is_empty() || !how.wait {
            return Ok((all, true));
        }
        if !watch_quietly(client, &ids, shown)? {
            return Ok((all, false));
        }
        if !until_empty && now.balance.moves.len() < MOVES_AT_ONCE {
            return Ok((all, true));
        }
        now = plan(client, wish, spread, how)?;
        epoch = now.epoch;
    }
}

/// What came of it.
fn ended(client: &mut Client, as_json: bool, ids: &[u64], name: &str, value: &Value, said: &str) -> Result<ExitCode> {
    if as_json {
        let mut all: Vec<TaskView> = client.of_leader("/api/v1/migrations")?;
        all.retain(|m| ids.contains(&m.task.id));
        return json(&json!({ name: value, "migrations": all })).map(|()| ExitCode::SUCCESS);
    }
    if !ids.is_empty() {
        follow(client, false, ids, false)?;
    }
    say(said).map(|()| ExitCode::SUCCESS)
}
