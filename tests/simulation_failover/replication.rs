//! Replicas follow their primaries.

use crate::world::{Due, World};
use cluster::instance::Addr;

impl World {
    pub(crate) fn replicate(&mut self) {
        self.after(10, Due::Replicate);
        let now = self.now;
        let all: Vec<Addr> = self.instances.keys().cloned().collect();
        for addr in all {
            let follows = self.instances.get(&addr).and_then(|i| i.follows.clone());
            let primary = follows.and_then(|p| self.instances.get(&p)).filter(|p| p.answers(now)).cloned();
            let open = primary.as_ref().is_some_and(|p| self.flows(&addr, &p.addr));
            let gone = primary.as_ref().is_none_or(|p| !p.alive);
            let Some(replica) = self.instances.get_mut(&addr).filter(|i| i.answers(now)) else { continue };
            match primary.filter(|_| open) {
                Some(primary) => replica.replicate(&primary, now, &mut self.rng),
                // A frozen one keeps its connections; a dead one's are closed.
                None if gone => (replica.link_up, replica.sync_until) = (false, None),
                None => {}
            }
        }
    }
    /// What a primary sends arrives. Where it does not hear that it has, it sends some more, and less and less.
    fn flows(&mut self, replica: &Addr, primary: &Addr) -> bool {
        let (here, there) = (replica.to_string(), primary.to_string());
        let linked = self.instances.get(replica).is_some_and(|i| i.link_up);
        self.arrives(&there, &here) && (self.arrives(&here, &there) || (linked && self.rng.one_in(5)))
    }
}
