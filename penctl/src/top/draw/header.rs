//! The lines above the servers: the program, its connections, its workers; and what needs
//! attention.

use pen_status::event::EventTime;
use ratatui::text::{Line, Span};

use super::style::Look;
use crate::tables::{Width, fold};
use crate::text::{amount, bytes, duration, rate};
use crate::top::model::Model;

/// The number of lines without notices.
pub const LINES: u16 = 4;

/// The columns of the bar of connections.
const BAR: usize = 20;

/// The lines.
pub fn lines(model: &Model, look: Look, width: u16) -> Vec<Line<'static>> {
    vec![
        between(program(model, look), now(model, look), width),
        between(connections(model, look), since(model, look), width),
        between(traffic(model, look), vec![Span::raw(model.overview.servers_up())], width),
        workers(model, look),
    ]
}

/// Two texts, one at each end of the line. The second is omitted if there is no room.
fn between(left: Vec<Span<'static>>, right: Vec<Span<'static>>, width: u16) -> Line<'static> {
    let length = |spans: &[Span<'_>]| spans.iter().map(Span::width).sum::<usize>();
    let gap = usize::from(width).checked_sub(length(&left) + length(&right));
    match gap {
        Some(gap @ 1..) => {
            let mut spans = left;
            spans.push(Span::raw(" ".repeat(gap)));
            spans.extend(right);
            Line::from(spans)
        }
        Some(0) | None => Line::from(left),
    }
}

fn program(model: &Model, look: Look) -> Vec<Span<'static>> {
    let overview = &model.overview;
    let version = overview.version.as_deref().unwrap_or("of an unknown version");
    let mut spans = vec![
        Span::styled(format!("pen {version}"), look.strong()),
        Span::raw(format!("  {}", model.address)),
    ];
    if let Some(listen) = &overview.listen {
        spans.push(Span::styled("  listens on ", look.faint()));
        spans.push(Span::raw(listen.clone()));
    }
    if let Some(method) = &overview.method {
        spans.push(Span::styled("  method ", look.faint()));
        spans.push(Span::raw(method.clone()));
    }
    spans
}

fn now(model: &Model, look: Look) -> Vec<Span<'static>> {
    let overview = &model.overview;
    vec![Span::styled(clock(overview.unix_time, overview.offset()), look.strong())]
}

fn since(model: &Model, look: Look) -> Vec<Span<'static>> {
    let overview = &model.overview;
    let Some(uptime) = overview.uptime else { return Vec::new() };
    let since = date(overview.unix_time.saturating_sub(uptime), overview.offset());
    vec![Span::styled("since ", look.faint()), Span::raw(format!("{since}, {}", duration(uptime)))]
}

fn connections(model: &Model, look: Look) -> Vec<Span<'static>> {
    let overview = &model.overview;
    let sum =
        || overview.servers.iter().fold(0, |sum: u64, one| sum.saturating_add(one.connections));
    let used = overview.connections.unwrap_or_else(sum);
    let mut spans = vec![Span::styled("connections ", look.faint())];
    match overview.connections_max.filter(|most| *most > 0) {
        Some(most) => {
            let share = used as f64 / most as f64;
            let (filled, empty) = look.glyphs.bar(share, BAR);
            spans.push(Span::styled(filled, look.usage(share)));
            spans.push(Span::styled(empty, look.faint()));
            spans.push(Span::styled(format!(" {}", amount(used)), look.strong()));
            spans.push(Span::raw(format!(" of {}", amount(most))));
        }
        None => spans.push(Span::styled(amount(used), look.strong())),
    }
    if overview.held > 0 {
        spans.push(Span::styled(format!("   held {}", amount(overview.held)), look.warning()));
    }
    if overview.tarpitted > 0 {
        let text = format!("   tarpit {}", amount(overview.tarpitted));
        spans.push(Span::styled(text, look.warning()));
    }
    if let Some(clients) = overview.clients {
        let of = overview.clients_max.map_or(String::new(), |most| format!(" of {}", amount(most)));
        spans.push(Span::styled("   clients ", look.faint()));
        spans.push(Span::raw(format!("{}{of}", amount(clients))));
    }
    spans
}

fn traffic(model: &Model, look: Look) -> Vec<Span<'static>> {
    let slots = || model.overview.servers.iter().map(|server| server.slot);
    let rates = &model.rates;
    let known = |rates: Vec<Option<f64>>| {
        let known: Vec<f64> = rates.into_iter().flatten().collect();
        (!known.is_empty()).then(|| known.iter().sum::<f64>())
    };
    let both = |part: fn((f64, f64)) -> f64| {
        known(slots().map(|slot| rates.bytes(slot).map(part)).collect())
    };
    let new =
        rates.accepted().or_else(|| known(slots().map(|slot| rates.connections(slot)).collect()));
    let bytes = |value: Option<f64>| {
        value.map_or("-".to_owned(), |value| format!("{}/s", bytes(value.round() as u64)))
    };
    vec![
        Span::styled("new ", look.faint()),
        Span::styled(new.map_or("-".to_owned(), |new| format!("{}/s", rate(new))), look.strong()),
        Span::styled("   sent ", look.faint()),
        Span::styled(bytes(both(|(sent, _)| sent)), look.strong()),
        Span::styled("   received ", look.faint()),
        Span::styled(bytes(both(|(_, received)| received)), look.strong()),
    ]
}

fn workers(model: &Model, look: Look) -> Line<'static> {
    let overview = &model.overview;
    let count = overview.workers.map_or("?".to_owned(), |count| count.to_string());
    let mut spans =
        vec![Span::styled("workers ", look.faint()), Span::styled(count, look.strong())];
    for worker in &overview.worker_list {
        let mut text = format!("  {}: {} conn", worker.number, amount(worker.connections));
        if let Some(busy) = model.rates.busy(worker.number) {
            text.push_str(&format!(" {:.0}%", busy * 100.0));
        }
        match worker.restarts {
            0 => {}
            restarts => text.push_str(&format!(" replaced {restarts}x")),
        }
        let style = match (worker.is_running, worker.restarts) {
            (false, _) => look.bad(),
            (true, 0) => look.plain(),
            (true, _) => look.warning(),
        };
        let text = if worker.is_running { text } else { text + " starting" };
        spans.push(Span::styled(text, style));
    }
    let old = overview.old_workers.iter();
    let connections = old.fold(0, |sum: u64, old| sum.saturating_add(old.connections));
    if let Some(first) = overview.old_workers.first() {
        let text = format!(
            "   {} old of pen {}: {} conn",
            overview.old_workers.len(),
            first.version,
            amount(connections)
        );
        spans.push(Span::styled(text, look.warning()));
    }
    Line::from(spans)
}

/// What needs attention, in lines that fit.
pub fn notices(model: &Model, width: u16) -> Vec<String> {
    let overview = &model.overview;
    let mut texts: Vec<String> = super::lost(model).into_iter().collect();
    texts.extend(overview.notes());
    let failed = [("reload", &overview.failed_reload), ("upgrade", &overview.failed_upgrade)];
    for (what, text) in failed {
        texts.extend(text.as_ref().map(|text| format!("last {what} failed: {text}")));
    }
    texts.extend(overview.expiring());
    let room = Width::Columns(usize::from(width).max(1));
    let fold = |text: &String| fold(format!("! {text}").split(' ').map(str::to_owned), room);
    let folded: String = texts.iter().map(fold).collect();
    folded.lines().map(str::to_owned).collect()
}

/// The time of day where pen runs: `04:10:21`.
pub fn clock(unix_time: u64, offset: i64) -> String {
    local(unix_time, offset).get(11..19).unwrap_or_default().to_owned()
}

/// The day and the time of day where pen runs: `11-24 04:10`.
fn date(unix_time: u64, offset: i64) -> String {
    local(unix_time, offset).get(5..16).unwrap_or_default().replace('T', " ")
}

fn local(unix_time: u64, offset: i64) -> String {
    EventTime(unix_time.saturating_add_signed(offset).saturating_mul(1000)).to_string()
}
