//! Sends one command to one control port: one line out, then the reply until end of file.
//!
//! The line begins with a word that asks for the outcome ([`Outcome::ASKED`]), which only penctl
//! sends. A pen that does not know it ignores the whole line. Then penctl sends the command again
//! without the word, and the outcome is unknown.

use std::io::{self, Read, Write};
use std::time::Duration;

use pen_config::command::{Action, Command, parse};
use pen_ipc::message::Outcome;
use socket2::{Domain, SockAddr, Socket, TcpKeepalive, Type};

use crate::text;

/// Longest command in bytes that the control port accepts.
pub const LONGEST_COMMAND: usize = pen_config::command::MAX_LINE;

/// The error for a longer command.
pub const OVERLONG: &str = "Overlong argument list";

/// The longest time without any progress; none until the user or the command gives one.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Timeout(Option<Duration>);

/// The timeout if neither user nor command gives one.
const USUAL_TIMEOUT: Duration = Duration::from_secs(30);

/// The timeout with `upgrade`, which is answered when the new program serves clients.
const UPGRADE_TIMEOUT: Duration = Duration::from_secs(60);

impl Timeout {
    /// This timeout.
    pub fn of(duration: Duration) -> Timeout {
        Timeout(Some(duration))
    }

    /// This timeout, or the other if none is given.
    pub fn or(self, other: Timeout) -> Timeout {
        Timeout(self.0.or(other.0))
    }

    fn with(self, command: &[u8]) -> Duration {
        self.0.unwrap_or_else(|| usual(command))
    }
}

/// How long the reply to a command may take.
fn usual(command: &[u8]) -> Duration {
    let line = String::from_utf8_lossy(command);
    match parse(&line) {
        Ok(Some(Command::Action(Action::Upgrade))) => UPGRADE_TIMEOUT,
        Ok(Some(Command::Action(Action::Drain { wait, .. }))) => {
            USUAL_TIMEOUT + Duration::from_secs(wait.into())
        }
        // What this release cannot read may be a command of a later one.
        Ok(Some(_) | None) | Err(_) => USUAL_TIMEOUT,
    }
}

/// A function that takes a reply piece by piece.
pub type Taker<'t> = &'t mut dyn FnMut(&[u8]) -> Result<(), String>;

/// A function that learns the outcome before it takes a piece.
type OutcomeTaker<'t> = &'t mut dyn FnMut(Outcome) -> Result<(), String>;

/// Sends one command and passes on the reply piece by piece. The outcome is `Done` if the pen
/// cannot report it.
///
/// # Errors
/// There is no reply, or `take` failed: a line for the user.
pub fn ask(
    sockets: &[SockAddr],
    command: &[u8],
    timeout: Timeout,
    take: Taker<'_>,
) -> Result<Outcome, String> {
    ask_within(sockets, command, timeout.with(command), Pauses::Limited, &mut |_| Ok(()), take)
}

/// The same for a command whose reply goes on until pen ends it: `begun` learns that pen accepts
/// it. Pauses in the reply have no limit.
///
/// # Errors
/// As [`ask`].
pub fn follow(
    sockets: &[SockAddr],
    command: &[u8],
    timeout: Timeout,
    begun: &mut dyn FnMut() -> Result<(), String>,
    take: Taker<'_>,
) -> Result<Outcome, String> {
    let mut begin = Some(begun);
    let mut on_outcome = |outcome| match outcome {
        Outcome::Done => begin.take().map_or(Ok(()), |begun| begun()),
        Outcome::Refused => Ok(()),
    };
    let timeout = timeout.with(command);
    ask_within(sockets, command, timeout, Pauses::Unlimited, &mut on_outcome, take)
}

/// Whether the pauses in a reply have a limit. Its beginning always has one.
#[derive(Clone, Copy, Debug)]
enum Pauses {
    Limited,
    Unlimited,
}

fn ask_within(
    sockets: &[SockAddr],
    command: &[u8],
    timeout: Duration,
    pauses: Pauses,
    on_outcome: OutcomeTaker<'_>,
    take: Taker<'_>,
) -> Result<Outcome, String> {
    if command.len() > LONGEST_COMMAND {
        return Err(OVERLONG.to_owned());
    }
    let mut head = Head::Unread(Vec::new());
    let asked = [Outcome::ASKED.as_bytes(), command, b"\n"].concat();
    let peer = exchange(sockets, &asked, timeout, pauses, &mut |piece| {
        head.take(piece, on_outcome, take)
    })?;
    match head {
        Head::Read(outcome) => Ok(outcome),
        Head::Unread(_) => Err(format!("no reply from {peer}: the connection was closed")),
        Head::Unknown if matches!(pauses, Pauses::Unlimited) => {
            Err(format!("{peer} is no pen that knows this command"))
        }
        Head::Unknown => {
            let plain = [command, b"\n"].concat();
            let mut take = |piece: &[u8]| take(piece).map(|()| Flow::On);
            exchange(sockets, &plain, timeout, pauses, &mut take).map(|_| Outcome::Done)
        }
    }
}

/// The first line of a reply.
enum Head {
    /// The part of it that has arrived.
    Unread(Vec<u8>),
    /// It has arrived; the outcome.
    Read(Outcome),
    /// The reply begins with something else: the pen does not know the word.
    Unknown,
}

/// Whether to read the rest of a reply.
enum Flow {
    On,
    Enough,
}

impl Head {
    fn take(
        &mut self,
        piece: &[u8],
        on_outcome: OutcomeTaker<'_>,
        take: Taker<'_>,
    ) -> Result<Flow, String> {
        let Head::Unread(text) = self else { return take(piece).map(|()| Flow::On) };
        text.extend(piece);
        for outcome in [Outcome::Done, Outcome::Refused] {
            let line = outcome.line().as_bytes();
            if let Some(rest) = text.strip_prefix(line) {
                let rest = rest.to_vec();
                *self = Head::Read(outcome);
                on_outcome(outcome)?;
                return if rest.is_empty() { Ok(Flow::On) } else { take(&rest).map(|()| Flow::On) };
            }
            if line.starts_with(text) {
                return Ok(Flow::On);
            }
        }
        *self = Head::Unknown;
        Ok(Flow::Enough)
    }
}

/// Sends a line and passes on the reply piece by piece; returns the address that replied. Gives up
/// after `timeout` without any progress.
fn exchange(
    sockets: &[SockAddr],
    line: &[u8],
    timeout: Duration,
    pauses: Pauses,
    take: &mut dyn FnMut(&[u8]) -> Result<Flow, String>,
) -> Result<String, String> {
    let (socket, peer) = connect(sockets, timeout)?;
    let mut is_new = true;
    let failed = |error: io::Error| format!("no reply from {peer}: {}", told(&error, timeout));
    // If the other end has already closed, reading reports it, possibly after a reply.
    if let Err(error) = (&socket).write_all(line)
        && !matches!(error.kind(), io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset)
    {
        return Err(failed(error));
    }
    let mut buffer = vec![0; 65536];
    loop {
        match (&socket).read(&mut buffer) {
            Ok(0) => return Ok(peer),
            Ok(read) => {
                if let (Pauses::Unlimited, true) = (pauses, is_new) {
                    wait_on(&socket).map_err(failed)?;
                }
                is_new = false;
                match take(&buffer[..read])? {
                    Flow::On => {}
                    Flow::Enough => return Ok(peer),
                }
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(failed(error)),
        }
    }
}

/// Connects to the first address that accepts, and returns it.
fn connect(addresses: &[SockAddr], timeout: Duration) -> Result<(Socket, String), String> {
    let mut last = "no address".to_owned();
    for address in addresses {
        match connect_to(address, timeout) {
            Ok(socket) => return Ok((socket, shown(address))),
            Err(error) => last = format!("{}: {}", shown(address), told(&error, timeout)),
        }
    }
    Err(format!("error connecting to server: {last}"))
}

fn connect_to(address: &SockAddr, timeout: Duration) -> io::Result<Socket> {
    let socket = Socket::new(Domain::from(i32::from(address.family())), Type::STREAM, None)?;
    // On Linux the send timeout also bounds connect(2), even for Unix sockets (socket(7)).
    socket.set_write_timeout(Some(timeout))?;
    socket.set_read_timeout(Some(timeout))?;
    socket.connect(address)?;
    Ok(socket)
}

/// From now on, a silent peer is waited for as long as its machine answers.
fn wait_on(socket: &Socket) -> io::Result<()> {
    let probes =
        TcpKeepalive::new().with_time(USUAL_TIMEOUT).with_interval(Duration::from_secs(10));
    match socket.domain()? {
        Domain::UNIX => {}
        _ => socket.set_tcp_keepalive(&probes.with_retries(3))?,
    }
    socket.set_read_timeout(None)
}

fn shown(address: &SockAddr) -> String {
    match (address.as_socket(), address.as_pathname()) {
        (Some(address), _) => address.to_string(),
        (None, Some(path)) => text::shown(&path.to_string_lossy()),
        (None, None) => "pen".to_owned(),
    }
}

/// An error in plain words: a timeout is called a timeout, and the text has no "(os error 13)" of
/// Rust.
pub fn plain(error: &io::Error) -> String {
    told(error, USUAL_TIMEOUT)
}

/// As [`plain`]; a timeout is that of `timeout`.
fn told(error: &io::Error, timeout: Duration) -> String {
    const IN_PROGRESS: i32 = 115;
    if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut)
        || error.raw_os_error() == Some(IN_PROGRESS)
    {
        let seconds = timeout.as_secs();
        let unit = if seconds == 1 { "second" } else { "seconds" };
        return format!("gave up after {seconds} {unit} without progress");
    }
    let text = error.to_string();
    let text = text.strip_prefix("failed to lookup address information: ").unwrap_or(&text);
    text.split(" (os error").next().unwrap_or_default().to_owned()
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;

    #[test]
    fn the_outcome_is_found_however_the_reply_is_cut() {
        for (reply, outcome, text) in [
            ("outcome: ok\n", Some(Outcome::Done), ""),
            ("outcome: ok\n30\n", Some(Outcome::Done), "30\n"),
            ("outcome: error\noutcome: ok\n", Some(Outcome::Refused), "outcome: ok\n"),
            ("do_cmd: ignoring command starting with 'outcome'\n", None, ""),
            ("outcome: okay\n", None, ""),
        ] {
            for cut in 0..reply.len() {
                let (mut head, mut got) = (Head::Unread(Vec::new()), Vec::new());
                let (first, second) = reply.as_bytes().split_at(cut);
                for piece in [first, second] {
                    if !matches!(head, Head::Unknown) {
                        let mut take = |piece: &[u8]| {
                            got.extend(piece);
                            Ok(())
                        };
                        head.take(piece, &mut |_| Ok(()), &mut take).unwrap();
                    }
                }
                let found = match head {
                    Head::Read(outcome) => Some(outcome),
                    Head::Unknown => None,
                    Head::Unread(_) => panic!("{reply:?} at {cut}"),
                };
                assert_eq!(
                    (found, str::from_utf8(&got).unwrap()),
                    (outcome, text),
                    "{reply:?} at {cut}"
                );
            }
        }
    }

    #[test]
    fn silence_is_given_up_at_every_step() {
        let timeout = Duration::from_millis(50);
        let ask = |address: SockAddr, line: &[u8]| {
            exchange(&[address], line, timeout, Pauses::Limited, &mut |_| Ok(Flow::On))
        };
        let silent = TcpListener::bind("127.0.0.1:0").unwrap();
        let peer = silent.local_addr().unwrap();
        let complaint = format!("no reply from {peer}: gave up after 0 seconds without progress");
        assert_eq!(ask(peer.into(), b"mode\n"), Err(complaint.clone()));
        assert_eq!(ask(peer.into(), &vec![b'x'; 50_000_000]), Err(complaint));
        // If the queue of a Unix socket is full, connect waits.
        let name = SockAddr::unix(format!("\0penctl-test-{}", std::process::id())).unwrap();
        let listener = Socket::new(Domain::UNIX, Type::STREAM, None).unwrap();
        listener.bind(&name).unwrap();
        listener.listen(0).unwrap();
        let _waiting = connect_to(&name, timeout).unwrap();
        let why = ask(name, b"mode\n").unwrap_err();
        assert!(
            why.starts_with("error connecting to server: ") && why.ends_with("without progress"),
            "{why}"
        );
    }
}
