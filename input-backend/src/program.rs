// SPDX-License-Identifier: Apache-2.0
//! The program as a whole. Only the supervisor starts it, since only the supervisor presses the
//! button.

use std::ffi::OsString;
use std::io;

use anyhow::Result;
use device_backend::options::Parsed;
use device_backend::program::Program;
use device_backend::serve::{Confinement, Service};
use device_backend::shared_mem::{SharedMem, SharedMemError};
use ipc::fd::{claim, input};
use ipc::health::HealthPage;
use ipc::record::InputRecord;

use crate::deliveries::Deliveries;
use crate::device::Device;
use crate::shared::Shared;
use crate::worker::Worker;

const HELP: &str = "\
input-backend: the power button of a VM whose guest has no driver for another one: a virtio keyboard
with one key. `bulkhead run` starts it where it is needed; see its --power-button.

  --version   print the version
  --help      print this
";

/// `input-backend`.
#[derive(Debug)]
pub struct InputBackend;

/// The options of a program that does not run alone: there are none.
#[derive(Debug)]
pub enum Options {}

/// The device cannot be started.
#[derive(Debug, thiserror::Error)]
enum StartError {
    /// The state of deliveries cannot be used.
    #[error("cannot map the state of deliveries")]
    State(#[source] SharedMemError),
    /// An eventfd could not be made.
    #[error("cannot start the worker")]
    Worker(#[source] io::Error),
}

impl Program for InputBackend {
    const NAME: &'static str = "input-backend";
    const ROLE: &'static str = "input";
    type Device = Device;
    type Record = InputRecord;
    type Options = Options;

    fn parse(args: Vec<OsString>) -> Result<Parsed<Options>, String> {
        match args.first().and_then(|arg| arg.to_str()) {
            Some("--help" | "-h") => Ok(Parsed::Print(HELP)),
            Some("--version") => Ok(Parsed::Print(concat!(env!("CARGO_PKG_VERSION"), "\n"))),
            _ => Err("only bulkhead starts it to serve".into()),
        }
    }

    fn supervised(record: &InputRecord, health: &'static HealthPage) -> Result<Service<Device>> {
        let confinement = Confinement {
            filter: Some((&crate::seccomp::INPUT, record.seccomp)),
            health,
        };
        let state = SharedMem::of_file(claim(input::STATE)?, input::STATE_BYTES);
        let deliveries = Deliveries::new(state.map_err(StartError::State)?);
        let shared = Shared::new(record.pressed, deliveries, health);
        let worker = Worker::new(shared.clone());
        let device = Device::new(shared, [worker]).map_err(StartError::Worker)?;
        Ok(Service::start(
            device,
            claim(input::LISTENER)?,
            confinement,
        )?)
    }

    fn standalone(options: Options) -> Result<Service<Device>> {
        match options {}
    }
}
