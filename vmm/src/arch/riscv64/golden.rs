// SPDX-License-Identifier: Apache-2.0
//! What a guest sees of the board: the device trees, in which all addresses and interrupts are.

use super::isa::Isa;
use super::layout;
use super::tables::{Description, device_tree};
use crate::arch::fdt::Chosen;
use crate::arch::{fdt_text, golden};

pub(in crate::arch) fn describe() -> String {
    [Some(255), None].map(tree).concat()
}

/// The tree of a machine with IMSICs that tell so many interrupts apart, or with a PLIC.
fn tree(ids: Option<u32>) -> String {
    let chosen = Chosen {
        cmdline: "quiet",
        initrd: None,
        uart: layout::UART,
        seed: None,
    };
    let isa = Isa {
        extensions: vec!["i".into(), "m".into()],
        mmu: "riscv,sv39",
        cbom_block: None,
        cboz_block: None,
        timebase_hz: 10_000_000,
    };
    let description = Description { harts: 2, isa, ids };
    let memory = golden::ram(layout::RAM, 512 << 20);
    let tree = device_tree(&memory, &golden::machine(), &description, &chosen).unwrap();
    fdt_text::text(&tree)
}
