//! What the mover's connections are called, and how those of predecessors end. Redis knows no epochs, so the order of the
//! steps is the fence, as in `agent::follow`: connect, take a name, kill the connections of older leaders and attempts, have
//! a majority confirm the leadership, and only then write.

use super::line::Line;
use crate::agent::link::Access;
use crate::control::layout::Token;
use cluster::instance::Addr;
use cluster::resp::reply::integer;

/// `mv:<task>:<token>:<attempt>:<part>`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Name {
    task: String,
    token: String,
    attempt: u64,
}

/// What a connection is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Part {
    /// The only one that changes anything at the target.
    Writer,
    /// Removes keys.
    Sweeper,
    /// Changes nothing.
    Reader,
}

impl Part {
    fn word(self) -> &'static str {
        match self {
            Self::Writer => "writer",
            Self::Sweeper => "sweeper",
            Self::Reader => "reader",
        }
    }
}

impl Name {
    pub(super) fn new(task: &str, token: Token, attempt: u64) -> Self {
        // A name holds neither spaces nor line ends.
        let task = task.chars().map(|c| if c.is_ascii_alphanumeric() || c == '-' { c } else { '_' }).collect();
        Self { task, token: token.to_string(), attempt }
    }

    fn of(&self, part: Part) -> String {
        format!("mv:{}:{}:{}:{}", self.task, self.token, self.attempt, part.word())
    }

    /// Whether a connection with `other`'s name must end before one for `part` does anything.
    fn ends(&self, other: &str, part: Part) -> bool {
        let mut words = other.split(':');
        if (words.next(), words.next()) != (Some("mv"), Some(self.task.as_str())) {
            return false;
        }
        let (Some(token), Some(attempt), Some(other)) = (words.next(), words.next(), words.next()) else { return true };
        let attempt = attempt.parse::<u64>().unwrap_or(0);
        let older = (token, attempt) < (self.token.as_str(), self.attempt);
        let same = (token, attempt) == (self.token.as_str(), self.attempt);
        match part {
            Part::Reader => older,
            Part::Writer => older || (same && other == Part::Writer.word()),
            // Whatever this leader began is over, or it would not sweep.
            Part::Sweeper => token <= self.token.as_str() && other != Part::Reader.word(),
        }
    }

    /// A connection of that name; connections it replaces are dead.
    pub(super) async fn connect(&self, addr: &Addr, access: &Access, part: Part) -> Result<Line, String> {
        let mut line = Line::open(addr, access).await?;
        line.done(&[b"CLIENT", b"SETNAME", self.of(part).as_bytes()]).await?;
        let own = line.ask(&[b"CLIENT", b"ID"]).await?;
        let list = line.say(&[b"CLIENT", b"LIST"]).await?;
        // Servers before Redis 5 do not say it: it is the latest of that name.
        let latest = || clients(&list).filter(|(_, name)| *name == self.of(part)).filter_map(|(id, _)| id.parse().ok());
        let own = integer(&own).or_else(|| latest().max()).unwrap_or(0).to_string();
        for id in clients(&list).filter(|(id, name)| *id != own && self.ends(name, part)).map(|(id, _)| id) {
            line.done(&[b"CLIENT", b"KILL", b"ID", id.as_bytes()]).await?; // 0: gone by itself
        }
        Ok(line)
    }
}

/// The ids and names of a CLIENT LIST.
fn clients(list: &str) -> impl Iterator<Item = (&str, &str)> {
    list.lines().filter_map(|line| {
        let mut fields = line.split(' ');
        let id = fields.next()?.strip_prefix("id=")?;
        Some((id, fields.find_map(|field| field.strip_prefix("name="))?))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn predecessors_end_and_nobody_else() {
        let token = |term| Token { term, member: 1 };
        let name = |term, attempt| Name::new("t:1", token(term), attempt);
        let now = name(5, 3);
        for (other, part, ends) in [
            (name(4, 9).of(Part::Reader), Part::Reader, true),
            (name(5, 2).of(Part::Writer), Part::Reader, true),
            (name(5, 3).of(Part::Writer), Part::Reader, false),
            (name(5, 3).of(Part::Writer), Part::Writer, true),
            (name(5, 3).of(Part::Reader), Part::Writer, false),
            (name(5, 4).of(Part::Writer), Part::Writer, false),
            (name(6, 1).of(Part::Writer), Part::Writer, false),
            (name(5, 4).of(Part::Writer), Part::Sweeper, true),
            (name(6, 1).of(Part::Writer), Part::Sweeper, false),
            (Name::new("t2", token(4), 1).of(Part::Writer), Part::Writer, false),
            ("px:a:0".to_owned(), Part::Writer, false),
            (String::new(), Part::Sweeper, false),
        ] {
            assert_eq!(now.ends(&other, part), ends, "{other} {part:?}");
        }
        let list = "id=3 addr=127.0.0.1:1 name=mv:a db=0\nid=4 addr=x name= db=0\n";
        assert_eq!(clients(list).collect::<Vec<_>>(), [("3", "mv:a"), ("4", "")]);
    }
}
