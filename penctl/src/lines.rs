//! Commands from standard input, one per line: from a file or another program, or from a person,
//! who gets a prompt.

use std::io::{self, BufRead, Read, Write};

use pen_ipc::message::Outcome;

use crate::arguments::OutputForm;
use crate::exchange::{LONGEST_COMMAND, OVERLONG, plain};
use crate::pens::Pen;
use crate::{print, send};

/// The text of the prompt.
const PROMPT: &str = "pen> ";

/// The help of the prompt's own commands.
const AT_THE_PROMPT: &str = "\
At this prompt: exit, quit or Ctrl-D leaves it. exit pen ends pen itself, which asks once more \
(only with -X). watch goes on until Ctrl-C, which leaves too.
";

/// The reply to a command that only the command line has.
const NOT_HERE: &str = "not sent: top is a word of the command line: penctl ADDRESS top";

/// The reply to a line that contains control characters, such as those of arrow keys.
const NO_TEXT: &str =
    "not sent: there is a control character in this line; arrow keys and the like do nothing here";

/// Sends commands from a file or another program, up to the first that gets no reply. `None`: there
/// was no command.
///
/// # Errors
/// A command got no reply: a line for the user.
pub fn run(
    pens: &[Pen],
    form: OutputForm,
    mut lines: impl BufRead,
) -> Result<Option<Outcome>, String> {
    let mut all = None;
    while let Some(line) = next_line(&mut lines)? {
        if !is_idle(&line) {
            match send(pens, line, form)? {
                Outcome::Refused => all = Some(Outcome::Refused),
                Outcome::Done => all = all.or(Some(Outcome::Done)),
            }
        }
    }
    Ok(all)
}

/// Sends commands from a terminal. An error of one command is printed, and the next can be given.
///
/// # Errors
/// The terminal cannot be read or written.
pub fn prompt(pens: &[Pen], form: OutputForm, mut lines: impl BufRead) -> Result<(), String> {
    loop {
        print(PROMPT.as_bytes())?;
        let Some(mut line) = next_line(&mut lines)? else { return print(b"\n") };
        let mut form = form;
        match PromptLine::read(&line) {
            PromptLine::Nothing => continue,
            PromptLine::Leave => return Ok(()),
            PromptLine::EndPen => {
                print(b"End pen itself, and every connection with it? [y/N] ")?;
                let Some(answer) = next_line(&mut lines)? else { return print(b"\n") };
                if !matches!(answer.trim_ascii(), b"y" | b"Y" | b"yes") {
                    continue;
                }
                (line, form) = (b"exit".to_vec(), OutputForm::AsGiven);
            }
            PromptLine::Help => (line, form) = (b"help".to_vec(), OutputForm::AsGiven),
            PromptLine::HelpHere => {
                print(AT_THE_PROMPT.as_bytes())?;
                continue;
            }
            PromptLine::NoText => {
                let _ = writeln!(io::stderr(), "{NO_TEXT}");
                continue;
            }
            PromptLine::Top => {
                let _ = writeln!(io::stderr(), "{NOT_HERE}");
                continue;
            }
            PromptLine::Command => {}
        }
        let is_help = line == b"help";
        if let Err(error) = send(pens, line, form) {
            let _ = writeln!(io::stderr(), "{error}");
        }
        if is_help {
            // After the list, which is longer than most screens.
            print(AT_THE_PROMPT.as_bytes())?;
        }
    }
}

/// The kind of a line at the prompt.
#[derive(Debug, Eq, PartialEq)]
enum PromptLine {
    Nothing,
    Leave,
    EndPen,
    /// A request for the help of the control port, with the prompt's help after it.
    Help,
    /// A request for the prompt's help: the line asks about a word that has another meaning here
    /// than at the control port.
    HelpHere,
    /// A line with control characters.
    NoText,
    /// The live view, which needs the terminal for itself.
    Top,
    /// A command for the control port.
    Command,
}

impl PromptLine {
    fn read(line: &[u8]) -> PromptLine {
        let words: Vec<&[u8]> =
            line.split(u8::is_ascii_whitespace).filter(|word| !word.is_empty()).collect();
        match words[..] {
            _ if is_idle(line) => PromptLine::Nothing,
            _ if line.iter().any(|byte| byte.is_ascii_control() && *byte != b'\t') => {
                PromptLine::NoText
            }
            [b"exit" | b"quit"] => PromptLine::Leave,
            [b"top"] => PromptLine::Top,
            [b"exit", b"pen"] => PromptLine::EndPen,
            [b"help" | b"?"] => PromptLine::Help,
            [b"help" | b"?", b"exit" | b"quit"] | [b"help" | b"?", b"exit", b"pen"] => {
                PromptLine::HelpHere
            }
            _ => PromptLine::Command,
        }
    }
}

/// The next line, without its line end.
fn next_line(lines: &mut impl BufRead) -> Result<Option<Vec<u8>>, String> {
    let mut line = Vec::new();
    // A line without an end must not fill the memory.
    let most = LONGEST_COMMAND as u64 + 2;
    let read = lines
        .take(most)
        .read_until(b'\n', &mut line)
        .map_err(|error| format!("standard input: {}", plain(&error)))?;
    if line.last() == Some(&b'\n') {
        line.pop();
    }
    if line.last() == Some(&b'\r') {
        line.pop();
    }
    match read {
        0 => Ok(None),
        _ if line.len() > LONGEST_COMMAND => Err(OVERLONG.to_owned()),
        _ => Ok(Some(line)),
    }
}

/// Whether a line is empty or a comment.
fn is_idle(line: &[u8]) -> bool {
    matches!(line.trim_ascii_start().first(), None | Some(b'#'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_read_without_their_ends_and_within_a_bound() {
        let mut text = &b"mode\r\n\npid"[..];
        let mut next = || next_line(&mut text);
        assert_eq!(next().unwrap().unwrap(), b"mode");
        assert_eq!(next().unwrap().unwrap(), b"");
        assert_eq!(next().unwrap().unwrap(), b"pid");
        assert_eq!(next().unwrap(), None);
        assert!(next_line(&mut &[b'x'; 10_000][..]).is_err());
        let longest = [&[b'x'; LONGEST_COMMAND][..], b"\r\n"].concat();
        assert_eq!(next_line(&mut &longest[..]).unwrap().unwrap().len(), LONGEST_COMMAND);
        assert!(is_idle(b"") && is_idle(b"  # note") && !is_idle(b" mode"));
    }

    #[test]
    fn the_prompt_has_words_of_its_own() {
        for (line, expected) in [
            ("exit", PromptLine::Leave),
            (" quit\t", PromptLine::Leave),
            ("exit  pen", PromptLine::EndPen),
            ("help", PromptLine::Help),
            ("?", PromptLine::Help),
            ("help acl", PromptLine::Command),
            ("help no", PromptLine::Command),
            ("help quit", PromptLine::HelpHere),
            ("help exit", PromptLine::HelpHere),
            ("? exit pen", PromptLine::HelpHere),
            ("\u{1b}[A", PromptLine::NoText),
            ("mode\u{c}", PromptLine::NoText),
            ("top", PromptLine::Top),
            ("exit now", PromptLine::Command),
            ("mode", PromptLine::Command),
            ("", PromptLine::Nothing),
            ("# exit", PromptLine::Nothing),
        ] {
            assert_eq!(PromptLine::read(line.as_bytes()), expected, "{line}");
        }
    }
}
