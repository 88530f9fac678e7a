// SPDX-License-Identifier: Apache-2.0
//! Takes from what KVM supports the features that the user's model of a processor lacks, and refuses a
//! model that has more than the host.
//!
//! A level takes only features away, not what protects a guest against faults of the processor, nor
//! what KVM and this machine bring along (local APIC, clock, timer).

use std::collections::BTreeSet;

use ipc::cpu_model::CpuModel;
use ipc::cpu_model::features::{Register, WORDS, Word};
use kvm_bindings::{CpuId, kvm_cpuid_entry2};

/// Bits that no level takes away: in leaf 1 TSC-deadline, x2APIC, OSXSAVE and the hypervisor bit, and
/// HTT, which follows the number of vCPUs; in leaf 7 the controls of speculation.
const KEPT: &[(u32, u32, Register, u32)] = &[
    (1, 0, Register::Ecx, 1 << 21 | 1 << 24 | 1 << 27 | 1 << 31),
    (1, 0, Register::Edx, 1 << 28),
    // MD_CLEAR, SPEC_CTRL, STIBP, L1D_FLUSH, ARCH_CAPABILITIES, SSBD.
    (7, 0, Register::Edx, 1 << 10 | 0xf << 26 | 1 << 31),
];
/// The bits of leaf 0x8000_0001's EDX that repeat those of leaf 1 on processors of AMD.
const REPEATED: u32 = 0x0183_f3ff;
/// The leaves that a feature brings along.
const LEAVES: [(u32, &str); 3] = [(0xd, "xsave"), (0x1d, "amx_tile"), (0x1e, "amx_tile")];
/// Leaves of features that no level has: SGX, processor trace, key locker, AVX10.
const NO_LEVEL: [u32; 4] = [0x12, 0x14, 0x19, 0x24];
/// The states that XSAVE saves, by feature (XCR0); the first two are there with any.
const STATES: [(&str, u32); 5] = [
    ("avx", 1 << 2),
    ("mpx", 3 << 3),
    ("avx512f", 7 << 5),
    ("pku", 1 << 9),
    ("amx_tile", 3 << 17),
];

/// The features of the model that are not in what KVM supports.
pub(super) fn missing(supported: &CpuId, model: &CpuModel) -> Vec<&'static str> {
    let wanted = model.required();
    let all = WORDS.iter().flat_map(|word| {
        let has = value(supported, word);
        let lacks = move |bit: u8| has >> bit & 1 == 0;
        let lacking = word.features.iter().filter(move |(_, bit)| lacks(*bit));
        lacking.map(|(name, _)| *name)
    });
    all.filter(|name| wanted.contains(name)).collect()
}

/// Leaves the features of the model.
pub(super) fn apply(cpuid: &mut CpuId, model: &CpuModel) {
    if model.is_default() {
        return;
    }
    let kept = Kept::new(model);
    let drops = |leaf| {
        let of_feature = LEAVES.iter().find(|(number, _)| *number == leaf);
        let is_off = of_feature.is_some_and(|(_, name)| !kept.has(name));
        is_off || (!model.is_of_host() && NO_LEVEL.contains(&leaf))
    };
    cpuid.retain(|entry| !drops(entry.function));
    for word in WORDS {
        let bits = kept.bits(word);
        for entry in cpuid.as_mut_slice() {
            if (entry.function, entry.index) == (word.leaf, word.index) {
                *register(entry, word.register) &= bits;
            }
        }
    }
    if !model.is_of_host() {
        // The rest of this subleaf is features that no level has.
        let rest = cpuid.as_mut_slice().iter_mut();
        rest.filter(|entry| (entry.function, entry.index) == (7, 1))
            .for_each(|entry| (entry.ebx, entry.ecx) = (0, 0));
    }
    limit_states(cpuid, &kept);
}

/// What stays.
enum Kept {
    /// These features.
    Only(BTreeSet<&'static str>),
    /// All but these.
    Without(BTreeSet<&'static str>),
}

impl Kept {
    fn new(model: &CpuModel) -> Self {
        match model.is_of_host() {
            true => Self::Without(model.off()),
            false => Self::Only(model.features()),
        }
    }

    fn has(&self, name: &str) -> bool {
        match self {
            Self::Only(names) => names.contains(name),
            Self::Without(names) => !names.contains(name),
        }
    }

    /// The bits of a register that stay.
    fn bits(&self, word: &Word) -> u32 {
        let named = |keep: bool| {
            let bits = word
                .features
                .iter()
                .filter(move |(name, _)| self.has(name) == keep);
            bits.fold(0, |all, (_, bit)| all | 1 << bit)
        };
        let place = (word.leaf, word.index, word.register);
        let kept = KEPT.iter().filter(|(l, i, r, _)| (*l, *i, *r) == place);
        let kept = kept.fold(0, |all, (.., bits)| all | bits);
        let repeated = match place {
            (0x8000_0001, 0, Register::Edx) => REPEATED,
            _ => 0,
        };
        match self {
            Self::Only(_) => named(true) | kept | repeated,
            Self::Without(_) => !named(false),
        }
    }
}

/// XSAVE saves the states of features that stay, in an area as long as they need.
fn limit_states(cpuid: &mut CpuId, kept: &Kept) {
    let of_features = STATES.iter().filter(|(name, _)| kept.has(name));
    let mut states = of_features.fold(3, |all, (_, bits)| all | bits);
    if let Kept::Without(_) = kept {
        // Those of features without a name here.
        states |= !STATES.iter().fold(3, |all, (_, bits)| all | bits);
    }
    let has = |index: u32| index < 2 || states.checked_shr(index).is_some_and(|s| s & 1 == 1);
    let supervisor = kept.has("xsaves");
    // States of supervisors (bit 0 of ECX) are not in XCR0.
    cpuid.retain(|entry| {
        let is_of_supervisor = entry.index >= 2 && entry.ecx & 1 == 1;
        let stays = if is_of_supervisor {
            supervisor
        } else {
            has(entry.index)
        };
        entry.function != 0xd || stays
    });
    // The legacy area and the header.
    const SMALLEST: u32 = 576;
    let of_user =
        |entry: &&kvm_cpuid_entry2| entry.function == 0xd && entry.index >= 2 && entry.ecx & 1 == 0;
    let ends = cpuid.as_slice().iter().filter(of_user);
    let size = ends.fold(SMALLEST, |size, entry| size.max(entry.eax + entry.ebx));
    for entry in cpuid.as_mut_slice() {
        match (entry.function, entry.index) {
            (0xd, 0) => {
                entry.eax &= states;
                entry.ecx = size;
            }
            (0xd, 1) if !supervisor => (entry.ecx, entry.edx) = (0, 0),
            _ => {}
        }
    }
}

/// What a register has; 0 if there is no such leaf.
fn value(cpuid: &CpuId, word: &Word) -> u32 {
    let mut entries = cpuid.as_slice().iter();
    let entry = entries.find(|entry| (entry.function, entry.index) == (word.leaf, word.index));
    entry.map_or(0, |entry| *register(&mut entry.clone(), word.register))
}

fn register(entry: &mut kvm_cpuid_entry2, which: Register) -> &mut u32 {
    match which {
        Register::Eax => &mut entry.eax,
        Register::Ebx => &mut entry.ebx,
        Register::Ecx => &mut entry.ecx,
        Register::Edx => &mut entry.edx,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LEAF_D: [(u32, u32); 6] = [(0xd, 0), (0xd, 1), (0xd, 2), (0xd, 5), (0xd, 8), (0xd, 17)];

    /// A host that has everything.
    fn host() -> CpuId {
        let leaves = [
            (1, 0),
            (7, 0),
            (7, 1),
            (0x14, 0),
            (0x1d, 0),
            (0x8000_0001, 0),
        ];
        let entries = leaves.into_iter().chain(LEAF_D).map(|(function, index)| {
            let mut entry = kvm_cpuid_entry2 {
                function,
                index,
                eax: u32::MAX,
                ebx: u32::MAX,
                ecx: u32::MAX,
                edx: u32::MAX,
                ..Default::default()
            };
            if function == 0xd && index >= 2 {
                // Eight bytes for each, one after the other; the ninth is a supervisor's.
                (entry.eax, entry.ebx, entry.ecx) = (8, 576 + 8 * index, u32::from(index == 8));
            }
            entry
        });
        CpuId::from_entries(&entries.collect::<Vec<_>>()).unwrap()
    }

    fn leaf(cpuid: &CpuId, function: u32, index: u32) -> Option<kvm_cpuid_entry2> {
        let mut entries = cpuid.as_slice().iter();
        let found = entries.find(|e| (e.function, e.index) == (function, index));
        found.copied()
    }

    fn guest(model: &str) -> CpuId {
        let mut cpuid = host();
        apply(&mut cpuid, &model.parse().unwrap());
        cpuid
    }

    #[test]
    fn level_has_its_features_and_no_others() {
        let second = guest("x86-64-v2,+aes");
        let first = leaf(&second, 1, 0).unwrap();
        // SSE3, SSSE3, CX16, SSE4.1, SSE4.2, POPCNT and AES, beside what the machine brings along.
        let features = 1 | 1 << 9 | 1 << 13 | 1 << 19 | 1 << 20 | 1 << 23 | 1 << 25;
        assert_eq!(first.ecx, features | KEPT[0].3);
        let seventh = leaf(&second, 7, 0).unwrap();
        assert_eq!((seventh.ebx, seventh.ecx), (0, 0));
        assert_eq!(seventh.edx, 1 << 10 | 0xf << 26 | 1 << 31);
        let of_one = leaf(&second, 7, 1).unwrap();
        assert_eq!((of_one.eax, of_one.ebx, of_one.edx), (0, 0, 0));
        for function in [0xd, 0x14, 0x1d] {
            assert!(leaf(&second, function, 0).is_none(), "{function:#x}");
        }
        let extended = leaf(&second, 0x8000_0001, 0).unwrap();
        assert_eq!((extended.ecx, extended.edx & 1 << 27), (1, 0));
        assert_eq!(extended.edx & (1 << 29 | 1 << 11), 1 << 29 | 1 << 11);
    }

    #[test]
    fn area_of_states_is_as_long_as_those_that_stay() {
        let third = guest("x86-64-v3");
        let states = leaf(&third, 0xd, 0).unwrap();
        assert_eq!((states.eax, states.ecx), (7, 576 + 16 + 8));
        assert!(leaf(&third, 0xd, 5).is_none() && leaf(&third, 0xd, 8).is_none());
        assert_eq!(leaf(&third, 0xd, 1).unwrap().eax, 0);
        let tiles = guest("host,-amx_tile");
        assert_eq!(leaf(&tiles, 0xd, 0).unwrap().eax, !(3 << 17));
        assert!(leaf(&tiles, 0xd, 8).is_some() && leaf(&tiles, 0x1d, 0).is_none());
    }

    #[test]
    fn host_without_a_feature_keeps_all_others() {
        let all = guest("host");
        assert_eq!(all.as_slice(), host().as_slice());
        let without = guest("host,-rdrand");
        assert_eq!(leaf(&without, 1, 0).unwrap().ecx, !(1 << 30));
        assert_eq!(leaf(&without, 7, 0).unwrap().ebx, u32::MAX);
        let no_avx = leaf(&guest("host,-avx"), 7, 0).unwrap();
        assert_eq!(no_avx.ebx & (1 << 5 | 1 << 16 | 1 << 31), 0);
    }

    #[test]
    fn host_that_lacks_features_of_the_model_has_them_named() {
        let mut poor = host();
        for entry in poor.as_mut_slice() {
            match (entry.function, entry.index) {
                (7, 0) => entry.ebx = 0,
                (1, 0) => entry.ecx &= !(1 << 30),
                _ => {}
            }
        }
        let lacking = |model: &str| missing(&poor, &model.parse().unwrap());
        assert_eq!(lacking("x86-64-v3"), ["bmi1", "avx2", "bmi2"]);
        assert_eq!(lacking("x86-64-v2"), [""; 0]);
        assert_eq!(lacking("host,+rdrand"), ["rdrand"]);
        assert_eq!(lacking("x86-64-v3,-avx2,-bmi1,-bmi2"), [""; 0]);
    }
}
