//! Reports, the request log, debug output.

mod debug;
mod request_log;
mod status;
