// SPDX-License-Identifier: Apache-2.0
//! What a supervisor has that a device of a world is never in need of.

use std::fs::File;
use std::os::fd::AsFd;

use handover::host_resources::Log;
use ipc::control::Channel;
use ipc::seccomp::Mode;

use super::super::devices::script::SpawnContext;
use super::super::jailer_link::JailerLink;
use super::super::jails::Jails;

/// What is there in every world, and nobody looks at.
pub(super) struct Scenery {
    pub(super) null: File,
    log: Log,
    jails: Jails,
    jailer: JailerLink,
}

impl Scenery {
    fn new() -> Self {
        let null = || {
            File::options()
                .append(true)
                .read(true)
                .open("/dev/null")
                .unwrap()
        };
        Self {
            null: null(),
            log: Log {
                reader: null(),
                writer: null(),
            },
            jails: Jails::new(File::open("/proc").unwrap().into(), false),
            jailer: JailerLink::new(Channel::pair().unwrap().0),
        }
    }

    /// What backends are started with.
    pub(super) fn spawn_context(&self) -> SpawnContext<'_> {
        SpawnContext {
            vm_id: "played",
            blk: None,
            net: None,
            null: self.null.as_fd(),
            log: &self.log,
            jails: &self.jails,
            jailer: &self.jailer,
            seccomp: Mode::Kill,
        }
    }
}

thread_local! {
    /// This thread's.
    pub(super) static SCENERY: &'static Scenery = Box::leak(Box::new(Scenery::new()));
}
