//! The weather: which fault comes next, and what people want meanwhile.

use crate::members::name;
use crate::world::{Deed, Due, GROUPS, MEMBERS, PROXIES, World, port};
use cluster::instance::Addr;
use configsvr::control::command::{Command, NewMove, NewMoves, Steering};
use configsvr::control::task::Mode;

impl World {
    /// One fault, sometimes, and when the next one may come.
    pub(crate) fn weather(&mut self) {
        if self.calm {
            return;
        }
        let next = self.rng.range(150, 2_500);
        self.after(next, Due::Weather);
        let group = self.busy_group();
        let primary = self.primaries.get(&group).cloned().unwrap_or_else(|| self.any());
        let (addr, member, proxy) = (self.any(), self.rng.below(MEMBERS), self.rng.below(PROXIES));
        let leader = self.leader.unwrap_or(member);
        let long = self.rng.range(50, 5_000);
        let down = self.rng.range(10, 2_000);
        let writes = self.instances.get(&primary).map_or(0, |i| i.data.len());
        let deed = match self.rng.below(30) {
            0 => Deed::Restart(primary, self.rng.range(2_000, 8_000), writes.saturating_sub(20)),
            1 => Deed::Restart(primary, down, if self.rng.one_in(2) { 0 } else { usize::MAX }),
            2 => Deed::Restart(addr, down, usize::MAX),
            3 => Deed::Freeze(primary, long),
            4 => Deed::Freeze(addr, down),
            5 => Deed::Cut(name(member), primary.to_string(), long),
            6 => Deed::Cut(addr.to_string(), primary.to_string(), long),
            7 => Deed::Cut(format!("p{proxy}"), primary.to_string(), down),
            8 | 9 => Deed::CrashMember(leader),
            10 => Deed::CrashMember(member),
            11..=13 => Deed::PauseMember(leader, self.rng.range(100, 8_000)),
            14 | 15 => return self.hide(proxy, long),
            16 => Deed::FreezeProxy(proxy, self.rng.range(50, 9_000)),
            17 => Deed::CrashProxy(proxy, long),
            18 => Deed::CrashProxy(proxy, self.rng.range(10, 200)),
            19 => Deed::StoreAway(self.rng.range(100, 2_500)),
            20 => Deed::KillMovers,
            21 => {
                // A proxy that was away starts anew, and hears nobody.
                self.hide(proxy, long + 3_000);
                Deed::CrashProxy(proxy, long)
            }
            22 => {
                // The leader dies while a proxy is cut off: the next one must know of it.
                self.hide(proxy, 9_000);
                for n in 0..MEMBERS {
                    self.after(3_500 + n as u64, Due::Do(Deed::CrashMember(n)));
                }
                return;
            }
            23 => Deed::StopProxy(proxy, long),
            24 => {
                // It said goodbye, and starts where nobody hears it.
                let deed = Deed::StopProxy(proxy, 5);
                self.perform(deed);
                return self.hide(proxy, long + 6_000);
            }
            25 | 26 => {
                // A replica lags, and is all that is left: of a target, mostly.
                let to = self.truth.tasks.values().find(|t| t.phase.works()).map_or(group, |t| t.to);
                let Some(primary) = self.primaries.get(&to).cloned() else { return };
                let replicas = self.instances.values().filter(|i| i.group == to && i.addr != primary);
                let pairs: Vec<_> = replicas.map(|i| (i.addr.to_string(), primary.to_string())).collect();
                for (replica, primary) in pairs {
                    self.perform(Deed::Cut(replica, primary, 6_000));
                }
                let wait = self.rng.range(100, 3_000);
                return self.after(wait, Due::Do(Deed::Restart(primary, 8_000, usize::MAX)));
            }
            _ => Deed::Ask(Command::Switchover { group, to: None }),
        };
        self.perform(deed);
    }

    /// A proxy hears from no member for so long, and reaches instances all the time.
    fn hide(&mut self, proxy: usize, ms: u64) {
        for n in 0..MEMBERS {
            self.perform(Deed::Cut(format!("p{proxy}"), name(n), ms));
        }
    }

    /// A group whose slots are on their way, if there is one.
    fn busy_group(&mut self) -> u32 {
        let busy: Vec<u32> =
            self.truth.tasks.values().filter(|t| t.phase.works()).flat_map(|t| [t.from, t.to]).collect();
        match busy.is_empty() || self.rng.one_in(4) {
            true => 1 + self.rng.below(GROUPS as usize) as u32,
            false => *self.rng.pick(&busy),
        }
    }

    fn any(&mut self) -> Addr {
        let (group, n) = (1 + self.rng.below(GROUPS as usize) as u32, self.rng.below(2) as u16);
        format!("127.0.0.1:{}", port(group, n)).parse().expect("an address")
    }

    /// What people want while there is weather: slots moved, migrations steered and reversed.
    pub(crate) fn wish(&mut self) {
        let ids: Vec<u64> = self.truth.tasks.keys().rev().take(4).copied().collect();
        let open = self.truth.tasks.values().filter(|t| !t.phase.is_over()).count();
        let steer = |id, steering| Command::SteerMigration { id, steering };
        let paused = |on| Steering { paused: Some(on), ..Steering::default() };
        let command = match (self.rng.below(12), ids.is_empty()) {
            (0, false) => steer(*self.rng.pick(&ids), Steering { cancelled: Some(true), ..Steering::default() }),
            (1, false) => steer(*self.rng.pick(&ids), paused(true)),
            (2..=4, false) => steer(*self.rng.pick(&ids), paused(false)),
            (5 | 6, false) => Command::ReverseMigration { id: *self.rng.pick(&ids) },
            _ if open > 3 => return,
            (7, _) => self.moves(2),
            _ => self.moves(1),
        };
        self.ask(command);
    }

    fn moves(&mut self, n: usize) -> Command {
        let mut moves = Vec::new();
        for _ in 0..n {
            let from = 1 + self.rng.below(GROUPS as usize) as u32;
            let to = 1 + (from + self.rng.below(GROUPS as usize - 1) as u32) % GROUPS;
            let has = self.truth.owners.iter().filter(|owner| **owner == from).count();
            let count = match self.rng.below(3) {
                0 => has,
                1 => has / 2,
                _ => has.min(1),
            };
            moves.push(NewMove { from, to, slots: Vec::new(), count: Some(count.max(1) as u16) });
        }
        let mode = if self.rng.one_in(3) { Mode::OnAccess } else { Mode::Copy };
        Command::StartMigrations(NewMoves { moves, mode, ..NewMoves::default() })
    }
}
