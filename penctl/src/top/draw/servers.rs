//! The table of servers: as many columns as fit, and the rows from the first that is shown.

use ratatui::Frame;
use ratatui::layout::{Constraint, Rect};
use ratatui::text::{Line, Span};
use ratatui::widgets::{Cell, Row, Table};

use super::style::{Look, grouped};
use crate::overview::{Server, Slot};
use crate::text::{amount, bytes, duration, rate, short_time};
use crate::top::model::Model;
use crate::top::order::Key;

/// A column; their order is that of the table.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
enum Column {
    Number,
    Name,
    State,
    Check,
    Tls,
    Connections,
    Bar,
    OfNew,
    Rate,
    Bytes,
    Median,
    Percentile,
    Failed,
    Minutes,
}

use Column::*;

/// The columns that every table has.
const FIXED: [Column; 4] = [Number, Name, State, Connections];

/// The columns that are omitted if there is no room, in this order.
const OPTIONAL: [Column; 10] =
    [OfNew, Median, Failed, Bar, Minutes, Percentile, Bytes, Tls, Rate, Check];

/// How many of them make room for longer names, and for longer words of checks.
const SPARE_FOR_NAMES: usize = 2;
const SPARE_FOR_CHECKS: usize = 4;

/// The widest columns.
const WIDEST_NAME: usize = 40;
const COMMON_NAME: usize = 24;
const WIDEST_STATE: usize = 44;
const WIDEST_CHECK: usize = 32;
const COMMON_CHECK: usize = 20;
const WIDEST_BAR: usize = 16;
const WIDEST_LINE: usize = 60;

impl Column {
    /// The least width.
    fn least(self, digits: usize) -> usize {
        match self {
            Number => digits.max(2),
            Name => 15,
            State => 12,
            Check => 10,
            Tls => 3,
            Connections => 8,
            Bar => 5,
            OfNew | Rate | Failed => 6,
            Bytes => 8,
            Median | Percentile => 7,
            Minutes => 8,
        }
    }

    fn title(self, period: u64, width: usize) -> String {
        match self {
            Number => "#".to_owned(),
            Name => "server".to_owned(),
            State => "state".to_owned(),
            Check => "check".to_owned(),
            Tls => "tls".to_owned(),
            Connections => "conn".to_owned(),
            Bar => String::new(),
            OfNew => "of new".to_owned(),
            Rate => "new/s".to_owned(),
            Bytes => "bytes/s".to_owned(),
            Median => "p50".to_owned(),
            Percentile => "p99".to_owned(),
            Failed => "failed".to_owned(),
            Minutes => match (period, width) {
                (0, _) => String::new(),
                (period, ..12) => duration(period),
                (period, _) => format!("new in {}", duration(period)),
            },
        }
    }

    /// Whether its text is aligned to the right.
    fn is_figure(self) -> bool {
        match self {
            Connections | OfNew | Rate | Bytes | Median | Percentile | Failed => true,
            Number | Name | State | Check | Tls | Bar | Minutes => false,
        }
    }

    /// The key that orders by it.
    fn key(self) -> Option<Key> {
        match self {
            Number => Some(Key::Number),
            Name => Some(Key::Name),
            State => Some(Key::State),
            Check => Some(Key::Check),
            Connections => Some(Key::Connections),
            Rate => Some(Key::Rate),
            Bytes => Some(Key::Bytes),
            Percentile => Some(Key::ConnectTime),
            Failed => Some(Key::Failures),
            Tls | Bar | OfNew | Median | Minutes => None,
        }
    }
}

/// Draws the table.
pub fn draw(frame: &mut Frame<'_>, area: Rect, model: &Model, look: Look) {
    let rows = model.rows();
    let widths = widths(usize::from(area.width), &rows);
    let servers = &model.overview.servers;
    let total = servers.iter().filter_map(recent).fold(0, u64::saturating_add);
    let columns =
        widths.iter().find(|(column, _)| *column == Minutes).map_or(0, |(_, width)| *width);
    let highest = |server: &Server| {
        grouped(&server.history.connections, columns).into_iter().max().unwrap_or(0)
    };
    let most = servers.iter().map(highest).max().unwrap_or(0);
    let sheet = Sheet { model, look, total, most };
    let shown = rows.iter().skip(model.first).take(usize::from(area.height.saturating_sub(1)));
    let lines = shown.map(|server| sheet.row(server, &widths));
    let constraints = widths.iter().map(|(_, width)| Constraint::Length(as_width(*width)));
    let table = Table::new(lines, constraints).header(sheet.header(&widths)).column_spacing(1);
    frame.render_widget(table, area);
}

/// What the cells of all rows need.
struct Sheet<'m> {
    model: &'m Model,
    look: Look,
    /// New connections of all servers with a number in the last minutes.
    total: u64,
    /// The most new connections that a column of a line shows.
    most: u64,
}

impl Sheet<'_> {
    fn header(&self, widths: &[(Column, usize)]) -> Row<'static> {
        let history = &self.model.overview.history;
        let own = self.model.overview.servers.iter().map(|server| &server.history);
        let periods = own
            .chain([history])
            .map(|history| history.period.saturating_mul(history.connections.len() as u64));
        let period = periods.max().unwrap_or(0);
        let order = self.model.order;
        let cells = widths.iter().map(|(column, width)| {
            let mut title = column.title(period, *width);
            let chosen = column.key() == Some(order.key);
            if chosen {
                title.push_str(self.look.glyphs.arrow(order.direction));
            }
            let style = if chosen { self.look.title().underlined() } else { self.look.title() };
            Cell::new(Span::styled(aligned(&title, *column, *width), style))
        });
        Row::new(cells.collect::<Vec<_>>())
    }

    fn row(&self, server: &Server, widths: &[(Column, usize)]) -> Row<'static> {
        let is_selected = Some(server.slot) == self.model.selected;
        let cells = widths.iter().map(|(column, width)| {
            let cell = self.cell(server, *column, *width);
            // A reversed bar would show the opposite.
            match is_selected && matches!(column, Number | Name) {
                true => cell.style(self.look.selected()),
                false => cell,
            }
        });
        Row::new(cells.collect::<Vec<_>>())
    }

    fn cell(&self, server: &Server, column: Column, width: usize) -> Cell<'static> {
        let look = self.look;
        let rates = &self.model.rates;
        let (text, style) = match column {
            Number => (number(server), look.plain()),
            Name => (name(server), look.strong()),
            State => (state(server, width), look.health(server.state.health())),
            Check => (check(server), look.check(server)),
            Tls => (tls(server), look.plain()),
            Connections => (connections(server), look.plain()),
            Bar => return self.bar(server, width),
            OfNew => {
                let of_new = recent(server).and_then(|recent| percent(recent, self.total));
                (or_dash(of_new), look.plain())
            }
            Rate => (or_dash(rates.connections(server.slot).map(rate)), look.plain()),
            Bytes => {
                let both = rates.bytes(server.slot).map(|(sent, received)| sent + received);
                (or_dash(both.map(|both| bytes(both.round() as u64))), look.plain())
            }
            Median => (or_dash(server.connect_time(0.5).map(short_time)), look.plain()),
            Percentile => (or_dash(server.connect_time(0.99).map(short_time)), look.plain()),
            Failed => {
                let failed = server.failed();
                (amount(failed), if failed > 0 { look.warning() } else { look.faint() })
            }
            Minutes => {
                let values = &server.history.connections;
                (look.glyphs.line(values, self.most, width), look.good())
            }
        };
        Cell::new(Span::styled(aligned(&text, column, width), style))
    }

    fn bar(&self, server: &Server, width: usize) -> Cell<'static> {
        let Some(limit) = server.limit() else { return Cell::new("") };
        let share = server.connections as f64 / limit as f64;
        let (filled, empty) = self.look.glyphs.bar(share, width);
        Cell::new(Line::from(vec![
            Span::styled(filled, self.look.usage(share)),
            Span::styled(empty, self.look.faint()),
        ]))
    }
}

/// The new connections of a server in the last minutes, of which the page shows the share, too. The
/// emergency and the abuse server have no part in it.
fn recent(server: &Server) -> Option<u64> {
    match server.slot {
        Slot::Number(_) => {
            Some(server.history.connections.iter().copied().fold(0, u64::saturating_add))
        }
        Slot::Emergency | Slot::Abuse => None,
    }
}

/// A part in percent, as on the page. `None`: there is no whole.
fn percent(part: u64, whole: u64) -> Option<String> {
    let share = (whole > 0).then(|| part as f64 * 100.0 / whole as f64)?;
    let decimals = if share > 0.0 && share < 9.95 { 1 } else { 0 };
    Some(format!("{share:.decimals$}%"))
}

/// The columns that fit, and their widths.
fn widths(room: usize, rows: &[&Server]) -> Vec<(Column, usize)> {
    let digits = rows.iter().map(|server| number(server).len()).max().unwrap_or(1);
    let longest = |text: fn(&Server) -> String, least: usize, most: usize| {
        rows.iter().map(|server| text(server).chars().count()).max().unwrap_or(0).clamp(least, most)
    };
    let mut columns = [&FIXED[..], &OPTIONAL].concat();
    columns.sort_unstable();
    // A column that would show nothing is omitted.
    if rows.iter().all(|server| server.check.is_none()) {
        columns.retain(|column| *column != Check);
    }
    if rows.iter().all(|server| server.tls.is_none()) {
        columns.retain(|column| *column != Tls);
    }
    if rows.iter().all(|server| server.limit().is_none()) {
        columns.retain(|column| *column != Bar);
    }
    if rows.iter().all(|server| server.history.connections.is_empty()) {
        columns.retain(|column| *column != Minutes);
    }
    let taken = |columns: &[Column]| {
        let sum: usize = columns.iter().map(|column| column.least(digits)).sum();
        sum + columns.len().saturating_sub(1)
    };
    let longer = |column: Column, text: fn(&Server) -> String, most: usize| {
        let least = column.least(digits);
        if columns.contains(&column) { longest(text, least, most) - least } else { 0 }
    };
    let longer_names = longer(Name, name, COMMON_NAME);
    let longer_checks = longer(Check, check, COMMON_CHECK);
    for (index, column) in OPTIONAL.into_iter().enumerate() {
        let for_names = if index < SPARE_FOR_NAMES { longer_names } else { 0 };
        let for_checks = if index < SPARE_FOR_CHECKS { longer_checks } else { 0 };
        let more = for_names + for_checks;
        if taken(&columns) + more > room {
            columns.retain(|kept| *kept != column);
        }
    }
    let mut left = room.saturating_sub(taken(&columns));
    let mut widths: Vec<(Column, usize)> =
        columns.iter().map(|column| (*column, column.least(digits))).collect();
    let mut grow = |column: Column, wanted: usize| {
        if let Some((_, width)) = widths.iter_mut().find(|(found, _)| *found == column) {
            let more = wanted.saturating_sub(*width).min(left);
            *width += more;
            left -= more;
        }
    };
    grow(Name, longest(name, 0, WIDEST_NAME));
    grow(Connections, longest(connections, 0, 14));
    grow(Check, longest(check, 0, WIDEST_CHECK));
    grow(Minutes, 20);
    grow(State, longest(|server| state(server, WIDEST_STATE), 0, WIDEST_STATE));
    grow(Bar, WIDEST_BAR);
    grow(Minutes, WIDEST_LINE);
    widths
}

fn number(server: &Server) -> String {
    server.slot.number().map_or("-".to_owned(), |number| number.to_string())
}

/// The name; that of a server without a number says what it is.
fn name(server: &Server) -> String {
    match server.slot.number() {
        Some(_) => server.name.clone(),
        None => format!("{} {}", server.slot, server.name),
    }
}

/// The state, with its reason if there is room for more than the word.
fn state(server: &Server, room: usize) -> String {
    let (brief, why) = server.state();
    match room {
        // The time is over, and the word is enough.
        0..20 if brief.starts_with("failed,") => "failed".to_owned(),
        0..15 if brief.starts_with("slow start ") => brief.replacen("slow start", "slow", 1),
        0..20 => brief,
        _ => brief + &why,
    }
}

/// What its check says.
fn check(server: &Server) -> String {
    or_dash(server.check_words())
}

/// Whether its connections use TLS.
fn tls(server: &Server) -> String {
    server.tls_words().unwrap_or("-").to_owned()
}

fn connections(server: &Server) -> String {
    match server.limit() {
        Some(limit) => format!("{}/{}", amount(server.connections), amount(limit)),
        None => amount(server.connections),
    }
}

fn or_dash(text: Option<String>) -> String {
    text.unwrap_or_else(|| "-".to_owned())
}

/// The text with the width of its column.
fn aligned(text: &str, column: Column, width: usize) -> String {
    let text = crate::tables::cut(text, width);
    let gap = " ".repeat(width.saturating_sub(text.chars().count()));
    if column.is_figure() { gap + &text } else { text + &gap }
}

fn as_width(width: usize) -> u16 {
    u16::try_from(width).unwrap_or(u16::MAX)
}
