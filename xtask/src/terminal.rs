// SPDX-License-Identifier: Apache-2.0
//! The user's terminal in raw mode while the inner host has it.

use std::io;
use std::process::Command;
use std::sync::{Mutex, PoisonError};

use anyhow::{Context, Result};
use nix::sys::termios::{SetArg, Termios, cfmakeraw, tcgetattr, tcsetattr};

static SAVED: Mutex<Option<Termios>> = Mutex::new(None);

/// Raw mode until it is dropped.
pub(crate) struct Raw;

impl Raw {
    pub(crate) fn enter() -> Result<Self> {
        let saved = tcgetattr(io::stdin()).context("standard input is no terminal")?;
        let mut raw = saved.clone();
        cfmakeraw(&mut raw);
        *SAVED.lock().unwrap_or_else(PoisonError::into_inner) = Some(saved);
        tcsetattr(io::stdin(), SetArg::TCSANOW, &raw).context("cannot set the terminal raw")?;
        Ok(Self)
    }
}

impl Drop for Raw {
    fn drop(&mut self) {
        restore();
    }
}

/// Gives the terminal back as it was.
pub(crate) fn restore() {
    if let Some(saved) = SAVED.lock().unwrap_or_else(PoisonError::into_inner).take() {
        let _ = tcsetattr(io::stdin(), SetArg::TCSADRAIN, &saved);
    }
}

/// Shell that tells the inner terminal what the outer one is like.
pub(crate) fn preamble() -> String {
    let term = std::env::var("TERM").unwrap_or_default();
    let term: String = term
        .chars()
        .filter(|c| c.is_ascii_alphanumeric() || "-+.".contains(*c))
        .collect();
    let size = Command::new("stty")
        .arg("size")
        .output()
        .map(|output| output.stdout);
    let size = String::from_utf8_lossy(&size.unwrap_or_default()).into_owned();
    let mut numbers = size
        .split_whitespace()
        .filter_map(|number| number.parse::<u16>().ok());
    let stty = match (numbers.next(), numbers.next()) {
        (Some(rows), Some(columns)) => format!("stty rows {rows} cols {columns}"),
        _ => String::new(),
    };
    let term = if term.is_empty() { "linux" } else { &term };
    format!("export TERM={term}\n{stty}")
}
