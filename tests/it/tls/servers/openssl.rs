//! The servers of openssl(1), which are as strict as those of most programs.

use std::io::{BufRead, BufReader};
use std::net::Ipv4Addr;
use std::process::{Child, Command, Stdio};

use super::pen;
use crate::harness::tls::{Authority, write};
use crate::harness::{Port, eventually, not_checked};

const LOCALHOST: Ipv4Addr = Ipv4Addr::LOCALHOST;

struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn a_server_of_openssl_resumes_and_sees_the_certificate() {
    if Command::new("openssl").arg("version").output().is_err() {
        return not_checked("it needs openssl");
    }
    let root = Authority::root("root");
    for version in ["-tls1_2", "-tls1_3"] {
        let builder = pen(&root);
        let (server, own) = (root.issue(&["127.0.0.1"]), root.issue(&["client"]));
        let directory = builder.directory().to_owned();
        let file = |name: &str, text: &str| write(&directory, name, text).display().to_string();
        let cert = file("server.pem", &server.chain);
        let key = file("server.key", &server.key);
        let ca = file("root.pem", root.pem());
        let own = file("own.pem", &format!("{}{}", own.chain, own.key));
        let port = Port::reserve();
        let address = port.address();
        let accept = address.to_string();
        let child = Command::new("openssl")
            .args(["s_server", "-accept", &accept, "-cert", &cert, "-key", &key, version])
            .args(["-CAfile", &ca, "-Verify", "2", "-verify_return_error", "-www"])
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let mut child = Running(child);
        // It says so when it listens.
        let mut lines = BufReader::new(child.0.stdout.take().unwrap()).lines();
        assert!(lines.any(|line| line.unwrap().starts_with("ACCEPT")));
        let command = format!("server_tls_cert {own}");
        let builder = builder.options(["-O", &command]).workers(1);
        let pen = builder.server_as(address.to_string()).start();
        for round in 0..3 {
            let client = pen.connect(LOCALHOST);
            client.send("GET / HTTP/1.0\r\n\r\n");
            let page = String::from_utf8_lossy(&client.read_to_end().unwrap()).into_owned();
            assert!(page.contains("CN=client") || page.contains("CN = client"), "{page}");
            let kind = if round == 0 { "New, " } else { "Reused, " };
            assert!(page.contains(kind), "{version} {round}: {page}");
        }
        eventually("nothing is left", || pen.report().in_use() == 0);
    }
}
