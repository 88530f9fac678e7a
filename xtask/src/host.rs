// SPDX-License-Identifier: Apache-2.0
//! Where guests run: on this machine's `/dev/kvm`, or in the lab.

use std::fs;

use crate::{PlaceFlags, progress};

/// The choice.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Place {
    Native,
    Lab,
}

/// Chooses, and says what and why.
pub(crate) fn choose(flags: PlaceFlags) -> Place {
    let (place, why) = decide(
        flags,
        &fs::read_to_string("/proc/cpuinfo").unwrap_or_default(),
    );
    progress::say(match place {
        Place::Native => format!("guests run on this machine's /dev/kvm: {why}"),
        Place::Lab => format!("guests run in the lab, an inner host emulated in software: {why}"),
    });
    place
}

fn decide(flags: PlaceFlags, cpuinfo: &str) -> (Place, &'static str) {
    let mut words = cpuinfo.split_whitespace();
    match (flags.lab, flags.native) {
        (true, _) => (Place::Lab, "--lab was given"),
        (_, true) => (Place::Native, "--native was given"),
        _ => match words.find(|word| ["svm", "vmx"].contains(word)) {
            Some("svm") => (Place::Native, "the processor has svm"),
            Some(_) => (Place::Native, "the processor has vmx"),
            None => (Place::Lab, "the processor's flags show neither svm nor vmx"),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NO_FLAG: PlaceFlags = PlaceFlags {
        lab: false,
        native: false,
    };

    #[test]
    fn processor_with_svm_runs_guests_natively() {
        assert_eq!(decide(NO_FLAG, "flags : fpu svm nx").0, Place::Native);
    }

    #[test]
    fn processor_without_virtualisation_runs_guests_in_the_lab() {
        assert_eq!(decide(NO_FLAG, "flags : fpu nx svmlike").0, Place::Lab);
    }

    #[test]
    fn flag_wins_over_the_processor() {
        let flags = PlaceFlags {
            lab: true,
            native: false,
        };

        assert_eq!(decide(flags, "flags : svm").0, Place::Lab);
    }
}
