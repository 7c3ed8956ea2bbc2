//! The recent clients as a table, the last seen first.

use serde_json::Value;

use super::grid::Row;
use super::{Grid, Paint, Width};
use crate::overview::Health;
use crate::text::{bytes, duration, shown};

/// The table, with its line ends. `None`: the text is not a list of clients.
pub fn render(reply: &[u8], paint: Paint, width: Width) -> Option<String> {
    let value: Value = serde_json::from_slice(reply).ok()?;
    let mut clients: Vec<&Value> = value.as_array()?.iter().collect();
    clients.sort_by_key(|client| client["age"].as_u64());
    let rows: Vec<Row<6>> = clients.iter().map(|client| row(client)).collect();
    let grid = Grid {
        titles: ["client", "last seen", "server", "connects", "sent", "received"],
        figures: &[3, 4, 5],
        layouts: vec![vec![0, 1, 2, 3, 4, 5], vec![0, 1, 2, 3], vec![0, 1, 2], vec![0, 2]],
        cut: 0,
        painted: &[],
    };
    let total = match rows.len() {
        1 => "1 client\n".to_owned(),
        count => format!("{count} clients\n"),
    };
    Some(grid.lines(&rows, paint, width) + &total)
}

fn row(client: &Value) -> Row<6> {
    let figure = |key: &str| client[key].as_u64().unwrap_or(0);
    let server = match (client["server"].as_i64(), client["server_name"].as_str()) {
        (None, _) => "-".to_owned(),
        (Some(number @ 0..), Some(name)) => format!("{number} {}", shown(name)),
        (Some(_), Some(name)) => shown(name),
        (Some(number), None) => number.to_string(),
    };
    let cells = [
        client["address"].as_str().map_or("-".to_owned(), shown),
        format!("{} ago", duration(figure("age"))),
        server,
        figure("connects").to_string(),
        bytes(figure("sent")),
        bytes(figure("received")),
    ];
    Row { health: Health::Vacant, cells }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn the_last_seen_is_first() {
        let one = |address: &str, age: u64, server: Value| {
            json!({
                "slot": 0, "address": address, "age": age, "server": server,
                "server_name": "www1:80", "connects": 2, "sent": 4100, "received": 28,
            })
        };
        let reply = json!([one("::1", 90, json!(1)), one("127.0.0.1", 2, Value::Null)]).to_string();
        let table = render(reply.as_bytes(), Paint::Colours, Width::Any).unwrap();
        let lines: Vec<Vec<&str>> =
            table.lines().map(|line| line.split_whitespace().collect()).collect();
        assert_eq!(lines[1].join(" "), "127.0.0.1 2 s ago - 2 4.10 kB 28 B");
        assert_eq!(lines[2].join(" "), "::1 90 s ago 1 www1:80 2 4.10 kB 28 B");
        assert_eq!(table.lines().last(), Some("2 clients"));
        let none = render(b"[]", Paint::Plain, Width::Columns(10)).unwrap();
        assert!(none.ends_with("0 clients\n") && render(b"{}", Paint::Plain, Width::Any).is_none());
    }
}
