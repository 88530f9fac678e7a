// SPDX-License-Identifier: Apache-2.0
//! Devices that only machines of RISC-V have. They compile, and are tested, anywhere.

pub mod goldfish_rtc;
pub mod plic;
