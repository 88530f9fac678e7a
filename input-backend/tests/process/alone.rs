// SPDX-License-Identifier: Apache-2.0
//! The program as a user starts it.

use std::process::Command;

use crate::harness::BINARY;

#[test]
fn program_that_a_user_starts_says_who_starts_it() {
    let told = |args: &[&str]| Command::new(BINARY).args(args).output().unwrap();
    for args in [&[][..], &["--socket-path", "/tmp/x"]] {
        let told = told(args);
        assert_eq!(told.status.code(), Some(2));
        let text = String::from_utf8_lossy(&told.stderr).into_owned();
        assert!(text.contains("only bulkhead starts it"), "{text}");
    }
    let help = told(&["--help"]);
    assert!(help.status.success());
    assert!(String::from_utf8_lossy(&help.stdout).contains("--power-button"));
    assert!(told(&["--version"]).status.success());
}
