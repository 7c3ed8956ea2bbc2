//! The help texts: the list of commands, the help of one command, and the nearest command to an
//! unknown word.

use crate::command::table::{COMMANDS, Entry};

/// The column at which the list shows the help of a command.
const COLUMN: usize = 34;

/// How the help begins of a command without an effect here, and of a refused command.
const IDLE: [(&str, &str); 2] =
    [("No effect", "Accepted, without effect"), ("Refused", "Refused, each with its reason")];

/// The list of all commands, or the help of one command. Every line has its line end. An unknown
/// name gives the list.
pub fn help(word: Option<&str>) -> String {
    match COMMANDS.iter().find(|entry| Some(entry.word) == word) {
        Some(entry) => one(entry),
        None if word == Some("no") => negations(),
        None => list(),
    }
}

fn one(entry: &Entry) -> String {
    let mut text = format!("usage: {}\n", [entry.word, entry.arguments].join(" ").trim_end());
    if entry.negatable {
        text.push_str(&format!("       no {}\n", behind_no(entry)));
    }
    text + entry.help + "\n"
}

/// The help line of `no`: the commands that it can precede.
fn negations() -> String {
    let forms = COMMANDS.iter().filter(|entry| entry.negatable && !is_idle(entry)).map(behind_no);
    let forms = forms.collect::<Vec<_>>().join(", ");
    format!(
        "usage: no COMMAND\nSwitch off, or take away, what COMMAND sets. It goes with {forms}.\n"
    )
}

fn is_idle(entry: &Entry) -> bool {
    IDLE.iter().any(|(beginning, _)| entry.help.starts_with(beginning))
}

/// The form of a command after `no`.
fn behind_no(entry: &Entry) -> String {
    [entry.word, entry.negated_arguments()].join(" ").trim_end().to_owned()
}

fn list() -> String {
    let mut text =
        "Commands; help NAME tells of one. A setting with [...] behind it shows it without; \
         [on|off] switches on.\n"
            .to_owned();
    for entry in COMMANDS.iter().filter(|entry| !is_idle(entry)) {
        let form = [entry.word, entry.arguments].join(" ");
        let gap = if form.len() < COLUMN { "" } else { "\n" };
        let column = if gap.is_empty() { COLUMN - form.len() } else { COLUMN };
        text.push_str(&format!("{form}{gap}{:column$}{}\n", "", entry.help));
    }
    let switch = |entry: &&Entry| entry.arguments.starts_with("[on|off");
    let taken_back =
        COMMANDS.iter().filter(|entry| entry.negatable && !is_idle(entry) && !switch(entry));
    let taken_back: Vec<String> = taken_back.map(behind_no).collect();
    text.push_str(&format!(
        "no NAME switches off what has [on|off], and takes back: {}\n",
        taken_back.join(", ")
    ));
    for (beginning, title) in IDLE {
        let words = COMMANDS
            .iter()
            .filter(|entry| entry.help.starts_with(beginning))
            .map(|entry| entry.word);
        text.push_str(&format!("{title}: {}\n", words.collect::<Vec<_>>().join(", ")));
    }
    text
}

/// The suggestion at the end of the reply to an unknown word; empty if no command's word is
/// similar.
pub(super) fn suggestion(word: &str, among: impl Fn(&Entry) -> bool) -> String {
    let word = word.to_lowercase();
    let most = word.chars().count().div_ceil(2).min(3).saturating_sub(1);
    let known = COMMANDS.iter().filter(|entry| among(entry)).map(|entry| entry.word);
    let near = known
        .map(|known| (distance(&word, known), known))
        .filter(|(distance, _)| *distance <= most)
        .min();
    // The beginning of a command's word counts as similar, whatever its length.
    let begun = || {
        COMMANDS
            .iter()
            .find(|entry| word.len() > 2 && among(entry) && entry.word.starts_with(&word))
    };
    let found = near.map(|(_, known)| known).or_else(|| begun().map(|entry| entry.word));
    found.map_or(String::new(), |known| format!("; did you mean '{known}'?"))
}

/// The edit distance: the insertions, removals, replacements and swaps of neighbours that change
/// one word into the other (optimal string alignment). Both words are short: the operator's word
/// was cut before, and a word of ours has at most 40 letters.
fn distance(from: &str, to: &str) -> usize {
    let (from, to): (Vec<char>, Vec<char>) = (from.chars().collect(), to.chars().collect());
    let mut rows = vec![(0..=to.len()).collect::<Vec<usize>>()];
    for (i, letter) in from.iter().enumerate() {
        let mut row = vec![i + 1];
        for (j, other) in to.iter().enumerate() {
            let replaced = rows[i][j] + usize::from(letter != other);
            let mut least = replaced.min(rows[i][j + 1] + 1).min(row[j] + 1);
            if i > 0 && j > 0 && *letter == to[j - 1] && from[i - 1] == *other {
                least = least.min(rows[i - 1][j - 1] + 1);
            }
            row.push(least);
        }
        rows.push(row);
    }
    rows[from.len()][to.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn nearest(word: &str) -> String {
        suggestion(word, |_| true)
    }

    #[test]
    fn the_nearest_word_is_suggested_and_nothing_that_is_far() {
        for (word, meant) in [
            ("sevrers", "servers"),
            ("MODE", "mode"),
            ("statu", "status"),
            ("balcklist", "blacklist"),
            ("tcp_no_delay", "tcp_nodelay"),
            ("exti", "exit"),
            ("conn", "conn_max"),
            ("client", "client_acl"),
            ("hlep", "help"),
        ] {
            assert_eq!(nearest(word), format!("; did you mean '{meant}'?"), "{word}");
        }
        for word in ["frob", "nonsense", "", "x", "ls", "\u{7}", "reboot", "é"] {
            assert_eq!(nearest(word), "", "{word}");
        }
        assert_eq!(
            suggestion("servers", |entry| entry.negatable && entry.word.starts_with('h')),
            ""
        );
    }

    #[test]
    fn every_command_is_in_the_list_and_tells_of_itself() {
        let list = list();
        for entry in COMMANDS {
            assert!(list.split([' ', '\n', ',']).any(|word| word == entry.word), "{}", entry.word);
            let one = help(Some(entry.word));
            assert!(
                one.starts_with(&format!("usage: {}", entry.word)) && one.contains(entry.help),
                "{one}"
            );
        }
        assert_eq!(help(Some("acl")).lines().nth(1), Some("       no acl N"));
        let negated = list.lines().find(|line| line.starts_with("no NAME ")).unwrap();
        for form in [" acl N,", " server N,", " log,", " emergency,", " web_stats"] {
            assert!(negated.contains(form), "{form}: {negated}");
        }
        assert!(!negated.contains("http") && !negated.contains("block"), "{negated}");
        let all = help(Some("no"));
        assert!(
            all.contains(" acl N, ") && all.contains(" http, ") && !all.contains(" block"),
            "{all}"
        );
        assert_eq!((help(None), help(Some("frob"))), (list.clone(), list));
    }

    #[test]
    fn letters_are_inserted_removed_replaced_and_swapped() {
        for (from, to, steps) in [
            ("", "", 0),
            ("", "abc", 3),
            ("abc", "", 3),
            ("abc", "axc", 1),
            ("abc", "acb", 1),
            ("ca", "abc", 3),
        ] {
            assert_eq!(distance(from, to), steps, "{from} {to}");
        }
    }
}
