//! Log lines about success: what a reload changed, and each change by an operator, within a limit.

#![forbid(unsafe_code)]

use std::path::Path;
use std::time::{Duration, Instant};

use pen_config::checks::ServerMode;
use pen_config::command::{Action, ServerChange, Setting};
use pen_config::ids::ServerId;
use pen_config::print::difference;
use pen_config::settings::Settings;
use pen_status::ChangeResult;
use pen_status::event::EventKind;

use crate::event_loop::Supervisor;
use crate::event_loop::job::Requester;
use crate::event_loop::reload::configuration::CommandSource;
use crate::event_loop::reload::stages::{Change, Plan, Success};
use crate::files::status_file::StatusFile;
use crate::flood::{Admission, Flood};
use crate::log::Severity;
use crate::log::recent::Incident;

/// A limit for log lines that operators cause: a script may change something a thousand times a
/// second.
#[derive(Debug)]
pub(in crate::event_loop) struct ChangeNotices {
    flood: Flood,
    /// The last change that was withheld.
    last: Option<String>,
}

/// A line for the log about changes, and what it means for programs.
#[derive(Debug)]
pub(in crate::event_loop) struct Notice {
    incident: Incident,
    line: String,
}

impl ChangeNotices {
    pub(in crate::event_loop) fn new(now: Instant) -> ChangeNotices {
        ChangeNotices { flood: Flood::new(MOST_CHANGES, PERIOD, now), last: None }
    }

    /// Takes a change by an operator; returns what to log now.
    fn take(&mut self, what: &str, incident: Incident, now: Instant) -> Vec<Notice> {
        match self.flood.admit(now) {
            Admission::Admitted { withheld_before } => self
                .summary(withheld_before)
                .into_iter()
                .chain([Notice { incident, line: format!("operator: {what}") }])
                .collect(),
            Admission::Withheld => {
                self.last = Some(what.to_owned());
                Vec::new()
            }
        }
    }

    /// The line about withheld changes, once their period is over.
    pub(in crate::event_loop) fn settle(&mut self, now: Instant) -> Option<Notice> {
        let withheld = self.flood.take_withheld(now);
        self.summary(withheld)
    }

    /// The line about all withheld changes.
    pub(in crate::event_loop) fn finish(&mut self, now: Instant) -> Option<Notice> {
        self.settle(now + PERIOD)
    }

    fn summary(&mut self, withheld: u64) -> Option<Notice> {
        let last = self.last.take_if(|_| withheld > 0)?;
        let changes = i64::try_from(withheld).unwrap_or(i64::MAX);
        Some(Notice {
            incident: Incident::of(EventKind::Setting).with("changes", changes),
            line: format!("operator: {withheld} more changes, the last of them: {last}"),
        })
    }
}

impl Supervisor {
    /// The log text for a change. Call this before the change is put in force.
    pub(in crate::event_loop::reload) fn success(
        &self,
        plan: &Plan,
        blacklist: &[(ServerId, u32)],
    ) -> Success {
        let phrases = self.phrases(plan, blacklist);
        match &plan.accepted.configuration.source {
            CommandSource::File => Success::Reload(phrases),
            CommandSource::Include(path) => {
                let include = Action::Include(path.clone());
                let incident = Incident::of(EventKind::Setting)
                    .with("setting", include.to_string())
                    .with("file", path.display().to_string())
                    .with("changes", count(&phrases));
                Success::Operator(format!("{include}: {}", listed(&phrases)), incident)
            }
            CommandSource::Setting(setting, _) => {
                match is_renewed(setting) || !phrases.is_empty() {
                    true => {
                        let incident = incident(setting, &plan.accepted.settings);
                        Success::Operator(setting.to_string(), incident)
                    }
                    false => Success::Nothing,
                }
            }
        }
    }

    /// The phrases for a change, one for each thing that it changes.
    fn phrases(
        &self,
        Plan { accepted, opened }: &Plan,
        blacklist: &[(ServerId, u32)],
    ) -> Vec<String> {
        let state = &self.state;
        let mut phrases = difference(&self.context.settings, &accepted.settings);
        phrases.extend(
            blacklist
                .iter()
                .map(|(server, seconds)| format!("server {server} blacklist {seconds}")),
        );
        phrases.extend(opened.listener.as_ref().map(|moved| format!("listen {}", moved.local)));
        let target = match &opened.log {
            Change::Keep => state.log.as_ref(),
            Change::Clear => None,
            Change::Set(new) => Some(&new.target),
        };
        if target != state.log.as_ref() {
            phrases.push(Setting::Log(target.cloned()).to_string());
        }
        let target = match &opened.connection_log {
            Change::Keep => state.connection_log.as_ref(),
            Change::Clear => None,
            Change::Set(new) => Some(&new.target),
        };
        if target != state.connection_log.as_ref() {
            phrases.push(Setting::ConnectionLog(target.cloned()).to_string());
        }
        let present = state.status.as_ref().map(StatusFile::name);
        let file = match &opened.status_file {
            Change::Keep => present,
            Change::Clear => None,
            Change::Set(new) => Some(new.file.name()),
        };
        if file != present {
            phrases.push(Setting::WebStats(file.map(Path::to_owned)).to_string());
        }
        if let (Some(tls), Some(keys)) = (&accepted.tls, &self.context.keys) {
            phrases.extend(keys.certificates.renewed(&tls.certificates));
        }
        if let (Change::Set(tls), Some(keys)) = (&accepted.server_tls, &self.context.server_keys) {
            phrases.extend(keys.certificates.renewed(&tls.certificates));
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
            Success::Operator(what, incident) => self.tell_operator(&what, incident, by, now),
            Success::Nothing => {}
            Success::Reload(phrases) => {
                // TLS files are also read every hour. That is logged only if something changed.
                let asked = self.queue.is_hangup();
                let (what, is_told) = match &self.state.config {
                    Some(path) if asked => (format!("reloaded {}", path.display()), true),
                    Some(_) | None => {
                        let what = "the files of TLS were read again".to_owned();
                        (what, asked || !phrases.is_empty())
                    }
                };
                let line = printable(&format!("{what}: {}", listed(&phrases)));
                if is_told {
                    let incident = self.of_reload(EventKind::Reloaded);
                    let incident = incident.with("changes", count(&phrases));
                    self.logger.event(Severity::Notice, incident, &line);
                }
                // It counts too if it ends a time in which the files could not be used.
                if std::mem::take(&mut self.file_refused) || is_told {
                    self.past.reloads.count(ChangeResult::Success, &line);
                }
            }
        }
    }

    /// What happened with the configuration file, or with the files of TLS alone.
    pub(in crate::event_loop::reload) fn of_reload(&self, kind: EventKind) -> Incident {
        let file = self.state.config.as_ref().filter(|_| self.queue.is_hangup());
        Incident::of(kind).with_if("file", file.map(|path| path.display().to_string()))
    }

    /// Logs a change by an operator.
    pub(in crate::event_loop) fn tell_operator(
        &mut self,
        what: &str,
        incident: Incident,
        by: Requester,
        now: Instant,
    ) {
        let incident = incident.with("by", by.to_string());
        let notices = self.notices.take(&printable(&format!("{what}, by {by}")), incident, now);
        self.log_changes(notices);
    }

    /// Logs changes by operators.
    pub(in crate::event_loop) fn log_changes(&mut self, notices: impl IntoIterator<Item = Notice>) {
        for Notice { incident, line } in notices {
            self.logger.event(Severity::Notice, incident, &line);
        }
    }
}

/// What an operator changed, for programs. `settings` are those with the change.
fn incident(setting: &Setting, settings: &Settings) -> Incident {
    let of = |kind| Incident::of(kind).with("setting", setting.to_string());
    let Setting::Server { number, changes } = setting else { return of(EventKind::Setting) };
    let (mut weight, mut seconds, mut state) = (None, None, None);
    for change in changes {
        match change {
            ServerChange::Weight(new) => weight = Some(*new),
            ServerChange::Blacklist(new) => seconds = Some(*new),
            ServerChange::Acl(_)
            | ServerChange::Address(_)
            | ServerChange::Check(_)
            | ServerChange::Hard(_)
            | ServerChange::Max(_)
            | ServerChange::Port(_)
            | ServerChange::Prio(_)
            | ServerChange::Tls(_) => {}
            ServerChange::State(new) => state = Some(*new),
        }
    }
    let kind = match (seconds, state, weight) {
        (Some(_), _, _) | (_, Some(_), _) => EventKind::ServerState,
        (None, None, Some(_)) => EventKind::ServerWeight,
        (None, None, None) => EventKind::Setting,
    };
    let server = settings.servers.get(*number as usize).and_then(Option::as_ref);
    of(kind)
        .with("server", *number)
        .with_if("address", server.map(|server| server.place_at(0)))
        .with_if("weight", weight)
        .with_if("seconds", seconds)
        .with_if("state", state.map(ServerMode::word))
}

fn count(phrases: &[String]) -> i64 {
    i64::try_from(phrases.len()).unwrap_or(i64::MAX)
}

/// Whether a command opens or reads a file anew. That is logged even if the name is the same.
fn is_renewed(setting: &Setting) -> bool {
    matches!(
        setting,
        Setting::Log(Some(_))
            | Setting::ConnectionLog(Some(_))
            | Setting::WebStats(Some(_))
            | Setting::SslOcsp(_)
            | Setting::SslNames(_)
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

    fn take(notices: &mut ChangeNotices, what: &str, now: Instant) -> Vec<String> {
        let taken = notices.take(what, Incident::of(EventKind::Setting), now);
        taken.into_iter().map(|notice| notice.line).collect()
    }

    fn line(notice: Option<Notice>) -> Option<String> {
        notice.map(|notice| notice.line)
    }

    #[test]
    fn of_many_changes_by_operators_some_are_told_and_the_rest_is_counted_with_the_last() {
        let start = Instant::now();
        let mut notices = ChangeNotices::new(start);
        let told = (0..2000)
            .flat_map(|n| take(&mut notices, &format!("timeout {n}"), start))
            .collect::<Vec<_>>();
        assert_eq!((told.len(), told[19].as_str()), (20, "operator: timeout 19"));
        assert_eq!(line(notices.settle(start + PERIOD / 2)), None);
        let summary = "operator: 1980 more changes, the last of them: timeout 1999";
        assert_eq!(line(notices.settle(start + PERIOD)).as_deref(), Some(summary));
        assert_eq!(line(notices.settle(start + 2 * PERIOD)), None);
        (0..22).for_each(|n| drop(take(&mut notices, &n.to_string(), start + 3 * PERIOD)));
        assert_eq!(
            take(&mut notices, "prio", start + 4 * PERIOD),
            ["operator: 2 more changes, the last of them: 21", "operator: prio"]
        );
        (0..20).for_each(|n| drop(take(&mut notices, &n.to_string(), start + 4 * PERIOD)));
        assert_eq!(
            line(notices.finish(start + 4 * PERIOD)).as_deref(),
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
