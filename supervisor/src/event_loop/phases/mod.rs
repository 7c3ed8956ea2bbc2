//! The phases of the event loop: it starts the processes, serves, and stops.

#![forbid(unsafe_code)]

mod serve;
pub(in crate::event_loop) mod start;
mod stop;
