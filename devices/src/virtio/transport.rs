// SPDX-License-Identifier: Apache-2.0
//! How a driver reaches a virtio device (virtio 1.2 §4).

pub mod pci;
