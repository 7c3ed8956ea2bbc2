//! `-R`: client certificates. A client without a valid one reaches no server.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;

use crate::harness::tls::{Authority, ONLY_12, ONLY_13, openssl, write};
use crate::harness::{Backend, Builder, Pen, not_checked};

/// A pen with `-R` and a certificate of `root` for `localhost`.
fn strict(root: &Authority) -> Builder {
    let builder = Pen::builder();
    let identity = root.issue(&["localhost"]);
    let certificate = write(builder.directory(), "cert.pem", &identity.chain);
    let key = write(builder.directory(), "key.pem", &identity.key);
    builder.options([
        "-R".as_ref(),
        "-E".as_ref(),
        certificate.as_os_str(),
        "-K".as_ref(),
        key.as_os_str(),
    ])
}

#[test]
fn a_certificate_of_the_file_is_let_in_and_no_other() {
    let (root, other) = (Authority::root("root"), Authority::root("other"));
    let backend = Backend::named("one");
    let builder = strict(&root);
    let authorities = write(builder.directory(), "ca.pem", other.pem());
    let pen = builder.options(["-G".as_ref(), authorities.as_os_str()]).server(&backend).start();
    for versions in [ONLY_12, ONLY_13] {
        for refused in [
            root.client().speaks(versions),
            root.client().speaks(versions).is(&root.issue(&["me"])),
        ] {
            let mut refused = refused;
            assert!(refused.ask(pen.address(), "localhost").is_none());
        }
    }
    assert_eq!(backend.accepted(), 0, "nobody who was refused reached a server");
    for (n, versions) in [ONLY_12, ONLY_13].into_iter().enumerate() {
        let mut client = root.client().speaks(versions).is(&other.issue(&["me"]));
        assert!(client.ask(pen.address(), "localhost").is_some());
        assert_eq!(backend.accepted(), n + 1);
    }
    pen.hears("TLS handshake failed: ");
    pen.settle();
}

#[test]
fn a_certificate_may_take_many_reads() {
    let root = Authority::root("root");
    let backend = Backend::named("one");
    let builder = strict(&root);
    let authorities = write(builder.directory(), "ca.pem", root.pem());
    let pen = builder.options(["-G".as_ref(), authorities.as_os_str()]).server(&backend).start();
    // A handshake of some 56 KB: the last of four reads of 16 KiB ends it.
    let names: Vec<String> = (0..800).map(|n| format!("{n:060}.example")).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let large = root.issue(&names);
    let mut client = root.client().speaks(ONLY_12).is(&large);
    assert!(client.ask(pen.address(), "localhost").is_some());
    pen.settle();
}

#[test]
fn a_hashed_directory_is_read_and_other_files_in_it_are_not() {
    let (root, other) = (Authority::root("root"), Authority::root("other"));
    let backend = Backend::named("one");
    let builder = strict(&root);
    let directory = builder.directory().join("authorities");
    fs::create_dir(&directory).unwrap();
    let pem = write(&directory, "other.pem", other.pem());
    write(&directory, "root.pem", root.pem());
    write(&directory, "README", "no certificate");
    let hash = openssl([
        "x509".as_ref(),
        "-hash".as_ref(),
        "-noout".as_ref(),
        "-in".as_ref(),
        pem.as_os_str(),
    ]);
    symlink(Path::new("other.pem"), directory.join(format!("{}.0", hash.trim()))).unwrap();
    let pen = builder.options(["-A".as_ref(), directory.as_os_str()]).server(&backend).start();
    assert!(root.client().is(&root.issue(&["me"])).ask(pen.address(), "localhost").is_none());
    assert_eq!(backend.accepted(), 0);
    assert!(root.client().is(&other.issue(&["me"])).ask(pen.address(), "localhost").is_some());
}

#[test]
fn with_neither_the_system_says_who_is_known() {
    if !Path::new("/etc/ssl/certs/ca-certificates.crt").exists() {
        not_checked("this machine has no certification authorities");
        return;
    }
    let root = Authority::root("root");
    let backend = Backend::named("one");
    let pen = strict(&root).server(&backend).start();
    assert!(root.client().is(&root.issue(&["me"])).ask(pen.address(), "localhost").is_none());
    assert!(root.client().ask(pen.address(), "localhost").is_none());
    assert_eq!(backend.accepted(), 0);
}

#[test]
fn without_r_nobody_is_asked_and_authorities_are_refused() {
    let root = Authority::root("root");
    let backend = Backend::named("one");
    let builder = Pen::builder();
    let identity = root.issue(&["localhost"]);
    let certificate =
        write(builder.directory(), "cert.pem", format!("{}{}", identity.chain, identity.key));
    let options = ["-E".as_ref(), certificate.as_os_str()];
    let pen = builder.options(options).server(&backend).start();
    assert!(root.client().ask(pen.address(), "localhost").is_some());
    let said = openssl(["s_client", "-connect", &pen.address().to_string()]);
    assert!(said.contains("No client certificate CA names sent"), "{said}");
    for option in ["-G", "-A"] {
        for check in [&[][..], &["--check"]] {
            let options =
                ["-E".as_ref(), certificate.as_os_str(), option.as_ref(), "/nowhere".as_ref()];
            let builder = Pen::builder().server(&backend).options(options).options(check);
            let said = String::from_utf8(builder.fails().stderr).unwrap();
            let why = "says whose client certificates are good, and without -R no client is asked \
                for one; add -R, or";
            assert!(said.starts_with(&format!("pen: {option}: {why}")), "{said}");
        }
    }
}

#[test]
fn a_session_is_no_way_around_new_rules() {
    let (root, other) = (Authority::root("root"), Authority::root("other"));
    let backend = Backend::named("one");
    let builder = strict(&root);
    let authorities = write(builder.directory(), "ca.pem", root.pem());
    let pen = builder.options(["-G".as_ref(), authorities.as_os_str()]).server(&backend).start();
    for versions in [ONLY_12, ONLY_13] {
        fs::write(&authorities, root.pem()).unwrap();
        let mut client = root.client().speaks(versions).is(&root.issue(&["me"]));
        pen.supervisor().signal(rustix::process::Signal::HUP);
        crate::harness::eventually("the client is let in", || {
            client.ask(pen.address(), "localhost").is_some()
        });
        let resumed = client.ask(pen.address(), "localhost").map(|(_, kind)| kind);
        assert_eq!(resumed, Some(rustls::HandshakeKind::Resumed), "the rules are the same");
        // The client's authority is not trusted any more, and its session is not valid either.
        fs::write(&authorities, other.pem()).unwrap();
        pen.supervisor().signal(rustix::process::Signal::HUP);
        crate::harness::eventually("the client is refused", || {
            client.ask(pen.address(), "localhost").is_none()
        });
    }
}
