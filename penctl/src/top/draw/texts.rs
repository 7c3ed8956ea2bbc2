//! Texts over the table: the help, the details of a server, and answers.

use ratatui::Frame;
use ratatui::layout::Rect;
use ratatui::text::{Line, Span};
use ratatui::widgets::{Block, Clear, Padding, Paragraph, Wrap};

use super::style::{Glyphs, Look};
use crate::overview::Server;
use crate::text::{bytes, duration, short_time};
use crate::top::keys::KEYS;
use crate::top::model::{Model, Text};

/// Draws a text from this line on.
pub fn draw(frame: &mut Frame<'_>, model: &Model, text: &Text, first: usize, look: Look) {
    let (title, lines) = match text {
        Text::Help => ("keys".to_owned(), help(look)),
        Text::Details(slot) => match model.server(*slot) {
            Some(server) => (server.name.clone(), details(server, model, look)),
            None => ("gone".to_owned(), vec![Line::raw("this server is gone")]),
        },
        Text::Answer { title, lines } => {
            (title.clone(), lines.iter().cloned().map(Line::raw).collect())
        }
    };
    let area = frame.area();
    let room = usize::from(area.width).saturating_sub(8).max(1);
    let widest = lines.iter().map(Line::width).max().unwrap_or(0).clamp(30, room.max(30));
    let height: usize = lines.iter().map(|line| line.width().div_ceil(widest).max(1)).sum();
    let width = u16::try_from(widest + 4).unwrap_or(u16::MAX).min(area.width);
    let height = u16::try_from(height + 2).unwrap_or(u16::MAX).min(area.height);
    let window = Rect {
        x: area.x + (area.width - width) / 2,
        y: area.y + (area.height - height) / 2,
        width,
        height,
    };
    let mut block = Block::bordered()
        .title(Span::styled(format!(" {title} "), look.title()))
        .title_bottom(Span::styled(" any other key: back ", look.faint()))
        .padding(Padding::horizontal(1));
    if look.glyphs == Glyphs::Ascii {
        block = block.border_set(ASCII_BORDER);
    }
    let first = u16::try_from(first).unwrap_or(u16::MAX);
    let text = Paragraph::new(lines).wrap(Wrap { trim: false }).scroll((first, 0)).block(block);
    frame.render_widget(Clear, window);
    frame.render_widget(text, window);
}

const ASCII_BORDER: ratatui::symbols::border::Set<'static> = ratatui::symbols::border::Set {
    top_left: "+",
    top_right: "+",
    bottom_left: "+",
    bottom_right: "+",
    vertical_left: "|",
    vertical_right: "|",
    horizontal_top: "-",
    horizontal_bottom: "-",
};

fn help(look: Look) -> Vec<Line<'static>> {
    let line = |(key, text): &(&str, &'static str)| {
        Line::from(vec![Span::styled(format!("{key:<15}  "), look.title()), Span::raw(*text)])
    };
    KEYS.iter().map(line).collect()
}

fn details(server: &Server, model: &Model, look: Look) -> Vec<Line<'static>> {
    let (state, why) = server.state();
    let now = model.overview.unix_time;
    let mut facts = vec![
        ("server", server.slot.to_string()),
        ("address", server.address.clone()),
        ("state", state + &why),
        ("connections", server.usage()),
        ("weight", server.weight.map_or("-".to_owned(), |weight| weight.to_string())),
        ("sent", bytes(server.sent)),
        ("received", bytes(server.received)),
    ];
    if let Some(tls) = &server.tls {
        facts.insert(2, ("tls", tls.in_words()));
    }
    if let Some(check) = &server.check {
        let ago = |moment: u64| duration(now.saturating_sub(moment));
        let state = facts.iter().position(|(name, _)| *name == "state").unwrap_or(0);
        facts.insert(state + 1, ("check", format!("{}: {}", check.kind, check.words())));
        let mut times = vec![format!("for {}", ago(check.since))];
        times.extend(check.last.map(|last| format!("checked {} ago", ago(last))));
        times.push(format!("{} changes", check.transitions));
        facts.insert(state + 2, ("", times.join(", ")));
    }
    facts.extend(server.total.map(|total| ("in all", format!("{total} connections"))));
    for (name, share) in [("connect p50", 0.5), ("connect p90", 0.9), ("connect p99", 0.99)] {
        facts.extend(server.connect_time(share).map(|time| (name, short_time(time))));
    }
    for (reason, count) in server.failures.iter().filter(|(_, count)| *count > 0) {
        facts.push(("failed", format!("{count}: {reason}")));
    }
    if server.failovers > 0 {
        facts.push(("passed on", format!("{} clients to other servers", server.failovers)));
    }
    if let Some(failure) = &server.failure {
        let ago = duration(now.saturating_sub(failure.at));
        facts.push(("last failure", format!("{ago} ago: {}", failure.reason)));
    }
    let line = |(name, text): (&str, String)| {
        Line::from(vec![Span::styled(format!("{name:<13} "), look.faint()), Span::raw(text)])
    };
    facts.into_iter().map(line).collect()
}
