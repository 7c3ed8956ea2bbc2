//! IPv4, IPv6, both at once, and Unix sockets, on either side (pen(8), Addresses).

use std::fs;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream};
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::os::unix::net::UnixListener;
use std::path::Path;

use crate::harness::{Backend, Client, Pen, Port, ask, machine};
use rustix::process::Signal;

const V4: IpAddr = IpAddr::V4(Ipv4Addr::new(127, 7, 0, 1));
const V6: IpAddr = IpAddr::V6(Ipv6Addr::LOCALHOST);

/// The answer to a client of a Unix listener.
fn ask_unix(path: &Path) -> String {
    let client = Client::connect_unix(path).unwrap();
    client.finish();
    String::from_utf8(client.read_to_end().unwrap()).unwrap()
}

#[test]
fn ipv6_clients_and_servers_with_either_form_of_the_local_address() {
    let server = Backend::named_on(V6, "six");
    assert!(server.operand().starts_with("[::1]:"));
    for brackets in [true, false] {
        let port = Port::reserve_on(V6);
        let number = port.address().port();
        let local = if brackets { format!("[::1]:{number}") } else { format!("::1:{number}") };
        let pen = Pen::builder().listen(local).server(&server).start();
        assert_eq!(ask(port.address(), V6).as_deref(), Some("six"));
        let report = pen.report();
        assert_eq!(
            (report.servers[0]["address"].as_str(), report.clients[0]["address"].as_str()),
            ("::1", "::1")
        );
    }
}

#[test]
fn an_ipv4_client_may_have_an_ipv6_server_and_the_other_way_round() {
    let (four, six) = (Backend::named("four"), Backend::named_on(V6, "six"));
    let pen = Pen::builder().server(&six).start();
    assert_eq!(pen.ask(Ipv4Addr::new(127, 7, 0, 2)).as_deref(), Some("six"));
    let port = Port::reserve_on(V6);
    let _pen = Pen::builder().listen(port.address().to_string()).server(&four).start();
    assert_eq!(ask(port.address(), V6).as_deref(), Some("four"));
}

#[test]
fn a_dual_stack_listener_treats_ipv4_clients_as_ipv4() {
    let farm = Backend::farm(["a", "b", "c"]);
    let port = Port::reserve_on(Ipv6Addr::UNSPECIFIED.into());
    let number = port.address().port();
    let builder = Pen::builder();
    let log = builder.directory().join("log");
    let pen = builder
        .listen(format!(":::{number}"))
        .options(["-l", log.to_str().unwrap()])
        .servers(&farm)
        .start();
    let four = SocketAddr::from((Ipv4Addr::LOCALHOST, number));
    let six = SocketAddr::from((Ipv6Addr::LOCALHOST, number));
    assert_eq!(ask(four, V4).as_deref(), Some("b"));
    assert_eq!(ask(six, V6).as_deref(), Some("c"));
    for worker in 0..3 {
        assert_eq!(
            pen.only(worker, || (ask(four, V4), ask(six, V6))),
            (Some("b".into()), Some("c".into()))
        );
    }
    let report = pen.report();
    assert!(
        report.client("127.7.0.1").is_some() && report.client("::1").is_some(),
        "{}",
        report.html
    );
    Client::connect(V4, four).unwrap().echoes_after_greeting("GET / HTTP/1.0");
    crate::harness::eventually("it is logged", || {
        fs::read_to_string(&log).is_ok_and(|text| text.ends_with('\n'))
    });
    assert!(fs::read_to_string(&log).unwrap().starts_with("127.7.0.1 "));
}

#[test]
fn a_port_alone_listens_on_all_ipv4_addresses() {
    let server = Backend::named("a");
    let port = Port::reserve_on(Ipv4Addr::UNSPECIFIED.into());
    let number = port.address().port();
    let _pen = Pen::builder().listen(number.to_string()).server(&server).start();
    for address in [Ipv4Addr::LOCALHOST, Ipv4Addr::new(127, 200, 1, 1)] {
        assert_eq!(ask((address, number).into(), V4).as_deref(), Some("a"));
    }
    assert!(TcpStream::connect((Ipv6Addr::LOCALHOST, number)).is_err());
}

#[test]
fn an_address_listens_on_that_address_only() {
    let server = Backend::named("a");
    let pen = Pen::builder().server(&server).start();
    assert!(TcpStream::connect((Ipv4Addr::new(127, 0, 0, 2), pen.address().port())).is_err());
}

#[test]
fn a_server_without_a_port_has_the_listen_port() {
    let all = Port::reserve_on(Ipv4Addr::UNSPECIFIED.into());
    let ip = Ipv4Addr::new(127, 7, 7, 7);
    let _server = Backend::named_at(all.share(ip.into()), "same port");
    let front = SocketAddr::from((Ipv4Addr::LOCALHOST, all.address().port()));
    let pen = Pen::builder().listen(front.to_string()).server_as(ip.to_string()).start();
    assert_eq!(ask(front, V4).as_deref(), Some("same port"));
    assert_eq!(pen.report().servers[0]["port"], front.port().to_string());
}

#[test]
fn names_of_hosts_are_resolved() {
    let server = Backend::named("by name");
    let port = server.address().port();
    let pen = Pen::builder().server_as(format!("localhost:{port}")).start();
    let address = pen.report().servers[0]["address"].clone();
    assert!(["127.0.0.1", "::1"].contains(&address.as_str()), "{address}");
    if address == "127.0.0.1" {
        assert_eq!(pen.ask(Ipv4Addr::new(127, 7, 0, 3)).as_deref(), Some("by name"));
    }
}

#[test]
fn unix_sockets_on_both_sides() {
    let builder = Pen::builder();
    let (front, back) = (builder.directory().join("front"), builder.directory().join("back"));
    let server = Backend::named_unix(&back, "unix");
    let mut pen = builder.listen(&front).server(&server).start();
    assert_eq!(ask_unix(&front), "unix\n");
    let report = pen.report();
    assert_eq!(report.servers[0]["address"], back.to_str().unwrap());
    assert_eq!(report.servers[0]["port"], "1");
    pen.end_by(Signal::TERM);
    assert!(!front.exists(), "the listener's socket is removed");
    assert!(back.exists(), "the server's is not ours");
}

#[test]
fn a_unix_server_has_limits_and_fails_over_when_its_socket_is_missing() {
    let tcp = Backend::named("tcp");
    let builder = Pen::builder();
    let missing = builder.directory().join("missing");
    let pen = builder.server(&tcp).server_as(format!("{}:1:1", missing.display())).start();
    assert_eq!(pen.ask(Ipv4Addr::new(127, 7, 0, 4)).as_deref(), Some("tcp"));
    pen.hears("blacklisting server 1");
    assert_eq!(pen.report().servers[1]["max soft"], "1");
}

#[test]
fn a_socket_that_nobody_answers_on_is_replaced() {
    let server = Backend::named("a");
    let builder = Pen::builder();
    let front = builder.directory().join("front");
    drop(UnixListener::bind(&front).unwrap());
    assert!(fs::symlink_metadata(&front).unwrap().file_type().is_socket());
    let _pen = builder.listen(&front).server(&server).start();
    assert_eq!(ask_unix(&front), "a\n");
}

#[test]
fn a_socket_that_somebody_answers_on_is_in_use() {
    let builder = Pen::builder();
    let front = builder.directory().join("front");
    let owner = UnixListener::bind(&front).unwrap();
    let server = Backend::named("a");
    let said = String::from_utf8(builder.listen(&front).server(&server).fails().stderr).unwrap();
    assert!(said.contains("front") && said.contains("in use"), "{said}");
    drop(owner);
}

#[test]
fn any_other_file_in_the_way_is_an_error_and_is_left_alone() {
    let kept = tempfile::tempdir().unwrap();
    let front = kept.path().join("front");
    fs::write(&front, "precious").unwrap();
    let server = Backend::named("a");
    let said =
        String::from_utf8(Pen::builder().listen(&front).server(&server).fails().stderr).unwrap();
    assert!(said.contains("front"), "{said}");
    assert_eq!(fs::read_to_string(front).unwrap(), "precious");
}

#[test]
fn a_unix_listener_survives_the_death_of_a_worker() {
    let server = Backend::named("a");
    let builder = Pen::builder();
    let front = builder.directory().join("front");
    let pen = builder.workers(1).listen(&front).server(&server).start();
    assert_eq!(
        fs::symlink_metadata(&front).unwrap().permissions().mode() & 0o002,
        0,
        "others may not write"
    );
    pen.workers()[0].kill();
    assert_eq!(ask_unix(&front), "a\n");
}

#[test]
fn two_programs_cannot_share_a_port() {
    let server = Backend::named("a");
    let port = Port::reserve();
    let _first = Pen::builder().listen(port.address().to_string()).server(&server).start();
    let second = Pen::builder().listen(port.address().to_string()).server(&server);
    let said = String::from_utf8(second.fails().stderr).unwrap();
    assert!(said.contains(&port.address().to_string()) && said.contains("in use"), "{said}");
}

#[test]
fn a_server_that_this_machine_has_no_address_for_is_failed_over() {
    let off =
        ["all", "lo"].map(|name| format!("echo 1 > /proc/sys/net/ipv6/conf/{name}/disable_ipv6"));
    if !machine::in_own_network(
        "a_server_that_this_machine_has_no_address_for_is_failed_over",
        &off,
    ) {
        return;
    }
    let farm = Backend::farm(["a"]);
    // The first client is tried at server 1.
    let pen = Pen::builder().options(["-r"]).servers(&farm).server_as("[::1]:9").start();
    for _ in 0..5 {
        assert_eq!(pen.ask(Ipv4Addr::new(127, 0, 0, 1)).as_deref(), Some("a"));
    }
    pen.hears("blacklisting server 1 ([::1]:9)");
}
