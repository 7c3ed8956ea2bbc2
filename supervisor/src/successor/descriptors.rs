//! The descriptors in a state, opened for the program that reads it.

#![forbid(unsafe_code)]

use std::collections::BTreeMap;
use std::os::fd::OwnedFd;
use std::time::Duration;

use nix::unistd::Pid;
use pen_ipc::text::error_text;
use rustix::net::sockopt;

use crate::clock::from_precise;
use crate::handover::descriptors::Number;
use crate::handover::marker::Role;
use crate::handover::state::CarriedProcess;
use crate::processes::peer::AdoptedProcess;
use crate::sys::inherited::{Inheritance, duplicate, set_inheritance, take};

/// The descriptors in a state. A successor has duplicates: the program before may need the
/// originals. A program that took the process back has the originals, so that a lack of descriptors
/// cannot end it.
pub(in crate::successor) struct Descriptors(BTreeMap<Number, OwnedFd>);

impl Descriptors {
    /// Opens all of them.
    ///
    /// # Errors
    /// One is not open.
    pub(in crate::successor) fn of(numbers: &[Number], role: Role) -> Result<Descriptors, String> {
        let open = |number: &Number| match role {
            Role::Successor => duplicate(number.0),
            Role::Predecessor => take(number.0)
                .and_then(|taken| set_inheritance(number.0, Inheritance::Ends).map(|()| taken)),
        };
        let mut numbers = numbers.to_vec();
        numbers.sort_unstable();
        numbers.dedup();
        let one = |number: &Number| {
            let copy = open(number)
                .map_err(|error| format!("descriptor {}: {}", number.0, error_text(&error)))?;
            Ok((*number, copy))
        };
        numbers.iter().map(one).collect::<Result<_, String>>().map(Descriptors)
    }

    /// Takes one out.
    ///
    /// # Errors
    /// The state does not list it.
    pub(in crate::successor) fn take(&mut self, number: Number) -> Result<OwnedFd, String> {
        let missing = || format!("the state does not list descriptor {}", number.0);
        self.0.remove(&number).ok_or_else(missing)
    }

    /// [`Descriptors::take`], if there is one.
    ///
    /// # Errors
    /// As for that.
    pub(in crate::successor) fn take_if(
        &mut self,
        number: Option<Number>,
    ) -> Result<Option<OwnedFd>, String> {
        number.map(|number| self.take(number)).transpose()
    }

    /// Takes a listening socket out.
    ///
    /// # Errors
    /// It is none.
    pub(in crate::successor) fn listener(
        &mut self,
        number: Number,
        what: &str,
    ) -> Result<OwnedFd, String> {
        let socket = self.take(number)?;
        match sockopt::socket_acceptconn(&socket) {
            Ok(true) => Ok(socket),
            Ok(false) | Err(_) => Err(format!("{what} is no listening socket")),
        }
    }

    /// Takes the descriptors of a process out.
    ///
    /// # Errors
    /// One is missing, or its channel is none.
    pub(in crate::successor) fn process(
        &mut self,
        process: &CarriedProcess,
    ) -> Result<AdoptedProcess, String> {
        let CarriedProcess { pid, pidfd, channel, stat, used, born } = *process;
        let channel = self.take_if(channel)?;
        let is_channel = |socket: &OwnedFd| {
            sockopt::socket_type(socket) == Ok(rustix::net::SocketType::SEQPACKET)
        };
        if !channel.iter().all(is_channel) {
            return Err(format!("the channel of process {pid} is none"));
        }
        Ok(AdoptedProcess {
            pid: Pid::from_raw(pid),
            pidfd: self.take(pidfd)?,
            channel,
            stat: self.take_if(stat)?,
            used: Duration::from_nanos(used),
            born: from_precise(born),
        })
    }
}
