//! Heard: who listens to a channel hears only what was published there, each message once, those of one publisher in
//! the order in which it sent them; and in still weather all of them.
//!
//! Messages that two instances published have no order between them: a channel's slot may have moved, and the two links
//! are read as they come.

use crate::checkers::history::{History, SessionId, Step, Token, show, token_of, value_of};
use cluster::resp::reply::{Elements, text};
use std::collections::{BTreeMap, BTreeSet};

/// A channel, or a pattern (true).
pub(crate) type Topic = (bool, Vec<u8>);

/// What one session listens to, and what it has heard.
#[derive(Default)]
pub(crate) struct Listening {
    /// When it last asked for a topic; gone when it was told that it left.
    asked: BTreeMap<Topic, Step>,
    /// When it last asked for no more of a topic.
    left: BTreeMap<Topic, Step>,
    /// Since when it has been told that it listens.
    since: BTreeMap<Topic, Step>,
    heard: BTreeSet<(Topic, Token)>,
    /// The last message of a publisher.
    last: BTreeMap<(Topic, Vec<u8>, SessionId, usize), u64>,
}

impl Listening {
    pub(crate) fn asks(&mut self, topic: Topic, now: Step) {
        self.asked.insert(topic, now);
    }

    /// It is about to ask for no more of it: what comes from now on may go missing.
    pub(crate) fn leaves(&mut self, topic: &Topic, now: Step) {
        self.since.remove(topic);
        self.left.insert(topic.clone(), now);
    }

    pub(crate) fn joined(&mut self, topic: &Topic, issued: Step, now: Step) {
        if self.left.get(topic).is_none_or(|left| *left < issued) {
            self.since.entry(topic.clone()).or_insert(now);
        }
    }

    pub(crate) fn left(&mut self, topic: &Topic, issued: Step) {
        if self.asked.get(topic).is_some_and(|asked| *asked < issued) {
            self.asked.remove(topic);
        }
    }

    /// True: the bytes are a message, and have been judged.
    pub(crate) fn message(&mut self, session: SessionId, raw: &[u8], history: &mut History) -> bool {
        let parts: Vec<&[u8]> = Elements::new(raw).into_iter().flatten().filter_map(text).collect();
        let (topic, channel, payload) = match parts.as_slice() {
            [b"message", channel, payload] => ((false, channel.to_vec()), *channel, *payload),
            [b"pmessage", pattern, channel, payload] => ((true, pattern.to_vec()), *channel, *payload),
            _ => return false,
        };
        if let Err(what) = self.judge(topic, channel, payload, history) {
            history.fail(format!("heard: session {session} was told {}, {what}", show(raw)));
        }
        true
    }

    fn judge(&mut self, topic: Topic, channel: &[u8], payload: &[u8], history: &History) -> Result<(), String> {
        if !self.asked.contains_key(&topic) {
            return Err("which it does not listen to".to_owned());
        }
        let token = token_of(payload).filter(|token| value_of(*token, payload.len()) == payload);
        let token = token.ok_or("which nobody said so")?;
        let message = history.message(token).filter(|message| message.channel == channel);
        let instance = message.ok_or("which was not published there")?.instance;
        let (publisher, number) = ((token >> 40) as SessionId, token & 0xFF_FFFF_FFFF);
        if !self.heard.insert((topic.clone(), token)) {
            return Err("for the second time".to_owned());
        }
        match self.last.insert((topic, channel.to_vec(), publisher, instance), number) {
            Some(last) if last > number => Err(format!("after message {last:x} of the same publisher")),
            _ => Ok(()),
        }
    }

    /// Whatever was published after `since`, while it listened, must have been heard.
    pub(crate) fn complete(&self, since: Step, history: &History) -> Result<(), String> {
        for (topic, joined) in &self.since {
            let matches =
                |channel: &[u8]| if topic.0 { channel.starts_with(&topic.1[..3]) } else { channel == topic.1 };
            let mut wanted = history.published.iter().filter(|m| m.step > since.max(*joined) && matches(&m.channel));
            if let Some(missing) = wanted.find(|m| !self.heard.contains(&(topic.clone(), m.token))) {
                return Err(format!("message t{:x} was never heard on {}", missing.token, show(&topic.1)));
            }
        }
        Ok(())
    }

    pub(crate) fn count(&self) -> usize {
        self.heard.len()
    }
}
