//! Figures and texts of pen as a person reads them. No text that pen sends can move the cursor.

/// Text without characters that move the cursor, end a line or turn the direction of writing.
pub fn shown(text: &str) -> String {
    text.chars().map(|letter| if is_unsafe(letter) { '?' } else { letter }).collect()
}

/// Whether a terminal may obey a character instead of showing it.
fn is_unsafe(letter: char) -> bool {
    match letter {
        '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' => true,
        '\u{feff}' => true,
        letter => letter.is_control(),
    }
}

/// The duration in the largest unit of which there are at least two, rounded to the nearest: a day
/// that has just begun is 24 hours, not 23.
pub fn duration(seconds: u64) -> String {
    let nearest = |unit: u64| seconds.saturating_add(unit / 2) / unit;
    match seconds {
        0..120 => format!("{seconds} s"),
        120..7200 => format!("{} min", nearest(60)),
        7200..172_800 => format!("{} h", nearest(3600)),
        _ => format!("{} d", nearest(86_400)),
    }
}

/// A short time: `870 µs`, `1.25 ms`, `3.10 s`.
pub fn short_time(micros: u64) -> String {
    match micros {
        0..1000 => format!("{micros} µs"),
        1000..1_000_000 => three_digits(micros as f64 / 1e3, "ms"),
        1_000_000..1_000_000_000 => three_digits(micros as f64 / 1e6, "s"),
        _ => duration(micros / 1_000_000),
    }
}

/// Bytes in units of 1000 (IEC 80000-13), with at least three digits from 1000 on.
pub fn bytes(count: u64) -> String {
    const UNITS: [&str; 6] = ["kB", "MB", "GB", "TB", "PB", "EB"];
    if count < 1000 {
        return format!("{count} B");
    }
    scaled(count as f64, &UNITS)
}

/// A number without a unit: as it is below ten thousand, then `12.3 k`.
pub fn amount(count: u64) -> String {
    match count {
        0..10_000 => count.to_string(),
        _ => scaled(count as f64, &["k", "M", "G", "T", "P", "E"]),
    }
}

/// A number per second: `0`, `0.4`, `12`, `12.3 k`.
pub fn rate(per_second: f64) -> String {
    match per_second {
        value if value < 0.05 => "0".to_owned(),
        value if value < 9.95 => format!("{value:.1}"),
        value => amount(value.round() as u64),
    }
}

/// A number of at least 1000, in the largest unit of which there is one.
fn scaled(count: f64, units: &[&str]) -> String {
    let (mut value, mut unit) = (count / 1000.0, 0);
    while value >= 999.5 && unit + 1 < units.len() {
        (value, unit) = (value / 1000.0, unit + 1);
    }
    three_digits(value, units[unit])
}

fn three_digits(value: f64, unit: &str) -> String {
    let digits = if value < 9.995 {
        2
    } else if value < 99.95 {
        1
    } else {
        0
    };
    format!("{value:.digits$} {unit}")
}

/// The part as a percentage of the whole, rounded. `None`: there is no whole.
pub fn percent(part: u64, whole: u64) -> Option<u64> {
    let doubled = part.saturating_mul(100).saturating_add(whole / 2);
    doubled.checked_div(whole)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_are_short() {
        let rows = [
            (0, "0 B"),
            (999, "999 B"),
            (1000, "1.00 kB"),
            (12_345, "12.3 kB"),
            (999_499, "999 kB"),
            (999_500, "1.00 MB"),
        ];
        rows.iter().for_each(|(count, shown)| assert_eq!(bytes(*count), *shown));
        assert_eq!(bytes(u64::MAX), "18.4 EB");
        let rows = [
            (0, "0 s"),
            (119, "119 s"),
            (120, "2 min"),
            (7200, "2 h"),
            (86_399, "24 h"),
            (172_800, "2 d"),
        ];
        rows.iter().for_each(|(seconds, shown)| assert_eq!(duration(*seconds), *shown));
        let rows = [
            (7, "7 µs"),
            (999, "999 µs"),
            (1250, "1.25 ms"),
            (3_100_000, "3.10 s"),
            (1_200_000_000, "20 min"),
        ];
        rows.iter().for_each(|(micros, shown)| assert_eq!(short_time(*micros), *shown));
        let rows =
            [(0.0, "0"), (0.4, "0.4"), (12.4, "12"), (9_999.0, "9999"), (12_300.0, "12.3 k")];
        rows.iter().for_each(|(value, shown)| assert_eq!(rate(*value), *shown));
        assert_eq!(
            (percent(1, 3), percent(0, 0), percent(u64::MAX, 1)),
            (Some(33), None, Some(u64::MAX))
        );
    }

    #[test]
    fn text_cannot_move_the_cursor() {
        assert_eq!(shown("a\u{1b}[2J\nb\u{9b}\u{202e}c\u{7f}ü"), "a?[2J?b??c?ü");
    }
}
