//! Checks every example in README, HOWTOs, manual pages and packages. pen checks the command lines
//! of pen and the files with them. penctl's commands are sent to a running pen, and `pen --upgrade`
//! upgrades one. The test needs root for its own network and /etc, in which the names of the
//! examples exist.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use crate::harness::machine;

/// The machine's setup for the examples: servers by name, pen's user, an empty jail, and writable
/// directories.
const SETUP: &[&str] = &[
    // The following commands must never change the machine itself.
    "[ \"$(readlink /proc/self/ns/mnt)\" != \"$(readlink /proc/$PPID/ns/mnt)\" ]",
    "for place in /etc /var/lib /var/log /run; do mount -t tmpfs none /mnt; mkdir /mnt/upper \
     /mnt/work; \
     mount -t overlay -o lowerdir=$place,upperdir=/mnt/upper,workdir=/mnt/work overlay $place; \
     umount -l /mnt; done",
    "for name in www1 www2 www3 www4 relay1 relay2 relay3 backup ldap1 ldap2 mbox1 mbox2 mbox3 db1 \
     db2 db3 db4 api1.example.org api2.example.org; do \
     echo 192.0.2.1 $name; done >>/etc/hosts",
    "getent passwd pen >/dev/null || echo pen:x:996:996::/nonexistent:/usr/sbin/nologin \
     >>/etc/passwd",
    "getent group pen >/dev/null || echo pen:x:996: >>/etc/group",
    "mkdir -p /etc/pen/certs /etc/ssl/certs /etc/ssl/private /var/lib/pen /var/log/pen /run/pen \
     /run/app",
    "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 9 -subj \
     /CN=www.example.org \
     -keyout /etc/ssl/private/www.key -out /etc/ssl/certs/www.pem 2>/run/openssl || \
     { cat /run/openssl >&2; exit 1; }",
    "cat /etc/ssl/certs/www.pem >/etc/ssl/www.pem; cp /etc/ssl/certs/www.pem \
     /etc/pen/clients-ca.pem; cp /etc/ssl/certs/www.pem /etc/pen/servers-ca.pem",
    "cp /etc/ssl/certs/www.pem /etc/ssl/certs/api.pem; cp /etc/ssl/private/www.key \
     /etc/ssl/private/api.key",
];

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// The examples of a document.
#[derive(Default)]
struct Examples {
    /// Files by their path, which is in their first line.
    files: BTreeMap<PathBuf, String>,
    /// Command lines of a shell that begin with `pen` or `penctl`.
    commands: Vec<String>,
}

impl Examples {
    fn of(path: &Path) -> Examples {
        let text = fs::read_to_string(path).unwrap();
        let blocks = match path.extension().and_then(|extension| extension.to_str()) {
            Some("md") => blocks_of_markdown(&text),
            Some("conf") => vec![text],
            _ => blocks_of_mdoc(&text),
        };
        let mut found = Examples::default();
        blocks.iter().for_each(|block| found.add(block));
        found
    }

    fn add(&mut self, block: &str) {
        if let Some(path) = file_named_in(block) {
            self.files.insert(path, block.to_owned());
            return;
        }
        let mut lines = block.lines();
        while let Some(line) = lines.next() {
            if !line.starts_with("pen ") && !line.starts_with("penctl ") {
                continue;
            }
            let mut command = line.to_owned();
            while command.ends_with('\\') {
                command.extend(["\n", lines.next().unwrap()]);
            }
            if command.contains("<<END") {
                command.extend(
                    lines.by_ref().take_while(|line| *line != "END").flat_map(|line| ["\n", line]),
                );
                command.push_str("\nEND");
            }
            self.commands.push(command);
        }
    }
}

/// The file that the first line of an example names in its comment.
fn file_named_in(block: &str) -> Option<PathBuf> {
    let comment = block.lines().next()?.strip_prefix("# ")?;
    let path = comment.split([' ', ',', ':']).find(|word| word.starts_with("/etc/"))?;
    Some(path.trim_end_matches('.').into())
}

/// The blocks that are indented by four columns; an empty line ends a block.
fn blocks_of_markdown(text: &str) -> Vec<String> {
    let mut blocks = vec![String::new()];
    for line in text.lines() {
        match line.strip_prefix("    ") {
            Some(line) => blocks.last_mut().unwrap().extend([line, "\n"]),
            None => blocks.push(String::new()),
        }
    }
    blocks.retain(|block| !block.is_empty());
    blocks
}

/// The literal displays, without roff's escapes.
fn blocks_of_mdoc(text: &str) -> Vec<String> {
    let text = text.replace("\\e", "\\").replace("\\&", "");
    let displays = text.split(".Bd -literal").skip(1).map(|rest| {
        let (display, _) = rest.split_once(".Ed\n").unwrap();
        display.split_once('\n').unwrap().1.to_owned()
    });
    displays
        .chain(text.lines().filter_map(|line| Some(line.strip_prefix(".Dl ")?.to_owned() + "\n")))
        .collect()
}

/// All documents, by their paths in the repository.
fn documents() -> Vec<String> {
    let mut found = vec!["README.md".to_owned()];
    for (directory, extensions) in [
        ("docs/howto", &["md"][..]),
        ("docs/man", &["1", "5", "8"]),
        ("packaging/examples", &["conf"]),
    ] {
        for entry in fs::read_dir(root().join(directory)).unwrap() {
            let name = entry.unwrap().file_name().into_string().unwrap();
            if extensions.contains(&name.rsplit('.').next().unwrap()) && name != "keepalived.conf" {
                found.push(format!("{directory}/{name}"));
            }
        }
    }
    found.sort();
    found
}

/// Runs a shell in which `pen` and `penctl` are the programs under test.
fn shell(pen: &str, script: &str) -> Output {
    let script = format!(
        "pen() {{ {pen} \"$@\"; }}\npenctl() {{ {} \"$@\"; }}\n{script}",
        crate::harness::control::PENCTL
    );
    Command::new("sh").args(["-c", &script]).output().unwrap()
}

/// Checks that pen accepts an example.
#[track_caller]
fn check(script: &str, place: &str) {
    let output = shell(&format!("{} --check", machine::BINARY), script);
    assert!(
        output.status.success(),
        "{place}: {script}\n{}",
        String::from_utf8_lossy(&output.stderr)
    );
}

/// A running pen for the examples that use one.
struct Service(crate::harness::Process);

impl Service {
    /// Starts a pen whose name is the name of a control port or pid file.
    #[track_caller]
    fn start(named: &str, pid_file: &str, options: &str, place: &str) -> Service {
        let name = Path::new(named).file_stem().and_then(|name| name.to_str()).unwrap();
        let file = Path::new("/etc/pen").join(name).with_extension("conf");
        // Without an example file for it, pen gets a set of servers as in the examples.
        let operands = match file.exists() {
            true => format!("-F {}", file.display()),
            false => "127.0.0.1:8080 www1 www2 www3".to_owned(),
        };
        let started = shell(
            machine::BINARY,
            &format!("pen -u pen -j /var/lib/pen -p {pid_file} {options} {operands}"),
        );
        let said = String::from_utf8_lossy(&started.stderr);
        assert!(started.status.success(), "{place}: {named}: {said}");
        let pid = fs::read_to_string(pid_file).unwrap().trim().parse().unwrap();
        Service(crate::harness::Process::open(pid).unwrap())
    }

    fn end(self) {
        self.0.signal(rustix::process::Signal::TERM);
        crate::harness::eventually("pen ends", || self.0.gone());
    }
}

/// Has a pen with the pid file of the command upgraded.
#[track_caller]
fn upgrade(command: &str, place: &str) {
    let pid_file = command.split_whitespace().last().unwrap();
    let service = Service::start(pid_file, pid_file, "", place);
    let output = shell(machine::BINARY, command);
    let complaint = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{place}: {command}\n{complaint}");
    service.end();
}

/// Sends the commands for one control port to a pen with that port.
#[track_caller]
fn steer(address: &str, commands: &[&String], place: &str) {
    let options = format!("-X -C {address}");
    let service = Service::start(address, "/run/pen/documents.pid", &options, place);
    for command in commands {
        if command.ends_with(" watch") {
            goes_on(command, place);
            continue;
        }
        let output = shell("false", command);
        if command.ends_with(" top") {
            let complaint = String::from_utf8_lossy(&output.stderr);
            assert!(complaint.contains("top: standard output is no terminal"), "{complaint}");
            continue;
        }
        let reply = String::from_utf8_lossy(&output.stdout);
        let complaint = String::from_utf8_lossy(&output.stderr);
        // There are no clients here, so no connection can be closed.
        let nobody = reply.starts_with("close: connection ") && reply.ends_with(" is not in use\n");
        assert!(output.status.success() || nobody, "{place}: {command}\n{reply}{complaint}");
    }
    service.end();
}

/// Checks that a command goes on until it is interrupted.
#[track_caller]
fn goes_on(command: &str, place: &str) {
    let words = command.split_whitespace().skip(1);
    let status = Command::new("timeout")
        .args(["1", crate::harness::control::PENCTL])
        .args(words)
        .stdout(std::process::Stdio::null())
        .status()
        .unwrap();
    assert_eq!(status.code(), Some(124), "{place}: {command}");
}

#[test]
fn every_link_leads_somewhere_and_every_page_is_linked() {
    let mut linked = Vec::new();
    let mut pages = Vec::new();
    for directory in ["", "benches/compare", "docs", "docs/design", "docs/howto", "fuzz"] {
        for entry in fs::read_dir(root().join(directory)).unwrap() {
            let path = entry.unwrap().path();
            if path.extension().is_some_and(|extension| extension == "md") {
                pages.push(path.canonicalize().unwrap());
            }
        }
    }
    for page in &pages {
        let text = fs::read_to_string(page).unwrap();
        let links =
            text.split("](").skip(1).filter_map(|rest| rest.split_once(')')).map(|(link, _)| link);
        for link in links.filter(|link| !link.contains("://")) {
            let (file, heading) = link.split_once('#').unwrap_or((link, ""));
            let target =
                if file.is_empty() { page.clone() } else { page.parent().unwrap().join(file) };
            let target = target
                .canonicalize()
                .unwrap_or_else(|why| panic!("{}: {link}: {why}", page.display()));
            if !heading.is_empty() {
                let text = fs::read_to_string(&target).unwrap();
                let mut headings = text.lines().filter(|line| line.starts_with('#'));
                let anchor = |line: &str| {
                    let line = line.trim_start_matches(['#', ' ']).to_lowercase();
                    let kept = line.chars().filter(|c| c.is_alphanumeric() || " -_".contains(*c));
                    kept.collect::<String>().replace(' ', "-")
                };
                assert!(
                    headings.any(|line| anchor(line) == heading),
                    "{}: no heading for {link}",
                    page.display()
                );
            }
            linked.push(target);
        }
    }
    for page in
        pages.iter().filter(|page| page.starts_with(root().canonicalize().unwrap().join("docs")))
    {
        assert!(
            linked.contains(page) || page.ends_with("howto/README.md"),
            "nothing links {}",
            page.display()
        );
    }
}

#[test]
fn the_manual_of_penctl_tells_of_its_options() {
    let help = Command::new(crate::harness::control::PENCTL).arg("--help").output().unwrap();
    let help = String::from_utf8(help.stdout).unwrap();
    let page = fs::read_to_string(root().join("docs/man/penctl.1")).unwrap();
    let options: Vec<&str> =
        help.lines().filter_map(|line| line.trim_start().strip_prefix("--")).collect();
    assert!(options.len() >= 3, "{help}");
    for option in options {
        let name = option.split(' ').next().unwrap();
        assert!(page.contains(&format!(".It Fl \\-{name}")), "--{name}");
    }
}

#[test]
fn every_example_works() {
    let setup: Vec<String> = SETUP.iter().map(|line| (*line).to_owned()).collect();
    if !machine::in_own_network("every_example_works", &setup) {
        return;
    }
    let documents = documents();
    let mut examples: Vec<Examples> =
        documents.iter().map(|name| Examples::of(&root().join(name))).collect();
    // A document may use a file of another, so all files exist first. If two files have the same
    // name, each exists for its own document.
    let write = |examples: &Examples| {
        examples.files.iter().for_each(|(path, text)| fs::write(path, text).unwrap())
    };
    examples.iter().for_each(write);
    let mut seen = 0;
    for (name, examples) in documents.iter().zip(&mut examples) {
        write(examples);
        for path in examples.files.keys() {
            check(&format!("pen -u pen -j /var/lib/pen -F {}", path.display()), name);
        }
        let (pen, penctl): (Vec<_>, Vec<_>) =
            examples.commands.iter().partition(|line| line.starts_with("pen "));
        let (upgrades, starts): (Vec<&String>, Vec<_>) =
            pen.into_iter().partition(|line| line.starts_with("pen --upgrade "));
        starts.iter().for_each(|line| check(line, name));
        upgrades.iter().for_each(|line| upgrade(line, name));
        let mut by_address: BTreeMap<String, Vec<&String>> = BTreeMap::new();
        for line in penctl {
            let address = line.split_whitespace().find(|word| word.contains(['/', ':'])).unwrap();
            // A pattern finds the one pen that runs.
            let address = address.trim_matches('\'').replace('*', "pen");
            by_address.entry(address).or_default().push(line);
        }
        by_address.iter().for_each(|(address, lines)| steer(address, lines, name));
        seen += examples.files.len() + examples.commands.len();
    }
    // If a change of form hid all examples, no check would fail.
    assert!(seen > 60, "only {seen} examples were found");
}
