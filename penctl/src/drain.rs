//! `drain`: its reply can take minutes. Whoever interrupts that learns what goes on in pen.

use std::io::{self, IsTerminal, Write};
use std::sync::{Mutex, Once, PoisonError};
use std::thread;

use pen_config::command::{Action, AfterDrain, Command, parse};
use signal_hook::consts::SIGINT;
use signal_hook::iterator::Signals;
use signal_hook::low_level::emulate_default_handler;

/// The line for the user if an interrupt ends the program now.
static IF_INTERRUPTED: Mutex<Option<String>> = Mutex::new(None);

/// A wait for the reply to `drain`, until this is dropped.
pub struct Wait(());

impl Wait {
    /// Begins the wait. `None`: the command is another one, and is replied to at once.
    pub fn begin(command: &[u8]) -> Option<Wait> {
        let line = String::from_utf8_lossy(command);
        let Ok(Some(Command::Action(Action::Drain { server, close, .. }))) = parse(&line) else {
            return None;
        };
        static LISTEN: Once = Once::new();
        LISTEN.call_once(|| {
            // Without it, an interrupt ends the program all the same, but nothing is told.
            let _ = listen();
        });
        set(Some(interrupted(server, close)));
        Some(Wait(()))
    }
}

impl Drop for Wait {
    fn drop(&mut self) {
        set(None);
    }
}

fn set(text: Option<String>) {
    *IF_INTERRUPTED.lock().unwrap_or_else(PoisonError::into_inner) = text;
}

fn interrupted(server: u16, close: AfterDrain) -> String {
    let rest = match close {
        AfterDrain::Keep => "",
        AfterDrain::Close => ", and closes what is left when its time is over",
    };
    format!(
        "drain: interrupted; server {server} goes on draining{rest}; server {server} state ready \
         ends that"
    )
}

/// Tells of an interrupt, and then lets it end the program.
fn listen() -> io::Result<()> {
    let mut signals = Signals::new([SIGINT])?;
    thread::Builder::new().name("interrupts".to_owned()).spawn(move || {
        for signal in signals.forever() {
            let text = IF_INTERRUPTED.lock().unwrap_or_else(PoisonError::into_inner).take();
            if let Some(text) = text {
                // A terminal has just shown ^C.
                let gap = if io::stderr().is_terminal() { "\n" } else { "" };
                // If standard error is closed or full, this cannot be shown anywhere.
                let _ = writeln!(io::stderr(), "{gap}{text}");
            }
            let _ = emulate_default_handler(signal);
        }
    })?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_drain_waits() {
        for (line, waits) in [
            ("drain 3", true),
            (" drain 3 wait 9 close ", true),
            ("drain", false),
            ("drain_timeout 3", false),
            ("server 3 state drain", false),
            ("", false),
        ] {
            assert_eq!(Wait::begin(line.as_bytes()).is_some(), waits, "{line}");
        }
        assert_eq!(
            interrupted(7, AfterDrain::Close),
            "drain: interrupted; server 7 goes on draining, and closes what is left when its time \
             is over; server 7 state ready ends that"
        );
    }
}
