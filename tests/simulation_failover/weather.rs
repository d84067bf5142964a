//! The weather: which fault comes next.

use crate::members::name;
use crate::world::{Deed, Due, GROUPS, MEMBERS, World, port};
use cluster::instance::Addr;
use configsvr::control::command::Command;

impl World {
    /// One fault, sometimes, and when the next one may come.
    pub(crate) fn weather(&mut self) {
        if self.calm {
            return;
        }
        let next = self.rng.range(200, 3_000);
        self.after(next, Due::Weather);
        let addr = self.any();
        let primaries = self.primaries();
        let group = 1 + self.rng.below(GROUPS as usize) as u32;
        let primary = primaries.get(&group).cloned().unwrap_or_else(|| addr.clone());
        let member = self.rng.below(MEMBERS);
        let long = self.rng.range(100, 6_000);
        let deed = match self.rng.below(23) {
            0 => Deed::Restart(primary, self.rng.range(3_000, 9_000), 0),
            1 => Deed::Restart(primary, self.rng.range(10, 600), 0),
            2 => {
                let kept = self.instances.get(&primary).map_or(0, |i| i.data.len().saturating_sub(20));
                Deed::Restart(primary, self.rng.range(10, 3_000), kept)
            }
            3 | 4 => Deed::Freeze(primary, long),
            5 => Deed::Freeze(addr, long),
            6 => Deed::Cut(name(member), primary.to_string(), long),
            7 => {
                for other in 0..MEMBERS {
                    self.perform(Deed::Cut(name(other), primary.to_string(), long));
                }
                return;
            }
            8 => Deed::Cut(addr.to_string(), primary.to_string(), long),
            9 => Deed::Cut("p0".to_owned(), primary.to_string(), long),
            10 => Deed::CrashMember(member),
            11 => Deed::PauseMember(member, long),
            12 => {
                self.silence_proxy(0, long);
                return;
            }
            13 => Deed::Cut(name(member), name((member + 1) % MEMBERS), long),
            14 => Deed::Cut(name(member), addr.to_string(), long),
            15 => Deed::Cut("p1".to_owned(), primary.to_string(), long),
            16 => Deed::Cut(name(member), format!("p{}", self.rng.below(2)), long),
            17 => Deed::Mute(primary.to_string(), name(member), long),
            18 => {
                for other in 0..MEMBERS {
                    self.perform(Deed::Mute(primary.to_string(), name(other), long));
                }
                return;
            }
            19 => Deed::Mute(name(member), addr.to_string(), long),
            20 => self.one_way_between(&[addr.to_string(), primary.to_string()], long),
            21 => {
                let pairs = [primary.to_string(), name(member), format!("p{}", self.rng.below(2))];
                self.one_way_between(&pairs, long)
            }
            _ => Deed::Ask(Command::Switchover { group, to: None }),
        };
        self.perform(deed);
    }

    /// One of them does not hear one of the others.
    fn one_way_between(&mut self, all: &[String], ms: u64) -> Deed {
        let from = self.rng.below(all.len());
        let to = (from + 1 + self.rng.below(all.len() - 1)) % all.len();
        Deed::Mute(all[from].clone(), all[to].clone(), ms)
    }

    fn any(&mut self) -> Addr {
        let (group, n) = (1 + self.rng.below(GROUPS as usize) as u32, self.rng.below(3) as u16);
        format!("127.0.0.1:{}", port(group, n)).parse().expect("an address")
    }
}
