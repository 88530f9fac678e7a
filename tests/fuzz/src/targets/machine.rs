// SPDX-License-Identifier: Apache-2.0
//! The state that one vmm leaves for the next: any bytes are refused, or are parts that are refused, or
//! have the shape of what they are called.

use devices::virtio::transport::pci::function::FunctionState;
use devices::virtio::vhost_user::device::DeviceState;
use ipc::record::MACHINE;
use vmm::state::{Parts, Writer};

/// The place of the length of all parts, at the end of the header.
const LEN: std::ops::Range<usize> = 32..40;

pub(crate) fn run(data: &[u8]) {
    if Parts::parse(data, MACHINE).is_ok() {
        assert!(data.len() >= LEN.end);
    }
    // The same as parts behind a header that is right.
    let mut state = Writer::new(MACHINE).finish();
    assert_eq!(state.len(), LEN.end);
    state[LEN].copy_from_slice(&(data.len() as u64).to_le_bytes());
    state.extend(data);
    let Ok(parts) = Parts::parse(&state, MACHINE) else {
        return;
    };
    for index in 0..32 {
        if let Ok(part) = parts.part("msrs", index) {
            assert!(part.len() <= data.len());
        }
        drop(parts.json::<FunctionState>("function", index));
        drop(parts.json::<DeviceState>("device", index));
    }
}
