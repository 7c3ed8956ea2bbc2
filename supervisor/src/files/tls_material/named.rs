//! The directory of certificates by server name: which entries are files for a name, and which are
//! not.

#![forbid(unsafe_code)]

use std::ffi::{OsStr, OsString};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use pen_ipc::text::error_text;
use pen_ipc::tls_files::NamedRole;
use pen_walk as walk;
use rustix::fs::Dir;

/// The entries of the directory.
#[derive(Debug, Default)]
pub(in crate::files::tls_material) struct Listing {
    /// The files for names: path, server name in lower case, role. They are sorted by path, and
    /// their number is limited.
    pub(in crate::files::tls_material) files: Vec<(PathBuf, String, NamedRole)>,
    /// The number of all files for names.
    pub(in crate::files::tls_material) found: usize,
    /// The number of entries that have the extension of such a file, but no server name before it.
    nameless: usize,
    /// The first of these entries.
    example: Option<OsString>,
}

impl Listing {
    /// Reads the directory and keeps at most `most` files for names. Other entries use no memory.
    ///
    /// # Errors
    /// The directory cannot be read.
    pub(in crate::files::tls_material) fn read(
        directory: &Path,
        most: usize,
    ) -> Result<Listing, String> {
        let at = |error: io::Error| format!("{}: {}", directory.display(), error_text(&error));
        let mut listing = Listing::default();
        let entries =
            walk::list(directory).and_then(|directory| Ok(Dir::new(directory)?)).map_err(at)?;
        for entry in entries {
            let entry = entry.map_err(|errno| at(errno.into()))?;
            let file = OsStr::from_bytes(entry.file_name().to_bytes()).to_os_string();
            match server_name(&file) {
                NamedEntry::Named(name, role) => {
                    listing.found += 1;
                    if listing.files.len() < most {
                        listing.files.push((directory.join(&file), name, role));
                    }
                }
                NamedEntry::Nameless => {
                    listing.nameless += 1;
                    listing.example.get_or_insert(file);
                }
                NamedEntry::Other => {}
            }
        }
        listing.files.sort_by(|(one, ..), (other, ..)| one.cmp(other));
        Ok(listing)
    }

    /// A notice about entries that are ignored.
    pub(in crate::files::tls_material) fn notice(&self, directory: &Path) -> Option<String> {
        if let Some(example) = &self.example {
            return Some(format!(
                "{}: {} files are called after no server name and are not used, for example {:?}",
                directory.display(),
                self.nameless,
                example
            ));
        }
        let nothing =
            "no file is called NAME.crt; all names are served with the default certificate";
        (self.found == 0).then(|| format!("{}: {nothing}", directory.display()))
    }
}

/// The meaning of an entry's name.
#[derive(Debug, Eq, PartialEq)]
enum NamedEntry {
    /// A file for this server name, in lower case.
    Named(String, NamedRole),
    /// It has the extension of such a file, but the text before it is no server name.
    Nameless,
    /// Anything else.
    Other,
}

fn server_name(file: &OsStr) -> NamedEntry {
    let path = Path::new(file);
    let role = match path.extension().and_then(OsStr::to_str) {
        Some("crt") => NamedRole::Certificate,
        Some("key") => NamedRole::Key,
        Some("ca") => NamedRole::Authorities,
        Some("ocsp") => NamedRole::Ocsp,
        Some(_) | None => return NamedEntry::Other,
    };
    let Some(name) = path.file_stem().and_then(OsStr::to_str) else { return NamedEntry::Nameless };
    let plain = name.strip_prefix("*.").unwrap_or(name);
    let is_name = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
    match !plain.is_empty() && plain.bytes().all(is_name) {
        true => NamedEntry::Named(name.to_ascii_lowercase(), role),
        false => NamedEntry::Nameless,
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn only_server_names_with_a_known_extension_are_files_of_a_name() {
        let named = |name: &str, role| NamedEntry::Named(name.into(), role);
        let rows = [
            ("WWW.example.crt", named("www.example", NamedRole::Certificate)),
            ("*.example.key", named("*.example", NamedRole::Key)),
            ("a_b-c.ca", named("a_b-c", NamedRole::Authorities)),
            ("one.ocsp", named("one", NamedRole::Ocsp)),
            ("www.Example.CRT", NamedEntry::Other),
            ("README", NamedEntry::Other),
            (".crt", NamedEntry::Other),
            ("one.pem", NamedEntry::Other),
            ("a b.crt", NamedEntry::Nameless),
            ("x.*.crt", NamedEntry::Nameless),
            ("münchen.example.key", NamedEntry::Nameless),
        ];
        for (file, entry) in rows {
            assert_eq!(server_name(OsStr::new(file)), entry, "{file}");
        }
    }

    #[test]
    fn a_listing_counts_what_it_does_not_keep() {
        let directory = tempfile::tempdir().unwrap();
        assert!(
            Listing::read(directory.path(), 9)
                .unwrap()
                .notice(directory.path())
                .unwrap()
                .contains("NAME.crt")
        );
        for n in 0..20 {
            fs::write(directory.path().join(format!("n{n:02}.crt")), "").unwrap();
            fs::write(directory.path().join(format!("n{n:02}.txt")), "").unwrap();
        }
        let listing = Listing::read(directory.path(), 9).unwrap();
        assert_eq!(
            (listing.found, listing.files.len(), listing.notice(directory.path())),
            (20, 9, None)
        );
        assert!(listing.files.is_sorted_by_key(|(path, ..)| path));
        fs::write(directory.path().join("a b.crt"), "").unwrap();
        let notice = Listing::read(directory.path(), 9).unwrap().notice(directory.path()).unwrap();
        assert!(
            notice.contains("1 files are called after no server name")
                && notice.contains("a b.crt"),
            "{notice}"
        );
    }
}
