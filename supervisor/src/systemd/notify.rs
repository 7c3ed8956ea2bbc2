//! Messages to the service manager: sd_notify(3), the protocol of `Type=notify` and `WatchdogSec=`.
//!
//! Nothing here waits. If the manager does not take a message now, a change of state is kept and
//! sent at the next beat; other messages are dropped. Without `NOTIFY_SOCKET` nothing is done. The
//! crates for this protocol block while the manager is busy, read the environment each time, and do
//! not support abstract sockets.

#![forbid(unsafe_code)]

use std::collections::VecDeque;
use std::ffi::OsStr;
use std::io::{self, IoSlice};
use std::mem::MaybeUninit;
use std::os::fd::BorrowedFd;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::path::Path;
use std::time::{Duration, Instant};

use nix::unistd::getpid;
use pen_ipc::text::error_text;
use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg};
use rustix::time::{ClockId, clock_gettime};

use crate::sys::take_variable;

/// The connection to the service manager, if there is one.
#[derive(Clone, Debug, Default)]
pub(crate) struct Notify {
    to: Option<SocketAddr>,
    /// Whether the manager has a store of descriptors (FDSTORE).
    has_store: bool,
    /// The interval of the watchdog messages: half of the manager's time.
    alive_every: Option<Duration>,
    alive_next: Option<Instant>,
    /// The status line that the manager shows, and since when.
    shown: Option<(String, Instant)>,
    /// Changes of state that the manager has not taken yet.
    owed: VecDeque<String>,
    /// The error in the environment.
    complaint: Option<String>,
}

impl Notify {
    /// Takes the variables out of the environment, so that no child uses them.
    pub(crate) fn take() -> Notify {
        let (socket, usec, pid, store) = (
            take_variable("NOTIFY_SOCKET"),
            take_variable("WATCHDOG_USEC"),
            take_variable("WATCHDOG_PID"),
            take_variable("FDSTORE"),
        );
        let Some(socket) = socket.filter(|socket| !socket.is_empty()) else {
            return Notify::default();
        };
        let number = |text: &OsStr| text.to_str()?.parse::<u64>().ok();
        // Read before any fork, so that it also holds for a supervisor in the background.
        let meant = pid.is_none_or(|pid| number(&pid) == u64::try_from(getpid().as_raw()).ok());
        let usec = usec.and_then(|usec| number(&usec)).filter(|usec| *usec > 0 && meant);
        let (to, complaint) = match address(&socket) {
            Ok(to) => (Some(to), None),
            Err(error) => (
                None,
                Some(format!(
                    "NOTIFY_SOCKET={}: {}; the service manager is told nothing",
                    socket.display(),
                    error_text(&error)
                )),
            ),
        };
        let alive_every = usec.filter(|_| to.is_some()).map(|usec| Duration::from_micros(usec) / 2);
        let has_store = store.and_then(|most| number(&most)).is_some_and(|most| most > 0);
        Notify { to, has_store, alive_every, complaint, ..Notify::default() }
    }

    /// A connection to the manager at this address (the value of NOTIFY_SOCKET), with this interval
    /// of watchdog messages.
    pub(crate) fn adopted(socket: Option<&str>, alive_every: Option<Duration>) -> Notify {
        let to = socket.and_then(|socket| address(OsStr::new(socket)).ok());
        let alive_every = alive_every.filter(|_| to.is_some());
        let alive_next = alive_every.map(|_| Instant::now());
        Notify { to, alive_every, alive_next, ..Notify::default() }
    }

    /// The value of NOTIFY_SOCKET, if it is a text.
    pub(crate) fn socket(&self) -> Option<String> {
        let to = self.to.as_ref()?;
        let abstract_name = || Some(format!("@{}", str::from_utf8(to.as_abstract_name()?).ok()?));
        to.as_pathname().and_then(Path::to_str).map(str::to_owned).or_else(abstract_name)
    }

    /// The address of the manager, if it has a store of descriptors.
    pub(crate) fn store(&self) -> Option<SocketAddr> {
        self.to.clone().filter(|_| self.has_store)
    }

    /// The address of the manager, whether or not it said that it has a store. An earlier program
    /// in this process knew.
    pub(crate) fn store_socket(&self) -> Option<SocketAddr> {
        self.to.clone()
    }

    /// The interval of the watchdog messages.
    pub(crate) fn alive_every(&self) -> Option<Duration> {
        self.alive_every
    }

    /// The warning about the environment; returned only once.
    pub(crate) fn complaint(&mut self) -> Option<String> {
        self.complaint.take()
    }

    /// Whether there is a service manager; if not, no status line is needed.
    pub(crate) fn is_heard(&self) -> bool {
        self.to.is_some()
    }

    /// Reports that pen serves: after the start, and after each reload, successful or not.
    pub(crate) fn ready(&mut self, status: &str, now: Instant) {
        self.change(format!("READY=1\nMAINPID={}", getpid()), status, now);
        self.alive_next = self.alive_every.map(|_| now);
    }

    /// Reports that a reload was requested.
    pub(crate) fn reloading(&mut self, status: &str, now: Instant) {
        let time = clock_gettime(ClockId::Monotonic);
        let usec = i128::from(time.tv_sec) * 1_000_000 + i128::from(time.tv_nsec) / 1000;
        self.change(format!("RELOADING=1\nMONOTONIC_USEC={usec}"), status, now);
    }

    /// Reports that pen ends.
    pub(crate) fn stopping(&mut self, status: &str, now: Instant) {
        self.change("STOPPING=1".into(), status, now);
        self.alive_next = None;
    }

    /// Reports that pen did not start.
    pub(crate) fn failed(&self, reason: &str) {
        if let Some(to) = &self.to {
            // The exit status reports it too.
            let _ = send(to, &format!("STATUS={}", one_line(reason)));
        }
    }

    /// Updates the status line that the manager shows.
    pub(crate) fn status(&mut self, status: &str, now: Instant) {
        let fresh =
            |(shown, since): &(String, Instant)| shown == status || now < *since + STATUS_EVERY;
        if self.shown.as_ref().is_some_and(fresh) || !self.owed.is_empty() {
            return;
        }
        if let Some(to) = &self.to
            && send(to, &format!("STATUS={}", one_line(status))).is_ok()
        {
            self.shown = Some((status.into(), now));
        }
    }

    /// When to call [`Notify::beat`].
    pub(crate) fn deadline(&self) -> Option<Instant> {
        self.alive_next
    }

    /// Sends the watchdog message if it is due. Only the loop that it vouches for may call this.
    pub(crate) fn beat(&mut self, now: Instant) {
        self.settle();
        if let (Some(every), Some(next), Some(to)) = (self.alive_every, self.alive_next, &self.to)
            && next <= now
        {
            // If the manager does not take it now, it is sent again soon: half of the manager's
            // time is left.
            let sent = send(to, "WATCHDOG=1").is_ok();
            self.alive_next = Some(now + if sent { every } else { every.min(AGAIN) });
        }
    }

    fn change(&mut self, state: String, status: &str, now: Instant) {
        if self.to.is_none() {
            return;
        }
        if self.owed.len() == MOST_OWED {
            self.owed.pop_front();
        }
        self.owed.push_back(format!("{state}\nSTATUS={}", one_line(status)));
        self.shown = Some((status.into(), now));
        self.settle();
    }

    /// Sends kept changes of state, as far as the manager takes them.
    pub(crate) fn settle(&mut self) {
        while let (Some(to), Some(next)) = (&self.to, self.owed.front()) {
            if send(to, next).is_err() {
                return;
            }
            self.owed.pop_front();
        }
    }
}

/// The address of the notification socket: a path, or an abstract name after `@`.
fn address(name: &OsStr) -> io::Result<SocketAddr> {
    match name.as_bytes() {
        [b'@', name @ ..] => SocketAddr::from_abstract_name(name),
        [b'/', ..] => SocketAddr::from_pathname(name),
        _ => Err(io::Error::new(io::ErrorKind::Unsupported, "neither a path nor an abstract name")),
    }
}

fn send(to: &SocketAddr, text: &str) -> io::Result<()> {
    send_with(to, text, None)
}

/// Sends a datagram, with a descriptor if one is given. Never waits. The socket is new: messages
/// are rare, and so no child inherits one.
pub(in crate::systemd) fn send_with(
    to: &SocketAddr,
    text: &str,
    descriptor: Option<BorrowedFd<'_>>,
) -> io::Result<()> {
    let socket = UnixDatagram::unbound()?;
    socket.set_nonblocking(true)?;
    socket.connect_addr(to)?;
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    let descriptors: Vec<BorrowedFd<'_>> = descriptor.into_iter().collect();
    if !descriptors.is_empty() && !control.push(SendAncillaryMessage::ScmRights(&descriptors)) {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    sendmsg(&socket, &[IoSlice::new(text.as_bytes())], &mut control, SendFlags::NOSIGNAL)?;
    Ok(())
}

/// One line: a message has a line for each variable.
fn one_line(text: &str) -> String {
    text.trim_end().replace(['\n', '\r'], "; ")
}

/// The minimum time between two changes of the status line without a request.
const STATUS_EVERY: Duration = Duration::from_secs(5);

/// The delay before a watchdog message that the manager had no room for is sent again.
const AGAIN: Duration = Duration::from_millis(200);

/// Most changes of state that are kept; when there are more, the oldest are obsolete.
const MOST_OWED: usize = 16;

#[cfg(test)]
pub(in crate::systemd) mod tests {
    use super::*;

    /// A pretended service manager, its socket and its address.
    pub(in crate::systemd) fn manager() -> (tempfile::TempDir, UnixDatagram, SocketAddr) {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("notify");
        let socket = UnixDatagram::bind(&path).unwrap();
        socket.set_nonblocking(true).unwrap();
        (directory, socket, address(path.as_os_str()).unwrap())
    }

    /// A manager, and what sends to it.
    fn notified() -> (tempfile::TempDir, UnixDatagram, Notify) {
        let (directory, socket, to) = manager();
        (directory, socket, Notify { to: Some(to), ..Notify::default() })
    }

    /// The messages that have come.
    pub(in crate::systemd) fn received(socket: &UnixDatagram) -> Vec<String> {
        let mut buffer = [0; 4096];
        std::iter::from_fn(|| {
            let length = socket.recv(&mut buffer).ok()?;
            Some(String::from_utf8(buffer[..length].to_vec()).unwrap())
        })
        .collect()
    }

    #[test]
    fn states_have_the_managers_words() {
        let (_directory, socket, mut notify) = notified();
        let (now, pid) = (Instant::now(), getpid());
        notify.ready("serving", now);
        notify.reloading("reading", now);
        notify.stopping("stopping\non TERM\n", now);
        let received = received(&socket);
        assert_eq!(received[0], format!("READY=1\nMAINPID={pid}\nSTATUS=serving"));
        let time = received[1]
            .strip_prefix("RELOADING=1\nMONOTONIC_USEC=")
            .unwrap()
            .strip_suffix("\nSTATUS=reading");
        assert!(time.unwrap().parse::<u64>().unwrap() > 0);
        assert_eq!(received[2], "STOPPING=1\nSTATUS=stopping; on TERM");
    }

    #[test]
    fn the_status_is_told_when_it_changes_and_not_too_often() {
        let (_directory, socket, mut notify) = notified();
        let now = Instant::now();
        notify.ready("a", now);
        notify.status("a", now + STATUS_EVERY);
        notify.status("b", now + STATUS_EVERY / 2);
        notify.status("b", now + STATUS_EVERY);
        notify.status("b", now + 3 * STATUS_EVERY);
        assert_eq!(received(&socket)[1..], ["STATUS=b"]);
    }

    #[test]
    fn the_watchdog_is_fed_twice_in_its_time_from_ready_to_stopping() {
        let (_directory, socket, notify) = notified();
        let mut notify = Notify { alive_every: Some(Duration::from_secs(10)), ..notify };
        let now = Instant::now();
        notify.beat(now);
        assert_eq!((notify.deadline(), received(&socket).len()), (None, 0));
        notify.ready("", now);
        for second in 0..25 {
            notify.beat(now + Duration::from_secs(second));
        }
        assert_eq!(received(&socket)[1..], ["WATCHDOG=1"; 3]);
        notify.stopping("", now);
        notify.beat(now + Duration::from_secs(60));
        assert_eq!(received(&socket).len(), 1);
    }

    #[test]
    fn a_manager_that_is_busy_or_away_gets_every_change_later() {
        let (directory, socket, mut notify) = notified();
        let now = Instant::now();
        while send(notify.to.as_ref().unwrap(), "noise").is_ok() {}
        notify.ready("1", now);
        notify.status("2", now + STATUS_EVERY);
        assert!(received(&socket).iter().all(|text| text == "noise"));
        drop(socket);
        std::fs::remove_file(directory.path().join("notify")).unwrap();
        for _ in 0..2 * MOST_OWED {
            notify.reloading("3", now);
        }
        notify.stopping("4", now);
        assert_eq!(notify.owed.len(), MOST_OWED);
        let socket = UnixDatagram::bind(directory.path().join("notify")).unwrap();
        socket.set_nonblocking(true).unwrap();
        notify.beat(now);
        let received = received(&socket);
        assert!(!received.is_empty());
        // The system decides how many messages the queue of a socket holds
        // (net.unix.max_dgram_qlen).
        assert_eq!(received.len() + notify.owed.len(), MOST_OWED);
    }

    #[test]
    fn addresses_are_paths_or_abstract() {
        assert_eq!(
            address(OsStr::new("/run/x")).unwrap().as_pathname().unwrap().to_str(),
            Some("/run/x")
        );
        assert_eq!(address(OsStr::new("@pen/x")).unwrap().as_abstract_name(), Some(&b"pen/x"[..]));
        assert!(address(OsStr::new("vsock:2:1234")).is_err());
        assert!(address(OsStr::new(&format!("/{}", "x".repeat(200)))).is_err());
    }
}
