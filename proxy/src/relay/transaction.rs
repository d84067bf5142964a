//! Transactions. What a client sends between MULTI and EXEC is kept here and goes out in one piece, so a transaction
//! costs no link of its own and is never left half-way by a client that goes. Only WATCH needs one: the instance
//! remembers watched keys by connection.

use super::command::{self, Command, CommandId, Fan, Flags, Keys, Local, Serve, Session as Asked};
use super::limits::LARGE;
use super::request::NO_SLOT;
use super::session::{Multi, Watch, database};
use super::state::Relay;
use super::{ClientId, declared_id};
use crate::stats::Counter;
use cluster::resp::request::{Args, Frame};
use cluster::slot::Slot;

const OK: &[u8] = b"+OK\r\n";
const QUEUED: &[u8] = b"+QUEUED\r\n";
const MULTI: &[u8] = b"*1\r\n$5\r\nMULTI\r\n";
const EXEC: &[u8] = b"*1\r\n$4\r\nEXEC\r\n";
const UNWATCH: &[u8] = b"*1\r\n$7\r\nUNWATCH\r\n";

impl Relay {
    /// A request that concerns what the client's connection carries.
    pub(super) fn session_request(
        &mut self,
        id: ClientId,
        command: CommandId,
        asked: Asked,
        frame: &Frame,
        raw: &[u8],
    ) {
        match asked {
            Asked::Multi => {
                let bytes = self.pool.keep(MULTI);
                let client = &mut self.clients[id as usize];
                client.session().multi = Some(Multi { bytes, ..Multi::default() });
                client.set_common();
                self.answer_here(id, command, OK);
            }
            Asked::Exec => self.refuse_here(id, command, Counter::ErrorsArity, "ERR EXEC without MULTI"),
            Asked::Discard => self.refuse_here(id, command, Counter::ErrorsArity, "ERR DISCARD without MULTI"),
            Asked::Watch => {
                let Some(slot) = self.one_slot(id, command, command::get(command), frame.argc, raw) else { return };
                self.begin_alone(id, command, slot, raw, 0);
            }
            Asked::Unwatch if self.clients[id as usize].watch() == Watch::None => self.answer_here(id, command, OK),
            Asked::Unwatch => self.begin_alone(id, command, NO_SLOT, UNWATCH, 0),
            _ => self.begin_alone(id, command, NO_SLOT, raw, 0),
        }
    }

    /// A request of a client that is between MULTI and EXEC.
    pub(super) fn queued_request(&mut self, id: ClientId, frame: &Frame, raw: &[u8]) {
        let errors = self.stats.get(Counter::RepliesError);
        if let Some(declared) = self.declaration(frame, raw) {
            let text = format!("ERR twemslot: '{}' is declared, and cannot be part of a transaction", declared.name);
            self.refuse_here(id, declared_id(), Counter::ErrorsNotServed, &text);
            return self.fail_if_refused(id, errors);
        }
        let Some((command_id, command)) = self.screen(id, frame, raw) else { return self.fail_if_refused(id, errors) };
        match command.serve {
            Serve::Session(Asked::Exec) => self.exec(id, command_id),
            Serve::Session(Asked::Discard) => self.discard(id, command_id),
            Serve::Session(Asked::Reset) => self.begin_alone(id, command_id, NO_SLOT, raw, 0),
            Serve::Session(Asked::Multi) => {
                self.refuse_here(id, command_id, Counter::ErrorsArity, "ERR MULTI calls can not be nested");
            }
            Serve::Session(Asked::Watch) => {
                self.refuse_here(id, command_id, Counter::ErrorsArity, "ERR WATCH inside MULTI is not allowed");
            }
            Serve::Local(local @ (Local::Quit | Local::ClientReply)) => self.local(id, command_id, local, raw),
            _ => {
                self.queue(id, command_id, command, frame, raw);
                self.fail_if_refused(id, errors);
            }
        }
    }

    /// A transaction with a refused command is refused as a whole.
    fn fail_if_refused(&mut self, id: ClientId, errors_before: u64) {
        let refused = self.stats.get(Counter::RepliesError) != errors_before;
        if let Some(multi) = self.clients[id as usize].session.as_mut().and_then(|s| s.multi.as_mut()) {
            multi.failed |= refused;
        }
    }

    fn queue(&mut self, id: ClientId, command_id: CommandId, command: &Command, frame: &Frame, raw: &[u8]) {
        let one_group = self.routes.owners().count() == 1;
        let slot = match command.serve {
            Serve::Denied(_) => return self.refuse_unserved(id, command_id, command),
            Serve::Local(Local::Ping | Local::Echo | Local::Time) => None,
            // It would be the link's database from then on, and others share the link.
            Serve::Local(Local::Select) => match database(Args::new(raw).nth(1)) {
                Ok(()) => None,
                Err(text) => return self.refuse_here(id, command_id, Counter::ErrorsNotServed, text),
            },
            Serve::Session(Asked::Unwatch | Asked::Wait | Asked::WaitAof) => None,
            // Who listens has subscribed at every group.
            Serve::Publish => None,
            Serve::Keyed | Serve::Split(_) | Serve::Blocking if command.keys != Keys::None => {
                match self.slot_of_queued(id, command_id, command, frame.argc, raw) {
                    Some(slot) => slot,
                    None => return,
                }
            }
            // A cursor of ours would tell an instance nothing, and its passwords are not for clients.
            Serve::Fan(kind) if one_group && !matches!(kind, Fan::Scan | Fan::ConfigGet) => None,
            _ => {
                let text = format!(
                    "ERR twemslot: '{}' cannot be part of a transaction: it is not one group's alone",
                    command.name
                );
                return self.refuse_here(id, command_id, Counter::ErrorsNotServed, &text);
            }
        };
        let publishes = command.serve == Serve::Publish;
        let channel = publishes.then(|| self.routes.slot_of(Args::new(raw).nth(1).unwrap_or_default()));
        let max = self.settings.request_kept_max;
        let Some(multi) = self.clients[id as usize].session().multi.as_mut() else { return };
        if let (Some(wanted), Some(slot)) = (multi.slot, slot)
            && wanted != slot
        {
            let text = format!(
                "CROSSSLOT Keys of a transaction must be in one slot: this one is in slot {slot}, the first one is in slot {wanted}"
            );
            return self.refuse_here(id, command_id, Counter::ErrorsCrossSlot, &text);
        }
        if multi.bytes.len() + raw.len() > max {
            let text = format!("ERR twemslot: the transaction is larger than request_kept_max {max}");
            return self.refuse_here(id, command_id, Counter::ErrorsOverload, &text);
        }
        multi.wide |= matches!(command.serve, Serve::Fan(_));
        multi.slot = multi.slot.or(slot);
        multi.channel = multi.channel.or(channel);
        self.pool.extend(&mut multi.bytes, raw);
        multi.commands += 1;
        self.note_script(command_id, raw);
        self.answer_here(id, command_id, QUEUED);
    }

    /// The one slot of a queued command; None within: it has no keys. None: it has been refused.
    fn slot_of_queued(
        &mut self,
        id: ClientId,
        command_id: CommandId,
        command: &Command,
        argc: u32,
        raw: &[u8],
    ) -> Option<Option<Slot>> {
        if command.flags.contains(Flags::NO_MANDATORY_KEYS) && command::keyless(command, argc, raw) {
            return Some(None);
        }
        self.one_slot(id, command_id, command, argc, raw).map(Some)
    }

    fn discard(&mut self, id: ClientId, command: CommandId) {
        let client = &mut self.clients[id as usize];
        let multi = client.session().multi.take().unwrap_or_default();
        client.tidy_session();
        self.pool.give(multi.bytes);
        match self.clients[id as usize].watch() {
            Watch::None => self.answer_here(id, command, OK),
            _ => self.begin_alone(id, command, NO_SLOT, UNWATCH, 0),
        }
    }

    fn exec(&mut self, id: ClientId, command: CommandId) {
        let client = &mut self.clients[id as usize];
        let Some(mut multi) = client.session().multi.take() else { return };
        client.tidy_session();
        let mut bytes = std::mem::take(&mut multi.bytes);
        self.pool.extend(&mut bytes, EXEC);
        self.execute(id, command, multi, &bytes);
        self.pool.give(bytes);
    }

    /// EXEC of these commands, `bytes` from MULTI to EXEC.
    fn execute(&mut self, id: ClientId, command: CommandId, multi: Multi, bytes: &[u8]) {
        let watch = self.clients[id as usize].watch();
        if multi.failed {
            self.forget_watch(id);
            let text = "EXECABORT Transaction discarded because of previous errors.";
            return self.refuse_here(id, command, Counter::ErrorsNotServed, text);
        }
        if multi.wide && self.routes.owners().count() != 1 {
            self.forget_watch(id);
            let text =
                "EXECABORT Transaction discarded: there are several groups now, and a command of it is for all of them";
            return self.refuse_here(id, command, Counter::ErrorsNotServed, text);
        }
        if multi.wide && self.routes.slots.iter().any(|route| route.waits()) {
            // When it goes on there may be two.
            self.forget_watch(id);
            let text = "TRYAGAIN twemslot: slots are held, and a command of the transaction is for all groups; nothing was done";
            return self.refuse_here(id, command, Counter::ErrorsHeldTooLong, text);
        }
        let Multi { commands, slot, channel, .. } = multi;
        let slot = match (watch, slot) {
            (Watch::On { slot: watched, .. }, Some(slot)) if watched != slot => {
                self.forget_watch(id);
                let text = format!(
                    "EXECABORT Transaction discarded: its keys are in slot {slot}, but those under WATCH are in slot {watched}"
                );
                return self.refuse_here(id, command, Counter::ErrorsCrossSlot, &text);
            }
            (Watch::On { slot, .. }, _) => slot,
            // A transaction without a key may run anywhere.
            (_, slot) => slot.or(channel).unwrap_or(0),
        };
        if watch != Watch::None {
            // A held slot must not make it wait: EXEC then says that the keys may have changed.
            return self.begin_alone(id, command, NO_SLOT, bytes, commands + 1);
        }
        if commands == 0 {
            return self.answer_here(id, command, b"*0\r\n");
        }
        if bytes.len() > LARGE {
            return self.begin_alone(id, command, slot, bytes, commands + 1);
        }
        let request_id = self.open_request(id, command, slot);
        let request = &mut self.requests[request_id as usize];
        (request.parts, request.of) = (true, commands + 1);
        self.place(request_id, id, slot, bytes);
    }

    /// WATCH, when its turn has come.
    pub(super) fn watch(&mut self, id: ClientId, command: CommandId, slot: Slot, raw: &[u8]) {
        let link = match self.clients[id as usize].watch() {
            Watch::None => None,
            Watch::On { link, slot: watched } if watched == slot => Some(link),
            Watch::On { slot: watched, .. } => {
                let text = format!("CROSSSLOT Keys under WATCH must be in one slot: slot {watched} is watched already");
                return self.refuse_here(id, command, Counter::ErrorsCrossSlot, &text);
            }
            // EXEC will fail whatever else is watched.
            Watch::Broken => return self.answer_here(id, command, OK),
        };
        if let Some(link) = self.start_alone(id, link, (command, slot), raw, 0) {
            self.clients[id as usize].session().watch = Watch::On { link, slot };
        }
    }

    /// EXEC of watched keys or of much, UNWATCH, DISCARD: when their turn has come.
    pub(super) fn end_watch(&mut self, id: ClientId, command: CommandId, slot: Slot, bytes: &[u8], parts: u32) {
        let exec = command::get(command).serve == Serve::Session(Asked::Exec);
        match std::mem::take(&mut self.clients[id as usize].session().watch) {
            Watch::On { link, slot } => {
                self.start_alone(id, Some(link), (command, slot), bytes, parts);
            }
            Watch::Broken if exec => {
                let nil = self.nil_array(id);
                self.answer_here(id, command, nil);
            }
            Watch::None if exec => {
                self.start_alone(id, None, (command, slot), bytes, parts);
            }
            _ => self.answer_here(id, command, OK),
        }
    }

    /// Keys are watched no more, and nobody asked.
    pub(super) fn forget_watch(&mut self, id: ClientId) {
        let client = &mut self.clients[id as usize];
        if let Some(session) = client.session.as_mut()
            && let Watch::On { link, .. } = std::mem::take(&mut session.watch)
        {
            self.release_link(link);
        }
        self.clients[id as usize].tidy_session();
    }

    /// Keys are watched no more, and EXEC will say that they may have changed.
    pub(super) fn break_watch(&mut self, id: ClientId) {
        if let Watch::On { link, .. } = self.clients[id as usize].watch() {
            self.clients[id as usize].session().watch = Watch::Broken;
            self.release_link(link);
        }
    }

    /// What says "nothing" where an array is expected.
    pub(super) fn nil_array(&self, id: ClientId) -> &'static [u8] {
        if self.clients[id as usize].resp3 { b"_\r\n" } else { b"*-1\r\n" }
    }
}
