//! Makes lines of the pieces that a connection brings.

use std::io;

/// Longest line in bytes. The rest of a longer one is omitted.
const LONGEST: usize = 65_536;

/// The line that has begun.
#[derive(Default)]
pub struct Lines {
    begun: Vec<u8>,
}

impl Lines {
    /// Takes a piece, and passes on each line that it ends, without its line end.
    pub fn take(
        &mut self,
        piece: &[u8],
        print: &mut dyn FnMut(&[u8]) -> io::Result<()>,
    ) -> io::Result<()> {
        for part in piece.split_inclusive(|byte| *byte == b'\n') {
            let (text, ends) = match part.strip_suffix(b"\n") {
                Some(text) => (text, true),
                None => (part, false),
            };
            let room = LONGEST.saturating_sub(self.begun.len());
            self.begun.extend_from_slice(&text[..text.len().min(room)]);
            if ends {
                print(&self.begun)?;
                self.begun.clear();
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_whole_however_they_are_cut_and_have_a_bound() {
        let mut lines = Lines::default();
        let mut got = Vec::new();
        let mut take = |piece: &[u8]| {
            let mut print = |line: &[u8]| {
                got.push(String::from_utf8(line.to_vec()).unwrap());
                Ok(())
            };
            lines.take(piece, &mut print).unwrap();
        };
        ["a", "b\nc", "\n\nd\n", "rest"].iter().for_each(|piece| take(piece.as_bytes()));
        (0..3).for_each(|_| take(&[b'x'; LONGEST]));
        take(b"\nend\n");
        assert_eq!(got[..4], ["ab", "c", "", "d"]);
        assert_eq!((got[4].len(), got[5].as_str()), (LONGEST, "end"));
    }
}
