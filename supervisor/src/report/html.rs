//! The HTML form of a report. Titles, tables, columns and their order are the original's: scripts read this page.

#![forbid(unsafe_code)]

use std::fmt::{self, Display, Write as _};
use std::io::{self, Write};

use crate::clock;
use crate::report::snapshot::Snapshot;

/// Writes the page.
pub(super) fn render(snapshot: Snapshot<'_>, to: &mut dyn Write) -> io::Result<()> {
    let (time, servers, current) = (clock::full(snapshot.time), snapshot.servers.len(), snapshot.current);
    to.write_all(b"<html>\n<head>\n<title>Pen status page</title>\n</head>\n")?;
    to.write_all(b"<body bgcolor=\"#ffffff\"><h1>Pen status page</h1>\n")?;
    write!(to, "Time {time}, {servers} servers, {current} current<p>\n<table bgcolor=\"#c0c0c0\">\n")?;
    head(to, &SERVER_COLUMNS)?;
    for server in &snapshot.servers {
        let address = Escaped(server.address.as_deref().unwrap_or("-"));
        row(
            to,
            &[
                &server.number,
                &address,
                &server.status,
                &server.port,
                &server.connections,
                &server.soft,
                &server.hard,
                &server.sent,
                &server.received,
                &server.weight,
                &server.prio,
            ],
        )?;
    }
    let most = snapshot.clients_max;
    write!(to, "</table>\n<h2>Active clients</h2>Max number of clients: {most}<p><table bgcolor=\"#c0c0c0\">\n")?;
    head(to, &CLIENT_COLUMNS)?;
    let (connections, used, last) = (snapshot.connections, snapshot.connections_used, snapshot.connections_last());
    for client in snapshot.clients {
        let address = Escaped(&client.address);
        row(
            to,
            &[&client.slot, &address, &client.age, &client.server, &client.connects, &client.sent, &client.received],
        )?;
    }
    let most = snapshot.connections_max;
    write!(to, "</table>\n<h2>Active connections</h2>Number of connections: {most} max, {used} used, {last} last<p>")?;
    to.write_all(b"<table bgcolor=\"#c0c0c0\">\n")?;
    head(to, &CONNECTION_COLUMNS)?;
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
    if let Some(refused) = Snapshot::refusals(&snapshot.refused) {
        writeln!(to, "<p>{refused}</p>")?;
    }
    writeln!(to, "<p>Sandbox of the workers: {}</p>", snapshot.sandbox)?;
    to.write_all(b"</body>\n</html>\n")
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

/// Text that means itself in HTML.
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

const CLIENT_COLUMNS: [&str; 7] = ["client", "address", "age(secs)", "last server", "connects", "sent", "received"];

const CONNECTION_COLUMNS: [&str; 7] =
    ["connection", "downfd", "upfd", "pending data down", "pending data up", "client", "server"];

#[cfg(test)]
mod tests {
    use pen_contract::ids::WorkerId;

    use super::*;
    use crate::report::snapshot::tests::{connection, snapshot};

    fn rendered(snapshot: Snapshot<'_>) -> String {
        let mut page = Vec::new();
        render(snapshot, &mut page).unwrap();
        String::from_utf8(page).unwrap()
    }

    #[test]
    fn the_page_is_the_originals() {
        let connections = [connection(1)];
        let mut small = snapshot(&connections, 1, &[]);
        small.servers.truncate(1);
        // As Debian's pen 0.34.1 writes it, with other numbers.
        let cells = |cells: &[&str]| {
            let cells: String = cells.iter().map(|cell| format!("<td>{cell}</td>\n")).collect();
            format!("<tr>\n{cells}</tr>\n")
        };
        let heads = |cells: &[&str]| {
            let cells: String = cells.iter().map(|cell| format!("<td bgcolor=\"#80f080\">{cell}</td>\n")).collect();
            format!("<tr>\n{cells}</tr>\n")
        };
        let expected = [
            "<html>\n<head>\n<title>Pen status page</title>\n</head>\n",
            "<body bgcolor=\"#ffffff\"><h1>Pen status page</h1>\n",
            "Time 2026-11-24 04:10:21, 1 servers, 1 current<p>\n<table bgcolor=\"#c0c0c0\">\n",
            &heads(&[
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
            ]),
            &cells(&["0", "127.0.0.1", "0", "21000", "0", "20", "30", "28", "41", "1", "2"]),
            "</table>\n<h2>Active clients</h2>Max number of clients: 2048<p><table bgcolor=\"#c0c0c0\">\n",
            &heads(&["client", "address", "age(secs)", "last server", "connects", "sent", "received"]),
            &cells(&["0", "127.0.0.1", "0", "1", "2", "41", "28"]),
            "</table>\n<h2>Active connections</h2>Number of connections: 500 max, 1 used, 1 last<p>",
            "<table bgcolor=\"#c0c0c0\">\n",
            &heads(&["connection", "downfd", "upfd", "pending data down", "pending data up", "client", "server"]),
            &cells(&["1", "7", "8", "3", "4", "0", "1"]),
            "</table>\n<p>Sandbox of the workers: system calls filtered, Landlock 6, root directory empty</p>\n",
            "</body>\n</html>\n",
        ];
        assert_eq!(rendered(small), expected.concat());
    }

    #[test]
    fn addresses_are_escaped_and_missing_workers_named() {
        let page = rendered(snapshot(&[], 0, &[WorkerId(2)]));
        assert!(page.contains("<td>/run/&lt;&amp;&quot;&gt;.sock</td>"));
        assert!(page.contains("Worker 2 did not answer"));
    }
}
