//! SLOWLOG and LATENCY HISTOGRAM: what took long, as this proxy saw it.

use super::super::command::Local;
use super::super::inquiry::Form;
use super::super::question::Question;
use super::super::request::{NO_SLOT, RequestId, Stage};
use super::super::slowlog::{self, Entry};
use super::super::state::Relay;
use super::super::{ClientId, CommandId};
use super::map;
use crate::relay::command;
use crate::stats::{Counter, Histogram, Stats, bucket_end};
use cluster::resp::write;

/// As Redis: SLOWLOG GET without a count.
const USUAL_COUNT: usize = 10;

impl Relay {
    /// Notes a request that has been answered and took long.
    #[cold]
    pub(in super::super) fn note_slow(&mut self, id: RequestId) {
        self.slowlog.begin_run();
        let request = &self.requests[id as usize];
        let us = self.now.us.saturating_sub(request.started_us);
        let known = usize::from(request.command) < command::count();
        if known && command::get(request.command).flags.contains(command::Flags::BLOCKING) {
            return; // it waited because it was asked to
        }
        // Of a split one that was given up it is not known.
        let asked = request.stage == Stage::Sent || (request.stage == Stage::Split && request.sent_us > 0);
        let slot = Some(request.slot).filter(|&slot| slot != NO_SLOT);
        let owner = slot.and_then(|slot| self.routes.topology.as_ref()?.slots().get(usize::from(slot))?.group);
        let client = self.clients.get(request.client as usize);
        let entry = Entry {
            id: 0,
            unix_s: self.now.unix_us / 1_000_000,
            us,
            instance_us: asked.then(|| self.now.us.saturating_sub(request.sent_us)),
            command: if known { command::get(request.command).name.into() } else { "(declared)".into() },
            slot,
            group: owner,
            more: 0,
            peer: client.map(|c| c.peer.to_string()).unwrap_or_default(),
            name: client.map(|c| c.name.to_string()).unwrap_or_default(),
        };
        self.slowlog.note(self.worker, self.settings.slowlog_max_len, entry);
    }

    pub(super) fn slowlog_request(&mut self, id: ClientId, command: CommandId, local: Local, args: &[&[u8]]) {
        match local {
            Local::SlowlogLen => {
                self.inquire(id, command, Question::SlowlogLen, Form::Sum, |relay| format!("{}\n", relay.slowlog.len()))
            }
            Local::SlowlogReset => self.inquire(id, command, Question::SlowlogReset, Form::Ok, |relay| {
                relay.slowlog.clear();
                String::new()
            }),
            _ => match count_of(args.get(2).copied()) {
                Ok(count) if args.len() <= 3 => {
                    let lines = move |relay: &mut Self| relay.slowlog.lines(count);
                    self.inquire(id, command, Question::Slowlog { count }, Form::Slowlog(count), lines);
                }
                Ok(_) => {
                    let text = "ERR wrong number of arguments for 'slowlog|get' command";
                    self.refuse_here(id, command, Counter::ErrorsArity, text);
                }
                Err(text) => self.refuse_here(id, command, Counter::ErrorsArity, text),
            },
        }
    }

    /// Entries in Redis's shape. In the place of a request's arguments, which are not kept, stands what is known of it.
    pub(super) fn slowlog_entries(&self, lines: &str, count: usize, out: &mut Vec<u8>) {
        let entries = slowlog::entries(lines, count);
        write::array(out, entries.len());
        for entry in entries {
            write::array(out, 6);
            write::integer(out, entry.id as i64);
            write::integer(out, entry.unix_s as i64);
            write::integer(out, entry.us as i64);
            let facts = facts_of(&entry);
            write::array(out, facts.len());
            facts.iter().for_each(|fact| write::bulk(out, fact.as_bytes()));
            write::bulk(out, entry.peer.as_bytes());
            write::bulk(out, entry.name.as_bytes());
        }
    }

    /// LATENCY HISTOGRAM: of each command that was asked for, from read to answered; and, if none is named, of all requests,
    /// and of the part that instances took.
    pub(super) fn latency_histogram(&mut self, named: &[CommandId], others: &str, resp3: bool, out: &mut Vec<u8>) {
        let totals = self.totals(others);
        let all = 0..command::count() as CommandId;
        let wanted: Vec<CommandId> = if named.is_empty() { all.collect() } else { named.to_vec() };
        let seen = |&id: &CommandId| totals.histogram_of_command(id).iter().any(|n| *n > 0);
        let commands: Vec<CommandId> = wanted.into_iter().filter(seen).collect();
        let kinds = [("total", Histogram::Total), ("instance", Histogram::Instance)];
        let kinds = if named.is_empty() { &kinds[..] } else { &[] };
        map(resp3, kinds.len() + commands.len(), out);
        for (name, histogram) in kinds {
            write::bulk(out, name.as_bytes());
            histogram_entry(by_powers(totals.histogram(*histogram)), resp3, out);
        }
        for id in commands {
            write::bulk(out, command::get(id).name.as_bytes());
            let buckets = totals.histogram_of_command(id).iter().enumerate();
            histogram_entry(buckets.map(|(power, n)| (1 << power, *n)), resp3, out);
        }
    }

    /// The statistics of all workers: `others` is what the master said of those that are not this one.
    pub(super) fn totals(&mut self, others: &str) -> Stats {
        let mut totals = self.stats().clone();
        totals.add_sparse(&serde_json::from_str::<Vec<(u32, u64)>>(others.trim()).unwrap_or_default());
        totals
    }
}

fn count_of(text: Option<&[u8]>) -> Result<usize, &'static str> {
    let Some(text) = text else { return Ok(USUAL_COUNT) };
    match std::str::from_utf8(text).ok().and_then(|text| text.parse::<i64>().ok()) {
        Some(-1) => Ok(usize::MAX),
        Some(count) if count >= 0 => Ok(count as usize),
        _ => Err("ERR count should be greater than or equal to -1"),
    }
}

fn facts_of(entry: &Entry) -> Vec<String> {
    let mut facts = vec![entry.command.replace('|', " ")];
    if let Some(slot) = entry.slot {
        facts.push(format!("slot={slot}"));
    }
    if let Some(group) = entry.group {
        facts.push(format!("group={group}"));
    }
    if let Some(us) = entry.instance_us {
        facts.push(format!("instance_us={us}"));
    }
    if entry.more > 0 {
        facts.push(format!("and_more={}", entry.more));
    }
    facts
}

/// Commands by their names; those that are none, or have subcommands of which none is named, stand for what they are.
pub(super) fn commands_named(names: &[&[u8]]) -> Vec<CommandId> {
    let known = |name: &&[u8]| {
        let (parent, sub) =
            name.iter().position(|b| *b == b'|').map_or((*name, None), |at| (&name[..at], Some(&name[at + 1..])));
        let id = command::lookup(parent)?;
        sub.map_or(Some(id), |sub| command::lookup_sub(id, sub))
    };
    let mut ids: Vec<CommandId> = names.iter().filter_map(known).collect();
    if ids.is_empty() && !names.is_empty() {
        // Nothing is asked for that there is; an empty list would be all.
        ids.push(command::count() as CommandId);
    }
    ids
}

/// The fine buckets of a histogram as powers of two of microseconds.
fn by_powers(buckets: &[u64]) -> impl Iterator<Item = (u64, u64)> {
    let mut end_us = 1;
    let mut sum = 0;
    buckets.iter().enumerate().filter_map(move |(i, n)| {
        sum += n;
        let whole = bucket_end(i) == end_us * 2 || i + 1 == buckets.len();
        whole.then(|| {
            end_us = bucket_end(i);
            (end_us, std::mem::take(&mut sum))
        })
    })
}

/// `calls` and a cumulative histogram of what is not empty: how many took less than so many microseconds.
fn histogram_entry(buckets: impl Iterator<Item = (u64, u64)>, resp3: bool, out: &mut Vec<u8>) {
    let (mut below, mut pairs) = (0, Vec::new());
    for (end_us, n) in buckets.filter(|(_, n)| *n > 0) {
        below += n;
        pairs.push((end_us, below));
    }
    map(resp3, 2, out);
    write::bulk(out, b"calls");
    write::integer(out, below as i64);
    write::bulk(out, b"histogram_usec");
    map(resp3, pairs.len(), out);
    for (us, n) in pairs {
        write::integer(out, us as i64);
        write::integer(out, n as i64);
    }
}
