//! The jailed processes as the supervisor sees them: workers, and those with a port of their own.

pub(crate) mod backoff;
pub(crate) mod child;
pub(crate) mod closes;
pub(crate) mod ending;
pub(crate) mod liveness;
pub(crate) mod old;
pub(crate) mod old_tables;
pub(crate) mod old_worker;
pub(crate) mod peer;
pub(crate) mod pool;
pub(crate) mod ports;
pub(crate) mod spawn;
pub(crate) mod worker;
