//! The terminal: set for the view, and restored however the program ends or stops.

use std::io::{self, BufWriter, Stdout, Write};
use std::panic;
use std::sync::mpsc::SyncSender;
use std::thread;
use std::time::Duration;

use ratatui::Terminal;
use ratatui::backend::CrosstermBackend;
use ratatui::crossterm::cursor::{Hide, Show};
use ratatui::crossterm::event::{self, Event};
use ratatui::crossterm::terminal::{
    EnterAlternateScreen, LeaveAlternateScreen, disable_raw_mode, enable_raw_mode,
};
use ratatui::crossterm::{execute, queue};
use ratatui::layout::Rect;
use signal_hook::consts::{SIGCONT, SIGHUP, SIGINT, SIGQUIT, SIGTERM, SIGTSTP};
use signal_hook::iterator::Signals;
use signal_hook::low_level::emulate_default_handler;

use super::Input;

/// The bytes of a frame that are written at once.
const BUFFER: usize = 1 << 16;

/// The time that the program has to end on a signal before the signal takes effect.
const GRACE: Duration = Duration::from_secs(1);

/// A terminal that shows the view. It is restored when this is dropped.
pub struct Screen {
    terminal: Terminal<CrosstermBackend<BufWriter<Stdout>>>,
}

impl Screen {
    /// Sets the terminal.
    ///
    /// # Errors
    /// It cannot be set.
    pub fn enter() -> io::Result<Screen> {
        // The message of a panic must be on the screen that stays.
        let report = panic::take_hook();
        panic::set_hook(Box::new(move |info| {
            restore();
            report(info);
        }));
        set()?;
        let out = BufWriter::with_capacity(BUFFER, io::stdout());
        let terminal = Terminal::new(CrosstermBackend::new(out));
        terminal.map(|terminal| Screen { terminal }).inspect_err(|_| restore())
    }

    /// The terminal, to draw on it.
    pub fn terminal(&mut self) -> &mut Terminal<CrosstermBackend<BufWriter<Stdout>>> {
        &mut self.terminal
    }

    /// Stops the program until the shell lets it go on.
    ///
    /// # Errors
    /// The terminal cannot be set again.
    pub fn suspend(&mut self) -> io::Result<()> {
        restore();
        emulate_default_handler(SIGTSTP)?;
        self.resume()
    }

    /// Sets the terminal again and draws every cell, after something else used it.
    ///
    /// # Errors
    /// The terminal cannot be set.
    pub fn resume(&mut self) -> io::Result<()> {
        // The shell may have changed the terminal, and only a change of mode is a change.
        let _ = disable_raw_mode();
        set()?;
        // Unlike `clear`, this does not ask the terminal where the cursor is: the thread of keys
        // would take the answer.
        let size = self.terminal.size()?;
        self.terminal.resize(Rect::new(0, 0, size.width, size.height))
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        restore();
    }
}

fn set() -> io::Result<()> {
    enable_raw_mode()?;
    execute!(io::stdout(), EnterAlternateScreen, Hide).inspect_err(|_| restore())
}

/// Sets the terminal as it was. What fails here fails because the terminal is gone.
fn restore() {
    let mut out = io::stdout();
    let _ = queue!(out, LeaveAlternateScreen, Show);
    let _ = out.flush();
    let _ = disable_raw_mode();
}

/// Ends the program by this signal.
pub fn end_by(signal: i32) -> io::Error {
    restore();
    let failed = emulate_default_handler(signal);
    failed.err().unwrap_or_else(|| io::Error::other("the signal did not end the program"))
}

/// Begins to pass on keys and signals.
///
/// # Errors
/// Signals cannot be caught, or no thread can be made.
pub fn listen(to: &SyncSender<Input>) -> io::Result<()> {
    let mut signals = Signals::new([SIGTERM, SIGHUP, SIGINT, SIGQUIT, SIGTSTP, SIGCONT])?;
    let (keys, told) = (to.clone(), to.clone());
    thread::Builder::new().name("signals".to_owned()).spawn(move || {
        for signal in signals.forever() {
            // A terminal that takes nothing can keep the program from reading this.
            let _ = told.try_send(Input::Signal(signal));
            if !matches!(signal, SIGTSTP | SIGCONT) {
                thread::sleep(GRACE);
                end_by(signal);
            }
        }
    })?;
    thread::Builder::new().name("keys".to_owned()).spawn(move || {
        loop {
            let input = match event::read() {
                Ok(Event::Key(key)) => Input::Key(key),
                Ok(Event::Resize(..)) => Input::Resized,
                Ok(Event::FocusGained | Event::FocusLost | Event::Mouse(_) | Event::Paste(_)) => {
                    continue;
                }
                Err(error) => Input::NoTerminal(error),
            };
            let is_last = matches!(input, Input::NoTerminal(_));
            if keys.send(input).is_err() || is_last {
                return;
            }
        }
    })?;
    Ok(())
}
