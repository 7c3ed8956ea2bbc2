//! Servers that are taken out of use and brought back while clients come (pen(8), CONTROL COMMANDS).

mod states;
