// SPDX-License-Identifier: Apache-2.0
//! The features of a processor that a model of one can have, by the names that Linux shows in
//! /proc/cpuinfo, with their bits in CPUID (Intel SDM volume 2 "CPUID", AMD APM volume 3 appendix E), and
//! which feature needs which.

/// A register that CPUID returns.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Register {
    /// EAX.
    Eax,
    /// EBX.
    Ebx,
    /// ECX.
    Ecx,
    /// EDX.
    Edx,
}

/// A register that a leaf of CPUID returns, and the names of its bits.
#[derive(Debug)]
pub struct Word {
    /// The leaf.
    pub leaf: u32,
    /// The subleaf.
    pub index: u32,
    /// The register.
    pub register: Register,
    /// Name and bit of each feature.
    pub features: &'static [(&'static str, u8)],
}

use Register::{Eax, Ebx, Ecx, Edx};

const fn word(
    leaf: u32,
    index: u32,
    register: Register,
    features: &'static [(&'static str, u8)],
) -> Word {
    Word {
        leaf,
        index,
        register,
        features,
    }
}

/// All of them.
pub const WORDS: &[Word] = &[
    word(
        1,
        0,
        Edx,
        &[
            ("fpu", 0),
            ("vme", 1),
            ("de", 2),
            ("pse", 3),
            ("tsc", 4),
            ("msr", 5),
            ("pae", 6),
            ("mce", 7),
            ("cx8", 8),
            ("apic", 9),
            ("sep", 11),
            ("mtrr", 12),
            ("pge", 13),
            ("mca", 14),
            ("cmov", 15),
            ("pat", 16),
            ("pse36", 17),
            ("clflush", 19),
            ("mmx", 23),
            ("fxsr", 24),
            ("sse", 25),
            ("sse2", 26),
            ("ss", 27),
        ],
    ),
    word(
        1,
        0,
        Ecx,
        &[
            ("pni", 0),
            ("pclmulqdq", 1),
            ("ssse3", 9),
            ("fma", 12),
            ("cx16", 13),
            ("pcid", 17),
            ("sse4_1", 19),
            ("sse4_2", 20),
            ("movbe", 22),
            ("popcnt", 23),
            ("aes", 25),
            ("xsave", 26),
            ("avx", 28),
            ("f16c", 29),
            ("rdrand", 30),
        ],
    ),
    word(
        7,
        0,
        Ebx,
        &[
            ("fsgsbase", 0),
            ("tsc_adjust", 1),
            ("bmi1", 3),
            ("hle", 4),
            ("avx2", 5),
            ("smep", 7),
            ("bmi2", 8),
            ("erms", 9),
            ("invpcid", 10),
            ("rtm", 11),
            ("mpx", 14),
            ("avx512f", 16),
            ("avx512dq", 17),
            ("rdseed", 18),
            ("adx", 19),
            ("smap", 20),
            ("avx512ifma", 21),
            ("clflushopt", 23),
            ("clwb", 24),
            ("avx512pf", 26),
            ("avx512er", 27),
            ("avx512cd", 28),
            ("sha_ni", 29),
            ("avx512bw", 30),
            ("avx512vl", 31),
        ],
    ),
    word(
        7,
        0,
        Ecx,
        &[
            ("avx512vbmi", 1),
            ("umip", 2),
            ("pku", 3),
            ("waitpkg", 5),
            ("avx512_vbmi2", 6),
            ("gfni", 8),
            ("vaes", 9),
            ("vpclmulqdq", 10),
            ("avx512_vnni", 11),
            ("avx512_bitalg", 12),
            ("avx512_vpopcntdq", 14),
            ("la57", 16),
            ("rdpid", 22),
            ("cldemote", 25),
            ("movdiri", 27),
            ("movdir64b", 28),
        ],
    ),
    word(
        7,
        0,
        Edx,
        &[
            ("avx512_4vnniw", 2),
            ("avx512_4fmaps", 3),
            ("fsrm", 4),
            ("avx512_vp2intersect", 8),
            ("serialize", 14),
            ("tsxldtrk", 16),
            ("amx_bf16", 22),
            ("avx512_fp16", 23),
            ("amx_tile", 24),
            ("amx_int8", 25),
        ],
    ),
    word(
        7,
        1,
        Eax,
        &[
            ("avx_vnni", 4),
            ("avx512_bf16", 5),
            ("fzrm", 10),
            ("fsrs", 11),
            ("fsrc", 12),
            ("amx_fp16", 21),
            ("avx_ifma", 23),
        ],
    ),
    word(
        7,
        1,
        Edx,
        &[
            ("avx_vnni_int8", 4),
            ("avx_ne_convert", 5),
            ("amx_complex", 8),
            ("prefetchi", 14),
        ],
    ),
    word(
        0xd,
        1,
        Eax,
        &[
            ("xsaveopt", 0),
            ("xsavec", 1),
            ("xgetbv1", 2),
            ("xsaves", 3),
        ],
    ),
    word(
        0x8000_0001,
        0,
        Edx,
        &[
            ("syscall", 11),
            ("nx", 20),
            ("mmxext", 22),
            ("fxsr_opt", 25),
            ("pdpe1gb", 26),
            ("rdtscp", 27),
            ("lm", 29),
            ("3dnowext", 30),
            ("3dnow", 31),
        ],
    ),
    word(
        0x8000_0001,
        0,
        Ecx,
        &[
            ("lahf_lm", 0),
            ("cmp_legacy", 1),
            ("cr8_legacy", 4),
            ("abm", 5),
            ("sse4a", 6),
            ("misalignsse", 7),
            ("3dnowprefetch", 8),
            ("osvw", 9),
            ("xop", 11),
            ("fma4", 16),
            ("tbm", 21),
        ],
    ),
];

/// What every level begins with. But for [`SPARED`], no system of x86-64 runs without it.
pub const BASE: &[&str] = &[
    "fpu", "vme", "de", "pse", "tsc", "msr", "pae", "mce", "cx8", "apic", "sep", "mtrr", "pge",
    "mca", "cmov", "pat", "pse36", "clflush", "mmx", "fxsr", "sse", "sse2", "syscall", "nx", "lm",
];
/// What of [`BASE`] a guest does without, and has only if the host has it: the levels of the psABI do
/// not name it, and emulated processors lack some.
pub const SPARED: &[&str] = &["vme", "de", "mce", "sep", "mtrr", "mca", "pse36"];
/// What the second level of the psABI for x86-64 adds.
pub const LEVEL_2: &[&str] = &[
    "pni", "cx16", "ssse3", "sse4_1", "sse4_2", "popcnt", "lahf_lm",
];
/// What its third level adds.
pub const LEVEL_3: &[&str] = &[
    "avx", "avx2", "bmi1", "bmi2", "f16c", "fma", "abm", "movbe", "xsave",
];

/// Other names of features.
pub const ALIASES: &[(&str, &str)] = &[
    ("sse3", "pni"),
    ("lzcnt", "abm"),
    ("pclmul", "pclmulqdq"),
    ("sha", "sha_ni"),
    ("pdpe1g", "pdpe1gb"),
];

/// What each feature needs; one whose name begins with `avx512` also needs `avx512f`, and one whose
/// name begins with `amx_` also `amx_tile`.
const NEEDS: &[(&str, &str)] = &[
    ("ssse3", "pni"),
    ("sse4_1", "ssse3"),
    ("sse4_2", "sse4_1"),
    ("avx", "xsave"),
    ("avx", "sse4_2"),
    ("xsaveopt", "xsave"),
    ("xsavec", "xsave"),
    ("xgetbv1", "xsave"),
    ("xsaves", "xsavec"),
    ("pku", "xsave"),
    ("mpx", "xsave"),
    ("amx_tile", "xsave"),
    ("avx2", "avx"),
    ("f16c", "avx"),
    ("fma", "avx"),
    ("vaes", "avx"),
    ("vpclmulqdq", "avx"),
    ("xop", "avx"),
    ("fma4", "avx"),
    ("avx_vnni", "avx2"),
    ("avx_ifma", "avx2"),
    ("avx_vnni_int8", "avx2"),
    ("avx_ne_convert", "avx2"),
    ("avx512f", "avx2"),
];

/// The features that `feature` needs.
pub fn needs(feature: &str) -> impl Iterator<Item = &'static str> {
    let listed = NEEDS.iter().filter(move |(name, _)| *name == feature);
    let families = [("avx512", "avx512f"), ("amx_", "amx_tile")];
    let family = families
        .into_iter()
        .filter(move |(start, first)| feature.starts_with(start) && feature != *first);
    listed
        .map(|(_, needed)| *needed)
        .chain(family.map(|(_, first)| first))
}

/// The name as the table has it.
pub fn find(name: &str) -> Option<&'static str> {
    let name = ALIASES
        .iter()
        .find(|(alias, _)| *alias == name)
        .map_or(name, |(_, real)| real);
    names().find(|known| *known == name)
}

/// All names.
pub fn names() -> impl Iterator<Item = &'static str> {
    let words = WORDS.iter().flat_map(|word| word.features);
    words.map(|(name, _)| *name)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn no_name_and_no_bit_is_there_twice_and_every_name_is_known() {
        let all: BTreeSet<_> = names().collect();
        assert_eq!(all.len(), names().count());
        for word in WORDS {
            let bits: BTreeSet<_> = word.features.iter().map(|(_, bit)| bit).collect();
            assert_eq!(bits.len(), word.features.len());
            assert!(bits.iter().all(|bit| **bit < 32));
        }
        let levels = [BASE, LEVEL_2, LEVEL_3].concat();
        let real = ALIASES.iter().map(|(_, real)| *real);
        let parts = NEEDS.iter().flat_map(|(name, needed)| [*name, *needed]);
        for name in levels.into_iter().chain(real).chain(parts) {
            assert!(all.contains(name), "{name}");
        }
    }

    #[test]
    fn each_level_has_what_its_features_need() {
        let third = [BASE, LEVEL_2, LEVEL_3].concat();
        for level in [[BASE, LEVEL_2].concat(), third] {
            for needed in level.iter().flat_map(|name| needs(name)) {
                assert!(level.contains(&needed), "{needed}");
            }
        }
        assert_eq!(needs("avx512vl").collect::<Vec<_>>(), ["avx512f"]);
    }
}
