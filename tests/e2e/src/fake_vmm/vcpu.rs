// SPDX-License-Identifier: Apache-2.0
//! What a driver does to a device's registers runs on vCPU threads, behind their filter.

use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use anyhow::{Result, bail};
use host::seccomp::SeccompError;
use ipc::seccomp::Mode;

type Job = Box<dyn FnOnce() + Send>;

/// What the thread of a vCPU is at.
enum Stage {
    /// It is being confined.
    Begins,
    /// It waits for something to do.
    Idle,
    /// It has something to do, or is at it.
    Busy(Option<Job>),
    /// It could not be confined.
    Failed(Option<SeccompError>),
}

/// Its stage, and what wakes whoever waits for another. A channel would do, but yields the processor,
/// which no filter of a vmm allows.
struct Desk {
    stage: Mutex<Stage>,
    changed: Condvar,
}

impl Desk {
    fn stage(&self) -> MutexGuard<'_, Stage> {
        self.stage.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn change(&self, stage: Stage) {
        *self.stage() = stage;
        self.changed.notify_all();
    }

    fn wait(&self, until: impl Fn(&Stage) -> bool) -> MutexGuard<'_, Stage> {
        let waited = self.changed.wait_while(self.stage(), |stage| !until(stage));
        waited.unwrap_or_else(PoisonError::into_inner)
    }
}

/// A thread behind the filter of a vCPU thread. It cannot end: nothing in the filter would let it.
pub(crate) struct Vcpu(Arc<Desk>);

impl Vcpu {
    /// Starts it, and waits until it is confined.
    pub(crate) fn start(seccomp: Mode) -> Result<Self> {
        let desk = Arc::new(Desk {
            stage: Mutex::new(Stage::Begins),
            changed: Condvar::new(),
        });
        let works = Arc::clone(&desk);
        std::thread::spawn(move || {
            match vmm::seccomp::confine_vcpu(seccomp) {
                Ok(()) => works.change(Stage::Idle),
                Err(error) => works.change(Stage::Failed(Some(error))),
            }
            loop {
                let mut stage = works.wait(|stage| matches!(stage, Stage::Busy(Some(_))));
                if let Stage::Busy(job) = &mut *stage
                    && let Some(job) = job.take()
                {
                    drop(stage);
                    job();
                    works.change(Stage::Idle);
                }
            }
        });
        if let Stage::Failed(error) = &mut *desk.wait(|stage| !matches!(stage, Stage::Begins)) {
            match error.take() {
                Some(error) => return Err(error.into()),
                None => bail!("the thread of a vCPU could not be confined"),
            }
        }
        Ok(Self(desk))
    }

    /// Does something on it, and waits for that.
    pub(crate) fn run(&self, job: impl FnOnce() + Send + 'static) {
        self.0.change(Stage::Busy(Some(Box::new(job))));
        drop(self.0.wait(|stage| matches!(stage, Stage::Idle)));
    }
}
