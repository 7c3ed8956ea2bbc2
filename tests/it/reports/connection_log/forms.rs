//! The forms of a line, read by the tools that they are made for.

use std::fs;
use std::io::Write;
use std::net::Ipv4Addr;
use std::path::Path;
use std::process::{Command, Stdio};

use super::{lines, logging_as};
use crate::harness::{Backend, Pen, not_checked};

fn client(number: u8) -> Ipv4Addr {
    Ipv4Addr::new(127, 83, 0, number)
}

/// Three connections in a form: two to servers, one that its client reset.
fn three(format: &str) -> (Vec<String>, Vec<u8>) {
    let farm = Backend::farm(["a", "b"]);
    let (builder, log) = logging_as(Pen::builder().options(["-r"]).servers(&farm), format);
    let pen = builder.start();
    for n in 1..=2 {
        assert!(pen.ask(client(n)).is_some());
        lines(&log, n.into());
    }
    let (held, _) = pen.hold(client(3)).unwrap();
    held.reset();
    (lines(&log, 3), fs::read(&log).unwrap())
}

#[test]
fn words_have_their_values() {
    let (lines, _) = three("text");
    for (line, end) in lines.iter().zip(["client", "client", "client_reset"]) {
        let (time, words) = line.split_once(' ').unwrap();
        assert!(time.ends_with('Z') && time.len() == 24, "{line}");
        assert!(words.split(' ').all(|word| word.contains('=')), "{line}");
        assert!(words.contains(&format!(" end={end} ")), "{line}");
        assert!(words.starts_with("client=127.83.0."), "{line}");
    }
}

/// Whether a line is what the manual of haproxy shows of `option tcplog`, after the part of syslog.
fn is_tcp_log(line: &str) -> bool {
    let words: Vec<&str> = line.split_whitespace().collect();
    let numbers = |word: &str, count: usize| {
        let parts: Vec<&str> = word.split('/').collect();
        parts.len() == count && parts.iter().all(|part| part.parse::<i64>().is_ok())
    };
    let [_, _, _, _, process, client, date, _, server, times, bytes, code, counts, queues] =
        words[..]
    else {
        return false;
    };
    process.starts_with("pen[")
        && process.ends_with("]:")
        && client.rsplit_once(':').is_some_and(|(_, port)| port.parse::<u16>().is_ok())
        && date.starts_with('[')
        && date.ends_with(']')
        && date.len() == "[24/Nov/2026:04:10:21.123]".len()
        && server.contains('/')
        && numbers(times, 3)
        && bytes.parse::<u64>().is_ok()
        && code.len() == 2
        && numbers(counts, 5)
        && numbers(queues, 2)
}

#[test]
fn the_tcp_log_of_haproxy_has_its_fields() {
    let (lines, text) = three("haproxy");
    assert!(lines.iter().all(|line| is_tcp_log(line)), "{lines:?}");
    assert!(lines[0].contains(" pen/0 ") != lines[1].contains(" pen/0 "), "{lines:?}");
    assert!(lines[2].contains(" CD "), "{lines:?}");
    if let Some(said) = halog(&text, "-c") {
        assert_eq!(said, "3");
    }
}

/// What halog(1) replies; none if there is none here.
fn halog(text: &[u8], option: &str) -> Option<String> {
    let Some(program) =
        ["/usr/sbin/halog", "/usr/bin/halog"].into_iter().find(|path| Path::new(path).exists())
    else {
        not_checked("halog is not installed");
        return None;
    };
    let mut child = Command::new(program)
        .arg(option)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(text).unwrap();
    let output = child.wait_with_output().unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(said.is_empty() || said.contains(" 0 parsing errors"), "{option}: {said}");
    Some(String::from_utf8(output.stdout).unwrap().trim().to_owned())
}

#[test]
fn halog_counts_the_http_log_of_haproxy() {
    let (_, text) = three("haproxy_http");
    let Some(servers) = halog(&text, "-srv") else { return };
    let row = |server: &str| -> Vec<String> {
        let row = servers.lines().find_map(|line| line.strip_prefix(server)).unwrap();
        row.split_whitespace().map(str::to_owned).collect()
    };
    // The columns are other, tot_req, req_ok, from the sixth on.
    let counts = ["pen/0", "pen/1"].map(|server| row(server)[6].parse::<u32>().unwrap());
    assert_eq!(counts.iter().sum::<u32>(), 3, "{servers}");
    assert!(counts.iter().all(|count| *count >= 1), "{servers}");
    let codes = halog(&text, "-tc").unwrap();
    assert_eq!(codes.lines().collect::<Vec<_>>(), ["-- 2", "CD 1"], "{codes}");
    assert_eq!(halog(&text, "-c").unwrap(), "3");
    assert!(halog(&text, "-pct").unwrap().lines().count() > 10);
    let ends = halog(&text, "-u").unwrap();
    assert!(ends.contains(" client") && ends.contains(" client_reset"), "{ends}");
}
