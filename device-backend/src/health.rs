// SPDX-License-Identifier: Apache-2.0
//! Publishes the start and the crash of the process on the health page.

use std::sync::OnceLock;
use std::sync::atomic::Ordering::Relaxed;

use crate::faults;
use host::clock::monotonic_ns;
use ipc::health::{Crash, HealthError, HealthPage, VERSION};

static PAGE: OnceLock<&'static HealthPage> = OnceLock::new();

/// A health page of its own for a standalone backend.
pub fn own() -> Result<&'static HealthPage, HealthError> {
    Ok(announce(HealthPage::map(ipc::health::create()?)?))
}

/// Publishes the start time, and makes panics and faults visible to the supervisor. The page lives
/// as long as the process.
pub(crate) fn announce(page: HealthPage) -> &'static HealthPage {
    let page: &'static HealthPage = Box::leak(Box::new(page));
    page.version.store(VERSION, Relaxed);
    page.main_ns.store(monotonic_ns(), Relaxed);
    PAGE.get_or_init(|| page);
    faults::reset_fault_signals();
    faults::survive_file_limits();
    std::panic::set_hook(Box::new(|panic| {
        note(Crash::Panic);
        log::error!("{panic}");
    }));
    page
}

/// Stores what the process is about to die of.
pub(crate) fn note(crash: Crash) {
    if let Some(page) = PAGE.get() {
        page.crash.store(crash.to_u32(), Relaxed);
    }
}
