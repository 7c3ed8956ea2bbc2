//! Accepting clients, and when not to.
//!
//! All workers watch one listener. EPOLLEXCLUSIVE makes a client wake one of them and not all. mio
//! does not know that flag, so the listener is registered directly with its epoll. The registration
//! is level-triggered: the kernel reports waiting clients until they are accepted. An
//! EPOLLEXCLUSIVE registration cannot be changed, only removed and added again; that is how
//! accepting pauses.
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
pub(crate) mod dummy;
pub(crate) mod fair_share;

use std::net::SocketAddr;
use std::os::fd::OwnedFd;

use mio::Poll;
use pen_config::ids::ClientKey;
use pen_config::settings::{BufferSizes, Settings};
use pen_ipc::message::{Event, ShortageDuring};
use pen_ipc::start::{OWN_DESCRIPTORS, reserved_descriptors};
use rustix::event::{PollFd, PollFlags, Timespec, epoll};
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketAddrAny, SocketFlags};

use crate::relay::accept::fair_share::{Next, Share};
use crate::relay::connection::closing::reset_on_close;
use crate::relay::link::Rated;
use crate::relay::{LISTENER, Relay, VACANCY};
use crate::sys;

/// Most unsent bytes that wait in the kernel for one client. Without it, a client that reads
/// nothing would have as much as `net.ipv4.tcp_wmem` allows, mostly 4 MB. An event comes only when
/// half of it was sent, which is one or two large writes.
const MOST_UNSENT: i32 = 256 << 10;

/// Milliseconds that accepting pauses after a shortage.
const SHORTAGE_PAUSE: u64 = 100;

/// Milliseconds after which a worker that waits for a connection number looks for one by itself:
/// the worker that should use it or pass it on may hang.
const LOOK: u64 = 1000;

/// Milliseconds for which a free connection number is left to a worker with clearly fewer
/// connections. Then this worker takes it after all.
const YIELD: u64 = 10;

/// More clients than can wait at a listener. Its backlog is bounded by net.core.somaxconn, mostly
/// 4096, and by 16 bits in old kernels.
const LONGEST_QUEUE: u32 = 1 << 16;

/// The listener, and whether this worker takes clients from it.
#[derive(Debug)]
pub struct Accepting {
    listener: OwnedFd,
    unix: bool,
    /// Connections for which this worker has descriptors, two each.
    allowed: usize,
    /// Most connections of this worker: `allowed`, but no more than `-x`.
    most: usize,
    descriptor_limit: u64,
    /// Clients accepted in a row before other work. It follows the arrivals, so that accept(2)
    /// seldom finds no client.
    batch: u32,
    /// The last round took a whole batch: more clients may wait.
    filled: bool,
    share: Share,
    paused: Option<Pause>,
    /// A connection number is free, and other workers wait for one. This worker must see that it is
    /// used, or that no client needs it.
    has_vacancy: bool,
}

/// Why accepting pauses.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Pause {
    /// Every connection number under `-x` is in use. A worker that frees one looks for a client or
    /// wakes another worker. This worker also looks without a wake-up at this time, in monotonic
    /// milliseconds.
    Full {
        /// When this worker looks without a wake-up.
        look_at: u64,
        /// Whether the last free number was left to a worker with clearly fewer connections.
        has_left: bool,
    },
    /// This worker has as many connections as its descriptors allow. The pause ends with one of
    /// them.
    Busy,
    /// A resource ran short. Accepting resumes at this time, in monotonic milliseconds.
    Shortage(u64),
    /// This worker is ahead of the others. It looks again at this time, or when a client has come.
    /// Until then the listener is watched without EPOLLEXCLUSIVE, because this worker must not be
    /// the only one that the kernel wakes.
    Ahead(Option<u64>),
}

impl Accepting {
    /// Begins to watch the listener.
    ///
    /// # Errors
    /// It cannot be watched.
    pub fn new(
        poll: &Poll,
        listener: OwnedFd,
        settings: &Settings,
        descriptor_limit: u64,
    ) -> std::io::Result<Accepting> {
        let allowed =
            (descriptor_limit.saturating_sub(reserved_descriptors(descriptor_limit)) / 2).max(1);
        let allowed = usize::try_from(allowed).unwrap_or(usize::MAX);
        let unix = is_unix(&listener)?;
        limit_unsent(&listener, unix);
        if settings.buffers.client != BufferSizes::default() {
            sys::set_buffers(&listener, settings.buffers.client)?;
        }
        let mut accepting = Accepting {
            listener,
            unix,
            allowed,
            most: 0,
            descriptor_limit,
            batch: 1,
            filled: false,
            share: Share::default(),
            paused: None,
            has_vacancy: false,
        };
        accepting.set_most(settings);
        accepting.watch(poll)?;
        Ok(accepting)
    }

    /// Sets the buffer sizes that new clients' sockets inherit.
    pub fn set_buffers(&self, sizes: BufferSizes) {
        // A size is never refused: the kernel reduces it to what is allowed.
        let _ = sys::set_buffers(&self.listener, sizes);
    }

    /// Applies the limit of new settings. Open connections stay open.
    pub fn set_most(&mut self, settings: &Settings) {
        self.most = self.allowed.min(settings.connections_max as usize);
    }

    /// How many pipes a worker may have, of two descriptors each: every descriptor that it never
    /// needs otherwise.
    pub fn pipes(&self) -> usize {
        let spare =
            self.descriptor_limit.saturating_sub(OWN_DESCRIPTORS + 2 * self.most as u64) / 2;
        usize::try_from(spare).unwrap_or(usize::MAX)
    }

    /// When a pause that ends by itself is over.
    pub fn resume_at(&self) -> Option<u64> {
        match self.paused {
            Some(Pause::Shortage(at) | Pause::Full { look_at: at, .. }) => Some(at),
            Some(Pause::Ahead(at)) => at,
            Some(Pause::Busy) | None => None,
        }
    }

    fn watch(&self, poll: &Poll) -> rustix::io::Result<()> {
        self.watch_for(poll, epoll::EventFlags::IN | epoll::EventFlags::EXCLUSIVE)
    }

    fn watch_for(&self, poll: &Poll, events: epoll::EventFlags) -> rustix::io::Result<()> {
        epoll::add(
            sys::epoll(poll),
            &self.listener,
            epoll::EventData::new_u64(LISTENER.0 as u64),
            events,
        )
    }

    /// Whether this worker must look for a client for a free connection number.
    pub fn has_vacancy(&self) -> bool {
        self.has_vacancy
    }

    fn is_full(&self) -> bool {
        matches!(self.paused, Some(Pause::Full { .. }))
    }

    fn is_watched(&self) -> bool {
        matches!(self.paused, None | Some(Pause::Ahead(None)))
    }

    /// Leaves clients to the other workers and looks again when one has come, or at once if one
    /// waits already.
    fn rest(&mut self, poll: &Poll, now: u64) {
        let is_watched = self.watch_for(poll, epoll::EventFlags::IN).is_ok();
        self.paused =
            Some(Pause::Ahead(if is_watched { None } else { Some(self.share.rest_ends(now)) }));
    }

    /// A client has come while this worker rests.
    fn rest_ends(&mut self, poll: &Poll, now: u64) {
        self.unwatch(poll);
        self.paused = Some(Pause::Ahead(Some(self.share.rest_ends(now))));
    }

    /// Whether a client waits now. It is asked before a connection number is claimed: claiming and
    /// releasing one wakes a worker that waits for a number.
    fn has_clients(&self) -> bool {
        let mut ready = [PollFd::new(&self.listener, PollFlags::IN)];
        let at_once = Timespec { tv_sec: 0, tv_nsec: 0 };
        !matches!(rustix::event::poll(&mut ready, Some(&at_once)), Ok(0))
    }

    fn unwatch(&self, poll: &Poll) {
        // The listener is watched, so this can fail only for a listener that is not there.
        let _ = epoll::delete(sys::epoll(poll), &self.listener);
    }
}

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

/// Whether a listener is a Unix socket.
fn is_unix(listener: &OwnedFd) -> rustix::io::Result<bool> {
    Ok(rustix::net::sockopt::socket_domain(listener)? == AddressFamily::UNIX)
}

/// Limits the unsent bytes of each client by an option that its socket inherits, at no cost for a
/// connection.
fn limit_unsent(listener: &OwnedFd, unix: bool) {
    if !unix {
        // Every kernel that pen runs on has the option. Without it, clients are served all the
        // same.
        let _ = sys::limit_unsent(listener, MOST_UNSENT);
    }
}

impl Relay<'_> {
    /// Accepts waiting clients, up to the batch. The kernel reports the remaining ones again. The
    /// batch doubles while full batches follow each other, and shrinks to the number that came.
    pub(in crate::relay) fn accept(&mut self) {
        match self.accepting.paused {
            None => {}
            Some(Pause::Ahead(None)) => {
                if fair_share::is_ahead(self.pool.open() as u32, self.worker_table.fewest_open()) {
                    return self.accepting.rest_ends(&self.poll, self.now);
                }
                // Meanwhile the others have caught up, or take no more.
                self.accepting.unwatch(&self.poll);
                self.watch_again();
            }
            Some(_) => return,
        }
        if self.accepting.filled {
            self.accepting.batch = self.accepting.batch.saturating_mul(2);
        }
        let most = if self.crew.1 > 1 { fair_share::BATCH } else { u32::MAX };
        let batch = self.accepting.batch.clamp(1, self.settings.accept_batch.clamp(1, most));
        let (accepted, _) = self.accept_some(batch);
        self.accepting.filled = accepted == batch;
        self.accepting.batch = accepted;
        self.keep_to_share();
    }

    /// Accepts waiting clients, at most `most`. Returns how many were there, and why it stopped.
    fn accept_some(&mut self, most: u32) -> (u32, Stopped) {
        for accepted in 0..most {
            if self.is_exhausted() {
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
                    self.tell_of_waiting();
                    return (accepted, Stopped::Paused);
                }
            };
            match self.accept_one() {
                Ok((socket, peer)) => self.on_client(socket, peer, number),
                Err(errno) => {
                    self.return_unused(number);
                    match errno {
                        errno if is_passing(errno) => {}
                        Errno::AGAIN => return (accepted, Stopped::NoClient),
                        errno => {
                            self.short_of(ShortageDuring::Accept, errno);
                            return (accepted, Stopped::Paused);
                        }
                    }
                }
            }
        }
        (most, Stopped::Enough)
    }

    /// Reports that clients wait for a connection number, if some do. It looks again every second
    /// while accepting pauses.
    fn tell_of_waiting(&mut self) {
        if matches!(self.accepting.paused, Some(Pause::Full { .. }))
            && self.accepting.has_clients()
            && self.supervisor.may_tell(Rated::ConnectionsFull, self.now)
        {
            self.supervisor.tell(Event::ConnectionsFull, &mut self.counters);
        }
    }

    /// Uses a free connection number that others wait for: accepts a client for it, or wakes a
    /// worker that waits.
    pub(in crate::relay) fn fill_place(&mut self) {
        if !std::mem::take(&mut self.accepting.has_vacancy) {
            return;
        }
        match self.accepting.paused {
            None | Some(Pause::Full { has_left: true, .. }) => {}
            Some(Pause::Full { has_left: false, .. }) => {
                if fair_share::is_ahead(self.pool.open() as u32, self.worker_table.fewest_open()) {
                    self.accepting.paused =
                        Some(Pause::Full { look_at: self.now + YIELD, has_left: true });
                    return self.wake_one();
                }
            }
            Some(Pause::Busy | Pause::Shortage(_) | Pause::Ahead(_)) => return self.wake_one(),
        }
        let most = if self.crew.1 > 1 { fair_share::BATCH } else { u32::MAX };
        let (_, stopped) = self.accept_some(self.settings.accept_batch.clamp(1, most));
        match stopped {
            Stopped::NoClient | Stopped::Enough => self.resume_accepting(),
            Stopped::Paused => {}
        }
        self.keep_to_share();
    }

    /// Pauses if this worker is ahead of the others.
    fn keep_to_share(&mut self) {
        let open = self.pool.open() as u32;
        if self.accepting.paused.is_some()
            || !self.accepting.share.is_due(open, self.counters.closed, self.now)
        {
            return;
        }
        if let Some(end) =
            self.accepting.share.pause(open, self.worker_table.fewest_open(), self.now)
        {
            self.accepting.unwatch(&self.poll);
            self.accepting.paused = Some(Pause::Ahead(Some(end)));
            if self.accepting.has_clients() {
                // The kernel may have woken only this worker for the waiting clients.
                self.wake_workers();
            }
        }
    }

    /// Ends a timed pause, unless the clients should still be left to the others.
    pub(in crate::relay) fn pause_ends(&mut self) {
        if let Some(Pause::Full { look_at, .. }) = &mut self.accepting.paused {
            *look_at = self.now + LOOK;
            self.accepting.has_vacancy = true;
            return;
        }
        if let Some(Pause::Ahead(_)) = self.accepting.paused {
            let (open, fewest) = (self.pool.open() as u32, self.worker_table.fewest_open());
            match self.accepting.share.next(open, fewest, self.accepting.has_clients(), self.now) {
                Next::Resume => {}
                Next::Rest => return self.accepting.rest(&self.poll, self.now),
                Next::Pause(few, end) => {
                    self.accepting.paused = Some(Pause::Ahead(Some(end)));
                    let _ = self.accept_some(few.min(self.settings.accept_batch));
                    return;
                }
            }
        }
        self.resume_accepting();
    }

    /// Publishes the number of this worker's connections to the others; none while it accepts no
    /// more.
    pub(in crate::relay) fn publish(&mut self) {
        let open = match self.accepting.paused {
            // At `-x` it accepts the next client for which a number is free.
            None | Some(Pause::Ahead(_) | Pause::Full { .. }) => Some(self.pool.open() as u32),
            Some(Pause::Busy | Pause::Shortage(_)) => None,
        };
        if open != self.published {
            self.worker_table.set_open(open);
            self.published = open;
        }
    }

    /// No client was there in this round.
    pub(in crate::relay) fn no_client(&mut self) {
        self.accepting.filled = false;
    }

    fn accept_one(&self) -> rustix::io::Result<(OwnedFd, Option<SocketAddrAny>)> {
        rustix::net::acceptfrom_with(
            &self.accepting.listener,
            SocketFlags::NONBLOCK | SocketFlags::CLOEXEC,
        )
    }

    /// Changes to another listener. Clients that wait at the old one are accepted, or reset if no
    /// connection number is free: the backlog is lost with the listener.
    ///
    /// # Errors
    /// The new descriptor is not a listener.
    pub(in crate::relay) fn move_listener(&mut self, listener: OwnedFd) -> rustix::io::Result<()> {
        let unix = is_unix(&listener)?;
        limit_unsent(&listener, unix);
        if self.settings.buffers.client != BufferSizes::default() {
            sys::set_buffers(&listener, self.settings.buffers.client)?;
        }
        self.serve_queue();
        if self.accepting.is_watched() {
            self.accepting.unwatch(&self.poll);
        }
        self.accepting.listener = listener;
        self.accepting.unix = unix;
        match self.accepting.paused {
            None => self.watch_again(),
            Some(Pause::Ahead(None)) => self.accepting.rest(&self.poll, self.now),
            Some(_) => {}
        }
        Ok(())
    }

    /// Accepts all waiting clients, whether or not accepting pauses.
    fn serve_queue(&mut self) {
        for _ in 0..LONGEST_QUEUE {
            match self.accept_one() {
                // The number is small: no more clients than a backlog holds.
                Ok((socket, peer)) if self.pool.open() < self.accepting.most => {
                    match self.claim() {
                        Some(number) => self.on_client(socket, peer, number),
                        None => reset_on_close(&socket),
                    }
                }
                Ok((socket, _)) => reset_on_close(&socket),
                Err(errno) if is_passing(errno) => {}
                Err(_) => return,
            }
        }
    }

    /// Resumes accepting after a change of limits, if it waited for room.
    pub(in crate::relay) fn limits_changed(&mut self) {
        self.accepting.set_most(&self.settings);
        match self.accepting.paused {
            Some(Pause::Full { .. }) => self.resume_accepting(),
            Some(Pause::Busy) if !self.is_busy() => self.resume_accepting(),
            Some(Pause::Busy | Pause::Shortage(_) | Pause::Ahead(_)) | None => {}
        }
    }

    fn on_client(&mut self, socket: OwnedFd, peer: Option<SocketAddrAny>, number: u32) {
        self.counters.accepted += 1;
        let address = peer.and_then(|peer| SocketAddr::try_from(peer).ok());
        let (key, port) =
            address.map_or((ClientKey::UNIX, 0), |peer| (ClientKey::from_peer(peer), peer.port()));
        let unix = self.accepting.unix;
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
    pub(in crate::relay) fn give_back(&mut self, number: u32) {
        if self.worker_table.release_connection(number) {
            self.accepting.has_vacancy = true;
        }
        if self.accepting.paused == Some(Pause::Busy) && !self.is_busy() {
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
            self.wake_one();
        }
    }

    /// Whether this worker has its maximum of connections.
    pub(in crate::relay) fn is_busy(&self) -> bool {
        self.pool.open() >= self.accepting.most
    }

    fn pause(&mut self, pause: Pause) {
        if self.accepting.is_watched() {
            self.accepting.unwatch(&self.poll);
        }
        self.counters.pauses += u64::from(self.accepting.paused.is_none());
        let was_full = self.accepting.is_full();
        self.accepting.paused = Some(pause);
        self.await_vacancy(was_full);
        if !self.accepting.is_full() {
            self.worker_table.stop_waiting();
            // The kernel has woken only this worker for the clients that wait now. Other workers
            // may have room for them.
            self.wake_workers();
        }
    }

    /// Registers for a wake-up by a free connection number while this worker waits for one.
    /// EPOLLEXCLUSIVE wakes only one of the sleeping workers.
    fn await_vacancy(&self, was_full: bool) {
        let epoll = sys::epoll(&self.poll);
        // If it cannot be registered, the worker still looks by itself once a second.
        let _ = match (was_full, self.accepting.is_full()) {
            (false, true) => {
                let flags =
                    epoll::EventFlags::IN | epoll::EventFlags::ET | epoll::EventFlags::EXCLUSIVE;
                epoll::add(epoll, &self.vacancy, epoll::EventData::new_u64(VACANCY.0 as u64), flags)
            }
            (true, false) => epoll::delete(epoll, &self.vacancy),
            (true, true) | (false, false) => Ok(()),
        };
    }

    /// Wakes every worker to look for clients.
    pub(in crate::relay) fn wake_workers(&self) {
        wake(&self.freed);
    }

    /// Wakes one worker that waits for a connection number to look for a client. The kernel chooses
    /// one that sleeps, so a worker that hangs delays nothing.
    fn wake_one(&self) {
        wake(&self.vacancy);
    }

    /// A connection number may be free, and this worker must look for a client.
    pub(in crate::relay) fn on_vacancy(&mut self) {
        self.accepting.has_vacancy |= self.accepting.is_full();
    }

    /// Connection numbers of a dead worker are free, or clients are left to this worker: looks for
    /// a client.
    pub(in crate::relay) fn on_freed(&mut self) {
        match self.accepting.paused {
            None => self.look_for_clients(),
            Some(Pause::Full { .. }) => self.accepting.has_vacancy = true,
            Some(Pause::Busy | Pause::Shortage(_) | Pause::Ahead(_)) => {}
        }
    }

    /// Watches the listener again. If clients wait, the next round of events reports them.
    pub(in crate::relay) fn resume_accepting(&mut self) {
        if self.accepting.paused.is_none() {
            return;
        }
        self.worker_table.stop_waiting();
        let was_full = self.accepting.is_full();
        self.watch_again();
        self.await_vacancy(was_full);
    }

    /// Makes the kernel report waiting clients to this worker too. It may have woken only one other
    /// worker for them, which left them or died.
    pub(in crate::relay) fn look_for_clients(&mut self) {
        if self.accepting.paused.is_none() && self.accepting.has_clients() {
            self.accepting.unwatch(&self.poll);
            self.watch_again();
        }
    }

    fn watch_again(&mut self) {
        self.accepting.paused = match self.accepting.watch(&self.poll) {
            Ok(()) => None,
            Err(_) => Some(Pause::Shortage(self.now + SHORTAGE_PAUSE)),
        };
    }

    /// A resource of this machine ran short: reports it and pauses accepting, so that open
    /// connections go on first.
    pub(in crate::relay) fn short_of(&mut self, during: ShortageDuring, errno: Errno) {
        if self.supervisor.may_tell(Rated::Shortage, self.now) {
            let event = Event::Shortage { during, errno: errno.raw_os_error() };
            self.supervisor.tell(event, &mut self.counters);
        }
        self.pause(Pause::Shortage(self.now + SHORTAGE_PAUSE));
    }
}

/// Whether accept(2) may find the next client at once: the present client has gone, or a signal
/// came.
fn is_passing(errno: Errno) -> bool {
    matches!(errno, Errno::INTR | Errno::CONNABORTED | Errno::PERM | Errno::PROTO)
}

/// Wakes the watchers of an eventfd.
fn wake(eventfd: &OwnedFd) {
    let wake = || rustix::io::write(eventfd, &1u64.to_ne_bytes());
    // Nothing reads the counter in normal work. But a worker that was taken over by an attacker can
    // fill it, so that no write wakes a watcher until it is read.
    if wake() == Err(Errno::AGAIN) {
        let _ = rustix::io::read(eventfd, &mut [0; 8]);
        let _ = wake();
    }
}
