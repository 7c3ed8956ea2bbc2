//! The live view in a real terminal.

use std::io::Write;
use std::net::TcpListener;

use rustix::process::Signal;

use super::{PENCTL, answering, complains, in_a_terminal, penctl};
use crate::harness::terminal::Terminal;
use crate::harness::{Backend, Pen, Port, eventually, until};

/// Three servers, one of which refuses connections.
fn three_servers() -> (Vec<Backend>, Port, Pen) {
    let servers: Vec<Backend> = ["a", "b"].map(Backend::named).into();
    let closed = Port::reserve();
    let pen = Pen::builder()
        .options(["-r"])
        .server_as(format!("{}:5:7", servers[0].address()))
        .server(&servers[1])
        .server_as(closed.address().to_string())
        .control()
        .start();
    (servers, closed, pen)
}

fn top(size: (u16, u16), place: &str) -> Option<Terminal> {
    Terminal::run(size, &format!("{PENCTL} {place} top"))
}

#[test]
fn it_shows_pen_at_a_glance_in_small_and_large_terminals() {
    let (servers, _closed, pen) = three_servers();
    let place = pen.control().to_string();
    let Some(terminal) = top((80, 24), &place) else { return };
    let version = format!("pen {}  {place}  listens on ", env!("CARGO_PKG_VERSION"));
    terminal.shows(&[&version, "connections", "0 of 256", "workers", "3 of 3 servers up"]);
    // What happens is seen.
    let _held: Vec<_> = (1..=3).map(|n| pen.hold([127, 0, 0, n]).unwrap()).collect();
    let screen = terminal.shows(&["3 of 256", "2 of 3 servers up", "connection refused", "/5 "]);
    let line = |begin: &str| {
        let line = screen.lines().find(|line| line.starts_with(begin));
        line.unwrap_or_else(|| panic!("{begin}:\n{screen}"))
    };
    assert!(line("0 ").contains(" up ") && line("2 ").contains(" failed "), "{screen}");
    assert!(line("1 ").contains(&servers[1].address().port().to_string()), "{screen}");
    assert!(!line("#").contains("of new"), "{screen}");
    terminal.resize(200, 50);
    let screen = terminal.shows(&["of new", "p50", "p99", ": connection refused"]);
    assert_eq!(screen.lines().count(), 50, "{screen}");
    terminal.resize(50, 10);
    terminal.shows(&["top needs 60x12, here are 50x10"]);
    terminal.resize(80, 24);
    terminal.shows(&["2 of 3 servers up", "? help"]);
    terminal.types("?");
    terminal.shows(&["any other key: back", "blacklist the server"]);
    terminal.presses("Escape");
    terminal.presses("Enter");
    terminal.shows(&["any other key: back", "weight"]);
    terminal.types("x");
    terminal.types("C");
    terminal.shows_when("the order", |screen| screen.contains("conn▼") && !screen.contains("back"));
    terminal.types("/refused");
    terminal.presses("Enter");
    terminal.shows_when("one server", |screen| {
        screen.lines().any(|line| line.starts_with("2 "))
            && !screen.lines().any(|line| line.starts_with("0 "))
    });
    terminal.types("q");
    terminal.shows(&["status 0."]);
    terminal.is_given_back();
}

/// This needs no tmux.
#[test]
fn it_takes_the_terminal_and_gives_it_back() {
    let (_servers, _closed, pen) = three_servers();
    let line = format!("stty columns 80 rows 24; {PENCTL} {} top", pen.control());
    let shown = in_a_terminal("xterm", "", &line, "?xq");
    let (taken, given_back) = ("\x1b[?1049h", "\x1b[?1049l");
    let begin = shown.find(taken).unwrap_or_else(|| panic!("{shown:?}"));
    let end = shown.rfind(given_back).unwrap_or_else(|| panic!("{shown:?}"));
    assert!(shown[begin..end].contains("servers"), "{shown:?}");
    assert!(shown[end..].contains("\x1b[?25h"), "the cursor is shown again: {shown:?}");
    let dumb = format!("stty columns 80 rows 24; {PENCTL} {} top || echo $?", pen.control());
    let shown = in_a_terminal("dumb", "", &dumb, "");
    assert_eq!(
        shown,
        "top: this terminal cannot move its cursor (TERM); watch needs none\r\n1\r\n"
    );
}

#[test]
fn colours_are_left_out_on_request() {
    let (_servers, _closed, pen) = three_servers();
    let _held = pen.hold([127, 0, 0, 1]).unwrap();
    let place = pen.control().to_string();
    let Some(plain) = Terminal::run((80, 24), &format!("NO_COLOR=1 {PENCTL} {place} top")) else {
        return;
    };
    let coloured = top((80, 24), &place).unwrap();
    plain.shows(&["servers up", "? help"]);
    coloured.shows(&["servers up", "? help"]);
    let codes = |terminal: &Terminal| -> Vec<String> {
        let screen = terminal.coloured_screen();
        let codes = screen.split("\x1b[").skip(1).filter_map(|rest| rest.split_once('m'));
        codes.flat_map(|(code, _)| code.split(';').map(str::to_owned).collect::<Vec<_>>()).collect()
    };
    // 39 and 49 are the terminal's own colours.
    let is_colour = |code: &String| {
        code.len() > 1 && code.starts_with(['3', '4', '9']) && code != "39" && code != "49"
    };
    eventually("colours", || codes(&coloured).iter().any(is_colour));
    assert!(!codes(&plain).iter().any(is_colour), "{:?}", codes(&plain));
    assert!(codes(&plain).iter().any(|code| code == "7"), "the selection is seen");
}

#[test]
fn without_utf8_it_is_drawn_in_ascii() {
    let (_servers, _closed, pen) = three_servers();
    let place = pen.control().to_string();
    let Some(terminal) = Terminal::run((80, 24), &format!("LC_ALL=C {PENCTL} {place} top")) else {
        return;
    };
    let screen = terminal.shows(&["connections ....", "-- events --"]);
    assert!(screen.is_ascii(), "{screen}");
}

#[test]
fn keys_change_a_server_after_a_question() {
    let (_servers, _closed, pen) = three_servers();
    let Some(terminal) = top((80, 24), &pen.control().to_string()) else { return };
    let server = |number: usize| -> serde_json::Value {
        let servers = pen.control().tell("servers json");
        serde_json::from_str::<serde_json::Value>(&servers).unwrap()[number].clone()
    };
    terminal.shows(&["? help"]);
    terminal.types("jb");
    terminal.shows(&[": seconds without clients"]);
    terminal.types("4000");
    terminal.presses("Enter");
    terminal.shows(&[") for 4000 s? [y/N]  server 1 blacklist 4000"]);
    terminal.types("n");
    terminal.shows(&["nothing changed"]);
    assert_eq!(server(1)["state"], "up");
    terminal.types("b4000");
    terminal.presses("Enter");
    terminal.types("y");
    terminal.shows(&["done: server 1 blacklist 4000", " out 67 min", "2 of 3 servers up"]);
    assert_eq!(server(1)["state"], "out");
    terminal.types("b");
    terminal.presses("Enter");
    terminal.shows(&["bring server 1 ("]);
    terminal.types("y");
    terminal.shows(&["done: server 1 blacklist 0", "3 of 3 servers up"]);
    terminal.types("w5");
    terminal.presses("Enter");
    terminal.types("y");
    terminal.shows(&["done: server 1 weight 5"]);
    assert_eq!((&server(1)["state"], &server(1)["weight"]), (&"up".into(), &5.into()));
    // What pen does not accept is shown.
    terminal.types("b99999999999");
    terminal.presses("Enter");
    terminal.types("y");
    terminal.shows(&["refused: "]);
    terminal.types("e192.0.2.7");
    terminal.presses("Enter");
    terminal.shows(&["explain 192.0.2.7", "any other key: back"]);
    terminal.presses("C-c");
    terminal.shows(&["status 0."]);
}

#[test]
fn keys_drain_a_server_take_it_into_maintenance_and_make_it_ready() {
    let (servers, _closed, pen) = three_servers();
    let Some(terminal) = top((80, 24), &pen.control().to_string()) else { return };
    let name = servers[1].address();
    let mode = || {
        let servers = pen.control().tell("servers json");
        serde_json::from_str::<serde_json::Value>(&servers).unwrap()[1]["mode"].clone()
    };
    terminal.shows(&["? help", "d drain  m maint  u ready"]);
    terminal.types("jd");
    terminal.shows(&[&format!("drain server 1 ({name})? [y/N]  server 1 state drain")]);
    terminal.types("n");
    terminal.shows(&["nothing changed"]);
    assert_eq!(mode(), "ready");
    terminal.types("dy");
    terminal.shows(&["done: server 1 state drain", " draining ", "server 1 state drain, by "]);
    assert_eq!(mode(), "drain");
    terminal.types("my");
    terminal.shows(&["done: server 1 state maint", " maintenance ", "2 of 3 servers up"]);
    assert_eq!(mode(), "maint");
    terminal.types("m");
    terminal.shows(&["has the state maint already"]);
    terminal.types("uy");
    terminal.shows(&["done: server 1 state ready", "3 of 3 servers up"]);
    assert_eq!(mode(), "ready");
}

#[test]
fn checks_and_clients_that_wait_are_seen() {
    let (server, closed) = (Backend::named("a"), Port::reserve());
    let pen = Pen::builder()
        .options(["-O", "check tcp", "-O", "check_interval 1"])
        .server(&server)
        .server_as(closed.address().to_string())
        .control()
        .start();
    let place = pen.control().to_string();
    let Some(terminal) = top((80, 24), &place) else { return };
    let screen = terminal.shows(&[" check ", " up 1 ms ", " down refused", "1 of 2 servers up"]);
    let line = screen.lines().find(|line| line.starts_with("1 ")).unwrap();
    assert!(line.contains(" down ") && line.contains(" down refused"), "{screen}");
    terminal.types("j");
    terminal.presses("Enter");
    terminal.shows(&["tcp: down refused", "checked "]);
    terminal.types("x");
    pen.tells("pause", "");
    terminal.shows(&["! Paused: new clients wait until the command resume."]);
    let waiting = pen.connect([127, 0, 0, 1]);
    terminal.shows(&["   held 1   clients "]);
    pen.tells("resume", "");
    terminal.shows_when("the pause is over", |screen| {
        !screen.contains("Paused") && !screen.contains("held")
    });
    drop(waiting);
}

#[test]
fn it_says_that_pen_is_gone_and_comes_back_with_it() {
    let server = Backend::named("a");
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("pen.ctl");
    let start = || Pen::builder().server(&server).control_unix(&path).start();
    let mut pen = start();
    let Some(terminal) = top((80, 24), path.to_str().unwrap()) else { return };
    terminal.shows(&["1 of 1 servers up"]);
    pen.end_by(Signal::TERM);
    let screen = terminal.shows(&["! no answer for ", "trying again"]);
    assert!(screen.contains("1 of 1 servers up"), "what was known stays: {screen}");
    terminal.types("b");
    terminal.shows(&["pen does not answer now"]);
    let pen = start();
    terminal.shows_when("pen again", |screen| {
        screen.contains("pen answers again, after ") && !screen.contains("no answer")
    });
    let held = pen.hold([127, 0, 0, 1]).unwrap();
    terminal.shows(&["1 of 256"]);
    drop(held);
}

#[test]
fn the_terminal_is_restored_however_it_ends_or_stops() {
    let (_servers, _closed, pen) = three_servers();
    let place = pen.control().to_string();
    let shell = "bash --norc --noprofile -i";
    let Some(terminal) = Terminal::run((80, 24), shell) else { return };
    let begin = || {
        terminal.types(&format!("clear; {PENCTL} {place} top"));
        terminal.presses("Enter");
        terminal.shows(&["servers up", "? help"]);
        assert!(terminal.is_taken());
        let inner = terminal.shell().children().into_iter().next().unwrap();
        until("penctl runs", || {
            inner.children().into_iter().find(|child| child.title().contains(" top"))
        })
    };
    // The echo shows that lines are edited by the terminal again.
    let is_restored = |what: &str| {
        terminal.is_given_back();
        terminal.types("stty -a | grep -ow -e -icanon -e -echo -e -isig; echo modes:$((40+2))");
        terminal.presses("Enter");
        let screen = terminal.shows(&["modes:42"]);
        let off = ["-icanon", "-echo", "-isig"];
        assert!(!screen.lines().any(|line| off.contains(&line)), "{what}:\n{screen}");
        terminal.types("clear");
        terminal.presses("Enter");
    };
    for signal in [Signal::TERM, Signal::HUP, Signal::INT, Signal::QUIT] {
        let process = begin();
        process.signal(signal);
        eventually("it ends", || process.gone());
        is_restored(&format!("{signal:?}"));
    }
    let process = begin();
    terminal.presses("C-z");
    terminal.shows(&["Stopped"]);
    is_restored("Ctrl-Z");
    terminal.types("fg");
    terminal.presses("Enter");
    terminal.shows(&["servers up", "? help"]);
    assert!(terminal.is_taken());
    process.signal(Signal::TSTP);
    terminal.shows(&["Stopped"]);
    is_restored("the same by a signal");
    terminal.types("fg");
    terminal.presses("Enter");
    terminal.shows(&["servers up", "? help"]);
    // After a stop that it cannot see, everything is drawn anew.
    process.signal(Signal::STOP);
    terminal.shows(&["Stopped"]);
    terminal.types("reset; fg");
    terminal.presses("Enter");
    terminal.shows(&["servers up", "? help"]);
    terminal.types("q");
    eventually("it ends", || process.gone());
    is_restored("q");
}

#[test]
fn a_pen_that_hangs_stops_neither_keys_nor_clock() {
    let (_servers, _closed, pen) = three_servers();
    let Some(terminal) = top((80, 24), &pen.control().to_string()) else { return };
    terminal.shows(&["? help"]);
    let supervisor = pen.supervisor();
    let control = pen.control_process();
    supervisor.stop();
    control.stop();
    terminal.types("?");
    terminal.shows(&["any other key: back"]);
    terminal.types("x");
    terminal.shows(&["! no answer for ", "gave up after"]);
    control.resume();
    supervisor.resume();
    terminal.shows(&["pen answers again"]);
    terminal.types("q");
    terminal.shows(&["status 0."]);
}

#[test]
fn no_text_of_pen_or_of_a_stranger_at_its_place_moves_the_cursor() {
    let port = answering("127.0.0.1:0", |line, connection| {
        let sly = "\\u001b[2J\\u001b]0;x\\u0007\\u009b7m\\r";
        let reply = match line.trim() {
            "overview" => format!(
                "{{\"version\":\"{sly}\",\"listen\":\"{sly}\",\"servers\":[{{\"number\":0,\
                 \"name\":\"{sly}\",\"address\":\"{sly}\",\"state\":\"{sly}\"}}]}}"
            ),
            _ => "\u{1b}[2J".to_owned(),
        };
        connection.write_all(reply.as_bytes()).unwrap();
    });
    let Some(terminal) = top((100, 24), &port.address) else { return };
    let screen = terminal.shows(&["? help", "pen ?[2J?]0;x??7m?", "0 of 1 servers up"]);
    assert!(screen.starts_with("pen "), "{screen}");
    terminal.types("q");
    terminal.shows(&["status 0."]);
}

#[test]
fn hundreds_of_servers_scroll() {
    let port = answering("127.0.0.1:0", |line, connection| {
        let servers: Vec<String> = (0..300)
            .map(|number| {
                format!(
                    "{{\"number\":{number},\"address\":\"10.0.0.1\",\"port\":{}}}",
                    1000 + number
                )
            })
            .collect();
        let reply = match line.trim() {
            "overview" => format!("{{\"servers\":[{}]}}", servers.join(",")),
            _ => "[]".to_owned(),
        };
        connection.write_all(reply.as_bytes()).unwrap();
    });
    let Some(terminal) = top((80, 24), &port.address) else { return };
    terminal.shows(&["10.0.0.1:1000", "300 of 300 servers up"]);
    terminal.presses("End");
    terminal.shows(&["10.0.0.1:1299"]);
    terminal.presses("PageUp");
    terminal.shows_when("a page before", |screen| !screen.contains("10.0.0.1:1299"));
    terminal.types("/:1234");
    terminal.shows_when("one", |screen| screen.contains(":1234") && !screen.contains(":1000"));
}

#[test]
fn what_it_cannot_show_is_one_line_and_status_1() {
    let (_servers, _closed, pen) = three_servers();
    let place = pen.control().to_string();
    complains(&[&place, "top"], "top: standard output is no terminal");
    complains(&[&place, "top", "now"], "top: unknown word 'now'");
    complains(&[&place, &place, "top"], "top: shows one pen, and 2 are given");
    complains(&["--json", &place, "top"], "top: has no JSON form");
    let closed = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let Some(terminal) = top((80, 24), &closed.to_string()) else { return };
    terminal.shows(&["error connecting to server", "status 1."]);
    let old = answering("127.0.0.1:0", |_, connection| connection.write_all(b"what?\n").unwrap());
    let terminal = top((80, 24), &old.address).unwrap();
    terminal.shows(&["this pen has no overview", "status 1."]);
    assert!(penctl(&["help", "top"], "").1.starts_with("usage: top\n"));
}
