// SPDX-License-Identifier: Apache-2.0
//! The programs: what each of them does from `main` on, launched in a jail or started alone by a
//! user.
//!
//! Launched, everything the process may use is open already, at the numbers of `ipc::fd`, and its
//! record says what that is. Alone, it opens for itself what the jailer would have given it.

use std::ffi::OsString;
use std::process::ExitCode;
use std::str::FromStr;
use std::sync::Arc;

use anyhow::{Context, Result};
use host::seccomp::SeccompError;
use ipc::control::{Channel, Failure, FromBackend};
use ipc::fd::{self, claim};
use ipc::health::{Crash, HealthPage};
use ipc::record::{BackendRecord, Record as _};
use ipc::seccomp::Mode;

use crate::serve::{Device, Service};
use crate::{control, health};

/// One of the programs.
pub trait Program {
    /// What it is called by users.
    const NAME: &'static str;
    /// What it is called in the log of a VM.
    const ROLE: &'static str;
    /// What it serves.
    type Device: Device;
    /// What it is told in a jail.
    type Record: BackendRecord;
    /// What it is told by a user.
    type Options;

    /// Understands the command line, without the program's name.
    fn parse(args: Vec<OsString>) -> Result<Parsed<Self::Options>, String>;

    /// Starts what the record says, from descriptors.
    fn supervised(
        record: &Self::Record,
        health: &'static HealthPage,
    ) -> Result<Service<Self::Device>>;

    /// Starts what a user asks for. An inherited descriptor is to be looked for first: whatever is
    /// opened later must not take its place.
    fn standalone(options: Self::Options) -> Result<Service<Self::Device>>;
}

/// What a command line asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Parsed<O> {
    /// To serve a frontend.
    Serve(O),
    /// To print this.
    Print(&'static str),
}

/// What `main` does: serves one frontend.
pub fn main<P: Program>() -> ExitCode {
    host::image::seal();
    let args: Vec<_> = std::env::args_os().skip(1).collect();
    // The supervisor passes exactly this; nobody else has what it needs.
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

/// The process ends with the connection, or with the supervisor.
fn supervised<P: Program>() -> Result<()> {
    let _ = host::process::harden();
    let record = P::Record::read(claim(fd::RECORD)?)?;
    host::log::init(P::ROLE, record.vm_id(), log::LevelFilter::Info);
    let health = announce(HealthPage::map(claim(fd::HEALTH)?)?);
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

/// Ends the process at once, from any of its threads, and says why, in the log and on the health page:
/// it cannot go on, and its supervisor is to start another one.
pub fn die(crash: Crash, error: &dyn std::error::Error) -> ! {
    log::error!("{}", host::log::chain(error));
    health::note(crash);
    std::process::exit(1)
}

/// The process ends at once, whoever else waits in it.
fn end_unconfined(error: &anyhow::Error) -> ! {
    log::error!("{error:#}");
    std::process::exit(1)
}

fn standalone<P: Program>(options: P::Options) -> Result<()> {
    host::log::init(P::NAME, "", log::LevelFilter::Info);
    let confined = |outcome: Result<(), SeccompError>| {
        if let Err(e) = outcome {
            end_unconfined(&e.into());
        }
    };
    Ok(P::standalone(options)?.serve(confined)?)
}

/// A health page for a process that nobody has given one.
pub fn own_health() -> Result<&'static HealthPage> {
    Ok(announce(HealthPage::map(ipc::health::create()?)?))
}

fn announce(page: HealthPage) -> &'static HealthPage {
    let page = Box::leak(Box::new(page));
    health::announce(page);
    page
}

/// `--seccomp`
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Seccomp {
    /// A call outside the filter ends the process.
    #[default]
    On,
    /// Its name is logged before that.
    Log,
    /// There is no filter.
    Off,
}

impl Seccomp {
    /// What a call outside the filter does, if there is one.
    pub fn mode(self) -> Option<Mode> {
        match self {
            Self::On => Some(Mode::Kill),
            Self::Log => Some(Mode::Trap),
            Self::Off => None,
        }
    }
}

impl FromStr for Seccomp {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "on" => Ok(Self::On),
            "log" => Ok(Self::Log),
            "off" => Ok(Self::Off),
            _ => Err(format!("--seccomp {text:?}: expected on, log or off")),
        }
    }
}
