//! Reproducible pseudo-random data, in which every damage by a relay is noticed.

/// A generator of pseudo-random bytes (xorshift64*); the same seed gives the same bytes.
#[derive(Clone, Debug)]
pub struct Numbers(u64);

impl Numbers {
    /// A generator with its own sequence for each seed.
    pub fn new(seed: u64) -> Numbers {
        Numbers(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    /// The next number.
    pub fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    /// The next number below `limit`.
    pub fn below(&mut self, limit: usize) -> usize {
        (self.next() % limit as u64) as usize
    }
}

/// An endless stream of bytes, to be taken in pieces of any size.
#[derive(Debug)]
pub struct Bytes {
    numbers: Numbers,
    left: [u8; 8],
    used: usize,
}

impl Bytes {
    /// The stream of this seed.
    pub fn new(seed: u64) -> Bytes {
        Bytes { numbers: Numbers::new(seed), left: [0; 8], used: 8 }
    }

    /// Fills a buffer with the next bytes.
    pub fn fill(&mut self, buffer: &mut [u8]) {
        for byte in buffer {
            if self.used == 8 {
                self.left = self.numbers.next().to_le_bytes();
                self.used = 0;
            }
            *byte = self.left[self.used];
            self.used += 1;
        }
    }

    /// The next `length` bytes.
    pub fn take(&mut self, length: usize) -> Vec<u8> {
        let mut bytes = vec![0; length];
        self.fill(&mut bytes);
        bytes
    }
}
