//! Log lines about success: what a reload changed, and each change by an operator, within a limit.

#![forbid(unsafe_code)]

use std::time::{Duration, Instant};

use pen_config::command::{Command, LogTarget};
use pen_config::ids::ServerId;
use pen_config::print::difference;

use crate::event_loop::Supervisor;
use crate::event_loop::job::Requester;
use crate::event_loop::reload::prepare::{Change, PreparedChange};
use crate::event_loop::reload::{Batch, CommandSource};
use crate::files::status_file::StatusFile;
use crate::processes::flood::{Admission, Flood};

/// The log text for the time when all processes work by new settings.
#[derive(Debug)]
pub(in crate::event_loop) enum Success {
    /// The configuration file or the TLS files were read again: one phrase for each change.
    Reload(Vec<String>),
    /// An operator changed something.
    Operator(String),
    /// Nothing: an operator set what was set already.
    Nothing,
}

/// A limit for log lines that operators cause: a script may change something a thousand times a
/// second.
#[derive(Debug)]
pub(in crate::event_loop) struct ChangeNotices {
    flood: Flood,
    /// The last change that was withheld.
    last: Option<String>,
}

impl ChangeNotices {
    pub(in crate::event_loop) fn new(now: Instant) -> ChangeNotices {
        ChangeNotices { flood: Flood::new(MOST_CHANGES, PERIOD, now), last: None }
    }

    /// Takes a change by an operator; returns the lines to log now.
    fn take(&mut self, what: &str, now: Instant) -> Vec<String> {
        match self.flood.admit(now) {
            Admission::Admitted { withheld_before } => self
                .summary(withheld_before)
                .into_iter()
                .chain([format!("operator: {what}")])
                .collect(),
            Admission::Withheld => {
                self.last = Some(what.to_owned());
                Vec::new()
            }
        }
    }

    /// The line about withheld changes, once their period is over.
    pub(in crate::event_loop) fn settle(&mut self, now: Instant) -> Option<String> {
        let withheld = self.flood.settle(now);
        self.summary(withheld)
    }

    /// The line about all withheld changes.
    pub(in crate::event_loop) fn finish(&mut self, now: Instant) -> Option<String> {
        self.settle(now + PERIOD)
    }

    fn summary(&mut self, withheld: u64) -> Option<String> {
        let last = self.last.take_if(|_| withheld > 0)?;
        Some(format!("operator: {withheld} more changes, the last of them: {last}"))
    }
}

impl Supervisor {
    /// The log text for a change. Call this before the change is put in force.
    pub(in crate::event_loop) fn success(
        &self,
        change: &PreparedChange,
        batch: &Batch,
        blacklist: &[(ServerId, u32)],
    ) -> Success {
        match &batch.source {
            CommandSource::File => Success::Reload(self.phrases(change, blacklist)),
            CommandSource::Operator(include @ Command::Include(_)) => Success::Operator(format!(
                "{include}: {}",
                listed(&self.phrases(change, blacklist))
            )),
            CommandSource::Operator(command) => {
                match is_renewed(command) || !self.phrases(change, blacklist).is_empty() {
                    true => Success::Operator(command.to_string()),
                    false => Success::Nothing,
                }
            }
        }
    }

    /// The phrases for a change, one for each thing that it changes.
    fn phrases(&self, change: &PreparedChange, blacklist: &[(ServerId, u32)]) -> Vec<String> {
        let state = &self.state;
        let mut phrases = difference(&self.context.settings, &change.settings);
        phrases.extend(
            blacklist
                .iter()
                .map(|(server, seconds)| format!("server {server} blacklist {seconds}")),
        );
        phrases.extend(change.listen.as_ref().map(|moved| format!("listen {}", moved.local)));
        let log = |target: Option<&LogTarget>| {
            target.map_or(Command::NoLog, |log| Command::Log(Some(log.clone())))
        };
        let target = match &change.log {
            Change::Keep => state.log.as_ref(),
            Change::Clear => None,
            Change::Set(new) => Some(&new.target),
        };
        if target != state.log.as_ref() {
            phrases.push(log(target).to_string());
        }
        let page = |file: Option<&std::path::Path>| {
            file.map_or(Command::NoWebStats, |path| Command::WebStats(Some(path.into())))
        };
        let present = state.status.as_ref().map(StatusFile::name);
        let file = match &change.status {
            Change::Keep => present,
            Change::Clear => None,
            Change::Set(file) => Some(file.name()),
        };
        if file != present {
            phrases.push(page(file).to_string());
        }
        if let (Some(_), Some(keys)) = (&change.tls, &self.context.keys) {
            phrases.extend(keys.certificates.renewed(&change.certificates));
        }
        phrases
    }

    /// Logs the success of a change.
    pub(in crate::event_loop) fn tell_success(
        &mut self,
        success: Success,
        by: Requester,
        now: Instant,
    ) {
        match success {
            Success::Operator(what) => self.tell_operator(&format!("{what}, by {by}"), now),
            Success::Nothing => {}
            Success::Reload(phrases) => {
                // TLS files are also read every hour. That is logged only if something changed.
                let asked = self.queue.is_hangup();
                let what = match &self.state.config {
                    Some(path) if asked => Some(format!("reloaded {}", path.display())),
                    _ if asked || !phrases.is_empty() => {
                        Some("the files of TLS were read again".to_owned())
                    }
                    _ => None,
                };
                if let Some(what) = what {
                    self.logger.notice(&printable(&format!("{what}: {}", listed(&phrases))));
                }
            }
        }
    }

    /// Logs a change by an operator.
    pub(in crate::event_loop) fn tell_operator(&mut self, what: &str, now: Instant) {
        for line in self.notices.take(&printable(what), now) {
            self.logger.notice(&line);
        }
    }
}

/// Whether a command opens or reads a file anew. That is logged even if the name is the same.
fn is_renewed(command: &Command) -> bool {
    matches!(
        command,
        Command::Log(Some(_))
            | Command::WebStats(Some(_))
            | Command::SslOcsp(_)
            | Command::SslNames(_)
    )
}

/// Text that is safe for the log, even with odd paths in it.
fn printable(text: &str) -> String {
    text.chars().map(|letter| if letter.is_control() { '?' } else { letter }).collect()
}

/// Phrases in one line: the first ones, and the number of the others.
fn listed(phrases: &[String]) -> String {
    let more = match phrases.len().saturating_sub(MOST_PHRASES) {
        0 => None,
        1 => Some("1 more setting changed".to_owned()),
        more => Some(format!("{more} more settings changed")),
    };
    let first = phrases.iter().take(MOST_PHRASES).cloned().chain(more).collect::<Vec<_>>();
    if first.is_empty() { "nothing changed".to_owned() } else { first.join("; ") }
}

/// Most changes by operators that are logged one by one in a period.
const MOST_CHANGES: u32 = 20;

const PERIOD: Duration = Duration::from_secs(10);

/// Most phrases in a line.
const MOST_PHRASES: usize = 10;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_many_changes_by_operators_some_are_told_and_the_rest_is_counted_with_the_last() {
        let start = Instant::now();
        let mut notices = ChangeNotices::new(start);
        let told = (0..2000)
            .flat_map(|n| notices.take(&format!("timeout {n}"), start))
            .collect::<Vec<_>>();
        assert_eq!((told.len(), told[19].as_str()), (20, "operator: timeout 19"));
        assert_eq!(notices.settle(start + PERIOD / 2), None);
        let summary = "operator: 1980 more changes, the last of them: timeout 1999";
        assert_eq!(notices.settle(start + PERIOD).as_deref(), Some(summary));
        assert_eq!(notices.settle(start + 2 * PERIOD), None);
        (0..22).for_each(|n| drop(notices.take(&n.to_string(), start + 3 * PERIOD)));
        assert_eq!(
            notices.take("prio", start + 4 * PERIOD),
            ["operator: 2 more changes, the last of them: 21", "operator: prio"]
        );
        (0..20).for_each(|n| drop(notices.take(&n.to_string(), start + 4 * PERIOD)));
        assert_eq!(
            notices.finish(start + 4 * PERIOD).as_deref(),
            Some("operator: 1 more changes, the last of them: 19")
        );
    }

    #[test]
    fn a_line_lists_the_first_phrases_and_counts_the_rest() {
        let phrases = |count: usize| (0..count).map(|n| n.to_string()).collect::<Vec<_>>();
        assert_eq!(listed(&phrases(0)), "nothing changed");
        assert_eq!(listed(&phrases(3)), "0; 1; 2");
        assert!(listed(&phrases(11)).ends_with("; 9; 1 more setting changed"));
        assert!(listed(&phrases(12)).ends_with("; 9; 2 more settings changed"));
    }
}
