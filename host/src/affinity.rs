// SPDX-License-Identifier: Apache-2.0
//! On which processors a thread runs (sched_setaffinity(2)).

use ipc::cpu_set::CpuSet;
use rustix::io::Errno;
use rustix::thread::{CpuSet as Mask, sched_getaffinity, sched_setaffinity};

/// The set as the kernel takes it.
pub fn mask(set: &CpuSet) -> Mask {
    let mut mask = Mask::new();
    set.cpus().for_each(|cpu| mask.set(cpu));
    mask
}

/// Has this thread, and those that it starts from now on, run on these processors alone. Of those that
/// the host lacks or the thread's control group forbids the kernel makes nothing.
///
/// # Errors
/// EINVAL if none of them is left.
pub fn place(set: &CpuSet) -> Result<(), Errno> {
    sched_setaffinity(None, &mask(set))
}

/// Where this thread may run now.
///
/// # Errors
/// EINVAL if the host has more processors than a set can hold.
pub fn current() -> Result<CpuSet, Errno> {
    let mask = sched_getaffinity(None)?;
    let mut set = CpuSet::EMPTY;
    (0..Mask::MAX_CPU)
        .filter(|cpu| mask.is_set(*cpu))
        .for_each(|cpu| {
            set.add(cpu);
        });
    Ok(set)
}

/// Where this thread could run at most, in the control group that it is in.
///
/// # Errors
/// As [`current`]; the thread runs where it ran before in any case.
pub fn allowed() -> Result<CpuSet, Errno> {
    let now = current()?;
    let mut all = CpuSet::EMPTY;
    (0..Mask::MAX_CPU).for_each(|cpu| {
        all.add(cpu);
    });
    place(&all)?;
    let allowed = current();
    place(&now)?;
    allowed
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn thread_is_placed_and_may_come_back() {
        let thread = std::thread::spawn(|| {
            let before = current().unwrap();
            let first = before.cpus().next().unwrap();
            let mut one = CpuSet::EMPTY;
            one.add(first);
            place(&one).unwrap();
            assert_eq!(current().unwrap(), one);
            let allowed = allowed().unwrap();
            assert!(before.without(&allowed).is_empty(), "{before} {allowed}");
            assert_eq!(current().unwrap(), one);
            assert_eq!(place(&CpuSet::EMPTY), Err(Errno::INVAL));
        });
        thread.join().unwrap();
    }
}
