//! Makes a frame of the state: header, servers, events, and the last line; texts over the table.

mod header;
mod servers;
mod style;
mod texts;

use ratatui::Frame;
use ratatui::buffer::Cell;
use ratatui::layout::Rect;
use ratatui::text::{Line, Span};
use ratatui::widgets::Paragraph;

pub use style::{Glyphs, Look};

use super::model::{Link, Mode, Model};
use crate::overview::Event;
use crate::tables::{Width, cut, fold};
use crate::text::duration;

/// The smallest terminal that a frame fits, in columns and rows.
const LEAST: (u16, u16) = (60, 12);

/// The most lines of notices.
const NOTICES: u16 = 4;

/// The parts of a frame.
#[derive(Clone, Copy, Debug)]
struct Parts {
    header: Rect,
    notices: Rect,
    servers: Rect,
    events: Rect,
    last: Rect,
}

/// The rows of servers that fit a terminal of this size.
pub fn page(area: Rect, model: &Model) -> usize {
    usize::from(parts(area, model).servers.height.saturating_sub(1))
}

/// Draws the frame.
pub fn draw(frame: &mut Frame<'_>, model: &Model, look: Look) {
    let area = frame.area();
    if area.width < LEAST.0 || area.height < LEAST.1 {
        return too_small(frame, area);
    }
    let parts = parts(area, model);
    frame.render_widget(Paragraph::new(header::lines(model, look, area.width)), parts.header);
    let notices = header::notices(model, area.width).into_iter();
    let notices: Vec<Line<'_>> = notices.map(|text| Line::styled(text, look.bad())).collect();
    frame.render_widget(Paragraph::new(notices), parts.notices);
    servers::draw(frame, parts.servers, model, look);
    events(frame, parts.events, model, look);
    last_line(frame, parts.last, model, look);
    if let Mode::Text { text, first } = &model.mode {
        texts::draw(frame, model, text, *first, look);
    }
    match look.glyphs {
        Glyphs::Blocks => {}
        Glyphs::Ascii => frame.buffer_mut().content.iter_mut().for_each(make_ascii),
    }
}

/// A terminal that does not read UTF-8 may take a part of a character for a control character.
fn make_ascii(cell: &mut Cell) {
    if !cell.symbol().is_ascii() {
        let symbol = if cell.symbol() == "µ" { "u" } else { "?" };
        cell.set_symbol(symbol);
    }
}

fn too_small(frame: &mut Frame<'_>, area: Rect) {
    let (columns, rows) = LEAST;
    let text = format!("top needs {columns}x{rows}, here are {}x{}", area.width, area.height);
    let lines: Vec<Line<'_>> = [text.as_str(), "q leaves"].map(Line::from).into();
    frame.render_widget(Paragraph::new(lines).wrap(ratatui::widgets::Wrap { trim: true }), area);
}

/// Divides the terminal. Servers have the rows that they need, and events what is left, but a third
/// of the terminal at least.
fn parts(area: Rect, model: &Model) -> Parts {
    let mut top = area.y;
    let mut take = |height: u16| {
        let part = Rect { y: top, height, ..area };
        top = top.saturating_add(height);
        part
    };
    let notices = header::notices(model, area.width).len();
    let notices = u16::try_from(notices).unwrap_or(u16::MAX).min(NOTICES);
    let room = area.height.saturating_sub(header::LINES + notices + 1);
    let wanted = u16::try_from(model.rows().len() + 1).unwrap_or(u16::MAX).max(3);
    let events = match room {
        0..8 => 0,
        room => room.saturating_sub(wanted).max(room / 3),
    };
    Parts {
        header: take(header::LINES),
        notices: take(notices),
        servers: take(room - events),
        events: take(events),
        last: take(1),
    }
}

/// The last events, the newest at the bottom.
fn events(frame: &mut Frame<'_>, area: Rect, model: &Model, look: Look) {
    if area.height == 0 {
        return;
    }
    let room = usize::from(area.height - 1);
    let rule = match look.glyphs {
        Glyphs::Blocks => "─",
        Glyphs::Ascii => "-",
    };
    let title = " events ";
    let rest = usize::from(area.width).saturating_sub(title.len() + 2);
    let title = format!("{}{title}{}", rule.repeat(2), rule.repeat(rest));
    let mut lines = vec![Line::styled(title, look.faint())];
    let mut texts: Vec<Line<'_>> = Vec::new();
    for event in model.events.iter().rev().take(room) {
        let lines = event_lines(event, model.overview.offset(), area.width, look);
        texts.extend(lines.into_iter().rev());
    }
    texts.truncate(room);
    lines.extend(texts.into_iter().rev());
    if model.events.is_empty() {
        lines.push(Line::styled("none yet", look.faint()));
    }
    frame.render_widget(Paragraph::new(lines), area);
}

/// An event with its time. A long text has several lines.
fn event_lines(event: &Event, offset: i64, width: u16, look: Look) -> Vec<Line<'static>> {
    let time = header::clock(event.time / 1000, offset);
    let room = usize::from(width).saturating_sub(time.len() + GAP.len()).max(1);
    let words = event.text.split(' ').map(str::to_owned);
    let style = look.event(&event.kind);
    let first = format!("{time}{GAP}");
    let others = " ".repeat(first.len());
    let folded = fold(words, Width::Columns(room));
    let line = |(index, text): (usize, &str)| {
        let begin = if index == 0 { first.clone() } else { others.clone() };
        Line::from(vec![Span::styled(begin, look.faint()), Span::styled(text.to_owned(), style)])
    };
    folded.lines().enumerate().map(line).collect()
}

/// The gap between the time of an event and its text.
const GAP: &str = "  ";

/// The end of a question about a change.
const CHOICE: &str = "? [y/N]";

/// The last line: a question, a message, or the keys.
fn last_line(frame: &mut Frame<'_>, area: Rect, model: &Model, look: Look) {
    let line = match &model.mode {
        Mode::Prompt { question, text } => {
            // The end is seen, with the cursor behind it.
            let line = question.text() + text;
            let room = usize::from(area.width.saturating_sub(1));
            let skipped = line.chars().count().saturating_sub(room);
            let line: String = line.chars().skip(skipped).collect();
            let column = u16::try_from(line.chars().count()).unwrap_or(u16::MAX);
            frame.set_cursor_position((area.x.saturating_add(column), area.y));
            Line::styled(line, look.strong())
        }
        Mode::Confirm { command } => {
            // However long the name is, the choice of answers is seen.
            let room = usize::from(area.width).saturating_sub(CHOICE.len());
            Line::from(vec![
                Span::styled(cut(&command.question, room), look.strong()),
                Span::styled(CHOICE, look.selected()),
                Span::styled(format!("  {}", command.line), look.faint()),
            ])
        }
        Mode::Table | Mode::Text { .. } => match model.message() {
            Some((tone, text)) => Line::styled(text.to_owned(), look.tone(tone)),
            None => hints(model, look, area.width),
        },
    };
    frame.render_widget(Paragraph::new(line), area);
}

/// The keys with their meanings, as many as fit.
fn hints(model: &Model, look: Look, width: u16) -> Line<'static> {
    let mut spans = Vec::new();
    if !model.filter.is_empty() {
        spans.push(Span::styled(
            format!(" only \"{}\", Esc shows all ", model.filter),
            look.selected(),
        ));
        spans.push(Span::raw(" "));
    }
    let mut used: usize = spans.iter().map(Span::width).sum();
    for (key, text) in [
        ("?", "help"),
        ("q", "leave"),
        ("/", "find"),
        ("d", "drain"),
        ("m", "maint"),
        ("u", "ready"),
        ("b", "blacklist"),
        ("w", "weight"),
        ("e", "explain"),
        ("<>", "order"),
    ] {
        let text = format!(" {text}  ");
        used += key.len() + text.len();
        // The gap behind the last one needs no room.
        if used > usize::from(width) + 2 {
            break;
        }
        spans.push(Span::styled(key, look.title()));
        spans.push(Span::raw(text));
    }
    Line::from(spans)
}

/// Whether pen answers, in words. None while it does.
fn lost(model: &Model) -> Option<String> {
    match &model.link {
        Link::Up => None,
        Link::Lost { since, why } => {
            let time = duration(model.now.saturating_duration_since(*since).as_secs());
            Some(format!("no answer for {time}, trying again: {why}"))
        }
    }
}
