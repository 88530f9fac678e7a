// SPDX-License-Identifier: Apache-2.0
//! Which backend is a valid successor of another, and at which index it continues.

use std::collections::BTreeMap;

use crate::virtio::device::{ActiveQueue, DeviceType, QueueIndex};
use crate::virtio::features;
use crate::virtio::vhost_user::events::{GuestFault, PeerFault};
use crate::virtio::vhost_user::memory::SharedMemory;
use crate::virtio::vhost_user::nic;
use crate::virtio::vhost_user::spec::{ConfigSource, DeviceSpec};

/// A driver could change the disk's cache mode in its configuration space, but the vmm does not
/// pass the write on, so it does not offer this bit (virtio 1.2 §5.2.3, VIRTIO_BLK_F_CONFIG_WCE).
const BLOCK_CONFIG_WCE: u64 = 1 << 11;

/// What a driver is offered, as determined by the first backend.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Advertised {
    pub(super) features: u64,
    pub(super) config: Vec<u8>,
}

impl Advertised {
    /// What a backend with these features supports; `config` is `None` if it has no configuration.
    pub(super) fn new(spec: &DeviceSpec, backend_features: u64, config: Option<&[u8]>) -> Self {
        let (features, config) = match spec.config {
            ConfigSource::Nic { mac } => {
                nic::shown(backend_features, config, mac, spec.queue_max_sizes.len())
            }
            _ => (backend_features, config.unwrap_or_default().to_vec()),
        };
        let unusable = match spec.device_type {
            DeviceType::BLOCK => BLOCK_CONFIG_WCE,
            _ => 0,
        };
        Self {
            features: features::offerable(features) & !unusable,
            config,
        }
    }

    /// Whether a backend that supports `other` can take over. `acked` is the features that the
    /// driver has accepted, if it has done so; otherwise all offered features are required.
    pub(super) fn continues_with(&self, other: &Self, acked: Option<u64>) -> Result<(), PeerFault> {
        let missing = acked.unwrap_or(self.features) & !other.features;
        if missing != 0 {
            return Err(PeerFault::Features { missing });
        }
        if self.config != other.config {
            return Err(PeerFault::Config);
        }
        Ok(())
    }
}

/// The index at which a new backend continues each queue: the one at which the old backend stopped
/// it, or else the used index. Never the available index: that would lose the requests that the
/// dead backend had fetched.
pub(super) fn bases(
    memory: &SharedMemory,
    queues: &[ActiveQueue],
    stopped: &BTreeMap<QueueIndex, u16>,
) -> Result<Vec<(ActiveQueue, u16)>, GuestFault> {
    let base = |queue: &ActiveQueue| {
        let outside = GuestFault::QueueOutsideMemory(queue.index);
        if !memory.holds(&queue.layout) {
            return Err(outside);
        }
        let used = memory.used_index(&queue.layout).ok_or(outside)?;
        let base = stopped.get(&queue.index).copied().unwrap_or(used);
        Ok((queue.clone(), base))
    };
    queues.iter().map(base).collect()
}

/// Whether every buffer that a backend fetched has been used, if it stopped at `base`. (A driver
/// can overwrite its own used index and thereby only deceives itself.)
pub(super) fn is_settled(memory: &SharedMemory, queue: &ActiveQueue, base: u16) -> bool {
    memory.used_index(&queue.layout) == Some(base)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::virtio::features::{RING_EVENT_IDX, VERSION_1};
    use crate::virtio::vhost_user::spec::Origin;
    use crate::virtio::vhost_user::testing::spec;

    fn advertised(features: u64, config: &[u8]) -> Advertised {
        Advertised::new(&spec(Origin::Own), features, Some(config))
    }

    #[test]
    fn offer_leaves_out_what_cannot_be_done() {
        let all = advertised(u64::MAX, &[]).features;
        assert_eq!(all & (BLOCK_CONFIG_WCE | 1 << 30 | 1 << 34), 0);
        assert_ne!(all & VERSION_1, 0);
    }

    #[test]
    fn successor_with_all_that_was_acked_is_accepted() {
        let old = advertised(VERSION_1 | RING_EVENT_IDX | 0b11, &[1, 2]);
        let new = advertised(VERSION_1 | 0b111, &[1, 2]);
        assert_eq!(old.continues_with(&new, Some(VERSION_1 | 0b1)), Ok(()));
        let missing = RING_EVENT_IDX;
        let lacks = Err(PeerFault::Features { missing });
        assert_eq!(old.continues_with(&new, Some(old.features)), lacks);
        assert_eq!(old.continues_with(&new, None), lacks);
    }

    #[test]
    fn successor_with_another_configuration_is_refused() {
        let old = advertised(VERSION_1, &[1, 2]);
        for config in [&[1, 3][..], &[1], &[1, 2, 0]] {
            let new = advertised(VERSION_1, config);
            assert_eq!(old.continues_with(&new, None), Err(PeerFault::Config));
        }
    }
}
