//! The forms of a line of the connection log: words, JSON, and the logs of haproxy.
//!
//! Pure. Each line is one line whatever the names in it contain.

use std::io::Write;
use std::net::IpAddr;

use pen_config::ids::{ClientKey, Target, WorkerId};
use pen_config::settings::ConnectionLogFormat;

use crate::relay::connection::end::{ConnectionEnd, Step};
use crate::relay::connection::timings::{Bytes, Durations};
use crate::relay::connection_log::dates::Dates;
use crate::relay::tls::TlsFacts;

/// What a line says.
#[derive(Clone, Copy, Debug)]
pub struct Record<'a> {
    /// When the client was accepted, in milliseconds of Unix time.
    pub start: u64,
    /// The client.
    pub client: ClientKey,
    /// Its port; it means nothing for a Unix socket.
    pub client_port: u16,
    /// The listen address.
    pub listen: &'a str,
    /// The worker.
    pub worker: WorkerId,
    /// The server that was tried last, and its address.
    pub server: Option<(Target, &'a str)>,
    /// How many connects were begun.
    pub attempts: u32,
    /// How long the steps took.
    pub durations: Durations,
    /// Bytes in both directions, if they are known.
    pub bytes: Option<Bytes>,
    /// Why it ended.
    pub end: ConnectionEnd,
    /// How far it had come.
    pub step: Step,
    /// Its TLS session, if a handshake was finished.
    pub tls: Option<TlsFacts<'a>>,
    /// Connections that are open at its end, itself included; only the forms of haproxy have them.
    pub open: Open,
}

/// Open connections of all workers.
#[derive(Clone, Copy, Debug, Default)]
pub struct Open {
    /// All of them.
    pub all: u32,
    /// Those to the server.
    pub of_server: u32,
}

/// Appends a line, without its line end.
pub fn write(
    record: &Record<'_>,
    format: ConnectionLogFormat,
    dates: &mut Dates,
    to: &mut Vec<u8>,
) {
    match format {
        ConnectionLogFormat::Text => text(record, dates, to),
        ConnectionLogFormat::Json => json(record, dates, to),
        ConnectionLogFormat::Haproxy => haproxy(record, dates, to),
        ConnectionLogFormat::HaproxyHttp => haproxy_http(record, dates, to),
    }
}

fn text(record: &Record<'_>, dates: &mut Dates, to: &mut Vec<u8>) {
    let Durations { wait, tls, connect, first_byte, total } = record.durations;
    to.extend(dates.utc(record.start).text().as_bytes());
    to.extend(b" client=");
    client(record, to);
    to.extend(b" listen=");
    word(record.listen, to);
    to.extend(b" worker=");
    decimal(record.worker.0.into(), to);
    to.extend(b" server=");
    match record.server {
        Some((target, _)) => code(target, to),
        None => to.push(b'-'),
    }
    to.extend(b" address=");
    word(record.server.map_or("-", |(_, address)| address), to);
    to.extend(b" attempts=");
    decimal(record.attempts.into(), to);
    for (name, value) in [
        (" wait_ms=", wait),
        (" tls_ms=", tls),
        (" connect_ms=", connect),
        (" first_byte_ms=", first_byte),
        (" total_ms=", Some(total)),
        (" bytes_sent=", record.bytes.map(|bytes| bytes.sent)),
        (" bytes_received=", record.bytes.map(|bytes| bytes.received)),
    ] {
        to.extend(name.as_bytes());
        match value {
            Some(value) => decimal(value, to),
            None => to.push(b'-'),
        }
    }
    to.extend(b" end=");
    to.extend(record.end.word().as_bytes());
    to.extend(b" tls=");
    let Some(TlsFacts { version, cipher, name, resumed }) = record.tls else {
        return to.push(b'-');
    };
    to.extend(version.as_bytes());
    to.extend(b" cipher=");
    word(cipher, to);
    to.extend(b" name=");
    word(name.unwrap_or("-"), to);
    to.extend(if resumed { b" resumed=yes".as_slice() } else { b" resumed=no" });
}

/// The keys are those of the manual. serde_json escapes the names. Made of a type, a line would
/// take more than twice as long.
fn json(record: &Record<'_>, dates: &mut Dates, to: &mut Vec<u8>) {
    let Durations { wait, tls, connect, first_byte, total } = record.durations;
    to.extend(br#"{"time":""#);
    to.extend(dates.utc(record.start).text().as_bytes());
    to.extend(br#"","client":""#);
    to.extend(Address::of(record.client).text().as_bytes());
    to.extend(br#"","client_port":"#);
    let port = record.client.ip().map(|_| record.client_port.into());
    or_null(port, to);
    to.extend(br#","listen":"#);
    quoted(Some(record.listen), to);
    to.extend(br#","worker":"#);
    decimal(record.worker.0.into(), to);
    to.extend(br#","server":"#);
    match record.server {
        Some((target, _)) => code(target, to),
        None => to.extend(b"null"),
    }
    to.extend(br#","address":"#);
    quoted(record.server.map(|(_, address)| address), to);
    for (key, value) in [
        (r#","attempts":"#, Some(record.attempts.into())),
        (r#","wait_ms":"#, wait),
        (r#","tls_ms":"#, tls),
        (r#","connect_ms":"#, connect),
        (r#","first_byte_ms":"#, first_byte),
        (r#","total_ms":"#, Some(total)),
        (r#","bytes_sent":"#, record.bytes.map(|bytes| bytes.sent)),
        (r#","bytes_received":"#, record.bytes.map(|bytes| bytes.received)),
    ] {
        to.extend(key.as_bytes());
        or_null(value, to);
    }
    to.extend(br#","end":""#);
    to.extend(record.end.word().as_bytes());
    to.extend(br#"","tls":"#);
    match record.tls {
        // Writing to a Vec does not fail, and every value of it has a form in JSON.
        Some(facts) => drop(serde_json::to_writer(&mut *to, &facts)),
        None => to.extend(b"null"),
    }
    to.push(b'}');
}

/// Appends a text in JSON, or null.
fn quoted(text: Option<&str>, to: &mut Vec<u8>) {
    match text {
        // As above.
        Some(text) => drop(serde_json::to_writer(&mut *to, text)),
        None => to.extend(b"null"),
    }
}

fn or_null(number: Option<u64>, to: &mut Vec<u8>) {
    match number {
        Some(number) => decimal(number, to),
        None => to.extend(b"null"),
    }
}

/// Appends the code of a server ([`Target::code`]).
fn code(target: Target, to: &mut Vec<u8>) {
    match target {
        Target::Server(id) => decimal(id.0.into(), to),
        Target::Emergency => to.extend(b"-1"),
        Target::Abuse => to.extend(b"-2"),
    }
}

/// `CLIENT:PORT [DATE] FRONTEND BACKEND/SERVER Tw/Tc/Tt BYTES CODE ACT/FE/BE/SRV/RETRIES 0/0`
fn haproxy(record: &Record<'_>, dates: &mut Dates, to: &mut Vec<u8>) {
    haproxy_head(record, dates, to);
    let Durations { wait, connect, total, .. } = record.durations;
    slashed(&[wait, connect, Some(total)], to);
    to.push(b' ');
    decimal(record.bytes.map_or(0, |bytes| bytes.sent), to);
    to.push(b' ');
    to.extend(record.end.code(record.step).as_bytes());
    haproxy_load(record, to);
}

/// As [`haproxy`], with the fields of an HTTP request, of which a connection has none.
fn haproxy_http(record: &Record<'_>, dates: &mut Dates, to: &mut Vec<u8>) {
    haproxy_head(record, dates, to);
    let Durations { wait, tls, connect, first_byte, total } = record.durations;
    slashed(&[tls.or(Some(0)), wait, connect, first_byte, Some(total)], to);
    to.extend(b" -1 ");
    decimal(record.bytes.map_or(0, |bytes| bytes.sent), to);
    to.extend(b" - - ");
    to.extend(record.end.code(record.step).as_bytes());
    to.extend(b"--");
    haproxy_load(record, to);
    to.extend(b" \"TCP ");
    to.extend(record.end.word().as_bytes());
    to.extend(b" -\"");
}

fn haproxy_head(record: &Record<'_>, dates: &mut Dates, to: &mut Vec<u8>) {
    to.extend(Address::of(record.client).text().as_bytes());
    to.push(b':');
    decimal(record.client_port.into(), to);
    to.extend(b" [");
    dates.haproxy(record.start, to);
    to.extend(b"] ");
    word(record.listen, to);
    to.extend(b" pen/");
    match record.server.map(|(target, _)| target) {
        Some(Target::Server(id)) => decimal(id.0.into(), to),
        Some(Target::Emergency) => to.extend(b"emergency"),
        Some(Target::Abuse) => to.extend(b"abuse"),
        None => to.extend(b"<NOSRV>"),
    }
    to.push(b' ');
}

fn haproxy_load(record: &Record<'_>, to: &mut Vec<u8>) {
    let Open { all, of_server } = record.open;
    let retries = record.attempts.saturating_sub(1);
    to.push(b' ');
    slashed(&[all, all, all, of_server, retries].map(|count| Some(count.into())), to);
    to.extend(b" 0/0");
}

/// Appends numbers with a slash between them; -1 for none.
fn slashed(numbers: &[Option<u64>], to: &mut Vec<u8>) {
    for (index, number) in numbers.iter().enumerate() {
        if index > 0 {
            to.push(b'/');
        }
        match number {
            Some(number) => decimal(*number, to),
            None => to.extend(b"-1"),
        }
    }
}

/// Appends a number. The formatter of the standard library takes several times as long.
fn decimal(mut number: u64, to: &mut Vec<u8>) {
    let (mut digits, mut start) = ([0; 20], 20);
    loop {
        start -= 1;
        digits[start] = b'0' + (number % 10) as u8;
        number /= 10;
        if number == 0 {
            return to.extend(&digits[start..]);
        }
    }
}

/// Appends a name as one word: `?` stands for what is not printable ASCII.
fn word(name: &str, to: &mut Vec<u8>) {
    to.extend(name.bytes().map(|byte| if byte.is_ascii_graphic() { byte } else { b'?' }));
}

/// Appends the address and port of a client.
fn client(record: &Record<'_>, to: &mut Vec<u8>) {
    let address = Address::of(record.client);
    match record.client.ip() {
        Some(IpAddr::V4(_)) => to.extend(address.text().as_bytes()),
        Some(IpAddr::V6(_)) => {
            to.push(b'[');
            to.extend(address.text().as_bytes());
            to.push(b']');
        }
        None => return to.extend(address.text().as_bytes()),
    }
    to.push(b':');
    decimal(record.client_port.into(), to);
}

/// The text of a client's address.
struct Address {
    bytes: [u8; Address::LONGEST],
    length: usize,
}

impl Address {
    /// An IPv6 address with eight groups.
    const LONGEST: usize = 39;

    fn of(client: ClientKey) -> Address {
        let mut address = Address { bytes: [0; Address::LONGEST], length: 0 };
        match client.ip() {
            Some(IpAddr::V4(ip)) => {
                for (index, octet) in ip.octets().into_iter().enumerate() {
                    if index > 0 {
                        address.push(b'.');
                    }
                    if octet >= 100 {
                        address.push(b'0' + octet / 100);
                    }
                    if octet >= 10 {
                        address.push(b'0' + octet / 10 % 10);
                    }
                    address.push(b'0' + octet % 10);
                }
            }
            Some(IpAddr::V6(_)) | None => {
                let mut room = &mut address.bytes[..];
                // There is room for the longest.
                let _ = write!(room, "{client}");
                address.length = Address::LONGEST - room.len();
            }
        }
        address
    }

    fn push(&mut self, byte: u8) {
        self.bytes[self.length] = byte;
        self.length += 1;
    }

    fn text(&self) -> &str {
        std::str::from_utf8(&self.bytes[..self.length]).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use pen_config::ids::ServerId;
    use proptest::prelude::*;

    use super::*;

    fn record() -> Record<'static> {
        Record {
            start: 1_793_592_621_007,
            client: ClientKey::from_ip("192.0.2.7".parse().unwrap()),
            client_port: 40112,
            listen: "0.0.0.0:80",
            worker: WorkerId(3),
            server: Some((Target::Server(ServerId(1)), "10.0.0.1:8080")),
            attempts: 2,
            durations: Durations {
                wait: Some(1),
                tls: None,
                connect: Some(2),
                first_byte: Some(30),
                total: 400,
            },
            bytes: Some(Bytes { sent: 5000, received: 600 }),
            end: ConnectionEnd::Client,
            step: Step::Data,
            tls: None,
            open: Open { all: 9, of_server: 4 },
        }
    }

    /// The opposite: a client that got nothing.
    fn refused() -> Record<'static> {
        Record {
            client: ClientKey::UNIX,
            client_port: 0,
            listen: "/run/pen.sock",
            server: None,
            attempts: 0,
            durations: Durations { total: 3, ..Durations::default() },
            bytes: None,
            end: ConnectionEnd::RefusedAcl,
            step: Step::Preface,
            ..record()
        }
    }

    fn secure() -> Record<'static> {
        let tls = TlsFacts {
            version: "TLSv1.3",
            cipher: "TLS13_AES_128_GCM_SHA256",
            name: Some("www.example.org"),
            resumed: true,
        };
        let durations = Durations { tls: Some(7), ..record().durations };
        let client = ClientKey::from_ip("2001:db8::7".parse().unwrap());
        Record { tls: Some(tls), durations, client, ..record() }
    }

    fn line(record: &Record<'_>, format: ConnectionLogFormat) -> String {
        let mut out = Vec::new();
        write(record, format, &mut Dates::new(|_| 3600), &mut out);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn a_line_of_words() {
        let text = |record: &Record<'_>| line(record, ConnectionLogFormat::Text);
        assert_eq!(
            text(&record()),
            "2026-11-02T04:10:21.007Z client=192.0.2.7:40112 listen=0.0.0.0:80 worker=3 server=1 \
             address=10.0.0.1:8080 attempts=2 wait_ms=1 tls_ms=- connect_ms=2 first_byte_ms=30 \
             total_ms=400 bytes_sent=5000 bytes_received=600 end=client tls=-"
        );
        assert_eq!(
            text(&refused()),
            "2026-11-02T04:10:21.007Z client=unix listen=/run/pen.sock worker=3 server=- \
             address=- attempts=0 wait_ms=- tls_ms=- connect_ms=- first_byte_ms=- total_ms=3 \
             bytes_sent=- bytes_received=- end=refused_acl tls=-"
        );
        let tls = text(&secure());
        assert!(tls.contains(" client=[2001:db8::7]:40112 "), "{tls}");
        let end = " end=client tls=TLSv1.3 cipher=TLS13_AES_128_GCM_SHA256 name=www.example.org \
                   resumed=yes";
        assert!(tls.ends_with(end), "{tls}");
    }

    #[test]
    fn a_line_of_json() {
        let json = |record: &Record<'_>| line(record, ConnectionLogFormat::Json);
        assert_eq!(
            json(&record()),
            r#"{"time":"2026-11-02T04:10:21.007Z","client":"192.0.2.7","client_port":40112,"#
                .to_owned()
                + r#""listen":"0.0.0.0:80","worker":3,"server":1,"address":"10.0.0.1:8080","#
                + r#""attempts":2,"wait_ms":1,"tls_ms":null,"connect_ms":2,"first_byte_ms":30,"#
                + r#""total_ms":400,"bytes_sent":5000,"bytes_received":600,"end":"client","#
                + r#""tls":null}"#
        );
        let value: serde_json::Value = serde_json::from_str(&json(&refused())).unwrap();
        for key in ["client_port", "server", "address", "wait_ms", "bytes_sent", "tls"] {
            assert_eq!(value[key], serde_json::Value::Null, "{key}");
        }
        assert_eq!((&value["client"], &value["end"]), (&"unix".into(), &"refused_acl".into()));
        let value: serde_json::Value = serde_json::from_str(&json(&secure())).unwrap();
        assert_eq!(
            value["tls"],
            serde_json::json!({
                "version": "TLSv1.3",
                "cipher": "TLS13_AES_128_GCM_SHA256",
                "name": "www.example.org",
                "resumed": true
            })
        );
    }

    #[test]
    fn numbers_and_addresses_are_as_the_standard_library_has_them() {
        for number in [0, 9, 10, 4711, u64::MAX] {
            let mut out = Vec::new();
            decimal(number, &mut out);
            assert_eq!(String::from_utf8(out).unwrap(), number.to_string());
        }
        let longest = "1111:2222:3333:4444:5555:6666:7777:8888";
        for text in ["0.9.10.99", "100.109.110.255", "255.255.255.255", "::1", longest] {
            let client = ClientKey::from_ip(text.parse().unwrap());
            assert_eq!(Address::of(client).text(), text);
        }
    }

    #[test]
    fn lines_of_haproxy() {
        let tcp = |record: &Record<'_>| line(record, ConnectionLogFormat::Haproxy);
        assert_eq!(
            tcp(&record()),
            "192.0.2.7:40112 [02/Nov/2026:05:10:21.007] 0.0.0.0:80 pen/1 1/2/400 5000 -- \
             9/9/9/4/1 0/0"
        );
        assert_eq!(
            tcp(&refused()),
            "unix:0 [02/Nov/2026:05:10:21.007] /run/pen.sock pen/<NOSRV> -1/-1/3 0 PR 9/9/9/4/0 \
             0/0"
        );
        assert_eq!(
            line(&secure(), ConnectionLogFormat::HaproxyHttp),
            "2001:db8::7:40112 [02/Nov/2026:05:10:21.007] 0.0.0.0:80 pen/1 7/1/2/30/400 -1 5000 \
             - - ---- 9/9/9/4/1 0/0 \"TCP client -\""
        );
    }

    proptest! {
        #[test]
        fn names_make_no_second_line_and_no_second_word(
            listen in ".{0,40}",
            address in ".{0,40}",
            name in proptest::option::of(".{0,40}"),
            end in prop::sample::select(&ConnectionEnd::ALL[..]),
            server in any::<bool>(),
        ) {
            let facts = TlsFacts { version: "v", cipher: "c", name: name.as_deref(), resumed: false };
            let server = server.then_some((Target::Abuse, &address[..]));
            let record = Record { listen: &listen, server, tls: Some(facts), end, ..record() };
            let words = |format| {
                let line = line(&record, format);
                assert!(!line.contains(['\n', '\r']), "{line}");
                line.split(' ').count()
            };
            prop_assert_eq!(words(ConnectionLogFormat::Text), 19);
            prop_assert_eq!(words(ConnectionLogFormat::Haproxy), 9);
            prop_assert_eq!(words(ConnectionLogFormat::HaproxyHttp), 15);
            let json = line(&record, ConnectionLogFormat::Json);
            prop_assert!(!json.contains(['\n', '\r']), "{}", json);
            let value: serde_json::Value = serde_json::from_str(&json).unwrap();
            prop_assert_eq!(value.as_object().unwrap().len(), 17);
            prop_assert_eq!(value["listen"].as_str(), Some(&listen[..]));
            let shown = server.map(|(target, address)| (target.code().into(), address.into()));
            let none = (serde_json::Value::Null, serde_json::Value::Null);
            prop_assert_eq!((value["server"].clone(), value["address"].clone()), shown.unwrap_or(none));
            prop_assert_eq!(value["tls"]["name"].as_str(), name.as_deref());
        }
    }
}
