//! Where a client's request ends. The parser can stop at any byte and go on from there; it keeps the place of the
//! first arguments, which is all the common path looks at, and allocates nothing.

use super::number::{Line, line, short_header};

/// Arguments whose place is kept; the others are found by walking (`Args`).
pub const KEPT: usize = 4;

/// The most arguments a request may have.
const ARGS_MAX: i64 = 1024 * 1024;

/// Redis's own ceilings (`proto-max-bulk-len`, 1024*1024 arguments, 64 KiB lines), and its narrower ones for
/// clients that have not said a password yet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ceilings {
    pub args: u32,
    pub bulk: u32,
    pub inline: u32,
    /// Whether these are the ceilings of an unauthenticated client; it changes the error text.
    pub unauthenticated: bool,
}

impl Ceilings {
    pub const OPEN: Self =
        Self { args: ARGS_MAX as u32, bulk: 512 * 1024 * 1024, inline: 64 * 1024, unauthenticated: false };
    pub const UNAUTHENTICATED: Self = Self { args: 10, bulk: 16 * 1024, inline: 64 * 1024, unauthenticated: true };
}

/// Bytes `at..at + len` of a request.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Span {
    pub at: u32,
    pub len: u32,
}

impl Span {
    #[inline]
    pub fn of<'a>(&self, raw: &'a [u8]) -> &'a [u8] {
        let at = self.at as usize;
        raw.get(at..at + self.len as usize).unwrap_or_default()
    }
}

/// What one step of parsing found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// A whole request of `len` bytes.
    Done { len: usize },
    /// A line without arguments, or `*0`: `len` bytes to forget. Redis answers nothing to it.
    Nothing { len: usize },
    /// A whole inline request: a line of `len` bytes with its end; `inline_to_resp` makes a request of it.
    Inline { len: usize },
    /// Not whole before `need` bytes are there (counted from the request's start).
    More { need: usize },
    /// Not RESP: the text after `-ERR Protocol error: `. Redis says it and closes.
    Wrong(Wrong),
}

/// Why bytes are not a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wrong {
    MultibulkLength,
    UnauthenticatedMultibulk,
    BulkLength,
    UnauthenticatedBulk,
    ExpectedDollar(u8),
    BulkEnd,
    InlineTooBig,
    MultibulkHeaderTooBig,
    BulkHeaderTooBig,
    Quotes,
}

impl std::fmt::Display for Wrong {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::MultibulkLength => f.write_str("invalid multibulk length"),
            Self::UnauthenticatedMultibulk => f.write_str("unauthenticated multibulk length"),
            Self::BulkLength => f.write_str("invalid bulk length"),
            Self::UnauthenticatedBulk => f.write_str("unauthenticated bulk length"),
            Self::ExpectedDollar(byte) if byte.is_ascii_graphic() => {
                write!(f, "expected '$', got '{}'", char::from(*byte))
            }
            Self::ExpectedDollar(byte) => write!(f, "expected '$', got '\\x{byte:02x}'"),
            Self::BulkEnd => f.write_str("a bulk string does not end where its length says"),
            Self::InlineTooBig => f.write_str("too big inline request"),
            Self::MultibulkHeaderTooBig => f.write_str("too big mbulk count string"),
            Self::BulkHeaderTooBig => f.write_str("too big bulk count string"),
            Self::Quotes => f.write_str("unbalanced quotes in request"),
        }
    }
}

/// How far the parsing of one request has come. `Default` is its start.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Frame {
    /// Arguments, the name included; 0 until the first line is read.
    pub argc: u32,
    /// Arguments found whole so far.
    pub found: u32,
    /// Where the next header starts.
    at: u32,
    /// The first arguments.
    pub kept: [Span; KEPT],
}

impl Frame {
    /// Goes on over `buf`, which starts at the request's first byte.
    #[inline]
    pub fn step(&mut self, buf: &[u8], ceilings: &Ceilings) -> Step {
        let mut at = self.at as usize;
        if self.argc == 0 {
            match buf.first() {
                None => return Step::More { need: 1 },
                Some(b'*') => {}
                Some(_) => return inline_step(buf, ceilings),
            }
            match line(buf, 1) {
                Line::Number(n, behind) if n <= 0 => return Step::Nothing { len: behind },
                Line::Number(n, _) if n > i64::from(ceilings.args) => {
                    return Step::Wrong(if ceilings.unauthenticated {
                        Wrong::UnauthenticatedMultibulk
                    } else {
                        Wrong::MultibulkLength
                    });
                }
                Line::Number(n, behind) => {
                    self.argc = n as u32;
                    at = behind;
                    self.at = behind as u32;
                }
                Line::More => return Step::More { need: buf.len() + 1 },
                Line::Wrong => return Step::Wrong(header_fault(buf, 0, ceilings, false)),
            }
        }
        while self.found < self.argc {
            let (body, len) = match short_header(&buf[at..]) {
                Some((body, len)) => (at + body, len),
                None => match bulk_header(buf, at, ceilings) {
                    Ok(header) => header,
                    Err(step) => return step,
                },
            };
            let end = body + len;
            // The place of an argument is told as soon as it is announced: a large value need not be there.
            if (self.found as usize) < KEPT {
                self.kept[self.found as usize] = Span { at: body as u32, len: len as u32 };
            }
            match buf.get(end..end + 2) {
                None => return Step::More { need: end + 2 },
                Some(b"\r\n") => {}
                Some(_) => return Step::Wrong(Wrong::BulkEnd),
            }
            self.found += 1;
            at = end + 2;
            self.at = at as u32;
        }
        Step::Done { len: at }
    }

    /// The `i`-th argument, if it is among the kept ones.
    #[inline]
    pub fn kept<'a>(&self, i: usize, raw: &'a [u8]) -> Option<&'a [u8]> {
        if i < KEPT && i < self.argc as usize { Some(self.kept[i].of(raw)) } else { None }
    }
}

/// The argument that `buf` starts with, and what is behind it.
#[inline(always)]
fn argument(buf: &[u8]) -> Option<(&[u8], &[u8])> {
    let (body, len) = short_header(buf).unwrap_or_else(|| long_header(buf));
    let (argument, rest) = buf.get(body..)?.split_at_checked(len)?;
    let (end, behind) = rest.split_first_chunk::<2>()?;
    if end == b"\r\n" { Some((argument, behind)) } else { None }
}

/// Any header of a bulk string, as `short_header`. If there is none, a string that is longer than any: two numbers are
/// handed over in registers, an `Option` of them is not.
#[inline(never)]
fn long_header(buf: &[u8]) -> (usize, usize) {
    match line(buf, 1) {
        Line::Number(len, body) if len >= 0 && buf[0] == b'$' => (body, len as usize),
        _ => (0, usize::MAX),
    }
}

/// The header of a bulk string at `at`: where its string starts, and how long that is; or why there is none.
fn bulk_header(buf: &[u8], at: usize, ceilings: &Ceilings) -> Result<(usize, usize), Step> {
    match buf.get(at) {
        None => return Err(Step::More { need: at + 4 }),
        Some(b'$') => {}
        Some(&other) => return Err(Step::Wrong(Wrong::ExpectedDollar(other))),
    }
    match line(buf, at + 1) {
        Line::Number(n, behind) if n >= 0 && n <= i64::from(ceilings.bulk) => Ok((behind, n as usize)),
        Line::Number(n, _) if ceilings.unauthenticated && n > 0 => Err(Step::Wrong(Wrong::UnauthenticatedBulk)),
        Line::Number(..) => Err(Step::Wrong(Wrong::BulkLength)),
        Line::More => Err(Step::More { need: buf.len() + 1 }),
        Line::Wrong => Err(Step::Wrong(header_fault(buf, at, ceilings, true))),
    }
}

/// A header that is no number: too long, or wrong at once. Redis waits for a line end up to 64 KiB; we need not.
fn header_fault(buf: &[u8], at: usize, ceilings: &Ceilings, bulk: bool) -> Wrong {
    let long = buf.len() - at > ceilings.inline as usize && memchr::memchr(b'\r', &buf[at..]).is_none();
    match (bulk, long) {
        (true, true) => Wrong::BulkHeaderTooBig,
        (true, false) => Wrong::BulkLength,
        (false, true) => Wrong::MultibulkHeaderTooBig,
        (false, false) => Wrong::MultibulkLength,
    }
}

fn inline_step(buf: &[u8], ceilings: &Ceilings) -> Step {
    match memchr::memchr(b'\n', buf) {
        Some(end) if end > ceilings.inline as usize => Step::Wrong(Wrong::InlineTooBig),
        Some(end) if buf[..end].iter().all(|b| b.is_ascii_whitespace()) => Step::Nothing { len: end + 1 },
        Some(end) => Step::Inline { len: end + 1 },
        None if buf.len() > ceilings.inline as usize => Step::Wrong(Wrong::InlineTooBig),
        None => Step::More { need: buf.len() + 1 },
    }
}

/// A whole request of one to nine arguments, read in one go: nearly every one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Short<'a> {
    pub argc: u32,
    pub name: &'a [u8],
    /// The first argument behind the name; empty if there is none.
    pub key: &'a [u8],
    pub len: usize,
}

impl<'a> Short<'a> {
    /// The request that `buf` starts with. None: `Frame::step` will tell.
    #[inline(always)]
    pub fn read(buf: &'a [u8]) -> Option<Self> {
        let (header, rest) = buf.split_first_chunk::<4>()?;
        let header = u32::from_le_bytes(*header) ^ u32::from_le_bytes(*b"*0\r\n");
        let argc = header >> 8;
        if header & 0xff != 0 || !(1..=9).contains(&argc) {
            return None;
        }
        let (name, mut rest) = argument(rest)?;
        let mut key = &rest[..0];
        if argc > 1 {
            (key, rest) = argument(rest)?;
        }
        for _ in 2..argc {
            (_, rest) = argument(rest)?;
        }
        Some(Self { argc, name, key, len: buf.len() - rest.len() })
    }
}

/// The arguments of a whole request, in order, name first.
#[derive(Debug, Clone)]
pub struct Args<'a> {
    rest: &'a [u8],
    left: u32,
}

impl<'a> Args<'a> {
    /// Of a request that `Frame::step` found whole; of other bytes, the arguments that are there.
    pub fn new(raw: &'a [u8]) -> Self {
        match line(raw, 1) {
            Line::Number(n, behind) if n > 0 && n <= ARGS_MAX && raw[0] == b'*' => {
                Self { rest: &raw[behind..], left: n as u32 }
            }
            _ => Self { rest: &[], left: 0 },
        }
    }

    /// What follows the last argument taken.
    #[inline]
    pub fn rest(&self) -> &'a [u8] {
        self.rest
    }

    /// How many arguments are still to come. Bytes of which nothing is known are a whole request if this reaches 0.
    #[inline]
    pub fn left(&self) -> u32 {
        self.left
    }
}

impl<'a> Iterator for Args<'a> {
    type Item = &'a [u8];

    #[inline(always)]
    fn next(&mut self) -> Option<&'a [u8]> {
        if self.left == 0 {
            return None;
        }
        let (arg, behind) = argument(self.rest)?;
        self.rest = behind;
        self.left -= 1;
        Some(arg)
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        (0, Some(self.left as usize))
    }
}

/// Rewrites a line typed by a person (`SET "a b" 'c'`) as a request, by Redis's quoting rules (`sdssplitargs`).
pub fn inline_to_resp(text: &[u8]) -> Result<Vec<u8>, Wrong> {
    let mut args: Vec<Vec<u8>> = Vec::new();
    let mut i = 0;
    while let Some(start) = text[i..].iter().position(|b| !is_space(*b)) {
        i += start;
        let (arg, behind) = inline_arg(text, i)?;
        args.push(arg);
        i = behind;
    }
    let mut out = Vec::with_capacity(text.len() + 16 * (args.len() + 1));
    super::write::array(&mut out, args.len());
    for arg in &args {
        super::write::bulk(&mut out, arg);
    }
    Ok(out)
}

fn is_space(byte: u8) -> bool {
    byte.is_ascii_whitespace() || byte == 0x0b || byte == 0
}

/// One argument from `i`, and the place behind it.
fn inline_arg(text: &[u8], mut i: usize) -> Result<(Vec<u8>, usize), Wrong> {
    let mut arg = Vec::new();
    while let Some(&byte) = text.get(i) {
        match byte {
            b'"' | b'\'' => {
                i = quoted(text, i + 1, byte, &mut arg)?;
                // A closing quote must be followed by a space, or by nothing.
                return match text.get(i) {
                    Some(&next) if !is_space(next) => Err(Wrong::Quotes),
                    _ => Ok((arg, i)),
                };
            }
            byte if is_space(byte) => break,
            byte => arg.push(byte),
        }
        i += 1;
    }
    Ok((arg, i))
}

/// The rest of a quoted argument into `arg`; returns the place behind the closing quote.
fn quoted(text: &[u8], mut i: usize, quote: u8, arg: &mut Vec<u8>) -> Result<usize, Wrong> {
    loop {
        let rest = text.get(i..).unwrap_or_default();
        match *rest {
            [] => return Err(Wrong::Quotes),
            [b'\\', b'x', high, low, ..] if quote == b'"' && high.is_ascii_hexdigit() && low.is_ascii_hexdigit() => {
                arg.push(hex(high) << 4 | hex(low));
                i += 4;
            }
            [b'\\', escaped, ..] if quote == b'"' => {
                arg.push(match escaped {
                    b'n' => b'\n',
                    b'r' => b'\r',
                    b't' => b'\t',
                    b'b' => 8,
                    b'a' => 7,
                    other => other,
                });
                i += 2;
            }
            [b'\\', b'\'', ..] if quote == b'\'' => {
                arg.push(b'\'');
                i += 2;
            }
            [byte, ..] if byte == quote => return Ok(i + 1),
            [byte, ..] => {
                arg.push(byte);
                i += 1;
            }
        }
    }
}

fn hex(digit: u8) -> u8 {
    match digit {
        b'0'..=b'9' => digit - b'0',
        b'a'..=b'f' => digit - b'a' + 10,
        _ => digit - b'A' + 10,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn whole(bytes: &[u8]) -> Step {
        Frame::default().step(bytes, &Ceilings::OPEN)
    }

    #[test]
    fn finds_the_end() {
        let get = b"*2\r\n$3\r\nGET\r\n$1\r\na\r\n";
        let mut frame = Frame::default();
        assert_eq!(frame.step(get, &Ceilings::OPEN), Step::Done { len: get.len() });
        assert_eq!(
            (frame.kept(0, get), frame.kept(1, get), frame.kept(2, get)),
            (Some(&b"GET"[..]), Some(&b"a"[..]), None)
        );
        let many = Args::new(b"*4294967297\r\n$3\r\nGET\r\n").count();
        assert_eq!(many, 0, "a count beyond the ceiling is not cut to one that is below");
        assert_eq!(whole(b"*0\r\n"), Step::Nothing { len: 4 });
        assert_eq!(whole(b"*-1\r\n"), Step::Nothing { len: 5 });
        assert_eq!(whole(b"\r\n"), Step::Nothing { len: 2 });
        assert_eq!(whole(b"PING\r\nx"), Step::Inline { len: 6 });
    }

    #[test]
    fn refuses_what_redis_refuses() {
        for (bytes, why) in [
            (&b"*3\r\n$3\r\nSET\r\n$1\r\nx\r\nfooz\r\n"[..], "expected '$', got 'f'"),
            (b"*3\r\n$3\r\nSET\r\n$1\r\nx\r\n$-10\r\n", "invalid bulk length"),
            (b"*1048577\r\n", "invalid multibulk length"),
            (b"*9223372036854775807\r\n", "invalid multibulk length"),
            (b"*x\r\n", "invalid multibulk length"),
            (b"*1\r\n$blabla\r\n", "invalid bulk length"),
            (b"*1\r\n$4\r\nPINGxx", "a bulk string does not end where its length says"),
        ] {
            let Step::Wrong(wrong) = whole(bytes) else { panic!("{bytes:?} taken") };
            assert_eq!(wrong.to_string(), why);
        }
        let ten = Frame::default().step(b"*11\r\n", &Ceilings::UNAUTHENTICATED);
        assert_eq!(ten, Step::Wrong(Wrong::UnauthenticatedMultibulk));
    }

    #[test]
    fn lines_of_people() {
        let resp =
            |text: &[u8]| inline_to_resp(text).map(|raw| Args::new(&raw).map(<[u8]>::to_vec).collect::<Vec<_>>());
        assert_eq!(resp(b"  SET a  1\r\n"), Ok(vec![b"SET".to_vec(), b"a".to_vec(), b"1".to_vec()]));
        assert_eq!(resp(br#""a\x41\n" 'it\'s'"#), Ok(vec![b"aA\n".to_vec(), b"it's".to_vec()]));
        assert_eq!(resp(br#"set "a"b"#), Err(Wrong::Quotes));
        assert_eq!(resp(br#"set "a"#), Err(Wrong::Quotes));
    }

    proptest! {
        /// Cut anywhere, the parser finds the same end, and never asks for less than one more byte.
        #[test]
        fn goes_on_from_any_byte(args in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..40), 1..9)) {
            let mut raw = Vec::new();
            super::super::write::array(&mut raw, args.len());
            for arg in &args {
                super::super::write::bulk(&mut raw, arg);
            }
            let mut frame = Frame::default();
            for cut in 0..raw.len() {
                match frame.step(&raw[..cut], &Ceilings::OPEN) {
                    Step::More { need } => prop_assert!(need > cut && need <= raw.len()),
                    other => prop_assert!(false, "{other:?} at {cut}"),
                }
            }
            prop_assert_eq!(frame.step(&raw, &Ceilings::OPEN), Step::Done { len: raw.len() });
            if let Some(short) = Short::read(&raw) {
                prop_assert_eq!((short.argc, short.len), (frame.argc, raw.len()));
                prop_assert_eq!((short.name, short.key), (frame.kept[0].of(&raw), frame.kept[1].of(&raw)));
            } else {
                prop_assert!(args.len() > 9);
            }
            prop_assert!(Short::read(&raw[..raw.len() - 1]).is_none());
            prop_assert!(Args::new(&raw).eq(args.iter().map(Vec::as_slice)));
        }

        #[test]
        fn never_panics(raw in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = whole(&raw);
            let _ = Short::read(&raw);
            let _ = inline_to_resp(&raw);
            let _ = Args::new(&raw).count();
        }
    }
}
