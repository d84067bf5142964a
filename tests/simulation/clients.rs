//! A client: one session after another, each a connection on which requests are pipelined; every reply is checked.

use crate::checkers::history::{self, History, SessionId, show};
use crate::checkers::listening::Listening;
use crate::checkers::replies::{Ask, Asked, Session};
use crate::requests::{Request, Writer, as_bytes};
use crate::rng::Rng;
use cluster::resp::reply::{Cursor, Step};
use std::collections::VecDeque;

/// How a session comes to its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Ending {
    /// QUIT, or bytes that are not RESP: the proxy answers and closes.
    ByProxy,
    /// The client sends nothing more, reads to the end, and expects the proxy to close.
    Finished,
}

/// How long a session's requests go on, and what they are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Mood {
    /// Faults may happen: errors are welcome where they tell the truth.
    Stormy,
    /// No error is welcome.
    Calm,
    /// Ask nothing more.
    Still,
}

pub(crate) struct Client {
    pub(crate) conn: Option<usize>,
    pub(crate) mood: Mood,
    pub(crate) ending: Option<Ending>,
    /// Reads nothing until then.
    pub(crate) reads_at: u64,
    pub(crate) asked: VecDeque<Asked>,
    /// Bytes to send.
    pub(crate) out: Vec<u8>,
    /// Requests this session will send before it thinks of ending.
    quota: usize,
    depth: usize,
    session: Session,
    request: u64,
    input: Vec<u8>,
    cursor: Cursor,
    /// Bytes of the first reply in `input` that the cursor has seen.
    seen: usize,
    /// It was told that nobody waits for a client that has closed its side, or could not be told: what follows is not taken.
    cut: bool,
    /// It asked for an element, and for no reply.
    waits_muted: bool,
    /// Requests whose replies are not wanted: CLIENT REPLY OFF.
    muted: usize,
    /// What is to be asked next: the rest of a transaction.
    todo: VecDeque<Request>,
    /// A session that listens and asks for nothing else.
    listening: Option<Listening>,
    password: Option<String>,
    pub(crate) answered: usize,
    proof: usize,
}

impl Client {
    pub(crate) fn new(password: Option<String>) -> Self {
        Self {
            conn: None,
            mood: Mood::Stormy,
            ending: None,
            reads_at: 0,
            asked: VecDeque::new(),
            out: Vec::new(),
            quota: 0,
            depth: 1,
            session: Session::default(),
            request: 0,
            input: Vec::new(),
            cursor: Cursor::default(),
            seen: 0,
            cut: false,
            waits_muted: false,
            muted: 0,
            todo: VecDeque::new(),
            listening: None,
            password,
            answered: 0,
            proof: 0,
        }
    }

    /// A new connection: nothing of the last one counts.
    pub(crate) fn connected(&mut self, conn: usize, session: SessionId, rng: &mut Rng, history: &mut History) {
        self.conn = Some(conn);
        self.session = Session::new(session);
        (self.ending, self.request, self.muted, self.seen, self.cursor) = (None, 0, 0, 0, Cursor::default());
        (self.cut, self.waits_muted) = (false, false);
        self.quota = 1 + rng.below(120);
        self.depth = *rng.pick(&[1, 1, 3, 8, 20, 64]);
        self.input.clear();
        self.out.clear();
        self.todo.clear();
        self.listening = rng.one_in(6).then(Listening::default);
        if let Some(password) = self.password.clone() {
            if rng.one_in(4) {
                self.ask(&[b"GET", b"x"], Ask::Fails("NOAUTH"), history);
            }
            if rng.one_in(4) {
                self.ask(&[b"AUTH", b"wrong"], Ask::Fails("WRONGPASS"), history);
            }
            self.ask(&[b"AUTH", password.as_bytes()], Ask::Exact(b"+OK\r\n".to_vec()), history);
        }
    }

    /// The connection is gone: what was asked is open for ever.
    pub(crate) fn disconnected(&mut self, expected: bool, history: &mut History) {
        if self.mood != Mood::Stormy && !expected && !self.cut && !self.asked.is_empty() {
            history.fail(format!(
                "calm: session {} was closed with {} requests open",
                self.session.id,
                self.asked.len()
            ));
        }
        self.asked.drain(..).for_each(|asked| asked.lost(history));
        (self.conn, self.ending) = (None, None);
        self.out.clear();
    }

    fn ask(&mut self, args: &[&[u8]], ask: Ask, history: &mut History) {
        cluster::resp::write::request(&mut self.out, args);
        self.expect(ask, history);
    }

    fn expect(&mut self, ask: Ask, history: &mut History) {
        let asked = Asked { ask, issued: history.next_step(), calm: self.mood == Mood::Calm };
        self.waits_muted |= self.muted > 0 && asked.waits();
        if self.muted > 0 { asked.lost(history) } else { self.asked.push_back(asked) }
    }

    /// Puts requests into `out` up to the depth; false when the session has said all it wants.
    pub(crate) fn think(&mut self, rng: &mut Rng, history: &mut History) -> bool {
        if self.mood == Mood::Still || self.ending.is_some() {
            return true;
        }
        while self.asked.len() < self.depth && self.out.len() < 300_000 {
            if let Some(Request { args, ask }) = self.todo.pop_front() {
                self.say(&args, ask, rng, history);
                continue;
            }
            if self.quota == 0 {
                return false;
            }
            self.quota -= 1;
            self.request += 1;
            if self.listening.is_some() {
                self.listen(rng, history);
                // It is here to hear.
                return true;
            }
            match self.muted {
                1 => self.speak_again(history),
                0 if rng.one_in(60) => self.fall_silent(rng, history),
                _ => self.any(rng, history),
            }
        }
        true
    }

    fn any(&mut self, rng: &mut Rng, history: &mut History) {
        self.muted -= usize::from(self.muted > 1);
        let muted = self.muted;
        let modest = self.mood == Mood::Calm && rng.one_in(2);
        // Nobody could tell whom an endless wait keeps if its reply is not wanted.
        let hasty = self.proof > 0 || muted > 0;
        let mut writer = Writer { session: self.session.id, request: self.request, hasty, rng, history };
        let requests = writer.any(modest);
        if muted == 0 {
            return self.todo.extend(requests);
        }
        for Request { args, ask } in requests {
            self.say(&args, ask, rng, history);
            self.muted = muted.max(self.muted);
        }
    }

    fn say(&mut self, args: &[Vec<u8>], ask: Ask, rng: &mut Rng, history: &mut History) {
        let bytes = as_bytes(args, rng);
        self.out.extend_from_slice(&bytes);
        self.expect(ask, history);
    }

    fn listen(&mut self, rng: &mut Rng, history: &mut History) {
        let mut writer = Writer { session: self.session.id, request: self.request, hasty: true, rng, history };
        let Request { args, ask } = writer.listener();
        if let (Some(listening), Ask::Notice { verb, topic }) = (&mut self.listening, &ask) {
            if verb.ends_with(b"unsubscribe") {
                listening.leaves(topic, history.now() + 1);
            } else {
                listening.asks(topic.clone(), history.now() + 1);
            }
        }
        self.say(&args, ask, rng, history);
    }

    /// It has been told that it listens to a topic, or no more.
    fn noticed(&mut self, asked: &Asked, raw: &[u8], now: history::Step) {
        let (Some(listening), Ask::Notice { verb, topic }) = (&mut self.listening, &asked.ask) else { return };
        if raw.starts_with(b"-") {
            return;
        }
        if verb.ends_with(b"unsubscribe") {
            listening.left(topic, asked.issued);
        } else {
            listening.joined(topic, asked.issued, now);
        }
    }

    fn fall_silent(&mut self, rng: &mut Rng, history: &mut History) {
        self.muted = 2 + rng.below(3);
        self.quota += self.muted;
        self.ask(&[b"CLIENT", b"REPLY", b"OFF"], Ask::Kind(b""), history);
    }

    fn speak_again(&mut self, history: &mut History) {
        self.muted = 0;
        self.ask(&[b"CLIENT", b"REPLY", b"ON"], Ask::Exact(b"+OK\r\n".to_vec()), history);
    }

    /// The session's last words.
    pub(crate) fn end(&mut self, ending: Ending, rng: &mut Rng, history: &mut History) {
        self.ending = Some(ending);
        if ending == Ending::Finished {
            for asked in self.asked.iter_mut().filter(|asked| asked.waits()) {
                asked.calm = false;
            }
            self.cut = self.waits_muted;
            return;
        }
        if self.muted > 0 {
            self.speak_again(history);
        }
        if rng.one_in(2) {
            self.ask(&[b"QUIT"], Ask::Exact(b"+OK\r\n".to_vec()), history);
        } else {
            let babble = [&b"*1\r\n$-5\r\n"[..], b"*1\r\n!", b"*2\r\n$3\r\nGET\r\n$1\r\nxyz", b"GET 'a\r\n"];
            self.out.extend_from_slice(babble[rng.below(babble.len())]);
            self.expect(Ask::Fails("ERR Protocol error"), history);
        }
    }

    /// Takes bytes that came, and checks every whole reply in them.
    pub(crate) fn received(&mut self, bytes: &[u8], history: &mut History) {
        self.input.extend_from_slice(bytes);
        let mut start = 0;
        loop {
            match self.cursor.step(&self.input[start + self.seen..]) {
                Step::Done { len } => {
                    let end = start + self.seen + len;
                    let raw = self.input[start..end].to_vec();
                    self.answer(&raw, history);
                    (start, self.seen, self.cursor) = (end, 0, Cursor::default());
                }
                Step::More { used } => {
                    self.seen += used;
                    break;
                }
                Step::Wrong => {
                    let rest = show(&self.input[start..]);
                    history.fail(format!("wire: session {} got {rest}, which is not RESP", self.session.id));
                    break;
                }
            }
        }
        self.input.drain(..start);
    }

    fn answer(&mut self, raw: &[u8], history: &mut History) {
        if let Some(listening) = &mut self.listening
            && listening.message(self.session.id, raw, history)
        {
            return;
        }
        self.answered += 1;
        match self.asked.pop_front() {
            Some(asked) => {
                self.cut |= self.ending == Some(Ending::Finished) && asked.waits() && raw.starts_with(b"-");
                self.session.reply(&asked, raw, history);
                self.noticed(&asked, raw, history.now());
            }
            None => history.fail(format!("once: session {} got {} without having asked", self.session.id, show(raw))),
        }
    }

    /// Something is asked, half said, or to be closed by the other side.
    pub(crate) fn waits(&self) -> bool {
        !self.asked.is_empty() || !self.out.is_empty() || self.ending.is_some()
    }

    /// What it has heard since a step is all there was.
    pub(crate) fn heard_all(&self, since: history::Step, history: &History) -> Result<usize, String> {
        let Some(listening) = self.listening.as_ref().filter(|_| self.conn.is_some()) else { return Ok(0) };
        let told = listening.complete(since, history).map(|()| listening.count());
        told.map_err(|what| format!("heard: session {}: {what}", self.session.id))
    }

    /// The lists from which it waits for an element without end.
    pub(crate) fn waits_for_ever(&self) -> Option<&[Vec<u8>]> {
        match &self.asked.front()?.ask {
            Ask::Pop { keys, endless: true, .. } => Some(keys),
            _ => None,
        }
    }

    /// The session goes on.
    pub(crate) fn extend(&mut self) {
        self.quota += 20;
    }

    /// From now on this many answers are a proof that all is well.
    pub(crate) fn prove(&mut self, answers: usize) {
        self.quota = answers;
        self.proof = self.answered + answers / 2;
    }

    pub(crate) fn has_proof(&self) -> bool {
        self.answered >= self.proof
    }

    pub(crate) fn proven(&self) -> bool {
        self.has_proof() && self.asked.is_empty() && self.out.is_empty() && self.todo.is_empty()
    }
}
