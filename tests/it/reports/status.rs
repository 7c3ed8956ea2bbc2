//! The report of USR1: one for the whole program, as text or HTML (pen(8), Reports).

use std::collections::BTreeSet;
use std::fs;
use std::net::{Ipv4Addr, SocketAddr};
use std::os::unix::fs::PermissionsExt;

use crate::harness::{Backend, Client, Pen, Port, eventually};
use rustix::process::Signal;

/// A client address of its own for each number.
fn client(number: u8) -> Ipv4Addr {
    Ipv4Addr::new(127, 9, 0, number)
}

/// The names of the columns of the three tables, in their order.
fn columns(html: &str) -> Vec<Vec<&str>> {
    let heads = html.split("<table").skip(1).map(|table| table.split("</tr>").next().unwrap());
    heads
        .map(|head| {
            head.lines()
                .filter_map(|line| line.strip_suffix("</td>")?.rsplit_once('>').map(|x| x.1))
                .collect()
        })
        .collect()
}

/// The servers as the page shows them to programs, once it does.
fn page_servers(at: SocketAddr) -> Option<serde_json::Value> {
    let client = Client::connect(Ipv4Addr::LOCALHOST.into(), at).ok()?;
    client.send(format!("GET /status.json HTTP/1.1\r\nHost: {at}\r\nConnection: close\r\n\r\n"));
    let reply = String::from_utf8(client.read_to_end().ok()?).unwrap();
    let (_, body) = reply.split_once("\r\n\r\n")?;
    let mut status: serde_json::Value = serde_json::from_str(body).ok()?;
    Some(status["servers"].take())
}

#[test]
fn the_page_has_the_last_minutes_without_a_control_port() {
    let (server, page) = (Backend::named("a"), Port::reserve());
    let pen = Pen::builder().server(&server).page(&format!("page {}", page.address())).start();
    eventually("the page shows what came in a period", || {
        let _ = pen.ask(Ipv4Addr::LOCALHOST);
        page_servers(page.address()).is_some_and(|servers| {
            let periods = servers[0]["history"]["connections"].as_array();
            periods.is_some_and(|periods| periods.iter().any(|period| period != 0))
        })
    });
}

#[test]
fn html_has_the_titles_tables_and_columns_that_scripts_know() {
    let farm = Backend::farm(["a", "b"]);
    let pen = Pen::builder().servers(&farm).start();
    let _held = pen.hold(client(1)).unwrap();
    let html = pen.report().html;
    assert!(
        html.starts_with(
            "<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<title>Pen status page</title>\n"
        ),
        "{html}"
    );
    assert!(html.contains("<body bgcolor=\"#ffffff\"><h1>Pen status page</h1>\nTime 20"), "{html}");
    assert!(html.contains(", 2 servers, 1 current<p>\n"), "{html}");
    assert!(
        html.contains(
            "<h2>Active clients</h2>Max number of clients: 2048<p><table bgcolor=\"#c0c0c0\">\n"
        ),
        "{html}"
    );
    let line = html.lines().find(|line| line.starts_with("<h2>Active connections</h2>")).unwrap();
    assert!(
        line.starts_with("<h2>Active connections</h2>Number of connections: 256 max, 1 used, "),
        "{line}"
    );
    assert!(line.ends_with(" last<p><table bgcolor=\"#c0c0c0\">"), "{line}");
    let end = html.rsplit_once("</table>\n").unwrap().1;
    assert!(end.starts_with("<p>Sandbox of the workers: system calls filtered, "), "{html}");
    assert!(end.ends_with("</p>\n</body>\n</html>\n"), "{html}");
    for text in [
        "<meta charset=\"utf-8\">",
        "2 of 2</b> servers up",
        "1 of 256</b> connections in use",
        "<em>up</em>",
    ] {
        assert!(html.contains(text), "{text} in {html}");
    }
    assert_eq!(html.matches("<caption>").count(), 3, "units");
    assert!(!html.contains("<script"), "{html}");
    for text in ["</b> is where it listens</li>", "</b> since its start, 3 workers</li>", "<b>UTC"]
    {
        assert!(html.contains(text), "{text} in {html}");
    }
    let servers =
        "server,address,status,port,connections,max soft,max hard,sent,received,weight,prio";
    let clients = "client,address,age(secs),last server,connects,sent,received";
    let connections = "connection,downfd,upfd,pending data down,pending data up,client,server";
    let expected: Vec<Vec<&str>> =
        [servers, clients, connections].map(|names| names.split(',').collect()).to_vec();
    assert_eq!(columns(&html), expected);
}

#[test]
fn one_report_covers_all_workers() {
    let farm = Backend::farm(["a", "b"]);
    let operands = [0, 1].map(|n| farm[n].operand());
    let pen = Pen::builder()
        .server_as(&operands[0])
        .server_as(format!("{}:20:30:2:1", operands[1]))
        .start();
    let held: Vec<(Client, String)> =
        (0..6).map(|n| pen.only(usize::from(n) % 3, || pen.hold(client(n)).unwrap())).collect();
    held[0].0.echoes("four");
    let report = pen.report();
    assert_eq!(report.in_use(), 6);
    assert_eq!(report.servers[1]["address"], "127.0.0.1");
    assert_eq!(report.servers[1]["port"], farm[1].address().port().to_string());
    let fields = ["max soft", "max hard", "weight", "prio"].map(|column| report.server(1, column));
    assert_eq!(fields, [20, 30, 2, 1]);
    assert_eq!(report.connections.len(), 6);
    let numbers: BTreeSet<i64> =
        report.connections.iter().map(|row| row["connection"].parse().unwrap()).collect();
    assert_eq!(numbers, (0..6).collect(), "numbers are the program's, unique, the lowest first");
    let slots: BTreeSet<&str> =
        report.connections.iter().map(|row| row["client"].as_str()).collect();
    assert_eq!(slots.len(), 6);
    for row in &report.connections {
        let owner = report.clients.iter().find(|client| client["client"] == row["client"]).unwrap();
        assert_eq!(owner["last server"], row["server"]);
    }
    let row = report.client(&client(0).to_string()).unwrap();
    assert_eq!(
        [&row["connects"], &row["sent"], &row["received"]],
        ["1", "7", "5"],
        "bytes of an open connection"
    );
    drop(held);
    pen.settle();
    assert_eq!(pen.report().clients.len(), 6);
}

#[test]
fn counters_outlive_a_worker() {
    let farm = Backend::farm(["a"]);
    let pen = Pen::builder().workers(2).servers(&farm).start();
    for n in 0..10 {
        pen.ask(client(n)).unwrap();
    }
    let before = pen.report();
    for worker in pen.workers() {
        worker.kill();
    }
    pen.workers();
    let after = pen.report();
    assert_eq!(before.server(0, "received"), 20);
    assert_eq!(after.server(0, "received"), 20);
    assert_eq!(after.clients.len(), 10);
    assert_eq!(after.client(&client(3).to_string()).unwrap()["sent"], "2");
}

#[test]
fn the_status_file_is_replaced_whole_and_only_its_owner_may_write_it() {
    let farm = Backend::farm(["a"]);
    let pen =
        Pen::builder().through(["sh", "-c", "umask 0; exec \"$0\" \"$@\""]).servers(&farm).start();
    pen.report();
    let path = pen.directory().join("status.html");
    assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o644);
    // A reader sees only complete reports while the file is replaced again and again.
    for _ in 0..30 {
        pen.supervisor().signal(Signal::USR1);
        let html = fs::read_to_string(&path).unwrap();
        assert!(html.starts_with("<!DOCTYPE html>") && html.trim_end().ends_with("</html>"));
    }
}

#[test]
fn a_status_file_that_is_a_symbolic_link_is_not_followed() {
    let farm = Backend::farm(["a"]);
    let pen = Pen::builder().servers(&farm).start();
    let (victim, path) = (pen.directory().join("victim"), pen.directory().join("status.html"));
    fs::write(&victim, "precious").unwrap();
    std::os::unix::fs::symlink(&victim, &path).unwrap();
    pen.supervisor().signal(Signal::USR1);
    pen.supervisor().signal(Signal::USR1);
    pen.ask(client(1)).unwrap();
    eventually("a second report has been dealt with", || {
        pen.supervisor().signal(Signal::USR1);
        pen.said().contains("status.html") || !fs::symlink_metadata(&path).unwrap().is_symlink()
    });
    assert_eq!(fs::read_to_string(&victim).unwrap(), "precious");
}

#[test]
fn a_status_file_that_cannot_be_written_is_said_and_nothing_else() {
    let farm = Backend::farm(["a"]);
    let pen = Pen::builder().servers(&farm).start();
    fs::create_dir(pen.directory().join("status.html")).unwrap();
    pen.supervisor().signal(Signal::USR1);
    pen.hears("status.html");
    assert_eq!(pen.ask(client(1)).as_deref(), Some("a"));
    fs::remove_dir(pen.directory().join("status.html")).unwrap();
    pen.report();
}

#[test]
fn text_goes_to_standard_error_in_the_form_of_the_manual() {
    let farm = Backend::farm(["a", "b"]);
    let operands = [0, 1].map(|n| farm[n].operand());
    let pen = Pen::builder()
        .without_status_file()
        .server_as(&operands[0])
        .server_as(format!("{}:20:30", operands[1]))
        .start();
    let (held, _) = pen.hold(client(1)).unwrap();
    held.echoes("four");
    pen.supervisor().signal(Signal::USR1);
    pen.hears("Sandbox of the workers: ");
    let text: String =
        pen.said().lines().map(|line| without_time(line).to_string() + "\n").collect();
    let port = farm[1].address().port();
    let blocks = [
        "Server 0 status:\naddress 127.0.0.1\n0\nport ".to_string(),
        format!(
            "Server 1 status:\naddress 127.0.0.1\n0\nport {port}\n1 connections (20 soft, 30 \
             hard)\n5 sent, 7 received\n"
        ),
        "Max number of clients: 2048\n".to_string(),
        "Active clients:\nClient 0 status:\naddress 127.9.0.1\nlast used ".to_string(),
        "last server 1\nconnects  1\nsent  7\nreceived  5\n".to_string(),
        "Max number of connections: 256\n".to_string(),
        "Active connections:\nConnection 0 status:\ndownfd = ".to_string(),
        "pending data 0 down, 0 up\nclient 0, server 1\n".to_string(),
        "Sandbox of the workers: system calls filtered, ".to_string(),
    ];
    assert!(
        text.lines()
            .any(|line| line.starts_with("Time 20") && line.ends_with(", 2 servers, 1 current")),
        "{text}"
    );
    let mut rest = text.as_str();
    for block in blocks {
        let Some((_, after)) = rest.split_once(block.as_str()) else {
            panic!("no {block:?} (in this place) in:\n{text}")
        };
        rest = after;
    }
}

/// A line without its time.
fn without_time(line: &str) -> &str {
    let bytes = line.as_bytes();
    let timed = bytes.len() >= 21 && bytes[4] == b'-' && bytes[10] == b' ' && &line[19..21] == ": ";
    if timed { &line[21..] } else { line }
}

#[test]
fn a_large_report_comes_whole() {
    let farm = Backend::farm(["a"]);
    let pen = Pen::builder().options(["-x", "3000"]).servers(&farm).start();
    // More connections than fit one message between a worker and the supervisor.
    let held: Vec<Client> = pen.only(0, || {
        let crowd: Vec<Client> = (0..1500_u16)
            .map(|n| pen.connect(Ipv4Addr::new(127, 9, (1 + n / 250) as u8, (n % 250) as u8)))
            .collect();
        crowd.iter().for_each(|client| assert!(client.line().is_some()));
        crowd
    });
    let report = pen.report();
    assert_eq!(
        (report.connections.len(), report.clients.len(), report.in_use()),
        (1500, 1500, 1500)
    );
    drop(held);
    pen.settle();
}

#[test]
fn the_page_lists_the_emergency_and_the_abuse_server() {
    let farm = Backend::farm(["a", "last", "bad"]);
    let operands = [1, 2].map(|n| farm[n].operand());
    let pen = Pen::builder()
        .options(["-e", &operands[0], "-B", &operands[1]])
        .control()
        .file("server 5 address 127.0.0.1 port 1\nserver 0 max 1\nserver 5 blacklist 99\n")
        .server(&farm[0])
        .start();
    let _held = pen.hold(client(1)).unwrap();
    let html = pen.report().html;
    for (which, server) in [("0", &farm[0]), ("emergency", &farm[1]), ("abuse", &farm[2])] {
        let port = server.address().port();
        let text = format!("<b>{which}</b> <span>127.0.0.1 port {port}</span>");
        assert!(html.contains(&text), "{text} in {html}");
    }
    // Four numbers have no server.
    assert!(html.contains(", 2 servers, 0 current<p>\n"), "{html}");
    assert!(html.contains("<b>1 of 2</b> servers up, 1 full</li>"), "{html}");
    assert!(html.contains("<li class=\"taken\"><b>5</b> "), "{html}");
}
