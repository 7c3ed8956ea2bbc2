//! The connection log: one line for each connection, its forms, and where it goes (pen(8),
//! CONNECTION LOG).

mod ends;
mod facts;
mod forms;
mod places;

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::harness::{Builder, until};

/// The builder of a pen that logs its connections as JSON, and the path of the log.
fn logging(builder: Builder) -> (Builder, PathBuf) {
    logging_as(builder, "json")
}

/// The same in another form.
fn logging_as(builder: Builder, format: &str) -> (Builder, PathBuf) {
    let log = builder.directory().join("connections");
    let command = format!("connection_log {}", log.display());
    let format = format!("connection_log_format {format}");
    (builder.options(["-O", &command, "-O", &format]), log)
}

/// The lines of the log, once there are `count` and none is unfinished.
#[track_caller]
fn lines(log: &Path, count: usize) -> Vec<String> {
    until("the lines are in the log", || {
        let text = fs::read_to_string(log).ok()?;
        let lines: Vec<String> = text.lines().map(str::to_owned).collect();
        (text.ends_with('\n') && lines.len() >= count).then_some(lines)
    })
}

/// The lines as JSON, once there are `count`.
#[track_caller]
fn entries(log: &Path, count: usize) -> Vec<Value> {
    let parse = |line: String| serde_json::from_str(&line).unwrap_or_else(|_| panic!("{line:?}"));
    lines(log, count).into_iter().map(parse).collect()
}

/// How the connections ended, once there are `count` of them.
#[track_caller]
fn ends(log: &Path, count: usize) -> Vec<String> {
    let end = |entry: &Value| entry["end"].as_str().unwrap().to_owned();
    let ends: Vec<String> = entries(log, count).iter().map(end).collect();
    assert_eq!(ends.len(), count, "{ends:?}");
    ends
}
