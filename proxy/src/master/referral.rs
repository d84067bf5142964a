//! Questions of one worker to all the others (CLIENT LIST, SLOWLOG ...), and of the admin port to all: handed on, and the
//! answers handed back as they come, or together, once all have answered, died, or taken too long.

use super::Master;
use super::event::{Problem, Reply};
use super::fleet::Id;
use super::metrics;
use super::traffic::Survey;
use crate::mail::ToWorker;
use crate::relay::Question;
use std::collections::{BTreeMap, BTreeSet};

/// How long workers are waited for. The asker waits a little longer, for us.
const PATIENCE_US: u64 = 400_000;
/// Questions that wait at once; one more is answered by nobody.
const OPEN_MAX: usize = 1024;

/// A question under way.
#[derive(Debug)]
struct Referral {
    asker: Asker,
    waiting: BTreeSet<Id>,
    deadline_us: u64,
}

/// Who wants to know.
#[derive(Debug)]
enum Asker {
    /// A worker, under a ticket of its own.
    Worker(Id, u32),
    /// The admin port, which hears of all at once.
    Admin { survey: Survey, texts: BTreeMap<Id, String>, reply: Reply },
}

/// All of them, by the ticket that the others are given.
#[derive(Debug, Default)]
pub(super) struct Referrals {
    last: u64,
    open: BTreeMap<u64, Referral>,
}

impl Referrals {
    pub(super) fn deadline_us(&self) -> Option<u64> {
        self.open.values().map(|r| r.deadline_us).min()
    }

    /// Takes out those whose wait is over.
    fn over(&mut self, now_us: u64, lives: impl Fn(&Id) -> bool) -> Vec<Referral> {
        let is_over = |r: &Referral| r.deadline_us <= now_us || !r.waiting.iter().any(&lives);
        let over: Vec<u64> = self.open.iter().filter(|(_, r)| is_over(r)).map(|(&ticket, _)| ticket).collect();
        over.iter().filter_map(|ticket| self.open.remove(ticket)).collect()
    }
}

impl Master {
    /// A worker wants to know what the others know.
    pub(super) fn refer(&mut self, asker: Id, ticket: u32, question: Question) {
        if question == Question::Totals {
            let text = self.totals_without(asker);
            return self.tell(asker, &ToWorker::Answered { ticket, text, last: true });
        }
        let others = self.processes.keys().copied().filter(|&id| id != asker);
        let some = if question == Question::Scripts { 1 } else { usize::MAX };
        let waiting: BTreeSet<Id> = others.take(some).collect();
        if waiting.is_empty() || self.referrals.open.len() >= OPEN_MAX {
            return self.tell(asker, &ToWorker::Answered { ticket, text: String::new(), last: true });
        }
        self.hand_on(Asker::Worker(asker, ticket), waiting, &question);
    }

    /// The admin port wants to know what all workers know.
    pub(super) fn survey(&mut self, survey: Survey, reply: Reply) {
        if self.referrals.open.len() >= OPEN_MAX {
            let hint = "try again in a second";
            _ = reply.send(Problem::new(429, "busy", "too many questions to workers wait", hint).into());
            return;
        }
        let waiting = self.processes.keys().copied().collect();
        self.hand_on(Asker::Admin { survey, texts: BTreeMap::new(), reply }, waiting, &survey.question());
    }

    fn hand_on(&mut self, asker: Asker, waiting: BTreeSet<Id>, question: &Question) {
        self.referrals.last += 1;
        let theirs = self.referrals.last;
        for &id in &waiting {
            self.tell(id, &ToWorker::Question { ticket: theirs, question: question.clone() });
        }
        let deadline_us = self.now_us() + PATIENCE_US;
        self.referrals.open.insert(theirs, Referral { asker, waiting, deadline_us });
    }

    /// A worker has said part of its answer.
    pub(super) fn pass_answer(&mut self, id: Id, theirs: u64, text: String, last: bool) {
        let Some(referral) = self.referrals.open.get_mut(&theirs) else { return };
        if last {
            referral.waiting.remove(&id);
        }
        match &mut referral.asker {
            Asker::Admin { texts, .. } => texts.entry(id).or_default().push_str(&text),
            Asker::Worker(asker, ticket) if !text.is_empty() => {
                let (asker, ticket) = (*asker, *ticket);
                self.tell(asker, &ToWorker::Answered { ticket, text, last: false });
            }
            Asker::Worker(..) => {}
        }
    }

    pub(super) fn end_referrals(&mut self, now_us: u64) {
        let processes = &self.processes;
        for referral in self.referrals.over(now_us, |id| processes.contains_key(id)) {
            match referral.asker {
                Asker::Worker(asker, ticket) => {
                    self.tell(asker, &ToWorker::Answered { ticket, text: String::new(), last: true });
                }
                Asker::Admin { survey, texts, reply } => {
                    let answer = survey.answer(texts.values().map(String::as_str), self.topology.as_deref());
                    _ = reply.send(answer); // an error: the caller has gone
                }
            }
        }
    }

    /// Requests of a worker's clients, for those of the others that monitor.
    pub(super) fn show(&mut self, from: Id, lines: &str) {
        let others: Vec<Id> = self.processes.keys().copied().filter(|&id| id != from).collect();
        for id in others {
            self.tell(id, &ToWorker::Show { lines: lines.to_owned() });
        }
    }

    fn tell(&mut self, id: Id, letter: &ToWorker) {
        if let Some(process) = self.processes.get_mut(&id) {
            process.tell(letter, None);
        }
    }

    /// What all workers but this one have counted, as far as they have published it.
    fn totals_without(&self, asker: Id) -> String {
        let sum = metrics::sum(&self.pages_without(Some(asker)));
        serde_json::to_string(&sum.sparse()).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_question_ends_with_the_last_answer_a_death_or_its_time() {
        let mut referrals = Referrals::default();
        let mut ask = |ticket: u64, waiting: &[Id]| {
            let waiting = waiting.iter().copied().collect();
            referrals.open.insert(
                ticket,
                Referral { asker: Asker::Worker(1, ticket as u32), waiting, deadline_us: 100 * ticket },
            );
        };
        ask(1, &[2, 3]);
        ask(2, &[2]);
        ask(3, &[]);
        let over = |r: &mut Referrals, now, dead: Id| -> Vec<u32> {
            let ticket = |r: Referral| if let Asker::Worker(_, ticket) = r.asker { ticket } else { 0 };
            r.over(now, |id| *id != dead).into_iter().map(ticket).collect()
        };
        assert_eq!(referrals.deadline_us(), Some(100));
        assert_eq!(over(&mut referrals, 0, 9), [3], "all have answered");
        assert_eq!(over(&mut referrals, 0, 2), [2], "the one that was waited for has died");
        assert_eq!(over(&mut referrals, 99, 9), [0u32; 0]);
        assert_eq!(over(&mut referrals, 100, 9), [1], "its time is over");
    }
}
