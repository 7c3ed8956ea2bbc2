//! The jailed processes as the supervisor sees them: workers and the control process.

pub(crate) mod backoff;
pub(crate) mod child;
pub(crate) mod control;
pub(crate) mod flood;
pub(crate) mod liveness;
pub(crate) mod peer;
pub(crate) mod pool;
pub(crate) mod spawn;
pub(crate) mod worker;
