//! Names: parallel lookups despite name servers that do not answer, use of all addresses, and
//! zones.

use std::fs;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV6, TcpStream, UdpSocket};
use std::process::Command;
use std::thread;

use crate::harness::machine::{in_etc, in_own_network};
use crate::harness::{Backend, Pen, Port, ask, eventually, until};
use rustix::process::Signal;

/// The addresses of the name server that answers, and of the one that does not.
const ANSWERING: &str = "127.0.0.53:53";
const SILENT: &str = "127.0.0.52:53";

const NO_SUCH_NAME: u8 = 3;
const SERVER_FAILURE: u8 = 2;

/// The first of two name servers never answers.
fn resolv_conf() -> String {
    in_etc("resolv.conf", "nameserver 127.0.0.52\nnameserver 127.0.0.53\n")
}

/// A name server (RFC 1035, section 4.1): every name has the address 127.0.0.1, except those that
/// begin with `no` and `fail`.
fn name_servers() -> UdpSocket {
    let socket = UdpSocket::bind(ANSWERING).unwrap();
    thread::spawn(move || {
        let mut query = [0; 512];
        while let Ok((length, client)) = socket.recv_from(&mut query) {
            let name = query[13..length].to_vec();
            let end = 12 + query[12..length].iter().position(|byte| *byte == 0).unwrap() + 5;
            let is_a = query[end - 4..end - 2] == [0, 1];
            let code = match () {
                () if name.starts_with(b"no") => NO_SUCH_NAME,
                () if name.starts_with(b"fail") => SERVER_FAILURE,
                () => 0,
            };
            let answers = u8::from(is_a && code == 0);
            let mut reply = query[..end].to_vec();
            reply[2..12].copy_from_slice(&[0x81, 0x80 | code, 0, 1, 0, answers, 0, 0, 0, 0]);
            if answers > 0 {
                reply.extend([0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 60, 0, 4, 127, 0, 0, 1]);
            }
            socket.send_to(&reply, client).unwrap();
        }
    });
    UdpSocket::bind(SILENT).unwrap()
}

#[test]
fn a_helper_that_a_real_time_signal_kills_keeps_nobody() {
    let this = "a_helper_that_a_real_time_signal_kills_keeps_nobody";
    if !in_own_network(this, &[in_etc("resolv.conf", "nameserver 127.0.0.52\n")]) {
        return;
    }
    let _silent = UdpSocket::bind(SILENT).unwrap();
    let server = Backend::named_on(Ipv4Addr::LOCALHOST.into(), "a");
    let pen = Pen::builder().server(&server).file("blacklist 1\n").control().start();
    let file = pen.directory().join("pen.cfg");
    fs::write(file, "blacklist 2\nserver 3 address new.test port 80\n").unwrap();
    pen.supervisor().signal(Signal::HUP);
    let helper = until("a helper waits for the name server", || {
        let mut children = pen.supervisor().children().into_iter();
        children.find(|child| child.title().starts_with("pen: helper"))
    });
    helper.kill_with(34);
    pen.hears("the configuration file is not used: the settings stay as they were");
    pen.tells("blacklist", "1");
    let worker = pen.workers().remove(0);
    worker.kill();
    pen.hears(&format!("(pid {}) was killed by signal 9; ", worker.pid()));
    eventually("it is replaced", || pen.workers().iter().all(|now| now.pid() != worker.pid()));
    assert_eq!(pen.ask(Ipv4Addr::LOCALHOST).as_deref(), Some("a"));
}

#[test]
fn a_dead_name_server_delays_many_names_no_more_than_one() {
    let this = "a_dead_name_server_delays_many_names_no_more_than_one";
    if !in_own_network(this, &[resolv_conf()]) {
        return;
    }
    let _silent = name_servers();
    let server = Backend::named_on(Ipv4Addr::LOCALHOST.into(), "a");
    let port = server.address().port();
    let mut builder = Pen::builder().file("blacklist 1\n").control().options(["-S", "64"]);
    for number in 0..20 {
        builder = builder.server_as(format!("server{number}.test:{port}"));
    }
    let pen = builder.start();
    assert_eq!(
        pen.tell("servers").lines().filter(|line| line.contains(" addr 127.0.0.1 ")).count(),
        20
    );
    assert_eq!(pen.ask(Ipv4Addr::LOCALHOST).as_deref(), Some("a"));
    let file = pen.directory().join("pen.cfg");
    let lines = |names: &[&str]| {
        let lines = names
            .iter()
            .enumerate()
            .map(|(n, name)| format!("server {} address {name} port {port}\n", 30 + n));
        format!("blacklist 2\n{}", lines.collect::<String>())
    };
    fs::write(&file, lines(&["new1.test", "new2.test", "new3.test"])).unwrap();
    pen.supervisor().signal(Signal::HUP);
    eventually("the file is in force", || pen.tell("blacklist") == "2\n");
    assert!(pen.tell("servers").contains("32 addr 127.0.0.1 "));
    // Each name without an address is reported in one line with the reason, and nothing changes.
    fs::write(
        &file,
        lines(&["other.test", "no1.test", "fail1.test", "no2.test"])
            .replace("blacklist 2", "blacklist 3"),
    )
    .unwrap();
    pen.supervisor().signal(Signal::HUP);
    pen.hears(&format!("{}:3: cannot resolve no1.test: no such host", file.display()));
    pen.hears(&format!(
        "{}:4: cannot resolve fail1.test: the name server does not answer",
        file.display()
    ));
    pen.hears(&format!("{}:5: cannot resolve no2.test: no such host", file.display()));
    pen.hears("the settings stay as they were");
    pen.tells("blacklist", "2");
    assert!(!pen.said().contains("other.test") && !pen.tell("servers").contains("33 addr"));
    assert_eq!(pen.ask(Ipv4Addr::LOCALHOST).as_deref(), Some("a"));
}

/// /etc/hosts with a name whose first address is ::1.
fn hosts() -> Vec<String> {
    vec![in_etc("hosts", "127.0.0.1 both\n::1 both\n")]
}

#[test]
fn the_next_address_of_a_name_is_tried_and_all_workers_go_on_with_it() {
    if !in_own_network(
        "the_next_address_of_a_name_is_tried_and_all_workers_go_on_with_it",
        &hosts(),
    ) {
        return;
    }
    let server = Backend::named_on(Ipv4Addr::LOCALHOST.into(), "a");
    let port = server.address().port();
    let pen =
        Pen::builder().server_as(format!("both:{port}")).options(["-b", "60"]).control().start();
    assert!(pen.tell("servers").starts_with("0 addr ::1 "));
    for worker in 0..3 {
        for _ in 0..3 {
            assert_eq!(pen.only(worker, || pen.ask(Ipv4Addr::LOCALHOST)).as_deref(), Some("a"));
        }
    }
    pen.hears(&format!(
        "server 0 (both): [::1]:{port}: connection refused; using 127.0.0.1:{port}"
    ));
    assert_eq!(pen.said().matches("using 127.0.0.1").count(), 1, "it is told once: {}", pen.said());
    assert!(!pen.said().contains("blacklisting"));
    assert!(pen.tell("servers").starts_with("0 addr 127.0.0.1 "), "{}", pen.tell("servers"));
    // When the working address fails, the first address is the next.
    server.stop();
    let six =
        Backend::named_at(Port::reserve_at(SocketAddr::from((Ipv6Addr::LOCALHOST, port))), "six");
    assert_eq!(pen.ask(Ipv4Addr::LOCALHOST).as_deref(), Some("six"));
    pen.hears(&format!(
        "server 0 (both): 127.0.0.1:{port}: connection refused; using [::1]:{port}"
    ));
    assert!(!pen.said().contains("blacklisting"));
    // The server is blacklisted only when all addresses have failed.
    six.stop();
    assert_eq!(pen.ask(Ipv4Addr::LOCALHOST), None);
    pen.hears("blacklisting server 0 ([::1]:");
    pen.hears(" and 1 more address) for 60 s: connection refused");
    pen.settle();
}

#[test]
fn emergency_and_abuse_servers_have_all_their_addresses_too() {
    if !in_own_network("emergency_and_abuse_servers_have_all_their_addresses_too", &hosts()) {
        return;
    }
    let [emergency, abuse] =
        ["emergency", "abuse"].map(|name| Backend::named_on(Ipv4Addr::LOCALHOST.into(), name));
    let name = |server: &Backend| format!("both:{}", server.address().port());
    let down = Backend::down("down");
    let pen = Pen::builder()
        .server(&down)
        .options(["-e", &name(&emergency), "-B", &name(&abuse)])
        .options([
            "-O",
            "acl 1 deny 127.9.0.0/16",
            "-O",
            "acl 1 permit 0.0.0.0/0",
            "-O",
            "client_acl 1",
        ])
        .start();
    assert_eq!(pen.ask(Ipv4Addr::LOCALHOST).as_deref(), Some("emergency"));
    assert_eq!(pen.ask(Ipv4Addr::new(127, 9, 0, 1)).as_deref(), Some("abuse"));
    pen.hears("the emergency server (both): [::1]:");
    pen.hears("the abuse server (both): [::1]:");
}

#[test]
fn a_listener_takes_the_first_address_that_the_machine_has() {
    // The network exists, so getaddrinfo(3) puts the address first that the machine does not have.
    let setup = [
        in_etc("hosts", "2001:db8::1 front\n127.0.0.1 front\n"),
        "ip link add pen0 type veth peer name pen1; ip addr add 2001:db8::2/64 dev pen0 nodad"
            .to_owned(),
        "ip link set pen0 up; ip link set pen1 up".to_owned(),
    ];
    if !in_own_network("a_listener_takes_the_first_address_that_the_machine_has", &setup) {
        return;
    }
    let server = Backend::named_on(Ipv4Addr::LOCALHOST.into(), "a");
    let port = Port::reserve();
    let number = port.address().port();
    let pen = Pen::builder().listen(format!("front:{number}")).server(&server).start();
    pen.hears(&format!("cannot listen on [2001:db8::1]:{number}: "));
    pen.hears(&format!("listening on 127.0.0.1:{number} instead"));
    let there = SocketAddr::from((Ipv4Addr::LOCALHOST, number));
    assert_eq!(ask(there, Ipv4Addr::LOCALHOST.into()).as_deref(), Some("a"));
}

#[test]
fn link_local_addresses_have_zones_on_either_side() {
    let setup = [
        "ip link add pen0 type veth peer name pen1".to_owned(),
        "ip link set pen0 addrgenmode none; ip link set pen1 addrgenmode none".to_owned(),
        "ip addr add fe80::a/64 dev pen0 nodad; ip addr add fe80::b/64 dev pen1 nodad".to_owned(),
        "ip link set pen0 up; ip link set pen1 up".to_owned(),
    ];
    if !in_own_network("link_local_addresses_have_zones_on_either_side", &setup) {
        return;
    }
    // `2: pen0@pen1: <BROADCAST...`
    let shown = Command::new("ip").args(["-o", "link", "show", "pen0"]).output().unwrap().stdout;
    let scope: u32 = String::from_utf8(shown).unwrap().split(':').next().unwrap().parse().unwrap();
    let here = |port| SocketAddr::V6(SocketAddrV6::new("fe80::a".parse().unwrap(), port, 0, scope));
    let server = Backend::named_at(Port::reserve_at(here(0)), "zoned");
    let port = server.address().port();
    let front = Port::reserve_at(here(0));
    let number = front.address().port();
    drop(front);
    let pen = Pen::builder()
        .listen(format!("[fe80::a%pen0]:{number}"))
        .server_as(format!("[fe80::a%pen0]:{port}"))
        .control()
        .start();
    let answer = TcpStream::connect(here(number)).map(|mut stream| {
        let mut text = String::new();
        stream.shutdown(std::net::Shutdown::Write).unwrap();
        std::io::Read::read_to_string(&mut stream, &mut text).unwrap();
        text
    });
    assert_eq!(answer.unwrap().trim(), "zoned");
    assert!(
        pen.tell("servers").starts_with(&format!("0 addr fe80::a%pen0 port {port} ")),
        "{}",
        pen.tell("servers")
    );
    pen.tells(&format!("server 1 address fe80::a%pen0 port {port}"), "");
    assert!(pen.refuses("server 1 address fe80::a%nowhere").contains("no such interface"));
}
