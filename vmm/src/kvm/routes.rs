// SPDX-License-Identifier: Apache-2.0
//! The interrupt routing table. GSIs below [`PINS`] are the pins of the IOAPIC: KVM needs the
//! message of a level-triggered pin to report its EOI. Higher ones are MSI-X vectors: KVM needs the
//! message that an irqfd sends.
//!
//! KVM only takes a whole table, and slowly (it waits for every vCPU to leave the old one), so the
//! vmm passes it only when it has changed. If KVM has no memory for the new table it keeps the old
//! one; the new one stays due until KVM has taken it.

use devices::interrupt::{MsiMessage, PINS};
use kvm_bindings::{KVM_IRQ_ROUTING_MSI, kvm_irq_routing_entry, kvm_irq_routing_msi};

use super::halves;

/// A global system interrupt: a number in the routing table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Gsi(pub u32);

/// The message of each GSI.
#[derive(Debug)]
pub(super) struct Routes {
    wanted: Vec<Option<MsiMessage>>,
    /// KVM has an older table.
    is_due: bool,
}

impl Default for Routes {
    fn default() -> Self {
        Self {
            wanted: vec![None; PINS],
            is_due: false,
        }
    }
}

impl Routes {
    /// Allocates a range of `count` GSIs; returns the first.
    pub(super) fn allocate(&mut self, count: usize) -> Gsi {
        let first = self.wanted.len();
        self.wanted.resize(first + count, None);
        Gsi(u32::try_from(first).unwrap_or(u32::MAX))
    }

    /// Sets the messages of the pins; takes effect with [`Self::give`].
    pub(super) fn set_pins(&mut self, pins: &[Option<MsiMessage>; PINS]) {
        self.is_due |= self.wanted[..PINS] != pins[..];
        self.wanted[..PINS].copy_from_slice(pins);
    }

    /// Sets the message of a vector; takes effect with [`Self::give`].
    pub(super) fn set(&mut self, gsi: Gsi, message: MsiMessage) {
        if let Some(route) = self.wanted.get_mut(gsi.0 as usize) {
            self.is_due |= route.replace(message) != Some(message);
        }
    }

    /// Passes the table to KVM if it has changed. Everything set is in effect when this succeeds.
    pub(super) fn give<E>(
        &mut self,
        set: impl FnOnce(&[kvm_irq_routing_entry]) -> Result<(), E>,
    ) -> Result<(), E> {
        if self.is_due {
            set(&self.entries())?;
            self.is_due = false;
        }
        Ok(())
    }

    /// The table in KVM's format.
    fn entries(&self) -> Vec<kvm_irq_routing_entry> {
        let routed = |(gsi, route): (u32, &Option<MsiMessage>)| route.map(|m| entry(gsi, m));
        (0..).zip(&self.wanted).filter_map(routed).collect()
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

    /// A KVM that takes tables, and what GSIs each has.
    #[derive(Default)]
    struct Kvm(Vec<Vec<u32>>);

    impl Kvm {
        fn take(&mut self, table: &[kvm_irq_routing_entry]) -> Result<(), &'static str> {
            self.0.push(table.iter().map(|entry| entry.gsi).collect());
            Ok(())
        }
    }

    #[test]
    fn table_is_given_only_when_it_differs() {
        let (mut kvm, mut routes) = (Kvm::default(), Routes::default());
        let first = routes.allocate(2);
        assert_eq!((first, routes.allocate(3)), (Gsi(24), Gsi(26)));
        let mut pins = [None; PINS];
        routes.set_pins(&pins);
        routes.give(|table| kvm.take(table)).unwrap();
        assert!(kvm.0.is_empty());

        for _ in 0..2 {
            routes.set(first, MESSAGE);
            routes.give(|table| kvm.take(table)).unwrap();
        }
        pins[5] = Some(MESSAGE);
        for _ in 0..2 {
            routes.set_pins(&pins);
            routes.give(|table| kvm.take(table)).unwrap();
        }

        assert_eq!(kvm.0, [vec![24], vec![5, 24]]);
    }

    #[test]
    fn table_that_kvm_refused_is_given_again_until_it_is_taken() {
        let (mut kvm, mut routes) = (Kvm::default(), Routes::default());
        let vector = routes.allocate(1);
        for _ in 0..3 {
            routes.set(vector, MESSAGE);
            assert_eq!(routes.give(|_| Err("no memory")), Err("no memory"));
        }

        routes.set(vector, MESSAGE);
        routes.give(|table| kvm.take(table)).unwrap();

        assert_eq!(kvm.0, [[24]]);
    }

    #[test]
    fn gsi_never_allocated_is_not_routed() {
        let (mut kvm, mut routes) = (Kvm::default(), Routes::default());
        routes.set(Gsi(24), MESSAGE);
        routes.give(|table| kvm.take(table)).unwrap();
        assert!(kvm.0.is_empty());
    }
}
