//! The TLS files. They hold secrets that must not be in the supervisor's memory, because every fork
//! would copy them.
//!
//! Each file is opened with the rights of the user who started pen. The kernel copies it
//! (sendfile(2)) into memory that is then sealed, so its bytes are never in this process's address
//! space. The descriptor of that memory goes to the relay workers and to the examiner (`examine`).
//! The same holds for the secrets of session tickets.

#![forbid(unsafe_code)]

use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, Write};
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use pen_config::tls::Tls;
use pen_ipc::start::TlsStart;
use pen_ipc::text::error_text;
use pen_ipc::tls_files::{
    AUTHORITIES_LIMIT, FILE_LIMIT, Fact, FileIndex, Index, MEMORY_LIMIT, MOST_FILES, NamedRole,
    OCSP_LIMIT, Part, Role, TICKET_PERIOD, TICKET_SECRET,
};
use pen_walk as walk;
use rustix::fs::{Dir, sendfile};
use rustix::rand::{GetRandomFlags, getrandom};

use crate::files::certificates::Certificates;
use crate::files::memory;

mod named;
pub(crate) mod servers;

use crate::files::tls_material::named::Listing;

/// The TLS data for relay workers.
#[derive(Debug)]
pub(crate) struct Keys {
    /// The TLS files that an examiner last accepted.
    pub(crate) files: OwnedFd,
    /// The secret of new tickets, and the one before.
    pub(crate) secrets: (OwnedFd, Option<OwnedFd>),
    /// When the next secret is due.
    pub(crate) rotation: Instant,
    /// When to read the files again without a request.
    pub(crate) reading: Instant,
    /// The certificates in the files.
    pub(crate) certificates: Certificates,
}

impl Keys {
    /// TLS data with a first secret.
    ///
    /// # Errors
    /// No descriptors or memory left.
    pub(crate) fn new(files: OwnedFd, facts: Vec<Fact>, now: Instant) -> io::Result<Keys> {
        let certificates = Certificates::new(facts, now);
        Ok(Keys {
            files,
            secrets: (secret()?, None),
            rotation: now + ROTATION,
            reading: now + READING,
            certificates,
        })
    }

    /// The TLS data for a new worker.
    ///
    /// # Errors
    /// No descriptors left.
    pub(crate) fn start(&self) -> io::Result<TlsStart> {
        let (current, previous) = &self.secrets;
        let previous = previous.as_ref().map(OwnedFd::try_clone).transpose()?;
        Ok(TlsStart { files: self.files.try_clone()?, secrets: (current.try_clone()?, previous) })
    }

    /// Replaces the secret by a new one, and keeps only the one before. If that fails, it is tried
    /// again soon.
    ///
    /// # Errors
    /// No descriptors or memory left.
    pub(crate) fn rotate(&mut self, now: Instant) -> io::Result<()> {
        self.rotation = now + RETRY;
        let new = secret()?;
        self.secrets.1 = Some(std::mem::replace(&mut self.secrets.0, new));
        self.rotation = now + ROTATION;
        Ok(())
    }
}

/// Reads the TLS files into sealed memory. Also returns notices about files that were left out.
///
/// `ocsp` is an OCSP response that replaces the file in the settings.
///
/// # Errors
/// The file that cannot be read, and the reason.
pub(crate) fn gather(tls: &Tls, ocsp: Option<&OwnedFd>) -> Result<(OwnedFd, Vec<String>), String> {
    let mut gathering = TlsGathering::new()?;
    if let Some(path) = &tls.certificate {
        gathering.add(path, Role::Certificate, FILE_LIMIT)?;
    }
    if let Some(path) = &tls.key {
        gathering.add(path, Role::Key, FILE_LIMIT)?;
    }
    for path in tls.ca_file.iter().chain(&tls.ca_directory) {
        match path.is_dir() || Some(path) == tls.ca_directory.as_ref() {
            true => gathering.hashed(path)?,
            false => gathering.add(path, Role::Authorities, AUTHORITIES_LIMIT)?,
        }
    }
    if tls.required && tls.ca_file.is_none() && tls.ca_directory.is_none() {
        let path = system_authorities().ok_or(
            "-R: this system has no file of certification authorities; say with -G whose \
             certificates are good",
        )?;
        gathering.add(path, Role::SystemAuthorities, AUTHORITIES_LIMIT)?;
    }
    match (&tls.ocsp, ocsp) {
        (Some(path), Some(held)) => {
            gathering.copy(held.try_clone().map(File::from), path, Role::Ocsp, OCSP_LIMIT)?
        }
        // The program that fetches the response may not have run yet.
        (Some(path), None) if path.exists() => gathering.add(path, Role::Ocsp, OCSP_LIMIT)?,
        (Some(path), None) => {
            gathering.notices.push(format!("{}: there is no OCSP response yet", path.display()))
        }
        (None, _) => {}
    }
    if let Some(path) = &tls.names {
        gathering.named(path)?;
    }
    let Tls { required, tls12, ref suites, .. } = *tls;
    gathering.finish(|files| Index { required, tls12, suites: suites.clone(), files })
}

/// The file of the system's authorities.
fn system_authorities() -> Option<&'static Path> {
    SYSTEM_AUTHORITIES.iter().map(Path::new).find(|path| path.exists())
}

/// Copies an OCSP response that came as a descriptor, so that it cannot change.
///
/// # Errors
/// It cannot be read, or is too long.
pub(crate) fn hold(file: OwnedFd) -> Result<OwnedFd, String> {
    let copy = || {
        let memory = memory::new()?;
        let length = transfer(&memory, &File::from(file), OCSP_LIMIT)?;
        length.map(|_| memory::seal(memory)).transpose()
    };
    copy().map_err(|error| error_text(&error))?.ok_or_else(|| too_long(OCSP_LIMIT))
}

struct TlsGathering {
    memory: File,
    size: u64,
    files: Vec<Part>,
    notices: Vec<String>,
}

impl TlsGathering {
    fn new() -> Result<TlsGathering, String> {
        let memory = memory::new()
            .map_err(|error| format!("TLS: no memory for its files: {}", error_text(&error)))?;
        Ok(TlsGathering { memory, size: 0, files: Vec::new(), notices: Vec::new() })
    }

    fn add(&mut self, path: &Path, role: Role, limit: u64) -> Result<(), String> {
        self.copy(walk::read(path), path, role, limit)
    }

    fn copy(
        &mut self,
        file: io::Result<File>,
        path: &Path,
        role: Role,
        limit: u64,
    ) -> Result<(), String> {
        let at = |reason: String| format!("{}: {reason}", path.display());
        if self.files.len() >= MOST_FILES || self.size + limit > MEMORY_LIMIT {
            return Err(at(format!(
                "more than {MOST_FILES} files, or {} MiB of them",
                MEMORY_LIMIT >> 20
            )));
        }
        let offset = self.size;
        let length = file
            .and_then(|file| transfer(&self.memory, &file, limit))
            .map_err(|error| at(error_text(&error)))?;
        let length = length.ok_or_else(|| at(too_long(limit)))?;
        self.size += length;
        self.files.push(Part { role, path: path.display().to_string(), offset, length });
        Ok(())
    }

    /// Adds the files of a directory that are called `hash.N`, as `openssl rehash` makes them.
    fn hashed(&mut self, directory: &Path) -> Result<(), String> {
        let mut paths: Vec<PathBuf> = entries(directory)?;
        paths.retain(|path| path.file_name().and_then(OsStr::to_str).is_some_and(is_hash));
        if paths.is_empty() {
            return Err(format!(
                "{}: there is no file called hash.N in it; openssl rehash makes them",
                directory.display()
            ));
        }
        paths.iter().try_for_each(|path| self.add(path, Role::Authorities, FILE_LIMIT))
    }

    /// Adds the files of a directory that are called after server names. A file that cannot be read
    /// is left out, and the notice names the first of these. Too many files are an error: the names
    /// beyond the limit would get a wrong certificate.
    fn named(&mut self, directory: &Path) -> Result<(), String> {
        let at = |reason: String| format!("{}: {reason}", directory.display());
        let room = MOST_FILES - self.files.len();
        let listing = Listing::read(directory, room)?;
        if listing.found > room {
            let found = listing.found;
            return Err(at(format!(
                "there are {found} files of certificates by name; pen takes {MOST_FILES}, two for \
                 each of {} names",
                MOST_FILES / 2
            )));
        }
        self.notices.extend(listing.notice(directory));
        let (files, mut failed) = (listing.files.len(), 0);
        for (path, name, role) in listing.files {
            let limit = if role == NamedRole::Ocsp { OCSP_LIMIT } else { FILE_LIMIT };
            let size = self.size;
            if size + limit > MEMORY_LIMIT {
                let most = MEMORY_LIMIT >> 20;
                return Err(at(format!(
                    "the {files} files of certificates by name have more than {most} MiB in all"
                )));
            }
            if let Err(reason) = self.add(&path, Role::Named(name, role), limit) {
                failed += 1;
                if failed <= FIRST {
                    self.notices.push(reason);
                }
                // Counts the bytes that were copied before the failure.
                self.size = size.max(self.memory.metadata().map_or(u64::MAX, |there| there.len()));
            }
        }
        if failed > FIRST {
            self.notices.push(at(format!(
                "{} more files of certificates by name cannot be used",
                failed - FIRST
            )));
        }
        Ok(())
    }

    fn finish<I: FileIndex>(
        mut self,
        index: impl FnOnce(Vec<Part>) -> I,
    ) -> Result<(OwnedFd, Vec<String>), String> {
        let files = self.files.len();
        let index = index(self.files).encode();
        let index = index.map_err(|_| {
            format!("TLS: the paths of its {files} files are too long to be listed")
        })?;
        let sealed = self.memory.write_all(&index).and_then(|()| memory::seal(self.memory));
        let files = sealed
            .map_err(|error| format!("TLS: no memory for its files: {}", error_text(&error)))?;
        Ok((files, self.notices))
    }
}

/// The paths of a directory's entries, sorted.
fn entries(directory: &Path) -> Result<Vec<PathBuf>, String> {
    let read = || {
        let names = Dir::new(walk::list(directory)?)?.map(|entry| {
            let entry = entry?;
            Ok(directory.join(OsStr::from_bytes(entry.file_name().to_bytes())))
        });
        names.collect::<io::Result<Vec<_>>>()
    };
    let mut paths =
        read().map_err(|error| format!("{}: {}", directory.display(), error_text(&error)))?;
    paths.sort();
    Ok(paths)
}

/// Eight hexadecimal digits, a dot, and a number.
fn is_hash(name: &str) -> bool {
    name.split_once('.').is_some_and(|(hash, number)| {
        hash.len() == 8
            && hash.bytes().all(|byte| byte.is_ascii_hexdigit())
            && !number.is_empty()
            && number.bytes().all(|byte| byte.is_ascii_digit())
    })
}

/// Appends a file to the memory; the kernel copies it. None: it is longer than `limit`.
fn transfer(memory: &File, file: &File, limit: u64) -> io::Result<Option<u64>> {
    let mut done = 0;
    let mut offset = 0;
    loop {
        // One byte above the limit, so that a longer file is noticed.
        let wanted = usize::try_from(limit + 1 - done).map_err(io::Error::other)?;
        match sendfile(memory, file, Some(&mut offset), wanted) {
            Ok(0) => return Ok(Some(done)),
            Ok(length) => done += length as u64,
            Err(rustix::io::Errno::INTR) => {}
            Err(errno) => return Err(errno.into()),
        }
        if done > limit {
            return Ok(None);
        }
    }
}

fn too_long(limit: u64) -> String {
    format!("longer than {} KiB", limit >> 10)
}

/// A random ticket secret in sealed memory.
fn secret() -> io::Result<OwnedFd> {
    let memory = memory::new()?;
    if !within_the_kernel(&memory) {
        // Linux before 5.19 cannot splice from its random numbers.
        memory.set_len(0)?;
        let mut bytes = [0; TICKET_SECRET];
        random(&mut bytes)?;
        let written = rustix::io::pwrite(&memory, &bytes, 0);
        bytes.fill(0);
        // Keeps the overwriting of the bytes from being optimised away.
        std::hint::black_box(&bytes);
        if written? != TICKET_SECRET {
            return Err(io::ErrorKind::WriteZero.into());
        }
    }
    memory::seal(memory)
}

fn within_the_kernel(memory: &File) -> bool {
    let copy = || {
        let random = File::open("/dev/urandom").ok()?;
        sendfile(memory, &random, None, TICKET_SECRET).ok()
    };
    copy() == Some(TICKET_SECRET)
}

fn random(bytes: &mut [u8]) -> io::Result<()> {
    let mut done = 0;
    while done < bytes.len() {
        match getrandom(&mut bytes[done..], GetRandomFlags::empty()) {
            Ok(length) => done += length,
            Err(rustix::io::Errno::INTR) => {}
            Err(errno) => return Err(errno.into()),
        }
    }
    Ok(())
}

/// How long one secret is used for new tickets.
const ROTATION: Duration = Duration::from_secs(TICKET_PERIOD);

/// When a failed rotation is tried again.
const RETRY: Duration = Duration::from_secs(60);

/// Most unreadable files that a notice names; the others are counted.
const FIRST: usize = 5;

/// How often the files are read again without a request: other programs renew some, such as OCSP
/// responses.
pub(crate) const READING: Duration = Duration::from_secs(3600 - 60);

/// The default certificate authorities of Debian, Red Hat, SUSE and Alpine.
const SYSTEM_AUTHORITIES: [&str; 4] = [
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/ca-bundle.pem",
    "/etc/ssl/cert.pem",
];

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::FileExt;

    use pen_ipc::tls_files::TRAILER;

    use super::*;

    fn bytes(memory: OwnedFd) -> Vec<u8> {
        let memory = File::from(memory);
        let mut bytes = vec![0; memory.metadata().unwrap().len() as usize];
        memory.read_exact_at(&mut bytes, 0).unwrap();
        bytes
    }

    fn parts(memory: OwnedFd) -> Vec<(Role, Vec<u8>)> {
        let bytes = bytes(memory);
        let (rest, trailer) = bytes.split_at(bytes.len() - TRAILER as usize);
        let length = u64::from_le_bytes(trailer.try_into().unwrap()) as usize;
        let index = Index::decode(&rest[rest.len() - length..]).unwrap();
        let contents = |part: &Part| bytes[part.offset as usize..][..part.length as usize].to_vec();
        index.files.iter().map(|part| (part.role.clone(), contents(part))).collect()
    }

    #[test]
    fn files_arrive_whole_and_each_in_its_role() {
        let directory = tempfile::tempdir().unwrap();
        let path = |name: &str| directory.path().join(name);
        let long: Vec<u8> = (0..300_000_u32).map(|n| (n / 7) as u8).collect();
        for (name, contents) in [
            ("cert", b"certificate" as &[u8]),
            ("key", b"key"),
            ("ca", &long),
            ("www.Example.CRT", b"x"),
            ("WWW.example.crt", b"named"),
            ("*.example.key", b"wild"),
            ("a b.crt", b"x"),
            (".crt", b"x"),
            ("x.*.crt", b"x"),
        ] {
            fs::write(path(name), contents).unwrap();
        }
        fs::create_dir(path("dir.crt")).unwrap();
        let tls = Tls {
            certificate: Some(path("cert")),
            key: Some(path("key")),
            ca_file: Some(path("ca")),
            names: Some(directory.path().into()),
            ocsp: Some(path("not there yet")),
            ..Tls::default()
        };
        let (memory, notices) = gather(&tls, None).unwrap();
        assert_eq!(
            parts(memory),
            [
                (Role::Certificate, b"certificate".to_vec()),
                (Role::Key, b"key".to_vec()),
                (Role::Authorities, long),
                (Role::Named("*.example".into(), NamedRole::Key), b"wild".to_vec()),
                (Role::Named("www.example".into(), NamedRole::Certificate), b"named".to_vec()),
            ]
        );
        assert!(notices[0].ends_with("there is no OCSP response yet"), "{notices:?}");
        assert!(notices[2].ends_with("dir.crt: not a regular file"), "{notices:?}");
        let held = hold(File::open(path("key")).unwrap().into()).unwrap();
        let (memory, _) = gather(&tls, Some(&held)).unwrap();
        assert!(parts(memory).contains(&(Role::Ocsp, b"key".to_vec())));
    }

    #[test]
    fn what_cannot_be_had_is_named() {
        let directory = tempfile::tempdir().unwrap();
        let missing = directory.path().join("missing");
        let refused = |tls: &Tls| gather(tls, None).unwrap_err();
        let certificate = Tls { certificate: Some(missing.clone()), ..Tls::default() };
        assert_eq!(
            refused(&certificate),
            format!("{}: no such file or directory", missing.display())
        );
        let empty = Tls { ca_directory: Some(directory.path().into()), ..Tls::default() };
        assert!(refused(&empty).contains("no file called hash.N"));
        let long = directory.path().join("long");
        File::create(&long).unwrap().set_len(FILE_LIMIT + 1).unwrap();
        let long = Tls { key: Some(long), ..Tls::default() };
        assert!(refused(&long).ends_with("longer than 1024 KiB"));
        let device = Tls { key: Some("/dev/null".into()), ..Tls::default() };
        assert_eq!(refused(&device), "/dev/null: not a regular file");
    }

    #[test]
    fn secrets_are_as_long_as_they_should_be_and_never_the_same() {
        let (one, other) = (bytes(secret().unwrap()), bytes(secret().unwrap()));
        assert!(one.len() == TICKET_SECRET && other.len() == TICKET_SECRET && one != other);
        let mut drawn = [0; TICKET_SECRET];
        random(&mut drawn).unwrap();
        assert_ne!(drawn, [0; TICKET_SECRET]);
        let mut keys = Keys::new(secret().unwrap(), Vec::new(), Instant::now()).unwrap();
        let first = bytes(keys.secrets.0.try_clone().unwrap());
        keys.rotate(Instant::now()).unwrap();
        assert_eq!(bytes(keys.secrets.1.take().unwrap()), first);
        assert_ne!(bytes(keys.secrets.0), first);
    }

    #[test]
    fn hashes_are_known_from_other_names() {
        for name in ["0123abcd.0", "ABCDEF01.12"] {
            assert!(is_hash(name), "{name}");
        }
        for name in ["0123abcd.r0", "0123abcd", "0123abcd.", "123abcd.0", "ca.pem", "0123abcg.0"] {
            assert!(!is_hash(name), "{name}");
        }
    }
}
