//! The promise of `-H`, with real servers. Whatever a client sends, no server accepts a request
//! whose only X-Forwarded-For does not end with that client; and the requests of honest clients
//! arrive complete.
//!
//! Several thousand messages, the same at every run, go through pen to servers. Each server parses
//! requests in its own way, as leniently as it can be configured. Each records every request that
//! it accepted.

use std::collections::{HashMap, HashSet};
use std::fs;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr};
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use crate::harness::{BINARY, Client, Numbers, Pen, Program, eventually};

mod corpus;

const ME: Ipv4Addr = Ipv4Addr::new(127, 12, 0, 1);

/// How many messages each server gets.
const MESSAGES: usize = 3000;

/// The longest wait for a server's own answer; some servers wait for input that never comes.
const PATIENCE: Duration = Duration::from_secs(5);

/// The directory of the scripts.
const SCRIPTS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/it/http/servers");

#[test]
fn nginx_sees_whom_it_serves() {
    judge("nginx", Ability::All, || Program::of(nginx));
}

#[test]
fn apache_sees_whom_it_serves() {
    judge("Apache", Ability::All, || Program::of(apache));
}

#[test]
fn haproxy_sees_whom_it_serves() {
    judge("haproxy", Ability::All, || Program::of(haproxy));
}

#[test]
fn node_sees_whom_it_serves() {
    judge("node", Ability::All, || script("node", "plain.js"));
}

#[test]
fn perl_sees_whom_it_serves() {
    judge("HTTP::Daemon", Ability::All, || script("perl", "plain.pl"));
}

#[test]
fn python_sees_whom_it_serves() {
    judge("http.server", Ability::All, || script("/usr/bin/python3", "plain.py"));
}

#[test]
fn wsgiref_sees_whom_it_serves() {
    judge("wsgiref", Ability::Length, || script("/usr/bin/python3", "wsgi.py"));
}

#[test]
fn gunicorn_sees_whom_it_serves() {
    judge("gunicorn", Ability::One, || Program::of(gunicorn));
}

/// The requests that an honest client can send to a server.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Ability {
    /// Several requests in one segment, with any body.
    All,
    /// One request with any body: gunicorn's plain worker closes each connection.
    One,
    /// One request whose body has a length: wsgiref does not support chunks.
    Length,
}

/// One request that a server accepted.
#[derive(Debug)]
struct Seen {
    path: String,
    /// Length and CRC-32 of the body, if the server reports them.
    body: Option<(usize, u32)>,
    /// Every X-Forwarded-For that it saw.
    lists: Vec<String>,
}

/// Sends all messages through pen to a server and checks the requests that it accepted.
fn judge(name: &str, ability: Ability, start: impl FnOnce() -> Program) {
    let server = start();
    // Another version of pen can be used, to see the test fail.
    let binary = std::env::var_os("PEN_UNDER_TEST").unwrap_or(BINARY.into());
    let pen = Pen::builder()
        .binary(Path::new(&binary))
        .workers(1)
        .options(["-H"])
        .server_as(server.address().to_string())
        .start();
    let mut expected = HashMap::new();
    for number in 0..MESSAGES {
        let mut numbers = Numbers::new(number as u64 + 1);
        if number % 8 == 0 {
            let honest = corpus::honest(number, ability, &mut numbers);
            let got = send(&pen, &honest.pieces, false);
            let answers = String::from_utf8_lossy(&got).matches("HTTP/1.").count();
            assert_eq!(
                answers,
                honest.requests.len(),
                "{name} answers all of message {number}: {honest:?}; it answered {:?}",
                String::from_utf8_lossy(&got)
            );
            expected.extend(honest.requests);
        } else {
            send(&pen, &corpus::wild(&mut numbers), true);
        }
    }
    // A server may write a request down after its answer has left.
    eventually("the server has written all honest requests down", || {
        let seen = seen(server.directory());
        let paths: HashSet<_> = seen.iter().map(|s| s.path.as_str()).collect();
        expected.keys().all(|path| paths.contains(path.as_str()))
    });
    let (mut requests, mut forged) = (0, Vec::new());
    for seen in seen(server.directory()) {
        requests += 1;
        let is_named = |list: &String| list.rsplit([',', ' ']).next() == Some("127.12.0.1");
        if seen.lists.is_empty() || !seen.lists.iter().all(is_named) {
            forged.push(format!("{seen:?}"));
        }
        if let (Some(wanted), Some(body)) = (expected.remove(&seen.path), seen.body) {
            assert_eq!(body, wanted, "{name} got the whole body of {}", seen.path);
        }
    }
    println!("{name}: {requests} requests seen, {} of them not named", forged.len());
    assert!(
        forged.is_empty(),
        "{name} saw requests without their client: {:#?}",
        &forged[..forged.len().min(9)]
    );
}

/// Sends the pieces one by one and returns the answer. It stops when pen accepts no more.
fn send(pen: &Pen, pieces: &[Vec<u8>], finishes: bool) -> Vec<u8> {
    let client = Client::connect(ME.into(), pen.address()).unwrap();
    let socket = client.socket();
    socket.set_tcp_nodelay(true).unwrap();
    socket.set_read_timeout(Some(if finishes { PATIENCE } else { 6 * PATIENCE })).unwrap();
    let mut stream = socket;
    let sent = pieces.iter().try_for_each(|piece| stream.write_all(piece));
    if finishes && sent.is_ok() {
        let _ = socket.shutdown(Shutdown::Write);
    }
    let (mut got, mut buffer) = (Vec::new(), [0; 4096]);
    while let Ok(read @ 1..) = stream.read(&mut buffer) {
        got.extend(&buffer[..read]);
    }
    got
}

/// The records of a server: lines with words separated by tabs, for requests that it did not refuse
/// itself.
fn seen(directory: &Path) -> Vec<Seen> {
    let file = directory.join("seen");
    let text = fs::read(if file.exists() { file } else { directory.join("log") }).unwrap();
    let text = String::from_utf8_lossy(&text);
    let read = |line: &str| {
        let mut words = line.strip_prefix("SEEN\t")?.split('\t');
        let (status, path, length, crc) =
            (words.next()?, words.next()?, words.next()?, words.next()?);
        let is_refused = ["400", "408", "413", "414", "431", "501", "505"].contains(&status);
        let body = length.parse().ok().zip(crc.parse().ok());
        let lists =
            words.filter(|list| !list.is_empty() && *list != "-").map(String::from).collect();
        (!is_refused).then(|| Seen { path: path.to_owned(), body, lists })
    };
    text.lines().filter_map(read).collect()
}

fn script(interpreter: &str, name: &str) -> Program {
    Program::of(|address, _| {
        let mut command = Command::new(interpreter);
        command.arg(format!("{SCRIPTS}/{name}")).arg(address.port().to_string());
        command
    })
}

/// Its workers are killed when they hang: a body that ends too early makes this version loop for
/// ever.
fn gunicorn(address: SocketAddr, directory: &Path) -> Command {
    let mut command = Command::new("gunicorn");
    command.args(["--bind", &address.to_string(), "--workers", "3", "--timeout", "2"]);
    command
        .args(["--chdir", SCRIPTS, "--log-level", "critical", "--pid"])
        .arg(directory.join("pid"))
        .arg("wsgi:app");
    command.env("PYTHONDONTWRITEBYTECODE", "1");
    command
}

/// Accepts underscores and odd names.
fn nginx(address: SocketAddr, directory: &Path) -> Command {
    let root = directory.display();
    let user = if crate::harness::machine::is_root() { "user root;" } else { "" };
    let text = format!(
        "{user} daemon off; master_process off; pid {root}/pid; error_log /dev/null; events {{ }}\n\
         http \
         {{ client_body_temp_path {root}/b; proxy_temp_path {root}/p; fastcgi_temp_path {root}/f;\n\
          uwsgi_temp_path {root}/u;\n\
         scgi_temp_path {root}/s; underscores_in_headers on; ignore_invalid_headers off; \
         lingering_close off;\n\
         log_format seen escape=json \"SEEN\\t$status\\t$uri\\t-\\t-\\t$http_x_forwarded_for\"; \
         access_log {root}/seen seen;\n\
         server {{ listen {address} backlog=511; location / {{ return 200 ok; }} }} }}\n"
    );
    let file = directory.join("nginx.conf");
    fs::write(&file, text).unwrap();
    let mut command = Command::new("/usr/sbin/nginx");
    command.arg("-e").arg("/dev/null").arg("-c").arg(&file).arg("-p").arg(directory);
    command
}

/// Accepts HTTP/0.9, odd methods and odd white space.
fn apache(address: SocketAddr, directory: &Path) -> Command {
    let root = directory.display();
    let user = if crate::harness::machine::is_root() { "User nobody\nGroup nogroup" } else { "" };
    let text = format!(
        "ServerRoot {root}\nServerName x\nListen {address}\nPidFile {root}/pid\nErrorLog \
         /dev/null\n{user}\n\
         LoadModule mpm_event_module /usr/lib/apache2/modules/mod_mpm_event.so\n\
         LoadModule authz_core_module /usr/lib/apache2/modules/mod_authz_core.so\n\
         HttpProtocolOptions Unsafe LenientMethods Allow0.9\nDocumentRoot {root}\nMergeTrailers \
         On\n\
         LogFormat \"SEEN\\t%>s\\t%U\\t-\\t-\\t%{{X-Forwarded-For}}i\" seen\nCustomLog {root}/seen \
         seen\n"
    );
    let file = directory.join("apache.conf");
    fs::write(&file, text).unwrap();
    let mut command = Command::new("/usr/sbin/apache2");
    command.args(["-X", "-f"]).arg(&file);
    command
}

/// Accepts odd requests as far as the option allows. It waits for each body: otherwise it may
/// answer before it has the body, close the connection, and leave later requests unanswered.
fn haproxy(address: SocketAddr, directory: &Path) -> Command {
    let text = format!(
        "global\n log stdout format raw local0\ndefaults\n mode http\n timeout client 30s\n \
         timeout http-request 5s\n\
         frontend f\n bind {address}\n option accept-invalid-http-request\n log global\n \
         option http-buffer-request\n \
         http-request set-var(txn.path) path\n\
         http-request set-var(txn.first) req.fhdr(x-forwarded-for,1)\n http-request \
         set-var(txn.last) req.fhdr(x-forwarded-for)\n\
         log-format SEEN\\t%ST\\t%[var(txn.path)]\\t-\\t-\\t%[var(txn.first)]\\t%[var(txn.last)]\n\
         http-request return status 200 content-type text/plain string ok\n"
    );
    let file = directory.join("haproxy.cfg");
    fs::write(&file, text).unwrap();
    let mut command = Command::new("/usr/sbin/haproxy");
    command.arg("-db").arg("-f").arg(&file);
    command
}
