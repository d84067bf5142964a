//! Match: every reply is of its request's kind, and says something that was true between request and reply. A reply
//! that went to another request, or to another client, says something else.

use crate::checkers::history::{History, SessionId, Step, Token, Verdict, print_of, show, token_of};
use crate::checkers::listening::Topic;
use crate::checkers::pops::{Class, class_of};
use crate::store::list_print;
use cluster::resp::reply::{Elements, integer, text};
use std::collections::BTreeMap;

/// A request of a client, as far as its reply is concerned.
#[derive(Debug)]
pub(crate) enum Ask {
    /// Exactly these bytes.
    Exact(Vec<u8>),
    /// An error that begins so: refused by design.
    Fails(&'static str),
    /// FLUSHALL: of all groups.
    Flush,
    /// A reply of one of these kinds; what it says depends on too much.
    Kind(&'static [u8]),
    /// SCAN: keys, or the error of an instance that is being replaced. It is not held back, as it is no cluster's write.
    Walk,
    Set(Token, Vec<u8>),
    Push(Token, Vec<u8>),
    SetMany(Vec<(Token, Vec<u8>)>),
    SetNew(Vec<(Token, Vec<u8>)>),
    Get(Vec<u8>),
    GetMany(Vec<Vec<u8>>),
    Range(Vec<u8>),
    Incr(Vec<u8>),
    /// The first element of the first of these lists, perhaps for another list; `waits`: if there is none, until there is
    /// one; `endless`: however long that takes.
    Pop {
        keys: Vec<Vec<u8>>,
        moves: bool,
        waits: bool,
        endless: bool,
    },
    Published(Token, Vec<u8>),
    /// SUBSCRIBE and its likes.
    Notice {
        verb: Vec<u8>,
        topic: Topic,
    },
    /// PING, perhaps while listening.
    Alive(Vec<u8>),
    Watch(Vec<u8>),
    /// A transaction: all of it, or nothing.
    Exec {
        asks: Vec<Ask>,
        watched: bool,
    },
    /// How many keys there are, or were before they were deleted.
    Count(Vec<Vec<u8>>),
}

/// A request that awaits its reply.
#[derive(Debug)]
pub(crate) struct Asked {
    pub(crate) ask: Ask,
    pub(crate) issued: Step,
    /// No error is welcome: nothing has gone wrong in the world.
    pub(crate) calm: bool,
}

/// What one session knows: nothing it reads of a key may be older than this.
#[derive(Default)]
pub(crate) struct Session {
    pub(crate) id: SessionId,
    seen: BTreeMap<Vec<u8>, Step>,
    /// A key under WATCH, and when that was known.
    watched: Option<(Vec<u8>, Step)>,
}

impl Ask {
    /// What it writes.
    pub(crate) fn tokens(&self) -> Vec<Token> {
        match self {
            Self::Set(token, _) | Self::Push(token, _) | Self::Published(token, _) => vec![*token],
            Self::SetMany(parts) | Self::SetNew(parts) => parts.iter().map(|(token, _)| *token).collect(),
            Self::Exec { asks, .. } => asks.iter().flat_map(Self::tokens).collect(),
            _ => Vec::new(),
        }
    }
}

impl Asked {
    /// What elements it asks for, if it does.
    fn class(&self) -> Option<Class> {
        let Ask::Pop { keys, moves, .. } = &self.ask else { return None };
        Some(class_of(&keys[0], *moves))
    }

    /// Whether it may wait at its instance.
    pub(crate) fn waits(&self) -> bool {
        matches!(self.ask, Ask::Pop { waits: true, .. })
    }

    pub(crate) fn tokens(&self) -> Vec<Token> {
        self.ask.tokens()
    }

    /// The connection is gone, or the client wanted no reply.
    pub(crate) fn lost(&self, history: &mut History) {
        if let Some(class) = self.class() {
            history.pops.unknown(&class, self.issued);
        }
        for token in self.tokens() {
            history.told(token, Verdict::Unknown);
        }
    }
}

impl Session {
    pub(crate) fn new(id: SessionId) -> Self {
        Self { id, seen: BTreeMap::new(), watched: None }
    }

    /// Checks a reply against the request it must belong to.
    pub(crate) fn reply(&mut self, asked: &Asked, raw: &[u8], history: &mut History) {
        let now = history.next_step();
        if let Ask::Watch(key) = &asked.ask
            && raw == b"+OK\r\n"
        {
            self.watched = Some((key.clone(), now));
        }
        let right = match &asked.ask {
            Ask::Exact(bytes) => raw == bytes,
            Ask::Fails(prefix) => raw.strip_prefix(b"-").is_some_and(|text| text.starts_with(prefix.as_bytes())),
            _ if raw.starts_with(b"-") => self.error(asked, raw, history),
            ask => self.answer(ask, asked.issued, raw, history),
        };
        if let Ask::Exec { asks, .. } = &asked.ask {
            self.check_watch(asks, raw, history);
        }
        if !right {
            history.fail(format!(
                "match: client session {} asked {} and got {}",
                self.id,
                show_ask(&asked.ask),
                show(raw)
            ));
        }
    }

    /// A transaction that was done, though somebody had changed what was watched.
    fn check_watch(&mut self, asks: &[Ask], raw: &[u8], history: &mut History) {
        let Some((key, since)) = self.watched.take() else { return };
        let first = asks.iter().flat_map(Ask::tokens).filter_map(|token| history.applied_at(token)).min();
        let Some(first) = first.filter(|_| raw.starts_with(b"*") && raw != b"*-1\r\n") else { return };
        // The increments before a transaction's first write have a step of their own.
        if !asks.iter().any(|ask| matches!(ask, Ask::Incr(_))) && history.changed_between(&key, since, first) {
            history.fail(format!(
                "watch: {} was changed under WATCH of session {}, yet EXEC was done",
                show(&key),
                self.id
            ));
        }
    }

    fn error(&self, asked: &Asked, raw: &[u8], history: &mut History) -> bool {
        let verdict = verdict_of(raw, &asked.ask);
        if let Some(class) = asked.class().filter(|_| verdict == Verdict::Unknown) {
            history.pops.unknown(&class, asked.issued);
        }
        for token in asked.tokens() {
            history.told(token, verdict);
        }
        if asked.calm && !matches!(asked.ask, Ask::Walk) {
            history.fail(format!("calm: {} got {} while nothing was wrong", show_ask(&asked.ask), show(raw)));
        }
        true
    }

    fn answer(&mut self, ask: &Ask, issued: Step, raw: &[u8], history: &mut History) -> bool {
        match ask {
            Ask::Set(token, key) => raw == b"+OK\r\n" && self.done(*token, key, history).is_some(),
            Ask::SetMany(parts) => raw == b"+OK\r\n" && self.all_done(parts, history),
            Ask::Push(token, key) => {
                let answered = self.done(*token, key, history);
                integer(raw).is_some() && integer(raw) == answered
            }
            Ask::SetNew(parts) => match integer(raw) {
                Some(1) => self.all_done(parts, history),
                Some(0) => {
                    for (token, _) in parts {
                        history.told(*token, Verdict::Refused);
                    }
                    true
                }
                _ => false,
            },
            Ask::Get(key) => self.value(key, issued, raw, history),
            Ask::GetMany(keys) => {
                let Some(elements) = Elements::new(raw) else { return false };
                let elements: Vec<_> = elements.collect();
                elements.len() == keys.len()
                    && keys.iter().zip(elements).all(|(key, raw)| self.value(key, issued, raw, history))
            }
            Ask::Range(key) => {
                let Some(elements) = Elements::new(raw) else { return false };
                let print = elements.fold(0, |print, element| list_print(print, text(element).unwrap_or_default()));
                self.saw(key, issued, (print != 0).then_some(print), history)
            }
            Ask::Incr(key) => {
                let since = issued.max(self.floor(key));
                let found = integer(raw).and_then(|value| history.told_count(key, since, value));
                found.map(|step| self.seen.insert(key.clone(), step)).is_some()
            }
            Ask::Exec { watched: true, .. } if raw == b"*-1\r\n" => {
                for token in ask.tokens() {
                    history.told(token, Verdict::Refused);
                }
                true
            }
            Ask::Exec { asks, .. } => {
                let elements: Vec<&[u8]> = Elements::new(raw).into_iter().flatten().collect();
                let mut pairs = asks.iter().zip(&elements);
                elements.len() == asks.len() && pairs.all(|(ask, raw)| self.answer(ask, issued, raw, history))
            }
            Ask::Pop { keys, moves, endless, .. } => self.popped(keys, *moves, *endless, issued, raw, history),
            Ask::Published(token, channel) => integer(raw).is_some() && self.done(*token, channel, history).is_some(),
            Ask::Notice { verb, topic } => {
                let parts: Vec<&[u8]> = Elements::new(raw).into_iter().flatten().collect();
                parts.len() == 3
                    && text(parts[0]) == Some(&verb[..])
                    && text(parts[1]) == Some(&topic.1[..])
                    && integer(parts[2]).is_some()
            }
            Ask::Alive(word) if raw.starts_with(b"*") => {
                let parts: Vec<&[u8]> = Elements::new(raw).into_iter().flatten().filter_map(text).collect();
                parts == [b"pong", &word[..]]
            }
            Ask::Alive(word) => raw.starts_with(b"$") && text(raw) == Some(&word[..]),
            Ask::Watch(_) => raw == b"+OK\r\n",
            Ask::Count(keys) => counted(keys, issued, raw, history),
            Ask::Walk => raw.starts_with(b"*"),
            Ask::Kind(kinds) => raw.first().is_some_and(|kind| kinds.contains(kind)),
            Ask::Flush => raw == b"+OK\r\n",
            Ask::Exact(_) | Ask::Fails(_) => false,
        }
    }

    /// An element that was taken for this request and for no other; or nothing, where there was nothing.
    fn popped(
        &mut self,
        keys: &[Vec<u8>],
        moves: bool,
        endless: bool,
        issued: Step,
        raw: &[u8],
        history: &mut History,
    ) -> bool {
        if matches!(raw, b"*-1\r\n" | b"$-1\r\n") {
            return !endless && keys.iter().all(|key| history.presence(key, issued).0);
        }
        let parts: Vec<&[u8]> = Elements::new(raw).into_iter().flatten().collect();
        let (key, element) = match parts.as_slice() {
            [key, element] => (text(key).unwrap_or_default(), text(element)),
            _ => (&keys[0][..], text(raw)),
        };
        let Some(token) = element.and_then(token_of).filter(|_| keys.iter().any(|k| k == key)) else { return false };
        let Some(step) = history.pops.told(token, &class_of(key, moves), issued) else { return false };
        self.seen.insert(key.to_vec(), step.max(self.floor(key)));
        true
    }

    fn floor(&self, key: &[u8]) -> Step {
        self.seen.get(key).copied().unwrap_or(0)
    }

    fn done(&mut self, token: Token, key: &[u8], history: &mut History) -> Option<i64> {
        let (step, answered) = history.told(token, Verdict::Done)?;
        let seen = self.seen.entry(key.to_vec()).or_default();
        *seen = step.max(*seen);
        Some(answered)
    }

    fn all_done(&mut self, parts: &[(Token, Vec<u8>)], history: &mut History) -> bool {
        // The last of a key's values is the one that stays; each was applied.
        parts.iter().all(|(token, key)| self.done(*token, key, history).is_some())
    }

    fn value(&mut self, key: &[u8], issued: Step, raw: &[u8], history: &History) -> bool {
        let print = match text(raw) {
            Some(value) if raw.starts_with(b"$") => Some(print_of(value)),
            _ if raw == b"$-1\r\n" => None,
            _ => return false,
        };
        self.saw(key, issued, print, history)
    }

    /// The key had this value at some time since the request was sent, and not before what this session knows.
    fn saw(&mut self, key: &[u8], issued: Step, print: Option<u64>, history: &History) -> bool {
        let since = issued.max(self.floor(key));
        let Some(step) = history.had(key, since, print) else { return false };
        self.seen.insert(key.to_vec(), step.max(self.floor(key)));
        true
    }
}

fn counted(keys: &[Vec<u8>], issued: Step, raw: &[u8], history: &History) -> bool {
    let (mut least, mut most) = (0, 0);
    for key in keys {
        let (absent, present) = history.presence(key, issued);
        least += i64::from(!absent);
        most += i64::from(present);
    }
    integer(raw).is_some_and(|n| (least..=most).contains(&n))
}

/// What an error says of the write it answers. One that was split may have been done in part, unless we say not.
fn verdict_of(raw: &[u8], ask: &Ask) -> Verdict {
    let said = |words: &str| raw.windows(words.len()).any(|window| window == words.as_bytes());
    let refused = [
        "-LOADING",
        "-READONLY",
        "-MASTERDOWN",
        "-CROSSSLOT",
        "-NOAUTH",
        "-WRONGTYPE",
        "-TRYAGAIN",
        "-EXECABORT",
        "-UNBLOCKED",
    ];
    let split = matches!(ask, Ask::SetMany(parts) if parts.len() > 1);
    if said("nothing was sent") || (!split && refused.iter().any(|prefix| raw.starts_with(prefix.as_bytes()))) {
        Verdict::Refused
    } else {
        Verdict::Unknown
    }
}

fn show_ask(ask: &Ask) -> String {
    let mut text = format!("{ask:?}");
    if let Ask::Get(key) | Ask::Range(key) | Ask::Incr(key) = ask {
        text = format!("{} ({})", text.split('(').next().unwrap_or_default(), show(key));
    }
    text.chars().take(200).collect()
}
