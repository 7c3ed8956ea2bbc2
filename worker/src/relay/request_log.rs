//! The request log (`-l`): one line for the first data of a connection, and one for the first data
//! after each answer. `relay::log_writer` writes them.

use std::io::Write;

use pen_config::ids::{ClientKey, Target};
use pen_config::settings::Settings;

use crate::relay::log_writer::LogWriter;
use crate::relay::log_writer::sink::Sink;

/// Longest datagram to penlogd, in bytes.
const DATAGRAM: usize = 1024;

/// Longest part of a request that is logged to a file, in bytes.
const REQUEST: usize = 100;

/// Adds a line for the first bytes of a request.
pub fn line(
    log: &mut LogWriter,
    now: u64,
    unix_time: u64,
    client: ClientKey,
    server: &str,
    data: &[u8],
) {
    let for_penlogd = matches!(log.sink(), Sink::Penlogd(_));
    log.line(now, |buffer| {
        let start = buffer.len();
        // Writing to a Vec does not fail.
        let _ = match for_penlogd {
            false => write!(buffer, "{client} {unix_time} {server} "),
            true => write!(buffer, "+ {client} {server} "),
        };
        let most = match for_penlogd {
            false => REQUEST,
            true => DATAGRAM.saturating_sub(buffer.len() - start + 1),
        };
        buffer.extend(first_line(data, most));
    });
}

/// The address of a target as the request log shows it; empty if there is none.
pub fn shown_at(shown: &[Vec<String>], target: Option<Target>, position: u32) -> &str {
    // The last two rows belong to the emergency and the abuse server.
    let row = |target: Target| shown.get(target.row(shown.len().saturating_sub(2) as u32) as usize);
    let addresses = target.and_then(row).map_or(&[][..], Vec::as_slice);
    addresses.get(position as usize % addresses.len().max(1)).map_or("", String::as_str)
}

/// The addresses of each target as the request log shows them, by table row and position.
pub fn shown(settings: &Settings) -> Vec<Vec<String>> {
    let regular = settings.servers.iter();
    regular
        .chain([&settings.emergency, &settings.abuse])
        .map(|server| {
            let server = server.as_ref();
            server.map_or(Vec::new(), |server| {
                (0..server.address_count()).map(|n| server.host_at(n)).collect()
            })
        })
        .collect()
}

/// The first line of the client's data, at most `most` bytes, with a dot for each byte that is not
/// printable ASCII.
fn first_line(data: &[u8], most: usize) -> impl Iterator<Item = u8> + '_ {
    data.iter()
        .take(most)
        .take_while(|byte| !matches!(byte, b'\r' | b'\n'))
        .map(|byte| if matches!(byte, b' '..=b'~') { *byte } else { b'.' })
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use pen_ipc::start::RequestLog;

    use super::*;

    fn client() -> ClientKey {
        ClientKey::from_ip("127.0.1.5".parse().unwrap())
    }

    #[test]
    fn a_line_is_client_time_server_request() {
        let (mut read, write) = std::io::pipe().unwrap();
        let mut log = LogWriter::new(RequestLog::File(write.into()));
        let mut say = |time, data: &[u8]| line(&mut log, 5, time, client(), "127.0.0.2", data);
        say(1_795_493_747, b"GET /hello?x=1 HTTP/1.0\r\nHost: x\r\n\r\n");
        say(1_795_493_748, b"\r\n");
        say(1_795_493_748, &[b'a'; 300]);
        say(1_795_493_748, b"caf\xc3\xa9\x1b[31m\t!");
        log.flush(0);
        drop(log);
        let mut text = String::new();
        read.read_to_string(&mut text).unwrap();
        let long = "a".repeat(100);
        assert_eq!(
            text,
            format!(
                "127.0.1.5 1795493747 127.0.0.2 GET /hello?x=1 HTTP/1.0\n127.0.1.5 1795493748 \
                 127.0.0.2 \n\
                 127.0.1.5 1795493748 127.0.0.2 {long}\n127.0.1.5 1795493748 127.0.0.2 \
                 caf...[31m.!\n"
            )
        );
    }

    #[test]
    fn penlogd_gets_one_datagram_a_line_without_time() {
        let receiver = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
        let sender = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
        sender.connect(receiver.local_addr().unwrap()).unwrap();
        let mut log = LogWriter::new(RequestLog::Network(sender.into()));
        line(&mut log, 0, 1, client(), "127.0.0.1", b"GET /1 HTTP/1.1\r\n");
        let mut datagram = [0; 200];
        let length = receiver.recv(&mut datagram).unwrap();
        assert_eq!(&datagram[..length], b"+ 127.0.1.5 127.0.0.1 GET /1 HTTP/1.1\n");
        assert_eq!(log.due(), None);
    }
}
