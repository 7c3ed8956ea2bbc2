//! Upgrades wherever pen runs: as the first process of a container, under a service manager, by an
//! ordinary user, in a jail, with many workers, without a pid file.

use std::fs;
use std::net::{Ipv4Addr, SocketAddr, TcpListener, UdpSocket};
use std::os::unix::fs::MetadataExt;
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::process::{Command, Stdio};

use rustix::process::Signal;

use super::{Installed, OLD, behaviour};
use crate::harness::control::Control;
use crate::harness::machine::{self, NOBODY, copy_program, example, is_root};
use crate::harness::manager::{NAMED, value};
use crate::harness::{
    BINARY, Backend, Client, Manager, PATIENCE, Pen, Port, Process, eventually, needs_root, until,
};

const ME: Ipv4Addr = Ipv4Addr::new(127, 75, 0, 1);

/// Serves clients of an address before and after an upgrade, and one connection through it.
#[track_caller]
fn is_upgraded_under_a_client(pen: &Installed, address: SocketAddr) {
    let (held, name) = crate::harness::hold(address, ME.into()).unwrap();
    assert_eq!(pen.upgrade("0.2.0"), 1);
    assert_eq!(crate::harness::ask(address, ME.into()), Some(name.clone()));
    held.echoes("through the upgrade");
    pen.install("0.3.0 adoption crashes");
    let asked = pen.ask_for_upgrade();
    let said = String::from_utf8(asked.stderr).unwrap();
    assert!(said.ends_with("; pen 0.2.0 goes on\n"), "{said}");
    pen.install("0.3.0");
    assert_eq!(pen.goes_on_as("0.2.0", "0.3.0"), 1);
    held.echoes("and through another");
    assert_eq!(crate::harness::ask(address, ME.into()), Some(name));
}

#[test]
fn as_the_first_process_of_a_container() {
    if !needs_root() {
        return;
    }
    let server = Backend::named("a");
    // The new process namespace has its own /proc.
    let builder = Pen::builder()
        .through(["unshare", "--pid", "--fork", "--kill-child", "--mount-proc"])
        .server(&server);
    let place = machine::directory(builder.directory(), "bin", 0o755, 0).join("pen");
    copy_program(Path::new(BINARY), "", &place);
    let builder = builder.binary(&place);
    let (pid_file, address) = (builder.directory().join("pid"), builder.address());
    let mut command = builder.command();
    let stderr = fs::File::create(builder.directory().join("stderr")).unwrap();
    let mut outside = command.stdout(Stdio::null()).stderr(stderr).spawn().unwrap();
    eventually("it is ready", || fs::read_to_string(&pid_file).is_ok_and(|text| text == "1\n"));
    let unshare = Process::open(outside.id() as i32).unwrap();
    let first = until("pen runs", || unshare.children().pop());
    let (held, _) = crate::harness::hold(address, ME.into()).unwrap();
    let upgrade = || {
        let pid = first.pid().to_string();
        Command::new("nsenter")
            .args(["--target", &pid, "--pid", "--mount", BINARY, "--upgrade"])
            .arg(&pid_file)
            .output()
            .unwrap()
    };
    let mut before = OLD;
    for version in ["0.2.0", "0.3.0"] {
        copy_program(&example("other_pen"), &behaviour::trailer(version), &place);
        let asked = upgrade();
        let line = String::from_utf8(asked.stdout.clone()).unwrap();
        let begin = format!("pen {before} is now pen {version}, pid 1, 1 connection stays ");
        assert!(line.starts_with(&begin), "{asked:?}");
        held.echoes("through the upgrade");
        assert_eq!(crate::harness::ask(address, ME.into()).as_deref(), Some("a"));
        before = version;
    }
    copy_program(&example("other_pen"), &behaviour::trailer("0.4.0 adoption overflows"), &place);
    let asked = upgrade();
    assert!(asked.stderr.ends_with(b"; pen 0.3.0 goes on\n"), "{asked:?}");
    assert_eq!(crate::harness::ask(address, ME.into()).as_deref(), Some("a"));
    first.signal(Signal::TERM);
    assert!(outside.wait().unwrap().success(), "it ends in order");
    assert!(held.read_to_end().is_ok_and(|rest| rest.is_empty()));
}

#[test]
fn with_sixty_four_workers() {
    let server = Backend::named("a");
    let builder = Pen::builder().workers(64).options(["-x", "2000"]).server(&server).control();
    let pen = Installed::start(builder);
    let (before, held) = (pen.pids(), pen.hold(ME).unwrap().0);
    assert_eq!(pen.upgrade("0.2.0"), 1);
    eventually("64 new workers, an old one, and the control process", || {
        let now = pen.pids();
        now.difference(&before).count() == 65 && now.intersection(&before).count() == 1
    });
    // There is room for two generations and two workers of an older one.
    pen.install("0.3.0");
    assert_eq!(pen.goes_on_as("0.2.0", "0.3.0"), 1);
    held.echoes("through both");
    pen.has_old_workers(&[(OLD, 1)]);
    assert_eq!(pen.staff().len(), 66);
    assert_eq!(pen.ask(ME).as_deref(), Some("a"));
}

#[test]
fn in_a_jail() {
    if !needs_root() {
        return;
    }
    let server = Backend::named("a");
    let builder = Pen::builder();
    let jail = machine::directory(builder.directory(), "jail", 0o755, 0);
    let pen = Installed::start(
        builder.options(["-j", jail.to_str().unwrap(), "-u", "nobody"]).server(&server),
    );
    let before = pen.pids();
    is_upgraded_under_a_client(&pen, pen.address());
    for worker in pen.staff().iter().filter(|worker| !before.contains(&worker.pid())) {
        assert_eq!(fs::read_link(worker.proc("root")).unwrap(), jail);
        assert_eq!(worker.status("Uid"), [NOBODY; 4].map(|id| id.to_string()).join(" "));
        assert_eq!(worker.status("CapEff"), "0000000000000000");
    }
    // The jail is empty as before.
    assert_eq!(fs::read_dir(&jail).unwrap().count(), 0);
}

#[test]
fn with_a_whole_sandbox() {
    let server = Backend::named("a");
    let check = Pen::builder().options(["--require-sandbox", "--check"]).server(&server).runs();
    if !check.status.success() {
        machine::not_checked("it needs all parts of the sandbox");
        return;
    }
    let pen =
        Installed::start(Pen::builder().options(["--require-sandbox"]).server(&server).control());
    let confined = |process: &Process| {
        ["NoNewPrivs", "Seccomp", "Seccomp_filters", "CapEff", "CapPrm", "CapBnd", "CapInh", "Uid"]
            .map(|field| process.status(field))
    };
    let of_all = || {
        let mut all: Vec<_> = pen
            .staff()
            .iter()
            .chain([pen.supervisor()])
            .map(|process| (process.title(), confined(process)))
            .collect();
        all.sort();
        all
    };
    let (before, sandbox) = (of_all(), pen.tell("sandbox"));
    pen.upgrade("0.2.0");
    eventually("each process is confined as the one before", || of_all() == before);
    assert_eq!(pen.tell("sandbox"), sandbox);
    is_upgraded_twice_more(&pen);
    eventually("restrictions do not add up", || of_all() == before);
}

#[track_caller]
fn is_upgraded_twice_more(pen: &Installed) {
    for (before, version) in [("0.2.0", "0.3.0"), ("0.3.0", "0.4.0")] {
        pen.install(version);
        pen.goes_on_as(before, version);
    }
}

#[test]
fn by_an_ordinary_user() {
    let server = Backend::named("a");
    let pen = Installed::start_by_nobody(Pen::builder().server(&server), &[]);
    is_upgraded_under_a_client(&pen, pen.address());
    if is_root() {
        let id = [NOBODY; 4].map(|id| id.to_string()).join(" ");
        assert_eq!(pen.supervisor().status("Uid"), id);
    }
}

#[test]
fn by_an_ordinary_user_with_the_right_to_low_ports() {
    if !needs_root() {
        return;
    }
    let server = Backend::named("a");
    let rights = ["--inh-caps=-all,+net_bind_service", "--ambient-caps=-all,+net_bind_service"];
    let low = ["127.75.9.1:81", "127.75.9.1:82"];
    let to = server.address();
    let lines = format!("listen {}\nserver 0 address {} port {}\n", low[0], to.ip(), to.port());
    let builder = Pen::builder().file(&lines).listen("");
    let pen = Installed::start_by_nobody(builder, &rights);
    let low = low.map(|address| address.parse::<SocketAddr>().unwrap());
    let before = pen.supervisor().status("CapPrm");
    assert_ne!(before, "0000000000000000");
    pen.upgrade("0.2.0");
    assert_eq!(pen.supervisor().status("CapPrm"), before);
    pen.install("0.3.0");
    pen.goes_on_as("0.2.0", "0.3.0");
    for field in ["CapPrm", "CapEff"] {
        assert_eq!(pen.supervisor().status(field), before, "{field}");
    }
    let move_to = |address: SocketAddr| {
        fs::write(pen.directory().join("pen.cfg"), format!("listen {address}\n")).unwrap();
        pen.supervisor().signal(Signal::HUP);
        eventually("it has moved", || std::net::TcpStream::connect(address).is_ok());
        assert_eq!(crate::harness::ask(address, ME.into()).as_deref(), Some("a"));
    };
    move_to(low[1]);
    pen.install("0.4.0 adoption crashes");
    let asked = pen.ask_for_upgrade();
    assert!(asked.stderr.ends_with(b"; pen 0.3.0 goes on\n"), "{asked:?}");
    assert_eq!(pen.supervisor().status("CapPrm"), before);
    move_to(low[0]);
}

#[test]
fn without_a_pid_file_by_the_command_or_the_signal() {
    let server = Backend::named("a");
    let builder = Pen::builder();
    let (port, socket) = (Port::reserve(), builder.directory().join("control"));
    let user = if is_root() { "user nobody\n" } else { "" };
    let lines = format!(
        "listen {}\nserver 0 address {} port {}\ncontrol {}\n{user}exit_command\nworkers 2\n",
        port.address(),
        server.address().ip(),
        server.address().port(),
        socket.display()
    );
    let file = builder.directory().join("pen.cfg");
    fs::write(&file, lines).unwrap();
    let place = machine::directory(builder.directory(), "bin", 0o755, 0).join("pen");
    copy_program(Path::new(BINARY), "", &place);
    let builder = builder.alone(&file).binary(&place);
    let said = builder.directory().join("stderr");
    let mut command = builder.command();
    command.stdout(Stdio::null()).stderr(fs::File::create(&said).unwrap());
    let mut child = command.spawn().unwrap();
    let said = || fs::read_to_string(&said).unwrap();
    let control = Control::Unix(socket);
    let pid = child.id();
    eventually("it is ready", || {
        assert!(child.try_wait().unwrap().is_none(), "{}", said());
        control.try_tell("pid").is_ok_and(|reply| reply == format!("{pid}\n").into_bytes())
    });
    let (held, _) = crate::harness::hold(port.address(), ME.into()).unwrap();
    copy_program(&example("other_pen"), &behaviour::trailer("0.2.0"), &place);
    let line =
        format!("pen {OLD} is now pen 0.2.0, pid {pid}, 1 connection stays with the old workers");
    assert_eq!(control.tell("upgrade"), format!("{line}\n"));
    held.echoes("through the upgrade");
    let supervisor = Process::open(pid as i32).unwrap();
    copy_program(&example("other_pen"), &behaviour::trailer("0.3.0"), &place);
    supervisor.signal(Signal::USR2);
    eventually("the log tells the outcome", || said().contains("pen 0.2.0 is now pen 0.3.0"));
    held.echoes("and another");
    assert_eq!(crate::harness::ask(port.address(), ME.into()).as_deref(), Some("a"));
    supervisor.signal(Signal::TERM);
    assert!(child.wait().unwrap().success());
}

#[test]
fn with_passed_sockets_under_a_service_manager() {
    let server = Backend::named("a");
    let manager = Manager::at_path();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let builder = Pen::builder()
        .workers(2)
        .through(NAMED)
        .env("NAME_ME", "LISTEN_PID WATCHDOG_PID")
        .env("LISTEN_FDS", "1")
        .env("WATCHDOG_USEC", "500000")
        .env("NOTIFY_SOCKET", manager.name())
        .socket(listener.try_clone().unwrap())
        .listen(address.to_string())
        .server(&server);
    let mut pen = Installed::start(builder);
    manager.hears("READY=1");
    is_upgraded_under_a_client(&pen, address);
    for _ in 0..3 {
        manager.hears("WATCHDOG=1");
    }
    let held = crate::harness::hold(address, ME.into()).unwrap().0;
    manager.drain();
    let status = until("the status counts all connections", || {
        let message = manager.next();
        let status = message.iter().find_map(|line| line.strip_prefix("STATUS="));
        status.filter(|status| status.starts_with("2 workers, 1 connections")).map(String::from)
    });
    assert!(status.ends_with("clients accepted"), "{status}");
    drop(held);
    pen.end_by(Signal::TERM);
    let (before, stopping) = manager.hears("STOPPING=1");
    assert!(value(&stopping, "STATUS").contains("SIGTERM"), "{stopping:?}");
    let pid = format!("MAINPID={}", pen.supervisor().pid());
    for line in before.iter().flatten().filter(|line| line.starts_with("MAINPID=")) {
        assert_eq!(*line, pid);
    }
    // The manager's socket is as before: the next pen gets it again.
    assert!(listener.take_error().unwrap().is_none());
    let client = std::net::TcpStream::connect(address);
    assert!(client.is_ok(), "it listens");
}

#[test]
fn the_file_of_a_passed_unix_socket_stays() {
    let server = Backend::named("a");
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("front");
    let listener = UnixListener::bind(&path).unwrap();
    let there = fs::metadata(&path).unwrap().ino();
    let builder = Pen::builder()
        .workers(2)
        .through(NAMED)
        .env("NAME_ME", "LISTEN_PID")
        .env("LISTEN_FDS", "1")
        .socket(listener)
        .listen(&path)
        .server(&server);
    let mut pen = Installed::start(builder);
    pen.upgrade("0.2.0");
    assert_eq!(Client::connect_unix(&path).unwrap().line().as_deref(), Some("a"));
    pen.end_by(Signal::TERM);
    assert_eq!(fs::metadata(&path).unwrap().ino(), there);
}

#[test]
fn at_a_unix_socket() {
    let server = Backend::named("a");
    let builder = Pen::builder();
    let path = builder.directory().join("front");
    let mut pen = Installed::start(builder.listen(&path).server(&server));
    let there = fs::metadata(&path).unwrap().ino();
    let held = Client::connect_unix(&path).unwrap();
    assert_eq!(held.line().as_deref(), Some("a"));
    assert_eq!(pen.upgrade("0.2.0"), 1);
    held.echoes("through the upgrade");
    pen.install("0.3.0 adoption panics");
    let asked = pen.ask_for_upgrade();
    assert!(asked.stderr.ends_with(b"; pen 0.2.0 goes on\n"), "{asked:?}");
    assert_eq!(fs::metadata(&path).unwrap().ino(), there);
    assert_eq!(Client::connect_unix(&path).unwrap().line().as_deref(), Some("a"));
    held.echoes("and after the failure");
    pen.end_by(Signal::TERM);
    assert!(!path.exists(), "its maker removes it, whichever program that is now");
}

#[test]
fn at_a_listener_that_was_moved() {
    let server = Backend::named("a");
    let pen = Installed::start(Pen::builder().server(&server).control());
    let others = [Port::reserve(), Port::reserve()];
    let [first, second] = [0, 1].map(|n| others[n].address());
    pen.tells(&format!("listen {first}"), &first.to_string());
    is_upgraded_under_a_client(&pen, first);
    pen.tells("listen", &first.to_string());
    pen.tells(&format!("listen {second}"), &second.to_string());
    assert_eq!(crate::harness::ask(second, ME.into()).as_deref(), Some("a"));
    eventually("nobody listens there any more", || std::net::TcpStream::connect(first).is_err());
    pen.install("0.4.0");
    pen.goes_on_as("0.3.0", "0.4.0");
    assert_eq!(crate::harness::ask(second, ME.into()).as_deref(), Some("a"));
}

#[test]
fn with_a_request_log_by_network() {
    let receiver = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    receiver.set_read_timeout(Some(PATIENCE)).unwrap();
    let server = Backend::with(crate::harness::backend::echo);
    let to = receiver.local_addr().unwrap().to_string();
    let pen = Installed::start(Pen::builder().options(["-l", &to]).server(&server));
    let next = || {
        let mut buffer = [0; 2048];
        let length = receiver.recv(&mut buffer).unwrap();
        String::from_utf8(buffer[..length].to_vec()).unwrap()
    };
    let old = pen.connect(ME);
    old.echoes("one");
    assert_eq!(next(), format!("+ {ME} 127.0.0.1 one\n"));
    assert_eq!(pen.upgrade("0.2.0"), 1);
    let new = pen.connect(ME);
    new.echoes("two");
    assert_eq!(next(), format!("+ {ME} 127.0.0.1 two\n"));
    old.echoes("three");
    assert_eq!(next(), format!("+ {ME} 127.0.0.1 three\n"));
}

#[test]
fn with_a_file_that_has_everything() {
    let server = Backend::named("a");
    let port = Port::reserve();
    let text = format!(
        "listen {}\nserver 0 address 127.0.0.1 port {}\nservers_only\n",
        port.address(),
        server.address().port()
    );
    let pen = Installed::start(Pen::builder().one_file(&text));
    is_upgraded_under_a_client(&pen, port.address());
    let shown = pen.tell("show");
    let file = pen.directory().join("pen.cfg");
    let more = fs::read_to_string(&file).unwrap() + "blacklist 8\n";
    // A file that cannot be used makes the upgrade fail, and nothing else.
    fs::write(&file, "nonsense\n").unwrap();
    pen.install("0.4.0");
    let asked = pen.ask_for_upgrade();
    let said = String::from_utf8(asked.stderr).unwrap();
    assert!(said.contains("pen.cfg:1:") && said.ends_with("; pen 0.3.0 goes on\n"), "{said}");
    assert_eq!(pen.tell("show"), shown);
    fs::write(&file, more).unwrap();
    pen.goes_on_as("0.3.0", "0.4.0");
    assert_eq!(pen.tell("show"), shown, "an upgrade is no reload");
    pen.supervisor().signal(Signal::HUP);
    eventually("the file is in force", || pen.tell("blacklist") == "8\n");
}

#[test]
fn without_an_environment_and_with_few_descriptors() {
    let server = Backend::named("a");
    for wrapper in [&["env", "-i"][..], &["prlimit", "--nofile=128:128"], &["nice", "-n", "19"]] {
        let pen = Installed::start(Pen::builder().workers(2).through(wrapper).server(&server));
        is_upgraded_under_a_client(&pen, pen.address());
    }
}
