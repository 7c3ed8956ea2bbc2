//! The command line in a form that a shell accepts, for the head of a file that `write` writes.

use std::ffi::OsString;

use super::options::{Group, OPTIONS, Value};
use super::{Given, commands};

/// The options that no command can express, and the listen address.
pub(super) fn command_line(given: &Given, listen: Option<&OsString>) -> String {
    let mut words = vec!["pen".to_owned()];
    for option in OPTIONS.iter().filter(|option| given.has(option)) {
        if commands::expresses(option)
            || option.group == Group::Obsolete
            || CHECK.contains(&option.long)
        {
            continue;
        }
        words.push(option.name());
        if !matches!(option.value, Value::Flag | Value::Repeated) {
            words.extend(given.values(option.long).next_back().map(word));
        }
    }
    words.extend(listen.map(word));
    words.join(" ")
}

/// Options that do not affect how pen runs.
const CHECK: [&str; 2] = ["check", "show"];

/// One word, in single quotes unless every shell accepts it unquoted.
fn word(value: &OsString) -> String {
    let text = value.to_string_lossy();
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"_@%+=:,./-".contains(&byte);
    if !text.is_empty() && text.bytes().all(plain) {
        return text.into_owned();
    }
    format!("'{}'", text.replace('\'', r"'\''"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_quoted_where_a_shell_would_split_or_change_them() {
        for (plain, quoted) in [
            ("nobody", "nobody"),
            ("/etc/pen.cfg", "/etc/pen.cfg"),
            ("[::1]:80", "'[::1]:80'"),
            ("my file", "'my file'"),
            ("it's", r"'it'\''s'"),
            ("", "''"),
            ("$HOME", "'$HOME'"),
        ] {
            assert_eq!(word(&plain.into()), quoted);
        }
    }
}
