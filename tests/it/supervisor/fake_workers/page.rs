//! A fake page process: asks for nothing, except to try what a test wants to see refused.

use pen_ipc::channel::Received;
use pen_ipc::message::{FromPage, FromStartingWorker, ToPage};
use pen_ipc::start::PageStart;
use rustix::event::{PollFd, PollFlags, poll};

use crate::worker::read_settings;
use crate::{BEHAVIOUR, sandbox};

/// Obeys until it is told to stop.
pub fn entry(start: PageStart) -> i32 {
    if let ["try", "page", action] = BEHAVIOUR[..] {
        let reason = sandbox::attempt(action);
        start.channel.send(&FromStartingWorker::Failed { reason }, None).unwrap();
        return 1;
    }
    start.channel.send(&FromStartingWorker::Ready, None).unwrap();
    let channel = start.channel.into_phase::<FromPage, ToPage>();
    loop {
        poll(&mut [PollFd::new(&channel, PollFlags::IN)], None).unwrap();
        match channel.receive() {
            Ok(Received::Message(ToPage::Settings, Some(memory))) => {
                let generation = read_settings(memory).generation;
                channel.send(&FromPage::Applied { generation }, None).unwrap();
            }
            Ok(Received::Message(ToPage::Ping { serial }, _)) => {
                channel.send(&FromPage::Pong { serial }, None).unwrap();
            }
            Ok(Received::Message(ToPage::Settings, None)) => panic!("settings without settings"),
            Ok(Received::Message(ToPage::Stop | ToPage::Leave, _) | Received::Closed) => return 0,
            Ok(
                Received::Message(
                    ToPage::Begin | ToPage::Pause | ToPage::Status { .. } | ToPage::NoStatus { .. },
                    _,
                )
                | Received::Empty,
            ) => {}
            Err(error) => panic!("{error}"),
        }
    }
}
