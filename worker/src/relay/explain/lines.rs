//! The lines of an explanation, as many as fit.

use std::collections::HashSet;
use std::fmt::Write;

use pen_ipc::message::EXPLANATION;

/// The lines; each one occurs once.
#[derive(Default)]
pub(super) struct Lines {
    all: Vec<String>,
    seen: HashSet<String>,
}

impl Lines {
    pub(super) fn add(&mut self, line: String) {
        if self.seen.insert(line.clone()) {
            self.all.push(line);
        }
    }

    /// All lines, or as many as fit and then the last line, which says the result.
    pub(super) fn text(self) -> String {
        let mut text = String::new();
        let last = self.all.len() - 1;
        for (n, line) in self.all.iter().enumerate() {
            if n < last && text.len() + line.len() + RESERVE > EXPLANATION {
                // Writing to a String does not fail.
                let _ = writeln!(text, "... {} more", last - n);
                text.push_str(&self.all[last]);
                text.push('\n');
                return text;
            }
            text.push_str(line);
            text.push('\n');
        }
        text
    }
}

/// Bytes kept free for the last line, for the line with the number of missing lines, and for the
/// lines about other workers.
pub(super) const RESERVE: usize = 4096;
