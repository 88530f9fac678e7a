// SPDX-License-Identifier: Apache-2.0
//! The program as a whole: see `--help`.

use std::ffi::OsString;

use anyhow::Result;
use device_backend::program::{Program, Wanted};
use device_backend::serve::Service;
use ipc::health::HealthPage;
use ipc::record::NetRecord;

use crate::device::Device;
use crate::options::{self, Options};
use crate::{alone, launched};

/// `net-backend`.
#[derive(Debug)]
pub struct NetBackend;

impl Program for NetBackend {
    const NAME: &'static str = "net-backend";
    const ROLE: &'static str = "net";
    type Device = Device;
    type Record = NetRecord;
    type Options = Box<Options>;

    fn parse(args: Vec<OsString>) -> Result<Wanted<Box<Options>>, String> {
        options::parse(args)
    }

    fn launched(record: &NetRecord, health: &'static HealthPage) -> Result<Service<Device>> {
        launched::start(record, health)
    }

    fn alone(options: Box<Options>) -> Result<Service<Device>> {
        alone::start(*options)
    }
}
