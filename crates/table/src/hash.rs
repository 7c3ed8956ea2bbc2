//! The hash that chooses a client's shard and bucket: SipHash-1-3 (Aumasson and Bernstein, 2012).
//! Its key is random for each table. So clients, who may choose among 2^64 IPv6 addresses, cannot
//! attack one chain or shard. (This is not the hash of `-h`, which is the same everywhere.)

use std::io;

/// The secret. Each process keeps its own copy; it is not in the shared memory.
#[derive(Clone, Copy)]
pub(crate) struct HashKey(pub [u64; 2]);

/// A client's key and its hash.
#[derive(Clone, Copy)]
pub(crate) struct HashedKey {
    /// The key as it is stored.
    pub words: [u64; 2],
    /// The upper half chooses the shard, the lower half the bucket.
    pub hash: u64,
}

impl HashKey {
    /// Draws a random secret.
    ///
    /// # Errors
    /// The system has no randomness: getrandom(2) fails only where it does not exist.
    pub fn random() -> io::Result<HashKey> {
        // A model checker needs every run to be the same.
        if cfg!(loom) {
            return Ok(HashKey([0, 0]));
        }
        let mut bytes = [0; 16];
        let drawn = rustix::rand::getrandom(&mut bytes, rustix::rand::GetRandomFlags::empty())?;
        // getrandom(2): up to 256 bytes are always delivered whole.
        debug_assert_eq!(drawn, bytes.len());
        Ok(HashKey(key_words(bytes)))
    }

    /// Hashes a client's key.
    pub fn of(self, key: [u8; 16]) -> HashedKey {
        self.of_words(key_words(key))
    }

    /// Hashes a client's key in its stored form.
    pub fn of_words(self, words: [u64; 2]) -> HashedKey {
        HashedKey { words, hash: sip::<1, 3>(self.0, words) }
    }
}

/// SipHash with C compression and D finalisation rounds, of 16 bytes as two little-endian words.
fn sip<const C: usize, const D: usize>(key: [u64; 2], words: [u64; 2]) -> u64 {
    let mut v = [
        key[0] ^ 0x736f_6d65_7073_6575,
        key[1] ^ 0x646f_7261_6e64_6f6d,
        key[0] ^ 0x6c79_6765_6e65_7261,
        key[1] ^ 0x7465_6462_7974_6573,
    ];
    // The last word holds the length in its top byte.
    for word in [words[0], words[1], 16 << 56] {
        v[3] ^= word;
        (0..C).for_each(|_| round(&mut v));
        v[0] ^= word;
    }
    v[2] ^= 0xff;
    (0..D).for_each(|_| round(&mut v));
    v[0] ^ v[1] ^ v[2] ^ v[3]
}

fn round(v: &mut [u64; 4]) {
    v[0] = v[0].wrapping_add(v[1]);
    v[2] = v[2].wrapping_add(v[3]);
    v[1] = v[1].rotate_left(13) ^ v[0];
    v[3] = v[3].rotate_left(16) ^ v[2];
    v[0] = v[0].rotate_left(32);
    v[2] = v[2].wrapping_add(v[1]);
    v[0] = v[0].wrapping_add(v[3]);
    v[1] = v[1].rotate_left(17) ^ v[2];
    v[3] = v[3].rotate_left(21) ^ v[0];
    v[2] = v[2].rotate_left(32);
}

/// The bytes of a key as the two words that are stored.
pub(crate) fn key_words(key: [u8; 16]) -> [u64; 2] {
    let key = u128::from_le_bytes(key);
    [key as u64, (key >> 64) as u64]
}

/// The bytes of a stored key.
pub(crate) fn key_bytes(words: [u64; 2]) -> [u8; 16] {
    (u128::from(words[0]) | u128::from(words[1]) << 64).to_le_bytes()
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use std::hash::{DefaultHasher, Hasher};

    #[test]
    fn the_reference_vector_of_siphash_2_4() {
        // vectors.h of the reference implementation: key 00..0f, message 00..0f.
        let words = [0x0706_0504_0302_0100, 0x0f0e_0d0c_0b0a_0908];
        assert_eq!(sip::<2, 4>(words, words), 0x3f2a_cc7f_57c2_9bdb);
    }

    #[test]
    fn the_standard_library_agrees_on_siphash_1_3() {
        for n in 0..100u64 {
            let words = [n.wrapping_mul(0x9e37_79b9_7f4a_7c15), !n];
            let mut standard = DefaultHasher::new();
            standard.write(&words.map(u64::to_le_bytes).concat());
            assert_eq!(HashKey([0, 0]).of_words(words).hash, standard.finish());
        }
    }
}
