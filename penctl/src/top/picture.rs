//! Makes docs/images/top.svg, the picture of the live view, from the frame of an example.
//! `UPDATE_DOCS=1 cargo test -p penctl picture` makes it anew.

use std::fmt::Write;
use std::fs;
use std::path::Path;

use ratatui::buffer::{Buffer, Cell};
use ratatui::style::{Color, Modifier};

use super::tests::{COLOURS, frame, view};

/// The size of a cell, and the place of the text in it, in pixels.
const CELL: (f64, f64) = (8.4, 18.0);
const BASELINE: f64 = 13.5;

/// The space around the cells.
const MARGIN: f64 = 14.0;

const BACKGROUND: &str = "#16181d";
const FOREGROUND: &str = "#d7dae0";

/// The picture of a frame.
fn svg(buffer: &Buffer) -> String {
    let (columns, rows) = (f64::from(buffer.area.width), f64::from(buffer.area.height));
    let (width, height) = (columns * CELL.0 + 2.0 * MARGIN, rows * CELL.1 + 2.0 * MARGIN);
    let mut text = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{width:.0}\" height=\"{height:.0}\" \
         viewBox=\"0 0 {width:.0} {height:.0}\" role=\"img\" \
         aria-label=\"penctl top: connections, servers and events\">\n\
         <rect width=\"100%\" height=\"100%\" rx=\"8\" fill=\"{BACKGROUND}\"/>\n\
         <g font-family=\"ui-monospace, 'DejaVu Sans Mono', Menlo, Consolas, monospace\" \
         font-size=\"14\" fill=\"{FOREGROUND}\">\n"
    );
    for (row, cells) in buffer.content.chunks(usize::from(buffer.area.width)).enumerate() {
        let mut begin = 0;
        for run in cells.chunk_by(|one, next| style(one) == style(next)) {
            let length: f64 = f64::from(u16::try_from(run.len()).unwrap_or(u16::MAX)) * CELL.0;
            let left = MARGIN + begin as f64 * CELL.0;
            let top = MARGIN + row as f64 * CELL.1;
            draw_run(&mut text, run, (left, top), length);
            begin += run.len();
        }
    }
    text + "</g>\n</svg>\n"
}

/// Draws cells of one style.
fn draw_run(to: &mut String, run: &[Cell], (left, top): (f64, f64), length: f64) {
    let content: String = run.iter().map(|cell| cell.symbol()).collect();
    let (colour, modifier) = style(&run[0]);
    let is_reversed = modifier.contains(Modifier::REVERSED);
    if is_reversed {
        let fill = hex(colour);
        let height = CELL.1;
        let _ = writeln!(
            to,
            "<rect x=\"{left:.1}\" y=\"{top:.1}\" width=\"{length:.1}\" height=\"{height}\" \
             fill=\"{fill}\"/>"
        );
    }
    if content.trim().is_empty() {
        return;
    }
    // Blocks are drawn, since a font may leave gaps between them.
    if content.trim_end().chars().all(|letter| eighths(letter).is_some()) {
        for (index, letter) in content.chars().enumerate() {
            draw_block(to, letter, (left + index as f64 * CELL.0, top), hex(colour));
        }
        return;
    }
    let fill = if is_reversed { BACKGROUND } else { hex(colour) };
    let mut attributes = format!("fill=\"{fill}\"");
    if modifier.contains(Modifier::BOLD) {
        attributes.push_str(" font-weight=\"bold\"");
    }
    if modifier.contains(Modifier::UNDERLINED) {
        attributes.push_str(" text-decoration=\"underline\"");
    }
    let before = content.chars().take_while(|letter| *letter == ' ').count();
    let left = left + before as f64 * CELL.0;
    let content = content.trim();
    let length = content.chars().count() as f64 * CELL.0;
    // Several spaces would become one.
    let escaped = content.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;");
    let escaped = escaped.replace("  ", "\u{a0} ");
    let base = top + BASELINE;
    let _ = writeln!(
        to,
        "<text x=\"{left:.1}\" y=\"{base:.1}\" textLength=\"{length:.1}\" {attributes}>\
         {escaped}</text>"
    );
}

/// The part of a cell that a block fills: of its height, or of its width.
fn eighths(letter: char) -> Option<(u32, u32)> {
    match letter {
        ' ' => Some((0, 0)),
        '▁'..='█' => Some((letter as u32 - '▁' as u32 + 1, 8)),
        '▉'..='▏' => Some((8, '▏' as u32 - letter as u32 + 1)),
        _ => None,
    }
}

fn draw_block(to: &mut String, letter: char, (left, top): (f64, f64), fill: &str) {
    let Some((high, wide)) = eighths(letter).filter(|(high, _)| *high > 0) else { return };
    // A bar and a line leave a gap to the row above.
    let height = (CELL.1 - 4.0) * f64::from(high) / 8.0;
    let width = CELL.0 * f64::from(wide) / 8.0 + 0.3;
    let top = top + CELL.1 - 2.0 - height;
    let _ = writeln!(
        to,
        "<rect x=\"{left:.1}\" y=\"{top:.1}\" width=\"{width:.1}\" height=\"{height:.1}\" \
         fill=\"{fill}\"/>"
    );
}

fn style(cell: &Cell) -> (Color, Modifier) {
    (cell.fg, cell.modifier)
}

/// The colour on a dark terminal.
fn hex(colour: Color) -> &'static str {
    match colour {
        Color::Green => "#7bc275",
        Color::Yellow => "#e0b450",
        Color::Red => "#f2777a",
        Color::Cyan => "#6cc3d5",
        Color::DarkGray => "#7d8590",
        _ => FOREGROUND,
    }
}

#[test]
fn the_picture_is_a_frame_of_this_program() {
    let (mut model, _) = view();
    let picture = svg(&frame(&mut model, (118, 20), COLOURS));
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/images/top.svg");
    if std::env::var_os("UPDATE_DOCS").is_some() {
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, &picture).unwrap();
    }
    let committed = fs::read_to_string(&path).unwrap_or_default();
    assert!(
        committed == picture,
        "docs/images/top.svg is another: UPDATE_DOCS=1 cargo test -p penctl picture"
    );
}
