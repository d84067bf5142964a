//! What is to be done, on its way to the server's loop.

use super::command::{Answer, Kind, Refusal};
use super::event::{Action, CallId, DeedId};

/// Actions in the order they were wanted; gives out the numbers of deeds.
#[derive(Debug, Default)]
pub(super) struct Out {
    actions: Vec<Action>,
    last: DeedId,
}

impl Out {
    pub(super) fn deed(&mut self) -> DeedId {
        self.last += 1;
        self.last
    }

    pub(super) fn push(&mut self, action: Action) {
        self.actions.push(action);
    }

    pub(super) fn answer(&mut self, call: CallId, outcome: Result<Answer, Refusal>) {
        self.push(Action::Answer { call, outcome });
    }

    pub(super) fn take(&mut self) -> Vec<Action> {
        std::mem::take(&mut self.actions)
    }
}

pub(super) fn refusal(kind: Kind, code: &str, message: impl Into<String>, hint: impl Into<String>) -> Refusal {
    Refusal { kind, code: code.to_owned(), message: message.into(), hint: hint.into() }
}
