// SPDX-License-Identifier: Apache-2.0
//! The driver's commands (virtio 1.2, §5.1.6.5): parses them, checks what the driver may ask for,
//! and applies them to the [`State`].
//!
//! Runs on the worker thread that serves the control queue.

use virtio_bindings::virtio_net::{
    VIRTIO_NET_CTRL_GUEST_OFFLOADS, VIRTIO_NET_CTRL_MAC, VIRTIO_NET_CTRL_MQ, VIRTIO_NET_CTRL_RX,
    VIRTIO_NET_CTRL_VLAN,
};

use crate::config::{Nic, switchable};
use crate::filter::Modes;
use crate::state::{State, Table};
use ipc::mac::MacAddress;

/// How many bytes of a command are read. Only tables of very many addresses are longer.
pub const COMMAND_MAX_BYTES: usize = 16 << 10;

/// A command that the backend does not carry out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum CommandFault {
    /// It is malformed, or of a kind that was not offered.
    #[error("the driver's command makes no sense")]
    Malformed,
    /// It is not allowed.
    #[error("the driver's command is not allowed")]
    Refused,
}

/// A command of the driver.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Command {
    /// Switch a receive mode on or off.
    Mode(Mode, bool),
    /// The NIC's other addresses and groups.
    Tables(Table, Table),
    /// The NIC's address.
    Address(MacAddress),
    /// Add or remove a VLAN.
    Vlan(u16, bool),
    /// The number of pairs in use.
    Pairs(u16),
    /// The offloads that the driver can take.
    Offloads(u64),
}

/// The receive modes, by the numbers of their commands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// Receive everything.
    Promiscuous,
    /// Receive every multicast frame.
    AllMulticast,
    /// Receive every unicast frame.
    AllUnicast,
    /// Receive no multicast frame.
    NoMulticast,
    /// Receive no unicast frame.
    NoUnicast,
    /// Receive no broadcast frame.
    NoBroadcast,
}

impl Command {
    /// Parses what the driver has sent: class, command, data.
    pub fn parse(bytes: &[u8]) -> Result<Self, CommandFault> {
        let ([class, command], data) = bytes.split_first_chunk().ok_or(CommandFault::Malformed)?;
        match (u32::from(*class), command) {
            (VIRTIO_NET_CTRL_RX, command) => mode(*command, data),
            (VIRTIO_NET_CTRL_MAC, 0) => {
                let (unicast, rest) = table(data)?;
                let (multicast, _) = table(rest)?;
                Ok(Self::Tables(unicast, multicast))
            }
            (VIRTIO_NET_CTRL_MAC, 1) => Ok(Self::Address(MacAddress(first(data)?))),
            (VIRTIO_NET_CTRL_VLAN, 0 | 1) => {
                let vlan = u16::from_le_bytes(first(data)?);
                Ok(Self::Vlan(vlan, *command == 0))
            }
            (VIRTIO_NET_CTRL_MQ, 0) => Ok(Self::Pairs(u16::from_le_bytes(first(data)?))),
            (VIRTIO_NET_CTRL_GUEST_OFFLOADS, 0) => {
                Ok(Self::Offloads(u64::from_le_bytes(first(data)?)))
            }
            _ => Err(CommandFault::Malformed),
        }
    }

    /// Parses the beginning of a command that is longer than what is read: only address tables too
    /// long to be kept, which open the filter. If the command failed, the driver would miss frames
    /// for its new addresses.
    pub fn parse_long(bytes: &[u8]) -> Result<Self, CommandFault> {
        let ([class, command], data) = bytes.split_first_chunk().ok_or(CommandFault::Malformed)?;
        if (u32::from(*class), *command) != (VIRTIO_NET_CTRL_MAC, 0) {
            return Err(CommandFault::Malformed);
        }
        let unicast = table(data).map_or_else(|_| Table::overflown(), |(unicast, _)| unicast);
        Ok(Self::Tables(unicast, Table::overflown()))
    }

    /// Whether the driver of this NIC, with the features that it acknowledged, may send this
    /// command.
    pub fn check(&self, nic: &Nic, features: u64) -> Result<(), CommandFault> {
        let sensible = match self {
            Self::Mode(..) | Self::Tables(..) => true,
            Self::Address(mac) => mac.is_host(),
            Self::Vlan(vlan, _) => *vlan < 4096,
            Self::Pairs(pairs) => (1..=nic.pairs).contains(pairs),
            Self::Offloads(offloads) => offloads & !(features & switchable()) == 0,
        };
        match self {
            _ if !sensible => Err(CommandFault::Malformed),
            Self::Address(mac) if nic.guard.mac && nic.mac != Some(*mac) => {
                Err(CommandFault::Refused)
            }
            _ => Ok(()),
        }
    }

    /// Applies the command.
    pub fn apply(self, state: &mut State) {
        match self {
            Self::Mode(mode, on) => {
                *mode.of(state.modes.get_or_insert(Modes::NEW)) = on;
            }
            Self::Tables(unicast, multicast) => {
                (state.unicast, state.multicast) = (unicast, multicast);
            }
            Self::Address(mac) => state.mac = Some(mac),
            Self::Vlan(vlan, member) => {
                let word = &mut state.vlans[usize::from(vlan) / 64 % state.vlans.len()];
                let bit = 1 << (vlan % 64);
                *word = if member { *word | bit } else { *word & !bit };
            }
            Self::Pairs(pairs) => state.pairs = Some(pairs),
            Self::Offloads(offloads) => state.offloads = Some(offloads),
        }
    }
}

impl Mode {
    fn of(self, modes: &mut Modes) -> &mut bool {
        match self {
            Self::Promiscuous => &mut modes.promiscuous,
            Self::AllMulticast => &mut modes.all_multicast,
            Self::AllUnicast => &mut modes.all_unicast,
            Self::NoMulticast => &mut modes.no_multicast,
            Self::NoUnicast => &mut modes.no_unicast,
            Self::NoBroadcast => &mut modes.no_broadcast,
        }
    }
}

fn first<const N: usize>(data: &[u8]) -> Result<[u8; N], CommandFault> {
    data.first_chunk().copied().ok_or(CommandFault::Malformed)
}

fn mode(command: u8, data: &[u8]) -> Result<Command, CommandFault> {
    let [on] = first(data)?;
    let mode = match command {
        0 => Mode::Promiscuous,
        1 => Mode::AllMulticast,
        2 => Mode::AllUnicast,
        3 => Mode::NoMulticast,
        4 => Mode::NoUnicast,
        5 => Mode::NoBroadcast,
        _ => return Err(CommandFault::Malformed),
    };
    Ok(Command::Mode(mode, on != 0))
}

/// Parses a `struct virtio_net_ctrl_mac`; returns it and the bytes that follow.
fn table(data: &[u8]) -> Result<(Table, &[u8]), CommandFault> {
    let (count, rest) = data.split_first_chunk().ok_or(CommandFault::Malformed)?;
    let count = u32::from_le_bytes(*count) as usize;
    let len_bytes = count.checked_mul(6).filter(|len| *len <= rest.len());
    let (entries, rest) = rest.split_at(len_bytes.ok_or(CommandFault::Malformed)?);
    let (macs, _) = entries.as_chunks::<6>();
    Ok((
        Table::new(macs.iter().map(|mac| MacAddress(*mac)).collect()),
        rest,
    ))
}

#[cfg(test)]
mod tests {
    use super::*;
    use ipc::record::Guard;

    const MAC: MacAddress = MacAddress([2, 0, 0, 0, 0, 1]);

    fn nic(guard: bool) -> Nic {
        Nic {
            mac: Some(MAC),
            mtu: None,
            pairs: 4,
            queue_size: 256,
            uso: false,
            guard: Guard {
                mac: guard,
                ..Guard::default()
            },
        }
    }

    fn obey(nic: &Nic, bytes: &[u8]) -> Result<State, CommandFault> {
        let command = Command::parse(bytes)?;
        command.check(nic, nic.features())?;
        let mut state = State::default();
        command.apply(&mut state);
        Ok(state)
    }

    #[test]
    fn command_of_every_kind_changes_the_state() {
        let nic = nic(false);
        let state = obey(&nic, &[0, 0, 1]).unwrap();
        assert!(state.modes.unwrap().promiscuous);
        assert!(!obey(&nic, &[0, 5, 0]).unwrap().modes.unwrap().no_broadcast);
        let tables = [1, 0, 1, 0, 0, 0, 2, 0, 0, 0, 0, 7, 0, 0, 0, 0];
        let state = obey(&nic, &tables).unwrap();
        assert_eq!(state.unicast.macs, [MacAddress([2, 0, 0, 0, 0, 7])]);
        assert!(state.multicast.macs.is_empty() && state.modes.is_none());
        let state = obey(&nic, &[1, 1, 2, 0, 0, 0, 0, 9]).unwrap();
        assert_eq!(state.mac, Some(MacAddress([2, 0, 0, 0, 0, 9])));
        assert_eq!(obey(&nic, &[2, 0, 65, 0]).unwrap().vlans[1], 2);
        assert_eq!(obey(&nic, &[4, 0, 3, 0]).unwrap().pairs, Some(3));
        let state = obey(&nic, &[5, 0, 0x82, 0, 0, 0, 0, 0, 0, 0]).unwrap();
        assert_eq!(state.offloads, Some(0x82));
    }

    #[test]
    fn command_cut_short_or_unknown_is_malformed() {
        let long_table = [1, 0, 255, 255, 255, 255, 0, 0];
        let commands: [&[u8]; 14] = [
            &[],
            &[0],
            &[0, 0],
            &[0, 6, 1],
            &[1, 0, 1, 0],
            &[1, 0, 0, 0, 0, 0],
            &long_table,
            &[1, 1, 2, 0, 0],
            &[1, 2, 0],
            &[2, 0, 1],
            &[3, 0],
            &[4, 1, 0, 0],
            &[5, 0, 1, 0],
            &[255, 0, 0],
        ];
        for command in commands {
            let outcome = obey(&nic(false), command);
            assert_eq!(outcome, Err(CommandFault::Malformed), "{command:?}");
        }
    }

    #[test]
    fn tables_longer_than_what_is_read_open_the_filter() {
        let mut few = vec![1, 0, 1, 0, 0, 0, 2, 0, 0, 0, 0, 7, 0xff, 0, 1, 0];
        few.resize(COMMAND_MAX_BYTES, 1);
        let Ok(Command::Tables(unicast, multicast)) = Command::parse_long(&few) else {
            panic!("not understood");
        };
        assert_eq!(unicast.macs, [MacAddress([2, 0, 0, 0, 0, 7])]);
        assert!(!unicast.overflown && multicast.overflown);
        few[3] = 0xff;
        let Ok(Command::Tables(unicast, multicast)) = Command::parse_long(&few) else {
            panic!("not understood");
        };
        assert!(unicast.overflown && multicast.overflown);
        few[0] = 2;
        assert_eq!(Command::parse_long(&few), Err(CommandFault::Malformed));
    }

    #[test]
    fn command_that_asks_for_the_impossible_is_malformed() {
        let commands: [&[u8]; 5] = [
            &[1, 1, 1, 0, 0, 0, 0, 1],
            &[2, 0, 0, 16],
            &[4, 0, 0, 0],
            &[4, 0, 5, 0],
            &[5, 0, 1, 0, 0, 0, 0, 0, 0, 0],
        ];
        for command in commands {
            let outcome = obey(&nic(false), command);
            assert_eq!(outcome, Err(CommandFault::Malformed), "{command:?}");
        }
    }

    #[test]
    fn address_is_the_cards_own_where_it_is_guarded() {
        let other = [1, 1, 2, 0, 0, 0, 0, 9];
        assert_eq!(obey(&nic(true), &other), Err(CommandFault::Refused));
        let own = [1, 1, 2, 0, 0, 0, 0, 1];
        assert!(obey(&nic(true), &own).is_ok());
    }

    #[test]
    fn mode_of_each_number_is_its_own_and_goes_on_and_off() {
        let on = |number| {
            let modes = obey(&nic(false), &[0, number, 1]).unwrap().modes.unwrap();
            [
                modes.promiscuous,
                modes.all_multicast,
                modes.all_unicast,
                modes.no_multicast,
                modes.no_unicast,
                modes.no_broadcast,
            ]
        };
        for number in 0..6 {
            // A new driver is promiscuous.
            let mut expected = [true, false, false, false, false, false];
            expected[usize::from(number)] = true;
            assert_eq!(on(number), expected);
            let mut state = State::default();
            for value in [1, 0] {
                Command::parse(&[0, number, value])
                    .unwrap()
                    .apply(&mut state);
            }
            let promiscuous = number != 0;
            let off = Modes {
                promiscuous,
                ..Modes::default()
            };
            assert_eq!(state.modes, Some(off));
        }
    }

    #[test]
    fn vlan_goes_in_and_out_and_no_other_with_it() {
        let mut state = State::default();
        let mut members = Vec::new();
        for vlan in [0_u16, 1, 63, 64, 127, 2048, 4095] {
            let [low, high] = vlan.to_le_bytes();
            let add = obey(&nic(false), &[2, 0, low, high]);
            assert_eq!(add.unwrap().vlans[usize::from(vlan / 64)], 1 << (vlan % 64));
            (0..2).for_each(|_| Command::Vlan(vlan, true).apply(&mut state));
            members.push(vlan);
            let found = (0..4096_u16).filter(|vlan| {
                let word = state.vlans[usize::from(vlan / 64)];
                word & (1 << (vlan % 64)) != 0
            });
            assert_eq!(found.collect::<Vec<_>>(), members);
        }
        for vlan in members {
            let [low, high] = vlan.to_le_bytes();
            let remove = Command::parse(&[2, 1, low, high]).unwrap();
            assert_eq!(remove, Command::Vlan(vlan, false));
            (0..2).for_each(|_| remove.clone().apply(&mut state));
            assert_eq!(state.vlans[usize::from(vlan / 64)] & (1 << (vlan % 64)), 0);
        }
        assert_eq!(state, State::default());
    }

    #[test]
    fn command_at_a_limit_is_obeyed() {
        let nic = nic(false);
        for pairs in [1, 4] {
            assert!(obey(&nic, &[4, 0, pairs, 0]).is_ok());
        }
        let tables = [1, 0, 0, 0, 0, 0, 1, 0, 0, 0, 1, 0, 0x5e, 0, 0, 1, 77];
        let state = obey(&nic, &tables).unwrap();
        assert!(state.unicast.macs.is_empty(), "what follows is ignored");
        assert_eq!(state.multicast.macs, [MacAddress([1, 0, 0x5e, 0, 0, 1])]);
    }

    #[test]
    fn offloads_are_those_that_the_driver_acknowledged() {
        let nic = nic(false);
        let offloads = |bits| Command::Offloads(bits).check(&nic, 0x2);
        assert_eq!(offloads(0), Ok(()));
        assert_eq!(offloads(0x2), Ok(()));
        assert_eq!(offloads(0x80), Err(CommandFault::Malformed));
        assert_eq!(offloads(0x82), Err(CommandFault::Malformed));
        let beyond = Command::Offloads(1 << 5).check(&nic, u64::MAX);
        assert_eq!(
            beyond,
            Err(CommandFault::Malformed),
            "not one that can be switched"
        );
    }

    #[test]
    fn address_of_a_card_that_has_none_is_refused_where_it_is_guarded() {
        let mut nic = nic(true);
        nic.mac = None;
        let own = [1, 1, 2, 0, 0, 0, 0, 1];
        assert_eq!(obey(&nic, &own), Err(CommandFault::Refused));
    }
}
