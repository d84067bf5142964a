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

/// The header `$n` or `$nn` that `buf` starts with: where its string starts, and how long that is. None: something else.
#[inline(always)]
pub(crate) fn short_header(buf: &[u8]) -> Option<(usize, usize)> {
    const ONE: u32 = u32::from_le_bytes(*b"$0\r\n");
    const TWO: u32 = u32::from_le_bytes(*b"$00\r");
    let word = u32::from_le_bytes(*buf.first_chunk::<4>()?);
    // The digits are the bytes whose upper half is 3, also after 6 is added.
    if (word & 0xfff0_f0ff) == TWO && (word + 0x0006_0600) & 0xfff0_f0ff == TWO {
        let digits = word >> 8 & 0x0f0f;
        (*buf.get(4)? == b'\n').then_some((5, (digits * (10 << 8 | 1) >> 8 & 0xff) as usize))
    } else if word & 0xffff_f0ff == ONE && (word + 0x0600) & 0xffff_f0ff == ONE {
        Some((4, (word >> 8 & 15) as usize))
    } else {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn short_headers_are_those_of_one_or_two_digits() {
        for n in 0..100 {
            let text = format!("${n}\r\n");
            assert_eq!(short_header(text.as_bytes()), Some((text.len(), n)));
            assert_eq!(short_header(&text.as_bytes()[..text.len() - 1]), None, "cut");
        }
        for first in 0..=255 {
            for second in 0..=255 {
                let found = short_header(&[b'$', first, second, b'\r', b'\n']).is_some();
                assert_eq!(found, first.is_ascii_digit() && second.is_ascii_digit(), "{first} {second}");
            }
            assert_eq!(short_header(&[b'$', first, b'\r', b'\n']).is_some(), first.is_ascii_digit(), "{first}");
        }
        for other in [&b"$123\r\n"[..], b"*12\r\n", b"$-1\r\n", b"$12\n\r", b"$\r\n\r\n", b"$0\r\r\n", b""] {
            assert_eq!(short_header(other), None, "{other:?}");
        }
    }
}
