//! The completions of a shell for penctl: the committed scripts, in a bash that has sourced them.

use std::process::Command;

use crate::harness::control::{PENCTL, text};
use crate::harness::{Backend, Pen};

/// The words that bash offers at the end of a line, in order.
#[track_caller]
fn offered(line: &str) -> Vec<String> {
    let script = r#"
        penctl() { "$PENCTL" "$@"; }
        source "$COMPLETIONS"
        COMP_LINE=$1 COMP_POINT=${#1}
        _penctl
        printf '%s\n' "${COMPREPLY[@]}"
    "#;
    let output = Command::new("bash")
        .args(["-c", script, "bash", line])
        .env("PENCTL", PENCTL)
        .env(
            "COMPLETIONS",
            concat!(env!("CARGO_MANIFEST_DIR"), "/packaging/completions/penctl.bash"),
        )
        .output()
        .unwrap();
    assert!(output.stderr.is_empty(), "{line}: {}", text(&output.stderr));
    text(&output.stdout).split_whitespace().map(str::to_owned).collect()
}

#[test]
fn completions_know_what_may_stand_behind_a_command() {
    for (line, words) in [
        ("penctl /run/x servers", &["servers", "servers_from", "servers_only"][..]),
        ("penctl --json 127.0.0.1:8888 servers", &["servers", "servers_from", "servers_only"]),
        ("penctl ::1:8888 acl 1 ", &["permit", "deny"]),
        ("penctl /run/x acl 1 d", &["deny"]),
        (
            "penctl /run/x server 1 ",
            &[
                "acl",
                "address",
                "blacklist",
                "check",
                "hard",
                "max",
                "port",
                "prio",
                "state",
                "tls",
                "weight",
            ],
        ),
        ("penctl /run/x server 1 max 5 h", &["hard"]),
        ("penctl /run/x server 1 max ", &[]),
        ("penctl /run/x roundrobin ", &["on", "off"]),
        ("penctl /run/x no round", &["roundrobin"]),
        ("penctl /run/x no serv-nothing", &[]),
        ("penctl /run/x tcp_fastclose ", &["up", "down", "both", "off"]),
        ("penctl /run/x proxy_protocol in ", &["from", "off", "v1", "v2"]),
        ("penctl /run/x recent ", &["json"]),
        ("penctl /run/x recent 60 ", &["json"]),
        ("penctl /run/x help track", &["tracking"]),
        ("penctl --j", &["--json"]),
        ("penctl --t", &["--timeout"]),
        ("penctl --timeout 5 /run/x servers", &["servers", "servers_from", "servers_only"]),
        ("penctl /run/x /run/y a:1 8888 help track", &["tracking"]),
        ("penctl help track", &["tracking"]),
        ("penctl /run/x to", &["top"]),
        ("penctl ", &[]),
    ] {
        assert_eq!(offered(line), words, "{line}");
    }
}

#[test]
fn completions_know_the_numbers_of_the_servers() {
    let servers = [Backend::named("a"), Backend::named("b"), Backend::named("c")];
    let pen = Pen::builder().servers(&servers).control().start();
    assert_eq!(offered(&format!("penctl {} server ", pen.control())), ["0", "1", "2"]);
    assert_eq!(offered(&format!("penctl {} no server ", pen.control())), ["0", "1", "2"]);
    assert_eq!(offered("penctl /no/such/pen server "), [""; 0]);
}
