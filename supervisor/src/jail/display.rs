//! The sandbox in force as text: the reply to `sandbox`, and the lines in reports.

#![forbid(unsafe_code)]

use std::fmt::{self, Display, Formatter, Write};

use caps::{CapSet, Capability};
use serde::Serialize;

use crate::jail::Jail;
use crate::jail::sandbox::supervisor::denied;
use crate::jail::sandbox::{Filters, ProcessKind, Sandbox, landlock};
use crate::jail::user;

/// The restrictions of the workers, for reports.
#[derive(Debug, Serialize)]
pub(crate) struct Summary {
    /// Whether a system call outside the list kills a worker.
    pub(crate) seccomp: bool,
    /// The version of Landlock in force; 0 = none.
    pub(crate) landlock: i32,
    pub(crate) root: WorkerRoot,
}

/// The root directory of the workers.
#[derive(Clone, Copy, Debug, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum WorkerRoot {
    /// That of `-j`.
    Jail,
    /// An empty one without a name.
    Empty,
    /// That of the supervisor.
    Kept,
}

/// `system calls filtered, Landlock 6, root directory empty`
impl Display for Summary {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        f.write_str(if self.seccomp {
            "system calls filtered, "
        } else {
            "system calls not filtered, "
        })?;
        match self.landlock {
            0 => f.write_str("no Landlock")?,
            version => write!(f, "Landlock {version}")?,
        }
        let root = match self.root {
            WorkerRoot::Jail => "that of -j",
            WorkerRoot::Empty => "empty",
            WorkerRoot::Kept => "kept",
        };
        write!(f, ", root directory {root}")
    }
}

impl Sandbox {
    /// The restrictions of the workers.
    pub(crate) fn summary(&self, jailed: bool) -> Summary {
        let root = match (jailed, &self.empty_root) {
            (true, _) => WorkerRoot::Jail,
            (false, Some(_)) => WorkerRoot::Empty,
            (false, None) => WorkerRoot::Kept,
        };
        Summary {
            seccomp: matches!(self.filters, Filters::Inherited(_)),
            landlock: self.landlock.min(landlock::TESTED),
            root,
        }
    }
}

/// The reply to `sandbox`: a line for each kind of process.
pub(crate) fn table(jail: &Jail) -> String {
    let mut text = String::new();
    let kinds = [
        ("worker", ProcessKind::Relay),
        ("examiner", ProcessKind::Examiner),
        ("control", ProcessKind::Control),
        ("page", ProcessKind::Page),
        ("checker", ProcessKind::Checker),
        ("resolver", ProcessKind::Resolver),
        ("opener", ProcessKind::Opener),
        ("writer", ProcessKind::Writer),
        ("reader", ProcessKind::Reader),
        ("reporter", ProcessKind::Reporter),
    ];
    // Writing to a string cannot fail.
    let _ = writeln!(text, "supervisor: root /; {}; {}", capabilities(), refused(&jail.sandbox));
    for (name, kind) in kinds {
        let _ = writeln!(text, "{name}: {}", line(jail, kind));
    }
    text
}

fn line(jail: &Jail, kind: ProcessKind) -> String {
    let Jail { root, identity, sandbox } = jail;
    let root = match kind {
        ProcessKind::Resolver
        | ProcessKind::Writer
        | ProcessKind::Reader
        | ProcessKind::Reporter => "/".into(),
        ProcessKind::Relay
        | ProcessKind::Examiner
        | ProcessKind::Control
        | ProcessKind::Page
        | ProcessKind::Checker
        | ProcessKind::Opener => match (root, sandbox.root(kind)) {
            (Some(root), _) => root.display().to_string(),
            (None, Some(_)) => "an empty directory".into(),
            (None, None) => "/".into(),
        },
    };
    let whose = match kind {
        ProcessKind::Reader => "as the supervisor; capabilities dac_override at most".into(),
        ProcessKind::Reporter => {
            "as the supervisor; capabilities dac_override,fowner at most".into()
        }
        ProcessKind::Resolver => format!(
            "uid {}; {}; not dumpable; no core",
            user::of_resolver(identity).uid,
            of_jailed()
        ),
        ProcessKind::Relay
        | ProcessKind::Examiner
        | ProcessKind::Control
        | ProcessKind::Page
        | ProcessKind::Checker
        | ProcessKind::Opener
        | ProcessKind::Writer => {
            format!("uid {}; {}; not dumpable; no core", identity.uid, of_jailed())
        }
    };
    let calls = match sandbox.filters {
        Filters::Inherited(_) => {
            let calls = kind.calls(0);
            let count = calls.plain.len() + calls.checked.len();
            format!("system calls: {count} allowed, others end it")
        }
        Filters::Missing => "system calls: unfiltered".into(),
    };
    let landlock = match sandbox.landlock {
        0 => "landlock: no".into(),
        version => format!(
            "landlock {}: {}",
            version.min(landlock::TESTED),
            landlock::words(kind, version)
        ),
    };
    format!("root {root}; {whose}; {calls}; {landlock}")
}

/// The capabilities of a jailed process. It cannot get those left in the bounding set, because it
/// executes nothing and has no_new_privs set.
fn of_jailed() -> &'static str {
    match caps::has_cap(None, CapSet::Effective, Capability::CAP_SETPCAP) {
        Ok(true) => "capabilities none",
        _ => "capabilities none (the bounding set is the supervisor's: CAP_SETPCAP is missing)",
    }
}

/// The present capabilities of the supervisor.
fn capabilities() -> String {
    let Ok(held) = caps::read(None, CapSet::Permitted) else {
        return "capabilities unknown".into();
    };
    let mut names: Vec<String> = held.iter().map(|held| held.to_string().to_lowercase()).collect();
    names.sort();
    match names.is_empty() {
        true => "capabilities none".into(),
        false => format!("capabilities {}", names.join(",").replace("cap_", "")),
    }
}

fn refused(sandbox: &Sandbox) -> String {
    let calls = match sandbox.filters {
        Filters::Inherited(_) => {
            let calls = denied();
            format!("system calls: {} refused", calls.plain.len() + calls.checked.len())
        }
        Filters::Missing => "system calls: unfiltered".into(),
    };
    let landlock = match sandbox.landlock {
        0 => "landlock: no".into(),
        version => {
            format!("landlock {}: {}", version.min(landlock::TESTED), sandbox.execution.words())
        }
    };
    format!("{calls}; {landlock}")
}
