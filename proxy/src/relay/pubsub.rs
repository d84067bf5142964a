//! Who listens to what. Clients subscribe at the relay; the relay subscribes once at every group for all of them, so a
//! message published anywhere (by PUBLISH, by a script, by a transaction) reaches them, and a slot that moves changes
//! nothing.

use super::session::Kind;
use super::{ClientId, LinkId};
use std::collections::BTreeMap;

/// A channel or pattern.
pub(super) type Topic = (Kind, Box<[u8]>);

/// Who listens to one topic.
#[derive(Debug, Default)]
pub(super) struct Listeners {
    /// True: it has been told that it listens.
    pub(super) clients: BTreeMap<ClientId, bool>,
    /// The links on which it was asked for, and how many answers (to subscribing or unsubscribing) each still owes.
    pub(super) at: Vec<(LinkId, u32)>,
}

/// All subscriptions of a worker.
#[derive(Debug, Default)]
pub(super) struct PubSub {
    pub(super) topics: BTreeMap<Topic, Listeners>,
    /// One to each group.
    pub(super) links: Vec<LinkId>,
}

impl Kind {
    pub(super) fn subscribe(self) -> &'static [u8] {
        match self {
            Self::Channel => b"SUBSCRIBE",
            Self::Pattern => b"PSUBSCRIBE",
            Self::Shard => b"SSUBSCRIBE",
        }
    }

    pub(super) fn unsubscribe(self) -> &'static [u8] {
        match self {
            Self::Channel => b"UNSUBSCRIBE",
            Self::Pattern => b"PUNSUBSCRIBE",
            Self::Shard => b"SUNSUBSCRIBE",
        }
    }
}

impl PubSub {
    /// Nobody listens and nothing is owed: the topic is over.
    pub(super) fn tidy(&mut self, topic: &Topic) {
        if self.topics.get(topic).is_some_and(|l| l.clients.is_empty() && l.at.iter().all(|(_, owed)| *owed == 0)) {
            self.topics.remove(topic);
        }
    }

    /// A link is gone; what was asked on it is forgotten.
    pub(super) fn lost(&mut self, link: LinkId) {
        self.topics.retain(|_, listeners| {
            listeners.at.retain(|(l, _)| *l != link);
            !listeners.clients.is_empty() || !listeners.at.is_empty()
        });
    }

    /// A link has answered a request to subscribe or unsubscribe.
    pub(super) fn answered(&mut self, link: LinkId, topic: &Topic) {
        let Some(listeners) = self.topics.get_mut(topic) else { return };
        for (_, owed) in listeners.at.iter_mut().filter(|(l, _)| *l == link) {
            *owed = owed.saturating_sub(1);
        }
        self.tidy(topic);
    }

    /// The same for a channel's own subscribers, without those of patterns.
    pub(super) fn subscribers(&self, channel: &[u8], shard: bool) -> (i64, i64) {
        let kind = if shard { Kind::Shard } else { Kind::Channel };
        let Some(listeners) = self.topics.get(&(kind, channel.into())) else { return (0, 0) };
        let told = listeners.clients.values().filter(|told| **told).count();
        (i64::from(!listeners.clients.is_empty()), told as i64)
    }

    /// How many receivers an instance counts for this relay's link, and how many clients they stand for.
    pub(super) fn receivers(&self, channel: &[u8], shard: bool) -> (i64, i64) {
        let of = |l: &Listeners| l.clients.values().filter(|told| **told).count() as i64;
        let (mut links, mut clients) = self.subscribers(channel, shard);
        if !shard {
            for ((kind, pattern), listeners) in &self.topics {
                if *kind == Kind::Pattern
                    && !listeners.clients.is_empty()
                    && super::command::matches_exactly(pattern, channel)
                {
                    links += 1;
                    clients += of(listeners);
                }
            }
        }
        (links, clients)
    }
}
