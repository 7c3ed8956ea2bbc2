//! The HTML form of a report. Titles, tables, columns and their order are those of the original
//! pen, because scripts read this page. Each cell is on a line of its own. People also get a
//! summary before the tables, units in the captions, and a style.

#![forbid(unsafe_code)]

use std::fmt::{self, Display, Write as _};
use std::io::{self, Write};

use pen_ipc::text::date_time;
use pen_status::words::duration;
use pen_status::{ServerState, ServerStatus};

use crate::clock;
use crate::report::Program;

use crate::report::snapshot::Snapshot;

/// Writes the page.
pub(super) fn render(snapshot: Snapshot<'_>, to: &mut dyn Write) -> io::Result<()> {
    let (time, servers, current) = (date_time(snapshot.time), snapshot.known(), snapshot.current);
    to.write_all(b"<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<title>Pen status page</title>\n")?;
    to.write_all(b"<meta charset=\"utf-8\">\n")?;
    to.write_all(b"<meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n")?;
    write!(to, "<style>\n{STYLE}</style>\n</head>\n")?;
    to.write_all(b"<body bgcolor=\"#ffffff\"><h1>Pen status page</h1>\n")?;
    writeln!(to, "Time {time}, {servers} servers, {current} current<p>")?;
    summary(&snapshot, to)?;
    table(to, SERVER_UNITS, &SERVER_COLUMNS)?;
    for server in &snapshot.servers {
        server_row(server, to)?;
    }
    let most = snapshot.clients_max;
    write!(to, "</table>\n<h2>Active clients</h2>Max number of clients: {most}<p>")?;
    table(to, CLIENT_UNITS, &CLIENT_COLUMNS)?;
    let (connections, used, last) =
        (snapshot.connections, snapshot.connections_used, snapshot.connections_last());
    for client in snapshot.clients {
        let address = Escaped(&client.address);
        row(
            to,
            &[
                &client.slot,
                &address,
                &client.age,
                &client.server,
                &client.connects,
                &client.sent,
                &client.received,
            ],
        )?;
    }
    let most = snapshot.connections_max;
    write!(
        to,
        "</table>\n<h2>Active connections</h2>Number of connections: {most} max, {used} used, \
         {last} last<p>"
    )?;
    table(to, CONNECTION_UNITS, &CONNECTION_COLUMNS)?;
    for connection in connections {
        row(
            to,
            &[
                &connection.number,
                &connection.downfd,
                &connection.upfd,
                &connection.pending_down,
                &connection.pending_up,
                &connection.client,
                &connection.server,
            ],
        )?;
    }
    to.write_all(b"</table>\n")?;
    for worker in snapshot.missing {
        writeln!(to, "<p>{}</p>", Snapshot::remark(*worker))?;
    }
    if let Some(refused) = Snapshot::refusals(&snapshot.counters.requests_refused) {
        writeln!(to, "<p>{refused}</p>")?;
    }
    if let Some(limited) = Snapshot::limited(&snapshot.counters) {
        writeln!(to, "<p>{limited}</p>")?;
    }
    writeln!(to, "<p>Sandbox of the workers: {}</p>", snapshot.sandbox)?;
    to.write_all(b"</body>\n</html>\n")
}

/// The summary. It has lists and no table, because scripts count the tables.
fn summary(snapshot: &Snapshot<'_>, to: &mut dyn Write) -> io::Result<()> {
    let servers = &snapshot.servers;
    // The emergency and the abuse server carry connections too.
    let all = || servers.iter().chain(&snapshot.emergency).chain(&snapshot.abuse);
    let total = |bytes: fn(&ServerStatus) -> u64| all().map(bytes).fold(0, u64::saturating_add);
    let up = servers.iter().filter(|server| server.state.is_up()).count();
    let without_room = [
        (ServerState::Full, "full"),
        (ServerState::Pending, "passed over"),
        (ServerState::Drain, "draining"),
    ]
    .map(|(state, what)| {
        let count = servers.iter().filter(|server| server.state == state).count();
        if count == 0 { String::new() } else { format!(", {count} {what}") }
    });
    to.write_all(b"<ul class=\"facts\">\n")?;
    let Program { uptime, listen, workers, version, checks: _, lookups: _ } = snapshot.program;
    writeln!(to, "<li><b>{}</b> is where it listens</li>", Escaped(listen))?;
    writeln!(
        to,
        "<li><b>{up} of {}</b> {} up{}</li>",
        snapshot.known(),
        if snapshot.known() == 1 { "server" } else { "servers" },
        without_room.concat()
    )?;
    let (used, most) = (snapshot.connections_used, snapshot.connections_max);
    writeln!(to, "<li><b>{used} of {most}</b> connections in use</li>")?;
    writeln!(to, "<li><b>{}</b> sent to servers</li>", Bytes(total(|server| server.sent)))?;
    writeln!(to, "<li><b>{}</b> received from them</li>", Bytes(total(|server| server.received)))?;
    writeln!(
        to,
        "<li><b>{}</b> since its start, {workers} {}</li>",
        duration(uptime.as_secs()),
        if workers == 1 { "worker" } else { "workers" }
    )?;
    writeln!(to, "<li><b>UTC{}</b> time zone of this page</li>", clock::zone(snapshot.time))?;
    writeln!(to, "<li><b>{version}</b> version of pen</li>")?;
    for old in snapshot.old_workers {
        writeln!(to, "<li>{}</li>", Escaped(&old.to_string()))?;
    }
    to.write_all(b"</ul>\n")?;
    if let Some(remark) = snapshot.full_remark() {
        writeln!(to, "<p class=\"alarm\">{remark}</p>")?;
    }
    to.write_all(b"<ul class=\"servers\">\n")?;
    let unix = snapshot.time.unix_timestamp();
    let regular = servers.iter().filter(|server| server.state != ServerState::Vacant);
    let regular = regular.map(|server| (server.number().to_string(), server));
    let backup = |what: &str, server| Option::map(server, |server| (what.to_owned(), server));
    let (emergency, abuse) = (snapshot.emergency.as_ref(), snapshot.abuse.as_ref());
    for (which, server) in
        regular.chain(backup("emergency", emergency)).chain(backup("abuse", abuse))
    {
        let class = match server.state {
            ServerState::Vacant | ServerState::Up => "up",
            ServerState::Full | ServerState::Pending | ServerState::Drain => "full",
            ServerState::Out | ServerState::Maint => "taken",
            ServerState::Failed | ServerState::Down => "out",
        };
        let (place, state) = (server.name_and_address(), server.in_words(unix));
        let (place, state) = (Escaped(&place), Escaped(&state));
        write!(to, "<li class=\"{class}\"><b>{which}</b> <span>{place}</span> <em>{state}</em> ")?;
        let (sent, received) = (Bytes(server.sent), Bytes(server.received));
        let connections = match (server.connections, server.max) {
            (1, 0) => "1 connection".to_owned(),
            (open, 0) => format!("{open} connections"),
            (open, most) => format!("{open} of {most} connections"),
        };
        writeln!(to, "<small>{connections}, {sent} sent, {received} received</small></li>")?;
    }
    to.write_all(b"</ul>\n")
}

fn server_row(server: &ServerStatus, to: &mut dyn Write) -> io::Result<()> {
    let address = Escaped(server.address.as_deref().unwrap_or("-"));
    row(
        to,
        &[
            &server.number(),
            &address,
            &server.failed_at,
            &server.port,
            &server.connections,
            &server.max,
            &server.hard,
            &server.sent,
            &server.received,
            &server.weight,
            &server.prio,
        ],
    )
}

/// Begins a table.
fn table(to: &mut dyn Write, caption: &str, columns: &[&str]) -> io::Result<()> {
    write!(to, "<table bgcolor=\"#c0c0c0\">\n<caption>{caption}</caption>\n")?;
    head(to, columns)
}

fn head(to: &mut dyn Write, columns: &[&str]) -> io::Result<()> {
    to.write_all(b"<tr>\n")?;
    for column in columns {
        writeln!(to, "<td bgcolor=\"#80f080\">{column}</td>")?;
    }
    to.write_all(b"</tr>\n")
}

fn row(to: &mut dyn Write, cells: &[&dyn Display]) -> io::Result<()> {
    to.write_all(b"<tr>\n")?;
    for cell in cells {
        writeln!(to, "<td>{cell}</td>")?;
    }
    to.write_all(b"</tr>\n")
}

/// Text with HTML's special characters escaped.
struct Escaped<'a>(&'a str);

impl Display for Escaped<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for letter in self.0.chars() {
            match letter {
                '&' => f.write_str("&amp;")?,
                '<' => f.write_str("&lt;")?,
                '>' => f.write_str("&gt;")?,
                '"' => f.write_str("&quot;")?,
                '\'' => f.write_str("&#39;")?,
                letter => f.write_char(letter)?,
            }
        }
        Ok(())
    }
}

/// A number of bytes for people: `28 B`, `1.2 MiB`.
struct Bytes(u64);

impl Display for Bytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let units = ["KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];
        let Some(power) =
            self.0.checked_ilog2().map(|log| log as usize / 10).filter(|power| *power > 0)
        else {
            return write!(f, "{} B", self.0);
        };
        let tenths = (u128::from(self.0) * 10) >> (10 * power);
        write!(f, "{}.{} {}", tenths / 10, tenths % 10, units[power - 1])
    }
}

const SERVER_UNITS: &str = "Servers. Status: 0, or the Unix time since which the server is left \
    out. Max: connections, 0 = no limit. \
                            Sent, received: bytes to and from the server. \
                            Current, at the top: the number of the server that a connection was \
                            given last.";

const CLIENT_UNITS: &str = "Clients. Age: seconds since the last use. Last server: -1 the \
    emergency server, -2 the abuse server, -3 none. Sent, \
                            received: bytes to and from the client.";

const CONNECTION_UNITS: &str =
    "Connections. Down: the client's side, up: the server's. Pending data: bytes.";

/// Light and dark, and readable on a phone. No information is given by colour alone.
const STYLE: &str = include_str!("status.css");

const SERVER_COLUMNS: [&str; 11] = [
    "server",
    "address",
    "status",
    "port",
    "connections",
    "max soft",
    "max hard",
    "sent",
    "received",
    "weight",
    "prio",
];

const CLIENT_COLUMNS: [&str; 7] =
    ["client", "address", "age(secs)", "last server", "connects", "sent", "received"];

const CONNECTION_COLUMNS: [&str; 7] =
    ["connection", "downfd", "upfd", "pending data down", "pending data up", "client", "server"];

#[cfg(test)]
mod tests {
    use pen_config::ids::WorkerId;

    use super::*;
    use crate::report::snapshot::tests::{connection, snapshot};

    fn rendered(snapshot: Snapshot<'_>) -> String {
        let mut page = Vec::new();
        render(snapshot, &mut page).unwrap();
        String::from_utf8(page).unwrap()
    }

    #[test]
    fn titles_tables_columns_and_cells_are_the_originals() {
        let connections = [connection(1)];
        let mut small = snapshot(&connections, 1, &[]);
        small.servers.truncate(1);
        let page = rendered(small);
        assert!(page.starts_with(
            "<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<title>Pen status page</title>\n"
        ));
        for text in [
            "<h1>Pen status page</h1>\nTime 2026-11-24 04:10:21, 1 servers, 1 current<p>\n",
            "</table>\n<h2>Active clients</h2>Max number of clients: 2048<p><table \
             bgcolor=\"#c0c0c0\">\n",
            "</table>\n<h2>Active connections</h2>Number of connections: 500 max, 1 used, 1 \
             last<p><table",
        ] {
            assert!(page.contains(text), "{text}");
        }
        // The format of Debian's pen 0.34.1, with other numbers.
        let cells = |cells: &[&str]| -> String {
            cells.iter().map(|cell| format!("<td>{cell}</td>\n")).collect()
        };
        let heads = |cells: &[&str]| -> String {
            cells.iter().map(|cell| format!("<td bgcolor=\"#80f080\">{cell}</td>\n")).collect()
        };
        let tables = [
            (
                &SERVER_COLUMNS[..],
                &["0", "127.0.0.1", "0", "21000", "0", "20", "30", "28", "41", "1", "2"][..],
            ),
            (&CLIENT_COLUMNS, &["0", "127.0.0.1", "0", "1", "2", "41", "28"]),
            (&CONNECTION_COLUMNS, &["1", "7", "8", "3", "4", "0", "1"]),
        ];
        let found: Vec<&str> = page
            .split("<table")
            .skip(1)
            .map(|table| table.split("</table>").next().unwrap())
            .collect();
        assert_eq!(found.len(), tables.len());
        for (table, (columns, row)) in found.into_iter().zip(tables) {
            let rows = table.split_once("</caption>\n").unwrap().1;
            assert_eq!(rows, format!("<tr>\n{}</tr>\n<tr>\n{}</tr>\n", heads(columns), cells(row)));
        }
    }

    #[test]
    fn the_summary_says_what_a_reader_wants_to_know_first() {
        let mut farm = snapshot(&[], 0, &[]);
        farm.servers[1].state = ServerState::Out;
        (farm.servers[1].failed_at, farm.servers[1].blacklisted) = (1_795_493_409, 18);
        farm.servers[0].name = Some("www<1>".into());
        farm.connections_used = 500;
        let page = rendered(farm);
        for text in [
            "<li><b>www:80</b> is where it listens</li>",
            "<li><b>1 of 2</b> servers up</li>",
            "<li><b>2 h</b> since its start, 2 workers</li>",
            "<li><b>UTC+00:00</b> time zone of this page</li>",
            "<li><b>500 of 500</b> connections in use</li>",
            "<li><b>56 B</b> sent to servers</li>",
            "<p class=\"alarm\">500 of 500 connections are in use: further clients wait (-x)</p>",
            "<li class=\"up\"><b>0</b> <span>www&lt;1&gt; at 127.0.0.1 port 21000</span> \
             <em>up</em> <small>0 of 20 connections, 28 B sent",
            "<li class=\"taken\"><b>1</b> <span>/run/&lt;&amp;&quot;&gt;.sock</span> <em>taken out \
             by an operator 12 s ago, for 18 s more</em>",
        ] {
            assert!(page.contains(text), "{text} in {page}");
        }
        assert!(
            page.contains(&format!("<li><b>{}</b> version of pen</li>", env!("CARGO_PKG_VERSION")))
        );
    }

    #[test]
    fn a_gap_is_no_server_and_backups_are_listed_and_what_has_no_room_is_up() {
        let mut farm = snapshot(&[], 0, &[]);
        let mut row = |state, address: &str, name: Option<&str>| {
            let mut row = farm.servers.remove(0);
            (row.state, row.address, row.name) =
                (state, Some(address.into()), name.map(str::to_owned));
            row
        };
        let emergency = row(ServerState::Up, "fe80::1%lo", Some("[fe80::1%lo]"));
        let full = row(ServerState::Full, "10.0.0.1", None);
        farm.servers = snapshot(&[], 0, &[]).servers;
        (farm.servers[0].state, farm.servers[0].address) = (ServerState::Vacant, None);
        farm.servers[1] = full;
        farm.emergency = Some(emergency);
        let page = rendered(farm);
        for text in [
            ", 1 servers, 1 current<p>",
            "<li><b>1 of 1</b> server up, 1 full</li>",
            "<li class=\"up\"><b>emergency</b> <span>fe80::1%lo port 21000</span>",
        ] {
            assert!(page.contains(text), "{text} in {page}");
        }
    }

    #[test]
    fn bytes_have_a_unit() {
        let shown = [0, 1023, 1024, 1536, 1 << 20, u64::MAX].map(|bytes| Bytes(bytes).to_string());
        assert_eq!(shown, ["0 B", "1023 B", "1.0 KiB", "1.5 KiB", "1.0 MiB", "15.9 EiB"]);
    }

    #[test]
    fn addresses_are_escaped_and_missing_workers_named() {
        let page = rendered(snapshot(&[], 0, &[WorkerId(2)]));
        assert!(page.contains("<td>/run/&lt;&amp;&quot;&gt;.sock</td>"));
        assert!(page.contains("Worker 2 did not answer"));
    }

    #[test]
    fn connections_beyond_a_limit_are_told_of_if_there_are_any() {
        let line = "beyond per_client_max";
        assert!(!rendered(snapshot(&[], 0, &[])).contains(line));
        let mut limited = snapshot(&[], 0, &[]);
        (limited.counters.beyond_max, limited.counters.tarpitted) = (7, 2);
        assert!(rendered(limited).contains(
            "<p>7 connections beyond per_client_max, 0 beyond per_client_rate; 2 of them kept \
             open and silent</p>"
        ));
        let mut unchecked = snapshot(&[], 0, &[]);
        unchecked.counters.limits_unchecked = 3;
        assert!(rendered(unchecked).contains("; 3 let in unchecked</p>"));
    }
}
