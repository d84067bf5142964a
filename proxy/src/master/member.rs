//! The proxy as a member of the fleet: what the control plane is told of it, and what becomes of what it says.

use super::event::{News, Standing};
use super::metrics::MembershipNow;
use super::process::Process;
use super::registration::{First, first_contact, say_goodbye};
use super::{Master, clock, fleet, store};
use crate::stats::{OfGroup, Stats};
use cluster::beat::{Beat, Sight};
use cluster::topology::Topology;
use std::sync::Arc;

/// How the control plane and this proxy get on.
#[derive(Debug, Default)]
pub(super) struct Membership {
    /// The topology came from the disk because no member answered.
    pub(super) from_disk: bool,
    /// The disk's topology, not served before we are registered: we said goodbye, so slots may have moved since.
    pub(super) kept_back: Option<Arc<Topology>>,
    /// No new clients, says the control plane. It stands until it says otherwise.
    pub(super) draining: bool,
    reachable: bool,
    beats_ok: u64,
    beats_failed: u64,
    answered_us: Option<u64>,
}

impl Master {
    /// At the start: the topology in force, if a member knows one; else the disk's has to do.
    pub(super) fn ask_control_plane(&mut self) {
        // An image that took over goes on serving; the next heartbeat tells what is new.
        if self.config.control.configsvrs.is_empty() || !self.processes.is_empty() {
            return;
        }
        let start = first_contact(&self.standing());
        if start.registered {
            self.come_back();
        } else if store::has_left(&self.topology_path) {
            self.membership.kept_back = self.topology.take();
            let (path, hint) = (store::left_path(&self.topology_path), "to serve it anyway: remove this file, restart");
            tracing::warn!(
                path = %path.display(), hint,
                "this proxy said goodbye when it ended, and slots may have moved since: it serves nothing before a \
                 configsvr has registered it"
            );
            return;
        }
        match start.first {
            First::NoneYet => tracing::info!("the control plane has no topology yet"),
            First::NobodyAnswers(why) => {
                self.membership.from_disk = self.topology.is_some();
                let served =
                    if self.membership.from_disk { "the topology on disk is served" } else { "there is none on disk" };
                tracing::warn!(epoch = self.epoch(), why, "no configsvr answers: {served}");
            }
            First::Topology(topology) if Some(topology.epoch()) < self.epoch() => {
                let (theirs, ours) = (topology.epoch(), self.epoch());
                tracing::warn!(
                    theirs,
                    ours,
                    "the control plane's topology is older than the one on disk, which is served"
                );
            }
            First::Topology(topology) => {
                if let Err(problem) = self.install(*topology) {
                    tracing::error!(why = problem.message, "the control plane's topology is refused");
                }
            }
        }
    }

    /// Registered: what is on disk may be served, and is as before should nobody answer the next time.
    fn come_back(&mut self) {
        self.membership.reachable = true;
        if let Err(e) = store::come_back(&self.topology_path) {
            let path = store::left_path(&self.topology_path);
            tracing::warn!(path = %path.display(), error = %e, "cannot be removed");
        }
        if let Some(topology) = self.membership.kept_back.take() {
            let epoch = topology.epoch();
            self.topology = Some(topology);
            self.step(fleet::Event::Topology { epoch });
        }
    }

    pub(super) fn note_news(&mut self, news: &News) {
        let registered = news.heard.as_ref().is_some_and(|answer| answer.registered);
        if registered && self.membership.kept_back.is_some() {
            self.come_back();
        }
        let (now_us, epoch) = (self.now_us(), self.epoch().unwrap_or(0));
        if self.membership.note(news, now_us, epoch) {
            tracing::info!(draining = self.membership.draining, "the control plane has decided about new clients");
        }
    }

    /// What the next heartbeat is to say.
    pub(super) fn standing(&self) -> Standing {
        let control = self.config.control.clone();
        let beat = Beat {
            id: control.id.clone(),
            version: env!("CARGO_PKG_VERSION").into(),
            addr: control.advertise.clone(),
            admin_addr: control.advertise_admin.clone(),
            zone: control.zone.clone(),
            epoch: self.fleet.views().iter().map(|v| v.serving).min().unwrap_or(0),
            started_at: clock::unix_ms(self.started),
            from_disk: self.membership.from_disk,
            leaving: false,
            instances: if control.configsvrs.is_empty() { Vec::new() } else { self.sights() },
        };
        Standing { control, beat, epoch: self.epoch().unwrap_or(0) }
    }

    /// At the end, when no worker is left: what nobody waits for need not be looked for. That it was said is written down
    /// first: from then on slots may move without us. Who cannot be heard is missed, which is safe.
    pub(super) fn take_leave(&self) {
        if !self.membership.reachable {
            return;
        }
        if let Err(e) = store::leave(&self.topology_path) {
            tracing::warn!(error = %e, "no goodbye: it could not be written down");
            return;
        }
        let mut standing = self.standing();
        standing.beat.leaving = true;
        say_goodbye(&standing);
    }

    fn sights(&self) -> Vec<Sight> {
        let page = |p: &Process| Stats::of_page(&p.page.shared.read());
        let pages: Vec<Stats> = self.processes.values().map(page).collect();
        self.topology.iter().flat_map(|topology| sights(topology, &pages)).collect()
    }

    /// None: there is no control plane.
    pub(super) fn membership_now(&self) -> Option<MembershipNow> {
        let m = &self.membership;
        let now_us = self.now_us();
        (!self.config.control.configsvrs.is_empty()).then(|| MembershipNow {
            from_disk: m.from_disk,
            reachable: m.reachable,
            beats_ok: m.beats_ok,
            beats_failed: m.beats_failed,
            last_beat_age_s: m.answered_us.map(|us| now_us.saturating_sub(us) as f64 / 1e6),
        })
    }
}

impl Membership {
    /// True: draining has begun or ended.
    fn note(&mut self, news: &News, now_us: u64, epoch: u64) -> bool {
        self.reachable = news.heard.is_some();
        let Some(answer) = &news.heard else {
            self.beats_failed += 1;
            return false;
        };
        self.beats_ok += 1;
        self.answered_us = Some(now_us);
        // What we serve is what is in force, wherever it came from.
        self.from_disk &= answer.epoch != epoch;
        std::mem::replace(&mut self.draining, answer.draining) != answer.draining
    }
}

/// The primaries as the workers' pages show them.
fn sights(topology: &Topology, pages: &[Stats]) -> Vec<Sight> {
    let sight = |group: &cluster::group::Group| {
        let entry = |p: &Stats| (0..p.groups()).find(|&g| p.of_group(g, OfGroup::IdPlusOne) == u64::from(group.id) + 1);
        let word = |word: OfGroup| pages.iter().map(move |p| entry(p).map_or(0, |g| p.of_group(g, word)));
        Some(Sight {
            addr: group.primary()?.addr.clone(),
            links_up: word(OfGroup::LinkUp).sum::<u64>() as u32,
            links: pages.len() as u32,
            last_reply_ms: word(OfGroup::ReplyAge).filter(|&age| age > 0).min().map(|age| age - 1),
        })
    };
    topology.groups().iter().filter_map(sight).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use cluster::beat::BeatAnswer;
    use cluster::wire;

    fn heard(epoch: u64, draining: bool) -> News {
        News { heard: Some(BeatAnswer { epoch, draining, registered: true, next_ms: 1000 }) }
    }

    #[test]
    fn draining_stands_until_the_control_plane_says_otherwise() {
        let mut membership = Membership::default();
        assert!(!membership.note(&heard(1, false), 5, 1));
        assert!(membership.note(&heard(1, true), 6, 1));
        assert!(!membership.note(&News { heard: None }, 7, 1));
        assert!(membership.draining && !membership.reachable);
        assert_eq!((membership.answered_us, membership.beats_ok, membership.beats_failed), (Some(6), 2, 1));
        assert!(membership.note(&heard(1, false), 8, 1));
    }

    #[test]
    fn the_disk_is_forgotten_once_the_control_plane_says_the_same() {
        let mut membership = Membership { from_disk: true, ..Membership::default() };
        membership.note(&heard(9, false), 5, 7);
        assert!(membership.from_disk);
        membership.note(&heard(9, false), 6, 9);
        assert!(!membership.from_disk);
    }

    #[test]
    fn instances_are_seen_through_all_workers() {
        let json =
            br#"{"epoch":7,"groups":[{"id":4,"instances":[{"addr":"127.0.0.1:6401","role":"primary"}]}],"slots":[]}"#;
        let topology = wire::parse(json).expect("good");
        let page = |up: u64, age: u64| {
            let mut stats = Stats::default();
            stats.group_entry(3);
            let group = stats.group_entry(4).expect("room");
            stats.set_of_group(group, OfGroup::LinkUp, up);
            stats.set_of_group(group, OfGroup::ReplyAge, age);
            stats
        };
        let seen = sights(&topology, &[page(1, 31), page(0, 0), page(1, 8)]);
        let addr = "127.0.0.1:6401".parse().expect("addr");
        assert_eq!(seen, [Sight { addr, links_up: 2, links: 3, last_reply_ms: Some(7) }]);
        assert_eq!(sights(&topology, &[Stats::default()])[0].last_reply_ms, None);
    }
}
