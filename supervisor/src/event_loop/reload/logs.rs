//! The logs to which workers write, opened again after HUP, and passed to every worker.

#![forbid(unsafe_code)]

use pen_config::command::LogTarget;
use pen_ipc::start::RequestLog;

use crate::event_loop::Supervisor;
use crate::files::line_log::{self, LineLog, OpenLog};
use crate::files::made::MadeFile;
use crate::log::Reach;
use crate::processes::spawn::OpenConnectionLog;

impl Supervisor {
    /// Opens the logs again and passes them to every worker, replacements included.
    pub(in crate::event_loop) fn reopen_logs(&mut self) {
        self.reopen_log(LineLog::Requests);
        self.reopen_log(LineLog::Connections);
        if self.context.logs_to_daemon() {
            // Old workers cannot ask for another daemon.
            self.renew_connection_log();
        }
    }

    fn reopen_log(&mut self, which: LineLog) {
        // A log that an operator named is known only by its descriptor.
        let (target, is_held) = self.state.line_log(which);
        let Some(path) = target.filter(|_| !is_held).and_then(LogTarget::file) else { return };
        match line_log::open_file(which, path) {
            Ok(OpenLog { log, made }) => {
                made.map(MadeFile::keep);
                self.logger.debug(&format!("{which} {} is reopened", path.display()));
                self.use_log(which, log);
            }
            Err(error) => self
                .logger
                .warning(&format!("{error}; lines still go to the file that was opened before")),
        }
    }

    /// Passes a log that was opened again to every worker.
    pub(in crate::event_loop) fn use_log(&mut self, which: LineLog, log: RequestLog) {
        match which {
            LineLog::Requests => {
                self.context.log = Some(log);
                self.pool.workers_mut().for_each(|worker| worker.renew_log());
                self.old.renew_log();
            }
            LineLog::Connections => {
                self.context.connection_log = Some(OpenConnectionLog::Log(log));
                self.renew_connection_log();
            }
        }
    }

    /// Passes the connection log to every worker.
    pub(in crate::event_loop) fn renew_connection_log(&mut self) {
        if !self.context.logs_to_daemon() {
            self.daemon = Reach::default();
        }
        self.pool.workers_mut().for_each(|worker| worker.renew_connection_log());
        self.old.renew_connection_log();
    }
}
