//! A fake control process: one operator at a time, at the port that the supervisor bound.

use std::io::{BufRead, BufReader, Read, Seek, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;

use pen_config::command::{Action, Command, LogTarget, Number, Query, Setting, parse};
use pen_ipc::channel::{Channel, Received};
use pen_ipc::message::{FromControl, FromStartingWorker, Operator, ToControl};
use pen_ipc::start::ControlStart;
use rustix::event::{PollFd, PollFlags, poll};

use crate::worker::read_settings;
use crate::{BEHAVIOUR, sandbox};

/// Serves operators until it is told to stop.
pub fn entry(start: ControlStart) -> i32 {
    if let ["try", "control", action] = BEHAVIOUR[..] {
        let reason = sandbox::attempt(action);
        start.channel.send(&FromStartingWorker::Failed { reason }, None).unwrap();
        return 1;
    }
    start.channel.send(&FromStartingWorker::Ready, None).unwrap();
    let channel = start.channel.into_phase::<FromControl, ToControl>();
    let listener = UnixListener::from(start.listener);
    let mut operator: Option<UnixStream> = None;
    for ticket in 1.. {
        while operator.is_none() {
            wait(&[listener.as_fd(), channel.as_fd()]);
            if let Ok((stream, _)) = listener.accept() {
                operator = Some(stream);
            } else if let Some(status) = hear(&channel, &mut operator, 0) {
                return status;
            }
        }
        if let Some(stream) = &mut operator {
            let mut line = String::new();
            stream.set_nonblocking(false).unwrap();
            BufReader::new(&*stream).read_line(&mut line).unwrap();
            let line = line.trim_end();
            if line == "die" {
                return 7;
            }
            if line == "nonsense" {
                rustix::net::send(&channel, b"\xff\xff", rustix::net::SendFlags::empty()).unwrap();
            }
            let impossible = || Command::Setting(Setting::Number(Number::ConnMax, u32::MAX));
            let command = if line == "impossible" {
                impossible()
            } else {
                parse(line).ok().flatten().unwrap_or(Command::Query(Query::Pid))
            };
            let file = named(&command).map(|path| {
                std::fs::OpenOptions::new()
                    .read(true)
                    .write(true)
                    .create(true)
                    .truncate(false)
                    .open(path)
                    .unwrap()
            });
            let message = FromControl::Command {
                ticket,
                command,
                by: Operator::Local(None),
                with_file: file.is_some(),
            };
            channel.send(&message, file.as_ref().map(AsFd::as_fd)).unwrap();
        }
        while operator.is_some() {
            wait(&[channel.as_fd()]);
            if let Some(status) = hear(&channel, &mut operator, ticket) {
                return status;
            }
        }
    }
    0
}

fn named(command: &Command) -> Option<&Path> {
    match command {
        Command::Setting(Setting::Log(Some(LogTarget::File(path))))
        | Command::Setting(Setting::WebStats(Some(path)))
        | Command::Action(Action::Write(Some(path))) => Some(path),
        Command::Query(_) | Command::Setting(_) | Command::Action(_) => None,
    }
}

fn hear(
    channel: &Channel<FromControl, ToControl>,
    operator: &mut Option<UnixStream>,
    wanted: u64,
) -> Option<i32> {
    match channel.receive() {
        Ok(Received::Message(ToControl::Reply { ticket, mut text, .. }, memory)) => {
            assert_eq!(ticket, wanted);
            if let Some(memory) = memory {
                // The writer of the memory left the offset at the end.
                let mut memory = std::fs::File::from(memory);
                memory.rewind().unwrap();
                memory.read_to_string(&mut text).unwrap();
            }
            let _ = operator.take().map(|mut stream| stream.write_all(text.as_bytes()));
        }
        Ok(Received::Message(ToControl::Settings, Some(memory))) => {
            let generation = read_settings(memory).generation;
            channel.send(&FromControl::Applied { generation }, None).unwrap();
        }
        Ok(Received::Message(ToControl::Ping { serial }, _)) => {
            channel.send(&FromControl::Pong { serial }, None).unwrap();
        }
        Ok(Received::Message(ToControl::Settings, None)) => panic!("settings without settings"),
        Ok(Received::Message(ToControl::Stop | ToControl::Leave, _) | Received::Closed) => {
            return Some(0);
        }
        Ok(
            Received::Message(ToControl::Begin | ToControl::Pause | ToControl::Event { .. }, _)
            | Received::Empty,
        ) => {}
        Err(error) => panic!("{error}"),
    }
    None
}

fn wait(descriptors: &[BorrowedFd<'_>]) {
    let mut polled: Vec<PollFd<'_>> = descriptors
        .iter()
        .map(|descriptor| PollFd::from_borrowed_fd(*descriptor, PollFlags::IN))
        .collect();
    let _ = poll(&mut polled, None);
}
