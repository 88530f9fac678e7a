// SPDX-License-Identifier: Apache-2.0
//! The descriptors that come with `vm.add-net`: queues of one tap, one for each pair of queues.

use std::os::fd::{AsFd, OwnedFd};

use serde_json::Value;

use crate::fault::Fault;

/// Refuses at once what the VM could not use. The rest is the jailer's to see when it boots.
pub(super) fn check(net: &Value, descriptors: &[OwnedFd]) -> Result<(), Fault> {
    let count = descriptors.len();
    let pairs = u64::try_from(count).unwrap_or(u64::MAX);
    let queues = net["num_queues"].as_u64().unwrap_or(2);
    if count > 0 && queues != pairs.saturating_mul(2) {
        return Err(Fault::bad(format!(
            "net.num_queues {queues}: there are {count} descriptors, one for each two queues"
        )));
    }
    for (at, descriptor) in descriptors.iter().enumerate() {
        if let Err(error) = host::tap::check(descriptor.as_fd()) {
            return Err(Fault::bad(format!("net.fds[{at}]: {error}")));
        }
    }
    Ok(())
}
