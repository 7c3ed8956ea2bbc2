//! Settings that could mislead an operator: they contradict each other, have no effect, or lock him
//! out.

use std::fs;

use crate::harness::control::text;
use crate::harness::{Backend, Builder, Pen};
use rustix::process::Signal;

/// The message of a start that must fail.
#[track_caller]
fn refusal(builder: Builder) -> String {
    text(&builder.fails().stderr)
}

/// The warnings of `--check`, one line each.
#[track_caller]
fn warned(builder: Builder) -> String {
    let output = builder.options(["--check"]).runs();
    assert!(output.status.success(), "{output:?}");
    text(&output.stderr)
}

fn builder() -> Builder {
    Pen::builder().server_as("127.0.0.1:1")
}

#[test]
fn what_a_file_says_twice_or_leaves_out_is_told() {
    for (lines, why) in [
        ("listen 1\nlisten 2\n", "pen.cfg:2: listen: "),
        ("server 1 address a\n\nserver 1 address b\n", "pen.cfg:3: server: "),
        (
            "server 1 address 127.0.0.1 port 1 max 5 max 50\n",
            "pen.cfg:1: server: max is given twice",
        ),
        ("\n\ncertificate # www.pem\n", "pen.cfg:3: certificate: its value is missing"),
        ("timeout #5\n", "pen.cfg:1: timeout: its value is missing"),
    ] {
        let said = refusal(builder().file(lines).options(["--check"]));
        assert!(said.contains(why), "{lines}: {said}");
    }
    let said = refusal(builder().options(["-O", "user"]));
    assert!(
        said.contains("-O 'user': user: its value is missing")
            || said.contains("its value is missing"),
        "{said}"
    );
    let said = warned(builder().file("\u{feff}emergency 127.0.0.1:2\nemergency 127.0.0.1:3\n"));
    assert!(
        said.contains("pen.cfg:2: emergency: ")
            && said.contains("the last counts: emergency 127.0.0.1:3"),
        "{said}"
    );
    // A file overrides the command line without a message.
    assert_eq!(
        warned(builder().options(["-e", "127.0.0.1:2"]).file("emergency 127.0.0.1:3\n"))
            .matches("counts")
            .count(),
        0
    );
}

#[test]
fn what_does_not_do_what_it_seems_to_is_warned_of_at_the_check_and_at_hup() {
    for (options, lines, what) in [
        (&["-W"][..], "prio\n", "prio and weight (-W)"),
        (&["-W"], "leastconn\n", "weight (-W) and leastconn: weight (-W) chooses the server"),
        (&["-r", "-W"], "", "roundrobin (-r) and weight (-W)"),
        (&["-N", "-T", "5"], "", "tracking 5 (-T) has no effect"),
        (&["-s", "-e", "127.0.0.1:2"], "", "never the emergency server"),
        (&["-e", "127.0.0.1:2", "-e", "127.0.0.1:3"], "", "-e: given several times"),
        (&["-X"], "", "-X: means nothing without a control port"),
        (&["-B", "127.0.0.1:2"], "", "the abuse server (-B) gets no client"),
        (&["-q", "2147483647"], "", "net.core.somaxconn"),
        (
            &[],
            "acl 1 permit 10.0.0.0/8\nclient_acl 2\n",
            "client_acl refers to access list 2, which is empty",
        ),
        (&[], "acl 1 permit 10.0.0.0/8\n", "access list 1 has no effect"),
        (&[], "server 0 acl 5\n", "server 0 acl refers to access list 5, which is empty"),
        (&[], "server 0 max 9 hard 5\n", "hard limit 5 is below soft limit 9"),
    ] {
        let said = warned(builder().options(options).file(lines));
        assert!(said.contains(what), "{options:?} {lines}: {said}");
    }
    let pen = builder().file("timeout 5\n").control().start();
    assert!(!pen.said().contains("access list"), "{}", pen.said());
    fs::write(pen.directory().join("pen.cfg"), "client_acl 2\nacl 3 permit 10.0.0.0/8\n").unwrap();
    pen.supervisor().signal(Signal::HUP);
    pen.hears("client_acl refers to access list 2, which is empty");
    pen.hears("access list 3 has no effect");
}

#[test]
fn what_the_start_warns_of_is_in_the_log_when_a_command_causes_it() {
    let pen = builder().control().start();
    let port = pen.address().port();
    for (line, what) in [
        (format!("server 1 address 127.0.0.1 port {port}"), "server 1 (127.0.0.1:"),
        ("server 0 hard 7".to_owned(), "hard limit 7 without a soft limit"),
        (format!("emergency 127.0.0.1:{port}"), "emergency server (127.0.0.1:"),
        ("client_acl 4".to_owned(), "client_acl refers to access list 4"),
        ("backlog 2147483647".to_owned(), "net.core.somaxconn"),
    ] {
        assert!(!pen.said().contains(what), "{}", pen.said());
        pen.tell(&line);
        pen.hears(what);
    }
    // Settings that are already in force are reported once.
    pen.tells("timeout 9", "9");
    pen.hears("operator: timeout 9");
    assert_eq!(pen.said().matches("hard limit 7 without").count(), 1, "{}", pen.said());
}

#[test]
fn who_would_shut_himself_out_is_told_so() {
    let pen = builder().control().start();
    pen.tells("acl 5 permit 10.0.0.0/8", "");
    let why = pen.refuses("control_acl 5");
    assert!(
        why.starts_with(
            "control_acl: access list 5, which control_acl refers to, would refuse 127.0.0.1, "
        ),
        "{why}"
    );
    pen.tells("control_acl", "0");
    pen.tells("acl 5 permit 127.0.0.0/8", "");
    pen.tells("control_acl 5", "5");
}

#[test]
fn one_address_and_one_path_are_not_for_two_purposes() {
    let address = builder().address().to_string();
    for check in [&["--check"][..], &[]] {
        let said = refusal(
            builder().listen(&address).options(["-u", "root", "-C", &address]).options(check),
        );
        assert!(
            said.contains(&format!("-C: {address} is taken: pen listens for clients at {address}")),
            "{said}"
        );
    }
    for (first, second) in [("-l", "-p"), ("-l", "-F"), ("-p", "-F"), ("-w", "-F"), ("-w", "-l")] {
        let builder = builder().without_status_file();
        let path = builder.directory().join("one");
        fs::write(&path, "").unwrap();
        let path = path.display().to_string();
        let output = builder.options([first, &path, second, &path, "--check"]).runs();
        let said = text(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{said}");
        assert!(
            said.contains("one path for ") && said.contains(first) && said.contains(second),
            "{first} {second}: {said}"
        );
    }
}

#[test]
fn what_write_prints_starts_by_itself() {
    let backend = Backend::named("a");
    let pen = Pen::builder()
        .options(["-e", "127.0.0.1:9", "-N", "-m", "7", "-S", "20", "-X"])
        .without_status_file()
        .server(&backend)
        .control()
        .start();
    let written = pen.tell("write -");
    let path = pen.directory().join("written.cfg");
    fs::write(&path, &written).unwrap();
    let output = Pen::builder().options(["--check", "--show"]).alone(&path).runs();
    assert_eq!(text(&output.stdout), pen.tell("show"), "{written}");
    // An include at the pen that wrote the file changes nothing.
    assert_eq!(pen.tell(&format!("include {}", path.display())), "", "{written}");
}

#[test]
fn one_server_and_one_list_of_several_are_shown_by_their_numbers() {
    let pen = builder().control().start();
    pen.tells("acl 1 permit 10.0.0.0/8", "");
    pen.tells("show acl 1", "no acl 1\nacl 1 permit 10.0.0.0 255.0.0.0");
    assert!(pen.tell("show server 0").starts_with("server 0 address 127.0.0.1 port 1 "));
    assert!(pen.refuses("show server 99").starts_with("show: there is no server 99"));
    assert!(pen.refuses("show tiemout").ends_with("did you mean 'timeout'?"));
    // The command without arguments shows the setting in force, and sets nothing.
    assert!(pen.tell("ssl_ciphers").starts_with("no ssl_ciphers # the default: "));
}

#[test]
fn what_is_so_already_is_not_told_as_a_change() {
    let pen = builder().control().start();
    for line in ["workers 3", "no jail", "timeout 5", "no hash"] {
        pen.tell(line);
    }
    pen.tells("timeout 6", "6");
    pen.hears("operator: timeout 6");
    assert_eq!(pen.said().matches("operator: ").count(), 1, "{}", pen.said());
}

#[test]
fn hup_tells_what_needs_a_restart_in_the_order_of_the_lines() {
    let pen = builder().file("timeout 5\n").start();
    let lines = "jail /nowhere\nconn_max 1\nmax_servers 99\nclients_max 1\n";
    fs::write(pen.directory().join("pen.cfg"), lines).unwrap();
    pen.supervisor().signal(Signal::HUP);
    pen.hears("pen.cfg:4: ");
    let said = pen.said();
    let numbers = (1..=4).map(|number| said.find(&format!("pen.cfg:{number}: ")).unwrap());
    assert!(numbers.collect::<Vec<_>>().is_sorted(), "{said}");
}
