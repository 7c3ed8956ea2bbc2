//! Colours and characters of a frame. A colour never says something alone.

use ratatui::style::{Color, Modifier, Style};

use pen_status::CheckState;

use crate::overview::{Health, Server};
use crate::tables::Paint;
use crate::top::model::Tone;

/// What the terminal can show.
#[derive(Clone, Copy, Debug)]
pub struct Look {
    pub paint: Paint,
    pub glyphs: Glyphs,
}

/// The characters of bars and lines.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Glyphs {
    /// Block elements.
    Blocks,
    /// ASCII, for a terminal that has no others.
    Ascii,
}

impl Glyphs {
    /// The choice by the environment: the locale must be of UTF-8. The font of the kernel's own
    /// terminal lacks most of the blocks.
    pub fn wanted() -> Glyphs {
        let set = |name: &&str| std::env::var(name).ok().filter(|value| !value.is_empty());
        let locale = ["LC_ALL", "LC_CTYPE", "LANG"].iter().find_map(set).unwrap_or_default();
        let is_utf8 = matches!(locale.rsplit('.').next(), Some(charset)
            if charset.eq_ignore_ascii_case("utf-8") || charset.eq_ignore_ascii_case("utf8"));
        match is_utf8 && std::env::var("TERM").as_deref() != Ok("linux") {
            true => Glyphs::Blocks,
            false => Glyphs::Ascii,
        }
    }

    /// A bar that is filled to this share of its columns.
    pub fn bar(self, share: f64, columns: usize) -> (String, String) {
        let share = share.clamp(0.0, 1.0);
        let (full, rest, empty) = match self {
            Glyphs::Blocks => {
                const PARTS: [&str; 8] = ["", "▏", "▎", "▍", "▌", "▋", "▊", "▉"];
                let eighths = (share * columns as f64 * 8.0).round() as usize;
                (eighths / 8, PARTS[eighths % 8], "·")
            }
            Glyphs::Ascii => ((share * columns as f64).round() as usize, "", "."),
        };
        // A little is more than nothing.
        let is_little = share > 0.0 && full == 0 && rest.is_empty();
        let block = if self == Glyphs::Blocks { "█" } else { "#" };
        let filled = match is_little {
            true => if self == Glyphs::Blocks { "▏" } else { "#" }.to_owned(),
            false => block.repeat(full) + rest,
        };
        let left = columns.saturating_sub(filled.chars().count());
        (filled, empty.repeat(left))
    }

    /// The values as a line of columns, the last one at the right. The highest column is `most`.
    pub fn line(self, values: &[u64], most: u64, columns: usize) -> String {
        const BLOCKS: [char; 9] = [' ', '▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];
        const ASCII: [char; 9] = [' ', '.', '.', ':', ':', '-', '=', '+', '#'];
        let levels = match self {
            Glyphs::Blocks => BLOCKS,
            Glyphs::Ascii => ASCII,
        };
        let level = |value: &u64| match (*value, most) {
            (0, _) | (_, 0) => levels[0],
            (value, most) => {
                let share = value.min(most) as f64 / most as f64;
                levels[((share * 8.0).round() as usize).clamp(1, 8)]
            }
        };
        let shown = grouped(values, columns);
        let gap = " ".repeat(columns.saturating_sub(shown.len()));
        gap + &shown.iter().map(level).collect::<String>()
    }

    /// The direction of an order.
    pub fn arrow(self, direction: super::super::order::Direction) -> &'static str {
        use super::super::order::Direction;
        match (self, direction) {
            (Glyphs::Blocks, Direction::Up) => "▲",
            (Glyphs::Blocks, Direction::Down) => "▼",
            (Glyphs::Ascii, Direction::Up) => "^",
            (Glyphs::Ascii, Direction::Down) => "v",
        }
    }
}

/// The values as at most so many sums of neighbours; the last sums are complete.
pub fn grouped(values: &[u64], columns: usize) -> Vec<u64> {
    let size = values.len().div_ceil(columns.max(1)).max(1);
    let sum = |group: &[u64]| group.iter().fold(0, |sum: u64, value| sum.saturating_add(*value));
    let mut sums: Vec<u64> = values.rchunks(size).map(sum).collect();
    // The oldest group may lack values, and would look like a fall.
    if !values.len().is_multiple_of(size) {
        sums.pop();
    }
    sums.reverse();
    sums
}

impl Look {
    fn coloured(self, colour: Color) -> Style {
        match self.paint {
            Paint::Colours => Style::new().fg(colour),
            Paint::Plain => Style::new(),
        }
    }

    pub fn plain(self) -> Style {
        Style::new()
    }

    pub fn strong(self) -> Style {
        Style::new().add_modifier(Modifier::BOLD)
    }

    /// What is less important.
    pub fn faint(self) -> Style {
        self.coloured(Color::DarkGray)
    }

    pub fn title(self) -> Style {
        self.coloured(Color::Cyan).add_modifier(Modifier::BOLD)
    }

    pub fn selected(self) -> Style {
        Style::new().add_modifier(Modifier::REVERSED)
    }

    pub fn good(self) -> Style {
        self.coloured(Color::Green)
    }

    pub fn warning(self) -> Style {
        self.coloured(Color::Yellow)
    }

    pub fn bad(self) -> Style {
        self.coloured(Color::Red).add_modifier(Modifier::BOLD)
    }

    pub fn health(self, health: Health) -> Style {
        match health {
            Health::Good => self.good(),
            Health::Full | Health::Out => self.warning(),
            Health::Failed => self.bad(),
            Health::Vacant => self.faint(),
        }
    }

    /// The colour of what the check of a server says.
    pub fn check(self, server: &Server) -> Style {
        match server.check.as_ref().map(|check| check.verdict) {
            Some(CheckState::Up) => self.good(),
            Some(CheckState::Down) => self.bad(),
            Some(CheckState::Unknown) | None => self.faint(),
        }
    }

    pub fn tone(self, tone: Tone) -> Style {
        match tone {
            Tone::Plain => self.plain(),
            Tone::Good => self.good(),
            Tone::Bad => self.bad(),
        }
    }

    /// The colour of a bar: a full one needs attention.
    pub fn usage(self, share: f64) -> Style {
        match share {
            share if share >= 1.0 => self.bad(),
            share if share >= 0.8 => self.warning(),
            _ => self.good(),
        }
    }

    /// The colour of an event by its kind. A kind that this program does not know has none.
    pub fn event(self, kind: &str) -> Style {
        match kind {
            "server_down" | "worker_died" | "reload_failed" | "upgrade_failed" | "unserved"
            | "shortage" | "log_lost" => self.bad(),
            "server_passed_over"
            | "server_limit"
            | "connections_limit"
            | "server_state"
            | "certificate_expires" => self.warning(),
            "server_up" | "server_drained" | "worker_replaced" | "reloaded" | "upgraded"
            | "started" => self.good(),
            _ => self.plain(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bar_shows_its_share() {
        let bar = |glyphs: Glyphs, share: f64| {
            let (filled, empty) = glyphs.bar(share, 4);
            filled + &empty
        };
        for (share, blocks, ascii) in [
            (0.0, "····", "...."),
            (0.001, "▏···", "#..."),
            (0.5, "██··", "##.."),
            (0.6, "██▍·", "##.."),
            (1.0, "████", "####"),
            (7.0, "████", "####"),
        ] {
            assert_eq!(
                (bar(Glyphs::Blocks, share), bar(Glyphs::Ascii, share)),
                (blocks.into(), ascii.into())
            );
        }
    }

    #[test]
    fn a_line_ends_now() {
        let line = |values: &[u64], columns| Glyphs::Blocks.line(values, 8, columns);
        assert_eq!(line(&[1, 0, 8], 5), "  ▁ █");
        assert_eq!(line(&[9, 1, 1, 2, 2, 4, 4], 3), " ▄█");
        assert_eq!(line(&[], 2), "  ");
        assert_eq!(Glyphs::Ascii.line(&[0, 1, 8], 0, 3), "   ");
        assert_eq!(grouped(&[1, 2, 3, 4, 5], 2), [12], "the older group is not whole");
    }
}
