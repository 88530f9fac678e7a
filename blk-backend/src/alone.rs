// SPDX-License-Identifier: Apache-2.0
//! The process as a user starts it: opens for itself what the jailer would have given it.

use std::os::fd::{AsFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::fs::FileTypeExt;
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::sync::Arc;

use anyhow::{Context, Result, bail};
use blk_backend::config::Disk;
use blk_backend::serve::{Given, Service, Source};
use launch::disk::Access;
use launch::fd::blk;
use launch::health::HealthPage;
use launch::seccomp::Mode;
use nix::sys::socket::{getsockopt, sockopt};

use crate::options::{DiskOption, EngineOption, Options, Seccomp};
use crate::pin;

/// Serves one frontend.
pub(crate) fn run(options: &Options) -> Result<()> {
    launch::log::init("blk-backend", "", log::LevelFilter::Info);
    // An inherited listener first: whatever is opened later must not take a number of the table
    // that it has.
    let inherited = options.fd.map(inherited).transpose()?;
    let Some(option) = &options.disk else {
        bail!("--disk is needed");
    };
    let page = HealthPage::map(launch::health::create()?)?;
    let health: &'static HealthPage = Box::leak(Box::new(page));
    crate::health::announce(health);
    let (disk, engine) = open(option).with_context(|| format!("{}", option.path.display()))?;
    let listener = match (inherited, &options.socket_path) {
        (Some(fd), _) => fd,
        (None, Some(path)) => listen(path)?,
        (None, None) => bail!("--socket-path or --fd is needed"),
    };
    let seccomp = match options.seccomp {
        Seccomp::On => Some(Mode::Kill),
        Seccomp::Log => Some(Mode::Trap),
        Seccomp::Off => None,
    };
    let service = Service::start(Given {
        disk,
        listener,
        engine,
        inflight: None,
        after_crash: false,
        health,
        poll_us: option.poll_us,
        seccomp,
    })?;
    if options.seccomp == Seccomp::Log {
        launch::seccomp::report_violations(health).context("cannot handle SIGSYS")?;
    }
    let serving = service.accept()?;
    Ok(serving.wait()?)
}

/// Opens the image and makes the engines, with the restrictions they would have in a jail.
fn open(option: &DiskOption) -> Result<(Disk, Source)> {
    let access = Access {
        readonly: option.readonly,
        direct: option.direct,
    };
    let (file, geometry) = launch::disk::open(&option.path, access)?;
    let disk = Disk {
        geometry,
        readonly: option.readonly,
        serial: Disk::serial_from(&option.serial),
        queues: option.queues,
        queue_size: option.queue_size,
    };
    disk.check()?;
    let file = pin::above_table(file.into())?;
    let source = match option.engine {
        EngineOption::Uring => {
            let rings = (blk::RING..)
                .take(usize::from(option.queues))
                .map(|number| {
                    let (ring, params) = launch::ring::create(option.queue_size, file.as_fd())?;
                    Ok(launch::ring::adopt(pin::at(number, ring)?, &params)?)
                });
            Source::Rings(rings.collect::<Result<_>>()?)
        }
        EngineOption::Threads => {
            let file = pin::at(blk::DISK, file)?;
            Source::Threads(Arc::new(file.into()), option.direct)
        }
    };
    Ok((disk, source))
}

/// Binds the socket; what is left of an earlier process is removed, a living one is not.
fn listen(path: &Path) -> Result<OwnedFd> {
    let about = || format!("{}", path.display());
    if path
        .symlink_metadata()
        .is_ok_and(|m| m.file_type().is_socket())
    {
        // Not by connecting: a backend serves one connection, and that would be it.
        let sockets = std::fs::read_to_string("/proc/net/unix").with_context(about)?;
        let name = about();
        if sockets
            .lines()
            .any(|line| line.split(' ').next_back() == Some(&name))
        {
            bail!("{name}: another process listens there");
        }
        std::fs::remove_file(path).with_context(about)?;
    }
    let listener = UnixListener::bind(path).with_context(about)?;
    Ok(pin::above_table(listener.into())?)
}

#[allow(unsafe_code)]
fn inherited(number: RawFd) -> Result<OwnedFd> {
    if number < 3 || nix::fcntl::fcntl(borrow(number), nix::fcntl::FcntlArg::F_GETFD).is_err() {
        bail!("--fd {number}: no such descriptor");
    }
    // SAFETY: it is open (checked above), is not one of the standard three, and nothing in this
    // process has opened anything yet.
    let fd = unsafe { OwnedFd::from_raw_fd(number) };
    if !getsockopt(&fd, sockopt::AcceptConn).unwrap_or(false) {
        bail!("--fd {number}: not a listening socket");
    }
    Ok(pin::above_table(fd)?)
}

#[allow(unsafe_code)]
fn borrow(number: RawFd) -> std::os::fd::BorrowedFd<'static> {
    // SAFETY: `number` is not -1; used only to ask whether it is open.
    unsafe { std::os::fd::BorrowedFd::borrow_raw(number) }
}
