//! Users: who a client may be, and what each may do. Made from the settings and the topology; a client names its user by an
//! index that holds until one of them names others.

use super::command::{self, Command, CommandId, Flags, Keys, for_each_key, matches_exactly, sort_patterns};
use super::limits::Settings;
use cluster::resp::request::Args;
use cluster::user::{DEFAULT, User};
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;

/// The user of a client that has not said who it is, where that is asked.
pub(super) const NOBODY: u16 = u16::MAX;

/// Why a request is not for its user. Displays as Redis would say it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Denied {
    Command,
    Key,
    Channel,
    /// SORT with patterns, by someone who may not read every key.
    SortPattern,
}

impl Denied {
    pub(super) fn text(self, user: &str, command: &str) -> String {
        match self {
            Self::Command => format!("NOPERM User {user} has no permissions to run the '{command}' command"),
            Self::Key => "NOPERM No permissions to access a key".to_owned(),
            Self::Channel => "NOPERM No permissions to access a channel".to_owned(),
            Self::SortPattern => {
                "NOPERM BY and GET options of SORT are denied due to insufficient ACL permissions".to_owned()
            }
        }
    }
}

/// What one user may do.
#[derive(Debug)]
pub(super) struct Rights {
    pub(super) name: Box<str>,
    /// SHA-256; none: any password will do.
    passwords: Vec<[u8; 32]>,
    /// By command id.
    commands: Vec<bool>,
    /// Whether commands that the operator declared are among them.
    declared: bool,
    categories: Vec<String>,
    keys: Vec<Vec<u8>>,
    channels: Vec<Vec<u8>>,
    read_only: bool,
    /// May use MONITOR and TWEMSLOT ON.
    pub(super) operator: bool,
    /// Something is forbidden: each request is looked at.
    pub(super) restricted: bool,
}

impl Rights {
    /// The user that may do everything.
    fn default_user(settings: &Settings) -> Self {
        Self {
            name: DEFAULT.into(),
            passwords: settings.client_password.iter().map(|p| Sha256::digest(p.as_bytes()).into()).collect(),
            commands: Vec::new(),
            declared: true,
            categories: vec!["all".into()],
            keys: vec![b"*".to_vec()],
            channels: vec![b"*".to_vec()],
            read_only: false,
            operator: settings.operator_commands,
            restricted: false,
        }
    }

    fn of(user: &User) -> Self {
        let every_key = user.keys.iter().any(|k| k == "*");
        let every_channel = user.channels.iter().any(|c| c == "*");
        let scripts = |id| command::category("scripting").is_some_and(|bit| command::categories_of(id) >> bit & 1 == 1);
        let granted = |id| in_categories(&user.categories, command::categories_of(id));
        let ids = 0..command::count() as CommandId;
        let declared = in_categories(&user.categories, 0);
        // What a script does cannot be seen from here, and the instance takes it for ours. Who may not do everything
        // needs the operator's word that scripts are no way round it; bounds of keys and writes leave no such word.
        let withheld = !declared || ids.clone().any(|id| !scripts(id) && !granted(id));
        let named = user.categories.iter().any(|word| word == "scripting");
        let allowed = |id: CommandId| {
            let command = command::get(id);
            let reads = command.name.ends_with("_ro"); // which neither writes nor publishes
            let trusted = named || (!withheld && (every_channel || reads));
            let blind = scripts(id) && !(every_key && trusted && (reads || !user.read_only));
            let writes = user.read_only && command.flags.contains(Flags::WRITE);
            granted(id) && !writes && !blind
        };
        let commands: Vec<bool> = ids.map(allowed).collect();
        let everything = commands.iter().all(|&may| may) && declared && !user.read_only;
        let bytes = |texts: &[String]| texts.iter().map(|t| t.as_bytes().to_vec()).collect();
        Self {
            name: user.name.as_str().into(),
            passwords: user.password_sha256.iter().filter_map(|hash| digest(hash)).collect(),
            restricted: !everything || !every_key || !every_channel,
            commands,
            declared,
            categories: user.categories.clone(),
            keys: bytes(&user.keys),
            channels: bytes(&user.channels),
            read_only: user.read_only,
            operator: user.admin,
        }
    }

    fn open(&self) -> bool {
        self.passwords.is_empty()
    }

    /// Whether this is the password; in a time that tells nothing about where it differs.
    fn knows(&self, password: &[u8]) -> bool {
        let given: [u8; 32] = Sha256::digest(password).into();
        let known = self.passwords.iter().fold(0u8, |found, hash| found | hash.ct_eq(&given).unwrap_u8());
        self.open() || known == 1
    }

    fn may_key(&self, key: &[u8]) -> bool {
        self.keys.iter().any(|pattern| matches_exactly(pattern, key))
    }

    /// A pattern to subscribe to must be one of the user's own, letter by letter.
    fn may_channel(&self, channel: &[u8], is_pattern: bool) -> bool {
        self.channels.iter().any(|own| match is_pattern {
            true => own == b"*" || own == channel,
            false => matches_exactly(own, channel),
        })
    }

    /// Whether these say the same of what may be asked. Who it is, and how it proves that, is another matter.
    pub(super) fn same(&self, other: &Self) -> bool {
        let asked = |r: &Self| (r.restricted, r.read_only, r.declared);
        let lists = self.commands == other.commands && self.keys == other.keys && self.channels == other.channels;
        lists && asked(self) == asked(other)
    }

    fn may_run(&self, name: &[u8]) -> bool {
        let id = command::lookup(name).map(usize::from);
        id.and_then(|id| self.commands.get(id)).copied().unwrap_or(true)
    }

    /// Whether it may listen to this channel or pattern, which it subscribed to by this command.
    pub(super) fn may_listen(&self, command: &[u8], name: &[u8]) -> bool {
        self.may_run(command) && self.may_channel(name, command.eq_ignore_ascii_case(b"psubscribe"))
    }

    pub(super) fn may_monitor(&self) -> bool {
        self.operator && self.may_run(b"MONITOR")
    }

    /// Whether a request of `argc` arguments may be asked. `raw` may be the start of a request; then its keys are
    /// looked at as far as they are there.
    pub(super) fn check(&self, id: CommandId, command: &Command, argc: u32, raw: &[u8]) -> Result<(), Denied> {
        if !self.restricted || command.flags.contains(Flags::NO_AUTH) {
            return Ok(());
        }
        if !self.commands.get(usize::from(id)).copied().unwrap_or(true) {
            return Err(Denied::Command);
        }
        if let Some(checked) = self.check_channels(command, raw) {
            return checked;
        }
        let mut may = true;
        // An error is told when the request is whole and understood.
        _ = for_each_key(command, argc, raw, |key| may &= self.may_key(key));
        if !may {
            return Err(Denied::Key);
        }
        if command.keys == Keys::Sort && !self.keys.iter().any(|own| own == b"*") {
            let mut patterns = false;
            sort_patterns(raw, |_| patterns = true);
            if patterns {
                return Err(Denied::SortPattern);
            }
        }
        Ok(())
    }

    /// None: it is about no channels.
    fn check_channels(&self, command: &Command, raw: &[u8]) -> Option<Result<(), Denied>> {
        let count = match command.name {
            "subscribe" | "ssubscribe" | "psubscribe" => usize::MAX,
            "publish" | "spublish" => 1,
            _ => return None,
        };
        let is_pattern = command.name == "psubscribe";
        let all = Args::new(raw).skip(1).take(count).all(|channel| self.may_channel(channel, is_pattern));
        Some(if all { Ok(()) } else { Err(Denied::Channel) })
    }

    /// The same for a command that the operator has declared, and its keys.
    pub(super) fn check_declared<'a>(
        &self,
        write: bool,
        mut keys: impl Iterator<Item = &'a [u8]>,
    ) -> Result<(), Denied> {
        if self.restricted && (!self.declared || (write && self.read_only)) {
            return Err(Denied::Command);
        }
        if self.restricted && !keys.all(|key| self.may_key(key)) {
            return Err(Denied::Key);
        }
        Ok(())
    }

    /// As a line of ACL LIST; what a password hashes to is nobody's business.
    pub(super) fn line(&self) -> String {
        let mut line = format!("user {} on", self.name);
        line.push_str(if self.open() { " nopass" } else { " #(hidden)" });
        let mut all = |mark: &str, patterns: &[Vec<u8>]| {
            for pattern in patterns {
                line.push_str(&format!(" {mark}{}", String::from_utf8_lossy(pattern)));
            }
        };
        all(if self.read_only { "%R~" } else { "~" }, &self.keys);
        all("&", &self.channels);
        line.push_str(if self.categories.first().is_some_and(|c| c == "all") { "" } else { " -@all" });
        for category in &self.categories {
            let (sign, name) = category.strip_prefix('-').map_or(("+", category.as_str()), |name| ("-", name));
            line.push_str(&format!(" {sign}@{name}"));
        }
        line
    }
}

/// Whether a command of these categories is allowed: the last word that speaks of it counts. `all` is every command.
fn in_categories(words: &[String], bits: u32) -> bool {
    let speaks = |name: &str| name == "all" || command::category(name).is_some_and(|bit| bits >> bit & 1 == 1);
    let last = words.iter().rev().find(|word| speaks(word.trim_start_matches('-')));
    last.is_some_and(|word| !word.starts_with('-'))
}

/// The bytes of 64 hex digits.
fn digest(hex: &str) -> Option<[u8; 32]> {
    let mut bytes = [0; 32];
    for (byte, pair) in bytes.iter_mut().zip(hex.as_bytes().chunks(2)) {
        *byte = u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok()?;
    }
    Some(bytes)
}

/// All users.
#[derive(Debug, Default)]
pub(super) struct Users {
    all: Vec<Rights>,
}

impl Users {
    /// Those of the settings, and those of the topology whose names are not taken by them.
    pub(super) fn of(settings: &Settings, topology: &[User]) -> Self {
        let password = settings.client_password.is_some();
        let taken = |name: &str| settings.users.iter().any(|user| user.name == name) || (password && name == DEFAULT);
        let shared = topology.iter().filter(|user| !taken(&user.name));
        let all: Vec<&User> = settings.users.iter().chain(shared).collect();
        let named = all.iter().any(|user| user.name == DEFAULT);
        let everyone = !named && (all.is_empty() || password);
        let first = everyone.then(|| Rights::default_user(settings));
        Self { all: first.into_iter().chain(all.into_iter().map(Rights::of)).collect() }
    }

    pub(super) fn get(&self, user: u16) -> Option<&Rights> {
        self.all.get(usize::from(user))
    }

    /// For people and their tools.
    pub(super) fn name(&self, user: u16) -> &str {
        self.get(user).map_or("(nobody)", |rights| &rights.name)
    }

    pub(super) fn iter(&self) -> impl ExactSizeIterator<Item = &Rights> {
        self.all.iter()
    }

    pub(super) fn named(&self, name: &[u8]) -> Option<u16> {
        self.all.iter().position(|rights| rights.name.as_bytes() == name).map(|at| at as u16)
    }

    /// The user of a client that has said nothing; NOBODY where it must say something.
    pub(super) fn unasked(&self) -> u16 {
        self.named(DEFAULT.as_bytes()).filter(|&user| self.all[usize::from(user)].open()).unwrap_or(NOBODY)
    }

    /// Who says this password, if it is theirs. An unknown name takes as long as a wrong password.
    pub(super) fn authenticate(&self, name: Option<&[u8]>, password: &[u8]) -> Option<u16> {
        let user = self.named(name.unwrap_or(DEFAULT.as_bytes()));
        let knows = match user.and_then(|user| self.get(user)) {
            Some(rights) => rights.knows(password),
            None => Sha256::digest(password).is_empty(),
        };
        user.filter(|_| knows)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use cluster::resp::write;

    /// Of "secret".
    const HASH: &str = "2bb80d537b1da3e38bd30361aa855686bde0eacd7162fef6a25fe97bf527a25b";

    fn user(categories: &[&str], keys: &[&str], read_only: bool) -> User {
        User {
            name: "app".into(),
            password_sha256: vec![HASH.into()],
            categories: categories.iter().map(|c| (*c).into()).collect(),
            keys: keys.iter().map(|c| (*c).into()).collect(),
            channels: vec!["news:*".into()],
            read_only,
            admin: false,
        }
    }

    fn asks(user: &User, text: &str) -> Result<(), Denied> {
        let args: Vec<&[u8]> = text.split(' ').map(str::as_bytes).collect();
        let mut raw = Vec::new();
        write::request(&mut raw, &args);
        let mut id = command::lookup(args[0]).expect("a command");
        if command::get(id).container {
            id = command::lookup_sub(id, args[1]).expect("a subcommand");
        }
        Rights::of(user).check(id, command::get(id), args.len() as u32, &raw)
    }

    #[test]
    fn commands_keys_and_channels() {
        let app = user(&["all", "-admin", "-keyspace"], &["app:*", "shared"], false);
        for (request, answer) in [
            ("GET app:1", Ok(())),
            ("GET App:1", Err(Denied::Key)),
            ("MSET app:1 x shared y", Ok(())),
            ("MSET app:1 x other y", Err(Denied::Key)),
            ("SORT app:1", Ok(())),
            ("SORT app:1 BY other:*", Err(Denied::SortPattern)),
            ("KEYS *", Err(Denied::Command)),
            ("EVAL x 0", Err(Denied::Command)),
            ("CLIENT SETNAME x", Ok(())),
            ("CLIENT LIST", Err(Denied::Command)),
            ("PUBLISH news:1 x", Ok(())),
            ("PUBLISH olds:1 x", Err(Denied::Channel)),
            ("SUBSCRIBE news:1 news:2", Ok(())),
            ("SUBSCRIBE news:1 olds:2", Err(Denied::Channel)),
            ("SPUBLISH news:1 x", Ok(())),
            ("SSUBSCRIBE olds:1", Err(Denied::Channel)),
            ("PSUBSCRIBE news:*", Ok(())),
            ("PSUBSCRIBE news:[1-2]", Err(Denied::Channel)),
            ("AUTH x", Ok(())),
        ] {
            assert_eq!(asks(&app, request), answer, "{request}");
        }
    }

    #[test]
    fn who_may_only_read_writes_nothing() {
        let reader = user(&["all"], &["*"], true);
        for (request, answer) in [
            ("GET a", Ok(())),
            ("SET a 1", Err(Denied::Command)),
            ("SORT a", Err(Denied::Command)),
            ("SORT_RO a BY b*", Ok(())),
            ("EVAL x 0", Err(Denied::Command)),
            ("EVAL_RO x 0", Ok(())),
            ("FLUSHALL", Err(Denied::Command)),
        ] {
            assert_eq!(asks(&reader, request), answer, "{request}");
        }
    }

    #[test]
    fn a_script_is_no_way_round_what_is_withheld() {
        let everything = User { channels: vec!["*".into()], ..user(&["all"], &["*"], false) };
        let safe = User { categories: vec!["all".into(), "-dangerous".into()], ..everything.clone() };
        let named = user(&["all", "-dangerous", "scripting"], &["*"], false);
        let bounded = user(&["all", "scripting"], &["app:*"], false);
        for (user, request, answer) in [
            (&everything, "EVAL x 0", Ok(())),
            (&safe, "FLUSHALL", Err(Denied::Command)),
            (&safe, "EVAL x 0", Err(Denied::Command)),
            (&safe, "EVALSHA_RO x 0", Err(Denied::Command)),
            (&safe, "FCALL x 0", Err(Denied::Command)),
            (&named, "FLUSHALL", Err(Denied::Command)),
            (&named, "EVAL x 0", Ok(())),
            (&bounded, "EVAL x 0", Err(Denied::Command)),
        ] {
            assert_eq!(asks(user, request), answer, "{request} {:?}", user.categories);
        }
        // Who may publish nothing could do it in a script; not in one that only reads.
        let silent = user(&["all"], &["*"], false);
        assert_eq!((asks(&silent, "EVAL x 0"), asks(&silent, "EVAL_RO x 0")), (Err(Denied::Command), Ok(())));
    }

    #[test]
    fn passwords_are_compared_by_their_hash() {
        let settings = Settings { users: vec![user(&["read"], &["*"], false)], ..Settings::default() };
        let users = Users::of(&settings, &[]);
        assert_eq!(users.authenticate(Some(b"app"), b"secret"), Some(0));
        assert_eq!(users.authenticate(Some(b"app"), b"Secret"), None);
        assert_eq!(users.authenticate(Some(b"default"), b"secret"), None);
        assert_eq!((users.unasked(), users.named(b"default")), (NOBODY, None));
        let both = Settings { client_password: Some("open".into()), ..settings };
        let users = Users::of(&both, &[]);
        assert_eq!((users.authenticate(None, b"open"), users.authenticate(None, b"x")), (Some(0), None));
        assert_eq!(Users::of(&Settings::default(), &[]).unasked(), 0);
    }

    #[test]
    fn the_settings_go_before_the_topology() {
        let one = |name: &str, admin: bool| User { name: name.into(), admin, ..user(&["all"], &["*"], false) };
        let topology = [one("app", false), one("shared", false), one("default", false)];
        let names = |users: &Users| users.iter().map(|u| u.name.to_string()).collect::<Vec<_>>();
        let own = Settings { users: vec![one("app", true)], ..Settings::default() };
        let users = Users::of(&own, &topology);
        assert_eq!(names(&users), ["app", "shared", "default"]);
        assert!(users.get(0).is_some_and(|app| app.operator), "the settings' own");
        assert_eq!(names(&Users::of(&Settings::default(), &topology)), ["app", "shared", "default"]);
        // Somebody is named, so who says nothing is nobody.
        assert_eq!(Users::of(&Settings::default(), &topology[..1]).unasked(), NOBODY);
        let password = Settings { client_password: Some("open".into()), ..Settings::default() };
        let users = Users::of(&password, &topology);
        assert_eq!(
            (names(&users), users.authenticate(None, b"open")),
            (vec!["default".into(), "app".into(), "shared".into()], Some(0))
        );
    }

    #[test]
    fn categories_are_those_of_the_table() {
        assert_eq!(command::categories(), cluster::user::CATEGORIES);
    }

    #[test]
    fn a_user_who_may_all_is_not_looked_at() {
        let all = User { channels: vec!["*".into()], ..user(&["all"], &["*"], false) };
        assert!(!Rights::of(&all).restricted);
        assert!(Rights::of(&user(&["all"], &["*"], false)).restricted, "channels");
    }
}
