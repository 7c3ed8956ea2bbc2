//! The mapping: the only unsafe file of this crate. It owns memory shared by all processes and
//! hands out slices of atomics in it.
//!
//! Soundness rests on three things: the types that are handed out consist of atomics only, so any
//! bytes are valid values and anyone may write at any time ([`Plain`]); each slice is checked to
//! lie inside the mapping and to be aligned; and the mapping keeps its size: it
//! is sealed (memfd_create(2)), and its descriptor is closed as soon as it is mapped.

#![allow(unsafe_code)]

use std::ffi::c_void;
use std::mem::{align_of, size_of};
use std::ptr::{NonNull, null_mut};

use rustix::fs::{MemfdFlags, SealFlags, fcntl_add_seals, ftruncate, memfd_create};
use rustix::mm::{MapFlags, ProtFlags, mmap, munmap};

use crate::TableError;
use crate::layout::{Entry, Globals, Header, Load, LruLinks, Region, Row, ServerState, ShardState};
use crate::sync::{AtomicU32, AtomicU64};

/// A type of which a shared `&[Self]` may refer to memory with any bytes that others change at any
/// time.
///
/// # Safety
/// The type consists of atomics (and padding that nothing reads) and has no destructor.
pub(crate) unsafe trait Plain {}

// SAFETY: an integer atomic: every bit pattern is a value, and concurrent changes are what it is
// for.
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
unsafe impl Plain for Entry {}

/// Zeroed memory that is shared with every process that is forked later. Unmapped when dropped.
#[derive(Debug)]
pub(crate) struct Mapping {
    start: NonNull<c_void>,
    bytes: usize,
}

// SAFETY: the mapping belongs to the process, not to a thread; it only ever hands out shared slices
// of atomics.
unsafe impl Send for Mapping {}
// SAFETY: as above; `slice` only reads `self`.
unsafe impl Sync for Mapping {}

impl Mapping {
    /// Maps `bytes` of zeroes. Pages take memory only when they are first touched.
    pub fn new(bytes: usize) -> Result<Mapping, TableError> {
        let failed = |step| {
            move |errno: rustix::io::Errno| TableError::System { step, bytes, source: errno.into() }
        };
        let memory = memfd_create(c"pen-table", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING)
            .map_err(failed("memfd_create"))?;
        ftruncate(&memory, bytes as u64).map_err(failed("ftruncate"))?;
        let seals = SealFlags::SHRINK | SealFlags::GROW | SealFlags::SEAL;
        fcntl_add_seals(&memory, seals).map_err(failed("sealing"))?;
        // SAFETY: a new mapping at an address of the kernel's choice; nothing that exists is
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
    /// The region does not lie in the mapping: it was planned for another one.
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
        // above); the mapping lives, and keeps its size, as long as `self` is borrowed; T
        // is Plain, so any bytes in there are valid and others may change them.
        unsafe { std::slice::from_raw_parts(start.as_ptr(), region.count) }
    }

    /// All of it, for tests that spoil it.
    #[cfg(any(test, feature = "spoil"))]
    pub fn words(&self) -> &[AtomicU32] {
        self.slice(&Region::new(0, self.bytes / size_of::<AtomicU32>()))
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: start and length are those of our own mmap; slices of it borrow `self`, so none
        // is left. Failure is impossible for a whole mapping (munmap(2)), and nothing could
        // be done about it.
        let _ = unsafe { munmap(self.start.as_ptr(), self.bytes) };
    }
}
