// SPDX-License-Identifier: Apache-2.0
//! What the driver has set on the control queue, in memory that outlives the process, so that the
//! next process goes on with it.
//!
//! All zeroes is the state of a driver that has set nothing yet; the frontend clears it when the
//! device is reset. A compromised process may have written it: the memory is copied once, and what
//! makes no sense counts as never set. A command that was half stored when the process died was not
//! answered: the driver's queue still has it.

use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::Relaxed;

use device_backend::shared_mem::SharedMem;

use crate::config::switchable;
use crate::filter::{Modes, TABLE_MAX, VLAN_WORDS};
use ipc::mac::MacAddress;

/// The places of the words.
mod word {
    use super::{TABLE_MAX, VLAN_WORDS};

    pub(super) const PAIRS: usize = 0;
    pub(super) const MODES: usize = 1;
    pub(super) const MAC: usize = 2;
    pub(super) const OFFLOADS: usize = 3;
    pub(super) const UNICAST: usize = 4;
    pub(super) const MULTICAST: usize = UNICAST + 1 + TABLE_MAX;
    pub(super) const VLANS: usize = MULTICAST + 1 + TABLE_MAX;
    pub(super) const END: usize = VLANS + VLAN_WORDS;
}

const _: () = assert!(word::END * 8 <= ipc::fd::net::STATE_BYTES);

/// Flag beside a value: the driver has set it.
const ASKED: u64 = 1 << 63;
/// In place of a table's length: the table was too long to be kept.
const OVERFLOWN: u64 = 0xff;

/// A table of addresses that the driver has set.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Table {
    /// The addresses, sorted.
    pub macs: Vec<MacAddress>,
    /// Whether there were more addresses than a table keeps.
    pub overflown: bool,
}

impl Table {
    /// Makes a table of what the driver sent.
    pub fn new(mut macs: Vec<MacAddress>) -> Self {
        let overflown = macs.len() > TABLE_MAX;
        if overflown {
            macs.clear();
        }
        macs.sort_unstable();
        Self { macs, overflown }
    }

    /// A table that was too long to be kept.
    pub fn overflown() -> Self {
        Self {
            macs: Vec::new(),
            overflown: true,
        }
    }
}

/// What the driver has set.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct State {
    /// The number of pairs in use.
    pub pairs: Option<u16>,
    /// The receive modes.
    pub modes: Option<Modes>,
    /// The MAC address.
    pub mac: Option<MacAddress>,
    /// The offloads, as feature bits.
    pub offloads: Option<u64>,
    /// Other addresses of the NIC.
    pub unicast: Table,
    /// Multicast groups.
    pub multicast: Table,
    /// VLANs.
    pub vlans: [u64; VLAN_WORDS],
}

impl Default for State {
    fn default() -> Self {
        Self {
            pairs: None,
            modes: None,
            mac: None,
            offloads: None,
            unicast: Table::default(),
            multicast: Table::default(),
            vlans: [0; VLAN_WORDS],
        }
    }
}

impl State {
    /// Reads the stored state.
    pub fn load(memory: &SharedMem) -> Self {
        let get = |index: usize| u64::from_le(memory.at::<AtomicU64>(8 * index).load(Relaxed));
        let asked = |index| Some(get(index)).filter(|word| word & ASKED != 0);
        let pairs = asked(word::PAIRS).and_then(|word| u16::try_from(word & !ASKED).ok());
        let mut vlans = [0; VLAN_WORDS];
        for (offset, vlan) in vlans.iter_mut().enumerate() {
            *vlan = get(word::VLANS + offset);
        }
        let table = |first: usize| {
            let len = get(first);
            let count = usize::try_from(len).unwrap_or(0);
            if count > TABLE_MAX {
                return Table::overflown();
            }
            let macs = (first + 1..).take(count).map(|index| mac_of(get(index)));
            Table::new(macs.collect())
        };
        Self {
            pairs,
            modes: asked(word::MODES).map(modes_of),
            mac: asked(word::MAC).map(mac_of).filter(|mac| mac.is_host()),
            offloads: asked(word::OFFLOADS).map(|word| word & switchable()),
            unicast: table(word::UNICAST),
            multicast: table(word::MULTICAST),
            vlans,
        }
    }

    /// Stores the state.
    pub fn store(&self, memory: &SharedMem) {
        let put = |index: usize, word: u64| {
            memory
                .at::<AtomicU64>(8 * index)
                .store(word.to_le(), Relaxed);
        };
        let asked = |value: Option<u64>| value.map_or(0, |value| value | ASKED);
        put(word::PAIRS, asked(self.pairs.map(u64::from)));
        put(word::MODES, asked(self.modes.map(bits_of)));
        put(word::MAC, asked(self.mac.map(word_of)));
        put(word::OFFLOADS, asked(self.offloads));
        for (first, table) in [
            (word::UNICAST, &self.unicast),
            (word::MULTICAST, &self.multicast),
        ] {
            let len = u64::try_from(table.macs.len()).unwrap_or(OVERFLOWN);
            put(first, if table.overflown { OVERFLOWN } else { len });
            for (index, mac) in table.macs.iter().take(TABLE_MAX).enumerate() {
                put(first + 1 + index, word_of(*mac));
            }
        }
        for (offset, vlan) in self.vlans.iter().enumerate() {
            put(word::VLANS + offset, *vlan);
        }
    }

    /// Clears the stored state: the device was reset.
    pub fn clear(memory: &SharedMem) {
        Self::default().store(memory);
    }
}

fn mac_of(word: u64) -> MacAddress {
    let [a, b, c, d, e, f, _, _] = word.to_le_bytes();
    MacAddress([a, b, c, d, e, f])
}

fn word_of(mac: MacAddress) -> u64 {
    let [a, b, c, d, e, f] = mac.0;
    u64::from_le_bytes([a, b, c, d, e, f, 0, 0])
}

fn modes_of(word: u64) -> Modes {
    let bit = |index: u32| word & (1 << index) != 0;
    Modes {
        promiscuous: bit(0),
        all_multicast: bit(1),
        all_unicast: bit(2),
        no_multicast: bit(3),
        no_unicast: bit(4),
        no_broadcast: bit(5),
    }
}

fn bits_of(modes: Modes) -> u64 {
    let bits = [
        modes.promiscuous,
        modes.all_multicast,
        modes.all_unicast,
        modes.no_multicast,
        modes.no_unicast,
        modes.no_broadcast,
    ];
    bits.iter()
        .rev()
        .fold(0, |word, bit| word << 1 | u64::from(*bit))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn memory() -> SharedMem {
        SharedMem::private(ipc::fd::net::STATE_BYTES)
    }

    #[test]
    fn state_kept_reads_back_equal() {
        let memory = memory();
        let mut state = State {
            pairs: Some(4),
            modes: Some(Modes {
                all_multicast: true,
                no_broadcast: true,
                ..Modes::default()
            }),
            mac: Some(MacAddress([2, 0, 0, 0, 0, 9])),
            offloads: Some(1 << 1 | 1 << 7),
            unicast: Table::new(vec![
                MacAddress([2, 0, 0, 0, 0, 8]),
                MacAddress([2, 0, 0, 0, 0, 7]),
            ]),
            multicast: Table::new(vec![MacAddress::BROADCAST; TABLE_MAX + 1]),
            ..State::default()
        };
        state.vlans[63] = 1 << 63;
        state.store(&memory);
        assert_eq!(State::load(&memory), state);
        State::clear(&memory);
        assert_eq!(State::load(&memory), State::default());
    }

    #[test]
    fn state_of_zeroes_is_that_of_a_new_driver() {
        assert_eq!(State::load(&memory()), State::default());
    }

    #[test]
    fn state_of_rubbish_is_taken_for_never_asked() {
        let memory = memory();
        for index in 0..word::END {
            memory.at::<AtomicU64>(8 * index).store(u64::MAX, Relaxed);
        }
        let state = State::load(&memory);
        assert_eq!((state.pairs, state.mac), (None, None));
        assert_eq!(
            state.offloads.map(|offloads| offloads & !switchable()),
            Some(0)
        );
        assert!(state.unicast.overflown && state.unicast.macs.is_empty());
    }
}
