//! Histories: what clients asked, when, and what they were told; and the checker that says what cannot be. For every test in
//! which the cluster changes under load: failover, and moving slots.
//!
//! Work of several kinds, each on keys of its own: lists to which unique values are appended (W1), counters (W3), registers
//! that one client sets, deletes and reads (W7); and where all types are wanted also sets (W2), appends by transactions to two
//! keys (W5), values that end by themselves (W6) and pops that wait (W8). An operation is `Done`, `Refused` (certainly not done) or `Unknown`; a client
//! that got no answer goes on under a new number.

mod load;
mod shape;

pub use load::{Load, Plan};

use shape::Shape;
use std::collections::{BTreeMap, BTreeSet};

/// What became of an operation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    Done,
    Refused,
    Unknown,
}

/// What was asked, and what was answered where something was.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum What {
    Append(u64),
    /// To a set.
    Add(u64),
    /// All values were read.
    List(Vec<u64>),
    /// The first value was taken away, if there was one in time.
    Pop(Option<u64>),
    Increment(Option<u64>),
    Set(u64),
    /// It ends after so many milliseconds.
    Brief {
        value: u64,
        ms: u64,
    },
    Delete,
    Get(Option<u64>),
}

impl What {
    /// It changes something.
    pub fn writes(&self) -> bool {
        !matches!(self, Self::List(_) | Self::Get(_))
    }
}

/// One operation. Times in microseconds since the load began.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Op {
    pub key: String,
    pub what: What,
    pub invoked: u64,
    pub completed: u64,
    pub outcome: Outcome,
}

/// What a key holds at the end, when all is quiet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Last {
    List(Vec<u64>),
    Set(Vec<u64>),
    Count(u64),
    Register(Option<u64>),
}

/// How often what cannot be was.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Anomalies {
    /// Acknowledged, and not there.
    pub lost: usize,
    /// There twice: something was sent again.
    pub duplicated: usize,
    /// There, and never asked for, or refused.
    pub phantom: usize,
    /// Read again after its deletion was acknowledged: the deletion was lost, or what was deleted came from elsewhere.
    pub revived: usize,
    /// Two clients or two moments disagree about what came first.
    pub order: usize,
    /// Read after it was acknowledged, and not seen.
    pub stale: usize,
    /// One of two keys has what a transaction did to both.
    pub torn: usize,
    /// Some of them, in words.
    pub examples: Vec<String>,
}

const EXAMPLES_MAX: usize = 10;
const VERDICT: &str = "verdict of the checker";

impl Anomalies {
    pub fn none(&self) -> bool {
        self.lost + self.duplicated + self.phantom + self.revived + self.order + self.stale + self.torn == 0
    }

    /// Fails unless there are none. `.ci/test` never tries again what failed with these words.
    pub fn must_be_none(&self) -> anyhow::Result<()> {
        anyhow::ensure!(self.none(), "{VERDICT}: {self:?}");
        Ok(())
    }

    /// Fails unless there is nothing but what asynchronous replication may lose: no duplicate, no phantom.
    pub fn must_be_only_lost(&self) -> anyhow::Result<()> {
        anyhow::ensure!(self.duplicated + self.phantom + self.revived + self.torn == 0, "{VERDICT}: {self:?}");
        Ok(())
    }

    fn note(&mut self, text: impl FnOnce() -> String) {
        if self.examples.len() < EXAMPLES_MAX {
            self.examples.push(text());
        }
    }
}

/// Compares a history with what is there at the end.
pub fn check(history: &[Op], last: &BTreeMap<String, Last>) -> Anomalies {
    let mut found = Anomalies::default();
    let mut by_key: BTreeMap<&str, Vec<&Op>> = BTreeMap::new();
    for op in history {
        by_key.entry(&op.key).or_default().push(op);
    }
    for (key, mut ops) in by_key {
        ops.sort_by_key(|op| op.invoked);
        match last.get(key) {
            Some(Last::List(list)) if matches!(Shape::of(key), Shape::Queue | Shape::Group) => {
                check_queue(key, &ops, list, &mut found)
            }
            Some(Last::Register(_)) if Shape::of(key) == Shape::Brief => check_brief(key, &ops, &mut found),
            Some(Last::Set(values)) => check_set(key, &ops, values, &mut found),
            Some(Last::List(list)) => check_list(key, &ops, list, &mut found),
            Some(Last::Count(count)) => check_counter(key, &ops, *count, &mut found),
            Some(Last::Register(value)) => check_register(key, &ops, *value, &mut found),
            None => found.note(|| format!("{key}: nobody looked at the end")),
        }
    }
    for (key, there) in last {
        let other = key.strip_suffix(":a").and_then(|both| last.get(&format!("{both}:b")));
        if other.is_some_and(|other| other != there) {
            found.torn += 1;
            found.note(|| format!("{key}: {there:?}, its twin {other:?}"));
        }
    }
    found
}

/// What was taken is taken once; nothing is gone that nobody took.
fn check_queue(key: &str, ops: &[&Op], list: &[u64], found: &mut Anomalies) {
    let values = |outcome: Outcome| -> BTreeSet<u64> {
        let of = ops.iter().filter(|op| op.outcome == outcome);
        of.filter_map(|op| if let What::Append(value) = op.what { Some(value) } else { None }).collect()
    };
    let (done, unknown) = (values(Outcome::Done), values(Outcome::Unknown));
    let popped = ops.iter().filter(|op| op.outcome == Outcome::Done);
    let popped = popped.filter_map(|op| if let What::Pop(Some(value)) = op.what { Some(value) } else { None });
    let mut seen = BTreeSet::new();
    for value in popped.chain(list.iter().copied()) {
        if !seen.insert(value) {
            found.duplicated += 1;
            found.note(|| format!("{key}: {value} was taken twice"));
        }
        if !done.contains(&value) && !unknown.contains(&value) {
            found.phantom += 1;
            found.note(|| format!("{key}: {value} was taken, and never there"));
        }
    }
    // Whoever got no answer may have taken one.
    let unheard = ops.iter().filter(|op| op.outcome == Outcome::Unknown && matches!(op.what, What::Pop(_))).count();
    let gone = done.difference(&seen).count();
    if gone > unheard {
        found.lost += gone - unheard;
        found.note(|| format!("{key}: {gone} values are gone, {unheard} pops are unknown"));
    }
}

fn check_set(key: &str, ops: &[&Op], values: &[u64], found: &mut Anomalies) {
    let added = |op: &Op| if let What::Add(value) = op.what { Some(value) } else { None };
    let done: BTreeMap<u64, &Op> =
        ops.iter().filter(|op| op.outcome == Outcome::Done).filter_map(|op| Some((added(op)?, *op))).collect();
    let possible: BTreeSet<u64> =
        ops.iter().filter(|op| op.outcome != Outcome::Refused).filter_map(|op| added(op)).collect();
    let there: BTreeSet<u64> = values.iter().copied().collect();
    for value in done.keys().filter(|value| !there.contains(value)) {
        found.lost += 1;
        found.note(|| format!("{key}: {value} was added, and is gone"));
    }
    for read in ops.iter().filter(|op| op.outcome == Outcome::Done) {
        let What::List(seen) = &read.what else { continue };
        let seen: BTreeSet<u64> = seen.iter().copied().collect();
        found.phantom += seen.iter().filter(|value| !possible.contains(value)).count();
        let missed = done.iter().find(|(value, op)| op.completed < read.invoked && !seen.contains(value));
        if let Some((value, _)) = missed {
            found.stale += 1;
            found.note(|| format!("{key}: {value} was acknowledged, and not read at {} us", read.invoked));
        }
    }
    if let Some(value) = there.iter().find(|value| !possible.contains(value)) {
        found.phantom += 1;
        found.note(|| format!("{key}: {value} is there, and was never added"));
    }
}

/// Instances end a value within a tenth of a second of its time, and never before it.
const BRIEF_SLACK_US: u64 = 100_000;

/// One client works on it.
fn check_brief(key: &str, ops: &[&Op], found: &mut Anomalies) {
    let mut last: Option<(&Op, u64, u64)> = None;
    for op in ops {
        match (&op.what, op.outcome, last) {
            (What::Brief { value, ms }, Outcome::Done, _) => last = Some((op, *value, ms * 1000)),
            (What::Brief { .. }, Outcome::Unknown, _) => last = None,
            (What::Get(read), Outcome::Done, Some((set, value, us))) => {
                let over = op.invoked > set.completed + us + BRIEF_SLACK_US;
                let lives = op.completed < set.invoked + us;
                match read {
                    Some(read) if over || *read != value => found.phantom += 1,
                    None if lives => found.lost += 1,
                    _ => continue,
                }
                found.note(|| {
                    format!(
                        "{key}: {read:?} read at {} us, {value} was set at {} us for {us} us",
                        op.invoked, set.invoked
                    )
                });
            }
            _ => {}
        }
    }
}

fn check_list(key: &str, ops: &[&Op], list: &[u64], found: &mut Anomalies) {
    let mut places: BTreeMap<u64, usize> = BTreeMap::new();
    for (place, value) in list.iter().enumerate() {
        if places.insert(*value, place).is_some() {
            found.duplicated += 1;
            found.note(|| format!("{key}: {value} is there twice"));
        }
    }
    let appended = |op: &&&Op| if let What::Append(value) = op.what { Some(value) } else { None };
    let possible: BTreeSet<u64> =
        ops.iter().filter(|op| op.outcome != Outcome::Refused).filter_map(|op| appended(&op)).collect();
    for value in places.keys().filter(|value| !possible.contains(value)) {
        found.phantom += 1;
        found.note(|| format!("{key}: {value} is there, and was never appended"));
    }
    let done: Vec<(&Op, u64)> =
        ops.iter().filter(|op| op.outcome == Outcome::Done).filter_map(|op| Some((*op, appended(&op)?))).collect();
    for (op, value) in &done {
        if !places.contains_key(value) {
            found.lost += 1;
            found.note(|| format!("{key}: {value}, acknowledged at {} us, is gone", op.completed));
        }
    }
    ordered(key, done.iter().filter_map(|(op, value)| Some((*op, *places.get(value)? as u64))), found);
    for read in ops.iter().filter(|op| op.outcome == Outcome::Done) {
        let What::List(seen) = &read.what else { continue };
        if list.get(..seen.len()) != Some(seen) {
            found.order += 1;
            found.note(|| format!("{key}: read at {} us as no prefix of what it became", read.invoked));
        }
        let missed = done.iter().find(|(op, value)| op.completed < read.invoked && !seen.contains(value));
        if let Some((_, value)) = missed {
            found.stale += 1;
            found.note(|| format!("{key}: {value} was acknowledged, and not read at {} us", read.invoked));
        }
    }
}

/// What was completed before another was begun stands before it.
fn ordered<'a>(key: &str, places: impl Iterator<Item = (&'a Op, u64)>, found: &mut Anomalies) {
    let mut events: Vec<(u64, bool, u64)> = Vec::new();
    for (op, place) in places {
        events.push((op.invoked, false, place));
        events.push((op.completed, true, place));
    }
    events.sort_unstable();
    let mut least = None;
    // At its beginning everything that is complete must stand before it.
    for (at, complete, place) in events {
        if complete {
            least = least.max(Some(place));
        } else if least.is_some_and(|least| least > place) {
            found.order += 1;
            found.note(|| format!("{key}: what was begun at {at} us stands before what was complete"));
        }
    }
}

fn check_counter(key: &str, ops: &[&Op], count: u64, found: &mut Anomalies) {
    let increments = || ops.iter().filter(|op| matches!(op.what, What::Increment(_)));
    let replies: Vec<(&Op, u64)> = increments()
        .filter(|op| op.outcome == Outcome::Done)
        .filter_map(|op| if let What::Increment(Some(reply)) = op.what { Some((*op, reply)) } else { None })
        .collect();
    let mut seen = BTreeSet::new();
    for (_, reply) in replies.iter().filter(|(_, reply)| !seen.insert(*reply)) {
        found.lost += 1; // the first of the two is not in the count any more
        found.note(|| format!("{key}: {reply} was answered twice"));
    }
    ordered(key, replies.iter().map(|(op, reply)| (*op, *reply)), found);
    let done = replies.len() as u64;
    let unknown = increments().filter(|op| op.outcome == Outcome::Unknown).count() as u64;
    if count > done + unknown {
        found.duplicated += 1;
        found.note(|| format!("{key}: is {count} after {done} increments and {unknown} unknown ones"));
    }
    if count < done.saturating_sub(found.lost as u64) {
        found.lost += 1;
        found.note(|| format!("{key}: is {count} after {done} increments"));
    }
}

/// One client works on it, so that its operations follow one another.
fn check_register(key: &str, ops: &[&Op], last: Option<u64>, found: &mut Anomalies) {
    let end = Op {
        key: key.to_owned(),
        what: What::Get(last),
        invoked: u64::MAX,
        completed: u64::MAX,
        outcome: Outcome::Done,
    };
    // What it may hold now; what it held before, while nobody knows whether a change was made.
    let mut may: BTreeSet<Option<u64>> = BTreeSet::from([None]);
    let mut ever: BTreeSet<Option<u64>> = BTreeSet::from([None]);
    for op in ops.iter().copied().chain([&end]) {
        let wanted = match &op.what {
            What::Set(value) => Some(*value),
            What::Delete => None,
            What::Get(value) => {
                if op.outcome == Outcome::Done && !may.contains(value) {
                    judge_read(key, op, *value, &may, &ever, found);
                    may = BTreeSet::from([*value]);
                }
                continue;
            }
            _ => continue,
        };
        match op.outcome {
            Outcome::Done => may = BTreeSet::from([wanted]),
            Outcome::Unknown => _ = may.insert(wanted),
            Outcome::Refused => continue,
        }
        ever.insert(wanted);
    }
}

fn judge_read(
    key: &str,
    op: &Op,
    value: Option<u64>,
    may: &BTreeSet<Option<u64>>,
    ever: &BTreeSet<Option<u64>>,
    found: &mut Anomalies,
) {
    match value {
        Some(_) if !ever.contains(&value) => found.phantom += 1,
        Some(_) if may.contains(&None) => found.revived += 1,
        Some(_) => found.stale += 1,
        None => found.lost += 1,
    }
    found.note(|| format!("{key}: {value:?} read at {} us, may be {may:?}", op.invoked));
}

#[cfg(test)]
mod tests {
    use super::*;

    fn op(key: &str, what: What, invoked: u64, completed: u64, outcome: Outcome) -> Op {
        Op { key: key.to_owned(), what, invoked, completed, outcome }
    }

    /// Ten appends, ten increments, a register that is set and deleted; and what is there then.
    fn good() -> (Vec<Op>, BTreeMap<String, Last>) {
        let mut ops = Vec::new();
        for n in 1..=10 {
            ops.push(op("l", What::Append(n), n * 10, n * 10 + 5, Outcome::Done));
            ops.push(op("l", What::List((1..=n).collect()), n * 10 + 6, n * 10 + 7, Outcome::Done));
            ops.push(op("c", What::Increment(Some(n)), n * 10, n * 10 + 5, Outcome::Done));
        }
        ops.push(op("l", What::Append(11), 200, 300, Outcome::Unknown));
        ops.push(op("r", What::Set(1), 10, 11, Outcome::Done));
        ops.push(op("r", What::Get(Some(1)), 12, 13, Outcome::Done));
        ops.push(op("r", What::Delete, 14, 15, Outcome::Done));
        ops.push(op("r", What::Get(None), 16, 17, Outcome::Done));
        for n in 1..=3 {
            ops.push(op("x-set-1", What::Add(n), n * 10, n * 10 + 5, Outcome::Done));
            ops.push(op("{x-pair-1}:a", What::Append(n), n * 10, n * 10 + 5, Outcome::Done));
            ops.push(op("{x-pair-1}:b", What::Append(n), n * 10, n * 10 + 5, Outcome::Done));
            ops.push(op("x-queue-1", What::Append(n), n * 10, n * 10 + 5, Outcome::Done));
            ops.push(op("x-group-1-0", What::Append(n), n * 10, n * 10 + 5, Outcome::Done));
            ops.push(op("x-hll-1-0", What::Add(n), n * 10, n * 10 + 5, Outcome::Done));
        }
        ops.push(op("x-group-1-0", What::Pop(Some(1)), 50, 51, Outcome::Done));
        ops.push(op("x-queue-1", What::Pop(Some(1)), 50, 51, Outcome::Done));
        ops.push(op("x-queue-1", What::Pop(None), 52, 53, Outcome::Unknown));
        ops.push(op("x-brief-1", What::Brief { value: 5, ms: 100 }, 10, 20, Outcome::Done));
        ops.push(op("x-brief-1", What::Get(Some(5)), 30, 40, Outcome::Done));
        ops.push(op("x-brief-1", What::Get(None), 100_030, 100_040, Outcome::Done));
        let last = [
            ("x-set-1".to_owned(), Last::Set(vec![3, 2, 1])),
            ("{x-pair-1}:a".to_owned(), Last::List(vec![1, 2, 3])),
            ("{x-pair-1}:b".to_owned(), Last::List(vec![1, 2, 3])),
            ("x-queue-1".to_owned(), Last::List(vec![3])),
            ("x-group-1-0".to_owned(), Last::List(vec![2, 3])),
            ("x-hll-1-0".to_owned(), Last::Set(vec![1, 2, 3])),
            ("x-brief-1".to_owned(), Last::Register(None)),
            ("l".to_owned(), Last::List((1..=10).collect())),
            ("c".to_owned(), Last::Count(10)),
            ("r".to_owned(), Last::Register(None)),
        ];
        (ops, last.into())
    }

    #[test]
    fn a_good_history_is_good_whatever_became_of_the_unknown() {
        let (ops, mut last) = good();
        assert_eq!(check(&ops, &last), Anomalies::default());
        last.insert("l".to_owned(), Last::List((1..=11).collect()));
        assert!(check(&ops, &last).none());
    }

    #[test]
    fn what_is_planted_is_found() {
        type Mistake = fn(&mut Vec<Op>, &mut BTreeMap<String, Last>);
        type Count = fn(&Anomalies) -> usize;
        let mistakes: [(&str, Mistake, Count); 20] = [
            ("an append is dropped", |_, l| _ = l.insert("l".into(), Last::List((1..=9).collect())), |a| a.lost),
            (
                "an append is sent again",
                |_, l| _ = l.insert("l".into(), Last::List((1..=10).chain([10]).collect())),
                |a| a.duplicated,
            ),
            (
                "a refused append is done",
                |o, l| {
                    o.push(op("l", What::Append(99), 400, 401, Outcome::Refused));
                    l.insert("l".into(), Last::List((1..=10).chain([99]).collect()));
                },
                |a| a.phantom,
            ),
            (
                "two appends are exchanged",
                |_, l| _ = l.insert("l".into(), Last::List(vec![2, 1, 3, 4, 5, 6, 7, 8, 9, 10])),
                |a| a.order,
            ),
            ("a read of a fork", |o, _| o.push(op("l", What::List(vec![1, 77]), 500, 501, Outcome::Done)), |a| a.order),
            (
                "a read that is late",
                |o, _| o.push(op("l", What::List(vec![1, 2]), 500, 501, Outcome::Done)),
                |a| a.stale,
            ),
            ("an increment is sent again", |_, l| _ = l.insert("c".into(), Last::Count(12)), |a| a.duplicated),
            (
                "an increment is lost",
                |o, _| o.push(op("c", What::Increment(Some(10)), 300, 301, Outcome::Done)),
                |a| a.lost,
            ),
            (
                "the deleted comes back",
                |o, _| o.push(op("r", What::Get(Some(1)), 30, 31, Outcome::Done)),
                |a| a.revived,
            ),
            ("a member is dropped", |_, l| _ = l.insert("x-set-1".into(), Last::Set(vec![1, 3])), |a| a.lost),
            (
                "a member comes from nowhere",
                |_, l| _ = l.insert("x-set-1".into(), Last::Set(vec![1, 2, 3, 4])),
                |a| a.phantom,
            ),
            (
                "a transaction is done by half",
                |o, l| {
                    o.retain(|op| op.key != "{x-pair-1}:b" || op.what != What::Append(3));
                    l.insert("{x-pair-1}:b".into(), Last::List(vec![1, 2]));
                },
                |a| a.torn,
            ),
            (
                "a value is popped twice",
                |o, _| o.push(op("x-queue-1", What::Pop(Some(1)), 60, 61, Outcome::Done)),
                |a| a.duplicated,
            ),
            (
                "popped values are there again",
                |_, l| _ = l.insert("x-queue-1".into(), Last::List(vec![1, 3])),
                |a| a.duplicated,
            ),
            (
                "an entry is delivered to two consumers",
                |_, l| _ = l.insert("x-group-1-0".into(), Last::List(vec![1, 2, 3])),
                |a| a.duplicated,
            ),
            ("an entry is gone", |_, l| _ = l.insert("x-group-1-0".into(), Last::List(vec![3])), |a| a.lost),
            ("what was counted is not", |_, l| _ = l.insert("x-hll-1-0".into(), Last::Set(vec![1, 3])), |a| a.lost),
            ("a queue is emptied", |_, l| _ = l.insert("x-queue-1".into(), Last::List(vec![])), |a| a.lost),
            (
                "a value outlives its time",
                |o, _| o.push(op("x-brief-1", What::Get(Some(5)), 300_000, 300_001, Outcome::Done)),
                |a| a.phantom,
            ),
            (
                "a value ends before its time",
                |o, _| o.push(op("x-brief-1", What::Get(None), 50_000, 50_010, Outcome::Done)),
                |a| a.lost,
            ),
        ];
        for (what, plant, count) in mistakes {
            let (mut ops, mut last) = good();
            plant(&mut ops, &mut last);
            let found = check(&ops, &last);
            assert!(count(&found) > 0, "{what}: {found:?}");
        }
    }
}
