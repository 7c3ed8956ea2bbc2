//! The small live picture: a row for each server with the clients that it answers, drawn ten times
//! a second. If standard output is not a terminal, each scene is drawn once, at its end, and
//! without colour.

use std::env;
use std::io::{self, IsTerminal, Write};
use std::time::{Duration, Instant};

use crate::clients::{CLIENTS, Clients, Seen};
use crate::servers::Server;

const FRAME: Duration = Duration::from_millis(100);

/// Colours of the clients, so that a viewer can follow one client: the terminal's own colours,
/// without black and white.
const COLOURS: [u8; 12] = [31, 32, 33, 34, 35, 36, 91, 92, 93, 94, 95, 96];

/// The abilities of the screen.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Screen {
    /// A terminal with colours.
    Colour,
    /// A terminal whose user wants no colours (`NO_COLOR`).
    Plain,
    /// A file or a pipe.
    NoTerminal,
}

/// Draws on standard output.
pub struct Picture {
    screen: Screen,
}

impl Picture {
    /// Looks at standard output and the environment (`NO_COLOR`, `TERM`).
    pub fn new() -> Picture {
        let dumb = env::var_os("TERM").is_none_or(|term| term == "dumb");
        let screen = match (io::stdout().is_terminal() && !dumb, env::var_os("NO_COLOR")) {
            (false, _) => Screen::NoTerminal,
            (true, Some(value)) if !value.is_empty() => Screen::Plain,
            (true, _) => Screen::Colour,
        };
        Picture { screen }
    }

    /// A text in a colour, where there are colours.
    pub fn paint(&self, code: u8, text: &str) -> String {
        match self.screen {
            Screen::Colour => format!("\x1b[{code}m{text}\x1b[0m"),
            Screen::Plain | Screen::NoTerminal => text.to_string(),
        }
    }

    /// Shows the clients until `done` holds and `least` is over; false if that takes longer than
    /// `most`.
    pub fn watch(
        &self,
        clients: &Clients,
        servers: &[Server],
        [least, most]: [Duration; 2],
        mut done: impl FnMut(&Seen) -> bool,
    ) -> io::Result<bool> {
        let (start, before) = (Instant::now(), clients.seen());
        let mut drawn = 0;
        loop {
            let seen = clients.seen();
            let held = done(&seen);
            let over = (held && start.elapsed() >= least) || start.elapsed() >= most;
            if over || self.screen != Screen::NoTerminal {
                drawn = self.draw(&seen, &before, servers, drawn)?;
            }
            if over {
                return Ok(held);
            }
            std::thread::sleep(FRAME);
        }
    }

    /// Draws one frame over the last one, and returns its number of lines.
    fn draw(
        &self,
        seen: &Seen,
        before: &Seen,
        servers: &[Server],
        drawn: usize,
    ) -> io::Result<usize> {
        let mut frame = String::new();
        if drawn > 0 {
            frame.push_str(&format!("\x1b[{drawn}A"));
        }
        for server in servers {
            let here = |client: &usize| seen.server[*client].as_deref() == Some(server.name);
            let mine: Vec<usize> = (0..CLIENTS).filter(here).collect();
            let marks: Vec<String> = mine.iter().map(|client| self.mark(*client)).collect();
            let arrow = if mine.is_empty() { "     " } else { "───► " };
            let (state, colour) = if server.is_up() { ("up", 32) } else { ("down", 31) };
            let name = format!("{}  {}", self.paint(1, server.name), self.paint(colour, state));
            let width: usize = mine.len() * 4;
            let gap = " ".repeat((CLIENTS * 4).saturating_sub(width));
            frame.push_str(&format!("   {gap}{} {arrow}{name}", marks.join("")));
            frame.push_str(&self.end_of_line());
        }
        let answers = seen.answers.iter().sum::<u64>() - before.answers.iter().sum::<u64>();
        let failed = seen.failed - before.failed;
        let failures = self.paint(if failed == 0 { 32 } else { 31 }, &format!("{failed} failed"));
        frame.push_str(&format!("   {answers} requests answered, {failures}"));
        frame.push_str(&self.end_of_line());
        let mut out = io::stdout().lock();
        out.write_all(frame.as_bytes())?;
        out.flush()?;
        Ok(servers.len() + 1)
    }

    /// A client as a number in its colour.
    fn mark(&self, client: usize) -> String {
        let text = format!("{:>4}", format!("c{}", client + 1));
        self.paint(COLOURS[client % COLOURS.len()], &text)
    }

    fn end_of_line(&self) -> String {
        // Removes the rest of the previous frame's line.
        if self.screen == Screen::NoTerminal { "\n".into() } else { "\x1b[K\n".into() }
    }
}
