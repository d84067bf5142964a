//! ACL: who the client is, which users and categories there are. Users are made in the configuration, not here.

use super::super::ClientId;
use super::super::command::{self, CommandId, Local};
use super::super::state::Relay;
use cluster::resp::write;

impl Relay {
    pub(super) fn acl(&mut self, id: ClientId, local: Local, args: &[&[u8]], out: &mut Vec<u8>) {
        match (local, args.get(2)) {
            (Local::AclWhoami, _) => write::bulk(out, self.users.name(self.clients[id as usize].user).as_bytes()),
            (Local::AclUsers, _) => {
                write::array(out, self.users.iter().len());
                self.users.iter().for_each(|user| write::bulk(out, user.name.as_bytes()));
            }
            (Local::AclList, _) => {
                write::array(out, self.users.iter().len());
                self.users.iter().for_each(|user| write::bulk(out, user.line().as_bytes()));
            }
            (_, None) => {
                write::array(out, command::categories().len());
                command::categories().iter().for_each(|name| write::bulk(out, name.as_bytes()));
            }
            (_, Some(category)) => commands_of(category, out),
        }
    }
}

/// ACL CAT of one category.
fn commands_of(category: &[u8], out: &mut Vec<u8>) {
    let name = String::from_utf8_lossy(category);
    let Some(bit) = command::category(&name) else {
        return write::error(out, &format!("ERR Unknown category '{name}'"));
    };
    let is_in = |&id: &CommandId| command::categories_of(id) >> bit & 1 == 1 && command::served(id);
    let found: Vec<CommandId> = (0..command::count() as CommandId).filter(is_in).collect();
    write::array(out, found.len());
    found.into_iter().for_each(|id| write::bulk(out, command::get(id).name.as_bytes()));
}
