//! A service in one file: `pen -F FILE` is enough, `show` prints the settings in force, and a
//! setting that needs a restart says so.

use std::fs;
use std::net::Ipv4Addr;
use std::os::unix::fs::{chown, symlink};
use std::path::PathBuf;

use crate::harness::control::{PENCTL, run_penctl, text};
use crate::harness::machine::{self, NOBODY, is_root};
use crate::harness::tls::{Authority, write};
use crate::harness::{Backend, Builder, Pen, eventually, needs_root};
use rustix::process::Signal;

/// A client of these tests.
fn client(number: u8) -> Ipv4Addr {
    Ipv4Addr::new(127, 31, 0, number)
}

fn listen(builder: &Builder) -> String {
    format!("listen {}\n", builder.address())
}

fn server(number: u8, backend: &Backend) -> String {
    format!("server {number} address 127.0.0.1 port {}\n", backend.address().port())
}

fn file(pen: &Pen) -> PathBuf {
    pen.directory().join("pen.cfg")
}

/// Changes the text of the file, and makes pen read it again.
fn rewrite(pen: &Pen, edit: impl FnOnce(String) -> String) {
    let text = fs::read_to_string(file(pen)).unwrap();
    fs::write(file(pen), edit(text)).unwrap();
    pen.supervisor().signal(Signal::HUP);
}

/// The output of `--check --show` for a file.
#[track_caller]
fn shown(builder: &Builder) -> String {
    let output = builder.runs();
    assert!(output.status.success(), "{output:?}");
    text(&output.stdout)
}

#[test]
fn a_file_alone_is_a_service() {
    let farm = Backend::farm(["a", "last"]);
    let builder = Pen::builder();
    let status = builder.directory().join("status.html").display().to_string();
    let emergency = farm[1].operand();
    let lines = format!(
        "{}{}backlog 77\naccept_batch 9\nmax_servers 3\nhash_always\nexit_command\nstatus_file \
         {status}\nemergency {emergency}\n",
        listen(&builder),
        server(0, &farm[0])
    );
    let mut pen = builder.one_file(&lines).start();
    assert_eq!(pen.ask(client(1)).as_deref(), Some("a"));
    farm[0].stop();
    assert_eq!(pen.ask(client(1)).as_deref(), Some("last"));
    let at = |name: &str| pen.directory().join(name).display().to_string();
    for (line, reply) in [
        ("backlog", "77"),
        ("accept_batch", "9"),
        ("max_servers", "3"),
        ("show hash_always", "hash_always"),
        ("emergency", &*format!("emergency {emergency}")),
        ("abuse", "no abuse"),
        ("show exit_command", "exit_command"),
        ("pid_file", &*format!("pid_file {}", at("pid"))),
        ("control", &*at("ctl")),
        ("show control", &*format!("control {}", at("ctl"))),
        ("status_file", &*status),
        ("show jail", "no jail"),
        ("show workers", "workers 3"),
    ] {
        pen.tells(line, reply);
    }
    if is_root() {
        pen.tells("user", "user nobody");
        assert!(
            pen.control_process()
                .status("Uid")
                .split_whitespace()
                .all(|id| id == NOBODY.to_string())
        );
    }
    pen.ends_when(|pen| pen.tells("exit", ""));
}

#[test]
fn the_file_wins_over_options_for_what_only_a_start_can_give() {
    let builder = Pen::builder();
    let lines =
        format!("{}server 0 address 127.0.0.1 port 1\nno jail\nmax_servers 5\n", listen(&builder));
    let builder = builder.one_file(&lines).options([
        "-j",
        "/nowhere",
        "-p",
        "/nowhere/pid",
        "-S",
        "2",
        "-q",
        "60",
    ]);
    let text = shown(&builder.options(["--check", "--show"]));
    for line in [
        "no jail",
        "max_servers 5",
        "backlog 60",
        "workers 3",
        "server 0 address 127.0.0.1 port 1 max 0",
    ] {
        assert!(text.lines().any(|shown| shown.starts_with(line)), "{line}: {text}");
    }
    assert!(!text.contains("nowhere"), "{text}");
}

#[test]
fn a_mistake_names_the_line() {
    for (line, why) in [
        ("user no-such-user", "user no-such-user: no such user\n"),
        ("backlog 3", "backlog: '3' is not a number from 50 to 2147483647\n"),
        ("emergency host.invalid:80", "host.invalid"),
        ("certificate /nowhere/x.pem", "/nowhere/x.pem: no such file or directory\n"),
    ] {
        for check in [false, true] {
            let builder = Pen::builder();
            let lines = format!("{}server 0 address 127.0.0.1 port 1", listen(&builder));
            let builder = builder.one_file(&lines);
            let path = builder.directory().join("pen.cfg");
            fs::write(&path, format!("{lines}\n{line}\n")).unwrap();
            let said = text(&builder.options(check.then_some("--check")).fails().stderr);
            assert!(said.contains(why), "{line}: {said}");
            assert!(said.contains("pen.cfg:3: ") || why.starts_with("/nowhere"), "{line}: {said}");
        }
    }
}

#[test]
fn what_is_shown_is_a_file_that_starts_as_the_same() {
    let farm = Backend::farm(["a", "b"]);
    let builder = Pen::builder();
    let lines = format!(
        "{}{}acl 3 deny 10.0.0.0/8 # ten\nserver 2 address 127.0.0.1 port {} max 3 weight \
         2\nhttp\nsource 127.0.0.1\n\
         emergency 127.0.0.1:9:1\nproxy_protocol in from 10.0.0.0/8\nlog {}/log\n",
        listen(&builder),
        server(0, &farm[0]),
        farm[1].address().port(),
        builder.directory().display(),
    );
    let builder = builder.one_file(&lines).options(["-b", "7", "-x", "300"]);
    let path = builder.directory().join("pen.cfg");
    let checked =
        shown(&Pen::builder().options(["--check", "--show", "-b", "7", "-x", "300"]).alone(&path));
    let pen = builder.start();
    let in_force = pen.tell("show");
    assert_eq!(checked, in_force);
    let control = pen.control().to_string();
    assert_eq!(text(&run_penctl(PENCTL, [control.as_str(), "show"], "").stdout), in_force);
    for line in [
        "no server 1",
        "acl 3 deny 10.0.0.0 255.0.0.0",
        "blacklist 7",
        "emergency 127.0.0.1:9:1",
        "no hash",
    ] {
        assert!(in_force.lines().any(|shown| shown == line), "{line}: {in_force}");
    }
    let path = pen.directory().join("shown.cfg");
    fs::write(&path, &in_force).unwrap();
    let output = Pen::builder().options(["--check", "--show"]).alone(&path).runs();
    assert_eq!(text(&output.stdout), in_force, "{output:?}");
    assert!(
        pen.refuses("show nothing").starts_with("show: 'nothing' is no setting; there are abuse, ")
    );
}

#[test]
fn what_needs_a_restart_says_so_and_the_rest_is_put_in_force() {
    let a = Backend::named("a");
    let builder = Pen::builder();
    let lines = format!("{}{}", listen(&builder), server(0, &a));
    let pen = builder.one_file(&lines).start();
    rewrite(&pen, |text| {
        text + "jail /nowhere\nmax_servers 99\nworkers 9\nconn_max 10\nblacklist 7\nbacklog 88\n"
    });
    eventually("the rest is in force", || pen.tell("blacklist") == "7\n");
    pen.tells("backlog", "88");
    pen.tells("show jail", "no jail");
    pen.tells("max_servers", "16");
    for text in [
        "jail /nowhere: needs a restart; until then: no jail",
        "max_servers: there are 16; 99 need a restart",
        "workers: there are 3; 9 need a restart",
        "conn_max: there are 256; 10 need a restart",
    ] {
        pen.hears(text);
    }
    let words = ["-Hltn", "sport", &format!("= :{}", pen.address().port())];
    let said = text(&std::process::Command::new("ss").args(words).output().unwrap().stdout);
    assert_eq!(said.split_whitespace().nth(2), Some("88"), "{said}");
    for (line, why) in [
        ("jail /x", "jail: only a start can give this"),
        ("control 8888", "control: only a start can give this"),
        ("pid_file /x", "pid_file: only a start can give this"),
        ("user root", "user: only a start can give this"),
        ("max_servers 17", "max_servers: there are 16; another number needs a restart"),
        ("certificate /x", "certificate: only the file of -F can say this"),
        ("client_ca /x", "client_ca: only the file of -F can say this"),
        ("require_client_cert", "require_client_cert: means nothing without a certificate"),
        ("servers_only", "servers_only: only the file of -F can say this"),
    ] {
        assert!(pen.refuses(line).starts_with(why), "{line}");
    }
    // A setting that is already in force is accepted.
    pen.tells("no jail", "");
    pen.tells("max_servers 16", "16");
}

#[test]
fn a_server_is_taken_away_and_its_connections_live_on() {
    let farm = Backend::farm(["a", "b", "c"]);
    let builder = Pen::builder();
    let lines: String = (0..3).map(|n| server(n, &farm[usize::from(n)])).collect();
    let lines = listen(&builder) + &lines;
    let pen = builder.one_file(&lines).start();
    let held: Vec<_> = (1..4).map(|n| pen.hold(client(n)).unwrap()).collect();
    let on_b = held.iter().position(|(_, name)| name == "b").unwrap();
    pen.tells("no server 1", "");
    assert!(pen.tell("servers").lines().nth(1).unwrap().starts_with("1 addr - port 0 "));
    pen.tells("no server 1", "server: there is no server 1");
    pen.tells(
        "no server 16",
        "server: number 16 too large, this program was started for 16 servers (-S)",
    );
    assert!(pen.tell("show server").contains("\nno server 1\n"));
    // Its client gets another server, and no other client gets this one; open connections stay.
    let known = client(on_b as u8 + 1);
    assert_ne!(pen.ask(known).as_deref(), Some("b"));
    for n in 10..22 {
        assert_ne!(pen.ask(client(n)).as_deref(), Some("b"), "client {n}");
    }
    assert_eq!(farm[1].open(), 1);
    pen.tells("hash", "");
    for n in 30..42 {
        assert_ne!(pen.ask(client(n)).as_deref(), Some("b"), "client {n}, by hash");
    }
    pen.tells("no hash", "");
    // The file still names it, so HUP brings it back. With `servers_only`, HUP removes the others.
    pen.tells("server 3 address 127.0.0.1 port 1", "");
    rewrite(&pen, |text| format!("servers_only\n{text}"));
    eventually("server 3 is gone", || pen.tell("servers").lines().count() == 3);
    assert!(!pen.tell("servers").contains("addr - "));
    pen.tells("show servers_only", "servers_only");
    let third = server(2, &farm[2]);
    rewrite(&pen, |text| text.replace(&third, ""));
    eventually("server 2 is gone", || pen.tell("servers").lines().count() == 2);
    rewrite(&pen, |text| {
        text.lines()
            .filter(|line| !line.starts_with("server "))
            .fold(String::new(), |all, line| all + line + "\n")
    });
    pen.hears("server: none would be left");
    assert_eq!(pen.tell("servers").lines().count(), 2);
    drop(held);
}

#[test]
fn tls_is_in_the_file_and_other_files_need_no_restart() {
    let (root, other) = (Authority::root("root"), Authority::root("other"));
    let a = Backend::named("a");
    let builder = Pen::builder();
    let directory = builder.directory().to_path_buf();
    let (first, second) = (root.issue(&["localhost"]), other.issue(&["localhost"]));
    for (name, pem) in [("one.pem", &first), ("two.pem", &second)] {
        write(&directory, name, &pem.chain);
    }
    for (name, pem) in [("one.key", &first), ("two.key", &second)] {
        write(&directory, name, &pem.key);
    }
    write(&directory, "ca.pem", root.pem());
    let at = |name: &str| directory.join(name).display().to_string();
    let tls = format!("certificate {} {}\n", at("one.pem"), at("one.key"));
    let lines = format!("{}{}{tls}", listen(&builder), server(0, &a));
    let pen = builder.one_file(&lines).start();
    assert_eq!(root.client().ask(pen.address(), "localhost").unwrap().0, "a");
    pen.tells("certificate", tls.trim_end());
    let new = format!("certificate {} {}\n", at("two.pem"), at("two.key"));
    rewrite(&pen, |text| text.replace(&tls, &new));
    eventually("the other certificate is in force", || pen.tell("certificate") == new);
    eventually("it is shown to clients", || {
        other.client().ask(pen.address(), "localhost").is_some()
    });
    rewrite(&pen, |text| format!("{text}client_ca {}\nrequire_client_cert\n", at("ca.pem")));
    eventually("clients need one", || {
        pen.tell("show require_client_cert") == "require_client_cert\n"
    });
    pen.tells("client_ca", &format!("client_ca {}", at("ca.pem")));
    eventually("without one there is no service", || {
        other.client().ask(pen.address(), "localhost").is_none()
    });
    let mut known = other.client().is(&first);
    assert_eq!(known.ask(pen.address(), "localhost").unwrap().0, "a");
    rewrite(&pen, |text| {
        text.replace(&new, "") + "no certificate\nno require_client_cert\nno client_ca\n"
    });
    let line = |said: &str| {
        let text = fs::read_to_string(file(&pen)).unwrap();
        let number = text.lines().position(|line| line == said).unwrap() + 1;
        format!("pen.cfg:{number}: {said}: ")
    };
    pen.hears(&(line("no certificate") + "TLS is on, and turning it off needs a restart"));
    for kept in ["no require_client_cert", "no client_ca"] {
        pen.hears(&(line(kept) + "is not put in force, because turning TLS off needs a restart"));
    }
    pen.tells("show require_client_cert", "require_client_cert");
    assert_eq!(known.ask(pen.address(), "localhost").unwrap().0, "a");
    // What else the file says is in force, if a start would take it: it need not end one by one
    // what TLS had.
    let demand = format!("client_ca {}\nrequire_client_cert\n", at("ca.pem"));
    rewrite(&pen, |text| {
        text.replace(&demand, "").replace("no require_client_cert\nno client_ca\n", "timeout 9\n")
    });
    eventually("the rest of the file is in force", || pen.tell("timeout") == "9\n");
    // A file that a start would refuse is refused, too.
    rewrite(&pen, |text| text.replace("timeout 9\n", "timeout 8\nrequire_client_cert\n"));
    pen.hears("require_client_cert: means nothing without a certificate; add certificate FILE");
    pen.hears("the configuration file is not used");
    pen.tells("timeout", "9");
    pen.tells("show require_client_cert", "require_client_cert");
    assert_eq!(known.ask(pen.address(), "localhost").unwrap().0, "a");
}

#[test]
fn write_replies_with_the_file_and_follows_a_link_to_where_its_user_may_write() {
    let a = Backend::named("a");
    let builder = Pen::builder();
    let lines =
        format!("{}{}servers_only\nemergency 127.0.0.1:9\n", listen(&builder), server(0, &a));
    let pen = builder.one_file(&lines).start();
    pen.tells("timeout 9", "9");
    let written = pen.tell("write -");
    for line in ["timeout 9", "servers_only", "emergency 127.0.0.1:9", "workers 3"] {
        assert!(written.lines().any(|shown| shown == line), "{line}: {written}");
    }
    assert!(written.contains("\ncontrol ") && written.contains("\npid_file "), "{written}");
    let path = pen.directory().join("written.cfg");
    fs::write(&path, &written).unwrap();
    let output = Pen::builder().options(["--check", "--show"]).alone(&path).runs();
    assert_eq!(text(&output.stdout), pen.tell("show"), "{output:?}");
    if !needs_root() {
        return;
    }
    // As packaged: root owns the file and its directory.
    let why = pen.refuses("write");
    assert!(
        why.ends_with("permission denied; write - replies with what would be written"),
        "{why}"
    );
    let mine = machine::directory(pen.directory(), "mine", 0o755, NOBODY);
    let target = mine.join("real.cfg");
    fs::rename(file(&pen), &target).unwrap();
    symlink(&target, file(&pen)).unwrap();
    assert!(pen.tell("write").is_empty() || !is_root());
    assert!(fs::symlink_metadata(file(&pen)).unwrap().is_symlink());
    assert!(fs::read_to_string(&target).unwrap().contains("\ntimeout 9\n"));
    // The file is writable but its directory is not: the file is overwritten.
    chown(&mine, Some(0), Some(0)).unwrap();
    pen.tells("timeout 8", "8");
    pen.tells("write", "");
    assert!(fs::read_to_string(&target).unwrap().contains("\ntimeout 8\n"));
    assert_eq!(fs::read_dir(&mine).unwrap().count(), 1);
    chown(&target, Some(0), Some(0)).unwrap();
    chown(&mine, Some(0), Some(0)).unwrap();
    assert!(pen.refuses("write").contains("permission denied"));
}
