// SPDX-License-Identifier: Apache-2.0
//! The system calls of this process while it serves a frontend: one filter for each engine, in
//! `seccomp.json`, compiled at build time.
//!
//! Installed in all threads at once, after the last of them has started.

include!(concat!(env!("OUT_DIR"), "/seccomp.rs"));

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::os::fd::AsRawFd;
    use std::os::unix::process::ExitStatusExt;
    use std::process::{Command, ExitStatus};

    use ipc::fd::blk;
    use ipc::seccomp::Mode;

    const MODE: &str = "BLK_BACKEND_TEST_FALLOCATE_MODE";

    /// What becomes of a process under the filter of `engine=threads` that makes one such call, 4 MiB
    /// beyond the end of an image of one.
    fn calls_with(mode: i32) -> ExitStatus {
        let this = std::env::current_exe().unwrap();
        let test =
            "seccomp::tests::fallocate_of_a_backend_with_threads_allocates_nothing_beyond_the_end";
        let mut command = Command::new(this);
        command.args(["--exact", test, "--nocapture"]);
        command.env(MODE, mode.to_string()).status().unwrap()
    }

    #[allow(unsafe_code)]
    fn call_and_end(mode: i32) -> ! {
        let image = std::env::temp_dir().join(format!("fallocate-{}", std::process::id()));
        let file = File::create(&image).unwrap();
        file.set_len(1 << 20).unwrap();
        std::fs::remove_file(image).unwrap();
        // SAFETY: a number that nothing of this process is at, and open descriptors.
        unsafe { libc::dup2(file.as_raw_fd(), blk::DISK) };
        super::THREADS.install(Mode::Kill).unwrap();
        // SAFETY: no pointers; the descriptor is open.
        let status = unsafe { libc::fallocate(blk::DISK, mode, 4 << 20, 4 << 20) };
        // SAFETY: ends the process at once.
        unsafe { libc::_exit(i32::from(status != 0)) }
    }

    #[test]
    fn fallocate_of_a_backend_with_threads_allocates_nothing_beyond_the_end() {
        if let Ok(mode) = std::env::var(MODE) {
            call_and_end(mode.parse().unwrap());
        }
        let (keep, zero) = (libc::FALLOC_FL_KEEP_SIZE, libc::FALLOC_FL_ZERO_RANGE);
        for mode in [0, keep, zero | keep, libc::FALLOC_FL_COLLAPSE_RANGE] {
            assert_eq!(calls_with(mode).signal(), Some(libc::SIGSYS), "mode {mode}");
        }
        let discard = calls_with(libc::FALLOC_FL_PUNCH_HOLE | keep);
        assert_eq!(discard.signal(), None, "what the backend needs");
    }

    const EXITS: &str = "TEST_EXITS";

    /// An end that takes so long that another thread begins one, too.
    extern "C" fn linger() {
        let begun = std::time::Instant::now();
        while begun.elapsed() < std::time::Duration::from_millis(50) {
            std::hint::spin_loop();
        }
    }

    /// Two threads end the process behind the filter.
    #[allow(unsafe_code)]
    fn exit_twice() -> ! {
        // SAFETY: the function may be called at any time, and does not unwind.
        unsafe { libc::atexit(linger) };
        let together = std::sync::Barrier::new(2);
        std::thread::scope(|scope| {
            let end = || {
                together.wait();
                std::process::exit(0)
            };
            scope.spawn(end);
            super::THREADS.install(Mode::Kill).unwrap();
            end()
        })
    }

    #[test]
    fn two_threads_that_end_the_process_at_once_are_no_offence() {
        if std::env::var_os(EXITS).is_some() {
            exit_twice();
        }
        let this = std::env::current_exe().unwrap();
        let name = "seccomp::tests::two_threads_that_end_the_process_at_once_are_no_offence";
        let ended = Command::new(this)
            .args(["--exact", name, "--nocapture"])
            .env(EXITS, "1")
            .status();
        assert_eq!(ended.unwrap().code(), Some(0));
    }
}
