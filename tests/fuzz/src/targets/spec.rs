// SPDX-License-Identifier: Apache-2.0
//! The VM spec: any bytes are refused in one line, or are a document that reads back as it is
//! written, and validation has one answer for both.

use spec::{Vm, VmSpec};

pub(crate) fn run(data: &[u8]) {
    let spec = match VmSpec::from_json(data) {
        Ok(spec) => spec,
        Err(error) => return one_line(&error.to_string()),
    };
    let text = serde_json::to_vec(&spec).unwrap();
    let again = VmSpec::from_json(&text).unwrap();
    assert_eq!(again, spec);
    match (Vm::try_from(spec), Vm::try_from(again)) {
        (Ok(vm), Ok(again)) => assert_eq!(format!("{vm:?}"), format!("{again:?}")),
        (Err(error), Err(again)) => {
            assert_eq!(format!("{error:?}"), format!("{again:?}"));
            one_line(&error.to_string());
        }
        _ => unreachable!("validation is of two minds"),
    }
}

fn one_line(error: &str) {
    assert!(
        !error.is_empty() && !error.contains(char::is_control),
        "{error:?}"
    );
}
