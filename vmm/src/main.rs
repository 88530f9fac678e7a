// SPDX-License-Identifier: Apache-2.0
//! The vmm process. The jailer starts it with all descriptors that it needs; a user cannot.

use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use anyhow::Context;
use host::heap::Heap;
use host::{clock, image, log, process};
use ipc::control::{Channel, FromVmm};
use ipc::fd;
use ipc::health::{self, Crash, HealthPage};
use ipc::record::{Record as _, VmmRecord};
use vmm::control::ControlLoopError;

#[global_allocator]
static HEAP: Heap = Heap;

fn main() -> ExitCode {
    let main_ns = clock::monotonic_ns();
    image::seal();
    process::take_name(c"vmm");
    let _ = process::harden();
    match run(main_ns) {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            // The supervisor has the error for the user already; this is for the log.
            eprintln!("vmm: {e:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(main_ns: u64) -> anyhow::Result<()> {
    let record = fd::claim(fd::RECORD).context(
        "vmm is started by the jailer, with its launch record as file descriptor 3; \
         `bulkhead run --help` shows how to start a VM",
    )?;
    let record = VmmRecord::read(record)?;
    log::init("vmm", &record.vm_id, record.log_format);
    let page: &'static HealthPage = Box::leak(Box::new(HealthPage::map(fd::claim(fd::HEALTH)?)?));
    page.main_ns.store(main_ns, Ordering::Relaxed);
    let never_saves = u32::from(!vmm::arch::IS_SAVED);
    page.never_saves.store(never_saves, Ordering::Relaxed);
    page.version.store(health::VERSION, Ordering::Release);
    report_panics(page);

    let channel = Arc::new(Channel::from(fd::claim(fd::CONTROL)?));
    match vmm::start::start(&record, &channel, page) {
        Ok(mut control) => end(&control.serve(&channel)),
        Err(e) => {
            channel.send(&FromVmm::Failed(e.to_failure()))?;
            Err(e.into())
        }
    }
}

/// Ends the process without cleaning up: the kernel does that faster, and the filters need no
/// system calls for it.
fn end(served: &Result<(), ControlLoopError>) -> ! {
    if let Err(e) = served {
        ::log::error!("{}", log::chain(e));
    }
    std::process::exit(i32::from(served.is_err()))
}

/// Makes a panic, which is a bug, end the process, with its message in the log and a mark on the
/// health page.
fn report_panics(page: &'static HealthPage) {
    std::panic::set_hook(Box::new(|info| {
        page.crash.store(Crash::Panic.to_u32(), Ordering::Relaxed);
        ::log::error!("panic: {info}");
    }));
}
