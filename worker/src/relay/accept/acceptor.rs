//! The listener, and whether this worker takes clients from it.
//!
//! All workers watch one listener. EPOLLEXCLUSIVE makes a client wake one of them and not all. mio
//! does not know that flag, so the listener is registered directly with its epoll. The registration
//! is level-triggered: the kernel reports waiting clients until they are accepted. An
//! EPOLLEXCLUSIVE registration cannot be changed, only removed and added again; that is how
//! accepting pauses.

use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::rc::Rc;

use mio::Poll;
use pen_config::settings::{BufferSizes, Settings};
use pen_ipc::message::Event;
use pen_ipc::start::{Begins, OWN_DESCRIPTORS, reserved_descriptors};
use pen_table::WorkerTable;
use rustix::event::{PollFd, PollFlags, Timespec, epoll};
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketAddrAny, SocketAddrUnix, SocketFlags};

use crate::relay::accept::fair_share::{BATCH, Share};
use crate::relay::link::{Link, Rated};
use crate::relay::{LISTENER, VACANCY};
use crate::sys;

/// Most unsent bytes that wait in the kernel for one client. Without it, a client that reads
/// nothing would have as much as `net.ipv4.tcp_wmem` allows, mostly 4 MB. An event comes only when
/// half of it was sent, which is one or two large writes.
const MOST_UNSENT: i32 = 256 << 10;

/// Milliseconds that accepting pauses after a shortage.
pub const SHORTAGE_PAUSE: u64 = 100;

/// The listener, and whether this worker takes clients from it.
#[derive(Debug)]
pub struct Acceptor {
    /// None after [`Acceptor::drain`].
    listener: Option<OwnedFd>,
    /// The listener is a Unix socket.
    pub unix: bool,
    /// The address of the listener; after [`Acceptor::drain`], that of the last one.
    pub listen: Rc<str>,
    wakeups: Wakeups,
    /// The number of workers.
    workers: u32,
    /// Connections for which this worker has descriptors, two each.
    allowed: usize,
    /// Most connections of this worker: `allowed`, but no more than `-x`.
    pub most: usize,
    descriptor_limit: u64,
    /// Clients accepted in a row before other work. It follows the arrivals, so that accept(2)
    /// seldom finds no client.
    batch: u32,
    /// The last round took a whole batch: more clients may wait.
    filled: bool,
    /// The other workers' connections, to compare.
    pub share: Share,
    /// Why accepting pauses, if it does.
    paused: Option<Pause>,
    /// A connection number is free, and other workers wait for one. This worker must see that it is
    /// used, or that no client needs it.
    pub has_vacancy: bool,
    /// The number of open connections that the other workers see in the table.
    pub published: Option<u32>,
}

/// The eventfds that wake workers.
#[derive(Debug)]
pub struct Wakeups {
    /// Wakes every worker to look for clients.
    pub freed: OwnedFd,
    /// Wakes one worker that waits for a connection number.
    pub vacancy: OwnedFd,
}

/// Why accepting pauses.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Pause {
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
    /// The worker has not begun ([`Begins::OnOrder`]). Only [`Acceptor::begin`] and
    /// [`Acceptor::drain`] end this.
    NotBegun,
    /// The worker takes no clients any more, and has no listener. This does not end.
    Drained,
}

impl Pause {
    /// Whether nothing but an order of the supervisor ends the pause.
    fn is_ordered(self) -> bool {
        match self {
            Pause::NotBegun | Pause::Drained => true,
            Pause::Full { .. } | Pause::Busy | Pause::Shortage(_) | Pause::Ahead(_) => false,
        }
    }
}

impl Acceptor {
    /// Begins to watch the listener, or waits for [`Acceptor::begin`].
    ///
    /// # Errors
    /// It cannot be watched.
    pub fn new(
        poll: &Poll,
        listener: OwnedFd,
        wakeups: Wakeups,
        workers: u32,
        begins: Begins,
        settings: &Settings,
        descriptor_limit: u64,
    ) -> std::io::Result<Acceptor> {
        let allowed =
            (descriptor_limit.saturating_sub(reserved_descriptors(descriptor_limit)) / 2).max(1);
        let allowed = usize::try_from(allowed).unwrap_or(usize::MAX);
        let unix = prepare(&listener, settings)?;
        let mut acceptor = Acceptor {
            listen: name(&listener),
            listener: Some(listener),
            unix,
            wakeups,
            workers,
            allowed,
            most: 0,
            descriptor_limit,
            batch: 1,
            filled: false,
            share: Share::default(),
            paused: match begins {
                Begins::AtOnce => None,
                Begins::OnOrder => Some(Pause::NotBegun),
            },
            has_vacancy: false,
            published: None,
        };
        acceptor.set_most(settings);
        if acceptor.is_watched() {
            acceptor.watch(poll)?;
        }
        Ok(acceptor)
    }

    /// Sets the buffer sizes that new clients' sockets inherit.
    pub fn set_buffers(&self, sizes: BufferSizes) {
        if let Some(listener) = &self.listener {
            // A size is never refused: the kernel reduces it to what is allowed.
            let _ = sys::set_buffers(listener, sizes);
        }
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
            Some(Pause::Busy | Pause::NotBegun | Pause::Drained) | None => None,
        }
    }

    fn watch(&self, poll: &Poll) -> rustix::io::Result<()> {
        self.watch_for(poll, epoll::EventFlags::IN | epoll::EventFlags::EXCLUSIVE)
    }

    fn watch_for(&self, poll: &Poll, events: epoll::EventFlags) -> rustix::io::Result<()> {
        epoll::add(
            sys::epoll(poll),
            self.listener.as_ref().ok_or(Errno::BADF)?,
            epoll::EventData::new_u64(LISTENER.0 as u64),
            events,
        )
    }

    /// Why accepting pauses, if it does.
    pub fn paused(&self) -> Option<Pause> {
        self.paused
    }

    /// Whether accepting pauses because every connection number is in use.
    pub fn is_full(&self) -> bool {
        matches!(self.paused, Some(Pause::Full { .. }))
    }

    /// Whether the listener is watched.
    pub fn is_watched(&self) -> bool {
        matches!(self.paused, None | Some(Pause::Ahead(None)))
    }

    /// Leaves clients to the other workers and looks again when one has come, or at once if one
    /// waits already.
    pub fn rest(&mut self, poll: &Poll, now: u64) {
        let is_watched = self.watch_for(poll, epoll::EventFlags::IN).is_ok();
        self.paused =
            Some(Pause::Ahead(if is_watched { None } else { Some(self.share.rest_ends(now)) }));
    }

    /// A client has come while this worker rests.
    pub fn rest_ends(&mut self, poll: &Poll, now: u64) {
        self.leave_to_others(poll, self.share.rest_ends(now));
    }

    /// Leaves clients to the other workers until this time, in monotonic milliseconds.
    pub fn leave_to_others(&mut self, poll: &Poll, until: u64) {
        if self.is_watched() {
            self.unwatch(poll);
        }
        self.paused = Some(Pause::Ahead(Some(until)));
    }

    /// Changes when this worker looks without a wake-up while every connection number is in use,
    /// and notes whether it left the last free one to another worker.
    pub fn look_at(&mut self, at: u64, left: bool) {
        if let Some(Pause::Full { look_at, has_left }) = &mut self.paused {
            (*look_at, *has_left) = (at, left);
        }
    }

    /// Whether a client waits now. It is asked before a connection number is claimed: claiming and
    /// releasing one wakes a worker that waits for a number.
    pub fn has_clients(&self) -> bool {
        let Some(listener) = &self.listener else { return false };
        let mut ready = [PollFd::new(listener, PollFlags::IN)];
        let at_once = Timespec { tv_sec: 0, tv_nsec: 0 };
        !matches!(rustix::event::poll(&mut ready, Some(&at_once)), Ok(0))
    }

    /// Stops watching the listener.
    pub fn unwatch(&self, poll: &Poll) {
        if let Some(listener) = &self.listener {
            // It is watched, so this does not fail.
            let _ = epoll::delete(sys::epoll(poll), listener);
        }
    }

    /// Watches the listener again. If clients wait, the next round of events reports them.
    pub fn resume(&mut self, poll: &Poll, worker_table: &WorkerTable<'_>, now: u64) {
        if self.paused.is_none() {
            return;
        }
        worker_table.stop_waiting();
        let was_full = self.is_full();
        self.watch_again(poll, now);
        self.await_vacancy(poll, was_full);
    }

    /// Watches the listener again, after it was not watched.
    pub fn watch_again(&mut self, poll: &Poll, now: u64) {
        self.paused = match self.watch(poll) {
            Ok(()) => None,
            Err(_) => Some(Pause::Shortage(now + SHORTAGE_PAUSE)),
        };
    }

    /// Begins to take clients, if the worker has waited for that order.
    pub fn begin(&mut self, poll: &Poll, now: u64) {
        if self.paused == Some(Pause::NotBegun) {
            self.watch_again(poll, now);
        }
    }

    /// Takes no more clients, for ever, and closes the listener. Clients that wait there, and
    /// connection numbers that this worker was woken for, are left to the other workers.
    pub fn drain(&mut self, poll: &Poll, worker_table: &WorkerTable<'_>) {
        if self.is_watched() {
            // Closing does not end the registration, because other processes have the socket too.
            self.unwatch(poll);
        }
        let was_full = self.is_full();
        self.paused = Some(Pause::Drained);
        self.listener = None;
        self.await_vacancy(poll, was_full);
        worker_table.stop_waiting();
        worker_table.set_open(None);
        self.published = None;
        self.has_vacancy |= was_full;
        self.wake_workers();
        // No other worker's clients concern this one.
        let _ = epoll::delete(sys::epoll(poll), &self.wakeups.freed);
    }

    /// Whether the worker takes no clients any more.
    pub fn is_drained(&self) -> bool {
        self.paused == Some(Pause::Drained)
    }

    /// Whether the worker takes clients, now or after a pause that ends by itself.
    pub fn takes_clients(&self) -> bool {
        self.paused.is_none_or(|pause| !pause.is_ordered())
    }

    /// Makes the kernel report waiting clients to this worker too. It may have woken only one other
    /// worker for them, which left them or died.
    pub fn look_for_clients(&mut self, poll: &Poll, now: u64) {
        if self.paused.is_none() && self.has_clients() {
            self.unwatch(poll);
            self.watch_again(poll, now);
        }
    }

    /// Pauses accepting, if the worker takes clients.
    pub fn pause(
        &mut self,
        pause: Pause,
        poll: &Poll,
        worker_table: &WorkerTable<'_>,
        link: &mut Link,
    ) {
        if !self.takes_clients() {
            return;
        }
        if self.is_watched() {
            self.unwatch(poll);
        }
        link.counters.pauses += u64::from(self.paused.is_none());
        let was_full = self.is_full();
        self.paused = Some(pause);
        self.await_vacancy(poll, was_full);
        if !self.is_full() {
            worker_table.stop_waiting();
            // The kernel has woken only this worker for the clients that wait now. Other workers
            // may have room for them.
            self.wake_workers();
        }
    }

    /// Registers for a wake-up by a free connection number while this worker waits for one.
    /// EPOLLEXCLUSIVE wakes only one of the sleeping workers.
    fn await_vacancy(&self, poll: &Poll, was_full: bool) {
        let epoll = sys::epoll(poll);
        // If it cannot be registered, the worker still looks by itself once a second.
        let _ = match (was_full, self.is_full()) {
            (false, true) => {
                let flags =
                    epoll::EventFlags::IN | epoll::EventFlags::ET | epoll::EventFlags::EXCLUSIVE;
                epoll::add(
                    epoll,
                    &self.wakeups.vacancy,
                    epoll::EventData::new_u64(VACANCY.0 as u64),
                    flags,
                )
            }
            (true, false) => epoll::delete(epoll, &self.wakeups.vacancy),
            (true, true) | (false, false) => Ok(()),
        };
    }

    /// A connection number may be free, and this worker must look for a client.
    pub fn on_vacancy(&mut self) {
        self.has_vacancy |= self.is_full();
    }

    /// Connection numbers of a dead worker are free, or clients are left to this worker: looks for
    /// a client.
    pub fn on_freed(&mut self, poll: &Poll, now: u64) {
        match self.paused {
            None => self.look_for_clients(poll, now),
            Some(Pause::Full { .. }) => self.has_vacancy = true,
            Some(
                Pause::Busy
                | Pause::Shortage(_)
                | Pause::Ahead(_)
                | Pause::NotBegun
                | Pause::Drained,
            ) => {}
        }
    }

    /// Wakes every worker to look for clients.
    pub fn wake_workers(&self) {
        wake(&self.wakeups.freed);
    }

    /// Wakes one worker that waits for a connection number to look for a client. The kernel chooses
    /// one that sleeps, so a worker that hangs delays nothing.
    pub fn wake_one(&self) {
        wake(&self.wakeups.vacancy);
    }

    /// Publishes the number of this worker's connections to the others; none while it accepts no
    /// more.
    pub fn publish(&mut self, open: usize, worker_table: &WorkerTable<'_>) {
        let open = match self.paused {
            // At `-x` it accepts the next client for which a number is free.
            None | Some(Pause::Ahead(_) | Pause::Full { .. }) => Some(open as u32),
            Some(Pause::Busy | Pause::Shortage(_) | Pause::NotBegun | Pause::Drained) => None,
        };
        if open != self.published {
            worker_table.set_open(open);
            self.published = open;
        }
    }

    /// Reports that clients wait for a connection number, if some do. It looks again every second
    /// while accepting pauses.
    pub fn report_waiting_clients(&self, link: &mut Link, now: u64) {
        if self.is_full() && self.has_clients() && link.may_report(Rated::ConnectionsFull, now) {
            link.report(Event::ConnectionsFull);
        }
    }

    /// How many clients to accept in this round. The batch doubles while full batches follow each
    /// other.
    pub fn next_batch(&mut self, settings: &Settings) -> u32 {
        if self.filled {
            self.batch = self.batch.saturating_mul(2);
        }
        self.batch.clamp(1, self.most_at_once(settings))
    }

    /// Notes that this many clients of a batch were there. The batch shrinks to that number.
    pub fn end_batch(&mut self, batch: u32, accepted: u32) {
        self.filled = accepted == batch;
        self.batch = accepted;
    }

    /// No client was there in this round.
    pub fn no_client(&mut self) {
        self.filled = false;
    }

    /// Most clients that are accepted at a time.
    pub fn most_at_once(&self, settings: &Settings) -> u32 {
        let most = if self.workers > 1 { BATCH } else { u32::MAX };
        settings.accept_batch.clamp(1, most)
    }

    /// Accepts one client.
    ///
    /// # Errors
    /// Those of accept(2); EAGAIN: no client waits.
    pub fn accept_one(&self) -> rustix::io::Result<(OwnedFd, Option<SocketAddrAny>)> {
        let listener = self.listener.as_ref().ok_or(Errno::AGAIN)?;
        rustix::net::acceptfrom_with(listener, SocketFlags::NONBLOCK | SocketFlags::CLOEXEC)
    }

    /// Changes to another listener, which must be prepared.
    pub fn replace_listener(&mut self, listener: OwnedFd, unix: bool, poll: &Poll, now: u64) {
        if self.is_watched() {
            self.unwatch(poll);
        }
        self.listen = name(&listener);
        (self.listener, self.unix) = (Some(listener), unix);
        match self.paused {
            None => self.watch_again(poll, now),
            Some(Pause::Ahead(None)) => self.rest(poll, now),
            Some(
                Pause::Ahead(Some(_))
                | Pause::Full { .. }
                | Pause::Busy
                | Pause::Shortage(_)
                | Pause::NotBegun
                | Pause::Drained,
            ) => {}
        }
    }
}

/// Sets the options that clients' sockets inherit from a listener. Returns whether it is a Unix
/// socket.
///
/// # Errors
/// The descriptor is not a listener.
pub fn prepare(listener: &OwnedFd, settings: &Settings) -> rustix::io::Result<bool> {
    let unix = rustix::net::sockopt::socket_domain(listener)? == AddressFamily::UNIX;
    if !unix {
        // Every kernel that pen runs on has the option. Without it, clients are served all the
        // same.
        let _ = sys::limit_unsent(listener, MOST_UNSENT);
    }
    if settings.buffers.client != BufferSizes::default() {
        sys::set_buffers(listener, settings.buffers.client)?;
    }
    Ok(unix)
}

/// The address of a listener, as the connection log shows it.
fn name(listener: &OwnedFd) -> Rc<str> {
    let Ok(address) = rustix::net::getsockname(listener) else { return "-".into() };
    if let Ok(address) = SocketAddr::try_from(address.clone()) {
        return address.to_string().into();
    }
    let path = SocketAddrUnix::try_from(address);
    let path = path.as_ref().ok().and_then(SocketAddrUnix::path_bytes);
    path.map_or("-".into(), |path| String::from_utf8_lossy(path).into())
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
