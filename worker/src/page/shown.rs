//! What pen was doing when the supervisor was last asked, in the forms that readers get. Each form
//! is made when the first reader wants it, and then kept for all others.

use std::cell::OnceCell;
use std::fs::File;
use std::os::fd::OwnedFd;
use std::rc::Rc;
use std::time::{Duration, Instant};

use pen_ipc::codec;
use pen_ipc::memory;
use pen_status::metrics::{self, Exposition};
use pen_status::{Status, page};

use crate::page::response::{Code, Content, Response};

/// What a reader can have of a status.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Form {
    /// The page, for people.
    Page,
    /// Everything, for programs.
    Json,
    /// The metrics, for Prometheus.
    Metrics(Exposition),
    /// Whether clients are served.
    Health,
}

impl Form {
    /// The form at a path; none if there is none. `accept` is what the reader can read.
    pub fn at(path: &str, accept: &str) -> Option<Form> {
        match path {
            "/" => Some(Form::Page),
            "/status.json" => Some(Form::Json),
            "/metrics" => Some(Form::Metrics(exposition(accept))),
            "/health" => Some(Form::Health),
            _ => None,
        }
    }
}

/// The text format that a reader likes best. One that does not say gets that of Prometheus.
fn exposition(accept: &str) -> Exposition {
    let likes = |wanted: &str| {
        let ranges = accept.split(',').filter_map(|range| {
            let mut parts = range.split(';').map(str::trim);
            let is_it = parts.next()?.eq_ignore_ascii_case(wanted);
            is_it.then(|| parts.find_map(|part| part.strip_prefix("q=")?.parse().ok()))
        });
        ranges.map(|quality: Option<f32>| quality.unwrap_or(1.0)).fold(0.0, f32::max)
    };
    let open = likes("application/openmetrics-text");
    match open > 0.0 && open >= likes("text/plain") {
        true => Exposition::OpenMetrics,
        false => Exposition::Prometheus,
    }
}

/// A status, and its forms as far as somebody wanted them.
#[derive(Debug)]
pub struct Shown {
    status: Status,
    came: Instant,
    page: OnceCell<Rc<[u8]>>,
    json: OnceCell<Rc<[u8]>>,
    prometheus: OnceCell<Rc<[u8]>>,
    open_metrics: OnceCell<Rc<[u8]>>,
}

impl Shown {
    /// Reads the memory that came with a message; none if it holds no status.
    pub fn read(memory: OwnedFd, came: Instant) -> Option<Shown> {
        let bytes = memory::read(&File::from(memory), codec::LARGE_LIMIT).ok()?;
        let status = codec::decode_large(&bytes).ok()?;
        let [page, json, prometheus, open_metrics] = [const { OnceCell::new() }; 4];
        Some(Shown { status, came, page, json, prometheus, open_metrics })
    }

    /// How long ago it came.
    pub fn age(&self, now: Instant) -> Duration {
        now.saturating_duration_since(self.came)
    }

    /// The status.
    pub fn status(&self) -> &Status {
        &self.status
    }

    /// The response with a form.
    pub fn response(&self, form: Form) -> Response {
        let Shown { status, came: _, page, json, prometheus, open_metrics } = self;
        match form {
            Form::Page => shown(Content::Page, page, || page::render(status)),
            Form::Json => shown(Content::Json, json, || {
                // A status has a form in JSON.
                serde_json::to_string(status).unwrap_or_default() + "\n"
            }),
            Form::Metrics(exposition) => {
                let cell = match exposition {
                    Exposition::Prometheus => prometheus,
                    Exposition::OpenMetrics => open_metrics,
                };
                let text = || metrics::render(status, exposition);
                shown(Content::Metrics(exposition), cell, text)
            }
            Form::Health => match status.health() {
                Ok(service) => Response::line(Code::Ok, &service.to_string()),
                Err(why) => Response::line(Code::Unavailable, why),
            },
        }
    }
}

/// The response with a text, which is made if it is not there yet.
fn shown(content: Content, cell: &OnceCell<Rc<[u8]>>, make: impl FnOnce() -> String) -> Response {
    Response::shown(content, cell.get_or_init(|| make().into_bytes().into()).clone())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reader_gets_the_metrics_that_it_likes_best() {
        for (accept, expected) in [
            ("", Exposition::Prometheus),
            ("*/*", Exposition::Prometheus),
            ("text/plain", Exposition::Prometheus),
            ("application/openmetrics-text", Exposition::OpenMetrics),
            (
                "text/plain;q=0.5, application/openmetrics-text; version=1.0.0",
                Exposition::OpenMetrics,
            ),
            (
                "application/openmetrics-text;version=1.0.0;q=0.5,\
                 application/openmetrics-text;version=0.0.1;q=0.4,text/plain;version=0.0.4;q=0.3,\
                 */*;q=0.2",
                Exposition::OpenMetrics,
            ),
            ("application/openmetrics-text;q=0.2,text/plain;q=0.3", Exposition::Prometheus),
            ("application/openmetrics-text;q=0", Exposition::Prometheus),
        ] {
            assert_eq!(exposition(accept), expected, "{accept}");
        }
    }
}
