//! The servers as a table, for a person at a terminal. The table is made from the reply to
//! `overview`, which is JSON. A value that pen does not report is left empty.
//!
//! No line is longer than the width of the terminal: columns are omitted in a fixed order until all
//! lines fit.

use serde_json::Value;

use crate::columns::{Width, cut, fold};

/// The command that returns all values of the table.
pub const OVERVIEW: &[u8] = b"overview";

/// Whether the output has colours.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Paint {
    /// It has colours.
    Colours,
    /// It has no colours: the user does not want them (NO_COLOR), or the terminal has none.
    Plain,
}

impl Paint {
    /// The choice by the environment (<https://no-color.org>).
    pub fn wanted() -> Paint {
        let set = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty());
        match set("NO_COLOR").is_some() || set("TERM").is_none_or(|term| term == "dumb") {
            true => Paint::Plain,
            false => Paint::Colours,
        }
    }
}

/// The table, with its line ends. `None`: the text is not an overview.
pub fn render(overview: &[u8], paint: Paint, width: Width) -> Option<String> {
    let overview: Value = serde_json::from_slice(overview).ok()?;
    let servers = overview.get("servers")?.as_array()?;
    let others = [("emergency", &overview["emergency"]), ("abuse", &overview["abuse"])];
    let others = others.into_iter().filter(|(_, server)| server.is_object());
    let numbered = servers.iter().map(|server| (number(&server["number"]), server));
    let named: Vec<(String, &Value)> =
        numbered.chain(others.map(|(name, server)| (name.to_owned(), server))).collect();
    let total = named.iter().map(|(_, server)| figure(&server["connections"])).sum();
    let now = figure(&overview["unix_time"]);
    let rows: Vec<TableRow> =
        named.iter().map(|(name, server)| TableRow::new(name, server, total, now)).collect();
    let mut text = lines(&rows, paint, width);
    text.push_str(&summary(&overview, servers, total, width));
    Some(text)
}

/// A server's line.
struct TableRow {
    mood: Mood,
    cells: [String; COLUMNS],
}

/// The meaning of a state for the administrator of the servers.
#[derive(Clone, Copy)]
enum Mood {
    Good,
    Full,
    Out,
    Failed,
    Vacant,
}

const COLUMNS: usize = 10;

const TITLES: [&str; COLUMNS] = [
    "",
    "server",
    "address",
    "state",
    "state",
    "conn",
    "share",
    "sent",
    "received",
    "last failure",
];

const NUMBER: usize = 0;
const SERVER: usize = 1;
const ADDRESS: usize = 2;
/// The column of the state with its reason.
const STATE: usize = 3;
/// The column of the state alone.
const BRIEF: usize = 4;
const CONN: usize = 5;
const SHARE: usize = 6;
const SENT: usize = 7;
const RECEIVED: usize = 8;
const FAILURE: usize = 9;

/// The columns that are aligned to the right.
const FIGURES: [usize; 4] = [CONN, SHARE, SENT, RECEIVED];

/// The choices of columns: the first that fits the terminal is used. The reason of a failure is
/// omitted last.
const LAYOUTS: [&[usize]; 7] = [
    &[NUMBER, SERVER, ADDRESS, STATE, CONN, SHARE, SENT, RECEIVED, FAILURE],
    &[NUMBER, SERVER, STATE, CONN, SHARE, SENT, RECEIVED, FAILURE],
    &[NUMBER, SERVER, BRIEF, CONN, SHARE, SENT, RECEIVED, FAILURE],
    &[NUMBER, SERVER, BRIEF, CONN, SHARE, FAILURE],
    &[NUMBER, SERVER, BRIEF, CONN, FAILURE],
    &[NUMBER, SERVER, STATE, CONN],
    &[NUMBER, SERVER, BRIEF, CONN],
];

/// The gap between two columns.
const GAP: &str = "  ";

impl TableRow {
    fn new(name: &str, server: &Value, total: u64, now: u64) -> TableRow {
        let (mood, brief, why) = state(server);
        let connections = figure(&server["connections"]);
        let share = match total {
            0 => "-".to_owned(),
            total => format!("{}%", (connections * 100 + total / 2) / total),
        };
        let limits = match (figure(&server["max"]), figure(&server["hard"])) {
            (0, _) => String::new(),
            (soft, hard) if hard <= soft => format!(" of {soft}"),
            (soft, hard) => format!(" of {soft}/{hard}"),
        };
        let failure = &server["last_failure"];
        let last = match (failure["unix_time"].as_u64(), failure["reason"].as_str()) {
            (Some(at), Some(reason)) => {
                format!("{} ago: {}", duration(now.saturating_sub(at)), shown(reason))
            }
            _ => "-".to_owned(),
        };
        let address = address(server);
        let given = server["name"].as_str().map(|name| match server["port"].as_u64() {
            None | Some(0) => shown(name),
            Some(port) => format!("{}:{port}", shown(name)),
        });
        let cells = [
            name.to_owned(),
            given.unwrap_or_else(|| address.clone()),
            address,
            brief.clone() + &why,
            brief,
            format!("{connections}{limits}"),
            share,
            bytes(figure(&server["sent"])),
            bytes(figure(&server["received"])),
            last,
        ];
        TableRow { mood, cells }
    }
}

/// The state in words, and details of it.
fn state(server: &Value) -> (Mood, String, String) {
    let seconds = figure(&server["blacklisted"]);
    let reason = server["last_failure"]["reason"]
        .as_str()
        .map(shown)
        .unwrap_or_else(|| "unknown".to_owned());
    let alone = |mood: Mood, word: &str| (mood, word.to_owned(), String::new());
    match server["state"].as_str() {
        Some("up") => alone(Mood::Good, "up"),
        Some("full") => alone(Mood::Full, "full"),
        Some("pending") => (Mood::Full, "passed over".to_owned(), ": pending_max".to_owned()),
        Some("out") => (Mood::Out, format!("out {}", duration(seconds)), " by operator".to_owned()),
        Some("failed") if seconds == 0 => {
            (Mood::Failed, "failed, to be tried".to_owned(), format!(": {reason}"))
        }
        Some("failed") => {
            (Mood::Failed, format!("failed {}", duration(seconds)), format!(": {reason}"))
        }
        Some("vacant") => alone(Mood::Vacant, "-"),
        // The pen knows more states than this program.
        Some(other) => alone(Mood::Vacant, &shown(other)),
        None if seconds > 0 => alone(Mood::Out, &format!("out {}", duration(seconds))),
        None => alone(Mood::Good, "up"),
    }
}

/// The rows as lines. If all names are addresses, one column is enough for both.
fn lines(rows: &[TableRow], paint: Paint, room: Width) -> String {
    let same = rows.iter().all(|row| row.cells[SERVER] == row.cells[ADDRESS]);
    let widths: [usize; COLUMNS] = std::array::from_fn(|column| {
        let cells = rows.iter().map(|row| row.cells[column].chars().count());
        cells.chain([TITLES[column].len()]).max().unwrap_or(0)
    });
    let layout = |layout: &[usize]| -> Vec<usize> {
        layout.iter().copied().filter(|column| !(same && *column == ADDRESS)).collect()
    };
    let taken = |columns: &[usize]| -> usize {
        let gaps = GAP.len() * columns.len().saturating_sub(1);
        columns.iter().map(|column| widths[*column]).sum::<usize>() + gaps
    };
    let fitting =
        LAYOUTS.iter().map(|columns| layout(columns)).find(|columns| room.holds(taken(columns)));
    let columns = fitting.unwrap_or_else(|| layout(LAYOUTS[LAYOUTS.len() - 1]));
    // If even that is too wide, the names are cut.
    let others = taken(&columns) - widths[SERVER];
    let widest_name = room
        .left(others)
        .map_or(widths[SERVER], |left| left.clamp(TITLES[SERVER].len(), widths[SERVER]));
    let cell = |column: usize, text: &str| {
        let width = if column == SERVER { widest_name } else { widths[column] };
        let text = cut(text, width);
        let gap = " ".repeat(width.saturating_sub(text.chars().count()));
        if FIGURES.contains(&column) { gap + &text } else { text + &gap }
    };
    let line = |of: &dyn Fn(usize) -> String, paint: &dyn Fn(usize, &str) -> String| {
        let mut text = String::new();
        let mut used = 0;
        for column in &columns {
            let gap = if used == 0 { "" } else { GAP };
            let cell = of(*column);
            let cell = room.left(used + gap.len()).map_or(cell.clone(), |left| cut(&cell, left));
            if cell.is_empty() && used > 0 {
                break;
            }
            used += gap.len() + cell.chars().count();
            text.extend([gap, &paint(*column, &cell)]);
        }
        text.trim_end().to_owned() + "\n"
    };
    let mut text = line(&|column| cell(column, TITLES[column]), &|_, text| text.to_owned());
    for row in rows {
        let paint = |column: usize, text: &str| match column {
            STATE | BRIEF => row.mood.paint(text, paint),
            _ => text.to_owned(),
        };
        text.push_str(&line(&|column| cell(column, &row.cells[column]), &paint));
    }
    text
}

impl Mood {
    /// The text in the colour of the mood (ECMA-48, SGR). The text says everything; the colour only
    /// helps to see it faster.
    fn paint(self, text: &str, paint: Paint) -> String {
        let colour = match (paint, self) {
            (Paint::Plain, _) | (_, Mood::Vacant) => return text.to_owned(),
            (Paint::Colours, Mood::Good) => 32,
            (Paint::Colours, Mood::Full | Mood::Out) => 33,
            (Paint::Colours, Mood::Failed) => 31,
        };
        // The spaces at the end of a line are removed later, so they must come after the colour.
        let (word, gap) = text.split_at(text.trim_end().len());
        format!("\x1b[{colour}m{word}\x1b[0m{gap}")
    }
}

/// The summary line.
fn summary(overview: &Value, servers: &[Value], total: u64, room: Width) -> String {
    let used = overview["connections"].as_u64().unwrap_or(total);
    let mut parts = vec![match overview["connections_max"].as_u64() {
        Some(most) => format!("{used} of {most} connections"),
        None => format!("{used} connections"),
    }];
    // The emergency and the abuse server carry connections too.
    let sum = |name: &str| {
        let all = servers.iter().chain([&overview["emergency"], &overview["abuse"]]);
        all.map(|server| figure(&server[name])).fold(0, u64::saturating_add)
    };
    parts.push(format!("{} sent, {} received", bytes(sum("sent")), bytes(sum("received"))));
    let count = |states: &[&str]| {
        servers
            .iter()
            .filter(|server| server["state"].as_str().is_some_and(|state| states.contains(&state)))
            .count()
    };
    // A server is up if it is neither failed nor taken out; those without room are also counted
    // beside it.
    let set = servers.iter().filter(|server| server["state"].as_str() != Some("vacant")).count();
    let mut up = format!("{} of {set} servers up", count(&["up", "full", "pending"]));
    for (state, what) in [("full", "full"), ("pending", "passed over")] {
        match count(&[state]) {
            0 => {}
            some => up.push_str(&format!(", {some} {what}")),
        }
    }
    parts.push(up);
    if let Some(seconds) = overview["uptime"].as_u64() {
        parts.push(format!("running for {}", duration(seconds)));
    }
    if let Some(version) = overview["version"].as_str() {
        parts.push(format!("pen {}", shown(version)));
    }
    let full = overview["connections_max"].as_u64().is_some_and(|most| used >= most);
    let last = parts.len() - 1;
    let parts =
        parts.into_iter().enumerate().map(|(at, part)| if at == last { part } else { part + ";" });
    let full = if full { fold(FULL.split(' ').map(str::to_owned), room) } else { String::new() };
    fold(parts, room) + &full
}

/// The note while all connections are in use.
const FULL: &str = "All connections are in use: further clients wait for one to end (-x).";

fn number(value: &Value) -> String {
    value.as_u64().map_or("-".to_owned(), |number| number.to_string())
}

fn figure(value: &Value) -> u64 {
    value.as_u64().unwrap_or(0)
}

/// Address and port, as an operator writes them.
fn address(server: &Value) -> String {
    match (server["address"].as_str().map(shown), figure(&server["port"])) {
        (None, _) => "-".to_owned(),
        (Some(path), _) if path.starts_with('/') => path,
        (Some(ip), port) if ip.contains(':') => format!("[{}]:{port}", ip.trim_matches(['[', ']'])),
        (Some(ip), port) => format!("{ip}:{port}"),
    }
}

/// Text without characters that move the cursor or end a line.
fn shown(text: &str) -> String {
    text.chars().map(|letter| if letter.is_control() { '?' } else { letter }).collect()
}

/// The duration in the largest unit of which there are at least two, rounded to the nearest: a day
/// that has just begun is 24 hours, not 23.
fn duration(seconds: u64) -> String {
    let nearest = |unit: u64| seconds.saturating_add(unit / 2) / unit;
    match seconds {
        0..120 => format!("{seconds} s"),
        120..7200 => format!("{} min", nearest(60)),
        7200..172_800 => format!("{} h", nearest(3600)),
        _ => format!("{} d", nearest(86_400)),
    }
}

/// Bytes in units of 1000 (IEC 80000-13), with at least three digits from 1000 on.
fn bytes(count: u64) -> String {
    const UNITS: [&str; 6] = ["kB", "MB", "GB", "TB", "PB", "EB"];
    if count < 1000 {
        return format!("{count} B");
    }
    let (mut value, mut unit) = (count as f64 / 1000.0, 0);
    while value >= 999.5 && unit + 1 < UNITS.len() {
        (value, unit) = (value / 1000.0, unit + 1);
    }
    let digits = if value < 9.995 {
        2
    } else if value < 99.95 {
        1
    } else {
        0
    };
    format!("{value:.digits$} {}", UNITS[unit])
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn rendered(overview: Value, paint: Paint) -> String {
        render(overview.to_string().as_bytes(), paint, Width::Any).unwrap()
    }

    fn within(columns: usize, paint: Paint) -> String {
        render(overview().to_string().as_bytes(), paint, Width::Columns(columns)).unwrap()
    }

    fn overview() -> Value {
        let server = |number: u64, state: &str, blacklisted: u64, failure: Value| {
            json!({
                "number": number, "name": format!("www{number}"), "address": format!("10.0.0.{number}"), "port": 80,
                "state": state, "blacklisted": blacklisted, "last_failure": failure, "connections": number * 10,
                "max": 100, "hard": 120, "sent": 1_234_567, "received": 999, "weight": 1,
            })
        };
        let refused = json!({ "unix_time": 1000, "reason": "connection refused" });
        json!({
            "version": "0.1.0", "unix_time": 1300, "uptime": 90_000, "connections": 61, "connections_max": 256,
            "servers": [
                server(0, "up", 0, Value::Null),
                server(1, "failed", 12, refused.clone()),
                server(2, "out", 86_400, refused.clone()),
                server(3, "full", 0, Value::Null),
                json!({ "number": 4, "address": null, "port": 0, "state": "vacant", "connections": 0 }),
            ],
            "emergency": { "number": null, "name": null, "address": "/run/sorry", "port": 0, "state": "up", "connections": 1, "sent": 5_000, "received": 1_000 },
            "abuse": null,
        })
    }

    #[test]
    fn every_server_has_a_line_and_the_totals_are_below() {
        let expected = "
           server      address      state                           conn  share     sent  received  last failure
0          www0:80     10.0.0.0:80  up                      0 of 100/120     0%  1.23 MB     999 \
B  -
1          www1:80     10.0.0.1:80  failed 12 s: connection refused  10 of 100/120    16%  1.23 \
MB     999 B  5 min ago: connection refused
";
        let table = rendered(overview(), Paint::Plain);
        let cells = |line: &str| {
            line.split("  ")
                .map(str::trim)
                .filter(|cell| !cell.is_empty())
                .map(str::to_owned)
                .collect::<Vec<_>>()
        };
        let lines: Vec<Vec<String>> = table.lines().map(cells).collect();
        let wanted: Vec<Vec<String>> =
            expected.trim_start_matches('\n').lines().map(cells).collect();
        assert_eq!(lines[..3], wanted[..], "{table}");
        let state = |row: usize| lines[row][3].as_str();
        assert_eq!([3, 4, 6].map(state), ["out 24 h by operator", "full", "up"]);
        assert_eq!(lines[5][0..2], ["4", "-"]);
        assert_eq!(lines[6][0..3], ["emergency", "/run/sorry", "/run/sorry"]);
        let summary = "61 of 256 connections; 4.94 MB sent, 5.00 kB received; 2 of 4 servers up, 1 \
            full; running for 25 h; pen 0.1.0";
        assert_eq!(table.lines().last(), Some(summary));
        assert!(table.lines().all(|line| line == line.trim_end()));
        let full = rendered(
            json!({ "servers": [], "connections": 9, "connections_max": 9 }),
            Paint::Plain,
        );
        assert!(full.ends_with("further clients wait for one to end (-x).\n"), "{full}");
    }

    #[test]
    fn no_line_is_longer_than_the_terminal_is_wide() {
        for columns in 1..=220 {
            let table = within(columns, Paint::Plain);
            let longest = table.lines().map(|line| line.chars().count()).max().unwrap_or(0);
            assert!(longest <= columns, "{columns} columns, and one line has {longest}:\n{table}");
        }
        assert_eq!(
            within(200, Paint::Plain),
            rendered(overview(), Paint::Plain),
            "a wide one shows all"
        );
    }

    #[test]
    fn a_narrow_terminal_gets_what_matters_most() {
        let row = |columns: usize| within(columns, Paint::Plain).lines().nth(2).unwrap().to_owned();
        let cells =
            |line: &str| line.split("  ").map(str::trim).filter(|cell| !cell.is_empty()).count();
        assert_eq!(
            row(100),
            "1          www1:80     failed 12 s  10 of 100/120    16%  5 min ago: connection \
             refused"
        );
        assert_eq!(
            row(80),
            "1          www1:80     failed 12 s  10 of 100/120  5 min ago: connection refused"
        );
        assert_eq!(row(60), "1          www1:80     failed 12 s  10 of 100/120");
        assert_eq!(cells(&row(200)), 9);
        assert!(row(40).contains("~"), "{}", row(40));
        let narrow = within(80, Paint::Plain);
        let first = "61 of 256 connections; 4.94 MB sent, 5.00 kB received;\n";
        let second = "2 of 4 servers up, 1 full; running for 25 h; pen 0.1.0\n";
        assert!(narrow.ends_with(&[first, second].concat()), "{narrow}");
        let full = json!({ "servers": [], "connections": 9, "connections_max": 9 }).to_string();
        let full = render(full.as_bytes(), Paint::Plain, Width::Columns(50)).unwrap();
        assert!(
            full.ends_with(
                "All connections are in use: further clients wait\nfor one to end (-x).\n"
            ),
            "{full}"
        );
    }

    #[test]
    fn colours_change_nothing_but_the_colour() {
        for columns in [30, 80, 100, 200] {
            let (plain, painted) = (within(columns, Paint::Plain), within(columns, Paint::Colours));
            assert!(!plain.contains('\x1b') && painted.contains("\x1b[31mfail"), "{painted}");
            let mut stripped = painted;
            for code in ["\x1b[31m", "\x1b[32m", "\x1b[33m", "\x1b[0m"] {
                stripped = stripped.replace(code, "");
            }
            assert_eq!(stripped, plain);
        }
    }

    #[test]
    fn what_is_not_said_is_left_out_and_what_is_no_overview_is_none() {
        let old = json!({ "servers": [{ "number": 0, "address": "::1", "port": 80, "connections": 3, "blacklisted": 7 }] });
        let table = rendered(old, Paint::Plain);
        assert!(
            table.contains("[::1]:80")
                && table.contains("out 7 s")
                && table.contains("3 connections"),
            "{table}"
        );
        assert!(!table.contains("address"), "the names are the addresses: {table}");
        for text in ["", "[]", "{}", "do_cmd: ignoring", "{\"servers\":3}", "null"] {
            assert_eq!(render(text.as_bytes(), Paint::Plain, Width::Any), None, "{text}");
        }
        let sly = json!({ "servers": [{ "number": 0, "name": "a\u{1b}[2J\nb", "address": "x", "state": "up\r" }] });
        assert!(!rendered(sly, Paint::Plain).contains(['\x1b', '\r']));
    }

    #[test]
    fn figures_are_short() {
        let rows = [
            (0, "0 B"),
            (999, "999 B"),
            (1000, "1.00 kB"),
            (12_345, "12.3 kB"),
            (999_499, "999 kB"),
            (999_500, "1.00 MB"),
        ];
        rows.iter().for_each(|(count, shown)| assert_eq!(bytes(*count), *shown));
        assert_eq!(bytes(u64::MAX), "18.4 EB");
        let rows = [
            (0, "0 s"),
            (119, "119 s"),
            (120, "2 min"),
            (7200, "2 h"),
            (86_399, "24 h"),
            (172_800, "2 d"),
        ];
        rows.iter().for_each(|(seconds, shown)| assert_eq!(duration(*seconds), *shown));
    }
}
