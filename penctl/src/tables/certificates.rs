//! The certificates as a table, those that expire first at the top.

use serde_json::Value;

use super::grid::Row;
use super::{Grid, Paint, Width};
use crate::overview::{Health, SOON};
use crate::text::{duration, shown};

/// The table, with its line ends. `None`: the text is not a list of certificates.
pub fn render(reply: &[u8], paint: Paint, width: Width) -> Option<String> {
    let value: Value = serde_json::from_slice(reply).ok()?;
    let mut certificates: Vec<&Value> = value.as_array()?.iter().collect();
    if certificates.is_empty() {
        return Some("There is no certificate: TLS to clients is off\n".to_owned());
    }
    let left = |certificate: &Value| certificate["seconds_left"].as_i64().unwrap_or(i64::MAX);
    certificates.sort_by_key(|certificate| left(certificate));
    let rows: Vec<Row<6>> = certificates.into_iter().map(row).collect();
    let grid = Grid {
        titles: ["name", "used", "expires", "key", "issuer", "file"],
        figures: &[],
        layouts: vec![
            vec![0, 1, 2, 3, 4, 5],
            vec![0, 1, 2, 3, 5],
            vec![0, 1, 2, 5],
            vec![0, 1, 2],
            vec![0, 2],
        ],
        cut: 0,
        painted: &[2],
    };
    Some(grid.lines(&rows, paint, width))
}

fn row(certificate: &Value) -> Row<6> {
    let text = |key: &str| certificate[key].as_str().map_or("-".to_owned(), shown);
    let used = match certificate["server_name"].as_str() {
        Some(name) => format!("{} of {}", text("used"), shown(name)),
        None => text("used"),
    };
    let (health, expires) = match certificate["seconds_left"].as_i64() {
        None => (Health::Vacant, "-".to_owned()),
        Some(left) if left <= 0 => {
            (Health::Failed, format!("expired {} ago", duration(left.unsigned_abs())))
        }
        Some(left) => {
            let health = if left <= SOON { Health::Out } else { Health::Good };
            (health, format!("in {}", duration(left.unsigned_abs())))
        }
    };
    let cells = [text("name"), used, expires, text("key"), text("issuer"), text("file")];
    Row { health, cells }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn the_first_to_expire_is_at_the_top() {
        let one = |name: &str, left: Value| {
            json!({
                "name": name, "used": "server", "server_name": "www", "seconds_left": left,
                "key": "ECDSA P-256", "issuer": "CN=CA", "file": "/etc/www.pem",
            })
        };
        let reply = json!([
            one("CN=b", json!(86_400 * 90)),
            one("CN=d", Value::Null),
            one("CN=c", json!(-7200)),
            one("CN=a", json!(86_400 * 3)),
        ]);
        let reply = reply.to_string();
        let table = render(reply.as_bytes(), Paint::Plain, Width::Any).unwrap();
        let cells = |column: usize| -> Vec<&str> {
            let cell =
                |line: &'static str| line.split("  ").filter(|cell| !cell.is_empty()).nth(column);
            table.clone().leak().lines().skip(1).filter_map(cell).map(str::trim).collect()
        };
        assert_eq!(cells(0), ["CN=c", "CN=a", "CN=b", "CN=d"], "{table}");
        assert_eq!(cells(2), ["expired 2 h ago", "in 3 d", "in 90 d", "-"], "{table}");
        let painted = render(reply.as_bytes(), Paint::Colours, Width::Columns(60)).unwrap();
        assert!(painted.contains("\x1b[31mexpired") && painted.contains("\x1b[33min 3 d"));
        let narrow = render(reply.as_bytes(), Paint::Plain, Width::Columns(30)).unwrap();
        assert!(narrow.lines().all(|line| line.chars().count() <= 30), "{narrow}");
        assert_eq!(render(b"do_cmd", Paint::Plain, Width::Any), None);
    }
}
