//! The configuration file and `-O`: precedence, errors by line, `--check`, and the output of
//! `write`.

use std::fs;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};

use crate::harness::control::text;
use crate::harness::machine::{self, NOBODY};
use crate::harness::{Backend, Builder, Pen, Port, ask};

/// The client of these tests.
const ME: Ipv4Addr = Ipv4Addr::new(127, 22, 0, 1);

/// A directory inside pen's, in which an operator may write.
fn writable(directory: &Path) -> PathBuf {
    use std::os::unix::fs::PermissionsExt;
    fs::set_permissions(directory, fs::Permissions::from_mode(0o755)).unwrap();
    machine::directory(directory, "mine", 0o755, NOBODY)
}

/// Starts a pen that must fail, and returns its messages, one line each, without `pen: `.
#[track_caller]
fn complaints(builder: &Builder) -> Vec<String> {
    let output = builder.runs();
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    let said = text(&output.stderr);
    let lines: Option<Vec<String>> =
        said.lines().map(|line| line.strip_prefix("pen: ").map(str::to_owned)).collect();
    lines.unwrap_or_else(|| panic!("every line begins with pen: {said}"))
}

#[test]
fn the_file_wins_over_options_and_operands() {
    let farm = Backend::farm(["operand", "file"]);
    let pen = Pen::builder()
        .options(["-b", "1", "-O", "blacklist 2", "-O", "timeout 2", "-r"])
        .server(&farm[0])
        .file(&format!(
            "# pen.cfg\n\nblacklist 3\nserver 0 port {}\n  hash   # and a comment\nno roundrobin\n",
            farm[1].address().port()
        ))
        .control()
        .start();
    pen.tells("blacklist", "3");
    pen.tells("timeout", "2");
    pen.tells("mode", "hash no roundrobin no stubborn no weight no prio");
    assert_eq!(pen.ask(ME).as_deref(), Some("file"));
}

#[test]
fn options_apply_in_their_order() {
    let server = Backend::named("a");
    for (options, time) in
        [(["-b", "1", "-O", "blacklist 2"], "2"), (["-o", "blacklist 2", "-b", "1"], "1")]
    {
        let pen = Pen::builder().options(options).server(&server).control().start();
        pen.tells("blacklist", time);
    }
}

#[test]
fn a_file_can_say_everything_that_is_needed() {
    let server = Backend::named("a");
    let port = Port::reserve();
    let pen = Pen::builder()
        .listen("")
        .file(&format!(
            "listen {}\nserver 4 address 127.0.0.1 port {}\n",
            port.address(),
            server.address().port()
        ))
        .start();
    assert_eq!(ask(port.address(), ME.into()).as_deref(), Some("a"));
    drop(pen);
    let pen = Pen::builder()
        .listen("")
        .options(["-O", &format!("listen {}", port.address())])
        .options(["-O", &format!("server 0 address localhost port {}", server.address().port())])
        .start();
    assert_eq!(ask(port.address(), ME.into()).as_deref(), Some("a"));
    drop(pen);
}

#[test]
fn a_listen_in_the_file_beats_the_operand() {
    let server = Backend::named("a");
    let port = Port::reserve();
    let pen = Pen::builder()
        .server(&server)
        .file(&format!("listen {}\n", port.address()))
        .control()
        .start();
    assert_eq!(ask(port.address(), ME.into()).as_deref(), Some("a"));
    pen.tells("listen", &port.address().to_string());
    assert!(
        crate::harness::Client::connect(ME.into(), pen.address()).is_err(),
        "the operand is not listened at"
    );
}

#[test]
fn every_bad_line_is_told_with_its_number_and_nothing_starts() {
    let server = Backend::named("a");
    let builder = Pen::builder().server(&server).file(
        "blacklist 5\nfrob\n# fine\ntimeout 0\nserver 0 max x\nroundrobin\nlisten\x07\nno nothing",
    );
    let file = builder.directory().join("pen.cfg").display().to_string();
    let said = complaints(&builder);
    let places: Vec<String> =
        [2, 4, 5, 7, 8].iter().map(|line| format!("{file}:{line}: ")).collect();
    assert_eq!(said.len(), places.len(), "{said:#?}");
    for (line, place) in said.iter().zip(places) {
        assert!(line.starts_with(&place) && line.len() > place.len(), "{line}");
    }
    assert!(said[0].contains("frob") && said[1].contains("timeout"), "{said:#?}");
}

#[test]
fn a_line_that_cannot_take_effect_is_told_with_its_number() {
    let server = Backend::named("a");
    for line in [
        "server 16 address 127.0.0.1",
        "server 3 max 5",
        "server 1 address no.such.host.invalid",
        "server 0 port no-such-service",
        "exit",
        "upgrade",
        "write /tmp/x",
        "include /no/such/file",
        "log /no/such/directory/log",
        "source 192.0.2.1",
    ] {
        let builder =
            Pen::builder().server(&server).options(["-S", "16"]).file(&format!("# one\n{line}\n"));
        let file = builder.directory().join("pen.cfg").display().to_string();
        let said = complaints(&builder);
        let placed = said.iter().any(|said| said.starts_with(&format!("{file}:2: ")));
        // An error about a file that only the start opens begins with the file's name.
        assert!(placed || line.starts_with("log"), "{line}: {said:?}");
        assert_eq!(said.len(), 1, "{said:?}");
    }
}

#[test]
fn every_name_that_is_not_found_is_told_with_its_line() {
    let server = Backend::named("a");
    let builder = Pen::builder()
        .server(&server)
        .options([
            "-O",
            "server 4 address 127.0.0.1 port \
            no-such-option",
        ])
        .file(
            "server 0 port no-such-a\nserver 1 address localhost port 5\nlog \
             127.0.0.1:no-such-log\n\
         server 2 address 127.0.0.1 port no-such-b\nserver 3 address 127.0.0.1 port no-such-a\n",
        );
    let file = builder.directory().join("pen.cfg").display().to_string();
    let tcp = "no such service (tcp)";
    assert_eq!(
        complaints(&builder),
        [
            format!(
                "-O 'server 4 address 127.0.0.1 port no-such-option': cannot resolve \
                 no-such-option: {tcp}"
            ),
            format!("{file}:1: cannot resolve no-such-a: {tcp}"),
            format!("{file}:3: cannot resolve no-such-log: no such service (udp or tcp)"),
            format!("{file}:4: cannot resolve no-such-b: {tcp}"),
            format!("{file}:5: cannot resolve no-such-a: {tcp}"),
        ]
    );
}

#[test]
fn a_file_that_cannot_be_read_stops_the_start() {
    let server = Backend::named("a");
    let builder = Pen::builder().server(&server);
    let directory = builder.directory().display().to_string();
    builder.options(["-F", &directory]).fails();
    let output = Pen::builder().server(&server).options(["-F", "/no/such/file"]).fails();
    assert!(
        text(&output.stderr).contains("/no/such/file: no such file or directory"),
        "{output:?}"
    );
    Pen::builder().server(&server).options(["-F", "/no/such/file"]).background().fails();
    let builder =
        Pen::builder().server(&server).file(&format!("roundrobin {}\n", "x".repeat(4095)));
    assert!(complaints(&builder)[0].contains("pen.cfg:1: "));
}

#[test]
fn a_bad_command_on_the_command_line_stops_the_start() {
    let server = Backend::named("a");
    for command in ["frob", "blacklist x", "server 0", "no", "server 99 address 127.0.0.1 port x"] {
        let output = Pen::builder().server(&server).options(["-O", command]).fails();
        assert!(text(&output.stderr).starts_with("pen: -O"), "{output:?}");
    }
    // Options may follow the operands.
    let pen = Pen::builder()
        .server_as(server.operand())
        .server_as("-O")
        .server_as("debug 1")
        .control()
        .start();
    pen.tells("debug", "1");
}

#[test]
fn included_files_are_found_beside_the_including_one() {
    let server = Backend::named("a");
    let builder = Pen::builder().server(&server);
    fs::create_dir(builder.directory().join("sub")).unwrap();
    fs::write(builder.directory().join("sub/more.cfg"), "blacklist 8\ninclude even-more.cfg\n")
        .unwrap();
    fs::write(builder.directory().join("sub/even-more.cfg"), "timeout 8").unwrap();
    let pen = builder.file("include sub/more.cfg\nhash\n").control().start();
    pen.tells("blacklist", "8");
    pen.tells("timeout", "8");
    drop(pen);
    let looping = Pen::builder().server(&server).file("include pen.cfg\n");
    assert!(complaints(&looping)[0].contains("16"), "{:?}", complaints(&looping));
}

#[test]
fn comments_need_not_be_utf_8() {
    let server = Backend::named("a");
    let builder = Pen::builder().server(&server).file("");
    fs::write(builder.directory().join("pen.cfg"), b"# gr\xf6\xdfer\nblacklist 9\n").unwrap();
    let pen = builder.control().start();
    pen.tells("blacklist", "9");
}

/// The output of `--check`, and its status.
#[track_caller]
fn check(builder: &Builder) -> (i32, String) {
    let output = builder.runs();
    (output.status.code().unwrap(), text(&output.stdout) + &text(&output.stderr))
}

#[test]
fn check_says_ok_or_every_error_and_touches_nothing() {
    let server = Backend::named("a");
    let builder = Pen::builder()
        .options(["--check"])
        .server(&server)
        .file("blacklist 5\nlog /no/such/directory/log\n");
    let builder = builder.control();
    let (status, said) = check(&builder);
    // A missing directory of the log may be reported; everything else is correct.
    assert!(
        status == 0 && said == "ok\n" || said.contains("/no/such/directory/log"),
        "{status} {said}"
    );
    let builder = Pen::builder()
        .options(["--check"])
        .server(&server)
        .file("blacklist 5\nroundrobin\n")
        .control();
    // The port is in use, which does not concern `--check`.
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let builder = builder.listen(taken.local_addr().unwrap().to_string());
    assert_eq!(check(&builder), (0, "ok\n".into()));
    let left: Vec<_> = fs::read_dir(builder.directory())
        .unwrap()
        .map(|entry| entry.unwrap().file_name())
        .collect();
    assert_eq!(left, ["pen.cfg"], "nothing is made");
    assert_eq!(server.accepted(), 0);
    let builder = Pen::builder().options(["--check"]).server(&server).file("frob\ntimeout 0\n");
    let (status, said) = check(&builder);
    assert_eq!((status, said.lines().count()), (1, 2), "{said}");
    assert!(said.contains("pen.cfg:1: ") && said.contains("pen.cfg:2: "), "{said}");
    let (status, said) = check(&Pen::builder().options(["--check", "-b", "x"]).server(&server));
    assert_eq!((status, said.lines().count()), (1, 1), "{said}");
}

/// The content of a file that `write` wrote, without the head with time and command line.
fn settings_of(path: &Path) -> Vec<String> {
    let text = fs::read_to_string(path).unwrap();
    let lines: Vec<&str> = text.lines().collect();
    assert!(
        lines[0].starts_with("# Generated by pen 20") && lines[1].starts_with("# pen "),
        "{text}"
    );
    lines[2..].iter().map(|line| (*line).to_owned()).collect()
}

/// The lines that a second pen can use at the same time: those that name no address or file of the
/// first pen.
fn elsewhere(lines: &[String]) -> Vec<String> {
    let own = ["listen ", "control ", "pid_file "];
    lines.iter().filter(|line| !own.iter().any(|word| line.starts_with(word))).cloned().collect()
}

#[test]
fn what_write_writes_is_in_the_order_of_old() {
    let farm = Backend::farm(["a", "b"]);
    let pen = Pen::builder()
        .server_as(format!("{}:10", farm[0].operand()))
        .server_as(format!("{}:20:30:2:1", farm[1].operand()))
        .options(["-O", "acl 1 permit 1.2.3.4 255.255.255.0", "-O", "acl 1 deny ::1/64"])
        .without_status_file()
        .control()
        .start();
    let path = writable(pen.directory()).join("written.cfg");
    pen.tells(&format!("write {}", path.display()), "");
    let ports = [0, 1].map(|n| farm[n].address().port());
    let expected = format!(
        "no acl 0\nno acl 1\nacl 1 permit 1.2.3.0 255.255.255.0\nacl 1 deny ::/64\nno acl 2\nno \
         acl 3\nno acl 4\nno acl 5\n\
         no acl 6\nno acl 7\nno acl 8\nno acl 9\nno ascii\nblacklist 30\nclient_acl 0\ncontrol_acl \
         0\ndebug 0\nno hash\n\
         no http\nno log\nno roundrobin\n\
         server 0 acl 0 address 127.0.0.1 port {} max 10 hard 0\n\
         server 1 acl 0 address 127.0.0.1 port {} max 20 hard 30 weight 2 prio 1\n\
         no stubborn\ntcp_fastclose off\nno tcp_nodelay\ntimeout 5\ntracking 0\nno web_stats\nno \
         weight\nno prio",
        ports[0], ports[1]
    );
    let written = settings_of(&path);
    let expected: Vec<&str> = expected.lines().collect();
    assert_eq!(written[..expected.len()], expected);
}

#[test]
fn what_write_wrote_gives_the_same_settings_when_loaded() {
    let farm = Backend::farm(["a", "b", "c"]);
    let first = Pen::builder().servers(&farm).options(["-S", "20", "-x", "400"]).control().start();
    let mine = writable(first.directory());
    for command in [
        "acl 2 permit 10.0.0.0/8",
        "acl 2 deny ::1",
        "acl 9 deny 1.2.3.4 255.0.255.0",
        "ascii",
        "blacklist 31",
        "client_acl 7",
        "control_acl 6",
        "debug 1",
        "hash",
        "roundrobin",
        "stubborn",
        "weight",
        "prio",
        "leastconn",
        "p2c",
        "maglev bounded 125",
        "slow_start 9",
        "tcp_fastclose both",
        "tcp_nodelay",
        "timeout 6",
        "tracking 7",
        "idle_timeout 900",
        "drain_timeout 900",
        "pending_max 55",
        "keepalive",
        "source 127.0.0.1",
        "idlers 1",
        "clients_max 3000",
        "conn_max 500",
        "server 1 acl 2 max 5 hard 7 weight 3 prio 4",
        "server 17 address ::1 port 99",
        "server 18 address /run/some.sock weight 0",
        &format!("log {}", mine.join("a.log").display()),
        &format!("web_stats {}", mine.join("status").display()),
    ] {
        let reply = first.tell(command);
        assert!(!reply.contains(": ") || reply.starts_with("Idle"), "{command}: {reply}");
    }
    first.tells(&format!("write {}", mine.join("first.cfg").display()), "");
    let written = elsewhere(&settings_of(&mine.join("first.cfg")));
    let second = Pen::builder()
        .servers(&farm)
        .options(["-S", "20"])
        .file(&written.join("\n"))
        .control()
        .start();
    let theirs = writable(second.directory());
    second.tells(&format!("write {}", theirs.join("second.cfg").display()), "");
    assert_eq!(elsewhere(&settings_of(&theirs.join("second.cfg"))), written);
    for question in [
        "mode",
        "blacklist",
        "debug",
        "tracking",
        "timeout",
        "log",
        "web_stats",
        "conn_max",
        "clients_max",
        "idle_timeout",
        "drain_timeout",
    ] {
        assert_eq!(second.tell(question), first.tell(question), "{question}");
    }
}

#[test]
fn what_was_set_back_to_a_default_stays_so_whatever_the_command_line_says() {
    let server = Backend::named("a");
    let options = ["-O", "idle_timeout 900", "-O", "idlers 2"];
    let first = Pen::builder().server(&server).options(options).control().start();
    let mine = writable(first.directory());
    first.tells("idle_timeout 0", "Idle timeout: 0 seconds");
    first.tell("idlers 0");
    let file = mine.join("pen.cfg");
    first.tells(&format!("write {}", file.display()), "");
    let text = elsewhere(&settings_of(&file)).join("\n");
    let second = Pen::builder().server(&server).options(options).file(&text).control().start();
    second.tells("idle_timeout", "Idle timeout: 0 seconds");
    second.tells("idlers", "Idlers: 0/0");
}

#[test]
fn write_without_a_name_overwrites_the_file_of_the_command_line() {
    let server = Backend::named("a");
    let pen = Pen::builder().server(&server).control().start();
    assert!(pen.refuses("write").starts_with("write: "));
    drop(pen);
    let builder = Pen::builder().server(&server);
    let file = writable(builder.directory()).join("pen.cfg");
    fs::write(&file, "# mine\nblacklist 4\n").unwrap();
    if machine::is_root() {
        std::os::unix::fs::chown(&file, Some(NOBODY), Some(NOBODY)).unwrap();
    }
    let pen = builder.options(["-F", file.to_str().unwrap()]).control().start();
    pen.tells("timeout 9", "9");
    pen.tells("write", "");
    let written = settings_of(&file);
    assert!(
        written.contains(&"timeout 9".to_owned()) && written.contains(&"blacklist 4".to_owned()),
        "{written:?}"
    );
    if machine::is_root() {
        // Root reads the file at the next start. So an operator writes it only with the user's
        // rights.
        use std::os::unix::fs::PermissionsExt;
        std::os::unix::fs::chown(&file, Some(0), Some(0)).unwrap();
        fs::set_permissions(&file, fs::Permissions::from_mode(0o644)).unwrap();
        std::os::unix::fs::chown(file.parent().unwrap(), Some(0), Some(0)).unwrap();
        pen.tells("timeout 8", "8");
        assert!(
            pen.refuses("write")
                .ends_with("permission denied; write - replies with what would be written")
        );
        assert_eq!(settings_of(&file), written);
    }
}

/// The output of the original's `write` (release 0.34.1), except for the ports.
const ORIGINAL: &str = "\
# Generated by pen 2026-11-24 11:29:22
# pen -f -X -u 'nobody' -F '/etc/pen.cfg' -C 127.0.0.1:28888 127.0.0.1:28880
no acl 0
no acl 1
acl 1 permit 1.2.3.0 255.255.255.0
acl 1 deny ::1/64
no acl 2
no acl 3
no acl 4
no acl 5
no acl 6
no acl 7
no acl 8
no acl 9
no ascii
blacklist 30
client_acl 0
control_acl 0
debug 0
no hash
no http
no log
no roundrobin
server 0 acl 0 address 127.0.0.1 port PORT0 max 10 hard 0
server 1 acl 0 address 127.0.0.1 port PORT1 max 20 hard 30
server 2 acl 0 address (unknown address family 0 port 0 max 0 hard 0
server 3 acl 0 address (unknown address family 0 port 0 max 0 hard 0
no stubborn
tcp_fastclose off
no tcp_nodelay
timeout 3
tracking 0
no web_stats
no weight
no prio
";

#[test]
fn files_that_the_original_wrote_load() {
    let farm = Backend::farm(["a", "b"]);
    let [first, second] = [0, 1].map(|n| farm[n].address().port().to_string());
    let pen = Pen::builder()
        .file(&ORIGINAL.replace("PORT0", &first).replace("PORT1", &second))
        .control()
        .start();
    pen.tells("timeout", "3");
    let listed = pen.tell("servers");
    assert!(
        listed.contains(&format!("1 addr 127.0.0.1 port {second} conn 0 max 20 hard 30 ")),
        "{listed}"
    );
    assert_eq!(listed.lines().count(), 2, "{listed}");
    pen.hears("pen.cfg:26: ");
    assert_eq!(pen.ask(ME).as_deref(), Some("b"));
}
