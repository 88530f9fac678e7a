// SPDX-License-Identifier: Apache-2.0
//! The platform-level interrupt controller (RISC-V PLIC specification 1.0.0) of a machine whose host
//! has no interrupt controller for guests: sources with a level, one context for each hart, which is its
//! supervisor mode.
//!
//! Runs on vCPU threads (registers) and on the threads that drive a line.

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use serde::{Deserialize, Serialize};

use crate::bus::BusDevice;
use crate::interrupt::InterruptLine;
use crate::state::{StateError, check_count};

/// The length of the register window in bytes.
pub const LEN_BYTES: u64 = 0x400_0000;
/// The highest source; there is no source 0.
pub const SOURCE_MAX: u32 = 63;

const PRIORITY_END: u64 = 0x1000;
const PENDING: u64 = 0x1000;
const ENABLE: u64 = 0x2000;
const ENABLE_STRIDE: u64 = 0x80;
const CONTEXT: u64 = 0x20_0000;
const CONTEXT_STRIDE: u64 = 0x1000;
const THRESHOLD: u64 = 0;
const CLAIM: u64 = 4;
/// The priorities that a source or a threshold can have: 0 to 7.
const PRIORITY_MASK: u32 = 7;
/// All sources, a bit each.
const SOURCES: u64 = !1;

/// The harts' external interrupts, which the controller raises and lowers. Called with the
/// controller's lock held; must not block and must not call the controller.
pub trait HartInterrupts: Send + Sync {
    /// Sets the level of a hart's external interrupt. Called when it changes, and only then.
    fn set(&self, hart: usize, high: bool);
}

/// What a context holds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Context {
    enabled: u64,
    threshold: u32,
    /// The level of the hart's external interrupt.
    raised: bool,
}

/// What the registers hold, a bit for each source.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PlicState {
    priority: Vec<u32>,
    /// The levels of the lines.
    levels: u64,
    pending: u64,
    /// Claimed, and not completed.
    in_flight: u64,
    contexts: Vec<Context>,
}

impl PlicState {
    fn new(harts: usize) -> Self {
        Self {
            priority: vec![0; SOURCE_MAX as usize + 1],
            levels: 0,
            pending: 0,
            in_flight: 0,
            contexts: vec![Context::default(); harts],
        }
    }

    fn set_level(&mut self, source: u32, high: bool) {
        let bit = bit(source);
        self.levels = if high {
            self.levels | bit
        } else {
            self.levels & !bit
        };
        // A gateway passes a level on once, until it is completed.
        self.pending |= self.levels & bit & !self.in_flight;
        if !high {
            self.pending &= !bit;
        }
    }

    /// The pending source of highest priority that a context has enabled, the lowest one of several.
    fn best(&self, enabled: u64) -> Option<(u32, u32)> {
        let candidates = self.pending & enabled;
        let sources = (1..=SOURCE_MAX).filter(|&source| candidates & bit(source) != 0);
        let ranked = sources.map(|source| (self.priority[source as usize], source));
        let possible = ranked.filter(|(priority, _)| *priority > 0);
        possible.max_by_key(|(priority, source)| (*priority, std::cmp::Reverse(*source)))
    }

    /// A context's claim, which its threshold does not matter for (§9: "Interrupt Claims").
    fn claim(&mut self, context: usize) -> u32 {
        let Some((_, source)) = self.best(self.contexts[context].enabled) else {
            return 0;
        };
        self.pending &= !bit(source);
        self.in_flight |= bit(source);
        source
    }

    /// A context's completion, ignored for a source that it has not enabled (§10).
    fn complete(&mut self, context: usize, source: u32) {
        if source > SOURCE_MAX || self.contexts[context].enabled & bit(source) == 0 {
            return;
        }
        self.in_flight &= !bit(source);
        self.pending |= self.levels & bit(source);
    }

    fn read(&mut self, offset: u64) -> u32 {
        match offset {
            0..PRIORITY_END => index(offset)
                .and_then(|source| self.priority.get(source))
                .copied()
                .unwrap_or(0),
            PENDING..ENABLE => word(self.pending, offset - PENDING),
            ENABLE..CONTEXT => {
                let (context, within) = split(offset - ENABLE, ENABLE_STRIDE);
                let context = self.contexts.get(context);
                context.map_or(0, |context| word(context.enabled, within))
            }
            _ => {
                let (context, within) = split(offset - CONTEXT, CONTEXT_STRIDE);
                match within {
                    THRESHOLD => self.contexts.get(context).map_or(0, |c| c.threshold),
                    CLAIM if context < self.contexts.len() => self.claim(context),
                    _ => 0,
                }
            }
        }
    }

    fn write(&mut self, offset: u64, value: u32) {
        match offset {
            0..PRIORITY_END => {
                if let Some(source) = index(offset).filter(|source| *source > 0)
                    && let Some(priority) = self.priority.get_mut(source)
                {
                    *priority = value & PRIORITY_MASK;
                }
            }
            PENDING..ENABLE => {}
            ENABLE..CONTEXT => {
                let (context, within) = split(offset - ENABLE, ENABLE_STRIDE);
                if let Some(context) = self.contexts.get_mut(context) {
                    context.enabled = with_word(context.enabled, within, value) & SOURCES;
                }
            }
            _ => {
                let (context, within) = split(offset - CONTEXT, CONTEXT_STRIDE);
                match (within, self.contexts.get_mut(context)) {
                    (THRESHOLD, Some(context)) => context.threshold = value & PRIORITY_MASK,
                    (CLAIM, Some(_)) => self.complete(context, value),
                    _ => {}
                }
            }
        }
    }
}

fn bit(source: u32) -> u64 {
    1 << source
}

fn index(offset: u64) -> Option<usize> {
    usize::try_from(offset / 4).ok()
}

/// Which of several register blocks an offset is in, and where.
fn split(offset: u64, stride: u64) -> (usize, u64) {
    let block = usize::try_from(offset / stride).unwrap_or(usize::MAX);
    (block, offset % stride)
}

/// The word of a bit map at `offset`.
fn word(bits: u64, offset: u64) -> u32 {
    match offset {
        0 => (bits & 0xffff_ffff) as u32,
        4 => (bits >> 32) as u32,
        _ => 0,
    }
}

fn with_word(bits: u64, offset: u64, value: u32) -> u64 {
    match offset {
        0 => bits & !0xffff_ffff | u64::from(value),
        4 => bits & 0xffff_ffff | u64::from(value) << 32,
        _ => bits,
    }
}

/// The controller.
pub struct Plic {
    state: Mutex<PlicState>,
    harts: Arc<dyn HartInterrupts>,
}

impl fmt::Debug for Plic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Plic")
            .field("state", &self.state)
            .finish_non_exhaustive()
    }
}

impl Plic {
    /// A controller for so many harts.
    pub fn new(count: usize, harts: Arc<dyn HartInterrupts>) -> Self {
        Self {
            state: Mutex::new(PlicState::new(count)),
            harts,
        }
    }

    fn lock(&self) -> MutexGuard<'_, PlicState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Changes the state, then sets the harts' interrupts.
    fn access<R>(&self, what: impl FnOnce(&mut PlicState) -> R) -> R {
        let mut state = self.lock();
        let result = what(&mut state);
        for hart in 0..state.contexts.len() {
            let Context {
                enabled,
                threshold,
                raised,
            } = state.contexts[hart];
            let best = state.best(enabled);
            let high = best.is_some_and(|(priority, _)| priority > threshold);
            if high != raised {
                state.contexts[hart].raised = high;
                self.harts.set(hart, high);
            }
        }
        result
    }

    /// What the registers hold.
    pub fn save(&self) -> PlicState {
        self.lock().clone()
    }

    /// Sets what the registers hold, and sets the harts' interrupts.
    pub fn restore(&self, saved: &PlicState) -> Result<(), StateError> {
        check_count("harts", saved.contexts.len(), self.lock().contexts.len())?;
        check_count("sources", saved.priority.len(), SOURCE_MAX as usize + 1)?;
        self.access(|state| {
            let raised: Vec<bool> = state.contexts.iter().map(|c| c.raised).collect();
            *state = saved.clone();
            state.pending &= SOURCES;
            state.priority.iter_mut().for_each(|p| *p &= PRIORITY_MASK);
            for (context, raised) in state.contexts.iter_mut().zip(raised) {
                context.raised = raised;
            }
        });
        Ok(())
    }
}

impl BusDevice for Plic {
    fn read(&self, offset: u64, data: &mut [u8]) {
        data.fill(0);
        if data.len() == 4 && offset.is_multiple_of(4) {
            let value = self.access(|state| state.read(offset));
            data.copy_from_slice(&value.to_le_bytes());
        }
    }

    fn write(&self, offset: u64, data: &[u8]) {
        if let (true, Ok(value)) = (
            offset.is_multiple_of(4),
            data.try_into().map(u32::from_le_bytes),
        ) {
            self.access(|state| state.write(offset, value));
        }
    }
}

/// A source, for a device.
#[derive(Debug, Clone)]
pub struct PlicSource {
    plic: Arc<Plic>,
    source: u32,
}

impl PlicSource {
    /// Source `source`, 1 to [`SOURCE_MAX`].
    pub fn new(plic: Arc<Plic>, source: u32) -> Self {
        Self { plic, source }
    }
}

impl InterruptLine for PlicSource {
    fn set(&self, high: bool) {
        if (1..=SOURCE_MAX).contains(&self.source) {
            self.plic.access(|state| state.set_level(self.source, high));
        }
    }
}

#[cfg(test)]
mod tests;
