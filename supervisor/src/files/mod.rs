//! Files and listeners that the supervisor opens, holds, and passes to other processes.

pub(crate) mod certificates;
pub(crate) mod configuration;
pub(crate) mod holder;
pub(crate) mod line_log;
pub(crate) mod listener;
pub(crate) mod made;
pub(crate) mod memory;
pub(crate) mod pid_file;
pub(crate) mod program;
pub(crate) mod running;
pub(crate) mod source;
pub(crate) mod status_file;
pub(crate) mod tls_material;
