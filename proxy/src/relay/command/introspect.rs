//! COMMAND and its subcommands, and HELP of every container: what the table says of itself. Only what is served is listed.
//! It is kept in RESP3, whose maps and sets are arrays to those who speak RESP2.

use super::table::{CATEGORIES, COMMANDS, ENTRIES, KEY_FLAGS, SERVED};
use super::{Command, CommandId, Keys, KeysFault, Local, Serve};
use super::{for_each_key, get, lookup, lookup_full, lookup_sub, matches, served};
use cluster::resp::request::Args;
use cluster::resp::write;

/// An element of COMMAND's reply for each served command, one behind the other; subcommands inside their containers.
static INFO: &[u8] = include_bytes!("info.resp");
/// The same for COMMAND DOCS: a name and a map each, pairs of one map.
static DOCS: &[u8] = include_bytes!("docs.resp");
/// Replies of HELP, by container.
static HELP: &[u8] = include_bytes!("help.resp");

/// Appends the reply to a whole request of COMMAND, of one of its subcommands, or of any HELP. The request's arity
/// has been checked.
pub fn introspect(kind: Local, raw: &[u8], resp3: bool, out: &mut Vec<u8>) {
    let start = out.len();
    tell(kind, raw, out);
    if !resp3 {
        let plain = in_resp2(&out[start..]);
        out.truncate(start);
        out.extend_from_slice(&plain);
    }
}

/// A reply made here, without the types that RESP3 brought.
fn in_resp2(raw: &[u8]) -> Vec<u8> {
    let mut plain = Vec::with_capacity(raw.len());
    let mut rest = raw;
    while let Some(end) = memchr::memchr(b'\n', rest) {
        let (line, behind) = rest.split_at(end + 1);
        rest = behind;
        let number = std::str::from_utf8(&line[1..]).ok().and_then(|n| n.trim_end().parse::<usize>().ok());
        match (line[0], number) {
            (b'%', Some(pairs)) => write::array(&mut plain, pairs * 2),
            (b'~', Some(items)) => write::array(&mut plain, items),
            (b'_', _) => plain.extend_from_slice(b"*-1\r\n"), // the only one is of a command, which would be an array
            (b'$', Some(len)) => {
                let (text, behind) = rest.split_at((len + 2).min(rest.len()));
                rest = behind;
                plain.extend_from_slice(line);
                plain.extend_from_slice(text);
            }
            _ => plain.extend_from_slice(line),
        }
    }
    plain
}

fn tell(kind: Local, raw: &[u8], out: &mut Vec<u8>) {
    match kind {
        Local::Command => all_info(out),
        Local::CommandCount => write::integer(out, SERVED as i64),
        Local::CommandList => list(raw, out),
        Local::CommandInfo => info(raw, out),
        Local::CommandDocs => docs(raw, out),
        Local::CommandGetkeys => getkeys(raw, false, out),
        Local::CommandGetkeysAndFlags => getkeys(raw, true, out),
        Local::CommandHelp | Local::ClientHelp | Local::Help => help(raw, out),
        _ => write::error(out, "ERR twemslot: the command table cannot answer this; please report it"),
    }
}

fn all_info(out: &mut Vec<u8>) {
    write::array(out, SERVED);
    out.extend_from_slice(INFO);
}

fn info(raw: &[u8], out: &mut Vec<u8>) {
    let names: Vec<&[u8]> = Args::new(raw).skip(2).collect();
    if names.is_empty() {
        return all_info(out);
    }
    write::array(out, names.len());
    for name in names {
        match lookup_full(name).filter(|&id| served(id)) {
            Some(id) => out.extend_from_slice(ENTRIES[usize::from(id)].info.of(INFO)),
            None => out.extend_from_slice(b"_\r\n"),
        }
    }
}

fn docs(raw: &[u8], out: &mut Vec<u8>) {
    let names: Vec<&[u8]> = Args::new(raw).skip(2).collect();
    if names.is_empty() {
        write::header(out, b'%', SERVED as i64);
        out.extend_from_slice(DOCS);
        return;
    }
    let known: Vec<CommandId> = names.into_iter().filter_map(lookup_full).filter(|&id| served(id)).collect();
    write::header(out, b'%', known.len() as i64);
    for id in known {
        out.extend_from_slice(ENTRIES[usize::from(id)].docs.of(DOCS));
    }
}

/// `COMMAND LIST [FILTERBY MODULE m | ACLCAT c | PATTERN p]`. No command here is a module's.
fn list(raw: &[u8], out: &mut Vec<u8>) {
    let words: Vec<&[u8]> = Args::new(raw).skip(2).collect();
    let is = |word: &[u8], name: &[u8]| word.eq_ignore_ascii_case(name);
    match *words.as_slice() {
        [] => names(out, |_, _| true),
        [by, kind, value] if is(by, b"FILTERBY") && is(kind, b"ACLCAT") => {
            let bit = CATEGORIES.iter().position(|category| is(value, category.as_bytes()));
            names(out, |id, _| bit.is_some_and(|bit| ENTRIES[usize::from(id)].categories >> bit & 1 == 1));
        }
        [by, kind, value] if is(by, b"FILTERBY") && is(kind, b"PATTERN") => {
            names(out, |_, command| matches(value, command.name.as_bytes()));
        }
        [by, kind, _] if is(by, b"FILTERBY") && is(kind, b"MODULE") => write::array(out, 0),
        _ => write::error(out, &KeysFault::Syntax.to_string()),
    }
}

/// Names of served commands and subcommands that `filter` takes.
fn names(out: &mut Vec<u8>, filter: impl Fn(CommandId, &Command) -> bool) {
    let found: Vec<&Command> = (0..)
        .zip(&COMMANDS)
        .filter(|&(id, command)| served(id) && filter(id, command))
        .map(|(_, command)| command)
        .collect();
    write::array(out, found.len());
    for command in found {
        write::bulk(out, command.name.as_bytes());
    }
}

/// COMMAND GETKEYS and GETKEYSANDFLAGS: also of commands that are not served yet, whose keys are known as well.
fn getkeys(raw: &[u8], with_flags: bool, out: &mut Vec<u8>) {
    let args: Vec<&[u8]> = Args::new(raw).skip(2).collect();
    let mut request = Vec::new();
    write::request(&mut request, &args);
    let mut keys = Vec::new();
    let Some(id) = resolve(&args) else { return write::error(out, "ERR Invalid command specified") };
    let (command, argc) = (get(id), args.len() as u32);
    if command.keys == Keys::None {
        return write::error(out, "ERR The command has no key arguments");
    }
    if !command.takes(argc) {
        return write::error(out, "ERR Invalid number of arguments specified for command");
    }
    if for_each_key(command, argc, &request, |key| keys.push(key)).is_err() {
        return write::error(out, "ERR Invalid arguments specified for command");
    }
    write::array(out, keys.len());
    for (i, key) in keys.into_iter().enumerate() {
        if with_flags {
            write::array(out, 2);
        }
        write::bulk(out, key);
        if with_flags {
            let flags = key_flags(id, i == 0, &args);
            write::header(out, b'~', flags.len() as i64);
            flags.iter().for_each(|flag| write::simple(out, flag));
        }
    }
}

/// The command that `args` would run, unless it is denied.
fn resolve(args: &[&[u8]]) -> Option<CommandId> {
    let id = lookup(args.first()?)?;
    let id = match args.get(1) {
        Some(sub) if get(id).container => lookup_sub(id, sub)?,
        _ => id,
    };
    let denied = matches!(get(id).serve, Serve::Denied(_)) && !get(id).container;
    (!denied).then_some(id)
}

/// What a command does with its first key, or with the others.
fn key_flags(id: CommandId, first: bool, args: &[&[u8]]) -> &'static [&'static str] {
    let says = |words: &[&[u8]]| args.iter().skip(2).any(|arg| words.iter().any(|word| arg.eq_ignore_ascii_case(word)));
    match get(id).name {
        "set" if !says(&[b"GET", b"IFEQ"]) => &["OW", "update"],
        "bitfield" if !says(&[b"SET", b"INCRBY"]) => &["RO", "access"],
        _ => {
            let (of_first, of_others) = ENTRIES[usize::from(id)].key_flags;
            KEY_FLAGS[usize::from(if first { of_first } else { of_others })]
        }
    }
}

fn help(raw: &[u8], out: &mut Vec<u8>) {
    match Args::new(raw).next().and_then(lookup) {
        Some(id) if ENTRIES[usize::from(id)].help.len > 0 => {
            out.extend_from_slice(ENTRIES[usize::from(id)].help.of(HELP));
        }
        _ => write::error(out, "ERR twemslot: there is no help for this command"),
    }
}
