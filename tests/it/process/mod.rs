//! Processes: their start, life, confinement and end.

mod background;
mod circumstances;
mod crash;
mod jail;
mod paths;
mod share;
mod shortage;
mod signals;
mod syscalls;
mod syslog;
mod systemd;
mod titles;
mod watchdog;
