//! How pen's processes appear in ps(1), and which of them a search by name finds.

use std::fs;
use std::net::Ipv4Addr;
use std::path::Path;
use std::process::Command;

use crate::harness::{Backend, Pen, Process, eventually, needs_root};

#[test]
fn each_process_has_its_title_and_is_called_pen() {
    if !needs_root() {
        return;
    }
    let server = Backend::named("a");
    for background in [false, true] {
        let builder = Pen::builder().workers(2).control().env("SECRET", "hidden");
        let builder = if background { builder.background() } else { builder };
        let pen = builder.server(&server).start();
        let begin = if background {
            "pen: supervisor --workers 2 -p "
        } else {
            "pen: supervisor -f --workers 2 -p "
        };
        let supervisor = pen.supervisor().title();
        let end = format!(" {} {}", pen.address(), server.operand());
        assert!(supervisor.starts_with(begin) && supervisor.ends_with(&end), "{supervisor}");
        let mut workers: Vec<String> = pen.workers().iter().map(Process::title).collect();
        workers.sort();
        assert_eq!(workers, ["pen: worker 0", "pen: worker 1"]);
        assert_eq!(pen.control_process().title(), "pen: control");
        // A process that starts later.
        pen.workers()[1].kill();
        eventually("the replacement has its title", || {
            let mut workers: Vec<String> = pen.workers().iter().map(Process::title).collect();
            workers.sort();
            workers == ["pen: worker 0", "pen: worker 1"]
        });
        let name = Path::new(env!("CARGO_BIN_EXE_pen")).file_name().unwrap().to_str().unwrap();
        for process in pen.workers().iter().chain([pen.supervisor(), &pen.control_process()]) {
            assert_eq!(fs::read_to_string(process.proc("comm")).unwrap(), format!("{name}\n"));
            let line = fs::read(process.proc("cmdline")).unwrap();
            assert!(
                line.iter().rposition(|byte| *byte != 0).is_some_and(|last| last + 2 == line.len()),
                "{line:?}"
            );
        }
        let pidof = Command::new("pidof").arg("pen").output().unwrap();
        let pids = String::from_utf8(pidof.stdout).unwrap();
        assert!(
            pids.split_whitespace().any(|pid| pid == pen.supervisor().pid().to_string()),
            "{pids}"
        );
        assert_eq!(pen.ask(Ipv4Addr::LOCALHOST).as_deref(), Some("a"));
    }
}

#[test]
fn a_pen_without_an_environment_has_titles_as_far_as_there_is_room() {
    let server = Backend::named("a");
    let pen = Pen::builder().workers(1).through(["env", "-i"]).server(&server).start();
    let supervisor = pen.supervisor().title();
    assert!(supervisor.starts_with("pen: supervisor -f --workers 1 -p /"), "{supervisor}");
    assert_eq!(pen.workers()[0].title(), "pen: worker 0");
}

/// The output of a check besides `ok`.
#[track_caller]
fn checked(options: &[&str]) -> String {
    let output = Command::new(crate::harness::machine::BINARY)
        .arg("--check")
        .args(options)
        .output()
        .unwrap();
    assert!(output.status.success() && output.stdout == b"ok\n", "{output:?}");
    String::from_utf8(output.stderr).unwrap()
}

#[test]
fn a_check_says_that_options_are_not_those_of_the_running_pen() {
    let server = Backend::named("a");
    for background in [false, true] {
        let builder = Pen::builder().workers(1);
        let builder = if background { builder.background() } else { builder };
        let pen = builder.server(&server).start();
        let shown = pen.supervisor().title();
        let options: Vec<&str> =
            shown.strip_prefix("pen: supervisor ").unwrap().split(' ').collect();
        let with = |more: &[&str]| checked(&[&options[..], more].concat());
        for same in [&[][..], &["-f"]] {
            assert!(!with(same).contains("options changed"), "{same:?}: {}", with(same));
        }
        let pid = pen.supervisor().pid();
        let line = format!(
            "pen: options changed since the running pen (pid {pid}) was started: only a restart "
        );
        for other in [&["-b", "7"][..], &["-r"]] {
            assert!(with(other).contains(&line), "{other:?}: {}", with(other));
        }
    }
}

#[test]
fn a_check_does_not_judge_options_of_which_it_sees_a_part_only() {
    let server = Backend::named("a");
    // A title uses the memory of name, arguments and environment.
    let short = ["env", "-i", "perl", "-e", "exec { $ARGV[0] } 'p', @ARGV[1 .. $#ARGV]"];
    for (wrapper, told) in [(&["env"][..], true), (&short, false)] {
        let pen = Pen::builder().workers(1).through(wrapper).server(&server).start();
        let pid_file = pen.directory().join("pid");
        let said = checked(&["-p", pid_file.to_str().unwrap(), "127.0.0.1:1", "127.0.0.1:2"]);
        assert_eq!(said.contains("options changed"), told, "{wrapper:?}: {said}");
    }
}

#[test]
fn root_without_u_is_warned_of_with_and_without_a_jail() {
    if !needs_root() {
        return;
    }
    let server = Backend::named("a");
    let jail = tempfile::tempdir().unwrap();
    let jail = jail.path().to_str().unwrap();
    for (options, warned) in [
        (&[] as &[&str], true),
        (&["-j", jail], true),
        (&["-u", "nobody"], false),
        (&["-j", jail, "-u", "nobody"], false),
        (&["-u", "root"], false),
    ] {
        let warning =
            "pen: without -u the workers are root, though without capabilities; add -u USER";
        let output = Pen::builder().server(&server).options(options).options(["--check"]).runs();
        let said = String::from_utf8(output.stderr).unwrap();
        assert_eq!(
            said.lines().filter(|line| *line == warning).count(),
            usize::from(warned),
            "{options:?}: {said}"
        );
        let pen = Pen::builder().server(&server).options(options).start();
        assert_eq!(
            pen.said().contains("without -u the workers are root"),
            warned,
            "{options:?}: {}",
            pen.said()
        );
    }
}
