//! The scripts that clients have sent, so that a process which does not have one can be given it. Bounded; what was not
//! used for longest goes first.

use super::LinkId;
use super::limits::{SCRIPT_AGAIN_US, SCRIPT_BYTES_MAX, SCRIPTS_BYTES_MAX, SCRIPTS_MAX, SCRIPTS_SHARED_PER_S};
use sha1::{Digest, Sha1};
use std::collections::BTreeMap;
use std::sync::Arc;

/// A script's name: its SHA-1 in lower-case hexadecimal digits.
pub(super) type Sha = [u8; 40];

#[derive(Debug)]
struct Script {
    body: Arc<[u8]>,
    /// When it was last used, by `Scripts::uses`.
    used: u64,
    /// The link it was last sent over because it was missing there, and when.
    sent: Option<(LinkId, u64)>,
}

/// All that are known.
#[derive(Debug, Default)]
pub(super) struct Scripts {
    by_sha: BTreeMap<Sha, Script>,
    by_body: BTreeMap<Arc<[u8]>, Sha>,
    /// Oldest use first.
    by_use: BTreeMap<u64, Sha>,
    uses: u64,
    bytes: usize,
    /// The second in which so many were told to other workers.
    second: u64,
    shared: u32,
}

/// The name that a client says, if it is one.
pub(super) fn sha_of(text: &[u8]) -> Option<Sha> {
    let mut sha: Sha = text.try_into().ok()?;
    sha.make_ascii_lowercase();
    sha.iter().all(u8::is_ascii_hexdigit).then_some(sha)
}

impl Scripts {
    pub(super) fn is_empty(&self) -> bool {
        self.by_sha.is_empty()
    }

    /// The names of all, in order.
    pub(super) fn names(&self) -> Vec<Sha> {
        self.by_sha.keys().copied().collect()
    }

    /// All of them, the least recently used first.
    pub(super) fn bodies(&self) -> impl Iterator<Item = &[u8]> {
        self.by_use.values().filter_map(|sha| self.by_sha.get(sha)).map(|script| &script.body[..])
    }

    pub(super) fn body(&self, sha: &Sha) -> Option<Arc<[u8]>> {
        self.by_sha.get(sha).map(|script| script.body.clone())
    }

    /// A client has sent this script. True: it is new, and is remembered.
    pub(super) fn saw(&mut self, body: &[u8]) -> bool {
        match self.by_body.get(body) {
            Some(&sha) => self.used(&sha),
            None if body.len() <= SCRIPT_BYTES_MAX => {
                self.add(body);
                return true;
            }
            None => {}
        }
        false
    }

    /// Whether the other workers may be told of one more in this second.
    pub(super) fn may_be_shared(&mut self, now_us: u64) -> bool {
        let second = now_us / 1_000_000;
        if self.second != second {
            (self.second, self.shared) = (second, 0);
        }
        self.shared += 1;
        self.shared <= SCRIPTS_SHARED_PER_S
    }

    /// A client runs the script of this name.
    pub(super) fn used(&mut self, sha: &Sha) {
        let Some(script) = self.by_sha.get_mut(sha) else { return };
        self.by_use.remove(&script.used);
        self.uses += 1;
        script.used = self.uses;
        self.by_use.insert(self.uses, *sha);
    }

    fn add(&mut self, body: &[u8]) {
        let mut sha: Sha = [0; 40];
        for (digits, byte) in sha.chunks_exact_mut(2).zip(Sha1::digest(body)) {
            const HEX: &[u8; 16] = b"0123456789abcdef";
            digits.copy_from_slice(&[HEX[usize::from(byte >> 4)], HEX[usize::from(byte & 15)]]);
        }
        let body: Arc<[u8]> = body.into();
        self.uses += 1;
        self.bytes += body.len();
        self.by_body.insert(body.clone(), sha);
        self.by_use.insert(self.uses, sha);
        self.by_sha.insert(sha, Script { body, used: self.uses, sent: None });
        while self.by_sha.len() > SCRIPTS_MAX || self.bytes > SCRIPTS_BYTES_MAX {
            self.forget_oldest();
        }
    }

    fn forget_oldest(&mut self) {
        let Some((_, sha)) = self.by_use.pop_first() else { return };
        if let Some(script) = self.by_sha.remove(&sha) {
            self.bytes -= script.body.len();
            self.by_body.remove(&script.body);
        }
    }

    /// The body of a script that is missing at the end of `link`; None: it is not known, or was sent there just now.
    pub(super) fn missing(&mut self, sha: &Sha, link: LinkId, now_us: u64) -> Option<Arc<[u8]>> {
        let script = self.by_sha.get_mut(sha)?;
        if script.sent.is_some_and(|(to, us)| to == link && now_us.saturating_sub(us) < SCRIPT_AGAIN_US) {
            return None;
        }
        script.sent = Some((link, now_us));
        Some(script.body.clone())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_what_redis_calls_them() {
        let mut scripts = Scripts::default();
        scripts.saw(b"return 1");
        let sha = sha_of(b"E0E1F9FABFC9D4800C877A703B823AC0578FF8DB").expect("a name");
        assert_eq!(scripts.names(), [sha]);
        assert_eq!(scripts.body(&sha).as_deref(), Some(&b"return 1"[..]));
        assert_eq!(sha_of(b"e0e1f9"), None);
        assert_eq!(sha_of(&[b'x'; 40]), None);
    }

    #[test]
    fn the_least_recently_used_goes_first() {
        let mut scripts = Scripts::default();
        let body = |n: usize| format!("return {n}").into_bytes();
        scripts.saw(&body(0));
        let first = scripts.names()[0];
        scripts.saw(&body(1));
        for n in 2..SCRIPTS_MAX {
            scripts.saw(&body(n));
        }
        scripts.saw(&body(1));
        scripts.used(&first);
        scripts.saw(&body(SCRIPTS_MAX));
        assert_eq!(scripts.names().len(), SCRIPTS_MAX);
        let known = |scripts: &Scripts, n| scripts.by_body.contains_key(&body(n)[..]);
        assert!(known(&scripts, 0) && known(&scripts, 1) && !known(&scripts, 2));
        assert_eq!(scripts.by_use.len(), SCRIPTS_MAX);
    }

    #[test]
    fn bytes_are_bounded_too() {
        let mut scripts = Scripts::default();
        scripts.saw(&vec![b'x'; SCRIPT_BYTES_MAX + 1]);
        assert!(scripts.is_empty());
        for n in 0..2 * SCRIPTS_BYTES_MAX / SCRIPT_BYTES_MAX {
            let mut body = vec![b'x'; SCRIPT_BYTES_MAX];
            body[0] = n as u8;
            scripts.saw(&body);
        }
        assert_eq!(scripts.bytes, SCRIPTS_BYTES_MAX);
        assert_eq!(scripts.bytes, scripts.by_sha.values().map(|s| s.body.len()).sum::<usize>());
    }

    #[test]
    fn one_that_is_missing_is_sent_once_for_many_requests() {
        let mut scripts = Scripts::default();
        scripts.saw(b"return 1");
        let sha = scripts.names()[0];
        assert!(scripts.missing(&sha, 1, 5).is_some());
        assert!(scripts.missing(&sha, 1, 5).is_none());
        assert!(scripts.missing(&sha, 2, 5).is_some());
        assert!(scripts.missing(&sha, 2, 5 + SCRIPT_AGAIN_US).is_some());
        assert!(scripts.missing(&[b'0'; 40], 1, 5).is_none());
    }
}
