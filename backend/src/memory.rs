// SPDX-License-Identifier: Apache-2.0
//! Guest memory as the frontend's memory table describes it.
//!
//! Replaced by the protocol thread, through vhost-user-backend; looked at by the workers.

use std::sync::Arc;
use std::sync::atomic::AtomicU32;
use std::sync::atomic::Ordering::{AcqRel, Acquire};

use vm_memory::GuestAddressSpace;

use crate::{GuestMemory, SharedGuestMemory};

/// Guest memory, and a number by which a worker sees that it has changed.
#[derive(Debug)]
pub struct Memory {
    shared: SharedGuestMemory,
    generation: AtomicU32,
}

impl Default for Memory {
    fn default() -> Self {
        Self {
            shared: SharedGuestMemory::new(GuestMemory::new()),
            generation: AtomicU32::new(0),
        }
    }
}

impl Memory {
    /// For who replaces it.
    pub fn shared(&self) -> SharedGuestMemory {
        self.shared.clone()
    }

    /// Guest memory as it is now.
    pub fn now(&self) -> Arc<GuestMemory> {
        self.shared.memory().into_inner()
    }

    /// A number that is another one after every change.
    pub fn generation(&self) -> u32 {
        self.generation.load(Acquire)
    }

    /// Says that it was replaced, or that whoever uses it should look again.
    pub fn touch(&self) {
        self.generation.fetch_add(1, AcqRel);
    }
}
