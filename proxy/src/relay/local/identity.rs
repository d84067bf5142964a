//! Who a client is: the user it has said to be, and what goes with it to another worker.

use super::super::client::Client;
use super::super::state::Relay;
use super::super::users::{NOBODY, Users};
use super::super::{ClientId, ClientState, Level};
use crate::stats::Counter;
use cluster::resp::write;

const WRONGPASS: &str = "WRONGPASS invalid username-password pair or user is disabled.";
const OK: &[u8] = b"+OK\r\n";

impl Relay {
    pub(super) fn auth(&mut self, id: ClientId, args: &[&[u8]], out: &mut Vec<u8>) {
        let (name, password) = match args {
            [password] => (None, *password),
            [user, password] => (Some(*user), *password),
            _ => return write::error(out, "ERR syntax error"),
        };
        if name.is_none() && self.users.unasked() != NOBODY {
            return write::error(
                out,
                "ERR AUTH <password> called without any password configured for the default user. Are you sure your configuration is correct?",
            );
        }
        match self.users.authenticate(name, password) {
            Some(user) => {
                self.become_user(id, user);
                out.extend_from_slice(OK);
            }
            None => {
                self.stats.add(Counter::ErrorsAuth, 1);
                write::error(out, WRONGPASS);
            }
        }
    }

    /// From now on the client is this user, or NOBODY.
    pub(in super::super) fn become_user(&mut self, id: ClientId, user: u16) {
        let restricted = self.users.get(user).is_some_and(|rights| rights.restricted);
        let client = &mut self.clients[id as usize];
        (client.authenticated, client.user, client.restricted) = (user != NOBODY, user, restricted);
        client.set_common();
    }

    /// A new client: who it is until it says something else.
    pub(in super::super) fn introduce(&mut self, id: ClientId) {
        self.clients[id as usize].watched = self.is_watched();
        self.become_user(id, self.users.unasked());
    }

    /// Goes on with a client that another worker knew.
    pub(in super::super) fn reintroduce(&mut self, id: ClientId, state: ClientState) {
        // An earlier version did not name the user: there was one.
        let name = if state.user.is_empty() { "default" } else { &state.user };
        if state.authenticated
            && let Some(user) = self.users.named(name.as_bytes())
        {
            self.become_user(id, user);
        }
        let library = self.libraries.of(&state.library.0, &state.library.1);
        let client = &mut self.clients[id as usize];
        (client.name, client.library, client.no_evict) = (state.name.into(), library, state.no_evict);
        client.opened_us = self.now.us.saturating_sub(state.age_us);
        if state.resp3 {
            self.clients[id as usize].resp3 = true;
            self.want_resp3();
        }
        if state.monitors {
            self.start_monitoring(id);
        }
    }

    /// What another worker has to know of a client that has been taken out.
    pub(in super::super) fn state_of(&mut self, id: ClientId, client: Client) -> ClientState {
        let (lib_name, lib_ver) = self.libraries.get(client.library);
        let state = ClientState {
            id: client.id,
            peer: client.peer.into(),
            name: client.name.into(),
            authenticated: client.authenticated,
            resp3: client.resp3,
            user: self.users.name(client.user).to_owned(),
            library: (lib_name.to_owned(), lib_ver.to_owned()),
            no_evict: client.no_evict,
            monitors: self.monitors.here.contains(&id),
            age_us: self.now.us.saturating_sub(client.opened_us),
        };
        self.stop_monitoring(id);
        state
    }

    /// The users of the settings and the topology are in force. Clients keep theirs by name; those whose user is gone are closed.
    pub(in super::super) fn set_users(&mut self) {
        let old = {
            let shared = self.routes.topology.as_ref().map_or(&[][..], |t| t.users());
            std::mem::replace(&mut self.users, Users::of(&self.settings, shared))
        };
        let known: Vec<(ClientId, bool, u16)> =
            self.clients.iter().map(|(id, client)| (id as ClientId, client.authenticated, client.user)).collect();
        let mut closed = 0;
        for (id, authenticated, user) in known {
            match self.users.named(old.name(user).as_bytes()) {
                Some(user) if authenticated => self.become_user(id, user),
                None if authenticated => {
                    closed += 1;
                    self.close_client(id);
                }
                _ => self.become_user(id, self.users.unasked()),
            }
        }
        if closed > 0 {
            self.tell(Level::Info, format!("{closed} clients closed: their user is gone"));
        }
    }
}
