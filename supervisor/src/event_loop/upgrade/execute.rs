//! The change of programs: the state is written, every descriptor in it passes, and the new program
//! is executed.

#![forbid(unsafe_code)]

use std::ffi::{CString, OsStr};
use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::time::Instant;

use pen_ipc::text::error_text;

use crate::VARIABLES;
use crate::event_loop::Supervisor;
use crate::event_loop::job::Requester;
use crate::files::memory as plain;
use crate::handover::TableTransfer;
use crate::handover::descriptors::Number;
use crate::handover::marker::{Marker, Role};
use crate::handover::memory;
use crate::limits::why_within_limits;
use crate::sys::inherited::{Inheritance, set_inheritance};
use crate::sys::program::{self, Program};

impl Supervisor {
    /// Executes the new program in the place of this one. Returns only if that failed: why.
    pub(in crate::event_loop::upgrade) fn hand_over(
        &mut self,
        by: Requester,
        version: &str,
        table: TableTransfer,
    ) -> String {
        self.logger.debug(&format!("upgrade: pen {version} is executed"));
        // The new program knows nothing of these.
        self.log_unlogged(Instant::now());
        let mut state = self.save(by);
        let exported = match table {
            TableTransfer::Adopted => None,
            TableTransfer::Copied => match self.export() {
                Ok((export, clients)) => {
                    state.descriptors.push(export.clients);
                    state.export = Some(export);
                    Some(clients)
                }
                Err(error) => {
                    return format!(
                        "the clients cannot be written down: {}",
                        why_within_limits(&error)
                    );
                }
            },
        };
        let numbers = state.descriptors.clone();
        let written = memory::write(&state, self.build.format).and_then(|state| {
            // The new program writes the reason of its failure here. The old one reads it.
            Ok((state, plain::new()?))
        });
        let (state, report) = match written {
            Ok(written) => written,
            Err(error) => {
                return format!("the state cannot be written: {}", why_within_limits(&error));
            }
        };
        let error = self.execute(&state, &report, &numbers);
        drop(exported);
        let passed = numbers.iter().map(|number| number.0);
        // Otherwise each later child that executes a program would inherit them.
        passed.for_each(|number| {
            let _ = set_inheritance(number, Inheritance::Ends);
        });
        format!("the new program cannot be executed: {}", error_text(&error))
    }

    fn execute(&self, state: &OwnedFd, report: &File, numbers: &[Number]) -> io::Error {
        let own = [state.as_raw_fd(), report.as_raw_fd()];
        for number in numbers.iter().map(|number| number.0).chain(own) {
            if let Err(error) = set_inheritance(number, Inheritance::Passes) {
                return error;
            }
        }
        let arguments: Vec<CString> =
            self.state.argv.iter().filter_map(|word| CString::new(word.as_slice()).ok()).collect();
        let marker = Marker { role: Role::Successor, state: own[0], report: own[1] };
        program::execute(Program::Successor, &arguments, &environment(Some(marker)))
    }
}

/// The environment of the new program: the variables that pen keeps, and the marker.
pub(crate) fn environment(marker: Option<Marker>) -> Vec<CString> {
    let kept = VARIABLES.iter().filter_map(|name| {
        let value = std::env::var_os(name)?;
        variable(name, &value)
    });
    let marker = marker.and_then(|marker| variable(Marker::VARIABLE, OsStr::new(&marker.text())));
    kept.chain(marker).collect()
}

fn variable(name: &str, value: &OsStr) -> Option<CString> {
    CString::new([name.as_bytes(), b"=", value.as_bytes()].concat()).ok()
}
