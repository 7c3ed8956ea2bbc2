//! The replies to `servers` and `recent`, whose lines scripts split into words, and to
//! `certificates`, for people.

#![forbid(unsafe_code)]

use std::io::{self, Write};

use pen_ipc::tls_files::{Fact, Purpose};

use crate::files::certificates::{left, moment};
use pen_config::ids::Target;

use pen_status::{FollowedRecord, Mode, ServerStatus, Verify};

use crate::report::rows::ClientRow;

/// One line per regular server.
pub(super) fn servers(
    rows: impl Iterator<Item = ServerStatus>,
    to: &mut dyn Write,
) -> io::Result<()> {
    for row in rows {
        write!(
            to,
            "{} addr {} port {} conn {} max {} hard {} weight {} prio {} sx {} rx {}",
            row.number(),
            row.address.as_deref().unwrap_or("-"),
            row.port,
            row.connections,
            row.max,
            row.hard,
            row.weight,
            row.prio,
            row.sent,
            row.received
        )?;
        // Placed behind the words that scripts expect.
        match row.tls.as_ref().map(|tls| tls.verify) {
            Some(Verify::On) => write!(to, " tls verified")?,
            Some(Verify::Off) => write!(to, " tls unverified")?,
            None => {}
        }
        write!(to, "{}", row.check_words())?;
        match row.mode {
            Mode::Ready => {}
            Mode::Drain | Mode::Maint => write!(to, " state {}", row.mode.name())?,
        }
        if let Some(percent) = row.slow_start {
            write!(to, " slow start {percent} %")?;
        }
        if let Some(FollowedRecord { name, record }) = &row.follows {
            write!(to, " from {name} record {}", record.name())?;
        }
        // The last words: a reason has spaces.
        if let Some(reason) = row.lookup.as_ref().and_then(|lookup| lookup.reason.as_ref()) {
            write!(to, " lookup failed {reason}")?;
        }
        writeln!(to)?;
    }
    Ok(())
}

/// One line per client that was last used within so many seconds.
pub(super) fn recent(
    rows: impl Iterator<Item = ClientRow>,
    seconds: u32,
    to: &mut dyn Write,
) -> io::Result<()> {
    for row in rows.filter(|row| row.age <= seconds.into()) {
        write!(
            to,
            "{} connects {} sx {} rx {}",
            row.address, row.connects, row.sent, row.received
        )?;
        // Placed behind the words that scripts expect.
        match (Target::from_code(row.server), &row.server_name) {
            (Some(Target::Server(id)), Some(name)) => writeln!(to, " server {id} {name}")?,
            (Some(Target::Emergency), Some(name)) => writeln!(to, " server emergency {name}")?,
            (Some(Target::Abuse), Some(name)) => writeln!(to, " server abuse {name}")?,
            (None, _) | (_, None) => writeln!(to)?,
        }
    }
    Ok(())
}

/// A block for each certificate.
pub(super) fn certificates(facts: &[Fact], now: i64, to: &mut dyn Write) -> io::Result<()> {
    if facts.is_empty() {
        return writeln!(to, "There is no certificate: TLS to clients is off");
    }
    for fact in facts {
        writeln!(to, "{}", if fact.name.is_empty() { "(without a name)" } else { &fact.name })?;
        writeln!(to, "    issuer     {}", fact.issuer)?;
        let state = match (fact.not_before, fact.not_after) {
            (_, Some(end)) if end < now => " (expired)".to_owned(),
            (Some(begin), _) if begin > now => format!(" (not valid before {})", moment(begin)),
            (_, Some(end)) => format!(" ({} left)", left(end - now)),
            (_, None) => String::new(),
        };
        let end = fact.not_after.map_or("unknown".to_owned(), moment);
        writeln!(to, "    not after  {end}{state}")?;
        writeln!(to, "    key        {}", fact.key)?;
        let (what, name) = match &fact.purpose {
            Purpose::Server(name) => ("shown to clients", name),
            Purpose::Chain(name) => ("sent in the chain", name),
            Purpose::Authority(name) => ("authority of client certificates", name),
            Purpose::Client => ("shown to servers", &None),
            Purpose::ClientChain => ("sent in the chain to servers", &None),
            Purpose::ServerAuthority => ("authority of servers' certificates", &None),
        };
        let whom =
            name.as_ref().map_or(String::new(), |name| format!(", for the server name {name}"));
        writeln!(to, "    used       {what}{whom}")?;
        writeln!(to, "    file       {}", fact.file)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::files::certificates::tests::fact;
    use crate::report::snapshot::tests::{client, snapshot};
    use pen_status::{LookupStatus, RecordState};

    #[test]
    fn certificates_are_blocks() {
        let facts = [
            fact(0, 1_793_592_621),
            Fact { name: String::new(), purpose: Purpose::Chain(Some("www".into())), ..fact(7, 1) },
        ];
        let mut text = Vec::new();
        certificates(&facts, 1_793_592_621 - 86_400 * 3, &mut text).unwrap();
        assert_eq!(
            String::from_utf8(text).unwrap(),
            "CN=www\n    issuer     CN=Test \"CA\"\n    not after  2026-11-02 04:10:21 UTC (3 days \
             left)\n    \
             key        ECDSA P-256\n    used       shown to \
             clients\n    file       /etc/www.pem\n(without a name)\n    \
             issuer     CN=Test \"CA\"\n    not after  1970-01-01 00:00:01 UTC \
             (expired)\n    key        ECDSA P-256\n    \
             used       sent in the chain, for the server name www\n    file       /etc/www.pem\n"
        );
        let mut text = Vec::new();
        certificates(&[], 0, &mut text).unwrap();
        assert_eq!(text, b"There is no certificate: TLS to clients is off\n");
    }

    #[test]
    fn a_server_with_tls_says_whether_it_is_verified() {
        let mut rows = snapshot(&[], 0, &[]).servers;
        let tls = |verify| Some(pen_status::ServerTlsStatus { verify, name: None });
        (rows[0].tls, rows[1].tls) = (tls(Verify::On), tls(Verify::Off));
        rows[1].mode = Mode::Maint;
        let mut text = Vec::new();
        servers(rows.into_iter(), &mut text).unwrap();
        let text = String::from_utf8(text).unwrap();
        let lines: Vec<&str> = text.lines().collect();
        assert!(lines[0].ends_with(" sx 28 rx 41 tls verified"), "{text}");
        assert!(lines[1].ends_with(" sx 28 rx 41 tls unverified state maint"), "{text}");
    }

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
        let mut rows = snapshot(&[], 0, &[]).servers;
        rows[0].slow_start = Some(37);
        let mut text = Vec::new();
        servers(rows.into_iter().take(1), &mut text).unwrap();
        assert!(text.ends_with(b" sx 28 rx 41 slow start 37 %\n"));
        let mut rows = snapshot(&[], 0, &[]).servers;
        (rows[0].mode, rows[1].mode) = (Mode::Drain, Mode::Maint);
        rows[1].address = None;
        let mut text = Vec::new();
        servers(rows.into_iter(), &mut text).unwrap();
        assert_eq!(
            String::from_utf8(text).unwrap(),
            "0 addr 127.0.0.1 port 21000 conn 0 max 20 hard 30 weight 1 prio 2 sx 28 rx 41 state \
             drain\n\
             1 addr - port 21001 conn 1 max 20 hard 30 weight 1 prio 2 sx 28 rx 41 state maint\n"
        );
        let mut rows = snapshot(&[], 0, &[]).servers;
        let lookup = LookupStatus { last: 7, failing_since: None, reason: None };
        let failing = LookupStatus {
            failing_since: Some(5),
            reason: Some("no such host".into()),
            ..lookup.clone()
        };
        (rows[0].lookup, rows[1].lookup) = (Some(lookup), Some(failing));
        let record = FollowedRecord { name: "www".into(), record: RecordState::Present };
        (rows[1].follows, rows[1].address) = (Some(record), None);
        let mut text = Vec::new();
        servers(rows.into_iter(), &mut text).unwrap();
        assert_eq!(
            String::from_utf8(text).unwrap(),
            "0 addr 127.0.0.1 port 21000 conn 0 max 20 hard 30 weight 1 prio 2 sx 28 rx 41\n\
             1 addr - port 21001 conn 1 max 20 hard 30 weight 1 prio 2 sx 28 rx 41 from www \
             record present lookup failed no such host\n"
        );
        let old = ClientRow { age: 301, ..client(1) };
        let mut text = Vec::new();
        recent([client(0), old].into_iter(), 300, &mut text).unwrap();
        assert_eq!(
            String::from_utf8(text).unwrap(),
            "127.0.0.1 connects 2 sx 41 rx 28 server 1 127.0.0.1:21001\n"
        );
        let backup = ClientRow { server: -1, server_name: Some("10.0.0.9:80".into()), ..client(0) };
        let nobodys = ClientRow { server: -3, server_name: None, ..client(0) };
        let mut text = Vec::new();
        recent([backup, nobodys].into_iter(), 300, &mut text).unwrap();
        assert_eq!(
            String::from_utf8(text).unwrap(),
            "127.0.0.1 connects 2 sx 41 rx 28 server emergency 10.0.0.9:80\n127.0.0.1 connects 2 \
             sx 41 rx 28\n"
        );
    }
}
