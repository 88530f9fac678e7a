// SPDX-License-Identifier: Apache-2.0
//! The backend programs from `main` on: supervised in a jail, or standalone.
//!
//! A supervised backend inherits everything it may use, at the numbers of `ipc::fd`, and its launch
//! record says what that is. A standalone backend opens for itself what the jailer would have
//! opened.

use std::ffi::OsString;
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::{Context, Result};
use host::seccomp::SeccompError;
use ipc::control::{Channel, Failure, FromBackend};
use ipc::fd::{self, claim};
use ipc::health::{Crash, HealthPage};
use ipc::log_format::LogFormat;
use ipc::record::{BackendRecord, Record as _};

use crate::options::Parsed;
use crate::serve::{Device, Service};
use crate::{control, health};

/// A backend program.
pub trait Program {
    /// Its name for users.
    const NAME: &'static str;
    /// Its name in the log of a VM.
    const ROLE: &'static str;
    /// The device that it serves.
    type Device: Device;
    /// Its launch record.
    type Record: BackendRecord;
    /// Its command line options.
    type Options;

    /// Parses the command line, without the program's name.
    fn parse(args: Vec<OsString>) -> Result<Parsed<Self::Options>, String>;

    /// Starts the device of the launch record on inherited descriptors.
    fn supervised(
        record: &Self::Record,
        health: &'static HealthPage,
    ) -> Result<Service<Self::Device>>;

    /// Starts the device of the command line. Claims an inherited descriptor first: a descriptor
    /// placed in the table would overwrite one that has the same number.
    fn standalone(options: Self::Options) -> Result<Service<Self::Device>>;
}

/// The body of `main`: serves one frontend.
pub fn main<P: Program>() -> ExitCode {
    host::image::seal();
    let args: Vec<_> = std::env::args_os().skip(1).collect();
    // The supervisor passes exactly this; a user cannot provide the descriptors that it needs.
    let outcome = if args == ["--launched"] {
        supervised::<P>()
    } else {
        match P::parse(args) {
            Ok(Parsed::Serve(options)) => standalone::<P>(options),
            Ok(Parsed::Print(text)) => {
                print!("{text}");
                return ExitCode::SUCCESS;
            }
            Err(reason) => {
                eprintln!("{}: {reason}; see --help", P::NAME);
                return ExitCode::from(2);
            }
        }
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            log::error!("{e:#}");
            ExitCode::FAILURE
        }
    }
}

/// Serves until the frontend hangs up or the supervisor is gone; then the process ends.
fn supervised<P: Program>() -> Result<()> {
    let _ = host::process::harden();
    let record = P::Record::read(claim(fd::RECORD)?)?;
    host::log::init(P::ROLE, record.vm_id(), record.log_format());
    let health = health::announce(HealthPage::map(claim(fd::HEALTH)?)?);
    let control = Arc::new(Channel::from(claim(fd::CONTROL)?));
    let outcome = serve::<P>(&record, &control, health);
    let last = match &outcome {
        Ok(()) => FromBackend::Hangup,
        Err(e) => failed(e),
    };
    let _ = control.send(&last);
    outcome
}

fn failed(error: &anyhow::Error) -> FromBackend {
    FromBackend::Failed(Failure {
        about: None,
        reason: format!("{error:#}"),
    })
}

fn serve<P: Program>(
    record: &P::Record,
    control: &Arc<Channel>,
    health: &'static HealthPage,
) -> Result<()> {
    let service = P::supervised(record, health)?;
    control::answer(control.clone(), service.device()).context("cannot start a thread")?;
    let (control, device_id) = (control.clone(), record.device_id().to_owned());
    let confined = move |outcome: Result<(), SeccompError>| match outcome {
        Ok(()) => {
            log::info!(device_id = &*device_id; "serving");
            let _ = control.send(&FromBackend::Serving);
        }
        Err(e) => {
            let error = e.into();
            let _ = control.send(&failed(&error));
            end_unconfined(&error)
        }
    };
    Ok(service.serve(confined)?)
}

/// Ends the process from any of its threads, with the error in the log and the crash on the health
/// page. The supervisor starts a new one.
pub fn die(crash: Crash, error: &dyn std::error::Error) -> ! {
    log::error!("{}", host::log::chain(error));
    health::note(crash);
    std::process::exit(1)
}

/// Ends the process, even if other threads are blocked at the barrier.
fn end_unconfined(error: &anyhow::Error) -> ! {
    log::error!("{error:#}");
    std::process::exit(1)
}

fn standalone<P: Program>(options: P::Options) -> Result<()> {
    host::log::init(P::NAME, "", LogFormat::Text);
    let confined = |outcome: Result<(), SeccompError>| {
        if let Err(e) = outcome {
            end_unconfined(&e.into());
        }
    };
    Ok(P::standalone(options)?.serve(confined)?)
}
