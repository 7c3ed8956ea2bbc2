//! The command line: options, addresses, and the words of a command.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;
use std::time::Duration;

use crate::exchange::Timeout;

pub const USAGE: &str =
    "usage: penctl [--json] [--timeout SECONDS] [host:]port|/path ... [command [word ...]]";

/// What the command line asks for.
#[derive(Debug, Eq, PartialEq)]
pub enum Request {
    /// The program's own help.
    Help,
    Version,
    /// The help of pen's commands, or of one of them.
    CommandHelp(Vec<OsString>),
    /// Something of one or more pens.
    Ask(Arguments),
}

/// What is asked of one or more pens.
#[derive(Debug, Eq, PartialEq)]
pub struct Arguments {
    pub form: OutputForm,
    pub timeout: Timeout,
    /// Addresses and patterns of sockets, at least one.
    pub addresses: Vec<OsString>,
    /// The words of the command. None: commands come from standard input.
    pub words: Vec<OsString>,
}

/// The format of replies.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum OutputForm {
    /// The format that the command asks for.
    AsGiven,
    /// JSON.
    Json,
}

/// Longest time that `--timeout` takes, in seconds: a day.
const MOST_SECONDS: u64 = 86_400;

impl Request {
    /// Reads the arguments. `--json` and `--timeout` may also stand behind the command.
    ///
    /// # Errors
    /// They make no sense: a line for the user.
    pub fn read(words: Vec<OsString>) -> Result<Request, String> {
        let mut form = OutputForm::AsGiven;
        let mut timeout = Timeout::default();
        let mut rest = Vec::new();
        let mut words = words.into_iter();
        while let Some(word) = words.next() {
            match word.as_bytes() {
                b"--json" => form = OutputForm::Json,
                b"--timeout" => timeout = read_timeout(words.next().as_deref())?,
                _ if word.as_bytes().starts_with(b"--timeout=") => {
                    let seconds = &word.as_bytes()[b"--timeout=".len()..];
                    timeout = read_timeout(Some(OsStr::from_bytes(seconds)))?;
                }
                b"--help" if rest.is_empty() => return Ok(Request::Help),
                b"--version" if rest.is_empty() => return Ok(Request::Version),
                _ if rest.is_empty() && is_option(&word) => {
                    let word = word.to_string_lossy();
                    return Err(format!("unknown option '{}'; {USAGE}", word.escape_debug()));
                }
                _ => rest.push(word),
            }
        }
        if rest.is_empty() {
            return Err(USAGE.to_owned());
        }
        if rest[0] == "help" {
            return Ok(Request::CommandHelp(rest.split_off(1)));
        }
        let addresses = 1 + rest[1..].iter().take_while(|word| is_address(word)).count();
        let words = rest.split_off(addresses);
        if let Some(word) = words.iter().find(|word| has_line_end(word)) {
            let word = word.to_string_lossy();
            return Err(format!(
                "'{}': a line's end in an argument; several commands go to standard input",
                word.escape_debug()
            ));
        }
        Ok(Request::Ask(Arguments { form, timeout, addresses: rest, words }))
    }
}

/// Whether a word behind an address is another address: no command begins like this.
fn is_address(word: &OsStr) -> bool {
    let bytes = word.as_bytes();
    let is_number = !bytes.is_empty() && bytes.iter().all(u8::is_ascii_digit);
    is_number || (!bytes.starts_with(b"#") && bytes.iter().any(|byte| matches!(byte, b'/' | b':')))
}

fn is_option(word: &OsStr) -> bool {
    word.as_bytes().starts_with(b"-") && !word.as_bytes().contains(&b'/')
}

fn has_line_end(word: &OsStr) -> bool {
    word.as_bytes().iter().any(|byte| matches!(byte, b'\n' | b'\r'))
}

fn read_timeout(seconds: Option<&OsStr>) -> Result<Timeout, String> {
    let given = seconds.and_then(OsStr::to_str).and_then(|text| text.parse::<u64>().ok());
    match given {
        Some(seconds @ 1..=MOST_SECONDS) => Ok(Timeout::of(Duration::from_secs(seconds))),
        Some(_) | None => Err(format!(
            "--timeout: '{}' is no number of seconds from 1 to {MOST_SECONDS}",
            seconds.unwrap_or_default().to_string_lossy().escape_debug()
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(line: &str) -> Result<Request, String> {
        Request::read(line.split_whitespace().map(OsString::from).collect())
    }

    #[track_caller]
    fn talk(line: &str) -> (OutputForm, Timeout, String, String) {
        let Ok(Request::Ask(arguments)) = read(line) else { panic!("{line}") };
        let joined = |words: Vec<OsString>| words.join(OsStr::new(" ")).into_string().unwrap();
        let Arguments { form, timeout, addresses, words } = arguments;
        (form, timeout, joined(addresses), joined(words))
    }

    #[test]
    fn addresses_end_where_the_command_begins() {
        for (line, addresses, words) in [
            ("8888 servers", "8888", "servers"),
            ("8888", "8888", ""),
            ("/run/a /run/b servers json", "/run/a /run/b", "servers json"),
            ("a:1 b:2 9 server 1 address ::1", "a:1 b:2 9", "server 1 address ::1"),
            ("/run/*.ctl log /tmp/x", "/run/*.ctl", "log /tmp/x"),
            ("www mode", "www", "mode"),
            ("8888 # a:b", "8888", "# a:b"),
        ] {
            let (_, _, found, command) = talk(line);
            assert_eq!((found.as_str(), command.as_str()), (addresses, words), "{line}");
        }
    }

    #[test]
    fn options_may_stand_behind_the_command_too() {
        let five = Timeout::of(Duration::from_secs(5));
        let expected = (OutputForm::Json, five, "/run/a".to_owned(), "watch".to_owned());
        for line in [
            "--json --timeout 5 /run/a watch",
            "--timeout=5 /run/a --json watch",
            "/run/a watch --json --timeout 5",
        ] {
            assert_eq!(talk(line), expected, "{line}");
        }
        for line in ["--timeout 0 1 mode", "--timeout x 1", "--timeout", "--timeout=86401 1"] {
            assert!(read(line).unwrap_err().starts_with("--timeout: '"), "{line}");
        }
        assert!(read("-x 8888").unwrap_err().starts_with("unknown option '-x'; usage: "));
        assert_eq!((read("--help"), read("--version")), (Ok(Request::Help), Ok(Request::Version)));
        assert_eq!(read("help acl"), Ok(Request::CommandHelp(vec!["acl".into()])));
        assert_eq!(talk("8888 write -").3, "write -");
        assert!(read("").is_err() && read("--json").is_err());
    }
}
