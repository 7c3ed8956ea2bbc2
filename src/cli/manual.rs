//! Generates the documents about options and commands from the tables that the parsers use. These
//! tests generate the text and compare it with the files in `docs/man` and `packaging/completions`.
//! `UPDATE_DOCS=1 cargo test -p pen manual` writes the files.
//!
//! A manual page is written by hand, except for the parts between `.\" begin NAME` and `.\" end
//! NAME`. Details of an option or command that are not in its table row are in `options.mdoc` and
//! `commands.mdoc`, below a line `@ NAME`.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::path::{Path, PathBuf};

use clap_complete::Shell;
use pen_config::command::{COMMANDS, Entry};

use super::*;

/// Marks unfinished commands in the table of commands.
const LATER: &str = "Not built in yet.";

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn page(name: &str) -> PathBuf {
    root().join("docs/man").join(name)
}

fn read(path: &Path) -> String {
    std::fs::read_to_string(path).unwrap_or_default()
}

/// Compares a file with its generated text, or writes it.
#[track_caller]
fn compare(path: &Path, wanted: &str) {
    if std::env::var_os("UPDATE_DOCS").is_some() {
        std::fs::write(path, wanted).unwrap();
    }
    let name = path.strip_prefix(root()).unwrap().display();
    assert!(
        read(path) == wanted,
        "{name} is not up to date: UPDATE_DOCS=1 cargo test -p pen manual"
    );
}

/// Compares a page with itself after the part called `part` has been generated again.
#[track_caller]
fn compare_part(name: &str, part: &str, made: &str) {
    let path = page(name);
    let text = read(&path);
    let (begin, end) = (format!(".\\\" begin {part}\n"), format!(".\\\" end {part}\n"));
    let (before, rest) = text.split_once(&begin).unwrap_or_else(|| panic!("{name}: no {begin}"));
    let (_, after) = rest.split_once(&end).unwrap_or_else(|| panic!("{name}: no {end}"));
    compare(&path, &format!("{before}{begin}{made}{end}{after}"));
}

/// The texts of a file of details, by name.
fn details(file: &str) -> BTreeMap<String, String> {
    let mut found: BTreeMap<String, String> = BTreeMap::new();
    let text = read(&page(file));
    let mut current = None;
    for line in text.lines().filter(|line| !line.starts_with(".\\\"")) {
        match (line.strip_prefix("@ "), &current) {
            (Some(name), _) => {
                assert!(
                    found.insert(name.to_owned(), String::new()).is_none(),
                    "{file}: {name} twice"
                );
                current = Some(name.to_owned());
            }
            (None, Some(name)) => found.get_mut(name).unwrap().extend([line, "\n"]),
            (None, None) => panic!("{file}: text above the first name: {line}"),
        }
    }
    found
}

/// Plain text as roff: a hyphen at the beginning of an option is a minus sign, and no line is taken
/// for a request.
fn roff(text: &str) -> String {
    let mut made = String::new();
    let mut before = ' ';
    for letter in text.chars() {
        match letter {
            '\\' => made.push_str("\\e"),
            '-' if matches!(before, ' ' | '(' | '-') => made.push_str("\\-"),
            letter => made.push(letter),
        }
        before = letter;
    }
    if made.starts_with(['.', '\'']) { format!("\\&{made}") } else { made }
}

/// The text of the table as whole sentences, each on lines of its own as mdoc requires, at most as
/// long as a terminal's line.
fn sentences(text: &str) -> String {
    let mut made = String::new();
    let mut column = 0;
    for word in roff(text).split(' ') {
        let full = made.ends_with('.') || column + word.len() > 78;
        match (made.is_empty(), full) {
            (true, _) => {}
            (false, true) => made.push('\n'),
            (false, false) => made.push(' '),
        }
        column = if full { word.len() } else { column + 1 + word.len() };
        made.push_str(word);
    }
    if !made.ends_with('.') {
        made.push('.');
    }
    made
}

fn options() -> String {
    let mut details = details("options.mdoc");
    let mut options: Vec<&Opt> = OPTIONS.iter().collect();
    options.sort_by_key(|option| option.group);
    let mut made = String::new();
    for group in options.chunk_by(|a, b| a.group == b.group) {
        let _ = writeln!(made, ".Ss {}\n.Bl -tag -width Ds", group[0].group.heading());
        for option in group {
            option_item(&mut made, option, details.remove(option.long).as_deref());
        }
        made.push_str(".El\n");
    }
    assert!(
        details.is_empty(),
        "options.mdoc tells of options that there are not: {:?}",
        details.keys()
    );
    made
}

fn option_item(made: &mut String, option: &Opt, detail: Option<&str>) {
    let value = match option.value {
        Value::Flag | Value::Repeated => String::new(),
        Value::Number(name, ..) | Value::Text(name) | Value::Texts(name) => {
            format!(" Ar {}", name.replace('|', " | "))
        }
    };
    let letter = option.letter.map_or(String::new(), |letter| format!(" Fl {letter}{value} ,"));
    let _ = writeln!(made, ".It{letter} Fl \\-{}{value}\n{}", option.long, sentences(option.help));
    if let Value::Number(_, range, default) = &option.value {
        let default =
            default.map_or(String::new(), |default| format!("; the default is {default}"));
        let _ = writeln!(made, "From {} to {}{default}.", range.start(), range.end());
    }
    if option.group != Group::NotBuiltIn {
        made.push_str(detail.unwrap_or_default());
    }
}

/// A command's word and arguments, its negation, and its text in the table.
fn command_item(made: &mut String, entry: &Entry) {
    // In mdoc, brackets and bars between macros are delimiters. They would be separated from the
    // text that they enclose.
    let marked = |arguments: &str| match arguments {
        "" => String::new(),
        some => format!(" Ar {}", some.replace('[', "\\&[").replace('|', "\\&|")),
    };
    let arguments = marked(entry.arguments);
    let negated = format!(" , Ic no {}{}", entry.word, marked(entry.negated_arguments()));
    let negation = if entry.negatable { negated } else { String::new() };
    let _ = writeln!(made, ".It Ic {}{arguments}{negation}\n{}", entry.word, sentences(entry.help));
}

/// The commands, each with its details.
fn commands() -> String {
    let mut details = details("commands.mdoc");
    let mut made = ".Bl -tag -width Ds\n".to_owned();
    for entry in COMMANDS {
        command_item(&mut made, entry);
        if let Some(detail) = details.remove(entry.word)
            && !entry.help.ends_with(LATER)
        {
            made.push_str(&detail);
        }
    }
    assert!(
        details.is_empty(),
        "commands.mdoc tells of commands that there are not: {:?}",
        details.keys()
    );
    made + ".El\n"
}

/// The commands in brief.
fn list() -> String {
    let mut made = ".Bl -tag -width Ds -compact\n".to_owned();
    COMMANDS.iter().for_each(|entry| command_item(&mut made, entry));
    made + ".El\n"
}

#[test]
fn the_manual_tells_of_every_option_and_command() {
    compare_part("pen.8", "options", &options());
    compare_part("pen.conf.5", "commands", &commands());
    compare_part("penctl.1", "commands", &list());
}

#[test]
fn completions_know_every_option_of_pen_and_every_word_of_penctl() {
    let completions =
        |file: &str, made: &str| compare(&root().join("packaging/completions").join(file), made);
    for (shell, file) in
        [(Shell::Bash, "pen.bash"), (Shell::Zsh, "_pen"), (Shell::Fish, "pen.fish")]
    {
        let mut made = Vec::new();
        clap_complete::generate(shell, &mut command(), "pen", &mut made);
        completions(file, str::from_utf8(&made).unwrap());
    }
    completions("penctl.bash", &penctl_words::bash());
    completions("_penctl", &penctl_words::zsh());
    completions("penctl.fish", &penctl_words::fish());
}
