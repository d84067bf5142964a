//! The board of alarms: what needs somebody's attention, and what settles it.

use super::event::{Action, News};
use super::out::Out;
use std::collections::BTreeMap;

/// Open alarms, by kind and subject.
#[derive(Debug, Default)]
pub(super) struct Board {
    open: BTreeMap<(String, String), News>,
}

impl Board {
    /// Something to know.
    pub(super) fn tell(&self, out: &mut Out, kind: &str, subject: &str, epoch: u64, message: String) {
        let (kind, subject) = (kind.to_owned(), subject.to_owned());
        out.push(Action::Tell(News { kind, alarm: false, settled: false, subject, message, epoch }));
    }

    /// Something to see to. Told once until its message changes.
    pub(super) fn raise(&mut self, out: &mut Out, kind: &str, subject: &str, epoch: u64, message: String) {
        let key = (kind.to_owned(), subject.to_owned());
        if self.open.get(&key).is_some_and(|open| open.message == message) {
            return;
        }
        let (kind, subject) = key.clone();
        let news = News { kind, alarm: true, settled: false, subject, message, epoch };
        self.open.insert(key, news.clone());
        out.push(Action::Tell(news));
    }

    /// It is over; nothing happens where it never was.
    pub(super) fn settle(&mut self, out: &mut Out, kind: &str, subject: &str, message: &str) {
        if let Some(news) = self.open.remove(&(kind.to_owned(), subject.to_owned())) {
            out.push(Action::Tell(News { alarm: false, settled: true, message: message.to_owned(), ..news }));
        }
    }

    /// All of a kind are over.
    pub(super) fn settle_all(&mut self, out: &mut Out, kind: &str, message: &str) {
        let subjects: Vec<String> = self.open.keys().filter(|(k, _)| k == kind).map(|(_, s)| s.clone()).collect();
        subjects.iter().for_each(|subject| self.settle(out, kind, subject, message));
    }

    pub(super) fn open(&self) -> Vec<News> {
        self.open.values().cloned().collect()
    }
}
