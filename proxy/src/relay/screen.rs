//! What a request is: which command, whether it may be asked, and which slot its keys are in. What may not be asked is
//! answered here.

use super::command::{self, Command, CommandId, Flags, Keys, Serve};
use super::request::NO_SLOT;
use super::state::Relay;
use super::users::{Denied, Rights};
use super::{ClientId, Level, declared_id, limits};
use crate::stats::Counter;
use cluster::resp::request::{Args, Frame};
use cluster::slot::Slot;

impl Relay {
    /// Which command it is, if it may be asked; otherwise it has been answered.
    #[inline]
    pub(super) fn screen(&mut self, id: ClientId, frame: &Frame, raw: &[u8]) -> Option<(CommandId, &'static Command)> {
        let name = frame.kept[0].of(raw);
        let Some(mut command_id) = command::lookup(name) else {
            self.unknown(id, frame, raw);
            return None;
        };
        let mut command = command::get(command_id);
        if command.container && frame.argc > 1 {
            let Some(sub) = command::lookup_sub(command_id, frame.kept[1].of(raw)) else {
                self.unknown(id, frame, raw);
                return None;
            };
            command_id = sub;
            command = command::get(sub);
        }
        if !self.clients[id as usize].authenticated && !command.flags.contains(Flags::NO_AUTH) {
            self.refuse_here(id, command_id, Counter::ErrorsAuth, "NOAUTH Authentication required.");
            return None;
        }
        if self.denied[usize::from(command_id)] {
            let text = format!("ERR twemslot: '{}' is refused by denied_commands", command.name);
            self.refuse_here(id, command_id, Counter::ErrorsNotServed, &text);
            return None;
        }
        let fits = if command.arity >= 0 {
            frame.argc == command.arity as u32
        } else {
            frame.argc >= u32::from(command.arity.unsigned_abs())
        };
        if !fits {
            let text = format!("ERR wrong number of arguments for '{}' command", command.name);
            self.refuse_here(id, command_id, Counter::ErrorsArity, &text);
            return None;
        }
        if self.clients[id as usize].restricted && !self.permits(id, command_id, frame.argc, raw) {
            return None;
        }
        Some((command_id, command))
    }

    /// Whether the client's user may ask this; otherwise it has been answered. `raw` may be the start of a request.
    #[cold]
    fn permits(&mut self, id: ClientId, command_id: CommandId, argc: u32, raw: &[u8]) -> bool {
        let (user, command) = (self.clients[id as usize].user, command::get(command_id));
        let checked = match self.users.get(user) {
            Some(rights) => rights.check(command_id, command, argc, raw),
            None => Err(Denied::Command),
        };
        let Err(denied) = checked else { return true };
        let text = denied.text(self.users.name(user), command.name);
        self.refuse_here(id, command_id, Counter::ErrorsAuth, &text);
        false
    }

    /// The one slot of all keys of a command, or it has been refused.
    pub(super) fn one_slot(
        &mut self,
        id: ClientId,
        command_id: CommandId,
        command: &Command,
        argc: u32,
        raw: &[u8],
    ) -> Option<Slot> {
        let mut slot = None;
        let mut crossed = false;
        let routes = &self.routes;
        let found = command::for_each_key(command, argc, raw, |key| {
            let this = routes.slot_of(key);
            crossed |= slot.is_some_and(|s| s != this);
            slot = Some(this);
        });
        if command.keys == Keys::Sort {
            // A pattern reaches other keys: they must be in the key's slot, which only a tag can promise.
            let one = self.routes.slot_count() == 1;
            let same = |prefix| slot == Some(self.routes.slot_of(prefix));
            command::sort_patterns(raw, |p| crossed |= !one && !command::fixed_prefix(p).is_some_and(same));
        }
        let (counter, text) = if let Err(fault) = found {
            (Counter::ErrorsArity, fault.to_string())
        } else if crossed {
            (Counter::ErrorsCrossSlot, "CROSSSLOT Keys in request don't hash to the same slot".to_owned())
        } else if command::asks_other_database(command, raw) {
            (Counter::ErrorsNotServed, "ERR DB index is out of range (a cluster has database 0 only)".to_owned())
        } else if let Some(slot) = slot {
            return Some(slot);
        } else if command.flags.contains(Flags::NO_MANDATORY_KEYS) {
            // A script without keys: it must be somewhere, and always at the same place.
            return Some(0);
        } else {
            (Counter::ErrorsArity, format!("ERR wrong number of arguments for '{}' command", command.name))
        };
        self.refuse_here(id, command_id, counter, &text);
        None
    }

    /// What is not served, and why.
    #[cold]
    pub(super) fn refuse_unserved(&mut self, id: ClientId, command_id: CommandId, command: &Command) {
        let text = match command.serve {
            Serve::Denied(reason) => format!("ERR twemslot: '{}' is not served: {reason}", command.name),
            _ => format!("ERR twemslot: '{}' is not served here", command.name),
        };
        self.refuse_here(id, command_id, Counter::ErrorsNotServed, &text);
    }

    #[cold]
    fn unknown(&mut self, id: ClientId, frame: &Frame, raw: &[u8]) {
        let show = |arg: &[u8]| String::from_utf8_lossy(&arg[..arg.len().min(128)]).into_owned();
        let name = frame.kept[0].of(raw);
        if name.eq_ignore_ascii_case(b"post") || name.eq_ignore_ascii_case(b"host:") {
            // A browser made to talk to us would go on with lines that are commands: Redis's guard.
            let client = &self.clients[id as usize];
            let text = format!("client {} ({}) closed: it speaks HTTP", client.id, client.peer);
            self.tell(Level::Warn, text);
            return self.close_client(id);
        }
        if !self.clients[id as usize].authenticated {
            return self.refuse_here(id, declared_id(), Counter::ErrorsAuth, "NOAUTH Authentication required.");
        }
        let mut text = match command::lookup(name) {
            Some(_) => {
                let sub = show(frame.kept[1].of(raw));
                format!("ERR unknown subcommand '{sub}'. Try {} HELP.", show(name).to_ascii_uppercase())
            }
            None => format!("ERR unknown command '{}', with args beginning with: ", show(name)),
        };
        if command::lookup(name).is_none() {
            for arg in Args::new(raw).skip(1) {
                if text.len() > 128 {
                    break;
                }
                text.push_str(&format!("'{}' ", show(arg)));
            }
        }
        self.refuse_here(id, declared_id(), Counter::ErrorsUnknownCommand, &text);
    }

    /// What the operator has declared of a command, if anything.
    pub(super) fn declaration(&self, frame: &Frame, raw: &[u8]) -> Option<limits::Declared> {
        let name = frame.kept[0].of(raw);
        let sub = frame.kept(1, raw).unwrap_or_default();
        let matches = |d: &&limits::Declared| match d.name.split_once(' ') {
            Some((container, wanted)) => {
                name.eq_ignore_ascii_case(container.as_bytes()) && sub.eq_ignore_ascii_case(wanted.as_bytes())
            }
            None => name.eq_ignore_ascii_case(d.name.as_bytes()),
        };
        self.settings.declared_commands.iter().find(matches).cloned()
    }

    /// The keys of a command that the operator has declared.
    pub(super) fn declared_keys_of<'a>(&self, frame: &Frame, raw: &'a [u8]) -> Vec<&'a [u8]> {
        let declared = self.declaration(frame, raw);
        declared.iter().flat_map(|declared| declared_keys(declared, frame.argc, raw)).collect()
    }

    /// A command that the operator has declared. False: it is none.
    #[cold]
    pub(super) fn declared(&mut self, id: ClientId, frame: &Frame, raw: &[u8]) -> bool {
        let Some(declared) = self.declaration(frame, raw) else { return false };
        let command = declared_id();
        if !self.clients[id as usize].authenticated {
            self.refuse_here(id, command, Counter::ErrorsAuth, "NOAUTH Authentication required.");
            return true;
        }
        let user = self.clients[id as usize].user;
        let may = |rights: &Rights| rights.check_declared(declared.write, declared_keys(&declared, frame.argc, raw));
        if let Some(Err(denied)) = self.users.get(user).map(may) {
            let text = denied.text(self.users.name(user), &declared.name.to_ascii_lowercase());
            self.refuse_here(id, command, Counter::ErrorsAuth, &text);
            return true;
        }
        let mut slot = None;
        let mut crossed = false;
        for key in declared_keys(&declared, frame.argc, raw) {
            let this = self.routes.slot_of(key);
            crossed |= slot.is_some_and(|s| s != this);
            slot = Some(this);
        }
        let (counter, text) = match (slot, declared.all_groups) {
            _ if crossed => {
                (Counter::ErrorsCrossSlot, "CROSSSLOT Keys in request don't hash to the same slot".to_owned())
            }
            (Some(slot), _) => {
                let request = self.open_request(id, command, slot);
                self.place(request, id, slot, raw);
                return true;
            }
            (None, true) => {
                let request = self.open_request(id, command, NO_SLOT);
                self.place_wide(request, raw);
                return true;
            }
            (None, false) => {
                (Counter::ErrorsArity, format!("ERR wrong number of arguments for '{}' command", declared.name))
            }
        };
        self.refuse_here(id, command, counter, &text);
        true
    }
}

/// The keys of a declared command, where its declaration says they are.
fn declared_keys<'a>(declared: &limits::Declared, argc: u32, raw: &'a [u8]) -> impl Iterator<Item = &'a [u8]> {
    let (first, argc) = (declared.first_key as usize, i64::from(argc));
    let last = if declared.last_key < 0 { argc + i64::from(declared.last_key) } else { i64::from(declared.last_key) };
    let last = if first == 0 { 0 } else { last.max(first as i64) as usize + 1 };
    Args::new(raw).take(last).skip(first).step_by(declared.key_step.max(1) as usize)
}
