//! A Prometheus that collects the metrics of a pen, and answers questions about them.

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::PathBuf;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::thread::{self, JoinHandle};

use pen_status::metrics::Exposition;
use serde_json::Value;

use crate::harness::control::Control;
use crate::harness::program::{Program, curl};
use crate::harness::{Pen, Port, eventually};

/// Prometheus, and what it collects from. Everything ends with this value.
pub struct Scraper {
    prometheus: Program,
    _command: Source,
}

impl Scraper {
    /// Collects the metrics of a pen twice a second: as job `page` those of its page, in
    /// OpenMetrics, and as job `command` what the command `metrics` says.
    pub fn start(pen: &Pen, page: &Port) -> Scraper {
        let Control::Unix(control) = pen.control() else { panic!("it needs a control socket") };
        let command = Source::serve(control.clone());
        let configuration = format!(
            "global: {{scrape_interval: 500ms, scrape_timeout: 500ms}}\n\
             scrape_configs:\n\
             - {{job_name: page, static_configs: [{{targets: ['{}']}}]}}\n\
             - {{job_name: command, static_configs: [{{targets: ['{}']}}]}}\n",
            page.address(),
            command.address
        );
        let prometheus = Program::of(|address, directory| {
            let file = directory.join("prometheus.yml");
            fs::write(&file, &configuration).unwrap();
            let mut command = Command::new("prometheus");
            command.arg(format!("--config.file={}", file.display()));
            command.arg(format!("--storage.tsdb.path={}", directory.join("data").display()));
            command.arg(format!("--web.listen-address={address}"));
            command.arg("--query.lookback-delta=1m");
            command
        });
        let ready = format!("http://{}/-/ready", prometheus.address());
        eventually("Prometheus has read its data", || curl([&ready]).ends_with("Ready.\n"));
        Scraper { prometheus, _command: command }
    }

    /// The type and the unit of a metric of the page, as Prometheus has read them.
    #[track_caller]
    pub fn described(&self, metric: &str) -> (String, String) {
        let answer = curl([
            "-G",
            &format!("http://{}/api/v1/targets/metadata", self.prometheus.address()),
            "--data-urlencode",
            r#"match_target={job="page"}"#,
            "--data-urlencode",
            &format!("metric={metric}"),
        ]);
        let answer: Value = serde_json::from_str(&answer).unwrap();
        let word = |what: &str| answer["data"][0][what].as_str().map(str::to_owned);
        let words = word("type").zip(word("unit"));
        words.unwrap_or_else(|| panic!("{metric}: {answer}"))
    }

    /// The result of a query: the labels of each series, and its value.
    #[track_caller]
    pub fn query(&self, expression: &str) -> Vec<(Value, f64)> {
        let answer = curl([
            "-G",
            &format!("http://{}/api/v1/query", self.prometheus.address()),
            "--data-urlencode",
            &format!("query={expression}"),
        ]);
        let answer: Value = serde_json::from_str(&answer).unwrap();
        assert_eq!(answer["status"], "success", "{expression}: {answer}");
        assert_eq!(answer["data"]["resultType"], "vector", "{expression}: {answer}");
        let series = answer["data"]["result"].as_array().unwrap().iter();
        series
            .map(|series| {
                let value = series["value"][1].as_str().unwrap().parse().unwrap();
                (series["metric"].clone(), value)
            })
            .collect()
    }

    /// The value of a query that has one.
    #[track_caller]
    pub fn value(&self, expression: &str) -> Option<f64> {
        let found = self.query(expression);
        assert!(found.len() <= 1, "{expression}: {found:?}");
        found.first().map(|(_, value)| *value)
    }

    /// Waits until both jobs have collected twice from now on. What the first one collects may be
    /// older.
    #[track_caller]
    pub fn collects(&self) {
        let count = || {
            let found = self.query("count_over_time(pen_workers[1h])");
            let counts = found.iter().map(|(_, count)| *count);
            if found.len() == 2 { counts.fold(f64::MAX, f64::min) } else { 0.0 }
        };
        let before = count();
        eventually("Prometheus collects", || count() >= before + 2.0);
    }
}

/// A server that answers each request with what the command `metrics` of a pen says.
struct Source {
    address: SocketAddr,
    over: Arc<AtomicBool>,
    server: Option<JoinHandle<()>>,
}

impl Source {
    fn serve(control: PathBuf) -> Source {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let (address, over) = (listener.local_addr().unwrap(), Arc::new(AtomicBool::new(false)));
        let (ends, pen) = (over.clone(), Control::Unix(control));
        let server = thread::spawn(move || {
            while let Ok((client, _)) = listener.accept() {
                if ends.load(SeqCst) {
                    return;
                }
                // A pen that ends answers nobody, and Prometheus notes that.
                let _ = answer(client, &pen);
            }
        });
        Source { address, over, server: Some(server) }
    }
}

impl Drop for Source {
    fn drop(&mut self) {
        self.over.store(true, SeqCst);
        let _ = TcpStream::connect(self.address);
        let _ = self.server.take().map(JoinHandle::join);
    }
}

fn answer(client: TcpStream, pen: &Control) -> std::io::Result<()> {
    let mut request = BufReader::new(&client).lines();
    while request.next().transpose()?.is_some_and(|line| !line.is_empty()) {}
    let body = pen.try_tell("metrics")?;
    let (length, kind) = (body.len(), Exposition::Prometheus.content_type());
    let head = "HTTP/1.1 200 OK\r\nConnection: close";
    write!(&client, "{head}\r\nContent-Type: {kind}\r\nContent-Length: {length}\r\n\r\n")?;
    (&client).write_all(&body)
}
