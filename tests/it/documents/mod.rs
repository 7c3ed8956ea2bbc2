//! The promises of documents and packages, and starts that must fail.

mod bad_input;
mod design;
mod examples;
mod packaging;
