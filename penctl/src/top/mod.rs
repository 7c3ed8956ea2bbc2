//! `top`: the live view of one pen in the terminal.
//!
//! `model` is the state, `keys` says what a key does to it, and `draw` makes a frame of it; none of
//! these does I/O. `rates` and `order` are parts of the state. `source` asks pen, and `terminal`
//! sets and restores the terminal. Their threads send everything that happens to one loop.

mod draw;
mod keys;
mod model;
mod order;
#[cfg(test)]
mod picture;
mod rates;
mod source;
mod terminal;
#[cfg(test)]
mod tests;

use std::ffi::OsString;
use std::io::{self, IsTerminal};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender};
use std::thread;
use std::time::{Duration, Instant};

use pen_ipc::message::Outcome;
use ratatui::crossterm::event::KeyEvent;
use ratatui::layout::Rect;
use signal_hook::consts::{SIGCONT, SIGTSTP};

use crate::arguments::OutputForm;
use crate::exchange::{Timeout, plain};
use crate::overview::{Event, Overview};
use crate::pens::Pen;
use crate::tables::Paint;
use draw::{Glyphs, Look};
use model::{Asked, Effect, Model};
use terminal::Screen;

/// The help of the command.
pub const HELP: &str = "\
usage: top
A live view of pen in the terminal; ? lists its keys. A word of penctl, not of pen.
";

/// Its line below the list of pen's commands.
pub const IN_LIST: &str = "penctl itself adds: top\n";

/// How long to wait for pen without any progress.
const TIMEOUT: Duration = Duration::from_secs(5);

/// The time after which a frame is drawn although nothing happened: the clock goes on.
const IDLE: Duration = Duration::from_secs(1);

/// What happens that the loop has not handled yet. More makes its senders wait.
const QUEUE: usize = 64;

/// What happens.
enum Input {
    Key(KeyEvent),
    Resized,
    Signal(i32),
    /// The terminal cannot be read any more.
    NoTerminal(io::Error),
    /// What pen reported, or why it did not.
    Report(Result<Box<Overview>, String>),
    Events(Vec<Event>),
    /// The answer to a command.
    Answer(Asked, Result<(Outcome, String), String>),
}

/// Shows the view until the user leaves it.
///
/// # Errors
/// There is no terminal, several pens are given, or pen does not answer from the beginning: a line
/// for the user.
pub fn run(pens: &[Pen], form: OutputForm, words: &[OsString]) -> Result<Outcome, String> {
    if let Some(word) = words.first() {
        return Err(format!("top: unknown word '{}'", word.to_string_lossy().escape_debug()));
    }
    let [pen] = pens else {
        return Err(format!("top: shows one pen, and {} are given", pens.len()));
    };
    if form == OutputForm::Json {
        return Err("top: has no JSON form; overview and watch have one".to_owned());
    }
    if !io::stdout().is_terminal() {
        return Err("top: standard output is no terminal; overview and watch need none".to_owned());
    }
    if std::env::var_os("TERM").is_none_or(|kind| kind.is_empty() || kind == "dumb") {
        return Err("top: this terminal cannot move its cursor (TERM); watch needs none".to_owned());
    }
    let pen = pen.with_timeout(Timeout::of(TIMEOUT));
    let overview = source::overview(&pen)?;
    let model = Model::new(&pen.shown(), overview, Instant::now());
    show(model, pen).map(|()| Outcome::Done).map_err(|error| format!("top: {}", plain(&error)))
}

fn show(mut model: Model, pen: Pen) -> io::Result<()> {
    let look = Look { paint: Paint::wanted(), glyphs: Glyphs::wanted() };
    let (to, inputs) = mpsc::sync_channel(QUEUE);
    let (ask, wanted) = mpsc::channel();
    terminal::listen(&to)?;
    let mut screen = Screen::enter()?;
    thread::Builder::new()
        .name("source".to_owned())
        .spawn(move || source::run(&pen, &wanted, &to))?;
    loop {
        model.now = Instant::now();
        draw(&mut screen, &mut model, look)?;
        match turn(&mut screen, &mut model, &inputs, &ask)? {
            Next::Draw => {}
            Next::Leave => return Ok(()),
        }
    }
}

/// What comes after a turn of the loop.
enum Next {
    Draw,
    Leave,
}

/// Waits for something to happen, and handles all that has happened.
fn turn(
    screen: &mut Screen,
    model: &mut Model,
    inputs: &Receiver<Input>,
    ask: &Sender<Asked>,
) -> io::Result<Next> {
    let mut input = match inputs.recv_timeout(IDLE) {
        Ok(input) => input,
        Err(RecvTimeoutError::Timeout) => return Ok(Next::Draw),
        Err(RecvTimeoutError::Disconnected) => return Err(io::Error::other("no source of keys")),
    };
    loop {
        match handle(screen, model, input)? {
            Effect::None => {}
            Effect::Quit => return Ok(Next::Leave),
            Effect::Suspend => screen.suspend()?,
            Effect::Redraw => screen.resume()?,
            // Without a thread that asks, the view says that figures are old.
            Effect::Ask(asked) => drop(ask.send(asked)),
        }
        match inputs.try_recv() {
            Ok(next) => input = next,
            Err(_) => return Ok(Next::Draw),
        }
    }
}

fn handle(screen: &mut Screen, model: &mut Model, input: Input) -> io::Result<Effect> {
    let now = Instant::now();
    match input {
        Input::Key(key) => return Ok(model.key(key, now)),
        Input::Resized => screen.terminal().autoresize()?,
        Input::Signal(SIGTSTP) => return Ok(Effect::Suspend),
        Input::Signal(SIGCONT) => return Ok(Effect::Redraw),
        Input::Signal(signal) => return Err(terminal::end_by(signal)),
        Input::NoTerminal(error) => return Err(error),
        Input::Report(Ok(overview)) => model.report(*overview, now),
        Input::Report(Err(why)) => model.lose(&why, now),
        Input::Events(events) => model.show_events(events),
        Input::Answer(asked, reply) => model.answer(&asked, reply, now),
    }
    Ok(Effect::None)
}

fn draw(screen: &mut Screen, model: &mut Model, look: Look) -> io::Result<()> {
    let size = screen.terminal().size()?;
    model.set_page(draw::page(Rect::new(0, 0, size.width, size.height), model));
    screen.terminal().draw(|frame| draw::draw(frame, model, look)).map(|_| ())
}
