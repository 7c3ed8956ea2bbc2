//! The example scripts: metrics for node_exporter, mail about events, and the check for keepalived.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use rustix::process::{Pid, Signal, kill_process_group};
use tempfile::TempDir;

use super::needs_prometheus;
use crate::harness::control::PENCTL;
use crate::harness::{Backend, Pen, eventually, not_checked};

/// The scripts ask the pen of a service. This penctl asks the pen of the test.
const ASKS_THIS_PEN: &str = r#"words=()
for word; do [[ $word != /run/pen/www.ctl ]] || word=$SOCKET; words+=("$word"); done
exec "$PENCTL" "${words[@]}""#;

/// A pen, and a folder whose programs a script finds first.
struct Scene {
    pen: Pen,
    socket: PathBuf,
    programs: TempDir,
    _server: Backend,
}

impl Scene {
    fn start() -> Scene {
        let (builder, server) = (Pen::builder(), Backend::named("a"));
        let socket = builder.directory().join("ctl");
        let pen = builder.server(&server).control_unix(&socket).start();
        let scene = Scene { pen, socket, programs: tempfile::tempdir().unwrap(), _server: server };
        scene.program("penctl", ASKS_THIS_PEN);
        scene
    }

    fn program(&self, name: &str, text: &str) {
        let path = self.file(name);
        fs::write(&path, format!("#!/bin/bash\n{text}\n")).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    }

    fn file(&self, name: &str) -> PathBuf {
        self.programs.path().join(name)
    }

    /// A script for the service of the test.
    fn command(&self, name: &str) -> Command {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("packaging/examples").join(name);
        let path = std::env::var("PATH").unwrap();
        let mut command = Command::new(script);
        command.arg("www").stdin(Stdio::null()).process_group(0);
        command.env("PATH", format!("{}:{path}", self.programs.path().display()));
        command.env("SOCKET", &self.socket).env("PENCTL", PENCTL).env("TO", self.file("mail"));
        command
    }

    fn run(&self, name: &str, word: &Path) -> Script {
        Script(self.command(name).arg(word).spawn().unwrap())
    }

    /// What the check for keepalived says after this command.
    fn check(&self, line: &str) -> Option<i32> {
        self.pen.tell(line);
        self.command("check-pen").status().unwrap().code()
    }

    fn says(&self, words: &str) {
        eventually(words, || self.pen.tell("servers").contains(words));
    }
}

/// A running script, with all its processes.
struct Script(Child);

impl Drop for Script {
    fn drop(&mut self) {
        let group = Pid::from_child(&self.0);
        let _ = kill_process_group(group, Signal::KILL);
        let _ = self.0.wait();
    }
}

#[test]
fn the_metrics_for_node_exporter_are_whole_and_have_the_name_of_the_service() {
    if !needs_prometheus() {
        return;
    }
    let scene = Scene::start();
    let mut script = scene.run("pen-metrics", scene.programs.path());
    assert!(script.0.wait().unwrap().success());
    let text = fs::read_to_string(scene.file("pen-www.prom")).unwrap();
    assert!(!scene.file("pen-www.tmp").exists());
    let original = scene.pen.tell("metrics");
    assert_eq!(text.lines().count(), original.lines().count(), "{text}");
    for line in text.lines().filter(|line| !line.starts_with('#')) {
        assert!(line.starts_with("pen_") && line.contains("{pen=\"www\""), "{line}");
    }
    let file = fs::File::open(scene.file("pen-www.prom")).unwrap();
    let checked = Command::new("promtool").args(["check", "metrics"]).stdin(file).output().unwrap();
    assert!(checked.status.success(), "{}", String::from_utf8_lossy(&checked.stderr));
}

#[test]
fn a_pen_that_does_not_answer_leaves_the_metrics_of_before() {
    let scene = Scene::start();
    fs::write(scene.file("pen-www.prom"), "before").unwrap();
    scene.program("penctl", "echo 'pen_connections 1'; exit 1");
    let mut script = scene.run("pen-metrics", scene.programs.path());
    assert!(!script.0.wait().unwrap().success());
    assert_eq!(fs::read_to_string(scene.file("pen-www.prom")).unwrap(), "before");
}

#[test]
fn what_happens_together_comes_in_one_mail() {
    if Command::new("jq").arg("--version").output().is_err() {
        not_checked("there is no jq");
        return;
    }
    let scene = Scene::start();
    scene.program("sendmail", "cat >\"$TO.new\"; mv \"$TO.new\" \"$TO\"");
    // Not half a minute, but one more event.
    scene.program("timeout", "exec head --lines 1");
    let _script = scene.run("pen-mail", Path::new("me@example.org"));
    let mail = scene.file("mail");
    eventually("a mail has two events", || {
        // It may not watch yet, so it is caused again.
        for worker in scene.pen.workers() {
            worker.signal(Signal::KILL);
        }
        mail.exists()
    });
    let mail = fs::read_to_string(mail).unwrap();
    let (head, text) = mail.split_once("\n\n").unwrap();
    assert!(head.starts_with("To: me@example.org\nSubject: pen www on "), "{mail}");
    let lines: Vec<&str> = text.lines().collect();
    assert!(lines.len() == 2 && lines.iter().all(|line| line.contains("signal 9")), "{mail}");
    assert!(head.ends_with(lines[0]), "{mail}");
}

#[test]
fn the_check_for_keepalived_tells_a_pen_that_serves_clients_from_one_that_cannot() {
    let scene = Scene::start();
    assert_eq!(scene.check("pid"), Some(0));
    assert_eq!(scene.check("server 0 state maint"), Some(2));
    assert_eq!(scene.check("server 0 state ready"), Some(0));
    assert_eq!(scene.check("server 0 blacklist 60"), Some(2));
    assert_eq!(scene.check("server 0 blacklist 0"), Some(0));
    scene.pen.tell("check tcp");
    scene.says(" check up ");
    assert_eq!(scene.check("server 0 state maint"), Some(2), "although its check is up");
    scene.pen.tell("server 0 state ready");
    scene.pen.tell("check send x expect never");
    scene.says(" check down ");
    // Clients are served all the same, so /health of the page says 200.
    assert_eq!(scene.check("pid"), Some(1));
    assert_eq!(scene.check("no fail_open"), Some(2));
    let nobody = scene.command("check-pen").env("SOCKET", scene.file("none")).status();
    assert_eq!(nobody.unwrap().code(), Some(2), "no pen answers");
}
