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

/// The header `$n` or `$nn` that `buf` starts with: where its string starts, and how long that is. None: another
/// header, or fewer than eight bytes.
#[inline(always)]
pub(crate) fn short_header(buf: &[u8]) -> Option<(usize, usize)> {
    let word = u64::from_le_bytes(*buf.first_chunk::<8>()?);
    // What is left of digits is 0 to 9: adding 6 does not reach the upper half of their byte.
    let two = word ^ u64::from_le_bytes(*b"$00\r\n\0\0\0");
    if (two | two.wrapping_add(0x06_0600)) & 0xff_fff0_f0ff == 0 {
        return Some((5, usize::from(((two >> 8) as u16).wrapping_mul(10 << 8 | 1) >> 8)));
    }
    let one = word ^ u64::from_le_bytes(*b"$0\r\n\0\0\0\0");
    if (one | one.wrapping_add(0x0600)) & 0xffff_f0ff == 0 { Some((4, (one as u32 >> 8) as usize)) } else { None }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn short_headers_are_those_of_one_or_two_digits() {
        for n in 0..100 {
            let text = format!("${n}\r\n");
            let eight = format!("{text}\r\nxx");
            assert_eq!(short_header(eight.as_bytes()), Some((text.len(), n)));
            assert_eq!(short_header(&eight.as_bytes()[..7]), None, "cut");
        }
        for first in 0..=255 {
            for second in 0..=255 {
                let found = short_header(&[b'$', first, second, b'\r', b'\n', 0xff, 0xff, 0xff]).is_some();
                assert_eq!(found, first.is_ascii_digit() && second.is_ascii_digit(), "{first} {second}");
            }
            assert_eq!(
                short_header(&[b'$', first, b'\r', b'\n', 0xff, 0xff, 0xff, 0xff]).is_some(),
                first.is_ascii_digit(),
                "{first}"
            );
        }
        for other in [&b"$123\r\n12"[..], b"*12\r\n123", b"$-1\r\n123", b"$12\n\r123", b"$\r\n\r\n123", b"$0\r\r\n123"]
        {
            assert_eq!(short_header(other), None, "{other:?}");
        }
    }
}
