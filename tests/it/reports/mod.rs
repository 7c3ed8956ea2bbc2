//! What pen tells: reports, the request log, debug output.

mod debug;
mod reports;
mod request_log;
