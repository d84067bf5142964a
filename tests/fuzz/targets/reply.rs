//! The reply parser: cut anywhere it must find the same end, and the readers of whole replies must not panic.

#![no_main]

use cluster::resp::reply::{Cursor, Elements, Step, integer, text};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let Some((&piece, raw)) = data.split_first() else { return };
    let mut rest = raw;
    loop {
        let whole = end(rest, rest.len().max(1));
        assert_eq!(end(rest, usize::from(piece) + 1), whole, "cut into pieces of {}", usize::from(piece) + 1);
        let End::Done(len) = whole else { break };
        assert!(len > 0 && len <= rest.len());
        elements(&rest[..len]);
        rest = &rest[len..];
    }
    // Raw bytes are no whole reply; still nothing may panic.
    let _ = (text(raw), integer(raw), Elements::new(raw).map(Iterator::count));
});

/// What a reply came to.
#[derive(Debug, PartialEq, Eq)]
enum End {
    Done(usize),
    Partial,
    Wrong,
}

/// Reads one reply as a link does: what was not used is shown again with what follows.
fn end(raw: &[u8], piece: usize) -> End {
    let mut cursor = Cursor::default();
    assert!(cursor.at_start());
    let (mut start, mut shown) = (0, 0);
    while shown < raw.len() {
        shown = (shown + piece).min(raw.len());
        match cursor.step(&raw[start..shown]) {
            Step::Done { len } => return End::Done(start + len),
            Step::More { used } => start += used,
            Step::Wrong => return End::Wrong,
        }
        assert!(start <= shown);
    }
    End::Partial
}

/// An array's elements are its bytes, all of them and in order.
fn elements(raw: &[u8]) {
    let _ = (text(raw), integer(raw));
    let Some(elements) = Elements::new(raw) else { return };
    let parts: Vec<&[u8]> = elements.collect();
    let sum: usize = parts.iter().map(|part| part.len()).sum();
    assert!(raw.ends_with(&parts.concat()) && sum < raw.len());
}
