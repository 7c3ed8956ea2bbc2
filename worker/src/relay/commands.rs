//! The supervisor's messages: new settings, another listener, another log, the end of a connection,
//! a report, an explanation.
//!
//! No message is carried out in part. An invalid message cannot come from our supervisor: the
//! worker leaves, and its replacement starts with the settings in force.

use std::os::fd::OwnedFd;

use pen_config::ids::{ClientKey, ServerId, Target};
use pen_config::settings::{Server, Settings};
use pen_ipc::channel::Received;
use pen_ipc::codec::{SETTINGS_LIMIT, decode_settings};
use pen_ipc::message::{Event, FromWorker, ToWorker};
use pen_ipc::start::RequestLog;
use rustix::io::Errno;

use crate::relay::Relay;
use crate::relay::connection::timer_queue::STEP;
use crate::relay::connection::{Connection, ConnectionState};
use crate::relay::request_log::LogWriter;

/// The supervisor's message is invalid.
struct Nonsense;

impl Relay<'_> {
    /// Carries out the supervisor's messages. Some: leave with this exit status.
    pub(in crate::relay) fn hear(&mut self) -> Option<i32> {
        self.supervisor.speak();
        let status = loop {
            match self.supervisor.hear() {
                Ok(Received::Message(ToWorker::Stop, _)) => break 0,
                Ok(Received::Message(order, descriptor)) => {
                    if let Err(Nonsense) = self.obey(order, descriptor) {
                        break 1;
                    }
                }
                Ok(Received::Empty) => return None,
                // A worker does not run without a supervisor.
                Ok(Received::Closed) => break 0,
                Err(_) => break 1,
            }
        };
        self.stop();
        Some(status)
    }

    fn obey(&mut self, order: ToWorker, descriptor: Option<OwnedFd>) -> Result<(), Nonsense> {
        match (order, descriptor) {
            (ToWorker::Report { serial }, _) => {
                self.count_lines();
                let connections = self.pool.iter().map(Connection::info).collect();
                self.supervisor.report(serial, self.counters, connections);
            }
            (ToWorker::Log { network: false }, Some(file)) => {
                self.change_log(RequestLog::File(file))
            }
            (ToWorker::Log { network: true }, Some(socket)) => {
                self.change_log(RequestLog::Network(socket))
            }
            (ToWorker::NoLog, _) => self.end_log(),
            (ToWorker::Settings, Some(memory)) => {
                let settings = read_settings(&memory).ok_or(Nonsense)?;
                self.apply(settings)?;
            }
            (ToWorker::Tls, Some(files)) => {
                let tls = self.tls.as_mut().ok_or(Nonsense)?;
                tls.replace(files).map_err(|_| Nonsense)?;
            }
            (ToWorker::TicketSecret, Some(secret)) => {
                let taken = self.tls.as_ref().is_some_and(|tls| tls.renew_secret(&secret));
                if !taken {
                    return Err(Nonsense);
                }
            }
            (ToWorker::Listen, Some(listener)) => {
                self.move_listener(listener).map_err(|_| Nonsense)?;
                self.supervisor.answer(FromWorker::Listening);
            }
            (ToWorker::Close { number, before }, _) => self.close_numbered(number, before),
            (ToWorker::Explain { serial, client }, _) => {
                let text = self.explain(ClientKey::from_bytes(client));
                self.supervisor.answer(FromWorker::Explained { serial, text });
            }
            (ToWorker::Freed, _) => self.on_freed(),
            (ToWorker::Republish, _) => self.republish(),
            (ToWorker::Syslog, Some(daemon)) => self.debug.connect(daemon),
            (ToWorker::Ping { serial }, _) => self.supervisor.answer(FromWorker::Pong { serial }),
            (
                ToWorker::Log { .. }
                | ToWorker::Settings
                | ToWorker::Listen
                | ToWorker::Tls
                | ToWorker::TicketSecret
                | ToWorker::Syslog,
                None,
            )
            | (ToWorker::Stop, _) => {
                return Err(Nonsense);
            }
        }
        Ok(())
    }

    /// A sibling has died: writes this worker's open connections to the table again, and looks for
    /// the client for which the kernel may have woken the sibling alone.
    fn republish(&mut self) {
        let size = self.settings.table_size();
        let open =
            self.pool.iter().map(|open| (open.number, open.target.map(|target| target.row(size))));
        let wanted = self.worker_table.republish(self.settings.connections_max, open);
        self.upstreams.shut_rows().for_each(|row| self.worker_table.set_pending(row, true));
        self.worker_table.set_open(self.published);
        if wanted {
            self.wake_workers();
        }
        self.look_for_clients();
    }

    /// Applies new settings.
    fn apply(&mut self, settings: Settings) -> Result<(), Nonsense> {
        if settings.table_size() != self.settings.table_size() {
            // The rows of the shared table would belong to other servers.
            return Err(Nonsense);
        }
        let old = std::mem::replace(&mut self.settings, settings);
        self.shown = shown(&self.settings);
        self.debug.set(&self.settings);
        self.mark_outdated(&old);
        if old.buffers.client != self.settings.buffers.client {
            self.accepting.set_buffers(self.settings.buffers.client);
        }
        self.idle.set_timeout(&mut self.pool, self.settings.idle_timeout, self.now);
        self.limits_changed();
        self.tools.set_most_pipes(self.accepting.pipes());
        self.adjust_idlers();
        self.supervisor.answer(FromWorker::Applied { generation: self.settings.generation });
        Ok(())
    }

    /// Marks the connects under way to servers whose address has changed.
    fn mark_outdated(&mut self, old: &Settings) {
        let moved = |old: Option<&Server>, new: Option<&Server>| match (old, new) {
            (Some(old), Some(new)) => !old.addresses().eq(new.addresses()),
            (None, None) => false,
            (Some(_), None) | (None, Some(_)) => true,
        };
        for slot in 0..self.pool.slots() {
            let connection = &mut self.pool[slot];
            let (ConnectionState::Connecting, Some(target), false) =
                (connection.state, connection.target, connection.outdated)
            else {
                continue;
            };
            connection.outdated = moved(old.target(target), self.settings.target(target));
            if connection.outdated && connection.links[STEP].is_queued() {
                self.upstreams.end(target.row(self.settings.table_size()));
            }
        }
        let regular = (0..self.settings.table_size()).map(|id| Target::Server(ServerId(id as u16)));
        for target in regular.chain([Target::Emergency, Target::Abuse]) {
            if moved(old.target(target), self.settings.target(target)) {
                self.upstreams.replace(target.row(self.settings.table_size()));
            }
        }
        for row in self.upstreams.shut_rows().collect::<Vec<_>>() {
            self.reopen(row);
        }
        self.upstreams.all_due();
    }

    /// Changes the request log.
    fn change_log(&mut self, target: RequestLog) {
        match &mut self.log {
            Some(log) => log.reopen(self.now, target),
            None => self.log = Some(LogWriter::new(target)),
        }
        self.flush_log();
    }

    /// Ends the request log.
    fn end_log(&mut self) {
        self.count_lines();
        let Some(mut log) = self.log.take() else { return };
        log.close(self.now);
        if let Some((lines, errno)) = log.take_lost() {
            self.counters.log_lost += lines;
            self.supervisor.tell(Event::LogLost { lines, errno }, &mut self.counters);
        }
    }

    /// Updates the counter of log lines.
    pub(in crate::relay) fn count_lines(&mut self) {
        self.counters.log_lines += self.log.as_mut().map_or(0, LogWriter::take_lines);
    }
}

/// The address of a target as the request log shows it; empty if there is none.
pub fn shown_at(shown: &[Vec<String>], target: Option<Target>, position: u32) -> &str {
    // The last two rows belong to the emergency and the abuse server.
    let row = |target: Target| shown.get(target.row(shown.len().saturating_sub(2) as u32) as usize);
    let addresses = target.and_then(row).map_or(&[][..], Vec::as_slice);
    addresses.get(position as usize % addresses.len().max(1)).map_or("", String::as_str)
}

/// The addresses of each target as the request log shows them, by table row and position.
pub fn shown(settings: &Settings) -> Vec<Vec<String>> {
    let regular = settings.servers.iter();
    regular
        .chain([&settings.emergency, &settings.abuse])
        .map(|server| {
            let server = server.as_ref();
            server.map_or(Vec::new(), |server| {
                (0..server.address_count()).map(|n| server.host_at(n)).collect()
            })
        })
        .collect()
}

/// Reads the settings from a memfd. All workers share its file offset, so it is not moved.
fn read_settings(memory: &OwnedFd) -> Option<Settings> {
    let mut bytes = Vec::new();
    let mut piece = vec![0; 64 * 1024];
    while bytes.len() <= SETTINGS_LIMIT {
        match rustix::io::pread(memory, &mut piece[..], bytes.len() as u64) {
            Ok(0) => return decode_settings(&bytes).ok(),
            Ok(length) => bytes.extend_from_slice(&piece[..length]),
            Err(Errno::INTR) => continue,
            Err(_) => return None,
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use pen_ipc::codec::encode_settings;
    use rustix::fs::{MemfdFlags, memfd_create};

    use super::*;

    fn memory(bytes: &[u8]) -> OwnedFd {
        let memory = memfd_create("settings", MemfdFlags::CLOEXEC).unwrap();
        assert_eq!(rustix::io::write(&memory, bytes).unwrap(), bytes.len());
        memory
    }

    #[test]
    fn settings_are_read_from_the_beginning_by_everyone() {
        let settings = Settings { generation: 7, servers: vec![None; 4096], ..Settings::default() };
        // The writer's offset, which all readers share, is at the end.
        let memory = memory(&encode_settings(&settings).unwrap());
        for _ in 0..2 {
            assert_eq!(read_settings(&memory), Some(settings.clone()));
        }
    }

    #[test]
    fn what_is_no_settings_is_nothing() {
        let whole = encode_settings(&Settings::default()).unwrap();
        assert_eq!(read_settings(&memory(b"")), None);
        assert_eq!(read_settings(&memory(&whole[..whole.len() - 1])), None);
        assert_eq!(read_settings(&memory(&[&whole[..], b"x"].concat())), None);
        let huge = memory(b"");
        rustix::fs::ftruncate(&huge, SETTINGS_LIMIT as u64 * 2).unwrap();
        assert_eq!(read_settings(&huge), None);
        let (reader, _writer) = std::io::pipe().unwrap();
        assert_eq!(read_settings(&reader.into()), None);
    }
}
