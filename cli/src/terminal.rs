// SPDX-License-Identifier: Apache-2.0
//! Raw mode of the user's terminal. It ends with a scope and on a panic. Signals that end us are
//! read from a descriptor, so that they end the scope, too.

use std::io::{self, IsTerminal};
use std::os::fd::AsFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, Once, PoisonError};
use std::time::Duration;

use host::output::Output;
use nix::errno::Errno;
use nix::sys::termios::{OutputFlags, SetArg, Termios, cfmakeraw, tcgetattr, tcsetattr};
use ratatui::termion::cursor::{Hide, Show};
use ratatui::termion::screen::{ToAlternateScreen, ToMainScreen};
use ratatui::termion::style::Reset;

use crate::error::Error;

/// The terminal's mode before we changed it.
static SAVED: Mutex<Option<Termios>> = Mutex::new(None);
/// Whether we use the whole screen.
static FULL_SCREEN: AtomicBool = AtomicBool::new(false);
/// How long to wait for a terminal that does not take output.
const PATIENCE: Duration = Duration::from_millis(200);
/// Installs the panic hook that restores the terminal.
static HOOK: Once = Once::new();

/// Why the user's terminal cannot be used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum TerminalError {
    /// Standard input or output is not a terminal.
    #[error("top needs a terminal: stats has the same numbers")]
    None,
    /// Its mode could not be changed.
    #[error("cannot put the terminal into raw mode")]
    Mode(#[source] Errno),
    /// The screen cannot be switched.
    #[error("cannot use the whole screen")]
    Screen(#[source] io::Error),
    /// Signals cannot be blocked or read.
    #[error("cannot take over signals")]
    Signals(#[source] Errno),
    /// poll(2) failed.
    #[error("cannot poll")]
    Poll(#[source] Errno),
    /// The console's socket failed.
    #[error("cannot use the console's socket")]
    Socket(#[source] io::Error),
}

impl From<TerminalError> for Error {
    fn from(error: TerminalError) -> Self {
        Self::new(error)
    }
}

/// Raw mode of standard input, as long as this lives.
#[derive(Debug)]
pub(crate) struct RawMode(());

impl RawMode {
    /// Enables raw mode, if standard input is a terminal.
    pub(crate) fn enable() -> Result<Option<Self>, TerminalError> {
        let stdin = io::stdin();
        if !stdin.is_terminal() {
            return Ok(None);
        }
        let saved = tcgetattr(&stdin).map_err(TerminalError::Mode)?;
        let mut raw = saved.clone();
        cfmakeraw(&mut raw);
        // Other processes also write to the terminal, and end their lines with \n only.
        raw.output_flags |= saved.output_flags & (OutputFlags::OPOST | OutputFlags::ONLCR);
        HOOK.call_once(|| {
            let report = std::panic::take_hook();
            std::panic::set_hook(Box::new(move |info| {
                restore();
                report(info);
            }));
        });
        *SAVED.lock().unwrap_or_else(PoisonError::into_inner) = Some(saved);
        let guard = Self(());
        tcsetattr(&stdin, SetArg::TCSANOW, &raw).map_err(TerminalError::Mode)?;
        Ok(Some(guard))
    }
}

impl Drop for RawMode {
    fn drop(&mut self) {
        restore();
    }
}

/// The whole screen of standard output, and raw mode of standard input, as long as this lives.
#[derive(Debug)]
pub(crate) struct FullScreen(());

impl FullScreen {
    /// Switches to the alternate screen; dropping this switches back.
    pub(crate) fn enable() -> Result<Self, TerminalError> {
        // From here on dropping the screen restores the mode as well.
        let raw = RawMode::enable()?;
        FULL_SCREEN.store(true, Ordering::Relaxed);
        let screen = Self(());
        std::mem::forget(raw);
        let enter = format!("{ToAlternateScreen}{Hide}");
        let entered = Output::of(io::stdout().as_fd()).write_within(enter.as_bytes(), PATIENCE);
        entered.map_err(TerminalError::Screen)?;
        Ok(screen)
    }
}

impl Drop for FullScreen {
    fn drop(&mut self) {
        restore();
    }
}

fn restore() {
    if FULL_SCREEN.swap(false, Ordering::Relaxed) {
        let leave = format!("{Reset}{Show}{ToMainScreen}");
        let _ = Output::of(io::stdout().as_fd()).write_within(leave.as_bytes(), PATIENCE);
    }
    let saved = SAVED.lock().unwrap_or_else(PoisonError::into_inner).take();
    if let Some(saved) = saved {
        // Do not drain the output first: a terminal may not take it.
        let _ = tcsetattr(io::stdin(), SetArg::TCSANOW, &saved);
    }
}
