//! Accepting clients, and when not to.
//!
//! A worker that has more than its share of the open connections also pauses
//! (`relay::accept::fair_share`).
//!
//! A connection number under `-x` is claimed before accept(2), so that no client is accepted
//! without one. Clients without a number wait in the kernel's backlog, without an answer and at no
//! cost, until a worker frees a number. The worker that frees one looks for a client itself: mostly
//! one waits, and no other worker has to be woken. If it may not take clients, or if no client
//! waits, it wakes one worker that waits for a number, and that worker does the same. So a freed
//! number wakes at most one worker.

pub(crate) mod acceptor;
pub(crate) mod dummy;
mod fair_share;
pub(crate) mod hold;

use std::net::SocketAddr;
use std::os::fd::OwnedFd;

use pen_config::ids::ClientKey;
use pen_ipc::message::{Event, ShortageDuring};
use rustix::io::Errno;
use rustix::net::SocketAddrAny;

use crate::relay::Relay;
use crate::relay::accept::acceptor::{Pause, SHORTAGE_PAUSE, prepare};
use crate::relay::accept::fair_share::Next;
use crate::relay::connection::endpoint::reset_on_close;
use crate::relay::link::Rated;

/// Milliseconds after which a worker that waits for a connection number looks for one by itself:
/// the worker that should use it or pass it on may hang.
const LOOK: u64 = 1000;

/// Milliseconds for which a free connection number is left to a worker with clearly fewer
/// connections. Then this worker takes it after all.
const YIELD: u64 = 10;

/// More clients than can wait at a listener. Its backlog is bounded by net.core.somaxconn, mostly
/// 4096, and by 16 bits in old kernels.
const LONGEST_QUEUE: u32 = 1 << 16;

/// Why accepting stops in a turn.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Stopped {
    /// The most clients of one turn were accepted.
    Enough,
    /// No client waits.
    NoClient,
    /// Accepting pauses.
    Paused,
}

impl Relay<'_> {
    /// Accepts waiting clients, up to the batch. The kernel reports the remaining ones again.
    pub(in crate::relay) fn accept(&mut self) {
        match self.acceptor.paused() {
            None => {}
            Some(Pause::Ahead(None)) => {
                if self.is_ahead() {
                    return self.acceptor.rest_ends(&self.poll, self.now);
                }
                // Meanwhile the others have caught up, or take no more.
                self.acceptor.unwatch(&self.poll);
                self.acceptor.watch_again(&self.poll, self.now);
            }
            Some(
                Pause::Ahead(Some(_))
                | Pause::Full { .. }
                | Pause::Busy
                | Pause::Shortage(_)
                | Pause::NotBegun
                | Pause::Drained,
            ) => return,
        }
        let batch = self.acceptor.next_batch(&self.settings);
        let (accepted, _) = self.accept_some(batch);
        self.acceptor.end_batch(batch, accepted);
        self.pause_if_ahead();
    }

    /// Accepts waiting clients, at most `most`. Returns how many were there, and why it stopped.
    fn accept_some(&mut self, most: u32) -> (u32, Stopped) {
        for accepted in 0..most {
            if self.attempts.is_exhausted() {
                return (accepted, Stopped::Enough);
            }
            let number = match self.is_busy() {
                true => Err(Pause::Busy),
                false => self
                    .claim_or_wait()
                    .ok_or(Pause::Full { look_at: self.now + LOOK, has_left: false }),
            };
            let number = match number {
                Ok(number) => number,
                Err(pause) => {
                    self.pause(pause);
                    self.acceptor.report_waiting_clients(&mut self.link, self.now);
                    return (accepted, Stopped::Paused);
                }
            };
            match self.acceptor.accept_one() {
                Ok((socket, peer)) => self.on_client(socket, peer, number),
                Err(errno) => {
                    self.return_unused(number);
                    match errno {
                        errno if is_passing(errno) => {}
                        Errno::AGAIN => return (accepted, Stopped::NoClient),
                        errno => {
                            self.on_shortage(ShortageDuring::Accept, errno);
                            return (accepted, Stopped::Paused);
                        }
                    }
                }
            }
        }
        (most, Stopped::Enough)
    }

    /// Uses a free connection number that others wait for: accepts a client for it, or wakes a
    /// worker that waits.
    pub(in crate::relay) fn use_vacancy(&mut self) {
        if !std::mem::take(&mut self.acceptor.has_vacancy) {
            return;
        }
        match self.acceptor.paused() {
            None | Some(Pause::Full { has_left: true, .. }) => {}
            Some(Pause::Full { has_left: false, .. }) => {
                if self.is_ahead() {
                    self.acceptor.look_at(self.now + YIELD, true);
                    return self.acceptor.wake_one();
                }
            }
            Some(
                Pause::Busy
                | Pause::Shortage(_)
                | Pause::Ahead(_)
                | Pause::NotBegun
                | Pause::Drained,
            ) => return self.acceptor.wake_one(),
        }
        let (_, stopped) = self.accept_some(self.acceptor.most_at_once(&self.settings));
        match stopped {
            Stopped::NoClient | Stopped::Enough => self.resume_accepting(),
            Stopped::Paused => {}
        }
        self.pause_if_ahead();
    }

    /// Whether this worker has clearly more connections than another.
    fn is_ahead(&self) -> bool {
        fair_share::is_ahead(self.connections.pool.open() as u32, self.worker_table.fewest_open())
    }

    /// Pauses if this worker is ahead of the others.
    fn pause_if_ahead(&mut self) {
        let open = self.connections.pool.open() as u32;
        if self.acceptor.paused().is_some()
            || !self.acceptor.share.is_due(open, self.link.counters.closed, self.now)
        {
            return;
        }
        if let Some(end) =
            self.acceptor.share.pause(open, self.worker_table.fewest_open(), self.now)
        {
            self.acceptor.leave_to_others(&self.poll, end);
            if self.acceptor.has_clients() {
                // The kernel may have woken only this worker for the waiting clients.
                self.acceptor.wake_workers();
            }
        }
    }

    /// Ends a timed pause, unless the clients should still be left to the others.
    pub(in crate::relay) fn pause_ends(&mut self) {
        if let Some(Pause::Full { has_left, .. }) = self.acceptor.paused() {
            self.acceptor.look_at(self.now + LOOK, has_left);
            self.acceptor.has_vacancy = true;
            return;
        }
        if let Some(Pause::Ahead(_)) = self.acceptor.paused() {
            let (open, fewest) =
                (self.connections.pool.open() as u32, self.worker_table.fewest_open());
            match self.acceptor.share.next(open, fewest, self.acceptor.has_clients(), self.now) {
                Next::Resume => {}
                Next::Rest => return self.acceptor.rest(&self.poll, self.now),
                Next::Pause(few, end) => {
                    self.acceptor.leave_to_others(&self.poll, end);
                    let _ = self.accept_some(few.min(self.settings.accept_batch));
                    return;
                }
            }
        }
        self.resume_accepting();
    }

    /// Changes to another listener. Clients that wait at the old one are accepted, or reset if no
    /// connection number is free: the backlog is lost with the listener. A worker that takes no
    /// clients leaves them to the others.
    ///
    /// # Errors
    /// The new descriptor is not a listener.
    pub(in crate::relay) fn move_listener(&mut self, listener: OwnedFd) -> rustix::io::Result<()> {
        if self.acceptor.is_drained() {
            return Ok(());
        }
        let unix = prepare(&listener, &self.settings)?;
        if self.acceptor.takes_clients() {
            self.serve_queue();
        }
        self.acceptor.replace_listener(listener, unix, &self.poll, self.now);
        Ok(())
    }

    /// Accepts all waiting clients, whether or not accepting pauses.
    fn serve_queue(&mut self) {
        for _ in 0..LONGEST_QUEUE {
            match self.acceptor.accept_one() {
                // The number is small: no more clients than a backlog holds.
                Ok((socket, peer)) if self.connections.pool.open() < self.acceptor.most => {
                    match self.claim() {
                        Some(number) => self.on_client(socket, peer, number),
                        None => self.refuse(&socket, peer),
                    }
                }
                Ok((socket, peer)) => self.refuse(&socket, peer),
                Err(errno) if is_passing(errno) => {}
                Err(_) => return,
            }
        }
    }

    /// Resets a client for which there is no connection number.
    fn refuse(&mut self, socket: &OwnedFd, peer: Option<SocketAddrAny>) {
        self.link.counters.over_limit += 1;
        reset_on_close(socket);
        self.log_beyond_limit(peer);
    }

    /// Resumes accepting after a change of limits, if it waited for room.
    pub(in crate::relay) fn limits_changed(&mut self) {
        self.acceptor.set_most(&self.settings);
        match self.acceptor.paused() {
            Some(Pause::Full { .. }) => self.resume_accepting(),
            Some(Pause::Busy) if !self.is_busy() => self.resume_accepting(),
            Some(
                Pause::Busy
                | Pause::Shortage(_)
                | Pause::Ahead(_)
                | Pause::NotBegun
                | Pause::Drained,
            )
            | None => {}
        }
    }

    /// Begins to take clients: the order for which the worker has waited.
    pub(in crate::relay) fn begin_accepting(&mut self) {
        self.acceptor.begin(&self.poll, self.now);
        self.adjust_idlers();
    }

    /// Takes no more clients. The event loop ends with the last connection.
    pub(in crate::relay) fn drain(&mut self) {
        if !self.acceptor.is_drained() {
            self.acceptor.drain(&self.poll, &self.worker_table);
            self.adjust_idlers();
        }
    }

    fn on_client(&mut self, socket: OwnedFd, peer: Option<SocketAddrAny>, number: u32) {
        self.link.counters.accepted += 1;
        let address = peer.and_then(|peer| SocketAddr::try_from(peer).ok());
        let (key, port) =
            address.map_or((ClientKey::UNIX, 0), |peer| (ClientKey::from_peer(peer), peer.port()));
        let unix = self.acceptor.unix;
        self.begin(socket, unix, key, port, number);
    }

    /// Claims a connection number among those of all workers.
    fn claim(&self) -> Option<u32> {
        self.worker_table.claim_connection(self.settings.connections_max)
    }

    /// Claims a connection number, or sets this worker's waiting flag, so that it is woken when a
    /// number is free. The flag stays set as long as accepting pauses for that reason, even if this
    /// worker gets a number meanwhile.
    fn claim_or_wait(&self) -> Option<u32> {
        self.claim().or_else(|| {
            // A worker that frees a number after this reads the flag. A number freed before it is
            // found by the second try.
            self.worker_table.await_connection();
            self.claim().inspect(|_| self.worker_table.stop_waiting())
        })
    }

    /// Releases a connection number. If others wait for one, this worker looks for a client at the
    /// end of the turn.
    pub(in crate::relay) fn release_number(&mut self, number: u32) {
        if self.worker_table.release_connection(number) {
            self.acceptor.has_vacancy = true;
        }
        if self.acceptor.paused() == Some(Pause::Busy) && !self.is_busy() {
            self.resume_accepting();
        }
    }

    /// Releases a connection number for which there was no client. Another waiting worker may have
    /// found none meanwhile, and a worker that has waited since there were too many clients need
    /// not wait any longer.
    fn return_unused(&mut self, number: u32) {
        // This worker watches the listener from now on, or waits again.
        self.worker_table.stop_waiting();
        if self.worker_table.release_connection(number) {
            self.acceptor.wake_one();
        }
    }

    /// Whether this worker has its maximum of connections.
    pub(in crate::relay) fn is_busy(&self) -> bool {
        self.connections.pool.open() >= self.acceptor.most
    }

    /// A resource of this machine ran short: reports it and pauses accepting, so that open
    /// connections go on first.
    pub(in crate::relay) fn on_shortage(&mut self, during: ShortageDuring, errno: Errno) {
        if self.link.may_report(Rated::Shortage, self.now) {
            self.link.report(Event::Shortage { during, errno: errno.raw_os_error() });
        }
        self.pause(Pause::Shortage(self.now + SHORTAGE_PAUSE));
    }

    fn pause(&mut self, pause: Pause) {
        self.acceptor.pause(pause, &self.poll, &self.worker_table, &mut self.link);
    }

    fn resume_accepting(&mut self) {
        self.acceptor.resume(&self.poll, &self.worker_table, self.now);
    }
}

/// Whether accept(2) may find the next client at once: the present client has gone, or a signal
/// came.
fn is_passing(errno: Errno) -> bool {
    matches!(errno, Errno::INTR | Errno::CONNABORTED | Errno::PERM | Errno::PROTO)
}
