//! The restrictions that outlive an upgrade: a successor finds them in force, and puts none of them
//! in force again.
//!
//! Filters and Landlock layers add up over executions, and the kernel allows 16 layers. So a
//! program adds nothing before it is in charge: if it fails, the program before finds what it left.

#![forbid(unsafe_code)]

use std::os::fd::OwnedFd;
use std::rc::Rc;

use pen_ipc::text::error_text;
use rustix::fs::{FileType, fstat};
use serde::{Deserialize, Serialize};

use crate::clock;
use crate::jail::sandbox::execution::Execution;
use crate::jail::sandbox::{Filters, KernelStatus, Sandbox, calls, supervisor};
use crate::sys;

/// What the next program needs to know about a [`Sandbox`], besides the descriptor of its empty
/// root directory.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub(crate) struct CarriedSandbox {
    filters: Filters,
    landlock: i32,
    execution: Execution,
    /// The number of the list of denied calls.
    list: u32,
}

#[cfg(test)]
impl CarriedSandbox {
    pub(crate) fn filters(&self) -> Filters {
        self.filters
    }
}

impl Sandbox {
    /// For the next program.
    pub(crate) fn carried(&self) -> CarriedSandbox {
        let Sandbox { filters, landlock, execution, list, empty_root: _ } = self;
        CarriedSandbox {
            filters: *filters,
            landlock: *landlock,
            execution: execution.clone(),
            list: *list,
        }
    }

    /// Adds the restrictions that are new in this program. Call this when it is in charge.
    ///
    /// # Errors
    /// The kernel refuses; the restrictions of before are in force.
    pub(crate) fn complete(&mut self) -> Result<(), String> {
        supervisor::reduce_capabilities()?;
        match self.filters {
            Filters::Inherited(_) if self.list < calls::LIST => {
                self.filters = Filters::Inherited(supervisor::filter_system_calls()?);
                self.list = calls::LIST;
            }
            Filters::Inherited(_) | Filters::Missing => {}
        }
        Ok(())
    }
}

/// The restrictions that the program before had put in force, verified as far as the kernel tells.
///
/// # Errors
/// They are not in force, or `empty_root` is no removed directory.
pub(crate) fn adopted(
    carried: &CarriedSandbox,
    empty_root: Option<OwnedFd>,
) -> Result<Sandbox, String> {
    // As at a start: for all children, before they are confined.
    clock::monotonic();
    let CarriedSandbox { filters, landlock, execution, list } = carried.clone();
    let found = KernelStatus::open().read().map_err(|error| error_text(&error))?;
    let filters = match (filters, found) {
        (Filters::Inherited(_), Some(found)) if !found.no_new_privileges => {
            return Err("no_new_privs is not set".into());
        }
        (Filters::Inherited(Some(expected)), Some(found)) if found.filters < expected => {
            return Err(format!(
                "there should be {expected} filters of system calls, and there are {}",
                found.filters
            ));
        }
        // More of them are those of a successor that failed when it was in charge.
        (Filters::Inherited(_), found) => Filters::Inherited(found.map(|found| found.filters)),
        (Filters::Missing, _) => Filters::Missing,
    };
    if landlock > 0 && sys::landlock_version().ok() != Some(landlock) {
        return Err(format!("Landlock {landlock} is gone"));
    }
    if let Some(root) = &empty_root {
        let found = fstat(root).map_err(|errno| error_text(&errno.into()))?;
        let kind = FileType::from_raw_mode(found.st_mode);
        if kind != FileType::Directory || found.st_nlink > 0 {
            return Err("the empty root directory is another file".into());
        }
    }
    Ok(Sandbox { filters, landlock, empty_root: empty_root.map(Rc::new), execution, list })
}
