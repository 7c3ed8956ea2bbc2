//! Each form of a line, and that no name makes two of it.

use pen_config::ids::ServerId;
use proptest::prelude::*;

use super::fields::{ClientAddress, decimal};
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
        server_tls: None,
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
    let both = text(&Record { server_tls: secure().tls, ..secure() });
    let end = end.to_owned()
        + " server_tls=TLSv1.3 server_cipher=TLS13_AES_128_GCM_SHA256 server_resumed=yes";
    assert!(both.ends_with(&end), "{both}");
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
            + r#""tls":null,"server_tls":null}"#
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
        assert_eq!(ClientAddress::of(client).text(), text);
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
        prop_assert_eq!(value.as_object().unwrap().len(), 18);
        prop_assert_eq!(value["listen"].as_str(), Some(&listen[..]));
        let shown = server.map(|(target, address)| (target.code().into(), address.into()));
        let none = (serde_json::Value::Null, serde_json::Value::Null);
        prop_assert_eq!((value["server"].clone(), value["address"].clone()), shown.unwrap_or(none));
        prop_assert_eq!(value["tls"]["name"].as_str(), name.as_deref());
    }
}
