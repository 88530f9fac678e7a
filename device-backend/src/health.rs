// SPDX-License-Identifier: Apache-2.0
//! The first words on the health page, and the last.

use std::sync::OnceLock;
use std::sync::atomic::Ordering::Relaxed;

use crate::faults;
use host::clock::monotonic_ns;
use ipc::health::{Crash, HealthPage, VERSION};

static PAGE: OnceLock<&'static HealthPage> = OnceLock::new();

/// Says that the process has begun, and sees to it that a panic is known for one, and a fault, too.
pub(crate) fn announce(page: &'static HealthPage) {
    page.version.store(VERSION, Relaxed);
    page.main_ns.store(monotonic_ns(), Relaxed);
    PAGE.get_or_init(|| page);
    faults::reset_fault_signals();
    faults::survive_file_limits();
    std::panic::set_hook(Box::new(|panic| {
        note(Crash::Panic);
        log::error!("{panic}");
    }));
}

/// Notes what the process is about to die of.
pub(crate) fn note(crash: Crash) {
    if let Some(page) = PAGE.get() {
        page.crash.store(crash.to_u32(), Relaxed);
    }
}
