//! Upgrades: a pen goes on as another program (`other_pen`), and nobody is lost (pen(8),
//! --upgrade, SIGNALS); what a restart keeps.

mod asking;
#[path = "other_pen/behaviour.rs"]
mod behaviour;
mod deaths;
mod failures;
mod generations;
mod kept;
mod layout;
mod load;
mod orders;
mod phases;
mod places;
mod privileged;
mod shortage;
mod stays;
mod syscalls;
mod tls;

use std::collections::BTreeSet;
use std::net::Ipv4Addr;
use std::ops::{Deref, DerefMut};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};

use serde_json::Value;

use crate::harness::machine::{self, NOBODY, copy_program, is_root};
use crate::harness::wait::within;
use crate::harness::{BINARY, Builder, PATIENCE, Pen, Process, Report, eventually, until};

/// The version of the real program.
const OLD: &str = env!("CARGO_PKG_VERSION");

/// `pen --upgrade PIDFILE` of a program.
fn upgrade_command(program: &Path, pid_file: &Path) -> Command {
    let mut command = Command::new(program);
    command.arg("--upgrade").arg(pid_file).stdin(Stdio::null());
    command
}

/// What a report says of a client that must be the same after an upgrade.
#[track_caller]
fn remembered(report: &Report, client: Ipv4Addr) -> [String; 4] {
    let row = report.client(&client.to_string()).expect("pen remembers the client");
    ["client", "last server", "connects", "sent"].map(|column| row[column].clone())
}

/// A running pen whose program stands in a directory of its own, where the next one takes its
/// place.
pub struct Installed {
    pen: Pen,
    place: PathBuf,
}

impl Deref for Installed {
    type Target = Pen;

    fn deref(&self) -> &Pen {
        &self.pen
    }
}

impl DerefMut for Installed {
    fn deref_mut(&mut self) -> &mut Pen {
        &mut self.pen
    }
}

impl Installed {
    /// Starts the real program from a directory `bin` in pen's own.
    #[track_caller]
    pub fn start(builder: Builder) -> Installed {
        Installed::start_as(builder, |builder| builder)
    }

    /// The same by an ordinary user, even if the tests run as root. Root can give the process more
    /// by options of setpriv(1).
    #[track_caller]
    fn start_by_nobody(builder: Builder, more: &[&str]) -> Installed {
        let id = NOBODY.to_string();
        let change = [&format!("--reuid={id}"), &format!("--regid={id}"), "--clear-groups"];
        let change: Vec<String> =
            [&["setpriv"], &change[..], more].concat().into_iter().map(String::from).collect();
        Installed::start_as(builder, |builder| match is_root() {
            true => {
                std::os::unix::fs::chown(builder.directory(), Some(NOBODY), Some(NOBODY)).unwrap();
                machine::open_to_all(builder.directory());
                builder.through(change)
            }
            false => builder,
        })
    }

    #[track_caller]
    fn start_as(builder: Builder, how: impl FnOnce(Builder) -> Builder) -> Installed {
        let place = machine::directory(builder.directory(), "bin", 0o755, 0).join("pen");
        copy_program(Path::new(BINARY), "", &place);
        let pen = how(builder.binary(&place)).start();
        Installed { pen, place }
    }

    /// Installs another release with this behaviour (`other_pen`), as a package manager does.
    pub fn install(&self, words: &str) {
        copy_program(&machine::example("other_pen"), &behaviour::trailer(words), &self.place);
    }

    /// Runs `pen --upgrade`.
    fn ask_for_upgrade(&self) -> Output {
        self.begin_to_ask().wait_with_output().unwrap()
    }

    /// Starts `pen --upgrade`.
    fn begin_to_ask(&self) -> Child {
        let mut command = upgrade_command(Path::new(BINARY), &self.directory().join("pid"));
        command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
    }

    /// Upgrades to this version, which is already installed. Returns how many connections stay with
    /// the old workers.
    #[track_caller]
    fn becomes(&self, version: &str) -> u32 {
        self.goes_on_as(OLD, version)
    }

    /// [`Installed::becomes`], from an earlier upgrade's version.
    #[track_caller]
    pub fn goes_on_as(&self, before: &str, version: &str) -> u32 {
        let said = self.said().len();
        let asked = self.ask_for_upgrade();
        let line = String::from_utf8(asked.stdout.clone()).unwrap();
        let pid = self.supervisor().pid();
        let begin = format!("pen {before} is now pen {version}, pid {pid}, ");
        let stays = line.strip_prefix(&begin).and_then(|rest| {
            let count = match rest.trim_end().strip_suffix(" with the old workers")? {
                "no connection stays" => 0,
                "1 connection stays" => 1,
                more => more.strip_suffix(" connections stay")?.parse().ok()?,
            };
            (line.lines().count() == 1 && asked.status.success()).then_some(count)
        });
        let stays = stays.unwrap_or_else(|| panic!("expected {begin:?}, but: {asked:?}"));
        assert!(asked.stderr.is_empty(), "{asked:?}");
        // In the background, the log is the system's.
        if self.supervisor().title().contains(" -f ") {
            let has_it = || self.said()[said..].contains(line.trim_end());
            eventually("the log has the same line", has_it);
        }
        stays
    }

    /// Installs another release and upgrades to it.
    #[track_caller]
    pub fn upgrade(&self, version: &str) -> u32 {
        self.install(version);
        self.becomes(version)
    }

    /// Asks for an upgrade that must fail, with one line. Returns the reason in it.
    #[track_caller]
    pub fn fails_to_upgrade(&self) -> String {
        let said = self.said().len();
        let asked = self.ask_for_upgrade();
        let line = String::from_utf8(asked.stderr.clone()).unwrap();
        let reason = line
            .strip_prefix("pen: upgrade failed: ")
            .and_then(|rest| rest.strip_suffix(&format!("; pen {OLD} goes on\n")))
            .filter(|why| !why.contains('\n') && asked.status.code() == Some(1));
        let reason = reason.unwrap_or_else(|| panic!("expected a failed upgrade, but: {asked:?}"));
        assert!(asked.stdout.is_empty(), "{asked:?}");
        let line = line.trim_end().strip_prefix("pen: ").unwrap();
        eventually("the log has the same line", || self.said()[said..].contains(line));
        reason.to_string()
    }

    /// The processes of pen that last, by their titles: workers of all generations, and the
    /// processes beside them.
    fn staff(&self) -> Vec<Process> {
        let lasts = |title: &str| {
            title.starts_with("pen: worker ")
                || ["pen: control", "pen: page", "pen: checker"].contains(&title)
        };
        self.supervisor().children().into_iter().filter(|child| lasts(&child.title())).collect()
    }

    /// The pids of [`Installed::staff`].
    pub fn pids(&self) -> BTreeSet<i32> {
        self.staff().iter().map(Process::pid).collect()
    }

    /// Waits until so many processes last; returns their pids.
    #[track_caller]
    fn pids_of(&self, count: usize) -> BTreeSet<i32> {
        until("only these processes are left", || {
            Some(self.pids()).filter(|pids| pids.len() == count)
        })
    }

    /// Waits until these are all children of the supervisor.
    #[track_caller]
    fn has_children(&self, pids: &BTreeSet<i32>) {
        let mut now = Vec::new();
        let is_so = within(PATIENCE, || {
            now = self.supervisor().children();
            now.iter().map(Process::pid).collect::<BTreeSet<_>>() == *pids
        });
        let now: Vec<_> = now.iter().map(|child| (child.pid(), child.title())).collect();
        assert!(is_so, "the processes are {now:?} and not {pids:?}");
    }

    /// Waits until so many processes last, and none of these. Returns them.
    #[track_caller]
    pub fn has_only_new(&self, before: &BTreeSet<i32>, count: usize) -> Vec<Process> {
        until("only new processes are left", || {
            let staff = self.staff();
            let is_new = staff.iter().all(|process| !before.contains(&process.pid()));
            (is_new && staff.len() == count).then_some(staff)
        })
    }

    /// `status json`.
    #[track_caller]
    fn status(&self) -> Value {
        serde_json::from_str(&self.tell("status json")).expect("a status report is JSON")
    }

    /// The connections of old workers in `status json`, summed for each version, the oldest first.
    #[track_caller]
    fn old_workers(&self) -> Vec<(String, u64)> {
        let mut sums: Vec<(String, u64)> = Vec::new();
        for row in self.status()["old_workers"].as_array().expect("a list") {
            assert!(row["age"].is_u64(), "an age in seconds: {row}");
            let version = row["version"].as_str().unwrap();
            let connections = row["connections"].as_u64().unwrap();
            match sums.last_mut() {
                Some((last, sum)) if last == version => *sum += connections,
                _ => sums.push((version.to_string(), connections)),
            }
        }
        sums
    }

    /// Waits until old workers have these connections.
    #[track_caller]
    fn has_old_workers(&self, expected: &[(&str, u64)]) {
        let expected: Vec<(String, u64)> =
            expected.iter().map(|(version, count)| (version.to_string(), *count)).collect();
        let mut found = Vec::new();
        let is_so = within(PATIENCE, || {
            found = self.old_workers();
            found == expected
        });
        assert!(is_so, "old workers are {found:?} and not {expected:?}");
    }
}
