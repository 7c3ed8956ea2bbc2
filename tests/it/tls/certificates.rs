//! Certificates as common tools make them: which pen serves, which it accepts from clients, and its
//! messages about them.

use std::fs;
use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};

use crate::harness::tls::{Authority, openssl, write};
use crate::harness::{Backend, Builder, Pen};
use rustix::process::Signal;

/// Runs each line as a shell command in this directory; most are openssl(1) commands.
fn make(directory: &Path, lines: &str) {
    for line in lines.lines().map(str::trim).filter(|line| !line.is_empty()) {
        let shell = Command::new("sh")
            .args(["-c", line])
            .current_dir(directory)
            .stdin(Stdio::null())
            .output()
            .unwrap();
        assert!(shell.status.success(), "{line}: {}", String::from_utf8_lossy(&shell.stderr));
    }
}

/// `NAME.key` and `NAME.pem`, issued by `issuer`; without extensions it is of version 1.
fn issue(directory: &Path, name: &str, issuer: &str, extensions: Option<&str>, days: i32) {
    let extended = match extensions {
        Some(text) => {
            write(directory, &format!("{name}.ext"), text);
            format!("-extfile {name}.ext")
        }
        None => String::new(),
    };
    make(
        directory,
        &format!(
            "openssl ecparam -name prime256v1 -genkey -out {name}.key
            openssl req -new -key {name}.key -subj /O=Test/CN={name} -out {name}.csr
            openssl x509 -req -in {name}.csr -CA {issuer}.pem -CAkey {issuer}.key -set_serial 77 \
            -days {days} {extended} -out {name}.pem"
        ),
    );
}

/// A certification authority made by openssl(1): `NAME.key`, `NAME.pem`.
fn authority(directory: &Path, name: &str, more: &str) {
    make(
        directory,
        &format!(
            "openssl ecparam -name prime256v1 -genkey -noout -out {name}.key
            openssl req -x509 -new -key {name}.key -subj /CN={name} -days 3650 -out {name}.pem \
            {more}"
        ),
    );
}

/// Serves with `NAME.pem` and `NAME.key`.
fn serving(name: &str) -> Builder {
    let builder = Pen::builder();
    let path = |kind: &str| {
        builder.directory().join(format!("{name}.{kind}")).to_str().unwrap().to_owned()
    };
    let options = ["-E".to_owned(), path("pem"), "-K".to_owned(), path("key")];
    builder.options(options)
}

/// The output of an openssl(1) client, and whether it was served.
fn ask(pen: &Pen, words: &[&str]) -> (bool, String) {
    let to = pen.address().to_string();
    let mut client = Command::new("openssl")
        .args(["s_client", "-quiet", "-connect", &to])
        .args(words)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    // The end of its input ends the session; the server's answer comes before.
    let mut input = client.stdin.take().unwrap();
    let _ = input.write_all(b"hello\n");
    let output = client.wait_with_output().unwrap();
    drop(input);
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    (String::from_utf8_lossy(&output.stdout).contains("greeting"), said)
}

/// Sends a greeting and ends, so that openssl(1) ends too.
fn greeter() -> Backend {
    Backend::with(|mut socket| socket.write_all(b"greeting\n"))
}

#[test]
fn the_administrators_own_certificate_is_served_whatever_is_in_it() {
    let backend = greeter();
    for (name, extensions) in [
        ("v1", None),
        ("unknown", Some("subjectAltName=DNS:localhost\n1.2.3.4=critical,DER:0500\n")),
        ("policies", Some("certificatePolicies=critical,1.2.3.4\n")),
        ("authority", Some("basicConstraints=critical,CA:TRUE\n")),
        ("netscape", Some("nsCertType=critical,client\n")),
    ] {
        let builder = serving(name);
        authority(builder.directory(), "ca", "");
        issue(builder.directory(), name, "ca", extensions, 300);
        let pen = builder.server(&backend).start();
        assert!(ask(&pen, &["-tls1_2"]).0 && ask(&pen, &["-tls1_3"]).0, "{name}");
    }
    let builder = serving("v1").server_as("127.0.0.1:1");
    authority(builder.directory(), "ca", "");
    issue(builder.directory(), "v1", "ca", None, 300);
    make(builder.directory(), "cp ca.key v1.key");
    let said = String::from_utf8(builder.fails().stderr).unwrap();
    assert!(said.contains("v1.key: the key does not match the certificate in "), "{said}");
}

#[test]
fn clients_are_let_in_and_refused_as_by_openssl_and_each_refusal_says_why() {
    let backend = greeter();
    let builder = serving("server");
    let directory = builder.directory().to_path_buf();
    authority(&directory, "ca", "");
    authority(&directory, "self", "");
    authority(&directory, "plain", "-addext basicConstraints=critical,CA:FALSE");
    issue(&directory, "server", "ca", Some("subjectAltName=DNS:localhost\n"), 300);
    make(&directory, "cat ca.pem self.pem plain.pem > trusted.pem");
    let policies = "basicConstraints=critical,CA:TRUE\ncertificatePolicies=critical,1.2.3.4\n\
                    policyConstraints=critical,requireExplicitPolicy:0\n";
    issue(&directory, "below", "ca", Some(policies), 300);
    issue(&directory, "old", "ca", None, 300);
    let trusted = directory.join("trusted.pem");
    let pen = builder
        .options(["-d".as_ref(), "-R".as_ref(), "-G".as_ref(), trusted.as_os_str()])
        .server(&backend)
        .start();
    let asks = |name: &str, above: Option<&str>, version: &str| {
        let (cert, key) =
            (directory.join(format!("{name}.pem")), directory.join(format!("{name}.key")));
        let mut words =
            vec![version, "-cert", cert.to_str().unwrap(), "-key", key.to_str().unwrap()];
        let above = above.map(|above| directory.join(format!("{above}.pem")));
        if let Some(above) = &above {
            words.extend(["-cert_chain", above.to_str().unwrap()]);
        }
        ask(&pen, &words)
    };
    let good = [
        ("ordinary", "ca", Some("basicConstraints=CA:FALSE\nextendedKeyUsage=clientAuth\n")),
        ("v1", "ca", None),
        ("policies", "ca", Some("certificatePolicies=critical,1.2.3.4\n")),
        ("netscape", "ca", Some("nsCertType=critical,client\n")),
        ("anauthority", "ca", Some("basicConstraints=critical,CA:TRUE\n")),
        ("deep", "below", Some("certificatePolicies=1.2.3.4\n")),
    ];
    for (name, issuer, extensions) in good {
        issue(&directory, name, issuer, extensions, 300);
        let above = Some(issuer).filter(|issuer| *issuer != "ca");
        for version in ["-tls1_2", "-tls1_3"] {
            let (served, said) = asks(name, above, version);
            assert!(served, "{name} {version}: {said}");
        }
    }
    for name in ["self", "plain"] {
        assert!(asks(name, None, "-tls1_2").0 && asks(name, None, "-tls1_3").0, "{name}");
    }
    let before = backend.accepted();
    let bad = [
        ("unknown", "ca", Some("1.2.3.4=critical,DER:0500\n"), "CriticalExtension(\"1.2.3.4\")"),
        ("ofserver", "ca", Some("nsCertType=critical,server\n"), "NetscapeType"),
        ("typed", "ca", Some("nsCertType=server\n"), "NetscapeType"),
        ("enciphers", "ca", Some("keyUsage=critical,keyEncipherment\n"), "KeyUsage"),
        (
            "signsonly",
            "ca",
            Some("basicConstraints=critical,CA:TRUE\nkeyUsage=critical,keyCertSign\n"),
            "Authority",
        ),
        ("purpose", "ca", Some("extendedKeyUsage=serverAuth\n"), "Purpose"),
        ("bynone", "plain", Some("basicConstraints=CA:FALSE\n"), "BadCertificate(Issuer)"),
        ("byold", "old", Some("basicConstraints=CA:FALSE\n"), "IssuerVersion(1)"),
    ];
    for (name, issuer, extensions, why) in bad {
        issue(&directory, name, issuer, extensions, 300);
        let above = Some(issuer).filter(|issuer| *issuer != "ca");
        for version in ["-tls1_2", "-tls1_3"] {
            let (served, said) = asks(name, above, version);
            assert!(!served && said.contains("alert"), "{name} {version}: {said}");
        }
        pen.hears(why);
    }
    assert_eq!(backend.accepted(), before, "nobody who was refused reached a server");
    // The first was reported in an event; others may be suppressed by its rate limit.
    pen.hears(
        "its certificate has a critical extension that is not known here (object identifier \
        1.2.3.4) (subject 'O=Test, CN=unknown', serial 4D)",
    );
    // A key that does not belong to the certificate gives no access, whatever the certificate is.
    make(&directory, "cp v1.pem forged.pem; cp ca.key forged.key");
    assert!(!asks("forged", None, "-tls1_2").0 && !asks("forged", None, "-tls1_3").0);
}

#[test]
fn nobody_forges_what_is_left_out_of_a_certificate() {
    let backend = greeter();
    let builder = serving("server");
    let directory = builder.directory().to_path_buf();
    authority(&directory, "ca", "");
    // The same name, and another key.
    make(&directory, "mkdir other");
    authority(&directory.join("other"), "ca", "");
    issue(&directory, "server", "ca", Some("subjectAltName=DNS:localhost\n"), 300);
    for (name, extensions) in
        [("v1", None), ("policies", Some("certificatePolicies=critical,1.2.3.4\n"))]
    {
        issue(&directory.join("other"), name, "ca", extensions, 300);
    }
    let trusted = directory.join("ca.pem");
    let pen = builder
        .options(["-R".as_ref(), "-G".as_ref(), trusted.as_os_str()])
        .server(&backend)
        .start();
    for name in ["v1", "policies"] {
        let path = |kind: &str| {
            directory.join(format!("other/{name}.{kind}")).to_str().unwrap().to_owned()
        };
        for version in ["-tls1_2", "-tls1_3"] {
            assert!(
                !ask(&pen, &[version, "-cert", &path("pem"), "-key", &path("key")]).0,
                "{name}"
            );
        }
    }
    assert_eq!(backend.accepted(), 0);
    pen.hears("its certificate was not signed by its issuer");
}

#[test]
fn without_a_certificate_each_protocol_has_its_own_alert() {
    let backend = greeter();
    let builder = serving("server");
    let directory = builder.directory().to_path_buf();
    authority(&directory, "ca", "");
    issue(&directory, "server", "ca", Some("subjectAltName=DNS:localhost\n"), 300);
    let trusted = directory.join("ca.pem");
    let pen = builder
        .options(["-R".as_ref(), "-G".as_ref(), trusted.as_os_str()])
        .server(&backend)
        .start();
    let (served, said) = ask(&pen, &["-tls1_2"]);
    assert!(!served && said.contains("alert handshake failure"), "{said}");
    let (served, said) = ask(&pen, &["-tls1_3"]);
    assert!(!served && said.contains("alert certificate required"), "{said}");
    pen.hears("it has no certificate");
}

#[test]
fn pem_may_have_a_mark_and_the_labels_of_openssl() {
    let root = Authority::root("root");
    let backend = Backend::named("one");
    let identity = root.issue(&["localhost"]);
    let old = identity.chain.replace(" CERTIFICATE-", " X509 CERTIFICATE-");
    let trusted = |directory: &Path| {
        let plain = write(directory, "plain.pem", &identity.leaf);
        let words = [
            "x509".as_ref(),
            "-trustout".as_ref(),
            "-addtrust".as_ref(),
            "serverAuth".as_ref(),
            "-in".as_ref(),
        ];
        let text = openssl([&words[..], &[plain.as_os_str()]].concat());
        assert!(text.contains("BEGIN TRUSTED CERTIFICATE"), "{text}");
        text
    };
    let ec = |directory: &Path| {
        let plain = write(directory, "plain.key", &identity.key);
        let text = openssl(["ec".as_ref(), "-in".as_ref(), plain.as_os_str()]);
        let parameters = openssl(["ecparam", "-name", "prime256v1"]);
        assert!(
            text.contains("BEGIN EC PRIVATE KEY") && parameters.contains("BEGIN EC PARAMETERS"),
            "{text}"
        );
        parameters + &text[text.find("-----").unwrap()..]
    };
    let wide = |text: &str| {
        let letters = format!("\u{feff}{text}");
        letters.encode_utf16().flat_map(u16::to_le_bytes).collect::<Vec<u8>>()
    };
    let both = format!("{}{}", identity.chain, identity.key);
    type Row<'r> = &'r dyn Fn(&Path) -> Vec<u8>;
    let rows: [Row<'_>; 5] = [
        &|_| format!("\u{feff}{both}").into_bytes(),
        &|_| format!("{old}\u{feff}{}", identity.key).into_bytes(),
        &|directory| format!("{}{}", trusted(directory), identity.key).into_bytes(),
        &|directory| {
            format!("{}{}", ec(directory), identity.chain).replace('\n', "\r\n").into_bytes()
        },
        &|_| wide(&both),
    ];
    for (n, text) in rows.into_iter().enumerate() {
        let builder = Pen::builder();
        let path = write(builder.directory(), "cert.pem", text(builder.directory()));
        let pen = builder.options(["-E".as_ref(), path.as_os_str()]).server(&backend).start();
        assert!(root.client().ask(pen.address(), "localhost").is_some(), "row {n}");
    }
}

#[test]
fn a_certificate_that_expires_is_told_of_and_all_are_listed() {
    let backend = greeter();
    let builder = serving("server");
    let directory = builder.directory().to_path_buf();
    authority(&directory, "ca", "");
    issue(&directory, "server", "ca", Some("subjectAltName=DNS:localhost\n"), 5);
    // The number of days is not checked, because it depends on the moment of the test.
    let soon = "server.pem: the certificate of 'O=Test, CN=server' expires in ";
    let check = serving("server").server_as("127.0.0.1:1");
    make(&directory, &format!("cp server.* {}", check.directory().display()));
    let checked = check.options(["--check"]).runs();
    assert!(checked.status.success() && String::from_utf8_lossy(&checked.stderr).contains(soon));
    let names = directory.join("names");
    fs::create_dir(&names).unwrap();
    issue(&names.join(".."), "named", "ca", Some("subjectAltName=DNS:www.example\n"), 300);
    make(&directory, "cp named.pem names/www.example.crt; cp named.key names/www.example.key");
    let trusted = directory.join("ca.pem");
    let names = format!("ssl_sni_path {}", names.display());
    let options =
        ["-R".as_ref(), "-G".as_ref(), trusted.as_os_str(), "-O".as_ref(), names.as_ref()];
    let pen = builder.control().options(options).server(&backend).start();
    pen.hears(soon);
    let listed = pen.tell("certificates");
    let server = "O=Test, CN=server\n    issuer     CN=ca\n    not after  ";
    assert!(
        listed.starts_with(server)
            && listed.contains(
                " days left)\n    key        ECDSA P-256\n    used       shown to \
                    clients\n    file       "
            ),
        "{listed}"
    );
    assert!(listed.contains("    used       authority of client certificates\n"), "{listed}");
    assert!(
        listed.contains("O=Test, CN=named\n")
            && listed.contains("for the server name www.example\n"),
        "{listed}"
    );
    let json = pen.tell("certificates json");
    assert!(
        json.starts_with(
            "[\n{\"name\":\"O=Test, CN=server\",\"issuer\":\"CN=ca\",\"serial\":\"4D\","
        ),
        "{json}"
    );
    assert!(json.contains("\"used\":\"server\",\"server_name\":\"www.example\""), "{json}");
    // HUP reports the present problems, at every HUP.
    issue(&directory, "server", "ca", Some("subjectAltName=DNS:localhost\n"), -1);
    let expired =
        "server.pem: the certificate of 'O=Test, CN=server' has expired: it was valid until ";
    for told in 1..3 {
        pen.supervisor().signal(Signal::HUP);
        crate::harness::eventually("HUP tells of it", || {
            pen.said().matches(expired).count() == told
        });
    }
    assert!(pen.tell("certificates").contains(" UTC (expired)\n"));
    assert!(
        ask(
            &pen,
            &[
                "-cert",
                directory.join("named.pem").to_str().unwrap(),
                "-key",
                directory.join("named.key").to_str().unwrap()
            ]
        )
        .0
    );
}

#[test]
fn without_tls_the_list_says_so() {
    let backend = greeter();
    let pen = Pen::builder().control().server(&backend).start();
    pen.tells("certificates", "There is no certificate: TLS to clients is off");
    pen.tells("certificates json", "[]");
}
