//! The mapping: the only unsafe file of this crate. It owns the memory that all processes share,
//! and returns slices of atomics in it.
//!
//! Soundness depends on three things. The types in the slices consist of atomics only, so any bytes
//! are valid values and any process may write at any time ([`Plain`]). Each slice is checked to lie
//! inside the mapping and to be aligned. The mapping keeps its size: it is sealed
//! (memfd_create(2)), and its descriptor is closed as soon as it is mapped.

#![allow(unsafe_code)]

use std::ffi::c_void;
use std::mem::{align_of, size_of};
use std::ptr::{NonNull, null_mut};

use rustix::fs::{MemfdFlags, SealFlags, fcntl_add_seals, ftruncate, memfd_create};
use rustix::mm::{MapFlags, ProtFlags, mmap, munmap};

use crate::TableError;
use crate::layout::{
    Globals, Header, Load, LruLinks, Region, Row, ServerState, ShardState, StoredEntry,
};
use crate::sync::{AtomicU32, AtomicU64};

/// A type for which a shared `&[Self]` may refer to memory with any bytes, which other processes
/// may change at any time.
///
/// # Safety
/// The type consists of atomics (and padding that is never read) and has no destructor.
pub(crate) unsafe trait Plain {}

// SAFETY: an integer atomic: every bit pattern is a value, and atomics allow concurrent changes.
unsafe impl Plain for AtomicU32 {}
// SAFETY: as above.
unsafe impl Plain for AtomicU64 {}
// SAFETY: its fields are atomics and padding, as layout.rs shows.
unsafe impl Plain for Header {}
// SAFETY: its fields are atomics and padding, as layout.rs shows.
unsafe impl Plain for Globals {}
// SAFETY: its fields are atomics and padding, as layout.rs shows.
unsafe impl Plain for Load {}
// SAFETY: its fields are atomics, a lock that is one atomic, and padding, as layout.rs and lock.rs
// show.
unsafe impl Plain for ServerState {}
// SAFETY: its fields are atomics, as layout.rs shows.
unsafe impl Plain for Row {}
// SAFETY: its fields are atomics, a lock that is one atomic, and padding, as layout.rs and lock.rs
// show.
unsafe impl Plain for ShardState {}
// SAFETY: its fields are atomics, as layout.rs shows.
unsafe impl Plain for LruLinks {}
// SAFETY: its fields are atomics, as layout.rs shows.
unsafe impl Plain for StoredEntry {}

/// Zeroed memory, shared with every process that is forked later. Unmapped when dropped.
#[derive(Debug)]
pub(crate) struct Mapping {
    start: NonNull<c_void>,
    bytes: usize,
}

// SAFETY: the mapping belongs to the process, not to a thread; it only returns shared slices of
// atomics.
unsafe impl Send for Mapping {}
// SAFETY: as above; `slice` only reads `self`.
unsafe impl Sync for Mapping {}

impl Mapping {
    /// Maps `bytes` of zeroes. A page takes memory only when it is first written or read.
    pub fn new(bytes: usize) -> Result<Mapping, TableError> {
        let failed = |step| {
            move |errno: rustix::io::Errno| TableError::System { step, bytes, source: errno.into() }
        };
        let memory = memfd_create(c"pen-table", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING)
            .map_err(failed("memfd_create"))?;
        ftruncate(&memory, bytes as u64).map_err(failed("ftruncate"))?;
        let seals = SealFlags::SHRINK | SealFlags::GROW | SealFlags::SEAL;
        fcntl_add_seals(&memory, seals).map_err(failed("sealing"))?;
        // SAFETY: a new mapping at an address that the kernel chooses; no existing memory is
        // touched.
        let start = unsafe {
            mmap(
                null_mut(),
                bytes,
                ProtFlags::READ | ProtFlags::WRITE,
                MapFlags::SHARED,
                &memory,
                0,
            )
        }
        .map_err(failed("mmap"))?;
        let start = NonNull::new(start).ok_or(TableError::Shape("mapped at address 0"))?;
        Ok(Mapping { start, bytes })
    }

    /// The elements of a region.
    ///
    /// # Panics
    /// The region does not lie in the mapping, because it was planned for another one.
    pub fn slice<T: Plain>(&self, region: &Region<T>) -> &[T] {
        let end = region
            .count
            .checked_mul(size_of::<T>())
            .and_then(|bytes| bytes.checked_add(region.offset));
        assert!(end.is_some_and(|end| end <= self.bytes), "a region outside the mapping");
        // SAFETY: offset <= end <= bytes, so the result lies in the mapping or one past its end.
        let start = unsafe { self.start.cast::<u8>().add(region.offset) }.cast::<T>();
        assert_eq!(start.as_ptr().addr() % align_of::<T>(), 0, "a misaligned region");
        // SAFETY: `count` elements from `start` on lie in the mapping and are aligned (both checked
        // above). The mapping lives, and keeps its size, as long as `self` is borrowed. T is Plain,
        // so any bytes in there are valid and other processes may change them.
        unsafe { std::slice::from_raw_parts(start.as_ptr(), region.count) }
    }

    /// All words, for tests that overwrite them.
    #[cfg(any(test, feature = "spoil"))]
    pub fn words(&self) -> &[AtomicU32] {
        self.slice(&Region::new(0, self.bytes / size_of::<AtomicU32>()))
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: start and length are those of our own mmap; slices of it borrow `self`, so no
        // slice is left. munmap(2) cannot fail for a whole mapping, and there would be no way to
        // handle a failure.
        let _ = unsafe { munmap(self.start.as_ptr(), self.bytes) };
    }
}
