//! A real terminal with a size: tmux, with a server of its own.

use std::process::{Command, Output};

use super::machine::not_checked;
use super::process::Process;
use crate::harness::wait::{PATIENCE, within};

/// A terminal in which a program runs.
#[derive(Debug)]
pub struct Terminal {
    directory: tempfile::TempDir,
}

impl Terminal {
    /// Runs a shell's command in a terminal with so many columns and rows. Without tmux, the test
    /// is not checked, and says so.
    pub fn run(size: (u16, u16), command: &str) -> Option<Terminal> {
        if Command::new("tmux").arg("-V").output().is_err() {
            not_checked("tmux is not here (tools/setup)");
            return None;
        }
        let terminal = Terminal { directory: tempfile::tempdir().unwrap() };
        let (columns, rows) = (size.0.to_string(), size.1.to_string());
        // The terminal stays when the command ends, so that its last screen can be read.
        let command = format!("export LC_ALL=C.UTF-8; {command}; echo \"status $?.\"; read stay");
        let output = terminal.tmux(&[
            "-f",
            "/dev/null",
            "-u",
            "new-session",
            "-d",
            "-x",
            &columns,
            "-y",
            &rows,
            &command,
        ]);
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        Some(terminal)
    }

    fn tmux(&self, words: &[&str]) -> Output {
        let socket = self.directory.path().join("tmux");
        Command::new("tmux").arg("-S").arg(socket).args(words).output().unwrap()
    }

    fn told(&self, words: &[&str]) -> String {
        let output = self.tmux(words);
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    }

    /// What is on the screen.
    pub fn screen(&self) -> String {
        self.told(&["capture-pane", "-p"])
    }

    /// The same with the colours (ECMA-48, SGR).
    pub fn coloured_screen(&self) -> String {
        self.told(&["capture-pane", "-p", "-e"])
    }

    /// Waits until all these texts are on the screen, and returns it.
    #[track_caller]
    pub fn shows(&self, texts: &[&str]) -> String {
        self.shows_when(&texts.join(", "), |screen| texts.iter().all(|text| screen.contains(text)))
    }

    /// Waits until the screen is as wanted, and returns it.
    #[track_caller]
    pub fn shows_when(&self, what: &str, wanted: impl Fn(&str) -> bool) -> String {
        let mut screen = String::new();
        let found = within(PATIENCE, || {
            screen = self.screen();
            wanted(&screen)
        });
        assert!(found, "waited in vain for {what}:\n{screen}");
        screen
    }

    /// Types text.
    pub fn types(&self, text: &str) {
        self.told(&["send-keys", "-l", "--", text]);
    }

    /// Presses a key that tmux knows by this name, as `Enter` and `C-c`.
    pub fn presses(&self, key: &str) {
        self.told(&["send-keys", key]);
    }

    /// Gives the terminal another size.
    pub fn resize(&self, columns: u16, rows: u16) {
        let (columns, rows) = (columns.to_string(), rows.to_string());
        self.told(&["resize-window", "-x", &columns, "-y", &rows]);
    }

    /// Whether a program uses the screen for itself, and has hidden the cursor.
    pub fn is_taken(&self) -> bool {
        match self.told(&["display-message", "-p", "#{alternate_on} #{cursor_flag}"]).trim() {
            "1 0" => true,
            "0 1" => false,
            other => panic!("half taken: {other}"),
        }
    }

    /// Waits until a program has given back the screen and the cursor.
    #[track_caller]
    pub fn is_given_back(&self) {
        let state = || self.told(&["display-message", "-p", "#{alternate_on} #{cursor_flag}"]);
        assert!(within(PATIENCE, || state().trim() == "0 1"), "{}:\n{}", state(), self.screen());
    }

    /// The shell in the terminal.
    pub fn shell(&self) -> Process {
        let pid = self.told(&["display-message", "-p", "#{pane_pid}"]);
        Process::open(pid.trim().parse().unwrap()).unwrap()
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        self.tmux(&["kill-server"]);
    }
}
