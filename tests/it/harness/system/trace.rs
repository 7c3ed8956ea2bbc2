//! strace(1) attached to processes.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{BufRead, BufReader};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use super::super::wait::eventually;
use super::machine::not_checked;
use super::process::Process;

/// strace attached to a process.
pub struct Trace {
    strace: Child,
    output: PathBuf,
}

/// The number of calls by name and outcome: "recvfrom", or "accept4 EAGAIN".
pub type Calls = BTreeMap<String, usize>;

impl Trace {
    /// Starts to trace a stopped process.
    pub fn begin(process: &Process, output: PathBuf) -> Trace {
        let pid = process.pid().to_string();
        let mut strace = Command::new("strace")
            .args(["-f", "-p", &pid, "-o"])
            .arg(&output)
            .env("LC_ALL", "C")
            .stderr(Stdio::piped())
            .spawn()
            .expect("strace is installed (tools/setup)");
        let said = BufReader::new(strace.stderr.take().unwrap()).lines().map_while(Result::ok);
        let attached =
            said.inspect(|line| eprintln!("{line}")).any(|line| line.contains("attached"));
        assert!(attached, "strace traces the worker");
        Trace { strace, output }
    }

    /// Whether a test that traces whole families can run; if not, it says so.
    pub fn is_possible() -> bool {
        let found = Command::new("strace").arg("-V").stdout(Stdio::null()).status();
        let is_there = found.is_ok_and(|status| status.success());
        if !is_there {
            not_checked("it needs strace");
        }
        is_there
    }

    /// Traces these calls of processes and of all their later children, with the file behind each
    /// descriptor. Each process has an output of its own, `OUTPUT.PID`.
    pub fn of_family(processes: &[Process], calls: &str, output: PathBuf) -> Trace {
        let said = output.with_extension("said");
        let mut strace = Command::new("strace");
        strace.args(["-ff", "-y", "-e", &format!("trace={calls}"), "-o"]).arg(&output);
        for process in processes {
            strace.args(["-p", &process.pid().to_string()]);
        }
        let strace = strace.env("LC_ALL", "C").stderr(File::create(&said).unwrap()).spawn();
        eventually("strace traces all processes", || {
            let said = fs::read_to_string(&said).unwrap();
            processes.iter().all(|process| said.contains(&format!(" {} attached", process.pid())))
        });
        Trace { strace: strace.expect("strace is installed"), output }
    }

    /// Stops [`Trace::of_family`]. Returns the lines of each process, by its pid.
    pub fn of_each(mut self) -> BTreeMap<i32, Vec<String>> {
        self.stop();
        let name = format!("{}.", self.output.file_name().unwrap().display());
        let beside = fs::read_dir(self.output.parent().unwrap()).unwrap().flatten();
        let outputs = beside.filter_map(|entry| {
            let pid = entry.file_name().to_str()?.strip_prefix(&name)?.parse().ok()?;
            let text = fs::read_to_string(entry.path()).unwrap();
            Some((pid, text.lines().map(str::to_string).collect()))
        });
        outputs.collect()
    }

    /// Ends strace; the processes go on.
    fn stop(&mut self) {
        let strace = Process::open(self.strace.id() as i32).expect("strace runs");
        strace.signal(rustix::process::Signal::INT);
        self.strace.wait().unwrap();
    }

    /// The finished calls, as strace writes them.
    pub fn lines(&self) -> Vec<String> {
        let written = fs::read_to_string(&self.output).unwrap_or_default();
        written.lines().filter(|line| line.contains(" = ")).map(str::to_string).collect()
    }

    /// Stops and counts, after `times` calls that `last` recognizes.
    pub fn end(mut self, what: &str, times: usize, last: impl Fn(&str) -> bool) -> Calls {
        eventually(what, || self.lines().iter().filter(|line| last(line)).count() >= times);
        self.stop();
        let mut calls = Calls::new();
        for line in self.lines() {
            // "1234  recvfrom(5, ..., 0, NULL, NULL) = 64", "... = -1 EAGAIN (Resource temporarily
            // unavailable)"
            let Some((name, rest)) =
                line.split_once(' ').and_then(|(_, call)| call.trim_start().split_once('('))
            else {
                continue;
            };
            let errno = rest
                .rsplit_once(" = -1 ")
                .map(|(_, errno)| errno.split(' ').next().unwrap_or_default());
            let name = match (name, errno) {
                // A pending connect(2) is not a failure.
                (name, None | Some("EINPROGRESS")) => name.to_string(),
                (name, Some(errno)) => format!("{name} {errno}"),
            };
            *calls.entry(name).or_default() += 1;
        }
        calls
    }
}
