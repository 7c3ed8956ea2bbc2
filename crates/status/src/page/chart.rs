//! Lines and bars as inline SVG. What they show is also said in words.

use std::fmt::{Display, Write as _};

use crate::page::html::Html;

/// The width of a line between two periods, and the height, in units of the drawing.
const STEP: i64 = 2;
const HEIGHT: f64 = 30.0;

/// A line of the last minutes with the area below it. `most` is the value at the upper edge.
pub(super) fn line(
    html: &mut Html,
    class: &'static str,
    values: &[Option<f64>],
    most: f64,
    label: &dyn Display,
) {
    let view = format!("0 0 {} {HEIGHT}", width(values.len()));
    let role: (&str, &dyn Display) = ("role", &"img");
    html.element(
        "svg",
        &[("class", &class), ("viewBox", &view), STRETCHED, role, ("aria-label", label)],
        |html| {
            // It goes back beyond the edges, where nobody sees its outline.
            let begin = STEP * values.iter().take_while(|value| value.is_none()).count() as i64;
            let path = path(begin, values, most);
            let close = format_args!("{path}h9V40H{}V29z", begin - 9);
            html.element("path", &[("d", &close)], |_| ());
        },
    );
}

/// A bar: how much of a limit is used. It is decoration: the text beside it says the same.
pub(super) fn bar(html: &mut Html, used: u64, limit: u64) {
    let share = if limit == 0 { 0.0 } else { used as f64 / limit as f64 };
    let class = match share {
        share if share >= 1.0 => "bar full",
        share if share >= 0.9 => "bar high",
        _ => "bar",
    };
    let width = (share.min(1.0) * 100.0).round();
    let frame = [("class", &class as &dyn Display), VIEW_100, STRETCHED, HIDDEN];
    html.element("svg", &frame, |html| {
        html.constant("<rect class=\"rail\" width=\"100\" height=\"4\"/>");
        html.element("rect", &[("width", &width), ("height", &4)], |_| ());
    });
}

/// A bar of parts, each with its class. It is decoration, too.
pub(super) fn parts(html: &mut Html, parts: &[(&'static str, u64)]) {
    let all: u64 = parts.iter().map(|(_, part)| part).sum();
    let frame = [("class", &"parts" as &dyn Display), VIEW_100, STRETCHED, HIDDEN];
    html.element("svg", &frame, |html| {
        let mut from = 0.0;
        for (class, part) in parts {
            let width = *part as f64 * 100.0 / all.max(1) as f64;
            let x = format!("{from:.2}");
            let width_text = format!("{width:.2}");
            html.element(
                "rect",
                &[("class", class), ("x", &x), ("width", &width_text), ("height", &4)],
                |_| (),
            );
            from += width;
        }
    });
}

const VIEW_100: (&str, &dyn Display) = ("viewBox", &"0 0 100 4");
const STRETCHED: (&str, &dyn Display) = ("preserveAspectRatio", &"none");
const HIDDEN: (&str, &dyn Display) = ("aria-hidden", &"true");

fn width(values: usize) -> i64 {
    STEP * (values as i64 - 1).max(1)
}

/// The path of a line, in relative steps, which are short. Equal values are one step. It begins
/// with the first value.
fn path(begin: i64, values: &[Option<f64>], most: f64) -> String {
    let level = |value: &f64| {
        let share = if most > 0.0 { (value / most).clamp(0.0, 1.0) } else { 0.0 };
        // One unit at each edge is for the width of the line.
        (HEIGHT - 1.0 - share * (HEIGHT - 2.0)).round() as i64
    };
    let mut levels = values.iter().flatten().map(level);
    let mut at = levels.next().unwrap_or(HEIGHT as i64 - 1);
    let mut path = format!("M{begin} {at}");
    let mut flat = 0;
    for next in levels {
        if next == at {
            flat += STEP;
            continue;
        }
        flush(&mut path, &mut flat);
        // A String takes everything. A minus separates by itself.
        let space = if next > at { " " } else { "" };
        let _ = write!(path, "l{STEP}{space}{}", next - at);
        at = next;
    }
    flush(&mut path, &mut flat);
    path
}

fn flush(path: &mut String, flat: &mut i64) {
    if *flat > 0 {
        let _ = write!(path, "h{flat}");
        *flat = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_goes_from_edge_to_edge() {
        let path = |values: &[f64], most| {
            let values: Vec<Option<f64>> = values.iter().copied().map(Some).collect();
            path(0, &values, most)
        };
        assert_eq!(path(&[0.0, 0.0, 10.0, 5.0, 5.0, 5.0], 10.0), "M0 29h2l2-28l2 14h4");
        assert_eq!(path(&[0.0; 60], 0.0), "M0 29h118");
        assert_eq!(path(&[3.0], 3.0), "M0 1");
        assert_eq!(path(&[], 1.0), "M0 29");
        assert_eq!(path(&[f64::NAN, 20.0], 10.0), "M0 0l2 1");
    }

    #[test]
    fn a_line_begins_where_there_is_something() {
        let mut html = Html::with_capacity(0);
        line(&mut html, "line", &[None, None, Some(0.0), Some(1.0)], 1.0, &"<");
        assert_eq!(
            html.finish(),
            "<svg class=\"line\" viewBox=\"0 0 6 30\" preserveAspectRatio=\"none\" role=\"img\" \
             aria-label=\"&lt;\"><path d=\"M4 29l2-28h9V40H-5V29z\"></path></svg>"
        );
    }
}
