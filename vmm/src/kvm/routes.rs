// SPDX-License-Identifier: Apache-2.0
//! The interrupt routing table: the message that each GSI sends. KVM needs it for the irqfd of an MSI-X
//! vector, and for a level-triggered pin of an IOAPIC, whose EOI it reports.
//!
//! KVM only takes a whole table, and slowly (it waits for every vCPU to leave the old one), so the
//! vmm passes it only when it has changed. If KVM has no memory for the new table it keeps the old
//! one; the new one stays due until KVM has taken it.

use devices::interrupt::MsiMessage;
use kvm_bindings::{
    KVM_IRQ_ROUTING_MSI, KVM_MSI_VALID_DEVID, kvm_irq_routing_entry, kvm_irq_routing_msi,
};

use super::halves;

/// A global system interrupt: a number in the routing table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Gsi(pub(super) u32);

/// A message, and the requester id of the device that sends it, if the controller needs that.
type Route = (MsiMessage, Option<u16>);

/// The message of each GSI.
#[derive(Debug, Default)]
pub(super) struct Routes {
    wanted: Vec<Option<Route>>,
    /// KVM has an older table.
    is_due: bool,
}

impl Routes {
    /// Allocates a range of `count` GSIs; returns the first.
    pub(super) fn allocate(&mut self, count: usize) -> Gsi {
        let first = self.wanted.len();
        self.wanted.resize(first + count, None);
        Gsi(u32::try_from(first).unwrap_or(u32::MAX))
    }

    /// Sets the messages, of no device, of the GSIs from `first` on; takes effect with
    /// [`Self::give`].
    pub(super) fn set_all(&mut self, first: Gsi, messages: &[Option<MsiMessage>]) {
        let wanted = self.wanted.iter_mut().skip(first.0 as usize);
        for (route, message) in wanted.zip(messages) {
            let message = message.map(|message| (message, None));
            self.is_due |= std::mem::replace(route, message) != message;
        }
    }

    /// Sets the message of a GSI; takes effect with [`Self::give`].
    pub(super) fn set(&mut self, gsi: Gsi, message: MsiMessage, requester: Option<u16>) {
        if let Some(route) = self.wanted.get_mut(gsi.0 as usize) {
            let new = (message, requester);
            self.is_due |= route.replace(new) != Some(new);
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
        let routed = |(gsi, route): (u32, &Option<Route>)| route.map(|route| entry(gsi, route));
        (0..).zip(&self.wanted).filter_map(routed).collect()
    }
}

fn entry(gsi: u32, (message, requester): Route) -> kvm_irq_routing_entry {
    let mut entry = kvm_irq_routing_entry {
        gsi,
        type_: KVM_IRQ_ROUTING_MSI,
        flags: requester.map_or(0, |_| KVM_MSI_VALID_DEVID),
        ..Default::default()
    };
    let [address_lo, address_hi] = halves(message.address);
    let mut msi = kvm_irq_routing_msi {
        address_lo,
        address_hi,
        data: message.data,
        ..Default::default()
    };
    msi.__bindgen_anon_1.devid = requester.map_or(0, u32::from);
    entry.u.msi = msi;
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
        let first = routes.allocate(24);
        let vector = routes.allocate(2);
        assert_eq!((vector, routes.allocate(3)), (Gsi(24), Gsi(26)));
        let mut pins = [None; 24];
        routes.set_all(first, &pins);
        routes.give(|table| kvm.take(table)).unwrap();
        assert!(kvm.0.is_empty());

        for _ in 0..2 {
            routes.set(vector, MESSAGE, None);
            routes.give(|table| kvm.take(table)).unwrap();
        }
        pins[5] = Some(MESSAGE);
        for _ in 0..2 {
            routes.set_all(first, &pins);
            routes.give(|table| kvm.take(table)).unwrap();
        }

        assert_eq!(kvm.0, [vec![24], vec![5, 24]]);
    }

    #[test]
    fn table_that_kvm_refused_is_given_again_until_it_is_taken() {
        let (mut kvm, mut routes) = (Kvm::default(), Routes::default());
        let vector = routes.allocate(1);
        for _ in 0..3 {
            routes.set(vector, MESSAGE, None);
            assert_eq!(routes.give(|_| Err("no memory")), Err("no memory"));
        }

        routes.set(vector, MESSAGE, None);
        routes.give(|table| kvm.take(table)).unwrap();

        assert_eq!(kvm.0, [[0]]);
    }

    #[test]
    fn gsi_never_allocated_is_not_routed() {
        let (mut kvm, mut routes) = (Kvm::default(), Routes::default());
        routes.set(Gsi(24), MESSAGE, None);
        routes.give(|table| kvm.take(table)).unwrap();
        assert!(kvm.0.is_empty());
    }

    #[test]
    fn message_of_a_device_carries_its_requester_id() {
        let mut routes = Routes::default();
        let (own, other) = (routes.allocate(1), routes.allocate(1));
        routes.set(own, MESSAGE, Some(0x18));
        routes.set(other, MESSAGE, None);

        let given = routes.give(|table| {
            let flags = table.iter().map(|entry| entry.flags);
            assert!(flags.eq([KVM_MSI_VALID_DEVID, 0]));
            Ok::<_, ()>(())
        });

        assert_eq!(given, Ok(()));
    }

    #[test]
    fn same_message_of_another_device_is_another_route() {
        let (mut kvm, mut routes) = (Kvm::default(), Routes::default());
        let gsi = routes.allocate(1);
        for requester in [Some(8), Some(16), Some(16)] {
            routes.set(gsi, MESSAGE, requester);
            routes.give(|table| kvm.take(table)).unwrap();
        }
        assert_eq!(kvm.0, [[0], [0]]);
    }
}
