// SPDX-License-Identifier: Apache-2.0
//! What the jailer says differently on each architecture.

/// What to do where /dev/kvm is missing, on an architecture as in [`std::env::consts::ARCH`].
pub(crate) fn kvm_missing(arch: &str) -> &'static str {
    match arch {
        "aarch64" => {
            "is missing: this kernel was not booted in EL2, where KVM has to be (in a VM: enable \
             nested virtualisation; in a container: pass the device)"
        }
        "riscv64" => {
            "is missing: load the module kvm, which needs a processor with the H extension (in a VM: \
             enable nested virtualisation; in a container: pass the device)"
        }
        _ => {
            "is missing: load the module kvm_intel or kvm_amd (in a VM: enable nested \
             virtualisation; in a container: pass the device)"
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn remedy_is_that_of_the_architecture() {
        assert!(kvm_missing("x86_64").contains("kvm_amd"));
        assert!(kvm_missing("aarch64").contains("EL2"));
        assert!(kvm_missing("riscv64").contains("H extension"));
    }
}
