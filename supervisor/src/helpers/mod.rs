//! Helper processes: children that do one thing for the supervisor, answer, and end.

pub(crate) mod examine;
pub(crate) mod helper;
pub(crate) mod names;
pub(crate) mod open;
pub(crate) mod render;
pub(crate) mod resolve;
