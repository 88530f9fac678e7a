// SPDX-License-Identifier: Apache-2.0
//! `blk-backend`: a disk in a process of its own. See `--help`.

mod alone;
mod launched;
mod options;

use std::ffi::OsString;
use std::process::ExitCode;

use anyhow::Result;
use backend::program::{self, Program, Wanted};
use backend::serve::Service;
use blk_backend::device::Device;
use launch::health::HealthPage;
use launch::record::BlkRecord;

use options::Options;

struct BlkBackend;

impl Program for BlkBackend {
    const NAME: &'static str = "blk-backend";
    const ROLE: &'static str = "blk";
    type Device = Device;
    type Record = BlkRecord;
    type Options = Options;

    fn parse(args: Vec<OsString>) -> Result<Wanted<Options>, String> {
        options::parse(args)
    }

    fn launched(record: &BlkRecord, health: &'static HealthPage) -> Result<Service<Device>> {
        launched::start(record, health)
    }

    fn alone(options: Options) -> Result<Service<Device>> {
        alone::start(&options)
    }
}

fn main() -> ExitCode {
    program::main::<BlkBackend>()
}
