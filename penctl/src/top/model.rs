//! The state of the live view: what pen reported, and what the user has chosen. Pure.

use std::collections::VecDeque;
use std::fmt;
use std::time::{Duration, Instant};

use pen_ipc::message::Outcome;

use super::order::Order;
use super::rates::Rates;
use crate::overview::{Event, Overview, Server, Slot};
use crate::text::shown;

/// Everything that a frame is made of.
#[derive(Debug)]
pub struct Model {
    /// The address of the control port.
    pub address: String,
    pub overview: Overview,
    pub rates: Rates,
    /// The last events, oldest first.
    pub events: VecDeque<Event>,
    pub link: Link,
    pub order: Order,
    /// Only servers that contain this text are shown.
    pub filter: String,
    /// The server that keys refer to.
    pub selected: Option<Slot>,
    /// The first row that is shown.
    pub first: usize,
    /// The number of rows that fit.
    pub page: usize,
    pub mode: Mode,
    message: Option<Message>,
    pub now: Instant,
}

/// The most events that are kept.
const EVENTS: usize = 200;

/// The longest answer that is shown, in lines.
const ANSWER_LINES: usize = 500;

/// The time that a message stays.
const MESSAGE_TIME: Duration = Duration::from_secs(8);

/// Whether pen answers.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Link {
    Up,
    /// It does not, since this moment and for this reason.
    Lost {
        since: Instant,
        why: String,
    },
}

/// What keys mean.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Mode {
    /// They choose servers and begin everything else.
    Table,
    /// They write an answer.
    Prompt { question: Question, text: String },
    /// One of them agrees to a command.
    Confirm { command: ServerCommand },
    /// They move a text, and end it.
    Text { text: Text, first: usize },
}

/// A text over the table.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Text {
    Help,
    /// The details of a server, as they are at each moment.
    Details(Slot),
    /// The answer to a question.
    Answer {
        title: String,
        lines: Vec<String>,
    },
}

/// What the user is asked.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Question {
    Filter,
    /// How long a server is left out. The default is the value if the user gives none.
    Seconds {
        server: ChosenServer,
        default: u64,
    },
    /// A server's new weight.
    Weight {
        server: ChosenServer,
        default: u64,
    },
    /// Which client's server is to be explained.
    Client,
}

/// A server that a command is about. The name must still be that of the number when it is sent.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct ChosenServer {
    pub number: u64,
    pub name: String,
}

impl fmt::Display for ChosenServer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "server {} ({})", self.number, self.name)
    }
}

/// A command that changes a server.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct ServerCommand {
    pub server: ChosenServer,
    /// The line for pen.
    pub line: String,
    /// What it does, as a question without its mark: `drain server 3 (10.0.0.3:80)`.
    pub question: String,
}

/// What the program must do after an input.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Effect {
    None,
    Quit,
    /// Stop, until the shell lets the program go on.
    Suspend,
    /// Draw every cell, whatever the terminal shows.
    Redraw,
    /// Send this command.
    Ask(Asked),
}

/// A command, and where its answer is shown.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Asked {
    pub line: String,
    pub answer: AnswerView,
}

/// Where an answer is shown.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum AnswerView {
    /// In the last line.
    Message,
    /// Over the table.
    Text,
}

/// A line for the user.
#[derive(Clone, Debug)]
struct Message {
    text: String,
    tone: Tone,
    until: Instant,
}

/// How a message is meant.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Tone {
    Plain,
    Good,
    Bad,
}

impl Model {
    /// The view of a pen that has just reported this.
    pub fn new(address: &str, overview: Overview, now: Instant) -> Model {
        let mut model = Model {
            address: shown(address),
            overview: Overview::default(),
            rates: Rates::default(),
            events: VecDeque::new(),
            link: Link::Up,
            order: Order::default(),
            filter: String::new(),
            selected: None,
            first: 0,
            page: 1,
            mode: Mode::Table,
            message: None,
            now,
        };
        model.report(overview, now);
        model
    }

    /// Takes a report.
    pub fn report(&mut self, overview: Overview, now: Instant) {
        if let Link::Lost { since, .. } = self.link {
            let seconds = now.duration_since(since).as_secs();
            self.tell(Tone::Good, &format!("pen answers again, after {seconds} s"), now);
            self.rates.clear();
        }
        self.link = Link::Up;
        self.rates.take(now, &overview);
        self.overview = overview;
        let events = std::mem::take(&mut self.overview.events);
        if !events.is_empty() {
            self.show_events(events);
        }
        self.keep_selection();
    }

    /// Takes the last events.
    pub fn show_events(&mut self, events: Vec<Event>) {
        let surplus = events.len().saturating_sub(EVENTS);
        self.events = events.into_iter().skip(surplus).collect();
    }

    /// Takes the reason why pen did not answer.
    pub fn lose(&mut self, why: &str, now: Instant) {
        self.link = match &self.link {
            Link::Lost { since, .. } => Link::Lost { since: *since, why: shown(why) },
            Link::Up => Link::Lost { since: now, why: shown(why) },
        };
    }

    /// Takes the answer to a command.
    pub fn answer(
        &mut self,
        asked: &Asked,
        reply: Result<(Outcome, String), String>,
        now: Instant,
    ) {
        match (reply, asked.answer) {
            (Ok((Outcome::Done, text)), AnswerView::Text) => {
                let title = asked.line.clone();
                let lines = text.lines().take(ANSWER_LINES).map(shown).collect();
                self.mode = Mode::Text { text: Text::Answer { title, lines }, first: 0 };
            }
            (Ok((Outcome::Done, text)), AnswerView::Message) => {
                let text = shown(text.trim_end());
                let gap = if text.is_empty() { "" } else { ": " };
                self.tell(Tone::Good, &format!("done: {}{gap}{text}", asked.line), now);
            }
            (Ok((Outcome::Refused, text)), _) => {
                self.tell(Tone::Bad, &format!("refused: {}", shown(text.trim_end())), now);
            }
            (Err(why), _) => {
                self.tell(Tone::Bad, &format!("{}: {}", asked.line, shown(&why)), now);
            }
        }
    }

    /// Shows a line for a while.
    pub fn tell(&mut self, tone: Tone, text: &str, now: Instant) {
        self.message = Some(Message { text: text.to_owned(), tone, until: now + MESSAGE_TIME });
    }

    /// The line for the user, if there is one.
    pub fn message(&self) -> Option<(Tone, &str)> {
        let message = self.message.as_ref().filter(|message| message.until > self.now)?;
        Some((message.tone, &message.text))
    }

    /// The servers as they are shown.
    pub fn rows(&self) -> Vec<&Server> {
        self.order.of(&self.overview.servers, &self.filter, &self.rates)
    }

    /// The server in this slot.
    pub fn server(&self, slot: Slot) -> Option<&Server> {
        self.overview.servers.iter().find(|server| server.slot == slot)
    }

    /// Moves the selection by some rows.
    pub fn step(&mut self, rows: isize) {
        let slots: Vec<Slot> = self.rows().iter().map(|server| server.slot).collect();
        let index = slots.iter().position(|slot| Some(*slot) == self.selected).unwrap_or(0);
        let last = slots.len().saturating_sub(1);
        let index = index.saturating_add_signed(rows).min(last);
        self.selected = slots.get(index).copied();
        self.keep_visible();
    }

    /// The number of rows that fit, from now on.
    pub fn set_page(&mut self, page: usize) {
        self.page = page.max(1);
        self.keep_visible();
    }

    /// Keeps the selection among the servers that are shown.
    pub fn keep_selection(&mut self) {
        self.step(0);
    }

    fn keep_visible(&mut self) {
        let rows = self.rows();
        let index = rows.iter().position(|server| Some(server.slot) == self.selected).unwrap_or(0);
        let count = rows.len();
        self.first = self.first.clamp((index + 1).saturating_sub(self.page), index);
        self.first = self.first.min(count.saturating_sub(self.page));
    }
}
