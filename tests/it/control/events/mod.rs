//! Events: what causes each kind, and what `events` and `watch` tell.

mod certificates;
mod kinds;
mod limits;
mod starts;
mod watch;
