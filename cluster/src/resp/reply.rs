//! Where a reply ends. No tree and no stack: one counter of values still to come, so depth costs nothing, and the
//! place to go on from is that counter and the bytes left of a bulk string.

use super::number::{Line, line, short_header};

/// A status or error line longer than this is not one: Redis caps its own far below.
const LINE_MAX: usize = 64 * 1024;

/// What one step over some bytes found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// The reply ends behind `len` bytes of what was given.
    Done { len: usize },
    /// The first `used` bytes are understood and need not be shown again; more is to come. What is behind them
    /// (a header cut in two) must be shown again with what follows.
    More { used: usize },
    /// Not RESP: the peer is not to be listened to any more.
    Wrong,
}

/// How far the reading of one reply has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cursor {
    /// Values still to come.
    pending: u64,
    /// Bytes of the current bulk string still to come, its line end included.
    bulk_left: u64,
}

impl Default for Cursor {
    fn default() -> Self {
        Self { pending: 1, bulk_left: 0 }
    }
}

impl Cursor {
    /// Bytes known to be still to come; more may follow.
    pub fn bulk_left(&self) -> u64 {
        self.bulk_left
    }

    /// Whether nothing of the reply has been read.
    pub fn at_start(&self) -> bool {
        *self == Self::default()
    }

    /// Goes on over `buf`, which starts where the last step said.
    #[inline]
    pub fn step(&mut self, buf: &[u8]) -> Step {
        let mut at = 0usize;
        loop {
            if self.bulk_left > 0 {
                let here = (buf.len() - at) as u64;
                if here < self.bulk_left {
                    self.bulk_left -= here;
                    return Step::More { used: buf.len() };
                }
                at += self.bulk_left as usize;
                self.bulk_left = 0;
                self.pending -= 1;
            }
            let mut rest = &buf[at..];
            while self.pending > 0
                && let Some(len) = short_bulk(rest)
            {
                self.pending -= 1;
                rest = &rest[len..];
            }
            at = buf.len() - rest.len();
            if self.pending == 0 {
                return Step::Done { len: at };
            }
            let Some(&kind) = buf.get(at) else { return Step::More { used: at } };
            match kind {
                b'$' | b'=' | b'!' => match line(buf, at + 1) {
                    Line::Number(-1, behind) => {
                        self.pending -= 1;
                        at = behind;
                    }
                    Line::Number(n, behind) if n >= 0 => {
                        let left = n as u64 + 2;
                        if left <= (buf.len() - behind) as u64 {
                            // All of it is here: the usual case.
                            at = behind + left as usize;
                            self.pending -= 1;
                        } else {
                            at = behind;
                            self.bulk_left = left;
                        }
                    }
                    Line::More => return Step::More { used: at },
                    _ => return Step::Wrong,
                },
                b'*' | b'~' | b'>' | b'%' | b'|' => match line(buf, at + 1) {
                    Line::Number(-1, behind) => {
                        self.pending -= 1;
                        at = behind;
                    }
                    Line::Number(n, behind) if (0..=i64::from(u32::MAX)).contains(&n) => {
                        let values = match kind {
                            b'%' => 2 * n as u64,
                            // An attribute comes before the value it speaks of.
                            b'|' => 2 * n as u64 + 1,
                            _ => n as u64,
                        };
                        self.pending = self.pending - 1 + values;
                        if self.pending > 1 << 40 {
                            return Step::Wrong;
                        }
                        at = behind;
                    }
                    Line::More => return Step::More { used: at },
                    _ => return Step::Wrong,
                },
                b'+' | b'-' | b':' | b',' | b'#' | b'_' | b'(' => {
                    let rest = &buf[at..];
                    let end = if rest.len() <= 16 {
                        rest.iter().position(|&b| b == b'\n')
                    } else {
                        memchr::memchr(b'\n', rest)
                    };
                    match end {
                        Some(end) if rest[end - 1] == b'\r' => {
                            self.pending -= 1;
                            at += end + 1;
                        }
                        Some(_) => return Step::Wrong,
                        None if rest.len() > LINE_MAX => return Step::Wrong,
                        None => return Step::More { used: at },
                    }
                }
                _ => return Step::Wrong,
            }
        }
    }
}

/// The length of the bulk string of less than 100 bytes, or the nil, that `buf` starts with, if it is whole.
#[inline(always)]
fn short_bulk(buf: &[u8]) -> Option<usize> {
    match short_header(buf) {
        Some((body, len)) => Some(body + len + 2).filter(|end| *end <= buf.len()),
        None => buf.starts_with(b"$-1\r\n").then_some(5),
    }
}

/// The same of any length.
fn bulk(buf: &[u8]) -> Option<usize> {
    match line(buf, 1) {
        Line::Number(n, behind) if n >= 0 => Some(behind + n as usize + 2).filter(|end| *end <= buf.len()),
        _ => None,
    }
}

/// The length of the whole value that `raw` starts with; None if it is not whole.
#[inline(always)]
pub fn length(raw: &[u8]) -> Option<usize> {
    short_bulk(raw).or_else(|| any_length(raw))
}

#[inline(never)]
fn any_length(raw: &[u8]) -> Option<usize> {
    match Cursor::default().step(raw) {
        Step::Done { len } => Some(len),
        _ => None,
    }
}

/// The length of a whole short reply (a bulk string, a status, a number): nearly every one. None: `Cursor` will tell.
#[inline(always)]
pub fn quick(raw: &[u8]) -> Option<usize> {
    match raw.first()? {
        b'$' => short_bulk(raw).or_else(|| bulk(raw)),
        b'+' | b':' => {
            let line = &raw[..raw.len().min(24)];
            let end = line.iter().position(|&b| b == b'\n')?;
            (line[end - 1] == b'\r').then_some(end + 1)
        }
        _ => None,
    }
}

/// The length of the array of as many values as `ends` has room for that `raw` starts with; `ends` is told where each of
/// them ends. None: it is not whole, or another reply.
#[inline(never)]
pub fn values(raw: &[u8], ends: &mut [usize]) -> Option<usize> {
    let Line::Number(n, behind) = line(raw, 1) else { return None };
    if raw[0] != b'*' || n != ends.len() as i64 {
        return None;
    }
    let mut rest = &raw[behind..];
    for end in ends {
        let len = match short_header(rest) {
            Some((body, len)) => body + len + 2,
            None => length(rest)?,
        };
        rest = rest.get(len..)?;
        *end = raw.len() - rest.len();
    }
    Some(raw.len() - rest.len())
}

/// The elements of a whole array reply (`*n` and n whole values), each as its bytes; of a map, names and values by turns.
#[derive(Debug, Clone)]
pub struct Elements<'a> {
    raw: &'a [u8],
    left: u32,
}

impl<'a> Elements<'a> {
    /// None where `raw` is neither an array, a set, a push nor a map.
    pub fn new(raw: &'a [u8]) -> Option<Self> {
        match (raw.first(), line(raw, 1)) {
            (Some(b'*' | b'~' | b'>'), Line::Number(n, behind)) if n >= 0 => {
                Some(Self { raw: &raw[behind..], left: n as u32 })
            }
            (Some(b'%'), Line::Number(n, behind)) if n >= 0 => {
                Some(Self { raw: &raw[behind..], left: (n as u32).saturating_mul(2) })
            }
            _ => None,
        }
    }
}

impl<'a> Iterator for Elements<'a> {
    type Item = &'a [u8];

    fn next(&mut self) -> Option<&'a [u8]> {
        if self.left == 0 {
            return None;
        }
        let len = length(self.raw)?;
        let (element, rest) = self.raw.split_at(len);
        self.raw = rest;
        self.left -= 1;
        Some(element)
    }
}

/// The bytes of a whole bulk string or the text of a status; None for anything else, nil included.
pub fn text(raw: &[u8]) -> Option<&[u8]> {
    match (raw.first()?, line(raw, 1)) {
        (b'$', Line::Number(n, behind)) if n >= 0 => raw.get(behind..behind + n as usize),
        (b'+', _) => raw[1..].strip_suffix(b"\r\n"),
        _ => None,
    }
}

/// The number of a whole integer reply.
pub fn integer(raw: &[u8]) -> Option<i64> {
    match (raw.first()?, line(raw, 1)) {
        (b':', Line::Number(n, _)) => Some(n),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn ends() {
        for reply in [
            "+OK\r\n",
            "-ERR x\r\n",
            ":-5\r\n",
            "$-1\r\n",
            "*-1\r\n",
            "$0\r\n\r\n",
            "$3\r\na\nb\r\n",
            "*0\r\n",
            "*2\r\n*1\r\n:1\r\n$1\r\na\r\n",
            "%1\r\n+a\r\n_\r\n",
            "|1\r\n+ttl\r\n:3\r\n+OK\r\n",
            ",1.5\r\n",
            "#t\r\n",
            "=7\r\ntxt:abc\r\n",
            "~1\r\n:1\r\n",
            "(123\r\n",
        ] {
            let both = format!("{reply}+next\r\n");
            assert_eq!(Cursor::default().step(both.as_bytes()), Step::Done { len: reply.len() }, "{reply:?}");
            assert!(quick(both.as_bytes()).is_none_or(|len| len == reply.len()), "{reply:?}");
            // Cut anywhere, with the tail that was not used shown again.
            for cut in 0..reply.len() {
                let mut cursor = Cursor::default();
                let Step::More { used } = cursor.step(&reply.as_bytes()[..cut]) else { panic!("{reply:?} at {cut}") };
                assert_eq!(cursor.step(&reply.as_bytes()[used..]), Step::Done { len: reply.len() - used });
            }
        }
        for wrong in ["x", "$x\r\n", "*1x\r\n", "+a\nb", "$-2\r\n"] {
            assert_eq!(Cursor::default().step(wrong.as_bytes()), Step::Wrong, "{wrong:?}");
        }
    }

    #[test]
    fn parts() {
        let elements: Vec<_> = Elements::new(b"*3\r\n$1\r\na\r\n$-1\r\n:7\r\n").expect("array").collect();
        assert_eq!(elements, [&b"$1\r\na\r\n"[..], b"$-1\r\n", b":7\r\n"]);
        assert_eq!((text(elements[0]), text(elements[1]), integer(elements[2])), (Some(&b"a"[..]), None, Some(7)));
    }

    #[test]
    fn values_of_an_array() {
        let long = format!("${}\r\n{}\r\n", 300, "x".repeat(300));
        let raw = ["*4\r\n$1\r\na\r\n$-1\r\n*1\r\n:7\r\n", &long, "+next\r\n"].concat();
        let mut ends = [0; 4];
        assert_eq!(values(raw.as_bytes(), &mut ends), Some(raw.len() - 7));
        assert_eq!(ends, [11, 16, 24, 332]);
        for cut in 0..raw.len() - 7 {
            assert_eq!(values(&raw.as_bytes()[..cut], &mut ends), None, "whole at {cut}?");
        }
        assert_eq!(values(raw.as_bytes(), &mut [0; 3]), None, "another number");
        assert_eq!(values(b"~1\r\n:7\r\n", &mut [0]), None, "no array");
    }

    proptest! {
        #[test]
        fn never_panics(raw in proptest::collection::vec(any::<u8>(), 0..200)) {
            let mut cursor = Cursor::default();
            if let Step::More { used } = cursor.step(&raw) {
                prop_assert!(used <= raw.len());
                let _ = cursor.step(&raw[used..]);
            }
            if let Some(elements) = Elements::new(&raw) {
                let _ = elements.count();
            }
            let _ = (text(&raw), integer(&raw), values(&raw, &mut [0; 3]));
        }
    }
}
