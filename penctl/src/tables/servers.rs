//! The servers as a table, made from the reply to `overview`. A value that pen does not report is
//! left empty.

use super::grid::Row;
use super::{Grid, Paint, Width, fold};
use crate::overview::{Overview, Server};
use crate::text::{bytes, duration, percent};

/// The table, with its line ends. `None`: the text is not an overview.
pub fn render(overview: &[u8], paint: Paint, width: Width) -> Option<String> {
    let overview = Overview::read(overview)?;
    let connections = overview.servers.iter().map(|server| server.connections);
    let total = connections.fold(0, u64::saturating_add);
    let rows: Vec<Row<COLUMNS>> =
        overview.servers.iter().map(|server| row(server, total, overview.unix_time)).collect();
    // If all names are addresses, one column is enough for both.
    let same = rows.iter().all(|row| row.cells[SERVER] == row.cells[ADDRESS]);
    let unchecked = overview.servers.iter().all(|server| server.check.is_none());
    let clear = overview.servers.iter().all(|server| server.tls.is_none());
    let is_empty = |column: usize| {
        (same && column == ADDRESS) || (unchecked && column == CHECK) || (clear && column == TLS)
    };
    let layout = |layout: &&[usize]| -> Vec<usize> {
        layout.iter().copied().filter(|column| !is_empty(*column)).collect()
    };
    let grid = Grid {
        titles: TITLES,
        figures: &[CONN, OF_ALL, SENT, RECEIVED],
        layouts: LAYOUTS.iter().map(layout).collect(),
        cut: SERVER,
        painted: &[STATE, BRIEF],
    };
    Some(grid.lines(&rows, paint, width) + &summary(&overview, total, width))
}

const COLUMNS: usize = 12;

const TITLES: [&str; COLUMNS] = [
    "",
    "server",
    "address",
    "state",
    "state",
    "check",
    "tls",
    "conn",
    "of all",
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
/// What its check says; omitted if no server has one.
const CHECK: usize = 5;
/// Whether its connections use TLS; omitted if those of no server do.
const TLS: usize = 6;
const CONN: usize = 7;
/// The percentage of all open connections.
const OF_ALL: usize = 8;
const SENT: usize = 9;
const RECEIVED: usize = 10;
const FAILURE: usize = 11;

/// The choices of columns: the first that fits the terminal is used. The reason of a failure and
/// what the check says are omitted last.
const LAYOUTS: [&[usize]; 8] = [
    &[NUMBER, SERVER, ADDRESS, STATE, CHECK, TLS, CONN, OF_ALL, SENT, RECEIVED, FAILURE],
    &[NUMBER, SERVER, STATE, CHECK, TLS, CONN, OF_ALL, SENT, RECEIVED, FAILURE],
    &[NUMBER, SERVER, BRIEF, CHECK, TLS, CONN, OF_ALL, SENT, RECEIVED, FAILURE],
    &[NUMBER, SERVER, BRIEF, CHECK, TLS, CONN, OF_ALL, FAILURE],
    &[NUMBER, SERVER, BRIEF, CHECK, CONN, FAILURE],
    &[NUMBER, SERVER, STATE, CHECK, CONN],
    &[NUMBER, SERVER, BRIEF, CHECK, CONN],
    &[NUMBER, SERVER, BRIEF, CONN],
];

fn row(server: &Server, total: u64, now: u64) -> Row<COLUMNS> {
    let (brief, why) = server.state();
    let of_all = percent(server.connections, total);
    let last = match &server.failure {
        Some(failure) => {
            format!("{} ago: {}", duration(now.saturating_sub(failure.at)), failure.reason)
        }
        None => "-".to_owned(),
    };
    let cells = [
        server.slot.to_string(),
        server.name.clone(),
        server.address.clone(),
        brief.clone() + &why,
        brief,
        server.check_words().unwrap_or_else(|| "-".to_owned()),
        server.tls_words().unwrap_or("-").to_owned(),
        server.usage(),
        of_all.map_or("-".to_owned(), |of_all| format!("{of_all}%")),
        bytes(server.sent),
        bytes(server.received),
        last,
    ];
    Row { health: server.state.health(), cells }
}

/// The summary line.
fn summary(overview: &Overview, total: u64, room: Width) -> String {
    let used = overview.connections.unwrap_or(total);
    let mut parts = vec![match overview.connections_max {
        Some(most) => format!("{used} of {most} connections"),
        None => format!("{used} connections"),
    }];
    if overview.held > 0 {
        parts.push(format!("{} held", overview.held));
    }
    if overview.tarpitted > 0 {
        parts.push(format!("{} in the tarpit", overview.tarpitted));
    }
    // The emergency and the abuse server carry connections too.
    let sum = |figure: fn(&Server) -> u64| {
        overview.servers.iter().map(figure).fold(0, u64::saturating_add)
    };
    let (sent, received) = (sum(|server| server.sent), sum(|server| server.received));
    parts.push(format!("{} sent, {} received", bytes(sent), bytes(received)));
    parts.push(overview.servers_up());
    if let Some(seconds) = overview.uptime {
        parts.push(format!("running for {}", duration(seconds)));
    }
    if let Some(version) = &overview.version {
        parts.push(format!("pen {version}"));
    }
    let last = parts.len() - 1;
    let parts =
        parts.into_iter().enumerate().map(|(at, part)| if at == last { part } else { part + ";" });
    let notes = overview.notes().map(|note| fold(note.split(' ').map(str::to_owned), room));
    fold(parts, room) + &notes.collect::<String>()
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

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
                "number": number, "name": format!("www{number}"),
                "address": format!("10.0.0.{number}"), "port": 80,
                "state": state, "blacklisted": blacklisted, "last_failure": failure,
                "connections": number * 10,
                "max": 100, "hard": 120, "sent": 1_234_567, "received": 999, "weight": 1,
            })
        };
        let refused = json!({ "unix_time": 1000, "reason": "connection refused" });
        json!({
            "version": "0.1.0", "unix_time": 1300, "uptime": 90_000,
            "connections": 61, "connections_max": 256,
            "servers": [
                server(0, "up", 0, Value::Null),
                server(1, "failed", 12, refused.clone()),
                server(2, "out", 86_400, refused.clone()),
                server(3, "full", 0, Value::Null),
                json!({
                    "number": 4, "address": null, "port": 0, "state": "vacant",
                    "connections": 0,
                }),
            ],
            "emergency": {
                "number": null, "name": null, "address": "/run/sorry", "port": 0, "state": "up",
                "connections": 1, "sent": 5_000, "received": 1_000,
            },
            "abuse": null,
        })
    }

    #[test]
    fn every_server_has_a_line_and_the_totals_are_below() {
        let expected = "
           server      address      state                           conn  of all     sent  \
           received  last failure
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
            "1          www1:80     failed 12 s  10 of 100/120     16%  5 min ago: connection \
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

    fn checked() -> Value {
        let mut overview = overview();
        let check = |state: &str, reason: Value| json!({ "kind": "http", "state": state, "duration_us": 12_300, "reason": reason });
        for (number, state, mode, check) in [
            (0, "up", "ready", check("up", Value::Null)),
            (1, "down", "ready", check("down", "status 503".into())),
            (2, "drain", "drain", check("unknown", Value::Null)),
            (3, "maint", "maint", Value::Null),
        ] {
            let server = &mut overview["servers"][number];
            (server["state"], server["mode"]) = (state.into(), mode.into());
            server["check"] = check;
        }
        overview
    }

    #[test]
    fn states_and_checks_are_shown_as_long_as_there_is_room() {
        let checked = checked().to_string();
        let within = |columns: usize| {
            render(checked.as_bytes(), Paint::Plain, Width::Columns(columns)).unwrap()
        };
        let wide = within(220);
        let lines: Vec<&str> = wide.lines().collect();
        for (line, words) in [
            (1, "up up 12 ms 0 of"),
            (2, "down by check down status 503 10 of"),
            (3, "draining: no new clients unknown 20 of"),
            (4, "maintenance: no clients - 30 of"),
        ] {
            let line = lines[line].split_whitespace().collect::<Vec<_>>().join(" ");
            assert!(line.contains(words), "{words}: {line}");
        }
        assert!(lines[0].contains("  check  "), "{wide}");
        for (columns, has_check) in [(200, true), (80, true), (70, true), (40, false)] {
            let table = within(columns);
            assert_eq!(table.contains("check"), has_check, "{columns}:\n{table}");
            assert_eq!(table.contains("down status 503"), has_check, "{columns}:\n{table}");
            assert!(table.contains("draining") && table.contains("maintenance"), "{table}");
        }
        for columns in 1..=220 {
            let table = within(columns);
            assert!(table.lines().all(|line| line.chars().count() <= columns), "{table}");
        }
        assert!(!rendered(overview(), Paint::Plain).contains("check"), "there is none");
    }

    #[test]
    fn servers_with_tls_are_marked_if_there_are_some() {
        let mut secured = overview();
        secured["servers"][0]["tls"] = json!({ "verify": "on", "name": "www0" });
        secured["servers"][1]["tls"] = json!({ "verify": "off", "name": null });
        let table = rendered(secured, Paint::Plain);
        let lines: Vec<String> = table
            .lines()
            .map(|line| line.split_whitespace().collect::<Vec<_>>().join(" "))
            .collect();
        assert!(lines[0].contains(" state tls conn "), "{table}");
        for (line, words) in [(1, " up yes 0 of "), (2, "refused any 10 of "), (4, " full - ")] {
            assert!(lines[line].contains(words), "{words}: {table}");
        }
        assert!(!rendered(overview(), Paint::Plain).contains("tls"));
    }

    #[test]
    fn a_server_that_begins_slowly_tells_its_share_in_each_width() {
        let mut slow = overview();
        slow["servers"][0]["slow_start"] = 37.into();
        let slow = slow.to_string();
        for columns in [60, 80, 100, 200] {
            let table = render(slow.as_bytes(), Paint::Plain, Width::Columns(columns)).unwrap();
            let row = table.lines().nth(1).unwrap();
            assert!(row.contains("www0:80") && row.contains("slow start 37 %"), "{table}");
            assert!(table.contains("2 of 4 servers up"), "it is up: {table}");
        }
    }

    #[test]
    fn clients_that_wait_are_in_the_last_lines() {
        let mut waiting = overview();
        (waiting["held"], waiting["tarpitted"]) = (3.into(), 2.into());
        let table = rendered(waiting.clone(), Paint::Plain);
        assert!(table.contains("61 of 256 connections; 3 held; 2 in the tarpit; "), "{table}");
        waiting["paused"] = true.into();
        waiting["disregards_checks"] = true.into();
        let table = rendered(waiting, Paint::Plain);
        let notes: Vec<&str> = table.lines().rev().take(2).collect();
        assert!(notes[0].starts_with("All servers are down: checks are disregarded"), "{table}");
        assert_eq!(notes[1], "Paused: new clients wait until the command resume.");
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
        let old = json!({ "servers": [
            { "number": 0, "address": "::1", "port": 80, "connections": 3, "blacklisted": 7 },
        ] });
        let table = rendered(old, Paint::Plain);
        assert!(
            table.contains("[::1]:80")
                && table.contains("out 7 s")
                && table.contains("3 connections"),
            "{table}"
        );
        assert!(!table.contains("address"), "the names are the addresses: {table}");
        assert_eq!(render(b"do_cmd: ignoring", Paint::Plain, Width::Any), None);
    }
}
