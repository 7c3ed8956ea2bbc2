//! Checks of real servers.

use super::{pen, says};
use crate::harness::program::Program;

#[test]
fn nginx_answers_http_with_a_status_and_a_body() {
    let nginx = Program::nginx(
        "",
        "location / { return 200 'all is well\\n'; } location /ill { return 503; } \
         location /moved { return 301 /; }",
    );
    let pen = pen("check http /").server_as(nginx.address().to_string()).start();
    says(&pen, 0, "check up ");
    for (check, words) in [
        ("http /ill", "check down status 503"),
        ("http /moved", "check up "),
        ("http /moved status 200-299", "check down status 301"),
        ("http / body is\\swell", "check up "),
        ("http / body is\\sill", "check down "),
        ("http / host www.example.com", "check up "),
        ("tcp", "check up "),
        ("tls", "check down "),
        ("smtp", "check down "),
    ] {
        pen.tells(&format!("check {check}"), "");
        says(&pen, 0, words);
    }
}
