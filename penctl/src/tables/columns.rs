//! The width of the terminal, and the fitting of text into it. The unit is characters; each takes
//! one column.

use std::io;

/// The number of columns that a line may have.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Width {
    /// Any number.
    Any,
    /// At most this number, which is at least one.
    Columns(usize),
}

impl Width {
    /// The width of the terminal on standard output. No width, or 0, means any width.
    pub fn of_terminal() -> Width {
        let size = rustix::termios::tcgetwinsize(io::stdout());
        size.map_or(Width::Any, |size| match usize::from(size.ws_col) {
            0 => Width::Any,
            columns => Width::Columns(columns),
        })
    }

    /// Whether this number of columns fits.
    pub fn holds(self, columns: usize) -> bool {
        match self {
            Width::Any => true,
            Width::Columns(most) => columns <= most,
        }
    }

    /// The number of columns after the used ones. `None`: any number.
    pub fn left(self, used: usize) -> Option<usize> {
        match self {
            Width::Any => None,
            Width::Columns(most) => Some(most.saturating_sub(used)),
        }
    }
}

/// The text, cut to this number of columns. A mark shows that text is missing.
pub fn cut(text: &str, columns: usize) -> String {
    if text.chars().count() <= columns {
        return text.to_owned();
    }
    let kept = text.chars().take(columns.saturating_sub(1));
    if columns == 0 { String::new() } else { kept.chain(['~']).collect() }
}

/// Puts the pieces on as few lines as the width allows, with a space between two pieces.
pub fn fold(pieces: impl IntoIterator<Item = String>, room: Width) -> String {
    let mut text = String::new();
    let mut used = 0;
    for piece in pieces {
        let piece = room.left(0).map_or(piece.clone(), |left| cut(&piece, left));
        let length = piece.chars().count();
        if used > 0 {
            let fits = room.holds(used + 1 + length);
            text.push(if fits { ' ' } else { '\n' });
            used = if fits { used + 1 } else { 0 };
        }
        text.push_str(&piece);
        used += length;
    }
    text + "\n"
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_cut_ends_with_a_mark() {
        for (columns, shown) in
            [(9, "address"), (7, "address"), (6, "addre~"), (2, "a~"), (1, "~"), (0, "")]
        {
            assert_eq!(cut("address", columns), shown, "{columns}");
        }
        assert_eq!(cut("überlang", 3), "üb~");
    }

    #[test]
    fn pieces_stay_whole_where_they_can() {
        let folded = |columns: usize| {
            fold(["one two", "three", "4"].map(str::to_owned), Width::Columns(columns))
        };
        assert_eq!(folded(99), "one two three 4\n");
        assert_eq!(folded(13), "one two three\n4\n");
        assert_eq!(folded(7), "one two\nthree 4\n");
        assert_eq!(folded(4), "one~\nthr~\n4\n");
        assert_eq!(fold(["a".to_owned()], Width::Any), "a\n");
    }
}
