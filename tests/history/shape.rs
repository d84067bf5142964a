//! What clients work on: which commands write and read each kind of key. A key's name says its kind, so that whoever looks at
//! it later knows how.

use super::What;
use redis::{RedisError, Value};

/// A kind of key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Shape {
    List,
    /// A list to which a script appends.
    Scripted,
    /// Two lists to which a transaction appends the same value.
    Pair,
    Stream,
    /// A stream of which a group of consumers takes each entry once, and none is acknowledged.
    Group,
    /// A list from which clients pop, and wait for it.
    Queue,
    Set,
    Zset,
    Hash,
    Geo,
    /// A HyperLogLog: what was added changes nothing when it is added again.
    Hll,
    Count,
    /// A counter in a bit field.
    Bits,
    /// Of one client: set (or renamed from another key) and deleted.
    Own,
    /// Of one client: it ends by itself.
    Brief,
}

/// What a reply holds.
#[derive(Debug)]
pub(super) enum Read {
    Values(Vec<u64>),
    Number(Option<u64>),
}

const APPEND: &str = "return redis.call('RPUSH', KEYS[1], ARGV[1])";
/// Seconds that a pop waits: less than a client's patience.
const POP_SECONDS: &str = "0.2";
/// Takes so many entries as a consumer of the group, which it makes if there is none. At the end all must be pending.
const TAKE: &str = "redis.pcall('XGROUP', 'CREATE', KEYS[1], 'g', '0', 'MKSTREAM')
    local read = redis.call('XREADGROUP', 'GROUP', 'g', ARGV[1], 'COUNT', ARGV[2], 'STREAMS', KEYS[1], '>')
    local values = {}
    for _, entry in ipairs(read and read[1][2] or {}) do values[#values + 1] = entry[2][2] end
    local pending, all = redis.call('XPENDING', KEYS[1], 'g')[1], redis.call('XLEN', KEYS[1])
    if ARGV[1] == 'end' and pending ~= all then
        return redis.error_reply('verdict of the checker: of ' .. all .. ' entries ' .. pending .. ' are pending')
    end
    return values";
const ALL: [(Shape, &str); 15] = [
    (Shape::List, "list"),
    (Shape::Scripted, "scripted"),
    (Shape::Pair, "pair"),
    (Shape::Stream, "stream"),
    (Shape::Group, "group"),
    (Shape::Queue, "queue"),
    (Shape::Set, "set"),
    (Shape::Zset, "zset"),
    (Shape::Hash, "hash"),
    (Shape::Geo, "geo"),
    (Shape::Hll, "hll"),
    (Shape::Count, "count"),
    (Shape::Bits, "bits"),
    (Shape::Own, "own"),
    (Shape::Brief, "brief"),
];

impl Shape {
    pub(super) const SETS: [Self; 4] = [Self::Set, Self::Zset, Self::Hash, Self::Geo];

    /// The key of `place`; those that grow are left for the next `round` in time.
    pub(super) fn key(self, load: &str, place: u64, round: u64) -> String {
        let word = ALL.iter().find(|(shape, _)| *shape == self).map_or("", |(_, word)| word);
        match self {
            Self::Own => format!("{{{load}-{word}-{place}}}"),
            Self::Brief | Self::Count | Self::Bits | Self::Queue => format!("{load}-{word}-{place}"),
            Self::Pair => format!("{{{load}-{word}-{place}-{round}}}:a"),
            _ => format!("{load}-{word}-{place}-{round}"),
        }
    }

    /// By a key's name: `LOAD-KIND-...`, perhaps in braces.
    pub(super) fn of(key: &str) -> Self {
        let word = key.trim_start_matches('{').split('-').nth(1).unwrap_or_default().trim_end_matches('}');
        ALL.iter().find(|(_, of)| *of == word).map_or(Self::List, |(shape, _)| *shape)
    }

    /// Values stand in the order in which they were written.
    pub(super) fn is_ordered(self) -> bool {
        !Self::SETS.contains(&self)
    }

    pub(super) fn counts(self) -> bool {
        matches!(self, Self::Count | Self::Bits)
    }

    /// All keys that an operation on this one changes.
    pub(super) fn touched(self, key: &str) -> Vec<String> {
        match (self, key.strip_suffix(":a")) {
            (Self::Pair, Some(both)) => vec![key.to_owned(), format!("{both}:b")],
            _ => vec![key.to_owned()],
        }
    }

    pub(super) fn look(self, key: &str) -> Vec<String> {
        words(match self {
            Self::List | Self::Scripted | Self::Pair | Self::Queue => vec!["LRANGE", key, "0", "-1"],
            Self::Stream => vec!["XRANGE", key, "-", "+"],
            Self::Group => vec!["EVAL", TAKE, "1", key, "end", "1000000"],
            Self::Hll => vec!["PFCOUNT", key],
            Self::Set => vec!["SMEMBERS", key],
            Self::Zset | Self::Geo => vec!["ZRANGE", key, "0", "-1"],
            Self::Hash => vec!["HKEYS", key],
            Self::Bits => vec!["BITFIELD", key, "GET", "u32", "0"],
            Self::Count | Self::Own | Self::Brief => vec!["GET", key],
        })
    }

    /// What is sent for a write; more than one command go together. `serial` names what must not be met again.
    pub(super) fn commands(self, key: &str, what: &What, serial: u64) -> Vec<Vec<String>> {
        let one = |command: Vec<&str>| vec![words(command)];
        match what {
            What::Append(value) => {
                let value = &value.to_string();
                match self {
                    Self::Pair => self.touched(key).iter().map(|key| words(vec!["RPUSH", key, value])).collect(),
                    Self::Scripted => one(vec!["EVAL", APPEND, "1", key, value]),
                    Self::Stream | Self::Group => one(vec!["XADD", key, "*", "value", value]),
                    _ => one(vec!["RPUSH", key, value]),
                }
            }
            What::Add(value) => {
                let value = &value.to_string();
                match self {
                    Self::Zset => one(vec!["ZADD", key, "1.5", value]),
                    Self::Hash => one(vec!["HSET", key, value, "there"]),
                    Self::Hll => one(vec!["PFADD", key, value]),
                    Self::Geo => one(vec!["GEOADD", key, "13.4", "52.5", value]),
                    _ => one(vec!["SADD", key, value]),
                }
            }
            What::Increment(_) if self == Self::Bits => one(vec!["BITFIELD", key, "INCRBY", "u32", "0", "1"]),
            What::Increment(_) => one(vec!["INCR", key]),
            What::Pop(_) if self == Self::Group => one(vec!["EVAL", TAKE, "1", key, "somebody", "1"]),
            What::Pop(_) => one(vec!["BLPOP", key, POP_SECONDS]),
            What::Brief { value, ms } => one(vec!["SET", key, &value.to_string(), "PX", &ms.to_string()]),
            What::Set(value) if serial.is_multiple_of(3) => {
                let from = format!("{key}:{serial}");
                vec![words(vec!["SET", &from, &value.to_string()]), words(vec!["RENAME", &from, key])]
            }
            What::Set(value) => one(vec!["SET", key, &value.to_string()]),
            What::Delete => one(vec!["DEL", key]),
            What::List(_) | What::Get(_) => vec![self.look(key)],
        }
    }

    pub(super) fn read(self, reply: Value) -> Result<Read, RedisError> {
        Ok(match self {
            Self::Stream => {
                let entries: Vec<(String, Vec<String>)> = redis::from_redis_value(reply)?;
                Read::Values(entries.iter().filter_map(|(_, fields)| fields.get(1)?.parse().ok()).collect())
            }
            Self::Group => {
                let texts: Vec<String> = redis::from_redis_value(reply)?;
                Read::Values(texts.iter().filter_map(|text| text.parse().ok()).collect())
            }
            Self::Queue if reply == Value::Nil => Read::Values(Vec::new()),
            // LRANGE says values, BLPOP the list's name before one.
            Self::Queue => {
                let texts: Vec<String> = redis::from_redis_value(reply)?;
                Read::Values(texts.iter().filter_map(|text| text.parse().ok()).collect())
            }
            Self::Bits => {
                let numbers: Vec<u64> = redis::from_redis_value(reply)?;
                Read::Number(numbers.first().copied())
            }
            Self::Count | Self::Hll | Self::Own | Self::Brief => Read::Number(redis::from_redis_value(reply)?),
            _ => Read::Values(redis::from_redis_value(reply)?),
        })
    }
}

fn words(words: Vec<&str>) -> Vec<String> {
    words.into_iter().map(str::to_owned).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_says_what_it_is() {
        for (shape, _) in ALL {
            for key in shape.touched(&shape.key("load1", 3, 2)) {
                assert_eq!(Shape::of(&key), shape, "{key}");
            }
        }
    }
}
