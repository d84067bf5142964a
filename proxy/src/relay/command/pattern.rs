//! Patterns as KEYS, CONFIG GET and COMMAND LIST take them: `*`, `?`, `[a-z]`, `[^a]`, `\` for the byte itself.

/// Whether `pattern` matches the whole of `text`, letters in any case.
pub fn matches(pattern: &[u8], text: &[u8]) -> bool {
    let (mut p, mut t) = (0, 0);
    // Behind the last star, and the text it has not swallowed yet: where to go on after a mismatch. Stars before the
    // last one need no second try, so the time is at most the product of the lengths.
    let mut star: Option<(usize, usize)> = None;
    loop {
        if pattern.get(p) == Some(&b'*') {
            p += 1;
            star = Some((p, t));
        } else if t == text.len() && p == pattern.len() {
            return true;
        } else if let Some(behind) = text.get(t).and_then(|&byte| one(pattern, p, byte)) {
            p = behind;
            t += 1;
        } else if let Some((behind, swallowed)) = star.filter(|&(_, swallowed)| swallowed < text.len()) {
            (p, t) = (behind, swallowed + 1);
            star = Some((p, t));
        } else {
            return false;
        }
    }
}

/// Whether the pattern's element at `p` takes `byte`; the place behind the element.
fn one(pattern: &[u8], p: usize, byte: u8) -> Option<usize> {
    match *pattern.get(p)? {
        b'?' => Some(p + 1),
        b'[' => class(pattern, p + 1, byte),
        b'\\' if p + 1 < pattern.len() => pattern[p + 1].eq_ignore_ascii_case(&byte).then_some(p + 2),
        other => other.eq_ignore_ascii_case(&byte).then_some(p + 1),
    }
}

/// A class from behind its `[`; one that is not closed ends with the pattern.
fn class(pattern: &[u8], mut p: usize, byte: u8) -> Option<usize> {
    let byte = byte.to_ascii_lowercase();
    let negated = pattern.get(p) == Some(&b'^');
    p += usize::from(negated);
    let mut found = false;
    while let Some(&low) = pattern.get(p).filter(|&&b| b != b']') {
        let (low, high, behind) = match (low, pattern.get(p + 1), pattern.get(p + 2)) {
            (b'\\', Some(&escaped), _) => (escaped, escaped, p + 2),
            (_, Some(b'-'), Some(&high)) => (low.min(high), low.max(high), p + 3),
            _ => (low, low, p + 1),
        };
        found |= (low.to_ascii_lowercase()..=high.to_ascii_lowercase()).contains(&byte);
        p = behind;
    }
    (found != negated).then_some((p + 1).min(pattern.len()))
}
