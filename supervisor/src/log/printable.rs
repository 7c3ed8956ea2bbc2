//! Texts from other processes, made safe for a terminal and a log.

#![forbid(unsafe_code)]

/// Text from a process, made safe for a terminal and a log: one line of bounded length.
pub(crate) fn printable(text: &str) -> String {
    let clean = |letter: char| if letter.is_control() { '.' } else { letter };
    text.chars().take(LONGEST_LINE).map(clean).collect()
}

/// Lines from a process, made safe for a terminal.
pub(crate) fn printable_lines(text: &str) -> String {
    let clean = |letter: char| if letter.is_control() && letter != '\n' { '.' } else { letter };
    let mut lines: String = text.chars().map(clean).collect();
    if !lines.ends_with('\n') {
        lines.push('\n');
    }
    lines
}

/// The most characters of a line.
const LONGEST_LINE: usize = 500;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_workers_words_are_made_harmless() {
        assert_eq!(printable("a\nb\x1b[2J"), "a.b.[2J");
        assert_eq!(printable(&"x".repeat(10_000)).len(), LONGEST_LINE);
        assert_eq!(printable_lines("a\nb\x1b[2J\r\u{9b}"), "a\nb.[2J..\n");
        assert_eq!(printable_lines("a\n"), "a\n");
    }
}
