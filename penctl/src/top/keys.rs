//! What each key does. Keys that change something at pen only ask; the change needs a `y`.

use std::net::IpAddr;
use std::time::Instant;

use ratatui::crossterm::event::{KeyCode, KeyEvent, KeyEventKind, KeyModifiers};

use super::model::{
    AnswerView, Asked, ChosenServer, Effect, Link, Mode, Model, Question, ServerCommand, Text, Tone,
};
use super::order::{Direction, Key};
use crate::overview::{Server, ServerMode, Slot, State};

/// The keys, as the help lists them.
pub const KEYS: [(&str, &str); 19] = [
    ("Up Down j k", "choose a server"),
    ("Page, Home, End", "choose one further away"),
    ("Enter", "all about the server"),
    ("< >", "order by the column before, or the next"),
    ("N A S K C", "order by number, address, state, check, connections"),
    ("R B P F", "order by rate, bytes, p99, failed connects"),
    ("r", "turn the order; so does the same letter again"),
    ("/", "show only servers with this text"),
    ("Esc", "show all servers again"),
    ("d", "drain the server: it gets no new clients (asks)"),
    ("m", "take it into maintenance: it gets no clients (asks)"),
    ("u", "make it ready again, after d or m (asks)"),
    ("b", "blacklist the server, or bring it back (asks)"),
    ("w", "change the server's weight (asks)"),
    ("e", "explain which server a client would get"),
    ("? h F1", "this help"),
    ("Ctrl-L", "draw everything anew"),
    ("Ctrl-Z", "stop, until the shell's fg"),
    ("q Ctrl-C", "leave"),
];

/// Longest answer to a question, in characters.
const LONGEST_ANSWER: usize = 64;

/// The lines about a server that can be scrolled away.
const DETAILS: usize = 19;

/// Seconds out of service, unless the user gives others.
const SECONDS: u64 = 60;

impl Model {
    /// Handles a key.
    pub fn key(&mut self, key: KeyEvent, now: Instant) -> Effect {
        if key.kind == KeyEventKind::Release {
            return Effect::None;
        }
        if key.modifiers.contains(KeyModifiers::CONTROL) {
            match key.code {
                KeyCode::Char('c') => return Effect::Quit,
                KeyCode::Char('z') => return Effect::Suspend,
                KeyCode::Char('l') => return Effect::Redraw,
                _ => {}
            }
        }
        match std::mem::replace(&mut self.mode, Mode::Table) {
            Mode::Table => self.table_key(key, now),
            Mode::Prompt { question, text } => self.prompt_key(key, question, text, now),
            Mode::Confirm { command } => self.confirm_key(key, command, now),
            Mode::Text { text, first } => self.text_key(key, text, first),
        }
    }

    fn table_key(&mut self, key: KeyEvent, now: Instant) -> Effect {
        let page = isize::try_from(self.page).unwrap_or(isize::MAX);
        let control = key.modifiers.contains(KeyModifiers::CONTROL);
        match key.code {
            KeyCode::Char('f') if control => self.step(page),
            KeyCode::Char('b') if control => self.step(-page),
            _ if control => {}
            KeyCode::Char('q') => return Effect::Quit,
            KeyCode::Up | KeyCode::Char('k') => self.step(-1),
            KeyCode::Down | KeyCode::Char('j') => self.step(1),
            KeyCode::PageUp => self.step(-page),
            KeyCode::PageDown => self.step(page),
            KeyCode::Home | KeyCode::Char('g') => self.step(isize::MIN),
            KeyCode::End | KeyCode::Char('G') => self.step(isize::MAX),
            KeyCode::Char('<') => self.reorder(|model| model.order.step(Direction::Down)),
            KeyCode::Char('>') => self.reorder(|model| model.order.step(Direction::Up)),
            KeyCode::Char('r') => self.reorder(|model| model.order.turn()),
            KeyCode::Char('?' | 'h') | KeyCode::F(1) => self.show(Text::Help),
            KeyCode::Enter => {
                if let Some(slot) = self.selected {
                    self.show(Text::Details(slot));
                }
            }
            KeyCode::Esc => self.filter_by(String::new()),
            KeyCode::Char('/') => self.ask(Question::Filter, self.filter.clone()),
            KeyCode::Char('d') => self.ask_for_mode(ServerMode::Drain, now),
            KeyCode::Char('m') => self.ask_for_mode(ServerMode::Maint, now),
            KeyCode::Char('u') => self.ask_for_mode(ServerMode::Ready, now),
            KeyCode::Char('b') => self.ask_about_server(Question::seconds, now),
            KeyCode::Char('w') => self.ask_about_server(Question::weight, now),
            KeyCode::Char('e') if self.is_reachable(now) => {
                self.ask(Question::Client, String::new());
            }
            KeyCode::Char(letter) => {
                if let Some(key) = Key::ALL.into_iter().find(|key| key.letter() == letter) {
                    self.reorder(|model| model.order.choose(key));
                }
            }
            _ => {}
        }
        Effect::None
    }

    fn show(&mut self, text: Text) {
        self.mode = Mode::Text { text, first: 0 };
    }

    fn ask(&mut self, question: Question, text: String) {
        self.mode = Mode::Prompt { question, text };
    }

    fn reorder(&mut self, change: impl FnOnce(&mut Model)) {
        change(self);
        self.keep_selection();
    }

    fn filter_by(&mut self, text: String) {
        self.filter = text;
        self.keep_selection();
    }

    fn is_reachable(&mut self, now: Instant) -> bool {
        match self.link {
            Link::Up => true,
            Link::Lost { .. } => {
                self.tell(Tone::Bad, "pen does not answer now", now);
                false
            }
        }
    }

    fn ask_about_server(&mut self, question: fn(ChosenServer, &Server) -> Question, now: Instant) {
        if let Some((chosen, server)) = self.chosen_server(now) {
            let question = question(chosen, server);
            self.ask(question, String::new());
        }
    }

    /// Asks whether the chosen server shall have this mode.
    fn ask_for_mode(&mut self, mode: ServerMode, now: Instant) {
        let Some((chosen, server)) = self.chosen_server(now) else { return };
        if server.mode == Some(mode) {
            let hint = match (mode, &server.state) {
                (ServerMode::Ready, State::Out | State::Failed) => "; b brings it back",
                (ServerMode::Ready | ServerMode::Drain | ServerMode::Maint, _) => "",
            };
            let text = format!("{chosen} has the state {} already{hint}", mode.name());
            self.tell(Tone::Plain, &text, now);
            return;
        }
        let question = match mode {
            ServerMode::Ready => format!("make {chosen} ready"),
            ServerMode::Drain => format!("drain {chosen}"),
            ServerMode::Maint => format!("take {chosen} into maintenance"),
        };
        let line = format!("server {} state {}", chosen.number, mode.name());
        self.mode = Mode::Confirm { command: ServerCommand { server: chosen, line, question } };
    }

    /// The server that keys refer to. `None`: it cannot be changed, and the user has been told why.
    fn chosen_server(&mut self, now: Instant) -> Option<(ChosenServer, &Server)> {
        if !self.is_reachable(now) {
            return None;
        }
        let slot = self.selected?;
        let Some(number) = slot.number() else {
            let text = format!("the {slot} server has no number for commands");
            self.tell(Tone::Bad, &text, now);
            return None;
        };
        let server = self.server(slot)?;
        Some((ChosenServer { number, name: server.name.clone() }, server))
    }

    fn prompt_key(
        &mut self,
        key: KeyEvent,
        question: Question,
        mut text: String,
        now: Instant,
    ) -> Effect {
        match key.code {
            KeyCode::Esc => {
                if question == Question::Filter {
                    self.filter_by(String::new());
                }
                return Effect::None;
            }
            KeyCode::Enter => return self.decide(question, &text, now),
            KeyCode::Backspace => drop(text.pop()),
            KeyCode::Char('u') if key.modifiers.contains(KeyModifiers::CONTROL) => text.clear(),
            KeyCode::Char(letter)
                if question.takes(letter)
                    && !key.modifiers.contains(KeyModifiers::CONTROL)
                    && text.chars().count() < LONGEST_ANSWER =>
            {
                text.push(letter);
            }
            _ => {}
        }
        if question == Question::Filter {
            self.filter_by(text.clone());
        }
        self.ask(question, text);
        Effect::None
    }

    /// Goes on with the answer to a question.
    fn decide(&mut self, question: Question, text: &str, now: Instant) -> Effect {
        let (server, default, key) = match question {
            Question::Filter => return Effect::None,
            Question::Client => return self.explain(text, now),
            Question::Seconds { server, default } => (server, default, "blacklist"),
            Question::Weight { server, default } => (server, default, "weight"),
        };
        let value = if text.is_empty() { Some(default) } else { text.parse().ok() };
        let Some(value) = value else {
            self.tell(Tone::Bad, &format!("{text} is too large"), now);
            return Effect::None;
        };
        let question = match (key, value) {
            ("blacklist", 0_u64) => format!("bring {server} back"),
            ("blacklist", seconds) => format!("blacklist {server} for {seconds} s"),
            (_, weight) => format!("give {server} the weight {weight}"),
        };
        let line = format!("server {} {key} {value}", server.number);
        self.mode = Mode::Confirm { command: ServerCommand { server, line, question } };
        Effect::None
    }

    fn explain(&mut self, text: &str, now: Instant) -> Effect {
        match text.parse::<IpAddr>() {
            _ if text.is_empty() => Effect::None,
            Ok(address) => {
                let line = format!("explain {address}");
                Effect::Ask(Asked { line, answer: AnswerView::Text })
            }
            Err(_) => {
                self.tell(Tone::Bad, &format!("{text} is no IP address"), now);
                Effect::None
            }
        }
    }

    fn confirm_key(&mut self, key: KeyEvent, command: ServerCommand, now: Instant) -> Effect {
        if !matches!(key.code, KeyCode::Char('y' | 'Y')) {
            self.tell(Tone::Plain, "nothing changed", now);
            return Effect::None;
        }
        let ServerCommand { server, line, .. } = command;
        let same =
            self.server(Slot::Number(server.number)).is_some_and(|found| found.name == server.name);
        if !same {
            let text = format!("nothing changed: server {} is another one now", server.number);
            self.tell(Tone::Bad, &text, now);
            return Effect::None;
        }
        self.tell(Tone::Plain, &format!("sent: {line}"), now);
        Effect::Ask(Asked { line, answer: AnswerView::Message })
    }

    fn text_key(&mut self, key: KeyEvent, text: Text, first: usize) -> Effect {
        let first = match key.code {
            KeyCode::Up | KeyCode::Char('k') => first.saturating_sub(1),
            KeyCode::Down | KeyCode::Char('j') => first.saturating_add(1),
            KeyCode::PageUp => first.saturating_sub(10),
            KeyCode::PageDown | KeyCode::Char(' ') => first.saturating_add(10),
            KeyCode::Home => 0,
            _ => return Effect::None,
        };
        let lines = match &text {
            Text::Help => KEYS.len(),
            Text::Details(_) => DETAILS,
            Text::Answer { lines, .. } => lines.len(),
        };
        let first = first.min(lines.saturating_sub(1));
        self.mode = Mode::Text { text, first };
        Effect::None
    }
}

impl Question {
    fn seconds(chosen: ChosenServer, server: &Server) -> Question {
        let default = if server.seconds > 0 { 0 } else { SECONDS };
        Question::Seconds { server: chosen, default }
    }

    fn weight(chosen: ChosenServer, server: &Server) -> Question {
        Question::Weight { server: chosen, default: server.weight.unwrap_or(1) }
    }

    /// Whether the answer may contain this character.
    fn takes(&self, letter: char) -> bool {
        match self {
            Question::Filter => !letter.is_control(),
            Question::Seconds { .. } | Question::Weight { .. } => letter.is_ascii_digit(),
            Question::Client => letter.is_ascii_hexdigit() || matches!(letter, '.' | ':'),
        }
    }

    /// The question.
    pub fn text(&self) -> String {
        match self {
            Question::Filter => "only servers with: ".to_owned(),
            Question::Seconds { server, default } => {
                format!("{server}: seconds without clients, 0 = back [{default}]: ")
            }
            Question::Weight { server, default } => format!("{server}: weight [{default}]: "),
            Question::Client => "explain the server of this client address: ".to_owned(),
        }
    }
}
