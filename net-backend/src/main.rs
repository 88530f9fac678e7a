// SPDX-License-Identifier: Apache-2.0
//! `net-backend`: a network card in a process of its own. See `--help`.

mod alone;
mod launched;
mod options;

use std::ffi::OsString;
use std::process::ExitCode;

use anyhow::Result;
use backend::program::{self, Program, Wanted};
use backend::serve::Service;
use launch::health::HealthPage;
use launch::record::NetRecord;
use net_backend::device::Device;

use options::Options;

struct NetBackend;

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

fn main() -> ExitCode {
    program::main::<NetBackend>()
}
