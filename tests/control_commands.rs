//! Every command at the control port: its exact reply, and that all workers go by it before the reply is there.

#![allow(clippy::unwrap_used, reason = "in a test, a panic is how a failure is said")]

mod harness;

use std::collections::BTreeSet;
use std::fs;
use std::net::Ipv4Addr;

use harness::{Backend, Builder, Client, Pen, Port, Report, eventually};
use rustix::process::Signal;

/// A client address of its own for each number.
fn client(number: u8) -> Ipv4Addr {
    Ipv4Addr::new(127, 20, 0, number)
}

/// A pen with a control port and these servers.
fn steered<'b>(servers: impl IntoIterator<Item = &'b Backend>) -> Builder {
    Pen::builder().servers(servers).control()
}

/// Asks each worker, with a client of its own, which backend it gives.
#[track_caller]
fn each_worker(pen: &Pen, from: u8) -> [Option<String>; 3] {
    [0, 1, 2].map(|worker| pen.only(usize::from(worker), || pen.ask(client(from + worker))))
}

/// Checks that each worker gives this backend.
#[track_caller]
fn all_give(pen: &Pen, from: u8, name: &str) {
    assert_eq!(each_worker(pen, from).map(Option::unwrap_or_default), [name; 3]);
}

/// Checks that each worker closes the client without an answer.
#[track_caller]
fn all_refuse(pen: &Pen, from: u8) {
    assert_eq!(each_worker(pen, from), [None, None, None]);
}

#[test]
fn numbers_are_shown_set_and_shown_again() {
    let server = Backend::named("a");
    let pen = steered([&server]).options(["-x", "500"]).start();
    for (word, default, set) in [
        ("blacklist", "30", "7"),
        ("client_acl", "0", "9"),
        ("clients_max", "2048", "5000"),
        ("conn_max", "500", "600"),
        ("control_acl", "0", "8"),
        ("debug", "0", "1"),
        ("timeout", "5", "3"),
        ("tracking", "0", "60"),
    ] {
        pen.tells(word, default);
        pen.tells(&format!("{word} {set}"), set);
        pen.tells(word, set);
    }
    pen.tells("idle_timeout", "Idle timeout: 0 seconds");
    pen.tells("idle_timeout 5", "Idle timeout: 5 seconds");
    pen.tells("idle_timeout -3", "Idle timeout: 0 seconds");
    pen.tells("idlers", "Idlers: 0/0");
    pen.tells("pending_max 7", "");
    // The tables only grow.
    pen.tells("clients_max 10", "5000");
    pen.tells("conn_max 10", "600");
}

#[test]
fn what_is_malformed_or_out_of_range_is_refused_and_changes_nothing() {
    let server = Backend::named("a");
    let pen = steered([&server]).start();
    let questions = [
        "mode",
        "servers",
        "blacklist",
        "client_acl",
        "clients_max",
        "conn_max",
        "control_acl",
        "debug",
        "idle_timeout",
        "listen",
        "log",
        "timeout",
        "tracking",
        "web_stats",
        "idlers",
    ];
    let state = || questions.map(|question| pen.tell(question));
    let before = state();
    for line in [
        "blacklist abc",
        "blacklist 5x",
        "blacklist -1",
        "blacklist 99999999999",
        "timeout 0",
        "tracking x",
        "client_acl 10",
        "client_acl -1",
        "control_acl 10",
        "debug x",
        "clients_max 0",
        "conn_max 0",
        "idle_timeout x",
        "idlers x",
        "pending_max 0",
        "acl",
        "acl 10 permit 1.2.3.4",
        "acl 1 allow 1.2.3.4",
        "acl 1 permit",
        "acl 1 permit 1.2.3",
        "acl 1 permit 1.2.3.4 255.255",
        "acl 1 permit ::1/129",
        "acl 1 permit 1.2.3.4/33",
        "acl 1 permit country SE",
        "no acl",
        "no acl 10",
        "server",
        "server 0",
        "server 0 max",
        "server 0 max x",
        "server 0 max 5 port 99999",
        "server 0 frob 1",
        "server x max 5",
        "server 5000 max 1",
        "server 17 address 127.0.0.1",
        "server 0 acl 10",
        "listen 0",
        "listen 127.0.0.1:99999",
        "no frob",
        "no",
        "close",
        "close x",
        "source",
        "source 1.2.3",
        "tcp_fastclose sideways",
        "explain",
        "explain x",
        "tarpit_acl 1",
        "dsr_if eth0",
        "dsr_ip 1.2.3.4",
        "peek",
        "include",
        "recent x",
        "connection x",
        "socket",
        "log /no/such/file",
        "web_stats /no/such/file",
        "write /no/such/file",
        "include /no/such/file",
    ] {
        let reply = pen.refuses(line);
        let word = line.split(' ').next().unwrap();
        assert!(reply.contains(word), "{line:?}: {reply:?}");
    }
    assert_eq!(state(), before);
    assert_eq!(pen.ask(client(1)).as_deref(), Some("a"));
}

#[test]
fn unknown_words_are_answered_as_scripts_know_it() {
    let server = Backend::named("a");
    let pen = steered([&server]).start();
    pen.tells("frob 1 2", "do_cmd: ignoring command starting with 'frob'");
    pen.tells("MODE", "do_cmd: ignoring command starting with 'MODE'");
    pen.tells("tcp_fastclose", "do_cmd: ignoring tcp_fastclose without argument");
    for silent in [
        "",
        "# note",
        "block",
        "no block",
        "epoll",
        "poll",
        "select",
        "kqueue",
        "abort_on_error",
        "no delayed_forward",
        "no peek",
    ] {
        pen.tells(silent, "");
    }
}

#[test]
fn modes_are_shown_in_their_order() {
    let server = Backend::named("a");
    let pen = steered([&server]).start();
    pen.tells("mode", "no hash no roundrobin no stubborn no weight no prio");
    for mode in ["hash", "roundrobin", "stubborn", "weight", "prio"] {
        pen.tells(mode, "");
    }
    pen.tells("mode", "hash roundrobin stubborn weight prio");
    pen.tells("no roundrobin", "");
    pen.tells("no prio # and a comment", "");
    pen.tells("mode", "hash no roundrobin stubborn weight no prio");
}

#[test]
fn pid_and_control_are_the_supervisors() {
    let server = Backend::named("a");
    let pen = steered([&server]).start();
    pen.tells("pid", &pen.supervisor().pid().to_string());
    pen.tells("control", &pen.control().to_string());
    pen.tells("listen", &pen.address().to_string());
}

#[test]
fn servers_are_listed_in_words_that_scripts_split() {
    let farm = Backend::farm(["a", "b"]);
    let ports = [0, 1].map(|n| farm[n].address().port());
    let pen = Pen::builder()
        .server_as(format!("{}:10", farm[0].operand()))
        .server_as(format!("{}:20:30:2:1", farm[1].operand()))
        .options(["-e", &farm[0].operand()])
        .control()
        .start();
    let (held, name) = pen.hold(client(1)).unwrap();
    held.echoes("four");
    assert_eq!(name, "b");
    let expected = format!(
        "0 addr 127.0.0.1 port {} conn 0 max 10 hard 0 weight 1 prio 0 sx 0 rx 0\n\
         1 addr 127.0.0.1 port {} conn 1 max 20 hard 30 weight 2 prio 1 sx 5 rx 7\n",
        ports[0], ports[1]
    );
    eventually("the bytes are counted", || pen.tell("servers") == expected);
    pen.tells(&format!("server 3 address 127.0.0.1 port {}", ports[0]), "");
    let listed = pen.tell("servers");
    let lines: Vec<&str> = listed.lines().collect();
    assert_eq!(lines.len(), 4, "{listed}");
    assert!(
        lines[2].starts_with("2 addr - port 0 conn 0 max 0 hard 0 ") && lines[2].ends_with(" sx 0 rx 0"),
        "{listed}"
    );
    assert_eq!(lines[3], format!("3 addr 127.0.0.1 port {} conn 0 max 0 hard 0 weight 1 prio 0 sx 0 rx 0", ports[0]));
}

#[test]
fn round_robin_is_in_force_in_all_workers() {
    let farm = Backend::farm(["a", "b"]);
    let pen = steered(&farm).start();
    pen.ask(client(1)).unwrap();
    pen.tells("roundrobin", "");
    for worker in 0..3 {
        let names: BTreeSet<String> = pen.only(worker, || (0..2).map(|_| pen.ask(client(1)).unwrap()).collect());
        assert_eq!(names.len(), 2, "worker {worker} does not track");
    }
    pen.tells("no roundrobin", "");
    let mine = pen.ask(client(1)).unwrap();
    assert_eq!(each_worker_for(&pen, 1), [mine.as_str(); 3]);
}

/// The backend that each worker gives to one client.
#[track_caller]
fn each_worker_for(pen: &Pen, number: u8) -> [String; 3] {
    [0, 1, 2].map(|worker| pen.only(worker, || pen.ask(client(number)).unwrap()))
}

#[test]
fn prio_weight_and_hash_choose_in_all_workers() {
    let farm = Backend::farm(["a", "b", "c"]);
    let pen = steered(&farm).start();
    pen.tells("server 0 prio 5 weight 1", "");
    pen.tells("server 1 prio 1 weight 1", "");
    pen.tells("server 2 prio 9 weight 0", "");
    pen.tells("prio", "");
    all_give(&pen, 10, "b");
    pen.tells("server 2 prio 0", "");
    all_give(&pen, 20, "c");
    pen.tells("no prio", "");
    pen.tells("server 1 weight 0", "");
    pen.tells("weight", "");
    all_give(&pen, 30, "a");
    pen.tells("no weight", "");
    pen.tells("hash", "");
    let hashed = pen.ask(client(40)).unwrap();
    pen.tells("roundrobin", "");
    pen.tells("no roundrobin", "");
    assert_eq!(each_worker_for(&pen, 40), [hashed.as_str(); 3]);
}

#[test]
fn a_server_is_blacklisted_and_put_back_in_all_workers() {
    let farm = Backend::farm(["a", "b"]);
    let pen = steered(&farm).start();
    pen.tells("server 1 blacklist 1000", "");
    all_give(&pen, 10, "a");
    pen.tells("server 1 blacklist 0", "");
    pen.tells("server 0 blacklist 1000", "");
    all_give(&pen, 20, "b");
}

#[test]
fn limits_hold_in_all_workers_as_soon_as_they_are_set() {
    let farm = Backend::farm(["a", "b"]);
    let pen = steered(&farm).start();
    pen.tells("server 0 max 1", "");
    pen.tells("server 1 max 1 hard 2", "");
    let held: Vec<(Client, String)> = (1..=2).map(|n| pen.hold(client(n)).unwrap()).collect();
    assert_eq!(held.iter().map(|(_, name)| name.as_str()).collect::<BTreeSet<_>>(), BTreeSet::from(["a", "b"]));
    all_refuse(&pen, 10);
    let of_b = held.iter().position(|(_, name)| name == "b").unwrap() as u8 + 1;
    let known = pen.hold(client(of_b)).unwrap();
    assert_eq!(known.1, "b", "a known client has room up to the hard limit");
    pen.tells("server 0 max 0", "");
    all_give(&pen, 20, "a");
}

#[test]
fn a_server_gets_another_address_for_new_connections_only() {
    let farm = Backend::farm(["a", "b"]);
    let pen = steered([&farm[0]]).start();
    let (held, _) = pen.hold(client(1)).unwrap();
    held.echoes("to the old server");
    pen.tells(&format!("server 0 port {}", farm[1].address().port()), "");
    all_give(&pen, 10, "b");
    eventually("the counters begin anew", || pen.tell("servers").ends_with(" sx 0 rx 6\n"));
    held.echoes("still there");
    drop(held);
    pen.tells(&format!("server 0 address localhost port {}", farm[0].address().port()), "");
    all_give(&pen, 20, "a");
}

#[test]
fn all_pairs_of_a_server_are_checked_before_any_is_applied() {
    let server = Backend::named("a");
    let pen = steered([&server]).start();
    let before = pen.tell("servers");
    for line in [
        "server 0 max 5 hard x",
        "server 0 max 5 address no.such.host.invalid",
        "server 0 weight 7 acl 10",
        "server 0 max 5 prio",
    ] {
        pen.refuses(line);
    }
    assert_eq!(pen.tell("servers"), before);
    let reply = pen.refuses("server 16 address 127.0.0.1");
    assert_eq!(reply, "server: number 16 too large, this program was started for 16 servers (-S)");
}

#[test]
fn access_lists_govern_clients_in_all_workers() {
    let farm = Backend::farm(["a", "abuse"]);
    let pen = steered([&farm[0]]).start();
    pen.tells("acl 3 deny 127.20.0.0 255.255.255.0", "");
    all_give(&pen, 1, "a");
    pen.tells("client_acl 3", "3");
    all_refuse(&pen, 10);
    assert_eq!(pen.ask(Ipv4Addr::new(127, 21, 0, 1)).as_deref(), Some("a"));
    pen.tells("no acl 3", "");
    all_give(&pen, 20, "a");
    // Whoever is not permitted by a list that ends in permit is refused.
    pen.tells("acl 3 permit ::1", "");
    all_refuse(&pen, 30);
    pen.tells("acl 3 permit 127.20.0.0/16", "");
    all_give(&pen, 40, "a");
    pen.tells("client_acl 0", "0");
    pen.tells("server 0 acl 4", "");
    pen.tells("acl 4 deny 127.20.0.0/16", "");
    all_refuse(&pen, 50);
}

#[test]
fn refused_clients_go_to_the_abuse_server_and_never_to_the_emergency_server() {
    let farm = Backend::farm(["a", "abuse", "emergency"]);
    let options = ["-B", &farm[1].operand(), "-e", &farm[2].operand()].map(str::to_owned);
    let pen = steered([&farm[0]]).options(options).start();
    pen.tells("acl 1 deny 127.20.0.0/16", "");
    pen.tells("client_acl 1", "1");
    all_give(&pen, 10, "abuse");
    farm[1].stop();
    all_refuse(&pen, 20);
    assert_eq!(farm[2].accepted(), 0);
    let recent = pen.tell("recent");
    assert!(recent.contains("127.20.0.10 connects 1 "), "{recent}");
}

#[test]
fn tracking_time_and_blacklist_time_apply_from_now_on() {
    let farm = Backend::farm(["a", "b"]);
    let pen = steered(&farm).start();
    let first = pen.ask(client(1)).unwrap();
    assert_eq!(each_worker_for(&pen, 1), [first.as_str(); 3]);
    pen.tells("tracking 1", "1");
    let mut seen = BTreeSet::from([first]);
    eventually("a client that stays away longer than a second is placed as a new one", || {
        std::thread::sleep(std::time::Duration::from_millis(2100));
        seen.insert(pen.ask(client(1)).unwrap());
        seen.len() == 2
    });
    pen.tells("tracking 0", "0");
    pen.tells("blacklist 0", "0");
    farm[1].stop();
    for n in 10..16 {
        assert_eq!(pen.ask(client(n)).as_deref(), Some("a"));
    }
    assert!(!pen.said().contains("blacklisting"), "{}", pen.said());
    pen.tells("blacklist 40", "40");
    eventually("the dead server is found dead", || pen.ask(client(30)).is_some() && pen.said().contains("for 40 s"));
}

#[test]
fn the_connect_timeout_applies_from_now_on() {
    let port = Port::reserve();
    let hole = harness::backend::Blackhole::on(&port);
    let server = Backend::named("a");
    let pen = Pen::builder()
        .server_as(port.address().to_string())
        .server(&server)
        .options(["-t", "1000", "--prio"])
        .control()
        .start();
    pen.tells("server 1 prio 1", "");
    pen.tells("timeout", "1000");
    pen.tells("timeout 1", "1");
    for worker in 0..3 {
        pen.tells("server 0 blacklist 0", "");
        assert_eq!(pen.only(worker, || pen.ask(client(worker as u8 + 1))).as_deref(), Some("a"));
    }
    drop(hole);
}

#[test]
fn debug_output_and_its_form_change_while_it_runs() {
    let server = Backend::named("a");
    let pen = steered([&server]).start();
    let dump = |text: &str, worker: usize| {
        pen.only(worker, || {
            let (held, _) = pen.hold(client(1)).unwrap();
            held.echoes(text);
        });
    };
    dump("quiet", 0);
    pen.tells("debug 2", "2");
    pen.tells("ascii", "");
    for worker in 0..3 {
        dump(&format!("loud{worker}"), worker);
        pen.hears(&format!("loud{worker}"));
    }
    pen.tells("no ascii", "");
    dump("hex", 1);
    pen.hears("68 65 78");
    assert!(!pen.said().contains("quiet"));
}

#[test]
fn idle_connections_are_closed_in_time_also_those_that_are_open() {
    let server = Backend::named("a");
    let pen = steered([&server]).start();
    let held = [0, 1, 2].map(|worker| pen.only(worker, || pen.hold(client(1)).unwrap().0));
    pen.tells("idle_timeout 1", "Idle timeout: 1 seconds");
    for held in held {
        assert!(held.read_to_end().is_ok(), "an end of file");
    }
    pen.settle();
}

#[test]
fn fastclose_makes_one_end_the_end_of_both() {
    let server = Backend::named("a");
    let pen = steered([&server]).start();
    for (how, worker) in [("down", 0), ("both", 1), ("both", 2)] {
        pen.tells(&format!("tcp_fastclose {how}"), "");
        let (held, _) = pen.only(worker, || pen.hold(client(1)).unwrap());
        held.finish();
        assert_eq!(held.read_to_end().unwrap(), b"");
    }
    for quiet in ["tcp_fastclose up", "tcp_fastclose off", "tcp_nodelay", "no tcp_nodelay", "keepalive", "no keepalive"]
    {
        pen.tells(quiet, "");
    }
    assert_eq!(pen.ask(client(1)).as_deref(), Some("a"));
}

#[test]
fn the_source_address_is_what_servers_see() {
    let server = Backend::with(|mut connection| {
        use std::io::Write;
        let peer = connection.peer_addr()?.as_socket().unwrap().ip();
        connection.write_all(format!("{peer}\n").as_bytes())
    });
    let pen = steered([&server]).start();
    all_give(&pen, 1, "127.0.0.1");
    pen.tells("source 127.20.7.7", "");
    all_give(&pen, 10, "127.20.7.7");
    assert_eq!(pen.refuses("source nonsense"), "unable to set source address to 'nonsense'");
    assert_eq!(pen.refuses("source 192.0.2.7"), "unable to set source address to '192.0.2.7'");
    all_give(&pen, 20, "127.20.7.7");
}

#[test]
fn dummy_answers_without_a_server() {
    let server = Backend::named("a");
    let pen = steered([&server]).start();
    pen.tells("dummy", "");
    for worker in 0..3 {
        let page = pen.only(worker, || {
            let client = pen.connect(client(1));
            client.send("GET / HTTP/1.0\r\n\r\n");
            String::from_utf8(client.read_to_end().unwrap()).unwrap()
        });
        assert!(page.starts_with("HTTP/1.1 200 OK\r\n") && page.ends_with("\r\n\r\nUlric was here."), "{page:?}");
        assert!(page.contains("Content-Length: 15\r\n") && page.contains("Content-Type: text/html\r\n"), "{page:?}");
    }
    assert_eq!(server.accepted(), 0);
    pen.tells("no dummy", "");
    all_give(&pen, 10, "a");
}

#[test]
fn idlers_are_opened_kept_and_closed() {
    let farm = Backend::farm(["a", "b"]);
    let pen = steered(&farm).start();
    pen.tell("idlers 6");
    eventually("six idlers are open", || pen.tell("idlers") == "Idlers: 6/6\n" && farm[0].open() + farm[1].open() == 6);
    farm[0].die();
    farm[0].start();
    eventually("they are opened again", || {
        pen.tell("idlers") == "Idlers: 6/6\n" && farm[0].open() + farm[1].open() == 6
    });
    assert_eq!(pen.ask(client(1)).map(|name| name.len()), Some(1), "clients get servers of their own");
    pen.tell("idlers 0");
    eventually("they are closed", || pen.tell("idlers") == "Idlers: 0/0\n" && farm[0].open() + farm[1].open() == 0);
}

#[test]
fn a_larger_conn_max_lets_those_in_who_wait() {
    let server = Backend::named("a");
    let pen = steered([&server]).options(["-x", "2"]).start();
    let _held = [1, 2].map(|n| pen.hold(client(n)).unwrap());
    let waiting = pen.connect(client(3));
    assert!(!waiting.has_news());
    pen.tells("conn_max 4", "4");
    assert_eq!(waiting.line().as_deref(), Some("a"));
}

#[test]
fn a_larger_client_table_keeps_its_clients_and_holds_more() {
    let farm = Backend::farm(["a", "b", "c"]);
    let pen = steered(&farm).options(["-c", "4"]).start();
    let before: Vec<String> = (1..=4).map(|n| pen.ask(client(n)).unwrap()).collect();
    pen.tells("clients_max 100", "100");
    for n in 5..=60 {
        pen.ask(client(n)).unwrap();
    }
    for worker in 0..3 {
        let after: Vec<String> = pen.only(worker, || (1..=4).map(|n| pen.ask(client(n)).unwrap()).collect());
        assert_eq!(after, before, "worker {worker}");
    }
    assert_eq!(pen.tell("recent").lines().count(), 60);
}

#[test]
fn recent_lists_clients_with_what_they_moved() {
    let server = Backend::named("a");
    let pen = steered([&server]).start();
    let (held, _) = pen.hold(client(7)).unwrap();
    held.echoes("four");
    pen.ask(client(7)).unwrap();
    eventually("the bytes are counted", || pen.tell("recent") == "127.20.0.7 connects 2 sx 9 rx 5\n");
    assert_eq!(pen.tell("recent 60"), pen.tell("recent"));
}

#[test]
fn the_status_page_is_complete_and_needs_no_file() {
    let server = Backend::named("a");
    let pen = steered([&server]).without_status_file().start();
    let _held = pen.hold(client(1)).unwrap();
    let page = pen.tell("status");
    assert!(page.starts_with("<html>\n<head>\n<title>Pen status page</title>"), "{page}");
    let report = Report::parse(page);
    assert_eq!((report.in_use(), report.connections.len(), report.clients.len()), (1, 1, 1));
    pen.tells("web_stats", "");
}

#[test]
fn status_refreshes_the_file_too_and_web_stats_moves_it() {
    let server = Backend::named("a");
    let pen = steered([&server]).start();
    let path = pen.directory().join("status.html");
    pen.tells("web_stats", path.to_str().unwrap());
    let page = pen.tell("status");
    eventually("the file is there", || {
        fs::read_to_string(&path).is_ok_and(|file| file.lines().count() == page.lines().count())
    });
    pen.tells("no web_stats", "");
    pen.tells("web_stats", "");
    let mine =
        harness::machine::directory(&open_directory(&pen), "mine", 0o755, harness::machine::NOBODY).join("page.html");
    pen.tells(&format!("web_stats {}", mine.display()), mine.to_str().unwrap());
    pen.supervisor().signal(Signal::USR1);
    eventually("reports go to the new file", || {
        fs::read_to_string(&mine).is_ok_and(|text| text.ends_with("</html>\n"))
    });
}

/// The directory of pen, opened for everybody to pass.
fn open_directory(pen: &Pen) -> std::path::PathBuf {
    use std::os::unix::fs::PermissionsExt;
    fs::set_permissions(pen.directory(), fs::Permissions::from_mode(0o755)).unwrap();
    pen.directory().to_path_buf()
}

#[test]
fn facts_about_a_connection_and_its_end() {
    let server = Backend::named("a");
    let pen = steered([&server]).start();
    let unused = "Connection 0:\nstate = 0\ndownfd = -1, upfd = -1\nclient = 0, server = 0\npend = 0";
    pen.tells("connection", unused);
    let (held, _) = pen.only(1, || pen.hold(client(1)).unwrap());
    let facts = pen.tell("connection 0");
    let lines: Vec<&str> = facts.lines().collect();
    assert_eq!((lines.len(), lines[0], lines[1]), (5, "Connection 0:", "state = 2"), "{facts}");
    assert!(lines[2].starts_with("downfd = ") && lines[2].contains(", upfd = ") && !lines[2].contains("-1"), "{facts}");
    assert_eq!(lines[3..], ["client = 0, server = 0", "pend = 0"]);
    held.finish();
    eventually("the client's end is seen", || {
        let state = pen.tell("connection 0");
        state.contains("state = 10\n") || state.contains("state = 0\n")
    });
    let (other, _) = pen.only(2, || pen.hold(client(2)).unwrap());
    let report = Report::parse(pen.tell("status"));
    let number = &report.connections.last().unwrap()["connection"];
    pen.tells(&format!("close {number}"), &format!("Forcibly closing connection {number}"));
    assert!(other.read_to_end().unwrap_or_default().is_empty(), "the client is cut off");
    pen.tells("close 5", "Forcibly closing connection 5");
    pen.tells("close 256", "Connection 256 out of range");
    pen.tells("socket 7", "Socket 7 belongs to connection -1");
    drop(held);
    pen.settle();
}

#[test]
fn exit_ends_it_only_if_the_command_line_allows_it() {
    let server = Backend::named("a");
    let pen = steered([&server]).start();
    pen.tells("exit", "Exit is not enabled; restart with -X flag");
    assert_eq!(pen.ask(client(1)).as_deref(), Some("a"));
    drop(pen);
    let mut pen = steered([&server]).options(["-X"]).start();
    pen.ends_when(|pen| assert_eq!(pen.tell("exit"), ""));
}

#[test]
fn the_log_is_set_shown_moved_and_stopped() {
    let server = Backend::named("a");
    let pen = steered([&server]).start();
    let directory = harness::machine::directory(&open_directory(&pen), "mine", 0o755, harness::machine::NOBODY);
    let talk = |text: &str, worker: usize| {
        pen.only(worker, || {
            let (held, _) = pen.hold(client(1)).unwrap();
            held.echoes(text);
        });
    };
    let holds = |path: &std::path::Path, text: &str| fs::read_to_string(path).is_ok_and(|log| log.contains(text));
    pen.tells("log", "");
    let [first, second] = ["first.log", "second.log"].map(|name| directory.join(name));
    for (path, word) in [(&first, "one"), (&second, "two")] {
        pen.tells(&format!("log {}", path.display()), path.to_str().unwrap());
        pen.tells("log", path.to_str().unwrap());
        for worker in 0..3 {
            talk(&format!("{word}{worker}"), worker);
        }
        eventually("the lines are there", || (0..3).all(|worker| holds(path, &format!("{word}{worker}"))));
    }
    assert!(!holds(&first, "two"));
    let reply = pen.refuses(&format!("log {}/no/such", directory.display()));
    assert!(reply.starts_with("log: ") && reply.ends_with("no such file or directory"), "{reply}");
    talk("three", 0);
    eventually("the old log stays", || holds(&second, "three"));
    let daemon = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
    daemon.set_read_timeout(Some(harness::PATIENCE)).unwrap();
    let place = daemon.local_addr().unwrap().to_string();
    pen.tells(&format!("log {place}"), &place);
    talk("four", 1);
    let mut datagram = [0; 2000];
    let length = daemon.recv(&mut datagram).unwrap();
    assert_eq!(&datagram[..length], b"+ 127.20.0.1 127.0.0.1 four\n");
    pen.tells("no log", "");
    pen.tells("log", "");
    talk("five", 2);
    daemon.set_nonblocking(true).unwrap();
    assert!(daemon.recv(&mut datagram).is_err() && !holds(&second, "five"));
}

#[test]
fn listen_moves_the_listener_and_a_failure_leaves_it() {
    let server = Backend::named("a");
    let pen = steered([&server]).start();
    let (held, _) = pen.hold(client(1)).unwrap();
    let other = Port::reserve();
    pen.tells(&format!("listen {}", other.address()), &other.address().to_string());
    pen.tells("listen", &other.address().to_string());
    for worker in 0..3 {
        let name = pen.only(worker, || harness::ask(other.address(), client(2).into()));
        assert_eq!(name.as_deref(), Some("a"));
    }
    eventually("the old port refuses", || Client::connect(client(1).into(), pen.address()).is_err());
    held.echoes("open connections stay");
    let taken = Backend::named("taken");
    let reply = pen.refuses(&format!("listen {}", taken.operand()));
    assert!(reply.starts_with("listen: ") && reply.contains("in use"), "{reply}");
    pen.tells("listen", &other.address().to_string());
    assert_eq!(harness::ask(other.address(), client(2).into()).as_deref(), Some("a"));
    if harness::machine::is_root() {
        let reply = pen.refuses("listen 127.0.0.1:81");
        assert!(reply.starts_with("listen: "), "a privileged port is not an operator's to take: {reply}");
    }
}

#[test]
fn include_runs_the_commands_of_a_file() {
    let server = Backend::named("a");
    let pen = steered([&server]).start();
    let path = open_directory(&pen).join("more.cfg");
    fs::write(&path, "# some settings\nblacklist 11\n\nstubborn\n").unwrap();
    pen.tells(&format!("include {}", path.display()), "");
    pen.tells("blacklist", "11");
    pen.tells("mode", "no hash no roundrobin stubborn no weight no prio");
    fs::write(&path, "blacklist 12\ntimeout never\n").unwrap();
    let reply = pen.tell(&format!("include {}", path.display()));
    assert!(reply.starts_with("include: ") && reply.contains("more.cfg:2: "), "{reply}");
    pen.tells("blacklist", "11");
    // Sixteen files may be included within one another by the first, and no seventeenth.
    let directory = path.parent().unwrap();
    for depth in 1..=17 {
        let text = format!("timeout {}\ninclude {}.cfg\n", depth + 20, depth + 1);
        fs::write(directory.join(format!("{depth}.cfg")), text).unwrap();
    }
    fs::write(directory.join("18.cfg"), "hash\n").unwrap();
    let (first, second) = (directory.join("1.cfg"), directory.join("2.cfg"));
    pen.tells(&format!("include {}", second.display()), "");
    pen.tells("timeout", "37");
    let reply = pen.refuses(&format!("include {}", first.display()));
    assert!(
        reply.starts_with("include: ") && reply.ends_with("18.cfg: not included: more than 16 files deep"),
        "{reply}"
    );
    pen.tells("timeout", "37");
}

#[test]
fn explain_says_which_server_and_why_and_changes_nothing() {
    let farm = Backend::farm(["a", "b"]);
    let pen = steered(&farm).start();
    let name = pen.ask(client(1)).unwrap();
    let number = if name == "a" { 0 } else { 1 };
    let before = (pen.tell("servers"), pen.tell("recent").lines().count());
    let known = pen.tell("explain 127.20.0.1");
    assert!(known.contains(&format!("server {number}")), "{known}");
    pen.tells(&format!("server {number} blacklist 100"), "");
    let moved = pen.tell("explain 127.20.0.1");
    assert!(moved.contains("blacklist") && moved.contains(&format!("server {}", 1 - number)), "{moved}");
    assert_ne!(moved, known);
    let stranger = pen.tell("explain 192.0.2.1");
    assert!(stranger.contains(&format!("server {}", 1 - number)), "{stranger}");
    pen.tells("client_acl 1", "1");
    pen.tells("acl 1 deny 192.0.2.0/24", "");
    let refused = pen.tell("explain 192.0.2.1");
    assert!(refused.contains("acl"), "{refused}");
    assert!(pen.tell("explain ::1").ends_with('\n'));
    assert_eq!((pen.tell("servers"), pen.tell("recent").lines().count()), before);
    assert_eq!(pen.ask(client(1)).as_deref(), Some(if number == 0 { "b" } else { "a" }), "and so it happens");
}

#[test]
fn workers_can_be_asked_for_but_not_changed() {
    let server = Backend::named("a");
    let pen = steered([&server]).start();
    pen.tells("workers", "3");
    assert!(pen.refuses("workers 5").contains("restart"));
    pen.tells("workers", "3");
}
