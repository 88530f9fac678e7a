// SPDX-License-Identifier: Apache-2.0
//! `bulkhead top`: all VMs and their processes on the whole screen, updated every second.
//!
//! The main thread owns the terminal and waits for keys, signals and samples. One thread for each
//! VM queries it every second ([`sampler`]), so that a VM that does not answer does not delay the
//! others.

use std::io::{self, IsTerminal};
use std::mem::ManuallyDrop;
use std::os::fd::AsFd;
use std::path::Path;

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags};
use nix::sys::signal::Signal;
use nix::unistd::read;
use ratatui::Terminal;
use ratatui::backend::TermionBackend;
use spec::VmName;

use crate::console::wait;
use crate::error::Error;
use crate::signals;
use crate::terminal::{FullScreen, TerminalError};

mod canvas;
mod keys;
mod model;
mod sampler;
mod view;

use canvas::Canvas;

use keys::{Key, Keys};
use model::Model;
use sampler::Sampler;
use view::Theme;

/// Shows the named VMs, or all, until the user quits.
pub(crate) fn top(base: &Path, vms: Vec<VmName>) -> Result<(), Error> {
    if !(io::stdin().is_terminal() && io::stdout().is_terminal()) {
        return Err(TerminalError::None.into());
    }
    for vm in &vms {
        // Report a wrong name now instead of waiting for it.
        crate::client::stats(base, vm)?;
    }
    let signals = signals::take_over(&[Signal::SIGWINCH])?;
    let sampler = Sampler::start(base, vms).map_err(TerminalError::Socket)?;
    let mut model = Model::default();
    let mut keys = Keys::default();
    let theme = Theme::from_environment();
    // Dropped last: we draw to the terminal until then.
    let _screen = FullScreen::enable()?;
    let stdout = io::stdout();
    let backend = TermionBackend::new(Canvas::new(stdout.as_fd(), &signals));
    // Never dropped: dropping it shows the cursor, and would block on a terminal that takes no
    // output.
    let mut terminal = ManuallyDrop::new(Terminal::new(backend).map_err(Error::output)?);
    loop {
        let drawn = terminal.draw(|frame| view::draw(frame, &model, theme));
        match drawn {
            Err(error) if canvas::was_interrupted(&error) => return Ok(()),
            drawn => drawn.map_err(Error::output)?,
        };
        let stdin = io::stdin();
        let mut fds = [
            PollFd::new(stdin.as_fd(), PollFlags::POLLIN),
            PollFd::new(signals.as_fd(), PollFlags::POLLIN),
            PollFd::new(sampler.as_fd(), PollFlags::POLLIN),
        ];
        wait(&mut fds)?;
        let [typed, signalled, sampled] = fds.each_ref().map(|fd| fd.any().unwrap_or(false));
        if signalled {
            let all = signals::received(&signals);
            if all.into_iter().any(ends) {
                return Ok(());
            }
        }
        if sampled {
            for news in sampler.news() {
                model.hear(news);
            }
        }
        if typed {
            let mut chunk = [0; 64];
            let len = match read(&stdin, &mut chunk) {
                // The terminal is gone.
                Ok(0) => return Ok(()),
                Ok(len) => len,
                Err(Errno::EINTR | Errno::EAGAIN) => 0,
                Err(errno) => return Err(TerminalError::Poll(errno).into()),
            };
            for key in keys.of(&chunk[..len]) {
                match key {
                    Key::Quit => return Ok(()),
                    Key::Up => model.choose(-1),
                    Key::Down => model.choose(1),
                }
            }
        }
    }
}

/// Whether a signal ends us; drawing handles a new window size by itself.
fn ends(signal: Signal) -> bool {
    !matches!(signal, Signal::SIGCHLD | Signal::SIGWINCH)
}
