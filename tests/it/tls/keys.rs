//! The sources of keys, errors of keys at the start, and the replacement of keys.

use std::fs::{self, File};
use std::os::unix::fs::{FileExt, PermissionsExt};
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

use crate::harness::tls::{Authority, openssl, write};
use crate::harness::{Backend, Builder, Pen, Process, SetOnDrop, eventually, needs_root};
use rustix::process::Signal;

fn refusal(builder: Builder) -> String {
    String::from_utf8(builder.fails().stderr).unwrap()
}

#[test]
fn what_is_wrong_with_a_file_is_said_at_the_start() {
    let root = Authority::root("root");
    let (identity, other) = (root.issue(&["localhost"]), root.issue(&["localhost"]));
    let encrypted = |directory: &Path| {
        let plain = write(directory, "plain.pem", &identity.key);
        let words = [
            "pkcs8".as_ref(),
            "-topk8".as_ref(),
            "-passout".as_ref(),
            "pass:x".as_ref(),
            "-in".as_ref(),
        ];
        openssl([&words[..], &[plain.as_os_str()]].concat())
    };
    let bent = identity.chain.replacen("\nM", "\n!", 1);
    type Row<'r> = (&'r [&'r str], &'r dyn Fn(&Path), &'r str);
    let put = |name: &'static str, text: String| {
        move |directory: &Path| drop(write(directory, name, &text))
    };
    let certificate = put("E", identity.chain.clone());
    let both = put("E", format!("{}{}", identity.key, identity.chain));
    let rows: [Row<'_>; 12] = [
        (&["-E"], &|_| (), "E: no such file or directory"),
        (
            &["-E"],
            &|directory| fs::create_dir(directory.join("E")).unwrap(),
            "E: not a regular file",
        ),
        (&["-E"], &put("E", identity.key.clone()), "E: there is no certificate (PEM) in it"),
        (&["-E"], &certificate, "E: there is no private key (PEM) in it"),
        (&["-E"], &put("E", bent), "E: a section (PEM) is not in base 64"),
        (&["-E", "-K"], &certificate, "K: no such file or directory"),
        (
            &["-E", "-K"],
            &|directory| {
                certificate(directory);
                write(directory, "K", &other.key);
            },
            "K: the key does not match the certificate in ",
        ),
        (
            &["-E", "-K"],
            &|directory| {
                certificate(directory);
                write(directory, "K", encrypted(directory));
            },
            "openssl pkey -in ",
        ),
        (&["-E", "-R", "-G"], &both, "G: no such file or directory"),
        (
            &["-E", "-R", "-G"],
            &|directory| {
                both(directory);
                write(directory, "G", "nothing");
            },
            "G: there is no certificate (PEM) in it",
        ),
        (&["-E", "-R", "-A"], &both, "A: no such file or directory"),
        (
            &["-E", "-R", "-A"],
            &|directory| {
                both(directory);
                fs::create_dir(directory.join("A")).unwrap();
            },
            "A: there is no file called hash.N in it",
        ),
    ];
    for (options, prepare, why) in rows {
        for check in [false, true] {
            let builder = Pen::builder().server_as("127.0.0.1:1");
            let directory = builder.directory().to_path_buf();
            prepare(&directory);
            let words = options.iter().flat_map(|option| {
                let path = (*option != "-R")
                    .then(|| directory.join(&option[1..]).to_str().unwrap().to_owned());
                [(*option).to_owned()].into_iter().chain(path)
            });
            let words: Vec<String> = words.chain(check.then(|| "--check".to_owned())).collect();
            let said = refusal(builder.options(words));
            assert!(
                said.starts_with(&format!("pen: {}/", directory.display())) && said.contains(why),
                "{why}: {said}"
            );
        }
    }
}

/// Each mistake, and the line that repairs it: the test runs that line, and then pen starts.
#[test]
fn what_openssl_can_mend_is_said_with_the_words_to_it() {
    let root = Authority::root("root");
    let identity = root.issue(&["localhost"]);
    let (key, chain) = (identity.key.clone(), identity.chain.clone());
    let builder = Pen::builder().server_as("127.0.0.1:1");
    let directory = builder.directory().to_path_buf();
    let at = |name: &str| directory.join(name).to_str().unwrap().to_owned();
    let (plain, certificate) = (at("plain.pem"), at("chain.pem"));
    write(&directory, "plain.pem", &key);
    write(&directory, "chain.pem", &chain);
    let other = root.issue(&["other"]).chain;
    write(&directory, "wrong.pem", format!("{other}{chain}"));
    for line in [
        format!(
            "pkcs12 -export -passout pass: -inkey {plain} -in {certificate} -out {}",
            at("all.p12")
        ),
        format!("x509 -outform DER -in {certificate} -out {}", at("one.der")),
        format!("pkey -outform DER -in {plain} -out {}", at("key.der")),
    ] {
        openssl(line.split(' '));
    }
    let refused = |options: &[&str]| {
        let builder = Pen::builder()
            .server_as("127.0.0.1:1")
            .options(options.iter().copied())
            .options(["--check"]);
        refusal(builder)
    };
    let p12 = at("all.p12");
    let said = refused(&["-E", &p12]);
    let mend = format!("openssl pkcs12 -in {p12} -nodes -out {p12}.pem");
    assert!(said.contains("this is PKCS#12, not PEM") && said.contains(&mend), "{said}");
    openssl(format!("pkcs12 -in {p12} -nodes -passin pass: -out {p12}.pem").split(' '));
    let (der, key_der) = (at("one.der"), at("key.der"));
    let said = refused(&["-E", &der, "-K", &plain]);
    let mend = format!("openssl x509 -inform DER -in {der} -out {der}.pem");
    assert!(said.contains(&mend), "{said}");
    openssl(mend.split(' ').skip(1));
    let said = refused(&["-E", &certificate, "-K", &key_der]);
    let mend = format!("openssl pkey -inform DER -in {key_der} -out {key_der}.pem");
    assert!(said.contains(&mend), "{said}");
    openssl(mend.split(' ').skip(1));
    let wrong = at("wrong.pem");
    let said = refused(&["-E", &wrong, "-K", &plain]);
    assert!(
        said.contains("the key belongs to certificate 2 in it, which has to be the first"),
        "{said}"
    );
    assert!(
        said.contains(&format!(
            "openssl crl2pkcs7 -nocrl -certfile {wrong} | openssl pkcs7 -print_certs"
        )),
        "{said}"
    );
    // The repaired files are valid. An extra certificate after the leaf only causes a notice.
    write(&directory, "stranger.pem", format!("{chain}{other}"));
    for (options, notice) in [
        ([&*format!("{p12}.pem"), &*format!("{p12}.pem")], ""),
        ([&*format!("{der}.pem"), &*format!("{key_der}.pem")], ""),
        ([&*at("stranger.pem"), &*plain], "certificate 2 did not issue the one before it"),
    ] {
        let builder = Pen::builder().server_as("127.0.0.1:1");
        let output = builder.options(["-E", options[0], "-K", options[1], "--check"]).runs();
        let said = String::from_utf8(output.stderr).unwrap();
        assert!(output.status.success() && said.contains(notice), "{options:?}: {said}");
    }
}

#[test]
fn options_without_their_sense_are_refused() {
    for (options, why) in [
        (&["-K", "k"] as &[&str], "pen: -K: means nothing without a certificate; add -E FILE\n"),
        (&["-R"], "pen: -R: means nothing without a certificate; add -E FILE\n"),
        (&["-L", "ssl3"], "pen: -L: SSLv3 is not supported; use tls1 or ssl23\n"),
        (&["-L", "ssl2"], "pen: -L: SSLv3 is not supported; use tls1 or ssl23\n"),
        (
            &["-O", "ssl_option no_tlsv1.2"],
            "pen: -O 'ssl_option no_tlsv1.2': ssl_option: means nothing without a certificate; add \
             -E FILE\n",
        ),
        (
            &["-O", "ssl_option no_sslv3"],
            "pen: -O 'ssl_option no_sslv3': ssl_option: means nothing without a certificate; add \
             -E FILE\n",
        ),
    ] {
        assert_eq!(refusal(Pen::builder().server_as("127.0.0.1:1").options(options)), why);
    }
    let why = refusal(Pen::builder().server_as("127.0.0.1:1").options(["-L", "tls1.3"]));
    assert!(why.starts_with("pen: -L: protocol version tls1.3 not known; "), "{why}");
    assert!(why.ends_with("for 1.3 alone add -O 'ssl_option no_tlsv1.2'\n"), "{why}");
}

#[test]
fn tls_is_never_off_without_a_word() {
    let lines =
        ["ssl_ciphers ECDHE-RSA-AES128-GCM-SHA256", "ssl_ocsp_response /x", "ssl_sni_path /x"];
    for line in
        lines.into_iter().chain(["ssl_option no_tlsv1.2", "ssl_client_renegotiation_interval 5"])
    {
        let word = line.split(' ').next().unwrap();
        for check in [&[][..], &["--check"]] {
            let said = refusal(
                Pen::builder().server_as("127.0.0.1:1").file(&format!("\n{line}\n")).options(check),
            );
            let why =
                format!(":2: {word}: means nothing without a certificate; add certificate FILE\n");
            assert!(said.ends_with(&why), "{line}: {said}");
        }
    }
    let backend = Backend::named("one");
    let pen = Pen::builder().control().file("# nothing\n").server(&backend).start();
    // The control port must not set the directory of names at all.
    for line in &lines[..2] {
        let word = line.split(' ').next().unwrap();
        let why = pen.refuses(line);
        let add = "only the file of -F, or a start, can give one";
        assert_eq!(why, format!("{word}: means nothing without a certificate; {add}"));
    }
    let file = pen.directory().join("pen.cfg");
    fs::write(&file, "ssl_ciphers ECDHE-RSA-AES128-GCM-SHA256\ntimeout 7\n").unwrap();
    pen.supervisor().signal(Signal::HUP);
    pen.hears(":1: ssl_ciphers: means nothing without a certificate; add certificate FILE");
    pen.tells("timeout", "5");
}

#[test]
fn a_checked_configuration_with_good_keys_is_ok() {
    let root = Authority::root("root");
    let builder = Pen::builder().server_as("127.0.0.1:1");
    let identity = root.issue_rsa(&["localhost"]);
    let path =
        write(builder.directory(), "cert.pem", format!("{}{}", identity.chain, identity.key));
    let output = builder
        .options([
            "--check".as_ref(),
            "-L".as_ref(),
            "tls1".as_ref(),
            "-E".as_ref(),
            path.as_os_str(),
        ])
        .runs();
    assert_eq!(String::from_utf8(output.stdout).unwrap(), "ok\n");
    assert!(
        String::from_utf8(output.stderr).unwrap().contains("TLS 1.0 and 1.1 do not exist here")
    );
}

#[test]
fn a_new_certificate_is_taken_without_losing_a_client() {
    let (old, new) = (Authority::root("old"), Authority::root("new"));
    let backend = Backend::named("one");
    let builder = Pen::builder();
    let text = |root: &Authority| {
        let identity = root.issue(&["localhost"]);
        format!("{}{}", identity.chain, identity.key)
    };
    let path = write(builder.directory(), "cert.pem", text(&old));
    let pen =
        builder.options(["-d".as_ref(), "-E".as_ref(), path.as_os_str()]).server(&backend).start();
    let mut held = old.client().connect(pen.address(), "localhost").unwrap();
    held.line().unwrap();
    let (over, served) = (AtomicBool::new(false), AtomicU32::new(0));
    std::thread::scope(|scope| {
        let ends = SetOnDrop(&over);
        for _ in 0..3 {
            scope.spawn(|| {
                while !over.load(Ordering::Relaxed) {
                    // One of the two certificates must be served at any time; meanwhile it may
                    // change once.
                    let ask =
                        |root: &Authority| root.client().ask(pen.address(), "localhost").is_some();
                    assert!(ask(&old) || ask(&new) || ask(&old), "a client was lost");
                    served.fetch_add(1, Ordering::Relaxed);
                }
            });
        }
        for root in [&new, &old, &new] {
            // Replaces the old file atomically, as programs that renew certificates do.
            let next = write(pen.directory(), "next.pem", text(root));
            fs::rename(next, &path).unwrap();
            let before = served.load(Ordering::Relaxed);
            pen.supervisor().signal(Signal::HUP);
            eventually("the new certificate is used", || {
                root.client().ask(pen.address(), "localhost").is_some()
            });
            eventually("clients come all the time", || served.load(Ordering::Relaxed) > before + 5);
        }
        drop(ends);
    });
    // An earlier connection continues.
    held.send("still here\n");
    assert_eq!(held.line().unwrap(), "still here");
    // A bad set of files changes nothing anywhere, and is reported in one line.
    fs::write(&path, &old.issue(&["localhost"]).chain).unwrap();
    pen.supervisor().signal(Signal::HUP);
    pen.hears("cert.pem: there is no private key (PEM) in it");
    pen.hears("the files of TLS are not used: it goes on with those that it had");
    for worker in 0..3 {
        assert!(pen.only(worker, || new.client().ask(pen.address(), "localhost")).is_some());
    }
    // A new worker has the same key as its siblings.
    pen.workers()[0].kill();
    for worker in 0..3 {
        assert!(pen.only(worker, || new.client().ask(pen.address(), "localhost")).is_some());
    }
}

/// Whether the memory of a process contains these bytes.
pub(super) fn holds(process: &Process, bytes: &[u8]) -> bool {
    let maps = fs::read_to_string(process.proc("maps")).unwrap();
    let memory = File::open(process.proc("mem")).unwrap();
    maps.lines().any(|line| {
        let (range, rest) = line.split_once(' ').unwrap();
        let (start, end) = range.split_once('-').unwrap();
        let [start, end] = [start, end].map(|number| u64::from_str_radix(number, 16).unwrap());
        // Not the kernel's own pages, and not the table, which is large and empty.
        if !rest.starts_with('r')
            || line.ends_with("[vvar]")
            || line.ends_with("[vsyscall]")
            || end - start > 64 << 20
        {
            return false;
        }
        let mut piece = vec![0; (end - start) as usize];
        memory.read_exact_at(&mut piece, start).is_ok()
            && piece.windows(bytes.len()).any(|window| window == bytes)
    })
}

#[test]
fn no_process_but_workers_ever_has_a_key() {
    if !needs_root() {
        return;
    }
    let root = Authority::root("root");
    let backend = Backend::named("one");
    let builder = Pen::builder().control();
    let identity = root.issue_rsa(&["localhost"]);
    let certificate = write(builder.directory(), "cert.pem", &identity.chain);
    let key = write(builder.directory(), "key.pem", &identity.key);
    // Only root may read it, and the workers are not root.
    fs::set_permissions(&key, fs::Permissions::from_mode(0o600)).unwrap();
    let options =
        ["-E".as_ref(), certificate.as_os_str(), "-K".as_ref(), key.as_os_str(), "-dd".as_ref()];
    let wrapper = ["sh", "-c", "ulimit -S -c $(ulimit -H -c) && exec \"$@\"", "sh"];
    let pen = builder.options(options).through(wrapper).server(&backend).start();
    assert!(root.client().ask(pen.address(), "localhost").is_some());
    pen.supervisor().signal(Signal::HUP);
    pen.hears("the files of TLS were read again");
    pen.workers()[0].kill();
    pen.tells("timeout", "5");
    assert!(root.client().ask(pen.address(), "localhost").is_some());
    // A part of the text of the file, and the largest prime in it. The worker's library stores the
    // prime in its working form: least significant byte first.
    let lines: Vec<&str> = identity.key.lines().collect();
    let text = lines[lines.len() / 2].as_bytes();
    let prime = prime(&identity.key_der);
    let reversed: Vec<u8> = prime.iter().rev().copied().collect();
    assert!(
        holds(&Process::open(std::process::id() as i32).unwrap(), text),
        "the search finds what is there"
    );
    assert!(
        pen.workers().iter().any(|worker| holds(worker, &prime) || holds(worker, &reversed)),
        "the search finds the key where it is used"
    );
    for process in [pen.supervisor(), &pen.control_process()] {
        for secret in [text, &prime, &reversed] {
            assert!(!holds(process, secret), "process {} has a key", process.pid());
        }
    }
    for worker in pen.workers() {
        let limits = fs::read_to_string(worker.proc("limits")).unwrap();
        let core = limits.lines().find(|line| line.starts_with("Max core file size")).unwrap();
        assert!(core.split_whitespace().nth(4) == Some("0"), "{core}");
        // Only root can examine them, because they are not dumpable.
        assert_eq!(
            fs::metadata(worker.proc("mem"))
                .map(|there| std::os::unix::fs::MetadataExt::uid(&there))
                .unwrap(),
            0
        );
    }
    let said = pen.said();
    assert!(!said.contains(std::str::from_utf8(text).unwrap()));
}

/// The first prime of an RSA key (PKCS #8, RFC 5208; RFC 8017, A.1.2).
pub(super) fn prime(der: &[u8]) -> Vec<u8> {
    // The last long numbers are primes, exponents and coefficient, of 128 or 129 bytes each. The
    // first of them is a prime.
    let start = der
        .windows(3)
        .position(|window| window == [0x02, 0x81, 0x81] || window == [0x02, 0x81, 0x80])
        .unwrap();
    let length = usize::from(der[start + 2]);
    let number = &der[start + 3..][..length];
    number.strip_prefix(&[0]).unwrap_or(number).to_vec()
}
