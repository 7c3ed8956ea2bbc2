//! The examiner: a child that checks the TLS files, because the supervisor does not read
//! certificates and keys. It runs in the jail, as the workers' user, with the workers' code. Files
//! that it accepts are good for every worker, because the workers read the same memory.

#![forbid(unsafe_code)]

use std::fs::File;
use std::io;
use std::iter;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::time::{Duration, Instant};

use nix::unistd::Pid;
use pen_ipc::channel::Channel;
use pen_ipc::codec;
use pen_ipc::text::error_text;
use pen_ipc::tls_files::{Examined, Fact, MOST_CERTIFICATES, Purpose};
use serde::{Deserialize, Serialize};

use crate::files::memory;
use crate::helpers::helper;
use crate::helpers::helper::{Helper, HelperFailure, NoQuestion};
use crate::jail::Jail;
use crate::jail::sandbox::ProcessKind;
use crate::launch::interrupt::Interrupts;
use crate::log::printable::printable;
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
    helper: Helper<Finding>,
    /// The memory to which the examiner writes its result.
    memory: File,
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
        if let Some(found) = examining.read(Instant::now()) {
            break found;
        }
        let (descriptor, deadline) = (examining.descriptor(), examining.deadline());
        if let Err(error) = helper::wait(iter::once(descriptor), deadline, interrupts) {
            examining.helper.kill().end();
            return Err(error);
        }
    };
    examining.helper.kill().end();
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
        let cannot =
            |error| format!("the files of TLS cannot be examined now: {}", error_text(&error));
        let memory = memory::new().map_err(cannot)?;
        let work = |channel: &Channel<Finding, NoQuestion>, supervisor| {
            answer(files, examiner, jail, supervisor, channel, &memory)
        };
        let helper = Helper::begin(jail.identity.uid, now + PATIENCE, work).map_err(cannot)?;
        Ok(Examining { helper, memory })
    }

    /// The descriptor to poll for reading.
    pub(crate) fn descriptor(&self) -> BorrowedFd<'_> {
        self.helper.descriptor()
    }

    /// When to call [`Examining::read`] at the latest.
    pub(crate) fn deadline(&self) -> Instant {
        self.helper.deadline()
    }

    /// The result, once it is known.
    pub(crate) fn read(&self, now: Instant) -> Option<Result<Examined, String>> {
        Some(match self.helper.read(now)? {
            Ok((Finding::Good, _)) => found(&self.memory).map_err(|error| {
                format!("the files of TLS cannot be examined: {}", error_text(&error))
            }),
            Ok((Finding::Bad(why), _)) => Err(printable(&why)),
            Err(HelperFailure::Late) => {
                Err(format!("the files of TLS took more than {} s", PATIENCE.as_secs()))
            }
            Err(HelperFailure::Ended) => {
                Err("the process that examines the files of TLS ended".into())
            }
        })
    }
}

/// The result in the memory. The examiner may have been taken over by a malicious file. So the size
/// is bounded, and the text is made safe for a terminal.
fn found(memory: &File) -> io::Result<Examined> {
    let bytes = pen_ipc::memory::read(memory, codec::LARGE_LIMIT)?;
    let mut found: Examined = codec::decode_large(&bytes).map_err(io::Error::other)?;
    found.notices.truncate(MOST_NOTICES + 1);
    found.notices.iter_mut().for_each(|notice| *notice = printable(notice));
    found.certificates.truncate(MOST_CERTIFICATES);
    for fact in &mut found.certificates {
        let Fact { file, purpose, name, issuer, serial, key, not_before: _, not_after: _ } = fact;
        let of = match purpose {
            Purpose::Server(of) | Purpose::Chain(of) | Purpose::Authority(of) => of.as_mut(),
            Purpose::Client | Purpose::ClientChain | Purpose::ServerAuthority => None,
        };
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
            .map_err(|error| format!("cannot examine the files of TLS: {}", error_text(&error)))
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
        move |error: io::Error| {
            format!("cannot examine the files of TLS: {step}: {}", error_text(&error))
        }
    };
    signals::reset_for_child().map_err(at("signals"))?;
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
