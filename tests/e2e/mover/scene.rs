//! A job between two groups, and what is asked of it.

use crate::client::Client;
use crate::compare::differences;
use crate::servers::{Pair, until};
use crate::writers::Writers;
use anyhow::{Context, Result, bail, ensure};
use cluster::slot::{TagRule, slot_of};
use configsvr::agent::link::Access;
use configsvr::control::event::Event;
use configsvr::control::job::{Audit, Findings, Goal, Job, JobLimits, Mark, Stage, Status, Work};
use configsvr::control::layout::Token;
use configsvr::mover::{Confirm, Movers};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::runtime::Runtime;
use tokio::sync::mpsc;
use tokio::time::timeout;

pub(crate) const SLOTS: u16 = 1024;
/// Slots below move.
const MOVING: u16 = 128;
/// A copy of thousands of keys takes a second, on a busy machine some.
const STEP_LIMIT: Duration = Duration::from_secs(60);
/// Keys of the target's own.
const OWN: usize = 1000;

pub(crate) struct Scene {
    pub(crate) source: Pair,
    pub(crate) target: Pair,
    job: Arc<Job>,
    runtime: Runtime,
    movers: Movers,
    events: mpsc::Receiver<Event>,
    pub(crate) last: Option<Status>,
    /// Where the target was at the last drain.
    mark: Option<Mark>,
}

/// Whether a key is in a slot that moves.
pub(crate) fn moves(key: &[u8]) -> bool {
    slot_of(key, TagRule::Redis, SLOTS) < MOVING
}

impl Scene {
    pub(crate) fn begin(source_replica: bool, target_replica: bool, limits: JobLimits) -> Result<Self> {
        // Alone it waits as it does unless somebody changed it, so that who asks for its stream costs no full copy.
        let extra: &[&str] = if source_replica { &[] } else { &["--repl-diskless-sync-delay", "5"] };
        Self::assemble(Pair::start(source_replica, extra)?, Pair::start(target_replica, &[])?, MOVING, limits)
    }

    /// Slots below `moving` move from `source` to `target`.
    pub(crate) fn assemble(source: Pair, target: Pair, moving: u16, limits: JobLimits) -> Result<Self> {
        let job = Arc::new(Job {
            task: "0001".to_owned(),
            work: Work::Copy,
            attempt: 1,
            token: Token { term: 3, member: 1 },
            slots: (0..moving).collect(),
            slot_count: SLOTS,
            tag_rule: TagRule::Redis,
            source: source.side(1),
            target: target.side(2),
            limits,
            force: false,
        });
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
        let (outcomes, events) = mpsc::channel(4096);
        let confirm: Confirm = Arc::new(|_| Box::pin(async { Ok(()) }));
        let movers = Movers::new(Arc::new(Access::default()), confirm, outcomes);
        Ok(Self { source, target, job, runtime, movers, events, last: None, mark: None })
    }

    /// The first name with this beginning that moves.
    pub(crate) fn moving_key(&self, name: &str) -> String {
        (0..).map(|n| format!("{name}:{n}")).find(|key| moves(key.as_bytes())).unwrap_or_default()
    }

    /// Keys at the source, the target's own, and copies of an attempt that broke off.
    pub(crate) fn fill(&self, keys: usize) -> Result<()> {
        let set = |client: &mut Client, names: Vec<String>| -> Result<()> {
            for some in names.chunks(2000) {
                let set = |k: &String| vec![b"SET".to_vec(), k.clone().into_bytes(), vec![b'x'; 100]];
                client.ask_all(&some.iter().map(set).collect::<Vec<_>>())?;
            }
            Ok(())
        };
        set(&mut self.source.primary.client()?, (0..keys).map(|n| format!("static:{n}")).collect())?;
        let mut target = self.target.primary.client()?;
        let own = (0..).map(|n| format!("own:{n}")).filter(|k| !moves(k.as_bytes()));
        set(&mut target, own.take(OWN).collect())?;
        let left = (0..).map(|n| format!("left:{n}")).filter(|k| moves(k.as_bytes()));
        set(&mut target, left.take(300).collect())?;
        self.in_sync()
    }

    /// Values that are copied in pieces.
    pub(crate) fn fill_big(&self) -> Result<()> {
        let mut client = self.source.primary.client()?;
        for n in 0..8 {
            for part in 0..40 {
                let mut all: Vec<Vec<Vec<u8>>> = Vec::new();
                for (command, suffix, scored) in
                    [("HSET", "h", 2), ("SADD", "s", 0), ("ZADD", "z", 1), ("RPUSH", "l", 0)]
                {
                    let mut words = vec![command.as_bytes().to_vec(), format!("{{big{n}}}{suffix}").into_bytes()];
                    for element in part * 100..(part + 1) * 100 {
                        let member = format!("f{element}{}", "y".repeat(if scored == 2 { 0 } else { 60 }));
                        if scored == 1 {
                            words.push(element.to_string().into_bytes());
                        }
                        words.push(member.into_bytes());
                        if scored == 2 {
                            words.push(element.to_string().into_bytes());
                        }
                    }
                    all.push(words);
                }
                let append = [&b"APPEND"[..], format!("{{big{n}}}str").as_bytes(), &[b'0' + part as u8; 20_000]]
                    .map(<[u8]>::to_vec);
                all.push(append.to_vec());
                let replies = client.ask_all(&all)?;
                ensure!(replies.iter().all(|r| r[0] == b':'), "filling: {replies:?}");
            }
        }
        self.in_sync()
    }

    fn in_sync(&self) -> Result<()> {
        for pair in [&self.source, &self.target] {
            let replicas = usize::from(pair.replica.is_some());
            let mut client = pair.primary.client()?;
            client.say("SET in:sync x")?;
            client.say("DEL in:sync")?;
            until("replicas have it all", || Ok(client.number(&format!("WAIT {replicas} 1000"))? >= replicas as i64))?;
        }
        Ok(())
    }

    pub(crate) fn write(&self, writers: u64) -> Writers {
        Writers::start(self.source.primary.addr, writers, 200)
    }

    /// Forks of the source's instances: a full copy needs one. (`sync_full` counts questions.)
    pub(crate) fn full_copies(&self) -> Result<Vec<String>> {
        let servers = [Some(&self.source.primary), self.source.replica.as_ref()];
        servers.into_iter().flatten().map(|server| server.client()?.info("stats", "total_forks")).collect()
    }

    pub(crate) fn tell(&mut self, goal: Goal) {
        let _inside = self.runtime.enter();
        self.movers.tell(Arc::clone(&self.job), goal);
    }

    /// The next attempt, as fast as it goes.
    pub(crate) fn again(&mut self) -> Result<()> {
        let job = Job { attempt: self.job.attempt + 1, limits: JobLimits::default(), ..(*self.job).clone() };
        self.job = Arc::new(job);
        self.tell(Goal::Copy);
        // What the one before said last is not of interest.
        self.until_attempt()
    }

    fn until_attempt(&mut self) -> Result<()> {
        let (events, attempt) = (&mut self.events, self.job.attempt);
        let came = self.runtime.block_on(async {
            timeout(STEP_LIMIT, async {
                while let Some(event) = events.recv().await {
                    if matches!(event, Event::Moved { attempt: of, .. } if of == attempt) {
                        return true;
                    }
                }
                false
            })
            .await
        });
        ensure!(came == Ok(true), "the next attempt says nothing");
        Ok(())
    }

    /// Listens for so long.
    pub(crate) fn run_for(&mut self, time: Duration) -> Result<()> {
        let end = Instant::now() + time;
        while let Some(left) = end.checked_duration_since(Instant::now()) {
            if let Some(Stage::Failed { why } | Stage::Hopeless { why }) = self.hear(left)? {
                bail!("{why}");
            }
        }
        Ok(())
    }

    fn hear(&mut self, limit: Duration) -> Result<Option<Stage>> {
        let events = &mut self.events;
        let Ok(event) = self.runtime.block_on(async { timeout(limit, events.recv()).await }) else { return Ok(None) };
        let Some(Event::Moved { task, attempt, status }) = event else { bail!("{event:?}") };
        ensure!(task == self.job.task && attempt == self.job.attempt, "{task} {attempt}");
        self.last = Some(status.clone());
        Ok(Some(status.stage))
    }

    /// Listens until a stage that `wanted` finds something in.
    pub(crate) fn until<T>(&mut self, what: &str, wanted: impl Fn(&Stage) -> Option<T>) -> Result<T> {
        let end = Instant::now() + STEP_LIMIT;
        while let Some(left) = end.checked_duration_since(Instant::now()) {
            let Some(stage) = self.hear(left)? else { continue };
            if let Some(found) = wanted(&stage) {
                return Ok(found);
            }
            if let Stage::Failed { why } | Stage::Hopeless { why } = stage {
                bail!("{what}: {why}");
            }
        }
        bail!("{what}: not within {STEP_LIMIT:?}, last {:?}", self.last)
    }

    pub(crate) fn until_tailing(&mut self) -> Result<()> {
        self.until("the copy", |stage| (*stage == Stage::Tailing).then_some(()))
    }

    /// Drains, and how many replicas have it all.
    pub(crate) fn drained(&mut self, number: u64) -> Result<usize> {
        let begun = Instant::now();
        self.tell(Goal::Drain { fence: number });
        let (replicas, mark) = self.until("the drain", |stage| match stage {
            Stage::Drained { fence, replicas, mark, .. } if *fence == number => Some((*replicas, mark.clone())),
            _ => None,
        })?;
        self.mark = mark;
        eprintln!("drained within {:?}: {:?}", begun.elapsed(), self.last);
        Ok(replicas)
    }

    /// Source, target and the target's replica hold the same of these slots; of others the target has what it had.
    pub(crate) fn compare(&self) -> Result<()> {
        let mut source = self.source.primary.client()?;
        let (compared, found) = differences(&mut source, &mut self.target.primary.client()?, moves)?;
        ensure!(
            found.is_empty(),
            "{} of {compared} keys differ, as {}",
            found.len(),
            found[..found.len().min(3)].join("\n")
        );
        ensure!(compared > 100, "only {compared} keys were compared");
        if let Some(replica) = &self.target.replica {
            let (_, found) = differences(&mut source, &mut replica.client()?, moves)?;
            ensure!(found.is_empty(), "the target's replica: {} keys differ, as {}", found.len(), found[0]);
        }
        let others = self.target.primary.client()?.keys()?.into_iter().filter(|key| !moves(key)).collect::<Vec<_>>();
        let own = others.iter().filter(|key| key.starts_with(b"own:")).count();
        ensure!(own == others.len() && own == OWN, "{own} of {OWN} own keys, {} in all", others.len());
        eprintln!("{compared} keys are equal");
        Ok(())
    }

    /// What an audit finds: nothing, what clients changed since, and what somebody spoilt before the drain.
    pub(crate) fn audited(&mut self) -> Result<()> {
        let mut target = self.target.primary.client()?;
        let [changed, gone, new] = ["changed", "gone", "new"].map(|name| self.moving_key(name));
        let found = self.audit()?;
        // A key whose life ended between the looks at both sides was changed: at the target, by its end.
        let right = found.equal + found.changed == found.compared && found.changed < 5;
        ensure!(found.told_apart && right && found.extra == 0, "{found:?}");
        self.tell(Goal::Copy);
        let mut source = self.source.primary.client()?;
        source.say(&format!("MSET {changed} 1 {gone} 1"))?;
        self.drained(7)?;
        // These are clients' writes.
        target.say(&format!("INCR {changed}"))?;
        target.say(&format!("DEL {gone}"))?;
        target.say(&format!("SET {new} 1"))?;
        let found = self.audit()?;
        ensure!(found.changed == 2 && found.equal + 2 == found.compared && found.extra == 0, "{found:?}");
        // And these a copy that went wrong: they come before the drain.
        self.tell(Goal::Copy);
        self.until("the copy goes on", |stage| (*stage == Stage::Tailing).then_some(()))?;
        self.drained(8)?;
        let found = self.audit()?;
        ensure!((found.different, found.missing, found.extra) == (1, 1, 1), "{found:?}");
        Ok(())
    }

    fn audit(&self) -> Result<Findings> {
        let job = &self.job;
        let audit = Audit {
            task: job.task.clone(),
            token: job.token,
            source: job.source.clone(),
            target: job.target.clone(),
            slots: Arc::clone(&job.slots),
            slot_count: job.slot_count,
            tag_rule: job.tag_rule,
            keys_per_s: 0,
            mark: self.mark.clone(),
        };
        let (good, event) = self.runtime.block_on(self.movers.audit(9, audit));
        let Event::Audited { deed: 9, outcome } = event else { bail!("{event:?}") };
        let found = outcome.map_err(anyhow::Error::msg)?;
        ensure!(good && found.compared > 100, "{found:?}");
        Ok(found)
    }

    /// Kills the job's connections, as a network does.
    pub(crate) fn break_connections(&self) -> Result<()> {
        let servers = [Some(&self.source.primary), self.source.replica.as_ref(), Some(&self.target.primary)];
        let mut killed = 0;
        for server in servers.into_iter().flatten() {
            let mut client = server.client()?;
            let list = client.text("CLIENT LIST")?;
            for line in list.lines().filter(|line| line.contains(" name=mv:0001:")) {
                let id = line.split(' ').find_map(|f| f.strip_prefix("id=")).context("an id")?;
                killed += client.number(&format!("CLIENT KILL ID {id}"))?;
            }
        }
        ensure!(killed > 0, "the job has no connections");
        Ok(())
    }
}
