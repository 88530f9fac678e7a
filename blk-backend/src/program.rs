// SPDX-License-Identifier: Apache-2.0
//! The backend program: see `--help`.

use std::ffi::OsString;

use anyhow::Result;
use device_backend::options::{self, Parsed};
use device_backend::program::Program;
use device_backend::serve::Service;
use ipc::health::HealthPage;
use ipc::record::BlkRecord;

use crate::device::Device;
use crate::options::Options;
use crate::{standalone, supervised};

/// `blk-backend`.
#[derive(Debug)]
pub struct BlkBackend;

impl Program for BlkBackend {
    const NAME: &'static str = "blk-backend";
    const ROLE: &'static str = "blk";
    type Device = Device;
    type Record = BlkRecord;
    type Options = Options;

    fn parse(args: Vec<OsString>) -> Result<Parsed<Options>, String> {
        options::parse(args)
    }

    fn supervised(record: &BlkRecord, health: &'static HealthPage) -> Result<Service<Device>> {
        supervised::start(record, health)
    }

    fn standalone(options: Options) -> Result<Service<Device>> {
        standalone::start(&options)
    }
}
