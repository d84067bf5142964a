//! How a server is told to move keys to another by itself, and what its answers mean.

use cluster::resp::reply::integer;
use cluster::resp::write;

/// Keys that go together: more in one command would hold the source up for longer than a slow command does.
pub const BATCH_KEYS: usize = 16;
/// Their bytes, as MEMORY USAGE has them.
pub const BATCH_BYTES: u64 = 256 << 10;

/// What both servers know.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Tongue {
    /// SLOTSMGRTONE (codis-server): one key, whatever the target has is replaced.
    One,
    /// SLOTSMGRTTAGONE (Pika knows no other, of some versions): all keys of the same tag go with it.
    TagOne,
    /// MIGRATE: many keys, and what the target has stays.
    Migrate,
}

impl Tongue {
    /// `knows`: whether both sides know a command. SLOTSMGRTONE goes first: a key that its tag takes along is not asked
    /// for at the target, and would replace what clients made of it there.
    pub fn of(source: impl Fn(&str) -> bool, target: impl Fn(&str) -> bool) -> Option<Self> {
        match () {
            () if source("SLOTSMGRTONE") && target("SLOTSRESTORE") => Some(Self::One),
            () if source("SLOTSMGRTTAGONE") && target("SLOTSRESTORE") => Some(Self::TagOne),
            () if source("MIGRATE") && target("RESTORE") => Some(Self::Migrate),
            () => None,
        }
    }
}

/// The way to the target, as the source is told of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Way {
    pub tongue: Tongue,
    pub host: String,
    pub port: String,
    /// How long the source may wait for each answer of the target, in milliseconds.
    pub timeout_ms: u64,
    /// What the target wants to hear first; codis-server says its own `requirepass` instead.
    pub user: Option<String>,
    pub password: Option<String>,
}

impl Way {
    /// The command that moves these keys.
    pub fn request(&self, into: &mut Vec<u8>, keys: &[&[u8]]) {
        let timeout = self.timeout_ms.to_string();
        let place: [&[u8]; 2] = [self.host.as_bytes(), self.port.as_bytes()];
        let mut words: Vec<&[u8]> = Vec::new();
        match self.tongue {
            Tongue::One | Tongue::TagOne => {
                words.push(if self.tongue == Tongue::One { b"SLOTSMGRTONE" } else { b"SLOTSMGRTTAGONE" });
                words.extend(place);
                words.push(timeout.as_bytes());
                words.extend(keys.first());
            }
            Tongue::Migrate => {
                words.push(b"MIGRATE");
                words.extend(place);
                words.extend([&b""[..], b"0", timeout.as_bytes()]);
                match (&self.user, &self.password) {
                    (Some(user), Some(password)) => words.extend([&b"AUTH2"[..], user.as_bytes(), password.as_bytes()]),
                    (None, Some(password)) => words.extend([&b"AUTH"[..], password.as_bytes()]),
                    (_, None) => {}
                }
                words.push(b"KEYS");
                words.extend(keys);
            }
        }
        write::request(into, &words);
    }
}

/// What became of a command that moves keys.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// What there was of them is at the target now.
    Moved,
    /// None of them was there any more.
    Absent,
    /// The target has one of them already; others may have been moved.
    Busy,
    /// The target may have got them, or may get them yet.
    Unclear(String),
    /// It was not done, but may be another time.
    Failed(String),
    /// Nor another time, until somebody changes something.
    Hopeless(String),
}

pub fn outcome(reply: &[u8]) -> Outcome {
    let said = String::from_utf8_lossy(reply).trim_end().to_owned();
    let has = |word: &str| said.contains(word);
    match reply.first() {
        Some(b'+') if has("NOKEY") => Outcome::Absent,
        Some(b':') if integer(reply) == Some(0) => Outcome::Absent,
        Some(b'+' | b':') => Outcome::Moved,
        _ if has("BUSYKEY") => Outcome::Busy,
        _ if has("IOERR") || has("Can't connect") => Outcome::Unclear(said),
        _ if has("NOAUTH") || has("WRONGPASS") || has("NOPERM") || has("auth failed") || has("invalid password") => {
            Outcome::Hopeless(format!("the source may not write at the target: {said}"))
        }
        _ if has("payload version") => {
            Outcome::Hopeless(format!("the target cannot read what the source writes: it is older ({said})"))
        }
        _ if has("OOM") => Outcome::Hopeless(format!("the target is out of memory: raise its maxmemory ({said})")),
        _ if has("unknown command") => Outcome::Hopeless(format!("the source cannot move keys by itself: {said}")),
        _ => Outcome::Failed(said),
    }
}

/// The connections by which other servers bring keys, of a CLIENT LIST: they take no name, and say nothing else. One that has
/// just been made has said nothing yet.
pub fn carriers(list: &str) -> impl Iterator<Item = &str> {
    list.lines().filter_map(|line| {
        let field = |name: &str| line.split(' ').find_map(|f| f.strip_prefix(name)?.strip_prefix('='));
        let cmd = field("cmd")?.to_ascii_lowercase();
        let brings = matches!(cmd.as_str(), "select" | "auth" | "null") || cmd.starts_with("restore");
        let brings = brings || cmd.starts_with("slotsrestore");
        // A replica is no client; a primary's own link to its primary neither.
        let client = field("flags").is_none_or(|flags| !flags.contains(['S', 'M', 'O']));
        (brings && client && field("name").is_none_or(str::is_empty)).then(|| field("id")).flatten()
    })
}

/// Keys that go together, and their bytes altogether.
pub type Batch<'a> = (Vec<&'a [u8]>, u64);

/// Keys and their sizes, in as few batches as both bounds allow.
pub fn batches(keys: &[(Vec<u8>, u64)], keys_max: usize) -> Vec<Batch<'_>> {
    let mut all: Vec<Batch> = Vec::new();
    for (key, size) in keys {
        match all.last_mut() {
            Some((last, bytes)) if last.len() < keys_max && *bytes + size <= BATCH_BYTES => {
                last.push(key);
                *bytes += size;
            }
            _ => all.push((vec![key], *size)),
        }
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    fn way(tongue: Tongue, user: Option<&str>, password: Option<&str>) -> Way {
        Way {
            tongue,
            host: "10.0.0.2".to_owned(),
            port: "6379".to_owned(),
            timeout_ms: 3000,
            user: user.map(str::to_owned),
            password: password.map(str::to_owned),
        }
    }

    fn said(way: &Way, keys: &[&[u8]]) -> String {
        let mut bytes = Vec::new();
        way.request(&mut bytes, keys);
        let text = String::from_utf8_lossy(&bytes).into_owned();
        text.split("\r\n").filter(|l| !l.starts_with(['*', '$'])).collect::<Vec<_>>().join(" ").trim_end().to_owned()
    }

    #[test]
    fn the_source_is_told_in_its_tongue() {
        let keys: [&[u8]; 2] = [b"a", b"b"];
        for (tongue, user, password, wanted) in [
            (Tongue::Migrate, None, None, "MIGRATE 10.0.0.2 6379  0 3000 KEYS a b"),
            (Tongue::Migrate, None, Some("p"), "MIGRATE 10.0.0.2 6379  0 3000 AUTH p KEYS a b"),
            (Tongue::Migrate, Some("u"), Some("p"), "MIGRATE 10.0.0.2 6379  0 3000 AUTH2 u p KEYS a b"),
            (Tongue::One, None, Some("p"), "SLOTSMGRTONE 10.0.0.2 6379 3000 a"),
            (Tongue::TagOne, None, None, "SLOTSMGRTTAGONE 10.0.0.2 6379 3000 a"),
        ] {
            assert_eq!(said(&way(tongue, user, password), &keys), wanted);
        }
        let codis = |word: &str| word.starts_with("SLOTS") || word == "MIGRATE" || word == "RESTORE";
        let stock = |word: &str| word == "MIGRATE" || word == "RESTORE";
        assert_eq!(Tongue::of(codis, codis), Some(Tongue::One));
        assert_eq!(Tongue::of(|word| word != "SLOTSMGRTONE" && codis(word), codis), Some(Tongue::TagOne));
        assert_eq!(Tongue::of(codis, stock), Some(Tongue::Migrate), "the target must know it, too");
        assert_eq!(Tongue::of(stock, stock), Some(Tongue::Migrate));
        assert_eq!(Tongue::of(stock, |word| word != "RESTORE"), None);
    }

    #[test]
    fn answers_are_understood() {
        let of = |reply: &str| outcome(reply.as_bytes());
        for reply in ["+OK\r\n", ":1\r\n", ":3\r\n"] {
            assert_eq!(of(reply), Outcome::Moved, "{reply}");
        }
        for reply in ["+NOKEY\r\n", ":0\r\n"] {
            assert_eq!(of(reply), Outcome::Absent, "{reply}");
        }
        assert_eq!(
            of("-ERR Target instance replied with error: BUSYKEY Target key name already exists.\r\n"),
            Outcome::Busy
        );
        for reply in
            ["-IOERR error or timeout reading to target instance\r\n", "-ERR Can't connect to target node: x\r\n"]
        {
            assert!(matches!(of(reply), Outcome::Unclear(_)), "{reply}");
        }
        for reply in [
            "-ERR Target instance replied with error: NOAUTH Authentication required.\r\n",
            "-ERR Target instance replied with error: OOM command not allowed when used memory > 'maxmemory'.\r\n",
            "-ERR Target instance replied with error: ERR DUMP payload version or checksum are wrong\r\n",
            "-ERR error on slotsrestore, auth failed\r\n",
            "-ERR unknown command 'MIGRATE'\r\n",
        ] {
            assert!(matches!(of(reply), Outcome::Hopeless(_)), "{reply}");
        }
        for reply in ["-ERR Target instance replied with error: READONLY x\r\n", "-LOADING x\r\n", "$3\r\nabc\r\n"] {
            assert!(matches!(of(reply), Outcome::Failed(_)), "{reply}");
        }
    }

    #[test]
    fn who_brings_keys_is_known_by_what_it_said_last() {
        let list = "id=1 addr=a:1 name= flags=N db=0 cmd=restore user=default\n\
                    id=2 addr=a:2 name=px:1 flags=N db=0 cmd=select\n\
                    id=3 addr=a:3 name= flags=N db=0 cmd=get\n\
                    id=4 addr=a:4 name= flags=N db=0 cmd=NULL\n\
                    id=5 addr=a:5 name= flags=S db=0 cmd=replconf\n\
                    id=6 addr=a:6 name= flags=N cmd=slotsrestore-async\n\
                    id=7 addr=a:7 name= flags=N cmd=auth\n\
                    id=8 addr=a:8 name= flags=S cmd=NULL\n";
        assert_eq!(carriers(list).collect::<Vec<_>>(), ["1", "4", "6", "7"]);
    }

    #[test]
    fn batches_keep_both_bounds() {
        let keys: Vec<(Vec<u8>, u64)> = (0..40).map(|n: u8| (vec![n], 1)).collect();
        let lengths = |all: Vec<Batch>| all.iter().map(|(keys, _)| keys.len()).collect::<Vec<_>>();
        assert_eq!(lengths(batches(&keys, BATCH_KEYS)), [16, 16, 8]);
        assert_eq!(batches(&keys, 1).len(), 40);
        let large = [(vec![1], 200 << 10), (vec![2], 100 << 10), (vec![3], 1 << 30), (vec![4], 1)];
        assert_eq!(lengths(batches(&large, BATCH_KEYS)), [1, 1, 1, 1]);
        assert_eq!(batches(&large, BATCH_KEYS)[2].1, 1 << 30);
        assert!(batches(&[], BATCH_KEYS).is_empty());
    }
}
