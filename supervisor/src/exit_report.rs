// SPDX-License-Identifier: Apache-2.0
//! What the user is told about the end of a VM, an exit status and one line that names the cause, and
//! about the end of a backend.

use handover::outcome::Outcome;
use host::log::entry::as_text;
use host::seccomp::call_name;
use ipc::broker::{Reason, Status};
use ipc::control::{About, Failure};
use ipc::health::Crash;
use nix::sys::signal::Signal;
use spec::{ByteSize, SpecError, Vm};

use super::death::Death;
use super::lifecycle::{Force, Reset, VmOutcome};

/// How many of the log's last lines are shown when a vmm died without a message.
const TAIL_LINES: usize = 10;

/// What the user is told about a triple fault.
pub(crate) const TRIPLE_FAULT: &str = "the guest crashed: a triple fault";

/// What the user is told about a guest that KVM cannot run on, and how the vmm's log tells where.
const CRASHED: &str = "the guest crashed: a state that KVM cannot run";
const CRASHED_ON: &str = "the guest crashed on vCPU ";

/// What the user is told about a guest that starts anew; nothing if it has reset itself.
pub(crate) fn reset(reset: Reset) -> String {
    match reset {
        Reset::Guest => String::new(),
        Reset::TripleFault => TRIPLE_FAULT.into(),
        Reset::Asked => "it was asked to power off, and has".into(),
        Reset::Forced => "it was reset by force".into(),
        Reset::Timeout(seconds) => format!("it did not power off within {seconds} s: reset"),
    }
}

/// What the supervisor knows about a dead vmm.
#[derive(Debug)]
pub(crate) struct ExitContext<'a> {
    /// The validated spec.
    pub(crate) vm: &'a Vm,
    /// What the vmm recorded in its health page.
    pub(crate) crash: Crash,
    /// What was logged since the vmm was started.
    pub(crate) log: String,
}

/// The outcome of a VM that ended in this way.
pub(crate) fn outcome(outcome_of_vm: VmOutcome, context: &ExitContext<'_>) -> Outcome {
    let told = |status, line: String| Outcome::new(status, [line]);
    match outcome_of_vm {
        VmOutcome::Finished => Outcome::ok(),
        VmOutcome::Rebooted => Outcome::ok().because(Reason::Reboot),
        VmOutcome::Stopped(Force::Asked) => Outcome::ok().because(Reason::Force),
        VmOutcome::Stopped(Force::Signal(number)) => {
            Outcome::new(Status::Signal(u8::try_from(number).unwrap_or(0)), [""; 0])
        }
        VmOutcome::Stopped(Force::Timeout(seconds)) => told(
            Status::Ok,
            format!("the guest did not power off within {seconds} s: ended"),
        )
        .because(Reason::Timeout),
        VmOutcome::Panicked => {
            told(Status::Guest, "the guest's kernel panicked".into()).because(Reason::Panic)
        }
        VmOutcome::TripleFault => told(Status::Guest, TRIPLE_FAULT.into()),
        VmOutcome::Crashed => {
            let mut crashed = Outcome::new(Status::Guest, [CRASHED]);
            let place = context.log.lines().rfind(|line| line.contains(CRASHED_ON));
            crashed
                .lines
                .extend(place.map(|line| format!("log: {line}")));
            crashed
        }
        VmOutcome::RebootLoop { runs, faulted } => {
            let last = if faulted {
                TRIPLE_FAULT
            } else {
                "a reboot loop"
            };
            let line = format!("{last}: {runs} resets in a row within 30 s of the start: ended");
            told(Status::Guest, line).because(Reason::RebootStorm)
        }
        VmOutcome::Failed(failure) => told(Status::Error, failed(&failure, context.vm)),
        VmOutcome::Malformed(what) => told(Status::Error, format!("the vmm was killed: {what}")),
        VmOutcome::Died(death) => {
            let line = format!("the vmm {}", died(death, context.crash));
            with_log(&line, context)
        }
    }
}

/// An error, and the last lines of the log.
pub(crate) fn with_log(line: &str, context: &ExitContext<'_>) -> Outcome {
    let mut outcome = Outcome::new(Status::Error, [line]);
    let lines = context.log.lines().map(as_text);
    let lines: Vec<_> = lines.filter(|line| !is_ours(line)).collect();
    let tail = lines.iter().skip(lines.len().saturating_sub(TAIL_LINES));
    let tail = tail.map(|line| format!("log: {line}"));
    outcome.lines.extend(tail);
    outcome
}

/// Whether a line of the log is the supervisor's own and tells nothing new.
fn is_ours(line: &str) -> bool {
    let behind_time = line.split_once("] ").map(|(_, rest)| rest);
    behind_time.is_some_and(|rest| rest.starts_with("supervisor "))
}

/// The vmm's reason, with the part of the spec that it is about, as the user wrote it.
fn failed(failure: &Failure, vm: &Vm) -> String {
    let reason = failure.reason.trim();
    let about = |field, value: String| SpecError::new(field, value, reason).to_string();
    match failure.about {
        Some(About::Kernel) => about("kernel", vm.kernel.display().to_string()),
        Some(About::Initrd) => {
            let initrd = vm.initrd.as_deref().unwrap_or("".as_ref());
            about("initrd", initrd.display().to_string())
        }
        Some(About::Mem) => about("mem", ByteSize(vm.memory.size_bytes()).to_string()),
        Some(About::Cpu) => about("cpu", vm.cpu.to_string()),
        Some(About::Cpus) => about("cpus", vm.cpus.to_string()),
        Some(About::Irqchip) => about("irqchip", vm.irqchip.to_string()),
        Some(About::Kvm) => about("kvm", "/dev/kvm".into()),
        None => format!("the vmm cannot go on: {reason}"),
    }
}

/// How a vmm ended.
fn died(death: Death, crash: Crash) -> String {
    match (crash, death) {
        (Crash::Syscall(_), _) => recorded(crash),
        (_, Death::Signalled(Signal::SIGSYS)) => {
            "was killed by its seccomp filter (SIGSYS); --seccomp log names the system call".into()
        }
        (Crash::Panic, _) => recorded(crash),
        // Only a disk's backend can die of its io_uring.
        (Crash::None | Crash::Engine(_), Death::Exited(_)) => format!("{death} without a word"),
        (Crash::None | Crash::Engine(_), _) => death.to_string(),
    }
}

/// How a backend ended.
pub(crate) fn backend_died(death: Death, crash: Crash) -> String {
    match crash {
        Crash::None => death.to_string(),
        crash => recorded(crash),
    }
}

/// What a process has recorded about its own death.
fn recorded(crash: Crash) -> String {
    match crash {
        Crash::None => String::new(),
        Crash::Panic => "panicked".into(),
        Crash::Engine(errno) => {
            let errno = std::io::Error::from_raw_os_error(errno.try_into().unwrap_or(0));
            format!("could not use its io_uring any more: {errno}")
        }
        Crash::Syscall(number) => {
            let name = call_name(number);
            format!("was stopped by its seccomp filter, which lacks {name} ({number})")
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use spec::VmSpec;
    use std::process::ExitCode;

    fn outcome_of(outcome_of_vm: VmOutcome, crash: Crash, log: &str) -> Outcome {
        let mut spec = VmSpec::new("/boot/kernel");
        spec.initrd = Some("/boot/initrd".into());
        let vm = Vm::try_from(spec).unwrap();
        let log = log.to_string();
        outcome(
            outcome_of_vm,
            &ExitContext {
                vm: &vm,
                crash,
                log,
            },
        )
    }

    fn failure(about: Option<About>) -> VmOutcome {
        VmOutcome::Failed(Failure {
            about,
            reason: "not a kernel\n".into(),
        })
    }

    #[test]
    fn failure_about_the_spec_names_field_and_value() {
        for (about, start) in [
            (Some(About::Kernel), "kernel \"/boot/kernel\": not a"),
            (Some(About::Initrd), "initrd \"/boot/initrd\": not a"),
            (Some(About::Mem), "mem \"512M\": "),
            (Some(About::Cpus), "cpus \"1\": "),
            (Some(About::Cpu), "cpu \"host\": "),
            (Some(About::Kvm), "kvm \"/dev/kvm\": "),
            (None, "the vmm cannot go on: not a"),
        ] {
            let told = outcome_of(failure(about), Crash::None, "");
            assert_eq!((told.status, told.lines.len()), (Status::Error, 1));
            assert!(told.lines[0].starts_with(start), "{told:?}");
        }
    }

    #[test]
    fn guest_faults_exit_with_their_own_status_and_one_line() {
        let storm = |faulted| VmOutcome::RebootLoop { runs: 5, faulted };
        let fates = [
            VmOutcome::Panicked,
            VmOutcome::Crashed,
            VmOutcome::TripleFault,
        ];
        for outcome_of_vm in fates.into_iter().chain([storm(true), storm(false)]) {
            let told = outcome_of(outcome_of_vm, Crash::None, "noise\n");
            assert_eq!((told.status, told.lines.len()), (Status::Guest, 1));
        }
        assert_eq!(
            outcome_of(VmOutcome::Finished, Crash::None, "x"),
            Outcome::ok()
        );
        let asked = VmOutcome::Stopped(Force::Asked);
        let told = outcome_of(asked, Crash::None, "x");
        assert_eq!(told, Outcome::ok().because(Reason::Force));
    }

    #[test]
    fn each_end_has_its_reason() {
        let killed = Death::Signalled(Signal::SIGKILL);
        let storm = VmOutcome::RebootLoop {
            runs: 5,
            faulted: false,
        };
        for (outcome_of_vm, reason) in [
            (VmOutcome::Finished, Reason::PowerOff),
            (VmOutcome::Rebooted, Reason::Reboot),
            (VmOutcome::Panicked, Reason::Panic),
            (VmOutcome::Crashed, Reason::Crash),
            (VmOutcome::TripleFault, Reason::Crash),
            (storm, Reason::RebootStorm),
            (VmOutcome::Stopped(Force::Asked), Reason::Force),
            (VmOutcome::Stopped(Force::Timeout(1)), Reason::Timeout),
            (VmOutcome::Stopped(Force::Signal(1)), Reason::Signal),
            (failure(None), Reason::HostError),
            (VmOutcome::Malformed("x".into()), Reason::HostError),
            (VmOutcome::Died(killed), Reason::HostError),
        ] {
            let told = outcome_of(outcome_of_vm, Crash::None, "");
            assert_eq!(told.reason, reason, "{told:?}");
        }
    }

    #[test]
    fn vm_ended_by_a_signal_says_which_and_by_a_timeout_how_long_it_was() {
        let ended = |force| outcome_of(VmOutcome::Stopped(force), Crash::None, "x");
        let by_signal = ended(Force::Signal(libc::SIGHUP));
        assert_eq!(by_signal.status, Status::Signal(1));
        assert_eq!(ExitCode::from(by_signal.status), ExitCode::from(129));
        let late = ended(Force::Timeout(90));
        assert_eq!(late.status, Status::Ok);
        assert!(late.lines[0].contains("within 90 s"), "{late:?}");
    }

    #[test]
    fn silent_death_tells_what_killed_the_vmm() {
        let killed = |signal| VmOutcome::Died(Death::Signalled(signal));
        for (outcome_of_vm, crash, told) in [
            (killed(Signal::SIGKILL), Crash::None, "killed by SIGKILL"),
            (killed(Signal::SIGSYS), Crash::None, "--seccomp log"),
            (killed(Signal::SIGBUS), Crash::None, "a page of memory"),
            (
                VmOutcome::Died(Death::Exited(159)),
                Crash::Syscall(257),
                "(257)",
            ),
            (killed(Signal::SIGABRT), Crash::Panic, "panicked"),
            (
                VmOutcome::Died(Death::Exited(0)),
                Crash::None,
                "without a word",
            ),
        ] {
            let line = &outcome_of(outcome_of_vm, crash, "").lines[0];
            assert!(line.contains(told), "{line}");
        }
    }

    #[test]
    fn crash_shows_the_line_of_the_log_that_tells_where() {
        let place = "[  1.000000] vmm WARN the guest crashed on vCPU 1: KVM_RUN: EIO (5): pc 0x10";
        let log = format!("noise\n{place}\nmore noise\n");
        let lines = outcome_of(VmOutcome::Crashed, Crash::None, &log).lines;
        assert_eq!(lines, [CRASHED.to_owned(), format!("log: {place}")]);
    }

    #[test]
    fn silent_death_shows_the_last_lines_of_the_log() {
        let mut log: String = (0..30).map(|n| format!("line {n}\n")).collect();
        log.push_str("[  12.345678] supervisor INFO the vmm is gone vm_id=a\n");
        let outcome_of_vm = VmOutcome::Died(Death::Exited(1));
        let lines = outcome_of(outcome_of_vm, Crash::None, &log).lines;
        assert_eq!(lines.len(), 1 + TAIL_LINES);
        assert_eq!(lines[TAIL_LINES], "log: line 29");
    }
}
