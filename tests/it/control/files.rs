//! Commands about the listener, the files that pen reads and writes, and its reports. A change that
//! is refused has no effect on any of them.

use std::fs;
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::sync::Arc;
use std::thread;

use crate::harness::machine::{NOBODY, directory};
use crate::harness::steering::{client, open_directory, steered};
use crate::harness::tls::{Authority, write};
use crate::harness::{Backend, Client, Pen, Port, Report, eventually, needs_root};
use rustix::process::Signal;

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
fn recent_lists_clients_with_what_they_moved() {
    let server = Backend::named("a");
    let pen = steered([&server]).start();
    let (held, _) = pen.hold(client(7)).unwrap();
    held.echoes("four");
    pen.ask(client(7)).unwrap();
    eventually("the bytes are counted", || {
        pen.tell("recent").starts_with("127.20.0.7 connects 2 sx 9 rx 5 server 0 ")
    });
    assert_eq!(pen.tell("recent 60"), pen.tell("recent"));
}

#[test]
fn the_status_page_is_complete_and_needs_no_file() {
    let server = Backend::named("a");
    let pen = steered([&server]).without_status_file().start();
    let _held = pen.hold(client(1)).unwrap();
    let page = pen.tell("status");
    assert!(
        page.starts_with(
            "<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<title>Pen status page</title>\n"
        ),
        "{page}"
    );
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
    let mine = crate::harness::machine::directory(
        &open_directory(&pen),
        "mine",
        0o755,
        crate::harness::machine::NOBODY,
    )
    .join("page.html");
    pen.tells(&format!("web_stats {}", mine.display()), mine.to_str().unwrap());
    pen.supervisor().signal(Signal::USR1);
    eventually("reports go to the new file", || {
        fs::read_to_string(&mine).is_ok_and(|text| text.ends_with("</html>\n"))
    });
}

#[test]
fn the_log_is_set_shown_moved_and_stopped() {
    let server = Backend::named("a");
    let pen = steered([&server]).start();
    let directory = crate::harness::machine::directory(
        &open_directory(&pen),
        "mine",
        0o755,
        crate::harness::machine::NOBODY,
    );
    let talk = |text: &str, worker: usize| {
        pen.only(worker, || {
            let (held, _) = pen.hold(client(1)).unwrap();
            held.echoes(text);
        });
    };
    let holds = |path: &std::path::Path, text: &str| {
        fs::read_to_string(path).is_ok_and(|log| log.contains(text))
    };
    pen.tells("log", "");
    let [first, second] = ["first.log", "second.log"].map(|name| directory.join(name));
    for (path, word) in [(&first, "one"), (&second, "two")] {
        pen.tells(&format!("log {}", path.display()), path.to_str().unwrap());
        pen.tells("log", path.to_str().unwrap());
        for worker in 0..3 {
            talk(&format!("{word}{worker}"), worker);
        }
        eventually("the lines are there", || {
            (0..3).all(|worker| holds(path, &format!("{word}{worker}")))
        });
    }
    assert!(!holds(&first, "two"));
    let reply = pen.refuses(&format!("log {}/no/such", directory.display()));
    assert!(reply.starts_with("log: ") && reply.ends_with("no such file or directory"), "{reply}");
    talk("three", 0);
    eventually("the old log stays", || holds(&second, "three"));
    let daemon = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
    daemon.set_read_timeout(Some(crate::harness::PATIENCE)).unwrap();
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
        let name = pen.only(worker, || crate::harness::ask(other.address(), client(2).into()));
        assert_eq!(name.as_deref(), Some("a"));
    }
    eventually("the old port refuses", || {
        Client::connect(client(1).into(), pen.address()).is_err()
    });
    held.echoes("open connections stay");
    let taken = Backend::named("taken");
    let reply = pen.refuses(&format!("listen {}", taken.operand()));
    assert!(reply.starts_with("listen: ") && reply.contains("in use"), "{reply}");
    pen.tells("listen", &other.address().to_string());
    assert_eq!(crate::harness::ask(other.address(), client(2).into()).as_deref(), Some("a"));
    if crate::harness::machine::is_root() {
        let reply = pen.refuses("listen 127.0.0.1:81");
        assert!(
            reply.starts_with("listen: "),
            "a privileged port is not an operator's to take: {reply}"
        );
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
    // Sixteen levels of included files are allowed, and no seventeenth.
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
        reply.starts_with("include: ")
            && reply.ends_with("18.cfg: not included: more than 16 files deep"),
        "{reply}"
    );
    pen.tells("timeout", "37");
}

/// Whether a connection to the address ever succeeds while `act` runs.
fn ever_answers(address: SocketAddr, act: impl FnOnce()) -> bool {
    let acting = Arc::new(());
    let seen = Arc::downgrade(&acting);
    let connecting = thread::spawn(move || {
        let mut answered = false;
        while seen.strong_count() > 0 {
            answered |= TcpStream::connect(address).is_ok();
        }
        answered
    });
    act();
    drop(acting);
    connecting.join().unwrap()
}

/// The names in a directory.
fn names(directory: &Path) -> Vec<String> {
    let names = fs::read_dir(directory).unwrap();
    names.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
}

/// A pen with TLS and a configuration file, and a directory where its operators may make files.
fn with_tls(server: &Backend) -> (Pen, std::path::PathBuf) {
    let builder = Pen::builder().server(server).file("blacklist 1\n").control();
    let identity = Authority::root("root").issue(&["localhost"]);
    let pem = format!("{}{}", identity.key, identity.chain);
    let path = write(builder.directory(), "pem", pem);
    let pen = builder.options(["-E".as_ref(), path.as_os_str()]).start();
    let new = directory(&open_directory(&pen), "new", 0o755, NOBODY);
    (pen, new)
}

#[test]
fn a_change_that_is_refused_opens_no_port_and_leaves_no_file() {
    let server = Backend::named("a");
    let (pen, new) = with_tls(&server);
    let (port, taken) = (Port::reserve(), Backend::named("taken"));
    let at = |name: &str| new.join(name).display().to_string();
    let (log, page, socket) = (at("log"), at("page"), at("socket"));
    let gone = at("gone/file");
    let (free, taken) = (format!("listen {}", port.address()), taken.operand());
    let bad = "ssl_option no_tlsv1.2";
    // Each change has one command that fails, and the reason.
    let changes = [
        (
            vec![free.clone(), format!("log {log}"), format!("web_stats {page}"), bad.into()],
            "pem: ",
        ),
        (vec![format!("listen {socket}"), format!("log {log}"), bad.into()], "pem: "),
        (
            vec![format!("log {log}"), format!("web_stats {page}"), format!("listen {taken}")],
            &taken,
        ),
        (vec![free.clone(), format!("log {gone}")], "gone"),
        (vec![free, format!("log {log}"), format!("web_stats {gone}")], "gone"),
        (vec![format!("log {log}"), format!("web_stats {page}"), format!("listen {gone}")], "gone"),
    ];
    let (pem, good) = (pen.directory().join("pem"), fs::read(pen.directory().join("pem")).unwrap());
    let (count, mut effects) = (changes.len(), Vec::new());
    for (lines, reason) in changes {
        let text = format!("{}\nblacklist 2\n", lines.join("\n"));
        fs::write(&pem, if reason == "pem: " { b"nothing" } else { &good[..] }).unwrap();
        let included = new.parent().unwrap().join("more.cfg");
        fs::write(&included, &text).unwrap();
        fs::write(pen.directory().join("pen.cfg"), &text).unwrap();
        let answered = ever_answers(port.address(), || {
            let reply = pen.refuses(&format!("include {}", included.display()));
            assert!(reply.contains(reason), "{lines:?}: {reply}");
        });
        effects.push((answered, names(&new)));
        let refused = "the configuration file is not used";
        let before = pen.said().matches(refused).count();
        let answered = ever_answers(port.address(), || {
            pen.supervisor().signal(Signal::HUP);
            eventually("the file is refused", || pen.said().matches(refused).count() > before);
        });
        effects.push((answered, names(&new)));
        pen.tells("blacklist", "1");
    }
    assert_eq!(effects, vec![(false, Vec::<String>::new()); 2 * count]);
    // Without what fails, the same commands are carried out.
    fs::write(&pem, &good).unwrap();
    let text = format!("listen {}\nlog {log}\nweb_stats {page}\nblacklist 2\n", port.address());
    fs::write(new.parent().unwrap().join("more.cfg"), text).unwrap();
    pen.tells(&format!("include {}", new.parent().unwrap().join("more.cfg").display()), "");
    pen.tells("listen", &port.address().to_string());
    assert!(TcpStream::connect(port.address()).is_ok());
    let mut present = names(&new);
    present.sort();
    assert_eq!(present, ["log", "page"]);
}

#[test]
fn a_log_that_was_made_through_a_link_is_removed_if_its_change_is_refused() {
    if !needs_root() {
        return;
    }
    let server = Backend::named("a");
    let builder = Pen::builder().server(&server).control();
    let jail = directory(builder.directory(), "jail", 0o755, NOBODY);
    let link = jail.join("link");
    std::os::unix::fs::symlink("log", &link).unwrap();
    std::os::unix::fs::lchown(&link, Some(NOBODY), None).unwrap();
    for (file, text) in [("bad", "log /link\nlisten /gone/socket\n"), ("good", "log /link\n")] {
        fs::write(jail.join(file), text).unwrap();
    }
    let pen = builder.options(["-j", jail.to_str().unwrap()]).start();
    assert!(pen.refuses("include /bad").contains("/gone/socket"));
    assert!(link.is_symlink() && !jail.join("log").exists(), "{:?}", names(&jail));
    pen.tells("include /good", "");
    assert!(jail.join("log").exists());
}
