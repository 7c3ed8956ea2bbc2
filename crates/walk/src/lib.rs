//! Walks to a file whose path was given to pen, component by component, so that a symbolic link of
//! another user cannot lead root elsewhere.
//!
//! A symbolic link is followed on two conditions. It belongs to root or to the user who started
//! pen, and no other user can replace it. For the second condition, each directory on the way must
//! belong to these users and must not be writable by others. In a directory with the sticky bit
//! (/tmp) the owner of the link is enough, because no other user may rename it. Directories that
//! are not links are entered whatever their owner. A user cannot move another user's directory into
//! his own, because rename(2) needs the right to write both.
//!
//! The result holds a descriptor of the directory that was reached. Files are opened, renamed and
//! removed relative to it, so a path that changes afterwards has no effect. Each use of a path
//! walks again, and so finds a directory that was made again.

#![forbid(unsafe_code)]

mod entry;
mod open;
mod trust;
mod walk;

pub use crate::entry::Entry;
pub use crate::open::{FileKind, directory, follow, kind, list, read};
pub use crate::walk::PathEnd;
