//! Input: a client's bytes with TLS. However they are cut, the session ends or continues in the
//! same way, and bytes after its end have no effect. Some names have authorities of their own, so
//! that the session reads the name in the hello before rustls begins.

#![no_main]

use std::fs::{self, File};
use std::os::fd::OwnedFd;
use std::sync::LazyLock;

use libfuzzer_sys::fuzz_target;
use pen_ipc::start::TlsStart;
use pen_ipc::tls_files::{FileIndex, Index, NamedRole, Part, Role, TICKET_SECRET};
use pen_worker::parts::{Cipher, PLAIN, TlsContext};

/// A test key and its certificate. They are fixed, so that a failing input fails again.
const CERTIFICATE: &[u8] = include_bytes!("../tls/certificate.pem");
const KEY: &[u8] = include_bytes!("../tls/key.pem");

static TLS: LazyLock<TlsContext> = LazyLock::new(|| {
    let (middle, end) = (CERTIFICATE.len() as u64, (CERTIFICATE.len() + KEY.len()) as u64);
    let part = |role, offset, end| Part { role, path: "file".into(), offset, length: end - offset };
    let named = |role| Role::Named("*.example".into(), role);
    let files = vec![
        part(Role::Certificate, 0, middle),
        part(Role::Key, middle, end),
        part(Role::Authorities, 0, middle),
        part(named(NamedRole::Certificate), 0, middle),
        part(named(NamedRole::Key), middle, end),
        part(named(NamedRole::Authorities), 0, middle),
    ];
    let index = Index { required: true, tls12: true, suites: Vec::new(), files };
    let files = file("files", &[CERTIFICATE, KEY, &index.encode().unwrap()].concat());
    TlsContext::new(TlsStart { files, secrets: (file("secret", &[0; TICKET_SECRET]), None) })
        .unwrap()
});

/// A file without a name, instead of the sealed memory that a worker gets.
fn file(name: &str, bytes: &[u8]) -> OwnedFd {
    let path = std::env::temp_dir().join(format!("pen-fuzz-{}-{name}", std::process::id()));
    fs::write(&path, bytes).unwrap();
    let file = File::open(&path).unwrap();
    fs::remove_file(path).unwrap();
    file.into()
}

/// The error that ends the session, whether the handshake is unfinished, and whether the session
/// sends anything.
fn through<'p>(pieces: impl IntoIterator<Item = &'p [u8]>) -> (Option<String>, bool, bool) {
    let (mut session, mut cipher, mut plain) = (TLS.session(), Cipher::default(), vec![0; PLAIN]);
    let mut said = false;
    for mut piece in pieces {
        while !piece.is_empty() {
            let room = session.room(&mut cipher, usize::MAX);
            let length = room.len().min(piece.len());
            room[..length].copy_from_slice(&piece[..length]);
            piece = &piece[length..];
            let taken = session.take(length, &mut cipher, &mut plain);
            // Neither side has keys, so there is no plain text.
            assert!(taken.plain == 0);
            said |= !session.take_out().is_empty();
            if let Some(error) = taken.error {
                session.set_error(error);
                assert!(session.is_closed());
            }
        }
    }
    session.encrypt(b"answer", &mut cipher);
    session.close(&mut cipher);
    (session.error().map(|error| format!("{error:?}")), session.is_handshaking(), said)
}

fuzz_target!(|data: &[u8]| {
    let [size, input @ ..] = data else { return };
    let whole = through([input]);
    assert_eq!(through(input.chunks(usize::from(*size).max(1))), whole);
});
