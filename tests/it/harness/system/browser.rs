//! A real browser: Debian's Chromium without a window, driven by its chromedriver (WebDriver: JSON
//! over HTTP on the loopback network).

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::process::{Child, Command, Stdio};

use serde_json::{Value, json};
use tempfile::TempDir;

use super::machine::not_checked;
use crate::harness::wait::PATIENCE;

/// Whether pages may run their script.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Script {
    On,
    Off,
}

/// Which colours the reader prefers.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Scheme {
    Light,
    Dark,
}

/// A browser with one page. It ends with this value.
pub struct Browser {
    driver: Child,
    port: u16,
    /// The path of the session at the driver.
    session: String,
    _profile: TempDir,
}

/// The options of a browser that shows nothing, keeps nothing, and asks nobody.
const OPTIONS: [&str; 11] = [
    "--headless",
    // A container has no user namespaces for its sandbox; the page comes from the test.
    "--no-sandbox",
    "--disable-gpu",
    "--hide-scrollbars",
    "--disable-quic",
    "--disable-dev-shm-usage",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--force-prefers-no-reduced-motion",
];

impl Browser {
    /// Starts one; none, and a line about it, where there is no Chromium.
    pub fn start(script: Script) -> Option<Browser> {
        let driver = Command::new("chromedriver")
            .arg("--port=0")
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn();
        let Ok(mut driver) = driver else {
            not_checked("there is no chromedriver (Debian's packages chromium, chromium-driver)");
            return None;
        };
        let lines = BufReader::new(driver.stdout.take().unwrap()).lines();
        let port = lines.map(Result::unwrap).find_map(|line| {
            line.split_once("successfully on port ")?.1.trim_end_matches('.').parse().ok()
        });
        let profile = tempfile::tempdir().unwrap();
        let mut arguments = OPTIONS.map(str::to_owned).to_vec();
        arguments.push(format!("--user-data-dir={}", profile.path().display()));
        let mut browser =
            Browser { driver, port: port.unwrap(), session: String::new(), _profile: profile };
        let options = json!({ "args": arguments });
        let wanted = json!({
            "browserName": "chrome",
            "goog:chromeOptions": options,
            "goog:loggingPrefs": { "browser": "ALL" },
        });
        let wanted = json!({ "capabilities": { "alwaysMatch": wanted } });
        let session = browser.ask("POST", "/session", &wanted);
        browser.session = format!("/session/{}", session["sessionId"].as_str().unwrap());
        match script {
            Script::On => (),
            Script::Off => {
                let off = json!({ "value": true });
                browser.devtools("Emulation.setScriptExecutionDisabled", &off);
            }
        }
        Some(browser)
    }

    /// Loads a page, and waits until it is loaded.
    pub fn open(&self, url: &str) {
        self.command("url", &json!({ "url": url }));
    }

    /// The value of an expression in the page. That works without the page's script, too.
    #[track_caller]
    pub fn value(&self, expression: &str) -> Value {
        let question = json!({ "expression": expression, "returnByValue": true });
        let answer = self.devtools("Runtime.evaluate", &question);
        assert!(answer.get("exceptionDetails").is_none(), "{expression}: {answer}");
        answer["result"]["value"].clone()
    }

    /// The value of an expression that is a text.
    #[track_caller]
    pub fn text(&self, expression: &str) -> String {
        let value = self.value(expression);
        value.as_str().unwrap_or_else(|| panic!("{expression} is {value}")).to_owned()
    }

    /// Presses and releases keys. U+E004 is the tabulator, U+E007 the enter key.
    pub fn press(&self, keys: &str) {
        let strokes: Vec<Value> = keys
            .chars()
            .flat_map(|key| ["keyDown", "keyUp"].map(|kind| json!({ "type": kind, "value": key })))
            .collect();
        let keyboard = json!({ "type": "key", "id": "keyboard", "actions": strokes });
        self.command("actions", &json!({ "actions": [keyboard] }));
    }

    /// Makes the page so many pixels of CSS large, and its reader prefer these colours.
    pub fn look(&self, width: u32, height: u32, scheme: Scheme) {
        let metrics = json!({
            "width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 600,
        });
        self.devtools("Emulation.setDeviceMetricsOverride", &metrics);
        let value = match scheme {
            Scheme::Light => "light",
            Scheme::Dark => "dark",
        };
        let feature = json!({ "name": "prefers-color-scheme", "value": value });
        self.devtools("Emulation.setEmulatedMedia", &json!({ "features": [feature] }));
    }

    /// What those hear who do not see the page: the role and the name of each part.
    pub fn heard(&self) -> Vec<(String, String)> {
        let tree = self.devtools("Accessibility.getFullAXTree", &json!({}));
        let parts = tree["nodes"].as_array().unwrap().iter();
        let word = |value: &Value| value["value"].as_str().unwrap_or_default().to_owned();
        let parts = parts.filter(|part| part["ignored"] != true);
        parts.map(|part| (word(&part["role"]), word(&part["name"]))).collect()
    }

    /// What is visible, as a PNG.
    pub fn picture(&self) -> Vec<u8> {
        let picture = self.devtools("Page.captureScreenshot", &json!({ "format": "png" }));
        decode(picture["data"].as_str().unwrap())
    }

    /// The messages of the console since the last call: errors of scripts, violations of a policy,
    /// what could not be loaded.
    pub fn messages(&self) -> Vec<String> {
        let messages = self.command("se/log", &json!({ "type": "browser" }));
        let messages = messages.as_array().unwrap().iter();
        messages.map(|message| message["message"].as_str().unwrap().to_owned()).collect()
    }

    fn devtools(&self, command: &str, parameters: &Value) -> Value {
        self.command("goog/cdp/execute", &json!({ "cmd": command, "params": parameters }))
    }

    fn command(&self, command: &str, body: &Value) -> Value {
        self.ask("POST", &format!("{}/{command}", self.session), body)
    }

    #[track_caller]
    fn ask(&self, method: &str, path: &str, body: &Value) -> Value {
        let answer = self.exchange(method, path, &body.to_string()).unwrap();
        let answer: Value = serde_json::from_str(&answer).unwrap();
        let value = &answer["value"];
        assert!(value.get("error").is_none(), "{method} {path} {body}: {value}");
        value.clone()
    }

    /// One request to the driver, and the body of its answer.
    fn exchange(&self, method: &str, path: &str, body: &str) -> std::io::Result<String> {
        let mut driver = TcpStream::connect(("127.0.0.1", self.port))?;
        driver.set_read_timeout(Some(PATIENCE * 2))?;
        write!(
            driver,
            "{method} {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n\
             Content-Length: {}\r\n\r\n{body}",
            body.len()
        )?;
        let mut driver = BufReader::new(driver);
        let mut length = 0;
        loop {
            let mut line = String::new();
            driver.read_line(&mut line)?;
            let line = line.trim_end().to_ascii_lowercase();
            if let Some(value) = line.strip_prefix("content-length:") {
                length = value.trim().parse().unwrap();
            }
            if line.is_empty() {
                break;
            }
        }
        let mut answer = vec![0; length];
        driver.read_exact(&mut answer)?;
        Ok(String::from_utf8(answer).unwrap())
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        // The driver ends the browser with the session; a driver that is gone has done so.
        if !self.session.is_empty() {
            let _ = self.exchange("DELETE", &self.session, "");
        }
        let _ = self.driver.kill();
        let _ = self.driver.wait();
    }
}

/// What base64 encodes.
fn decode(text: &str) -> Vec<u8> {
    let value = |letter: u8| match letter {
        b'A'..=b'Z' => letter - b'A',
        b'a'..=b'z' => letter - b'a' + 26,
        b'0'..=b'9' => letter - b'0' + 52,
        b'+' => 62,
        _ => 63,
    };
    let letters: Vec<u8> = text.bytes().filter(|letter| *letter != b'=').collect();
    let groups = letters.chunks(4).flat_map(|group| {
        let bits = group.iter().fold(0, |bits, letter| bits << 6 | u32::from(value(*letter)));
        let bits = bits << (6 * (4 - group.len()));
        bits.to_be_bytes()[1..group.len()].to_vec()
    });
    groups.collect()
}
