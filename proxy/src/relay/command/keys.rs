//! Where the keys of a request are, as the commands themselves read their arguments.

use super::{Command, Keys};
use cluster::resp::request::Args;

/// Why the keys of a request cannot be told. Displays as Redis would say it to the client.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KeysFault {
    Syntax,
    NotInteger,
    /// Too few arguments for this command, or not in pairs.
    Arity(&'static str),
    /// numkeys is below 1, or no number.
    Numkeys,
    /// The same, as MSETEX says it.
    NumPairs,
    /// numkeys is below 1, as this sorted set command says it.
    NoInputKey(&'static str),
    /// numkeys is no number, as FCALL says it.
    BadNumkeys,
    /// numkeys is below 0, where 0 is allowed.
    NegativeNumkeys,
    /// numkeys is more than the arguments that follow.
    TooManyKeys,
    /// Streams without an id each: the command, and the id that means "new ones".
    Unbalanced(&'static str, char),
}

impl std::fmt::Display for KeysFault {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Syntax => f.write_str("ERR syntax error"),
            Self::NotInteger => f.write_str("ERR value is not an integer or out of range"),
            Self::Arity(name) => write!(f, "ERR wrong number of arguments for '{name}' command"),
            Self::Numkeys => f.write_str("ERR numkeys should be greater than 0"),
            Self::NumPairs => f.write_str("ERR invalid numkeys value or out of range"),
            Self::NoInputKey(name) => write!(f, "ERR at least 1 input key is needed for '{name}' command"),
            Self::BadNumkeys => f.write_str("ERR Bad number of keys provided"),
            Self::NegativeNumkeys => f.write_str("ERR Number of keys can't be negative"),
            Self::TooManyKeys => f.write_str("ERR Number of keys can't be greater than number of args"),
            Self::Unbalanced(name, id) => write!(
                f,
                "ERR Unbalanced '{name}' list of streams: for each stream key an ID or '{id}' must be specified."
            ),
        }
    }
}

impl std::error::Error for KeysFault {}

/// Gives each key of a request to `each`: destinations first, then in the order of the arguments. `raw` is a whole
/// request of `argc` arguments. After an error some keys may have been given already.
pub fn for_each_key<'a>(
    command: &Command,
    argc: u32,
    raw: &'a [u8],
    mut each: impl FnMut(&'a [u8]),
) -> Result<(), KeysFault> {
    match command.keys {
        Keys::None => Ok(()),
        Keys::One { at } => {
            each(Args::new(raw).nth(at.into()).ok_or(KeysFault::Arity(command.name))?);
            Ok(())
        }
        Keys::Range { first, last, step } => {
            let count = range_count(argc, first, last, step).ok_or(KeysFault::Arity(command.name))?;
            Args::new(raw).skip(first.into()).step_by(step.into()).take(count).for_each(each);
            Ok(())
        }
        Keys::Numkeys { count_at, also } => counted(command, argc, raw, (count_at, also, 1), each),
        Keys::NumPairs { count_at } => counted(command, argc, raw, (count_at, 0, 2), each),
        Keys::Streams => streams(command, argc, raw, each),
        Keys::Sort => {
            // SORT_RO stores nothing: the instance says so.
            let stores = command.flags.contains(super::Flags::WRITE);
            let store = sort_options(raw).filter(|_| stores).filter_map(|option| option.of(b"STORE")).last();
            first_and(command, raw, store, each)
        }
        Keys::GeoStore => first_and(command, raw, geo_store(raw), each),
    }
}

/// How many keys a range has: at least one, and no value without its key.
fn range_count(argc: u32, first: u8, last: i8, step: u8) -> Option<usize> {
    let (argc, first, step) = (i64::from(argc), i64::from(first), i64::from(step));
    let last = if last < 0 { argc + i64::from(last) } else { i64::from(last) };
    let arguments = last - first + 1;
    let whole = last < argc && arguments > 0 && arguments % step == 0;
    whole.then_some((arguments / step) as usize)
}

/// Keys that a number announces, each followed by `step - 1` values, and perhaps the one key at `also`.
fn counted<'a>(
    command: &Command,
    argc: u32,
    raw: &'a [u8],
    (count_at, also, step): (u8, u8, u8),
    mut each: impl FnMut(&'a [u8]),
) -> Result<(), KeysFault> {
    let rule = CountRule::of(command);
    let mut args = Args::new(raw);
    let mut i = 0;
    while i < count_at {
        let arg = args.next().ok_or(KeysFault::Arity(command.name))?;
        if also > 0 && i == also {
            each(arg);
        }
        i += 1;
    }
    let count = integer(args.next().ok_or(KeysFault::Arity(command.name))?).ok_or(rule.no_number)?;
    if count < rule.least {
        return Err(rule.too_few);
    }
    let behind = i64::from(argc) - i64::from(count_at) - 1 - rule.more;
    if count > behind / i64::from(step) {
        return Err(rule.too_many);
    }
    args.step_by(step.into()).take(count as usize).for_each(each);
    Ok(())
}

/// What a command says to a wrong number of keys.
struct CountRule {
    least: i64,
    /// Arguments that must follow the keys.
    more: i64,
    no_number: KeysFault,
    too_few: KeysFault,
    too_many: KeysFault,
}

impl CountRule {
    fn of(command: &Command) -> Self {
        use KeysFault::{BadNumkeys, NegativeNumkeys, NoInputKey, NotInteger, NumPairs, Numkeys, Syntax, TooManyKeys};
        let (least, more, [no_number, too_few, too_many]) = match command.name {
            "lmpop" | "zmpop" | "blmpop" | "bzmpop" => (1, 1, [Numkeys, Numkeys, Syntax]),
            "sintercard" => (1, 0, [Numkeys, Numkeys, TooManyKeys]),
            "msetex" => (1, 0, [NumPairs, NumPairs, Syntax]),
            "eval" | "eval_ro" | "evalsha" | "evalsha_ro" => (0, 0, [NotInteger, NegativeNumkeys, TooManyKeys]),
            "fcall" | "fcall_ro" => (0, 0, [BadNumkeys, NegativeNumkeys, TooManyKeys]),
            _ => (1, 0, [NotInteger, NoInputKey(command.name), Syntax]),
        };
        Self { least, more, no_number, too_few, too_many }
    }
}

/// A number as Redis reads it: no sign but `-`, no leading zero, no space.
fn integer(text: &[u8]) -> Option<i64> {
    let digits = text.strip_prefix(b"-").unwrap_or(text);
    let plain = digits.first().is_some_and(u8::is_ascii_digit) && (digits[0] != b'0' || text == b"0");
    if plain { std::str::from_utf8(text).ok()?.parse().ok() } else { None }
}

/// What XREAD and XREADGROUP say before their keys.
struct StreamOptions {
    /// The index of the argument behind STREAMS; None without one.
    keys_at: Option<u32>,
    /// The index of the argument behind BLOCK.
    block_at: Option<u32>,
}

/// Options are skipped with their values, so a group may be called "streams". An option we do not know is taken to
/// have no value: the instance judges it.
fn stream_options(raw: &[u8]) -> StreamOptions {
    let mut args = Args::new(raw);
    let mut at = 1;
    let mut block_at = None;
    let mut arg = args.nth(1);
    while let Some(name) = arg {
        let values = match name {
            _ if name.eq_ignore_ascii_case(b"STREAMS") => return StreamOptions { keys_at: Some(at + 1), block_at },
            _ if name.eq_ignore_ascii_case(b"BLOCK") => {
                block_at = Some(at + 1);
                1
            }
            _ if name.eq_ignore_ascii_case(b"COUNT") || name.eq_ignore_ascii_case(b"CLAIM") => 1,
            _ if name.eq_ignore_ascii_case(b"GROUP") => 2,
            _ => 0,
        };
        at += values + 1;
        arg = args.nth(values as usize);
    }
    StreamOptions { keys_at: None, block_at }
}

fn streams<'a>(command: &Command, argc: u32, raw: &'a [u8], each: impl FnMut(&'a [u8])) -> Result<(), KeysFault> {
    let keys_at = stream_options(raw).keys_at.ok_or(KeysFault::Syntax)?;
    let behind = argc.saturating_sub(keys_at);
    if behind == 0 {
        return Err(KeysFault::Syntax);
    }
    if behind % 2 != 0 {
        return Err(KeysFault::Unbalanced(command.name, if command.name == "xread" { '$' } else { '>' }));
    }
    Args::new(raw).skip(keys_at as usize).take(behind as usize / 2).for_each(each);
    Ok(())
}

fn first_and<'a>(
    command: &Command,
    raw: &'a [u8],
    store: Option<&'a [u8]>,
    mut each: impl FnMut(&'a [u8]),
) -> Result<(), KeysFault> {
    each(Args::new(raw).nth(1).ok_or(KeysFault::Arity(command.name))?);
    store.into_iter().for_each(each);
    Ok(())
}

/// The destination of GEORADIUS and GEORADIUSBYMEMBER; the last one counts.
fn geo_store(raw: &[u8]) -> Option<&[u8]> {
    let mut args = Args::new(raw).skip(5);
    let mut store = None;
    while let Some(arg) = args.next() {
        if arg.eq_ignore_ascii_case(b"STORE") || arg.eq_ignore_ascii_case(b"STOREDIST") {
            store = args.next().or(store);
        }
    }
    store
}

/// An option of SORT, with its value if it has one.
struct SortOption<'a> {
    name: &'a [u8],
    value: Option<&'a [u8]>,
}

impl<'a> SortOption<'a> {
    fn of(&self, name: &[u8]) -> Option<&'a [u8]> {
        if self.name.eq_ignore_ascii_case(name) { self.value } else { None }
    }
}

fn sort_options<'a>(raw: &'a [u8]) -> impl Iterator<Item = SortOption<'a>> {
    let mut args = Args::new(raw).skip(2);
    std::iter::from_fn(move || {
        let name = args.next()?;
        let value = [&b"BY"[..], b"GET", b"STORE"].iter().any(|with| name.eq_ignore_ascii_case(with));
        if name.eq_ignore_ascii_case(b"LIMIT") {
            args.nth(1);
        }
        Some(SortOption { name, value: if value { args.next() } else { None } })
    })
}

/// Gives `each` the BY and GET patterns of a SORT or SORT_RO that name other keys: those with a `*`. They are no
/// keys of the request, but the instance reads the keys they stand for, so it must own them; see `fixed_prefix`.
pub fn sort_patterns<'a>(raw: &'a [u8], each: impl FnMut(&'a [u8])) {
    sort_options(raw)
        .filter_map(|option| option.of(b"BY").or(option.of(b"GET")))
        .filter(|pattern| pattern.contains(&b'*'))
        .for_each(each);
}

/// The part of a pattern before its `*` if that holds a whole non-empty tag: then every key the pattern stands for is
/// in the slot of this part. None: the keys may be anywhere.
pub fn fixed_prefix(pattern: &[u8]) -> Option<&[u8]> {
    let star = pattern.iter().position(|&b| b == b'*')?;
    let prefix = &pattern[..star];
    let open = prefix.iter().position(|&b| b == b'{')?;
    let close = prefix[open..].iter().position(|&b| b == b'}')?;
    (close > 1).then_some(prefix)
}

/// Whether a request of XREAD or XREADGROUP says BLOCK: only then may it wait.
pub fn asks_to_block(command: &Command, raw: &[u8]) -> bool {
    command.keys == Keys::Streams && stream_options(raw).block_at.is_some()
}

/// Whether a request of XREAD or XREADGROUP says `$`: what comes after the moment at which an instance reads it.
pub fn asks_from_now(command: &Command, raw: &[u8]) -> bool {
    let keys_at = if command.keys == Keys::Streams { stream_options(raw).keys_at } else { None };
    let Some(keys_at) = keys_at else { return false };
    let behind: Vec<&[u8]> = Args::new(raw).skip(keys_at as usize).collect();
    behind[behind.len() / 2..].contains(&&b"$"[..])
}

/// Whether a request reaches into another database than 0: `COPY a b DB 1`. What is no number is the instance's to
/// refuse.
pub fn asks_other_database(command: &Command, raw: &[u8]) -> bool {
    if command.name != "copy" {
        return false;
    }
    let mut args = Args::new(raw).skip(3);
    while let Some(arg) = args.next() {
        if arg.eq_ignore_ascii_case(b"DB")
            && args.next().is_some_and(|db| db != b"0" && !db.is_empty() && db.iter().all(u8::is_ascii_digit))
        {
            return true;
        }
    }
    false
}

/// Whether a request names no key at all, where its command allows that: a script with `numkeys` 0.
pub fn keyless(command: &Command, argc: u32, raw: &[u8]) -> bool {
    let mut keys = 0;
    for_each_key(command, argc, raw, |_| keys += 1).is_ok() && keys == 0
}

/// How long a request is willing to wait.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Timeout {
    /// Which argument says it.
    at: usize,
    /// Whether it is in milliseconds, or in seconds with a fraction.
    in_ms: bool,
    /// In microseconds; None: without end, or it is no number (the instance will say so).
    pub us: Option<u64>,
}

impl Timeout {
    /// None: the command has none, or it is not there.
    pub fn of(command: &Command, raw: &[u8]) -> Option<Self> {
        let args: Vec<&[u8]> = Args::new(raw).collect();
        let (at, in_ms) = match command.name {
            "blmpop" | "bzmpop" => (1, false),
            "xread" | "xreadgroup" => (stream_options(raw).block_at? as usize, true),
            _ => (args.len() - 1, false),
        };
        let text = std::str::from_utf8(args.get(at)?).ok();
        let number = text.and_then(|t| t.parse::<f64>().ok()).filter(|n| *n > 0.0 && n.is_finite());
        let us = number.map(|n| (n * if in_ms { 1e3 } else { 1e6 }) as u64);
        Some(Self { at, in_ms, us })
    }

    /// The same request with another timeout: `us` microseconds, at least a millisecond.
    pub fn with(&self, raw: &[u8], us: u64) -> Vec<u8> {
        if self.us == Some(us) {
            return raw.to_vec();
        }
        let ms = us.div_ceil(1000).max(1);
        let text = if self.in_ms { ms.to_string() } else { format!("{}.{:03}", ms / 1000, ms % 1000) };
        let mut args: Vec<&[u8]> = Args::new(raw).collect();
        if let Some(arg) = args.get_mut(self.at) {
            *arg = text.as_bytes();
        }
        let mut out = Vec::with_capacity(raw.len() + 16);
        cluster::resp::write::request(&mut out, &args);
        out
    }
}
