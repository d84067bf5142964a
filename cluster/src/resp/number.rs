//! Decimal numbers up to a line end, as they stand in RESP headers.

/// What a header line holds.
pub(crate) enum Line {
    /// The number and the offset behind its `\r\n`.
    Number(i64, usize),
    /// No line end yet.
    More,
    /// Not a number, or too long for one.
    Wrong,
}

/// More digits than any length may have; a longer line is wrong at once rather than kept.
const LINE_MAX: usize = 32;

/// The number at `at`, up to `\r\n`.
///
/// Nearly every header has one or two digits: those are read from one word, in a tenth of the loop's instructions.
#[inline(always)]
pub(crate) fn line(buf: &[u8], at: usize) -> Line {
    if let Some(word) = buf.get(at..).and_then(<[u8]>::first_chunk::<4>) {
        let (tens, ones) = (word[0].wrapping_sub(b'0'), word[1].wrapping_sub(b'0'));
        if tens <= 9 {
            if word[1] == b'\r' && word[2] == b'\n' {
                return Line::Number(i64::from(tens), at + 3);
            }
            if ones <= 9 && word[2] == b'\r' && word[3] == b'\n' {
                return Line::Number(i64::from(tens) * 10 + i64::from(ones), at + 4);
            }
        }
    }
    any_line(buf, at)
}

#[inline(never)]
fn any_line(buf: &[u8], at: usize) -> Line {
    let mut value: i64 = 0;
    let mut i = at;
    let negative = buf.get(i) == Some(&b'-');
    if negative {
        i += 1;
    }
    let digits = i;
    loop {
        let Some(&byte) = buf.get(i) else { return Line::More };
        match byte {
            b'0'..=b'9' if i - digits < 18 => value = value * 10 + i64::from(byte - b'0'),
            b'\r' if i > digits => break,
            _ => return Line::Wrong,
        }
        i += 1;
        if i - at > LINE_MAX {
            return Line::Wrong;
        }
    }
    match buf.get(i + 1) {
        None => Line::More,
        Some(b'\n') => Line::Number(if negative { -value } else { value }, i + 2),
        Some(_) => Line::Wrong,
    }
}

/// The header `$n` or `$nn` at `at`: where its string starts, and how long that is. None: another header.
#[inline(always)]
pub(crate) fn short_header(buf: &[u8], at: usize) -> Option<(usize, usize)> {
    let word = u32::from_le_bytes(*buf.get(at..)?.first_chunk::<4>()?);
    let digit = |place: u32| (word >> place & 0xff).wrapping_sub(u32::from(b'0'));
    if word & 0xffff_00ff == u32::from_le_bytes(*b"$\0\r\n") && digit(8) <= 9 {
        Some((at + 4, digit(8) as usize))
    } else if word & 0xff00_00ff == u32::from_le_bytes(*b"$\0\0\r") && digit(8) <= 9 && digit(16) <= 9 {
        (*buf.get(at + 4)? == b'\n').then_some((at + 5, (digit(8) * 10 + digit(16)) as usize))
    } else {
        None
    }
}
