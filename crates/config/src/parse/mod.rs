//! Parses text into commands: words and numbers, lines, and files of lines.

pub mod file;
pub mod grammar;
