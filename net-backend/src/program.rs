// SPDX-License-Identifier: Apache-2.0
//! The program as a whole: see `--help`.

use std::ffi::OsString;

use anyhow::Result;
use device_backend::options::{self, Parsed};
use device_backend::program::Program;
use device_backend::serve::Service;
use ipc::health::HealthPage;
use ipc::record::NetRecord;

use crate::device::Device;
use crate::options::Options;
use crate::{standalone, supervised};

/// `net-backend`.
#[derive(Debug)]
pub struct NetBackend;

impl Program for NetBackend {
    const NAME: &'static str = "net-backend";
    const ROLE: &'static str = "net";
    type Device = Device;
    type Record = NetRecord;
    type Options = Options;

    fn parse(args: Vec<OsString>) -> Result<Parsed<Options>, String> {
        options::parse(args)
    }

    fn supervised(record: &NetRecord, health: &'static HealthPage) -> Result<Service<Device>> {
        supervised::start(record, health)
    }

    fn standalone(options: Options) -> Result<Service<Device>> {
        standalone::start(&options)
    }
}
