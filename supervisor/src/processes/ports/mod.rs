//! Processes that serve a port of their own, as the supervisor sees them: the control process and
//! the page process.

pub(crate) mod checker;
mod child;
pub(crate) mod control;
pub(crate) mod kind;
pub(crate) mod old;
pub(crate) mod page;
pub(crate) mod port;
pub(crate) mod slot;
