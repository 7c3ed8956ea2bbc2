//! Which symbolic links pen follows, which files it replaces, and which users can block its pid
//! file (pen(8), FILES).

use std::fs::{self, File};
use std::net::Ipv4Addr;
use std::os::unix::fs::{FileTypeExt, PermissionsExt, chown, symlink};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use crate::harness::machine::{self, BINARY, NOBODY};
use crate::harness::{Backend, Builder, Pen, Port, Process, eventually, needs_root};
use rustix::fs::{FlockOperation, fcntl_lock, flock};
use rustix::process::Signal;
use tempfile::TempDir;

const ME: Ipv4Addr = Ipv4Addr::new(127, 61, 0, 1);

/// A directory `home` of an untrusted user, in which `www` can be a link to `precious`, a directory
/// of root.
struct Trap {
    home: PathBuf,
    precious: PathBuf,
    _directory: TempDir,
}

impl Trap {
    fn new() -> Trap {
        let directory = tempfile::tempdir().unwrap();
        fs::set_permissions(directory.path(), fs::Permissions::from_mode(0o755)).unwrap();
        let home = machine::directory(directory.path(), "home", 0o755, NOBODY);
        let precious = machine::directory(directory.path(), "precious", 0o755, 0);
        fs::write(precious.join("pen.cfg"), "blacklist 5\n").unwrap();
        Trap { home, precious, _directory: directory }
    }

    /// A trap with the link in its place.
    fn set() -> Trap {
        let trap = Trap::new();
        symlink(&trap.precious, trap.home.join("www")).unwrap();
        std::os::unix::fs::lchown(trap.home.join("www"), Some(NOBODY), Some(NOBODY)).unwrap();
        trap
    }

    fn www(&self, name: &str) -> String {
        self.home.join("www").join(name).to_str().unwrap().to_string()
    }

    #[track_caller]
    fn assert_untouched(&self) {
        let names: Vec<_> =
            fs::read_dir(&self.precious).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        assert_eq!(names, ["pen.cfg"], "nothing is made where the link leads");
    }
}

/// The start fails with one line, and `--check` fails with the same line. Returns it.
#[track_caller]
fn fails_as_check_says(builder: Builder) -> String {
    let started = builder.runs();
    let checked = builder.options(["--check"]).runs();
    let said = |output: &std::process::Output| String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(said(&started), said(&checked), "--check says what a start says");
    assert_eq!((started.status.code(), checked.status.code()), (Some(1), Some(1)));
    assert_eq!(said(&started).lines().count(), 1, "{started:?}");
    said(&started)
}

#[test]
fn a_strangers_link_in_the_middle_of_a_path_leads_nowhere() {
    if !needs_root() {
        return;
    }
    let server = Backend::named("a");
    let trap = Trap::set();
    let with = |words: &[&str]| Pen::builder().without_status_file().options(words).server(&server);
    let file = |line: &str| Pen::builder().without_status_file().file(line).server(&server);
    let builders = [
        with(&["-l", &trap.www("log")]),
        with(&["-w", &trap.www("index.html")]),
        with(&[]).pid_file(trap.www("pid")),
        with(&[]).listen(trap.www("front")),
        with(&["-u", "nobody", "-C", &trap.www("control")]),
        with(&["-F", &trap.www("pen.cfg")]),
        with(&["-O", &format!("include {}", trap.www("pen.cfg"))]),
        with(&["-E", &trap.www("pen.cfg")]),
        with(&["-u", "nobody", "-j", &trap.www(".")]),
        with(&["-u", "nobody", "-j", &trap.www("jail")]),
        file(&format!("log {}\n", trap.www("log"))),
        file(&format!("web_stats {}\n", trap.www("index.html"))),
        file(&format!("listen {}\n", trap.www("front"))),
    ];
    for builder in builders {
        let said = fails_as_check_says(builder);
        assert!(
            said.contains(trap.home.to_str().unwrap()) && said.contains("symbolic link"),
            "{said}"
        );
        trap.assert_untouched();
    }
}

#[test]
fn links_of_root_in_roots_directories_are_followed_everywhere() {
    if !needs_root() {
        return;
    }
    let server = Backend::named("a");
    let builder = Pen::builder().without_status_file();
    let (root, real) = (builder.directory().to_path_buf(), builder.directory().join("real"));
    fs::create_dir(&real).unwrap();
    // Like /var/run: a link with an absolute path, and one with a relative path.
    symlink(&real, root.join("whole")).unwrap();
    symlink("whole/../whole/../real", root.join("link")).unwrap();
    let at = |name: &str| root.join("link").join(name).to_str().unwrap().to_string();
    fs::write(real.join("pen.cfg"), "blacklist 7\n").unwrap();
    symlink("log.1", real.join("log")).unwrap();
    let options = ["-l", &at("log"), "-w", &at("page"), "-F", &at("pen.cfg")];
    let mut pen = builder.options(options).listen(at("front")).server(&server).start();
    assert!(fs::symlink_metadata(real.join("front")).unwrap().file_type().is_socket());
    for _ in 0..2 {
        pen.supervisor().signal(Signal::USR1);
        eventually("the page is there", || fs::remove_file(real.join("page")).is_ok());
        fs::remove_file(real.join("log.1")).unwrap();
        pen.supervisor().signal(Signal::HUP);
        eventually("the log is there", || real.join("log.1").exists());
    }
    pen.end_by(Signal::TERM);
    assert!(!real.join("front").exists());
}

/// A process of the untrusted user that turns `www` into a directory and a link again and again.
struct Attacker(Child);

impl Attacker {
    fn new(trap: &Trap) -> Attacker {
        let script = "chdir shift; my $to = shift; $| = 1; print \"x\"; \
                      while (1) \
                      { rename 'www', 'd'; symlink $to, 'www'; unlink 'www'; rename 'd', 'www' }";
        let mut child = Command::new("setpriv")
            .args(["--reuid=65534", "--regid=65534", "--clear-groups", "perl", "-e", script])
            .args([&trap.home, &trap.precious])
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        std::io::Read::read_exact(child.stdout.as_mut().unwrap(), &mut [0]).unwrap();
        Attacker(child)
    }
}

impl Drop for Attacker {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn a_stranger_who_swaps_directory_and_link_all_the_time_gets_nothing_written_elsewhere() {
    if !needs_root() {
        return;
    }
    let server = Backend::named("a");
    let trap = Trap::new();
    machine::directory(&trap.home, "www", 0o755, NOBODY);
    let options = ["-l", &trap.www("log"), "-w", &trap.www("index.html")];
    let pen = Pen::builder().without_status_file().options(options).server(&server).start();
    let attacker = Attacker::new(&trap);
    for round in 0..150 {
        pen.supervisor().signal(Signal::USR1);
        pen.supervisor().signal(Signal::HUP);
        assert_eq!(pen.ask(ME).as_deref(), Some("a"), "{round}");
    }
    drop(pen);
    for _ in 0..20 {
        start_and_stop(&trap, &server);
    }
    drop(attacker);
    trap.assert_untouched();
}

/// Starts a pen whose files are all behind `www`, whether that succeeds or not, and ends it.
fn start_and_stop(trap: &Trap, server: &Backend) {
    let stderr = tempfile::NamedTempFile::new().unwrap();
    let mut child = Command::new(BINARY)
        .args([
            "-f",
            "--workers",
            "1",
            "-u",
            "nobody",
            "-p",
            &trap.www("pid"),
            "-l",
            &trap.www("log"),
        ])
        .args(["-w", &trap.www("index.html"), "-C", &trap.www("control"), &trap.www("front")])
        .arg(server.operand())
        .stderr(File::create(stderr.path()).unwrap())
        .spawn()
        .unwrap();
    let process = Process::open(child.id() as i32).unwrap();
    let is_ready = || {
        ["www/pid", "d/pid"]
            .iter()
            .any(|name| fs::read(trap.home.join(name)).is_ok_and(|pid| !pid.is_empty()))
    };
    eventually("it has started, or has not", || process.gone() || is_ready());
    process.signal(Signal::TERM);
    eventually("it has ended", || process.gone());
    child.wait().unwrap();
    let said = fs::read_to_string(stderr.path()).unwrap();
    assert!(!said.contains("panicked"), "{said}");
    for name in ["www/pid", "d/pid", "www/front", "d/front", "www/control", "d/control"] {
        let _ = fs::remove_file(trap.home.join(name));
    }
}

#[test]
fn a_link_to_what_is_no_regular_file_is_no_status_file() {
    let server = Backend::named("a");
    let builder = Pen::builder().without_status_file();
    let directory = builder.directory().to_path_buf();
    let link = directory.join("link");
    let fifo = directory.join("fifo");
    assert!(Command::new("mkfifo").arg(&fifo).status().unwrap().success());
    let file = directory.join("pen.cfg");
    let mut pen = builder.file("").server(&server).start();
    // The last two are what /dev/stdout is, for a regular file.
    for target in [
        "/dev/null",
        fifo.to_str().unwrap(),
        "/",
        "nowhere",
        "link",
        "/proc/self/fd/1",
        "/dev/stdout",
    ] {
        symlink(target, &link).unwrap();
        let with_file = tempfile::tempfile().unwrap();
        let output = Command::new(BINARY)
            .args([
                "-f",
                "--check",
                "-w",
                link.to_str().unwrap(),
                &Port::reserve().address().to_string(),
            ])
            .arg(server.operand())
            .stdout(with_file)
            .output()
            .unwrap();
        let said = String::from_utf8(output.stderr).unwrap();
        assert!(
            said.starts_with("pen: -w: status file ") && said.contains("symbolic link"),
            "{target}: {said}"
        );
        let builder = Pen::builder()
            .without_status_file()
            .options(["-w", link.to_str().unwrap()])
            .server(&server);
        fails_as_check_says(builder);
        fs::write(&file, format!("web_stats {}\n", link.display())).unwrap();
        let before = pen.said().len();
        pen.supervisor().signal(Signal::HUP);
        eventually("HUP refuses it", || pen.said()[before..].contains("symbolic link"));
        assert!(fs::symlink_metadata(&link).unwrap().is_symlink(), "{target} is still there");
        fs::remove_file(&link).unwrap();
    }
    for odd in [&fifo, Path::new("/dev/null"), &directory] {
        let builder = Pen::builder()
            .without_status_file()
            .options(["-w", odd.to_str().unwrap()])
            .server(&server);
        assert!(fails_as_check_says(builder).contains("no file"), "{odd:?}");
    }
    pen.end_by(Signal::TERM);
}

#[test]
fn commands_replace_no_link_to_a_device_and_follow_no_strangers_link() {
    if !needs_root() {
        return;
    }
    let server = Backend::named("a");
    let builder = Pen::builder().control().server(&server);
    fs::set_permissions(builder.directory(), fs::Permissions::from_mode(0o755)).unwrap();
    let open = machine::directory(builder.directory(), "open", 0o777, 1);
    let real = machine::directory(builder.directory(), "real", 0o777, NOBODY);
    let own = machine::directory(builder.directory(), "own", 0o755, NOBODY);
    for (target, link, owner) in
        [(real.as_path(), open.join("www"), 1), (Path::new("/dev/null"), own.join("null"), NOBODY)]
    {
        symlink(target, &link).unwrap();
        std::os::unix::fs::lchown(&link, Some(owner), Some(owner)).unwrap();
    }
    let pen = builder.start();
    for word in ["write", "web_stats", "log", "listen"] {
        let said = pen.refuses(&format!("{word} {}", open.join("www/file").display()));
        assert!(said.contains("symbolic link"), "{said}");
        pen.refuses(&format!("{word} {}", own.join("null").display()));
    }
    assert_eq!(fs::read_dir(&real).unwrap().count(), 0);
    assert!(fs::symlink_metadata(own.join("null")).unwrap().is_symlink());
}

#[test]
fn a_link_of_another_user_is_read_if_it_leads_to_that_users_own_file() {
    if !needs_root() {
        return;
    }
    let server = Backend::named("a");
    let trap = Trap::new();
    let own = trap.home.join("own.cfg");
    fs::write(&own, "blacklist 9\n").unwrap();
    chown(&own, Some(NOBODY), Some(NOBODY)).unwrap();
    for (target, is_read) in [(own.as_path(), true), (&trap.precious.join("pen.cfg"), false)] {
        let link = trap.home.join("link.cfg");
        symlink(target, &link).unwrap();
        std::os::unix::fs::lchown(&link, Some(NOBODY), Some(NOBODY)).unwrap();
        let output = Pen::builder()
            .options(["--check", "-F", link.to_str().unwrap()])
            .server(&server)
            .runs();
        assert_eq!(output.status.success(), is_read, "{output:?}");
        fs::remove_file(&link).unwrap();
    }
}

#[test]
fn nobody_who_can_only_read_the_pid_file_keeps_a_crashed_pen_from_starting() {
    let server = Backend::named("a");
    let builder = || Pen::builder().server(&server);
    let mut crashed = builder().start();
    let pid_file = crashed.directory().join("pid");
    crashed.kill_supervisor();
    let workers = crashed.supervisor().children();
    eventually("all are gone", || workers.iter().all(Process::gone));
    // Files that any local user can open and hold.
    let (reader, other) = (File::open(&pid_file).unwrap(), File::open(&pid_file).unwrap());
    fcntl_lock(&reader, FlockOperation::NonBlockingLockShared).unwrap();
    flock(&other, FlockOperation::NonBlockingLockExclusive).unwrap();
    let mut child = Command::new(BINARY)
        .args([
            "-f",
            "--workers",
            "1",
            "-p",
            pid_file.to_str().unwrap(),
            &Port::reserve().address().to_string(),
        ])
        .arg(server.operand())
        .spawn()
        .unwrap();
    let ready = format!("{}\n", child.id());
    eventually("it starts", || {
        assert!(child.try_wait().unwrap().is_none(), "it did not start");
        fs::read_to_string(&pid_file).unwrap() == ready
    });
    assert_eq!(fs::metadata(&pid_file).unwrap().permissions().mode() & 0o7777, 0o644);
    let said = String::from_utf8(builder().pid_file(&pid_file).fails().stderr).unwrap();
    assert!(
        said.contains(&format!("pid {}", child.id())),
        "a second one is told who holds it: {said}"
    );
    Process::open(child.id() as i32).unwrap().signal(Signal::TERM);
    assert!(child.wait().unwrap().success());
    assert!(!pid_file.exists());
}

#[test]
fn the_starters_environment_is_to_be_seen_in_no_process() {
    if !needs_root() {
        return;
    }
    let server = Backend::named("a");
    for background in [false, true] {
        let mut builder =
            Pen::builder().control().env("DATABASE_PASSWORD", "secret").env("TZ", "Asia/Tokyo");
        builder = if background { builder.background() } else { builder };
        let pen = builder.server(&server).start();
        let processes = || pen.workers().into_iter().chain([pen.control_process()]);
        // The title that ps(1) shows may end there.
        let look = |process: &Process| {
            let left = fs::read(process.proc("environ")).unwrap();
            let title = fs::read(process.proc("cmdline")).unwrap();
            let end = left.iter().position(|byte| *byte == 0).unwrap_or(left.len());
            let shown = title.iter().position(|byte| *byte == 0).unwrap_or(title.len());
            assert!(title[..shown].ends_with(&left[..end]), "{:?}", String::from_utf8_lossy(&left));
            left[end..].to_vec()
        };
        for process in processes() {
            assert!(
                look(&process).iter().all(|byte| *byte == 0),
                "{:?}",
                String::from_utf8_lossy(&look(&process))
            );
        }
        assert!(look(pen.supervisor()).iter().all(|byte| *byte == 0));
        pen.workers()[0].kill();
        for process in processes() {
            assert!(look(&process).iter().all(|byte| *byte == 0));
        }
        // The time zone stays.
        let hour = |text: &str| text.split_once("Time ").unwrap().1[11..13].parse::<u64>().unwrap();
        let status = pen.tell("status");
        let now =
            std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs();
        let ahead = (hour(&status) + 24 - now / 3600 % 24) % 24;
        assert!([8, 9].contains(&ahead), "{ahead} hours before UTC: {status}");
    }
}
