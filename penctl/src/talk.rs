//! Sends one command to one control port: one line out, then the reply until end of file.
//!
//! The line begins with a word that asks for the outcome ([`Outcome::ASKED`]), which only penctl
//! sends. A pen that does not know it ignores the whole line. Then penctl sends the command again
//! without the word, and the outcome is unknown.

use std::io::{self, Read, Write};
use std::time::Duration;

use pen_ipc::message::Outcome;
use socket2::{Domain, SockAddr, Socket, Type};

/// Longest command in bytes that the control port accepts.
pub const LONGEST: usize = pen_config::command::MAX_LINE;

/// The error for a longer command.
pub const OVERLONG: &str = "Overlong argument list";

/// The longest time without any progress.
const PATIENCE: Duration = Duration::from_secs(30);

/// A function that takes a reply piece by piece.
type Taker<'t> = &'t mut dyn FnMut(&[u8]) -> Result<(), String>;

/// Sends one command and passes on the reply piece by piece. The outcome is `Done` if the pen
/// cannot report it.
///
/// # Errors
/// There is no reply, or `take` failed: a line for the user.
pub fn ask(sockets: &[SockAddr], command: &[u8], take: Taker<'_>) -> Result<Outcome, String> {
    ask_patiently(sockets, command, PATIENCE, take)
}

fn ask_patiently(
    sockets: &[SockAddr],
    command: &[u8],
    patience: Duration,
    take: Taker<'_>,
) -> Result<Outcome, String> {
    if command.len() > LONGEST {
        return Err(OVERLONG.to_owned());
    }
    let mut head = Head::Unread(Vec::new());
    let asked = [Outcome::ASKED.as_bytes(), command, b"\n"].concat();
    let place = exchange(sockets, &asked, patience, &mut |piece| head.take(piece, take))?;
    match head {
        Head::Read(outcome) => Ok(outcome),
        Head::Unread(_) => Err(format!("no reply from {place}: the connection was closed")),
        Head::Unknown => {
            let plain = [command, b"\n"].concat();
            exchange(sockets, &plain, patience, &mut |piece| take(piece).map(|()| Flow::On))
                .map(|_| Outcome::Done)
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
    fn take(&mut self, piece: &[u8], take: Taker<'_>) -> Result<Flow, String> {
        let Head::Unread(text) = self else { return take(piece).map(|()| Flow::On) };
        text.extend(piece);
        for outcome in [Outcome::Done, Outcome::Refused] {
            let line = outcome.line().as_bytes();
            if let Some(rest) = text.strip_prefix(line) {
                let rest = rest.to_vec();
                *self = Head::Read(outcome);
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
/// after `patience` without any progress.
fn exchange(
    sockets: &[SockAddr],
    line: &[u8],
    patience: Duration,
    take: &mut dyn FnMut(&[u8]) -> Result<Flow, String>,
) -> Result<String, String> {
    let (socket, place) = connect(sockets, patience)?;
    let failed = |why: io::Error| format!("no reply from {place}: {}", plain(&why));
    // If the other end has already closed, reading reports it, possibly after a reply.
    if let Err(why) = (&socket).write_all(line)
        && !matches!(why.kind(), io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset)
    {
        return Err(failed(why));
    }
    let mut buffer = vec![0; 65536];
    loop {
        match (&socket).read(&mut buffer) {
            Ok(0) => return Ok(place),
            Ok(read) => match take(&buffer[..read])? {
                Flow::On => {}
                Flow::Enough => return Ok(place),
            },
            Err(why) if why.kind() == io::ErrorKind::Interrupted => {}
            Err(why) => return Err(failed(why)),
        }
    }
}

/// Connects to the first address that accepts, and returns it.
fn connect(addresses: &[SockAddr], patience: Duration) -> Result<(Socket, String), String> {
    let mut last = "no address".to_owned();
    for address in addresses {
        match connect_to(address, patience) {
            Ok(socket) => return Ok((socket, shown(address))),
            Err(why) => last = format!("{}: {}", shown(address), plain(&why)),
        }
    }
    Err(format!("error connecting to server: {last}"))
}

fn connect_to(address: &SockAddr, patience: Duration) -> io::Result<Socket> {
    let socket = Socket::new(Domain::from(i32::from(address.family())), Type::STREAM, None)?;
    // On Linux the send timeout also bounds connect(2), even for Unix sockets (socket(7)).
    socket.set_write_timeout(Some(patience))?;
    socket.set_read_timeout(Some(patience))?;
    socket.connect(address)?;
    Ok(socket)
}

fn shown(address: &SockAddr) -> String {
    match (address.as_socket(), address.as_pathname()) {
        (Some(address), _) => address.to_string(),
        (None, Some(path)) => path.display().to_string(),
        (None, None) => "pen".to_owned(),
    }
}

/// An error in plain words: a timeout is called a timeout, and the text has no "(os error 13)" of
/// Rust.
pub fn plain(why: &io::Error) -> String {
    const IN_PROGRESS: i32 = 115;
    if matches!(why.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut)
        || why.raw_os_error() == Some(IN_PROGRESS)
    {
        return format!("gave up after {} seconds without progress", PATIENCE.as_secs());
    }
    let text = why.to_string();
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
                        head.take(piece, &mut take).unwrap();
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
        let patience = Duration::from_millis(50);
        let ask = |address: SockAddr, line: &[u8]| {
            exchange(&[address], line, patience, &mut |_| Ok(Flow::On))
        };
        let silent = TcpListener::bind("127.0.0.1:0").unwrap();
        let place = silent.local_addr().unwrap();
        let complaint = format!("no reply from {place}: gave up after 30 seconds without progress");
        assert_eq!(ask(place.into(), b"mode\n"), Err(complaint.clone()));
        assert_eq!(ask(place.into(), &vec![b'x'; 50_000_000]), Err(complaint));
        // If the queue of a Unix socket is full, connect waits.
        let name = SockAddr::unix(format!("\0penctl-test-{}", std::process::id())).unwrap();
        let listener = Socket::new(Domain::UNIX, Type::STREAM, None).unwrap();
        listener.bind(&name).unwrap();
        listener.listen(0).unwrap();
        let _waiting = connect_to(&name, patience).unwrap();
        let why = ask(name, b"mode\n").unwrap_err();
        assert!(
            why.starts_with("error connecting to server: ") && why.ends_with("without progress"),
            "{why}"
        );
    }
}
