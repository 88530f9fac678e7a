// SPDX-License-Identifier: Apache-2.0
//! A `/proc` of our own, and the real one.

use super::*;

const STATUS: &str = "Name:\tvmm\nUid:\t100001\t100001\t100001\t100001\nNSpid:\t77\t2\n\
    VmRSS:\t    2048 kB\nCapInh:\t0000000000000000\nCapPrm:\t0000000000000000\n\
    CapEff:\t0000000000000000\nCapBnd:\t0000000000000000\nCapAmb:\t0000000000000000\n\
    NoNewPrivs:\t1\nSeccomp:\t2\nSeccomp_filters:\t1\n";

fn process(pid: i32, spawned_ns: u64) -> ProcessInfo {
    let text = format!(
        r#"{{"role":"vmm","pid":{pid},"spawned_ns":{spawned_ns},"first_run_ns":0,
        "pio_exits":0,"mmio_exits":0}}"#
    );
    serde_json::from_str(&text).unwrap()
}

/// A process with number 77, a wicked name, 3 + 4 ticks of processor time, begun at `tick`.
fn proc(tick: u64) -> tempfile::TempDir {
    let proc = tempfile::tempdir().unwrap();
    let dir = proc.path().join("77");
    fs::create_dir(&dir).unwrap();
    let stat = format!("77 (a) S b) S 1 77 77 0 -1 0 0 0 0 0 3 4 0 0 20 0 1 0 {tick} 0 0");
    fs::write(dir.join("stat"), stat).unwrap();
    fs::write(dir.join("status"), STATUS).unwrap();
    fs::write(dir.join("smaps_rollup"), "Rss: 9 kB\nPss:  100 kB\n").unwrap();
    fs::write(proc.path().join("uptime"), "0.00 0.00\n").unwrap();
    proc
}

#[test]
fn process_that_can_be_seen_is_told_in_full() {
    let proc = proc(1000);
    let usage = usage_in(proc.path(), &process(77, 1000 * TICK_NS));
    let wanted = Usage {
        cpu_ns: Some(7 * TICK_NS),
        rss_bytes: Some(2048 * 1024),
        pss_bytes: Some(100 * 1024),
        sandbox: Some(Sandbox {
            uid: 100_001,
            seccomp: true,
            no_new_privs: true,
            no_capabilities: true,
            pid_namespace: true,
        }),
    };
    assert_eq!(usage, wanted);
}

#[test]
fn process_of_another_time_with_the_same_number_is_nobody() {
    let proc = proc(1000);
    for spawned_ns in [0, 500 * TICK_NS, 2000 * TICK_NS] {
        let usage = usage_in(proc.path(), &process(77, spawned_ns));
        assert_eq!(usage, Usage::default(), "{spawned_ns}");
    }
}

#[test]
fn process_hidden_gone_or_unknown_has_no_figures() {
    let proc = proc(0);
    for pid in [78, 0, -1] {
        assert_eq!(usage_in(proc.path(), &process(pid, 0)), Usage::default());
    }
    fs::remove_file(proc.path().join("77/smaps_rollup")).unwrap();
    let usage = usage_in(proc.path(), &process(77, 0));
    assert_eq!(
        (usage.pss_bytes, usage.rss_bytes),
        (None, Some(2048 * 1024))
    );
}

#[test]
fn sandbox_that_is_open_anywhere_shows() {
    type Case = (&'static str, &'static str, fn(&Sandbox) -> bool);
    let cases: [Case; 4] = [
        ("Seccomp:\t2", "Seccomp:\t0", |s| s.seccomp),
        ("NoNewPrivs:\t1", "NoNewPrivs:\t0", |s| s.no_new_privs),
        (
            "CapEff:\t0000000000000000",
            "CapEff:\t0000000000200000",
            |s| s.no_capabilities,
        ),
        ("NSpid:\t77\t2", "NSpid:\t77", |s| s.pid_namespace),
    ];
    for (closed, open, holds) in cases {
        assert!(holds(&Sandbox::parse(STATUS).unwrap()), "{closed}");
        let status = STATUS.replace(closed, open);
        assert!(!holds(&Sandbox::parse(&status).unwrap()), "{open}");
    }
    assert_eq!(Sandbox::parse("Name:\tvmm\n"), None);
}

#[test]
fn process_of_our_own_has_figures() {
    let spawned_ns = host::clock::monotonic_ns();
    let mut child = std::process::Command::new("sleep")
        .arg("60")
        .spawn()
        .unwrap();
    let pid = i32::try_from(child.id()).unwrap();
    let usage = usage(&process(pid, spawned_ns));
    child.kill().unwrap();
    child.wait().unwrap();
    assert!(usage.cpu_ns.is_some() && usage.rss_bytes.is_some_and(|rss| rss > 0));
    assert!(usage.sandbox.is_some_and(|s| !s.seccomp));
}
