//! The state in sealed memory: a line with a magic word and the format, and then JSON.
//!
//! JSON has names for all fields, so that releases with more or fewer of them understand each
//! other. The first line can be read whatever the format is.

#![forbid(unsafe_code)]

use std::fs::File;
use std::io::{self, Write};
use std::os::fd::OwnedFd;

use pen_ipc::text::error_text;

use crate::files::memory;
use crate::handover::Build;
use crate::handover::state::State;

/// The first word of the memory.
const MAGIC: &str = "pen-state";

/// Most bytes of a state: far more than that of 4096 servers and 194 workers.
const MOST: usize = 64 << 20;

/// Writes a state.
///
/// # Errors
/// No descriptors or memory left.
pub(crate) fn write(state: &State, format: u32) -> io::Result<OwnedFd> {
    let text = serde_json::to_vec(state).map_err(io::Error::other)?;
    let mut to = memory::new()?;
    writeln!(to, "{MAGIC} {format}")?;
    to.write_all(&text)?;
    memory::seal(to)
}

/// Reads a state for a program.
///
/// # Errors
/// One line: the memory is not sealed, is no state, has another format, or requires a feature that
/// the program lacks.
pub(crate) fn read(memory: &File, build: &Build) -> Result<State, String> {
    match memory::is_sealed(memory) {
        Ok(true) => {}
        Ok(false) => return Err("the state is not in sealed memory".into()),
        Err(error) => return Err(format!("the state: {}", error_text(&error))),
    }
    let bytes = pen_ipc::memory::read(memory, MOST)
        .map_err(|error| format!("the state cannot be read: {}", error_text(&error)))?;
    parse(&bytes, build)
}

fn parse(bytes: &[u8], build: &Build) -> Result<State, String> {
    let end = bytes.iter().position(|byte| *byte == b'\n').unwrap_or(bytes.len());
    let (line, rest) = bytes.split_at(end);
    let written = std::str::from_utf8(line)
        .ok()
        .and_then(|line| line.strip_prefix(MAGIC)?.strip_prefix(' ')?.parse::<u32>().ok())
        .ok_or("the state was not written by a pen")?;
    let format = build.format;
    if written != format {
        return Err(format!(
            "the state has format {written}, and this pen reads format {format}: it needs a restart"
        ));
    }
    let state: State = serde_json::from_slice(rest)
        .map_err(|error| format!("the state is not understood: {error}; it needs a restart"))?;
    match state.requires.iter().find(|name| !build.features.contains(&name.as_str())) {
        Some(unknown) => {
            let version = build.version;
            Err(format!(
                "the state requires {unknown:?}, which pen {version} lacks: it needs a restart"
            ))
        }
        None => Ok(state),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::handover::state::FEATURES;

    #[test]
    fn a_state_that_requires_what_this_release_lacks_is_refused() {
        let requiring = |features: &[&str]| {
            let text = include_str!("state-0.1.0.json");
            let mut state: serde_json::Value = serde_json::from_str(text).unwrap();
            state["requires"] = features.into();
            let bytes = format!("{MAGIC} 7\n{state}");
            parse(bytes.as_bytes(), &Build { format: 7, ..Build::OWN }).map(|state| state.requires)
        };
        assert_eq!(requiring(&FEATURES).unwrap(), FEATURES);
        let refused = requiring(&[FEATURES[0], "flight"]).unwrap_err();
        assert!(refused.contains("requires \"flight\""), "{refused}");
    }
}
