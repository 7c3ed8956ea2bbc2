//! penctl: says a command to the control port of a running pen and prints the reply.
//!
//! One connection per command: a line out, the reply in until end of file. Runs as whoever calls it and shares nothing with pen but this.

#![forbid(unsafe_code)]

use std::ffi::{OsStr, OsString};
use std::io::{self, BufRead, IsTerminal, Read, Write};
use std::net::{IpAddr, SocketAddr};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use socket2::{Domain, SockAddr, Socket, Type};

const USAGE: &str = "usage: penctl [--json] host:port|/path [command [word ...]]";

const HELP: &str = "\
usage: penctl [--json] host:port|/path [command [word ...]]

Sends a command to the control port (-C) of a running pen and prints its reply.
Without a command, commands are read from standard input, one a line; on a
terminal, with a prompt, which an end of file (Ctrl-D) leaves. The command
exit ends pen itself, if it was started with -X.

  --json       servers, status, recent, certificates and mode reply in JSON
  --help       this text
  --version    the version

The status is 0 if there was a reply, be it an empty one or an error text.
";

/// Longest command in bytes, as the control port takes it.
const LONGEST: usize = 4095;

/// How long nothing may happen.
const PATIENCE: Duration = Duration::from_secs(30);

/// What the prompt looks like.
const PROMPT: &str = "pen> ";

/// Commands that have a JSON form.
const JSON: [&[u8]; 5] = [b"servers", b"status", b"recent", b"certificates", b"mode"];

fn main() -> ExitCode {
    match run(std::env::args_os().skip(1).collect()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(why) => {
            // If standard error is closed or full there is no one to tell.
            let _ = writeln!(io::stderr(), "{why}");
            ExitCode::FAILURE
        }
    }
}

fn run(mut words: Vec<OsString>) -> Result<(), String> {
    let json = words.first().is_some_and(|word| word == "--json");
    if json {
        words.remove(0);
    }
    let Some(first) = words.first() else { return Err(USAGE.to_owned()) };
    if first == "--help" || first == "--version" {
        let text = if first == "--help" { HELP } else { concat!("penctl ", env!("CARGO_PKG_VERSION"), "\n") };
        return print(text.as_bytes());
    }
    let place = Place::read(first)?;
    if words.len() > 1 {
        let command = words[1..].join(OsStr::new(" ")).into_vec();
        return say(&place.sockets()?, command, json);
    }
    let stdin = io::stdin();
    if stdin.is_terminal() { converse(&place, json, stdin.lock()) } else { obey(&place, json, stdin.lock()) }
}

/// Commands from a file or another program, up to the first that gets no reply. Where there is none, none was given.
fn obey(place: &Place, json: bool, mut lines: impl BufRead) -> Result<(), String> {
    let mut sockets = None;
    while let Some(line) = next_line(&mut lines)? {
        if !is_idle(&line) {
            if sockets.is_none() {
                sockets = Some(place.sockets()?);
            }
            say(sockets.as_deref().unwrap_or_default(), line, json)?;
        }
    }
    sockets.map(drop).ok_or_else(|| USAGE.to_owned())
}

/// Commands from a terminal; what goes wrong with one is said, and the next can be given.
fn converse(place: &Place, json: bool, mut lines: impl BufRead) -> Result<(), String> {
    loop {
        print(PROMPT.as_bytes())?;
        let Some(line) = next_line(&mut lines)? else { return print(b"\n") };
        if is_idle(&line) {
            continue;
        }
        // Names are looked up anew: pen may have moved since.
        if let Err(why) = place.sockets().and_then(|sockets| say(&sockets, line, json)) {
            let _ = writeln!(io::stderr(), "{why}");
        }
    }
}

/// The next line, without its end.
fn next_line(lines: &mut impl BufRead) -> Result<Option<Vec<u8>>, String> {
    let mut line = Vec::new();
    // A line without an end must not fill the memory.
    let most = LONGEST as u64 + 2;
    let read =
        lines.take(most).read_until(b'\n', &mut line).map_err(|why| format!("standard input: {}", plain(&why)))?;
    if line.last() == Some(&b'\n') {
        line.pop();
    }
    if line.last() == Some(&b'\r') {
        line.pop();
    }
    match read {
        0 => Ok(None),
        _ if line.len() > LONGEST => Err(OVERLONG.to_owned()),
        _ => Ok(Some(line)),
    }
}

/// Whether a line is empty or a comment.
fn is_idle(line: &[u8]) -> bool {
    matches!(line.trim_ascii_start().first(), None | Some(b'#'))
}

const OVERLONG: &str = "Overlong argument list";

/// Says one command and prints the reply.
fn say(sockets: &[SockAddr], mut command: Vec<u8>, json: bool) -> Result<(), String> {
    if json {
        command = in_json(command)?;
    }
    if command.len() > LONGEST {
        return Err(OVERLONG.to_owned());
    }
    command.push(b'\n');
    exchange(sockets, &command, PATIENCE, print)
}

/// Sends a line and hands over the reply piece by piece. Gives up when nothing happens for as long as `patience`.
fn exchange(
    sockets: &[SockAddr],
    line: &[u8],
    patience: Duration,
    take: impl Fn(&[u8]) -> Result<(), String>,
) -> Result<(), String> {
    let (socket, place) = connect(sockets, patience)?;
    let failed = |why: io::Error| format!("no reply from {place}: {}", plain(&why));
    // Where the other end has closed already, that it has is what reading says, perhaps after a reply.
    if let Err(why) = (&socket).write_all(line)
        && !matches!(why.kind(), io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset)
    {
        return Err(failed(why));
    }
    let mut buffer = vec![0; 65536];
    loop {
        match (&socket).read(&mut buffer) {
            Ok(0) => return Ok(()),
            Ok(read) => take(&buffer[..read])?,
            Err(why) if why.kind() == io::ErrorKind::Interrupted => {}
            Err(why) => return Err(failed(why)),
        }
    }
}

/// The command that asks for the same in JSON.
fn in_json(command: Vec<u8>) -> Result<Vec<u8>, String> {
    let word = command.trim_ascii().split(|byte| byte.is_ascii_whitespace()).next().unwrap_or_default();
    if !JSON.contains(&word) {
        return Err(format!(
            "--json: only servers, status, recent, certificates and mode have a JSON form, not '{}'",
            String::from_utf8_lossy(word).escape_debug()
        ));
    }
    Ok([command.trim_ascii_end(), b" json"].concat())
}

fn print(text: &[u8]) -> Result<(), String> {
    let mut out = io::stdout();
    out.write_all(text).and_then(|()| out.flush()).map_err(|why| format!("standard output: {}", plain(&why)))
}

/// Where pen's control port is.
#[derive(Debug, Eq, PartialEq)]
enum Place {
    Unix(OsString),
    Inet { host: String, port: String },
}

impl Place {
    /// Reads `/path` or `host:port`, split at the last colon; an IPv6 address may stand in brackets.
    fn read(text: &OsStr) -> Result<Place, String> {
        if text.as_bytes().contains(&b'/') {
            return Ok(Place::Unix(text.to_os_string()));
        }
        let text = text.to_str().ok_or("the address is not UTF-8")?;
        let (host, port) = text.rsplit_once(':').filter(|(_, port)| !port.is_empty()).ok_or("no port given")?;
        let host = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
        if host.is_empty() {
            return Err("no host given".to_owned());
        }
        // What getaddrinfo(3) would take as another port.
        if port.bytes().all(|byte| byte.is_ascii_digit()) && !port.parse::<u16>().is_ok_and(|port| port > 0) {
            return Err(format!("{port} is no port"));
        }
        Ok(Place::Inet { host: host.to_owned(), port: port.to_owned() })
    }

    /// Every address that it stands for.
    fn sockets(&self) -> Result<Vec<SockAddr>, String> {
        let (host, port) = match self {
            Place::Unix(path) => {
                let address = SockAddr::unix(Path::new(path));
                return address
                    .map(|address| vec![address])
                    .map_err(|why| format!("{}: {}", Path::new(path).display(), plain(&why)));
            }
            Place::Inet { host, port } => (host, port),
        };
        if let (Ok(ip), Ok(port)) = (host.parse::<IpAddr>(), port.parse::<u16>()) {
            return Ok(vec![SocketAddr::new(ip, port).into()]);
        }
        let hints = dns_lookup::AddrInfoHints { socktype: dns_lookup::SockType::Stream.into(), ..Default::default() };
        let failed = |why: io::Error| format!("getaddrinfo: {host}:{port}: {}", plain(&why));
        let found = dns_lookup::getaddrinfo(Some(host), Some(port), Some(hints)).map_err(|why| failed(why.into()))?;
        let found: Vec<SockAddr> = found.filter_map(|answer| Some(answer.ok()?.sockaddr.into())).collect();
        match found.is_empty() {
            true => Err(format!("getaddrinfo: {host}:{port}: no address")),
            false => Ok(found),
        }
    }
}

/// Connects to the first address that takes it, and says which that is.
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
    // On Linux the time for writing bounds connect(2) too, of Unix sockets as well (socket(7)).
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

/// An error as one would say it: time that is up is what it is, and without Rust's "(os error 13)".
fn plain(why: &io::Error) -> String {
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
    use super::*;

    fn place(text: &str) -> Result<Place, String> {
        Place::read(OsStr::new(text))
    }

    fn inet(host: &str, port: &str) -> Result<Place, String> {
        Ok(Place::Inet { host: host.to_owned(), port: port.to_owned() })
    }

    #[test]
    fn addresses_split_at_the_last_colon() {
        assert_eq!(place("localhost:8888"), inet("localhost", "8888"));
        assert_eq!(place("::1:8888"), inet("::1", "8888"));
        assert_eq!(place("[::1]:8888"), inet("::1", "8888"));
        assert_eq!(place("/run/pen.ctl"), Ok(Place::Unix("/run/pen.ctl".into())));
        assert_eq!(place("./pen:1"), Ok(Place::Unix("./pen:1".into())));
        for text in ["", "8888", "localhost", "localhost:"] {
            assert_eq!(place(text), Err("no port given".to_owned()), "{text}");
        }
        assert!(place(":8888").is_err() && place("[]:8888").is_err());
        assert!(place("localhost:0").is_err() && place("localhost:65536").is_err());
    }

    #[test]
    fn silence_is_given_up_at_every_step() {
        let patience = Duration::from_millis(50);
        let ask = |address: SockAddr, line: &[u8]| exchange(&[address], line, patience, |_| Ok(()));
        let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let place = silent.local_addr().unwrap();
        let complaint = format!("no reply from {place}: gave up after 30 seconds without progress");
        assert_eq!(ask(place.into(), b"mode\n"), Err(complaint.clone()));
        assert_eq!(ask(place.into(), &vec![b'x'; 50_000_000]), Err(complaint));
        // A Unix socket whose queue is full keeps who connects waiting.
        let name = SockAddr::unix(format!("\0penctl-test-{}", std::process::id())).unwrap();
        let listener = Socket::new(Domain::UNIX, Type::STREAM, None).unwrap();
        listener.bind(&name).unwrap();
        listener.listen(0).unwrap();
        let _waiting = connect_to(&name, patience).unwrap();
        let why = ask(name, b"mode\n").unwrap_err();
        assert!(why.starts_with("error connecting to server: ") && why.ends_with("without progress"), "{why}");
    }

    #[test]
    fn only_reports_have_a_json_form() {
        assert_eq!(in_json(b"servers".to_vec()).unwrap(), b"servers json");
        assert_eq!(in_json(b" recent 60 ".to_vec()).unwrap(), b" recent 60 json");
        assert!(in_json(b"roundrobin".to_vec()).is_err() && in_json(b"".to_vec()).is_err());
    }

    #[test]
    fn lines_are_read_without_their_ends_and_within_a_bound() {
        let mut text = &b"mode\r\n\npid"[..];
        let mut next = || next_line(&mut text);
        assert_eq!(next().unwrap().unwrap(), b"mode");
        assert_eq!(next().unwrap().unwrap(), b"");
        assert_eq!(next().unwrap().unwrap(), b"pid");
        assert_eq!(next().unwrap(), None);
        assert!(next_line(&mut &[b'x'; 10_000][..]).is_err());
        let longest = [&[b'x'; LONGEST][..], b"\r\n"].concat();
        assert_eq!(next_line(&mut &longest[..]).unwrap().unwrap().len(), LONGEST);
        assert!(is_idle(b"") && is_idle(b"  # note") && !is_idle(b" mode"));
    }
}
