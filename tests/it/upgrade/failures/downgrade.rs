//! Downgrades to a release that could not go on: one that lacks a feature which is in use, or whose
//! tables have too few rows. Each is refused in its rehearsal, with one line.

use super::Failing;
use crate::harness::Port;

/// A feature is in use: the earlier release is refused. Then it is off.
#[track_caller]
fn is_refused_while_in_use(mut failing: Failing, feature: &str, off: &str) {
    failing.pen.install(&format!("0.0.9 lacks {feature}"));
    let reason =
        format!("the state requires {feature:?}, which pen 0.0.9 lacks: it needs a restart");
    for _ in 0..2 {
        failing.fails(feature, &reason);
        assert_eq!(failing.pen.said().matches(&reason).count(), failing.failures);
    }
    failing.pen.tell(off);
    assert_eq!(failing.pen.becomes("0.0.9"), 1, "nothing needs {feature} any more");
    failing.held.echoes("served by an old worker");
}

#[test]
fn to_a_release_without_the_connection_log_while_there_is_one() {
    let log = tempfile::tempdir().unwrap();
    let command = format!("connection_log {}", log.path().join("connections").display());
    let failing = Failing::started(|builder| builder.options(["-O", &command]));
    is_refused_while_in_use(failing, "connection_log", "no connection_log");
    let failing = Failing::start();
    failing.pen.install("0.0.9 lacks connection_log");
    assert_eq!(failing.pen.becomes("0.0.9"), 1, "without a log, nothing needs it");
}

#[test]
fn to_a_release_without_the_page_while_there_is_one() {
    let port = Port::reserve();
    let page = format!("page {}", port.address());
    let mut failing = Failing::started(|builder| builder.page(&page));
    failing.pen.install("0.0.9 lacks page");
    failing.fails("page", "the state requires \"page\", which pen 0.0.9 lacks: it needs a restart");
    failing.succeeds();
    let failing = Failing::start();
    failing.pen.install("0.0.9 lacks page");
    assert_eq!(failing.pen.becomes("0.0.9"), 1, "without a page, nothing needs it");
}

#[test]
fn to_a_release_without_checks_while_there_are_some() {
    let failing = Failing::started(|builder| builder.options(["-O", "check tcp"]));
    is_refused_while_in_use(failing, "checks", "check off");
}

#[test]
fn to_a_release_that_holds_nobody_while_somebody_may_be_held() {
    let failing = Failing::started(|builder| builder.options(["-O", "hold 5"]));
    is_refused_while_in_use(failing, "hold", "hold 0");
}

#[test]
fn to_a_release_without_states_of_servers_while_one_is_out() {
    for state in ["drain", "maint"] {
        let setting = format!("server 1 address 127.0.0.1 port 1 state {state}");
        let failing = Failing::started(|builder| builder.options(["-O", &setting]));
        is_refused_while_in_use(failing, "server_states", "server 1 state ready");
    }
    let failing = Failing::start();
    failing.pen.install("0.0.9 lacks server_states");
    assert_eq!(failing.pen.becomes("0.0.9"), 1, "while all are ready, nothing needs it");
}

#[test]
fn to_a_release_whose_servers_follow_no_names_while_some_do() {
    let follow = ["-O", "servers_from localhost 1 10-11", "-O", "resolve 3600"];
    let failing = Failing::started(|builder| builder.options(follow));
    is_refused_while_in_use(failing, "servers_from", "no servers_from localhost");
}

#[test]
fn to_a_release_that_looks_names_up_once_while_they_are_looked_up_again() {
    let failing = Failing::started(|builder| builder.options(["-e", "localhost:1"]));
    is_refused_while_in_use(failing, "names", "resolve 0");
    let failing = Failing::start();
    failing.pen.install("0.0.9 lacks names");
    assert_eq!(failing.pen.becomes("0.0.9"), 1, "without a name, nothing needs it");
}

#[test]
fn to_a_release_without_a_method_while_it_is_in_force() {
    for method in ["leastconn", "p2c", "maglev"] {
        let failing = Failing::started(|builder| builder.options(["-O", method]));
        is_refused_while_in_use(failing, "placement", "weight");
    }
}

#[test]
fn to_a_release_that_would_send_clear_text_to_servers_with_tls() {
    // The server of the others does not speak it.
    let commands =
        ["emergency 127.0.0.1:1", "server_tls", "server_tls_verify off", "server 0 tls off"];
    let options = commands.into_iter().flat_map(|command| ["-O", command]);
    let failing = Failing::started(|builder| builder.options(options));
    is_refused_while_in_use(failing, "server_tls", "no server_tls");
}

#[test]
fn to_a_release_whose_tables_have_fewer_rows() {
    let mut failing = Failing::start();
    let reason = "the shared table has 194 rows, and pen 0.0.9 knows 130 at most: it needs a \
                  restart";
    for layout in ["", "layout 3 "] {
        failing.pen.install(&format!("0.0.9 {layout}rows 130"));
        failing.fails(layout, reason);
    }
    failing.pen.install("0.0.9 rows 194");
    assert_eq!(failing.pen.becomes("0.0.9"), 1);
}
