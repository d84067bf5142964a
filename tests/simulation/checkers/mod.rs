//! What must hold, whatever happens. Each checker knows the whole truth about the model, so it need not guess.

pub(crate) mod owners;
pub(crate) mod replies;
pub(crate) mod listening;
pub(crate) mod history;
pub(crate) mod pops;
