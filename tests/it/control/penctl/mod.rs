//! penctl alone: addresses, messages, exit statuses, and its behaviour without a command.

mod pens;
mod top;
mod watch;

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::unix::net::UnixListener;
use std::process::{Command, Stdio};
use std::sync::mpsc::{self, Receiver};
use std::thread;

use crate::harness::control::{PENCTL, run_penctl, text};
use crate::harness::{Backend, Pen, Port};

/// A control port that records lines and answers each with a given reply.
struct Fake {
    address: String,
    lines: Receiver<String>,
}

fn answering(on: &str, answer: impl Fn(&str, &mut TcpStream) + Send + 'static) -> Fake {
    let listener = TcpListener::bind(on).unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let (tell, lines) = mpsc::channel();
    thread::spawn(move || {
        for connection in listener.incoming() {
            let mut connection = connection.unwrap();
            let mut line = String::new();
            BufReader::new(connection.try_clone().unwrap()).read_line(&mut line).unwrap();
            // As a control port does for penctl.
            if let Some(command) = line.strip_prefix("outcome ") {
                let head = if command == "frob\n" { "outcome: error\n" } else { "outcome: ok\n" };
                connection.write_all(head.as_bytes()).unwrap();
                line = command.to_owned();
            }
            answer(&line, &mut connection);
            if tell.send(line).is_err() {
                return;
            }
        }
    });
    Fake { address, lines }
}

/// A control port that replies with the command.
fn echoing(on: &str) -> Fake {
    answering(on, |line, connection| {
        connection.write_all(format!("you said {line}").as_bytes()).unwrap()
    })
}

/// Runs penctl and returns its status, its output and its error message.
#[track_caller]
fn penctl(words: &[&str], input: &str) -> (i32, String, String) {
    let output = run_penctl(PENCTL, words, input);
    (output.status.code().unwrap(), text(&output.stdout), text(&output.stderr))
}

#[track_caller]
fn complains(words: &[&str], complaint: &str) {
    let (status, out, complained) = penctl(words, "");
    assert_eq!((status, out.as_str()), (1, ""), "{words:?}");
    assert!(
        complained.starts_with(complaint) && complained.lines().count() == 1,
        "{words:?}: {complained:?}"
    );
}

#[test]
fn words_are_joined_by_single_spaces_and_the_reply_is_copied() {
    let port = echoing("127.0.0.1:0");
    let (status, out, complaint) = penctl(&[&port.address, "server", "1", "max", "5"], "");
    assert_eq!((status, out.as_str(), complaint.as_str()), (0, "you said server 1 max 5\n", ""));
    assert_eq!(port.lines.recv().unwrap(), "server 1 max 5\n");
}

#[test]
fn a_reply_may_be_empty_or_large_or_an_error() {
    let port = answering("127.0.0.1:0", |line, connection| match line.trim() {
        "nothing" => {}
        "much" => connection.write_all(&vec![b'x'; 10_000_000]).unwrap(),
        _ => connection.write_all(b"do_cmd: ignoring command starting with 'frob'\n").unwrap(),
    });
    assert_eq!(penctl(&[&port.address, "nothing"], ""), (0, String::new(), String::new()));
    assert_eq!(penctl(&[&port.address, "much"], "").1.len(), 10_000_000);
    let (status, out, complaint) = penctl(&[&port.address, "frob"], "");
    assert_eq!((status, out.as_str()), (2, "do_cmd: ignoring command starting with 'frob'\n"));
    assert_eq!(complaint, "");
}

/// The server replies as the original's control port, and older releases, do to a line with an
/// unknown first word.
#[test]
fn a_pen_that_does_not_tell_outcomes_is_asked_once_more_without() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let asked = thread::spawn(move || {
        let mut asked = Vec::new();
        while asked.len() < 6 {
            let (mut connection, _) = listener.accept().unwrap();
            let mut line = String::new();
            BufReader::new(connection.try_clone().unwrap()).read_line(&mut line).unwrap();
            let word = line.split_whitespace().next().unwrap().to_owned();
            let reply = match word.as_str() {
                "blacklist" => "30\n".to_owned(),
                "roundrobin" => String::new(),
                _ => format!("do_cmd: ignoring command starting with '{word}'\n"),
            };
            connection.write_all(reply.as_bytes()).unwrap();
            asked.push(line);
        }
        asked
    });
    assert_eq!(penctl(&[&address, "blacklist"], ""), (0, "30\n".to_owned(), String::new()));
    assert_eq!(penctl(&[&address, "roundrobin"], ""), (0, String::new(), String::new()));
    let unknown = "do_cmd: ignoring command starting with 'frob'\n".to_owned();
    assert_eq!(penctl(&[&address, "frob"], ""), (0, unknown, String::new()));
    let commands = [
        "outcome blacklist",
        "blacklist",
        "outcome roundrobin",
        "roundrobin",
        "outcome frob",
        "frob",
    ];
    assert_eq!(asked.join().unwrap(), commands.map(|command| format!("{command}\n")));
}

#[test]
fn a_reply_that_never_begins_is_none() {
    let port = Port::reserve();
    let listener = TcpListener::bind(port.address()).unwrap();
    thread::spawn(move || {
        let (connection, _) = listener.accept().unwrap();
        BufReader::new(connection).read_line(&mut String::new()).unwrap();
    });
    complains(
        &[&port.address().to_string(), "acl", "1", "deny", "10.0.0.1"],
        "no reply from 127.0.0.1:",
    );
}

#[test]
fn the_status_says_whether_the_command_was_carried_out() {
    let server = Backend::named("a");
    let pen = Pen::builder().server(&server).control().start();
    let place = pen.control().to_string();
    let status = |words: &[&str]| penctl(&[&[place.as_str()], words].concat(), "").0;
    for words in [
        &["servers"][..],
        &["roundrobin"],
        &["blacklist", "5"],
        &["server", "0", "max", "5"],
        &["explain", "192.0.2.1"],
        &["help"],
        &["help", "acl"],
        &["connection"],
        &["#", "nothing"],
    ] {
        assert_eq!(status(words), 0, "{words:?}");
    }
    let directory = tempfile::tempdir().unwrap();
    let bad = directory.path().join("bad.conf");
    std::fs::write(&bad, "frob\n").unwrap();
    for words in [
        &["frob"][..],
        &["blacklist", "x"],
        &["conn_max", "1"],
        &["close", "0"],
        &["close", "99999999"],
        &["connection", "99999999"],
        &["exit"],
        &["server"],
        &["server", "99", "address", "127.0.0.1"],
        &["server", "0", "adress", "x"],
        &["acl", "1", "deny", "A", "B"],
        &["explain", "www"],
        &["include", "/no/such/file"],
        &["include", bad.to_str().unwrap()],
        &["log", "/no/such/directory/log"],
        &["write"],
        &["write", "/no/such/directory/file"],
        &["web_stats", "/no/such/directory/file"],
        &["listen", "192.0.2.1:80"],
        &["source", "nowhere"],
        &["tcp_fastclose"],
        &["help", "frob"],
        &["no", "frob"],
        &["peek"],
        &["dsr_if", "eth0"],
    ] {
        assert_eq!(status(words), 2, "{words:?}");
    }
    // Several commands: all are carried out, and the status is that of the worst.
    let (status, out, _) = penctl(&[&place], "blacklist x\ntimeout 7\ntimeout\n");
    assert_eq!((status, out.ends_with("7\n7\n")), (2, true), "{out}");
}

#[test]
fn a_pen_that_ends_on_command_says_that_it_does() {
    let server = Backend::named("a");
    let mut pen = Pen::builder().options(["-X"]).server(&server).control().start();
    pen.ends_when(|pen| {
        assert_eq!(
            penctl(&[&pen.control().to_string(), "exit"], ""),
            (0, String::new(), String::new())
        );
    });
}

#[test]
fn other_clients_of_the_port_see_nothing_of_it() {
    let server = Backend::named("a");
    let pen = Pen::builder().server(&server).control().start();
    assert_eq!(pen.control().tell("blacklist"), "30\n");
    assert_eq!(pen.control().tell("roundrobin"), "");
    assert_eq!(pen.control().tell("frob"), "do_cmd: ignoring command starting with 'frob'\n");
    assert_eq!(pen.control().tell("exit"), "Exit is not enabled; restart with -X flag\n");
    assert_eq!(
        pen.control().tell("sevrers"),
        "do_cmd: ignoring command starting with 'sevrers'; did you mean 'servers'?\n"
    );
}

#[test]
fn addresses_are_ports_of_hosts_or_paths() {
    for (on, form) in [
        ("127.0.0.1:0", "127.0.0.1"),
        ("127.0.0.1:0", "localhost"),
        ("[::1]:0", "::1"),
        ("[::1]:0", "[::1]"),
    ] {
        let port = echoing(on);
        let number = port.address.rsplit(':').next().unwrap();
        let (status, out, complaint) = penctl(&[&format!("{form}:{number}"), "mode"], "");
        assert_eq!((status, out.as_str()), (0, "you said mode\n"), "{form}: {complaint}");
    }
    let port = echoing("127.0.0.1:0");
    let number = port.address.rsplit(':').next().unwrap();
    assert_eq!(
        penctl(&[number, "mode"], ""),
        (0, "you said mode\n".to_owned(), String::new()),
        "a port alone"
    );
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("control");
    let listener = UnixListener::bind(&path).unwrap();
    thread::spawn(move || {
        let (mut connection, _) = listener.accept().unwrap();
        let mut line = String::new();
        BufReader::new(connection.try_clone().unwrap()).read_line(&mut line).unwrap();
        let command = line.strip_prefix("outcome ").unwrap();
        connection
            .write_all(format!("outcome: ok\n{}", command.to_uppercase()).as_bytes())
            .unwrap();
    });
    assert_eq!(penctl(&[path.to_str().unwrap(), "mode"], "").1, "MODE\n");
}

#[test]
fn what_goes_wrong_is_one_line_and_status_1() {
    complains(&[], "usage: penctl ");
    // There is no command, and the input has none either.
    complains(&["localhost:8888"], "usage: penctl ");
    complains(&["--json", "/no/such/socket"], "usage: penctl ");
    complains(&["www", "mode"], "no port given; a Unix socket needs a '/': ./www\n");
    complains(&["localhost:", "mode"], "no port given\n");
    let port = Port::reserve();
    complains(&[&port.address().to_string(), "mode"], "error connecting to server");
    complains(&["/no/such/socket", "mode"], "error connecting to server");
    complains(&["no.such.host.invalid:8888", "mode"], "getaddrinfo: ");
    complains(&["localhost:no-such-service", "mode"], "getaddrinfo: ");
    complains(&["localhost:99999", "mode"], "99999 is no port");
    let long = "x".repeat(4096);
    complains(&[&port.address().to_string(), &long], "Overlong argument list\n");
    complains(&["--json", &port.address().to_string(), "roundrobin"], "--json: ");
}

#[test]
fn a_connection_that_breaks_before_the_end_is_no_reply() {
    let port = answering("127.0.0.1:0", |_, connection| {
        connection.write_all(b"half a re").unwrap();
        let socket = socket2::SockRef::from(&*connection);
        socket.set_linger(Some(std::time::Duration::ZERO)).unwrap();
    });
    let (status, _, complaint) = penctl(&[&port.address, "mode"], "");
    assert_eq!(status, 1);
    assert!(complaint.starts_with("no reply from 127.0.0.1:"), "{complaint}");
}

#[test]
fn json_asks_for_the_json_form() {
    let port = echoing("127.0.0.1:0");
    for (words, asked) in [
        (&["servers"][..], "servers json"),
        (&["recent", "60"], "recent 60 json"),
        (&["mode"], "mode json"),
    ] {
        let mut all = vec!["--json", &port.address];
        all.extend(words);
        assert_eq!(penctl(&all, "").1, format!("you said {asked}\n"));
    }
}

#[test]
fn without_a_command_it_obeys_its_input_line_by_line() {
    let port = echoing("127.0.0.1:0");
    let (status, out, _) = penctl(&[&port.address], "mode\n\n# a note\n  servers\r\npid");
    assert_eq!((status, out.as_str()), (0, "you said mode\nyou said   servers\nyou said pid\n"));
    let asked: Vec<String> = (0..3).map(|_| port.lines.recv().unwrap()).collect();
    assert_eq!(asked, ["mode\n", "  servers\n", "pid\n"]);
    let closed = Port::reserve();
    let (status, _, complaint) = penctl(&[&closed.address().to_string()], "mode\nmode\n");
    assert_eq!(
        (status, complaint.lines().count()),
        (1, 1),
        "it stops at the first that gets no reply"
    );
}

/// The output of penctl on a terminal (made by script(1)) whose user types this. The terminal does
/// not report its width.
#[track_caller]
fn on_a_terminal(words: &str, typed: &str) -> String {
    on_a_terminal_of("xterm", "", words, typed)
}

/// The same on a terminal of this kind, with this value of NO_COLOR.
#[track_caller]
fn on_a_terminal_of(kind: &str, no_color: &str, words: &str, typed: &str) -> String {
    in_a_terminal(kind, no_color, &format!("{PENCTL} {words}"), typed)
}

/// The output of a shell command on such a terminal.
#[track_caller]
fn in_a_terminal(kind: &str, no_color: &str, command: &str, typed: &str) -> String {
    let mut child = Command::new("script")
        .env("TERM", kind)
        .env("NO_COLOR", no_color)
        .args(["-qec", command, "/dev/null"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut input = child.stdin.take().unwrap();
    input.write_all(typed.as_bytes()).unwrap();
    let mut shown = String::new();
    child.stdout.take().unwrap().read_to_string(&mut shown).unwrap();
    drop(input);
    assert!(child.wait().unwrap().success(), "{shown}");
    shown
}

#[test]
fn exit_and_quit_leave_the_prompt_and_help_helps() {
    let server = Backend::named("a");
    let mut pen = Pen::builder().options(["-X"]).server(&server).control().start();
    let place = pen.control().to_string();
    for leave in ["exit", "quit", "  exit  "] {
        let shown = on_a_terminal(&place, &format!("{leave}\n"));
        assert!(!shown.contains("ignoring"), "{leave}: {shown}");
    }
    let shown = on_a_terminal(&place, "help\nhelp tracking\nexit pen\nn\nblacklist\nquit\n");
    assert!(
        shown.contains("exit, quit or Ctrl-D leaves it. exit pen ends pen itself")
            && shown.contains("explain ADDRESS"),
        "{shown}"
    );
    assert!(shown.contains("usage: tracking [SECONDS]"), "{shown}");
    let asked = on_a_terminal(&place, "help quit\nquit\n");
    assert!(
        asked.contains("exit, quit or Ctrl-D leaves it") && !asked.contains("no command is called"),
        "{asked}"
    );
    assert!(on_a_terminal(&place, "help no\nquit\n").contains("usage: no COMMAND"));
    let keys = on_a_terminal(&place, "\u{1b}[A\nquit\n");
    assert!(!keys.contains("ignoring"), "what a key wrote is not sent: {keys}");
    assert!(shown.contains("End pen itself") && shown.contains("30\r\n"), "it lives on: {shown}");
    pen.ends_when(|pen| drop(on_a_terminal(&pen.control().to_string(), "exit pen\ny\nquit\n")));
}

/// Servers in all states: 0 up, 1 taken out by an operator, 2 failed, 3 full.
fn in_every_state() -> (Vec<Backend>, Port, Pen) {
    let servers: Vec<Backend> = ["a", "b", "d", "e"].map(Backend::named).into();
    let closed = Port::reserve();
    let pen = Pen::builder()
        .options(["-r", "-e", &servers[3].address().to_string()])
        .server(&servers[0])
        .server(&servers[1])
        .server_as(closed.address().to_string())
        .server_as(format!("{}:1:1", servers[2].address()))
        .control()
        .start();
    (servers, closed, pen)
}

/// Three clients, after which server 2 has failed and server 3 is full.
fn three_clients(pen: &Pen) -> Vec<(crate::harness::Client, String)> {
    let clients: Vec<_> = (1..=3).map(|n| pen.hold([127, 0, 0, n]).unwrap()).collect();
    assert!(clients.iter().any(|(_, name)| name == "d"));
    clients
}

#[test]
fn on_a_terminal_servers_is_a_table_and_elsewhere_the_list_of_ever() {
    let (_servers, _closed, pen) = in_every_state();
    let place = pen.control().to_string();
    assert_eq!(
        penctl(&[&place, "server", "1", "blacklist", "4000"], ""),
        (0, String::new(), String::new())
    );
    let _held = three_clients(&pen);
    let shown = on_a_terminal_of("xterm", "1", &format!("{place} servers"), "");
    let line = |begin: &str| {
        shown.lines().find(|line| line.starts_with(begin)).unwrap_or_else(|| panic!("{shown}"))
    };
    assert!(line("0 ").contains(" up ") && line("emergency ").contains(" up "), "{shown}");
    assert!(line("1 ").contains(" out 67 min by operator "), "{shown}");
    assert!(
        line("2 ").contains(": connection refused ") && line("2 ").contains(" failed "),
        "{shown}"
    );
    assert!(line("2 ").contains(" ago: connection refused"), "{shown}");
    assert!(
        line("3 ").contains(" full ")
            && line("3 ").contains("1 of 1")
            && line("3 ").contains("33%"),
        "{shown}"
    );
    assert!(
        shown.contains("3 of 256 connections; ")
            && shown.contains("2 of 4 servers up, 1 full; running for "),
        "{shown}"
    );
    assert!(
        shown.contains(&format!("; pen {}", env!("CARGO_PKG_VERSION"))) && !shown.contains('\x1b'),
        "{shown}"
    );
    assert!(
        on_a_terminal(&format!("{place} servers"), "").contains("\x1b[33mout 67 min by operator")
    );
    assert!(!on_a_terminal_of("dumb", "", &format!("{place} servers"), "").contains('\x1b'));
    assert!(on_a_terminal(&place, "servers\nquit\n").contains("last failure"), "at the prompt too");
    let (status, out, _) = penctl(&[&place, "servers"], "");
    assert_eq!((status, out), (0, pen.control().tell("servers")));
    assert!(pen.control().tell("servers").starts_with("0 addr 127.0.0.1 port "));
    pen.tells("server 1 blacklist 0", "");
    pen.hears("operator: server 1 blacklist 4000, by 127.0.0.1");
    pen.hears("operator: server 1 blacklist 0, by 127.0.0.1");
}

#[test]
fn no_line_of_the_table_is_longer_than_the_terminal_is_wide() {
    let (_servers, _closed, pen) = in_every_state();
    let place = pen.control().to_string();
    pen.tells("server 1 blacklist 4000", "");
    let _held = three_clients(&pen);
    for columns in [40, 80, 100, 200] {
        let shown = in_a_terminal(
            "xterm",
            "1",
            &format!("stty columns {columns}; {PENCTL} {place} servers"),
            "",
        );
        let longest = shown.lines().map(|line| line.trim_end().chars().count()).max().unwrap();
        assert!(longest <= columns, "{columns} columns, and one line has {longest}:\n{shown}");
        assert!(columns < 80 || shown.contains("connection refused"), "{columns}: {shown}");
    }
}

#[test]
fn failure_and_maintenance_are_told_apart_everywhere() {
    let (_servers, _closed, pen) = in_every_state();
    pen.tells("server 1 blacklist 4000", "");
    let _held = three_clients(&pen);
    let explained = pen.control().tell("explain 192.0.2.1");
    assert!(explained.contains("s more by an operator\n"), "{explained}");
    assert!(explained.contains("s more: connection refused\n"), "{explained}");
    let page = pen.control().tell("status");
    assert!(
        page.contains("<em>taken out by an operator ") && page.contains("<em>failed "),
        "{page}"
    );
    assert!(page.contains(" more: connection refused</em>"), "{page}");
    let json: serde_json::Value =
        serde_json::from_str(&pen.control().tell("servers json")).unwrap();
    let states: Vec<&str> = (0..4).map(|number| json[number]["state"].as_str().unwrap()).collect();
    assert_eq!(states, ["up", "out", "failed", "full"]);
    assert_eq!(json[2]["last_failure"]["reason"], "connection refused");
}

#[test]
fn recent_says_each_clients_server() {
    let (servers, _closed, pen) = in_every_state();
    let (_held, name) = pen.hold([127, 0, 0, 7]).unwrap();
    let number = ["a", "b"].iter().position(|known| *known == name).unwrap();
    let server = servers[number].address();
    let recent = pen.control().tell("recent");
    assert!(recent.starts_with("127.0.0.7 connects 1 sx "), "{recent}");
    assert!(recent.ends_with(&format!(" server {number} {server}\n")), "{recent}");
}

#[test]
fn a_local_operator_is_told_by_its_uid() {
    let server = Backend::named("a");
    let directory = tempfile::tempdir().unwrap();
    let pen =
        Pen::builder().server(&server).control_unix(&directory.path().join("control")).start();
    pen.tells("server 0 blacklist 60", "");
    pen.hears(&format!(
        "operator: server 0 blacklist 60, by uid {}",
        rustix::process::getuid().as_raw()
    ));
}

#[test]
fn an_older_pen_gives_the_list_on_a_terminal_too() {
    let port = answering("127.0.0.1:0", |line, connection| match line.trim() {
        "servers" => connection.write_all(b"0 addr 127.0.0.1 port 80 conn 0\n").unwrap(),
        word => connection
            .write_all(format!("do_cmd: ignoring command starting with '{word}'\n").as_bytes())
            .unwrap(),
    });
    let shown = on_a_terminal(&format!("{} servers", port.address), "");
    assert_eq!(shown, "0 addr 127.0.0.1 port 80 conn 0\r\n");
}

#[test]
fn on_a_terminal_it_prompts_and_goes_on_after_errors() {
    let server = Backend::named("a");
    let pen = Pen::builder().server(&server).control().start();
    let shown = on_a_terminal(&pen.control().to_string(), "mode\nfrob\npid\n\x04");
    assert!(shown.contains("pen> ") && shown.contains("no hash no roundrobin"), "{shown}");
    assert!(shown.contains("ignoring command starting with 'frob'"), "{shown}");
    assert!(shown.contains(&pen.supervisor().pid().to_string()), "{shown}");
}

#[test]
fn an_argument_with_a_line_in_it_and_an_unknown_option_are_errors() {
    let server = Backend::named("a");
    let pen = Pen::builder().server(&server).control().start();
    let place = pen.control().to_string();
    let (status, said, why) = penctl(&[&place, "timeout 9\npid"], "");
    assert_eq!((status, said.as_str()), (1, ""));
    assert!(why.starts_with("'timeout 9\\npid': a line's end in an argument"), "{why}");
    pen.tells("timeout", "5");
    let (status, _, why) = penctl(&["-x", "8888"], "");
    assert!(status == 1 && why.starts_with("unknown option '-x'; usage: penctl "), "{why}");
    let (status, said, _) = penctl(&["--json", &place, "overview"], "");
    assert!(status == 0 && said.starts_with('{'), "{said}");
}

#[test]
fn help_and_version_are_no_errors() {
    assert!(penctl(&["--help"], "").1.starts_with("usage: penctl "));
    assert_eq!(
        penctl(&["--version"], ""),
        (0, format!("penctl {}\n", env!("CARGO_PKG_VERSION")), String::new())
    );
}
