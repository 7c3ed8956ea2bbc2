//! The PROXY protocol in both directions (proxy_protocol): trusted senders, the client's address,
//! and the header for servers.

use std::fs;
use std::io::Write;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};

use crate::harness::client::ANYONE;
use crate::harness::program::curl;
use crate::harness::recorder::shown;
use crate::harness::tls::{Authority, write};
use crate::harness::{Backend, Client, Gate, Pen, Port, Program, Recorder, ask, eventually, hold};
use rustix::process::Signal;

/// A trusted sender.
const SENDER: Ipv4Addr = Ipv4Addr::new(127, 13, 0, 1);

/// A sender that is not trusted.
const STRANGER: Ipv4Addr = Ipv4Addr::new(127, 14, 0, 1);

const IN: &str = "proxy_protocol in from 127.13.0.0/16";

/// The signature of version 2.
const SIGNATURE: &[u8] = b"\r\n\r\n\0\r\nQUIT\n";

/// A header of version 2 for IPv4, with an extension after the addresses.
fn binary(client: [u8; 4], port: u16) -> Vec<u8> {
    let ports = [port.to_be_bytes(), 80u16.to_be_bytes()].concat();
    [SIGNATURE, &[0x21, 0x11, 0, 17], &client, &[192, 0, 2, 1], &ports, &[4, 0, 2, 9, 9]].concat()
}

fn line(client: &str, port: u16) -> Vec<u8> {
    format!("PROXY TCP4 {client} 192.0.2.1 {port} 80\r\n").into_bytes()
}

#[test]
fn servers_are_told_in_either_version() {
    let server = Recorder::silent();
    let kinds = [("v1", false), ("v2", false), ("v1", true), ("v2", true)];
    for (number, (version, unix)) in kinds.into_iter().enumerate() {
        let directory = tempfile::tempdir().unwrap();
        let socket = directory.path().join("pen");
        let mut builder = Pen::builder()
            .options(["-O", &format!("proxy_protocol out {version}")])
            .server(&server.backend);
        if unix {
            builder = builder.listen(&socket);
        }
        let pen = builder.start();
        let client =
            if unix { Client::connect_unix(&socket).unwrap() } else { pen.connect(ANYONE) };
        let header = if unix {
            match version {
                "v1" => b"PROXY UNKNOWN\r\n".to_vec(),
                _ => [SIGNATURE, &[0x21, 0, 0, 0]].concat(),
            }
        } else {
            let from = client.socket().local_addr().unwrap().as_socket_ipv4().unwrap();
            match version {
                "v1" => {
                    let (ip, port) = (from.ip(), from.port());
                    format!("PROXY TCP4 {ip} 127.0.0.1 {port} {}\r\n", pen.address().port())
                        .into_bytes()
                }
                _ => {
                    let ports =
                        [from.port().to_be_bytes(), pen.address().port().to_be_bytes()].concat();
                    [SIGNATURE, &[0x21, 0x11, 0, 12], &from.ip().octets(), &[127, 0, 0, 1], &ports]
                        .concat()
                }
            }
        };
        // The header comes before the client's bytes, and once.
        server.has(number, &header);
        client.send("hello");
        client.finish();
        assert_eq!(client.read_to_end().unwrap(), b"");
        assert_eq!(shown(&server.whole(number)), shown(&[&header[..], b"hello"].concat()));
    }
}

#[test]
fn ipv6_clients_are_told_as_such_and_ipv4_ones_too() {
    let server = Recorder::silent();
    let port = Port::reserve_on(Ipv6Addr::UNSPECIFIED.into());
    let pen = Pen::builder()
        .options(["-O", "proxy_protocol out v1"])
        .listen(format!("[::]:{}", port.address().port()))
        .server(&server.backend)
        .start();
    for (number, (ip, family)) in [("::1", "TCP6"), ("127.0.0.1", "TCP4")].into_iter().enumerate() {
        let to = SocketAddr::new(ip.parse().unwrap(), port.address().port());
        let client = Client::connect(ip.parse().unwrap(), to).unwrap();
        let from = client.socket().local_addr().unwrap().as_socket().unwrap().port();
        server
            .has(number, format!("PROXY {family} {ip} {ip} {from} {}\r\n", port.address().port()));
    }
    drop(pen);
}

#[test]
fn the_next_server_is_told_as_well() {
    let (down, server) = (Backend::down("down"), Recorder::silent());
    let pen = Pen::builder()
        .options(["-r", "-O", "proxy_protocol out v2"])
        .server(&down)
        .server(&server.backend)
        .start();
    for number in 0..4 {
        let client = pen.connect(ANYONE);
        client.send("hello");
        client.finish();
        assert_eq!(client.read_to_end().unwrap(), b"");
        let got = server.whole(number);
        assert!(
            got.starts_with(SIGNATURE) && got.len() == 16 + 12 + 5 && got.ends_with(b"hello"),
            "{}",
            shown(&got)
        );
    }
}

#[test]
fn whom_a_sender_names_is_the_client_everywhere() {
    let servers = ["one", "two", "three"].map(|_| Recorder::silent());
    let log = tempfile::tempdir().unwrap();
    let log = log.path().join("requests");
    let pen = Pen::builder()
        .control()
        .options(["-H", "-l", log.to_str().unwrap(), "-O", IN])
        .options(["-O", "acl 3 deny 6.6.6.0/24", "-O", "client_acl 3"])
        .servers(servers.iter().map(|server| &server.backend))
        .start();
    let request = "GET / HTTP/1.1\r\n\r\n";
    // The same named client always gets the same server, for every version and every address of the
    // sender.
    let mut chosen = None;
    for (place, header) in
        [line("9.9.9.9", 7), binary([9, 9, 9, 9], 8), line("9.9.9.9", 9)].into_iter().enumerate()
    {
        let client = pen.connect(Ipv4Addr::new(127, 13, 0, 1 + place as u8));
        client.send([&header[..], request.as_bytes()].concat());
        client.finish();
        assert_eq!(client.read_to_end().unwrap(), b"");
        let found = servers.iter().position(|server| server.count() > 0).unwrap();
        assert_eq!(*chosen.get_or_insert(found), found);
        let got = servers[found].whole(place);
        let expected =
            "GET / HTTP/1.1\r\nX-Forwarded-Proto: http\r\nX-Forwarded-For: 9.9.9.9\r\n\r\n";
        assert_eq!(shown(&got), shown(expected.as_bytes()));
    }
    assert_eq!(servers.iter().map(Recorder::count).sum::<usize>(), 3);
    let chosen = chosen.unwrap();
    let recent = pen.tell("recent");
    assert!(recent.starts_with("9.9.9.9 connects 3 ") && recent.lines().count() == 1, "{recent}");
    pen.tells(
        "explain 9.9.9.9",
        &format!(
            "client 9.9.9.9: tracked on server {chosen}\n{}: would be used",
            pen_name(chosen, &servers)
        ),
    );
    eventually("the log names the client", || {
        fs::read_to_string(&log)
            .is_ok_and(|text| text.lines().filter(|line| line.starts_with("9.9.9.9 ")).count() == 3)
    });
    // The access list applies to the named client, not to the sender.
    let client = pen.connect(SENDER);
    client.send([&line("6.6.6.6", 1)[..], request.as_bytes()].concat());
    assert_eq!(client.read_to_end().unwrap_or_default(), b"");
    assert_eq!(servers.iter().map(Recorder::count).sum::<usize>(), 3);
}

fn pen_name(number: usize, servers: &[Recorder]) -> String {
    format!("server {number} ({})", servers[number].backend.operand())
}

#[test]
fn headers_come_in_any_pieces_and_nothing_behind_them_is_lost() {
    let server = Recorder::silent();
    let pen = Pen::builder()
        .options(["-O", IN, "-O", "proxy_protocol out v1"])
        .server(&server.backend)
        .start();
    let mut connections = 0;
    let told = "PROXY TCP4 9.9.9.9 192.0.2.1 7 80\r\n";
    for header in [line("9.9.9.9", 7), binary([9, 9, 9, 9], 7)] {
        for size in [1, 10, header.len() - 1, header.len(), 1000] {
            let client = pen.connect(SENDER);
            client.socket().set_tcp_nodelay(true).unwrap();
            let sent = [&header[..], b"hello", &line("6.6.6.6", 6)].concat();
            sent.chunks(size).for_each(|piece| client.send(piece));
            client.finish();
            assert_eq!(client.read_to_end().unwrap(), b"");
            // A second header is data.
            let expected = format!("{told}helloPROXY TCP4 6.6.6.6 192.0.2.1 6 80\r\n");
            assert_eq!(
                shown(&server.whole(connections)),
                shown(expected.as_bytes()),
                "in pieces of {size}"
            );
            connections += 1;
        }
    }
    // A server that sends first is not connected before the header is complete.
    let client = pen.connect(SENDER);
    client.send(&line("9.9.9.9", 7)[..10]);
    assert_eq!(ask_stranger(&pen), None);
    assert_eq!(server.backend.accepted(), connections + 1);
    client.send(&line("9.9.9.9", 7)[10..]);
    server.has(connections + 1, told);
}

/// Serves another client, so that a worker has handled the earlier one.
fn ask_stranger(pen: &Pen) -> Option<String> {
    let client = pen.connect(STRANGER);
    client.finish();
    client.read_to_end().unwrap();
    None
}

#[test]
fn headers_that_name_nobody_leave_the_sender_the_client() {
    let server = Recorder::silent();
    let pen = Pen::builder().control().options(["-H", "-O", IN]).server(&server.backend).start();
    let v2 = |command: u8, family: u8, body: &[u8]| {
        [SIGNATURE, &[command, family], &(body.len() as u16).to_be_bytes(), body].concat()
    };
    let unspecified = [SIGNATURE, &[0x21, 0x21, 0, 36], &[0; 36]].concat();
    for (number, header) in [
        b"PROXY UNKNOWN\r\n".to_vec(),
        b"PROXY UNKNOWN 6.6.6.6 6.6.6.6 1 2\r\n".to_vec(),
        v2(0x20, 0, b""),
        v2(0x20, 0x11, &[6; 12]),
        v2(0x21, 0x31, &[b'/'; 216]),
        v2(0x21, 0, &[1; 100]),
        b"PROXY TCP4 0.0.0.0 192.0.2.1 1 2\r\n".to_vec(),
        unspecified,
        b"PROXY TCP6 ::ffff:0.0.0.0 ::1 1 2\r\n".to_vec(),
    ]
    .into_iter()
    .enumerate()
    {
        let client = pen.connect(SENDER);
        client.send([&header[..], b"GET / HTTP/1.1\r\n\r\n"].concat());
        client.finish();
        assert_eq!(client.read_to_end().unwrap(), b"");
        let got = server.whole(number);
        let expected =
            "GET / HTTP/1.1\r\nX-Forwarded-Proto: http\r\nX-Forwarded-For: 127.13.0.1\r\n\r\n";
        assert_eq!(shown(&got), shown(expected.as_bytes()), "{}", shown(&header));
    }
}

#[test]
fn only_listed_senders_are_believed() {
    let server = Recorder::silent();
    let pen = Pen::builder().control().options(["-O", IN]).server(&server.backend).start();
    // The header of an untrusted sender is data, and the sender itself is the client.
    let client = pen.connect(STRANGER);
    client.send(line("9.9.9.9", 7));
    client.finish();
    assert_eq!(client.read_to_end().unwrap(), b"");
    assert_eq!(shown(&server.whole(0)), shown(&line("9.9.9.9", 7)));
    assert!(pen.tell("recent").starts_with("127.14.0.1 "));
    // The sender is listed, and later removed; then it is not trusted any more.
    pen.tells("proxy_protocol in from 127.14.0.0/16", "");
    let client = pen.connect(STRANGER);
    client.send(line("9.9.9.9", 7));
    client.send("hello");
    client.finish();
    assert_eq!(client.read_to_end().unwrap(), b"");
    assert_eq!(server.whole(1), b"hello");
    let client = pen.connect(SENDER);
    client.send(line("9.9.9.9", 7));
    client.finish();
    assert_eq!(client.read_to_end().unwrap(), b"");
    assert_eq!(shown(&server.whole(2)), shown(&line("9.9.9.9", 7)));
    pen.tells("proxy_protocol in off", "");
    let client = pen.connect(STRANGER);
    client.send("hello");
    client.finish();
    assert_eq!(client.read_to_end().unwrap(), b"");
    assert_eq!(server.whole(3), b"hello");
}

/// With `-H`, a second header behind a listed sender's is what a client sent to choose its name:
/// the server must not see it, in either version, cut anywhere.
#[test]
fn a_second_header_behind_a_listed_sender_names_nobody() {
    let server = Recorder::silent();
    let pen = Pen::builder().options(["-H", "-O", IN]).server(&server.backend).start();
    let request = b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n";
    let seconds = [line("6.6.6.6", 6), binary([6, 6, 6, 6], 6)];
    for (first, second) in [line("9.9.9.9", 7), binary([9, 9, 9, 9], 8)]
        .iter()
        .flat_map(|first| seconds.iter().map(move |second| (first, second)))
    {
        let all = [&first[..], &second[..], &request[..]].concat();
        for cut in [0, first.len(), first.len() + 5, first.len() + second.len()] {
            let client = pen.connect(SENDER);
            let before = server.count();
            client.send(&all[..cut]);
            client.send(&all[cut..]);
            client.finish();
            let answer = client.read_to_end().unwrap_or_default();
            let status = b"HTTP/1.1 400 ";
            assert!(answer.is_empty() || answer.starts_with(status), "{}", shown(&answer));
            for number in before..server.count() {
                assert_eq!(shown(&server.whole(number)), "", "the server got it");
            }
        }
    }
}

#[test]
fn a_sender_that_sends_something_else_is_closed_and_told_of() {
    let server = Recorder::silent();
    let pen = Pen::builder().options(["-O", IN]).server(&server.backend).start();
    for bytes in [
        &b"GET / HTTP/1.1\r\n\r\n"[..],
        b"PROXY TCP4 here there 1 2\r\n",
        b"PROXY TCP4 1.2.3.4 5.6.7.8 1 2\n",
        b"\r\n\r\n\0\r\nQUIT\n\x31\x11\0\0",
        b"\r\n\r\n\0\r\nQUIT\n\x21\x11\xff\xff",
        b"\x16\x03\x01",
    ] {
        let client = pen.connect(SENDER);
        client.send(bytes);
        assert_eq!(client.read_to_end().unwrap_or_default(), b"", "{}", shown(bytes));
    }
    pen.hears(
        "127.13.0.1 is listed by proxy_protocol in, but sent no PROXY protocol header first: \
        closed",
    );
    // A sender that ends within the header. A connection without a byte is only a check and causes
    // no message.
    let client = pen.connect(SENDER);
    client.send("PROXY TCP4 ");
    client.finish();
    assert_eq!(client.read_to_end().unwrap_or_default(), b"");
    let client = pen.connect(SENDER);
    client.finish();
    assert_eq!(client.read_to_end().unwrap(), b"");
    pen.settle();
    assert_eq!(server.backend.accepted(), 0, "no server was contacted");
    // At most one message per second and worker, however many senders there are.
    (0..200).for_each(|_| {
        let client = pen.connect(SENDER);
        let _ = (&mut client.socket()).write_all(b"nonsense");
        let _ = client.read_to_end();
    });
    assert!(pen.said().lines().count() < 150, "{}", pen.said());
}

#[test]
fn a_slow_sender_is_closed_and_holds_up_nobody() {
    let server = Backend::named("server");
    let pen = Pen::builder().options(["-t", "1", "-O", IN]).workers(1).server(&server).start();
    let clients: Vec<Client> = (0..20).map(|_| pen.connect(SENDER)).collect();
    clients.iter().step_by(2).for_each(|client| client.send("PROXY TCP4 1.2"));
    assert_eq!(ask(pen.address(), STRANGER.into()).as_deref(), Some("server"));
    for client in clients {
        // After ten seconds.
        assert_eq!(client.read_to_end().unwrap_or_default(), b"");
    }
    pen.hears("but sent no whole PROXY protocol header in time");
    assert_eq!(server.accepted(), 1);
    pen.settle();
}

#[test]
fn a_chain_of_pens_keeps_the_client() {
    let gate = Gate::closed();
    let waiting = gate.clone();
    let servers = ["one", "two", "three"].map(|name| {
        let waiting = waiting.clone();
        Backend::with(move |mut connection| {
            connection.write_all(format!("{name}\n").as_bytes())?;
            waiting.pass();
            Ok(())
        })
    });
    for version in ["v1", "v2"] {
        let inner = Pen::builder()
            .control()
            .options([
                "-O",
                "proxy_protocol in from 127.0.0.1",
                "-O",
                "acl 3 deny 127.15.6.0/24",
                "-O",
                "client_acl 3",
            ])
            .servers(&servers)
            .start();
        let middle = Pen::builder()
            .options([
                "-O",
                "proxy_protocol in from 127.0.0.1,::1",
                "-O",
                &format!("proxy_protocol out {version}"),
            ])
            .server_as(inner.address().to_string())
            .start();
        let outer = Pen::builder()
            .options(["-O", &format!("proxy_protocol out {version}")])
            .server_as(middle.address().to_string())
            .start();
        // Ten clients, each twice: they are sticky by their own addresses.
        let clients: Vec<Ipv4Addr> = (1..=10).map(|n| Ipv4Addr::new(127, 15, 0, n)).collect();
        let names = |_: &str| -> Vec<_> {
            clients.iter().map(|ip| hold(outer.address(), (*ip).into()).unwrap()).collect()
        };
        let (first, second) = (names("first"), names("second"));
        let servers_of = |held: &[(Client, String)]| {
            held.iter().map(|(_, name)| name.clone()).collect::<Vec<_>>()
        };
        assert_eq!(servers_of(&first), servers_of(&second));
        assert!(servers_of(&first).iter().any(|name| *name != first[0].1), "not all the same");
        let recent = inner.tell("recent");
        for ip in &clients {
            assert!(recent.contains(&format!("{ip} connects 2 ")), "{recent}");
        }
        assert!(!recent.contains("127.0.0.1 "), "{recent}");
        assert!(
            hold(outer.address(), Ipv4Addr::new(127, 15, 6, 6).into()).is_none(),
            "refused by its own address"
        );
    }
    gate.open();
}

#[test]
fn nginx_takes_what_pen_tells() {
    let nginx = Program::nginx(
        "proxy_protocol",
        "location / \
         { return 200 \"$proxy_protocol_addr $proxy_protocol_port $proxy_protocol_server_addr \
         $proxy_protocol_server_port $http_x_forwarded_for\\n\"; }",
    );
    for version in ["v1", "v2"] {
        let pen = Pen::builder()
            .options(["-H", "-O", &format!("proxy_protocol out {version}")])
            .server_as(nginx.address().to_string())
            .start();
        let (address, port) = (pen.address(), pen.address().port());
        let said = curl([
            "--interface",
            "127.13.0.5",
            "--local-port",
            "20000-30000",
            &format!("http://{address}/"),
        ]);
        let words: Vec<&str> = said.split_whitespace().collect();
        assert_eq!(
            (words[0], words[2], words[3]),
            ("127.13.0.5", "127.0.0.1", port.to_string().as_str()),
            "{said}"
        );
        assert!((20000..=30000).contains(&words[1].parse().unwrap()), "{said}");
        assert_eq!(words[4], "127.13.0.5");
    }
}

#[test]
fn a_header_stands_in_front_of_tls() {
    let identity = Authority::root("root").issue(&["localhost"]);
    let nginx = Program::nginx(
        "proxy_protocol",
        "location / { return 200 \"$proxy_protocol_addr $http_x_forwarded_proto\\n\"; }",
    );
    let builder = Pen::builder();
    let path =
        write(builder.directory(), "cert.pem", format!("{}{}", identity.key, identity.chain));
    let pen = builder
        .options(["-H", "-E", path.to_str().unwrap(), "-O", IN, "-O", "proxy_protocol out v2"])
        .server_as(nginx.address().to_string())
        .start();
    let url = format!("https://{}/", pen.address());
    // A trusted sender must send the header, and other clients must not.
    let said = curl(["-k", "--haproxy-protocol", "--interface", "127.13.0.1", &url]);
    assert_eq!(said, "127.13.0.1 https\n");
    assert_eq!(curl(["-k", "--interface", "127.14.0.1", &url]), "127.14.0.1 https\n");
    let without = std::process::Command::new("curl")
        .args(["-sk", "--interface", "127.13.0.1", &url])
        .status()
        .unwrap();
    assert!(!without.success());
    pen.hears("sent no PROXY protocol header first");
}

/// haproxy that passes all traffic to a pen, with a header of this kind and health checks.
fn haproxy(pen: SocketAddr, sends: &str) -> Program {
    Program::haproxy(&format!(
        "defaults\n mode tcp\n timeout connect 10s\n timeout client 60s\n timeout server 60s\n\
         listen l\n bind ADDRESS\n server pen {pen} {sends} check inter 100ms\n"
    ))
}

#[test]
fn pen_takes_what_haproxy_tells_and_the_other_way_round() {
    for sends in [
        "send-proxy",
        "send-proxy-v2",
        "send-proxy-v2-ssl-cn",
        "send-proxy-v2 proxy-v2-options unique-id,crc32c",
    ] {
        let server = Recorder::silent();
        let mut pen = Pen::builder()
            .options(["-H", "-O", "proxy_protocol in from 127.0.0.1"])
            .server(&server.backend)
            .start();
        let haproxy = haproxy(pen.address(), sends);
        let client =
            Client::connect(Ipv4Addr::new(127, 13, 0, 9).into(), haproxy.address()).unwrap();
        client.send("GET / HTTP/1.1\r\n\r\n");
        let expected =
            b"GET / HTTP/1.1\r\nX-Forwarded-Proto: http\r\nX-Forwarded-For: 127.13.0.9\r\n\r\n";
        eventually("the request has come through", || {
            // Health checks are connections too, without a byte.
            (0..server.count()).any(|number| server.so_far(number).bytes == expected)
        });
        drop((client, haproxy));
        pen.end_by(Signal::TERM);
        assert!(
            !pen.said().contains("malformed") && !pen.said().contains("no PROXY"),
            "{sends}: {}",
            pen.said()
        );
    }
    let server = Recorder::silent();
    let receiver = Program::haproxy(&format!(
        "defaults\n mode tcp\n timeout connect 10s\n timeout client 60s\n timeout server 60s\n\
         listen l\n bind ADDRESS accept-proxy\n server s {} send-proxy\n",
        server.backend.operand()
    ));
    for (number, version) in ["v1", "v2"].into_iter().enumerate() {
        let pen = Pen::builder()
            .options(["-O", &format!("proxy_protocol out {version}")])
            .server_as(receiver.address().to_string())
            .start();
        let client = pen.connect(SENDER);
        client.send("hello");
        client.finish();
        assert_eq!(client.read_to_end().unwrap(), b"");
        let got = String::from_utf8(server.whole(number)).unwrap();
        let port = client.socket().local_addr().unwrap().as_socket().unwrap().port();
        assert_eq!(
            got,
            format!("PROXY TCP4 127.13.0.1 127.0.0.1 {port} {}\r\nhello", pen.address().port())
        );
    }
}

#[test]
fn the_file_takes_it_and_write_keeps_it() {
    let server = Recorder::silent();
    let pen = Pen::builder()
        .control()
        .file("proxy_protocol in from 127.13.0.0/16,2001:db8::/32\nproxy_protocol out v2\nhttp\n")
        .server(&server.backend)
        .start();
    let client = pen.connect(SENDER);
    client.send([&line("9.9.9.9", 7)[..], b"hello"].concat());
    client.finish();
    assert_eq!(client.read_to_end().unwrap(), b"");
    assert!(server.whole(0).starts_with(SIGNATURE));
    let why = pen.refuses("proxy_protocol in from here");
    assert_eq!(why, "proxy_protocol: 'here' is no IP address");
    assert_eq!(pen.refuses("proxy_protocol out v3"), "proxy_protocol: 'v3' is none of v1, v2, off");
    assert_eq!(
        pen.refuses("proxy_protocol in"),
        "usage: proxy_protocol in from NET[,NET...]|off, or out v1|v2|off"
    );
    // The file turns it off again.
    let file = pen.directory().join("pen.cfg");
    fs::write(&file, "proxy_protocol in off\nproxy_protocol out off\nno http\n").unwrap();
    pen.supervisor().signal(Signal::HUP);
    eventually("the file is in force", || {
        let client = pen.connect(SENDER);
        client.send("hello");
        client.finish();
        client.read_to_end().is_ok() && server.whole(server.count() - 1) == b"hello"
    });
}
