//! Orders to instances: each is given once, remembered until nobody wants it any more, and given again when it failed.

use crate::control::event::{Action, DeedId, Order, Report};
use crate::control::layout::Token;
use crate::control::limits::{ORDER_AGAIN_MS, ORDER_MS};
use crate::control::out::Out;
use cluster::instance::Addr;
use std::collections::BTreeMap;

/// Why an order is given, and to whom.
type Key = (String, Addr);

#[derive(Debug)]
struct Given {
    order: Order,
    deed: DeedId,
    at: u64,
    /// And when.
    outcome: Option<(Result<Report, String>, u64)>,
    wanted_at: u64,
    /// How often it failed.
    failures: u32,
}

/// How an order stands.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Progress {
    UnderWay,
    Done(Box<Report>),
    /// It failed, so often by now; it will be given again.
    Failed(u32),
}

/// All orders of a leader.
#[derive(Debug, Default)]
pub(super) struct Orders {
    given: BTreeMap<Key, Given>,
}

impl Orders {
    /// This order is wanted; how it stands. `why` names the phase it belongs to: an order of another phase is another
    /// order.
    pub(super) fn want(
        &mut self,
        now: u64,
        why: &str,
        instance: &Addr,
        order: Order,
        token: Token,
        out: &mut Out,
    ) -> Progress {
        let key = (why.to_owned(), instance.clone());
        let mut failures = 0;
        if let Some(given) = self.given.get_mut(&key).filter(|given| given.order == order) {
            given.wanted_at = now;
            match &given.outcome {
                Some((Ok(report), _)) => return Progress::Done(Box::new(report.clone())),
                Some((Err(_), at)) if now < at + ORDER_AGAIN_MS => return Progress::Failed(given.failures),
                None if now < given.at + ORDER_MS => {
                    return if given.failures > 0 { Progress::Failed(given.failures) } else { Progress::UnderWay };
                }
                _ => failures = given.failures + u32::from(given.outcome.is_none()),
            }
        }
        let deed = out.deed();
        let given = Given { order: order.clone(), deed, at: now, outcome: None, wanted_at: now, failures };
        self.given.insert(key, given);
        out.push(Action::Order { deed, token, instance: instance.clone(), order });
        if failures > 0 { Progress::Failed(failures) } else { Progress::UnderWay }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.given.is_empty()
    }

    /// It is to be given anew when it is wanted again.
    pub(super) fn forget(&mut self, why: &str, instance: &Addr) {
        self.given.remove(&(why.to_owned(), instance.clone()));
    }

    pub(super) fn done(&mut self, now: u64, deed: DeedId, outcome: Result<Report, String>) {
        let Some(given) = self.given.values_mut().find(|g| g.deed == deed) else { return };
        given.failures += u32::from(outcome.is_err());
        given.outcome = Some((outcome, now));
    }

    /// When it was done.
    pub(super) fn done_at(&self, why: &str, instance: &Addr) -> Option<u64> {
        let given = self.given.get(&(why.to_owned(), instance.clone()))?;
        given.outcome.as_ref().filter(|(outcome, _)| outcome.is_ok()).map(|(_, at)| *at)
    }

    /// The order that is remembered.
    pub(super) fn given(&self, why: &str, instance: &Addr) -> Option<&Order> {
        self.given.get(&(why.to_owned(), instance.clone())).map(|given| &given.order)
    }

    /// To whom an order was given for that reason.
    pub(super) fn given_for(&self, why: &str) -> Option<&Addr> {
        self.given.keys().find(|(of, _)| of == why).map(|(_, addr)| addr)
    }

    /// What nobody wanted lately is forgotten.
    pub(super) fn sweep(&mut self, now: u64) {
        self.given.retain(|_, g| now <= g.wanted_at + ORDER_MS);
    }

    /// Whether one of this kind is under way.
    pub(super) fn any_under_way(&self, why: &str) -> bool {
        self.given.iter().any(|((of, _), g)| of == why && g.outcome.is_none())
    }
}
