//! Slots that move on access: commands go to their target already, and the keys that a command names are brought there
//! before it, one by one, as they are asked for. The source moves a key itself and blocks meanwhile (SLOTSMGRTONE where it
//! is known, MIGRATE elsewhere), so two that ask for one key at once do no harm: the second finds it gone.
//!
//! ```text
//! look    is it at the target? what is there wins, and the source's is removed   (but for MIGRATE, which does not overwrite)
//! move    the source sends it and removes its own
//! list    it was silent for too long: what it sent may still wait at the target, so its connections there ...
//! kill    ... are ended, and then it is looked anew
//! drop    both have it: the source's is removed
//! ```
//! Until that is over the request waits as for a held slot, and behind it whatever else its client asks of such slots.

use super::command::{self, CommandId};
use super::fan::{Fan, Merge, Part};
use super::fetches::{Job, Key, Step, Verb};
use super::limits::{
    FETCH_AGAIN_US, FETCH_TIMEOUT_MS, FETCHED_AGAIN_US, FETCHED_AT_ONCE_BYTES, FETCHES_AT_ONCE, FETCHES_MAX,
};
use super::link::State;
use super::request::{NO_SLOT, NONE};
use super::state::Relay;
use super::{ClientId, LinkId, Planted, declared_id};
use crate::stats::Counter;
use cluster::group::GroupId;
use cluster::instance::Addr;
use cluster::resp::request::{Ceilings, Frame, Step as FrameStep};
use cluster::resp::{reply, write};
use cluster::slot::Slot;
use cluster::topology::SlotState;

impl Relay {
    /// Whether a request must wait for keys that are not at their target yet; they are sent for. `raw` is whole.
    #[cold]
    pub(super) fn must_fetch(&mut self, client: ClientId, command: CommandId, raw: &[u8]) -> bool {
        if self.planted == Some(Planted::FetchNothing) {
            return false;
        }
        let missing = self.missing_keys(command, raw);
        self.fetch(missing) || self.clients[client as usize].held_moving > 0
    }

    /// The same for one key.
    #[cold]
    pub(super) fn must_fetch_key(&mut self, key: &[u8]) -> bool {
        let slot = self.routes.slot_of(key);
        let missing = self.routes.slots[usize::from(slot)].moving && !self.fetches.has(key);
        self.fetch(if missing { vec![(key.into(), slot)] } else { Vec::new() })
    }

    /// Sends for keys; whether there are any.
    fn fetch(&mut self, missing: Vec<(Key, Slot)>) -> bool {
        let any = !missing.is_empty();
        for (key, slot) in missing {
            if self.fetches.by_key.len() >= FETCHES_MAX {
                break;
            }
            let Some((from, to, ..)) = self.ends(slot).filter(|_| !self.fetches.by_key.contains_key(&key)) else {
                continue;
            };
            let now = self.now.us;
            let job = Job {
                key: key.clone(),
                slot,
                ends: (from, to),
                generation: self.routes.generation,
                step: Step::Pause { until_us: u64::MAX },
                verb: Verb::One,
                begun_us: now,
                sent_us: now,
            };
            let job = self.fetches.jobs.insert(job);
            self.fetches.by_key.insert(key, job);
            self.fetches.queue.push_back(job);
        }
        self.start_fetches();
        any
    }

    /// Begins what waits, as far as there may be more.
    fn start_fetches(&mut self) {
        if std::mem::replace(&mut self.fetches.starting, true) {
            return; // in the middle of it: it goes on there
        }
        while self.fetches.active < FETCHES_AT_ONCE
            && let Some(at) = self.fetches.queue.pop_front()
        {
            self.fetches.active += 1;
            self.begin_fetch(at);
        }
        self.fetches.starting = false;
    }

    /// The keys of a request that are in moving slots, and not known to be at their target.
    fn missing_keys(&self, command: CommandId, raw: &[u8]) -> Vec<(Key, Slot)> {
        let mut missing = Vec::new();
        let mut see = |key: &[u8]| {
            let slot = self.routes.slot_of(key);
            let more = missing.len() < FETCHES_MAX;
            if more && self.routes.slots[usize::from(slot)].moving && !self.fetches.has(key) {
                missing.push((key.into(), slot));
            }
        };
        // A transaction is several requests, one behind the other.
        let mut rest = raw;
        while !rest.is_empty() {
            let mut frame = Frame::default();
            let FrameStep::Done { len } = frame.step(rest, &Ceilings::OPEN) else { break };
            let one = &rest[..len];
            rest = &rest[len..];
            if command == declared_id() {
                self.declared_keys_of(&frame, one).into_iter().for_each(&mut see);
                continue;
            }
            let Some(id) = command::lookup(frame.kept[0].of(one)) else { continue };
            let sub =
                frame.kept(1, one).filter(|_| command::get(id).container).and_then(|s| command::lookup_sub(id, s));
            // What is wrong with its keys the instance says.
            _ = command::for_each_key(command::get(sub.unwrap_or(id)), frame.argc, one, &mut see);
        }
        missing
    }

    /// Where a moving slot's keys come from and go to: the groups, and the links that are used for it.
    fn ends(&self, slot: Slot) -> Option<(GroupId, GroupId, LinkId, LinkId)> {
        let owner = self.routes.topology.as_ref()?.slots().get(usize::from(slot))?;
        let (Some(from), SlotState::Moving { target }) = (owner.group, owner.state) else { return None };
        let first = |group| self.routes.targets.iter().find(|t| t.group == group)?.links.first().copied();
        Some((from, target, first(from)?, first(target)?))
    }

    fn verb_of(&self, source: GroupId) -> Verb {
        self.fetches.verbs.get(&source).copied().unwrap_or_default()
    }

    fn begin_fetch(&mut self, job: usize) {
        let ends = self.fetches.jobs[job].ends;
        let step = match self.verb_of(ends.0) {
            _ if self.fetches.doubtful.contains(&ends) => Step::List,
            Verb::Migrate => Step::Move,
            _ => Step::Look,
        };
        self.go_to(job, step);
    }

    /// Takes a step: sends its request.
    fn go_to(&mut self, at: usize, step: Step) {
        let job = &self.fetches.jobs[at];
        let Some((from, to, source, target)) = self.ends(job.slot) else { return self.end_fetch(at, false) };
        let (verb, addr) = (self.verb_of(from), self.links[target as usize].addr.clone());
        let link = if matches!(step, Step::Move | Step::Drop) { source } else { target };
        if matches!(self.links[link as usize].state, State::Down { .. } | State::Closing) {
            let link = &self.links[link as usize];
            let why = format!("{} is down: {}", super::link::whose(link), link.cause);
            return self.pause_fetch(at, why);
        }
        if step == Step::List && !self.fetches.clearing.insert((from, to)) {
            return self.wait_fetch(at); // another one sees to it
        }
        let mut raw = Vec::new();
        let key = &self.fetches.jobs[at].key;
        match step {
            Step::Look => write::request(&mut raw, &[b"EXISTS", key]),
            Step::Drop if verb == Verb::Migrate => write::request(&mut raw, &[b"UNLINK", key]),
            Step::Drop => write::request(&mut raw, &[b"DEL", key]),
            Step::List => write::request(&mut raw, &[b"CLIENT", b"LIST"]),
            Step::Move => match self.move_request(verb, key, &addr) {
                Ok(request) => raw = request,
                Err(why) => return self.pause_fetch(at, why),
            },
            Step::Kill | Step::Pause { .. } => return,
        }
        self.fetches.jobs[at].verb = verb;
        self.send_fetch(at, step, link, &[raw]);
    }

    /// What makes a source send a key.
    fn move_request(&self, verb: Verb, key: &[u8], to: &Addr) -> Result<Vec<u8>, String> {
        let Addr::Tcp(to) = to else {
            return Err(format!("{to} is no address that an instance could send keys to"));
        };
        let (host, port, timeout) = (to.ip().to_string(), to.port().to_string(), FETCH_TIMEOUT_MS.to_string());
        let (host, port, timeout) = (host.as_bytes(), port.as_bytes(), timeout.as_bytes());
        let mut args: Vec<&[u8]> = match verb {
            Verb::One => vec![b"SLOTSMGRTONE", host, port, timeout, key],
            Verb::TagOne => vec![b"SLOTSMGRTTAGONE", host, port, timeout, key],
            Verb::Migrate => vec![b"MIGRATE", host, port, b"", b"0", timeout],
        };
        if verb == Verb::Migrate {
            match (&self.settings.instance_user, &self.settings.instance_password) {
                (Some(user), Some(password)) => args.extend([b"AUTH2", user.as_bytes(), password.as_bytes()]),
                (None, Some(password)) => args.extend([b"AUTH", password.as_bytes()]),
                _ => {}
            }
            args.extend([&b"KEYS"[..], key]);
        }
        let mut raw = Vec::new();
        write::request(&mut raw, &args);
        Ok(raw)
    }

    /// Sends requests of one step. They count as requests of several slots do: no barrier is passed while they are out.
    fn send_fetch(&mut self, at: usize, step: Step, link: LinkId, requests: &[Vec<u8>]) {
        let job = &mut self.fetches.jobs[at];
        (job.step, job.sent_us) = (step, self.now.us);
        let mut fan = Fan { merge: Merge::Fetch(at as u32), ..self.new_fan() };
        fan.groups.clear();
        fan.parts.extend(requests.iter().map(|_| Part { link, ..Part::default() }));
        (fan.parent, fan.pending) = (NONE, requests.len() as u32);
        let fan = self.fans.insert(fan) as u32;
        self.wide_now += 1;
        for (part, raw) in requests.iter().enumerate() {
            self.send_part(fan, part, raw);
        }
    }

    /// A step's answers are there.
    pub(super) fn fetch_answered(&mut self, at: u32, fan: &Fan) {
        self.next_step(at as usize, fan);
        self.start_fetches();
    }

    fn next_step(&mut self, at: usize, fan: &Fan) {
        let job = &self.fetches.jobs[at];
        let reply = fan.parts.first().map_or(&b""[..], |p| &p.reply);
        let number = reply::integer(reply);
        let (ends, moves) = (job.ends, job.step == Step::Move);
        // What a source has sent, and had no answer to, may still come to the target, whatever is published meanwhile.
        let silent = self.now.us.saturating_sub(job.sent_us) >= FETCH_TIMEOUT_MS * 1000 || has(reply, b"twemslot:");
        let certain = is_unsent(reply) || is_unknown(reply) || has(reply, b"BUSYKEY");
        let doubtful = moves && silent && reply.first() == Some(&b'-') && !certain;
        if doubtful {
            self.fetches.doubtful.insert(ends);
        }
        if job.generation != self.routes.generation {
            self.fetches.jobs.remove(at);
            return;
        }
        let Some((from, _, _, target)) = self.ends(job.slot) else { return self.end_fetch(at, false) };
        if matches!(job.step, Step::List | Step::Kill) {
            self.fetches.clearing.remove(&ends);
        }
        let verb = job.verb;
        match job.step {
            Step::Look if number == Some(0) => self.go_to(at, Step::Move),
            Step::Look if number.is_some() => self.go_to(at, Step::Drop),
            Step::Move if verb != Verb::Migrate && number.is_some() => self.end_fetch(at, true),
            Step::Move if verb != Verb::Migrate && is_unknown(reply) => {
                // Others may have asked, and found out, meanwhile.
                if self.verb_of(from) == verb {
                    let next = if verb == Verb::One { Verb::TagOne } else { Verb::Migrate };
                    self.fetches.verbs.insert(from, next);
                }
                self.go_to(at, Step::Move);
            }
            // The source has the word, and the target not its counterpart.
            Step::Move if verb != Verb::Migrate && has(reply, b"slotsrestore, migration failed") => {
                self.fetches.verbs.insert(from, Verb::Migrate);
                self.go_to(at, Step::Move);
            }
            Step::Move if matches!(reply, b"+OK\r\n" | b"+NOKEY\r\n") => self.end_fetch(at, true),
            Step::Move if has(reply, b"BUSYKEY") => self.go_to(at, Step::Drop),
            Step::List if reply.first() != Some(&b'-') => {
                let text = reply::text(reply).unwrap_or_default();
                let kills: Vec<Vec<u8>> = senders(&String::from_utf8_lossy(text)).into_iter().map(kill).collect();
                if kills.is_empty() {
                    self.fetches.doubtful.remove(&ends);
                    return self.go_to(at, Step::Look);
                }
                self.fetches.clearing.insert(ends);
                self.send_fetch(at, Step::Kill, target, &kills);
            }
            Step::Kill if !has(reply, b"twemslot:") => {
                self.fetches.doubtful.remove(&ends);
                self.go_to(at, Step::Look);
            }
            Step::Drop if number.is_some() => self.end_fetch(at, true),
            _ => {
                let why = String::from_utf8_lossy(reply).trim_start_matches('-').trim_end().to_owned();
                self.pause_fetch(at, format!("group {from}: {why}"));
            }
        }
    }

    /// It is tried again a little later, as long as somebody may wait for it.
    fn pause_fetch(&mut self, at: usize, why: String) {
        self.fetches.trouble = why;
        self.stats.add(Counter::FetchesFailed, 1);
        self.wait_fetch(at);
    }

    fn wait_fetch(&mut self, at: usize) {
        self.fetches.active -= 1;
        self.fetches.jobs[at].step = Step::Pause { until_us: self.now.us + FETCH_AGAIN_US };
    }

    /// It is at its target, or nowhere; or nobody needs to know any more.
    fn end_fetch(&mut self, at: usize, fetched: bool) {
        self.fetches.active -= 1;
        let job = self.forget_fetch(at);
        if fetched {
            self.stats.add(Counter::KeysFetched, 1);
            self.fetches.trouble.clear();
            self.fetches.remember(job.key);
        }
    }

    fn forget_fetch(&mut self, at: usize) -> Job {
        let job = self.fetches.jobs.remove(at);
        self.fetches.by_key.remove(&job.key);
        self.fetches.arrived = true;
        // `settle` lets go what waited, once for all that come together.
        self.routes.unsettled = true;
        job
    }

    /// Whether what waits for keys is to be let go.
    pub(super) fn keys_have_come(&mut self) -> bool {
        let since = self.now.us.saturating_sub(self.fetches.released_us);
        let due = self.held_bytes < FETCHED_AT_ONCE_BYTES || since >= FETCHED_AGAIN_US;
        let come = self.fetches.arrived && due;
        if come {
            (self.fetches.arrived, self.fetches.released_us) = (false, self.now.us);
        }
        self.routes.unsettled |= self.fetches.arrived;
        come
    }

    /// Tries again what is due; what nobody waits for any more is given up.
    pub(super) fn tick_fetches(&mut self) {
        if self.fetches.jobs.is_empty() {
            return;
        }
        let now = self.now.us;
        let due = |job: &Job| matches!(job.step, Step::Pause { until_us } if until_us <= now);
        let due: Vec<usize> = self.fetches.jobs.iter().filter(|(_, job)| due(job)).map(|(at, _)| at).collect();
        for at in due {
            let job = &mut self.fetches.jobs[at];
            if now.saturating_sub(job.begun_us) > self.settings.hold_timeout_us {
                self.forget_fetch(at);
            } else {
                job.step = Step::Pause { until_us: u64::MAX };
                self.fetches.queue.push_back(at);
            }
        }
        self.start_fetches();
    }

    /// Why a request of this slot that waited for keys is refused; None: it waited for something else.
    pub(super) fn not_fetched(&self, slot: Slot, limit_us: u64) -> Option<String> {
        let waits = if slot == NO_SLOT { self.routes.moves } else { self.routes.slots[usize::from(slot)].moving };
        let trouble = Some(&self.fetches.trouble[..]).filter(|why| !why.is_empty()).unwrap_or("no answer");
        waits.then(|| {
            format!(
                "TRYAGAIN twemslot: its slot moves, and its keys could not be brought within {} ms: {trouble}; nothing was sent",
                limit_us / 1000
            )
        })
    }
}

fn kill(id: u64) -> Vec<u8> {
    let mut raw = Vec::new();
    write::request(&mut raw, &[b"CLIENT", b"KILL", b"ID", id.to_string().as_bytes()]);
    raw
}

fn has(reply: &[u8], word: &[u8]) -> bool {
    reply.first() == Some(&b'-') && reply.windows(word.len()).any(|w| w == word)
}

/// Our own error, and the source has not heard of it.
fn is_unsent(reply: &[u8]) -> bool {
    reply.ends_with(b"; nothing was sent\r\n")
}

fn is_unknown(reply: &[u8]) -> bool {
    let start = &reply[..reply.len().min(12)];
    start.eq_ignore_ascii_case(b"-ERR unknown")
}

/// The ids of connections, of a CLIENT LIST, over which other instances send keys: they have no name, which everybody of
/// ours has, and do nothing else.
fn senders(list: &str) -> Vec<u64> {
    let field = |line: &str, name: &str| line.split(' ').find_map(|word| word.strip_prefix(name)).map(str::to_owned);
    let sends = |line: &&str| {
        let command = field(line, "cmd=").unwrap_or_default();
        let moves = command.starts_with("restore") || command.starts_with("slotsrestore");
        let begins = matches!(&command[..], "NULL" | "select" | "auth");
        field(line, "name=").is_some_and(|name| name.is_empty()) && (moves || begins)
    };
    list.lines().filter(sends).filter_map(|line| field(line, "id=")?.parse().ok()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_sends_keys() {
        let list = "id=3 addr=10.0.0.1:1 name= cmd=restore user=default\nid=4 addr=10.0.0.2:1 name=px:a:0 cmd=restore\n\
                    id=5 addr=10.0.0.2:2 name= cmd=get\nid=6 addr=10.0.0.1:9 name= cmd=NULL\nid=7 name= cmd=slotsrestore-async\n";
        assert_eq!(senders(list), [3, 6, 7]);
        assert_eq!(senders(""), [0u64; 0]);
    }
}
