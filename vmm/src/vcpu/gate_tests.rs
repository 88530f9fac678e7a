// SPDX-License-Identifier: Apache-2.0

use super::gate::Gate;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

#[test]
fn threads_pass_only_while_the_gate_is_open() {
    let (gate, passed) = (Arc::new(Gate::default()), Arc::new(AtomicUsize::new(0)));
    let threads: Vec<_> = (0..4)
        .map(|_| {
            let (gate, passed) = (Arc::clone(&gate), Arc::clone(&passed));
            std::thread::spawn(move || {
                gate.pass();
                passed.fetch_add(1, Ordering::SeqCst);
            })
        })
        .collect();
    gate.wait_until_stopped(4);
    assert_eq!(passed.load(Ordering::SeqCst), 0);
    gate.open();
    for thread in threads {
        thread.join().unwrap();
    }
    assert_eq!(passed.load(Ordering::SeqCst), 4);
}
