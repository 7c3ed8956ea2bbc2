//! The examiner: a child that checks the TLS files, because the supervisor does not read
//! certificates and keys. It runs in the jail, as the workers' user, with the workers' code. Files
//! that it accepts are good for every worker, because the workers read the same memory.

#![forbid(unsafe_code)]

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, poll};
use nix::unistd::Pid;
use pen_ipc::channel::{Channel, Received};
use pen_ipc::codec;
use pen_ipc::tls_files::{Examined, Fact, MOST_CERTIFICATES, Purpose};
use serde::{Deserialize, Serialize};

use crate::files::memory;
use crate::helpers::helper::{Helper, NoQuestion};
use crate::jail::Jail;
use crate::jail::sandbox::ProcessKind;
use crate::launch::interrupt::Interrupts;
use crate::log::errno::why;
use crate::patience::until;
use crate::processes::peer::printable;
use crate::signals;
use crate::{Examiner, StartError};

/// The result of the examiner.
#[derive(Debug, Serialize, Deserialize)]
enum Finding {
    /// The files are good. Notices and certificates are in the memory ([`Examined`]).
    Good,
    /// The file, and what is wrong with it.
    Bad(String),
}

/// An examiner at work.
#[derive(Debug)]
pub(crate) struct Examining {
    helper: Helper<NoQuestion, Finding>,
    /// The memory to which the examiner writes its result.
    memory: File,
    deadline: Instant,
}

/// Examines TLS files, and waits for the result.
///
/// # Errors
/// The files are not good, or the start is interrupted.
pub(crate) fn examine(
    files: &OwnedFd,
    examiner: Examiner,
    jail: &Jail,
    interrupts: &mut Interrupts,
) -> Result<Examined, StartError> {
    let examining = Examining::begin(files, examiner, jail, Instant::now()).map_err(StartError)?;
    let found = loop {
        match examining.read(Instant::now()) {
            Some(found) => break found,
            None => {
                let descriptors = interrupts.descriptors().chain([examining.descriptor()]);
                let mut polled: Vec<PollFd<'_>> =
                    descriptors.map(|fd| PollFd::new(fd, PollFlags::POLLIN)).collect();
                // After an interruption, too, everything is checked again.
                let _ = poll(&mut polled, until(examining.deadline()));
                drop(polled);
                if let Err(error) = interrupts.check() {
                    examining.helper.end();
                    return Err(error);
                }
            }
        }
    };
    examining.helper.end();
    found.map_err(StartError)
}

impl Examining {
    /// Forks the examiner.
    ///
    /// # Errors
    /// No child can be forked now.
    pub(crate) fn begin(
        files: &OwnedFd,
        examiner: Examiner,
        jail: &Jail,
        now: Instant,
    ) -> Result<Examining, String> {
        let cannot = |error| format!("the files of TLS cannot be examined now: {}", why(&error));
        let memory = memory::new().map_err(cannot)?;
        let work = |channel: &Channel<Finding, NoQuestion>, supervisor| {
            answer(files, examiner, jail, supervisor, channel, &memory)
        };
        let helper = Helper::begin(jail.identity.uid, work).map_err(cannot)?;
        Ok(Examining { helper, memory, deadline: now + PATIENCE })
    }

    /// The descriptor to poll for reading.
    pub(crate) fn descriptor(&self) -> BorrowedFd<'_> {
        self.helper.descriptor()
    }

    /// When to call [`Examining::read`] at the latest.
    pub(crate) fn deadline(&self) -> Instant {
        self.deadline
    }

    /// The result, once it is known.
    pub(crate) fn read(&self, now: Instant) -> Option<Result<Examined, String>> {
        match self.helper.receive() {
            Ok(Received::Message(Finding::Good, _)) => {
                Some(found(&self.memory).map_err(|error| {
                    format!("the files of TLS cannot be examined: {}", why(&error))
                }))
            }
            Ok(Received::Message(Finding::Bad(why), _)) => Some(Err(printable(&why))),
            Ok(Received::Empty) if now < self.deadline => None,
            Ok(Received::Empty) => {
                Some(Err(format!("the files of TLS took more than {} s", PATIENCE.as_secs())))
            }
            Ok(Received::Closed) | Err(_) => {
                Some(Err("the process that examines the files of TLS ended".into()))
            }
        }
    }

    /// Whether this reaped child was the examiner.
    pub(crate) fn reaped(&mut self, child: Pid) -> bool {
        self.helper.reaped(child)
    }
}

/// The result in the memory. The examiner may have been taken over by a malicious file. So the size
/// is bounded, and the text is made safe for a terminal.
fn found(memory: &File) -> io::Result<Examined> {
    let length = memory.metadata()?.len();
    let length = usize::try_from(length).ok().filter(|length| *length <= codec::LARGE_LIMIT);
    let mut bytes = vec![0; length.ok_or(io::ErrorKind::FileTooLarge)?];
    memory.read_exact_at(&mut bytes, 0)?;
    let mut found: Examined = codec::decode_large(&bytes).map_err(io::Error::other)?;
    found.notices.truncate(MOST_NOTICES + 1);
    found.notices.iter_mut().for_each(|notice| *notice = printable(notice));
    found.certificates.truncate(MOST_CERTIFICATES);
    for fact in &mut found.certificates {
        let Fact { file, purpose, name, issuer, serial, key, not_before: _, not_after: _ } = fact;
        let (Purpose::Server(of) | Purpose::Chain(of) | Purpose::Authority(of)) = purpose;
        for text in [file, name, issuer, serial, key].into_iter().chain(of) {
            *text = printable(text);
        }
    }
    Ok(found)
}

// The code from here on runs in the child.

fn answer(
    files: &OwnedFd,
    examiner: Examiner,
    jail: &Jail,
    supervisor: Pid,
    channel: &Channel<Finding, NoQuestion>,
    memory: &File,
) -> i32 {
    let keep = [channel.as_fd(), memory.as_fd()];
    let found = confine(files, jail, supervisor, &keep).and_then(examiner).and_then(|mut found| {
        found.notices = first(&found.notices);
        let bytes = codec::encode_large(&found).map_err(|error| error.to_string())?;
        memory
            .write_all_at(&bytes, 0)
            .map_err(|error| format!("cannot examine the files of TLS: {}", why(&error)))
    });
    let finding = match found {
        Ok(()) => Finding::Good,
        Err(why) => Finding::Bad(printable(&why)),
    };
    i32::from(channel.send(&finding, None).is_err())
}

/// The first notices, and the number of the others.
fn first(notices: &[String]) -> Vec<String> {
    let more = notices.len().saturating_sub(MOST_NOTICES);
    let rest = (more > 0).then(|| format!("{more} more messages about the files of TLS"));
    notices.iter().take(MOST_NOTICES).map(|notice| printable(notice)).chain(rest).collect()
}

fn confine(
    files: &OwnedFd,
    jail: &Jail,
    supervisor: Pid,
    keep: &[BorrowedFd<'_>],
) -> Result<OwnedFd, String> {
    let at = |step: &'static str| {
        move |error: io::Error| format!("cannot examine the files of TLS: {step}: {}", why(&error))
    };
    signals::settle_child().map_err(at("signals"))?;
    let files = files.try_clone().map_err(at("descriptors"))?;
    let keep: Vec<_> = keep.iter().copied().chain([files.as_fd()]).collect();
    jail.enter(ProcessKind::Examiner, supervisor, &keep)
        .map_err(|error| format!("cannot examine the files of TLS: {error}"))?;
    Ok(files)
}

/// How long the examiner may take. An RSA key takes a millisecond or two: 8192 of them take half a
/// minute on a slow or busy machine.
const PATIENCE: Duration = Duration::from_secs(60);

/// Most notices about one set of files.
const MOST_NOTICES: usize = 50;
