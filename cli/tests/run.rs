// SPDX-License-Identifier: Apache-2.0
//! `bulkhead run`: what it shows, how it ends, and what it refuses.

mod stage;

use std::fs;
use std::io::Read;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::UnixListener;
use std::process::Stdio;

use nix::sys::signal::Signal;
use nix::sys::stat::Mode;
use nix::unistd::mkfifo;
use stage::{Stage, eventually, is_alive};

#[test]
fn exit_status_is_the_jailers_and_it_alone_speaks() {
    let stage = Stage::new();
    for (script, status, parts) in [
        ("started off", 0, &[][..]),
        ("started panic", 3, &["jailer: the guest's kernel panicked"]),
        ("fail=kernel", 1, &["jailer: kernel \"kernel\": is not"]),
        ("started abort", 1, &["jailer: the vmm was killed"]),
    ] {
        stage.start(script, &[]).wait().assert_told(status, parts);
        stage.assert_clean();
    }
}

#[test]
fn output_arrives_in_full_before_the_exit() {
    let stage = Stage::new();
    let len = 1 << 20;
    let ended = stage.start(&format!("started flood={len} off"), &[]).wait();
    ended.assert_told(0, &[]);
    let numbers = ended.stdout.lines().map(|l| l.parse::<usize>().unwrap());
    assert!(numbers.eq(0..len / 16));
}

#[test]
fn input_is_typed_and_its_end_changes_nothing() {
    let stage = Stage::new();
    let mut command = stage.run("started console", &[]);
    let mut vm = stage::Running(command.stdin(Stdio::piped()).spawn().unwrap());
    vm.type_in("say=one\nsay=two\noff\n");
    drop(vm.0.stdin.take());
    let ended = vm.wait();
    ended.assert_told(0, &[]);
    assert_eq!(ended.stdout, "onetwo");
}

#[test]
fn reader_that_leaves_does_not_end_the_vm() {
    let stage = Stage::new();
    let mut vm = stage.start("started say=hello flood=1000000 button off", &[]);
    let mut seen = [0; 5];
    let mut stdout = vm.0.stdout.take().unwrap();
    stdout.read_exact(&mut seen).unwrap();
    drop(stdout);
    stage.reach("running");
    stage.do_it(&["stop", "vm"]).assert_told(0, &[]);
    vm.wait().assert_told(0, &[]);
}

#[test]
fn signal_is_passed_on_and_the_second_ends() {
    let stage = Stage::new();
    for (signal, status) in [(Signal::SIGTERM, 143), (Signal::SIGINT, 130)] {
        let vm = stage.start("started button off", &[]);
        stage.reach("running");
        vm.signal(signal);
        vm.wait().assert_told(0, &[]);

        let vm = stage.start("started button hang", &[]);
        stage.reach("running");
        vm.signal(signal);
        stage.reach("stopping");
        vm.signal(signal);
        vm.wait().assert_told(status, &[]);
        stage.assert_clean();
    }
}

#[test]
fn vm_in_the_foreground_ends_with_its_command() {
    let stage = Stage::new();
    let vm = stage.start("started hang", &[]);
    let info = stage.reach("running");
    vm.signal(Signal::SIGKILL);
    vm.wait();
    for process in info["processes"].as_array().unwrap() {
        eventually(|| (!is_alive(process["pid"].as_i64().unwrap())).then_some(()));
    }
    stage.assert_clean();
}

#[test]
fn vm_detached_goes_on_and_its_name_is_printed() {
    let stage = Stage::new();
    let ended = stage.start("started say=hello hang", &["--detach"]).wait();
    ended.assert_told(0, &[]);
    assert_eq!(ended.stdout, "vm\n");
    let info = stage.reach("running");
    stage.do_it(&["stop", "vm", "--force"]).assert_told(0, &[]);
    stage.assert_clean();
    eventually(|| (!is_alive(info["processes"][0]["pid"].as_i64().unwrap())).then_some(()));
}

#[test]
fn vm_detached_that_does_not_start_is_told_with_its_status() {
    let stage = Stage::new();
    for (script, status, part) in [
        ("fail=kernel", 1, "jailer: kernel \"kernel\": is not"),
        ("panic", 3, "jailer: the guest's kernel panicked"),
    ] {
        let ended = stage.start(script, &["--detach"]).wait();
        ended.assert_told(status, &[part]);
        assert_eq!(ended.stdout, "");
        stage.assert_clean();
    }
}

#[test]
fn command_detaching_that_is_interrupted_leaves_no_vm() {
    let stage = Stage::new();
    let command = stage.start("hang", &["--detach"]);
    stage.reach("starting");
    command.signal(Signal::SIGINT);
    command.wait().assert_told(130, &[]);
    stage.assert_clean();
}

/// Flags of `bulkhead run` | exit status | what the one line must hold.
const BAD_INPUT: &str = r#"
--kernel nowhere                    | 1 | kernel "nowhere" ; No such file
--kernel empty                      | 1 | kernel "empty" ; is empty
--kernel .                          | 1 | kernel "." ; is a directory, not a regular file
--kernel fifo                       | 1 | kernel "fifo" ; is a named pipe, not a regular file
--kernel socket                     | 1 | kernel "socket" ; is a socket, not a regular file
--kernel=kernel --initrd=fifo       | 1 | initrd "fifo" ; is a named pipe, not a regular file
--kernel=kernel --disk=path=a,b     | 2 | --disk ; "b" is not an option of a disk ; written twice
--kernel=kernel --console file=fifo | 1 | console "file=fifo" ; without a reader: start its reader first
--kernel=kernel --console file=socket | 1 | console "file=socket" ; is a socket: console=socket
--config fifo                       | 1 | config "fifo" ; is a named pipe, not a regular file
--config socket                     | 1 | config "socket" ; is a socket, not a regular file
--config .                          | 1 | config "." ; is a directory, not a regular file
--kernel=                           | 2 | --kernel
--kernel=kernel --initrd=nowhere    | 1 | initrd "nowhere" ; No such file
--kernel=kernel --initrd=large      | 1 | initrd "large" ; 536870912 ; 512M
--kernel=kernel --mem 0             | 2 | mem "0" ; must be
--kernel=kernel --mem 4097K         | 2 | mem "4097K" ; multiple
--kernel=kernel --mem lots          | 2 | --mem ; 'lots'
--kernel=kernel --mem 15T           | 1 | mem "15T" ; more than this host
--kernel=kernel --cpus 0            | 2 | cpus "0" ; 1 to 254
--kernel=kernel --cpus 255          | 2 | cpus "255" ; 1 to 254
--kernel=kernel --cpus -1           | 2 | --cpus ; '-1'
--kernel=kernel --cmdline LONG      | 2 | cmdline "xxx ; 2048 bytes ; 2047
--kernel=kernel --name a/b          | 2 | --name ; 'a/b'
--kernel=kernel --console tty       | 2 | --console ; 'tty'
--kernel=kernel --console file=/x/y | 1 | console "file=/x/y" ; No such file
--kernel=kernel --hugepages 3M      | 2 | --hugepages ; '3M'
--kernel=kernel --on-reboot never   | 2 | --on-reboot ; 'never'
--kernel=kernel --frobnicate        | 2 | --frobnicate
--config nowhere                    | 1 | config "nowhere" ; No such file
--config bad.json                   | 1 | config "bad.json" ; `cpu_count`
--config typed.json                 | 1 | config "typed.json" ; cpus: ; "x"
--config=bad.json --cpus=2          | 2 | --config ; --cpus
                                    | 2 | --kernel
"#;

#[test]
fn bad_input_is_one_line_that_names_argument_and_value_and_leaves_nothing() {
    let stage = Stage::new();
    fs::write(stage.at("empty"), "").unwrap();
    mkfifo(&stage.at("fifo"), Mode::S_IRWXU).unwrap();
    let _listener = UnixListener::bind(stage.at("socket")).unwrap();
    fs::write(stage.at("bad.json"), r#"{"kernel":"kernel","cpu_count":2}"#).unwrap();
    fs::write(stage.at("typed.json"), r#"{"kernel":"kernel","cpus":"x"}"#).unwrap();
    let large = fs::File::create(stage.at("large")).unwrap();
    large.set_len(512 << 20).unwrap();
    let long = "x".repeat(2048);
    for row in BAD_INPUT.trim_matches('\n').lines() {
        let [flags, status, parts] = row.splitn(3, '|').collect::<Vec<_>>()[..] else {
            panic!("{row}");
        };
        let mut args = vec!["run"];
        args.extend(flags.split_whitespace().map(|flag| match flag {
            "LONG" => long.as_str(),
            flag => flag,
        }));
        let parts: Vec<_> = parts.split(" ; ").map(str::trim).collect();
        let ended = stage.do_it(&args);
        ended.assert_told(status.trim().parse().unwrap(), &parts);
        assert_eq!(ended.stdout, "");
        stage.assert_clean();
    }
}

#[test]
fn argument_that_is_no_text_is_named() {
    let stage = Stage::new();
    for (flag, value, named) in [
        (
            "--kernel",
            &b"k\xff"[..],
            "kernel \"k\u{fffd}\": is not UTF-8",
        ),
        (
            "--disk",
            b"path=k\xff",
            "argument \"path=k\u{fffd}\": is not UTF-8",
        ),
        (
            "--console",
            b"file=k\xff",
            "argument \"file=k\u{fffd}\": is not UTF-8",
        ),
    ] {
        let mut command = stage.bulkhead(&["run", "--name=vm"]);
        command.arg(flag).arg(std::ffi::OsStr::from_bytes(value));
        if flag != "--kernel" {
            command.arg("--kernel=kernel");
        }
        let ended = stage::Running(command.spawn().unwrap()).wait();
        ended.assert_told(2, &[named]);
        stage.assert_clean();
    }
}

#[test]
fn jailer_that_is_missing_is_named() {
    let stage = Stage::new();
    let lonely = stage.at("bulkhead");
    fs::copy(env!("CARGO_BIN_EXE_bulkhead"), &lonely).unwrap();
    let output = std::process::Command::new(lonely)
        .args(["run", "--kernel", "kernel"])
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(1));
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert!(stderr.contains("beside bulkhead"), "{stderr}");
}
