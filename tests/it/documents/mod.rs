//! What documents and packages promise, and what cannot be started.

mod bad_input;
mod design;
mod examples;
mod packaging;
