//! Moves of slots: how far each is. Progress is known to the leader, whose mover copies.

use super::page::Page;
use super::seconds;
use crate::control::view::View;
use std::collections::BTreeMap;

pub(super) fn tell(page: &mut Page, view: &View) {
    let all = &view.migrations;
    let active = all.iter().filter(|m| !m.task.phase.is_over()).count();
    page.gauge("migrations_active", "Moves of slots that are not over.", &[], active as f64);
    let mut phases: BTreeMap<&str, u32> = BTreeMap::new();
    for m in all {
        *phases.entry(m.task.phase.word()).or_default() += 1;
    }
    for (phase, n) in phases {
        let help = "Moves of slots that are remembered, by phase.";
        page.gauge("migrations", help, &[("phase", phase)], f64::from(n));
    }
    for m in all.iter().filter(|m| !m.task.phase.is_over()) {
        let labels = [("id", &*m.task.id.to_string()), ("phase", m.task.phase.word())];
        page.gauge("migration_phase", "Always 1; the label is the phase of a move that is not over.", &labels, 1.0);
    }
    let progress = [
        ("migration_keys_copied_total", "Keys that were copied to the target."),
        ("migration_bytes_copied_total", "Bytes that were copied to the target."),
        ("migration_commands_applied_total", "Writes of the source that the target was given."),
        ("migration_keys_scanned_total", "Keys of the source that were met, whatever their slots."),
    ];
    for (at, (name, help)) in progress.into_iter().enumerate() {
        for (id, p) in all.iter().filter_map(|m| Some((m.task.id.to_string(), m.progress?))) {
            let value = [p.copied, p.bytes, p.applied, p.scanned][at];
            page.count(name, help, &[("id", &id)], value as f64);
        }
    }
    let state = [
        ("migration_keys_to_scan", "Keys that the source has."),
        ("migration_dirty_keys", "Keys that were written meanwhile and are to be copied again."),
        ("migration_lag_bytes", "Bytes of the source's writes that the target has not got."),
    ];
    for (at, (name, help)) in state.into_iter().enumerate() {
        for (id, p) in all.iter().filter_map(|m| Some((m.task.id.to_string(), m.progress?))) {
            page.gauge(name, help, &[("id", &id)], [p.to_scan, p.dirty, p.lag_bytes][at] as f64);
        }
    }
    for (id, tally) in all.iter().filter_map(|m| Some((m.task.id.to_string(), m.task.tally?))) {
        let help = "How long a move's slots were held when they changed hands.";
        page.gauge("migration_pause_seconds", help, &[("id", &id)], seconds(tally.pause_ms));
    }
}
