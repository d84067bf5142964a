//! Patterns as KEYS, CONFIG GET and COMMAND LIST take them: `*`, `?`, `[a-z]`, `[^a]`, `\` for the byte itself.

/// Whether `pattern` matches the whole of `text`, letters in any case.
pub fn matches(pattern: &[u8], text: &[u8]) -> bool {
    matches_as::<false>(pattern, text)
}

/// The same, letters as they are.
pub fn matches_exactly(pattern: &[u8], text: &[u8]) -> bool {
    matches_as::<true>(pattern, text)
}

fn matches_as<const EXACT: bool>(pattern: &[u8], text: &[u8]) -> bool {
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
        } else if let Some(behind) = text.get(t).and_then(|&byte| one::<EXACT>(pattern, p, byte)) {
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

fn fold<const EXACT: bool>(byte: u8) -> u8 {
    if EXACT { byte } else { byte.to_ascii_lowercase() }
}

/// Whether the pattern's element at `p` takes `byte`; the place behind the element.
fn one<const EXACT: bool>(pattern: &[u8], p: usize, byte: u8) -> Option<usize> {
    match *pattern.get(p)? {
        b'?' => Some(p + 1),
        b'[' => class::<EXACT>(pattern, p + 1, byte),
        b'\\' if p + 1 < pattern.len() => (fold::<EXACT>(pattern[p + 1]) == fold::<EXACT>(byte)).then_some(p + 2),
        other => (fold::<EXACT>(other) == fold::<EXACT>(byte)).then_some(p + 1),
    }
}

/// A class from behind its `[`; one that is not closed ends with the pattern.
fn class<const EXACT: bool>(pattern: &[u8], mut p: usize, byte: u8) -> Option<usize> {
    let byte = fold::<EXACT>(byte);
    let negated = pattern.get(p) == Some(&b'^');
    p += usize::from(negated);
    let mut found = false;
    while let Some(&low) = pattern.get(p).filter(|&&b| b != b']') {
        let (low, high, behind) = match (low, pattern.get(p + 1), pattern.get(p + 2)) {
            (b'\\', Some(&escaped), _) => (escaped, escaped, p + 2),
            (_, Some(b'-'), Some(&high)) => (low.min(high), low.max(high), p + 3),
            _ => (low, low, p + 1),
        };
        found |= (fold::<EXACT>(low)..=fold::<EXACT>(high)).contains(&byte);
        p = behind;
    }
    (found != negated).then_some((p + 1).min(pattern.len()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_keep_their_case_and_names_do_not() {
        for (pattern, text, exactly, anyhow) in [
            ("app:*", "app:1", true, true),
            ("app:*", "App:1", false, true),
            ("[a-c]?", "bX", true, true),
            ("[a-c]?", "BX", false, true),
            ("a\\*", "a*", true, true),
            ("a\\*", "ab", false, false),
        ] {
            assert_eq!(matches_exactly(pattern.as_bytes(), text.as_bytes()), exactly, "{pattern} {text}");
            assert_eq!(matches(pattern.as_bytes(), text.as_bytes()), anyhow, "{pattern} {text}");
        }
    }
}
