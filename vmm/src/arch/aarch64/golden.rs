// SPDX-License-Identifier: Apache-2.0
//! What a guest sees of the board: the device trees, in which all addresses and interrupts are.

use super::irqchip::Version;
use super::layout;
use super::tables::{Description, device_tree};
use crate::arch::fdt::Chosen;
use crate::arch::{fdt_text, golden};

pub(in crate::arch) fn describe() -> String {
    [Version::V3, Version::V2].map(tree).concat()
}

fn tree(version: Version) -> String {
    let chosen = Chosen {
        cmdline: "quiet",
        initrd: None,
        uart: layout::UART,
        seed: None,
    };
    let description = Description {
        version,
        affinities: vec![0, 1],
        granules: None,
    };
    let memory = golden::ram(layout::RAM, 512 << 20);
    let tree = device_tree(&memory, &golden::machine(), &description, &chosen).unwrap();
    fdt_text::text(&tree)
}
