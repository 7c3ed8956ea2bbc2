//! Servers that are taken out of use and brought back while clients come (pen.conf(5), SERVERS).

mod states;
