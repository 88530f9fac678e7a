// SPDX-License-Identifier: Apache-2.0
//! Samples the VMs: one thread lists them, and one thread for each queries it.

use std::collections::HashMap;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::{Builder, JoinHandle, sleep};
use std::time::Duration;

use spec::VmName;

use crate::client::ClientError;
use crate::state;
use crate::stats::Report;

/// The sampling period.
pub(super) const PERIOD: Duration = Duration::from_secs(1);

/// What a sampling thread reports.
#[derive(Debug)]
pub(super) enum News {
    /// A VM has answered.
    Report(Box<Report>),
    /// A VM does not answer: why.
    Silent(VmName, String),
    /// A VM has ended.
    Gone(VmName),
    /// The list of VMs cannot be read: why.
    Blind(String),
}

/// The sampling threads, as the main thread uses them.
#[derive(Debug)]
pub(super) struct Sampler {
    news: Receiver<News>,
    bell: UnixStream,
}

/// A sampling thread's channel to the main thread.
struct Herald {
    news: Sender<News>,
    bell: UnixStream,
}

impl Herald {
    /// Reports to the main thread; false if it has gone.
    fn tell(&mut self, news: News) -> bool {
        // A full socket wakes the main thread as well.
        self.news.send(news).is_ok()
            && match self.bell.write(&[0]) {
                Ok(_) => true,
                Err(e) => e.kind() == io::ErrorKind::WouldBlock,
            }
    }

    fn try_clone(&self) -> io::Result<Self> {
        Ok(Self {
            news: self.news.clone(),
            bell: self.bell.try_clone()?,
        })
    }
}

impl Sampler {
    /// Starts sampling the named VMs, or all. The threads end with the process.
    pub(super) fn start(base: &Path, vms: Vec<VmName>) -> io::Result<Self> {
        let (sender, news) = channel();
        let (bell, its_bell) = UnixStream::pair()?;
        bell.set_nonblocking(true)?;
        its_bell.set_nonblocking(true)?;
        let herald = Herald {
            news: sender,
            bell: its_bell,
        };
        let base = base.to_path_buf();
        Builder::new()
            .name("lister".into())
            .spawn(move || look_for_vms(&base, &vms, herald))?;
        Ok(Self { news, bell })
    }

    /// The reports since the last call.
    pub(super) fn news(&self) -> Vec<News> {
        let mut rings = [0; 256];
        while matches!((&self.bell).read(&mut rings), Ok(1..)) {}
        self.news.try_iter().collect()
    }
}

impl AsFd for Sampler {
    /// Readable when there are reports.
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.bell.as_fd()
    }
}

fn look_for_vms(base: &Path, wanted: &[VmName], mut herald: Herald) {
    let mut asked: HashMap<VmName, JoinHandle<()>> = HashMap::new();
    loop {
        let names = match wanted.is_empty() {
            true => state::names(base),
            false => Ok(wanted.to_vec()),
        };
        let names = names.unwrap_or_else(|error| {
            let reason = error.to_string();
            herald.tell(News::Blind(reason));
            Vec::new()
        });
        asked.retain(|_, thread| !thread.is_finished());
        for name in names {
            if !asked.contains_key(&name)
                && let Ok(thread) = ask(base.to_path_buf(), name.clone(), &herald)
            {
                asked.insert(name, thread);
            }
        }
        sleep(PERIOD);
    }
}

fn ask(base: PathBuf, vm: VmName, herald: &Herald) -> io::Result<JoinHandle<()>> {
    let mut herald = herald.try_clone()?;
    Builder::new().name(format!("ask {vm}")).spawn(move || {
        loop {
            let news = match Report::take(&base, &vm) {
                Ok(report) => News::Report(Box::new(report)),
                Err(ClientError::Unknown(..) | ClientError::Dead { .. }) => {
                    herald.tell(News::Gone(vm));
                    return;
                }
                Err(error) => News::Silent(vm.clone(), error.to_string()),
            };
            if !herald.tell(news) {
                return;
            }
            sleep(PERIOD);
        }
    })
}
