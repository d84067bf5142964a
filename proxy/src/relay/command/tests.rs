//! The table against names, real servers' answers, Redis's own errors, and the generator.
#![expect(clippy::disallowed_methods, reason = "a test of the real thing")]

use super::*;
use cluster::resp::reply::{Cursor, Step};
use cluster::resp::write;
use proptest::prelude::*;
use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command as Process;

fn request(args: &[&[u8]]) -> Vec<u8> {
    let mut raw = Vec::new();
    write::request(&mut raw, args);
    raw
}

fn words(text: &str) -> Vec<&[u8]> {
    text.split_ascii_whitespace().map(str::as_bytes).collect()
}

/// The command that a request names, subcommand and all.
fn find(args: &[&[u8]]) -> &'static Command {
    let id = lookup(args[0]).unwrap_or_else(|| panic!("no command {:?}", args[0].escape_ascii().to_string()));
    get(if get(id).container && args.len() > 1 { lookup_sub(id, args[1]).expect("a subcommand") } else { id })
}

/// The keys of a request as words, or the error.
fn keys(text: &str) -> String {
    let args = words(text);
    let raw = request(&args);
    let mut keys = Vec::new();
    match for_each_key(find(&args), args.len() as u32, &raw, |key| keys.push(String::from_utf8_lossy(key))) {
        Ok(()) => keys.join(" "),
        Err(fault) => fault.to_string(),
    }
}

fn tops() -> BTreeMap<&'static str, CommandId> {
    (0..count() as CommandId).map(|id| (get(id).name, id)).filter(|(name, _)| !name.contains('|')).collect()
}

#[test]
fn every_row_can_be_served_as_it_says() {
    assert!(count() <= crate::stats::COMMANDS_MAX);
    for id in 0..count() as CommandId {
        let command = get(id);
        let name = command.name;
        assert_eq!(name, name.to_ascii_lowercase());
        match command.serve {
            Serve::Keyed => assert_ne!(command.keys, Keys::None, "{name}"),
            Serve::Split(split) => {
                let step = if split == Split::Mset { 2 } else { 1 };
                assert_eq!(command.keys, Keys::Range { first: 1, last: -1, step }, "{name}");
            }
            Serve::Denied(why) => assert!(!why.is_empty() && !why.ends_with('.'), "{name}"),
            Serve::Blocking => assert_ne!(command.keys, Keys::None, "{name}"),
            Serve::Session(Session::Watch) => assert_ne!(command.keys, Keys::None, "{name}"),
            Serve::Fan(_) | Serve::Local(_) | Serve::Session(_) | Serve::Publish => {
                assert_eq!(command.keys, Keys::None, "{name}");
            }
        }
        let writes_unasked = command.flags.contains(Flags::ADMIN) && command.serve == Serve::Keyed;
        assert!(!writes_unasked, "{name} administrates");
        if let Keys::One { at } = command.keys {
            assert!(command.arity.unsigned_abs() > u16::from(at), "{name} may come without its key");
        }
        if let Some((container, sub)) = name.split_once('|') {
            let parent = lookup(container.as_bytes()).expect(name);
            assert!(get(parent).container);
            assert_eq!(lookup_sub(parent, sub.to_ascii_uppercase().as_bytes()), Some(id));
        }
    }
}

/// What must not change by accident when the metadata does.
#[test]
fn what_is_done_with_some() {
    for (name, serve) in [
        ("get", Serve::Keyed),
        ("object|encoding", Serve::Keyed),
        ("memory|usage", Serve::Keyed),
        ("xreadgroup", Serve::Keyed),
        ("msetnx", Serve::Keyed),
        ("hexpire", Serve::Keyed),
        ("vadd", Serve::Keyed),
        ("mget", Serve::Split(Split::Mget)),
        ("mset", Serve::Split(Split::Mset)),
        ("unlink", Serve::Split(Split::Count)),
        ("function|flush", Serve::Fan(Fan::Each)),
        ("scan", Serve::Fan(Fan::Scan)),
        ("dbsize", Serve::Fan(Fan::Size)),
        ("config|get", Serve::Fan(Fan::ConfigGet)),
        ("client|setname", Serve::Local(Local::ClientSetname)),
        ("command", Serve::Local(Local::Command)),
        ("xinfo|help", Serve::Local(Local::Help)),
        ("multi", Serve::Session(Session::Multi)),
        ("blpop", Serve::Blocking),
        ("spublish", Serve::Publish),
        ("evalsha_ro", Serve::Keyed),
        ("fcall", Serve::Keyed),
        ("script|kill", Serve::Fan(Fan::Kill)),
        ("cluster|slots", Serve::Local(Local::ClusterSlots)),
        ("twemslot|key", Serve::Local(Local::TwemslotKey)),
        ("shutdown", Serve::Denied("a client cannot stop the cluster")),
    ] {
        let id = lookup_full(name.as_bytes()).expect(name);
        assert_eq!(get(id).serve, serve, "{name}");
    }
    for name in
        ["debug", "replicaof", "slaveof", "psync", "save", "config|set", "migrate", "acl|setuser", "module|load"]
    {
        let id = lookup_full(name.as_bytes()).expect(name);
        assert!(matches!(get(id).serve, Serve::Denied(_)) && !served(id), "{name}");
    }
    assert!(get(lookup(b"set").expect("set")).flags.contains(Flags::WRITE | Flags::DENYOOM));
    assert!(get(lookup(b"hello").expect("hello")).flags.contains(Flags::NO_AUTH));
}

#[test]
fn common_names_are_in_their_first_bucket() {
    let first = |name: &str| BUCKETS[bucket_of(fold(super::words(name.as_bytes())), name.len())].id;
    for name in ["get", "set", "mget", "incr", "hget", "hset", "lpush", "rpop", "zadd", "expire", "del", "exists"] {
        assert_eq!(Some(first(name)), lookup(name.as_bytes()), "{name} is behind a collision: change the multiplier");
    }
    let displaced = tops().iter().filter(|(name, id)| is_plain(name.as_bytes()) && first(name) != **id).count();
    assert!(displaced * 6 < tops().len(), "{displaced} names are displaced");
}

#[test]
fn subcommands_are_no_names() {
    assert_eq!(lookup(b"client|id"), None);
    assert_eq!(lookup(b""), None);
    assert_eq!(lookup_full(b"get|key"), None);
    assert_eq!(lookup_sub(lookup(b"client").expect("client"), b""), None);
    assert_eq!(lookup(b"json.get"), None, "a module's command: operators declare it");
}

proptest! {
    #[test]
    fn lookup_agrees_with_a_map(pick in any::<prop::sample::Index>(), cases in any::<u64>(), at in 0usize..24, byte in any::<u8>()) {
        let tops = tops();
        let names: Vec<&str> = tops.keys().copied().collect();
        let mut name = pick.get(&names).as_bytes().to_vec();
        for (i, letter) in name.iter_mut().enumerate() {
            if cases >> i & 1 == 1 {
                letter.make_ascii_uppercase();
            }
        }
        let told = |name: &[u8]| std::str::from_utf8(&name.to_ascii_lowercase()).ok().and_then(|name| tops.get(name).copied());
        prop_assert_eq!(lookup(&name), told(&name));
        prop_assert!(lookup(&name).is_some());
        // One byte of it changed, or one more: another name, or none.
        match name.get_mut(at) {
            Some(letter) => *letter = byte,
            None => name.push(byte),
        }
        prop_assert_eq!(lookup(&name), told(&name));
    }

    #[test]
    fn lookup_takes_any_bytes(name in prop::collection::vec(any::<u8>(), 0..40)) {
        let told = std::str::from_utf8(&name.to_ascii_lowercase()).ok().and_then(|name| tops().get(name).copied());
        prop_assert_eq!(lookup(&name), told);
    }

    /// Any command with any arguments: no panic, and keys are arguments.
    #[test]
    fn keys_of_any_request(pick in any::<prop::sample::Index>(), tail in prop::collection::vec(argument(), 0..12)) {
        let command = get(pick.index(count()) as CommandId);
        let mut args = words(command.name);
        args.extend(tail.iter().map(Vec::as_slice));
        let raw = request(&args);
        let mut given = 0;
        let told = for_each_key(command, args.len() as u32, &raw, |key| {
            given += 1;
            assert!(args.contains(&key));
        });
        prop_assert!(given < args.len().max(2));
        if let Err(fault) = told {
            prop_assert!(fault.to_string().starts_with("ERR "));
        }
        sort_patterns(&raw, |pattern| { fixed_prefix(pattern); });
        asks_to_block(command, &raw);
        asks_other_database(command, &raw);
        for kind in [Local::CommandList, Local::CommandInfo, Local::CommandDocs, Local::CommandGetkeys, Local::CommandGetkeysAndFlags, Local::Help] {
            let mut nested = vec![&b"command"[..], b"x"];
            nested.extend(&args);
            reply(kind, &request(&nested), true);
        }
    }

    #[test]
    fn globs_take_any_bytes(pattern in "[a-c*?\\[\\]^\\\\-]{0,12}", text in "[a-cA-C-]{0,8}") {
        matches(pattern.as_bytes(), text.as_bytes());
        let literal: Vec<u8> = text.bytes().flat_map(|b| [b'\\', b]).collect();
        prop_assert!(matches(&literal, text.to_ascii_uppercase().as_bytes()));
    }
}

fn argument() -> impl Strategy<Value = Vec<u8>> {
    let said =
        ["0", "1", "2", "3", "-1", "9223372036854775807", "STREAMS", "block", "GROUP", "COUNT", "store", "STOREDIST"];
    let more = ["by", "get", "limit", "a*", "{t}a_*", "DB", "k", "filterby", "pattern", "get|x", ""];
    let known: Vec<&str> = said.into_iter().chain(more).collect();
    prop_oneof![
        prop::sample::select(known).prop_map(|word| word.as_bytes().to_vec()),
        prop::collection::vec(any::<u8>(), 0..6),
    ]
}

/// What real servers said to COMMAND GETKEYS.
#[test]
fn keys_as_servers_find_them() {
    let mut requests = 0;
    for line in include_str!("testdata/getkeys.txt").lines().filter(|line| !line.starts_with('#')) {
        let (request, expected) = line.split_once(" =>").expect(line);
        assert_eq!(keys(request), expected.trim(), "{request}");
        requests += 1;
    }
    assert!(requests > 500);
}

#[test]
fn keys_as_commands_read_them() {
    for (request, expected) in [
        ("GET a", "a"),
        ("set a b", "a"),
        ("PING", ""),
        ("OBJECT ENCODING a", "a"),
        ("object help", ""),
        ("XGROUP CREATE a g $", "a"),
        ("MEMORY USAGE a SAMPLES 5", "a"),
        ("MGET a b c", "a b c"),
        ("MSET a 1 b 2", "a b"),
        ("MSETNX a 1 b 2", "a b"),
        ("MSETNX a 1 b", "ERR wrong number of arguments for 'msetnx' command"),
        ("MSETEX 2 a 1 b 2 EX 10", "a b"),
        ("MSETEX x a 1", "ERR invalid numkeys value or out of range"),
        ("MSETEX 2 a 1 b", "ERR syntax error"),
        ("BITOP AND d a b", "d a b"),
        ("RENAME a b", "a b"),
        ("COPY a b DB 0", "a b"),
        ("LMOVE a b LEFT RIGHT", "a b"),
        ("SMOVE a b m", "a b"),
        ("LCS a b LEN", "a b"),
        ("SINTERSTORE d a b", "d a b"),
        ("ZRANGESTORE d a 0 1", "d a"),
        ("PFCOUNT a b", "a b"),
        ("ZUNIONSTORE d 2 a b WEIGHTS 1 2", "d a b"),
        ("ZUNIONSTORE d 0 a", "ERR at least 1 input key is needed for 'zunionstore' command"),
        ("ZUNIONSTORE d x a", "ERR value is not an integer or out of range"),
        ("ZUNIONSTORE d 01 a", "ERR value is not an integer or out of range"),
        ("ZUNIONSTORE d +1 a", "ERR value is not an integer or out of range"),
        ("ZUNIONSTORE d 3 a b", "ERR syntax error"),
        ("ZDIFF 4611686018427387904 a", "ERR syntax error"),
        ("ZDIFF 99999999999999999999 a", "ERR value is not an integer or out of range"),
        ("ZINTER 1 a WITHSCORES", "a"),
        ("ZINTERCARD 0 a", "ERR at least 1 input key is needed for 'zintercard' command"),
        ("SINTERCARD 2 a b LIMIT 1", "a b"),
        ("SINTERCARD x a", "ERR numkeys should be greater than 0"),
        ("SINTERCARD 0 a", "ERR numkeys should be greater than 0"),
        ("SINTERCARD 2 a", "ERR Number of keys can't be greater than number of args"),
        ("LMPOP 1 a LEFT", "a"),
        ("LMPOP 2 a b RIGHT COUNT 3", "a b"),
        ("LMPOP -1 a LEFT", "ERR numkeys should be greater than 0"),
        ("LMPOP 2 a LEFT", "ERR syntax error"),
        ("ZMPOP x a MIN", "ERR numkeys should be greater than 0"),
        ("EVAL s 0 x", ""),
        ("EVAL s 2 a b c", "a b"),
        ("EVAL s x a", "ERR value is not an integer or out of range"),
        ("FCALL f x a", "ERR Bad number of keys provided"),
        ("EVAL s -1 a", "ERR Number of keys can't be negative"),
        ("EVAL s 3 a b", "ERR Number of keys can't be greater than number of args"),
        ("XREAD COUNT 2 STREAMS a b 0 0", "a b"),
        ("xread streams a 0", "a"),
        (
            "XREAD COUNT 1 STREAMS a 0 b",
            "ERR Unbalanced 'xread' list of streams: for each stream key an ID or '$' must be specified.",
        ),
        ("XREAD COUNT 1 2", "ERR syntax error"),
        ("XREAD COUNT 1 STREAMS", "ERR syntax error"),
        ("XREADGROUP GROUP g c COUNT 1 BLOCK 0 NOACK STREAMS a >", "a"),
        ("XREADGROUP GROUP streams streams STREAMS a b > >", "a b"),
        ("XREADGROUP COUNT 1 GROUP STREAMS c STREAMS a >", "a"),
        (
            "XREADGROUP GROUP g c STREAMS a > b",
            "ERR Unbalanced 'xreadgroup' list of streams: for each stream key an ID or '>' must be specified.",
        ),
        ("SORT a", "a"),
        ("SORT a BY store GET store LIMIT 0 1 STORE d", "a d"),
        ("SORT a STORE d STORE e", "a e"),
        ("SORT a LIMIT STORE 1 ALPHA", "a"),
        ("SORT_RO a BY w_* GET x_*", "a"),
        ("GEORADIUS a 0 0 1 m STORE d", "a d"),
        ("GEORADIUS a 0 0 1 m STORE d storedist e", "a e"),
        ("GEORADIUSBYMEMBER a m 1 km STOREDIST d", "a d"),
        ("GEORADIUS_RO a 0 0 1 m", "a"),
        ("GEOSEARCHSTORE d a FROMMEMBER m BYRADIUS 1 m", "d a"),
        ("VSIM a ELE e", "a"),
        ("RESTORE a 0 x REPLACE", "a"),
        ("GET", "ERR wrong number of arguments for 'get' command"),
        ("MGET", "ERR wrong number of arguments for 'mget' command"),
    ] {
        assert_eq!(keys(request), expected, "{request}");
    }
}

#[test]
fn sort_patterns_that_reach_other_keys() {
    let patterns = |text: &str| {
        let raw = request(&words(text));
        let mut found = Vec::new();
        sort_patterns(&raw, |pattern| found.push(String::from_utf8_lossy(pattern).into_owned()));
        found.join(" ")
    };
    assert_eq!(patterns("SORT a BY w_* GET # get x_*->f GET plain STORE s*"), "w_* x_*->f");
    assert_eq!(patterns("SORT a BY nosort LIMIT get b* DESC"), "");
    assert_eq!(patterns("SORT_RO a limit 0 1 GET g*"), "g*");
    assert_eq!(find(&[b"SORT_RO", b"a"]).keys, Keys::Sort, "whoever looks for patterns looks at Keys::Sort");
    for (pattern, prefix) in [
        (&b"{t}w_*"[..], Some(&b"{t}w_"[..])),
        (b"w{t}*{u}", Some(b"w{t}")),
        (b"w_*{t}", None),
        (b"{*}", None),
        (b"{}*", None),
        (b"w_*", None),
        (b"{t}", None),
    ] {
        assert_eq!(fixed_prefix(pattern), prefix, "{}", pattern.escape_ascii());
    }
}

#[test]
fn what_a_request_asks_beyond_its_keys() {
    let blocks = |text: &str| asks_to_block(find(&words(text)), &request(&words(text)));
    assert!(blocks("XREAD COUNT 1 block 0 STREAMS a $"));
    assert!(blocks("XREADGROUP GROUP g c BLOCK 5 STREAMS a >"));
    assert!(!blocks("XREADGROUP GROUP block block STREAMS a >"));
    assert!(!blocks("XREAD STREAMS block 0"));
    assert!(!blocks("SET block block"));
    let elsewhere = |text: &str| asks_other_database(find(&words(text)), &request(&words(text)));
    assert!(elsewhere("COPY a b REPLACE db 1"));
    assert!(!elsewhere("COPY a b DB 0 REPLACE"));
    assert!(!elsewhere("COPY db db"));
    assert!(!elsewhere("SET a b db 1"));
}

/// A reply, which must be whole RESP and nothing more.
fn reply(kind: Local, raw: &[u8], resp3: bool) -> Vec<u8> {
    let mut out = Vec::new();
    introspect(kind, raw, resp3, &mut out);
    assert_eq!(Cursor::default().step(&out), Step::Done { len: out.len() }, "{kind:?}");
    out
}

/// The same as text, a line per header and string.
fn said(text: &str) -> String {
    said_in(text, false)
}

fn said_in(text: &str, resp3: bool) -> String {
    let args = words(text);
    let Serve::Local(kind) = find(&args).serve else { panic!("{text} is not answered here") };
    String::from_utf8(reply(kind, &request(&args), resp3)).expect("text").replace("\r\n", " ").trim_end().to_owned()
}

#[test]
fn command_tells_what_is_served() {
    let all = said("COMMAND");
    let tops = (0..count() as CommandId).filter(|&id| served(id) && !get(id).name.contains('|')).count();
    assert!(all.starts_with(&format!("*{tops} *10 ")));
    assert_eq!(said("COMMAND INFO"), all);
    assert_eq!(said("COMMAND COUNT"), format!(":{tops}"));
    assert!(said("COMMAND DOCS").starts_with(&format!("*{} $3 acl *", tops * 2)));
    for (text, starts) in [
        ("COMMAND INFO GET multi nosuch", "*3 *10 $3 get :2 *2 +readonly +fast :1 :1 :1 "),
        ("COMMAND INFO config|GET get|key", "*2 *10 $10 config|get :-3 "),
        ("COMMAND DOCS nosuch GET", "*2 $3 get *"),
        ("COMMAND DOCS client|id", "*2 $9 client|id *"),
        ("COMMAND LIST", &format!("*{} $3 acl ", (0..count() as CommandId).filter(|&id| served(id)).count())),
        ("COMMAND LIST FILTERBY PATTERN XREAD*", "*2 $5 xread $10 xreadgroup"),
        ("command list filterby pattern [gs]et", "*2 $3 get $3 set"),
        ("COMMAND LIST FILTERBY PATTERN config|*", "*2 $10 config|get $11 config|help"),
        ("COMMAND LIST FILTERBY ACLCAT hyperloglog", "*3 $5 pfadd $7 pfcount $7 pfmerge"),
        ("COMMAND LIST FILTERBY ACLCAT nosuch", "*0"),
        ("COMMAND LIST FILTERBY MODULE nosuch", "*0"),
        ("COMMAND LIST FILTERBY", "-ERR syntax error"),
        ("COMMAND LIST nosuch", "-ERR syntax error"),
        ("COMMAND GETKEYS MSET a 1 b 2", "*2 $1 a $1 b"),
        ("COMMAND GETKEYS EVAL s 1 a", "*1 $1 a"),
        ("COMMAND GETKEYS EVAL s 0", "*0"),
        ("COMMAND GETKEYS object freq a", "*1 $1 a"),
        ("COMMAND GETKEYS nosuch", "-ERR Invalid command specified"),
        ("COMMAND GETKEYS object nosuch a", "-ERR Invalid command specified"),
        ("COMMAND GETKEYS PING", "-ERR The command has no key arguments"),
        ("COMMAND GETKEYS client", "-ERR The command has no key arguments"),
        ("COMMAND GETKEYS GET", "-ERR Invalid number of arguments specified for command"),
        ("COMMAND GETKEYS ZUNION 0 a", "-ERR Invalid arguments specified for command"),
        ("COMMAND GETKEYSANDFLAGS SET a b", "*1 *2 $1 a *2 +OW +update"),
        ("COMMAND GETKEYSANDFLAGS SET a b GET", "*1 *2 $1 a *3 +RW +access +update"),
        ("COMMAND GETKEYSANDFLAGS BITFIELD a GET u8 0", "*1 *2 $1 a *2 +RO +access"),
        ("COMMAND GETKEYSANDFLAGS SORT a STORE d", "*2 *2 $1 a *2 +RO +access *2 $1 d *2 +OW +update"),
        ("COMMAND GETKEYSANDFLAGS ZUNIONSTORE d 1 a", "*2 *2 $1 d *2 +OW +update *2 $1 a *2 +RO +access"),
        ("OBJECT HELP", "*11 +OBJECT <subcommand> [<arg> ...]."),
        ("COMMAND HELP", "*15 +COMMAND <subcommand>"),
        ("CLIENT HELP", "*25 +CLIENT <subcommand>"),
    ] {
        let told = said(text);
        assert!(told.starts_with(starts), "{text}: {told}");
    }
}

/// As Redis 7.0 types them.
#[test]
fn maps_and_sets_are_such_in_resp3() {
    for (text, starts) in [
        (
            "COMMAND INFO get nosuch",
            "*2 *10 $3 get :2 ~2 +readonly +fast :1 :1 :1 ~3 +@read +@string +@fast ~0 ~1 %3 $5 flags ~2 +RO +access \
             $12 begin_search %2 $4 type $5 index $4 spec %1 $5 index :1 $9 find_keys %2 $4 type $5 range $4 spec %3 $7 \
             lastkey :0 $7 keystep :1 $5 limit :0 ~0 _",
        ),
        ("COMMAND INFO object", "*1 *10 $6 object :-2 ~0 :0 :0 :0 ~1 +@slow ~0 ~0 *5 *10 $15 object|encoding"),
        ("COMMAND DOCS ping", "%1 $4 ping %5 $7 summary "),
        ("COMMAND GETKEYSANDFLAGS SET a b", "*1 *2 $1 a ~2 +OW +update"),
        ("COMMAND COUNT", ":"),
        ("COMMAND LIST FILTERBY ACLCAT nosuch", "*0"),
    ] {
        let told = said_in(text, true);
        assert!(told.starts_with(starts), "{text}: {told}");
    }
    let docs = said_in("COMMAND DOCS object set", true);
    for part in ["$11 subcommands %5 $15 object|encoding %", "$9 arguments *5 %4 $4 name $3 key", "$7 history ~"] {
        assert!(docs.contains(part), "{part}: {docs}");
    }
    let is_new = |word: &str| word.strip_prefix(['%', '~']).is_some_and(|n| n.parse::<u32>().is_ok());
    let aggregates = |told: &str| told.split(' ').filter(|word| is_new(word)).count();
    assert_eq!(aggregates(&said("COMMAND DOCS")) + aggregates(&said("COMMAND")), 0, "RESP3 told to RESP2");
}

#[test]
fn patterns() {
    for (pattern, text, is) in [
        ("*", "", true),
        ("", "", true),
        ("", "a", false),
        ("a*c", "abcabc", true),
        ("a*c", "abcab", false),
        ("*a*b*", "xaxbx", true),
        ("h?llo", "hello", true),
        ("h[^e]llo", "hello", false),
        ("h[a-f]llo", "HELLO", true),
        ("h[f-a]llo", "hello", true),
        ("h[]llo", "hello", false),
        ("h[\\]]", "h]", true),
        ("\\*", "*", true),
        ("\\*", "a", false),
        ("a\\", "a\\", true),
        ("[abc", "b", true),
        ("maxmemory*", "MaxMemory-Policy", true),
    ] {
        assert_eq!(matches(pattern.as_bytes(), text.as_bytes()), is, "{pattern} {text}");
    }
}

/// The checked-in files are what the generator makes of the checked-in metadata and policy.
#[test]
fn the_generator_makes_this_table() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let made = tempfile::tempdir().expect("a directory");
    let done = Process::new("python3")
        .arg(root.join("tools/commands/generate.py"))
        .args(["--from-files", "--out"])
        .arg(made.path())
        .output()
        .expect("python3 must be installed: this test runs proxy/tools/commands/generate.py");
    assert!(done.status.success(), "generate.py: {}", String::from_utf8_lossy(&done.stderr));
    for file in ["table.rs", "info.resp", "docs.resp", "help.resp"] {
        let here = std::fs::read(root.join("src/relay/command").join(file)).expect(file);
        let there = std::fs::read(made.path().join(file)).expect(file);
        assert!(here == there, "{file} is not what generate.py makes: run it, and look at the difference");
    }
    let readme = std::fs::read_to_string(root.join("../README.md")).expect("README.md");
    let commands = std::fs::read_to_string(made.path().join("commands.md")).expect("commands.md");
    assert!(readme.contains(&commands), "the commands in README.md are not those of the table: run generate.py");
    every_command_is_named(&commands);
}

/// Each command stands in README's table once, and whether it is served is what the table says.
fn every_command_is_named(commands: &str) {
    let mut told = BTreeMap::new();
    for row in commands.lines().filter(|line| line.contains(" | `")) {
        let mut cells = row.split('|').map(str::trim).skip(2);
        let (names, how) = (cells.next().expect(row), cells.next().expect(row));
        for name in names.split(", ").map(|name| name.trim_matches('`')) {
            assert!(told.insert(name.to_ascii_lowercase(), how.starts_with("no: ")).is_none(), "{name} stands twice");
        }
    }
    for id in 0..count() as CommandId {
        let command = get(id);
        let whole = format!("{} ...", command.name.split('|').next().unwrap_or_default());
        let alone = told.get(&command.name.replace('|', " "));
        let refused = matches!(command.serve, Serve::Denied(_));
        let needs_more = command.container && refused;
        match alone.or(told.get(&whole)) {
            Some(no) => assert_eq!(*no, refused, "{}", command.name),
            None => assert!(needs_more, "{} is not in README's table", command.name),
        }
    }
}
