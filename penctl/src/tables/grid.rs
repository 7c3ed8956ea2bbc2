//! Rows and columns that fit the terminal: columns are omitted in a fixed order until all lines
//! fit.

use super::{Paint, Width, cut};
use crate::overview::Health;

/// The gap between two columns.
const GAP: &str = "  ";

/// A table whose rows have `N` cells.
pub struct Grid<'t, const N: usize> {
    pub titles: [&'t str; N],
    /// The columns that are aligned to the right.
    pub figures: &'t [usize],
    /// The choices of columns: the first that fits is used.
    pub layouts: Vec<Vec<usize>>,
    /// The column that is cut if even the last choice is too wide.
    pub cut: usize,
    /// The columns that have the colour of their row.
    pub painted: &'t [usize],
}

/// A line of a [`Grid`].
pub struct Row<const N: usize> {
    pub health: Health,
    pub cells: [String; N],
}

impl<const N: usize> Grid<'_, N> {
    /// The titles and the rows, each with its line end.
    pub fn lines(&self, rows: &[Row<N>], paint: Paint, room: Width) -> String {
        let mut widths: [usize; N] = std::array::from_fn(|column| {
            let cells = rows.iter().map(|row| row.cells[column].chars().count());
            cells.chain([self.titles[column].chars().count()]).max().unwrap_or(0)
        });
        let taken = |columns: &[usize]| -> usize {
            let gaps = GAP.len() * columns.len().saturating_sub(1);
            columns.iter().map(|column| widths[*column]).sum::<usize>() + gaps
        };
        let fitting = self.layouts.iter().find(|columns| room.holds(taken(columns)));
        let Some(columns) = fitting.or(self.layouts.last()) else { return String::new() };
        let others = taken(columns) - widths[self.cut];
        if let Some(left) = room.left(others) {
            let least = self.titles[self.cut].chars().count();
            widths[self.cut] = left.clamp(least, widths[self.cut]);
        }
        let cell = |column: usize, text: &str| {
            let text = cut(text, widths[column]);
            let gap = " ".repeat(widths[column].saturating_sub(text.chars().count()));
            if self.figures.contains(&column) { gap + &text } else { text + &gap }
        };
        let line = |of: &dyn Fn(usize) -> String, paint: &dyn Fn(usize, &str) -> String| {
            let mut text = String::new();
            let mut used = 0;
            for column in columns {
                let gap = if used == 0 { "" } else { GAP };
                let cell = of(*column);
                let cell =
                    room.left(used + gap.len()).map_or(cell.clone(), |left| cut(&cell, left));
                if cell.is_empty() && used > 0 {
                    break;
                }
                used += gap.len() + cell.chars().count();
                text.extend([gap, &paint(*column, &cell)]);
            }
            text.trim_end().to_owned() + "\n"
        };
        let mut text =
            line(&|column| cell(column, self.titles[column]), &|_, text| text.to_owned());
        for row in rows {
            let paint = |column: usize, text: &str| match self.painted.contains(&column) {
                true => paint.on(row.health, text),
                false => text.to_owned(),
            };
            text.push_str(&line(&|column| cell(column, &row.cells[column]), &paint));
        }
        text
    }
}
