//! Texts for system errors.

#![forbid(unsafe_code)]

use std::io;

use nix::errno::Errno;

/// The text for an error: lower case, without Rust's "(os error 13)".
pub(crate) fn why(error: &io::Error) -> String {
    match error.raw_os_error() {
        Some(number) => errno(number),
        None => error.to_string(),
    }
}

/// The text for an errno. An unknown number, which a worker may send, is shown as a number.
pub(crate) fn errno(number: i32) -> String {
    match Errno::from_raw(number) {
        Errno::EADDRINUSE => "address in use".into(),
        Errno::ENOENT => "no such file or directory".into(),
        Errno::UnknownErrno => format!("error {number}"),
        known => lower_first(known.desc()),
    }
}

/// Makes the first letter small, so that the text fits into a sentence. An abbreviation ("I/O
/// error") stays as it is.
fn lower_first(text: &str) -> String {
    let mut letters = text.chars();
    match (letters.next(), letters.next()) {
        (Some(first), Some(second)) if second.is_lowercase() => {
            first.to_lowercase().chain(text.chars().skip(1)).collect()
        }
        _ => text.into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn system_errors_read_as_part_of_a_sentence() {
        assert_eq!(why(&io::Error::from_raw_os_error(libc::EACCES)), "permission denied");
        assert_eq!(why(&io::Error::from_raw_os_error(libc::EADDRINUSE)), "address in use");
        assert_eq!(why(&io::Error::from_raw_os_error(libc::EIO)), "I/O error");
        assert_eq!(why(&io::Error::other("odd")), "odd");
        assert_eq!(errno(-7), "error -7");
    }
}
