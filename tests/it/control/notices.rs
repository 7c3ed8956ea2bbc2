//! Messages about success: the changes of a reload, the changes of an operator, and renewed
//! certificates.

use std::fs;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;

use crate::harness::control::Control;
use crate::harness::tls::{Authority, Identity};
use crate::harness::{Backend, Pen, Port, eventually};
use rustix::process::Signal;

/// The lines of pen's messages that contain `text`, without their time.
fn lines(pen: &Pen, text: &str) -> Vec<String> {
    let said = pen.said();
    let untimed = |line: &str| line.split_once(": ").map_or(line, |(_, rest)| rest).to_string();
    said.lines().map(untimed).filter(|line| line.contains(text)).collect()
}

/// Makes pen read its file again, and returns the line about the outcome.
#[track_caller]
fn reloaded(pen: &Pen, text: &str) -> String {
    let path = pen.directory().join("pen.cfg");
    let new = pen.directory().join("pen.cfg.new");
    fs::write(&new, text).unwrap();
    fs::rename(new, &path).unwrap();
    let begin = format!("reloaded {}: ", path.display());
    let before = lines(pen, &begin).len();
    pen.supervisor().signal(Signal::HUP);
    eventually("the outcome is told", || lines(pen, &begin).len() > before);
    let told = lines(pen, &begin);
    assert_eq!(told.len(), before + 1, "once: {told:?}");
    told.last().unwrap().trim_start_matches(&begin).to_string()
}

#[test]
fn a_reload_tells_what_changed() {
    let server = Backend::named("a");
    let pen = Pen::builder()
        .servers([&server, &server])
        .file("blacklist 1\nacl 3 permit 10.0.0.0/8\n")
        .start();
    assert!(lines(&pen, "reloaded").is_empty(), "a start is no reload");
    assert_eq!(reloaded(&pen, "blacklist 1\nacl 3 permit 10.0.0.0/8\n"), "nothing changed");
    assert_eq!(
        reloaded(
            &pen,
            "blacklist 1\nserver 1 max 10 weight 7\nacl 3 permit 10.0.0.0/9\nidle_timeout 9\n"
        ),
        "acl 3; server 1 max 10, weight 7; idle_timeout 9"
    );
    assert_eq!(
        reloaded(&pen, "idle_timeout 0\nroundrobin\nacl 3 permit 10.0.0.0/9\n"),
        "roundrobin; idle_timeout 0"
    );
    let log = pen.directory().join("requests.log");
    let acl = "acl 3 permit 10.0.0.0/9\n";
    assert_eq!(
        reloaded(&pen, &format!("{acl}log {}\n", log.display())),
        format!("log {}", log.display())
    );
    assert_eq!(reloaded(&pen, &format!("{acl}log {}\n", log.display())), "nothing changed");
    assert_eq!(reloaded(&pen, &format!("{acl}no log\n")), "no log");
    // Of very many changes the first are listed, and the others are counted.
    let many: String =
        (0..10).map(|list| format!("acl {list} permit 10.9.{list}.0/24\n")).collect();
    let told = reloaded(
        &pen,
        &format!("{many}timeout 8\nblacklist 2\nhash\nserver 0 prio 1\nserver 1 prio 1\n"),
    );
    assert!(
        told.starts_with("acl 0; acl 1; ") && told.ends_with("; 5 more settings changed"),
        "{told}"
    );
    // A refused file is not a success.
    fs::write(pen.directory().join("pen.cfg"), "nonsense\n").unwrap();
    let before = lines(&pen, "reloaded ").len();
    pen.supervisor().signal(Signal::HUP);
    pen.hears("the configuration file is not used");
    assert_eq!(lines(&pen, "reloaded ").len(), before);
}

#[test]
fn each_change_by_an_operator_is_told_and_questions_are_not() {
    let server = Backend::named("a");
    let pen = Pen::builder().server(&server).control().start();
    pen.tells("server 0 max 10", "");
    pen.tells("timeout 9", "9");
    let extra = pen.directory().join("extra");
    fs::write(&extra, "blacklist 7\nprio\n").unwrap();
    for path in [pen.directory(), &extra] {
        fs::set_permissions(path, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    }
    pen.tells(&format!("include {}", extra.display()), "");
    for question in
        ["timeout", "servers", "mode", "status", "close 1", "blacklist x", "include /no/such/file"]
    {
        pen.tell(question);
    }
    let (_held, _) = pen.hold(std::net::Ipv4Addr::LOCALHOST).unwrap();
    pen.tells("close 0", "Forcibly closing connection 0");
    pen.tells("server 0 blacklist 3600", "");
    assert_eq!(
        lines(&pen, "operator: "),
        [
            "operator: server 0 max 10, by 127.0.0.1".to_string(),
            "operator: timeout 9, by 127.0.0.1".to_string(),
            format!("operator: include {}: blacklist 7; prio, by 127.0.0.1", extra.display()),
            "operator: close 0, by 127.0.0.1".to_string(),
            "operator: server 0 blacklist 3600, by 127.0.0.1".to_string(),
        ]
    );
}

#[test]
fn a_script_that_changes_something_again_and_again_does_not_flood_the_log() {
    const CHANGES: usize = 300;
    let server = Backend::named("a");
    let pen = Pen::builder().server(&server).control().start();
    let Control::Tcp(port) = pen.control() else { panic!("a TCP port") };
    say(
        port.address(),
        &(0..CHANGES).map(|n| format!("server 0 max {}\n", n + 1)).collect::<String>(),
    );
    let counted = |line: &String| -> usize {
        match line.split_once(" more changes, the last of them: server 0 max ") {
            Some((count, _)) => count.trim_start_matches("operator: ").parse().unwrap(),
            None => 1,
        }
    };
    eventually("all are accounted for", || {
        lines(&pen, "server 0 max ").iter().map(counted).sum::<usize>() == CHANGES
    });
    let told = lines(&pen, "server 0 max ");
    assert!(told.len() <= 50, "{} lines for {CHANGES} changes", told.len());
    assert!(
        told.iter().any(|line| line.ends_with(&format!("server 0 max {CHANGES}, by 127.0.0.1"))),
        "the last is told: {told:?}"
    );
}

/// Sends several lines, and reads the replies to the end.
fn say(to: SocketAddr, text: &str) {
    // The port accepts one line per connection.
    for line in text.lines() {
        let mut stream = TcpStream::connect(to).unwrap();
        stream.write_all(format!("{line}\n").as_bytes()).unwrap();
        stream.read_to_end(&mut Vec::new()).unwrap();
    }
}

#[test]
fn renewed_certificates_are_told_and_others_are_not() {
    let write = |path: &Path, identity: &Identity| {
        fs::write(path, format!("{}{}", identity.key, identity.chain)).unwrap();
    };
    let server = Backend::named("a");
    let builder = Pen::builder().server(&server);
    let (path, authority) = (builder.directory().join("www.pem"), Authority::root("root"));
    write(&path, &authority.issue(&["a.test"]));
    let pen = builder.options(["-E", path.to_str().unwrap()]).file("blacklist 1\n").start();
    assert_eq!(reloaded(&pen, "blacklist 1\n"), "nothing changed");
    write(&path, &authority.issue(&["a.test"]));
    let told = reloaded(&pen, "blacklist 1\n");
    let begin = format!("certificate renewed: CN=a.test in {} until ", path.display());
    assert!(told.starts_with(&begin) && !told.contains(';'), "{told}");
    assert_eq!(reloaded(&pen, "blacklist 2\n"), "blacklist 2");
    // A certificate of the chain is added and removed.
    let own = fs::read_to_string(&path).unwrap();
    fs::write(&path, own.clone() + authority.pem()).unwrap();
    let told = reloaded(&pen, "blacklist 2\n");
    assert!(told.starts_with("certificate new: CN=root in ") && !told.contains(';'), "{told}");
    fs::write(&path, &own).unwrap();
    assert_eq!(
        reloaded(&pen, "blacklist 2\n"),
        format!("certificate gone: CN=root in {}", path.display())
    );
    // A reload with only a bad key is not a success.
    write(
        &path,
        &Identity { key: authority.issue(&["b.test"]).key, ..authority.issue(&["a.test"]) },
    );
    let before = lines(&pen, "reloaded ").len();
    pen.supervisor().signal(Signal::HUP);
    pen.hears("the configuration file is not used");
    assert_eq!(lines(&pen, "reloaded ").len(), before);
}

#[test]
fn the_end_by_command_is_told_with_who_did_it() {
    let server = Backend::named("a");
    let mut pen = Pen::builder().server(&server).control().options(["-X"]).start();
    pen.ends_when(|pen| pen.tells("exit", ""));
    assert_eq!(lines(&pen, "operator: "), ["operator: exit, by 127.0.0.1"]);
}

/// A stopped worker confirms nothing, and answers no report.
#[test]
fn a_change_and_a_report_that_the_end_of_pen_cuts_short_are_logged() {
    let server = Backend::named("a");
    let mut pen = Pen::builder().workers(2).server(&server).control().start();
    pen.workers()[0].stop();
    pen.supervisor().signal(Signal::USR1);
    let new = Port::reserve();
    let operator = pen.control().connect().unwrap();
    operator.send(format!("listen {}\n", new.address()));
    eventually("the change is in force", || TcpStream::connect(new.address()).is_ok());
    pen.end_by(Signal::TERM);
    let said = pen.said();
    assert!(said.contains(&format!("operator: listen {}, by ", new.address())), "{said}");
    assert!(said.contains("the report was not made: pen stops\n"), "{said}");
}
