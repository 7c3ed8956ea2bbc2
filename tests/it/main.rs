//! The black-box tests: the real programs, real clients, and servers of the tests or of Debian.
//! There is a folder for each subject, and one harness.

#![allow(clippy::unwrap_used, reason = "in a test, a panic is how a failure is said")]

mod checks;
mod control;
mod documents;
mod harness;
mod http;
mod limits;
mod metrics;
mod names;
mod page;
mod placement;
mod process;
mod relay;
mod reports;
mod rolling;
mod supervisor;
mod tls;
mod upgrade;
