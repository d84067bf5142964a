//! TWEMSLOT: for operators. Where a key lives, the topology, and one group's primary asked alone.

use super::super::state::Relay;
use super::super::{ClientId, CommandId, command};
use crate::stats::Counter;
use cluster::group::GroupId;
use cluster::resp::write;
use cluster::slot::Slot;
use cluster::topology::SlotState;
use cluster::wire;

/// Commands that make a connection something else than one of many requests' way: not for a link that others use.
const NEVER_ON: [&[u8]; 23] = [
    b"SUBSCRIBE",
    b"PSUBSCRIBE",
    b"SSUBSCRIBE",
    b"UNSUBSCRIBE",
    b"PUNSUBSCRIBE",
    b"SUNSUBSCRIBE",
    b"MONITOR",
    b"MULTI",
    b"EXEC",
    b"DISCARD",
    b"WATCH",
    b"UNWATCH",
    b"SYNC",
    b"PSYNC",
    b"REPLCONF",
    b"HELLO",
    b"AUTH",
    b"RESET",
    b"QUIT",
    b"SELECT",
    b"READONLY",
    b"READWRITE",
    b"ASKING",
];

impl Relay {
    /// TWEMSLOT KEY: for each key a line of words, as `slot=7 state=normal group=1 name=g1 primary=10.0.0.1:6379 link=up`.
    pub(super) fn where_keys_live(&self, keys: &[&[u8]], out: &mut Vec<u8>) {
        write::array(out, keys.len());
        for key in keys {
            write::bulk(out, self.where_slot_lives(self.routes.slot_of(key)).as_bytes());
        }
    }

    fn where_slot_lives(&self, slot: Slot) -> String {
        let owner = self.routes.topology.as_ref().and_then(|t| Some((t, t.slots().get(usize::from(slot))?)));
        let Some((topology, owner)) = owner else { return format!("slot={slot} state=no-topology") };
        let settles = self.routes.slots[usize::from(slot)].settling;
        let state = match owner.state {
            _ if owner.group.is_none() => "no-owner",
            SlotState::Held => "held",
            _ if settles => "settling",
            SlotState::Moving { .. } => "moving",
            SlotState::Normal => "normal",
        };
        let mut text = format!("slot={slot} state={state}");
        if let Some(group) = owner.group.and_then(|id| topology.group(id)) {
            text.push_str(&format!(" group={} name={}", group.id, group.name));
            if let Some(primary) = group.primary() {
                let link = self.link_status().into_iter().find(|l| l.addr == primary.addr.to_string());
                text.push_str(&format!(" primary={} link={}", primary.addr, link.map_or("none".into(), |l| l.state)));
            }
        }
        if let SlotState::Moving { target } = owner.state {
            text.push_str(&format!(" target={target}"));
        }
        text
    }

    /// TWEMSLOT TOPOLOGY: the message as it was PUT.
    pub(super) fn print_topology(&self, out: &mut Vec<u8>) {
        match &self.routes.topology {
            Some(topology) => write::bulk(out, wire::print(&topology.shown()).as_bytes()),
            None => write::error(out, "ERR twemslot: there is no topology yet"),
        }
    }

    /// The group of this name, or this id.
    pub(super) fn group_named(&self, word: &[u8]) -> Option<GroupId> {
        let topology = self.routes.topology.as_ref()?;
        let word = std::str::from_utf8(word).ok()?;
        let named = topology.groups().iter().find(|group| group.name.eq_ignore_ascii_case(word));
        let by_id = || topology.group(word.parse().ok()?);
        named.or_else(by_id).map(|group| group.id)
    }

    /// TWEMSLOT ON group command ...: for those who may do everything to an instance, as its keys are not looked at.
    pub(super) fn ask_group(&mut self, id: ClientId, command: CommandId, args: &[&[u8]]) {
        let user = self.clients[id as usize].user;
        if !self.users.get(user).is_some_and(|rights| rights.operator) {
            let text = format!(
                "NOPERM User {} may not use TWEMSLOT ON: it needs `admin: true` (without users: `operator_commands: true`)",
                self.users.name(user)
            );
            return self.refuse_here(id, command, Counter::ErrorsAuth, &text);
        }
        let Some(group) = self.group_named(args[2]) else {
            let text = format!("ERR twemslot: there is no group '{}'", args[2].escape_ascii());
            return self.refuse_here(id, command, Counter::ErrorsNotServed, &text);
        };
        let name = args[3].to_ascii_uppercase();
        let found = command::lookup(&name).map(|id| match args.get(4) {
            Some(sub) if command::get(id).container => command::lookup_sub(id, sub).unwrap_or(id),
            _ => id,
        });
        let blocks = found.is_some_and(|id| command::get(id).flags.contains(command::Flags::BLOCKING));
        let debugs = name == b"SCRIPT" && args.get(4).is_some_and(|sub| sub.eq_ignore_ascii_case(b"DEBUG"));
        let changes = name == b"CLIENT" && !is_harmless(args.get(4).copied());
        let stateful = NEVER_ON.contains(&name.as_slice()) || debugs || changes;
        let denied = found.is_some_and(|id| self.denied[usize::from(id)]);
        if blocks || stateful || denied {
            let why = if denied { "denied_commands refuses it" } else { "other clients use the same connection" };
            let text = format!("ERR twemslot: '{}' cannot be asked here: {why}", args[3].escape_ascii());
            return self.refuse_here(id, command, Counter::ErrorsNotServed, &text);
        }
        let mut request = Vec::new();
        write::request(&mut request, &args[3..]);
        self.ask_primary(id, command, group, &request);
    }

    /// Sends a request to a group's primary as it is.
    pub(super) fn ask_primary(&mut self, id: ClientId, command: CommandId, group: GroupId, raw: &[u8]) {
        let at = if self.clients[id as usize].resp3 { self.links_of_each } else { 0 };
        let target = self.routes.targets.iter().find(|target| target.group == group);
        match target.and_then(|target| target.links.get(at).copied()) {
            Some(link) => self.send_to_one(id, command, link, raw),
            None => {
                let text = format!("ERR twemslot: group {group} has no primary");
                self.refuse_here(id, command, Counter::ErrorsNoOwner, &text);
            }
        }
    }
}

/// Subcommands of CLIENT that do not change the connection, which is everybody's.
fn is_harmless(sub: Option<&[u8]>) -> bool {
    sub.is_some_and(|sub| {
        [&b"LIST"[..], b"INFO", b"ID", b"KILL", b"GETNAME"].iter().any(|word| sub.eq_ignore_ascii_case(word))
    })
}
