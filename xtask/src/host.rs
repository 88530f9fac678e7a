// SPDX-License-Identifier: Apache-2.0
//! Where guests run: on this machine's `/dev/kvm`, or in the lab.

use std::fs;
use std::path::Path;

use anyhow::{Result, ensure};

use crate::arch::Arch;
use crate::lab::InnerHost;
use crate::{PlaceFlags, progress};

/// The choice.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Place {
    Native,
    Lab(&'static InnerHost),
}

impl Place {
    /// What programs run there.
    pub(crate) fn arch(self) -> Arch {
        match self {
            Self::Native => Arch::own(),
            Self::Lab(host) => host.arch,
        }
    }
}

/// Chooses, and says what and why.
pub(crate) fn choose(flags: &PlaceFlags) -> Result<Place> {
    let inner = flags.inner.host()?;
    let machine = Machine {
        is_wanted: inner.arch.is_own() && flags.inner.host.is_none(),
        cpuinfo: fs::read_to_string("/proc/cpuinfo").unwrap_or_default(),
        has_kvm: Path::new("/dev/kvm").exists(),
    };
    let (is_native, why) = decide(flags, inner.arch, &machine)?;
    progress::say(if is_native {
        format!("guests run on this machine's /dev/kvm: {why}")
    } else {
        let InnerHost { arch, name, .. } = inner;
        format!("guests run in the lab, an inner host emulated in software ({arch}, {name}): {why}")
    });
    Ok(if is_native {
        Place::Native
    } else {
        Place::Lab(inner)
    })
}

/// What counts about this machine.
struct Machine {
    /// Whether it is of the architecture that is wanted, and no inner host was named.
    is_wanted: bool,
    cpuinfo: String,
    has_kvm: bool,
}

/// Whether guests run here, and why. An x86_64 machine may have a KVM that emulates instructions, which
/// is too slow for guests; what its processor can is in its flags.
fn decide(flags: &PlaceFlags, arch: Arch, machine: &Machine) -> Result<(bool, &'static str)> {
    ensure!(
        machine.is_wanted || !flags.native,
        "--native: guests of {arch} do not run on this machine, or an inner host was named"
    );
    let has = |flag: &str| machine.cpuinfo.split_whitespace().any(|word| word == flag);
    Ok(match arch {
        _ if flags.lab => (false, "--lab was given"),
        _ if flags.native => (true, "--native was given"),
        _ if !machine.is_wanted => (false, "it was asked for"),
        Arch::X86_64 if has("svm") => (true, "the processor has svm"),
        Arch::X86_64 if has("vmx") => (true, "the processor has vmx"),
        Arch::X86_64 => (false, "the processor's flags show neither svm nor vmx"),
        _ if machine.has_kvm => (true, "it is there"),
        _ => (false, "there is no /dev/kvm"),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::InnerFlags;

    fn flags(lab: bool, native: bool) -> PlaceFlags {
        let (arch, host) = (None, None);
        PlaceFlags {
            lab,
            native,
            inner: InnerFlags { arch, host },
        }
    }

    fn machine(cpuinfo: &str) -> Machine {
        Machine {
            is_wanted: true,
            cpuinfo: cpuinfo.to_owned(),
            has_kvm: true,
        }
    }

    fn is_native(flags: &PlaceFlags, arch: Arch, machine: &Machine) -> bool {
        decide(flags, arch, machine).unwrap().0
    }

    #[test]
    fn processor_with_svm_runs_guests_natively() {
        let (none, with) = (flags(false, false), machine("flags : fpu svm nx"));
        assert!(is_native(&none, Arch::X86_64, &with));
    }

    #[test]
    fn processor_without_virtualisation_runs_guests_in_the_lab() {
        let (none, without) = (flags(false, false), machine("flags : fpu nx svmlike"));
        assert!(!is_native(&none, Arch::X86_64, &without));
        assert!(is_native(&none, Arch::Aarch64, &without));
    }

    #[test]
    fn flag_wins_over_the_processor() {
        let with = machine("flags : svm");
        assert!(!is_native(&flags(true, false), Arch::X86_64, &with));
    }

    #[test]
    fn guests_of_another_architecture_run_in_the_lab_only() {
        let other = Machine {
            is_wanted: false,
            ..machine("flags : svm")
        };
        assert!(!is_native(&flags(false, false), Arch::Riscv64, &other));
        assert!(decide(&flags(false, true), Arch::Riscv64, &other).is_err());
    }
}
