//! What another release does, as words at the end of its file.
//!
//! A successor has neither an environment nor arguments of the test's. Words in its own file reach
//! it in every process, and stay true for it when the next file has taken its place.

/// What stands before the words.
const MARK: &str = "\n-- the behaviour for a test: ";

/// Most bytes of the words and the mark.
const MOST: usize = 4096;

/// The end of a file with these words.
#[allow(dead_code, reason = "the program only reads them")]
pub fn trailer(words: &str) -> String {
    let trailer = format!("{MARK}{words}\n");
    assert!(trailer.len() < MOST);
    trailer
}

/// The words of the program that runs.
#[allow(dead_code, reason = "the tests only write them")]
pub fn read() -> Vec<&'static str> {
    use std::io::{Read, Seek, SeekFrom};
    let mut file = std::fs::File::open("/proc/self/exe").unwrap();
    file.seek(SeekFrom::End(-(MOST as i64))).unwrap();
    let mut end = Vec::new();
    file.read_to_end(&mut end).unwrap();
    let end = String::from_utf8_lossy(&end).into_owned().leak();
    let (_, words) = end.rsplit_once(MARK).expect("only the tests run this program");
    words.trim_end().split(' ').collect()
}
