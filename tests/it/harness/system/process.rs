//! A process that a test started, or a child of one. A pidfd holds it, so that a signal never
//! reaches another process with the same number.

use std::fs;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, poll};
use rustix::process::{
    Pid, PidfdFlags, Resource, Rlimit, Signal, pidfd_open, pidfd_send_signal, prlimit,
};

use super::super::wait::eventually;

/// A process.
#[derive(Debug)]
pub struct Process {
    pid: i32,
    handle: OwnedFd,
}

impl Process {
    /// The process with this number, if there is one.
    pub fn open(pid: i32) -> Option<Process> {
        let handle = pidfd_open(Pid::from_raw(pid)?, PidfdFlags::empty()).ok()?;
        Some(Process { pid, handle })
    }

    /// Its number.
    pub fn pid(&self) -> i32 {
        self.pid
    }

    /// Sends a signal; a signal to an ended process is lost.
    pub fn signal(&self, signal: Signal) {
        let _ = pidfd_send_signal(&self.handle, signal);
    }

    /// Kills it with a real-time signal, of which few programs know that there are any.
    pub fn kill_with(&self, number: i32) {
        let command = format!("kill -{number} {}", self.pid);
        assert!(Command::new("sh").args(["-c", &command]).status().unwrap().success());
    }

    /// Whether it has ended, reaped or not.
    pub fn gone(&self) -> bool {
        let mut event = [PollFd::new(&self.handle, PollFlags::IN)];
        poll(&mut event, Some(&rustix::time::Timespec { tv_sec: 0, tv_nsec: 0 })).unwrap() == 1
    }

    /// Stops it with SIGSTOP, and returns when it has stopped.
    #[track_caller]
    pub fn stop(&self) {
        self.signal(Signal::STOP);
        eventually("a process has stopped", || self.gone() || self.state() == Some('T'));
    }

    /// Continues it.
    pub fn resume(&self) {
        self.signal(Signal::CONT);
    }

    /// Kills it with SIGKILL, and returns when it has ended.
    #[track_caller]
    pub fn kill(&self) {
        self.signal(Signal::KILL);
        eventually("a killed process is gone", || self.gone());
    }

    /// Its state as in proc(5): R, S, T, Z, ...
    pub fn state(&self) -> Option<char> {
        stat(self.pid).map(|(state, _)| state)
    }

    /// Its living children, in order of their numbers.
    pub fn children(&self) -> Vec<Process> {
        let mut pids: Vec<i32> = fs::read_dir("/proc")
            .unwrap()
            .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
            .filter(|pid| {
                stat(*pid).is_some_and(|(state, parent)| {
                    parent == self.pid && state != 'Z' && state != 'X'
                })
            })
            .collect();
        pids.sort_unstable();
        pids.into_iter().filter_map(Process::open).collect()
    }

    /// A field of /proc/PID/status; runs of white space become single spaces.
    #[track_caller]
    pub fn status(&self, field: &str) -> String {
        let text = fs::read_to_string(self.proc("status")).unwrap();
        let line = text.lines().find_map(|line| line.strip_prefix(field)?.strip_prefix(':'));
        line.unwrap_or_else(|| panic!("no {field} in {text}"))
            .split_whitespace()
            .collect::<Vec<_>>()
            .join(" ")
    }

    /// The title that ps(1) shows; empty if it is gone.
    pub fn title(&self) -> String {
        let line = fs::read(self.proc("cmdline")).unwrap_or_default();
        String::from_utf8_lossy(&line).trim_end_matches('\0').replace('\0', " ")
    }

    /// Its resident memory, in KiB.
    pub fn resident(&self) -> u64 {
        self.status("VmRSS").trim_end_matches(" kB").parse().unwrap()
    }

    /// Changes the limit of its descriptors (their numbers stay below it) and returns the former
    /// limit.
    #[track_caller]
    pub fn limit_descriptors(&self, most: u64) -> u64 {
        self.limit(Resource::Nofile, Some(most)).expect("the number of descriptors has a limit")
    }

    /// Changes a limit and returns the former one; none: unlimited. The hard limit stays.
    #[track_caller]
    pub fn limit(&self, resource: Resource, most: Option<u64>) -> Option<u64> {
        let name = match resource {
            Resource::Nofile => "Max open files",
            Resource::As => "Max address space",
            Resource::Fsize => "Max file size",
            other => panic!("{other:?}"),
        };
        let text = fs::read_to_string(self.proc("limits")).unwrap();
        let line = text.lines().find_map(|line| line.strip_prefix(name)).unwrap();
        // "unlimited" is no number.
        let [current, maximum] =
            [0, 1].map(|n| line.split_whitespace().nth(n).unwrap().parse().ok());
        let limit = Rlimit { current: most, maximum };
        prlimit(Pid::from_raw(self.pid), resource, limit).unwrap();
        current
    }

    /// Processor time used so far, in clock ticks (a hundredth of a second).
    pub fn ticks(&self) -> u64 {
        let text = fs::read_to_string(self.proc("stat")).unwrap();
        let fields: Vec<&str> = text.rsplit_once(')').unwrap().1.split_whitespace().collect();
        fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap()
    }

    /// How long it has been running.
    pub fn age(&self) -> Duration {
        let text = fs::read_to_string(self.proc("stat")).unwrap();
        let fields: Vec<&str> = text.rsplit_once(')').unwrap().1.split_whitespace().collect();
        let start = fields[19].parse::<f64>().unwrap() / 100.0;
        let uptime = fs::read_to_string("/proc/uptime").unwrap();
        let now: f64 = uptime.split(' ').next().unwrap().parse().unwrap();
        Duration::from_secs_f64((now - start).max(0.0))
    }

    /// Its descriptors, as /proc shows them.
    pub fn descriptors(&self) -> Vec<(i32, String)> {
        let mut list: Vec<(i32, String)> = fs::read_dir(self.proc("fd"))
            .into_iter()
            .flatten()
            .filter_map(|entry| {
                let entry = entry.ok()?;
                let target = fs::read_link(entry.path()).ok()?;
                Some((entry.file_name().to_str()?.parse().ok()?, target.to_str()?.to_string()))
            })
            .collect();
        list.sort_unstable();
        list
    }

    /// A path below its directory in /proc.
    pub fn proc(&self, name: &str) -> PathBuf {
        PathBuf::from(format!("/proc/{}/{name}", self.pid))
    }
}

/// The state and the parent of a process.
fn stat(pid: i32) -> Option<(char, i32)> {
    let text = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let mut fields = text.rsplit_once(')')?.1.split_whitespace();
    Some((fields.next()?.chars().next()?, fields.next()?.parse().ok()?))
}
