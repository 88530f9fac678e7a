// SPDX-License-Identifier: Apache-2.0
//! The table of interrupt routes. GSIs below [`PINS`] are the pins of the IOAPIC: KVM has to know
//! what a level-triggered one sends to report its end. Those above are MSI-X vectors: KVM has to know
//! what an irqfd sends.
//!
//! KVM takes the table as a whole, and taking it is slow (it waits for every vCPU to leave the old
//! one), so it is given only when it has changed.

use devices::interrupt::{MsiMessage, PINS};
use kvm_bindings::{KVM_IRQ_ROUTING_MSI, kvm_irq_routing_entry, kvm_irq_routing_msi};

use super::halves;

/// A number that KVM has a route for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Gsi(pub u32);

/// What each GSI sends.
#[derive(Debug)]
pub(super) struct Routes(Vec<Option<MsiMessage>>);

impl Default for Routes {
    fn default() -> Self {
        Self(vec![None; PINS])
    }
}

impl Routes {
    /// GSIs for `count` vectors, one after the other; the first of them.
    pub(super) fn allocate(&mut self, count: usize) -> Gsi {
        let first = self.0.len();
        self.0.resize(first + count, None);
        Gsi(u32::try_from(first).unwrap_or(u32::MAX))
    }

    /// Routes the pins; whether that changed anything.
    pub(super) fn set_pins(&mut self, pins: &[Option<MsiMessage>; PINS]) -> bool {
        let changed = self.0[..PINS] != pins[..];
        self.0[..PINS].copy_from_slice(pins);
        changed
    }

    /// Routes a vector; whether that changed anything.
    pub(super) fn set(&mut self, gsi: Gsi, message: MsiMessage) -> bool {
        let Some(route) = self.0.get_mut(gsi.0 as usize) else {
            return false;
        };
        route.replace(message) != Some(message)
    }

    /// The table as KVM takes it.
    pub(super) fn entries(&self) -> Vec<kvm_irq_routing_entry> {
        let routed = |(gsi, route): (u32, &Option<MsiMessage>)| route.map(|m| entry(gsi, m));
        (0..).zip(&self.0).filter_map(routed).collect()
    }
}

fn entry(gsi: u32, message: MsiMessage) -> kvm_irq_routing_entry {
    let mut entry = kvm_irq_routing_entry {
        gsi,
        type_: KVM_IRQ_ROUTING_MSI,
        ..Default::default()
    };
    let [address_lo, address_hi] = halves(message.address);
    entry.u.msi = kvm_irq_routing_msi {
        address_lo,
        address_hi,
        data: message.data,
        ..Default::default()
    };
    entry
}

#[cfg(test)]
mod tests {
    use super::*;

    const MESSAGE: MsiMessage = MsiMessage {
        address: 0xfee0_1000,
        data: 0x31,
    };

    #[test]
    fn routes_change_only_when_they_differ() {
        let mut routes = Routes::default();
        let first = routes.allocate(2);
        assert_eq!((first, routes.allocate(3)), (Gsi(24), Gsi(26)));
        assert!(routes.set(first, MESSAGE));
        assert!(!routes.set(first, MESSAGE));
        let mut pins = [None; PINS];
        assert!(!routes.set_pins(&pins));
        pins[5] = Some(MESSAGE);
        assert!(routes.set_pins(&pins));
        let gsis: Vec<u32> = routes.entries().iter().map(|entry| entry.gsi).collect();
        assert_eq!(gsis, [5, 24]);
    }

    #[test]
    fn gsi_never_allocated_is_not_routed() {
        assert!(!Routes::default().set(Gsi(24), MESSAGE));
    }
}
