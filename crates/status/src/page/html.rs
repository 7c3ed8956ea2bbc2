//! Writes HTML. Names of elements and attributes are constants of this crate; every value goes
//! through the escape, and there is no other way in.

use std::fmt::{self, Display, Write as _};

/// A document under construction.
pub(super) struct Html(String);

/// The name of an attribute and its value, which is escaped.
pub(super) type Attribute<'a> = (&'static str, &'a dyn Display);

impl Html {
    /// An empty document with room for so many bytes.
    pub(super) fn with_capacity(bytes: usize) -> Html {
        Html(String::with_capacity(bytes))
    }

    /// Markup that is constant. It is the only thing that is not escaped.
    pub(super) fn constant(&mut self, markup: &'static str) {
        self.0.push_str(markup);
    }

    /// A text.
    pub(super) fn text(&mut self, value: impl Display) {
        // A String takes everything.
        let _ = write!(Escape(&mut self.0), "{value}");
    }

    /// An element with a content.
    pub(super) fn element(
        &mut self,
        tag: &'static str,
        attributes: &[Attribute<'_>],
        content: impl FnOnce(&mut Html),
    ) {
        self.begin(tag, attributes);
        content(self);
        self.0.push_str("</");
        self.0.push_str(tag);
        self.0.push('>');
    }

    /// An element of a class with a text.
    pub(super) fn words(&mut self, tag: &'static str, class: &'static str, text: impl Display) {
        let class: &[Attribute<'_>] = if class.is_empty() { &[] } else { &[("class", &class)] };
        self.element(tag, class, |html| html.text(text));
    }

    /// An element that has no content and no end tag: `meta`, `link`.
    pub(super) fn begin(&mut self, tag: &'static str, attributes: &[Attribute<'_>]) {
        self.0.push('<');
        self.0.push_str(tag);
        for (name, value) in attributes {
            self.0.push(' ');
            self.0.push_str(name);
            self.0.push_str("=\"");
            let _ = write!(Escape(&mut self.0), "{value}");
            self.0.push('"');
        }
        self.0.push('>');
    }

    /// The document.
    pub(super) fn finish(self) -> String {
        self.0
    }
}

/// Writes a value so that it is neither markup nor ends an attribute. Control characters and those
/// that turn the direction of the text around become U+FFFD: they would change how others look.
struct Escape<'a>(&'a mut String);

impl fmt::Write for Escape<'_> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        let mut rest = text;
        while let Some(at) = rest.find(is_special) {
            let (plain, special) = rest.split_at(at);
            self.0.push_str(plain);
            let mut characters = special.chars();
            self.0.push_str(characters.next().map_or("", replacement));
            rest = characters.as_str();
        }
        self.0.push_str(rest);
        Ok(())
    }
}

fn is_special(character: char) -> bool {
    matches!(character, '&' | '<' | '>' | '"' | '\'') || hides_others(character)
}

fn hides_others(character: char) -> bool {
    character.is_control()
        || matches!(character, '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{2028}' | '\u{2029}')
        || matches!(character, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

fn replacement(special: char) -> &'static str {
    match special {
        '&' => "&amp;",
        '<' => "&lt;",
        '>' => "&gt;",
        '"' => "&quot;",
        '\'' => "&#39;",
        _ => "\u{fffd}",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_value_becomes_markup() {
        let mut html = Html::with_capacity(0);
        let hostile = "</td><script>alert('1')</script>&amp;\" onload=\"x";
        html.element("td", &[("title", &hostile)], |html| html.text(hostile));
        let escaped = "&lt;/td&gt;&lt;script&gt;alert(&#39;1&#39;)&lt;/script&gt;&amp;amp;&quot; \
                       onload=&quot;x";
        assert_eq!(html.finish(), format!("<td title=\"{escaped}\">{escaped}</td>"));
    }

    #[test]
    fn characters_that_change_others_are_replaced() {
        let mut html = Html::with_capacity(0);
        html.text("a\0b\u{202e}c\nd\u{2066}é\u{85}");
        assert_eq!(html.finish(), "a\u{fffd}b\u{fffd}c\u{fffd}d\u{fffd}é\u{fffd}");
    }
}
