//! Session tickets (RFC 5077; RFC 8446, 4.6.1) that every worker can read. Their secrets come from
//! the supervisor, in two generations.
//!
//! A ticket has the name of its secret, a salt, and the session under AES-256-GCM. Its key is
//! derived from secret, salt, and the rules that verified the client. So a session made under other
//! rules, or under none, cannot be used to avoid verification.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use aws_lc_rs::hkdf::{HKDF_SHA256, KeyType, Prk, Salt};
use aws_lc_rs::rand;
use pen_ipc::tls_files::{TICKET_PERIOD, TICKET_SECRET};
use rustls::server::ProducesTickets;
use zeroize::Zeroizing;

/// Bytes of a secret's name.
const NAME: usize = 16;

/// Bytes of a ticket's salt.
const SALT: usize = 32;

/// Longest ticket that is read: a session with a long chain of client certificates.
const LONGEST: usize = 64 * 1024;

/// The secrets in force. A new secret replaces the older one.
#[derive(Debug)]
pub struct Secrets(Mutex<(Secret, Option<Secret>)>);

struct Secret {
    name: [u8; NAME],
    prk: Prk,
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret")
    }
}

impl Secret {
    /// None: the length is not that of a secret.
    fn new(bytes: &[u8]) -> Option<Secret> {
        let (name, key) = bytes.split_at_checked(NAME)?;
        (bytes.len() == TICKET_SECRET).then(|| Secret {
            name: name.try_into().unwrap_or_default(),
            prk: Salt::new(HKDF_SHA256, b"pen session tickets").extract(key),
        })
    }

    /// The key and the nonce of one ticket.
    fn key(&self, salt: &[u8], rules: &[u8]) -> Option<(LessSafeKey, Nonce)> {
        let mut bytes = Zeroizing::new([0; Length::BYTES]);
        self.prk.expand(&[salt, rules], Length).and_then(|okm| okm.fill(&mut bytes[..])).ok()?;
        let (key, nonce) = bytes.split_at(Length::BYTES - NONCE_LEN);
        let key = LessSafeKey::new(UnboundKey::new(&AES_256_GCM, key).ok()?);
        Some((key, Nonce::try_assume_unique_for_key(nonce).ok()?))
    }
}

/// The derived bytes: a key of AES-256 and a nonce.
struct Length;

impl Length {
    const BYTES: usize = 32 + NONCE_LEN;
}

impl KeyType for Length {
    fn len(&self) -> usize {
        Length::BYTES
    }
}

impl Secrets {
    /// The secret in force, and the one before if there is one.
    pub fn new(current: &[u8], previous: Option<&[u8]>) -> Option<Arc<Secrets>> {
        let previous = previous.map(|bytes| Secret::new(bytes).ok_or(())).transpose().ok()?;
        Some(Arc::new(Secrets(Mutex::new((Secret::new(current)?, previous)))))
    }

    /// Takes a new secret and drops the one before the last. False: the bytes are not a secret.
    pub fn renew(&self, bytes: &[u8]) -> bool {
        let Some(new) = Secret::new(bytes) else { return false };
        let mut secrets = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        secrets.1 = Some(std::mem::replace(&mut secrets.0, new));
        true
    }
}

/// Makes and reads the tickets of clients that the same rules verified.
#[derive(Debug)]
pub struct Tickets {
    secrets: Arc<Secrets>,
    rules: [u8; 32],
}

impl Tickets {
    /// `rules` is a digest of the rules.
    pub fn new(secrets: Arc<Secrets>, rules: [u8; 32]) -> Tickets {
        Tickets { secrets, rules }
    }
}

impl ProducesTickets for Tickets {
    fn enabled(&self) -> bool {
        true
    }

    /// Seconds for which clients should keep tickets.
    fn lifetime(&self) -> u32 {
        TICKET_PERIOD as u32
    }

    fn encrypt(&self, session: &[u8]) -> Option<Vec<u8>> {
        let secrets = self.secrets.0.lock().unwrap_or_else(PoisonError::into_inner);
        let mut salt = [0; SALT];
        rand::fill(&mut salt).ok()?;
        let (key, nonce) = secrets.0.key(&salt, &self.rules)?;
        let mut sealed = session.to_vec();
        key.seal_in_place_append_tag(nonce, Aad::from(&secrets.0.name), &mut sealed).ok()?;
        Some([&secrets.0.name[..], &salt, &sealed].concat())
    }

    fn decrypt(&self, ticket: &[u8]) -> Option<Vec<u8>> {
        let (name, rest) = ticket.split_at_checked(NAME).filter(|_| ticket.len() <= LONGEST)?;
        let (salt, sealed) = rest.split_at_checked(SALT)?;
        let secrets = self.secrets.0.lock().unwrap_or_else(PoisonError::into_inner);
        let secret = [Some(&secrets.0), secrets.1.as_ref()]
            .into_iter()
            .flatten()
            .find(|secret| secret.name == name)?;
        let (key, nonce) = secret.key(salt, &self.rules)?;
        let mut session = sealed.to_vec();
        let length = key.open_in_place(nonce, Aad::from(&secret.name), &mut session).ok()?.len();
        session.truncate(length);
        Some(session)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn secret(byte: u8) -> Vec<u8> {
        vec![byte; TICKET_SECRET]
    }

    fn tickets(secrets: &Arc<Secrets>) -> Tickets {
        Tickets::new(secrets.clone(), [0; 32])
    }

    #[test]
    fn what_one_worker_makes_another_reads_until_two_secrets_later() {
        let (one, other) =
            (Secrets::new(&secret(1), None).unwrap(), Secrets::new(&secret(1), None).unwrap());
        let ticket = tickets(&one).encrypt(b"session").unwrap();
        assert_ne!(ticket, tickets(&one).encrypt(b"session").unwrap());
        assert_eq!(tickets(&other).decrypt(&ticket).unwrap(), b"session");
        assert!(other.renew(&secret(2)));
        assert_eq!(tickets(&other).decrypt(&ticket).unwrap(), b"session");
        let newer = tickets(&other).encrypt(b"newer").unwrap();
        assert_eq!(tickets(&one).decrypt(&newer), None);
        // A replacement worker starts with both.
        let born = Secrets::new(&secret(2), Some(&secret(1))).unwrap();
        assert_eq!(tickets(&born).decrypt(&newer).unwrap(), b"newer");
        assert_eq!(tickets(&born).decrypt(&ticket).unwrap(), b"session");
        assert!(other.renew(&secret(3)));
        assert_eq!(tickets(&other).decrypt(&ticket), None);
        assert_eq!(tickets(&other).decrypt(&newer).unwrap(), b"newer");
    }

    #[test]
    fn a_ticket_is_no_way_around_other_rules() {
        let secrets = Secrets::new(&secret(1), None).unwrap();
        let ticket = tickets(&secrets).encrypt(b"session").unwrap();
        assert_eq!(Tickets::new(secrets, [1; 32]).decrypt(&ticket), None);
    }

    #[test]
    fn no_other_bytes_are_a_ticket() {
        let secrets = Secrets::new(&secret(1), None).unwrap();
        let ticket = tickets(&secrets).encrypt(b"session").unwrap();
        for end in 0..ticket.len() {
            assert_eq!(tickets(&secrets).decrypt(&ticket[..end]), None);
            let mut bent = ticket.clone();
            bent[end] ^= 1;
            assert_eq!(tickets(&secrets).decrypt(&bent), None);
        }
        assert_eq!(tickets(&secrets).decrypt(&vec![1; LONGEST + 1]), None);
        assert!(Secrets::new(&secret(1)[1..], None).is_none() && !secrets.renew(b""));
    }
}
