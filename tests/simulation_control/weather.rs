//! The weather: which fault comes next.

use crate::operator::SLOTS;
use crate::world::{Due, World};
use configsvr::store::Op;

impl World {
    /// One fault, sometimes, and when the next one may come.
    pub(crate) fn weather(&mut self) {
        if self.calm {
            return;
        }
        let next = self.rng.range(50, 700);
        self.after(next, Due::Weather);
        match self.rng.below(12) {
            0 | 1 => self.elect(),
            2 => {
                let n = self.rng.below(self.nodes.len());
                self.crash(n);
            }
            3 | 4 => {
                let n = self.rng.below(self.nodes.len());
                self.nodes[n].lag = *self.rng.pick(&[0, 0, 20, 300, 2_000]);
            }
            5 => {
                let n = self.rng.below(self.nodes.len());
                self.lose_watch(n);
            }
            6 | 7 => self.kill_proxy(),
            8 => self.good_edit(),
            9 => self.bad_edit(),
            _ => {}
        }
    }

    /// Somebody gives a slot to another group, with etcdctl.
    fn good_edit(&mut self) {
        let groups: Vec<String> = self.store.entries.keys().filter(|k| k.starts_with("group-")).cloned().collect();
        let (Some(group), false) = (groups.first(), self.rng.one_in(3)) else { return };
        let id = group.trim_start_matches("group-instances/");
        let slot = self.rng.range(1, u64::from(SLOTS));
        let value = format!("{{\"slot_id\":{slot},\"group_id\":{id}}}");
        self.edit(Op::Put { key: format!("slot-to-group-mapping/slot{slot}"), value, lease: None });
    }

    /// Somebody writes what makes no sense, and repairs it a little later.
    fn bad_edit(&mut self) {
        if !self.store.entries.contains_key("settings") || !self.rng.one_in(3) {
            return;
        }
        let slot = self.rng.range(1, u64::from(SLOTS));
        let key = format!("slot-to-group-mapping/slot{slot}");
        let repair = match self.store.entries.get(&key) {
            Some(entry) => Op::Put { key: key.clone(), value: entry.value.clone(), lease: None },
            None => Op::Delete { key: key.clone() },
        };
        let value = format!("{{\"slot_id\":{slot},\"group_id\":77}}");
        self.edit(Op::Put { key, value, lease: None });
        let later = self.rng.range(50, 1_500);
        self.after(later, Due::Repair(repair));
    }
}
