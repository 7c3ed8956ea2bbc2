//! Changes of settings, by HUP or by an operator. A change passes through four types, and each step
//! consumes one and gives the next:
//!
//! 1. [`Configuration`]: commands, and where they come from.
//! 2. [`Resolved`](stages::Resolved): names are looked up, and everything is checked that needs no
//!    open file.
//! 3. [`Plan`](stages::Plan): TLS files are read and examined, then all other files are open.
//! 4. [`Applied`](stages::Applied): it is in force, and all processes are waited for.
//!
//! Nothing is put in force before everything that can fail has been tried. The reply is sent when
//! all processes work by the new settings.

#![forbid(unsafe_code)]

use std::path::{Path, PathBuf};
use std::time::Instant;

use pen_config::command::LogTarget;
use pen_ipc::message::Outcome;
use pen_ipc::start::RequestLog;
use pen_ipc::text::error_text;
use pen_status::ChangeResult;
use pen_status::event::EventKind;

use crate::event_loop::Supervisor;
use crate::event_loop::job::{Progress, Requester};
use crate::event_loop::reload::configuration::{CommandSource, Configuration, in_jail};
use crate::event_loop::reload::stages::{OpenPurpose, ReloadStage};
use crate::files::configuration::{Loaded, bounded};
use crate::files::line_log::LineLog;
use crate::helpers::names;
use crate::helpers::open::{Fetched, Fetching, OpenRequest};
use crate::launch::paths::all_absolute;
use crate::log::Severity;
use crate::processes::ports::control::{ControlReply, ReplyBody};

mod apply;
mod checks;
pub(in crate::event_loop) mod configuration;
mod logs;
pub(in crate::event_loop) mod notices;
mod open;
mod plan;
mod records;
mod resolve;
pub(in crate::event_loop) mod stages;

impl Supervisor {
    /// Continues a change, if what it waits for has happened.
    pub(in crate::event_loop) fn advance_reload(
        &mut self,
        by: Requester,
        stage: ReloadStage,
        now: Instant,
    ) -> Progress<ReloadStage> {
        match stage {
            ReloadStage::Asking(mut asking, inquiry, configuration) => match asking.read(now) {
                None => Progress::Wait(ReloadStage::Asking(asking, inquiry, configuration)),
                Some(Ok(answers)) => match inquiry.found(answers) {
                    Ok(found) => self.resolve(*configuration, &found, now),
                    Err(why) => self.refuse(&configuration, vec![why]),
                },
                Some(Err(unresolved)) => {
                    let errors =
                        names::unresolved_lines(&unresolved, configuration.commands.iter());
                    self.refuse(&configuration, errors)
                }
            },
            ReloadStage::Fetching(fetching, purpose) => match fetching.read(now) {
                None => Progress::Wait(ReloadStage::Fetching(fetching, purpose)),
                Some(fetched) => {
                    self.queue.leave(fetching.kill());
                    self.fetched(fetched, purpose, now)
                }
            },
            ReloadStage::Examining(examining, unexamined) => match examining.read(now) {
                None => Progress::Wait(ReloadStage::Examining(examining, unexamined)),
                Some(found) => self.examined(found, *unexamined, now),
            },
            ReloadStage::Applied(applied) => self.settle(by, applied, now),
        }
    }

    /// Carries out HUP: opens an operator's logs again, and then reads the configuration file.
    pub(in crate::event_loop) fn hang_up(&mut self, now: Instant) -> Progress<ReloadStage> {
        self.reopen_held(LineLog::Requests, now)
    }

    /// Opens a log again if an operator had named it, then the logs after it, and then reads the
    /// configuration file.
    fn reopen_held(&mut self, which: LineLog, now: Instant) -> Progress<ReloadStage> {
        let (target, is_held) = self.state.line_log(which);
        match target.filter(|_| is_held).and_then(LogTarget::file) {
            Some(path) => {
                let request = OpenRequest::Log(which, in_jail(path));
                self.fetch(&request, OpenPurpose::Reopen(which), now)
            }
            None => self.after_log(which, now),
        }
    }

    fn after_log(&mut self, which: LineLog, now: Instant) -> Progress<ReloadStage> {
        match which {
            LineLog::Requests => self.reopen_held(LineLog::Connections, now),
            LineLog::Connections => self.reload(now),
        }
    }

    /// Reads the commands of an operator's file in a child.
    pub(in crate::event_loop) fn include(
        &mut self,
        path: PathBuf,
        now: Instant,
    ) -> Progress<ReloadStage> {
        self.fetch(&OpenRequest::Commands(in_jail(&path)), OpenPurpose::Include(path), now)
    }

    /// Reads the TLS files again without a request.
    pub(in crate::event_loop) fn reread_tls(&mut self, now: Instant) -> Progress<ReloadStage> {
        self.look_up(Configuration::of_file(Vec::new()), now)
    }

    fn fetch(
        &mut self,
        request: &OpenRequest,
        purpose: OpenPurpose,
        now: Instant,
    ) -> Progress<ReloadStage> {
        if self.queue.hangs() {
            let why = "not now: too many processes hang in a file system that does not answer";
            return self.fetched(Err(why.into()), purpose, now);
        }
        match Fetching::begin(request, &self.context.jail, now) {
            Ok(fetching) => Progress::Wait(ReloadStage::Fetching(fetching, purpose)),
            Err(error) => {
                self.fetched(Err(format!("not now: {}", error_text(&error))), purpose, now)
            }
        }
    }

    /// Continues with the result of an opener.
    fn fetched(
        &mut self,
        fetched: Result<Fetched, String>,
        purpose: OpenPurpose,
        now: Instant,
    ) -> Progress<ReloadStage> {
        match purpose {
            OpenPurpose::Reopen(which) => {
                self.reopened_log(which, fetched);
                self.after_log(which, now)
            }
            OpenPurpose::Include(path) => self.included(fetched, path, now),
            OpenPurpose::Reload => self.reloaded(fetched, now),
            OpenPurpose::Ocsp(path, at, resolved) => match fetched {
                Ok(Fetched { descriptor, .. }) => {
                    self.hold_ocsp(descriptor, &path, &at, *resolved, now)
                }
                Err(why) => {
                    let error = at + &why + &self.in_the_jail();
                    self.refuse(&resolved.configuration, vec![error])
                }
            },
            OpenPurpose::Tls(waiting, side) => {
                let (resolved, ocsp) = *waiting;
                self.examine_tls(fetched, resolved, ocsp, side, now)
            }
            OpenPurpose::Plan(target, at, opening) => {
                self.opened_in_jail(fetched, target, at, *opening, now)
            }
        }
    }

    fn reopened_log(&mut self, which: LineLog, fetched: Result<Fetched, String>) {
        match fetched {
            Ok(Fetched { descriptor, .. }) => {
                self.use_log(which, RequestLog::File(descriptor));
            }
            Err(why) => self
                .logger
                .warning(&format!("{why}; lines still go to the file that was opened before")),
        }
    }

    /// Reads the configuration file again, in a child.
    fn reload(&mut self, now: Instant) -> Progress<ReloadStage> {
        if let Some(keys) = &mut self.context.keys {
            keys.certificates.ask();
        }
        if let Some(keys) = &mut self.context.server_keys {
            keys.certificates.ask();
        }
        let has_tls = self.context.keys.is_some() || self.context.server_keys.is_some();
        match (&self.state.config, has_tls) {
            (Some(path), _) => {
                self.fetch(&OpenRequest::Configuration(path.clone()), OpenPurpose::Reload, now)
            }
            (None, true) => self.reread_tls(now),
            (None, false) => Progress::Done(ControlReply::none()),
        }
    }

    /// Continues with the commands of the configuration file.
    fn reloaded(
        &mut self,
        fetched: Result<Fetched, String>,
        now: Instant,
    ) -> Progress<ReloadStage> {
        let loaded = loaded(fetched).and_then(|mut loaded| {
            all_absolute(&self.state.base, &mut loaded.commands)?;
            Ok(loaded)
        });
        match loaded {
            Ok(loaded) => {
                loaded.notices.iter().for_each(|notice| self.logger.warning(notice));
                self.look_up(Configuration::of_file(loaded.commands), now)
            }
            Err(errors) => {
                self.keep_running_settings(&errors, true);
                Progress::Done(ControlReply::none())
            }
        }
    }

    /// Continues with the commands of an operator's file.
    fn included(
        &mut self,
        fetched: Result<Fetched, String>,
        path: PathBuf,
        now: Instant,
    ) -> Progress<ReloadStage> {
        // If the file is missing, the error names the jail in which it was searched.
        let start = format!("{}: ", in_jail(&path).display());
        let source = CommandSource::Include(path);
        match loaded(fetched) {
            Ok(Loaded { commands, .. }) => self.look_up(Configuration { source, commands }, now),
            Err(mut errors) => {
                for error in errors.iter_mut().filter(|error| error.starts_with(&start)) {
                    *error += &self.in_the_jail();
                }
                self.refuse(&Configuration { source, commands: Vec::new() }, errors)
            }
        }
    }

    /// The directory of the files that operators name, for an error message.
    fn in_the_jail(&self) -> String {
        let root = self.context.jail.root.as_deref().map(Path::display);
        root.map_or(String::new(), |root| format!(" (in the jail {root})"))
    }

    /// Refuses a change, and reports the errors.
    fn refuse(
        &mut self,
        configuration: &Configuration,
        errors: Vec<String>,
    ) -> Progress<ReloadStage> {
        let errors = bounded(errors);
        let Some(command) = configuration.source.command() else {
            // Without commands, only the TLS files were to be read.
            self.keep_running_settings(&errors, !configuration.commands.is_empty());
            return Progress::Done(ControlReply::none());
        };
        let line = command.to_string();
        let word = line.strip_prefix("no ").unwrap_or(&line).split(' ').next().unwrap_or_default();
        // Errors of a command begin with its word, or are those of the original pen. Errors about
        // names and about lines of a file lack the word.
        let whole =
            |why: &str| why.split([':', ' ']).next() == Some(word) || why.starts_with("unable to ");
        let line = |why: String| if whole(&why) { why + "\n" } else { format!("{word}: {why}\n") };
        let text = errors.into_iter().map(line).collect();
        Progress::Done(ControlReply { outcome: Outcome::Refused, body: ReplyBody::Text(text) })
    }

    fn keep_running_settings(&mut self, errors: &[String], of_file: bool) {
        self.file_refused = true;
        errors.iter().for_each(|error| self.logger.warning(error));
        let incident = self
            .of_reload(EventKind::ReloadFailed)
            .with_if("reason", errors.first().cloned())
            .with("errors", i64::try_from(errors.len()).unwrap_or(i64::MAX));
        let effect = match of_file {
            true => {
                "the configuration file is not used: the settings stay as they were, and so \
                does TLS"
            }
            false => "the files of TLS are not used: it goes on with those that it had",
        };
        self.logger.event(Severity::Warning, incident, effect);
        let first = errors.first().map_or("", String::as_str);
        let more = match errors.len().saturating_sub(1) {
            0 => String::new(),
            1 => " (and 1 error more)".to_owned(),
            more => format!(" (and {more} errors more)"),
        };
        self.past.reloads.count(ChangeResult::Failure, &format!("{effect}: {first}{more}"));
    }
}

/// The commands that were read, or all errors in them.
fn loaded(fetched: Result<Fetched, String>) -> Result<Loaded, Vec<String>> {
    let commands =
        fetched.and_then(|fetched| fetched.commands().map_err(|error| error_text(&error)));
    commands.unwrap_or_else(|why| Err(vec![why]))
}
