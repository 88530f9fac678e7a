// SPDX-License-Identifier: Apache-2.0
//! What a supervisor has that a device of a world is never in need of.

use std::fs::File;
use std::rc::Rc;

use handover::host_resources::{Binaries, Log};
use ipc::control::Channel;
use ipc::log_format::LogFormat;
use ipc::seccomp::Mode;

use super::super::jailer_link::JailerLink;
use super::super::jails::Jails;
use super::super::process::SpawnContext;

/// What the backends of a world are started from, with this jailer to ask.
pub(super) fn context(jailer: Rc<JailerLink>) -> SpawnContext {
    SpawnContext {
        vm_id: "played".into(),
        binaries: Binaries {
            vmm: null().into(),
            blk: None,
            net: None,
            input: None,
            null: null(),
        },
        log: Log {
            reader: null(),
            writer: null(),
            old: null(),
        },
        jails: Jails::new(File::open("/proc").unwrap().into(), false),
        jailer,
        seccomp: Mode::Kill,
        log_format: LogFormat::Text,
    }
}

pub(super) fn null() -> File {
    let mut options = File::options();
    options.append(true).read(true).open("/dev/null").unwrap()
}

thread_local! {
    /// This thread's, with a jailer that nobody asks.
    pub(super) static CONTEXT: Rc<SpawnContext> = {
        let jailer = JailerLink::new(Channel::pair().unwrap().0);
        Rc::new(context(Rc::new(jailer)))
    };
}
