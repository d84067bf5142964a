//! Which keys a command of the source's stream names, by the source's own table of commands.

use cluster::resp::reply::{Elements, integer, text};
use std::collections::HashMap;

/// Longer names are no command's.
const NAME_MAX: usize = 48;

/// The answer to COMMAND, as far as keys go.
#[derive(Debug, Clone, Default)]
pub struct Table {
    specs: HashMap<Box<[u8]>, Spec>,
}

/// Where the keys stand. As Redis says it: `last` may count from the end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Spec {
    first: i64,
    last: i64,
    step: i64,
    /// They stand elsewhere, too.
    movable: bool,
    /// Its first argument names what it does, and where keys stand.
    container: bool,
}

/// What a command is to the mover.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Meaning {
    /// It has no keys, or changes none.
    Nothing,
    /// It has keys, and does at the target what it did at the source.
    Same {
        first: usize,
        last: usize,
        step: usize,
    },
    /// It has keys, but its effect depends on more than these.
    Copy {
        first: usize,
        last: usize,
        step: usize,
    },
    /// Any of its arguments may be a key.
    Guess,
    /// Another database is meant from here on.
    Select,
    /// Everything is gone at once, in this database or in all.
    FlushThis,
    FlushAll,
    /// Databases change places.
    Swap,
}

/// What is in the stream and means nothing to keys.
const IDLE: [&[u8]; 9] =
    [b"PING", b"REPLCONF", b"MULTI", b"EXEC", b"PUBLISH", b"SPUBLISH", b"SCRIPT", b"FUNCTION", b"DISCARD"];

/// Keys of these are copied again. A time to live that is told as a span, as servers before Redis 7 do, begins when it is
/// applied. What RESTORE brings may have an end. PERSIST may come when the target's clock has ended the key already. MOVE and COPY may mean another database.
const COPIED: [&[u8]; 9] =
    [b"RESTORE", b"PERSIST", b"MOVE", b"COPY", b"SETEX", b"PSETEX", b"EXPIRE", b"PEXPIRE", b"GETEX"];

impl Table {
    /// Reads the whole reply to COMMAND. None: it is none.
    pub fn read(raw: &[u8]) -> Option<Self> {
        let mut table = Self::default();
        table.take(raw)?;
        Some(table)
    }

    fn take(&mut self, raw: &[u8]) -> Option<()> {
        for entry in Elements::new(raw)? {
            let fields: Vec<&[u8]> = Elements::new(entry)?.collect();
            let [name, _arity, flags, first, last, step, ..] = fields.as_slice() else { continue };
            let name = text(name)?.to_ascii_uppercase();
            let movable = Elements::new(flags)?.any(|flag| text(flag) == Some(b"movablekeys"));
            let children =
                fields.get(9).filter(|children| Elements::new(children).is_some_and(|mut c| c.next().is_some()));
            if let Some(children) = children {
                self.take(children);
            }
            let (first, last, step) = (integer(first)?, integer(last)?, integer(step)?);
            let container = children.is_some() && first == 0;
            self.specs.insert(name.into(), Spec { first, last, step, movable, container });
        }
        Some(())
    }

    /// Whether the source knows a command; upper case.
    pub fn has(&self, name: &str) -> bool {
        self.specs.contains_key(name.as_bytes())
    }

    /// What a command of `args` (its name first) is.
    pub fn meaning(&self, args: &[&[u8]]) -> Meaning {
        let mut upper = [0; NAME_MAX];
        let Some(name) = args.first().and_then(|name| uppercase(name, &mut upper)) else { return Meaning::Guess };
        match name {
            b"SELECT" => return Meaning::Select,
            b"FLUSHDB" => return Meaning::FlushThis,
            b"FLUSHALL" => return Meaning::FlushAll,
            b"SWAPDB" => return Meaning::Swap,
            name if IDLE.contains(&name) => return Meaning::Nothing,
            _ => {}
        }
        let Some(mut spec) = self.specs.get(name).copied() else { return Meaning::Guess };
        if spec.container {
            let whole = args.get(1).map(|child| [name, b"|", &child.to_ascii_uppercase()].concat());
            match whole.and_then(|whole| self.specs.get(whole.as_slice())) {
                Some(child) => spec = *child,
                None => return Meaning::Guess,
            }
        }
        if spec.movable {
            return Meaning::Guess;
        }
        let Some((first, last, step)) = spec.places(args.len()) else { return Meaning::Nothing };
        if COPIED.contains(&name) || (name == b"SET" && tells_a_span(args)) {
            Meaning::Copy { first, last, step }
        } else {
            Meaning::Same { first, last, step }
        }
    }
}

impl Spec {
    fn places(&self, argc: usize) -> Option<(usize, usize, usize)> {
        let argc = argc as i64;
        let last = if self.last < 0 { argc + self.last } else { self.last.min(argc - 1) };
        (self.first > 0 && last >= self.first).then_some((
            self.first as usize,
            last as usize,
            self.step.max(1) as usize,
        ))
    }
}

/// SET with EX or PX.
fn tells_a_span(args: &[&[u8]]) -> bool {
    args.iter().skip(3).any(|arg| arg.eq_ignore_ascii_case(b"EX") || arg.eq_ignore_ascii_case(b"PX"))
}

fn uppercase<'a>(name: &[u8], into: &'a mut [u8; NAME_MAX]) -> Option<&'a [u8]> {
    let upper = into.get_mut(..name.len())?;
    upper.copy_from_slice(name);
    upper.make_ascii_uppercase();
    Some(upper)
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use cluster::resp::write;

    /// A reply to COMMAND with some of Redis's entries.
    pub(crate) fn sample() -> Table {
        let mut raw = Vec::new();
        let rows: [(&str, i64, i64, i64, bool); 27] = [
            ("get", 1, 1, 1, false),
            ("set", 1, 1, 1, false),
            ("incr", 1, 1, 1, false),
            ("append", 1, 1, 1, false),
            ("setrange", 1, 1, 1, false),
            ("rpush", 1, 1, 1, false),
            ("lpush", 1, 1, 1, false),
            ("rpop", 1, 1, 1, false),
            ("lpop", 1, 1, 1, false),
            ("ltrim", 1, 1, 1, false),
            ("lset", 1, 1, 1, false),
            ("hset", 1, 1, 1, false),
            ("hincrby", 1, 1, 1, false),
            ("hdel", 1, 1, 1, false),
            ("del", 1, -1, 1, false),
            ("unlink", 1, -1, 1, false),
            ("mset", 1, -1, 2, false),
            ("rename", 1, 2, 1, false),
            ("pexpireat", 1, 1, 1, false),
            ("persist", 1, 1, 1, false),
            ("setex", 1, 1, 1, false),
            ("bitop", 2, -1, 1, false),
            ("eval", 0, 0, 0, true),
            ("zunionstore", 1, 1, 1, true),
            ("pexpiretime", 1, 1, 1, false),
            ("time", 0, 0, 0, false),
            ("memory", 0, 0, 0, false),
        ];
        write::array(&mut raw, rows.len() + 1);
        let entry = |raw: &mut Vec<u8>, name: &str, keys: (i64, i64, i64), movable: bool, children: &[u8]| {
            write::array(raw, 10);
            write::bulk(raw, name.as_bytes());
            write::integer(raw, -2);
            write::array(raw, usize::from(movable));
            if movable {
                write::simple(raw, "movablekeys");
            }
            [keys.0, keys.1, keys.2].iter().for_each(|n| write::integer(raw, *n));
            (0..3).for_each(|_| write::array(raw, 0));
            raw.extend_from_slice(children);
        };
        for (name, first, last, step, movable) in rows {
            entry(&mut raw, name, (first, last, step), movable, b"*0\r\n");
        }
        let mut child = b"*1\r\n".to_vec();
        entry(&mut child, "xgroup|create", (2, 2, 1), false, b"*0\r\n");
        entry(&mut raw, "xgroup", (0, 0, 0), false, &child);
        Table::read(&raw).expect("a table")
    }

    fn meaning(words: &str) -> Meaning {
        sample().meaning(&words.split(' ').map(str::as_bytes).collect::<Vec<_>>())
    }

    #[test]
    fn keys_stand_where_the_source_says() {
        assert_eq!(meaning("incr k"), Meaning::Same { first: 1, last: 1, step: 1 });
        assert_eq!(meaning("DEL a b c"), Meaning::Same { first: 1, last: 3, step: 1 });
        assert_eq!(meaning("MSET a 1 b 2"), Meaning::Same { first: 1, last: 4, step: 2 });
        assert_eq!(meaning("BITOP AND d a b"), Meaning::Same { first: 2, last: 4, step: 1 });
        assert_eq!(meaning("XGROUP CREATE k g 0"), Meaning::Same { first: 2, last: 2, step: 1 });
        assert_eq!(meaning("XGROUP MAGIC k g 0"), Meaning::Guess);
        assert_eq!(meaning("TIME"), Meaning::Nothing);
    }

    #[test]
    fn what_depends_on_more_than_its_keys_is_copied() {
        assert_eq!(meaning("PERSIST k"), Meaning::Copy { first: 1, last: 1, step: 1 });
        assert_eq!(meaning("SET k v px 5"), Meaning::Copy { first: 1, last: 1, step: 1 });
        assert_eq!(meaning("SET k ex PXAT 5"), Meaning::Same { first: 1, last: 1, step: 1 });
        assert_eq!(meaning("EVAL return 1 k"), Meaning::Guess);
        assert_eq!(meaning("ZUNIONSTORE d 1 a"), Meaning::Guess);
        assert_eq!(meaning("JSON.SET k . 1"), Meaning::Guess);
    }

    #[test]
    fn some_mean_more_than_keys() {
        assert_eq!(meaning("select 0"), Meaning::Select);
        assert_eq!(meaning("FLUSHDB"), Meaning::FlushThis);
        assert_eq!(meaning("FLUSHALL ASYNC"), Meaning::FlushAll);
        assert_eq!(meaning("SWAPDB 0 1"), Meaning::Swap);
        assert_eq!(meaning("PING"), Meaning::Nothing);
    }
}
