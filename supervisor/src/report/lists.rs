//! What `servers` and `recent` reply. Scripts split the lines by words.

#![forbid(unsafe_code)]

use std::io::{self, Write};

use crate::report::snapshot::{ClientRow, ServerRow};

/// One line per regular server.
pub(super) fn servers(rows: impl Iterator<Item = ServerRow>, to: &mut dyn Write) -> io::Result<()> {
    for row in rows {
        writeln!(
            to,
            "{} addr {} port {} conn {} max {} hard {} weight {} prio {} sx {} rx {}",
            row.number,
            row.address.as_deref().unwrap_or("-"),
            row.port,
            row.connections,
            row.soft,
            row.hard,
            row.weight,
            row.prio,
            row.sent,
            row.received
        )?;
    }
    Ok(())
}

/// One line per client whose last use is within so many seconds.
pub(super) fn recent(rows: impl Iterator<Item = ClientRow>, seconds: u32, to: &mut dyn Write) -> io::Result<()> {
    for row in rows.filter(|row| row.age <= seconds.into()) {
        writeln!(to, "{} connects {} sx {} rx {}", row.address, row.connects, row.sent, row.received)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::snapshot::tests::{client, snapshot};

    #[test]
    fn the_lines_are_the_originals() {
        let mut rows = snapshot(&[], 0, &[]).servers;
        rows[1].address = None;
        let mut text = Vec::new();
        servers(rows.into_iter(), &mut text).unwrap();
        assert_eq!(
            String::from_utf8(text).unwrap(),
            "0 addr 127.0.0.1 port 21000 conn 0 max 20 hard 30 weight 1 prio 2 sx 28 rx 41\n\
             1 addr - port 21001 conn 1 max 20 hard 30 weight 1 prio 2 sx 28 rx 41\n"
        );
        let old = ClientRow { age: 301, ..client(1) };
        let mut text = Vec::new();
        recent([client(0), old].into_iter(), 300, &mut text).unwrap();
        assert_eq!(String::from_utf8(text).unwrap(), "127.0.0.1 connects 2 sx 41 rx 28\n");
    }
}
