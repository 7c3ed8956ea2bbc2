//! Certificates by server name, and OCSP responses.

use std::ffi::OsStr;
use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use crate::harness::machine::{self, needs_root};
use crate::harness::tls::{Authority, Identity, openssl, write};
use crate::harness::{Backend, Builder, Pen, eventually};
use rustix::process::Signal;

fn with_certificate(identity: &Identity) -> Builder {
    let builder = Pen::builder();
    let path =
        write(builder.directory(), "cert.pem", format!("{}{}", identity.chain, identity.key));
    builder.options(["-E".as_ref(), path.as_os_str()])
}

fn directory(builder: &Builder) -> PathBuf {
    let directory = builder.directory().join("names");
    fs::create_dir(&directory).unwrap();
    directory
}

fn put(directory: &Path, name: &str, identity: &Identity) {
    write(directory, &format!("{name}.crt"), &identity.chain);
    write(directory, &format!("{name}.key"), &identity.key);
}

fn option(command: &str, path: &Path) -> [String; 2] {
    ["-O".into(), format!("{command} {}", path.display())]
}

/// Whether pen serves a client that trusts only this authority and uses this name.
fn trusted(authority: &Authority, pen: &Pen, name: &str) -> bool {
    authority.client().ask(pen.address(), name).is_some()
}

#[test]
fn each_name_has_its_certificate_and_all_others_the_default() {
    let [default, first, wild] = ["default", "first", "wild"].map(Authority::root);
    let backend = Backend::named("one");
    let builder = with_certificate(&default.issue(&[
        "localhost",
        "unknown.example",
        "a.b.wild.example",
        "wild.example",
    ]));
    let names = directory(&builder);
    put(&names, "First.Example", &first.issue(&["first.example"]));
    put(&names, "*.wild.example", &wild.issue(&["*.wild.example"]));
    put(&names, "broken.example", &first.issue(&["broken.example"]));
    write(&names, "broken.example.key", "nothing");
    write(&names, "alone.example.crt", first.issue(&["alone.example"]).chain);
    let pen = builder.options(option("ssl_sni_path", &names)).server(&backend).start();
    assert!(trusted(&first, &pen, "first.example") && !trusted(&default, &pen, "first.example"));
    assert!(trusted(&wild, &pen, "www.wild.example"));
    for name in ["localhost", "unknown.example", "a.b.wild.example", "wild.example"] {
        assert!(trusted(&default, &pen, name), "{name}");
    }
    pen.hears(
        "broken.example.key: there is no private key (PEM) in it; the name broken.example is \
        served with",
    );
    pen.hears("alone.example.crt: there is no .key for it");
    // A name is never a path.
    let to = pen.address().to_string();
    let said = openssl(["s_client", "-connect", &to, "-servername", "../names/first.example"]);
    assert!(!said.contains("CN=first.example") && !said.contains("CN = first.example"), "{said}");
    // Another name, without a restart.
    put(&names, "localhost", &first.issue(&["localhost"]));
    pen.supervisor().signal(Signal::HUP);
    eventually("the new name is known", || trusted(&first, &pen, "localhost"));
}

#[test]
fn a_name_may_have_authorities_of_its_own() {
    let [root, own, other] = ["root", "own", "other"].map(Authority::root);
    let backend = Backend::named("one");
    let builder = with_certificate(&root.issue(&["localhost"]));
    let names = directory(&builder);
    put(&names, "own.example", &root.issue(&["own.example"]));
    write(&names, "own.example.ca", own.pem());
    put(&names, "*.wild.example", &root.issue(&["*.wild.example"]));
    write(&names, "*.wild.example.ca", own.pem());
    put(&names, "one.wild.example", &root.issue(&["one.wild.example"]));
    let authorities = write(builder.directory(), "ca.pem", other.pem());
    let options = ["-R".as_ref(), "-G".as_ref(), authorities.as_os_str()];
    let pen =
        builder.options(options).options(option("ssl_sni_path", &names)).server(&backend).start();
    let (of_own, of_other) = (own.issue(&["me"]), other.issue(&["me"]));
    let let_in = |identity, name| root.client().is(identity).ask(pen.address(), name).is_some();
    assert!(let_in(&of_own, "own.example") && let_in(&of_other, "localhost"));
    assert_eq!(backend.accepted(), 2);
    assert!(!let_in(&of_own, "localhost") && !let_in(&of_other, "own.example"));
    assert_eq!(backend.accepted(), 2);
    // A specific name does not use the authorities of the wildcard name that also matches it.
    assert!(let_in(&of_own, "any.wild.example") && let_in(&of_other, "one.wild.example"));
    assert!(!let_in(&of_other, "any.wild.example") && !let_in(&of_own, "one.wild.example"));
    assert_eq!(backend.accepted(), 4);
}

/// An OCSP response for a good certificate of this authority, valid for this many days.
fn response(authority: &Authority, identity: &Identity, place: &Path, days: &str) -> Vec<u8> {
    let ca = write(place, "ocsp-ca.pem", authority.pem());
    let key = write(place, "ocsp-ca.key", authority.key());
    let leaf = write(place, "ocsp-leaf.pem", &identity.leaf);
    let serial = openssl([
        "x509".as_ref(),
        "-serial".as_ref(),
        "-noout".as_ref(),
        "-in".as_ref(),
        leaf.as_os_str(),
    ]);
    let serial = serial.trim().trim_start_matches("serial=");
    let index = write(
        place,
        "index.txt",
        format!("V\t491231235959Z\t\t{serial}\tunknown\t/CN=localhost\n"),
    );
    let out = place.join("response.der");
    let (ca, key, leaf, index) =
        (ca.as_os_str(), key.as_os_str(), leaf.as_os_str(), index.as_os_str());
    let words: [&OsStr; 18] = [
        "ocsp".as_ref(),
        "-index".as_ref(),
        index,
        "-CA".as_ref(),
        ca,
        "-rsigner".as_ref(),
        ca,
        "-rkey".as_ref(),
        key,
        "-issuer".as_ref(),
        ca,
        "-cert".as_ref(),
        leaf,
        "-no_nonce".as_ref(),
        "-ndays".as_ref(),
        days.as_ref(),
        "-respout".as_ref(),
        out.as_os_str(),
    ];
    let said = openssl(words);
    fs::read(&out).unwrap_or_else(|_| panic!("{said}"))
}

fn stapled(pen: &Pen, name: &str) -> bool {
    let said = openssl([
        "s_client",
        "-connect",
        &pen.address().to_string(),
        "-servername",
        name,
        "-status",
    ]);
    match said.contains("OCSP Response Status: successful") {
        true => true,
        false => {
            assert!(said.contains("OCSP response: no response sent"), "{said}");
            false
        }
    }
}

#[test]
fn responses_are_stapled_to_their_certificates() {
    let root = Authority::root("root");
    let backend = Backend::named("one");
    let (default, named) = (root.issue(&["localhost"]), root.issue(&["named.example"]));
    let builder = with_certificate(&default);
    let names = directory(&builder);
    put(&names, "named.example", &named);
    let file = builder.directory().join("ocsp.der");
    let options =
        option("ssl_ocsp_response", &file).into_iter().chain(option("ssl_sni_path", &names));
    let options: Vec<String> = options.collect();
    let pen = builder.control().options(options).server(&backend).start();
    pen.hears("ocsp.der: there is no OCSP response yet");
    assert!(!stapled(&pen, "localhost") && !stapled(&pen, "named.example"));
    fs::write(&file, response(&root, &default, pen.directory(), "7")).unwrap();
    // The command reads it again with the supervisor's rights, because the administrator owns the
    // file.
    pen.tells(&format!("ssl_ocsp_response {}", file.display()), "");
    assert!(stapled(&pen, "localhost") && !stapled(&pen, "named.example"));
    write(&names, "named.example.ocsp", response(&root, &named, pen.directory(), "7"));
    pen.tells(&format!("ssl_sni_path {}", names.display()), "");
    assert!(stapled(&pen, "localhost") && stapled(&pen, "named.example"));
    // Invalid content is not sent to clients, and TLS stays on.
    fs::write(&file, "nonsense").unwrap();
    pen.tells(&format!("ssl_ocsp_response {}", file.display()), "");
    pen.hears("ocsp.der: there is no OCSP response (DER) in it that says anything");
    assert!(!stapled(&pen, "localhost") && stapled(&pen, "named.example"));
    let why = pen.refuses("ssl_sni_path /somewhere/else");
    assert!(why.starts_with("ssl_sni_path: /somewhere/else: at the control port"), "{why}");
    assert!(
        pen.refuses("ssl_ocsp_response /not/there").starts_with("ssl_ocsp_response: /not/there: ")
    );
    // A response in an operator's own file, also set by a command file.
    let [own, commands] = ["own.der", "commands.cfg"].map(|name| pen.directory().join(name));
    fs::write(&own, response(&root, &default, pen.directory(), "7")).unwrap();
    fs::write(&commands, format!("ssl_ocsp_response {}\n", own.display())).unwrap();
    readable(pen.directory());
    pen.tells(&format!("include {}", commands.display()), "");
    assert!(stapled(&pen, "localhost"));
    fs::write(&commands, "timeout 7\nssl_ocsp_response /not/there\n").unwrap();
    let why = pen.refuses(&format!("include {}", commands.display()));
    assert!(
        why.contains("commands.cfg:2: ssl_ocsp_response: /not/there: no such file or directory"),
        "{why}"
    );
    // It is kept until another file is set.
    fs::remove_file(&own).unwrap();
    pen.supervisor().signal(Signal::HUP);
    pen.tells(&format!("ssl_sni_path {}", names.display()), "");
    assert!(stapled(&pen, "localhost"));
}

#[test]
fn what_is_written_names_a_response_in_the_jail_as_a_start_finds_it() {
    if !needs_root() {
        return;
    }
    let (root, backend) = (Authority::root("root"), Backend::named("one"));
    let identity = root.issue(&["localhost"]);
    let builder = with_certificate(&identity);
    let jail = machine::directory(builder.directory(), "jail", 0o755, machine::NOBODY);
    let own = write(&jail, "own.der", response(&root, &identity, builder.directory(), "7"));
    fs::set_permissions(&own, Permissions::from_mode(0o644)).unwrap();
    let pen = builder.control().options(["-j", jail.to_str().unwrap()]).server(&backend).start();
    pen.tells("ssl_ocsp_response /own.der", "");
    pen.tells("write /written.cfg", "");
    let written = fs::read_to_string(jail.join("written.cfg")).unwrap();
    assert!(written.contains(&format!("\nssl_ocsp_response {}\n", own.display())), "{written}");
}

/// The output of an openssl(1) client that asks for this name. It shows whether the client was
/// served, and the certificate's issuer.
fn asks_for(pen: &Pen, name: &str, words: &[&str]) -> String {
    let to = pen.address().to_string();
    openssl([&["s_client", "-connect", &to, "-servername", name], words].concat())
}

#[test]
fn what_is_no_name_gets_the_default_certificate() {
    let (default, named) = (Authority::root("default"), Authority::root("named"));
    let backend = Backend::named("one");
    let builder = with_certificate(&default.issue(&["localhost"]));
    let names = directory(&builder);
    put(&names, "*.example", &named.issue(&["*.example"]));
    // With authorities of its own, so that the verification looks up the name.
    write(&names, "*.example.ca", named.pem());
    let me = default.issue(&["me"]);
    let [certificate, key] = [("me.pem", &me.leaf), ("me.key", &me.key)]
        .map(|(name, text)| write(builder.directory(), name, text));
    let trusted = write(builder.directory(), "ca.pem", default.pem());
    let strict = ["-R".as_ref(), "-G".as_ref(), trusted.as_os_str()];
    let pen =
        builder.options(option("ssl_sni_path", &names)).options(strict).server(&backend).start();
    let is = ["-cert", certificate.to_str().unwrap(), "-key", key.to_str().unwrap()];
    let mut accepted = 0;
    for name in [
        "web01-",
        "1.2.3",
        "a.test:443",
        "b\u{fc}cher.example",
        "a..example",
        "-",
        "*.example",
        "a b",
        "192.0.2.1",
    ] {
        // The last two get a HelloRetryRequest.
        for words in [
            &["-tls1_2"][..],
            &["-tls1_3"],
            &["-groups", "P-521:X25519"],
            &["-groups", "P-521:P-256"],
        ] {
            let said = asks_for(&pen, name, &[words, &is].concat());
            assert!(
                said.contains("issuer=CN = default\n") && !said.contains("alert"),
                "{name} {words:?}: {said}"
            );
            accepted += 1;
            eventually("the client has reached its server", || backend.accepted() == accepted);
        }
    }
    // Server names still work.
    assert!(asks_for(&pen, "www.example", &["-tls1_3"]).contains("issuer=CN = named\n"));
    assert!(asks_for(&pen, "_dmarc.test.", &["-tls1_3"]).contains("issuer=CN = default\n"));
    // A session is resumed although the hello was not in the form that rustls saw.
    for version in ["-tls1_2", "-tls1_3"] {
        let session = pen.directory().join("session").to_str().unwrap().to_owned();
        let first = [&[version, "-sess_out", &session][..], &is].concat();
        asks_for(&pen, "web01-", &first);
        if Path::new(&session).exists() {
            let said =
                asks_for(&pen, "web01-", &[&[version, "-sess_in", &session][..], &is].concat());
            assert!(said.contains("Reused, TLSv1"), "{version}: {said}");
            fs::remove_file(&session).unwrap();
        } else {
            assert_eq!(version, "-tls1_3", "its tickets come behind the handshake");
        }
    }
    pen.settle();
}

/// Lets the user of `-u` read all files in a directory.
fn readable(directory: &Path) {
    fs::set_permissions(directory, Permissions::from_mode(0o755)).unwrap();
    for entry in
        fs::read_dir(directory).unwrap().map(Result::unwrap).filter(|entry| entry.path().is_file())
    {
        fs::set_permissions(entry.path(), Permissions::from_mode(0o644)).unwrap();
    }
}

/// The same pair under this many names, by links. The test is about the messages for many files,
/// not about many keys.
fn put_many(directory: &Path, names: usize, identity: &Identity, key: &str) {
    let place = directory.parent().unwrap();
    let certificate = write(place, "one.crt", &identity.chain);
    let key = write(place, "one.key", key);
    for n in 0..names {
        fs::hard_link(&certificate, directory.join(format!("n{n:05}.example.crt"))).unwrap();
        fs::hard_link(&key, directory.join(format!("n{n:05}.example.key"))).unwrap();
    }
}

#[test]
fn more_names_than_pen_takes_are_refused_in_one_line_by_start_and_check() {
    let root = Authority::root("root");
    let backend = Backend::named("one");
    let builder = with_certificate(&root.issue(&["localhost"]));
    let names = directory(&builder);
    let identity = root.issue(&["localhost"]);
    put_many(&names, 8200, &identity, &identity.key);
    let builder =
        builder.through(["timeout", "60"]).options(option("ssl_sni_path", &names)).server(&backend);
    let started = builder.runs();
    let checked = builder.options(["--check"]).fails();
    for output in [started, checked] {
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(said.contains("16400 files of certificates by name"), "{said}");
        assert!(said.contains("pen takes 16384") && said.contains("names"), "{said}");
        assert_eq!(said.lines().count(), 1, "{said}");
    }
}

#[test]
fn of_many_names_that_cannot_be_used_the_first_are_told_and_the_rest_counted() {
    let root = Authority::root("root");
    let backend = Backend::named("one");
    let builder = with_certificate(&root.issue(&["localhost"]));
    let names = directory(&builder);
    put_many(&names, 300, &root.issue(&["localhost"]), "nothing");
    for n in 0..200 {
        fs::create_dir(names.join(format!("directory{n}.crt"))).unwrap();
        write(&names, &format!("no name{n}.crt"), "nothing");
    }
    let pen = builder.options(option("ssl_sni_path", &names)).server(&backend).start();
    pen.hears("directory0.crt: not a regular file");
    pen.hears("195 more files of certificates by name cannot be used");
    pen.hears("200 files are called after no server name");
    pen.hears(
        "n00000.example.key: there is no private key (PEM) in it; the name n00000.example is \
        served with",
    );
    pen.hears("295 more names are served with the default certificate");
    let said = pen.said();
    assert!(
        said.lines().filter(|line| line.contains(".example") || line.contains("directory")).count()
            < 20,
        "{said}"
    );
    assert!(trusted(&root, &pen, "localhost"));
}

#[test]
fn files_of_a_name_that_no_client_can_ask_for_are_told_and_not_listed() {
    let root = Authority::root("root");
    let backend = Backend::named("one");
    let builder = with_certificate(&root.issue(&["localhost"]));
    let names = directory(&builder);
    let identity = root.issue(&["good.example"]);
    put(&names, "good.example", &identity);
    for name in ["web01-", "1.2.3"] {
        put(&names, name, &identity);
    }
    let pen = builder.options(option("ssl_sni_path", &names)).server(&backend).control().start();
    let told = |name: &str| {
        let path = names.join(format!("{name}.crt"));
        format!(
            "{}: the file is not used, because no client can ask for {name:?}: it is no server \
             name",
            path.display()
        )
    };
    for name in ["web01-", "1.2.3"] {
        pen.hears(&told(name));
    }
    let listed = pen.tell("certificates");
    assert!(listed.contains("for the server name good.example"), "{listed}");
    assert!(!listed.contains("web01-") && !listed.contains("1.2.3"), "{listed}");
    // Names that are added later are reported at HUP.
    put(&names, "-x", &identity);
    pen.supervisor().signal(Signal::HUP);
    pen.hears(&told("-x"));
}
