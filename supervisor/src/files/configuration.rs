//! Configuration files with the files that they include. The start reads its own file. Later a
//! child reads it (`open`), in the jail if an operator names the file.

#![forbid(unsafe_code)]

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

use pen_config::command::{Action, Command, Setting, SourcedCommand};
use pen_config::configuration::file;
use pen_config::configuration::twice::{Twice, twice};
use pen_config::grammar::quoted;
use pen_ipc::text::error_text;
use pen_walk as walk;
use serde::{Deserialize, Serialize};

/// The commands of a file and of all files that it includes, in order.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Loaded {
    /// The commands; none is an `include`.
    pub(crate) commands: Vec<SourcedCommand>,
    /// Notices for the log, `FILE:LINE: text`.
    pub(crate) notices: Vec<String>,
}

/// Reads a configuration file.
///
/// # Errors
/// All errors in it and in the files that it includes, `FILE:LINE: reason`.
pub(crate) fn load(path: &Path) -> Result<Loaded, Vec<String>> {
    let mut loader = Loader::default();
    loader.file(path, "", 0);
    loader.find_repeated(0);
    loader.finish()
}

/// Replaces each `include` command by the commands of the file that it names. Relative names are
/// relative to `directory`.
///
/// # Errors
/// All errors in the files.
pub(crate) fn expand(
    commands: Vec<SourcedCommand>,
    directory: &Path,
) -> Result<Loaded, Vec<String>> {
    let mut loader = Loader::default();
    for sourced in commands {
        let (first, is_file) = (
            loader.loaded.commands.len(),
            matches!(sourced.command, Command::Action(Action::Include(_))),
        );
        loader.command(sourced, directory, 0);
        if is_file {
            loader.find_repeated(first);
        }
    }
    loader.finish()
}

#[derive(Default)]
struct Loader {
    loaded: Loaded,
    errors: Vec<String>,
    /// The number of errors beyond the limit.
    surplus: usize,
    /// The number of files read so far, which is bounded: files can include each other.
    files: u32,
}

impl Loader {
    fn finish(mut self) -> Result<Loaded, Vec<String>> {
        if self.surplus > 0 {
            self.errors.push(more(self.surplus));
        }
        if self.errors.is_empty() { Ok(self.loaded) } else { Err(self.errors) }
    }

    /// Looks for duplicates in the commands of one file and its includes: those from `first` on.
    fn find_repeated(&mut self, first: usize) {
        let Twice { errors, warnings } =
            twice(self.loaded.commands.get(first..).unwrap_or_default());
        errors.into_iter().for_each(|error| self.wrong(error));
        self.loaded.notices.extend(warnings);
    }

    fn wrong(&mut self, error: String) {
        match self.errors.len() {
            0..MOST_ERRORS => self.errors.push(error),
            _ => self.surplus += 1,
        }
    }

    /// `at` is the source line that names the file, followed by a colon and a space.
    fn file(&mut self, path: &Path, at: &str, depth: u32) {
        self.files += 1;
        if depth > DEEPEST || self.files > MOST_FILES {
            let why = if depth > DEEPEST {
                "more than 16 files deep"
            } else {
                "more than 1024 files in all"
            };
            return self.wrong(format!("{at}{}: not included: {why}", path.display()));
        }
        match walk::read(path).and_then(text) {
            Ok(text) => self.text(&text, path, depth),
            Err(error) => self.wrong(format!("{at}{}: {}", path.display(), error_text(&error))),
        }
    }

    /// All or nothing: one wrong line discards all lines.
    fn text(&mut self, text: &[u8], path: &Path, depth: u32) {
        let source_line = |number| format!("{}:{number}", path.display());
        let mut is_good = true;
        for bad in file::lines(text).filter_map(Result::err) {
            is_good = false;
            self.wrong(format!("{}: {}", source_line(bad.number), bad.why));
        }
        let directory = path.parent().unwrap_or(path);
        for line in file::lines(text).flatten().take_while(|_| is_good) {
            let source_line = source_line(line.number);
            self.loaded
                .notices
                .extend(line.notice.map(|notice| format!("{source_line}: {notice}")));
            if let Some(command) = line.command {
                self.command(SourcedCommand { source_line, command }, directory, depth);
            }
        }
    }

    fn command(&mut self, sourced: SourcedCommand, directory: &Path, depth: u32) {
        match &sourced.command {
            Command::Action(Action::Include(name)) => {
                self.file(&directory.join(name), &sourced.at(), depth + 1)
            }
            Command::Query(_)
            | Command::Setting(_)
            | Command::Action(
                Action::Close(_)
                | Action::Drain { .. }
                | Action::Exit
                | Action::Pause
                | Action::Resume
                | Action::Upgrade
                | Action::Write(_)
                | Action::WriteHere,
            ) => self.push(sourced),
        }
    }

    fn push(&mut self, sourced: SourcedCommand) {
        if self.loaded.commands.len() < MOST_COMMANDS {
            self.loaded.commands.push(sourced);
        } else if self.errors.last().is_none_or(|last| !last.ends_with(TOO_MANY)) {
            self.wrong(format!("{}{TOO_MANY}", sourced.at()));
        }
    }
}

/// Lines about commands, sorted by the order of the commands; lines about none of them come first.
pub(crate) fn in_order(mut lines: Vec<String>, commands: &[SourcedCommand]) -> Vec<String> {
    if lines.len() > 1 {
        let numbers: HashMap<&str, usize> = (1..)
            .zip(commands)
            .map(|(number, sourced)| (sourced.source_line.as_str(), number))
            .collect();
        let ends = |line: &str| line.match_indices(": ").map(|(end, _)| end).collect::<Vec<_>>();
        let number = |line: &String| {
            ends(line).into_iter().find_map(|end| numbers.get(&line[..end]).copied())
        };
        lines.sort_by_cached_key(|line| number(line).unwrap_or(0));
    }
    lines
}

/// The errors of one configuration up to the limit, and a line with the number of the others.
pub(crate) fn bounded(mut errors: Vec<String>) -> Vec<String> {
    // The line with the number takes the place of one error.
    if errors.len() > MOST_ERRORS + 1 {
        let surplus = errors.len() - MOST_ERRORS;
        errors.truncate(MOST_ERRORS);
        errors.push(more(surplus));
    }
    errors
}

fn more(errors: usize) -> String {
    format!("{errors} more lines are wrong")
}

/// The content of a regular file. Other kinds of files cannot be read again at each HUP, or may
/// block.
fn text(file: File) -> io::Result<Vec<u8>> {
    let mut text = Vec::new();
    file.take(LONGEST + 1).read_to_end(&mut text)?;
    if text.len() as u64 > LONGEST {
        return Err(io::Error::other("longer than 16 MiB"));
    }
    Ok(text)
}

/// A notice about unknown words in a list of cipher suites.
pub(crate) fn unknown_suites(placed: &SourcedCommand) -> Option<String> {
    let Some(Setting::SslCiphers(Some(list))) = placed.setting() else { return None };
    let at = placed.at();
    let unknown = list.unknown.join(":");
    (!unknown.is_empty()).then(|| {
        format!("{at}ssl_ciphers: {} names no suite that is here: passed over", quoted(&unknown))
    })
}

/// The maximum depth of includes.
const DEEPEST: u32 = 16;

const MOST_FILES: u32 = 1024;

/// The maximum number of commands: more than all servers and ten full access lists need.
pub(crate) const MOST_COMMANDS: usize = 200_000;

const TOO_MANY: &str = "more than 200000 commands";

/// The maximum length of a file in bytes.
const LONGEST: u64 = 16 * 1024 * 1024;

/// Most error lines of one configuration.
const MOST_ERRORS: usize = 100;

#[cfg(test)]
mod tests {
    use std::fs;

    use pen_config::command::{Number, Setting, Switch};

    use super::*;

    fn directory(files: &[(&str, &str)]) -> tempfile::TempDir {
        let directory = tempfile::tempdir().unwrap();
        for (name, text) in files {
            let path = directory.path().join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        directory
    }

    #[test]
    fn lines_are_told_in_the_order_of_the_commands() {
        let sourced = |source_line: &str| SourcedCommand {
            source_line: source_line.into(),
            command: Command::Setting(Setting::Switch(Switch::Hash, true)),
        };
        let commands = ["-O 'x: y'", "/a:2", "/a:12", "/a:13"].map(sourced);
        let lines =
            ["/a:13: two", "/a:12: one: more", "of none", "-O 'x: y': zero", "/a:13: three"];
        assert_eq!(
            in_order(lines.map(str::to_owned).into(), &commands),
            ["of none", "-O 'x: y': zero", "/a:12: one: more", "/a:13: two", "/a:13: three"]
        );
    }

    #[test]
    fn what_a_file_says_twice_is_found_across_what_it_includes_and_not_across_the_command_line() {
        let directory = directory(&[
            ("pen.cfg", "listen 80\nuser a\ninclude sub"),
            ("sub", "user b\nlisten 81\n"),
            ("alone", "listen 82"),
        ]);
        let at = |name: &str| directory.path().join(name).display().to_string();
        let why = load(&directory.path().join("pen.cfg")).unwrap_err();
        assert!(
            why.len() == 1
                && why[0].starts_with(&format!("{}:2: listen: {}:1 ", at("sub"), at("pen.cfg"))),
            "{why:?}"
        );
        let included = |line: &str| SourcedCommand {
            source_line: "-O".into(),
            command: pen_config::command::parse(line).unwrap().unwrap(),
        };
        let commands = ["listen 83", "include alone", "listen 84"].map(included);
        assert_eq!(expand(commands.into(), directory.path()).unwrap().commands.len(), 3);
        let why = expand(vec![included("include pen.cfg")], directory.path()).unwrap_err();
        assert_eq!(why.len(), 1, "{why:?}");
        fs::write(directory.path().join("sub"), "user b\n").unwrap();
        let notices = load(&directory.path().join("pen.cfg")).unwrap().notices;
        assert_eq!(
            notices,
            [format!(
                "{}:1: user: {}:2 says something else; the last counts: user b",
                at("sub"),
                at("pen.cfg")
            )]
        );
    }

    #[test]
    fn included_commands_stand_where_they_are_included_and_names_are_relative_to_the_file() {
        let directory = directory(&[
            ("pen.cfg", "blacklist 1\ninclude sub/a\nblacklist 4"),
            ("sub/a", "blacklist 2\ninclude b\n"),
            ("sub/b", "hash\n"),
        ]);
        let loaded = load(&directory.path().join("pen.cfg")).unwrap();
        let blacklist = |time| Command::Setting(Setting::Number(Number::Blacklist, time));
        let commands: Vec<Command> =
            loaded.commands.iter().map(|sourced| sourced.command.clone()).collect();
        assert_eq!(
            commands,
            [
                blacklist(1),
                blacklist(2),
                Command::Setting(Setting::Switch(Switch::Hash, true)),
                blacklist(4)
            ]
        );
        assert!(loaded.commands[1].source_line.ends_with("/sub/a:1"), "{:?}", loaded.commands[1]);
    }

    #[test]
    fn every_bad_line_is_told_with_its_place() {
        let directory = directory(&[
            ("pen.cfg", "nonsense\nhash\ntimeout x\ninclude gone\n"),
            ("good", "include bad"),
            ("bad", "x\ny"),
        ]);
        let errors = load(&directory.path().join("pen.cfg")).unwrap_err();
        assert_eq!(errors.len(), 2, "{errors:?}");
        assert!(
            errors[0].contains("/pen.cfg:1: ") && errors[1].contains("/pen.cfg:3: "),
            "{errors:?}"
        );
        let errors = load(&directory.path().join("good")).unwrap_err();
        assert!(errors.len() == 2 && errors[1].contains("/bad:2: "), "{errors:?}");
        let missing = load(&directory.path().join("missing")).unwrap_err();
        assert!(missing[0].ends_with("/missing: no such file or directory"), "{missing:?}");
    }

    #[test]
    fn a_file_that_includes_itself_is_an_error_and_ends() {
        let directory = directory(&[
            ("loop", "hash\ninclude loop\n"),
            ("tree", "include tree\ninclude tree\n"),
        ]);
        let errors = load(&directory.path().join("loop")).unwrap_err();
        assert!(errors.len() == 1 && errors[0].contains("16 files deep"), "{errors:?}");
        let errors = load(&directory.path().join("tree")).unwrap_err();
        assert!(errors.len() <= MOST_ERRORS + 1);
    }

    #[test]
    fn errors_are_bounded_and_counted() {
        let errors = |count: usize| vec!["wrong".to_owned(); count];
        assert_eq!(bounded(errors(MOST_ERRORS + 1)).len(), MOST_ERRORS + 1);
        let many = bounded(errors(5000));
        assert_eq!(
            (many.len(), many[MOST_ERRORS].as_str()),
            (MOST_ERRORS + 1, "4900 more lines are wrong")
        );
        assert_eq!(bounded(many.clone()), many);
    }

    #[test]
    fn what_is_no_regular_file_is_refused_without_waiting() {
        let directory = directory(&[]);
        let fifo = directory.path().join("fifo");
        nix::unistd::mkfifo(&fifo, nix::sys::stat::Mode::S_IRWXU).unwrap();
        for path in [&fifo, directory.path(), Path::new("/dev/zero")] {
            assert!(load(path).unwrap_err()[0].ends_with("not a regular file"));
        }
    }
}
