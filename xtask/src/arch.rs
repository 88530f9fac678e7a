// SPDX-License-Identifier: Apache-2.0
//! The architectures that programs are built for and guests run on, and how others name them.

/// An architecture.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Arch {
    #[value(name = "x86_64")]
    X86_64,
    Aarch64,
    Riscv64,
}

/// How others name an architecture.
pub(crate) struct Names {
    /// In Rust's targets.
    pub(crate) rust: &'static str,
    /// In Debian's packages.
    pub(crate) debian: &'static str,
    /// Debian's directory for libraries, below `usr/lib`, and prefix of compilers.
    pub(crate) gnu: &'static str,
    /// glibc's dynamic loader.
    pub(crate) loader: &'static str,
}

impl Arch {
    /// This machine's.
    pub(crate) fn own() -> Self {
        // Nothing else is built for: the crates in the tree have no code for others.
        match std::env::consts::ARCH {
            "aarch64" => Self::Aarch64,
            "riscv64" => Self::Riscv64,
            _ => Self::X86_64,
        }
    }

    pub(crate) fn is_own(self) -> bool {
        self == Self::own()
    }

    /// How others name it.
    pub(crate) fn names(self) -> &'static Names {
        match self {
            Self::X86_64 => &Names {
                rust: "x86_64",
                debian: "amd64",
                gnu: "x86_64-linux-gnu",
                loader: "usr/lib64/ld-linux-x86-64.so.2",
            },
            Self::Aarch64 => &Names {
                rust: "aarch64",
                debian: "arm64",
                gnu: "aarch64-linux-gnu",
                loader: "usr/lib/ld-linux-aarch64.so.1",
            },
            Self::Riscv64 => &Names {
                rust: "riscv64gc",
                debian: "riscv64",
                gnu: "riscv64-linux-gnu",
                loader: "usr/lib/ld-linux-riscv64-lp64d.so.1",
            },
        }
    }
}

impl std::fmt::Display for Arch {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::X86_64 => "x86_64",
            Self::Aarch64 => "aarch64",
            Self::Riscv64 => "riscv64",
        })
    }
}
