//! What a start is given: the paths of the command line, what only a start can say, the command
//! that waits for it, and what ends it early.

pub(crate) mod background;
pub(crate) mod interrupt;
pub(crate) mod options;
pub(crate) mod paths;
