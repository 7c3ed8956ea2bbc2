//! Parses the HTML report of `-w`.

use std::collections::BTreeMap;

/// A row of a table, by column name.
pub type Row = BTreeMap<String, String>;

/// A whole report.
#[derive(Clone, Debug)]
pub struct Report {
    /// The text as it was written.
    pub html: String,
    /// Regular servers.
    pub servers: Vec<Row>,
    /// Used client slots.
    pub clients: Vec<Row>,
    /// Open connections.
    pub connections: Vec<Row>,
}

impl Report {
    /// Reads the three tables.
    pub fn parse(html: String) -> Report {
        let mut tables = html.split("<table").skip(1).map(table);
        let mut next = || tables.next().expect("a report has three tables");
        let (servers, clients, connections) = (next(), next(), next());
        drop(tables);
        Report { servers, clients, connections, html }
    }

    /// The number in a column of a server's row.
    #[track_caller]
    pub fn server(&self, number: usize, column: &str) -> i64 {
        self.servers[number][column].parse().unwrap()
    }

    /// Open and pending connections of all servers.
    pub fn in_use(&self) -> i64 {
        (0..self.servers.len()).map(|n| self.server(n, "connections")).sum()
    }

    /// The row of the client with this address.
    pub fn client(&self, address: &str) -> Option<&Row> {
        self.clients.iter().find(|row| row["address"] == address)
    }
}

/// The rows of one table; the first names the columns.
fn table(html: &str) -> Vec<Row> {
    let html = html.split("</table>").next().unwrap();
    let mut rows = html
        .split("<tr>")
        .skip(1)
        .map(|row| row.split("<td").skip(1).map(cell).collect::<Vec<_>>());
    let names = rows.next().expect("a table names its columns");
    rows.map(|row| {
        assert_eq!(
            row.len(),
            names.len(),
            "a row has as many cells as the table has columns: {row:?}"
        );
        names.iter().cloned().zip(row).collect()
    })
    .collect()
}

/// The text of a cell, from after its `<td`.
fn cell(html: &str) -> String {
    let (_, rest) = html.split_once('>').unwrap();
    rest.split("</td>").next().unwrap().to_string()
}
