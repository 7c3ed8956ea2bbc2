//! Several pens at once, the time limit, the help, and tables on a terminal.

use std::io::{BufRead, BufReader};
use std::net::TcpListener;
use std::os::unix::net::UnixListener;
use std::thread;

use super::{answering, complains, echoing, in_a_terminal, on_a_terminal, penctl};
use crate::harness::{Backend, Pen, Port, tls};

#[test]
fn several_addresses_get_the_same_command_each_under_its_heading() {
    let (one, two) = (echoing("127.0.0.1:0"), echoing("127.0.0.1:0"));
    let (status, out, why) = penctl(&[&one.address, &two.address, "server", "1", "max", "5"], "");
    let expected = format!(
        "==> {} <==\nyou said server 1 max 5\n\n==> {} <==\nyou said server 1 max 5\n",
        one.address, two.address
    );
    assert_eq!((status, out.as_str(), why.as_str()), (0, expected.as_str(), ""));
    // Lines of standard input go to all of them too.
    let (status, out, _) = penctl(&[&one.address, &two.address], "mode\npid\n");
    assert_eq!((status, out.matches("you said mode\n").count()), (0, 2), "{out}");
    assert_eq!(out.matches("==> ").count(), 4, "{out}");
    let rest: Vec<String> = two.lines.try_iter().collect();
    assert_eq!(rest, ["server 1 max 5\n", "mode\n", "pid\n"]);
}

#[test]
fn the_name_of_a_socket_cannot_move_the_cursor() {
    let folder = tempfile::tempdir().unwrap();
    let nobody = |name: &str| drop(UnixListener::bind(folder.path().join(name)).unwrap());
    nobody("a\u{1b}[2Jb.ctl");
    nobody("c.ctl");
    let pattern = format!("'{}/*.ctl'", folder.path().display());
    for words in ["mode", "--json overview"] {
        let shown = in_a_terminal(
            "xterm",
            "1",
            &format!("{} {pattern} {words} || echo status $?", crate::harness::control::PENCTL),
            "",
        );
        assert!(shown.contains("a?[2Jb.ctl: error connecting to server: "), "{shown:?}");
        assert!(!shown.contains('\u{1b}') && shown.ends_with("status 1\r\n"), "{shown:?}");
    }
}

#[test]
fn the_worst_status_counts_and_the_others_are_asked_all_the_same() {
    let (good, closed) = (echoing("127.0.0.1:0"), Port::reserve());
    let closed = closed.address().to_string();
    let (status, out, why) = penctl(&[&closed, &good.address, "mode"], "");
    assert_eq!(status, 1);
    assert!(out.ends_with(&format!("==> {} <==\nyou said mode\n", good.address)), "{out}");
    assert!(why.starts_with(&format!("{closed}: error connecting to server")), "{why}");
    assert!(why.ends_with("\n1 of 2 gave no reply\n") && why.lines().count() == 2, "{why}");
    // The port refuses this word.
    assert_eq!(penctl(&[&good.address, &good.address, "frob"], "").0, 2);
    assert_eq!(penctl(&[&closed, &good.address, "frob"], "").0, 1);
}

#[test]
fn with_json_the_replies_of_several_are_one_object() {
    let servers = [Backend::named("a"), Backend::named("b")];
    let pens = [0, 1].map(|index| Pen::builder().server(&servers[index]).control().start());
    let closed = Port::reserve();
    let places = pens.each_ref().map(|pen| pen.control().to_string());
    let (status, out, _) = penctl(&["--json", &places[0], &places[1], "servers"], "");
    let object: serde_json::Value = serde_json::from_str(&out).unwrap();
    assert_eq!(status, 0);
    for (index, server) in servers.iter().enumerate() {
        assert_eq!(object[&places[index]][0]["port"], server.address().port());
    }
    let closed = closed.address().to_string();
    let (status, out, why) = penctl(&[&places[0], &closed, "mode", "--json"], "");
    let object: serde_json::Value = serde_json::from_str(&out).unwrap();
    assert!(status == 1 && object[&closed].is_null() && object[&places[0]].is_object(), "{out}");
    assert!(why.contains("error connecting to server"), "{why}");
}

#[test]
fn a_pattern_finds_the_sockets_of_all_pens() {
    let directory = tempfile::tempdir().unwrap();
    let server = Backend::named("a");
    let path = |name: &str| directory.path().join(name);
    let _pens = ["b.ctl", "a.ctl"]
        .map(|name| Pen::builder().server(&server).control_unix(&path(name)).start());
    std::fs::write(path("c.ctl"), "no socket").unwrap();
    let pattern = path("*.ctl").into_os_string().into_string().unwrap();
    let (status, out, _) = penctl(&[&pattern, "blacklist"], "");
    let expected = ["a.ctl", "b.ctl"].map(|name| format!("==> {} <==\n30\n", path(name).display()));
    assert_eq!((status, out), (0, expected.join("\n")));
    let none = path("*.none").into_os_string().into_string().unwrap();
    complains(&[&none, "blacklist"], &format!("{none}: no socket has such a path\n"));
    // One match is one pen, without a heading.
    let one = path("a*").into_os_string().into_string().unwrap();
    assert_eq!(penctl(&[&one, "blacklist"], "").1, "30\n");
}

#[test]
fn the_user_says_how_long_to_wait() {
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = silent.local_addr().unwrap().to_string();
    thread::spawn(move || {
        for connection in silent.incoming() {
            let connection = connection.unwrap();
            thread::spawn(move || BufReader::new(&connection).lines().count());
        }
    });
    let complaint = format!("no reply from {address}: gave up after 1 second without progress\n");
    complains(&["--timeout", "1", &address, "mode"], &complaint);
    complains(&[&address, "mode", "--timeout=1"], &complaint);
    complains(&[&address, "upgrade", "--timeout=1"], &complaint);
    complains(&["--timeout", "soon", &address, "mode"], "--timeout: 'soon' is no number");
    let port = echoing("127.0.0.1:0");
    assert_eq!(penctl(&["--timeout", "9", &port.address, "mode"], "").1, "you said mode\n");
}

#[test]
fn the_help_of_commands_needs_no_pen() {
    let pen = Pen::builder().server(&Backend::named("a")).control().start();
    let (status, list, _) = penctl(&["help"], "");
    assert_eq!((status, list), (0, pen.tell("help") + "penctl itself adds: top\n"));
    let (status, one, _) = penctl(&["help", "tracking"], "");
    assert_eq!((status, one), (0, pen.tell("help tracking")));
    let (status, out, why) = penctl(&["help", "sevrers"], "");
    assert_eq!((status, why.as_str()), (2, ""));
    assert_eq!(out, pen.tell("help sevrers"));
}

#[test]
fn on_a_terminal_reports_are_tables() {
    let server = Backend::named("a");
    let directory = tempfile::tempdir().unwrap();
    let identity = tls::Authority::root("test root").issue(&["www.example"]);
    let file = tls::write(directory.path(), "both.pem", identity.chain.clone() + &identity.key);
    let pen =
        Pen::builder().options(["-E", file.to_str().unwrap()]).server(&server).control().start();
    let place = pen.control().to_string();
    let shown = on_a_terminal(&format!("{place} certificates"), "");
    assert!(shown.contains("expires") && shown.contains("in "), "{shown}");
    let shown = on_a_terminal(&format!("{place} recent 60"), "");
    assert!(shown.contains("last seen") && shown.contains("0 clients"), "{shown}");
    let shown = on_a_terminal(&format!("{place} overview"), "");
    assert!(shown.contains("running for") && shown.contains("1 of 1 servers up"), "{shown}");
    // The form for programs stays.
    for command in ["certificates", "recent", "overview"] {
        let (status, out, _) = penctl(&[&place, command], "");
        let told = pen.tell(command);
        let same = out == told || command == "overview" && out.starts_with("{\"version\":");
        assert!(status == 0 && same, "{command}: {out}");
    }
    let json = on_a_terminal(&format!("--json {place} overview"), "");
    assert!(json.starts_with("{\"version\":"), "{json}");
    for columns in [40, 80] {
        for command in ["certificates", "recent", "overview"] {
            let line = format!("stty columns {columns}; {} {place} {command}", super::PENCTL);
            let shown = in_a_terminal("xterm", "1", &line, "");
            let longest = shown.lines().map(|line| line.trim_end().chars().count()).max().unwrap();
            assert!(longest <= columns, "{command}, {columns}: {shown}");
        }
    }
}

#[test]
fn a_pen_without_json_gives_the_list_on_a_terminal_too() {
    let port = answering("127.0.0.1:0", |line, connection| {
        use std::io::Write;
        let reply: &[u8] = match line.trim() {
            "recent" => b"127.0.0.1 connects 2 sx 82 rx 56\n",
            _ => b"recent: json is no number\n",
        };
        connection.write_all(reply).unwrap();
    });
    let shown = on_a_terminal(&format!("{} recent", port.address), "");
    assert_eq!(shown, "127.0.0.1 connects 2 sx 82 rx 56\r\n");
}
