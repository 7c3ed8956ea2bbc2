//! Replies as tables, for a person at a terminal. Each table is made from the JSON form of the
//! reply. No line is longer than the terminal is wide.

mod certificates;
mod columns;
mod grid;
mod recent;
mod servers;
mod sheet;

use crate::overview::{Health, OVERVIEW};
pub use columns::{Width, cut, fold};

use grid::Grid;

/// Whether the output has colours.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Paint {
    /// It has colours.
    Colours,
    /// It has no colours: the user does not want them (NO_COLOR), or the terminal has none.
    Plain,
}

impl Paint {
    /// The choice by the environment (<https://no-color.org>).
    pub fn wanted() -> Paint {
        let set = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty());
        match set("NO_COLOR").is_some() || set("TERM").is_none_or(|term| term == "dumb") {
            true => Paint::Plain,
            false => Paint::Colours,
        }
    }

    /// The text in the colour of a state (ECMA-48, SGR). The text says everything; the colour only
    /// helps to see it faster.
    fn on(self, health: Health, text: &str) -> String {
        let colour = match (self, health) {
            (Paint::Plain, _) | (_, Health::Vacant) => return text.to_owned(),
            (Paint::Colours, Health::Good) => 32,
            (Paint::Colours, Health::Full | Health::Out) => 33,
            (Paint::Colours, Health::Failed) => 31,
        };
        // The spaces at the end of a line are removed later, so they must come after the colour.
        let (word, gap) = text.split_at(text.trim_end().len());
        format!("\x1b[{colour}m{word}\x1b[0m{gap}")
    }
}

/// A function that makes the table. `None`: the text is not that reply.
type Render = fn(&[u8], Paint, Width) -> Option<String>;

/// The command that replies with what the table of this command needs, and the table's function.
/// `None`: this command has no table.
pub fn table_for(command: &[u8]) -> Option<(Vec<u8>, Render)> {
    let words: Vec<&[u8]> =
        command.split(u8::is_ascii_whitespace).filter(|word| !word.is_empty()).collect();
    let json = || [command.trim_ascii_end(), b" json"].concat();
    match words[..] {
        [b"servers"] => Some((OVERVIEW.to_vec(), servers::render)),
        [b"overview"] => Some((OVERVIEW.to_vec(), sheet::render)),
        [b"certificates"] => Some((json(), certificates::render)),
        [b"recent"] => Some((json(), recent::render)),
        [b"recent", seconds] if seconds != b"json" => Some((json(), recent::render)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reports_have_tables() {
        let asks = |command: &str| {
            table_for(command.as_bytes()).map(|(asks, _)| String::from_utf8(asks).unwrap())
        };
        assert_eq!(asks(" servers ").as_deref(), Some("overview"));
        assert_eq!(asks("overview").as_deref(), Some("overview"));
        assert_eq!(asks("recent 60 ").as_deref(), Some("recent 60 json"));
        for command in ["servers json", "recent json", "recent 60 json", "mode", "", "servers x"] {
            assert_eq!(asks(command), None, "{command}");
        }
    }
}
