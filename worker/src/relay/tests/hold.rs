//! Clients who wait for a server, or for the end of a pause.

use std::net::Shutdown;

use pen_config::checks::Admission;
use pen_config::ids::NO_SERVER;

use crate::relay::tests::*;

/// A worker whose only server gets no clients until [`back`].
fn holding(hold: u32, backend: &Backend) -> Rig {
    let rig = Rig::start(Settings { hold, ..settings([backend.definition()]) });
    rig.table.take_out(0, u64::MAX >> 1, 0);
    rig
}

fn back(rig: &Rig) {
    rig.table.clear_blacklist(0);
}

/// So many clients wait, and have no server.
fn wait(rig: &mut Rig, clients: usize) {
    rig.report_until(|report| {
        report.len() == clients
            && report.iter().all(|held| (held.state & 3, held.server) == (1, NO_SERVER))
    });
}

#[test]
fn whoever_waits_is_served_when_a_server_can_be_used_the_oldest_first() {
    let backend = Backend::new();
    let mut rig = holding(600, &backend);
    let clients: Vec<_> = (0..5)
        .map(|number| {
            let mut client = rig.client();
            client.write_all(&[number]).unwrap();
            wait(&mut rig, usize::from(number) + 1);
            client
        })
        .collect();
    back(&rig);
    for (number, mut client) in (0..).zip(clients) {
        let mut server = backend.accept();
        assert_eq!(read(&mut server, 1), [number]);
        server.write_all(b"!").unwrap();
        assert_eq!(read(&mut client, 1), b"!");
    }
}

#[test]
fn nobody_waits_longer_than_the_setting_says_and_without_it_nobody_waits() {
    let backend = Backend::new();
    for seconds in [1, 0] {
        let mut rig = holding(seconds, &backend);
        let mut client = rig.client();
        assert_eq!(end_of(&mut client), (vec![], false));
        rig.report_until(|report| report.is_empty());
    }
}

#[test]
fn whoever_hangs_up_is_let_go_and_half_a_close_after_a_request_is_none() {
    let backend = Backend::new();
    let mut rig = holding(600, &backend);
    let (gone, reset, mut stays) = (rig.client(), rig.client(), rig.client());
    stays.write_all(b"?").unwrap();
    wait(&mut rig, 3);
    stays.shutdown(Shutdown::Write).unwrap();
    drop(gone);
    rustix::net::sockopt::set_socket_linger(&reset, Some(Duration::ZERO)).unwrap();
    drop(reset);
    wait(&mut rig, 1);
    back(&rig);
    let mut server = backend.accept();
    assert_eq!(end_of(&mut server), (b"?".to_vec(), false));
    server.write_all(b"!").unwrap();
    drop(server);
    assert_eq!(end_of(&mut stays), (b"!".to_vec(), false));
}

#[test]
fn a_client_whom_no_server_may_ever_serve_does_not_wait() {
    let backend = Backend::new();
    let refused = backend.definition().map(|server| Server { acl: 1, ..server });
    let mut settings = Settings { hold: 600, ..settings([refused]) };
    let acl = pen_config::command::parse("acl 1 deny 127.0.0.0/8").unwrap();
    let Some(pen_config::command::Command::Setting(setting)) = acl else { panic!("{acl:?}") };
    pen_config::apply::apply(&mut settings, &setting, &Default::default(), None).unwrap();
    let rig = Rig::start(settings);
    assert_eq!(end_of(&mut rig.client()), (vec![], false));
}

#[test]
fn a_pause_holds_new_clients_and_no_others_and_ends_by_command_only() {
    let backend = Backend::new();
    let mut rig = Rig::start(Settings { hold: 1, ..settings([backend.definition()]) });
    let (mut known, mut known_server) = connected(&rig, &backend);
    rig.apply(|settings| settings.admission = Admission::Paused);
    let mut client = rig.client();
    client.write_all(b"?").unwrap();
    let is_held = |held: &ConnectionInfo| (held.state & 3, held.server) == (1, NO_SERVER);
    rig.report_until(|report| report.iter().filter(|one| is_held(one)).count() == 1);
    known.write_all(b"x").unwrap();
    assert_eq!(read(&mut known_server, 1), b"x");
    // Another client came later and waited as long as `hold`, which is no limit for a pause.
    let other = holding(1, &backend);
    assert_eq!(end_of(&mut other.client()), (vec![], false));
    rig.apply(|settings| settings.tracking = 7);
    assert!(rig.report().iter().any(is_held));
    rig.apply(|settings| settings.admission = Admission::Open);
    let mut server = backend.accept();
    assert_eq!(read(&mut server, 1), b"?");
}

#[test]
fn a_worker_that_drains_serves_those_whom_it_holds_when_the_pause_ends() {
    let backend = Backend::new();
    let paused = Settings { admission: Admission::Paused, ..settings([backend.definition()]) };
    let mut rig = Rig::start(paused);
    let mut client = rig.client();
    client.write_all(b"?").unwrap();
    wait(&mut rig, 1);
    rig.send(&LastingToWorker::Drain.into(), None);
    wait(&mut rig, 1);
    rig.send(&LastingToWorker::Admit(Admission::Open).into(), None);
    let mut server = backend.accept();
    assert_eq!(read(&mut server, 1), b"?");
    drop((client, server));
    assert_eq!(rig.wait_for_end(), 0);
}
