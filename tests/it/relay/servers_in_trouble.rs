//! A server in trouble does not affect the others: silent, without a local port, without a source
//! address, with a full backlog, or with thousands of connects.

use std::net::Ipv4Addr;
use std::process::Command;

use crate::harness::backend::Blackhole;
use crate::harness::{Backend, Client, Pen, Port, eventually, machine};
use socket2::{Domain, SockAddr, Socket, Type};

/// A client address of its own for each number.
fn client(number: usize) -> Ipv4Addr {
    let [high, low] = (number as u16).to_be_bytes();
    Ipv4Addr::new(127, 21, high, low)
}

/// Clients that have been answered.
fn served(crowd: &[Client]) -> usize {
    crowd.iter().filter(|client| client.has_news()).count()
}

/// Connects many clients at once, each from its own address.
fn crowd(pen: &Pen, clients: usize) -> Vec<Client> {
    (0..clients).map(|n| pen.connect(client(n))).collect()
}

/// Sockets that fill the queue of a Unix listener whose backlog is 0.
fn full_unix(path: &std::path::Path) -> Vec<Socket> {
    let listener = Socket::new(Domain::UNIX, Type::STREAM, None).unwrap();
    listener.bind(&SockAddr::unix(path).unwrap()).unwrap();
    listener.listen(0).unwrap();
    let mut sockets = vec![listener];
    loop {
        let filler = Socket::new(Domain::UNIX, Type::STREAM, None).unwrap();
        filler.set_nonblocking(true).unwrap();
        if filler.connect(&SockAddr::unix(path).unwrap()).is_err() {
            return sockets;
        }
        sockets.push(filler);
    }
}

/// The server names that these clients got, one after the other.
fn names(pen: &Pen, clients: usize) -> String {
    (0..clients).map(|n| pen.ask(client(n)).unwrap_or_else(|| "-".into())).collect()
}

#[test]
fn a_silent_server_has_as_many_connects_pending_as_it_may_and_the_others_serve_all_others() {
    let port = Port::reserve();
    let _hole = Blackhole::on(&port);
    let farm = Backend::farm(["a", "b"]);
    let pen = Pen::builder()
        .workers(1)
        .options(["-r", "-b", "0", "-t", "3600"])
        .control()
        .file("pending_max 3\n")
        .servers(&farm)
        .server_as(port.address().to_string())
        .start();
    let crowd = crowd(&pen, 60);
    eventually("all are served but those that the silent server has", || served(&crowd) == 57);
    let report = pen.report();
    assert_eq!(report.server(2, "connections"), 3);
    // Round robin selects the silent server for every third client.
    let explains = |n: usize| {
        assert!(pen.ask(client(1000 + n)).is_some());
        pen.tell("explain 127.21.99.1")
            .contains("passed over, 3 connects to it are pending (pending_max)")
    };
    assert!((0..3).any(explains), "{}", pen.tell("explain 127.21.99.1"));
    pen.hears("pending_max");
    assert_eq!(pen.said().matches("pending_max").count(), 1, "told once: {}", pen.said());
    let state =
        |line: &str, state: &str| pen.tell(line).contains(&format!("\"state\":\"{state}\""));
    for line in ["servers json", "overview", "status json"] {
        assert!(state(line, "pending"), "{line}: {}", pen.tell(line));
    }
    let page = pen.report().html;
    assert!(page.contains("3 of 3</b> servers up, 1 passed over</li>"), "{page}");
    assert!(
        page.contains("<em>passed over, too many connects to it are pending (pending_max)</em>"),
        "{page}"
    );
    crowd.into_iter().for_each(Client::reset);
    pen.settle();
    eventually("it has room", || !state("servers json", "pending"));
    pen.hears(&format!("server 2 ({}) is in use again", port.address()));
    assert_eq!(pen.said().matches("pending_max").count(), 1, "{}", pen.said());
}

#[test]
fn a_server_that_one_worker_passes_over_is_known_to_the_others() {
    let port = Port::reserve();
    let _hole = Blackhole::on(&port);
    let farm = Backend::farm(["a"]);
    let pen = Pen::builder()
        .workers(2)
        .options(["-r", "-b", "0", "-t", "3600"])
        .control()
        .file("pending_max 2\n")
        .servers(&farm)
        .server_as(port.address().to_string())
        .start();
    // The other worker answers.
    let explains = |pen: &Pen| {
        pen.tell("explain 127.21.99.1")
            .contains(": another worker passes it over, 2 connects to it are pending there")
    };
    assert!(!explains(&pen));
    let crowd = pen.only(1, || {
        let crowd = crowd(&pen, 12);
        eventually("all are served but those that the silent server has", || served(&crowd) == 10);
        crowd
    });
    eventually("the other worker says so", || explains(&pen));
    crowd.into_iter().for_each(Client::reset);
    pen.settle();
    assert!(!explains(&pen), "{}", pen.tell("explain 127.21.99.1"));
}

#[test]
fn clients_that_a_server_with_too_many_pending_connects_cannot_have_go_to_the_emergency_server() {
    let port = Port::reserve();
    let _hole = Blackhole::on(&port);
    let emergency = Backend::named("e");
    let operand = emergency.operand();
    let pen = Pen::builder()
        .workers(1)
        .options(["-b", "0", "-t", "3600", "-e", &operand])
        .file("pending_max 2\n")
        .server_as(port.address().to_string())
        .start();
    let crowd = crowd(&pen, 12);
    eventually("the emergency server helps", || served(&crowd) == 10);
    assert_eq!(pen.report().server(0, "connections"), 2);
    crowd.into_iter().for_each(Client::reset);
    pen.settle();
}

#[test]
fn a_server_that_is_well_gets_all_clients_of_a_burst() {
    let farm = Backend::farm(["a"]);
    let pen = Pen::builder()
        .workers(1)
        .options(["-x", "500"])
        .file("pending_max 1\n")
        .servers(&farm)
        .start();
    let worker = pen.workers().remove(0);
    worker.stop();
    let crowd = crowd(&pen, 200);
    worker.resume();
    eventually("all are served", || served(&crowd) == 200);
    assert!(crowd.iter().all(|client| client.line().as_deref() == Some("a")), "and none is closed");
    drop(crowd);
    pen.settle();
}

#[test]
fn a_source_that_is_gone_is_a_matter_of_the_servers_that_it_leads_to() {
    let name = "a_source_that_is_gone_is_a_matter_of_the_servers_that_it_leads_to";
    if !machine::in_own_network(name, &["ip address add 192.0.2.77/32 dev lo".into()]) {
        return;
    }
    let builder = Pen::builder();
    let path = builder.directory().join("server.sock");
    let unix = Backend::named_unix(&path, "u");
    let farm = Backend::farm(["a"]);
    let pen = builder
        .workers(1)
        .options(["-r"])
        .file("source 192.0.2.77\n")
        .servers(&farm)
        .server(&unix)
        .start();
    assert_eq!(names(&pen, 2), "ua", "while it is there");
    let gone = Command::new("ip")
        .args(["address", "delete", "192.0.2.77/32", "dev", "lo"])
        .status()
        .unwrap();
    assert!(gone.success());
    assert_eq!(names(&pen, 30), "u".repeat(30));
    pen.hears("192.0.2.77");
    assert!(
        !pen.said().contains("pauses") && !pen.said().contains("blacklisting"),
        "{}",
        pen.said()
    );
    assert!(pen.said().matches("192.0.2.77").count() < 4, "at a limited rate: {}", pen.said());
}

#[test]
fn local_ports_that_are_used_up_towards_one_server_are_no_matter_of_another() {
    let name = "local_ports_that_are_used_up_towards_one_server_are_no_matter_of_another";
    if !machine::in_own_network(
        name,
        &["echo 50000 50019 > /proc/sys/net/ipv4/ip_local_port_range".into()],
    ) {
        return;
    }
    let farm = Backend::farm(["a", "b"]);
    let pen = Pen::builder().workers(1).options(["-r"]).control().servers(&farm).start();
    // The test takes all local ports for connects to the first server.
    let mut taken = Vec::new();
    while let Ok(socket) = std::net::TcpStream::connect(farm[0].address()) {
        taken.push(socket);
    }
    assert!(taken.len() >= 10, "{}", taken.len());
    // Fewer than the local ports for the second server: each connection leaves one in TIME_WAIT.
    assert_eq!(names(&pen, 8), "b".repeat(8));
    pen.hears("ip_local_port_range");
    assert!(pen.said().contains("server 0"), "{}", pen.said());
    assert!(
        !pen.said().contains("pauses") && !pen.said().contains("blacklisting"),
        "{}",
        pen.said()
    );
    drop(taken);
    let report = pen.report();
    assert_eq!((report.server(0, "connections"), report.server(1, "connections")), (0, 0));
}

#[test]
fn a_full_backlog_of_a_unix_socket_is_passed_over_and_told_of() {
    let builder = Pen::builder();
    let path = builder.directory().join("full.sock");
    let _full = full_unix(&path);
    let farm = Backend::farm(["a"]);
    let pen = builder.workers(1).options(["-r"]).server_as(&path).servers(&farm).start();
    assert_eq!(names(&pen, 30), "a".repeat(30));
    pen.hears("backlog");
    assert!(
        !pen.said().contains("pauses") && !pen.said().contains("blacklisting"),
        "{}",
        pen.said()
    );
    assert!(pen.said().matches("backlog").count() < 4, "at a limited rate: {}", pen.said());
}

#[test]
fn thousands_of_servers_that_fail_at_once_leave_time_for_others() {
    const SERVERS: usize = 2000;
    const CLIENTS: usize = 40;
    let builder = Pen::builder();
    let good = Backend::named("a");
    let nowhere = builder.directory().join("nobody");
    let missing = (0..SERVERS).map(|n| format!("{}{n}", nowhere.display()));
    let builder =
        builder.workers(1).options(["-b", "0", "-x", "500", "-S", "2100", "-r"]).server(&good);
    let pen = missing.fold(builder, |builder, server| builder.server_as(server)).start();
    // Round robin begins after server 0, so the first attempts fail. This connection checks later
    // that the worker still serves.
    let held = std::iter::repeat_with(|| pen.hold(client(9999))).flatten().next().unwrap().0;
    let worker = pen.workers().remove(0);
    worker.stop();
    let crowd = crowd(&pen, CLIENTS);
    worker.resume();
    let mut echoes = 0;
    while served(&crowd) < CLIENTS {
        held.echoes("meanwhile");
        echoes += 1;
    }
    assert!(
        echoes > CLIENTS,
        "{echoes} answers while {CLIENTS} clients tried {SERVERS} servers each"
    );
    assert!(
        crowd.iter().all(|client| client.line().as_deref() == Some("a")),
        "and each of them is served"
    );
}
