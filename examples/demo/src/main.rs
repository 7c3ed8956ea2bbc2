//! A demonstration of pen; `tools/demo` builds and runs it.
//!
//! It starts three small web servers in this process and the real `pen` in front of them. Twelve
//! clients send requests without a break while it causes the failures of a bad day. It uses only
//! loopback addresses and its own processes, needs no privileges, and takes about ten seconds. The
//! exit status is 1 if an announced result did not happen.

use std::error::Error;
use std::path::PathBuf;
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, getuid, kill_process};

mod clients;
mod held;
mod picture;
mod servers;
mod service;

use clients::{CLIENTS, Clients, Seen, address_of};
use held::Held;
use picture::Picture;
use servers::Server;
use service::{Service, WORKERS};

type Outcome<T> = Result<T, Box<dyn Error>>;

/// The longest time for any step, before the demonstration counts as failed.
const LIMIT: Duration = Duration::from_secs(15);

/// The shortest time for which each scene is shown.
const SCENE: Duration = Duration::from_millis(2500);

const SERVERS: [&str; 3] = ["www1", "www2", "www3"];

fn main() {
    let picture = Picture::new();
    if let Err(error) = Show::start(&picture).and_then(|mut show| show.run()) {
        eprintln!("\nThe demonstration failed: {error}");
        std::process::exit(1);
    }
}

/// All parts of the demonstration.
struct Show<'a> {
    picture: &'a Picture,
    programs: PathBuf,
    servers: Vec<Server>,
    // Before the service: the clients stop first, so that none fails at the end.
    clients: Clients,
    service: Service,
}

impl<'a> Show<'a> {
    fn start(picture: &'a Picture) -> Outcome<Show<'a>> {
        let me = std::env::current_exe()?;
        let programs = me.parent().ok_or("this program has no directory")?.to_path_buf();
        for program in ["pen", "penctl"] {
            let path = programs.join(program);
            if !path.exists() {
                return Err(format!("{} is missing: run tools/demo", path.display()).into());
            }
        }
        let servers: Vec<Server> =
            SERVERS.iter().map(|name| Server::start(name)).collect::<Result<_, _>>()?;
        let service = Service::start(&programs, &servers)?;
        let clients = Clients::start(service.address);
        Ok(Show { picture, programs, servers, clients, service })
    }

    fn run(&mut self) -> Outcome<()> {
        let placed = self.one_address()?;
        self.explain()?;
        self.server_dies(&placed)?;
        self.worker_dies()?;
        self.bad_reload()?;
        self.end()
    }

    fn one_address(&mut self) -> Outcome<Seen> {
        self.title("One address, three servers: each client stays with the server it was given");
        println!("   $ {}", self.service.command_line);
        self.quote("pen.conf", std::fs::read_to_string(&self.service.file)?.trim_end());
        self.watch("every client was answered", |seen| seen.server.iter().all(Option::is_some))?;
        let placed = self.clients.seen();
        let each = SERVERS.map(|name| count(&placed, name));
        self.claim(
            "the clients are spread evenly",
            each == [CLIENTS / SERVERS.len(); SERVERS.len()],
        )?;
        Ok(placed)
    }

    fn explain(&self) -> Outcome<()> {
        self.title("Ask pen why");
        let client = address_of(0).to_string();
        println!("   $ {} explain {client}", self.service.penctl());
        let reply = self.service.command(&["explain", &client])?;
        self.quote("", reply.trim_end());
        self.claim("pen names the server that the client uses", reply.contains("server"))
    }

    fn server_dies(&mut self, placed: &Seen) -> Outcome<()> {
        self.title("A server goes down: www2");
        let failed = self.clients.seen().failed;
        self.servers[1].stop();
        self.watch("the clients of www2 moved", |seen| count(seen, "www2") == 0)?;
        let message = until("pen tells of it", || self.service.last_message("blacklisting"))?;
        self.quote("pen says", &message);
        let seen = self.clients.seen();
        self.claim("not one request failed", seen.failed == failed)?;
        let stayed = (0..CLIENTS)
            .filter(|client| placed.server[*client].as_deref() != Some("www2"))
            .all(|client| seen.server[client] == placed.server[client]);
        self.claim("the clients of www1 and www3 noticed nothing", stayed)?;
        self.servers[1].restart()?;
        Ok(())
    }

    fn worker_dies(&mut self) -> Outcome<()> {
        self.title("A worker process is killed: kill -9");
        let (before, workers) = (self.clients.seen(), self.service.workers());
        let victim = *workers.first().ok_or("pen has no worker")?;
        let mut held = Held::open(self.service.address, &workers)?;
        let [all, its] = held.count(victim);
        println!(
            "   Each client holds a connection too: {all} in {WORKERS} workers, {its} in worker \
             {victim}."
        );
        println!("   $ kill -9 {victim}");
        kill_process(Pid::from_raw(victim).ok_or("pen has no worker")?, Signal::KILL)?;
        let service = &self.service;
        self.watch("the worker was replaced", |_| {
            let now = service.workers();
            now.len() == WORKERS && !now.contains(&victim)
        })?;
        let (lost, only_its) = held.lost(victim);
        let others = all - lost;
        println!(
            "   {lost} held connections were lost, {others} still carry data; a new worker is there"
        );
        self.claim(
            "only the connections of the killed worker ended",
            only_its && lost == its && lost > 0,
        )?;
        let seen = self.clients.seen();
        self.claim("every client is at the server that it knows", seen.server == before.server)
    }

    fn bad_reload(&mut self) -> Outcome<()> {
        self.title("A mistake in the file, and a reload: kill -HUP");
        let before = self.clients.seen();
        println!(
            "   $ echo 'server 1 adress 127.0.0.1' >> pen.conf; kill -HUP {}",
            self.service.pid()
        );
        self.service.reload_with("server 1 adress 127.0.0.1")?;
        let message = until("pen refuses it", || self.service.last_message("adress"))?;
        self.quote("pen says", &message);
        self.watch("all clients were answered again", |seen| {
            (0..CLIENTS).all(|client| seen.answers[client] > before.answers[client])
        })?;
        let seen = self.clients.seen();
        self.claim("nothing of the file is in force, nobody failed", seen.failed == before.failed)
    }

    fn end(&mut self) -> Outcome<()> {
        println!();
        println!("{}", self.picture.paint(1, "All of this happened just now. Go on with:"));
        let programs = self.programs.as_path();
        let here = std::env::current_dir()?;
        let programs = programs.strip_prefix(&here).unwrap_or(programs);
        let programs = programs.display();
        // Root must name the user of the workers.
        let user = if getuid().is_root() { "-u nobody " } else { "" };
        for (what, command) in [
            (
                "a server of your own at port 80, for clients at port 8080",
                format!("{programs}/pen {user}-C 8888 8080 127.0.0.1:80"),
            ),
            ("what pen knows of it", format!("{programs}/penctl 8888 servers")),
            ("the end of that pen", format!("kill $({programs}/penctl 8888 pid)")),
            ("the manual", "man docs/man/pen.8".to_owned()),
            (
                "a Debian package: service, user, log rotation",
                "tools/setup ci && packaging/build-deb".to_owned(),
            ),
        ] {
            println!("   {}\n   {command}", self.picture.paint(2, &format!("# {what}")));
        }
        self.clients.stop();
        self.service.end()
    }

    /// Shows the live picture until a condition holds.
    fn watch(&self, condition: &str, done: impl FnMut(&Seen) -> bool) -> Outcome<()> {
        if self.picture.watch(&self.clients, &self.servers, [SCENE, LIMIT], done)? {
            return Ok(());
        }
        Err(format!("waited in vain until {condition}").into())
    }

    fn title(&self, text: &str) {
        println!("\n{}", self.picture.paint(1, text));
    }

    fn quote(&self, whose: &str, text: &str) {
        if !whose.is_empty() {
            println!("   {whose}:");
        }
        for line in text.lines().flat_map(folded) {
            println!("   {} {line}", self.picture.paint(2, "|"));
        }
    }

    fn claim(&self, claim: &str, holds: bool) -> Outcome<()> {
        if !holds {
            return Err(format!("it is not true that {claim}").into());
        }
        println!("   {} {claim}", self.picture.paint(32, "ok:"));
        Ok(())
    }
}

/// A line in pieces that fit a terminal of 80 columns.
fn folded(line: &str) -> Vec<String> {
    const ROOM: usize = 74;
    let mut pieces = vec![String::new()];
    for word in line.split(' ') {
        let last = pieces
            .last_mut()
            .filter(|last| last.len() + 1 + word.len() <= ROOM || last.trim().is_empty());
        match last {
            Some(last) if last.is_empty() => last.push_str(word),
            Some(last) => last.extend([" ", word]),
            None => pieces.push(format!("  {word}")),
        }
    }
    pieces
}

/// The number of clients whose last answer came from a server.
fn count(seen: &Seen, server: &str) -> usize {
    seen.server.iter().filter(|name| name.as_deref() == Some(server)).count()
}

/// Waits for something with a deadline.
fn until<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> Outcome<T> {
    let deadline = Instant::now() + LIMIT;
    loop {
        if let Some(found) = look() {
            return Ok(found);
        }
        if Instant::now() > deadline {
            return Err(format!("waited in vain until {what}").into());
        }
        thread::sleep(Duration::from_millis(10));
    }
}
