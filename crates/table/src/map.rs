//! The mapping: the only unsafe file of this crate. It owns the memory that all processes share,
//! and returns slices of atomics in it.
//!
//! Soundness depends on three things. The types in the slices consist of atomics only, so any bytes
//! are valid values and any process may write at any time ([`Plain`]). Each slice is checked to lie
//! inside the mapping and to be aligned. The mapping keeps its size: the memory is sealed
//! (memfd_create(2)), also against a change of the seals.
//!
//! The mapping keeps its descriptor, so that another program can adopt the memory. Jailed processes
//! close it with all descriptors that are not theirs. It would give them nothing that the mapping
//! does not.

#![allow(unsafe_code)]

use std::ffi::c_void;
use std::mem::{align_of, size_of};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::ptr::{NonNull, null_mut};

use rustix::fs::{
    MemfdFlags, SealFlags, fcntl_add_seals, fcntl_get_seals, fstat, ftruncate, memfd_create,
};
use rustix::io::Errno;
use rustix::mm::{Advice, MapFlags, ProtFlags, madvise, mmap, munmap};

use crate::layout::Region;
use crate::parts::{
    Figures, Globals, Load, LruLinks, NetShard, ServerState, ShardState, SlotBits, Statistics,
    StoredEntry, StoredNet,
};
use crate::shape::{Mismatch, TableError};
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
// SAFETY: its fields are atomics and padding, as parts.rs shows.
unsafe impl Plain for Globals {}
// SAFETY: its fields are atomics and padding, as parts.rs shows.
unsafe impl Plain for Load {}
// SAFETY: its fields are atomics, a lock that is one atomic, and padding, as parts.rs and lock.rs
// show.
unsafe impl Plain for ServerState {}
// SAFETY: its fields are atomics, as parts.rs shows.
unsafe impl Plain for Figures {}
// SAFETY: its fields are arrays of atomics, and padding, as parts.rs shows.
unsafe impl Plain for Statistics {}
// SAFETY: its fields are atomics, a lock that is one atomic, and padding, as parts.rs and lock.rs
// show.
unsafe impl Plain for ShardState {}
// SAFETY: its fields are atomics, as parts.rs shows.
unsafe impl Plain for LruLinks {}
// SAFETY: its fields are atomics and padding, as parts.rs shows.
unsafe impl Plain for StoredEntry {}
// SAFETY: its fields are atomics, as parts.rs shows.
unsafe impl Plain for SlotBits {}
// SAFETY: its fields are atomics, a lock that is one atomic, and padding, as parts.rs and lock.rs
// show.
unsafe impl Plain for NetShard {}
// SAFETY: its fields are atomics, arrays of atomics, and padding, as parts.rs shows.
unsafe impl Plain for StoredNet {}

/// Memory that is shared with every process that is forked later. Unmapped when dropped.
#[derive(Debug)]
pub(crate) struct Mapping {
    start: NonNull<c_void>,
    bytes: usize,
    memory: OwnedFd,
}

// SAFETY: the mapping belongs to the process, not to a thread; it only returns shared slices of
// atomics.
unsafe impl Send for Mapping {}
// SAFETY: as above; `slice` only reads `self`.
unsafe impl Sync for Mapping {}

impl Mapping {
    /// Maps `bytes` of zeroes. A page takes memory only when it is first written or read.
    pub fn new(bytes: usize) -> Result<Mapping, TableError> {
        let failed = |step| failed(step, bytes);
        let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
        let memory = match memfd_create(c"pen-table", flags | MemfdFlags::NOEXEC_SEAL) {
            // Linux before 6.3 knows no memory that cannot be executed.
            Err(Errno::INVAL) => memfd_create(c"pen-table", flags),
            made => made,
        };
        let memory = memory.map_err(failed("memfd_create"))?;
        ftruncate(&memory, bytes as u64).map_err(failed("ftruncate"))?;
        fcntl_add_seals(&memory, SEALS).map_err(failed("sealing"))?;
        Mapping::map(memory, bytes)
    }

    /// Maps memory that [`Mapping::new`] made, maybe in another program, with its content.
    ///
    /// # Errors
    /// It is not sealed, has another size, or cannot be mapped.
    pub fn adopt(memory: OwnedFd, bytes: usize) -> Result<Mapping, TableError> {
        let seals = fcntl_get_seals(&memory).map_err(|errno| Mismatch::NotMemory(errno.into()))?;
        // A kernel may set further seals by itself (memfd_create(2), MFD_NOEXEC_SEAL).
        if !seals.contains(SEALS) {
            return Err(Mismatch::Unsealed(seals.bits()).into());
        }
        let size = fstat(&memory).map_err(failed("fstat", bytes))?.st_size;
        match u64::try_from(size) {
            Ok(size) if size == bytes as u64 => Mapping::map(memory, bytes),
            size => Err(Mismatch::Size { bytes: size.unwrap_or(0), needed: bytes }.into()),
        }
    }

    /// Keeps the mapping from children that are forked later.
    ///
    /// # Errors
    /// The kernel refuses it.
    pub fn keep_from_children(&self) -> Result<(), TableError> {
        // SAFETY: start and length are those of our own mmap. The advice changes nothing in this
        // process. A later child has this object without the memory. It must neither use nor drop
        // it. It reaches it only through the supervisor's `OldTables`, which the work of no child
        // touches, and a child ends by _exit(2), which drops nothing.
        unsafe { madvise(self.start.as_ptr(), self.bytes, Advice::LinuxDontFork) }
            .map_err(failed("madvise", self.bytes))
    }

    /// Maps memory of this size, which is sealed.
    fn map(memory: OwnedFd, bytes: usize) -> Result<Mapping, TableError> {
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
        .map_err(failed("mmap", bytes))?;
        let start = NonNull::new(start).ok_or(TableError::Shape("mapped at address 0"))?;
        Ok(Mapping { start, bytes, memory })
    }

    /// The descriptor of the memory.
    pub fn descriptor(&self) -> BorrowedFd<'_> {
        self.memory.as_fd()
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

/// The memory keeps its size, and keeps these seals.
const SEALS: SealFlags = SealFlags::SHRINK.union(SealFlags::GROW).union(SealFlags::SEAL);

fn failed(step: &'static str, bytes: usize) -> impl Fn(rustix::io::Errno) -> TableError {
    move |errno| TableError::System { step, bytes, source: errno.into() }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: start and length are those of our own mmap; slices of it borrow `self`, so no
        // slice is left. munmap(2) cannot fail for a whole mapping, and there would be no way to
        // handle a failure.
        let _ = unsafe { munmap(self.start.as_ptr(), self.bytes) };
    }
}
