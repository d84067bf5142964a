//! Who a client is: the user it has said to be, and what goes with it to another worker.

use super::super::client::Client;
use super::super::state::Relay;
use super::super::users::{NOBODY, Rights, Users};
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
                self.clients[id as usize].wrong_passwords = 0;
                out.extend_from_slice(OK);
            }
            None => {
                self.stats.add(Counter::ErrorsAuth, 1);
                self.clients[id as usize].wrong_passwords += 1; // closed long before it is full
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
            // The users may have changed on its way.
            self.apply_rights(id, None);
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

    /// The users of the settings and the topology are in force. Clients keep theirs by name; those whose user is gone are
    /// closed, and so are those whose user may no longer have what is under way.
    pub(in super::super) fn set_users(&mut self) {
        let old = {
            let shared = self.routes.topology.as_ref().map_or(&[][..], |t| t.users());
            std::mem::replace(&mut self.users, Users::of(&self.settings, shared))
        };
        let known: Vec<(ClientId, bool, u16)> =
            self.clients.iter().map(|(id, client)| (id as ClientId, client.authenticated, client.user)).collect();
        let (mut gone, mut denied) = (0, 0);
        for (id, authenticated, user) in known {
            match self.users.named(old.name(user).as_bytes()) {
                Some(now) if authenticated => {
                    self.become_user(id, now);
                    denied += u32::from(self.apply_rights(id, old.get(user)));
                }
                None if authenticated => {
                    gone += 1;
                    self.close_client(id);
                }
                _ => self.become_user(id, self.users.unasked()),
            }
        }
        if gone > 0 {
            self.tell(Level::Info, format!("{gone} clients closed: their user is gone"));
        }
        if denied > 0 {
            self.tell(Level::Info, format!("{denied} clients closed: their user may no longer listen as they did"));
        }
    }

    /// What a client has begun is judged by its user's rights of now. True: it is closed, as Redis does with those whose
    /// subscriptions become forbidden.
    fn apply_rights(&mut self, id: ClientId, before: Option<&Rights>) -> bool {
        let client = &mut self.clients[id as usize];
        let Some(rights) = self.users.get(client.user) else { return false };
        if let Some(session) = client.session.as_mut() {
            // What is queued was judged by rights that are no more.
            if let Some(multi) = session.multi.as_mut() {
                multi.failed |= !before.is_some_and(|before| before.same(rights));
            }
            if !session.subscriptions.iter().all(|(kind, name)| rights.may_listen(kind.subscribe(), name)) {
                self.close_client(id);
                return true;
            }
        }
        let denied = self.monitors.here.contains(&id) && !rights.may_monitor();
        if denied {
            self.close_client(id);
        }
        denied
    }
}
