//! What the tests run on and start.

pub mod hanging;
pub mod machine;
pub mod manager;
pub mod process;
pub mod program;
