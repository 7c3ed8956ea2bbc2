//! The machine that runs the tests, and the programs that they start.

pub mod browser;
pub mod hanging;
pub mod machine;
pub mod manager;
pub mod process;
pub mod program;
pub mod store;
pub mod terminal;
pub mod trace;
