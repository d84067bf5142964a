//! The end of all faults, and what must be well then.

use crate::truth::content_of;
use crate::world::{Due, MEMBERS, World};

impl World {
    /// All faults end: whoever is down starts, whoever is late catches up, somebody leads, edits are repaired.
    pub(crate) fn clear_up(&mut self) {
        self.note(|| "the weather is over".to_owned());
        for n in 0..MEMBERS {
            self.nodes[n].lag = 0;
            self.after(1, Due::Start(n));
        }
        for at in 0..self.proxies.len() {
            self.after(2, Due::Wake(at));
        }
        // A hand gave a slot to a group that was removed at the same moment.
        self.after(2_000, Due::Mend);
        self.after(3_100, Due::Elect); // after all that raft still says about earlier leaders
    }

    pub(crate) fn is_well(&self) -> Result<(), String> {
        let epoch = self.truth.epoch;
        if let Some(operator) = self.operators.iter().find(|o| !o.is_content()) {
            return Err(format!("{} waits", operator.who()));
        }
        if !self.truth.is_folded() {
            return Err("slots are not folded".to_owned());
        }
        for proxy in &self.proxies {
            let record = self.store.entries.get(&format!("proxies/{}", proxy.id));
            let Some(record) = record else { return Err(format!("{} is not registered", proxy.id)) };
            if proxy.epoch() != epoch || !record.value.contains(&format!("\"epoch\":{epoch},")) {
                return Err(format!("{} serves {}, not {epoch}; {}", proxy.id, proxy.epoch(), record.value));
            }
        }
        for node in &self.nodes {
            let Some(control) = &node.control else { return Err(format!("m{} is down", node.n)) };
            let view = control.view(self.now);
            let content = view.topology.as_ref().map(|t| content_of(t));
            if content.as_ref() != Some(&self.truth.content) || node.epoch != epoch || !view.invalid.is_empty() {
                return Err(format!("m{} is at epoch {}, not {epoch}; {:?}", node.n, node.epoch, view.invalid));
            }
            if control.waiting() > 0 || view.store_fault.is_some() || !node.calls.is_empty() {
                return Err(format!("m{}: {} changes, {:?}", node.n, control.waiting(), view.store_fault));
            }
            if view.leading != (self.leader == Some(node.n)) {
                return Err(format!("m{}: leads {}", node.n, view.leading));
            }
            if view.leading && (!control.fleet().behind(epoch).is_empty() || !view.alarms.is_empty()) {
                return Err(format!("m{}: {:?}, {:?}", node.n, control.fleet().behind(epoch), view.alarms));
            }
        }
        Ok(())
    }
}
