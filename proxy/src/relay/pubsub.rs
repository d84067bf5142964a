//! Who listens to what. Clients subscribe at the relay; the relay subscribes once at every group for all of them, so a
//! message published anywhere (by PUBLISH, by a script, by a transaction) reaches them, and a slot that moves changes
//! nothing.

use super::session::{Kind, Topic, cost};
use super::{ClientId, LinkId};
use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, VecDeque};

/// Who listens to one topic.
#[derive(Debug, Default)]
pub(super) struct Listeners {
    /// True: it has been told that it listens.
    pub(super) clients: BTreeMap<ClientId, bool>,
    /// The links on which it was ever asked for.
    pub(super) at: Vec<At>,
}

/// How a topic stands on a link.
#[derive(Debug, Clone, Copy)]
pub(super) struct At {
    pub(super) link: LinkId,
    /// What was asked last: to subscribe, or to unsubscribe.
    pub(super) wanted: bool,
    /// How many answers are still to come.
    pub(super) owed: u32,
}

/// All subscriptions of a worker.
#[derive(Debug, Default)]
pub(super) struct PubSub {
    pub(super) topics: BTreeMap<Topic, Listeners>,
    /// One to each group.
    pub(super) links: Vec<LinkId>,
    /// What was asked on them and is not answered, oldest first: a refusal does not say what it refuses.
    asked: BTreeMap<LinkId, VecDeque<Asked>>,
    /// What all clients' subscriptions take of memory.
    pub(super) bytes: usize,
}

/// A request to subscribe (`wanted`) or to unsubscribe.
#[derive(Debug)]
pub(super) struct Asked {
    pub(super) topic: Topic,
    pub(super) wanted: bool,
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
    /// A client wants to listen.
    pub(super) fn listen(&mut self, topic: &Topic, client: ClientId) {
        let clients = &mut self.topics.entry(topic.clone()).or_default().clients;
        if let Entry::Vacant(new) = clients.entry(client) {
            new.insert(false);
            self.bytes += cost(topic);
        }
    }

    /// A client listens no more. True: it was the last.
    pub(super) fn left(&mut self, topic: &Topic, client: ClientId) -> bool {
        let Some(listeners) = self.topics.get_mut(topic) else { return false };
        if listeners.clients.remove(&client).is_some() {
            self.bytes -= cost(topic);
        }
        listeners.clients.is_empty()
    }

    /// A request is on its way.
    pub(super) fn asked(&mut self, link: LinkId, topic: &Topic, wanted: bool) {
        self.asked.entry(link).or_default().push_back(Asked { topic: topic.clone(), wanted });
    }

    /// Nobody listens and nothing is owed: the topic is over.
    pub(super) fn tidy(&mut self, topic: &Topic) {
        if self.topics.get(topic).is_some_and(|l| l.clients.is_empty() && l.at.iter().all(|at| at.owed == 0)) {
            self.topics.remove(topic);
        }
    }

    /// A link is gone; what was asked on it is forgotten.
    pub(super) fn lost(&mut self, link: LinkId) {
        self.asked.remove(&link);
        self.topics.retain(|_, listeners| {
            listeners.at.retain(|at| at.link != link);
            !listeners.clients.is_empty() || !listeners.at.is_empty()
        });
    }

    /// A link has done what it was asked.
    pub(super) fn answered(&mut self, link: LinkId, topic: &Topic) {
        if let Some(asked) = self.asked.get_mut(&link)
            && asked.front().is_some_and(|a| a.topic == *topic)
        {
            asked.pop_front();
            self.settled(link, topic);
        }
    }

    /// A link has refused what it was asked, which is owed no more; a topic it does not publish may be asked for again.
    /// None: nothing is owed.
    pub(super) fn refused(&mut self, link: LinkId) -> Option<Asked> {
        let asked = self.asked.get_mut(&link)?.pop_front()?;
        if let Some(listeners) = self.topics.get_mut(&asked.topic) {
            listeners.at.retain(|at| at.link != link || !asked.wanted || !at.wanted || at.owed > 1);
        }
        self.settled(link, &asked.topic);
        Some(asked)
    }

    fn settled(&mut self, link: LinkId, topic: &Topic) {
        let Some(listeners) = self.topics.get_mut(topic) else { return };
        for at in listeners.at.iter_mut().filter(|at| at.link == link) {
            at.owed = at.owed.saturating_sub(1);
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
